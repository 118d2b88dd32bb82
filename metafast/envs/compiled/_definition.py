"""What `compile_env` makes of a user's class, and how it becomes an `Environment` of the native batch."""

import importlib
import pickle
import re
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import numpy as np
from gymnasium import Space

from metafast.envs._environment import ActionLayout, Environment
from metafast.envs.compiled._debug import PlainPhases
from metafast.envs.compiled._fields import Layout
from metafast.envs.compiled._renderer import UserRenderer
from metafast.envs.compiled._source import UserFunctions, add_note, check_signatures, place
from metafast.envs.compiled._spaces import action_element, observation_element

__all__ = ["CompiledEnv"]

_OPTIONS = ("num_threads", "autoreset_mode", "max_episode_steps", "copy", "render_mode", "device")

# The definitions of this process by their fingerprint: what is unpickled where it was pickled needs no import.
_DEFINITIONS: weakref.WeakValueDictionary[str, "CompiledEnv"] = weakref.WeakValueDictionary()


class CompiledEnv:
    """A user's environment; made by `metafast.envs.compile_env`.

    Attributes
    ----------
    observation_space, action_space : gymnasium.Space
        Of one environment.
    max_episode_steps : int or None
        The step at which an episode is truncated.
    id : str or None
        Its name in `metafast.envs.make_vec`; in gymnasium's ``make_vec`` it has the prefix ``metafast/``.
    reset, step, observe, render : function
        The user's functions, as they were written; `render` is None where there is none.
    """

    def __init__(
        self,
        owner: type,
        *,
        observation_space: Space[Any],
        action_space: Space[Any],
        state: Any,
        max_episode_steps: int | None,
        env_id: str | None,
        render_fps: int,
    ) -> None:
        self.__name__, self.__qualname__, self.__module__ = owner.__name__, owner.__qualname__, owner.__module__
        self.__doc__ = owner.__doc__
        self.observation_space, self.action_space = observation_space, action_space
        self.max_episode_steps = max_episode_steps
        self.id = env_id
        self._render_fps = render_fps
        self._layout = Layout(state)
        self._action = action_element(action_space)
        self._observation = observation_element(observation_space)
        self._functions = check_signatures(owner)
        self.render = self._functions.pop("render", None)
        self.reset, self.step, self.observe = (self._functions[name] for name in ("reset", "step", "observe"))
        source = UserFunctions(self._functions)
        self._lock = threading.Lock()
        self._machine_code: Any = None
        self._device_kernels: Any = None
        self._fingerprint = _hash(
            # What a spawned process calls the main module of the one that started it.
            "__main__" if self.__module__ == "__mp_main__" else self.__module__,
            self.__qualname__,
            source.description,
            self._layout.describe(),
            repr((observation_space, action_space, max_episode_steps, env_id)),
        )
        _DEFINITIONS[self._fingerprint] = self

    def __repr__(self) -> str:
        return f"<compiled environment {self.__module__}.{self.__qualname__}>"

    def __copy__(self) -> "CompiledEnv":
        return self

    def __deepcopy__(self, memo: Any) -> "CompiledEnv":
        return self

    def __reduce__(self) -> Any:
        return _restore, (self.__module__, self.__qualname__, self._fingerprint)

    def make_vec(self, num_envs: int, *, debug: bool = False, **options: Any) -> Any:
        """Make a vector environment of these environments.

        Parameters
        ----------
        num_envs : int
            The number of environments, N.
        debug : bool
            Run the functions as plain Python, with the same random numbers: a debugger stops in them, they may print,
            and an exception carries its own traceback.
        **options
            ``num_threads``, ``autoreset_mode``, ``max_episode_steps``, ``copy``, ``render_mode`` and ``device`` of
            `metafast.envs.make_vec`.

        Returns
        -------
        NativeVectorEnv or DeviceVectorEnv
            A `gymnasium.vector.VectorEnv`. `step` and `reset` raise what the functions raise, with a note of which
            environment it was; every environment is then as it was before. With ``device="cuda"`` only that one is,
            and the exception comes with a later call, as the errors of `DeviceVectorEnv` do.

        Raises
        ------
        TypeError
            If Numba cannot compile one of the functions, or it calls what there is not on a GPU; it names the function
            and the line.
        """
        from metafast.envs._make import make_from

        if not isinstance(debug, (bool, np.bool_)):
            raise TypeError(f"debug must be a bool, not {debug!r}")
        for name in options:
            if name not in _OPTIONS:
                raise TypeError(f"make_vec has no argument {name!r}; it takes: debug, {', '.join(_OPTIONS)}")
        if debug and options.get("device") not in (None, "cpu"):
            raise ValueError("device must be None with debug=True: plain Python runs on the CPU")
        env_kwargs: dict[str, Any] = {"debug": True} if debug else {}
        return make_from(self.environment(**env_kwargs), num_envs, **options, env_kwargs=env_kwargs)

    def make(self, *, debug: bool = False, max_episode_steps: int | None = None, render_mode: str | None = None) -> Any:
        """Make one environment by itself, a ``gymnasium.Env``, as `metafast.envs.make` does."""
        from metafast.envs._single_env import NativeEnv

        options = {"max_episode_steps": max_episode_steps, "render_mode": render_mode}
        return NativeEnv(self.make_vec(1, debug=debug, autoreset_mode="disabled", num_threads=1, **options))

    def debug(self, num_envs: int = 1, **options: Any) -> Any:
        """`make_vec` with ``debug=True``."""
        return self.make_vec(num_envs, debug=True, **options)

    def compile(self) -> bool:
        """Compile now, not when the first vector environment is made. Returns whether the cache had the machine code.

        Raises TypeError as `make_vec` does.
        """
        with self._lock:
            if self._machine_code is None:
                self._machine_code = self._build()
            return bool(self._machine_code.cached)

    def environment(self, *, debug: bool = False) -> Environment:
        """What the vector environment and the native batch need to know of it."""
        return UserEnvironment(self, debug)

    def kernels_on(self, batch: Any) -> Any:
        """What steps a `DeviceBatch` of these environments. Raises TypeError as `make_vec` does."""
        from metafast.envs.compiled._device import UserDeviceKernels, build_kernels

        with self._lock:
            if self._device_kernels is None:
                actions = ActionLayout.of(self.action_space, np.int64)
                self._device_kernels = self._explaining(
                    lambda source: build_kernels(
                        self._functions, source, self._layout, self._action, self._observation, actions
                    )
                )
        has_arrays = any(field.shape for field in self._layout.fields.values())
        return UserDeviceKernels(self._device_kernels, batch, has_arrays, self.id or self.__qualname__)

    def _build(self) -> Any:
        from metafast.envs.compiled._machine_code import build, key_of

        def build_from(source: UserFunctions) -> Any:
            arguments = source, self._layout, self._action, self._observation
            return build(key_of(*arguments), self._functions, *arguments)

        return self._explaining(build_from)

    def _explaining(self, build_from: Callable[[UserFunctions], Any]) -> Any:
        # Once more: Numba compiles in the values that global variables have now.
        source = UserFunctions(self._functions)
        if source.debug_only:
            raise TypeError(f"{self.__qualname__} does not compile. {source.debug_only[0]}")
        try:
            return build_from(source)
        except Exception as error:
            phase = getattr(error, "user_function", None)
            if phase is None:
                raise
            raise self._explained(error, self._functions[phase]) from error

    def _explained(self, error: Exception, function: Callable[..., Any]) -> TypeError:
        message = str(error)
        code = function.__code__
        location = getattr(error, "loc", None)
        line = location.line if location is not None and location.filename == code.co_filename else None
        if line is None:
            # Numba tells the line in words: the last one named within the function is the innermost.
            lines = [int(found) for found in re.findall(r"line (\d+):|\((\d+)\)", message) for found in found if found]
            last = max((number for _, _, number in code.co_lines() if number), default=code.co_firstlineno)
            line = next((number for number in reversed(lines) if code.co_firstlineno <= number <= last), None)
        reason = re.sub(r"^Failed in nopython mode pipeline \(step: [^)]*\)\n", "", message).strip()
        reason = re.split(r"\n\s*\nFile |\nDuring: ", reason)[0].strip()
        if isinstance(error, AssertionError) or reason in ("", "AssertionError", "AssertionError:"):
            reason = (
                "Numba does not convert the array that is assigned to the field's type and order; assign its elements: "
                "state.name[:] = array"
            )
        return TypeError(f"{self.__qualname__} does not compile. {place(function, line)}:\n{reason}")


def _hash(*parts: str) -> str:
    import hashlib

    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _restore(module: str, qualname: str, fingerprint: str) -> CompiledEnv:
    here = _DEFINITIONS.get(fingerprint)
    if here is not None:
        return here
    try:
        found: Any = importlib.import_module(module)
        for name in qualname.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise pickle.UnpicklingError(
            f"the compiled environment {module}.{qualname} cannot be imported here; define it at the top level of a "
            "module"
        ) from error
    if not isinstance(found, CompiledEnv) or found._fingerprint != fingerprint:
        raise pickle.UnpicklingError(f"{module}.{qualname} is not the compiled environment that was pickled")
    return found


class UserEnvironment(Environment):
    """A user's environment as one kind of environment; pickled as its definition, because addresses are a process's."""

    def __init__(self, definition: CompiledEnv, debug: bool) -> None:
        if debug:
            plain = PlainPhases(definition._functions, definition._layout, definition._action, definition._observation)
            phases, can_raise = plain.addresses, True
        else:
            definition.compile()
            plain = None
            phases, can_raise = definition._machine_code.phases, definition._machine_code.can_raise
        super().__init__(
            env_id=definition.id or definition.__qualname__,
            phases=phases,
            parameters=b"",
            state=definition._layout.record,
            single_observation_space=definition.observation_space,
            single_action_space=definition.action_space,
            render_fps=definition._render_fps,
            max_episode_steps=definition.max_episode_steps,
            integer_actions=np.int64,
            undoable=can_raise,
            registered=definition.id is not None,
            explain_failure=self._explain_failure,
            renderer=None if definition.render is None else partial(UserRenderer, definition.render),
            device_kernels=definition.kernels_on,
        )
        object.__setattr__(self, "definition", definition)
        object.__setattr__(self, "plain", plain)

    definition: CompiledEnv
    plain: PlainPhases | None

    def core_arguments(self) -> dict[str, Any]:
        """The arguments of ``_core.EnvBatch``: plain Python runs in the caller's thread, where a debugger is."""
        return super().core_arguments() | ({"num_threads": 1} if self.plain is not None else {})

    def __reduce__(self) -> Any:
        return UserEnvironment, (self.definition, self.plain is not None)

    def _explain_failure(self, env: Any, index: int, action: Any, seed: int | None) -> NoReturn:
        """Raise what the user's code raised in environment `index`, of which plain Python knows more than Numba."""
        error = self.plain.take_error() if self.plain is not None else self._failure(env, index, action, seed)
        if error is None:
            raise RuntimeError(
                f"{self.env_id} failed in environment {index} (no environment was changed), but as plain Python the "
                "same code runs without an exception; compare the two with debug=True"
            )
        add_note(error, f"in environment {index} of {self.env_id}; no environment was changed")
        raise error

    def _failure(self, env: Any, index: int, action: Any, seed: int | None) -> BaseException | None:
        """The exception of one environment's step, reset or observation, run again in plain Python."""
        options = {
            "autoreset_mode": env.autoreset_mode,
            "max_episode_steps": env.max_episode_steps,
            "num_threads": 1,
        }
        single = self.definition.debug(1, **options)
        batch, plain = single._batch, single._environment.plain
        if env._batch.was_reset:
            state = env._batch.get_state()
            batch.set_state(**{key: rows[index : index + 1] for key, rows in state.items()})
            if action is not None:
                batch.step(np.ascontiguousarray(np.asarray(action)[None]))
                return plain.take_error()  # type: ignore[no-any-return]
            batch.final_observations  # noqa: B018
        if plain.error is None:
            seeds = None if seed is None else np.array([seed], dtype=np.uint64)
            batch.reset(None, seeds, None if seed is None else np.ones(1, dtype=np.bool_))
        return plain.take_error()  # type: ignore[no-any-return]
