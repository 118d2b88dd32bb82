"""The accuracy that csrc/common/vector_math.hpp promises, at every instruction-set level."""

import functools

import mpmath
import numpy as np
import pytest

from metafast import _core

FUNCTIONS = {"sin": np.sin, "cos": np.cos, "exp": np.exp, "tanh": np.tanh, "log": np.log}
# The next wider type: what a correctly rounded result is judged against.
WIDER = {np.float32: np.float64, np.float64: np.longdouble}
LARGEST_ANGLE = 2.0**20
# The table at the top of vector_math.hpp, in units in the last place.
MAXIMUM_ERROR = {"sin": 1.5, "cos": 1.5, "exp": 1.1, "tanh": 1.4, "log": 0.9}

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
functions = pytest.mark.parametrize("function", FUNCTIONS)


def apply(function, x):
    result = np.empty_like(x)
    _core.vector_math(function, x, result)
    return result


def error_in_ulp(result, exact):
    """Distance in units in the last place of the exact value's binade (of the smallest normal one below it)."""
    info = np.finfo(result.dtype)
    exponent = np.maximum(np.frexp(exact)[1], info.minexp + 1)
    return np.abs(result - exact) / np.ldexp(np.ones_like(exact), exponent - 1 - info.nmant)


def float32_error_in_ulp(result, exact):
    """The same, several times faster: the exact value's binade by masking its bits."""
    binade = (exact.view(np.uint64) & np.uint64(0x7FF0000000000000)).view(np.float64)
    return np.abs(result - exact) / np.maximum(binade * 2.0**-23, 2.0**-149)


@functools.cache
def samples(function, dtype):
    """Arguments of every size at which the function is finite and not constant, and their exact results."""
    rng = np.random.default_rng(20)
    count = 400_000 if dtype is np.float32 else 100_000
    info = np.finfo(dtype)
    everywhere = np.ldexp(rng.uniform(1, 2, 4 * count), rng.integers(info.minexp - 20, 20, 4 * count))
    parts = [everywhere, -everywhere, rng.uniform(-1, 1, count), rng.uniform(-8, 8, count)]
    if function == "exp":
        parts.append(rng.uniform(np.log(info.smallest_subnormal) - 1, np.log(info.max), 4 * count))
    elif function == "log":
        # Every binade, and the neighbourhood of the zero.
        parts.append(np.ldexp(rng.uniform(1, 2, count), rng.integers(info.minexp, info.maxexp, count)))
        parts += [rng.uniform(0.9, 1.1, count), 1 + rng.uniform(-1, 1, count) * 2.0**-12]
    elif function == "tanh":
        parts += [rng.uniform(-20, 20, count), rng.uniform(0.5, 0.6, count)]
    else:
        parts += [
            rng.uniform(-LARGEST_ANGLE, LARGEST_ANGLE, 2 * count),
            # The nearest numbers to the multiples of pi/2, where the reduction cancels the most.
            np.arange(667_544, dtype=np.longdouble) * (np.arctan(np.longdouble(1)) * 2),
        ]
    x = np.concatenate([part.astype(dtype) for part in parts])
    if function == "exp":
        x = x[(x < np.log(info.max)) & (x > np.log(info.smallest_subnormal) - 1)]
    if function == "log":
        x = x[(x > 0) & np.isfinite(x)]
    return x, FUNCTIONS[function](x.astype(WIDER[dtype]))


@dtypes
@functions
def test_error_stays_below_the_stated_maximum(isa, function, dtype):
    x, exact = samples(function, dtype)
    errors = error_in_ulp(apply(function, x), exact)
    worst = np.argmax(errors)
    assert errors[worst] <= MAXIMUM_ERROR[function], f"{function}({x[worst]!r}) is {errors[worst]} ulp off"


def same(a, b):
    return bool(np.all((a == b) | (np.isnan(a) & np.isnan(b))))


@pytest.mark.exhaustive
@pytest.mark.timeout(7200)
@functions
def test_every_float32(function, record_testsuite_property):
    """Every level against float64, positive arguments first; the negative ones must mirror them, exp's are computed."""
    largest = dict.fromkeys(_core.supported_isas(), 0.0)
    before = _core.isa()
    for start in range(0, 2**32 if function == "exp" else 2**31, 2**16):
        x = np.arange(start, start + 2**16, dtype=np.uint32).view(np.float32)
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            beyond = function in ("sin", "cos") and not x[-1] <= LARGEST_ANGLE
            exact = FUNCTIONS[function](np.where(beyond & (x > LARGEST_ANGLE), np.nan, x.astype(np.float64)))
            rounded = exact.astype(np.float32)
        checked, error = None, 0.0
        for level in largest:
            _core.force_isa(level)
            result = apply(function, x)
            if function == "log":
                assert np.isnan(apply(function, -x[x > 0])).all()
            elif function != "exp":
                assert same(apply(function, -x), result if function == "cos" else -result)
            if checked is not None and same(result, checked):
                largest[level] = max(largest[level], float(error))
                continue
            finite = np.isfinite(rounded)
            assert same(result[~finite], rounded[~finite])
            error = float32_error_in_ulp(result[finite], exact[finite]).max(initial=0.0)
            largest[level] = max(largest[level], float(error))
            checked = result
    _core.force_isa(before)
    record_testsuite_property(f"{function} float32, maximum error in ulp", largest)
    assert max(largest.values()) <= MAXIMUM_ERROR[function], largest


@functions
def test_against_arbitrary_precision(isa, function):
    """A few hundred doubles with a reference that shares no code with the C library."""
    rng = np.random.default_rng(21)
    x = np.concatenate(
        [rng.uniform(-30, 30, 300), [np.pi, np.pi / 2, 1e5 * np.pi, 355.0, 1e-300, 0.5625, 1e6, 2.0**20]]
    )
    if function == "exp":
        x = x[x < 700]
    elif function == "log":
        x = np.abs(x)
    with mpmath.workdps(60):
        exact = [getattr(mpmath, function)(mpmath.mpf(float(value))) for value in x]
        spacing = [mpmath.mpf(2) ** (max(int(mpmath.floor(mpmath.log(abs(e), 2))), -1022) - 52) for e in exact]
        result = apply(function, x)
        errors = [abs(float(r) - e) / u for r, e, u in zip(result, exact, spacing, strict=True)]
    assert max(errors) <= MAXIMUM_ERROR[function]


@dtypes
def test_special_arguments(isa, dtype):
    info = np.finfo(dtype)
    x = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, info.smallest_subnormal, -info.smallest_subnormal], dtype)
    expected = {
        "sin": [0.0, -0.0, np.nan, np.nan, np.nan, x[5], x[6]],
        "cos": [1.0, 1.0, np.nan, np.nan, np.nan, 1.0, 1.0],
        "exp": [1.0, 1.0, np.nan, np.inf, 0.0, 1.0, 1.0],
        "tanh": [0.0, -0.0, np.nan, 1.0, -1.0, x[5], x[6]],
        "log": [-np.inf, -np.inf, np.nan, np.inf, np.nan, np.log(x[5]), np.nan],
    }
    for function, values in expected.items():
        result = apply(function, x)
        np.testing.assert_array_equal(result, np.array(values, dtype), err_msg=function)
        numbers = ~np.isnan(result)
        np.testing.assert_array_equal(np.signbit(result[numbers]), np.signbit(np.array(values, dtype)[numbers]))


@dtypes
def test_angles_out_of_range_are_nan(isa, dtype):
    limit = dtype(LARGEST_ANGLE)
    x = np.array([limit, -limit, np.nextafter(limit, dtype(np.inf)), 1e9, -1e30, np.finfo(dtype).max], dtype)
    for function in ("sin", "cos"):
        np.testing.assert_array_equal(np.isnan(apply(function, x)), [False, False, True, True, True, True])


@dtypes
def test_exp_at_its_limits(isa, dtype):
    info = np.finfo(dtype)
    largest = dtype(np.nextafter(np.log(info.max.astype(np.longdouble)).astype(dtype), dtype(0)))
    assert np.isfinite(apply("exp", np.array([largest]))[0])
    smallest = np.log(info.smallest_subnormal.astype(np.longdouble))
    x = np.array([largest * dtype(1.001), 1e4, -1e4, smallest - 1, smallest + 0.01, smallest + 3], dtype)
    result = apply("exp", x)
    np.testing.assert_array_equal(result[:4], [np.inf, np.inf, 0, 0])
    np.testing.assert_array_equal(result[4:] / info.smallest_subnormal, [1, 20])


@dtypes
def test_tanh_saturates_and_never_exceeds_one(isa, dtype):
    x = np.linspace(5, 50, 100_001).astype(dtype)
    result = apply("tanh", x)
    assert result.max() == 1.0
    assert np.all(result[x > 20] == 1.0)
    np.testing.assert_array_equal(apply("tanh", -x), -result)


@dtypes
@functions
def test_a_result_does_not_depend_on_its_place(isa, function, dtype):
    """The vectors, the remainder and a single element all give the same bits."""
    x = np.random.default_rng(22).uniform(0 if function == "log" else -5, 5, 131).astype(dtype)
    whole = apply(function, x)
    for start in range(0, 131, 7):
        np.testing.assert_array_equal(apply(function, x[start:].copy()), whole[start:])
    singles = np.concatenate([apply(function, x[i : i + 1]) for i in range(x.size)])
    np.testing.assert_array_equal(singles, whole)


@dtypes
def test_sincos_is_sin_and_cos(isa, dtype):
    x = np.random.default_rng(23).uniform(-100, 100, 1001).astype(dtype)
    sine, cosine = np.empty_like(x), np.empty_like(x)
    _core.vector_sincos(x, sine, cosine)
    np.testing.assert_array_equal(sine, apply("sin", x))
    np.testing.assert_array_equal(cosine, apply("cos", x))


def test_unfit_arrays_are_refused():
    x = np.zeros(8)
    frozen = np.zeros(8)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="function must be sin, cos, exp, tanh or log, not 'tan'"):
        _core.vector_math("tan", x, np.empty(8))
    with pytest.raises(TypeError, match="out must have dtype float64, not float32"):
        _core.vector_math("sin", x, np.empty(8, np.float32))
    with pytest.raises(TypeError, match="x must have dtype float64, not int64"):
        _core.vector_math("sin", np.zeros(8, np.int64), np.empty(8))
    with pytest.raises(TypeError, match="x must have dtype float64, not >f8"):
        _core.vector_math("sin", x.astype(">f8"), np.empty(8))
    with pytest.raises(ValueError, match="x must be C-contiguous and aligned"):
        _core.vector_math("sin", np.zeros(16)[::2], np.empty(8))
    with pytest.raises(ValueError, match="x must be C-contiguous and aligned"):
        _core.vector_math("sin", np.zeros(65, np.uint8)[1:].view(np.float64), np.empty(8))
    with pytest.raises(ValueError, match="out must be writeable"):
        _core.vector_math("sin", x, frozen)
    with pytest.raises(ValueError, match="out must have 8 elements, not 7"):
        _core.vector_math("sin", x, np.empty(7))
    with pytest.raises(ValueError, match="out must not overlap"):
        _core.vector_math("sin", x, x)
