"""Actions that are none: an exception that leaves the environment as it was, and no crash."""

from typing import Any

import numpy as np
from gymnasium import spaces

from metafast.envs.checker import _trees
from metafast.envs.checker._isolation import Ended, isolated
from metafast.envs.checker._session import NotApplicable, Session, difference_of_rollouts

__all__ = ["ACTION_CHECKS"]

_NUM_STEPS = 4


def _bad_actions(session: Session, actions: Any) -> dict[str, list[tuple[str, Any]]]:
    """Return, for each check, bad actions in words and as they are."""
    single, num_envs = session.single_action_space, session.num_envs
    cases: dict[str, list[tuple[str, Any]]] = {
        "actions.too_few": [
            (f"actions for {num_envs - 1} environments", _trees.map_leaves(lambda leaf: leaf[:-1], actions))
        ],
        "actions.too_many": [
            (
                f"actions for {num_envs + 1} environments",
                _trees.map_leaves(lambda leaf: np.concatenate([leaf, leaf[:1]]), actions),
            )
        ],
    }
    if not isinstance(actions, np.ndarray):
        return cases
    cases["actions.dtype"] = [("None", None), ("an array of text", np.full(actions.shape, "action"))]
    integers = actions.dtype.kind in "iub"
    if actions.ndim > 1:
        cases["actions.shape"] = [
            ("one number more for each environment", np.concatenate([actions, actions[:, :1]], axis=1))
        ]
    if integers:
        cases["actions.dtype"].append(("fractions", actions + 0.5))
        outside = []
        for words, value in (("above", _above(single)), ("below", _below(single))):
            if value is not None:
                wrong = actions.astype(np.int64)
                wrong.reshape(num_envs, -1)[-1, -1] = value
                outside.append((f"{value}, {words} the range, in the last environment", wrong))
        cases["actions.out_of_range"] = outside
    if actions.dtype.kind in "fiu":
        cases["actions.not_finite"] = []
        for not_finite in (np.nan, np.inf):
            wrong = actions.astype(actions.dtype if actions.dtype.kind == "f" else np.float64)
            wrong.reshape(num_envs, -1)[-1, -1] = not_finite
            cases["actions.not_finite"].append((f"{not_finite} in the last environment", wrong))
    return cases


def _above(space: Any) -> int | None:
    if isinstance(space, spaces.Discrete):
        return int(space.start + space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(np.ravel(space.start)[-1] + np.ravel(space.nvec)[-1])
    return 2 if isinstance(space, spaces.MultiBinary) else None


def _below(space: Any) -> int | None:
    if isinstance(space, spaces.Discrete):
        return int(space.start) - 1
    if isinstance(space, spaces.MultiDiscrete):
        return int(np.ravel(space.start)[-1]) - 1
    return -1 if isinstance(space, spaces.MultiBinary) else None


def _try(session: Session, check: str, number: int) -> tuple[bool, str]:
    """Give a bad action to one of two environments alike; return whether it was refused, and what was wrong then."""
    with session.fresh() as env:
        env.reset(seed=session.seed)
        steps = list(session.steps(env, _NUM_STEPS))
        wrong = _bad_actions(session, session.action_space(session.seed).sample())[check][number][1]
        try:
            env.step(wrong)
        except Exception:
            refused = True
        else:
            return False, ""
        try:
            after = list(session.steps(env, _NUM_STEPS, action_seed=1, previous=steps[-1]))
        except Exception as error:
            return refused, f"a good action afterwards raises {type(error).__name__}: {error}"
    if session.failed("seeding.reproducible") or "seeding.reproducible" in session.report.skipped:
        return refused, ""
    with session.fresh() as twin:
        twin.reset(seed=session.seed)
        steps = list(session.steps(twin, _NUM_STEPS))
        expected = list(session.steps(twin, _NUM_STEPS, action_seed=1, previous=steps[-1]))
    found = difference_of_rollouts((None, expected), (None, after))
    return refused, "" if found is None else f"the environments are not as before: {found}"


def _check(check: str) -> Any:
    def run(session: Session) -> None:
        session.require("outputs.step", "outputs.flags")
        cases = _bad_actions(session, session.action_space(session.seed).sample())
        if not cases.get(check):
            raise NotApplicable(f"there is no such thing for {session.single_action_space}")
        accepted = []
        for number, (words, _) in enumerate(cases[check]):
            result = isolated(session, _try, check, number)
            if isinstance(result, Ended):
                session.error(check, f"an exception for {words}", result.words)
                return
            refused, trouble = result
            if not refused:
                accepted.append(words)
            elif trouble:
                session.disturbing_actions.append((words, trouble))
        if accepted:
            session.error(check, f"an exception for {'; for '.join(accepted)}", "no exception")

    return run


def unchanged(session: Session) -> None:
    """Tell of all that the other checks met."""
    session.require("outputs.step", "outputs.flags")
    if session.disturbing_actions:
        first, trouble = session.disturbing_actions[0]
        session.error(
            "actions.unchanged",
            f"every environment as before, after these were refused: "
            f"{'; '.join(words for words, _ in session.disturbing_actions)}",
            f"after {first}: {trouble}",
        )


ACTION_CHECKS = {
    name: _check(name)
    for name in (
        "actions.too_few",
        "actions.too_many",
        "actions.shape",
        "actions.dtype",
        "actions.out_of_range",
        "actions.not_finite",
    )
} | {"actions.unchanged": unchanged}
