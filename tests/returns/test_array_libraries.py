"""Arrays that are neither NumPy's nor torch's."""

import numpy as np
import pytest

import metafast


class Foreign:
    """The least that an array library must have: DLPack out, and a namespace with from_dlpack to come back to."""

    def __init__(self, data):
        self.data = np.asarray(data)

    shape = property(lambda self: self.data.shape)
    ndim = property(lambda self: self.data.ndim)
    dtype = property(lambda self: self.data.dtype)

    def __dlpack__(self, **options):
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.data.__dlpack_device__()

    def __array_namespace__(self):
        return Namespace

    def astype(self, dtype):
        return Foreign(self.data.astype(dtype))


class Namespace:
    @staticmethod
    def from_dlpack(array):
        return Foreign(np.from_dlpack(array))


@pytest.fixture(params=["dlpack", "jax"])
def convert(request):
    if request.param == "dlpack":
        return Foreign
    return pytest.importorskip("jax.numpy").asarray


def numbers(dtype=np.float32):
    rng = np.random.default_rng(0)
    floats = [rng.standard_normal(shape).astype(dtype) for shape in ((6, 4), (6, 4), (4,))]
    return (*floats, rng.random((6, 4)) < 0.2)


def to_numpy(array):
    return array.data if isinstance(array, Foreign) else np.asarray(array)


def test_results_are_of_the_callers_library(convert):
    arrays = [convert(array) for array in numbers()]
    results = metafast.gae(*arrays)
    for result, expected in zip(results, metafast.gae(*numbers()), strict=True):
        assert type(result) is type(arrays[0])
        np.testing.assert_array_equal(to_numpy(result), expected)


def test_half_precision(convert):
    rewards, _, _, terminated = numbers(np.float16)
    result = metafast.discounted_returns(convert(rewards), convert(terminated))
    expected = metafast.discounted_returns(rewards.astype(np.float32), terminated)
    assert to_numpy(result).dtype == np.float16
    np.testing.assert_array_equal(to_numpy(result), expected.astype(np.float16))


class Bare:
    """DLPack and nothing else."""

    def __init__(self, data):
        self.data = data

    def __dlpack__(self, **options):
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.data.__dlpack_device__()


def test_a_library_to_which_nothing_can_be_given_back():
    with pytest.raises(TypeError, match=r"rewards .*__array_namespace__"):
        metafast.gae(*(Bare(array) for array in numbers()))


def test_numpy_half_precision():
    result = metafast.discounted_returns(*(array for array in (numbers(np.float16)[0], numbers()[3])))
    assert result.dtype == np.float16


@pytest.mark.parametrize("name", ["values", "next_values", "terminated"])
def test_libraries_are_not_mixed(convert, name):
    arguments = dict(zip(("rewards", "values", "next_values", "terminated"), numbers(), strict=True))
    mixed = {key: convert(array) if key != name else array for key, array in arguments.items()}
    with pytest.raises(TypeError, match=f"{name} is a numpy array"):
        metafast.gae(**mixed)
    mixed = {key: convert(array) if key == name else array for key, array in arguments.items()}
    with pytest.raises(TypeError, match=name):
        metafast.gae(**mixed)


def test_subclasses_of_numpys_arrays():
    class Tagged(np.ndarray):
        pass

    rewards, terminated = numbers()[0], numbers()[3]
    result = metafast.discounted_returns(rewards.view(Tagged), terminated)
    np.testing.assert_array_equal(result, metafast.discounted_returns(rewards, terminated))
