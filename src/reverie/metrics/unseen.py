"""What a model makes of pictures that it has not seen: their likelihood, reconstructions and translations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from reverie.core.card import card_of
from reverie.core.options import listed
from reverie.core.verbs import Model, verbs_of
from reverie.data.batches import in_order
from reverie.data.types import Split
from reverie.drawing import device_of, reconstruct
from reverie.media import Spec
from reverie.media.medium import to_float
from reverie.metrics import reconstruction
from reverie.metrics.bench import Bench
from reverie.metrics.estimate import Estimate
from reverie.metrics.likelihood import MODERATE, likelihood
from reverie.metrics.passport import Refused, Score


def nll(bench: Bench) -> Iterator[Score]:
    """The likelihood of held-out pictures, or its bounds."""
    model, held = _model_and_held_out(bench, "A likelihood")
    most = None if bench.slow else MODERATE
    for metric, found, facts in likelihood(model, held, most, bench.progress):
        yield bench.score(metric, found, None, "lower", **facts | {"interval": "95 %, over held-out pictures"})
    if others := sorted({one.of for one in card_of(model).likelihoods} - {"8-bit"}):
        of = {"binary": "that of binary pictures", "density": "a density of continuous values", "tokens": "of tokens"}
        raise Refused(
            f"Bits per dimension are those of 8-bit pictures; this model's likelihood is {of[others[0]]}.",
            "Train with a likelihood of 8-bit pictures (for a vae --decoder gaussian or learned).",
        )


def rebuilt(bench: Bench) -> Iterator[Score]:
    """How much of held-out pictures survives encoding and decoding."""
    measures = {"mse": reconstruction.mse, "psnr": reconstruction.psnr, "ssim": reconstruction.ssim}
    yield from _compared(bench, measures, *_reconstructions(bench))


def translation(bench: Bench) -> Iterator[Score]:
    """How near translations come to what they should be."""
    measures = {"l1": reconstruction.l1, "psnr": reconstruction.psnr, "ssim": reconstruction.ssim}
    yield from _compared(bench, measures, *_translations(bench))


def lpips(bench: Bench) -> Iterator[Score]:
    """The perceptual distance of translations from their truth, or of held-out pictures from their reconstructions."""
    from reverie import weights
    from reverie.nets.lpips import LPIPS
    from reverie.nets.vgg import VGG16

    _only_images(bench, "LPIPS")
    size = min(bench.sets.held_out.spec.shape) if len(bench.sets.held_out) else 0
    if 0 < size < 16:
        raise Refused(
            f"LPIPS' network halves pictures four times; {size} pixels are too few.", "Ask for reconstruction."
        )
    compared = _reconstructions(bench) if bench.sets.truth is None else _translations(bench)
    vgg = VGG16()
    vgg.load_state_dict(weights.load("vgg16", bench.progress))
    yield from _compared(bench, {"lpips": LPIPS(vgg, weights.load("lpips-vgg", bench.progress))}, *compared)


Measure = Callable[[Tensor, Tensor], Tensor]
Pair = tuple[Tensor, Tensor]  # samples (B, C, *shape): what should be there, and what the model made


def _reconstructions(bench: Bench) -> tuple[Iterator[Pair], int, str]:
    """Held-out pictures beside their reconstructions, how many there are, and what they are."""
    model, held = _model_and_held_out(bench, "A reconstruction")
    if not {"encode", "decode"} <= set(verbs_of(model)):
        raise Refused("The model does not encode pictures.", "Ask for distances of its samples: frechet, kernel, prdc.")

    def pairs() -> Iterator[Pair]:
        for batch in in_order(held, _ROWS, device_of(model)):
            clean, *_, made = reconstruct(model, batch)
            yield clean.cpu(), made.cpu()

    return pairs(), len(held), "reconstructions of held-out pictures"


def _translations(bench: Bench) -> tuple[Iterator[Pair], int, str]:
    """The truth beside translations, how many there are, and what they are."""
    made, truth = bench.sets.fake["x"], bench.sets.truth
    if truth is None or not len(made):
        raise Refused(
            "How these pictures should look translated is not known: the data has no pairs.",
            "Ask for distances from the target domain: frechet, kernel, kid.",
        )
    _model_and_held_out(bench, "A translation")
    starts = range(0, len(made), _ROWS)
    pairs = ((to_float(truth[low : low + _ROWS]), to_float(made[low : low + _ROWS])) for low in starts)
    return pairs, len(made), "translations of held-out pictures"


_ROWS = 64  # at once
_UNITS = {
    "mse": "pictures span 2",
    "l1": "pictures span 2",
    "psnr": "dB, mean over pictures",
    "ssim": "at most 1",
    "lpips": "VGG-16, v0.1",
}


def _compared(
    bench: Bench, measures: Mapping[str, Measure], pairs: Iterator[Pair], count: int, what: str
) -> Iterator[Score]:
    """A score for each measure, a mean over the pairs; without SSIM, which is then refused, where it does not fit."""
    unfit = _unfit_for_ssim(bench.sets.held_out.spec) if "ssim" in measures else ""
    measures = {name: measure for name, measure in measures.items() if not (unfit and name == "ssim")}
    found: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for truth, made in pairs:
            for name, measure in measures.items():
                found.setdefault(name, []).append(measure(truth, made))
            if bench.progress:
                bench.progress(sum(map(len, next(iter(found.values())))), count, what)
    for name, values in found.items():
        better = "lower" if name in ("mse", "l1", "lpips") else "higher"
        facts = {"unit": _UNITS[name], "interval": "95 %, over held-out pictures", "held_out": count, "of": what}
        yield bench.score(name, Estimate.of_mean(torch.cat(values)), None, better, **facts)
    if unfit:
        raise Refused(unfit, f"Go by {listed(found)}.", "ssim")


def _unfit_for_ssim(spec: Spec) -> str:
    """Why there is no SSIM of such samples; "" where there is."""
    if spec.medium != "image":
        return f"SSIM is for images, and these are {spec.medium}s."
    if min(spec.shape) < reconstruction.WINDOW:
        return f"SSIM's window has {reconstruction.WINDOW} pixels a side, the images have {min(spec.shape)}."
    return ""


def _only_images(bench: Bench, what: str) -> None:
    if bench.sets.held_out.spec.medium != "image":
        raise Refused(f"{what} is for images, and these are {bench.sets.held_out.spec.medium}s.", "Go by mse and psnr.")


def _model_and_held_out(bench: Bench, what: str) -> tuple[Model, Split]:
    if bench.sets.model is None:
        raise Refused(f"{what} needs the model, and only pictures were given.", "Evaluate a RUN.")
    if bench.sets.of_reference.get("held_out_trained_on"):
        raise Refused(
            f"{what} of pictures that the model was trained on says little of others.",
            "Leave --data out, so that the run's held-out pictures are used, or name data it has not seen.",
        )
    if len(bench.sets.held_out) < 2:
        raise Refused(f"{what} needs held-out pictures.", "Give data with some.")
    return bench.sets.model, bench.sets.held_out
