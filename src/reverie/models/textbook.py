"""DDPM with the network of the paper, parameter for parameter the UNet2DModel of diffusers.

Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020, arXiv:2006.11239. The yardstick for the
faster networks of ``models.diffusion``, and what weights from diffusers are loaded into.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from reverie.core.errors import UsageError
from reverie.diffusion.schedules import Cosine, Linear
from reverie.models.conditioning import Conditioner, Conditioning
from reverie.models.diffusion import Diffusion
from reverie.nets.shapes import Sides, divides, named, sides
from reverie.nets.textbook_unet import TextbookUNet
from reverie.optim.phase import adamw


def ddpm_textbook(
    shape: Sides,
    channels: int,
    classes: int = 0,
    schedule: Literal["linear", "cosine"] = "linear",
    timesteps: int = 1000,
    betas: tuple[float, float] = (1e-4, 0.02),
    prediction: Literal["noise", "x0", "v"] = "noise",
    weighting: Literal["simple", "min-snr", "v", "x0"] = "simple",
    conditional: Literal["none", "label"] = "none",
    widths: tuple[int, ...] = (64, 128, 128),
    depth: int = 2,
    attention: tuple[int, ...] = (1,),
    middle_attention: bool = True,
    head: int = 0,
    groups: int = 32,
    epsilon: float = 1e-6,
    padding: int = 0,
    cosines_first: bool = False,
    frequency_shift: int = 1,
    scale_shift: bool = False,
) -> Diffusion:
    """A chain of T steps of noise, and the U-Net of the paper.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1 or 3.
        classes: number of classes in the data.
        schedule: "linear" (beta) or "cosine".
        timesteps: T, the length of the chain in training.
        betas: first and last beta of the linear schedule.
        prediction: what the network says: "noise", "x0" or "v".
        weighting: of the squared error: "simple" (of the noise), "min-snr", "v" or "x0".
        conditional: "none" or "label".
        widths: channels of each level, fine to coarse; the side halves from each to the next.
        depth: residual blocks a level on the way down; one more on the way up.
        attention: the levels with attention, counted from 0 (the paper: where the side is 16).
        middle_attention: attention between the two blocks in the middle.
        head: channels of an attention head; 0 is one head of all channels, as in the paper.
        groups: of the group normalisation.
        epsilon: of the group normalisation.
        padding: of the convolutions down: 1, or 0 for right and below only, as in the paper's code.
        cosines_first: the timestep's code is cosines, then sines.
        frequency_shift: 1 where the lowest frequency of that code is 1e-4, as in the paper's code, or 0.
        scale_shift: the time scales and shifts, where the paper has it shift only.
    """
    images = sides(shape)
    if conditional == "text":
        raise UsageError("This network reads no captions: --conditional none or label, or `reverie train ddpm`.")
    if schedule not in ("linear", "cosine") or timesteps < 2 or not 0 < betas[0] <= betas[1] < 1:
        raise UsageError(
            "schedule is 'linear' or 'cosine' over at least 2 timesteps, with betas between 0 and 1 that do not "
            f"fall, not {schedule!r}, {timesteps}, {tuple(betas)}."
        )
    if not widths or any(wide % groups for wide in widths):
        raise UsageError(f"groups must divide every width; {groups} does not divide {tuple(widths)}.")
    if not divides(2 ** (len(widths) - 1), images):
        raise UsageError(
            f"{len(widths)} levels halve {len(widths) - 1} times, which {named(images)} does not allow. "
            "Name fewer --widths, or another --size."
        )
    if depth < 1 or not 0 <= head <= min(widths) or not set(attention) <= set(range(len(widths))):
        raise UsageError(
            f"depth is at least 1, head from 0 to the least width, attention names levels from 0 to "
            f"{len(widths) - 1}, not {depth}, {head}, {tuple(attention)}."
        )
    chain = Linear(timesteps, (betas[0], betas[1])) if schedule == "linear" else Cosine(timesteps)
    conditioner = Conditioner(Conditioning(conditional), classes)
    net = TextbookUNet(
        channels,
        tuple(widths),
        depth,
        tuple(attention),
        middle_attention,
        head,
        groups,
        epsilon,
        padding,
        cosines_first,
        frequency_shift,
        scale_shift,
        conditioner.classes,
    )
    return Diffusion(net, chain, prediction, weighting, images, channels, conditioner, adamw_of)


def adamw_of(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW for all of a model."""
    return adamw(model.parameters(), lr, weight_decay)
