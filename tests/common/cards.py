"""Whether there is a card to run the CUDA kernels' tests on; where there is none, they run on the CPU alone."""

import importlib


def _find():
    try:
        return ["cuda"] if importlib.import_module("metafast._cuda").devices() else []
    except (ImportError, RuntimeError):
        return []


CUDA = _find()
