"""The rollout that an update is given, as the side that computes it takes it (_learning.py or _device_learning.py)."""

from typing import Any

from metafast.envs import Rollout
from metafast.nn._actor_critic import ActorCritic

__all__ = ["check_rollout", "read_rollout"]

_FLOATS = "log_probs", "rewards", "final_values"
_FLAGS = "terminated", "truncated", "starts"
_REQUIRED = "observations", "actions", "values", *_FLOATS, *_FLAGS


def _check_fields(rollout: Any) -> None:
    """Refuse what is no rollout, or lacks what all updates read."""
    if not isinstance(rollout, Rollout):
        raise TypeError(f"rollout must be a metafast.envs.Rollout, not {type(rollout).__name__}")
    missing = [name for name in _REQUIRED if getattr(rollout, name) is None]
    if missing:
        raise TypeError(f"{missing[0]} must be an array, not None")


def check_rollout(side: Any, policy: ActorCritic, rollout: Any) -> Rollout:
    """A rollout as one of the side's own contiguous arrays, of the types that are computed in."""
    _check_fields(rollout)
    shape = tuple(side.as_array("rewards", rollout.rewards, policy).shape)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"rewards must have shape (T, N), not {shape}")
    checked: dict[str, Any] = {
        "observations": side.as_observations(policy, rollout.observations, (shape[0] + 1, shape[1])),
        "actions": side.as_actions(policy, rollout.actions, shape),
        "values": side.as_column("values", rollout.values, (shape[0] + 1, shape[1]), policy),
        **{name: side.as_column(name, getattr(rollout, name), shape, policy) for name in _FLOATS},
        **{name: side.as_flags(name, getattr(rollout, name), shape, policy) for name in _FLAGS},
        "mask": None if rollout.mask is None else side.as_flags("mask", rollout.mask, shape, policy),
    }
    if policy.recurrent:
        if rollout.initial_hidden is None:
            raise ValueError("rollout was made by a policy without a GRU: initial_hidden is None")
        state = shape[1], policy.hidden_size
        checked["initial_hidden"] = side.as_column("initial_hidden", rollout.initial_hidden, state, policy)
    return Rollout(**{**vars(rollout), **checked})


def read_rollout(side: Any, policy: ActorCritic, rollout: Rollout) -> dict[str, Any]:
    """The columns of a checked rollout that every update reads."""
    experience = {**side.read_observations(rollout.observations[:-1]), "actions": rollout.actions}
    if policy.recurrent:
        experience |= {"starts": rollout.starts, "mask": rollout.mask, "hidden": rollout.initial_hidden}
    return experience
