"""Data parallelism under torchrun: the same command, one process per WORLD_SIZE, over torch.distributed and gloo."""

import os

import torch
import torch.distributed as dist
from torch import Tensor


def start() -> int:
    """Join the process group that torchrun described in the environment, if it did; return this rank."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    return rank()


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def average_(tensor: Tensor) -> None:
    """Replace `tensor` by its mean over the ranks."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()


def rank() -> int:
    """Return this process's rank."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def total(count: int) -> int:
    """Return the sum of the ranks' counts."""
    if not dist.is_initialized():
        return count
    counts = torch.tensor(count)
    dist.all_reduce(counts)
    return int(counts)


def agree(*flags: bool) -> tuple[bool, ...]:
    """Make each flag true on every rank if it is true on any, so that all of them leave a loop together."""
    if not dist.is_initialized():
        return flags
    raised = torch.tensor([float(flag) for flag in flags])
    dist.all_reduce(raised)
    return tuple(bool(flag) for flag in raised > 0)


def from_first(text: str) -> str:
    """The first rank's `text`, on every rank."""
    if not dist.is_initialized():
        return text
    texts = [text]
    dist.broadcast_object_list(texts, src=0)
    return texts[0]
