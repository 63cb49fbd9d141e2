"""The network of an image model trained with reverie, as a diffusers model. Needs only torch and diffusers."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput

from reverie.nets.unet import UNet


class ReverieUNet(ModelMixin, ConfigMixin):
    """Another network with the interface of diffusers' UNet2DModel.

    Args:
        sample_size: side of the images.
        in_channels, out_channels: of the images.
        arguments: of the network.
        num_class_embeds: number of classes plus 1, the last for any class; None: no classes.
        time_scale: factor on the scheduler's timesteps.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int,
        in_channels: int,
        out_channels: int,
        arguments: dict[str, Any],
        num_class_embeds: int | None = None,
        time_scale: float = 1.0,
    ):
        super().__init__()
        self.net = UNet(**arguments)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        class_labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[torch.Tensor]:
        """The network's output for ``sample`` (B, C, H, W) at a timestep, or at a timestep per sample."""
        times = torch.as_tensor(timestep, dtype=torch.float32, device=sample.device).expand(len(sample))
        output = self.net(sample, times * self.config.time_scale, class_labels)
        return UNet2DOutput(output) if return_dict else (output,)
