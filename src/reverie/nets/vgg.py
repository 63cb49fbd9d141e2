"""VGG-16's and VGG-19's convolutions: the features of perceptual losses, style transfer and DeepDream.

Simonyan and Zisserman, arXiv:1409.1556, configurations D and E. For style transfer, max pools may be replaced by
average pools (Gatys et al., arXiv:1508.06576) or L2 pools, and zero padding by replication, which leaves no seam at the
border.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.imagenet import Normalise

Pooling = Literal["max", "average", "l2"]
CHANNELS = (64, 128, 256, 512, 512)  # of the five blocks
CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # of each block
LAST_OF_BLOCKS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")  # of VGG-16


class VGG(nn.Sequential):
    """Images (B, 1 or 3, H, W) in [-1, 1] to (B, 512, H / 32, W / 32).

    Its layers are modules in order: convI_J before the rectifier, reluI_J after it, and poolI, for block I.

    Args:
        depth: 16 or 19.
        pooling: "max", as trained; "average" or "l2", scaled so that activations keep about the same size.
        replicate: convolutions that pad by replication of the border: "none" (zeros, as trained), "first" or "all".
    """

    def __init__(
        self, depth: Literal[16, 19] = 16, pooling: Pooling = "max", replicate: Literal["none", "first", "all"] = "none"
    ):
        super().__init__()
        self.normalise = Normalise()
        inputs = 3
        for block, (channels, count) in enumerate(zip(CHANNELS, CONVOLUTIONS[depth], strict=True), 1):
            for index in range(1, count + 1):
                repeat = replicate == "all" or (replicate == "first" and inputs == 3)
                mode: Literal["replicate", "zeros"] = "replicate" if repeat else "zeros"
                self.add_module(f"conv{block}_{index}", nn.Conv2d(inputs, channels, 3, padding=1, padding_mode=mode))
                self.add_module(f"relu{block}_{index}", nn.ReLU())
                inputs = channels
            self.add_module(f"pool{block}", nn.MaxPool2d(2) if pooling == "max" else _Pool(pooling))


class _Pool(nn.Module):
    """Average and L2 pools of 2x2, times the factors of crowsonkb/style-transfer-pytorch."""

    def __init__(self, kind: Literal["average", "l2"]):
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "average":
            return 2 * F.avg_pool2d(x, 2)
        return 0.78 * (4 * F.avg_pool2d(x.square(), 2) + 1e-8).sqrt()  # 1e-8: a finite gradient at zero


def aliases(depth: int) -> dict[str, str]:
    """Keras' names, which include the rectifier: block5_conv2 is relu5_2, block5_pool is pool5."""
    names: dict[str, str] = {}
    for block, count in enumerate(CONVOLUTIONS[depth], 1):
        names |= {f"block{block}_conv{i}": f"relu{block}_{i}" for i in range(1, count + 1)}
        names[f"block{block}_pool"] = f"pool{block}"
    return names
