"""The estimators that have gradients, as elementwise operations around an affine scan, for torch and JAX alike.

Each function takes the array namespace `xp` and the library's own differentiable ``scan(offsets, decays, time_axis)``,
``result_t = offsets_t + decays_t * result_{t+1}``, in which a decay of 0 cuts. Flags are bool and coefficients arrays;
everything has been checked. Values are selected before they are multiplied, so that neither a result nor a gradient is
NaN * 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Scan = Callable[[Any, Any, int], Any]


def gae(
    xp: Any, scan: Scan, *, rewards: Any, values: Any, next_values: Any, terminated: Any, truncated: Any = None,
    gamma: Any, lam: Any, final_values: Any = None, mask: Any = None, time_axis: int,
) -> tuple[Any, Any]:  # fmt: skip
    """Advantages and returns of :func:`metafast.gae`."""
    cuts = terminated if truncated is None else terminated | truncated
    successors = next_values
    if next_values.ndim != rewards.ndim:
        successors = _successors(xp, scan, values, next_values, mask, time_axis)
        if truncated is not None and final_values is not None:
            successors = xp.where(truncated, final_values, successors)
    successors = xp.where(terminated, 0.0, successors)
    decays = xp.where(cuts, 0.0, gamma * lam)
    offsets, own = rewards, values
    if mask is not None:
        offsets, own, successors = (xp.where(mask, array, 0.0) for array in (rewards, values, successors))
        decays = xp.where(mask, decays, 1.0)
    advantages = scan(offsets + gamma * successors - own, xp.broadcast_to(decays, rewards.shape), time_axis)
    if mask is not None:
        advantages = xp.where(mask, advantages, 0.0)
    return advantages, advantages + own


def discounted_returns(
    xp: Any, scan: Scan, *, rewards: Any, terminated: Any, truncated: Any = None, gamma: Any, bootstrap: Any = None,
    final_values: Any = None, time_axis: int,
) -> Any:  # fmt: skip
    """Returns of :func:`metafast.discounted_returns`."""
    cuts = terminated if truncated is None else terminated | truncated
    rest = xp.zeros_like(rewards)
    if truncated is not None and final_values is not None:
        rest = xp.where(cuts & ~terminated, final_values, 0.0)
    if bootstrap is not None and rewards.shape[time_axis] > 0:
        ended = span(cuts, time_axis, -1, None)
        last = xp.where(ended, span(rest, time_axis, -1, None), _as_step(bootstrap, time_axis))
        rest = xp.concatenate([span(rest, time_axis, 0, -1), last], time_axis)
    decays = xp.where(cuts, 0.0, gamma)
    return scan(rewards + gamma * rest, xp.broadcast_to(decays, rewards.shape), time_axis)


def lambda_returns(
    xp: Any, scan: Scan, *, rewards: Any, next_values: Any, terminated: Any, truncated: Any = None, gamma: Any,
    lam: Any, time_axis: int,
) -> Any:  # fmt: skip
    """Returns of :func:`metafast.lambda_returns`."""
    cuts = _cuts(xp, terminated, truncated, time_axis)
    weights = xp.where(cuts, 1.0, 1 - lam)
    decays = xp.where(cuts, 0.0, gamma * lam)
    # Where all the weight is on what follows, the value is not looked at; but a gradient of lam looks at it again.
    unseen = terminated | ((weights == 0) & ~xp.isfinite(next_values))
    successors = xp.where(unseen, 0.0, next_values)
    return scan(rewards + gamma * weights * successors, xp.broadcast_to(decays, rewards.shape), time_axis)


def n_step_returns(
    xp: Any, scan: Scan, *, rewards: Any, next_values: Any, terminated: Any, truncated: Any = None, gamma: Any, n: int,
    time_axis: int,
) -> Any:  # fmt: skip
    """Returns of :func:`metafast.n_step_returns`.

    A window of a + b steps is a window of a steps joined to the one of b steps behind it, so windows of n steps are
    made of at most 2 log2(n) such joins. A window knows the sum of its discounted rewards, with the discounted value
    behind an end that lies in it; the discount over all of it; and whether it is open, that is without an end.
    """
    cuts = _cuts(xp, terminated, truncated, time_axis)
    successors = xp.where(terminated, 0.0, next_values)
    gamma = xp.broadcast_to(gamma, rewards.shape)
    steps = min(n, rewards.shape[time_axis])
    doubled, length = (rewards + gamma * xp.where(cuts, successors, 0.0), gamma, ~cuts), 1
    window, covered = None, 0
    while steps:
        if steps & length:
            window = doubled if window is None else _join(xp, window, doubled, covered, time_axis)
            covered += length
            steps -= length
        if steps:
            doubled = _join(xp, doubled, doubled, length, time_axis)
            length *= 2
    if window is None:
        return rewards
    sums, discounts, is_open = window
    behind = earlier(xp, successors, covered - 1, time_axis)
    return sums + xp.where(is_open, discounts, 0.0) * xp.where(is_open, behind, 0.0)


def segment_returns(
    xp: Any, scan: Scan, *, rewards: Any, lengths: Any, gamma: Any, values: Any = None, last_values: Any = None,
    lam: Any = None,
) -> Any:  # fmt: skip
    """Results of :func:`metafast.segment_returns`: every segment's last step is truncated."""
    ends = xp.cumsum(lengths, 0)
    steps = xp.cumsum(xp.ones_like(rewards, dtype=lengths.dtype), 0)  # counted from 1
    segments = xp.clip(xp.searchsorted(ends, steps, side="left"), 0, max(lengths.shape[0] - 1, 0))
    empty = rewards.shape[0] == 0
    last = steps == steps if empty else ends[segments] == steps
    final_values = xp.zeros_like(rewards)
    if last_values is not None and not empty:
        final_values = xp.where(last, last_values[segments], 0.0)
    common = {"rewards": rewards, "terminated": last & ~last, "truncated": last, "gamma": gamma, "time_axis": 0}
    if values is None:
        return discounted_returns(xp, scan, **common, final_values=final_values)
    next_values = xp.where(last, final_values, earlier(xp, values, 1, 0))
    return gae(xp, scan, **common, values=values, next_values=next_values, lam=lam)


def earlier(xp: Any, array: Any, steps: int, time_axis: int) -> Any:
    """Move every element so many steps earlier in time (or later, if negative), zeros coming in."""
    length = array.shape[time_axis]
    size = min(abs(steps), length)
    gap = xp.zeros_like(span(array, time_axis, 0, size))
    if steps < 0:
        return xp.concatenate([gap, span(array, time_axis, 0, length - size)], time_axis)
    return xp.concatenate([span(array, time_axis, size, length), gap], time_axis)


def span(array: Any, time_axis: int, start: int | None, stop: int | None) -> Any:
    """Give the steps from `start` to `stop`."""
    return array[(slice(None),) * time_axis + (slice(start, stop),)]


def _as_step(row: Any, time_axis: int) -> Any:
    return row[(slice(None),) * time_axis + (None,)]


def _cuts(xp: Any, terminated: Any, truncated: Any, time_axis: int) -> Any:
    """Tell where the recurrence stops: at the ends of episodes and at the last step."""
    cuts = terminated if truncated is None else terminated | truncated
    last = xp.ones_like(span(cuts, time_axis, -1, None))
    return xp.concatenate([span(cuts, time_axis, 0, -1), last], time_axis)


def _successors(xp: Any, scan: Scan, values: Any, bootstrap: Any, mask: Any, time_axis: int) -> Any:
    """V(s_{t+1}) of every step: the next value in time, or the next whose mask is 1."""
    if values.shape[time_axis] == 0:
        return values
    later = xp.concatenate([span(values, time_axis, 1, None), _as_step(bootstrap, time_axis)], time_axis)
    if mask is None:
        return later
    always = xp.ones_like(span(mask, time_axis, -1, None))
    taken = xp.concatenate([span(mask, time_axis, 1, None), always], time_axis)
    return scan(xp.where(taken, later, 0.0), xp.where(taken, xp.zeros_like(later), 1.0), time_axis)


def _join(xp: Any, windows: Any, others: Any, steps: int, time_axis: int) -> Any:
    """Join every window to the other window that begins so many steps later."""
    sums, discounts, is_open = windows
    later_sums, later_discounts, later_open = (earlier(xp, array, steps, time_axis) for array in others)
    through = xp.where(is_open, discounts, 0.0)
    return (
        sums + through * xp.where(is_open, later_sums, 0.0),
        through * xp.where(is_open, later_discounts, 0.0),
        is_open & later_open,
    )
