"""Whether attention lies on the evidence: pointing and deletion tests, and pictures of both answers and attention.

Pointing: how much of the weight, and how often the greatest one, lies on evidence that was planted. Deletion: how often
an answer changes when the word or region of the greatest weight is taken away, against taking away any other one.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from metafast.data.captioned import CaptionedPictures


def measure_accuracy(data: CaptionedPictures, predictions: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Accuracy by question, of all samples and of each kind."""
    right = {question: answers == data.targets[question] for question, answers in predictions.items()}
    return {
        "accuracy": {question: float(hits.mean()) for question, hits in right.items()},
        "accuracy_by_kind": {
            kind: {question: float(hits[mask].mean()) for question, hits in right.items()}
            for kind, mask in data.kinds.items()
            if mask.any()
        },
    }


# A region is evidence where the box covers at least this share of it.
COVERED = 0.25


def region_evidence(data: CaptionedPictures, grid: tuple[int, int]) -> np.ndarray:
    """Which regions of a grid, row by row, are evidence: [samples, regions]."""
    shares = []
    for cells, size, (low, high) in zip(grid, data.pictures.shape[1:3], ((0, 2), (1, 3)), strict=True):
        edges = np.linspace(0, size, cells + 1)
        start, end = data.evidence_box[:, low, None], data.evidence_box[:, high, None]
        overlap = np.minimum(end, edges[1:]) - np.maximum(start, edges[:-1])
        shares.append(np.clip(overlap, 0, None) / np.diff(edges))
    covered: np.ndarray = shares[0][:, :, None] * shares[1][:, None] >= COVERED
    return covered.reshape(len(data), -1)


def word_evidence(data: CaptionedPictures) -> np.ndarray:
    """Which words are evidence: [samples, longest]."""
    mask: np.ndarray = np.arange(data.words.shape[1]) == data.evidence_word[:, None]
    return mask


def point(weights: np.ndarray, evidence: np.ndarray, taking_part: np.ndarray) -> dict[str, float | None]:
    """The share of `weights` on the evidence, how often the greatest is on it, and what even weights would give.

    All are [samples, words or regions]; samples without evidence do not count.
    """
    some = evidence.any(1)
    if not some.any():
        return {"mass": None, "pointing": None, "even_mass": None}
    weights, evidence, taking_part = weights[some], evidence[some], taking_part[some]
    return {
        "mass": float((weights * evidence).sum(1).mean()),
        "pointing": float(np.take_along_axis(evidence, weights.argmax(1)[:, None], 1).mean()),
        "even_mass": float((evidence.sum(1) / taking_part.sum(1)).mean()),
    }


def delete_words(data: CaptionedPictures, where: np.ndarray) -> CaptionedPictures:
    """The same samples without the word at `where` [samples] in each caption, which closes up."""
    kept = np.arange(data.words.shape[1]) != where[:, None]
    words = np.zeros_like(data.words)
    words[:, :-1] = data.words[kept].reshape(len(data), -1)
    return dataclasses.replace(data, words=words, lengths=data.lengths - 1)


def delete_regions(data: CaptionedPictures, where: np.ndarray, grid: tuple[int, int]) -> CaptionedPictures:
    """The same samples with the pixels of the region at `where` [samples] painted over in the picture's mean colour."""
    samples, height, width, channels = data.pictures.shape
    cells = data.pictures.reshape(samples, grid[0], height // grid[0], grid[1], width // grid[1], channels).copy()
    rows, columns = np.divmod(where, grid[1])
    mean = data.pictures.mean((1, 2)).round().astype(data.pictures.dtype)
    cells[np.arange(samples), rows, :, columns] = mean[:, None, None]
    return dataclasses.replace(data, pictures=cells.reshape(data.pictures.shape))


def draw_other(rng: np.random.Generator, chosen: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """One of `counts` places [samples] at random, but not the `chosen` one."""
    other: np.ndarray = (chosen + 1 + rng.integers(counts - 1)) % counts
    return other


def deletion_test(
    predict: Callable[[CaptionedPictures], Mapping[str, np.ndarray]],
    data: CaptionedPictures,
    word_weights: np.ndarray,
    region_weights: np.ndarray,
    grid: tuple[int, int],
    seed: int = 0,
) -> dict[str, dict[str, dict[str, float]]]:
    """How often each question's answer changes when a word or region is taken away: the top one, or another.

    Words are taken from captions that hold evidence. `word_weights` [samples, longest], `region_weights`
    [samples, regions].
    """
    rng = np.random.default_rng(seed)
    result = {}
    regions = np.full(len(data), region_weights.shape[1])
    with_words = np.flatnonzero((data.evidence_word >= 0) & (data.lengths > 1))
    for name, samples, weights, counts in (
        ("words", with_words, word_weights, data.lengths),
        ("regions", np.arange(len(data)), region_weights, regions),
    ):
        if len(samples) == 0:
            continue
        part, top, counts = data.select(samples), weights[samples].argmax(1), counts[samples]
        before, changed = predict(part), {}
        for label, where in (("top", top), ("other", draw_other(rng, top, counts))):
            after = predict(delete_words(part, where) if name == "words" else delete_regions(part, where, grid))
            changed[label] = {question: float((before[question] != after[question]).mean()) for question in before}
        result[name] = changed
    return result


def count_confusions(data: CaptionedPictures, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of each question a matrix of counts: true answers down, predicted ones across."""
    matrices = {}
    for question, names in data.classes.items():
        matrices[question] = np.zeros((len(names), len(names)), dtype=np.int64)
        np.add.at(matrices[question], (data.targets[question], predictions[question]), 1)
    return matrices


def draw_confusions(path: Path, data: CaptionedPictures, predictions: Mapping[str, np.ndarray]) -> None:
    """Save a picture of each question's confusion matrix, beside one another."""
    matrices = count_confusions(data, predictions)
    figure = Figure(figsize=(5.5 * len(matrices), 5), layout="constrained")
    for place, (question, counts) in enumerate(matrices.items()):
        names = data.classes[question]
        axes = figure.add_subplot(1, len(matrices), place + 1, title=question, xlabel="predicted", ylabel="true")
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(path, dpi=120)


def draw_heat_maps(
    path: Path,
    data: CaptionedPictures,
    predictions: Mapping[str, np.ndarray],
    word_weights: np.ndarray,
    region_weights: np.ndarray,
    grid: tuple[int, int],
) -> None:
    """Save a picture of each sample with the weights of each hop laid over it, and its words with theirs.

    `word_weights` [samples, longest], `region_weights` [samples, hops, regions].
    """
    height, width = data.pictures.shape[1:3]
    hops = region_weights.shape[1]
    figure = Figure(figsize=(2.6 * (hops + 1) + 3.4, 2.7 * len(data)), layout="constrained")
    panels = figure.subplots(len(data), hops + 2, squeeze=False, width_ratios=[1] * (hops + 1) + [1.3])
    for sample, (picture, *overlays, caption) in enumerate(panels):
        answers = ", ".join(data.classes[question][predictions[question][sample]] for question in data.classes)
        for axes in (picture, *overlays):
            axes.imshow(data.pictures[sample].squeeze(), cmap="gray", interpolation="nearest")
            axes.set_axis_off()
        picture.set_title(answers, fontsize=9)
        for hop, axes in enumerate(overlays):
            weights = region_weights[sample, hop].reshape(grid)
            axes.imshow(weights, cmap="inferno", alpha=0.6, extent=(-0.5, width - 0.5, height - 0.5, -0.5), vmin=0)
            title = "regions" if hops == 1 else f"regions, hop {hop + 1}"
            axes.set_title(f"{title}: greatest {weights.max():.2f}", fontsize=9)
        length = data.lengths[sample]
        words = [data.vocabulary[word] for word in data.words[sample, :length]]
        planted = data.evidence_word[sample]
        bars = ["tab:orange" if place == planted else "tab:blue" for place in range(length)]
        caption.barh(range(length), word_weights[sample, :length], color=bars)
        caption.set_yticks(range(length), words, fontsize=8)
        caption.invert_yaxis()
        caption.set_xlim(0, 1)
        caption.set_title("words (orange: planted)", fontsize=9)
    figure.savefig(path, dpi=100)


def draw(
    directory: Path,
    data: CaptionedPictures,
    predictions: Mapping[str, np.ndarray],
    word_weights: np.ndarray | None,
    region_weights: np.ndarray | None,
    grid: tuple[int, int],
    heat_maps: int,
) -> dict[str, str]:
    """Save the confusion matrices, and of attention the heat maps of the first samples; return where."""
    paths = {"confusion_matrix": directory / "confusion_matrix.png"}
    draw_confusions(paths["confusion_matrix"], data, predictions)
    if word_weights is not None and region_weights is not None and heat_maps:
        paths["heat_maps"] = directory / "heat_maps.png"
        draw_heat_maps(
            paths["heat_maps"], data.select(np.arange(min(heat_maps, len(data)))), predictions, word_weights,
            region_weights, grid,
        )  # fmt: skip
    return {name: str(path) for name, path in paths.items()}


def describe(result: Mapping[str, Any]) -> str:
    """Say in words what `measure_accuracy` and, under words and regions, `point` returned."""
    lines = ["held-out accuracy: " + ", ".join(f"{name} {share:.1%}" for name, share in result["accuracy"].items())]
    for kind, accuracy in result["accuracy_by_kind"].items():
        lines.append(f"  {kind}: " + ", ".join(f"{name} {share:.1%}" for name, share in accuracy.items()))
    for name in ("words", "regions"):
        if result[name] is not None and result[name]["mass"] is not None:
            shares = result[name]
            lines.append(
                f"attention to {name} on the evidence: {shares['mass']:.1%} of the weight, the greatest weight in "
                f"{shares['pointing']:.1%} (even weights: {shares['even_mass']:.1%})"
            )
    return "\n".join(lines)
