"""A score and its passport; a refusal and its alternative. A score with an invalid protocol is never computed."""

from __future__ import annotations

import html
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reverie.core.tables import html_table, text_table


@dataclass(frozen=True)
class Score:
    """One score.

    Attributes:
        metric: its name with the network: "fid" is Inception's, "frechet-small" the bundled encoder's.
        value, low, high: the value and its 95 % interval (None if there is none).
        floor: the same score of real images in place of the generated ones (None if that is meaningless).
        passport: everything that the value depends on.
    """

    metric: str
    value: float
    low: float | None
    high: float | None
    floor: float | None
    passport: dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    """A requested score that cannot be computed: the reason, and what to use instead."""

    metric: str
    reason: str
    instead: str


class Refused(Exception):
    """The protocol of a metric is not met; ``evaluate`` turns this into a ``Refusal``.

    ``metric`` names a single refused score; by default the requested metric is refused.
    """

    def __init__(self, reason: str, instead: str, metric: str = ""):
        super().__init__(f"{reason} {instead}")
        self.reason, self.instead, self.metric = reason, instead, metric


COLUMNS = ("metric", "value", "95 % interval", "real images", "")


@dataclass(repr=False)
class Scores:
    """The result of ``evaluate``.

    Attributes:
        scores: in the requested order.
        refused: likewise.
        remarks: sentences for the user, such as the result of the memorisation tests.
        images: data of the images beside the table, such as the closest pairs; not part of the JSON.
        folder: where scores.json and the images were written, if anywhere.
        weights: which weights of the run were scored, see ``rv.load``; None without a run.
    """

    scores: list[Score] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    images: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    weights: dict[str, Any] | None = None

    def __getitem__(self, metric: str) -> Score:
        """The score of that name, or the only one that begins so ("frechet" for "frechet-small").

        Raises:
            KeyError: there is none; with the reason if it was refused.
        """
        exact = [score for score in self.scores if score.metric == metric]
        matches = exact or [score for score in self.scores if score.metric.startswith(f"{metric}-")]
        if len(matches) == 1:
            return matches[0]
        for refusal in self.refused:
            if metric == refusal.metric or metric.startswith(f"{refusal.metric}-"):
                raise KeyError(f"{metric} was refused: {refusal.reason} {refusal.instead}")
        names = ", ".join(score.metric for score in self.scores) or "no scores"
        raise KeyError(f"{metric} was not computed, or several scores begin so; there are {names}.")

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """A row a score: metric, value, 95 % interval, the score of real images, which direction is better."""
        return [
            (
                score.metric,
                f"{score.value:.4g}",
                "" if score.low is None or score.high is None else f"{score.low:.4g} ... {score.high:.4g}",
                "" if score.floor is None else f"{score.floor:.4g}",
                f"{score.passport['better']} is better",
            )
            for score in self.scores
        ]

    @property
    def notes(self) -> list[str]:
        """The remarks, and a line for every refused score."""
        refused = [f"Refused: {refusal.metric}. {refusal.reason} {refusal.instead}" for refusal in self.refused]
        return [*self.remarks, *refused]

    def __repr__(self) -> str:
        return "\n".join([text_table(COLUMNS, self.rows()), *self.notes])

    def _repr_html_(self) -> str:
        return html_table(COLUMNS, self.rows()) + "".join(f"<p>{html.escape(line)}</p>" for line in self.notes)

    def summary(self) -> dict[str, Any]:
        """For JSON: {"scores": [...], "refused": [...]}; values that are not finite are null."""
        scores = [{key: _finite(value) for key, value in asdict(score).items()} for score in self.scores]
        return {"scores": scores, "refused": [asdict(refusal) for refusal in self.refused]}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
