"""A feed-forward editor learned from a generator: what a direction of its styles does, done to any picture at once.

Viazovetskyi, Ivashkin and Kashin, "StyleGAN2 distillation for feed-forward image manipulation", ECCV 2020,
arXiv:2003.03581. Directions without labels are principal components of styles: Harkonen et al., "GANSpace", NeurIPS
2020, arXiv:2004.02546. Deviations are listed in docs/systems/translation.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import Tensor

from reverie.core.batch import Batch
from reverie.core.card import Card, card_of
from reverie.core.errors import UsageError
from reverie.core.frozen import frozen
from reverie.core.noise import Noise
from reverie.core.options import SubRun
from reverie.core.verbs import Model
from reverie.models.gan.base import GAN
from reverie.models.teacher import borrowed
from reverie.models.translation import Pix2Pix
from reverie.nets.shapes import Sides
from reverie.optim.phase import Stage

_STYLES = 4096  # styles whose directions are looked at


class Editor(Pix2Pix):
    """Learns from pairs that a generator makes: a picture, and the same with its style moved along a direction.

    Args:
        classes: number of classes in the data.
        teacher: the run to learn from: stylegan2 or stylegan.
        direction: a principal component of its styles ("1" is the first), or two classes of a class-conditional one
            ("3-7": from class 3 to class 7).
        strength: how far to move: in standard deviations of the component, or in ways from class to class.
        more: as for ``Pix2Pix``.
    """

    teacher: GAN
    move: Tensor

    def __init__(
        self,
        shape: Sides,
        channels: int,
        classes: int = 0,
        teacher: Annotated[dict[str, Any] | str, SubRun()] = "",
        direction: str = "1",
        strength: float = 2.0,
        **more: Any,
    ):
        if more.get("task", "pairs") != "pairs":
            raise UsageError("An editor has its own pairs: leave --task out.")
        super().__init__(shape, channels, **more | {"source_channels": None})  # its pairs are the teacher's
        self.teacher = frozen(borrowed(teacher, self.shape, channels, "reverie distill RUN --direction 1", _lack))
        self.ends = _ends(direction, self.teacher)
        self.strength = strength
        self.register_buffer("move", torch.zeros(self.teacher.G.latent))

    @property
    def card(self) -> Card:
        return replace(super().card, columns={})

    # Learning

    def stages(self, lr: float = 3e-4, d_lr: float = 2e-4, beta: float = 0.5) -> list[Stage]:
        """As ``Pix2Pix``; the direction is found first, in the teacher's weights."""
        (stage,) = super().stages(lr, d_lr, beta)
        stage.prepare = self.find_direction
        return [stage]

    def find_direction(self, batches: Any, fresh: bool = True) -> None:
        """A function of the teacher's weights alone."""
        self.move.copy_(self.found())

    def found(self) -> Tensor:
        """The direction (width,), as long as one unit of strength."""
        noise = Noise.of_seeds(range(_STYLES), self.move.device)
        if len(self.ends) == 2:
            z = noise(self.teacher.G.latent)
            a, b = (self.teacher.G.mapping(z, torch.full((_STYLES,), end, device=z.device)) for end in self.ends)
            return (b - a).mean(0)
        w = self.teacher.latents(noise)
        _, spread, axes = torch.linalg.svd(w - w.mean(0), full_matrices=False)
        place = self.ends[0] - 1
        axis = axes[place] * axes[place][axes[place].abs().argmax()].sign()  # the same way round every time
        return axis * spread[place] / _STYLES**0.5

    @torch.no_grad()
    def pair(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """A made picture, and the same moved: of the batch only its noise is used."""
        rng, teacher = batch.rng, self.teacher
        z = rng(teacher.G.latent)
        label = torch.full((len(z),), self.ends[0], device=z.device) if len(self.ends) == 2 else None
        if label is None:
            label = teacher.G.any_label(rng, None)
        w = teacher.G.mapping(z, label)
        alike = Noise(rng.keys, rng.draw)
        plain, moved = (
            teacher.G.synthesis(teacher.G.for_layers(w + share * self.move), noise)
            for share, noise in ((0.0, rng), (self.strength, alike))
        )
        return plain.float().clamp(-1, 1), moved.float().clamp(-1, 1)

    # Verbs

    def given(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Pictures of the data; how they ought to look nobody knows."""
        return batch["x"], None


def _lack(teacher: Model) -> str:
    return "" if "w+" in card_of(teacher).latents else "no styles. Take one of stylegan2 or stylegan."


def _ends(direction: str, teacher: GAN) -> list[int]:
    """[component] or [class, class]. Raises UsageError for anything else."""
    parts = str(direction).split("-")
    limits = teacher.G.latent + 1 if len(parts) == 1 else teacher.classes
    if not all(part.isdecimal() for part in parts) or len(parts) > 2 or (len(parts) == 1 and int(parts[0]) < 1):
        raise UsageError(f"direction is a component ('1') or two classes ('3-7'), not {direction!r}.")
    if len(parts) == 2 and not teacher.classes:
        raise UsageError("This teacher was trained without classes: name a component of its styles, --direction 1.")
    if max(map(int, parts)) >= limits:
        raise UsageError(f"direction {direction!r} is beyond the {limits - (len(parts) == 1)} that there are.")
    return [int(part) for part in parts]
