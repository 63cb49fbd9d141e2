"""FID's Inception-v3: the network of the TensorFlow graph of 2015-12-05, up to its 2,048 pooled features.

Szegedy et al., arXiv:1512.00567. It differs from the Inception-v3 of current libraries: average pools do not count
their padding, the last block uses a max pool, and the weights differ. Equal up to rounding to the original, but faster:

- batch normalisation is folded into the convolutions;
- the 1x1 convolutions of the same input are one convolution;
- an average pool and the 1x1 convolution after it are swapped (both are linear, and a pool's weights sum to one), so
  that the pool works on 32 to 192 channels instead of 192 to 2,048.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DIMENSION = 2048
SIZE = 299  # side in pixels
STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
WIDE, TALL = (0, 3), (3, 0)  # padding of 1x7 and 7x1 kernels


class Convolution(nn.Module):
    """Convolutions of the same input merged into one, with folded batch normalisation, and a rectifier."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        names: list[str],
        dtype: torch.dtype,
        stride: int = 1,
        padding: tuple[int, int] = (0, 0),
    ):
        super().__init__()
        folded = []
        for name in names:
            weight, beta, mean, var = (weights[f"{name}.{part}"].double() for part in ("weight", "beta", "mean", "var"))
            scale = (var + 1e-3).rsqrt()
            folded.append((weight * scale[:, None, None, None], beta - mean * scale))
        weight = torch.cat([w for w, _ in folded]).to(dtype, memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(torch.cat([b for _, b in folded]).to(dtype), requires_grad=False)
        self.sizes = [len(b) for _, b in folded]
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding).relu_()

    def split(self, x: Tensor, pool: bool = False) -> list[Tensor]:
        """The output of each convolution; with ``pool`` the last is pooled before the rectifier."""
        parts = list(F.conv2d(x, self.weight, self.bias).split(self.sizes, 1))
        if pool:
            parts[-1] = F.avg_pool2d(parts[-1], 3, 1, 1, count_include_pad=False)
        return [F.relu(part).contiguous(memory_format=torch.channels_last) for part in parts]


Maker = Callable[..., Convolution]  # (names, stride=, padding=)


class Block35(nn.Module):
    """At 35x35: 1x1, 5x5, two 3x3, pool."""

    names = ("branch1x1", "branch5x5_1", "branch5x5_2", *(f"branch3x3dbl_{i}" for i in (1, 2, 3)), "branch_pool")

    def __init__(self, conv: Maker):
        super().__init__()
        self.heads = conv("branch1x1", "branch5x5_1", "branch3x3dbl_1", "branch_pool")
        self.five = conv("branch5x5_2", padding=(2, 2))
        self.threes = nn.Sequential(conv("branch3x3dbl_2", padding=(1, 1)), conv("branch3x3dbl_3", padding=(1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        branch1, five, threes, pooled = self.heads.split(x, pool=True)
        return torch.cat([branch1, self.five(five), self.threes(threes), pooled], 1)


class To17(nn.Module):
    """From 35x35 to 17x17."""

    names = ("branch3x3", "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")

    def __init__(self, conv: Maker):
        super().__init__()
        self.three = conv("branch3x3", stride=2)
        deep = conv("branch3x3dbl_1"), conv("branch3x3dbl_2", padding=(1, 1)), conv("branch3x3dbl_3", stride=2)
        self.threes = nn.Sequential(*deep)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.three(x), self.threes(x), F.max_pool2d(x, 3, 2)], 1)


class Block17(nn.Module):
    """At 17x17: 1x1, one and two 7x7 in separable steps, pool."""

    names = (
        *("branch1x1", "branch7x7_1", "branch7x7_2", "branch7x7_3"),
        *(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)),
        "branch_pool",
    )

    def __init__(self, conv: Maker):
        super().__init__()
        self.heads = conv("branch1x1", "branch7x7_1", "branch7x7dbl_1", "branch_pool")
        self.seven = nn.Sequential(conv("branch7x7_2", padding=WIDE), conv("branch7x7_3", padding=TALL))
        sevens = (conv(f"branch7x7dbl_{i}", padding=WIDE if i % 2 else TALL) for i in (2, 3, 4, 5))
        self.sevens = nn.Sequential(*sevens)

    def forward(self, x: Tensor) -> Tensor:
        branch1, seven, sevens, pooled = self.heads.split(x, pool=True)
        return torch.cat([branch1, self.seven(seven), self.sevens(sevens), pooled], 1)


class To8(nn.Module):
    """From 17x17 to 8x8."""

    names = ("branch3x3_1", "branch3x3_2", *(f"branch7x7x3_{i}" for i in (1, 2, 3, 4)))

    def __init__(self, conv: Maker):
        super().__init__()
        self.heads = conv("branch3x3_1", "branch7x7x3_1")
        self.three = conv("branch3x3_2", stride=2)
        seven = conv("branch7x7x3_2", padding=WIDE), conv("branch7x7x3_3", padding=TALL)
        self.seven = nn.Sequential(*seven, conv("branch7x7x3_4", stride=2))

    def forward(self, x: Tensor) -> Tensor:
        three, seven = self.heads.split(x)
        return torch.cat([self.three(three), self.seven(seven), F.max_pool2d(x, 3, 2)], 1)


class Block8(nn.Module):
    """At 8x8: 1x1, two branches that fan out into 1x3 and 3x1, and a pool: the average, or the maximum."""

    names = (
        *("branch1x1", "branch3x3_1", "branch3x3_2a", "branch3x3_2b"),
        *("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a", "branch3x3dbl_3b", "branch_pool"),
    )

    def __init__(self, conv: Maker, maximum: bool = False):
        super().__init__()
        self.heads = conv("branch1x1", "branch3x3_1", "branch3x3dbl_1", *(() if maximum else ("branch_pool",)))
        self.three = conv("branch3x3dbl_2", padding=(1, 1))
        fans = (conv(f"{n}{side}", padding=p) for n in ("branch3x3_2", "branch3x3dbl_3") for side, p in _FANS)
        self.fans = nn.ModuleList(fans)
        self.maximum = conv("branch_pool") if maximum else None

    def forward(self, x: Tensor) -> Tensor:
        branch1, short, deep, *pooled = self.heads.split(x, pool=self.maximum is None)
        if self.maximum is not None:
            pooled = [self.maximum(F.max_pool2d(x, 3, 1, 1))]
        deep = self.three(deep)
        spread = [fan(y) for fan, y in zip(self.fans, (short, short, deep, deep), strict=True)]
        return torch.cat([branch1, *spread, *pooled], 1)


_FANS = (("a", (0, 1)), ("b", (1, 0)))
_ARGUMENTS = {"Mixed_7c": (True,)}  # a max pool
BLOCKS: dict[str, Any] = {
    **dict.fromkeys(("Mixed_5b", "Mixed_5c", "Mixed_5d"), Block35),
    "Mixed_6a": To17,
    **dict.fromkeys(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), Block17),
    "Mixed_7a": To8,
    **dict.fromkeys(("Mixed_7b", "Mixed_7c"), Block8),
}
ALIASES = {f"mixed{index}": name for index, name in enumerate(BLOCKS)}
"""Keras' names, which DeepDream uses: mixed0 is Mixed_5b, mixed10 is Mixed_7c."""
CONVOLUTIONS = STEM + tuple(f"{name}.{part}" for name, block in BLOCKS.items() for part in block.names)
"""In the graph's order. Each has ``.weight`` (O, I, H, W), and ``.beta``, ``.mean``, ``.var`` of its normalisation."""


class Inception(nn.Module):
    """(N, 3, 299, 299), pixels 0 ... 255 scaled as (x - 128) / 128, to float32 features (N, 2048). Not for training.

    Args:
        weights: of every name in ``CONVOLUTIONS``.
        dtype: of weights and activations; the final average is always float32.
    """

    def __init__(self, weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float32):
        super().__init__()
        self.dtype = dtype

        def conv(prefix: str, *names: str, **how: Any) -> Convolution:
            return Convolution(weights, [prefix + name for name in names], dtype, **how)

        how: dict[str, dict[str, Any]] = {"Conv2d_1a_3x3": {"stride": 2}, "Conv2d_2b_3x3": {"padding": (1, 1)}}
        layers: dict[str, nn.Module] = {name: conv(name, "", **how.get(name, {})) for name in STEM[:3]}
        layers["MaxPool_3a_3x3"] = nn.MaxPool2d(3, 2)
        layers |= {name: conv(name, "") for name in STEM[3:]}
        layers["MaxPool_5a_3x3"] = nn.MaxPool2d(3, 2)
        for name, block in BLOCKS.items():
            layers[name] = block(partial(conv, f"{name}."), *_ARGUMENTS.get(name, ()))
        self.layers = nn.Sequential(OrderedDict(layers))
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.to(self.dtype, memory_format=torch.channels_last)).float().mean((2, 3))
