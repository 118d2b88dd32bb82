"""Every function of metafast.compat beside the real one, with arguments for both, for tests and benchmarks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from compat import cleanrl_loop, peers
from gymnasium import spaces

from metafast import compat

# Numbers that float32 holds: torchrl's loops round gamma to it even among float64 tensors.
GAMMA, LAM = 31 / 32, 7 / 8


@dataclass(frozen=True)
class Case:
    """`arguments` takes numbers of steps and columns, a rate of episode ends and a dtype name, and returns a tuple."""

    library: str
    name: str
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    arguments: Callable[..., tuple[Any, ...]]

    def __str__(self):
        return f"{self.library}.{self.name}"


def trajectories(num_steps, num_columns, rate, dtype):
    """Time-major NumPy arrays of the given dtype [T, N], and flags of which `terminated` are `done` too."""
    rng = np.random.default_rng(num_steps + num_columns)
    shape = num_steps, num_columns

    def floats(*size):
        return rng.standard_normal(size or shape).astype(dtype)

    done = rng.random(shape) < rate
    return SimpleNamespace(
        rng=rng,
        rewards=floats(),
        values=floats(),
        next_values=floats(),
        log_pi=floats(),
        log_mu=floats(),
        last=floats(num_columns),
        done=done,
        terminated=done & (rng.random(shape) < 0.5),
        gammas=rng.uniform(0.8, 1, shape).astype(dtype),
        lambdas=rng.uniform(0.5, 1, shape).astype(dtype),
    )


def torchrl_case(name, *arguments, label="", **options):
    def build(num_steps, num_columns, rate, dtype):
        p = trajectories(num_steps, num_columns, rate, dtype)
        tensors = {
            key: torch.from_numpy(np.ascontiguousarray(value.T))[..., None]
            for key, value in vars(p).items()
            if isinstance(value, np.ndarray) and value.ndim == 2
        }
        return tuple(tensors.get(argument, argument) for argument in arguments)

    functions = (getattr(module, name) for module in (compat.torchrl, peers.torchrl))
    return Case("torchrl", name + label, *(partial(function, **options) for function in functions), build)


def torchrl_cases():
    common = "next_values", "rewards", "done", "terminated"
    for vec in ("", "vec_"):
        gae = f"{vec}generalized_advantage_estimate"
        td1, td_lambda = f"{vec}td1", f"{vec}td_lambda"
        yield torchrl_case(gae, GAMMA, LAM, "values", *common)
        yield torchrl_case(gae, GAMMA, LAM, "values", *common[:3], label=", no terminated")
        yield torchrl_case(f"{td1}_return_estimate", GAMMA, *common)
        yield torchrl_case(f"{td1}_advantage_estimate", GAMMA, "values", *common)
        yield torchrl_case(f"{td_lambda}_return_estimate", GAMMA, LAM, *common)
        yield torchrl_case(f"{td_lambda}_advantage_estimate", GAMMA, LAM, "values", *common)
    yield torchrl_case("generalized_advantage_estimate", "gammas", "lambdas", "values", *common, label=", tensors")
    yield torchrl_case("td_lambda_return_estimate", "gammas", "lambdas", *common, label=", tensors")
    yield torchrl_case("td1_return_estimate", "gammas", *common, label=", tensors")
    yield torchrl_case("td0_return_estimate", GAMMA, "next_values", "rewards", "terminated")
    yield torchrl_case("td0_advantage_estimate", GAMMA, "values", *common)
    yield torchrl_case("vtrace_advantage_estimate", GAMMA, "log_pi", "log_mu", "values", *common)
    yield torchrl_case(
        "vtrace_advantage_estimate", GAMMA, "log_pi", "log_mu", "values", *common,
        label=", thresholds", rho_thresh=0.75, c_thresh=1.25,
    )  # fmt: skip
    yield torchrl_case("reward2go", "rewards", "done", GAMMA)


def torchrl_rolling_cases():
    """What is quadratic in the number of steps."""
    common = "next_values", "rewards", "done", "terminated"
    for name, *arguments in (
        ("td1_return_estimate", "gammas"),
        ("td1_advantage_estimate", "gammas", "values"),
        ("td_lambda_return_estimate", "gammas", "lambdas"),
        ("td_lambda_return_estimate", "gammas", LAM),
        ("td_lambda_advantage_estimate", GAMMA, "lambdas", "values"),
    ):
        yield torchrl_case(name, *arguments, *common, label=", rolling_gamma=False", rolling_gamma=False)


def rlax_arguments(num_steps, num_columns, rate, dtype):
    """Batch-major arrays under the names that rlax has for them, with actions of five."""
    p = trajectories(num_steps, num_columns, rate, dtype)
    actions, shape = 5, (num_columns, num_steps)

    def floats(*size):
        return p.rng.standard_normal(size).astype(dtype)

    probabilities = p.rng.dirichlet(np.ones(actions), shape).astype(dtype)
    arrays = {
        "r_t": p.rewards.T,
        "discount_t": GAMMA * ~p.done.T,
        "v_tm1": p.values.T,
        "v_t": p.next_values.T,
        "values": floats(num_columns, num_steps + 1),
        "rho_tm1": np.exp(p.log_pi - p.log_mu).T,
        "log_rhos": (p.log_pi - p.log_mu).T,
        "lambdas": p.lambdas.T,
        "c_t": p.lambdas.T,
        "q_tm1": floats(*shape, actions),
        "q_t": floats(*shape, actions),
        "pi_t": probabilities,
        "mu_t": p.rng.uniform(0.1, 1, shape),
    }
    arrays = {name: jnp.asarray(array, dtype) for name, array in arrays.items()}
    for name in ("log_rhos", "c_t"):
        arrays[f"inner_{name}"] = arrays[name][:, :-1]
    arrays["inner_q"] = arrays["q_t"][:, :-1, 0]
    arrays["q_taken"] = arrays["q_tm1"][..., 0]
    arrays["sample_mask"] = jnp.asarray(p.rng.random(shape) < 0.8)
    for name in ("a_tm1", "a_t"):
        arrays[name] = jnp.asarray(p.rng.integers(actions, size=shape))
    return arrays


def rlax_case(name, *arguments, label="", **options):
    def build(num_steps, num_columns, rate, dtype):
        arrays = rlax_arguments(num_steps, num_columns, rate, dtype)
        return tuple(arrays.get(argument, argument) for argument in arguments)

    axes = tuple(0 if isinstance(argument, str) else None for argument in arguments)

    def batched(function):
        return jax.jit(jax.vmap(lambda *values: function(*values, **options), in_axes=axes))

    # importance_corrected_td_errors is only in the module.
    theirs = getattr(peers.rlax if hasattr(peers.rlax, name) else peers.rlax._src.multistep, name)
    return Case("rlax", name + label, batched(getattr(compat.rlax, name)), batched(theirs), build)


def rlax_cases():
    td = "r_t", "discount_t", "v_t"
    off_policy = "v_tm1", "v_t", "r_t", "discount_t", "rho_tm1"
    yield rlax_case("lambda_returns", *td, LAM)
    yield rlax_case("lambda_returns", *td, "lambdas", label=", vector")
    yield rlax_case("discounted_returns", *td)
    yield rlax_case("n_step_bootstrapped_returns", *td, n=5)
    yield rlax_case("n_step_bootstrapped_returns", *td, n=8, lambda_t=LAM, label=", lambda")
    yield rlax_case("truncated_generalized_advantage_estimation", "r_t", "discount_t", LAM, "values")
    yield rlax_case("importance_corrected_td_errors", "r_t", "discount_t", "rho_tm1", "lambdas", "values")
    yield rlax_case("general_off_policy_returns_from_q_and_v", "inner_q", "v_t", "r_t", "discount_t", "inner_c_t")
    yield rlax_case("general_off_policy_returns_from_action_values", "q_t", "a_t", "r_t", "discount_t", "c_t", "pi_t")
    yield rlax_case("td_lambda", "v_tm1", *td, LAM)
    yield rlax_case("sarsa_lambda", "q_tm1", "a_tm1", "r_t", "discount_t", "q_t", "a_t", LAM)
    yield rlax_case("q_lambda", "q_tm1", "a_tm1", "r_t", "discount_t", "q_t", LAM)
    yield rlax_case("retrace", "q_tm1", "q_t", "a_tm1", "a_t", "r_t", "discount_t", "pi_t", "mu_t", LAM)
    yield rlax_case("retrace_continuous", "q_taken", "inner_q", "v_t", "r_t", "discount_t", "inner_log_rhos", LAM)
    for leaky in ("", "leaky_"):
        alpha = (0.7,) if leaky else ()
        yield rlax_case(f"{leaky}vtrace", *off_policy, *alpha, LAM, 0.9)
        yield rlax_case(f"{leaky}vtrace_td_error_and_advantage", *off_policy, *alpha, "lambdas", 0.9, 1.2)
    yield rlax_case(
        "vtrace_td_error_and_advantage", *off_policy, LAM, 1.0, 1.0, True, "sample_mask", label=", sample_mask"
    )


def tianshou_gae_arguments(num_steps, num_columns, rate, dtype):
    p = trajectories(num_steps, num_columns, rate, dtype)
    flat = [array.T.reshape(-1).copy() for array in (p.values, p.next_values, p.rewards, p.done)]
    return (*flat, GAMMA, LAM)


def tianshou_n_step_arguments(num_steps, num_columns, rate, dtype, n_step=5):
    p = trajectories(num_steps, num_columns, rate, dtype)
    ends = p.done.T.reshape(-1).copy()
    ends[num_steps - 1 :: num_steps] = True
    indices = [np.arange(ends.size)]
    for _ in range(n_step - 1):
        indices.append(np.where(ends[indices[-1]], indices[-1], indices[-1] + 1))
    targets = p.rng.standard_normal((ends.size, 2)).astype(dtype)
    return p.rewards.T.reshape(-1).astype(np.float64), ends, targets, np.stack(indices), GAMMA, n_step


def tianshou_cases():
    for name, arguments in (("_gae", tianshou_gae_arguments), ("_nstep_return", tianshou_n_step_arguments)):
        yield Case(
            "tianshou", name, *(getattr(module, name) for module in (compat.tianshou, peers.tianshou)), arguments
        )
    yield Case(
        "tianshou",
        "episode_mc_return_to_go",
        compat.tianshou.episode_mc_return_to_go,
        peers.tianshou.episode_mc_return_to_go,
        lambda *sizes: (trajectories(*sizes).rewards[:, 0].copy(), GAMMA),
    )


def cleanrl_arguments(num_steps, num_columns, rate, dtype):
    p = trajectories(num_steps, num_columns, rate, dtype)
    arrays = p.rewards, p.values, p.done.astype(dtype), p.last[None], p.terminated[0].astype(dtype)
    return (*map(torch.from_numpy, arrays), GAMMA, LAM)


def sb3_buffer(buffer_class, num_steps, num_columns, p, observation_space):
    buffer = buffer_class(
        num_steps, observation_space, spaces.Discrete(2), device="cpu", gae_lambda=LAM, gamma=GAMMA, n_envs=num_columns
    )
    buffer.rewards, buffer.values = p.rewards.copy(), p.values.copy()
    buffer.episode_starts = p.done.astype(np.float32)
    return buffer


def sb3_case(name, observation_space):
    def arguments(num_steps, num_columns, rate, dtype):
        p = trajectories(num_steps, num_columns, rate, "float32")
        return num_steps, num_columns, p, torch.from_numpy(p.last)[:, None], p.terminated[0]

    def run(buffer_class, num_steps, num_columns, p, last_values, dones):
        buffer = sb3_buffer(buffer_class, num_steps, num_columns, p, observation_space)
        buffer.compute_returns_and_advantage(last_values, dones)
        return buffer.advantages, buffer.returns

    theirs = getattr(peers.stable_baselines3.common.buffers, name)
    return Case("sb3", name, partial(run, getattr(compat.sb3, name)), partial(run, theirs), arguments)


BOX = spaces.Box(-1, 1, (2,))
CASES = [
    Case("cleanrl", "compute_gae", compat.cleanrl.compute_gae, cleanrl_loop.compute_gae, cleanrl_arguments),
    sb3_case("RolloutBuffer", BOX),
    sb3_case("DictRolloutBuffer", spaces.Dict({"position": BOX})),
    *tianshou_cases(),
    *torchrl_cases(),
    *rlax_cases(),
]


def as_numpy(result):
    """The results as float64 arrays, one or several."""
    if isinstance(result, tuple):
        return [np.asarray(array, np.float64) for array in result]
    return [np.asarray(result, np.float64)]
