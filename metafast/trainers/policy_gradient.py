"""Policy-gradient training: REINFORCE, A2C, PPO, online TD(lambda), and V-trace with a replay buffer.

Read from top to bottom: learner, the training loop, evaluation. What the loop calls has files of its own: the options
_options.py, collecting experience _experience.py, learning from it _learning.py. Formulas: Williams 1992 (REINFORCE),
Mnih et al. 2016 (A2C), Schulman et al. 2016 (GAE) and 2017 (PPO), Espeholt et al. 2018 (V-trace), Schmitt et al. 2020
(online and replayed experience mixed), Sutton and Barto 2018, section 13.5 (actor-critic with eligibility traces, in
_traces.py).
"""

import dataclasses
import math
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

import metafast
from metafast.nn import ReturnNormalizer
from metafast.trainers import (
    UsageError,
    _checkpoint,
    _distributed,
    _environments,
    _evaluation,
    _population,
    _run,
    _traces,
)
from metafast.trainers._environments import AnyVectorEnv
from metafast.trainers._experience import choose_engine, collect, environment_device, play, to_act_on
from metafast.trainers._learner import Learner, find_device
from metafast.trainers._learning import update_in_torch, update_natively
from metafast.trainers._options import FIXED, NAME, Config, configure, load_config, parse
from metafast.trainers._policies import make_policy
from metafast.trainers._replay import Replay

# What the command takes (metafast/cli.py), and who trains from Python.
__all__ = [
    "NAME", "Config", "add_evaluation_options", "configure", "describe", "describe_evaluation", "evaluate",
    "load_config", "parse", "train",
]  # fmt: skip

_INITIALISING = threading.Lock()


def run_name(config: Config) -> str:
    """What a run's directory is called, before the seed."""
    return f"{Path(config.env_id).name.replace(':', '-')}-{config.algorithm}"


def make_env(config: Config, num_envs: int) -> AnyVectorEnv:
    """Make environments on the CPU, or on the device of the network where the whole loop runs there."""
    return _environments.make(
        config.env_id, num_envs, config.backend, num_threads=config.threads, device=environment_device(config)
    )


def make_learner(config: Config, env: AnyVectorEnv, seed: int) -> Learner:
    """Make the network with `config.seed`, so that it is the same on every process, and the generator with `seed`."""
    device = find_device(config.device)
    # Torch initialises from one generator for all threads.
    with _INITIALISING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        policy = make_policy(
            env, config.preset, policy=config.policy, hidden_sizes=config.hidden_sizes, gru_size=config.gru_size,
            normalize_observations=config.normalize_observations,
        )  # fmt: skip
    policy.to(device, getattr(torch, config.dtype))
    return Learner(policy, torch.Generator().manual_seed(seed), device)


def is_solved(
    config: Config, learner: Learner, engine: str, mean_return: float, seed: int, counters: _checkpoint.Counters
) -> bool:
    """Confirm on fresh episodes that the target is exceeded by its margin; a refusal is not reviewed for 4 iterations.

    The training mean lags behind the policy and is biased to short episodes, so it alone decides nothing.
    """
    assert config.target_return is not None
    if not mean_return >= config.target_return or counters.iteration < counters.next_evaluation:
        return False
    env = make_env(config, config.evaluation_episodes)
    episode_seed = _run.derive_seeds(seed, counters.iteration)[0]
    counters.evaluation_return = float(play(env, learner, episode_seed, engine=engine).mean())
    counters.next_evaluation = counters.iteration + 4
    return counters.evaluation_return >= config.target_return + config.target_margin


def train(config: Config) -> dict[str, Any]:
    """Train, save the run and return its figures; `seconds` counts everything but imports and the final saving."""
    if config.population > 1 or config.vary:
        return _population.train(config, configure, train_one, run_name(config))
    return train_one(config)


def train_one(config: Config, shown: bool = True, interruption: _run.Interruption | None = None) -> dict[str, Any]:
    """Train one policy; `shown`: with a progress bar; `interruption`: that of all, where it is one of several."""
    started = time.perf_counter()
    if config.resume is not None:
        # Kept rollouts are of one length.
        fixed = (*FIXED, "num_steps") if config.replay else FIXED
        _run.check_unchanged(config, load_config(config.resume), fixed)
    metafast.set_num_threads(config.threads)
    torch.set_num_threads(config.threads)
    rank = _distributed.start()
    if _distributed.world_size() > 1 and (config.normalize_observations or config.normalize_rewards):
        raise UsageError(
            "normalize_observations and normalize_rewards are for one process: each has its own statistics"
        )
    env_seed, policy_seed, evaluation_seed = _run.derive_seeds(config.seed, rank)
    find_device(config.device)
    env = make_env(config, config.num_envs)
    learner = make_learner(config, env, policy_seed)
    episodes = _run.EpisodeReturns(config.num_envs, window=100)
    traces = torch.zeros(config.num_envs if config.algorithm == "td-lambda" else 0, learner.parameters.numel())
    traces, replay = traces.to(learner.device), Replay(config.replay)
    normalizer = ReturnNormalizer(config.num_envs, config.gamma) if config.normalize_rewards else None
    engine, reason = choose_engine(config, env, learner)
    shown = shown and rank == 0
    if shown and config.engine == "auto":
        print(f"engine: {engine} ({reason})", file=sys.stderr)
    if config.resume is None:
        directory = _run.RunDirectory.create(config.run_dir, f"{run_name(config)}-{config.seed}", rank)
        directory.write_config(NAME, config)
        observations, counters = env.reset(seed=env_seed)[0], _checkpoint.Counters()
    else:
        directory = _run.RunDirectory(Path(config.resume), rank)
        observations, counters = _checkpoint.restore(
            directory, learner, env, traces, replay, normalizer, episodes, config.seed
        )
        directory.write_config(NAME, dataclasses.replace(config, resume=None))
    earlier_seconds, interrupted = counters.seconds, False
    solved = config.target_return is not None and counters.solved_target == config.target_return
    if rank == 0 and (solved or counters.env_steps >= config.total_steps):
        print("this run has ended; to go on give a greater --total-steps or --target-return", file=sys.stderr)
    goal = "" if config.target_return is None else f" of {config.target_return:g}"
    saved = time.perf_counter()
    with (
        _run.interruptible() if interruption is None else nullcontext(interruption) as interruption,
        _run.ProgressDisplay(config.total_steps, shown=shown) as display,
    ):
        while counters.env_steps < config.total_steps and not (solved or interrupted):
            learning_rate = config.learning_rate
            if config.half_life is not None:
                learning_rate *= 0.5 ** (counters.env_steps / config.half_life)
            if config.algorithm == "td-lambda":
                rewards, ended, observations = _traces.learn_online(
                    config, learner, env, observations, traces, learning_rate
                )
                losses = {}
            else:
                whole_episodes = config.algorithm in ("reinforce", "reinforce-baseline")
                if whole_episodes and counters.iteration > 0:
                    observations, _ = env.reset()
                    learner.forget()
                rollout = collect(env, learner, observations, config.num_steps, whole_episodes, engine=engine)
                observations = to_act_on(rollout)
                scaled = rollout.rewards * config.reward_scale
                if normalizer is not None:
                    scaled = normalizer(scaled, rollout.ended)
                if engine == "native":
                    losses = update_natively(config, learner, rollout, scaled, learning_rate)
                else:
                    losses = update_in_torch(config, learner, rollout, scaled, replay, learning_rate)
                if config.normalize_observations:
                    learner.policy.update_statistics(rollout.observations[:-1])
                if config.replay:
                    replay.add(rollout)
                rewards, ended = rollout.rewards, rollout.ended
                if rollout.mask is not None:
                    rewards, ended = rewards * rollout.mask, ended & rollout.mask
                if environment_device(config) is None:
                    rewards, ended = rewards.numpy(), ended.numpy()
            episodes.add(rewards, ended)
            counters.iteration += 1
            counters.env_steps += _distributed.total(math.prod(rewards.shape))
            counters.seconds = earlier_seconds + time.perf_counter() - started
            if episodes.latest:
                counters.curve.append({"env_steps": counters.env_steps, "mean_return": episodes.mean})
                directory.log({"charts/mean_return": episodes.mean, **losses}, counters.env_steps)
            display.update(
                counters.env_steps, f"return {episodes.mean:.1f}{goal}", counters.env_steps / counters.seconds
            )
            if rank == 0 and config.target_return is not None and len(episodes.latest) == 100:
                solved = is_solved(config, learner, engine, episodes.mean, evaluation_seed, counters)
            due = time.perf_counter() - saved > config.checkpoint_seconds
            solved, interrupted, due = _distributed.agree(solved, interruption.requested, due)
            if solved:
                counters.solved_target = config.target_return
                display.reach_target(counters.env_steps)
            if due:
                _checkpoint.save(directory, learner, env, observations, traces, replay, normalizer, episodes, counters)
                saved = time.perf_counter()
        counters.seconds = earlier_seconds + time.perf_counter() - started
    _checkpoint.save(directory, learner, env, observations, traces, replay, normalizer, episodes, counters)
    columns = {"environment steps": "env_steps", "mean return": "mean_return"}
    directory.write_curve(
        {label: [point[name] for point in counters.curve] for label, name in columns.items()},
        title=f"{config.env_id}, {config.algorithm}",
        target=config.target_return,
    )
    directory.close()
    _distributed.stop()
    return {
        "trainer": NAME,
        "env_id": config.env_id,
        "algorithm": config.algorithm,
        "engine": engine,
        "seed": config.seed,
        "env_steps": counters.env_steps,
        "episodes": episodes.episodes,
        "seconds": counters.seconds,
        "mean_return": episodes.mean,
        "evaluation_return": counters.evaluation_return,
        "target_return": config.target_return,
        "solved": solved,
        "interrupted": interrupted,
        "run_dir": str(directory.path),
        "learning_curve": str(directory.curve_path),
    }


def describe(result: dict[str, Any]) -> str:
    """Say in words what `train` returned."""
    if "members" in result:
        return _population.describe(result)
    evaluation = result["evaluation_return"]
    fresh = "" if evaluation is None else f" ({evaluation:.1f} on fresh episodes)"
    if result["target_return"] is not None and not result["solved"]:
        fresh += f", short of {result['target_return']:g}"
    ended = f"mean return {result['mean_return']:.1f}{fresh}" if result["episodes"] else "no episode has ended"
    return (
        f"{ended}, {result['env_steps']:,} steps, {result['seconds']:.1f} s\nlearning curve: {result['learning_curve']}"
    )


def evaluate(run_dir: str, episodes: int, backend: str | None, greedy: bool, seed: int) -> dict[str, Any]:
    """Play fresh episodes with the policy in `run_dir`, an environment for each; of labelled data, the test rows."""
    if episodes < 1 or not 0 <= seed < 2**63:
        raise UsageError("--episodes must be at least 1, and --seed at least 0 and below 2**63")
    config = dataclasses.replace(load_config(run_dir), device="cpu")
    backend = backend or config.backend
    torch.set_num_threads(config.threads)
    env = _environments.make(config.env_id, episodes, backend, num_threads=config.threads, split="test")
    learner = make_learner(config, env, 0)
    _run.RunDirectory(Path(run_dir)).read_policy(learner.policy)
    # Only to act, for which the native engine needs no update.
    acting = configure(config.env_id, "ppo", engine="torch" if config.engine == "torch" else "auto")
    engine, _ = choose_engine(acting, env, learner)
    returns = play(env, learner, seed, engine=engine, greedy=greedy)
    return {
        "env_id": config.env_id,
        "backend": backend,
        "episodes": episodes,
        "greedy": greedy,
        "seed": seed,
        "mean_return": float(returns.mean()),
        "std_return": float(returns.std()),
        "min_return": float(returns.min()),
        "max_return": float(returns.max()),
        "run_dir": str(run_dir),
    }


# What `metafast evaluate` takes beside the directory, and how it says what `evaluate` returned.
add_evaluation_options, describe_evaluation = _evaluation.add_options, _evaluation.describe
