"""The feed-forward network of Johnson et al., arXiv:1603.08155, with instance normalisation, as its public
implementations have it: reflection padding, a 9x9 convolution at full resolution at both ends, five residual blocks of
128 channels at a quarter, nearest-neighbour upsampling; 1.7 M parameters.
"""

from __future__ import annotations

from torch import Tensor, nn


def _conv(inputs: int, outputs: int, side: int, stride: int = 1, last: bool = False) -> list[nn.Module]:
    layers = [nn.ReflectionPad2d(side // 2), nn.Conv2d(inputs, outputs, side, stride)]
    return layers if last else [*layers, nn.InstanceNorm2d(outputs, affine=True), nn.ReLU()]


class _Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(*_conv(channels, channels, 3), *_conv(channels, channels, 3)[:3])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class TransformerNet(nn.Sequential):
    """Images (B, 3, H, W) to images of the same size."""

    def __init__(self) -> None:
        super().__init__(
            *_conv(3, 32, 9),
            *_conv(32, 64, 3, 2),
            *_conv(64, 128, 3, 2),
            *(_Residual(128) for _ in range(5)),
            nn.Upsample(scale_factor=2),
            *_conv(128, 64, 3),
            nn.Upsample(scale_factor=2),
            *_conv(64, 32, 3),
            *_conv(32, 3, 9, last=True),
        )
