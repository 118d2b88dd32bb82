"""How the benchmarks of single environments time a vector environment's step."""

import itertools
import time

__all__ = ["NUM_ROUNDS", "measure_steps"]

# The same for all: a neighbour on the machine then slows every contender alike.
ROUND_SECONDS = 0.01
NUM_ROUNDS = 40


def measure_steps(benchmark, step, batches, num_envs, group, *, multiple_of=1):
    """Time `step` with the batches of actions in turn, in rounds of a multiple of `multiple_of` steps."""
    batches = itertools.cycle(batches)

    def seconds_of(num_steps):
        actions = list(itertools.islice(batches, num_steps))
        start = time.perf_counter()
        for batch in actions:
            step(batch)
        return time.perf_counter() - start

    seconds_of(3)
    num_steps = multiple_of * max(1, round(ROUND_SECONDS / seconds_of(3) * 3 / multiple_of))

    def step_round():
        for batch in itertools.islice(batches, num_steps):
            step(batch)

    benchmark.group = f"{group}, {num_envs} environments"
    benchmark.pedantic(step_round, rounds=NUM_ROUNDS, iterations=1, warmup_rounds=1)
    if benchmark.stats is not None:
        seconds = benchmark.stats.stats.median / num_steps
        benchmark.extra_info["M steps/s"] = round(num_envs / seconds / 1e6, 3)
        benchmark.extra_info["us per step"] = round(seconds * 1e6, 2)
