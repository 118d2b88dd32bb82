"""What a vector environment returned, turned into what the return estimators take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

from metafast import _arrays
from metafast.envs._make import _autoreset_mode

__all__ = ["Transitions", "transitions"]


class Transitions(NamedTuple):
    """A rollout as the return estimators take it; each field is [T, N]. Made by `transitions`."""

    rewards: Any
    terminated: Any
    truncated: Any
    next_values: Any
    valid: Any


def transitions(
    env: VectorEnv[Any, Any, Any] | AutoresetMode | str,
    steps: Iterable[tuple[Any, ...]],
    previous: Transitions | None,
    value_function: Callable[[Any], Any] | None = None,
    *,
    values: Any = None,
    final_values: Any = None,
) -> Transitions:
    """Turn what a vector environment's steps returned into what the return estimators take.

    After the end of an episode the three autoreset modes of gymnasium return different things. In ``next_step`` mode
    the following step is no step: its action is ignored, its reward is 0, and nothing is to be learnt from it
    (`valid` is False there). In ``same_step`` mode the observation returned with the end belongs to the next episode,
    and the true successor is in ``infos["final_obs"]``. With autoreset ``disabled`` the caller resets. Here each gives
    the same: V(s_{t+1}) of the true successors, and termination kept apart from truncation.

    Parameters
    ----------
    env : gymnasium.vector.VectorEnv, or an autoreset mode
        Anybody's vector environment; one that does not tell its mode in ``metadata["autoreset_mode"]`` is replaced by
        the mode itself: ``"next_step"``, ``"same_step"`` or ``"disabled"``.
    steps : iterable of tuples (observations, rewards, terminations, truncations, infos)
        What ``env.step`` returned, T times.
    previous : Transitions or None
        What this function returned for the steps before these, None after a reset: in ``next_step`` mode the first
        step may follow the end of an episode.
    value_function : callable, optional
        Gives the values [K] or [K, 1] of K observations, batched as the environment batches them.
    values : float array, shape [T, N] or [T + 1, N], optional
        Values of the observations acted on, and of those to act on next. They save `value_function` all but the last
        observations of the rollout and of its truncated episodes.
    final_values : float array, shape [T, N], optional
        Values of the last observations of truncated episodes, read nowhere else; in ``next_step`` mode not at all,
        because there they are in `values`. Together with ``values`` [T + 1, N] these replace `value_function`.

    Returns
    -------
    Transitions
        ``rewards``, ``terminated``, ``truncated``, ``next_values`` (0 where terminated or not valid) and ``valid``
        (steps that were taken, hence may enter a loss), each [T, N]: arrays of the library, device and float dtype of
        the values, without gradients.

    Raises
    ------
    ValueError
        Values are missing or of the wrong shape; ``infos`` lack the last observation of a truncated episode; the mode
        is not known; the steps share memory, as those of an environment made with ``copy=False`` do.
    TypeError
        Values are no floats.

    Examples
    --------
    A loop like CleanRL's appends what ``step`` returned, and asks for the transitions once per rollout:

    >>> import metafast
    >>> import numpy as np
    >>> env = metafast.envs.make_vec("CartPole-v1", 2, max_episode_steps=3)
    >>> def value_function(observations):
    ...     return np.full(len(observations), 10.0, dtype=np.float32)
    >>> observations, _ = env.reset(seed=0)
    >>> batch = None
    >>> for _ in range(2):
    ...     steps, values = [], []
    ...     for _ in range(3):
    ...         values.append(value_function(observations))
    ...         steps.append(env.step(np.array([0, 1])))
    ...         observations = steps[-1][0]
    ...     batch = metafast.envs.transitions(env, steps, batch, value_function, values=np.array(values))
    ...     advantages, returns = metafast.gae(
    ...         batch.rewards, np.array(values), batch.next_values, batch.terminated, batch.truncated, mask=batch.valid
    ...     )
    >>> batch.valid[:, 0]  # the first rollout ended with the third step, the limit: this one begins with a reset
    array([False,  True,  True])
    >>> batch.next_values[:, 0]
    array([ 0., 10., 10.], dtype=float32)
    """
    mode = _mode_of(env)
    steps = list(steps)
    if not steps:
        raise ValueError("steps must hold what env.step returned, at least once; it is empty")
    _check_own_memory(steps)
    rewards, terminated, truncated = (np.stack([_to_host(step[column]) for step in steps]) for column in (1, 2, 3))
    terminated, truncated = terminated.astype(bool), truncated.astype(bool)
    valid = np.ones_like(terminated)
    if mode is AutoresetMode.NEXT_STEP:
        valid[1:] = ~(terminated | truncated)[:-1]
        if previous is not None:
            valid[0] = ~(_to_host(previous.terminated)[-1] | _to_host(previous.truncated)[-1])

    def evaluate(observations: Any, count: int, whose: str) -> Any:
        if value_function is None:
            raise ValueError(f"value_function must be given, or the values themselves: {whose} have none")
        result = value_function(observations)
        if np.size(_to_host(result)) != count:
            raise ValueError(f"value_function must give {count} values of {whose}, not {np.shape(_to_host(result))}")
        return result

    num_steps, num_envs = rewards.shape
    if values is None:
        outputs = [evaluate(step[0], num_envs, "the observations") for step in steps]
        like = outputs[0]
        next_values = np.stack([_to_host(output).reshape(num_envs) for output in outputs])
    else:
        like, known = values, _to_host(values)
        if known.shape not in (rewards.shape, (num_steps + 1, num_envs)):
            raise ValueError(
                f"values must have shape {rewards.shape} or {(num_steps + 1, num_envs)}, not {known.shape}"
            )
        next_values = np.empty(rewards.shape, known.dtype)
        next_values[: len(known) - 1] = known[1:]
        if len(known) == num_steps:
            last = evaluate(steps[-1][0], num_envs, "the last observations")
            next_values[-1] = _to_host(last).reshape(num_envs)
    if next_values.dtype.kind != "f":
        raise TypeError(f"values must be floats, not {next_values.dtype}")
    # In next_step mode, what follows the end is the episode's last observation, so its value is there already.
    elsewhere = mode is AutoresetMode.SAME_STEP or (mode is AutoresetMode.DISABLED and values is not None)
    cut = truncated & ~terminated & elsewhere
    if cut.any():
        if final_values is None:
            finals = [_final_observation(mode, steps[t], n) for t, n in np.argwhere(cut)]
            found = _to_host(evaluate(_batch(finals), len(finals), "the last observations of truncated episodes"))
            next_values[cut] = found.reshape(len(finals))
        else:
            given = _to_host(final_values)
            if given.shape != rewards.shape:
                raise ValueError(f"final_values must have shape {rewards.shape}, not {given.shape}")
            next_values[cut] = given[cut]
    next_values[terminated | ~valid] = 0
    rewards = rewards.astype(next_values.dtype)
    return Transitions(*(_like(array, like) for array in (rewards, terminated, truncated, next_values, valid)))


def _mode_of(env: Any) -> AutoresetMode:
    if isinstance(env, VectorEnv):
        if "autoreset_mode" not in env.metadata:
            raise ValueError(
                f"{env} does not tell its mode in metadata['autoreset_mode']; give the mode in place of env"
            )
        env = env.metadata["autoreset_mode"]
    return _autoreset_mode(env)


def _check_own_memory(steps: list[tuple[Any, ...]]) -> None:
    for name, first, last in zip(("observations", "rewards", "terminations"), steps[0], steps[-1], strict=False):
        arrays = isinstance(first, np.ndarray) and isinstance(last, np.ndarray)
        if len(steps) > 1 and (first is last or (arrays and np.may_share_memory(first, last))):
            raise ValueError(f"steps share the memory of their {name}; make the environment with copy=True, or copy")


def _final_observation(mode: AutoresetMode, step: tuple[Any, ...], env_index: int) -> Any:
    observations, _, _, _, infos = step
    if mode is AutoresetMode.SAME_STEP:
        if "final_obs" not in infos:
            raise ValueError("infos must hold 'final_obs' where an episode was truncated in same_step mode")
        observations = infos["final_obs"]
    return _pick(observations, env_index)


def _pick(observations: Any, index: int) -> Any:
    """One environment's observation out of a batch: the spaces Dict and Tuple are batched as a dict and a tuple."""
    if isinstance(observations, dict):
        return {key: _pick(part, index) for key, part in observations.items()}
    if isinstance(observations, tuple):
        return tuple(_pick(part, index) for part in observations)
    return observations[index]


def _batch(observations: list[Any]) -> Any:
    first = observations[0]
    if isinstance(first, dict):
        return {key: _batch([observation[key] for observation in observations]) for key in first}
    if isinstance(first, tuple):
        return tuple(_batch(list(parts)) for parts in zip(*observations, strict=True))
    if _arrays.is_torch(first):
        return sys.modules["torch"].stack(observations)
    return np.stack(observations)


def _to_host(array: Any) -> npt.NDArray[Any]:
    return np.asarray(_arrays.to_numpy(array.detach().cpu() if _arrays.is_torch(array) else array))


def _like(array: npt.NDArray[Any], like: Any) -> Any:
    """An array in the library and on the device of `like`; floats also in its dtype."""
    if _arrays.is_torch(like):
        tensor = sys.modules["torch"].from_numpy(array).to(like.device)
        return tensor if array.dtype == bool else tensor.to(like.dtype)
    if isinstance(like, np.ndarray) or not hasattr(like, "__array_namespace__"):
        return array
    return like.__array_namespace__().asarray(array)
