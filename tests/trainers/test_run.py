import os
import signal

import numpy as np
import pytest

from metafast.trainers import UsageError, _run


def test_episode_returns_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    episodes, running, expected = _run.EpisodeReturns(3, window=10), np.zeros(3), []
    for _ in range(5):
        rewards, ended = rng.standard_normal((7, 3)), rng.random((7, 3)) < 0.3
        episodes.add(rewards, ended)
        for step in range(7):
            running += rewards[step]
            for env in np.flatnonzero(ended[step]):
                expected.append(running[env])
                running[env] = 0.0
    np.testing.assert_allclose(list(episodes.latest), expected[-10:])
    np.testing.assert_allclose(episodes.running, running, atol=1e-12)
    assert episodes.episodes == len(expected)
    assert episodes.mean == pytest.approx(np.mean(expected[-10:]))
    assert np.isnan(_run.EpisodeReturns(3, window=10).mean)


def test_training_state_returns_as_it_was_written(tmp_path):
    arrays = {
        "floats": np.linspace(0, 1, 5, dtype=np.float32)[::2],
        "keys": np.array([[2**63 + 1]], dtype=np.uint64),
        "flags": np.array([True, False]),
        "scalar": np.array(3),
    }
    directory = _run.RunDirectory(tmp_path)
    directory.write_state(arrays, {"env_steps": 3, "curve": [{"env_steps": 1}], "evaluation_return": None})
    loaded, counters = directory.read_state()
    assert counters == {"env_steps": 3, "curve": [{"env_steps": 1}], "evaluation_return": None}
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype
        assert loaded[name].shape == array.shape


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request_and_the_second_acts_as_usual(number):
    calls = []
    before = signal.signal(number, lambda *_: calls.append("usual"))
    try:
        with _run.interruptible() as interruption:
            assert not interruption.requested
            os.kill(os.getpid(), number)
            assert interruption.requested
            assert not calls
            os.kill(os.getpid(), number)
            assert calls == ["usual"]
    finally:
        signal.signal(number, before)


def test_unreadable_run_directories_are_explained(tmp_path):
    with pytest.raises(UsageError, match=r"no config\.json"):
        _run.read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        _run.read_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UsageError, match="JSON object"):
        _run.read_config(tmp_path)
    with pytest.raises(UsageError, match="no training state"):
        _run.RunDirectory(tmp_path).read_state()
    with pytest.raises(UsageError, match="cannot be made"):
        _run.RunDirectory.create(str(tmp_path / "config.json" / "run"), "name", rank=0)


def test_the_progress_bar_shows_return_and_speed_on_a_terminal_alone(capsys, monkeypatch):
    for terminal in (True, False):
        monkeypatch.setattr("sys.stdout.isatty", lambda terminal=terminal: terminal)
        with _run.ProgressDisplay(1000, shown=True) as display:
            display.update(500, "return 123.4 of 475", 6789.0)
            display.reach_target(500)
        printed = capsys.readouterr().out
        assert all(text in printed for text in ("123.4 of 475", "6,789 steps/s", "100%")) == terminal
        assert bool(printed) == terminal
