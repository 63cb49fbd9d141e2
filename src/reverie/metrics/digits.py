"""A reader of handwritten digits, for counting the modes of Stacked MNIST. Trained once on MNIST (about a minute)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reverie.core.batch import Batch
from reverie.core.files import replacing
from reverie.core.precision import pick_precision
from reverie.data import Split, open_data
from reverie.data.batches import Batches
from reverie.home import Progress, home
from reverie.media.medium import to_float
from reverie.nets.convolutional import Encoder
from reverie.optim.phase import Phase, Stage, adamw
from reverie.training.step import Engine

STEPS, BATCH = 1500, 128
_VERSION = 1


class Reader(nn.Module):
    """(B, 1, 28, 28) in [-1, 1] to logits of the ten digits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Encoder((28, 28), 1, 10, width=32)

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image)

    def stages(self) -> list[Stage]:
        return [Stage([Phase("reader", adamw(self.parameters(), 2e-3, 0.05), self.loss)])]

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(self(batch["x"]).float(), batch["label"])}


def classifier(progress: Progress | None = None) -> tuple[Reader, float]:
    """The reader, and the share of MNIST's test digits that it reads right; kept in the cache once trained."""
    mnist = open_data("mnist", progress=progress)
    path = home() / "classifiers" / f"mnist-{_VERSION}.safetensors"
    reader = Reader()
    if path.is_file():
        reader.load_state_dict(load_file(path))
    else:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            reader = Reader()
        _train(reader, mnist.train, progress)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as aside:
            save_file({name: value.contiguous() for name, value in reader.state_dict().items()}, aside)
    reader.eval().requires_grad_(False)
    right = read(reader, mnist.held_out["x"])[:, 0] == torch.from_numpy(mnist.held_out.labels)
    return reader, float(right.double().mean())


def _train(reader: Reader, split: Split, progress: Progress | None) -> None:
    batches = Batches(split, BATCH, seed=0)
    engine = Engine(reader, reader.stages(), batches, pick_precision("auto", torch.device("cpu")), ema=0.99)
    for step in range(STEPS):
        engine.step(step, step / STEPS)
        if progress:
            progress(step + 1, STEPS, "training a reader of digits")
    reader.load_state_dict(engine.best.state_dict())


@torch.inference_mode()
def read(reader: Reader, images: np.ndarray) -> Tensor:
    """The digit (N, C) in each channel of uint8 pictures (N, 28, 28, C)."""
    found = []
    for low in range(0, len(images), 512):
        part = np.array(images[low : low + 512]).transpose(0, 3, 1, 2)  # (n, C, 28, 28)
        flat = np.ascontiguousarray(part.reshape(-1, *part.shape[2:], 1))
        found.append(reader(to_float(flat)).argmax(1).view(len(part), -1))
    return torch.cat(found)
