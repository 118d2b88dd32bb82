"""The same bits from any number of threads, from several callers at once, and in a forked child."""

import os
import threading

import numpy as np
import pytest
from returns.estimators import ESTIMATORS, Case
from returns.problems import make_problem

import metafast

every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=str)
pytestmark = [pytest.mark.usefixtures("restore_num_threads"), pytest.mark.timeout(120)]


def case_of(estimator, num_steps, num_columns, time_axis=0, **options):
    problem = make_problem(num_steps, (num_columns,), end_rate=0.002, dtype=np.float32, time_axis=time_axis)
    numbers = {"n": 17} if estimator.name == "n_step_returns" else {}
    return Case(estimator, problem, numbers=numbers, **options)


def assert_same_bits(results, expected):
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result.view(np.uint32), wanted.view(np.uint32))


@every_estimator
@pytest.mark.parametrize("time_axis", [0, 1])
@pytest.mark.parametrize("shape", [(64, 5000), (3000, 70), (100_000, 2), (100_000, 1), (1, 200_000), (15_000, 9)])
def test_same_bits_for_any_number_of_threads(estimator, shape, time_axis):
    arguments = case_of(estimator, *shape, time_axis, with_row=time_axis == 1).arguments()
    metafast.set_num_threads(1)
    expected = estimator(**arguments)
    for num_threads in (2, 3, 8):
        metafast.set_num_threads(num_threads)
        assert_same_bits(estimator(**arguments), expected)


def test_calls_from_several_python_threads_at_once():
    metafast.set_num_threads(3)
    calls = [
        (estimator, case_of(estimator, *shape).arguments())
        for estimator in ESTIMATORS.values()
        for shape in [(40_000, 1), (40, 3000), (900, 90), (6, 5)]
    ]
    expected = [estimator(**arguments) for estimator, arguments in calls]
    failures = []

    def call_often(seed):
        rng = np.random.default_rng(seed)
        try:
            for chosen in rng.integers(0, len(calls), 150):
                estimator, arguments = calls[chosen]
                assert_same_bits(estimator(**arguments), expected[chosen])
        except BaseException as failure:
            failures.append(failure)

    callers = [threading.Thread(target=call_often, args=(seed,)) for seed in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failures


@every_estimator
def test_after_fork(estimator):
    metafast.set_num_threads(3)
    arguments = case_of(estimator, 3000, 90).arguments()
    expected = estimator(**arguments)
    child = os.fork()
    if child == 0:
        failed = 1
        try:
            assert_same_bits(estimator(**arguments), expected)
            failed = 0
        finally:
            os._exit(failed)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert_same_bits(estimator(**arguments), expected)
