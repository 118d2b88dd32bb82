"""What follows the end of an episode, in the mode that the environment declares, and how long an episode may last."""

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from metafast.envs.checker import _trees
from metafast.envs.checker._session import NotApplicable, Session, Skip, Step, difference_of_rollouts

__all__ = ["AUTORESET_CHECKS"]


def _begin(session: Session, mode: AutoresetMode) -> None:
    session.require("outputs.step", "outputs.flags")
    if session.mode is not mode:
        raise NotApplicable(f"it belongs to another autoreset mode than {session.mode.value}")
    if not session.any_ended:
        raise Skip(f"no episode ended in {session.num_steps} steps")


def reset_row(session: Session) -> None:
    check = "autoreset.reset_row"
    _begin(session, AutoresetMode.NEXT_STEP)
    for number, step in enumerate(session.record[1]):
        for name in ("rewards", "terminated", "truncated"):
            wrong = step.previously_ended & (np.asarray(getattr(step, name)) != 0)
            if wrong.any():
                index = int(wrong.argmax())
                session.error(
                    check,
                    "the step after an episode's end is its reset: reward 0, neither terminated nor truncated",
                    f"{name}[{index}] is {getattr(step, name)[index]} in step {number + 1}",
                )
                return


def action_ignored(session: Session) -> None:
    _begin(session, AutoresetMode.NEXT_STEP)
    session.require("seeding.reproducible", "autoreset.reset_row")
    others = session.action_space(session.seed + 77)

    def alter(actions: Any, previous: Step | None) -> Any:
        other = others.sample()
        if previous is None or not previous.ended.any():
            return actions
        return _replace_rows(actions, other, previous.ended)

    found = difference_of_rollouts(session.record, session.rollout(session.env, session.num_steps, alter_actions=alter))
    if found is not None:
        session.error("autoreset.action_ignored", "the action of a step that resets changes nothing", found)


def _replace_rows(tree: Any, other: Any, mask: npt.NDArray[np.bool_]) -> Any:
    if isinstance(tree, dict):
        return {key: _replace_rows(tree[key], other[key], mask) for key in tree}
    if isinstance(tree, tuple):
        return tuple(_replace_rows(one, two, mask) for one, two in zip(tree, other, strict=True))
    tree = tree.copy()
    tree[mask] = other[mask]
    return tree


def final_obs(session: Session) -> None:
    check = "autoreset.final_obs"
    _begin(session, AutoresetMode.SAME_STEP)
    equal = different = 0
    for number, step in enumerate(session.record[1]):
        when = f"in step {number + 1}, where {np.flatnonzero(step.ended).tolist()} ended"
        if not _mask_matches(session, check, "final_obs", step, number):
            return
        for index in np.flatnonzero(step.ended):
            final: Any = step.infos["final_obs"][index]
            if not session.single_observation_space.contains(final):
                session.error(
                    check,
                    f"infos['final_obs'][{index}] within {session.single_observation_space}",
                    f"{_trees.first_difference(final, None)} {when}",
                )
                return
            same = _trees.first_difference(final, _row(step.observations, int(index))) is None
            equal, different = equal + same, different + (not same)
    # Where observations tell one time from another, the last one of an episode is not the first one of the next.
    if equal and not different and _observations_vary(session):
        session.error(
            check,
            "infos['final_obs'] holds the last observation of the episode that ended, observations the next one's",
            f"the same in all {equal} rows",
        )


def final_info(session: Session) -> None:
    check = "autoreset.final_info"
    _begin(session, AutoresetMode.SAME_STEP)
    session.require("autoreset.final_obs")
    for number, step in enumerate(session.record[1]):
        if not _mask_matches(session, check, "final_info", step, number):
            return


def _mask_matches(session: Session, check: str, key: str, step: Step, number: int) -> bool:
    """Check that `key` and its mask are there exactly where an episode ended."""
    mask = step.infos.get(f"_{key}")
    found = np.zeros(session.num_envs, dtype=bool) if mask is None else np.asarray(mask)
    if np.array_equal(found, step.ended) and (key in step.infos or not step.ended.any()):
        return True
    session.error(
        check,
        f"infos[{key!r}], with infos['_{key}'] True, in exactly the environments whose episode ended",
        f"in step {number + 1} {np.flatnonzero(step.ended).tolist()} ended, {np.flatnonzero(found).tolist()} are marked"
        f"{'' if key in step.infos else f', and there is no {key!r}'}",
    )
    return False


def _row(tree: Any, index: int) -> Any:
    return _trees.map_leaves(lambda leaf: leaf[index], tree)


def _observations_vary(session: Session) -> bool:
    first, steps = session.record
    return all(
        _trees.first_difference(_row(first, index), _row(steps[0].observations, index)) is not None
        for index in range(session.num_envs)
    )


def _mask_severity(session: Session) -> Any:
    # Only the disabled mode cannot do without; in the others gymnasium's own environments differ.
    return session.error if session.mode is AutoresetMode.DISABLED else session.warning


def reset_mask(session: Session) -> None:
    check, report = "autoreset.reset_mask", _mask_severity(session)
    session.require("outputs.step", "outputs.flags")
    if session.num_envs == 1:
        raise NotApplicable("there is one environment")
    _, steps = session.rollout(session.env, 3)
    before = steps[-1].observations if steps[-1].after_reset is None else steps[-1].after_reset
    mask = np.arange(session.num_envs) % 2 == 0
    try:
        after = _trees.snapshot(session.reset_mask(session.env, mask)[0])
    except Exception as error:
        if session.mode is not AutoresetMode.DISABLED:
            raise Skip(f"the mask is refused: {type(error).__name__}: {error}") from None
        session.error(check, "reset(options={'reset_mask': mask})", f"{type(error).__name__}: {error}")
        return
    batched = all(len(np.atleast_1d(leaf)) == session.num_envs for _, leaf in _trees.leaves(after))
    if not batched:
        report(check, "the observations of all environments, also of those outside options['reset_mask']", "fewer rows")
        return
    found = _trees.first_difference(_trees.rows(before, ~mask), _trees.rows(after, ~mask))
    if found is not None:
        report(check, "environments outside options['reset_mask'] keep their observations", found)
    elif _observations_vary(session) and _trees.first_difference(before, after) is None:
        report(check, "environments in options['reset_mask'] begin anew", "no observation changed")


def mask_refused(session: Session) -> None:
    check, report = "autoreset.mask_refused", _mask_severity(session)
    session.require("autoreset.reset_mask")
    for words, mask in {
        "of another length": np.ones(session.num_envs + 1, dtype=bool),
        "of ints": np.ones(session.num_envs, dtype=np.int64),
        "without a True": np.zeros(session.num_envs, dtype=bool),
    }.items():
        session.env.reset(seed=session.seed)
        try:
            session.reset_mask(session.env, mask)
        except Exception:
            continue
        report(check, f"a reset_mask {words} is refused", "no exception")


def ended_step(session: Session) -> None:
    _begin(session, AutoresetMode.DISABLED)
    with session.fresh() as env:
        space = session.action_space(session.seed)
        env.reset(seed=session.seed)
        for _ in range(10 * session.num_steps):
            _, _, terminated, truncated, _ = env.step(space.sample())
            if (terminated | truncated).any():
                break
        else:
            raise Skip(f"no episode ended in {10 * session.num_steps} steps")
        try:
            env.step(space.sample())
        except Exception:
            return
    session.error(
        "autoreset.ended_step", "a step is refused while an ended environment waits for its reset", "no exception"
    )


def limit(session: Session) -> None:
    check = "episodes.limit"
    session.require("outputs.step", "outputs.flags")
    longest = session.max_episode_steps
    if session.mode is AutoresetMode.DISABLED:
        session.require("autoreset.reset_mask")
    if longest is None:
        raise Skip("no limit is known: spec.max_episode_steps is None, and the checker was given none")
    elapsed = np.zeros(session.num_envs, dtype=np.int64)
    reached = cut = 0
    for number, step in enumerate(session.record[1]):
        elapsed = np.where(step.previously_ended, 0, elapsed + 1)
        late = (elapsed >= longest) & ~step.ended
        if late.any():
            index = int(late.argmax())
            session.error(
                check,
                f"an episode ends at its limit of {longest} steps at the latest",
                f"environment {index} has taken {elapsed[index]} steps in step {number + 1}, and neither flag is set",
            )
            return
        at_limit = (elapsed == longest) & step.ended
        reached, cut = reached + int(at_limit.sum()), cut + int((at_limit & step.truncated).sum())
        if session.mode is not AutoresetMode.NEXT_STEP:
            elapsed[step.ended] = 0
    if reached == 0:
        raise Skip(f"no episode reached its limit of {longest} steps in {session.num_steps} steps")
    if reached >= 3 and cut == 0:
        session.error(
            check,
            f"episodes cut at their limit of {longest} steps are told as truncated",
            f"all {reached} of them as terminated only",
        )


AUTORESET_CHECKS = {
    "autoreset.reset_row": reset_row,
    "autoreset.action_ignored": action_ignored,
    "autoreset.final_obs": final_obs,
    "autoreset.final_info": final_info,
    "autoreset.reset_mask": reset_mask,
    "autoreset.mask_refused": mask_refused,
    "autoreset.ended_step": ended_step,
    "episodes.limit": limit,
}
