"""How many images a second does a diffusion training step take in: reverie against diffusers, 32x32x3.

Three loops, each in a process of its own (so that none inherits another's allocator), timed in turn, several rounds,
and the ratios are those of the medians:

- diffusers: its UNet2DModel by the recipe of its example train_unconditional.py (float32 in NCHW, a linear chain of
  1000 steps, noise prediction, AdamW at 1e-4, clipping, EMA). Its images come as tensors, not as files: that and the
  missing Accelerator favour it. Its widths are sought: two blocks a level and attention at the last level but one, as
  in the example; maps of 32, 16 and 8 pixels a side; a parameter count within 5 % of our default preset's; and of all
  such networks the one with the least arithmetic, which favours it once more. (--levels 4 adds maps of 4x4, where
  parameters cost next to nothing: the same count with less arithmetic still.)
- same network: that very network (nets/textbook_unet.py, the same weights: outputs are compared first) in reverie's
  training step: uint8 gather, bf16 in channels_last where the machine has it, fused AdamW, clipping, EMA.
- default preset: what `reverie train ddpm` trains, in the same step.

Beside them: the machine's measured peak for a 3x3 convolution in each number format, and the share of it that each
loop reaches.

Run:  python benchmarks/diffusion_step.py [--rounds 5] [--seconds 6] [--batch 64] [--levels 3] [--device cpu]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import math
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from training_step import convolution, peak

from reverie.core import registry
from reverie.core.cache import home
from reverie.core.precision import keep_memory, pick_device, pick_precision
from reverie.core.verbs import Model
from reverie.data.batches import Batches
from reverie.data.types import Split
from reverie.media.medium import to_float
from reverie.nets.textbook_unet import TextbookUNet
from reverie.optim.phase import stages_of
from reverie.recipes import recipe_for
from reverie.training.options import Options
from reverie.training.step import Engine

SIZE, CHANNELS = 32, 3
Made = tuple[Model, dict[str, Any], Options]  # a system, its phases' arguments, its training options
PACKAGES = (
    "diffusers==0.42.1",
    "huggingface-hub==2.4.0",
    "httpx2==2.16.2",
    "httpcore2==2.16.2",
    "importlib-metadata==8.7.0",
    *("certifi", "charset-normalizer", "h11", "idna", "pyyaml", "regex", "requests", "tqdm", "truststore", "urllib3"),
)


# The peer


def fetch_diffusers() -> str:
    """Its folder: by pip, without dependencies, so that nothing can replace this environment's torch."""
    folder = home() / "benchmarks" / "diffusion-peers"
    if not (folder / "diffusers").is_dir():
        command = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", str(folder)]
        subprocess.run([*command, *PACKAGES], check=True)
    return str(folder)


def peer_network(size: int, channels: int, widths: tuple[int, ...]) -> nn.Module:
    """diffusers' UNet2DModel with attention where the example has it."""
    from diffusers import UNet2DModel

    plain = len(widths) - 2
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=2,
        block_out_channels=widths,
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * plain,
        norm_num_groups=16,
    )


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def gigaflops(output: Callable[[], Tensor]) -> float:
    """Of a forward and a backward pass, a multiplication and an addition counted as two."""
    with FlopCounterMode(display=False) as counter:
        output().sum().backward()
    return counter.get_total_flops() / 1e9


def peer_gigaflops(size: int, channels: int, widths: tuple[int, ...]) -> float:
    """An image's."""
    with torch.device("meta"):
        net = peer_network(size, channels, widths)
        return gigaflops(lambda: net(torch.zeros(1, channels, size, size), torch.zeros(1)).sample)


def equal_widths(size: int, channels: int, count: int, levels: int = 3) -> tuple[int, ...]:
    """Channels of the peer's levels: within 5 % of so many parameters, with the least arithmetic."""
    near = []
    for widths in itertools.combinations_with_replacement(range(32, 257, 16), levels):
        with torch.device("meta"):
            measured = parameters(peer_network(size, channels, widths)) if widths[-1] <= 4 * widths[0] else 0
        if abs(measured / count - 1) <= 0.05:
            near.append(widths)
    if not near:
        raise SystemExit(f"No UNet2DModel of {levels} levels has about {count:,} parameters.")
    return min(near, key=lambda widths: peer_gigaflops(size, channels, widths))


def peer_steps(
    net: nn.Module,
    images: np.ndarray,
    batch: int,
    device: torch.device,
    average: Any,
    progress: Callable[[], float] = lambda: 0.0,
) -> Iterator[int]:
    """The example's loop, yielding the images of each step.

    Args:
        images: uint8 (N, H, W, C).
        average: diffusers' EMAModel of the network.
        progress: the share of the training that is done. The example's cosine schedule of the learning rate is read
            off it, and its warm-up of 500 steps ends at a tenth of the training at the latest.
    """
    from diffusers import DDPMScheduler

    chain = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    loader = DataLoader(TensorDataset(to_float(images).contiguous()), batch_size=batch, shuffle=True)
    step = 0
    while True:
        for (clean,) in loader:
            clean = clean.to(device)
            noise = torch.randn(clean.shape, device=device)
            timesteps = torch.randint(0, 1000, (len(clean),), device=device)
            output = net(chain.add_noise(clean, noise, timesteps), timesteps).sample
            loss = F.mse_loss(output, noise)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            done = progress()
            for group in optimizer.param_groups:
                group["lr"] = 1e-4 * min(1.0, max(step / 500, 10 * done)) * 0.5 * (1 + math.cos(math.pi * done))
            optimizer.step()
            optimizer.zero_grad()
            average.step(net.parameters())
            loss.item()  # the example's progress bar asks for it
            step += 1
            yield len(clean)


def peer_average(net: nn.Module) -> Any:
    """The example's EMA."""
    from diffusers.training_utils import EMAModel

    return EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)


# The contestants


def pictures(count: int = 4096) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, CHANNELS), np.uint8)


def preset() -> Made:
    """What `reverie train ddpm` trains."""
    recipe = recipe_for("ddpm", "cifar10")
    model = registry.build("ddpm", shape=SIZE, channels=CHANNELS, **recipe.get("model", {}))
    arguments = {k: v for k, v in recipe.get("training", {}).items() if k not in ("steps", "minutes")}
    return model, recipe.get("phases", {}), Options(steps=1, **arguments)


def fit_steps(system: Made, batch: int, device: torch.device) -> Iterator[int]:
    """reverie's training step, yielding the images of each."""
    keep_memory()
    model, phases, options = system
    model = model.to(device, memory_format=torch.channels_last)
    images = pictures()
    split = Split({"x": images, "label": np.full(len(images), -1, np.int64)})
    batches, precision = Batches(split, batch, 0, device=device), pick_precision("auto", device)
    arguments = {name: getattr(options, name) for name in ("ema", "clip", "accumulate", "warmup", "decay")}
    fit = Engine(model, stages_of(model, **phases), batches, precision, **arguments)
    for step in itertools.count():
        fit.step(step, min(1.0, step / 10_000))
        yield batch


def diffusers_loop(shared: dict[str, Any], batch: int, device: torch.device) -> Iterator[int]:
    net = peer_network(SIZE, CHANNELS, shared["widths"])
    net.load_state_dict(shared["weights"])
    net = net.to(device)
    return peer_steps(net, pictures(), batch, device, peer_average(net))


def same_loop(shared: dict[str, Any], batch: int, device: torch.device) -> Iterator[int]:
    widths = shared["widths"]
    kwargs = {"head_dim": 8, "norm_groups": 16, "norm_eps": 1e-5, "downsample_padding": 1}
    kwargs |= {"flip_sin_to_cos": True, "freq_shift": 0}
    model = registry.build("ddpm", shape=SIZE, channels=CHANNELS, schedule="linear")
    model.net = TextbookUNet(CHANNELS, widths, attention_levels=(len(widths) - 2,), **kwargs)
    model.net.load_state_dict(shared["weights"])
    with torch.no_grad():
        torch.testing.assert_close(model.net(shared["x"], shared["t"]), shared["y"], rtol=1e-4, atol=1e-4)
    return fit_steps((model, {}, Options(steps=1)), batch, device)


def preset_loop(shared: dict[str, Any], batch: int, device: torch.device) -> Iterator[int]:
    torch.manual_seed(0)
    return fit_steps(preset(), batch, device)


LOOPS = {"diffusers": diffusers_loop, "same network": same_loop, "default preset": preset_loop}


# The measurement


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def speed(loop: Iterator[int], seconds: float, device: torch.device) -> float:
    """Images a second over about this long."""
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        count += next(loop)
    wait(device)
    return count / (time.perf_counter() - began)


def serve(name: str, peers: str, shared: Path, batch: int, device: str, calls: Connection) -> None:
    """In a process of its own: train for as many seconds as each call asks, answer with images a second."""
    sys.path.append(peers)  # last: what this environment has goes first
    where = pick_device(device)
    loop = LOOPS[name](torch.load(shared, weights_only=True), batch, where)
    while seconds := calls.recv():
        calls.send(speed(loop, seconds, where))


def convolution_peak(dtype: torch.dtype, device: torch.device) -> float:
    """GFLOP/s."""

    def make(dtype: torch.dtype) -> tuple[Callable[[], object], float]:
        with device:
            work, flops = convolution(dtype)

        def finished() -> None:
            work()
            wait(device)

        return finished, flops

    return peak(make, dtype)


def measure(names: list[str], flags: argparse.Namespace, peers: str, shared: Path) -> dict[str, list[float]]:
    """Images a second of every loop in every round."""
    spawn = multiprocessing.get_context("spawn")
    calls: dict[str, Connection] = {}
    for name in names:
        calls[name], theirs = spawn.Pipe()
        arguments = (name, peers, shared, flags.batch, flags.device, theirs)
        spawn.Process(target=serve, args=arguments, daemon=True).start()
        theirs.close()  # so that a dead process ends the wait for its answer
    measured: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(flags.rounds + 1):
        for name, line in calls.items():
            line.send(flags.seconds if turn else min(2.0, flags.seconds))
            value = line.recv()
            if turn:  # the first steps allocate and choose kernels
                measured[name].append(value)
    for line in calls.values():
        line.send(0)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="a loop's share of a round")
    parser.add_argument("--batch", type=int, default=64, help="of all loops")
    parser.add_argument("--levels", type=int, choices=(3, 4), default=3, help="of diffusers' network")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    flags = parser.parse_args()
    device, peers = pick_device(flags.device), fetch_diffusers()
    sys.path.append(peers)
    net = preset()[0].net
    ours, mine = parameters(net), torch.zeros(1, CHANNELS, SIZE, SIZE)
    flops = dict.fromkeys(LOOPS, 0.0) | {"default preset": gigaflops(lambda: net(mine, torch.zeros(1)))}
    widths = equal_widths(SIZE, CHANNELS, ours, flags.levels)
    flops["diffusers"] = flops["same network"] = peer_gigaflops(SIZE, CHANNELS, widths)
    torch.manual_seed(0)
    peer = peer_network(SIZE, CHANNELS, widths)
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, batch {flags.batch}")
    output = importlib.metadata.version("diffusers")
    print(f"diffusers {output} {widths}: {parameters(peer):,} parameters, {flops['diffusers']:.2f} GFLOP a picture")
    print(f"default preset: {ours:,} parameters, {flops['default preset']:.2f} GFLOP a picture")
    bf16 = pick_precision("auto", device).bf16
    formats = dict.fromkeys(LOOPS, torch.bfloat16 if bf16 else torch.float32) | {"diffusers": torch.float32}
    peaks = {dtype: convolution_peak(dtype, device) for dtype in dict.fromkeys(formats.values())}
    for dtype, top in peaks.items():
        print(f"peak of a 3x3 convolution in {str(dtype)[6:]}: {top:.0f} GFLOP/s")
    with tempfile.TemporaryDirectory() as scratch:
        shared = Path(scratch) / "shared.pt"
        x, t = torch.randn(4, CHANNELS, SIZE, SIZE), torch.tensor([0, 10, 500, 999])
        with torch.no_grad():
            y = peer(x, t).sample
        torch.save({"widths": widths, "weights": peer.state_dict(), "x": x, "t": t, "y": y}, shared)
        measured = measure(list(LOOPS), flags, peers, shared)
    medians = {name: statistics.median(values) for name, values in measured.items()}
    for name, dtype in formats.items():
        reached, rounds = medians[name] * flops[name], ", ".join(f"{value:.0f}" for value in measured[name])
        print(
            f"{name:14}: {medians[name]:6.1f} images/s (rounds {rounds}); {reached:.0f} GFLOP/s = "
            f"{reached / peaks[dtype]:.0%} of the convolution peak of {str(dtype)[6:]}"
        )
    ratios = {name: medians[name] / medians["diffusers"] for name in medians}
    print(f"same network: {ratios['same network']:.2f} times diffusers (aim 1.5)")
    print(f"default preset: {ratios['default preset']:.2f} times diffusers (aim 8)")
    print(f"ratio: {ratios['default preset']:.2f}")


if __name__ == "__main__":
    main()
