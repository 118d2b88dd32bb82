"""The attention trainer: what the network must not see, that it learns, repeats, resumes and leaves behind."""

import contextlib
import dataclasses
import json

import numpy as np
import pytest
import safetensors.torch
import torch

from metafast.data import animal_scenes
from metafast.trainers import UsageError, _run
from metafast.trainers import attention as at
from metafast.trainers._learner import ModuleLearner

SMALL = {"samples": 256, "held_out_samples": 64, "batch_size": 32, "epochs": 2, "heat_maps": 2}
SCENES = animal_scenes.generate(48, seed=1)
CPU = torch.device("cpu")


def run(run_dir, **options):
    return at.train(at.configure(run_dir=str(run_dir), **SMALL | options))


def make_model(**options):
    return at.make_model(at.configure(**options), SCENES).eval()


def state(run_dir):
    return _run.RunDirectory(run_dir).read_state()[0]


def assert_same_state(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("options", [{}, {"attention": False}, {"hops": 2}])
def test_padding_changes_nothing(options):
    model = make_model(**options)
    pictures, words, lengths = at.to_batch(SCENES, slice(None), CPU)
    padded = torch.nn.functional.pad(words, (0, 7), value=3)
    padded[torch.arange(padded.shape[1]) >= lengths[:, None]] = 5
    in_caption = torch.arange(padded.shape[1]) < lengths[:, None]
    assert (padded[~in_caption] != 0).any()
    with torch.no_grad():
        plain, other = model(pictures, words, lengths), model(pictures, padded, lengths)
        for question, logits in plain.logits.items():
            torch.testing.assert_close(logits, other.logits[question])
            # Nor does company in the batch: each caption on its own, no longer than it is.
            for sample in range(4):
                alone = slice(sample, sample + 1)
                answers = model(pictures[alone], words[alone, : lengths[sample]], lengths[alone])
                torch.testing.assert_close(answers.logits[question], logits[alone], atol=1e-5, rtol=1e-4)
    if model.attention:
        assert (other.word_weights[~in_caption] == 0).all()
        torch.testing.assert_close(other.word_weights[:, : words.shape[1]], plain.word_weights)
        torch.testing.assert_close(plain.word_weights.sum(1), torch.ones(48))
        assert plain.region_weights.shape == (48, model.hops, 36)
        torch.testing.assert_close(plain.region_weights.sum(2), torch.ones(48, model.hops))
    else:
        assert plain.word_weights is None
        assert plain.region_weights is None


def test_every_parameter_learns_and_regions_lie_where_the_picture_has_them():
    model = make_model(hops=2)
    answers = model(*at.to_batch(SCENES, slice(None), CPU))
    sum(logits.square().sum() for logits in answers.logits.values()).backward()
    for name, parameter in model.named_parameters():
        # What is added to every score of a softmax cancels.
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0 or name.endswith("bias"), name
    changed = SCENES.pictures[:1].copy()
    changed[:, 16:24, 40:48] = 255
    with torch.no_grad():
        before, after = (model.encode_picture(torch.from_numpy(part)) for part in (SCENES.pictures[:1], changed))
    distance = (before - after).norm(dim=-1)[0].reshape(6, 6)
    assert distance.argmax() == 2 * 6 + 5
    assert distance[:, :3].max() < 1e-4


def test_a_second_hop_asks_with_what_the_first_one_saw():
    model, batch, contexts = make_model(hops=2), at.to_batch(SCENES, slice(None), CPU), []

    def see_something_else(module, arguments, output):
        contexts.append(output[0])
        return (output[0].flip(0), output[1]) if len(contexts) == 1 else output

    with torch.no_grad():
        plain = model(*batch).region_weights
        model.to_regions.register_forward_hook(see_something_else)
        changed = model(*batch).region_weights
    assert len(contexts) == 2
    torch.testing.assert_close(changed[:, 0], plain[:, 0])
    assert (changed[:, 1] - plain[:, 1]).abs().max() > 1e-4


@pytest.mark.parametrize("attention", [True, False])
def test_it_can_learn_a_batch_by_heart(attention):
    config = at.configure(attention=attention)
    model = at.make_model(config, SCENES)
    learner = ModuleLearner(model, torch.Generator(), CPU)
    first = at.update(config, model, learner, SCENES, np.arange(48), 4e-3)
    for _ in range(60):
        last = at.update(config, model, learner, SCENES, np.arange(48), 4e-3)
    for question in SCENES.classes:
        assert last[question] < 0.2 * first[question]


def test_a_short_training_learns_to_tell_species_and_to_look_at_the_animal(tmp_path):
    options = {"samples": 4_000, "held_out_samples": 500, "epochs": 2, "batch_size": 32}
    result = run(tmp_path / "run", **options)
    # Chance is an eighth.
    assert result["accuracy"]["species"] > 0.25
    assert result["regions"]["mass"] > 1.5 * result["regions"]["even_mass"]
    again = at.evaluate(result["run_dir"], samples=500, seed=7)
    assert again["accuracy"]["species"] > 0.25
    assert again["accuracy"] != result["accuracy"]


def test_without_attention_there_are_no_weights_to_report(tmp_path):
    result = run(tmp_path / "run", attention=False)
    assert result["words"] is result["regions"] is result["deletion"] is None
    assert "heat_maps" not in result
    assert not at.load_config(result["run_dir"]).attention
    assert at.evaluate(result["run_dir"], samples=32)["words"] is None
    assert "attention" not in at.describe(result).splitlines()[0]


def test_a_seed_repeats_a_run_bit_for_bit(tmp_path):
    for name, seed in (("first", 5), ("second", 5), ("other", 6)):
        run(tmp_path / name, seed=seed)
    assert_same_state(state(tmp_path / "first"), state(tmp_path / "second"))
    assert not np.array_equal(state(tmp_path / "first")["parameters"], state(tmp_path / "other")["parameters"])


@pytest.mark.parametrize("updates", [3, 8, 11])
def test_an_interrupted_run_resumes_exactly(tmp_path, monkeypatch, updates):
    class AfterUpdates:
        left = updates

        @property
        def requested(self):
            self.left -= 1
            return self.left == 0

    with monkeypatch.context() as patched:
        patched.setattr(_run, "interruptible", lambda: contextlib.nullcontext(AfterUpdates()))
        stopped = run(tmp_path / "parts", seed=2)
    assert stopped["interrupted"]
    assert stopped["samples"] == 32 * updates
    resumed = at.train(at.parse(["--resume", str(tmp_path / "parts")]))
    straight = run(tmp_path / "straight", seed=2)
    assert_same_state(state(tmp_path / "parts"), state(tmp_path / "straight"))
    for name in ("accuracy", "samples", "words", "deletion", "interrupted"):
        assert resumed[name] == straight[name]
    weights = [safetensors.torch.load_file(tmp_path / name / "policy.safetensors") for name in ("parts", "straight")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_resuming_what_has_ended_or_with_what_cannot_change(tmp_path, capsys):
    run(tmp_path / "run")
    for option, value in (("samples", "512"), ("hops", "2"), ("seed", "9"), ("run-dir", "other")):
        with pytest.raises(UsageError, match=f"{option.replace('-', '_')} cannot be changed"):
            at.train(at.parse(["--resume", str(tmp_path / "run"), f"--{option}", value]))
    at.train(at.parse(["--resume", str(tmp_path / "run")]))
    assert "has ended" in capsys.readouterr().err
    longer = at.train(at.parse(["--resume", str(tmp_path / "run"), "--epochs", "3"]))
    assert longer["samples"] == 768


def test_a_run_directory_holds_what_is_promised(tmp_path):
    result = run(tmp_path / "run", seed=4)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    drawn = {"learning_curve.png", "confusion_matrix.png", "heat_maps.png"}
    assert {"config.json", "policy.safetensors", "training_state.safetensors", *drawn} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    contents = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (contents["trainer"], contents["task"], contents["seed"]) == ("attention", "animals", 4)
    assert at.load_config(result["run_dir"]) == at.configure(run_dir=str(tmp_path / "run"), seed=4, **SMALL)
    json.dumps(result, allow_nan=False)
    with pytest.raises(UsageError, match="already holds a run"):
        run(tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "people"}, "task must be one of"),
        ({"hops": 0}, "hops must be at least 1"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 512}, "an update takes 512 samples"),
        ({"decay": 1.5}, "decay must lie between 0 and 1"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive"),
        ({"checkpoint_seconds": 0.0}, "checkpoint_seconds must be positive"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must not be negative"),
        ({"heat_maps": -1}, "heat_maps must not be negative"),
        ({"threads": 100_000}, "threads must be at most"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"device": "nonsense"}, "device 'nonsense'"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_no_directory(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        run(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_evaluation_refuses_other_runs_and_numbers(tmp_path):
    run(tmp_path / "run", epochs=1)
    with pytest.raises(UsageError, match="--samples must be at least 1"):
        at.evaluate(str(tmp_path / "run"), samples=0)
    contents = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(contents | {"trainer": "policy-gradient"}))
    with pytest.raises(UsageError, match="does not hold a attention run but is from metafast train policy-gradient"):
        at.evaluate(str(tmp_path / "run"))


def test_the_command_line_gives_the_same_options():
    assert at.parse([]) == at.configure()
    chosen = at.parse(["--no-attention", "--hops", "2", "--seed", "3"])
    assert chosen == dataclasses.replace(at.configure(), attention=False, hops=2, seed=3)
