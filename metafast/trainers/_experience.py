"""Collecting experience with either engine: the fused native loop, or torch and an environment of any kind."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

import metafast
from metafast.data import breast_cancer
from metafast.envs import NativeVectorEnv, Rollout
from metafast.nn import ActorCritic
from metafast.trainers import UsageError, _distributed, _environments
from metafast.trainers._environments import AnyVectorEnv

Engine = Literal["auto", "native", "torch"]


class Actor(Protocol):
    """Who acts: a policy, the generator of its choices, and what it remembers where it is recurrent."""

    policy: ActorCritic
    generator: torch.Generator
    device: torch.device
    hidden: Any
    starts: Tensor | None


@dataclass
class Player:
    """An actor that only plays."""

    policy: ActorCritic
    generator: torch.Generator
    device: torch.device
    hidden: Any = None
    starts: Tensor | None = None


NATIVE_ALGORITHMS = ("ppo", "a2c", "reinforce", "reinforce-baseline")


class Options(Protocol):
    """The options that decide the engine."""

    engine: Engine
    algorithm: Any
    backend: Any
    env_id: str
    device: str
    epochs: int
    minibatches: int


def environment_device(config: Options) -> str | None:
    """The CUDA device that the environments are to live on, or None: where the whole loop can run on it."""
    on_device = config.device.partition(":")[0] == "cuda"
    native = config.backend == "native" and config.env_id != breast_cancer.ENV_ID and config.engine != "torch"
    return config.device if on_device and native and not _lacking(config) else None


def choose_engine(config: Options, env: AnyVectorEnv, actor: Actor) -> tuple[str, str]:
    """The engine to use, "native" or "torch", and the reason; raise where "native" is asked for and cannot be."""
    reason = "as asked for"
    if config.engine != "torch":
        reason = _missing(config, env, actor)
    if reason and config.engine == "native":
        raise UsageError(f"the native engine cannot be used: {reason}")
    if config.engine == "torch" or reason:
        return "torch", reason
    if isinstance(env, NativeVectorEnv):
        return "native", "rollouts and updates run in kernels"
    return "native", f"environments, rollouts and updates run on {config.device}"


def _lacking(config: Options) -> str:
    """What the native engine lacks of what is asked for, or nothing."""
    if config.algorithm not in NATIVE_ALGORITHMS:
        return f"{config.algorithm} has no native update"
    if config.algorithm != "ppo" and (config.epochs > 1 or config.minibatches > 1):
        return f"the native update of {config.algorithm} takes a rollout once and whole"
    if _distributed.world_size() > 1:
        return "gradients are averaged over several processes"
    return ""


def _missing(config: Options, env: AnyVectorEnv, actor: Actor) -> str:
    """What the native engine lacks, or nothing."""
    if lacking := _lacking(config):
        return lacking
    on_cpu = isinstance(env, NativeVectorEnv)
    if not on_cpu and environment_device(config) is None:
        return "the environment is not native"
    if on_cpu and actor.device.type != "cpu":
        return f"the network is on {actor.device}, the environments are on the CPU"
    try:
        if on_cpu:
            actor.policy.native()
    except TypeError as error:
        return str(error)
    return ""


def collect(
    env: AnyVectorEnv, actor: Actor, observations: np.ndarray, num_steps: int, whole_episodes: bool = False,
    *, engine: str = "torch", greedy: bool = False,
) -> Rollout:  # fmt: skip
    """Act for `num_steps`, or until every environment has ended an episode, whose steps `Rollout.mask` then marks.

    The tensors of the rollout are on the CPU, or where the environments are; `to_act_on` says what to go on from.
    """
    act = _collect_natively if engine == "native" else _collect_in_torch
    parts = [act(env, actor, observations, num_steps, greedy)]
    if not whole_episodes:
        return parts[0]
    while not bool(torch.stack([part.ended.any(0) for part in parts]).any(0).all()):
        parts.append(act(env, actor, to_act_on(parts[-1]), num_steps, greedy))
    rollout = _joined(parts)
    # Exactly one episode of each environment; taking the first to end instead would prefer short ones.
    ended = rollout.ended.int()
    rollout.mask = ended.cumsum(0) - ended == 0
    return rollout


def to_act_on(rollout: Rollout) -> Any:
    """What was observed last: an array, or on a CUDA device a tensor."""
    last = rollout.observations[-1]
    return last.numpy() if last.device.type == "cpu" else last


def _joined(parts: list[Rollout]) -> Rollout:
    """Rollouts that follow each other, end to end."""
    steps = len(parts[0].rewards)
    joined = parts[0].map(lambda *columns: torch.cat([column[:steps] for column in columns]), *parts[1:])
    joined.observations = torch.cat([joined.observations, parts[-1].observations[-1:]])
    joined.values = torch.cat([joined.values, parts[-1].values[-1:]])
    joined.initial_hidden, joined.hidden = parts[0].initial_hidden, parts[-1].hidden
    return joined


def _collect_natively(env: Any, actor: Actor, _: np.ndarray, num_steps: int, greedy: bool) -> Rollout:
    hidden: Any = actor.hidden
    if not isinstance(env, NativeVectorEnv) and isinstance(hidden, np.ndarray):
        hidden = torch.from_numpy(hidden).to(actor.device)  # a checkpoint's
    rollout: Rollout = metafast.envs.rollout(
        env, actor.policy, num_steps, hidden=hidden, generator=actor.generator, deterministic=greedy
    )
    actor.hidden = rollout.hidden
    rollout = rollout.torch()
    actor.starts = rollout.ended[-1]
    return rollout


@torch.no_grad()
def _collect_in_torch(
    env: AnyVectorEnv, actor: Actor, observations: np.ndarray, num_steps: int, greedy: bool
) -> Rollout:
    policy, distribution, device = actor.policy, actor.policy.distribution, actor.device
    dtype = policy.dtype
    noise = distribution.noise(policy.draw_key(actor.generator), num_steps, env.num_envs).to(device)
    hidden = initial_hidden = None
    if policy.recurrent:
        previous = np.zeros((env.num_envs, policy.hidden_size)) if actor.hidden is None else actor.hidden
        hidden = initial_hidden = torch.from_numpy(previous).to(device, dtype)
    starts = actor.starts if actor.starts is not None else torch.ones(env.num_envs, dtype=torch.bool)
    steps: list[list[Tensor]] = []

    def evaluate(rows: Tensor, state: Tensor | None, first: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        if not policy.recurrent:
            return *policy(rows.to(device)), None
        outputs, values, state = policy(rows[None].to(device), state, first[None].to(device))
        return outputs[0], values[0], state

    for step in range(num_steps):
        rows = torch.from_numpy(observations)
        outputs, values, after = evaluate(rows, hidden, starts)
        actions = distribution.mode(outputs) if greedy else distribution.sample(outputs, noise[step])
        log_probs = distribution.log_prob(outputs, actions)
        observations, rewards, terminated, truncated, infos = env.step(
            distribution.to_environment(actions.cpu().numpy())
        )
        final_rows, final_values = torch.zeros_like(rows), torch.zeros(env.num_envs, dtype=dtype)
        ended = torch.from_numpy(terminated | truncated)
        if ended.any():
            found = _environments.final_observations(env, infos, ended.numpy())
            final_rows[ended] = torch.from_numpy(found).to(rows.dtype)
            cut = torch.from_numpy(truncated & ~terminated)
            state = None if after is None else after[cut.to(device)]
            none = torch.zeros(int(cut.sum()), dtype=torch.bool)
            if cut.any():
                final_values[cut] = evaluate(final_rows[cut], state, none)[1].cpu()
        outcome = torch.from_numpy(rewards).to(dtype), torch.from_numpy(terminated), torch.from_numpy(truncated)
        steps.append([rows, actions.cpu(), log_probs.cpu(), *outcome, values.cpu(), final_values, final_rows, starts])
        hidden, starts = after, ended
    last = torch.from_numpy(observations)
    last_values = evaluate(last, hidden, starts)[1].cpu()
    actor.hidden, actor.starts = None if hidden is None else hidden.cpu().numpy(), starts
    names = (
        "observations", "actions", "log_probs", "rewards", "terminated", "truncated", "values", "final_values",
        "final_observations", "starts",
    )  # fmt: skip
    columns = dict(zip(names, map(torch.stack, zip(*steps, strict=True)), strict=True))
    columns["observations"] = torch.cat([columns["observations"], last[None]])
    columns["values"] = torch.cat([columns["values"], last_values[None]])
    rollout = Rollout(**columns)
    if initial_hidden is not None and hidden is not None:
        rollout.initial_hidden, rollout.hidden = initial_hidden.cpu(), hidden.cpu()
    return rollout


def play(env: AnyVectorEnv, actor: Actor, seed: int, *, engine: str = "torch", greedy: bool = False) -> np.ndarray:
    """Returns of one episode in each environment: none is chosen for being short."""
    player = Player(actor.policy, torch.Generator().manual_seed(seed), actor.device)
    observations, _ = env.reset(seed=seed)
    rollout = collect(env, player, observations, 100, whole_episodes=True, engine=engine, greedy=greedy)
    assert rollout.mask is not None
    returns: np.ndarray = (rollout.rewards.double() * rollout.mask).sum(0).cpu().numpy()
    return returns
