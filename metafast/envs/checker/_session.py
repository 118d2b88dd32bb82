"""The environment under the checks: how to step it, how to get a fresh one, and what is known of it by now."""

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from metafast.envs.checker import _trees
from metafast.envs.checker._report import Finding, VectorEnvReport

__all__ = ["NotApplicable", "Session", "Skip", "Step", "difference_of_rollouts"]


class Skip(Exception):
    """A check cannot be made, for the reason that it tells."""


class NotApplicable(Skip):
    """A check has nothing to say of an environment of this kind, which is not worth telling."""


@dataclass
class Step:
    """One step of a rollout, copied."""

    actions: Any
    observations: Any
    rewards: npt.NDArray[Any]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    infos: dict[str, Any]
    previously_ended: npt.NDArray[np.bool_]  # in the step before, so that in next_step mode this one is a reset
    after_reset: Any = None  # in disabled mode: the observations that the reset of the ended environments returned

    @property
    def ended(self) -> npt.NDArray[np.bool_]:
        """Where the episode is over."""
        return self.terminated | self.truncated

    def outcome(self) -> tuple[Any, ...]:
        """What the environment returned."""
        return self.observations, self.rewards, self.terminated, self.truncated, self.after_reset


class Session:
    """One run of the checker over one environment."""

    def __init__(
        self,
        env: Any,
        factory: Callable[[], Any] | None,
        *,
        seed: int,
        num_steps: int,
        max_episode_steps: int | None,
        start_method: str | None,
        timeout: float,
    ) -> None:
        self.env = env
        self.factory = factory
        self.seed = seed
        self.num_steps = num_steps
        self.start_method = start_method
        self.timeout = timeout
        try:
            self.report = VectorEnvReport(str(env))
        except Exception:
            self.report = VectorEnvReport(type(env).__name__)
        # Bad actions that were refused but left a trace, with the trace.
        self.disturbing_actions: list[tuple[str, str]] = []
        self.num_envs: int = getattr(env, "num_envs", 0)
        # Batched here, because not everybody's batched spaces are.
        self.single_action_space: Any = getattr(env, "single_action_space", None)
        self.single_observation_space: Any = getattr(env, "single_observation_space", None)
        metadata = getattr(env, "metadata", None)
        mode = metadata.get("autoreset_mode") if isinstance(metadata, dict) else None
        self.mode = mode if isinstance(mode, AutoresetMode) else AutoresetMode.NEXT_STEP
        if max_episode_steps is None:
            max_episode_steps = getattr(getattr(env, "spec", None), "max_episode_steps", None)
        if max_episode_steps is None:
            max_episode_steps = getattr(getattr(env, "unwrapped", env), "max_episode_steps", None)
        self.max_episode_steps = max_episode_steps
        self._record: tuple[Any, list[Step]] | None = None
        self._source: str | None = "factory" if factory is not None else None

    def error(self, check: str, expected: str, seen: str) -> None:
        """Record a fault."""
        self.report.findings.append(Finding("error", check, expected, seen))

    def warning(self, check: str, expected: str, seen: str) -> None:
        """Record a departure from what is usual."""
        self.report.findings.append(Finding("warning", check, expected, seen))

    def failed(self, *prefixes: str) -> bool:
        """Tell whether a check whose name begins so has found anything."""
        return any(finding.check.startswith(prefixes) for finding in self.report.findings)

    def require(self, *prefixes: str) -> None:
        """Leave the present check out where one that it builds on found a fault or was left out itself."""
        for prefix in prefixes:
            if self.failed(prefix) or any(name.startswith(prefix) for name in self.report.skipped):
                raise Skip(f"it builds on {prefix}")

    @contextmanager
    def fresh(self) -> Iterator[Any]:
        """Give another environment like the one under test, and close it afterwards."""
        env = self._make_fresh()
        try:
            yield env
        finally:
            env.close()

    def _make_fresh(self) -> Any:
        if self._source is None:
            self._source = self._find_source()
        if self._source == "factory":
            assert self.factory is not None
            return self.factory()
        if self._source == "deepcopy":
            return copy.deepcopy(self.env)
        if self._source == "pickle":
            return pickle.loads(pickle.dumps(self.env))
        if self._source == "spec":
            return gymnasium.make_vec(self.env.spec)
        raise Skip("it needs a fresh environment, which only a factory could give: this one has no deepcopy or spec")

    def _find_source(self) -> str:
        attempts: dict[str, Callable[[], Any]] = {
            "deepcopy": lambda: copy.deepcopy(self.env),
            "pickle": lambda: pickle.loads(pickle.dumps(self.env)),
            "spec": lambda: gymnasium.make_vec(self.env.spec),
        }
        for name, attempt in attempts.items():
            try:
                made = attempt()
                if type(made) is type(self.env) and made.num_envs == self.num_envs:
                    made.close()
                    return name
            except Exception:
                continue
        return "none"

    def action_space(self, seed: int) -> spaces.Space[Any]:
        """Return a batched action space of its own, seeded."""
        space: spaces.Space[Any] = copy.deepcopy(batch_space(self.single_action_space, self.num_envs))
        space.seed(seed)
        return space

    def reset_mask(self, env: Any, mask: npt.NDArray[np.bool_], **keywords: Any) -> Any:
        """Reset the environments of a mask. The dict is a new one: gymnasium's own takes the mask out of it."""
        return env.reset(options={"reset_mask": mask.copy()}, **keywords)

    def steps(
        self,
        env: Any,
        num_steps: int,
        *,
        action_seed: int = 0,
        alter_actions: Callable[[Any, Step | None], Any] | None = None,
        previous: Step | None = None,
    ) -> Iterator[Step]:
        """Step a random policy from where the environment is; in disabled mode, reset what ended."""
        space = self.action_space(self.seed + 1000 + action_seed)
        previously_ended = np.zeros(self.num_envs, dtype=bool)
        if previous is not None and self.mode is AutoresetMode.NEXT_STEP:
            previously_ended = previous.ended
        for _ in range(num_steps):
            actions = space.sample()
            if alter_actions is not None:
                actions = alter_actions(actions, previous)
            observations, rewards, terminated, truncated, infos = _trees.snapshot(tuple(env.step(actions)))
            step = Step(_trees.snapshot(actions), observations, rewards, terminated, truncated, infos, previously_ended)
            if self.mode is AutoresetMode.DISABLED:
                if step.ended.any():
                    step.after_reset = _trees.snapshot(self.reset_mask(env, step.ended)[0])
            elif self.mode is AutoresetMode.NEXT_STEP:
                previously_ended = step.ended
            previous = step
            yield step

    def rollout(self, env: Any, num_steps: int, seed: Any = None, **options: Any) -> tuple[Any, list[Step]]:
        """Return the first observations after a seeded reset, and the steps of a random policy."""
        first = _trees.snapshot(env.reset(seed=self.seed if seed is None else seed)[0])
        return first, list(self.steps(env, num_steps, **options))

    @property
    def record(self) -> tuple[Any, list[Step]]:
        """The rollout that most checks read, made once."""
        if self._record is None:
            self._record = self.rollout(self.env, self.num_steps)
        return self._record

    @property
    def any_ended(self) -> bool:
        """Whether an episode ended in the record."""
        return any(step.ended.any() for step in self.record[1])

    def __getstate__(self) -> dict[str, Any]:
        """For a process that is spawned: the environment itself stays here where a factory makes others."""
        state = self.__dict__ | {"_record": None}
        return state | {"env": None} if self.factory is not None else state


def difference_of_rollouts(
    first: tuple[Any, list[Step]], second: tuple[Any, list[Step]], which: Any = slice(None)
) -> str | None:
    """Say where two rollouts part, comparing the environments `which`, or return None."""
    if first[0] is not None:
        found = _trees.first_difference(_trees.rows(first[0], which), _trees.rows(second[0], which))
        if found is not None:
            return f"reset, observations: {found}"
    for number, (one, other) in enumerate(zip(first[1], second[1], strict=True)):
        names = ("observations", "rewards", "terminations", "truncations", "observations after a reset")
        for name, left, right in zip(names, one.outcome(), other.outcome(), strict=True):
            if (left is None) != (right is None):
                return f"step {number + 1}: {name} only in one of them"
            if left is None:
                continue
            found = _trees.first_difference(_trees.rows(left, which), _trees.rows(right, which))
            if found is not None:
                return f"step {number + 1}, {name}: {found}"
    return None
