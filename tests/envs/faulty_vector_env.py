"""A small vector environment that is right in every autoreset mode, and can be given one fault at a time."""

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

LIMIT = 12


class Walk(VectorEnv):
    """Walkers on a line: the observation is the position, an episode ends beyond 2 or after LIMIT steps."""

    def __init__(self, mode="NextStep", *, fault="", continuous=False, num_envs=4):
        self.fault = fault
        self.num_envs = num_envs
        self.mode = AutoresetMode(mode)
        self.metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4, "autoreset_mode": self.mode}
        self.render_mode = "rgb_array"
        self.spec = EnvSpec("Walk-v0", max_episode_steps=LIMIT)
        self.single_observation_space = spaces.Box(-4, 4, (2,), np.float32)
        self.single_action_space = spaces.Box(-1, 1, (1,), np.float32) if continuous else spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.generators = None
        self.buffer = np.zeros((num_envs, 2), np.float32)
        if fault == "unbatched space":
            self.observation_space = self.single_observation_space
        if fault == "no mode":
            del self.metadata["autoreset_mode"]
        if fault == "render mode":
            self.render_mode = "ansi"

    def reset(self, *, seed=None, options=None):
        if self.closed and self.fault != "usable when closed":
            raise ClosedEnvironmentError("closed")
        seeds = [None] * self.num_envs if seed is None else seed
        if isinstance(seeds, int):
            if seeds < 0 and self.fault != "accepts any seed":
                raise ValueError("negative seed")
            offset = 0 if self.fault == "one seed for all" else 1
            seeds = [abs(seed) + offset * index for index in range(self.num_envs)]
        elif seed is not None and self.fault == "no list of seeds":
            raise TypeError("seed must be an int")
        if self.fault == "accepts any seed":
            seeds = (list(seeds) + [0] * self.num_envs)[: self.num_envs]
        if len(seeds) != self.num_envs:
            raise ValueError("one seed for each environment")
        if self.fault == "ignores the seed" and seed is not None:
            seeds = np.random.SeedSequence().generate_state(self.num_envs)
        if self.fault == "one seed always" and seed is not None:
            seeds = [5 + index for index in range(self.num_envs)]
        mask = np.ones(self.num_envs, bool)
        if options and "reset_mask" in options and self.fault != "ignores the mask":
            mask = options["reset_mask"]
            if self.fault == "accepts any mask":
                mask = np.resize(mask, self.num_envs).astype(bool)
            elif mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
                raise ValueError("bad mask")
        if self.generators is None:
            self.generators = [np.random.default_rng(value) for value in seeds]
            self.positions = np.zeros((self.num_envs, 2))
            self.elapsed = np.zeros(self.num_envs, int)
            self.ended = np.zeros(self.num_envs, bool)
            self.seeds = seeds
        for index in np.flatnonzero(mask):
            if seeds[index] is not None:
                self.generators[index] = np.random.default_rng(seeds[index])
                self.seeds[index] = seeds[index]
            elif self.fault == "every episode alike":
                self.generators[index] = np.random.default_rng(self.seeds[index])
        self.begin(mask)
        observations = self.observe()
        if self.fault == "dtype of observations":
            observations = observations.astype(np.float64)
        return observations, {}

    def begin(self, mask):
        for index in np.flatnonzero(mask):
            self.positions[index] = self.generators[index].uniform(-0.5, 0.5, 2)
        self.elapsed[mask] = 0
        self.ended[mask] = False

    def observe(self):
        if self.fault == "returns its state":
            return self.single if hasattr(self, "single") else self._own()
        if self.fault == "overwrites observations":
            self.buffer[:] = self.positions
            return self.buffer
        observations = self.positions.astype(np.float32)
        return observations + 100 if self.fault == "outside the space" else observations

    def _own(self):
        self.positions = self.positions.astype(np.float32)
        return self.positions.view()

    def take(self, actions):
        """Return the actions as floats [N], or raise."""
        shape = (self.num_envs, *self.single_action_space.shape)
        if self.fault == "crashes on few actions" and len(actions) < self.num_envs:
            import os

            os.abort()
        if self.fault == "hangs on many actions" and len(actions) > self.num_envs:
            import time

            time.sleep(60)
        if self.fault == "takes the first actions" and np.shape(actions)[:1] > shape[:1]:
            actions = actions[: self.num_envs]
        array = np.asarray(actions)
        if self.fault == "broadcasts actions" and array.ndim == 2:
            array = array[:, :1]
        if self.fault == "takes fractions" and array.dtype.kind == "f" and np.isfinite(array).all():
            array = array.astype(int) % 2
        if array.shape != shape:
            raise ValueError("shape")
        discrete = isinstance(self.single_action_space, spaces.Discrete)
        if array.dtype.kind not in ("iu" if discrete else "f"):
            raise TypeError("dtype")
        if discrete and ((array < 0) | (array > 1)).any() and self.fault != "takes any number":
            if self.fault == "steps before it checks":
                self.positions[0] += 0.1
            raise ValueError("range")
        if not np.isfinite(array).all() and self.fault != "accepts NaN":
            raise ValueError("not finite")
        forces = array.reshape(self.num_envs).astype(float)
        if self.fault == "modifies actions":
            actions[...] = 0
        return np.nan_to_num(forces * 2 - 1 if discrete else forces)

    def step(self, actions):
        if self.closed and self.fault != "usable when closed":
            raise ClosedEnvironmentError("closed")
        if self.generators is None and self.fault != "steps before its reset":
            raise ResetNeeded("reset")
        if self.generators is None:
            self.reset()
        forces = self.take(actions)
        if self.mode is AutoresetMode.DISABLED and self.ended.any() and self.fault != "steps what has ended":
            raise ValueError("ended")
        waiting = self.ended & (self.mode is AutoresetMode.NEXT_STEP)
        moving = ~waiting
        self.positions[moving, 1] = 0.5 * self.positions[moving, 1] + 0.5 * forces[moving]
        self.positions[moving, 0] += self.positions[moving, 1]
        self.elapsed[moving] += 1
        rewards = np.where(moving, 1.0 - 0.1 * forces**2, 0.0).astype(np.float32)
        terminated = moving & (np.abs(self.positions[:, 0]) > 2)
        limited = moving & (self.elapsed >= (LIMIT + 3 if self.fault == "a longer limit" else LIMIT))
        truncated = limited.copy()
        if self.fault == "truncation as termination":
            terminated, truncated = terminated | truncated, truncated & False
        if waiting.any():
            if self.fault == "reward of a reset":
                rewards[waiting] = 1
            self.begin(waiting)
            if self.fault == "steps after a reset":
                self.positions[waiting, 0] += forces[waiting]
        self.ended = terminated | limited
        infos: dict[str, Any] = {}
        ended = self.ended.copy()
        if self.fault == "swallows truncation":
            truncated[:] = False
        if self.mode is AutoresetMode.SAME_STEP and ended.any():
            infos = self.finish(ended)
        observations = self.observe()
        if self.fault == "dtype of observations":
            observations = observations.astype(np.float64)
        if self.fault == "dtype of rewards":
            rewards = rewards.astype(int)
        if self.fault == "dtype of flags":
            terminated = terminated.astype(np.uint8)
        if self.fault == "four results":
            return observations, rewards, terminated, infos
        if self.fault == "infos without masks":
            infos["speed"] = self.positions[:, 1].copy()
        return observations, rewards, terminated, truncated, infos

    def finish(self, ended):
        final = np.full(self.num_envs, None, dtype=object)
        last = self.observe()
        if self.fault == "final_obs of the next episode":
            self.begin(ended)
            last = self.observe()
        for index in np.flatnonzero(ended):
            final[index] = last[index].copy()
        if self.fault != "final_obs of the next episode":
            self.begin(ended)
        infos = {"final_obs": final, "_final_obs": ended, "final_info": {}, "_final_info": ended.copy()}
        if self.fault == "no final_obs":
            del infos["final_obs"], infos["_final_obs"]
        if self.fault == "no final_info":
            del infos["final_info"], infos["_final_info"]
        if self.fault == "mask of final_obs":
            infos["_final_obs"] = np.ones(self.num_envs, bool)
        return infos

    def render(self):
        frame = np.zeros((4, 4, 3), np.float32 if self.fault == "frames of floats" else np.uint8)
        return (frame,) * self.num_envs

    def close(self, **kwargs):
        if self.closed and self.fault == "closes once":
            raise RuntimeError("closed already")
        super().close(**kwargs)

    def __deepcopy__(self, memo):
        import copy

        twin = type(self)(self.mode.value, fault=self.fault, num_envs=self.num_envs)
        keep = {k: v for k, v in self.__dict__.items() if self.fault != "copies without its state" or k != "generators"}
        twin.__dict__.update(copy.deepcopy(keep, memo))
        if self.fault == "copies without its state":
            twin.generators = [np.random.default_rng(9) for _ in range(self.num_envs)]
        return twin
