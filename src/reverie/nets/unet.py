"""The U-Net of the diffusion models, shaped for speed.

The first layer folds blocks of pixels into channels (pixel unshuffle) and the last one unfolds them, so that no
convolution runs at full resolution, where time goes into moving bytes. Residual branches start at zero and are told
the time and the condition by a scale and a shift of each channel (Perez et al., arXiv:1709.07871; adaptive group
normalisation, Dhariwal and Nguyen, arXiv:2105.05233, without the normalisation: the scale does its work, and a CPU is
spared two passes). Attention (Vaswani et al., arXiv:1706.03762) works where maps are small, and also attends to tokens
of a caption.

This file needs nothing but torch: an exported model carries it along.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoids(timestep: Tensor, width: int, period: float = 10000.0) -> Tensor:
    """(B,) to (B, width): cosines, then sines, of frequencies from 1 to 1 / period (Vaswani et al., section 3.5)."""
    frequencies = torch.exp(torch.arange(width // 2, device=timestep.device) * (-math.log(period) / (width // 2)))
    angles = timestep.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


def embed_label(table: nn.Embedding, label: Tensor | None, rows: int) -> Tensor:
    """(rows, width) of classes (rows,); -1 or no ``label`` is any class, the last row of the table."""
    if label is None:
        label = torch.full((rows,), -1, device=table.weight.device)
    return table(label.remainder(table.num_embeddings))


def mean_token(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """(B, L, C) to (B, C): the mean over a caption's tokens, those where ``mask`` (B, L) is true."""
    there = torch.ones_like(tokens[..., :1]) if mask is None else mask[..., None].to(tokens.dtype)
    return (tokens * there).sum(1) / there.sum(1).clamp(min=1)


class Residual(nn.Module):
    """x + conv(act(conv(x) (1 + scale) + shift)), the identity at the start of training."""

    def __init__(self, inputs: int, outputs: int, embedding: int):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.join = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        for parameter in (*self.second.parameters(), *self.modulation.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].to(x.dtype).chunk(2, 1)
        h = torch.addcmul(shift, self.first(x), 1 + scale)
        return self.join(x) + self.second(F.silu(h))


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d)) v of (B, heads, places, d); ``seen`` is false where a key is not to be looked at.

    On a CPU torch's fused attention takes five times as long as these few lines in training, for some dozens of places.
    """
    if q.device.type != "cpu" or not torch.is_grad_enabled() or q.shape[2] > 512:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    scores = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)
    if seen is not None:
        scores = scores.masked_fill(~seen, -math.inf)
    return scores.softmax(3) @ v


def attend_with_tokens(rows: Tensor, context: Tensor | None, mask: Tensor | None, heads: int) -> Tensor:
    """Attention (B, N, C) of a sequence to itself, and to a caption's tokens where there are some.

    Args:
        rows: queries, keys and values (B, N, 3 C).
        context: keys and values of the tokens (B, L, 2 C).
        mask: (B, L), true where there is a token; None: everywhere.
    """
    q, k, v = rows.chunk(3, 2)
    seen = None
    if context is not None:
        more_k, more_v = context.chunk(2, 2)
        k, v = torch.cat([k, more_k], 1), torch.cat([v, more_v], 1)
        if mask is not None:
            seen = F.pad(mask, (rows.shape[1], 0), value=True)[:, None, None]
    q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v))  # (B, heads, N, d)
    return attend(q, k, v, seen).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """x + attention of every place to every place, and to the caption's tokens where there are some."""

    def __init__(self, channels: int, context: int = 0, head: int = 32):
        super().__init__()
        self.heads = max(1, channels // head)
        self.norm = nn.LayerNorm(channels)
        self.queries_keys_values = nn.Linear(channels, 3 * channels)
        self.context = nn.Linear(context, 2 * channels) if context else None
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        rows = x.flatten(2).transpose(1, 2)  # (B, places, C), contiguous where x is channels_last
        context = None if self.context is None or tokens is None else self.context(tokens.to(x.dtype))
        made = self.out(attend_with_tokens(self.queries_keys_values(self.norm(rows)), context, mask, self.heads))
        return x + made.transpose(1, 2).unflatten(2, x.shape[2:])


class Level(nn.Module):
    """Residual blocks of one resolution, attention after each where asked for."""

    def __init__(self, inputs: list[int], outputs: int, embedding: int, attention: bool, context: int):
        super().__init__()
        self.blocks = nn.ModuleList(Residual(i, outputs, embedding) for i in inputs)
        self.attention = nn.ModuleList(Attention(outputs, context) for _ in inputs) if attention else None

    def forward(self, index: int, x: Tensor, embedding: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        x = self.blocks[index](x, embedding)
        return x if self.attention is None else self.attention[index](x, tokens, mask)


class UNet(nn.Module):
    """(B, channels, H, W) and timesteps (B,) to (B, outputs, H, W).

    The fold times 2 for every level but the finest must divide H and W.

    Args:
        channels: of the pictures.
        widths: channels of each level, fine to coarse.
        depth: residual blocks a level, on the way down; as many on the way up.
        attention: from which level on (counted from 0) there is attention.
        fold: side of the blocks of pixels that become channels.
        classes: number of classes (0: no labels).
        context: width of a caption's tokens (0: no captions); their mean also joins the time's embedding.
        outputs: channels of the output, as many as of the pictures by default.
    """

    def __init__(
        self,
        channels: int,
        widths: tuple[int, ...] = (64, 128),
        depth: int = 2,
        attention: int = 1,
        fold: int = 2,
        classes: int = 0,
        context: int = 0,
        outputs: int | None = None,
    ):
        super().__init__()
        self.depth, self.classes = depth, classes
        embedding = 2 * widths[0]
        self.frequencies = widths[0]
        self.time = nn.Sequential(nn.Linear(widths[0], embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label = nn.Embedding(classes + 1, embedding) if classes else None  # the last row: any class
        self.caption = nn.Linear(context, embedding) if context else None
        self.into = nn.Sequential(nn.PixelUnshuffle(fold), nn.Conv2d(channels * fold**2, widths[0], 3, padding=1))
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        for place, wide in enumerate(widths):
            told = (embedding, place >= attention, context)
            self.down.append(Level([wide] * depth, wide, *told))
            self.up.append(Level([2 * wide] * depth, wide, *told))
            if place:
                finer = widths[place - 1]
                self.shrink.append(nn.Conv2d(finer, wide, 2, stride=2))
                self.grow.append(nn.Sequential(nn.Conv2d(wide, 4 * finer, 1), nn.PixelShuffle(2)))
        last = nn.Conv2d(widths[0], (outputs or channels) * fold**2, 3, padding=1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.out = nn.Sequential(nn.SiLU(), last, nn.PixelShuffle(fold))

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        label: Tensor | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Predict for x (B, C, H, W) at timesteps (B,).

        Args:
            label: classes (B,), -1 or None: any class.
            tokens: a caption's tokens (B, L, context), with mask (B, L) true where there are any.
        """
        embedding = self.time(sinusoids(timestep, self.frequencies).to(x.dtype))
        if self.label is not None:
            embedding = embedding + embed_label(self.label, label, len(x))
        if self.caption is not None and tokens is not None:
            embedding = embedding + self.caption(mean_token(tokens, mask))
        embedding = F.silu(embedding)
        x = self.into(x)
        kept = []
        for place, level in enumerate(self.down):
            if place:
                x = self.shrink[place - 1](x)
            for index in range(self.depth):
                x = level(index, x, embedding, tokens, mask)
                kept.append(x)
        for place in reversed(range(len(self.up))):
            for index in range(self.depth):
                x = self.up[place](index, torch.cat([x, kept.pop()], 1), embedding, tokens, mask)
            if place:
                x = self.grow[place - 1](x)
        return self.out(x)
