"""The restricted Boltzmann machine as a distribution: energies, conditionals, Gibbs sampling, partition function.

Smolensky 1986; Hinton, "Training products of experts by minimizing contrastive divergence", Neural Computation 2002.
Centred units (Melchior, Fischer and Wiskott, JMLR 2016): with offsets m of the visible units and 1/2 of the hidden ones

    E(v, h) = -(v - m)'b - (h - 1/2)'c - (v - m)'W(h - 1/2)

is the same family, whose gradient in W does not follow the units' means. Gaussian visible units have |v - m - b|^2 / 2
for the first term, so their variance is 1.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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

    def __init__(self, visible: int, hidden: int, classes: int = 0, kind: Kind = "binary"):
        super().__init__()
        self.kind, self.classes = kind, classes
        self.weight = nn.Parameter(0.01 * torch.randn(visible, hidden))
        self.visible_bias, self.hidden_bias = nn.Parameter(torch.zeros(visible)), nn.Parameter(torch.zeros(hidden))
        self.register_buffer("offset", torch.zeros(visible))

    @property
    def units(self) -> tuple[int, int]:
        """Visible and hidden units."""
        visible, hidden = self.weight.shape
        return visible, hidden

    @torch.no_grad()
    def settle(self, mean: Tensor) -> None:
        """Offsets and visible biases of the means (V,) of data."""
        self.offset.copy_(mean)
        pixels = len(mean) - self.classes
        if self.kind == "binary":
            self.visible_bias[:pixels] = mean[:pixels].clamp(0.01, 0.99).logit()
        self.visible_bias[pixels:] = mean[pixels:].clamp(min=1e-3).log()

    # Conditionals

    def inputs(self, v: Tensor, scale: float | Tensor = 1.0) -> Tensor:
        """Logits of the hidden units, (B, H); ``scale`` multiplies the weights, as annealing does."""
        weight = self.weight.to(v.dtype)
        return torch.addmm(self.hidden_bias.to(v.dtype), v - self.offset.to(v.dtype), weight * scale)

    def hidden(self, v: Tensor) -> Tensor:
        """p(h = 1 | v), (B, H)."""
        return self.inputs(v).sigmoid()

    def outputs(self, h: Tensor, scale: float | Tensor = 1.0) -> Tensor:
        """Logits of the visible units, or the means of Gaussian ones less their offset, (B, V)."""
        return torch.addmm(self.visible_bias.to(h.dtype), h - 0.5, self.weight.to(h.dtype).T * scale)

    def visible(self, h: Tensor, scale: float | Tensor = 1.0) -> Tensor:
        """Means of the visible units, (B, V); those of the label are probabilities with sum 1."""
        outputs = self.outputs(h, scale)
        pixels, label = outputs.split([outputs.shape[1] - self.classes, self.classes], 1)
        means = pixels.sigmoid() if self.kind == "binary" else pixels + self.offset[: pixels.shape[1]].to(h.dtype)
        return torch.cat([means, label.softmax(1)], 1) if self.classes else means

    # Draws

    def draw_hidden(self, v: Tensor, noise: Noise, scale: float | Tensor = 1.0) -> Tensor:
        """h ~ p(h | v), (B, H) of v's type."""
        return drawn(self.inputs(v, scale).sigmoid(), noise)

    def draw_visible(self, h: Tensor, noise: Noise, scale: float | Tensor = 1.0) -> Tensor:
        """v ~ p(v | h), (B, V) of h's type."""
        means = self.visible(h, scale)
        pixels, label = means.split([means.shape[1] - self.classes, self.classes], 1)
        v = drawn(pixels, noise) if self.kind == "binary" else pixels + noise(pixels.shape[1]).to(h.dtype)
        if not self.classes:
            return v
        reached = label.cumsum(1) < noise.uniform(1).to(h.dtype) * label.sum(1, keepdim=True)
        return torch.cat([v, F.one_hot(reached.sum(1).clamp_(max=self.classes - 1), self.classes).to(v.dtype)], 1)

    def sweep(self, v: Tensor, noise: Noise, scale: float | Tensor = 1.0) -> Tensor:
        """One step of Gibbs sampling, (B, V)."""
        return self.draw_visible(self.draw_hidden(v, noise, scale), noise, scale)

    # Energies

    def free_energy(self, v: Tensor, scale: float | Tensor = 1.0, inputs: Tensor | None = None) -> Tensor:
        """-log sum_h exp(-E(v, h)), (B,); ``inputs`` are those of ``v`` if they are there already."""
        inputs = self.inputs(v, scale) if inputs is None else inputs
        return self._own(v) - (F.softplus(inputs) - inputs / 2).sum(1)

    def _own(self, v: Tensor) -> Tensor:
        """The energy of the visible units alone, (B,)."""
        centred, bias = v - self.offset.to(v.dtype), self.visible_bias.to(v.dtype)
        if self.kind == "binary":
            return -(centred @ bias)
        pixels = v.shape[1] - self.classes
        energy = (centred[:, :pixels] - bias[:pixels]).square().sum(1) / 2
        return energy - centred[:, pixels:] @ bias[pixels:]

    def log_base(self) -> Tensor:
        """log Z with all weights 0, a float64 scalar: the units are independent."""
        return self._log_visible(self.visible_bias.double()[None])[0] + self._log_hidden(self.hidden_bias.double())

    def draw_base(self, noise: Noise) -> Tensor:
        """v (B, V) float32 from the distribution with all weights 0."""
        return self.draw_visible(torch.full((len(noise), self.units[1]), 0.5, device=noise.device), noise)

    def _log_hidden(self, inputs: Tensor) -> Tensor:
        return (F.softplus(inputs) - inputs / 2).sum(-1)

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
        return self.units[1] <= ENUMERATED

    def log_partition(self, rows: int = 4096) -> Tensor:
        """log Z, exactly: a float64 scalar. Sums over all h, ``rows`` at a time."""
        states = itertools.product((0.0, 1.0), repeat=self.units[1])
        parts = []
        while chunk := list(itertools.islice(states, rows)):
            h = torch.tensor(chunk, dtype=torch.float64, device=self.weight.device)
            own = (h - 0.5) @ self.hidden_bias.double()
            parts.append((own + self._log_visible(self.outputs(h))).logsumexp(0))
        return torch.stack(parts).logsumexp(0)

    @torch.no_grad()
    def anneal(self, noise: Noise, steps: int = 1000) -> Tensor:
        """Logs of importance weights of Z, (chains,) float64, a chain for each stream of ``noise``.

        Annealed importance sampling (Neal, Statistics and Computing 2001; Salakhutdinov and Murray, ICML 2008): the
        weights grow from 0 to their values in so many steps, with a sweep of Gibbs sampling at each. The mean of exp of
        the result is an unbiased estimate of Z.
        """
        v, before = self.draw_base(noise), 0.0
        log_weights = self.log_base().expand(len(noise)).clone()
        for step in range(1, steps + 1):
            scale = step / steps
            log_weights += (self.free_energy(v, before) - self.free_energy(v, scale)).double()
            if step < steps:
                v = self.sweep(v, noise, scale)
            before = scale
        return log_weights


def drawn(p: Tensor, noise: Noise) -> Tensor:
    """0 or 1 with probabilities p (B, D), of p's type; from 32 random bits each, two of them from a word."""
    count = p.shape[1]
    words = noise.bits((count + 1) // 2).view(torch.int32)[:, :count]
    return (words.to(p.dtype) < (p - 0.5) * 2.0**32).to(p.dtype)


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
