"""The vision transformer of DINOv2, ViT-S/14. Dosovitskiy et al., arXiv:2010.11929; Oquab et al., arXiv:2304.07193."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.errors import UsageError
from reverie.nets.imagenet import Normalise

TRAINED_SIDE = 37  # patches per side in the last stage of its training, on images of 518 pixels


class Attention(nn.Module):
    """Self-attention of several heads over (B, N, width)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each (B, heads, N, width / heads)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Scale(nn.Module):
    """LayerScale, a factor per channel: Touvron et al., arXiv:2103.17239."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """x + attention(x), then x + mlp(x), each on normalised input and scaled."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.ls1 = Scale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        fc1, fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(OrderedDict[str, nn.Module](fc1=fc1, gelu=nn.GELU(), fc2=fc2))
        self.ls2 = Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class ViT(nn.Module):
    """Images to the feature of their class token. The defaults are ViT-S/14, for the weights of "dinov2"."""

    def __init__(self, width: int = 384, depth: int = 12, heads: int = 6, patch: int = 14):
        super().__init__()
        self.patch = patch
        self.normalise = Normalise()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # of its training; unused here
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TRAINED_SIDE**2, width))
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, width, patch, stride=patch)))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def positions(self, height: int, width: int) -> Tensor:
        """The position embedding of a grid of patches: (1, height * width, C)."""
        grid = self.pos_embed[:, 1:].unflatten(1, (TRAINED_SIDE, TRAINED_SIDE)).permute(0, 3, 1, 2)
        if (height, width) != (TRAINED_SIDE, TRAINED_SIDE):
            # the published features use a scale that is 0.1 patch too large, which shifts the sampling points
            scale = ((height + 0.1) / TRAINED_SIDE, (width + 0.1) / TRAINED_SIDE)
            grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")  # (1, C, height, width)
        return grid.flatten(2).transpose(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) in [-1, 1], preferably 224x224, to features (B, width).

        Raises:
            UsageError: sides that the patch does not divide.
        """
        if images.shape[-2] % self.patch or images.shape[-1] % self.patch:
            raise UsageError(f"This transformer needs sides divisible by {self.patch}: resize the images to 224x224.")
        patches = self.patch_embed(self.normalise(images))  # (B, C, height, width)
        x = patches.flatten(2).transpose(1, 2) + self.positions(*patches.shape[2:])  # (B, N, C)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        return self.norm(self.blocks(torch.cat([first, x], 1))[:, 0])
