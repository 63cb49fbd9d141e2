"""Image formats without loss, to compare with: PNG, WebP, and JPEG XL where its library is installed."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

LARGEST_WEBP = 16_383  # pixels of a side


def png(image: np.ndarray) -> bytes:
    """A PNG of uint8 (H, W, 1 to 4), optimised."""
    return _saved(image, "PNG", optimize=True)


def webp(image: np.ndarray) -> bytes:
    """A WebP of uint8 (H, W, 1 to 4), without loss, at the largest effort of its default method."""
    return _saved(image, "WEBP", lossless=True, quality=100, exact=True)


def _saved(image: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg_xl() -> Callable[[np.ndarray], bytes] | None:
    """An encoder of uint8 (H, W, 1, 3 or 4) as JPEG XL, without loss, effort 7; None where there is none."""
    try:
        import pyjpegxl
    except ImportError:
        return None

    def encode(image: np.ndarray) -> bytes:
        array = np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image)
        return pyjpegxl.encode_from_numpy(array, lossless=True, speed=pyjpegxl.EncoderSpeed.Squirrel)

    return encode


def sizes(images: Sequence[np.ndarray]) -> dict[str, int]:
    """Bytes of all images by format, each image a file; of formats that can hold them."""
    encoders: dict[str, Callable[[np.ndarray], bytes]] = {"PNG": png}
    if max(max(image.shape[:2]) for image in images) <= LARGEST_WEBP:
        encoders["WebP"] = webp
    if all(image.shape[2] != 2 for image in images) and (encode := jpeg_xl()):
        encoders["JPEG XL"] = encode
    return {name: sum(len(encode(image)) for image in images) for name, encode in encoders.items()}
