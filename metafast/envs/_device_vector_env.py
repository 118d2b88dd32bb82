"""Gymnasium's vector-environment interface over a batch on a CUDA device, whose arrays are torch tensors there."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode

from metafast import _device
from metafast.envs._arguments import check_reset_mask, check_seeds, check_state, reset_mask_of
from metafast.envs._batched_env import BatchedVectorEnv, ClosedBatch
from metafast.envs._cuda import NativeDeviceKernels
from metafast.envs._device_batch import FAULT_ACTION, FAULT_ENDED, DeviceBatch, DeviceKernels
from metafast.envs._environment import ActionLayout, Environment

__all__ = ["DeviceVectorEnv"]

# The tensors beside the state, in the types that NumPy and torch both have.
_DTYPES = {"elapsed_steps": np.int32, "ended": np.uint8, "seeds": np.int64, "episodes": np.int64}

Tensor = torch.Tensor
StepOutcome = tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]


class DeviceVectorEnv(BatchedVectorEnv[Tensor, Tensor, Tensor]):
    """N environments stepped on a CUDA device; made by ``metafast.envs.make_vec(..., device="cuda")``.

    Actions, observations, rewards and flags are torch tensors on that device. Kernels are queued on the current torch
    stream, one for a step, and nothing waits for the card, so that ``step`` may be captured into a CUDA graph
    (``copy=False`` then returns the tensors that every replay rewrites).

    From the same seeds and actions, the episodes are those that the CPU's `NativeVectorEnv` steps through, to the bit
    (the kernels round each operation as the CPU does; `compile_env` tells what of a user's environment may differ), and
    states may be exchanged between the two.

    The shape, type and device of actions are checked at once, their values by the kernel. Where one is no action, or
    an ended environment is stepped in disabled mode, that environment stays as it was (its reward is 0, its flags are
    False, its observation is the present state's), and the others are stepped. The next `step`, `reset`, `get_state`,
    `set_state` or `close` that finds the card that far raises ValueError for one such environment of those since the
    last error; `check_faults` waits and raises now. During the capture of a CUDA graph nothing is raised.

    Memory is torch's and follows its rules for streams: environments that one stream has stepped are to be stepped by
    another only once that has waited for the first, and a graph that steps environments must not outlive them.

    Attributes
    ----------
    num_envs : int
        N.
    device : torch.device
        Where the environments are.
    max_episode_steps : int
        The step at which an episode is truncated.
    autoreset_mode : gymnasium.vector.AutoresetMode
        What follows the end of an episode; also in ``metadata["autoreset_mode"]``.
    """

    # Also of an environment whose making failed, which gymnasium closes.
    _batch: DeviceBatch = ClosedBatch()  # type: ignore[assignment]
    _kernels: DeviceKernels = ClosedBatch()  # type: ignore[assignment]
    device = torch.device("cpu")
    _kept: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    _final: Tensor | None = None
    _faults: npt.NDArray[np.int32] = np.zeros(4, np.int32)
    _was_reset = False

    def __init__(
        self,
        environment: Environment,
        num_envs: int,
        *,
        device: torch.device,
        autoreset_mode: AutoresetMode,
        max_episode_steps: int | None,
        copy: bool,
        env_kwargs: dict[str, Any],
    ) -> None:
        super().__init__(
            environment,
            num_envs,
            autoreset_mode=autoreset_mode,
            max_episode_steps=max_episode_steps,
            copy=copy,
            render_mode=None,
            spec_kwargs=env_kwargs | {"device": str(device)},
        )
        self.device = device
        self._start()

    def _start(self) -> None:
        environment = self._environment
        batch = DeviceBatch.empty(environment, self.num_envs, self._core_mode, self.max_episode_steps, self.device)
        make_kernels = environment.device_kernels
        self._kernels = NativeDeviceKernels(environment, batch) if make_kernels is None else make_kernels(batch)
        self._batch = batch
        self._was_reset = False
        self._faults = batch.faults.numpy()
        self._observation_dtype = _torch_dtype(environment.single_observation_space.dtype)
        self._reward_dtype = _torch_dtype(environment.reward_dtype)
        self._kept = None if self.copy else self._fresh()
        self._final = None
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            self._final = self._fresh_observations().zero_()

    def _fresh_observations(self) -> Tensor:
        shape = (self.num_envs, *(self.single_observation_space.shape or ()))
        return _device.empty("observations", shape, self._batch.state, self._observation_dtype)  # type: ignore[no-any-return]

    def _fresh(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        state = self._batch.state
        return (
            self._fresh_observations(),
            _device.empty("rewards", (self.num_envs,), state, self._reward_dtype),
            _device.empty("terminated", (self.num_envs,), state, torch.bool),
            _device.empty("truncated", (self.num_envs,), state, torch.bool),
        )

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Begin a new episode in every environment, or in those of a mask.

        Parameters
        ----------
        seed : int or list of (int or None), optional
            Environment i takes ``seed + i`` or ``seed[i]`` and starts that seed's stream anew. An environment that is
            given none continues its stream; its first seed then comes from the operating system.
        options : dict, optional
            ``{"reset_mask": mask}``: reset only where `mask` [N] is True, a bool tensor on the device, which may hold
            no True at all, or a NumPy array.

        Returns
        -------
        observations : torch.Tensor
            [N, ...], of all environments.
        infos : dict
            Empty.

        Raises
        ------
        ValueError
            If a seed is negative or does not fit 64 bits, their number is not N, the mask has the wrong shape, or an
            earlier step was given what is no action.
        TypeError
            If the seed is not made of ints, or the mask not of bools, or it is on another device.
        gymnasium.error.ResetNeeded
            If there is a mask before the first full reset.
        """
        batch = self._batch
        self._raise_fault()
        mask = self._check_mask(options)
        first = not self._was_reset
        if first and mask is not None and not bool(mask.all()):
            raise ResetNeeded("reset every environment once before options['reset_mask'] leaves some out")
        if seed is not None or first:
            self._take_seeds(seed, mask, first)
        self._kernels.reset(batch, mask)
        self._was_reset = True
        return self._observed(), {}

    def step(self, actions: Any) -> StepOutcome:
        """Take one step in every environment.

        Parameters
        ----------
        actions : torch.Tensor
            [N] of any integer type where the action space is Discrete; contiguous int64 and int32 are read as they are.
            Where it is a Box of floats, [N, ...] of the space's type, to which others are converted. Floats must be
            finite; what lies beyond the bounds, classic control clips.

        Returns
        -------
        observations : torch.Tensor
            [N, ...], the space's dtype.
        rewards : torch.Tensor
            float32 [N].
        terminated, truncated : torch.Tensor
            bool [N].
        infos : dict
            In same_step mode ``final_obs``, a tensor [N, ...] of which the rows that ``_final_obs`` [N] marks hold the
            last observations of the episodes that ended, and an empty ``final_info``. Else empty.

        Raises
        ------
        ValueError
            If `actions` has the wrong shape or type, or an earlier step's had a value that is no action.
        TypeError
            If `actions` is no tensor on the environments' device.
        gymnasium.error.ResetNeeded
            If `reset` was never called.
        gymnasium.error.ClosedEnvironmentError
            If the environment is closed.
        """
        batch = self._batch
        self._raise_fault()
        if not self._was_reset:
            raise ResetNeeded("call reset before step")
        taken = _check_actions(actions, self.num_envs, self._actions, self.device)
        outputs = self._fresh() if self._kept is None else self._kept
        if self._final is not None and self._kept is None:
            self._final = torch.zeros_like(self._final)
        self._kernels.step(batch, taken, *outputs, self._final)
        if self._final is None:
            return (*outputs, {})
        ended = outputs[2] | outputs[3]
        infos = {"final_obs": self._final, "_final_obs": ended, "final_info": {}, "_final_info": ended}
        return (*outputs, infos)

    @property
    def final_observations(self) -> Tensor:
        """Last observations of the episodes that the last step ended, [N, ...].

        Only the rows where ``terminated | truncated`` was True mean anything. In same_step mode this is
        ``infos["final_obs"]``.
        """
        return self._observed() if self._final is None else self._final

    def check_faults(self) -> None:
        """Wait for the card, and raise ValueError if a step was given what is no action and no error has told yet."""
        self._batch.device  # noqa: B018 - raises where the environment is closed
        self._wait()
        self._raise_fault()

    def get_state(self) -> dict[str, npt.NDArray[Any]]:
        """Return all that the next steps depend on, as NumPy arrays: it waits for the card.

        Returns
        -------
        dict
            As `NativeVectorEnv.get_state`, whose `set_state` takes it.

        Raises
        ------
        gymnasium.error.ResetNeeded
            If `reset` was never called.
        """
        batch = self._batch
        self.check_faults()
        if not self._was_reset:
            raise ResetNeeded("call reset before get_state")
        return {
            "state": self._records(batch.state_to_host(self._environment.field_bytes)),
            "elapsed_steps": _to_host(batch.elapsed_steps),
            "ended": _to_host(batch.ended).view(np.bool_),
            "seeds": _to_host(batch.seeds).view(np.uint64),
            "episodes": _to_host(batch.episodes).view(np.uint64),
        }

    def set_state(self, state: dict[str, npt.NDArray[Any]]) -> None:
        """Continue from a state that `get_state` returned, here, on the CPU or in another environment of the same kind.

        Raises
        ------
        ValueError
            If a key is missing or unknown, or an array has the wrong type, shape or range, or in same_step mode, where
            no reset is ever still to come, ``ended`` is set. The state is then unchanged.
        """
        self._raise_fault()
        arrays = check_state(state, self.num_envs, self._environment, self.max_episode_steps)
        self._check_ended(arrays["ended"])
        self._take_state(arrays)

    def close_extras(self, **kwargs: Any) -> None:
        """Wait for the card and let go of the batch; every later use raises gymnasium.error.ClosedEnvironmentError."""
        kernels = self._kernels
        if not _device.is_capturing():
            self._wait()  # a kernel still queued may write to the faults
        self._batch = self._kernels = ClosedBatch()  # type: ignore[assignment]
        self._kept = self._final = None
        self.closed = True
        self._raise_fault(kernels)

    def _observed(self) -> Tensor:
        observations = self._fresh_observations() if self._kept is None else self._kept[0]
        self._kernels.observe(self._batch, observations)
        return observations

    def _check_mask(self, options: dict[str, Any] | None) -> Tensor | None:
        mask = reset_mask_of(options)
        if not isinstance(mask, torch.Tensor):
            mask = check_reset_mask(options, self.num_envs)
            return None if mask is None else torch.from_numpy(mask).to(self.device)
        if not _device.is_on_device(mask) or mask.device != self.device:
            raise TypeError(f"options['reset_mask'] is on {mask.device}, but the environments are on {self.device}")
        if mask.dtype != torch.bool:
            raise TypeError(f"options['reset_mask'] must have dtype bool, not {mask.dtype}")
        if mask.shape != (self.num_envs,):
            raise ValueError(f"options['reset_mask'] must have shape ({self.num_envs},), not {tuple(mask.shape)}")
        return mask.contiguous()

    def _take_seeds(self, seed: Any, mask: Tensor | None, first: bool) -> None:
        """Give seeds, and the episode number 0, to the environments of the mask that `seed` has one for."""
        batch, size = self._batch, self.num_envs
        if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
            check_seeds([int(seed), int(seed) + size - 1], 2)
            lowest = int(seed) - (2**64 if seed >= 2**63 else 0)
            seeds = torch.arange(size, dtype=torch.int64, device=self.device) + lowest  # wraps round as uint64 goes on
            where = mask
        else:
            values, seeded = check_seeds(seed, size)
            if first:
                values[~seeded] = np.random.SeedSequence().generate_state(int((~seeded).sum()), np.uint64)
                seeded[:] = True
            seeds = torch.from_numpy(values.view(np.int64)).to(self.device)
            where = torch.from_numpy(seeded).to(self.device)
            where = where if mask is None else where & mask
        if where is None:
            batch.seeds.copy_(seeds)
            batch.episodes.zero_()
        else:
            batch.seeds.copy_(torch.where(where, seeds, batch.seeds))
            batch.episodes.masked_fill_(where, 0)

    def _take_state(self, arrays: dict[str, Any]) -> None:
        batch = self._batch
        batch.state_from_host(arrays["state"], self._environment.field_bytes)
        for name, dtype in _DTYPES.items():
            getattr(batch, name).copy_(torch.from_numpy(np.array(arrays[name]).view(dtype)))
        self._was_reset = True

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _raise_fault(self, kernels: DeviceKernels | None = None) -> None:
        if not self._faults[0] or _device.is_capturing():
            return
        self._wait()  # what belongs to the kind is written after it
        kind, environment, detail = (int(value) for value in self._faults[:3])
        self._faults[:] = 0
        if kind == FAULT_ACTION:
            raise ValueError(
                f"actions must {_rule(self._actions)}, but that of environment {environment} in an earlier step did "
                "not; it was not stepped, the others were"
            )
        if kind == FAULT_ENDED:
            raise ValueError(
                f"the episode of environment {environment} has ended, and with autoreset_mode='disabled' it must be "
                "reset before the next step: reset(options={'reset_mask': terminated | truncated}); it was not "
                "stepped, the others were"
            )
        raise (kernels or self._kernels).explain_fault(kind, environment, detail)

    def __getstate__(self) -> dict[str, Any]:
        own = ("_batch", "_kernels", "_faults", "_kept", "_final")
        attributes = {name: value for name, value in self.__dict__.items() if name not in own}
        started = not self.closed and self._was_reset
        final = None if not started or self._final is None else _to_host(self._final)
        return {"attributes": attributes, "state": self.get_state() if started else None, "final_observations": final}

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        self.__dict__.update(pickled["attributes"])
        if self.closed:
            return
        self._start()
        if pickled["state"] is not None:
            limits = self.num_envs, self._environment, self.max_episode_steps
            self._take_state(check_state(pickled["state"], *limits, finite=False))
        if pickled["final_observations"] is not None and self._final is not None:
            self._final.copy_(torch.from_numpy(pickled["final_observations"]))


def _torch_dtype(dtype: Any) -> torch.dtype:
    return getattr(torch, np.dtype(dtype).name)  # type: ignore[no-any-return]


def _to_host(tensor: Tensor) -> npt.NDArray[Any]:
    return tensor.to("cpu", copy=True).numpy()


def _rule(layout: ActionLayout) -> str:
    if layout.low is None or layout.high is None:
        return "be finite"
    return "lie within their bounds" if layout.shape else f"lie in [{layout.low[0]}, {layout.high[0]})"


def _check_actions(actions: Any, num_envs: int, layout: ActionLayout, device: torch.device) -> Tensor:
    """Return the actions as kernels take them: int64 or int32 where they are integers, else of the layout's dtype."""
    shape = (num_envs, *layout.shape)
    if not isinstance(actions, torch.Tensor):
        found = type(actions).__name__
        raise TypeError(f"actions must be a torch tensor on {device}, where the environments are, not {found}")
    if not _device.is_on_device(actions) or actions.device != device:
        raise TypeError(f"actions is on {actions.device}, but the environments are on {device}")
    dtype, floats = actions.dtype, layout.low is None
    fits = dtype.is_floating_point == floats and not dtype.is_complex and dtype != torch.bool
    if actions.shape != shape or not fits:
        kind = "finite floats" if floats else "integers"
        raise ValueError(
            f"actions must be {kind} of shape {shape}, but they are of dtype {dtype} and shape {tuple(actions.shape)}"
        )
    if floats:
        actions = actions.to(_torch_dtype(layout.dtype))
    elif dtype not in (torch.int64, torch.int32):
        actions = actions.to(torch.int64)
    contiguous: Tensor = actions.contiguous()
    return contiguous
