"""Two threads against one, alone on the machine and beside a process that keeps one core busy.

    pytest benchmarks/envs/test_threads.py --benchmark-enable

Rounds of one and of two threads alternate, so that both see the same machine. The time is that of two threads;
`extra_info` has how many times as fast they are as one, in the median over the rounds, under "two threads over one".
"""

import multiprocessing
import os
import time

import numpy as np
import pytest

import metafast

ROUND_SECONDS = 0.01
NUM_ROUNDS = 40


def spin(core):
    os.sched_setaffinity(0, {core})
    while True:
        pass


@pytest.fixture
def busy_core():
    process = multiprocessing.get_context("spawn").Process(target=spin, args=(max(os.sched_getaffinity(0)),))
    process.start()
    time.sleep(0.5)
    yield
    process.kill()
    process.join()


def make_round(env_id, num_envs, num_threads):
    env = metafast.envs.make_vec(env_id, num_envs, num_threads=num_threads)
    env.reset(seed=0)
    env.action_space.seed(0)
    batches = [env.action_space.sample() for _ in range(16)]

    def seconds_of(num_steps):
        start = time.perf_counter()
        for step in range(num_steps):
            env.step(batches[step % 16])
        return time.perf_counter() - start

    seconds_of(10)
    num_steps = max(1, round(ROUND_SECONDS / seconds_of(10) * 10))
    return lambda: seconds_of(num_steps) / num_steps


@pytest.mark.parametrize("neighbour", ["alone", "busy core"])
@pytest.mark.parametrize("num_envs", [64, 1024, 4096, 16384])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1"])
def test_step(benchmark, request, env_id, num_envs, neighbour):
    if neighbour == "busy core":
        request.getfixturevalue("busy_core")
    one, two = (make_round(env_id, num_envs, num_threads) for num_threads in (1, 2))
    ratios = []
    for _ in range(NUM_ROUNDS):
        seconds = one()
        ratios.append(seconds / two())
    benchmark.group = f"{env_id}, {num_envs} environments, {neighbour}"
    benchmark.extra_info["two threads over one"] = round(float(np.median(ratios)), 2)
    benchmark.pedantic(two, rounds=5, iterations=1)
