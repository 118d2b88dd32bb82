"""Which actions are taken, and what is said of those that are not."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import metafast


@pytest.fixture
def env():
    env = metafast.envs.make_vec("CartPole-v1", 4)
    env.reset(seed=0)
    return env


GOOD = {
    "int64": np.array([0, 1, 1, 0]),
    "int32": np.array([0, 1, 1, 0], dtype=np.int32),
    "int8": np.array([0, 1, 1, 0], dtype=np.int8),
    "uint64": np.array([0, 1, 1, 0], dtype=np.uint64),
    "list": [0, 1, 1, 0],
    "tuple": (0, 1, 1, 0),
    "strided": np.array([0, 9, 1, 9, 1, 9, 0, 9])[::2],
    "reversed": np.array([0, 1, 1, 0])[::-1],
    "read-only": np.broadcast_to(np.array([0, 1, 1, 0]), (4,)),
    "longlong": np.array([0, 1, 1, 0], dtype=np.longlong),
    "misaligned": np.frombuffer(b"x" + np.array([0, 1, 1, 0]).tobytes(), dtype=np.int64, offset=1),
    "column": np.array([[0, 7], [1, 7], [1, 7], [0, 7]])[:, 0],
    "torch int64": torch.tensor([0, 1, 1, 0]),
    "torch int32, strided": torch.tensor([0, 5, 1, 5, 1, 5, 0, 5], dtype=torch.int32)[::2],
    "numpy scalars": [np.int16(0), np.uint8(1), np.int64(1), 0],
}


@pytest.mark.parametrize("kind", GOOD)
def test_every_kind_of_integers_is_taken(env, kind):
    expected = metafast.envs.make_vec("CartPole-v1", 4)
    expected.reset(seed=0)
    for ours, theirs in zip(env.step(GOOD[kind])[:4], expected.step(np.array([0, 1, 1, 0]))[:4], strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Unconvertible:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no array here")


BAD = {
    "None": (None, r"\[0, 2\).*shape \(4,\).*None"),
    "scalar": (1, r"shape \(4,\).*shape \(\)"),
    "short": (np.array([0, 1, 1]), r"shape \(4,\).*shape \(3,\)"),
    "long": (np.zeros(5, dtype=np.int64), r"shape \(4,\).*shape \(5,\)"),
    "empty": (np.zeros(0, dtype=np.int64), r"shape \(4,\).*shape \(0,\)"),
    "empty list": ([], r"shape \(4,\).*shape \(0,\)"),
    "column": (np.zeros((4, 1), dtype=np.int64), r"shape \(4,\).*shape \(4, 1\)"),
    "row": (np.zeros((1, 4), dtype=np.int64), r"shape \(4,\).*shape \(1, 4\)"),
    "float64": (np.array([0.0, 1.0, 1.0, 0.0]), r"integers.*float64"),
    "float32 torch": (torch.zeros(4), r"integers.*float32"),
    "NaN": (np.array([np.nan, 1, 1, 0]), r"integers.*float64"),
    "list with NaN": ([0, 1, float("nan"), 0], r"integers.*float64"),
    "list with None": ([0, 1, None, 0], r"integers.*object"),
    "bool": (np.array([False, True, True, False]), r"integers.*bool"),
    "list of bools": ([False, True, True, False], r"integers.*bool"),
    "complex": (np.zeros(4, dtype=complex), r"integers.*complex128"),
    "object": (np.array([0, 1, 1, 0], dtype=object), r"integers.*object"),
    "strings": (["0", "1", "1", "0"], r"integers.*<U1"),
    "dates": (np.zeros(4, dtype="M8[s]"), r"integers.*datetime64"),
    "structured": (np.zeros(4, dtype=[("a", "i8")]), r"integers"),
    "ragged": ([[0], [1, 1], [0], [1]], r"actions.*list"),
    "dict": ({0: 1}, r"actions.*object"),
    "too large": (np.array([0, 1, 2, 0]), r"actions\[2\] is 2"),
    "negative": (np.array([0, -1, 1, 0]), r"actions\[1\] is -1"),
    "too large, int32": (np.array([0, 1, 1, 2**31 - 1], dtype=np.int32), r"actions\[3\] is 2147483647"),
    "negative, int32": (np.array([-1, 0, 0, 0], dtype=np.int32), r"actions\[0\] is -1"),
    "congruent modulo 2**32": (np.array([0, 2**32, 1, 0]), r"actions\[1\] is 4294967296"),
    "smallest int64": (np.array([0, 1, 1, -(2**63)]), r"actions\[3\] is -9223372036854775808"),
    "too large, uint64": (np.array([0, 1, 2**64 - 1, 0], dtype=np.uint64), r"actions\[2\] is 18446744073709551615"),
    "too large, list": ([0, 1, 2, 0], r"actions\[2\] is 2"),
    "beyond int64": ([0, 1, 2**70, 0], r"integers.*object"),
    "too large, torch": (torch.tensor([0, 1, 1, 3]), r"actions\[3\] is 3"),
    "masked": (np.ma.masked_array([0, 1, 1, 0], mask=[0, 0, 1, 0]), r"masked"),
    "masked nowhere": (np.ma.masked_array([0, 1, 1, 0]), r"masked"),
    "byte-swapped": (np.array([0, 1, 1, 0]).astype(">i8"), r"native byte order.*>i8"),
    "byte-swapped, int32": (np.array([0, 1, 1, 0]).astype(">i4"), r"native byte order.*>i4"),
    "unconvertible": (Unconvertible(), r"actions.*Unconvertible.*no array here"),
    "torch meta": (torch.zeros(4, dtype=torch.int64, device="meta"), r"actions.*Tensor"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_actions_are_refused_and_change_nothing(env, kind):
    actions, message = BAD[kind]
    env.step([0, 1, 1, 0])
    before = env.get_state()
    refused_as_container = kind.startswith(("masked", "byte-swapped"))
    with pytest.raises(TypeError if refused_as_container else ValueError, match=f"^actions.*{message}|^{message}"):
        env.step(actions)
    for key, value in env.get_state().items():
        np.testing.assert_array_equal(value, before[key])


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=4, max_size=4))
def test_exactly_the_actions_of_the_space_are_taken(actions):
    env = metafast.envs.make_vec("CartPole-v1", 4)
    env.reset(seed=0)
    array = np.array(actions)
    if env.action_space.contains(array):
        env.step(array)
    else:
        index = next(i for i, action in enumerate(actions) if action not in (0, 1))
        with pytest.raises(ValueError, match=rf"actions\[{index}\] is {actions[index]};"):
            env.step(array)


@pytest.mark.parametrize("position", [0, 1, 254, 255, 256, 4000, 4998, 4999])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_one_bad_action_in_a_large_batch_is_found(isa, position, dtype):
    env = metafast.envs.make_vec("CartPole-v1", 5000)
    env.reset(seed=0)
    actions = np.ones(5000, dtype=dtype)
    actions[position] = 2
    with pytest.raises(ValueError, match=rf"actions\[{position}\] is 2;"):
        env.step(actions)
    assert (env.get_state()["elapsed_steps"] == 0).all()


@pytest.mark.parametrize(("env_id", "bad"), [("Acrobot-v1", 7), ("Pendulum-v1", np.nan)])
def test_threads_name_the_first_bad_action(env_id, bad):
    env = metafast.envs.make_vec(env_id, 16384, num_threads=2)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = env.action_space.sample()
    for _ in range(8):  # after a few steps the batch knows what threads are worth
        env.step(actions)
    before = env.get_state()
    for last in (16383, 9000, 8191, 300, 0):
        actions[last] = bad
        with pytest.raises(ValueError, match=rf"actions\[{last}(, 0)?\] is {bad}"):
            env.step(actions)
    for key, value in env.get_state().items():
        np.testing.assert_array_equal(value, before[key])
