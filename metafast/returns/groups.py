"""Advantages relative to a group of samples."""

from __future__ import annotations

from typing import Any

from metafast.returns._estimator import GROUP_ADVANTAGES


def group_advantages(rewards: Any, group_ids: Any, *, kind: str = "grpo") -> Any:
    """Advantages of samples over the others of their group, such as the completions of one prompt.

    ``"grpo"``: ``(rewards - mean) / (std + epsilon)`` with mean and standard deviation of the group. ``"rloo"``: the
    reward less the mean of the group's other samples. A group of one gets 0.

    Takes and returns arrays as :func:`metafast.gae` does, but the result is a constant: it carries no gradient, and
    tensors that require grad are taken as they are. Sums are taken in float64, on CUDA tensors too.

    Parameters
    ----------
    rewards : float array, shape [B]
        Reward of every sample.
    group_ids : integer array, shape [B]
        Which group a sample belongs to: any numbers, in any order.
    kind : {"grpo", "rloo"}
        What a sample is compared with.

    Returns
    -------
    advantages : array of the shape and dtype of `rewards`

    Raises
    ------
    ValueError
        A shape does not fit; `kind` is neither of the two.
    TypeError
        Arrays of several libraries or devices; rewards that are not floats, or group numbers that are not integers;
        masked, byte-swapped or misaligned arrays.

    Notes
    -----
    Shao et al., "DeepSeekMath: pushing the limits of mathematical reasoning in open language models", 2024, section
    4.1.2, with the standard deviation that divides by the size of the group less one; equal rewards give 0. Ahmadian et
    al., "Back to basics: revisiting REINFORCE style optimization for learning from human feedback in LLMs", ACL 2024,
    on the leave-one-out estimator of Kool et al. (2019).

    Examples
    --------
    >>> import numpy as np
    >>> import metafast
    >>> rewards, prompts = np.array([1.0, 5.0, 0.0, 3.0, 7.0]), np.array([0, 1, 0, 0, 2])
    >>> metafast.group_advantages(rewards, prompts, kind="rloo")
    array([-0.5,  0. , -2. ,  2.5,  0. ])
    """
    return GROUP_ADVANTAGES(rewards, group_ids, kind)
