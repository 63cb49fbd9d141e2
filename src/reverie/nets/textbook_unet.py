"""The U-Net of denoising diffusion as textbooks draw it, weight for weight the one that diffusers calls UNet2DModel.

Ho et al., arXiv:2006.11239, appendix B: residual blocks of group normalisation (Wu and He, arXiv:1803.08494), SiLU and
3x3 convolution, told the time by a shift of each channel; self-attention at some levels; stride-2 convolutions down,
nearest neighbours and a convolution up. Parameters have the names and shapes of diffusers' state dict, so that weights
go both ways without a table. Where ``nets.unet`` is shaped for speed, this one is the yardstick.

Activations stay channels_last, where attention's linear layers read them without a copy. Normalisation is in float32:
steadier under bfloat16, and on a CPU faster than torch's own for bfloat16.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.unet import attend, embed_label


def sinusoids(timestep: Tensor, width: int, cosines_first: bool = False, shift: int = 1) -> Tensor:
    """(B,) to (B, width): sines and cosines of frequencies from 1 to 1e-4, or (shift 0) just short of it."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=timestep.device) * (-math.log(10000) / (half - shift)))
    angles = timestep.float()[:, None] * frequencies
    parts = (angles.cos(), angles.sin()) if cosines_first else (angles.sin(), angles.cos())
    return torch.cat(parts, 1)


class Norm(nn.GroupNorm):
    """Group normalisation in the precision of its weights, float32 under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class Residual(nn.Module):
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
        told = self.time_emb_proj(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = told.chunk(2, 1)
            h = torch.addcmul(shift, self.norm2(h).to(told.dtype), 1 + scale)
        else:
            h = self.norm2(h + told)
        h = self.conv2(F.silu(h))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    """x + attention of every place to every place; ``groups`` 0: without a norm before."""

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
        made = self.to_out[0](attend(q, k, v).transpose(1, 2).flatten(2))
        return x + made.transpose(1, 2).unflatten(2, x.shape[2:])


class Resample(nn.Module):
    """Half the side by a stride-2 convolution (``padding`` 0: zeros to the right and below only), or twice the side."""

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
    """Residual blocks of one resolution, attention after each where there is some, then the way to the next level."""

    def __init__(
        self, resnets: list[Residual], attentions: list[Attention], down: list[Resample], up: list[Resample]
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
        channels: of the pictures.
        widths: channels of each level, fine to coarse.
        depth: residual blocks a level on the way down; one more on the way up.
        attention: the levels with attention, counted from 0.
        middle_attention: whether there is attention between the two blocks in the middle.
        head: channels of an attention head; 0: one head of all channels.
        groups: of the group normalisation; must divide every width.
        epsilon: of the group normalisation.
        padding: of the convolutions down: 1 on all sides, or 0: to the right and below only, as the paper's code does.
        cosines_first: whether the timestep's code is cosines, sines (or sines, cosines).
        frequency_shift: 1 where the lowest frequency of that code is 1e-4, 0 where it is just above.
        scale_shift: whether the time scales and shifts after the second normalisation (or shifts before it).
        classes: number of classes (0: no labels); the embedding has one row more, the last: any class.
    """

    def __init__(
        self,
        channels: int,
        widths: tuple[int, ...] = (64, 128, 128),
        depth: int = 2,
        attention: tuple[int, ...] = (1,),
        middle_attention: bool = True,
        head: int = 0,
        groups: int = 32,
        epsilon: float = 1e-6,
        padding: int = 0,
        cosines_first: bool = False,
        frequency_shift: int = 1,
        scale_shift: bool = False,
        classes: int = 0,
    ):
        super().__init__()
        self.depth, self.cosines_first, self.frequency_shift = depth, cosines_first, frequency_shift
        embedding = 4 * widths[0]

        def residual(inputs: int, outputs: int) -> Residual:
            return Residual(inputs, outputs, embedding, groups, epsilon, scale_shift)

        def attentions(place: int, count: int) -> list[Attention]:
            return [Attention(widths[place], head, groups, epsilon) for _ in range(count if place in attention else 0)]

        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.time_embedding = nn.ModuleDict(
            {"linear_1": nn.Linear(widths[0], embedding), "linear_2": nn.Linear(embedding, embedding)}
        )
        self.class_embedding = nn.Embedding(classes + 1, embedding) if classes else None
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        last = len(widths) - 1
        for place, wide in enumerate(widths):
            inputs = [widths[max(place - 1, 0)], *[wide] * (depth - 1)]
            down = [Resample(wide, up=False, padding=padding)] if place < last else []
            self.down_blocks.append(Level([residual(i, wide) for i in inputs], attentions(place, depth), down, []))
        coarse, middle_groups = widths[-1], 0 if scale_shift else groups
        middle = [Attention(coarse, head, middle_groups, epsilon)] if middle_attention else []
        self.mid_block = Level([residual(coarse, coarse), residual(coarse, coarse)], middle, [], [])
        for place in reversed(range(len(widths))):
            wide, finer = widths[place], widths[max(place - 1, 0)]
            below = [widths[min(place + 1, last)], *[wide] * depth]  # what comes from below and from the block before
            beside = [*[wide] * depth, finer]  # what comes across from the way down
            blocks = [residual(a + b, wide) for a, b in zip(below, beside, strict=True)]
            up = [Resample(wide, up=True)] if place else []
            self.up_blocks.append(Level(blocks, attentions(place, depth + 1), [], up))
        self.conv_norm_out = Norm(groups, widths[0], epsilon)
        self.conv_out = nn.Conv2d(widths[0], channels, 3, padding=1)

    def embed(self, timestep: Tensor, label: Tensor | None) -> Tensor:
        """What the residual blocks are told of time and class, (B, 4 widths[0])."""
        code = sinusoids(timestep, self.conv_in.out_channels, self.cosines_first, self.frequency_shift)
        code = code.to(self.conv_in.weight.dtype)
        embedding = self.time_embedding["linear_2"](F.silu(self.time_embedding["linear_1"](code)))
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
            tokens, mask: a caption's, for networks that read one; this one does not.
        """
        embedding = self.embed(timestep, label)
        x = self.conv_in(x.contiguous(memory_format=torch.channels_last))
        kept = [x]
        level: Any
        for level in self.down_blocks:
            for index in range(self.depth):
                x = level(index, x, embedding)
                kept.append(x)
            for down in level.downsamplers:
                x = down(x)
                kept.append(x)
        for index in (0, 1):  # attention, if any, stands between the two
            x = self.mid_block(index, x, embedding)
        for level in self.up_blocks:
            for index in range(self.depth + 1):
                x = level(index, torch.cat([x, kept.pop()], 1), embedding)
            for up in level.upsamplers:
                x = up(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))
