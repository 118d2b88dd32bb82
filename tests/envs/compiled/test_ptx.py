"""What becomes of users' functions on the way to PTX; NVIDIA's assembler checks it where it is installed."""

import math
import shutil
import subprocess

import numpy as np
import pytest
from envs.compiled import worlds
from gymnasium.spaces import Box, Discrete

from metafast.envs import compile_env
from metafast.envs import math as vector_math
from metafast.envs._environment import ActionLayout
from metafast.envs.compiled import _device, _kernels, _ptx
from metafast.envs.compiled._source import UserFunctions


def kernels_of(world):
    actions = ActionLayout.of(world.action_space, np.int64)
    arguments = world._layout, world._action, world._observation, actions
    return _device.build_kernels(world._functions, UserFunctions(world._functions), *arguments)


def assemble(ptx, architecture, folder):
    source = folder / "kernels.ptx"
    source.write_text(ptx)
    command = ["ptxas", f"-arch={architecture}", "-v", source, "-o", folder / "kernels.cubin"]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "warning" not in finished.stderr
    return finished.stderr


def needs_assembler():
    if shutil.which("ptxas") is None:
        pytest.skip("NVIDIA's assembler, ptxas, is not on the PATH")


def needs_libdevice():
    if _ptx._libdevice() is None:
        pytest.skip("NVIDIA's libdevice.10.bc is nowhere to be found")


FREE_OF_LIBDEVICE = [world for world in [*worlds.WORLDS, worlds.Fragile] if world is not worlds.LibraryCartPole]


@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
@pytest.mark.parametrize("world", FREE_OF_LIBDEVICE, ids=lambda world: world.__name__)
def test_nvidias_assembler_takes_it_and_spills_nothing(world, architecture, tmp_path):
    needs_assembler()
    report = assemble(kernels_of(world).ptx.text, architecture, tmp_path)
    assert report.count("0 bytes spill stores, 0 bytes spill loads") == len(_kernels.ARGUMENTS)


def test_a_vectorised_step_is_lean():
    """Products and sums are apart, so that the numbers are the CPU's; a row of four floats is one store."""
    ptx = kernels_of(worlds.VectorCartPole).ptx
    assert not ptx.can_raise
    assert "mul.rn.f64" in ptx.text
    assert "fma" not in ptx.text
    assert ".common" not in ptx.text
    step = ptx.text.split("_step(")[1].split(".entry")[0]
    assert "st.global.v4" in step
    assert "call" not in step
    assert ".local" not in step
    # Philox is for those that begin: their state is written twice, the others' once.
    assert step.count("st.global.b64") == 4 + 4 + 1


def test_what_can_raise_is_known():
    assert kernels_of(worlds.Fragile).ptx.can_raise
    assert not kernels_of(worlds.Sums).ptx.can_raise


def test_functions_of_libdevice_are_linked_in(tmp_path):
    needs_libdevice()
    ptx = kernels_of(worlds.LibraryCartPole).ptx
    assert "fma.rn.f64" in ptx.text
    if shutil.which("ptxas"):
        assemble(ptx.text, "sm_75", tmp_path)


def world_of(step, state=None):
    @compile_env(
        observation_space=Box(-np.inf, np.inf, (1,), np.float64),
        action_space=Discrete(2),
        state=state or {"x": np.float64},
    )
    class World:
        def reset(state, rng):
            state.x = 0.0

        def observe(state, observation):
            observation[0] = state.x

        locals()["step"] = step

    return World


def refused(world):
    """The message of the TypeError that `make_vec` raises, without a device."""

    def build(source):
        actions = ActionLayout.of(world.action_space, np.int64)
        return _device.build_kernels(
            world._functions, source, world._layout, world._action, world._observation, actions
        )

    with pytest.raises(TypeError) as raised:
        world._explaining(build)
    return str(raised.value)


def test_memory_is_refused_and_the_function_named():
    def step(state, action, rng):
        values = np.zeros(action + 2)
        values[0] = state.x
        state.x = values.sum()
        return 0.0, False

    message = refused(world_of(step))
    assert "World does not compile" in message
    assert f'File "{__file__}"' in message
    assert "in test_memory_is_refused_and_the_function_named.<locals>.step" in message
    assert "it allocates memory" in message


def test_messages_that_are_put_together_are_refused():
    def step(state, action, rng):
        if state.x > 3:
            raise ValueError(f"too far for {action}")
        return 0.0, False

    assert "raise exceptions with constant arguments" in refused(world_of(step))


def test_functions_that_there_are_not_are_refused_by_name(monkeypatch):
    def step(state, action, rng):
        state.x = math.sin(state.x)
        return 0.0, False

    monkeypatch.setattr(_ptx, "_libdevice", lambda: None)
    message = refused(world_of(step))
    assert "it needs sin of NVIDIA's libdevice.10.bc" in message
    assert "metafast.envs.math" in message


def test_what_numba_refuses_is_refused_with_its_message():
    def step(state, action, rng):
        return state.y, False

    assert "state has no field 'y'" in refused(world_of(step))


def test_helpers_that_numba_has_vectorised_are_taken_apart(tmp_path):
    def total(values):
        result = 0.0
        for k in range(64):
            result += math.exp(values[k])
            values[k] = math.atan2(values[k], 2.0)
        return result

    def step(state, action, rng):
        state.x = total(state.values)
        return 0.0, False

    needs_libdevice()
    ptx = kernels_of(world_of(step, {"x": np.float64, "values": (np.float64, 64)})).ptx
    if shutil.which("ptxas"):
        assemble(ptx.text, "sm_90", tmp_path)


def test_a_function_of_lanes():
    text = (
        "declare noundef <2 x double> @llvm.pow.v2f64(<2 x double>, <2 x double>) #1\n"
        "define <2 x double> @f(<2 x double> %x, <2 x double> %y) {\n"
        "  %z = tail call <2 x double> @llvm.pow.v2f64(<2 x double> %x, <2 x double> %y)\n"
        "  ret <2 x double> %z\n}\n"
    )
    taken_apart = _ptx._functions_of_libdevice(text)
    assert "llvm.pow" not in taken_apart
    assert taken_apart.count("call double @__nv_pow(double ") == 2
    module = _ptx.optimised(taken_apart, _ptx.target_machine(), ["f"])
    assert _ptx._unknown(module) == {"__nv_pow"}


def test_remainders_are_the_c_librarys():
    def step(state, action, rng):
        state.x = (state.x + 1e9) % 0.7
        return 0.0, False

    needs_libdevice()
    world = world_of(step)
    module = _kernels.emit_kernels(
        "remainders", world._functions, [], world._layout, world._action, world._observation,
        ActionLayout.of(world.action_space, np.int64),
    )  # fmt: skip
    seen = []
    original = _ptx._with_libdevice
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ptx, "_with_libdevice", lambda text, *rest: (seen.append(text), original(text, *rest))[1])
        _ptx.compile_ptx(module, "remainders", list(_kernels.ARGUMENTS))
    assert "@__nv_fmod(" in seen[0]
    assert " frem " not in seen[0]


def test_conversions_to_integers_are_by_way_of_64_bits():
    text = (
        "define i8 @f(float %0, double %1) {\n"
        "  %3 = fptoui float %0 to i8\n"
        "  %4 = fptosi double %1 to i32\n"
        "  %5 = trunc i32 %4 to i8\n"
        "  %6 = xor i8 %3, %5\n"
        "  ret i8 %6\n}\n"
    )
    changed = _ptx._integers_of_floats(text)
    assert changed.count("to i64\n") == 2
    assert "fptoui" not in changed
    _ptx.optimised(changed, _ptx.target_machine(), ["f"])


def test_found_in_the_cache(monkeypatch):
    first = kernels_of(worlds.Fragile)
    monkeypatch.setattr(_device, "emit_kernels", None)
    again = kernels_of(worlds.Fragile)
    assert again.name == first.name
    assert again.ptx == first.ptx
    raised = [_ptx.exception_of(content) for content in again.ptx.exceptions]
    assert {type(error) for error, _ in raised} == {ValueError, RuntimeError, IndexError}
    assert next(place for error, place in raised if str(error) == "odd").endswith("in step")


def test_constants_are_a_part_of_the_key():
    def world_with(bound):
        def step(state, action, rng):
            state.x = vector_math.sin(bound)
            return 0.0, False

        return world_of(step)

    assert kernels_of(world_with(1.0)).name != kernels_of(world_with(2.0)).name
