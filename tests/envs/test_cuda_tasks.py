"""The task distributions on the device against the CPU's, step for step from the same seeds: to the bit."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import metafast

torch = pytest.importorskip("torch")

MODES = ["next_step", "same_step", "disabled"]
BANDITS = [
    {"arms": 2, "pulls": 1},
    {"arms": 5, "pulls": 10},
    {"arms": 50, "pulls": 10},
    {"arms": 1, "pulls": 6},
]
TABLES = [
    {"states": 1, "actions": 1, "horizon": 1, "episodes": 1},
    {"states": 2, "actions": 3, "horizon": 2, "episodes": 3},
    {"states": 10, "actions": 5, "horizon": 4, "episodes": 2},
    # Rows of two lines.
    {"states": 16, "actions": 2, "horizon": 5, "episodes": 1},
]
LEARNERS = [
    {"features": 1, "examples": 1, "steps": 1},
    {"features": 5, "examples": 20, "steps": 7, "noise": 0.3, "split": "test"},
    {"features": 8, "examples": 3, "steps": 7, "problem": "classification"},
    # More features than the registers take.
    {"features": 9, "examples": 4, "steps": 7, "problem": "classification", "action": "coefficients"},
    {"features": 2, "examples": 6, "steps": 7, "action": "coefficients", "ridge": 0.1},
]
meta = pytest.mark.parametrize("meta_observation", [False, True])
modes = pytest.mark.parametrize("mode", MODES)
sizes = pytest.mark.parametrize("num_envs", [1, 7, 257])


def assert_same(ours, theirs):
    np.testing.assert_array_equal(ours.cpu().numpy(), theirs)


class Pair:
    """The same environments on the CPU and on the device, which everything is asked of and compared."""

    def __init__(self, env_id, num_envs, **kwargs):
        self.cpu = metafast.envs.make_vec(env_id, num_envs, **kwargs)
        self.device = metafast.envs.make_vec(env_id, num_envs, device="cuda", **kwargs)
        self.rng = np.random.default_rng(num_envs)

    def reset(self, **kwargs):
        assert_same(self.device.reset(**kwargs)[0], self.cpu.reset(**kwargs)[0])
        self.ended = np.zeros(self.cpu.num_envs, bool)

    def reset_some(self, probability):
        """Reset those that ended and others, which are then out of step with the rest; with probability 1 all."""
        mask = self.rng.random(self.cpu.num_envs) < probability
        mask |= self.ended
        if mask.any():
            self.reset(options={"reset_mask": mask})

    def actions(self):
        space = self.cpu.single_action_space
        if hasattr(space, "n"):
            return self.rng.integers(0, space.n, self.cpu.num_envs)
        # Rates that do not diverge, some of them out of bounds.
        high = np.minimum(space.high, -0.5) if space.shape == (1,) else 0.1 * space.high
        low = space.low - 0.2 if space.shape == (1,) else -0.1 * space.high
        return self.rng.uniform(low, high, (self.cpu.num_envs, *space.shape)).astype(np.float32)

    def step(self):
        actions = self.actions()
        observations, rewards, terminated, truncated, infos = self.cpu.step(actions)
        ours = self.device.step(torch.from_numpy(actions).to(self.device.device))
        assert_same(ours[0], observations)
        assert_same(ours[1], rewards)
        assert_same(ours[2], terminated)
        assert_same(ours[3], truncated)
        self.ended = terminated | truncated
        if "final_obs" in infos:
            assert_same(ours[4]["_final_obs"], infos["_final_obs"])
            assert_same(ours[4]["final_obs"][self.ended], np.stack(infos["final_obs"][self.ended]))
        return rewards

    def compare_states(self):
        ours, theirs = self.device.get_state(), self.cpu.get_state()
        assert ours.keys() == theirs.keys()
        for key in ("elapsed_steps", "ended", "seeds", "episodes"):
            np.testing.assert_array_equal(ours[key], theirs[key])
        ours, theirs, elapsed = ours["state"], theirs["state"], theirs["elapsed_steps"]
        assert ours.dtype == theirs.dtype
        if ours.dtype.names is None:
            return np.testing.assert_array_equal(ours, theirs)
        for name in ours.dtype.names:
            # At a task's beginning a bandit's words are still those of the one before.
            where = elapsed > 0 if name.startswith("random_word") else slice(None)
            np.testing.assert_array_equal(ours[name][where], theirs[name][where])

    def replay(self, mode, num_steps, seed=17):
        self.reset(seed=seed)
        self.compare_states()
        for t in range(num_steps):
            if (mode == "disabled" and self.ended.any()) or t % 5 == 3:
                self.reset_some(0.2)
            self.step()
        self.compare_states()


@modes
@meta
@sizes
@pytest.mark.parametrize("kwargs", BANDITS)
def test_bandits_are_the_cpus_to_the_bit(device, kwargs, num_envs, meta_observation, mode):
    pair = Pair("Bandit-v0", num_envs, meta_observation=meta_observation, autoreset_mode=mode, **kwargs)
    pair.replay(mode, 14)


@modes
@meta
@sizes
@pytest.mark.parametrize("kwargs", TABLES)
def test_random_processes_are_the_cpus(device, kwargs, num_envs, meta_observation, mode):
    pair = Pair("TabularMDP-v0", num_envs, meta_observation=meta_observation, autoreset_mode=mode, **kwargs)
    pair.replay(mode, 11)


@modes
@sizes
@pytest.mark.parametrize("kwargs", LEARNERS)
def test_learners_are_the_cpus(device, kwargs, num_envs, mode):
    Pair("LearnerTasks-v0", num_envs, autoreset_mode=mode, **kwargs).replay(mode, 11)


flags = st.booleans()
ANY_TASK = st.one_of(
    st.fixed_dictionaries({"arms": st.integers(1, 40), "pulls": st.integers(1, 9), "meta_observation": flags}).map(
        lambda kwargs: ("Bandit-v0", kwargs)
    ),
    st.fixed_dictionaries(
        {
            "states": st.integers(1, 33),
            "actions": st.integers(1, 5),
            "horizon": st.integers(1, 4),
            "episodes": st.integers(1, 3),
            "meta_observation": flags,
        }
    ).map(lambda kwargs: ("TabularMDP-v0", kwargs)),
    st.fixed_dictionaries(
        {
            "features": st.integers(1, 12),
            "examples": st.integers(1, 7),
            "steps": st.integers(1, 9),
            "problem": st.sampled_from(["regression", "classification"]),
            "action": st.sampled_from(["learning_rate", "coefficients"]),
            "feature_scales": st.sampled_from([1.0, (0.5, 2.0)]),
        }
    ).map(lambda kwargs: ("LearnerTasks-v0", kwargs)),
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    task=ANY_TASK,
    num_envs=st.sampled_from([1, 2, 31, 32, 33, 255, 256, 257, 300]),
    mode=st.sampled_from(MODES),
    max_episode_steps=st.none() | st.integers(1, 8),
    seed=st.integers(0, 2**64 - 400),
    copy=flags,
)
def test_any_task(device, task, num_envs, mode, max_episode_steps, seed, copy):
    env_id, kwargs = task
    options = {"autoreset_mode": mode, "max_episode_steps": max_episode_steps, "copy": copy}
    Pair(env_id, num_envs, **options, **kwargs).replay(mode, 9, seed)


@pytest.mark.parametrize("arms", [36, 37, 300])
def test_long_rows(device, arms):
    Pair("Bandit-v0", 270, arms=arms, pulls=3, meta_observation=True).replay("next_step", 6)


TASKS = [
    ("Bandit-v0", {"arms": 3, "pulls": 9, "meta_observation": True}),
    ("TabularMDP-v0", {"states": 4, "actions": 2, "horizon": 3, "episodes": 2, "meta_observation": True}),
    ("LearnerTasks-v0", {"features": 3, "examples": 5, "steps": 6}),
]
tasks = pytest.mark.parametrize(("env_id", "kwargs"), TASKS)


@tasks
def test_each_continues_from_the_others_state(device, env_id, kwargs):
    """In the middle of four pulls, of an inner episode, of a descent; there and back."""
    pair = Pair(env_id, 259, **kwargs)
    for env in (pair.cpu, pair.device):
        env.reset(seed=3)
    for _ in range(5):
        pair.cpu.step(pair.actions())
    pair.device.set_state(pair.cpu.get_state())
    pair.compare_states()
    for _ in range(6):
        pair.step()
    for _ in range(4):
        pair.device.step(torch.from_numpy(pair.actions()).to(pair.device.device))
    pair.cpu.set_state(pair.device.get_state())
    for _ in range(6):
        pair.step()
    pair.compare_states()


@tasks
def test_truncated_tasks_are_the_cpus(device, env_id, kwargs):
    pair = Pair(env_id, 9, max_episode_steps=4, autoreset_mode="same_step", **kwargs)
    pair.replay("same_step", 10)


def test_words_are_drawn_for_whoever_begins_four_pulls(device):
    """With a seed changed in the middle of four pulls, and neighbours at other pulls."""
    pair = Pair("Bandit-v0", 7, pulls=50, arms=2)
    pair.reset(seed=5)
    pair.step()
    state = pair.cpu.get_state()
    state["seeds"][0] = 2**64 - 1
    state["elapsed_steps"][1:5] = [4, 5, 2, 47]
    state["episodes"][6] = 2**33
    for env in (pair.cpu, pair.device):
        env.set_state(state)
    for _ in range(9):
        pair.step()
    pair.compare_states()


def test_rewards_vary(device):
    """The comparison above would not notice environments that pay nothing."""
    for env_id, kwargs in TASKS:
        pair = Pair(env_id, 64, **kwargs)
        pair.reset(seed=1)
        assert len(np.unique(np.concatenate([pair.step() for _ in range(4)]))) > 1
