"""What lies between a public estimator and its binding: which arrays go which way."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from metafast import _arrays, _core, _device

FLAGS = frozenset({"terminated", "truncated", "mask"})
INTEGERS = frozenset({"lengths", "group_ids"})
OPTIONS = frozenset({"n", "kind", "clip_rho", "clip_c", "clip_pg_rho", "time_axis", "forwards"})


# Torch's class of tensors that bindings take as they are, and who may be looking at them: known once torch has been
# seen here, so that a small call need not find it out anew.
_plain_tensor: type | None = None
_is_watched: Callable[[], bool] = bool


def _remember_torch(torch_calls: ModuleType) -> None:
    global _plain_tensor, _is_watched
    if torch_calls.bindings_take_tensors:
        _plain_tensor, _is_watched = torch_calls.Tensor, torch_calls.is_watched


class Estimator:
    """A binding, its arguments by name, and the ways to it for the arrays of every library.

    NumPy arrays go straight to the binding, which checks them itself; so do plain torch tensors of the CPU. CUDA
    tensors, torch calls that a graph is made of and JAX calls that are being traced go to their own rooms, imported at
    first use; the arrays of other libraries through :mod:`metafast._arrays`.

    Parameters
    ----------
    name
        Of the binding and of the public function.
    arguments
        Names in the order of the binding, divided by spaces, ``out`` left out; a question mark behind one that may be
        None. What an argument is (flags, integers, an option, else floats) is told by its name.
    results
        Names of the results where there are several.
    constant
        Results have no gradient.
    takes_tensors
        The binding takes torch tensors too, and answers NotImplemented where an array must be converted first.
    """

    def __init__(
        self,
        name: str,
        arguments: str,
        *,
        results: tuple[str, ...] = (),
        constant: bool = False,
        takes_tensors: bool = True,
    ) -> None:
        self.name = name
        self.arguments = tuple(argument.rstrip("?") for argument in arguments.split())
        self.optional = frozenset(argument[:-1] for argument in arguments.split() if argument.endswith("?"))
        self.leading = "offsets" if "offsets" in self.arguments else "rewards"  # whose shape the results have
        self.results = results
        self.takes_out = "time_axis" in self.arguments
        self.constant = constant
        self.takes_tensors = takes_tensors
        self.kernel = getattr(_core, name)

    def __call__(self, *arguments: Any) -> Any:
        """Estimate. Takes the binding's arguments in its order, ``out`` included where the public function has it."""
        first = arguments[0]
        if type(first) is np.ndarray and (self.takes_tensors or first.dtype.itemsize != 2):
            results = self.kernel(*arguments)
            if results is not NotImplemented:
                return results
        size = len(self.arguments)
        return self.elsewhere(arguments[:size], *arguments[size:])

    def elsewhere(self, arguments: tuple[Any, ...], out: Any = None) -> Any:
        """Estimate from arrays that are not NumPy's, or that the binding does not take."""
        on_device = _device.is_on_device(arguments[0])
        if (
            type(arguments[0]) is _plain_tensor
            and self.takes_tensors
            and out is None
            and not on_device
            and not _is_watched()
        ):
            results = self.kernel(*arguments)
            if results is not NotImplemented:
                return results
        if _arrays.is_torch(arguments[0]):
            from metafast import _torch_calls

            _remember_torch(_torch_calls)
            if _torch_calls.needs_graph(*arguments, gradients=not self.constant):
                from metafast.returns import _torch

                if out is not None:
                    raise ValueError(
                        "out cannot be given where autograd, torch.compile or torch.func looks at the call"
                    )
                return _torch.call(self, arguments)
            if on_device:
                from metafast.returns import _cuda

                return _cuda.call(self, arguments, out)
            if self.takes_tensors:
                results = _torch_calls.call_directly(self.kernel, arguments, out)
                if results is not NotImplemented:
                    return results
        elif _arrays.is_traced_by_jax(arguments):
            from metafast.returns import _jax

            if out is not None:
                raise ValueError("out cannot be given where JAX traces the call")
            return _jax.call(self, arguments)
        return self._on_host(arguments, out)

    def named(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        """Arguments by name, without those that may be None and are."""
        named = dict(zip(self.arguments, arguments, strict=True))
        return {name: value for name, value in named.items() if value is not None or name not in self.optional}

    def _on_host(self, arguments: tuple[Any, ...], out: Any) -> Any:
        named = self.named(arguments)
        arrays = {name: value for name, value in named.items() if name not in OPTIONS}
        floats = {name: value for name, value in arrays.items() if name not in FLAGS | INTEGERS}
        others = {name: value for name, value in arrays.items() if name in FLAGS | INTEGERS}
        if out is not None and self.results:
            expected = f"out must be a pair of arrays ({', '.join(self.results)}), not "
            if not isinstance(out, tuple | list):
                raise TypeError(expected + type(out).__name__)
            if len(out) != len(self.results):
                raise ValueError(f"{expected}{len(out)} of them")

        is_foreign = not (isinstance(named.get("rewards"), np.ndarray) or _arrays.is_torch(named.get("rewards")))

        def kernel(out: Any = None, **views: Any) -> Any:
            ordered = [views.get(name, named.get(name)) for name in self.arguments]
            if out is None and is_foreign and self.takes_out:
                rewards = views["rewards"]
                made = [_arrays.empty_aligned(rewards.shape, rewards.dtype) for _ in self.results or ("result",)]
                out = tuple(made) if self.results else made[0]
            return self.kernel(*ordered) if out is None else self.kernel(*ordered, out)

        return _arrays.call_on_host(kernel, floats, others, out=tuple(out) if self.results and out else out)


GAE = Estimator(
    "gae",
    "rewards values next_values terminated truncated? gamma lam final_values? mask? time_axis",
    results=("advantages", "returns"),
)
DISCOUNTED_RETURNS = Estimator(
    "discounted_returns", "rewards terminated truncated? gamma bootstrap? final_values? time_axis"
)
LAMBDA_RETURNS = Estimator("lambda_returns", "rewards next_values terminated truncated? gamma lam time_axis")
N_STEP_RETURNS = Estimator("n_step_returns", "rewards next_values terminated truncated? gamma n time_axis")
SEGMENT_RETURNS = Estimator("segment_returns", "rewards lengths gamma values? last_values? lam?")
VTRACE = Estimator(
    "vtrace",
    "log_rhos rewards values next_values terminated truncated? gamma lam clip_rho clip_c clip_pg_rho final_values?"
    " time_axis",
    results=("targets", "pg_advantages"),
    constant=True,
)
RETRACE = Estimator(
    "retrace",
    "q next_q_expected next_q log_rhos rewards terminated truncated? gamma lam time_axis",
    constant=True,
)
Q_LAMBDA = Estimator("q_lambda", "next_q_max rewards terminated truncated? gamma lam time_axis", constant=True)
UPGO = Estimator(
    "upgo", "rewards values next_values terminated truncated? gamma final_values? time_axis", constant=True
)
GROUP_ADVANTAGES = Estimator("group_advantages", "rewards group_ids kind", constant=True, takes_tensors=False)

ESTIMATORS = (
    GAE, DISCOUNTED_RETURNS, LAMBDA_RETURNS, N_STEP_RETURNS, SEGMENT_RETURNS,
    VTRACE, RETRACE, Q_LAMBDA, UPGO, GROUP_ADVANTAGES,
)  # fmt: skip
