"""What the slice scheduler costs, and what it must never cost.

    pytest benchmarks/common/test_scheduler_cost.py --benchmark-enable --benchmark-group-by=group

Work is sixteen slices of 20 us that keep a core busy. Compare one and two threads within a group and a run only.
"""

import os
import subprocess
import sys
import time

import pytest
import torch

from metafast import _core

NUM_SLICES, SLICE_NANOSECONDS = 16, 20_000

threads = pytest.mark.parametrize("num_threads", [1, 2])


def work():
    _core.run_busy_slices(NUM_SLICES, SLICE_NANOSECONDS)


@pytest.fixture
def use_threads(num_threads):
    before = _core.get_num_threads()
    _core.set_num_threads(num_threads)
    work()
    yield
    _core.set_num_threads(before)


@pytest.fixture
def busy_neighbour():
    """Another process that never leaves the first of this process's cores."""
    code = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(flush=True)\nwhile True: pass"
    )
    neighbour = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    neighbour.stdout.readline()
    yield
    neighbour.kill()
    neighbour.communicate()


@threads
@pytest.mark.usefixtures("use_threads")
def test_empty_call_while_workers_watch(benchmark, num_threads):
    """One round is a thousand calls."""
    benchmark.group = "1000 empty calls, back to back"
    benchmark.pedantic(_core.run_empty_slices, args=(1000, 8), rounds=50, warmup_rounds=2)


@threads
@pytest.mark.usefixtures("use_threads")
def test_empty_call_while_workers_sleep(benchmark, num_threads):
    benchmark.group = "one empty call, workers asleep"
    benchmark.pedantic(_core.run_empty_slices, args=(1, 8), setup=lambda: time.sleep(0.001), rounds=300)


@threads
@pytest.mark.usefixtures("use_threads")
def test_work_back_to_back(benchmark, num_threads):
    benchmark.group = "320 us of work, back to back"
    benchmark.pedantic(work, rounds=1000, warmup_rounds=5)


@threads
@pytest.mark.usefixtures("use_threads")
def test_work_after_a_pause(benchmark, num_threads):
    benchmark.group = "320 us of work, workers asleep"
    benchmark.pedantic(work, setup=lambda: time.sleep(0.001), rounds=500, warmup_rounds=5)


@threads
@pytest.mark.usefixtures("use_threads")
def test_work_after_a_torch_operation(benchmark, num_threads):
    """Torch's OpenMP worker still spins on the other core: we may gain nothing then, but must not wait for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    x = torch.randn(1_000_000)
    benchmark.group = "320 us of work, after a two-thread torch operation"

    def run_torch():
        x.tanh()  # nothing returned: pytest-benchmark takes what a setup returns for arguments

    benchmark.pedantic(work, setup=run_torch, rounds=500)
    torch.set_num_threads(before)


@threads
@pytest.mark.usefixtures("use_threads", "busy_neighbour")
def test_work_beside_a_busy_neighbour(benchmark, num_threads):
    """By the mean: two threads at least 0.9 times as fast as one. One round is 300 pieces of work, about 0.1 s."""
    benchmark.group = "300 times 320 us of work, another process on one core"
    benchmark.pedantic(lambda: [work() for _ in range(300)], rounds=10, warmup_rounds=1)


@threads
@pytest.mark.usefixtures("use_threads")
def test_first_work_after_fork(benchmark, num_threads):
    """A child's first call makes its pool anew; the time is fork, one piece of work and exit."""

    def fork_and_work():
        child = os.fork()
        if child == 0:
            work()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    benchmark.group = "fork, 320 us of work, exit"
    benchmark.pedantic(fork_and_work, rounds=50, warmup_rounds=1)
