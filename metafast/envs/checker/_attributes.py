"""What a vector environment says of itself: attributes and spaces."""

from typing import Any

from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from metafast.envs.checker._session import Session

__all__ = ["ATTRIBUTE_CHECKS"]


def vector_env(session: Session) -> None:
    """Everything else needs these."""
    check, env = "attributes.vector_env", session.env
    if not isinstance(env, VectorEnv):
        session.error(check, "a gymnasium.vector.VectorEnv", type(env).__name__)
    num_envs = getattr(env, "num_envs", None)
    if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
        session.error(check, "num_envs, an int from 1", repr(num_envs))
    if getattr(env, "closed", False) is not False:
        session.error(check, "closed is False", repr(env.closed))


def metadata(session: Session) -> None:
    check = "attributes.metadata"
    found = getattr(session.env, "metadata", None)
    if not isinstance(found, dict):
        session.error(check, "metadata, a dict", repr(found))
    elif "autoreset_mode" not in found:
        session.warning(
            check, "metadata['autoreset_mode'] tells the mode", "none: next_step is taken, as gymnasium's wrappers do"
        )
    elif not isinstance(found["autoreset_mode"], AutoresetMode):
        session.error(
            check, "metadata['autoreset_mode'], a gymnasium.vector.AutoresetMode", repr(found["autoreset_mode"])
        )


def render_mode(session: Session) -> None:
    mode = getattr(session.env, "render_mode", None)
    modes = session.env.metadata.get("render_modes", []) if isinstance(session.env.metadata, dict) else []
    if mode is not None and mode not in modes:
        session.error("attributes.render_mode", f"None, or one of metadata['render_modes'], {modes}", repr(mode))


def spec(session: Session) -> None:
    found = getattr(session.env, "spec", None)
    if found is not None and not isinstance(found, EnvSpec):
        session.warning("attributes.spec", "a gymnasium.envs.registration.EnvSpec or None", type(found).__name__)


def unwrapped(session: Session) -> None:
    found = getattr(session.env, "unwrapped", None)
    if not isinstance(found, VectorEnv):
        session.error("attributes.unwrapped", "the vector environment beneath all wrappers", repr(found))


def declared(session: Session) -> None:
    for name in ("single_observation_space", "single_action_space", "observation_space", "action_space"):
        found = getattr(session.env, name, None)
        if not isinstance(found, spaces.Space):
            session.error("spaces.declared", f"{name}, a gymnasium.Space", repr(found))


def _same_layout(one: Any, other: Any) -> bool:
    """Tell whether two spaces hold elements of the same type and shape, whatever their bounds."""
    if type(one) is not type(other):
        return False
    if isinstance(one, spaces.Dict):
        return list(one) == list(other) and all(_same_layout(one[key], other[key]) for key in one)
    if isinstance(one, spaces.Tuple):
        return len(one) == len(other) and all(map(_same_layout, one, other))
    return bool(one.shape == other.shape and one.dtype == other.dtype)


def _batched(session: Session, name: str) -> None:
    session.require("attributes.vector_env", "spaces.declared")
    single: Any = getattr(session.env, f"single_{name}")
    found: Any = getattr(session.env, name)
    expected = batch_space(single, session.num_envs)
    check = f"spaces.batched_{name.removesuffix('_space')}"
    words = f"{name} is single_{name} batched {session.num_envs} times, {expected}"
    if not _same_layout(expected, found):
        session.error(check, words, str(found))
    elif expected != found:
        # SyncVectorEnv(observation_mode="different") batches environments whose bounds differ.
        session.warning(check, words, f"other bounds: {found}")


def batched_observation(session: Session) -> None:
    _batched(session, "observation_space")


def batched_action(session: Session) -> None:
    _batched(session, "action_space")


ATTRIBUTE_CHECKS = {
    "attributes.vector_env": vector_env,
    "attributes.metadata": metadata,
    "attributes.render_mode": render_mode,
    "attributes.spec": spec,
    "attributes.unwrapped": unwrapped,
    "spaces.declared": declared,
    "spaces.batched_observation": batched_observation,
    "spaces.batched_action": batched_action,
}
