"""Generators as a GAN uses them: how their latents are drawn, and in which spaces they can be decoded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.card import Space, check_space
from reverie.core.noise import Noise
from reverie.nets.stylegan import MappingNetwork
from reverie.probability.conditioning import first_class, random_label

LABEL_WIDTH = 32  # of a plain G's class embedding
_MEAN_OF = 4096  # styles whose mean is the centre of truncation


class LatentGenerator(nn.Module):
    """z ~ N(0, I) to images; a class is an embedding beside z.

    Args:
        net: (z (B, latent + LABEL_WIDTH), *level) to images (B, C, H, W).
        latent: numbers in z.
        classes: number of classes that it is conditioned on; 0 is none.
        levels: of a network that grows.

    Attributes:
        networks: its sub-modules to compile, "" for all of it.
    """

    networks = ("",)

    def __init__(self, net: nn.Module, latent: int, classes: int = 0, levels: int = 1):
        super().__init__()
        self.net, self.latent_size, self.classes, self.levels = net, latent, classes, levels
        self.label_embedding = nn.Embedding(classes, LABEL_WIDTH) if classes else None

    @property
    def spaces(self) -> dict[str, Space]:
        return {"z": Space((self.latent_size,), "normal")}

    def forward(self, z: Tensor, label: Tensor | None = None, *level: Any) -> Tensor:
        """``level``: level and fading of a growing network, see ``nets.progressive``."""
        if self.label_embedding is not None:
            z = torch.cat([z, self.label_embedding(label).to(z.dtype)], 1)
        return self.net(z, *level)

    def random_label(self, noise: Noise, label: Tensor | None) -> Tensor | None:
        return random_label(noise, label, self.classes)

    def generate(self, rng: Noise, label: Tensor | None, level: tuple[Any, ...] = ()) -> Tensor:
        """Images for training."""
        return self(rng(self.latent_size), label, *level)

    def sample(self, noise: Noise, label: Tensor | None, truncation: float, level: tuple[Any, ...] = ()) -> Tensor:
        """Images of new z, scaled by ``truncation``."""
        z = noise(self.latent_size) * truncation
        return self(z, self.random_label(noise, label), *level)

    def latent(self, noise: Noise, label: Tensor | None = None, space: str | None = None) -> Tensor:
        """z (B, latent)."""
        check_space(space, self.spaces)
        return noise(self.latent_size)

    def decode(
        self, latent: Tensor, label: Tensor | None = None, space: str | None = None, level: tuple[Any, ...] = ()
    ) -> Tensor:
        """Images of z (B, latent)."""
        check_space(space, self.spaces)
        return self(latent, first_class(label, latent, self.classes), *level)


class StyleGenerator(nn.Module):
    """z to a style w, and a style for each layer to images.

    Args:
        mapping: (z, label) to w (B, latent).
        synthesis: (w+ (B, layers, latent), noise) to images.
        classes: number of classes of the mapping; 0 is none.
        mixing: fraction of training images that change from one w to another at a layer in between.
    """

    networks = ("mapping", "synthesis")
    levels = 1
    synthesis: Any

    def __init__(
        self, mapping: MappingNetwork, synthesis: nn.Module, latent: int, classes: int = 0, mixing: float = 0.0
    ):
        super().__init__()
        self.mapping, self.synthesis = mapping, synthesis
        self.latent_size, self.classes, self.mixing, self.layers = latent, classes, mixing, self.synthesis.layers

    @property
    def spaces(self) -> dict[str, Space]:
        shapes: dict[str, tuple[int, ...]] = {"w": (self.latent_size,), "w+": (self.layers, self.latent_size)}
        return {name: Space(shape, "model") for name, shape in shapes.items()} | {
            "z": Space((self.latent_size,), "normal")
        }

    def forward(self, z: Tensor, label: Tensor | None = None, noise: Noise | None = None) -> Tensor:
        return self.synthesis(self.for_layers(self.mapping(z, label)), noise)

    def for_layers(self, w: Tensor) -> Tensor:
        """w (B, latent) to w+ (B, layers, latent), the same for every layer."""
        return w[:, None].expand(-1, self.layers, -1)

    def random_label(self, noise: Noise, label: Tensor | None) -> Tensor | None:
        return random_label(noise, label, self.classes)

    def generate(self, rng: Noise, label: Tensor | None, level: tuple[Any, ...] = ()) -> Tensor:
        """Images for training, some of them of two styles."""
        return self.synthesis(self.styles(rng, label), rng)

    def styles(self, rng: Noise, label: Tensor | None) -> Tensor:
        """w+ of new images (B, layers, latent), some of them mixed."""
        w = self.mapping(rng(self.latent_size), label)[:, None]
        if not self.mixing:
            return w.expand(-1, self.layers, -1)
        other = self.mapping(rng(self.latent_size), label)[:, None]
        cut = 1 + rng.integers(self.layers - 1)
        cut = torch.where(rng.bernoulli(self.mixing), cut, torch.full_like(cut, self.layers))
        return torch.where(torch.arange(self.layers, device=cut.device)[None, :, None] < cut[:, None, None], w, other)

    def sample(self, noise: Noise, label: Tensor | None, truncation: float, level: tuple[Any, ...] = ()) -> Tensor:
        """Images whose w goes ``truncation`` of the way from the mean."""
        w = self.latent(noise, label)
        if truncation != 1:
            w = torch.lerp(self.mean_style(w.device), w, truncation)
        return self.synthesis(self.for_layers(w), noise)

    def mean_style(self, device: torch.device) -> Tensor:
        """The mean w of 4,096 z (1, latent), of all classes alike."""
        return self.latent(Noise.of_seeds(range(_MEAN_OF), device)).mean(0)[None]

    def latent(self, noise: Noise, label: Tensor | None = None, space: str | None = None) -> Tensor:
        """z (B, latent), w (B, latent) or w+ (B, layers, latent); by default w."""
        space, z = check_space(space, self.spaces), noise(self.latent_size)
        if space == "z":
            return z
        w = self.mapping(z, self.random_label(noise, label))
        return self.for_layers(w) if space == "w+" else w

    def decode(
        self, latent: Tensor, label: Tensor | None = None, space: str | None = None, level: tuple[Any, ...] = ()
    ) -> Tensor:
        """Images of w (B, latent), w+ (B, layers, latent) or z (B, latent); noise inputs at zero.

        The class is in the style: a label counts only for z.
        """
        if check_space(space, self.spaces) == "z":
            latent = self.mapping(latent, first_class(label, latent, self.classes))
        return self.synthesis(latent if latent.ndim == 3 else self.for_layers(latent))
