"""What lies at the edges: infinities that stay where they are, errors of users' code in a rollout, other threads."""

import threading

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from nn.problems import make_policy, make_rollout

import metafast
from metafast.envs import compile_env, rollout
from metafast.nn import ActorCritic, Adam, a2c_update, clone_update, ppo_update


def test_an_infinite_parameter_stays_as_it_is():
    policy = make_policy("two_choices", spread=0.0)
    with torch.no_grad():
        policy.policy.bias[1] = -np.inf
    data = make_rollout(policy)
    assert (data.actions == 0).all()
    a2c_update(policy, Adam(policy), data)
    assert policy.policy.bias[1] == -np.inf
    assert torch.isfinite(policy.policy.bias[0])


@pytest.mark.parametrize("options", [{}, {"gru_size": 5}], ids=["feed_forward", "gru"])
@pytest.mark.parametrize("head", ["discrete", "gaussian"])
def test_what_rows_hold_that_do_not_count(head, options):
    """NaN there changes nothing: the parameters are those of a rollout that holds zeros there."""
    finite, spoiled = make_policy(head, **options), make_policy(head, **options)
    data = make_rollout(finite, with_mask=True)
    without = ~data.mask
    for name in ("observations", "actions", "log_probs"):
        column = getattr(data, name)
        (column[:-1] if name == "observations" else column)[without] = 0
    ppo_update(finite, Adam(finite), data, generator=torch.Generator().manual_seed(0))
    for name in ("observations", "actions", "log_probs", "rewards", "final_values"):
        column = getattr(data, name)
        if column.dtype.kind == "f":
            (column[:-1] if name == "observations" else column)[without] = np.nan
    ppo_update(spoiled, Adam(spoiled), data, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(spoiled.native().array, finite.native().array)


def test_a_terminal_observation_of_nan_asks_for_no_action():
    @compile_env(
        observation_space=Box(-np.inf, np.inf, (1,), np.float32), action_space=Discrete(2), state={"steps": np.int64}
    )
    class Broken:
        def reset(state, rng):
            pass

        def step(state, action, rng):
            state.steps += 1
            return 1.0, state.steps == 3

        def observe(state, observation):
            observation[0] = np.nan if state.steps == 3 else state.steps

    env = Broken.make_vec(4)
    env.reset(seed=0)
    policy = ActorCritic(env.single_observation_space, env.single_action_space)
    data = rollout(env, policy, 10)
    assert np.isnan(data.observations[3]).all()
    np.testing.assert_array_equal(data.mask[:, 0], [True, True, True, False] * 2 + [True, True])
    ppo_update(policy, Adam(policy), data)
    assert np.isfinite(policy.native().array).all()


def test_a_users_error_is_found_again_in_chaotic_dynamics():
    """The steps before it are repeated with the same bits: here one bit would soon make another trajectory."""

    @compile_env(
        observation_space=Box(-np.inf, np.inf, (1,), np.float32),
        action_space=Box(np.float32(-0.1), np.float32(0.7), (1,), np.float32),
        state={"place": np.float64, "steps": np.int64},
    )
    class Chaos:
        def reset(state, rng):
            state.place = rng.uniform(0.2, 0.8)

        def step(state, action, rng):
            state.place = 3.99 * state.place * (1.0 - state.place) * (1.0 - 1e-6 * action[0])
            state.steps += 1
            if state.steps > 60 and state.place > 0.97:
                raise ValueError("the user's error")
            return 0.0, False

        def observe(state, observation):
            observation[0] = state.place

    for seed in range(6):
        env = Chaos.make_vec(3, autoreset_mode="same_step")
        env.reset(seed=seed)
        policy = ActorCritic(env.single_observation_space, env.single_action_space)
        with pytest.raises(ValueError, match="the user's error"):
            rollout(env, policy, 400)


def test_the_earlier_of_two_failures_is_reported():
    @compile_env(
        observation_space=Box(-np.inf, np.inf, (1,), np.float32),
        action_space=Discrete(2),
        state={"steps": np.int64, "kind": np.int64},
    )
    class Failing:
        def reset(state, rng):
            state.kind = rng.integers(0, 2)

        def step(state, action, rng):
            state.steps += 1
            if state.kind == 0 and state.steps == 10:
                raise ValueError("the user's error")
            return 0.0, False

        def observe(state, observation):
            observation[0] = np.nan if state.kind == 1 and state.steps == 3 else 1.0

    env = Failing.make_vec(600, autoreset_mode="same_step")
    env.reset(seed=0)
    policy = ActorCritic(env.single_observation_space, env.single_action_space)
    with pytest.raises(ValueError, match="not finite at step 3"):
        rollout(env, policy, 20)


def test_autograd_refuses_to_go_back_through_old_parameters():
    policy = make_policy()
    data = make_rollout(policy)
    loss = policy(torch.from_numpy(data.observations[0]))[0].sum()
    ppo_update(policy, Adam(policy), data)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_two_threads_do_not_update_one_policy_at_once():
    policy = make_policy(dtype=torch.float32, hidden_sizes=(64, 64))
    optimizer, data, errors = Adam(policy), make_rollout(policy, 16, 64), []

    def update():
        for _ in range(30):
            try:
                ppo_update(policy, optimizer, data, epochs=2, minibatches=2)
            except RuntimeError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=update) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert optimizer.step_count == 4 * (60 - len(errors))
    assert all("another thread is updating this policy" in error for error in errors)


def test_imitating_with_an_entropy_bonus_without_actions():
    policy, teacher = make_policy("gaussian"), make_policy("gaussian", seed=3)
    data = metafast.nn.Demonstrations(make_rollout(policy).observations[:-1])
    figures = clone_update(policy, Adam(policy), data, teacher=teacher, entropy_coef=0.1)
    assert figures["divergence"] > 0
    assert np.isfinite(policy.native().array).all()
