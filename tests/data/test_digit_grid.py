"""Digit grids: an oracle that reads the questions as a person would, and what is promised of the handwriting."""

import time

import numpy as np
import pytest
from sklearn.datasets import load_digits

from metafast.data import digit_grid

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SINGULAR = {word: digit for digit, word in enumerate(WORDS)}
PLURAL = {word + ("es" if word == "six" else "s"): digit for digit, word in enumerate(WORDS)}
ROWS = {"upper": 0, "top": 0, "middle": 1, "central": 1, "lower": 2, "bottom": 2}
COLUMNS = {"left": 0, "middle": 1, "centre": 1, "right": 2}
NEIGHBOURS = {
    "to the right of": (0, 1), "right of": (0, 1), "to the left of": (0, -1), "left of": (0, -1),
    "above": (-1, 0), "just over": (-1, 0), "below": (1, 0), "just under": (1, 0),
}  # fmt: skip


def read(question, grid):
    """The kind of a question, its answer, the cell of the answer and the cell named, from its text alone."""
    words = question.split()
    for word, digit in PLURAL.items():
        if word in words:
            return "count", int((grid == digit).sum()), None, None
    for relation, (down, right) in NEIGHBOURS.items():
        if f" {relation} the " in question:
            row, column = np.argwhere(grid == SINGULAR[words[-1]])[0]
            assert (grid == SINGULAR[words[-1]]).sum() == 1
            assert 0 <= row + down < 3
            assert 0 <= column + right < 3
            answer = row + down, column + right
            return "two-hop", grid[answer], 3 * answer[0] + answer[1], 3 * row + column
    named = [word for word in words if word in ROWS or word in COLUMNS]
    cell = (1, 1) if len(named) == 1 else (ROWS[named[0]], COLUMNS[named[1]])
    return "position", grid[cell], 3 * cell[0] + cell[1], None


@pytest.mark.parametrize("split", ["train", "held-out"])
def test_answers_and_evidence_are_those_that_a_reader_finds(split):
    grids = digit_grid.generate(5000, split, seed=2)
    questions = set()
    for sample in range(len(grids)):
        question = grids.caption(sample)
        questions.add(question)
        kind, answer, evidence, anchor = read(question, grids.digits[sample].reshape(3, 3))
        assert grids.kinds[kind][sample], question
        assert grids.targets["answer"][sample] == answer, question
        assert grids.evidence_cells[sample] == (-1 if evidence is None else evidence), question
        assert grids.first_look[sample] == (-1 if anchor is None else anchor), question
        row, column = (0, 0) if evidence is None else divmod(evidence, 3)
        size = 0 if evidence is None else 8
        box = [8 * row, 8 * column, 8 * row + size, 8 * column + size]
        assert grids.evidence_box[sample].tolist() == box
    assert len(questions) > 350
    assert (sum(grids.kinds.values()) == 1).all()


def test_words_lie_in_the_vocabulary_and_padding_only_after_the_end():
    grids = digit_grid.generate(2000)
    in_question = np.arange(grids.words.shape[1]) < grids.lengths[:, None]
    assert (grids.words[in_question] > 0).all()
    assert grids.words.max() < len(grids.vocabulary)
    assert (grids.words[~in_question] == 0).all()
    assert grids.lengths.min() == 3
    assert grids.lengths.max() == grids.words.shape[1]
    assert set(np.unique(grids.words)) == set(range(len(grids.vocabulary)))


def test_cells_show_the_handwriting_they_name():
    ink, labels = load_digits(return_X_y=True)
    grids = digit_grid.generate(200, "held-out", seed=4)
    np.testing.assert_array_equal(labels[grids.sources], grids.digits)
    for sample in range(200):
        for cell in range(9):
            row, column = 8 * (cell // 3), 8 * (cell % 3)
            shown = grids.pictures[sample, row : row + 8, column : column + 8, 0]
            np.testing.assert_array_equal(shown, np.rint(ink[grids.sources[sample, cell]].reshape(8, 8) * 255 / 16))


@pytest.mark.parametrize("split_seed", [0, 1])
def test_held_out_handwriting_is_never_trained_on_and_holds_every_digit(split_seed):
    _, labels = load_digits(return_X_y=True)
    parts = [
        np.unique(digit_grid.generate(20_000, split, split_seed=split_seed, augment=False).sources)
        for split in ("train", "held-out")
    ]
    assert len(np.intersect1d(*parts)) == 0
    assert sum(map(len, parts)) == 1797
    shares = np.bincount(labels[parts[1]]) / np.bincount(labels)
    assert (abs(shares - 0.25) < 0.01).all()
    if split_seed:
        assert (parts[1] != np.unique(digit_grid.generate(20_000, "held-out").sources)).any()


def test_distorted_digits_stay_near_what_they_were_and_each_cell_changes_on_its_own():
    plain = digit_grid.generate(2000, seed=5, augment=False)
    changed = digit_grid.generate(2000, seed=5)
    np.testing.assert_array_equal(plain.sources, changed.sources)
    tiles = [
        grids.pictures.reshape(2000, 3, 8, 3, 8).swapaxes(2, 3).reshape(18_000, 64).astype(float)
        for grids in (plain, changed)
    ]
    correlations = [np.corrcoef(first, second)[0, 1] for first, second in zip(*tiles, strict=True)]
    others = [np.corrcoef(first, second)[0, 1] for first, second in zip(tiles[0], np.roll(tiles[1], 9, 0), strict=True)]
    assert 0.6 < np.mean(correlations) < 0.99
    assert np.mean(others) < 0.5
    assert np.std(tiles[1].sum(1) / tiles[0].sum(1)) > 0.05


def test_a_seed_repeats_the_grids_and_another_does_not():
    first, second, other = (digit_grid.generate(500, seed=seed) for seed in (7, 7, 8))
    for name in ("pictures", "words", "lengths", "evidence_box", "digits", "sources"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert (first.pictures != other.pictures).any()
    assert (first.digits != digit_grid.generate(500, "held-out", seed=7).digits).any()


def test_kinds_come_as_often_as_they_are_weighted():
    grids = digit_grid.generate(4000, kind_weights=(1, 3, 0))
    shares = [mask.mean() for mask in grids.kinds.values()]
    np.testing.assert_allclose(shares, [0.25, 0.75, 0.0], atol=0.03)
    counts = digit_grid.generate(5000, kind_weights=(0, 0, 1)).targets["answer"]
    np.testing.assert_allclose(np.bincount(counts) / 5000, np.full(10, 0.1), atol=0.02)


def test_tens_of_thousands_take_seconds():
    digit_grid.generate(10)
    started = time.perf_counter()
    digit_grid.generate(20_000, seed=1)
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "must not be negative"),
        ({"kind_weights": (1, 1)}, "kind_weights must be 3 numbers"),
        ({"kind_weights": (0, 0, 0)}, "kind_weights must be 3 numbers"),
    ],
)
def test_what_cannot_be_laid_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        digit_grid.generate(10, **options)
    assert len(digit_grid.generate(0)) == 0
