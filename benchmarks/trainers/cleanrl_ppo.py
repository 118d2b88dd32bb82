"""PPO on CartPole-v1 in the form and with the published defaults of CleanRL's ppo.py, written anew, as a peer.

It stops when its latest 100 episodes reach a mean return. Episodes are counted by a running sum, which costs less than
the wrapper that its original has.
"""

import collections
import time

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import nn
from torch.distributions import Categorical

__all__ = ["train"]

TOTAL_STEPS, NUM_ENVS, NUM_STEPS = 500_000, 4, 128
LEARNING_RATE, GAMMA, GAE_LAMBDA = 2.5e-4, 0.99, 0.95
NUM_MINIBATCHES, UPDATE_EPOCHS = 4, 4
CLIP_COEF, ENT_COEF, VF_COEF, MAX_GRAD_NORM = 0.2, 0.01, 0.5, 0.5


def layer(inputs, outputs, gain=2**0.5):
    made = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(made.weight, gain)
    nn.init.constant_(made.bias, 0.0)
    return made


def tower(outputs, gain):
    return nn.Sequential(layer(4, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, outputs, gain))


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.critic, self.actor = tower(1, 1.0), tower(2, 0.01)

    def get_value(self, x):
        return self.critic(x)

    def get_action_and_value(self, x, action=None):
        probs = Categorical(logits=self.actor(x))
        if action is None:
            action = probs.sample()
        return action, probs.log_prob(action), probs.entropy(), self.critic(x)


def train(target, seed, max_steps=TOTAL_STEPS):
    """Seconds, environment steps and whether the target was reached."""
    start = time.perf_counter()
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - as its original
    envs = gymnasium.make_vec(
        "CartPole-v1", NUM_ENVS, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}
    )
    agent = Agent()
    optimizer = torch.optim.Adam(agent.parameters(), lr=LEARNING_RATE, eps=1e-5)
    returns_of_episodes, running = collections.deque(maxlen=100), np.zeros(NUM_ENVS)

    obs = torch.zeros(NUM_STEPS, NUM_ENVS, 4)
    actions, logprobs, rewards, dones, values = torch.zeros(5, NUM_STEPS, NUM_ENVS)
    next_obs, next_done = torch.Tensor(envs.reset(seed=seed)[0]), torch.zeros(NUM_ENVS)
    batch_size = NUM_STEPS * NUM_ENVS
    num_iterations, steps, reached = TOTAL_STEPS // batch_size, 0, False
    for iteration in range(num_iterations):
        optimizer.param_groups[0]["lr"] = (1 - iteration / num_iterations) * LEARNING_RATE

        for step in range(NUM_STEPS):
            steps += NUM_ENVS
            obs[step], dones[step] = next_obs, next_done
            with torch.no_grad():
                action, logprob, _, value = agent.get_action_and_value(next_obs)
            values[step], actions[step], logprobs[step] = value.flatten(), action, logprob
            following, reward, terminations, truncations, _ = envs.step(action.numpy())
            done = np.logical_or(terminations, truncations)
            rewards[step] = torch.tensor(reward).view(-1)
            next_obs, next_done = torch.Tensor(following), torch.Tensor(done)
            running += reward
            for env in np.flatnonzero(done):
                returns_of_episodes.append(running[env])
                running[env] = 0
                reached = reached or (len(returns_of_episodes) == 100 and np.mean(returns_of_episodes) >= target)
            if reached or steps >= max_steps:
                envs.close()
                return time.perf_counter() - start, steps, reached

        with torch.no_grad():
            next_value = agent.get_value(next_obs).reshape(1, -1)
            advantages, last = torch.zeros_like(rewards), 0
            for step in reversed(range(NUM_STEPS)):
                follows = 1.0 - (next_done if step == NUM_STEPS - 1 else dones[step + 1])
                value_after = next_value if step == NUM_STEPS - 1 else values[step + 1]
                error = rewards[step] + GAMMA * value_after * follows - values[step]
                advantages[step] = last = error + GAMMA * GAE_LAMBDA * follows * last
            returns = advantages + values

        columns = obs, actions.long(), logprobs, advantages, returns, values
        b_obs, b_actions, b_logprobs, b_advantages, b_returns, b_values = (each.flatten(0, 1) for each in columns)
        indices = np.arange(batch_size)
        for _ in range(UPDATE_EPOCHS):
            np.random.shuffle(indices)  # noqa: NPY002
            for chosen in np.split(indices, NUM_MINIBATCHES):
                _, newlogprob, entropy, newvalue = agent.get_action_and_value(b_obs[chosen], b_actions[chosen])
                logratio = newlogprob - b_logprobs[chosen]
                ratio = logratio.exp()
                with torch.no_grad():
                    ((ratio - 1) - logratio).mean()  # the divergence that its original reports
                    ((ratio - 1.0).abs() > CLIP_COEF).float().mean().item()
                advantage = b_advantages[chosen]
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                clipped_ratio = torch.clamp(ratio, 1 - CLIP_COEF, 1 + CLIP_COEF)
                pg_loss = torch.max(-advantage * ratio, -advantage * clipped_ratio).mean()
                newvalue = newvalue.view(-1)
                moved = torch.clamp(newvalue - b_values[chosen], -CLIP_COEF, CLIP_COEF)
                unclipped = (newvalue - b_returns[chosen]) ** 2
                clipped = (b_values[chosen] + moved - b_returns[chosen]) ** 2
                v_loss = 0.5 * torch.max(unclipped, clipped).mean()
                loss = pg_loss - ENT_COEF * entropy.mean() + v_loss * VF_COEF
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), MAX_GRAD_NORM)
                optimizer.step()
    envs.close()
    return time.perf_counter() - start, steps, reached
