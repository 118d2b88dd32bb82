"""``exact=True`` against gymnasium's SyncVectorEnv: the same bits, over whole trajectories and through resets."""

import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

import metafast
from metafast import _core

ENV_IDS = ["Acrobot-v1", "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"]
MODES = list(AutoresetMode)
ALL = pytest.mark.parametrize("env_id", ENV_IDS)


def make_pair(env_id, num_envs, mode=AutoresetMode.NEXT_STEP, max_episode_steps=None, **kwargs):
    """Ours and gymnasium's."""

    def single():
        limit = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
        return gymnasium.make(env_id, disable_env_checker=True, **limit, **kwargs)

    ours = metafast.envs.make_vec(
        env_id, num_envs, exact=True, autoreset_mode=mode, max_episode_steps=max_episode_steps, **kwargs
    )
    return ours, SyncVectorEnv([single] * num_envs, autoreset_mode=mode)


def actions_for(env, rng):
    """A random action for each environment; some of those that a Box bounds lie beyond or on its bounds."""
    if env.single_action_space.shape == ():
        return rng.integers(0, env.single_action_space.n, env.num_envs)
    high = env.single_action_space.high
    actions = rng.uniform(-1.5 * high, 1.5 * high, (env.num_envs, 1)).astype(np.float32)
    on_bound = rng.random(env.num_envs) < 0.2
    actions[on_bound] = rng.choice([-1, 0, 1], (int(on_bound.sum()), 1)) * high
    return actions


def assert_same(ours, theirs):
    """The same types and bits."""
    assert data_equivalence(ours, theirs, exact=True), f"{ours} is not {theirs}"
    for mine, other in zip(ours, theirs, strict=True):
        if isinstance(mine, np.ndarray):
            assert mine.dtype == other.dtype
            assert mine.tobytes() == other.tobytes()


def assert_same_run(ours, theirs, num_steps, rng):
    """Steps both with the same actions, resetting what has ended where they do not reset themselves; returns ends."""
    ends = 0
    for _ in range(num_steps):
        actions = actions_for(ours, rng)
        mine, other = ours.step(actions), theirs.step(actions)
        assert_same(mine[:4], other[:4])
        assert_same_infos(mine[4], other[4])
        over = mine[2] | mine[3]
        ends += int(over.sum())
        if ours.autoreset_mode is AutoresetMode.DISABLED and over.any():
            options = {"reset_mask": over}
            assert_same(ours.reset(options=options), theirs.reset(options=dict(options)))
    return ends


def assert_same_infos(ours, theirs):
    assert ours.keys() == theirs.keys()
    if "final_obs" not in ours:
        return
    np.testing.assert_array_equal(ours["_final_obs"], theirs["_final_obs"])
    for mine, other in zip(ours["final_obs"], theirs["final_obs"], strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            assert mine.tobytes() == other.tobytes()


@ALL
def test_episodes_of_full_length(env_id):
    ours, theirs = make_pair(env_id, 2)
    assert_same(ours.reset(seed=[7, 123_456_789]), theirs.reset(seed=[7, 123_456_789]))
    num_steps = 2 * (ours.max_episode_steps + 1) + 20
    assert assert_same_run(ours, theirs, num_steps, np.random.default_rng(0)) >= 4


@ALL
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_envs", [1, 5, 300])
def test_trajectories_and_resets(env_id, mode, num_envs):
    limit = {1: 40, 5: 25, 300: 8}[num_envs]
    ours, theirs = make_pair(env_id, num_envs, mode, limit)
    assert_same(ours.reset(seed=11), theirs.reset(seed=11))
    ends = assert_same_run(ours, theirs, 2 * limit + 5, np.random.default_rng(num_envs))
    assert ends >= 2 * num_envs


@ALL
def test_every_level_of_instructions(isa, env_id):
    ours, theirs = make_pair(env_id, 3, max_episode_steps=30)
    assert_same(ours.reset(seed=2), theirs.reset(seed=2))
    assert assert_same_run(ours, theirs, 70, np.random.default_rng(1)) >= 6


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("CartPole-v1", {"sutton_barto_reward": True}),
        ("Pendulum-v1", {"g": 9.81}),
        ("MountainCar-v0", {"goal_velocity": 0.01}),
        ("MountainCarContinuous-v0", {"goal_velocity": 0.01}),
    ],
)
def test_arguments(env_id, kwargs):
    ours, theirs = make_pair(env_id, 3, max_episode_steps=150, **kwargs)
    assert_same(ours.reset(seed=5), theirs.reset(seed=5))
    assert_same_run(ours, theirs, 320, np.random.default_rng(2))


@pytest.mark.parametrize("env_id", ["MountainCar-v0", "MountainCarContinuous-v0"])
def test_cars_that_reach_the_goal(env_id):
    """Random actions never do; pushing the way that the car moves does, into the wall and up to the flag."""
    ours, theirs = make_pair(env_id, 4)
    observations, _ = ours.reset(seed=9)
    theirs.reset(seed=9)
    goals = 0
    for _ in range(400):
        forward = observations[:, 1] >= 0
        if env_id == "MountainCar-v0":
            actions = np.where(forward, 2, 0)
        else:
            actions = np.where(forward, 1.2, -0.9).astype(np.float32)[:, np.newaxis]
        mine, other = ours.step(actions), theirs.step(actions)
        assert_same(mine[:4], other[:4])
        observations = mine[0]
        goals += int(mine[2].sum())
    assert goals >= 8


@ALL
def test_seeds_of_every_form(env_id):
    """An int, a list with gaps (whose environments go on with their streams), none, and only where a mask says."""
    ours, theirs = make_pair(env_id, 4, AutoresetMode.DISABLED, max_episode_steps=7)
    mask = np.array([True, False, True, True])
    # Gymnasium takes the mask out of the options that it is given.
    resets = [
        {"seed": 2**40},
        {},
        {"seed": [3, None, 2**64 - 1, None]},
        {"options": mask},
        {"seed": 17, "options": mask},
        {"seed": [None, 1, None, 5], "options": mask},
        {"seed": 0},
    ]
    for arguments in resets:
        each = [{**arguments, **({"options": {"reset_mask": mask}} if "options" in arguments else {})} for _ in "12"]
        assert_same(ours.reset(**each[0]), theirs.reset(**each[1]))
        actions = actions_for(ours, np.random.default_rng(4))
        assert_same(ours.step(actions)[:4], theirs.step(actions)[:4])


@ALL
@given(
    seeds=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4),
    mode=st.sampled_from(MODES),
    limit=st.integers(1, 12),
    action_seed=st.integers(0, 2**32),
)
def test_any_seeds_in_any_mode(env_id, seeds, mode, limit, action_seed):
    ours, theirs = make_pair(env_id, len(seeds), mode, limit)
    assert_same(ours.reset(seed=seeds), theirs.reset(seed=list(seeds)))
    assert_same_run(ours, theirs, 15, np.random.default_rng(action_seed))


@ALL
def test_a_first_reset_without_a_seed_draws_one(env_id):
    envs = [metafast.envs.make_vec(env_id, 3, exact=True) for _ in range(2)]
    first, second = (env.reset()[0] for env in envs)
    assert len({row.tobytes() for row in (*first, *second)}) == 6
    theirs = make_pair(env_id, 3)[1]
    again = theirs.reset(seed=list(envs[0].np_random_seed))[0]
    assert again.tobytes() == first.tobytes()


@ALL
def test_streams_are_numpys(env_id):
    ours, theirs = make_pair(env_id, 3, max_episode_steps=4)
    ours.reset(seed=1)
    theirs.reset(seed=1)
    assert_same_run(ours, theirs, 23, np.random.default_rng(0))
    for row, generator in zip(ours.get_state()["streams"].tolist(), theirs.np_random, strict=True):
        state = generator.bit_generator.state["state"]
        assert (row[0] << 64 | row[1], row[2] << 64 | row[3]) == (state["state"], state["inc"])


@ALL
def test_a_state_that_is_set_goes_on_with_its_stream(env_id):
    env = metafast.envs.make_vec(env_id, 3, exact=True, max_episode_steps=5)
    env.reset(seed=1)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(12)]
    state = env.get_state()
    first = [env.step(action) for action in actions]
    other = metafast.envs.make_vec(env_id, 3, exact=True, max_episode_steps=5)
    for follower in (env, other):
        follower.reset(seed=99)
        follower.set_state(state)
        for expected, action in zip(first, actions, strict=True):
            assert_same(follower.step(action)[:4], expected[:4])
    with pytest.raises(ValueError, match="streams"):
        env.set_state({key: value for key, value in state.items() if key != "streams"})


CONTINUE = """
import pickle, sys
env, actions = pickle.load(sys.stdin.buffer)
outcomes = [env.step(row)[:4] for row in actions]
sys.stdout.buffer.write(pickle.dumps(outcomes))
"""


@ALL
def test_a_pickle_goes_on_in_another_process(env_id):
    """Where NumPy's functions have other addresses."""
    env = metafast.envs.make_vec(env_id, 3, exact=True, max_episode_steps=5)
    env.reset(seed=1)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(12)]
    child = subprocess.run(
        [sys.executable, "-c", CONTINUE], input=pickle.dumps((env, actions)), capture_output=True, check=True
    )
    for outcome, action in zip(pickle.loads(child.stdout), actions, strict=True):
        assert_same(outcome, env.step(action)[:4])


def test_threads_change_nothing():
    runs = []
    for num_threads in (1, 2):
        env = metafast.envs.make_vec("Pendulum-v1", 4096, exact=True, num_threads=num_threads)
        env.reset(seed=0)
        env.action_space.seed(0)
        runs.append([env.step(env.action_space.sample()) for _ in range(12)][-1][:4])
    assert_same(runs[0], runs[1])


def test_through_gymnasiums_registry():
    env = gymnasium.make_vec("metafast/Pendulum-v1", num_envs=2, exact=True)
    theirs = make_pair("Pendulum-v1", 2)[1]
    assert_same(env.reset(seed=4), theirs.reset(seed=4))
    assert env.spec.kwargs["exact"] is True
    twin = gymnasium.make_vec(env.spec)
    assert_same(twin.reset(seed=4), theirs.reset(seed=4))


@pytest.mark.parametrize("function", [np.sin, np.cos])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_loop_is_named_for_each_type(function, dtype):
    address, _ = _core.ufunc_loop(function, np.dtype(dtype))
    assert address != _core.ufunc_loop(np.sqrt, np.dtype(dtype))[0]
    assert address != 0


@pytest.mark.parametrize("function", [np.sin, np.cos])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_number_gets_the_same_alone_and_in_company(function, dtype, rng):
    """The kernels take up to three sines at once where gymnasium takes them one by one."""
    numbers = np.concatenate([rng.uniform(-bound, bound, 600) for bound in (1e-3, 4.0, 100.0, 1e6)]).astype(dtype)
    alone = np.array([function(x) for x in numbers])
    for count in (2, 3):
        together = np.concatenate([function(row) for row in numbers.reshape(-1, count)])
        assert together.tobytes() == alone.tobytes()


BAD_LOOPS = {
    "no ufunc": (abs, np.float64, TypeError, "numpy ufunc"),
    "two numbers": (np.add, np.float64, ValueError, "no loop"),
    "no such type": (np.sin, np.int64, ValueError, "no loop"),
}


@pytest.mark.parametrize("what", BAD_LOOPS)
def test_a_loop_that_is_not_there(what):
    function, dtype, error, message = BAD_LOOPS[what]
    with pytest.raises(error, match=message):
        _core.ufunc_loop(function, np.dtype(dtype))
