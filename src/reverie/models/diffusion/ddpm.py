"""DDPM: a Markov chain of T noising steps, reversed.

Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020, arXiv:2006.11239.
Cosine schedule: Nichol and Dhariwal, arXiv:2102.09672.
"""

from __future__ import annotations

from typing import Annotated, Literal

from reverie.core.annotations import Channels, Classes, Range, Shape
from reverie.diffusion.schedules import Cosine, Linear
from reverie.models.diffusion.base import Diffusion
from reverie.models.diffusion.networks import Network, diffusion_of_images
from reverie.probability.conditioning import Conditioning


def ddpm(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    schedule: Literal["cosine", "linear"] = "cosine",
    timesteps: Annotated[int, Range(2, 100_000)] = 1000,
    prediction: Literal["noise", "x0", "v"] = "noise",
    weighting: Literal["simple", "min-snr", "v", "x0"] = "simple",
    network: Network = Network(),
    conditioning: Conditioning = Conditioning(),
) -> Diffusion:
    """A chain of T steps of noise, and a U-Net that predicts the noise that was added.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
        schedule: "cosine" or "linear" (beta).
        timesteps: T, the length of the chain in training.
        prediction: of the network: "noise", "x0" or "v".
        weighting: of the squared error: "simple" (of the noise), "min-snr", "v" or "x0".
    """
    chain = Cosine(timesteps) if schedule == "cosine" else Linear(timesteps)
    return diffusion_of_images(chain, prediction, weighting, shape, channels, classes, network, conditioning)
