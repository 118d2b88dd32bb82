"""What is recorded into CUDA graphs can be: it reads nothing back, takes nothing of the host's, and has fixed shapes.

It is run on torch's "meta" device, whose tensors have no memory: to read one raises, and so does a shape that depends
on values; and each of torch's operations is looked at, that no tensor of the CPU takes part.
"""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metafast import _arrays, _device
from metafast.envs._device_batch import DeviceBatch
from metafast.envs._device_rollout import _Loop
from metafast.nn import ActorCritic, Adam
from metafast.nn._minibatch_step import MinibatchStep

META = torch.device("meta")
OBSERVED = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
SPACES = {
    "discrete": gymnasium.spaces.Discrete(4, start=-1),
    "two_choices": gymnasium.spaces.Discrete(2),
    "multi_discrete": gymnasium.spaces.MultiDiscrete([3, 2], start=[1, 0]),
    "multi_binary": gymnasium.spaces.MultiBinary(3),
    "gaussian": gymnasium.spaces.Box(-1, 2, (2,), np.float32),
}
NETWORKS = {"mlp": {}, "gru": {"gru_size": 5}, "two_towers": {"hidden_sizes": (4,), "value_hidden_sizes": (6,)}}
CASES = [
    ("discrete", "mlp"), ("two_choices", "two_towers"), ("multi_discrete", "gru"), ("multi_binary", "mlp"),
    ("gaussian", "two_towers"), ("gaussian", "gru"),
]  # fmt: skip
every_case = pytest.mark.parametrize(("space", "network"), CASES)
STEPS, ENVS = 2, 6


class OnlyMeta(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        results = function(*arguments, **(options or {}))
        tensors = [leaf for leaf in tree_leaves((arguments, options, results)) if isinstance(leaf, torch.Tensor)]
        assert all(tensor.device == META for tensor in tensors), f"{function} has a tensor of the CPU"
        return results


@pytest.fixture(autouse=True)
def meta_is_a_card(monkeypatch):
    monkeypatch.setattr(_device, "is_on_device", _arrays.is_torch)


def make_policy(space="discrete", network="mlp", **options):
    return ActorCritic(OBSERVED, SPACES[space], normalize_observations=True, **NETWORKS[network], **options).to(META)


def run_twice(work):
    """The first run is not recorded, and may make what the second uses."""
    work()
    with OnlyMeta():
        work()


def empty(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device=META)


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
@every_case
@pytest.mark.parametrize("deterministic", [False, True])
def test_rollouts(space, network, mode, deterministic):
    batch = DeviceBatch(
        num_envs=ENVS, autoreset_mode=mode, max_episode_steps=9, parameters=b"", state_bytes=8, device=META,
        state=empty(256 * 8, dtype=torch.uint8), elapsed_steps=empty(ENVS, dtype=torch.int32),
        ended=empty(ENVS, dtype=torch.uint8), seeds=empty(ENVS), episodes=empty(ENVS), faults=empty(4),
    )  # fmt: skip
    given = []
    kernels = SimpleNamespace(observe=lambda *_: None, step=lambda batch, *tensors: given.append(tensors))
    policy = make_policy(space, network, **({"squash": True} if space == "gaussian" else {}))
    loop = _Loop(batch, kernels, OBSERVED, policy, STEPS, deterministic)
    run_twice(loop._run)
    actions = given[-1][0]
    assert actions.shape == (ENVS, *SPACES[space].shape)
    assert actions.dtype == (torch.float32 if space == "gaussian" else torch.int64)
    assert actions.is_contiguous()


@pytest.mark.parametrize("padded", [False, True])
@every_case
@pytest.mark.parametrize("surrogate", ["clipped", "log_prob", "divergence"])
def test_minibatches(space, network, surrogate, padded):
    policy = make_policy(space, network)
    distribution = policy.distribution
    rows = (STEPS, ENVS) if policy.recurrent else (STEPS * ENVS,)
    columns = {name: empty(*rows) for name in ("log_probs", "values", "advantages", "returns")}
    columns["observations"] = empty(*rows, 3)
    columns["actions"] = empty(*rows, *distribution.action_shape, dtype=distribution.action_dtype)
    columns["teacher"] = empty(*rows, distribution.num_outputs)
    if policy.recurrent:
        columns |= {"starts": empty(*rows, dtype=torch.bool), "hidden": empty(ENVS, policy.hidden_size)}
    optimizer = Adam(policy, weight_decay=0.1)
    step = MinibatchStep(
        policy, optimizer, columns, 4, padded=padded, surrogate=surrogate,
        weights=frozenset({"clip", "value_clip", "value_coef", "entropy_coef", "units", "max_grad_norm"}),
        normalize_advantages=True,
    )  # fmt: skip
    step.take(columns, empty(3 if padded else 4, dtype=torch.int64))
    run_twice(step._run)


def test_this_finds_what_cannot_be_recorded():
    column = empty(4)
    for work in (lambda: float(column.sum()), lambda: column[column > 0]):
        with pytest.raises((RuntimeError, NotImplementedError)):
            run_twice(work)
    with pytest.raises(AssertionError, match="has a tensor of the CPU"):
        run_twice(lambda: column.copy_(torch.ones(4)))
