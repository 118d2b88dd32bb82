"""Spaces, metadata, attributes and arguments, as gymnasium's users know them."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import metafast


def make(num_envs=3, **kwargs):
    return metafast.envs.make_vec("CartPole-v1", num_envs, **kwargs)


@pytest.mark.parametrize("num_envs", [1, 5])
def test_spaces_are_gymnasiums(num_envs):
    ours, theirs = make(num_envs), SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * num_envs)
    for name in ("single_observation_space", "single_action_space", "observation_space", "action_space"):
        assert getattr(ours, name) == getattr(theirs, name)
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype
    assert ours.unwrapped is ours
    assert isinstance(ours, gymnasium.vector.VectorEnv)


@pytest.mark.parametrize("num_envs", [1, 5, 3000])
def test_results_have_the_promised_shapes_and_types(num_envs):
    env = make(num_envs)
    observations, infos = env.reset(seed=0)
    assert infos == {}
    assert env.observation_space.contains(observations)
    env.action_space.seed(0)
    observations, rewards, terminated, truncated, infos = env.step(env.action_space.sample())
    assert env.observation_space.contains(observations)
    assert (rewards.dtype, terminated.dtype, truncated.dtype) == (np.float32, np.bool_, np.bool_)
    assert rewards.shape == terminated.shape == truncated.shape == (num_envs,)
    assert infos == {}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("next_step", AutoresetMode.NEXT_STEP),
        ("same_step", AutoresetMode.SAME_STEP),
        ("disabled", AutoresetMode.DISABLED),
        *((mode, mode) for mode in AutoresetMode),
    ],
)
def test_metadata(given, expected):
    env = make(autoreset_mode=given)
    assert env.metadata["autoreset_mode"] is expected
    assert env.spec.id == "metafast/CartPole-v1"
    assert env.spec.max_episode_steps == 500
    assert env.render_mode is None


def test_gymnasiums_vector_wrappers_apply():
    env = gymnasium.wrappers.vector.RecordEpisodeStatistics(make(8, autoreset_mode="same_step", max_episode_steps=5))
    env.reset(seed=0)
    for _ in range(5):
        infos = env.step(np.zeros(8, dtype=np.int64))[4]
    assert (infos["episode"]["l"] == 5).all()
    assert (infos["episode"]["r"] == 5).all()


def test_get_attr_set_attr_call():
    env = make()
    env.reset(seed=7)
    np.testing.assert_array_equal(np.array(env.get_attr("state")), env.get_state()["state"])
    assert env.get_attr("np_random_seed") == env.np_random_seed == (7, 8, 9)
    assert env.get_attr("max_episode_steps") == (500, 500, 500)
    assert env.get_attr("action_space") == (env.single_action_space,) * 3
    env.set_attr("elapsed_steps", [1, 2, 3])
    assert env.call("elapsed_steps") == (1, 2, 3)
    env.set_attr("elapsed_steps", 9)
    assert env.get_attr("elapsed_steps") == (9, 9, 9)
    with pytest.raises(ValueError, match=r"elapsed_steps.*\(3,\)"):
        env.set_attr("elapsed_steps", [1, 2])
    with pytest.raises(AttributeError, match="gravity"):
        env.set_attr("gravity", 1.0)
    with pytest.raises(AttributeError, match="no_such"):
        env.get_attr("no_such")
    with pytest.raises(AttributeError, match="step"):
        env.call("step", 0)


BAD_ARGUMENTS = {
    "unknown id": (("CartPole-v7", 1), {}, ValueError, r"env_id.*CartPole-v7.*CartPole-v1"),
    "id of another type": ((7, 1), {}, ValueError, r"env_id.*7"),
    "no environments": (("CartPole-v1", 0), {}, ValueError, r"num_envs.*0"),
    "negative": (("CartPole-v1", -3), {}, ValueError, r"num_envs.*-3"),
    "fraction": (("CartPole-v1", 2.0), {}, TypeError, r"num_envs.*2\.0"),
    "bool": (("CartPole-v1", True), {}, TypeError, r"num_envs.*True"),
    "no threads": (("CartPole-v1", 1), {"num_threads": 0}, ValueError, r"num_threads.*0"),
    "too many threads": (("CartPole-v1", 1), {"num_threads": 5000}, ValueError, r"num_threads.*5000"),
    "mode": (("CartPole-v1", 1), {"autoreset_mode": "never"}, ValueError, r"autoreset_mode.*'never'"),
    "no mode": (("CartPole-v1", 1), {"autoreset_mode": None}, ValueError, r"autoreset_mode.*None"),
    "no steps": (("CartPole-v1", 1), {"max_episode_steps": 0}, ValueError, r"max_episode_steps.*0"),
    "steps beyond int32": (
        ("CartPole-v1", 1),
        {"max_episode_steps": 2**31},
        ValueError,
        r"max_episode_steps.*2147483648",
    ),
    "steps of another type": (("CartPole-v1", 1), {"max_episode_steps": "9"}, TypeError, r"max_episode_steps.*'9'"),
    "exact of another type": (("CartPole-v1", 1), {"exact": 1}, TypeError, r"exact.*1"),
    "copy of another type": (("CartPole-v1", 1), {"copy": None}, TypeError, r"copy.*None"),
    "rendering": (("CartPole-v1", 1), {"render_mode": "human"}, ValueError, r"render_mode must be None"),
    "unknown argument": (("CartPole-v1", 1), {"gravity": 1.0}, TypeError, r"'gravity'.*sutton_barto_reward"),
    "reward switch": (("CartPole-v1", 1), {"sutton_barto_reward": "no"}, TypeError, r"sutton_barto_reward.*'no'"),
}


@pytest.mark.parametrize("kind", BAD_ARGUMENTS)
def test_bad_arguments_are_refused(kind):
    arguments, keywords, error, message = BAD_ARGUMENTS[kind]
    with pytest.raises(error, match=message):
        metafast.envs.make_vec(*arguments, **keywords)


BAD_RESETS = {
    "negative seed": ({"seed": -1}, ValueError, r"seed.*-1"),
    "negative in a list": ({"seed": [1, -5, 2]}, ValueError, r"seed.*-5"),
    "beyond 64 bits": ({"seed": 2**64 - 1}, ValueError, r"seed.*18446744073709551616"),
    "too few": ({"seed": [1, 2]}, ValueError, r"seed.*3 environments.*2"),
    "fraction": ({"seed": 1.5}, TypeError, r"seed.*1\.5"),
    "fraction in a list": ({"seed": [1, 2.5, 3]}, TypeError, r"seed.*2\.5"),
    "bool": ({"seed": True}, TypeError, r"seed.*True"),
    "text": ({"seed": "abc"}, TypeError, r"seed.*'abc'"),
    "options": ({"options": [1]}, TypeError, r"options.*\[1\]"),
    "unknown option": ({"options": {"low": -1}}, ValueError, r"options.*'low'"),
    "mask as list": ({"options": {"reset_mask": [True, False, True]}}, TypeError, r"reset_mask.*list"),
    "mask of ints": ({"options": {"reset_mask": np.array([1, 0, 1])}}, TypeError, r"reset_mask.*int64"),
    "short mask": ({"options": {"reset_mask": np.ones(2, dtype=bool)}}, ValueError, r"reset_mask.*\(3,\).*\(2,\)"),
    "empty mask": ({"options": {"reset_mask": np.zeros(3, dtype=bool)}}, ValueError, r"reset_mask.*True"),
    "masked mask": ({"options": {"reset_mask": np.ma.ones(3, dtype=bool)}}, TypeError, r"reset_mask.*MaskedArray"),
}


@pytest.mark.parametrize("kind", BAD_RESETS)
def test_bad_resets_are_refused_and_change_nothing(kind):
    keywords, error, message = BAD_RESETS[kind]
    env = make()
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(error, match=message):
        env.reset(**keywords)
    for key, value in env.get_state().items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize(
    ("name", "values", "error"),
    [
        ("elapsed_steps", 1.5, TypeError),
        ("elapsed_steps", 2**40, ValueError),
        ("seeds", -1, ValueError),
        ("seeds", 2**64, TypeError),
        ("seeds", None, TypeError),
        ("ended", "a", TypeError),
        ("ended", 1, TypeError),
        ("state", np.zeros((2, 4)), ValueError),
    ],
)
def test_set_attr_refuses_what_would_be_converted(name, values, error):
    env = make()
    env.reset(seed=7)
    before = env.get_state()
    with pytest.raises(error, match=name):
        env.set_attr(name, values)
    for key, value in env.get_state().items():
        np.testing.assert_array_equal(value, before[key])


def test_a_seed_may_be_an_array_without_axes():
    np.testing.assert_array_equal(make().reset(seed=np.array(3))[0], make().reset(seed=3)[0])


@pytest.mark.parametrize("byte", [2, 255])
def test_flags_whose_bytes_are_neither_0_nor_1(byte):
    env = metafast.envs.make_vec("CartPole-v1", 512)
    env.reset(seed=0)
    flags = np.zeros(512, np.uint8)
    flags[::3] = byte
    env.reset(options={"reset_mask": flags.view(bool)})
    np.testing.assert_array_equal(env.get_state()["episodes"], 1 + (flags != 0))
    state = env.get_state()
    state["ended"] = flags.view(bool)
    env.set_state(state)
    rewards = env.step(np.zeros(512, int))[1]
    np.testing.assert_array_equal(rewards, (flags == 0).astype(np.float32))
