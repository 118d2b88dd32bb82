"""PPO on CartPole-v1 to a mean of 475 over the latest 100 training episodes, beside Stable-Baselines3's.

    pytest benchmarks/trainers --benchmark-enable -s

Wall seconds of training without imports, seeds taking turns so that a noisy machine disturbs both sides alike. Stable-
Baselines3 has the settings that its zoo tuned for CartPole and stops as soon as its training mean reaches 475. Ours is
`metafast train --seed S`: it needs the same training mean and then the mean of 200 fresh episodes at 490, whose time is
counted. Ours is afterwards confirmed on gymnasium's own CartPole, which is not counted.
"""

import time

import numpy as np
import pytest
import torch

from metafast.trainers import policy_gradient

SEEDS = range(1, 6)


def train_metafast(seed, run_dir):
    result = policy_gradient.train(policy_gradient.configure(seed=seed, run_dir=str(run_dir)))
    assert result["solved"]
    confirmed = policy_gradient.evaluate(result["run_dir"], 100, "gymnasium", greedy=False, seed=1000 + seed)
    assert confirmed["mean_return"] >= 475
    return result["seconds"], result["env_steps"], confirmed["mean_return"]


def train_stable_baselines3(seed, total_steps=500_000):
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    class StopAtTarget(BaseCallback):
        def _on_step(self):
            latest = self.model.ep_info_buffer
            return len(latest) < 100 or np.mean([episode["r"] for episode in latest]) < 475

    # rl-baselines3-zoo, hyperparams/ppo.yml, CartPole-v1; its schedules run over 1e5 steps.
    def schedule(start):
        return lambda remaining: start * max(0.0, 1 - (1 - remaining) * total_steps / 1e5)

    start = time.perf_counter()
    model = stable_baselines3.PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=8, seed=seed),
        n_steps=32, batch_size=256, gae_lambda=0.8, gamma=0.98, n_epochs=20, ent_coef=0.0,
        learning_rate=schedule(1e-3), clip_range=schedule(0.2), seed=seed, device="cpu",
    )  # fmt: skip
    model.learn(total_steps, callback=StopAtTarget())
    return time.perf_counter() - start, model.num_timesteps


@pytest.mark.timeout(1200)
def test_ppo_reaches_475_in_half_of_stable_baselines3s_time(tmp_path, benchmark):
    torch.set_num_threads(1)
    # What either side imports or compiles at its first use is not part of training.
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    ours, theirs = [], []
    for seed in SEEDS:
        ours.append(train_metafast(seed, tmp_path / str(seed)))
        theirs.append(train_stable_baselines3(seed))
        print(
            f"\nseed {seed}: metafast {ours[-1][0]:.2f} s, {ours[-1][1]:,} steps, confirmed {ours[-1][2]:.1f}; "
            f"Stable-Baselines3 {theirs[-1][0]:.2f} s, {theirs[-1][1]:,} steps",
            end="",
        )
    seconds, peer_seconds = (np.median([row[0] for row in rows]) for rows in (ours, theirs))
    print(f"\nmedian: metafast {seconds:.2f} s, Stable-Baselines3 {peer_seconds:.2f} s, {peer_seconds / seconds:.1f}x")
    benchmark.extra_info |= {"metafast": seconds, "stable_baselines3": peer_seconds, "ratio": peer_seconds / seconds}
    assert seconds <= peer_seconds / 2
    # The timed figure of the report: one more whole run of ours.
    benchmark.pedantic(train_metafast, args=(SEEDS[0], tmp_path / "timed"), rounds=1)
