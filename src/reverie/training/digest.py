"""Metrics of steps, read lazily from the device; their means for the log; detection of divergence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

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


class Diverged(ReverieError):
    """A loss is NaN or infinite, or far beyond its first values; attributes: step, and the loss."""

    def __init__(self, text: str, step: int, loss: float):
        super().__init__(text)
        self.step, self.loss = step, loss


class Digest:
    """The metrics since the last line of the log.

    Attributes:
        window: metrics of the steps that have not been read from the device.
        settled: those of the steps before them, as numbers.
        typical: median magnitude of each loss in its first window, at least 1: the reference for divergence.
    """

    RUNAWAY = 1e6

    def __init__(self) -> None:
        self.window: list[Mapping[str, Tensor]] = []
        self.settled: list[dict[str, float]] = []
        self.typical: dict[str, float] = {}
        self.since = 0  # index of the current stage's first step among those since the last line

    def begin_stage(self) -> None:
        """Reset the typical losses for a new stage."""
        self.typical, self.since = {}, len(self.settled) + len(self.window)

    def settle(self, step: int, phase: Phase, newest_checkpoint: Callable[[], Path | None]) -> None:
        """Read the window from the device, averaged over the ranks, in one transfer, and check it for divergence.

        Args:
            step: steps completed.
            phase: the first of the stage.
        Raises:
            Diverged: a loss is NaN or infinite, or diverges.
        """
        window, self.window, before = self.window, [], len(self.settled)
        self.settled += [{} for _ in window]
        keys = [(before + index, name) for index, metrics in enumerate(window) for name in metrics]
        if not keys:  # only lazy phases, and none was due
            return
        values = torch.stack([window[index - before][name].float() for index, name in keys])
        distributed.average([values])
        for (index, name), value in zip(keys, values.tolist(), strict=True):
            self.settled[index][name] = value
        for index, name, loss in self._losses(before):
            if not math.isfinite(loss) or abs(loss) > self.RUNAWAY * self.typical.get(name, math.inf):
                newest = newest_checkpoint()
                kept = f"Kept: the last good checkpoint, {newest}. " if newest else ""
                at = step - len(self.settled) + index
                raise Diverged(
                    f"Training diverged at step {at}: the loss of phase "
                    f"{name.rpartition('/')[0] or phase.name!r} is {loss:g}. {kept}Try a lower {argument('lr')} (now "
                    f"{phase.optimizer.param_groups[0]['lr']:.2g}), a longer {argument('warmup')}, "
                    f"{argument('clip', 1)}, or {argument('precision', 'fp32')}.",
                    at,
                    loss,
                )

    def means(self) -> tuple[int, dict[str, float]]:
        """Number of settled steps and the mean of each metric; forgets them."""
        first: dict[str, list[float]] = {}
        for _, name, loss in self._losses(self.since):
            if name not in self.typical:
                first.setdefault(name, []).append(abs(loss))
        self.typical |= {name: max(1.0, size) for name, sizes in first.items() if (size := statistics.median(sizes))}
        by_name: dict[str, list[float]] = {}
        for metrics in self.settled:
            for name, value in metrics.items():
                by_name.setdefault(name, []).append(value)
        count, self.settled, self.since = len(self.settled), [], 0
        return count, {name: sum(values) / len(values) for name, values in by_name.items()}

    def _losses(self, since: int) -> list[tuple[int, str, float]]:
        """The losses of settled steps from index ``since`` on: (index, name, value)."""
        steps = enumerate(self.settled[since:], since)
        return [(i, name, x) for i, step in steps for name, x in step.items() if name.rpartition("/")[2] == "loss"]

    def state(self) -> dict[str, Any]:
        """The settled steps and what they are compared with."""
        return {"settled": self.settled, "typical": self.typical, "since": self.since}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore ``state``."""
        self.settled, self.typical, self.since = state["settled"], state["typical"], state["since"]
