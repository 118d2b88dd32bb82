"""Three tasks on scikit-learn's 1797 handwritten digits, of the kinds that the tutorial names A, B and C."""

import numpy as np

from metafast.data.tasks import Task, TaskTable

# The digits that are written with a loop.
LOOPS = (0, 6, 8, 9)


def load() -> TaskTable:
    """A: the digit has a loop. B: its share of ink, from 0 to 1. C: which of the ten digits it is.

    Examples
    --------
    >>> table = load()
    >>> table.features.shape, [(task.name, task.kind) for task in table.tasks]
    ((1797, 64), [('A', 'binary'), ('B', 'bounded'), ('C', 'classes')])
    """
    from sklearn.datasets import load_digits

    ink, digits = load_digits(return_X_y=True)
    labels = np.stack([np.isin(digits, LOOPS), (ink / 16).mean(1), digits], axis=1)
    tasks = Task("A", "binary"), Task("B", "bounded"), Task("C", "classes", num_classes=10)
    return TaskTable((ink / 16).astype(np.float32), labels.astype(np.float32), tasks)
