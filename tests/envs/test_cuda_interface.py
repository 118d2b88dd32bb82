"""What the vector environment on a CUDA device takes, refuses, remembers and reports."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, ResetNeeded

import metafast
from metafast import _device
from metafast.envs._device_vector_env import DeviceVectorEnv

torch = pytest.importorskip("torch")


def make(env_id="CartPole-v1", num_envs=6, **options):
    return metafast.envs.make_vec(env_id, num_envs, device="cuda", **options)


def ready(env_id="CartPole-v1", num_envs=6, seed=0, **options):
    env = make(env_id, num_envs, **options)
    env.reset(seed=seed)
    return env


def zeros(env, dtype=torch.int64):
    return torch.zeros(env.num_envs, dtype=dtype, device=env.device)


def test_what_a_step_returns(device):
    env = make("Pendulum-v1", 300)
    observations, infos = env.reset(seed=0)
    assert (observations.shape, observations.dtype, infos) == ((300, 3), torch.float32, {})
    step = env.step(torch.zeros(300, 1, device=device))
    assert [(tuple(array.shape), array.dtype) for array in step[:4]] == [
        ((300, 3), torch.float32), ((300,), torch.float32), ((300,), torch.bool), ((300,), torch.bool)]  # fmt: skip
    assert step[4] == {}
    assert {array.device for array in step[:4]} == {observations.device} == {env.device} == {device}


def test_spaces_and_names(device):
    env, cpu = make(max_episode_steps=9, autoreset_mode="same_step"), metafast.envs.make_vec("CartPole-v1", 6)
    assert isinstance(env, gymnasium.vector.VectorEnv)
    assert env.observation_space == cpu.observation_space
    assert env.action_space == cpu.action_space
    assert (env.num_envs, env.max_episode_steps, env.autoreset_mode.value) == (6, 9, "SameStep")
    assert env.metadata["autoreset_mode"] is env.autoreset_mode
    assert repr(env) == "DeviceVectorEnv(metafast/CartPole-v1, num_envs=6)"
    assert env.spec.kwargs["device"] == str(device)
    assert "num_threads" not in env.spec.kwargs


def test_gymnasium_makes_it(device):
    env = gymnasium.make_vec("metafast/CartPole-v1", num_envs=3, device="cuda", max_episode_steps=4, copy=False)
    assert isinstance(env.unwrapped, DeviceVectorEnv)
    assert (env.num_envs, env.max_episode_steps, env.copy) == (3, 4, False)
    if device.type == "cuda":
        assert gymnasium.make_vec(env.spec).unwrapped.device == device


def test_devices_by_name(device):
    for name in (None, "cpu", torch.device("cpu")):
        assert isinstance(metafast.envs.make_vec("CartPole-v1", 2, device=name), metafast.envs.NativeVectorEnv)
    for name in ("cuda", "cuda:0", torch.device("cuda"), torch.device("cuda", 0)):
        assert metafast.envs.make_vec("CartPole-v1", 2, device=name).device == device
    for name in ("gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:1", 0, "meta"):
        with pytest.raises(ValueError, match="device must be"):
            metafast.envs.make_vec("CartPole-v1", 2, device=name)


def test_a_device_that_is_not_there():
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    with pytest.raises(ValueError, match="device must be one of" if count else "torch finds none"):
        _device.device_of(f"cuda:{count}")


@pytest.mark.parametrize(
    ("options", "name"), [({"num_threads": 2}, "num_threads"), ({"exact": True}, "exact"),
                          ({"render_mode": "rgb_array"}, "render_mode")])  # fmt: skip
def test_what_only_the_cpu_does(device, options, name):
    with pytest.raises(ValueError, match=f"{name} must be .* with device='cuda'"):
        make(**options)


def test_one_environment_by_itself_is_the_cpus():
    with pytest.raises(TypeError, match="device"):
        metafast.envs.make("CartPole-v1", device="cuda")


BAD_ACTIONS = {
    "list": (lambda at: [0] * 6, TypeError, "actions must be a torch tensor on .*list"),
    "numpy": (lambda at: np.zeros(6, dtype=np.int64), TypeError, "actions must be a torch tensor on .*ndarray"),
    "None": (lambda at: None, TypeError, "actions must be .*NoneType"),
    "another device": (lambda at: torch.zeros(6, dtype=torch.int64, device="meta"), TypeError, "actions is on meta"),
    "floats": (lambda at: torch.zeros(6, device=at), ValueError, r"actions must be integers.*torch\.float32"),
    "bools": (lambda at: torch.zeros(6, dtype=torch.bool, device=at), ValueError, r"integers.*torch\.bool"),
    "complex": (lambda at: torch.zeros(6, dtype=torch.complex64, device=at), ValueError, r"integers.*complex"),
    "too few": (lambda at: torch.zeros(5, dtype=torch.int64, device=at), ValueError, r"shape \(6,\).*\(5,\)"),
    "a column": (lambda at: torch.zeros(6, 1, dtype=torch.int64, device=at), ValueError, r"\(6,\).*\(6, 1\)"),
}


@pytest.mark.parametrize("kind", BAD_ACTIONS)
def test_actions_that_are_refused_at_once(device, kind):
    actions, error, message = BAD_ACTIONS[kind]
    env = ready()
    before = env.get_state()
    with pytest.raises(error, match=message):
        env.step(actions(device))
    for key, value in env.get_state().items():
        np.testing.assert_array_equal(value, before[key])


def test_floats_are_wanted_where_the_space_is_a_box(device):
    env = ready("Pendulum-v1", 4)
    with pytest.raises(ValueError, match=r"finite floats of shape \(4, 1\).*torch.int64"):
        env.step(torch.zeros(4, 1, dtype=torch.int64, device=device))


BAD_MASKS = {
    "list": ([True] * 6, TypeError, "reset_mask.*list"),
    "None": (None, TypeError, "reset_mask.*NoneType"),
    "numpy without True": (np.zeros(6, dtype=bool), ValueError, "at least one True"),
    "numpy of ints": (np.ones(6, dtype=int), TypeError, "bool"),
    "ints": (torch.ones(6, dtype=torch.uint8), TypeError, "dtype bool.*uint8"),
    "shape": (torch.ones(5, dtype=torch.bool), ValueError, r"\(6,\).*\(5,\)"),
    "another device": (torch.ones(6, dtype=torch.bool, device="meta"), TypeError, "reset_mask.* is on meta"),
}


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_masks_that_are_refused(device, kind):
    mask, error, message = BAD_MASKS[kind]
    env = ready()
    if isinstance(mask, torch.Tensor) and mask.device.type == "cpu":
        mask = mask.to(device)
    with pytest.raises(error, match=message):
        env.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="unknown key 'mask'"):
        env.reset(options={"mask": mask})


@pytest.mark.parametrize(
    ("seed", "error"), [(-1, ValueError), (2**64 - 5, ValueError), ([1, 2], ValueError), (1.0, TypeError),
                        (True, TypeError), ([0] * 5 + [2**64], ValueError)])  # fmt: skip
def test_seeds_that_are_refused(device, seed, error):
    env = ready()
    before = env.get_state()
    with pytest.raises(error, match="seed must"):
        env.reset(seed=seed)
    for key, value in env.get_state().items():
        np.testing.assert_array_equal(value, before[key])


def test_reset_comes_first(device):
    env = make()
    for call in (lambda: env.step(zeros(env)), env.get_state):
        with pytest.raises(ResetNeeded, match="reset"):
            call()
    with pytest.raises(ResetNeeded, match="reset_mask"):
        env.reset(options={"reset_mask": torch.arange(6, device=device) < 3})
    env.reset(options={"reset_mask": torch.ones(6, dtype=torch.bool, device=device)})
    env.step(zeros(env))


def found(env, call):
    """Whether `call` raises on a device that has not reached the fault yet is left to chance: wait for it."""
    if env.device.type == "cuda":
        torch.cuda.synchronize(env.device)
    return call()


@pytest.mark.parametrize("bad", [-1, 2, 2**32, -(2**63)])
@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_an_action_that_is_none_leaves_its_environment_alone(device, bad, mode):
    env, other = ready(num_envs=300, autoreset_mode=mode), ready(num_envs=300, autoreset_mode=mode)
    actions = zeros(env)
    actions[271] = bad
    before = env.get_state()
    seen = other.reset(seed=0)[0].clone()
    observations, rewards, terminated, truncated, _ = env.step(actions)
    expected = other.step(zeros(other))
    with pytest.raises(ValueError, match=r"actions must lie in \[0, 2\).*environment 271"):
        env.check_faults()
    env.check_faults()  # told once
    others = torch.arange(300, device=device) != 271
    assert torch.equal(observations[others], expected[0][others])
    assert torch.equal(rewards, others.float())
    assert not (terminated | truncated).any()
    assert torch.equal(observations[271], seen[271])
    after = env.get_state()
    for key, value in other.get_state().items():
        np.testing.assert_array_equal(after[key][others.cpu().numpy()], value[others.cpu().numpy()])
        np.testing.assert_array_equal(after[key][271], before[key][271])
    env.step(zeros(env))
    env.check_faults()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "MountainCarContinuous-v0", "PendulumTasks-v0"])
def test_a_float_that_is_not_finite_is_no_action(device, env_id, bad):
    env = ready(env_id, 5)
    before = env.get_state()
    actions = torch.zeros(5, 1, device=device)
    actions[3] = bad
    assert env.step(actions)[1][3] == 0
    with pytest.raises(ValueError, match=r"actions must be finite.*environment 3"):
        env.check_faults()
    after = env.get_state()
    np.testing.assert_array_equal(after["state"][3], before["state"][3])
    np.testing.assert_array_equal(after["elapsed_steps"], [1, 1, 1, 0, 1])


def test_an_ended_environment_is_not_stepped_in_disabled_mode(device):
    env = ready(num_envs=4, autoreset_mode="disabled", max_episode_steps=1)
    env.step(zeros(env))
    env.reset(options={"reset_mask": torch.tensor([True, True, False, True], device=device)})
    before = env.get_state()
    _, rewards, terminated, truncated, _ = env.step(zeros(env))
    assert rewards.tolist() == [1, 1, 0, 1]
    assert (terminated | truncated).tolist() == [True, True, False, True]
    with pytest.raises(ValueError, match=r"environment 2 has ended.*reset_mask"):
        env.check_faults()
    np.testing.assert_array_equal(env.get_state()["state"][2], before["state"][2])


def test_the_first_fault_is_told(device):
    """Of steps in a row without a look between them, as those of a graph are."""
    env = ready(num_envs=300)
    outputs = env.step(zeros(env))[:4]
    for index in (271, 3):
        actions = zeros(env)
        actions[index] = 7
        env._kernels.step(env._batch, actions, *outputs, None)
    with pytest.raises(ValueError, match="environment 271 "):
        env.check_faults()
    env.check_faults()


CALLS = {
    "step": lambda env: env.step(zeros(env)),
    "reset": lambda env: env.reset(),
    "get_state": lambda env: env.get_state(),
    "set_state": lambda env: env.set_state(ready().get_state()),
    "close": lambda env: env.close(),
}


@pytest.mark.parametrize("call", CALLS)
def test_the_next_call_tells_of_a_fault(device, call):
    env = ready()
    env.step(torch.full((6,), 9, device=device))
    with pytest.raises(ValueError, match=r"actions must lie in \[0, 2\).*environment [0-5] "):
        found(env, lambda: CALLS[call](env))
    if call == "close":
        assert env.closed
        env.close()
    else:
        env.step(zeros(env))
        env.check_faults()


def test_bad_states_are_refused(device):
    env = ready(autoreset_mode="same_step")
    state = env.get_state()
    for key, value in (("state", np.full((6, 4), np.nan)), ("elapsed_steps", np.full(6, 501, dtype=np.int32)),
                       ("ended", np.ones(6, dtype=bool)), ("seeds", np.zeros(6))):  # fmt: skip
        with pytest.raises(ValueError, match="state"):
            env.set_state(state | {key: value})
    for key, value in env.get_state().items():
        np.testing.assert_array_equal(value, state[key])


def test_the_state_is_a_copy(device):
    env = ready()
    state = env.get_state()
    given = {key: value.copy() for key, value in state.items()}
    for value in given.values():
        value.flags.writeable = False
    env.set_state(given)
    for value in state.values():
        value[...] = 1
    assert np.abs(env.get_state()["state"]).max() < 0.06


def test_fresh_tensors_are_nobody_elses(device):
    env = ready(autoreset_mode="same_step", max_episode_steps=2)
    observations = env.reset(seed=0)[0]
    steps = [env.step(zeros(env)) for _ in range(4)]
    infos = [step[4][name] for step in steps for name in ("final_obs", "_final_obs")]
    tensors = [observations, *infos, *(tensor for step in steps for tensor in step[:4])]
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)
    assert torch.equal(steps[1][4]["final_obs"] != 0, steps[3][4]["final_obs"] != 0)


def test_copy_false_gives_the_same_tensors(device):
    env, fresh = ready(copy=False, autoreset_mode="same_step"), ready(autoreset_mode="same_step")
    first = env.reset(seed=0)[0]
    addresses = None
    for _ in range(30):
        actions = torch.ones(6, dtype=torch.int64, device=device)
        step, expected = env.step(actions), fresh.step(actions)
        assert step[0] is first
        for array, other in zip(step[:4], expected[:4], strict=True):
            assert torch.equal(array, other)
        found_at = [array.data_ptr() for array in (*step[:4], step[4]["final_obs"])]
        assert addresses in (None, found_at)
        addresses = found_at
    first.fill_(1e9)  # the caller may write to it: no state lives there
    assert env.step(zeros(env))[0].abs().max() < 10


@pytest.mark.parametrize("duplicate", [lambda env: pickle.loads(pickle.dumps(env)), copy.deepcopy])
@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_a_duplicate_has_the_same_future(device, duplicate, mode):
    env = ready(autoreset_mode=mode, max_episode_steps=7, sutton_barto_reward=True, copy=False)
    for _ in range(7):
        env.step(zeros(env))
    again = duplicate(env)
    assert (again.metadata, again.device, again.copy, again.spec) == (env.metadata, env.device, False, env.spec)
    assert torch.equal(again.final_observations, env.final_observations)
    if mode == "disabled":
        for each in (env, again):
            each.reset()
    for _ in range(9 if mode != "disabled" else 5):
        for ours, theirs in zip(env.step(zeros(env))[:4], again.step(zeros(env))[:4], strict=True):
            assert torch.equal(ours, theirs)


def test_a_duplicate_of_one_that_was_not_reset_or_is_closed(device):
    env = make()
    with pytest.raises(ResetNeeded):
        pickle.loads(pickle.dumps(env)).step(zeros(env))
    env.close()
    with pytest.raises(ClosedEnvironmentError):
        pickle.loads(pickle.dumps(env)).reset()


def test_a_closed_environment_says_so(device):
    env = ready()
    actions = zeros(env)
    env.close()
    env.close()
    assert env.closed
    for call in (lambda: env.step(actions), env.reset, env.get_state, lambda: env.final_observations, env.check_faults):
        with pytest.raises(ClosedEnvironmentError, match="closed"):
            call()


def test_attributes(device):
    env = ready()
    assert env.np_random_seed == tuple(range(6))
    assert env.get_attr("max_episode_steps") == (500,) * 6
    env.set_attr("elapsed_steps", 7)
    assert env.call("elapsed_steps") == (7,) * 6
    with pytest.raises(AttributeError, match="gravity"):
        env.set_attr("gravity", 1)


def test_transitions_take_its_steps(device):
    """The same transitions as of the CPU's steps, on the device of the values."""
    cpu = metafast.envs.make_vec("CartPole-v1", 5, autoreset_mode="same_step", max_episode_steps=4)
    env = make(num_envs=5, autoreset_mode="same_step", max_episode_steps=4)
    results = []
    for each, actions in ((cpu, np.zeros(5, dtype=np.int64)), (env, torch.zeros(5, dtype=torch.int64, device=device))):
        each.reset(seed=2)
        steps = [each.step(actions) for _ in range(9)]
        results.append(metafast.envs.transitions(each, steps, None, lambda observations: observations[:, 0]))
    for theirs, ours in zip(*results, strict=True):
        assert ours.device == device
        np.testing.assert_array_equal(ours.cpu().numpy(), theirs)


class OnTheHost(gymnasium.vector.VectorWrapper):
    """The environment for those who count in NumPy; its faults are told at once."""

    def reset(self, *, seed=None, options=None):
        observations, infos = self.env.reset(seed=seed, options=options)
        return to_host(observations), infos

    def step(self, actions):
        step = self.env.step(torch.from_numpy(np.array(actions)).to(self.env.unwrapped.device))
        self.env.unwrapped.check_faults()
        return tuple(to_host(part) for part in step)


def to_host(part):
    if isinstance(part, dict):
        return {key: to_host(value) for key, value in part.items()}
    return part.to("cpu", copy=True).numpy()


@pytest.mark.parametrize(("env_id", "mode"), [("CartPole-v1", "same_step"), ("Pendulum-v1", "disabled")])
def test_what_the_checker_finds(device, env_id, mode):
    """Nothing but what the docstring says: where an action is none, the other environments are stepped."""
    env = OnTheHost(make(env_id, 2, autoreset_mode=mode, max_episode_steps=6))
    report = metafast.envs.check_vector_env(env, num_steps=20, raise_on_error=False)
    assert {finding.check for finding in report.findings} == {"actions.unchanged"}
    assert len(report.passed) > 30
