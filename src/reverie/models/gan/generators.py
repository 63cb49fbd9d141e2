"""Generators as a GAN uses them: how their latents are drawn, and in which spaces they can be decoded."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from reverie.core.card import Space
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.nets.stylegan import Mapping

LABEL_WIDTH = 32  # numbers that tell a plain G a class
_MEAN_OF = 4096  # styles whose mean is the centre of truncation


def any_label(noise: Noise, label: Tensor | None, classes: int) -> Tensor | None:
    """Classes (B,), where there are some: a row without one (-1, or no label at all) gets one at random."""
    if not classes:
        return None
    random = noise.integers(classes)
    return random if label is None else torch.where(label < 0, random, label)


def class_0(label: Tensor | None, like: Tensor, classes: int) -> Tensor | None:
    """Classes (B,), where there are some; by default the first."""
    if not classes or label is not None:
        return label
    return torch.zeros(len(like), dtype=torch.int64, device=like.device)


def check_space(space: str | None, spaces: dict[str, Space]) -> None:
    """Raise a UsageError for a latent space that a generator does not have."""
    if space is not None and space not in spaces:
        raise UsageError(f"space is one of {', '.join(spaces)}, not {space!r}.")


class LatentGenerator(nn.Module):
    """z ~ N(0, I) to images; a class is an embedding beside z.

    Args:
        net: (z (B, latent + told), *level) to images (B, C, H, W).
        latent: numbers in z.
        classes: number of classes that it is told; 0 is none.
        levels: of a network that grows.

    Attributes:
        networks: its sub-modules to compile, "" for all of it.
    """

    networks = ("",)

    def __init__(self, net: nn.Module, latent: int, classes: int = 0, levels: int = 1):
        super().__init__()
        self.net, self.latent, self.classes, self.levels = net, latent, classes, levels
        self.label = nn.Embedding(classes, LABEL_WIDTH) if classes else None

    @property
    def spaces(self) -> dict[str, Space]:
        return {"z": Space((self.latent,), "normal")}

    def forward(self, z: Tensor, label: Tensor | None = None, *level: Any) -> Tensor:
        """``level``: what a growing network is told, see ``nets.progressive``."""
        if self.label is not None:
            z = torch.cat([z, self.label(label).to(z.dtype)], 1)
        return self.net(z, *level)

    def any_label(self, noise: Noise, label: Tensor | None) -> Tensor | None:
        return any_label(noise, label, self.classes)

    def draw(self, rng: Noise, label: Tensor | None, level: tuple[Any, ...] = ()) -> Tensor:
        """Images for training."""
        return self(rng(self.latent), label, *level)

    def sample(self, noise: Noise, label: Tensor | None, truncation: float, level: tuple[Any, ...] = ()) -> Tensor:
        """Images of new z, scaled by ``truncation``."""
        z = noise(self.latent) * truncation
        return self(z, self.any_label(noise, label), *level)

    def latents(self, noise: Noise, label: Tensor | None = None, space: str | None = None) -> Tensor:
        """z (B, latent)."""
        check_space(space, self.spaces)
        return noise(self.latent)

    def decode(
        self, latent: Tensor, label: Tensor | None = None, space: str | None = None, level: tuple[Any, ...] = ()
    ) -> Tensor:
        """Images of z (B, latent)."""
        check_space(space, self.spaces)
        return self(latent, class_0(label, latent, self.classes), *level)


class StyleGenerator(nn.Module):
    """z to a style w, and a style for each layer to images.

    Args:
        mapping: (z, label) to w (B, latent).
        synthesis: (w+ (B, layers, latent), noise) to images.
        classes: number of classes that the mapping is told; 0 is none.
        mixing: share of training images that change from one w to another at a layer in between.
    """

    networks = ("mapping", "synthesis")
    levels = 1
    synthesis: Any

    def __init__(self, mapping: Mapping, synthesis: nn.Module, latent: int, classes: int = 0, mixing: float = 0.0):
        super().__init__()
        self.mapping, self.synthesis = mapping, synthesis
        self.latent, self.classes, self.mixing, self.layers = latent, classes, mixing, self.synthesis.layers

    @property
    def spaces(self) -> dict[str, Space]:
        shapes: dict[str, tuple[int, ...]] = {"w": (self.latent,), "w+": (self.layers, self.latent)}
        return {name: Space(shape, "model") for name, shape in shapes.items()} | {"z": Space((self.latent,), "normal")}

    def forward(self, z: Tensor, label: Tensor | None = None, noise: Noise | None = None) -> Tensor:
        return self.synthesis(self.for_layers(self.mapping(z, label)), noise)

    def for_layers(self, w: Tensor) -> Tensor:
        """w (B, latent) to w+ (B, layers, latent), the same for every layer."""
        return w[:, None].expand(-1, self.layers, -1)

    def any_label(self, noise: Noise, label: Tensor | None) -> Tensor | None:
        return any_label(noise, label, self.classes)

    def draw(self, rng: Noise, label: Tensor | None, level: tuple[Any, ...] = ()) -> Tensor:
        """Images for training, some of them of two styles."""
        return self.synthesis(self.styles(rng, label), rng)

    def styles(self, rng: Noise, label: Tensor | None) -> Tensor:
        """w+ of new images (B, layers, latent), some of them mixed."""
        w = self.mapping(rng(self.latent), label)[:, None]
        if not self.mixing:
            return w.expand(-1, self.layers, -1)
        other = self.mapping(rng(self.latent), label)[:, None]
        cut = 1 + rng.integers(self.layers - 1)
        cut = torch.where(rng.bernoulli(self.mixing), cut, torch.full_like(cut, self.layers))
        return torch.where(torch.arange(self.layers, device=cut.device)[None, :, None] < cut[:, None, None], w, other)

    def sample(self, noise: Noise, label: Tensor | None, truncation: float, level: tuple[Any, ...] = ()) -> Tensor:
        """Images whose w goes ``truncation`` of the way from the mean."""
        w = self.latents(noise, label)
        if truncation != 1:
            w = torch.lerp(self.mean_style(w.device), w, truncation)
        return self.synthesis(self.for_layers(w), noise)

    def mean_style(self, device: torch.device) -> Tensor:
        """The mean w of 4,096 z (1, latent), of all classes alike."""
        return self.latents(Noise.of_seeds(range(_MEAN_OF), device)).mean(0)[None]

    def latents(
        self, noise: Noise, label: Tensor | None = None, space: Literal["z", "w", "w+"] | str | None = None
    ) -> Tensor:
        """z (B, latent), w (B, latent) or w+ (B, layers, latent); by default w."""
        check_space(space, self.spaces)
        z = noise(self.latent)
        if space == "z":
            return z
        w = self.mapping(z, self.any_label(noise, label))
        return self.for_layers(w) if space == "w+" else w

    def decode(
        self, latent: Tensor, label: Tensor | None = None, space: str | None = None, level: tuple[Any, ...] = ()
    ) -> Tensor:
        """Images of w+ (B, layers, latent) or w (B, latent), as the shape says, or of z; noise inputs at zero.

        The class is in the style: a label changes only what is made of z.
        """
        check_space(space, self.spaces)
        if space == "z":
            latent = self.mapping(latent, class_0(label, latent, self.classes))
        return self.synthesis(latent if latent.ndim == 3 else self.for_layers(latent))
