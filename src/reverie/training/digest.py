"""Metrics of steps, read lazily from the device; their means for the log; detection of divergence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from reverie.core import distributed
from reverie.core.errors import ReverieError, argument
from reverie.optim.phase import Phase


class Metrics(Mapping[str, float]):
    """Numbers by name. They stay on the device; reading a value waits for the step to finish."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = tensors

    def __getitem__(self, name: str) -> float:
        return float(self.tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        return repr({name: round(value, 6) for name, value in self.items()})


class Digest:
    """The metrics since the last line of the log.

    Attributes:
        window: metrics of each step.
        typical: median magnitude of each loss in its first window, at least 1: the reference for divergence.
    """

    RUNAWAY = 1e6

    def __init__(self) -> None:
        self.window: list[Mapping[str, Tensor]] = []
        self.typical: dict[str, float] = {}
        self.since = 0  # index in the window of the current stage's first step

    def begin_stage(self) -> None:
        """Reset the typical losses for a new stage."""
        self.typical, self.since = {}, len(self.window)

    def means(
        self, step: int, phase: Phase, newest_checkpoint: Callable[[], Path | None]
    ) -> tuple[int, dict[str, float]]:
        """Number of steps in the window and the mean of each metric, in one transfer from the device; empties it.

        Args:
            step: steps completed.
            phase: the first of the stage.
        Raises:
            ReverieError: a loss is NaN or infinite, or diverges.
        """
        window, self.window = self.window, []
        since, self.since = self.since, 0
        keys = [(index, name) for index, metrics in enumerate(window) for name in metrics]
        if not keys:  # only lazy phases, and none was due
            return len(window), {}
        values = torch.stack([window[index][name].float() for index, name in keys])
        distributed.average([values])
        numbers = dict(zip(keys, values.tolist(), strict=True))
        losses = [(index, name, x) for (index, name), x in numbers.items() if name.rpartition("/")[2] == "loss"]
        for index, name, loss in losses:
            if not math.isfinite(loss) or abs(loss) > self.RUNAWAY * self.typical.get(name, math.inf):
                newest = newest_checkpoint()
                kept = f"Kept: the last good checkpoint, {newest}. " if newest else ""
                raise ReverieError(
                    f"Training diverged at step {step - len(window) + index}: the loss of phase "
                    f"{name.rpartition('/')[0] or phase.name!r} is {loss:g}. {kept}Try a lower {argument('lr')} (now "
                    f"{phase.optimizer.param_groups[0]['lr']:.2g}), a longer {argument('warmup')}, "
                    f"{argument('clip', 1)}, or {argument('precision', 'fp32')}."
                )
        first: dict[str, list[float]] = {}
        for index, name, loss in losses:
            if index >= since and name not in self.typical:
                first.setdefault(name, []).append(abs(loss))
        self.typical |= {name: max(1.0, size) for name, sizes in first.items() if (size := statistics.median(sizes))}
        by_name: dict[str, list[float]] = {}
        for (_, name), x in numbers.items():
            by_name.setdefault(name, []).append(x)
        return len(window), {name: sum(xs) / len(xs) for name, xs in by_name.items()}
