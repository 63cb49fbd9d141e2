"""A stack of binary restricted Boltzmann machines, trained layer by layer (Hinton, Osindero and Teh, Neural Computation
2006) by persistent contrastive divergence (Tieleman, ICML 2008)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie import Card, Noise, Phase, Stage
from reverie.core.annotations import Channels, Classes, Side
from reverie.core.batch import Batch
from reverie.core.card import Output, Space
from reverie.core.errors import UsageError
from reverie.core.noise import fold
from reverie.core.verbs import Frame


class RBM(nn.Module):
    """E(v, h) = -v'Wh - b'v - c'h of binary v and h, and the persistent chains that its gradient needs.

    Probabilities are float64: a rounding difference between batch sizes then flips no draw.
    """

    chain: Tensor
    cursor: Tensor

    def __init__(self, visible: int, hidden: int, chains: int):
        super().__init__()
        self.weight = nn.Parameter(0.05 * torch.randn(visible, hidden))
        self.visible_bias, self.hidden_bias = nn.Parameter(torch.zeros(visible)), nn.Parameter(torch.zeros(hidden))
        self.register_buffer("chain", torch.zeros(chains, visible))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.int64))

    def hidden(self, v: Tensor) -> Tensor:
        """p(h = 1 | v), (B, hidden) float64."""
        return torch.sigmoid(v.double() @ self.weight.double() + self.hidden_bias.double())

    def visible(self, h: Tensor) -> Tensor:
        """p(v = 1 | h), (B, visible) float64."""
        return torch.sigmoid(h.double() @ self.weight.double().T + self.visible_bias.double())

    def sweep(self, v: Tensor, rng: Noise) -> Tensor:
        """One step of Gibbs sampling, (B, visible)."""
        h = sampled(self.hidden(v), rng)
        return sampled(self.visible(h), rng)

    def free_energy(self, v: Tensor) -> Tensor:
        """-log sum_h exp(-E(v, h)), (B,) float64."""
        v = v.double()
        inputs = v @ self.weight.double() + self.hidden_bias.double()
        return -(v @ self.visible_bias.double()) - F.softplus(inputs).sum(1)


def sampled(p: Tensor, rng: Noise) -> Tensor:
    """0 or 1 (B, D) float32 with probabilities (B, D)."""
    return rng.bernoulli(p, p.shape[1]).float()


class RBMStack(nn.Module):
    """Each RBM learns the hidden units of the one below; samples come down from a Gibbs chain of the topmost.

    Args:
        size, channels: of the images, whose brightness is the probability of a visible 1.
        hidden: units of each layer.
        chains: persistent chains of each layer, at least as many as a batch has rows.
    """

    def __init__(
        self,
        size: Side,
        channels: Channels,
        classes: Classes = 0,
        hidden: tuple[int, ...] = (128, 64),
        chains: int = 64,
    ):
        super().__init__()
        self.shape = (channels, size, size)
        units = [channels * size**2, *hidden]
        self.layers = nn.ModuleList(RBM(v, h, chains) for v, h in pairwise(units))
        self.latent_shape = (units[-1],)

    @property
    def card(self) -> Card:
        output = Output("image", self.shape[1:], self.shape[0])
        return Card(output=output, latents={"h": Space(self.latent_shape, "model", "mean", kind="binary")})

    def stages(self, lr: float = 0.05) -> list[Stage]:
        """A stage for each layer."""
        stages = []
        for level, layer in enumerate(self.layers):
            optimizer = torch.optim.SGD(layer.parameters(), lr, momentum=0.5)
            stages.append(
                Stage(
                    [Phase("pcd", optimizer, partial(self.loss, layer), graph=False)],
                    name=f"layer-{level + 1}",
                    prepare=partial(self.start, level),
                    forward=partial(self.gibbs, level),
                    update=partial(self.keep, layer),
                    gather=("slot", "model"),
                    precision="fp32",
                )
            )
        return stages

    def start(self, level: int, batches: Any, fresh: bool) -> None:
        """Random chains; visible biases of the data's mean."""
        layer, batch = self.layers[level], batches.global_batch(0)
        chains = len(layer.chain)
        if chains < batches.batch_size:
            raise UsageError(f"chains must be at least the batch size {batches.batch_size}, not {chains}.")
        rng = Noise.of_step(fold(batches.seed, "prepare", level), 0, chains, layer.chain.device)
        layer.chain.copy_(rng.bernoulli(0.5, layer.chain.shape[1]))
        layer.cursor.zero_()
        if fresh:
            mean = self.below(level, batch).double().mean(0).clamp(0.05, 0.95)
            layer.visible_bias.copy_(torch.logit(mean))

    def below(self, level: int, batch: Batch) -> Tensor:
        """What a layer learns from: binary images, or draws of the hidden units below it (B, units)."""
        v = sampled((batch["x"].flatten(1) + 1) / 2, batch.rng)
        for layer in self.layers[:level]:
            v = sampled(layer.hidden(v), batch.rng)
        return v

    def gibbs(self, level: int, batch: Batch) -> dict[str, Tensor]:
        """``data`` and ``model`` (B, units): rows of the data, and each row's chain (``slot``) after a sweep."""
        layer = self.layers[level]
        slot = (layer.cursor + batch.row) % len(layer.chain)
        return {"data": self.below(level, batch), "model": layer.sweep(layer.chain[slot], batch.rng), "slot": slot}

    def loss(self, layer: RBM, batch: Batch, outputs: Any) -> dict[str, Tensor]:
        """Its gradient is that of -log p(data), up to how well the chains follow the model."""
        data, model = (layer.free_energy(outputs[side]).mean() for side in ("data", "model"))
        return {"loss": data - model, "energy": data.detach()}

    def keep(self, layer: RBM, batch: Batch, outputs: Any, stats: Any) -> dict[str, Tensor]:
        """The chains go on from where this step has brought them."""
        layer.chain[outputs["slot"]] = outputs["model"]
        layer.cursor.add_(batch.rows).remainder_(len(layer.chain))
        return {"on": layer.chain.mean()}

    # Verbs

    def encode(self, image: Tensor, **condition: Any) -> Tensor:
        """(B, C, H, W) to the topmost probabilities (B, units)."""
        v = (image.flatten(1) + 1) / 2
        for layer in self.layers:
            v = layer.hidden(v)
        return v.float()

    def decode(self, latent: Tensor, **condition: Any) -> Tensor:
        """Topmost units (B, units) to images (B, C, H, W), probabilities all the way down."""
        for layer in reversed(self.layers):
            latent = layer.visible(latent)
        return (2 * latent - 1).unflatten(1, self.shape).float()

    def stream(self, noise: Noise, sweeps: int = 50) -> Iterator[Frame]:
        """The topmost hidden units ``h`` (B, units) after each sweep of a Gibbs chain from a random start.

        Args:
            sweeps: of Gibbs sampling between the two topmost layers.
        """
        top = self.layers[-1]
        v = noise.bernoulli(0.5, len(top.visible_bias)).float()
        for sweep in range(sweeps):
            v = top.sweep(v, noise)
            h = sampled(top.hidden(v), noise[:])
            yield Frame((sweep + 1) / sweeps, {"h": h}, lambda h=h: {"image": self.decode(h)})

    def sample(self, noise: Noise, sweeps: int = 50) -> Tensor:
        """Images (B, C, H, W): the last frame of ``stream``."""
        *_, last = self.stream(noise, sweeps)
        return last.render()["image"]
