"""Latent diffusion: a codec makes small codes of pictures, and the diffusion runs on the codes.

Rombach et al., "High-resolution image synthesis with latent diffusion models", CVPR 2022, arXiv:2112.10752.
On a VAE's code vectors it is a learned prior: Vahdat et al., "Score-based generative modeling in latent space",
NeurIPS 2021, arXiv:2106.05931, without the joint training. Deviations are listed in docs/systems/latent-diffusion.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from reverie import registry
from reverie.core.batch import Batch
from reverie.core.card import Card, Output, Space, card_of
from reverie.core.errors import UsageError
from reverie.core.frozen import frozen
from reverie.core.options import SubRun
from reverie.core.verbs import Model, verbs_of
from reverie.data.batches import Batches
from reverie.diffusion.schedules import Cosine, Flow, Schedule
from reverie.models.conditioning import Conditioner, Conditioning
from reverie.models.diffusion import Diffusion, level_widths
from reverie.nets.shapes import Shape, Sides, named, sides
from reverie.nets.unet import UNet
from reverie.optim.phase import Phase, Stage, adamw

_LOOKED_AT = 2048  # images whose codes decide mean and variance
_LEAST_VARIANCE = 1e-4  # of a latent before it is normalised: one that says nothing is not blown up


def latent_unet(shape: tuple[int, ...], width: int, depth: int, **told: int) -> UNet:
    """The U-Net for codes of a shape (C, h, w): levels down to 8 a side, attention on the coarsest."""
    widths = level_widths(shape[1:], width)
    return UNet(shape[0], tuple(widths), depth, attention=len(widths) - 1, fold=1, **told)


def maps_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of codes as maps: (D,) as (D, 1, 1)."""
    return shape if len(shape) == 3 else (*shape, 1, 1)


def borrowed(codec: Any, shape: Shape, channels: int) -> Model:
    """The codec of another run, its weights still to be filled in, frozen.

    Args:
        codec: {"name", "kwargs", "run"} of that run.
    Raises:
        UsageError: it is for pictures of another kind, or makes no codes that can be diffused.
    """
    if not isinstance(codec, dict):
        raise UsageError(f"codec is a trained run: reverie train latent-diffusion --codec {codec}, which looks it up.")
    who = f"The codec {codec.get('run') or codec['name']}"
    made = registry.build(codec["name"], **codec["kwargs"])
    card = card_of(made)
    if not {"encode", "decode"} <= set(verbs_of(made)) or not card.space or len(card.space.shape) not in (1, 3):
        raise UsageError(f"{who} makes no codes of pictures. Train one that does: reverie train autoencoder-kl.")
    wanted = Output("image", (shape[0], shape[1]), channels)
    if card.output != wanted:
        raise UsageError(
            f"{who} knows images of {card.output}, and these are {wanted}. Train on images of its size and kind, or a "
            f"codec for these: reverie train autoencoder-kl --size {named(shape)}."
        )
    return frozen(made)


class LatentDiffusion(Diffusion):
    """Diffusion over the codes of a codec, normalised to mean 0 and variance 1 a channel.

    Args:
        codec: encodes and decodes images.
        lent: whether it is another run's, and so stays as it is; else it is trained first.
        net, schedule, prediction, weighting, shape, channels, conditioner: as for ``Diffusion``.

    Attributes:
        latent_shape: of a code: (C, side, side), or (D,) of a codec whose codes are vectors.
        code_shape: the same as maps, (D, 1, 1) for vectors.
    """

    codec: Any
    mean: Tensor
    square: Tensor
    range = None
    elbo: Any = None  # a density of codes would be none of images
    log_prob: Any = None

    def __init__(
        self,
        codec: nn.Module,
        lent: bool,
        net: nn.Module,
        schedule: Schedule,
        prediction: str,
        weighting: str,
        shape: Shape,
        channels: int,
        conditioner: Conditioner,
    ):
        super().__init__(net, schedule, prediction, weighting, shape, channels, conditioner)
        self.codec, self.lent = codec, lent
        space: Any = card_of(codec).space
        self.latent_shape, self.code_shape = space.shape, maps_of(space.shape)
        self.register_buffer("mean", torch.zeros(self.code_shape[0]))
        self.register_buffer("square", torch.ones(self.code_shape[0]))

    @property
    def card(self) -> Card:
        own, codec, space = super().card, card_of(self.codec), Space(self.latent_shape, "model")
        return replace(
            own,
            latents={"z": replace(space, encode=codec.space.encode if codec.space else None)},
            likelihoods=(),  # a density of codes would be none of images
            weights=(*own.weights, *codec.weights),
            networks=(*own.networks, *(f"codec.{name}" for name in codec.networks)),
        )

    # Learning

    def stages(self, lr: float = 1e-3, weight_decay: float = 0.0, codec_lr: float = 2e-3) -> list[Stage]:
        """The codec first, unless it is another run's, then the diffusion.

        Args:
            lr: peak learning rate of the diffusion.
            weight_decay: AdamW's weight decay; biases are spared.
            codec_lr: peak learning rate of the codec, where it is trained here.
        """
        own = [*self.net.parameters(), *(self.text_encoder.parameters() if self.text_encoder is not None else ())]
        denoise = Phase("denoise", adamw(own, lr, weight_decay), self.loss)
        diffusion = Stage([denoise], name="diffusion", prepare=self.measure_codes)
        if self.lent:
            return [diffusion]
        (codec,) = self.codec.stages(codec_lr, weight_decay)
        return [replace(codec, name="codec", verbs=("encode", "decode")), diffusion]

    def measure_codes(self, batches: Batches, fresh: bool = True) -> None:
        """Mean and mean square of the codec's latents, a channel each, over the first images of the training split."""
        total, count = torch.zeros(2, len(self.mean), dtype=torch.float64, device=self.mean.device), 0
        for batch in batches.in_order(256):
            codes = self.raw(batch["x"]).double()
            total += torch.stack([codes.mean((2, 3)).sum(0), codes.square().mean((2, 3)).sum(0)])
            count += len(codes)
            if count >= _LOOKED_AT:
                break
        self.mean.copy_(total[0] / count)
        self.square.copy_(total[1] / count)

    @property
    def deviation(self) -> Tensor:
        """Standard deviation (C,) of the codec's latents."""
        return (self.square - self.mean.square()).clamp(min=_LEAST_VARIANCE).sqrt()

    @torch.no_grad()
    def raw(self, image: Tensor) -> Tensor:
        """The codec's own codes as maps (B, *code_shape), without gradient."""
        return self.codec.encode(image).reshape(-1, *self.code_shape)

    @torch.no_grad()
    def codes(self, batch: Batch) -> Tensor:
        """What is diffused: normalised codes (B, *code_shape)."""
        return (self.raw(batch["x"]) - self.mean[:, None, None]) / self.deviation[:, None, None]

    # Verbs

    def picture(self, code: Tensor) -> Tensor:
        """What a normalised code (B, *code_shape) looks like: (B, C, H, W)."""
        raw = code * self.deviation[:, None, None] + self.mean[:, None, None]
        return self.codec.decode(raw.reshape(-1, *self.latent_shape)).clamp(-1, 1)

    def encode(self, image: Tensor, **condition: Any) -> Tensor:
        """(B, C, H, W) to normalised codes (B, *latent_shape)."""
        return self.codes(Batch({"x": image})).reshape(-1, *self.latent_shape)

    def decode(self, latent: Tensor, **condition: Any) -> Tensor:
        """Normalised codes (B, *latent_shape) to pictures (B, C, H, W)."""
        return self.picture(latent.reshape(-1, *self.code_shape))


def latent_diffusion(
    shape: Sides,
    channels: int,
    classes: int = 0,
    codec: Annotated[dict[str, Any] | str, SubRun()] = "",
    latent: int = 4,
    factor: int = 4,
    codec_width: int = 64,
    schedule: Literal["flow", "cosine"] = "flow",
    width: int = 128,
    depth: int = 2,
    conditioning: Conditioning = Conditioning(),
) -> LatentDiffusion:
    """Diffusion over the codes of a codec, normalised to mean 0 and variance 1 a channel.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1 or 3.
        classes: number of classes in the data.
        codec: a run that encodes and decodes images of this size, such as an autoencoder-kl or a vae; it stays as it
            is. Where none is named, an autoencoder-kl is trained first, in the first half of training.
        latent: channels of that codec's latent maps.
        factor: pixels of a side that become one of its latents.
        codec_width: channels of its finest level.
        schedule: "flow" (straight lines, velocity) or "cosine" (variance-preserving, v).
        width: channels of the U-Net's finest level.
        depth: residual blocks a level, down and up.
    """
    conditioner, size = Conditioner(conditioning, classes), sides(shape)
    if schedule not in ("flow", "cosine"):
        raise UsageError(f"schedule is 'flow' or 'cosine', not {schedule!r}.")
    if codec:
        coder = borrowed(codec, size, channels)
    else:
        own: dict[str, Any] = {"latent": latent, "factor": factor, "width": codec_width, "depth": 1}
        coder = registry.build("autoencoder-kl", shape=size, channels=channels, **own)
    space: Any = card_of(coder).space
    net = latent_unet(maps_of(space.shape), width, depth, **conditioner.arguments)
    chain, prediction = (Flow(), "velocity") if schedule == "flow" else (Cosine(), "v")
    return LatentDiffusion(coder, bool(codec), net, chain, prediction, prediction, size, channels, conditioner)
