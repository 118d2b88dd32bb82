"""With gamma = lambda = 1 every estimator is a sum of whole numbers, exact in float32 in whatever order it is taken.

So the horizons of language models, whose series are cut in time, can be checked bit for bit.
"""

import numpy as np
import pytest
from returns.estimators import ESTIMATORS, on_every_isa

# Steps at which a series of one to eight columns may be cut, and around which episodes end here.
CUTS = 4096
ENDS = {
    "no end": lambda rng, shape: np.zeros(shape, bool),
    "often": lambda rng, shape: rng.random(shape) < 0.02,
    "seldom": lambda rng, shape: rng.random(shape) < 1 / 20_000,
    "around the cuts": lambda rng, shape: (
        np.isin(np.arange(shape[0]) % CUTS, [0, 1, 15, 16, 63, 64, CUTS - 1])[:, None] & (rng.random(shape) < 0.3)
    ),
    "in one column alone": lambda rng, shape: (rng.random(shape) < 0.01) & (np.arange(shape[1]) == shape[1] - 1),
}


class Episodes:
    """Whole numbers in float32, [T, N], and the returns that follow from them."""

    def __init__(self, shape, ends, mask_rate=1.0, seed=0):
        rng = np.random.default_rng(seed)
        whole = lambda *size: rng.integers(-2, 3, size).astype(np.float32)  # noqa: E731
        self.rewards, self.values, self.final_values = whole(*shape), whole(*shape), whole(*shape)
        self.row = whole(shape[1])
        ended = ENDS[ends](rng, shape)
        self.terminated = ended & (rng.random(shape) < 0.5)
        self.truncated = ended & ~self.terminated
        self.mask = rng.random(shape) < mask_rate
        after = np.where(self.truncated, self.final_values, np.concatenate([self.values[1:], self.row[None]]))
        self.next_values = after
        self.returns = self.sums(self.rewards, after)

    def sums(self, rewards, after):
        """Rewards up to the end of the episode and what is left there, as differences of sums over the whole column."""
        taken = self.mask
        ends = (self.terminated | self.truncated) & taken
        # The last step that is taken ends in the row, unless its episode ends there.
        last = taken & (np.cumsum(taken[::-1], axis=0)[::-1] == 1)
        at_end = np.where(last & ~ends, self.row, np.where(self.terminated, 0, after))
        ends |= last
        steps = np.arange(len(rewards))[:, None]
        following_end = np.minimum.accumulate(np.where(ends, steps, len(rewards))[::-1], axis=0)[::-1]
        ahead = np.cumsum(np.where(taken, rewards, 0).astype(np.float64)[::-1], axis=0)[::-1]
        ahead = np.concatenate([ahead, np.zeros_like(ahead[:1])])
        at_end = np.concatenate([at_end, np.zeros_like(at_end[:1])])
        columns = np.arange(rewards.shape[1])
        behind = ahead[np.minimum(following_end + 1, len(rewards)), columns]
        return np.where(taken, ahead[:-1] - behind + at_end[following_end, columns], 0)

    def successors_under_mask(self):
        """The value of the next step that is taken, or the row; of the final state where truncated."""
        steps = np.arange(len(self.mask))[:, None]
        taken = np.where(self.mask, steps, len(steps))
        next_taken = np.minimum.accumulate(np.concatenate([taken[1:], np.full_like(taken[:1], len(steps))])[::-1])[::-1]
        inside = np.concatenate([self.values, self.row[None]])[next_taken, np.arange(self.mask.shape[1])]
        return np.where(self.truncated, self.final_values, inside)


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("time_axis", [0, 1])
@pytest.mark.parametrize(
    "shape", [(4097, 1), (131_072, 1), (99_991, 2), (30_000, 3), (40_000, 4), (20_011, 7), (17_000, 8)], ids=str
)
def test_horizons_of_any_length(shape, time_axis, ends):
    episodes = Episodes(shape, ends)
    arrange = lambda array: np.ascontiguousarray(array.T) if time_axis else array  # noqa: E731
    r, v, nv, final, terminated, truncated = (
        arrange(getattr(episodes, name))
        for name in ("rewards", "values", "next_values", "final_values", "terminated", "truncated")
    )
    zeros, row = np.zeros_like(r), episodes.row
    shared = {"rewards": r, "terminated": terminated, "truncated": truncated, "gamma": 1.0, "time_axis": time_axis}
    in_row = {"next_values": row, "final_values": final}
    call = lambda name, **arguments: ESTIMATORS[name](**arguments, **shared)  # noqa: E731
    # A critic that is surprised by every step follows all of them.
    pessimistic = np.broadcast_to(3 * np.arange(-shape[0], 0, dtype=np.float32)[:, None] - 5, shape)
    for _ in on_every_isa():
        found = {
            "gae": call("gae", values=v, **in_row, lam=1.0)[1],
            "gae, full": call("gae", values=v, next_values=nv, lam=1.0)[1],
            "discounted": call("discounted_returns", bootstrap=row, final_values=final)[0],
            "lambda": call("lambda_returns", next_values=nv, lam=1.0)[0],
            "n-step": call("n_step_returns", next_values=nv, n=len(episodes.rewards))[0],
            "vtrace": call("vtrace", log_rhos=zeros, values=v, **in_row)[0],
            "vtrace, full": call("vtrace", log_rhos=zeros, values=v, next_values=nv, lam=1.0)[0],
            "retrace": call("retrace", q=v, next_q_expected=nv, next_q=nv, log_rhos=zeros, lam=1.0)[0],
            "q_lambda": call("q_lambda", next_q_max=nv, lam=1.0)[0],
        }
        for name, result in found.items():
            np.testing.assert_array_equal(arrange(result), episodes.returns, err_msg=name)
        (upwards,) = call("upgo", values=arrange(pessimistic), **in_row)
        np.testing.assert_array_equal(arrange(upwards), episodes.returns - pessimistic)


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("form", ["row", "full"])
@pytest.mark.parametrize("shape", [(131_072, 1), (50_000, 2), (20_000, 3), (17_000, 8)], ids=str)
def test_token_masks(shape, form, ends):
    episodes = Episodes(shape, ends, mask_rate=0.4)
    in_row = {"next_values": episodes.row, "final_values": episodes.final_values}
    if form == "full":
        in_row = {"next_values": episodes.successors_under_mask()}
    for _ in on_every_isa():
        advantages, returns = ESTIMATORS["gae"](
            rewards=episodes.rewards,
            values=episodes.values,
            **in_row,
            terminated=episodes.terminated,
            truncated=episodes.truncated,
            mask=episodes.mask,
            gamma=1.0,
            lam=1.0,
        )
        np.testing.assert_array_equal(returns, episodes.returns)
        np.testing.assert_array_equal(advantages, np.where(episodes.mask, episodes.returns - episodes.values, 0))


@pytest.mark.parametrize("time_axis", [0, 1])
@pytest.mark.parametrize("shape", [(50_000, 1), (9000, 3), (9000, 70)], ids=str)
@pytest.mark.parametrize("n", [1, 3, 31, 1000, 4096, 8999])
def test_windows_of_n_steps(shape, n, time_axis):
    episodes = Episodes(shape, "no end")
    arrange = lambda array: np.ascontiguousarray(array.T) if time_axis else array  # noqa: E731
    expected = episodes.returns.copy()
    expected[:-n] += episodes.next_values[n - 1 : -1] - episodes.returns[n:]
    for _ in on_every_isa():
        (result,) = ESTIMATORS["n_step_returns"](
            rewards=arrange(episodes.rewards),
            next_values=arrange(episodes.next_values),
            terminated=np.zeros(arrange(episodes.rewards).shape, bool),
            gamma=1.0,
            n=n,
            time_axis=time_axis,
        )
        np.testing.assert_array_equal(arrange(result), expected)
