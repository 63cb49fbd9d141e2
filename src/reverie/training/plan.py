"""The length of a run: a number of steps, or minutes that are converted into a number of steps during training.

Schedules (learning rate, KL warm-up, stages) read *progress* in [0, 1], never the clock. Progress is piecewise linear
in the step. Knots are only appended, and a knot changes no earlier progress: a resumed or repeated run follows the same
schedule to the last bit.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

from reverie.core.errors import ReverieError, UsageError, argument
from reverie.core.values import number

Knot = tuple[int, float, float]


@dataclass
class Plan:
    """The progress of every step, and the step that ends the run.

    Attributes:
        knots: (step, progress, left): from ``step`` on, progress rises to 1 within ``left`` more steps.
        end: the total number of steps; None while the clock decides.
        extended: steps at which a finished run was extended: the learning rate's warm-up restarts there.
        clock: (seconds, progress, spent): progress rises from ``progress`` to 1 within this many seconds, starting
            after ``spent`` seconds of training. None for a fixed number of steps.
    """

    knots: list[Knot] = field(default_factory=list)
    end: int | None = None
    extended: list[int] = field(default_factory=list)
    clock: tuple[float, float, float] | None = None

    @classmethod
    def of(cls, steps: int | None, minutes: float | None, reserve: float = 0.0) -> Plan:
        """A plan of exactly one of steps and minutes.

        Args:
            reserve: seconds of the minutes that are not for training.
        Raises:
            UsageError: both or neither, or not positive.
        """
        if (steps is None) == (minutes is None):
            raise UsageError(f"Set the length of training by either {argument('steps')} or {argument('minutes')}.")
        if steps is not None:
            if steps < 1:
                raise UsageError(f"{argument('steps')} must be at least 1, not {steps}.")
            return cls([(0, 0.0, steps)], steps)
        return cls(clock=(seconds_of(minutes) - reserve, 0.0, 0.0))

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Plan:
        """The plan from ``state``, also after a round trip through JSON.

        Raises:
            ReverieError: it never ends.
        """
        clock = state["clock"]
        knots = [(int(step), float(progress), float(left)) for step, progress, left in state["knots"]]
        plan = cls(knots, state["end"], list(state["extended"]), None if clock is None else tuple(clock))
        if (not knots if clock is None else clock[0] <= 0) or any(left <= 0 for _, _, left in knots):
            raise ReverieError("The plan of this run is damaged: it has no end. Restore its run.json.")
        return plan

    def state(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)

    def progress(self, step: int) -> float:
        """Progress at the start of ``step``; 0 before the speed is known."""
        index = bisect.bisect_right(self.knots, step, key=lambda knot: knot[0])
        if not index:
            return 0.0
        since, progress, left = self.knots[index - 1]
        return min(1.0, progress + (1 - progress) * (step - since) / left)

    def add(self, step: int, left: float, progress: float | None = None) -> None:
        """From ``step`` on, progress rises to 1 within ``left`` more steps, from ``progress`` (default: current)."""
        here = self.progress(step) if progress is None else progress
        self.knots.append((step, here, max(left, 1e-9)))

    def extend(
        self, step: int, spent: float, steps: int | None, seconds: float | None, low: float, trained: tuple[int, float]
    ) -> None:
        """From ``step`` on, train to ``steps`` in total, or for ``seconds`` more.

        An unfinished run continues from its progress. A finished run continues like a run of the full length: if its
        last stage had length L and gets M more, the progress of that stage restarts at L / (L + M).

        Args:
            spent: seconds of training so far.
            low: the progress at which the last stage begins.
            trained: length of the last stage so far, in steps and in seconds.
        """
        done, took = trained
        progress, left = self.progress(step), 0.0
        if finished := self.finished(step):
            share = done / (done + steps - step) if steps is not None else took / (took + (seconds or 0.0))
            progress = low + (1 - low) * share
            self.extended.append(step)
        if steps is not None:
            left = steps - step
        elif seconds is not None and step:
            left = seconds * (done / max(took, 1e-9) if finished else step / max(spent, 1e-9))
        if left:
            self.add(step, left, progress)
        self.end = steps
        self.clock = None if seconds is None else (seconds, progress, spent)

    def finished(self, step: int) -> bool:
        """Whether the plan ends by ``step``."""
        return self.end is not None and step >= self.end

    @property
    def expected(self) -> int | None:
        """The expected total number of steps; None before the speed is known."""
        if self.end is not None or not self.knots:
            return self.end
        step, _, left = self.knots[-1]
        return step + math.ceil(left)

    def fixed(self) -> Plan:
        """The same plan with a fixed number of steps, for a rerun."""
        if self.end is None and not self.knots:
            return self
        return Plan(list(self.knots), self.expected, list(self.extended))

    def warm(self, step: int, warmup: int) -> tuple[int, int] | None:
        """After an extension of a finished run: (steps since, length of the new warm-up); else None."""
        began = max((start for start in self.extended if start <= step), default=None)
        if began is None:
            return None
        left = next(left for since, _, left in self.knots if since == began)
        return step - began, min(warmup, int(left / 10))


_LONGEST = 5_000_000  # minutes: ten years


def seconds_of(minutes: float | None) -> float:
    """The user's minutes in seconds.

    Raises:
        UsageError: not positive, or infinite.
    """
    minutes = minutes and number(argument("minutes"), minutes)
    if not minutes or not 0 < minutes <= _LONGEST:
        raise UsageError(f"{argument('minutes')} must be above 0 and at most {_LONGEST:,}, not {minutes}.")
    return minutes * 60


class Budget:
    """A proportional controller for ``plan.clock``: appends knots so that progress follows the elapsed time.

    It reads the clock at steps that it sets in advance (``due``), where several processes synchronise. Steps are timed
    in blocks between these readings. The prediction is the mean of the last blocks, lazy phases included; a block
    longer than all others together is a stall and is ignored.

    Args:
        step, elapsed, worked: its start, as for ``look``.
        alone: also read the clock if a reading is overdue; not with several processes.
    """

    FIRST_STEPS, BLOCKS = 3, 5
    FIRST, LOOK, SPACING, WINDOW, HORIZON = 0.02, 0.0025, 0.005, 0.02, 0.02  # fractions of the seconds
    PACE, GAP, LARGE_GAP = 0.02, 0.005, 0.02  # thresholds for a new knot: change of pace, and gap to the clock

    def __init__(self, plan: Plan, step: int, elapsed: float, worked: float = 0.0, alone: bool = True):
        assert plan.clock is not None
        self.plan, self.alone = plan, alone
        self.seconds, self.start, self.spent = plan.clock
        self.first = step  # of this process: its first steps are slow
        self.next = step + 1
        self.looked: tuple[int, float, float] = (step, elapsed, worked)  # step, seconds, seconds of work
        self.blocks: deque[tuple[float, float]] = deque()  # (seconds a step, seconds of the block)
        self.knotted = -math.inf  # when the last knot was appended

    def due(self, step: int, elapsed: float) -> bool:
        """Whether to read the clock before ``step``."""
        return step >= self.next or (self.alone and elapsed - self.looked[1] > self.SPACING * self.seconds)

    def look(self, step: int, elapsed: float, worked: float) -> None:
        """Append a knot if needed, end the run if its time is over, and set the step of the next reading.

        Args:
            elapsed: seconds of training.
            worked: seconds of this process in steps: ``elapsed`` without callbacks and pauses.
        """
        before, _, work = self.looked
        self.looked = (step, elapsed, worked)
        if before > self.first:
            seconds = (worked - work) / (step - before)
            self.blocks.append((seconds, worked - work))
        time, progress = elapsed - self.spent, self.plan.progress(step)
        if time >= self.seconds or progress >= 1:
            self.plan.end = step
            return
        duration = self._duration()
        measured = step - self.first >= self.FIRST_STEPS and time >= min(1.0, self.FIRST * self.seconds)
        if duration is not None and (measured or self.plan.knots):
            self._steer(step, time, progress, duration)
            ahead = self.LOOK * self.seconds / duration
            self.next = step + max(1, min(int(ahead), math.ceil((self.plan.expected or math.inf) - step)))
        else:
            self.next = step + 1

    def _duration(self) -> float | None:
        """Seconds per step: the mean over the last blocks, without a block longer than all others together."""
        total, recent = 0.0, list[float]()
        for seconds, block in reversed(self.blocks):
            if total > max(min(2.0, 0.03 * self.seconds), self.WINDOW * self.seconds) and len(recent) >= self.BLOCKS:
                break
            recent.append(seconds)
            total += block
        while len(self.blocks) > len(recent):
            self.blocks.popleft()
        if len(recent) > 2 and max(recent) > sum(recent) / 2:
            recent.remove(max(recent))  # a stall
        return max(statistics.fmean(recent), 1e-9) if recent else None

    def _steer(self, step: int, time: float, progress: float, duration: float) -> None:
        span = 1 - self.start
        horizon = min(max(2 * duration, self.HORIZON * self.seconds), self.seconds - time)
        aim = self.start + span * (time + horizon) / self.seconds
        rate = (aim - progress) / horizon  # progress per second
        rate = min(max(rate, 0.2 * span / self.seconds), 5 * span / self.seconds)
        left = (1 - progress) / (rate * duration)
        gap = abs(progress - self.start - span * time / self.seconds) / span
        if self.plan.knots:
            since, _, planned = self.plan.knots[-1]
            pace = (since + planned - step) / left
            if (abs(pace - 1) < self.PACE and gap < self.GAP) or (
                time - self.knotted < self.SPACING * self.seconds and gap < self.LARGE_GAP
            ):
                return
        self.plan.add(step, left)
        self.knotted = time


def rate(step: int, progress: float, warmup: int, decay: str) -> float:
    """The factor on the learning rate: linear warm-up over ``warmup`` steps, then "cosine" to 0 or "constant"."""
    factor = min(1.0, (step + 1) / max(1, warmup))
    if decay == "cosine":
        factor *= 0.5 * (1 + math.cos(math.pi * progress))
    return factor
