"""How long a run is: a number of steps, or minutes that measurement turns into a number of steps.

Schedules (learning rate, KL warm-up, stages) read *progress* in [0, 1], never the clock. Progress is piecewise linear
in the step; the knots are written to ``run.json``, so a resumed or repeated run follows the same schedule exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from reverie.core.errors import UsageError

_REPLAN_AT = (0.15, 0.35, 0.6, 0.8, 0.92)  # shares of the minutes spent at which the number of steps is corrected


@dataclass
class Plan:
    """Knots (step, progress), the last one at progress 1. No knots: not measured yet.

    Attributes:
        minutes: the wall-clock budget, or None for a fixed number of steps.
    """

    knots: list[tuple[int, float]] = field(default_factory=list)
    minutes: float | None = None

    @classmethod
    def of(cls, steps: int | None, minutes: float | None) -> Plan:
        """A plan from what the user asked for: exactly one of the two.

        Raises:
            UsageError: both or neither given, or not positive.
        """
        if (steps is None) == (minutes is None):
            raise UsageError("Say how long to train: --steps N or --minutes M, one of the two.")
        if steps is not None:
            if steps < 1:
                raise UsageError(f"--steps must be at least 1, not {steps}.")
            return cls([(0, 0.0), (steps, 1.0)])
        if not minutes or minutes <= 0 or not math.isfinite(minutes):
            raise UsageError(f"--minutes must be above 0, not {minutes}.")
        return cls([], minutes)

    @property
    def measured(self) -> bool:
        return bool(self.knots)

    @property
    def steps(self) -> int | None:
        """The number of steps, once it is known."""
        return self.knots[-1][0] if self.knots else None

    def progress(self, step: int) -> float:
        """Progress at the start of ``step``; 0 before the plan is measured."""
        if not self.knots:
            return 0.0
        for (s0, p0), (s1, p1) in zip(self.knots, self.knots[1:], strict=False):
            if step < s1:
                return p0 + (p1 - p0) * (step - s0) / (s1 - s0)
        return 1.0

    def set_end(self, step: int, steps_left: int) -> None:
        """From ``step`` on, ``steps_left`` more steps bring progress from where it stands to 1."""
        here = self.progress(step)
        kept = [knot for knot in self.knots or [(0, 0.0)] if knot[0] < step]
        self.knots = [*kept, (step, here), (step + max(1, steps_left), 1.0)]


class Budget:
    """Keeps ``plan.minutes``: a first measurement after a short warm-up, then corrections as the clock wanders.

    Args:
        reserve: seconds kept back for the final pictures and scores.
    """

    WARM_SECONDS = 4.0
    WARM_STEPS = 12

    def __init__(self, plan: Plan, reserve: float):
        self.plan = plan
        self.seconds = (plan.minutes or 0) * 60 - reserve
        self.corrections = [share for share in _REPLAN_AT if not plan.measured]
        self.first: tuple[int, float] | None = None  # where the measurement began, after the first slow steps

    def update(self, step: int, elapsed: float) -> bool:
        """Look at the clock before ``step``; True when the plan changed. ``elapsed``: seconds since the start."""
        if self.plan.minutes is None or not self.corrections:
            return False
        if self.first is None:
            if step >= 2:
                self.first = (step, elapsed)
            return False
        start, since = self.first
        if not self.plan.measured:
            enough = elapsed - since > min(self.WARM_SECONDS, 0.1 * self.seconds) and step - start >= self.WARM_STEPS
            if not enough and elapsed < 0.25 * self.seconds:
                return False
        elif elapsed < self.corrections[0] * self.seconds:
            return False
        else:
            self.corrections = [share for share in self.corrections if share * self.seconds > elapsed]
        per_step = (elapsed - since) / max(1, step - start)
        self.plan.set_end(step, round((self.seconds - elapsed) / per_step))
        self.first = (step, elapsed) if self.corrections else self.first  # the latest stretch predicts best
        return True


def rate(step: int, progress: float, warmup: int, decay: str) -> float:
    """The factor on the learning rate: linear warm-up over ``warmup`` steps, then "cosine" to 0 or "constant"."""
    factor = min(1.0, (step + 1) / max(1, warmup))
    if decay == "cosine":
        factor *= 0.5 * (1 + math.cos(math.pi * progress))
    return factor
