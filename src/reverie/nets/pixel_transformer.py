"""A causal transformer over groups of pixels, and a small network for each pixel that sees its neighbourhood as well.

Groups are the tokens of a large network, pixels inside them the work of a small one, as in Yu et al., "MegaByte",
NeurIPS 2023, arXiv:2305.07185. The small one is a perceptron whose inputs are masked, as in Germain et al., "MADE",
ICML 2015, arXiv:1502.03509.
"""

from __future__ import annotations

import math
from collections.abc import Generator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.transformer import Cache, Transformer

BASIS = 6  # features of a value


def tokens_of(shape: tuple[int, int], patch: tuple[int, int]) -> Tensor:
    """The pixels of each token (tokens, pixels), as places in a flat image, in the order of generation: row by row."""
    h, w = shape
    places = torch.arange(h * w).view(h // patch[0], patch[0], w // patch[1], patch[1])
    return places.transpose(1, 2).reshape(-1, patch[0] * patch[1])


def neighbours(shape: tuple[int, int], tokens: Tensor, reach: int, within: bool) -> Tensor:
    """For each pixel the places (H * W, K) of those around it that come earlier; H * W where there is none.

    They lie in a square of 2 ``reach`` + 1 pixels' side.

    Args:
        within: earlier pixels of the same token count.
    """
    (h, w), count = shape, tokens.numel()
    order = torch.full((count + 1,), count)
    order[tokens] = torch.arange(count).view_as(tokens) if within else torch.arange(len(tokens))[:, None]
    steps = torch.arange(-reach, reach + 1)
    rows, columns = torch.arange(h)[:, None, None, None] + steps[:, None], torch.arange(w)[:, None, None] + steps
    inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    places = torch.where(inside, rows * w + columns, count).view(count, -1)
    places = torch.where(order[places] < order[:count, None], places, count)
    useful = (places < count).any(0)
    useful[0] = True  # a layer has inputs, even if all are 0
    return places[:, useful]


def value_features(values: Tensor) -> Tensor:
    """Values (B, C, n) in [-1, 1] to (B, n, C * BASIS): 1, the value, whether it is the least, and three cosines."""
    waves = [(math.pi / 2 * k * (values + 1)).cos() for k in (1, 2, 3)]
    features = torch.stack([torch.ones_like(values), values, (values <= -1).to(values), *waves], -1)
    return features.transpose(1, 2).flatten(2)


class Residual(nn.Module):
    """x + mlp(norm(x))."""

    def __init__(self, width: int, depth: int):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        nn.init.normal_(self.down.weight, std=0.02 * (2 * depth) ** -0.5)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class PixelTransformer(nn.Module):
    """The parameters of every pixel's distribution, from the pixels before it.

    Args:
        shape: (height, width) of the images.
        channels: of the images.
        outputs: parameters of a pixel's distribution.
        patch: (height, width) in pixels of a token; they divide those of the images.
        within: whether pixels depend on the earlier ones of their token, too.
        width, depth, heads: of the transformer over tokens.
        local_width, local_depth: of the perceptron of each pixel.
        reach: pixels to each side that it sees.
        classes: of the condition; 0 is none.
    """

    tokens: Tensor
    near: Tensor
    inside: Tensor

    def __init__(
        self,
        shape: tuple[int, int],
        channels: int,
        outputs: int,
        patch: tuple[int, int],
        within: bool,
        width: int,
        depth: int,
        heads: int,
        local_width: int,
        local_depth: int,
        reach: int,
        classes: int = 0,
    ):
        super().__init__()
        self.shape, self.channels, self.patch, self.within = shape, channels, patch, within
        tokens = tokens_of(shape, patch)
        inside = torch.empty(tokens.numel(), dtype=torch.int64)
        inside[tokens] = torch.arange(tokens.shape[1])
        near = neighbours(shape, tokens, reach, within)
        for name, index in {"tokens": tokens, "inside": inside, "near": near}.items():
            self.register_buffer(name, index, persistent=False)
        count, size = tokens.shape
        self.start = nn.Embedding(classes + 1, width)  # the last row: no class
        self.token_position = nn.Parameter(0.02 * torch.randn(count, width))
        self.embed = nn.Linear(size * channels * BASIS, width)
        self.transformer = Transformer(width, depth, heads)
        self.context = nn.Linear(width, local_width)
        self.around = nn.Linear(near.shape[1] * channels * BASIS, local_width)
        self.pixel_position = nn.Parameter(0.02 * torch.randn(size, local_width))
        self.local = nn.Sequential(*(Residual(local_width, local_depth) for _ in range(local_depth)))
        self.norm, self.head = nn.LayerNorm(local_width), nn.Linear(local_width, outputs)
        nn.init.normal_(self.start.weight, std=0.02)
        nn.init.zeros_(self.head.weight)

    def forward(self, values: Tensor, label: Tensor | None = None) -> Tensor:
        """Values (B, C, H, W) in [-1, 1] and labels (B,), -1 for none, to parameters (B, P, H, W)."""
        (h, w), (ph, pw) = self.shape, self.patch
        pixels = F.pad(value_features(values.flatten(2)), (0, 0, 0, 1))  # (B, H * W + 1, C * BASIS), the last is 0
        context = self.contexts(pixels[:, self.tokens[:-1]].flatten(2), len(values), label)
        context = (
            context.unflatten(1, (h // ph, 1, w // pw, 1))
            .expand(-1, -1, ph, -1, pw, -1)
            .reshape(-1, h * w, context.shape[2])
        )
        return self.params(context, pixels, slice(None)).transpose(1, 2).unflatten(2, self.shape)

    def incremental(self, rows: int, label: Tensor | None = None) -> Generator[tuple[Tensor, Tensor], Tensor, None]:
        """The same in steps, with a cache, see ``models.autoregressive.base.Network``."""
        count = self.shape[0] * self.shape[1]
        pixels, cache = self.token_position.new_zeros(rows, count + 1, self.channels * BASIS), Cache(len(self.tokens))
        channels = count * torch.arange(self.channels, device=pixels.device)[:, None]
        for token, places in enumerate(self.tokens):
            before = pixels[:, self.tokens[max(token - 1, 0) : token]].flatten(2)
            context = self.contexts(before, rows, label, token, cache)
            for step in places.split(1 if self.within else len(places)):
                params = self.params(context, pixels, step)
                values = yield channels + step, params.transpose(1, 2)
                pixels[:, step] = value_features(values)

    def contexts(
        self, before: Tensor, rows: int, label: Tensor | None = None, first: int = 0, cache: Cache | None = None
    ) -> Tensor:
        """What the tokens from ``first`` on are conditioned on, (B, n, local_width).

        Args:
            before: features (B, n, pixels * C * BASIS) of the token before each of them; the first token has none.
        """
        label = torch.full((rows,), -1, device=self.token_position.device) if label is None else label
        x = self.embed(before)
        if first == 0:
            x = F.pad(x, (0, 0, 1, 0))
        x = x + self.start(label.remainder(self.start.num_embeddings))[:, None]
        return self.context(self.transformer(x + self.token_position[first : first + x.shape[1]], cache=cache))

    def params(self, context: Tensor, pixels: Tensor, at: Tensor | slice) -> Tensor:
        """Parameters (B, n, P) of the pixels at some places.

        Args:
            context: of their tokens, (B, n or 1, local_width).
            pixels: features of all that come before them; the others' are not used.
        """
        around = self.around(pixels[:, self.near[at]].flatten(2))
        return self.head(self.norm(self.local(around + self.pixel_position[self.inside[at]] + context)))
