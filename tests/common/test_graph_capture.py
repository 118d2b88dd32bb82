"""When work is run, recorded and replayed, with graphs that only take notes; and what is kept of recordings."""

import threading
from contextlib import contextmanager

import pytest

from metafast import _device, _graph_capture
from metafast._graph_capture import Recorded, Recordings

torch = pytest.importorskip("torch")


class Notes(list):
    """Torch's CUDA streams and graphs, which note what is asked of them in the order in which it is."""

    def install(self, monkeypatch):
        for name in ("device", "stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, self.context(name))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream(self, "caller"))
        monkeypatch.setattr(torch.cuda, "Stream", lambda: Stream(self, "side"))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(self))
        return self

    def context(self, name):
        @contextmanager
        def enter(what, **options):
            self.append((f"begin {name}", str(what), *map(str, options.values())))
            yield
            self.append(f"end {name}")

        return enter


class Stream:
    def __init__(self, notes, name):
        self.notes, self.name = notes, name

    def __repr__(self):
        return self.name

    def wait_stream(self, other):
        self.notes.append(f"{self} waits for {other}")


class Graph:
    def __init__(self, notes):
        self.notes = notes

    def __repr__(self):
        return "graph"

    def replay(self):
        self.notes.append("replay")


@pytest.fixture
def notes(monkeypatch):
    monkeypatch.setattr(_graph_capture, "_streams", threading.local())
    return Notes().install(monkeypatch)


def test_run_then_recorded_then_replayed(notes):
    recorded = Recorded(torch.device("cuda", 1))

    def call():
        recorded(lambda: notes.append("work"))

    device, over = ("begin device", "cuda:1"), "end device"
    call()
    # The warm-up, which is work, on a stream of its own that waits for the caller's and is waited for.
    side = ["side waits for caller", ("begin stream", "side"), "work", "end stream", "caller waits for side"]
    assert notes == [device, *side, over]
    notes.clear()
    call()
    # A recording does nothing: the replay is the work.
    assert notes == [device, ("begin graph", "graph", "side", "thread_local"), "work", "end graph", "replay", over]
    notes.clear()
    call()
    assert notes == [device, "replay", over]


def test_autocast_is_off_within(notes):
    before = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", True)
    try:
        recorded, found = Recorded(torch.device("cuda", 0)), []
        for _ in range(2):
            recorded(lambda: found.append(torch.is_autocast_enabled("cuda")))
        assert found == [False, False]
        assert torch.is_autocast_enabled("cuda")
    finally:
        torch.set_autocast_enabled("cuda", before)


def test_run_each_time_where_there_is_no_card(notes):
    recorded = Recorded(torch.device("cpu"))
    for _ in range(3):
        recorded(lambda: notes.append("work"))
    assert notes == ["work"] * 3


def test_an_error_in_recording_is_not_a_recording(notes):
    def work():
        notes.append("work")
        if notes.count("work") == 2:
            raise RuntimeError("out of memory")

    recorded = Recorded(torch.device("cuda", 0))
    recorded(work)
    with pytest.raises(RuntimeError, match="out of memory"):
        recorded(work)
    assert "replay" not in notes
    recorded(work)
    assert notes.count("work") == 3
    assert notes.count("replay") == 1


def test_the_latest_few_are_kept():
    made = []
    recordings = Recordings(2)

    def find(key):
        return recordings.find(key, lambda: made.append(key) or key)

    assert [find(key) for key in "abab"] == list("abab")
    assert made == ["a", "b"]
    find("c")  # in place of "a", which was not asked for longest
    find("b")
    assert made == ["a", "b", "c"]
    find("a")
    assert made == ["a", "b", "c", "a"]


def test_room_is_made_before_the_next_is_made():
    recordings = Recordings(1)
    recordings.find("a", object)
    assert recordings.find("b", lambda: dict(recordings._made)) == {}
    with pytest.raises(MemoryError):
        recordings.find("c", raise_memory_error)
    assert not recordings._made


def raise_memory_error():
    raise MemoryError


def test_within_a_recording_of_the_callers(monkeypatch):
    _graph_capture.check_not_capturing("rollout")
    monkeypatch.setattr(_device, "is_capturing", lambda: True)
    with pytest.raises(RuntimeError, match=r"rollout records CUDA graphs of its own.*outside of torch\.cuda\.graph"):
        _graph_capture.check_not_capturing("rollout")
