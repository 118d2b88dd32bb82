"""What gymnasium asks of its own vector environments, asked of every native one: the intent of its test-suite."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import metafast
from metafast.envs._catalogue import CATALOGUE

ENV_IDS = sorted(CATALOGUE)
GYMNASIUMS = [env_id for env_id in ENV_IDS if env_id in gymnasium.registry]
of_every_environment = pytest.mark.parametrize("env_id", ENV_IDS)
SPACES = ("observation_space", "single_observation_space", "action_space", "single_action_space")


def make(env_id, num_envs=3, **options):
    return metafast.envs.make_vec(env_id, num_envs, **options)


def assert_equal_rollouts(first, second, num_steps, seed=0):
    assert first.num_envs == second.num_envs
    for name in SPACES:
        assert getattr(first, name) == getattr(second, name)
    mine, theirs = first.reset(seed=seed), second.reset(seed=seed)
    assert data_equivalence(mine, theirs, exact=True)
    first.action_space.seed(seed)
    for _ in range(num_steps):
        actions = first.action_space.sample()
        assert actions in second.action_space
        mine, theirs = first.step(actions), second.step(actions)
        assert data_equivalence(mine, theirs, exact=True)
        ended = mine[2] | mine[3]
        if first.metadata["autoreset_mode"] is AutoresetMode.DISABLED and ended.any():
            mine, theirs = (env.reset(options={"reset_mask": ended.copy()}) for env in (first, second))
            assert data_equivalence(mine, theirs, exact=True)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("env_id", GYMNASIUMS)
def test_vector_env_equal(env_id, mode):
    """The exact environments and gymnasium's SyncVectorEnv: infos, types and bits."""
    theirs = SyncVectorEnv([lambda: gymnasium.make(env_id, max_episode_steps=30)] * 4, autoreset_mode=mode)
    ours = make(env_id, 4, autoreset_mode=mode, max_episode_steps=30, exact=True)
    assert_equal_rollouts(ours, theirs, 100)


def test_vector_env_equal_to_async():
    theirs = AsyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    assert_equal_rollouts(make("CartPole-v1", 2, autoreset_mode="same_step", exact=True), theirs, 60)
    theirs.close()


@of_every_environment
def test_vector_env_equal_to_another_number_of_threads(env_id):
    first, second = (make(env_id, 600, num_threads=count, max_episode_steps=6) for count in (1, 2))
    assert_equal_rollouts(first, second, 15)


@of_every_environment
def test_observations_and_actions_are_in_their_spaces(env_id):
    env = make(env_id, max_episode_steps=20)
    assert env.reset(seed=1)[0] in env.observation_space
    env.action_space.seed(1)
    for _ in range(60):
        observations = env.step(env.action_space.sample())[0]
        assert observations in env.observation_space
        for observation in observations:
            assert observation in env.single_observation_space


@of_every_environment
def test_final_obs_info(env_id):
    """What next_step mode returns at the end, same_step mode puts into the infos."""
    same, following = (make(env_id, 4, autoreset_mode=mode, max_episode_steps=9) for mode in ("same_step", "next_step"))
    same.reset(seed=3)
    following.reset(seed=3)
    same.action_space.seed(2)
    waiting = np.zeros(4, dtype=bool)
    seen = 0
    # As far as the first end: from there on the two modes are at different steps.
    while not waiting.any():
        actions = same.action_space.sample()
        mine, other = same.step(actions), following.step(actions)
        waiting = other[2] | other[3]
        for index in np.flatnonzero(waiting):
            assert data_equivalence(mine[4]["final_obs"][index], other[0][index], exact=True)
            seen += 1
        np.testing.assert_array_equal(mine[4].get("_final_obs", np.zeros(4, dtype=bool)), waiting)
    begun = following.step(actions)[0]
    for index in np.flatnonzero(waiting):
        assert data_equivalence(mine[0][index], begun[index], exact=True)
    assert seen


@of_every_environment
def test_random_seeding_basics(env_id):
    env = make(env_id, 4)
    env.reset(seed=42)
    assert env.np_random_seed == (42, 43, 44, 45)
    env.reset(seed=None)
    assert env.np_random_seed == (42, 43, 44, 45)
    env.reset(seed=[5, None, 6, None])
    assert env.np_random_seed == (5, 43, 6, 45)


@of_every_environment
def test_random_seeds_differ_where_none_is_given(env_id):
    env = make(env_id, 4)
    env.reset()
    assert len(set(env.np_random_seed)) == 4
    other = make(env_id, 4)
    other.reset()
    assert not set(env.np_random_seed) & set(other.np_random_seed)


@pytest.mark.parametrize("exact", [False, True])
@of_every_environment
def test_partial_reset(env_id, exact):
    if exact and env_id not in GYMNASIUMS:
        with pytest.raises(ValueError, match="exact must be False"):
            make(env_id, exact=True)
        return
    env = make(env_id, autoreset_mode="disabled", exact=exact)
    first = env.reset(seed=[0, 1, 2])[0]
    env.action_space.seed(123)
    for _ in range(3):
        stepped = env.step(env.action_space.sample())[0]
    mask = np.array([True, True, False])
    observations, infos = env.reset(seed=[0, 1, 0], options={"reset_mask": mask})
    np.testing.assert_array_equal(observations[mask], first[mask])
    np.testing.assert_array_equal(observations[~mask], stepped[~mask])
    assert infos == {}
    # A seed outside the mask is not used.
    assert env.np_random_seed == (0, 1, 2)


@of_every_environment
def test_partial_reset_failure(env_id):
    env = make(env_id, autoreset_mode="disabled")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.reset(options={"reset_mask": np.array([True, True, False])})
    env.reset(options={"reset_mask": np.array([True, True, True])})
    before = env.get_state()
    for mask, error in (
        (np.array([True]), ValueError),
        (np.array([True, True, False, False]), ValueError),
        (np.array([[True, True, True]]), ValueError),
        (np.array([1, 1, 0]), TypeError),
        (np.array([1.0, 1.0, 0.0]), TypeError),
        (np.array([False, False, False]), ValueError),
        ([True, True, False], TypeError),
    ):
        with pytest.raises(error, match="reset_mask"):
            env.reset(options={"reset_mask": mask})
    assert data_equivalence(env.get_state(), before, exact=True)


@of_every_environment
def test_action_count_compatibility(env_id):
    """Actions for one environment fewer or more are refused, and nothing is stepped."""
    env = make(env_id, 4)
    env.reset(seed=0)
    before = env.get_state()
    actions = env.action_space.sample()
    for wrong in (actions[:3], np.concatenate([actions, actions[:1]]), actions[:0], actions[0], actions[None]):
        with pytest.raises(ValueError, match="actions"):
            env.step(wrong)
    assert data_equivalence(env.get_state(), before, exact=True)
    env.step(list(actions))


@of_every_environment
def test_no_copy_vector_env(env_id):
    env = make(env_id, copy=False)
    first = env.reset(seed=0)[0]
    assert env.step(env.action_space.sample())[0] is first
    copying = make(env_id)
    assert copying.reset(seed=0)[0] is not copying.step(copying.action_space.sample())[0]


@of_every_environment
def test_get_attr_and_call(env_id):
    env = make(env_id)
    env.reset(seed=1)
    assert env.get_attr("np_random_seed") == (1, 2, 3)
    assert env.call("action_space") == (env.single_action_space,) * 3
    env.set_attr("elapsed_steps", [2, 1, 0])
    assert env.get_attr("elapsed_steps") == (2, 1, 0)


@of_every_environment
def test_close_twice(env_id):
    env = make(env_id)
    env.reset(seed=1)
    env.close()
    assert env.closed
    env.close()
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        env.step(env.action_space.sample())
