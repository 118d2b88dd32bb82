"""The table of `metafast bench --device cuda`: the kernels on the card beside what torch does there.

Times are medians between events on the stream, after a warm-up; each is of one call in a queue of them, as in training.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch

import metafast
import metafast.attention
import metafast.envs
from metafast._bench import Row, make_row
from metafast.trainers import UsageError
from metafast.trainers._learner import find_device

# Numbers of environments; [T, N]; (batch, queries, keys, width); environments and steps of a rollout.
NUM_ENVS = (1024, 16384, 1048576)
GAE_SHAPES = ((128, 1024), (1024, 4096), (128, 65536))
ADDITIVE_SIZES = ((64, 16, 64, 128), (16, 256, 256, 128))
ROLLOUT_SIZE = (65536, 16)


def find_card(name: str) -> torch.device:
    """Return the CUDA device of that name; UsageError says why it cannot be used."""
    device = find_device(name)
    if device.type != "cuda":
        raise UsageError(f"device must be cpu or a CUDA device, not {name!r}")
    return device


def _median_seconds(function: Callable[[], Any], rounds: int = 20, calls: int = 5) -> float:
    for _ in range(3):
        function()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
    events[0].record()
    for event in events[1:]:
        for _ in range(calls):
            function()
        event.record()
    events[-1].synchronize()
    milliseconds = sorted(before.elapsed_time(after) for before, after in itertools.pairwise(events))
    return float(milliseconds[rounds // 2]) / calls * 1e-3


def _bench_envs(device: torch.device) -> list[Row]:
    rows = []
    for num_envs in NUM_ENVS:
        ours = metafast.envs.make_vec("CartPole-v1", num_envs, device=device, copy=False)
        peer = metafast.envs.make_vec("CartPole-v1", num_envs)
        ours.reset(seed=0)
        peer.reset(seed=0)
        actions = torch.randint(0, 2, (num_envs,), device=device)
        on_host = actions.cpu().numpy()

        def step(ours: Any = ours, actions: Any = actions) -> Any:
            return ours.step(actions)

        def step_on_host(peer: Any = peer, actions: Any = on_host) -> Any:
            return peer.step(actions)

        what = f"CartPole-v1 step, {num_envs}"
        rows.append(make_row(what, "metafast, CPU", _median_seconds(step), _median_seconds(step_on_host)))
    return rows


def _gae_in_torch(rewards: Any, values: Any, next_values: Any, terminated: Any) -> Any:
    advantages, carried, successor = torch.empty_like(rewards), torch.zeros_like(next_values), next_values
    for step in reversed(range(len(rewards))):
        alive = 1.0 - terminated[step].float()
        carried = rewards[step] + 0.99 * successor * alive - values[step] + 0.99 * 0.95 * alive * carried
        advantages[step], successor = carried, values[step]
    return advantages


def _bench_returns(device: torch.device) -> list[Row]:
    rows = []
    for shape in GAE_SHAPES:
        rewards, values = torch.randn(2, *shape, device=device)
        arguments = rewards, values, values[-1].clone(), torch.rand(shape, device=device) < 0.01

        def ours(arguments: Any = arguments) -> Any:
            return metafast.gae(*arguments, gamma=0.99, lam=0.95)

        def theirs(arguments: Any = arguments) -> Any:
            return _gae_in_torch(*arguments)

        torch.testing.assert_close(ours()[0], theirs(), rtol=1e-3, atol=1e-3)
        copied = torch.empty(18 * rewards.numel() // 2, dtype=torch.uint8, device=device)
        into = torch.empty_like(copied)

        def copy(into: Any = into, copied: Any = copied) -> Any:
            return into.copy_(copied)

        what, seconds = f"gae, {shape} float32", _median_seconds(ours)
        rows.append(make_row(what, "torch loop", seconds, _median_seconds(theirs, rounds=3, calls=1)))
        rows.append(make_row(what, "copying as many bytes", seconds, _median_seconds(copy)))
    return rows


def _additive_in_torch(query: Any, key: Any, value: Any, score_weight: Any) -> Any:
    scores = torch.tanh(query[:, :, None] + key[:, None]) @ score_weight
    return scores.softmax(-1) @ value


def _bench_attention(device: torch.device) -> list[Row]:
    rows = []
    for batch, queries, keys, width in ADDITIVE_SIZES:
        query = torch.randn(batch, queries, width, device=device)
        key, value = torch.randn(2, batch, keys, width, device=device)
        arguments = query, key, value, torch.randn(width, device=device)

        def ours(arguments: Any = arguments) -> Any:
            return metafast.attention.additive_attention(*arguments)

        def theirs(arguments: Any = arguments) -> Any:
            return _additive_in_torch(*arguments)

        torch.testing.assert_close(ours(), theirs(), rtol=1e-3, atol=1e-3)
        what = f"additive, ({batch}, {queries}, {keys}, {width})"
        rows.append(make_row(what, "torch, eager", _median_seconds(ours), _median_seconds(theirs)))
    return rows


def _bench_nn(device: torch.device) -> list[Row]:
    num_envs, num_steps = ROLLOUT_SIZE
    env = metafast.envs.make_vec("CartPole-v1", num_envs, autoreset_mode="same_step", device=device, copy=False)
    policy = metafast.nn.ActorCritic(env.single_observation_space, env.single_action_space).to(device)
    first, _ = env.reset(seed=0)

    def act() -> Any:
        return metafast.envs.rollout(env, policy, num_steps)

    @torch.no_grad()
    def act_in_torch() -> None:
        observations = first
        for _ in range(num_steps):
            logits, _values = policy(observations)
            distribution = torch.distributions.Categorical(logits=logits)
            actions = distribution.sample()
            distribution.log_prob(actions)
            observations = env.step(actions)[0]

    ours, theirs = _median_seconds(act, rounds=5, calls=1), _median_seconds(act_in_torch, rounds=5, calls=1)
    return [make_row(f"rollout, 64-64, {num_steps} steps of {num_envs}", "torch, eager", ours, theirs)]


ROOMS = {"envs": _bench_envs, "returns": _bench_returns, "attention": _bench_attention, "nn": _bench_nn}


def run(room: str | None, device_name: str) -> list[Row]:
    """Measure one room, or all, on a CUDA device."""
    device = find_card(device_name)
    return [row for name, bench in ROOMS.items() if room in (None, name) for row in bench(device)]


def title(device_name: str) -> str:
    """Name the card in the table's heading."""
    return f"medians of calls in a queue, {torch.cuda.get_device_name(torch.device(device_name))}"
