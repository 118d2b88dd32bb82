"""Bad input to updates is refused before a parameter moves, by an error that names what was wrong and expected."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from nn.problems import make_policy, make_rollout, observation_space, targets
from torch import nn

from metafast.nn import ActorCritic, Adam, Demonstrations, a2c_update, clone_update, ppo_update, reinforce_update

UPDATES = {"ppo": ppo_update, "a2c": a2c_update, "reinforce": reinforce_update, "clone": clone_update}
every_update = pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)


def unchanged(error, message, update, policy, data, optimizer=None, **options):
    """The parameters are as before."""
    optimizer = Adam(policy) if optimizer is None else optimizer
    before = policy.native().array.copy()
    with pytest.raises(error, match=message):
        update(policy, optimizer, data, **options)
    np.testing.assert_array_equal(policy.native().array, before)
    assert optimizer.step_count == 0


@every_update
def test_kinds_of_arguments(update):
    policy = make_policy()
    data = make_rollout(policy)
    name = "demonstrations" if update is clone_update else "rollout"
    unchanged(TypeError, f"{name} must be .*not dict", update, policy, {})
    with pytest.raises(TypeError, match=r"policy must be a metafast\.nn\.ActorCritic, not Linear"):
        update(nn.Linear(3, 4), Adam(policy), data)
    with pytest.raises(TypeError, match=r"optimizer must be a metafast\.nn\.Adam, not torch\.optim\.adam\.Adam"):
        update(policy, torch.optim.Adam(policy.parameters()), data)
    unchanged(ValueError, "optimizer was made for another policy", update, policy, data, Adam(make_policy()))


@every_update
def test_tensors_are_as_good_as_arrays(update):
    policies = [make_policy(), make_policy()]
    for policy, data in zip(policies, (make_rollout(policies[0]), make_rollout(policies[0]).torch()), strict=True):
        torch.manual_seed(0)
        update(policy, Adam(policy), data)
    np.testing.assert_array_equal(policies[0].native().array, policies[1].native().array)


NUMBERS = {
    "epochs": (0, -1, 1.5, True),
    "minibatches": (0, 2.0),
    "clip": (-0.1, np.nan, np.inf),
    "value_clip": (0.0, -1.0, np.nan),
    "max_grad_norm": (0.0, -1.0, np.inf),
    "target_kl": (0.0, np.nan),
    "value_coef": (-0.5, np.nan),
    "entropy_coef": (-0.5, np.inf),
    "lr": (-1e-3, np.nan, [1e-3, 1e-3, 1e-3]),
}


@every_update
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(update, name):
    if name not in inspect.signature(update).parameters:
        return
    policy = make_policy()
    for value in NUMBERS[name]:
        unchanged(ValueError, f"^{name} ", update, policy, make_rollout(policy), **{name: value})


COLUMNS = ["observations", "actions", "log_probs", "rewards", "values", "final_values", "terminated", "mask"]
# What an update reads where GAE is not given in its place, and where it is.
READ = {
    ppo_update: (set(COLUMNS), {"observations", "actions", "log_probs", "values", "mask"}),
    a2c_update: (set(COLUMNS) - {"log_probs"}, {"observations", "actions", "values", "mask"}),
    reinforce_update: (
        {"observations", "actions", "rewards", "terminated", "values", "mask"},
        {"observations", "actions", "terminated", "values", "mask"},
    ),
    clone_update: ({"observations", "actions", "mask"},) * 2,
}


@every_update
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("change", ["cut", "transposed"])
def test_shapes_of_columns(update, column, given, change):
    """A column of one environment less, or with its axes changed about."""
    if column not in READ[update][given] or (change == "transposed" and column in ("observations", "rewards")):
        return
    policy = make_policy()
    data = make_rollout(policy, with_mask=True)
    value = getattr(data, column)
    wrong = value[:, :-1] if change == "cut" else np.ascontiguousarray(np.swapaxes(value, 0, 1))
    wrong = dataclasses.replace(data, **{column: wrong})
    options = dict(zip(("advantages", "returns"), targets(data), strict=True)) if given else {}
    if update is clone_update:
        options = {}
    expected = "observations|shape" if column in ("observations", "rewards") else f"{column}.*shape|shape.*{column}"
    unchanged(ValueError, expected, update, policy, wrong, **options)


@every_update
@pytest.mark.parametrize("column", ["starts", "mask", "initial_hidden"])
@pytest.mark.parametrize("change", ["cut", "transposed"])
def test_shapes_of_columns_of_sequences(update, column, change):
    policy = make_policy(gru_size=4)
    data = make_rollout(policy, with_mask=True)
    value = getattr(data, column)
    wrong = value[:-1] if change == "cut" else np.ascontiguousarray(value.T)
    expected = "hidden must" if column == "initial_hidden" else f"{column} must|{column}.*shape|shape.*{column}"
    if column == "starts":
        expected += "|needs starts, bool"
    unchanged(ValueError, expected, update, policy, dataclasses.replace(data, **{column: wrong}))


@every_update
def test_rollouts_of_policies_without_memory(update):
    data = make_rollout(make_policy())
    if update is clone_update:
        return
    unchanged(ValueError, "without a GRU: initial_hidden is None", update, make_policy(gru_size=4), data)


@every_update
@pytest.mark.parametrize(("head", "bad"), [("discrete", 4), ("discrete", -1), ("multi_discrete", 3), ("two_choices", 2),
                                           ("multi_binary", 2)])  # fmt: skip
def test_actions_that_there_are_not(update, head, bad):
    policy = make_policy(head)
    data = make_rollout(policy)
    data.actions.reshape(-1)[-1 if head != "multi_discrete" else 1] = bad
    unchanged(ValueError, "actions must be choices counted from 0, below", update, policy, data)


@every_update
def test_what_is_not_finite(update):
    """The update stops before the step that it would spoil."""
    policy = make_policy()
    data = make_rollout(policy)
    data.observations[2, 1, 0] = np.nan
    options = {} if update in (a2c_update, reinforce_update) else {"epochs": 1, "minibatches": 1}
    if update is reinforce_update:
        options["baseline"] = True
    unchanged(ValueError, "gradient of minibatch 0 is not finite", update, policy, data, **options)


def test_targets():
    policy = make_policy()
    data = make_rollout(policy)
    advantages, returns = targets(data)
    for update in (ppo_update, a2c_update, reinforce_update):
        unchanged(ValueError, "must be given together", update, policy, data, advantages=advantages)
        unchanged(ValueError, "must be given together", update, policy, data, returns=returns)
        unchanged(ValueError, r"advantages must have shape \(7, 5\), not \(35,\)", update, policy, data,
                  advantages=advantages.ravel(), returns=returns)  # fmt: skip
        unchanged(ValueError, r"returns must have shape \(7, 5\), not \(7, 4\)", update, policy, data,
                  advantages=advantages, returns=returns[:, 1:])  # fmt: skip


ORDERS = {
    "a row twice": np.array([[0, *range(34)]]),
    "a row too few": np.arange(34)[None],
    "another row": np.arange(1, 36)[None],
    "two epochs": np.tile(np.arange(35), (2, 1)),
    "no epochs": np.arange(35),
    "fractions": np.arange(35)[None] + 0.5,
}


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("update", [ppo_update, clone_update])
def test_orders(update, name):
    policy = make_policy()
    error, message = {
        "another row": (ValueError, "order must hold 1 permutations of the 35 rows"),
        "a row twice": (ValueError, "order must hold 1 permutations of the 35 rows"),
        "fractions": (TypeError, "order must hold integers, not float64"),
    }.get(name, (ValueError, r"order must have shape \(1, 35\), not"))
    unchanged(error, message, update, policy, make_rollout(policy), epochs=1, order=ORDERS[name])


def test_nothing_to_learn_from():
    policy = make_policy()
    data = make_rollout(policy)
    data.terminated[:] = data.truncated[:] = False
    unchanged(ValueError, "no episode ended in the rollout: take more steps, or baseline=True", reinforce_update,
              policy, data)  # fmt: skip
    data.mask = np.zeros_like(data.terminated)
    unchanged(ValueError, "nothing to learn from", ppo_update, policy, data)


def test_demonstrations():
    policy = make_policy()
    data = make_rollout(policy)
    rows = data.observations[:-1]
    unchanged(ValueError, "actions to imitate, or a teacher", clone_update, policy, Demonstrations(rows))
    unchanged(ValueError, "actions must have shape", clone_update, policy, Demonstrations(rows, data.actions[1:]))
    unchanged(
        ValueError, "observations must have shape", clone_update, policy, Demonstrations(rows[..., :2], data.actions)
    )
    unchanged(ValueError, "weights must have shape|weights", clone_update, policy, data, weights=np.ones(7))
    other = make_policy("two_choices")
    unchanged(ValueError, "another action space", clone_update, policy, data, teacher=other)
    unchanged(ValueError, r"teacher must have shape \(7, 5, 4\), not \(35, 3\)", clone_update, policy,
              data, teacher=np.zeros((35, 3)))  # fmt: skip
    reals = make_policy("gaussian")
    unchanged(ValueError, "sigmas must be positive", clone_update, reals, make_rollout(reals),
              teacher=np.zeros((35, 4)))  # fmt: skip
    recurrent = make_policy(gru_size=3)
    unchanged(ValueError, "needs starts", clone_update, recurrent, Demonstrations(rows, data.actions))


def test_a_teacher_of_another_kind_with_as_many_outputs():
    """The logits of a softmax are not those of bits."""
    policy = make_policy("multi_binary")
    teacher = ActorCritic(observation_space(), Discrete(3)).double()
    unchanged(ValueError, "another action space", clone_update, policy, make_rollout(policy), teacher=teacher)
