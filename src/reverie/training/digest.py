"""The numbers of steps: each step's, read when asked for, and their means for the log; divergence is noticed here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from reverie.core import distributed
from reverie.core.errors import ReverieError
from reverie.optim.phase import Phase


class Metrics(Mapping[str, float]):
    """Numbers by name. They stay on the device until one is read: reading waits for the step to be computed."""

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
        window: of each step.
        typical: by name, size of each loss when it was first above 0, against which divergence is judged; at least 1.
    """

    RUNAWAY = 1e6

    def __init__(self) -> None:
        self.window: list[Mapping[str, Tensor]] = []
        self.typical: dict[str, float] = {}
        self.since = 0  # place in the window where the current stage begins

    def begin_stage(self) -> None:
        """The next losses are of another stage: sizes begin anew."""
        self.typical, self.since = {}, len(self.window)

    def means(
        self, step: int, phase: Phase, newest_checkpoint: Callable[[], Path | None]
    ) -> tuple[int, dict[str, float]]:
        """How many steps the window has, and the mean of each metric, in one transfer from the device; empties it.

        Args:
            step: steps made so far.
            phase: the first of the stage.
        Raises:
            ReverieError: a loss is not a number, or runs away.
        """
        window, self.window = self.window, []
        since, self.since = self.since, 0
        keys = [(place, name) for place, metrics in enumerate(window) for name in metrics]
        if not keys:  # every phase of the window is a lazy one that was not due
            return len(window), {}
        values = torch.stack([window[place][name].float() for place, name in keys])
        distributed.average([values])
        numbers = dict(zip(keys, values.tolist(), strict=True))
        losses = [(place, name, x) for (place, name), x in numbers.items() if name.rpartition("/")[2] == "loss"]
        for place, name, loss in losses:
            if not math.isfinite(loss) or abs(loss) > self.RUNAWAY * self.typical.get(name, math.inf):
                newest = newest_checkpoint()
                kept = f"Kept: the last good checkpoint, {newest}. " if newest else ""
                raise ReverieError(
                    f"Training diverged at step {step - len(window) + place}: the loss of phase "
                    f"{name.rpartition('/')[0] or phase.name!r} is {loss:g}. {kept}Try a lower --lr (it stood at "
                    f"{phase.optimizer.param_groups[0]['lr']:.2g}), a longer --warmup, --clip 1, or --precision fp32."
                )
        first: dict[str, list[float]] = {}
        for place, name, loss in losses:
            if place >= since and name not in self.typical:
                first.setdefault(name, []).append(abs(loss))
        self.typical |= {name: max(1.0, size) for name, found in first.items() if (size := statistics.median(found))}
        means: dict[str, float] = {}
        for name in dict.fromkeys(name for _, name in keys):
            found = [numbers[place, name] for place in range(len(window)) if (place, name) in numbers]
            means[name] = sum(found) / len(found)
        return len(window), means
