"""Where in an image the bits are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from reverie.compression.pictures import open_image, planes_of
from reverie.core.card import name_of
from reverie.core.errors import UsageError
from reverie.core.verbs import call, verbs_of
from reverie.inference.load import Source, model_of
from reverie.probability.wavefront import Layout, groups_of, mixtures

_BRIGHT = 99.5  # percentile of the bits that is drawn brightest


def bits_map(model: Source, image: Any) -> np.ndarray:
    """The ideal length of each pixel in bits, float64 (H, W): -log2 p of its channels, alpha included.

    Args:
        model: a codec, or a run of one.
        image: a file, a Pillow image, or uint8 (H, W) or (H, W, C).
    Raises:
        UsageError: a model that does not code in integers, or no image.
    """
    model, pixels = model_of(model), open_image(image)
    if "portable" not in verbs_of(model):
        raise UsageError(f"{name_of(model)} has no map of bits; a codec has one: reverie train codec.")
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


def coloured(bits: np.ndarray) -> np.ndarray:
    """A map as an image uint8 (H, W, 3), black where a pixel takes no bits."""
    from matplotlib import colormaps

    heat = (bits / max(np.percentile(bits, _BRIGHT), 1e-9)).clip(0, 1)
    return (255 * colormaps["inferno"](heat)[..., :3]).round().astype(np.uint8)
