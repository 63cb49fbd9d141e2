"""The learned inverse of a flow: a feed-forward network from z to the image, in one evaluation.

Lu et al., "Bidirectional normalizing flow: from data to noise and back", arXiv:2512.10953, in small. The flow itself
pairs every image with its z, so the pairs need no sampling. Deviations are listed in docs/systems/distillation.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.adversarial.losses import LossName
from reverie.core import registry
from reverie.core.annotations import Channels, Classes, Count, Fraction, Shape, SubRun, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Output
from reverie.core.errors import UsageError, argument
from reverie.core.noise import Noise
from reverie.core.submodel import frozen, submodel
from reverie.core.verbs import Model
from reverie.models.flows.base import NormalizingFlow
from reverie.models.flows.tarflow import TarFlow
from reverie.models.gans.base import GAN, Adversarial
from reverie.models.gans.plain import Networks, r3gan
from reverie.nets.shapes import sides
from reverie.optim.phase import Metrics, Outputs, Phase, Stage, adamw


class LearnedInverse(nn.Module):
    """A generator that learns where a flow's z come from, and against a discriminator what images look like.

    Args:
        teacher: the flow, frozen.
        gan: its generator is the student, of z as large as the flow's.
        mse_weight: weight of the squared error of images that the generator should return from their z.
        adversarial_weight: weight of the generator's loss against the discriminator, on new z; 0: none.
        paired: share of each batch that is encoded to learn from.
        decoded: share of each batch whose z are new, and whose images the flow decodes.
    """

    def __init__(
        self,
        teacher: NormalizingFlow | TarFlow,
        gan: GAN,
        mse_weight: float = 10.0,
        adversarial_weight: float = 1.0,
        paired: float = 0.25,
        decoded: float = 0.0,
    ):
        super().__init__()
        self.teacher, self.gan = frozen(teacher), gan
        self.mse_weight, self.adversarial_weight = mse_weight, adversarial_weight
        self.paired, self.decoded = paired, decoded
        if not adversarial_weight:
            gan.discriminator.requires_grad_(False)

    @property
    def card(self) -> Card:
        return replace(self.gan.card, networks=("gan.generator", "gan.discriminator"))

    @property
    def flow(self) -> NormalizingFlow:
        """The teacher's transform, its noise and its density."""
        return self.teacher.flow if isinstance(self.teacher, TarFlow) else self.teacher

    @property
    def share(self) -> float:
        """Of each batch, pairs."""
        return min(1.0, self.paired + self.decoded)

    # Training

    def stages(self, lr: Weight = 2e-3, d_lr: Weight = 0.0) -> list[Stage]:
        """D, then the generator, which learns from pairs and from D.

        Args:
            lr: peak learning rate of the generator.
            d_lr: that of D; 0 is the same.
        """
        if not self.adversarial_weight:
            optimizer = adamw(self.gan.generator.parameters(), lr)
            return [Stage([Phase("G", optimizer, self.g_loss)], forward=self.generate)]
        (stage,) = self.gan.stages(lr, d_lr)
        *discriminator, generator = stage.phases
        return [replace(stage, phases=[*discriminator, replace(generator, loss=self.g_loss)], forward=self.generate)]

    def generate(self, batch: Batch) -> Outputs:
        """Fakes of new z for the discriminator, and the generator's images of z whose images are known."""
        generator = self.gan.generator
        label = generator.random_label(batch.rng, batch.get("label"))
        z, targets, chosen = self.pairs(batch, label)
        images = generator(z, None if label is None else label[chosen]).float()
        outputs = {"targets": targets, "images": images}
        if label is not None:
            outputs["label"] = label
        if self.adversarial_weight:
            outputs["fakes"] = self.gan.generate(batch.rng, label)
        return outputs

    @torch.no_grad()
    def pairs(self, batch: Batch, label: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """z (P, D), the images (P, C, H, W) that they stand for, and which rows (B,) of the batch these are.

        In a share ``paired`` of the rows z is that of the image with the noise of the flow's training; the image is
        without it. In a share ``decoded`` z is new, and the image what the teacher makes of it.
        """
        share = self.share
        chosen = _spread(batch.row, share)
        new = _spread((batch.row[chosen] * share).ceil(), self.decoded / share) if share else chosen[chosen]
        x, rng, flow = batch["x"][chosen], batch.rng[chosen], self.flow
        label = None if label is None else label[chosen]
        noisy, _ = flow.dequantiser(x, label, rng)
        z, targets = flow.transform(noisy, label)[0], x
        if self.decoded and new.any():
            z[new] = flow.latent(rng[new])
            targets = targets.clone()
            with torch.autocast(x.device.type, enabled=False):
                targets[new] = self.decoded_images(z[new], None if label is None else label[new])
        return z, targets, chosen

    def decoded_images(self, z: Tensor, label: Tensor | None) -> Tensor:
        """The teacher's images (B, C, H, W) of z, without the noise of its training."""
        x = self.flow.transform.inverse(z, label)  # type: ignore[operator]
        return (self.teacher.denoised(x, label) if isinstance(self.teacher, TarFlow) else x).clamp(-1, 1)

    def g_loss(self, batch: Batch, outputs: Outputs) -> Metrics:
        """mse_weight |G(z) - x|^2 of pairs + adversarial_weight times the loss against D of new z."""
        error = F.mse_loss(outputs["images"], outputs["targets"], reduction="none").sum() / batch["x"][0].numel()
        mse = error / max(batch.rows * self.share, 1.0)  # by no part's own number of pairs, so that parts add up
        if not self.adversarial_weight:
            return {"loss": self.mse_weight * mse, "mse": mse}
        metrics = self.gan.g_loss(batch, outputs)
        adversarial = metrics.pop("loss")
        loss = self.mse_weight * mse + self.adversarial_weight * adversarial
        return {"loss": loss, "mse": mse, "adversarial": adversarial, **metrics}

    # Verbs

    def sample(self, noise: Noise, label: Tensor | None = None, temperature: Weight = 1.0) -> Tensor:
        """Images (B, C, H, W) in one evaluation; no label is a random one.

        Args:
            temperature: standard deviation of z; below 1 images are more typical and less varied, at 0 there is one.
        """
        return self.gan.sample(noise, label, temperature)

    def latent(self, noise: Noise, label: Tensor | None = None) -> Tensor:
        """z (B, D) of N(0, I): those of the teacher's ``latent``."""
        return self.gan.latent(noise)

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, D) to images (B, C, H, W); without a label, of a conditional teacher, those of class 0."""
        return self.gan.decode(latent, label)

    def features(self, image: Tensor) -> Tensor:
        """The discriminator's logits (B,)."""
        return self.gan.features(image)


def learned_inverse(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    teacher: Annotated[dict[str, Any] | str, SubRun()] = "",
    width: Count = 32,
    depth: Count = 1,
    mse_weight: Weight = 10.0,
    adversarial_weight: Weight = 1.0,
    paired: Fraction = 0.25,
    decoded: Fraction = 0.0,
    loss: LossName = "r3",
) -> LearnedInverse:
    """A network that samples in one evaluation where the inverse of a flow takes many.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
        teacher: the run to learn from: any normalizing flow.
        width: channels of the networks' finest level.
        depth: residual blocks a level.
        mse_weight: weight of the squared error of images that the network should return from the flow's z.
        adversarial_weight: weight of the loss against a discriminator, which keeps the images sharp; 0: none.
        paired: share of each batch that the flow encodes, in one pass, to learn from; all of it is for the
            discriminator.
        decoded: share of each batch whose z are new, and whose images the flow decodes, also to learn from.
        loss: of generator and discriminator, as of a GAN.
    """
    size = sides(shape)
    model: Any = submodel(teacher, "teacher", Output("image", size, channels), "reverie distill RUN", _lack)
    if model.classes not in (0, classes):
        raise UsageError(f"The teacher knows {model.classes} classes, and these images have {classes}: take its data.")
    if mse_weight and not paired + decoded:
        raise UsageError(f"{argument('paired')} and {argument('decoded')} cannot both be 0: there would be no pairs.")
    if mse_weight == adversarial_weight == 0:
        raise UsageError("mse_weight and adversarial_weight cannot both be 0: nothing would be learned.")
    flow = model.flow if isinstance(model, TarFlow) else model
    networks = Networks(latent=flow.dimensions, width=width, conditional="label" if model.classes else "none")
    gan = r3gan(shape, channels, classes, depth, networks, Adversarial(loss, penalty_every=4))
    return LearnedInverse(model, gan, mse_weight, adversarial_weight, paired, decoded)


def _lack(teacher: Model) -> str:
    if isinstance(teacher, NormalizingFlow | TarFlow):
        return ""
    able = registry.where(lambda entry: issubclass(entry.kind(), NormalizingFlow | TarFlow))
    return f"no exact z of dequantised images. Take one of: {', '.join(able)}."


def _spread(row: Tensor, share: float) -> Tensor:
    """(B,) to bool (B,): a share of the rows, evenly spread."""
    return ((row + 1) * share).ceil() > (row * share).ceil()
