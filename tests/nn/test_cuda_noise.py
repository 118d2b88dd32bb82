"""The noise of a policy's choices on a CUDA device: the CPU's (uniform ones bit for bit), of no neighbour's."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metafast import _core, _device
from metafast.nn import make_distribution


def on_device(device, key, num_steps, num_envs, size, normal):
    noise = torch.full((num_steps, num_envs, size), torch.nan, device=device)
    stream = _device.stream_of(noise)
    _device.kernels().policy_noise(stream, key, num_steps, num_envs, size, normal, noise.data_ptr())
    return noise.cpu().numpy()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    key=st.integers(0, 2**63 - 1), num_steps=st.integers(0, 3), num_envs=st.integers(0, 150), size=st.integers(1, 3),
    normal=st.booleans(),
)  # fmt: skip
def test_the_cpus_numbers(device, key, num_steps, num_envs, size, normal):
    mine = on_device(device, key, num_steps, num_envs, size, normal)
    theirs = _core.policy_noise(key, num_steps, num_envs, size, normal)
    # A card may fuse what the CPU rounds twice.
    np.testing.assert_allclose(mine, theirs, rtol=2e-6 if normal else 0, atol=1e-6 if normal else 0)


def test_the_default_dtype_is_not_the_noises(device):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        noise = make_distribution(Discrete(3)).noise(7, 2, 70, device)
    finally:
        torch.set_default_dtype(before)
    torch.testing.assert_close(noise, make_distribution(Discrete(3)).noise(7, 2, 70, device))


@pytest.mark.parametrize("space", [Discrete(3), MultiDiscrete([2, 3]), Box(-1, 1, (2,))], ids=str)
def test_distributions(device, space):
    distribution = make_distribution(space)
    noise = distribution.noise(7, 2, 70, device)
    assert noise.device == device
    assert noise.dtype == torch.float32
    torch.testing.assert_close(noise.cpu(), distribution.noise(7, 2, 70), rtol=2e-6, atol=1e-6)
