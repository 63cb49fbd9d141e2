"""The codec of a model of tokens: images to sequences of tokens and back."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.card import Output, Space, card_of
from reverie.core.noise import Noise
from reverie.core.registry import build
from reverie.core.submodel import frozen, submodel
from reverie.core.verbs import Frame, Model, verbs_of
from reverie.optim.phase import Stage


def _lack(model: Model) -> str:
    space = card_of(model).space
    if (
        {"encode", "decode", "features"} <= set(verbs_of(model))
        and space
        and space.kind == "tokens"
        and space.encode == "exact"
    ):
        return ""
    return "no tokens. Train one that has: reverie train vq-vae."


class TokenCodec(nn.Module):
    """A model that encodes images as tokens and decodes them.

    Args:
        codec: its card has a latent space of tokens; -1 is an unknown token.
        trained_elsewhere: whether it is another run's, and so stays as it is; else it is trained first.
        lr: its peak learning rate, where it is trained here.

    Attributes:
        space: the codec's tokens, as latents of the whole model.
        length: T, tokens of an image.
        codes: K, different tokens.
    """

    codec: Any

    def __init__(self, codec: nn.Module, trained_elsewhere: bool, lr: float = 2e-3):
        super().__init__()
        self.codec, self.trained_elsewhere, self.lr = codec, trained_elsewhere, lr
        card = card_of(codec)
        assert card.space is not None
        self.space: Space = replace(card.space, prior="model")
        self.length, self.codes = math.prod(card.space.shape), card.space.codes
        self.weights, self.networks = card.weights, tuple(f"token_codec.codec.{name}" for name in card.networks)

    def stages(self, weight_decay: float) -> list[Stage]:
        """Its own training; none where it is another run's."""
        if self.trained_elsewhere:
            return []
        (stage,) = self.codec.stages(self.lr, weight_decay)
        return [replace(stage, name="codec", verbs=())]

    @torch.no_grad()
    def tokens(self, image: Tensor) -> Tensor:
        """(B, C, H, W) to tokens (B, T) int64, row by row."""
        return self.codec.encode(image).flatten(1)

    def image(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T) to images (B, C, H, W); -1 is unknown."""
        return self.codec.decode(tokens.unflatten(1, self.space.shape))

    def frame(self, tokens: Tensor) -> Frame:
        """The state of a sampler that has chosen all tokens (B, T) but those of -1."""
        tokens = tokens.clone()
        progress = float((tokens[0] >= 0).double().mean())
        return Frame(progress, {"tokens": tokens}, lambda: {"image": self.image(tokens)})


def token_codec(codec: dict[str, Any] | str, model: str, output: Output, lr: float, **options: Any) -> TokenCodec:
    """The codec of another run, or a vq-vae to be trained first.

    Args:
        codec: the run, as a system receives it; "" for none.
        model: the name of the system that needs it.
        output: what the codec decodes to.
        lr: peak learning rate of a vq-vae.
        options: of a vq-vae.
    """
    if codec:
        example = f"reverie train vq-vae, then reverie train {model} --codec RUN"
        return TokenCodec(frozen(submodel(codec, "codec", output, example, _lack)), True)
    return TokenCodec(build("vq-vae", shape=output.shape, channels=output.channels, **options), False, lr)


# Methods of every prior: a model with a ``token_codec`` and a ``stream``


def known_tokens(model: Any, image: Tensor, mask: Tensor) -> Tensor:
    """Tokens (B, T) of images whose pixels are known where ``mask`` (1 or B, 1, H, W) is true.

    A token is unknown, -1, where it or a neighbour stands for an unknown pixel.
    """
    unknown = F.adaptive_max_pool2d((~mask).float().expand(len(image), -1, -1, -1), model.token_codec.space.shape)
    unknown = F.max_pool2d(unknown, 3, stride=1, padding=1).flatten(1) > 0
    return model.token_codec.tokens(image * mask).masked_fill(unknown, -1)


def completed(frame: Frame, image: Tensor, mask: Tensor) -> Frame:
    """The frame, whose image has the known pixels of another."""
    return replace(frame, render=lambda: {"image": torch.where(mask, image, frame.render()["image"])})


def sample(model: Any, noise: Noise, **options: Any) -> Tensor:
    """Images (B, C, H, W): see ``stream`` for conditions and options."""
    return model.decode(model.latent(noise, **options))


def latent(model: Any, noise: Noise, **options: Any) -> Tensor:
    """Tokens (B, h, w) of new images: see ``stream``."""
    *_, last = model.stream(noise, **options)
    return last.tensors["tokens"].unflatten(1, model.token_codec.space.shape)


def encode(model: Any, image: Tensor, **condition: Any) -> Tensor:
    """(B, C, H, W) to tokens (B, h, w) int64."""
    return model.token_codec.codec.encode(image)


def decode(model: Any, latent: Tensor, **condition: Any) -> Tensor:
    """Tokens (B, h, w), -1 where unknown, to images (B, C, H, W)."""
    return model.token_codec.codec.decode(latent)


def features(model: Any, image: Tensor) -> Tensor:
    """The vectors (B, d, h, w) of the codec's encoder, before they become tokens."""
    return model.token_codec.codec.features(image)
