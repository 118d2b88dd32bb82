"""State, pickling, copies, closing, threads that collide, and other processes."""

import copy
import multiprocessing
import os
import pickle
import threading

import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, ResetNeeded

import metafast

MODES = ("next_step", "same_step", "disabled")


def make(num_envs=6, **kwargs):
    return metafast.envs.make_vec("CartPole-v1", num_envs, **kwargs)


def assert_same_future(first, second, num_steps=60):
    actions = np.random.default_rng(0).integers(0, 2, (num_steps, first.num_envs))
    for row in actions:
        steps = first.step(row), second.step(row)
        for ours, theirs in zip(steps[0][:4], steps[1][:4], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        if first.metadata["autoreset_mode"].value == "Disabled":
            ended = steps[0][2] | steps[0][3]
            if ended.any():
                for env in (first, second):
                    env.reset(options={"reset_mask": ended})


DUPLICATES = {
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "deepcopy": copy.deepcopy,
    "state": lambda env: with_state(make(autoreset_mode=env.autoreset_mode), env.get_state()),
}


def with_state(env, state):
    env.set_state(state)
    return env


@pytest.mark.parametrize("how", DUPLICATES)
@pytest.mark.parametrize("mode", MODES)
def test_a_duplicate_has_the_same_future(how, mode):
    env = make(autoreset_mode=mode)
    env.reset(seed=4)
    for _ in range(8):
        env.step([1] * 6)
    # In next_step mode some environments now wait for their reset.
    duplicate = DUPLICATES[how](env)
    assert duplicate.metadata == env.metadata
    assert_same_future(env, duplicate)


def test_pickle_keeps_the_rest():
    env = make(max_episode_steps=77, copy=False, num_threads=2, sutton_barto_reward=True)
    loaded = pickle.loads(pickle.dumps(env))
    assert (loaded.max_episode_steps, loaded.copy, loaded.num_threads, loaded.spec) == (77, False, 2, env.spec)
    with pytest.raises(ResetNeeded):
        loaded.step([0] * 6)
    loaded.reset(seed=0)
    assert (loaded.step([0] * 6)[1] == 0).all()
    env.close()
    with pytest.raises(ClosedEnvironmentError):
        pickle.loads(pickle.dumps(env)).reset()


def test_state_is_a_copy():
    env = make()
    env.reset(seed=0)
    state = env.get_state()
    state["state"][:] = 9
    assert np.abs(env.get_state()["state"]).max() < 0.06


GOOD_STATE = {
    "state": np.zeros((6, 4)),
    "elapsed_steps": np.zeros(6, dtype=np.int32),
    "ended": np.zeros(6, dtype=bool),
    "seeds": np.zeros(6, dtype=np.uint64),
    "episodes": np.zeros(6, dtype=np.uint64),
}
BAD_STATES = {
    "None": (None, "keys state"),
    "missing key": ({key: value for key, value in GOOD_STATE.items() if key != "seeds"}, "keys state"),
    "unknown key": (GOOD_STATE | {"velocity": 0}, "keys state"),
    "float32": (GOOD_STATE | {"state": np.zeros((6, 4), dtype=np.float32)}, "'state'.*float64.*float32"),
    "list": (GOOD_STATE | {"state": [[0.0] * 4] * 6}, "'state'.*float64.*list"),
    "shape": (GOOD_STATE | {"state": np.zeros((4, 6))}, r"'state'.*\(6, 4\).*\(4, 6\)"),
    "fewer": (GOOD_STATE | {"seeds": np.zeros(5, dtype=np.uint64)}, r"'seeds'.*\(6,\).*\(5,\)"),
    "signed seeds": (GOOD_STATE | {"seeds": np.zeros(6, dtype=np.int64)}, "'seeds'.*uint64.*int64"),
    "NaN": (GOOD_STATE | {"state": np.full((6, 4), np.nan)}, "finite"),
    "infinity": (GOOD_STATE | {"state": np.full((6, 4), np.inf)}, "finite"),
    "negative steps": (GOOD_STATE | {"elapsed_steps": np.full(6, -1, dtype=np.int32)}, r"\[0, 500\]"),
    "a limit that was not told": (GOOD_STATE | {"elapsed_steps": np.full(6, 500, dtype=np.int32)}, "has not ended"),
    "too many steps": (GOOD_STATE | {"elapsed_steps": np.full(6, 501, dtype=np.int32)}, r"\[0, 500\]"),
    "byte-swapped": (GOOD_STATE | {"state": np.zeros((6, 4), dtype=">f8")}, "'state'.*float64"),
    "masked": (GOOD_STATE | {"state": np.ma.zeros((6, 4))}, "'state'.*plain"),
}


@pytest.mark.parametrize("kind", BAD_STATES)
def test_bad_states_are_refused(kind):
    state, message = BAD_STATES[kind]
    env = make()
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(ValueError, match=f"state.*{message}"):
        env.set_state(state)
    for key, value in env.get_state().items():
        np.testing.assert_array_equal(value, before[key])


def test_set_state_stands_for_a_reset():
    env = make()
    env.set_state({key: np.asfortranarray(value) for key, value in GOOD_STATE.items()})
    observations = env.step([1] * 6)[0]
    np.testing.assert_array_equal(observations, np.tile(observations[0], (6, 1)))


def test_fresh_arrays_are_nobody_elses():
    env = make()
    observations = env.reset(seed=0)[0]
    kept = [observations.copy()]
    steps = [env.step([1] * 6) for _ in range(3)]
    kept += [[array.copy() for array in step[:4]] for step in steps]
    env.step([0] * 6)
    env.reset()
    np.testing.assert_array_equal(observations, kept[0])
    for step, copies in zip(steps, kept[1:], strict=True):
        for array, expected in zip(step[:4], copies, strict=True):
            np.testing.assert_array_equal(array, expected)
            assert array.flags.owndata
            assert array.flags.writeable


def test_copy_false_gives_the_same_arrays():
    env, fresh = make(copy=False), make()
    first = env.reset(seed=0)[0]
    fresh.reset(seed=0)
    for _ in range(30):
        step, expected = env.step([1] * 6), fresh.step([1] * 6)
        assert step[0] is first
        for array, other in zip(step[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(array, other)
    first[:] = 1e9  # the caller may write to it: no state lives there
    assert np.abs(env.step([1] * 6)[0]).max() < 10
    with pytest.raises(ValueError, match="own"):
        first.resize((60000, 4), refcheck=False)


def test_reset_comes_first():
    env = make()
    for call in (lambda: env.step([0] * 6), env.get_state):
        with pytest.raises(ResetNeeded, match="reset"):
            call()
    with pytest.raises(ResetNeeded, match="reset_mask"):
        env.reset(options={"reset_mask": np.arange(6) < 3})
    env.reset(options={"reset_mask": np.ones(6, dtype=bool)})
    env.step([0] * 6)


def test_a_closed_environment_says_so():
    env = make()
    env.reset(seed=0)
    env.close()
    env.close()
    assert env.closed
    for call in (lambda: env.step([0] * 6), env.reset, env.get_state, lambda: env.final_observations):
        with pytest.raises(ClosedEnvironmentError, match="closed"):
            call()
    assert repr(env) == "NativeVectorEnv(metafast/CartPole-v1, num_envs=6)"


def test_threads_that_collide_get_an_error():
    env = make(2**19)
    env.reset(seed=0)
    actions = np.zeros(2**19, dtype=np.int64)
    stop = threading.Event()
    collisions = []

    def hammer():
        while not stop.is_set() and not collisions:
            try:
                env.step(actions)
            except RuntimeError as error:
                collisions.append(str(error))

    threads = [threading.Thread(target=hammer) for _ in range(2)]
    for thread in threads:
        thread.start()
    threads[0].join(timeout=20)
    stop.set()
    for thread in threads:
        thread.join()
    assert collisions
    assert "another thread" in collisions[0]
    env.step(actions)


def test_environments_of_different_threads_do_not_collide(random_rollout):
    envs = [make(10000) for _ in range(3)]
    for seed, env in enumerate(envs):
        env.reset(seed=100 * seed)
    expected = [random_rollout(copy.deepcopy(env), 30) for env in envs]
    results = [None] * 3

    def run(index):
        results[index] = random_rollout(envs[index], 30)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, other in zip(results, expected, strict=True):
        for ours, theirs in zip(result, other, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_steps_the_same(method):
    """A forked child steps although the parent's pool of threads exists; a spawned one unpickles the environment."""
    env = make(10000)
    env.reset(seed=0)
    actions = np.ones(10000, dtype=np.int64)
    env.step(actions)
    with multiprocessing.get_context(method).Pool(1) as processes:
        theirs = processes.apply_async(env.step, (actions,)).get(timeout=60)
    for ours, other in zip(env.step(actions)[:4], theirs[:4], strict=True):
        np.testing.assert_array_equal(ours, other)


def test_a_copy_keeps_the_final_observations():
    env = metafast.envs.make_vec("CartPole-v1", 3, autoreset_mode="same_step", max_episode_steps=1)
    env.reset(seed=0)
    env.step([0, 1, 0])
    again = pickle.loads(pickle.dumps(env))
    np.testing.assert_array_equal(again.final_observations, env.final_observations)
    assert env.final_observations.any()


def test_same_step_mode_takes_no_state_whose_reset_is_still_to_come():
    env = metafast.envs.make_vec("CartPole-v1", 3, autoreset_mode="same_step")
    env.reset(seed=0)
    state = env.get_state()
    state["ended"][1] = True
    with pytest.raises(ValueError, match="ended"):
        env.set_state(state)


def test_an_environment_that_was_being_stepped_at_a_fork_can_be_reset_in_the_child():
    env = metafast.envs.make_vec("CartPole-v1", 400_000, num_threads=1)
    env.reset(seed=0)
    stop = threading.Event()

    def keep_stepping():
        actions = np.zeros(400_000, dtype=np.int64)
        while not stop.is_set():
            env.step(actions)

    thread = threading.Thread(target=keep_stepping)
    thread.start()
    try:
        statuses = []
        for _ in range(5):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    env.reset(seed=1)
                    env.step(np.zeros(400_000, dtype=np.int64))
                    status = 0
                finally:
                    os._exit(status)
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    finally:
        stop.set()
        thread.join()
    assert statuses == [0] * 5
