"""Bandits, random processes and learners on a CUDA device: steps a second, and the share of what the card copies.

    pytest benchmarks/envs/test_cuda_distributions.py --benchmark-enable --benchmark-json=cuda_distributions.json

Times are medians of CUDA events around the replay of a graph of steps, as in test_cuda.py. "together": all tasks begin
in the same step, which is in one of five graphs and so not in the median. "apart": tasks are at any of their steps, so
that some begin in each. The bytes are those that a step reads and writes at least, without tasks that begin: the parts
of the state that it needs, seed and episode where it draws numbers, the counts, the action, observation, reward and
flags. A bandit's chance, which lies alone, is the 32 bytes that memory moves for it.
"""

import pytest

import metafast

torch = pytest.importorskip("torch")
from envs.test_cuda import STEPS, record_steps, seconds_of  # noqa: E402

COUNTS, OUTPUTS, STREAM = 2 * 4 + 1, 4 + 2, 16
# By id: arguments, bytes.
TASKS = {
    "Bandit-v0": ({"arms": 10, "pulls": 100}, 32 + 4 + (16 + STREAM) // 4 + COUNTS + 8 + 4 + OUTPUTS),
    "TabularMDP-v0": ({"meta_observation": True}, 64 + 2 * 8 + 8 + STREAM + COUNTS + 8 + 4 * 17 + OUTPUTS),
    # Features and targets; parameters, momentum and gradient before and after, the previous gradient; the observation.
    "LearnerTasks-v0": ({"steps": 100}, 8 * (120 + 7 * 5 + 6 + 10) + COUNTS + 4 + 4 * 10 + OUTPUTS),
}
MANY = 262_144


@pytest.fixture(scope="module")
def copied_bytes_a_second():
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds_of(lambda: target.copy_(source))


def make(env_id, num_envs, begin):
    """The environments and actions for `STEPS` steps."""
    env = metafast.envs.make_vec(env_id, num_envs, copy=False, device="cuda", **TASKS[env_id][0])
    env.reset(seed=0)
    space = env.single_action_space
    if hasattr(space, "n"):
        actions = torch.randint(int(space.n), (STEPS, num_envs), device=env.device)
    else:
        actions = -1 - torch.rand(STEPS, num_envs, *space.shape, device=env.device)
    if begin == "apart":
        for k in range(100):
            env.reset(options={"reset_mask": torch.rand(num_envs, device=env.device) < 0.01})
            env.step(actions[k % STEPS])
    return env, actions


@pytest.mark.parametrize("env_id", TASKS)
@pytest.mark.parametrize("begin", ["together", "apart"])
def test_steps(benchmark, copied_bytes_a_second, env_id, begin):
    benchmark.group = f"{env_id}, {MANY} environments"
    env, actions = make(env_id, MANY, begin)
    graph = record_steps(env, actions)
    seconds = seconds_of(graph.replay) / STEPS
    least = TASKS[env_id][1]
    benchmark.extra_info["billion steps/s"] = round(MANY / seconds / 1e9, 3)
    benchmark.extra_info["microseconds"] = round(seconds * 1e6, 2)
    benchmark.extra_info["bytes"] = least
    benchmark.extra_info["copy TB/s"] = round(copied_bytes_a_second / 1e12, 2)
    benchmark.extra_info["share of copy"] = round(least * MANY / seconds / copied_bytes_a_second, 3)
    benchmark.pedantic(graph.replay, rounds=3)
    env.check_faults()
