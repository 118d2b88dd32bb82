"""Every wrong argument is an error that names it, raised before anything is written."""

import numpy as np
import pytest

import metafast

T, N = 5, 3


def arrays():
    rng = np.random.default_rng(0)
    return {
        "rewards": rng.standard_normal((T, N)),
        "values": rng.standard_normal((T, N)),
        "next_values": rng.standard_normal((T, N)),
        "terminated": np.zeros((T, N), bool),
    }


def misaligned(array):
    data = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    data[...] = array
    return data


def read_only(array):
    array.flags.writeable = False
    return array


a = arrays()
overlapping = arrays()
pair = np.empty((2, T, N))
GAE_CASES = [
    ("rewards", TypeError, {"rewards": [[1.0]]}),
    ("rewards", TypeError, {"rewards": None}),
    ("rewards", TypeError, {"rewards": 1.0}),
    ("rewards", TypeError, {"rewards": np.zeros((T, N), int)}),
    ("rewards", TypeError, {"rewards": np.zeros((T, N), complex)}),
    ("rewards", TypeError, {"rewards": np.zeros((T, N), object)}),
    ("rewards", TypeError, {"rewards": np.ma.zeros((T, N))}),
    ("rewards", TypeError, {"rewards": np.zeros((T, N), ">f8")}),
    ("rewards", TypeError, {"rewards": misaligned(a["rewards"])}),
    ("rewards", ValueError, {"rewards": np.array(1.0)}),
    ("rewards", ValueError, {"rewards": np.zeros(T), "time_axis": 1}),
    ("rewards", ValueError, {"rewards": np.zeros((1,) * 9)}),
    ("values", ValueError, {"values": np.zeros((N, T))}),
    ("values", ValueError, {"values": np.zeros((T, N, 1))}),
    ("values", ValueError, {"values": np.zeros(T)}),
    ("values", TypeError, {"values": np.zeros((T, N), np.float32)}),
    ("values", TypeError, {"values": np.zeros((T, N), int)}),
    ("values", TypeError, {"values": None}),
    ("values", TypeError, {"values": np.ma.zeros((T, N))}),
    ("next_values", ValueError, {"next_values": np.zeros(T)}),
    ("next_values", ValueError, {"next_values": np.zeros((T + 1, N))}),
    ("next_values", ValueError, {"next_values": np.array(0.0)}),
    ("next_values", TypeError, {"next_values": 0.0}),
    ("next_values", TypeError, {"next_values": np.zeros(N, np.float32)}),
    ("terminated", ValueError, {"terminated": np.zeros(T, bool)}),
    ("terminated", TypeError, {"terminated": np.zeros((T, N), complex)}),
    ("terminated", TypeError, {"terminated": np.zeros((T, N), "U1")}),
    ("terminated", TypeError, {"terminated": None}),
    ("truncated", ValueError, {"truncated": np.zeros((N, T), bool)}),
    ("truncated", TypeError, {"truncated": False}),
    ("final_values", ValueError, {"final_values": np.zeros(N)}),
    ("final_values", TypeError, {"final_values": np.zeros((T, N), np.float32)}),
    ("final_values", ValueError, {"next_values": np.zeros(N), "truncated": np.ones((T, N), bool)}),
    ("mask", ValueError, {"mask": np.ones(T)}),
    ("mask", TypeError, {"mask": [1] * T}),
    ("gamma", TypeError, {"gamma": "0.99"}),
    ("gamma", TypeError, {"gamma": None}),
    ("gamma", TypeError, {"gamma": True}),
    ("gamma", ValueError, {"gamma": np.zeros((T, N + 1))}),
    ("gamma", ValueError, {"gamma": np.zeros((1, T, N))}),
    ("gamma", TypeError, {"gamma": np.zeros((T, N), np.float32)}),
    ("lam", TypeError, {"lam": [0.95]}),
    ("lam", ValueError, {"lam": np.zeros(T)}),
    ("time_axis", ValueError, {"time_axis": 2}),
    ("time_axis", ValueError, {"time_axis": -1}),
    ("out", TypeError, {"out": np.empty((T, N))}),
    ("out", ValueError, {"out": (np.empty((T, N)),)}),
    (r"out\[0\]", ValueError, {"out": (np.empty((N, T)), np.empty((T, N)))}),
    (r"out\[1\]", TypeError, {"out": (np.empty((T, N)), np.empty((T, N), np.float32))}),
    (r"out\[1\]", TypeError, {"out": (np.empty((T, N)), None)}),
    (r"out\[0\]", ValueError, {"out": (read_only(np.empty((T, N))), np.empty((T, N)))}),
    ("out.*rewards", ValueError, {"rewards": overlapping["rewards"], "out": (overlapping["rewards"], pair[0])}),
    ("out.*values", ValueError, {"values": overlapping["values"], "out": (pair[0], overlapping["values"])}),
    (r"out\[0\].*out\[1\]", ValueError, {"out": (pair[0], pair[0])}),
]


@pytest.mark.parametrize(("match", "error", "change"), GAE_CASES)
def test_gae(match, error, change):
    arguments = {**arrays(), **change}
    before = {name: np.array(array, copy=True) for name, array in arguments.items() if isinstance(array, np.ndarray)}
    with pytest.raises(error, match=match):
        metafast.gae(**arguments)
    for name, array in before.items():
        np.testing.assert_array_equal(arguments[name], array)


@pytest.mark.parametrize(
    ("match", "error", "change"),
    [
        ("bootstrap", ValueError, {"bootstrap": np.zeros(T)}),
        ("bootstrap", TypeError, {"bootstrap": np.zeros(N, int)}),
        ("bootstrap", TypeError, {"bootstrap": 0.0}),
        ("final_values", ValueError, {"final_values": np.zeros(N)}),
        ("truncated", ValueError, {"truncated": np.zeros(N)}),
        ("gamma", TypeError, {"gamma": 1j}),
        ("terminated", ValueError, {"terminated": np.zeros((T, N + 1))}),
        ("rewards", TypeError, {"rewards": np.zeros((T, N), int)}),
    ],
)
def test_discounted_returns(match, error, change):
    arguments = {"rewards": np.zeros((T, N)), "terminated": np.zeros((T, N), bool), **change}
    with pytest.raises(error, match=match):
        metafast.discounted_returns(**arguments)


def test_out_may_interleave_with_an_input():
    # The byte ranges overlap, the elements do not.
    both = np.zeros((T, N, 2))
    arguments = arrays()
    both[..., 0] = arguments["rewards"]
    arguments["rewards"] = both[..., 0]
    out = (both[..., 1], np.empty((T, N)))
    expected = metafast.gae(**{**arguments, "rewards": arguments["rewards"].copy()})
    metafast.gae(**arguments, out=out)
    np.testing.assert_array_equal(out[0], expected[0])


def test_truncation_at_the_last_step_needs_no_final_values():
    arguments = {**arrays(), "next_values": np.ones(N), "truncated": np.zeros((T, N), bool)}
    arguments["truncated"][-1] = True
    advantages, _ = metafast.gae(**arguments, gamma=0.5)
    np.testing.assert_allclose(advantages[-1], arguments["rewards"][-1] + 0.5 - arguments["values"][-1])


def test_truncation_of_a_masked_or_terminal_step_needs_no_final_values():
    arguments = {**arrays(), "next_values": np.ones(N), "truncated": np.zeros((T, N), bool), "mask": np.ones((T, N))}
    arguments["truncated"][1, 0] = True
    arguments["mask"][1, 0] = 0
    arguments["truncated"][2, 1] = arguments["terminated"][2, 1] = True
    metafast.gae(**arguments)
