"""The estimators on CUDA tensors, or with the kernels' source run on the CPU, against the papers' explicit sums."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from returns.estimators import ESTIMATORS, Case, options
from returns.problems import problems

import metafast

few = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def on(device, value):
    """An array as a tensor with its strides; torch has no negative ones."""
    if not isinstance(value, np.ndarray):
        return value
    if any(stride < 0 for stride in value.strides):
        value = value.copy("C")
    kept = np.asarray(value[tuple(slice(1) if stride == 0 else slice(None) for stride in value.strides)])
    return torch.from_numpy(kept.copy() if not kept.flags.writeable else kept).to(device).expand(value.shape)


def on_host(results):
    return tuple(result.cpu().numpy() for result in results)


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=str)
@few
@given(data=st.data())
def test_against_the_explicit_sum(device, estimator, data):
    problem = data.draw(problems(on_grid=estimator.name == "upgo"), label="problem")
    case = Case(estimator, problem, **data.draw(options(estimator), label="options"))
    arguments = {name: on(device, value) for name, value in case.arguments().items()}
    results = estimator(**arguments)
    assert all(result.device == device for result in results)
    case.assert_agrees(on_host(results))
