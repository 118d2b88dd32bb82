"""Attention between pictures and words: a network answers questions about captioned pictures and shows where it looked.

Read from top to bottom: options, network, learning, judging, training, evaluation. A convolutional encoder gives
regions, a bidirectional LSTM reads the caption, and additive attention (Bahdanau et al. 2015) goes both ways: from the
words to the regions, in one hop or more, and from what was found there to the words. Attention weights need not be
evidence (Jain and Wallace 2019), so they are held against evidence that was planted, and against deletion.
"""

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import metafast
from metafast.attention import AdditiveAttention
from metafast.data import animal_scenes, digit_grid
from metafast.data.captioned import CaptionedPictures
from metafast.trainers import UsageError, _distributed, _interpretation, _run
from metafast.trainers._learner import ModuleLearner, find_device

NAME = "attention"

# Data sets by name: functions of (samples, "train" or "held-out", seed=).
TASKS: dict[str, Callable[..., CaptionedPictures]] = {
    "animals": animal_scenes.generate,
    "digit-grid": digit_grid.generate,
}
# Where a data set needs other defaults than those below.
PER_TASK: dict[str, dict[str, Any]] = {
    "animals": {},
    "digit-grid": {
        "hops": 2,
        "samples": 48_000,
        "region_size": 128,
        "batch_size": 128,
        "learning_rate": 3e-3,
        "decay": 0.8,
        "epochs": 10,
        "held_out_samples": 6_000,
    },
}


@dataclass
class Config:
    """Training of an attention model on captioned pictures.

    The defaults shown are those of the chosen task. With --json, standard output ends with one JSON object.
    """

    task: str = "animals"
    """Data set: animals (which species, and is it afraid of light?) or digit-grid (what is right of the seven?)."""
    attention: bool = True
    """Attend to words and regions; without, the same network takes the mean over each."""
    hops: int = 1
    """Times that the network looks at the regions, each time knowing what it saw before."""
    guidance: float = 1.0
    """Weight of the loss that teaches the first of several looks where to look, for data that says so; 0 for none."""
    samples: int = 40_000
    """Pictures to train on."""
    held_out_samples: int = 2_000
    """Pictures to judge by, of combinations or handwriting that training never sees."""
    word_size: int = 64
    """Width of the word embeddings."""
    state_size: int = 64
    """Width of the LSTM's states in each direction."""
    region_size: int = 64
    """Width of the regions' vectors."""
    attention_size: int = 128
    """Width in which attention scores."""
    hidden_size: int = 128
    """Width of the layer under the heads."""
    epochs: int = 4
    """Passes over the training pictures; to resume with more stretches the decay too."""
    batch_size: int = 64
    """Pictures per update, on each process."""
    learning_rate: float = 4e-3
    """Adam's step size at the start."""
    decay: float = 0.5
    """Last part of training in which the step size falls evenly to 0; 0 keeps it."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are shortened to it; 0 for no limit."""
    heat_maps: int = 8
    """Held-out samples whose attention is drawn."""
    seed: int = 0
    """Repeats a run bit for bit on the same machine."""
    threads: int = 1
    """CPU threads for kernels and torch."""
    device: str = "cpu"
    """Torch device of the network."""
    run_dir: str | None = None
    """Where the run is saved; by default runs/attention-TASK-SEED-TIME."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints; one is always written at the end and on Ctrl-C."""
    resume: str | None = None
    """Continue the run in this directory exactly, in place, with its options where none are given anew."""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise UsageError(f"task must be one of {', '.join(TASKS)}, not {self.task!r}")
        sizes = "word_size", "state_size", "region_size", "attention_size", "hidden_size"
        counts = "hops", "samples", "held_out_samples", "epochs", "batch_size"
        _run.check_options(self, counts=(*sizes, *counts), positive=("learning_rate", "checkpoint_seconds"))
        if self.heat_maps < 0:
            raise UsageError(f"heat_maps must not be negative, not {self.heat_maps}")
        if not 0 <= self.guidance < math.inf:
            raise UsageError(f"guidance must be at least 0 and finite, not {self.guidance}")
        if not 0 <= self.decay <= 1:
            raise UsageError(f"decay must lie between 0 and 1, not {self.decay}")


def configure(task: str = "animals", **options: Any) -> Config:
    """The options for a task, then those given."""
    return Config(**PER_TASK.get(task, {}) | options | {"task": task})


def parse(arguments: Sequence[str]) -> Config:
    """Read the command line; what decides the defaults is looked at first, and judged with the rest."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--task", nargs="?")
    first.add_argument("--resume", nargs="?")
    known, _ = first.parse_known_args(arguments)
    default = load_config(known.resume) if known.resume is not None else configure(known.task or "animals")
    return tyro.cli(Config, args=list(arguments), default=default, prog=f"metafast train {NAME}")


def load_config(run_dir: str) -> Config:
    """The options of the run in `run_dir`."""
    return Config(**_run.read_options(run_dir, NAME, Config))


# What a run cannot change on its way.
FIXED = (
    "task", "attention", "hops", "samples", "word_size", "state_size", "region_size", "attention_size", "hidden_size",
    "batch_size", "seed", "run_dir",
)  # fmt: skip


class Answers(NamedTuple):
    """What the network says of a batch, and where it looked: weights are None without attention.

    `logits` [samples, answers] by question, `word_weights` [samples, words], `region_weights` [samples, hops, regions].
    """

    logits: dict[str, Tensor]
    word_weights: Tensor | None
    region_weights: Tensor | None


class AttentionModel(nn.Module):
    """Regions of a picture, words of a caption, attention both ways, a classifier for each question.

    A word is found by its LSTM state, which knows its neighbours, but what is read there is the word itself: were it
    the state, any neighbour would do as well, and the weights would say nothing. The mean, which finds nothing, is of
    the states.
    """

    def __init__(self, config: Config, data: CaptionedPictures) -> None:
        super().__init__()
        _, height, width, channels = data.pictures.shape
        region_size, state_size = config.region_size, 2 * config.state_size
        few, more = max(1, region_size // 4), max(1, region_size // 2)
        self.edges = _convolution(channels, few, 5, stride=2, padding=2)
        self.shapes = nn.Sequential(
            _convolution(few, more, 3, stride=2, padding=1), _convolution(more, region_size, 4, stride=2, padding=1)
        )
        # Past the shapes, among which the colours would be lost.
        self.colours = _convolution(few, region_size, 4, stride=4, rectified=False)
        # Each region is of 8 by 8 pixels.
        self.grid = (height // 8, width // 8)
        self.row_position = nn.Parameter(0.1 * torch.randn(region_size, self.grid[0], 1))
        self.column_position = nn.Parameter(0.1 * torch.randn(region_size, 1, self.grid[1]))
        # Vectors of one length, so that attending to what is of no account costs something.
        self.region_norm = nn.LayerNorm(region_size)
        self.embedding = nn.Embedding(len(data.vocabulary), config.word_size, padding_idx=0)
        self.lstm = nn.LSTM(config.word_size, config.state_size, batch_first=True, bidirectional=True)
        self.state_norm = nn.LayerNorm(state_size)
        self.hops = config.hops
        self.attention = config.attention
        if config.attention:
            self.to_regions = AdditiveAttention(state_size + region_size, region_size, config.attention_size)
            if config.hops > 1:
                self.stress = nn.Linear(state_size + region_size, region_size)
            self.to_words = AdditiveAttention(region_size, state_size, config.attention_size)
            self.meaning = nn.Sequential(nn.Linear(config.word_size, state_size), nn.LayerNorm(state_size))
        self.combine = nn.Linear(state_size + region_size, config.hidden_size)
        self.heads = nn.ModuleDict(
            {question: nn.Linear(config.hidden_size, len(names)) for question, names in data.classes.items()}
        )

    def encode_picture(self, pictures: Tensor) -> Tensor:
        """Regions [samples, regions, region_size] of byte pictures [samples, height, width, channels], row by row."""
        edges = self.edges(pictures.permute(0, 3, 1, 2).float() / 127.5 - 1.0)
        features = self.shapes(edges) + self.colours(edges) + self.row_position + self.column_position
        regions: Tensor = self.region_norm(features.flatten(2).transpose(1, 2))
        return regions

    def encode_words(self, embedded: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The state after each word [samples, longest, 2 state_size], and the last ones of both directions."""
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, (last, _) = self.lstm(packed)
        states, _ = pad_packed_sequence(states, batch_first=True, total_length=embedded.shape[1])
        return self.state_norm(states), last.transpose(0, 1).flatten(1)

    def forward(self, pictures: Tensor, words: Tensor, lengths: Tensor) -> Answers:
        """Answer every question about pictures [samples, height, width, channels] with captions [samples, longest]."""
        regions, embedded = self.encode_picture(pictures), self.embedding(words)
        states, question = self.encode_words(embedded, lengths)
        if self.attention:
            seen, read, looks = torch.zeros_like(regions[:, :1]), question[:, None], []
            meanings = self.meaning(embedded)
            for _ in range(self.hops):
                if self.hops > 1:
                    # Each look asks with words of its own: "the seven", and when that is found "right of".
                    read, _ = self.to_words(seen, states, meanings, key_lengths=lengths, return_weights=True)
                query = torch.cat([read, seen], -1)
                # Found by the features that the query stresses: an equality of word and shape is a product, which sums
                # under a tanh learn slowly.
                keys = regions * self.stress(query) if self.hops > 1 else regions
                seen, weights = self.to_regions(query, keys, regions, return_weights=True)
                looks.append(weights)
            read, weights = self.to_words(seen, states, meanings, key_lengths=lengths, return_weights=True)
            seen, read, word_weights, region_weights = seen[:, 0], read[:, 0], weights[:, 0], torch.cat(looks, 1)
        else:
            seen = regions.mean(1)
            taking_part = torch.arange(words.shape[1], device=lengths.device) < lengths[:, None]
            read = (states * taking_part[..., None]).sum(1) / lengths[:, None]
            word_weights = region_weights = None
        hidden = torch.tanh(self.combine(torch.cat([read, seen], -1)))
        return Answers({question: head(hidden) for question, head in self.heads.items()}, word_weights, region_weights)


def _convolution(
    inputs: int, outputs: int, size: int, stride: int, padding: int = 0, rectified: bool = True
) -> nn.Sequential:
    layers = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False), nn.BatchNorm2d(outputs)
    return nn.Sequential(*layers, nn.ReLU()) if rectified else nn.Sequential(*layers)


def make_model(config: Config, data: CaptionedPictures) -> AttentionModel:
    """The network with weights by `config.seed`: the same on every process, whatever else was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return AttentionModel(config, data).to(find_device(config.device))


def to_batch(data: CaptionedPictures, samples: Any, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, words and lengths of some samples; words no longer than the longest caption among them."""
    lengths = data.lengths[samples]
    columns = data.pictures[samples], data.words[samples][:, : lengths.max()], lengths
    pictures, words, lengths = (torch.from_numpy(np.ascontiguousarray(column)).to(device) for column in columns)
    return pictures, words, lengths


def update(
    config: Config,
    model: AttentionModel,
    learner: ModuleLearner,
    data: CaptionedPictures,
    samples: np.ndarray,
    learning_rate: float,
) -> dict[str, Tensor]:
    """Descend along the gradient of the questions' mean cross-entropy; return each one's."""
    answers = model.train()(*to_batch(data, samples, learner.device))
    losses = {}
    for question, logits in answers.logits.items():
        target = torch.from_numpy(data.targets[question][samples]).to(learner.device)
        losses[question] = functional.cross_entropy(logits, target)
    if data.first_look is not None and answers.region_weights is not None and config.guidance:
        places = torch.from_numpy(data.first_look[samples]).to(learner.device)
        surprise = -(answers.region_weights[:, 0] + 1e-6).log().gather(1, places.clamp(min=0)[:, None])[:, 0]
        losses["first look"] = config.guidance * (surprise * (places >= 0)).mean()
    torch.stack(list(losses.values())).sum().backward()
    learner.step(learning_rate, config.max_grad_norm)
    return {question: loss.detach() for question, loss in losses.items()}


class Outcome(NamedTuple):
    """The most probable answers [samples] by question, and the weights of `Answers`."""

    predictions: dict[str, np.ndarray]
    word_weights: np.ndarray | None
    region_weights: np.ndarray | None


@torch.no_grad()
def answer(model: AttentionModel, data: CaptionedPictures, device: torch.device) -> Outcome:
    """Answer all questions about all samples."""
    predictions: dict[str, list[Tensor]] = {question: [] for question in data.classes}
    word_weights, region_weights = [], []
    model.eval()
    for start in range(0, len(data), 256):
        answers = model(*to_batch(data, slice(start, start + 256), device))
        for question, logits in answers.logits.items():
            predictions[question].append(logits.argmax(-1))
        if answers.word_weights is not None and answers.region_weights is not None:
            shortfall = data.words.shape[1] - answers.word_weights.shape[1]
            word_weights.append(functional.pad(answers.word_weights, (0, shortfall)))
            region_weights.append(answers.region_weights)
    joined = {question: torch.cat(parts).cpu().numpy() for question, parts in predictions.items()}
    if not model.attention:
        return Outcome(joined, None, None)
    return Outcome(joined, torch.cat(word_weights).cpu().numpy(), torch.cat(region_weights).cpu().numpy())


def judge(model: AttentionModel, data: CaptionedPictures, outcome: Outcome, device: torch.device) -> dict[str, Any]:
    """What the network has learned by pictures it has not seen: accuracy, and whether attention lies on the evidence.

    Of several hops, the last is where the answer is looked up.
    """
    result = _interpretation.measure_accuracy(data, outcome.predictions)
    if outcome.word_weights is None or outcome.region_weights is None:
        return result | {"words": None, "regions": None, "deletion": None}
    words, regions = outcome.word_weights, outcome.region_weights[:, -1]
    planted = _interpretation.region_evidence(data, model.grid)
    in_caption, everywhere = data.words > 0, np.ones(regions.shape, dtype=bool)
    return result | {
        "words": _interpretation.point(words, _interpretation.word_evidence(data), in_caption),
        "regions": _interpretation.point(regions, planted, everywhere),
        "regions_by_kind": {
            kind: _interpretation.point(regions[mask], planted[mask], everywhere[mask])
            for kind, mask in data.kinds.items()
        },
        "first_look": None
        if data.first_look is None
        else _interpretation.point(
            outcome.region_weights[:, 0], np.arange(regions.shape[1]) == data.first_look[:, None], everywhere
        ),
        "deletion": _interpretation.deletion_test(
            lambda changed: answer(model, changed, device).predictions, data, words, regions, model.grid
        ),
    }


@dataclass
class Counters:
    """How far a run has come; the curve has a point of samples, loss and accuracies for each epoch."""

    updates: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


def save(directory: _run.RunDirectory, model: AttentionModel, learner: ModuleLearner, counters: Counters) -> None:
    """Write a checkpoint from which `restore` continues exactly."""
    numbers = dataclasses.asdict(counters) | {"world_size": _distributed.world_size()}
    # Those of batch normalisation.
    buffers = {f"buffer.{name}": buffer.cpu().numpy() for name, buffer in model.named_buffers()}
    directory.write_state(learner.get_state() | buffers, numbers)
    directory.write_policy(model)


def restore(directory: _run.RunDirectory, model: AttentionModel, learner: ModuleLearner) -> Counters:
    """Put back what `save` wrote."""
    arrays, numbers = directory.read_state()
    if (saved_by := numbers.pop("world_size")) != _distributed.world_size():
        raise UsageError(f"{directory.path} was saved by {saved_by} processes; resume it with as many")
    learner.set_state(arrays)
    for name, buffer in model.named_buffers():
        buffer.copy_(torch.from_numpy(arrays[f"buffer.{name}"]))
    return Counters(**numbers)


def train(config: Config) -> dict[str, Any]:
    """Train, save the run and return its figures; `seconds` counts making the data and training, without imports."""
    started = time.perf_counter()
    if config.resume is not None:
        _run.check_unchanged(config, load_config(config.resume), FIXED)
    metafast.set_num_threads(config.threads)
    torch.set_num_threads(config.threads)
    rank, device = _distributed.start(), find_device(config.device)
    generate = TASKS[config.task]
    data = generate(config.samples, "train", seed=config.seed)
    held_out = generate(config.held_out_samples, "held-out", seed=config.seed)
    model = make_model(config, data)
    learner = ModuleLearner(model, torch.Generator(), device)
    batch = config.batch_size * _distributed.world_size()
    per_epoch = len(data) // batch
    if per_epoch == 0:
        raise UsageError(f"an update takes {batch} samples and there are {len(data)}")
    if config.resume is None:
        directory = _run.RunDirectory.create(config.run_dir, f"{NAME}-{config.task}-{config.seed}", rank)
        directory.write_config(NAME, config)
        counters = Counters()
    else:
        directory = _run.RunDirectory(Path(config.resume), rank)
        counters = restore(directory, model, learner)
        directory.write_config(NAME, dataclasses.replace(config, resume=None))
    earlier_seconds, interrupted, total = counters.seconds, False, config.epochs * per_epoch
    if rank == 0 and counters.updates >= total:
        print("this run has ended; to go on give a greater --epochs", file=sys.stderr)
    saved, figures = time.perf_counter(), ""
    with (
        _run.interruptible() as interruption,
        _run.ProgressDisplay(total * batch, shown=rank == 0, unit="samples") as display,
    ):
        while counters.updates < total and not interrupted:
            epoch, position = divmod(counters.updates, per_epoch)
            # A function of seed and epoch, so that the number of updates is all that a checkpoint needs.
            order = np.random.default_rng([config.seed, epoch]).permutation(len(data))
            samples = order[position * batch : (position + 1) * batch][rank :: _distributed.world_size()]
            left = 1 - counters.updates / total
            learning_rate = config.learning_rate * (left / config.decay if left < config.decay else 1.0)
            losses = update(config, model, learner, data, samples, learning_rate)
            counters.updates += 1
            counters.seconds = earlier_seconds + time.perf_counter() - started
            seen = counters.updates * batch
            if counters.updates % per_epoch == 0:
                predictions = answer(model, held_out, device).predictions
                accuracy = _interpretation.measure_accuracy(held_out, predictions)["accuracy"]
                counters.curve.append({"samples": seen, **accuracy})
                directory.log(
                    {f"accuracy/{question}": share for question, share in accuracy.items()}
                    | {f"losses/{question}": float(loss) for question, loss in losses.items()},
                    seen,
                )
                figures = ", ".join(f"{question} {share:.1%}" for question, share in accuracy.items())
            display.update(seen, figures, seen / counters.seconds)
            due = time.perf_counter() - saved > config.checkpoint_seconds
            interrupted, due = _distributed.agree(interruption.requested, due)
            if due:
                save(directory, model, learner, counters)
                saved = time.perf_counter()
        counters.seconds = earlier_seconds + time.perf_counter() - started
    save(directory, model, learner, counters)
    result: dict[str, Any] = {}
    if rank == 0:
        columns = {"samples": [point["samples"] for point in counters.curve]}
        columns |= {f"{question} accuracy": [point[question] for point in counters.curve] for question in data.classes}
        directory.write_curve(columns, title=f"{config.task}, held out")
        outcome = answer(model, held_out, device)
        result = judge(model, held_out, outcome, device)
        result |= _interpretation.draw(directory.path, held_out, *outcome, model.grid, config.heat_maps)
    directory.close()
    _distributed.stop()
    return {
        "trainer": NAME,
        "task": config.task,
        "attention": config.attention,
        "seed": config.seed,
        "samples": counters.updates * batch,
        "seconds": counters.seconds,
        **result,
        "interrupted": interrupted,
        "run_dir": str(directory.path),
        "learning_curve": str(directory.curve_path),
    }


def describe(result: dict[str, Any]) -> str:
    """Say in words what `train` returned."""
    names = [name for name in ("learning_curve", "confusion_matrix", "heat_maps") if name in result]
    drawn = "".join(f"\n{name.replace('_', ' ')}: {result[name]}" for name in names)
    return f"{describe_evaluation(result)}\n{result['samples']:,} samples, {result['seconds']:.1f} s{drawn}"


def add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `metafast evaluate`: what `evaluate` takes beside the directory."""
    parser.add_argument("--samples", type=int, default=2_000, help="held-out samples (default 2000)")
    parser.add_argument("--seed", type=int, default=1, help="of the samples; training judges by its own (default 1)")


def evaluate(run_dir: str, samples: int = 2_000, seed: int = 1) -> dict[str, Any]:
    """Judge the network in `run_dir` by held-out samples."""
    if samples < 1 or not 0 <= seed < 2**63:
        raise UsageError("--samples must be at least 1, and --seed at least 0 and below 2**63")
    config = dataclasses.replace(load_config(run_dir), device="cpu")
    torch.set_num_threads(config.threads)
    data = TASKS[config.task](samples, "held-out", seed=seed)
    model = make_model(config, data)
    _run.RunDirectory(Path(run_dir)).read_policy(model)
    device = torch.device("cpu")
    result = judge(model, data, answer(model, data, device), device)
    return {"task": config.task, "samples": samples, "seed": seed, **result, "run_dir": str(run_dir)}


# Says in words what `evaluate` returned.
describe_evaluation = _interpretation.describe
