"""MobileNetV2, a classifier of ImageNet's 1,000 classes. Sandler et al., arXiv:1801.04381."""

from __future__ import annotations

from torch import Tensor, nn

from reverie.nets.imagenet import Normalise

STAGES = (  # Table 2: expansion, channels, blocks, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def convolution(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """Expand (1x1), depthwise 3x3, project (1x1, linear); added to the input if the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        wide = inputs * expansion
        self.conv = nn.Sequential(
            *([convolution(inputs, wide, 1)] if expansion > 1 else []),
            convolution(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Images of 224x224 to features and ImageNet logits, with the weights of "mobilenetv2"; built in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = Normalise()
        layers: list[nn.Module] = [convolution(3, 32, 3, stride=2)]
        inputs = 32
        for expansion, channels, count, stride in STAGES:
            for index in range(count):
                layers.append(InvertedResidual(inputs, channels, 1 if index else stride, expansion))
                inputs = channels
        self.features = nn.Sequential(*layers, convolution(inputs, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) in [-1, 1] to pooled features (B, 1280)."""
        return self.features(self.normalise(images)).mean((2, 3))

    def logits(self, images: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) in [-1, 1] to logits (B, 1000)."""
        return self.classifier(self(images))
