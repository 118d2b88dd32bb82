"""Whole runs: that they learn, repeat, resume and leave behind what they should."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.linear_model import LogisticRegression

from metafast.data import breast_cancer
from metafast.trainers import UsageError, _run
from metafast.trainers import policy_gradient as pg

ALGORITHMS = ["ppo", "a2c", "vtrace", "reinforce", "reinforce-baseline", "td-lambda"]


def run(run_dir, **options):
    return pg.train(pg.configure(run_dir=str(run_dir), **options))


def weights(run_dir):
    return safetensors.torch.load_file(run_dir / "policy.safetensors")


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_ppo_solves_cartpole_and_gymnasium_agrees(tmp_path):
    result = run(tmp_path / "run", seed=1)
    assert result["solved"]
    assert result["mean_return"] >= 475
    assert result["evaluation_return"] >= 490
    assert result["env_steps"] < 500_000
    confirmed = pg.evaluate(result["run_dir"], episodes=100, backend="gymnasium", greedy=False, seed=0)
    assert confirmed["mean_return"] >= 475
    assert confirmed["episodes"] == 100
    native = pg.evaluate(result["run_dir"], episodes=100, backend="native", greedy=True, seed=0)
    assert native["mean_return"] >= 475


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("a2c", {"total_steps": 60_000}),
        ("vtrace", {"total_steps": 20_000}),
        ("reinforce", {"total_steps": 60_000}),
        ("reinforce-baseline", {"total_steps": 60_000}),
        ("td-lambda", {"total_steps": 8_000, "num_envs": 8}),
    ],
)
def test_the_other_algorithms_learn(tmp_path, algorithm, options):
    result = run(tmp_path / "run", algorithm=algorithm, seed=1, **options)
    # The uniform policy's mean return is 22.
    assert result["mean_return"] > 40


@pytest.mark.parametrize("preset", ["keras", "torch"])
def test_presets_learn(tmp_path, preset):
    assert run(tmp_path / "run", preset=preset, total_steps=25_000, seed=1)["mean_return"] > 60


def test_preset_torch_has_the_stated_loss():
    config = pg.parse(["--preset", "torch"])
    assert (config.value_coef, config.entropy_coef) == (0.5, 0.01)
    assert pg.parse(["--preset", "torch", "--entropy-coef", "0"]).entropy_coef == 0


def test_bernoulli_policy_learns_cartpole(tmp_path):
    assert run(tmp_path / "run", policy="bernoulli", total_steps=25_000, seed=1)["mean_return"] > 60


@pytest.mark.parametrize("backend", ["native", "gymnasium"])
def test_gaussian_policy_on_pendulum(tmp_path, backend):
    options = {"env_id": "Pendulum-v1", "backend": backend, "preset": "torch", "num_envs": 2}
    result = run(tmp_path / "run", num_steps=200, total_steps=2_000, **options)
    assert result["episodes"] == 10
    assert -2000 < result["mean_return"] < 0
    evaluation = pg.evaluate(result["run_dir"], episodes=2, backend=None, greedy=True, seed=0)
    assert evaluation["backend"] == backend


@pytest.mark.parametrize(
    ("env_id", "target"), [("Acrobot-v1", -100), ("MountainCarContinuous-v0", 90), ("Pendulum-v1", -200)]
)
def test_the_defaults_solve_the_other_classics(tmp_path, env_id, target):
    result = run(tmp_path / "run", env_id=env_id, seed=1)
    assert result["solved"]
    assert result["mean_return"] >= target


@pytest.mark.parametrize("env_id", ["Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"])
def test_every_native_environment_trains(tmp_path, env_id):
    result = run(tmp_path / "run", env_id=env_id, num_envs=4, num_steps=250, total_steps=4_000)
    assert result["env_steps"] == 4_000
    assert result["episodes"] >= 4
    assert np.isfinite(result["mean_return"])


def test_breast_cancer_accuracy_is_within_a_point_of_logistic_regression(tmp_path):
    (features, labels), (test_features, test_labels) = map(breast_cancer.load, ("train", "test"))
    reference = LogisticRegression().fit(features, labels).score(test_features, test_labels)
    for policy in ("categorical", "bernoulli"):
        run(tmp_path / policy, env_id="BreastCancer-v0", policy=policy)
        result = pg.evaluate(str(tmp_path / policy), len(test_labels), None, greedy=True, seed=0)
        assert result["mean_return"] >= reference - 0.01


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_seed_repeats_a_run_bit_for_bit(tmp_path, algorithm):
    options = {"algorithm": algorithm, "num_envs": 4, "num_steps": 16, "total_steps": 300}
    for name in ("first", "second"):
        run(tmp_path / name, seed=5, **options)
    assert_same_weights(weights(tmp_path / "first"), weights(tmp_path / "second"))
    run(tmp_path / "other", seed=6, **options)
    assert not torch.equal(
        *(torch.cat([tensor.flatten() for tensor in weights(tmp_path / name).values()]) for name in ("first", "other"))
    )


REMEMBERING = {"gru_size": 4, "normalize_observations": True, "normalize_rewards": True}


@pytest.mark.parametrize(
    ("algorithm", "extra"),
    [*((algorithm, {}) for algorithm in ALGORITHMS), ("ppo", REMEMBERING), ("ppo", {**REMEMBERING, "engine": "torch"})],
)
def test_resuming_continues_exactly(tmp_path, algorithm, extra):
    # REINFORCE's iterations vary in length: its halves are told apart by where the first one ended.
    options = {"algorithm": algorithm, "num_envs": 4, "num_steps": 16, "seed": 2, "half_life": 500.0, **extra}
    # So few that the halves overwrite some.
    options |= {"replay": 3} if algorithm == "vtrace" else {}
    first = run(tmp_path / "halves", total_steps=256, **options)
    total = str(first["env_steps"] + 256)
    resumed = pg.train(pg.parse(["--resume", str(tmp_path / "halves"), "--total-steps", total]))
    straight = run(tmp_path / "straight", total_steps=int(total), **options)
    assert_same_weights(weights(tmp_path / "halves"), weights(tmp_path / "straight"))
    for key in ("env_steps", "episodes"):
        assert resumed[key] == straight[key]
    np.testing.assert_equal(resumed["mean_return"], straight["mean_return"])
    states = [_run.RunDirectory(tmp_path / name).read_state()[0] for name in ("halves", "straight")]
    assert states[0].keys() == states[1].keys()
    for name in states[0]:
        np.testing.assert_array_equal(states[0][name], states[1][name], err_msg=name)


def test_resuming_with_what_cannot_change_is_refused(tmp_path):
    run(tmp_path / "run", num_envs=4, num_steps=16, total_steps=64)
    for name, value in (
        ("num-envs", "5"), ("hidden-sizes", "8"), ("algorithm", "a2c"), ("backend", "gymnasium"), ("run-dir", "other"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=f"{name.replace('-', '_')} cannot be changed"):
            pg.train(pg.parse(["--resume", str(tmp_path / "run"), f"--{name}", value]))


def test_resuming_remembers_new_options_and_says_when_there_is_nothing_to_do(tmp_path, capsys):
    run(tmp_path / "run", num_envs=4, num_steps=16, total_steps=64)
    pg.train(pg.parse(["--resume", str(tmp_path / "run"), "--total-steps", "128", "--learning-rate", "0.5"]))
    assert "has ended" not in capsys.readouterr().err
    config = pg.load_config(str(tmp_path / "run"))
    assert (config.total_steps, config.learning_rate, config.resume) == (128, 0.5, None)
    result = pg.train(pg.parse(["--resume", str(tmp_path / "run")]))
    assert "has ended" in capsys.readouterr().err
    assert result["env_steps"] == 128


def test_a_long_learning_curve_fits_the_checkpoint(tmp_path):
    run(tmp_path / "run", num_envs=4, num_steps=16, total_steps=64)
    directory = _run.RunDirectory(tmp_path / "run")
    arrays, numbers = directory.read_state()
    directory.write_state(arrays | {"curve": np.ones((2_000_000, 2))}, numbers)
    assert len(directory.read_state()[0]["curve"]) == 2_000_000
    assert "curve" not in numbers


@pytest.mark.parametrize(
    "option",
    [
        {"threads": 100_000}, {"seed": 2**63}, {"clip": -1.0}, {"learning_rate": float("inf")}, {"run_dir": ""},
        {"checkpoint_seconds": float("nan")}, {"max_grad_norm": -1.0}, {"value_coef": -1.0},
        {"entropy_coef": float("nan")}, {"reward_scale": float("inf")}, {"engine": "cuda"}, {"dtype": "float16"},
        {"value_clip": 0.2, "algorithm": "a2c"}, {"target_kl": 0.1, "algorithm": "a2c"},
        {"normalize_rewards": True, "algorithm": "vtrace"},
        {"normalize_observations": True, "algorithm": "td-lambda"},
    ],
)  # fmt: skip
def test_options_out_of_range(option):
    with pytest.raises(UsageError, match=next(iter(option))):
        pg.configure(**option)


def test_a_run_directory_holds_what_is_promised(tmp_path):
    result = run(tmp_path / "run", num_envs=8, num_steps=32, total_steps=1024, seed=4)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.json", "policy.safetensors", "training_state.safetensors", "learning_curve.png"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not any(name.endswith(".partial") for name in names)
    contents = json.loads((tmp_path / "run" / "config.json").read_text())
    assert contents["trainer"] == "policy-gradient"
    assert contents["seed"] == 4
    assert pg.load_config(result["run_dir"]) == pg.configure(
        run_dir=str(tmp_path / "run"), num_envs=8, num_steps=32, total_steps=1024, seed=4
    )
    assert (tmp_path / "run" / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="already holds a run"):
        run(tmp_path / "run", total_steps=64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env_id": "Nowhere-v0"}, "no native environment 'Nowhere-v0'"),
        ({"env_id": "Nowhere-v0", "backend": "gymnasium"}, "no gymnasium environment 'Nowhere-v0'"),
        ({"env_id": "FrozenLake-v1", "backend": "gymnasium"}, "need a Box"),
        ({"policy": "gaussian"}, "no gaussian policy"),
        ({"device": "nonsense"}, "device 'nonsense'"),
        ({"num_envs": 0}, "num_envs must be at least 1"),
        ({"minibatches": 0}, "minibatches must be at least 1"),
        ({"gamma": 1.5}, "gamma must lie between 0 and 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"half_life": 0.0}, "half_life must be positive"),
        ({"hidden_sizes": (64, 0)}, "hidden_sizes must be at least 1"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_no_directory(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        run(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
