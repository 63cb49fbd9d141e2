"""Augmentations on the training device, each picture's strength drawn from its own stream of the batch's noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.core.errors import UsageError, suggest
from reverie.core.noise import Noise


@dataclass(frozen=True)
class Augment:
    """What to do to each picture.

    Attributes:
        flip: mirror half of the pictures left to right.
        translate: shift by up to this fraction of the side, both ways; the border's pixels fill the gap.
        color: brightness, contrast and saturation each scaled by a factor within 1 -+ this.
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

    def __call__(self, images: list[Tensor], rng: Noise) -> list[Tensor]:
        """The same change to every tensor of the list (a picture and its pair): (B, C, H, W) in [-1, 1]."""
        if self.flip:
            mirror = rng.bernoulli(0.5, 1, 1, 1)
            images = [torch.where(mirror, x.flip(3), x) for x in images]
        if self.translate:
            shift = rng.uniform(2, low=-self.translate, high=self.translate)
            images = [_translate(x, shift) for x in images]
        if self.color:
            factors = rng.uniform(3, 1, 1, 1, low=1 - self.color, high=1 + self.color).unbind(1)
            images = [_color(x, *factors) for x in images]
        return images


def _translate(x: Tensor, shift: Tensor) -> Tensor:
    """Shift by whole pixels; ``shift`` (B, 2) is a fraction of the side."""
    batch, _, height, width = x.shape
    down, right = (shift * x.new_tensor([height, width])).round().long().unbind(1)
    rows = (torch.arange(height, device=x.device) - down[:, None]).clamp(0, height - 1)
    columns = (torch.arange(width, device=x.device) - right[:, None]).clamp(0, width - 1)
    place = torch.arange(batch, device=x.device)[:, None, None]
    moved = x.permute(0, 2, 3, 1)[place, rows[:, :, None], columns[:, None, :]]  # (B, H, W, C)
    return moved.permute(0, 3, 1, 2)


def _color(x: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Scale brightness, then contrast about the picture's mean, then saturation about each pixel's grey."""
    x = (x + 1) * brightness - 1
    mean = x.mean((1, 2, 3), keepdim=True)
    x = torch.lerp(mean.expand_as(x), x, contrast.expand_as(x))
    if x.shape[1] == 3:
        grey = (x * x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)  # ITU-R BT.601
        x = torch.lerp(grey.expand_as(x), x, saturation.expand_as(x))
    return x.clamp(-1, 1)
