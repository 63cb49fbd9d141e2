"""VGG-16's convolutions: the features of perceptual losses, style transfer and DeepDream.

Simonyan and Zisserman, arXiv:1409.1556, configuration D.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.errors import UsageError, suggest
from reverie.nets.imagenet import Normalise

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions; a max pool between blocks
LAST_OF_BLOCKS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")


class VGG16(nn.Module):
    """Images to the activations of any of its 13 layers, relu1_1 ... relu5_3, with the weights of "vgg16"."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.layers: list[tuple[int, str]] = []  # (block, "1_1")
        inputs = 3
        for block, (channels, count) in enumerate(BLOCKS, 1):
            for index in range(1, count + 1):
                self.layers.append((block, f"{block}_{index}"))
                self.add_module(f"conv{block}_{index}", nn.Conv2d(inputs, channels, 3, padding=1))
                inputs = channels

    def forward(self, images: Tensor, layers: Iterable[str] = LAST_OF_BLOCKS) -> dict[str, Tensor]:
        """(B, 1 or 3, H, W) in [-1, 1] to {"reluX_Y": (B, C, H / 2^(X-1), W / 2^(X-1))}, up to the deepest layer.

        Raises:
            UsageError: an unknown layer, or an image too small for the deepest.
        """
        layers = set(layers)
        names = [f"relu{name}" for _, name in self.layers]
        for name in layers.difference(names):
            raise UsageError(f"VGG-16 has no layer {name!r}.{suggest(name, names)} It has {', '.join(names)}.")
        depth = max((names.index(name) + 1 for name in layers), default=0)
        outputs, x = {}, self.normalise(images)
        for block, name in self.layers[:depth]:
            if block > 1 and name.endswith("_1"):
                if min(x.shape[-2:]) < 2:
                    raise UsageError(f"relu{name} needs images of at least {2 ** (block - 1)} pixels; enlarge them.")
                x = F.max_pool2d(x, 2)
            x = F.relu(self.get_submodule(f"conv{name}")(x))  # (B, C, H / 2^(block-1), W / 2^(block-1))
            if f"relu{name}" in layers:
                outputs[f"relu{name}"] = x
        return outputs
