"""Gymnasium's vector-environment interface over the native batch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode

from metafast import _core
from metafast.envs._arguments import check_actions, check_reset_mask, check_seeds, check_state
from metafast.envs._batched_env import BatchedVectorEnv, ClosedBatch, refuse_closed
from metafast.envs._environment import Environment
from metafast.envs._exact import numpy_streams
from metafast.envs._render import Renderer, make_renderer

__all__ = ["NativeVectorEnv"]

Observations = npt.NDArray[Any]
Infos = dict[str, Any]
StepOutcome = tuple[Observations, npt.NDArray[np.floating[Any]], npt.NDArray[np.bool_], npt.NDArray[np.bool_], Infos]


class NativeVectorEnv(BatchedVectorEnv[Observations, npt.NDArray[np.integer[Any]], npt.NDArray[Any]]):
    """N environments stepped natively; made by `metafast.envs.make_vec`.

    Everything random comes from each environment's own 64-bit seed and episode number: environment i of a batch that
    was reset with seed s is environment 0 of a batch reset with s + i, and the number of threads changes nothing.
    One environment serves one thread at a time; an overlapping call from another raises RuntimeError.

    Attributes
    ----------
    num_envs : int
        N.
    max_episode_steps : int
        The step at which an episode is truncated.
    autoreset_mode : gymnasium.vector.AutoresetMode
        What follows the end of an episode; also in ``metadata["autoreset_mode"]``.
    """

    # Also of an environment whose making failed, which gymnasium closes.
    _renderer: Renderer | None = None

    def __init__(
        self,
        environment: Environment,
        num_envs: int,
        *,
        num_threads: int | None,
        autoreset_mode: AutoresetMode,
        max_episode_steps: int | None,
        copy: bool,
        env_kwargs: dict[str, Any],
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            environment,
            num_envs,
            autoreset_mode=autoreset_mode,
            max_episode_steps=max_episode_steps,
            copy=copy,
            render_mode=render_mode,
            spec_kwargs=env_kwargs | {"num_threads": num_threads},
        )
        self.num_threads = num_threads
        self._start()

    def _start(self) -> None:
        arguments: dict[str, Any] = {
            "num_envs": self.num_envs,
            "autoreset_mode": self._core_mode,
            "max_episode_steps": self.max_episode_steps,
            "num_threads": self.num_threads or 0,
            "copy": self.copy,
        }
        self._batch = _core.EnvBatch(**arguments | self._environment.core_arguments())
        # A bound method kept: at one environment the look-up would be a noticeable part of a step.
        self._step: Callable[[object], Any] = self._batch.step
        self._renderer = make_renderer(self._environment.env_id, self._environment.renderer, self.render_mode)
        self._last_actions: Any = None
        if self.render_mode is not None:
            self._step = self._step_and_keep_actions

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Observations, Infos]:
        """Begin a new episode in every environment, or in those of a mask.

        Parameters
        ----------
        seed : int or list of (int or None), optional
            Environment i takes ``seed + i`` or ``seed[i]`` and starts that seed's stream anew. An environment that is
            given none continues its stream; its first seed then comes from the operating system.
        options : dict, optional
            ``{"reset_mask": mask}``: reset only where the bool array `mask` [N] is True.

        Returns
        -------
        observations : numpy.ndarray
            [N, ...], the space's dtype, of all environments.
        infos : dict
            Empty.

        Raises
        ------
        ValueError
            If a seed is negative or does not fit 64 bits, their number is not N, or the mask has the wrong shape or
            no True.
        TypeError
            If the seed is not made of ints, or the mask is no numpy array of bools.
        gymnasium.error.ResetNeeded
            If there is a mask before the first full reset.
        """
        batch = self._batch
        mask = check_reset_mask(options, self.num_envs)
        first = not batch.was_reset
        if first and mask is not None and not mask.all():
            raise ResetNeeded("reset every environment once before options['reset_mask'] leaves some out")
        if seed is None and not first:
            return self._settled(batch.reset(mask, None, None)), {}
        seeds, seeded = check_seeds(seed, self.num_envs)
        if first:
            unknown = ~seeded
            seeds[unknown] = np.random.SeedSequence().generate_state(int(unknown.sum()), np.uint64)
            seeded[:] = True
        streams = None
        if self._environment.streams:
            streams = numpy_streams(seeds, seeded if mask is None else seeded & mask)
        return self._settled(batch.reset(mask, seeds, seeded, streams), seeds=seeds, seeded=seeded), {}

    def step(self, actions: Any) -> StepOutcome:
        """Take one step in every environment.

        Parameters
        ----------
        actions : numpy.ndarray, torch.Tensor or sequence
            [N] of any integer type where the action space is Discrete; a contiguous int64 or int32 array is read as it
            is. Where it is a Box of floats, [N, ...]: a contiguous array of the space's type is read as it is, others
            are converted to it. Floats must be finite; what lies beyond the bounds, classic control clips.

        Returns
        -------
        observations : numpy.ndarray
            [N, ...], the space's dtype.
        rewards : numpy.ndarray
            float32 [N], float64 with ``exact=True``.
        terminated, truncated : numpy.ndarray
            bool [N].
        infos : dict
            In same_step mode, if an episode ended: ``final_obs``, ``_final_obs``, ``final_info``, ``_final_info`` as
            in gymnasium's ``SyncVectorEnv``. Else empty.

        Raises
        ------
        ValueError
            If `actions` has the wrong shape or type or a value that is no action, or if with
            ``autoreset_mode="disabled"`` an ended environment was not reset. No environment is then stepped.
        gymnasium.error.ResetNeeded
            If `reset` was never called.
        gymnasium.error.ClosedEnvironmentError
            If the environment is closed.
        RuntimeError
            If another thread is using the environment.
        """
        outcome = self._step(actions)
        if outcome is None:
            if not self._batch.was_reset:
                raise ResetNeeded("call reset before step")
            actions = check_actions(actions, self.num_envs, self._actions)
            outcome = self._step(actions)
        return outcome if type(outcome) is tuple else self._settled(outcome, actions)

    def _settled(self, outcome: Any, actions: Any = None, seeds: Any = None, seeded: Any = None) -> Any:
        """Return `outcome`, unless it is the number of an environment where the user's code raised."""
        if not isinstance(outcome, int):
            return outcome
        explain_failure = self._environment.explain_failure
        assert explain_failure is not None
        action = None if actions is None else actions[outcome]
        seed = int(seeds[outcome]) if seeded is not None and seeded[outcome] else None
        explain_failure(self, outcome, action, seed)

    def _step_and_keep_actions(self, actions: Any) -> Any:
        outcome = self._batch.step(actions)
        if type(outcome) is tuple:
            self._last_actions = np.array(actions)
        return outcome

    def render(self) -> tuple[npt.NDArray[np.uint8], ...]:
        """Draw every environment's present state, with gymnasium's own renderer or the user's function.

        Returns
        -------
        tuple of numpy.ndarray
            N frames, uint8 [height, width, 3].

        Raises
        ------
        ValueError
            If the environment was made without ``render_mode="rgb_array"``.
        gymnasium.error.ResetNeeded
            If `reset` was never called.
        """
        if self._renderer is None:
            raise ValueError("render_mode is None: make the environment with render_mode='rgb_array' to draw it")
        state = self.get_state()
        moved = (state["elapsed_steps"] > 0) & (self._last_actions is not None)
        actions = [self._last_actions[index] if moved[index] else None for index in range(self.num_envs)]
        return self._renderer.draw(state["state"], actions)

    @property
    def final_observations(self) -> Observations:
        """Last observations of the episodes that the last step ended, [N, ...].

        Only the rows where ``terminated | truncated`` was True mean anything. In same_step mode this is one array that
        each step writes to: the dense form of ``infos["final_obs"]``, for trainers, at no cost. After a step that
        raised they mean nothing.
        """
        return self._settled(self._batch.final_observations)  # type: ignore[no-any-return]

    def get_state(self) -> dict[str, npt.NDArray[Any]]:
        """Return all that the next steps depend on, copied.

        Returns
        -------
        dict
            ``state`` float64 [N, state size] (in environments whose state has named fields a structured array [N]),
            ``elapsed_steps`` int32 [N], ``ended`` bool [N] (the episode is over and the reset is still to come),
            ``seeds`` uint64 [N], ``episodes`` uint64 [N] (the number of the next one), and with ``exact=True``
            ``streams`` uint64 [N, 4] (the state and the increment of NumPy's PCG64, each its high and low word).

        Raises
        ------
        gymnasium.error.ResetNeeded
            If `reset` was never called.
        """
        if not self._batch.was_reset:
            raise ResetNeeded("call reset before get_state")
        state = self._batch.get_state()
        state["state"] = self._records(state["state"])
        return state

    def set_state(self, state: dict[str, npt.NDArray[Any]]) -> None:
        """Continue from a state that `get_state` returned, here or in another environment of the same kind and size.

        Raises
        ------
        ValueError
            If a key is missing or unknown, or an array has the wrong type, shape or range, or in same_step mode, where
            no reset is ever still to come, ``ended`` is set. The state is then unchanged.
        """
        arrays = check_state(state, self.num_envs, self._environment, self.max_episode_steps)
        self._check_ended(arrays["ended"])
        self._batch.set_state(**arrays)

    def close_extras(self, **kwargs: Any) -> None:
        """Let go of the batch; every later use raises gymnasium.error.ClosedEnvironmentError."""
        if self._renderer is not None:
            self._renderer.close()
        self._batch = ClosedBatch()  # type: ignore[assignment]
        self._step = refuse_closed

    def __getstate__(self) -> dict[str, Any]:
        own = ("_batch", "_step", "_renderer")
        attributes = {name: value for name, value in self.__dict__.items() if name not in own}
        started = not self.closed and self._batch.was_reset
        # In same_step mode the last observations of ended episodes are in no state.
        final = self.final_observations.copy() if started and self.autoreset_mode is AutoresetMode.SAME_STEP else None
        return {"attributes": attributes, "state": self.get_state() if started else None, "final_observations": final}

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        self.__dict__.update(pickled["attributes"])
        if self.closed:
            self.close_extras()
            return
        last_actions = self._last_actions
        self._start()
        self._last_actions = last_actions
        if pickled["state"] is not None:
            limits = self.num_envs, self._environment, self.max_episode_steps
            self._batch.set_state(**check_state(pickled["state"], *limits, finite=False))
        if pickled["final_observations"] is not None:
            self.final_observations[:] = pickled["final_observations"]
