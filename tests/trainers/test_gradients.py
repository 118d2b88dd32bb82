"""What the trainer calls a policy gradient, against exact enumeration and slow twins."""

import numpy as np
import pytest
import torch

import metafast
from metafast.data.labelled import LabelledDataVectorEnv
from metafast.envs import Rollout
from metafast.nn import ActorCritic
from metafast.trainers import _experience, _learning, _traces
from metafast.trainers import policy_gradient as pg
from metafast.trainers._learner import flatten


def make(problem, num_envs, **options):
    env = LabelledDataVectorEnv(*problem, num_envs, shuffle=False)
    config = pg.configure("CartPole-v1", hidden_sizes=(), reward_scale=1.0, **options)
    learner = pg.make_learner(config, env, seed=3)
    with torch.no_grad():
        learner.parameters.copy_(torch.randn(len(learner.parameters), generator=torch.Generator().manual_seed(5)))
    return env, config, learner


def exact_gradient(learner, problem):
    features, labels = map(torch.from_numpy, problem)
    expected_reward = 0.0
    for action in (0, 1):
        actions = torch.full_like(labels, action)[:, None].float()
        actions = actions[:, 0].long() if learner.policy.distribution.choices else actions
        probabilities = learner.distribution.log_prob(learner.policy.act(features), actions).exp()
        expected_reward = expected_reward + (probabilities * (labels == action)).mean()
    (-expected_reward).backward()
    return take_gradient(learner)


def take_gradient(learner):
    gradient = learner.gradient.clone()
    learner.gradient.zero_()
    return gradient


def policy_part(learner, gradient):
    """The entries of `gradient` that belong to the policy head; the value head has its own loss."""
    sizes = [parameter.numel() for parameter in learner.policy.parameters()]
    names = [name for name, _ in learner.policy.named_parameters()]
    parts = zip(names, gradient.split(sizes), strict=True)
    return torch.cat([part for name, part in parts if name.startswith("policy")])


@pytest.mark.parametrize("policy", ["categorical", "bernoulli"])
def test_expected_score_function_gradient_equals_exact_enumeration(problem, policy):
    _, config, learner = make(problem, 6, algorithm="reinforce", policy=policy)
    features, labels = (torch.from_numpy(array).repeat_interleave(2, 0) for array in problem)
    classes = torch.tensor([0, 1] * 6)
    actions = classes if policy == "categorical" else classes[:, None].float()
    log_probs = learner.distribution.log_prob(learner.policy.act(features), actions).detach()
    # E[grad log pi R]: each (row, action) pair weighted by its probability.
    advantages = log_probs.exp() * (classes == labels)
    # The mean over twelve rows of half a unit each is the sum over six.
    batch = _learning.Batch(0.5, features, actions, log_probs, torch.zeros(12), advantages, torch.zeros(12))
    _learning.compute_loss(config, learner, batch)[0].backward()
    torch.testing.assert_close(take_gradient(learner), exact_gradient(learner, problem))


@pytest.mark.parametrize("algorithm", ["reinforce", "reinforce-baseline", "a2c", "ppo"])
def test_sampled_gradient_is_unbiased(problem, algorithm):
    env, config, learner = make(problem, 600, algorithm=algorithm, normalize_advantages=False, num_steps=1)
    observations, _ = env.reset(seed=0)
    samples = []
    for _ in range(100):
        whole_episodes = algorithm.startswith("reinforce")
        rollout = _experience.collect(env, learner, observations, 1, whole_episodes)
        observations = rollout.observations[-1].numpy()
        _learning.compute_loss(config, learner, _learning.make_batch(config, learner, rollout))[0].backward()
        samples.append(policy_part(learner, take_gradient(learner)))
    gradients = torch.stack(samples)
    exact = policy_part(learner, exact_gradient(learner, problem))
    error = (gradients.mean(0) - exact).abs()
    assert (error < 4.5 * gradients.std(0) / len(samples) ** 0.5).all()
    assert exact.abs().max() > 0.05


def test_a_baseline_lowers_the_variance(problem):
    spread = {}
    for algorithm in ("reinforce", "reinforce-baseline"):
        env, config, learner = make(problem, 60, algorithm=algorithm)
        with torch.no_grad():
            # A good constant baseline: the mean reward.
            learner.policy.value.weight.zero_()
            learner.policy.value.bias.fill_(0.5)
        observations, _ = env.reset(seed=0)
        samples = []
        for _ in range(200):
            rollout = _experience.collect(env, learner, observations, 1, whole_episodes=True)
            observations = rollout.observations[-1].numpy()
            _learning.compute_loss(config, learner, _learning.make_batch(config, learner, rollout))[0].backward()
            samples.append(policy_part(learner, take_gradient(learner)))
        spread[algorithm] = torch.stack(samples).var(0).sum()
    assert spread["reinforce-baseline"] < 0.8 * spread["reinforce"]


def random_rollout(steps=12, envs=3, seed=0, double=False):
    rng = np.random.default_rng(seed)
    terminated = torch.from_numpy(rng.random((steps, envs)) < 0.15)
    truncated = torch.from_numpy(rng.random((steps, envs)) < 0.15) & ~terminated
    truncated[-1, 0], terminated[-1, 0] = True, False
    dtype = torch.float64 if double else torch.float32
    rows = torch.from_numpy(rng.standard_normal((steps + 1, envs, 3))).to(dtype)
    finals = torch.from_numpy(rng.standard_normal((steps, envs, 3))).to(dtype)
    return Rollout(
        observations=rows,
        actions=torch.from_numpy(rng.integers(0, 2, (steps, envs))),
        log_probs=torch.from_numpy(rng.uniform(-1.5, -0.2, (steps, envs))).to(dtype),
        rewards=torch.from_numpy(rng.standard_normal((steps, envs))).to(dtype),
        terminated=terminated,
        truncated=truncated,
        values=torch.full((steps + 1, envs), torch.nan, dtype=dtype),
        final_values=torch.full((steps, envs), torch.nan, dtype=dtype),
        # Only those of cut episodes may be read.
        final_observations=torch.where(truncated[..., None], finals, torch.nan),
        starts=torch.zeros_like(terminated),
    )


def true_successor_values(learner, rollout):
    """V(s_t) and V(s_{t+1}) [T, N], where the successor of a cut step is its own last observation."""
    with torch.no_grad():
        values = learner.policy(rollout.observations.flatten(0, 1))[1].view(rollout.observations.shape[:2])
        finals = learner.policy(rollout.final_observations.flatten(0, 1))[1].view(rollout.rewards.shape)
    rollout.values, rollout.final_values = values, finals
    return values[:-1], torch.where(rollout.truncated, finals, values[1:])


@pytest.mark.parametrize("algorithm", ["ppo", "a2c"])
def test_cut_episodes_count_on_the_value_of_their_last_observation(problem, algorithm):
    _, config, learner = make(problem, 3, algorithm=algorithm, normalize_advantages=False, lam=0.8)
    rollout = random_rollout()
    values, successors = true_successor_values(learner, rollout)
    batch = _learning.make_batch(config, learner, rollout)
    expected, carried = torch.zeros_like(values), torch.zeros(3)
    for step in reversed(range(len(values))):
        alive, goes_on = ~rollout.terminated[step], ~(rollout.terminated | rollout.truncated)[step]
        delta = rollout.rewards[step] + config.gamma * successors[step] * alive - values[step]
        expected[step] = carried = delta + config.gamma * 0.8 * goes_on * carried
    torch.testing.assert_close(batch.advantages, expected.flatten())
    torch.testing.assert_close(batch.returns, (expected + values).flatten())


@pytest.mark.parametrize("engine", ["torch", "native"])
def test_reinforce_learns_from_one_whole_episode_of_each_environment(engine):
    env = metafast.envs.make_vec("CartPole-v1", 6, autoreset_mode="same_step")
    config = pg.configure(algorithm="reinforce", gamma=0.9)
    learner = pg.make_learner(config, env, seed=0)
    observations, _ = env.reset(seed=0)
    rollout = _experience.collect(env, learner, observations, 32, whole_episodes=True, engine=engine)
    batch = _learning.make_batch(config, learner, rollout)
    lengths = rollout.mask.sum(0)
    ended = rollout.terminated | rollout.truncated
    assert len(rollout.mask) < lengths.max() + 32
    assert len(batch.returns) == lengths.sum()
    assert batch.units == pytest.approx(6 / float(lengths.sum()))
    for index, length in enumerate(lengths.tolist()):
        assert ended[length - 1, index]
        assert not ended[: length - 1, index].any()
    returns = torch.zeros_like(rollout.rewards)
    returns[rollout.mask] = batch.returns
    # Reward 1 a step: the first step of an episode of length l has return (1 - gamma^l) / (1 - gamma).
    torch.testing.assert_close(returns[0], (1 - 0.9**lengths) / (1 - 0.9))


def test_ppo_starts_from_the_a2c_gradient_and_stops_at_the_clip(problem):
    _, config, learner = make(problem, 3, algorithm="ppo", value_coef=0.0, normalize_advantages=False, clip=0.2)
    rollout = random_rollout()
    true_successor_values(learner, rollout)
    with torch.no_grad():
        outputs = learner.policy.act(rollout.observations[:-1].flatten(0, 1)).view(12, 3, -1)
    rollout.log_probs = learner.distribution.log_prob(outputs, rollout.actions)
    batch = _learning.make_batch(config, learner, rollout)
    _learning.compute_loss(config, learner, batch)[0].backward()
    ppo = take_gradient(learner)
    _learning.compute_loss(pg.configure(algorithm="a2c", value_coef=0.0), learner, batch)[0].backward()
    torch.testing.assert_close(ppo, take_gradient(learner))
    # The ratio is now above 1.2 everywhere: only steps with negative advantages still pull.
    batch.log_probs = batch.log_probs - 0.3
    batch.advantages = batch.advantages.abs()
    _learning.compute_loss(config, learner, batch)[0].backward()
    assert not take_gradient(learner).any()


def test_minibatches_cover_a_batch_once():
    columns = [torch.arange(10.0) for _ in range(5)]
    parts, again = _learning.Batch(1.0, *columns, columns[0]).shuffled(4, 2, torch.Generator().manual_seed(0))
    assert not torch.equal(parts[0].returns, again[0].returns)
    assert sorted(torch.cat([part.returns for part in parts]).tolist()) == list(range(10))
    assert all(torch.equal(part.observations, part.returns) for part in parts)


def test_backward_view_equals_forward_view(problem):
    """At fixed weights the sum of delta z is the sum of (G^lambda - V) times the gradient (Sutton and Barto, 12.2)."""
    _, config, learner = make(problem, 3, algorithm="td-lambda", gamma=0.97, lam=0.85, value_coef=0.3)
    learner.policy.double()
    flatten(learner.policy)
    rollout = random_rollout(steps=40, double=True)
    values, successors = true_successor_values(learner, rollout)
    traces = torch.zeros(3, len(learner.parameters), dtype=torch.float64)
    backward_view = torch.zeros_like(traces)
    for step in range(40):
        gradients = _traces.trace_gradients(config, learner, rollout.observations[step], rollout.actions[step])
        td_errors = rollout.rewards[step] + config.gamma * successors[step] * ~rollout.terminated[step] - values[step]
        ended = (rollout.terminated | rollout.truncated)[step]
        backward_view = backward_view + _traces.trace_update(
            traces, gradients, config.gamma * config.lam, td_errors, ended
        )
    final_values = torch.where(rollout.truncated, successors, 0.0)
    advantages, _ = metafast.gae(
        rollout.rewards, values, successors[-1], rollout.terminated, rollout.truncated,
        gamma=config.gamma, lam=config.lam, final_values=final_values,
    )  # fmt: skip
    outputs, predictions = learner.policy(rollout.observations[:-1].flatten(0, 1))
    log_probs = learner.distribution.log_prob(outputs, rollout.actions.flatten()).view(40, 3)
    predictions = predictions.view(40, 3)
    forward_objective = (advantages * (log_probs + 2 * config.value_coef * predictions)).sum()
    forward_view = torch.autograd.grad(forward_objective, list(learner.policy.parameters()))
    torch.testing.assert_close(
        backward_view.sum(0), torch.cat([part.flatten() for part in forward_view]), rtol=1e-10, atol=1e-10
    )


def test_adam_equals_torch_optim(problem):
    _, _, learner = make(problem, 3, algorithm="ppo")
    twin = torch.nn.Parameter(learner.parameters.clone())
    optimizer = torch.optim.Adam([twin], lr=0.01, eps=1e-5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        gradient = torch.randn(len(twin), generator=generator)
        twin.grad = gradient * min(1.0, 1.5 / float(gradient.norm() + 1e-6))
        optimizer.step()
        learner.gradient += gradient
        learner.step(0.01, max_grad_norm=1.5)
    torch.testing.assert_close(learner.parameters, twin.data, rtol=1e-5, atol=1e-6)
    assert not learner.gradient.any()


def test_sgd_adds_alpha_times_the_policy_gradient(problem):
    _, _, learner = make(problem, 3, algorithm="reinforce")
    before = learner.parameters.clone()
    learner.gradient += 2.0
    learner.step(0.1, optimizer="sgd")
    torch.testing.assert_close(learner.parameters, before - 0.2)


def test_flattened_parameters_are_the_modules_own(problem):
    _, _, learner = make(problem, 3, algorithm="ppo")
    assert isinstance(learner.policy, ActorCritic)
    learner.parameters.fill_(0.25)
    assert all((parameter == 0.25).all() for parameter in learner.policy.parameters())
    learner.policy(torch.ones(2, 3))[1].sum().backward()
    assert torch.equal(
        learner.gradient, torch.cat([parameter.grad.flatten() for parameter in learner.policy.parameters()])
    )
