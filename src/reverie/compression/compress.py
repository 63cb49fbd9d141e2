"""Images to a file by a model's probabilities, and back, bit for bit."""

from __future__ import annotations

import hashlib
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from reverie.compression import coding
from reverie.compression.format import Header, checksum_of, pack, unpack
from reverie.compression.formats import sizes as sizes_of_formats
from reverie.compression.inputs import open_images
from reverie.compression.pictures import image_of, planes_of
from reverie.core.card import card_of, name_of
from reverie.core.errors import ReverieError, UsageError, argument
from reverie.core.files import atomic, exists, is_file, path_of
from reverie.core.terminal import count
from reverie.core.verbs import Model, call, verbs_of
from reverie.inference.load import Source, model_of
from reverie.inference.rows import device_of, evaluating
from reverie.training.run import Run

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
        many = count(len(self.images), "image")
        return f"Compressed({many}, {len(self.data):,} bytes, {self.bits_per_dim:.3f} bits per dimension)"


def compress(model: Source, images: Any, progress: Progress | None = None) -> Compressed:
    """Compress images without loss by a model's exact probabilities.

    A ``codec`` computes in integers: it compresses images of any size, and its files are decoded on every machine.
    Any other model with exact conditionals of 8-bit values compresses images of its own size; its files are decoded
    surely only in the environment (processor, versions, threads) in which they were written.

    Args:
        model: a run, or a loaded model.
        images: a file, "held-out:3", a Pillow image, uint8 (H, W) or (H, W, C), ``Images``, a split of data, or a list
            of the first four. Images named of the run's data are taken from their source, at their own size.
        progress: called after each part, (done, total, description).
    Raises:
        UsageError: a model without exact conditionals, images that it cannot code, none at all.
        ReverieError: a file that cannot be read, or a library that is missing.
    """
    model = model_of(model)
    portable = is_portable(model)
    arrays = open_images(model, images)
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
            for array in arrays:
                _check_fits(model, array.shape)
            rows = np.stack([array.transpose(2, 0, 1).ravel() for array in arrays])
            encoder = coding.encode_rows(model, rows, lambda done: report(done * total // len(arrays)))
    environment = b"" if portable else _environment(model)
    shapes = [array.shape for array in arrays]
    header = Header(name_of(model), _hash(model), environment, shapes, checksum_of(arrays))
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
    header, payload, name = opened(file)
    model = model_of(model)
    _check_same(model, header, name)
    total = sum(height * width for height, width, _ in header.shapes)

    def report(done: int) -> None:
        if progress:
            progress(min(done, total), total, "decompressing")

    try:
        with evaluating(model):
            images = _decoded(model, header, payload, report)
    except coding.NotCoded:
        raise ReverieError(f"{name} is damaged: {name_of(model)} cannot have written its coded values.") from None
    if checksum_of(images) != header.checksum:
        why = "It was written in another environment." if header.environment else "Its content was changed."
        raise ReverieError(f"{name} was decoded to other pixels than were coded: nothing of it can be used. {why}")
    return images


def opened(file: bytes | Path | str | Compressed) -> tuple[Header, bytes, str]:
    """The header, the coded values and the name of a compressed file. Raises a ReverieError for any other file."""
    if isinstance(file, bytes | Compressed):
        name, data = "The file", file if isinstance(file, bytes) else file.data
    else:
        name = str(file)
        if isinstance(file, Run | nn.Module) or (exists(path_of("file", file)) and Path(file).is_dir()):
            raise UsageError(f"{name:.200} is no compressed file. The file comes first, the run second.")
        if not is_file(file):
            raise UsageError(f"There is no file {name!r:.200}.")
        try:
            data = Path(file).read_bytes()
        except OSError as error:
            raise ReverieError(f"{name} cannot be read: {error.strerror or error}.") from None
    return *unpack(data, name), name


def _decoded(model: Model, header: Header, payload: bytes, report: Callable[[int], None]) -> list[np.ndarray]:
    if header.environment:
        (height, width, channels), count = header.shapes[0], len(header.shapes)
        values = height * width * channels
        rows = coding.decode_rows(model, payload, count, values, lambda n: report(n * height * width))
        return [row.reshape(channels, height, width).transpose(1, 2, 0) for row in rows]
    density = call(model, "portable")
    coded = {c: [n for _, n in planes_of(np.zeros((1, 1, c), np.uint8), density.channels)] for c in range(1, 5)}
    sizes = [(height, width) for height, width, channels in header.shapes for _ in coded[channels]]
    each = [n for _, _, channels in header.shapes for n in coded[channels]]
    planes = iter(coding.decode_planes(density, payload, sizes, each, report))
    return [image_of([next(planes) for _ in coded[c]], coded[c][0]) for _, _, c in header.shapes]


def is_portable(model: Model) -> bool:
    """Whether the model codes in integers.

    Raises:
        UsageError: a model with no exact 8-bit probabilities.
        ReverieError: weights that are not finite.
    """
    verbs, likelihoods = verbs_of(model), card_of(model).likelihoods
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise ReverieError(f"Weights of {name_of(model)} are not finite: it cannot compress.")
    if "portable" in verbs:
        return True
    exact = any(entry.kind == "exact" and entry.of == "8-bit" for entry in likelihoods)
    if "conditionals" not in verbs or not exact:
        binary = any(entry.of == "binary" for entry in likelihoods)
        why = "has binary pixels" if binary else "states no exact probabilities of 8-bit values, one after the other"
        raise UsageError(
            f"This {name_of(model)} {why}, so it cannot compress without loss. Train a codec: reverie train codec "
            "--data FOLDER."
        )
    if (output := card_of(model).output) and output.channels == 4:
        raise UsageError(
            f"This {name_of(model)} states probabilities of premultiplied RGBA, which no file holds. A codec of RGB "
            "images keeps transparency: reverie train codec --data FOLDER."
        )
    return False


def _check_fits(model: Model, shape: tuple[int, ...]) -> None:
    output = card_of(model).output
    if output is None or shape != (*output.shape, output.channels):
        raise UsageError(
            f"{name_of(model)} compresses images of {output} only, and this one has {'x'.join(map(str, shape))}. A "
            "codec compresses images of any size: reverie train codec."
        )


def check_weights(model: Model, header: Header, name: str) -> None:
    """Raise a UsageError for weights other than those that compressed a file of this name."""
    if header.model != name_of(model) or header.weights != _hash(model):
        mine = f"this is {name_of(model)} with weights {_hash(model).hex()}"
        raise UsageError(
            f"{name} was compressed by {header.model} with weights {header.weights.hex()}, and {mine}. "
            f"Name the run that compressed it with {argument('run')}."
        )


def _check_same(model: Model, header: Header, name: str) -> None:
    check_weights(model, header, name)
    if is_portable(model) == bool(header.environment):
        raise ReverieError(f"{name} is damaged: {name_of(model)} does not write files of its kind.")
    if header.environment:
        for shape in {*header.shapes}:
            _check_fits(model, shape)
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
