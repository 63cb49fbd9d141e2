"""How many images a second are painted in one pass, at 512 pixels: `style-net` and `adain` against the network of
Johnson et al. (arXiv:1603.08155), plainly: float32 in NCHW, 9x9 and 3x3 convolutions at full resolution.

Ours are the untrained networks with the defaults of `reverie train`, as `reverie stylize --net RUN` calls them; the
style of adain is described once, before. The last line is style-net's images a second over those of the plain network.

Run:  python benchmarks/style_nets.py [--size 512] [--seconds 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from peers.johnson import TransformerNet
from torch import Tensor

from reverie.core import registry
from reverie.core.layout import to_device_layout
from reverie.core.precision import keep_memory
from reverie.dreaming.fast_style import Painter

AIM = 15.0  # images a second of style-net at 512 pixels on two cores


def style_net(size: int = 512) -> Callable[[], Tensor]:
    """A call paints one image by style-net."""
    return _ours("style-net", size, {"style": "unread"})


def adain(size: int = 512, layers: int = 4) -> Callable[[], Tensor]:
    """A call paints one image by adain, in a style that was described before."""
    return _ours("adain", size, {"styles": "unread", "layers": layers})


def plain(size: int = 512) -> Callable[[], Tensor]:
    """A call paints one image by the published network."""
    net, image = TransformerNet().eval(), torch.rand(1, 3, size, size)

    @torch.no_grad()
    def paint() -> Tensor:
        return net(image)

    return paint


def _ours(name: str, size: int, options: dict[str, object]) -> Callable[[], Tensor]:
    torch.manual_seed(0)
    model = to_device_layout(registry.build(name, shape=256, channels=3, **options).requires_grad_(False), "cpu")
    image = torch.rand(1, 3, size, size) * 2 - 1
    style = (image[0].permute(1, 2, 0).add(1).mul(127.5).byte().numpy(),) if name == "adain" else ()
    painter = Painter(model, style)
    return lambda: painter(image)


def images_per_second(paint: Callable[[], Tensor], seconds: float = 5.0) -> float:
    """Of one image after the other: the median of the calls within ``seconds``, after two that warm up."""
    paint(), paint()
    times, began = [], time.perf_counter()
    while time.perf_counter() - began < seconds or len(times) < 3:
        start = time.perf_counter()
        paint()
        times.append(time.perf_counter() - start)
    return 1 / sorted(times)[len(times) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=2)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    keep_memory()
    contestants = {
        "the published network, float32 in NCHW": plain(flags.size),
        "style-net": style_net(flags.size),
        "adain, relu4_1": adain(flags.size),
        "adain, relu3_1": adain(flags.size, 3),
    }
    speeds = {name: images_per_second(paint, flags.seconds) for name, paint in contestants.items()}
    for name, speed in speeds.items():
        print(f"{name:40} {speed:6.2f} images/s at {flags.size} pixels")
    published, ours = list(speeds.values())[:2]
    print(f"style-net against its aim of {AIM:g} images/s: {ours / AIM:.2f}")
    print(f"ratio: {ours / published:.2f}")


if __name__ == "__main__":
    main()
