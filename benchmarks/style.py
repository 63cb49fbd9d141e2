"""How long does style transfer take to the loss that the public recipes reach, and how much memory?

``gatys``: one size of 256 pixels, the public recipe (fp32, NCHW, VGG to its last layer, L-BFGS from the content image,
300 evaluations of its loss) against reverie's sizes, bf16 and L-BFGS on the same loss. ``multiscale``: the recipe of
crowsonkb/style-transfer-pytorch at 512 pixels (1,000 steps of Adam at 128 pixels, 500 at each larger size) against
`reverie stylize`. Losses of both sides are evaluated by the peer's fp32 code on the image in 8 bits; ours are evaluated
after each step of the last size, and the time is that of the first image within 5 % (gatys: at or below) of the peer's
last loss. Every contestant runs in a process of its own, whose peak memory is given. Weights are loaded before the
clock starts; what both compute from the two images is within it. ``dream`` and ``nets`` are dream_step.py and
style_nets.py; ``large`` is the memory of a dream of 4,000 pixels.

Run:  python benchmarks/style.py [--quick] [--scale 0.25] [--only gatys,multiscale] [--content FILE --style FILE]
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import style as peers
from torch import Tensor

from reverie.data import open_data, photos
from reverie.dreaming.canvas import paint
from reverie.dreaming.photo import open_photo
from reverie.dreaming.style_canvas import RECIPES, Recipe, canvas_of, vgg_features
from reverie.pretrained import weights

NET = "vgg16"
PAINTING = Path(__file__).parents[1] / "docs" / "pictures" / "styles" / "starry-night.jpg"


@dataclass
class Result:
    """What a contestant returns.

    Attributes:
        images: uint8 (H, W, 3), one after each step of the last size; a peer's last one only.
        seconds: since the start, for each image.
        peak: resident memory in bytes.
    """

    images: list[np.ndarray]
    seconds: list[float]
    peak: int = 0


def to_bytes(image: Tensor) -> np.ndarray:
    """(1, 3, H, W) in [0, 1] to uint8 (H, W, 3)."""
    return image.mul(255).round().clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0).numpy()


def to_unit(image: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) to (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255


def photograph() -> str:
    """The default photograph's file; fetched once."""
    path = photos.folder() / "neuschwanstein-castle.webp"
    if not path.exists():
        open_data("photos")
    return str(path)


def photo_of(file: str, size: int) -> Tensor:
    """(1, 3, H, W) in [0, 1], by its longer side."""
    return ((open_photo(file, size).expand(-1, 3, -1, -1) + 1) / 2).contiguous()


def run_peer(function: Callable[..., Tensor], content: Tensor, style: Tensor, **steps: int) -> Result:
    state = weights.load(NET)
    began = time.monotonic()
    image = function(state, content, style, **steps)
    return Result([to_bytes(image)], [time.monotonic() - began])


def run_ours(content: Tensor, style: Tensor, recipe: Recipe) -> Result:
    """Train the canvas of `reverie stylize`; images are copied off the clock."""
    features = vgg_features(NET, recipe, torch.device("cpu"))
    began = time.monotonic()
    canvas = canvas_of(features, content * 2 - 1, [style * 2 - 1], recipe, [1.0])
    result = Result([], [])
    for frame in paint(canvas, 0, recipe.ema, "cpu"):
        if int(canvas.current) == len(canvas.levels) - 1:
            paused = time.monotonic()
            result.images.append(to_bytes((frame.render()["image"] + 1) / 2))
            result.seconds.append(paused - began)
            began += time.monotonic() - paused
    return result


def gatys_recipe(style_weight: float = 1e6) -> Recipe:
    """L-BFGS at one size on the loss of ``peers.GatysLoss``; coarser sizes lead early, not in the end."""
    layers = tuple(style_weight / channels**2 for channels in (64, 128, 256, 512, 512))
    plain = {"scaled": False, "layer_weights": layers, "style_weight": sum(layers), "content_weight": 1.0}
    return replace(RECIPES["fast"], tv_weight=0.0, replicate=False, **plain, first_size=0, steps=350, history=100)


def alone(function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    """Call it in a process of its own, and measure the memory that this takes."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs, torch.get_num_threads(), function, arguments, options))
    process.start()
    theirs.close()
    result = ours.recv()
    process.join()
    return result


def _serve(pipe: Connection, threads: int, function: Callable[..., Result], arguments: Any, options: Any) -> None:
    torch.set_num_threads(threads)
    result = function(*arguments, **options)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result.peak = kilobytes * (1 if sys.platform == "darwin" else 1024)
    pipe.send(result)


def compared(name: str, ours: Result, peer: Result, loss_of: Callable[[Tensor], Tensor], within: float) -> float:
    """Print both; the peer's seconds over ours to its loss, 0 if ours does not reach it."""
    with torch.no_grad():
        goal = float(loss_of(to_unit(peer.images[-1])))
        losses = [float(loss_of(to_unit(image))) for image in ours.images]
    print(f"{name}: peer {peer.seconds[-1]:.1f} s, loss {goal:.4g}, peak memory {peer.peak / 1e9:.2f} GB")
    reached = [index for index, loss in enumerate(losses) if loss <= goal * within]
    last = f"loss {losses[-1]:.4g} after {ours.seconds[-1]:.1f} s, peak memory {ours.peak / 1e9:.2f} GB"
    if not reached:
        print(f"{name}: ours {last}: not within {within - 1:.0%} of the peer's")
        return 0.0
    seconds = ours.seconds[reached[0]]
    ratio = peer.seconds[-1] / seconds
    print(f"{name}: ours {seconds:.1f} s to loss {losses[reached[0]]:.4g} ({last}), ratio {ratio:.2f}", flush=True)
    return ratio


def gatys(flags: argparse.Namespace) -> float:
    """Against the plain public recipe, 256 pixels."""
    content, style = (photo_of(file, round(256 * flags.scale)) for file in (flags.content, flags.style))
    evaluations = 60 if flags.quick else 300
    peer = alone(run_peer, peers.gatys, content, style, evaluations=evaluations)
    ours = alone(run_ours, content, style, gatys_recipe())
    return compared("gatys", ours, peer, peers.GatysLoss(weights.load(NET), content, style), 1.0)


def multiscale(flags: argparse.Namespace) -> float:
    """Against crowsonkb's recipe, 512 pixels."""
    size, first = round(512 * flags.scale), round(128 * flags.scale)
    content, style = photo_of(flags.content, size), photo_of(flags.style, size)
    steps = {"first_steps": 200, "steps": 100} if flags.quick else {}
    peer = alone(run_peer, peers.multiscale, content, style, size=size, first=first, **steps)
    ours = alone(run_ours, content, style, replace(RECIPES["fast"], first_size=first))
    return compared("multiscale", ours, peer, peers.ScaledLoss(weights.load(NET), content, style), 1.05)


def measured(name: str, *arguments: str) -> str:
    """What a Python process prints, with its seconds and peak memory."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} failed.")
    print(printed.rstrip())
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{name}: {time.monotonic() - began:.1f} s, peak memory {peak / 1e9:.2f} GB", flush=True)
    return printed


def script_ratio(name: str, flags: argparse.Namespace) -> float:
    """The ratio of another benchmark at 512 pixels."""
    path = Path(__file__).with_name(name)
    return float(measured(name, str(path), "--size", str(round(512 * flags.scale))).rpartition("ratio: ")[2])


def large(flags: argparse.Namespace) -> None:
    """One step of one octave: memory does not depend on their number."""
    with tempfile.TemporaryDirectory() as folder:
        size, out = str(round(4000 * flags.scale)), str(Path(folder) / "large.png")
        dream = ("-m", "reverie", "dream", flags.content, "--size", size, "--octaves", "1", "--steps", "1")
        measured("large", *dream, "--out", out)


AIMS = {"gatys": 3.0, "multiscale": 6.0, "dream": 2.0}  # the peer's seconds over ours
CONTESTS: dict[str, Callable[[argparse.Namespace], float | None]] = {
    "gatys": gatys,
    "multiscale": multiscale,
    "dream": functools.partial(script_ratio, "dream_step.py"),
    "nets": functools.partial(script_ratio, "style_nets.py"),
    "large": large,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the peers' steps")
    parser.add_argument("--only", default=",".join(CONTESTS), help=f"some of {', '.join(CONTESTS)}")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all sizes: 0.25 tries the script")
    parser.add_argument("--content", help="a photograph; neuschwanstein-castle of `reverie data photos` by default")
    parser.add_argument("--style", default=str(PAINTING), help="a painting; The Starry Night by default")
    flags = parser.parse_args()
    flags.content = flags.content or photograph()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {Path(flags.content).name}")
    results = {name: CONTESTS[name](flags) for name in flags.only.split(",")}
    ratios = {name: ratio for name, ratio in results.items() if name in AIMS and ratio is not None}
    if ratios:
        worst = min(ratios, key=lambda name: ratios[name] / AIMS[name])
        print(f"ratio: {ratios[worst]:.2f} ({worst}, aim {AIMS[worst]:g})")


if __name__ == "__main__":
    main()
