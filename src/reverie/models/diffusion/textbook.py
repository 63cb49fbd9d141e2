"""DDPM with the network of the paper, parameter for parameter the UNet2DModel of diffusers.

Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020, arXiv:2006.11239. The reference for the
faster networks of ``models.diffusion``; weights from diffusers are loaded into it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from reverie.core.annotations import Channels, Classes, Count, Positive, Range, Shape
from reverie.core.card import Output
from reverie.core.errors import UsageError, argument
from reverie.diffusion.schedules import Cosine, Linear
from reverie.models.diffusion.base import Diffusion
from reverie.models.diffusion.latent import adamw_of
from reverie.nets import shapes
from reverie.nets.textbook_unet import TextbookUNet
from reverie.probability.conditioning import Conditioner, Conditioning


def ddpm_textbook(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    schedule: Literal["linear", "cosine"] = "linear",
    timesteps: Annotated[int, Range(2, 100_000)] = 1000,
    betas: Annotated[tuple[float, float], Range(0, 1, open=True)] = (1e-4, 0.02),
    prediction: Literal["noise", "x0", "v"] = "noise",
    weighting: Literal["simple", "min-snr", "v", "x0"] = "simple",
    conditional: Literal["none", "label"] = "none",
    widths: Annotated[tuple[int, ...], Range(1)] = (64, 128, 128),
    depth: Count = 2,
    attention_levels: Annotated[tuple[int, ...], Range(0)] = (1,),
    mid_attention: bool = True,
    head_dim: Annotated[int, Range(0)] = 0,
    norm_groups: Count = 32,
    norm_eps: Positive = 1e-6,
    downsample_padding: Literal[0, 1] = 0,
    flip_sin_to_cos: bool = False,
    freq_shift: Literal[0, 1] = 1,
    scale_shift: bool = False,
) -> Diffusion:
    """A chain of T steps of noise, and the U-Net of the paper.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
        schedule: "linear" (beta) or "cosine".
        timesteps: T, the length of the chain in training.
        betas: first and last beta of the linear schedule.
        prediction: of the network: "noise", "x0" or "v".
        weighting: of the squared error: "simple" (of the noise), "min-snr", "v" or "x0".
        conditional: "none" or "label".
        widths: channels of each level, fine to coarse; the side halves from each to the next.
        depth: residual blocks a level on the way down; one more on the way up.
        attention_levels: the levels with attention, counted from 0 (the paper: where the side is 16).
        mid_attention: attention between the two blocks in the middle.
        head_dim: channels of an attention head; 0 is one head of all channels, as in the paper.
        norm_groups: of the group normalisation.
        norm_eps: of the group normalisation.
        downsample_padding: of the convolutions down: 1, or 0 for right and below only, as in the paper's code.
        flip_sin_to_cos: the timestep's embedding is cosines, then sines.
        freq_shift: 1 where the lowest frequency of that embedding is 1e-4, as in the paper's code, or 0.
        scale_shift: the time scales and shifts, where the paper has it shift only.
    """
    size, levels = shapes.sides(shape), len(widths)
    if betas[0] > betas[1]:
        raise UsageError(f"{argument('betas')} must not fall, and {tuple(betas)} do.")
    if not widths or any(width % norm_groups for width in widths):
        option = argument("norm_groups", norm_groups)
        raise UsageError(f"{option} must divide every width; it does not divide {tuple(widths)}.")
    if not shapes.divides(2 ** (levels - 1), size):
        raise UsageError(
            f"{levels} levels halve {levels - 1} times, which {shapes.named(size)} does not allow. "
            f"Name fewer {argument('widths')}, or another size."
        )
    if not set(attention_levels) <= set(range(levels)):
        raise UsageError(
            f"{argument('attention_levels')} must be from 0 to {levels - 1}, not {tuple(attention_levels)}."
        )
    if head_dim > min(widths):
        raise UsageError(f"{argument('head_dim')} must be at most the least width, {min(widths)}, not {head_dim}.")
    chain = Linear(timesteps, (betas[0], betas[1])) if schedule == "linear" else Cosine(timesteps)
    conditioner = Conditioner(Conditioning(conditional), classes)
    net = TextbookUNet(
        channels,
        tuple(widths),
        depth,
        tuple(attention_levels),
        mid_attention,
        head_dim,
        norm_groups,
        norm_eps,
        downsample_padding,
        flip_sin_to_cos,
        freq_shift,
        scale_shift,
        conditioner.classes,
    )
    output = Output("image", size, channels)
    return Diffusion(net, chain, prediction, weighting, output, conditioner, optimizer=adamw_of)
