"""Runs of the multi-task trainer: schedules, figures, networks of single tasks beside it, and what is reported."""

import json
import math
import warnings

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from trainers.multitask_cases import run, state

from metafast import cli
from metafast.data.tasks import Task
from metafast.trainers import _relations, _run
from metafast.trainers import multitask as mt


def heads_of(network):
    return [torch.cat([p.detach().flatten() for p in head.parameters()]) for head in network.model.readout.heads]


@pytest.fixture
def watched(monkeypatch, no_pictures):
    """Every update of a run: of which network, on which rows and tasks, how fast, and which heads moved."""
    seen, update = [], mt.update

    def watch(network, rows, tasks, learning_rate):
        before, scores = heads_of(network), network.measure(mt.load_data(network.config)["validation"])
        losses = update(network, rows, tasks, learning_rate)
        moved = [not torch.equal(old, new) for old, new in zip(before, heads_of(network), strict=True)]
        seen.append({
            "network": network, "rows": rows, "tasks": list(tasks), "rate": learning_rate, "moved": moved,
            "scores": scores,
        })  # fmt: skip
        return losses

    monkeypatch.setattr(mt, "update", watch)
    return seen


@pytest.mark.parametrize("shared_update", ["gradient", "kl"])
def test_in_sequence_turns_divide_the_updates_evenly_and_only_their_head_moves(tmp_path, watched, shared_update):
    fit = mt.fit_prior
    with pytest.MonkeyPatch.context() as patched:
        # The updates of the prior's own network are no turns.
        patched.setattr(mt, "fit_prior", lambda *given: [fit(*given), watched.clear()][0])
        options = {"schedule": "sequential", "single_task": False, "epochs": 2, "shared_update": shared_update}
        options |= {"learning_rate": 3e-3, "decay": 1.0}
        result = run(tmp_path / "run", **options)
    assert [seen["tasks"][-1] for seen in watched] == [0] * 12 + [1] * 12 + [2] * 12
    for number, seen in enumerate(watched):
        task = number // 12
        # Those that are over hold the trunk by what they said at the end of their turn.
        assert seen["tasks"] == ([*range(task + 1)] if shared_update == "kl" else [task])
        assert seen["moved"] == [other == task for other in range(3)]
        assert seen["rate"] == pytest.approx(3e-3 * (1 - number % 12 / 12))
    final = watched[0]["network"].measure(mt.load_data(watched[0]["network"].config)["validation"])
    fell = {"A": watched[12]["scores"]["A"] - final["A"], "B": final["B"] - watched[24]["scores"]["B"]}
    assert result["forgotten"] == fell
    assert state(tmp_path / "run")["0.finished"].tolist() == ([0, 1] if shared_update == "kl" else [])
    assert "forgotten since each task's turn: A " in mt.describe(result)


def test_after_its_turn_a_task_is_held_to_what_the_network_said_then(tmp_path, monkeypatch, no_pictures):
    change_tasks, snapshots = mt.change_tasks, []

    def watch(network, task):
        snapshots.append(network.snapshot()[task - 1])
        change_tasks(network, task)
        assert all(moment.abs().max() == 0 for moment in network.learner.moments.values())

    monkeypatch.setattr(mt, "change_tasks", watch)
    run(tmp_path / "run", schedule="sequential", shared_update="kl", single_task=False, epochs=1)
    saved = state(tmp_path / "run")
    assert len(snapshots) == 2
    for task, (outputs, log_scale) in enumerate(snapshots):
        np.testing.assert_array_equal(saved[f"0.prior.{task}"], outputs)
        assert saved[f"0.prior_log_scale.{task}"] == log_scale


def test_in_sequence_kl_forgets_less(tmp_path):
    options = {"hidden_size": 32, "epochs": 12, "batch_size": 32, "schedule": "sequential", "single_task": False}
    plain = run(tmp_path / "plain", **options)["forgotten"]
    held = run(tmp_path / "held", shared_update="kl", **options)["forgotten"]
    for name in ("plain", "held"):
        assert {"learning_curve.png", "task_relations.png"} <= {path.name for path in (tmp_path / name).iterdir()}
    assert plain["A"] > 0.15
    assert held["A"] < 0.5 * plain["A"]
    assert held["B"] < 0.5 * plain["B"]


def test_round_robin_visits_the_tasks_in_order(tmp_path, watched):
    result = run(tmp_path / "run", schedule="round-robin", single_task=False, epochs=1, learning_rate=3e-3, decay=1.0)
    assert [seen["tasks"] for seen in watched] == [[0], [1], [2]] * 6
    assert [seen["rate"] for seen in watched] == pytest.approx([3e-3 * (1 - number / 18) for number in range(18)])
    assert result["forgotten"] is None


def test_single_task_networks_have_the_same_trunk_and_see_the_same_rows(tmp_path, watched):
    run(tmp_path / "run", epochs=1, attention=True, shared_update="gradient", weighting="fixed", weights={"B": 9.0})
    networks = [seen["network"] for seen in watched[:4]]
    assert len(watched) == 4 * 18
    assert [network.columns for network in networks] == [[0, 1, 2], [0], [1], [2]]
    for number, seen in enumerate(watched):
        assert seen["network"] is networks[number % 4]
        assert torch.equal(seen["rows"], watched[number - number % 4]["rows"])
        assert seen["rate"] == watched[number - number % 4]["rate"]
    shapes = [[parameter.shape for parameter in network.model.trunk.parameters()] for network in networks]
    assert shapes[0] == shapes[1] == shapes[2] == shapes[3]
    rows = torch.cat([seen["rows"] for seen in watched[::4]])
    assert len(rows.unique()) == len(rows) == 18 * 64


def test_a_single_task_network_is_that_of_a_run_with_that_task_alone(tmp_path):
    options = {"epochs": 2, "labels_kept": {"C": 0.5}}
    together = run(tmp_path / "together", tasks=("C", "A"), shared_update="kl", **options)
    alone = run(tmp_path / "alone", tasks=("C",), **options)
    first, second = state(tmp_path / "together"), state(tmp_path / "alone")
    for name in ("parameters", "adam.first", "adam.second"):
        np.testing.assert_array_equal(first[f"1.{name}"], second[f"0.{name}"])
    assert together["single_tasks"]["C"] == alone["tasks"]["C"]
    assert list(alone["tasks"]) == ["C"]
    assert alone["single_tasks"] is alone["task_changes"] is alone["relative_change"] is None
    assert "task_relations" not in alone
    assert mt.describe(alone).startswith("toy, 500 rows of the split test:\nC: accuracy 0.")


@pytest.mark.parametrize("options", [{}, {"schedule": "sequential"}, {"weighting": "upgrad"}])
def test_one_task_is_enough(tmp_path, no_pictures, options):
    if options.get("weighting"):
        pytest.importorskip("torchjd")
    run(tmp_path / "run", tasks=("C",), epochs=1, **options)
    run(tmp_path / "plain", tasks=("C",), epochs=1)
    np.testing.assert_array_equal(state(tmp_path / "run")["0.parameters"], state(tmp_path / "plain")["0.parameters"])


def test_a_short_training_learns_digits_and_tells_what_it_learnt(tmp_path):
    result = run(tmp_path / "run", data="digits", hidden_size=64, epochs=8, batch_size=32)
    json.dumps(result, allow_nan=False)
    assert list(result)[-3:] == ["tasks", "relative_change", "seconds"]
    assert {name: list(scores) for name, scores in result["tasks"].items()} == {
        "A": ["accuracy"], "B": ["rmse"], "C": ["accuracy"],
    }  # fmt: skip
    assert result["tasks"]["A"]["accuracy"] > 0.9
    # A constant would be off by 0.05.
    assert result["tasks"]["B"]["rmse"] < 0.02
    assert result["tasks"]["C"]["accuracy"] > 0.9
    tasks, alone = result["tasks"], result["single_tasks"]
    changes = [
        (1 - tasks["A"]["accuracy"]) / (1 - alone["A"]["accuracy"]) - 1,
        tasks["B"]["rmse"] / alone["B"]["rmse"] - 1,
        (1 - tasks["C"]["accuracy"]) / (1 - alone["C"]["accuracy"]) - 1,
    ]
    assert list(result["task_changes"].values()) == pytest.approx(changes)
    assert result["relative_change"] == pytest.approx(sum(changes) / 3)
    assert result["samples"] == 8 * 33 * 32
    assert 0 < result["multitask_seconds"] + result["singletask_seconds"] < result["seconds"]
    cosines = np.array(result["cosines"])
    np.testing.assert_allclose(np.diag(cosines), 1.0, atol=1e-5)
    np.testing.assert_allclose(cosines, cosines.T, atol=1e-6)
    assert (np.abs(cosines) < 1 + 1e-5).all()
    # The very test rows give the very figures.
    assert mt.evaluate(result["run_dir"])["tasks"] == tasks
    described = mt.describe(result)
    assert f"C: accuracy {tasks['C']['accuracy']:.4g}, alone {alone['C']['accuracy']:.4g} (error rate " in described
    assert f"mean change of the errors: {result['relative_change']:+.1%} (less is better)" in described
    assert f"task relations: {tmp_path / 'run' / 'task_relations.png'}" in described


def test_an_error_of_zero_has_no_relative_change():
    assert mt.compute_change("accuracy", 0.9, 1.0) is None
    assert mt.compute_change("rmse", math.nan, 1.0) is None
    assert mt.compute_change("rmse", 0.5, math.nan) is None
    assert mt.compute_change("accuracy", 0.9, 0.8) == pytest.approx(-0.5)
    assert mt.compute_change("rmse", 3.0, 2.0) == pytest.approx(0.5)


def test_without_single_task_networks_there_is_nothing_to_compare_with(tmp_path, no_pictures):
    result = run(tmp_path / "run", single_task=False, epochs=1)
    assert result["single_tasks"] is result["task_changes"] is result["relative_change"] is None
    assert result["singletask_seconds"] == 0
    assert "alone" not in mt.describe(result)
    assert not any(name.startswith("1.") for name in state(tmp_path / "run"))
    # They change nothing of the network beside them.
    run(tmp_path / "beside", epochs=1)
    np.testing.assert_array_equal(state(tmp_path / "run")["0.parameters"], state(tmp_path / "beside")["0.parameters"])


def test_training_with_few_labels_and_attention_draws_how_tasks_relate(tmp_path):
    result = run(tmp_path / "run", labels_kept={"C": 0.1, "B": 0.5}, attention=True, shared_update="kl", epochs=1)
    tables = mt.load_data(mt.load_config(result["run_dir"]))
    assert (~np.isnan(tables["train"].labels)).sum(0).tolist() == [1200, 600, 120]
    assert not np.isnan(tables["test"].labels).any()
    for name in ("learning_curve", "task_relations"):
        with open(result[name], "rb") as file:
            assert file.read(4) == b"\x89PNG"


def test_real_labels_are_judged_in_their_own_unit_and_gaps_do_not_count(tmp_path, no_pictures):
    rng = np.random.default_rng(0)
    x, file = rng.standard_normal((200, 2)), tmp_path / "houses.csv"
    prices = 5_000 + 1_000 * (x[:, 0] + 0.1 * rng.standard_normal(200))
    cells = [f"{price:.3f}" if row % 3 else "" for row, price in enumerate(prices)]
    lines = [f"{one:.4f},{two:.4f},{cell},{int(two > 0)}" for (one, two), cell in zip(x, cells, strict=True)]
    file.write_text("\n".join(["one,two,price,large", *lines]) + "\n")
    tasks = ("price:real", "large:binary")
    result = run(tmp_path / "run", data=str(file), tasks=tasks, batch_size=8, epochs=20)
    assert 50 < result["tasks"]["price"]["rmse"] < 500
    test = mt.load_data(mt.load_config(result["run_dir"]))["test"]
    known = ~np.isnan(test.labels[:, 0])
    assert 0 < known.sum() < len(test)
    config = mt.load_config(result["run_dir"])
    network = mt.Network(config, mt.load_data(config)["train"], [0, 1], torch.device("cpu"))
    _run.RunDirectory(tmp_path / "run").read_policy(network.model)
    with torch.no_grad():
        means = network.model(torch.from_numpy(test.features))[0][0][:, 0].numpy()
    errors = (means - test.labels[:, 0])[known] * test.tasks[0].scale
    assert result["tasks"]["price"]["rmse"] == pytest.approx(np.sqrt(np.square(errors).mean()), rel=1e-5)
    assert test.tasks[0].scale == pytest.approx(1_000, rel=0.2)


def test_training_that_diverges_is_reported_as_json_all_the_same(tmp_path, capsys):
    options = ["--data", "toy", "--hidden-size", "16", "--epochs", "1", "--learning-rate", "1e30"]
    assert cli.main(["train", "multitask", *options, "--run-dir", str(tmp_path / "run"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert result["tasks"]["B"] == {"rmse": None}
    assert result["task_changes"]["B"] is None


@pytest.mark.parametrize("names", [("$x^{_$", "_b"), ("任务", "a\nb"), tuple("abcdefghij")])
def test_tasks_of_any_name_and_number_are_drawn_without_a_warning(tmp_path, names):
    rng, tasks = np.random.default_rng(0), [Task(name, "binary") for name in names]
    cosines = rng.uniform(-1, 1, (2, len(names), len(names)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _relations.draw_curves(
            tmp_path / "curves.png", tasks, np.arange(2), rng.random((2, len(names))), None, turn_ends=[]
        )
        _relations.draw_relations(tmp_path / "relations.png", names, np.arange(2), cosines, cosines[0])
    # With more tasks the image grows downwards: one of 160 in a line could not be written.
    assert imread(tmp_path / "curves.png").shape[1] <= 8 * 504
    assert (tmp_path / "relations.png").exists()


def test_errors_that_are_not_numbers_are_drawn_between_the_turns(tmp_path):
    unknown = np.full((2, 1), np.nan)
    _relations.draw_curves(tmp_path / "curves.png", [Task("a", "real")], np.arange(2), unknown, unknown, [0.5])
    assert (tmp_path / "curves.png").exists()
