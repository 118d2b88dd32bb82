"""Behaviour cloning and distillation, natively."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from metafast.envs import Rollout
from metafast.nn._actor_critic import ActorCritic
from metafast.nn._learning import as_arrays, as_column, check_choices, check_numbers, check_policy, learn, list_rows
from metafast.nn._optimizer import Adam

__all__ = ["Demonstrations", "clone_update"]

Array = npt.NDArray[Any]
Figures = dict[str, float]


class Demonstrations(NamedTuple):
    """What a policy imitates: observations [T, N, ...] or [N, ...] and actions of the same leading shape.

    Of a recurrent policy `starts`, bool [T, N], marks the first observations of episodes; it begins with `hidden`, [N,
    hidden size], or zeros.
    """

    observations: Array
    actions: Array | None = None
    starts: Array | None = None
    hidden: Array | None = None


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
    check_numbers(
        counts={"epochs": epochs, "minibatches": minibatches},
        positive={"max_grad_norm": max_grad_norm},
        not_negative={"entropy_coef": entropy_coef},
    )
    native = check_policy(policy, optimizer)
    mask = None
    if isinstance(demonstrations, Rollout):
        demonstrations = as_arrays(demonstrations)
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
            "hidden": as_column("hidden", hidden, (shape[1], policy.hidden_size), native.dtype),
        }
    if teacher is None:
        if data.actions is None:
            raise ValueError("there must be actions to imitate, or a teacher")
        whole = policy.distribution.action_dtype == torch.int64
        actions = data.actions.reshape(*shape, *policy.distribution.action_shape)
        experience["actions"] = np.ascontiguousarray(actions, dtype=np.int64 if whole else native.dtype)
        check_choices(policy.distribution, experience["actions"])
    else:
        experience["teacher"] = _teacher_outputs(policy, teacher, experience, shape)
    if weights is not None:
        experience["advantages"] = as_column("weights", np.reshape(weights, shape), shape, native.dtype)
    return learn(
        policy,
        optimizer,
        experience,
        surrogate="log_prob" if teacher is None else "divergence",
        rows=list_rows(policy, shape, mask),
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
