"""GAE on a CUDA device: ``pytest benchmarks/returns/test_cuda.py --benchmark-enable``.

Medians of the card's own times, taken from a CUDA graph of each contender, without what a call costs on the host
(`host_us`). `share` is that of the copy bandwidth, measured in the same run by copying as many bytes as the call must
read and write: two results, rewards and values, a byte for each flag. float32, 1 % of the steps terminated. Every
contender but PufferLib's, whose rewards and ends belong to the step before, is checked against ours.
"""

from types import SimpleNamespace

import pytest
import torch

import metafast

GAMMA, LAM = 0.99, 0.95
# Time-major, [T, N]; and batch-major, [N, T].
SHAPES = [(1024, 4096), (128, 65536), (16384, 8), (131072, 1)]
BATCH_MAJOR_SHAPES = [(4096, 1024), (65536, 128), (4096, 128), (8, 16384)]
BYTES = 4 * 4 + 1
LONGEST_LOOP = 16384


def problem(shape, device, time_axis):
    generator = torch.Generator().manual_seed(0)
    floats = lambda size: torch.randn(size, generator=generator).to(device)  # noqa: E731
    row = shape[1:] if time_axis == 0 else shape[:1]
    return SimpleNamespace(
        rewards=floats(shape),
        values=floats(shape),
        bootstrap=floats(row),
        terminated=(torch.rand(shape, generator=generator) < 0.01).to(device),
        time_axis=time_axis,
    )


def ours(p):
    out = torch.empty_like(p.rewards), torch.empty_like(p.rewards)
    return lambda: metafast.gae(
        p.rewards, p.values, p.bootstrap, p.terminated, gamma=GAMMA, lam=LAM, time_axis=p.time_axis, out=out
    )


def copy(p):
    source = torch.zeros(BYTES * p.rewards.numel() // 2, dtype=torch.uint8, device=p.rewards.device)
    target = torch.ones_like(source)
    return lambda: target.copy_(source)


def torch_loop(p):
    """One torch expression per step, in a CUDA graph like all others."""
    if p.rewards.shape[p.time_axis] > LONGEST_LOOP:
        pytest.skip("a graph of that many steps takes minutes to record")
    rewards, values, terminated = (array.movedim(p.time_axis, 0) for array in (p.rewards, p.values, p.terminated))
    unfinished, advantages = (~terminated).float(), torch.empty_like(rewards)

    def call():
        advantage, next_value = torch.zeros_like(p.bootstrap), p.bootstrap
        for step in reversed(range(len(rewards))):
            delta = rewards[step] + GAMMA * next_value * unfinished[step] - values[step]
            advantage = delta + GAMMA * LAM * unfinished[step] * advantage
            advantages[step] = advantage
            next_value = values[step]
        found = advantages.movedim(0, p.time_axis)
        return found, found + p.values

    return call


def rl_triton(p):
    """Of batch-major arrays, without returns and without a bootstrap: that is taken into the last reward."""
    compute_gae = pytest.importorskip("rl_triton").compute_gae
    rewards, values, terminated = (
        (array if p.time_axis == 1 else array.T).contiguous() for array in (p.rewards, p.values, p.terminated)
    )
    rewards, ends = rewards.clone(), terminated.float()
    rewards[:, -1] += GAMMA * p.bootstrap * (1 - ends[:, -1])
    ends[:, -1] = 1
    back = (lambda array: array) if p.time_axis == 1 else lambda array: array.T

    def call():
        advantages = compute_gae(rewards, values, ends, gamma=GAMMA, lambda_=LAM)
        return back(advantages), back(advantages + values)

    return call


def torchrl(p):
    functional = pytest.importorskip("torchrl.objectives.value.functional")
    if p.rewards.numel() > 2**18:
        pytest.skip("seconds or gigabytes")
    rewards, values, terminated = (
        (array if p.time_axis == 1 else array.T)[..., None].contiguous()
        for array in (p.rewards, p.values, p.terminated)
    )
    next_values = torch.cat([values[:, 1:], p.bootstrap[:, None, None]], 1)

    def call():
        results = functional.vec_generalized_advantage_estimate(
            GAMMA, LAM, values, next_values, rewards, terminated, terminated
        )
        return tuple(result[..., 0] if p.time_axis == 1 else result[..., 0].T for result in results)

    return call


def pufferlib(p):
    pytest.importorskip("pufferlib._C")
    rewards, values, ends = (
        (array if p.time_axis == 1 else array.T).float().contiguous() for array in (p.rewards, p.values, p.terminated)
    )
    ratios, advantages = torch.ones_like(rewards), torch.zeros_like(rewards)

    def call():
        torch.ops.pufferlib.compute_puff_advantage(values, rewards, ends, ratios, advantages, GAMMA, LAM, 1.0, 1.0)
        return advantages, advantages + values

    return call


CONTENDERS = [ours, torch_loop, rl_triton, torchrl, pufferlib]


def recorded(call):
    """The call as a CUDA graph, or as it is where it cannot be recorded."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError:
        torch.cuda.synchronize()
        return call
    return graph.replay


def median_us(call, repetitions=50):
    """What the card takes for a call."""
    begins, ends = ([torch.cuda.Event(enable_timing=True) for _ in range(repetitions)] for _ in range(2))
    for begin, end in zip(begins, ends, strict=True):
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    times = sorted(begin.elapsed_time(end) * 1e3 for begin, end in zip(begins, ends, strict=True))
    return times[repetitions // 2]


def assert_agrees(results, expected):
    for result, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(result, wanted, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("shape", "time_axis"), [(shape, 0) for shape in SHAPES] + [(shape, 1) for shape in BATCH_MAJOR_SHAPES], ids=str
)
@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.__name__)
def test_gae_on_the_device(benchmark, contender, shape, time_axis):
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    benchmark.group = f"gae {shape}, {'batch' if time_axis else 'time'}-major, {torch.cuda.get_device_name()}"
    p = problem(shape, "cuda", time_axis)
    call = contender(p)
    if contender not in (ours, pufferlib):
        assert_agrees(call(), ours(p)())
    copy_us = median_us(recorded(copy(p)))
    us = median_us(recorded(call))
    bandwidth = BYTES * p.rewards.numel() / copy_us / 1e6
    benchmark.extra_info.update(
        us=round(us, 1), copy_us=round(copy_us, 1), copy_tb_per_s=round(bandwidth, 2), share=round(copy_us / us, 2)
    )

    def on_the_host():
        call()
        torch.cuda.synchronize()

    benchmark.pedantic(on_the_host, rounds=20, warmup_rounds=3)
