import json
import os
import subprocess
import sys

import numpy as np
import pytest

from metafast.trainers import UsageError, _run, attention, multitask
from metafast.trainers import policy_gradient as pg


def train_with_two(*options):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, "-m", "metafast", "train", *options, "--json"],
        capture_output=True, text=True, timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("algorithm", ["ppo", "vtrace", "reinforce-baseline"])
def test_two_processes_keep_the_same_parameters(tmp_path, algorithm):
    options = ["--algorithm", algorithm, "--num-envs", "4", "--num-steps", "16", "--half-life", "500"]
    completed = train_with_two(*options, "--total-steps", "1024", "--run-dir", str(tmp_path / "run"))
    assert completed.returncode == 0, completed.stderr
    (line,) = completed.stdout.strip().splitlines()
    assert json.loads(line)["env_steps"] >= 1024
    (first, numbers), (second, others) = (_run.RunDirectory(tmp_path / "run", rank).read_state() for rank in (0, 1))
    for name in ("learner.parameters", "learner.adam.first", "learner.adam.second", "learner.adam.count"):
        np.testing.assert_array_equal(first[name], second[name])
    assert (numbers["env_steps"], numbers["iteration"]) == (others["env_steps"], others["iteration"])
    # Experience differs: the seeds are offset by the rank.
    assert not np.array_equal(first["observations"], second["observations"])
    assert (first["learner.adam.count"] > 0).all()
    with pytest.raises(UsageError, match="saved by 2 processes"):
        pg.train(pg.parse(["--resume", str(tmp_path / "run"), "--total-steps", "4096"]))


def test_attention_in_two_processes_keeps_the_same_parameters(tmp_path):
    options = ["--samples", "256", "--held-out-samples", "32", "--batch-size", "16", "--epochs", "2"]
    completed = train_with_two("attention", *options, "--run-dir", str(tmp_path / "run"))
    assert completed.returncode == 0, completed.stderr
    (line,) = completed.stdout.strip().splitlines()
    assert json.loads(line)["samples"] == 512
    (first, numbers), (second, others) = (_run.RunDirectory(tmp_path / "run", rank).read_state() for rank in (0, 1))
    for name in ("parameters", "adam.first", "adam.second", "adam.count"):
        np.testing.assert_array_equal(first[name], second[name])
    assert numbers["updates"] == others["updates"] == first["adam.count"] == 16
    # The ranks saw different pictures, and with them other means.
    assert not np.array_equal(first["buffer.edges.1.running_mean"], second["buffer.edges.1.running_mean"])
    with pytest.raises(UsageError, match="saved by 2 processes"):
        attention.train(attention.parse(["--resume", str(tmp_path / "run"), "--epochs", "3"]))


def test_multitask_in_two_processes_is_one_process_with_batches_of_both(tmp_path):
    # Most labels of one task and some of another one are missing, so that the processes have unequal shares of them.
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 3))
    lines = ["one,two,three,difference,sign"]
    for number, row in enumerate(x):
        difference = f"{row[0] - row[1]:.4f}" if rng.random() < 0.3 else ""
        sign = "" if number % 3 else str(int(row[2] > 0))
        lines.append(",".join([*map("{:.4f}".format, row), difference, sign]))
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    options = ["--data", str(tmp_path / "table.csv"), "--tasks", "difference:real", "sign:binary", "--epochs", "2"]
    options += ["--hidden-size", "16", "--shared-update", "kl", "--attention", "--tower-size", "8"]
    completed = train_with_two("multitask", *options, "--batch-size", "8", "--run-dir", str(tmp_path / "run"))
    assert completed.returncode == 0, completed.stderr
    (line,) = completed.stdout.strip().splitlines()
    assert json.loads(line)["samples"] == 2 * 4 * 16
    (first, numbers), (second, others) = (_run.RunDirectory(tmp_path / "run", rank).read_state() for rank in (0, 1))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert numbers["updates"] == others["updates"] == first["0.adam.count"] == 8
    with pytest.raises(UsageError, match="saved by 2 processes"):
        multitask.train(multitask.parse(["--resume", str(tmp_path / "run"), "--epochs", "3"]))
    multitask.train(multitask.parse([*options, "--batch-size", "16", "--run-dir", str(tmp_path / "one")]))
    alone = _run.RunDirectory(tmp_path / "one").read_state()[0]
    for network in range(3):
        name = f"{network}.parameters"
        np.testing.assert_allclose(first[name], alone[name], atol=1e-5, rtol=0, err_msg=name)
