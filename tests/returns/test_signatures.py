"""The public signatures, which other code is written against."""

import inspect

import pytest

import metafast

SIGNATURES = {
    "gae": "rewards, values, next_values, terminated, truncated=None, *, "
    "gamma=0.99, lam=0.95, final_values=None, mask=None, time_axis=0, out=None",
    "discounted_returns": "rewards, terminated, truncated=None, *, "
    "gamma=0.99, bootstrap=None, final_values=None, time_axis=0, out=None",
    "lambda_returns": "rewards, next_values, terminated, truncated=None, *, gamma, lam, time_axis=0, out=None",
    "n_step_returns": "rewards, next_values, terminated, truncated=None, *, gamma, n, time_axis=0, out=None",
    "vtrace": "log_rhos, rewards, values, next_values, terminated, truncated=None, *, "
    "gamma, lam=1.0, clip_rho=1.0, clip_c=1.0, clip_pg_rho=1.0, final_values=None, time_axis=0, out=None",
    "retrace": "q, next_q_expected, next_q, log_rhos, rewards, terminated, truncated=None, *, "
    "gamma, lam, time_axis=0, out=None",
    "q_lambda": "next_q_max, rewards, terminated, truncated=None, *, gamma, lam, time_axis=0, out=None",
    "upgo": "rewards, values, next_values, terminated, truncated=None, *, "
    "gamma=1.0, final_values=None, time_axis=0, out=None",
    "group_advantages": "rewards, group_ids, *, kind='grpo'",
    "segment_returns": "rewards, lengths, *, gamma, values=None, last_values=None, lam=None",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    parameters = inspect.signature(getattr(metafast, name)).parameters.values()
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    assert str(inspect.Signature(bare)) == f"({SIGNATURES[name]})"
    assert name in metafast.__all__
