"""Updates of an actor-critic by a rollout: epochs and minibatches in one native call."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from metafast import _core
from metafast.envs import Rollout
from metafast.nn._actor_critic import ActorCritic
from metafast.nn._native import NativePolicy
from metafast.nn._optimizer import Adam
from metafast.returns import discounted_returns, gae

__all__ = ["Demonstrations", "a2c_update", "clone_update", "ppo_update", "reinforce_update"]

Array = npt.NDArray[Any]
Figures = dict[str, float]

# The columns of the kernels' diagnostics (csrc/nn/learning.hpp), each a sum over the rows of a minibatch.
_OBJECTIVE, _VALUE_ERROR, _ENTROPY, _DIVERGENCE, _CLIPPED, _ROWS, _GRAD_NORM = range(7)


class Demonstrations(NamedTuple):
    """What a policy imitates: observations [T, N, ...] or [N, ...] and actions of the same leading shape.

    Of a recurrent policy `starts`, bool [T, N], marks the first observations of episodes; it begins with `hidden`, [N,
    hidden size], or zeros.
    """

    observations: Array
    actions: Array | None = None
    starts: Array | None = None
    hidden: Array | None = None


def _check_policy(policy: ActorCritic, optimizer: Adam) -> NativePolicy:
    if not isinstance(policy, ActorCritic):
        raise TypeError(f"policy must be a metafast.nn.ActorCritic, not {type(policy).__name__}")
    if not isinstance(optimizer, Adam):
        raise TypeError(f"optimizer must be a metafast.nn.Adam, not {type(optimizer).__name__}")
    if optimizer.policy is not policy:
        raise ValueError("optimizer was made for another policy")
    return policy.native()


def _check_numbers(*, counts: dict[str, Any], positive: dict[str, Any], not_negative: dict[str, Any]) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
    for name, value in positive.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, or None, not {value!r}")
    for name, value in not_negative.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be finite and not negative, not {value!r}")


def _column(name: str, values: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    array = values.detach().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {array.shape}")
    return np.ascontiguousarray(array, dtype=dtype)


def _order(rows: Array, epochs: int, order: Any, generator: torch.Generator | None, shuffled: bool) -> Array:
    """The rows in the order of each epoch, int64 [epochs, number of rows]."""
    if order is not None:
        given = np.ascontiguousarray(order, dtype=np.int64)
        if given.ndim != 2 or len(given) != epochs or not (np.sort(given, 1) == np.sort(rows)).all():
            raise ValueError(f"order must hold {epochs} permutations of the {len(rows)} rows that count")
        return given
    if not shuffled:
        return np.ascontiguousarray(np.broadcast_to(rows, (epochs, len(rows))))
    drawn = [torch.randperm(len(rows), generator=generator).numpy() for _ in range(epochs)]
    permuted: Array = rows[np.stack(drawn)]
    return permuted


def _learn(
    policy: ActorCritic,
    optimizer: Adam,
    experience: dict[str, Any],
    *,
    surrogate: str,
    rows: Array,
    epochs: int = 1,
    minibatches: int = 1,
    order: Any = None,
    generator: torch.Generator | None = None,
    lr: float | Sequence[float] | None = None,
    clip: float = 0.0,
    value_clip: float | None = None,
    value_coef: float = 0.0,
    entropy_coef: float = 0.0,
    num_units: float = 1.0,
    normalize_advantages: bool = False,
    max_grad_norm: float | None = None,
    target_kl: float | None = None,
) -> Figures:
    """Run the native update and average its diagnostics."""
    native = _check_policy(policy, optimizer)
    if len(rows) == 0:
        raise ValueError("there is nothing to learn from: no row counts")
    chosen = _order(rows, epochs, order, generator, shuffled=minibatches > 1)
    num_minibatches = -(-len(rows) // -(-len(rows) // minibatches))
    rates = np.broadcast_to(np.asarray(optimizer.lr if lr is None else lr, dtype=np.float64).ravel(), (
        epochs * num_minibatches,
    )) if np.size(optimizer.lr if lr is None else lr) in (1, epochs * num_minibatches) else None  # fmt: skip
    if rates is None or not (np.isfinite(rates).all() and (rates >= 0).all()):
        raise ValueError(f"lr must be one number, or {epochs * num_minibatches} of them, finite and not negative")
    columns = {"log_probs": None, "advantages": None, "returns": None, "values": None, "teacher": None}
    step, diagnostics, finite = _core.update_policy(
        native.network,
        native.array,
        optimizer.native(),
        {**columns, "statistics": policy.native_statistics(), "mask": None, **experience},
        {
            "surrogate": surrogate,
            "clip": clip,
            "value_clip": value_clip or 0.0,
            "value_coef": value_coef,
            "entropy_coef": entropy_coef,
        },
        {
            "order": chosen,
            "minibatches": minibatches,
            "learning_rates": np.ascontiguousarray(rates),
            "num_units": num_units,
            "max_grad_norm": max_grad_norm or 0.0,
            "target_kl": target_kl or 0.0,
            "normalize_advantages": normalize_advantages,
        },
    )
    optimizer.step_count = step
    if not finite:
        raise ValueError(
            f"the gradient of minibatch {len(diagnostics)} is not finite (NaN or infinity in the rollout or in the "
            "parameters); the policy is as it was after the minibatch before"
        )
    sums = diagnostics.sum(0)
    total = sums[_ROWS]
    figures = {
        "policy_loss": -sums[_OBJECTIVE] / (total * num_units),
        "entropy": sums[_ENTROPY] / total,
        "grad_norm": sums[_GRAD_NORM] / len(diagnostics),
        "optimizer_steps": float(len(diagnostics)),
    }
    if value_coef:
        figures["value_loss"] = sums[_VALUE_ERROR] / total
    if surrogate == "clipped":
        figures["clip_fraction"] = sums[_CLIPPED] / total
    if surrogate != "log_prob":
        figures["approx_kl" if surrogate == "clipped" else "divergence"] = sums[_DIVERGENCE] / total
    return {name: float(value) for name, value in figures.items()}


def _arrays(rollout: Any) -> Rollout:
    """A rollout of arrays or tensors as one of arrays."""
    if not isinstance(rollout, Rollout):
        raise TypeError(f"rollout must be a metafast.envs.Rollout, not {type(rollout).__name__}")
    return rollout.numpy() if isinstance(rollout.rewards, torch.Tensor) else rollout


def _experience(policy: ActorCritic, rollout: Rollout) -> dict[str, Any]:
    """The columns of a rollout that every update reads, checked."""
    dtype, shape = policy.native().dtype, rollout.rewards.shape
    size = policy.observation_size
    if len(shape) != 2 or rollout.observations.size != (shape[0] + 1) * shape[1] * size:
        raise ValueError(
            f"a policy over {size} numbers needs observations of {(shape[0] + 1) * shape[1] * size} elements for "
            f"rewards of shape {shape}, not of shape {rollout.observations.shape}"
        )
    distribution = policy.distribution
    actions_dtype = np.dtype(np.int64) if distribution.action_dtype == torch.int64 else dtype
    actions = _column("actions", rollout.actions, (*shape, *distribution.action_shape), actions_dtype)
    _check_choices(distribution, actions)
    experience = {
        "observations": np.ascontiguousarray(rollout.observations),
        "num_steps": shape[0],
        "num_envs": shape[1],
        "actions": actions,
    }
    if policy.recurrent:
        if rollout.initial_hidden is None:
            raise ValueError("rollout was made by a policy without a GRU: initial_hidden is None")
        experience |= {
            "starts": np.ascontiguousarray(rollout.starts, dtype=np.bool_),
            "mask": None if rollout.mask is None else np.ascontiguousarray(rollout.mask, dtype=np.bool_),
            "hidden": _column("initial_hidden", rollout.initial_hidden, (shape[1], policy.hidden_size), dtype),
        }
    return experience


def _check_choices(distribution: Any, actions: Array) -> None:
    if actions.dtype != np.int64:
        return
    limits = np.array(distribution.choices or 2).reshape(distribution.action_shape if distribution.choices else ())
    if (actions < 0).any() or (actions >= limits).any():
        raise ValueError(f"actions must be choices counted from 0, below {limits.tolist()}")


def _rows(policy: ActorCritic, shape: tuple[int, ...], mask: Array | None) -> Array:
    """What minibatches are made of: the steps that count or, of a recurrent policy, environments."""
    if policy.recurrent:
        return np.arange(shape[1])
    return np.arange(shape[0] * shape[1]) if mask is None else np.flatnonzero(mask)


def _explained_variance(values: Array, returns: Array, mask: Array | None) -> float:
    targets = returns if mask is None else returns[mask]
    errors = targets - (values if mask is None else values[mask])
    variance = float(np.var(targets, dtype=np.float64))
    return math.nan if variance == 0 else 1 - float(np.var(errors, dtype=np.float64)) / variance


def _estimate(
    policy: ActorCritic, rollout: Rollout, gamma: float, lam: float, advantages: Any, returns: Any
) -> tuple[Array, Array]:
    """The advantages and returns given, or by GAE."""
    dtype, shape = policy.native().dtype, rollout.rewards.shape
    if (advantages is None) != (returns is None):
        raise ValueError("advantages and returns must be given together")
    if advantages is not None:
        return _column("advantages", advantages, shape, dtype), _column("returns", returns, shape, dtype)
    columns = {"rewards": shape, "values": (shape[0] + 1, shape[1]), "final_values": shape}
    rewards, values, final_values = (
        _column(name, getattr(rollout, name), expected, dtype) for name, expected in columns.items()
    )
    estimated: tuple[Array, Array] = gae(
        rewards,
        values[:-1],
        values[-1],
        rollout.terminated,
        rollout.truncated,
        gamma=gamma,
        lam=lam,
        final_values=final_values,
        mask=rollout.mask,
    )
    return estimated


def ppo_update(
    policy: ActorCritic,
    optimizer: Adam,
    rollout: Rollout,
    *,
    gamma: float = 0.99,
    lam: float = 0.95,
    epochs: int = 4,
    minibatches: int = 4,
    clip: float = 0.2,
    value_coef: float = 0.5,
    value_clip: float | None = None,
    entropy_coef: float = 0.0,
    normalize_advantages: bool = True,
    max_grad_norm: float | None = 0.5,
    target_kl: float | None = None,
    lr: float | Sequence[float] | None = None,
    advantages: Any = None,
    returns: Any = None,
    order: Any = None,
    generator: torch.Generator | None = None,
) -> Figures:
    """Proximal policy optimisation on a rollout, natively.

    Parameters
    ----------
    policy : ActorCritic
        Updated in place.
    optimizer : Adam
        Of this policy.
    rollout : metafast.envs.Rollout
        What the policy experienced.
    gamma, lam : float
        Discount, and lambda of GAE.
    epochs, minibatches : int
        Passes over the rollout, and the random parts that each is cut into: of steps or, where the policy is recurrent,
        of whole environments' sequences.
    clip : float
        The probability ratio counts within 1 - clip and 1 + clip.
    value_coef : float
        Weight of the mean squared error of the values.
    value_clip : float, optional
        A value counts within so much of what it was, as in PPO's first implementation.
    entropy_coef : float
        Weight of the mean entropy.
    normalize_advantages : bool
        Standardise the advantages of each minibatch.
    max_grad_norm : float, optional
        Longer gradients are shortened to this.
    target_kl : float, optional
        No further epoch follows one over which `approx_kl` exceeded this on average.
    lr : float or sequence of float, optional
        In place of the optimiser's: one, or one for each step of it.
    advantages, returns : array, optional
        [T, N], in place of GAE's.
    order : array, optional
        int64 [epochs, rows]: the order of the rows t * N + n in each epoch; of a recurrent policy, of the environments.
    generator : torch.Generator, optional
        Shuffles the rows; torch's global generator where it is None.

    Returns
    -------
    dict
        Means over all minibatches: ``policy_loss``, ``value_loss``, ``entropy``, ``approx_kl`` (Schulman's estimator,
        r - 1 - log r), ``clip_fraction``, ``grad_norm`` (before it is limited); ``explained_variance`` of the returns
        by the values before the update; ``optimizer_steps``.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind, or the kernels cannot express the policy.
    ValueError
        If shapes or numbers do not fit, or a gradient is not finite, before which the update stops.

    Notes
    -----
    Schulman et al. 2017, eq. 7 to 9. The same numbers for any number of threads.
    """
    _check_numbers(
        counts={"epochs": epochs, "minibatches": minibatches},
        positive={"value_clip": value_clip, "max_grad_norm": max_grad_norm, "target_kl": target_kl},
        not_negative={"clip": clip, "value_coef": value_coef, "entropy_coef": entropy_coef},
    )
    rollout = _arrays(rollout)
    experience = _experience(policy, rollout)
    advantages, returns = _estimate(policy, rollout, gamma, lam, advantages, returns)
    shape, dtype = rollout.rewards.shape, policy.native().dtype
    values = _column("values", rollout.values, (shape[0] + 1, shape[1]), dtype)[:-1]
    experience |= {
        "log_probs": _column("log_probs", rollout.log_probs, shape, dtype),
        "advantages": advantages,
        "returns": returns,
        "values": values,
    }
    figures = _learn(
        policy,
        optimizer,
        experience,
        surrogate="clipped",
        rows=_rows(policy, shape, rollout.mask),
        epochs=epochs,
        minibatches=minibatches,
        order=order,
        generator=generator,
        lr=lr,
        clip=clip,
        value_clip=value_clip,
        value_coef=value_coef,
        entropy_coef=entropy_coef,
        normalize_advantages=normalize_advantages,
        max_grad_norm=max_grad_norm,
        target_kl=target_kl,
    )
    return figures | {"explained_variance": _explained_variance(values, returns, rollout.mask)}


def a2c_update(
    policy: ActorCritic,
    optimizer: Adam,
    rollout: Rollout,
    *,
    gamma: float = 0.99,
    lam: float = 1.0,
    value_coef: float = 0.5,
    entropy_coef: float = 0.0,
    normalize_advantages: bool = False,
    max_grad_norm: float | None = 0.5,
    lr: float | None = None,
    advantages: Any = None,
    returns: Any = None,
) -> Figures:
    """One step of advantage actor-critic on a whole rollout, natively.

    Parameters, exceptions and figures are those of `ppo_update`; there is nothing to clip.

    Notes
    -----
    Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning", with GAE.
    """
    _check_numbers(
        counts={},
        positive={"max_grad_norm": max_grad_norm},
        not_negative={"value_coef": value_coef, "entropy_coef": entropy_coef},
    )
    rollout = _arrays(rollout)
    experience = _experience(policy, rollout)
    advantages, returns = _estimate(policy, rollout, gamma, lam, advantages, returns)
    experience |= {"advantages": advantages, "returns": returns}
    figures = _learn(
        policy,
        optimizer,
        experience,
        surrogate="log_prob",
        rows=_rows(policy, rollout.rewards.shape, rollout.mask),
        value_coef=value_coef,
        entropy_coef=entropy_coef,
        normalize_advantages=normalize_advantages,
        max_grad_norm=max_grad_norm,
        lr=lr,
    )
    return figures | {"explained_variance": _explained_variance(rollout.values[:-1], returns, rollout.mask)}


def reinforce_update(
    policy: ActorCritic,
    optimizer: Adam,
    rollout: Rollout,
    *,
    gamma: float = 0.99,
    baseline: bool = False,
    value_coef: float = 0.5,
    entropy_coef: float = 0.0,
    normalize_advantages: bool = False,
    max_grad_norm: float | None = None,
    lr: float | None = None,
    advantages: Any = None,
    returns: Any = None,
) -> Figures:
    """One step of REINFORCE on a rollout, natively.

    Parameters
    ----------
    policy, optimizer, rollout, gamma, value_coef, entropy_coef, normalize_advantages, max_grad_norm, lr, advantages, \
returns
        As of `ppo_update`.
    baseline : bool
        Subtract the values, and learn them; an episode that was cut, or that the rollout's end cuts, then counts on the
        value of its last observation. Without, a truncated episode's return is what was seen of it, and steps whose
        episode does not end in the rollout are left out, which favours short episodes where T is small.

    Returns
    -------
    dict
        As of `ppo_update`; ``policy_loss`` is a sum over steps, averaged over the episodes.

    Notes
    -----
    Williams 1992, "Simple Statistical Gradient-Following Algorithms", with returns from each step on.
    """
    _check_numbers(
        counts={},
        positive={"max_grad_norm": max_grad_norm},
        not_negative={"value_coef": value_coef, "entropy_coef": entropy_coef},
    )
    rollout = _arrays(rollout)
    experience = _experience(policy, rollout)
    shape, dtype = rollout.rewards.shape, policy.native().dtype
    mask = np.ones(shape, np.bool_) if rollout.mask is None else rollout.mask
    ended = rollout.ended & mask
    if not baseline and advantages is None:
        mask = mask & (ended[::-1].cumsum(0)[::-1] > 0)
    # Of each environment the episodes that end, and the one that the rollout's end cuts.
    episodes = ended.sum() + (mask[-1] & ~ended[-1]).sum()
    if advantages is None:
        returns = discounted_returns(
            _column("rewards", rollout.rewards, shape, dtype),
            rollout.terminated,
            rollout.truncated,
            gamma=gamma,
            bootstrap=rollout.values[-1] if baseline else None,
            final_values=rollout.final_values if baseline else None,
        )
        advantages = returns - rollout.values[:-1] if baseline else returns
    advantages, returns = (_column("advantages", advantages, shape, dtype), _column("returns", returns, shape, dtype))
    experience |= {"advantages": advantages, "returns": returns}
    if policy.recurrent:
        experience["mask"] = np.ascontiguousarray(mask)
    if not mask.any():
        raise ValueError("no episode ended in the rollout: take more steps, or baseline=True")
    figures = _learn(
        policy,
        optimizer,
        experience,
        surrogate="log_prob",
        rows=_rows(policy, shape, mask),
        value_coef=value_coef if baseline else 0.0,
        entropy_coef=entropy_coef,
        num_units=float(episodes / mask.sum()),
        normalize_advantages=normalize_advantages,
        max_grad_norm=max_grad_norm,
        lr=lr,
    )
    return figures | {"explained_variance": _explained_variance(rollout.values[:-1], returns, mask)}


def clone_update(
    policy: ActorCritic,
    optimizer: Adam,
    demonstrations: Demonstrations | Rollout,
    *,
    teacher: Any = None,
    weights: Any = None,
    epochs: int = 1,
    minibatches: int = 1,
    entropy_coef: float = 0.0,
    max_grad_norm: float | None = None,
    lr: float | Sequence[float] | None = None,
    order: Any = None,
    generator: torch.Generator | None = None,
) -> Figures:
    """Behaviour cloning, or the distillation of a teacher, natively.

    Parameters
    ----------
    policy, optimizer, epochs, minibatches, entropy_coef, max_grad_norm, lr, order, generator
        As of `ppo_update`.
    demonstrations : Demonstrations or metafast.envs.Rollout
        Observations and the actions to imitate.
    teacher : ActorCritic or array, optional
        Imitate its whole distribution instead of the actions: KL(teacher || policy) is minimised. An array
        [..., n] holds what `ActorCritic` calls outputs: logits, or means and then sigmas.
    weights : array, optional
        Of each row; 1 where it is None.

    Returns
    -------
    dict
        As of `ppo_update`; ``policy_loss`` is the mean negative log-likelihood or divergence.

    Raises
    ------
    ValueError
        If there is neither a teacher nor an action, or shapes do not fit.
    TypeError
        If an argument is of the wrong kind.

    Notes
    -----
    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"; Rusu et al. 2016, "Policy Distillation".

    Examples
    --------
    >>> import numpy as np
    >>> from gymnasium.spaces import Box, Discrete
    >>> import metafast
    >>> policy = metafast.nn.ActorCritic(Box(-1.0, 1.0, (1,)), Discrete(2))
    >>> optimizer = metafast.nn.Adam(policy, lr=1e-2)
    >>> observations = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> actions = (observations[:, 0] > 0).astype(np.int64)
    >>> data = metafast.nn.Demonstrations(observations, actions)
    >>> figures = metafast.nn.clone_update(policy, optimizer, data, epochs=100)
    >>> figures["policy_loss"] < 0.4
    True
    """
    _check_numbers(
        counts={"epochs": epochs, "minibatches": minibatches},
        positive={"max_grad_norm": max_grad_norm},
        not_negative={"entropy_coef": entropy_coef},
    )
    native = _check_policy(policy, optimizer)
    mask = None
    if isinstance(demonstrations, Rollout):
        demonstrations = _arrays(demonstrations)
        mask = demonstrations.mask
        data = Demonstrations(
            demonstrations.observations[:-1], demonstrations.actions, demonstrations.starts,
            demonstrations.initial_hidden,
        )  # fmt: skip
    elif isinstance(demonstrations, Demonstrations):
        data = demonstrations
    else:
        raise TypeError(f"demonstrations must be Demonstrations or a Rollout, not {type(demonstrations).__name__}")
    observations = np.ascontiguousarray(data.observations)
    count, remainder = divmod(observations.size, policy.observation_size)
    if policy.recurrent:
        if data.starts is None or data.starts.ndim != 2 or data.starts.size != count or remainder:
            raise ValueError("a recurrent policy needs starts, bool [T, N], and observations [T, N, ...]")
        shape: tuple[int, ...] = data.starts.shape
    elif data.actions is not None:
        actions_ndim = data.actions.ndim - len(policy.distribution.action_shape)
        shape = (1, *data.actions.shape[:actions_ndim]) if actions_ndim == 1 else data.actions.shape[:actions_ndim]
    else:
        shape = (1, count)
    actions_shape = None if data.actions is None else data.actions.shape
    if remainder or math.prod(shape) != count or len(shape) != 2:
        raise ValueError(
            f"observations of shape {observations.shape} and actions of shape {actions_shape} do not fit a "
            f"policy over {policy.observation_size} numbers"
        )
    experience: dict[str, Any] = {"observations": observations, "num_steps": shape[0], "num_envs": shape[1]}
    experience["actions"] = None
    if policy.recurrent:
        hidden = np.zeros((shape[1], policy.hidden_size)) if data.hidden is None else data.hidden
        experience |= {
            "starts": np.ascontiguousarray(data.starts, dtype=np.bool_),
            "mask": mask,
            "hidden": _column("hidden", hidden, (shape[1], policy.hidden_size), native.dtype),
        }
    if teacher is None:
        if data.actions is None:
            raise ValueError("there must be actions to imitate, or a teacher")
        whole = policy.distribution.action_dtype == torch.int64
        actions = data.actions.reshape(*shape, *policy.distribution.action_shape)
        experience["actions"] = np.ascontiguousarray(actions, dtype=np.int64 if whole else native.dtype)
        _check_choices(policy.distribution, experience["actions"])
    else:
        experience["teacher"] = _teacher_outputs(policy, teacher, experience, shape)
    if weights is not None:
        experience["advantages"] = _column("weights", np.reshape(weights, shape), shape, native.dtype)
    return _learn(
        policy,
        optimizer,
        experience,
        surrogate="log_prob" if teacher is None else "divergence",
        rows=_rows(policy, shape, mask),
        epochs=epochs,
        minibatches=minibatches,
        order=order,
        generator=generator,
        lr=lr,
        entropy_coef=entropy_coef,
        max_grad_norm=max_grad_norm,
    )


def _teacher_outputs(policy: ActorCritic, teacher: Any, experience: dict[str, Any], shape: tuple[int, ...]) -> Array:
    """The teacher's normalised logits, or means and sigmas, of every row."""
    distribution, native = policy.distribution, policy.native()
    if isinstance(teacher, ActorCritic):
        if teacher.distribution.num_outputs != distribution.num_outputs:
            raise ValueError("the teacher acts in another action space than the policy")
        observations = torch.from_numpy(experience["observations"])
        with torch.no_grad():
            if teacher.recurrent:
                starts = torch.from_numpy(experience["starts"]) if "starts" in experience else None
                outputs = teacher(observations.reshape(*shape, -1), None, starts)[0]
            else:
                outputs = teacher(observations.reshape(math.prod(shape), -1))[0]
        teacher = outputs.reshape(*shape, -1).numpy()
    outputs = np.asarray(teacher, dtype=native.dtype)
    if outputs.size != math.prod(shape) * native.distribution_size:
        raise ValueError(
            f"teacher must hold {native.distribution_size} outputs for each of {math.prod(shape)} rows, "
            f"not shape {outputs.shape}"
        )
    outputs = outputs.reshape(math.prod(shape), native.distribution_size)
    if distribution.choices:
        parts = torch.from_numpy(np.ascontiguousarray(outputs)).split(distribution.choices, -1)
        outputs = torch.cat([logits.log_softmax(-1) for logits in parts], -1).numpy()
    elif distribution.native_head != "bernoulli" and not (outputs[:, native.distribution_size // 2 :] > 0).all():
        raise ValueError("the teacher's sigmas must be positive")
    return np.ascontiguousarray(outputs)
