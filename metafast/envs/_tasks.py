"""The task distributions for meta-learning that the docstring of `metafast.envs` describes."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from metafast.envs._arguments import check_flag, check_number, check_whole_number
from metafast.envs._environment import Environment

__all__ = ["BUILDERS"]

_MANY_STEPS = 2**31 - 2
# A row of TabularMDP's tables is a whole number of cache lines.
_LINE_FLOATS = 16
_PREVIOUS_STEP = [("previous_action", np.int32), ("previous_reward", np.float32)]


def _integers(*values: int) -> bytes:
    return np.array(values, dtype=np.int64).tobytes()


def _observation_space(low: float, high: float, base_size: int, meta_size: int, reward_limit: float) -> spaces.Box:
    """A base in [low, high]; where meta_size is not 0, an action of that size, a reward and a flag behind it."""
    if meta_size == 0:
        return spaces.Box(low, high, (base_size,), np.float32)
    lowest = [low] * base_size + [0.0] * meta_size + [-reward_limit, 0.0]
    highest = [high] * base_size + [1.0] * meta_size + [reward_limit, 1.0]
    return spaces.Box(np.array(lowest, np.float32), np.array(highest, np.float32), dtype=np.float32)


def _check_range(state: npt.NDArray[Any], name: str, low: float, high: float) -> None:
    values = state[name]
    if not ((values >= low) & (values <= high)).all():
        raise ValueError(f"state['state'][{name!r}] must lie in [{low}, {high}]")


def _check_previous_step(state: npt.NDArray[Any], num_actions: int) -> None:
    if "previous_action" in (state.dtype.names or ()):
        _check_range(state, "previous_action", -1, num_actions - 1)
        if not np.isfinite(state["previous_reward"]).all():
            raise ValueError("state['state']['previous_reward'] must be finite")


def _check_bandit_state(arms: int, state: npt.NDArray[Any]) -> None:
    _check_range(state, "probabilities", 0, 1)
    _check_previous_step(state, arms)


def _bandit(*, arms: Any = 10, pulls: Any = 100, meta_observation: Any = False) -> Environment:
    """State: the arms' chances, the random words of four pulls."""
    arms = check_whole_number("arms", arms, 1, 100_000)
    pulls = check_whole_number("pulls", pulls, 1, _MANY_STEPS)
    meta = check_flag("meta_observation", meta_observation)
    fields = [
        ("probabilities", np.float32, (arms,)),
        *((f"random_word_{k}", np.uint32) for k in range(4)),
        *(_PREVIOUS_STEP if meta else []),
    ]
    return Environment(
        env_id="Bandit-v0",
        phases="bandit",
        parameters=_integers(arms, pulls, meta),
        state=np.dtype(fields),
        single_observation_space=_observation_space(0, 1, 1, arms if meta else 0, 1),
        single_action_space=spaces.Discrete(arms),
        render_fps=1,
        max_episode_steps=None,
        check_state=functools.partial(_check_bandit_state, arms),
    )


def _check_tabular_state(states: int, actions: int, horizon: int, state: npt.NDArray[Any]) -> None:
    _check_range(state, "observed_state", 0, states - 1)
    _check_range(state, "inner_step", 0, horizon - 1)
    _check_previous_step(state, actions)
    if not np.isfinite(state["tables"]).all():
        raise ValueError("state['state']['tables'] must be finite")


def _tabular_mdp(
    *, states: Any = 10, actions: Any = 5, horizon: Any = 10, episodes: Any = 10, meta_observation: Any = False
) -> Environment:
    """State: tables, the state that is observed, the step of the inner episode.

    Row ``s * actions + a`` of a table holds ``states - 1`` numbers that cut [0, 1) into the probabilities of the next
    states, in no order; then 2s; last the mean reward.
    """
    states = check_whole_number("states", states, 1, 256)
    actions = check_whole_number("actions", actions, 1, 256)
    horizon = check_whole_number("horizon", horizon, 1, _MANY_STEPS)
    episodes = check_whole_number("episodes", episodes, 1, _MANY_STEPS)
    if horizon * episodes > _MANY_STEPS:
        raise ValueError(f"horizon * episodes must be at most {_MANY_STEPS}, not {horizon * episodes}")
    meta = check_flag("meta_observation", meta_observation)
    row_size = -(-(states + 1) // _LINE_FLOATS) * _LINE_FLOATS
    fields = [
        ("tables", np.float32, (states * actions, row_size)),
        ("observed_state", np.int32),
        ("inner_step", np.int32),
        *(_PREVIOUS_STEP if meta else []),
    ]
    return Environment(
        env_id="TabularMDP-v0",
        phases="tabular_mdp",
        parameters=_integers(states, actions, horizon, episodes, meta),
        state=np.dtype(fields),
        single_observation_space=_observation_space(0, 1, states, actions if meta else 0, math.inf),
        single_action_space=spaces.Discrete(actions),
        render_fps=1,
        max_episode_steps=None,
        check_state=functools.partial(_check_tabular_state, states, actions, horizon),
    )


def _physics_tasks(
    name: str,
    ranges: dict[str, Any],
    base_size: int,
    base_space: spaces.Box,
    action_size: int,
    action_space: spaces.Space[Any],
    limits: tuple[Any, Any, Any],
    render_fps: int,
) -> Environment:
    """The environment ``<name>Tasks-v0``; `limits` are inner_steps, episodes and meta_observation, unchecked.

    State: the physical state, the quantities of `ranges`, the steps of the inner episode, the inner episodes that are
    over; with the meta-observation also the previous action (-1 before the first, where it is discrete), reward, done.
    """
    inner_steps = check_whole_number("inner_steps", limits[0], 1, _MANY_STEPS)
    episodes = check_whole_number("episodes", limits[1], 1, _MANY_STEPS)
    meta = check_flag("meta_observation", limits[2])
    lowest, highest = zip(*ranges.values(), strict=True)
    if meta:
        action_low, action_high = ([0.0] * 2, [1.0] * 2) if action_size == 2 else ([-highest[-1]], [highest[-1]])
        base_space = spaces.Box(
            np.array([*base_space.low, *action_low, -math.inf, 0.0], np.float32),
            np.array([*base_space.high, *action_high, math.inf, 1.0], np.float32),
            dtype=np.float32,
        )
    return Environment(
        env_id=f"{name}Tasks-v0",
        phases=f"{name.lower()}_tasks{'_meta' if meta else ''}",
        parameters=np.array([*lowest, *highest, inner_steps, episodes], dtype=np.float64).tobytes(),
        state=np.dtype((np.float64, (base_size + len(ranges) + 2 + 3 * meta,))),
        single_observation_space=base_space,
        single_action_space=action_space,
        render_fps=render_fps,
        max_episode_steps=None,
    )


def _cartpole_tasks(
    *,
    episodes: Any = 1,
    inner_steps: Any = 500,
    gravity: Any = (7.0, 13.0),
    cart_mass: Any = (0.5, 2.0),
    pole_mass: Any = (0.05, 0.2),
    pole_half_length: Any = (0.25, 1.0),
    force: Any = (5.0, 15.0),
    meta_observation: Any = False,
) -> Environment:
    """State: cart position and velocity, pole angle and angular velocity, then what `_physics_tasks` adds."""
    ranges = {
        "gravity": _check_interval("gravity", gravity, 0, 1e3),
        "cart_mass": _check_interval("cart_mass", cart_mass, 1e-3, 1e3),
        "pole_mass": _check_interval("pole_mass", pole_mass, 1e-3, 1e3),
        "pole_half_length": _check_interval("pole_half_length", pole_half_length, 1e-3, 1e3),
        "force": _check_interval("force", force, 0, 1e3),
    }
    space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    limits = inner_steps, episodes, meta_observation
    return _physics_tasks("CartPole", ranges, 4, space, 2, spaces.Discrete(2), limits, render_fps=50)


def _pendulum_tasks(
    *,
    episodes: Any = 1,
    inner_steps: Any = 200,
    gravity: Any = (7.0, 13.0),
    mass: Any = (0.7, 1.3),
    length: Any = (0.7, 1.3),
    max_torque: Any = (1.5, 2.5),
    meta_observation: Any = False,
) -> Environment:
    """State: angle and angular velocity, then what `_physics_tasks` adds."""
    ranges = {
        "gravity": _check_interval("gravity", gravity, 0, 1e3),
        "mass": _check_interval("mass", mass, 1e-3, 1e3),
        "length": _check_interval("length", length, 1e-3, 1e3),
        "max_torque": _check_interval("max_torque", max_torque, 1e-3, 1e3),
    }
    high = np.array([1.0, 1.0, 8.0], dtype=np.float32)
    torque = ranges["max_torque"][1]
    actions = spaces.Box(-torque, torque, (1,), np.float32)
    limits = inner_steps, episodes, meta_observation
    return _physics_tasks("Pendulum", ranges, 2, spaces.Box(-high, high), 1, actions, limits, render_fps=30)


def _learner_tasks(
    *,
    problem: Any = "regression",
    action: Any = "learning_rate",
    features: Any = 5,
    examples: Any = 20,
    steps: Any = 50,
    noise: Any = 0.1,
    ridge: Any = 5e-4,
    feature_scales: Any = (0.5, 2.0),
    split: Any = "train",
) -> Environment:
    """State: features [examples, features], targets, parameters, momentum, gradient, previous gradient, observation."""
    if problem not in ("regression", "classification"):
        raise ValueError(f"problem must be 'regression' or 'classification', not {problem!r}")
    if action not in ("learning_rate", "coefficients"):
        raise ValueError(f"action must be 'learning_rate' or 'coefficients', not {action!r}")
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', not {split!r}")
    features = check_whole_number("features", features, 1, 1000)
    examples = check_whole_number("examples", examples, 1, 10_000)
    steps = check_whole_number("steps", steps, 1, _MANY_STEPS)
    noise = check_number("noise", noise, 0, 100)
    ridge = check_number("ridge", ridge, 0, 100)
    smallest_scale, largest_scale = _check_interval("feature_scales", feature_scales, 1e-3, 1e3)
    integers = np.array(
        [problem == "classification", action == "coefficients", features, examples, steps, 2**31 * (split == "test")],
        dtype=np.int64,
    )
    numbers = np.array([noise, ridge, math.log(smallest_scale), math.log(largest_scale)])
    if action == "learning_rate":
        action_space = spaces.Box(-4, 1, (1,), np.float32)
    else:
        action_space = spaces.Box(-1, 1, (3,), np.float32)
    state_size = (features + 1) * examples + 4 * features + 10
    return Environment(
        env_id="LearnerTasks-v0",
        phases="learner_tasks",
        parameters=integers.tobytes() + numbers.tobytes(),
        state=np.dtype((np.float64, (state_size,))),
        single_observation_space=spaces.Box(-np.inf, np.inf, (10,), np.float32),
        single_action_space=action_space,
        render_fps=1,
        max_episode_steps=None,
    )


def _check_interval(name: str, value: object, lowest: float, highest: float) -> tuple[float, float]:
    """Return the two ends of an interval within [lowest, highest], which may be given as one number."""
    if isinstance(value, (tuple, list, np.ndarray)):
        if len(value) != 2:
            raise ValueError(f"{name} must be a number or a pair (low, high), not {value!r}")
        low, high = (check_number(name, end, lowest, highest) for end in value)
    else:
        low = high = check_number(name, value, lowest, highest)
    if low > high:
        raise ValueError(f"{name} must be a pair (low, high) with low <= high, not {value!r}")
    return low, high


BUILDERS: dict[str, Callable[..., Environment]] = {
    "Bandit-v0": _bandit,
    "TabularMDP-v0": _tabular_mdp,
    "CartPoleTasks-v0": _cartpole_tasks,
    "PendulumTasks-v0": _pendulum_tasks,
    "LearnerTasks-v0": _learner_tasks,
}
