"""The worked examples do what they say."""

import gymnasium
import numpy as np
import pytest
from envs.compiled.worlds import CART, WORLDS, LibraryCartPole, Maze, NoughtsAndCrosses, VectorCartPole, random_actions

import metafast


def both_cartpoles(cart_pole, num_envs, spread, **options):
    """metafast's CartPole and a user's in the same random states."""
    native = metafast.envs.make_vec("CartPole-v1", num_envs, **options)
    users = cart_pole.make_vec(num_envs, **options)
    native.reset(seed=0)
    users.reset(seed=0)
    state = native.get_state()
    state["state"][:] = np.random.default_rng(1).uniform(-1, 1, (num_envs, 4)) * spread
    native.set_state(state)
    theirs = users.get_state()
    for k, name in enumerate(CART):
        theirs["state"][name] = state["state"][:, k]
    users.set_state(theirs)
    return native, users


@pytest.mark.parametrize("num_envs", [1, 7, 256, 1000])
def test_a_users_cartpole_steps_as_metafasts_bit_for_bit(num_envs):
    native, users = both_cartpoles(VectorCartPole, num_envs, [2.4, 3.0, 0.21, 3.0], autoreset_mode="disabled")
    actions = np.random.default_rng(2).integers(0, 2, num_envs)
    for ours, theirs in zip(users.step(actions)[:4], native.step(actions)[:4], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    after = users.get_state()["state"]
    np.testing.assert_array_equal(np.stack([after[name] for name in CART], 1), native.get_state()["state"])


def test_a_users_cartpole_balances_as_long_as_metafasts():
    native, users = both_cartpoles(VectorCartPole, 64, [0.05] * 4)
    ours = theirs = native.get_state()["state"].astype(np.float32)
    for step in range(520):
        actions = (ours[:, 2] + 0.5 * ours[:, 3] + 0.05 * ours[:, 0] + 0.1 * ours[:, 1] > 0).astype(np.int64)
        ours, rewards, terminated, truncated, _ = users.step(actions)
        theirs, *others = native.step(actions)
        for mine, other in zip((rewards, terminated, truncated), others[:3], strict=True):
            np.testing.assert_array_equal(mine, other)
        if step < 500:
            np.testing.assert_array_equal(ours, theirs)
        assert truncated.all() == (step == 499)


def test_the_standard_librarys_functions_serve_too():
    native, users = both_cartpoles(LibraryCartPole, 500, [2.4, 3.0, 0.21, 3.0], autoreset_mode="disabled")
    actions = np.random.default_rng(2).integers(0, 2, 500)
    ours, theirs = users.step(actions), native.step(actions)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
    for mine, other in zip(ours[1:4], theirs[1:4], strict=True):
        np.testing.assert_array_equal(mine, other)


def test_the_maze_obeys_its_walls():
    env = Maze.make_vec(50)
    observations, _ = env.reset(seed=5)
    walls = env.get_state()["state"]["walls"]
    assert 0.1 < walls.mean() < 0.3
    found = 0
    for actions in random_actions(env, 300):
        before = env.get_state()
        observations, rewards, terminated, _, _ = env.step(actions)
        state = env.get_state()["state"]
        running = ~before["ended"]
        # In an episode the walls stay, and the player never stands on one and moves by one field at most.
        np.testing.assert_array_equal(state["walls"][running], before["state"]["walls"][running])
        assert (state["walls"][np.arange(50), state["row"], state["column"]] == 0).all()
        distance = abs(state["row"] - before["state"]["row"]) + abs(state["column"] - before["state"]["column"])
        assert (distance[running] <= 1).all()
        assert (rewards[running & (distance == 0) & state["bumped"]] == -0.5).all()
        assert (rewards[terminated] == 1.0).all()
        assert (observations[np.arange(50), state["row"], state["column"]] == 2).all()
        found += terminated.sum()
    assert found > 0


def test_the_game_is_played_by_its_rules():
    env = NoughtsAndCrosses.make_vec(200, autoreset_mode="same_step")
    observations, _ = env.reset(seed=0)
    outcomes = {-1.0: 0, 0.0: 0, 1.0: 0}
    for _ in range(200):
        # A player who takes a free square at random.
        noise = np.random.default_rng(_).random((200, 9))
        squares = np.where(observations == 0, noise, -1).argmax(1)
        observations, rewards, terminated, _, infos = env.step(squares + 1)
        for i in np.flatnonzero(terminated):
            outcomes[float(rewards[i])] += 1
            board = infos["final_obs"][i]
            assert abs((board == 1).sum() - (board == 2).sum()) <= 1
        assert (rewards[~terminated] == 0).all()
    total = sum(outcomes.values())
    # Who begins at random and plays at random wins as often as the other; about one game in eight is drawn.
    assert 0.38 < outcomes[1.0] / total < 0.5
    assert 0.38 < outcomes[-1.0] / total < 0.5
    assert 0.08 < outcomes[0.0] / total < 0.18


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.__name__)
def test_gymnasiums_wrappers_take_them(world):
    env = gymnasium.wrappers.vector.RecordEpisodeStatistics(world.make_vec(4, autoreset_mode="next_step"))
    env.reset(seed=0)
    finished = [
        infos["episode"]["l"][infos["_episode"]]
        for infos in (env.step(actions)[4] for actions in random_actions(env.unwrapped, 120))
        if "episode" in infos
    ]
    assert finished
    assert all((lengths >= 1).all() for lengths in finished)


def test_the_fields_of_the_state_are_attributes():
    env = Maze.make_vec(3)
    env.reset(seed=0)
    state = env.get_state()["state"]
    assert env.get_attr("row") == (0, 0, 0)
    np.testing.assert_array_equal(np.stack(env.get_attr("walls")), state["walls"])
    env.set_attr("row", [1, 2, 3])
    env.set_attr("walls", np.zeros((6, 6), dtype=np.uint8))
    assert env.call("row") == (1, 2, 3)
    assert env.get_state()["state"]["walls"].sum() == 0
    with pytest.raises(AttributeError, match="no attribute 'depth' to set"):
        env.set_attr("depth", 3)
    with pytest.raises(ValueError, match="values for 'row' must lie between"):
        env.set_attr("row", 2**40)
    saved = env.get_state()
    env.step(np.array([0, 1, 2]))
    env.set_state(saved)
    for key, rows in env.get_state().items():
        np.testing.assert_array_equal(rows, saved[key])


def test_state_arrays_of_another_layout_are_refused():
    env = Maze.make_vec(3)
    env.reset(seed=0)
    state = env.get_state()
    state["state"] = np.zeros((3, 4))
    with pytest.raises(ValueError, match=r"state\['state'\] must be a plain array of dtype"):
        env.set_state(state)
