"""What users write beyond arithmetic on fields: helpers, temporary arrays, messages, Numba's own functions."""

import subprocess
import sys
import threading
from typing import NamedTuple

import numba
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from metafast.envs import compile_env

OPTIONS = {
    "observation_space": Box(-np.inf, np.inf, (2,), np.float64),
    "action_space": Discrete(3),
    "state": {"x": np.float64, "history": (np.float64, 4), "steps": np.int64},
}


def begin(state, rng):
    state.x = draw_one(rng)
    state.history[:] = state.x
    state.steps = 0


def draw_one(rng, low=1.0):
    return rng.uniform(low, high=2.0)


def show(state, observation):
    observation[0] = state.x
    observation[1] = np.mean(state.history)


def world(step):
    return compile_env(**OPTIONS)(type("World", (), {"reset": begin, "step": step, "observe": show}))


def compare(definition, num_envs=5, num_steps=6):
    actions = np.random.default_rng(0).integers(0, 3, (num_steps, num_envs))
    compiled, plain = definition.make_vec(num_envs), definition.make_vec(num_envs, debug=True)
    np.testing.assert_array_equal(compiled.reset(seed=0)[0], plain.reset(seed=0)[0])
    for row in actions:
        for ours, theirs in zip(compiled.step(row)[:4], plain.step(row)[:4], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-14)
    return compiled


def move(state, amount):
    state.history[1:] = state.history[:-1].copy()
    state.history[0] = state.x
    state.x += amount


@numba.njit
def halved(x):
    return x / 2


def test_helpers_take_the_state_and_the_generator():
    def step(state, action, rng):
        move(state, halved(action) + draw_one(rng, low=0.5))
        return state.x, state.x > 8

    compare(world(step))


def test_temporary_arrays_and_tuples():
    def step(state, action, rng):
        scores = np.zeros(4)
        for k in range(4):
            scores[k] = state.history[k] * (k + action)
        order = np.argsort(scores)
        best, worst = order[-1], order[0]
        names = (best, worst, float(scores.sum()))
        state.history = scores
        state.x = names[2]
        return names[2], len(names) == 4

    compiled = compare(world(step))
    # Memory that user code takes is given back.
    for _ in range(2000):
        compiled.step(np.zeros(5, dtype=np.int64))


TEMPORARY = """
import sys
import numpy as np
from gymnasium.spaces import Discrete
from metafast.envs import compile_env

@compile_env(observation_space=Discrete(9), action_space=Discrete(2), state={"x": np.int64})
class World:
    def reset(state, rng):
        state.x = np.arange(rng.integers(3, 4)).sum()
    def step(state, action, rng):
        state.x = np.zeros(state.x + action).size
        return np.power(float(state.x), 1.5), False
    def observe(state, observation):
        observation[0] = state.x

cached = World.compile()
env = World.make_vec(2)
env.reset(seed=0)
print(cached, env.step(np.array([0, 1]))[0].tolist())
"""


def test_code_that_takes_memory_comes_from_the_cache_too(tmp_path):
    (tmp_path / "script.py").write_text(TEMPORARY)
    for cached in (False, True):
        answer = subprocess.run(
            [sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, timeout=60, check=False
        )
        assert (answer.stderr, answer.stdout) == ("", f"{cached} [3, 4]\n")


def test_messages_hold_values():
    def step(state, action, rng):
        state.steps += 1
        if action == 2:
            raise ValueError(f"action {action} after {state.steps} steps")
        if state.steps == 4:
            raise AssertionError("too many")
        return 0.0, False

    env = compare(world(step), num_steps=0)
    env.step(np.zeros(5, dtype=np.int64))
    with pytest.raises(ValueError, match="action 2 after 2 steps"):
        env.step(np.array([0, 1, 0, 2, 2]))
    env.step(np.zeros(5, dtype=np.int64))
    env.step(np.zeros(5, dtype=np.int64))
    with pytest.raises(AssertionError, match="too many"):
        env.step(np.zeros(5, dtype=np.int64))


class IllegalMoveError(Exception):
    pass


class Move(NamedTuple):
    rows: float
    columns: float


def test_a_users_exceptions_and_named_tuples():
    def step(state, action, rng):
        taken = Move(1.0, action)
        if taken.columns == 2:
            raise IllegalMoveError("two", 2)
        return taken.rows, taken.columns == 1

    env = compare(world(step), num_steps=0)
    assert env.step(np.array([0, 1, 0, 0, 0]))[2].tolist() == [False, True, False, False, False]
    with pytest.raises(IllegalMoveError, match="two") as caught:
        env.step(np.array([0, 1, 2, 0, 0]))
    assert caught.value.args == ("two", 2)


def test_what_fails_as_machine_code_alone_is_said_so():
    def step(state, action, rng):
        if action == 2:
            raise ValueError("two")
        return 0.0, False

    definition = world(step)
    env = definition.make_vec(3)
    env.reset(seed=0)
    definition._functions["step"] = lambda state, action, rng: (0.0, False)
    with pytest.raises(RuntimeError, match=r"World failed in environment 1 .* runs without an exception"):
        env.step(np.array([0, 2, 0]))


def test_debug_mode_stays_in_the_callers_thread():
    definition = world(lambda state, action, rng: (1.0, False))
    threads = set()

    def step(state, action, rng):
        threads.add(threading.get_ident())
        return 1.0, False

    definition._functions["step"] = step
    env = definition.make_vec(2000, num_threads=2, debug=True)
    env.reset(seed=0)
    for _ in range(6):
        env.step(np.zeros(2000, dtype=np.int64))
    assert threads == {threading.get_ident()}


def test_exceptions_that_the_user_catches():
    def step(state, action, rng):
        state.steps += 1
        try:
            if action == 2:
                raise ValueError("two")
            state.x += 1.0
        except Exception:
            state.x -= 10.0
        return state.x, False

    assert not compare(world(step)).get_state()["ended"].any()


def test_the_same_code_twice_and_without_a_cache(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("METAFAST_CACHE_DIR", str(tmp_path / "file" / "cache"))

    def step(state, action, rng):
        move(state, 0.25)
        return state.x, False

    first, second = (world(step) for _ in range(2))
    assert not first.compile()
    assert not second.compile()
    ours, theirs = compare(first), compare(second)
    np.testing.assert_array_equal(ours.get_state()["state"], theirs.get_state()["state"])


def test_threads_compile_at_once():
    def step(state, action, rng):
        move(state, 0.125)
        return state.x, False

    worlds = [world(step), world(lambda state, action, rng: (state.x, False))] * 2
    failures = []

    def work(definition):
        try:
            definition.make_vec(3).reset(seed=0)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(definition,)) for definition in worlds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_an_interrupt_in_debug_mode_arrives():
    def step(state, action, rng):
        if action == 1:
            raise KeyboardInterrupt
        return 0.0, False

    env = world(step).debug(3)
    env.reset(seed=0)
    before = env.get_state()["state"].tobytes()
    with pytest.raises(KeyboardInterrupt):
        env.step(np.array([0, 1, 0]))
    assert env.get_state()["state"].tobytes() == before


def test_an_endless_index_never_leaves_the_state():
    def step(state, action, rng):
        state.history[state.steps] = 1.0
        state.steps += 1
        return 0.0, False

    env = world(step).make_vec(300)
    env.reset(seed=0)
    for _ in range(4):
        env.step(np.zeros(300, dtype=np.int64))
    with pytest.raises(IndexError, match="index 4 is out of bounds"):
        env.step(np.zeros(300, dtype=np.int64))
    state = env.get_state()
    state["state"]["steps"][:] = -4
    env.set_state(state)
    env.step(np.zeros(300, dtype=np.int64))
    state["state"]["steps"][:] = -5
    env.set_state(state)
    with pytest.raises(IndexError, match="index -5 is out of bounds"):
        env.step(np.zeros(300, dtype=np.int64))
