"""Gymnasium's classic control as its own tests see it: states that matter, actions, and its own next step."""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gymnasium.envs.classic_control import AcrobotEnv, Continuous_MountainCarEnv, MountainCarEnv, PendulumEnv

PI = np.pi


def around(*values):
    """Each value with its two neighbours among the float64 numbers."""
    return [near for x in values for near in (x, np.nextafter(x, np.inf), np.nextafter(x, -np.inf))]


@dataclass(frozen=True)
class Case:
    """An environment: random states lie within `limits`, and every combination of `edges` is a state too."""

    env_id: str
    single: Callable
    limits: tuple[float, ...]
    edges: tuple[list[float], ...]
    actions: list[float]
    action_dtype: type

    def edge_states(self):
        combinations = list(itertools.product(*self.edges, self.actions))
        states = np.array([combination[:-1] for combination in combinations])
        return states, self.as_actions([combination[-1] for combination in combinations])

    def random_states(self, rng, count, scale=1.0):
        limits = scale * np.array(self.limits)
        states = rng.uniform(-limits, limits, (count, len(limits)))
        return states, self.as_actions(rng.choice(self.actions, count))

    def as_actions(self, values):
        actions = np.array(values, dtype=self.action_dtype)
        return actions if self.action_dtype is np.int64 else actions[:, np.newaxis]

    def expected(self, states, actions, **kwargs):
        """Gymnasium's observations, rewards (float64) and terminated, each from one state."""
        single = self.single(**kwargs)
        single.reset(seed=0)
        outcomes = []
        for state, action in zip(states, actions, strict=True):
            # MountainCarContinuous holds what it can as float32, as it does after a step.
            as_single = state.astype(np.float32)
            held_as_single = self.single is Continuous_MountainCarEnv and (as_single == state).all()
            single.state = as_single if held_as_single else state.copy()
            outcomes.append(single.step(action)[:3])
        observations, rewards, terminated = zip(*outcomes, strict=True)
        return np.array(observations), np.array(rewards, dtype=np.float64), np.array(terminated)

    @functools.cached_property
    def edge_steps(self):
        """The edge states, their actions and gymnasium's steps from them."""
        states, actions = self.edge_states()
        return states, actions, self.expected(states, actions)

    def __hash__(self):
        return hash(self.env_id)


SINGLE = np.float64(np.float32(-0.43)), np.float64(np.float32(0.45))

CASES = {
    case.env_id: case
    for case in (
        Case(
            "Pendulum-v1",
            PendulumEnv,
            (40.0, 8.0),
            ([0.0, -0.0, 5e-324, -1e-9, 1.0, 80.5, -700.0, *around(PI, -PI, 3 * PI)], [0.0, 0.7, *around(8.0, -8.0)]),
            [-3.0, -2.0, -0.3, 0.0, 1e-30, 1.3, 2.0, 1e30],
            np.float32,
        ),
        Case(
            "MountainCar-v0",
            MountainCarEnv,
            (1.2, 0.07),
            ([-0.5, *around(-1.2, 0.6, 0.5), 0.47, 0.55], [0.0, -0.0, 0.03, -0.03, *around(0.07, -0.07)]),
            [0, 1, 2],
            np.int64,
        ),
        Case(
            "MountainCarContinuous-v0",
            Continuous_MountainCarEnv,
            (1.2, 0.07),
            (
                [-0.5, *around(-1.2, 0.6, 0.45), 0.42, *SINGLE, float(np.float32(-1.2)), float(np.float32(0.6))],
                [0.0, -0.0, 0.03, -0.03125, *around(0.07, -0.07), float(np.float32(0.07)), -float(np.float32(0.07))],
            ),
            [-3.0, -1.0, -0.3, 0.0, 0.7, 1.0, np.nextafter(np.float32(1), np.float32(2)), 1e3],
            np.float32,
        ),
        Case(
            "Acrobot-v1",
            AcrobotEnv,
            (PI, PI, 4 * PI, 9 * PI),
            ([0.0, 1.0, *around(PI, -PI)], [-0.0, PI, -2.5], [0.0, 4 * PI, -4 * PI], [1.5, 9 * PI, -9 * PI]),
            [0, 1, 2],
            np.int64,
        ),
    )
}
