"""The updates' gradients are autograd's in float64, whatever the network, the head, the sizes and the instruction set.

An optimiser that only subtracts the gradient shows it in the parameters.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nn.gradients import NETWORKS, check_ppo
from nn.losses import log_prob_loss
from nn.problems import HEADS, assert_gradient, gradient_taken, make_policy, make_rollout, targets

import metafast
from metafast import _core
from metafast.nn import a2c_update

every_head = pytest.mark.parametrize("head", HEADS)
every_network = pytest.mark.parametrize("network", NETWORKS)


@every_head
@every_network
def test_ppo(head, network):
    policy = make_policy(head, **NETWORKS[network])
    check_ppo(policy, make_rollout(policy))
    check_ppo(policy, make_rollout(policy, with_mask=True, seed=5), normalize_advantages=False)


@pytest.mark.parametrize("head", ["discrete", "multi_binary", "squashed"])
@pytest.mark.parametrize("network", ["odd", "two_towers", "gru"])
def test_ppo_in_every_instruction_set(head, network, isa):
    policy = make_policy(head, **NETWORKS[network])
    check_ppo(policy, make_rollout(policy, 9, 13, with_mask=True))


@pytest.mark.parametrize("network", ["default", "gru"])
@pytest.mark.parametrize(
    "changes",
    [
        {"value_clip": None},
        {"entropy_coef": 0.0},
        {"value_coef": 0.0},
        {"clip": 0.0},
        {"clip": 5.0, "value_clip": 9.0},
        {"value_clip": 0.01, "entropy_coef": 2.0},
    ],
    ids=str,
)
def test_each_term(network, changes):
    policy = make_policy("multi_discrete", **NETWORKS[network])
    check_ppo(policy, make_rollout(policy), **changes)


@pytest.mark.parametrize("shape", [(1, 1), (1, 16), (3, 5), (1, 63), (1, 64), (5, 13), (2, 64), (3, 43), (10, 77)])
def test_sizes_about_the_borders_of_blocks_and_slices(shape, isa):
    """Blocks are of 64 rows and groups of 16; slices, of 128 rows, or 32 sequences."""
    for network in ("odd", "linear_value"):
        policy = make_policy("gaussian", **NETWORKS[network])
        check_ppo(policy, make_rollout(policy, *shape))


@pytest.mark.parametrize("num_envs", [1, 15, 16, 31, 32, 33, 64, 65, 130])
@pytest.mark.parametrize("num_steps", [1, 4])
def test_numbers_of_sequences(num_steps, num_envs):
    policy = make_policy("discrete", **NETWORKS["gru"])
    check_ppo(policy, make_rollout(policy, num_steps, num_envs, with_mask=True))


def test_more_rows_than_64_slices_of_128():
    policy = make_policy("two_choices", hidden_sizes=(4,))
    check_ppo(policy, make_rollout(policy, 90, 100))
    recurrent = make_policy("two_choices", hidden_sizes=(4,), gru_size=3)
    check_ppo(recurrent, make_rollout(recurrent, 3, 2100))


@st.composite
def problems(draw):
    sizes = st.lists(st.integers(1, 40), max_size=3).map(tuple)
    options = {"hidden_sizes": draw(sizes), "activation": draw(st.sampled_from(["tanh", "relu", "silu"]))}
    kind = draw(st.sampled_from(["shared", "separate", "gru"]))
    if kind == "separate":
        options["value_hidden_sizes"] = draw(sizes)
    if kind == "gru":
        options["gru_size"] = draw(st.integers(1, 36))
    policy = make_policy(
        draw(st.sampled_from(list(HEADS))), seed=draw(st.integers(0, 99)), size=draw(st.integers(1, 20)), **options
    )
    num_steps, num_envs, with_mask = draw(st.integers(1, 12)), draw(st.integers(1, 70)), draw(st.booleans())
    rollout = make_rollout(policy, num_steps, num_envs, with_mask=with_mask, end_rate=draw(st.sampled_from([0, 0.5])))
    return policy, rollout


@settings(max_examples=40)
@given(problem=problems(), isa=st.sampled_from(_core.supported_isas()), coefficients=st.sampled_from([0.0, 0.1]))
def test_any_problem(problem, isa, coefficients):
    policy, rollout = problem
    before = metafast.isa()
    _core.force_isa(isa)
    try:
        check_ppo(policy, rollout, entropy_coef=coefficients)
    finally:
        _core.force_isa(before)


@every_head
def test_float32(head):
    """To the rounding of float32, for which there are kernels of their own."""
    for network in ("odd", "gru"):
        policy = make_policy(head, dtype=torch.float32, **NETWORKS[network])
        check_ppo(policy, make_rollout(policy, 9, 20), tolerance=2e-5)


@every_head
@pytest.mark.parametrize("network", ["default", "linear_policy", "gru"])
@pytest.mark.parametrize("normalize", [False, True])
def test_a2c(head, network, normalize):
    policy = make_policy(head, **NETWORKS[network])
    rollout = make_rollout(policy, with_mask=True)
    advantages, returns = targets(rollout)
    options = {"value_coef": 0.4, "entropy_coef": 0.03, "normalize_advantages": normalize}
    gradients, figures = gradient_taken(
        policy, a2c_update, rollout, advantages=advantages, returns=returns, max_grad_norm=None, **options
    )
    assert_gradient(policy, gradients, log_prob_loss(policy, rollout, advantages, returns, **options))
    parts = log_prob_loss(policy, rollout, advantages, returns, normalize_advantages=normalize)
    assert figures["policy_loss"] == pytest.approx(parts.item(), rel=1e-9, abs=1e-12)
