"""Elements of arrays: their numbers, and the bounds and types that guard them."""

import numba
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from metafast.envs import compile_env

NARROW = (np.int8, np.int16, np.int32, np.uint8, np.uint16, np.uint32)


def world(step, state, observe=None, action_space=None, size=3):
    def reset(state, rng):
        pass

    def nothing(state, observation):
        pass

    space = Box(-np.inf, np.inf, (size,), np.float64)
    functions = {"reset": reset, "step": step, "observe": observe or nothing}
    declared = {"observation_space": space, "action_space": action_space or Discrete(2000), "state": state}
    return compile_env(**declared)(type("World", (), functions))


def difference(a, b):
    return a[0] - b[1]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("dtype", NARROW, ids=lambda dtype: dtype.__name__)
def test_narrow_integers_are_read_as_int64(dtype, debug):
    """One less two is minus one, in a field, an action, a helper and a loop."""

    def step(state, action, rng):
        state.a[0] = 1
        state.a[1] = 2
        state.grid[1, 0] = 100
        total = 0
        for number in state.a:
            total = total - number
        first = state.a[0] - state.a[1]
        by_product = state.grid[1, 0] * state.grid[1, 0]
        state.seen[0] = first
        state.seen[1] = difference(state.a, state.a) + difference(action, action)
        state.seen[2] = by_product + total
        return -abs(state.a[0] - action[1]), state.grid[1][0] - state.a[1] < 0

    def observe(state, observation):
        observation[:] = state.seen

    limits = np.iinfo(dtype)
    actions = Box(limits.min, limits.max, (2,), dtype)
    fields = {"a": (dtype, (2,)), "grid": (dtype, (2, 2)), "seen": (np.float64, 3)}
    env = world(step, fields, observe, actions).make_vec(2, debug=debug)
    env.reset(seed=0)
    observations, rewards, terminated, *_ = env.step(np.array([[1, 2], [3, 5]], dtype=dtype))
    np.testing.assert_array_equal(observations, [[-1, -2, 9997], [-1, -3, 9997]])
    np.testing.assert_array_equal(rewards, [-1, -4])
    assert not terminated.any()


@pytest.mark.parametrize("debug", [False, True])
def test_float32_elements_are_read_as_float64(debug):
    def step(state, action, rng):
        state.f[0] = 0.1
        return 0.0, False

    def observe(state, observation):
        observation[0] = state.f[0] * state.f[0] * 1e8

    env = world(step, {"f": (np.float32, 2)}, observe).make_vec(1, debug=debug)
    env.reset(seed=0)
    tenth = np.float64(np.float32(0.1))
    assert env.step(np.zeros(1, np.int64))[0][0, 0] == tenth * tenth * 1e8


@pytest.mark.parametrize("debug", [False, True])
def test_what_is_stored_in_an_element_wraps_round(debug):
    def step(state, action, rng):
        state.a[0] = action
        state.a[1] = -1
        return 0.0, False

    def observe(state, observation):
        observation[0] = state.a[0]
        observation[1] = state.a[1]

    env = world(step, {"a": (np.uint8, 2)}, observe).make_vec(1, debug=debug)
    env.reset(seed=0)
    np.testing.assert_array_equal(env.step(np.array([300]))[0], [[44, 255, 0]])


@pytest.mark.parametrize("debug", [False, True])
def test_observations_that_are_not_filled_are_zero(debug):
    def observe(state, observation):
        observation[1] = 7

    env = world(lambda state, action, rng: (0.0, False), {"x": np.int64}, observe).make_vec(300, debug=debug)
    for observations in (env.reset(seed=0)[0], env.step(np.zeros(300, np.int64))[0]):
        np.testing.assert_array_equal(observations, np.tile([0.0, 7.0, 0.0], (300, 1)))
        observations[:] = 5  # in memory that the next call may be given


@pytest.mark.parametrize("debug", [False, True])
def test_observe_does_not_change_the_state(debug):
    def number(state, observation):
        state.x = 3

    def element(state, observation):
        state.a[0] = 3

    for observe, error in ((number, TypeError), (element, (TypeError, ValueError))):
        made = world(lambda state, action, rng: (0.0, False), {"x": np.int64, "a": (np.int64, 2)}, observe)
        with pytest.raises(error, match=r"observe must not change the state|[Rr]ead-?only"):
            made.make_vec(2, debug=debug).reset(seed=0)


def test_flat_and_imports_are_for_debug_mode():
    def flat(state, action, rng):
        state.a.flat[action] = 1
        return 0.0, False

    def importing(state, action, rng):
        import cmath

        return abs(cmath.sqrt(-1.0)), False

    for step, message in ((flat, r"\.flat has no checks"), (importing, "import cmath inside of a function")):
        made = world(step, {"a": (np.int64, 3)})
        with pytest.raises(TypeError, match=rf"World does not compile.*{step.__name__}.*{message}.*debug mode only"):
            made.make_vec(2)
        env = made.make_vec(2, debug=True)
        env.reset(seed=0)
        env.step(np.array([1, 2]))

    def dice(state, action, rng):
        import random

        return random.random(), False

    with pytest.raises(TypeError, match="random is not reproducible"):
        world(dice, {"x": np.int64})


@numba.njit
def put(array, index):
    array[index] = 99


@numba.njit(boundscheck=True)
def put_checked(array, index):
    array[index] = 99


def test_helpers_that_numba_compiled_check_their_indices():
    def unchecked(state, action, rng):
        put(state.a, action)
        return 0.0, False

    def checked(state, action, rng):
        put_checked(state.a, action)
        return 0.0, False

    with pytest.raises(TypeError, match=r"put without checks of its indices.*boundscheck=True"):
        world(unchecked, {"a": (np.int64, 3)})
    env = world(checked, {"a": (np.int64, 3)}).make_vec(2)
    env.reset(seed=0)
    env.step(np.array([0, 2]))
    with pytest.raises(IndexError):
        env.step(np.array([0, 3]))


def test_an_array_of_another_type_or_order_is_told():
    def turned(state, action, rng):
        state.a = state.a[::-1]
        return 0.0, False

    with pytest.raises(TypeError, match=r"in .*turned:\n.*state.name\[:\] = array"):
        world(turned, {"a": (np.float64, 3)}).make_vec(2)
