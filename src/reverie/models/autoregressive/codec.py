"""A small causal network for lossless compression, of which every number is an integer when it codes.

The factorisation is that of PixelCNN (Oord et al., arXiv:1601.06759), the distribution a mixture of discretised
logistics (Salimans et al., arXiv:1701.05517). Deviations are listed in docs/systems/codec.md.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.annotations import Channels, Count, Range, Shape, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Likelihood, Output
from reverie.core.errors import UsageError, argument
from reverie.core.noise import Noise
from reverie.nets import shapes
from reverie.nets.integer import UNIT, IntegerLinear, clipped
from reverie.optim.muon import Muon
from reverie.optim.phase import Phase, Stage
from reverie.probability.integer_logistic import FRACTION, LARGEST, SMALLEST, UNIFORM, Mixture
from reverie.probability.wavefront import Layout, draw, groups_of, mixtures

NEIGHBOURS = (  # (rows above, columns to the right), the nearest three first
    *((0, -1), (-1, 0), (-1, -1), (-1, 1), (-1, 2), (-1, -2), (-1, -3)),
    *((0, -2), (0, -3), (0, -4)),
    *((-2, column) for column in range(-3, 4)),
    *((-3, column) for column in range(-2, 3)),
)
_ROWS, _COLUMNS = np.array(NEIGHBOURS).T[:, :, None]
_ROOTS = torch.tensor([math.copysign(math.isqrt(4096 * abs(d)), d) for d in range(-255, 256)])
_GREY = 128.0  # expected of the first pixel
_FINE = 16  # of differences that enter a mean directly: units in a level
_SCORED = 1 << 23  # pixels of held-out images that are scored, most of a minute
_WINDOW = 24  # side of the part of a large image that a step trains on


class Codec(nn.Module):
    """p(x) of images of any size: each channel of a pixel given the pixels around it that come before.

    Args:
        output: images of the data.
        width: units of the two layers that all channels share.
        head: units of a layer for each channel.
        mixture: logistics in a mixture.
    """

    slope, margins = 3, (3, 4, 3)

    def __init__(self, output: Output, width: int = 96, head: int = 48, mixture: int = 4):
        super().__init__()
        self.output, self.channels = output, output.channels
        self.sides = output.shape[0], output.shape[1]
        differences = self.channels * len(NEIGHBOURS)
        self.trunk = nn.ModuleList([IntegerLinear(differences + self.channels + 3, width), IntegerLinear(width, width)])
        before = range(self.channels)  # channels of the pixel that are known
        self.direct = nn.ModuleList(IntegerLinear(differences + c, 1, False, 255 * _FINE) for c in before)
        self.hidden = nn.ModuleList(IntegerLinear(width + c, head) for c in before)
        self.last = nn.ModuleList(IntegerLinear(head, 3 * mixture) for _ in before)
        means, scales = torch.linspace(-0.5, 0.5, mixture), torch.full((mixture,), 2.0)
        start = torch.cat([torch.zeros(mixture), means, scales])
        with torch.no_grad():
            for layer in self.direct.parameters():
                layer.zero_()
            for name, parameter in self.last.named_parameters():
                _ = parameter.mul_(0.1) if name.endswith("weight") else parameter.copy_(start)

    @property
    def card(self) -> Card:
        pixels = self.sides[0] * self.sides[1]
        evaluations = 8 * math.ceil(pixels / min(pixels, _WINDOW**2))  # by time: of a sample beside a row of a step
        return Card(
            output=self.output,
            likelihoods=(Likelihood("log_prob", "exact", "8-bit", rows=max(32, _SCORED // pixels)),),
            evaluations=evaluations,
        )

    # Training

    def stages(self, lr: Weight = 3e-3, weight_decay: Weight = 0.0) -> list[Stage]:
        return [Stage([Phase("nll", Muon(self, lr, weight_decay), self.loss)], precision="fp32")]

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        """-log2 p per value, of all pixels of small images, of a window of 24 x 24 pixels of others."""
        levels, (above, left, right) = levels_of(batch["x"]), self.margins
        inside = F.pad(torch.ones_like(levels[:, 0]), (left, right, above, 0)) > 0
        levels = F.pad(levels, (left, right, above, 0))
        if math.prod(self.output.shape) > 2 * _WINDOW**2:
            y, x = (
                torch.arange(min(side, _WINDOW) + margin, device=levels.device)
                + batch.shared.integers(max(side - _WINDOW, 0) + 1, 1)[0]
                for side, margin in zip(self.output.shape, (above, left + right), strict=True)
            )
            levels, inside = levels[:, :, y[:, None], x], inside[:, y[:, None], x]
        canvas, stride = levels.transpose(0, 1).flatten(1), inside.shape[2]  # (C, P)
        index = torch.arange(inside.numel(), device=levels.device).view(inside.shape)
        at = index[:, above:, left : stride - right].flatten()
        context = self.context(canvas, inside.flatten(), stride, at)
        values = [canvas[channel, at] for channel in range(self.channels)]
        nats = [-log_prob(value, *self.parameters_of(context, values[:c])) for c, value in enumerate(values)]
        loss = torch.stack([channel.mean() for channel in nats]).mean() / math.log(2)
        return {"loss": loss, "bits_per_dim": loss.detach()}

    # The density

    def context(self, canvas: Tensor, inside: Tensor, stride: int, at: Tensor) -> tuple[Tensor, ...]:
        """Predictions (C, n), differences of neighbours to them (22 C, n), and shared activations (width, n)."""
        offsets = torch.from_numpy(_ROWS * stride + _COLUMNS).to(at.device)
        index = at + offsets  # (22, n)
        neighbours, there = canvas[:, index], inside[index]
        west, north, north_west = neighbours[:, :3].unbind(1)
        west = torch.where(there[0], west, torch.where(there[1], north, _GREY))
        north = torch.where(there[1], north, west)
        north_west = torch.where(there[2], north_west, torch.where(there[1], north, west))
        low, high = torch.minimum(west, north), torch.maximum(west, north)
        prediction = torch.minimum(torch.maximum(west + north - north_west, low), high)  # of LOCO-I
        differences = torch.where(there, neighbours - prediction[:, None], 0.0).flatten(0, 1)
        edges = there[[0, 1, 3]].to(canvas.dtype) * UNIT
        x = torch.cat([companded(differences), 4 * prediction - 510, edges])
        for layer in self.trunk:
            x = clipped(layer(x))
        return prediction, differences * _FINE, x

    def parameters_of(self, context: tuple[Tensor, ...], values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Logits, means and log2 scales (K, n) of the next channel, in units of 1/128, 1/16 level and 1/128.

        Args:
            values: (n,) of the channels of the pixel before.
        """
        prediction, differences, x = context
        channel = len(values)
        errors = [(value - prediction[c])[None] for c, value in enumerate(values)]
        inputs = torch.cat([x, *(companded(error).to(x) for error in errors)])
        direct = torch.cat([differences, *(error * _FINE for error in errors)]).to(x)
        hidden = clipped(self.hidden[channel](inputs))
        logits, means, scales = self.last[channel](hidden).chunk(3)
        means = means + self.direct[channel](direct) + FRACTION * prediction[channel]
        return logits, means, scales

    @torch.no_grad()
    def mixture(self, context: tuple[Tensor, ...], values: Sequence[Tensor]) -> Mixture:
        """See ``probability.wavefront.Portable``."""
        logits, means, scales = (part.numpy().astype(np.int64) for part in self.parameters_of(context, values))
        return Mixture.of_outputs((logits + 4) >> 3, means, (scales + 8) >> 4)

    # Verbs

    def portable(self) -> Codec:
        """A copy on the CPU that computes with integers alone, see ``probability.wavefront.Portable``."""
        density = copy.deepcopy(self).cpu().requires_grad_(False)
        for module in density.modules():
            if isinstance(module, IntegerLinear):
                module.freeze()
        return density

    @torch.no_grad()
    def log_prob(self, batch: Batch) -> Tensor:
        """log p of images, in nats (B,): that of the integers which code them."""
        levels, density = levels_of(batch["x"]).cpu(), self.portable()
        nats = np.zeros(len(levels))
        for group in groups_of([self.sides] * len(levels)):
            layout = Layout.of(group, density)
            for tile, view in layout.views(layout.canvas):
                view.copy_(levels[tile])
            for fronts in mixtures(density, layout, self.channels):
                image = layout.image_of(fronts.at)
                for law, values in zip(fronts.mixtures, fronts.levels, strict=True):
                    nats += np.bincount(image, np.log(law.count(values) / law.total), len(levels))
        return torch.from_numpy(nats).to(batch["x"])

    @torch.no_grad()
    def sample(self, noise: Noise) -> Tensor:
        """Images (B, C, H, W) of the size of the data, pixel after pixel."""
        density, uniform = self.portable(), noise.uniform(self.channels, *self.output.shape).double().cpu()
        levels = uniform.float()
        for group in groups_of([self.sides] * len(noise)):
            layout = Layout.of(group, density)
            u = torch.zeros_like(layout.canvas, dtype=torch.float64)
            for tile, view in layout.views(u):
                view.copy_(uniform[tile])
            draw(density, layout, self.channels, partial(_drawn, u.numpy()))
            for tile, view in layout.views(layout.canvas):
                levels[tile] = view
        return (levels / 127.5 - 1).to(noise.device)


def _drawn(u: np.ndarray, counts: np.ndarray, at: Any, channel: int) -> np.ndarray:
    """The digits at which cumulative counts exceed u (C, P), which then is what remains of it for the next digits."""
    cumulative = counts.cumsum(1)  # of integers: exact
    at = at.numpy()
    target = u[channel, at] * cumulative[:, 3]
    digit = (cumulative[:, :3] <= target[:, None]).sum(1)
    rows = np.arange(len(digit))
    below = cumulative[rows, digit] - counts[rows, digit]
    u[channel, at] = np.minimum((target - below) / np.maximum(counts[rows, digit], 1), 1 - 2**-53)
    return digit


def levels_of(image: Tensor) -> Tensor:
    """[-1, 1] to levels 0 ... 255, float32."""
    return image.float().add(1).mul(127.5).round()


def companded(difference: Tensor) -> Tensor:
    """Differences of levels -255 ... 255 as activations: 64 times their root, with their sign, towards 0."""
    return _ROOTS.to(difference.device)[difference.long() + 255]


def log_prob(level: Tensor, logits: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """log p of levels (n,) under the mixtures of ``Codec.parameters_of``, nats (n,), differentiable."""
    octaves = (scales / UNIT).clamp(SMALLEST, LARGEST)
    width = torch.exp2(-octaves)  # of a level, in scales
    z = (level - means / FRACTION) * width
    low = (z - width / 2).masked_fill(level == 0, -math.inf)
    high = (z + width / 2).masked_fill(level == 255, math.inf)
    log_p = F.logsigmoid(high) + F.logsigmoid(-low) + torch.log(-torch.expm1(low - high))
    mixed = torch.logsumexp((logits / UNIT).log_softmax(0) + log_p, 0)
    floor = torch.full_like(mixed, math.log(UNIFORM / 256))
    return torch.logaddexp(mixed, floor) - math.log1p(UNIFORM)


def codec(
    shape: Shape,
    channels: Channels,
    width: Count = 96,
    head: Count = 48,
    mixture: Annotated[int, Range(1, 16)] = 4,
) -> Codec:
    """A small causal network for lossless compression: `reverie compress` writes the same file on every machine.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares; it codes images of any size.
        channels: 1 or 3.
        width: units of the two layers that all channels share.
        head: units of a layer for each channel.
        mixture: logistics in a mixture.
    """
    if channels == 4:
        remedy = argument("channels", 3)
        raise UsageError(
            f"A codec learns grey or RGB, and codes opacity as a grey image beside it. Train it with {remedy}."
        )
    return Codec(Output("image", shapes.sides(shape), channels), width, head, mixture)
