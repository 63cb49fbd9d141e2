"""Any image as a canvas takes it, at its own size and with its own channels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from reverie.core.errors import UsageError, argument
from reverie.core.files import is_file
from reverie.core.values import integer
from reverie.media import decode, montage
from reverie.media.images import Images

WHITE = (255, 255, 255)  # behind transparent pixels


def open_photo(image: Any, size: int | None = None, name: str = "image") -> Tensor:
    """An image (1, C, H, W) in [-1, 1]; C is 1 for a grey image, else 3.

    Args:
        image: a file, a Pillow image, uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or ``Images`` of one row.
            Transparent pixels are composited on white.
        size: of the longer side in pixels; None: the image's own.
        name: of the argument, for messages.
    Raises:
        UsageError: something else, or no such file.
        ReverieError: a file that cannot be read as an image.
    """
    flat = _flat(image, name)
    if size is not None:
        scale = integer(argument("size"), size, 1, 20_000) / max(flat.size)
        width, height = (max(1, round(side * scale)) for side in flat.size)
        flat = flat.resize((width, height), PILImage.Resampling.LANCZOS)
    pixels = torch.from_numpy(montage.from_image(flat).copy())
    return pixels.permute(2, 0, 1)[None].float().div_(127.5).sub_(1)


def open_alpha(image: Any, shape: Sequence[int]) -> np.ndarray | None:
    """The transparency of an image that ``open_photo`` opens, uint8 (1, *shape); None if it is opaque.

    Args:
        shape: (height, width) of the result.
    """
    alpha = decode.read_alpha(image) if isinstance(image, str | Path) else decode.alpha_of(_pillow(image))
    height, width = shape
    return None if alpha is None else np.asarray(alpha.resize((width, height), PILImage.Resampling.LANCZOS))[None]


def to_images(image: Tensor, **options: Any) -> Images:
    """Images (B, C, H, W) in [-1, 1] as ``Images`` that are saved at their own size, without margins.

    Args:
        options: of ``Images``.
    """
    pixels = image.detach().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    return Images(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy(), bare=True, **options)


def _pillow(image: Any) -> Any:
    """An array or ``Images`` of one row as a Pillow image; anything else as it is."""
    if isinstance(image, Images) and len(image) == 1:
        return image.pil[0]
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
        image = image[..., 0] if image.shape[2:] == (1,) else image
        if image.ndim == 2 or image.shape[2:] in ((3,), (4,)):
            return PILImage.fromarray(image)
    return image


def _flat(image: Any, name: str) -> PILImage.Image:
    image = _pillow(image)
    if isinstance(image, PILImage.Image):
        return decode.from_pillow(image, WHITE, [])
    if not isinstance(image, str | Path):
        kind = f"an array of {image.dtype} {image.shape}" if isinstance(image, np.ndarray) else f"{image!r:.80}"
        raise UsageError(f"{argument(name)} must be an image file, a Pillow image or uint8 (H, W, C), not {kind}.")
    if not is_file(image):
        raise UsageError(f"There is no image file {str(image)!r}.")
    return decode.read_file(image)
