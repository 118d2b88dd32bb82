"""Seeds: the same seed gives the same episodes, another one others, and each environment has its own stream."""

from typing import Any

import numpy as np

from metafast.envs.checker import _trees
from metafast.envs.checker._session import NotApplicable, Session, Skip, difference_of_rollouts

__all__ = ["SEEDING_CHECKS"]

_OTHER = 7919  # far enough from the seed that no environment of a batch has the seed of another one's


def reproducible(session: Session) -> None:
    check = "seeding.reproducible"
    session.require("outputs.step", "outputs.flags")
    if getattr(getattr(session.env, "spec", None), "nondeterministic", False) is True:
        raise Skip("spec.nondeterministic is True")
    found = difference_of_rollouts(session.record, session.rollout(session.env, session.num_steps))
    if found is not None:
        session.error(check, "after reset(seed=...) with the same seed, the same actions give the same", found)


def across_instances(session: Session) -> None:
    session.require("seeding.reproducible")
    with session.fresh() as env:
        found = difference_of_rollouts(session.record, session.rollout(env, session.num_steps))
    if found is not None:
        session.error("seeding.across_instances", "another instance with the same seed gives the same", found)


def takes_effect(session: Session) -> None:
    session.require("seeding.reproducible")
    if _rows_differ(session) is False and not _seeds_differ(session) and not _resets_differ(session):
        raise Skip("nothing in the environment is random")
    if not _seeds_differ(session):
        session.error("seeding.takes_effect", "another seed gives other episodes", "the same, bit for bit")


def environments_differ(session: Session) -> None:
    session.require("seeding.takes_effect")
    if session.num_envs == 1:
        raise NotApplicable("there is one environment")
    if not _rows_differ(session):
        session.error(
            "seeding.environments_differ",
            "with the same actions, the environments of one batch go different ways",
            "the same observations and rewards in all of them",
        )


def continues(session: Session) -> None:
    session.require("seeding.takes_effect")
    if not _resets_differ(session):
        session.error(
            "seeding.continues",
            "a reset without a seed continues the stream: other episodes",
            "those of the seed again, bit for bit",
        )


def list_of_seeds(session: Session) -> None:
    check = "seeding.list"
    session.require("seeding.takes_effect", "seeding.environments_differ")
    seeds = [session.seed + index for index in range(session.num_envs)]
    length = min(session.num_steps, 30)
    expected = session.rollout(session.env, length)
    try:
        found = session.rollout(session.env, length, seed=seeds)
    except Exception as error:
        session.warning(check, "reset(seed=[one for each environment]) as SyncVectorEnv takes it", _words(error))
        return
    difference = difference_of_rollouts(expected, found)
    if difference is not None:
        session.warning(check, "seed=s is the same as seed=[s, s + 1, ...], as in SyncVectorEnv", difference)
    backwards = _trees.rows(session.env.reset(seed=seeds[::-1])[0], slice(None, None, -1))
    difference = _trees.first_difference(_trees.snapshot(found[0]), backwards)
    if difference is not None:
        session.warning(check, "an environment's stream depends on its own seed, not on its place", difference)


def refused(session: Session) -> None:
    check = "seeding.refused"
    session.require("seeding.reproducible", "seeding.list")
    cases: dict[str, Any] = {
        "seed=-1": -1,
        "a list of seeds that is too short": [session.seed] * (session.num_envs - 1),
        "a list of seeds that is too long": [session.seed] * (session.num_envs + 1),
    }
    for words, seed in cases.items():
        try:
            session.env.reset(seed=seed)
        except Exception:
            continue
        session.warning(check, f"reset refuses {words}", "no exception")


def _rows_differ(session: Session) -> bool | None:
    """Tell whether the environments go different ways under the same actions; None where there is only one."""
    if session.num_envs == 1:
        return None

    def alike(actions: Any, _: Any) -> Any:
        return _trees.map_leaves(lambda leaf: np.repeat(np.asarray(leaf)[:1], len(leaf), axis=0), actions)

    rollout = session.rollout(session.env, session.num_steps, alter_actions=alike)
    batches = [rollout[0], *(part for step in rollout[1] for part in (step.observations, step.rewards))]
    return any(
        _trees.first_difference(_trees.rows(batch, 0), _trees.rows(batch, index)) is not None
        for batch in batches
        for index in range(1, session.num_envs)
    )


def _seeds_differ(session: Session) -> bool:
    other = session.rollout(session.env, session.num_steps, seed=session.seed + _OTHER)
    return difference_of_rollouts(session.record, other) is not None


def _resets_differ(session: Session) -> bool:
    session.env.reset(seed=session.seed)
    first = _trees.snapshot(session.env.reset()[0])
    following = first, list(session.steps(session.env, session.num_steps))
    return difference_of_rollouts(session.record, following) is not None


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


SEEDING_CHECKS = {
    "seeding.reproducible": reproducible,
    "seeding.across_instances": across_instances,
    "seeding.takes_effect": takes_effect,
    "seeding.environments_differ": environments_differ,
    "seeding.continues": continues,
    "seeding.list": list_of_seeds,
    "seeding.refused": refused,
}
