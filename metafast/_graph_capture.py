"""Work on a CUDA device that is queued again and again: recorded into a CUDA graph and replayed.

The rules are torch's (``torch.cuda.CUDAGraph``, "CUDA graphs" in its notes on CUDA semantics): before it is recorded
the work has run once on a stream of its own; a recording holds the addresses of what it reads and writes, so that every
tensor which the caller fills or reads must stay where it is; nothing is read back within; what is allocated within lies
in the recording's own pool and is written anew by each replay. Random numbers are drawn before; what a user's modules
draw (dropout) comes from the device's default generator, which torch registers with each graph.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from metafast import _device

__all__ = ["Recorded", "Recordings", "check_not_capturing"]

Made = TypeVar("Made")

# Torch records one graph at a time in a process.
_RECORDING = threading.Lock()


# A thread's streams to run on before and while it records, by device: what cuBLAS allocates for a stream stays.
_streams = threading.local()


class Recorded:
    """A function of tensors that stay in place, without arguments or result: the same one at every call.

    The first call runs it on a side stream, which is both work and the warm-up that recording needs; the second records
    and replays it; later ones replay it. Where there is no CUDA device every call runs it. It is not kept, because who
    owns the recording owns the function: a cycle of the two would hold the card's memory until Python looks for cycles.
    """

    def __init__(self, device: Any) -> None:
        self._device = device
        self._warm = False
        self._graph: Any = None

    def __call__(self, function: Callable[[], None]) -> None:
        if self._device.type != "cuda":
            function()
            return
        torch = sys.modules["torch"]
        cuda = torch.cuda
        # Autocast's copies of the weights, made at one call, would be read by the replays of all later ones.
        with cuda.device(self._device), torch.autocast("cuda", enabled=False):
            if not self._warm:
                self._warm_up(cuda, function)
                return
            if self._graph is None:
                self._record(cuda, function)
            self._graph.replay()

    def _warm_up(self, cuda: Any, function: Callable[[], None]) -> None:
        side, caller = self._side_stream(cuda), cuda.current_stream()
        side.wait_stream(caller)
        with cuda.stream(side):
            function()
        caller.wait_stream(side)
        self._warm = True

    def _record(self, cuda: Any, function: Callable[[], None]) -> None:
        graph = cuda.CUDAGraph()
        # Torch's own stream for this is of the device that was recorded on first. Other threads go on with what would
        # spoil a recording of theirs only.
        with _RECORDING, cuda.graph(graph, stream=self._side_stream(cuda), capture_error_mode="thread_local"):
            function()
        self._graph = graph

    def _side_stream(self, cuda: Any) -> Any:
        streams: dict[Any, Any] = _streams.__dict__
        key = str(self._device)
        if key not in streams:
            streams[key] = cuda.Stream()
        return streams[key]


class Recordings(Generic[Made]):
    """The latest few of what was made for a recording (its fixed tensors among it), by what it depends on."""

    def __init__(self, most: int = 2) -> None:
        self._most = most
        self._made: OrderedDict[Hashable, Made] = OrderedDict()

    def find(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What was made for `key`, or what `make` gives now; the one that was not asked for longest goes."""
        if key not in self._made:
            # Room first: what goes and what comes can be gigabytes.
            while len(self._made) >= self._most:
                self._made.popitem(last=False)
            self._made[key] = make()
        self._made.move_to_end(key)
        return self._made[key]


def check_not_capturing(name: str) -> None:
    """Raise where the caller records a graph of their own around `name`."""
    if _device.is_capturing():
        raise RuntimeError(
            f"{name} records CUDA graphs of its own and decides on the host: call it outside of torch.cuda.graph"
        )
