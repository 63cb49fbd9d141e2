"""StyleGAN and StyleGAN2: z becomes a style w, and w scales the channels of every convolution.

StyleGAN: Karras et al., "A style-based generator architecture for generative adversarial networks", CVPR 2019,
arXiv:1812.04948. StyleGAN2: Karras et al., "Analyzing and improving the image quality of StyleGAN", CVPR 2020,
arXiv:1912.04958. Deviations are listed in docs/systems/stylegan.md.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reverie.core.batch import Batch
from reverie.core.card import Card, Space
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.models.adversarial import Adversarial, Level, Loss
from reverie.nets.adversarial import Judge, within
from reverie.nets.shapes import Shape, Sides, check_square, sides
from reverie.nets.stylegan import AdaptiveSynthesis, Features, Mapping, Synthesis
from reverie.optim.phase import Metrics, Outputs, Phase, Stage

DEVIATION = 4  # images whose deviation the discriminator sees together
_PATH_RATE = 0.01  # share of a step's path length in the running mean

StyleSpace = Literal["z", "w", "w+"]


def power_of_two(shape: Shape, least: int, most: int = 1024) -> int:
    """The side of a square that is a power of two; a UsageError with the nearest fitting size for any other shape."""
    near = min(max(least, 2 ** round(math.log2(max(*shape, 1)))), most)
    size = check_square(shape, "This network", near)
    if size & (size - 1) or not least <= size <= most:
        raise UsageError(
            f"This network doubles maps of 4x4, so it needs a power of two from {least} to {most}; {size} is not. "
            f"Try --size {near}."
        )
    return size


class StyleGenerator(nn.Module):
    """(z, label) to pictures, through w."""

    synthesis: Any

    def __init__(self, mapping: Mapping, synthesis: nn.Module):
        super().__init__()
        self.mapping, self.synthesis = mapping, synthesis

    def forward(self, z: Tensor, label: Tensor | None = None, noise: Noise | None = None) -> Tensor:
        w = self.mapping(z, label)
        return self.synthesis(w[:, None].expand(-1, self.synthesis.layers, -1), noise)


class StyleGAN2(Adversarial):
    """Modulated convolutions with demodulation, a skip generator, a residual discriminator.

    Three latent spaces: z, N(0, I); w, what the mapping network makes of it; w+, a w of its own for every layer.

    Args:
        latent: numbers in z, and in w.
        mapping: layers of the mapping network.
        width: channels of the finest level; coarser ones have up to four times as many.
        fold: the finest maps have size / fold pixels a side and make squares of fold x fold pixels; 1 is the paper's.
        mixing: share of training pictures that change from one w to another at a layer in between.
        path: weight of the path length penalty: steps of one size in w shall change pictures by one size.
        path_every: steps between its moves, which then count as many times.
        more: as for ``Adversarial``.
    """

    synthesis: Any = Synthesis
    G: Any
    stride: Tensor

    def __init__(
        self,
        shape: Sides,
        channels: int,
        classes: int = 0,
        loss: Loss = "non-saturating",
        r1: float | None = 0.1,
        penalty_every: int = 16,
        latent: int = 128,
        mapping: int = 4,
        width: int = 64,
        fold: int = 2,
        mixing: float = 0.9,
        path: float = 2.0,
        path_every: int = 4,
        **more: Any,
    ):
        if fold not in (1, 2, 4):
            raise UsageError(f"fold is 1, 2 or 4, not {fold}.")
        size = power_of_two(sides(shape), 4 * fold)
        if not 0 <= mixing <= 1 or path < 0 or min(latent, mapping, width, path_every) < 1:
            raise UsageError("0 <= mixing <= 1, path >= 0 and latent, mapping, width, path_every >= 1 are needed.")
        super().__init__(shape, channels, classes, loss=loss, r1=r1, penalty_every=penalty_every, **more)
        self.latent, self.mixing, self.path, self.path_every = latent, mixing, path, path_every
        synthesis = self.synthesis(size, channels, latent, width, fold)
        self.G = StyleGenerator(Mapping(latent, latent, mapping, self.classes), synthesis)
        body = Features(size, channels * self.packing, width, fold)
        self.D = Judge(body, body.outputs, self.classes, packing=self.packing, grouped=True)
        self.layers, self.latent_shape = self.G.synthesis.layers, (latent,)
        self.register_buffer("stride", torch.zeros(()))  # running mean of path lengths, which the penalty holds G to

    @property
    def card(self) -> Card:
        w = Space((self.latent,), "model")
        spaces = {"w": w, "w+": replace(w, shape=(self.layers, self.latent)), "z": Space((self.latent,), "normal")}
        return replace(super().card, latents=spaces, networks=("G.mapping", "G.synthesis", "D"))

    # Learning

    def stages(self, lr: float = 2e-3, d_lr: float = 0.0, beta: float = 0.0) -> list[Stage]:
        """See ``Adversarial.stages``; the path length penalty is a lazy phase of G's optimizer."""
        (stage,) = super().stages(lr, d_lr, beta)
        stage.group = math.lcm(2, DEVIATION * self.packing)
        if self.path:
            every, optimizer = self.path_every, stage.phases[-1].optimizer
            stage.phases.append(Phase("G-path", optimizer, self.path_loss, every, every, graph=False, eager=True))
            stage.update = self.adapt
        return [stage]

    def adapt(self, batch: Batch, outputs: Outputs, stats: Metrics) -> Metrics:
        """ADA's probability, and the running mean of path lengths."""
        metrics = self.adapt_augmentation(batch, outputs, stats) if self.d_augment == "ada" else {}
        if "G-path/length" in stats:
            self.stride.lerp_(stats["G-path/length"], _PATH_RATE)
            metrics["stride"] = self.stride
        return metrics

    def make(self, rng: Noise, label: Tensor | None, level: Level = ()) -> Tensor:
        return within(self.G.synthesis(self.styles(rng, label), rng).float())

    def styles(self, rng: Noise, label: Tensor | None) -> Tensor:
        """w+ of new pictures (B, layers, width), some of them mixed."""
        layers = self.layers
        w = self.G.mapping(rng(self.latent), label)[:, None]
        if not self.mixing:
            return w.expand(-1, layers, -1)
        other = self.G.mapping(rng(self.latent), label)[:, None]
        cut = 1 + rng.integers(layers - 1)
        cut = torch.where(rng.bernoulli(self.mixing), cut, torch.full_like(cut, layers))
        return torch.where(torch.arange(layers, device=cut.device)[None, :, None] < cut[:, None, None], w, other)

    def path_loss(self, batch: Batch, outputs: Outputs) -> Metrics:
        """(|J' y| - a)^2 of the Jacobian J of images by w and noise y, a the running mean of |J' y|.

        Of every second image of the batch.
        """
        rng, label = batch.rng[::2], outputs.get("label")
        lengths = path_lengths(self.G.synthesis, self.styles(rng, None if label is None else label[::2]), rng)
        loss = (lengths - self.stride).square().mean()
        return {"loss": self.path * loss, "length": lengths.mean()}

    # Verbs

    def sample(self, noise: Noise, label: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """Pictures (B, C, H, W) from noise; no label is a random one.

        Args:
            truncation: how far w may go from its mean, below 1 more typical and less varied.
        """
        w = self.latents(noise, label)
        if truncation != 1:
            w = torch.lerp(self.mean_style(w.device), w, truncation)
        return self.G.synthesis(w[:, None].expand(-1, self.layers, -1), noise).clamp(-1, 1)

    def latents(self, noise: Noise, label: Tensor | None = None, space: StyleSpace = "w") -> Tensor:
        """Of the samples that ``sample`` draws z (B, latent), w (B, latent) or w+ (B, layers, latent)."""
        z = noise(self.latent)
        return z if space == "z" else self.styled(z, space, self.some_label(noise, label) if self.classes else None)

    def styled(self, z: Tensor, space: StyleSpace, label: Tensor | None) -> Tensor:
        w = self.G.mapping(z, label)
        return w if space == "w" else w[:, None].expand(-1, self.layers, -1)

    def mean_style(self, device: torch.device) -> Tensor:
        """The mean w of 4,096 z (1, width), of all classes alike."""
        return self.latents(Noise.of_seeds(range(4096), device)).mean(0)[None]

    def decode(
        self, latent: Tensor, label: Tensor | None = None, space: StyleSpace | None = None, **condition: Any
    ) -> Tensor:
        """Styles w+ (B, layers, latent) or w (B, latent), or z (B, latent), to images; noise inputs at zero.

        The class is in the style: a label changes only what is made of z (without one, that of class 0).

        Args:
            space: by default w+ or w, as the shape says.
        """
        if space == "z":
            if self.classes and label is None:
                label = torch.zeros(len(latent), dtype=torch.int64, device=latent.device)
            latent = self.styled(latent, "w+", label)
        elif latent.ndim == 2:
            latent = latent[:, None].expand(-1, self.layers, -1)
        return self.G.synthesis(latent).clamp(-1, 1)


def path_lengths(synthesis: nn.Module, w: Tensor, rng: Noise) -> Tensor:
    """|J' y| of each row, y noise of the size of a picture, as a mean over styles (B,); differentiable."""
    made = synthesis(w, rng).float()
    y = rng(*made.shape[1:]) / math.sqrt(made.shape[2] * made.shape[3])
    (slope,) = torch.autograd.grad((made * y).sum(), w, create_graph=True)
    return slope.float().square().sum(2).mean(1).sqrt()


class StyleGAN(StyleGAN2):
    """The first one: styles set each channel's mean and deviation (AdaIN); no skips in G, no path length penalty.

    Args:
        more: as for ``StyleGAN2``.
    """

    synthesis: Any = AdaptiveSynthesis

    def __init__(self, shape: Sides, channels: int, classes: int = 0, path: float = 0.0, **more: Any):
        super().__init__(shape, channels, classes, path=path, **more)
