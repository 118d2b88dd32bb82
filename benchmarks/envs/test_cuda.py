"""Environments on a CUDA device: steps a second, and the share of what the card copies in the same run.

    pytest benchmarks/envs/test_cuda.py --benchmark-enable --benchmark-json=cuda.json

A step moves `least_bytes` for each environment: the state (but a task's physics, which are read only) and the count of
steps read and written, the flag of those that wait for a reset read, the action read, observation, reward and flags
written. `share of copy` compares that, per
second, with a copy of one GiB within the device, timed the same way: no step that goes through memory can pass 1. Times
are medians of CUDA events around one step or, as "graph", around the replay of a graph of `STEPS` of them, whose
launches cost the host nothing. Actions are random, drawn beforehand: episodes are as short as a beginner's, and resets
as frequent.
"""

import statistics

import numpy as np
import pytest

import metafast

torch = pytest.importorskip("torch")

STEPS = 20
ROUNDS = 50
MANY = 1_048_576
IDS = ("CartPole-v1", "Pendulum-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1", "CartPoleTasks-v0",
       "PendulumTasks-v0")  # fmt: skip
CASES = [("CartPole-v1", size) for size in (1024, 16_384, MANY)] + [(env_id, MANY) for env_id in IDS[1:]]


@pytest.fixture(scope="module")
def device():
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return torch.device("cuda", torch.cuda.current_device())


def seconds_of(work):
    """The median time of `work` between two events of the stream."""
    times = []
    for _ in range(ROUNDS):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        work()
        after.record()
        after.synchronize()
        times.append(before.elapsed_time(after) / 1e3)
    return statistics.median(times[5:])


@pytest.fixture(scope="module")
def copied_bytes_a_second(device):
    """Bytes read and bytes written."""
    source = torch.empty(2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds_of(lambda: target.copy_(source))


def least_bytes(env, actions):
    """What a step of one environment reads and writes at least, without those that are reset."""
    physics = {"CartPoleTasks-v0": 5, "PendulumTasks-v0": 4}.get(env.spec.id.removeprefix("metafast/"), 0)
    state = 2 * env._batch.state_bytes - 8 * physics
    counts = 2 * 4 + 1
    outputs = 4 * int(np.prod(env.single_observation_space.shape)) + 4 + 2
    return state + counts + outputs + actions[0, 0].numel() * actions.element_size()


def make(env_id, num_envs, device):
    env = metafast.envs.make_vec(env_id, num_envs, copy=False, device=device)
    env.reset(seed=0)
    space = env.single_action_space
    if hasattr(space, "n"):
        actions = torch.randint(int(space.n), (STEPS, num_envs), device=env.device)
    else:
        low, high = (torch.as_tensor(bound, device=env.device) for bound in (space.low, space.high))
        actions = low + (high - low) * torch.rand(STEPS, num_envs, *space.shape, device=env.device)
    for k in range(60):  # until episodes end at all times
        env.step(actions[k % STEPS])
    return env, actions


def record_steps(env, actions):
    """A graph of one step for each row of actions."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        env.step(actions[0])
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for row in actions:
            env.step(row)
    return graph


@pytest.mark.parametrize(("env_id", "num_envs"), CASES)
@pytest.mark.parametrize("how", ["alone", "graph"])
def test_steps(benchmark, device, copied_bytes_a_second, env_id, num_envs, how):
    benchmark.group = f"{env_id}, {num_envs} environments"
    env, actions = make(env_id, num_envs, device)
    if how == "alone":
        rows = iter(range(10**9))
        work, steps = lambda: env.step(actions[next(rows) % STEPS]), 1
    else:
        work, steps = record_steps(env, actions).replay, STEPS
    seconds = seconds_of(work) / steps
    moved = least_bytes(env, actions)
    benchmark.extra_info["billion steps/s"] = round(num_envs / seconds / 1e9, 3)
    benchmark.extra_info["microseconds"] = round(seconds * 1e6, 2)
    benchmark.extra_info["bytes"] = moved
    benchmark.extra_info["copy TB/s"] = round(copied_bytes_a_second / 1e12, 2)
    benchmark.extra_info["share of copy"] = round(moved * num_envs / seconds / copied_bytes_a_second, 3)
    benchmark.pedantic(work, rounds=3)
    env.check_faults()
