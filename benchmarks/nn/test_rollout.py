"""CartPole-v1 under a network: the fused rollout against the loop in torch over the same native environment.

    pytest benchmarks/nn/test_rollout.py --benchmark-enable -s

Measured is the collection of T steps of N = 1024 environments with a 4-64-64-(2, 1) tanh network, a GRU of 64, and one
of 256: observations, actions, their log-probabilities, rewards, flags and values. `extra_info` records millions of
environment steps a second and, after "over", how many times as fast ours is: contenders take turns, and that is the
median over the rounds. The peers are loops over tensors made beforehand, in inference mode, with the same parameters;
they need no values of truncated episodes' last observations, which ours gives too:

- eager Categorical: torch.distributions.Categorical, its validation off;
- eager Gumbel: the action that maximises the logits plus Gumbel noise, and a log-softmax;
- compiled Gumbel: the network and that under torch.compile.

Every contender's log-probabilities and values are held to the network's in float64, its actions to the probabilities;
our observations to the environment's, stepped with the actions that were drawn.
"""

import copy

import numpy as np
import pytest
import torch
from nn.agents import Agent, own_policy
from nn.turns import can_compile, record, take_turns
from torch import nn
from torch.distributions import Categorical

import metafast

NUM_ENVS, NUM_STEPS, NUM_STEPS_GRU = 1024, 128, 32
# Sides of the matrices whose products tell the peak.
PEAK_SIZE = 512

# torch.compile imports what warns.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.timeout(900)]


def make_agent(gru_size=None, activation=nn.Tanh):
    torch.manual_seed(0)
    return Agent(gru_size, activation)


def make_env(num_envs=NUM_ENVS):
    env = metafast.envs.make_vec("CartPole-v1", num_envs, autoreset_mode="same_step")
    return env, env.reset(seed=0)[0]


def with_categorical(logits):
    distribution = Categorical(logits=logits, validate_args=False)
    action = distribution.sample()
    return action, distribution.log_prob(action)


def with_gumbel(logits):
    action = (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)
    return action, logits.log_softmax(-1).gather(-1, action[:, None])[:, 0]


def make_act(agent, sample):
    if agent.gru is None:

        def act(observation, hidden, ended):
            logits, value = agent(observation)
            return (*sample(logits), value, hidden)
    else:
        cell = agent.make_cell()

        def act(observation, hidden, ended):
            hidden = cell(observation, hidden.masked_fill(ended[:, None], 0.0))
            logits, value = agent.heads(hidden)
            return (*sample(logits), value, hidden)

    return act


def make_loop(agent, act, num_steps):
    """The loop of torch: a function that collects `num_steps` and returns what it stored."""
    env, first = make_env()
    batch = num_steps, NUM_ENVS
    observations, actions = torch.empty(num_steps + 1, NUM_ENVS, 4), torch.empty(batch, dtype=torch.int64)
    log_probs, rewards, values = torch.empty(batch), torch.empty(batch), torch.empty(num_steps + 1, NUM_ENVS)
    terminated, truncated = torch.empty(2, *batch, dtype=torch.bool)
    observations[-1] = torch.from_numpy(first)
    hidden = torch.zeros(NUM_ENVS, agent.gru.hidden_size if agent.gru else 0)
    ended = torch.zeros(NUM_ENVS, dtype=torch.bool)

    @torch.inference_mode()
    def loop():
        nonlocal hidden, ended
        observation = observations[-1].clone()
        for step in range(num_steps):
            observations[step] = observation
            action, log_prob, value, hidden = act(observation, hidden, ended)
            actions[step], log_probs[step], values[step] = action, log_prob, value
            following, reward, terminations, truncations, _ = env.step(action.numpy())
            rewards[step] = torch.from_numpy(reward)
            terminated[step], truncated[step] = torch.from_numpy(terminations), torch.from_numpy(truncations)
            observation, ended = torch.from_numpy(following), terminated[step] | truncated[step]
        observations[-1] = observation
        values[-1] = act(observation, hidden, ended)[2]
        return observations, actions, log_probs, values, terminated | truncated

    return loop


def make_fused(agent, num_steps):
    env, _ = make_env()
    policy, hidden = own_policy(agent), None

    def fused():
        nonlocal hidden
        rollout = metafast.envs.rollout(env, policy, num_steps, hidden=hidden)
        hidden = rollout.hidden
        return rollout

    return fused


def make_contenders(agent, num_steps, eager_only=False):
    eager = {"eager Categorical": with_categorical, "eager Gumbel": with_gumbel}
    contenders = {"metafast": make_fused(agent, num_steps)}
    contenders |= {name: make_loop(agent, make_act(agent, sample), num_steps) for name, sample in eager.items()}
    if not eager_only and can_compile():
        compiled = torch.compile(make_act(agent, with_gumbel), dynamic=False)
        contenders["compiled Gumbel"] = make_loop(agent, compiled, num_steps)
    return contenders


@torch.inference_mode()
def check(agent, observations, actions, log_probs, values, ended):
    """Hold a first collection, from zero states, to the network in float64."""
    agent = copy.deepcopy(agent).double()
    if agent.gru is None:
        logits, expected_values = agent(observations.double())
    else:
        cell, hidden, steps = agent.make_cell(), torch.zeros(NUM_ENVS, agent.gru.hidden_size).double(), []
        for step, observation in enumerate(observations.double()):
            hidden = cell(observation, hidden.masked_fill(ended[step - 1][:, None], 0.0) if step else hidden)
            steps.append(hidden)
        logits, expected_values = agent.heads(torch.stack(steps))
    assert ended.any()
    all_log_probs = logits[:-1].log_softmax(-1)
    expected = all_log_probs.gather(-1, actions[..., None])[..., 0]
    torch.testing.assert_close(log_probs.double(), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(values.double(), expected_values, rtol=0, atol=2e-5 * expected_values.abs().max().item())
    ones = all_log_probs[..., 1].exp()
    assert (actions - ones).sum().abs() < 5 * (ones * (1 - ones)).sum().sqrt()


def check_all(agent, contenders):
    for call in contenders.values():
        collected = call()
        if isinstance(collected, metafast.envs.Rollout):
            env, _ = make_env()
            for step, action in enumerate(collected.actions):
                np.testing.assert_array_equal(env.step(action)[0], collected.observations[step + 1])
            rollout = collected.torch()
            collected = rollout.observations, rollout.actions, rollout.log_probs, rollout.values, rollout.ended
        check(agent, *collected)


def measure(benchmark, agent, num_steps, **options):
    torch._dynamo.reset()
    contenders = make_contenders(agent, num_steps, **options)
    check_all(agent, contenders)
    rounds = take_turns(benchmark, contenders)
    record(benchmark, rounds, lambda seconds: f"{num_steps * NUM_ENVS / seconds / 1e6:.3f} M steps/s")
    benchmark.pedantic(contenders["metafast"], rounds=5, iterations=1)


def test_mlp(benchmark, num_threads):
    benchmark.group = f"rollout, 64-64, {NUM_ENVS} environments"
    measure(benchmark, make_agent(), NUM_STEPS)


@pytest.mark.parametrize("gru_size", [64, 256])
def test_gru(benchmark, num_threads, gru_size):
    benchmark.group = f"rollout, GRU {gru_size}, {NUM_ENVS} environments"
    measure(benchmark, make_agent(gru_size), NUM_STEPS_GRU, eager_only=True)


@pytest.mark.parametrize("num_threads", [1], indirect=True, ids=["1-thread"])
def test_share_of_peak(benchmark, num_threads):
    """What the matrix part of a step reaches of the peak, and what tanh costs beside relu.

    The peak is the best that torch.mm (MKL, half as fast on some processors) and numpy.matmul (OpenBLAS) reach with
    two square matrices, on one thread in the same run. The kernels' answers to N rows are timed without sampling and
    stepping; then whole rollouts.
    """
    threadpoolctl = pytest.importorskip("threadpoolctl")
    benchmark.group = "share of the peak of float32, one thread"
    observations = np.random.default_rng(0).standard_normal((NUM_ENVS, 4), dtype=np.float32)
    left, right, out = torch.randn(3, PEAK_SIZE, PEAK_SIZE)
    arrays = left.numpy(), right.numpy(), np.empty_like(out.numpy())
    products = {
        "torch.mm": lambda: torch.mm(left, right, out=out),
        "numpy.matmul": lambda: np.matmul(arrays[0], arrays[1], out=arrays[2]),
    }
    contenders = dict(products)
    for name, activation in (("tanh", nn.Tanh), ("relu", nn.ReLU)):
        agent = make_agent(activation=activation)
        native = own_policy(agent).native()

        def answer(native=native):
            return native.network.answer(native.array, observations, NUM_ENVS, None, None)

        with torch.inference_mode():
            logits, expected_values = agent(torch.from_numpy(observations))
        distribution, values = map(torch.from_numpy, answer())
        torch.testing.assert_close(distribution.log_softmax(-1), logits.log_softmax(-1), rtol=0, atol=2e-5)
        torch.testing.assert_close(values, expected_values, rtol=0, atol=2e-5)
        contenders |= {f"answers, {name}": answer, f"rollout, {name}": make_fused(agent, NUM_STEPS)}
    with threadpoolctl.threadpool_limits(1):
        rounds = take_turns(benchmark, contenders)
    if rounds is not None:
        seconds = {name: np.median(times) for name, times in rounds.items()}
        rates = {name: 2 * PEAK_SIZE**3 / seconds[name] for name in products}
        peak = max(rates.values())
        flops = 2 * sum(p.numel() for p in agent.parameters() if p.ndim == 2)
        benchmark.extra_info |= {name: f"{rate / 1e9:.1f} GFLOP/s" for name, rate in rates.items()}
        benchmark.extra_info["flops of a row"] = flops
        for name in list(contenders)[len(products) :]:
            row_seconds = seconds[name] / NUM_ENVS / (NUM_STEPS if name.startswith("rollout") else 1)
            share = flops / row_seconds / peak
            benchmark.extra_info[name] = f"{row_seconds * 1e9:.1f} ns a row or {share:.0%} of the peak"
        for part in ("answers", "rollout"):
            extra = seconds[f"{part}, tanh"] / seconds[f"{part}, relu"] - 1
            benchmark.extra_info[f"tanh adds to {part}"] = f"{extra:.0%}"
    benchmark.pedantic(contenders["answers, tanh"], rounds=5, iterations=1)
