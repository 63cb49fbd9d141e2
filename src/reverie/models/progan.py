"""Progressive growing: both players learn small pictures first, and larger ones are faded in level by level.

Karras et al., "Progressive growing of GANs for improved quality, stability, and variation", ICLR 2018,
arXiv:1710.10196. Deviations are listed in docs/systems/stylegan.md.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.batch import Batch
from reverie.core.card import Card
from reverie.core.errors import UsageError
from reverie.models.adversarial import Adversarial, Loss
from reverie.models.stylegan import power_of_two
from reverie.nets.adversarial import ConditionedGenerator, Judge
from reverie.nets.progressive import GrowingFeatures, GrowingGenerator, smaller
from reverie.optim.phase import Stage

_FADING = 0.5  # share of a level's training over which it is faded in


class Level(nn.Module):
    """A growing network held at one level: what the game sees."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net: Any = net
        self.level, self.share = 0, torch.ones(())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, self.level, self.share)


class ProGAN(Adversarial):
    """Training in stages of 4, 8, 16 ... pixels a side, each with twice the time of the one before.

    Args:
        latent: numbers in z, which is N(0, I).
        width: channels of the finest level; coarser ones have up to four times as many.
        more: as for ``Adversarial``.
    """

    reached: Tensor

    def __init__(
        self,
        size: int,
        channels: int,
        classes: int = 0,
        loss: Loss = "wasserstein",
        latent: int = 128,
        width: int = 32,
        **more: Any,
    ):
        power_of_two(size, 8)
        super().__init__(size, channels, classes, loss=loss, **more)
        if latent < 1 or width < 1:
            raise UsageError(f"latent and width must be at least 1, not {latent} and {width}.")
        self.latent, self.latent_shape = latent, (latent,)
        told = 32 if self.classes else 0
        self.grower = Level(GrowingGenerator(size, channels, latent + told, width))
        self.G = ConditionedGenerator(self.grower, self.classes, told)
        body = GrowingFeatures(size, channels * self.packing, width)
        self.shrinker = Level(body)
        self.D = Judge(self.shrinker, body.outputs, self.classes, packing=self.packing)
        self.register_buffer("reached", torch.zeros((), dtype=torch.int64))  # the level that pictures are drawn at

    @property
    def card(self) -> Card:
        # before the last level its images are too coarse for a probe of their classes
        grown = int(self.reached) == len(self.grower.net.pixels) - 1
        return replace(super().card, monitors=("gan", "classes") if grown else ("gan",))

    # Learning

    def stages(self, lr: float = 1e-3, d_lr: float = 0.0, beta: float = 0.0) -> list[Stage]:
        """See ``Adversarial.phases``: the same moves at every level, which has twice the time of the one before."""
        found = []
        for level in range(len(self.grower.net.pixels)):
            moves = super().phases(lr, d_lr, beta)
            for move in moves:
                move.loss = partial(self.at, level, move.loss)
            found.append(Stage(moves, 2**level))
        return found

    phases: Any = None

    def at(self, level: int, loss: Any, batch: Batch) -> dict[str, Tensor]:
        """A loss at a level, on pictures of its side."""
        self.hold(level, (batch.progress / _FADING).clamp(max=1) if level else 1.0)
        self.reached.fill_(level)
        return loss(batch | {"x": self.shrunk(batch["x"], level)})

    def shrunk(self, image: Tensor, level: int) -> Tensor:
        """Pictures of a level's side."""
        for _ in range(len(self.grower.net.pixels) - 1 - level):
            image = smaller(image)
        return image

    def checkup(self, seen: Batch, unseen: Batch) -> dict[str, float]:
        """See ``Adversarial.checkup``: at the level that training has reached."""
        level = int(self.reached)
        self.hold(level, 1.0)
        known, new = (part | {"x": self.shrunk(part["x"], level)} for part in (seen, unseen))
        return super().checkup(known, new)

    def hold(self, level: int, share: Tensor | float) -> None:
        for net in (self.grower, self.shrinker):
            net.level, net.share = level, torch.as_tensor(share)

    # Verbs

    def decode(self, latent: Tensor, label: Tensor | None = None, **condition: Any) -> Tensor:
        """z (B, latent) to pictures (B, C, H, W) of the level that training has reached, made larger where need be."""
        self.hold(int(self.reached), 1.0)
        return F.interpolate(super().decode(latent, label), size=(self.size, self.size), mode="nearest")
