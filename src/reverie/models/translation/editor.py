"""A feed-forward editor learned from a generator: the effect of a direction of its styles, on any image in one pass.

Viazovetskyi, Ivashkin and Kashin, "StyleGAN2 distillation for feed-forward image manipulation", ECCV 2020,
arXiv:2003.03581. Directions without labels are principal components of styles: Harkonen et al., "GANSpace", NeurIPS
2020, arXiv:2004.02546. Deviations are listed in docs/systems/translation.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from reverie.core.annotations import Channels, Classes, Count, Fraction, Range, Shape, SubRun, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Output, card_of
from reverie.core.errors import UsageError, argument
from reverie.core.noise import Noise
from reverie.core.submodel import frozen, submodel
from reverie.core.verbs import Model
from reverie.models.gans.base import GAN
from reverie.models.translation.pix2pix import PatchLoss, Translator, pix2pix
from reverie.nets.shapes import sides
from reverie.optim.phase import Outputs, Stage

_STYLES = 4096  # styles whose directions are computed


class Editor(nn.Module):
    """Learns from pairs that a generator makes: an image, and the same with its style moved along a direction.

    Args:
        translator: learns from the pairs.
        teacher: a style-based GAN, frozen.
        direction: [component], counted from 1, or [class, class].
        strength: how far to move, in standard deviations of the component or in ways from class to class.
    """

    teacher: GAN
    direction: Tensor

    def __init__(self, translator: Translator, teacher: GAN, direction: list[int], strength: float):
        super().__init__()
        self.translator, self.teacher = translator, teacher
        self.ends, self.strength = direction, strength
        self.register_buffer("direction", torch.zeros(teacher.generator.latent_size))

    @property
    def card(self) -> Card:
        networks = ("translator.generator", "translator.discriminator")
        return replace(self.translator.card, columns={}, networks=networks)

    # Training

    def stages(self, lr: Weight = 3e-4, d_lr: Weight = 2e-4, beta1: Fraction = 0.5) -> list[Stage]:
        """D, then G, of the teacher's pairs; the direction is computed first, from the teacher's weights.

        Args:
            lr: peak learning rate of G.
            d_lr: that of D.
            beta1: Adam's first moment.
        """
        (stage,) = self.translator.stages(lr, d_lr, beta1)
        return [replace(stage, prepare=self.compute_direction, forward=self.generate)]

    def compute_direction(self, batches: Any, fresh: bool = True) -> None:
        """The direction (latent,), as long as one unit of strength: a function of the teacher's weights alone."""
        generator, noise = self.teacher.generator, Noise.of_seeds(range(_STYLES), self.direction.device)
        if len(self.ends) == 2:
            z = noise(generator.latent_size)
            a, b = (generator.mapping(z, torch.full((_STYLES,), end, device=z.device)) for end in self.ends)
            self.direction.copy_((b - a).mean(0))
            return
        w = self.teacher.latent(noise)
        _, spread, axes = torch.linalg.svd(w - w.mean(0), full_matrices=False)
        component = self.ends[0] - 1
        axis = axes[component] * axes[component][axes[component].abs().argmax()].sign()  # the same sign every time
        self.direction.copy_(axis * spread[component] / _STYLES**0.5)

    def generate(self, batch: Batch) -> Outputs:
        """A pair of the teacher's, and the translation of its source."""
        return self.translator.translated(*self.pair(batch))

    @torch.no_grad()
    def pair(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """A generated image, and the same moved: of the batch only its noise is used."""
        rng, generator = batch.rng, self.teacher.generator
        z = rng(generator.latent_size)
        label = torch.full((len(z),), self.ends[0], device=z.device) if len(self.ends) == 2 else None
        if label is None:
            label = generator.random_label(rng, None)
        w = generator.mapping(z, label)
        same_noise = Noise(rng.keys, rng.draw)
        source, target = (
            generator.synthesis(generator.for_layers(w + distance * self.direction), noise)
            for distance, noise in ((0.0, rng), (self.strength, same_noise))
        )
        return source.float().clamp(-1, 1), target.float().clamp(-1, 1)

    # Verbs

    def translation_pair(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Images of the data; no truth is known for them."""
        return batch["x"], None

    def domains(self, batch: Batch) -> tuple[Tensor, Tensor, bool]:
        """Of a batch's noise generated images, the same moved, and that they are pairs."""
        return *self.pair(batch), True

    def features(self, image: Tensor) -> Tensor:
        """The edited images (B, C, H, W)."""
        return self.translator.features(image)

    def translate(self, source: Tensor, noise: Noise | None = None, **condition: Any) -> Tensor:
        """Images (B, C, H, W), edited: the same shape."""
        return self.translator.translate(source)


def editor(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    teacher: Annotated[dict[str, Any] | str, SubRun()] = "",
    direction: str = "1",
    strength: float = 2.0,
    loss: PatchLoss = "non-saturating",
    l1_weight: Weight = 100.0,
    width: Count = 64,
    depth: Annotated[int, Range(0)] = 2,
) -> Editor:
    """Learns from pairs that a generator makes: an image, and the same with its style moved along a direction.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
        teacher: the run to learn from: stylegan2 or stylegan.
        direction: a principal component of its styles ("1" is the first), or two classes of a class-conditional one
            ("3-7": from class 3 to class 7).
        strength: how far to move: in standard deviations of the component, or in ways from class to class.
        loss: of D and G: "non-saturating", "least-squares", "hinge" or "minimax".
        l1_weight: weight of |B - G(A)|.
        width: channels of the U-Net's finest level.
        depth: residual blocks a level.
    """
    output = Output("image", sides(shape), channels)
    model: Any = frozen(submodel(teacher, "teacher", output, "reverie distill RUN --direction 1", _lack))
    ends = _ends(direction, model)
    translator = pix2pix(shape, channels, loss=loss, l1_weight=l1_weight, width=width, depth=depth)
    return Editor(translator, model, ends, strength)


def _lack(teacher: Model) -> str:
    return "" if "w+" in card_of(teacher).latents else "no styles. Take one of stylegan2 or stylegan."


def _ends(direction: str, teacher: GAN) -> list[int]:
    """[component] or [class, class]. Raises UsageError for anything else."""
    parts, name = str(direction).split("-"), argument("direction")
    limit = teacher.generator.latent_size if len(parts) == 1 else teacher.classes - 1
    if not all(part.isdecimal() for part in parts) or len(parts) > 2 or (len(parts) == 1 and int(parts[0]) < 1):
        raise UsageError(f"{name} is a component ('1') or two classes ('3-7'), not {direction!r}.")
    if len(parts) == 2 and not teacher.classes:
        raise UsageError(f"This teacher has no classes: name a component of its styles, {argument('direction', '1')}.")
    if max(map(int, parts)) > limit:
        raise UsageError(f"{name} {direction!r} is beyond the last, {limit}.")
    return [int(part) for part in parts]
