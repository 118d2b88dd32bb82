"""The environments on a CUDA device against the CPU's, which are held against gymnasium's: the same bits, all steps."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import metafast

torch = pytest.importorskip("torch")

MODES = ("next_step", "same_step", "disabled")

# Arguments, and a state within which some episodes end by themselves, as lowest and highest of its first components.
KINDS = {
    "CartPole-v1": [{}, {"sutton_barto_reward": True}],
    "Pendulum-v1": [{}, {"g": 9.81}],
    "MountainCar-v0": [{}, {"goal_velocity": 0.02}],
    "MountainCarContinuous-v0": [{}, {"goal_velocity": 0.02}],
    "Acrobot-v1": [{}],
    "CartPoleTasks-v0": [
        {"episodes": 3, "inner_steps": 3},
        {"episodes": 2, "inner_steps": 5, "meta_observation": True},
    ],
    "PendulumTasks-v0": [
        {"episodes": 3, "inner_steps": 4},
        {"episodes": 2, "inner_steps": 5, "max_torque": (0.5, 1.5), "meta_observation": True},
    ],
}
CASES = [(env_id, kwargs) for env_id, variants in KINDS.items() for kwargs in variants]
NAMES = [f"{env_id} {kwargs}" for env_id, kwargs in CASES]
WIDE = {
    "CartPole-v1": [2.4, 3, 0.2, 3],
    "Pendulum-v1": [50, 8],
    "MountainCar-v0": [0.6, 0.07],
    "MountainCarContinuous-v0": [0.6, 0.07],
    "Acrobot-v1": [math.pi, math.pi, 4 * math.pi, 9 * math.pi],
    "CartPoleTasks-v0": [2.4, 3, 0.2, 3],
    "PendulumTasks-v0": [50, 8],
}


def pair(env_id, num_envs, **options):
    return (metafast.envs.make_vec(env_id, num_envs, **options),
            metafast.envs.make_vec(env_id, num_envs, device="cuda", **options))  # fmt: skip


def random_actions(env, rng):
    space = env.single_action_space
    if hasattr(space, "n"):
        return rng.integers(0, space.n, env.num_envs)
    return rng.uniform(1.5 * space.low, 1.5 * space.high, (env.num_envs, *space.shape)).astype(np.float32)


def assert_same(ours, theirs):
    """A tensor of the device's and an array of the CPU's."""
    assert str(ours.dtype).removeprefix("torch.") == str(theirs.dtype)
    np.testing.assert_array_equal(ours.cpu().numpy(), theirs)


def assert_same_state(first, second):
    ours, theirs = first.get_state(), second.get_state()
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key].dtype == value.dtype
        np.testing.assert_array_equal(ours[key], value)


def spread(env, rng):
    """A state of the environment's from which some episodes soon end: positions and speeds anywhere, steps too."""
    state = env.get_state()
    bound = np.array(WIDE[env.spec.id.removeprefix("metafast/")])
    chosen = rng.random(env.num_envs) < 0.7
    values = rng.uniform(-bound, bound, (env.num_envs, len(bound)))
    state["state"][chosen, : len(bound)] = values[chosen]
    state["elapsed_steps"][:] = rng.integers(0, min(env.max_episode_steps, 9), env.num_envs)
    return state


def assert_same_futures(cpu, device_env, rng, num_steps):
    """Steps both with the same actions, resets some now and then; returns how often episodes ended, and were cut."""
    num_terminated = num_truncated = 0
    device = device_env.device
    for step in range(num_steps):
        actions = random_actions(cpu, rng)
        theirs, ours = cpu.step(actions), device_env.step(torch.from_numpy(actions).to(device))
        for mine, other in zip(ours[:4], theirs[:4], strict=True):
            assert_same(mine, other)
        terminated, truncated = theirs[2], theirs[3]
        ended = terminated | truncated
        num_terminated += terminated.sum()
        num_truncated += truncated.sum()
        if cpu.metadata["autoreset_mode"].value == "SameStep":
            np.testing.assert_array_equal(ours[4]["_final_obs"].cpu().numpy(), ended)
            rows = torch.from_numpy(ended)
            assert_same(ours[4]["final_obs"].cpu()[rows], cpu.final_observations[ended])
            assert_same(device_env.final_observations.cpu()[rows], cpu.final_observations[ended])
        else:
            assert ours[4] == {}
            assert_same(device_env.final_observations, cpu.final_observations)
        mask = ended if cpu.metadata["autoreset_mode"].value == "Disabled" else rng.random(cpu.num_envs) < 0.2
        if mask.any() and (step % 5 == 4 or mask is ended):
            expected, _ = cpu.reset(options={"reset_mask": mask})
            found, infos = device_env.reset(options={"reset_mask": torch.from_numpy(mask).to(device)})
            assert infos == {}
            assert_same(found, expected)
    assert_same_state(device_env, cpu)
    return num_terminated, num_truncated


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("env_id", "kwargs"), CASES, ids=NAMES)
def test_the_cpus_trajectories(device, env_id, kwargs, mode, rng):
    cpu, ours = pair(env_id, 257, autoreset_mode=mode, max_episode_steps=13, **kwargs)
    assert_same(ours.reset(seed=11)[0], cpu.reset(seed=11)[0])
    state = spread(cpu, rng)
    for env in (cpu, ours):
        env.set_state(state)
    num_terminated, num_truncated = assert_same_futures(cpu, ours, rng, 18)
    assert num_truncated > 50
    assert num_terminated > 5 or env_id == "Pendulum-v1"


@pytest.mark.parametrize("num_envs", [1, 7, 256, 600])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "MountainCarContinuous-v0"])
def test_batches_of_any_size(device, env_id, num_envs, rng):
    cpu, ours = pair(env_id, num_envs, max_episode_steps=9)
    assert_same(ours.reset(seed=3)[0], cpu.reset(seed=3)[0])
    assert ours.step(torch.from_numpy(random_actions(cpu, np.random.default_rng(0))).to(device))[0].is_contiguous()
    cpu.step(random_actions(cpu, np.random.default_rng(0)))
    assert_same_futures(cpu, ours, rng, 24)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=st.sampled_from(CASES),
    num_envs=st.sampled_from([1, 2, 31, 32, 33, 255, 256, 257, 513]),
    mode=st.sampled_from(MODES),
    max_episode_steps=st.integers(1, 6),
    seed=st.integers(0, 2**64 - 600),
    keep=st.booleans(),
)
def test_any_batch(device, case, num_envs, mode, max_episode_steps, seed, keep):
    env_id, kwargs = case
    options = {"autoreset_mode": mode, "max_episode_steps": max_episode_steps, "copy": not keep}
    cpu, ours = pair(env_id, num_envs, **options, **kwargs)
    assert_same(ours.reset(seed=seed)[0], cpu.reset(seed=seed)[0])
    assert_same_futures(cpu, ours, np.random.default_rng(seed), 9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", KINDS)
def test_the_cpus_states(device, env_id, mode, rng):
    """A run of the CPU's goes on here, and comes back."""
    cpu, ours = pair(env_id, 40, autoreset_mode=mode)
    cpu.reset(seed=[k * 2**58 + 17 for k in range(40)])
    for _ in range(12):
        ended = np.logical_or(*cpu.step(random_actions(cpu, rng))[2:4])
        if mode == "disabled" and ended.any():
            cpu.reset(options={"reset_mask": ended})
    ours.set_state(cpu.get_state())
    assert_same_futures(cpu, ours, rng, 50)
    again = metafast.envs.make_vec(env_id, 40, autoreset_mode=mode)
    again.set_state(ours.get_state())
    assert_same_futures(again, ours, rng, 3)


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 2, 2**64 - 5, [2**64 - 1, 0, 5, 2**63, 6], np.int64(3)])
def test_seeds(device, seed):
    cpu, ours = pair("CartPole-v1", 5)
    assert_same(ours.reset(seed=seed)[0], cpu.reset(seed=seed)[0])
    assert ours.np_random_seed == cpu.np_random_seed
    # The same seed again starts its stream again; none continues it.
    first = ours.reset()[0].clone()
    assert_same(first, cpu.reset()[0])
    assert_same(ours.reset(seed=seed)[0], cpu.reset(seed=seed)[0])
    assert torch.equal(ours.reset()[0], first)


def test_a_first_reset_without_seeds_draws_them(device):
    seeds = [metafast.envs.make_vec("CartPole-v1", 3, device="cuda") for _ in range(2)]
    for env in seeds:
        env.reset(seed=[None, 5, None])
    first, second = (env.np_random_seed for env in seeds)
    assert first[1] == second[1] == 5
    assert len({first[0], first[2], second[0], second[2]}) == 4
    env = metafast.envs.make_vec("CartPole-v1", 3, device="cuda")
    env.reset()
    assert len(set(env.np_random_seed)) == 3


@pytest.mark.parametrize("mode", MODES)
def test_partial_resets_with_seeds(device, mode, rng):
    cpu, ours = pair("CartPole-v1", 300, autoreset_mode=mode)
    for env in (cpu, ours):
        env.reset(seed=1)
    for seed in ([None if k % 3 else k for k in range(300)], 40):
        mask = rng.random(300) < 0.4
        for either in (mask, torch.from_numpy(mask).to(device)):
            assert_same(ours.reset(seed=seed, options={"reset_mask": either})[0],
                        cpu.reset(seed=seed, options={"reset_mask": mask})[0])  # fmt: skip
        assert_same_state(ours, cpu)
    before = ours.get_state()
    ours.reset(options={"reset_mask": torch.zeros(300, dtype=torch.bool, device=device)})
    for key, value in ours.get_state().items():
        np.testing.assert_array_equal(value, before[key])


def test_masks_of_any_stride_and_byte(device):
    cpu, ours = pair("CartPole-v1", 6)
    for env in (cpu, ours):
        env.reset(seed=0)
    mask = torch.tensor([True, False, False, True, True, True, False, False, True, True, False, True], device=device)
    expected = cpu.reset(options={"reset_mask": mask[::2].cpu().numpy().copy()})[0]
    assert_same(ours.reset(options={"reset_mask": mask[::2]})[0], expected)
    odd = torch.tensor([0, 2, 255, 0, 1, 0], dtype=torch.uint8, device=device).view(torch.bool)
    expected = cpu.reset(options={"reset_mask": np.array([0, 1, 1, 0, 1, 0], dtype=bool)})[0]
    assert_same(ours.reset(options={"reset_mask": odd})[0], expected)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "uint16", "uint32"])
def test_integers_of_any_type_and_stride(device, dtype, rng):
    cpu, ours = pair("Acrobot-v1", 300)
    for env in (cpu, ours):
        env.reset(seed=5)
    for stride in (1, 2, 3):
        actions = random_actions(cpu, rng)
        strided = torch.from_numpy(np.repeat(actions, stride)).to(device).to(getattr(torch, dtype))[::stride]
        assert_same(ours.step(strided)[0], cpu.step(actions)[0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_floats_of_any_type_and_stride(device, dtype, rng):
    cpu, ours = pair("Pendulum-v1", 300)
    for env in (cpu, ours):
        env.reset(seed=5)
    for _ in range(3):
        actions = torch.from_numpy(random_actions(cpu, rng)).to(getattr(torch, dtype))
        wide = torch.stack([actions, -actions], dim=2).to(device)
        observations, rewards = ours.step(wide[:, :, 0])[:2]
        expected = cpu.step(actions.to(torch.float32).numpy())
        assert_same(observations, expected[0])
        assert_same(rewards, expected[1])


def test_a_step_captured_into_a_cuda_graph(device, rng):
    if device.type != "cuda":
        pytest.skip("there is no CUDA device to record on")
    cpu = metafast.envs.make_vec("CartPole-v1", 1000, autoreset_mode="same_step")
    ours = metafast.envs.make_vec("CartPole-v1", 1000, autoreset_mode="same_step", copy=False, device="cuda")
    for env in (cpu, ours):
        env.reset(seed=0)
    state = ours.get_state()
    actions = torch.zeros(1000, dtype=torch.int64, device=device)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        ours.step(actions)
    torch.cuda.current_stream().wait_stream(stream)
    ours.set_state(state)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = ours.step(actions)
    for _ in range(60):
        taken = random_actions(cpu, rng)
        actions.copy_(torch.from_numpy(taken))
        graph.replay()
        expected = cpu.step(taken)
        for mine, other in zip(outputs[:4], expected[:4], strict=True):
            assert_same(mine, other)
    assert_same_state(ours, cpu)
