"""How the benchmarks of networks time contenders against each other: in turns, within one run."""

import statistics
import time
from functools import cache

import torch

__all__ = ["can_compile", "record", "take_turns"]

NUM_ROUNDS = 15
# A turn repeats its call until it is about this long.
TURN_SECONDS = 0.02


@cache
def can_compile():
    """Whether torch.compile finds a compiler here."""
    try:
        torch.compile(lambda x: x.exp() + 1)(torch.ones(3))
    except Exception as error:
        print(f"\ntorch.compile is left out: {error}")
        return False
    return True


def take_turns(benchmark, contenders):
    """Call the contenders in turns; return the seconds of a call of each, one number for each round.

    None where benchmarks are disabled: then only what was asserted before counts.
    """
    if not benchmark.enabled:
        return None
    repeats = {}
    for name, call in contenders.items():
        # Twice: the first call warms up.
        for _ in range(2):
            start = time.perf_counter()
            call()
            seconds = time.perf_counter() - start
        repeats[name] = max(1, round(TURN_SECONDS / seconds))
    rounds = {name: [] for name in contenders}
    for _ in range(NUM_ROUNDS):
        for name, call in contenders.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            rounds[name].append((time.perf_counter() - start) / repeats[name])
    return rounds


def record(benchmark, rounds, figure, *, ours="metafast"):
    """Put `figure(seconds)`, of the median round, of every contender into `extra_info`, and how many times ours each
    peer takes, in the median over the rounds. The best peer is the one with the least of those.
    """
    if rounds is None:
        return
    for name, seconds in rounds.items():
        benchmark.extra_info[name] = figure(statistics.median(seconds))
    for name, seconds in rounds.items():
        if name != ours:
            ratio = statistics.median(peer / own for peer, own in zip(seconds, rounds[ours], strict=True))
            benchmark.extra_info[f"over {name}"] = f"{ratio:.2f}x"
