"""The fused loop: policy inference, sampling and stepping in one native call; on a CUDA device in one CUDA graph."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode

from metafast import _arrays, _core
from metafast.envs._arguments import check_whole_number
from metafast.envs._batched_env import BatchedVectorEnv
from metafast.envs._vector_env import NativeVectorEnv

__all__ = ["Rollout", "rollout"]

Array = npt.NDArray[Any]


@dataclass(repr=False)
class Rollout:
    """Experience of N environments over T steps, time-major: what `rollout` returns and the native updates take.

    Floats are float32, or float64 where the policy's parameters are. `torch` turns the arrays into tensors; what was
    made on a CUDA device is tensors there.

    Attributes
    ----------
    observations : numpy.ndarray
        [T + 1, N, ...], the environment's dtype; the last row was observed after the last step.
    actions : numpy.ndarray
        [T, N] or [T, N, components]: int64 choices counted from 0, or what a Gaussian policy drew, before it is scaled
        to the environment's bounds and clipped.
    log_probs : numpy.ndarray
        [T, N], of the actions under the policy that acted.
    rewards : numpy.ndarray
        [T, N].
    terminated, truncated : numpy.ndarray
        bool [T, N].
    values : numpy.ndarray
        [T + 1, N]: of every observation.
    final_values : numpy.ndarray
        [T, N]: where an episode was truncated, the value of its true last observation; else 0.
    final_observations : numpy.ndarray
        [T, N, ...]: where an episode ended, its last observation; else 0.
    starts : numpy.ndarray
        bool [T, N]: the observation is the first of its episode.
    mask : numpy.ndarray or None
        bool [T, N], False where an environment was only reset, in next_step mode; None where every row is a step.
    initial_hidden, hidden : numpy.ndarray or None
        [N, hidden size], of a recurrent policy: its state before the first and after the last step.
    """

    observations: Any
    actions: Any
    log_probs: Any
    rewards: Any
    terminated: Any
    truncated: Any
    values: Any
    final_values: Any
    final_observations: Any
    starts: Any
    mask: Any = None
    initial_hidden: Any = None
    hidden: Any = None

    def __repr__(self) -> str:
        columns = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        shapes = [f"{name}={tuple(column.shape)}" for name, column in columns.items() if column is not None]
        return f"Rollout({', '.join(shapes)})"

    @property
    def ended(self) -> Any:
        """Where an episode ended, bool [T, N]."""
        return self.terminated | self.truncated

    def map(self, function: Callable[..., Any], *others: "Rollout") -> "Rollout":
        """The rollout of what `function` makes of each field, with the `others`'; one of None stays None."""
        columns = {}
        for field in dataclasses.fields(self):
            parts = [getattr(rollout, field.name) for rollout in (self, *others)]
            columns[field.name] = None if parts[0] is None else function(*parts)
        return Rollout(**columns)

    def torch(self) -> "Rollout":
        """The same with torch tensors that share the memory, on the device where they are."""
        import torch

        return self.map(torch.as_tensor)

    def numpy(self) -> "Rollout":
        """The same with NumPy arrays, which share the memory of tensors on the CPU and are copies of others."""
        return self.map(lambda column: np.asarray(column.cpu() if _arrays.is_torch(column) else column))


def rollout(
    env: BatchedVectorEnv[Any, Any, Any],
    policy: Any,
    num_steps: int,
    *,
    hidden: Any = None,
    generator: Any = None,
    deterministic: bool = False,
) -> Rollout:
    """Let a policy act in native environments for a number of steps, in one call without the GIL.

    Environments on a CUDA device are stepped there by a policy there, and the rollout's fields are tensors there. The
    loop runs in torch and the environments' kernels. Its first call for a policy and a number of steps runs as it is;
    the second is recorded into a CUDA graph (a second or more), which it and the later ones replay. Nothing waits for
    the card; each call's tensors are its own. The policy may be any torch module that `ActorCritic.from_modules` takes.

    Parameters
    ----------
    env : NativeVectorEnv or DeviceVectorEnv
        Made by `make_vec` or of a `compile_env` class, and reset; it goes on from where it is, so that calls follow
        each other. In ``same_step`` mode every row is a step; in ``next_step`` mode `Rollout.mask` marks those that
        are.
    policy : metafast.nn.ActorCritic
        Whose parameters are read where they are.
    num_steps : int
        T.
    hidden : numpy.ndarray or torch.Tensor, optional
        Of a recurrent policy: its state [N, hidden size], `Rollout.hidden` of the call before; zeros where it is None.
        It is zeroed where an episode begins.
    generator : torch.Generator, optional
        Gives the key of the actions' randomness, one draw a call; torch's global generator where it is None.
    deterministic : bool
        Take the most probable action.

    Returns
    -------
    Rollout
        The same numbers as stepping `env` with the policy's torch module and the same noise
        (``policy.distribution.noise``), up to rounding, for any number of threads; on a CUDA device as on the CPU, to
        rounding too (1e-5 in float32 for one step from the same state), until it decides on another action.

    Raises
    ------
    TypeError
        If `env` is not native, `policy` no `ActorCritic` or on another device, or the kernels cannot express it.
    ValueError
        If they do not fit each other, the autoreset mode is ``"disabled"``, or the policy's outputs are not finite; the
        environment must then be reset. On a CUDA device outputs are not looked at: the update then says that its
        gradient is not finite, or the environments' next call that an action was none.
    gymnasium.error.ResetNeeded
        If `env` was never reset.

    Notes
    -----
    Where a user's environment raises, its error is raised as from ``env.step``, with the environments as they were
    before that step. After Ctrl-C a built-in environment must be reset, and a user's is as it was before the call.

    Examples
    --------
    >>> import metafast
    >>> env = metafast.envs.make_vec("Pendulum-v1", 4, autoreset_mode="same_step")
    >>> policy = metafast.nn.ActorCritic(env.single_observation_space, env.single_action_space)
    >>> _ = env.reset(seed=1)
    >>> experience = metafast.envs.rollout(env, policy, 5)
    >>> experience.observations.shape, experience.actions.shape, experience.values.shape
    ((6, 4, 3), (5, 4, 1), (6, 4))
    """
    if not isinstance(env, BatchedVectorEnv):
        raise TypeError(
            f"rollout steps environments made by metafast.envs.make_vec or compile_env, without wrappers, not "
            f"{type(env).__name__}"
        )
    if not hasattr(policy, "native"):
        raise TypeError(
            f"policy must be a metafast.nn.ActorCritic (see ActorCritic.from_modules), not {type(policy).__name__}"
        )
    num_steps = check_whole_number("num_steps", num_steps, 1, 2**40)
    if env.autoreset_mode is AutoresetMode.DISABLED:
        raise ValueError("rollout resets environments itself: make env with autoreset_mode='same_step' or 'next_step'")
    space, distribution = env.single_observation_space, policy.distribution
    shape = space.shape or ()
    if not isinstance(env, NativeVectorEnv):
        # Torch has been imported for the policy.
        from metafast.envs._device_rollout import rollout_on_device

        _check_fit(env, policy)
        return Rollout(**rollout_on_device(env, policy, num_steps, hidden, generator, deterministic))
    if not env._batch.was_reset:
        raise ResetNeeded("call reset before rollout")
    if policy.device.type != "cpu":
        raise TypeError(f"env is on the CPU, but policy is on {policy.device}: move it, or make env with device=")
    native = policy.native()
    _check_fit(env, policy)
    translation = distribution.native_translation(env._actions.dtype)
    width, num_envs = policy.hidden_size, env.num_envs
    batch = (num_steps, num_envs)
    whole = np.issubdtype(translation[1].dtype, np.integer)
    components = distribution.action_shape
    arrays: dict[str, Any] = {
        "observations": np.empty((num_steps + 1, num_envs, *shape), space.dtype),
        "actions": np.empty((*batch, *components), np.int64 if whole else native.dtype),
        "log_probs": np.empty(batch, native.dtype),
        "rewards": np.empty(batch, native.dtype),
        "terminated": np.empty(batch, np.bool_),
        "truncated": np.empty(batch, np.bool_),
        "values": np.empty((num_steps + 1, num_envs), native.dtype),
        "final_values": np.zeros(batch, native.dtype),
        "final_observations": np.zeros((*batch, *shape), space.dtype),
        "starts": np.empty(batch, np.bool_),
        "mask": np.empty(batch, np.bool_) if env.autoreset_mode is AutoresetMode.NEXT_STEP else None,
        "initial_hidden": None,
        "hidden": None,
    }
    if width:
        arrays["initial_hidden"] = _checked_hidden(hidden, num_envs, width, native.dtype)
        arrays["hidden"] = arrays["initial_hidden"].copy()
    elif hidden is not None:
        raise ValueError("hidden must be None: the policy has no GRU")
    failed, failed_step, unusable, unusable_step = _core.rollout(
        env._batch,
        native.network,
        native.array,
        arrays,
        policy.native_statistics(),
        translation,
        num_steps,
        policy.draw_key(generator),
        deterministic,
    )
    if failed >= 0 and (unusable < 0 or failed_step <= unusable_step):
        _raise_again(env, failed, arrays["actions"][: failed_step + 1], distribution)
    if unusable >= 0:
        raise ValueError(
            f"the policy's outputs are not finite at step {unusable_step} of environment {unusable}: its parameters or "
            "the observations hold NaN or infinity; reset env before its next step"
        )
    return Rollout(**arrays)


def _check_fit(env: BatchedVectorEnv[Any, Any, Any], policy: Any) -> None:
    """Refuse a policy that observes or decides otherwise than the environments."""
    space: Any = env.single_observation_space
    if math.prod(space.shape or ()) != policy.observation_size or space.dtype is None or space.dtype.kind not in "fiub":
        raise ValueError(f"the policy takes {policy.observation_size} numbers, but env observes {space}")
    layout, distribution = env._actions, policy.distribution
    translation: tuple[Any, ...] = distribution.native_translation(layout.dtype)
    whole = layout.low is not None and layout.high is not None
    fits = np.issubdtype(translation[1].dtype, np.integer) == whole
    if fits and whole:
        # Bits of a Bernoulli, and the choices of a softmax, are exactly the actions there are.
        high = translation[1] + (np.array(distribution.choices) if distribution.choices else 2)
        fits = np.array_equal(translation[1], layout.low) and np.array_equal(high, layout.high)  # type: ignore[arg-type]
    elif fits:
        space = env.single_action_space
        bounds = ((translation[3], space.low), (translation[4], space.high))
        fits = all(np.array_equal(ours, theirs.ravel()) for ours, theirs in bounds)
    if not fits:
        raise ValueError(f"the policy was made for another action space than env's, {env.single_action_space}")


def _checked_hidden(hidden: Any, num_envs: int, width: int, dtype: np.dtype[Any]) -> Array:
    if hidden is None:
        return np.zeros((num_envs, width), dtype)
    if np.shape(hidden) != (num_envs, width):
        raise ValueError(f"hidden must have shape ({num_envs}, {width}), not {np.shape(hidden)}")
    return np.array(hidden, dtype=dtype, order="C")


def _raise_again(env: NativeVectorEnv, failed: int, actions: Array, distribution: Any) -> None:
    """Step to where the user's code raised in environment `failed`, so that the error is `step`'s own."""
    if len(actions) == 0:
        env._settled(failed)
    for action in actions:
        env.step(distribution.to_environment(action))
    raise RuntimeError("the environment raised in a rollout, but not when its steps were repeated: it is not pure")
