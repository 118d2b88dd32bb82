"""Return estimators: how much credit each step of an episode deserves."""

from metafast.returns.discounted import discounted_returns
from metafast.returns.generalized_advantage import gae
from metafast.returns.groups import group_advantages
from metafast.returns.n_step import n_step_returns
from metafast.returns.peng import q_lambda
from metafast.returns.retraced import retrace
from metafast.returns.segments import segment_returns
from metafast.returns.td_lambda import lambda_returns
from metafast.returns.upgoing import upgo
from metafast.returns.v_trace import vtrace

__all__ = [
    "discounted_returns",
    "gae",
    "group_advantages",
    "lambda_returns",
    "n_step_returns",
    "q_lambda",
    "retrace",
    "segment_returns",
    "upgo",
    "vtrace",
]
