"""What the animals look like: each species as ellipses, and what a pose does to them.

Lengths are in units of about a trunk's length; x points to where the animal looks, y upwards from the ground.
"""

import math

import numpy as np

SPECIES = ("cat", "dog", "cheetah", "zebra", "elephant", "rabbit", "giraffe", "tortoise")
POSES = ("standing", "walking", "grazing", "sitting")

# An ellipse: what it belongs to, centre x and y, half-lengths along and across, degrees by which it is turned.
Ellipse = tuple[str, float, float, float, float, float]


def _legs(hip: float, shoulder: float, length: float, thickness: float) -> list[Ellipse]:
    return [
        ("hind leg", hip - 0.06, length / 2, length / 2 + 0.05, thickness, 90),
        ("hind leg back", hip + 0.08, length / 2, length / 2 + 0.05, thickness, 90),
        ("front leg", shoulder + 0.06, length / 2, length / 2 + 0.05, thickness, 90),
        ("front leg back", shoulder - 0.08, length / 2, length / 2 + 0.05, thickness, 90),
    ]


# Filled with the animal's colour.
BODIES: dict[str, list[Ellipse]] = {
    "cat": [
        ("body", 0, 0.42, 0.40, 0.17, 0), ("head", 0.46, 0.66, 0.18, 0.16, 0), *_legs(-0.28, 0.28, 0.34, 0.055),
        ("head", 0.37, 0.84, 0.12, 0.045, 100), ("head", 0.55, 0.84, 0.12, 0.045, 80),
        ("tail", -0.47, 0.66, 0.30, 0.04, 105),
    ],
    "dog": [
        ("body", 0, 0.50, 0.44, 0.20, 0), ("head", 0.46, 0.78, 0.19, 0.15, 0), *_legs(-0.30, 0.30, 0.42, 0.07),
        ("head", 0.66, 0.72, 0.15, 0.08, 0), ("head", 0.34, 0.70, 0.17, 0.07, 80), ("head", 0.38, 0.64, 0.16, 0.12, 45),
        ("tail", -0.50, 0.66, 0.13, 0.05, 130),
    ],
    "cheetah": [
        ("body", 0, 0.58, 0.52, 0.14, 5), ("head", 0.62, 0.80, 0.13, 0.11, 0), *_legs(-0.40, 0.40, 0.54, 0.045),
        ("head", 0.50, 0.71, 0.14, 0.07, 40), ("tail", -0.72, 0.50, 0.34, 0.035, 20),
    ],
    "zebra": [
        ("body", 0, 0.62, 0.46, 0.21, 0), ("head", 0.68, 1.04, 0.20, 0.09, -35), *_legs(-0.34, 0.34, 0.50, 0.055),
        ("head", 0.47, 0.88, 0.28, 0.11, 60), ("head", 0.55, 1.18, 0.08, 0.03, 90),
        ("tail", -0.50, 0.50, 0.20, 0.03, 80),
    ],
    "elephant": [
        ("body", -0.05, 0.66, 0.52, 0.34, 0), ("head", 0.52, 0.82, 0.24, 0.24, 0), *_legs(-0.34, 0.26, 0.44, 0.115),
        ("head", 0.76, 0.50, 0.36, 0.065, 100), ("tail", -0.58, 0.52, 0.18, 0.025, 80),
    ],
    "rabbit": [
        ("body", 0, 0.28, 0.30, 0.22, 10), ("head", 0.32, 0.52, 0.15, 0.14, 0), ("tail", -0.32, 0.28, 0.09, 0.09, 0),
        ("head", 0.24, 0.84, 0.26, 0.055, 98), ("head", 0.36, 0.84, 0.26, 0.055, 82),
        ("hind leg", -0.14, 0.06, 0.16, 0.07, 0), ("front leg", 0.22, 0.10, 0.10, 0.05, 90),
    ],
    "giraffe": [
        ("body", 0, 0.72, 0.38, 0.19, 8), ("head", 0.66, 1.64, 0.17, 0.08, -20), *_legs(-0.26, 0.26, 0.62, 0.045),
        ("head", 0.44, 1.20, 0.52, 0.075, 68), ("head", 0.54, 1.77, 0.08, 0.025, 95),
        ("tail", -0.42, 0.60, 0.18, 0.025, 80),
    ],
    "tortoise": [
        ("body", 0, 0.26, 0.46, 0.14, 0), ("body", 0, 0.36, 0.36, 0.24, 0), ("head", 0.56, 0.36, 0.12, 0.09, 10),
        ("hind leg", -0.28, 0.10, 0.13, 0.08, 90), ("front leg", 0.28, 0.10, 0.13, 0.08, 90),
        ("tail", -0.48, 0.20, 0.10, 0.03, 20),
    ],
}  # fmt: skip

# Drawn on the body in a contrasting colour.
MARKINGS: dict[str, list[Ellipse]] = {
    "cat": [
        ("head", 0.64, 0.62, 0.09, 0.02, 0), ("head", 0.64, 0.57, 0.09, 0.02, 0),
        ("tail", -0.53, 0.90, 0.06, 0.05, 105),
        ("body", 0.02, 0.35, 0.30, 0.07, 0),
    ],
    "dog": [
        ("head", 0.34, 0.68, 0.15, 0.06, 80), ("head", 0.79, 0.73, 0.04, 0.04, 0), ("body", -0.06, 0.61, 0.26, 0.09, 0),
    ],
    "cheetah": [
        *(("body", -0.40 + 0.16 * i, 0.63, 0.04, 0.04, 0.0) for i in range(6)),
        *(("body", -0.32 + 0.16 * i, 0.53, 0.04, 0.04, 0.0) for i in range(5)),
        ("tail", -0.92, 0.43, 0.07, 0.04, 20),
    ],
    "zebra": [
        *(("body", -0.38 + 0.15 * i, 0.62, 0.20, 0.035, 85.0) for i in range(6)),
        *(("head", 0.40 + 0.08 * i, 0.78 + 0.14 * i, 0.12, 0.03, -30.0) for i in range(3)),
    ],
    "elephant": [("head", 0.36, 0.80, 0.22, 0.14, 80), ("head", 0.68, 0.60, 0.12, 0.03, -35)],
    "rabbit": [("tail", -0.32, 0.28, 0.08, 0.08, 0), ("head", 0.36, 0.86, 0.18, 0.025, 82)],
    "giraffe": [
        *(("body", -0.26 + 0.17 * i, 0.72 + 0.08 * (i % 2), 0.065, 0.055, 30.0) for i in range(4)),
        *(("head", 0.32 + 0.085 * i, 0.92 + 0.20 * i, 0.06, 0.05, 68.0) for i in range(4)),
    ],
    "tortoise": [
        *(("body", -0.22 + 0.22 * i, 0.38 - 0.06 * abs(i - 1), 0.085, 0.12, 0.0) for i in range(3)),
    ],
}  # fmt: skip


def _pivot(species: str, group: str) -> tuple[float, float]:
    """Where a group hangs: legs at their upper ends, the head at the front of the trunk, the tail at its back."""
    _, x, y, along, across, _ = BODIES[species][0]
    if group == "head":
        return x + 0.8 * along, y + 0.3 * across
    if group == "tail":
        return x - 0.9 * along, y
    upper_ends = {name: (cx, cy + length) for name, cx, cy, length, _, _ in BODIES[species] if "leg" in name}
    return upper_ends.get(group, (x, y))


# Degrees by which a pose turns each group about its pivot; then the whole animal about the foot of its hind leg.
TURNS: dict[str, dict[str, float]] = {
    "standing": {},
    "walking": {"hind leg": -28, "hind leg back": 24, "front leg": 28, "front leg back": -24, "tail": -12},
    "grazing": {"head": -62, "tail": 8},
    "sitting": {"hind leg": 62, "hind leg back": 62, "head": -24, "tail": 25},
}
LEAN = {"sitting": 30.0}


def _turned(x: float, y: float, about: tuple[float, float], degrees: float) -> tuple[float, float]:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    dx, dy = x - about[0], y - about[1]
    return about[0] + cosine * dx - sine * dy, about[1] + sine * dx + cosine * dy


def _posed(species: str, pose: str, ellipses: list[Ellipse]) -> list[tuple[float, ...]]:
    rows: list[tuple[float, ...]] = []
    for group, x, y, along, across, degrees in ellipses:
        turn, lean = TURNS[pose].get(group, 0.0), LEAN.get(pose, 0.0)
        x, y = _turned(x, y, _pivot(species, group), turn)
        x, y = _turned(x, y, (BODIES[species][0][1] - 0.3, 0.1), lean)
        rows.append((x, y, along, across, degrees + turn + lean))
    return rows


def tabulate(parts: dict[str, list[Ellipse]]) -> np.ndarray:
    """Ellipses of every species in every pose [species, poses, most ellipses, 5]; rows of NaN where there are fewer.

    The columns are centre x and y, half-lengths along and across, and radians.
    """
    table = np.full((len(SPECIES), len(POSES), max(map(len, parts.values())), 5), np.nan, dtype=np.float32)
    for i, species in enumerate(SPECIES):
        for j, pose in enumerate(POSES):
            table[i, j, : len(parts[species])] = _posed(species, pose, parts[species])
    table[..., 4] = np.radians(table[..., 4])
    return table


def centre(table: np.ndarray) -> np.ndarray:
    """Midpoints [species, poses, 2] of the ellipses' bounding boxes, by `table` of `tabulate`."""
    x, y, along, across, angle = np.moveaxis(table, -1, 0)
    half_width = np.hypot(along * np.cos(angle), across * np.sin(angle))
    half_height = np.hypot(along * np.sin(angle), across * np.cos(angle))
    ends = [
        (np.nanmin(middle - half, -1) + np.nanmax(middle + half, -1)) / 2
        for middle, half in ((x, half_width), (y, half_height))
    ]
    return np.stack(ends, -1)
