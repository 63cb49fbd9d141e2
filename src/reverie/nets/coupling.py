"""The network of a coupling layer: from one part of a map to the parameters of the transform of the rest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.layers.thin import ThinConv3x3
from reverie.nets.shapes import Shape
from reverie.nets.unet import embed_label


class CouplingNet(nn.Module):
    """A residual network with a learned map of positions; 0 at the start of training.

    Args:
        shape: (height, width) of the map.
        inputs, outputs: channels.
        width: of the residual blocks.
        depth: residual blocks, two 1x1 convolutions each.
        classes: of the label; 0: it is ignored.
    """

    def __init__(self, shape: Shape, inputs: int, outputs: int, width: int, depth: int, classes: int = 0):
        super().__init__()
        self.stem = ThinConv3x3(inputs, width)
        self.position = nn.Parameter(torch.zeros(1, width, *shape))
        self.embedding = nn.Embedding(classes + 1, width) if classes else None  # the last row: any class
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1))
            for _ in range(depth)
        )
        self.head = ThinConv3x3(width, outputs)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """(B, inputs, H, W), label (B,) to (B, outputs, H, W)."""
        h = self.stem(x)
        h = h + self.position.to(h.dtype)  # else a bf16 map would become a fp32 one
        if self.embedding is not None:
            h = h + embed_label(self.embedding, label, len(x))[:, :, None, None].to(h.dtype)
        for block in self.blocks:
            h = h + block(h)
        return self.head(F.relu(h))
