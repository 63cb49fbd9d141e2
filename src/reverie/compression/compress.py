"""Images to a file by a model's probabilities, and back, bit for bit."""

from __future__ import annotations

import hashlib
import math
import platform
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reverie.compression import coding
from reverie.compression.format import Header, pack, unpack
from reverie.compression.formats import sizes as sizes_of_formats
from reverie.compression.pictures import image_of, open_image, planes_of
from reverie.core.card import card_of, name_of
from reverie.core.errors import ReverieError, UsageError, argument
from reverie.core.files import atomic, path_of
from reverie.core.verbs import Model, call, verbs_of
from reverie.data import Split
from reverie.inference.load import Source, model_of
from reverie.inference.references import find_row
from reverie.inference.rows import device_of, evaluating
from reverie.media.images import Images

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, repr=False)
class Compressed:
    """Images in a file.

    Attributes:
        data: the bytes of the file.
        bits: -log2 of the probability of all pixels: what the coded values take at best.
        payload: bytes of the coded values; the rest of ``data`` is the header and checksums.
        images: what was coded, uint8 (H, W, C) each.
        portable: whether it is decoded on every machine; else surely in the same environment only.
    """

    data: bytes
    bits: float
    payload: int
    images: Sequence[np.ndarray]
    portable: bool

    @property
    def bits_per_dim(self) -> float:
        """Bits of the file for each channel of each pixel."""
        return 8 * len(self.data) / sum(image.size for image in self.images)

    def formats(self) -> dict[str, int]:
        """Bytes of PNG, WebP and, if it is installed, JPEG XL of the same images, one file an image, without loss."""
        return sizes_of_formats(self.images)

    def save(self, path: Path | str) -> Path:
        """Write the file, atomically; an earlier file of this name is replaced."""
        path = path_of("path", path)
        with atomic(path) as temporary:
            temporary.write_bytes(self.data)
        return path

    def __repr__(self) -> str:
        many = f"{len(self.images)} image{'s' * (len(self.images) != 1)}"
        return f"Compressed({many}, {len(self.data):,} bytes, {self.bits_per_dim:.3f} bits per dimension)"


def compress(model: Source, images: Any, progress: Progress | None = None) -> Compressed:
    """Compress images without loss by a model's exact probabilities.

    A ``codec`` computes in integers: it compresses images of any size, and its files are decoded on every machine.
    Any other model with exact conditionals of 8-bit values compresses images of its own size; its files are decoded
    surely only in the environment (processor, versions, threads) in which they were written.

    Args:
        model: a run, or a loaded model.
        images: a file, "held-out:3", a Pillow image, uint8 (H, W) or (H, W, C), ``Images``, a split of data, or a list
            of the first four. All have the same channels.
        progress: called after each part, (done, total, description).
    Raises:
        UsageError: a model without exact conditionals, images that it cannot code, none at all.
        ReverieError: a file that cannot be read, or a library that is missing.
    """
    model = model_of(model)
    arrays, portable = _images(model, images), _is_portable(model)
    if len({array.shape[2] for array in arrays}) > 1:
        kinds = ", ".join(sorted({_kind(array.shape[2]) for array in arrays}))
        raise UsageError(f"Images of one file must have the same channels, not {kinds}. Compress them one by one.")
    total = sum(array.shape[0] * array.shape[1] for array in arrays)

    def report(done: int) -> None:
        if progress:
            progress(min(done, total), total, "compressing")

    with evaluating(model):
        if portable:
            density = call(model, "portable")
            planes = [plane for array in arrays for plane in planes_of(array, density.channels)]
            encoder = coding.encode_planes(density, planes, report)
        else:
            _check_fits(model, arrays)
            rows = np.stack([array.transpose(2, 0, 1).ravel() for array in arrays])
            encoder = coding.encode_rows(model, rows, lambda done: report(done * total // len(arrays)))
    sizes = [(array.shape[0], array.shape[1]) for array in arrays]
    environment = b"" if portable else _environment(model)
    header = Header(name_of(model), _hash(model), environment, arrays[0].shape[2], sizes, _checksum(arrays))
    payload = encoder.bytes()
    return Compressed(pack(header, payload), encoder.bits, len(payload), arrays, portable)


def decompress(
    file: bytes | Path | str | Compressed, model: Source, progress: Progress | None = None
) -> list[np.ndarray]:
    """The images of a compressed file, uint8 (H, W, C) each.

    Args:
        file: its path or bytes, or what ``compress`` returned.
        model: the run that compressed it, or the same weights elsewhere.
        progress: called after each part, (done, total, description).
    Raises:
        UsageError: other weights than those of the file.
        ReverieError: no such file, damaged, of a later version, or not decoded to the pixels that were coded.
    """
    model, name = model_of(model), "The file"
    data = file.data if isinstance(file, Compressed) else file
    if not isinstance(data, bytes):
        name = str(data)
        try:
            data = path_of("file", data).read_bytes()
        except OSError as error:
            raise ReverieError(f"{name} cannot be read: {error.strerror or error}.") from None
    header, payload = unpack(data, name)
    _check_same(model, header, name)
    total = sum(height * width for height, width in header.sizes)

    def report(done: int) -> None:
        if progress:
            progress(min(done, total), total, "decompressing")

    try:
        with evaluating(model):
            images = _decoded(model, header, payload, report)
    except ValueError as error:
        if isinstance(error, ReverieError):
            raise
        raise ReverieError(f"{name} holds coded values that {name_of(model)} cannot have written.") from None
    if _checksum(images) != header.pixels:
        why = "It was written in another environment." if header.environment else "Its content was changed."
        raise ReverieError(f"{name} was decoded to other pixels than were coded: nothing of it can be used. {why}")
    return images


def _decoded(model: Model, header: Header, payload: bytes, report: Callable[[int], None]) -> list[np.ndarray]:
    if header.environment:
        height, width = header.sizes[0]
        shape, count = (header.channels, height, width), len(header.sizes)
        rows = coding.decode_rows(model, payload, count, math.prod(shape), lambda n: report(n * height * width))
        return [row.reshape(shape).transpose(1, 2, 0) for row in rows]
    density = call(model, "portable")
    blank = np.zeros((1, 1, header.channels), np.uint8)
    coded = [channels for _, channels in planes_of(blank, density.channels)]  # of the planes of an image
    sizes = [size for size in header.sizes for _ in coded]
    planes = coding.decode_planes(density, payload, sizes, coded * len(header.sizes), report)
    return [image_of(planes[i : i + len(coded)], coded[0]) for i in range(0, len(planes), len(coded))]


def _is_portable(model: Model) -> bool:
    """Whether the model codes in integers. Raises a UsageError for a model with no exact 8-bit probabilities."""
    verbs, likelihoods = verbs_of(model), card_of(model).likelihoods
    if "portable" in verbs:
        return True
    exact = any(entry.kind == "exact" and entry.of == "8-bit" for entry in likelihoods)
    if "conditionals" not in verbs or not exact:
        raise UsageError(
            f"{name_of(model)} does not state exact probabilities of 8-bit values one after the other, so it cannot "
            "compress without loss. Train a codec: reverie train codec --data FOLDER."
        )
    return False


def _images(model: Model, images: Any) -> list[np.ndarray]:
    if isinstance(images, Split):
        images = list(np.asarray(images["x"]))
    elif isinstance(images, Images):
        images = list(images.array)
    elif not isinstance(images, list | tuple):
        images = [images]
    if not images:
        raise UsageError("There are no images to compress.")
    return [open_image(_in_data(model, image)) for image in images]


def _in_data(model: Model, image: Any) -> Any:
    """held-out:3 and train:3 as their pixels in the run's data; anything else as it is."""
    if isinstance(image, str) and image.partition(":")[0] in ("held-out", "train"):
        split, index = find_row(model, image)
        return np.asarray(split["x"][index])
    return image


def _check_fits(model: Model, arrays: Sequence[np.ndarray]) -> None:
    output = card_of(model).output
    shape = None if output is None else (*output.shape, output.channels)
    for array in arrays:
        if array.shape != shape:
            raise UsageError(
                f"{name_of(model)} compresses images of {output} only, and this one has "
                f"{'x'.join(map(str, array.shape))}. A codec compresses images of any size: reverie train codec."
            )


def _check_same(model: Model, header: Header, name: str) -> None:
    if header.model != name_of(model) or header.weights != _hash(model):
        mine = f"this is {name_of(model)} with weights {_hash(model).hex()}"
        raise UsageError(
            f"{name} was compressed by {header.model} with weights {header.weights.hex()}, and {mine}. "
            f"Name the run that compressed it with {argument('run')}."
        )
    if header.environment and header.environment != _environment(model):
        warnings.warn(
            f"{name} was compressed in another environment (processor, torch, threads or device): its rounding may "
            "differ, and then it cannot be decoded here.",
            stacklevel=3,
        )


def _hash(model: Model) -> bytes:
    """4 bytes of a hash of all parameters and buffers."""
    digest = hashlib.blake2s(digest_size=4)
    state: Mapping[str, Any] = model.state_dict()
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.digest()


def _environment(model: Model) -> bytes:
    """4 bytes of a hash of what rounding depends on."""
    device = device_of(model)
    parts: list[Any] = [platform.machine(), torch.__version__, torch.backends.cpu.get_cpu_capability()]
    parts += [torch.get_num_threads(), device.type, torch.get_float32_matmul_precision()]
    parts += [torch.cuda.get_device_name(device)] if device.type == "cuda" else []
    return hashlib.blake2s(repr(parts).encode(), digest_size=4).digest()


def _checksum(images: Sequence[np.ndarray]) -> int:
    checksum = 0
    for image in images:
        checksum = zlib.crc32(np.ascontiguousarray(image).tobytes(), checksum)
    return checksum


def _kind(channels: int) -> str:
    return ("grey", "grey with alpha", "RGB", "RGB with alpha")[channels - 1]
