"""Train the bundled encoder: ``python scripts/make_small_encoder.py [--steps N] [--out FILE]`` (20 minutes on 2 cores).

It learns, on the bundled fashion and emoji pictures at 32x32, to name the picture's class (ten kinds of clothes, nine
groups of emoji) and how the picture was degraded: blur, noise, brightness, contrast, tint, and a pasted patch. Half of
the pictures stay as they are. The weights are stored in float16.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

import reverie as rv
from reverie.core.files import replacing
from reverie.core.noise import Noise
from reverie.core.precision import pick_precision
from reverie.core.verbs import Batch
from reverie.data.batches import Batches
from reverie.data.types import Split
from reverie.evaluation.resize import resize
from reverie.media.medium import to_float
from reverie.nets.small import DIMENSION, SIZE, SmallEncoder
from reverie.optim.phase import Phase, Stage, adamw
from reverie.pretrained.weights import digest
from reverie.training.step import Engine

KINDS = ("blur", "noise", "brightness", "contrast", "tint", "patch")
BATCH = 128
FILE = Path(rv.__file__).parent / "nets" / "small.safetensors"


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur, a standard deviation (B,) in pixels for each picture."""
    offsets = torch.arange(-4, 5, device=x.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma.clamp(min=1e-2)[:, None] ** 2))
    kernel = kernel / kernel.sum(1, keepdim=True)  # (B, 9)
    windows = F.pad(x, (4, 4, 0, 0), mode="replicate").unfold(3, 9, 1)  # (B, C, H, W, 9)
    x = torch.einsum("bchwk,bk->bchw", windows, kernel)
    windows = F.pad(x, (0, 0, 4, 4), mode="replicate").unfold(2, 9, 1)
    return torch.einsum("bchwk,bk->bchw", windows, kernel)


def degrade(x: Tensor, rng: Noise) -> tuple[Tensor, Tensor]:
    """Each kind with probability one quarter to half of the pictures; and the strengths (B, kinds) in [-1, 1]."""
    touched = rng.bernoulli(0.5, 1) & rng.bernoulli(0.4, len(KINDS))
    strength = rng.uniform(len(KINDS), low=0.0, high=1.0) * touched
    sign = torch.where(rng.bernoulli(0.5, 3), 1.0, -1.0)
    strength[:, 2:5] *= sign
    by = dict(zip(KINDS, strength[:, :, None, None, None].unbind(1), strict=True))
    donor = x.roll(1, 0)
    side = torch.arange(x.shape[2], device=x.device)
    corner = rng.uniform(2, low=0.0, high=float(x.shape[2]))[:, :, None]
    reach = by["patch"][:, :, 0, 0] * x.shape[2] / 2  # (B, 1)
    inside = ((side - corner[:, 0]).abs() < reach)[:, None, :, None] & ((side - corner[:, 1]).abs() < reach)[
        :, None, None
    ]
    x = torch.where(inside, donor, x)
    x = blur(x, 2 * strength[:, 0])
    hue = torch.tensor([1.0, 0.0, -1.0], device=x.device)[:, None, None]
    x = (x + 1) * (1 + 0.4 * by["brightness"] + 0.3 * by["tint"] * hue) - 1
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * (1 + 0.6 * by["contrast"])
    x = x + 0.3 * by["noise"] * rng(*x.shape[1:])
    return x.clamp(-1, 1), strength


class Student(nn.Module):
    """The encoder and the two heads that teach it."""

    def __init__(self, classes: int):
        super().__init__()
        self.encoder = SmallEncoder()
        self.names = nn.Linear(DIMENSION, classes)
        self.degradations = nn.Linear(DIMENSION, len(KINDS))

    def stages(self, lr: float = 2e-3) -> list[Stage]:
        return [Stage([Phase("student", adamw(self.parameters(), lr, 0.05), self.loss)])]

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        rng = batch.rng
        image = torch.where(rng.bernoulli(0.3, 1, 1, 1), batch["x"].flip(3), batch["x"])
        image, strength = degrade(image, rng)
        features = self.encoder(image)
        named = F.cross_entropy(self.names(features).float(), batch["label"], label_smoothing=0.05)
        told = F.mse_loss(self.degradations(features).float(), strength)
        return {"loss": named + 10 * told, "named": named, "told": told}


def pictures(train: bool) -> Split:
    """Fashion and emoji (both styles) at 32x32 in colour, in one split with one list of classes."""
    images, labels = [], []
    for name, first in (("fashion", 0), ("emoji", 10)):
        data = rv.data(name)
        split = data.train if train else data.held_out
        for array in (split["x"], split.get("source")):
            if array is not None:
                small = resize(
                    torch.from_numpy(np.array(array)).permute(0, 3, 1, 2).float(), SIZE, "bilinear-antialias"
                )
                images.append(small.round().to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy())
                labels.append(split.labels + first)
    stacked = np.concatenate(images)
    return Split({"x": stacked, "label": np.concatenate(labels)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--out", type=Path, default=FILE)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    train, held = pictures(True), pictures(False)
    student = Student(int(train.labels.max()) + 1).to(memory_format=torch.channels_last)
    device = torch.device("cpu")
    fit = Engine(student, student.stages(), Batches(train, BATCH, 0), pick_precision("auto", device), ema=0.999)
    for step in range(arguments.steps):
        found = fit.step(step, step / arguments.steps)
        if step % 500 == 0:
            print(step, {name: round(float(value), 4) for name, value in found.items()}, flush=True)
    best = fit.best.eval()
    with torch.inference_mode():
        features = torch.cat([best.encoder(to_float(held["x"][i : i + 256])) for i in range(0, len(held), 256)])
        right = best.names(features).argmax(1).numpy() == held.labels
        clothes = held.labels < 10
        blurred, strength = degrade(to_float(held["x"]), Noise.of_step(1, 0, len(held)))
        told = best.degradations(torch.cat([best.encoder(part) for part in blurred.split(256)]))
    print(f"held out: clothes named right {right[clothes].mean():.3f}, emoji groups {right[~clothes].mean():.3f}")
    explained = 1 - (told - strength).square().mean(0) / strength.var(0)
    print("variance of each degradation explained:", dict(zip(KINDS, explained.numpy().round(2).tolist(), strict=True)))
    stored = {name: value.half().contiguous() for name, value in best.encoder.state_dict().items()}
    with replacing(arguments.out) as aside:
        aside.write_bytes(save(stored))
    print(f"{arguments.out.stat().st_size:,} bytes in {arguments.out.name}; its pin in weights.py: {digest(stored)}")


if __name__ == "__main__":
    main()
