"""Linear degradations A with a pseudo-inverse A+: y = A x, and A A+ A = A.

Restoration by null space: A+ y is what the observation says of x, (I - A+ A) x what a model has to fill in (Wang et
al., "Zero-shot image restoration using denoising diffusion null-space model", ICLR 2023, arXiv:2212.00490, table 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.errors import UsageError, argument
from reverie.core.noise import Noise

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Operator:
    """A degradation of images.

    Attributes:
        forward: A, images (B, C, H, W) to observations.
        pseudo_inverse: A+, observations to images of that shape.
        show: observations as images (B, C, H, W); by default A+.
        mask: (1 or B, 1, H, W) bool, true where a pixel is known, of an operator that has one.
        is_identity: whether nothing is lost.
    """

    forward: Map
    pseudo_inverse: Map
    show: Map | None = None
    mask: Tensor | None = None
    is_identity: bool = False

    @property
    def ignores_known_pixels(self) -> bool:
        """Whether a known pixel comes after a missing one, in the order of rows."""
        if self.mask is None:
            return False
        missing_before = (~self.mask.flatten(1)).cummax(1).values
        return bool((self.mask.flatten(1) & missing_before).any())

    def project(self, x: Tensor, observation: Tensor, weight: float = 1.0) -> Tensor:
        """x with the part that the observation determines replaced: x + weight A+ (y - A x)."""
        return x + weight * self.pseudo_inverse(observation - self.forward(x))

    def of_rows(self, rows: Tensor) -> Operator:
        """The operator of some rows of its images, where each has a mask of its own."""
        return self if self.mask is None or len(self.mask) == 1 else inpainting(self.mask[rows])

    def image_of(self, observation: Tensor) -> Tensor:
        """What to show of an observation."""
        return (self.show or self.pseudo_inverse)(observation)


def identity() -> Operator:
    """Nothing is lost; the observation may be noisy."""
    return Operator(lambda x: x, lambda y: y, is_identity=True)


def inpainting(mask: Tensor) -> Operator:
    """Only the pixels where ``mask`` (1 or B, 1, H, W) is true are known."""

    def keep(x: Tensor) -> Tensor:
        return x * mask.to(x)

    return Operator(keep, keep, mask=mask)  # 0 is mid-grey: missing pixels are shown grey


def super_resolution(scale: int) -> Operator:
    """Means over squares of ``scale`` pixels a side; A+ repeats them."""

    def up(y: Tensor) -> Tensor:
        return F.interpolate(y, scale_factor=scale, mode="nearest")

    return Operator(lambda x: F.avg_pool2d(x, scale), up)


def grey() -> Operator:
    """The mean of the colour channels, and the opacity if there is one; A+ repeats the mean."""

    def forward(x: Tensor) -> Tensor:
        return torch.cat([x[:, :3].mean(1, keepdim=True), x[:, 3:]], 1)

    return Operator(forward, lambda y: torch.cat([y[:, :1].expand(-1, 3, -1, -1), y[:, 1:]], 1))


def named_mask(name: str, shape: tuple[int, int], seeds: Sequence[int] = (0,)) -> Tensor:
    """A mask (1, 1, H, W), or of random ones (B, 1, H, W), true where a pixel is known, by name.

    Args:
        name: what is missing: "left-half", "right-half", "top-half", "bottom-half", "center" (a square of half the
            side), or "random:0.5" (that fraction of the pixels).
        seeds: of random masks, one for each row.
    Raises:
        UsageError: another name.
    """
    height, width = shape
    mask = torch.ones(1, 1, height, width, dtype=torch.bool)
    kind, _, fraction = name.partition(":")
    if kind == "random":
        try:
            missing = float(fraction or 0.5)
        except ValueError:
            missing = -1.0
        if not 0 < missing < 1:
            raise UsageError(f"{argument('mask')} random:FRACTION needs a fraction between 0 and 1, not {fraction!r}.")
        return ~Noise.of_seeds(seeds).bernoulli(missing, 1, height, width)
    middle_y, middle_x = (slice(side // 4, side - side // 4) for side in shape)
    areas = {
        "left-half": (slice(None), slice(0, width // 2)),
        "right-half": (slice(None), slice(width // 2, None)),
        "top-half": (slice(0, height // 2), slice(None)),
        "bottom-half": (slice(height // 2, None), slice(None)),
        "center": (middle_y, middle_x),
    }
    if name not in areas:
        raise UsageError(
            f"{argument('mask')} must be {', '.join(areas)}, random:FRACTION or an image file, not {name!r}."
        )
    mask[0, 0][areas[name]] = False
    return mask
