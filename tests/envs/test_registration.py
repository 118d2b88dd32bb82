"""Gymnasium's registry, in interpreters that have just started."""

import subprocess
import sys

import gymnasium
import pytest

import metafast


def run(program):
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


MAKE = "print(gymnasium.make_vec('{}metafast/CartPole-v1', num_envs=4).reset(seed=0)[0].shape)"


@pytest.mark.parametrize(
    "program",
    [
        "import gymnasium, metafast; " + MAKE.format(""),
        "import metafast, gymnasium; " + MAKE.format(""),
        "import metafast, gymnasium.vector; " + MAKE.format(""),
        "import metafast.envs, gymnasium; " + MAKE.format(""),
        "import metafast, importlib.util as u; u.find_spec('gymnasium'); import gymnasium; " + MAKE.format(""),
        "import gymnasium; " + MAKE.format("metafast.envs:"),
        "import gymnasium; " + MAKE.format("metafast:"),
        "from metafast import envs; import gymnasium; " + MAKE.format(""),
    ],
)
def test_make_vec_in_a_fresh_interpreter(program):
    assert run(program) == "(4, 4)"


def test_importing_metafast_does_not_import_gymnasium():
    assert run("import sys, metafast; print('gymnasium' in sys.modules)") == "False"
    assert run("import metafast; print(metafast.envs.make_vec('CartPole-v1', 2).num_envs)") == "2"


def test_gymnasium_make_vec_passes_its_arguments_on():
    env = gymnasium.make_vec(
        "metafast/CartPole-v1",
        num_envs=4,
        vectorization_mode="vector_entry_point",
        autoreset_mode="same_step",
        max_episode_steps=3,
        sutton_barto_reward=True,
        num_threads=1,
    )
    assert isinstance(env, metafast.envs.NativeVectorEnv)
    assert (env.num_envs, env.max_episode_steps, env.num_threads) == (4, 3, 1)
    env.reset(seed=0)
    assert (env.step([0, 1, 0, 1])[1] == 0).all()


def test_gymnasium_make_vec_defaults():
    env = gymnasium.make_vec("metafast/CartPole-v1")
    assert (env.num_envs, env.max_episode_steps) == (1, 500)
    assert env.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.NEXT_STEP


@pytest.mark.parametrize("maker", [metafast.envs.make_vec, gymnasium.make_vec])
def test_a_spec_makes_the_environment_again(maker):
    env_id = "CartPole-v1" if maker is metafast.envs.make_vec else "metafast/CartPole-v1"
    env = maker(env_id, num_envs=5, autoreset_mode="same_step", max_episode_steps=9, copy=False)
    again = gymnasium.make_vec(env.spec)
    assert (again.num_envs, again.max_episode_steps, again.copy) == (5, 9, False)
    assert again.metadata == env.metadata


def test_two_threads_may_import_gymnasium_and_the_environments():
    program = """
import threading, metafast
def first():
    import gymnasium
    made.append(gymnasium.make_vec("metafast/CartPole-v1", num_envs=2))
def second():
    made.append(metafast.envs.make_vec("CartPole-v1", 2))
made = []
threads = [threading.Thread(target=target) for target in (first, second)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(made))
"""
    assert run(program) == "2"


@pytest.mark.parametrize(
    "env_id", ["Acrobot-v1", "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"]
)
def test_limits_and_thresholds_are_gymnasiums(env_id):
    ours, theirs = gymnasium.spec(f"metafast/{env_id}"), gymnasium.spec(env_id)
    assert ours.max_episode_steps == theirs.max_episode_steps == metafast.envs.make_vec(env_id, 1).max_episode_steps
    assert ours.reward_threshold == theirs.reward_threshold
