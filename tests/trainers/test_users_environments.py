"""A user's compile_env environment trains natively with no code beyond its definition."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from metafast.trainers import UsageError
from metafast.trainers import policy_gradient as pg

FILE = Path(__file__).with_name("users_track.py")
OPTIONS = {"num_envs": 16, "num_steps": 32, "learning_rate": 3e-3}


@pytest.mark.parametrize("place", [f"{FILE}:Track", "trainers.users_track:Track"])
def test_it_learns(tmp_path, place):
    result = pg.train(pg.configure(place, total_steps=60_000, run_dir=str(tmp_path / "run"), **OPTIONS))
    assert result["engine"] == "native"
    # Random actions run off the track: less than 20.
    assert result["mean_return"] > 35
    assert pg.evaluate(result["run_dir"], 50, None, greedy=False, seed=0)["mean_return"] > 35


def test_it_is_resumed_exactly(tmp_path):
    place = f"{FILE}:Track"
    pg.train(pg.configure(place, total_steps=1024, run_dir=str(tmp_path / "halves"), **OPTIONS))
    pg.train(pg.parse(["--resume", str(tmp_path / "halves"), "--total-steps", "2048"]))
    pg.train(pg.configure(place, total_steps=2048, run_dir=str(tmp_path / "straight"), **OPTIONS))
    ours, theirs = (
        safetensors.numpy.load_file(tmp_path / name / "policy.safetensors") for name in ("halves", "straight")
    )
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (f"{FILE}:Road", "has no compile_env environment 'Road'; it has: Track"),
        ("nowhere.to_be_found:Track", "cannot be imported"),
        ("missing.py:Track", "cannot be imported"),
    ],
)
def test_what_is_not_there(tmp_path, place, message):
    with pytest.raises(UsageError, match=message):
        pg.train(pg.configure(place, run_dir=str(tmp_path / "run")))
