"""The loop that `rollout` replaces: torch infers, the distribution samples, the environment steps."""

import dataclasses

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from nn.problems import numpy_dtype

from metafast.envs import Rollout


def generator(seed):
    return torch.Generator().manual_seed(seed)


class UnfusedLoop:
    """Steps `env` from the observations that it gave last; `run` continues where it stopped."""

    def __init__(self, env, policy, observations, hidden=None):
        self.env, self.policy, self.observations = env, policy, observations
        self.starts = np.ones(env.num_envs, bool)
        self.resets = np.zeros(env.num_envs, bool)  # next_step: the step only resets
        shape = env.num_envs, policy.hidden_size
        self.hidden = torch.zeros(shape, dtype=policy.dtype) if hidden is None else torch.from_numpy(hidden)

    def answer(self, observations, hidden, starts):
        observations = torch.from_numpy(np.ascontiguousarray(observations))
        with torch.no_grad():
            if self.policy.recurrent:
                outputs, values, hidden = self.policy(observations[None], hidden, torch.from_numpy(starts)[None])
                return outputs[0], values[0], hidden
            return *self.policy(observations), hidden

    def run(self, num_steps, seed, *, deterministic=False):
        env, policy = self.env, self.policy
        same_step = env.autoreset_mode is AutoresetMode.SAME_STEP
        distribution = policy.distribution
        noise = distribution.noise(policy.draw_key(generator(seed)), num_steps, env.num_envs)
        columns = {field.name: [] for field in dataclasses.fields(Rollout)}
        initial_hidden = self.hidden.clone().numpy()
        nowhere = np.zeros(env.num_envs, bool)
        for step in range(num_steps):
            outputs, values, self.hidden = self.answer(self.observations, self.hidden, self.starts)
            sampled = distribution.mode(outputs) if deterministic else distribution.sample(outputs, noise[step])
            row = {
                "observations": self.observations,
                "actions": sampled.numpy(),
                "log_probs": distribution.log_prob(outputs, sampled).numpy(),
                "values": values.numpy(),
                "starts": self.starts.copy(),
                "mask": ~self.resets,
            }
            following, rewards, terminated, truncated, _ = env.step(distribution.to_environment(row["actions"]))
            ended = terminated | truncated
            last = env.final_observations if same_step else following
            final = np.where(ended.reshape(-1, *[1] * (last.ndim - 1)), last, 0).astype(last.dtype)
            _, final_values, _ = self.answer(final, self.hidden, nowhere)
            row |= {"rewards": rewards, "terminated": terminated, "truncated": truncated, "final_observations": final}
            row["final_values"] = np.where(truncated & ~terminated, final_values.numpy(), 0)
            for name, value in row.items():
                columns[name].append(np.array(value))
            self.starts = ended.copy() if same_step else self.resets
            self.resets = nowhere if same_step else ended.copy()
            self.observations = np.array(following)
        columns["observations"].append(self.observations)
        columns["values"].append(self.answer(self.observations, self.hidden, self.starts)[1].numpy())
        arrays = {name: np.stack(rows) for name, rows in columns.items() if rows}
        if same_step:
            arrays["mask"] = None
        if policy.recurrent:
            arrays |= {"initial_hidden": initial_hidden, "hidden": self.hidden.numpy().copy()}
        return Rollout(**arrays)


EXACT = {"actions", "starts", "mask", "terminated", "truncated"}


def assert_same_rollouts(mine, theirs, policy, tolerance=1e-9):
    """The same numbers up to rounding; whole numbers and flags, and their types, exactly."""
    dtype = numpy_dtype(policy)
    for field in dataclasses.fields(Rollout):
        ours, other = getattr(mine, field.name), getattr(theirs, field.name)
        assert (ours is None) == (other is None), field.name
        if ours is None:
            continue
        assert ours.shape == other.shape, field.name
        whole = field.name in EXACT and ours.dtype.kind != "f"
        expected = other.dtype if whole or "observations" in field.name else dtype
        assert ours.dtype == expected, field.name
        if whole:
            np.testing.assert_array_equal(ours, other, err_msg=field.name)
        else:
            np.testing.assert_allclose(ours, other, rtol=tolerance, atol=tolerance, err_msg=field.name)
