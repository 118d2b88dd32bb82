"""Every estimator over time, as a table: what it takes, what stands for it in the reference, how exact it must be."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from hypothesis import strategies as st
from returns import reference

import metafast
from metafast import _core

CLIPS = st.sampled_from([0.5, 1.0, 1.3, 3.7, np.inf])


@dataclass(frozen=True)
class Estimator:
    name: str
    # Its arrays of the shape of rewards, in the order of the signature, each with the field of a Problem that fills it.
    arrays: Mapping[str, str]
    coefficients: tuple[str, ...]
    # The argument that may be one row: in place of a full array, or in place of nothing.
    row: str | None = None
    takes_final_values: bool = False
    takes_mask: bool = False
    num_outputs: int = 1
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self):
        return self.name

    def __call__(self, **arguments):
        """The results as a tuple, however many they are."""
        results = getattr(metafast, self.name)(**arguments)
        return results if self.num_outputs == 2 else (results,)

    def reference(self, **arguments):
        arguments.pop("q", None)
        results = getattr(reference, self.name)(**arguments)
        return results if self.num_outputs == 2 else (results,)


def same(*names):
    return MappingProxyType({name: name for name in names})


ESTIMATORS = {
    estimator.name: estimator
    for estimator in [
        Estimator(
            "gae",
            same("rewards", "values", "next_values"),
            ("gamma", "lam"),
            row="next_values",
            takes_final_values=True,
            takes_mask=True,
            num_outputs=2,
        ),
        Estimator("discounted_returns", same("rewards"), ("gamma",), row="bootstrap", takes_final_values=True),
        Estimator("lambda_returns", same("rewards", "next_values"), ("gamma", "lam")),
        Estimator(
            "n_step_returns",
            same("rewards", "next_values"),
            ("gamma",),
            numbers={"n": st.one_of(st.integers(1, 6), st.integers(1, 80), st.just(10**12))},
        ),
        Estimator(
            "vtrace",
            same("log_rhos", "rewards", "values", "next_values"),
            ("gamma", "lam"),
            row="next_values",
            takes_final_values=True,
            num_outputs=2,
            numbers={"clip_rho": CLIPS, "clip_c": CLIPS, "clip_pg_rho": CLIPS},
        ),
        Estimator(
            "retrace",
            {
                "q": "values",
                "next_q_expected": "next_values",
                "next_q": "final_values",
                "log_rhos": "log_rhos",
                "rewards": "rewards",
            },
            ("gamma", "lam"),
        ),
        Estimator("q_lambda", {"next_q_max": "next_values", "rewards": "rewards"}, ("gamma", "lam")),
        Estimator(
            "upgo",
            same("rewards", "values", "next_values"),
            ("gamma",),
            row="next_values",
            takes_final_values=True,
        ),
    ]
}

COEFFICIENT_FORMS = ("number", "full", "per_step", "per_column", "one", "without_axes", "repeated")
NUMBERS = {"gamma": (0.0, 0.5, 0.99, 1.0), "lam": (0.0, 0.5, 0.95, 1.0)}


@dataclass(repr=False)
class Case:
    """One call: a problem, and which of the estimator's options it uses."""

    estimator: Estimator
    problem: Any
    with_row: bool = False
    with_truncated: bool = True
    with_final_values: bool = True
    with_mask: bool = False
    # The form of each coefficient; the number where it is one.
    coefficients: Mapping[str, Any] = field(default_factory=lambda: {"gamma": 0.99, "lam": 0.95})
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        self.with_row &= self.estimator.row is not None
        self.with_mask &= self.estimator.takes_mask
        # Inside, only they know the successors of truncated steps.
        required = self.with_row and self.with_truncated and self.estimator.row != "bootstrap"
        self.with_final_values = self.estimator.takes_final_values and (self.with_final_values or required)
        if self.estimator.name == "upgo":
            # It compares with the value of the state it comes to, which two of its arguments hold.
            ends = reference.ends_of(self.problem.terminated, self.problem.truncated & self.with_truncated)
            next_values = np.where(ends, self.problem.next_values, reference.following(self.problem.values))
            self.problem = replace(self.problem, next_values=next_values)

    def __repr__(self):
        used = [name for name in ("row", "truncated", "final_values", "mask") if getattr(self, f"with_{name}")]
        return f"Case({self.estimator}, {self.problem}, with {used}, {self.coefficients}, {self.numbers})"

    def _repr_pretty_(self, printer, cycle):  # how hypothesis shows a falsifying example
        printer.text(repr(self))

    def call(self, **changes):
        return self.estimator(**{**self.arguments(), **changes})

    def arguments(self):
        problem = self.problem
        arguments = {name: problem.arrange(getattr(problem, made)) for name, made in self.estimator.arrays.items()}
        if self.with_row:
            arguments[self.estimator.row] = problem.arrange(problem.bootstrap)
        arguments["terminated"] = problem.flags(problem.terminated)
        if self.with_truncated:
            arguments["truncated"] = problem.flags(problem.truncated)
        if self.with_final_values:
            arguments["final_values"] = problem.arrange(problem.final_values)
        if self.with_mask:
            arguments["mask"] = problem.flags(problem.mask)
        coefficients = {name: self.coefficient(name)[0] for name in self.estimator.coefficients}
        return {**arguments, **coefficients, **self.numbers, "time_axis": problem.time_axis}

    def coefficient(self, name):
        """As the call sees it, and as a full array [T, N]."""
        problem, form = self.problem, self.coefficients[name]
        if not isinstance(form, str):
            return form, np.full(problem.rewards.shape, float(problem.dtype(form)))
        array = getattr(problem, name)
        if form == "without_axes":
            return np.array(0.75, problem.dtype), np.full(array.shape, 0.75)
        steps = slice(1) if form in ("per_column", "one", "repeated") else slice(None)
        columns = slice(1) if form in ("per_step", "one") else slice(None)
        called = problem.arrange(array)
        kept = tuple(steps if axis == problem.time_axis else columns for axis in range(called.ndim))
        full = np.broadcast_to(array[steps, columns], array.shape)
        return (np.broadcast_to(called[kept], called.shape) if form == "repeated" else called[kept]), full

    def reference_arguments(self):
        problem, estimator = self.problem, self.estimator
        arguments = {name: getattr(problem, made) for name, made in estimator.arrays.items()}
        if self.with_row:
            arguments[estimator.row] = problem.bootstrap
        arguments["terminated"] = problem.terminated
        arguments["truncated"] = problem.truncated if self.with_truncated else np.zeros_like(problem.truncated)
        if self.with_final_values:
            arguments["final_values"] = problem.final_values
        if self.with_mask:
            arguments["mask"] = problem.mask
        return {**arguments, **{name: self.coefficient(name)[1] for name in estimator.coefficients}, **self.numbers}

    def expected(self):
        return self.estimator.reference(**self.reference_arguments())

    def error_bounds(self):
        """How far rounding alone may lead: each term of a sum is rounded a few times per step on its way to t.

        So the error is at most that many units of the sum of the terms' absolute values.
        """
        arguments = self.reference_arguments()
        ends = (arguments["terminated"], arguments["truncated"])
        steps = reference.steps_left(*(np.zeros_like(flags) if self.with_mask else flags for flags in ends))
        unit = (8 + 3 * steps) * np.finfo(self.problem.dtype).eps
        return [unit * size + np.finfo(self.problem.dtype).tiny for size in self.sizes(arguments)]

    def sizes(self, arguments):
        values = np.abs(arguments.pop("values", np.zeros_like(self.problem.rewards)))
        sizes = {name: np.abs(array) if name in SUMMED else array for name, array in arguments.items()}
        if self.with_row and self.estimator.row == "next_values":
            largest = [values.max(0, initial=0), sizes["next_values"]]
            largest += [sizes.pop("final_values").max(0, initial=0)] if self.with_final_values else []
            sizes["next_values"] = np.broadcast_to(np.max(largest, axis=0), values.shape)
        name = self.estimator.name
        if name == "retrace":
            sizes["next_q"] = -sizes["next_q"]
        if name == "upgo":
            # Wherever it stops to follow: not more than following everywhere.
            sizes.pop("final_values", None)
            return [reference.gae(**sizes, values=-values, lam=np.ones_like(values))[0] + values]
        if name in ("gae", "vtrace"):
            first, second = self.estimator.reference(**sizes, values=-values)
            corrections = first if name == "gae" else first + values
            return [corrections, corrections + values] if name == "gae" else [corrections + values, second]
        return self.estimator.reference(**sizes)

    def assert_agrees(self, results, expected=None, bounds=None):
        expected = self.expected() if expected is None else expected
        bounds = self.error_bounds() if bounds is None else bounds
        assert len(results) == self.estimator.num_outputs
        for result, wanted, bound in zip(results, expected, bounds, strict=True):
            assert type(result) is np.ndarray
            assert result.dtype == self.problem.dtype
            assert result.shape == self.problem.shape
            assert_within(self.problem.time_major(result), wanted, bound)


SUMMED = ("rewards", "next_values", "final_values", "bootstrap", "next_q_expected", "next_q", "next_q_max")


def assert_within(result, wanted, bound):
    excess = np.abs(result.astype(np.float64) - wanted) / bound
    if excess.size and not excess.max() <= 1:
        worst = np.unravel_index(np.argmax(np.where(np.isnan(excess), np.inf, excess)), excess.shape)
        apart = f"{result[worst]} instead of {wanted[worst]}, {excess[worst]:.3g} times the bound"
        raise AssertionError(f"at {tuple(map(int, worst))}: {apart}")


@st.composite
def coefficient_forms(draw, name):
    form = draw(st.sampled_from(COEFFICIENT_FORMS))
    if form != "number":
        return form
    number = draw(st.sampled_from(NUMBERS[name]))
    return draw(st.sampled_from([float, np.float32, np.float64] + ([int] if number in (0, 1) else [])))(number)


@st.composite
def options(draw, estimator):
    return {
        "with_row": draw(st.booleans()),
        "with_truncated": draw(st.booleans()),
        "with_final_values": draw(st.booleans()),
        "with_mask": draw(st.booleans()),
        "coefficients": {name: draw(coefficient_forms(name)) for name in estimator.coefficients},
        "numbers": {name: draw(numbers) for name, numbers in estimator.numbers.items()},
    }


@contextlib.contextmanager
def forced_isa(isa):
    before = metafast.isa()
    _core.force_isa(isa)
    try:
        yield
    finally:
        _core.force_isa(before)


def on_every_isa():
    """Once for every instruction-set level of this machine, with that level in force."""
    for isa in _core.supported_isas():
        with forced_isa(isa):
            yield isa
