"""The steps of a sampler as frames: x at each time, and its estimate of x0."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from torch import Tensor

from reverie.core.verbs import Frame
from reverie.diffusion.schedules import AlphaSigma


def frames(
    steps: Iterable[tuple[Tensor, Tensor]],
    x: Tensor,
    levels: Sequence[AlphaSigma],
    from_latent: Callable[[Tensor], Tensor],
) -> Iterator[Frame]:
    """A frame per noise level, from pure noise to the sample.

    Args:
        steps: of a sampler: x after each step, and the estimate of x0 of that step.
        x: the initial noise.
        levels: (alpha, sigma) of the time grid.
        from_latent: decodes x to images (B, C, H, W).
    """
    for (index, level), (following, x0) in zip(enumerate(levels), steps, strict=False):
        yield _frame(index / (len(levels) - 1), x, x0, level, from_latent)
        x = following
    yield _frame(1.0, x, x, (1.0, 0.0), from_latent)


def _frame(progress: float, x: Tensor, x0: Tensor, level: AlphaSigma, from_latent: Callable[[Tensor], Tensor]) -> Frame:
    return Frame(progress, {"x": x, "x0": x0}, partial(_render, x, x0, math.hypot(*level), from_latent))


def _render(x: Tensor, x0: Tensor, size: float, from_latent: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Images of x / sqrt(alpha^2 + sigma^2), so that noise looks the same in every schedule, and of the estimate."""
    first = from_latent(x / size).clamp(-1, 1)
    return {"x": first, "x0": first if x0 is x else from_latent(x0).clamp(-1, 1)}


def last_image(stream: Iterable[Frame]) -> Tensor:
    """The sample (B, C, *shape): the image of a stream's last frame."""
    for frame in stream:  # noqa: B007
        pass
    return next(iter(frame.render().values()))
