"""The slice scheduler: every slice once, from any number of callers, across fork and Ctrl-C."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from metafast import _core

pytestmark = [pytest.mark.usefixtures("restore_num_threads"), pytest.mark.timeout(60)]


def assert_each_ran_once(num_slices, nanoseconds=0, **options):
    counts, threads = _core.run_busy_slices(num_slices, nanoseconds, **options)
    np.testing.assert_array_equal(counts, 1)
    assert counts.shape == (num_slices, options.get("num_inner", 1))
    return threads


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("num_slices", [0, 1, 2, 3, 5, 64, 1000])
def test_every_slice_runs_exactly_once(num_threads, num_slices):
    _core.set_num_threads(num_threads)
    for _ in range(200):
        assert_each_ran_once(num_slices)
    _core.run_empty_slices(1000, num_slices)


@pytest.mark.parametrize("num_threads", [2, 3, 5])
def test_several_threads_take_part_and_no_more_than_allowed(num_threads):
    _core.set_num_threads(num_threads)
    seen = set()
    for _ in range(10):
        runners = set(assert_each_ran_once(40, 500_000)[:, 0])
        assert len(runners) <= num_threads
        seen |= runners
        if len(runners) > 1:
            break
    assert threading.get_ident() in seen
    assert len(seen) > 1


def test_max_threads_of_one_stays_in_the_caller():
    _core.set_num_threads(4)
    threads = assert_each_ran_once(20, 100_000, max_threads=1)
    assert set(threads.flat) == {threading.get_ident()}


def test_a_call_from_inside_a_slice_stays_in_its_thread():
    _core.set_num_threads(3)
    for num_slices in (2, 3, 4, 9) * 20:
        # Long enough for the caller to leave its last slice while a helper is still in another.
        threads = assert_each_ran_once(num_slices, 100_000, num_inner=7)
        assert np.all(threads == threads[:, :1])


@pytest.mark.parametrize("num_inner", [1, 3])
def test_calls_from_several_python_threads_at_once(num_inner):
    _core.set_num_threads(3)
    failures = []

    def call_often(seed):
        rng = np.random.default_rng(seed)
        try:
            for _ in range(400):
                # Some calls with slices so long that a caller goes to sleep over them, most with short ones.
                nanoseconds = int(rng.choice([0, 1000, 150_000], p=[0.4, 0.4, 0.2]))
                assert_each_ran_once(int(rng.integers(0, 10)), nanoseconds, num_inner=num_inner)
        except AssertionError as failure:
            failures.append(failure)

    callers = [threading.Thread(target=call_often, args=(seed,)) for seed in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=30)
    assert not any(caller.is_alive() for caller in callers)
    assert not failures


def test_the_number_of_threads_may_change_between_calls():
    for num_threads in (2, 7, 1, 3, 2, 16, 2):
        _core.set_num_threads(num_threads)
        for _ in range(20):
            assert_each_ran_once(33, 1000)


def child_survives(work):
    """Runs `work` in a forked child; False where it failed or did not end within ten seconds."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def use_the_pool():
    for _ in range(20):
        assert_each_ran_once(16, 2000)


def test_fork_after_the_pool_was_used():
    _core.set_num_threads(3)
    for _ in range(50):
        use_the_pool()
        assert child_survives(use_the_pool)
    use_the_pool()


def test_fork_while_the_pool_is_in_use():
    _core.set_num_threads(3)
    stop = threading.Event()

    def keep_busy():
        while not stop.is_set():
            use_the_pool()

    busy = [threading.Thread(target=keep_busy) for _ in range(2)]
    for thread in busy:
        thread.start()
    try:
        survived = [child_survives(use_the_pool) for _ in range(50)]
    finally:
        stop.set()
        for thread in busy:
            thread.join(timeout=10)
    assert all(survived)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(method):
    _core.set_num_threads(2)
    use_the_pool()
    context = multiprocessing.get_context(method)
    # A function of the installed package, because the child of spawn cannot import this file by its name.
    with context.Pool(2) as pool:
        results = pool.starmap_async(_core.run_busy_slices, [(50, 10_000)] * 8).get(timeout=30)
    for counts, _ in results:
        np.testing.assert_array_equal(counts, 1)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_an_interrupt_ends_a_long_call(num_threads):
    # A shell makes what it starts in the background ignore the signal.
    code = f"""
import signal, time
from metafast import _core
signal.signal(signal.SIGINT, signal.default_int_handler)
_core.set_num_threads({num_threads})
_core.run_busy_slices(10, 1000)
print("ready", flush=True)
try:
    _core.run_busy_slices(100_000, 1_000_000)
except KeyboardInterrupt:
    print("interrupted", time.monotonic(), flush=True)
counts, _ = _core.run_busy_slices(10, 1000)
assert (counts == 1).all()
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.3)
        sent = time.monotonic()
        child.send_signal(signal.SIGINT)
        output, errors = child.communicate(timeout=20)
    finally:
        child.kill()
    assert child.returncode == 0, errors
    word, moment = output.split()
    assert word == "interrupted"
    # 50 ms by design; the rest is allowance for a busy machine.
    assert float(moment) - sent < 1.0


def test_a_signal_handler_that_returns_lets_the_call_go_on():
    handled = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: handled.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        assert_each_ran_once(300, 1_000_000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert handled == [signal.SIGALRM]
