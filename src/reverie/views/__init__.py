"""Views: what one looks at of a model, in one list.

Each has a name, what it needs of the model, what it costs, and a ``render``. Previews in training, the images that a
run leaves behind, ``reverie view`` and ``rv.view`` all read this list.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from reverie.core.card import Card, card_of, name_of, reconstructs
from reverie.core.errors import UsageError, suggest
from reverie.core.options import draws_freely, listed
from reverie.core.values import integer
from reverie.core.verbs import Model, verbs_of
from reverie.data.types import Dataset

SHEET = 64  # images on a sample grid
MOST = 10_000  # images on a sheet that is asked for
Render = Callable[..., np.ndarray]  # (model, data, count, **options) -> one uint8 image (H, W, C)


@dataclass(frozen=True)
class View:
    """One way to look at a model.

    Attributes:
        name: of the view, and of its file.
        path: "module:function" of its ``render``, within this package.
        verbs: of the model that it needs.
        fits: what else it needs, of the model; always met by default.
        data: whether it needs held-out images.
        count: images that it shows by default.
        evaluations: of networks per image, times those of one sample.
        use: "preview" (the first that fits, in training and at the end), "end" (of every run that it fits), or
            "command" (only where it is asked for).
    """

    name: str
    path: str
    verbs: tuple[str, ...]
    fits: Callable[[Model], bool] = lambda model: True
    data: bool = True
    count: int = 32
    evaluations: float = 1.0
    use: Literal["preview", "end", "command"] = "command"

    def applies(self, model: Model, data: Dataset | Mapping[str, Any] | None) -> bool:
        """Whether it can be rendered, with this data or with that of a provenance."""
        return (data is not None or not self.data) and set(self.verbs) <= set(verbs_of(model)) and self.fits(model)

    def cost(self, card: Card) -> float:
        """Network evaluations of one image."""
        return self.evaluations * card.evaluations

    def renderer(self) -> Render:
        """The function that renders it; its docstring says what it shows."""
        module, _, function = self.path.partition(":")
        return getattr(importlib.import_module(f"reverie.views.{module}"), function)

    def render(self, model: Model, data: Dataset | None = None, count: int | None = None, **options: Any) -> np.ndarray:
        """One uint8 image (H, W, C).

        Args:
            count: how many images it shows, by default its own.
            options: of its renderer.
        Raises:
            UsageError: a number of images below 1, or an unknown option.
        """
        count = self.count if count is None else integer("The number of images", count, 1, MOST)
        render = self.renderer()
        parameters = inspect.signature(render).parameters.values()
        names = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name not in ("model", "data", "count")]
        unknown = [name for name in options if name not in names]
        if unknown and all(p.kind is not p.VAR_KEYWORD for p in parameters):
            has = f"It has: {listed(names)}." if names else "It has none."
            raise UsageError(f"The view {self.name} has no option {unknown[0]!r}.{suggest(unknown[0], names)} {has}")
        return render(model, data, count, **options)


def _plane(model: Model) -> bool:
    space = card_of(model).space
    return reconstructs(model) and (space is None or space.kind != "tokens")  # tokens are names: there is no plane


def _styles(model: Model) -> bool:
    return "w+" in card_of(model).latents


VIEWS: dict[str, View] = {
    view.name: view
    for view in (
        View("samples", "samples:samples", ("sample",), draws_freely, False, SHEET, use="preview"),
        View("translations", "samples:translations", ("translate", "translation_pair"), count=24, use="preview"),
        View("reconstructions", "samples:reconstructions", (), reconstructs, use="end"),
        View("latent-map", "latent_map:latent_map", (), _plane, count=2000, evaluations=0.5, use="end"),
        View("traversal", "latents:traversal", ("decode",), _plane, count=110),
        View("mixing", "latents:mixing", ("decode", "latent"), _styles, False, 45),
        View("trajectory", "denoising:trajectory", ("stream",), data=False, count=4),
        View("forward", "denoising:forward_process", ("diffuse",), count=4, evaluations=0.0),
    )
}


def views_of(model: Model, data: Dataset | Mapping[str, Any] | None = None) -> list[View]:
    """The views that apply to a model."""
    return [view for view in VIEWS.values() if view.applies(model, data)]


def view_named(name: str, model: Model, data: Dataset | Mapping[str, Any] | None) -> View:
    """A view by name.

    Raises:
        UsageError: there is none of that name, or it does not apply.
    """
    if not isinstance(name, str) or name not in VIEWS:
        raise UsageError(f"There is no view {name!r}.{suggest(name, list(VIEWS))} Views: {listed(VIEWS)}.")
    view = VIEWS[name]
    if not view.applies(model, data):
        able = listed(view.name for view in views_of(model, data)) or "none"
        raise UsageError(f"{name_of(model)} has no view {name!r}. Its views: {able}.")
    return view
