"""The interface of media, and their common conversions.

Stored rows are (N, *shape, C) in the medium's type; in a model they are float32 (N, C, *shape) in [-1, 1] with channels
last in memory (``channels_last`` for images, ``channels_last_3d`` for volumes and clips). Of RGBA images stored rows
have straight alpha, a model's premultiplied: see ``media.alpha``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from reverie.core.errors import ReverieError
from reverie.core.files import atomic
from reverie.media import alpha, montage
from reverie.media.origin import Origin, ending_of, fresh_folder, of_row, text_of
from reverie.media.spec import Spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def to_float(
    rows: np.ndarray | Tensor, device: torch.device | str = "cpu", low: float = 0.0, high: float = 255.0
) -> Tensor:
    """Stored rows (B, *shape, C) to float32 (B, C, *shape): ``low`` to -1, ``high`` to 1; channels last in memory."""
    import torch  # opening data needs no torch

    if isinstance(rows, np.ndarray):
        rows = torch.from_numpy(np.require(rows, requirements="W"))  # torch warns about read-only arrays
    x = rows.to(device, non_blocking=True).movedim(-1, 1).to(torch.float32, copy=True)
    if alpha.is_rgba(x, 1):
        x[:, :3] = (x[:, :3] * (x[:, 3:] / 255)).round_()
    if low:
        x.sub_(low)
    return x.div_((high - low) / 2).sub_(1)


def to_rows(x: Tensor, dtype: str = "uint8", low: float = 0.0, high: float = 255.0) -> np.ndarray:
    """(B, C, *shape) in [-1, 1] to stored rows (B, *shape, C); integers are rounded, values outside are clamped."""
    import torch

    values = x.detach().float().add(1).mul_((high - low) / 2)
    if low:
        values.add_(low)
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        values = values.round_().clamp_(max(low, info.min), min(high, info.max)).to(getattr(torch, dtype))
    rows = values.movedim(1, -1).contiguous().cpu().numpy()
    return alpha.straight(rows) if alpha.is_rgba(rows) else rows


def to_uint8(x: Tensor) -> np.ndarray:
    """``to_rows`` of 8-bit media: (B, C, *shape) in [-1, 1] to uint8 (B, *shape, C)."""
    return to_rows(x)


class Medium(Protocol):
    """One kind of sample.

    Attributes:
        name: as in ``Spec.medium``.
        noun: of several samples in messages.
        unit: of their extents in messages.
        dims: spatial dimensions.
        storage: type of stored rows.
        augmentations: the suitable ones of flip, translate and color.
        suffixes: file extensions for ``read``.
        ending: of the file of one row.
    """

    name: str
    noun: str
    unit: str = "px"
    dims: int
    storage: np.dtype = np.dtype(np.uint8)
    augmentations: tuple[str, ...]
    suffixes: tuple[str, ...] = (".npy",)
    ending: str = ".npy"

    def read(self, path: Path, spec: Spec) -> np.ndarray:
        """One file as one stored row (*shape, C).

        Raises:
            ReverieError: it cannot be read, or has another shape.
        """
        try:
            row = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ReverieError(f"{path} cannot be read as .npy: {error}.") from None
        row = row[..., None] if row.shape == spec.shape and spec.channels == 1 else row
        if row.shape != (*spec.shape, spec.channels):
            raise ReverieError(f"{path} has shape {row.shape}; {(*spec.shape, spec.channels)} is needed.")
        return row.astype(spec.dtype or self.storage)

    def to_float(self, rows: np.ndarray | Tensor, spec: Spec, device: torch.device | str = "cpu") -> Tensor:
        """Stored rows (B, *shape, C) to float32 (B, C, *shape) in [-1, 1], channels last in memory."""
        return to_float(rows, device, spec.low, spec.high)

    def to_storage(self, x: Tensor, spec: Spec) -> np.ndarray:
        """(B, C, *shape) in [-1, 1] to stored rows (B, *shape, C)."""
        return to_rows(x, spec.dtype or self.storage.name, spec.low, spec.high)

    def as_images(self, rows: np.ndarray, spec: Spec) -> tuple[np.ndarray, str] | None:
        """Images of the rows, uint8 (N', H, W, 1, 3 or 4), and what they show; None if there are none."""
        ...

    def sheet(self, rows: np.ndarray, spec: Spec, columns: int | None = None) -> np.ndarray:
        """All rows as one uint8 image (H, W, 1, 3 or 4)."""
        ...

    def save(
        self, path: Path, rows: np.ndarray, spec: Spec, meta: Mapping[str, Any], origin: Origin | None = None
    ) -> None:
        """Write the rows and their origin atomically: as .npz with ``meta``, as a sheet, or as a folder of files."""
        ...

    def save_row(self, path: Path, row: np.ndarray, spec: Spec, origin: Origin | None = None) -> None:
        """Write one row to a file that ends in ``ending``, atomically; an .npy carries no origin."""
        with atomic(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, row)


def save_arrays(path: Path, columns: Mapping[str, Any], origin: Origin | None = None) -> None:
    """A compressed .npz with its origin, written atomically."""
    with atomic(path) as temporary, temporary.open("wb") as stream:
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in columns.items()}
        np.savez_compressed(stream, **arrays, reverie=np.asarray(text_of(origin)))


def save_folder(medium: Medium, folder: Path, rows: np.ndarray, spec: Spec, origin: Origin | None) -> None:
    """A folder with a numbered file for each row, and its origin; earlier files of ours are replaced.

    Raises:
        UsageError: the folder holds other files.
    """
    fresh_folder(folder, dict(origin or {}) | {"rows": len(rows)})
    for index, row in enumerate(rows):
        medium.save_row(folder / row_name(medium, index, len(rows)), row, spec, of_row(origin, index))


def row_name(medium: Medium, index: int, number: int) -> str:
    """The file of row ``index`` of ``number``, such as 000007.png; names sort as the rows do."""
    return f"{index:0{max(6, len(str(number - 1)))}d}{medium.ending}"


def save_plain(
    medium: Medium, path: Path, rows: np.ndarray, spec: Spec, meta: Mapping[str, Any], origin: Origin | None
) -> None:
    """Save rows without a file format of their own: .npz, a sheet (.png ...), or a folder of .npy files."""
    ending = ending_of(path)
    if ending == ".npz":
        save_arrays(path, {"x": rows, **meta}, origin)
    elif ending:
        montage.save(path, medium.sheet(rows, spec), origin)
    else:
        save_folder(medium, path, rows, spec, origin)
