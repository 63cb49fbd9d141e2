"""Walks through a latent space on one sheet: one latent at a time, and styles mixed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from reverie.core.card import card_of, name_of
from reverie.core.errors import UsageError, argument
from reverie.core.noise import Noise
from reverie.core.values import check_finite, check_seeds, integer
from reverie.core.verbs import Model, verbs_of
from reverie.data.types import Dataset
from reverie.inference.load import data_of, spec_of
from reverie.inference.origin import origin
from reverie.inference.references import Reference, find_latent
from reverie.inference.rows import device_of, encoded, evaluating, in_chunks
from reverie.media import medium_of
from reverie.media.images import Images
from reverie.media.medium import to_uint8
from reverie.media.montage import from_image
from reverie.views import MOST

_STYLES = "w+"  # the latent space with a style for every layer


def latent_statistics(model: Model, data: Dataset | None = None, limit: int = 1000) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) of each latent, over images, or over samples of a model that does not encode.

    Args:
        data: whose held-out images; by default that of the run, opened only if it is needed.
    Raises:
        UsageError: it neither encodes nor samples latents.
    """
    verbs, device = verbs_of(model), device_of(model)
    if not {"encode", "latent"} & set(verbs):
        raise UsageError(f"{name_of(model)} decodes, but neither encodes nor has latent(): there is no space to walk.")
    space = card_of(model).space
    if "encode" not in verbs or (space and space.encode == "invert"):
        with evaluating(model):
            latents = model.latent(Noise.of_seeds(range(limit), device)).flatten(1)
    else:
        latents = encoded(model, (data or data_of(model)).examples.take(slice(limit))).to(device)
    return latents.mean(0), latents.std(0, correction=min(1, len(latents) - 1))


def traverse(
    model: Model,
    data: Dataset | None = None,
    image: Reference | None = None,
    latents: int = 10,
    columns: int = 11,
    reach: float = 3.0,
) -> tuple[Images, list[int]]:
    """Move one latent at a time, a row each, those first that vary most from image to image; and which these are.

    Args:
        image: the reference to start from; by default the mean of the latent space.
        latents: how many rows.
        columns: images in a row.
        reach: how far to each side, in standard deviations of that latent over held-out images.
    """
    integer(argument("latents"), latents, 1, MOST)
    integer(argument("columns"), columns, 2, 1000)
    check_finite(argument("reach"), reach)
    centre, spread = latent_statistics(model, data)
    chosen = spread.argsort(descending=True)[:latents].tolist()
    start = centre if image is None else find_latent(model, image).flatten()
    steps = torch.linspace(-reach, reach, columns, device=start.device)
    walk = start.repeat(len(chosen) * columns, 1)
    for row, latent in enumerate(chosen):
        walk[row * columns : (row + 1) * columns, latent] = start[latent] + steps * spread[latent]
    space, spec = card_of(model).space, spec_of(model)
    with evaluating(model):
        walk = walk.view(-1, *space.shape) if space else walk
        parts = [model.decode(walk[low:high]) for low, high in in_chunks(spec.shape, walk.device, len(walk))]
    made_by = origin("traverse", model, image=image, latents=chosen, columns=columns, reach=reach)
    stored = medium_of(spec).to_storage(torch.cat(parts), spec)
    return Images(stored, spec, columns=columns, origin=made_by), chosen


def traversal(
    model: Model, data: Dataset, count: int = 110, latents: int | None = None, columns: int = 11, reach: float = 3.0
) -> np.ndarray:
    """One latent at a time, a row each, those first that vary most."""
    images, _ = traverse(model, data, None, max(1, count // 11) if latents is None else latents, columns, reach)
    return from_image(images.grid())


def mix(model: Model, rows: int = 5, columns: int = 8, seed: int = 0, cut: int | None = None) -> Images:
    """Style mixing: each row has the coarse styles (layout) of one image, each column the fine ones of another.

    Karras et al., CVPR 2019, arXiv:1812.04948, figure 3.

    Args:
        rows: images that lend their coarse styles, shown on the left.
        columns: images that lend their fine styles, shown above.
        seed: the first image's seed; those of the columns come first.
        cut: the first layer that has the fine style; by default the middle one.
    Raises:
        UsageError: a model without a style for every layer, or a cut outside its layers.
    """
    spaces = card_of(model).latents
    if _STYLES not in spaces:
        raise UsageError("Only models with a style for every layer mix them: stylegan2, stylegan.")
    integer(argument("rows"), rows, 1, 100)
    integer(argument("columns"), columns, 1, 100)
    check_seeds(seed, seed + rows + columns - 1)
    layers = spaces[_STYLES].shape[0]
    cut = layers // 2 if cut is None else cut
    if not 1 <= cut < layers:
        raise UsageError(f"{argument('cut')} must be a layer from 1 to {layers - 1}, not {cut}.")
    noise = Noise.of_seeds(range(seed, seed + rows + columns), device_of(model))
    with evaluating(model):
        fine, coarse = (model.latent(part, space=_STYLES) for part in (noise[:columns], noise[columns:]))
        first = model.decode(fine, space=_STYLES)
        parts = [torch.ones_like(first[:1]), first]  # a white corner
        for w in coarse:
            mixed = torch.cat([w[:cut].expand(len(fine), -1, -1), fine[:, cut:]], 1)
            parts.append(model.decode(torch.cat([w[None], mixed]), space=_STYLES))
    made_by = origin("mix", model, rows=rows, columns=columns, seed=seed, cut=cut)
    return Images(to_uint8(torch.cat(parts)), columns=columns + 1, origin=made_by)


def mixing(
    model: Model,
    data: Dataset | None = None,
    count: int = 45,
    rows: int = 5,
    columns: int = 8,
    seed: int = 0,
    cut: int | None = None,
) -> np.ndarray:
    """Style mixing: coarse styles of the images on the left, fine ones of those above."""
    return from_image(mix(model, rows, columns, seed, cut).grid())
