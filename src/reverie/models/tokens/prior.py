"""A causal transformer over the tokens of images: exact likelihoods of tokens, and images token by token.

Ramesh et al., "Zero-shot text-to-image generation", ICML 2021, arXiv:2102.12092: a caption's words come first in the
sequence. Esser, Rombach and Ommer, CVPR 2021, arXiv:2012.09841, for classes. Guidance: Gafni et al., "Make-a-scene",
ECCV 2022, arXiv:2203.13131. Deviations are listed in docs/systems/tokens.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.annotations import Channels, Classes, Count, Fraction, Positive, Range, Shape, SubRun, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Likelihood, Output
from reverie.core.noise import Noise
from reverie.core.verbs import Frame
from reverie.models.tokens import codec as codec_verbs
from reverie.models.tokens.codec import TokenCodec, token_codec
from reverie.models.tokens.network import TokenNetwork
from reverie.nets.shapes import sides
from reverie.nets.transformer import Cache
from reverie.optim.muon import Muon
from reverie.optim.phase import Phase, Stage
from reverie.probability.conditioning import Conditioner, Conditioning
from reverie.probability.quantisation import Quantisation
from reverie.probability.sequential import Conditionals, Step, sampled, tempered


def probabilities(logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Logits (..., K) to relative probabilities, some of them 0.

    Args:
        temperature: divides the logits.
        top_k: only the k most probable are kept; 0 keeps all.
        top_p: only the most probable are kept, as many as reach this probability together (Holtzman et al.,
            arXiv:1904.09751).
    """
    probs = tempered(logits, temperature)
    if top_k and top_k < probs.shape[-1]:
        probs = probs * (probs >= probs.topk(top_k).values[..., -1:])
    if top_p < 1:
        descending = probs.sort(descending=True).values
        reached = descending.cumsum(-1, dtype=torch.float64)
        needed = reached - descending < top_p * reached[..., -1:]
        probs = probs * (probs >= descending.masked_fill(~needed, 2).amin(-1, keepdim=True))
    return probs


class TokenTransformer(nn.Module):
    """p(tokens | condition) = product of p(token | those before it, condition), decoded by the codec.

    Args:
        token_codec: images to tokens and back.
        net: causal; it has the conditioner.
        output: what it makes.
        token_dropout: share of the inputs that are unknown in training.
    """

    def __init__(self, token_codec: TokenCodec, net: TokenNetwork, output: Output, token_dropout: float = 0.0):
        super().__init__()
        self.token_codec, self.net, self.output, self.token_dropout = token_codec, net, output, token_dropout

    @property
    def card(self) -> Card:
        codec, conditioner = self.token_codec, self.net.conditioner
        return Card(
            output=self.output,
            conditions=conditioner.conditions,
            columns=conditioner.conditions.keys(),
            latents={"tokens": codec.space},
            likelihoods=(Likelihood("log_prob", "exact", "tokens"),),
            evaluations=codec.length,
            at_once=256,  # a step is one position: of fewer samples it is mostly overhead
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
        """-log p(tokens | condition) per token, the condition and some inputs left out; ``nll``: nats per image."""
        tokens = self.token_codec.tokens(batch["x"])
        cond = self.net.conditioner.drop(batch, batch.rng)
        unknown = batch.rng.bernoulli(self.token_dropout, self.net.length)
        nll = -self.token_log_prob(tokens, unknown=unknown, **cond).mean()
        return {"loss": nll / self.token_codec.length, "nll": nll}

    # Likelihood

    def token_log_prob(
        self,
        tokens: Tensor,
        label: Tensor | None = None,
        text: Sequence[str] | None = None,
        unknown: Tensor | None = None,
    ) -> Tensor:
        """log p(tokens (B, T) | condition), nats (B,).

        Args:
            unknown: (B, T) bool, inputs that the network does not get: then it is no likelihood, but a harder task.
        """
        before = F.pad(tokens[:, :-1], (1, 0), value=-1)
        if unknown is not None:
            before = before.masked_fill(unknown, -1)
        logits = self.net(before, self.net.prefix(len(tokens), label, text))
        return -F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens).sum(1)

    def log_prob(self, batch: Batch) -> Tensor:
        """log p of the images' tokens, nats (B,), exact; given label and text where they are known."""
        tokens, conditions = self.token_codec.tokens(batch["x"]), self.net.conditioner.conditions
        return self.token_log_prob(tokens, **{name: batch[name] for name in conditions if name in batch})

    def conditionals(
        self,
        rows: int,
        label: Tensor | None = None,
        text: Sequence[str] | None = None,
        guidance: Weight = 1.0,
        temperature: Positive = 1.0,
        top_k: Annotated[int, Range(0)] = 0,
        top_p: Fraction = 1.0,
    ) -> Conditionals:
        """The distribution of each token given those before it, see ``probability.sequential`` and ``stream``."""
        prefixes = [self.net.prefix(rows, label, text)]
        if guidance != 1:
            prefixes.append(self.net.prefix(rows))
        branches = [(prefix, Cache(prefix.length + self.net.length)) for prefix in prefixes]
        device = self.net.positions.device
        token = torch.full((rows, 1), -1, dtype=torch.int64, device=device)
        for position in range(self.net.length):
            logits, *null = (self.net(token, prefix, cache)[:, -1] for prefix, cache in branches)
            if null:
                logits = null[0] + guidance * (logits - null[0])
            probs = probabilities(logits, temperature, top_k, top_p)
            token = yield Step(torch.tensor([position], device=device), probs[:, None])

    # Sampling

    def stream(
        self,
        noise: Noise,
        label: Tensor | None = None,
        text: Sequence[str] | None = None,
        guidance: Weight = 1.0,
        temperature: Positive = 1.0,
        top_k: Annotated[int, Range(0)] = 0,
        top_p: Annotated[float, Range(0, 1, open=True)] = 1.0,
    ) -> Iterator[Frame]:
        """The tokens (B, T) after each step, -1 where there is none yet; ``image`` is decoded from these.

        Args:
            label, text: the condition; None is the null condition.
            guidance: logits are null + guidance * (conditional - null): 1 is as trained, above it clearer and less
                varied.
            temperature: divides the logits: below 1 more typical, less varied.
            top_k: draw from the k most probable tokens only; 0: from all.
            top_p: draw from the most probable tokens that together have this probability.
        Raises:
            UsageError: a condition that the model does not know.
        """
        self.net.conditioner.check(label, text, guidance)
        steps = self.conditionals(len(noise), label, text, guidance, temperature, top_k, top_p)
        for tokens in sampled(steps, noise.uniform(self.net.length)):
            yield self.token_codec.frame(tokens)

    sample, latent = codec_verbs.sample, codec_verbs.latent

    def complete(self, image: Tensor, mask: Tensor, noise: Noise, sweeps: int = 1, **condition: Any) -> Iterator[Frame]:
        """Images (B, C, H, W) with the pixels where ``mask`` (1 or B, 1, H, W) is false filled in, row by row.

        A token is drawn anew, given those before it, where it or a neighbour stands for an unknown pixel; known tokens
        that come later do not guide it.

        Args:
            sweeps: one is all there is to do.
        """
        fixed = codec_verbs.known_tokens(self, image, mask)
        steps, last = self.conditionals(len(noise), **condition), self.net.length - 1
        states = sampled(steps, noise.uniform(self.net.length), fixed, fixed >= 0)
        for position, tokens in enumerate(states):
            if position == last or (fixed[:, position] < 0).any():
                frame = self.token_codec.frame(torch.where(tokens < 0, fixed, tokens))
                yield codec_verbs.completed(frame, image, mask)

    encode, decode, features = codec_verbs.encode, codec_verbs.decode, codec_verbs.features


def token_transformer(
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
    token_dropout: Fraction = 0.1,
    conditioning: Conditioning = Conditioning(),
) -> TokenTransformer:
    """A causal transformer over the tokens of a vq-vae, by class or by caption: the first DALL-E, in small.

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
        token_dropout: share of the earlier tokens that are hidden from it in training: it overfits less.
    """
    output = Output("image", sides(shape), channels)
    options = {"factor": factor, "width": codec_width, **vars(quantisation)}
    coder = token_codec(codec, "token-transformer", output, codec_lr, **options)
    conditioner = Conditioner(conditioning, classes)
    net = TokenNetwork(coder.codes, coder.length, width, depth, heads, True, conditioner)
    return TokenTransformer(coder, net, output, token_dropout)
