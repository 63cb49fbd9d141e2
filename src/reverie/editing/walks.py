"""Walks from one latent to another."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from reverie.core.card import card_of, name_of
from reverie.core.errors import UsageError, argument
from reverie.core.values import integer
from reverie.inference.load import Source, model_of, need
from reverie.inference.origin import origin
from reverie.inference.references import Reference, find_latent
from reverie.inference.rows import space_of
from reverie.inference.verbs import decode
from reverie.media.images import Images


def lerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """The straight line from ``a`` (t = 0) to ``b`` (t = 1): (D,), (D,), (N,) to (N, D). The ends are exact."""
    t = t[:, None]
    return torch.where(t < 0.5, a + t * (b - a), b - (1 - t) * (b - a))


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """The great circle from ``a`` to ``b``, its length changing evenly; a line where they are (anti)parallel or 0.

    Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985.
    """
    cosine = torch.dot(a, b) / (a.norm() * b.norm()).clamp(min=1e-12)
    angle = torch.acos(cosine.clamp(-1, 1))
    if angle.sin() < 1e-4 or not a.any() or not b.any():
        return lerp(a, b, t)
    radius = (a.norm() + t * (b.norm() - a.norm()))[:, None]
    start, end = a / a.norm(), b / b.norm()
    return radius * (((1 - t) * angle).sin()[:, None] * start + (t * angle).sin()[:, None] * end) / angle.sin()


def interpolate(
    model: Source,
    a: Reference,
    b: Reference,
    frames: int = 60,
    path: Literal["auto", "lerp", "slerp"] = "auto",
    space: str | None = None,
) -> Images:
    """A morph between two images through a latent space; its first and last frame decode the ends.

    Args:
        model: a loaded model, or a run.
        a, b: references (see ``rv.encode``): files, Pillow images, arrays, "held-out:3", "seed:7", classes,
            captions; or latents (1, ...).
        frames: how many, both ends included.
        path: "lerp" (straight line), "slerp" (great circle), or "auto": a great circle between Gaussian noises, else a
            line.
        space: one of the card's latent spaces; by default the first.
    Raises:
        UsageError: a model that does not decode, a space of tokens, an unknown reference, path or space, an end that
            is not one image or latent, fewer than 2 frames.
    """
    model = model_of(model)
    need(model, "decode")
    integer(argument("frames"), frames, 2, 10_000)
    if (walked := space_of(model, space)) and walked.kind == "tokens":
        raise UsageError(f"The latents of {name_of(model)} are tokens: names, without a path from one to another.")
    if path not in ("auto", "lerp", "slerp"):
        raise UsageError(f"{argument('path')} must be 'auto', 'lerp' or 'slerp', not {path!r}.")
    if path == "auto":
        path = "slerp" if (space or next(iter(card_of(model).latents), None)) == "noise" else "lerp"
    start, end = (find_latent(model, reference, space) for reference in (a, b))
    t = torch.linspace(0, 1, frames, device=start.device)
    walk = (lerp if path == "lerp" else slerp)(start.flatten(), end.flatten(), t).view(frames, *start.shape[1:])
    images = decode(model, walk, space)
    images.columns = min(frames, 20)
    images.origin = origin("interpolate", model, a=a, b=b, frames=frames, path=path, space=space)
    return images
