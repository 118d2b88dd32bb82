"""A trained network on new rows, in the units of its data; tables of one's own from Python."""

import json

import numpy as np
import pytest
from trainers.multitask_cases import run

from metafast.data.tasks import Task, TaskTable, split
from metafast.trainers import UsageError
from metafast.trainers import multitask as mt

TASKS = Task("flag", "binary"), Task("price", "real"), Task("share", "bounded"), Task("kind", "classes", num_classes=3)


def make_table():
    """Features and prices far from 0 and 1, in which two in ten prices are missing."""
    rng = np.random.default_rng(0)
    features = rng.normal(50, 20, (300, 5))
    hidden = (features - 50) / 20 @ rng.normal(size=(5, 4))
    price = np.where(rng.random(300) < 0.2, np.nan, 4000 + 900 * hidden[:, 1])
    labels = np.stack([hidden[:, 0] > 0, price, 1 / (1 + np.exp(-hidden[:, 2])), np.digitize(hidden[:, 3], [-1, 1])], 1)
    return TaskTable(features.astype(np.float32), labels.astype(np.float32), TASKS)


@pytest.mark.parametrize("regression", ["gaussian", "squared"])
@pytest.mark.parametrize("attention", [False, True])
def test_predictions_are_in_the_units_of_the_data(tmp_path, regression, attention):
    table = make_table()
    config = mt.configure(
        "mine", run_dir=str(tmp_path / "run"), hidden_size=16, epochs=20, regression=regression, attention=attention,
        single_task=False,
    )  # fmt: skip
    result = mt.train(config, table)
    assert mt.evaluate(result["run_dir"], table=table)["tasks"] == result["tasks"]
    # The rows that were judged by, as they came, with no table at hand.
    tested = split(table)["test"]
    features = tested.features * tested.feature_scale + tested.feature_offset
    rows = [int(np.abs(table.features - row).sum(1).argmin()) for row in features]
    np.testing.assert_allclose(features, table.features[rows], rtol=1e-5)
    flag, price, share, kind = table.labels[rows].T
    predicted = mt.load(result["run_dir"]).predict(table.features[rows])
    assert {name: values.shape for name, values in predicted.items()} == {
        "flag": (75,), "price": (75,), "share": (75,), "kind": (75, 3),
    }  # fmt: skip
    np.testing.assert_allclose(predicted["kind"].sum(1), 1, rtol=1e-5)
    scores = {name: next(iter(kinds.values())) for name, kinds in result["tasks"].items()}
    assert ((predicted["flag"] > 0.5) == flag).mean() == scores["flag"] > 0.6
    assert (predicted["kind"].argmax(1) == kind).mean() == scores["kind"]
    assert np.sqrt(np.nanmean((predicted["price"] - price) ** 2)) == pytest.approx(scores["price"], rel=1e-4)
    assert np.sqrt(np.mean((predicted["share"] - share) ** 2)) == pytest.approx(scores["share"], rel=1e-4)
    assert scores["price"] < 600 < np.nanstd(price)


def test_a_predictor_refuses_other_features_and_runs_without_units(tmp_path):
    result = run(tmp_path / "run", single_task=False)
    predictor = mt.load(result["run_dir"])
    for features in (np.zeros((3, 7)), np.zeros(predictor.feature_scale.shape)):
        with pytest.raises(ValueError, match=r"features must be \[rows, 2\], not of shape"):
            predictor.predict(features)
    units = json.loads((tmp_path / "run" / "units.json").read_text())
    assert [task["name"] for task in units["tasks"]] == ["A", "B", "C"]
    (tmp_path / "run" / "units.json").write_text("{}")
    with pytest.raises(UsageError, match=r"units\.json cannot be read"):
        mt.load(result["run_dir"])


def test_a_table_of_ones_own_resumes_and_compares_too(tmp_path):
    table, options = make_table(), {"hidden_size": 8, "epochs": 2, "single_task": False}
    mt.train(mt.configure("mine", run_dir=str(tmp_path / "parts"), **options | {"decay": 0.0}), table)
    resumed = mt.train(mt.parse(["--resume", str(tmp_path / "parts"), "--epochs", "4"]), table)
    straight = mt.train(
        mt.configure("mine", run_dir=str(tmp_path / "straight"), **options | {"decay": 0.0, "epochs": 4}), table
    )
    assert resumed["tasks"] == straight["tasks"]
    few = mt.train(mt.configure("mine", tasks=("price",), run_dir=str(tmp_path / "few"), **options), table)
    assert list(few["tasks"]) == ["price"]
    with pytest.raises(UsageError, match="data must be one of"):
        mt.train(mt.parse(["--resume", str(tmp_path / "parts")]))


def test_data_that_has_changed_is_neither_trained_on_nor_judged_by(tmp_path):
    table = make_table()
    options = {"hidden_size": 8, "epochs": 1, "single_task": False, "run_dir": str(tmp_path / "run")}
    mt.train(mt.configure("mine", **options), table)
    other = table.take(np.arange(len(table) - 1))
    with pytest.raises(UsageError, match="the data is no longer what"):
        mt.train(mt.parse(["--resume", options["run_dir"], "--epochs", "2"]), other)
    with pytest.raises(UsageError, match="the data is no longer what"):
        mt.evaluate(options["run_dir"], table=other)
