"""What a model makes of pictures that it has not seen: their likelihood, and their reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from reverie.core.card import card_of
from reverie.core.verbs import Model, verbs_of
from reverie.data.batches import in_order
from reverie.data.types import Split
from reverie.drawing import device_of, reconstruct
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
        raise Refused(
            f"Bits per dimension are those of 8-bit pictures; this model's likelihood is that of {others[0]} data.",
            "Train with a likelihood of 8-bit pictures (for a vae --decoder gaussian or learned).",
        )


def rebuilt(bench: Bench) -> Iterator[Score]:
    """How much of held-out pictures survives encoding and decoding."""
    yield from _rebuilt(bench, {"mse": reconstruction.mse, "psnr": reconstruction.psnr, "ssim": reconstruction.ssim})


def lpips(bench: Bench) -> Iterator[Score]:
    """The perceptual distance of held-out pictures from their reconstructions."""
    from reverie import weights
    from reverie.nets.lpips import LPIPS
    from reverie.nets.vgg import VGG16

    _only_images(bench, "LPIPS")
    size = min(bench.sets.held_out.spec.shape) if len(bench.sets.held_out) else 0
    if 0 < size < 16:
        raise Refused(
            f"LPIPS' network halves pictures four times; {size} pixels are too few.", "Ask for reconstruction."
        )
    _model_and_held_out(bench, "A reconstruction")
    vgg = VGG16()
    vgg.load_state_dict(weights.load("vgg16", bench.progress))
    yield from _rebuilt(bench, {"lpips": LPIPS(vgg, weights.load("lpips-vgg", bench.progress))})


def _rebuilt(bench: Bench, measures: dict[str, Callable[[Tensor, Tensor], Tensor]]) -> Iterator[Score]:
    model, held = _model_and_held_out(bench, "A reconstruction")
    if not {"encode", "decode"} <= set(verbs_of(model)):
        raise Refused("The model does not encode pictures.", "Ask for distances of its samples: frechet, kernel, prdc.")
    side = min(held.spec.shape)
    small = "ssim" in measures and side < reconstruction.WINDOW
    if small:
        del measures["ssim"]
    found: dict[str, list[Tensor]] = {name: [] for name in measures}
    with torch.no_grad():
        for batch in in_order(held, 64, device_of(model)):
            clean, *_, made = (picture.cpu() for picture in reconstruct(model, batch))
            for name, measure in measures.items():
                found[name].append(measure(clean, made))
            if bench.progress:
                done = sum(map(len, next(iter(found.values()))))
                bench.progress(done, len(held), "reconstructing held-out pictures")
    units = {"mse": "pictures span 2", "psnr": "dB, mean over pictures", "ssim": "at most 1", "lpips": "VGG-16, v0.1"}
    for name, values in found.items():
        better = "lower" if name in ("mse", "lpips") else "higher"
        facts = {"unit": units[name], "interval": "95 %, over held-out pictures", "held_out": len(held)}
        yield bench.score(name, Estimate.of_mean(torch.cat(values)), None, better, **facts)
    if small:
        raise Refused(
            f"SSIM's window has {reconstruction.WINDOW} pixels a side, the pictures have {side}.", "Go by mse and psnr."
        )


def _only_images(bench: Bench, what: str) -> None:
    if bench.sets.held_out.spec.medium != "image":
        raise Refused(f"{what} is for images, and these are {bench.sets.held_out.spec.medium}s.", "Go by mse and psnr.")


def _model_and_held_out(bench: Bench, what: str) -> tuple[Model, Split]:
    if bench.sets.model is None:
        raise Refused(f"{what} needs the model, and only pictures were given.", "Evaluate a RUN.")
    if bench.sets.of_reference.get("trained_on"):
        raise Refused(
            f"{what} of pictures that the model was trained on says little of others.",
            "Leave --data out, so that the run's held-out pictures are used, or name data it has not seen.",
        )
    if len(bench.sets.held_out) < 2:
        raise Refused(f"{what} needs held-out pictures.", "Give data with some.")
    return bench.sets.model, bench.sets.held_out
