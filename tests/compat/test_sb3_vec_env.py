"""Vector environments as Stable-Baselines3's: against its own DummyVecEnv, its wrappers, and its training."""

import csv
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize

import metafast
from metafast.compat.sb3 import VectorEnvAdapter, make_vec_env


class Told(gymnasium.Wrapper):
    """CartPole cut after 20 steps, with infos of every kind, and with Dict observations if asked for."""

    def __init__(self, *, dict_observations=False):
        super().__init__(gymnasium.make("CartPole-v1", max_episode_steps=20))
        self.dict_observations = dict_observations
        if dict_observations:
            self.observation_space = spaces.Dict({"state": self.env.observation_space})
        self.steps = 0

    def observed(self, observation):
        return {"state": observation} if self.dict_observations else observation

    def reset(self, **options):
        observation, _ = self.env.reset(**options)
        self.steps = 0
        name = (options.get("options") or {}).get("name", "")
        return self.observed(observation), {"begun": True, "options": name}

    def step(self, action):
        observation, reward, terminated, truncated, _ = self.env.step(action)
        self.steps += 1
        info = {"steps": self.steps, "nested": {"position": observation[0]}}
        if self.steps % 3 == 0:
            info["third"] = np.array([self.steps])
        return self.observed(observation), reward, terminated, truncated, info

    def times(self, number, *, plus=0):
        return self.steps * number + plus


def pair(num_envs=3, **options):
    functions = [lambda: Told(**options)] * num_envs
    return VectorEnvAdapter(SyncVectorEnv(functions, autoreset_mode=AutoresetMode.SAME_STEP)), DummyVecEnv(functions)


def native(num_envs=5, **options):
    return metafast.envs.make_vec("CartPole-v1", num_envs, autoreset_mode="same_step", **options)


def assert_same(ours, theirs):
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        for key, value in theirs.items():
            assert_same(ours[key], value)
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert_same(mine, other)
    else:
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dict_observations", [False, True], ids=["box", "dict"])
def test_against_dummy_vec_env(dict_observations):
    """Observations, rewards, ends, infos and the infos of resets, of the same environments."""
    ours, theirs = pair(dict_observations=dict_observations)
    rng = np.random.default_rng(0)
    assert ours.seed(5) == theirs.seed(5)
    assert_same(ours.reset(), theirs.reset())
    ended = cut = 0
    for _ in range(90):
        actions = rng.integers(2, size=3)
        for mine, other in zip(ours.step(actions), theirs.step(actions), strict=True):
            assert_same(mine, other)
            assert isinstance(other, type(mine))
            assert getattr(mine, "dtype", None) == getattr(other, "dtype", None)
        assert_same(ours.reset_infos, theirs.reset_infos)
        _, _, dones, infos = ours.step(actions)
        theirs.step(actions)
        ended += dones.sum()
        cut += sum(info["TimeLimit.truncated"] for info in infos)
    assert ended > cut > 0
    ours.close()
    theirs.close()


def test_seeds_and_options_are_used_once():
    ours, theirs = pair()
    for env in (ours, theirs):
        env.seed(3)
        env.set_options({"name": "first"})
        first = env.reset()
        assert [info["options"] for info in env.reset_infos] == ["first"] * 3
        again = env.reset()
        assert [info["options"] for info in env.reset_infos] == [""] * 3
        assert (first != again).any()
    ours.set_options([{"name": "one"}, {}, {}])
    with pytest.raises(ValueError, match="the same options"):
        ours.reset()


def test_attributes_and_methods():
    ours, theirs = pair()
    for env in (ours, theirs):
        env.seed(3)
        env.reset()
        env.step([0, 1, 0])
        env.set_attr("steps", 7, indices=[0, 2])
    for call in (
        lambda env: env.get_attr("steps"),
        lambda env: env.get_attr("steps", indices=1),
        lambda env: env.get_attr("steps", indices=[-1]),
        lambda env: env.env_method("times", 2, plus=1),
        lambda env: env.env_method("times", 2, indices=[0]),
        lambda env: env.env_method("times", 2, indices=[-1, 1], plus=3),
        lambda env: env.env_is_wrapped(Told),
        lambda env: env.env_is_wrapped(Monitor, indices=[0]),
        lambda env: env.has_attr("steps"),
        lambda env: env.has_attr("nothing of this name"),
        lambda env: env.render_mode,
        lambda env: (env.num_envs, env.observation_space, env.action_space),
    ):
        assert call(ours) == call(theirs)
    ours.set_attr("steps", 9)
    assert ours.get_attr("steps") == [9, 9, 9]
    with pytest.raises(ValueError, match=r"indices must be None: NativeVectorEnv .* these are \[0\] of 5"):
        VectorEnvAdapter(native()).env_method("times", 2, indices=[0])


def test_native_environments():
    """What a step returns, against gymnasium's interface to the same environments."""
    ours, plain = VectorEnvAdapter(native(max_episode_steps=15)), native(max_episode_steps=15)
    assert isinstance(ours, VecEnv)
    assert ours.spec.id == "metafast/CartPole-v1"
    assert ours.seed(4) == [4, 5, 6, 7, 8]
    np.testing.assert_array_equal(ours.reset(), plain.reset(seed=4)[0])
    rng = np.random.default_rng(0)
    ended = cut = 0
    kept = []
    for _ in range(60):
        actions = rng.integers(2, size=5)
        observations, rewards, dones, infos = ours.step(actions)
        expected, expected_rewards, terminated, truncated, _ = plain.step(actions)
        np.testing.assert_array_equal(observations, expected)
        np.testing.assert_array_equal(rewards, expected_rewards)
        np.testing.assert_array_equal(dones, terminated | truncated)
        for index, info in enumerate(infos):
            assert info["TimeLimit.truncated"] is bool(truncated[index] and not terminated[index])
            assert ("terminal_observation" in info) == dones[index]
            if dones[index]:
                np.testing.assert_array_equal(info["terminal_observation"], plain.final_observations[index])
                kept.append((info["terminal_observation"], plain.final_observations[index].copy()))
        rewards += 1  # as Stable-Baselines3 does where an episode was cut
        ended, cut = ended + dones.sum(), cut + truncated.sum()
    assert ended > cut > 0
    for observation, when_it_ended in kept:
        np.testing.assert_array_equal(observation, when_it_ended)


def test_attributes_of_native_environments():
    env = VectorEnvAdapter(native())
    env.seed(0)
    env.reset()
    assert env.get_attr("max_episode_steps", indices=[0, 1]) == [500, 500]
    assert env.env_is_wrapped(Monitor) == [False] * 5
    assert env.get_images() == [None] * 5
    env.set_attr("elapsed_steps", 11, indices=2)
    assert env.get_attr("elapsed_steps") == [0, 0, 11, 0, 0]
    with pytest.raises(AttributeError):
        env.env_method("reset")


def test_pickle():
    env = VectorEnvAdapter(native())
    env.seed(0)
    env.reset()
    copy = pickle.loads(pickle.dumps(env))
    for _ in range(30):
        for mine, other in zip(env.step(np.ones(5, int)), copy.step(np.ones(5, int)), strict=True):
            assert_same(mine, other)


def test_wrapped_vector_environments():
    env = VectorEnvAdapter(gymnasium.wrappers.vector.RecordEpisodeStatistics(native()))
    env.reset()
    assert env.get_attr("render_mode") == [None] * 5
    assert env.step(np.ones(5, int))[0].shape == (5, 4)


class Constant(gymnasium.vector.VectorEnv):
    """The least that a vector environment must be, and pictures if asked for."""

    def __init__(self, render_mode=None):
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = 2
        self.single_observation_space, self.single_action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(2)
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        return np.zeros((2, 1), np.float32), {}

    def step(self, actions):
        return np.zeros((2, 1), np.float32), np.ones(2), np.zeros(2, bool), np.zeros(2, bool), {}

    def render(self):
        return (np.zeros((4, 6, 3), np.uint8), np.ones((4, 6, 3), np.uint8))


def test_environments_without_attributes():
    env = VectorEnvAdapter(Constant())
    env.reset()
    _, rewards, _, infos = env.step([0, 1])
    assert rewards.dtype == np.float32
    assert infos == [{"TimeLimit.truncated": False}] * 2
    assert env.get_attr("num_envs") == [2, 2]
    assert not env.has_attr("nothing of this name")


def test_pictures():
    env = VectorEnvAdapter(Constant("rgb_array"))
    assert [image.max() for image in env.get_images()] == [0, 1]
    assert env.render().shape == (8, 6, 3)


def test_what_is_no_such_environment():
    with pytest.raises(TypeError, match=r"gymnasium.vector.VectorEnv, not TimeLimit"):
        VectorEnvAdapter(gymnasium.make("CartPole-v1"))
    with pytest.raises(ValueError, match="autoreset_mode='same_step'"):
        VectorEnvAdapter(metafast.envs.make_vec("CartPole-v1", 2))
    with pytest.raises(ValueError, match="copy=True"):
        VectorEnvAdapter(native(copy=False))


def test_made_and_monitored(tmp_path):
    env = make_vec_env("CartPole-v1", 3, seed=2, monitor_dir=str(tmp_path), env_kwargs={"max_episode_steps": 9})
    assert isinstance(env, VecMonitor)
    np.testing.assert_array_equal(env.reset(), native(3).reset(seed=2)[0])
    for _ in range(9):
        _, _, dones, infos = env.step([0, 1, 0])
    assert dones.any()
    assert [info["episode"]["l"] for info, done in zip(infos, dones, strict=True) if done] == [9] * dones.sum()
    env.close()
    with open(tmp_path / "0.monitor.csv") as file:
        assert [int(row["l"]) for row in csv.DictReader(file.readlines()[1:])][-1] == 9


@pytest.mark.parametrize("name", ["wrapper_class", "vec_env_cls", "wrapper_kwargs"])
def test_what_native_environments_cannot_be_given(name):
    with pytest.raises(ValueError, match=f"{name} must be None"):
        make_vec_env("CartPole-v1", **{name: {"of": Monitor}})


def test_ppo_trains():
    """On native environments, from a mean return of about 20 to one of more than 60 in a few thousand steps."""
    env = make_vec_env("CartPole-v1", n_envs=32, seed=1)
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=256, n_epochs=8, learning_rate=3e-3, seed=1, device="cpu")
    assert evaluate_policy(model, make_vec_env("CartPole-v1", n_envs=4, seed=9), n_eval_episodes=8)[0] < 50
    model.learn(6144)
    assert model.ep_info_buffer[-1]["l"] > 0
    assert evaluate_policy(model, make_vec_env("CartPole-v1", n_envs=4, seed=9), n_eval_episodes=8)[0] > 60


def test_normalised():
    env = VecNormalize(make_vec_env("CartPole-v1", n_envs=4, seed=1))
    env.reset()
    for _ in range(30):
        observations, _, dones, infos = env.step(np.ones(4, int))
        for info in np.array(infos)[dones]:
            assert np.abs(info["terminal_observation"]).max() <= env.clip_obs
    assert np.isfinite(observations).all()
