"""Weights of tasks and aggregations of their gradients, by their defining formulas."""

import numpy as np
import pytest
import torch
from trainers.multitask_cases import (
    assert_same_gradient,
    autograd,
    backward,
    compute_loss,
    make_network,
    make_table,
    parts,
    unsettle,
)

from metafast.trainers import UsageError, _weighting
from metafast.trainers import multitask as mt

TABLE = make_table(missing=0.3)
ROWS = torch.arange(64)


def compute_losses(network, rows=ROWS):
    outputs, _ = network.model(network.features[rows])
    return [compute_loss(network, task, outputs[task], network.labels[rows, task]) for task in range(len(outputs))]


def test_scaled_losses_are_in_units_of_the_loss_of_the_prior():
    network = make_network(TABLE, weighting="scaled", regression="squared")
    expected = [1 / float(loss.detach()) for loss in compute_losses(network, torch.arange(len(TABLE)))]
    # At its start the network says little but the prior.
    np.testing.assert_allclose(network.weighting.weights, expected, rtol=2e-2)
    total = autograd(
        network, sum(w * loss for w, loss in zip(network.weighting.weights, compute_losses(network), strict=True))
    )
    assert_same_gradient(backward(network, ROWS)[1], total, total)


def test_uncertainty_divides_by_variances_that_it_learns():
    network = make_network(TABLE, weighting="uncertainty", regression="squared")
    with torch.no_grad():
        for task, head in enumerate(network.model.readout.heads):
            head.log_variance.fill_(0.5 * task - 0.7)
    variances = [head.log_variance.exp() for head in network.model.readout.heads]
    factors = [1.0, 0.5, 1.0, 0.5]
    terms = [
        factor * loss / variance + variance.sqrt().log()
        for factor, loss, variance in zip(factors, compute_losses(network), variances, strict=True)
    ]
    expected = autograd(network, sum(terms))
    gradient = backward(network, ROWS)[1]
    assert_same_gradient(gradient, expected, expected)
    assert all(gradient[f"readout.heads.{task}.log_variance"].abs() > 1e-3 for task in range(4))


def test_dynamic_averages_weigh_by_how_slowly_the_losses_fell():
    network = make_network(TABLE, weighting="dwa", regression="squared")
    means = []
    for epoch in range(3):
        assert epoch >= 2 or network.weighting.weights.tolist() == [1.0] * 4
        losses = []
        for start in (0, 48):
            losses.append(mt.update(network, torch.arange(start, start + 48), range(4), 3e-2).numpy().copy())
        network.weighting.end_epoch()
        means.append(np.mean(losses, 0))
        if epoch:
            rates = means[-1] / means[-2]
            weights = 4 * np.exp(rates / 2) / np.exp(rates / 2).sum()
            np.testing.assert_allclose(network.weighting.weights, weights, rtol=1e-5)
    assert weights.max() > weights.min() + 1e-3


def test_gradnorm_steps_towards_equal_norms_of_the_weighted_gradients_in_the_last_shared_layer():
    network = make_network(make_table(), weighting="gradnorm", regression="squared")
    for _ in range(10):
        mt.update(network, ROWS, range(4), 1e-2)
    before = network.weighting.weights.clone()
    assert float(before.sum()) == pytest.approx(4.0, abs=1e-5)
    losses = compute_losses(network)
    layer = network.model.trunk[2].weight
    norms = torch.stack([torch.autograd.grad(loss, layer, retain_graph=True)[0].norm() for loss in losses])
    expected = autograd(network, sum(w * loss for w, loss in zip(before, losses, strict=True)))
    labels = make_table().labels.astype(np.float64)
    shares = [np.bincount(labels[:, task].astype(int)) / len(labels) for task in (0, 2)]
    first = [
        -(shares[0] * np.log(shares[0])).sum(),
        labels[:, 1].var(),
        -(shares[1] * np.log(shares[1])).sum(),
        labels[:, 3].var(),
    ]
    ratios = torch.stack(losses).detach() / torch.tensor(first)
    aims = ((before * norms).mean() * (ratios / ratios.mean()) ** 1.5).detach()
    weights = before.clone().requires_grad_()
    (weights * norms.detach() - aims).abs().sum().backward()
    stepped = (before - 0.025 * weights.grad.sign()).clamp(min=1e-3)
    gradient = backward(network, ROWS)[1]
    assert_same_gradient(gradient, expected, expected)
    np.testing.assert_allclose(network.weighting.weights, 4 * stepped / stepped.sum(), rtol=1e-5)
    assert before.max() > before.min() + 0.05


def make_opposed():
    """Two tasks that want the same head to say the opposite: their gradients of the trunk conflict."""
    table = make_table(real=False)
    table.labels[:, 1] = np.where(np.arange(len(table)) % 7 > 0, 1 - table.labels[:, 0], table.labels[:, 1])
    return table.select(["flag", "share"])


@pytest.mark.parametrize("name", [*mt.AGGREGATORS])
def test_aggregators_move_the_trunk_by_their_own_rule_and_each_head_by_its_own_loss(name):
    pytest.importorskip("torchjd")
    if name == "nash-mtl":
        pytest.importorskip("ecos")
    network = unsettle(make_network(make_opposed(), weighting=name, regression="bernoulli"))
    first, second = network.model.readout.heads
    second.linear.load_state_dict(first.linear.state_dict())
    losses = compute_losses(network)
    each = [autograd(network, loss) for loss in losses]
    trunk, heads = parts(network)
    gradient = backward(network, ROWS)[1]
    for task in range(2):
        assert_same_gradient(gradient, each[task], heads[task])
    jacobian = torch.stack([torch.cat([part[name].flatten() for name in trunk]) for part in each])
    direction = torch.cat([gradient[name].flatten() for name in trunk])
    g, h = jacobian
    assert torch.cosine_similarity(g, h, 0) < -0.2
    # Every rule here combines the two gradients, and neither task pays for the other one.
    coefficients = torch.linalg.lstsq(jacobian.T, direction[:, None]).solution[:, 0]
    torch.testing.assert_close(coefficients @ jacobian, direction, atol=1e-6, rtol=1e-3)
    assert (jacobian @ direction > -1e-8).all()
    assert not torch.allclose(direction, jacobian.sum(0), atol=1e-7)
    if name == "pcgrad":
        # Each is projected on the normal plane of the other.
        expected = g - (g @ h) / (h @ h) * h + h - (g @ h) / (g @ g) * g
        torch.testing.assert_close(direction, expected, atol=1e-7, rtol=1e-4)
    if name == "mgda":
        # The shortest convex combination.
        share = float((h @ (h - g)) / ((g - h) @ (g - h)))
        assert 0 < share < 1
        torch.testing.assert_close(direction, share * g + (1 - share) * h, atol=1e-4, rtol=1e-2)


def test_an_aggregator_draws_from_the_generator_of_the_network_and_not_from_that_of_everyone():
    pytest.importorskip("torchjd")
    gradients = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        network = make_network(make_table(), weighting="pcgrad", regression="squared")
        gradients.append(backward(network, ROWS)[1])
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_an_aggregator_without_its_solver_is_a_mistake_of_the_user(monkeypatch):
    aggregation = pytest.importorskip("torchjd.aggregation")

    class NeedsSolver:
        def __init__(self, **_):
            raise ImportError("install a solver")

    monkeypatch.setattr(aggregation, "CAGrad", NeedsSolver)
    with pytest.raises(UsageError, match="weighting 'cagrad' cannot be used: install a solver"):
        _weighting.make_weighting("cagrad", [1.0, 1.0], [False, False], [1.0, 1.0], torch.device("cpu"))
