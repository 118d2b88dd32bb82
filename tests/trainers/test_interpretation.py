import dataclasses

import numpy as np
import pytest

from metafast.data import animal_scenes
from metafast.trainers import _interpretation

SCENES = animal_scenes.generate(40, seed=2)
GRID = (6, 6)


def test_regions_are_evidence_where_the_box_covers_a_quarter():
    boxes = np.array([[8, 8, 16, 16], [8, 8, 18, 24], [0, 0, 4, 4], [0, 0, 3, 4]])
    some = dataclasses.replace(SCENES.select(np.arange(4)), evidence_box=boxes)
    evidence = _interpretation.region_evidence(some, GRID).reshape(4, *GRID)
    assert np.argwhere(evidence[0]).tolist() == [[1, 1]]
    # Of the third row of regions, the box has a quarter of the height: exactly enough.
    assert np.argwhere(evidence[1]).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert np.argwhere(evidence[2]).tolist() == [[0, 0]]
    assert not evidence[3].any()


def test_pointing_counts_weight_and_the_greatest_weight_where_there_is_evidence():
    weights = np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    evidence = np.array([[True, False, False], [True, True, False], [False, False, False]])
    taking_part = np.array([[True, True, True], [True, True, True], [True, False, False]])
    result = _interpretation.point(weights, evidence, taking_part)
    assert result["mass"] == pytest.approx((0.6 + 0.5) / 2)
    assert result["pointing"] == 0.5
    assert result["even_mass"] == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert _interpretation.point(weights, evidence & False, taking_part)["mass"] is None


def test_deleting_a_word_closes_the_caption_up():
    where = np.arange(len(SCENES)) % SCENES.lengths
    shorter = _interpretation.delete_words(SCENES, where)
    for sample, place in enumerate(where):
        words = SCENES.caption(sample).split()
        assert shorter.caption(sample).split() == words[:place] + words[place + 1 :]
    assert (shorter.words[np.arange(12) >= shorter.lengths[:, None]] == 0).all()


def test_deleting_a_region_paints_its_pixels_alone():
    where = np.arange(len(SCENES)) % 36
    painted = _interpretation.delete_regions(SCENES, where, GRID)
    for sample, region in enumerate(where):
        row, column = divmod(region, 6)
        inside = np.zeros((48, 48), dtype=bool)
        inside[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = True
        np.testing.assert_array_equal(painted.pictures[sample][~inside], SCENES.pictures[sample][~inside])
        mean = SCENES.pictures[sample].mean((0, 1)).round()
        assert (painted.pictures[sample][inside] == mean).all()


def test_the_other_place_is_any_but_the_chosen():
    rng = np.random.default_rng(0)
    chosen, counts = np.tile([0, 1, 2, 4], 500), np.tile([2, 3, 4, 5], 500)
    other = _interpretation.draw_other(rng, chosen, counts)
    assert ((other >= 0) & (other < counts) & (other != chosen)).all()
    assert set(other[3::4]) == {0, 1, 2, 3}


def test_deletion_tells_weights_on_the_evidence_from_weights_elsewhere():
    def predict(data):
        # Afraid where a word of fear is left; species by whether the animal's first region is painted over.
        fear = [animal_scenes.WORD_IDS[word] for word in animal_scenes.AFRAID_WORDS]
        return {"reaction": np.isin(data.words, fear).any(1).astype(int)}

    fear = [animal_scenes.WORD_IDS[word] for word in animal_scenes.AFRAID_WORDS]
    once = np.flatnonzero(
        (np.isin(SCENES.words, fear).sum(1) == 1)
        & (SCENES.evidence_word >= 0)
        & np.isin(SCENES.words[np.arange(40), SCENES.evidence_word], fear)
    )
    assert len(once) >= 5
    part = SCENES.select(once)
    right = _interpretation.word_evidence(part).astype(float)
    regions = np.full((len(part), 36), 1 / 36)
    result = _interpretation.deletion_test(predict, part, right, regions, GRID)
    assert result["words"] == {"top": {"reaction": 1.0}, "other": {"reaction": 0.0}}
    assert result["regions"] == {"top": {"reaction": 0.0}, "other": {"reaction": 0.0}}
    wrong = np.roll(right, 1, axis=1) * (np.arange(12) < part.lengths[:, None])
    assert _interpretation.deletion_test(predict, part, wrong, regions, GRID)["words"]["top"]["reaction"] < 0.5


def test_confusions_count_true_answers_down_and_predictions_across(tmp_path):
    predictions = {question: answers.copy() for question, answers in SCENES.targets.items()}
    predictions["species"][:] = 2
    counts = _interpretation.count_confusions(SCENES, predictions)
    np.testing.assert_array_equal(counts["species"][:, 2], np.bincount(SCENES.targets["species"], minlength=8))
    assert counts["species"].sum() == 40
    assert np.trace(counts["reaction"]) == 40
    _interpretation.draw_confusions(tmp_path / "confusion.png", SCENES, predictions)
    assert (tmp_path / "confusion.png").stat().st_size > 10_000


@pytest.mark.parametrize("hops", [1, 2])
def test_heat_maps_are_drawn_for_every_hop_and_for_grey_pictures(tmp_path, hops):
    some = SCENES.select(np.arange(2))
    weights = np.full((2, 12), 1 / 12), np.full((2, hops, 36), 1 / 36)
    sizes = []
    for pictures in (some.pictures, some.pictures[..., :1]):
        data = dataclasses.replace(some, pictures=pictures)
        path = tmp_path / f"{pictures.shape[-1]}.png"
        _interpretation.draw_heat_maps(path, data, some.targets, *weights, GRID)
        sizes.append(path.stat().st_size)
    assert min(sizes) > 10_000
    assert sizes[0] != sizes[1]
