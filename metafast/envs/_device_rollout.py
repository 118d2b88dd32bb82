"""The rollout on a CUDA device: inference and sampling in torch and the environments' steps, in one CUDA graph."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from gymnasium.error import ResetNeeded
from torch import Tensor

from metafast import _device
from metafast._graph_capture import Recorded, Recordings, check_not_capturing
from metafast.envs._batched_env import UNLIMITED
from metafast.envs._device_batch import DeviceBatch, DeviceKernels
from metafast.envs._device_vector_env import DeviceVectorEnv

__all__ = ["rollout_on_device"]

# What is recorded keeps no environment alive, and goes with it.
_LOOPS: weakref.WeakKeyDictionary[DeviceVectorEnv, Recordings[_Loop]] = weakref.WeakKeyDictionary()


def rollout_on_device(
    env: Any, policy: Any, num_steps: int, hidden: Any, generator: Any, deterministic: bool
) -> dict[str, Tensor | None]:
    """The fields of a `Rollout`; the arguments are those of `rollout`, checked but for `hidden`."""
    check_not_capturing("rollout")
    batch = env._batch
    num_envs: int = batch.num_envs  # which a closed environment refuses
    if not env._was_reset:
        raise ResetNeeded("call reset before rollout")
    for tensor in [*policy.parameters(), *policy.buffers()]:
        if not _device.is_on_device(tensor) or tensor.device != env.device:
            raise TypeError(f"env is on {env.device}, but policy is on {tensor.device}: move it with policy.to")
    env._raise_fault()
    key = (id(batch), num_steps, deterministic, policy.recording_key())
    loops = _LOOPS.setdefault(env, Recordings())
    loop = loops.find(
        key, lambda: _Loop(batch, env._kernels, env.single_observation_space, policy, num_steps, deterministic)
    )
    if loop.initial_hidden is not None:
        loop.initial_hidden.copy_(_check_hidden(hidden, loop.initial_hidden))
    elif hidden is not None:
        raise ValueError("hidden must be None: the policy has no GRU")
    randomness = policy.draw_key(generator)
    if not deterministic:
        loop.noise.copy_(policy.distribution.noise(randomness, num_steps, num_envs, env.device))
    loop.run()
    if env._final is not None:
        env._final.copy_(loop.columns["final_observations"][-1])
    # The next call writes where this one wrote.
    return {name: None if column is None else column.clone() for name, column in loop.fields().items()}


def _check_hidden(hidden: Any, like: Tensor) -> Tensor:
    if hidden is None:
        return torch.zeros_like(like)
    if not _device.is_on_device(hidden) or hidden.device != like.device:
        where = hidden.device if isinstance(hidden, Tensor) else f"a {type(hidden).__name__}"
        raise TypeError(f"hidden must be a tensor on {like.device}, where env is, not {where}")
    if hidden.shape != like.shape:
        raise ValueError(f"hidden must have shape {tuple(like.shape)}, not {tuple(hidden.shape)}")
    return hidden  # type: ignore[no-any-return]


class _Loop:
    """`num_steps` steps of a batch by a policy, on fixed tensors: `noise` and `initial_hidden` are filled before."""

    def __init__(
        self,
        batch: DeviceBatch,
        kernels: DeviceKernels,
        space: Any,
        policy: Any,
        num_steps: int,
        deterministic: bool,
    ) -> None:
        self._batch, self._kernels, self._policy = batch, kernels, policy
        self._parts = policy.parts()  # whose identities are in the key
        self._num_steps, self._deterministic = num_steps, deterministic
        num_envs = batch.num_envs
        steps, shape, dtype = (num_steps, num_envs), space.shape or (), policy.dtype
        distribution = policy.distribution
        observed = getattr(torch, space.dtype.name)

        def empty(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return _device.empty(f"the rollout's {name}", shape, batch.state, dtype)  # type: ignore[no-any-return]

        whole = distribution.action_dtype == torch.int64
        self.columns: dict[str, Tensor] = {
            "observations": empty("observations", (num_steps + 1, num_envs, *shape), observed),
            "actions": empty("actions", (*steps, *distribution.action_shape), torch.int64 if whole else dtype),
            "log_probs": empty("log_probs", steps, dtype),
            "rewards": empty("rewards", steps, torch.float32),
            "terminated": empty("terminated", steps, torch.bool),
            "truncated": empty("truncated", steps, torch.bool),
            "values": empty("values", (num_steps + 1, num_envs), dtype),
            "final_values": empty("final_values", steps, dtype),
            "final_observations": empty("final_observations", (*steps, *shape), observed),
            "starts": empty("starts", steps, torch.bool),
        }
        self._next_step = batch.autoreset_mode == "next_step"
        # In same_step mode each last observation is looked at, because none knows on the host which episodes were cut.
        self._cuts = not self._next_step and batch.max_episode_steps < UNLIMITED
        if self._next_step:
            self.columns["mask"] = empty("mask", steps, torch.bool)
        self.initial_hidden = self._hidden = None
        if policy.recurrent:
            self.initial_hidden = empty("initial_hidden", (num_envs, policy.hidden_size), dtype)
            self._hidden = torch.empty_like(self.initial_hidden)
        components = distribution.noise(0, 0, num_envs).shape[2]
        self.noise = empty("noise", (*steps, components), torch.float32)
        self._recorded = Recorded(batch.device)

    def run(self) -> None:
        """Take the steps, from the state that the environments are in."""
        self._recorded(self._run)

    def fields(self) -> dict[str, Tensor | None]:
        """The fields of a `Rollout`, in the tensors that the next run writes to."""
        columns = {**self.columns, "rewards": self.columns["rewards"].to(self._policy.dtype)}
        return {"mask": None, **columns, "initial_hidden": self.initial_hidden, "hidden": self._hidden}

    @torch.no_grad()
    def _run(self) -> None:
        distribution, c = self._policy.distribution, self.columns
        c["final_observations"].zero_()
        c["final_values"].zero_()
        hidden: Any = self.initial_hidden
        self._kernels.observe(self._batch, c["observations"][0])
        for step in range(self._num_steps):
            self._note_starts(c["starts"][step])
            if self._next_step:
                torch.eq(self._batch.ended, 0, out=c["mask"][step])
            outputs, values, hidden = self._answer(c["observations"][step], hidden, c["starts"][step])
            actions = distribution.mode(outputs)
            if not self._deterministic:
                actions = distribution.sample(outputs, self.noise[step])
            c["actions"][step] = actions
            c["values"][step] = values
            c["log_probs"][step] = distribution.log_prob(outputs, actions)
            self._kernels.step(
                self._batch,
                distribution.to_environment(actions).contiguous(),
                c["observations"][step + 1],
                c["rewards"][step],
                c["terminated"][step],
                c["truncated"][step],
                None if self._next_step else c["final_observations"][step],
            )
            if self._cuts:
                nowhere = torch.zeros_like(c["starts"][step])
                c["final_values"][step] = self._answer(c["final_observations"][step], hidden, nowhere)[1]
        starts = torch.empty_like(c["starts"][0])
        self._note_starts(starts)
        c["values"][-1] = self._answer(c["observations"][-1], hidden, starts)[1]
        if self._hidden is not None:
            self._hidden.copy_(hidden)
        self._finish()

    def _finish(self) -> None:
        c = self.columns
        if self._next_step:
            # What follows the end is the episode's last observation, whose value is there already.
            ended = (c["terminated"] | c["truncated"]).view(*c["starts"].shape, *[1] * (c["observations"].ndim - 2))
            torch.where(ended, c["observations"][1:], c["final_observations"], out=c["final_observations"])
            c["final_values"].copy_(c["values"][1:])
        c["final_values"].masked_fill_(~c["truncated"] | c["terminated"], 0)

    def _note_starts(self, starts: Tensor) -> None:
        torch.logical_and(self._batch.elapsed_steps == 0, self._batch.ended == 0, out=starts)

    def _answer(self, observations: Tensor, hidden: Tensor | None, starts: Tensor) -> tuple[Tensor, Tensor, Any]:
        if hidden is None:
            return *self._policy(observations), None
        outputs, values, hidden = self._policy(observations[None], hidden, starts[None])
        return outputs[0], values[0], hidden
