"""Machine code is compiled once, and found again exactly where nothing it depends on has changed."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from gymnasium.spaces import Discrete

from metafast.envs import compile_env

WORLD = """
import json, sys, time
import numpy as np
from gymnasium.spaces import Box, Discrete
from metafast.envs import compile_env
from metafast.envs.math import sin
import helpers

SPEED = 2
TABLE = np.array([1.0, 2.0, 3.0])

@compile_env(observation_space=Box(-100, 100, (2,), np.float64), action_space=Discrete(3), state={"x": np.float64})
class World:
    def reset(state, rng):
        state.x = 0.0

    def step(state, action, rng):
        state.x += SPEED * TABLE[action] + helpers.push(sin(0.0))
        return 1.0, False

    def observe(state, observation):
        observation[0] = state.x
        observation[1] = 5.0

start = time.perf_counter()
cached = World.compile()
seconds = time.perf_counter() - start
numba = "numba" in sys.modules
env = World.make_vec(2)
env.reset(seed=0)
print(json.dumps([cached, env.step(np.array([1, 2]))[0].tolist(), numba, seconds]))
"""
HELPERS = """
from math import sqrt
def push(x):
    return twice(sqrt(x))
def twice(x):
    return 2 * x + OFFSET
OFFSET = 0.0
"""


@pytest.fixture
def run(tmp_path):
    """Run the world in a fresh process: (whether it came from the cache, observations, whether Numba was imported)."""
    (tmp_path / "world.py").write_text(WORLD)
    (tmp_path / "helpers.py").write_text(HELPERS)

    def run_world(*changes, **variables):
        for name, old, new in changes:
            source = (tmp_path / name).read_text()
            assert old in source
            (tmp_path / name).write_text(source.replace(old, new))
        environment = {"METAFAST_CACHE_DIR": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"} | variables
        answer = subprocess.run(
            [sys.executable, "world.py"], cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert answer.returncode == 0, answer.stderr
        assert answer.stderr == ""
        return json.loads(answer.stdout)

    return run_world


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir())


def test_a_second_process_needs_no_numba(run, tmp_path):
    assert run()[:3] == [False, [[4.0, 5.0], [6.0, 5.0]], True]
    kept = files(tmp_path)
    assert len(kept) == 1
    cached, observations, numba, seconds = run()
    assert (cached, observations, numba) == (True, [[4.0, 5.0], [6.0, 5.0]], False)
    # A tenth of a second where the machine is idle.
    assert seconds < 3
    assert files(tmp_path) == kept


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A cache that has the world as it is above."""
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "world.py").write_text(WORLD)
    (folder / "helpers.py").write_text(HELPERS)
    environment = os.environ | {"METAFAST_CACHE_DIR": str(folder / "cache")}
    subprocess.run([sys.executable, "world.py"], cwd=folder, env=environment, check=True, capture_output=True)
    return folder / "cache"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("world.py", "SPEED = 2", "SPEED = 3"), [6.0, 9.0]),
        (("world.py", "2.0, 3.0]", "2.0, 4.0]"), [4.0, 8.0]),
        (("helpers.py", "OFFSET = 0.0", "OFFSET = 1.0"), [5.0, 7.0]),
        (("helpers.py", "2 * x + OFFSET", "3 + OFFSET"), [7.0, 9.0]),
        (("world.py", "state.x += SPEED", "state.x -= SPEED"), [-4.0, -6.0]),
        (("world.py", '"x": np.float64', '"x": np.float32'), [4.0, 6.0]),
        (("world.py", "(2,), np.float64", "(2,), np.float32"), [4.0, 6.0]),
        (("world.py", "SPEED = 2", "SPEED = 2.0"), [4.0, 6.0]),
    ],
)
def test_what_is_compiled_in_is_part_of_the_key(run, tmp_path, compiled, change, expected):
    shutil.copytree(compiled, tmp_path / "cache")
    cached, observations, *_ = run(change)
    assert not cached
    assert [row[0] for row in observations] == expected


def test_what_does_not_matter_is_not(run, tmp_path, compiled):
    shutil.copytree(compiled, tmp_path / "cache")
    assert run()[0]
    assert run(("world.py", "\nSPEED", "\n# The speed.\n\n\nOTHER = 5\nSPEED"))[0]


def test_a_damaged_file_is_compiled_anew(run, tmp_path):
    run()
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], whole[:-5], whole[:-5] + b"abcde", b"other" + whole):
        file.write_bytes(damaged)
        assert run()[:2] == [False, [[4.0, 5.0], [6.0, 5.0]]]
        assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_to(run, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for _ in range(2):
        assert run(METAFAST_CACHE_DIR=str(tmp_path / "file" / "cache"))[0] is False


def test_concurrent_processes_build_the_same(run, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(3) as pool:
        answers = [future.result() for future in [pool.submit(run) for _ in range(3)]]
    assert all(answer[1] == [[4.0, 5.0], [6.0, 5.0]] for answer in answers)
    assert len(files(tmp_path)) == 1
    assert run()[0]


def test_the_default_folder_is_the_users(run, tmp_path):
    home = tmp_path / "home"
    run(METAFAST_CACHE_DIR="", HOME=str(home), XDG_CACHE_HOME=str(home / "xdg"))
    assert [path.suffix for path in (home / "xdg" / "metafast").iterdir()] == [".env"]


def define(level, table):
    """A world with these as its enclosing variables, which are what global ones are to Numba."""

    @compile_env(observation_space=Discrete(9), action_space=Discrete(4), state={"x": np.int64})
    class World:
        def reset(state, rng):
            state.x = 0

        def step(state, action, rng):
            return level + table[action], False

        def observe(state, observation):
            observation[0] = state.x

    return World


LEVEL = 1.0


def test_globals_have_the_values_of_when_it_is_compiled(monkeypatch, tmp_path):
    monkeypatch.setenv("METAFAST_CACHE_DIR", str(tmp_path))

    def define_with_global():
        @compile_env(observation_space=Discrete(9), action_space=Discrete(4), state={"x": np.int64})
        class World:
            def reset(state, rng):
                state.x = 0

            def step(state, action, rng):
                return LEVEL, False

            def observe(state, observation):
                observation[0] = state.x

        return World

    def reward(made):
        env = made.make_vec(1)
        env.reset(seed=0)
        return env.step(np.zeros(1, np.int64))[1][0]

    first = define_with_global()
    monkeypatch.setattr(sys.modules[__name__], "LEVEL", 2.0)
    assert reward(first) == 2.0
    monkeypatch.setattr(sys.modules[__name__], "LEVEL", 1.0)
    second = define_with_global()
    assert reward(second) == 1.0
    assert reward(first) == 2.0


def test_arrays_are_compiled_in_by_value():
    """By address, the code would read memory that is gone, and another process would find the address in the cache."""
    table = np.arange(4.0)
    env = define(0.0, table).make_vec(4)
    env.reset(seed=0)
    table[:] = -1
    del table
    np.testing.assert_array_equal(env.step(np.arange(4))[1], np.arange(4.0))
    columns = np.arange(8.0).reshape(4, 2)
    with pytest.raises(TypeError, match=r"table is a view of a part of another array.*ascontiguousarray"):
        define(0.0, columns[:, 1])
    with pytest.raises(TypeError, match=r"table has 1000008 bytes.*at most 1000000"):
        define(0.0, np.zeros(125_001))
    env = define(0.0, np.ones(125_000)).make_vec(4)
    env.reset(seed=0)
    np.testing.assert_array_equal(env.step(np.arange(4))[1], np.ones(4))
