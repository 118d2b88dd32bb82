"""Small examples worked out by hand: gamma = lambda = 1/2, rewards 1, 2, 3, all numbers exact in binary."""

import numpy as np
import pytest

import metafast

REWARDS = [1, 2, 3]
VALUES = [1 / 2, 1 / 4, 1 / 8]
NEXT_VALUES = [1 / 4, 1 / 8, 2]
NO_END = [0, 0, 0]
IN_THE_MIDDLE = [0, 1, 0]

pytestmark = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@pytest.mark.parametrize(
    ("terminated", "truncated", "final_values", "advantages"),
    [
        (NO_END, None, None, [1.3203125, 2.78125, 3.875]),
        (IN_THE_MIDDLE, None, None, [1.0625, 1.75, 3.875]),
        (NO_END, IN_THE_MIDDLE, [np.nan, 4.0, np.nan], [1.5625, 3.75, 3.875]),
    ],
    ids=["no end", "terminated", "truncated"],
)
@pytest.mark.parametrize("with_row", [False, True])
def test_gae(dtype, with_row, terminated, truncated, final_values, advantages):
    next_values = NEXT_VALUES if truncated is None else [1 / 4, 4, 2]
    result, returns = metafast.gae(
        np.array(REWARDS, dtype),
        np.array(VALUES, dtype),
        np.array(2 if with_row else next_values, dtype),
        np.array(terminated, bool),
        None if truncated is None else np.array(truncated, bool),
        gamma=0.5,
        lam=0.5,
        final_values=None if final_values is None else np.array(final_values, dtype),
    )
    np.testing.assert_array_equal(result, np.array(advantages, dtype))
    np.testing.assert_array_equal(returns, result + np.array(VALUES, dtype))


def test_gae_token_mask_holds_the_carry(dtype):
    advantages, returns = metafast.gae(
        np.array([0, 1, 0], dtype),
        np.array([0, 0, 100], dtype),
        np.array(0, dtype),
        np.zeros(3, bool),
        gamma=1.0,
        lam=0.95,
        mask=np.array([1, 1, 0]),
    )
    np.testing.assert_array_equal(advantages, np.array([0.95, 1.0, 0.0], dtype))
    np.testing.assert_array_equal(returns, np.array([0.95, 1.0, 0.0], dtype))


def test_gae_right_padded_mask_ends_in_the_bootstrap(dtype):
    advantages, _ = metafast.gae(
        np.ones(3, dtype),
        np.zeros(3, dtype),
        np.array(10, dtype),
        np.zeros(3, bool),
        np.array([False, True, False]),
        gamma=0.5,
        lam=0.5,
        mask=np.array([True, True, False]),
    )
    np.testing.assert_array_equal(advantages, np.array([2.5, 6, 0], dtype))


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        (NO_END, NO_END, [1.8203125, 3.03125, 4.0]),
        (IN_THE_MIDDLE, NO_END, [1 + (1 / 4 + 2) / 4, 2.0, 4.0]),
        (NO_END, IN_THE_MIDDLE, [1 + (1 / 4 + 33 / 16) / 4, 33 / 16, 4.0]),
        (IN_THE_MIDDLE, IN_THE_MIDDLE, [1 + (1 / 4 + 2) / 4, 2.0, 4.0]),
    ],
    ids=["no end", "terminated", "truncated", "both"],
)
def test_lambda_returns_and_q_lambda(dtype, terminated, truncated, expected):
    rewards, next_values = np.array(REWARDS, dtype), np.array(NEXT_VALUES, dtype)
    ends = np.array(terminated, bool), np.array(truncated, bool)
    result = metafast.lambda_returns(rewards, next_values, *ends, gamma=0.5, lam=0.5)
    np.testing.assert_array_equal(result, np.array(expected, dtype))
    result = metafast.q_lambda(next_values, rewards, *ends, gamma=0.5, lam=0.5)
    np.testing.assert_array_equal(result, np.array(expected, dtype))


@pytest.mark.parametrize(
    ("n", "terminated", "truncated", "expected"),
    [
        (1, NO_END, None, [1.125, 2.0625, 4.0]),
        (2, NO_END, None, [2.03125, 4.0, 4.0]),
        (3, NO_END, None, [3.0, 4.0, 4.0]),
        (7, NO_END, None, [3.0, 4.0, 4.0]),
        (2, IN_THE_MIDDLE, None, [2.0, 2.0, 4.0]),
        (3, NO_END, IN_THE_MIDDLE, [2.03125, 2.0625, 4.0]),
    ],
)
def test_n_step_returns(dtype, n, terminated, truncated, expected):
    result = metafast.n_step_returns(
        np.array(REWARDS, dtype),
        np.array(NEXT_VALUES, dtype),
        np.array(terminated, bool),
        None if truncated is None else np.array(truncated, bool),
        gamma=0.5,
        n=n,
    )
    np.testing.assert_array_equal(result, np.array(expected, dtype))


@pytest.mark.parametrize("next_values", [2, NEXT_VALUES], ids=["row", "full"])
def test_vtrace(dtype, next_values):
    targets, advantages = metafast.vtrace(
        np.log([2, 1 / 2, 1]).astype(dtype),
        np.array(REWARDS, dtype),
        np.array(VALUES, dtype),
        np.array(next_values, dtype),
        np.zeros(3, bool),
        gamma=0.5,
    )
    precision = {"rtol": 4 * np.finfo(dtype).eps, "atol": 0}
    np.testing.assert_allclose(targets, [2.0625, 2.125, 4], **precision)
    np.testing.assert_allclose(advantages, [1.5625, 1.875, 3.875], **precision)


def test_vtrace_clips_each_ratio_by_its_own_threshold(dtype):
    # rho = 4 everywhere: deltas by 2, traces by 1/2, policy gradient by 4 as it is.
    targets, advantages = metafast.vtrace(
        np.full(3, np.log(4), dtype),
        np.array(REWARDS, dtype),
        np.array(VALUES, dtype),
        np.array(2, dtype),
        np.zeros(3, bool),
        gamma=0.5,
        lam=0.5,
        clip_rho=2.0,
        clip_c=0.5,
        clip_pg_rho=np.inf,
    )
    # deltas 5/8, 29/16, 31/8; doubled and joined with a weight of 1/8:
    corrections = [5 / 4 + (29 / 8 + 31 / 32) / 8, 29 / 8 + 31 / 32, 31 / 4]
    precision = {"rtol": 4 * np.finfo(dtype).eps, "atol": 0}
    np.testing.assert_allclose(targets, np.add(VALUES, corrections), **precision)
    next_targets = [1 / 4 + corrections[1], 1 / 8 + corrections[2], 2]
    expected = 4 * (np.array(REWARDS) + np.array(next_targets) / 2 - VALUES)
    np.testing.assert_allclose(advantages, expected, **precision)


def test_retrace(dtype):
    result = metafast.retrace(
        np.zeros(3, dtype),
        np.array(NEXT_VALUES, dtype),
        np.array([1 / 2, 1 / 4, np.nan], dtype),
        np.log([np.nan, 1 / 2, 2]).astype(dtype),
        np.array(REWARDS, dtype),
        np.zeros(3, bool),
        gamma=0.5,
        lam=1.0,
    )
    np.testing.assert_allclose(result, [1.984375, 3.9375, 4.0], rtol=4 * np.finfo(dtype).eps)


def test_upgo(dtype):
    values = np.array([0, 2, 1], dtype)
    result = metafast.upgo(np.array([1, -5, 3], dtype), values, np.array(0, dtype), np.zeros(3, bool))
    np.testing.assert_array_equal(result + values, np.array([3, -2, 3], dtype))


def test_upgo_follows_where_the_action_is_as_good_as_the_state(dtype):
    # Q of the second step is 1/2 + 1/2 = V of its state, and its return counts; Q of the last is below V.
    values = np.array([0, 1, 1, 9], dtype)
    result = metafast.upgo(np.array([0, 1 / 2, 2, 0], dtype), values, np.array(0, dtype), np.zeros(4, bool), gamma=0.5)
    np.testing.assert_array_equal(result + values, np.array([1.875, 3.75, 6.5, 0], dtype))


def test_discounted_returns(dtype):
    result = metafast.discounted_returns(
        np.ones(4, dtype),
        np.array([0, 1, 0, 0], bool),
        np.array([0, 0, 1, 0], bool),
        gamma=0.5,
        bootstrap=np.array(8, dtype),
        final_values=np.array([np.nan, np.nan, 4, np.nan], dtype),
    )
    np.testing.assert_array_equal(result, np.array([1.5, 1, 3, 5], dtype))


def test_discounted_returns_by_default(dtype):
    result = metafast.discounted_returns(np.ones(3, dtype), np.zeros(3, bool), np.array([False, True, False]))
    np.testing.assert_allclose(result, [1.99, 1.0, 1.0], rtol=1e-6)


def test_group_advantages(dtype):
    rewards, groups = np.array([1, 10, 2, 3, 10, 5], dtype), np.array([7, -1, 7, 7, -1, 0])
    relative = 1 / (1 + 1e-6)
    expected = np.array([-relative, 0, 0, relative, 0, 0], dtype)
    np.testing.assert_allclose(metafast.group_advantages(rewards, groups), expected, rtol=1e-7)
    expected = np.array([-1.5, 0, 0, 1.5, 0, 0], dtype)
    np.testing.assert_array_equal(metafast.group_advantages(rewards, groups, kind="rloo"), expected)


def test_segment_returns(dtype):
    rewards, lengths = np.ones(5, dtype), np.array([2, 0, 3])
    result = metafast.segment_returns(rewards, lengths, gamma=0.5)
    np.testing.assert_array_equal(result, np.array([1.5, 1, 1.75, 1.5, 1], dtype))
    result = metafast.segment_returns(rewards, lengths, gamma=0.5, last_values=np.array([8, np.nan, 4], dtype))
    np.testing.assert_array_equal(result, np.array([3.5, 5, 2.25, 2.5, 3], dtype))
    advantages, returns = metafast.segment_returns(
        np.array([3, *REWARDS], dtype),
        np.array([1, 3]),
        gamma=0.5,
        values=np.array([1 / 8, *VALUES], dtype),
        last_values=np.array([2, 2], dtype),
        lam=0.5,
    )
    np.testing.assert_array_equal(advantages, np.array([3.875, 1.3203125, 2.78125, 3.875], dtype))
    np.testing.assert_array_equal(returns, np.array([4, 1.8203125, 3.03125, 4], dtype))
