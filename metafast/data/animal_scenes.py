"""Generated pictures of animals with captions: which species is it, and is it afraid of light?

The species is to be seen in the picture alone: captions never name it. Each species has a reaction of its own, which a
caption overrides where it says something of the animal shown, told by its colour: "the grey creature timid". What is
said of animals of other colours, or of objects, overrides nothing, so that picture and caption must be read together.
"""

import itertools
from typing import Literal

import numpy as np

from metafast.data import _animal_shapes as shapes
from metafast.data.captioned import CaptionedPictures

Split = Literal["train", "held-out"]
SIZE = 48
SPECIES, POSES = shapes.SPECIES, shapes.POSES
REACTIONS = ("afraid", "not afraid")
# Reaction by species where the caption does not say otherwise.
DEFAULT_REACTION = np.array([0, 1, 0, 1, 1, 0, 1, 0])

COLOURS = {
    "black": (0.12, 0.11, 0.14), "white": (0.95, 0.94, 0.92), "golden": (0.93, 0.72, 0.18), "red": (0.78, 0.20, 0.14),
}  # fmt: skip
ANIMAL_NOUNS = ("one", "animal", "creature", "beast")
OBJECT_NOUNS = ("ball", "box", "cushion", "lamp")
AFRAID_WORDS = ("timid", "scared", "nervous", "anxious")
CALM_WORDS = ("calm", "bold", "relaxed", "serene")
FILLERS = ("in the garden", "by an old wall", "under the trees", "late this morning", "near a window", "as usual again")
_LITTLE_WORDS = sorted({word for filler in FILLERS for word in filler.split()} | {"the", "a", "quite"})
VOCABULARY = ("", *COLOURS, *ANIMAL_NOUNS, *OBJECT_NOUNS, *AFRAID_WORDS, *CALM_WORDS, *_LITTLE_WORDS)
WORD_IDS = {word: number for number, word in enumerate(VOCABULARY)}

# How a clause is worded: C is the colour, N the noun, W the word of reaction.
TEMPLATES = ("the C N W", "C N quite W", "W the C N", "W a C N")
CLAUSE_LENGTH, MOST_CLAUSES = 4, 3
NO_OVERRIDE = len(AFRAID_WORDS + CALM_WORDS)
OVERRIDDEN_SHARE = 0.6


def combinations(split: Split) -> np.ndarray:
    """(species, pose, word that overrides or NO_OVERRIDE) of a split [combinations, 3].

    A fifth is held out from training, so chosen that training still sees every pair out of such a combination.
    """
    every = np.array(list(itertools.product(range(len(SPECIES)), range(len(POSES)), range(NO_OVERRIDE + 1))))
    held_out = every @ (1, 2, 3) % 5 == 0
    chosen: np.ndarray = every[held_out if split == "held-out" else ~held_out]
    return chosen


def generate(num_samples: int, split: Split = "train", *, seed: int = 0, clutter: int = 4) -> CaptionedPictures:
    """Draw `num_samples` pictures of 48 by 48 pixels, each with `clutter` objects about one animal, and caption them.

    Examples
    --------
    >>> scenes = generate(100, "held-out", seed=1)
    >>> scenes.pictures.shape, scenes.words.shape
    ((100, 48, 48, 3), (100, 12))
    >>> scenes.caption(0)
    'the white animal scared bold red creature red ball quite nervous'
    """
    rng = np.random.default_rng([seed, split == "held-out"])
    possible = combinations(split)
    overriding = possible[:, 2] != NO_OVERRIDE
    chosen = np.where(
        rng.random(num_samples) < OVERRIDDEN_SHARE,
        rng.choice(np.flatnonzero(overriding), num_samples),
        rng.choice(np.flatnonzero(~overriding), num_samples),
    )
    species, pose, word = possible[chosen].T
    colour = rng.integers(len(COLOURS), size=num_samples)
    words, lengths, evidence_word = _write_captions(rng, colour, word)
    # Drawn in parts that fit the processor's cache.
    parts = [slice(start, start + 64) for start in range(0, num_samples, 64)]
    drawn = [_draw(rng, species[part], pose[part], colour[part], clutter) for part in parts]
    overridden = word != NO_OVERRIDE
    reaction = np.where(overridden, word >= len(AFRAID_WORDS), DEFAULT_REACTION[species])
    return CaptionedPictures(
        pictures=np.concatenate([pictures for pictures, _ in drawn]),
        words=words,
        lengths=lengths,
        targets={"species": species, "reaction": reaction.astype(np.int64)},
        classes={"species": SPECIES, "reaction": REACTIONS},
        vocabulary=VOCABULARY,
        evidence_word=evidence_word,
        evidence_box=np.concatenate([boxes for _, boxes in drawn]),
        kinds={"overridden": overridden, "by default": ~overridden},
    )


def _ids(words: tuple[str, ...]) -> np.ndarray:
    return np.array([WORD_IDS[word] for word in words])


def _write_captions(
    rng: np.random.Generator, colour: np.ndarray, word: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Captions [samples, 12], their lengths, and where in them the word is that overrides, or -1."""
    samples, overridden = len(colour), word != NO_OVERRIDE
    shape = samples, MOST_CLAUSES
    # Clauses: of an animal, of another animal, and of an object or of nothing; the first is of the animal shown where
    # there is an override. What is said of the two animals is opposite, so that words alone decide nothing.
    kind = np.zeros(shape, dtype=np.int64)
    kind[:, 2] = rng.integers(1, 3, size=samples)
    clause_word = rng.integers(NO_OVERRIDE, size=shape)
    clause_word[:, 0] = np.where(overridden, word, clause_word[:, 0])
    half = NO_OVERRIDE // 2
    clause_word[:, 1] = clause_word[:, 1] % half + np.where(clause_word[:, 0] < half, half, 0)
    # Other animals have other colours, each its own; objects have any.
    shift = rng.permuted(np.tile(np.arange(1, len(COLOURS)), (samples, 1)), axis=1)[:, :MOST_CLAUSES]
    shift[:, 0] *= ~overridden
    clause_colour = np.where(
        kind == 0, (colour[:, None] + shift) % len(COLOURS), rng.integers(len(COLOURS), size=shape)
    )
    noun = np.where(
        kind == 0,
        rng.choice(_ids(ANIMAL_NOUNS), shape),
        rng.choice(_ids(OBJECT_NOUNS), shape),
    )
    # [samples, clauses, 4]: templates with their letters replaced, or fillers.
    patterns = np.array([[WORD_IDS.get(part, -"CNW".find(part) - 1) for part in line.split()] for line in TEMPLATES])
    template = rng.integers(len(TEMPLATES), size=shape)
    text = patterns[template]
    reaction_ids = _ids(AFRAID_WORDS + CALM_WORDS)[clause_word]
    for letter, ids in ((-1, _ids(tuple(COLOURS))[clause_colour]), (-2, noun), (-3, reaction_ids)):
        text = np.where(text == letter, ids[..., None], text)
    fillers = np.zeros((len(FILLERS), CLAUSE_LENGTH), dtype=np.int64)
    for row, filler in zip(fillers, FILLERS, strict=True):
        row[: len(filler.split())] = _ids(tuple(filler.split()))
    text = np.where((kind == 2)[..., None], fillers[rng.integers(len(FILLERS), size=shape)], text)
    marked = np.zeros_like(text, dtype=bool)
    marked[:, 0] = (patterns[template[:, 0]] == -3) & overridden[:, None]
    # Some words and clauses are left out: little words of clauses, and now and then a clause.
    little = np.isin(text, _ids(("the", "a", "quite"))) & (kind != 2)[..., None]
    text[little & (rng.random(text.shape) < 0.5)] = 0
    text[rng.random(samples) < 0.3, 1] = 0
    text[rng.random(samples) < 0.4, 2] = 0
    order = rng.permuted(np.tile(np.arange(MOST_CLAUSES), (samples, 1)), axis=1)[..., None]
    text, marked = (np.take_along_axis(array, order, 1).reshape(samples, -1) for array in (text, marked))
    # Close the gaps.
    order = np.argsort(text == 0, axis=1, kind="stable")
    text, marked = (np.take_along_axis(array, order, 1) for array in (text, marked))
    return text, (text != 0).sum(1), np.where(overridden, marked.argmax(1), -1)


_BODY, _MARKINGS = shapes.tabulate(shapes.BODIES), shapes.tabulate(shapes.MARKINGS)
_CENTRE = shapes.centre(_BODY)
_PALETTE = np.array(list(COLOURS.values()), dtype=np.float32)
# Coordinates from the picture's middle keep the quadratic forms below small, as float32 needs.
_ROWS, _COLUMNS = (np.mgrid[:SIZE, :SIZE].reshape(2, -1) - (SIZE - 1) / 2).astype(np.float32)
_MONOMIALS = np.stack([_COLUMNS**2, _COLUMNS * _ROWS, _ROWS**2, _COLUMNS, _ROWS, np.ones_like(_ROWS)])


def _cover(x: np.ndarray, y: np.ndarray, along: np.ndarray, across: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """How much of each pixel, from 0 to 1, a union of ellipses covers: parameters [samples, ellipses] in pixels.

    Inside an ellipse a quadratic form of the coordinates is below 1, so that one matrix product with the monomials of
    all pixels serves all ellipses. Those of NaN cover nothing.
    """
    cosine, sine = np.cos(angle), np.sin(angle)
    a = (cosine / along) ** 2 + (sine / across) ** 2
    b = 2 * cosine * sine * (1 / along**2 - 1 / across**2)
    c = (sine / along) ** 2 + (cosine / across) ** 2
    form = np.stack([a, b, c, -2 * a * x - b * y, -2 * c * y - b * x, a * x * x + b * x * y + c * y * y - 1], -1)
    # Half the shorter half-length makes it about the distance from the edge in pixels.
    form *= (-0.5 * np.minimum(along, across))[..., None]
    form = np.where(np.isnan(form), [0, 0, 0, 0, 0, -1], form).astype(np.float32)
    cover: np.ndarray = (form @ _MONOMIALS).max(1)
    cover += 0.5
    return np.clip(cover, 0.0, 1.0, out=cover)


def _paint(canvas: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> None:
    """Lay `colour` [samples, 3] over `canvas` [samples, 3, pixels] where `cover` [samples, pixels] says."""
    change = colour[..., None].astype(np.float32) - canvas
    change *= cover[:, None]
    canvas += change


def _draw(
    rng: np.random.Generator, species: np.ndarray, pose: np.ndarray, colour: np.ndarray, clutter: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures [samples, 48, 48, 3] as bytes, and the animals' boxes [samples, 4]."""
    samples = len(species)
    # Bluish above and greenish below: no animal has these colours.
    sky = rng.uniform((0.30, 0.45, 0.70), (0.60, 0.70, 0.95), (samples, 3)).astype(np.float32)[..., None]
    ground = rng.uniform((0.25, 0.50, 0.25), (0.50, 0.75, 0.45), (samples, 3)).astype(np.float32)[..., None]
    canvas = sky + (ground - sky) * (_ROWS / SIZE + 0.5)
    for _ in range(clutter):
        _paint(canvas, _object_cover(rng, samples), _tint(rng, rng.integers(len(_PALETTE), size=samples)))

    # The animal: looking left or right, of some size, somewhat tilted, anywhere in the picture.
    facing = rng.choice([-1.0, 1.0], (samples, 1))
    scale = rng.uniform(15.0, 19.0, (samples, 1))
    tilt = rng.normal(0, 0.08, (samples, 1))
    middle = rng.uniform(-11, 11, (2, samples, 1))

    def cover(table: np.ndarray) -> np.ndarray:
        x, y, along, across, angle = np.moveaxis(table[species, pose], -1, 0)
        x, y = x - _CENTRE[species, pose, 0, None], y - _CENTRE[species, pose, 1, None]
        x, y = np.cos(tilt) * x - np.sin(tilt) * y, np.sin(tilt) * x + np.cos(tilt) * y
        # Rows count downwards.
        x, y, angle = middle[0] + facing * scale * x, middle[1] - scale * y, -facing * (angle + tilt)
        return _cover(x, y, scale * along, scale * across, angle)

    body = cover(_BODY)
    tint = _tint(rng, colour)
    _paint(canvas, body, tint)
    _paint(canvas, cover(_MARKINGS) * body, np.where(tint.mean(1, keepdims=True) > 0.4, 0.35 * tint, 0.5 + 0.5 * tint))
    canvas += 0.03 * rng.standard_normal(canvas.shape, dtype=np.float32)
    canvas *= 255
    pictures = np.clip(canvas, 0, 255, out=canvas).astype(np.uint8).transpose(0, 2, 1).reshape(-1, SIZE, SIZE, 3)
    return pictures, _boxes(body.reshape(samples, SIZE, SIZE) > 0.1)


def _tint(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    tint: np.ndarray = _PALETTE[colour] + rng.normal(0, 0.04, (len(colour), 3))
    return tint


def _object_cover(rng: np.random.Generator, samples: int) -> np.ndarray:
    """What a ball, a stick or a bush covers in each picture: [samples, pixels]."""
    x, y = rng.uniform(-SIZE / 2, SIZE / 2, (2, samples, 1))
    angle = rng.uniform(0, np.pi, (samples, 1))
    kind = rng.integers(3, size=(samples, 1))
    along = rng.uniform(np.choose(kind, [2, 4, 2.5]), np.choose(kind, [4.5, 9, 4]))
    across = np.choose(kind, [along, rng.uniform(0.8, 1.8, along.shape), rng.uniform(1.5, 2.5, along.shape)])
    # A bush is three ellipses across one another.
    turns = np.where(kind == 2, np.arange(3) * np.pi / 3, 0.0)
    return _cover(x + 0 * turns, y + 0 * turns, along + 0 * turns, across + 0 * turns, angle + turns)


def _boxes(masks: np.ndarray) -> np.ndarray:
    """Top, left, bottom and right [samples, 4] of what is true in `masks` [samples, rows, columns]."""
    lines = [np.any(masks, axis=axis) for axis in (2, 1)]
    first = [line.argmax(1) for line in lines]
    last = [line.shape[1] - line[:, ::-1].argmax(1) for line in lines]
    return np.stack(first + last, 1)
