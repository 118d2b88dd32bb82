"""Three by three grids of scikit-learn's handwritten digits, each with a question in words about it.

Three kinds of question: what a named cell shows ("what is in the upper left"), what stands beside a digit ("what is
right of the seven"; two hops, first to the seven and then to its neighbour), and how often a digit occurs ("how many
threes are there"). Answers are classes 0 to 9 throughout. The handwriting is split before any grid
is laid, so a model is judged on digits that it never saw.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from metafast.data.captioned import CaptionedPictures

Split = Literal["train", "held-out"]
GRID_SIDE = 3
CELL_SIDE = 8
NUM_CELLS = GRID_SIDE * GRID_SIDE
NUM_CLASSES = 10
KINDS = ("position", "two-hop", "count")
POSITION, TWO_HOP, COUNT = range(3)

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLURALS = ("zeros", "ones", "twos", "threes", "fours", "fives", "sixes", "sevens", "eights", "nines")
ROWS = (("upper", "top"), ("middle", "central"), ("lower", "bottom"))
COLUMNS = (("left",), ("middle", "centre"), ("right",))
# Names of each relation, and its step in rows and columns from the digit named to the answer.
RELATIONS = (
    (("right of", "to the right of"), (0, 1)),
    (("left of", "to the left of"), (0, -1)),
    (("above", "just over"), (-1, 0)),
    (("below", "just under"), (1, 0)),
)
POSITION_PHRASINGS = (
    "what is in the {}",
    "which digit is in the {} cell",
    "name the digit at the {}",
    "show the {} one",
)
RELATION_PHRASINGS = ("what is {} the {}", "which digit stands {} the {}", "name the digit {} the {}")
COUNT_PHRASINGS = ("how many {} are there", "count the {}", "what is the number of {}", "how many cells show {}")


def _cell_names(cell: int) -> list[str]:
    row, column = divmod(cell, GRID_SIDE)
    if cell == NUM_CELLS // 2:
        return ["middle", "centre"]
    return [f"{vertical} {horizontal}" for vertical, horizontal in itertools.product(ROWS[row], COLUMNS[column])]


# All wordings of each question. Questions are numbered: first the cells, then relation by relation the ten digits to
# start from, then the ten digits to count.
_WORDINGS = [
    *([text.format(name) for text in POSITION_PHRASINGS for name in _cell_names(cell)] for cell in range(NUM_CELLS)),
    *(
        [text.format(name, digit) for text in RELATION_PHRASINGS for name in names]
        for names, _ in RELATIONS
        for digit in DIGITS
    ),
    *([text.format(plural) for text in COUNT_PHRASINGS] for plural in PLURALS),
]
_STEPS = np.array([GRID_SIDE * down + right for _, (down, right) in RELATIONS])
# The six cells that have a neighbour in each relation's direction.
_ANCHORS = np.array(
    [
        [
            GRID_SIDE * row + column
            for row, column in itertools.product(range(GRID_SIDE), repeat=2)
            if 0 <= row + down < GRID_SIDE and 0 <= column + right < GRID_SIDE
        ]
        for _, (down, right) in RELATIONS
    ]
)
# Distorting a bank of so many variants of every image once, and drawing from it, is far cheaper than distorting
# every cell of every grid.
NUM_VARIANTS = 32
MAX_ANGLE, MAX_SHEAR, MAX_LOG_SCALE, MAX_SHIFT = 0.2, 0.2, 0.1, 1.0

_FIRST_QUESTION = (0, NUM_CELLS, NUM_CELLS + len(RELATIONS) * len(DIGITS))
VOCABULARY = ("", *sorted({word for texts in _WORDINGS for text in texts for word in text.split()}))
MAX_WORDS = max(len(text.split()) for texts in _WORDINGS for text in texts)


@dataclass(frozen=True)
class DigitGrids(CaptionedPictures):
    """Grids with their questions, N of each; `kinds` tells the three kinds of question apart.

    Attributes
    ----------
    evidence_cells
        The cell (0 to 8, row by row) that shows the answer [N]; -1 for a count. `evidence_box` holds its pixels, and
        nothing for a count.
    digits
        What each cell shows [N, 9].
    sources
        The row in scikit-learn's data of the handwriting in each cell [N, 9].
    """

    evidence_cells: np.ndarray
    digits: np.ndarray
    sources: np.ndarray


def generate(
    num_samples: int, split: Split = "train", *, seed: int = 0, kind_weights: Sequence[float] = (1.0, 1.0, 1.0),
    augment: bool | None = None, split_seed: int = 0,
) -> DigitGrids:  # fmt: skip
    """Lay grids at random and ask about them; the same arguments give the same bits.

    Parameters
    ----------
    num_samples
        N, the number of grids, each with one question.
    split
        Whose handwriting: three quarters of scikit-learn's 1797 images are for training.
    seed
        Decides everything but the split.
    kind_weights
        Relative frequencies of the questions of position, of two hops and of number.
    augment
        Turn, shear, scale, shift (by up to a pixel) and brighten the digits and add noise, each cell on its own; by
        default for training.
    split_seed
        Decides which images are held out for the test, the same share of every digit.

    Returns
    -------
    DigitGrids
        `pictures` [N, 24, 24, 1], `words` [N, 9] and, of `targets`, "answer" [N]: a digit or a count. For two hops
        `first_look` [N] is the cell of the digit that the question names; otherwise -1.

    Examples
    --------
    >>> grids = generate(1000, seed=3)
    >>> grids.pictures.shape, grids.words.shape
    ((1000, 24, 24, 1), (1000, 9))
    >>> grids.caption(1), int(grids.targets["answer"][1])
    ('show the middle one', 5)
    >>> grids.digits[1].reshape(3, 3).tolist()
    [[6, 0, 9], [6, 5, 4], [0, 4, 0]]
    """
    if num_samples < 0 or seed < 0 or split_seed < 0:
        raise ValueError("num_samples, seed and split_seed must not be negative")
    rng = np.random.default_rng([seed, split == "held-out"])
    shares = np.asarray(kind_weights, dtype=np.float64)
    if shares.shape != (len(KINDS),) or not (shares >= 0).all() or not shares.sum() > 0:
        raise ValueError(f"kind_weights must be {len(KINDS)} numbers from 0, not all 0; they are {kind_weights}")
    kinds = rng.choice(len(KINDS), num_samples, p=shares / shares.sum())
    # `named` is the digit that a question names. It stands in the cells `where`, and nowhere else.
    named = rng.integers(NUM_CLASSES, size=num_samples)
    relations = rng.integers(len(RELATIONS), size=num_samples)
    cells = rng.integers(NUM_CELLS, size=num_samples)
    anchors = rng.permuted(_ANCHORS[relations], axis=1)[:, 0]
    counts = rng.integers(NUM_CLASSES, size=num_samples)
    ranks = rng.permuted(np.broadcast_to(np.arange(NUM_CELLS), (num_samples, NUM_CELLS)), axis=1)
    where = np.where((kinds == COUNT)[:, None], ranks < counts[:, None], np.arange(NUM_CELLS) == anchors[:, None])
    others = (named[:, None] + rng.integers(1, NUM_CLASSES, (num_samples, NUM_CELLS))) % NUM_CLASSES
    free = rng.integers(NUM_CLASSES, size=(num_samples, NUM_CELLS))
    digits = np.where((kinds == POSITION)[:, None], free, np.where(where, named[:, None], others))

    evidence = np.choose(kinds, (cells, anchors + _STEPS[relations], np.full(num_samples, -1)))
    seen = np.take_along_axis(digits, evidence[:, None], axis=1)[:, 0]
    questions = np.choose(kinds, (cells, relations * NUM_CLASSES + named, named)) + np.array(_FIRST_QUESTION)[kinds]
    words, lengths, starts, wordings = _tokenised()
    rows = starts[questions] + (rng.random(num_samples) * wordings[questions]).astype(np.int64)

    ink, labels, image_rows = _handwriting(split, split_seed)
    first, total = np.searchsorted(labels, np.arange(NUM_CLASSES)), np.bincount(labels, minlength=NUM_CLASSES)
    chosen = first[digits] + (rng.random(digits.shape) * total[digits]).astype(np.int64)
    if split == "train" if augment is None else augment:
        variants = _distort(np.repeat(ink, NUM_VARIANTS, axis=0), rng)
        tiles = variants[chosen * NUM_VARIANTS + rng.integers(NUM_VARIANTS, size=chosen.shape)]
        tiles *= rng.uniform(0.7, 1.2, (*chosen.shape, 1, 1)).astype(np.float32)
        tiles += 0.05 * rng.standard_normal(tiles.shape, dtype=np.float32)
        np.clip(tiles, 0.0, 1.0, out=tiles)
    else:
        tiles = ink[chosen]
    tiles = tiles.reshape(-1, GRID_SIDE, GRID_SIDE, CELL_SIDE, CELL_SIDE).swapaxes(2, 3)
    pictures = np.rint(255 * tiles).astype(np.uint8).reshape(-1, GRID_SIDE * CELL_SIDE, GRID_SIDE * CELL_SIDE, 1)
    corners = CELL_SIDE * np.stack(np.divmod(evidence, GRID_SIDE), axis=1)
    boxes = np.concatenate([corners, corners + CELL_SIDE], axis=1)
    return DigitGrids(
        pictures=pictures,
        words=words[rows],
        lengths=lengths[rows],
        targets={"answer": np.where(kinds == COUNT, counts, seen)},
        classes={"answer": tuple(map(str, range(NUM_CLASSES)))},
        vocabulary=VOCABULARY,
        evidence_word=np.full(num_samples, -1),
        evidence_box=np.where((kinds == COUNT)[:, None], 0, boxes),
        kinds={name: kinds == number for number, name in enumerate(KINDS)},
        evidence_cells=evidence,
        first_look=np.where(kinds == TWO_HOP, anchors, -1),
        digits=digits,
        sources=image_rows[chosen],
    )


@cache
def _handwriting(split: Split, split_seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ink from 0 to 1 [images, 8, 8], labels and scikit-learn's rows of one split, ordered by label."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    ink, labels = load_digits(return_X_y=True)
    halves = train_test_split(np.arange(len(labels)), test_size=0.25, random_state=split_seed, stratify=labels)
    rows = halves[split == "held-out"]
    rows = rows[np.argsort(labels[rows], kind="stable")]
    return (ink[rows] / 16).astype(np.float32).reshape(-1, CELL_SIDE, CELL_SIDE), labels[rows], rows


@cache
def _tokenised() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Word ids and lengths of all wordings; where each question's wordings begin, and how many it has."""
    index = {word: number for number, word in enumerate(VOCABULARY)}
    texts = [text.split() for texts in _WORDINGS for text in texts]
    word_ids = np.zeros((len(texts), MAX_WORDS), dtype=np.int64)
    for row, words in enumerate(texts):
        word_ids[row, : len(words)] = [index[word] for word in words]
    wordings = np.array([len(texts) for texts in _WORDINGS])
    return word_ids, np.array([len(words) for words in texts]), wordings.cumsum() - wordings, wordings


def _distort(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn, shear, scale and shift each image [images, 8, 8] by a random affine map about its centre, bilinearly."""
    angle = rng.uniform(-MAX_ANGLE, MAX_ANGLE, len(ink))
    shear = rng.uniform(-MAX_SHEAR, MAX_SHEAR, len(ink))
    scale = np.exp(rng.uniform(-MAX_LOG_SCALE, MAX_LOG_SCALE, len(ink)))
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    maps = np.array([[cos, sin], [shear - sin, cos]]).transpose(2, 0, 1)
    centred = np.indices((CELL_SIDE, CELL_SIDE)).reshape(2, -1) - (CELL_SIDE - 1) / 2
    shift = rng.uniform(-MAX_SHIFT, MAX_SHIFT, (len(ink), 2, 1)) + (CELL_SIDE - 1) / 2
    # Two pixels of empty margin all round, at whose edge whatever lies further out is read.
    margin, side = 2, CELL_SIDE + 4
    source = (maps @ centred + shift + margin).clip(0, side - 1.001)
    corner = source.astype(np.int64)
    below, right = (source - corner).astype(np.float32).swapaxes(0, 1)
    padded = np.pad(ink, ((0, 0), (margin, margin), (margin, margin))).reshape(-1)
    first = np.arange(len(ink))[:, None] * side**2 + corner[:, 0] * side + corner[:, 1]
    upper = padded[first] * (1 - right) + padded[first + 1] * right
    lower = padded[first + side] * (1 - right) + padded[first + side + 1] * right
    distorted: np.ndarray = upper * (1 - below) + lower * below
    return distorted.reshape(ink.shape)
