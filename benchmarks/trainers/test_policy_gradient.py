"""Wall seconds until the policy-gradient trainer has learnt an environment, beside its peers' in the same run.

    pytest benchmarks/trainers/test_policy_gradient.py --benchmark-enable -s
    pytest benchmarks/trainers/test_policy_gradient.py --benchmark-enable -s -k Pendulum

An environment is learnt when the latest 100 training episodes, of the sampled policy, reach a mean return: 475 in
CartPole-v1, -100 in Acrobot-v1, 90 in MountainCarContinuous-v0, -200 in Pendulum-v1. Ours is `metafast train --env ENV
--seed S` with its defaults: beyond that mean it needs as much, or more where the defaults have a margin, on 200 fresh
episodes, whose time is counted. It is then confirmed on 400 episodes of gymnasium's own environment, which is not
counted: a run whose mean there is below the target has not reached it.

Contenders, on one thread each, taking turns seed by seed; imports and a first run of some steps are not counted:

- metafast, and in CartPole the same with engine="torch";
- Stable-Baselines3's PPO with rl-baselines3-zoo's settings (stable_baselines3_ppo.py);
- in CartPole, CleanRL's ppo.py with its defaults (cleanrl_ppo.py).

`extra_info` records, over each contender's seeds, median and worst seconds and how many of them reached the target
before the most steps or seconds; then how many times our median each median is. A run that did not reach the target
counts as endless, so that a median of those is "not reached", and its ratio is of the time at which it was stopped.
"""

import math
import statistics
import time
from typing import NamedTuple

import pytest
import torch
from trainers import cleanrl_ppo, stable_baselines3_ppo

from metafast.trainers import policy_gradient

# Seconds after which Stable-Baselines3 is stopped.
MAX_SECONDS = 150.0
TARGETS = {"CartPole-v1": 475.0, "Acrobot-v1": -100.0, "MountainCarContinuous-v0": 90.0, "Pendulum-v1": -200.0}
NUM_SEEDS = {"metafast": 5, "Stable-Baselines3": 1}
NUM_SEEDS_CARTPOLE = {"metafast": 20, "torch engine": 5, "Stable-Baselines3": 3, "CleanRL": 2}
CONFIRMING_EPISODES = 400
# Of the first run, which is not counted.
WARM_UP_STEPS = 2048

# The peers and gymnasium warn of a minibatch that is cut short, and of what they have deprecated.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(3600)]


class Run(NamedTuple):
    seconds: float
    steps: int
    reached: bool
    confirmed: float = math.nan

    @property
    def counted(self):
        return self.seconds if self.reached else math.inf


def configure(env_id, seed, run_dir, **options):
    config = policy_gradient.configure(env_id, seed=seed, run_dir=str(run_dir), **options)
    if config.target_return is None:
        config = policy_gradient.configure(
            env_id, seed=seed, run_dir=str(run_dir), target_return=TARGETS[env_id], **options
        )
    assert config.target_return == TARGETS[env_id]
    return config


def train_metafast(env_id, seed, directory, max_steps=None, confirm=True, **options):
    steps = {} if max_steps is None else {"total_steps": max_steps}
    config = configure(env_id, seed, directory / f"{seed}-{time.monotonic_ns()}", **options, **steps)
    result = policy_gradient.train(config)
    reached, confirmed = result["solved"], math.nan
    if reached and confirm:
        evaluation = policy_gradient.evaluate(
            result["run_dir"], CONFIRMING_EPISODES, "gymnasium", greedy=False, seed=1000 + seed
        )
        confirmed = evaluation["mean_return"]
        reached = confirmed >= config.target_return
    return Run(result["seconds"], result["env_steps"], reached, confirmed)


def train_torch_engine(env_id, seed, directory, max_steps=None):
    return train_metafast(env_id, seed, directory, max_steps, engine="torch")


def train_stable_baselines3(env_id, seed, directory, max_steps=None):
    return Run(*stable_baselines3_ppo.train(env_id, TARGETS[env_id], seed, MAX_SECONDS, max_steps))


def train_cleanrl(env_id, seed, directory, max_steps=None):
    return Run(*cleanrl_ppo.train(TARGETS[env_id], seed, max_steps or cleanrl_ppo.TOTAL_STEPS))


CONTENDERS = {
    "metafast": train_metafast,
    "torch engine": train_torch_engine,
    "Stable-Baselines3": train_stable_baselines3,
    "CleanRL": train_cleanrl,
}


def summarise(runs):
    """What is said of a contender's runs."""
    counted = [run.counted for run in runs]
    median, worst = statistics.median(counted), max(counted)
    said = "not reached" if math.isinf(median) else f"median {median:.3f} s"
    if math.isinf(worst):
        said += f", {sum(run.reached for run in runs)} of {len(runs)} reached"
        said += f" (stopped by {max(run.seconds for run in runs):.1f} s)"
    else:
        said += f", worst {worst:.3f} s of {len(runs)}"
    return f"{said}, {statistics.median(run.steps for run in runs):,.0f} steps"


def ratio_of(runs, own_runs):
    """How many times our median a peer's is; at least so many times where its median run was stopped."""
    own = statistics.median(run.counted for run in own_runs)
    if math.isinf(own):
        return "none: ours did not reach the target"
    stopped = math.isinf(statistics.median(run.counted for run in runs))
    return f"{'over ' if stopped else ''}{statistics.median(run.seconds for run in runs) / own:.1f}x"


@pytest.mark.parametrize("env_id", TARGETS)
def test_seconds_to_target(tmp_path, benchmark, env_id):
    benchmark.group = f"{env_id} to {TARGETS[env_id]:g}"
    pytest.importorskip("stable_baselines3")
    torch.set_num_threads(1)
    counts = NUM_SEEDS_CARTPOLE if env_id == "CartPole-v1" else NUM_SEEDS
    if not benchmark.enabled:
        counts = dict.fromkeys(counts, 0)
    for name in counts:
        CONTENDERS[name](env_id, 10_000, tmp_path, max_steps=WARM_UP_STEPS)
    runs = {name: [] for name in counts}
    for seed in range(max(counts.values())):
        for name, count in counts.items():
            if seed < count:
                run = CONTENDERS[name](env_id, seed, tmp_path)
                runs[name].append(run)
                reached = "" if run.reached else ", not reached"
                confirmed = "" if math.isnan(run.confirmed) else f", confirmed {run.confirmed:.1f}"
                print(f"\n{env_id}, seed {seed}, {name}: {run.seconds:.3f} s, {run.steps:,} steps{reached}{confirmed}")
    if benchmark.enabled:
        benchmark.extra_info |= {name: summarise(rows) for name, rows in runs.items()}
        for name in list(runs)[1:]:
            benchmark.extra_info[f"over {name}"] = ratio_of(runs[name], runs["metafast"])
    # The timed figure of the report: one more run of ours, its saving included; some steps if benchmarks are disabled.
    steps = None if benchmark.enabled else WARM_UP_STEPS
    benchmark.pedantic(train_metafast, args=(env_id, 0, tmp_path, steps, False), rounds=1)
