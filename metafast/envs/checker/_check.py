"""The checker itself: every check in order, each on what the others have shown."""

import traceback
from collections.abc import Callable
from typing import Any

from gymnasium.vector import VectorEnv

from metafast.envs.checker._actions import ACTION_CHECKS
from metafast.envs.checker._attributes import ATTRIBUTE_CHECKS
from metafast.envs.checker._autoreset import AUTORESET_CHECKS
from metafast.envs.checker._lifecycle import LIFECYCLE_CHECKS
from metafast.envs.checker._memory import MEMORY_CHECKS
from metafast.envs.checker._outputs import OUTPUT_CHECKS
from metafast.envs.checker._report import VectorEnvError, VectorEnvReport
from metafast.envs.checker._seeding import SEEDING_CHECKS
from metafast.envs.checker._session import NotApplicable, Session, Skip

__all__ = ["check_vector_env"]

_CHECKS: dict[str, Callable[[Session], None]] = {
    **ATTRIBUTE_CHECKS,
    **OUTPUT_CHECKS,
    **SEEDING_CHECKS,
    **AUTORESET_CHECKS,
    **MEMORY_CHECKS,
    **ACTION_CHECKS,
    **LIFECYCLE_CHECKS,
}


def check_vector_env(
    env: VectorEnv[Any, Any, Any],
    *,
    factory: Callable[[], VectorEnv[Any, Any, Any]] | None = None,
    max_episode_steps: int | None = None,
    seed: int = 20,
    num_steps: int = 300,
    raise_on_error: bool = True,
    start_method: str | None = None,
    timeout: float = 30.0,
) -> VectorEnvReport:
    """Check that anybody's vector environment does what gymnasium says a vector environment does.

    Attributes and spaces; types, shapes and ranges of all that is returned; seeding; the declared autoreset mode, with
    last observations and partial resets; truncation at the episode limit; whose memory the arrays are; bad actions;
    pickling, copies, closing.

    Parameters
    ----------
    env : gymnasium.vector.VectorEnv
        The environment; it is reset and stepped, and not closed. Two or more environments in it show more than one.
    factory : callable, optional
        Makes another environment like `env`. Where it is None, checks that need a fresh one take a deep copy, a
        pickled copy or what ``env.spec`` makes; where none of these works, they are left out and the report says so.
    max_episode_steps : int, optional
        The step at which episodes are truncated, where neither ``env.spec`` nor the environment has it. The limit is
        only checked where it is reached: give an environment with a small one.
    seed : int
        Of the environment, and of the actions.
    num_steps : int
        The length of the rollouts that are compared.
    raise_on_error : bool
        Whether to raise where there are findings whose severity is ``"error"``; warnings never raise.
    start_method : {"fork", "spawn", "forkserver"}, optional
        How to start the processes in which bad actions are tried, since they may end the interpreter; ``"fork"`` where
        the platform has it. The others need a `factory`, or an environment, that can be pickled.
    timeout : float
        Seconds to wait for such a process.

    Returns
    -------
    VectorEnvReport
        ``findings``, ``skipped`` and ``passed``; its text tells them in full.

    Raises
    ------
    VectorEnvError
        An ``AssertionError`` that lists all findings, where there are errors and `raise_on_error` is set.

    Examples
    --------
    >>> import metafast
    >>> env = metafast.envs.make_vec("CartPole-v1", 4, max_episode_steps=20)
    >>> report = metafast.envs.check_vector_env(env)
    >>> report.ok
    True

    Gymnasium's own CartPole for vectors resets all environments where it is asked for some:

    >>> import gymnasium
    >>> env = gymnasium.make_vec("CartPole-v1", num_envs=4, vectorization_mode="vector_entry_point")
    >>> report = metafast.envs.check_vector_env(env, raise_on_error=False)
    >>> [finding.check for finding in report.warnings if finding.check.startswith("autoreset")]
    ['autoreset.reset_mask']
    """
    session = Session(
        env,
        factory,
        seed=seed,
        num_steps=num_steps,
        max_episode_steps=max_episode_steps,
        start_method=start_method,
        timeout=timeout,
    )
    report = session.report
    inapplicable: set[str] = set()
    for name, check in _CHECKS.items():
        try:
            check(session)
        except NotApplicable:
            inapplicable.add(name)
        except Skip as skip:
            report.skipped[name] = str(skip)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            session.error(
                name,
                "no exception",
                f"{type(error).__name__}: {error} ({where.filename.split('/')[-1]}:{where.lineno})",
            )
    without = {finding.check for finding in report.findings} | set(report.skipped) | inapplicable
    report.passed = [name for name in _CHECKS if name not in without]
    if raise_on_error and report.errors:
        raise VectorEnvError(report)
    return report
