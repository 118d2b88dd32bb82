"""The digit grid in the attention trainer: two looks, the first of them taught where to look."""

import numpy as np
import pytest
import torch

from metafast.data import digit_grid
from metafast.trainers import UsageError
from metafast.trainers import attention as at
from metafast.trainers._learner import ModuleLearner

CPU = torch.device("cpu")
GRIDS = digit_grid.generate(64, seed=1)
TWO_HOPS = np.flatnonzero(GRIDS.kinds["two-hop"])


def learn(updates, **options):
    config = at.configure("digit-grid", **options)
    model = at.make_model(config, GRIDS)
    learner = ModuleLearner(model, torch.Generator(), CPU)
    return model, [at.update(config, model, learner, GRIDS, np.arange(64), 3e-3) for _ in range(updates)]


def test_a_batch_is_learnt_by_heart_and_so_is_where_to_look_first():
    model, losses = learn(80)
    assert losses[-1]["answer"] < 0.2 * losses[0]["answer"]
    assert losses[-1]["first look"] < 0.2 * losses[0]["first look"]
    looks = at.answer(model, GRIDS, CPU).region_weights
    assert looks.shape == (64, 2, 9)
    assert (looks[TWO_HOPS, 0].argmax(1) == GRIDS.first_look[TWO_HOPS]).mean() > 0.8


def test_guidance_is_the_mean_surprise_at_the_first_look_of_two_hops():
    config = at.configure("digit-grid", guidance=0.5)
    model = at.make_model(config, GRIDS).train()
    with torch.no_grad():
        looks = model(*at.to_batch(GRIDS, slice(None), CPU)).region_weights[:, 0].numpy()
    losses = at.update(config, model, ModuleLearner(model, torch.Generator(), CPU), GRIDS, np.arange(64), 0.0)
    surprise = -np.log(looks[TWO_HOPS, GRIDS.first_look[TWO_HOPS]])
    assert float(losses["first look"]) == pytest.approx(0.5 * surprise.sum() / 64, rel=1e-4)


def test_guidance_leaves_other_kinds_of_question_alone():
    grids = digit_grid.generate(32, kind_weights=(1, 0, 1))
    states = []
    for guidance in (0.0, 1.0):
        config = at.configure("digit-grid", guidance=guidance)
        model = at.make_model(config, grids)
        at.update(config, model, ModuleLearner(model, torch.Generator(), CPU), grids, np.arange(32), 1e-3)
        states.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(*states)
    assert "first look" not in learn(1, guidance=0.0)[1][0]


def test_every_parameter_of_two_looks_learns():
    model = at.make_model(at.configure("digit-grid"), GRIDS)
    model(*at.to_batch(GRIDS, slice(None), CPU)).logits["answer"].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # What is added to every score of a softmax cancels.
        assert parameter.grad.abs().max() > 0 or name.endswith("bias"), name


def test_a_short_training_looks_first_at_the_digit_named_and_reports_each_kind(tmp_path):
    options = {"samples": 6_400, "held_out_samples": 400, "epochs": 3, "batch_size": 64, "region_size": 64}
    result = at.train(at.configure("digit-grid", run_dir=str(tmp_path / "run"), heat_maps=2, **options))
    # Chance is a ninth; the full training takes minutes.
    assert result["first_look"]["pointing"] > 0.3
    assert at.evaluate(result["run_dir"], samples=400)["first_look"]["pointing"] > 0.3
    assert result["accuracy_by_kind"].keys() == result["regions_by_kind"].keys() == {"position", "two-hop", "count"}
    assert result["regions_by_kind"]["count"]["pointing"] is None
    assert result["regions_by_kind"]["two-hop"]["even_mass"] == pytest.approx(1 / 9)
    assert (tmp_path / "run" / "heat_maps.png").stat().st_size > 10_000
    assert "two-hop: answer" in at.describe(result)


def test_guidance_out_of_range_is_refused():
    with pytest.raises(UsageError, match="guidance"):
        at.configure("digit-grid", guidance=-1.0)
