"""The command as a user runs it, each time in a process of its own where that matters."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import metafast
from metafast import cli

SMALL = ["--num-envs", "4", "--num-steps", "16", "--total-steps", "256"]


def start(*arguments, code=None, **options):
    command = [sys.executable, "-m", "metafast", *arguments] if code is None else [sys.executable, "-c", code]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


def run(*arguments, **options):
    process = start(*arguments, **options)
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout, stderr


def test_train_then_evaluate_with_json(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *SMALL, "--seed", "3", "--json"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    result = json.loads(lines[-1])
    assert result["env_steps"] == 256
    assert result["seconds"] > 0
    assert result["seed"] == 3
    assert {"mean_return", "run_dir", "solved", "evaluation_return", "learning_curve"} <= result.keys()
    assert result["run_dir"].startswith("runs/CartPole-v1-ppo-3-")
    assert (tmp_path / result["learning_curve"]).exists()
    for extra in ([], ["--backend", "gymnasium"], ["--greedy", "--seed", "5"]):
        assert cli.main(["evaluate", result["run_dir"], "--episodes", "3", "--json", *extra]) == 0
        evaluation = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        assert evaluation["episodes"] == 3
        assert evaluation["mean_return"] >= 8
        assert evaluation["backend"] == ("gymnasium" if "gymnasium" in extra else "native")
    assert cli.main(["evaluate", result["run_dir"], "--episodes", "2"]) == 0
    assert "mean return" in capsys.readouterr().out


def test_a_mean_over_no_episodes_is_null(tmp_path, capsys):
    options = ["--num-envs", "1", "--num-steps", "1", "--minibatches", "1", "--total-steps", "1"]
    assert cli.main(["train", "policy-gradient", *options, "--run-dir", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mean_return"] is None


def test_train_says_where_things_are_and_draws_no_bar_off_a_terminal(tmp_path):
    status, stdout, stderr = run("train", *SMALL, "--run-dir", str(tmp_path / "run"))
    assert (status, stderr) == (0, "engine: native (rollouts and updates run in kernels)\n")
    assert stdout.splitlines()[0].startswith("mean return ")
    assert f"learning curve: {tmp_path / 'run' / 'learning_curve.png'}" in stdout
    assert f"metafast evaluate {tmp_path / 'run'}" in stdout
    assert len(stdout.splitlines()) == 3


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path):
    run_dir = tmp_path / "run"
    process = start("train", "--target-return", "None", "--total-steps", "100000000", "--run-dir", str(run_dir))
    deadline = time.monotonic() + 60
    while not list(run_dir.glob("events.out.tfevents*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert f"metafast train policy-gradient --resume {run_dir}" in stdout
    assert {"policy.safetensors", "training_state.safetensors", "learning_curve.png"} <= set(os.listdir(run_dir))
    status, stdout, stderr = run("train", "--resume", str(run_dir), "--total-steps", "1", "--json")
    assert status == 0, stderr
    assert json.loads(stdout.splitlines()[-1])["env_steps"] > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: metafast"),
        (["dance"], "invalid choice"),
        (["train", "dancing"], "unknown trainer 'dancing'"),
        (["train", "--env-id", "Nowhere-v0"], "Nowhere-v0"),
        (["train", "--algorithm", "sarsa"], "sarsa"),
        (["train", "--algorithm"], "algorithm"),
        (["train", "--no-such-option", "1"], "no-such-option"),
        (["train", "--num-envs", "none"], "num-envs"),
        (["train", "--gamma", "2"], "gamma"),
        (["train", "--resume", "nowhere"], "nowhere is not a run directory"),
        (["evaluate", "nowhere"], "nowhere is not a run directory"),
        (["evaluate"], "RUN_DIR"),
        (["evaluate", "--episodes", "3"], "RUN_DIR"),
        (["evaluate", "trained", "--episodes", "0"], "--episodes must be at least 1"),
        (["evaluate", "trained", "--backend", "magic"], "magic"),
        (["evaluate", "strange"], "unknown trainer 'strange'"),
        (["train", "attention", "--task", "people"], "task must be one of animals"),
        (["train", "attention", "--hops", "0"], "hops must be at least 1"),
        (["train", "multitask", "--data", "people"], "data must be one of digits, toy"),
        (["train", "multitask", "--weighting", "magic"], "invalid choice 'magic' for argument"),
        (["train", "multitask", "--labels-kept", "A"], "labels-kept"),
        (["bench", "kitchen"], "kitchen"),
        (["bench", "--device", "meta"], "meta"),
        (["info", "--loud"], "--loud"),
    ],
)
def test_mistakes_are_explained_with_status_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run_dir, trainer in (("trained", "policy-gradient"), ("strange", "strange")):
        (tmp_path / run_dir).mkdir()
        (tmp_path / run_dir / "config.json").write_text(json.dumps({"trainer": trainer}))
    try:
        status = cli.main(arguments)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert not (tmp_path / "runs").exists()


def test_evaluate_shows_the_options_of_the_trainer(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"trainer": "attention"}))
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", str(tmp_path), "--help"])
    assert stop.value.code == 0
    assert "held-out samples" in capsys.readouterr().out


def test_attention_from_training_to_evaluation(tmp_path, capsys):
    run_dir = tmp_path / "run"
    options = ["--samples", "256", "--held-out-samples", "64", "--epochs", "1", "--heat-maps", "2"]
    assert cli.main(["train", "attention", *options, "--run-dir", str(run_dir), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["samples"] == 256
    assert set(result["accuracy"]) == {"species", "reaction"}
    for share in (*result["accuracy"].values(), result["words"]["mass"], result["regions"]["mass"]):
        assert 0 <= share <= 1
    for drawn in ("learning_curve", "confusion_matrix", "heat_maps"):
        with open(result[drawn], "rb") as file:
            assert file.read(4) == b"\x89PNG"
    assert cli.main(["evaluate", str(run_dir), "--samples", "64", "--seed", "0", "--json"]) == 0
    evaluation = json.loads(capsys.readouterr().out)
    # The held-out samples of training's own seed.
    for name in ("accuracy", "accuracy_by_kind", "words", "regions", "deletion"):
        assert evaluation[name] == result[name]
    assert cli.main(["evaluate", str(run_dir), "--samples", "8"]) == 0
    assert "held-out accuracy: species" in capsys.readouterr().out


def test_multitask_in_a_process_of_its_own(tmp_path):
    run_dir = tmp_path / "run"
    options = ["--data", "toy", "--hidden-size", "8", "--epochs", "1", "--run-dir", str(run_dir)]
    status, stdout, stderr = run("train", "multitask", *options, "--json")
    assert (status, stderr) == (0, "")
    (line,) = stdout.splitlines()
    result = json.loads(line)
    assert {task: list(scores) for task, scores in result["tasks"].items()} == {
        "A": ["accuracy"], "B": ["rmse"], "C": ["accuracy"],
    }  # fmt: skip
    assert list(result)[-3:] == ["tasks", "relative_change", "seconds"]
    for drawn in ("learning_curve", "task_relations"):
        with open(result[drawn], "rb") as file:
            assert file.read(4) == b"\x89PNG"


def test_info(capsys):
    assert cli.main(["info", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["version"] == metafast.__version__
    assert result["isa"] == metafast.isa()
    assert result["threads"] == metafast.get_num_threads()
    assert {"cuda", "cuda_devices", "torch", "numpy", "python"} <= result.keys()
    assert cli.main(["info"]) == 0
    assert metafast.isa() in capsys.readouterr().out


def test_info_and_help_import_nothing_heavy():
    code = (
        "import sys\nfrom metafast import cli\ncli.main(['info'])\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'gymnasium', 'matplotlib', 'tyro', 'rich', 'sklearn', 'tensorboard'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    status, _, stderr = run(code=code)
    assert status == 0, stderr


@pytest.mark.parametrize("missing", ["torch", "tyro", "safetensors"])
def test_training_without_the_extra_says_what_to_install(missing):
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] == {missing!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from metafast import cli\n"
        "assert cli.main(['info']) == 0\n"
        "sys.exit(cli.main(['train']))"
    )
    status, _, stderr = run(code=code)
    assert status == 2
    assert f'{missing} is not installed: pip install "metafast[train]"' in stderr


def test_bench_compares_with_its_peers(capsys, monkeypatch):
    from metafast import _bench

    monkeypatch.setattr(_bench, "_best_seconds", lambda function: [function(), 1e-3][1])
    assert cli.main(["bench", "returns", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert rows[0]["what"].startswith("gae")
    assert all(row["ratio"] == 1.0 for row in rows)
    assert cli.main(["bench"]) == 0
    printed = capsys.readouterr().out
    assert "CartPole-v1 step" in printed
    assert "gae" in printed


def test_bench_on_a_card_compares_with_torch(capsys, monkeypatch, device):
    from metafast import _bench_cuda

    make_vec = metafast.envs.make_vec

    def make_vec_there(*arguments, device=None, **options):
        # On the host, where "cuda" means the emulated kernels, tensors say that they are on the CPU.
        return make_vec(*arguments, device=None if device is None else "cuda", **options)

    monkeypatch.setattr(metafast.envs, "make_vec", make_vec_there)
    monkeypatch.setattr(_bench_cuda, "find_card", lambda name: device)
    monkeypatch.setattr(_bench_cuda, "title", lambda name: "a card")
    monkeypatch.setattr(_bench_cuda, "_median_seconds", lambda function, **_: [function(), 1e-3][1])
    monkeypatch.setattr(_bench_cuda, "NUM_ENVS", (8,))
    monkeypatch.setattr(_bench_cuda, "GAE_SHAPES", ((6, 5),))
    monkeypatch.setattr(_bench_cuda, "ADDITIVE_SIZES", ((2, 3, 4, 5),))
    monkeypatch.setattr(_bench_cuda, "ROLLOUT_SIZE", (8, 2))
    assert cli.main(["bench", "--device", "cuda", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    beginnings = [row["what"].split(" ")[0].rstrip(",") for row in rows]
    assert beginnings == ["CartPole-v1", "gae", "gae", "additive", "rollout"]
    assert all(row["ratio"] == 1.0 for row in rows)
    assert cli.main(["bench", "returns", "--device", "cuda"]) == 0
    assert "a card" in capsys.readouterr().out
