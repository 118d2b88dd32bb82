"""Copies, closing, and the order of calls."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

from metafast.envs.checker._isolation import Ended, isolated
from metafast.envs.checker._session import Session, Skip, difference_of_rollouts

__all__ = ["LIFECYCLE_CHECKS"]


def _continues(session: Session, check: str, words: str, duplicate: Callable[[Any], Any]) -> None:
    session.require("outputs.step", "outputs.flags", "seeding.reproducible")
    length = min(session.num_steps, 100)
    session.env.reset(seed=session.seed)
    steps = list(session.steps(session.env, 5))
    try:
        other = duplicate(session.env)
    except Exception as error:
        raise Skip(f"not supported: {type(error).__name__}: {str(error)[:120]}") from None
    try:
        ours, theirs = (
            (None, list(session.steps(env, length, action_seed=2, previous=steps[-1]))) for env in (session.env, other)
        )
    finally:
        other.close()
    found = difference_of_rollouts(ours, theirs)
    if found is not None:
        session.error(check, f"{words} goes on as the environment itself does", found)


def pickled(session: Session) -> None:
    _continues(session, "lifecycle.pickle", "a pickled environment", lambda env: pickle.loads(pickle.dumps(env)))


def copied(session: Session) -> None:
    _continues(session, "lifecycle.deepcopy", "a deep copy", copy.deepcopy)


def _before_reset(session: Session) -> str:
    with session.fresh() as env:
        if session._source not in ("factory", "spec"):
            raise Skip("only a factory or a spec gives an environment that was never reset")
        try:
            env.step(session.action_space(session.seed).sample())
        except Exception:
            return ""
    return "no exception"


def before_reset(session: Session) -> None:
    session.require("outputs.step", "outputs.flags")
    result = isolated(session, _before_reset)
    words = "an exception for a step before the first reset"
    if isinstance(result, Ended):
        session.error("lifecycle.before_reset", words, result.words)
    elif result:
        session.warning("lifecycle.before_reset", words, result)


def _close_twice(session: Session) -> str:
    env = session._make_fresh()
    env.reset(seed=session.seed)
    env.close()
    if env.closed is not True:
        return f"closed is {env.closed!r}"
    env.close()
    return ""


def close(session: Session) -> None:
    session.require("outputs.step", "outputs.flags")
    result = isolated(session, _close_twice)
    if isinstance(result, Ended) or result:
        session.error(
            "lifecycle.close",
            "close may be called twice, and sets closed",
            result.words if isinstance(result, Ended) else result,
        )


def _use_after_close(session: Session) -> str:
    env = session._make_fresh()
    env.reset(seed=session.seed)
    env.close()
    uses: dict[str, Callable[[], Any]] = {
        "step": lambda: env.step(session.action_space(session.seed).sample()),
        "reset": lambda: env.reset(seed=session.seed),
    }
    for name, use in uses.items():
        try:
            use()
        except Exception:
            continue
        return f"{name} raises nothing"
    return ""


def after_close(session: Session) -> None:
    session.require("lifecycle.close")
    result = isolated(session, _use_after_close)
    words = "an exception for step and reset of a closed environment"
    if isinstance(result, Ended):
        session.error("lifecycle.after_close", words, result.words)
    elif result:
        session.warning("lifecycle.after_close", words, result)


LIFECYCLE_CHECKS = {
    "lifecycle.pickle": pickled,
    "lifecycle.deepcopy": copied,
    "lifecycle.before_reset": before_reset,
    "lifecycle.close": close,
    "lifecycle.after_close": after_close,
}
