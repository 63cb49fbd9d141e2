"""Features: what a pretrained network sees in pictures, computed once, kept on disk, shared over ranks."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reverie import weights
from reverie.core import distributed
from reverie.core.errors import UsageError, suggest
from reverie.core.files import replacing
from reverie.core.precision import pick_device, pick_precision
from reverie.home import Progress, home
from reverie.metrics.resize import RESIZES, resize
from reverie.metrics.statistics import Moments

CHUNK = 2048  # pictures a file of the cache holds: what an interruption costs at most
_VERSION = 1  # of the numbers: a change that moves features moves this, and old files are no longer read


@dataclass(frozen=True)
class Kind:
    """One network that pictures can be looked at with.

    Attributes:
        dimension: of its features.
        size: side of its input in pixels.
        resize: how pictures are brought there by default.
        scale: pixels 0 ... 255 to its input.
        build: (weights, dtype) to a module of inputs (N, 3, size, size).
        bf16: its features may be computed in bf16 (the distances' error was measured and is below 0.5 %).
    """

    dimension: int
    size: int
    resize: str
    scale: Callable[[Tensor], Tensor]
    build: Callable[[Mapping[str, Tensor], torch.dtype], nn.Module]
    bf16: bool = False


def _inception(found: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    from reverie.nets.inception import Inception

    return Inception(found, dtype)


def _small(found: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    from reverie.nets.small import SmallEncoder

    return _loaded(SmallEncoder(), found, dtype)


def _mobilenet(found: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    from reverie.nets.mobilenet import MobileNetV2

    return _loaded(MobileNetV2(), found, dtype)


def _dinov2(found: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    from reverie.nets.vit import ViT

    return _loaded(ViT(), found, dtype)


def _loaded(net: nn.Module, found: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    net.load_state_dict(found)
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
    """A network at its post: ``backbone(images)`` are their features.

    Attributes:
        name: in ``BACKBONES``.
        sha256: of the network's weights.
        resize: how pictures are brought to its input.
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
    def facts(self) -> dict[str, Any]:
        """Its part of a passport."""
        told = {"name": self.name, "sha256": self.sha256, "dimension": self.dimension}
        return told | {"resize": self.resize, "precision": self.precision}

    @torch.inference_mode()
    def __call__(self, images: np.ndarray, run: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """uint8 (N, H, W, 1 or 3) to float32 features (N, D) on the CPU; grey is resized once and repeated.

        Args:
            run: another head of the same network, such as its logits.
        """
        pixels = torch.from_numpy(np.array(images)).to(self.device).permute(0, 3, 1, 2).float()
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
    """A network by name, its weights fetched if they are not here yet.

    Args:
        resize: a name of ``RESIZES``; the network's own way by default.
        precision: fp32, bf16, or auto: bf16 where the hardware multiplies it and the network's distances bear it.
    Raises:
        UsageError: an unknown name or way.
        ReverieError: the weights cannot be had.
    """
    if name not in BACKBONES:
        raise UsageError(
            f"There is no backbone {name!r}.{suggest(name, list(BACKBONES))} Known: {', '.join(BACKBONES)}."
        )
    kind = BACKBONES[name]
    way = resize or kind.resize
    if way not in RESIZES:
        raise UsageError(f"There is no resize {way!r}.{suggest(way, list(RESIZES))} Known: {', '.join(RESIZES)}.")
    where = pick_device(device)
    chosen = pick_precision(precision, where)
    bf16 = chosen.bf16 and (precision == "bf16" or kind.bf16)
    found = weights.load(name, progress)
    net = kind.build(found, torch.bfloat16 if bf16 else torch.float32).to(where)
    return Backbone(name, kind, net, weights.digest(found), way, "bf16" if bf16 else "fp32", where)


class Features:
    """Features of a set of pictures (N, D), float32, in chunks that may lie on the disk.

    Attributes:
        chunks: arrays (n, D), in the pictures' order.
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
        """Of all pictures, streamed."""
        return functools.reduce(Moments.__add__, map(Moments.of, self.parts()))

    def whole(self) -> Tensor:
        """All features (N, D) as one tensor, which takes the chunks' place: they are in memory once."""
        if len(self.chunks) > 1 or not self.chunks[0].flags.writeable:
            made = np.empty((len(self), self.chunks[0].shape[1]), np.float32)
            for start in self._starts[:-1]:
                chunk = self.chunks.pop(0)
                made[start : start + len(chunk)] = chunk
            self.chunks, self._starts = [made], [0, len(made)]
        return torch.from_numpy(self.chunks[0])

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """The features of some rows (n, D)."""
        index = np.arange(len(self))[rows if isinstance(rows, slice) else rows.numpy()]
        made = np.empty((len(index), self.chunks[0].shape[1]), np.float32)
        for start, chunk in zip(self._starts, self.chunks, strict=False):
            here = (index >= start) & (index < start + len(chunk))
            made[here] = chunk[index[here] - start]
        return torch.from_numpy(made)


def features(
    images: np.ndarray,
    eye: Backbone,
    keep: bool = True,
    progress: Progress | None = None,
    what: str = "looking at pictures",
) -> Features:
    """Features of uint8 pictures (N, H, W, C): from the cache where they are, else computed, each rank its share.

    Args:
        keep: write them to ``$REVERIE_HOME/features``, keyed by the pictures' content, the network's hash, the resize
            and the precision. A chunk is kept as soon as it is whole, so that interrupted work goes on from there.
        progress: called as progress(done, total, what).
    """
    spans = [slice(low, min(low + CHUNK, len(images))) for low in range(0, len(images), CHUNK)]
    made: list[np.ndarray | None] = [None] * len(spans)
    rank, world = distributed.rank(), distributed.world()
    for number, span in enumerate(spans):
        if number % world == rank:
            made[number] = _chunk(images[span], eye, keep, progress, what, span.start, len(images))
    return Features(distributed.collect(made))


def _chunk(
    images: np.ndarray, eye: Backbone, keep: bool, progress: Progress | None, what: str, before: int, total: int
) -> np.ndarray:
    path = home() / "features" / f"{_key(images, eye)}.npy"
    if keep:
        with contextlib.suppress(OSError, ValueError):  # not there, or torn: computed again
            held = np.load(path, mmap_mode="r", allow_pickle=False)
            if held.shape == (len(images), eye.dimension) and held.dtype == np.float32:
                return held
    step = 16 if eye.device.type == "cpu" and eye.kind.size > 64 else 256
    parts = []
    for low in range(0, len(images), step):
        parts.append(eye(images[low : low + step]).numpy())
        if progress:
            progress(before + min(low + step, len(images)), total, what)
    found = np.concatenate(parts)
    if keep:
        with contextlib.suppress(OSError), replacing(path) as aside, aside.open("wb") as handle:
            np.save(handle, found)  # a cache that cannot be written costs the next call the work, no more
    return found


def _key(images: np.ndarray, eye: Backbone) -> str:
    said = json.dumps([_VERSION, images.shape, eye.facts], sort_keys=True)
    return hashlib.sha256(said.encode() + np.ascontiguousarray(images).data).hexdigest()[:40]
