"""Policy-gradient training on a CUDA device: environments, rollouts and updates there."""

import json

import numpy as np
import pytest
import safetensors.numpy
import torch

from metafast import cli
from metafast.trainers import UsageError, _run
from metafast.trainers import policy_gradient as pg
from metafast.trainers._experience import environment_device

# In float64 a run on the card is that on the CPU, to rounding: minibatches, whose order differs, are left out.
SMALL = {"num_envs": 4, "num_steps": 8, "dtype": "float64", "hidden_sizes": (8,), "target_return": None, "seed": 3}
CASES = {
    "ppo": {},
    "ppo with everything": {
        "env_id": "Pendulum-v1", "value_clip": 0.2, "normalize_observations": True, "normalize_rewards": True,
        "entropy_coef": 0.01,
    },
    "ppo with a GRU": {"gru_size": 5},
    "a2c": {"algorithm": "a2c", "preset": "keras", "learning_rate": 1e-3},
    "a2c by sgd": {"algorithm": "a2c", "optimizer": "sgd", "policy": "bernoulli"},
    "reinforce": {"algorithm": "reinforce", "num_envs": 2},
}  # fmt: skip


@pytest.fixture
def cuda(device, monkeypatch):
    """Where there is no card, "cuda" is the CPU."""
    found = pg.find_device
    if device.type == "cpu":
        monkeypatch.setattr(pg, "find_device", lambda name: torch.device("cpu") if "cuda" in name else found(name))
    return device


def weights(run_dir):
    arrays = safetensors.numpy.load_file(run_dir / "policy.safetensors")
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)])


def train(tmp_path, name, updates=2, **options):
    config = pg.configure(run_dir=str(tmp_path / name), **{**SMALL, "epochs": 1, "minibatches": 1, **options})
    config.total_steps = updates * config.num_envs * config.num_steps
    result = pg.train(config)
    return weights(tmp_path / name), result


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_that_on_the_cpu(tmp_path, cuda, case):
    mine, result = train(tmp_path, "cuda", device="cuda", **CASES[case])
    assert result["engine"] == "native"
    theirs, expected = train(tmp_path, "cpu", engine="torch", **CASES[case])
    for name in ("env_steps", "episodes", "mean_return"):
        np.testing.assert_allclose(result[name], expected[name], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("memory", [{}, {"gru_size": 5}], ids=["mlp", "gru"])
def test_resumed_and_repeated_exactly(tmp_path, cuda, memory):
    options = {"device": "cuda", "dtype": "float32", "epochs": 2, "minibatches": 2, **memory}
    options |= {"normalize_rewards": True, "normalize_observations": True}
    straight, _ = train(tmp_path, "straight", 4, **options)
    again, _ = train(tmp_path, "again", 4, **options)
    np.testing.assert_array_equal(straight, again)
    train(tmp_path, "parts", 2, **options)
    result = pg.train(pg.parse(["--resume", str(tmp_path / "parts"), "--total-steps", str(4 * 32)]))
    assert result["engine"] == "native"
    np.testing.assert_array_equal(weights(tmp_path / "parts"), straight)


def test_begun_on_the_card_continued_on_the_cpu(tmp_path, cuda):
    train(tmp_path, "run", device="cuda", gru_size=5)
    arguments = ["--resume", str(tmp_path / "run"), "--total-steps", "128", "--device", "cpu", "--engine", "torch"]
    assert pg.train(pg.parse(arguments))["env_steps"] == 128
    arguments = ["--resume", str(tmp_path / "run"), "--total-steps", "192", "--device", "cuda", "--engine", "native"]
    assert pg.train(pg.parse(arguments))["env_steps"] == 192


def test_the_command(tmp_path, cuda, capsys):
    options = ["--num-envs", "4", "--num-steps", "8", "--total-steps", "64", "--hidden-sizes", "8"]
    status = cli.main(["train", "--device", "cuda", "--json", "--run-dir", str(tmp_path / "run"), *options])
    told = capsys.readouterr()
    assert status == 0
    assert "engine: native (environments, rollouts and updates run on cuda)" in told.err
    assert json.loads(told.out.splitlines()[-1])["env_steps"] == 64
    assert cli.main(["evaluate", str(tmp_path / "run"), "--episodes", "2", "--json"]) == 0


def test_solved_is_confirmed_on_the_card(tmp_path, cuda):
    config = pg.configure(
        run_dir=str(tmp_path), device="cuda", num_envs=16, num_steps=128, hidden_sizes=(4,), target_return=1.0,
        target_margin=0.0, evaluation_episodes=4, total_steps=16 * 128 * 2, epochs=1, minibatches=1,
    )  # fmt: skip
    result = pg.train(config)
    assert result["solved"]
    assert result["evaluation_return"] > 1


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({}, "cuda:1"),
        ({"engine": "torch"}, None),
        ({"backend": "gymnasium"}, None),
        ({"env_id": "BreastCancer-v0"}, None),
        ({"algorithm": "vtrace"}, None),
        ({"algorithm": "a2c", "epochs": 2}, None),
        ({"device": "cpu"}, None),
    ],
)
def test_where_environments_live(options, place):
    assert environment_device(pg.configure(**{"device": "cuda:1", **options})) == place


def test_a_population_one_after_another(tmp_path, cuda):
    options = {**SMALL, "num_steps": 4, "total_steps": 16, "device": "cuda", "run_dir": str(tmp_path)}
    result = pg.train(pg.configure(population=2, **options))
    assert [member["engine"] for member in result["members"]] == ["native", "native"]
    assert not np.array_equal(weights(tmp_path / "member-0"), weights(tmp_path / "member-1"))


def test_what_is_refused(tmp_path, cuda):
    def refused(message, **options):
        with pytest.raises(UsageError, match=message):
            train(tmp_path, "refused", device="cuda", **options)

    refused("vtrace has no native update", algorithm="vtrace", engine="native")
    refused("the environment is not native", backend="gymnasium", engine="native")
    refused("threads must be 1 for a population", population=2, threads=2)
    refused("no native environment 'Nothing-v0'.*--engine torch", env_id="Nothing-v0")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card(tmp_path):
    with pytest.raises(UsageError, match="device 'cuda' cannot be used"):
        train(tmp_path, "run", device="cuda")


def test_episodes_are_counted_as_on_the_cpu():
    rng = np.random.default_rng(0)
    mine, theirs = (_run.EpisodeReturns(5, window=7) for _ in range(2))
    for _ in range(6):
        rewards, ended = rng.normal(size=(4, 5)), rng.random((4, 5)) < 0.3
        mine.add(torch.from_numpy(rewards), torch.from_numpy(ended))
        theirs.add(rewards, ended)
        assert mine.episodes == theirs.episodes
        np.testing.assert_allclose(mine.latest, theirs.latest, rtol=1e-12)
        np.testing.assert_allclose(mine.running, theirs.running, rtol=1e-12)
