"""Scores on held-out images: likelihood, reconstructions and translations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from reverie.core.card import card_of, config_of, reconstructs
from reverie.core.errors import argument
from reverie.core.memory import rows_at_once
from reverie.core.options import listed
from reverie.core.verbs import Model
from reverie.data.batches import in_order
from reverie.data.types import Split
from reverie.evaluation.base import Evaluation
from reverie.evaluation.estimate import Estimate
from reverie.evaluation.likelihood import MODERATE, likelihood
from reverie.evaluation.passport import Refused, Score
from reverie.evaluation.reconstruction import WINDOW, l1, mse, psnr, relative_sharpness, ssim
from reverie.inference.rows import device_of, reconstruct
from reverie.media import Spec, medium_of
from reverie.media.alpha import is_rgba
from reverie.media.colour import solid
from reverie.media.medium import to_float


def nll(evaluation: Evaluation) -> Iterator[Score]:
    """The likelihood of held-out images, or its bounds."""
    model, held_out = _model_and_held_out(evaluation, "A likelihood")
    most = None if evaluation.slow else MODERATE
    for metric, estimate, entries in likelihood(model, held_out, most, evaluation.progress):
        yield evaluation.score(metric, estimate, None, "lower", **entries | {"interval": "95 %, over held-out images"})
    if others := sorted({method.of for method in card_of(model).likelihoods} - {"8-bit"}):
        of = {"binary": "of binary images", "density": "a density of continuous values", "tokens": "of tokens"}
        choice = "likelihood" in (config_of(model)["kwargs"] or {})
        other = f" Another {argument('likelihood')} in training may have them." if choice else ""
        evaluation.remarks.append(
            f"Bits per dimension are of 8-bit images; this model's likelihood is {of[others[0]]}, in nats.{other}"
        )


def reconstruction(evaluation: Evaluation) -> Iterator[Score]:
    """Reconstruction error of held-out images."""
    yield from _compared(evaluation, {"mse": mse, "psnr": psnr, "ssim": ssim}, *_reconstructions(evaluation))


def translation(evaluation: Evaluation) -> Iterator[Score]:
    """Error of translations against their ground truth."""
    yield from _compared(evaluation, {"l1": l1, "psnr": psnr, "ssim": ssim}, *_translations(evaluation))


def lpips(evaluation: Evaluation) -> Iterator[Score]:
    """Perceptual distance of translations from their truth, or of held-out images from their reconstructions."""
    from reverie.nets.lpips import LPIPS
    from reverie.nets.vgg import VGG
    from reverie.pretrained import weights

    _only_images(evaluation, "LPIPS")
    size = min(evaluation.sets.held_out.spec.shape) if len(evaluation.sets.held_out) else 0
    if 0 < size < 16:
        raise Refused(f"LPIPS' network halves images four times; {size} pixels are too few.", "Use reconstruction.")
    compared = _reconstructions(evaluation) if evaluation.sets.truth is None else _translations(evaluation)
    vgg = VGG()
    vgg.load_state_dict(weights.load("vgg16", evaluation.progress))
    distance = LPIPS(vgg, weights.load("lpips-vgg", evaluation.progress))
    yield from _compared(evaluation, {"lpips": lambda x, y: distance(solid(x), solid(y))}, *compared)


def sharpness(evaluation: Evaluation) -> Iterator[Score]:
    """Sharpness of reconstructions over that of the originals, or of translations over that of their truth."""
    _only_images(evaluation, "Sharpness")
    compared = _reconstructions(evaluation) if evaluation.sets.truth is None else _translations(evaluation)
    yield from _compared(evaluation, {"sharpness": relative_sharpness}, *compared)


Measure = Callable[[Tensor, Tensor], Tensor]
Pair = tuple[Tensor, Tensor]  # ground truth and output of the model, both (B, C, *shape)


def _reconstructions(evaluation: Evaluation) -> tuple[Iterator[Pair], int, str]:
    """Held-out images with their reconstructions, their number, and a description."""
    model, held_out = _model_and_held_out(evaluation, "A reconstruction")
    if not reconstructs(model):
        raise Refused("The model does not encode images.", "Use distances of its samples: frechet, kernel, prdc.")

    def pairs() -> Iterator[Pair]:
        for batch in in_order(held_out, rows_at_once(held_out.spec.shape, device_of(model)), device_of(model)):
            image, *_, output = reconstruct(model, batch)
            yield image.cpu(), output.cpu()

    return pairs(), len(held_out), f"reconstructions of held-out {medium_of(held_out.spec).noun}"


def _translations(evaluation: Evaluation) -> tuple[Iterator[Pair], int, str]:
    """The ground truth with translations, their number, and a description."""
    outputs, truth = evaluation.sets.fake["x"], evaluation.sets.truth
    if truth is None or not len(outputs):
        raise Refused(
            "There is no ground truth for these translations: the data has no pairs.",
            "Use distances from the target domain: frechet, kernel, kid.",
        )
    _model_and_held_out(evaluation, "A translation")
    starts = range(0, len(outputs), _ROWS)
    pairs = ((to_float(truth[low : low + _ROWS]), to_float(outputs[low : low + _ROWS])) for low in starts)
    return pairs, len(outputs), "translations of held-out images"


_ROWS = 64  # rows of a batch
_UNITS = {
    "mse": "values in [-1, 1]",
    "l1": "values in [-1, 1]",
    "psnr": "dB, mean over samples",
    "ssim": "at most 1",
    "lpips": "VGG-16, v0.1",
    "sharpness": "variance of the Laplacian over the original's",
}


def _compared(
    evaluation: Evaluation, measures: Mapping[str, Measure], pairs: Iterator[Pair], count: int, what: str
) -> Iterator[Score]:
    """The mean of each measure over the pairs; SSIM is refused where it is undefined."""
    interval = f"95 %, over held-out {medium_of(evaluation.sets.held_out.spec).noun}"
    unfit = _unfit_for_ssim(evaluation.sets.held_out.spec) if "ssim" in measures else ""
    measures = {name: measure for name, measure in measures.items() if not (unfit and name == "ssim")}
    rgba = is_rgba(evaluation.sets.held_out["x"])
    results: dict[str, list[Tensor]] = {name: [] for name in measures}
    with torch.no_grad():
        for truth, output in pairs:
            for name, measure in measures.items():
                results[name].append(measure(truth, output))
            if evaluation.progress:
                evaluation.progress(sum(map(len, next(iter(results.values())))), count, what)
    for name, values in results.items():
        better = "lower" if name in ("mse", "l1", "lpips") else "higher"
        entries = {"unit": _UNITS[name], "interval": interval, "held_out": count, "of": what}
        entries |= {"images": "RGBA on white" if name == "lpips" else "premultiplied RGBA"} if rgba else {}
        yield evaluation.score(name, Estimate.of_mean(torch.cat(values)), None, better, **entries)
    if unfit:
        raise Refused(unfit, f"Use {listed(results)}.", "ssim")


def _unfit_for_ssim(spec: Spec) -> str:
    """Why SSIM is undefined for such samples; "" if it is defined."""
    if spec.medium != "image":
        return f"SSIM is for images, and these are {spec.medium}s."
    if min(spec.shape) < WINDOW:
        return f"SSIM's window has {WINDOW} pixels a side, the images have {min(spec.shape)}."
    return ""


def _only_images(evaluation: Evaluation, what: str) -> None:
    if evaluation.sets.held_out.spec.medium != "image":
        medium = evaluation.sets.held_out.spec.medium
        raise Refused(f"{what} is for images, and these are {medium}s.", "Use reconstruction: mse and psnr.")


def _model_and_held_out(evaluation: Evaluation, what: str) -> tuple[Model, Split]:
    if evaluation.sets.model is None:
        raise Refused(f"{what} needs the model, not only images.", "Evaluate a RUN.")
    if evaluation.sets.of_reference.get("held_out_trained_on"):
        raise Refused(
            f"{what} needs held-out images, and the model was trained on these.",
            f"Omit {argument('data')} to use the run's held-out images, or use new data.",
        )
    if len(evaluation.sets.held_out) < 2:
        raise Refused(f"{what} needs held-out images.", "Use data with at least two.")
    return evaluation.sets.model, evaluation.sets.held_out
