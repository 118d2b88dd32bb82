"""The function that makes a vector environment from its id."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from gymnasium.vector import AutoresetMode

from metafast import _device
from metafast.envs import _classic_control
from metafast.envs._arguments import check_whole_number
from metafast.envs._batched_env import UNLIMITED
from metafast.envs._catalogue import CATALOGUE
from metafast.envs._environment import Environment
from metafast.envs._vector_env import NativeVectorEnv

if TYPE_CHECKING:
    from metafast.envs._device_vector_env import DeviceVectorEnv

__all__ = ["make_from", "make_vec"]

MOST_ON_DEVICE = 2**31 - 257  # environments whose numbers are ints to the kernels, the last tile's too

_AUTORESET_MODES = {
    "next_step": AutoresetMode.NEXT_STEP,
    "same_step": AutoresetMode.SAME_STEP,
    "disabled": AutoresetMode.DISABLED,
}


@overload
def make_vec(
    env_id: str,
    num_envs: int,
    *,
    num_threads: int | None = None,
    autoreset_mode: str | AutoresetMode = "next_step",
    max_episode_steps: int | None = None,
    exact: bool = False,
    copy: bool = True,
    render_mode: str | None = None,
    device: None = None,
    **env_kwargs: Any,
) -> NativeVectorEnv: ...
@overload
def make_vec(env_id: str, num_envs: int, *, device: Any, **options: Any) -> NativeVectorEnv | DeviceVectorEnv: ...
def make_vec(
    env_id: str,
    num_envs: int,
    *,
    num_threads: int | None = None,
    autoreset_mode: str | AutoresetMode = "next_step",
    max_episode_steps: int | None = None,
    exact: bool = False,
    copy: bool = True,
    render_mode: str | None = None,
    device: Any = None,
    **env_kwargs: Any,
) -> NativeVectorEnv | DeviceVectorEnv:
    """Make a vector environment whose environments are stepped natively, all in one call.

    Parameters
    ----------
    env_id : str
        ``"CartPole-v1"``, ``"Pendulum-v1"``, ``"MountainCar-v0"``, ``"MountainCarContinuous-v0"``, ``"Acrobot-v1"``:
        gymnasium's dynamics in float64. From the same state, each step gives the same float32 observation, reward and
        flags, except that a number that lies on the border between two float32 may be rounded the other way. Or a
        task distribution: ``"Bandit-v0"``, ``"TabularMDP-v0"``, ``"CartPoleTasks-v0"``, ``"PendulumTasks-v0"``,
        ``"LearnerTasks-v0"``, which the docstring of `metafast.envs` describes with their arguments.
    num_envs : int
        The number of environments, N.
    num_threads : int, optional
        The most threads a step may use; `metafast.get_num_threads()` where it is None. Results do not depend on it.
    autoreset_mode : {"next_step", "same_step", "disabled"} or gymnasium.vector.AutoresetMode
        ``"next_step"``: the step after an episode's end ignores the action, resets, and gives reward 0 and flags
        False. ``"same_step"``: the step that ends an episode returns the first observation of the next; the last one
        is in ``infos["final_obs"]`` and `NativeVectorEnv.final_observations`. ``"disabled"``: the caller resets with
        ``reset(options={"reset_mask": mask})``.
    max_episode_steps : int, optional
        The step at which an episode is truncated; gymnasium's limit for this id, or none in a task
        distribution, where it is None.
    exact : bool
        Bit for bit the trajectories and resets of gymnasium's ``SyncVectorEnv`` from the same seeds, for gymnasium's
        environments; rewards are float64. Sines, cosines and random numbers are then NumPy's own, and a step takes two
        to fifteen times as long.
    copy : bool
        If False, `reset` and `step` return the same arrays every time, rewritten in place (also by a step that
        raises), which saves their allocation: copy what must outlive the next call.
    render_mode : {"rgb_array"}, optional
        With it, `NativeVectorEnv.render` draws gymnasium's environments with gymnasium's own renderers (and pygame),
        and a user's with its ``render`` function. The task distributions draw nothing.
    device : str or torch.device, optional
        ``"cuda"`` or ``"cuda:1"``: the environments live on that device, and actions and what `step` and `reset`
        return are torch tensors there. From the same seeds and actions, classic control and the tasks made of it give
        the CPU's numbers to the bit. ``"cpu"`` or None: NumPy arrays. A CUDA device takes no `num_threads`,
        ``exact=True`` or `render_mode`, and tells of an action that is none only after its step
        (`DeviceVectorEnv` says how).
    **env_kwargs
        As gymnasium's. CartPole-v1: ``sutton_barto_reward`` (-1 for the step that ends in a fall and 0 for others,
        instead of 1 for all). Pendulum-v1: ``g`` (gravity, 10). MountainCar-v0 and MountainCarContinuous-v0:
        ``goal_velocity`` (the least at which the goal counts, 0).

    Returns
    -------
    NativeVectorEnv or DeviceVectorEnv
        A `gymnasium.vector.VectorEnv`; on a CUDA device the latter.

    Raises
    ------
    ValueError
        If the id is unknown, a number is out of its range, or the mode does not exist.
    TypeError
        If an argument is of the wrong type or the environment has no such keyword argument.

    Examples
    --------
    >>> import gymnasium
    >>> import numpy as np
    >>> import metafast
    >>> env = metafast.envs.make_vec("CartPole-v1", 4, autoreset_mode="same_step")
    >>> observations, infos = env.reset(seed=7)
    >>> observations.shape, observations.dtype
    ((4, 4), dtype('float32'))
    >>> observations, rewards, terminated, truncated, infos = env.step(np.array([0, 1, 1, 0]))
    >>> rewards
    array([1., 1., 1., 1.], dtype=float32)
    >>> env.close()

    Gymnasium's own run, bit for bit:

    >>> exact = metafast.envs.make_vec("Pendulum-v1", 2, exact=True)
    >>> single = gymnasium.make("Pendulum-v1")
    >>> bool((exact.reset(seed=3)[0][0] == single.reset(seed=3)[0]).all())
    True
    """
    builder = CATALOGUE.get(env_id) if isinstance(env_id, str) else None
    if builder is None:
        raise ValueError(f"env_id {env_id!r} is unknown; metafast has: {', '.join(sorted(CATALOGUE))}")
    if not isinstance(exact, (bool, np.bool_)):
        raise TypeError(f"exact must be a bool, not {exact!r}")
    if exact and env_id not in _classic_control.BUILDERS:
        raise ValueError(f"exact must be False: {env_id} is metafast's own, and gymnasium has none to be exact to")
    known = list(inspect.signature(builder).parameters)
    for name in env_kwargs:
        if name not in known:
            raise TypeError(f"{env_id} has no argument {name!r}; it takes: {', '.join([*known, 'render_mode'])}")
    env_kwargs = {name: value.item() if isinstance(value, np.generic) else value for name, value in env_kwargs.items()}
    environment = builder(**env_kwargs)
    return make_from(
        environment.exactly() if exact else environment,
        num_envs,
        num_threads=num_threads,
        autoreset_mode=autoreset_mode,
        max_episode_steps=max_episode_steps,
        copy=copy,
        env_kwargs=env_kwargs | ({"exact": True} if exact else {}),
        render_mode=render_mode,
        device=device,
    )


def make_from(
    environment: Environment,
    num_envs: int,
    *,
    num_threads: int | None = None,
    autoreset_mode: str | AutoresetMode = "next_step",
    max_episode_steps: int | None = None,
    copy: bool = True,
    env_kwargs: dict[str, Any],
    render_mode: str | None = None,
    device: Any = None,
) -> NativeVectorEnv | DeviceVectorEnv:
    """Make a vector environment of a kind that is settled; the other arguments are `make_vec`'s."""
    num_envs = check_whole_number("num_envs", num_envs, 1, 2**40)
    if num_threads is not None:
        num_threads = check_whole_number("num_threads", num_threads, 1, 1024)
    if max_episode_steps is not None:
        max_episode_steps = check_whole_number("max_episode_steps", max_episode_steps, 1, UNLIMITED)
    if not isinstance(copy, (bool, np.bool_)):
        raise TypeError(f"copy must be a bool, not {copy!r}")
    cuda_device = _device.device_of(device)
    if cuda_device is not None:
        _refuse_what_devices_lack(environment, num_threads, render_mode, device)
        from metafast.envs._device_vector_env import DeviceVectorEnv

        return DeviceVectorEnv(
            environment,
            check_whole_number("num_envs", num_envs, 1, MOST_ON_DEVICE),
            device=cuda_device,
            autoreset_mode=_autoreset_mode(autoreset_mode),
            max_episode_steps=max_episode_steps,
            copy=bool(copy),
            env_kwargs=env_kwargs,
        )
    return NativeVectorEnv(
        environment,
        num_envs,
        num_threads=num_threads,
        autoreset_mode=_autoreset_mode(autoreset_mode),
        max_episode_steps=max_episode_steps,
        copy=bool(copy),
        env_kwargs=env_kwargs,
        render_mode=render_mode,
    )


def _refuse_what_devices_lack(
    environment: Environment, num_threads: int | None, render_mode: str | None, device: Any
) -> None:
    if num_threads is not None:
        raise ValueError(f"num_threads must be None with device={str(device)!r}: no thread of the CPU steps there")
    if environment.streams:
        raise ValueError(f"exact must be False with device={str(device)!r}: NumPy's functions run on the CPU only")
    if render_mode is not None:
        raise ValueError(f"render_mode must be None with device={str(device)!r}: frames are drawn on the CPU")


def _autoreset_mode(mode: object) -> AutoresetMode:
    if isinstance(mode, AutoresetMode):
        return mode
    if isinstance(mode, str) and mode in _AUTORESET_MODES:
        return _AUTORESET_MODES[mode]
    if isinstance(mode, str) and mode in {member.value for member in AutoresetMode}:
        return AutoresetMode(mode)
    raise ValueError(f"autoreset_mode must be one of {', '.join(map(repr, _AUTORESET_MODES))}, not {mode!r}")
