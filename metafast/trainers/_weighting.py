"""How several losses become one descent: weights on the losses, or an aggregation of their gradients by TorchJD.

Every method here only decides how much each task moves the trunk; whether any of them beats a well-scaled plain sum
is doubtful (Kurin et al. 2022), which is why `metafast train multitask --compare` exists.
"""

import importlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from metafast.trainers import UsageError, _distributed
from metafast.trainers._learner import ModuleLearner

# The classes of TorchJD that combine the tasks' gradients of the trunk.
AGGREGATORS = {
    "pcgrad": "PCGrad", "cagrad": "CAGrad", "mgda": "MGDA", "upgrad": "UPGrad", "aligned-mtl": "AlignedMTL",
    "nash-mtl": "NashMTL",
}  # fmt: skip
# Those that divide losses by one another, or multiply them by a learnt number, which needs them at least 0.
RATIOS = ("uncertainty", "gradnorm", "dwa")
WeightingName = Literal[
    "equal", "scaled", "fixed", "uncertainty", "gradnorm", "dwa",
    "pcgrad", "cagrad", "mgda", "upgrad", "aligned-mtl", "nash-mtl",
]  # fmt: skip
WEIGHTINGS: tuple[str, ...] = get_args(WeightingName)


class MultiTaskNetwork(Protocol):
    """What a weighting needs to know of a network."""

    learner: ModuleLearner
    num_shared: int

    @property
    def last_shared(self) -> Tensor:
        """The weights of the trunk's last layer."""
        ...

    @property
    def log_variances(self) -> list[Tensor]:
        """Of every task."""
        ...


class Objectives(NamedTuple):
    """Some of a network's tasks, by number, and of each what to descend, its loss, and whether the batch has a label.

    `values`, `losses` and `present` are [tasks]; values and losses are the same but for `--shared-update kl`.
    """

    tasks: list[int]
    values: Tensor
    losses: Tensor
    present: Tensor


class Weighting(Protocol):
    """Turns the tasks' objectives into one gradient; but for fixed weights they must be those of all tasks."""

    def backward(self, network: MultiTaskNetwork, objectives: Objectives) -> None:
        """Fill the gradient of every parameter."""
        ...

    def end_epoch(self) -> None:
        """Note that every row has been seen once more."""
        ...

    def get_state(self) -> dict[str, np.ndarray]:
        """All that decides what comes next."""
        ...

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from what `get_state` gave."""
        ...


def task_gradients(learner: ModuleLearner, objectives: Tensor) -> Tensor:
    """The gradient of each objective with respect to all parameters, [tasks, parameters], averaged over processes."""
    rows = []
    for objective in objectives:
        objective.backward(retain_graph=True)
        rows.append(learner.gradient.clone())
        learner.gradient.zero_()
    jacobian = torch.stack(rows)
    _distributed.average_(jacobian)
    return jacobian


class Fixed:
    """The same weights throughout; those of the plain sum are 1."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def backward(self, network: MultiTaskNetwork, objectives: Objectives) -> None:
        """The gradient of the weighted sum."""
        every = len(objectives.tasks) == len(self.weights)
        weights = self.weights if every else self.weights[objectives.tasks]
        (weights @ objectives.values).backward()

    def end_epoch(self) -> None:
        """Nothing changes."""

    def get_state(self) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Nothing."""


class Uncertainty(Fixed):
    """Sum of factor * loss / sigma^2 + log sigma with a learnt sigma for each task (Kendall et al. 2018, eqs. 7, 10).

    The factor is 1 for classification and 1/2 for squared errors. log sigma^2 is what is learnt.
    """

    def backward(self, network: MultiTaskNetwork, objectives: Objectives) -> None:
        """The gradient of the sum, also with respect to the sigmas."""
        log_variances = torch.stack(network.log_variances)
        # A task without a label in the batch says nothing about its noise.
        log_variances = torch.where(objectives.present, log_variances, log_variances.detach())
        terms = self.weights * objectives.values * torch.exp(-log_variances) + 0.5 * log_variances
        terms.sum().backward()


class DynamicAverage(Fixed):
    """Tasks whose loss fell least over the last two epochs weigh most (Liu, Johns and Davison 2019, eq. 7)."""

    temperature = 2.0

    def __init__(self, weights: Tensor) -> None:
        super().__init__(weights)
        # Of this epoch: the losses' sums and how many batches had a label; of the two before it: the means.
        self.sums = torch.zeros(2, len(weights))
        self.means = torch.full((2, len(weights)), torch.nan)

    def backward(self, network: MultiTaskNetwork, objectives: Objectives) -> None:
        """The gradient of the weighted sum."""
        super().backward(network, objectives)
        seen = torch.stack([objectives.losses, objectives.present.float()]).cpu()
        _distributed.average_(seen)
        self.sums += seen

    def end_epoch(self) -> None:
        """Weights for the next epoch: 1 until there are two epochs to compare."""
        # NaN where no batch had a label.
        self.means = torch.stack([self.means[1], self.sums[0] / self.sums[1]])
        self.sums.zero_()
        rates = self.means[1] / self.means[0].clamp(min=1e-12)
        if not rates.isnan().any():
            self.weights = (len(rates) * torch.softmax(rates / self.temperature, 0)).to(self.weights.device)

    def get_state(self) -> dict[str, np.ndarray]:
        """The means, the sums and the weights."""
        state = {"means": self.means, "sums": self.sums, "weights": self.weights}
        return {name: tensor.cpu().numpy().copy() for name, tensor in state.items()}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Put them back."""
        self.means, self.sums = torch.from_numpy(state["means"]), torch.from_numpy(state["sums"])
        self.weights = torch.from_numpy(state["weights"]).to(self.weights.device)


class GradNorm(Fixed):
    """Weights that bring the tasks' gradient norms in the last shared layer to one scale (Chen et al. 2018).

    Tasks that lag behind get more: the norm aimed at is the mean one times (relative loss ratio)^`restoring_force`.
    Losses are compared with those of the prior, which is what an untrained network predicts.
    """

    restoring_force = 1.5
    learning_rate = 0.025

    def __init__(self, weights: Tensor, prior_losses: Tensor) -> None:
        super().__init__(weights)
        self.prior_losses = prior_losses

    def backward(self, network: MultiTaskNetwork, objectives: Objectives) -> None:
        """The gradient of the weighted sum; then a step of the weights (algorithm 1), if every task has a label."""
        gradients = torch.stack(
            [torch.autograd.grad(loss, network.last_shared, retain_graph=True)[0] for loss in objectives.values]
        )
        super().backward(network, objectives)
        losses = objectives.losses.clone()
        # The norm of the processes' mean gradient, which is not the mean of their norms.
        _distributed.average_(gradients)
        _distributed.average_(losses)
        if not objectives.present.all():
            return
        norms = gradients.flatten(1).norm(dim=1)
        ratios = losses / self.prior_losses
        weighted = self.weights * norms
        aim = weighted.mean() * (ratios / ratios.mean()) ** self.restoring_force
        # Down the derivative of sum |w_i norm_i - aim_i| with the aims held, of which Adam, too, leaves little but the
        # sign; and the weights keep their sum.
        weights = (self.weights - self.learning_rate * torch.sign(weighted - aim)).clamp(min=1e-3)
        self.weights = weights * (len(weights) / weights.sum())

    def get_state(self) -> dict[str, np.ndarray]:
        """The weights."""
        return {"weights": self.weights.cpu().numpy()}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Put them back."""
        self.weights = torch.from_numpy(state["weights"]).to(self.weights.device)


class Aggregation(Fixed):
    """An aggregator of TorchJD (Quinton and Rey 2024) moves the trunk; every head follows its own loss."""

    def __init__(self, weights: Tensor, name: str) -> None:
        super().__init__(weights)
        self.name = name
        self.aggregator = self._make_aggregator(len(weights))

    def _make_aggregator(self, num_tasks: int) -> Any:
        module = importlib.import_module("torchjd.aggregation")
        options = {"n_tasks": num_tasks} if self.name == "nash-mtl" else {"c": 0.4} if self.name == "cagrad" else {}
        try:
            return getattr(module, AGGREGATORS[self.name])(**options)
        except ImportError as error:
            raise UsageError(f"weighting {self.name!r} cannot be used: {error}") from error

    def backward(self, network: MultiTaskNetwork, objectives: Objectives) -> None:
        """The aggregated gradient for the trunk, the sum for everything behind it."""
        jacobian = task_gradients(network.learner, objectives.values)
        trunk, behind = jacobian[:, : network.num_shared], jacobian[:, network.num_shared :]
        # A task that the batch has no label of has no say: its row of zeros would hold MGDA and CAGrad where they are.
        if not (moving := trunk.norm(dim=1) != 0).all():
            trunk = trunk[moving]
        aggregator = self.aggregator
        if self.name == "nash-mtl" and 1 < len(trunk) < len(jacobian):
            # Its problem is posed for a number of tasks.
            aggregator = self._make_aggregator(len(trunk))
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # cvxpy's about Nash-MTL's problem: how it is posed, divisions by 0, solutions that are not exact.
            warnings.simplefilter("ignore")
            # PCGrad draws the order of its projections from torch's global generator.
            torch.manual_seed(int(torch.randint(2**62, (), generator=network.learner.generator)))
            # Where training has diverged, some solvers would raise an error.
            solvable = len(trunk) > 1 and (trunk @ trunk.T).norm().isfinite()
            shared = aggregator(trunk) if solvable else trunk.sum(0)
        network.learner.gradient[: network.num_shared] = shared
        torch.sum(behind, 0, out=network.learner.gradient[network.num_shared :])

    def get_state(self) -> dict[str, np.ndarray]:
        """Nash-MTL's last solution, from which it starts again."""
        stateful = hasattr(self.aggregator, "reset")
        return {"solution": np.array(self.aggregator.weighting.prvs_alpha)} if stateful else {}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Put it back."""
        if "solution" in state:
            self.aggregator.weighting.prvs_alpha = np.array(state["solution"])


def make_weighting(
    name: str, weights: Sequence[float], squared: Sequence[bool], prior_losses: Sequence[float],
    device: torch.device,
) -> Weighting:  # fmt: skip
    """The weighting of that name over as many tasks as there are `weights`, which "fixed" alone uses.

    `squared` says whose loss is a squared error, and `prior_losses` are the losses of the best constant answers.
    """
    ones, prior = torch.ones(len(weights), device=device), torch.tensor(prior_losses, device=device)
    if name in AGGREGATORS:
        return Aggregation(ones, name)
    if name == "uncertainty":
        return Uncertainty(torch.where(torch.tensor(squared, device=device), 0.5, 1.0))
    if name == "dwa":
        return DynamicAverage(ones)
    if name == "gradnorm":
        return GradNorm(ones, prior)
    if name == "scaled":
        return Fixed(1 / prior)
    return Fixed(torch.tensor(weights, device=device) if name == "fixed" else ones)
