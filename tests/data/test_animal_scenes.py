import dataclasses

import numpy as np
import pytest

from metafast.data import _animal_shapes as shapes
from metafast.data import animal_scenes

SCENES = animal_scenes.generate(600, "train", seed=3)
REACTION_WORDS = animal_scenes.AFRAID_WORDS + animal_scenes.CALM_WORDS


def words_of(scenes, sample):
    return scenes.caption(sample).split()


def test_shapes_and_ranges():
    assert SCENES.pictures.shape == (600, 48, 48, 3)
    assert SCENES.pictures.dtype == np.uint8
    assert SCENES.words.shape == (600, 12)
    assert (SCENES.lengths.min(), SCENES.lengths.max()) == (3, 12)
    in_caption = np.arange(12) < SCENES.lengths[:, None]
    assert ((SCENES.words > 0) == in_caption).all()
    assert SCENES.words.max() < len(SCENES.vocabulary)
    assert len(set(SCENES.vocabulary)) == len(SCENES.vocabulary)
    for question, answers in SCENES.targets.items():
        assert set(answers) == set(range(len(SCENES.classes[question])))


def test_a_seed_repeats_and_another_differs():
    again, other = (animal_scenes.generate(100, "train", seed=seed) for seed in (3, 4))
    same = animal_scenes.generate(100, "train", seed=3)
    for field in ("pictures", "words", "lengths", "evidence_word", "evidence_box"):
        np.testing.assert_array_equal(getattr(again, field), getattr(same, field))
        assert not np.array_equal(getattr(again, field), getattr(other, field))
    assert not np.array_equal(again.pictures, animal_scenes.generate(100, "held-out", seed=3).pictures)


def test_captions_never_name_a_species_and_do_not_depend_on_it():
    assert not set(SCENES.vocabulary) & set(animal_scenes.SPECIES)
    # What decides which words there are is whether and how a reaction is overridden; over that, species are spread as
    # the combinations allow: no word goes with a species by more than chance.
    scenes = animal_scenes.generate(20_000, "train", seed=0, clutter=0)
    counts = np.zeros((len(animal_scenes.SPECIES), len(scenes.vocabulary)))
    for species in range(len(animal_scenes.SPECIES)):
        words = scenes.words[scenes.targets["species"] == species]
        counts[species] = np.bincount(words[words > 0], minlength=len(scenes.vocabulary)) / len(words)
    assert (np.ptp(counts, axis=0) < 0.1).all()


def test_held_out_combinations_are_disjoint_and_all_their_pairs_are_trained():
    train, held_out = map(animal_scenes.combinations, ("train", "held-out"))
    assert not set(map(tuple, train)) & set(map(tuple, held_out))
    assert len(train) + len(held_out) == 8 * 4 * 9
    assert 0.15 < len(held_out) / (len(train) + len(held_out)) < 0.25
    for pair in ((0, 1), (0, 2), (1, 2)):
        assert set(map(tuple, held_out[:, pair])) <= set(map(tuple, train[:, pair]))


@pytest.mark.parametrize("split", ["train", "held-out"])
def test_samples_are_of_their_split(split, monkeypatch):
    poses = []
    draw = animal_scenes._draw
    monkeypatch.setattr(animal_scenes, "_draw", lambda *options: [poses.append(options[2]), draw(*options)][1])
    scenes = animal_scenes.generate(300, split, seed=1)
    allowed = set(map(tuple, animal_scenes.combinations(split)))
    for sample, (species, pose) in enumerate(zip(scenes.targets["species"], np.concatenate(poses), strict=True)):
        place = scenes.evidence_word[sample]
        word = REACTION_WORDS.index(words_of(scenes, sample)[place]) if place >= 0 else animal_scenes.NO_OVERRIDE
        assert (species, pose, word) in allowed


def test_the_planted_word_decides_and_other_words_of_reaction_do_not():
    distracted = 0
    for sample in range(len(SCENES)):
        words, place = words_of(SCENES, sample), SCENES.evidence_word[sample]
        afraid = SCENES.targets["reaction"][sample] == 0
        assert (place >= 0) == SCENES.kinds["overridden"][sample]
        if place >= 0:
            assert words[place] in REACTION_WORDS
            assert (words[place] in animal_scenes.AFRAID_WORDS) == afraid
            others = words[:place] + words[place + 1 :]
        else:
            assert (
                animal_scenes.DEFAULT_REACTION[SCENES.targets["species"][sample]] == SCENES.targets["reaction"][sample]
            )
            others = words
        opposite = animal_scenes.CALM_WORDS if afraid else animal_scenes.AFRAID_WORDS
        distracted += any(word in opposite for word in others)
    assert distracted > len(SCENES) / 2


def test_what_overrides_is_said_of_an_animal_of_the_colour_shown(monkeypatch):
    shown = []
    draw = animal_scenes._draw
    monkeypatch.setattr(animal_scenes, "_draw", lambda *options: [shown.append(options[3]), draw(*options)][1])
    scenes = animal_scenes.generate(400, seed=2)
    colours = np.array(list(animal_scenes.COLOURS))[np.concatenate(shown)]
    for sample, colour in enumerate(colours):
        words = words_of(scenes, sample)
        told = {
            words[i] for i, word in enumerate(words[1:]) if word in animal_scenes.ANIMAL_NOUNS
        }  # each noun follows its colour
        assert (colour in told) == (scenes.evidence_word[sample] >= 0)


def test_the_box_holds_the_animal_and_nothing_more(monkeypatch):
    with_animal = animal_scenes.generate(128, seed=5)
    # The same pictures but for the animal: everything is drawn in the same order with nothing in its place.
    monkeypatch.setattr(animal_scenes, "_BODY", animal_scenes._BODY * [1, 1, np.nan, np.nan, 1])
    paint = animal_scenes._paint

    def paint_all_but_animals(canvas, cover, colour):
        paint(canvas, np.nan_to_num(cover), colour)

    monkeypatch.setattr(animal_scenes, "_paint", paint_all_but_animals)
    without = animal_scenes.generate(128, seed=5)
    np.testing.assert_array_equal(with_animal.words, without.words)
    changed = (np.abs(with_animal.pictures.astype(int) - without.pictures) > 25).any(-1)
    assert changed.any((1, 2)).all()
    for mask, (top, left, bottom, right) in zip(changed, with_animal.evidence_box, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert rows[0] >= top
        assert rows[-1] < bottom
        assert columns[0] >= left
        assert columns[-1] < right
        inside = mask[top:bottom, left:right]
        assert inside.mean() > 0.15


def test_species_and_poses_look_different():
    tables = shapes.tabulate(shapes.BODIES)
    assert tables.shape[:2] == (len(shapes.SPECIES), len(shapes.POSES)) == (8, 4)
    flat = np.nan_to_num(tables).reshape(32, -1)
    distances = np.abs(flat[:, None] - flat).max(-1)
    assert (distances[~np.eye(32, dtype=bool)] > 0.1).all()


def test_selecting_keeps_samples_whole():
    part = SCENES.select(np.array([5, 2]))
    assert len(part) == 2
    assert part.caption(0) == SCENES.caption(5)
    assert part.targets["species"].tolist() == SCENES.targets["species"][[5, 2]].tolist()
    np.testing.assert_array_equal(part.pictures[1], SCENES.pictures[2])
    assert {field.name for field in dataclasses.fields(part)} == {field.name for field in dataclasses.fields(SCENES)}
