"""Updates on a CUDA device against the native ones on the CPU, from the same rollout; bookkeeping of recordings."""

import dataclasses
import gc
import weakref

import numpy as np
import pytest
import torch
from nn.problems import HEADS, make_policy, make_rollout, targets

import metafast
from metafast import _device
from metafast.envs import Rollout
from metafast.nn import Adam, Demonstrations, a2c_update, clone_update, ppo_update, reinforce_update

NETWORKS = {"shared": {}, "two_towers": {"hidden_sizes": (9,), "value_hidden_sizes": (5, 6)}, "gru": {"gru_size": 7}}
every_network = pytest.mark.parametrize("network", NETWORKS)
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-9}


@pytest.fixture
def on_cpu(monkeypatch):
    """A function that runs one with tensors on the CPU being what they are, where they stand for a card's."""
    is_on_device = _device.is_on_device

    def run(function, *arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr(_device, "is_on_device", lambda array: False)
            result = function(*arguments, **options)
        assert _device.is_on_device is is_on_device
        return result

    return run


def moved(data, device):
    """A rollout, demonstrations, options: arrays become tensors on the device."""
    if isinstance(data, np.ndarray):
        return torch.from_numpy(data).to(device)
    if isinstance(data, Rollout):
        return data.map(lambda column: moved(column, device))
    if isinstance(data, Demonstrations):
        return Demonstrations(*(moved(column, device) for column in data))
    if isinstance(data, dict):
        return {name: moved(value, device) for name, value in data.items()}
    return data.to(device) if isinstance(data, torch.nn.Module) else data


def flat(policy):
    return torch.cat([parameter.detach().flatten().cpu() for parameter in policy.parameters()])


def compare(device, on_cpu, update, makes, data, *, calls=2, adam=None, **options):
    """Several updates of equal policies, here and there."""
    native, theirs = makes(), makes().to(device)
    optimizers = on_cpu(Adam, native, lr=0.01, **(adam or {})), Adam(theirs, lr=0.01, **(adam or {}))
    tolerance = TOLERANCES[native.dtype]
    for _ in range(calls):
        expected = on_cpu(update, native, optimizers[0], data, **options)
        figures = update(theirs, optimizers[1], moved(data, device), **moved(options, device))
        assert figures.keys() == expected.keys()
        for name, value in expected.items():
            assert figures[name] == pytest.approx(value, rel=20 * tolerance, abs=20 * tolerance, nan_ok=True), name
    assert optimizers[0].step_count == optimizers[1].step_count > 0
    start = flat(makes())
    difference = (flat(theirs) - flat(native)).norm() / (flat(native) - start).norm()
    assert difference < 10 * tolerance
    for name in ("first", "second"):
        torch.testing.assert_close(
            getattr(optimizers[1], name).cpu(), getattr(optimizers[0], name), rtol=1e-3, atol=1e-5
        )
    return theirs, optimizers[1]


def shuffled(policy, rollout, epochs, seed=3):
    mask = np.ones(rollout.rewards.shape, bool) if rollout.mask is None else rollout.mask
    rows = np.arange(mask.shape[1]) if policy.recurrent else np.flatnonzero(mask)
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(rows) for _ in range(epochs)])


@every_network
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("with_mask", [False, True])
def test_ppo(device, on_cpu, network, dtype, with_mask):
    def makes():
        return make_policy("multi_discrete", dtype=dtype, **NETWORKS[network])

    rollout = on_cpu(make_rollout, makes(), 9, 7, with_mask=with_mask)
    advantages, returns = targets(rollout)
    order = shuffled(makes(), rollout, 2)
    options = {"order": order, "epochs": 2, "minibatches": 4, "advantages": advantages, "returns": returns}
    compare(device, on_cpu, ppo_update, makes, rollout, lr=[0.01 / k for k in range(1, 9)], **options)
    options |= {"value_clip": 0.1, "entropy_coef": 0.01, "max_grad_norm": None, "normalize_advantages": False}
    compare(device, on_cpu, ppo_update, makes, rollout, **options)


@pytest.mark.parametrize("head", HEADS)
def test_every_head(device, on_cpu, head):
    def makes():
        return make_policy(head, normalize_observations=True)

    rollout = on_cpu(make_rollout, makes(), 6, 5)
    advantages, returns = targets(rollout)
    given = {"advantages": advantages, "returns": returns, "entropy_coef": 0.02}
    compare(device, on_cpu, ppo_update, makes, rollout, minibatches=1, **given)
    compare(device, on_cpu, a2c_update, makes, rollout, **given)


ADAMS = {
    "other_betas": {"betas": (0.7, 0.9), "eps": 1e-3},
    "decay": {"weight_decay": 0.1},
    "adamw": {"weight_decay": 0.3, "decoupled_weight_decay": True},
    "plain": {"plain": True},
    "plain_decay": {"plain": True, "weight_decay": 0.2},
}


@pytest.mark.parametrize("optimizer", ADAMS)
def test_optimizers(device, on_cpu, optimizer):
    rollout = on_cpu(make_rollout, make_policy())
    advantages, returns = targets(rollout)
    options = {"advantages": advantages, "returns": returns, "max_grad_norm": 0.1}
    compare(device, on_cpu, a2c_update, make_policy, rollout, adam=ADAMS[optimizer], calls=3, **options)


@pytest.mark.parametrize("network", ["shared", "gru"])
@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize("with_mask", [False, True])
def test_reinforce(device, on_cpu, network, baseline, with_mask):
    def makes():
        return make_policy("multi_binary", **NETWORKS[network])

    rollout = on_cpu(make_rollout, makes(), 12, 9, with_mask=with_mask)
    advantages, returns = targets(rollout)
    compare(device, on_cpu, reinforce_update, makes, rollout, baseline=baseline, advantages=advantages, returns=returns)


@pytest.mark.parametrize("head", ["table", "multi_binary", "gaussian"])
@pytest.mark.parametrize("network", ["shared", "gru"])
def test_cloning(device, on_cpu, network, head):
    def makes(seed=0):
        return make_policy(head, seed=seed, **NETWORKS[network])

    rollout = on_cpu(make_rollout, makes(), with_mask=True)
    weights = np.random.default_rng(0).random(rollout.rewards.shape)
    compare(
        device,
        on_cpu,
        clone_update,
        makes,
        rollout,
        weights=weights,
        entropy_coef=0.01,
        order=shuffled(makes(), rollout, 1),
        minibatches=3,
    )
    compare(device, on_cpu, clone_update, makes, rollout, teacher=makes(seed=4), weights=weights, entropy_coef=0.01)
    if network == "shared":
        data = Demonstrations(rollout.observations[0], rollout.actions[0])
        compare(device, on_cpu, clone_update, makes, data)


def test_target_kl_stops_after_the_epoch_that_exceeds_it(device, on_cpu):
    rollout = on_cpu(make_rollout, make_policy(), 10, 10, difference=0.0)
    advantages, returns = targets(rollout)
    order = shuffled(make_policy(), rollout, 6)
    options = {"order": order, "epochs": 6, "minibatches": 2, "advantages": advantages, "returns": returns, "lr": 0.002}
    expected = on_cpu(ppo_update, policy := make_policy(), on_cpu(Adam, policy), rollout, target_kl=0.013, **options)
    assert expected["optimizer_steps"] == 6
    compare(device, on_cpu, ppo_update, make_policy, rollout, calls=1, target_kl=0.013, **options)


def test_shuffling_is_the_generators(device, on_cpu):
    rollout = moved(on_cpu(make_rollout, make_policy()), device)
    advantages, returns = targets(rollout.numpy())
    given = moved({"advantages": advantages, "returns": returns}, device)
    results = []
    for seed in (4, 4, 5):
        policy = make_policy().to(device)
        ppo_update(policy, Adam(policy), rollout, generator=torch.Generator().manual_seed(seed), **given)
        results.append(flat(policy))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_a_gradient_that_is_not_finite_stops_the_update(device, on_cpu):
    rollout = on_cpu(make_rollout, make_policy())
    advantages, returns = targets(rollout)
    order = np.arange(35)[None]
    returns[3, 1] = np.nan  # row 16, of the second minibatch of 12 rows
    options = {"order": order, "epochs": 1, "minibatches": 3, "advantages": advantages, "returns": returns}
    native, theirs = make_policy(), make_policy().to(device)
    optimizers = on_cpu(Adam, native), Adam(theirs)
    with pytest.raises(ValueError, match="gradient of minibatch 1 is not finite"):
        on_cpu(ppo_update, native, optimizers[0], rollout, **options)
    with pytest.raises(ValueError, match="gradient of minibatch 1 is not finite"):
        ppo_update(theirs, optimizers[1], moved(rollout, device), **moved(options, device))
    torch.testing.assert_close(flat(theirs), flat(native), rtol=1e-9, atol=1e-12)
    assert optimizers[0].step_count == optimizers[1].step_count == 1


def test_bad_input(device, on_cpu):
    policy = make_policy().to(device)
    optimizer = Adam(policy)
    before = flat(policy)
    host = on_cpu(make_rollout, make_policy())
    rollout = moved(host, device)
    advantages, returns = targets(host)
    given = moved({"advantages": advantages, "returns": returns}, device)

    def refused(error, message, **changes):
        options = {name: changes.pop(name) for name in ("order", "advantages") if name in changes}
        with pytest.raises(error, match=message):
            ppo_update(policy, optimizer, dataclasses.replace(rollout, **changes), **{**given, **options})
        assert torch.equal(flat(policy), before)

    refused(TypeError, "log_probs must be a tensor on .*, not a numpy.ndarray", log_probs=host.log_probs)
    refused(TypeError, "advantages must be a tensor on", advantages=advantages)
    refused(ValueError, "values must have shape", values=rollout.values[:-1])
    refused(TypeError, "terminated must hold bools", terminated=rollout.terminated.int())
    refused(TypeError, "actions must hold integers", actions=rollout.actions.double())
    refused(ValueError, "actions must be choices counted from 0, below 4", actions=rollout.actions + 3)
    refused(ValueError, "order must hold 4 permutations", order=torch.zeros(4, 35, dtype=torch.int64, device=device))
    refused(TypeError, "starts must be an array, not None", starts=None)


def test_what_changes_needs_another_recording(device, on_cpu):
    """One recording serves updates of one shape, whatever the numbers; another type, place or option has its own."""
    policy = make_policy().to(device)
    optimizer = Adam(policy)
    made = optimizer.recordings._made

    def run(rollout_steps=7, mask=False, **options):
        rollout = moved(on_cpu(make_rollout, make_policy(), rollout_steps, with_mask=mask), device)
        advantages, returns = (moved(each, device) for each in targets(rollout.numpy()))
        before = flat(policy)
        ppo_update(policy, optimizer, rollout, advantages=advantages, returns=returns, **{"minibatches": 5, **options})
        assert not torch.equal(flat(policy), before)
        return next(reversed(made.values()))

    first = run()
    assert run(clip=0.1, value_coef=0.1, max_grad_norm=2.0, lr=1e-3, epochs=2) is first
    with_entropy = run(entropy_coef=0.1)
    assert with_entropy is not first
    assert run(entropy_coef=0.2) is with_entropy
    assert run() is first
    padded = run(mask=True)  # minibatches that are not full
    assert padded is not first
    assert run(mask=True) is padded
    assert run(rollout_steps=14) is not padded
    assert len(made) == 2
    latest = run()
    assert latest is not first  # which went
    policy.policy.weight.data = policy.policy.weight.data.clone()
    assert run() is not latest


def test_recordings_go_with_the_optimizer_at_once(device, on_cpu):
    policy = make_policy().to(device)
    optimizer = Adam(policy)
    rollout = moved(on_cpu(make_rollout, make_policy(), 7), device)
    gc.disable()
    try:
        ppo_update(policy, optimizer, rollout, minibatches=2)
        step = weakref.ref(next(iter(optimizer.recordings._made.values())))
        del optimizer
        assert step() is None
    finally:
        gc.enable()


def test_a_graph_that_the_caller_keeps_does_not_matter(device, on_cpu):
    policy = make_policy().to(device)
    rollout = moved(on_cpu(make_rollout, make_policy(), 7), device)
    kept = policy(rollout.observations)[1].sum()
    before = flat(policy)
    ppo_update(policy, Adam(policy), rollout, minibatches=2)
    assert not torch.equal(flat(policy), before)
    assert all(parameter.grad is None for parameter in policy.parameters())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()


def test_the_optimizer_follows_the_policy_and_is_saved(device, on_cpu):
    policy = make_policy(dtype=torch.float32)
    optimizer = Adam(policy)
    policy.to(device, torch.float64)
    rollout = on_cpu(make_rollout, make_policy())
    advantages, returns = targets(rollout)
    given = moved({"advantages": advantages, "returns": returns}, device)
    a2c_update(policy, optimizer, moved(rollout, device), **given)
    assert optimizer.first.dtype == torch.float64
    assert optimizer.first.device == policy.device
    again = Adam(policy)
    again.load_state_dict(optimizer.state_dict())
    assert again.step_count == 1
    torch.testing.assert_close(again.second, optimizer.second)
    assert metafast.nn.ActorCritic is type(policy)


def test_a_policy_on_the_cpu_and_tensors_elsewhere(monkeypatch):
    """The error names both; here the device without memory stands for a card."""
    monkeypatch.setattr(_device, "is_on_device", lambda array: isinstance(array, torch.Tensor) and array.is_meta)
    policy = make_policy()
    rollout = moved(make_rollout(policy), "meta")
    data = Demonstrations(rollout.observations[0], rollout.actions[0])
    for update, experience in (
        (ppo_update, rollout),
        (a2c_update, rollout),
        (reinforce_update, rollout),
        (clone_update, data),
    ):
        with pytest.raises(TypeError, match="is on meta, but the policy is on the CPU"):
            update(policy, Adam(policy), experience)
    env = metafast.envs.make_vec("Pendulum-v1", 2, autoreset_mode="same_step")
    env.reset(seed=0)
    acting = metafast.nn.ActorCritic(env.single_observation_space, env.single_action_space).to("meta")
    with pytest.raises(TypeError, match="env is on the CPU, but policy is on meta"):
        metafast.envs.rollout(env, acting, 2)
