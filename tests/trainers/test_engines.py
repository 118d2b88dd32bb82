"""The native engine against the torch engine: the same trainer, options and seed."""

import dataclasses

import numpy as np
import pytest
import safetensors.numpy
import torch

from metafast.data.labelled import LabelledDataVectorEnv
from metafast.trainers import UsageError, _environments
from metafast.trainers import policy_gradient as pg
from metafast.trainers._experience import choose_engine


def parameters_after(tmp_path, engine, updates=10, **options):
    """The parameters after so many updates, as one vector, and the run's result."""
    run_dir = tmp_path / engine
    config = pg.configure(run_dir=str(run_dir), engine=engine, seed=3, target_return=None, **options)
    config.total_steps = updates * config.num_envs * config.num_steps
    result = pg.train(config)
    assert result["engine"] == engine
    weights = safetensors.numpy.load_file(run_dir / "policy.safetensors")
    return np.concatenate([weights[name].ravel() for name in sorted(weights)]).astype(np.float64), result


CASES = {
    "ppo": {},
    # Few steps: a swinging pendulum multiplies what rounding changes.
    "ppo on Pendulum": {"env_id": "Pendulum-v1", "preset": "torch", "entropy_coef": 0.01, "num_steps": 16},
    "ppo with everything": {
        "env_id": "Acrobot-v1", "num_envs": 8, "num_steps": 64, "value_clip": 0.2, "target_kl": 0.02,
        "normalize_observations": True, "normalize_rewards": True,
    },
    "ppo that stops early": {"target_kl": 1e-3, "num_envs": 8, "num_steps": 32},
    "ppo with a GRU": {"gru_size": 8, "hidden_sizes": (16,), "num_envs": 8, "num_steps": 16},
    "a2c": {"algorithm": "a2c", "preset": "keras", "learning_rate": 1e-3},
    "a2c by sgd": {"algorithm": "a2c", "optimizer": "sgd", "policy": "bernoulli"},
    "reinforce": {"algorithm": "reinforce"},
    "reinforce with a baseline and a GRU": {"algorithm": "reinforce-baseline", "gru_size": 8, "num_envs": 4},
}  # fmt: skip


# In float32 ten steps of the optimiser, in float64 ten rollouts of four: what rounding changes grows with each step, in
# the end to another action, after which the two are two runs.
@pytest.mark.parametrize(
    ("dtype", "tolerance", "passes"),
    [("float32", 1e-4, {"epochs": 1, "minibatches": 1}), ("float64", 1e-9, {"epochs": 2, "minibatches": 2})],
    ids=["float32", "float64"],
)
@pytest.mark.parametrize("case", CASES)
def test_both_engines_learn_the_same(tmp_path, case, dtype, tolerance, passes):
    algorithm = CASES[case].get("algorithm", "ppo")
    options = {"dtype": dtype, **CASES[case], **(passes if algorithm == "ppo" else {})}
    native, native_result = parameters_after(tmp_path, "native", **options)
    in_torch, torch_result = parameters_after(tmp_path, "torch", **options)
    for name in ("env_steps", "episodes", "mean_return"):
        np.testing.assert_allclose(native_result[name], torch_result[name], rtol=1e-5, err_msg=name)
    assert np.linalg.norm(native - in_torch) <= tolerance * np.linalg.norm(in_torch)


@pytest.mark.parametrize("memory", [{}, {"gru_size": 8}], ids=["mlp", "gru"])
def test_a_run_begun_by_one_engine_is_continued_by_the_other(tmp_path, memory):
    options = {"num_envs": 4, "num_steps": 16, "minibatches": 2, "dtype": "float64", **memory}
    straight, _ = parameters_after(tmp_path / "straight", "native", updates=8, **options)
    for directory, first, second in (("a", "native", "torch"), ("b", "torch", "native")):
        parameters_after(tmp_path / directory, first, updates=4, **options)
        run_dir = str(tmp_path / directory / first)
        result = pg.train(pg.parse(["--resume", run_dir, "--engine", second, "--total-steps", str(8 * 64)]))
        assert result["engine"] == second
        weights = safetensors.numpy.load_file(tmp_path / directory / first / "policy.safetensors")
        continued = np.concatenate([weights[name].ravel() for name in sorted(weights)])
        assert np.linalg.norm(continued - straight) <= 1e-9 * np.linalg.norm(straight)


def make(env_id="CartPole-v1", backend="native", **options):
    config = pg.configure(env_id, **options)
    env = _environments.make(config.env_id, 2, backend)
    return config, env, pg.make_learner(config, env, 0)


def test_auto_takes_the_kernels_where_it_can_and_says_why_not():
    config, env, learner = make()
    assert choose_engine(config, env, learner)[0] == "native"
    assert choose_engine(dataclasses.replace(config, engine="torch"), env, learner)[0] == "torch"
    for algorithm in ("vtrace", "td-lambda"):
        other = pg.configure(algorithm=algorithm)
        assert choose_engine(other, env, learner) == ("torch", f"{algorithm} has no native update")
    for several in ({"epochs": 2}, {"minibatches": 2}):
        assert "once and whole" in choose_engine(pg.configure(algorithm="a2c", **several), env, learner)[1]
    learner.policy.policy = torch.nn.Sequential(learner.policy.policy, torch.nn.Softplus())
    engine, reason = choose_engine(config, env, learner)
    assert (engine, "Softplus as in policy.1" in reason) == ("torch", True)
    _, gymnasium_env, learner = make(backend="gymnasium")
    assert choose_engine(config, gymnasium_env, learner) == ("torch", "the environment is not native")
    labelled = LabelledDataVectorEnv(np.zeros((4, 3)), np.array([0, 1, 0, 1]), 2)
    assert choose_engine(config, labelled, learner)[0] == "torch"


def test_the_native_engine_is_refused_where_it_cannot_be(tmp_path, capsys):
    with pytest.raises(UsageError, match="native engine cannot be used: the environment is not native"):
        pg.train(pg.configure(engine="native", backend="gymnasium", run_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()
    pg.train(pg.configure(algorithm="vtrace", total_steps=256, run_dir=str(tmp_path / "run")))
    assert "engine: torch (vtrace has no native update)" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{"gru_size": -1}, {"gru_size": 8, "algorithm": "vtrace"},
                                     {"gru_size": 8, "preset": "keras"}])  # fmt: skip
def test_a_gru_that_cannot_be(options):
    with pytest.raises(UsageError, match="gru_size must be 0"):
        pg.configure(**options)
