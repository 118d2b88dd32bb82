"""metafast.envs.math: the core's bits in plain Python and in machine code."""

import math

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from metafast import _core
from metafast.envs import compile_env
from metafast.envs import math as vector_math

SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 709.78, 709.79, -745.1, -745.2, 2.0**20, 2.0**20 + 1, 5e-324]


def arguments():
    rng = np.random.default_rng(4)
    everywhere = np.ldexp(rng.uniform(1, 2, 2000), rng.integers(-1074, 1023, 2000)) * rng.choice([-1, 1], 2000)
    parts = [everywhere, rng.uniform(-1, 1, 2000), rng.uniform(-30, 30, 2000), rng.uniform(-750, 750, 2000)]
    parts += [rng.uniform(-(2.0**20), 2.0**20, 2000), np.arange(500) * (math.pi / 2), SPECIAL]
    return np.concatenate(parts)


@compile_env(
    observation_space=Box(-np.inf, np.inf, (5,), np.float64),
    action_space=Discrete(2),
    state={"x": np.float64},
)
class Functions:
    def reset(state, rng):
        state.x = 0.0

    def step(state, action, rng):
        return 0.0, False

    def observe(state, observation):
        observation[0] = vector_math.sin(state.x)
        observation[1] = vector_math.cos(state.x)
        observation[2] = vector_math.exp(state.x)
        observation[3] = vector_math.tanh(state.x)
        observation[4] = vector_math.log(state.x)


NAMES = ("sin", "cos", "exp", "tanh", "log")


def assert_same_bits(ours, theirs, x):
    same = (ours.view(np.int64) == theirs.view(np.int64)) | (np.isnan(ours) & np.isnan(theirs))
    assert same.all(), f"at {x[~same][:5]}: {ours[~same][:5]} and {theirs[~same][:5]}"


@pytest.mark.parametrize("name", NAMES)
def test_plain_python_has_the_bits_of_the_core(name):
    x = arguments()
    core = np.empty_like(x)
    _core.vector_math(name, x, core)
    assert_same_bits(np.array([getattr(vector_math, name)(value) for value in x]), core, x)


def test_machine_code_has_the_bits_of_plain_python():
    x = arguments()
    env = Functions.make_vec(len(x))
    env.reset(seed=0)
    env.set_attr("x", x)
    observations = env.step(np.zeros(len(x), dtype=np.int64))[0]
    for k, name in enumerate(NAMES):
        plain = np.array([getattr(vector_math, name)(value) for value in x])
        assert_same_bits(observations[:, k].copy(), plain, x)


def test_integers_serve_as_arguments():
    assert vector_math.sin(0) == 0.0
    assert vector_math.exp(0) == vector_math.cos(0) == 1.0


def test_a_loop_with_them_is_vectorised():
    """The machine code of a step holds instructions on several numbers at once, and calls nothing."""
    from envs.compiled.worlds import VectorCartPole

    from metafast.envs.compiled._compile import compile_functions
    from metafast.envs.compiled._source import UserFunctions

    world = VectorCartPole
    compiled = compile_functions(
        "metafast_vectorised",
        world._functions,
        UserFunctions(world._functions).helpers,
        world._layout,
        world._action,
        world._observation,
    )
    assert compiled.externals == ()
    assert not compiled.can_raise
    assert "x double>" in compiled.llvm
    assert "fdiv <" in compiled.llvm.split("metafast_vectorised_advance")[1]
