"""PPO, A2C and REINFORCE on a rollout: epochs and minibatches in one native call, or on a CUDA device in graphs."""

from collections.abc import Sequence
from typing import Any

import torch

from metafast.envs import Rollout
from metafast.nn import _device_learning, _learning
from metafast.nn._actor_critic import ActorCritic
from metafast.nn._given_rollout import check_rollout, read_rollout
from metafast.nn._learning import check_numbers, check_optimizer
from metafast.nn._optimizer import Adam
from metafast.returns import discounted_returns, gae

__all__ = ["a2c_update", "ppo_update", "reinforce_update", "side_of"]

Figures = dict[str, float]


def side_of(policy: ActorCritic, optimizer: Adam) -> Any:
    """Where a policy learns: the module of what is done on the CPU, or of the same on its CUDA device."""
    check_optimizer(policy, optimizer)
    side = _device_learning if policy.on_device else _learning
    side.check_policy(policy, optimizer)
    return side


def _estimate(
    side: Any, policy: ActorCritic, rollout: Rollout, gamma: float, lam: float, advantages: Any, returns: Any
) -> tuple[Any, Any]:
    """The advantages and returns given, or by GAE."""
    if _are_given(advantages, returns):
        shape = tuple(rollout.rewards.shape)
        return (
            side.as_column("advantages", advantages, shape, policy),
            side.as_column("returns", returns, shape, policy),
        )
    estimated: tuple[Any, Any] = gae(
        rollout.rewards,
        rollout.values[:-1],
        rollout.values[-1],
        rollout.terminated,
        rollout.truncated,
        gamma=gamma,
        lam=lam,
        final_values=rollout.final_values,
        mask=rollout.mask,
    )
    return estimated


def _are_given(advantages: Any, returns: Any) -> bool:
    if (advantages is None) != (returns is None):
        raise ValueError("advantages and returns must be given together")
    return advantages is not None


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

    A policy on a CUDA device learns there, from a rollout of tensors there (so it is with all updates): in torch, a
    minibatch's gather beside one CUDA graph, which is recorded at the second minibatch of a shape. The policy may then
    be made of any torch modules. Parameters and figures are the CPU's to 1e-4 in float32 and 1e-9 in float64, relative
    to how far an update moves them; rows are shuffled by a generator of the device, which `generator` seeds, unless it
    is the device's own. The card is waited for where figures are read: once, or once an epoch with `target_kl`.

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
        of whole environments' sequences. There are never more parts than steps, or environments.
    clip : float
        The probability ratio counts within 1 - clip and 1 + clip.
    value_coef : float
        Weight of the mean squared error of the values (CleanRL's ``vf_coef`` is twice this, for half the square).
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
        [T, N], in place of GAE's; both or neither.
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
    Schulman et al. 2017, eq. 7 to 9. The same numbers for any number of threads. In CleanRL's words `lam` is
    ``gae_lambda``, `epochs` ``update_epochs``, `minibatches` ``num_minibatches``, `clip` ``clip_coef``, `entropy_coef`
    ``ent_coef``; in Stable-Baselines3's `epochs` is ``n_epochs`` and `clip` ``clip_range``.
    """
    check_numbers(
        counts={"epochs": epochs, "minibatches": minibatches},
        positive={"value_clip": value_clip, "max_grad_norm": max_grad_norm, "target_kl": target_kl},
        not_negative={"clip": clip, "value_coef": value_coef, "entropy_coef": entropy_coef},
        fractions={"gamma": gamma, "lam": lam},
    )
    side = side_of(policy, optimizer)
    rollout = check_rollout(side, policy, rollout)
    experience = read_rollout(side, policy, rollout)
    advantages, returns = _estimate(side, policy, rollout, gamma, lam, advantages, returns)
    values = rollout.values[:-1]
    experience |= {
        "log_probs": rollout.log_probs,
        "advantages": advantages,
        "returns": returns,
        "values": values,
    }
    figures: Figures = side.learn(
        policy,
        optimizer,
        experience,
        surrogate="clipped",
        rows=side.list_rows(policy, rollout.rewards.shape, rollout.mask),
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
    return figures | {"explained_variance": side.explained_variance(values, returns, rollout.mask)}


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
    check_numbers(
        positive={"max_grad_norm": max_grad_norm},
        not_negative={"value_coef": value_coef, "entropy_coef": entropy_coef},
        fractions={"gamma": gamma, "lam": lam},
    )
    side = side_of(policy, optimizer)
    rollout = check_rollout(side, policy, rollout)
    experience = read_rollout(side, policy, rollout)
    advantages, returns = _estimate(side, policy, rollout, gamma, lam, advantages, returns)
    experience |= {"advantages": advantages, "returns": returns}
    figures: Figures = side.learn(
        policy,
        optimizer,
        experience,
        surrogate="log_prob",
        rows=side.list_rows(policy, rollout.rewards.shape, rollout.mask),
        value_coef=value_coef,
        entropy_coef=entropy_coef,
        normalize_advantages=normalize_advantages,
        max_grad_norm=max_grad_norm,
        lr=lr,
    )
    return figures | {"explained_variance": side.explained_variance(rollout.values[:-1], returns, rollout.mask)}


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
    check_numbers(
        positive={"max_grad_norm": max_grad_norm},
        not_negative={"value_coef": value_coef, "entropy_coef": entropy_coef},
        fractions={"gamma": gamma},
    )
    side = side_of(policy, optimizer)
    rollout = check_rollout(side, policy, rollout)
    experience = read_rollout(side, policy, rollout)
    shape = tuple(rollout.rewards.shape)
    mask = rollout.terminated | True if rollout.mask is None else rollout.mask
    ended = rollout.ended & mask
    given = _are_given(advantages, returns)
    if not baseline and not given:
        # An end is still to come where fewer came before than there are.
        mask = mask & (ended.cumsum(0) - ended * 1 < ended.sum(0))
    # Of each environment the episodes that end, and the one that the rollout's end cuts.
    episodes = int(ended.sum() + (mask[-1] & ~ended[-1]).sum())
    num_rows = int(mask.sum())
    if not given:
        returns = discounted_returns(
            rollout.rewards,
            rollout.terminated,
            rollout.truncated,
            gamma=gamma,
            bootstrap=rollout.values[-1] if baseline else None,
            final_values=rollout.final_values if baseline else None,
        )
        advantages = returns - rollout.values[:-1] if baseline else returns
    experience |= {
        "advantages": side.as_column("advantages", advantages, shape, policy),
        "returns": side.as_column("returns", returns, shape, policy),
    }
    if policy.recurrent:
        experience["mask"] = mask
    if num_rows == 0:
        raise ValueError("no episode ended in the rollout: take more steps, or baseline=True")
    figures: Figures = side.learn(
        policy,
        optimizer,
        experience,
        surrogate="log_prob",
        rows=side.list_rows(policy, shape, mask),
        value_coef=value_coef if baseline else 0.0,
        entropy_coef=entropy_coef,
        num_units=episodes / num_rows,
        normalize_advantages=normalize_advantages,
        max_grad_norm=max_grad_norm,
        lr=lr,
    )
    return figures | {"explained_variance": side.explained_variance(rollout.values[:-1], experience["returns"], mask)}
