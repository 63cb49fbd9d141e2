"""A score and its passport; a refusal and its alternative. A number whose protocol is invalid is never made."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Score:
    """One number.

    Attributes:
        metric: its name, which says what it is: "fid" is Inception's, "frechet-small" the bundled encoder's.
        value, low, high: the number and its 95 % interval (None where there is none).
        floor: the same number for real pictures in the place of the generated ones (None where that means nothing).
        passport: everything that the number depends on.
    """

    metric: str
    value: float
    low: float | None
    high: float | None
    floor: float | None
    passport: dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    """A number that was asked for and does not exist: why, and what to ask for instead."""

    metric: str
    reason: str
    instead: str


class Refused(Exception):
    """Raised where the protocol of a metric is not met; ``evaluate`` turns it into a ``Refusal``.

    ``metric`` names the one score of several that is refused; by default it is all that was asked for.
    """

    def __init__(self, reason: str, instead: str, metric: str = ""):
        super().__init__(f"{reason} {instead}")
        self.reason, self.instead, self.metric = reason, instead, metric


@dataclass
class Scores:
    """What ``evaluate`` found.

    Attributes:
        scores: in the order asked for.
        refused: likewise.
        remarks: sentences for a person, such as what the memorisation tests have to say.
        pictures: what the pictures beside the table show; not part of the JSON.
        folder: where scores.json and the pictures were left, if anywhere.
    """

    scores: list[Score] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    pictures: dict[str, Any] = field(default_factory=dict, repr=False)
    folder: Path | None = None

    def __getitem__(self, metric: str) -> Score:
        """The score of that name. Raises KeyError with the reason where it was refused."""
        for score in self.scores:
            if score.metric == metric:
                return score
        for refusal in self.refused:
            if refusal.metric == metric:
                raise KeyError(f"{metric} was refused: {refusal.reason} {refusal.instead}")
        raise KeyError(f"{metric} was not asked for; there are {', '.join(score.metric for score in self.scores)}")

    def summary(self) -> dict[str, Any]:
        """For JSON: {"scores": [...], "refused": [...]}; a number that is not finite is null."""
        scores = [{key: _finite(value) for key, value in asdict(score).items()} for score in self.scores]
        return {"scores": scores, "refused": [asdict(refusal) for refusal in self.refused]}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
