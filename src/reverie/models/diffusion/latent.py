"""Latent diffusion: a codec maps images to small latents, and the diffusion runs on those.

Rombach et al., "High-resolution image synthesis with latent diffusion models", CVPR 2022, arXiv:2112.10752.
On a VAE's latent vectors it is a learned prior: Vahdat et al., "Score-based generative modeling in latent space",
NeurIPS 2021, arXiv:2106.05931, without the joint training. Deviations are listed in docs/systems/latent-diffusion.md.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from torch import nn

from reverie.core.annotations import Channels, Classes, Count, Range, Shape, SubRun, Weight
from reverie.core.card import Output, card_of
from reverie.core.registry import build
from reverie.core.submodel import frozen, submodel
from reverie.core.verbs import Model, verbs_of
from reverie.diffusion.schedules import Cosine, RectifiedFlow
from reverie.models.diffusion.base import Diffusion
from reverie.models.diffusion.codec import LatentCodec
from reverie.models.diffusion.networks import level_widths
from reverie.nets.shapes import sides
from reverie.nets.unet import UNet
from reverie.optim.phase import adamw
from reverie.probability.conditioning import Conditioner, Conditioning


def latent_unet(shape: tuple[int, ...], width: int, depth: int, **kwargs: int) -> UNet:
    """The U-Net for latents of a shape (C, h, w): levels down to 8 a side, attention on the coarsest."""
    widths = level_widths(shape[1:], width)
    return UNet(shape[0], tuple(widths), depth, attention=len(widths) - 1, patch_size=1, **kwargs)


def _lack(model: Model) -> str:
    space = card_of(model).space
    encodes = {"encode", "decode"} <= set(verbs_of(model)) and space and space.encode in ("exact", "mean")
    if encodes and space and len(space.shape) in (1, 3):
        return ""
    return "no latents that an encoder makes. Train one that has: reverie train autoencoder-kl."


def adamw_of(modules: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW for all of some modules."""
    return adamw(modules.parameters(), lr, weight_decay)


def latent_diffusion(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    codec: Annotated[dict[str, Any] | str, SubRun()] = "",
    latent: Count = 4,
    factor: Literal[2, 4, 8, 16] = 4,
    codec_width: Count = 64,
    codec_lr: Weight = 2e-3,
    schedule: Literal["flow", "cosine"] = "flow",
    width: Count = 128,
    depth: Annotated[int, Range(0)] = 2,
    conditioning: Conditioning = Conditioning(),
) -> Diffusion:
    """Diffusion over the latents of a codec, normalised to mean 0 and variance 1 a channel.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
        codec: a run that encodes and decodes images of this size, such as an autoencoder-kl or a vae; it stays as it
            is. By default an autoencoder-kl is trained first, in the first half of training.
        latent: channels of that codec's latent maps.
        factor: pixels of a side that become one of its latents.
        codec_width: channels of its finest level.
        codec_lr: its peak learning rate.
        schedule: "flow" (straight lines, velocity) or "cosine" (variance-preserving, v).
        width: channels of the U-Net's finest level.
        depth: residual blocks a level, down and up.
    """
    size, conditioner = sides(shape), Conditioner(conditioning, classes)
    output = Output("image", size, channels)
    if codec:
        example = "reverie train autoencoder-kl, then reverie train latent-diffusion --codec RUN"
        coder = LatentCodec(frozen(submodel(codec, "codec", output, example, _lack)), True)
    else:
        options: dict[str, Any] = {"latent": latent, "factor": factor, "width": codec_width, "depth": 1}
        coder = LatentCodec(build("autoencoder-kl", shape=size, channels=channels, **options), False, codec_lr)
    net = latent_unet(coder.map_shape, width, depth, **conditioner.net_kwargs)
    chain, prediction = (RectifiedFlow(), "velocity") if schedule == "flow" else (Cosine(), "v")
    return Diffusion(net, chain, prediction, prediction, output, conditioner, coder, adamw_of)
