"""To look at diffusion at work: pictures drowning in noise, and pictures coming out of it.

x = alpha x0 + sigma e is shown divided by sqrt(alpha^2 + sigma^2), so that noise looks alike in every schedule: where
alpha stays 1, x grows up to 80 times as large as a picture.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reverie.core.batch import Batch
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.drawing import beside
from reverie.media.medium import to_uint8
from reverie.media.montage import grid
from reverie.media.plots import plot_schedule
from reverie.verbs import Model

Stop = tuple[Tensor, Tensor]  # x_t, scaled, and the estimate of x0 made there: both pictures (B, C, H, W)
_DRAWS = 20_000  # times in the plot's histogram


def picture(model: Model, x: Tensor) -> Tensor:
    """What a model diffuses, as pictures (B, C, H, W): a latent model's ``picture`` makes them of codes."""
    return model.picture(x) if hasattr(model, "picture") else x


@torch.inference_mode()
def trajectory(model: Model, noise: Noise, **options: object) -> list[Stop]:
    """Where sampling stops on its way: x_t and E[x0 | x_t], from pure noise to the picture, steps + 1 of them.

    Args:
        model: of diffusion; options: as for its ``trajectory``.
    """
    _, pairs = model.plan(*(options.get(name) for name in ("sampler", "steps", "grid")))
    noised, estimates = [Noise(noise.keys, noise.draw)(*model.code_shape)], []
    for (x, x0), (alpha, sigma) in zip(model.trajectory(noise, **options), pairs[1:], strict=True):
        noised.append(x / (alpha**2 + sigma**2) ** 0.5)
        estimates.append(x0)
    estimates.append(noised[-1])
    return [(picture(model, x), picture(model, x0)) for x, x0 in zip(noised, estimates, strict=True)]


def film(stops: list[Stop], columns: int = 8) -> np.ndarray:
    """uint8 frames (steps + 1, H, W, C): x_t in the upper row, the estimate of x0 below it."""
    return np.stack([beside(list(stop), columns) for stop in stops])


def strip(stops: list[Stop], columns: int = 12) -> np.ndarray:
    """One uint8 picture (H, W, C): time from left to right; for each picture a row of x_t and one of estimates.

    Args:
        columns: how many stops at most, evenly spread, both ends included.
    """
    chosen = np.linspace(0, len(stops) - 1, min(columns, len(stops))).round().astype(int)
    rows = torch.stack([torch.stack(stops[place]) for place in chosen], 2)  # (2, B, columns, C, H, W)
    return grid(to_uint8(rows.transpose(0, 1).flatten(0, 2)), columns=len(chosen))


@torch.inference_mode()
def forward(model: Model, batch: Batch, columns: int = 9) -> np.ndarray:
    """One uint8 picture (H, W, C): a row for each picture of the batch under ever more of one and the same noise.

    Args:
        batch: ``image`` (B, C, H, W), and ``rng`` for the noise.
        columns: how many times, evenly from t = 0 to t = 1 of the model's own schedule.
    Raises:
        UsageError: fewer than 2 columns.
    """
    if columns < 2:
        raise UsageError(f"The forward process needs at least 2 columns, not {columns}.")
    x0 = model.codes(batch)
    noise = batch.rng(*x0.shape[1:]).to(x0)
    times = torch.linspace(0, 1, columns, dtype=torch.float64)
    alpha, sigma = (part.to(x0.device).float()[:, None, None, None] for part in model.schedule.pair(times))
    length = (alpha**2 + sigma**2).sqrt()
    rows = [picture(model, (alpha * one + sigma * e) / length) for one, e in zip(x0, noise, strict=True)]
    return grid(to_uint8(torch.cat(rows)), columns=columns)


def schedule_plot(model: Model, path: Path | str) -> Path:
    """Draw alpha, sigma and the log signal-to-noise ratio over t, and the times that training draws."""
    times = torch.linspace(1e-3, 1 - 1e-3, 500, dtype=torch.float64)
    alpha, sigma = model.schedule.pair(times)
    curves = {"alpha": alpha.numpy(), "sigma": sigma.numpy()}
    ratios = [s / a for a, s in model.plan()[1] if a and s]
    stops = model.schedule.time(torch.tensor(ratios, dtype=torch.float64))
    drawn = model.schedule.draw(Noise.of_seeds(range(_DRAWS)))
    return plot_schedule(path, times.numpy(), curves, drawn.clamp(0, 1).numpy(), stops.numpy())
