"""ICC profiles: colours of an image to sRGB."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

LARGEST = 4 << 20  # bytes of a profile; those of printers have about 1 MiB
SAME = 2  # grey levels: a profile that changes no colour by more is sRGB under one of its many names
_SPACES = {"RGB": "RGB", "CMYK": "CMYK", "GRAY": "L"}  # colour space of a profile -> mode of the images that it is for

Recolour = Callable[[Image.Image], Image.Image]


def to_srgb(image: Image.Image, notes: list[tuple[str, str]]) -> Recolour | None:
    """The conversion of this image's colours to sRGB: of "L" to "L", of "RGB" and "CMYK" to "RGB".

    None where there is no profile, or that of sRGB. A profile that cannot be used is noted.
    """
    profile = image.info.get("icc_profile")
    mode = {"P": "RGB", "RGBA": "RGB", "PA": "RGB", "LA": "L", "RGBa": "RGB", "La": "L"}.get(image.mode, image.mode)
    if not profile or mode not in _SPACES.values():
        return None
    try:
        title, space, transform = _transform(bytes(profile), mode)
    except _Unfit as error:
        notes.append(("colour-profile", f"used as it is: {error}"))
        return None
    if transform is None:
        return None
    notes.append(("colour-profile", f"converted: from {title} to sRGB"))
    return functools.partial(_applied, transform=transform, space=space)


class _Unfit(Exception):
    """A profile that cannot be applied, and why."""


def _applied(image: Image.Image, transform: Any, space: str) -> Image.Image:
    mode = image.mode
    converted = ImageCms.applyTransform(image if mode == space else image.convert(space), transform)
    assert converted is not None
    return converted.convert("L") if mode == "L" else converted


@functools.lru_cache(maxsize=16)
def _transform(data: bytes, mode: str) -> tuple[str, str, Any]:
    """(title, mode that it takes, transform) of a profile; the transform is None if it is sRGB.

    Raises:
        _Unfit: damaged, or of another colour space than the image.
    """
    if len(data) > LARGEST:
        raise _Unfit(f"its colour profile has over {LARGEST >> 20} MiB")
    try:
        profile = ImageCms.getOpenProfile(io.BytesIO(data))
        title = " ".join(ImageCms.getProfileDescription(profile).split())[:60] or "its colour profile"
        space = _SPACES.get(profile.profile.xcolor_space.strip())
        if space is None or (space == "CMYK") != (mode == "CMYK") or (space == "L" and mode != "L"):
            raise _Unfit(f"its colour profile ({title}) is for {profile.profile.xcolor_space.strip()} images")
        transform = ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            space,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if space == "CMYK":
            return title, space, transform
        probe = _probe(space)
        converted = np.asarray(ImageCms.applyTransform(probe, transform), np.int16)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError) as error:
        raise _Unfit(f"its colour profile is damaged ({' '.join(str(error).split())[:80]})") from None
    change = np.abs(converted - np.asarray(probe.convert("RGB"), np.int16)).max()
    return title, space, None if change <= SAME else transform


def _probe(mode: str) -> Image.Image:
    """Colours of the complete range: greys, or a cube of 9 x 9 x 9."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3))
