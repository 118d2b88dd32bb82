"""Thin PyTorch trainers over metafast's environments and kernels; each is one file, run by `metafast train NAME`."""


class UsageError(ValueError):
    """What was asked for cannot be done, for a reason the user can put right; the command says it and exits with 2."""
