import gymnasium
import numpy as np
import pytest
import torch
from torch import distributions, nn

from metafast.trainers import UsageError
from metafast.trainers._policies import (
    SIGMA_FLOOR,
    ActorCritic,
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    make_distribution,
)

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


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.MultiBinary(2)], ids=str)
def test_samples_have_the_probabilities_of_the_outputs(space):
    distribution = make_distribution(space, "auto")
    outputs = torch.tensor([0.5, -1.0, 0.0])[: distribution.num_outputs]
    draws = 100_000
    noise = distribution.noise((draws,), torch.Generator().manual_seed(1))
    samples = distribution.sample(outputs.expand(draws, -1), noise)
    for action in samples.unique(dim=0):
        seen = int((samples == action).reshape(draws, -1).all(-1).sum())
        probability = float(distribution.log_prob(outputs[None], action[None]).exp())
        assert abs(seen - draws * probability) < 4.5 * (draws * probability * (1 - probability)) ** 0.5


def test_gaussian_samples_have_the_mean_and_sigma_of_the_outputs():
    distribution = DiagonalGaussian(BOX)
    noise = distribution.noise((100_000,), torch.Generator().manual_seed(1))
    samples = distribution.sample(torch.tensor([0.3, -2.0, 0.5, 2.0]).expand(100_000, -1), noise)
    torch.testing.assert_close(samples.mean(0), torch.tensor([0.3, -2.0]), atol=0.03, rtol=0)
    torch.testing.assert_close(samples.std(0), torch.tensor([0.5, 2.0]), atol=0.03, rtol=0)


def test_zero_noise_gives_the_mode():
    outputs = torch.tensor([[0.1, 2.0, -1.0]])
    assert Categorical(spaces.Discrete(3)).sample(outputs, torch.zeros(1, 3)).tolist() == [1]
    assert Bernoulli(spaces.MultiBinary(3)).sample(outputs, torch.zeros(1, 3)).tolist() == [[1.0, 1.0, 0.0]]
    assert DiagonalGaussian(BOX).sample(torch.ones(1, 4) * 0.5, torch.zeros(1, 2)).tolist() == [[0.5, 0.5]]


def test_actions_reach_the_environment_in_its_own_terms():
    assert Categorical(spaces.Discrete(3, start=-1)).to_environment(np.array([0, 2])).tolist() == [-1, 1]
    two_class = Bernoulli(spaces.Discrete(2)).to_environment(np.array([[1.0], [0.0]], np.float32))
    assert two_class.dtype == np.int64
    assert two_class.tolist() == [1, 0]
    binary = spaces.MultiBinary((2, 2))
    assert Bernoulli(binary).to_environment(np.ones((5, 4), np.float32))[0] in binary
    scaled = DiagonalGaussian(BOX).to_environment(np.array([[-1.0, -1.0], [0.0, 0.0], [9.0, 9.0]], np.float32))
    assert scaled.tolist() == [[-2.0, 0.0], [0.0, 0.5], [2.0, 1.0]]
    assert scaled.dtype == BOX.dtype


@pytest.mark.parametrize(
    ("space", "policy"),
    [
        (spaces.Discrete(3), "bernoulli"),
        (spaces.Discrete(3), "gaussian"),
        (BOX, "categorical"),
        (spaces.MultiDiscrete([2, 3]), "auto"),
    ],
)
def test_a_policy_that_does_not_fit_the_actions_is_refused(space, policy):
    with pytest.raises(UsageError, match="policy for the action space"):
        make_distribution(space, policy)


def widths(network):
    return [(layer.in_features, layer.out_features) for layer in network.modules() if isinstance(layer, nn.Linear)]


def test_presets_have_the_stated_widths():
    categorical, gaussian = Categorical(spaces.Discrete(2)), DiagonalGaussian(BOX)
    keras = ActorCritic(4, categorical, "keras")
    assert widths(keras.policy) == [(4, 64), (64, 2)]
    assert widths(keras.value) == [(4, 32), (32, 1)]
    assert widths(keras.trunk) == []
    assert sum(isinstance(layer, nn.ReLU) for layer in keras.modules()) == 2
    with_sigma = ActorCritic(3, gaussian, "torch")
    assert widths(with_sigma.trunk) == [(3, 128), (128, 128)]
    assert widths(with_sigma.policy) == [(128, 4)]
    assert widths(with_sigma.value) == [(128, 1)]
    assert widths(ActorCritic(4, categorical)) == [(4, 64), (64, 64), (64, 2), (64, 1)]
    assert widths(ActorCritic(4, categorical, hidden_sizes=())) == [(4, 2), (4, 1)]


def test_torch_preset_bounds_the_mean_and_floors_sigma():
    network = ActorCritic(3, DiagonalGaussian(BOX), "torch")
    with torch.no_grad():
        network.policy.bias.copy_(torch.tensor([50.0, -50.0, -500.0, 1.0]))
        mean, sigma = network.act(torch.zeros(1, 3)).chunk(2, -1)
    assert mean.tolist() == [[1.0, -1.0]]
    assert sigma[0, 0] == pytest.approx(SIGMA_FLOOR)
    assert sigma[0, 1] > SIGMA_FLOOR
