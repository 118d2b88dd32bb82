"""Behaviour cloning and distillation, natively."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from metafast.envs import Rollout
from metafast.nn._actor_critic import ActorCritic
from metafast.nn._learning import check_numbers
from metafast.nn._optimizer import Adam
from metafast.nn._policy_gradient import side_of

__all__ = ["Demonstrations", "clone_update"]

Figures = dict[str, float]


class Demonstrations(NamedTuple):
    """What a policy imitates: observations [T, N, ...] or [N, ...] and actions of the same leading shape.

    Actions are as in a `Rollout`: choices from 0, and of a Box in units of its bounds; an environment's own become
    these by ``policy.distribution.from_environment``. Of a Rollout the observations are ``rollout.observations[:-1]``.

    Of a recurrent policy or teacher `starts`, bool [T, N], marks the first observations of episodes. The policy, or
    where that has no memory the teacher, begins with `hidden`, [N, hidden size], or zeros.
    """

    observations: Any
    actions: Any = None
    starts: Any = None
    hidden: Any = None


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
    """Behaviour cloning, or the distillation of a teacher, natively; on a CUDA device as `ppo_update`.

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
    check_numbers(
        counts={"epochs": epochs, "minibatches": minibatches},
        positive={"max_grad_norm": max_grad_norm},
        not_negative={"entropy_coef": entropy_coef},
    )
    side = side_of(policy, optimizer)
    data, mask = _read(side, policy, demonstrations)
    shape = tuple(data.observations.shape[:2])
    experience: dict[str, Any] = side.read_observations(data.observations)
    if policy.recurrent:
        if data.starts is None:
            raise ValueError("a recurrent policy needs starts, bool [T, N]")
        state = shape[1], policy.hidden_size
        hidden = side.zeros(state, policy) if data.hidden is None else data.hidden
        experience |= {
            "starts": data.starts,
            "mask": mask,
            "hidden": side.as_column("hidden", hidden, state, policy),
        }
    if teacher is None:
        if data.actions is None:
            raise ValueError("there must be actions to imitate, or a teacher")
        experience["actions"] = data.actions
    else:
        experience["teacher"] = _teacher_outputs(side, policy, teacher, data)
    if weights is not None:
        given = side.as_array("weights", weights, policy)
        flat = given[None] if given.ndim == 1 else given
        experience["advantages"] = side.as_column("weights", flat, shape, policy)
    figures: Figures = side.learn(
        policy,
        optimizer,
        experience,
        surrogate="log_prob" if teacher is None else "divergence",
        rows=side.list_rows(policy, shape, mask),
        epochs=epochs,
        minibatches=minibatches,
        order=order,
        generator=generator,
        lr=lr,
        entropy_coef=entropy_coef,
        max_grad_norm=max_grad_norm,
    )
    return figures


def _read(side: Any, policy: ActorCritic, demonstrations: Any) -> tuple[Demonstrations, Any]:
    """The demonstrations, checked, as [T, N, ...] (rows without time are T = 1), and a rollout's mask."""
    mask: Any = None
    if isinstance(demonstrations, Rollout):
        rollout = demonstrations
        if rollout.mask is not None:
            mask = side.as_flags("mask", rollout.mask, tuple(rollout.rewards.shape), policy)
        given = Demonstrations(rollout.observations[:-1], rollout.actions, rollout.starts, rollout.initial_hidden)
    elif isinstance(demonstrations, Demonstrations):
        given = demonstrations
    else:
        raise TypeError(f"demonstrations must be Demonstrations or a Rollout, not {type(demonstrations).__name__}")
    columns = given._asdict().items()
    observations, actions, starts, hidden = (
        None if column is None else side.as_array(name, column, policy) for name, column in columns
    )
    assert observations is not None
    own = len(policy.observation_shape)
    # Flattened observations have one axis of their own, whatever the space has.
    whole = tuple(observations.shape[observations.ndim - own :]) == policy.observation_shape
    leading = tuple(observations.shape[: observations.ndim - (own if whole else 1)])
    if len(leading) == 1:
        observations, leading = observations[None], (1, *leading)
        actions = None if actions is None else actions[None]
        starts = starts[None] if starts is not None and starts.ndim == 1 else starts
    if len(leading) != 2 or 0 in leading:
        raise ValueError(
            f"observations must have shape (N, ...) or (T, N, ...) with {policy.observation_shape} for the dots, "
            f"not {tuple(given.observations.shape)}"
        )
    observations = side.as_observations(policy, observations, leading)
    actions = None if actions is None else side.as_actions(policy, actions, leading)
    starts = None if starts is None else side.as_flags("starts", starts, leading, policy)
    return Demonstrations(observations, actions, starts, hidden), mask


def _teacher_outputs(side: Any, policy: ActorCritic, teacher: Any, data: Demonstrations) -> Any:
    """The teacher's normalised logits, or means and sigmas, of every row, [T, N, n]."""
    distribution = policy.distribution
    shape = tuple(data.observations.shape[:2])
    if isinstance(teacher, ActorCritic):
        theirs = teacher.distribution
        if (theirs.choices, theirs.num_outputs, type(theirs)) != (
            distribution.choices,
            distribution.num_outputs,
            type(distribution),
        ):
            raise ValueError("the teacher acts in another action space than the policy")
        if teacher.recurrent and data.starts is None:
            raise ValueError("a recurrent teacher needs starts, bool [T, N]")
        if teacher.observation_size != policy.observation_size:
            raise ValueError(
                f"the teacher observes {teacher.observation_size} numbers, the policy {policy.observation_size}"
            )
        if teacher.device != policy.device:
            raise TypeError(f"teacher is on {teacher.device}, but the policy is on {policy.device}")
        observations = torch.as_tensor(data.observations)
        with torch.no_grad():
            if teacher.recurrent:
                # The state before the first step is the policy's own, unless the teacher alone has one.
                known = None if policy.recurrent or data.hidden is None else torch.as_tensor(data.hidden)
                outputs = teacher(observations, known, torch.as_tensor(data.starts))[0]
            else:
                outputs = teacher(observations.flatten(0, 1))[0]
    else:
        outputs = torch.as_tensor(side.as_array("teacher", teacher, policy))
    width = distribution.num_outputs
    if tuple(outputs.shape) not in ((*shape, width), (math.prod(shape), width)):
        raise ValueError(f"teacher must have shape {(*shape, width)}, not {tuple(outputs.shape)}")
    outputs = outputs.to(policy.dtype).reshape(*shape, width)
    if distribution.choices:
        outputs = torch.cat([logits.log_softmax(-1) for logits in outputs.split(distribution.choices, -1)], -1)
    elif distribution.native_head != "bernoulli" and not (outputs[..., width // 2 :] > 0).all():
        raise ValueError("the teacher's sigmas must be positive")
    return side.as_column("teacher", outputs, (*shape, width), policy)
