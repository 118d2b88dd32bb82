"""Environments written as users write them."""

import math

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from metafast.envs import compile_env
from metafast.envs import math as vector_math

CART = {"position": np.float64, "velocity": np.float64, "angle": np.float64, "angular_velocity": np.float64}


def cartpole(sin, cos):
    """CartPole-v1 in the operation order of csrc/envs/cartpole.hpp."""

    @compile_env(
        observation_space=Box(-np.inf, np.inf, (4,), np.float32),
        action_space=Discrete(2),
        state=CART,
        max_episode_steps=500,
    )
    class CartPole:
        def reset(state, rng):
            state.position = rng.uniform(-0.05, 0.05)
            state.velocity = rng.uniform(-0.05, 0.05)
            state.angle = rng.uniform(-0.05, 0.05)
            state.angular_velocity = rng.uniform(-0.05, 0.05)

        def step(state, action, rng):
            force = 10.0 if action == 1 else -10.0
            sine, cosine = sin(state.angle), cos(state.angle)
            push = (force + 0.05 * (state.angular_velocity * state.angular_velocity) * sine) / 1.1
            angular_acceleration = (9.8 * sine - cosine * push) / (0.5 * (4.0 / 3.0 - 0.1 * (cosine * cosine) / 1.1))
            acceleration = push - 0.05 * angular_acceleration * cosine / 1.1
            state.position = state.position + 0.02 * state.velocity
            state.velocity = state.velocity + 0.02 * acceleration
            state.angle = state.angle + 0.02 * state.angular_velocity
            state.angular_velocity = state.angular_velocity + 0.02 * angular_acceleration
            limit = 12 * 2 * 3.141592653589793 / 360
            fallen = (abs(state.position) > 2.4) | (abs(state.angle) > limit)
            return 1.0, fallen

        def observe(state, observation):
            observation[0] = state.position
            observation[1] = state.velocity
            observation[2] = state.angle
            observation[3] = state.angular_velocity

    return CartPole


VectorCartPole = cartpole(vector_math.sin, vector_math.cos)
LibraryCartPole = cartpole(math.sin, math.cos)

MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
SIZE = 6


def inside(k):
    return min(max(k, 0), SIZE - 1)


@compile_env(
    observation_space=Box(0, 3, (SIZE, SIZE), np.uint8),
    action_space=Discrete(4),
    state={"walls": (np.uint8, (SIZE, SIZE)), "row": np.int32, "column": np.int32, "bumped": np.bool_},
    max_episode_steps=30,
)
class Maze:
    """A grid world with an integer map."""

    def reset(state, rng):
        for row in range(SIZE):
            for column in range(SIZE):
                state.walls[row, column] = rng.random() < 0.2
        state.walls[0, 0] = state.walls[SIZE - 1, SIZE - 1] = 0
        state.row = state.column = 0
        state.bumped = False

    def step(state, action, rng):
        if rng.random() < 0.1:
            action = rng.integers(0, 4)
        row = inside(state.row + MOVES[action, 0])
        column = inside(state.column + MOVES[action, 1])
        state.bumped = state.walls[row, column] != 0
        if not state.bumped:
            state.row, state.column = row, column
        found = state.row == SIZE - 1 and state.column == SIZE - 1
        return (1.0 if found else -0.5 * state.bumped), found

    def observe(state, observation):
        observation[:] = state.walls
        observation[SIZE - 1, SIZE - 1] = 3
        observation[state.row, state.column] = 2


LINES = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]])


def has_won(board, player):
    for line in range(8):
        if board[LINES[line, 0]] == player and board[LINES[line, 1]] == player and board[LINES[line, 2]] == player:
            return True
    return False


@compile_env(
    observation_space=MultiDiscrete([3] * 9),
    action_space=Discrete(9, start=1),
    state={"board": (np.int8, 9), "moves": np.int64},
)
class NoughtsAndCrosses:
    """A game of two players, the other of whom plays at random. An occupied square loses."""

    def reset(state, rng):
        state.board[:] = 0
        state.moves = 0
        if rng.random() < 0.5:
            state.board[rng.integers(0, 9)] = 2
            state.moves = 1

    def step(state, action, rng):
        square = action - 1
        if state.board[square] != 0:
            return -1.0, True
        state.board[square] = 1
        state.moves += 1
        if has_won(state.board, 1):
            return 1.0, True
        if state.moves == 9:
            return 0.0, True
        skipped = rng.integers(0, 9 - state.moves)
        for k in range(9):
            if state.board[k] == 0:
                if skipped == 0:
                    state.board[k] = 2
                    break
                skipped -= 1
        state.moves += 1
        lost = has_won(state.board, 2)
        return -1.0 if lost else 0.0, lost or state.moves == 9

    def observe(state, observation):
        for k in range(9):
            observation[k] = state.board[k]


@compile_env(
    observation_space=Box(-np.inf, np.inf, (3,), np.float64),
    action_space=Box(-1.0, 1.0, (2,), np.float32),
    state={"place": (np.float64, 2), "heat": np.float32, "count": np.uint8},
    max_episode_steps=25,
)
class NoisyPoint:
    """Continuous actions, random steps, narrow fields that round and wrap round."""

    def reset(state, rng):
        for k in range(2):
            state.place[k] = rng.normal()
        state.heat = rng.normal(1.0, 0.1)
        state.count = rng.integers(200, 256)

    def step(state, action, rng):
        for k in range(2):
            state.place[k] += 0.1 * action[k] + rng.normal(0.0, 0.05)
        state.heat = vector_math.exp(-state.heat) + vector_math.tanh(state.place[0])
        state.count += 1
        distance = math.sqrt(state.place[0] ** 2 + state.place[1] ** 2)
        return -vector_math.log(distance + 1e-3), distance > 3.0

    def observe(state, observation):
        observation[0] = state.place[0]
        observation[1] = state.heat
        observation[2] = state.count


@compile_env(
    observation_space=MultiBinary(4),
    action_space=MultiBinary(4),
    state={"lamps": (np.bool_, 4), "steps": np.int16},
)
class Lamps:
    """Each switch turns its lamp; the episode ends when all are on."""

    def reset(state, rng):
        for k in range(4):
            state.lamps[k] = rng.random() < 0.5
        state.steps = 0

    def step(state, action, rng):
        lit = 0
        for k in range(4):
            state.lamps[k] = state.lamps[k] != (action[k] == 1)
            lit += state.lamps[k]
        state.steps += 1
        return lit, lit == 4

    def observe(state, observation):
        for k in range(4):
            observation[k] = state.lamps[k]


@compile_env(
    observation_space=Discrete(10, start=-5),
    action_space=MultiDiscrete([[2, 3], [4, 5]], start=[[0, -1], [0, 2]]),
    state={"total": np.int64},
    max_episode_steps=7,
)
class Sums:
    """Integer tables for actions."""

    def reset(state, rng):
        state.total = rng.integers(-5, 5)

    def step(state, action, rng):
        state.total = (state.total + action[0, 0] - action[0, 1] * action[1, 0] + action[1, 1] + 5) % 10 - 5
        return state.total, state.total == 0

    def observe(state, observation):
        observation[0] = state.total


@compile_env(
    observation_space=Box(-1000, 1000, (), np.float32),
    action_space=Discrete(3),
    state={"count": np.int64, "table": (np.float64, 3)},
    max_episode_steps=50,
)
class Fragile:
    """Raises ValueError from step where action 2 meets an odd count, IndexError in observe at a count of 40."""

    def reset(state, rng):
        state.count = rng.integers(0, 10)
        if state.count == 7:
            raise RuntimeError("seven")

    def step(state, action, rng):
        state.count += 1
        if action == 2 and state.count % 2 == 1:
            raise ValueError("odd")
        return 1.0, False

    def observe(state, observation):
        observation[()] = state.table[state.count // 14]


WORLDS = [VectorCartPole, LibraryCartPole, Maze, NoughtsAndCrosses, NoisyPoint, Lamps, Sums]


def random_actions(env, num_steps, seed=0):
    """Actions of every kind of space, [T, N, ...]."""
    rng = np.random.default_rng(seed)
    space = env.single_action_space
    shape = (num_steps, env.num_envs, *space.shape)
    if isinstance(space, Discrete):
        return rng.integers(space.start, space.start + space.n, shape)
    if isinstance(space, MultiDiscrete):
        return rng.integers(space.start, space.start + space.nvec, shape)
    if isinstance(space, MultiBinary):
        return rng.integers(0, 2, shape)
    return rng.uniform(-1, 1, shape).astype(space.dtype)
