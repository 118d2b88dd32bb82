"""Users' environments on a CUDA device, or their kernels run on the CPU thread by thread, against the CPU's."""

import numpy as np
import pytest
from envs.compiled import ptx_on_host
from envs.compiled.worlds import WORLDS, random_actions

from metafast.envs.compiled import _device as compiled_device
from metafast.envs.compiled import _ptx

torch = pytest.importorskip("torch")
_ON_HOST = {}


class NoCache:
    @staticmethod
    def load(key):
        return None

    @staticmethod
    def store(key, header, content):
        pass


@pytest.fixture
def make(device, monkeypatch):
    """Makes vector environments on the device of the test."""
    if device.type == "cpu":
        monkeypatch.setattr(_ptx, "_with_libdevice", ptx_on_host.without_libdevice)
        monkeypatch.setattr(_ptx, "_assembly", ptx_on_host.image)
        monkeypatch.setattr(compiled_device, "_cache", NoCache)

    def make_one(world, num_envs, **options):
        if device.type == "cpu":
            monkeypatch.setattr(world, "_device_kernels", _ON_HOST.get(world))
        env = world.make_vec(num_envs, device="cuda", **options)
        if device.type == "cpu":
            _ON_HOST[world] = world._device_kernels
        return env

    return make_one


def on(env, array):
    return torch.from_numpy(np.ascontiguousarray(array)).to(env.device)


def assert_same(ours, theirs, what):
    ours = ours.cpu().numpy() if isinstance(ours, torch.Tensor) else ours
    assert ours.dtype == theirs.dtype, what
    np.testing.assert_array_equal(ours, theirs, err_msg=what)


def assert_same_state(env, cpu):
    ours, theirs = env.get_state(), cpu.get_state()
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert_same(ours[key], theirs[key], key)


def assert_same_step(env, cpu, actions, where):
    outcome, expected = env.step(on(env, actions)), cpu.step(actions)
    for name, ours, theirs in zip(
        ("observations", "rewards", "terminated", "truncated"), outcome, expected, strict=False
    ):
        assert_same(ours, theirs, f"{name} {where}")
    ended = expected[2] | expected[3]
    if str(env.autoreset_mode.value) == "SameStep":
        assert_same(outcome[4]["_final_obs"], ended, f"_final_obs {where}")
        assert_same(outcome[4]["final_obs"].cpu().numpy()[ended], cpu.final_observations[ended], f"final_obs {where}")
    return ended


@pytest.mark.parametrize(
    ("mode", "num_envs"), [("next_step", 257), ("next_step", 1), ("same_step", 7), ("disabled", 7)]
)
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: f"{world.__name__}{WORLDS.index(world)}")
def test_trajectories_are_the_cpus_to_the_bit(make, world, mode, num_envs):
    options = {"autoreset_mode": mode, "max_episode_steps": 6}
    env, cpu = make(world, num_envs, **options), world.make_vec(num_envs, **options)
    assert_same(env.reset(seed=3)[0], cpu.reset(seed=3)[0], "reset")
    for t, actions in enumerate(random_actions(cpu, 15)):
        ended = assert_same_step(env, cpu, actions, f"of step {t}")
        if mode == "disabled" and ended.any():
            options = {"reset_mask": ended}
            assert_same(env.reset(options=options)[0], cpu.reset(options=options)[0], f"reset after step {t}")
    assert_same_state(env, cpu)
