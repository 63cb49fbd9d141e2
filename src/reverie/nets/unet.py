"""The U-Net of the diffusion models, designed for speed.

The first layer packs patches of pixels into channels (pixel unshuffle) and the last layer unpacks them, so that no
convolution runs at full resolution, where memory bandwidth limits speed. Residual branches start at zero and are
conditioned by a scale and a shift per channel (Perez et al., arXiv:1709.07871; adaptive group normalisation, Dhariwal
and Nguyen, arXiv:2105.05233, but without the normalisation, which saves two passes on a CPU). Attention (Vaswani et
al., arXiv:1706.03762) is used on small maps, and also attends to the tokens of a caption.

This file needs only torch: it is part of exported models.
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
    """Embeddings (rows, width) of labels (rows,); -1 or no ``label`` is any class, the last row of the table."""
    if label is None:
        label = torch.full((rows,), -1, device=table.weight.device)
    return table(label.remainder(table.num_embeddings))


def mean_token(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """(B, L, C) to (B, C): the mean over the tokens where ``mask`` (B, L) is true."""
    weight = torch.ones_like(tokens[..., :1]) if mask is None else mask[..., None].to(tokens.dtype)
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


class ResidualBlock(nn.Module):
    """x + conv(act(conv(x) (1 + scale) + shift)), the identity at the start of training."""

    def __init__(self, inputs: int, outputs: int, embedding: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        for parameter in (*self.conv2.parameters(), *self.modulation.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].to(x.dtype).chunk(2, 1)
        h = torch.addcmul(shift, self.conv1(x), 1 + scale)
        return self.shortcut(x) + self.conv2(F.silu(h))


def attend(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d)) v of (B, heads, N, d); keys where ``attn_mask`` is false are ignored.

    In training on a CPU, for a few dozen positions, torch's fused attention takes five times as long as this function.
    """
    if q.device.type != "cpu" or not torch.is_grad_enabled() or q.shape[2] > 512:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
    scores = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    return scores.softmax(3) @ v


def attend_with_tokens(rows: Tensor, context: Tensor | None, mask: Tensor | None, heads: int) -> Tensor:
    """Attention (B, N, C) of a sequence to itself and, if any, to a caption's tokens.

    Args:
        rows: queries, keys and values (B, N, 3 C).
        context: keys and values of the tokens (B, L, 2 C).
        mask: (B, L), true for valid tokens; None: all are valid.
    """
    q, k, v = rows.chunk(3, 2)
    attn_mask = None
    if context is not None:
        more_k, more_v = context.chunk(2, 2)
        k, v = torch.cat([k, more_k], 1), torch.cat([v, more_v], 1)
        if mask is not None:
            attn_mask = F.pad(mask, (rows.shape[1], 0), value=True)[:, None, None]
    q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v))  # (B, heads, N, d)
    return attend(q, k, v, attn_mask).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """x + attention(norm(x)) over all positions and, if any, the caption's tokens."""

    def __init__(self, channels: int, context: int = 0, head: int = 32):
        super().__init__()
        self.heads = max(1, channels // head)
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.context_kv = nn.Linear(context, 2 * channels) if context else None
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        rows = x.flatten(2).transpose(1, 2)  # (B, N, C), contiguous if x is channels_last
        context = None if self.context_kv is None or tokens is None else self.context_kv(tokens.to(x.dtype))
        attended = self.out(attend_with_tokens(self.qkv(self.norm(rows)), context, mask, self.heads))
        return x + attended.transpose(1, 2).unflatten(2, x.shape[2:])


class Level(nn.Module):
    """Residual blocks of a resolution, each followed by optional attention."""

    def __init__(self, inputs: list[int], outputs: int, embedding: int, attention: bool, context: int):
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(i, outputs, embedding) for i in inputs)
        self.attention = nn.ModuleList(Attention(outputs, context) for _ in inputs) if attention else None

    def forward(self, index: int, x: Tensor, embedding: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        x = self.blocks[index](x, embedding)
        return x if self.attention is None else self.attention[index](x, tokens, mask)


class UNet(nn.Module):
    """(B, channels, H, W) and timesteps (B,) to (B, outputs, H, W).

    patch_size times 2^(levels - 1) must divide H and W.

    Args:
        channels: of the images.
        widths: channels of each level, fine to coarse.
        depth: residual blocks per level, on the way down and on the way up.
        attention: first level with attention, counted from 0.
        patch_size: side of the patches of pixels that become channels.
        classes: number of classes (0: no labels).
        context: width of a caption's tokens (0: no captions); their mean is added to the time embedding.
        outputs: channels of the output, by default those of the images.
    """

    def __init__(
        self,
        channels: int,
        widths: tuple[int, ...] = (64, 128),
        depth: int = 2,
        attention: int = 1,
        patch_size: int = 2,
        classes: int = 0,
        context: int = 0,
        outputs: int | None = None,
    ):
        super().__init__()
        self.depth, self.classes = depth, classes
        embedding = 2 * widths[0]
        self.frequencies = widths[0]
        self.time = nn.Sequential(nn.Linear(widths[0], embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label_embedding = nn.Embedding(classes + 1, embedding) if classes else None  # the last row: any class
        self.text_proj = nn.Linear(context, embedding) if context else None
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(patch_size), nn.Conv2d(channels * patch_size**2, widths[0], 3, padding=1)
        )
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.downsample, self.upsample = nn.ModuleList(), nn.ModuleList()
        for level_index, wide in enumerate(widths):
            level_args = (embedding, level_index >= attention, context)
            self.down.append(Level([wide] * depth, wide, *level_args))
            self.up.append(Level([2 * wide] * depth, wide, *level_args))
            if level_index:
                finer = widths[level_index - 1]
                self.downsample.append(nn.Conv2d(finer, wide, 2, stride=2))
                self.upsample.append(nn.Sequential(nn.Conv2d(wide, 4 * finer, 1), nn.PixelShuffle(2)))
        last = nn.Conv2d(widths[0], (outputs or channels) * patch_size**2, 3, padding=1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.out = nn.Sequential(nn.SiLU(), last, nn.PixelShuffle(patch_size))

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
            tokens, mask: a caption's tokens (B, L, context), and (B, L) true for valid tokens.
        """
        embedding = self.time(sinusoids(timestep, self.frequencies).to(x.dtype))
        if self.label_embedding is not None:
            embedding = embedding + embed_label(self.label_embedding, label, len(x))
        if self.text_proj is not None and tokens is not None:
            embedding = embedding + self.text_proj(mean_token(tokens, mask))
        embedding = F.silu(embedding)
        x = self.stem(x)
        skips = []
        for level_index, level in enumerate(self.down):
            if level_index:
                x = self.downsample[level_index - 1](x)
            for index in range(self.depth):
                x = level(index, x, embedding, tokens, mask)
                skips.append(x)
        for level_index in reversed(range(len(self.up))):
            for index in range(self.depth):
                x = self.up[level_index](index, torch.cat([x, skips.pop()], 1), embedding, tokens, mask)
            if level_index:
                x = self.upsample[level_index - 1](x)
        return self.out(x)
