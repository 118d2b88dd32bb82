"""Advantages within groups of samples."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns import reference
from returns.estimators import on_every_isa
from returns.problems import LAYOUTS, lay_out

import metafast

EPSILON = 1e-6
KINDS = ("grpo", "rloo")
every_kind = pytest.mark.parametrize("kind", KINDS)

IDS = {
    "runs": lambda rng, size: np.arange(size) // 4,
    "shuffled": lambda rng, size: rng.integers(-3, 4, size),
    "far apart": lambda rng, size: rng.choice(np.array([-(2**63), -1, 0, 2**63 - 1]), size),
    "all alone": lambda rng, size: rng.permutation(size) * 10**12,
    "one group": lambda rng, size: np.full(size, 5),
}


def rewards_of(rng, size, dtype):
    return rng.standard_normal(size).astype(dtype)


@given(
    size=st.integers(0, 60),
    ids=st.sampled_from(list(IDS)),
    id_dtype=st.sampled_from([np.int64, np.int32, np.int8, np.uint8, np.uint64]),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from([np.float32, np.float64]),
    layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 2),
    seed=st.integers(0, 99),
)
def test_against_one_group_at_a_time(size, ids, id_dtype, kind, dtype, layouts, seed):
    rng = np.random.default_rng(seed)
    rewards, group_ids = rewards_of(rng, size, dtype), IDS[ids](rng, size).astype(id_dtype)
    expected = reference.group_advantages(rewards.astype(np.float64), group_ids, kind, EPSILON)
    for _ in on_every_isa():
        result = metafast.group_advantages(lay_out(rewards, layouts[0]), lay_out(group_ids, layouts[1]), kind=kind)
        assert result.dtype == dtype
        np.testing.assert_allclose(result, expected, rtol=8 * np.finfo(dtype).eps, atol=8 * np.finfo(dtype).eps)


@every_kind
def test_many_large_groups(kind):
    rng = np.random.default_rng(0)
    rewards, group_ids = rewards_of(rng, 200_000, np.float32), rng.integers(0, 1000, 200_000)
    result = metafast.group_advantages(rewards, group_ids, kind=kind)
    sample = np.isin(group_ids, [0, 1, 500, 999])
    expected = reference.group_advantages(rewards[sample].astype(np.float64), group_ids[sample], kind, EPSILON)
    np.testing.assert_allclose(result[sample], expected, rtol=1e-6, atol=1e-6)


@every_kind
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_samples_alone_get_nothing(kind, dtype):
    result = metafast.group_advantages(np.array([3, np.nan, np.inf], dtype), np.array([1, 2, 3]), kind=kind)
    np.testing.assert_array_equal(result, np.zeros(3, dtype))


@every_kind
@pytest.mark.parametrize("size", [2, 3, 7, 10])
@pytest.mark.parametrize("reward", [0.1, 0.7, 1 / 3, 1e-30, 12345.678])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_rewards_give_nothing_at_all(kind, size, reward, dtype):
    # Exactly: callers drop the groups whose advantages are all 0.
    result = metafast.group_advantages(np.full(size, reward, dtype), np.zeros(size, int), kind=kind)
    np.testing.assert_array_equal(result, np.zeros(size, dtype))


@every_kind
def test_advantages_of_a_group_sum_to_zero(kind):
    rng = np.random.default_rng(0)
    rewards, group_ids = rewards_of(rng, 500, np.float64), rng.integers(0, 40, 500)
    result = metafast.group_advantages(rewards, group_ids, kind=kind)
    np.testing.assert_allclose(np.bincount(group_ids, weights=result), 0, atol=1e-12)


def test_grpo_has_unit_deviation_and_knows_no_scale():
    rng = np.random.default_rng(0)
    rewards, group_ids = 1e4 * rewards_of(rng, 400, np.float64), np.repeat(np.arange(50), 8)
    result = metafast.group_advantages(rewards, group_ids)
    np.testing.assert_allclose(result.reshape(50, 8).std(axis=1, ddof=1), 1, rtol=1e-9)
    rescaled = metafast.group_advantages(16 * rewards - 3e5, group_ids)
    np.testing.assert_allclose(rescaled, result, rtol=1e-7, atol=1e-9)


@every_kind
def test_a_large_common_reward_costs_no_precision(kind):
    rng = np.random.default_rng(0)
    rewards = (1e4 + rng.standard_normal(64)).astype(np.float32)
    group_ids = np.repeat(np.arange(8), 8)
    expected = reference.group_advantages(rewards.astype(np.float64), group_ids, kind, EPSILON)
    result = metafast.group_advantages(rewards, group_ids, kind=kind)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)


@every_kind
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("stride", [1, 1000])
def test_garbage_stays_in_its_group(kind, garbage, stride):
    rng = np.random.default_rng(0)
    rewards, group_ids = rewards_of(rng, 60, np.float64), stride * rng.integers(0, 6, 60)
    clean = metafast.group_advantages(rewards, group_ids, kind=kind)
    rewards[np.argmax(group_ids == 2 * stride)] = garbage
    dirty = metafast.group_advantages(rewards, group_ids, kind=kind)
    inside = group_ids == 2 * stride
    np.testing.assert_array_equal(dirty[~inside], clean[~inside])
    assert not np.isfinite(dirty[inside]).all()


@every_kind
def test_from_several_python_threads_at_once(kind):
    rng = np.random.default_rng(0)
    rewards, group_ids = rewards_of(rng, 30_000, np.float32), rng.integers(0, 99, 30_000)
    expected = metafast.group_advantages(rewards, group_ids, kind=kind)
    wrong = []

    def call_often():
        for _ in range(20):
            if not np.array_equal(metafast.group_advantages(rewards, group_ids, kind=kind), expected):
                wrong.append(threading.get_ident())

    callers = [threading.Thread(target=call_often) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_float16_and_read_only_inputs():
    rng = np.random.default_rng(0)
    rewards, group_ids = rewards_of(rng, 30, np.float16), rng.integers(0, 4, 30)
    for array in (rewards, group_ids):
        array.flags.writeable = False
    result = metafast.group_advantages(rewards, group_ids)
    assert result.dtype == np.float16
    expected = metafast.group_advantages(rewards.astype(np.float32), group_ids)
    np.testing.assert_array_equal(result, expected.astype(np.float16))


@pytest.mark.parametrize(
    ("match", "error", "change"),
    [
        ("rewards", TypeError, {"rewards": [1.0, 2.0]}),
        ("rewards", TypeError, {"rewards": np.zeros(4, int)}),
        ("rewards", TypeError, {"rewards": np.ma.zeros(4)}),
        ("rewards", TypeError, {"rewards": np.zeros(4, ">f8")}),
        ("rewards", TypeError, {"rewards": None}),
        ("rewards", ValueError, {"rewards": np.zeros((2, 2)), "group_ids": np.zeros((2, 2), int)}),
        ("rewards", ValueError, {"rewards": np.array(1.0), "group_ids": np.array(1)}),
        ("group_ids", ValueError, {"group_ids": np.zeros(5, int)}),
        ("group_ids", ValueError, {"group_ids": np.zeros((4, 1), int)}),
        ("group_ids", TypeError, {"group_ids": np.zeros(4)}),
        ("group_ids", TypeError, {"group_ids": np.zeros(4, bool)}),
        ("group_ids", TypeError, {"group_ids": np.zeros(4, ">i8")}),
        ("group_ids", TypeError, {"group_ids": ["a", "b", "c", "d"]}),
        ("group_ids", TypeError, {"group_ids": np.array(["a", "b", "c", "d"])}),
        ("group_ids", TypeError, {"group_ids": None}),
        ("kind", ValueError, {"kind": "ppo"}),
        ("kind", ValueError, {"kind": ""}),
        ("kind", (TypeError, ValueError), {"kind": None}),
    ],
)
def test_bad_input(match, error, change):
    with pytest.raises(error, match=match):
        metafast.group_advantages(**{"rewards": np.zeros(4), "group_ids": np.zeros(4, int), **change})
