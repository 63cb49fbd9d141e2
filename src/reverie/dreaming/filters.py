"""What the filters of a network respond to: images from noise, by gradient ascent on one filter's activation each.

Erhan, Bengio, Courville and Vincent, "Visualizing higher-layer features of a deep network", technical report, 2009.
Olah, Mordvintsev and Schubert, "Feature visualization", Distill 2017, doi:10.23915/distill.00007.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from reverie.core.batch import Batch
from reverie.core.errors import Stopped, UsageError, argument
from reverie.core.memory import is_exhausted, rows_at_once
from reverie.core.noise import Noise, fold, mix
from reverie.core.values import check_seeds, integer, integers, plain
from reverie.dreaming.canvas import Canvas, Level, Pixels, paint
from reverie.dreaming.parametrisations import Fourier, Phase
from reverie.dreaming.robustness import RedirectedRectifiers, transformed
from reverie.inference.features import features_of
from reverie.inference.load import Source
from reverie.inference.origin import origin
from reverie.media import Spec, medium_of
from reverie.media.images import Images, Sheet
from reverie.nets.dcgan import clamp_pixels
from reverie.nets.features import Features, Layer
from reverie.pretrained.networks import NETWORKS
from reverie.training.progress import shows_progress

Parametrisation = Literal["fourier", "pixels", "phase"]
Objective = Literal["channel", "unit"]
Progress = Callable[[int, int, str], None]

PARAMETRISATIONS: dict[str, Any] = {"fourier": Fourier, "pixels": Pixels, "phase": Phase}
RATES = {"fourier": 0.05, "pixels": 0.03, "phase": 0.5}  # Adam's
NOISE = 0.01  # standard deviation of the first image
REDIRECTED = 16  # steps in which gradients pass rectifiers that are off
FEW = 16  # filters by default
LARGE = 1000  # times that noise's activation say as little as times 0: then the label has the difference


@dataclass(frozen=True)
class Ascent:
    """How a filter's image is made.

    Attributes:
        shape: (H, W) of the image in pixels.
        steps: of Adam.
        parametrisation: of the image: "fourier", "pixels" or "phase".
        objective: "channel", the mean activation over the image, or "unit", that at its centre.
        seed: of the first image and the transformations.
    """

    shape: tuple[int, int]
    steps: int = 96
    parametrisation: Parametrisation = "fourier"
    objective: Objective = "channel"
    seed: int = 0

    def check(self, features: Features, layer: str) -> None:
        """Raise a UsageError for an option out of range, or a shape that the network does not see."""
        kinds = {"parametrisation": tuple(PARAMETRISATIONS), "objective": ("channel", "unit")}
        for name, names in kinds.items():
            if not isinstance(value := getattr(self, name), str) or value not in names:
                raise UsageError(f"{argument(name)} must be {' or '.join(names)}, not {value!r}.")
        device = next(features.network.parameters()).device
        try:
            with torch.no_grad():
                features(torch.zeros(1, features.channels, *self.shape, device=device), [layer])
        except RuntimeError as error:
            if is_exhausted(error) or self.shape == features.size:
                raise
            sees, sides = ("x".join(map(str, shape)) for shape in (features.size, self.shape))
            raise UsageError(
                f"{features.name} sees images of {sees} pixels; {layer} is not computed at {sides}."
            ) from error

    def activations(self, features: Features, layer: str, channels: Tensor, images: Tensor) -> Tensor:
        """Of image i the activation of filter ``channels[i]``, (N,)."""
        maps = features(images, [layer])[layer].float()
        maps = maps[torch.arange(len(maps), device=maps.device), channels]  # (N, h, w), of vectors (N,)
        if self.objective == "unit" and maps.ndim == 3:
            return maps[:, maps.shape[1] // 2, maps.shape[2] // 2]
        return maps.mean((1, 2)) if maps.ndim == 3 else maps

    def __call__(
        self, features: Features, layer: str, numbers: Sequence[int], after_step: Callable[[int], None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images (N, C, H, W) of filters, and their activations (N,) in the noise they began from and in the images.

        Every image has its own random streams, so it does not depend on the others but for rounding.

        Raises:
            Stopped: a KeyboardInterrupt after the first step; its ``result`` are the images so far.
        """
        device = next(features.network.parameters()).device
        channels = torch.tensor(numbers, device=device)
        image = PARAMETRISATIONS[self.parametrisation](self.shape, features.channels, len(numbers)).to(device)
        noise = Noise.of_seeds([fold(self.seed, "filter", number) for number in numbers], device)
        image.set(NOISE * noise(features.channels, *self.shape))
        with torch.no_grad():
            before = self.activations(features, layer, channels, image())

        def loss(images: Tensor, batch: Batch) -> dict[str, Tensor]:
            rng = Noise(mix(batch.rng.keys ^ mix(channels)))
            with RedirectedRectifiers() if batch.step < REDIRECTED else contextlib.nullcontext():
                views = transformed(clamp_pixels(images), rng)
                return {"loss": -self.activations(features, layer, channels, views).sum()}

        canvas = Canvas(
            [Level(image, loss, self.steps)],
            lambda parameters: torch.optim.Adam(parameters, RATES[self.parametrisation]),
            schedule=lambda step, progress: min(1.0, 2 * (1 - progress)),
        )

        @torch.no_grad()
        def result() -> tuple[Tensor, Tensor, Tensor]:
            return canvas.image(), before, self.activations(features, layer, channels, canvas.image())

        step = 0
        try:
            remedy = f"Try fewer {argument('steps')}, or images of another kind (fourier, pixels, phase)."
            for step, _ in enumerate(paint(canvas, self.seed, device=str(device), remedy=remedy), 1):
                after_step(step)
        except KeyboardInterrupt:
            if not step:
                raise
            raise Stopped(result()) from None
        return result()


@shows_progress
def filters(
    network: Source | Features,
    layer: str,
    channels: Sequence[int] | Literal["all"] | None = None,
    steps: int = 96,
    size: int | None = None,
    parametrisation: Parametrisation = "fourier",
    objective: Objective = "channel",
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Images:
    """For each filter of a layer an image that raises its activation, by gradient ascent from noise.

    Image and transformations of a filter have random streams of their own: filter 7 of all is filter 7 alone, up to
    rounding. ``conditions`` of the result are its "channels", and the "activations" of each in its image and in the
    "noise" that it began from, whose quotient is in its label. A filter that does not rise is labelled "dead".

    Args:
        network: a pretrained network ("vgg16" ...), a run, a model, or ``Features`` of any module.
        layer: a name of ``Features.layers``.
        channels: numbers of filters from 0, or "all"; by default 16 of them, evenly spaced.
        steps: of gradient ascent.
        size: side of the images in pixels; by default the network's own images', of a pretrained one see ``side_of``.
        parametrisation: of the images: "fourier" (smooth, colours as in photographs), "pixels" or "phase" (amplitudes
            as in photographs; only phases are trained).
        objective: "channel", the mean activation over the image, or "unit", that at its centre.
        seed: of all random numbers.
        device: of the network.
        progress: called with (step, steps of all filters, description).
    Raises:
        UsageError: no such network, layer or channel, or a size that the network does not see.
        Stopped: a KeyboardInterrupt after the first step; its ``result`` are the images so far.
    """
    features = features_of(network, device)
    entry = features.layer(layer)
    numbers = numbers_of(channels, entry, layer)
    shape = features.size if size is None else (integer(argument("size"), size, 8, 4096),) * 2
    if size is None and features.name in NETWORKS:
        shape = (side_of(entry.stride),) * 2
    (seed,) = check_seeds(seed)
    ascent = Ascent(shape, integer(argument("steps"), steps, 1, 100_000), parametrisation, objective, seed)
    ascent.check(features, layer)
    chunk, done = rows_at_once(ascent.shape, "cpu", 32), 0
    total, parts, stopped = -(-len(numbers) // chunk) * ascent.steps, list[tuple[Tensor, ...]](), dict[str, str]()

    def after_step(step: int) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total, f"filters of {layer}")

    try:
        for low in range(0, len(numbers), chunk):
            parts.append(ascent(features, layer, numbers[low : low + chunk], after_step))
    except KeyboardInterrupt as stop:
        parts += [stop.result] if isinstance(stop, Stopped) else []
        if not parts:
            raise
        numbers, stopped = numbers[: sum(len(part[0]) for part in parts)], {"stopped": f"step {done} of {total}"}
    images, before, after = (torch.cat(tensors).cpu() for tensors in zip(*parts, strict=True))
    spec = Spec("image", ascent.shape, features.channels)
    options: dict[str, Any] = {"channels": numbers, "steps": steps, "size": list(shape), "seed": seed}
    options |= {"parametrisation": parametrisation, "objective": objective}
    result = Images(
        medium_of(spec).to_storage(images, spec),
        spec,
        labels=[_label(*row) for row in zip(numbers, before.tolist(), after.tolist(), strict=True)],
        origin=origin("filters", features.network, network=features.name, layer=layer, **options) | stopped,
        conditions={"channels": numbers, "noise": before.tolist(), "activations": after.tolist()},
    )
    if stopped:
        raise Stopped(result)
    return result


@shows_progress
def filter_page(
    network: Source | Features,
    layers: str | Sequence[str] | None = None,
    number: int = 8,
    steps: int = 96,
    size: int | None = None,
    parametrisation: Parametrisation = "fourier",
    objective: Objective = "channel",
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Sheet:
    """A few filters of each of several layers: a row for a layer, from the first to the deepest.

    Args:
        network, steps, parametrisation, objective, seed, device: as for ``filters``.
        layers: by default ``representative`` ones.
        number: filters of a layer, evenly spaced.
        size: side of the images in pixels; by default the network's own images', of a pretrained one 128.
        progress: called with (step, steps of all layers, description).
    Raises:
        UsageError, Stopped: as for ``filters``.
    """
    features = features_of(network, device)
    if size is None and features.name in NETWORKS:
        size = 128
    chosen = representative(features.main_layers) if layers is None else features.names(layers)
    if not chosen:
        raise UsageError(f"{argument('layers')} must be at least one of {', '.join(features.main_layers)}.")
    number = min(integer(argument("number"), number, 1, 64), *(features.layer(name).channels for name in chosen))
    rows, stopped = dict[str, Images](), dict[str, str]()
    for index, name in enumerate(chosen):

        def update(step: int, steps: int, what: str, index: int = index) -> None:
            if progress:
                progress(index * steps + step, len(chosen) * steps, what)

        numbers = evenly(features.layer(name).channels, number)
        try:
            rows[name] = filters(
                features, name, numbers, steps, size, parametrisation, objective, seed, progress=update
            )
        except KeyboardInterrupt as stop:
            if isinstance(stop, Stopped) and len(stop.result) == number:
                rows[name] = stop.result
            if not rows:
                raise
            stopped = {"stopped": f"layer {len(rows)} of {len(chosen)}"}
            break
    by = {name: value for name, value in rows[chosen[0]].origin.items() if name not in ("layer", "channels")}
    sheet = Sheet(rows, columns=number, origin=by | stopped)
    if stopped:
        raise Stopped(sheet)
    return sheet


def is_dead(noise: float, activation: float) -> bool:
    """Whether an activation has not risen from that in noise."""
    return activation <= noise + 1e-6 * abs(noise)


def side_of(stride: int) -> int:
    """Side of an image that shows what a layer of a pretrained network looks for: 64 to 224 pixels."""
    return min(max(64, 16 * stride), 224)


def evenly(count: int, number: int) -> list[int]:
    """At most ``number`` of 0 ... count - 1, evenly spaced."""
    number = min(count, number)
    return [index * count // number for index in range(number)]


def representative(layers: Mapping[str, Layer]) -> list[str]:
    """The last layer before each change of stride, in the order of computation, if wider than an image."""
    wide = [(name, layer) for name, layer in layers.items() if layer.channels > 3]
    return [[*group][-1][0] for _, group in itertools.groupby(wide, key=lambda item: item[1].stride)]


def numbers_of(channels: Any, layer: Layer, name: str, few: int = FEW) -> list[int]:
    """The filters that are asked for, by default ``few`` of them, evenly spaced.

    Raises:
        UsageError: no numbers, or some that the layer does not have.
    """
    if channels is None or (isinstance(channels, str) and channels == "all"):
        return evenly(layer.channels, layer.channels if channels else few)
    channels = plain(channels)
    numbers = None if isinstance(channels, str) else integers([channels] if isinstance(channels, int) else channels)
    if not numbers:
        raise UsageError(f"{argument('channels')} must be numbers of filters or 'all', not {channels!r:.80}.")
    if odd := [number for number in numbers if not 0 <= number < layer.channels]:
        raise UsageError(f"{name} has the channels 0 to {layer.channels - 1}; there is no {odd[0]}.")
    return list(numbers)


def _label(number: int, noise: float, activation: float) -> str:
    if is_dead(noise, activation):
        return f"{number} dead"
    times = activation / noise if noise > 0 else math.inf
    return f"{number}  x{times:.3g}" if times < LARGE else f"{number}  +{activation - noise:.2g}"
