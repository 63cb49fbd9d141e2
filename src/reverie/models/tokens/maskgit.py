"""A transformer that fills in masked tokens, all at once, the surest first: images in a few steps.

Chang et al., "MaskGIT: masked generative image transformer", CVPR 2022, arXiv:2202.04200. The bound of the likelihood
is that of models of any order: Hoogeboom et al., ICLR 2022, arXiv:2110.02037. Deviations are listed in
docs/systems/tokens.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.annotations import Channels, Classes, Count, Shape, Steps, SubRun, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Likelihood, Output
from reverie.core.noise import Noise
from reverie.core.verbs import Frame
from reverie.models.tokens import codec as codec_verbs
from reverie.models.tokens.codec import TokenCodec, token_codec
from reverie.models.tokens.network import TokenNetwork
from reverie.nets.shapes import sides
from reverie.optim.muon import Muon
from reverie.optim.phase import Phase, Stage
from reverie.probability.conditioning import Conditioner, Conditioning
from reverie.probability.quantisation import Quantisation
from reverie.probability.sequential import quantile, tempered

STEPS = 8  # of sampling, by default
_MEAN_MASKED = 2 / math.pi  # share of the tokens that the cosine schedule masks, on average


def masked_count(masked: Tensor, share: float, start: Tensor) -> Tensor:
    """How many tokens stay masked after a step: the cosine schedule, at least one fewer, none after the last.

    Args:
        masked: (B,) int64, how many are masked before it.
        share: of the steps that are done after it.
        start: (B,) int64, how many were masked before the first.
    """
    if share >= 1:
        return torch.zeros_like(masked)
    target = (start.double() * math.cos(math.pi / 2 * share)).long()
    return target.minimum(masked - 1).clamp(min=0)


def random_mask(noise: Noise, count: Tensor, length: int) -> Tensor:
    """Bool (B, length) with ``count`` (B,) random places true in each row."""
    rank = noise.uniform(length).argsort(1).argsort(1)
    return rank < count[:, None]


class MaskGIT(nn.Module):
    """p(masked tokens | the others, condition), and a schedule by which all become known.

    Args:
        token_codec: images to tokens and back.
        net: not causal; it has the conditioner.
        output: what it makes.
    """

    def __init__(self, token_codec: TokenCodec, net: TokenNetwork, output: Output):
        super().__init__()
        self.token_codec, self.net, self.output = token_codec, net, output

    @property
    def card(self) -> Card:
        codec, conditioner = self.token_codec, self.net.conditioner
        return Card(
            output=self.output,
            conditions=conditioner.conditions,
            columns=conditioner.conditions.keys(),
            latents={"tokens": codec.space},
            likelihoods=(
                Likelihood("elbo", "bound", "tokens", options={"orders": 1}),
                Likelihood("elbo", "bound", "tokens", evaluations=8, options={"orders": 8}),
            ),
            evaluations=STEPS,
            weights=(*conditioner.weights, *codec.weights),
            networks=("net.transformer", *codec.networks),
            restores=("complete",),
        )

    # Training

    def stages(self, lr: Weight = 3e-3, weight_decay: Weight = 0.0) -> list[Stage]:
        """The codec first, where it is trained here, then the transformer."""
        phase = Phase("prior", Muon(self.net, lr, weight_decay), self.loss)
        return [*self.token_codec.stages(weight_decay), Stage([phase], name="prior")]

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        """Cross entropy of masked tokens, of which the cosine of a uniform angle says how many; nats per token."""
        tokens, rng, length = self.token_codec.tokens(batch["x"]), batch.rng, self.net.length
        cond = self.net.conditioner.drop(batch, rng)
        count = ((rng.uniform() * (math.pi / 2)).cos() * length).ceil().long().clamp(min=1)
        mask = random_mask(rng, count, length)
        nats = self.masked_nats(tokens, mask, **cond)
        # divided by the expected number, not by a row's own: every masked token has the same weight
        return {"loss": nats.mean() / (length * _MEAN_MASKED), "masked": mask.float().mean()}

    def masked_nats(
        self, tokens: Tensor, mask: Tensor, label: Tensor | None = None, text: Sequence[str] | None = None
    ) -> Tensor:
        """Cross entropy of the masked tokens given the others, summed over them: (B,) of (B, T) and (B, T) bool."""
        logits = self.net(tokens.masked_fill(mask, -1), self.net.prefix(len(tokens), label, text))
        nats = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens)
        return (nats * mask).sum(1)

    def elbo(self, batch: Batch, orders: Count = 1) -> Tensor:
        """A lower bound of log p(tokens) of drawing them one by one in a random order, nats (B,).

        Args:
            orders: random numbers of masked tokens, each evaluated once: an unbiased estimate of the bound.
        """
        tokens, rng, length = self.token_codec.tokens(batch["x"]), batch.rng, self.net.length
        cond = {name: batch[name] for name in self.net.conditioner.conditions if name in batch}
        total = torch.zeros(len(tokens), device=tokens.device)
        for _ in range(orders):
            count = 1 + rng.integers(length)
            total -= self.masked_nats(tokens, random_mask(rng, count, length), **cond) * length / count
        return total / orders

    # Sampling

    def stream(
        self,
        noise: Noise,
        label: Tensor | None = None,
        text: Sequence[str] | None = None,
        guidance: Weight = 1.0,
        steps: Steps = STEPS,
        temperature: Weight = 1.0,
        choice_temperature: Weight = 4.5,
    ) -> Iterator[Frame]:
        """The tokens (B, T) after each step, -1 where masked; ``image`` is decoded from these.

        Args:
            label, text: the condition; None is the null condition.
            guidance: logits are null + guidance * (conditional - null): 1 is as trained, above it clearer and less
                varied.
            steps: evaluations of the network; more than there are tokens are of no use.
            temperature: divides the logits; 0 takes the most probable tokens.
            choice_temperature: of the Gumbel noise on the confidence by which tokens are kept, falling to 0 in the last
                step: more is more varied.
        Raises:
            UsageError: a condition that the model does not know.
        """
        self.net.conditioner.check(label, text, guidance)
        start = torch.full((len(noise), self.net.length), -1, dtype=torch.int64, device=noise.device)
        yield from self.filled_in(start, noise, label, text, guidance, steps, temperature, choice_temperature)

    def filled_in(
        self,
        tokens: Tensor,
        noise: Noise,
        label: Tensor | None = None,
        text: Sequence[str] | None = None,
        guidance: float = 1.0,
        steps: int = STEPS,
        temperature: float = 1.0,
        choice_temperature: float = 4.5,
    ) -> Iterator[Frame]:
        """The frames of ``stream`` from tokens (B, T) of which some are unknown (-1)."""
        rows, length = tokens.shape
        prefixes = [self.net.prefix(rows, label, text), *([self.net.prefix(rows)] if guidance != 1 else [])]
        start = (tokens < 0).sum(1)
        for step in range(1, steps + 1):
            count = masked_count((tokens < 0).sum(1), step / steps, start)
            unknown = tokens < 0
            logits, *null = (self.net(tokens, prefix, chosen=unknown) for prefix in prefixes)  # (M, K)
            if null:
                logits = null[0] + guidance * (logits - null[0])
            probs = tempered(logits, max(temperature, 1e-3))
            draws = quantile(probs, noise.uniform(length)[unknown])
            log_p = (probs.gather(1, draws[:, None])[:, 0] / probs.sum(1)).double().log()
            gumbel = -(-noise.uniform(length)[unknown].double().clamp(min=1e-12).log()).log()
            confidence = torch.full(tokens.shape, math.inf, dtype=torch.float64, device=tokens.device)  # of the known
            confidence[unknown] = log_p + choice_temperature * (1 - step / steps) * gumbel
            kept = confidence.argsort(dim=1, descending=True, stable=True).argsort(1) < length - count[:, None]
            tokens = tokens.masked_scatter(unknown, draws).masked_fill(~kept, -1)
            yield self.token_codec.frame(tokens)

    sample, latent = codec_verbs.sample, codec_verbs.latent

    def complete(
        self, image: Tensor, mask: Tensor, noise: Noise, sweeps: int = STEPS, **condition: Any
    ) -> Iterator[Frame]:
        """Images (B, C, H, W) with the pixels where ``mask`` (1 or B, 1, H, W) is false filled in by ``stream``.

        A token is drawn anew where it or a neighbour stands for an unknown pixel.

        Args:
            sweeps: evaluations of the network, at most one for each token.
        """
        tokens = codec_verbs.known_tokens(self, image, mask)
        for frame in self.filled_in(tokens, noise, steps=min(sweeps, self.net.length), **condition):
            yield codec_verbs.completed(frame, image, mask)

    encode, decode, features = codec_verbs.encode, codec_verbs.decode, codec_verbs.features


def maskgit(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    codec: Annotated[dict[str, Any] | str, SubRun()] = "",
    factor: Literal[2, 4, 8, 16] = 4,
    quantisation: Quantisation = Quantisation(),
    codec_width: Count = 64,
    codec_lr: Weight = 2e-3,
    width: Count = 128,
    depth: Count = 4,
    heads: Count = 4,
    conditioning: Conditioning = Conditioning(),
) -> MaskGIT:
    """A masked transformer over the tokens of a vq-vae, by class or by caption, that samples in a few steps.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
        codec: a run of vq-vae on images of this size; it stays as it is. By default one is trained first, in the first
            half of training.
        factor: pixels of a side that become one token of that vq-vae.
        codec_width: channels of its finest level.
        codec_lr: its peak learning rate.
        width: channels of the transformer.
        depth: its blocks.
        heads: of its attention; they divide the width.
    """
    output = Output("image", sides(shape), channels)
    options = {"factor": factor, "width": codec_width, **vars(quantisation)}
    coder = token_codec(codec, "maskgit", output, codec_lr, **options)
    conditioner = Conditioner(conditioning, classes)
    net = TokenNetwork(coder.codes, coder.length, width, depth, heads, False, conditioner)
    return MaskGIT(coder, net, output)
