"""Anomalies: how unusual an image is to a model, where in the image, and how well that finds images that are known.

Reconstruction error: Sakurada and Yairi, "Anomaly detection using autoencoders with nonlinear dimensionality
reduction", MLSDA 2014. A likelihood may rank images of other data *above* normal ones (Nalisnick et al., "Do deep
generative models know what they don't know?", ICLR 2019): the area under the curve says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from reverie.codes.calibration import Calibration, saved
from reverie.codes.detection import auc, average_precision
from reverie.codes.detector import Detector, Score, Scores, available, check_score, error_map
from reverie.codes.encoders import common_data
from reverie.codes.pages import save_anomalies, scale_of
from reverie.codes.rows import images_at, names_in
from reverie.core.card import name_of
from reverie.core.errors import UsageError, argument
from reverie.core.files import exists, is_file
from reverie.core.values import check_bool, check_seeds, integer, number
from reverie.core.verbs import Model
from reverie.data import Dataset
from reverie.data.intake import MIN_IMAGES
from reverie.evaluation.estimate import Estimate
from reverie.evaluation.likelihood import evenly
from reverie.inference.load import Source, model_of, spec_of
from reverie.inference.origin import origin
from reverie.inference.references import batch_of
from reverie.inference.rows import device_of, evaluating, in_chunks
from reverie.media import Spec, alpha, medium_of
from reverie.media.decode import SUFFIXES
from reverie.media.images import Images
from reverie.media.medium import save_arrays, to_uint8
from reverie.media.origin import ending_of
from reverie.training.progress import shows_progress

NORMAL_ROWS = 10_000  # most normal rows, evenly spaced
_WIDTH = 1376  # pixels of the sheet, about
_NAMED = re.compile(r"(held-out|train|seed):\d+")  # references that are no files


@dataclass(frozen=True, repr=False)
class Anomalies:
    """Images with their scores, higher for anomalies.

    Attributes:
        score: the name of the score that decides.
        scores: of the images, (N,) for each name.
        names: of the images.
        calibration: the thresholds.
        normal: scores of the normal rows, (M,) for each name; empty where the thresholds were kept with the run.
        detection: for each name "auc" and "average-precision" of the images against the normal rows, were all of them
            anomalies; empty for single images, and for the data that the normal rows come from.
        images: the most anomalous ones, or all single ones in their order: each with its reconstruction and a map of
            its error below, as one image. The brightest colour is an error that only a fraction ``false_alarms`` of
            normal images has anywhere.
        origin: what computed them.
    """

    score: Score
    scores: Mapping[Score, np.ndarray]
    names: Sequence[str]
    calibration: Calibration
    normal: Mapping[Score, np.ndarray]
    detection: Mapping[Score, Mapping[str, Estimate]]
    images: Images | None
    origin: Mapping[str, Any]

    @property
    def threshold(self) -> float:
        """Of the score that decides."""
        return self.calibration.thresholds[self.score]

    @property
    def verdicts(self) -> np.ndarray:
        """Whether each image is an anomaly, bool (N,): its score is above the threshold."""
        return self.scores[self.score] > self.threshold

    def __len__(self) -> int:
        return len(self.names)

    def save(self, path: Path | str) -> Path:
        """Write the curves and the images (.png ...), or names, scores and verdicts as arrays (.npz); atomic."""
        path = Path(path)
        if ending_of(path) == ".npz":
            columns: dict[str, Any] = {"names": list(self.names), "verdicts": self.verdicts}
            columns |= {str(name): values for name, values in self.scores.items()}
            columns |= {f"normal-{name}": values for name, values in self.normal.items()}
            save_arrays(path, columns, self.origin)
            return path
        return save_anomalies(self, path)

    def summary(self) -> dict[str, Any]:
        """For JSON: the verdicts of up to 1,000 images beside the numbers."""
        detection = {
            name: {key: {field: _or_none(x) for field, x in asdict(e).items()} for key, e in entry.items()}
            for name, entry in self.detection.items()
        }
        rows = [
            {"image": self.names[i], "anomaly": bool(self.verdicts[i])}
            | {name: float(values[i]) for name, values in self.scores.items()}
            for i in range(min(len(self), 1000))
        ]
        return {
            "score": self.score,
            "thresholds": dict(self.calibration.thresholds),
            "false_alarms": self.calibration.false_alarms,
            "normal": dict(self.calibration.normal),
            "number": len(self),
            "anomalies": int(self.verdicts.sum()),
            "detection": detection,
            "images": rows,
        }

    def __repr__(self) -> str:
        count = int(self.verdicts.sum())
        return f"Anomalies({count} of {len(self)} images by {self.score} above {self.threshold:.4g})"


@shows_progress
@torch.no_grad()
def anomalies(
    model: Source,
    data: Any = None,
    normal: Any = None,
    score: str | None = None,
    false_alarms: float | None = None,
    n: int = 16,
    seed: int = 0,
    keep: bool = True,
    progress: Callable[[int, int, str], None] | None = None,
) -> Anomalies:
    """Score images as anomalies, against a threshold for a chosen rate of false alarms.

    Of a data set, all of its images are scored and compared with the normal rows, as if all were anomalies: area under
    the ROC curve and average precision, by each score of the model. Single images are scored one by one with the
    threshold that is kept in the run directory (anomalies.json), which is calibrated first where there is none.

    Args:
        model: a loaded model, or a run.
        data: a source of data or a ``Dataset`` (all its rows); or single images: references as for ``rv.encode``, a
            folder of fewer than 8. None: calibrate only.
        normal: data whose rows are the normal ones; by default the held-out rows of the run. At most 10,000 are used.
        score: which decides: "reconstruction" (mean squared error), "peak" (the largest smoothed error anywhere),
            "likelihood" (-log p(x), or its bound), "latent" (Mahalanobis distance of the code from the training
            codes); by default the first that the model has.
        false_alarms: rate of normal images above the threshold; by default 0.05, or what is kept with the run.
        n: how many of a data set's images are shown.
        seed: of the random numbers of a likelihood bound, the same for every image.
        keep: write anomalies.json.
        progress: called after each chunk, (done, total, description).
    Raises:
        UsageError: a model without these scores, too few normal rows for the rate, thresholds of other weights.
        ReverieError: the data has changed since training; anomalies.json is damaged or cannot be written.
    """
    model, n, seed = model_of(model), integer(argument("n"), n, 1, 1000), check_seeds(seed)[0]
    check_bool(argument("keep"), keep)
    if false_alarms is not None:
        false_alarms = number(argument("false_alarms"), false_alarms, 1e-6, 0.999)
    names, data = available(model), _files_of(data)
    chosen, single = check_score(score, names), _is_single(data, spec_of(model))
    earlier = saved(model) if single and normal is None else None
    if earlier and (false_alarms or earlier.false_alarms, seed) == (earlier.false_alarms, earlier.seed):
        names = (chosen,) if chosen in earlier.thresholds else names
    else:
        earlier = None
    detector, scored = Detector.of(model, names, seed, progress), Scores()
    calibration = earlier
    if calibration is None or chosen not in calibration.thresholds:
        source = common_data({name_of(model): model}, normal)
        both = (source.train, source.held_out)
        parts = both if normal is not None else (source.unseen(f"This, without {argument('normal')},"),)
        scored = detector.of_splits([evenly(part, NORMAL_ROWS) for part in parts], progress)
        rows = {"data": source.source, "fingerprint": source.fingerprint, "rows": len(scored[chosen])}
        calibration = Calibration.of(model, scored, 0.05 if false_alarms is None else false_alarms, rows, seed)
        if keep:
            calibration.save()
    arguments = {"data": _text_of(data), "normal": _text_of(normal), "score": chosen, "n": n, "likelihood_seed": seed}
    made_by = origin("anomalies", model, false_alarms=calibration.false_alarms, **arguments)
    if data is None:
        return Anomalies(chosen, {}, [], calibration, scored, {}, None, made_by)
    if single:
        x = batch_of(model, data)["x"]
        chunks = [detector(x[low:high]) for low, high in in_chunks(x.shape[2:], x.device, len(x))]
        scores = {name: torch.cat([chunk[name] for chunk in chunks]).numpy() for name in names}
        row_names, top, compared = _names_of(data, len(x)), np.arange(len(x)), False
    else:
        dataset = common_data({name_of(model): model}, data)
        scores = detector.of_splits([dataset.train, dataset.held_out], progress)
        row_names, top = names_in(dataset), np.argsort(-scores[chosen], kind="stable")[:n]
        x = medium_of(dataset.spec).to_float(images_at(dataset, top), dataset.spec, device_of(model))
        compared = dataset.fingerprint != calibration.normal["fingerprint"]
    level = calibration.thresholds[chosen]
    labels = [f"{value:.3g} {'anomaly' if value > level else 'normal'}" for value in scores[chosen][top]]
    images = _explained(model, x, calibration.thresholds.get("peak"), labels, made_by)
    detection = {name: _detection(scored[name], scores[name]) for name in names} if compared else {}
    return Anomalies(chosen, scores, row_names, calibration, scored, detection, images, made_by)


def _detection(normal: np.ndarray, anomalous: np.ndarray) -> dict[str, Estimate]:
    return {"auc": auc(normal, anomalous), "average-precision": average_precision(normal, anomalous)}


def _or_none(value: float) -> float | None:
    """For JSON, which has no nan."""
    return None if math.isnan(value) else value


def _files_of(data: Any) -> Any:
    """A folder of fewer images than a data set has is its files; anything else is itself."""
    if not isinstance(data, str | Path) or not exists(data) or not Path(data).is_dir():
        return data
    files = [path for path in sorted(Path(data).iterdir()) if path.suffix.lower() in SUFFIXES]
    return files if 0 < len(files) < MIN_IMAGES else data


def _is_single(data: Any, spec: Spec) -> bool:
    """Whether these are single images, and not the source of a data set."""
    if isinstance(data, str | Path):
        in_file = is_file(data) and Path(data).suffix.lower() in medium_of(spec).suffixes
        return in_file or bool(_NAMED.fullmatch(str(data)))
    if isinstance(data, list | tuple) and not data:
        raise UsageError(f"{argument('data')} holds no images.")
    return isinstance(data, list | tuple | Images | np.ndarray | Tensor | PILImage.Image)


def _text_of(source: Any) -> Any:
    """A source of data in an origin: its name."""
    return source.source if isinstance(source, Dataset) else source


def _names_of(images: Any, count: int) -> list[str]:
    listed = images if isinstance(images, list | tuple) else [images] * count
    return [str(entry) if isinstance(entry, str | Path) else f"image {i}" for i, entry in enumerate(listed)]


def _explained(
    model: Model, x: Tensor, peak: float | None, labels: Sequence[str], made_by: Mapping[str, Any]
) -> Images:
    """Images with their scores as labels; each with its reconstruction and its error map below, where there are any.

    Args:
        peak: the error in a map that gets the brightest colour.
    """
    spec = spec_of(model)
    columns = max(1, _WIDTH // (spec.shape[-1] * scale_of(spec.shape[-1]) + 2))
    if peak is None:
        return Images(medium_of(spec).to_storage(x, spec), spec, columns=columns, labels=labels, origin=made_by)
    from matplotlib import colormaps

    with evaluating(model):
        chunks = in_chunks(x.shape[2:], x.device, len(x))
        output = torch.cat([model.decode(model.encode(x[low:high])) for low, high in chunks])
    heat = (error_map(x, output).cpu().numpy() / max(peak, 1e-300)).clip(0, 1)
    colours = (255 * colormaps["inferno"](heat)[..., :3]).round().astype(np.uint8)
    images = [to_uint8(part) for part in (x, output)]
    rows = [alpha.composited(alpha.with_channels(image, 3)) for image in images] + [colours]
    return Images(np.concatenate(rows, 1), columns=columns, labels=labels, origin=made_by)
