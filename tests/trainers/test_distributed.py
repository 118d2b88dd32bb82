import json
import os
import subprocess
import sys

import numpy as np
import pytest

from metafast.trainers import UsageError, _run, attention
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
