"""The comparison of multi-task methods: its rows, its table, what it does not repeat and what it refuses."""

import contextlib
import json
from typing import get_args

import numpy as np
import pytest

from metafast import cli
from metafast.trainers import UsageError, _comparison, _run, _weighting
from metafast.trainers import multitask as mt

SMALL = {"data": "toy", "hidden_size": 8, "epochs": 1, "batch_size": 128}
FEW = ("plain sum", "uncertainty", "Gaussian, in sequence, KL")


@pytest.fixture(autouse=True)
def few_methods(monkeypatch):
    monkeypatch.setattr(_comparison, "METHODS", {name: _comparison.METHODS[name] for name in FEW})
    monkeypatch.setattr(mt, "draw", lambda *_: {})


@pytest.fixture
def trained(monkeypatch):
    """The options of every run that was trained."""
    configs, train = [], mt.train

    def watch(config):
        configs.append(config)
        return train(config)

    monkeypatch.setattr(mt, "train", watch)
    return configs


def compare(run_dir, compare=1, **options):
    return mt.train(mt.configure(run_dir=str(run_dir), compare=compare, **SMALL | options))


def score(scores):
    return next(iter(scores.values()))


def test_every_method_has_a_row_beside_the_single_task_networks(tmp_path, trained):
    result = compare(tmp_path / "all", compare=2, seed=3)
    (_, *configs), rows = trained, result["comparison"]
    assert [row["method"] for row in rows] == ["single-task networks", *FEW]
    assert [config.seed for config in configs] == [3, 4] * 3
    assert [config.single_task for config in configs] == [True, True, False, False, False, False]
    chosen = [(config.regression, config.weighting, config.schedule, config.shared_update) for config in configs[::2]]
    assert chosen == [
        ("squared", "equal", "joint", "gradient"), ("squared", "uncertainty", "joint", "gradient"),
        ("gaussian", "equal", "sequential", "kl"),
    ]  # fmt: skip
    assert (result["seeds"], result["left_out"], result["interrupted"]) == ([3, 4], {}, False)
    # By hand, from what each run said.
    results = [
        json.loads((path / "result.json").read_text()) for path in (mt.Path(config.run_dir) for config in configs)
    ]
    errors = np.array(
        [[1 - score(r["tasks"]["A"]), score(r["tasks"]["B"]), 1 - score(r["tasks"]["C"])] for r in results]
    )
    alone = [r["single_tasks"] for r in results[:2]]
    alone = np.array([[1 - score(r["A"]), score(r["B"]), 1 - score(r["C"])] for r in alone])
    for row, both in zip(rows, [alone, *errors.reshape(3, 2, 3)], strict=True):
        changes = both / alone.mean(0) - 1
        assert row["relative_change"] == pytest.approx(changes.mean(), abs=1e-12)
        assert row["deviation"] == pytest.approx(changes.mean(1).std(ddof=1))
        assert row["tasks"]["A"] == pytest.approx(
            {"accuracy": 1 - both[:, 0].mean(), "deviation": both[:, 0].std(ddof=1)}
        )
        assert row["tasks"]["B"] == pytest.approx({"rmse": both[:, 1].mean(), "deviation": both[:, 1].std(ddof=1)})
    assert rows[0]["relative_change"] == pytest.approx(0.0, abs=1e-12)
    assert rows[1]["times_plain_sum"] == 1.0
    assert rows[1]["seconds"] == pytest.approx(np.mean([r["multitask_seconds"] for r in results[:2]]))
    assert rows[0]["seconds"] == pytest.approx(np.mean([r["singletask_seconds"] for r in results[:2]]))
    assert rows[3]["times_plain_sum"] == pytest.approx(rows[3]["seconds"] / rows[1]["seconds"])


def test_the_table_is_printed_and_kept(tmp_path, capsys):
    options = ["--data", "toy", "--hidden-size", "8", "--epochs", "1", "--batch-size", "128", "--compare", "1"]
    assert cli.main(["train", "multitask", *options, "--run-dir", str(tmp_path / "all")]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == [
        "method", "A", "B", "C", "change of errors", "seconds", "x plain sum", "options",
    ]  # fmt: skip
    assert set(lines[1]) == {"|", "-"}
    assert len({len(line) for line in lines[:6]}) == 1
    assert [line.split("|")[1].strip() for line in lines[2:6]] == ["single-task networks", *FEW]
    assert [line.split("|")[-2].strip() for line in lines[2:6]] == [
        "", "--regression squared", "--regression squared --weighting uncertainty",
        "--regression gaussian --schedule sequential --shared-update kl",
    ]  # fmt: skip
    assert lines[-1].startswith("toy, test rows, mean ± deviation over 1 seeds; ")
    assert (tmp_path / "all" / "comparison.md").read_text() == printed.out
    assert [line.partition(":")[0] for line in printed.err.splitlines()] == [f"{number} of 3" for number in (1, 2, 3)]
    names = {"plain-sum-0", "uncertainty-0", "gaussian-in-sequence-kl-0", "comparison.md", "comparison.json"}
    assert {path.name for path in (tmp_path / "all").iterdir()} == names
    # Again, and everything is there already.
    assert cli.main(["train", "multitask", *options, "--run-dir", str(tmp_path / "all"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    table = _comparison.describe(result).splitlines()
    assert table == lines


def test_what_has_ended_is_not_trained_again(tmp_path, trained):
    first = compare(tmp_path / "all")
    assert len(trained) == 1 + 3
    (tmp_path / "all" / "uncertainty-0" / "result.json").unlink()
    again = compare(tmp_path / "all")
    # What has no result is taken up by its checkpoint.
    assert len(trained) == 4 + 1 + 1
    assert trained[-1].resume == str(tmp_path / "all" / "uncertainty-0")
    assert [row["tasks"] for row in again["comparison"]] == [row["tasks"] for row in first["comparison"]]


def test_an_interrupted_comparison_says_how_to_go_on_and_ends_as_if_it_had_not_been(tmp_path, monkeypatch, capsys):
    class AfterUpdates:
        # Of nine in a run: in the second method.
        left = 9 + 4

        @property
        def requested(self):
            self.left -= 1
            return self.left == 0

    interruption, directory = AfterUpdates(), tmp_path / "parts"
    options = ["--data", "toy", "--hidden-size", "8", "--epochs", "1", "--batch-size", "128", "--compare", "1"]
    with monkeypatch.context() as patched:
        patched.setattr(_run, "interruptible", lambda: contextlib.nullcontext(interruption))
        assert cli.main(["train", "multitask", *options, "--run-dir", str(directory)]) == 130
    printed = capsys.readouterr().out
    assert f"interrupted and saved; continue with: the same command and --run-dir {directory}" in printed
    assert not (directory / "uncertainty-0" / "result.json").exists()
    assert "| plain sum " in printed
    assert "uncertainty" not in printed
    whole, parts = compare(tmp_path / "whole"), compare(directory)
    assert not parts["interrupted"]
    assert [row["tasks"] for row in parts["comparison"]] == [row["tasks"] for row in whole["comparison"]]


def test_a_run_that_was_killed_before_it_saved_anything_begins_anew(tmp_path):
    first = compare(tmp_path / "all")
    for path in (tmp_path / "all" / "uncertainty-0").iterdir():
        if path.name != "config.json":
            path.unlink()
    again = compare(tmp_path / "all")
    assert again["left_out"] == {}
    assert [row["tasks"] for row in again["comparison"]] == [row["tasks"] for row in first["comparison"]]


@pytest.mark.parametrize("name", ["comparison.json", "plain-sum-0/result.json"])
def test_a_file_that_was_cut_off_is_named(tmp_path, name):
    compare(tmp_path / "all")
    (tmp_path / "all" / name).write_text("{")
    with pytest.raises(UsageError, match=f"{name} cannot be read"):
        compare(tmp_path / "all")


@pytest.mark.parametrize(
    "options",
    [
        {"weighting": "scaled"}, {"regression": "squared"}, {"shared_update": "kl"}, {"attention": True},
        {"schedule": "sequential"}, {"single_task": False}, {"weighting": "fixed", "weights": {"A": 2.0}},
    ],
)  # fmt: skip
def test_what_the_rows_decide_cannot_be_chosen(tmp_path, options):
    name = next(iter(options))
    with pytest.raises(UsageError, match=f"^{name} differs from row to row"):
        compare(tmp_path / "all", **options)
    assert not (tmp_path / "all").exists()


def test_one_directory_holds_one_comparison(tmp_path, trained):
    compare(tmp_path / "all", labels_kept={"A": 0.5})
    count = len(trained)
    for options in ({"epochs": 2}, {"labels_kept": {"A": 0.6}}, {"compare": 2}, {"seed": 1}):
        with pytest.raises(UsageError, match="holds a comparison with other options"):
            compare(tmp_path / "all", **{"labels_kept": {"A": 0.5}} | options)
    compare(tmp_path / "all", labels_kept={"A": 0.5}, checkpoint_seconds=9.0)
    assert len(trained) == count + 5


def test_what_concerns_every_method_is_an_error_and_not_left_out(tmp_path, monkeypatch):
    for options, message in (({"data": "people"}, "data must be"), ({"batch_size": 5_000}, "an update takes 5000")):
        with pytest.raises(UsageError, match=message):
            compare(tmp_path / "all", **options)
        # Nothing is left behind that would stand in the way of the options put right.
        assert not (tmp_path / "all").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be made"):
        compare(tmp_path / "file" / "all")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="a comparison runs in one process"):
        compare(tmp_path / "all")


def test_a_method_that_cannot_run_is_left_out_with_the_reason(tmp_path, monkeypatch):
    methods = {"Beta": {"regression": "beta"}, "Nash-MTL": _comparison.SQUARED | {"weighting": "nash-mtl"}}
    monkeypatch.setattr(_comparison, "METHODS", {"plain sum": _comparison.SQUARED} | methods)

    def needs_a_solver(_):
        raise UsageError("weighting 'nash-mtl' cannot be used: no solver")

    monkeypatch.setattr(_weighting, "Aggregation", lambda weights, name: needs_a_solver(name))
    result = compare(tmp_path / "all", data="wine", batch_size=32)
    assert [row["method"] for row in result["comparison"]] == ["single-task networks", "plain sum"]
    assert list(result["left_out"]) == ["Beta", "Nash-MTL"]
    table = mt.describe(result)
    assert "Beta was left out: regression 'beta' is for labels from 0 to 1, but 'alcohol' is real" in table
    assert "Nash-MTL was left out: weighting 'nash-mtl' cannot be used: no solver" in table
    assert (tmp_path / "all" / "comparison.md").read_text() == table + "\n"


def test_a_single_task_compares_with_itself(tmp_path):
    result = compare(tmp_path / "all", tasks=("C",))
    assert [row["method"] for row in result["comparison"]] == list(FEW)
    assert result["comparison"][0]["relative_change"] == 0.0


@pytest.mark.parametrize("perfect", [("A",), ("A", "B")])
def test_what_is_learnt_without_error_alone_has_no_relative_change(perfect):
    alone = {"A": {"accuracy": 1.0}, "B": {"rmse": 0.0 if "B" in perfect else 2.0}}
    run = {"tasks": {"A": {"accuracy": 0.9}, "B": {"rmse": 3.0}}, "single_tasks": alone}
    rows = _comparison.summarise({"plain sum": [run | {"multitask_seconds": 1.0, "singletask_seconds": 2.0}]})
    changes = [row["relative_change"] for row in rows]
    assert changes == pytest.approx([np.nan, np.nan] if "B" in perfect else [0.0, 0.5], nan_ok=True)
    table = _comparison.describe({"comparison": rows, "data": "toy", "seeds": [0], "left_out": {}})
    assert ("+nan%" if "B" in perfect else "+50.0%") in table


def test_all_methods_are_made_of_known_options(monkeypatch):
    monkeypatch.undo()
    assert len(_comparison.METHODS) > 20
    for options in _comparison.METHODS.values():
        assert options.keys() <= set(_comparison.DECIDED)
        mt.configure("toy", **options)
    weightings = {options.get("weighting", "equal") for options in _comparison.METHODS.values()}
    assert weightings == set(mt.WEIGHTINGS) - {"fixed"}
    assert {options.get("regression") for options in _comparison.METHODS.values()} == set(get_args(mt.Regression))
    assert {options.get("schedule", "joint") for options in _comparison.METHODS.values()} == set(get_args(mt.Schedule))
