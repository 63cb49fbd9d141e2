"""Memory: what the machine has, what a model may take, how many samples are computed at once."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook

from reverie.core.errors import UsageError

MOST_TENSORS = 10_000  # of weights of a model: the modules of more take seconds and gigabytes by themselves
_PIXELS = {"cuda": 1 << 20}  # computed at once without gradients: 64 images of 128 x 128
_FEW_PIXELS = 1 << 18  # on other devices: 64 images of 64 x 64
_EXHAUSTED = ("can't allocate memory", "out of memory", "Storage size calculation overflowed", "integer multiplication")


class TooLarge(UsageError):
    """A model with more weights than the limits."""


def machine_memory() -> int:
    """Bytes of memory that this process can have: of the machine, its control group and its own limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 36]
    group = Path("/sys/fs/cgroup/memory.max")
    if group.is_file() and (text := group.read_text().strip()).isdigit():
        limits.append(int(text))
    try:
        import resource

        limits.append(resource.getrlimit(resource.RLIMIT_AS)[0])
    except ImportError:  # Windows
        pass
    return min(limit for limit in limits if limit > 0)


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that memory cannot be allocated."""
    text = str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(t in text for t in _EXHAUSTED))


_limits: list[tuple[int, int]] = []  # an entry within ``limited``
_counting: list[bool] = []  # an entry within ``counted``


def limits() -> tuple[int, int]:
    """Parameter tensors and bytes that a model may have: by default a quarter of the machine's memory, because training
    also holds gradients and two moments."""
    return _limits[0] if _limits else (MOST_TENSORS, machine_memory() // 4)


@contextmanager
def limited(tensors: int, size: int) -> Iterator[None]:
    """Other ``limits`` within the block; those of the outermost block count."""
    _limits.append((tensors, size))
    try:
        yield
    finally:
        _limits.pop()


def is_counting() -> bool:
    """Whether a ``counted`` block is active."""
    return bool(_counting)


@contextmanager
def counted(tensors: int, size: int) -> Iterator[None]:
    """Build a model of at most so many parameter tensors and bytes within the block; the outermost block counts.

    Parameters are counted as modules register them, mostly before they are initialised.

    Raises:
        TooLarge: more.
    """
    if _counting:
        yield
        return
    count = [0, 0]

    def register(module: Any, name: str, parameter: Tensor | None) -> None:
        if parameter is not None:
            count[0] += 1
            count[1] += 0 if torch.nn.parameter.is_lazy(parameter) else parameter.numel() * parameter.element_size()
        if count[0] > tensors:
            raise TooLarge(f"more than {tensors:,} tensors of weights")
        if count[1] > size:
            raise TooLarge(f"more than {size / 1e9:.3g} GB of weights")

    _counting.append(True)
    hook = register_module_parameter_registration_hook(register)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_exhausted(error):
            raise TooLarge("a tensor that does not fit into memory") from error
        raise
    finally:
        hook.remove()
        _counting.pop()


@contextmanager
def on_meta() -> Iterator[None]:
    """Build without memory and without use of the generator, as far as the constructor reads no values."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            yield
    except (RuntimeError, NotImplementedError) as error:
        if "meta" not in str(error):
            raise


def rows_at_once(shape: Sequence[int], device: torch.device | str, most: int = 64) -> int:
    """Number of samples of these extents to compute at once without gradients: 1 to ``most``.

    A training step of one sample takes more memory, so what trains can also be sampled, scored and shown.
    """
    pixels = _PIXELS.get(torch.device(device).type, _FEW_PIXELS)
    return max(1, min(most, pixels // max(1, math.prod(shape))))
