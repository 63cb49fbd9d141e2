"""EDM: a preconditioned network under noise of standard deviation 0.002 to 80.

Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS 2022, arXiv:2206.00364.
"""

from __future__ import annotations

from reverie.core.annotations import Channels, Classes, Positive, Shape
from reverie.diffusion.schedules import Karras
from reverie.models.diffusion.base import Diffusion
from reverie.models.diffusion.networks import Network, diffusion_of_images
from reverie.probability.conditioning import Conditioning


def edm(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    p_mean: float = -1.2,
    p_std: Positive = 1.2,
    network: Network = Network(),
    conditioning: Conditioning = Conditioning(),
) -> Diffusion:
    """Images under noise of standard deviation 0.002 to 80, and a preconditioned network.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
        p_mean: mean of log sigma in training.
        p_std: standard deviation of log sigma in training.
    """
    schedule = Karras(mean=p_mean, std=p_std)
    return diffusion_of_images(schedule, "edm", "edm", shape, channels, classes, network, conditioning)
