"""The real libraries. Some of them warn of what they import, which is not ours to answer for."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import rlax
    import stable_baselines3
    import tianshou.algorithm.algorithm_base as tianshou
    import torchrl.objectives.value.functional as torchrl

__all__ = ["rlax", "stable_baselines3", "tianshou", "torchrl"]
