"""Views by name, of a run or a loaded model."""

from __future__ import annotations

from typing import Any

from reverie.core.card import card_of, info_of, name_of
from reverie.core.errors import UsageError
from reverie.inference.load import Source, data_of, model_of, need
from reverie.inference.origin import origin
from reverie.inference.references import Reference, batch_of, examples_of
from reverie.media.images import Images
from reverie.views import denoising, view_named
from reverie.views import latents as latent_views


def view(model: Source, name: str = "samples", count: int | None = None, **options: Any) -> Images:
    """One of the views of a model as an image that shows itself: samples, latent-map, traversal, trajectory ...

    Args:
        model: a loaded model, or a run.
        name: of the view; ``rv.list_views(model)`` lists those that apply.
        count: how many images it shows.
        options: of the view.
    Raises:
        UsageError: there is none of that name, or it does not apply.
    """
    model = model_of(model)
    chosen = view_named(name, model, info_of(model).get("data"))
    data = data_of(model) if chosen.data else None
    if data is not None:
        examples_of(data)  # warns where nothing is held out
    sheet = chosen.render(model, data, count, **options)
    return Images(sheet[None], origin=origin("view", model, view=name, count=count, **options))


def list_views(model: Source) -> list[str]:
    """The names of the views that apply to a model."""
    from reverie.views import views_of

    model = model_of(model)
    return [view.name for view in views_of(model, info_of(model).get("data"))]


def traverse(
    model: Source,
    image: Reference | None = None,
    latents: int = 10,
    columns: int = 11,
    reach: float = 3.0,
) -> Images:
    """Move one latent at a time, a row each, those first that vary most from image to image.

    Args:
        model: a loaded model, or a run.
        image: the reference to start from; by default the mean of the latent space.
        latents: how many rows.
        columns: images in a row.
        reach: how far to each side, in standard deviations of that latent over held-out images.
    Raises:
        UsageError: a model that does not decode, or to tokens, fewer than 1 row or 2 columns.
    """
    model = model_of(model)
    need(model, "decode")
    if (space := card_of(model).space) and space.kind == "tokens":
        raise UsageError(f"The latents of {name_of(model)} are tokens: names, without directions to move in.")
    return latent_views.traverse(model, None, image, latents, columns, reach)[0]


def mix(model: Source, rows: int = 5, columns: int = 8, seed: int = 0, cut: int | None = None) -> Images:
    """Style mixing: each row has one image's coarse styles, each column another's fine ones; see ``views.latents``."""
    return latent_views.mix(model_of(model), rows, columns, seed, cut)


def forward(model: Source, images: Any = None, n: int = 4, columns: int = 9) -> Images:
    """The forward process of a diffusion model: images under ever more noise of its own schedule, a row each.

    Args:
        model: a loaded model, or a run.
        images: references, see ``rv.encode``; by default the first held-out images.
        n: how many held-out images.
        columns: how many times.
    Raises:
        UsageError: a model that does not diffuse, fewer than 2 columns.
    """
    model = model_of(model)
    need(model, "diffuse")
    batch = batch_of(model, images, n)
    made_by = origin("forward", model, images=images, number=len(batch["x"]), columns=columns)
    return Images(denoising.forward(model, batch, columns)[None], origin=made_by)
