"""An image as the only parameter, moved by L-BFGS until its filter responses correlate as a target's do.

Gatys, Ecker and Bethge, "Texture synthesis using convolutional neural networks", NeurIPS 2015, arXiv:1505.07376, with
random filters (Ustyuzhaninov et al., arXiv:1606.00021).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie import Card, Noise, Phase, Stage
from reverie.core.annotations import Channels, Classes, Side
from reverie.core.batch import Batch
from reverie.core.card import Output


class Fresco(nn.Module):
    """Learns from no data.

    Args:
        size, channels: of the image.
        filters: whose responses are compared.
        pixels: weight of the squared distance to the target itself.
    """

    def __init__(self, size: Side, channels: Channels, classes: Classes = 0, filters: int = 8, pixels: float = 1.0):
        super().__init__()
        self.pixels = pixels
        self.image = nn.Parameter(torch.zeros(1, channels, size, size))
        kernels = torch.randn(filters, channels, 3, 3, generator=torch.Generator().manual_seed(0)) / 3
        grid = torch.arange(size) / size
        waves = torch.sin(6.3 * (grid[:, None] + torch.arange(1, channels + 1)[:, None, None] * grid))
        self.register_buffer("kernels", kernels)
        self.register_buffer("target", 0.8 * waves[None])

    @property
    def card(self) -> Card:
        return Card(output=Output("image", tuple(self.image.shape[2:]), self.image.shape[1]))

    def stages(self, lr: float = 1.0) -> list[Stage]:
        optimizer = torch.optim.LBFGS([self.image], lr, max_iter=8, line_search_fn="strong_wolfe")
        return [Stage([Phase("texture", optimizer, self.loss, closure=True)], precision="fp32")]

    def gram(self, image: Tensor) -> Tensor:
        """Correlations of the responses (B, filters, filters)."""
        responses = F.softplus(F.conv2d(image, self.kernels, padding=1)).flatten(2)
        return responses @ responses.mT / responses.shape[2]

    def loss(self, batch: Batch, outputs: Any) -> dict[str, Tensor]:
        """Squared distances of the correlations and of the pixels."""
        texture = F.mse_loss(self.gram(self.image), self.gram(self.target))
        pixels = F.mse_loss(self.image, self.target)
        return {"loss": texture + self.pixels * pixels, "texture": texture, "pixels": pixels}

    def sample(self, noise: Noise, **condition: Any) -> Tensor:
        """The image (B, C, H, W), the same in every row."""
        return self.image.clamp(-1, 1).expand(len(noise), -1, -1, -1)
