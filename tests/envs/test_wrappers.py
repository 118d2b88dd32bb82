"""Gymnasium's vector wrappers on every native environment, against what they are defined to give."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.wrappers import vector as wrappers

import metafast
from metafast.envs._catalogue import CATALOGUE

# Gymnasium's own, when its wrappers make spaces of another type.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Box (low|high)'s precision lowered by casting"),
    pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning"),
]

ENV_IDS = sorted(CATALOGUE)
of_every_environment = pytest.mark.parametrize("env_id", ENV_IDS)
in_every_mode = pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
NUM_ENVS, LIMIT = 5, 7


def make(env_id, mode="next_step", **options):
    return metafast.envs.make_vec(env_id, NUM_ENVS, autoreset_mode=mode, max_episode_steps=LIMIT, **options)


def steps(env, mode="next_step", num_steps=30, seed=4):
    """Yield what each step of a random policy returned."""
    env.reset(seed=seed)
    env.unwrapped.action_space.seed(seed)
    for _ in range(num_steps):
        outcome = env.step(env.unwrapped.action_space.sample())
        yield outcome
        ended = outcome[2] | outcome[3]
        if mode == "disabled" and ended.any():
            env.reset(options={"reset_mask": ended})


@in_every_mode
@of_every_environment
def test_record_episode_statistics(env_id, mode):
    """Returns and lengths, counted here by hand from the unwrapped environment."""
    env = wrappers.RecordEpisodeStatistics(make(env_id, mode), buffer_length=1000)
    returns, lengths = np.zeros(NUM_ENVS), np.zeros(NUM_ENVS, dtype=int)
    waiting = np.zeros(NUM_ENVS, dtype=bool)
    expected = []
    pairs = zip(steps(env, mode), steps(make(env_id, mode), mode), strict=True)
    for (_, _, terminated, truncated, infos), (_, rewards, *_) in pairs:
        returns[waiting], lengths[waiting] = 0, 0
        returns[~waiting] += rewards[~waiting]
        lengths[~waiting] += 1
        ended = terminated | truncated
        assert ("episode" in infos) == bool(ended.any())
        if ended.any():
            np.testing.assert_array_equal(infos["_episode"], ended)
            np.testing.assert_allclose(infos["episode"]["r"][ended], returns[ended], rtol=1e-5)
            np.testing.assert_array_equal(infos["episode"]["l"][ended], lengths[ended])
        expected += lengths[ended].tolist()
        if mode == "next_step":
            waiting = ended
        else:
            returns[ended], lengths[ended] = 0, 0
    assert list(env.length_queue) == expected
    assert env.episode_count == len(expected) > NUM_ENVS


@in_every_mode
@of_every_environment
def test_dict_info_to_list(env_id, mode):
    plain = make(env_id, mode)
    for mine, other in zip(steps(wrappers.DictInfoToList(make(env_id, mode)), mode), steps(plain, mode), strict=True):
        ended = other[2] | other[3]
        assert [("final_obs" in info) for info in mine[4]] == (ended & (mode == "same_step")).tolist()
        for index in np.flatnonzero(ended & (mode == "same_step")):
            assert data_equivalence(mine[4][index]["final_obs"], other[4]["final_obs"][index], exact=True)


@in_every_mode
@of_every_environment
def test_normalize_reward(env_id, mode):
    env = wrappers.NormalizeReward(make(env_id, mode), gamma=0.9)
    rewards = np.array([outcome[1] for outcome in steps(env, mode)])
    assert np.isfinite(rewards).all()
    assert env.return_rms.count > 1


@of_every_environment
def test_normalize_observation(env_id):
    env = wrappers.NormalizeObservation(make(env_id))
    plain = np.array([outcome[0] for outcome in steps(make(env_id))])
    normal = np.array([outcome[0] for outcome in steps(env)])
    assert normal.shape == plain.shape
    assert np.isfinite(normal).all()
    assert np.abs(normal).max() < 40
    np.testing.assert_allclose(
        env.obs_rms.mean, plain.astype(np.float64).mean(axis=(0, 1)), atol=0.3 + 0.5 * np.abs(plain).max()
    )


def _bounded(env_id):
    space = make(env_id).single_observation_space
    return isinstance(space, gymnasium.spaces.Box) and np.isfinite([space.low, space.high]).all()


def _continuous(env_id):
    return isinstance(make(env_id).single_action_space, gymnasium.spaces.Box)


OBSERVATION_WRAPPERS = {
    "flatten": (wrappers.FlattenObservation, {}, lambda each: each.reshape(NUM_ENVS, -1)),
    "dtype": (wrappers.DtypeObservation, {"dtype": np.float64}, lambda each: each.astype(np.float64)),
    "transform": (
        wrappers.TransformObservation,
        {"func": lambda each: each * 2},
        lambda each: each * 2,
    ),
}


# The modes that these wrappers of gymnasium take.
@pytest.mark.parametrize("name", OBSERVATION_WRAPPERS)
@pytest.mark.parametrize("mode", ["next_step", "disabled"])
@of_every_environment
def test_observation_wrappers(env_id, mode, name):
    wrapper, options, function = OBSERVATION_WRAPPERS[name]
    env, plain = wrapper(make(env_id, mode), **options), make(env_id, mode)
    for mine, other in zip(steps(env, mode), steps(plain, mode), strict=True):
        np.testing.assert_array_equal(mine[0], function(other[0]))
        assert mine[0].dtype == function(other[0]).dtype


@pytest.mark.parametrize("env_id", [env_id for env_id in ENV_IDS if _bounded(env_id)])
def test_rescale_observation(env_id):
    env = wrappers.RescaleObservation(make(env_id), -1.0, 1.0)
    for observations, *_ in steps(env):
        assert np.abs(observations).max() <= 1 + 1e-6


@of_every_environment
def test_reshape_observation(env_id):
    plain = make(env_id)
    shape = (1, *plain.single_observation_space.shape)
    env = wrappers.ReshapeObservation(make(env_id), shape)
    for mine, other in zip(steps(env), steps(plain), strict=True):
        np.testing.assert_array_equal(mine[0], other[0].reshape(NUM_ENVS, *shape))


@pytest.mark.parametrize("env_id", [env_id for env_id in ENV_IDS if _continuous(env_id)])
def test_action_wrappers(env_id):
    """Actions within [0, 1] rescaled to the space's own, and actions far outside clipped to it."""
    space = make(env_id).single_action_space
    rescaling, clipping, plain = (
        wrappers.RescaleAction(make(env_id), 0.0, 1.0),
        wrappers.ClipAction(make(env_id)),
        make(env_id),
    )
    for env in (rescaling, clipping, plain):
        env.reset(seed=0)
    rescaled = rescaling.step(np.ones((NUM_ENVS, *space.shape), np.float32))
    clipped = clipping.step(np.broadcast_to(space.high + 100, (NUM_ENVS, *space.shape)).astype(np.float32))
    expected = plain.step(np.broadcast_to(space.high, (NUM_ENVS, *space.shape)).copy())
    np.testing.assert_array_equal(clipped[0], expected[0])
    np.testing.assert_allclose(rescaled[0], expected[0], rtol=1e-5, atol=1e-6)


@in_every_mode
@of_every_environment
def test_transform_action(env_id, mode):
    env, plain = wrappers.TransformAction(make(env_id, mode), np.copy), make(env_id, mode)
    for mine, other in zip(steps(env, mode), steps(plain, mode), strict=True):
        np.testing.assert_array_equal(mine[0], other[0])


@pytest.mark.parametrize(
    ("wrapper", "options", "function"),
    [
        (wrappers.ClipReward, {"min_reward": -0.5, "max_reward": 0.5}, lambda each: np.clip(each, -0.5, 0.5)),
        (wrappers.TransformReward, {"func": lambda each: 3 * each}, lambda each: 3 * each),
    ],
    ids=["clip", "transform"],
)
@of_every_environment
def test_reward_wrappers(env_id, wrapper, options, function):
    env = wrapper(make(env_id), **options)
    for mine, other in zip(steps(env), steps(make(env_id)), strict=True):
        np.testing.assert_array_equal(mine[1], function(other[1]))


@of_every_environment
def test_wrappers_upon_wrappers(env_id):
    env = wrappers.RecordEpisodeStatistics(make(env_id))
    env = wrappers.NormalizeReward(wrappers.NormalizeObservation(wrappers.FlattenObservation(env)))
    seen = [infos["episode"]["l"].max() for *_, infos in steps(env) if "episode" in infos]
    assert max(seen) <= LIMIT
    assert env.unwrapped.num_envs == NUM_ENVS
