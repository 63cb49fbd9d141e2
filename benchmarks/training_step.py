"""How many images a second does a VAE training step take in: reverie's loop against the textbook's, same network.

The textbook loop is what tutorials show: a Dataset of PIL images turned into tensors one by one, a shuffling
DataLoader in the same process, float32 in NCHW, torch.randn_like, torch.optim.Adam, loss.item() for the log. reverie's
is what `reverie train` runs: uint8 gather, bf16 in channels_last where the machine has it, fused AdamW, gradient
clipping, EMA. Both loops train the network of the default recipe from the same weights, each in a process of its own
(so that neither inherits the other's allocator); they are timed in turn, several rounds, and the ratio is that of the
medians. Beside them: the machine's measured peak for a large matrix product and for a 3x3 convolution, and the share of
it that each loop reaches.

Run:  python benchmarks/training_step.py [--rounds 5] [--seconds 4]
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torch.utils.flop_counter import FlopCounterMode

import reverie as rv
from reverie.core.precision import keep_memory, pick_device, pick_precision
from reverie.data.batches import Batches
from reverie.data.types import Dataset
from reverie.optim.phase import stages_of
from reverie.recipes import recipe_for
from reverie.training.step import Engine

RECIPE = recipe_for("vae", "fashion")
BATCH = RECIPE["training"].get("batch_size", 128)


def network(data: Dataset) -> nn.Module:
    torch.manual_seed(0)
    return rv.build("vae", data, **RECIPE["model"])


class PilPictures(TorchDataset):
    """Images and labels one by one, through the steps that torchvision's MNIST classes and ToTensor take."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.images, self.labels = torch.from_numpy(np.array(images)), torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        picture = Image.fromarray(self.images[index, :, :, 0].numpy())
        tensor = torch.from_numpy(np.array(picture, np.uint8, copy=True))
        tensor = tensor.view(picture.size[1], picture.size[0], 1).permute(2, 0, 1).contiguous()
        return tensor.to(torch.float32).div(255), int(self.labels[index])


def textbook(data: Dataset) -> Iterator[int]:
    """Yields the images of each step."""
    model = network(data)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(PilPictures(data.train["x"], data.train.labels), batch_size=BATCH, shuffle=True)
    total = 0.0
    while True:
        for image, _ in loader:
            optimizer.zero_grad()
            mean, log_var = model.encoder(image * 2 - 1).chunk(2, 1)
            z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
            output = torch.sigmoid(model.decoder(z))
            bce = F.binary_cross_entropy(output, image, reduction="sum")
            kld = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())
            loss = bce + kld
            loss.backward()
            total += loss.item()
            optimizer.step()
            yield len(image)


def ours(data: Dataset) -> Iterator[int]:
    """Yields the images of each step."""
    device = pick_device("cpu")
    keep_memory()
    model = network(data).to(memory_format=torch.channels_last)
    fit = Engine(model, stages_of(model), Batches(data.train, BATCH, 0), pick_precision("auto", device))
    step = 0
    while True:
        fit.step(step, min(1.0, step / 10_000))
        step += 1
        yield BATCH


def speed(loop: Iterator[int], seconds: float) -> float:
    """Images a second over about this long."""
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        count += next(loop)
    return count / (time.perf_counter() - began)


def serve(name: str, calls: Connection) -> None:
    """In a process of its own: train for as many seconds as each call asks, answer with images a second."""
    loop = {"textbook": textbook, "reverie": ours}[name](rv.data("fashion"))
    while seconds := calls.recv():
        calls.send(speed(loop, seconds))


def flops_per_image(data: Dataset) -> float:
    """Multiply-adds of forward and backward, counted twice (a multiplication and an addition), per image."""
    model = network(data)
    image = torch.zeros(4, data.spec.channels, *data.spec.shape)
    with FlopCounterMode(display=False) as counter:
        mean = model.encoder(image).chunk(2, 1)[0]
        model.decoder(mean).sum().backward()
    return counter.get_total_flops() / 4


def peak(make: Callable[[torch.dtype], tuple[Callable[[], object], float]], dtype: torch.dtype) -> float:
    """The best GFLOP/s of several tries."""
    work, flops = make(dtype)
    work()
    best = 0.0
    for _ in range(12):
        began = time.perf_counter()
        work()
        best = max(best, flops / (time.perf_counter() - began) / 1e9)
    return best


def matmul(dtype: torch.dtype) -> tuple[Callable[[], object], float]:
    a, b = (torch.randn(2048, 2048, dtype=dtype) for _ in range(2))
    return lambda: a @ b, 2 * 2048**3


def convolution(dtype: torch.dtype) -> tuple[Callable[[], object], float]:
    layer = nn.Conv2d(128, 128, 3, padding=1, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_(False)
    x = torch.randn(128, 128, 14, 14, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return lambda: layer(x), 2 * 128 * 14 * 14 * 128 * 128 * 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="a loop's share of a round")
    flags = parser.parse_args()
    data = rv.data("fashion")
    flops = flops_per_image(data)
    precision = pick_precision("auto", pick_device("cpu"))
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {BATCH}, "
        f"{flops / 1e6:.0f} MFLOP a picture"
    )
    peaks = {d: (peak(matmul, d), peak(convolution, d)) for d in (torch.float32, torch.bfloat16)}
    for dtype, (product, conv) in peaks.items():
        print(f"peak {str(dtype)[6:]:8}: matrix product {product:5.0f} GFLOP/s, 3x3 convolution {conv:5.0f} GFLOP/s")
    spawn = multiprocessing.get_context("spawn")
    calls: dict[str, Connection] = {}
    for name in ("textbook", "reverie"):
        calls[name], theirs = spawn.Pipe()
        spawn.Process(target=serve, args=(name, theirs), daemon=True).start()

    def measure(name: str, seconds: float) -> float:
        calls[name].send(seconds)
        return calls[name].recv()

    rates: dict[str, list[float]] = {name: [] for name in calls}
    for name in calls:
        measure(name, 1.5)  # the first steps allocate and choose kernels
    for _ in range(flags.rounds):
        for name in calls:
            rates[name].append(measure(name, flags.seconds))
    for connection in calls.values():
        connection.send(0)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, dtype in (("textbook", torch.float32), ("reverie", torch.bfloat16 if precision.bf16 else torch.float32)):
        reached = medians[name] * flops / 1e9
        rounds = ", ".join(f"{v:.0f}" for v in rates[name])
        print(
            f"{name:9}: {medians[name]:6.0f} images/s (rounds {rounds}); {reached:4.0f} GFLOP/s = "
            f"{reached / peaks[dtype][0]:.0%} of the matrix and {reached / peaks[dtype][1]:.0%} of the "
            f"convolution peak of {str(dtype)[6:]}"
        )
    print(f"ratio: {medians['reverie'] / medians['textbook']:.2f}")


if __name__ == "__main__":
    main()
