"""Populations: members trained side by side are the runs that they would be alone."""

import json
import os
import re
import signal
import threading

import pytest
import safetensors.numpy

from metafast import cli
from metafast.trainers import UsageError
from metafast.trainers import policy_gradient as pg

SMALL = {"num_envs": 4, "num_steps": 16, "minibatches": 2, "total_steps": 256, "target_return": None}


def weights(run_dir):
    return safetensors.numpy.load_file(f"{run_dir}/policy.safetensors")


@pytest.mark.parametrize("threads", [1, 2])
def test_members_are_the_runs_that_they_would_be_alone(tmp_path, threads):
    sweep = {"population": 4, "vary": ("learning_rate=0.001,0.01", "hidden-sizes=8x8"), "threads": threads}
    result = pg.train(pg.configure(seed=5, run_dir=str(tmp_path / "all"), **SMALL, **sweep))
    assert [member["seed"] for member in result["members"]] == [5, 5, 6, 6]
    assert [member["learning_rate"] for member in result["members"]] == [0.001, 0.01] * 2
    assert [member["hidden_sizes"] for member in result["members"]] == [(8, 8)] * 4
    assert result["solved"] == 0
    for member in result["members"]:
        own = {name: member[name] for name in ("seed", "learning_rate", "hidden_sizes")}
        run_dir = str(tmp_path / f"alone-{member['seed']}-{member['learning_rate']}")
        alone = pg.train(pg.configure(run_dir=run_dir, **SMALL, **own))
        assert alone["mean_return"] == member["mean_return"]
        ours, theirs = weights(member["run_dir"]), weights(run_dir)
        assert all((ours[name] == theirs[name]).all() for name in theirs)
        assert pg.evaluate(member["run_dir"], 4, None, greedy=False, seed=0)["episodes"] == 4


def test_all_combinations_of_what_varies_where_nothing_says_how_many(tmp_path):
    result = pg.train(
        pg.configure(**SMALL, vary=("gamma=0.9,0.99", "lam=0.8,0.95"), run_dir=str(tmp_path / "all"), seed=3)
    )
    settings = [(member["gamma"], member["lam"], member["seed"]) for member in result["members"]]
    assert settings == [(0.9, 0.8, 3), (0.9, 0.95, 3), (0.99, 0.8, 3), (0.99, 0.95, 3)]


def test_the_command_tells_of_each_member_and_of_all(tmp_path, capsys):
    options = ["--num-envs", "4", "--num-steps", "16", "--total-steps", "128", "--population", "2"]
    options += ["--target-return", "None", "--vary", "gamma=0.9,0.99"]
    assert cli.main(["train", *options, "--run-dir", str(tmp_path / "words")]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert re.match(r"seed 0, gamma 0.9, return [0-9.]+, 128 steps, [0-9.]+ s$", lines[0])
    assert lines[1].startswith("seed 0, gamma 0.99, ")
    assert re.match(r"2 members in [0-9.]+ s, 0 solved: return .* engine native$", lines[2])
    assert lines[3] == f"in {tmp_path / 'words'}"
    assert captured.err == ""
    assert cli.main(["train", *options, "--run-dir", str(tmp_path / "json"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [member["gamma"] for member in result["members"]] == [0.9, 0.99]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vary": ("seed=1,2",)}, "vary takes NAME=VALUE,VALUE,... with one of"),
        ({"vary": ("learning_rate",)}, "not 'learning_rate'"),
        ({"vary": ("learning_rate=fast",)}, "learning_rate must be a number, not 'fast'"),
        ({"vary": ("normalize_rewards=1",)}, "normalize_rewards must be True or False"),
        ({"vary": ("optimizer=foo",)}, "optimizer must be one of adam, sgd, not 'foo'"),
        ({"vary": ("num_envs=None",)}, "num_envs must be a number, not 'None'"),
        ({"vary": ("gamma=0.9,0.8,0.7",)}, "the population must be a multiple of the 3 settings, not 2"),
        ({"vary": ("gamma=2",)}, "gamma must lie between 0 and 1"),
        ({"vary": ("hidden_sizes=a",)}, "hidden_sizes must be"),
        ({"population": 0}, "population must be at least 1"),
        ({"resume": "somewhere"}, "a population cannot be resumed"),
    ],
)
def test_what_cannot_be_varied(tmp_path, options, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        pg.train(pg.configure(**{"population": 2, "run_dir": str(tmp_path / "run"), **SMALL, **options}))


def test_an_interruption_reaches_the_members(tmp_path):
    """Each saves; those that were not begun are left out."""
    timer = threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    options = {**SMALL, "total_steps": 100_000_000, "population": 2}
    result = pg.train(pg.configure(run_dir=str(tmp_path / "run"), **options))
    assert result["interrupted"]
    first, second = result["members"]
    assert first["env_steps"] < 100_000_000
    assert weights(first["run_dir"])
    assert second == {"seed": 1}
    with pytest.raises(UsageError, match="name one of its members"):
        pg.evaluate(str(tmp_path / "run"), 1, None, greedy=False, seed=0)
