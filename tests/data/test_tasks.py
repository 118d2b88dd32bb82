"""Tables of tasks: what they refuse, how they are split and standardised, and what the ready-made ones hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import datasets

from metafast.data import digit_tasks, toy_tasks
from metafast.data.tasks import SPLITS, Task, TaskTable, drop_labels, split

ALL_KINDS = (Task("sick", "binary"), Task("share", "bounded"), Task("species", "classes", 3), Task("size", "real"))


def make_table(rows=60, seed=0, missing=0.0, tasks=ALL_KINDS):
    """A table whose first feature counts the rows, so that they can be told apart whatever the scale."""
    rng = np.random.default_rng(seed)
    features = np.column_stack([np.arange(rows), rng.normal(5, 3, rows), np.full(rows, 7.0)])
    draws = {
        "binary": lambda: rng.integers(0, 2, rows),
        "bounded": lambda: rng.random(rows),
        "classes": lambda: rng.permutation(np.arange(rows) % 3),
        "real": lambda: rng.normal(100, 20, rows),
    }
    labels = np.column_stack([draws[task.kind]() for task in tasks]).astype(np.float32)
    labels[rng.random(labels.shape) < missing] = np.nan
    return TaskTable(features.astype(np.float32), labels, tuple(tasks))


def find_rows(splits):
    """The rows of each part, by the feature that counts them: its standardised values are evenly spaced."""
    counts = np.concatenate([splits[name].features[:, 0] for name in SPLITS]).astype(np.float64)
    step = (counts.max() - counts.min()) / (len(counts) - 1)
    rows = np.rint((counts - counts.min()) / step).astype(int)
    assert sorted(rows.tolist()) == list(range(len(counts)))
    return dict(
        zip(SPLITS, np.split(rows, np.cumsum([len(splits[name]) for name in SPLITS])[:-1].tolist()), strict=True)
    )


FINE = np.array([[0.0], [1.0]], np.float32)


@pytest.mark.parametrize(
    ("features", "labels", "tasks", "message"),
    [
        (FINE, FINE[:1], (Task("a", "binary"),), r"shapes \(2, 1\) and \(1, 1\)"),
        (FINE, FINE, (Task("a", "binary"), Task("b", "real")), r"labels \[rows, 2 tasks\].*shapes \(2, 1\) and \(2, 1"),
        (FINE[:, 0], FINE, (Task("a", "binary"),), r"shapes \(2,\) and \(2, 1\)"),
        (FINE, FINE[:, 0], (Task("a", "binary"),), r"shapes \(2, 1\) and \(2,\)"),
        (FINE[:0], FINE[:0], (Task("a", "binary"),), "must be rows, features and tasks"),
        (FINE[:, :0], FINE, (Task("a", "binary"),), "must be rows, features and tasks"),
        (FINE, FINE[:, :0], (), "must be rows, features and tasks"),
        (FINE, FINE[:, [0, 0]], (Task("a", "binary"), Task("a", "real")), r"names of their own; they are \['a', 'a'\]"),
        (FINE, FINE, (Task("", "binary"),), "names of their own"),
        (np.array([[1, 1, np.nan], [1, 1, 1]]), FINE, (Task("a", "binary"),), "finite; column 2 is not"),
        (np.array([[1, 1], [-np.inf, 1]]), FINE, (Task("a", "binary"),), "finite; column 0 is not"),
        (FINE, FINE, (Task("a", "ordinal"),), "task 'a': kind must be one of .*bounded.* not 'ordinal'"),
        (FINE, FINE * np.nan, (Task("a", "real"),), "task 'a' has no labels"),
        (FINE, FINE + np.inf, (Task("a", "real"),), "task 'a': labels must be finite"),
        (FINE, FINE / 2, (Task("a", "binary"),), "'a' is binary.*from 0 to 0.5"),
        (FINE, FINE * 2, (Task("a", "binary"),), "'a' is binary.*from 0 to 2"),
        (FINE, -FINE, (Task("a", "binary"),), "'a' is binary.*from -1 to"),
        (FINE, FINE + 0.5, (Task("a", "bounded"),), "'a' is bounded.*from 0.5 to 1.5"),
        (FINE, FINE - 0.5, (Task("a", "bounded"),), "'a' is bounded.*from -0.5 to 0.5"),
        (FINE, FINE, (Task("a", "classes", 1),), "'a' needs num_classes of at least 2, not 1"),
        (FINE, FINE + 2, (Task("a", "classes", 3),), r"'a' has 3 classes.*from 0 to 2 \(they go from 2 to 3\)"),
        (FINE, FINE - 1, (Task("a", "classes", 3),), "'a' has 3 classes.*go from -1 to 0"),
        (FINE, FINE / 2, (Task("a", "classes", 3),), "'a' has 3 classes.*not integers"),
    ],
)
def test_a_table_refuses_what_its_tasks_cannot_mean_and_says_which(features, labels, tasks, message):
    with pytest.raises(ValueError, match=message):
        TaskTable(features, labels, tasks)


def test_missing_labels_are_no_fault_and_are_not_judged():
    labels = np.array([[np.nan, 1.0], [1.0, np.nan]], np.float32)
    table = TaskTable(FINE, labels, (Task("a", "binary"), Task("b", "classes", 2)))
    assert len(table) == 2
    assert [task.metric for task in ALL_KINDS] == ["accuracy", "rmse", "accuracy", "rmse"]


def test_rows_are_taken_and_tasks_selected_with_their_columns():
    table = make_table()
    part = table.take(np.array([5, 3, 3]))
    np.testing.assert_array_equal(part.features, table.features[[5, 3, 3]])
    np.testing.assert_array_equal(part.labels, table.labels[[5, 3, 3]])
    assert part.tasks == table.tasks
    chosen = table.select(["size", "sick"])
    assert [task.name for task in chosen.tasks] == ["size", "sick"]
    np.testing.assert_array_equal(chosen.labels, table.labels[:, [3, 0]])
    np.testing.assert_array_equal(chosen.features, table.features)
    with pytest.raises(ValueError, match="no task 'weight'; there is sick, share, species, size"):
        table.select(["size", "weight"])
    with pytest.raises(ValueError, match="names of their own"):
        table.select(["size", "size"])


@given(
    rows=st.integers(12, 90),
    test_share=st.floats(0.05, 0.5),
    validation_share=st.floats(0.05, 0.35),
    split_seed=st.integers(0, 1000),
    names=st.permutations([task.name for task in ALL_KINDS]).flatmap(
        lambda names: st.integers(1, len(names)).map(lambda count: names[:count])
    ),
)
def test_every_row_is_in_one_part_and_parts_have_their_shares(rows, test_share, validation_share, split_seed, names):
    table = make_table(rows).select(names)
    splits = split(table, test_fraction=test_share, validation_fraction=validation_share, split_seed=split_seed)
    assert tuple(splits) == SPLITS
    parts = find_rows(splits)
    assert len(parts["test"]) == int(np.ceil(test_share * rows))
    assert len(parts["validation"]) == int(np.ceil(validation_share * rows))
    for name, part in splits.items():
        # What is no real number goes with its row as it is.
        kept = [number for number, task in enumerate(part.tasks) if task.kind != "real"]
        np.testing.assert_array_equal(part.labels[:, kept], table.labels[parts[name]][:, kept])


@given(rows=st.integers(25, 90), missing=st.floats(0, 0.3), split_seed=st.integers(0, 1000), seed=st.integers(0, 9))
def test_features_and_real_labels_are_standardised_by_the_training_rows_only(rows, missing, split_seed, seed):
    table = make_table(rows, seed, missing)
    splits = split(table, split_seed=split_seed)
    parts = find_rows(splits)
    features, sizes = table.features.astype(np.float64), table.labels[:, 3].astype(np.float64)
    fitted, known = features[parts["train"]], sizes[parts["train"]]
    known = known[~np.isnan(known)]
    deviation = known.std() if len(known) > 1 else 1.0
    for name, part in splits.items():
        expected = (features[parts[name], :2] - fitted[:, :2].mean(0)) / fitted[:, :2].std(0)
        np.testing.assert_allclose(part.features[:, :2], expected, rtol=1e-5, atol=1e-5)
        assert (part.features[:, 2] == 0).all()
        standardised = (sizes[parts[name]] - known.mean()) / deviation
        np.testing.assert_allclose(part.labels[:, 3], standardised, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(np.isnan(part.labels), np.isnan(table.labels[parts[name]]))
        assert part.tasks[3].scale == pytest.approx(deviation)
        assert part.tasks[:3] == table.tasks[:3]
        assert part.features.dtype == part.labels.dtype == np.float32


def test_a_real_tasks_scale_gives_back_the_unit_of_the_data():
    table = make_table(200)
    tasks = (*table.tasks[:3], Task("size", "real", scale=100.0))
    metres = TaskTable(table.features, table.labels * np.float32([1, 1, 1, 0.01]), tasks)
    for table_in_unit in (table, metres):
        splits = split(table_in_unit)
        parts = find_rows(splits)
        for name, part in splits.items():
            sizes = part.tasks[3].scale * part.labels[:, 3].astype(np.float64)
            np.testing.assert_allclose(np.diff(sizes), np.diff(table.labels[parts[name], 3]), rtol=1e-3, atol=1e-3)


def test_a_real_task_of_one_value_only_is_centred_and_keeps_its_unit():
    labels = np.full((40, 1), 1e5 / 3, np.float32)
    labels[::7] = np.nan
    for part in split(TaskTable(make_table(40).features, labels, (Task("size", "real", scale=2.0),))).values():
        assert part.tasks[0].scale == 2.0
        assert (part.labels[~np.isnan(part.labels)] == 0).all()


@pytest.mark.parametrize("names", [("sick", "species"), ("species", "share"), ("size", "sick")])
def test_classes_or_else_the_binary_task_come_as_often_in_every_part(names):
    table = make_table(300, seed=3).select(names)
    column = names.index("species" if "species" in names else "sick")
    shares = np.bincount(table.labels[:, column].astype(int)) / 300
    for split_seed in range(5):
        for part in split(table, split_seed=split_seed).values():
            counts = np.bincount(part.labels[:, column].astype(int), minlength=len(shares))
            np.testing.assert_allclose(counts, shares * len(part), atol=1.01)


def test_the_split_depends_on_its_seed_and_on_no_other_chance():
    table = make_table(100)
    np.random.seed(1)  # noqa: NPY002
    first = split(table, split_seed=4)
    np.random.seed(2)  # noqa: NPY002
    second, other = split(table, split_seed=4), split(table, split_seed=5)
    for name in SPLITS:
        np.testing.assert_array_equal(first[name].features, second[name].features)
        np.testing.assert_array_equal(first[name].labels, second[name].labels)
    assert (find_rows(first)["test"] != find_rows(other)["test"]).any()
    # Neither features nor labels of the other tasks have a say.
    changed = TaskTable(table.features * [1, 9, 1], table.labels * np.float32([1, 0.5, 1, -1]), table.tasks)
    for name, rows in find_rows(split(changed, split_seed=4)).items():
        np.testing.assert_array_equal(rows, find_rows(first)[name])


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(np.r_[np.zeros(23), 1.0], id="a class of a single row"),
        pytest.param(np.arange(24) % 12.0, id="more classes than rows in a part"),
        pytest.param(np.arange(24.0), id="a class for every row"),
        pytest.param(np.r_[np.zeros(21), 1.0, 1.0, 1.0], id="a class too rare for three parts"),
    ],
)
def test_labels_too_rare_to_stratify_by_are_split_all_the_same(labels):
    table = TaskTable(make_table(24).features, labels[:, None].astype(np.float32), (Task("kind", "classes", 24),))
    for split_seed in range(10):
        parts = find_rows(split(table, split_seed=split_seed))
        assert [len(rows) for rows in parts.values()] == [14, 4, 6]


def test_a_table_of_three_rows_can_be_split_and_one_of_two_cannot():
    task = Task("size", "real")
    parts = split(TaskTable(np.eye(3, dtype=np.float32), np.arange(3, dtype=np.float32)[:, None], (task,)))
    assert [len(part) for part in parts.values()] == [1, 1, 1]
    with pytest.raises(ValueError, match="2 rows are too few"):
        split(TaskTable(FINE, FINE, (task,)))


@pytest.mark.parametrize("shares", [(0, 0.5), (0.5, 0), (0.5, 0.5), (-0.1, 0.3), (1.2, 0.1), (np.nan, 0.1)])
def test_shares_of_a_split_must_leave_rows_for_every_part(shares):
    with pytest.raises(ValueError, match="test_fraction and validation_fraction"):
        split(make_table(), test_fraction=shares[0], validation_fraction=shares[1])


def test_a_part_without_any_label_of_a_task_is_named_with_the_task():
    table = make_table(40).select(["size"])
    for name, rows in find_rows(split(table)).items():
        labels = table.labels.copy()
        labels[rows] = np.nan
        with pytest.raises(ValueError, match=f"task 'size' has no label among the {len(rows)} {name} rows"):
            split(TaskTable(table.features, labels, table.tasks))


@given(share=st.floats(1e-6, 1), missing=st.floats(0, 0.9), seed=st.integers(0, 2**32), data_seed=st.integers(0, 99))
def test_dropping_labels_keeps_the_share_of_those_there_are_and_touches_no_other_task(share, missing, seed, data_seed):
    table = make_table(70, data_seed, missing)
    before = table.labels.copy()
    scarce = drop_labels(table, {"species": share}, seed=seed)
    np.testing.assert_array_equal(table.labels, before)
    had, kept = ~np.isnan(before[:, 2]), ~np.isnan(scarce.labels[:, 2])
    assert kept.sum() == max(1, round(share * had.sum()))
    assert (had | ~kept).all()
    np.testing.assert_array_equal(scarce.labels[kept, 2], before[kept, 2])
    np.testing.assert_array_equal(scarce.labels[:, [0, 1, 3]], before[:, [0, 1, 3]])
    np.testing.assert_array_equal(scarce.features, table.features)
    np.testing.assert_array_equal(drop_labels(table, {"species": share}, seed=seed).labels, scarce.labels)


def test_dropped_labels_are_drawn_by_the_seed_for_each_task_on_its_own():
    table = make_table(100, tasks=(Task("a", "real"), Task("b", "real")))
    masks = {
        seed: np.isnan(drop_labels(table, {"a": 0.5, "b": 0.5}, seed=seed).labels) for seed in (0, 1)
    }  # fmt: skip
    assert (masks[0] != masks[1]).any(0).all()
    assert (masks[0][:, 0] != masks[0][:, 1]).any()
    # Which labels of one task are kept does not depend on whether another loses some.
    np.testing.assert_array_equal(np.isnan(drop_labels(table, {"b": 0.5}, seed=0).labels[:, 1]), masks[0][:, 1])
    # Every label can be the one that is kept.
    kept = np.stack([np.isnan(drop_labels(table, {"a": 0.5}, seed=seed).labels[:, 0]) for seed in range(20)])
    assert kept.mean(0).min() > 0
    assert kept.mean(0).max() < 1


@pytest.mark.parametrize("share", [0, -0.5, 1.5, np.nan])
def test_labels_cannot_be_dropped_by_a_share_or_of_a_task_that_is_none(share):
    with pytest.raises(ValueError, match="share of 'size''s labels to keep must be above 0 and at most 1"):
        drop_labels(make_table(), {"size": share}, seed=0)
    with pytest.raises(ValueError, match="no task 'weight' whose labels could be dropped; there is sick, share"):
        drop_labels(make_table(), {"weight": 0.5}, seed=0)


def test_digits_have_loops_ink_and_names():
    bunch = datasets.load_digits()
    table = digit_tasks.load()
    assert [(task.name, task.kind, task.num_classes) for task in table.tasks] == [
        ("A", "binary", 0), ("B", "bounded", 0), ("C", "classes", 10),
    ]  # fmt: skip
    np.testing.assert_array_equal(table.features * 16, bunch.images.reshape(1797, 64))
    digits = table.labels[:, 2].astype(int)
    np.testing.assert_array_equal(digits, bunch.target)
    with_loop = [digit for digit in range(10) if (table.labels[digits == digit, 0] == 1).all()]
    assert with_loop == [0, 6, 8, 9]
    assert (table.labels[~np.isin(digits, with_loop), 0] == 0).all()
    np.testing.assert_allclose(table.labels[:, 1], bunch.images.sum((1, 2)) / (64 * 16), rtol=1e-6)


def test_toy_points_repeat_by_their_seed():
    first, second, other = toy_tasks.generate(300, seed=3), toy_tasks.generate(300, seed=3), toy_tasks.generate(300)
    np.testing.assert_array_equal(first.features, second.features)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert (first.features != other.features).any()
    assert [(task.name, task.kind, task.num_classes) for task in first.tasks] == [
        ("A", "binary", 0), ("B", "bounded", 0), ("C", "classes", 5),
    ]  # fmt: skip
    for arguments in ({"rows": 0}, {"rows": -1}, {"seed": -1}):
        with pytest.raises(ValueError, match="rows must be at least 1 and seed at least 0"):
            toy_tasks.generate(**arguments)


def test_toy_labels_follow_the_twisted_angle_with_the_noise_they_are_said_to_have():
    count = 20_000
    table = toy_tasks.generate(count, seed=1)
    x, y = table.features.astype(np.float64).T
    assert -1 <= table.features.min() < -0.99
    assert 0.99 < table.features.max() <= 1
    radius = np.sqrt(x**2 + y**2)
    angle = np.angle(x + 1j * y) + 2 * np.pi * 0.3 * radius
    # C without noise, but for points so close to a border that single precision decides.
    fifths = np.mod(angle, 2 * np.pi) / (2 * np.pi / 5)
    clear = abs(fifths - np.rint(fifths)) > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(table.labels[clear, 2], np.floor(fifths[clear]))
    assert np.bincount(table.labels[:, 2].astype(int)).min() > count / 10
    # A: one label in twenty is wrong, wherever the point lies.
    border = 0.75 + 0.25 * np.sin(3 * angle)
    wrong = table.labels[:, 0] != (radius < border)
    for region in (radius < border, radius > border):
        assert abs(wrong[region].mean() - 0.05) < 4.5 * np.sqrt(0.05 * 0.95 / region.sum())
    # B: mean and variance of a Beta of precision 50 about the fading wave.
    wave = 0.5 + 0.4 * np.sin(2 * angle) * np.exp(-radius)
    scores = (table.labels[:, 1] - wave) / np.sqrt(wave * (1 - wave) / 51)
    assert abs(scores.mean()) < 4.5 / np.sqrt(count)
    assert abs(scores.var() - 1) < 0.06
    assert np.corrcoef(wave, table.labels[:, 1])[0, 1] > 0.8
