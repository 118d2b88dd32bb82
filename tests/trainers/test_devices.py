"""Supervised training on a device: from the data to the pictures, resumed, evaluated, and repeated by its seed."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from metafast.trainers import _learner, attention, multitask

RUNS = {
    "attention": (attention, {"samples": 64, "held_out_samples": 40, "batch_size": 32, "heat_maps": 2}),
    "digit-grid": (attention, {"task": "digit-grid", "samples": 64, "held_out_samples": 40, "batch_size": 32}),
    "multitask": (multitask, {"data": "toy", "batch_size": 256}),
    "multitask with attention": (multitask, {"data": "toy", "batch_size": 256, "attention": True}),
    "multitask in sequence": (multitask, {"data": "toy", "batch_size": 256, "schedule": "sequential", "epochs": 3,
                                          "shared_update": "kl"}),
}  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", RUNS)
def test_a_run_on_a_device(name, device, tmp_path):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    trainer, options = RUNS[name]
    weights = []
    for run in ("first", "again") if device == "cuda" else ("first",):
        config = trainer.configure(**{"epochs": 1, **options}, device=device, run_dir=str(tmp_path / run))
        trainer.train(config)
        if name != "multitask in sequence":
            trainer.train(dataclasses.replace(config, resume=str(tmp_path / run), epochs=config.epochs + 1))
        trainer.evaluate(str(tmp_path / run))
        weights.append(load_file(tmp_path / run / "policy.safetensors"))
    for parameter, array in weights[0].items():
        assert np.isfinite(array).all()
        np.testing.assert_array_equal(weights[-1][parameter], array)


def test_each_process_takes_its_own_card(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, device: taken.append(device) or ones(*shape))
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert _learner.find_device("cuda") == torch.device("cuda", 1)
    assert _learner.find_device("cuda:0") == torch.device("cuda", 0)
    assert taken == [torch.device("cuda", 1), torch.device("cuda", 0)]
    assert torch.backends.cudnn.deterministic
