"""Types, shapes and ranges of what reset, step and render return."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium.vector.utils import batch_space, create_empty_array

from metafast.envs.checker import _trees
from metafast.envs.checker._session import NotApplicable, Session

__all__ = ["OUTPUT_CHECKS"]


def reset(session: Session) -> None:
    check = "outputs.reset"
    session.require("attributes.vector_env", "spaces.declared")
    every: tuple[dict[str, Any] | None, ...] = (None, {})
    for options in every:
        result: Any = session.env.reset(seed=session.seed, options=options)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
            session.error(check, "reset returns the tuple (observations, infos dict)", _outline(result))


def step(session: Session) -> None:
    session.require("outputs.reset")
    session.env.reset(seed=session.seed)
    result: Any = session.env.step(session.action_space(session.seed).sample())
    if not isinstance(result, tuple) or len(result) != 5 or not isinstance(result[4], dict):
        session.error(
            "outputs.step",
            "step returns the tuple (observations, rewards, terminations, truncations, infos dict)",
            _outline(result),
        )
        return
    flags(session, result[2:4])
    if not session.failed("outputs.flags"):
        assert session.record


def flags(session: Session, first: Any = None) -> None:
    """The flags come before the record, which needs them."""
    session.require("outputs.step")
    if first is None and session.failed("outputs.flags"):
        return
    every = [first] if first is not None else [(each.terminated, each.truncated) for each in session.record[1]]
    for pair in every:
        for name, array in zip(("terminations", "truncations"), pair, strict=True):
            if not _is_array(array, (session.num_envs,)) or array.dtype != np.bool_:
                session.error("outputs.flags", f"{name}: a bool array of shape ({session.num_envs},)", _outline(array))
                return


def rewards(session: Session) -> None:
    check = "outputs.rewards"
    session.require("outputs.step", "outputs.flags")
    for number, each in enumerate(session.record[1]):
        if not _is_array(each.rewards, (session.num_envs,)) or each.rewards.dtype.kind != "f":
            session.error(check, f"rewards: a float array of shape ({session.num_envs},)", _outline(each.rewards))
            return
        if not np.isfinite(each.rewards).all():
            index = int(np.flatnonzero(~np.isfinite(each.rewards))[0])
            session.error(check, "finite rewards", f"rewards[{index}] is {each.rewards[index]} in step {number + 1}")
            return


def _all_observations(session: Session) -> Iterator[tuple[str, Any]]:
    yield "reset", session.record[0]
    for number, each in enumerate(session.record[1]):
        yield f"step {number + 1}", each.observations
        if each.after_reset is not None:
            yield f"the reset after step {number + 1}", each.after_reset


def observations(session: Session) -> None:
    check = "outputs.observations"
    session.require("outputs.step", "outputs.flags")
    expected = create_empty_array(session.single_observation_space, session.num_envs)
    layout = [(name, _outline(leaf)) for name, leaf in _trees.leaves(expected)]
    for when, each in _all_observations(session):
        found = [(name, _outline(leaf)) for name, leaf in _trees.leaves(each)]
        if found != layout:
            different = next((pair for pair in zip(layout, found, strict=False) if pair[0] != pair[1]), (layout, found))
            session.error(check, f"observations as their space says: {different[0]}", f"{different[1]} in {when}")
            return


def within(session: Session) -> None:
    session.require("outputs.observations")
    space = batch_space(session.single_observation_space, session.num_envs)
    for when, each in _all_observations(session):
        if not space.contains(each):
            session.error(
                "outputs.within_space", f"observations within {space}", f"in {when}: {_trees.first_difference(each, 0)}"
            )
            return


def infos(session: Session) -> None:
    check = "outputs.infos"
    session.require("outputs.step", "outputs.flags")
    for number, each in enumerate(session.record[1]):
        for key in each.infos:
            if key.startswith("_"):
                mask = each.infos[key]
                if not _is_array(mask, (session.num_envs,)) or mask.dtype != np.bool_:
                    session.error(
                        check,
                        f"infos[{key!r}] tells where infos[{key[1:]!r}] is given: bool of shape ({session.num_envs},)",
                        f"{_outline(mask)} in step {number + 1}",
                    )
                    return
            elif f"_{key}" not in each.infos:
                session.warning(
                    check,
                    f"beside infos[{key!r}] the mask infos['_{key}'], as gymnasium's wrappers expect",
                    f"no mask in step {number + 1}; keys: {list(each.infos)}",
                )
                return


def frames(session: Session) -> None:
    mode = getattr(session.env, "render_mode", None)
    if mode != "rgb_array":
        raise NotApplicable(f"there are frames only with render_mode='rgb_array', not {mode!r}")
    found: Any = session.env.render()
    good = isinstance(found, (tuple, list)) and len(found) == session.num_envs
    if not good or not all(_is_frame(frame) for frame in found):
        session.error(
            "outputs.frames", f"render returns {session.num_envs} frames, uint8 [height, width, 3]", _outline(found)
        )


def _is_frame(frame: Any) -> bool:
    return isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3


def _is_array(value: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(value, np.ndarray) and value.shape == shape


def _outline(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {len(value)}: {', '.join(type(part).__name__ for part in value[:6])}"
    return type(value).__name__


OUTPUT_CHECKS = {
    "outputs.reset": reset,
    "outputs.step": step,
    "outputs.flags": flags,
    "outputs.rewards": rewards,
    "outputs.observations": observations,
    "outputs.within_space": within,
    "outputs.infos": infos,
    "outputs.frames": frames,
}
