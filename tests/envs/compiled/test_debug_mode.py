"""Plain Python and machine code give the same bits."""

import numpy as np
import pytest
from envs.compiled.worlds import WORLDS, random_actions

NUM_ENVS, NUM_STEPS = 5, 60


def assert_same(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        if isinstance(mine, dict):
            assert mine.keys() == other.keys()
            for key in mine:
                if key == "final_obs":
                    for a, b in zip(mine[key], other[key], strict=True):
                        np.testing.assert_array_equal(a, b)
                else:
                    np.testing.assert_array_equal(mine[key], other[key])
        else:
            assert mine.dtype == other.dtype
            np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.__name__)
def test_random_rollouts_are_equal_bit_for_bit(world, mode):
    compiled = world.make_vec(NUM_ENVS, autoreset_mode=mode)
    plain = world.make_vec(NUM_ENVS, autoreset_mode=mode, debug=True)
    assert_same(compiled.reset(seed=3), plain.reset(seed=3))
    num_episodes = 0
    for actions in random_actions(compiled, NUM_STEPS):
        ours, theirs = compiled.step(actions), plain.step(actions)
        assert_same(ours, theirs)
        over = ours[2] | ours[3]
        num_episodes += over.sum()
        if mode == "disabled" and over.any():
            assert_same(*(env.reset(options={"reset_mask": over}) for env in (compiled, plain)))
    assert num_episodes > 0
    for key, rows in compiled.get_state().items():
        np.testing.assert_array_equal(rows, plain.get_state()[key])


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.__name__)
def test_observations_lie_in_their_space(world):
    env = world.make_vec(20, autoreset_mode="same_step")
    observations, _ = env.reset(seed=0)
    for actions in random_actions(env, 30):
        assert env.observation_space.contains(observations)
        assert env.observation_space.dtype == observations.dtype
        observations, rewards, terminated, truncated, _ = env.step(actions)
        assert rewards.dtype == np.float32
        assert terminated.dtype == truncated.dtype == np.bool_
