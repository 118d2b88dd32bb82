"""The checkers of metafast and of gymnasium on users' environments."""

import gymnasium
import numpy as np
import pytest
from envs.compiled.worlds import WORLDS, Maze
from gymnasium.spaces import Discrete
from gymnasium.utils.env_checker import check_env

from metafast.envs import NativeEnv, check_vector_env, compile_env


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.__name__)
def test_the_vector_checker_finds_nothing(world, mode):
    env = world.make_vec(3, autoreset_mode=mode, max_episode_steps=20)
    report = check_vector_env(env, max_episode_steps=20, num_steps=60)
    assert report.findings == []


def test_the_vector_checker_finds_nothing_in_debug_mode():
    env = Maze.make_vec(3, max_episode_steps=20, debug=True)
    report = check_vector_env(env, max_episode_steps=20, num_steps=30)
    assert report.findings == []


# Gymnasium's remarks on infinite bounds and on spaces that are not normalised.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.__name__)
def test_gymnasiums_checker_takes_a_single_one(world):
    env = world.make()
    assert isinstance(env, NativeEnv)
    check_env(env, skip_render_check=True)
    vector_env = world.make_vec(2)
    single, _ = env.reset(seed=5)
    both, _ = vector_env.reset(seed=5)
    np.testing.assert_array_equal(single, both[0])


def test_gymnasiums_make_by_id():
    @compile_env(
        observation_space=Discrete(50), action_space=Discrete(2), state={"x": int}, max_episode_steps=5, id="Stairs-v0"
    )
    class Stairs:
        def reset(state, rng):
            state.x = rng.integers(0, 10)

        def step(state, action, rng):
            state.x += action
            return action, False

        def observe(state, observation):
            observation[0] = state.x

    env = gymnasium.make("metafast/Stairs-v0")
    first, _ = env.reset(seed=0)
    for k in range(5):
        observation, reward, terminated, truncated, _ = env.step(1)
        assert (observation, reward, terminated, truncated) == (first + k + 1, 1.0, False, k == 4)
    assert Stairs.make(max_episode_steps=2).reset(seed=0)[0] == first
