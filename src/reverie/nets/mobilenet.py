"""MobileNetV2 and EfficientNet-Lite0, classifiers of ImageNet's 1,000 classes.

Sandler et al., arXiv:1801.04381; Tan and Le, arXiv:1905.11946, without squeeze-and-excitation and with ReLU6 for Lite.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.imagenet import Normalise

STAGES = (  # Table 2: expansion, channels, blocks, stride of the first, kernel size
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 32, 3, 2, 3),
    (6, 64, 4, 2, 3),
    (6, 96, 3, 1, 3),
    (6, 160, 3, 2, 3),
    (6, 320, 1, 1, 3),
)
LITE0 = (  # Table 1 of EfficientNet
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: H / stride rows, the odd row of zeros at the end."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for axis in (1, 0):
            size, kernel, stride = x.shape[2 + axis], self.kernel_size[axis], self.stride[axis]
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, 1, self.groups)


def convolution(
    inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1, eps: float = 1e-5, same: bool = False
) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU6."""
    kind, padding = (SameConv2d, 0) if same and stride > 1 else (nn.Conv2d, size // 2)
    return nn.Sequential(
        kind(inputs, outputs, size, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """Expand (1x1), depthwise, project (1x1, linear); added to the input if the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, size: int, eps: float, same: bool):
        super().__init__()
        wide = inputs * expansion
        self.conv = nn.Sequential(
            *([convolution(inputs, wide, 1, eps=eps)] if expansion > 1 else []),
            convolution(wide, wide, size, stride, wide, eps, same),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs, eps),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Images of 224x224 to features and ImageNet logits, with the weights of "mobilenetv2"; built in eval mode.

    Args:
        lite: EfficientNet-Lite0 instead, with the weights of "efficientnet-lite0".
    """

    def __init__(self, lite: bool = False) -> None:
        super().__init__()
        eps = 1e-3 if lite else 1e-5
        self.normalise = Normalise((127 / 255,) * 3, (128 / 255,) * 3) if lite else Normalise()
        layers: list[nn.Module] = [convolution(3, 32, 3, 2, eps=eps, same=lite)]
        inputs = 32
        for expansion, channels, count, stride, size in LITE0 if lite else STAGES:
            for index in range(count):
                first = 1 if index else stride
                layers.append(InvertedResidual(inputs, channels, first, expansion, size, eps, lite))
                inputs = channels
        self.features = nn.Sequential(*layers, convolution(inputs, 1280, 1, eps=eps))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) in [-1, 1] to pooled features (B, 1280)."""
        return self.features(self.normalise(images)).mean((2, 3))

    def logits(self, images: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) in [-1, 1] to logits (B, 1000)."""
        return self.classifier(self(images))


def aliases(lite: bool) -> dict[str, str]:
    """Keras' names of layers: block_6_expand_relu, block_6_add ... of MobileNetV2, block3b_add ... of EfficientNet."""
    if lite:
        blocks = [f"block{stage}{'abcd'[i]}" for stage, (_, _, count, *_) in enumerate(LITE0, 1) for i in range(count)]
        names = {"expand_activation": ".conv.0", "activation": ".conv.1", "project_bn": ".conv.3", "add": ""}
        ends = {"stem_activation": "features.0", "top_activation": f"features.{len(blocks) + 1}"}
    else:
        blocks = [f"block_{index}" for index in range(17)]
        names = {"expand_relu": ".conv.0", "depthwise_relu": ".conv.1", "project_BN": ".conv.3", "add": ""}
        ends = {"Conv1_relu": "features.0", "out_relu": f"features.{len(blocks) + 1}"}
    expanded = enumerate(blocks[1:], 2)  # the first block has no expansion
    inner = {f"{block}_{name}": f"features.{i}{path}" for i, block in expanded for name, path in names.items()}
    return {**ends, **inner, "logits": "classifier"}
