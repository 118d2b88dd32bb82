"""Users' environments on a CUDA device, or their kernels run on the CPU thread by thread, against the CPU's."""

import numpy as np
import pytest
from envs.compiled import ptx_on_host, worlds
from envs.compiled.worlds import WORLDS, random_actions
from gymnasium.spaces import Box, Discrete

from metafast.envs import compile_env, make_vec

torch = pytest.importorskip("torch")


@pytest.fixture
def make(device, monkeypatch):
    return ptx_on_host.maker(device, monkeypatch)


def on(env, array):
    return torch.from_numpy(np.ascontiguousarray(array)).to(env.device)


def assert_same(ours, theirs, what):
    ours = ours.cpu().numpy() if isinstance(ours, torch.Tensor) else ours
    assert ours.dtype == theirs.dtype, what
    np.testing.assert_array_equal(ours, theirs, err_msg=what)


def assert_same_state(env, cpu):
    ours, theirs = env.get_state(), cpu.get_state()
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert_same(ours[key], theirs[key], key)


def assert_same_step(env, cpu, actions, where):
    outcome, expected = env.step(on(env, actions)), cpu.step(actions)
    for name, ours, theirs in zip(
        ("observations", "rewards", "terminated", "truncated"), outcome, expected, strict=False
    ):
        assert_same(ours, theirs, f"{name} {where}")
    ended = expected[2] | expected[3]
    if str(env.autoreset_mode.value) == "SameStep":
        assert_same(outcome[4]["_final_obs"], ended, f"_final_obs {where}")
        assert_same(outcome[4]["final_obs"].cpu().numpy()[ended], cpu.final_observations[ended], f"final_obs {where}")
    return ended


@pytest.mark.parametrize(
    ("mode", "num_envs"), [("next_step", 257), ("next_step", 1), ("same_step", 7), ("disabled", 7)]
)
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: f"{world.__name__}{WORLDS.index(world)}")
def test_trajectories_are_the_cpus_to_the_bit(make, world, mode, num_envs):
    options = {"autoreset_mode": mode, "max_episode_steps": 6}
    env, cpu = make(world, num_envs, **options), world.make_vec(num_envs, **options)
    assert_same(env.reset(seed=3)[0], cpu.reset(seed=3)[0], "reset")
    for t, actions in enumerate(random_actions(cpu, 15)):
        ended = assert_same_step(env, cpu, actions, f"of step {t}")
        if mode == "disabled" and ended.any():
            options = {"reset_mask": ended}
            assert_same(env.reset(options=options)[0], cpu.reset(options=options)[0], f"reset after step {t}")
    assert_same_state(env, cpu)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8])
@pytest.mark.parametrize("world", [worlds.Lamps, worlds.Maze], ids=["Lamps", "Maze"])
def test_integer_actions_of_any_type(make, world, dtype):
    env, cpu = make(world, 5), world.make_vec(5)
    env.reset(seed=1), cpu.reset(seed=1)
    for actions in random_actions(cpu, 4):
        ours, theirs = env.step(on(env, actions).to(dtype)), cpu.step(actions)
        assert_same(ours[0], theirs[0], "observations")
        assert_same(ours[1], theirs[1], "rewards")


def test_states_are_exchanged_with_the_cpu(make):
    env, cpu = make(worlds.NoisyPoint, 7), worlds.NoisyPoint.make_vec(7)
    env.reset(seed=2), cpu.reset(seed=9)
    actions = random_actions(cpu, 30)
    for t in range(10):
        env.step(on(env, actions[t]))
    cpu.set_state(env.get_state())
    for t in range(10, 20):
        assert_same_step(env, cpu, actions[t], t)
    for t in range(20, 30):
        cpu.step(actions[t])
    env.set_state(cpu.get_state())
    assert_same_step(env, cpu, actions[0], "after the exchange")


WRONG = {
    worlds.Maze: [(2, 4), (0, -1)],
    worlds.NoughtsAndCrosses: [(0, 0), (6, 10)],
    worlds.NoisyPoint: [((3, 1), np.nan), ((1, 0), -np.inf)],
    worlds.Sums: [((5, 1, 0), 4), ((0, 1, 1), 1)],
    worlds.Lamps: [((4, 3), 2)],
}


@pytest.mark.parametrize("world", WRONG, ids=lambda world: world.__name__)
def test_an_environment_whose_action_is_none_stays_as_it_was(make, world):
    env, cpu = make(world, 7), world.make_vec(7)
    env.reset(seed=4), cpu.reset(seed=4)
    for where, value in WRONG[world]:
        actions = random_actions(cpu, 1)[0]
        index = where if isinstance(where, int) else where[0]
        before = env.get_state()
        wrong = actions.copy()
        wrong[where] = value
        observations, rewards, terminated, truncated, _ = env.step(on(env, wrong))
        with pytest.raises(ValueError, match=f"that of environment {index} in an earlier step"):
            env.check_faults()
        after = env.get_state()
        for key in before:
            assert before[key][index].tobytes() == after[key][index].tobytes(), key
        assert rewards[index] == 0
        assert not terminated[index]
        assert not truncated[index]
        expected = cpu.step(actions)
        others = np.arange(7) != index
        assert_same(observations.cpu().numpy()[others], expected[0][others], "observations")
        assert_same(rewards.cpu().numpy()[others], expected[1][others], "rewards")
        cpu.set_state(after)


def test_an_ended_environment_is_not_stepped_in_disabled_mode(make):
    options = {"autoreset_mode": "disabled", "max_episode_steps": 2}
    env = make(worlds.VectorCartPole, 3, **options)
    env.reset(seed=0)
    actions = on(env, np.ones(3, dtype=np.int64))
    env.step(actions)
    assert env.step(actions)[3].all()
    before = env.get_state()
    shown = env.final_observations
    observations, rewards, *_ = env.step(actions)
    with pytest.raises(ValueError, match="has ended, and with autoreset_mode='disabled' it must be reset"):
        env.get_state()
    assert (rewards == 0).all()
    assert_same(observations, shown.cpu().numpy(), "observations")
    assert env.get_state()["state"].tobytes() == before["state"].tobytes()


@compile_env(
    observation_space=Box(-1000, 1000, (3,), np.float64),
    action_space=Discrete(4),
    state={"table": (np.int16, 3), "count": np.float32},
    max_episode_steps=3,
)
class Risky:
    """Writes its state, then raises: in step for action 1, where it is observed after action 2, in reset after 3."""

    def reset(state, rng):
        state.table[1] = rng.integers(1, 100)
        state.count = 0.5

    def step(state, action, rng):
        for k in range(3):
            state.table[k] += 1 + action
        state.count += 1
        if action == 1:
            raise ValueError("one", state.count)
        if action == 2:
            state.table[0] = -1
        return 1.0, action == 3

    def observe(state, observation):
        for k in range(3):
            observation[k] = state.table[k]
        if state.table[0] == -1:
            observation[0] = state.table[int(state.table[1]) + 3]


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_where_the_code_raises_an_environment_stays_as_it_was(make, mode):
    env = make(Risky, 5, autoreset_mode=mode)
    first = env.reset(seed=7)[0].cpu().numpy()
    for action, error, place in ((1, ValueError("one"), True), (2, IndexError("out of bounds"), False)):
        before = env.get_state()
        actions = np.zeros(5, dtype=np.int64)
        actions[3] = action
        observations, rewards, terminated, truncated, _ = env.step(on(env, actions))
        with pytest.raises(type(error), match=str(error)) as raised:
            env.step(on(env, actions))
        notes = "\n".join(raised.value.__notes__)
        if action == 1:
            assert raised.value.args == ("one", "?")
        assert "in environment 3 of Risky, which stayed as it was" in notes
        assert (f'File "{__file__}"' in notes and "in step" in notes) == place
        after = env.get_state()
        for key in before:
            assert (before[key][3] == after[key][3]).all(), key
        for key in ("state", "elapsed_steps"):
            assert (before[key][:3] != after[key][:3]).all(), key
        assert rewards.tolist() == [1, 1, 1, 0, 1]
        assert not (terminated | truncated).any()
        assert observations[3].tolist() == first[3].tolist()
        assert (observations[:3, 0] == (1 if action == 1 else 2)).all()
    # The others end at their third step, whatever environment 3 does.
    *_, truncated, _ = env.step(on(env, np.zeros(5, dtype=np.int64)))
    assert truncated.tolist() == [True, True, True, False, True]


def test_a_reset_that_raises_tells_so_and_leaves_the_others(make):
    env = make(worlds.Fragile, 64)
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="seven") as raised:
        env.check_faults()
    index = int(raised.value.__notes__[0].split("environment ")[1].split()[0])
    state = env.get_state()
    assert state["episodes"][index] == 0
    assert set(state["episodes"].tolist()) == {0, 1}
    assert state["episodes"].sum() > 40


def test_exceptions_of_steps_name_their_place(make):
    env = make(worlds.Fragile, 3)
    env.reset(seed=2)
    env.check_faults()
    env.step(on(env, np.zeros(3, dtype=np.int64)))
    counts = env.get_state()["state"]["count"]
    env.step(on(env, np.where(counts % 2 == 0, 2, 0)))
    with pytest.raises(ValueError, match="odd") as raised:
        env.check_faults()
    assert "worlds.py" in raised.value.__notes__[0]
    assert "in step" in raised.value.__notes__[0]


def test_pickled_and_made_by_name(make):
    import pickle

    env = make(worlds.Maze, 9, autoreset_mode="same_step")
    env.reset(seed=6)
    actions = random_actions(worlds.Maze.make_vec(9), 8)
    for t in range(4):
        env.step(on(env, actions[t]))
    other = pickle.loads(pickle.dumps(env))
    for t in range(4, 8):
        ours, theirs = env.step(on(env, actions[t])), other.step(on(other, actions[t]))
        for k in range(4):
            assert_same(ours[k], theirs[k].cpu().numpy(), k)
    env.close()
    env.close()


def test_debug_mode_is_the_cpus():
    with pytest.raises(ValueError, match="device must be None with debug=True"):
        worlds.Maze.make_vec(2, debug=True, device="cuda")


@compile_env(
    observation_space=Box(-np.inf, np.inf, (4,), np.float64),
    action_space=Box(-np.inf, np.inf, (4,), np.float64),
    state={"a": np.uint8, "b": np.int16, "c": (np.uint32, 1), "d": np.int64},
)
class Whole:
    """Floats that become integers of every size."""

    def reset(state, rng):
        state.a = 0

    def step(state, action, rng):
        state.a = action[0]
        state.b = action[1]
        state.c[0] = action[2]
        state.d = action[3] * action[3] * action[3]
        return state.a, False

    def observe(state, observation):
        observation[0] = state.a
        observation[1] = state.b
        observation[2] = state.c[0]
        observation[3] = state.d


def test_floats_beyond_the_integers_wrap_round(make):
    """As in plain Python; what machine code of the CPU does beyond 32 bits depends on its instructions."""
    values = [-1.5, 300.7, -70_000.2, 3e9, 1e15 + 7, -0.0, 1e300, -1e300, 2.0**21, -(2.0**21)]
    env, plain = make(Whole, len(values)), Whole.make_vec(len(values), debug=True)
    env.reset(seed=0), plain.reset(seed=0)
    actions = np.repeat(np.array(values)[:, None], 4, axis=1)
    assert_same(env.step(on(env, actions))[0], plain.step(actions)[0], "observations")
    assert env.get_state()["state"].tobytes() == plain.get_state()["state"].tobytes()


class DeviceWalk:
    def reset(state, rng):
        state.place = rng.integers(1, 4)

    def step(state, action, rng):
        state.place += 2 * action - 1
        return state.place, state.place == 0 or state.place == 4

    def observe(state, observation):
        observation[0] = state.place


def test_made_by_its_id(make):
    # Here, and not above: whoever goes over all ids is not to meet it.
    registered = compile_env(
        observation_space=Discrete(5),
        action_space=Discrete(2),
        state={"place": np.int32},
        max_episode_steps=9,
        id="DeviceWalk-v0",
    )(DeviceWalk)
    make(registered, 1)
    env, cpu = make_vec("DeviceWalk-v0", 4, device="cuda", copy=False), make_vec("DeviceWalk-v0", 4)
    first = env.reset(seed=1)[0]
    assert_same(first, cpu.reset(seed=1)[0], "reset")
    for actions in random_actions(cpu, 12):
        outcome = env.step(on(env, actions))
        assert outcome[0] is first
        assert_same(outcome[0], cpu.step(actions)[0], "observations")
    assert env.get_attr("place") == cpu.get_attr("place")
    assert env.spec.id == "metafast/DeviceWalk-v0"
