"""Rollout buffers on the kernel, in models that train, are saved and loaded as before."""

import pickle
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from compat import cases
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common import buffers

from metafast.compat import sb3

CLASSES = {buffers.RolloutBuffer: sb3.RolloutBuffer, buffers.DictRolloutBuffer: sb3.DictRolloutBuffer}


class DictCartPole(gymnasium.ObservationWrapper):
    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))
        self.observation_space = spaces.Dict({"state": self.env.observation_space})

    def observation(self, observation):
        return {"state": observation}


def model(algorithm=PPO, *, dict_observations=False, seed=1, **options):
    if dict_observations:
        return algorithm("MultiInputPolicy", DictCartPole(), device="cpu", seed=seed, **options)
    return algorithm("MlpPolicy", "CartPole-v1", device="cpu", seed=seed, **options)


def parameters(trained):
    return torch.cat([parameter.detach().flatten() for parameter in trained.policy.parameters()])


@pytest.mark.parametrize("dict_observations", [False, True], ids=["box", "dict"])
@pytest.mark.parametrize("how", ["in one line", "rollout_buffer_class"])
def test_training_as_before(how, dict_observations):
    """The same parameters after two iterations, whose episodes the kernel had to cut in the right places."""
    options = {"n_steps": 64, "batch_size": 32, "n_epochs": 2, "dict_observations": dict_observations}
    before = model(**options).learn(128)
    if how == "in one line":
        after = sb3.use_metafast_gae(model(**options))
    else:
        after = model(rollout_buffer_class=sb3.DictRolloutBuffer if dict_observations else sb3.RolloutBuffer, **options)
    after.learn(128)
    assert before.rollout_buffer.episode_starts.any()
    assert type(after.rollout_buffer) is CLASSES[type(before.rollout_buffer)]
    np.testing.assert_array_equal(after.rollout_buffer.actions, before.rollout_buffer.actions)
    np.testing.assert_allclose(after.rollout_buffer.advantages, before.rollout_buffer.advantages, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(parameters(after), parameters(before), rtol=1e-4, atol=1e-5)


def test_a2c():
    trained = sb3.use_metafast_gae(model(A2C)).learn(50)
    torch.testing.assert_close(parameters(trained), parameters(model(A2C).learn(50)), rtol=1e-4, atol=1e-5)


def test_save_and_load(tmp_path):
    saved = sb3.use_metafast_gae(model(n_steps=32, batch_size=32)).learn(32)
    saved.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", env=gymnasium.make("CartPole-v1"), device="cpu")
    assert type(loaded.rollout_buffer) is sb3.RolloutBuffer
    torch.testing.assert_close(parameters(loaded), parameters(saved), rtol=0, atol=0)
    loaded.learn(32)
    assert np.isfinite(loaded.rollout_buffer.returns).all()


def test_a_loaded_model_can_be_given_the_kernel(tmp_path):
    model(n_steps=32, batch_size=32).save(tmp_path / "model")
    loaded = sb3.use_metafast_gae(PPO.load(tmp_path / "model", env=gymnasium.make("CartPole-v1"), device="cpu"))
    loaded.learn(32)
    assert type(loaded.rollout_buffer) is sb3.RolloutBuffer


@pytest.mark.parametrize("buffer_class", CLASSES)
def test_a_buffer_alone(buffer_class):
    space = spaces.Dict({"position": cases.BOX}) if buffer_class is buffers.DictRolloutBuffer else cases.BOX
    p = cases.trajectories(12, 3, 0.2, "float32")
    theirs, ours = (cases.sb3_buffer(buffer_class, 12, 3, p, space) for _ in range(2))
    assert sb3.use_metafast_gae(ours) is ours
    assert sb3.use_metafast_gae(ours) is ours
    ours = pickle.loads(pickle.dumps(ours))
    assert type(ours) is CLASSES[buffer_class]
    for buffer in (theirs, ours):
        buffer.compute_returns_and_advantage(torch.from_numpy(p.last), p.done[-1])
    np.testing.assert_allclose(ours.returns, theirs.returns, rtol=1e-5, atol=1e-5)
    ours.full = True
    assert sum(len(batch.returns) for batch in ours.get(batch_size=10)) == 12 * 3


def test_a_class_of_ones_own():
    class Counted(buffers.RolloutBuffer):
        resets = 0

        def reset(self):
            super().reset()
            self.resets += 1

    class OnTheKernel(sb3.RolloutBuffer, Counted):
        pass

    plain = model(rollout_buffer_class=Counted, n_steps=32, batch_size=32)
    with pytest.raises(TypeError, match=r"class MyBuffer\(metafast.compat.sb3.RolloutBuffer, Counted\)"):
        sb3.use_metafast_gae(plain)
    plain.learn(32)
    trained = model(rollout_buffer_class=OnTheKernel, n_steps=32, batch_size=32)
    assert sb3.use_metafast_gae(trained).learn(32).rollout_buffer.resets == 2
    torch.testing.assert_close(parameters(trained), parameters(plain), rtol=1e-4, atol=1e-5)


def test_nan_stays_behind_the_end_of_its_episode():
    p = cases.trajectories(12, 3, 0, "float32")
    p.done[5] = True
    buffer = cases.sb3_buffer(sb3.RolloutBuffer, 12, 3, p, cases.BOX)
    buffer.compute_returns_and_advantage(torch.full((3,), torch.nan), p.done[-1])
    assert np.isfinite(buffer.advantages[:5]).all()
    assert np.isnan(buffer.advantages[5:]).all()


@pytest.mark.parametrize("what", ["a model without", "something else"])
def test_what_has_no_rollout_buffer(what):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = model(DQN, buffer_size=10) if what == "a model without" else object()
    with pytest.raises(TypeError, match="expected a model that has a rollout buffer"):
        sb3.use_metafast_gae(other)
