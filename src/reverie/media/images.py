"""Images as they come out of a model: an array inside that shows itself."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from PIL import Image as PILImage

from reverie.core.errors import UsageError, argument
from reverie.core.files import path_of
from reverie.core.terminal import count
from reverie.core.values import integer, integers
from reverie.media import Spec, medium_of, montage
from reverie.media.origin import Origin, check_name_before_ending, ending_of, seeds_entry
from reverie.media.sheets import beside, check_film, image_of_each, labelled_grid


class Images(NDArrayOperatorsMixin):
    """Samples of any medium: stored rows (N, *shape, C), uint8 for images. NumPy functions and operators take it.

    Args:
        array: the rows.
        spec: what a row is; 8-bit images by default.
        seeds: of each row, where it was sampled.
        columns: of the grid; by default nearly square.
        labels: under each image of the grid.
        origin: what made them: verb, weights, seeds and options, as plain JSON; ``save`` writes it into the file.
        conditions: other columns of an .npz, such as "labels" or "texts": a value for each row.
        bare: the grid has no margins and enlarges nothing: one image is itself.
        alpha: of grey or RGB images, uint8 (N, H, W), for Pillow images and files whose format has transparency.

    Attributes:
        array: the rows, (N, *shape, C).
    Raises:
        UsageError: an array of another shape, type or number of channels, or an argument of another type or length.
    """

    def __init__(
        self,
        array: np.ndarray,
        spec: Spec | None = None,
        seeds: Sequence[int] = (),
        columns: int | None = None,
        labels: Sequence[str] = (),
        origin: Origin | None = None,
        conditions: Mapping[str, Sequence[Any]] | None = None,
        bare: bool = False,
        alpha: np.ndarray | None = None,
    ):
        kinds = {"spec": (spec, Spec), "origin": (origin, Mapping), "conditions": (conditions, Mapping)}
        for name, (value, kind) in kinds.items():
            if not isinstance(value, kind | None):
                raise UsageError(f"{argument(name)} must be a {kind.__name__}, not {value!r:.80}.")
        self.array = np.asarray(array)
        if self.array.ndim != (4 if spec is None else len(spec.shape) + 2) or 0 in self.array.shape[1:]:
            form = "(N, H, W, C)" if spec is None else f"N {spec.medium}s of {spec}"
            raise UsageError(f"{argument('array')} must be {form}, not of shape {self.array.shape}.")
        self.spec = spec or Spec("image", self.array.shape[1:-1], self.array.shape[-1])
        dtype = np.dtype(self.spec.dtype or medium_of(self.spec).storage)
        channels = (1, 3, 4) if self.spec.medium == "image" else (self.spec.channels,)  # grey sources of colours, too
        if self.array.dtype != dtype or self.array.shape[-1] not in channels:
            form = f"{self.array.dtype} with {self.array.shape[-1]}"
            many = "1, 3 or 4" if len(channels) > 1 else channels[0]
            floats = dtype == np.uint8 != self.array.dtype
            convert = " Of values x from 0 to 1: (x * 255).round().astype(np.uint8)." * floats
            raise UsageError(f"{argument('array')} must be {dtype} with {many} channels, not {form}.{convert}")
        numbers = integers(seeds)
        if numbers is None or len(numbers) not in (0, len(self.array)):
            raise UsageError(
                f"{argument('seeds')} must be a number for each of the {len(self.array)} rows: {seeds!r:.80}."
            )
        if reserved := {"images", "x", "seeds", "reverie"} & {*(conditions or {})}:
            raise UsageError(f"{argument('conditions')} cannot be named {min(reserved)}: an .npz has that array.")
        self.seeds, self.columns, self.labels, self.bare = list(numbers), columns, list(labels), bare
        if alpha is not None and (alpha.dtype != np.uint8 or alpha.shape != self.array.shape[:-1]):
            raise UsageError(
                f"{argument('alpha')} must be uint8 {self.array.shape[:-1]}, not {alpha.dtype} {alpha.shape}."
            )
        self.alpha = alpha
        self.origin, self.conditions = dict(origin or {}), {k: list(v) for k, v in (conditions or {}).items()}

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def pil(self) -> list[PILImage.Image]:
        """One Pillow image for each row; of volumes their central slices.

        Raises:
            UsageError: no image stands for a row of this medium.
        """
        images = self._visible()
        if images is None:
            raise UsageError(f"No single image stands for a {self.spec.medium}: use .grid() or .array.")
        return [montage.to_image(image) for image in images]

    def _visible(self) -> np.ndarray | None:
        """An image for each row, with its transparency."""
        images = image_of_each(self.array, self.spec)
        return images if images is None or self.alpha is None else np.concatenate([images, self.alpha[..., None]], -1)

    def grid(
        self, columns: int | None = None, scale: int | None = None, labels: Sequence[str] | bool | None = None
    ) -> PILImage.Image:
        """All rows as one Pillow image.

        Args:
            columns: images in a row.
            scale: whole-number enlargement; by default small images are enlarged to about 56 pixels.
            labels: under each image; True: the seeds, where there are no others.
        """
        if isinstance(labels, bool):
            labels = (self.labels or [str(seed) for seed in self.seeds]) if labels else []
        columns, labels = self.columns if columns is None else columns, self.labels if labels is None else labels
        images = self._visible()
        if images is None:
            return montage.to_image(medium_of(self.spec).sheet(self.array, self.spec, columns))
        if self.bare and not labels:
            return montage.to_image(montage.grid(images, columns, 0, 1 if scale is None else scale))
        return montage.to_image(labelled_grid(images, labels, columns, scale))

    def save(self, path: Path | str, seconds: float | None = None, **options: Any) -> Path:
        """Write a grid (.png ...), an archive (.npz), a folder with a file a row, or a film, each with its origin.

        Writes are atomic. An earlier file of this name is replaced; a folder only if reverie wrote all that it holds.

        Args:
            seconds: length of a film (.webp, .gif, .mp4) of the rows, up to 600; None: those endings are grids, too.
            options: of ``grid``.
        Raises:
            UsageError: a film of samples that no image stands for, an ending of another format or without a name, or a
                folder of other files.
        """
        path = path_of("path", path)
        check_name_before_ending(path, "path")
        ending = ending_of(path)
        if odd := [name for name in options if name not in ("columns", "scale", "labels")]:
            raise UsageError(f"A grid has no option {odd[0]!r}. It has: columns, scale, labels.")
        if seconds is not None:
            montage.check_seconds(seconds)
            if ending in montage.FILMS:
                check_film(path, self.spec)
                if (images := image_of_each(self.array, self.spec)) is not None:
                    return montage.save_film(path, images, seconds, origin=self.origin)
        if ending in ("", ".npz") or (self.spec.medium == "video" and ending in montage.FILMS):
            meta = self.conditions | ({"seeds": self.seeds} if self.seeds else {})
            medium_of(self.spec).save(path, self.array, self.spec, meta, self.origin)
            return path
        image = self.grid(**options)
        if self.alpha is not None and not montage.has_alpha(path):
            warnings.warn(f"{path.name} has no transparency: this format has none. Try .png.", stacklevel=2)
            image = image.convert(image.mode.removesuffix("A"))
        return montage.save(path, montage.from_image(image), self.origin)

    def __len__(self) -> int:
        return len(self.array)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.array)

    def __getitem__(self, index: Any) -> Any:
        """One row is an array; several are ``Images``."""
        rows = self.array[index]
        if isinstance(index, tuple) or rows.ndim != self.array.ndim:
            return rows
        seeds, labels = (np.array(each)[index].tolist() if each else () for each in (self.seeds, self.labels))
        conditions = {name: np.array(values)[index].tolist() for name, values in self.conditions.items()}
        origin = {k: v for k, v in self.origin.items() if k not in ("seed", "seeds", "number")}
        origin |= seeds_entry(seeds) | {name.removesuffix("s"): values for name, values in conditions.items()}
        alpha = None if self.alpha is None else self.alpha[index]
        return Images(rows, self.spec, seeds, self.columns, labels, origin, conditions, self.bare, alpha)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.array, dtype, copy=copy)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: tuple[Any, ...] = (), **options: Any) -> Any:
        arrays = [value.array if isinstance(value, Images) else value for value in inputs]
        if out:
            options["out"] = tuple(value.array if isinstance(value, Images) else value for value in out)
        result = getattr(ufunc, method)(*arrays, **options)
        return out[0] if len(out) == 1 else result

    def __repr__(self) -> str:
        seeds = f", seeds {self.seeds[0]} ... {self.seeds[-1]}" if self.seeds else ""
        return f"Images({count(len(self), self.spec.medium)} of {self.spec}{seeds})"

    def _repr_png_(self) -> bytes:
        return png_of(self.grid())


class Sheet:
    """Rows of images that belong together, such as originals above their reconstructions.

    Args:
        rows: ``Images`` of equal number by name, top to bottom.
        columns: of each row in the grid.
        origin: as for ``Images``; by default that of the rows.
    Raises:
        UsageError: no rows, or rows of different numbers of images.
    """

    def __init__(self, rows: Mapping[str, Images], columns: int = 8, origin: Origin | None = None):
        self.rows, self.columns = dict(rows), integer(argument("columns"), columns, least=1)
        if len({len(row) for row in self.rows.values()}) != 1:
            lengths = {name: len(row) for name, row in self.rows.items()}
            raise UsageError(f"{argument('rows')} must be sets of equally many images by name, not {lengths}.")
        self.origin = next(iter(self.rows.values())).origin if origin is None else dict(origin)
        for row in self.rows.values():
            row.origin = row.origin or self.origin

    def __getitem__(self, name: str) -> Images:
        return self.rows[name]

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))

    @property
    def array(self) -> np.ndarray:
        """One uint8 image (H, W, C)."""
        rows = list(self.rows.values())
        return beside([row.array for row in rows], rows[0].spec, self.columns, list(self.rows))

    def grid(self) -> PILImage.Image:
        """As one Pillow image."""
        return montage.to_image(self.array)

    def save(self, path: Path | str) -> Path:
        """Write the sheet (.png ...), or all rows as arrays (.npz), with its origin; replaces an earlier file."""
        from reverie.media.medium import save_arrays

        path = path_of("path", path)
        if ending_of(path) == ".npz":
            save_arrays(path, {name: row.array for name, row in self.rows.items()}, self.origin)
            return path
        return montage.save(path, self.array, self.origin)

    def __repr__(self) -> str:
        return f"Sheet({', '.join(self.rows)}: {len(self)} each)"

    def _repr_png_(self) -> bytes:
        return png_of(self.grid())


def png_of(image: PILImage.Image) -> bytes:
    """A Pillow image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()
