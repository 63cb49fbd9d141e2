"""A classifier whose first part is a model's encoder, and how it is trained on few labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core import registry
from reverie.core.batch import Batch
from reverie.core.card import config_of, name_of
from reverie.core.errors import UsageError
from reverie.core.layout import to_device_layout
from reverie.core.verbs import Model
from reverie.data.batches import in_order
from reverie.data.types import Dataset, Split
from reverie.evaluation.modes import Probe, regression
from reverie.inference.rows import device_of, evaluating, space_of, space_option
from reverie.optim.phase import Phase, Stage, adamw
from reverie.training.loop import fit

BATCH = 100
WARMUP = 10  # steps
DECAY = 0.01  # of a linear probe: cross-entropy + decay / 2 |weight|^2 is minimised


class Classifier(nn.Module):
    """Logits of classes: a linear layer on the standardised codes of a model.

    The layer begins as a probe of the codes: from other values it would at first distort an encoder that is good (Kumar
    et al., ICLR 2022, arXiv:2202.10054).

    Args:
        model: with ``encode``; it is trained, too.
        probe: of its codes.
        parameters: of the encoder.
        space: the latent space of the codes; by default the first.
    """

    def __init__(self, model: Model, probe: Probe, parameters: Sequence[nn.Parameter], space: str | None = None):
        super().__init__()
        self.model, self.encoder_parameters, self.options = model, list(parameters), space_option(model, space)
        self.register_buffer("mean", probe.mean)
        self.register_buffer("deviation", probe.deviation)
        self.linear = nn.Linear(len(probe.mean), len(probe.bias))
        self.linear.load_state_dict({"weight": probe.weight, "bias": probe.bias})

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, *shape) to logits (B, classes)."""
        return self.linear((self.model.encode(image, **self.options).flatten(1).float() - self.mean) / self.deviation)

    def stages(self, lr: float = 1e-3, weight_decay: float = 0.01) -> list[Stage]:
        parameters = [*self.encoder_parameters, *self.linear.parameters()]
        return [Stage([Phase("classify", adamw(parameters, lr, weight_decay), self.loss)])]

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        """Cross-entropy, mean over images, in nats."""
        return {"loss": F.cross_entropy(self(batch["x"]).float(), batch["label"])}


def linear_probe(codes: Tensor, labels: Tensor, unlabelled: Tensor, classes: int) -> Probe:
    """Logistic regression of classes on codes (N, D), standardised by codes (M, D) of unlabelled images."""
    deviation, mean = torch.std_mean(unlabelled, 0)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    start = codes.new_zeros(classes, codes.shape[1]), codes.new_zeros(classes)
    return Probe(mean, deviation, *regression((codes - mean) / deviation, labels, *start, DECAY), DECAY)


def check_trainable(name: str, model: Model, image: Tensor, space: str | None = None) -> None:
    """Raise a UsageError unless a model can be built anew and its ``encode`` passes gradients."""
    codes = space_of(model, space)
    if codes and codes.encode == "invert":
        raise UsageError(f"{name} encodes by an iterative search: no gradient trains it. Take a model with an encoder.")
    if config_of(model)["kwargs"] is None:
        raise UsageError(f"{name} was not built by rv.build, so it cannot be built anew with random weights.")
    if not model_parameters(rebuilt(model), image, space):
        raise UsageError(f"The codes of {name_of(model)} have no gradient: its encoder cannot be trained.")


def rebuilt(model: Model, seed: int | None = None) -> Model:
    """The same system on the same device, with the weights of the model, or with the initial weights of a seed."""
    config = config_of(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        fresh = registry.build(config["name"], **config["kwargs"])
    if seed is None:
        fresh.load_state_dict(model.state_dict())
    return to_device_layout(fresh, device_of(model))


def model_parameters(model: Model, image: Tensor, space: str | None = None) -> list[nn.Parameter]:
    """The parameters of the encoder: those that a gradient of codes reaches."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        code = model.encode(image, **space_option(model, space))
        if not code.requires_grad:
            return []
        grads = torch.autograd.grad(code.float().sum(), parameters, allow_unused=True)
    return [parameter for parameter, grad in zip(parameters, grads, strict=True) if grad is not None]


def train(classifier: Classifier, data: Dataset, labelled: Split, steps: int, seed: int) -> None:
    """Train on labelled images: so many steps of AdamW, batches of up to 100 images, a cosine schedule."""
    options: dict[str, Any] = {"ema": 0.0, "warmup": min(WARMUP, steps // 2), "log_every": steps}
    options |= {"device": str(device_of(classifier)), "batch_size": min(BATCH, len(labelled)), "seed": seed}
    for _ in fit(classifier, replace(data, train=labelled), steps=steps, **options):
        pass


def accuracy(classifier: Classifier, split: Split, rows: int = 256) -> float:
    """The share of images of a split whose most probable class is their label."""
    hits = 0
    with evaluating(classifier):
        for batch in in_order(split, rows, device_of(classifier)):
            hits += int((classifier(batch["x"]).argmax(1) == batch["label"]).sum())
    return hits / len(split)
