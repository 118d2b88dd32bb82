"""Multi-task runs repeat and resume exactly, say what they cannot do, and leave behind what is promised."""

import contextlib
import dataclasses
import json
import math

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainers.multitask_cases import run, state

from metafast import cli
from metafast.trainers import UsageError, _run
from metafast.trainers import multitask as mt
from metafast.trainers._weighting import AGGREGATORS


def assert_same_state(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("options", [{}, {"schedule": "sequential", "shared_update": "kl"}])
def test_a_seed_repeats_a_run_bit_for_bit(tmp_path, no_pictures, options):
    for name, seed in (("first", 5), ("second", 5), ("other", 6)):
        run(tmp_path / name, seed=seed, epochs=2, **options)
    assert_same_state(state(tmp_path / "first"), state(tmp_path / "second"))
    first, other = state(tmp_path / "first"), state(tmp_path / "other")
    assert not np.array_equal(first["0.parameters"], other["0.parameters"])


SEQUENCE = {"schedule": "sequential", "shared_update": "kl"}


@pytest.mark.parametrize(
    ("updates", "options"),
    [
        (7, {}),
        (40, {"weighting": "dwa", "regression": "squared"}),
        (20, {"weighting": "gradnorm", "regression": "squared"}),
        (7, {"weighting": "pcgrad", "epochs": 1}),
        # Its solver warns of much.
        (5, {"weighting": "nash-mtl", "epochs": 1}),
        (5, {"shared_update": "kl", "labels_kept": {"A": 0.3}}),
        (17, SEQUENCE),
        (18, SEQUENCE),
        (19, SEQUENCE),
        (37, SEQUENCE),
    ],
)
def test_an_interrupted_run_resumes_exactly(tmp_path, monkeypatch, no_pictures, updates, options):
    if options.get("weighting") in AGGREGATORS:
        pytest.importorskip("torchjd")

    class AfterUpdates:
        left = updates

        @property
        def requested(self):
            self.left -= 1
            return self.left == 0

    with monkeypatch.context() as patched:
        patched.setattr(_run, "interruptible", lambda: contextlib.nullcontext(AfterUpdates()))
        stopped = run(tmp_path / "parts", seed=2, **options)
    assert stopped["interrupted"]
    assert stopped["samples"] == 64 * updates
    with monkeypatch.context() as patched:
        # It is in the checkpoint, and need not be fitted again.
        patched.setattr(mt, "fit_prior", pytest.fail)
        resumed = mt.train(mt.parse(["--resume", str(tmp_path / "parts")]))
    straight = run(tmp_path / "straight", seed=2, **options)
    assert_same_state(state(tmp_path / "parts"), state(tmp_path / "straight"))
    if options.get("weighting") in ("dwa", "gradnorm"):
        weights = state(tmp_path / "parts")["0.weighting.weights"]
        assert (np.abs(weights - 1) > 1e-3).any()
        assert weights.sum() == pytest.approx(3, abs=1e-4)
    own = {"run_dir", "seconds", "multitask_seconds", "singletask_seconds"}
    assert {name: resumed[name] for name in resumed.keys() - own} == {
        name: straight[name] for name in straight.keys() - own
    }
    assert not resumed["interrupted"]


def test_resuming_what_has_ended_or_with_what_cannot_change(tmp_path, capsys, no_pictures):
    resume = ["--resume", str(tmp_path / "run")]
    run(tmp_path / "run")
    for option, *values in (
        ("data", "digits"), ("tasks", "A", "C"), ("labels-kept", "A", "0.5"), ("schedule", "round-robin"),
        ("weighting", "scaled"), ("regression", "squared"), ("shared-update", "kl"), ("prior-share", "0.2"),
        ("attention",), ("hidden-size", "17"), ("depth", "3"), ("tower-size", "9"), ("no-single-task",),
        ("batch-size", "32"), ("seed", "9"), ("run-dir", "other"),
    ):  # fmt: skip
        name = option.removeprefix("no-").replace("-", "_")
        with pytest.raises(UsageError, match=f"^{name} cannot be changed"):
            mt.train(mt.parse([*resume, f"--{option}", *values]))
    before = state(tmp_path / "run")
    mt.train(mt.parse(resume))
    assert "has ended" in capsys.readouterr().err
    assert_same_state(before, state(tmp_path / "run"))
    assert mt.train(mt.parse([*resume, "--epochs", "4"]))["samples"] == 4 * 18 * 64
    run(tmp_path / "turns", schedule="sequential", single_task=False, epochs=1)
    with pytest.raises(UsageError, match="epochs cannot be changed"):
        mt.train(mt.parse(["--resume", str(tmp_path / "turns"), "--epochs", "4"]))


def test_a_run_directory_holds_what_is_promised(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--data", "toy", "--hidden-size", "16", "--epochs", "2", "--batch-size", "64", "--seed", "4"]
    assert cli.main(["train", "multitask", *options, "--labels-kept", "A", "0.5", "--json"]) == 0
    (line,) = capsys.readouterr().out.strip().splitlines()
    result = json.loads(line)
    assert list(result)[-3:] == ["tasks", "relative_change", "seconds"]
    assert result["run_dir"].startswith("runs/multitask-toy-4-")
    directory = tmp_path / result["run_dir"]
    names = {path.name for path in directory.iterdir()}
    drawn = {"learning_curve.png", "task_relations.png"}
    assert {"config.json", "units.json", "policy.safetensors", "training_state.safetensors", *drawn} <= names
    assert drawn == {str(directory.joinpath(result[name[:-4]]).name) for name in drawn}
    assert len(names) == 7
    contents = json.loads((directory / "config.json").read_text())
    assert (contents["trainer"], contents["data"], contents["labels_kept"]) == ("multitask", "toy", {"A": 0.5})
    assert mt.load_config(str(directory)) == mt.configure(
        "toy", hidden_size=16, epochs=2, batch_size=64, seed=4, labels_kept={"A": 0.5}
    )
    events = EventAccumulator(str(directory)).Reload()
    assert set(events.Tags()["scalars"]) == {f"{kind}/{task}" for kind in ("validation", "losses") for task in "ABC"}
    curve = state(directory)["curve"]
    assert curve.shape == (2, 1 + 3 + 3)
    for column, task in enumerate("ABC"):
        scalars = events.Scalars(f"validation/{task}")
        assert [scalar.step for scalar in scalars] == curve[:, 0].tolist() == [18, 36]
        np.testing.assert_allclose([scalar.value for scalar in scalars], curve[:, 1 + column], rtol=1e-6)
    sizes = {"train": 1200, "validation": 300, "test": 500}
    for split, rows in sizes.items():
        assert cli.main(["evaluate", result["run_dir"], "--split", split, "--json"]) == 0
        evaluation = json.loads(capsys.readouterr().out)
        assert (evaluation["split"], evaluation["rows"]) == (split, rows)
        if split == "validation":
            assert [next(iter(scores.values())) for scores in evaluation["tasks"].values()] == curve[-1, 1:4].tolist()
        if split == "test":
            assert evaluation["tasks"] == result["tasks"]
    assert cli.main(["evaluate", result["run_dir"]]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "toy, 500 rows of the split test:"
    assert [line.split()[:2] for line in lines] == [
        ["A:", "accuracy"], ["B:", "rmse"], ["C:", "accuracy"],
    ]  # fmt: skip
    with pytest.raises(UsageError, match="split must be one of train, validation, test"):
        mt.evaluate(result["run_dir"], split="all")
    with pytest.raises(UsageError, match="already holds a run"):
        run(directory)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "people"}, "data must be one of digits, toy, wine, diabetes, breast-cancer or a file"),
        ({"data": "nowhere.csv", "tasks": ("a:real",)}, "^there is no file nowhere.csv$"),
        ({"data": "nowhere.csv"}, "needs --tasks COLUMN:KIND"),
        ({"data": "wine", "tasks": ("hue",)}, "a task is COLUMN:KIND"),
        ({"data": "wine", "tasks": ("hue:binary",)}, "'hue' is binary, but"),
        ({"data": "wine", "regression": "beta"}, "is for labels from 0 to 1, but 'alcohol' is real"),
        ({"data": "wine", "regression": "bernoulli"}, "is for labels from 0 to 1"),
        ({"tasks": ("A", "D")}, "there is no task 'D'; there is A, B, C"),
        ({"tasks": ("A", "A")}, "names of their own"),
        ({"labels_kept": {"D": 0.5}}, "there is no task 'D' whose labels"),
        ({"labels_kept": {"A": 0.0}}, "must be above 0 and at most 1"),
        ({"labels_kept": {"A": math.nan}}, "must be above 0 and at most 1"),
        ({"schedule": "backwards"}, "schedule must be one of joint, round-robin, sequential"),
        ({"weighting": "magic"}, "weighting must be one of equal, scaled"),
        ({"regression": "linear"}, "regression must be one of gaussian"),
        ({"shared_update": "kl", "weighting": "dwa", "regression": "squared"}, "weighting 'dwa' compares losses"),
        ({"shared_update": "none"}, "shared_update must be one of gradient, kl"),
        ({"schedule": "round-robin", "weighting": "dwa"}, "needs schedule 'joint'"),
        ({"schedule": "sequential", "weighting": "pcgrad"}, "needs schedule 'joint'"),
        ({"weighting": "uncertainty"}, "needs losses that are never negative"),
        ({"weighting": "gradnorm", "regression": "beta"}, "needs losses that are never negative"),
        ({"weighting": "gradnorm", "regression": "squared", "depth": 0}, "depth 0 has no trunk"),
        ({"weighting": "upgrad", "depth": 0}, "depth 0 has no trunk"),
        ({"weights": {"A": 1.0}}, "weights are for weighting 'fixed'"),
        ({"weighting": "fixed", "weights": {"D": 1.0}}, "there is no task 'D' to weigh"),
        ({"weighting": "fixed", "weights": {"A": -1.0}}, "weights must be at least 0"),
        ({"weighting": "fixed", "weights": {"A": math.nan}}, "weights must be at least 0"),
        ({"prior_share": 1.5}, "prior_share must lie between 0 and 1"),
        ({"decay": -0.1}, "decay must lie between 0 and 1"),
        ({"depth": -1}, "depth and compare must not be negative"),
        ({"compare": -1}, "depth and compare must not be negative"),
        ({"compare": 1, "resume": "run"}, "a comparison is continued by"),
        ({"hidden_size": 0}, "hidden_size must be at least 1"),
        ({"tower_size": 0}, "tower_size must be at least 1"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"batch_size": 1201}, "an update takes 1201 rows and there are 1200"),
        ({"schedule": "sequential", "batch_size": 1_200, "epochs": 2}, "3 turns need as many updates and there are 2"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"checkpoint_seconds": math.inf}, "checkpoint_seconds must be positive"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must not be negative"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"device": "nonsense"}, "device 'nonsense'"),
        ({"device": "meta"}, "device 'meta' cannot be used"),
        # Of all that torch says there is one line.
        ({"device": "vulkan"}, r"^device 'vulkan' cannot be used: [^\n]+$"),
        ({"resume": "nowhere"}, "nowhere is not a run directory"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_no_directory(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        run(tmp_path / "run", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "needs a line of names and a line for each row"),
        ("a,a\n1,2\n", "every column needs a name of its own"),
        ("a,b\n1\n", "line 2 has 1 cells, but there are 2 columns"),
        ("a,b\n1,x\n2,y\n3,z\n", "'b' is binary, but its column holds 3 texts"),
        ("a,b\n,1\n2,0\n", "column 'a' is a feature, but its cell on line 2 is missing"),
        ("a,b\n1,3\n2,0\n", "'b' is binary, but"),
        ("a,b\n1,\n2,\n", "'b' has no labels"),
        ("a,b\n1,1\n2,0\n", "too few to split"),
        ("b\n1\n0\n", "no column is left as a feature"),
        ("a\n1\n0\n", "there is no column 'b'; the columns are 'a'"),
    ],
)
def test_a_bad_file_is_explained(tmp_path, text, message):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        run(tmp_path / "run", data=str(tmp_path / "table.csv"), tasks=("b:binary",), batch_size=1)
    assert not (tmp_path / "run").exists()


def test_the_command_line_gives_the_same_options():
    assert mt.parse([]) == mt.configure()
    for data in ("toy", "wine", "digits"):
        assert mt.parse(["--data", data]) == mt.configure(data)
    chosen = mt.parse([
        "--data", "toy", "--tasks", "C", "A", "--labels-kept", "C", "0.1", "A", "0.5", "--attention",
        "--no-single-task", "--weighting", "fixed", "--weights", "A", "2", "C", "3", "--seed", "3",
    ])  # fmt: skip
    expected = mt.configure(
        "toy", tasks=("C", "A"), labels_kept={"C": 0.1, "A": 0.5}, weights={"A": 2.0, "C": 3.0}, weighting="fixed"
    )
    assert chosen == dataclasses.replace(expected, attention=True, single_task=False, seed=3)
