"""Threads, pickles, processes and names."""

import copy
import gc
import multiprocessing
import pickle
import subprocess
import sys
import textwrap

import gymnasium
import numpy as np
import pytest
from envs.compiled.worlds import Maze, NoughtsAndCrosses, VectorCartPole, random_actions
from gymnasium.spaces import Discrete

import metafast
from metafast.envs import CompiledEnv, compile_env


def rollout(env, num_steps=20):
    return [np.stack(parts) for parts in zip(*(env.step(a)[:4] for a in random_actions(env, num_steps)), strict=True)]


def assert_equal(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_two_threads_give_what_one_gives_over_many_steps(mode):
    num_envs = 4096
    one, two = (VectorCartPole.make_vec(num_envs, num_threads=k, autoreset_mode=mode, copy=False) for k in (1, 2))
    one.reset(seed=1)
    two.reset(seed=1)
    batches = random_actions(one, 50)
    for k in range(100_000 // 1000):
        actions = batches[k % 50]
        assert_equal(one.step(actions)[:4], two.step(actions)[:4])
    for key, rows in one.get_state().items():
        np.testing.assert_array_equal(rows, two.get_state()[key])


def test_a_hundred_thousand_steps_of_few_environments():
    one, two = (Maze.make_vec(8, num_threads=k, copy=False) for k in (1, 2))
    one.reset(seed=1)
    two.reset(seed=1)
    batches = random_actions(one, 64)
    total = 0.0
    for k in range(100_000):
        ours, theirs = one.step(batches[k % 64]), two.step(batches[k % 64])
        if k % 1000 == 0:
            assert_equal(ours[:4], theirs[:4])
        total += ours[1].sum() - theirs[1].sum()
    assert total == 0
    for key, rows in one.get_state().items():
        np.testing.assert_array_equal(rows, two.get_state()[key])


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_pickles_and_copies_continue(mode, debug):
    env = Maze.make_vec(5, autoreset_mode=mode, debug=debug)
    env.reset(seed=0)
    rollout(env)
    others = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]
    expected = rollout(env)
    for other in others:
        assert_equal(rollout(other), expected)
    assert pickle.loads(pickle.dumps(Maze)) is Maze
    assert copy.deepcopy(Maze) is Maze


def local_world():
    @compile_env(observation_space=Discrete(100), action_space=Discrete(2), state={"x": np.int64})
    class Local:
        def reset(state, rng):
            state.x = rng.integers(0, 50)

        def step(state, action, rng):
            state.x = (state.x + action) % 100
            return state.x, False

        def observe(state, observation):
            observation[0] = state.x

    return Local


def test_a_class_within_a_function_pickles_within_its_process():
    world = local_world()
    env = world.make_vec(3)
    env.reset(seed=0)
    other = pickle.loads(pickle.dumps(env))
    assert_equal(rollout(env), rollout(other))
    pickled = pickle.dumps(env)
    script = "import pickle, sys; pickle.load(sys.stdin.buffer)"
    answer = subprocess.run([sys.executable, "-c", script], input=pickled, capture_output=True, check=False)
    assert b"cannot be imported here; define it at the top level of a module" in answer.stderr


def test_the_machine_code_outlives_its_definition():
    env = local_world().make_vec(3)
    env.reset(seed=0)
    gc.collect()
    rollout(env)


def child(env, connection):
    connection.send(rollout(env))
    connection.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_continue(method):
    env = NoughtsAndCrosses.make_vec(4)
    env.reset(seed=0)
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=child, args=(env, theirs))
    process.start()
    theirs.close()
    received = ours.recv()
    process.join()
    assert process.exitcode == 0
    assert_equal(received, rollout(env))


def test_a_class_in_a_script_pickles(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import multiprocessing, pickle
            import numpy as np
            from gymnasium.spaces import Discrete
            from metafast.envs import compile_env

            @compile_env(observation_space=Discrete(9), action_space=Discrete(2), state={"x": np.int64})
            class Counter:
                def reset(state, rng):
                    state.x = 3
                def step(state, action, rng):
                    state.x += action
                    return 1.0, False
                def observe(state, observation):
                    observation[0] = state.x

            def work(env):
                print(env.step(np.array([0, 1]))[0].tolist(), flush=True)

            if __name__ == "__main__":
                env = Counter.make_vec(2)
                env.reset(seed=0)
                for method in ("fork", "spawn"):
                    process = multiprocessing.get_context(method).Process(target=work, args=(env,))
                    process.start()
                    process.join()
            """
        )
    )
    answer = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert answer.stderr == ""
    assert answer.stdout.splitlines() == ["[3, 4]"] * 2


def define_corridor(length):
    @compile_env(
        observation_space=Discrete(length),
        action_space=Discrete(2),
        state={"x": np.int64},
        max_episode_steps=9,
        id="Corridor-v3",
    )
    class Corridor:
        def reset(state, rng):
            state.x = 0

        def step(state, action, rng):
            state.x = min(max(state.x + 2 * action - 1, 0), length - 1)
            return state.x == length - 1, state.x == length - 1

        def observe(state, observation):
            observation[0] = state.x

    return Corridor


def test_an_id_makes_it_everywhere():
    corridor = define_corridor(4)
    assert isinstance(corridor, CompiledEnv)
    for env in (
        metafast.envs.make_vec("Corridor-v3", 2, autoreset_mode="same_step"),
        gymnasium.make_vec("metafast/Corridor-v3", num_envs=2, autoreset_mode="same_step"),
        corridor.make_vec(2, autoreset_mode="same_step"),
    ):
        env.reset(seed=0)
        for _ in range(2):
            env.step(np.array([1, 0]))
        observations, rewards, terminated, _, infos = env.step(np.array([1, 0]))
        assert observations.tolist() == [0, 0]
        assert rewards.tolist() == [1.0, 0.0]
        assert terminated.tolist() == [True, False]
        assert infos["final_obs"][0] == 3
        assert env.spec.id == "metafast/Corridor-v3"
        assert env.max_episode_steps == 9
        pickle.loads(pickle.dumps(env)).step(np.array([1, 0]))
    # A notebook's cell that is run again replaces it.
    define_corridor(6)
    assert metafast.envs.make_vec("Corridor-v3", 1).single_observation_space.n == 6
    with pytest.raises(TypeError, match="Corridor-v3 has no argument 'speed'"):
        metafast.envs.make_vec("Corridor-v3", 1, speed=2)
    assert metafast.envs.make_vec("Corridor-v3", 1, debug=True).reset(seed=0)[0].tolist() == [0]


def test_importing_the_environments_imports_no_numba():
    script = (
        "import sys, metafast, metafast.envs, metafast.envs.math; "
        "sys.exit(any(m in sys.modules for m in ('numba', 'llvmlite')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
