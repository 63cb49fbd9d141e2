"""Differentiable augmentations of the discriminator's inputs, for training on few images.

Zhao et al., "Differentiable augmentation for data-efficient GAN training", NeurIPS 2020, arXiv:2006.10738.
Karras et al., "Training generative adversarial networks with limited data" (ADA), NeurIPS 2020, arXiv:2006.06676.
Random numbers come from a stream per image. Geometry is a single affine resampling (bilinear, reflected borders),
colour a single affine map of the channels. Colour leaves the opacity of RGBA alone, and holes are transparent.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.noise import Noise
from reverie.media.colour import joined, mean_colour, parts, unweighted, weighted

Draw = Callable[..., Tensor]


def diffaugment(x: Tensor, rng: Noise) -> Tensor:
    """Brightness, saturation, contrast, a shift by up to an eighth of the side, and a cutout of half the side.

    Args:
        x: (B, C, H, W) in [-1, 1].
    """
    b, _, h, w = x.shape
    brightness, saturation, contrast = rng.uniform(3, 1, 1, 1).to(x).unbind(1)
    colours, opacity = parts(weighted(x))
    colours = colours + (brightness - 0.5) * opacity
    if colours.shape[1] == 3:
        grey = colours.mean(1, keepdim=True)
        colours = grey + (colours - grey) * (2 * saturation)
    mean = mean_colour(colours, opacity) * opacity
    x = joined(mean + (colours - mean) * (contrast + 0.5), opacity)
    down, right = ((rng.integers(2 * (side // 8) + 1) - side // 8)[:, None] for side in (h, w))
    rows, columns = (torch.arange(side, device=x.device)[None] - move for side, move in ((h, down), (w, right)))
    inside = ((rows >= 0) & (rows < h))[:, :, None] & ((columns >= 0) & (columns < w))[:, None]
    image = torch.arange(b, device=x.device)[:, None, None]
    moved = x.permute(0, 2, 3, 1)[image, rows.clamp(0, h - 1)[:, :, None], columns.clamp(0, w - 1)[:, None]]
    x = moved.permute(0, 3, 1, 2) * inside[:, None].to(x)
    top, left = (rng.integers(side + 1 - side // 2 % 2)[:, None] - side // 4 for side in (h, w))
    lines, posts = (torch.arange(side, device=x.device)[None] for side in (h, w))
    hole = ((lines >= top) & (lines < top + h // 2))[:, :, None] & ((posts >= left) & (posts < left + w // 2))[:, None]
    return unweighted(x * (~hole[:, None]).to(x))


def _often(rng: Noise, p: Tensor, changed: Tensor, rest: float) -> Tensor:
    """``changed`` (B,) with probability p, else ``rest``."""
    return torch.where(rng.bernoulli(p), changed, torch.full_like(changed, rest))


def _turned(angle: Tensor) -> Tensor:
    """Rotations (B, 2, 2)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, sin, cos], 1).unflatten(1, (2, 2))


def adaptive(x: Tensor, rng: Noise, p: Tensor) -> Tensor:
    """ADA's geometry and colour augmentations ("bgc"), each with probability p; p = 0 is the exact identity.

    Args:
        x: (B, C, H, W) in [-1, 1].
        p: scalar in [0, 1].
    """
    p = p.detach().to(x.device)

    def uniform(low: float, high: float) -> Tensor:
        return rng.uniform(low=low, high=high)

    def normal() -> Tensor:
        return rng()

    flip = _often(rng, p, 1 - 2 * rng.integers(2).float(), 1.0)
    quarter = _often(rng, p, rng.integers(4).float(), 0.0) * (math.pi / 2)
    shift = torch.stack([_often(rng, p, uniform(-0.25, 0.25), 0.0) for _ in range(2)], 1)  # of the span, 2
    scale = _often(rng, p, torch.exp2(0.2 * normal()), 1.0)
    angle = _often(rng, 1 - (1 - p).clamp(min=0).sqrt(), uniform(-math.pi, math.pi), 0.0)
    stretch = _often(rng, p, torch.exp2(0.2 * normal()), 1.0)
    matrix = _turned(quarter + angle) / scale[:, None, None]
    matrix = matrix * torch.stack([flip / stretch, stretch], 1)[:, None]
    affine = torch.cat([matrix, shift[:, :, None]], 2)
    still = (affine - torch.eye(2, 3, device=x.device)).abs().flatten(1).sum(1) == 0
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    moved = F.grid_sample(x.float(), grid, padding_mode="reflection", align_corners=False).to(x.dtype)
    x = torch.where(still[:, None, None, None], x, moved)

    brightness = _often(rng, p, 0.2 * normal(), 0.0)[:, None, None, None]
    contrast = _often(rng, p, torch.exp2(0.5 * normal()), 1.0)[:, None, None, None]
    colours, opacity = parts(weighted(x))
    if colours.shape[1] == 3:
        luma = torch.full((3, 3), 1 / 3, device=x.device)  # projection onto the grey axis
        rest = torch.eye(3, device=x.device) - luma
        flipped = _often(rng, p, rng.integers(2).float(), 0.0)[:, None, None]
        hue = _often(rng, p, uniform(-math.pi, math.pi), 0.0)[:, None, None]
        saturation = _often(rng, p, torch.exp2(normal()), 1.0)[:, None, None]
        axis = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=x.device) / math.sqrt(3)
        mix = (1 - 2 * flipped) * luma + saturation * (hue.cos() * rest + hue.sin() * axis)
        plain = ((flipped == 0) & (hue == 0) & (saturation == 1))[..., None]
        colours = torch.where(plain, colours, torch.einsum("bij,bjhw->bihw", mix.to(x.dtype), colours))
    return unweighted(joined(colours * contrast.to(x) + brightness.to(x) * opacity, opacity))
