"""A PPO iteration on a CUDA device: rollout, GAE and update of CartPole with a 64-64 policy.

    pytest benchmarks/nn/test_cuda.py -s

Timed by events, the median of the rounds after three warm-ups (the second of which records the graphs). The peer is the
same loop in torch as it is usually written, on the same environments on the device, without a CUDA graph, with
torch.optim.Adam's fused step. "limit" is what the bytes set that the loop's operations in torch read and write, counted
in `BYTES`, at the bandwidth of a copy measured in the same run.
"""

import statistics

import pytest
import torch

import metafast

NUM_ROUNDS, NUM_WARM_UPS = 7, 3
EPOCHS, MINIBATCHES, CLIP, VALUE_COEF, MAX_GRAD_NORM, GAMMA, LAM = 4, 4, 0.2, 0.5, 0.5, 0.99, 0.95
# Of one environment step, each operation on 64 features reading and writing 256 bytes: a forward pass is a gather or
# none, two products, two tanh and two heads; a backward pass two products for each layer, its sums and tanh's.
FORWARD = 16 + 256 + 512 + 512 + 512 + 264 + 260
BACKWARD = 264 + 264 + 260 + 256 + 768 + 768 + 512 + 512 + 256 + 768 + 272 + 256
# A rollout infers twice: also the values of last observations.
BYTES = {"rollout": 2 * FORWARD + 350, "gae": 26, "update": EPOCHS * (FORWARD + BACKWARD + 620)}
BYTES["whole"] = sum(BYTES.values())


def on_card(function):
    """Milliseconds of a call."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    function()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def measure(function, clock=on_card):
    for _ in range(NUM_WARM_UPS):
        function()
    return statistics.median(clock(function) for _ in range(NUM_ROUNDS)) / 1e3


def copy_bandwidth(device, clock=on_card, size=2**28):
    source = torch.zeros(size, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / measure(lambda: target.copy_(source), clock)


def make(num_envs, device):
    env = metafast.envs.make_vec("CartPole-v1", num_envs, device="cuda", autoreset_mode="same_step", copy=False)
    env.reset(seed=0)
    torch.manual_seed(0)
    policy = metafast.nn.ActorCritic(env.single_observation_space, env.single_action_space).to(device)
    return env, policy


def own_parts(env, policy, num_steps):
    """Our rollout, GAE, update, and all of them."""
    optimizer = metafast.nn.Adam(policy)
    kept = {"rollout": metafast.envs.rollout(env, policy, num_steps)}

    def gae():
        return estimate(kept["rollout"])

    def learn(rollout):
        metafast.nn.ppo_update(
            policy, optimizer, rollout, epochs=EPOCHS, minibatches=MINIBATCHES, clip=CLIP, value_coef=VALUE_COEF,
            max_grad_norm=MAX_GRAD_NORM,
        )  # fmt: skip

    return {
        "rollout": lambda: kept.update(rollout=metafast.envs.rollout(env, policy, num_steps)),
        "gae": gae,
        "update": lambda: learn(kept["rollout"]),
        "whole": lambda: learn(metafast.envs.rollout(env, policy, num_steps)),
    }


def estimate(rollout):
    return metafast.gae(
        rollout.rewards, rollout.values[:-1], rollout.values[-1], rollout.terminated, rollout.truncated, gamma=GAMMA,
        lam=LAM, final_values=rollout.final_values,
    )  # fmt: skip


def torch_parts(env, policy, num_steps, device):
    """The same in torch, operation by operation."""
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-4, eps=1e-5, fused=True)
    last = [env.reset(seed=0)[0].clone()]
    kept = {}

    @torch.no_grad()
    def act():
        columns = {name: [] for name in ("observations", "actions", "log_probs", "values", "rewards", "ended", "cut")}
        finals = []
        for _ in range(num_steps):
            outputs, values = policy(last[0])
            distribution = torch.distributions.Categorical(logits=outputs, validate_args=False)
            actions = distribution.sample()
            observations, rewards, terminated, truncated, infos = env.step(actions)
            finals.append(torch.where(truncated & ~terminated, policy(infos["final_obs"])[1], 0))
            row = last[0], actions, distribution.log_prob(actions), values, rewards, terminated, truncated
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value.clone())
            last[0] = observations.clone()
        stacked = {name: torch.stack(column) for name, column in columns.items()}
        kept.update(stacked, final_values=torch.stack(finals), last=policy(last[0])[1])

    def gae():
        return metafast.gae(
            kept["rewards"], kept["values"], kept["last"], kept["ended"], kept["cut"], gamma=GAMMA, lam=LAM,
            final_values=kept["final_values"],
        )  # fmt: skip

    def learn():
        advantages, returns = (part.flatten() for part in gae())
        columns = [kept[name].flatten(0, 1) for name in ("observations", "actions", "log_probs")]
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(advantages), device=device).chunk(MINIBATCHES):
                observations, actions, log_probs = (column[rows] for column in columns)
                outputs, values = policy(observations)
                mine = advantages[rows]
                mine = (mine - mine.mean()) / (mine.std() + 1e-8)
                ratios = (outputs.log_softmax(-1).gather(-1, actions[:, None])[:, 0] - log_probs).exp()
                objective = torch.minimum(ratios * mine, ratios.clamp(1 - CLIP, 1 + CLIP) * mine).mean()
                loss = VALUE_COEF * (values - returns[rows]).square().mean() - objective
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(policy.parameters(), MAX_GRAD_NORM)
                optimizer.step()

    def whole():
        act()
        learn()

    act()
    return {"rollout": act, "gae": gae, "update": learn, "whole": whole}


def compare(num_envs, num_steps, device, clock=on_card, bandwidth=None):
    """Print the environment steps per second of each part, of ours and of torch's."""
    bandwidth = bandwidth or copy_bandwidth(device, clock)
    steps = num_envs * num_steps
    print(f"\n{num_envs} environments, {num_steps} steps; a copy moves {bandwidth / 1e12:.2f} TB/s")
    for name, parts in (
        ("metafast", own_parts(*make(num_envs, device), num_steps)),
        ("torch", torch_parts(*make(num_envs, device), num_steps, device)),
    ):
        for part, function in parts.items():
            seconds = measure(function, clock)
            share = BYTES[part] * steps / seconds / bandwidth
            print(f"{name:9s} {part:8s} {steps / seconds / 1e6:10.1f} M steps/s  {share:6.1%} of the limit")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize(("num_envs", "num_steps"), [(1_048_576, 32), (65_536, 128)])
def test_ppo_iteration(num_envs, num_steps):
    compare(num_envs, num_steps, torch.device("cuda", 0))
