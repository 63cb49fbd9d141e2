"""Augmentations on the training device; each sample's strength comes from its own stream of the batch's noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.core.errors import UsageError, argument, suggest
from reverie.core.noise import Noise
from reverie.media.alpha import is_rgba
from reverie.media.colour import grey, joined, mean_colour, parts, unweighted, weighted


@dataclass(frozen=True)
class Augment:
    """Augmentations of each sample, of any number of dimensions.

    Attributes:
        flip: mirror half of the samples along the last spatial axis: left to right.
        translate: shift along every axis by up to this fraction in either direction; border values fill the gap, of
            RGBA nothing.
        color: scale brightness, contrast and saturation by factors within 1 +- this; opacity stays.
    """

    flip: bool = False
    translate: float = 0.0
    color: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Augment:
        """ "flip,translate=0.1,color=0.2" to an Augment; the empty string is none.

        Raises:
            UsageError: an unknown augmentation or a strength outside [0, 1].
        """
        if not isinstance(text, str):
            raise UsageError(f"{argument('augment')} must be text such as 'flip,translate=0.1', not {text!r:.80}.")
        defaults = {"flip": True, "translate": 0.125, "color": 0.2}
        chosen: dict[str, float] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, _, value = part.partition("=")
            if name not in defaults:
                raise UsageError(
                    f"There is no augmentation {name!r}.{suggest(name, list(defaults))} Known: {', '.join(defaults)}."
                )
            try:
                chosen[name] = float(value) if value else defaults[name]
            except ValueError as error:
                raise UsageError(f"Augmentation {name} takes a number, not {value!r}.") from error
            if not 0 <= chosen[name] <= 1:
                raise UsageError(f"Augmentation {name} takes a strength from 0 to 1, not {value}.")
        return cls(bool(chosen.get("flip", 0)), chosen.get("translate", 0.0), chosen.get("color", 0.0))

    def __bool__(self) -> bool:
        return self != Augment()

    def check(self, medium: str, allowed: Sequence[str]) -> None:
        """Raise a UsageError for an augmentation that this medium does not allow."""
        chosen = [name for name in ("flip", "translate", "color") if getattr(self, name)]
        if refused := [name for name in chosen if name not in allowed]:
            raise UsageError(f"A {medium} cannot be augmented by {refused[0]}. Possible: {', '.join(allowed)}.")

    def __call__(self, columns: dict[str, Tensor], rng: Noise) -> dict[str, Tensor]:
        """Augment all columns (B, C, *shape), such as ``x`` and ``source``, alike; a ``mask`` keeps its values."""
        dims = next(iter(columns.values())).ndim - 2
        if self.flip:
            mirror = rng.bernoulli(0.5, *[1] * (dims + 1))
            columns = {name: torch.where(mirror, x.flip(-1), x) for name, x in columns.items()}
        if self.translate:
            shift = rng.uniform(dims, low=-self.translate, high=self.translate)
            columns = {name: _translate(x, shift) for name, x in columns.items()}
        if self.color:
            low, high = 1 - self.color, 1 + self.color
            factors = rng.uniform(3, *[1] * (dims + 1), low=low, high=high).unbind(1)
            columns = {name: x if name == "mask" else _color(x, *factors) for name, x in columns.items()}
        return columns


def _translate(x: Tensor, shift: Tensor) -> Tensor:
    """Shift by whole pixels; ``shift`` (B, dims) is a fraction of each axis."""
    extents = x.shape[2:]
    steps = (shift * x.new_tensor(extents)).round().long()
    rows = torch.arange(len(x), device=x.device)
    index, outside = [rows.view(-1, *[1] * len(extents))], x.new_zeros((), dtype=torch.bool)
    for axis, extent in enumerate(extents):
        positions = torch.arange(extent, device=x.device) - steps[:, axis, None]  # (B, extent)
        positions = positions.view(-1, *[extent if other == axis else 1 for other in range(len(extents))])
        index.append(positions.clamp(0, extent - 1))
        outside = outside | (positions != index[-1])
    moved = x.movedim(1, -1)[tuple(index)].movedim(-1, 1)  # one gather of (B, *shape, C)
    return moved.masked_fill(outside[:, None], -1.0) if is_rgba(x, 1) else moved


def _color(x: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Scale brightness, then contrast about the sample's mean, then saturation about each pixel's grey."""
    colours, opacity = parts(weighted(x))
    colours = (colours + opacity) * brightness - opacity
    mean = mean_colour(colours, opacity) * opacity
    colours = torch.lerp(mean.expand_as(colours), colours, contrast.expand_as(colours))
    if colours.shape[1] == 3:
        colours = torch.lerp(grey(colours).expand_as(colours), colours, saturation.expand_as(colours))
    if isinstance(opacity, float):
        return colours.clamp(-1, 1)
    return unweighted(joined(colours.clamp(-opacity, opacity), opacity))
