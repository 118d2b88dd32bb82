"""Times on a CUDA device, between events of the stream."""

import itertools
import statistics

import torch


def median_seconds(call, rounds=30):
    """Return the median time of a call on the device, warmed up; the calls are queued before any of them ends."""
    for _ in range(5):
        call()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
    torch.cuda.synchronize()
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    return statistics.median(before.elapsed_time(after) for before, after in itertools.pairwise(events)) / 1e3
