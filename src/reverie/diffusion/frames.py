"""The steps of a sampler as frames: x at each stop, and the estimate of x0 that was made there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from torch import Tensor

from reverie.core.verbs import Frame
from reverie.diffusion.schedules import Pair


def frames(
    steps: Iterable[tuple[Tensor, Tensor]], x: Tensor, pairs: Sequence[Pair], picture: Callable[[Tensor], Tensor]
) -> Iterator[Frame]:
    """A frame for each of the pairs, from pure noise to the sample.

    Args:
        steps: of a sampler: x after each step, and the estimate of x0 from which it was made.
        x: where it starts.
        picture: of what is diffused the images (B, C, H, W).
    """
    places = enumerate(pairs)
    for (place, pair), (following, x0) in zip(places, steps, strict=False):
        yield _frame(place / (len(pairs) - 1), x, x0, pair, picture)
        x = following
    yield _frame(1.0, x, x, (1.0, 0.0), picture)


def _frame(progress: float, x: Tensor, x0: Tensor, pair: Pair, picture: Callable[[Tensor], Tensor]) -> Frame:
    return Frame(progress, {"x": x, "x0": x0}, partial(_render, x, x0, math.hypot(*pair), picture))


def _render(x: Tensor, x0: Tensor, size: float, picture: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """x, divided by sqrt(alpha^2 + sigma^2) so that noise looks alike in every schedule, above the estimate."""
    first = picture(x / size).clamp(-1, 1)
    return {"x": first, "x0": first if x0 is x else picture(x0).clamp(-1, 1)}


def last_image(stream: Iterable[Frame]) -> Tensor:
    """What a stream ends at: the sample (B, C, *shape)."""
    for frame in stream:  # noqa: B007
        pass
    return next(iter(frame.render().values()))
