"""Bad input to rollouts, networks and optimisers is refused, by an error that names what was wrong and expected."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text
from gymnasium.vector import SyncVectorEnv
from nn.problems import make_policy
from nn.worlds import world
from torch import nn

import metafast
from metafast.envs import rollout
from metafast.nn import ActorCritic, Adam

CARTPOLE = Box(-1, 1, (4,))


def cartpole(num_envs=3, mode="same_step", reset=True, **options):
    env = metafast.envs.make_vec("CartPole-v1", num_envs, autoreset_mode=mode, **options)
    if reset:
        env.reset(seed=0)
    return env


def refused(error, message, env, policy, *arguments, **options):
    """Neither the environments nor torch's generator move."""
    state = None if not hasattr(env, "get_state") else env.get_state()
    before = torch.get_rng_state()
    with pytest.raises(error, match=message):
        rollout(env, policy, *arguments, **options)
    assert torch.equal(torch.get_rng_state(), before)
    if state is not None:
        for key, value in env.get_state().items():
            np.testing.assert_array_equal(value, state[key])


def test_environments_that_rollout_does_not_take():
    policy = ActorCritic(CARTPOLE, Discrete(2))
    theirs = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")])
    with pytest.raises(TypeError, match="without wrappers, not SyncVectorEnv"):
        rollout(theirs, policy, 3)
    theirs.close()
    refused(ValueError, "autoreset_mode='same_step' or 'next_step'", cartpole(mode="disabled"), policy, 3)
    with pytest.raises(ResetNeeded, match="call reset before rollout"):
        rollout(cartpole(reset=False), policy, 3)
    closed = cartpole()
    closed.close()
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        rollout(closed, policy, 3)


def test_policies_that_rollout_does_not_take():
    env = cartpole()
    refused(TypeError, r"must be a metafast\.nn\.ActorCritic .*not Linear", env, nn.Linear(4, 2), 3)
    refused(ValueError, r"takes 3 numbers, but env observes Box", env, ActorCritic(Box(-1, 1, (3,)), Discrete(2)), 3)
    dropout = ActorCritic.from_modules(
        CARTPOLE, Discrete(2), policy=nn.Sequential(nn.Dropout(), nn.Linear(4, 2)), value=nn.Linear(4, 1)
    )
    refused(TypeError, r"no Dropout as in policy\.0", env, dropout, 3)


OTHER_ACTIONS = [Discrete(3), Discrete(2, start=1), MultiDiscrete([2, 2]), MultiBinary(2), Box(-1, 1, (1,))]


@pytest.mark.parametrize("space", OTHER_ACTIONS, ids=str)
def test_policies_for_other_actions(space):
    refused(ValueError, r"another action space than env's, Discrete\(2\)", cartpole(), ActorCritic(CARTPOLE, space), 3)


@pytest.mark.parametrize("space", [Box(-2, 1, (1,)), Box(-1, 2, (1,)), Box(-2, 2, (2,)), Discrete(2)], ids=str)
def test_policies_for_other_real_actions(space):
    env = metafast.envs.make_vec("Pendulum-v1", 3)
    env.reset(seed=0)
    refused(ValueError, "another action space than env's, Box", env, ActorCritic(Box(-1, 1, (3,)), space), 3)


def test_policies_for_other_tables():
    env = world("table").make_vec(3)
    env.reset(seed=0)
    for space in (MultiDiscrete([[2, 3], [1, 4]]), MultiDiscrete([[2, 3], [1, 5]], start=[[0, -1], [0, -2]])):
        refused(ValueError, "another action space", env, ActorCritic(Box(-1, 1, (2,)), space), 3)


@pytest.mark.parametrize("num_steps", [0, -1, 2.0, "3", None, True])
def test_numbers_of_steps(num_steps):
    refused((ValueError, TypeError), "num_steps", cartpole(), ActorCritic(CARTPOLE, Discrete(2)), num_steps)


def test_hidden_states():
    env, policy = cartpole(), ActorCritic(CARTPOLE, Discrete(2), gru_size=5)
    for shape in ((3, 4), (5, 3), (15,), ()):
        refused(ValueError, r"hidden must have shape \(3, 5\), not \(", env, policy, 3, hidden=np.zeros(shape))
    without = ActorCritic(CARTPOLE, Discrete(2))
    refused(ValueError, "hidden must be None: the policy has no GRU", env, without, 3, hidden=np.zeros((3, 5)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_not_finite(bad):
    policy = ActorCritic(CARTPOLE, Discrete(2))
    with torch.no_grad():
        policy.policy.bias[:] = bad
    with pytest.raises(ValueError, match=r"not finite at step 0 of environment 0.*reset env"):
        rollout(cartpole(), policy, 3)


BUILDS = [
    ({"activation": "gelu"}, "activation must be one of 'tanh', 'relu', 'silu', not 'gelu'"),
    ({"hidden_sizes": (4, 0)}, r"at least 1, not \[4, 0\]"),
    ({"hidden_sizes": (4.0,)}, r"whole numbers of at least 1, not \[4\.0\]"),
    ({"hidden_sizes": (True,)}, "whole numbers"),
    ({"value_hidden_sizes": (-1,)}, "whole numbers"),
    ({"gru_size": 0}, "whole numbers"),
    ({"gru_size": 4, "value_hidden_sizes": (4,)}, "value_hidden_sizes must be None with a GRU"),
    ({"observation_space": Discrete(4)}, r"observation_space must be a Box, not Discrete\(4\)"),
    ({"observation_space": Dict()}, "observation_space must be a Box"),
    ({"observation_space": Box(0, 1, (0,))}, "at least one number"),
    ({"action_space": Text(3)}, r"no auto policy for the action space Text"),
    ({"action_space": Box(0, 9, (2,), np.int64)}, "no auto policy for the action space Box"),
    ({"policy": "gaussian"}, r"no gaussian policy for the action space Discrete\(2\)"),
    ({"policy": "beta"}, "no beta policy"),
    ({"policy": "bernoulli", "action_space": Discrete(3)}, r"no bernoulli policy for the action space Discrete\(3\)"),
]


@pytest.mark.parametrize(("options", "message"), BUILDS, ids=str)
def test_networks(options, message):
    with pytest.raises(ValueError, match=message):
        ActorCritic(**{"observation_space": CARTPOLE, "action_space": Discrete(2)} | options)


GIVEN = {
    "outputs": ({"policy": nn.Linear(4, 3)}, r"policy must give 2 outputs and value 1 .*\(2, 3\) and \(2, 1\)"),
    "values": ({"value": nn.Linear(4, 2)}, r"value 1 .*\(2, 2\) and \(2, 2\)"),
    "inputs": ({"policy": nn.Linear(5, 2)}, "policy|4"),
    "trunk": ({"trunk": nn.Linear(3, 4)}, "trunk|4"),
    "sigma": ({"log_sigma": nn.Parameter(torch.zeros(2))}, "log_sigma must be None"),
    "no_sigma": ({"action_space": Box(-1, 1, (2,))}, "log_sigma must be a parameter of 2 elements"),
    "wide_sigma": (
        {"action_space": Box(-1, 1, (2,)), "log_sigma": nn.Parameter(torch.zeros(3))},
        "log_sigma must be a parameter of 2 elements",
    ),
}


@pytest.mark.parametrize("name", GIVEN)
def test_given_modules(name):
    options, message = GIVEN[name]
    base = {"observation_space": CARTPOLE, "action_space": Discrete(2)}
    with pytest.raises(ValueError, match=message):
        ActorCritic.from_modules(**base | {"policy": nn.Linear(4, 2), "value": nn.Linear(4, 1)} | options)


def test_networks_of_too_many_layers():
    policy = ActorCritic(CARTPOLE, Discrete(2), hidden_sizes=(3,) * 65)
    with pytest.raises(TypeError, match="at most 64 layers"):
        policy.native()
    assert policy(torch.zeros(2, 4))[0].shape == (2, 2)


ADAMS = [
    ({"lr": -1e-3}, "lr must be finite and not negative, not -0.001"),
    ({"lr": np.inf}, "lr must be finite"),
    ({"eps": -1.0}, "eps must be finite"),
    ({"weight_decay": np.nan}, "weight_decay must be finite and not negative, not nan"),
    ({"betas": (0.9, 1.0)}, r"betas must be two numbers from 0 to below 1, not \(0\.9, 1\.0\)"),
    ({"betas": (0.9,)}, "betas must be two numbers"),
]


@pytest.mark.parametrize(("options", "message"), ADAMS, ids=str)
def test_optimizers(options, message):
    with pytest.raises(ValueError, match=message):
        Adam(make_policy(), **options)


def test_states_of_other_optimizers():
    policy, other = make_policy(), make_policy(hidden_sizes=(5,))
    ours = Adam(policy)
    trained = Adam(other)
    trained.step_count = 1
    for state in (trained.state_dict(), Adam(make_policy(hidden_sizes=(64,))).state_dict()):
        with pytest.raises(ValueError, match="of other parameters than the policy's"):
            ours.load_state_dict(state)
    for option in ("amsgrad", "maximize"):
        state = torch.optim.Adam(policy.parameters(), **{option: True}).state_dict()
        with pytest.raises(ValueError, match="amsgrad and maximize are not available"):
            ours.load_state_dict(state)
