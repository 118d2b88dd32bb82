"""Generalised advantage estimation."""

from __future__ import annotations

from typing import Any

import numpy as np

from metafast import _core
from metafast.returns._estimator import GAE


def gae(
    rewards: Any,
    values: Any,
    next_values: Any,
    terminated: Any,
    truncated: Any = None,
    *,
    gamma: Any = 0.99,
    lam: Any = 0.95,
    final_values: Any = None,
    mask: Any = None,
    time_axis: int = 0,
    out: Any = None,
) -> Any:
    """Generalised advantage estimates and the value targets that go with them.

    With ``delta_t = rewards[t] + gamma * V(s_{t+1}) - values[t]``, the advantages are
    ``A_t = delta_t + gamma * lam * A_{t+1}``. A step that `terminated` has a successor of value 0; one that
    `terminated` or was `truncated` is not joined to the step after it. What lies behind an episode's end is selected
    away, not multiplied by zero, so a NaN there stays there.

    Takes NumPy arrays, torch tensors of the CPU or a CUDA device, JAX arrays and others with ``__dlpack__``, all of one
    library, and returns that library's. float32 and float64 are computed as such; float16 and bfloat16 in float32.
    Works inside of ``torch.compile``, ``torch.func``'s transforms, ``jax.jit``, ``jax.vmap`` and ``jax.grad``.

    CUDA tensors are computed on their device, queued on its current stream, and can be recorded in a CUDA graph.
    Nothing waits for the card but a call with `truncated`, with `next_values` without time axis and no `final_values`:
    whether a step before the last is truncated has to be known (while a graph is recorded, the card asserts it). On
    either device a result is exact to ``8 + 3 n`` roundings of the sum of the absolute values of its terms, where the
    episode has n steps left; the devices group the sums differently.

    Parameters
    ----------
    rewards, values : float array, shape [T, ...] (or [N, T, ...] with ``time_axis=1``)
        Rewards of the steps, and values of the states they were taken in.
    next_values : float array
        V(s_{t+1}) of the true successors in the shape of `rewards`; or, without the time axis, the values after the
        last step. In this second form the successors inside are ``values[t + 1]``, and those of truncated steps are
        in `final_values`.
    terminated, truncated : array of bool, or of 0 and 1, shape of `rewards`
        The episode ended in a terminal state at this step; it was cut there. `truncated` may be left out.
    gamma, lam : float or float array that broadcasts to `rewards`
        Discount factor, and the weight of longer returns.
    final_values : float array, shape of `rewards`, optional
        V of the state in which a truncated episode was left; read only where `truncated` (at the last step too), and
        only if `next_values` has no time axis.
    mask : array of bool, or of 0 and 1, shape of `rewards`, optional
        Where it is 0 the step is skipped: its results are 0, and the step before it is followed by the next step whose
        mask is 1 (as for the tokens of a language model that are not its own).
    time_axis : {0, 1}
        Which axis is time.
    out : pair of float arrays, optional
        Where to write ``(advantages, returns)``; must not overlap the inputs.

    Returns
    -------
    advantages, returns : arrays of the shape and dtype of `rewards`
        ``returns`` is ``advantages + values``, the target for the value function.

    Raises
    ------
    ValueError
        A shape does not fit; a truncated step before the last has no value of its successor; `out` overlaps an input.
    TypeError
        Arrays of several libraries, devices or float dtypes; rewards that are not floats; masked, byte-swapped or
        misaligned arrays.

    Notes
    -----
    Schulman et al., "High-dimensional continuous control using generalized advantage estimation", ICLR 2016,
    equations 11 and 16. Torch tensors that require grad get gradients of any order, those of `gamma` and `lam`
    included; under ``torch.compile`` the function is traced whole. Such calls are made of several torch operations and
    cost several times what the fused kernel does, so put calls that need no gradient under ``torch.no_grad()``.

    Examples
    --------
    >>> import numpy as np
    >>> import metafast
    >>> rewards, values = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.25, 0.125])
    >>> terminated = np.array([False, True, False])
    >>> advantages, returns = metafast.gae(rewards, values, np.array(2.0), terminated, gamma=0.5, lam=0.5)
    >>> advantages
    array([1.0625, 1.75  , 3.875 ])
    """
    arguments = (rewards, values, next_values, terminated, truncated, gamma, lam, final_values, mask, time_axis)
    if type(rewards) is np.ndarray:
        results = _core.gae(*arguments, out)
        if results is not NotImplemented:
            return results
    return GAE.elsewhere(arguments, out)
