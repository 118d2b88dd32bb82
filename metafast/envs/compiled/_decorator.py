"""The decorator that turns a class of three functions into an environment."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import Space

from metafast.envs._catalogue import CATALOGUE
from metafast.envs.compiled._definition import CompiledEnv

__all__ = ["compile_env"]


def compile_env(
    *,
    observation_space: Space[Any],
    action_space: Space[Any],
    state: Mapping[str, Any],
    max_episode_steps: int | None = None,
    id: str | None = None,
    render_fps: int = 30,
) -> Callable[[type], CompiledEnv]:
    """Compile one environment, written in plain Python, into a vector environment that steps at native speed.

    The decorated class holds three functions, which have no ``self``:

    - ``reset(state, rng)`` writes the first state of an episode,
    - ``step(state, action, rng)`` advances the state and returns ``(reward, terminated)``,
    - ``observe(state, observation)`` fills the array `observation`,

    and, if it is to be drawn, a fourth, which is never compiled: ``render(state)`` returns a frame, uint8 [height,
    width, 3] (``make_vec(..., render_mode="rgb_array")``).

    Numba compiles the three when the first vector environment is made, in a second or two; the machine code is kept in
    ``METAFAST_CACHE_DIR`` (by default in the user's cache folder) and found there by the next process.

    What is written in the functions is what Numba calls nopython Python: numbers, tuples, NumPy arrays, loops,
    ``math``, other plain functions. Global variables are compiled in as constants, with the values that they have when
    the first vector environment is made. Code without branches (conditional expressions, ``|`` in place of ``or``,
    `metafast.envs.math` in place of ``math``) steps several environments with one instruction; expressions on whole
    arrays (``state.place += 0.1 * state.speed``) take memory for their result and are many times slower than the same
    written for each element.

    - ``state.<field>`` is a number, read as float64, int64 or bool and stored as its declared type, or an array, whose
      elements are read in the same way. What is too large for an integer field wraps round. Every field is zero when
      ``reset`` is called: nothing passes from one episode to the next.
    - ``action`` is an int in a Discrete space, else an array: int64 for MultiDiscrete, int8 for MultiBinary, its own
      dtype for Box. Actions of a Box are finite, but not clipped to its bounds.
    - ``observation`` has the shape and dtype of the space, and zeros that ``observe`` fills in, which leaves the state
      as it is; one int64 element for Discrete.
    - ``rng.uniform(low=0.0, high=1.0)``, ``rng.normal(mean=0.0, std=1.0)``, ``rng.integers(low, high)`` and
      ``rng.random()`` depend on the environment's seed, its episode and its step alone.

    Division by zero gives infinity or NaN, as in NumPy. An index out of range, or a ``raise``, gives the Python
    exception in the caller, and every environment is as it was before the call. In debug mode
    (``make_vec(..., debug=True)``) the same functions run as plain Python. The numbers are the same, but for what Numba
    and NumPy do otherwise: the element types of expressions on whole arrays of float32 or narrow integers, and ``math``
    functions beyond their domain, which raise in plain Python.

    With ``make_vec(..., device="cuda")`` the same functions become kernels that step the environments on a GPU: PTX,
    which the card's driver translates, so that nothing else need be installed. The numbers are the CPU's to the bit,
    those of `metafast.envs.math` too; but functions of ``math`` and NumPy beyond square roots and rounding are those of
    NVIDIA's libdevice (triton has it, which torch brings, and so has a CUDA toolkit), a few units in the last place
    away. An index out of range, or a ``raise``, leaves that environment as it was, and a later call raises the
    exception (`DeviceVectorEnv` says when), with "?" in the place of values that were not constants. Kernels allocate
    nothing: new arrays, lists and strings in a function are a TypeError when the environment is made.

    Parameters
    ----------
    observation_space, action_space : gymnasium.Space
        Box, Discrete, MultiDiscrete or MultiBinary, of one environment.
    state : dict
        The fields: a name to a number type (bool, int8 to int64, uint8 to uint32, float32, float64), or to a pair of
        one and a shape, ``(numpy.int32, (5, 5))``.
    max_episode_steps : int, optional
        The step at which an episode is truncated; None for no limit.
    id : str, optional
        A name such as ``"Corridor-v0"``, under which `metafast.envs.make_vec` makes it too, and gymnasium's
        ``make_vec`` under ``"metafast/Corridor-v0"``.
    render_fps : int
        Frames a second, in ``metadata``.

    Returns
    -------
    callable
        The decorator. It turns the class into a `CompiledEnv`, whose ``make_vec(num_envs, ...)`` makes the vector
        environment.

    Raises
    ------
    TypeError
        If a function is missing or takes other arguments, uses another source of randomness than `rng`, or reads a
        global variable that cannot be a constant; if a space or a field is of another kind. It names the function and
        the line.
    ValueError
        If the id is taken or malformed, or a number is out of its range.

    Examples
    --------
    A cart that balances a pole, free of branches (Barto, Sutton and Anderson, 1983):

    >>> import numpy as np
    >>> from gymnasium.spaces import Box, Discrete
    >>> from metafast.envs import compile_env
    >>> from metafast.envs.math import cos, sin
    >>> @compile_env(
    ...     observation_space=Box(-np.inf, np.inf, (4,), np.float32),
    ...     action_space=Discrete(2),
    ...     state={"x": np.float64, "v": np.float64, "angle": np.float64, "w": np.float64},
    ...     max_episode_steps=500,
    ... )
    ... class CartPole:
    ...     def reset(state, rng):
    ...         state.x = rng.uniform(-0.05, 0.05)
    ...         state.v = rng.uniform(-0.05, 0.05)
    ...         state.angle = rng.uniform(-0.05, 0.05)
    ...         state.w = rng.uniform(-0.05, 0.05)
    ...
    ...     def step(state, action, rng):
    ...         force = 10.0 if action == 1 else -10.0
    ...         sine, cosine = sin(state.angle), cos(state.angle)
    ...         push = (force + 0.05 * state.w * state.w * sine) / 1.1
    ...         turn = (9.8 * sine - cosine * push) / (0.5 * (4 / 3 - 0.1 * cosine * cosine / 1.1))
    ...         acceleration = push - 0.05 * turn * cosine / 1.1
    ...         state.x += 0.02 * state.v
    ...         state.v += 0.02 * acceleration
    ...         state.angle += 0.02 * state.w
    ...         state.w += 0.02 * turn
    ...         return 1.0, (abs(state.x) > 2.4) | (abs(state.angle) > 0.2095)
    ...
    ...     def observe(state, observation):
    ...         observation[0] = state.x
    ...         observation[1] = state.v
    ...         observation[2] = state.angle
    ...         observation[3] = state.w
    >>> env = CartPole.make_vec(1024, num_threads=2)
    >>> observations, infos = env.reset(seed=1)
    >>> observations, rewards, terminated, truncated, infos = env.step(np.ones(1024, dtype=np.int64))
    >>> float(rewards.sum())
    1024.0

    A grid world whose map is a field of the state: the walls are drawn anew in every episode.

    >>> MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
    >>> @compile_env(
    ...     observation_space=Box(0, 3, (8, 8), np.uint8),
    ...     action_space=Discrete(4),
    ...     state={"walls": (np.uint8, (8, 8)), "row": np.int32, "column": np.int32},
    ...     max_episode_steps=100,
    ...     id="Maze-v0",
    ... )
    ... class Maze:
    ...     '''Find the way from the upper left corner to the lower right one.'''
    ...
    ...     def reset(state, rng):
    ...         for row in range(8):
    ...             for column in range(8):
    ...                 state.walls[row, column] = rng.random() < 0.2
    ...         state.walls[0, 0] = state.walls[7, 7] = 0
    ...         state.row = state.column = 0
    ...
    ...     def step(state, action, rng):
    ...         row = min(max(state.row + MOVES[action, 0], 0), 7)
    ...         column = min(max(state.column + MOVES[action, 1], 0), 7)
    ...         if state.walls[row, column] == 0:
    ...             state.row, state.column = row, column
    ...         found = state.row == 7 and state.column == 7
    ...         return (1.0 if found else -0.01), found
    ...
    ...     def observe(state, observation):
    ...         observation[:] = state.walls
    ...         observation[7, 7] = 3
    ...         observation[state.row, state.column] = 2
    ...
    ...     def render(state):
    ...         frame = np.full((8, 8, 3), 255, np.uint8)
    ...         frame[state.walls == 1] = 0
    ...         frame[state.row, state.column] = (200, 60, 40)
    ...         return frame.repeat(16, axis=0).repeat(16, axis=1)
    >>> from metafast.envs import make_vec
    >>> env = make_vec("Maze-v0", 64, autoreset_mode="same_step", render_mode="rgb_array")
    >>> env.reset(seed=0)[0].shape
    (64, 8, 8)
    >>> env.render()[0].shape
    (128, 128, 3)

    A game against a player who draws at random, with a stake that is bet on each throw of two dice:

    >>> @compile_env(
    ...     observation_space=Discrete(21),
    ...     action_space=Discrete(3, start=1),
    ...     state={"money": np.int64},
    ...     max_episode_steps=200,
    ... )
    ... class Dice:
    ...     def reset(state, rng):
    ...         state.money = 10
    ...
    ...     def step(state, action, rng):
    ...         mine = rng.integers(1, 7) + rng.integers(1, 7)
    ...         theirs = rng.integers(1, 7) + rng.integers(1, 7)
    ...         won = action if mine > theirs else (-action if mine < theirs else 0)
    ...         state.money = min(max(state.money + won, 0), 20)
    ...         return won, state.money == 0 or state.money == 20
    ...
    ...     def observe(state, observation):
    ...         observation[0] = state.money
    >>> env = Dice.make_vec(2, debug=True)
    >>> env.reset(seed=0)[0]
    array([10, 10])
    """
    for name, space in (("observation_space", observation_space), ("action_space", action_space)):
        if not isinstance(space, Space):
            raise TypeError(f"{name} must be a gymnasium space, not {space!r}")
    if max_episode_steps is not None:
        if isinstance(max_episode_steps, bool) or not isinstance(max_episode_steps, (int, np.integer)):
            raise TypeError(f"max_episode_steps must be an int or None, not {max_episode_steps!r}")
        if not 1 <= max_episode_steps <= 2**31 - 2:
            raise ValueError(f"max_episode_steps must be between 1 and {2**31 - 2}, not {max_episode_steps}")
        max_episode_steps = int(max_episode_steps)
    if id is not None:
        _check_id(id)

    def decorate(owner: type) -> CompiledEnv:
        if not isinstance(owner, type):
            raise TypeError(f"compile_env decorates a class, not {owner!r}")
        if id in CATALOGUE and not _is_same(CATALOGUE[id], owner):
            raise ValueError(f"id {id!r} is taken by another environment of metafast")
        definition = CompiledEnv(
            owner,
            observation_space=observation_space,
            action_space=action_space,
            state=state,
            max_episode_steps=max_episode_steps,
            env_id=id,
            render_fps=render_fps,
        )
        if id is not None:
            _register(id, definition)
        return definition

    return decorate


def _check_id(env_id: object) -> None:
    if not isinstance(env_id, str):
        raise TypeError(f"id must be a str, not {env_id!r}")
    if "/" in env_id or ":" in env_id:
        raise ValueError(f"id must be a plain name such as 'Corridor-v0', not {env_id!r}; gymnasium's has metafast/")
    try:
        gymnasium.envs.registration.parse_env_id(f"metafast/{env_id}")
    except gymnasium.error.Error as error:
        raise ValueError(f"id must be a plain name such as 'Corridor-v0', not {env_id!r}") from error


def _is_same(builder: Any, owner: type) -> bool:
    """Whether a class is defined once more, as a notebook's cell that is run again does."""
    definition = getattr(builder, "__self__", None)
    return isinstance(definition, CompiledEnv) and (definition.__module__, definition.__qualname__) == (
        owner.__module__,
        owner.__qualname__,
    )


def _register(env_id: str, definition: CompiledEnv) -> None:
    CATALOGUE[env_id] = definition.environment
    gymnasium.registry.pop(f"metafast/{env_id}", None)
    gymnasium.register(
        f"metafast/{env_id}",
        entry_point="metafast.envs._single_env:make_without_limit",
        vector_entry_point="metafast.envs:make_vec",
        max_episode_steps=definition.max_episode_steps,
        kwargs={"env_id": env_id},
    )
