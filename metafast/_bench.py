"""The table of `metafast bench`: a few kernels beside what one would use without them, in about ten seconds.

The measurements that the documentation quotes are the pytest-benchmark files in benchmarks/.
"""

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

import metafast
import metafast.attention
import metafast.envs

Row = dict[str, Any]


def _best_seconds(function: Callable[[], Any], budget: float = 0.4) -> float:
    function()
    best, deadline = float("inf"), time.perf_counter() + budget
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def make_row(what: str, peer: str, ours: float, theirs: float) -> Row:
    """Make a line of the table out of two times in seconds."""
    return {"what": what, "peer": peer, "metafast_us": ours * 1e6, "peer_us": theirs * 1e6, "ratio": theirs / ours}


def _stepper(env: Any, num_envs: int) -> Callable[[], Any]:
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 2, num_envs)
    return lambda: env.step(actions)


def _bench_envs() -> list[Row]:
    rows = []
    for num_envs, mode, peer in (
        (1, "sync", "SyncVectorEnv"),
        (64, "sync", "SyncVectorEnv"),
        (1024, "vector_entry_point", "CartPoleVectorEnv"),
        (16384, "vector_entry_point", "CartPoleVectorEnv"),
    ):
        ours = _best_seconds(_stepper(metafast.envs.make_vec("CartPole-v1", num_envs), num_envs))
        theirs = gymnasium.make_vec("CartPole-v1", num_envs, vectorization_mode=mode)
        rows.append(make_row(f"CartPole-v1 step, {num_envs}", peer, ours, _best_seconds(_stepper(theirs, num_envs))))
    return rows


def _numpy_gae(
    rewards: np.ndarray, values: np.ndarray, next_values: np.ndarray, terminated: np.ndarray, gamma: float, lam: float
) -> np.ndarray:
    advantages, carried, successor = np.empty_like(rewards), np.zeros_like(next_values), next_values
    for step in reversed(range(len(rewards))):
        alive = 1.0 - terminated[step]
        carried = rewards[step] + gamma * successor * alive - values[step] + gamma * lam * alive * carried
        advantages[step], successor = carried, values[step]
    return advantages


def _bench_returns() -> list[Row]:
    rows = []
    for steps, envs in ((128, 8), (128, 1024), (1024, 4096)):
        rng = np.random.default_rng(0)
        rewards, values = rng.standard_normal((2, steps, envs), dtype=np.float32)
        arguments = rewards, values, values[-1].copy(), rng.random((steps, envs)) < 0.01, 0.99, 0.95

        def ours(arguments: Any = arguments) -> Any:
            return metafast.gae(*arguments[:4], gamma=0.99, lam=0.95)

        def theirs(arguments: Any = arguments) -> Any:
            return _numpy_gae(*arguments)

        np.testing.assert_allclose(ours()[0], theirs(), rtol=1e-3, atol=1e-3)
        what = f"gae, ({steps}, {envs}) float32"
        rows.append(make_row(what, "NumPy loop", _best_seconds(ours), _best_seconds(theirs)))
    return rows


def _numpy_additive(query: np.ndarray, key: np.ndarray, value: np.ndarray, score_weight: np.ndarray) -> np.ndarray:
    scores = np.tanh(query[:, :, None] + key[:, None]) @ score_weight
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    context: np.ndarray = weights / weights.sum(-1, keepdims=True) @ value
    return context


def _bench_attention() -> list[Row]:
    rows = []
    for batch, queries, keys, width in ((32, 1, 32, 64), (64, 16, 64, 128), (16, 128, 128, 128)):
        rng = np.random.default_rng(0)
        query = rng.standard_normal((batch, queries, width), dtype=np.float32)
        key, value = rng.standard_normal((2, batch, keys, width), dtype=np.float32)
        arguments = query, key, value, rng.standard_normal(width, dtype=np.float32)

        def ours(arguments: Any = arguments) -> Any:
            return metafast.attention.additive_attention(*arguments)

        def theirs(arguments: Any = arguments) -> Any:
            return _numpy_additive(*arguments)

        np.testing.assert_allclose(ours(), theirs(), rtol=1e-3, atol=1e-3)
        what = f"additive, ({batch}, {queries}, {keys}, {width})"
        rows.append(make_row(what, "NumPy", _best_seconds(ours), _best_seconds(theirs)))
    return rows


def _bench_nn() -> list[Row]:
    import torch

    num_envs, num_steps = 1024, 16
    env = metafast.envs.make_vec("CartPole-v1", num_envs, autoreset_mode="same_step")
    policy = metafast.nn.ActorCritic(env.single_observation_space, env.single_action_space)
    env.reset(seed=0)

    def act_natively() -> Any:
        return metafast.envs.rollout(env, policy, num_steps)

    @torch.no_grad()
    def act_in_torch() -> None:
        observations = env.get_state()["state"].astype(np.float32)
        for _ in range(num_steps):
            logits, _values = policy(torch.from_numpy(observations))
            distribution = torch.distributions.Categorical(logits=logits)
            actions = distribution.sample()
            distribution.log_prob(actions)
            observations = env.step(actions.numpy())[0]

    ours, theirs = metafast.nn.Adam(policy, lr=0.0), torch.optim.Adam(policy.parameters(), lr=0.0)
    rollout = act_natively()
    order = np.arange(num_envs * num_steps).reshape(1, -1)
    rows = torch.from_numpy(rollout.observations[:-1].reshape(-1, 4))
    actions, log_probs = (torch.from_numpy(column.ravel()) for column in (rollout.actions, rollout.log_probs))
    advantages = np.random.default_rng(0).standard_normal(rollout.rewards.shape, dtype=np.float32)
    targets = torch.from_numpy(advantages.ravel())

    def learn_natively() -> Any:
        return metafast.nn.ppo_update(
            policy, ours, rollout, epochs=1, minibatches=64, advantages=advantages, returns=advantages, order=order,
            normalize_advantages=False,
        )  # fmt: skip

    def learn_in_torch() -> None:
        for part in torch.arange(len(rows)).chunk(64):
            logits, values = policy(rows[part])
            ratios = (torch.distributions.Categorical(logits=logits).log_prob(actions[part]) - log_probs[part]).exp()
            surrogate = torch.minimum(ratios * targets[part], ratios.clamp(0.8, 1.2) * targets[part])
            loss = 0.5 * (values - targets[part]).square().mean() - surrogate.mean()
            theirs.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
            theirs.step()

    peer, size = "torch, eager", f"{num_steps} steps of {num_envs}"
    return [
        make_row(f"rollout, 64-64, {size}", peer, _best_seconds(act_natively), _best_seconds(act_in_torch)),
        make_row("PPO, 64 minibatches of 256", peer, _best_seconds(learn_natively), _best_seconds(learn_in_torch)),
    ]


def run(room: str | None) -> list[Row]:
    """Measure one room, or all."""
    rooms = {"envs": _bench_envs, "returns": _bench_returns, "attention": _bench_attention, "nn": _bench_nn}
    if room is None and importlib.util.find_spec("torch") is None:
        del rooms["nn"]
    return [row for name, bench in rooms.items() if room in (None, name) for row in bench()]


def title() -> str:
    """Tell what the table was measured on."""
    return f"best of repeated calls; metafast on {metafast.get_num_threads()} threads, {metafast.isa()}"


def show(rows: list[Row], title: str) -> None:
    """Print the rows as a table."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=SIMPLE)
    for heading in ("", "metafast", "peer", "its time", "ratio"):
        is_text = heading in ("", "peer")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=not is_text)
    for row in rows:
        ours, theirs = (f"{row[key]:,.1f} us" for key in ("metafast_us", "peer_us"))
        table.add_row(row["what"], ours, row["peer"], theirs, f"{row['ratio']:.1f}x")
    Console().print(table)
