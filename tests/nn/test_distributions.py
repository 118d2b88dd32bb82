"""The distributions over actions in torch, against torch.distributions."""

import gymnasium
import numpy as np
import pytest
import torch
from torch import distributions

from metafast.nn import Bernoulli, Categorical, DiagonalGaussian, make_distribution

spaces = gymnasium.spaces
BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))


def torch_twin(distribution, outputs):
    if isinstance(distribution, Categorical):
        return distributions.Categorical(logits=outputs)
    if isinstance(distribution, Bernoulli):
        return distributions.Independent(distributions.Bernoulli(logits=outputs), 1)
    return distributions.Independent(distributions.Normal(*outputs.chunk(2, -1)), 1)


@pytest.mark.parametrize(
    "distribution",
    [Categorical(spaces.Discrete(5)), Bernoulli(spaces.MultiBinary(3)), DiagonalGaussian(BOX)],
    ids=lambda distribution: type(distribution).__name__,
)
def test_log_prob_entropy_and_their_gradients_equal_torch_distributions(distribution):
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(7, 4, distribution.num_outputs, generator=generator, dtype=torch.float64)
    if isinstance(distribution, DiagonalGaussian):
        outputs[..., 2:] = outputs[..., 2:].exp()
    outputs.requires_grad_()
    twin = torch_twin(distribution, outputs)
    actions = twin.sample()
    for ours, theirs in (
        (distribution.log_prob(outputs, actions), twin.log_prob(actions)),
        (distribution.entropy(outputs), twin.entropy()),
    ):
        assert ours.shape == (7, 4)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(
            *(torch.autograd.grad(each.sum(), outputs, retain_graph=True)[0] for each in (ours, theirs))
        )


def test_modes():
    outputs = torch.tensor([[0.1, 2.0, -1.0]])
    assert Categorical(spaces.Discrete(3)).mode(outputs).tolist() == [1]
    assert Categorical(spaces.MultiDiscrete([1, 2])).mode(outputs).tolist() == [[0, 0]]
    assert Bernoulli(spaces.MultiBinary(3)).mode(outputs).tolist() == [[1, 1, 0]]
    assert DiagonalGaussian(BOX).mode(torch.ones(1, 4) * 0.5).tolist() == [[0.5, 0.5]]


def test_actions_reach_the_environment_in_its_own_terms():
    assert Categorical(spaces.Discrete(3, start=-1)).to_environment(np.array([0, 2])).tolist() == [-1, 1]
    two_class = Bernoulli(spaces.Discrete(2)).to_environment(np.array([[1], [0]]))
    assert two_class.dtype == np.int64
    assert two_class.tolist() == [1, 0]
    binary = spaces.MultiBinary((2, 2))
    assert Bernoulli(binary).to_environment(np.ones((5, 4), np.int64))[0] in binary
    scaled = DiagonalGaussian(BOX).to_environment(np.array([[-1.0, -1.0], [0.0, 0.0], [9.0, 9.0]], np.float32))
    assert scaled.tolist() == [[-2.0, 0.0], [0.0, 0.5], [2.0, 1.0]]
    assert scaled.dtype == BOX.dtype


@pytest.mark.parametrize(
    ("space", "policy"),
    [
        (spaces.Discrete(3), "bernoulli"),
        (spaces.Discrete(3), "gaussian"),
        (BOX, "categorical"),
        (spaces.Text(3), "auto"),
    ],
)
def test_a_policy_that_does_not_fit_the_actions_is_refused(space, policy):
    with pytest.raises(ValueError, match="policy for the action space"):
        make_distribution(space, policy)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4, start=-1),
        spaces.MultiDiscrete([[3, 2], [4, 5]]),
        spaces.MultiBinary((2, 2)),
        spaces.Box(np.float32([[-2.0, 0.0]]), np.float32([[2.0, 1.0]])),
    ],
    ids=str,
)
def test_actions_come_back_from_the_environment(space):
    distribution = make_distribution(space)
    space.seed(0)
    actions = np.stack([space.sample() for _ in range(20)])
    ours = distribution.from_environment(actions)
    assert ours.shape == (20, *distribution.action_shape)
    np.testing.assert_allclose(distribution.to_environment(ours), actions, rtol=1e-6, atol=1e-7)
