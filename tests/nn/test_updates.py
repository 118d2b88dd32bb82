"""Whole updates against the loops they replace: epochs, minibatches, optimisers, schedules, stopping and figures."""

import numpy as np
import pytest
import torch
from nn.losses import log_prob_loss, ppo_loss, rows_of
from nn.problems import gradient_taken, make_policy, make_rollout, targets

import metafast
from metafast.nn import a2c_update, clone_update, ppo_update, reinforce_update
from metafast.returns import discounted_returns, gae

NETWORKS = {"shared": {}, "two_towers": {"hidden_sizes": (9,), "value_hidden_sizes": (5, 6)}, "gru": {"gru_size": 7}}
every_network = pytest.mark.parametrize("network", NETWORKS)
# Ours, and the same of torch.
OPTIMIZERS = {
    "adam": ({"eps": 1e-5}, torch.optim.Adam, {"eps": 1e-5}),
    "other_betas": ({"betas": (0.7, 0.9), "eps": 1e-3}, torch.optim.Adam, {"betas": (0.7, 0.9), "eps": 1e-3}),
    "decay": ({"weight_decay": 0.1}, torch.optim.Adam, {"weight_decay": 0.1, "eps": 1e-5}),
    "adamw": (
        {"weight_decay": 0.3, "decoupled_weight_decay": True},
        torch.optim.AdamW,
        {"weight_decay": 0.3, "eps": 1e-5},
    ),
    "plain": ({"plain": True}, torch.optim.SGD, {}),
    "plain_decay": ({"plain": True, "weight_decay": 0.2}, torch.optim.SGD, {"weight_decay": 0.2}),
}
LR = 0.01


def pair(network="shared", *, head="multi_discrete", optimizer="adam", dtype=torch.float64, lr=LR):
    """Two equal policies, with our optimiser for the first and torch's for the second."""
    mine, theirs = (make_policy(head, dtype=dtype, **NETWORKS[network]) for _ in range(2))
    options, torch_class, torch_options = OPTIMIZERS[optimizer]
    return mine, metafast.nn.Adam(mine, lr, **options), theirs, torch_class(theirs.parameters(), lr, **torch_options)


def assert_same_parameters(mine, theirs, tolerance=1e-9):
    ours, others = (torch.cat([parameter.detach().flatten() for parameter in each.parameters()])
                    for each in (mine, theirs))  # fmt: skip
    assert float((ours - others).norm() / others.norm()) < tolerance


def shuffled(policy, rollout, epochs, seed=3):
    rows = np.arange(rollout.rewards.shape[1]) if policy.recurrent else rows_of(policy, rollout)
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(rows) for _ in range(epochs)])


def torch_loop(policy, optimizer, rollout, advantages, returns, order, minibatches, rates, norm, **options):
    """PPO as it is usually written; returns the figures of every minibatch."""
    figures = []
    for row in order:
        size = -(-len(row) // minibatches)
        for start in range(0, len(row), size):
            for group in optimizer.param_groups:
                group["lr"] = rates[len(figures)]
            rows = rows_of(policy, rollout, row[start : start + size])
            loss, of_minibatch = ppo_loss(policy, rollout, advantages, returns, rows=rows, **options)
            optimizer.zero_grad()
            loss.backward()
            limit = np.inf if norm is None else norm
            of_minibatch["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(policy.parameters(), limit))
            optimizer.step()
            figures.append(of_minibatch | {"rows": len(rows)})
    return figures


@every_network
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("with_mask", [False, True])
def test_ppo(network, optimizer, with_mask):
    """Several epochs of minibatches that do not divide the rows, gradients limited, at rates of their own."""
    mine, ours, theirs, other = pair(network, optimizer=optimizer)
    rollout = make_rollout(mine, 9, 11, with_mask=with_mask)
    advantages, returns = targets(rollout)
    order = shuffled(mine, rollout, 3)
    rates = np.linspace(LR, LR / 10, 12)
    options = {"clip": 0.15, "value_clip": 0.3, "entropy_coef": 0.02, "value_coef": 0.7}
    figures = ppo_update(
        mine, ours, rollout, advantages=advantages, returns=returns, order=order, epochs=3, minibatches=4, lr=rates,
        max_grad_norm=0.4, **options,
    )  # fmt: skip
    of_minibatches = torch_loop(theirs, other, rollout, advantages, returns, order, 4, rates, 0.4, **options)
    assert_same_parameters(mine, theirs)
    assert figures.pop("optimizer_steps") == len(of_minibatches) == ours.step_count == 12
    errors = rollout.values[:-1] - returns
    counts = np.ones_like(errors, dtype=bool) if rollout.mask is None else rollout.mask
    explained = 1 - errors[counts].var() / returns[counts].var()
    assert figures.pop("explained_variance") == pytest.approx(explained, rel=1e-9)
    norms = np.mean([each["grad_norm"] for each in of_minibatches])
    assert figures.pop("grad_norm") == pytest.approx(norms, rel=1e-6)
    weights = [each["rows"] for each in of_minibatches]
    for name, value in figures.items():
        expected = np.average([each[name] for each in of_minibatches], weights=weights)
        assert value == pytest.approx(expected, rel=1e-8, abs=1e-10), name


@every_network
@pytest.mark.parametrize("optimizer", ["adam", "plain"])
def test_ppo_in_float32(network, optimizer):
    mine, ours, theirs, other = pair(network, optimizer=optimizer, dtype=torch.float32)
    rollout = make_rollout(mine, 20, 16)
    advantages, returns = targets(rollout)
    order = shuffled(mine, rollout, 2)
    ppo_update(mine, ours, rollout, advantages=advantages, returns=returns, order=order, epochs=2, minibatches=3)
    torch_loop(theirs, other, rollout, advantages, returns, order, 3, [LR] * 6, 0.5)
    assert_same_parameters(mine, theirs, 1e-4)


def test_gae_is_the_default():
    policy = make_policy(dtype=torch.float32)
    rollout = make_rollout(policy, with_mask=True)
    advantages, returns = gae(
        rollout.rewards, rollout.values[:-1], rollout.values[-1], rollout.terminated, rollout.truncated,
        gamma=0.9, lam=0.7, final_values=rollout.final_values, mask=rollout.mask,
    )  # fmt: skip
    for update in (ppo_update, a2c_update):
        mine = gradient_taken(policy, update, rollout, gamma=0.9, lam=0.7, **one_step(update))[0]
        given = gradient_taken(policy, update, rollout, advantages=advantages, returns=returns, **one_step(update))[0]
        assert all(torch.equal(a, b) for a, b in zip(mine, given, strict=True))


def one_step(update):
    return {"epochs": 1, "minibatches": 1} if update in (ppo_update, clone_update) else {}


def test_shuffling_is_the_generators():
    """One permutation an epoch, from the generator given or else torch's; none where there is one minibatch."""
    orders = [torch.randperm(35, generator=torch.Generator().manual_seed(4)).numpy()]
    results = []
    for arguments in ({"order": np.stack(orders)}, {"generator": torch.Generator().manual_seed(4)}, {}):
        policy = make_policy()
        rollout = make_rollout(policy)
        torch.manual_seed(4)
        ppo_update(policy, metafast.nn.Adam(policy), rollout, epochs=1, minibatches=5, **arguments)
        results.append(policy)
        clone_update(policy, metafast.nn.Adam(policy), rollout, generator=torch.Generator())
    for other in results[1:]:
        assert_same_parameters(results[0], other, 1e-15)
    state = torch.get_rng_state()
    ppo_update(policy, metafast.nn.Adam(policy), rollout, epochs=1, minibatches=1)
    assert torch.equal(state, torch.get_rng_state())


def test_target_kl_stops_after_the_epoch_that_exceeds_it():
    def run(target, epochs=6, lr=0.02):
        policy = make_policy()
        rollout = make_rollout(policy, 10, 10, difference=0.0)
        order = shuffled(policy, rollout, 6)[:epochs]
        optimizer = metafast.nn.Adam(policy, lr=lr)
        figures = ppo_update(policy, optimizer, rollout, epochs=epochs, minibatches=2, order=order, target_kl=target)
        return policy, figures

    # The mean of the first n epochs, from which that of each follows.
    totals = [0.0, *(run(None, n)[1]["approx_kl"] * n for n in range(1, 7))]
    of_epochs = np.diff(totals)
    target = (of_epochs[1] + of_epochs[2]) / 2
    assert of_epochs[0] < of_epochs[1] < target < of_epochs[2]
    stopped, figures = run(target)
    assert figures["optimizer_steps"] == 6
    assert_same_parameters(stopped, run(None, 3)[0], 1e-15)
    assert run(1e9)[1]["optimizer_steps"] == 12


@every_network
@pytest.mark.parametrize("with_mask", [False, True])
def test_a2c(network, with_mask):
    mine, ours, theirs, other = pair(network, head="gaussian")
    rollout = make_rollout(mine, with_mask=with_mask)
    advantages, returns = targets(rollout)
    options = {"entropy_coef": 0.01, "value_coef": 0.5, "normalize_advantages": True}
    for rate in (0.01, 0.003):
        a2c_update(mine, ours, rollout, advantages=advantages, returns=returns, lr=rate, max_grad_norm=0.1, **options)
        other.param_groups[0]["lr"] = rate
        other.zero_grad()
        log_prob_loss(theirs, rollout, advantages, returns, **options).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
        other.step()
    assert_same_parameters(mine, theirs)


def returns_of_episodes(rollout, gamma, baseline):
    """Discounted sums from each step on, whether its episode ends in the rollout, and the number of episodes."""
    num_steps, num_envs = rollout.rewards.shape
    mask = np.ones((num_steps, num_envs), bool) if rollout.mask is None else rollout.mask
    totals, complete, episodes = np.zeros((num_steps, num_envs)), np.zeros((num_steps, num_envs), bool), 0
    for env in range(num_envs):
        total, ends = rollout.values[-1, env] if baseline else 0.0, False
        for step in reversed(range(num_steps)):
            if rollout.terminated[step, env] or rollout.truncated[step, env]:
                total, ends = 0.0, True
                if baseline and not rollout.terminated[step, env]:
                    total = rollout.final_values[step, env]
                episodes += 1
            elif step == num_steps - 1 and mask[step, env] and baseline:
                episodes += 1
            total = rollout.rewards[step, env] + gamma * total
            totals[step, env], complete[step, env] = total, ends
    return totals, mask & (complete | baseline), episodes


@pytest.mark.parametrize("network", ["shared", "gru"])
@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize("with_mask", [False, True])
def test_reinforce(network, baseline, with_mask):
    policy = make_policy("multi_binary", **NETWORKS[network])
    rollout = make_rollout(policy, 12, 9, with_mask=with_mask)
    if with_mask:
        # Where a row is none, a reset follows an end: it pays nothing.
        rollout.rewards[~rollout.mask] = 0
    totals, counts, episodes = returns_of_episodes(rollout, 0.9, baseline)
    gradients, figures = gradient_taken(
        policy, reinforce_update, rollout, gamma=0.9, baseline=baseline, value_coef=0.3, entropy_coef=0.01
    )
    weights = totals - rollout.values[:-1] if baseline else totals
    rows = np.flatnonzero(counts)
    loss = log_prob_loss(
        policy, rollout, weights, totals, rows=rows, value_coef=0.3 if baseline else 0, entropy_coef=0.01,
        num_units=episodes,
    )  # fmt: skip
    expected = torch.autograd.grad(loss, list(policy.parameters()), allow_unused=True)
    for mine, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if theirs is None else theirs, rtol=1e-9, atol=1e-9)
    policy_loss = log_prob_loss(policy, rollout, weights, rows=rows, num_units=episodes).item()
    assert figures["policy_loss"] == pytest.approx(policy_loss, rel=1e-9)
    assert ("value_loss" in figures) == baseline


def test_reinforce_uses_the_returns_of_discounted_returns():
    policy = make_policy()
    rollout = make_rollout(policy, 12, 9)
    returns = discounted_returns(
        rollout.rewards, rollout.terminated, rollout.truncated, gamma=0.99, bootstrap=rollout.values[-1],
        final_values=rollout.final_values,
    )  # fmt: skip
    given = {"advantages": returns - rollout.values[:-1], "returns": returns}
    mine = gradient_taken(policy, reinforce_update, rollout, baseline=True)[0]
    theirs = gradient_taken(policy, reinforce_update, rollout, baseline=True, **given)[0]
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("optimizer", ["adam", "other_betas", "adamw"])
def test_training_continues_from_torch_and_back(optimizer):
    mine, ours, theirs, other = pair(optimizer=optimizer)
    rollout = make_rollout(mine)
    advantages, returns = targets(rollout)
    order = shuffled(mine, rollout, 1)

    def native(policy, adam):
        ppo_update(policy, adam, rollout, advantages=advantages, returns=returns, order=order, epochs=1, minibatches=2)

    def by_torch(policy, adam):
        torch_loop(policy, adam, rollout, advantages, returns, order, 2, [LR] * 2, 0.5)

    # Torch, then ours; beside it ours, then torch.
    by_torch(theirs, other)
    continued = metafast.nn.Adam(theirs, lr=7.0)
    continued.load_state_dict(other.state_dict())
    assert (continued.lr, continued.betas, continued.step_count) == (LR, other.param_groups[0]["betas"], 2)
    native(theirs, continued)
    native(mine, ours)
    back = type(other)(mine.parameters(), lr=7.0)
    back.load_state_dict(ours.state_dict())
    by_torch(mine, back)
    assert_same_parameters(mine, theirs)
    again = metafast.nn.Adam(theirs)
    again.load_state_dict(metafast.nn.Adam(theirs).state_dict())
    assert again.step_count == 0


def test_state_of_torch_that_trained_only_some_parameters():
    """What torch's optimiser has never seen a gradient of has no state there."""
    policy = make_policy()
    rollout = make_rollout(policy)
    optimizer = torch.optim.Adam(policy.parameters(), eps=1e-5)
    log_prob_loss(policy, rollout, np.ones(rollout.rewards.shape)).backward()
    optimizer.step()
    assert len(optimizer.state_dict()["state"]) < len(list(policy.parameters()))
    ours = metafast.nn.Adam(policy)
    ours.load_state_dict(optimizer.state_dict())
    assert ours.step_count == 1
    of_value = ours.state_dict()["state"][len(list(policy.parameters())) - 1]
    assert (of_value["exp_avg"] == 0).all()
