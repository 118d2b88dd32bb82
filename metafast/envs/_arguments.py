"""Checks what users give to a vector environment and turns it into the arrays that the core takes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from metafast.envs._environment import ActionLayout, Environment

__all__ = [
    "check_actions",
    "check_attribute",
    "check_flag",
    "check_number",
    "check_reset_mask",
    "check_seeds",
    "check_state",
    "check_whole_number",
    "reset_mask_of",
]

_SEED_LIMIT = 2**64


def check_whole_number(name: str, value: object, smallest: int, largest: int) -> int:
    """Return `value` as an int."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if not smallest <= value <= largest:
        raise ValueError(f"{name} must be between {smallest} and {largest}, not {value}")
    return int(value)


def check_number(name: str, value: object, smallest: float, largest: float) -> float:
    """Return `value` as a float."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not smallest <= value <= largest:
        raise ValueError(f"{name} must be between {smallest} and {largest}, not {value}")
    return float(value)


def check_flag(name: str, value: object) -> bool:
    """Return `value` as a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be a bool, not {value!r}")
    return bool(value)


def check_actions(actions: object, num_envs: int, layout: ActionLayout) -> npt.NDArray[Any]:
    """Return `actions` as the plain array that the core reads: int64 where they are integers, else `layout.dtype`.

    Raises ValueError, or TypeError where it is not the numbers but their container that is refused.
    """
    shape = (num_envs, *layout.shape)
    if layout.low is None or layout.high is None:
        expected, kinds = f"actions must be finite floats as an array of shape {shape}", "f"
    elif layout.shape:
        expected, kinds = f"actions must be integers within their bounds as an array of shape {shape}", "iu"
    else:
        limits = f"[{layout.low[0]}, {layout.high[0]})"
        expected, kinds = f"actions must be {num_envs} integers in {limits} as an array of shape {shape}", "iu"
    if isinstance(actions, np.ma.MaskedArray):
        raise TypeError(f"{expected}, not a masked array: which action would a masked one be?")
    try:
        array = np.asarray(actions)
    except Exception as error:
        raise ValueError(f"{expected}; {type(actions).__name__} does not convert to an array: {error}") from error
    if array.shape != shape or array.dtype.kind not in kinds:
        what = f"dtype {array.dtype} and shape {array.shape}"
        raise ValueError(f"{expected}, but they are {'None' if actions is None else what}")
    if not array.dtype.isnative:
        raise TypeError(f"{expected} in native byte order, but their dtype is {array.dtype.str!r}")
    if layout.low is None or layout.high is None:
        outside = ~np.isfinite(array)
    else:
        outside = (array < layout.low.reshape(layout.shape)) | (array >= layout.high.reshape(layout.shape))
    if outside.any():
        index = tuple(int(k) for k in np.argwhere(outside)[0])
        where = ", ".join(map(str, index))
        rule = "be finite"
        if layout.low is not None and layout.high is not None:
            low, high = (bound.reshape(layout.shape)[index[1:]] for bound in (layout.low, layout.high))
            rule = f"lie in [{low}, {high})"
        raise ValueError(f"actions must {rule}, but actions[{where}] is {array[index]}; no environment was stepped")
    # Filled, not converted: np.array would keep a dtype that is merely equivalent to int64, as longlong is.
    taken = np.empty(shape, dtype=layout.dtype if kinds == "f" else np.int64)
    with np.errstate(over="ignore"):
        taken[...] = array
    return taken


def check_seeds(seed: object, num_envs: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Return the seed of each environment, and which environments are given one."""
    if isinstance(seed, np.ndarray) and seed.ndim == 0:
        seed = seed[()]
    if seed is None:
        each: list[object] = [None] * num_envs
    elif isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
        each = [int(seed) + index for index in range(num_envs)]
    elif isinstance(seed, (list, tuple, np.ndarray)):
        each = list(seed)
    else:
        raise TypeError(f"seed must be None, an int or a list of {num_envs} ints, not {seed!r}")
    if len(each) != num_envs:
        raise ValueError(f"seed must have one entry for each of the {num_envs} environments, but it has {len(each)}")
    for value in each:
        if value is not None and (isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer))):
            raise TypeError(f"seed must be made of ints and None, but it holds {value!r}")
        if value is not None and not 0 <= value < _SEED_LIMIT:
            raise ValueError(f"seed must lie in [0, 2**64) for every environment, but it holds {value}")
    given = np.array([value is not None for value in each], dtype=np.bool_)
    return np.array([0 if value is None else value for value in each], dtype=np.uint64), given


def check_reset_mask(options: object, num_envs: int) -> npt.NDArray[np.bool_] | None:
    """Return ``options["reset_mask"]``, or None where every environment is to be reset."""
    mask = reset_mask_of(options)
    if mask is None:
        return None
    if not isinstance(mask, np.ndarray) or isinstance(mask, np.ma.MaskedArray):
        raise TypeError(f"options['reset_mask'] must be a numpy array, not {type(mask).__name__}")
    if mask.dtype != np.bool_:
        raise TypeError(f"options['reset_mask'] must have dtype bool, not {mask.dtype}")
    if mask.shape != (num_envs,):
        raise ValueError(f"options['reset_mask'] must have shape ({num_envs},), not {mask.shape}")
    if not mask.any():
        raise ValueError("options['reset_mask'] must hold at least one True")
    return _canonical(mask)


def reset_mask_of(options: object) -> Any:
    """Return ``options["reset_mask"]`` as it is, or None where there is none."""
    if options is None:
        return None
    if not isinstance(options, Mapping):
        raise TypeError(f"options must be a dict, not {options!r}")
    unknown = [key for key in options if key != "reset_mask"]
    if unknown:
        raise ValueError(f"options has the unknown key {unknown[0]!r}; the only one is 'reset_mask'")
    if "reset_mask" in options and options["reset_mask"] is None:
        raise TypeError("options['reset_mask'] must be an array of bools, not NoneType")
    return options.get("reset_mask")


def _canonical(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    # The bytes of a bool array that was viewed from another type may be other than 0 and 1.
    return np.not_equal(np.ascontiguousarray(flags).view(np.uint8), 0)


def check_state(
    state: object, num_envs: int, environment: Environment, max_episode_steps: int, *, finite: bool = True
) -> dict[str, npt.NDArray[np.generic]]:
    """Return the arrays of a state dictionary as the core takes them."""
    layout: dict[str, tuple[Any, tuple[int, ...]]] = {
        "state": (environment.state.base, (num_envs, *environment.state.shape)),
        "elapsed_steps": (np.int32, (num_envs,)),
        "ended": (np.bool_, (num_envs,)),
        "seeds": (np.uint64, (num_envs,)),
        "episodes": (np.uint64, (num_envs,)),
    }
    if environment.streams:
        layout["streams"] = (np.uint64, (num_envs, 4))
    if not isinstance(state, Mapping) or set(state) != set(layout):
        raise ValueError(f"state must be a dict with the keys {', '.join(layout)}, as get_state returns it")
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for key, (dtype, shape) in layout.items():
        array = state[key]
        if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray) or array.dtype != dtype:
            found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(f"state[{key!r}] must be a plain array of dtype {np.dtype(dtype)}, not {found}")
        if array.shape != shape:
            raise ValueError(f"state[{key!r}] must have shape {shape}, not {array.shape}")
        arrays[key] = _canonical(array) if key == "ended" else np.ascontiguousarray(array)
    if finite and environment.state.names is None and not np.isfinite(state["state"]).all():
        raise ValueError("state['state'] must be finite")
    if environment.check_state is not None:
        environment.check_state(arrays["state"])
    elapsed_steps = state["elapsed_steps"]
    most = np.where(arrays["ended"], max_episode_steps, max_episode_steps - 1)
    if (elapsed_steps < 0).any() or (elapsed_steps > most).any():
        raise ValueError(
            f"state['elapsed_steps'] must lie in [0, {max_episode_steps}], the episode limit, and below it where the "
            "episode has not ended"
        )
    record_bytes = environment.state.itemsize
    arrays["state"] = arrays["state"].reshape(-1).view(np.uint8).reshape(num_envs, record_bytes)
    return arrays


def check_attribute(name: str, values: object, current: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return `values` as an array that may be assigned to `current`: one for each environment, or one for all."""
    given = np.asarray(values)
    kinds = {"f": "fiu", "i": "iu", "u": "iu", "b": "b", "V": "V"}[current.dtype.kind]
    if given.dtype.kind not in kinds or (kinds == "V" and given.dtype != current.dtype):
        raise TypeError(f"values for {name!r} must be of a type like {current.dtype}, not {values!r}")
    if given.shape not in (current.shape, current.shape[1:]):
        raise ValueError(
            f"values for {name!r} must have shape {current.shape}, or {current.shape[1:]} for all, not {given.shape}"
        )
    if current.dtype.kind in "iu":
        limits = np.iinfo(current.dtype)
        if given.size and (int(given.min()) < limits.min or int(given.max()) > limits.max):
            raise ValueError(f"values for {name!r} must lie between {limits.min} and {limits.max}, not {values!r}")
    return given
