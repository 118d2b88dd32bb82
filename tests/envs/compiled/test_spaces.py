"""Every kind of space, as observation and as action."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from metafast.envs import compile_env

NUM_ENVS = 3


def echoing(action_space, observation_space, size):
    """Keeps the last action as numbers and shows it."""

    @compile_env(observation_space=observation_space, action_space=action_space, state={"seen": (np.float64, size)})
    class Echo:
        def reset(state, rng):
            state.seen[:] = 0.0

        def step(state, action, rng):
            values = np.asarray(action)
            for k in range(size):
                state.seen[k] = values.reshape(-1)[k]
            return state.seen.sum(), False

        def observe(state, observation):
            for k in range(size):
                observation.reshape(-1)[k] = state.seen[k]

    return Echo


CASES = [
    (Discrete(4), np.array([0, 3, 2])),
    (Discrete(4, start=-2), np.array([-2, 1, 0])),
    (MultiDiscrete([3, 5]), np.array([[0, 4], [2, 1], [1, 0]])),
    (MultiDiscrete([[3, 5], [2, 2]], start=[[0, 10], [0, 0]]), np.array([[[0, 12], [1, 1]]] * 3)),
    (MultiBinary(3), np.array([[0, 1, 1], [0, 0, 0], [1, 1, 1]], dtype=np.int8)),
    (MultiBinary((2, 2)), np.array([[[0, 1], [1, 1]]] * 3, dtype=np.int8)),
    (Box(-1, 1, (2,), np.float32), np.array([[0.5, -0.25], [0, 1], [-1, 0.125]], dtype=np.float32)),
    (Box(-5, 5, (2, 2), np.float64), np.arange(12, dtype=np.float64).reshape(3, 2, 2) / 16),
    (Box(0, 255, (2,), np.uint8), np.array([[0, 255], [3, 4], [5, 6]], dtype=np.uint8)),
    (Box(-100, 100, (1,), np.int16), np.array([[-100], [100], [7]], dtype=np.int16)),
    (Box(-1, 1, (), np.float32), np.array([0.5, -1, 0.25], dtype=np.float32)),
]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(("space", "actions"), CASES, ids=lambda case: str(case) if not hasattr(case, "sum") else "")
def test_the_functions_see_the_actions_and_the_caller_the_observations(space, actions, debug):
    size = int(np.prod(space.shape))
    env = echoing(space, space, size).make_vec(NUM_ENVS, debug=debug)
    observations, _ = env.reset(seed=0)
    assert observations.shape == (NUM_ENVS, *space.shape)
    assert observations.dtype == space.dtype
    observations, rewards, *_ = env.step(actions)
    np.testing.assert_array_equal(observations, actions)
    np.testing.assert_array_equal(rewards, actions.reshape(NUM_ENVS, -1).astype(np.float64).sum(1).astype(np.float32))
    # A wider type of the same kind serves as well; what is no action changes nothing.
    wider = {"f": np.float64, "i": np.int64, "u": np.int64}[actions.dtype.kind]
    np.testing.assert_array_equal(env.step(actions.astype(wider))[0], actions)
    bad = actions.astype(wider)
    bad[1] = np.nan if wider is np.float64 else 10_000
    with pytest.raises(ValueError, match=r"actions\[1"):
        env.step(bad)
    np.testing.assert_array_equal(env.step(actions)[0], actions)
    assert env.action_space.contains(actions)


@pytest.mark.parametrize(
    "space", [Box(-np.inf, np.inf, (2, 3), np.float64), Box(0, 1, (2,), np.bool_), MultiDiscrete([9, 9])], ids=str
)
def test_observations_of_other_kinds_than_the_actions(space):
    size = int(np.prod(space.shape))
    env = echoing(Box(0, 1, (size,), np.float32), space, size).make_vec(NUM_ENVS)
    env.reset(seed=0)
    actions = np.ones((NUM_ENVS, size), dtype=np.float32)
    observations = env.step(actions)[0]
    assert observations.dtype == space.dtype
    np.testing.assert_array_equal(observations, np.ones((NUM_ENVS, *space.shape), dtype=space.dtype))


def test_actions_are_read_only():
    @compile_env(observation_space=Discrete(2), action_space=MultiBinary(2), state={"x": np.int64})
    class Writes:
        def reset(state, rng):
            state.x = 0

        def step(state, action, rng):
            action[0] = 1
            return 0.0, False

        def observe(state, observation):
            observation[0] = state.x

    with pytest.raises(TypeError, match=r"Writes does not compile(.|\n)*[Cc]annot modify readonly array"):
        Writes.make_vec(2)
    env = Writes.debug(2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="read-only"):
        env.step(np.zeros((2, 2), dtype=np.int8))


def test_fields_of_every_type_round_and_wrap_as_in_plain_python():
    types = (np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.float32, np.float64)

    @compile_env(
        observation_space=Box(-np.inf, np.inf, (10,), np.float64),
        action_space=Box(-np.inf, np.inf, (1,), np.float64),
        state={f"f{k}": kind for k, kind in enumerate(types)} | {f"a{k}": (kind, 2) for k, kind in enumerate(types)},
    )
    class Fields:
        def reset(state, rng):
            state.f9 = 0.0

        def step(state, action, rng):
            n = int(action[0])
            state.f0, state.a0[1] = n != 0, n != 0
            state.f1, state.a1[1] = n, n
            state.f2, state.a2[1] = n, n
            state.f3, state.a3[1] = n, n
            state.f4, state.a4[1] = n, n
            state.f5, state.a5[1] = n, n
            state.f6, state.a6[1] = n, n
            state.f7, state.a7[1] = n, n
            state.f8, state.a8[1] = action[0], action[0]
            state.f9, state.a9[1] = action[0], action[0]
            return state.f1 + state.f8, False

        def observe(state, observation):
            observation[0] = state.f0
            observation[1] = state.f1
            observation[2] = state.f2
            observation[3] = state.f3
            observation[4] = state.f4
            observation[5] = state.f5
            observation[6] = state.f6
            observation[7] = state.f7
            observation[8] = state.f8
            observation[9] = state.f9

    env = Fields.make_vec(4)
    env.reset(seed=0)
    values = np.array([[0.1], [100.7], [-3.0], [126.5]])
    observations, rewards, *_ = env.step(values)
    whole = values[:, 0].astype(np.int64)
    expected = np.stack([whole.astype(kind) for kind in types[:8]] + [values[:, 0].astype(k) for k in types[8:]], 1)
    np.testing.assert_array_equal(observations, expected)
    np.testing.assert_array_equal(rewards, (whole + values[:, 0].astype(np.float32)).astype(np.float32))
    state = env.get_state()["state"]
    for k in range(10):
        np.testing.assert_array_equal(state[f"a{k}"][:, 1], state[f"f{k}"])
        assert not state[f"a{k}"][:, 0].any()
