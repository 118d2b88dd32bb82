"""What each weighting makes of a network's losses, against gradients that are taken one by one and added up by hand."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchjd import aggregation
from torchjd.autojac import jac_to_grad, mtl_backward

from metafast.data.tasks import Task, TaskTable
from metafast.trainers import UsageError, _weighting
from metafast.trainers import multitask as mt

TASKS = (Task("sick", "binary"), Task("share", "bounded"), Task("species", "classes", 3), Task("size", "real"))
AGGREGATORS = {
    "mgda": aggregation.MGDA,
    "upgrad": aggregation.UPGrad,
    "aligned-mtl": aggregation.AlignedMTL,
    "cagrad": lambda: aggregation.CAGrad(c=0.4),
}
ROWS = torch.arange(10)


def make_table(seed=0, missing=()):
    """Sixteen rows; of the first ten, the columns in `missing` have no label, and some others lack one or two."""
    rng = np.random.default_rng(seed)
    labels = np.column_stack([np.arange(16) % 2, rng.random(16), rng.permutation(16) % 3, rng.normal(0, 2, 16)])
    labels[[3, 7, 12], [0, 1, 3]] = np.nan
    for column in missing:
        labels[:10, column] = np.nan
    return TaskTable(rng.normal(0, 1, (16, 3)).astype(np.float32), labels.astype(np.float32), TASKS)


def make_network(weighting, table=None, seed=0, **options):
    sizes = {"hidden_size": 6, "tower_size": 4, "batch_size": 4, "epochs": 2}
    options = {"regression": "squared", "seed": seed} | sizes | options
    config = mt.configure(weighting=weighting, **options)
    network = mt.Network(config, table or make_table(), range(4), torch.device("cpu"))
    with torch.no_grad():
        # Away from the prior, so that every task has something to say to the trunk.
        generator = torch.Generator().manual_seed(11)
        network.learner.parameters.add_(0.4 * torch.randn(network.learner.parameters.shape, generator=generator))
    return network


def backward(network, rows=ROWS):
    """The gradient that the weighting makes, by the names of the parameters; the gradient is cleared."""
    objectives = mt.compute_objectives(network, rows, range(4))
    network.weighting.backward(network, objectives)
    gradient = {name: parameter.grad.clone() for name, parameter in network.model.named_parameters()}
    network.learner.gradient.zero_()
    return gradient


def plain_losses(outputs, labels):
    """The tasks' losses with squared errors for numbers, written out; 0 for a task without a label."""
    formulas = (
        lambda logits, answer: functional.softplus(logits[:, 0]) - answer * logits[:, 0],
        lambda logits, answer: (1 / (1 + torch.exp(-logits[:, 0])) - answer) ** 2,
        lambda logits, answer: torch.logsumexp(logits, 1) - logits[torch.arange(len(answer)), answer.long()],
        lambda means, answer: (means[:, 0] - answer) ** 2,
    )
    known = ~labels.isnan()
    return [
        formula(outputs[task][known[:, task]], labels[known[:, task], task]).sum() / max(1, int(known[:, task].sum()))
        for task, formula in enumerate(formulas)
    ]


def separate_gradients(network, rows=ROWS):
    """Losses [tasks] and, by parameter, their gradients [tasks, ...], each from a pass of its own."""
    parameters, losses, gradients = dict(network.model.named_parameters()), [], []
    for task in range(4):
        loss = plain_losses(network.model(network.features[rows])[0], network.labels[rows])[task]
        losses.append(float(loss.detach()))
        parts = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        gradients.append(
            {
                name: torch.zeros_like(parameter) if part is None else part
                for (name, parameter), part in zip(parameters.items(), parts, strict=True)
            }
        )
    return np.array(losses), {name: torch.stack([each[name] for each in gradients]) for name in parameters}


def add_up(gradients, weights):
    weights = torch.as_tensor(weights, dtype=torch.float32)
    return {name: torch.einsum("t,t...->...", weights, part) for name, part in gradients.items()}


def assert_same(gradient, expected, tolerance=1e-6, but=frozenset()):
    assert gradient.keys() == expected.keys()
    for name in gradient.keys() - but:
        torch.testing.assert_close(gradient[name], expected[name], rtol=1e-5, atol=tolerance)


def constant_losses(network):
    """The losses [tasks] of the best constant answers, from the labels: entropies, and variances."""
    labels = network.labels.numpy().astype(np.float64)
    columns = [column[~np.isnan(column)] for column in labels.T]
    entropies = []
    for column in (columns[0], columns[2]):
        shares = np.unique(column, return_counts=True)[1] / len(column)
        entropies.append(-(shares * np.log(shares)).sum())
    return np.array([entropies[0], columns[1].var(), entropies[1], columns[3].var()])


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("weighting", ["equal", "scaled", "fixed"])
def test_weights_that_stay_give_the_weighted_sum_of_the_tasks_gradients(weighting, attention):
    weights = {"share": 100.0, "size": 0.0} if weighting == "fixed" else {}
    network = make_network(weighting, weights=weights, attention=attention)
    losses, gradients = separate_gradients(network)
    if weighting == "fixed":
        expected = np.array([1, 100, 1, 0])
    else:
        expected = 1 / constant_losses(network) if weighting == "scaled" else np.ones(4)
    objectives = mt.compute_objectives(network, ROWS, range(4))
    np.testing.assert_allclose(objectives.losses, losses, rtol=1e-5)
    assert_same(backward(network), add_up(gradients, expected))
    before = network.weighting.weights.clone()
    network.weighting.end_epoch()
    assert torch.equal(network.weighting.weights, before)
    assert network.weighting.get_state() == {}


def test_weights_of_some_of_the_tasks_are_theirs():
    network = make_network("fixed", weights={"sick": 1.0, "share": 2.0, "species": 3.0, "size": 4.0})
    _, gradients = separate_gradients(network)
    network.weighting.backward(network, mt.compute_objectives(network, ROWS, [2, 1]))
    gradient = {name: parameter.grad for name, parameter in network.model.named_parameters()}
    assert_same(gradient, add_up(gradients, [0, 2, 3, 0]))


def test_the_uncertainties_divide_the_losses_and_learn_from_them():
    network = make_network("uncertainty")
    log_variances = torch.tensor([0.5, -1.0, 0.2, 1.5])
    with torch.no_grad():
        for value, parameter in zip(log_variances, network.log_variances, strict=True):
            parameter.fill_(value)
    losses, gradients = separate_gradients(network)
    # Kendall et al.: classification by 1 / sigma^2, squared errors by 1 / (2 sigma^2), and log sigma for each.
    factors = np.array([1, 0.5, 1, 0.5])
    weights = factors * np.exp(-log_variances.numpy())
    own = [f"readout.heads.{task}.log_variance" for task in range(4)]
    gradient = backward(network)
    assert_same(gradient, add_up(gradients, weights), but=set(own))
    np.testing.assert_allclose([gradient[name] for name in own], 0.5 - weights * losses, rtol=1e-5)


def test_learnt_uncertainties_end_where_the_variance_is_the_loss():
    network = make_network("uncertainty")
    losses, _ = separate_gradients(network)
    with torch.no_grad():
        # d/ds (f L exp(-s) + s / 2) = 0 at s = log(2 f L): the mean squared error, or twice the cross-entropy.
        for loss, factor, parameter in zip(losses, [1, 0.5, 1, 0.5], network.log_variances, strict=True):
            parameter.fill_(math.log(2 * factor * loss))
    gradient = backward(network)
    np.testing.assert_allclose([gradient[f"readout.heads.{task}.log_variance"] for task in range(4)], 0.0, atol=1e-6)


def average_weights(means, before, temperature=2.0):
    rates = np.asarray(means) / np.asarray(before)
    exponentials = np.exp(rates / temperature)
    return len(rates) * exponentials / exponentials.sum()


def feed(weighting, losses, present=None):
    """Show one batch's losses to a weighting, without a network."""
    losses = torch.tensor(losses, dtype=torch.float32)
    present = torch.ones(len(losses), dtype=torch.bool) if present is None else torch.tensor(present)
    losses = torch.where(present, losses, 0.0)
    values = losses.clone().requires_grad_()
    weighting.backward(None, _weighting.Objectives(list(range(len(losses))), values, losses, present))


def test_dynamic_weights_are_a_softmax_of_the_last_two_epochs_losses():
    histories = np.random.default_rng(0).uniform(0.1, 3, (5, 3, 4))
    weighting = _weighting.DynamicAverage(torch.ones(4))
    means = []
    for epoch, batches in enumerate(histories):
        # Tasks that get on as before weigh 1, and so do all until there are two epochs to compare.
        expected = np.ones(4) if epoch < 2 else average_weights(means[-1], means[-2])
        np.testing.assert_allclose(weighting.weights, expected, rtol=1e-5)
        for losses in batches:
            feed(weighting, losses)
        weighting.end_epoch()
        means.append(batches.mean(0))
    np.testing.assert_allclose(weighting.weights, average_weights(means[-1], means[-2]), rtol=1e-5)
    assert float(weighting.weights.sum()) == pytest.approx(4)


def test_a_tasks_epoch_is_the_mean_over_the_batches_with_a_label_of_it():
    weighting = _weighting.DynamicAverage(torch.ones(2))
    feed(weighting, [1.0, 4.0])
    feed(weighting, [3.0, 9.0], [True, False])
    weighting.end_epoch()
    feed(weighting, [1.0, 2.0])
    weighting.end_epoch()
    np.testing.assert_allclose(weighting.weights, average_weights([1, 2], [2, 4]), rtol=1e-6)


def test_an_epoch_without_a_label_of_a_task_changes_no_weight_until_there_are_two_to_compare_again():
    weighting = _weighting.DynamicAverage(torch.ones(2))
    for losses in ([2.0, 2.0], [1.0, 1.8]):
        feed(weighting, losses)
        weighting.end_epoch()
    before = weighting.weights.clone()
    np.testing.assert_allclose(before, average_weights([1, 1.8], [2, 2]), rtol=1e-6)
    for losses, present in (([0.9, 9.0], [True, False]), ([0.8, 1.6], [True, True])):
        feed(weighting, losses, present)
        weighting.end_epoch()
        assert torch.equal(weighting.weights, before)
    feed(weighting, [0.4, 1.2])
    weighting.end_epoch()
    np.testing.assert_allclose(weighting.weights, average_weights([0.4, 1.2], [0.8, 1.6]), rtol=1e-6)


def test_dynamic_weights_weigh_the_networks_losses():
    network = make_network("dwa")
    losses, gradients = separate_gradients(network)
    assert_same(backward(network), add_up(gradients, np.ones(4)))
    network.weighting.end_epoch()
    np.testing.assert_allclose(network.weighting.means[1], losses, rtol=1e-5)
    others, _ = separate_gradients(network, torch.arange(6, 16))
    backward(network, torch.arange(6, 16))
    network.weighting.end_epoch()
    assert_same(backward(network), add_up(gradients, average_weights(others, losses)))


def compute_norms_and_aims(network, weights):
    """What gradient norms in the trunk's last layer are and should be, by Chen et al., equations 1 and 2."""
    losses, gradients = separate_gradients(network)
    norms = np.linalg.norm(gradients["trunk.2.weight"].flatten(1), axis=1) * weights
    ratios = losses / constant_losses(network)
    return norms, norms.mean() * (ratios / ratios.mean()) ** 1.5


def test_one_step_of_the_norms_weights_is_the_one_worked_out_by_hand():
    network = make_network("gradnorm")
    _, gradients = separate_gradients(network)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(40):
        weights = 4 * rng.dirichlet(np.ones(4) * 3)
        network.weighting.weights = torch.tensor(weights, dtype=torch.float32)
        norms, aims = compute_norms_and_aims(network, weights)
        assert_same(backward(network), add_up(gradients, weights))
        signs = np.sign(norms - aims)
        weights = (weights - 0.025 * signs).clip(min=1e-3)
        np.testing.assert_allclose(network.weighting.weights, 4 * weights / weights.sum(), rtol=1e-4)
        seen.add(tuple(signs))
    assert len(seen) > 3


def test_the_norms_weights_bring_them_to_their_aims_and_keep_their_sum():
    network = make_network("gradnorm")
    norms, aims = compute_norms_and_aims(network, np.ones(4))
    first = abs(norms / aims - 1)
    for _ in range(200):
        backward(network)
        assert float(network.weighting.weights.sum()) == pytest.approx(4, rel=1e-5)
        assert (network.weighting.weights > 0).all()
    norms, aims = compute_norms_and_aims(network, network.weighting.weights.numpy())
    last = abs(norms / aims - 1)
    assert first.max() > 0.5
    assert last.max() < 0.25 * first.max()


def test_the_norms_are_those_of_the_gradients_of_all_processes(monkeypatch):
    network = make_network("gradnorm")
    before = network.weighting.weights.clone()
    # Another process has the opposite gradients, so that their means are of no length.
    opposite = lambda tensor: tensor.zero_() if tensor.shape == (4, *network.last_shared.shape) else tensor  # noqa: E731
    monkeypatch.setattr(_weighting._distributed, "average_", opposite)
    backward(network)
    torch.testing.assert_close(network.weighting.weights, before)
    monkeypatch.undo()
    backward(network)
    assert (network.weighting.weights - before).abs().max() > 1e-2


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("name", AGGREGATORS)
def test_the_trunk_moves_as_the_aggregator_says_and_what_is_behind_it_by_its_own_losses(name, attention):
    network = make_network(name, attention=attention)
    model = copy.deepcopy(network.model)
    for parameter in model.parameters():
        parameter.grad = None
    shared = model.trunk(network.features[ROWS])
    losses = plain_losses(model.readout(shared)[0], network.labels[ROWS])
    mtl_backward(losses, features=shared, retain_graph=True)
    jac_to_grad(list(model.trunk.parameters()), AGGREGATORS[name]())
    expected = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
    }
    gradient = backward(network)
    assert_same(gradient, expected, tolerance=1e-5)
    _, gradients = separate_gradients(network)
    plain = add_up(gradients, np.ones(4))
    assert_same(
        {name: part for name, part in gradient.items() if name.startswith("readout")},
        {name: part for name, part in plain.items() if name.startswith("readout")},
    )
    # And the aggregation is not the plain sum.
    assert (gradient["trunk.0.weight"] - plain["trunk.0.weight"]).abs().max() > 1e-3


def project(jacobian, task, order):
    """Yu et al., algorithm 1, for one task: take out what conflicts with the others, one after the other."""
    direction = jacobian[task].copy()
    for other in order:
        if (along := direction @ jacobian[other]) < 0:
            direction -= along / (jacobian[other] @ jacobian[other]) * jacobian[other]
    return direction


def test_conflicting_gradients_are_projected_in_some_order_which_the_learners_generator_draws():
    results = set()
    for seed in range(8):
        network = make_network("pcgrad")
        network.learner.generator.manual_seed(seed)
        _, gradients = separate_gradients(network)
        trunk = [name for name in gradients if name.startswith("trunk")]
        jacobian = np.concatenate([gradients[name].flatten(1).double().numpy() for name in trunk], axis=1)
        if seed == 0:
            # Turn two tasks against each other and the rest.
            assert ((jacobian @ jacobian.T) < 0).any()
        projected = [
            [project(jacobian, task, order) for order in itertools.permutations(set(range(4)) - {task})]
            for task in range(4)
        ]
        gradient = backward(network)
        result = np.concatenate([gradient[name].flatten() for name in trunk])
        sums = np.array([sum(parts) for parts in itertools.product(*projected)])
        assert abs(sums - result).max(1).min() < 1e-5
        results.add(result.tobytes())
    assert len(results) > 1


@pytest.mark.parametrize("name", ["pcgrad", "nash-mtl"])
def test_the_same_generator_state_gives_the_same_gradients_and_leaves_torchs_own_alone(name):
    first, second = make_network(name), make_network(name)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    expected = [backward(first, rows) for rows in (ROWS, ROWS + 6)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    for gradient, rows in zip(expected, (ROWS, ROWS + 6), strict=True):
        again = backward(second, rows)
        for part in again:
            assert torch.equal(gradient[part], again[part])
            assert gradient[part].isfinite().all()
    assert expected[0]["trunk.0.weight"].abs().max() > 1e-3
    _, gradients = separate_gradients(first)
    plain = add_up(gradients, np.ones(4))
    for part in plain:
        if part.startswith("readout"):
            torch.testing.assert_close(expected[0][part], plain[part], rtol=1e-5, atol=1e-6)


def run(network, updates):
    for number in updates:
        mt.update(network, torch.arange(number, number + 8) % 16, range(4), 0.01)
        if number % 3 == 2:
            network.weighting.end_epoch()


def take_state(network):
    return {
        part: {name: array.copy() for name, array in state.items()}
        for part, state in (("learner", network.learner.get_state()), ("weighting", network.weighting.get_state()))
    }


@pytest.mark.parametrize("name", ["uncertainty", "dwa", "gradnorm", "pcgrad", "nash-mtl"])
def test_a_run_goes_on_from_a_state_as_if_it_had_not_been_interrupted(name):
    whole = make_network(name)
    run(whole, range(10))
    state = take_state(whole)
    run(whole, range(10, 20))
    resumed = make_network(name)
    resumed.learner.set_state(state["learner"])
    resumed.weighting.set_state(state["weighting"])
    run(resumed, range(10, 20))
    assert torch.equal(resumed.learner.parameters, whole.learner.parameters)
    ends = [take_state(network)["weighting"] for network in (whole, resumed)]
    for part in ends[0]:
        np.testing.assert_array_equal(*(end[part] for end in ends))
    if name in ("dwa", "gradnorm", "nash-mtl"):
        # The state matters: without it the run goes another way.
        forgetful = make_network(name)
        forgetful.learner.set_state(state["learner"])
        run(forgetful, range(10, 20))
        assert not torch.equal(forgetful.learner.parameters, whole.learner.parameters)


@pytest.mark.parametrize(
    ("name", "shared_update"),
    [
        (name, update)
        for name in _weighting.WEIGHTINGS
        for update in ("gradient", "kl")
        if update == "gradient" or name not in _weighting.RATIOS
    ],
)
@pytest.mark.parametrize("missing", range(4))
def test_a_task_without_a_label_in_the_batch_leaves_its_head_and_harms_nobody(name, missing, shared_update):
    table = make_table(missing=(missing,))
    network = make_network(name, table, shared_update=shared_update)
    if shared_update == "kl":
        network.prior = mt.fit_prior(network, table)
    objectives = mt.compute_objectives(network, ROWS, range(4))
    assert objectives.present.tolist() == [task != missing for task in range(4)]
    assert objectives.losses[missing] == 0
    gradient = backward(network)
    for part in gradient:
        assert gradient[part].isfinite().all(), part
        if part.startswith(f"readout.heads.{missing}."):
            assert (gradient[part] == 0).all(), part
    assert all(gradient[f"readout.heads.{task}.linear.weight"].abs().max() > 0 for task in range(4) if task != missing)
    # The other tasks still move the trunk.
    assert gradient["trunk.0.weight"].abs().max() > 1e-4
    weights = network.weighting.weights
    assert weights.isfinite().all()
    for _ in range(3):
        mt.update(network, ROWS, range(4), 0.01)
        network.weighting.end_epoch()
    assert torch.equal(network.weighting.weights, weights)
    assert network.learner.parameters.isfinite().all()


def test_a_batch_without_any_label_moves_nothing():
    for name in _weighting.WEIGHTINGS:
        gradient = backward(make_network(name, make_table(missing=range(4))))
        assert all((part == 0).all() for part in gradient.values()), name


@pytest.mark.parametrize("name", _weighting.AGGREGATORS)
def test_with_labels_of_one_task_only_there_is_nothing_to_aggregate(name):
    network = make_network(name, make_table(missing=(0, 1, 3)))
    _, gradients = separate_gradients(network)
    assert_same(backward(network), add_up(gradients, [0, 0, 1, 0]))


@pytest.mark.parametrize("scale", [torch.inf, torch.nan, 1e30])
@pytest.mark.parametrize("name", _weighting.AGGREGATORS)
def test_losses_that_diverge_raise_no_error(name, scale):
    network = make_network(name)
    objectives = mt.compute_objectives(network, ROWS, range(4))
    network.weighting.backward(network, objectives._replace(values=scale * objectives.values))
    assert not network.learner.gradient.norm().isfinite()


@pytest.mark.parametrize("name", _weighting.RATIOS)
def test_ratios_of_losses_need_losses_that_are_never_negative(name):
    for regression in ("gaussian", "beta"):
        table = make_table() if regression == "gaussian" else make_table().select(["sick", "share"])
        config = mt.configure(weighting=name, regression=regression)
        with pytest.raises(UsageError, match=f"weighting '{name}' needs losses that are never negative"):
            mt.Network(config, table, range(len(table.tasks)), torch.device("cpu"))


@pytest.mark.parametrize("name", ["gradnorm", *_weighting.AGGREGATORS])
def test_what_is_about_the_trunks_gradients_needs_a_trunk(name):
    with pytest.raises(UsageError, match=f"weighting '{name}' is about the trunk's gradients"):
        make_network(name, depth=0)


def test_an_aggregator_without_its_solver_is_a_mistake_of_the_user(monkeypatch):
    class NeedsSolver:
        def __init__(self, **_):
            raise ImportError("install a solver")

    monkeypatch.setattr(aggregation, "CAGrad", NeedsSolver)
    with pytest.raises(UsageError, match="weighting 'cagrad' cannot be used: install a solver"):
        _weighting.make_weighting("cagrad", [1.0, 1.0], [False, False], [1.0, 1.0], torch.device("cpu"))
