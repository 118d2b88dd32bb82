"""What all task distributions share: seeds, threads, autoreset, snapshots, pickling, gymnasium's registry."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest

import metafast
from metafast import _core

# Tasks of at most six steps.
TASKS = {
    "Bandit-v0": {"pulls": 6, "arms": 3},
    "TabularMDP-v0": {"states": 4, "actions": 2, "horizon": 3, "episodes": 2},
    "CartPoleTasks-v0": {"inner_steps": 3, "episodes": 2},
    "PendulumTasks-v0": {"inner_steps": 3, "episodes": 2},
    "LearnerTasks-v0": {"steps": 6, "features": 2, "examples": 3},
}
tasks = pytest.mark.parametrize("env_id", TASKS)
# Large enough for several slices, and no multiple of a slice, a tile or a vector.
MANY = 5 * 2048 + 77


def make(env_id, num_envs, **kwargs):
    meta = {} if env_id == "LearnerTasks-v0" else {"meta_observation": True}
    return metafast.envs.make_vec(env_id, num_envs, **TASKS[env_id], **meta, **kwargs)


def actions_for(env, num_steps, seed=3):
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(num_steps)]


def rollout(env, actions):
    return [env.step(row)[:4] for row in actions]


def assert_same(first, second):
    for ours, theirs in zip(first, second, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


@tasks
def test_a_seed_repeats(env_id):
    env = make(env_id, 33)
    actions = actions_for(env, 20)
    first, one = env.reset(seed=9)[0], rollout(env, actions)
    second, two = env.reset(seed=9)[0], rollout(env, actions)
    np.testing.assert_array_equal(first, second)
    assert_same(one, two)
    # Rewards tell nothing in CartPole, observations only rewards in the bandits.
    env.reset(seed=10)
    assert not np.array_equal(rollout(env, actions)[1][0], one[1][0])


@tasks
@pytest.mark.parametrize("num_envs", [2, 19, 300])
@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_environment_i_of_seed_s_is_environment_0_of_seed_s_plus_i(env_id, num_envs, mode):
    batch = make(env_id, num_envs, autoreset_mode=mode)
    actions = actions_for(batch, 20)
    batch.reset(seed=40)
    steps = rollout(batch, actions)
    for index in {0, 1, num_envs // 2, num_envs - 1}:
        alone = make(env_id, 1, autoreset_mode=mode)
        alone.reset(seed=40 + index)
        own = rollout(alone, [row[index : index + 1] for row in actions])
        assert_same(own, [[array[index : index + 1] for array in step] for step in steps])


@pytest.mark.usefixtures("restore_num_threads")
@tasks
@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_any_number_of_threads_gives_the_same_bits(env_id, mode):
    rollouts = []
    for num_threads in (1, 2, 5):
        metafast.set_num_threads(num_threads)
        env = make(env_id, MANY, autoreset_mode=mode)
        first = env.reset(seed=2)[0]
        steps = rollout(env, actions_for(env, 16))
        rollouts.append([[first, env.final_observations], *steps, env.get_state().values()])
    assert_same(rollouts[0], rollouts[1])
    assert_same(rollouts[0], rollouts[2])


@tasks
def test_every_level_gives_the_same_bits(env_id):
    usual, rollouts = _core.isa(), []
    for level in _core.supported_isas():
        _core.force_isa(level)
        env = make(env_id, 77)
        first = env.reset(seed=5)[0]
        rollouts.append([[first], *rollout(env, actions_for(env, 20)), env.get_state().values()])
    _core.force_isa(usual)
    for other in rollouts[1:]:
        assert_same(rollouts[0], other)


@tasks
def test_the_three_autoreset_modes_tell_the_same_episodes(env_id):
    """Fed the same actions, they differ only in where the first observation of the next task comes."""
    envs = {mode: make(env_id, 40, autoreset_mode=mode) for mode in ("next_step", "same_step", "disabled")}
    first = {mode: env.reset(seed=6)[0] for mode, env in envs.items()}
    np.testing.assert_array_equal(first["next_step"], first["same_step"])
    np.testing.assert_array_equal(first["next_step"], first["disabled"])
    actions = actions_for(envs["same_step"], 25)
    tasks_seen = 0
    for row in actions:
        late = envs["next_step"].step(row)
        once = envs["same_step"].step(row)
        by_hand = envs["disabled"].step(row)
        over = once[2]
        assert_same([late[1:4], late[1:4]], [once[1:4], by_hand[1:4]])
        np.testing.assert_array_equal(late[0], by_hand[0])
        np.testing.assert_array_equal(once[0][~over], late[0][~over])
        if over.any():
            assert over.all()
            tasks_seen += 1
            np.testing.assert_array_equal(np.stack(once[4]["final_obs"]), late[0])
            begun = envs["disabled"].reset(options={"reset_mask": over})[0]
            late = envs["next_step"].step(row)
            np.testing.assert_array_equal(begun, once[0])
            np.testing.assert_array_equal(late[0], once[0])
            assert not late[1].any()
            assert not late[2].any()
    assert tasks_seen == 4


@tasks
def test_every_task_is_a_new_one(env_id):
    env = make(env_id, 50, autoreset_mode="same_step")
    env.reset(seed=1)
    actions = actions_for(env, 30)
    seen = []
    for row in actions:
        before = env.get_state()["state"].tobytes()
        if env.step(row)[2].all():
            seen.append(before)
    assert len(set(seen)) == len(seen) == 5


@tasks
@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_snapshots_pickles_and_copies_continue(env_id, mode):
    env = make(env_id, 300, autoreset_mode=mode)
    env.reset(seed=4)
    actions = actions_for(env, 14)
    rollout(env, actions[:4])
    state = env.get_state()
    others = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env), make(env_id, 300, autoreset_mode=mode)]
    others[2].reset(seed=99)
    others[2].set_state(state)
    rest = actions[4:6] if mode == "disabled" else actions[4:]
    expected = rollout(env, rest)
    for other in others:
        assert_same(rollout(other, rest), expected)
        assert_same([other.get_state().values()], [env.get_state().values()])


@tasks
def test_gymnasium_makes_it_and_its_wrappers_take_it(env_id):
    env = gymnasium.make_vec(f"metafast/{env_id}", num_envs=3, **TASKS[env_id])
    assert env.spec.max_episode_steps is None
    env = gymnasium.wrappers.vector.RecordEpisodeStatistics(env)
    observations, _ = env.reset(seed=0)
    assert observations in env.observation_space
    lengths = []
    env.action_space.seed(0)
    for _ in range(14):
        _, _, _, _, infos = env.step(env.action_space.sample())
        if "episode" in infos:
            lengths += infos["episode"]["l"][infos["_episode"]].tolist()
    assert lengths == [6] * 6


@tasks
def test_exact_and_unknown_arguments_are_refused(env_id):
    with pytest.raises(ValueError, match="exact"):
        make(env_id, 2, exact=True)
    with pytest.raises(TypeError, match=f"{env_id} has no argument 'colour'"):
        make(env_id, 2, colour="red")
