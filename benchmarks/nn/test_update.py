"""PPO's updates of small networks against torch: forward, backward, clipping of the gradient, and Adam.

    pytest benchmarks/nn/test_update.py --benchmark-enable -s

Measured is `metafast.nn.ppo_update` for one epoch over 16384 rows, advantages and returns given, of a 4-64-64-(2, 1)
tanh network: 64 minibatches of 256, or one of all; and one step of a GRU of 64 and of 256 over 256 sequences of 64
steps. `extra_info` records the time of an optimiser's step and, after "over", how many times as fast ours is:
contenders take turns, and that is the median over the rounds. The peers are the usual loop in torch, with each of
torch.optim.Adam's implementations, and with torch.compile of the loss and Adam's fused one.

The GRU's peer is torch.nn.GRU over the whole sequence, the fastest that torch has; it cannot reset its state where an
episode begins, so that no episode begins in the data. Ours looks for them nevertheless.

Before that, the gradients of one step are compared (gradient descent with a step size of 1 tells them) and the
parameters after an epoch of every peer with the same order of the rows.
"""

import copy

import pytest
import torch
from nn.agents import OBSERVATIONS, Agent, own_policy
from nn.turns import can_compile, record, take_turns
from torch import nn

import metafast

NUM_ROWS, MINIBATCH_SIZES = 16384, (256, 16384)
NUM_STEPS, NUM_SEQUENCES = 64, 256
LEARNING_RATE, EPSILON, CLIP, VALUE_COEF, ENTROPY_COEF, MAX_GRAD_NORM = 3e-4, 1e-5, 0.2, 0.5, 0.01, 0.5
ADAMS = {"plain": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}

# torch.compile imports what warns.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.timeout(900)]


def make_rollout(agent, num_steps, num_envs):
    """Random observations and actions, whose log-probabilities are about those of the agent; no episode ends."""
    generator = torch.Generator().manual_seed(1)
    shape = num_steps, num_envs
    observations = torch.randn(num_steps + 1, num_envs, OBSERVATIONS, generator=generator)
    actions = torch.randint(2, shape, generator=generator)
    with torch.no_grad():
        logits, values = agent(observations)
    log_probs = logits[:-1].log_softmax(-1).gather(-1, actions[..., None])[..., 0]
    never, zeros = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape)
    hidden = None if agent.gru is None else torch.zeros(num_envs, agent.gru.hidden_size)
    rollout = metafast.envs.Rollout(
        observations=observations, actions=actions, log_probs=log_probs + 0.2 * torch.randn(shape, generator=generator),
        rewards=zeros, terminated=never, truncated=never, values=values, final_values=zeros,
        final_observations=torch.zeros_like(observations[1:]), starts=never, initial_hidden=hidden, hidden=hidden,
    )  # fmt: skip
    advantages, returns = torch.randn(2, *shape, generator=generator)
    return rollout, advantages, returns


def loss_of(agent, observations, actions, log_probs, advantages, returns):
    logits, values = agent(observations)
    all_log_probs = logits.log_softmax(-1)
    ratio = (all_log_probs.gather(-1, actions[..., None])[..., 0] - log_probs).exp()
    advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
    objective = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages).mean()
    entropy = -(all_log_probs.exp() * all_log_probs).sum(-1).mean()
    return -objective - ENTROPY_COEF * entropy + VALUE_COEF * (values - returns).square().mean()


def make_own_epoch(agent, experience, num_minibatches, **options):
    rollout, advantages, returns = experience
    policy = own_policy(agent)
    optimizer = metafast.nn.Adam(policy, **{"lr": LEARNING_RATE, "eps": EPSILON} | options)

    def epoch(order=None):
        return metafast.nn.ppo_update(
            policy, optimizer, rollout, epochs=1, minibatches=num_minibatches, clip=CLIP, value_coef=VALUE_COEF,
            entropy_coef=ENTROPY_COEF, max_grad_norm=MAX_GRAD_NORM, advantages=advantages, returns=returns,
            order=None if order is None else order[None].numpy(),
        )  # fmt: skip

    return epoch


def make_torch_epoch(agent, experience, num_minibatches, adam, loss_function=loss_of):
    rollout, advantages, returns = experience
    columns = [rollout.observations[:-1], rollout.actions, rollout.log_probs, advantages, returns]
    if agent.gru is None:
        columns = [column.flatten(0, 1) for column in columns]
    parameters = list(agent.parameters())
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, eps=EPSILON, **adam)

    def step(columns):
        optimizer.zero_grad()
        loss_function(agent, *columns).backward()
        nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM, foreach=adam.get("foreach"))
        optimizer.step()

    def epoch(order=None):
        if num_minibatches == 1:
            step(columns)
            return
        order = torch.randperm(len(columns[0])) if order is None else order
        for indices in order.chunk(num_minibatches):
            step([column[indices] for column in columns])

    return epoch


def check_gradient(agent, experience):
    """One step of gradient descent with a step size of 1 takes the clipped gradient from the parameters."""
    own, peer = copy.deepcopy(agent), copy.deepcopy(agent).double()
    make_own_epoch(own, experience, 1, lr=1.0, plain=True)()
    rollout, advantages, returns = experience
    columns = rollout.observations[:-1], rollout.actions, rollout.log_probs, advantages, returns
    columns = [column.double() if column.is_floating_point() else column for column in columns]
    loss_of(peer, *columns).backward()
    norm = nn.utils.clip_grad_norm_(peer.parameters(), MAX_GRAD_NORM)
    assert norm > 0.01
    for before, after, parameter in zip(agent.parameters(), own.parameters(), peer.parameters(), strict=True):
        # Parameters below 1 hold their differences to 6e-8.
        torch.testing.assert_close((before - after).double(), parameter.grad, rtol=1e-3, atol=1e-6)


def measure(benchmark, agent, experience, num_minibatches):
    torch._dynamo.reset()
    check_gradient(agent, experience)
    agents = {"metafast": copy.deepcopy(agent)}
    contenders = {"metafast": make_own_epoch(agents["metafast"], experience, num_minibatches)}
    losses = {f"eager, {name}": (adam, loss_of) for name, adam in ADAMS.items()}
    if agent.gru is None and can_compile():
        losses["compiled"] = ADAMS["fused"], torch.compile(loss_of, dynamic=False)
    for name, (adam, loss_function) in losses.items():
        agents[name] = copy.deepcopy(agent)
        contenders[name] = make_torch_epoch(agents[name], experience, num_minibatches, adam, loss_function)

    rows = experience[1].shape[1] if agent.gru else experience[1].numel()
    order = torch.arange(rows) if num_minibatches == 1 else torch.randperm(rows, generator=torch.Generator())
    for name, epoch in contenders.items():
        epoch(order)
        for own, parameter in zip(agents["metafast"].parameters(), agents[name].parameters(), strict=True):
            torch.testing.assert_close(own, parameter, rtol=0, atol=2e-5)

    rounds = take_turns(benchmark, contenders)
    record(benchmark, rounds, lambda seconds: f"{seconds / num_minibatches * 1e6:.1f} us")
    benchmark.pedantic(contenders["metafast"], rounds=5, iterations=1)


def make_agent(gru_size=None):
    torch.manual_seed(0)
    return Agent(gru_size)


@pytest.mark.parametrize("size", MINIBATCH_SIZES)
def test_mlp(benchmark, num_threads, size):
    benchmark.group = f"PPO update, 64-64, minibatch {size}"
    agent = make_agent()
    measure(benchmark, agent, make_rollout(agent, 16, NUM_ROWS // 16), NUM_ROWS // size)


@pytest.mark.parametrize("gru_size", [64, 256])
def test_gru(benchmark, num_threads, gru_size):
    benchmark.group = f"PPO update, GRU {gru_size}, sequences [{NUM_STEPS}, {NUM_SEQUENCES}]"
    agent = make_agent(gru_size)
    measure(benchmark, agent, make_rollout(agent, NUM_STEPS, NUM_SEQUENCES), 1)
