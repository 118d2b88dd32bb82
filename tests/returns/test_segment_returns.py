"""Returns of episodes that lie end to end in one axis."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns import reference
from returns.estimators import assert_within, on_every_isa
from returns.problems import LAYOUTS, lay_out

import metafast


def rounding(rewards, lengths, gamma, dtype, values, last_values, lam):
    """As for the other estimators: a few roundings per step, of the sum of the terms' absolute values."""
    steps = np.concatenate([np.arange(length, 0, -1) for length in lengths] or [np.zeros(0)])
    unit = (8 + 3 * steps) * np.finfo(dtype).eps
    sizes = reference.segment_returns(
        np.abs(rewards),
        lengths,
        gamma,
        np.full_like(rewards, -np.abs(values).max(initial=0)) if values is not None else None,
        # The values of successors are not larger than the largest, twice for both.
        None if last_values is None else np.abs(last_values),
        lam,
    )
    largest = 0 if values is None else 4 * np.abs(values).max(initial=0)
    return [
        unit * (np.abs(size) + largest * np.minimum(steps, 50)) + np.finfo(dtype).tiny for size in np.atleast_2d(sizes)
    ]


@st.composite
def calls(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = np.array(draw(st.lists(st.one_of(st.integers(0, 5), st.integers(0, 90)), max_size=12)), np.int64)
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    total = int(lengths.sum())
    floats = lambda size: rng.standard_normal(size).astype(dtype)  # noqa: E731
    coefficient = lambda: draw(  # noqa: E731
        st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.just(rng.uniform(0, 1, total).astype(dtype)))
    )
    arguments = {"rewards": floats(total), "lengths": lengths, "gamma": coefficient()}
    if draw(st.booleans()):
        arguments |= {"values": floats(total), "lam": coefficient()}
    if draw(st.booleans()):
        arguments["last_values"] = floats(len(lengths))
    return arguments, dtype, draw(st.sampled_from(LAYOUTS)), draw(st.sampled_from([np.int64, np.int32, np.uint8]))


@given(call=calls())
def test_against_one_segment_at_a_time(call):
    arguments, dtype, layout, length_dtype = call
    total = len(arguments["rewards"])
    in_double = {name: np.asarray(value, np.float64) for name, value in arguments.items() if name != "lengths"}
    for name in ("gamma", "lam"):
        if name in in_double:
            in_double[name] = np.broadcast_to(in_double[name], total)
    options = {name: in_double.get(name) for name in ("values", "last_values", "lam")}
    shared = (in_double["rewards"], arguments["lengths"], in_double["gamma"])
    expected = np.atleast_2d(reference.segment_returns(*shared, **options))
    bounds = rounding(*shared, dtype, **options)
    laid = {name: lay_out(value, layout) if np.ndim(value) else value for name, value in arguments.items()}
    laid["lengths"] = laid["lengths"].astype(length_dtype)
    for _ in on_every_isa():
        results = metafast.segment_returns(**laid)
        assert isinstance(results, tuple) == ("values" in arguments)
        for result, wanted, bound in zip(
            results if isinstance(results, tuple) else (results,), expected, bounds, strict=True
        ):
            assert result.dtype == dtype
            assert result.shape == (total,)
            assert_within(result, wanted, bound)


@pytest.mark.parametrize("with_values", [False, True])
@pytest.mark.parametrize("with_last_values", [False, True])
@pytest.mark.parametrize("lengths", ["many short", "one long", "few long", "mostly empty"])
def test_equals_a_call_for_each_segment(isa, lengths, with_values, with_last_values):
    rng = np.random.default_rng(0)
    lengths = {
        "many short": rng.integers(1, 4, 3000),
        "one long": np.array([120_000]),
        "few long": np.array([4096, 1, 30_000, 4095, 17]),
        "mostly empty": rng.choice([0, 0, 0, 7], 500),
    }[lengths]
    total = int(lengths.sum())
    rewards, values = rng.standard_normal(total), rng.standard_normal(total)
    last_values = rng.standard_normal(len(lengths))
    options = {"last_values": last_values} if with_last_values else {}
    if with_values:
        options |= {"values": values, "lam": 0.9}
    results = metafast.segment_returns(rewards, lengths, gamma=0.99, **options)
    starts = np.cumsum(lengths) - lengths
    for segment in range(0, len(lengths), 1 + len(lengths) // 100):
        inside = slice(starts[segment], starts[segment] + lengths[segment])
        never = np.zeros(lengths[segment], bool)
        after = np.array(last_values[segment] if with_last_values else 0.0)
        if with_values:
            expected = metafast.gae(rewards[inside], values[inside], after, never, gamma=0.99, lam=0.9)
        else:
            expected = metafast.discounted_returns(rewards[inside], never, gamma=0.99, bootstrap=after)
        found = [result[inside] for result in results] if with_values else results[inside]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_without_last_values_segments_are_terminated_episodes():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 30, 50)
    rewards, values = (rng.standard_normal(lengths.sum()) for _ in range(2))
    ends = np.zeros(len(rewards), bool)
    ends[np.cumsum(lengths) - 1] = True
    np.testing.assert_allclose(
        metafast.segment_returns(rewards, lengths, gamma=0.9),
        metafast.discounted_returns(rewards, ends, gamma=0.9),
        rtol=1e-13,
    )
    expected = metafast.gae(rewards, values, np.array(np.nan), ends, gamma=0.9, lam=0.7)
    found = metafast.segment_returns(rewards, lengths, gamma=0.9, values=values, lam=0.7)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("with_values", [False, True])
@pytest.mark.parametrize("garbage", [np.nan, np.inf])
def test_garbage_stays_in_its_segment(isa, garbage, with_values):
    rng = np.random.default_rng(0)
    lengths = np.array([3, 40, 0, 1, 70, 0])
    arguments = {"rewards": rng.standard_normal(114), "last_values": rng.standard_normal(6)}
    arguments |= {"values": rng.standard_normal(114), "lam": rng.uniform(0.5, 1, 114)} if with_values else {}
    arguments["gamma"] = rng.uniform(0.5, 1, 114)
    clean = np.atleast_2d(metafast.segment_returns(lengths=lengths, **arguments))
    for segment, inside in ((1, slice(3, 43)), (3, slice(43, 44)), (4, slice(44, 114))):
        dirty = {name: array.copy() for name, array in arguments.items()}
        for name in dirty:
            dirty[name][segment if name == "last_values" else inside] = garbage
        # Segments without a step have no use for a value.
        dirty["last_values"][lengths == 0] = garbage
        result = np.atleast_2d(metafast.segment_returns(lengths=lengths, **dirty))
        others = np.ones(114, bool)
        others[inside] = False
        np.testing.assert_array_equal(result[:, others], clean[:, others])
        assert not np.isfinite(result[:, inside]).any()


@pytest.mark.usefixtures("restore_num_threads")
def test_same_bits_for_any_number_of_threads():
    rng = np.random.default_rng(0)
    lengths = np.array([50_000, 3, 150_000, 1, 99_000])
    rewards, values = (rng.standard_normal(lengths.sum(), dtype=np.float32) for _ in range(2))
    results = []
    for num_threads in (1, 2, 3):
        metafast.set_num_threads(num_threads)
        results.append(metafast.segment_returns(rewards, lengths, gamma=0.99, values=values, lam=0.95))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]])
def test_nothing_to_return(lengths):
    empty, lengths = np.zeros(0, np.float32), np.array(lengths, np.int64)
    last_values = np.zeros(len(lengths), np.float32)
    assert metafast.segment_returns(empty, lengths, gamma=0.9).shape == (0,)
    results = metafast.segment_returns(empty, lengths, gamma=0.9, values=empty, last_values=last_values, lam=0.9)
    assert [result.shape for result in results] == [(0,), (0,)]


def test_float16_and_read_only_inputs():
    rng = np.random.default_rng(0)
    arguments = {name: rng.standard_normal(9).astype(np.float16) for name in ("rewards", "values")}
    arguments |= {"lengths": np.array([4, 5]), "last_values": np.ones(2, np.float16)}
    for array in arguments.values():
        array.flags.writeable = False
    half = metafast.segment_returns(**arguments, gamma=0.5, lam=0.5)
    single = {name: array.astype(np.float32) if name != "lengths" else array for name, array in arguments.items()}
    for result, expected in zip(half, metafast.segment_returns(**single, gamma=0.5, lam=0.5), strict=True):
        assert result.dtype == np.float16
        np.testing.assert_array_equal(result, expected.astype(np.float16))


@pytest.mark.parametrize(
    ("match", "error", "change"),
    [
        ("rewards", TypeError, {"rewards": [1.0] * 5}),
        ("rewards", TypeError, {"rewards": np.zeros(5, int)}),
        ("rewards", TypeError, {"rewards": np.ma.zeros(5)}),
        ("rewards", ValueError, {"rewards": np.zeros((5, 1))}),
        ("rewards", ValueError, {"rewards": np.array(0.0)}),
        ("lengths", ValueError, {"lengths": np.array([2, 2])}),
        ("lengths", ValueError, {"lengths": np.array([2, 4])}),
        ("lengths", ValueError, {"lengths": np.array([], int)}),
        ("lengths", ValueError, {"lengths": np.array([-1, 6])}),
        ("lengths", ValueError, {"lengths": np.array([2, -2, 5])}),
        ("lengths", ValueError, {"lengths": np.array([2**62, 2**62, 2**62, 2**62, 5])}),
        ("lengths", ValueError, {"lengths": np.array([[2, 3]])}),
        ("lengths", ValueError, {"lengths": np.array(5)}),
        ("lengths", TypeError, {"lengths": np.array([2.0, 3.0])}),
        ("lengths", TypeError, {"lengths": np.array([True] * 5)}),
        ("lengths", TypeError, {"lengths": [2, 3]}),
        ("lengths", TypeError, {"lengths": None}),
        ("lengths", TypeError, {"lengths": np.array([2, 3], ">i8")}),
        ("values", ValueError, {"values": np.zeros(4), "lam": 0.9}),
        ("values", TypeError, {"values": np.zeros(5, np.float32), "lam": 0.9}),
        ("lam", ValueError, {"values": np.zeros(5)}),
        ("values", ValueError, {"lam": 0.9}),
        ("lam", TypeError, {"values": np.zeros(5), "lam": "0.9"}),
        ("lam", ValueError, {"values": np.zeros(5), "lam": np.zeros(4)}),
        ("last_values", ValueError, {"last_values": np.zeros(3)}),
        ("last_values", ValueError, {"last_values": np.zeros(5)}),
        ("last_values", ValueError, {"last_values": np.zeros((2, 1))}),
        ("last_values", TypeError, {"last_values": np.zeros(2, np.float32)}),
        ("last_values", TypeError, {"last_values": np.zeros(2, int)}),
        ("last_values", TypeError, {"last_values": 0.0}),
        ("gamma", TypeError, {"gamma": None}),
        ("gamma", TypeError, {"gamma": True}),
        ("gamma", ValueError, {"gamma": np.zeros(2)}),
        ("gamma", TypeError, {"gamma": np.zeros(5, np.float32)}),
    ],
)
def test_bad_input(match, error, change):
    arguments = {"rewards": np.zeros(5), "lengths": np.array([2, 3]), "gamma": 0.9, **change}
    with pytest.raises(error, match=match):
        metafast.segment_returns(**arguments)
