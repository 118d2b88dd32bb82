"""The return estimators as the explicit sums that their papers write, in float64 and without any recurrence.

Arrays are time-major, [T, N], in float64 and bool; coefficients have the full shape. A sum runs over the steps t + k of
the episode of t, for all t and columns at once; terms of weight zero are left out, so NaN behind an end has no way in.
"""

import numpy as np

# What is left of a geometric weight below this can no longer be told from 0.
NEGLIGIBLE = 1e-290
quietly = np.errstate(invalid="ignore", over="ignore", under="ignore")


def ends_of(terminated, truncated):
    """Where an episode stops, or the array does."""
    ends = terminated | truncated
    ends[-1:] = True
    return ends


def steps_left(terminated, truncated):
    """How many steps the episode has from t on, t included."""
    steps = np.arange(len(terminated))[:, None]
    ends = np.where(ends_of(terminated, truncated), steps, len(steps))
    return np.minimum.accumulate(ends[::-1], axis=0)[::-1] - steps + 1


def following(array):
    """x_{t+1}; what stands after the last step is never looked at."""
    return np.concatenate([array[1:], np.zeros_like(array[:1])])


def successor_values(values, next_values, truncated, final_values):
    """V(s_{t+1}) of every step, where `next_values` may be one row, [N]."""
    if next_values.ndim == 2:
        return next_values
    inside = np.concatenate([values, next_values[None]])[1:]
    return inside if final_values is None else np.where(truncated, final_values, inside)


@quietly
def sum_over_lags(first, terms, weights, ends):
    """first_t + sum_{k >= 1} (prod_{j < k} weights_{t+j}) terms_{t+k}."""
    total, weight, joined = np.array(first), np.ones_like(weights), np.ones_like(ends)
    for k in range(1, len(terms)):
        weight = weight[:-1] * weights[k - 1 : -1]
        joined = joined[:-1] & ~ends[k - 1 : -1] & ~(np.abs(weight) <= NEGLIGIBLE)
        if not joined.any():
            break
        total[:-k] += np.where(joined, weight * terms[k:], 0)
    return total


@quietly
def n_step_targets(rewards, next_values, terminated, truncated, gamma):
    """G^(n)_t = sum_{k < n} (prod gamma) r_{t+k} + (prod gamma) V(s_{t+n}), for n = 1, 2, ... in turn.

    With each n come the steps t whose episode reaches that far, and those where it ends there.
    """
    ends, values_after = ends_of(terminated, truncated), np.where(terminated, 0, next_values)
    rewarded, discount, reaches = np.zeros_like(rewards), np.ones_like(rewards), np.ones_like(ends)
    for n in range(1, len(rewards) + 1):
        number = len(rewards) - n + 1
        rewarded = rewarded[:number] + discount[:number] * rewards[n - 1 :]
        discount = discount[:number] * gamma[n - 1 :]
        reaches = reaches[:number]
        if not reaches.any():
            break
        yield n, rewarded + discount * values_after[n - 1 :], reaches, ends[n - 1 :]
        reaches = reaches & ~ends[n - 1 :]


def n_step_returns(rewards, next_values, terminated, truncated, gamma, n):
    result = np.zeros_like(rewards)
    for steps, target, reaches, last in n_step_targets(rewards, next_values, terminated, truncated, gamma):
        chosen = reaches & (last | (steps == n))
        result[: len(target)][chosen] = target[chosen]
        if steps == n:
            break
    return result


@quietly
def lambda_returns(rewards, next_values, terminated, truncated, gamma, lam):
    """sum_n (prod_{j < n-1} lam_{t+j}) (1 - lam_{t+n-1}) G^(n)_t, the last n of the episode taking what is left."""
    result, left = np.zeros_like(rewards), np.ones_like(rewards)
    for n, target, reaches, last in n_step_targets(rewards, next_values, terminated, truncated, gamma):
        left, lam_here = left[: len(target)], lam[n - 1 :]
        weight = np.where(last, left, left * (1 - lam_here))
        result[: len(target)] += np.where(reaches & (weight != 0), weight * target, 0)
        left = left * lam_here
        if not (reaches & ~last & (left > NEGLIGIBLE)).any():
            break
    return result


def q_lambda(next_q_max, rewards, terminated, truncated, gamma, lam):
    """Peng and Williams 1996: the mixture of n-step targets, each of which ends in the greedy action."""
    return lambda_returns(rewards, next_q_max, terminated, truncated, gamma, lam)


@quietly
def discounted_returns(rewards, terminated, truncated, gamma, bootstrap=None, final_values=None):
    """sum_k (prod gamma) r_{t+k}, with the value of what follows the last step of the episode."""
    rest = np.zeros_like(rewards)
    if bootstrap is not None:
        rest[-1:] = bootstrap
    rest = np.where(truncated, 0 if final_values is None else final_values, rest)
    terms = rewards + np.where(terminated, 0, gamma * rest)
    return sum_over_lags(terms, terms, gamma, ends_of(terminated, truncated))


@quietly
def gae(rewards, values, next_values, terminated, truncated, gamma, lam, final_values=None, mask=None):
    """Schulman et al. 2016, equation 16: A_t = sum_l (prod gamma lam) delta_{t+l}; returns are A + V."""
    if mask is not None:
        return on_steps_of_mask(mask, rewards, values, next_values, terminated, truncated, gamma, lam, final_values)
    successors = np.where(terminated, 0, successor_values(values, next_values, truncated, final_values))
    deltas = rewards + np.where(terminated, 0, gamma * successors) - values
    advantages = sum_over_lags(deltas, deltas, gamma * lam, ends_of(terminated, truncated))
    return advantages, advantages + values


def on_steps_of_mask(mask, rewards, values, next_values, terminated, truncated, gamma, lam, final_values):
    """GAE of every column with the masked steps taken out."""
    advantages, returns = np.zeros_like(rewards), np.zeros_like(rewards)
    for n in range(rewards.shape[1]):
        steps = np.flatnonzero(mask[:, n])
        column = lambda array: None if array is None else array[steps, n : n + 1]  # noqa: B023, E731
        advantages[steps, n : n + 1], returns[steps, n : n + 1] = gae(
            column(rewards),
            column(values),
            column(next_values) if next_values.ndim == 2 else next_values[n : n + 1],
            column(terminated),
            column(truncated),
            column(gamma),
            column(lam),
            column(final_values),
        )
    return advantages, returns


@quietly
def vtrace(
    log_rhos, rewards, values, next_values, terminated, truncated, gamma, lam,
    clip_rho=1.0, clip_c=1.0, clip_pg_rho=1.0, final_values=None,
):  # fmt: skip
    """Espeholt et al. 2018, equation 1: v_s = V_s + sum_t (prod_i gamma c_i) delta_t V; and r + gamma v_{s+1} - V_s."""
    rhos, ends = np.exp(log_rhos), ends_of(terminated, truncated)
    successors = np.where(terminated, 0, successor_values(values, next_values, truncated, final_values))
    deltas = np.minimum(clip_rho, rhos) * (rewards + np.where(terminated, 0, gamma * successors) - values)
    corrections = sum_over_lags(deltas, deltas, gamma * lam * np.minimum(clip_c, rhos), ends)
    next_targets = successors + np.where(ends, 0, following(corrections))
    pg_advantages = rewards + np.where(terminated, 0, gamma * next_targets) - values
    return values + corrections, np.minimum(clip_pg_rho, rhos) * pg_advantages


@quietly
def retrace(next_q_expected, next_q, log_rhos, rewards, terminated, truncated, gamma, lam):
    """Munos et al. 2016, equation 4: Q_t + sum_s (prod gamma_i c_{i+1}) (r_s + gamma E Q_{s+1} - Q_s).

    Q_t, which is next_q_{t-1}, stands in it twice and cancels.
    """
    traces = lam * np.minimum(1, np.exp(log_rhos))
    backups = rewards + np.where(terminated, 0, gamma * next_q_expected)
    errors = backups - np.concatenate([np.zeros_like(next_q[:1]), next_q[:-1]])
    return sum_over_lags(backups, errors, gamma * following(traces), ends_of(terminated, truncated))


@quietly
def upgo(rewards, values, next_values, terminated, truncated, gamma, final_values=None):
    """Vinyals et al. 2019: rewards up to the first action that its critic deems worse than its state, then V."""
    successors = np.where(terminated, 0, successor_values(values, next_values, truncated, final_values))
    q_values = rewards + np.where(terminated, 0, gamma * successors)
    stops = ends_of(terminated, truncated) | ~(following(q_values) >= successors)
    terms = np.where(stops, q_values, rewards)
    return sum_over_lags(terms, terms, gamma, stops) - values


def group_advantages(rewards, group_ids, kind, epsilon):
    result = np.zeros_like(rewards)
    for group in set(group_ids.tolist()):
        members = np.flatnonzero(group_ids == group)
        for i in members:
            others = rewards[members[members != i]]
            if kind == "rloo" and len(others):
                result[i] = rewards[i] - others.mean()
            elif kind == "grpo" and len(others) and np.ptp(rewards[members]) != 0:
                result[i] = (rewards[i] - rewards[members].mean()) / (rewards[members].std(ddof=1) + epsilon)
    return result


def segment_returns(rewards, lengths, gamma, values=None, last_values=None, lam=None):
    """Each segment by itself, as one column."""
    steps = np.split(np.arange(len(rewards)), np.cumsum(lengths)[:-1]) if len(lengths) else []
    results = np.zeros((1 if values is None else 2, len(rewards)))
    for segment, inside in enumerate(steps):
        column = lambda array: array[inside, None]  # noqa: B023, E731
        never = np.zeros((len(inside), 1), bool)
        last_value = np.array([0.0 if last_values is None else last_values[segment]])
        if values is None:
            found = [discounted_returns(column(rewards), never, never, column(gamma), last_value)]
        else:
            found = gae(column(rewards), column(values), last_value, never, never, column(gamma), column(lam))
        for result, part in zip(results, found, strict=True):
            result[inside] = part[:, 0]
    return results[0] if values is None else tuple(results)
