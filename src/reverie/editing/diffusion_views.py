"""Films and strips of what generation goes through, and the way to noise that diffusion learns to undo.

x = alpha x0 + sigma e is shown divided by sqrt(alpha^2 + sigma^2), so that noise looks alike in every schedule: where
alpha stays 1, x grows up to 80 times as large as a picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from reverie.core.batch import Batch
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.core.verbs import Frame, Model
from reverie.drawing import beside
from reverie.media.medium import to_uint8
from reverie.media.montage import grid
from reverie.media.plots import plot_schedule

_DRAWS = 20_000  # times in the plot's histogram


def film(frames: Iterable[Frame], columns: int = 8) -> np.ndarray:
    """uint8 images (frames, H, W, C): a row for each thing that a frame shows, such as x and the estimate of x0."""
    return np.stack([beside(list(frame.render().values()), columns) for frame in frames])


def strip(frames: Sequence[Frame], columns: int = 12) -> np.ndarray:
    """One uint8 image (H, W, C): time from left to right; for each sample a row for each thing that a frame shows.

    Args:
        columns: how many frames at most, evenly spread, both ends included.
    """
    chosen = np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int)
    shown = [torch.stack(list(frames[place].render().values())) for place in chosen]  # (rows, B, C, H, W) each
    return grid(to_uint8(torch.stack(shown, 2).transpose(0, 1).flatten(0, 2)), columns=len(chosen))


@torch.no_grad()
def forward(model: Model, batch: Batch, columns: int = 9) -> np.ndarray:
    """One uint8 image (H, W, C): a row for each row of the batch under ever more of one and the same noise.

    Args:
        model: of diffusion.
        columns: how many times, evenly from t = 0 to t = 1 of the model's own schedule.
    Raises:
        UsageError: fewer than 2 columns.
    """
    if columns < 2:
        raise UsageError(f"The forward process needs at least 2 columns, not {columns}.")
    noised = [model.diffuse(batch, place / (columns - 1)) for place in range(columns)]
    return grid(to_uint8(torch.stack(noised, 1).flatten(0, 1)), columns=columns)


def schedule_plot(model: Model, path: Path | str) -> Path:
    """Draw alpha, sigma and the log signal-to-noise ratio over t, and the times that training draws."""
    times = torch.linspace(1e-3, 1 - 1e-3, 500, dtype=torch.float64)
    alpha, sigma = model.schedule.pair(times)
    curves = {"alpha": alpha.numpy(), "sigma": sigma.numpy()}
    ratios = [s / a for a, s in model.plan()[1] if a and s]
    stops = model.schedule.time(torch.tensor(ratios, dtype=torch.float64))
    drawn = model.schedule.draw(Noise.of_seeds(range(_DRAWS)))
    return plot_schedule(path, times.numpy(), curves, drawn.clamp(0, 1).numpy(), stops.numpy())
