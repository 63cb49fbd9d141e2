"""Thresholds of anomaly scores, calibrated on normal rows and kept with the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

from reverie.codes.detection import threshold
from reverie.codes.detector import Score
from reverie.core.card import weights_of
from reverie.core.errors import ReverieError, UsageError
from reverie.core.files import quoted, read_json, write_json
from reverie.core.schema import fault_of
from reverie.core.verbs import Model
from reverie.media.origin import complete_origin

FILE = "anomalies.json"  # of a run directory


class _Weights(TypedDict):
    run: str
    checkpoint: int
    sha256: str


class _Normal(TypedDict):
    data: str
    fingerprint: str
    rows: int


class _Record(TypedDict):
    """The content of the file, see ``Calibration``."""

    verb: Literal["anomalies"]
    thresholds: dict[str, float]
    false_alarms: float
    normal: _Normal
    seed: int
    weights: _Weights


@dataclass(frozen=True)
class Calibration:
    """Thresholds that a new normal row exceeds with a probability of at most ``false_alarms``.

    Attributes:
        thresholds: by score.
        false_alarms: the rate.
        normal: {"data", "fingerprint", "rows"} of the normal rows.
        seed: of the random numbers of a likelihood bound.
        weights: what they are for, see ``rv.load``; None of a model that was not loaded.
    """

    thresholds: Mapping[Score, float]
    false_alarms: float
    normal: Mapping[str, Any]
    seed: int
    weights: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls, model: Model, scores: Mapping[Score, np.ndarray], false_alarms: float, normal: Mapping[str, Any], seed: int
    ) -> Calibration:
        """From the scores of normal rows that the model was not trained on, (N,) each."""
        thresholds = {name: threshold(values, false_alarms) for name, values in scores.items()}
        return cls(thresholds, false_alarms, normal, seed, weights_of(model))

    def save(self) -> Path | None:
        """Write anomalies.json into the run directory, atomically; None of a model without a run.

        Raises:
            ReverieError: a file of this name is there that is no calibration, or it cannot be written.
        """
        if self.weights is None:
            return None
        path = Path(self.weights["run"]) / FILE
        if path.exists():
            _content(path)
        write_json(path, complete_origin({"verb": "anomalies", **dataclasses.asdict(self)}))
        return path


def saved(model: Model) -> Calibration | None:
    """The calibration that is kept with a model's run; None if there is none.

    Raises:
        UsageError: it is of other weights of the run.
        ReverieError: the file is damaged.
    """
    weights = weights_of(model)
    if weights is None or not (path := Path(weights["run"]) / FILE).exists():
        return None
    content = _content(path)
    if content["weights"]["sha256"] != weights["sha256"]:
        before, now = (f"checkpoint {entry['checkpoint']}" for entry in (content["weights"], weights))
        raise UsageError(
            f"{path} was calibrated for {before} ({content['weights']['sha256'][:12]}), and these weights are of {now} "
            f"({weights['sha256'][:12]}): its thresholds do not hold. Nothing was scored. `reverie anomalies "
            f"{quoted(weights['run'])}` without images calibrates anew."
        )
    return Calibration(**{field.name: content[field.name] for field in dataclasses.fields(Calibration)})


def _content(path: Path) -> dict[str, Any]:
    """The content of an anomalies.json, checked."""
    try:
        content = read_json(path, links=False)
        if fault := fault_of(content, _Record):
            raise ValueError(fault)
        if not 0 < content["false_alarms"] < 1:
            raise ValueError(f"false_alarms cannot be {content['false_alarms']:g}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ReverieError(
            f"{path} is no calibration of reverie, or damaged: {reason}. Nothing was touched. Move it away; then "
            "scoring calibrates again."
        ) from error
    return dict(content)
