"""Many ranks, one run: ``torchrun ... -m reverie train`` on gloo (CPU) or NCCL (CUDA).

A batch size is always the *global* one. Rank r of R takes rows r B/R ... (r + 1) B/R of it, draws their random numbers
by their place in the global batch, and each phase averages its own gradients over the ranks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from reverie.core.errors import UsageError


def rank() -> int:
    """This process's place: 0 where nothing is distributed, and in the environment's word before the group is up."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", 0))


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def group() -> Iterator[None]:
    """Join the process group that torchrun describes, for as long as the block lasts; nothing on a lone process."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
        dist.barrier()  # gloo's ranks end cleanly only together
    finally:
        dist.destroy_process_group()


def rows(batch_size: int) -> tuple[int, int]:
    """First row and number of rows of the global batch that are this rank's.

    Raises:
        UsageError: the ranks cannot share the batch evenly.
    """
    if batch_size % world():
        near = max(world(), round(batch_size / world()) * world())
        raise UsageError(f"{world()} processes cannot share a batch of {batch_size} evenly. Try --batch-size {near}.")
    each = batch_size // world()
    return rank() * each, each


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the ranks, in one message."""
    if world() == 1 or not tensors:
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    flat /= world()
    for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


@torch.no_grad()
def gather(columns: dict[str, Any]) -> dict[str, Any]:
    """The rows of every rank in global order, on every rank; of columns that have rows (B, ...)."""
    if world() == 1:
        return columns

    def together(value: Any) -> Any:
        if isinstance(value, list):
            lists: list[Any] = [None] * world()
            dist.all_gather_object(lists, value)
            return [row for one in lists for row in one]
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
    """True everywhere when true anywhere."""
    if world() == 1:
        return flag
    vote = torch.tensor(float(flag), device=device)
    dist.all_reduce(vote, dist.ReduceOp.MAX)
    return bool(vote.item())


@torch.no_grad()
def same_start(tensors: Sequence[Tensor]) -> None:
    """Give every rank rank 0's values (weights agree already by the seed; this makes sure of it)."""
    if world() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def collect(chunks: list[np.ndarray | None]) -> list[np.ndarray]:
    """Chunk i, made by rank i modulo the number of ranks (elsewhere None), on every rank."""
    if world() == 1:
        return [chunk for chunk in chunks if chunk is not None]
    whole: list[np.ndarray] = []
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    for number, chunk in enumerate(chunks):
        owner = number % world()
        facts = [None if chunk is None else (chunk.shape, torch.from_numpy(np.array(chunk[:0])).dtype)]
        dist.broadcast_object_list(facts, owner)
        assert facts[0] is not None
        shape, dtype = facts[0]
        tensor = torch.empty(shape, dtype=dtype) if chunk is None else torch.from_numpy(np.array(chunk))
        tensor = tensor.to(device)
        dist.broadcast(tensor, owner)
        whole.append(tensor.cpu().numpy())
    return whole
