"""Results as one image: curves above, images below."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PILImage

from reverie.codes.detection import curves, interval_text
from reverie.core.terminal import printable
from reverie.media import alpha, montage, plots
from reverie.media.images import Images

if TYPE_CHECKING:
    from reverie.codes.anomalies import Anomalies
    from reverie.codes.compression import Rates

_SIDE = 84  # pixels to which small images are enlarged, about


def save_anomalies(result: Anomalies, path: Path) -> Path:
    """Write the curves above the most anomalous images, or single images alone."""
    parts = [_curves(result)] if result.detection else []
    if result.images is not None:
        parts.append(enlarged(result.images))
    return montage.save(path, stacked(parts), result.origin)


def enlarged(images: Images) -> np.ndarray:
    """A grid of images, small ones enlarged to about 84 pixels across: uint8 (H, W, C)."""
    width = images.shape[2] if images.spec.medium == "image" else _SIDE
    return montage.from_image(images.grid(scale=scale_of(width)))


def scale_of(width: int) -> int:
    """The enlargement of images of so many pixels across."""
    return max(1, round(_SIDE / width))


def stacked(parts: list[np.ndarray]) -> np.ndarray:
    """Images (H, W, C) one above the other on white, uint8 (H, W, 3)."""
    widest = max(part.shape[1] for part in parts)
    colour = [alpha.composited(alpha.with_channels(part, 3)) for part in parts]
    margins = [((0, 0), (0, widest - part.shape[1]), (0, 0)) for part in colour]
    return np.concatenate([np.pad(*pair, constant_values=255) for pair in zip(colour, margins, strict=True)])


def _curves(result: Anomalies) -> np.ndarray:
    """ROC and precision-recall curves of every score, and the distributions of the one that decides."""
    buffer = io.BytesIO()
    with plots.figure(buffer, 12.6, 3.9) as drawing:
        roc, pr, histogram = drawing.subplots(1, 3)
        roc.plot([0, 1], [0, 1], color="#b0b0b0", linewidth=0.8, linestyle=":")
        for name, estimates in result.detection.items():
            rates, width = curves(result.normal[name], result.scores[name]), 2.0 if name == result.score else 1.1
            alarms, detected = (np.append(0.0, values) for values in (rates.false_alarms, rates.detected))
            roc.plot(alarms, detected, linewidth=width, label=f"{name}: {interval_text(estimates['auc'])}")
            precision = np.append(rates.precision[0], rates.precision)
            entry = f"{name}: {interval_text(estimates['average-precision'])}"
            pr.plot(detected, precision, linewidth=width, label=entry, drawstyle="steps-pre")
        _axes(roc, "ROC: area under the curve", "false alarms", "anomalies detected")
        count, normal = len(result), len(result.normal[result.score])
        pr.axhline(count / (count + normal), color="#b0b0b0", linewidth=0.8, linestyle=":")
        _axes(pr, "Precision-recall: average precision", "anomalies detected (recall)", "precision")
        pr.set_ylim(0.9 * count / (count + normal) - 0.02, 1.02)
        _histogram(histogram, {"normal": result.normal[result.score], "anomalies": result.scores[result.score]})
        histogram.axvline(result.threshold, color="black", linewidth=1)
        title = (
            f"{result.score}: threshold {result.threshold:.3g} for {result.calibration.false_alarms:.3g} false alarms"
        )
        histogram.set_title(title, fontsize=10)
    with PILImage.open(buffer) as image:
        return np.asarray(image.convert("RGB"))


def _axes(axis: Any, title: str, x: str, y: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(x, fontsize=9)
    axis.set_ylabel(y, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right", frameon=False)


def _histogram(axis: Any, scores: Mapping[str, np.ndarray]) -> None:
    """Densities of scores, without the uppermost half per cent, which would flatten the rest."""
    both = np.concatenate(list(scores.values()))
    edges = np.linspace(both.min(), max(float(np.quantile(both, 0.995)), float(both.min()) + 1e-9), 60)
    for (name, values), colour in zip(scores.items(), ("#1f4e8c", "#c2542d"), strict=True):
        axis.hist(values.clip(edges[0], edges[-1]), bins=edges, density=True, alpha=0.6, color=colour, label=name)
    axis.set_xlabel("score", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=8, frameon=False)


def plot_rates(result: Rates, path: Path) -> None:
    """PSNR and SSIM over bits per pixel: a colour for each codec, a line style for what is counted."""
    codecs, measures = list(dict.fromkeys(point.codec for point in result.points)), ["psnr"]
    measures += ["ssim"] * all(np.isfinite(point.ssim) for point in result.points)
    styles = {"codes": "-", "codes by prior": "-", "files": ":", "without headers": "--", "mosaic": "-"}
    with plots.figure(path, 5.6 * len(measures) + 2.2, 5.2, result.origin) as drawing:
        for axis, measure in zip(np.atleast_1d(drawing.subplots(1, len(measures))), measures, strict=True):
            for index, ((codec, counted), points) in enumerate(result.curves.items()):
                x, y = ([getattr(point, name) for point in points] for name in ("bits_per_pixel", measure))
                style: dict[str, Any] = {"linestyle": styles[counted], "color": f"C{codecs.index(codec) % 10}"}
                marker = {"marker": "*", "markersize": 9} if len(points) == 1 else {"marker": "o", "markersize": 3}
                axis.plot(x, y, label=str(index), **marker, **style)
            for codec, point in result.ceilings.items():
                axis.axhline(getattr(point, measure), color=f"C{codecs.index(codec) % 10}", linewidth=0.8, alpha=0.6)
            axis.set_xscale("log")
            axis.set_xlabel("bits per pixel", fontsize=9)
            axis.set_ylabel({"psnr": "PSNR in dB", "ssim": "SSIM"}[measure], fontsize=9)
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.3, which="both")
        handles = axis.get_legend_handles_labels()[0]
        legend = drawing.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False)
        for entry, key in zip(legend.get_texts(), result.curves, strict=True):
            entry.set_parse_math(False)
            entry.set_text(printable(", ".join(key)))
        drawing.suptitle(
            f"{result.number:,} held-out images; thin lines: reconstructions without a quantiser", fontsize=10
        )
