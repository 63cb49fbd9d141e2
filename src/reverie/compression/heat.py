"""Where in an image the bits are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from reverie.compression.compress import is_portable
from reverie.compression.inputs import open_images
from reverie.compression.pictures import planes_of
from reverie.core.card import name_of
from reverie.core.errors import UsageError
from reverie.core.verbs import Model, call
from reverie.inference.load import Source, model_of
from reverie.probability.wavefront import Layout, groups_of, mixtures

_BRIGHT = 99.5  # percentile of the bits that is heat brightest
_SIDE = 384  # pixels, to about which small maps are enlarged


def bits_map(model: Source, image: Any) -> np.ndarray:
    """The ideal length of each pixel in bits, float64 (H, W): -log2 p of its channels, alpha included.

    Args:
        model: a codec, or a run of one.
        image: one of those of ``compress``.
    Raises:
        UsageError: a model that does not code in integers, or not one image.
        ReverieError: weights that are not finite.
    """
    model = model_of(model)
    check_portable(model)
    if len(images := open_images(model, image)) > 1:
        raise UsageError(f"A map is of one image, not of {len(images)}.")
    (pixels,) = images
    density = call(model, "portable")
    bits = np.zeros(pixels.shape[:2])
    for plane, coded in planes_of(pixels, density.channels):
        for group in groups_of([(pixels.shape[0], pixels.shape[1])]):
            layout = Layout.of(group, density)
            for tile, view in layout.views(layout.canvas):
                view.copy_(torch.from_numpy(plane[tile[1:]].astype(np.float32)))
            flat = torch.zeros(1, layout.canvas.shape[1], dtype=torch.float64)
            for fronts in mixtures(density, layout, coded):
                for law, levels in zip(fronts.mixtures, fronts.levels, strict=True):
                    flat[0, fronts.at] += torch.from_numpy(np.log2(law.total / law.count(levels)))
            for tile, view in layout.views(flat):
                bits[tile[2:]] += view[0].numpy()
    return bits


def check_portable(model: Model) -> None:
    """Raise a UsageError for a model that has no map of bits."""
    if not is_portable(model):
        raise UsageError(f"A map of bits is of a codec, and this is {name_of(model)}: reverie train codec.")


def picture(bits: np.ndarray) -> np.ndarray:
    """A map as an image uint8 (H, W, 3): black is 0 bits; small maps are enlarged; beside it a colour bar in bits."""
    most = float(np.percentile(bits, _BRIGHT))
    scale = max(1, _SIDE // max(bits.shape))
    heat = _colours(bits / max(most, 1e-9)).repeat(scale, 0).repeat(scale, 1)
    height, width = max(len(heat), _SIDE // 2), heat.shape[1]
    font = ImageFont.load_default(max(11, height // 40))
    line = round(font.getbbox("0")[3]) + 4
    sheet = Image.new("RGB", (width + 2 * line + round(font.getlength("bits per pixel")), height), "white")
    sheet.paste(Image.fromarray(heat), (0, 0))
    top, low = line + 4, height - 4
    bar = _colours(np.linspace(1, 0, low - top)[:, None].repeat(line, 1))
    sheet.paste(Image.fromarray(bar), (width + line // 2, top))
    draw, left = ImageDraw.Draw(sheet), width + 2 * line
    draw.text((width + line // 2, 2), "bits per pixel", "black", font)
    for share, anchor in ((1, "la"), (0.5, "lm"), (0, "ls")):
        draw.text((left, low - share * (low - top)), f"{share * most:.3g}", "black", font, anchor)
    return np.asarray(sheet)


def _colours(heat: np.ndarray) -> np.ndarray:
    """Numbers 0 ... 1 (H, W) as colours uint8 (H, W, 3)."""
    from matplotlib import colormaps

    return (255 * colormaps["inferno"](heat.clip(0, 1))[..., :3]).round().astype(np.uint8)
