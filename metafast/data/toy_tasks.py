"""The tutorial's own example: two inputs, and tasks A (binary), B (a number from 0 to 1) and C (five classes)."""

import numpy as np

from metafast.data.tasks import Task, TaskTable

NUM_CLASSES = 5


def generate(rows: int = 2_000, *, seed: int = 0) -> TaskTable:
    """Points in a square that all tasks see in twisted polar coordinates, so that a shared trunk has a use.

    The angle grows with the radius. A: does the point lie inside of a three-lobed curve (one label in twenty is
    wrong)? B: a wave along the angle that fades with the radius, with Beta noise of precision 50. C: the fifth of the
    turn. The same arguments give the same bits.

    Examples
    --------
    >>> table = generate(500)
    >>> table.features.shape, table.labels.shape
    ((500, 2), (500, 3))
    >>> table.labels.min(0).tolist()[::2], table.labels.max(0).tolist()[::2]
    ([0.0, 0.0], [1.0, 4.0])
    """
    if rows < 1 or seed < 0:
        raise ValueError(f"rows must be at least 1 and seed at least 0, not {rows} and {seed}")
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1, 1, (rows, 2))
    radius = np.hypot(*points.T)
    turn = (np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi) + 0.3 * radius) % 1.0
    inside = radius < 0.75 + 0.25 * np.sin(6 * np.pi * turn)
    wave = 0.5 + 0.4 * np.sin(4 * np.pi * turn) * np.exp(-radius)
    flipped = rng.random(rows) < 0.05
    bounded = rng.beta(50 * wave, 50 * (1 - wave))
    labels = np.stack([inside ^ flipped, bounded, np.floor(NUM_CLASSES * turn).clip(max=NUM_CLASSES - 1)], axis=1)
    tasks = Task("A", "binary"), Task("B", "bounded"), Task("C", "classes", num_classes=NUM_CLASSES)
    return TaskTable(points.astype(np.float32), labels.astype(np.float32), tasks)
