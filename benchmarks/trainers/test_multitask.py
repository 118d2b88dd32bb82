"""One update of the multi-task trainer beside a plain torch loop and TorchJD's own way to aggregate gradients.

    pytest benchmarks/trainers/test_multitask.py --benchmark-enable

The digits' three tasks, 64 rows, a trunk of 64-256-256, squared errors, one thread. The plain loop is what a user would
write, with torch.optim.Adam in its fastest form; TorchJD's is its `mtl_backward` followed by the same Adam. Each
contender's first update is checked against ours before it is timed. What the methods reach is compared by
`metafast train multitask --compare 5`.
"""

import copy
from functools import cache

import pytest
import torch
from torch.nn import functional
from torchjd.aggregation import MGDA, AlignedMTL, CAGrad, NashMTL, PCGrad, UPGrad
from torchjd.autojac import jac_to_grad, mtl_backward

from metafast.data import digit_tasks
from metafast.data.tasks import split
from metafast.trainers import multitask as mt

AGGREGATORS = {
    "pcgrad": PCGrad, "cagrad": lambda: CAGrad(c=0.4), "mgda": MGDA, "upgrad": UPGrad, "aligned-mtl": AlignedMTL,
    "nash-mtl": lambda: NashMTL(n_tasks=3),
}  # fmt: skip
LEARNING_RATE = 1e-3
pytestmark = pytest.mark.filterwarnings("ignore")


@cache
def table():
    return split(digit_tasks.load())["train"]


def make_network(weighting):
    torch.set_num_threads(1)
    regression = "gaussian" if weighting == "likelihood" else "squared"
    name = "equal" if weighting == "likelihood" else weighting
    config = mt.configure(weighting=name, regression=regression, max_grad_norm=0.0)
    return mt.Network(config, table(), [0, 1, 2], torch.device("cpu"))


class Plain:
    """The same network in a user's own loop."""

    def __init__(self, network):
        self.trunk = copy.deepcopy(network.model.trunk)
        self.heads = torch.nn.ModuleList(copy.deepcopy(head.linear) for head in network.model.readout.heads)
        for module in (self.trunk, self.heads):
            for parameter in module.parameters():
                # A view of the network's vector becomes a tensor of its own.
                parameter.data, parameter.grad = parameter.data.clone(), None
        self.parameters = [*self.trunk.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=LEARNING_RATE, eps=1e-5, fused=True)
        self.features, self.labels = network.features, network.labels

    def compute_losses(self, rows):
        labels, shared = self.labels[rows], self.trunk(self.features[rows])
        binary, bounded, classes = (head(shared) for head in self.heads)
        losses = [
            functional.binary_cross_entropy_with_logits(binary[:, 0], labels[:, 0]),
            functional.mse_loss(torch.sigmoid(bounded[:, 0]), labels[:, 1]),
            functional.cross_entropy(classes, labels[:, 2].long()),
        ]
        return losses, shared

    def update(self, rows):
        losses, _ = self.compute_losses(rows)
        self.optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        self.optimizer.step()


class PlainAggregated(Plain):
    """The same loop with TorchJD."""

    def __init__(self, network, aggregator):
        super().__init__(network)
        self.aggregator = aggregator()

    def update(self, rows):
        losses, shared = self.compute_losses(rows)
        self.optimizer.zero_grad()
        mtl_backward(losses, shared)
        jac_to_grad(self.trunk.parameters(), self.aggregator)
        self.optimizer.step()


def time_update(benchmark, update):
    # Other rows each time: what is learnt by heart has vanishing gradients, with which processors are slow.
    def draw_rows():
        return (torch.randperm(len(table()))[:64],), {}

    benchmark.pedantic(update, setup=draw_rows, rounds=200, warmup_rounds=20)


@pytest.mark.parametrize("weighting", ["equal", "likelihood", "uncertainty", "dwa", "gradnorm", *AGGREGATORS])
@pytest.mark.benchmark(group="multi-task update")
def test_update(benchmark, weighting):
    network = make_network(weighting)
    time_update(benchmark, lambda rows: mt.update(network, rows, [0, 1, 2], LEARNING_RATE))


@pytest.mark.parametrize("name", ["plain", *AGGREGATORS])
@pytest.mark.benchmark(group="multi-task update")
def test_torch_update(benchmark, name):
    network = make_network("equal" if name == "plain" else name)
    loop = Plain(network) if name == "plain" else PlainAggregated(network, AGGREGATORS[name])
    rows = torch.arange(64)
    mt.update(network, rows, [0, 1, 2], LEARNING_RATE)
    loop.update(rows)
    if name not in ("pcgrad", "nash-mtl"):
        # The one draws the order of its projections, and the other's solver stops short of the solution.
        ours = [*network.model.trunk.parameters(), *(head.linear.weight for head in network.model.readout.heads)]
        theirs = [*loop.trunk.parameters(), *(head.weight for head in loop.heads)]
        for first, second in zip(ours, theirs, strict=True):
            torch.testing.assert_close(first, second, atol=2e-5, rtol=0)
    time_update(benchmark, loop.update)


@pytest.mark.benchmark(group="multi-task update")
def test_cosines(benchmark):
    network = make_network("equal")
    benchmark.pedantic(network.measure_cosines, rounds=20, warmup_rounds=2)
