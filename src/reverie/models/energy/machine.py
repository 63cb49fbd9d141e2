"""The restricted Boltzmann machine as a distribution: energies, conditionals, Gibbs sampling, partition function.

Smolensky 1986; Hinton, "Training products of experts by minimizing contrastive divergence", Neural Computation 2002.
Centred units (Melchior, Fischer and Wiskott, JMLR 2016): with offsets m of the visible units and 1/2 of the hidden ones

    E(v, h) = -(v - m)'b - (h - 1/2)'c - (v - m)'W(h - 1/2)

is the same family, whose gradient in W does not follow the units' means. Gaussian visible units have |v - m - b|^2 / 2
for the first term, so their variance is 1.
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.annotations import Positive
from reverie.core.cache import Progress
from reverie.core.noise import Noise

Kind = Literal["binary", "gaussian"]
ENUMERATED = 16  # units of the smaller side up to which the partition function is summed


class Machine(nn.Module):
    """p(v, h) = exp(-E(v, h)) / Z of visible units v (B, V) and binary hidden units h (B, H).

    The last ``classes`` visible units are a label as one of so many: 1 for the label, 0 for the others.

    Args:
        visible: units, with those of the label.
        hidden: units.
        classes: units of the label.
        kind: of the visible units before the label.
    """

    offset: Tensor
    base_bias: Tensor

    def __init__(self, visible: int, hidden: int, classes: int = 0, kind: Kind = "binary"):
        super().__init__()
        self.kind, self.classes = kind, classes
        self.weight = nn.Parameter(0.01 * torch.randn(visible, hidden))
        self.visible_bias, self.hidden_bias = nn.Parameter(torch.zeros(visible)), nn.Parameter(torch.zeros(hidden))
        self.register_buffer("offset", torch.zeros(visible))
        self.register_buffer("base_bias", torch.zeros(visible))

    @property
    def units(self) -> tuple[int, int]:
        """Visible and hidden units."""
        visible, hidden = self.weight.shape
        return visible, hidden

    @torch.no_grad()
    def settle(self, mean: Tensor) -> None:
        """Offsets and visible biases of the means (V,) of data; ``base`` is independent units of these means."""
        pixels = len(mean) - self.classes
        self.offset.copy_(mean)
        if self.kind == "binary":
            self.base_bias[:pixels] = mean[:pixels].clamp(0.01, 0.99).logit()
        self.base_bias[pixels:] = mean[pixels:].clamp(min=1e-3).log()
        self.visible_bias.copy_(self.base_bias)

    def mirrors(self, below: Machine) -> bool:
        """Whether another machine's visible units are binary and no more than there are hidden units here."""
        return below.kind == "binary" and below.units[0] <= self.units[1]

    @torch.no_grad()
    def mirror(self, below: Machine) -> None:
        """Take the distribution of hidden units of a machine that this one ``mirrors`` for that of the visible ones.

        The first hidden units are then the other's visible ones. A stack of both is the other machine: what this one
        learns next can only raise the bound (Hinton, Osindero and Teh 2006, section 4).
        """
        pixels, count = below.units[1], below.units[0]
        weight, hidden = below.weight.T, below.hidden_bias - below.offset @ below.weight
        self.weight[:pixels, :count] = weight
        self.visible_bias[:pixels] = hidden + weight.sum(1) / 2
        self.hidden_bias[:count] = below.visible_bias - weight.sum(0) / 2 + self.offset[:pixels] @ weight

    @torch.no_grad()
    def base(self) -> Machine:
        """The machine of independent units from which annealing and training start."""
        base = copy.deepcopy(self).requires_grad_(False)
        base.visible_bias.copy_(self.base_bias)
        base.weight.zero_()
        base.hidden_bias.zero_()
        return base

    @torch.no_grad()
    def scaled(self, scale: float) -> Machine:
        """The machine between ``base`` at 0 and this at 1 whose parameters are interpolated."""
        rung = self.base()
        rung.visible_bias.copy_(torch.lerp(self.base_bias, self.visible_bias, scale))
        rung.hidden_bias.copy_(scale * self.hidden_bias)
        rung.weight.copy_(scale * self.weight)
        return rung

    # Conditionals

    def inputs(self, v: Tensor) -> Tensor:
        """Logits of the hidden units, (B, H) of v's type; under autocast only the product is of lower precision."""
        return (self._centred(v) @ self.weight.to(v.dtype)).to(v.dtype) + self.hidden_bias.to(v.dtype)

    def _centred(self, v: Tensor) -> Tensor:
        return v - self.offset.to(v.dtype)

    def forward(self, v: Tensor) -> Tensor:
        """Logits of the hidden units, (B, H), for whoever looks at layers."""
        return self.inputs(v)

    def hidden(self, v: Tensor) -> Tensor:
        """p(h = 1 | v), (B, H)."""
        return self.inputs(v).sigmoid()

    def outputs(self, h: Tensor) -> Tensor:
        """Logits of the visible units, or the means of Gaussian ones less their offset, (B, V)."""
        return ((h - 0.5) @ self.weight.to(h.dtype).T).to(h.dtype) + self.visible_bias.to(h.dtype)

    def visible(self, h: Tensor) -> Tensor:
        """Means of the visible units, (B, V); those of the label are probabilities with sum 1."""
        outputs = self.outputs(h)
        pixels, label = outputs.split([outputs.shape[1] - self.classes, self.classes], 1)
        means = pixels.sigmoid() if self.kind == "binary" else pixels + self.offset[: pixels.shape[1]].to(h.dtype)
        return torch.cat([means, label.softmax(1)], 1) if self.classes else means

    # Draws

    def draw_hidden(self, v: Tensor, noise: Noise) -> Tensor:
        """h ~ p(h | v), (B, H) of v's type."""
        return bernoulli(self.hidden(v), noise)

    def draw_visible(self, h: Tensor, noise: Noise) -> Tensor:
        """v ~ p(v | h), (B, V) of h's type."""
        means = self.visible(h)
        pixels, label = means.split([means.shape[1] - self.classes, self.classes], 1)
        v = draw_units(pixels, self.kind, noise)
        if not self.classes:
            return v
        reached = label.cumsum(1) < noise.uniform(1).to(h.dtype) * label.sum(1, keepdim=True)
        return torch.cat([v, F.one_hot(reached.sum(1).clamp_(max=self.classes - 1), self.classes).to(v.dtype)], 1)

    def sweep(self, v: Tensor, noise: Noise) -> Tensor:
        """One step of Gibbs sampling, (B, V)."""
        return self.draw_visible(self.draw_hidden(v, noise), noise)

    # Energies

    def free_energy(self, v: Tensor, inputs: Tensor | None = None) -> Tensor:
        """-log sum_h exp(-E(v, h)), (B,); ``inputs`` are those of ``v`` if they are there already."""
        inputs = self.inputs(v) if inputs is None else inputs
        return self._own(v) - log_hidden(inputs)

    def _own(self, v: Tensor) -> Tensor:
        """The energy of the visible units alone, (B,)."""
        centred, bias = self._centred(v), self.visible_bias.to(v.dtype)
        if self.kind == "binary":
            return -(centred * bias).sum(1)
        pixels = v.shape[1] - self.classes
        energy = (centred[:, :pixels] - bias[:pixels]).square().sum(1) / 2
        return energy - (centred[:, pixels:] * bias[pixels:]).sum(1)

    def log_base(self) -> Tensor:
        """log Z of ``base``, a float64 scalar."""
        return self.base()._log_visible(self.base_bias.double()[None])[0] + self.units[1] * math.log(2)

    def nll(self, v: Tensor, h: Tensor) -> Tensor:
        """-log p(v | h) of units without a label, in nats (B,)."""
        outputs = self.outputs(h)
        if self.kind == "binary":
            return F.binary_cross_entropy_with_logits(outputs, v, reduction="none").sum(1)
        return (self._centred(v) - outputs).square().sum(1) / 2 + v.shape[1] * math.log(2 * math.pi) / 2

    def _log_visible(self, outputs: Tensor) -> Tensor:
        """log of the sum (or integral) over v of exp((v - m)'outputs), or of its Gaussian counterpart, (B,)."""
        count, offset = outputs.shape[1] - self.classes, self.offset.double()
        pixels, label = outputs.split([count, self.classes], 1)
        if self.kind == "binary":
            total = (F.softplus(pixels) - offset[:count] * pixels).sum(1)
        else:  # |x - b|^2 / 2 - x'a, completed to a square
            shift = self.visible_bias.double()[:count]
            total = (pixels.square() - shift.square()).sum(1) / 2 + count * math.log(2 * math.pi) / 2
        return total + label.logsumexp(1) - label @ offset[count:] if self.classes else total

    # Partition function

    @property
    def enumerable(self) -> bool:
        """Whether ``log_partition`` is a sum of at most 2^16 terms."""
        return self._by_visible or self.units[1] <= ENUMERATED

    @property
    def _by_visible(self) -> bool:
        return self.kind == "binary" and not self.classes and self.units[0] < min(self.units[1], ENUMERATED + 1)

    def log_partition(self, rows: int = 4096) -> Tensor:
        """log Z, exactly: a float64 scalar. Sums over all states of the smaller side, ``rows`` at a time."""
        states = itertools.product((0.0, 1.0), repeat=min(self.units) if self._by_visible else self.units[1])
        parts = []
        while chunk := list(itertools.islice(states, rows)):
            units = torch.tensor(chunk, dtype=torch.float64, device=self.weight.device)
            if self._by_visible:
                log_p = -self.free_energy(units)
            else:
                log_p = (units - 0.5) @ self.hidden_bias.double() + self._log_visible(self.outputs(units))
            parts.append(log_p.logsumexp(0))
        return torch.stack(parts).logsumexp(0)

    @torch.no_grad()
    def anneal(self, noise: Noise, steps: int = 1000, progress: Progress | None = None) -> tuple[Tensor, Tensor]:
        """Visible units (chains, V) and logs of importance weights (chains,) float64, a chain for each stream.

        Annealed importance sampling (Neal, Statistics and Computing 2001; Salakhutdinov and Murray, ICML 2008): from
        ``base`` the parameters grow to their values in so many steps, with a sweep of Gibbs sampling after each but the
        last. The mean of exp of the weights is an unbiased estimate of Z.
        """
        rung = self.base()
        v = rung.draw_visible(self.weight.new_full((len(noise), self.units[1]), 0.5), noise)
        log_weights = self.log_base().expand(len(noise)).clone()
        for step in range(1, steps + 1):
            inputs, scale = self.inputs(v), step / steps
            before = rung.free_energy(v, (step - 1) / steps * inputs)
            rung.visible_bias.copy_(torch.lerp(self.base_bias, self.visible_bias, scale))
            rung.weight.copy_(scale * self.weight)
            log_weights += (before - rung.free_energy(v, scale * inputs)).double()
            if progress:
                progress(step, steps, "annealing to log Z")
            if step < steps:
                v = rung.draw_visible(bernoulli((scale * inputs).sigmoid(), noise), noise)
        return v, log_weights


def log_hidden(inputs: Tensor) -> Tensor:
    """log of the sum over binary units h of exp((h - 1/2)'inputs), (..., H) to (...)."""
    return (F.softplus(inputs) - inputs / 2).sum(-1)


def draw_units(means: Tensor, kind: Kind, noise: Noise) -> Tensor:
    """Binary units of these probabilities (B, D), or Gaussian ones of these means and variance 1; of that type."""
    return bernoulli(means, noise) if kind == "binary" else means + noise(means.shape[1]).to(means.dtype)


def bernoulli(p: Tensor, noise: Noise) -> Tensor:
    """0 or 1 with probabilities p (B, D), of p's type; from 32 random bits each, two of them from a word."""
    count = p.shape[1]
    words = noise.bits((count + 1) // 2).view(torch.int32)[:, :count]
    # in place: a comparison into bool and a cast take six times as long
    return words.to(p.dtype).lt_((p - 0.5) * 2.0**32)


@dataclass(frozen=True)
class Units:
    """What the pixels are.

    Attributes:
        visible: "binary": brightness is the probability that a pixel is on; "gaussian": continuous.
        sigma: standard deviation of Gaussian pixels under the hidden units, on images that span 2.
    """

    visible: Kind = "binary"
    sigma: Positive = 0.3

    @property
    def reads(self) -> str:
        """How grey is read, for the card; "" of Gaussian units."""
        text = "Binary units read grey as the probability that a pixel is on; Gaussian ones (visible) read its value."
        return text if self.visible == "binary" else ""

    def values(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W) to probabilities of binary units or values of Gaussian ones, (B, V)."""
        x = image.flatten(1)
        return (x + 1) / 2 if self.visible == "binary" else x / self.sigma

    def draw(self, image: Tensor, noise: Noise) -> Tensor:
        """Visible units (B, V) of images: binary ones are on with the pixel's brightness as probability."""
        values = self.values(image)
        return bernoulli(values, noise) if self.visible == "binary" else values

    def pixels(self, values: Tensor) -> Tensor:
        """The inverse of ``values``, flat: (B, V) float32 in [-1, 1]."""
        return (2 * values - 1 if self.visible == "binary" else values * self.sigma).float().clamp(-1, 1)


def log_mean(log_weights: Tensor) -> tuple[float, float, float]:
    """Log of the mean of exp(log_weights) (N,), and its 95 % interval.

    The interval is of the mean by its standard error (Salakhutdinov and Murray 2008 give three of them); below it is
    -inf where the error is as large as the mean.
    """
    count = len(log_weights)
    top = log_weights.max()
    ratios = (log_weights - top).exp()
    mean = ratios.mean()
    error = 1.96 * ratios.std() / math.sqrt(count) if count > 1 else torch.tensor(math.inf)
    low, high = ((mean - error).clamp(min=0).log(), (mean + error).log())
    return float(top + mean.log()), float(top + low), float(top + high)
