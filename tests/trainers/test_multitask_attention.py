"""Attention between tasks: over all the others, never over itself, and learnt."""

import numpy as np
import torch
from trainers.multitask_cases import TOY, backward, make_network


def capture_inputs(network):
    """What each head is given: its task's own features, then the context."""
    seen = {}
    for task, head in enumerate(network.model.readout.heads):
        head.register_forward_pre_hook(lambda _, arguments, task=task: seen.update({task: arguments[0].detach()}))
    return seen


def test_every_task_attends_to_all_others_and_never_to_itself():
    network = make_network(TOY, attention=True)
    readout, seen = network.model.readout, capture_inputs(network)
    with torch.no_grad():
        shared = network.model.trunk(network.features[:50])
        _, weights = readout(shared)
        own = [tower(shared) for tower in readout.towers]
        assert weights.shape == (50, 3, 2)
        torch.testing.assert_close(weights.sum(2), torch.ones(50, 3))
        for task in range(3):
            others = [other for other in range(3) if other != task]
            keys = torch.stack([own[other] for other in others], 1)
            context, expected = readout.attention(own[task][:, None], keys, return_weights=True)
            torch.testing.assert_close(weights[:, task], expected[:, 0], atol=1e-6, rtol=1e-5)
            by_hand = (weights[:, task, :, None] * keys).sum(1)
            torch.testing.assert_close(context[:, 0], by_hand, atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(seen[task], torch.cat([own[task], by_hand], 1), atol=1e-6, rtol=1e-5)
    attention = network.measure_attention(TOY)
    assert np.isnan(np.diag(attention)).all()
    np.testing.assert_allclose(np.nansum(attention, 1), 1.0, atol=1e-5)
    with torch.no_grad():
        everywhere = network.model(network.features)[1].mean(0)
    np.testing.assert_allclose(attention[1, [0, 2]], everywhere[1], atol=1e-6)


def test_of_two_tasks_each_gets_the_features_of_the_other():
    network = make_network(TOY.select(["A", "C"]), attention=True)
    seen, (first, _) = capture_inputs(network), network.model.readout.towers
    with torch.no_grad():
        network.model(network.features[:20])
        before = {task: inputs.clone() for task, inputs in seen.items()}
        torch.testing.assert_close(before[0][:, 8:], before[1][:, :8])
        torch.testing.assert_close(before[1][:, 8:], before[0][:, :8])
        # A task's own tower is its query, and nothing that it attends to.
        first[0].weight.add_(1.0)
        network.model(network.features[:20])
    assert (seen[0][:, :8] - before[0][:, :8]).abs().max() > 0.1
    torch.testing.assert_close(seen[0][:, 8:], before[0][:, 8:])


def test_with_attention_every_parameter_learns():
    network = make_network(TOY, attention=True)
    _, gradient = backward(network, torch.arange(len(TOY)))
    for name, part in gradient.items():
        used = not name.endswith("log_variance") and (not name.endswith("log_scale") or "heads.1" in name)
        # What is added to every score of a softmax cancels.
        assert (part.abs().max() > 0) == used or name.endswith("bias"), name
    assert make_network(TOY.select(["A"]), attention=True).model.readout.attention is None
