"""The advantage loop of CleanRL's PPO scripts, in a function so that an import can put another in its place."""

import torch


def compute_gae(rewards, values, dones, next_value, next_done, gamma, gae_lambda):
    advantages = torch.zeros_like(rewards)
    advantage = 0
    steps_left = 1.0 - next_done.to(rewards.dtype)
    value_after = next_value.reshape(rewards.shape[1:])
    for step in range(len(rewards) - 1, -1, -1):
        error = rewards[step] + gamma * value_after * steps_left - values[step]
        advantage = error + gamma * gae_lambda * steps_left * advantage
        advantages[step] = advantage
        steps_left, value_after = 1.0 - dones[step], values[step]
    return advantages, advantages + values
