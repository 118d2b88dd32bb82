"""One environment by itself: gymnasium's own checker, its registry and its wrappers."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import metafast
from metafast.envs._catalogue import CATALOGUE

ENV_IDS = sorted(CATALOGUE)
of_every_environment = pytest.mark.parametrize("env_id", ENV_IDS)

# Gymnasium's advice on spaces: those of classic control are gymnasium's own.
spaces_as_they_are = (
    pytest.mark.filterwarnings("ignore:.*A Box observation space m..imum value is -?infinity"),
    pytest.mark.filterwarnings("ignore:.*For Box action spaces, we recommend using a symmetric and normalized space"),
)


def with_marks(function):
    for mark in spaces_as_they_are:
        function = mark(function)
    return function


@with_marks
@of_every_environment
def test_gymnasiums_checker_is_content(env_id):
    check_env(metafast.envs.make(env_id))


@with_marks
@of_every_environment
def test_gymnasiums_checker_is_content_with_what_gymnasium_makes(env_id):
    check_env(gymnasium.make(f"metafast/{env_id}").unwrapped)


@of_every_environment
def test_it_is_environment_0_of_a_batch(env_id):
    env = metafast.envs.make(env_id, max_episode_steps=30)
    batch = metafast.envs.make_vec(env_id, 3, autoreset_mode="disabled", max_episode_steps=30)
    assert data_equivalence(env.reset(seed=4)[0], batch.reset(seed=4)[0][0], exact=True)
    batch.action_space.seed(0)
    ended = 0
    for _ in range(80):
        actions = batch.action_space.sample()
        single, all_of_them = env.step(actions[0]), batch.step(actions)
        assert data_equivalence(single[0], all_of_them[0][0], exact=True)
        assert single[1:4] == tuple(part[0] for part in all_of_them[1:4])
        assert [type(part) for part in single[1:]] == [float, bool, bool, dict]
        over = all_of_them[2] | all_of_them[3]
        if over.any():
            observations = batch.reset(options={"reset_mask": over})[0]
        if over[0]:
            ended += 1
            assert data_equivalence(env.reset()[0], observations[0], exact=True)
    assert ended > 1


@of_every_environment
def test_the_limit_is_counted_once(env_id):
    """Whoever limits the episode, it ends at that step and not at another one."""
    for limit in (5, 700):
        env = gymnasium.make(f"metafast/{env_id}", max_episode_steps=limit)
        assert env.spec.max_episode_steps == limit
        assert env.unwrapped.vector_env.max_episode_steps > 10**9
    assert gymnasium.make(f"metafast/{env_id}", max_episode_steps=-1).reset(seed=0)[1] == {}
    own = metafast.envs.make(env_id, max_episode_steps=3)
    own.reset(seed=0)
    own.action_space.seed(0)
    ends = [own.step(own.action_space.sample())[2:4] for _ in range(3)]
    assert ends[2][1] is True
    assert not any(truncated for _, truncated in ends[:2])


def test_a_longer_limit_than_gymnasiums():
    env = gymnasium.make("metafast/Pendulum-v1", max_episode_steps=300)
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, np.float32))[3] for _ in range(300)]
    assert ends.index(True) == 299


def test_default_limits_are_gymnasiums():
    for env_id in gymnasium.registry:
        if env_id in CATALOGUE:
            limit = gymnasium.spec(env_id).max_episode_steps
            assert metafast.envs.make(env_id).spec.max_episode_steps == limit
            assert gymnasium.make(f"metafast/{env_id}").spec.max_episode_steps == limit


@of_every_environment
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_in_gymnasiums_sync_vector_env(env_id, mode):
    """Many single environments step as one native batch of them."""
    theirs = gymnasium.make_vec(
        f"metafast/{env_id}",
        num_envs=3,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        max_episode_steps=7,
    )
    assert isinstance(theirs, SyncVectorEnv)
    ours = metafast.envs.make_vec(env_id, 3, autoreset_mode=mode, max_episode_steps=7)
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.action_space == theirs.action_space
    assert data_equivalence(ours.reset(seed=2)[0], theirs.reset(seed=2)[0], exact=True)
    ours.action_space.seed(1)
    for _ in range(20):
        actions = ours.action_space.sample()
        mine, other = ours.step(actions), theirs.step(actions)
        for first, second in zip(mine[:4], other[:4], strict=True):
            np.testing.assert_array_equal(first, second)
        assert list(mine[4]) == list(other[4])
        over = mine[2] | mine[3]
        if mode is AutoresetMode.DISABLED and over.any():
            first, second = (env.reset(options={"reset_mask": over.copy()})[0] for env in (ours, theirs))
            np.testing.assert_array_equal(first, second)


def test_in_gymnasiums_async_vector_env():
    env = gymnasium.make_vec("metafast/CartPole-v1", num_envs=2, vectorization_mode="async")
    expected = metafast.envs.make_vec("CartPole-v1", 2).reset(seed=3)[0]
    np.testing.assert_array_equal(env.reset(seed=3)[0], expected)
    env.close()


def test_single_wrappers_apply():
    env = gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make("metafast/CartPole-v1", max_episode_steps=4))
    env = gymnasium.wrappers.NormalizeObservation(gymnasium.wrappers.FrameStackObservation(env, 3))
    assert env.reset(seed=0)[0].shape == (3, 4)
    for _ in range(4):
        info = env.step(0)[4]
    assert info["episode"]["l"] == 4


def test_arguments_reach_the_environment():
    env = gymnasium.make("metafast/CartPole-v1", sutton_barto_reward=True)
    env.reset(seed=0)
    assert env.step(0)[1] == 0.0
    again = gymnasium.make(env.spec)
    again.reset(seed=0)
    assert again.step(0)[1] == 0.0


def test_exact_is_gymnasiums_own():
    ours, theirs = metafast.envs.make("Acrobot-v1", exact=True), gymnasium.make("Acrobot-v1")
    np.testing.assert_array_equal(ours.reset(seed=8)[0], theirs.reset(seed=8)[0])
    for action in (0, 1, 2, 2, 0, 1):
        np.testing.assert_array_equal(ours.step(action)[0], theirs.step(action)[0])


def test_seeds():
    env = metafast.envs.make("CartPole-v1")
    first = env.reset()[0]
    assert env.np_random_seed is not None
    assert not np.array_equal(first, metafast.envs.make("CartPole-v1").reset()[0])
    seeded = env.reset(seed=5)[0]
    assert env.np_random_seed == 5
    following = env.reset()[0]
    assert not np.array_equal(seeded, following)
    np.testing.assert_array_equal(env.reset(seed=5)[0], seeded)
    np.testing.assert_array_equal(env.reset()[0], following)


def test_a_generator_may_be_given():
    observations = []
    for _ in range(2):
        env = metafast.envs.make("CartPole-v1")
        env.reset(seed=1)
        env.np_random = np.random.default_rng(11)
        assert env.np_random_seed == -1
        observations.append(env.reset()[0])
    np.testing.assert_array_equal(*observations)
    assert not np.array_equal(observations[0], env.reset()[0])


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"seed": -1}, ValueError, "seed.*-1"),
        ({"seed": 1.5}, TypeError, "seed"),
        ({"options": {"low": 0.1}}, ValueError, "options must be None or empty"),
    ],
)
def test_bad_resets(keywords, error, message):
    env = metafast.envs.make("CartPole-v1")
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(error, match=message):
        env.reset(**keywords)
    assert data_equivalence(env.get_state(), before, exact=True)


@pytest.mark.parametrize("action", [2, -1, 0.5, None, [0, 1], "left", np.nan])
def test_bad_actions(action):
    env = metafast.envs.make("CartPole-v1")
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises((ValueError, TypeError), match="action"):
        env.step(action)
    assert data_equivalence(env.get_state(), before, exact=True)


@pytest.mark.parametrize("action", [1, np.int64(1), np.int32(1), np.array(1)])
def test_good_actions(action):
    env = metafast.envs.make("CartPole-v1")
    env.reset(seed=0)
    np.testing.assert_array_equal(env.step(action)[0], metafast_step())


def metafast_step():
    env = metafast.envs.make_vec("CartPole-v1", 1)
    env.reset(seed=0)
    return env.step(np.array([1]))[0][0]


def test_order_of_calls():
    env = metafast.envs.make("CartPole-v1", max_episode_steps=1)
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    assert env.step(0)[3]
    with pytest.raises(ResetNeeded, match="over"):
        env.step(0)
    env.reset()
    env.step(0)
    env.close()
    env.close()
    with pytest.raises(ClosedEnvironmentError):
        env.reset()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_go_on_alike(duplicate):
    env = metafast.envs.make("Pendulum-v1")
    env.reset(seed=0)
    env.step(np.ones(1, np.float32))
    other = duplicate(env)
    for _ in range(10):
        assert data_equivalence(env.step(np.ones(1)), other.step(np.ones(1)), exact=True)


def test_state():
    env = metafast.envs.make("CartPole-v1", max_episode_steps=2)
    env.reset(seed=0)
    env.step(0)
    before = env.get_state()
    first = env.step(1)
    env.set_state(before)
    assert data_equivalence(env.step(1), first, exact=True)


@pytest.mark.parametrize("name", ["num_envs", "num_threads", "autoreset_mode", "copy"])
def test_what_only_batches_take(name):
    with pytest.raises(TypeError, match=f"no argument '{name}'"):
        metafast.envs.make("CartPole-v1", **{name: 2})


def test_the_spec_makes_it_again():
    env = metafast.envs.make("Pendulum-v1", g=5.0, max_episode_steps=9)
    again = gymnasium.make(env.spec)
    assert again.spec.max_episode_steps == 9
    env.reset(seed=1)
    again.reset(seed=1)
    np.testing.assert_array_equal(env.step(np.ones(1))[0], again.step(np.ones(1))[0])
    assert gymnasium.spec("metafast/Pendulum-v1").kwargs == {"env_id": "Pendulum-v1"}


@pytest.mark.parametrize("exact", [False, True])
def test_the_stream_goes_on_from_a_state_that_was_set(exact):
    first, second = (metafast.envs.make("CartPole-v1", exact=exact) for _ in range(2))
    first.reset(seed=1)
    second.set_state(first.get_state())
    for _ in range(2):
        np.testing.assert_array_equal(first.reset()[0], second.reset()[0])
