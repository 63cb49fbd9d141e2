"""Data-parallel training: ``torchrun ... -m reverie train`` on gloo (CPU) or NCCL (CUDA).

A batch size is always the *global* batch size. Rank r of R takes rows r B/R ... (r + 1) B/R, draws random numbers by a
row's index in the global batch, and each phase averages its gradients over the ranks.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from reverie.core.errors import ReverieError, UsageError, argument


def launched() -> int:
    """Number of processes that torchrun launched; 1 without it. A RANK without a WORLD_SIZE means nothing."""
    return _from_environment("WORLD_SIZE", 1)


def rank() -> int:
    """This process's rank; before the group is initialised, that of the environment."""
    if dist.is_initialized():
        return dist.get_rank()
    return _from_environment("RANK", 0) if launched() > 1 else 0


def _from_environment(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UsageError(f"{name} of the environment must be a whole number, not {text!r}. Unset it, or use torchrun.")
    return int(text)


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


_LOST = (  # in the errors of gloo and NCCL when a process at the other end is gone
    *("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused", "remote process"),
    *("Socket Timeout", "Timed out"),
)


@contextlib.contextmanager
def group() -> Iterator[None]:
    """Join torchrun's process group within the block; a single process does nothing.

    Raises:
        ReverieError: another process of the group has ended.
    """
    if launched() <= 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(_from_environment("LOCAL_RANK", 0))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
        dist.barrier()  # gloo shuts down cleanly only if all ranks do so together
    except RuntimeError as error:
        if not any(text in str(error) for text in _LOST):
            raise
        raise ReverieError(
            f"Process {rank()} of {world()} stops, because another one has ended; its own message says why. Complete "
            "files and checkpoints are kept."
        ) from error
    finally:
        dist.destroy_process_group()


def rows(batch_size: int) -> tuple[int, int]:
    """This rank's rows of the global batch: (first row, number of rows).

    Raises:
        UsageError: the batch size is not a multiple of the number of ranks.
    """
    ranks = world()
    if batch_size % ranks:
        near = argument("batch_size", max(ranks, round(batch_size / ranks) * ranks))
        raise UsageError(f"{ranks} processes cannot share a batch of {batch_size} evenly. Try {near}.")
    return rank() * (batch_size // ranks), batch_size // ranks


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the ranks, in one all-reduce."""
    if world() == 1 or not tensors:
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    flat /= world()
    for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


@torch.no_grad()
def gather(columns: dict[str, Any]) -> dict[str, Any]:
    """The rows of all ranks in global order, on every rank; values without rows stay as they are."""
    if world() == 1:
        return columns

    def together(value: Any) -> Any:
        if isinstance(value, list):
            lists: list[Any] = [None] * world()
            dist.all_gather_object(lists, value)
            return [row for part in lists for row in part]
        if not isinstance(value, Tensor) or not value.ndim:
            return value
        plain = value.contiguous().byte() if value.dtype == torch.bool else value.contiguous()
        pieces = [torch.empty_like(plain) for _ in range(world())]
        dist.all_gather(pieces, plain)
        return torch.cat(pieces).to(value.dtype)

    return {name: together(columns[name]) for name in sorted(columns)}


def agree(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` is true on any rank."""
    if world() == 1:
        return flag
    vote = torch.tensor(float(flag), device=device)
    dist.all_reduce(vote, dist.ReduceOp.MAX)
    return bool(vote.item())


@torch.no_grad()
def same_start(tensors: Sequence[Tensor]) -> None:
    """Copy rank 0's values to every rank (weights already agree by the seed; this guarantees it)."""
    if world() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def collect(chunks: list[np.ndarray | None]) -> list[np.ndarray]:
    """All chunks on every rank; chunk i comes from rank i modulo the number of ranks and is None elsewhere."""
    if world() == 1:
        return [chunk for chunk in chunks if chunk is not None]
    gathered: list[np.ndarray] = []
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    for number, chunk in enumerate(chunks):
        owner = number % world()
        layout = [None if chunk is None else (chunk.shape, torch.from_numpy(np.array(chunk[:0])).dtype)]
        dist.broadcast_object_list(layout, owner)
        assert layout[0] is not None
        shape, dtype = layout[0]
        tensor = torch.empty(shape, dtype=dtype) if chunk is None else torch.from_numpy(np.array(chunk))
        tensor = tensor.to(device)
        dist.broadcast(tensor, owner)
        gathered.append(tensor.cpu().numpy())
    return gathered
