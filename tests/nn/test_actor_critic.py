"""ActorCritic is an ordinary torch module that the kernels share: built, copied, saved, moved and trained as any."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from nn.losses import log_prob_loss
from nn.problems import HEADS, answers, make_policy, make_rollout, observation_space, targets
from torch import nn

import metafast
from metafast.nn import ActorCritic, ppo_update

NUM = 4


def cleanrl(space=None, **options):
    """CleanRL's agents: two towers with tanh; in continuous control a parameter log sigma of shape [1, n]."""
    space = Discrete(2) if space is None else space

    def tower(outputs):
        return nn.Sequential(nn.Linear(NUM, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, outputs))

    if isinstance(space, Box):
        options = {"log_sigma": nn.Parameter(torch.zeros(1, 2)), "policy": tower(2)} | options
    options = {"policy": tower(2), "value": tower(1)} | options
    return ActorCritic.from_modules(Box(-1, 1, (NUM,)), space, **options)


def learn(policy, seed=1, **options):
    rollout = make_rollout(policy, seed=seed)
    return ppo_update(policy, metafast.nn.Adam(policy, lr=0.01), rollout, **options)


def vector(policy):
    return torch.cat([parameter.detach().flatten() for parameter in policy.parameters()])


@pytest.mark.parametrize("head", HEADS)
def test_shapes(head):
    policy = make_policy(head, dtype=torch.float32)
    outputs, values = policy(torch.zeros(7, 3))
    assert outputs.shape == (7, policy.distribution.num_outputs)
    assert values.shape == (7,)
    assert torch.equal(policy.act(torch.zeros(7, 3)), outputs)
    recurrent = make_policy(head, gru_size=5, dtype=torch.float32)
    outputs, values, hidden = recurrent(torch.zeros(4, 7, 3))
    assert outputs.shape == (4, 7, recurrent.distribution.num_outputs)
    assert (values.shape, hidden.shape) == ((4, 7), (7, 5))
    assert (recurrent.recurrent, recurrent.hidden_size, policy.recurrent, policy.hidden_size) == (True, 5, False, 0)


def test_observations_are_flattened():
    policy = ActorCritic(Box(0, 255, (2, 3), np.uint8), MultiDiscrete([2, 2]))
    rows = torch.randint(0, 255, (5, 2, 3), dtype=torch.uint8)
    assert torch.equal(policy(rows)[0], policy(rows.flatten(1).float())[0])


def test_sequences_of_a_gru_are_torchs_between_the_starts_of_episodes():
    policy = make_policy(gru_size=6, hidden_sizes=())
    observations, hidden = torch.randn(9, 2, 3).double(), torch.randn(2, 6).double()
    starts = torch.zeros(9, 2, dtype=torch.bool)
    starts[4, 0] = True
    outputs, values, last = policy(observations, hidden, starts)
    features, expected_last = policy.gru(observations, hidden[None])
    torch.testing.assert_close(values[:, 1], policy.value(features)[:, 1, 0])
    torch.testing.assert_close(outputs[:4, 0], policy.policy(features)[:4, 0])
    torch.testing.assert_close(last[1], expected_last[0, 1])
    anew, _ = policy.gru(observations[4:, :1])
    torch.testing.assert_close(outputs[4:, 0], policy.policy(anew)[:, 0])


def test_the_first_weights():
    """Orthogonal, of gain sqrt(2), 0.01 in the policy's head and 1 in the value's; biases 0."""
    policy = ActorCritic(observation_space(64), Discrete(5))
    gains = {policy.trunk[0]: 2**0.5, policy.trunk[2]: 2**0.5, policy.policy: 0.01, policy.value: 1.0}
    for layer, gain in gains.items():
        singular = torch.linalg.svdvals(layer.weight)
        torch.testing.assert_close(singular, torch.full_like(singular, gain))
        assert (layer.bias == 0).all()
    assert (ActorCritic(observation_space(3), Box(-1, 1, (2,))).log_sigma == 0).all()


@pytest.mark.parametrize("space", [Discrete(2), Box(-1, 1, (2,))], ids=str)
def test_cleanrls_agents_learn(space):
    policy = cleanrl(space)
    actor = policy.policy
    held = [*actor.parameters(), *policy.value.parameters()]
    before = vector(policy)
    learn(policy)
    assert (vector(policy) != before).all()
    assert policy.policy is actor
    assert held == [parameter for parameter in policy.parameters() if parameter is not policy.log_sigma]


UNSUPPORTED = {
    "Dropout": {"policy": nn.Sequential(nn.Linear(NUM, 8), nn.Dropout(0.1), nn.Linear(8, 2))},
    "LayerNorm": {"policy": nn.Sequential(nn.Linear(NUM, 8), nn.LayerNorm(8), nn.Linear(8, 2))},
    "GELU": {"policy": nn.Sequential(nn.Linear(NUM, 8), nn.GELU(), nn.Linear(8, 2))},
    r"Tanh as in policy\.0": {"policy": nn.Sequential(nn.Tanh(), nn.Linear(NUM, 2))},
    r"ReLU as in policy\.2": {"policy": nn.Sequential(nn.Linear(NUM, 8), nn.Tanh(), nn.ReLU(), nn.Linear(8, 2))},
    r"GRU\(4, 8, num_layers=2\)": {"gru": nn.GRU(NUM, 8, 2), "policy": nn.Linear(8, 2), "value": nn.Linear(8, 1)},
    r"GRU.*bias=False": {"gru": nn.GRU(NUM, 8, bias=False), "policy": nn.Linear(8, 2), "value": nn.Linear(8, 1)},
    "no hooks, but policy|spectral": {"policy": nn.utils.spectral_norm(nn.Linear(NUM, 2))},
    "ParametrizedLinear": {"policy": nn.utils.parametrizations.weight_norm(nn.Linear(NUM, 2))},
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_the_kernels_lack_is_named_and_runs_in_torch(name):
    options = UNSUPPORTED[name]
    policy = cleanrl(**copy.deepcopy(options)) if "spectral" not in name else cleanrl(**options)
    with pytest.raises(TypeError, match=name):
        policy.native()
    if policy.recurrent:
        if policy.gru.num_layers == 1:
            assert policy(torch.zeros(3, 5, NUM))[0].shape == (3, 5, 2)
        return
    outputs, values = policy(torch.zeros(5, NUM))
    (outputs.sum() + values.sum()).backward()
    assert outputs.shape == (5, 2)


def test_a_gru_with_the_batch_first():
    with pytest.raises((TypeError, ValueError), match="batch_first"):
        cleanrl(gru=nn.GRU(NUM, 8, batch_first=True), policy=nn.Linear(8, 2), value=nn.Linear(8, 1)).native()


def test_parameters_that_the_kernels_lack_are_named():
    policy = cleanrl()
    policy.value[2].bias.requires_grad_(False)
    with pytest.raises(TypeError, match=r"all parameters, but value\.2\.bias has requires_grad=False"):
        policy.native()
    policy = cleanrl()
    policy.value.double()
    with pytest.raises(TypeError, match=r"not torch\.float32, torch\.float64"):
        policy.native()
    policy = cleanrl().to(torch.bfloat16)
    with pytest.raises(TypeError, match=r"not torch\.bfloat16"):
        policy.native()
    with pytest.raises(TypeError, match=r"trunk\.0\.weight is on meta"):
        make_policy().to("meta").native()


def test_parameters_frozen_after_the_first_native_use_are_noticed():
    policy = make_policy()
    learn(policy)
    policy.policy.weight.requires_grad_(False)
    with pytest.raises(TypeError, match=r"policy\.weight has requires_grad=False"):
        learn(policy)


def test_parameters_are_updated_in_place():
    policy = make_policy()
    held = dict(policy.named_parameters())
    weight = policy.policy.weight
    learn(policy)
    before = weight.detach().clone()
    learn(policy)
    assert (weight != before).any()
    for name, parameter in policy.named_parameters():
        assert parameter is held[name]
    rollout = make_rollout(policy)
    torch.testing.assert_close(answers(policy, rollout)[0], answers(copy.deepcopy(policy), rollout)[0])


def test_layers_replaced_after_native_use():
    """The kernels see what the module is now."""
    policy, other = make_policy(), make_policy(hidden_sizes=(64, 64))
    learn(policy)
    for each in (policy, other):
        torch.manual_seed(5)
        if each is other:
            each.load_state_dict(policy.state_dict())
        each.policy = nn.Linear(64, 4).double()
        each.trunk[1] = nn.ReLU()
    for each in (policy, other):
        learn(each, epochs=1, minibatches=1)
    torch.testing.assert_close(vector(policy), vector(other))


def test_torch_and_native_training_in_turn():
    """A loop of torch's steps and ours, both plain descent, is one of torch's alone."""
    mine, theirs = make_policy(), make_policy()
    rollout = make_rollout(mine)
    advantages, returns = targets(rollout)
    optimizers = [torch.optim.SGD(policy.parameters(), 0.1) for policy in (mine, theirs)]
    native = metafast.nn.Adam(mine, 0.1, plain=True)
    for step in range(6):
        for policy, optimizer in zip((mine, theirs), optimizers, strict=True):
            if policy is mine and step % 2 == 0:
                options = {"advantages": advantages, "returns": returns, "max_grad_norm": None}
                metafast.nn.a2c_update(policy, native, rollout, **options)
            else:
                optimizer.zero_grad()
                log_prob_loss(policy, rollout, advantages, returns, value_coef=0.5).backward()
                optimizer.step()
    torch.testing.assert_close(vector(mine), vector(theirs), rtol=1e-9, atol=1e-10)


def pickled(policy):
    return pickle.loads(pickle.dumps(policy))


def saved_by_torch(policy):
    file = io.BytesIO()
    torch.save(policy, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def reloaded(policy):
    other = make_policy(seed=8, normalize_observations=policy.normalizes, gru_size=policy.hidden_size or None)
    other.native()
    other.load_state_dict(policy.state_dict())
    return other


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled, saved_by_torch, reloaded])
@pytest.mark.parametrize("options", [{}, {"gru_size": 5}, {"normalize_observations": True}], ids=str)
def test_copies_learn_alike_and_on_their_own(duplicate, options):
    policy = make_policy(**options)
    if policy.normalizes:
        policy.update_statistics(np.random.default_rng(0).normal(2, 3, (20, 3)))
    learn(policy)
    other = duplicate(policy)
    before = vector(policy)
    assert torch.equal(vector(other), before)
    order = {"epochs": 1, "minibatches": 1}
    learn(other, seed=3, **order)
    assert torch.equal(vector(policy), before)
    rollout = make_rollout(policy, seed=3)
    ppo_update(policy, metafast.nn.Adam(policy, lr=0.01), rollout, **order)
    torch.testing.assert_close(vector(policy), vector(other), rtol=1e-12, atol=1e-12)
    assert (vector(policy) != before).any()


def test_another_dtype_after_native_use():
    policy = make_policy(dtype=torch.float32)
    learn(policy)
    optimizer = metafast.nn.Adam(policy)
    ppo_update(policy, optimizer, make_rollout(policy))
    for _ in range(2):
        policy.double()
        before = vector(policy)
        ppo_update(policy, optimizer, make_rollout(policy))
        assert vector(policy).dtype == torch.float64
        assert (vector(policy) != before).any()
        policy.float()
        ppo_update(policy, optimizer, make_rollout(policy))


def test_policies_that_share_a_trunk():
    trunk = nn.Sequential(nn.Linear(NUM, 6), nn.Tanh())
    policies = [cleanrl(trunk=trunk, policy=nn.Linear(6, 2), value=nn.Linear(6, 1)) for _ in range(2)]
    for policy in policies * 2:
        before = trunk[0].weight.detach().clone()
        learn(policy)
        assert (trunk[0].weight != before).any()
    assert all(policy.trunk is trunk for policy in policies)
