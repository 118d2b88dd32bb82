"""A user's Keras program, as it is and with one import changed back to the plain version."""

import inspect
from types import ModuleType

import numpy as np
from trainers import keras_actor_critic, plain_rl

import metafast

FAST_IMPORT = "from metafast import envs, gae\n"
PLAIN_IMPORT = "from trainers.plain_rl import envs, gae\n"


def test_it_learns():
    returns = keras_actor_critic.train(total_steps=40_000, seed=1)
    first, last = np.mean(returns[:100]), np.mean(returns[-100:])
    # Both actions equally often give 22.
    assert first < 40
    assert last > 80


def test_one_import_makes_it_the_plain_version():
    source = inspect.getsource(keras_actor_critic)
    assert source.count(FAST_IMPORT) == 1
    assert source.count("metafast") == 1
    plain = ModuleType("plain_keras_actor_critic")
    exec(compile(source.replace(FAST_IMPORT, PLAIN_IMPORT), plain.__name__, "exec"), plain.__dict__)
    assert (plain.envs, plain.gae) == (plain_rl.envs, plain_rl.gae)
    returns = plain.train(total_steps=4_000, seed=1)
    assert len(returns) > 50
    assert 15 < np.mean(returns) < 60


def test_plain_and_fast_returns_are_the_same_numbers(monkeypatch):
    """With the same environment, every call of a run; episodes end in it, terminated and truncated."""
    ends = np.zeros(2, int)

    def both(*arrays, **options):
        fast, plain = metafast.gae(*arrays, **options), plain_rl.gae(*arrays, **options)
        for ours, theirs in zip(fast, plain, strict=True):
            assert ours.dtype == theirs.dtype == np.float32
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        ends[:] += [flags.sum() for flags in arrays[3:]]
        return fast

    class short_episodes:
        @staticmethod
        def make_vec(env_id, num_envs):
            return metafast.envs.make_vec(env_id, num_envs, max_episode_steps=30)

    monkeypatch.setattr(keras_actor_critic, "gae", both)
    monkeypatch.setattr(keras_actor_critic, "envs", short_episodes)
    keras_actor_critic.train(total_steps=8_000, seed=1)
    assert (ends > 20).all()


def test_it_repeats():
    runs = [keras_actor_critic.train(total_steps=2_000, seed=1) for _ in range(2)]
    assert runs[0] == runs[1]
