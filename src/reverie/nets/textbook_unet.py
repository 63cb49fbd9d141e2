"""The textbook U-Net of denoising diffusion, with the weights of diffusers' UNet2DModel.

Ho et al., arXiv:2006.11239, appendix B: residual blocks of group normalisation (Wu and He, arXiv:1803.08494), SiLU and
3x3 convolution, conditioned on time by a shift per channel; self-attention at some levels; stride-2 convolutions down,
nearest-neighbour upsampling and a convolution up. Parameters have the names and shapes of diffusers' state dict, so
weights are exchanged without a mapping. This network is the reference for the faster ``nets.unet``.

Activations stay channels_last, which attention's linear layers read without a copy. Normalisation is in float32: more
stable under bfloat16, and on a CPU faster than torch's bfloat16 kernel.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.unet import attend, embed_label


def sinusoids(timestep: Tensor, width: int, flip_sin_to_cos: bool = False, shift: int = 1) -> Tensor:
    """(B,) to (B, width): sines and cosines of frequencies from 1 to 1e-4 (shift 1) or slightly above (shift 0)."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=timestep.device) * (-math.log(10000) / (half - shift)))
    angles = timestep.float()[:, None] * frequencies
    parts = (angles.cos(), angles.sin()) if flip_sin_to_cos else (angles.sin(), angles.cos())
    return torch.cat(parts, 1)


class Norm(nn.GroupNorm):
    """Group normalisation in the precision of its weights, float32 under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class ResnetBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + shift))), or with (1 + scale) and shift after the second norm."""

    def __init__(self, inputs: int, outputs: int, embedding: int, groups: int, epsilon: float, scale_shift: bool):
        super().__init__()
        self.norm1 = Norm(groups, inputs, epsilon)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(embedding, 2 * outputs if scale_shift else outputs)
        self.norm2 = Norm(groups, outputs, epsilon)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None
        self.scale_shift = scale_shift

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        projected = self.time_emb_proj(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = projected.chunk(2, 1)
            h = torch.addcmul(shift, self.norm2(h).to(projected.dtype), 1 + scale)
        else:
            h = self.norm2(h + projected)
        h = self.conv2(F.silu(h))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    """x + self-attention(norm(x)); ``groups`` 0: without the norm."""

    def __init__(self, channels: int, head: int, groups: int, epsilon: float):
        super().__init__()
        self.heads = channels // (head or channels)
        inner = self.heads * (head or channels)
        self.group_norm = Norm(groups, channels, epsilon) if groups else None
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, inner) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, channels)])

    def forward(self, x: Tensor) -> Tensor:
        rows = (x if self.group_norm is None else self.group_norm(x)).flatten(2).transpose(1, 2)  # (B, places, C)
        q, k, v = (
            project(rows).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, places, C / heads)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        attended = self.to_out[0](attend(q, k, v).transpose(1, 2).flatten(2))
        return x + attended.transpose(1, 2).unflatten(2, x.shape[2:])


class Resample(nn.Module):
    """Halve the side by a stride-2 convolution (``padding`` 0: zeros to the right and below only), or double it."""

    def __init__(self, channels: int, up: bool, padding: int = 1):
        super().__init__()
        self.up, self.pad = up, not up and padding == 0
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if up else 2, padding=1 if up else padding)

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        elif self.pad:
            x = F.pad(x, (0, 1, 0, 1))
        return self.conv(x)


class Level(nn.Module):
    """Residual blocks of a resolution, each followed by optional attention, then a resampling to the next level."""

    def __init__(
        self, resnets: list[ResnetBlock], attentions: list[Attention], down: list[Resample], up: list[Resample]
    ) -> None:
        super().__init__()
        self.resnets, self.attentions = nn.ModuleList(resnets), nn.ModuleList(attentions)
        self.downsamplers, self.upsamplers = nn.ModuleList(down), nn.ModuleList(up)

    def forward(self, index: int, x: Tensor, embedding: Tensor) -> Tensor:
        x = self.resnets[index](x, embedding)
        return self.attentions[index](x) if index < len(self.attentions) else x


class TextbookUNet(nn.Module):
    """(B, channels, H, W) and timesteps (B,) to (B, channels, H, W); H and W halve at every level but the last.

    Args:
        channels: of the images.
        widths: channels of each level, fine to coarse.
        depth: residual blocks per level on the way down; one more on the way up.
        attention_levels: the levels with attention, counted from 0.
        mid_attention: attention between the two blocks at the coarsest level.
        head_dim: channels of an attention head; 0: a single head of all channels.
        norm_groups: of the group normalisation; must divide every width.
        norm_eps: of the group normalisation.
        downsample_padding: 1 on all sides, or 0: to the right and below only, as in the paper's code.
        flip_sin_to_cos: whether the timestep's embedding is cosines, sines (or sines, cosines).
        freq_shift: 1: the lowest frequency of that embedding is 1e-4; 0: slightly above.
        scale_shift: whether time scales and shifts after the second normalisation (or shifts before it).
        classes: number of classes (0: no labels); the embedding has an additional last row for any class.
    """

    def __init__(
        self,
        channels: int,
        widths: tuple[int, ...] = (64, 128, 128),
        depth: int = 2,
        attention_levels: tuple[int, ...] = (1,),
        mid_attention: bool = True,
        head_dim: int = 0,
        norm_groups: int = 32,
        norm_eps: float = 1e-6,
        downsample_padding: int = 0,
        flip_sin_to_cos: bool = False,
        freq_shift: int = 1,
        scale_shift: bool = False,
        classes: int = 0,
    ):
        super().__init__()
        self.depth, self.flip_sin_to_cos, self.freq_shift = depth, flip_sin_to_cos, freq_shift
        embedding = 4 * widths[0]

        def residual(inputs: int, outputs: int) -> ResnetBlock:
            return ResnetBlock(inputs, outputs, embedding, norm_groups, norm_eps, scale_shift)

        def attentions(index: int, count: int) -> list[Attention]:
            count = count if index in attention_levels else 0
            return [Attention(widths[index], head_dim, norm_groups, norm_eps) for _ in range(count)]

        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.time_embedding = nn.ModuleDict(
            {"linear_1": nn.Linear(widths[0], embedding), "linear_2": nn.Linear(embedding, embedding)}
        )
        self.class_embedding = nn.Embedding(classes + 1, embedding) if classes else None
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        last = len(widths) - 1
        for index, wide in enumerate(widths):
            inputs = [widths[max(index - 1, 0)], *[wide] * (depth - 1)]
            down = [Resample(wide, up=False, padding=downsample_padding)] if index < last else []
            self.down_blocks.append(Level([residual(i, wide) for i in inputs], attentions(index, depth), down, []))
        coarse, mid_groups = widths[-1], 0 if scale_shift else norm_groups
        middle = [Attention(coarse, head_dim, mid_groups, norm_eps)] if mid_attention else []
        self.mid_block = Level([residual(coarse, coarse), residual(coarse, coarse)], middle, [], [])
        for index in reversed(range(len(widths))):
            wide, finer = widths[index], widths[max(index - 1, 0)]
            before = [widths[min(index + 1, last)], *[wide] * depth]  # from the coarser level or previous block
            skips = [*[wide] * depth, finer]  # from the skip connections
            blocks = [residual(a + b, wide) for a, b in zip(before, skips, strict=True)]
            up = [Resample(wide, up=True)] if index else []
            self.up_blocks.append(Level(blocks, attentions(index, depth + 1), [], up))
        self.conv_norm_out = Norm(norm_groups, widths[0], norm_eps)
        self.conv_out = nn.Conv2d(widths[0], channels, 3, padding=1)

    def embed(self, timestep: Tensor, label: Tensor | None) -> Tensor:
        """The embedding of time and class for the residual blocks, (B, 4 widths[0])."""
        waves = sinusoids(timestep, self.conv_in.out_channels, self.flip_sin_to_cos, self.freq_shift)
        waves = waves.to(self.conv_in.weight.dtype)
        embedding = self.time_embedding["linear_2"](F.silu(self.time_embedding["linear_1"](waves)))
        if self.class_embedding is not None:
            embedding = embedding + embed_label(self.class_embedding, label, len(timestep))
        return F.silu(embedding)

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
            tokens, mask: of captions; unused by this network.
        """
        embedding = self.embed(timestep, label)
        x = self.conv_in(x.contiguous(memory_format=torch.channels_last))
        skips = [x]
        level: Any
        for level in self.down_blocks:
            for index in range(self.depth):
                x = level(index, x, embedding)
                skips.append(x)
            for down in level.downsamplers:
                x = down(x)
                skips.append(x)
        for index in (0, 1):  # with optional attention in between
            x = self.mid_block(index, x, embedding)
        for level in self.up_blocks:
            for index in range(self.depth + 1):
                x = level(index, torch.cat([x, skips.pop()], 1), embedding)
            for up in level.upsamplers:
                x = up(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))
