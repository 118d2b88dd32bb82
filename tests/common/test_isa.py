"""Choosing the instruction-set level and the number of threads, by call and by environment variable."""

import os
import subprocess
import sys

import pytest

import metafast
from metafast import _core


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def test_supported_levels_are_best_first_and_in_force():
    levels = _core.supported_isas()
    assert metafast.isa() in levels
    assert list(levels) == [level for level in ("x86-64-v4", "x86-64-v3", "x86-64-v2", "baseline") if level in levels]


def test_force_isa(isa):
    assert metafast.isa() == isa


@pytest.mark.parametrize("name", ["x86-64-v9", "", "X86-64-V2"])
def test_an_unknown_level_changes_nothing(name):
    before = metafast.isa()
    with pytest.raises(ValueError, match=rf"isa is '{name}', but this machine runs only: {_core.supported_isas()[0]}"):
        _core.force_isa(name)
    assert metafast.isa() == before


@pytest.mark.parametrize("level", _core.supported_isas())
def test_the_environment_forces_a_level(level):
    result = run_python("import metafast; print(metafast.isa())", METAFAST_ISA=level)
    assert result.stdout.strip() == level, result.stderr


def test_an_unknown_level_in_the_environment_fails_the_import():
    result = run_python("import metafast", METAFAST_ISA="mips")
    assert result.returncode != 0
    assert "METAFAST_ISA is 'mips', but this machine runs only: " in result.stderr


def test_the_environment_sets_the_number_of_threads():
    result = run_python("import metafast; print(metafast.get_num_threads())", METAFAST_NUM_THREADS="3")
    assert result.stdout.strip() == "3", result.stderr


def test_the_default_is_the_cores_this_process_may_use():
    code = "import metafast, os; print(metafast.get_num_threads() == len(os.sched_getaffinity(0)))"
    assert run_python(code).stdout.strip() == "True"
    assert (
        run_python("import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); " + code).stdout.strip()
        == "True"
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("two", "METAFAST_NUM_THREADS must be a whole number, not 'two'"),
        ("", "METAFAST_NUM_THREADS must be a whole number, not ''"),
        ("2.5", "METAFAST_NUM_THREADS must be a whole number, not '2.5'"),
        ("0", "METAFAST_NUM_THREADS must be between 1 and 1024, not 0"),
        ("-1", "METAFAST_NUM_THREADS must be between 1 and 1024, not -1"),
        ("1025", "METAFAST_NUM_THREADS must be between 1 and 1024, not 1025"),
        ("99999999999999999999", "METAFAST_NUM_THREADS must be between 1 and 1024, not "),
    ],
)
def test_a_bad_number_of_threads_in_the_environment_fails_the_import(value, message):
    result = run_python("import metafast", METAFAST_NUM_THREADS=value)
    assert result.returncode != 0
    assert message in result.stderr


@pytest.mark.usefixtures("restore_num_threads")
def test_set_num_threads_bounds():
    for good in (1, 2, 1024):
        metafast.set_num_threads(good)
        assert metafast.get_num_threads() == good
    for bad in (0, -3, 1025):
        with pytest.raises(ValueError, match=f"num_threads must be between 1 and 1024, not {bad}"):
            metafast.set_num_threads(bad)
    with pytest.raises(TypeError):
        metafast.set_num_threads("2")
    with pytest.raises(TypeError):
        metafast.set_num_threads(2.5)
    assert metafast.get_num_threads() == 1024
