"""A classifier of handwritten digits, to count the modes of Stacked MNIST. Trained once on MNIST (about a minute)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reverie.core.batch import Batch
from reverie.core.cache import Progress, home
from reverie.core.files import replacing
from reverie.core.precision import pick_precision
from reverie.data import Split, open_data
from reverie.data.batches import Batches
from reverie.media.medium import to_float
from reverie.nets.convolutional import Encoder
from reverie.optim.phase import Phase, Stage, adamw
from reverie.training.step import Engine

STEPS, BATCH = 1500, 128
_VERSION = 2


class DigitClassifier(nn.Module):
    """(B, 1, 28, 28) in [-1, 1] to logits of the ten digits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Encoder((28, 28), 1, 10, width=32)

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image)

    def stages(self) -> list[Stage]:
        return [Stage([Phase("classifier", adamw(self.parameters(), 2e-3, 0.05), self.loss)])]

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(self(batch["x"]).float(), batch["label"])}


def classifier(progress: Progress | None = None) -> tuple[DigitClassifier, float]:
    """The classifier and its accuracy on MNIST's test digits; cached once trained."""
    mnist = open_data("mnist", progress=progress)
    path = home() / "classifiers" / f"mnist-{_VERSION}.safetensors"
    net = DigitClassifier()
    if path.is_file():
        net.load_state_dict(load_file(path))
    else:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = DigitClassifier()
        _train(net, mnist.train, progress)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file({name: value.contiguous() for name, value in net.state_dict().items()}, temporary)
    net.eval().requires_grad_(False)
    correct = predict_digits(net, mnist.held_out["x"])[:, 0] == torch.from_numpy(mnist.held_out.labels)
    return net, float(correct.double().mean())


def _train(net: DigitClassifier, split: Split, progress: Progress | None) -> None:
    batches = Batches(split, BATCH, seed=0)
    engine = Engine(net, net.stages(), batches, pick_precision("auto", torch.device("cpu")), ema=0.99)
    for step in range(STEPS):
        engine.step(step, step / STEPS)
        if progress:
            progress(step + 1, STEPS, "training a digit classifier")
    net.load_state_dict(engine.best.state_dict())


@torch.inference_mode()
def predict_digits(net: DigitClassifier, images: np.ndarray) -> Tensor:
    """The digit (N, C) in each channel of uint8 images (N, 28, 28, C)."""
    digits = []
    for low in range(0, len(images), 512):
        part = np.array(images[low : low + 512]).transpose(0, 3, 1, 2)  # (n, C, 28, 28)
        flat = np.ascontiguousarray(part.reshape(-1, *part.shape[2:], 1))
        digits.append(net(to_float(flat)).argmax(1).view(len(part), -1))
    return torch.cat(digits)
