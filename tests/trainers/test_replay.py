"""The replay buffer, and what the trainer learns from experience that other policies gathered."""

import dataclasses

import numpy as np
import pytest
import torch

from metafast.data.labelled import LabelledDataVectorEnv
from metafast.envs import Rollout
from metafast.trainers import UsageError, _experience, _learning
from metafast.trainers import policy_gradient as pg
from metafast.trainers._replay import Replay

COLUMNS = [
    field.name for field in dataclasses.fields(Rollout) if field.name not in ("mask", "initial_hidden", "hidden")
]


def numbered_rollout(number, steps=3, envs=2):
    """A rollout whose every entry tells its rollout, environment and step."""
    time, env = torch.meshgrid(torch.arange(steps + 1.0), torch.arange(float(envs)), indexing="ij")
    entries = 1000 * number + 100 * env + time
    return Rollout(
        observations=entries[..., None].repeat(1, 1, 4),
        actions=entries[:-1].long(),
        log_probs=-entries[:-1],
        rewards=entries[:-1],
        terminated=time[:-1] == 1,
        truncated=time[:-1] == 2,
        values=entries,
        final_values=entries[:-1],
        final_observations=entries[:-1, :, None].repeat(1, 1, 4),
        starts=time[:-1] == 0,
    )


def assert_consistent(rollout):
    """Every column is of the same segment of experience."""
    entries = rollout.rewards
    assert (rollout.observations[:-1] == entries[..., None]).all()
    assert (rollout.observations[-1] == entries[-1, :, None] + 1).all()
    assert (rollout.final_observations == entries[..., None]).all()
    assert (rollout.actions == entries).all()
    assert (rollout.log_probs == -entries).all()
    assert (rollout.values[:-1] == entries).all()
    assert (rollout.final_values == entries).all()
    assert (rollout.terminated == (entries % 100 == 1)).all()
    assert (rollout.truncated == (entries % 100 == 2)).all()
    assert (entries.diff(dim=0) == 1).all()


def segments(rollout):
    """The rollout number and environment of every segment."""
    return [divmod(int(entry), 1000) for entry in rollout.rewards[0]]


def test_a_mix_is_the_fresh_rollout_and_distinct_segments_of_the_last_ones():
    replay, generator = Replay(3), torch.Generator().manual_seed(0)
    assert segments(replay.mix(numbered_rollout(0), 1.0, generator)) == [(0, 0), (0, 100)]
    drawn = []
    for number in range(6):
        replay.add(numbered_rollout(number))
        mixed = replay.mix(numbered_rollout(99), 2.0, generator)
        assert_consistent(mixed)
        assert segments(mixed)[:2] == [(99, 0), (99, 100)]
        old = segments(mixed)[2:]
        assert len(set(old)) == len(old) == min(4, 2 * (number + 1))
        assert all(number - 3 < kept <= number for kept, _ in old)
    for _ in range(50):
        drawn += segments(replay.mix(numbered_rollout(99), 0.5, generator))[2:]
    # The three that are left, from all environments, about equally often: 50 draws over 6 segments.
    assert set(drawn) == {(number, env) for number in (3, 4, 5) for env in (0, 100)}
    assert len(drawn) == 50
    assert max(drawn.count(segment) for segment in drawn) < 20


@pytest.mark.parametrize("added", [0, 2, 3, 5])
def test_a_restored_buffer_continues_alike(added):
    original, restored = Replay(3), Replay(3)
    for number in range(added):
        original.add(numbered_rollout(number))
    state = {name: array.copy() for name, array in original.get_state().items()}
    if added == 0:
        assert state == {"added": 0}
    restored.set_state(state)
    for number in range(added, added + 3):
        mixed = [
            replay.mix(numbered_rollout(99), 1.0, torch.Generator().manual_seed(number))
            for replay in (original, restored)
        ]
        assert all(torch.equal(getattr(mixed[0], name), getattr(mixed[1], name)) for name in COLUMNS)
        original.add(numbered_rollout(number))
        restored.add(numbered_rollout(number))
    for name, array in original.get_state().items():
        np.testing.assert_array_equal(restored.get_state()[name], array)


def random_rollout(observation_size, steps=10, envs=4):
    rng = np.random.default_rng(1)
    terminated = torch.from_numpy(rng.random((steps, envs)) < 0.15)
    truncated = torch.from_numpy(rng.random((steps, envs)) < 0.2) & ~terminated
    truncated[-1, 0], terminated[-1, 0] = True, False
    finals = torch.from_numpy(rng.standard_normal((steps, envs, observation_size))).float()
    return Rollout(
        observations=torch.from_numpy(rng.standard_normal((steps + 1, envs, observation_size))).float(),
        actions=torch.from_numpy(rng.integers(0, 2, (steps, envs))),
        log_probs=torch.from_numpy(rng.uniform(-2.0, -0.1, (steps, envs))).float(),
        rewards=torch.from_numpy(rng.standard_normal((steps, envs))).float(),
        terminated=terminated,
        truncated=truncated,
        # V-trace estimates values anew.
        values=torch.full((steps + 1, envs), torch.nan),
        final_values=torch.full((steps, envs), torch.nan),
        final_observations=torch.where(truncated[..., None], finals, torch.nan),
        starts=torch.zeros_like(terminated),
    )


@pytest.mark.parametrize("centred", [False, True])
def test_targets_and_advantages_are_those_of_v_trace(problem, centred):
    """Espeholt et al. 2018, equation 1, as the sum that it is; the successor of a cut step is its last observation."""
    env = LabelledDataVectorEnv(*problem, 4, shuffle=False)
    config = pg.configure(
        algorithm="vtrace", hidden_sizes=(), gamma=0.9, lam=0.8, reward_scale=0.5, normalize_advantages=centred
    )
    learner = pg.make_learner(config, env, seed=0)
    rollout = random_rollout(3)
    with torch.no_grad():
        outputs, values = learner.policy(rollout.observations.flatten(0, 1))
        outputs, values = outputs.view(11, 4, -1), values.view(11, 4)
        finals = learner.policy(rollout.final_observations.flatten(0, 1))[1].view(10, 4).double().numpy()
        log_probs = learner.distribution.log_prob(outputs[:-1], rollout.actions)
    rho = np.minimum(1, (log_probs - rollout.log_probs).double().exp().numpy())
    assert 0.2 < (rho < 1).mean() < 0.8
    values, rewards = values.double().numpy(), 0.5 * rollout.rewards.double().numpy()
    terminated, truncated = rollout.terminated.numpy(), rollout.truncated.numpy()
    successors = np.where(terminated, 0, np.where(truncated, finals, values[1:]))
    errors = rho * (rewards + 0.9 * successors - values[:-1])
    targets, advantages = values[:-1].copy(), np.zeros_like(rewards)
    for t, n in np.ndindex(rewards.shape):
        weight = 1.0
        for k in range(t, len(rewards)):
            targets[t, n] += weight * errors[k, n]
            weight *= 0.9 * 0.8 * rho[k, n]
            if terminated[k, n] or truncated[k, n]:
                break
    goes_on = ~(terminated | truncated)[:-1]
    following = successors.copy()
    following[:-1][goes_on] = targets[1:][goes_on]
    advantages = rho * (rewards + 0.9 * following - values[:-1])
    if centred:
        advantages -= rho * advantages.sum() / rho.sum()
    batch = _learning.make_batch(config, learner, rollout)
    np.testing.assert_allclose(batch.returns.numpy(), targets.flatten(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(batch.advantages.numpy(), advantages.flatten(), rtol=1e-5, atol=1e-5)
    assert batch.units == 1


def test_replayed_experience_gives_the_gradient_of_the_policy_that_learns(problem):
    """One-step episodes, gathered by one policy and learnt from by another, against a sum over all that can happen."""
    env = LabelledDataVectorEnv(*problem, 600, shuffle=False)
    config = pg.configure(
        algorithm="vtrace", hidden_sizes=(), reward_scale=1.0, value_coef=0.0, normalize_advantages=False
    )
    learner = pg.make_learner(config, env, seed=3)
    parameters = [torch.randn(len(learner.parameters), generator=torch.Generator().manual_seed(s)) for s in (5, 6)]
    observations, _ = env.reset(seed=0)
    corrected, uncorrected = [], []
    for _ in range(100):
        learner.parameters.copy_(parameters[0])
        rollout = _experience.collect(env, learner, observations, 1)
        observations = rollout.observations[-1].numpy()
        learner.parameters.copy_(parameters[1])
        batch = _learning.make_batch(config, learner, rollout)
        for gradients, advantages in (
            (corrected, batch.advantages),
            (uncorrected, rollout.rewards[0] - learner.policy(batch.observations)[1].detach()),
        ):
            batch.advantages = advantages
            _learning.compute_loss(config, learner, batch)[0].backward()
            gradients.append(learner.gradient.clone())
            learner.gradient.zero_()
    corrected, uncorrected = torch.stack(corrected), torch.stack(uncorrected)
    # Each action with the lesser of its probabilities: rho is cut off at 1.
    features, labels = map(torch.from_numpy, problem)
    expected = 0.0
    for action in (0, 1):
        taken = torch.full_like(labels, action)
        probabilities = []
        for each in parameters:
            learner.parameters.copy_(each)
            outputs, values = learner.policy(features)
            log_probs = learner.distribution.log_prob(outputs, taken)
            probabilities.append(log_probs.detach().exp())
        weights = torch.minimum(*probabilities) * ((labels == action).float() - values.detach())
        expected = expected - (weights * log_probs).mean()
    expected.backward()
    tolerance = 4.5 * corrected.std(0) / len(corrected) ** 0.5
    assert ((corrected.mean(0) - learner.gradient).abs() <= tolerance).all()
    assert learner.gradient.abs().max() > 0.05
    assert ((uncorrected.mean(0) - learner.gradient).abs() > 5 * tolerance).any()


def test_pendulum_learns(tmp_path):
    """Episodes of 200 steps that are cut, not ended. A random policy's mean return is -1200.

    The full 150 000 steps end at -230 or so; here it is seen on the way.
    """
    config = pg.configure(
        "Pendulum-v1", replay=64, preset="torch", seed=1, total_steps=60_000, run_dir=str(tmp_path / "run"),
    )  # fmt: skip
    assert config.algorithm == "vtrace"
    assert pg.train(config)["mean_return"] > -900


def test_replay_chooses_v_trace_and_fits_no_other_algorithm():
    assert pg.parse(["--replay", "8"]).algorithm == "vtrace"
    assert pg.parse(["--replay", "8"]).replay == 8
    assert pg.parse(["--algorithm", "vtrace"]).replay > 0
    assert pg.configure(replay=8).algorithm == "vtrace"
    assert pg.configure().replay == pg.parse([]).replay == 0
    assert pg.parse(["--replay", "0"]).algorithm == "ppo"
    for options in ({"algorithm": "ppo", "replay": 8}, {"algorithm": "vtrace", "replay": -1}):
        with pytest.raises(UsageError, match="replay must be"):
            pg.configure(**options)
    with pytest.raises(UsageError, match="replay_ratio must be positive"):
        pg.configure(replay=8, replay_ratio=0.0)


def test_a_resumed_run_keeps_the_size_of_its_rollouts_and_buffer(tmp_path):
    options = {"replay": 3, "num_envs": 4, "num_steps": 8, "total_steps": 64}
    pg.train(pg.configure(run_dir=str(tmp_path / "run"), **options))
    for name, value in (("replay", "4"), ("num-steps", "16")):
        with pytest.raises(UsageError, match=f"{name.replace('-', '_')} cannot be changed"):
            pg.train(pg.parse(["--resume", str(tmp_path / "run"), f"--{name}", value]))
