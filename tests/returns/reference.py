"""The return estimators as plain float64 loops, one step and one column at a time."""

import numpy as np


def gae(rewards, values, next_values, terminated, truncated, gamma, lam, final_values=None, mask=None):
    """Time-major. `next_values` is [T, N], or [N] with `final_values` [T, N] for truncated steps."""
    num_steps, num_columns = rewards.shape
    advantages = np.zeros((num_steps, num_columns))
    returns = np.zeros((num_steps, num_columns))
    for n in range(num_columns):
        bootstrapped = next_values.ndim == 1
        advantage = 0.0
        successor = float(next_values[n]) if bootstrapped else None
        for t in reversed(range(num_steps)):
            if mask is not None and not mask[t, n]:
                continue
            value_after = successor if bootstrapped else float(next_values[t, n])
            if bootstrapped and truncated[t, n] and final_values is not None:
                value_after = float(final_values[t, n])
            value = float(values[t, n])
            delta = float(rewards[t, n]) - value
            if not terminated[t, n]:
                delta += gamma[t, n] * value_after
            if terminated[t, n] or truncated[t, n] or gamma[t, n] * lam[t, n] == 0:
                advantage = delta
            else:
                advantage = delta + gamma[t, n] * lam[t, n] * advantage
            advantages[t, n] = advantage
            returns[t, n] = advantage + value
            successor = value
    return advantages, returns


def discounted_returns(rewards, terminated, truncated, gamma, bootstrap=None, final_values=None):
    """Time-major."""
    num_steps, num_columns = rewards.shape
    returns = np.zeros((num_steps, num_columns))
    for n in range(num_columns):
        following = 0.0 if bootstrap is None else float(bootstrap[n])
        for t in reversed(range(num_steps)):
            if terminated[t, n]:
                following = 0.0
            elif truncated[t, n]:
                following = 0.0 if final_values is None else float(final_values[t, n])
            following = float(rewards[t, n]) + (gamma[t, n] * following if not terminated[t, n] else 0.0)
            returns[t, n] = following
    return returns
