"""Each function against the real one, on the same inputs: shapes, rates of episode ends, dtypes."""

import warnings

import numpy as np
import pytest
from compat.cases import CASES, as_numpy, torchrl_rolling_cases

SHAPES = [(1, 1), (1, 4), (7, 1), (40, 3)]
RATES = [0.0, 0.15, 1.0]


def assert_same(case, arguments, **tolerance):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, of a value that they divide by or multiply
        theirs = as_numpy(case.theirs(*arguments))
    ours = as_numpy(case.ours(*arguments))
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        np.testing.assert_allclose(mine, other, **tolerance)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32(case):
    # What is compiled anew for every shape is given fewer of them.
    for shape in SHAPES[1:2] if case.library == "rlax" else SHAPES:
        for rate in RATES:
            assert_same(case, case.arguments(*shape, rate, "float32"), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("case", [case for case in CASES if case.library not in ("sb3", "rlax")], ids=str)
def test_float64(case):
    """rlax's are with their gradients in test_rlax.py."""
    for rate in RATES:
        # torchrl's vectorised versions drop powers of the decay below 1e-7.
        tolerance = 1e-5 if "vec_" in case.name or "reward2go" in case.name else 1e-12
        assert_same(case, case.arguments(40, 3, rate, "float64"), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", list(torchrl_rolling_cases()), ids=str)
def test_torchrl_without_rolling_gamma(case):
    for rate in RATES:
        assert_same(case, case.arguments(9, 3, rate, "float64"), rtol=1e-12, atol=1e-12)
