"""The multi-task network: its updates against plain torch, its gradients against autograd, its gaps."""

import math

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional
from trainers.multitask_cases import (
    TOY,
    assert_same_gradient,
    autograd,
    backward,
    compute_loss,
    compute_mixture_divergence,
    make_network,
    make_table,
    parts,
    unsettle,
)

from metafast.trainers import multitask as mt


@pytest.mark.parametrize(
    ("data", "regression"), [("toy", "squared"), ("toy", "gaussian"), ("diabetes", "squared"), ("diabetes", "gaussian")]
)
def test_joint_training_is_that_of_a_plain_torch_loop(tmp_path, data, regression):
    options = {
        "regression": regression, "hidden_size": 16, "epochs": 4, "batch_size": 128 if data == "toy" else 32, "seed": 3,
        "decay": 0.5, "max_grad_norm": 0.1, "single_task": False,
    }  # fmt: skip
    config = mt.configure(data, run_dir=str(tmp_path / "run"), **options)
    table = mt.load_data(config)["train"]
    initial = make_network(table, **options).model.state_dict()
    inputs = table.features.shape[1]
    trunk = nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
    trunk.load_state_dict({name[6:]: value for name, value in initial.items() if name.startswith("trunk.")})
    heads, log_scales = nn.ModuleList(), nn.ParameterList()
    for number, task in enumerate(table.tasks):
        head = nn.Linear(16, task.num_classes or 1)
        head.load_state_dict({name: initial[f"readout.heads.{number}.linear.{name}"] for name in ("weight", "bias")})
        heads.append(head)
        log_scales.append(nn.Parameter(initial[f"readout.heads.{number}.log_scale"].clone()))

    def compute(task, outputs, log_scale, labels):
        if task.kind == "binary":
            return functional.binary_cross_entropy_with_logits(outputs[:, 0], labels)
        if task.kind == "classes":
            return functional.cross_entropy(outputs, labels.long())
        mean = torch.sigmoid(outputs[:, 0]) if task.kind == "bounded" else outputs[:, 0]
        if regression == "squared":
            return functional.mse_loss(mean, labels)
        variance = (2 * log_scale).exp().expand(len(mean))
        return functional.gaussian_nll_loss(mean, labels, variance, full=True, eps=0.0)

    parameters = [*trunk.parameters(), *heads.parameters(), *log_scales]
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, eps=1e-5)
    features, labels = torch.from_numpy(table.features), torch.from_numpy(table.labels)
    per_epoch = len(features) // config.batch_size
    total, shortened = 4 * per_epoch, 0
    assert total >= 20
    for number in range(total):
        epoch, position = divmod(number, per_epoch)
        order = np.random.default_rng([3, epoch]).permutation(len(features))
        rows = torch.from_numpy(order[position * config.batch_size : (position + 1) * config.batch_size])
        shared = trunk(features[rows])
        optimizer.zero_grad()
        sum(
            compute(task, heads[column](shared), log_scales[column], labels[rows, column])
            for column, task in enumerate(table.tasks)
        ).backward()
        shortened += nn.utils.clip_grad_norm_(parameters, 0.1) > 0.1
        optimizer.param_groups[0]["lr"] = config.learning_rate * min(1.0, 2 * (1 - number / total))
        optimizer.step()
    assert shortened > 0
    mt.train(config)
    learnt = safetensors.torch.load_file(tmp_path / "run" / "policy.safetensors")
    assert (learnt["trunk.0.weight"] - initial["trunk.0.weight"]).abs().max() > 1e-2
    expected = {f"trunk.{name}": value for name, value in trunk.state_dict().items()}
    for number in range(len(heads)):
        expected |= {f"readout.heads.{number}.linear.{name}": value for name, value in heads[number].named_parameters()}
        expected[f"readout.heads.{number}.log_scale"] = log_scales[number]
    for name, value in expected.items():
        torch.testing.assert_close(learnt[name], value.detach(), atol=1e-5, rtol=0, msg=name)
    assert learnt.keys() - expected.keys() == {f"readout.heads.{number}.log_variance" for number in range(len(heads))}


def entropy(*probabilities):
    return -sum(p * math.log(p) for p in probabilities)


@pytest.mark.parametrize("regression", ["gaussian", "squared", "beta", "bernoulli"])
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_the_first_loss_of_every_task_is_the_entropy_of_its_labels(regression, missing):
    table = make_table(rows=2_000, missing=missing, real=regression in ("gaussian", "squared"))
    network = make_network(table, regression=regression, hidden_size=64)
    labels = [column[~np.isnan(column)].astype(np.float64) for column in table.labels.T]
    mean = labels[0].mean()
    expected = [entropy(mean, 1 - mean), None, entropy(*(np.bincount(labels[2].astype(int)) / len(labels[2])))]
    numbers = [labels[1], *labels[3:]]
    if regression == "gaussian":
        entropies = [0.5 * math.log(2 * math.pi * math.e * column.var()) for column in numbers]
    elif regression == "squared":
        entropies = [column.var() for column in numbers]
    elif regression == "bernoulli":
        entropies = [entropy(labels[1].mean(), 1 - labels[1].mean())]
    else:
        mean, variance = labels[1].mean(), labels[1].var()
        precision = mean * (1 - mean) / variance - 1
        density = torch.distributions.Beta(*torch.tensor([mean * precision, (1 - mean) * precision]))
        entropies = [-float(density.log_prob(torch.from_numpy(labels[1]).clamp(1e-3, 1 - 1e-3)).mean())]
    expected[1], expected[3:] = entropies[0], entropies[1:]
    objectives, gradient = backward(network, torch.arange(len(table)))
    np.testing.assert_allclose(objectives.losses, expected, atol=1e-3)
    # The trunk has a gradient all the same.
    assert all(gradient[name].abs().max() > 0 for name in parts(network)[0])


@pytest.mark.parametrize("regression", ["gaussian", "squared", "beta", "bernoulli"])
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_heads_follow_their_own_losses_and_the_trunk_the_weighted_sum(regression, missing):
    table = make_table(missing=missing, real=regression in ("gaussian", "squared"))
    weights = {"flag": 2.0, "share": 0.25, "class": 0.0}
    network = unsettle(make_network(table, regression=regression, weighting="fixed", weights=weights))
    features, labels = torch.from_numpy(table.features), torch.from_numpy(table.labels)
    outputs, _ = network.model(features)
    losses = [compute_loss(network, task, outputs[task], labels[:, task]) for task in range(len(table.tasks))]
    each = [autograd(network, loss) for loss in losses]
    objectives, gradient = backward(network, torch.arange(len(table)))
    np.testing.assert_allclose(objectives.losses, torch.stack(losses).detach(), atol=1e-5)
    trunk, heads = parts(network)
    factors = [weights.get(task.name, 1.0) for task in table.tasks]
    total = {name: sum(w * part[name] for w, part in zip(factors, each, strict=True)) for name in trunk}
    assert_same_gradient(gradient, total, trunk)
    for task, names in enumerate(heads):
        own = {name: factors[task] * each[task][name] for name in names}
        assert_same_gradient(gradient, own, names)
        assert all(part[name].abs().max() == 0 for part in each[:task] + each[task + 1 :] for name in names)
    assert gradient["readout.heads.1.log_scale"].abs() > 1e-2 or regression in ("squared", "bernoulli")


def with_prior(network, seed=0):
    """Give the network what some other one would have said, so that no gradient of the divergence is zero."""
    generator = torch.Generator().manual_seed(seed)
    network.prior = [
        (torch.randn(len(network.features), likelihood.num_outputs, generator=generator), torch.tensor(-0.3))
        for likelihood in network.likelihoods
    ]
    return unsettle(network)


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("regression", ["gaussian", "squared", "beta", "bernoulli"])
def test_with_kl_the_trunk_follows_the_divergence_from_a_mixture_and_the_heads_their_losses(regression, attention):
    table = make_table(missing=0.4, real=regression in ("gaussian", "squared"))
    options = {"regression": regression, "shared_update": "kl", "prior_share": 0.3, "attention": attention}
    network = with_prior(make_network(table, **options))
    rows = torch.arange(len(table)).flip(0)[:64]
    labels = network.labels[rows]
    assert ((labels.isnan().sum(0) > 0) & (labels.isnan().sum(0) < 64)).all()
    outputs, _ = network.model(network.features[rows])
    count = range(len(table.tasks))
    losses = autograd(network, sum(compute_loss(network, task, outputs[task], labels[:, task]) for task in count))
    mixtures = [
        compute_mixture_divergence(
            network, task, outputs[task], labels[:, task], network.prior[task][0][rows], network.prior[task][1], 0.3
        )
        for task in count
    ]
    divergences = autograd(network, sum(mixtures))
    _, gradient = backward(network, rows)
    trunk, _ = parts(network)
    assert_same_gradient(gradient, divergences, trunk, 2e-6)
    assert_same_gradient(gradient, losses, gradient.keys() - set(trunk), 2e-6)
    # It would have been otherwise by the losses alone.
    assert (gradient["trunk.0.weight"] - losses["trunk.0.weight"]).abs().max() > 1e-3


def test_with_kl_a_task_whose_turn_is_over_holds_the_trunk_to_its_snapshot_and_its_head_still():
    network = with_prior(make_network(make_table(missing=0.4), shared_update="kl", prior_share=0.3))
    network.finished, rows = [2], torch.arange(64)
    outputs, _ = network.model(network.features[rows])
    prior, scale = network.prior[2]
    nothing = torch.full((64,), torch.nan)
    held = compute_mixture_divergence(network, 2, outputs[2], nothing, prior[rows], scale, 0.3)
    prior, scale = network.prior[0]
    labels = network.labels[rows, 0]
    learnt = compute_mixture_divergence(network, 0, outputs[0], labels, prior[rows], scale, 0.3)
    expected = autograd(network, held + learnt)
    _, gradient = backward(network, rows, [2, 0])
    trunk, heads = parts(network)
    assert_same_gradient(gradient, expected, trunk, 2e-6)
    assert_same_gradient(gradient, autograd(network, compute_loss(network, 0, outputs[0], labels)), heads[0])
    assert all(gradient[name].abs().max() == 0 for task in (1, 2, 3) for name in heads[task])


@pytest.mark.parametrize("regression", ["gaussian", "squared"])
def test_without_a_share_of_the_prior_kl_is_the_plain_gradient(regression):
    table = make_table()
    plain = backward(make_network(table, regression=regression), torch.arange(64))[1]
    network = make_network(table, regression=regression, shared_update="kl", prior_share=0.0)
    network.prior = [(torch.randn(96, likelihood.num_outputs), torch.tensor(0.7)) for likelihood in network.likelihoods]
    gradient = backward(network, torch.arange(64))[1]
    assert_same_gradient(gradient, plain, plain)


@pytest.mark.parametrize("options", [{}, {"attention": True, "schedule": "sequential"}])
def test_the_prior_is_a_linear_prediction_better_than_none(options):
    table = make_table(rows=400, missing=0.2)
    network = make_network(table, shared_update="kl", epochs=40, **options)
    prior = mt.fit_prior(network, table)
    features = np.column_stack([table.features, np.ones(len(table))])
    for task, (outputs, log_scale) in enumerate(prior):
        assert not outputs.requires_grad
        residual = outputs - torch.from_numpy(features @ np.linalg.lstsq(features, outputs.numpy(), rcond=None)[0])
        assert residual.abs().max() < 1e-3
        labels = network.labels[:, task]
        known = ~labels.isnan()
        fitted = network.likelihoods[task].loss(outputs[known], log_scale, labels[known]).mean()
        constant, scale = network.likelihoods[task].fit_prior(labels[known])
        alone = network.likelihoods[task].loss(
            constant.expand(len(labels[known]), -1), torch.tensor(scale), labels[known]
        )
        assert fitted < alone.mean() - 0.2


def test_gaps_in_the_labels_leave_each_objective_that_of_the_rows_that_have_one():
    table = make_table(missing=0.4)
    network, full = make_network(table), torch.arange(len(table))
    objectives = mt.compute_objectives(network, full, range(4))
    for task in range(4):
        present = full[~network.labels[:, task].isnan()]
        assert 0 < len(present) < len(table)
        alone = mt.compute_objectives(network, present, [task])
        torch.testing.assert_close(alone.values[0], objectives.values[task], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(alone.losses[0], objectives.losses[task], atol=1e-6, rtol=1e-5)
        assert alone.tasks == [task]


@pytest.mark.parametrize("options", [{}, {"weighting": "uncertainty", "regression": "squared"}])
def test_a_batch_without_a_label_of_a_task_leaves_its_head_alone(options):
    table = make_table()
    table.labels[:32, 2] = np.nan
    network = make_network(table, **options)
    objectives, gradient = backward(network, torch.arange(32))
    assert objectives.present.tolist() == [True, True, False, True]
    assert float(objectives.losses[2]) == 0.0
    _, heads = parts(network)
    assert all(gradient[name].abs().max() == 0 for name in heads[2])
    assert all(gradient[f"readout.heads.{task}.linear.weight"].abs().max() > 0 for task in (0, 1, 3))
    others = backward(network, torch.arange(32), [0, 1, 3])[1] if not options else gradient
    assert_same_gradient(gradient, others, gradient)


def test_cosines_are_those_of_the_gradients_of_the_trunk():
    network = make_network(TOY, regression="squared")
    outputs, _ = network.model(network.features[:512])
    trunk, _ = parts(network)
    flat = []
    for task in range(3):
        gradient = autograd(network, compute_loss(network, task, outputs[task], network.labels[:512, task]))
        flat.append(torch.cat([gradient[name].flatten() for name in trunk]))
    expected = [[torch.cosine_similarity(first, second, 0) for first in flat] for second in flat]
    np.testing.assert_allclose(network.measure_cosines(), expected, atol=1e-5)
    assert network.learner.gradient.abs().max() == 0
