"""Data sets in Python pickles, which are never opened: reading one runs what its author wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reverie.core.errors import ReverieError

NAMES = ("data_batch_1", "train_data_batch_1", "batches.meta", "meta")  # of CIFAR, and of small ImageNet
_HEADS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


def pickles_in(folder: Path) -> list[str]:
    """Those of the usual names that are pickles."""
    return [name for name in NAMES if _is_pickle(folder / name)]


def _is_pickle(path: Path) -> bool:
    try:
        with path.open("rb") as handle:
            return handle.read(2) in _HEADS
    except OSError:
        return False


def refusal(source: Path | str, names: Sequence[str]) -> ReverieError:
    """The error about a folder or an archive of them, with what to do instead."""
    return ReverieError(
        f"{source} holds Python pickles ({', '.join(names)} ...), which may run code when they are read, "
        "so they are not. Take the binary version of CIFAR (data_batch_1.bin or train.bin), the public set cifar10, or "
        "convert files that you trust once: numpy.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)."
    )
