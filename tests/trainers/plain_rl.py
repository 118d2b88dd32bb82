"""What a program does without metafast: gymnasium's own environments, and advantages by a loop in NumPy."""

import gymnasium
import numpy as np


class envs:
    @staticmethod
    def make_vec(env_id, num_envs):
        return gymnasium.make_vec(env_id, num_envs, vectorization_mode="sync")


def gae(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    advantages, following = np.zeros_like(values), np.zeros_like(values[0])
    for t in reversed(range(len(rewards))):
        error = rewards[t] + gamma * np.where(terminated[t], 0, next_values[t]) - values[t]
        following = error + gamma * lam * np.where(terminated[t] | truncated[t], 0, following)
        advantages[t] = following
    return advantages, advantages + values
