"""DeepDream: a photograph changed until a network sees more of what it sees in it.

Mordvintsev, Olah and Tyka, "Inceptionism: going deeper into neural networks", Google research blog, 2015, and their
notebook google/deepdream. Gradient ascent on the weighted mean of the L2 norms of several layers' activations, over
octaves, coarse to fine. Each octave begins from the dream of the one before, enlarged, and from the detail that the
photograph lost in the smaller one: the photograph at this size minus its smaller self, enlarged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.batch import Batch
from reverie.core.cache import Progress
from reverie.core.errors import Stopped, UsageError, argument, of_argument
from reverie.core.memory import is_exhausted
from reverie.core.noise import fold
from reverie.core.values import check_seeds, integer, number
from reverie.core.verbs import Frame
from reverie.dreaming.canvas import Canvas, Level, Loss, Pixels, paint, resampled, zoomed
from reverie.dreaming.photo import open_photo, to_images
from reverie.dreaming.tiles import Statistics, Window, evaluate, tiling
from reverie.inference.features import features_of
from reverie.inference.load import Source
from reverie.inference.origin import origin
from reverie.media.colour import with_channels
from reverie.media.images import Images
from reverie.nets.features import Features
from reverie.nets.perceptual import best_match, positions
from reverie.pretrained import networks
from reverie.training.progress import shows_progress

Layers = str | Sequence[str] | Mapping[str, float]  # "relu4_3=1,relu5_1=0.5", names, or weights by name
_SMALLEST = 64  # pixels of the shorter side of an octave
_GUIDE_SIDE = 224  # pixels of the longer side of a guide: more positions find no better match
_PROCESS = 6e8  # bytes of a process with a network
_COPIES = 10  # of the image: the canvas, its gradient, the photograph, shifted ones ...
_MULTIPLE = 32  # of the sides of images of one's own networks, which halve them up to five times


@dataclass(frozen=True)
class Norms:
    """The weighted mean of the L2 norms of layers' activations, each divided by the root of their number.

    With a guide, that of a layer is how well its activations match the guide's: the largest scalar product of each
    position with a position of the guide, the mean over positions, divided by the guide's norm.

    Args:
        weights: by layer.
        guides: the guide's activations by layer, (positions, channels).
    """

    weights: Mapping[str, float]
    guides: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def layers(self) -> Sequence[str]:
        return [*self.weights]

    def statistics(self, features: Mapping[str, Tensor], windows: Mapping[str, Window]) -> Statistics:
        sums: Statistics = {}
        for layer, x in features.items():
            guide, wide = self.guides.get(layer), x if x.dtype == torch.float64 else x.float()
            if guide is None:
                sums[layer] = wide.square().sum()
            elif x.numel():
                sums[layer] = best_match(positions(wide), guide.to(wide)).sum()
            else:
                sums[layer] = wide.sum()
            count = x.numel() if guide is None else x[:, 0].numel()
            sums[f"{layer} number"] = wide.new_tensor(float(count))
        return sums

    def loss(self, statistics: Statistics) -> dict[str, Tensor]:
        means = {layer: statistics[layer] / statistics[f"{layer} number"] for layer in self.weights}
        values = {
            layer: mean / self.guides[layer].float().square().sum(1).mean().sqrt()
            if layer in self.guides
            else mean.clamp(min=1e-12).sqrt()
            for layer, mean in means.items()
        }
        total = sum(abs(weight) for weight in self.weights.values())
        mean = torch.stack([self.weights[layer] / total * value for layer, value in values.items()]).sum()
        return {"loss": -mean, **values}


class NormalisedDescent(torch.optim.Optimizer):
    """x - lr * gradient / mean |gradient|, clipped to [-1, 1]: every step changes pixels by lr in the mean."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], lr: float):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad * (group["lr"] / (p.grad.abs().mean() + 1e-12))).clamp_(-1, 1)


@dataclass(frozen=True)
class Dreamer:
    """A network and how it dreams.

    Attributes:
        features: of the network.
        objective: what rises.
        octaves: sizes of the image, of which the last is its own.
        octave_scale: ratio of one size to the one before.
        steps: of each octave.
        loops: how often; the dream is the photograph of the next loop.
        lr: mean change of a pixel in a step; images span 2.
        jitter: pixels by which a step shifts the image at most, at random, so that the network's grid leaves no trace.
        memory: of all of it in bytes; what takes more is computed tile by tile.
        multiple: the network takes images whose sides are multiples of it; others are padded for it at the border.
    """

    features: Features
    objective: Norms
    octaves: int = 4
    octave_scale: float = 1.4
    steps: int = 15
    loops: int = 1
    lr: float = 0.012
    jitter: int = 32
    memory: float = 4e9
    multiple: int = 1

    def stream(self, photo: Tensor, seed: int = 0) -> Iterator[Frame]:
        """The dream of a photograph (1, C, H, W) in [-1, 1]: a frame after each step.

        A frame renders the dream so far, in the photograph's size: the octaves to come add their detail alone.
        """
        device = str(next(self.features.network.parameters(), photo).device)
        for loop in range(self.loops):
            canvas = Canvas(self._levels(photo), lambda parameters: NormalisedDescent(parameters, self.lr))
            for frame in paint(canvas, fold(seed, loop), device=device):
                progress = (loop + frame.progress) / self.loops
                yield replace(frame, progress=progress, render=partial(_finished, canvas))
            photo = canvas.image().cpu()

    def film(self, photo: Tensor, images: int, zoom: float, seed: int = 0) -> Iterator[Frame]:
        """A zoom into a dream: the frames of each image, whose last has progress 1.

        Args:
            images: each is the one before, enlarged and dreamed on, without the contrast that dreams gain.
            zoom: enlargement from one to the next.
        """
        contrast = 0.0
        for index in range(images):
            for frame in (self.onward if index else self).stream(photo, fold(seed, index) if index else seed):
                yield frame
            dream = frame.render()["image"].cpu()
            spread = float(dream.std(correction=0))
            contrast = contrast or spread
            photo = zoomed(dream.mean() + (dream - dream.mean()) * min(1.0, contrast / max(spread, 1e-9)), zoom)

    @property
    def onward(self) -> Dreamer:
        """What dreams the next image of a film: few steps, since most of the dream is there."""
        return replace(self, octaves=min(2, self.octaves), steps=max(1, self.steps // 3), loops=1)

    def count(self, shape: Sequence[int]) -> int:
        """Steps of one dream of an image of (height, width) pixels."""
        return self.loops * self.steps * len(self.shapes(shape))

    def shapes(self, shape: Sequence[int]) -> list[tuple[int, int]]:
        """The octaves of an image of (height, width) pixels, without those in which the layers have few positions."""
        least = max(_SMALLEST, least_side(self.features, self.objective.layers))
        scales = [self.octave_scale**-octave for octave in reversed(range(self.octaves))]
        sizes = [(max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))) for scale in scales]
        return [*(size for size in sizes[:-1] if min(size) >= least), sizes[-1]]

    def _levels(self, photo: Tensor) -> list[Level]:
        shapes = self.shapes(photo.shape[2:])
        levels = [Level(Pixels(shape, photo.shape[1]), self._loss(shape), self.steps) for shape in shapes]
        levels[0].image.set(resampled(photo, shapes[0]))
        for level, smaller, shape in zip(levels[1:], shapes, shapes[1:], strict=False):
            level.begin = partial(with_detail, photo=photo, smaller=smaller, shape=shape)
        return levels

    def _loss(self, shape: tuple[int, int]) -> Loss:
        least = least_side(self.features, self.objective.layers) if self.multiple == 1 else 1
        scale = max(1.0, least / min(shape))
        budget = self.memory - _PROCESS - _COPIES * 12 * shape[0] * shape[1]
        with self._accepted(shape):
            tiles = tiling(self.features, self.objective.layers, [round(side * scale) for side in shape], budget)

        def loss(image: Tensor, batch: Batch) -> dict[str, Tensor]:
            shifts = batch.rng.integers(2 * self.jitter + 1, 2)[0].sub(self.jitter).tolist()
            image = seen(image.roll(shifts, (2, 3)), self.features, self.multiple, least)
            with self._accepted(image.shape[2:]):
                return evaluate(self.features, self.objective, image, tiles)

        return loss

    @contextlib.contextmanager
    def _accepted(self, shape: Sequence[int]) -> Iterator[None]:
        """Say it where a network of one's own does not take images of (height, width) pixels."""
        try:
            yield
        except RuntimeError as error:
            if self.multiple == 1 or is_exhausted(error):
                raise
            sides = f"{shape[1]} x {shape[0]}"
            raise UsageError(f"{self.features.name} does not take images of {sides} pixels: {error}.") from error


def _finished(canvas: Canvas) -> dict[str, Tensor]:
    return {"image": canvas.finished()}


def with_detail(dream: Tensor, photo: Tensor, smaller: Sequence[int], shape: Sequence[int]) -> Tensor:
    """A dream of an octave ``smaller``, enlarged to ``shape``, with the detail that the photograph lost in it."""
    photo = photo.to(dream.device)
    lost = resampled(photo, shape) - resampled(resampled(photo, smaller), shape)
    return resampled(dream, shape) + lost


def least_side(features: Features, layers: Sequence[str]) -> int:
    """Pixels along a side of which the coarsest layer makes five positions, up to those that layers are measured on."""
    return min(5 * max(features.layer(layer).stride for layer in layers), *features.size)


def seen(image: Tensor, features: Features, multiple: int = 1, least: int = 1) -> Tensor:
    """An image as a network takes it: enlarged to a least side, padded to a multiple, with its channels."""
    if (scale := least / min(image.shape[2:])) > 1:
        image = resampled(image, [round(side * scale) for side in image.shape[2:]])
    below, right = (-side % multiple for side in image.shape[2:])
    if below or right:
        image = F.pad(image, (0, right, 0, below), mode="replicate")
    return with_channels(image, features.channels)


def dreamer(
    net: Source | Features = "inception",
    layers: Layers | None = None,
    octaves: int = 4,
    octave_scale: float = 1.4,
    steps: int = 15,
    loops: int = 1,
    guide: Any = None,
    lr: float = 0.012,
    jitter: int = 32,
    memory: float = 4.0,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> Dreamer:
    """A network that dreams; its ``stream`` and ``film`` are those of ``dream``, whose arguments these are.

    Raises:
        UsageError: an unknown network or layer, or an argument out of its range.
    """
    octaves, steps = integer(argument("octaves"), octaves, 1, 100), integer(argument("steps"), steps, 1, 100_000)
    loops, jitter = integer(argument("loops"), loops, 1, 1000), integer(argument("jitter"), jitter, 0, 10_000)
    lr, memory = number(argument("lr"), lr, 0, 1e6), number(argument("memory"), memory, 0)
    octave_scale = number(argument("octave_scale"), octave_scale, 1)
    if octave_scale == 1 and octaves > 1:
        raise UsageError(f"{argument('octave_scale')} must be above 1 where there are several octaves.")
    features = features_of(net, device, progress, precision)
    pretrained = networks.NETWORKS.get(features.name)
    weights = layer_weights(
        (pretrained.dream if pretrained else coarse_layer(features)) if layers is None else layers, features
    )
    multiple = 1 if pretrained else _MULTIPLE
    objective = Norms(weights, {} if guide is None else guide_features(features, guide, list(weights), multiple))
    return Dreamer(features, objective, octaves, octave_scale, steps, loops, lr, jitter, memory * 1e9, multiple)


def coarse_layer(features: Features) -> list[str]:
    """The last layer of the largest stride up to 8: for networks of which no one knows which layers dream well."""
    maps = {name: layer.stride for name, layer in features.layers.items() if layer.stride < features.size[0]}
    strides = [stride for stride in maps.values() if stride <= 8] or [*maps.values()]
    return [name for name, stride in maps.items() if stride == max(strides)][-1:]


def layer_weights(layers: Layers, features: Features) -> dict[str, float]:
    """Layers with their weights.

    Raises:
        UsageError: an unknown layer, or a weight that is no number.
    """
    name = argument("layers")
    if isinstance(layers, str):
        parts = [text.partition("=") for text in layers.split(",") if text.strip()]
        pairs = [(layer.strip(), _weight(text) if equals else 1.0) for layer, equals, text in parts]
    elif isinstance(layers, Mapping):
        pairs = [*layers.items()]
    else:
        pairs = [(layer, 1.0) for layer in features.names(layers)]
    weights = {layer: number(name, weight) for layer, weight in pairs}
    features.names([layer for layer, _ in pairs])
    if not any(weights.values()):
        raise UsageError(f"{name} must be at least one layer with a weight, as mixed3=1,mixed4=0.5.")
    return weights


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{argument('layers')}: {text!r} is no number, but the weight of a layer.") from None


@torch.no_grad()
def guide_features(features: Features, guide: Any, layers: Sequence[str], multiple: int = 1) -> dict[str, Tensor]:
    """The activations of a guide by layer, (positions, channels)."""
    image = open_photo(guide, name="guide")
    if max(image.shape[2:]) > _GUIDE_SIDE:
        image = open_photo(guide, _GUIDE_SIDE, "guide")
    device = next(features.network.parameters(), image).device
    with of_argument("guide"):
        least = least_side(features, layers) if multiple == 1 else 1
        maps = features(seen(image.to(device), features, multiple, least), layers)
    return {layer: positions(x)[0] for layer, x in maps.items()}


@shows_progress
def dream(
    image: Any,
    net: Source | Features = "inception",
    layers: Layers | None = None,
    octaves: int = 4,
    octave_scale: float = 1.4,
    steps: int = 15,
    loops: int = 1,
    guide: Any = None,
    size: int | None = None,
    lr: float = 0.012,
    jitter: int = 32,
    frames: int = 1,
    zoom: float = 1.05,
    seed: int = 0,
    memory: float = 4.0,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> Images:
    """DeepDream: an image in which a network sees more of what it sees in it, at the image's own size.

    Args:
        image: a file, a Pillow image or uint8 (H, W, C); grey ones stay grey.
        net: a pretrained network ("inception", "vgg16", "resnet50" ...), a run or model with a network that looks at
            images, or ``Features`` of any module.
        layers: what rises: {"mixed3": 1.0, ...}, names, or "mixed3=1,mixed4=0.5"; early layers give strokes, later
            ones textures, the last ones parts of animals and buildings. By default those that suit the network.
        octaves: sizes of the image, of which the last is its own.
        octave_scale: ratio of one size to the one before.
        steps: of each octave.
        loops: how often; the dream is the photograph of the next loop.
        guide: an image whose features the dream is drawn to.
        size: of the longer side in pixels; None: the image's own.
        lr: mean change of a pixel in a step; images span 2.
        jitter: pixels by which a step shifts the image at most, at random.
        frames: images of a zoom into the dream, for ``.save("zoom.webp", seconds=5)``.
        zoom: enlargement from one of them to the next.
        seed: of the shifts.
        memory: of all of it in GB; an image that takes more is computed tile by tile, with equal results.
        precision: arithmetic of the network: auto, fp32 or bf16.
        progress: called after each step, (done, total, description).
    Raises:
        UsageError: an unknown network or layer, an image too small for one, an argument out of its range.
        Stopped: a KeyboardInterrupt after the first step; its ``result`` is the dream so far, or the film's whole
            images.
    """
    frames, zoom = integer(argument("frames"), frames, 1, 10_000), number(argument("zoom"), zoom, 1)
    (seed,) = check_seeds(seed)
    photo = open_photo(image, size)
    dreams = dreamer(
        net, layers, octaves, octave_scale, steps, loops, guide, lr, jitter, memory, device, precision, progress
    )
    arguments = {name: getattr(dreams, name) for name in ("octaves", "octave_scale", "steps", "loops", "lr", "jitter")}
    arguments |= {"frames": frames, "zoom": zoom} if frames > 1 else {}
    arguments |= {"image": image, "guide": guide, "size": size, "seed": seed, "memory": memory}
    network, rows, done, frame = dreams.features.network, list[np.ndarray](), 0, None
    made_by = origin("dream", network, network=dreams.features.name, **arguments)
    made_by |= {"layers": dict(dreams.objective.weights)}
    total = dreams.count(photo.shape[2:]) + (frames - 1) * dreams.onward.count(photo.shape[2:])
    try:
        for done, frame in enumerate(dreams.film(photo, frames, zoom, seed), 1):
            if progress:
                progress(done, total, "dreaming")
            if frame.progress == 1:
                rows.append(to_images(frame.render()["image"]).array)
    except KeyboardInterrupt:
        if frame is None:
            raise
        rows = rows or [to_images(frame.render()["image"]).array]
        made_by |= {"stopped": f"step {done} of {total}"}
        raise Stopped(Images(np.concatenate(rows), origin=made_by, bare=True)) from None
    return Images(np.concatenate(rows), origin=made_by, bare=True)
