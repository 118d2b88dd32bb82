"""The same bits from any number of threads, from several callers at once and in a forked child; errors in a rollout."""

import copy
import dataclasses
import os
import threading

import numpy as np
import pytest
import torch
from nn.problems import make_policy, make_rollout, scatter
from nn.unfused import generator
from nn.worlds import fragile, world

import metafast
from metafast.envs import rollout
from metafast.nn import ActorCritic, Demonstrations, clone_update, ppo_update

pytestmark = [pytest.mark.usefixtures("restore_num_threads"), pytest.mark.timeout(120)]
NETWORKS = {"default": {}, "two_towers": {"hidden_sizes": (20,), "value_hidden_sizes": (9,)}, "gru": {"gru_size": 9}}
every_network = pytest.mark.parametrize("network", NETWORKS)


def policy_for(make, network="default"):
    env = make()
    torch.manual_seed(0)
    return scatter(ActorCritic(env.single_observation_space, env.single_action_space, **NETWORKS[network]), 0.2)


def learnt(make, policy):
    """The bits of a rollout of new environments, and of what a copy of the policy learns from it."""
    env, policy = make(), copy.deepcopy(policy)
    env.reset(seed=0)
    experience = rollout(env, policy, 12, generator=generator(0))
    figures = ppo_update(policy, metafast.nn.Adam(policy), experience, epochs=2, minibatches=3, generator=generator(1))
    arrays = [getattr(experience, field.name) for field in dataclasses.fields(experience)]
    arrays = [array for array in arrays if array is not None]
    return [*arrays, policy.native().array.copy(), np.array(list(figures.values()))]


def assert_same_bits(results, expected):
    for mine, theirs in zip(results, expected, strict=True):
        assert mine.tobytes() == theirs.tobytes()


def cartpole(num_envs=1300, **options):
    return metafast.envs.make_vec("CartPole-v1", num_envs, autoreset_mode="same_step", max_episode_steps=9, **options)


def pendulum():
    return metafast.envs.make_vec("Pendulum-v1", 600, max_episode_steps=5)


@every_network
@pytest.mark.parametrize(
    "make", [cartpole, pendulum, lambda: world("table").make_vec(600, autoreset_mode="same_step")],
    ids=["cartpole", "pendulum", "users"],
)  # fmt: skip
def test_same_bits_for_any_number_of_threads(network, make):
    policy = policy_for(make, network)
    metafast.set_num_threads(1)
    expected = learnt(make, policy)
    for num_threads in (2, 5):
        metafast.set_num_threads(num_threads)
        assert_same_bits(learnt(make, policy), expected)


def test_same_bits_for_any_number_of_threads_of_an_environment():
    metafast.set_num_threads(5)
    policy = policy_for(cartpole)
    assert_same_bits(learnt(lambda: cartpole(num_threads=1), policy), learnt(cartpole, policy))


@every_network
def test_same_bits_of_large_minibatches_and_many_parameters(network):
    """More slices than are summed at once, and parameters in several pieces."""
    results = []
    for num_threads in (1, 2, 5):
        metafast.set_num_threads(num_threads)
        policy = make_policy(dtype=torch.float32, size=50, **{"hidden_sizes": (190, 90)} | NETWORKS[network])
        experience = make_rollout(policy, 3, 3000 if network != "gru" else 300)
        data = Demonstrations(
            experience.observations[:-1], experience.actions, experience.starts, experience.initial_hidden
        )
        clone_update(policy, metafast.nn.Adam(policy), data, epochs=1, max_grad_norm=0.1)
        results.append([policy.native().array.copy()])
    for other in results[1:]:
        assert_same_bits(other, results[0])


def test_several_python_threads_at_once():
    metafast.set_num_threads(3)
    jobs = [(make, policy_for(make, network)) for make in (cartpole, pendulum) for network in ("default", "gru")]
    expected = [learnt(*job) for job in jobs]
    failures = []

    def call(index):
        try:
            for k in range(4):
                chosen = (index + k) % len(jobs)
                assert_same_bits(learnt(*jobs[chosen]), expected[chosen])
        except BaseException as failure:
            failures.append(failure)

    callers = [threading.Thread(target=call, args=(index,)) for index in range(len(jobs))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failures


def test_one_policy_acts_in_several_threads_at_once():
    metafast.set_num_threads(3)
    policy = policy_for(cartpole)
    results = [None] * 4

    def call(index):
        env = cartpole(300)
        env.reset(seed=1)
        results[index] = rollout(env, policy, 50, generator=generator(2)).values

    callers = [threading.Thread(target=call, args=(index,)) for index in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for other in results[1:]:
        assert_same_bits([other], [results[0]])


@pytest.mark.parametrize("network", ["default", "gru"])
def test_after_fork(network):
    """The policy is made before: torch's own threads, which draw its weights, do not outlive a fork."""
    metafast.set_num_threads(3)
    policy = policy_for(cartpole, network)
    expected = learnt(cartpole, policy)
    child = os.fork()
    if child == 0:
        failed = 1
        try:
            assert_same_bits(learnt(cartpole, policy), expected)
            failed = 0
        finally:
            os._exit(failed)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert_same_bits(learnt(cartpole, policy), expected)


@pytest.mark.parametrize("num_threads", [1, 5])
@pytest.mark.parametrize("num_envs", [3, 700])
@pytest.mark.parametrize("mode", ["same_step", "next_step"])
def test_an_environment_that_raises(num_envs, num_threads, mode):
    """The error is step's own, and the environments are as before the step that raised."""
    metafast.set_num_threads(num_threads)
    env, other = (fragile(6.0).make_vec(num_envs, autoreset_mode=mode) for _ in range(2))
    for each in (env, other):
        each.reset(seed=2)
    policy = ActorCritic(env.single_observation_space, env.single_action_space)
    rollout(other, policy, 5, generator=generator(0))
    actions = np.zeros(num_envs, np.int64)
    errors = []
    while not errors:
        before = other.get_state()
        try:
            other.step(actions)
        except ValueError as error:
            errors.append(error)
    with pytest.raises(ValueError, match="worn out") as raised:
        rollout(env, policy, 200, generator=generator(0))
    assert str(raised.value) == str(errors[0])
    assert getattr(raised.value, "__notes__", None) == getattr(errors[0], "__notes__", None)
    after = env.get_state()
    for key in before:
        np.testing.assert_array_equal(after[key], before[key])
    # It goes on raising, in step as in rollout, until it is reset.
    with pytest.raises(ValueError, match="worn out"):
        rollout(env, policy, 1)
    with pytest.raises(ValueError, match="worn out"):
        env.step(actions)
    env.reset(seed=2)
    assert rollout(env, policy, 5).rewards.shape == (5, num_envs)


def test_environments_are_usable_after_outputs_that_are_not_finite():
    env = cartpole(300)
    policy = ActorCritic(env.single_observation_space, env.single_action_space)
    env.reset(seed=0)
    with torch.no_grad():
        policy.policy.bias[0] = torch.nan
    with pytest.raises(ValueError, match="not finite at step 0 of environment 0"):
        rollout(env, policy, 3)
    with pytest.raises(Exception, match="reset"):
        rollout(env, policy, 3)
    with torch.no_grad():
        policy.policy.bias[0] = 0.0
    env.reset(seed=0)
    assert np.isfinite(rollout(env, policy, 3).log_probs).all()
