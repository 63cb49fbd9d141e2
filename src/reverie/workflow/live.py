"""Callbacks for notebooks and scripts: a plot that grows, and an end when nothing improves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from reverie.core.errors import UsageError, argument, suggest
from reverie.core.options import listed
from reverie.core.values import integer, is_finite
from reverie.data.types import Dataset
from reverie.inference.rows import training_mode_kept
from reverie.media import alpha, montage
from reverie.media.images import png_of
from reverie.media.plots import curves_image
from reverie.training.callbacks import SHOW, Callback, Outcome
from reverie.training.loop import Loop, Step
from reverie.workflow.artifacts import preview_of


class LivePlot(Callback):
    """Loss curves and a few samples in a notebook, updated in place every few seconds.

    Args:
        every: seconds between two drawings.
        metrics: a name or the names of the curves; by default the losses.
        samples: how many samples; 0 for none.
        show: called with the plot, a Pillow image; by default IPython displays it.
    Raises:
        UsageError: this is no notebook and there is no ``show``, or an argument is of no use.
    """

    order = SHOW

    def __init__(
        self,
        every: float = 5.0,
        metrics: Sequence[str] = (),
        samples: int = 8,
        show: Callable[[Any], None] | None = None,
    ):
        self.every, self.samples = _at_least_0("every", every), integer(argument("samples"), samples, least=0)
        self.metrics = (metrics,) if isinstance(metrics, str) else metrics
        if not isinstance(self.metrics, Sequence) or not all(isinstance(name, str) for name in self.metrics):
            raise UsageError(f"{argument('metrics')} must be names of metrics, not {metrics!r}.")
        if show is not None and not callable(show):
            raise UsageError(f"{argument('show')} must be a function of an image, not {show!r}.")
        self.show = show or _notebook()
        self.lines: list[dict[str, Any]] = []
        self.last = 0.0

    def start(self, loop: Loop) -> None:
        self.loop, self.lines, self.last = loop, [], time.monotonic()

    def after(self, step: Step) -> None:
        if step.line is None or not step.loop.leader:
            return
        self.lines.append(step.line)
        if time.monotonic() - self.last >= self.every:
            self._draw()

    def close(self, outcome: Outcome) -> None:
        if self.lines and self.loop.leader:
            self._draw()

    def _draw(self) -> None:
        names = self.metrics or tuple(name for name in self.lines[-1] if name.rpartition("/")[2] == "loss")
        curves = {
            name: ([line["step"] for line in self.lines if name in line], [x[name] for x in self.lines if name in x])
            for name in names
        }
        if missing := [name for name, (_, values) in curves.items() if not values]:
            raise UsageError(f"The log has no {listed(missing)}. It has: {listed(self.lines[-1])}.")
        image = curves_image(curves)
        model, data = self.loop.engine.best, self.loop.data if isinstance(self.loop.data, Dataset) else None
        view = preview_of(model, data, {"sample", "translate"}) if self.samples else None
        if view is not None:
            with training_mode_kept(model):
                image = _below(image, view.render(model, data, self.samples))
        self.show(montage.to_image(image))
        self.last = time.monotonic()


def _at_least_0(name: str, value: Any) -> float:
    if not is_finite(value) or value < 0:
        raise UsageError(f"{argument(name)} must be a number of at least 0, not {value!r}.")
    return float(value)


def _below(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Two uint8 images, one below the other, on white."""
    bottom = alpha.composited(alpha.with_channels(bottom, 3))
    width = max(top.shape[1], bottom.shape[1])
    parts = (np.pad(x, ((0, 0), (0, width - x.shape[1]), (0, 0)), constant_values=255) for x in (top, bottom))
    return np.concatenate(list(parts))


def _notebook() -> Callable[[Any], None]:
    try:
        from IPython import get_ipython
        from IPython.display import Image, display
    except ImportError as error:
        raise UsageError("LivePlot draws in a notebook, but IPython is not installed. Or pass show=.") from error
    if get_ipython() is None:
        raise UsageError("LivePlot draws in a notebook, and this is none. Or pass show=FUNCTION.")
    handle = display(Image(png_of(montage.to_image(np.full((1, 1, 3), 255, np.uint8)))), display_id=True)
    return lambda image: handle.update(Image(png_of(image))) if handle is not None else None


class EarlyStop(Callback):
    """Request a clean stop when a metric of the log has not improved for some time.

    Args:
        metric: its name in the log ("loss", "D/loss" ...); smaller is better.
        steps: without improvement, after which training stops.
        delta: smallest improvement that counts.
    Raises:
        UsageError: fewer than 1 step, or a negative delta.
    """

    order = SHOW

    def __init__(self, metric: str = "loss", steps: int = 1000, delta: float = 0.0):
        if not isinstance(metric, str):
            raise UsageError(f"{argument('metric')} must be the name of a metric, not {metric!r}.")
        self.metric, self.steps = metric, integer(argument("steps"), steps, least=1)
        self.delta = _at_least_0("delta", delta)
        self.best, self.best_step, self.checked = float("inf"), 0, False

    def after(self, step: Step) -> None:
        if step.line is None:
            return
        missing, self.checked = not self.checked and self.metric not in step.line, True
        if missing:  # a metric of a later stage, or misspelt
            close = suggest(self.metric, list(step.line))
            step.loop.say(f"EarlyStop: the log has no {self.metric!r} yet.{close} It has: {listed(step.line)}.")
        if self.metric not in step.line:
            return
        if step.line[self.metric] < self.best - self.delta:
            self.best, self.best_step = step.line[self.metric], step.number
        elif step.number - self.best_step >= self.steps:
            best = f"{self.metric} {self.best:.4g} at step {self.best_step}"
            step.loop.say(f"No improvement for {self.steps} steps (best: {best}).")
            step.loop.stop()

    def state(self) -> Any:
        return {"best": self.best, "best_step": self.best_step}

    def load_state(self, state: Any) -> None:
        self.best, self.best_step = state["best"], state["best_step"]
