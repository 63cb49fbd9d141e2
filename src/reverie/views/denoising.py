"""Films and strips of the states of generation, and the forward process of diffusion.

x = alpha x0 + sigma e is shown divided by sqrt(alpha^2 + sigma^2), so that noise looks alike in every schedule: where
alpha stays 1, x grows up to 80 times as large as an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reverie.core.batch import Batch
from reverie.core.errors import argument
from reverie.core.noise import Noise
from reverie.core.values import integer
from reverie.core.verbs import Frame, Model
from reverie.data.batches import in_order
from reverie.data.types import Dataset
from reverie.inference.origin import origin
from reverie.inference.rows import device_of, evaluating
from reverie.inference.sampling import stream
from reverie.media import Spec
from reverie.media.medium import to_uint8
from reverie.media.montage import FILMS, grid, save, save_film
from reverie.media.origin import ending_of
from reverie.media.plots import plot_schedule
from reverie.media.sheets import beside

STRIP = 12  # states that a strip shows
_TIMES = 20_000  # times in the plot's histogram


def film(frames: Iterable[Frame], columns: int = 8) -> np.ndarray:
    """uint8 images (frames, H, W, C): a row for each image of a frame, such as x and the estimate of x0."""
    return np.stack([_beside([to_uint8(x) for x in frame.render().values()], columns) for frame in frames])


def _beside(rows: list[np.ndarray], columns: int) -> np.ndarray:
    return beside(rows, Spec("image", rows[0].shape[1:3], rows[0].shape[3]), columns)


def strip(frames: Sequence[Frame], columns: int = STRIP) -> np.ndarray:
    """One uint8 image (H, W, C): time from left to right; for each sample a row for each image of a frame.

    Args:
        columns: frames at most, evenly spread, both ends included.
    """
    indices = np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int)
    images = [torch.stack(list(frames[index].render().values())) for index in indices]  # (rows, B, C, H, W) each
    return grid(to_uint8(torch.stack(images, 2).transpose(0, 1).flatten(0, 2)), columns=len(indices))


def trajectory(model: Model, data: Dataset | None = None, count: int = 4, seed: int = 0, **options: Any) -> np.ndarray:
    """The states of sampling from left to right: x_t above, the estimate of x0 below."""
    return strip(list(stream(model, count, seed, **options)))


def save_trajectory(path: Path, model: Model, count: int, seed: int, options: dict[str, Any]) -> int:
    """Write the states of sampling as a film or a strip, as the ending says; returns the number of frames."""
    frames = stream(model, count, seed, **options)
    conditions = {name: options.get(name) for name in ("label", "text")}
    chosen = {name: value for name, value in options.items() if name not in conditions}
    made_by = origin("sample", model, range(seed, seed + count), chosen, **conditions, stream=True)
    return save_frames(path, frames, made_by)


def save_frames(path: Path, frames: Iterable[Frame], made_by: dict[str, Any], columns: int = 8) -> int:
    """Write frames as a film with so many columns, or a strip, as the ending says; returns their number."""
    frames = list(frames)
    if ending_of(path) in FILMS:
        save_film(path, film(frames, columns), seconds=min(6.0, 0.25 * len(frames)), hold=1.0, origin=made_by)
    else:
        save(path, strip(frames), made_by)
    return len(frames)


def states_in(path: Path, frames: int) -> str:
    """How many states a written file shows: "28 states" of a film, "12 of 28 states" of a strip."""
    return f"{STRIP} of {frames} states" if frames > STRIP and ending_of(path) not in FILMS else f"{frames} states"


def forward(model: Model, batch: Batch, columns: int = 9) -> np.ndarray:
    """One uint8 image (H, W, C): a row for each row of the batch under ever more of the same noise.

    Args:
        model: of diffusion.
        columns: how many times, evenly from t = 0 to t = 1 of the model's own schedule.
    Raises:
        UsageError: fewer than 2 columns.
    """
    integer(argument("columns"), columns, 2, 1000)
    with evaluating(model):
        noised = [model.diffuse(batch, column / (columns - 1)) for column in range(columns)]
    return grid(to_uint8(torch.stack(noised, 1).flatten(0, 1)), columns=columns)


def forward_process(model: Model, data: Dataset, count: int = 4, columns: int = 9) -> np.ndarray:
    """Held-out images under ever more noise, a row each."""
    images = data.examples
    batch = next(in_order(images, min(count, len(images)), device_of(model)))
    return forward(model, batch, columns)


def schedule_plot(model: Model, path: Path | str) -> Path:
    """Plot alpha, sigma and the log signal-to-noise ratio over t, and the distribution of training's times."""
    times = torch.linspace(1e-3, 1 - 1e-3, 500, dtype=torch.float64)
    alpha, sigma = model.schedule.alpha_sigma(times)
    curves = {"alpha": alpha.numpy(), "sigma": sigma.numpy()}
    ratios = [s / a for a, s in model.timesteps() if a and s]
    visited = model.schedule.t_from_ratio(torch.tensor(ratios, dtype=torch.float64))
    sampled = model.schedule.sample_t(Noise.of_seeds(range(_TIMES)))
    trained = sampled.clamp(0, 1).numpy()
    return plot_schedule(path, times.numpy(), curves, trained, visited.numpy(), origin("forward", model, plot=True))
