"""Flow matching: straight lines from images to noise.

Lipman et al., ICLR 2023, arXiv:2210.02747; Liu et al., "Rectified flow", ICLR 2023, arXiv:2209.03003. Times in training
are logit-normal: Esser et al., arXiv:2403.03206.
"""

from __future__ import annotations

from reverie.core.annotations import Channels, Classes, Shape, Weight
from reverie.diffusion.schedules import RectifiedFlow
from reverie.models.diffusion.base import Diffusion
from reverie.models.diffusion.networks import Network, diffusion_of_images
from reverie.probability.conditioning import Conditioning


def flow_matching(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    logit_mean: float = 0.0,
    logit_std: Weight = 1.0,
    network: Network = Network(),
    conditioning: Conditioning = Conditioning(),
) -> Diffusion:
    """Straight lines from images to noise, and a network that predicts their velocity.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
        logit_mean: mean of the logit of t in training; t = 1 is noise.
        logit_std: its standard deviation; 0 draws t evenly.
    """
    schedule = RectifiedFlow(logit_mean, logit_std)
    return diffusion_of_images(schedule, "velocity", "velocity", shape, channels, classes, network, conditioning)
