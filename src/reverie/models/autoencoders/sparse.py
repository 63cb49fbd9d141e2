"""Sparse autoencoders: a code of many units, few of which are active for an image.

L1 penalty: Olshausen and Field, "Emergence of simple-cell receptive field properties by learning a sparse code",
Nature 1996; weighted by the norms of the decoder's columns as in Conerly et al., "Update on how we train SAEs",
Transformer Circuits 2024. KL to a target rate: Ng, "Sparse autoencoder", CS294A lecture notes, 2011. k-sparse: Makhzani
and Frey, "k-Sparse autoencoders", ICLR 2014, arXiv:1312.5663.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.annotations import Channels, Classes, Count, Range, Shape, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Output
from reverie.core.errors import UsageError, argument
from reverie.core.noise import Noise
from reverie.models.autoencoders.autoencoder import NETWORKS, Autoencoder, Loss, Networks, inner
from reverie.nets import shapes
from reverie.optim.phase import Phase, Stage, adamw

_MOMENTUM = 0.1  # share of a step in the running means of the activations
_EDGE = 1e-4  # of these means, from 0 and 1


@dataclass(frozen=True)
class Sparsity:
    """How the code is made sparse.

    Attributes:
        sparsity: "l1" (ReLU units and an L1 penalty), "kl" (sigmoid units, a penalty on the distance of their mean
            activation from ``rate``), or "top-k" (linear units, of which the ``k`` largest are kept).
        sparsity_weight: of the penalty of "l1" and "kl", beside the squared error summed over the pixels.
        rate: mean activation of a unit that "kl" aims at.
        k: units that "top-k" keeps for an image.
    """

    sparsity: Literal["l1", "kl", "top-k"] = "top-k"
    sparsity_weight: Weight = 0.5
    rate: Annotated[float, Range(0.001, 0.999)] = 0.05
    k: Count = 25


def bernoulli_kl(rate: float, mean: Tensor) -> Tensor:
    """KL(Bernoulli(rate) || Bernoulli(mean)) of each mean, nats."""
    return rate * (rate / mean).log() + (1 - rate) * ((1 - rate) / (1 - mean)).log()


class SparseCode(nn.Module):
    """The activation of a sparse code, and its penalty.

    Args:
        latent: units.
        options: which activation and penalty.

    Attributes:
        mean: (latent,) running means of the units' activations ("kl").
    """

    mean: Tensor

    def __init__(self, latent: int, options: Sparsity):
        super().__init__()
        self.options = options
        if options.sparsity == "kl":
            self.register_buffer("mean", torch.full((latent,), options.rate))

    def forward(self, x: Tensor, progress: float | Tensor = 1.0) -> Tensor:
        """(B, latent) to the code (B, latent).

        Args:
            progress: of training; "top-k" keeps all units at first, and ``k`` from the middle on, so that few die.
        """
        x = x.float()
        if self.options.sparsity == "kl":
            return x.sigmoid()
        if self.options.sparsity == "l1":
            return x.relu()
        k, units = self.options.k, x.shape[1]
        largest = x.topk(round(k + (units - k) * max(0.0, 1 - 2 * float(progress))), 1)
        return torch.zeros_like(x).scatter(1, largest.indices, largest.values)

    def penalty(self, code: Tensor, dictionary: Tensor) -> Tensor:
        """The penalty of codes (B, latent), a mean over rows.

        "l1" is sum_j |h_j| |d_j|, so that a smaller code with a larger decoder gains nothing. "kl" is sum_j KL(rate ||
        mean_j), linear around the running means: its gradient is the KL term's, and rows count one by one.

        Args:
            dictionary: (outputs, latent), the decoder's first weights, with columns d_j.
        """
        if self.options.sparsity == "l1":
            return (code * dictionary.norm(dim=0)).sum(1).mean()
        if self.options.sparsity == "kl":
            rate, mean = self.options.rate, self.mean.clamp(_EDGE, 1 - _EDGE)
            slope = (1 - rate) / (1 - mean) - rate / mean
            return bernoulli_kl(rate, mean).sum() + ((code.mean(0) - mean) * slope).sum()
        return code.new_zeros(())

    def follow(self, code: Tensor) -> None:
        """Move the running means towards those of a step's codes (B, latent)."""
        self.mean.lerp_(code.mean(0), _MOMENTUM)

    def active(self, code: Tensor) -> Tensor:
        """Active units of each code (B,): those that are not 0, of "kl" the sum of the activations."""
        return code.sum(1) if self.options.sparsity == "kl" else code.count_nonzero(1).to(code.dtype)


class SparseAutoencoder(nn.Module):
    """An autoencoder with a sparse code, and, where it has a classifier, a class term: l_rec + weight l_class.

    Args:
        autoencoder: its encoder ends in a ``SparseCode``.
        classifier: code (B, latent) to the classes' logits (B, classes).
        class_weight: of the classifier's cross-entropy in nats.
    """

    def __init__(self, autoencoder: Autoencoder, classifier: nn.Module | None = None, class_weight: float = 0.0):
        super().__init__()
        self.autoencoder, self.classifier, self.class_weight = autoencoder, classifier, class_weight

    @property
    def card(self) -> Card:
        columns = {"label"} if self.classifier is not None else ()
        return replace(self.autoencoder.card, columns=columns, networks=NETWORKS)

    @property
    def code(self) -> SparseCode:
        """The activation of the code, and its penalty."""
        return self.autoencoder.encoder[1]  # type: ignore[index]

    @property
    def dictionary(self) -> Tensor:
        """The decoder's first weights (outputs, latent): what each unit adds."""
        return next(m for m in self.autoencoder.decoder.modules() if isinstance(m, nn.Linear)).weight

    # Training

    def stages(self, lr: Weight = 2e-3, weight_decay: Weight = 0.0) -> list[Stage]:
        phase = Phase("reconstruct", adamw(self.parameters(), lr, weight_decay), self.loss)
        if self.code.options.sparsity != "kl":
            return [Stage([phase], forward=self.codes)]
        return [Stage([phase], forward=self.codes, update=self.update, gather=("code",))]

    def codes(self, batch: Batch) -> dict[str, Tensor]:
        """``code`` (B, latent) of a batch."""
        return {"code": self.code(self.autoencoder.encoder[0](batch["x"]), batch.progress)}  # type: ignore[index]

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        """Reconstruction loss, penalty per pixel, and the class term; ``active`` counts units of a code."""
        image = batch["x"]
        code = (outputs or self.codes(batch))["code"]
        error = self.autoencoder.error(self.autoencoder.decoder(code).float(), image)
        penalty = self.code.penalty(code, self.dictionary)
        loss = error + self.code.options.sparsity_weight * penalty / image[0].numel()
        metrics = {"error": error, "active": self.code.active(code.detach()).mean()}
        if self.classifier is not None:
            logits, label = self.classifier(code).float(), batch["label"]
            nats = F.cross_entropy(logits, label, ignore_index=-1, reduction="none").mean()  # no class counts as 0
            loss = loss + self.class_weight * nats
            metrics |= {"class_nats": nats, "accuracy": (logits.argmax(1) == label).float().mean()}
        return {"loss": loss} | metrics

    def update(self, batch: Batch, outputs: Any, stats: Any) -> dict[str, Tensor]:
        """Follow the mean activations of the global batch; ``kl`` is their distance from the target, nats."""
        self.code.follow(outputs["code"])
        mean = self.code.mean.clamp(_EDGE, 1 - _EDGE)
        return {"kl": bernoulli_kl(self.code.options.rate, mean).sum()}

    def held_out_scores(self, batch: Batch) -> dict[str, Tensor]:
        """Active units of each image (B,), and whether the classifier is right."""
        code = self.encode(batch["x"])
        scores = {"active": self.code.active(code)}
        if self.classifier is not None:
            scores["accuracy"] = (self.classifier(code).argmax(1) == batch["label"]).float()
        return scores

    # Verbs

    encode, features, decode = inner(Autoencoder.encode), inner(Autoencoder.features), inner(Autoencoder.decode)

    def sample(self, noise: Noise, **condition: Any) -> Tensor:
        """Decode sparse codes of N(0, I), which nothing in training made likely: an autoencoder is no generator."""
        return self.decode(self.code(noise(self.autoencoder.latent_size)))


def sparse_autoencoder(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    latent: Count = 256,
    loss: Loss = "mse",
    class_weight: Weight = 0.0,
    code: Sparsity = Sparsity(),
    networks: Networks = Networks("dense", hidden=()),
) -> SparseAutoencoder:
    """A code of many units, few of which are active for an image; each unit becomes a stroke, a part or a garment.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
        latent: units of the code.
        loss: "mse" mean (x - x')^2, "l1" mean |x - x'|, "bce" cross-entropy with pixels as probabilities,
            "perceptual" relative error of VGG-16's activations.
        class_weight: of the cross-entropy of a softmax classifier on the code, in nats; 0 for no classifier.
    """
    if code.sparsity == "top-k" and code.k > latent:
        raise UsageError(f"{argument('k')} is {code.k}, but the code has {latent} units: {argument('latent')}.")
    if class_weight and classes < 2:
        raise UsageError(f"{argument('class_weight')} needs data with at least two classes (sub-folders are classes).")
    size = shapes.sides(shape)
    encoder = nn.Sequential(networks.encoder(size, channels, latent), SparseCode(latent, code))
    decoder = networks.decoder(size, channels, latent)
    inner = Autoencoder(encoder, decoder, Output("image", size, channels), latent, loss)
    classifier = nn.Linear(latent, classes) if class_weight else None
    return SparseAutoencoder(inner, classifier, class_weight)
