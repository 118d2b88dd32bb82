"""Every estimator but gae and discounted_returns, called with the same random problem; and as plain torch loops."""

import numpy as np
import torch

import metafast

SHAPES = {0: (7, 3), 1: (3, 7)}
NUM_STEPS, NUM_COLUMNS = 7, 3
LENGTHS = (3, 0, 1, 3)
DIFFERENTIABLE = ("lambda_returns", "n_step_returns", "segment_returns", "segment_advantages")
CONSTANT = ("vtrace", "retrace", "q_lambda", "upgo", "group_advantages")
ALONG_TIME = ("lambda_returns", "n_step_returns", "vtrace", "retrace", "q_lambda", "upgo")


def problem(name, time_axis=0, dtype=np.float64, seed=0):
    """NumPy arguments of an estimator by name; `segment_advantages` is segment_returns with values."""
    rng = np.random.default_rng([seed, time_axis])
    shape = SHAPES[time_axis]
    floats = lambda *size: rng.standard_normal(size or shape).astype(dtype)  # noqa: E731
    flags = lambda: rng.random(shape) < 0.2  # noqa: E731
    coefficient = lambda: rng.uniform(0.3, 0.95, shape).astype(dtype)  # noqa: E731
    everywhere = {"rewards": floats(), "terminated": flags(), "truncated": flags(), "gamma": coefficient()}
    successors = {"values": floats(), "next_values": floats(NUM_COLUMNS), "final_values": floats()}
    if name == "lambda_returns":
        return {**everywhere, "next_values": floats(), "lam": coefficient()}
    if name == "n_step_returns":
        return {**everywhere, "next_values": floats(), "n": 3}
    if name == "vtrace":
        bounds = {"clip_rho": 1.5, "clip_c": 0.9, "clip_pg_rho": 1.2}
        return {**everywhere, **successors, "log_rhos": floats(), "lam": coefficient(), **bounds}
    if name == "retrace":
        action_values = {key: floats() for key in ("q", "next_q_expected", "next_q", "log_rhos")}
        return {**everywhere, **action_values, "lam": coefficient()}
    if name == "q_lambda":
        return {**everywhere, "next_q_max": floats(), "lam": coefficient()}
    if name == "upgo":
        return {**everywhere, **successors}
    if name == "group_advantages":
        return {"rewards": floats(NUM_STEPS), "group_ids": rng.integers(0, 3, NUM_STEPS), "kind": "rloo"}
    packed = {
        "rewards": floats(NUM_STEPS),
        "lengths": np.array(LENGTHS),
        "gamma": rng.uniform(0.3, 0.95, NUM_STEPS).astype(dtype),
        "last_values": floats(len(LENGTHS)),
    }
    if name == "segment_advantages":
        packed |= {"values": floats(NUM_STEPS), "lam": rng.uniform(0.3, 0.95, NUM_STEPS).astype(dtype)}
    return packed


def estimate(name, arguments, **options):
    return getattr(metafast, name.replace("segment_advantages", "segment_returns"))(**arguments, **options)


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


def loop(name, arguments, time_axis=0):
    """Compute a differentiable estimator step by step, in torch, from its definition."""
    if name.startswith("segment"):
        return _segments(**arguments)
    p = {k: v.movedim(time_axis, 0) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    step_loop = _lambda_returns if name == "lambda_returns" else _n_step_returns
    columns = [
        step_loop(**{k: v[:, column] if isinstance(v, torch.Tensor) else v for k, v in p.items()})
        for column in range(p["rewards"].shape[1])
    ]
    return torch.stack(columns, 1).movedim(0, time_axis)


def _lambda_returns(rewards, next_values, terminated, truncated, gamma, lam):
    returns = []
    for t in reversed(range(len(rewards))):
        if terminated[t]:
            returns.append(rewards[t])
        elif truncated[t] or not returns:
            returns.append(rewards[t] + gamma[t] * next_values[t])
        else:
            returns.append(rewards[t] + gamma[t] * ((1 - lam[t]) * next_values[t] + lam[t] * returns[-1]))
    return torch.stack(returns[::-1])


def _n_step_returns(rewards, next_values, terminated, truncated, gamma, n):
    returns = []
    for start in range(len(rewards)):
        total, discount = 0.0, 1.0
        for t in range(start, min(start + n, len(rewards))):
            total, discount = total + discount * rewards[t], discount * gamma[t]
            if terminated[t] or truncated[t]:
                break
        returns.append(total if terminated[t] else total + discount * next_values[t])
    return torch.stack(returns)


def _segments(rewards, lengths, gamma, last_values, values=None, lam=None):
    advantages, returns, start = [], [], 0
    for segment, length in enumerate(lengths.tolist()):
        following, advantage = last_values[segment], 0.0
        of_segment, advantages_of_segment = [], []
        for t in reversed(range(start, start + length)):
            if values is None:
                following = rewards[t] + gamma[t] * following
                of_segment.append(following)
            else:
                delta = rewards[t] + gamma[t] * following - values[t]
                advantage = delta + (gamma[t] * lam[t] * advantage if t + 1 < start + length else 0.0)
                advantages_of_segment.append(advantage)
                of_segment.append(advantage + values[t])
                following = values[t]
        returns += of_segment[::-1]
        advantages += advantages_of_segment[::-1]
        start += length
    return torch.stack(returns) if values is None else (torch.stack(advantages), torch.stack(returns))
