"""The codec of a latent diffusion: images to normalised latents and back.

Rombach et al., "High-resolution image synthesis with latent diffusion models", CVPR 2022, arXiv:2112.10752.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.card import Space, card_of
from reverie.core.memory import rows_at_once
from reverie.data.batches import Batches
from reverie.optim.phase import Stage

_MEASURED = 2048  # images whose latents give mean and variance
_MIN_VARIANCE = 1e-4  # of a latent before it is normalised: a constant one is not blown up


class LatentCodec(nn.Module):
    """A model that encodes and decodes, its latents as maps, normalised to mean 0 and variance 1 a channel.

    Args:
        codec: encodes and decodes images.
        trained_elsewhere: whether it is another run's, and so stays as it is; else it is trained first.
        lr: its peak learning rate, where it is trained here.

    Attributes:
        space: the codec's latent space, as the latents of the whole model.
        map_shape: the same as maps, (D, 1, 1) for vectors.
    """

    codec: Any
    mean: Tensor
    mean_sq: Tensor

    def __init__(self, codec: nn.Module, trained_elsewhere: bool, lr: float = 2e-3):
        super().__init__()
        self.codec, self.trained_elsewhere, self.lr = codec, trained_elsewhere, lr
        card = card_of(codec)
        assert card.space is not None
        self.space = Space(card.space.shape, "model", card.space.encode)
        self.map_shape = card.space.shape if len(card.space.shape) == 3 else (*card.space.shape, 1, 1)
        self.extents = card.output.shape if card.output else ()
        self.weights, self.networks = card.weights, tuple(f"codec.{name}" for name in card.networks)
        self.register_buffer("mean", torch.zeros(self.map_shape[0]))
        self.register_buffer("mean_sq", torch.ones(self.map_shape[0]))

    def stages(self, weight_decay: float) -> list[Stage]:
        """Its own training; none where it is another run's."""
        if self.trained_elsewhere:
            return []
        (stage,) = self.codec.stages(self.lr, weight_decay)
        return [replace(stage, name="codec", verbs=())]

    def measure(self, batches: Batches, fresh: bool = True) -> None:
        """Mean and mean square of the latents, a channel each, over the first images of the training split."""
        total, count = torch.zeros(2, len(self.mean), dtype=torch.float64, device=self.mean.device), 0
        for batch in batches.in_order(rows_at_once(self.extents, self.mean.device, 256)):
            latents = self.raw(batch["x"]).double()
            total += torch.stack([latents.mean((2, 3)).sum(0), latents.square().mean((2, 3)).sum(0)])
            count += len(latents)
            if count >= _MEASURED:
                break
        self.mean.copy_(total[0] / count)
        self.mean_sq.copy_(total[1] / count)

    @property
    def std(self) -> Tensor:
        """Standard deviation (C,) of the codec's latents."""
        return (self.mean_sq - self.mean.square()).clamp(min=_MIN_VARIANCE).sqrt()

    def raw(self, image: Tensor) -> Tensor:
        """The codec's own latents as maps (B, *map_shape)."""
        return self.codec.encode(image).reshape(-1, *self.map_shape)

    def to_latent(self, image: Tensor) -> Tensor:
        """(B, C, H, W) to normalised latents (B, *map_shape)."""
        return (self.raw(image) - self.mean[:, None, None]) / self.std[:, None, None]

    def from_latent(self, latent: Tensor) -> Tensor:
        """Normalised latents (B, *map_shape) to images (B, C, H, W)."""
        raw = latent * self.std[:, None, None] + self.mean[:, None, None]
        return self.codec.decode(raw.reshape(-1, *self.space.shape)).clamp(-1, 1)
