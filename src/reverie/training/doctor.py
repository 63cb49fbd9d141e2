"""What ails a game of two players, read off the log of its training: each finding with advice.

A loss curve of a GAN says little. What is looked at instead: how much made pictures differ from one another, whether
classes are missing among them, whether D knows its training pictures better than unseen ones (Karras et al.,
arXiv:2006.06676, section 3.1), how strongly G is pulled (Arjovsky and Bottou, arXiv:1701.04862), and whether a loss or
a gradient runs away. Thresholds were set on runs that were healthy and on planted faults: docs/systems/gan.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Lines = Sequence[dict[str, Any]]

_LATELY = 8  # lines of the log that a finding needs, so that a moment is no illness
_YOUNG = 48  # lines before which nothing is said: all games begin badly


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, from which step on it was seen, and what to do.

    Attributes:
        kind: "collapse", "overfitting", "vanishing-gradient" or "divergence".
    """

    kind: str
    step: int
    said: str
    advice: str

    def __str__(self) -> str:
        return f"{self.kind} at step {self.step}: {self.said} {self.advice}"


def _values(lines: Lines, name: str) -> list[float]:
    return [line[name] for line in lines if name in line]


def _recent(lines: Lines, name: str) -> float | None:
    """The median of the last few values, where there are as many as it takes."""
    found = _values(lines, name)[-_LATELY:]
    return statistics.median(found) if len(found) == _LATELY else None


def is_game(lines: Lines) -> bool:
    """Whether a log is that of a GAN or a translator; a codec's judge of details is no player."""
    return any("D/spread" in line for line in lines)


def examine(lines: Lines) -> list[Finding]:
    """What is wrong as of the last line, the gravest first; nothing, for a healthy game or one that is no game."""
    if len(lines) < _YOUNG or not is_game(lines):
        return []
    step, found = lines[-1]["step"], []
    translates = not _values(lines, "G/signal")  # its game has neither penalties nor packs

    def say(kind: str, said: str, advice: str) -> None:
        found.append(Finding(kind, step, said, advice))

    for name in ("D/loss", "G/loss", "D/gradient_norm", "G/gradient_norm"):
        values = [abs(value) for value in _values(lines, name)]
        if len(values) >= _YOUNG:
            known = max(values[: len(values) // 2])  # the first moves are large
            if min(values[-_LATELY:]) > 30 * (known + 1e-3):
                text = f"{name} was at most {known:.3g} and is now {statistics.median(values[-_LATELY:]):.3g}."
                slope = "Lower --lr, or hold D's slope down: --r1 1, or --loss r3."
                say("divergence", text, "Lower --lr and --d-lr." if translates else slope)
                break
    spread = _recent(lines, "D/spread")
    covered = _values(lines, "classes_covered")[-3:]
    if spread is not None and spread < 0.3:
        text = f"made pictures differ {spread:.0%} as much from one another as real ones do."
        way_out = (
            "Lower --lr, or take smaller batches." if translates else "Try --loss r3, --packing 2, or a lower --lr."
        )
        say("collapse", text, way_out)
    elif len(covered) == 3 and (max(covered) < 0.5 or (max(covered) < 0.75 and covered[-1] <= covered[0])):
        # between a half and three quarters and rising is a young G, which finds class after class
        text = f"{covered[-1]:.0%} of the data's classes are among the made pictures."
        say("collapse", text, "Try --loss r3, --packing 2, or --conditional label.")
    gaps = _values(lines, "overfitting")[-2:]
    if len(gaps) == 2 and min(gaps) > 0.5:
        text = f"D tells unseen pictures from its training pictures {gaps[-1]:.0%} as well as made ones from them."
        if min(gaps) > 1:
            text = "D takes unseen pictures for less real than made ones."
        strength = _values(lines, "update/strength")  # of ADA, where it is at work
        text += f" ADA is at work (strength {strength[-1]:.2g})." if strength else ""
        say(
            "overfitting",
            text,
            f"Try {'' if strength else '--d-augment ada (or diffaugment), '}more pictures, or --augment flip.",
        )
    signal = _recent(lines, "G/signal")
    if signal is not None and signal < 0.02:
        text = f"G is pulled by {signal:.1g} a picture: D is sure, and G's loss is flat there."
        say("vanishing-gradient", text, "Try --loss non-saturating or r3, or hold D's slope down: --r1 1.")
    return found
