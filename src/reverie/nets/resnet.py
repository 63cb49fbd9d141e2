"""ResNet-50, a classifier of ImageNet's 1,000 classes. He et al., arXiv:1512.03385, Table 1.

As published with Keras: the first 1x1 convolution of a stage has the stride, as in the paper. Batch normalisation is
folded into the convolutions.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.imagenet import Normalise

BLOCKS = (3, 4, 6, 3)  # of the four stages


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 to four times the width, added to the input or, where the shape changes, its projection."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, stride)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, 4 * width, 1)
        self.downsample = nn.Conv2d(inputs, 4 * width, 1, stride) if inputs != 4 * width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv2(F.relu(self.conv1(x))))
        return F.relu(self.conv3(h) + self.downsample(x))


class ResNet50(nn.Sequential):
    """Images (B, 1 or 3, H, W) in [-1, 1] to ImageNet logits (B, 1000), with the weights of "resnet50"."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = Normalise((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255))
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(3, 2, padding=1)
        inputs = 64
        for stage, count in enumerate(BLOCKS):
            width, blocks = 64 * 2**stage, []
            for index in range(count):
                blocks.append(Bottleneck(inputs, width, 2 if stage and not index else 1))
                inputs = 4 * width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(2048, 1000)


def aliases() -> dict[str, str]:
    """Keras' names: conv4_block6_out is layer3.5, the sixth block of the third stage."""
    counts = enumerate(BLOCKS, 1)
    blocks = {f"conv{s + 1}_block{i + 1}_out": f"layer{s}.{i}" for s, count in counts for i in range(count)}
    return {"conv1_relu": "relu1", **blocks, "logits": "fc"}
