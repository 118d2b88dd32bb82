"""A user's exception arrives as itself, and every environment is as it was."""

import threading
import traceback

import numpy as np
import pytest
from envs.compiled.worlds import Fragile
from gymnasium.spaces import Box, Discrete

from metafast.envs import compile_env
from metafast.envs.compiled._generator import Generator


def first_count(seed):
    return Generator(seed, 0, 0).integers(0, 10)


# The seeds of Fragile whose first reset raises, and whose does not.
UNLUCKY = [seed for seed in range(300) if first_count(seed) == 7]
LUCKY = [seed for seed in range(300) if first_count(seed) != 7]
MODES = ["next_step", "same_step", "disabled"]


def states_of(env):
    return {key: rows.tobytes() for key, rows in env.get_state().items()}


def started(num_envs, **options):
    env = Fragile.make_vec(num_envs, **options)
    env.reset(seed=[LUCKY[i % len(LUCKY)] for i in range(num_envs)])
    state = env.get_state()
    state["state"]["count"] = np.arange(num_envs) % 2 * 2  # even everywhere
    env.set_state(state)
    return env


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("num_envs", "culprit"), [(1, 0), (7, 3), (700, 0), (700, 299), (700, 699)])
def test_step_raises_the_functions_own_exception(num_envs, culprit, mode, debug):
    env = started(num_envs, autoreset_mode=mode, debug=debug)
    before = states_of(env)
    actions = np.zeros(num_envs, dtype=np.int64)
    actions[culprit] = 2
    with pytest.raises(ValueError, match=r"^odd") as caught:
        env.step(actions)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert (frames[-1].name, frames[-1].line) == ("step", 'raise ValueError("odd")')
    assert caught.value.__notes__ == [f"in environment {culprit} of Fragile; no environment was changed"]
    assert states_of(env) == before
    actions[culprit] = 1
    rewards = env.step(actions)[1]
    np.testing.assert_array_equal(rewards, np.ones(num_envs))
    np.testing.assert_array_equal(env.get_state()["state"]["count"], np.arange(num_envs) % 2 * 2 + 1)


@pytest.mark.parametrize("mode", MODES)
def test_an_index_out_of_range_in_observe(mode):
    env = started(300, autoreset_mode=mode)
    state = env.get_state()
    state["state"]["count"][130] = 41
    env.set_state(state)
    before = states_of(env)
    with pytest.raises(IndexError, match="out of bounds") as caught:
        env.step(np.zeros(300, dtype=np.int64))
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "observe"
    assert states_of(env) == before


def test_reset_raises_and_names_the_seed_that_did_it():
    env = Fragile.make_vec(300)
    seeds = LUCKY[:200] + LUCKY[:100]
    env.reset(seed=seeds)
    before = states_of(env)
    with pytest.raises(RuntimeError, match=r"^seven") as caught:
        env.reset(seed=[*seeds[:123], UNLUCKY[0], *seeds[124:]])
    assert "in environment 123 of" in caught.value.__notes__[0]
    assert states_of(env) == before
    env.step(np.zeros(300, dtype=np.int64))


def test_the_very_first_reset_may_fail():
    env = Fragile.make_vec(3)
    with pytest.raises(RuntimeError, match=r"^seven"):
        env.reset(seed=[LUCKY[0], UNLUCKY[0], LUCKY[1]])
    assert env.reset(seed=LUCKY[:3])[0].shape == (3,)


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_a_reset_within_a_step_raises(mode):
    num_envs = 40
    env = Fragile.make_vec(num_envs, autoreset_mode=mode, max_episode_steps=3)
    env.reset(seed=LUCKY[:num_envs])
    caught = None
    while caught is None:
        before = states_of(env)
        try:
            env.step(np.zeros(num_envs, dtype=np.int64))
        except RuntimeError as error:
            caught = error
    assert str(caught) == "seven"
    assert 0 <= int(caught.__notes__[0].split()[2]) < num_envs
    assert states_of(env) == before


def test_two_threads():
    num_envs = 20_000
    env = started(num_envs, num_threads=2)
    actions = np.zeros(num_envs, dtype=np.int64)
    # The first steps are timed in one thread.
    for _ in range(8):
        env.step(actions)
    before = env.get_state()
    actions[[5, 19_990]] = 2
    for _ in range(20):
        with pytest.raises(ValueError, match=r"^odd"):
            env.step(actions)
        for key, rows in env.get_state().items():
            np.testing.assert_array_equal(rows, before[key])


def test_environments_in_different_threads_do_not_disturb_one_another():
    failures = []

    def work():
        try:
            env = started(50)
            actions = np.zeros(50, dtype=np.int64)
            for _ in range(20):
                actions[10] = 2
                with pytest.raises(ValueError, match="odd"):
                    env.step(actions)
            actions[10] = 0
            env.step(actions)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_code_that_cannot_raise_keeps_no_copy_of_the_state():
    from envs.compiled.worlds import NoughtsAndCrosses, VectorCartPole

    assert not VectorCartPole.environment().undoable
    assert Fragile.environment().undoable
    assert NoughtsAndCrosses.environment().undoable


def test_division_by_zero_is_no_exception():
    @compile_env(observation_space=Box(-np.inf, np.inf, (2,)), action_space=Discrete(2), state={"x": float, "n": int})
    class Divides:
        def reset(state, rng):
            state.x = 0.0
            state.n = 0

        def step(state, action, rng):
            return 1.0 / state.x, False

        def observe(state, observation):
            observation[0] = -1.0 / state.x
            observation[1] = 5 // state.n

    for debug in (False, True):
        env = Divides.make_vec(2, debug=debug)
        np.testing.assert_array_equal(env.reset(seed=0)[0], [[-np.inf, 0]] * 2)
        np.testing.assert_array_equal(env.step(np.zeros(2, dtype=np.int64))[1], [np.inf, np.inf])


@pytest.mark.parametrize("debug", [False, True])
def test_an_action_that_is_ignored_raises_nothing(debug):
    @compile_env(observation_space=Discrete(9), action_space=Discrete(3), state={"x": np.int64, "y": (np.int8, 2)})
    class Picky:
        def reset(state, rng):
            # Nothing is left of the last episode.
            state.x += 5
            state.y[1] += state.y[0]

        def step(state, action, rng):
            state.x = 7
            state.y[0] = 3
            if action == 0:
                raise ValueError("zero")
            return 1.0, action == 1

        def observe(state, observation):
            observation[0] = state.x + state.y[1]

    env = Picky.make_vec(3, debug=debug)
    env.reset(seed=0)
    for _ in range(10):
        assert env.step(np.array([2, 1, 1]))[2].tolist() == [False, True, True]
        observations, rewards, terminated, *_ = env.step(np.array([2, 0, 1]))
        assert observations.tolist() == [7, 5, 5]
        assert rewards.tolist() == [1.0, 0.0, 0.0]
        assert not terminated.any()
    env.step(np.array([2, 1, 1]))
    with pytest.raises(ValueError, match=r"^zero") as caught:
        env.step(np.array([0, 0, 0]))
    assert "in environment 0 of" in caught.value.__notes__[0]


@pytest.mark.parametrize("debug", [False, True])
def test_of_several_that_fail_the_first_is_told(debug):
    for _ in range(5):
        env = started(1500, num_threads=2, debug=debug)
        actions = np.zeros(1500, dtype=np.int64)
        actions[[5, 300, 700, 1400]] = 2
        with pytest.raises(ValueError, match=r"^odd") as caught:
            env.step(actions)
        assert caught.value.__notes__ == ["in environment 5 of Fragile; no environment was changed"]


def test_an_interrupt_is_not_lost_behind_another_failure():
    @compile_env(observation_space=Discrete(9), action_space=Discrete(3), state={"x": np.int64})
    class World:
        def reset(state, rng):
            state.x = 0

        def step(state, action, rng):
            if action == 1:
                raise KeyboardInterrupt
            if action == 2:
                raise ValueError("later")
            return 0.0, False

        def observe(state, observation):
            observation[0] = state.x

    env = World.make_vec(600, debug=True)
    env.reset(seed=0)
    actions = np.zeros(600, dtype=np.int64)
    actions[[0, 300]] = 1, 2
    with pytest.raises(KeyboardInterrupt):
        env.step(actions)


@pytest.mark.parametrize("debug", [False, True])
def test_division_by_a_random_zero_is_infinity(debug):
    @compile_env(observation_space=Discrete(9), action_space=Discrete(3), state={"x": np.int64})
    class World:
        def reset(state, rng):
            state.x = 0

        def step(state, action, rng):
            quotient = 1.0 / rng.integers(0, 1)
            if quotient > 1e300 and action == 1:
                raise ValueError("the real error")
            return quotient, False

        def observe(state, observation):
            observation[0] = state.x

    env = World.make_vec(1, debug=debug)
    env.reset(seed=0)
    assert env.step(np.array([0]))[1][0] == np.inf
    with pytest.raises(ValueError, match="the real error"):
        env.step(np.array([1]))
