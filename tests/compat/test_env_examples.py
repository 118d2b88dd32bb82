"""Other people's training loops on our environments, for a few updates."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from torch import nn
from torch.distributions import Categorical, Independent, Normal

import metafast
from metafast.compat.sb3 import make_vec_env
from metafast.envs._catalogue import CATALOGUE

# Of what it imports, and of its own former defaults.
torchrl_warns_of_itself = pytest.mark.filterwarnings("ignore")
of_every_environment = pytest.mark.parametrize("env_id", sorted(CATALOGUE))


def changed(before, module):
    return any(not torch.equal(before[name], value) for name, value in module.state_dict().items())


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@of_every_environment
def test_stable_baselines3(env_id):
    env = make_vec_env(env_id, n_envs=8, seed=1, env_kwargs={"max_episode_steps": 12})
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=64, n_epochs=2, seed=1, device="cpu")
    before = copied(model.policy)
    model.learn(3 * 8 * 16)
    assert model.num_timesteps == 3 * 8 * 16
    assert changed(before, model.policy)
    assert 0 < max(info["l"] for info in model.ep_info_buffer) <= 12
    actions, _ = model.predict(env.reset(), deterministic=True)
    assert all(action in env.action_space for action in actions)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_stable_baselines3_in_its_own_vector_environment(env_id):
    """Single environments by gymnasium's id, as a program does that knows nothing of metafast."""
    model = PPO("MlpPolicy", f"metafast/{env_id}", n_steps=64, batch_size=64, n_epochs=1, seed=1, device="cpu")
    before = copied(model.policy)
    model.learn(128)
    assert changed(before, model.policy)


@torchrl_warns_of_itself
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_torchrl_collector(env_id):
    """A random policy's rollouts through torchrl's wrapper of gymnasium, equal to what our environment gives."""
    from torchrl.collectors import Collector
    from torchrl.envs import GymWrapper

    env = GymWrapper(gymnasium.make(f"metafast/{env_id}", max_episode_steps=9), device="cpu")
    env.set_seed(3)
    collector = Collector(env, None, frames_per_batch=40, total_frames=80)
    batches = [batch.clone() for batch in collector]
    collector.shutdown()
    assert [batch.numel() for batch in batches] == [40, 40]
    steps = torch.cat(batches)
    assert steps["next", "done"].sum() >= 80 // 9
    assert (steps["next", "truncated"] | steps["next", "terminated"]).equal(steps["next", "done"])
    # Each step again, from the observations that the collector was given.
    within = ~steps["next", "done"][:-1, 0]
    torch.testing.assert_close(steps["next", "observation"][:-1][within], steps["observation"][1:][within])


@torchrl_warns_of_itself
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_torchrl_on_the_batch(env_id):
    """The vector environment itself in torchrl's wrapper, with its true last observations."""
    from torchrl.envs import GymWrapper

    native = metafast.envs.make_vec(env_id, 4, autoreset_mode="same_step", max_episode_steps=5)
    env = GymWrapper(native, device="cpu")
    assert env.batch_size == torch.Size([4])
    rollout = env.rollout(12, break_when_any_done=False)
    assert rollout.batch_size == torch.Size([4, 12])
    done = rollout["next", "done"][..., 0]
    assert done.any()
    inside = ~done[:, :-1]
    torch.testing.assert_close(rollout["next", "observation"][:, :-1][inside], rollout["observation"][:, 1:][inside])
    ended = done[:, :-1]
    assert not torch.equal(rollout["next", "observation"][:, :-1][ended], rollout["observation"][:, 1:][ended])


class Agent(nn.Module):
    def __init__(self, envs):
        super().__init__()
        space = envs.single_action_space
        self.discrete = isinstance(space, spaces.Discrete)
        size = int(np.prod(envs.single_observation_space.shape))
        outputs = int(space.n) if self.discrete else int(np.prod(space.shape))
        self.critic = nn.Sequential(nn.Flatten(), nn.Linear(size, 32), nn.Tanh(), nn.Linear(32, 1))
        self.actor = nn.Sequential(nn.Flatten(), nn.Linear(size, 32), nn.Tanh(), nn.Linear(32, outputs))
        self.log_std = nn.Parameter(torch.zeros(outputs))

    def act(self, observations, actions=None):
        outputs = self.actor(observations)
        policy = Categorical(logits=outputs) if self.discrete else Independent(Normal(outputs, self.log_std.exp()), 1)
        actions = policy.sample() if actions is None else actions
        return actions, policy.log_prob(actions), policy.entropy(), self.critic(observations).squeeze(-1)


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
@of_every_environment
def test_a_loop_like_cleanrls(env_id, mode):
    """PPO in one function; what the two modes return differently, metafast.envs.transitions settles."""
    torch.manual_seed(1)
    num_steps, num_envs = 16, 8
    envs = metafast.envs.make_vec(env_id, num_envs, autoreset_mode=mode, max_episode_steps=11)
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
    agent = Agent(envs)
    before = copied(agent)
    optimizer = torch.optim.Adam(agent.parameters(), lr=2.5e-4)
    next_observations = torch.as_tensor(envs.reset(seed=1)[0])
    batch, episodes = None, 0
    for _ in range(3):
        observations, actions, log_probs, values, steps = [], [], [], [], []
        for _ in range(num_steps):
            with torch.no_grad():
                action, log_prob, _, value = agent.act(next_observations)
            observations.append(next_observations)
            actions.append(action)
            log_probs.append(log_prob)
            values.append(value)
            steps.append(envs.step(action.numpy()))
            next_observations = torch.as_tensor(steps[-1][0])
            episodes += int(steps[-1][4].get("_episode", np.zeros(1)).sum())
        values = torch.stack(values)
        with torch.no_grad():
            batch = metafast.envs.transitions(
                envs, steps, batch, lambda each: agent.critic(torch.as_tensor(each)).squeeze(-1), values=values
            )
        advantages, returns = metafast.gae(
            batch.rewards, values, batch.next_values, batch.terminated, batch.truncated, mask=batch.valid
        )
        taken = batch.valid.flatten()
        assert taken.all() == (mode == "same_step")
        flat = [torch.stack(part).flatten(0, 1)[taken] for part in (observations, actions, log_probs)]
        advantages, returns = advantages.flatten()[taken], returns.flatten()[taken]
        for indices in torch.randperm(int(taken.sum())).chunk(2):
            _, log_prob, entropy, value = agent.act(flat[0][indices], flat[1][indices])
            ratio = (log_prob - flat[2][indices]).exp()
            advantage = advantages[indices]
            policy_loss = -torch.min(advantage * ratio, advantage * ratio.clamp(0.8, 1.2)).mean()
            loss = policy_loss - 0.01 * entropy.mean() + 0.5 * (value - returns[indices]).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
            assert torch.isfinite(loss)
    assert episodes >= num_envs
    assert changed(before, agent)
