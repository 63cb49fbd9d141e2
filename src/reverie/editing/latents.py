"""Walks through a latent space: from one picture to another, and along one latent at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.core.card import card_of, name_of
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.core.values import check_finite
from reverie.core.verbs import Model, verbs_of
from reverie.data.batches import in_order
from reverie.data.types import Split
from reverie.drawing import conditioning, device_of
from reverie.media import Spec, medium_of
from reverie.media.medium import to_uint8

_STYLES = "w+"  # the latent space with a style for every layer


def lerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """The straight line from ``a`` (t = 0) to ``b`` (t = 1): (D,), (D,), (N,) to (N, D). The ends are exact."""
    t = t[:, None]
    return torch.where(t < 0.5, a + t * (b - a), b - (1 - t) * (b - a))


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """The great circle from ``a`` to ``b``, its length changing evenly; a straight line where they are (anti)parallel.

    Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985.
    """
    cosine = torch.dot(a, b) / (a.norm() * b.norm()).clamp(min=1e-12)
    angle = torch.acos(cosine.clamp(-1, 1))
    if angle.sin() < 1e-4:
        return lerp(a, b, t)
    radius = (a.norm() + t * (b.norm() - a.norm()))[:, None]
    start, end = a / a.norm(), b / b.norm()
    return radius * (((1 - t) * angle).sin()[:, None] * start + (t * angle).sin()[:, None] * end) / angle.sin()


@torch.no_grad()
def interpolate(
    model: Model, a: Tensor, b: Tensor, frames: int, path: str = "lerp", spec: Spec | None = None, **condition: Any
) -> np.ndarray:
    """A morph between two codes (1, ...): stored rows (frames, *shape, C) whose first and last decode the ends.

    Args:
        spec: of the samples; 8 bits by default.
    Raises:
        UsageError: fewer than 2 frames, or an unknown path.
    """
    if frames < 2:
        raise UsageError(f"A morph needs at least 2 frames, not {frames}.")
    if path not in ("lerp", "slerp"):
        raise UsageError(f"path is 'lerp' or 'slerp', not {path!r}.")
    start, end = a.flatten(), b.flatten()
    t = torch.linspace(0, 1, frames, device=start.device)
    latents = (lerp if path == "lerp" else slerp)(start, end, t).view(frames, *a.shape[1:])
    many = {key: value[:1].expand(frames) for key, value in condition.items()}
    return _stored(model.decode(latents, **many), spec)


def _stored(x: Tensor, spec: Spec | None) -> np.ndarray:
    return to_uint8(x) if spec is None else medium_of(spec).to_storage(x, spec)


@torch.no_grad()
def latent_spread(model: Model, split: Split, limit: int = 1000) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) of each latent, over pictures, or over draws where a model does not encode.

    Raises:
        UsageError: it neither encodes nor draws latents.
    """
    codes: list[Tensor] = []
    if not {"encode", "latents"} & set(verbs_of(model)):
        raise UsageError(f"{name_of(model)} decodes, but neither encodes nor has latents(): there is no space to walk.")
    if "encode" not in verbs_of(model):
        drawn = model.latents(Noise.of_seeds(range(limit), device_of(model))).flatten(1)
        return drawn.mean(0), drawn.std(0)
    for batch in in_order(split, 256, device_of(model)):
        codes.append(model.encode(batch["x"], **conditioning(model, batch)).flatten(1))
        if sum(map(len, codes)) >= limit:
            break
    every = torch.cat(codes)
    return every.mean(0), every.std(0)


@torch.no_grad()
def traverse(
    model: Model,
    base: Tensor,
    centre: Tensor,
    spread: Tensor,
    latents: list[int],
    columns: int,
    reach: float,
    spec: Spec | None = None,
    **condition: Any,
) -> np.ndarray:
    """One latent at a time: row r moves latent ``latents[r]`` from centre - reach * spread to centre + reach * spread.

    Args:
        base: code (D,) whose other entries stay; centre, spread: (D,).
        columns: samples a row.
        reach: how far, in standard deviations.
        spec: of the samples; 8 bits by default.
    Returns:
        stored rows (len(latents) * columns, *shape, C), row by row.
    Raises:
        UsageError: a reach that is not finite.
    """
    check_finite("reach", reach)
    steps = torch.linspace(-reach, reach, columns, device=base.device)
    codes = base.repeat(len(latents) * columns, 1)
    for row, latent in enumerate(latents):
        codes[row * columns : (row + 1) * columns, latent] = centre[latent] + steps * spread[latent]
    many = {key: value[:1].expand(len(codes)) for key, value in condition.items()}
    space = card_of(model).space
    return _stored(model.decode(codes.view(-1, *space.shape) if space else codes, **many), spec)


def style_layers(model: Model) -> int:
    """How many layers have a style of their own. Raises UsageError where styles are none of the model's."""
    latents = card_of(model).latents
    if _STYLES not in latents:
        raise UsageError("Only models with a style for every layer mix them: stylegan2, stylegan.")
    return latents[_STYLES].shape[0]


@torch.no_grad()
def mixed(model: Model, coarse: Noise, fine: Noise, cut: int) -> np.ndarray:
    """Style mixing: a picture of every pair of drawn styles, the one in its layers below ``cut``, the other above.

    Karras et al., CVPR 2019, arXiv:1812.04948, figure 3.

    Args:
        coarse: R draws whose styles give layout.
        fine: C draws whose styles give colour and detail.
        cut: the first layer of the fine ones, 1 ... layers - 1.
    Returns:
        uint8 ((R + 1) * (C + 1), H, W, C'), row by row: a white picture and those of ``fine``; then, row by row, one of
        ``coarse`` and its mixtures.
    Raises:
        UsageError: a model without a style for every layer, or a cut outside its layers.
    """
    layers = style_layers(model)
    if not 1 <= cut < layers:
        raise UsageError(f"cut is a layer from 1 to {layers - 1}, not {cut}.")
    above, beside = (model.latents(noise, space=_STYLES) for noise in (fine, coarse))
    first = model.decode(above)
    rows = [torch.ones_like(first[:1]), first]
    for w in beside:
        both = torch.cat([w[:cut].expand(len(above), -1, -1), above[:, cut:]], 1)
        rows.append(model.decode(torch.cat([w[None], both])))
    return to_uint8(torch.cat(rows))
