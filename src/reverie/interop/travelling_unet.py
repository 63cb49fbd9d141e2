"""The network of a picture model trained with reverie, as a model of diffusers. It needs torch and diffusers only."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput

from reverie.nets.unet import UNet


class ReverieUNet(ModelMixin, ConfigMixin):
    """The call of diffusers' UNet2DModel, and another network behind it.

    Args:
        sample_size: side of the pictures.
        in_channels, out_channels: of the pictures.
        arguments: the network's own.
        num_class_embeds: number of classes and one more, the last, for any class; None: no classes.
        time_scale: what the scheduler's timesteps are multiplied with.
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
        """What the network says of ``sample`` (B, C, H, W) at one timestep, or one for each."""
        times = torch.as_tensor(timestep, dtype=torch.float32, device=sample.device).expand(len(sample))
        said = self.net(sample, times * self.config.time_scale, class_labels)
        return UNet2DOutput(said) if return_dict else (said,)
