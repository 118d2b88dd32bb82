"""An actor-critic of Keras 3 on CartPole-v1: `python keras_actor_critic.py`.

The policy is Dense 64 relu and softmax, the value function Dense 32 relu and linear. Apart from one import, that of
`envs` and `gae`, it is the program that one writes for gymnasium's environments and a loop in NumPy.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")  # before keras is imported

import keras
import numpy as np
import torch
from keras import layers

from metafast import envs, gae

GAMMA, LAM = 0.99, 0.9
# Keeps the values, and with them the critic's gradients, of order one.
REWARD_SCALE = 0.1


def make_networks(observation_size, num_actions, seed):
    keras.utils.set_random_seed(seed)
    policy = keras.Sequential(
        [keras.Input((observation_size,)), layers.Dense(64, "relu"), layers.Dense(num_actions, "softmax")]
    )
    value = keras.Sequential([keras.Input((observation_size,)), layers.Dense(32, "relu"), layers.Dense(1)])
    return policy, value


def sample(probabilities, rng):
    thresholds = probabilities.cumsum(-1)[..., :-1]
    return (rng.random((*thresholds.shape[:-1], 1)) > thresholds).sum(-1)


def train(total_steps=40_000, num_envs=32, num_steps=8, learning_rate=5e-3, seed=0):
    """Learn, and return the return of every episode, in the order in which they ended."""
    env = envs.make_vec("CartPole-v1", num_envs)
    policy, value = make_networks(env.single_observation_space.shape[0], int(env.single_action_space.n), seed)
    weights = policy.trainable_weights + value.trainable_weights
    optimizer = keras.optimizers.Adam(learning_rate, global_clipnorm=0.5, epsilon=1e-5)
    optimizer.build(weights)
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    ended, running, returns = np.zeros(num_envs, bool), np.zeros(num_envs), []
    for _ in range(total_steps // (num_envs * num_steps)):
        steps = []
        for _ in range(num_steps):
            with torch.no_grad():
                action = sample(policy(observation).numpy(), rng)
            # gymnasium's default is to reset in the step after an end, whatever the action: nothing to learn from.
            valid, acted_on = ~ended, observation
            observation, reward, terminated, truncated, _ = env.step(action)
            steps.append((acted_on, action, reward, terminated, truncated, valid))
            running += reward
            ended = terminated | truncated
            returns.extend(running[ended].tolist())
            running[ended] = 0
        observations, actions, rewards, terminated, truncated, valid = map(np.stack, zip(*steps, strict=True))
        with torch.no_grad():
            everything = np.concatenate([observations, observation[None]])
            values = value(everything.reshape(-1, everything.shape[-1])).numpy().reshape(num_steps + 1, num_envs)
        advantages, targets = gae(
            rewards.astype(np.float32) * REWARD_SCALE, values[:-1], values[1:], terminated, truncated,
            gamma=GAMMA, lam=LAM,
        )  # fmt: skip
        columns = observations, actions, advantages, targets
        update(policy, value, optimizer, weights, *(keras.ops.convert_to_tensor(column[valid]) for column in columns))
    env.close()
    return returns


def update(policy, value, optimizer, weights, observations, actions, advantages, targets):
    """One step along the policy gradient, and down the value function's squared error."""
    chosen = keras.ops.take_along_axis(policy(observations), actions[:, None], axis=1)[:, 0]
    policy_loss = -keras.ops.mean(keras.ops.log(chosen) * advantages)
    value_loss = keras.ops.mean((value(observations)[:, 0] - targets) ** 2)
    for weight in weights:
        weight.value.grad = None
    (policy_loss + 0.5 * value_loss).backward()
    with torch.no_grad():
        optimizer.apply([weight.value.grad for weight in weights], weights)


if __name__ == "__main__":
    episode_returns = train()
    print(f"first 100 episodes: {np.mean(episode_returns[:100]):.1f}, last 100: {np.mean(episode_returns[-100:]):.1f}")
