"""Frames: gymnasium's own renderers on our state."""

import copy
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

import metafast
from metafast.envs._catalogue import CATALOGUE

DRAWN = sorted(env_id for env_id in CATALOGUE if env_id in gymnasium.registry)


@pytest.mark.parametrize("env_id", DRAWN)
def test_frames_are_gymnasiums(env_id):
    """Of the same states, reached by the same actions, also right after a reset."""
    env = metafast.envs.make_vec(env_id, 2, exact=True, render_mode="rgb_array", max_episode_steps=6)
    singles = [gymnasium.make(env_id, render_mode="rgb_array", max_episode_steps=6) for _ in range(2)]
    env.reset(seed=3)
    for index, single in enumerate(singles):
        single.reset(seed=3 + index)
    env.action_space.seed(0)
    for _ in range(3):
        frames = env.render()
        assert isinstance(frames, tuple)
        for frame, single in zip(frames, singles, strict=True):
            assert frame.dtype == np.uint8
            np.testing.assert_array_equal(frame, single.render())
        actions = env.action_space.sample()
        env.step(actions)
        for single, action in zip(singles, actions, strict=True):
            single.step(action)
    assert not np.array_equal(frames[0], frames[1])


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_no_torque_is_drawn_after_a_reset(mode):
    env = metafast.envs.make_vec("Pendulum-v1", 2, render_mode="rgb_array", max_episode_steps=1, autoreset_mode=mode)
    env.reset(seed=0)
    env.step(np.full((2, 1), 2, np.float32))
    if mode == "next_step":
        env.step(np.full((2, 1), 2, np.float32))
    elif mode == "disabled":
        env.reset()
    single = gymnasium.make("Pendulum-v1", render_mode="rgb_array").unwrapped
    single.reset()
    single.state = env.get_state()["state"][1]
    np.testing.assert_array_equal(env.render()[1], single.render())


def test_a_frame_is_kept():
    env = metafast.envs.make("CartPole-v1", render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    kept = frame.copy()
    for _ in range(5):
        env.step(1)
        later = env.render()
    np.testing.assert_array_equal(frame, kept)
    assert not np.array_equal(frame, later)


@pytest.mark.parametrize("env_id", DRAWN)
def test_render_modes_are_told(env_id):
    env = metafast.envs.make_vec(env_id, 2, render_mode="rgb_array")
    assert env.metadata["render_modes"] == ["rgb_array"]
    assert env.metadata["render_fps"] == gymnasium.make(env_id).metadata["render_fps"]
    assert env.render_mode == "rgb_array"
    assert gymnasium.make_vec(env.spec).render_mode == "rgb_array"
    assert metafast.envs.make_vec(env_id, 2).render_mode is None


def test_stepping_is_the_same_with_frames():
    drawn, plain = (metafast.envs.make_vec("Pendulum-v1", 3, render_mode=mode) for mode in ("rgb_array", None))
    drawn.reset(seed=1)
    plain.reset(seed=1)
    for _ in range(5):
        actions = plain.action_space.sample()
        drawn.render()
        np.testing.assert_array_equal(drawn.step(actions)[0], plain.step(actions)[0])
    with pytest.raises(ValueError, match="actions"):
        drawn.step(actions[:2])
    assert len(drawn.render()) == 3


def test_copies_draw():
    env = metafast.envs.make_vec("Pendulum-v1", 2, render_mode="rgb_array")
    env.reset(seed=1)
    env.step(np.full((2, 1), 2, np.float32))
    first = env.render()
    other = copy.deepcopy(env)
    env.close()
    for mine, theirs in zip(first, other.render(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_refusals():
    with pytest.raises(ValueError, match=r"render_mode must be None or 'rgb_array', not 'human'.*HumanRendering"):
        metafast.envs.make_vec("CartPole-v1", 2, render_mode="human")
    with pytest.raises(ValueError, match="render_mode must be None or 'rgb_array', not 'ansi'"):
        metafast.envs.make("CartPole-v1", render_mode="ansi")
    with pytest.raises(ValueError, match="render_mode is None"):
        metafast.envs.make_vec("CartPole-v1", 2).render()
    with pytest.raises(ResetNeeded):
        metafast.envs.make_vec("CartPole-v1", 2, render_mode="rgb_array").render()


def test_environments_that_draw_nothing():
    with pytest.raises(ValueError, match="render_mode must be None: Bandit-v0 draws nothing"):
        metafast.envs.make_vec("Bandit-v0", 2, render_mode="rgb_array")
    assert metafast.envs.make_vec("Bandit-v0", 2).metadata["render_modes"] == []


def test_without_pygame():
    program = """
import sys
sys.modules["pygame"] = None
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "pygame" else find_spec(name, *rest)
import gymnasium, metafast
try:
    metafast.envs.make_vec("CartPole-v1", 2, render_mode="rgb_array")
except gymnasium.error.DependencyNotInstalled as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert 'pip install "gymnasium[classic-control]"' in result.stdout, result.stderr


@pytest.mark.parametrize("mode", ["next_step", "disabled"])
def test_videos_are_recorded(mode, tmp_path):
    env = metafast.envs.make_vec("CartPole-v1", 2, render_mode="rgb_array", autoreset_mode=mode, max_episode_steps=4)
    env = gymnasium.wrappers.vector.RecordVideo(
        env, str(tmp_path / "videos"), step_trigger=lambda step: step == 0, video_length=3
    )
    env.reset(seed=0)
    for _ in range(4):
        env.step(np.zeros(2, np.int64))
    env.close()
    videos = list(tmp_path.glob("videos/*.mp4"))
    assert len(videos) == 1
    assert videos[0].stat().st_size > 500


def test_a_video_of_one(tmp_path):
    env = gymnasium.make("metafast/CartPole-v1", render_mode="rgb_array", max_episode_steps=4)
    env = gymnasium.wrappers.RecordVideo(env, str(tmp_path / "videos"), episode_trigger=lambda episode: True)
    env.reset(seed=0)
    for _ in range(4):
        env.step(0)
    env.close()
    assert len(list(tmp_path.glob("videos/*.mp4"))) == 1
