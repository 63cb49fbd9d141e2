"""Features of images by a pretrained network: computed once, cached on disk, shared over ranks."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reverie.core import distributed
from reverie.core.cache import Progress, home
from reverie.core.errors import UsageError, suggest
from reverie.core.files import replacing
from reverie.core.precision import pick_device, pick_precision
from reverie.evaluation.resize import RESIZES, resize
from reverie.evaluation.statistics import Moments
from reverie.media import alpha
from reverie.pretrained import weights

CHUNK = 2048  # images in a cache file: the most that an interruption costs
_VERSION = 1  # of the features: a change of their values changes this, and old cache files are ignored


@dataclass(frozen=True)
class Kind:
    """A feature network.

    Attributes:
        dimension: of its features.
        size: side of its input in pixels.
        resize: default way to resize images to it.
        scale: pixels 0 ... 255 to its input.
        build: (weights, dtype) to a module of inputs (N, 3, size, size).
        bf16: its features may be computed in bf16 (measured error of the distances: below 0.5 %).
    """

    dimension: int
    size: int
    resize: str
    scale: Callable[[Tensor], Tensor]
    build: Callable[[Mapping[str, Tensor], torch.dtype], nn.Module]
    bf16: bool = False


def _inception(state: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    from reverie.nets.inception import Inception

    return Inception(state, dtype)


def _small(state: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    from reverie.nets.small import small_encoder

    return _frozen(small_encoder(state), dtype)


def _mobilenet(state: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    from reverie.nets.mobilenet import MobileNetV2

    return _loaded(MobileNetV2(), state, dtype)


def _dinov2(state: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    from reverie.nets.vit import ViT

    return _loaded(ViT(), state, dtype)


def _loaded(net: nn.Module, state: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    net.load_state_dict(state)
    return _frozen(net, dtype)


def _frozen(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    net = net.to(dtype).requires_grad_(False).eval()
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _unit(x: Tensor) -> Tensor:
    return x / 127.5 - 1


BACKBONES = {
    "small": Kind(128, 32, "bilinear-antialias", _unit, _small),
    "inception": Kind(2048, 299, "tf1-bilinear", lambda x: (x - 128) / 128, _inception, bf16=True),
    "mobilenetv2": Kind(1280, 224, "bicubic-antialias", _unit, _mobilenet),
    "dinov2": Kind(384, 224, "bicubic-antialias", _unit, _dinov2),
}


@dataclass(frozen=True)
class Backbone:
    """A loaded feature network: ``backbone(images)`` computes their features.

    Attributes:
        name: in ``BACKBONES``.
        sha256: of the network's weights.
        resize: way to resize images to its input.
        precision: "fp32" or "bf16".
    """

    name: str
    kind: Kind
    net: nn.Module = field(repr=False)
    sha256: str
    resize: str
    precision: str
    device: torch.device

    @property
    def dimension(self) -> int:
        return self.kind.dimension

    @property
    def passport(self) -> dict[str, Any]:
        """Its entry in a passport."""
        names = ("name", "sha256", "dimension", "resize", "precision")
        return {name: getattr(self, name) for name in names}

    @torch.inference_mode()
    def __call__(self, images: np.ndarray, run: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """uint8 (N, H, W, C) to float32 features (N, D) on the CPU; grey is repeated, RGBA on white.

        Args:
            run: another head of the same network, such as its logits.
        """
        pixels = torch.from_numpy(alpha.composited(np.array(images))).to(self.device).permute(0, 3, 1, 2).float()
        fitted = self.kind.scale(resize(pixels, self.kind.size, self.resize)).expand(-1, 3, -1, -1)
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        fitted = fitted.to(dtype, memory_format=torch.channels_last)
        return (run or self.net)(fitted).float().cpu()


def backbone(
    name: str = "small",
    resize: str | None = None,
    precision: str = "auto",
    device: str = "auto",
    progress: Progress | None = None,
) -> Backbone:
    """A feature network by name; its weights are fetched if they are not cached.

    Args:
        resize: a name in ``RESIZES``; the network's default by default.
        precision: fp32, bf16, or auto: bf16 where the hardware and the network support it.
    Raises:
        UsageError: an unknown network or resize.
        ReverieError: the weights cannot be fetched.
    """
    if name not in BACKBONES:
        raise UsageError(
            f"There is no backbone {name!r}.{suggest(name, list(BACKBONES))} Known: {', '.join(BACKBONES)}."
        )
    kind = BACKBONES[name]
    resize = resize or kind.resize
    if resize not in RESIZES:
        raise UsageError(f"There is no resize {resize!r}.{suggest(resize, list(RESIZES))} Known: {', '.join(RESIZES)}.")
    target = pick_device(device)
    bf16 = pick_precision(precision, target).bf16 and (precision == "bf16" or kind.bf16)
    state = weights.load(name, progress)
    net = kind.build(state, torch.bfloat16 if bf16 else torch.float32).to(target)
    return Backbone(name, kind, net, weights.digest(state), resize, "bf16" if bf16 else "fp32", target)


class Features:
    """Features of a set of images (N, D), float32, in chunks that may be memory maps.

    Attributes:
        chunks: arrays (n, D), in the images' order.
    """

    def __init__(self, chunks: list[np.ndarray]):
        self.chunks = chunks
        self._starts = [0, *itertools.accumulate(len(chunk) for chunk in chunks)]

    def __len__(self) -> int:
        return self._starts[-1]

    def parts(self) -> Iterator[Tensor]:
        """Chunk by chunk, one in memory at a time."""
        for chunk in self.chunks:
            yield torch.from_numpy(np.array(chunk))

    @cached_property
    def moments(self) -> Moments:
        """Of all features, one chunk in memory at a time."""
        return functools.reduce(Moments.__add__, map(Moments.of, self.parts()))

    def tensor(self) -> Tensor:
        """All features (N, D) as one tensor, which replaces the chunks so that memory holds them once."""
        if len(self.chunks) > 1 or not self.chunks[0].flags.writeable:
            array = np.empty((len(self), self.chunks[0].shape[1]), np.float32)
            for start in self._starts[:-1]:
                chunk = self.chunks.pop(0)
                array[start : start + len(chunk)] = chunk
            self.chunks, self._starts = [array], [0, len(array)]
        return torch.from_numpy(self.chunks[0])

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """The features of these rows (n, D)."""
        index = np.arange(len(self))[rows if isinstance(rows, slice) else rows.numpy()]
        array = np.empty((len(index), self.chunks[0].shape[1]), np.float32)
        for start, chunk in zip(self._starts, self.chunks, strict=False):
            here = (index >= start) & (index < start + len(chunk))
            array[here] = chunk[index[here] - start]
        return torch.from_numpy(array)


def features(
    images: np.ndarray,
    backbone: Backbone,
    keep: bool = True,
    progress: Progress | None = None,
    what: str = "computing features",
    background: Sequence[int] = alpha.WHITE,
) -> Features:
    """Features of uint8 images (N, H, W, C), cached or computed; each rank computes its share.

    Args:
        keep: cache them in ``$REVERIE_HOME/features``, keyed by the images' content, the network's hash, the resize and
            the precision. Each chunk is written once complete, so interrupted work resumes there.
        progress: called as progress(done, total, what).
        background: RGB behind transparent pixels.
    """
    spans = [slice(low, min(low + CHUNK, len(images))) for low in range(0, len(images), CHUNK)]
    chunks: list[np.ndarray | None] = [None] * len(spans)
    rank, world = distributed.rank(), distributed.world()
    for number, span in enumerate(spans):
        if number % world == rank:
            part = alpha.composited(images[span], background)
            chunks[number] = _chunk(part, backbone, keep, progress, what, span.start, len(images))
    return Features(distributed.collect(chunks))


def _chunk(
    images: np.ndarray, backbone: Backbone, keep: bool, progress: Progress | None, what: str, before: int, total: int
) -> np.ndarray:
    path = home() / "features" / f"{_key(images, backbone)}.npy"
    if keep:
        with contextlib.suppress(OSError, ValueError):  # absent or damaged: recomputed
            cached = np.load(path, mmap_mode="r", allow_pickle=False)
            if cached.shape == (len(images), backbone.dimension) and cached.dtype == np.float32:
                return cached
    step = 16 if backbone.device.type == "cpu" and backbone.kind.size > 64 else 256
    parts = []
    for low in range(0, len(images), step):
        parts.append(backbone(images[low : low + step]).numpy())
        if progress:
            progress(before + min(low + step, len(images)), total, what)
    values = np.concatenate(parts)
    if keep:
        with contextlib.suppress(OSError), replacing(path) as temporary, temporary.open("wb") as handle:
            np.save(handle, values)  # without a writable cache, the next call computes them again
    return values


def _key(images: np.ndarray, backbone: Backbone) -> str:
    settings = json.dumps([_VERSION, images.shape, backbone.passport], sort_keys=True)
    return hashlib.sha256(settings.encode() + np.ascontiguousarray(images).data).hexdigest()[:40]
