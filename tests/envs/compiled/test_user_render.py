"""Frames of a user's environments, from the class's own `render`."""

import copy

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.env_checker import check_env

from metafast.envs import check_vector_env, compile_env, make, make_vec

WIDTH = 16


DECLARED = {
    "observation_space": Box(0, 1, (WIDTH,), np.float32),
    "action_space": Discrete(2),
    "state": {"heights": (np.float32, (WIDTH,)), "place": np.int32},
}


@compile_env(**DECLARED, max_episode_steps=4, render_fps=7)
class Painted:
    def reset(state, rng):
        for k in range(WIDTH):
            state.heights[k] = rng.random()
        state.place = 0

    def step(state, action, rng):
        state.place = min(max(state.place + 2 * action - 1, 0), WIDTH - 1)
        return float(state.heights[state.place]), False

    def observe(state, observation):
        observation[:] = state.heights

    def render(state):
        # What Numba would refuse: it is never compiled.
        colours = {"ground": 40, "here": 255}
        frame = np.zeros((16, WIDTH, 3), np.uint8)
        frame[0, :, 0] = np.round(np.asarray(state.heights) * 200)
        frame[1, :] = colours["ground"]
        frame[1, state.place] = colours["here"]
        return frame


def with_render(render, **options):
    functions = {name: getattr(Painted, name) for name in ("reset", "step", "observe")}
    return compile_env(**DECLARED, **options)(type("Painting", (), functions | {"render": render}))


def expected(state):
    frames = np.zeros((len(state), 16, WIDTH, 3), np.uint8)
    frames[:, 0, :, 0] = np.round(state["heights"] * np.float32(200))
    frames[:, 1] = 40
    frames[np.arange(len(state)), 1, state["place"]] = 255
    return frames


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_frames_are_of_the_present_state(mode, debug):
    env = Painted.make_vec(3, debug=debug, autoreset_mode=mode, render_mode="rgb_array")
    assert env.metadata["render_modes"] == ["rgb_array"]
    assert env.metadata["render_fps"] == 7
    env.reset(seed=4)
    env.action_space.seed(0)
    for _ in range(6):
        before = env.get_state()
        frames = env.render()
        assert isinstance(frames, tuple)
        np.testing.assert_array_equal(frames, expected(before["state"]))
        for name, rows in env.get_state().items():
            np.testing.assert_array_equal(rows, before[name])
        env.step(env.action_space.sample())
    other = copy.deepcopy(env)
    np.testing.assert_array_equal(other.render(), env.render())


def test_it_draws_wherever_an_environment_is_made():
    with_render(Painted.render, max_episode_steps=4, id="Painted-v0")
    single = Painted.make(render_mode="rgb_array")
    single.reset(seed=1)
    np.testing.assert_array_equal(single.render(), expected(single.get_state()["state"])[0])
    check_env(make("Painted-v0", render_mode="rgb_array"))
    env = make_vec("Painted-v0", 2, render_mode="rgb_array")
    assert not check_vector_env(env).findings
    through_gymnasium = gymnasium.make("metafast/Painted-v0", render_mode="rgb_array")
    through_gymnasium.reset(seed=1)
    np.testing.assert_array_equal(through_gymnasium.render(), single.render())


def test_a_video_of_it(tmp_path):
    env = gymnasium.wrappers.vector.RecordVideo(
        Painted.make_vec(2, render_mode="rgb_array"),
        str(tmp_path / "videos"),
        step_trigger=lambda step: step == 0,
        video_length=3,
    )
    env.reset(seed=0)
    for _ in range(4):
        env.step(np.zeros(2, np.int64))
    env.close()
    assert [video.stat().st_size > 300 for video in tmp_path.glob("videos/*.mp4")] == [True]


def test_refusals():
    def with_self(self, state):
        return None

    def nothing(state):
        return None

    def grey(state):
        return np.zeros((4, 4), np.uint8)

    def unknown(state):
        return state.colour

    with pytest.raises(TypeError, match=r"render must be `def render\(state\)`"):
        with_render(with_self)
    for render, found in ((nothing, "None"), (grey, r"uint8 \(4, 4\)")):
        env = with_render(render).make_vec(2, render_mode="rgb_array")
        env.reset(seed=0)
        with pytest.raises(TypeError, match=rf"in .*{render.__name__}: render must return uint8 .* not {found}"):
            env.render()
    env = with_render(unknown).make_vec(2, render_mode="rgb_array")
    env.reset(seed=0)
    with pytest.raises(AttributeError, match="state has no field 'colour'; it has: heights, place"):
        env.render()
    assert with_render(grey).render is grey
    with pytest.raises(ValueError, match="render_mode must be None or 'rgb_array', not 'human'"):
        Painted.make_vec(2, render_mode="human")


def test_a_frame_outlives_the_next_one():
    canvas = np.zeros((2, 2, 3), np.uint8)

    def same_canvas(state):
        canvas[:] = int(100 * state.heights[0])
        return canvas

    env = with_render(same_canvas).make_vec(2, render_mode="rgb_array")
    env.reset(seed=0)
    first, second = env.render()
    assert first[0, 0, 0] != second[0, 0, 0]
