"""Rewards normalised on a CUDA device: the numbers and the state of the CPU."""

import numpy as np
import pytest
import torch

from metafast.nn import ReturnNormalizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_returns(device, dtype):
    rng = np.random.default_rng(0)
    mine, theirs = ReturnNormalizer(6, gamma=0.9), ReturnNormalizer(6, gamma=0.9)
    for _ in range(3):
        rewards = torch.from_numpy(rng.normal(0.3, 2.0, (7, 6))).to(dtype)
        ended = torch.from_numpy(rng.random((7, 6)) < 0.3)
        scaled = mine(rewards.to(device), ended.to(device))
        assert scaled.dtype == dtype
        assert scaled.device == device
        expected = theirs(rewards.numpy(), ended.numpy())
        tolerance = 1e-6 if dtype == torch.float32 else 1e-12
        np.testing.assert_allclose(scaled.cpu().numpy(), expected, rtol=tolerance)
        for name, array in theirs.get_state().items():
            np.testing.assert_allclose(mine.get_state()[name], array, rtol=1e-9, atol=1e-12, err_msg=name)
        # What was saved continues on the other side.
        mine.set_state(theirs.get_state())


def test_bad_input(device):
    normalizer = ReturnNormalizer(3)
    with pytest.raises(ValueError, match="shape"):
        normalizer(torch.zeros(2, 4, device=device), torch.zeros(2, 4, dtype=torch.bool, device=device))
    with pytest.raises(TypeError, match="rewards must be floats"):
        normalizer(
            torch.zeros(2, 3, dtype=torch.int64, device=device), torch.zeros(2, 3, dtype=torch.bool, device=device)
        )
