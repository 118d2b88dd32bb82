"""Return estimators: how much credit each step of an episode deserves."""

from metafast.returns.discounted import discounted_returns
from metafast.returns.generalized_advantage import gae

__all__ = ["discounted_returns", "gae"]
