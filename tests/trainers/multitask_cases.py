"""What the multi-task tests share: tables of every kind of task, gradients, losses written with torch.distributions."""

import numpy as np
import torch
from torch import distributions
from torch.distributions import kl_divergence

from metafast.data import toy_tasks
from metafast.data.tasks import Task, TaskTable, split
from metafast.trainers import _run
from metafast.trainers import multitask as mt

CPU = torch.device("cpu")
TOY = split(toy_tasks.generate(600))["train"]
# The toy data has 1200 training rows: 18 updates in an epoch.
SMALL = {"data": "toy", "hidden_size": 16, "tower_size": 8, "epochs": 3, "batch_size": 64}


def make_table(rows=96, missing=0.0, real=True, seed=0):
    """A task of every kind, whose labels depend on five features; of the first one every fourth label is there."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((rows, 5))
    scores = features @ rng.standard_normal((5, 4)) + 0.3 * rng.standard_normal((rows, 4))
    bounded = 1 / (1 + np.exp(-scores[:, 1]))
    labels = [scores[:, 0] > 0, bounded, np.digitize(scores[:, 2], [-1, 1]), scores[:, 3]]
    tasks = Task("flag", "binary"), Task("share", "bounded"), Task("class", "classes", 3), Task("number", "real")
    labels = np.stack(labels, 1).astype(np.float32)
    labels[rng.random(labels.shape) < missing] = np.nan
    if missing:
        labels[np.arange(rows) % 4 > 0, 0] = np.nan
    count = 4 if real else 3
    return TaskTable(features.astype(np.float32), labels[:, :count], tasks[:count])


def make_network(table, **options):
    config = mt.configure(**{"hidden_size": 16, "tower_size": 8} | options)
    return mt.Network(config, table, range(len(table.tasks)), CPU)


def make_distribution(task, regression, outputs, log_scale):
    """What a head says of the labels of `rows`."""
    if task.kind == "binary" or (task.kind == "bounded" and regression == "bernoulli"):
        return distributions.Bernoulli(logits=outputs[:, 0], validate_args=False)
    if task.kind == "classes":
        return distributions.Categorical(logits=outputs)
    mean = torch.sigmoid(outputs[:, 0]) if task.kind == "bounded" else outputs[:, 0]
    if task.kind == "bounded" and regression == "beta":
        precision = torch.exp(-2 * log_scale)
        return distributions.Beta(mean * precision, (1 - mean) * precision)
    # Squared errors are those of the variance 1/2, but for a constant.
    return distributions.Normal(mean, log_scale.exp() if regression == "gaussian" else 0.5**0.5)


def compute_loss(network, task, outputs, labels):
    """Mean of -log p(label) over the labels there are; of squared errors without the constant."""
    known = ~labels.isnan()
    kind, regression = network.tasks[task].kind, network.config.regression
    labels = labels[known]
    if kind == "bounded" and regression == "beta":
        labels = labels.clamp(1e-3, 1 - 1e-3)
    made = make_distribution(network.tasks[task], regression, outputs[known], network.log_scales[task])
    loss = -made.log_prob(labels).mean()
    if kind in ("bounded", "real") and regression == "squared":
        loss = loss - 0.5 * np.log(np.pi)
    return loss


def compute_mixture_divergence(network, task, outputs, labels, prior, prior_log_scale, share):
    """Mean over rows of KL(q || p), but for constants; q is (1 - share) the label and the rest `prior`, or all of it.

    Over classes it is a sum over them; over numbers, where q is in part a point, it is by linearity in q.
    """
    made = [network.tasks[task], network.config.regression]
    p = make_distribution(*made, outputs, network.log_scales[task])
    pi = make_distribution(*made, prior, prior_log_scale)
    known = ~labels.isnan()
    share = torch.where(known, share, 1.0)
    labels = labels.nan_to_num()
    if network.tasks[task].kind == "classes":
        point = torch.nn.functional.one_hot(labels.long(), outputs.shape[1])
        q = (1 - share)[:, None] * point + share[:, None] * pi.probs
        return kl_divergence(distributions.Categorical(probs=q), p).mean()
    if isinstance(p, distributions.Bernoulli):
        q = (1 - share) * labels + share * pi.probs
        return kl_divergence(distributions.Bernoulli(probs=q), p).mean()
    if isinstance(p, distributions.Beta):
        labels = labels.clamp(1e-3, 1 - 1e-3)
    return ((1 - share) * -p.log_prob(labels) + share * kl_divergence(pi, p)).mean()


def backward(network, rows, tasks=None):
    """The gradient of an update, before it is shortened: by the names of the parameters."""
    tasks = range(len(network.tasks)) if tasks is None else tasks
    objectives = mt.compute_objectives(network, rows, tasks)
    network.weighting.backward(network, objectives)
    gradient = {name: parameter.grad.clone() for name, parameter in network.model.named_parameters()}
    network.learner.gradient.zero_()
    return objectives, gradient


def autograd(network, loss):
    named = dict(network.model.named_parameters())
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(named.items(), gradients, strict=True)
    }


def assert_same_gradient(gradient, expected, names, tolerance=1e-6):
    names = list(names)
    assert names
    for name in names:
        torch.testing.assert_close(gradient[name], expected[name], atol=tolerance, rtol=1e-5, msg=name)


def unsettle(network):
    """Take the heads away from the prior, where many gradients are near zero."""
    with torch.no_grad():
        for head in network.model.readout.heads:
            head.linear.weight.mul_(30.0)
            head.log_scale.add_(0.2)
    return network


def parts(network):
    """Names of the trunk's parameters, and of each head's."""
    names = [name for name, _ in network.model.named_parameters()]
    heads = [[name for name in names if f"heads.{task}." in name] for task in range(len(network.tasks))]
    return [name for name in names if name.startswith("trunk.")], heads


def run(run_dir, **options):
    return mt.train(mt.configure(run_dir=str(run_dir), **SMALL | options))


def state(run_dir):
    return _run.RunDirectory(run_dir).read_state()[0]
