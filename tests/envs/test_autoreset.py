"""The three autoreset modes against gymnasium's SyncVectorEnv, fed with our first states."""

import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

import metafast

MODES = {"next_step": "NextStep", "same_step": "SameStep", "disabled": "Disabled"}
NUM_STEPS = 120
LIMIT = 23


class ScriptedCartPole(CartPoleEnv):
    """Gymnasium's CartPole, whose episodes begin in given states."""

    def __init__(self, first_states, **kwargs):
        super().__init__(**kwargs)
        self.first_states = iter(first_states)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = next(self.first_states)
        return np.array(self.state, dtype=np.float32), {}


def first_states(num_envs, seed, count=NUM_STEPS + 2):
    """The state in which each environment's episodes begin, [count, num_envs, 4]: resets advance the same stream."""
    env = metafast.envs.make_vec("CartPole-v1", num_envs)
    env.reset(seed=seed)
    states = [env.get_state()["state"]]
    for _ in range(count - 1):
        env.reset()
        states.append(env.get_state()["state"])
    return np.array(states)


def pair(mode, num_envs=9, **kwargs):
    ours = metafast.envs.make_vec("CartPole-v1", num_envs, autoreset_mode=mode, max_episode_steps=LIMIT, **kwargs)
    states = first_states(num_envs, seed=17)
    theirs = SyncVectorEnv(
        [lambda i=i: TimeLimit(ScriptedCartPole(states[:, i], **kwargs), LIMIT) for i in range(num_envs)],
        autoreset_mode=AutoresetMode(MODES[mode]),
    )
    np.testing.assert_array_equal(ours.reset(seed=17)[0], theirs.reset()[0])
    return ours, theirs


def assert_same_infos(ours, theirs):
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        if key == "final_obs":
            assert ours[key].dtype == value.dtype == object
            for mine, other in zip(ours[key], value, strict=True):
                assert (mine is None) == (other is None)
                if other is not None:
                    assert mine.dtype == other.dtype
                    np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-7)
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(ours[key], value, strict=True)
        else:
            assert ours[key] == value


@pytest.mark.parametrize("kwargs", [{}, {"sutton_barto_reward": True}])
@pytest.mark.parametrize("mode", MODES)
def test_steps_as_sync_vector_env(mode, kwargs, isa, rng):
    ours, theirs = pair(mode, **kwargs)
    num_ended = num_truncated = 0
    for _ in range(NUM_STEPS):
        actions = rng.integers(0, 2, ours.num_envs)
        mine, other = ours.step(actions), theirs.step(actions)
        np.testing.assert_allclose(mine[0], other[0], rtol=1e-6, atol=1e-7)
        for k in (1, 2, 3):
            np.testing.assert_array_equal(mine[k], other[k])
        assert_same_infos(mine[4], other[4])
        ended = mine[2] | mine[3]
        if mode == "same_step" and ended.any():
            for index in np.flatnonzero(ended):
                np.testing.assert_array_equal(ours.final_observations[index], mine[4]["final_obs"][index])
        else:
            np.testing.assert_array_equal(ours.final_observations[ended], mine[0][ended])
        if mode == "disabled" and ended.any():
            mine, other = (env.reset(options={"reset_mask": ended.copy()}) for env in (ours, theirs))
            np.testing.assert_allclose(mine[0], other[0], rtol=1e-6, atol=1e-7)
            assert mine[1] == other[1]
        num_ended += ended.sum()
        num_truncated += (other[3].sum()) if mode != "disabled" else 0
    assert num_ended > 20
    assert num_truncated > 2 or mode == "disabled"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("limit", [None, 1, 7])
def test_truncation(mode, limit):
    """A balanced pole is truncated at the limit, gymnasium's 500 where none is given, and not before."""
    env = metafast.envs.make_vec("CartPole-v1", 5, autoreset_mode=mode, max_episode_steps=limit)
    env.reset(seed=1)
    expected = limit or 500
    observations = env.reset(seed=1)[0]
    for step in range(1, expected + 1):
        x, v, angle, w = observations.T
        observations, rewards, terminated, truncated, _ = env.step(
            (angle + 0.5 * w + 0.05 * x + 0.1 * v > 0).astype(np.int64)
        )
        assert not terminated.any()
        assert (truncated == (step == expected)).all()
        assert (rewards == 1).all()
    assert (env.get_state()["ended"] == (mode != "same_step")).all()


def test_terminated_and_truncated_at_once():
    """As with gymnasium's TimeLimit, a fall in the last step sets both flags."""
    env = metafast.envs.make_vec("CartPole-v1", 3, max_episode_steps=10)
    env.reset(seed=0)
    state = env.get_state()
    state["state"][1] = [2.39, 5.0, 0.0, 0.0]
    state["elapsed_steps"][:] = 9
    env.set_state(state)
    _, _, terminated, truncated, _ = env.step([0, 0, 0])
    np.testing.assert_array_equal(terminated, [False, True, False])
    assert truncated.all()


def test_next_step_ignores_the_action_after_an_end():
    rollouts = []
    for action in (0, 1):
        env = metafast.envs.make_vec("CartPole-v1", 2, max_episode_steps=1)
        env.reset(seed=0)
        env.step([1, 1])
        rollouts.append(env.step([action, action]))
    for first, second in zip(rollouts[0][:4], rollouts[1][:4], strict=True):
        np.testing.assert_array_equal(first, second)
    assert not rollouts[0][1].any()


def test_disabled_refuses_to_step_an_ended_environment():
    env = metafast.envs.make_vec("CartPole-v1", 4, autoreset_mode="disabled", max_episode_steps=1)
    env.reset(seed=0)
    env.step([0, 0, 0, 0])
    env.reset(options={"reset_mask": np.array([True, True, False, True])})
    before = env.get_state()
    with pytest.raises(ValueError, match=r"environment 2 has ended.*reset_mask"):
        env.step([0, 0, 0, 0])
    for key, value in env.get_state().items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize("mode", MODES)
def test_partial_reset_touches_only_its_rows(mode, rng):
    env = metafast.envs.make_vec("CartPole-v1", 600, autoreset_mode=mode)
    env.reset(seed=3)
    observations = env.step(rng.integers(0, 2, 600))[0]
    before = env.get_state()
    mask = rng.random(600) < 0.3
    after_reset, infos = env.reset(options={"reset_mask": mask})
    after = env.get_state()
    assert infos == {}
    np.testing.assert_array_equal(after_reset[~mask], observations[~mask])
    np.testing.assert_array_equal(after_reset, after["state"].astype(np.float32))
    for key in before:
        np.testing.assert_array_equal(after[key][~mask], before[key][~mask])
    assert (after["elapsed_steps"][mask] == 0).all()
    assert (after["episodes"][mask] == 2).all()


def test_partial_reset_seeds_only_its_rows():
    env = metafast.envs.make_vec("CartPole-v1", 4)
    env.reset(seed=3)
    env.reset(seed=[50, None, 60, None], options={"reset_mask": np.array([True, True, False, False])})
    np.testing.assert_array_equal(env.get_state()["seeds"], [50, 4, 5, 6])
    np.testing.assert_array_equal(env.get_state()["episodes"], [1, 2, 1, 1])
