"""What is wrong with a class is said when it is defined, or when it is compiled, with the function and the line."""

import random

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Text

from metafast.envs import compile_env

GOOD = {"observation_space": Discrete(3), "action_space": Discrete(2), "state": {"x": np.int64}}


def line_of(text):
    """The number of the line of this file that ends with a marker."""
    with open(__file__) as file:
        return next(k for k, line in enumerate(file, 1) if "#" in line and line.rstrip().endswith(f" {text}"))


def define(step=None, reset=None, observe=None, **changes):
    def good_reset(state, rng):
        state.x = 1

    def good_step(state, action, rng):
        return 0.0, False

    def good_observe(state, observation):
        observation[0] = state.x

    functions = {"reset": reset or good_reset, "step": step or good_step, "observe": observe or good_observe}
    return compile_env(**{**GOOD, **changes})(type("World", (), functions))


def test_this_one_is_good():
    assert define().make_vec(2).reset(seed=0)[0].tolist() == [1, 1]


def test_missing_and_malformed_functions():
    def with_self(self, state, action, rng):
        return 0.0, False

    with pytest.raises(TypeError, match=r"step must be `def step\(state, action, rng\)`.*there is no self"):
        define(step=with_self)
    with pytest.raises(TypeError, match=r"must define the function `def reset\(state, rng\)`"):
        compile_env(**GOOD)(type("World", (), {}))
    with pytest.raises(TypeError, match="decorates a class"):
        compile_env(**GOOD)(with_self)

    def generator(state, action, rng):
        yield 0.0, False

    with pytest.raises(TypeError, match="step must be a plain function"):
        define(step=generator)


def test_step_must_return_a_pair():
    def reward_alone(state, action, rng):
        return 1.0

    def three(state, action, rng):
        return 1.0, False, False

    def words(state, action, rng):
        return "much", False

    for step, found in ((reward_alone, "float64"), (three, "Tuple"), (words, "its reward is")):
        with pytest.raises(TypeError, match=rf"World does not compile(.|\n)*step must return(.|\n)*{found}"):
            define(step=step).make_vec(2)
    for step in (reward_alone, three):
        env = define(step=step).make_vec(2, debug=True)
        env.reset(seed=0)
        with pytest.raises(TypeError, match=r"step must return \(reward, terminated\), not"):
            env.step(np.zeros(2, dtype=np.int64))


def test_a_typing_error_names_function_and_line():
    def step(state, action, rng):
        name = "abc"
        state.x = name.undo()  # typing error
        return 0.0, False

    with pytest.raises(TypeError) as caught:
        define(step=step).make_vec(2)
    message = str(caught.value)
    assert message.startswith(f'World does not compile. File "{__file__}", line {line_of("typing error")}, in ')
    assert "step:" in message
    assert "undo" in message
    assert type(caught.value.__cause__).__module__.startswith("numba")


def test_an_unknown_field_is_named():
    def reset(state, rng):
        state.x = 1
        state.speed = 2.0  # unknown field

    with pytest.raises(TypeError, match="state has no field 'speed'; it has: x") as caught:
        define(reset=reset).make_vec(2)
    assert f"line {line_of('unknown field')}" in str(caught.value)
    with pytest.raises(AttributeError, match="state has no field 'speed'; it has: x"):
        define(reset=reset).make_vec(2, debug=True).reset(seed=0)


def test_what_numba_does_not_support_is_a_type_error():
    def observe(state, observation):
        values = {k: str(k) for k in range(3)}
        with open("file") as file:  # not supported
            observation[0] = len(file.read()) + len(values)

    with pytest.raises(TypeError, match=rf"line {line_of('not supported')}.*open works in debug mode only"):
        define(observe=observe).make_vec(2)


def test_other_randomness_is_refused():
    def by_numpy(state, rng):
        state.x = np.random.standard_normal()  # noqa: NPY002 numpy randomness

    def by_python(state, rng):
        state.x = random.randrange(3)

    generator = np.random.default_rng(0)

    def by_generator(state, rng):
        state.x = generator.integers(3)

    randrange = random.randrange

    def helper():
        return randrange(3)

    def by_helper(state, rng):
        state.x = helper()

    for reset in (by_numpy, by_python, by_generator, by_helper):
        with pytest.raises(TypeError, match="not reproducible in an environment; use the argument rng"):
            define(reset=reset)
    with pytest.raises(TypeError, match=rf"line {line_of('numpy randomness')}, in .*by_numpy: np.random.* is not"):
        define(reset=by_numpy)


def test_variables_that_change_are_refused():
    table = {1: 2}
    items = [1, 2]
    count = 0

    def reads_dict(state, rng):
        state.x = table[1]

    def reads_list(state, rng):
        state.x = items[0]  # a list

    def counts(state, rng):
        nonlocal count
        count += 1
        state.x = count

    for reset, kind in ((reads_dict, "a dict"), (reads_list, "a list")):
        with pytest.raises(TypeError, match=f"is {kind}, which cannot be compiled in as a constant"):
            define(reset=reset)
    with pytest.raises(TypeError, match=rf"line {line_of('a list')}"):
        define(reset=reads_list)
    with pytest.raises(TypeError, match="assigns to 'count', which is shared by all environments"):
        define(reset=counts)

    def misspelt(state, rng):
        state.x = undefined_name  # noqa: F821

    with pytest.raises(TypeError, match="the name 'undefined_name' is not defined"):
        define(reset=misspelt)


def test_printing_is_for_debug_mode(capsys):
    def step(state, action, rng):
        print("stepped", state)
        return 0.0, False

    world = define(step=step)
    with pytest.raises(TypeError, match=r"print works in debug mode only: make_vec\(\.\.\., debug=True\)"):
        world.make_vec(3)
    env = world.debug(3)
    env.reset(seed=0)
    env.step(np.zeros(3, dtype=np.int64))
    assert capsys.readouterr().out.splitlines() == ["stepped State(x=1)"] * 3


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"state": {}}, TypeError, "state must be a dict"),
        ({"state": ["x"]}, TypeError, "state must be a dict"),
        ({"state": {"x": "word"}}, TypeError, r"state\['x'\] must be a number type"),
        ({"state": {"x": None}}, TypeError, r"state\['x'\] must be a number type"),
        ({"state": {"x": np.uint64}}, TypeError, "must be one of bool"),
        ({"state": {"x": np.complex128}}, TypeError, "must be one of bool"),
        ({"state": {"x": (np.int8, (3, 0))}}, ValueError, "at least 1"),
        ({"state": {"_x": np.int8}}, ValueError, "does not read as state"),
        ({"state": {"seeds": np.int8}}, ValueError, "'seeds', which every environment has"),
        ({"id": "two words"}, ValueError, "id must be a plain name such as 'Corridor-v0', not 'two words'"),
        ({"state": {"two words": np.int8}}, ValueError, "does not read as state"),
        ({"action_space": 3}, TypeError, "action_space must be a gymnasium space"),
        ({"action_space": Text(3)}, TypeError, "action_space must be a gymnasium Box, Discrete"),
        ({"observation_space": Dict(a=Discrete(2))}, TypeError, "observation_space must be a gymnasium Box, Discrete"),
        ({"observation_space": Box(0, 1, (2,), np.float16)}, TypeError, "dtype float16"),
        ({"max_episode_steps": 0}, ValueError, "max_episode_steps must be between"),
        ({"max_episode_steps": 2.0}, TypeError, "max_episode_steps must be an int"),
        ({"id": 3}, TypeError, "id must be a str"),
        ({"id": "other/World-v0"}, ValueError, "plain name"),
        ({"id": "CartPole-v1"}, ValueError, "taken by another"),
    ],
)
def test_bad_arguments(changes, error, message):
    with pytest.raises(error, match=message):
        define(**changes)


def test_make_vec_refuses_what_it_does_not_know():
    world = define()
    with pytest.raises(TypeError, match="debug must be a bool"):
        world.make_vec(2, debug="yes")
    with pytest.raises(TypeError, match="make_vec has no argument 'speed'"):
        world.make_vec(2, speed=3)
    with pytest.raises(ValueError, match="num_envs must be between"):
        world.make_vec(0)
