"""What policies draw is distributed as they say, independently over components, environments, steps and calls.

Seeds are fixed, so that each test gives the same answer every time; a right sampler fails one seed in 10^5.
"""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from nn.unfused import generator
from nn.worlds import world
from scipy import stats

import metafast
from metafast import _core
from metafast.envs import rollout
from metafast.nn import make_distribution

LEAST = 1e-5
NUM_STEPS, NUM_ENVS = 150, 400


def policy_of(env, outputs, log_sigma=None):
    """The same outputs whatever is observed."""
    policy = metafast.nn.ActorCritic(env.single_observation_space, env.single_action_space, hidden_sizes=())
    with torch.no_grad():
        policy.policy.weight.zero_()
        policy.policy.bias.copy_(torch.tensor(outputs))
        if log_sigma is not None:
            policy.log_sigma.copy_(torch.tensor(log_sigma))
    return policy


def drawn(env, policy, seed=0, num_steps=NUM_STEPS):
    """Actions [T, N, components]."""
    env.reset(seed=0)
    return rollout(env, policy, num_steps, generator=generator(seed)).actions.reshape(num_steps, env.num_envs, -1)


def assert_frequencies(values, probabilities):
    counts = np.bincount(values.ravel(), minlength=len(probabilities))
    probabilities = np.asarray(probabilities)
    assert (counts[probabilities == 0] == 0).all()
    likely = probabilities > 0
    assert likely.sum() == 1 or stats.chisquare(counts[likely], counts.sum() * probabilities[likely]).pvalue > LEAST


def assert_independent(first, second, minimum=5):
    """A chi-square test of two columns of whole numbers."""
    table = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(table, (first.ravel(), second.ravel()), 1)
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    result = stats.chi2_contingency(table)
    assert result.expected_freq.min() > minimum
    assert result.pvalue > LEAST


def assert_uncorrelated(values):
    """Of numbers [T, N, components] those of neighbours in each axis, and those further off."""
    values = (values - values.mean((0, 1))) / values.std((0, 1))
    for shift in (1, 2, 3, 4, 8, 64):
        for axis in range(3):
            if values.shape[axis] > shift:
                one, other = np.split(np.moveaxis(values, axis, 0), [shift])[1], np.moveaxis(values, axis, 0)[:-shift]
                assert stats.pearsonr(one.ravel(), other.ravel()).pvalue > LEAST, (axis, shift)


def softmax(logits):
    weights = np.exp(np.asarray(logits) - np.max(logits))
    return weights / weights.sum()


def test_a_choice_of_two():
    env = metafast.envs.make_vec("CartPole-v1", NUM_ENVS, autoreset_mode="same_step")
    for logits in ([0.0, 0.0], [1.5, -2.0], [-0.3, 4.0]):
        actions = drawn(env, policy_of(env, logits))
        assert_frequencies(actions, softmax(logits))
        assert_uncorrelated(actions)


def test_a_choice_of_many(isa):
    env = metafast.envs.make_vec("Bandit-v0", NUM_ENVS, arms=11, autoreset_mode="same_step")
    logits = np.linspace(-1.5, 1.5, 11)
    actions = drawn(env, policy_of(env, logits.tolist()))
    assert_frequencies(actions, softmax(logits))
    assert_independent(actions[1:], actions[:-1])
    assert_independent(actions[:, 1:], actions[:, :-1])


def test_choices_of_probability_0_are_never_drawn():
    env = metafast.envs.make_vec("Bandit-v0", NUM_ENVS, arms=6, autoreset_mode="same_step")
    for never in (-np.inf, -1e30, -500.0):
        for position in (0, 2, 5):
            logits = [0.5, 0.0, -0.5, 0.0, 1.0, 0.2]
            logits[position] = never
            assert_frequencies(drawn(env, policy_of(env, logits), num_steps=50), softmax(logits))
    alone = [never] * 5 + [0.0]
    assert (drawn(env, policy_of(env, alone), num_steps=5) == 5).all()


def test_several_choices():
    env = world("table").make_vec(NUM_ENVS, autoreset_mode="same_step")
    logits = [0.5, -0.5, 0.1, 0.2, -1.0, 3.0, 0.0, 1.0, -1.0, 0.3]
    actions = drawn(env, policy_of(env, logits))
    start = 0
    for component, choices in enumerate((2, 3, 1, 4)):
        assert_frequencies(actions[..., component], softmax(logits[start : start + choices]))
        start += choices
    for one, other in ((0, 1), (0, 3), (1, 3)):
        assert_independent(actions[..., one], actions[..., other])
    assert_independent(actions[1:, :, 3], actions[:-1, :, 1])


def test_bits():
    env = world("bits").make_vec(NUM_ENVS, autoreset_mode="same_step")
    actions = drawn(env, policy_of(env, [1.0, -2.0]))
    for component, logit in enumerate((1.0, -2.0)):
        probability = 1 / (1 + np.exp(-logit))
        assert_frequencies(actions[..., component], [1 - probability, probability])
    assert_independent(actions[..., 0], actions[..., 1])
    assert_uncorrelated(actions)
    assert (drawn(env, policy_of(env, [60.0, -200.0]), num_steps=20) == [1, 0]).all()


def test_reals():
    env = world("reals").make_vec(NUM_ENVS, autoreset_mode="same_step")
    means, log_sigma = [0.7, -3.0], [-1.0, 0.5]
    actions = drawn(env, policy_of(env, means, log_sigma))
    for component in range(2):
        normal = stats.norm(means[component], np.exp(log_sigma[component]))
        assert stats.kstest(actions[..., component].ravel(), normal.cdf).pvalue > LEAST
    assert_uncorrelated(actions)
    assert_uncorrelated(np.abs(actions - means))


def test_what_is_drawn_depends_on_no_earlier_call():
    env = metafast.envs.make_vec("Bandit-v0", NUM_ENVS, arms=4, autoreset_mode="same_step")
    policy = policy_of(env, [0.0, 0.1, 0.2, 0.3])
    first, second = drawn(env, policy, seed=0), drawn(env, policy, seed=1)
    assert_independent(first, second)


@pytest.mark.parametrize("normal", [False, True])
def test_noise(normal, isa):
    """Kolmogorov and Smirnov's test on each component, and no correlations."""
    noise = _core.policy_noise(12345678901234567, 60, 200, 7, normal)
    assert noise.dtype == np.float32
    expected = stats.norm() if normal else stats.uniform()
    for component in range(7):
        assert stats.kstest(noise[..., component].ravel(), expected.cdf).pvalue > LEAST
    assert_uncorrelated(noise)
    assert_uncorrelated(noise**2)
    if not normal:
        assert noise.min() >= 0
        assert noise.max() < 1


@pytest.mark.parametrize("normal", [False, True])
def test_noise_depends_on_nothing_but_its_place(normal, isa):
    """A smaller block is the corner of a larger one; keys differ in any bit."""
    whole = _core.policy_noise(77, 5, 130, 9, normal)
    for num_steps, num_envs, size in ((5, 130, 1), (1, 130, 9), (5, 3, 4), (2, 64, 5), (5, 65, 9)):
        part = _core.policy_noise(77, num_steps, num_envs, size, normal)
        np.testing.assert_array_equal(part, whole[:num_steps, :num_envs, :size])
    for bit in (0, 31, 32, 62):
        other = _core.policy_noise(77 ^ (1 << bit), 5, 130, 9, normal)
        assert (other != whole).mean() > 0.99


def test_noise_is_the_same_in_every_instruction_set():
    """Normal numbers up to rounding."""
    before = metafast.isa()
    noises = []
    for isa in _core.supported_isas():
        _core.force_isa(isa)
        noises.append([_core.policy_noise(5, 4, 70, 3, normal) for normal in (False, True)])
    _core.force_isa(before)
    for other in noises[1:]:
        for mine, theirs in zip(noises[0], other, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(noises[0][0], other[0])


SPACES = {
    "discrete": (Discrete(5), {}, torch.distributions.Categorical),
    "bits": (MultiBinary(3), {}, torch.distributions.Bernoulli),
    "reals": (Box(-1, 1, (3,)), {}, torch.distributions.Normal),
    "multi_discrete": (MultiDiscrete([3, 4]), {}, torch.distributions.Categorical),
}


@pytest.mark.parametrize("name", SPACES)
def test_log_probabilities_and_entropies_are_torchs(name):
    space, options, kind = SPACES[name]
    distribution = make_distribution(space, **options)
    torch.manual_seed(1)
    outputs = torch.randn(40, distribution.num_outputs, dtype=torch.float64)
    if name == "reals":
        outputs = torch.cat([outputs[:, :3], outputs[:, 3:].exp()], -1)
        parts = [kind(*outputs.chunk(2, -1))]
    else:
        parts = [kind(logits=part) for part in outputs.split(distribution.choices or 3, -1)]
    actions = distribution.sample(outputs, distribution.noise(3, 1, 40)[0])
    columns = actions[..., None].unbind(-1) if name == "discrete" else [actions.double()]
    if name == "multi_discrete":
        columns = actions.unbind(-1)
    log_probs = sum(part.log_prob(column).view(40, -1).sum(-1) for part, column in zip(parts, columns, strict=True))
    entropies = sum(part.entropy().view(40, -1).sum(-1) for part in parts)
    torch.testing.assert_close(distribution.log_prob(outputs, actions), log_probs)
    torch.testing.assert_close(distribution.entropy(outputs), entropies)
