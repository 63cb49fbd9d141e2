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
from torch import Tensor

from reverie.core.batch import Batch
from reverie.core.card import Card
from reverie.core.errors import UsageError
from reverie.models.adversarial import Adversarial, Loss
from reverie.models.stylegan import DEVIATION, power_of_two
from reverie.nets.adversarial import ConditionedGenerator, Judge
from reverie.nets.progressive import GrowingFeatures, GrowingGenerator, smaller
from reverie.nets.shapes import Sides, sides
from reverie.optim.phase import Outputs, Stage

_FADING = 0.5  # share of a level's training over which it is faded in


class ProGAN(Adversarial):
    """Training in stages of 4, 8, 16 ... pixels a side, each with twice the time of the one before.

    Args:
        latent: numbers in z, which is N(0, I).
        width: channels of the finest level; coarser ones have up to four times as many.
        more: as for ``Adversarial``.
    """

    reached: Tensor
    transient = ("reached",)

    def __init__(
        self,
        shape: Sides,
        channels: int,
        classes: int = 0,
        loss: Loss = "wasserstein",
        latent: int = 128,
        width: int = 32,
        **more: Any,
    ):
        size = power_of_two(sides(shape), 8)
        super().__init__(shape, channels, classes, loss=loss, **more)
        if latent < 1 or width < 1:
            raise UsageError(f"latent and width must be at least 1, not {latent} and {width}.")
        self.latent, self.latent_shape = latent, (latent,)
        told = 32 if self.classes else 0
        grower = GrowingGenerator(size, channels, latent + told, width)
        self.G = ConditionedGenerator(grower, self.classes, told)
        body = GrowingFeatures(size, channels * self.packing, width)
        self.D = Judge(body, body.outputs, self.classes, packing=self.packing, grouped=True)
        self.levels = len(grower.pixels)
        self.register_buffer("reached", torch.zeros((), dtype=torch.int64))  # the level that pictures are drawn at

    @property
    def card(self) -> Card:
        # before the last level its images are too coarse for a probe of their classes
        grown = int(self.reached) == self.levels - 1
        return replace(super().card, monitors=("gan", "classes") if grown else ("gan",))

    # Learning

    def stages(self, lr: float = 1e-3, d_lr: float = 0.0, beta: float = 0.0) -> list[Stage]:
        """See ``Adversarial.stages``: the same phases at every level, which has twice the time of the one before."""
        stages = []
        for level in range(self.levels):
            (stage,) = super().stages(lr, d_lr, beta)
            for phase in stage.phases:
                phase.loss = partial(self.at, level, phase.loss)
            stage.forward = partial(self.at, level, self.generate)
            stage.prepare, stage.share = partial(self.reach, level), 2.0**level
            stage.group = DEVIATION * self.packing
            stages.append(stage)
        return stages

    def reach(self, level: int, batches: Any, fresh: bool = True) -> None:
        """From now on images are generated at this level."""
        self.reached.fill_(level)

    def at(self, level: int, call: Any, batch: Batch, *outputs: Outputs) -> Any:
        """A loss, or ``generate``, at a level that is being faded in, on images of its side."""
        fade = (batch.progress / _FADING).clamp(max=1) if level else 1.0
        return call(batch | {"x": self.shrunk(batch["x"], level)}, *outputs, level=(level, fade))

    def shrunk(self, image: Tensor, level: int) -> Tensor:
        """Pictures of a level's side."""
        for _ in range(self.levels - 1 - level):
            image = smaller(image)
        return image

    def checkup(self, seen: Batch, unseen: Batch) -> dict[str, float]:
        """See ``Adversarial.checkup``: at the level that training has reached."""
        level = int(self.reached)
        known, new = (part | {"x": self.shrunk(part["x"], level)} for part in (seen, unseen))
        return self.generalisation(known, new, (level, 1.0))

    # Verbs

    def decode(self, latent: Tensor, label: Tensor | None = None, **condition: Any) -> Tensor:
        """z (B, latent) to pictures (B, C, H, W) of the level that training has reached, made larger where need be."""
        if self.classes and label is None:
            label = torch.zeros(len(latent), dtype=torch.int64, device=latent.device)
        image = self.G(latent, label, int(self.reached), 1.0).clamp(-1, 1)
        return F.interpolate(image, size=self.shape, mode="nearest")
