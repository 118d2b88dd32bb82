"""Whose the arrays are: what was returned stays as it was, and what was given in is only read."""

from typing import Any

import numpy as np

from metafast.envs.checker import _trees
from metafast.envs.checker._session import Session, Skip, Step, difference_of_rollouts

__all__ = ["MEMORY_CHECKS"]


def _require_copies(session: Session) -> None:
    session.require("outputs.step", "outputs.flags")
    if not getattr(session.env.unwrapped, "copy", True):
        raise Skip("the environment declares copy=False: it returns the same arrays every time")


def results_kept(session: Session) -> None:
    check = "memory.results_kept"
    _require_copies(session)
    env, space = session.env, session.action_space(session.seed)
    names = ("observations", "rewards", "terminations", "truncations", "infos")
    kept: list[tuple[str, Any, Any]] = []

    def keep(when: str, result: tuple[Any, ...]) -> None:
        parts = zip(names if len(result) == 5 else ("observations", "infos"), result, strict=True)
        kept.extend((f"{name} of {when}", part, _trees.snapshot(part)) for name, part in parts)

    keep("reset", env.reset(seed=session.seed))
    ended = np.zeros(session.num_envs, dtype=bool)
    for number in range(min(session.num_steps, 50)):
        if session.mode.name == "DISABLED" and ended.any():
            keep(f"the reset after step {number}", session.reset_mask(env, ended))
        result = env.step(space.sample())
        keep(f"step {number + 1}", result)
        ended = np.logical_or(result[2], result[3])
    keep("the second reset", env.reset())
    for name, array, copied in kept:
        found = _trees.first_difference(copied, array)
        if found is not None:
            session.error(check, "what was returned stays as it was", f"{name} changed later: {found}")
            return


def results_own(session: Session) -> None:
    _require_copies(session)
    session.require("memory.results_kept", "seeding.reproducible")
    previous: list[Any] = [session.env.reset(seed=session.seed)[0]]

    def scribble(actions: Any, before: Step | None) -> Any:
        for array in previous:
            for _, leaf in _trees.leaves(array):
                if isinstance(leaf, np.ndarray) and leaf.flags.writeable and leaf.dtype != object:
                    leaf[...] = 1
        return actions

    class Keeping:
        """The environment, with the arrays that it returned last in reach."""

        def step(self, actions: Any) -> Any:
            result = session.env.step(actions)
            copied = _trees.snapshot(tuple(result))
            previous[:] = result[:4]
            return copied

        def reset(self, **keywords: Any) -> Any:
            result = session.env.reset(**keywords)
            copied = _trees.snapshot(tuple(result))
            previous[:] = [result[0]]
            return copied

    found = difference_of_rollouts(
        session.record, session.rollout(Keeping(), session.num_steps, alter_actions=scribble)
    )
    if found is not None:
        session.error("memory.results_own", "writing to arrays that were returned changes nothing later", found)


def actions_kept(session: Session) -> None:
    session.require("outputs.step", "outputs.flags")
    space = session.action_space(session.seed)
    session.env.reset(seed=session.seed)
    for _ in range(5):
        actions = space.sample()
        copied = _trees.snapshot(actions)
        result = session.env.step(actions)
        found = _trees.first_difference(copied, actions)
        if found is not None:
            session.error("memory.actions_kept", "step leaves the actions as they are", found)
            return
        ended = np.logical_or(result[2], result[3])
        if session.mode.name == "DISABLED" and ended.any():
            session.reset_mask(session.env, ended)


MEMORY_CHECKS = {
    "memory.results_kept": results_kept,
    "memory.results_own": results_own,
    "memory.actions_kept": actions_kept,
}
