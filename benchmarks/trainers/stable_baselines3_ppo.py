"""Stable-Baselines3's PPO with the settings that rl-baselines3-zoo published for each environment, as a peer."""

import time

import numpy as np

__all__ = ["NUM_STEPS", "train"]

# Environment steps for which the zoo trains, over which its schedules run; the most that a benchmark lets it have.
NUM_STEPS = {
    "CartPole-v1": (100_000, 500_000),
    "Acrobot-v1": (1_000_000, 1_000_000),
    "MountainCarContinuous-v0": (20_000, 200_000),
    "Pendulum-v1": (100_000, 400_000),
}
NUM_ENVS = {"CartPole-v1": 8, "Acrobot-v1": 16, "MountainCarContinuous-v0": 1, "Pendulum-v1": 4}
# Those with `normalize: true`.
NORMALIZED = ("Acrobot-v1", "MountainCarContinuous-v0")


def settings_of(env_id, max_steps):
    """rl-baselines3-zoo, hyperparams/ppo.yml."""
    zoo_steps = NUM_STEPS[env_id][0]

    def linear(start):
        # Of the steps that the zoo would run, whatever the most is here.
        return lambda remaining: start * max(0.0, 1 - (1 - remaining) * max_steps / zoo_steps)

    return {
        "CartPole-v1": {
            "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20, "ent_coef": 0.0,
            "learning_rate": linear(1e-3), "clip_range": linear(0.2),
        },
        "Acrobot-v1": {"n_steps": 256, "gae_lambda": 0.94, "gamma": 0.99, "n_epochs": 4, "ent_coef": 0.0},
        "MountainCarContinuous-v0": {
            "n_steps": 8, "batch_size": 256, "gae_lambda": 0.9, "gamma": 0.9999, "n_epochs": 10, "ent_coef": 0.00429,
            "learning_rate": 7.77e-05, "clip_range": 0.1, "max_grad_norm": 5, "vf_coef": 0.19, "use_sde": True,
            "policy_kwargs": {"log_std_init": -3.29, "ortho_init": False},
        },
        "Pendulum-v1": {
            "n_steps": 1024, "gae_lambda": 0.95, "gamma": 0.9, "n_epochs": 10, "ent_coef": 0.0, "learning_rate": 1e-3,
            "clip_range": 0.2, "use_sde": True, "sde_sample_freq": 4,
        },
    }[env_id]  # fmt: skip


def train(env_id, target, seed, max_seconds, max_steps=None):
    """Seconds, environment steps and whether the latest 100 episodes reached the target in that time."""
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    max_steps = max_steps or NUM_STEPS[env_id][1]
    start = time.perf_counter()

    class StopAtTarget(BaseCallback):
        reached = False

        def _on_step(self):
            latest = self.model.ep_info_buffer
            # Returns as the environment gave them: they are counted below the normalisation.
            self.reached = len(latest) == 100 and bool(np.mean([episode["r"] for episode in latest]) >= target)
            return not self.reached and time.perf_counter() - start < max_seconds

    settings = settings_of(env_id, max_steps)
    env = make_vec_env(env_id, n_envs=NUM_ENVS[env_id], seed=seed)
    if env_id in NORMALIZED:
        env = VecNormalize(env, gamma=settings["gamma"])
    model = stable_baselines3.PPO("MlpPolicy", env, seed=seed, device="cpu", **settings)
    callback = StopAtTarget()
    model.learn(max_steps, callback=callback)
    seconds = time.perf_counter() - start
    env.close()
    return seconds, model.num_timesteps, callback.reached
