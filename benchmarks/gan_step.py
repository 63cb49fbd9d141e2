"""How many images a second does a GAN's training step take in: reverie against the reference architectures, plainly.

Each loop runs in a process of its own, timed in turn over several rounds; ratios are those of the medians. A step is
D's move and G's; the penalties of a lazy schedule come as often as they are due.

- dcgan: the DCGAN of `reverie train dcgan`, once as its reference implementations write it (float32 in NCHW, batch
  normalisation, D called on real and on made images one after the other, G called anew for its own move, Adam), and
  once in reverie's step (bf16 in channels_last where the machine has it, one pass of D, fused AdamW, EMA). Equal
  parameter counts, equal images.
- stylegan2: the same, the reference with a kernel for each image (grouped convolutions) and its smoothing filters
  as passes of their own, R1 every 16 steps and path lengths every 4 on both sides.
- preset: what `reverie train r3gan` trains at the pictures' own resolution, against the textbook DCGAN of 64 pixels,
  which enlarges them.

Beside them the share of the machine's measured peak of a 3x3 convolution, and images drawn a second. The last line is
the smaller of the two same-architecture ratios.

Run:  python benchmarks/gan_step.py [--rounds 5] [--seconds 6] [--batch 64] [--only dcgan] [--device cpu]
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch
from diffusion_step import convolution_peak, fit_steps, gigaflops, parameters, speed, wait
from peers.gans import (
    CHANNELS,
    LATENT,
    SIZE,
    WIDTH,
    PlainDiscriminator,
    PlainStyle,
    plain_dcgan,
    plain_discriminator,
    plain_generator,
    plain_stylegan2,
)

from reverie.core import registry
from reverie.core.noise import Noise
from reverie.core.precision import keep_memory, pick_device, pick_precision
from reverie.core.verbs import Model
from reverie.recipes import recipe_for
from reverie.training.options import Options

# Ours


def ours(name: str, size: int, channels: int, options: dict[str, Any], recipe: bool) -> tuple[Model, Any, Options]:
    content = recipe_for(name, "any") if recipe else {}
    torch.manual_seed(0)
    model = registry.build(name, shape=size, channels=channels, **content.get("model", {}) | options)
    training = {k: v for k, v in content.get("training", {}).items() if k not in ("steps", "minutes")}
    return model, content.get("phases", {}), Options(steps=1, **{"clip": 0.0} | training)


SAME = {
    "stylegan2": {"patch_size": 1, "width": WIDTH, "latent": LATENT, "style_mixing": 0.0},
    "dcgan": {"width": WIDTH},
}


def contestant(name: str, batch: int, device: torch.device) -> Iterator[int]:
    """One of the loops by its name."""
    if name == "stylegan2, plain":
        return plain_stylegan2(batch, device)
    if name in ("dcgan, plain", TEXTBOOK):
        torch.manual_seed(0)
        size = 64 if name == TEXTBOOK else SIZE
        g, d = plain_generator(size, CHANNELS, WIDTH).to(device), plain_discriminator(size, CHANNELS, WIDTH).to(device)
        pictures = torch.rand(1024, CHANNELS, size, size) * 2 - 1
        return plain_dcgan(g, d, lambda: pictures[torch.randint(0, len(pictures), (batch,))].to(device))
    if name == "preset":
        return fit_steps(ours("r3gan", SIZE, CHANNELS, {}, True), batch, device)
    system = name.partition(",")[0]
    return fit_steps(ours(system, SIZE, CHANNELS, SAME[system], False), batch, device)


TEXTBOOK = "textbook, 64 pixels"
PAIRS = {
    "dcgan": ("dcgan, plain", "dcgan, ours"),
    "stylegan2": ("stylegan2, plain", "stylegan2, ours"),
    "preset": (TEXTBOOK, "preset"),
}


def drawer(name: str, device: torch.device) -> Callable[[], int]:
    """Draws 64 images a call."""
    torch.manual_seed(0)
    if name.endswith("plain") or name.startswith("textbook"):
        if name.startswith("stylegan2"):
            g = PlainStyle().to(device)
            return lambda: len(g(g.styles(torch.randn(64, LATENT, device=device))))
        net = plain_generator(64 if name.startswith("textbook") else SIZE, CHANNELS, WIDTH).to(device).eval()
        return lambda: len(net(torch.randn(64, 100, 1, 1, device=device)))
    system = name.partition(",")[0]
    contender = (
        ours("r3gan", SIZE, CHANNELS, {}, True)
        if name == "preset"
        else ours(system, SIZE, CHANNELS, SAME[system], False)
    )
    model, precision = contender[0].to(device, memory_format=torch.channels_last).eval(), pick_precision("auto", device)

    def draw() -> int:
        with precision.autocast():
            return len(model.sample(Noise.of_seeds(range(64), device)))

    return draw


def serve(name: str, batch: int, device: str, calls: Connection) -> None:
    """In a process of its own: answers (what, seconds) with images a second."""
    where = pick_device(device)
    keep_memory()
    loop, draw = contestant(name, batch, where), drawer(name, where)
    while order := calls.recv():
        what, seconds = order
        if what == "train":
            calls.send(speed(loop, seconds, where))
            continue
        count, began = 0, time.perf_counter()
        with torch.inference_mode():
            while time.perf_counter() - began < seconds:
                count += draw()
                wait(where)
        calls.send(count / (time.perf_counter() - began))


def measure(names: list[str], flags: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Images a second of every loop in every round, trained and drawn."""
    spawn, calls = multiprocessing.get_context("spawn"), dict[str, Connection]()
    for name in names:
        calls[name], theirs = spawn.Pipe()
        spawn.Process(target=serve, args=(name, flags.batch, flags.device, theirs), daemon=True).start()
        theirs.close()
    rates: dict[str, dict[str, list[float]]] = {name: {"train": [], "draw": []} for name in names}
    for turn in range(flags.rounds + 1):
        for name, line in calls.items():
            for what, share in (("train", 1.0), ("draw", 0.2)):
                line.send((what, share * flags.seconds if turn else min(2.0, flags.seconds)))
                value = line.recv()
                if turn:  # the first steps allocate and choose kernels
                    rates[name][what].append(value)
    for line in calls.values():
        line.send(None)
    return rates


def counts(name: str) -> tuple[int, float]:
    """Parameters of both networks, and GFLOP of an image through both, forward and backward."""
    if name.startswith("stylegan2, plain"):
        g, d = PlainStyle(), PlainDiscriminator()
        return parameters(g) + parameters(d), 0.0
    if name.endswith("plain") or name.startswith("textbook"):
        size = 64 if name.startswith("textbook") else SIZE
        g, d = plain_generator(size, CHANNELS, WIDTH), plain_discriminator(size, CHANNELS, WIDTH)
        through = gigaflops(lambda: g(torch.zeros(2, 100, 1, 1))) / 2 * 4 / 3
        return parameters(g) + parameters(d), through + gigaflops(
            lambda: d(torch.zeros(2, CHANNELS, size, size))
        ) / 2 * 8 / 3
    system = name.partition(",")[0]
    model = (
        ours("r3gan", SIZE, CHANNELS, {}, True)
        if name == "preset"
        else ours(system, SIZE, CHANNELS, SAME[system], False)
    )[0]
    z = Noise.of_seeds(range(4))
    # a step: G forward, then forward and backward; D forward and backward twice, then forward and back to the image
    through = gigaflops(lambda: model.generate(z, None)) / 4 * 4 / 3
    through_d = gigaflops(lambda: model.discriminator(torch.zeros(4, CHANNELS, SIZE, SIZE))[0]) / 4 * 8 / 3
    return parameters(model), through + through_d


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="a loop's share of a round")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--only", choices=list(PAIRS), help="for development: one pair")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    flags = parser.parse_args()
    device = pick_device(flags.device)
    pairs = {flags.only: PAIRS[flags.only]} if flags.only else PAIRS
    names = [name for pair in pairs.values() for name in pair]
    bf16 = pick_precision("auto", device).bf16
    peaks = {dtype: convolution_peak(dtype, device) for dtype in (torch.float32, torch.bfloat16)[: 1 + bf16]}
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, batch {flags.batch}")
    for dtype, top in peaks.items():
        print(f"peak of a 3x3 convolution in {str(dtype)[6:]}: {top:.0f} GFLOP/s")
    rates = measure(names, flags)
    ratios = {}
    for system, (theirs, mine) in pairs.items():
        for name in (theirs, mine):
            count, work = counts(name)
            trained, sampled = (statistics.median(rates[name][what]) for what in ("train", "draw"))
            dtype = torch.bfloat16 if name == mine and bf16 else torch.float32
            share = f"; {trained * work:.0f} GFLOP/s = {trained * work / peaks[dtype]:.0%} of the peak" if work else ""
            print(
                f"{name:20}: {count:>9,} parameters, trains {trained:7.1f} images/s (rounds "
                f"{', '.join(f'{value:.0f}' for value in rates[name]['train'])}){share}; draws {sampled:,.0f}/s"
            )
        ratios[system] = statistics.median(rates[mine]["train"]) / statistics.median(rates[theirs]["train"])
        print(f"{system}: {ratios[system]:.2f} times (aim {5 if system == 'preset' else 2})")
    print(f"ratio: {min(value for system, value in ratios.items() if system != 'preset' or flags.only):.2f}")


if __name__ == "__main__":
    main()
