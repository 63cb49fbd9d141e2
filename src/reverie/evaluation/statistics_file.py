"""Files of mean and covariance: those of pytorch-fid, clean-fid, torch-fidelity, ADM and EDM are read, ours written.

Nothing in a file is executed, and what is read takes no more memory than its size allows.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reverie.core import distributed
from reverie.core.errors import ReverieError, UsageError, argument
from reverie.core.files import atomic, is_file, path_of
from reverie.core.terminal import count
from reverie.data.archive import Archive
from reverie.evaluation.base import Evaluation
from reverie.evaluation.features import BACKBONES, Features
from reverie.evaluation.reference_file import ReferenceFile
from reverie.evaluation.resize import RESIZES
from reverie.evaluation.statistics import Gaussian
from reverie.media.origin import text_of

_RATIO, _SLACK = 20, 1 << 23  # numbers a byte of a compressed file, and numbers in any file
_LARGEST = 1e100  # of a value: its square is finite
_ROUNDING = 1e-5  # of a covariance in float32, in units of its largest value
_OTHERS = {  # networks and layers, by the number of their features
    64: "Inception's first pooling layer (pytorch-fid --dims 64)",
    128: "VGGish, or reverie's small encoder",
    192: "Inception's second pooling layer (pytorch-fid --dims 192)",
    384: "DINOv2 ViT-S",
    512: "CLIP ViT-B/32",
    768: "Inception before its auxiliary classifier (pytorch-fid --dims 768), DINOv2 ViT-B or CLIP ViT-L",
    1008: "Inception's logits",
    1024: "DINOv2 ViT-L (the FD-DINOv2 of EDM2)",
    1280: "MobileNetV2",
    2023: "the spatial features of ADM's sFID",
    4096: "VGG-16",
}
_CLEAN_FID = re.compile(r"_(clean|legacy_tensorflow|legacy_pytorch)(?:_\w+)?_(na|\d+)(?:_kid)?\.npz$")
_CLEAN_FID_RESIZES = {
    "clean": "bicubic-antialias",
    "legacy_tensorflow": "tf1-bilinear",
    "legacy_pytorch": "bilinear",
}


def read_reference(reference: Any) -> ReferenceFile:
    """Read and check a file of statistics.

    Raises:
        UsageError: no such file, a pickle, images, or features of another network than Inception.
        ReverieError: damaged, or no mean and covariance.
    """
    path = path_of("reference", reference)
    others = f"Images are {argument('data')} of a run, or {argument('real')} beside {argument('fake')}"
    if path.is_dir():
        raise UsageError(f"{argument('reference')} is a file of statistics, and {path} is a folder. {others}.")
    if not is_file(path):
        raise UsageError(f"{argument('reference')}: there is no file {path}.")
    with path.open("rb") as stream:
        start = stream.read(6)
        stream.seek(0)
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if start[:1] == b"\x80" or path.suffix.lower() in (".pkl", ".pickle"):
        raise UsageError(
            f"{path} is a pickle, which can run code when it is opened; reverie opens none. If you trust its author, "
            "save its mean and covariance with numpy.savez as mu and sigma, and pass that file (docs/metrics.md)."
        )
    with Archive(path) as archive:
        of_torch = any(name.endswith("/data.pkl") for name in archive.names)
        file = _of_arrays(path, _of_torch(path)) if of_torch else _of_npz(path, archive)
    if file is None:
        raise UsageError(
            f"{path} has no statistics, which are mu (D,) and sigma (D, D) as pytorch-fid saves them, or feats (N, D). "
            f"{others}."
        )
    return replace(file, name=str(path), sha256=sha256)


def _of_npz(path: Path, archive: Archive) -> ReferenceFile | None:
    """The statistics, or features, in an .npz; None if it has neither."""
    shapes = {name: archive.shape(name) for name in ("mu", "sigma", "feats", "features") if name in archive.names}
    origin = _origin(path, archive) if {"reverie", "mu", "sigma"} <= set(archive.names) else None
    backbone = origin["backbone"] if origin else {}
    for name, shape in shapes.items():
        _check_shape(path, name, shape, backbone.get("dimension", _inception()))
        if math.prod(shape) > _RATIO * path.stat().st_size + _SLACK:
            raise ReverieError(f"{path}: {name} {shape} is compressed as no features are.")
    file = _of_arrays(path, {name: archive.read(name) for name in shapes})
    if file is None:
        return None
    if origin:
        reference = origin["reference"]
        return replace(file, format="reverie", n=reference["n"], backbone=backbone, reference=reference)
    shape = archive.shape("arr_0") if "arr_0" in archive.names else ()
    if len(shape) == 4:
        file = replace(file, images=True, size=shape[1] if shape[1] == shape[2] else None)
    if "mu_s" in archive.names:  # ADM runs the original graph, which resizes by itself
        backbone = {"name": "inception", "dimension": _inception(), "resize": BACKBONES["inception"].resize}
        return replace(file, format="a reference batch of ADM", backbone=backbone)
    if match := _CLEAN_FID.search(path.name):
        mode, side = match.groups()
        size = int(side) if side.isdigit() else None
        return replace(file, format="clean-fid's, by its name", size=size, hint=_CLEAN_FID_RESIZES[mode])
    return file


def _of_torch(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a file of ``torch.save``: a cache of torch-fidelity.

    Raises:
        ReverieError: damaged, or with anything but arrays.
    """
    rebuild: Any = np.empty(0).__reduce__()[0]
    names = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
    kinds = [type(np.dtype(kind)) for kind in ("f4", "f8")]
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("torch.save compresses nothing")  # so that the file's size bounds the memory
        with torch.serialization.safe_globals([*((rebuild, name) for name in names), np.ndarray, np.dtype, *kinds]):
            value = torch.load(path, map_location="cpu", weights_only=True)
        value = value if isinstance(value, dict) else {"features": value}
        arrays = {name: np.asarray(value[name]) for name in ("mu", "sigma", "features") if name in value}
    except Exception as error:  # torch, pickle and zipfile raise errors of many types on damaged data
        raise ReverieError(
            f"{path} cannot be read as a cache of torch-fidelity: only arrays are read from it, and it holds something "
            "else or is damaged."
        ) from error
    for name, array in arrays.items():
        _check_shape(path, name, array.shape, _inception())
    return arrays


def _of_arrays(path: Path, arrays: dict[str, np.ndarray]) -> ReferenceFile | None:
    """Statistics from arrays whose shapes are checked."""
    for name, array in arrays.items():
        if array.dtype.kind != "f" or array.dtype.itemsize > 8:
            raise ReverieError(f"{path}: {name} is {array.dtype}; statistics are of float16, float32 or float64.")
    features = next((arrays[name] for name in ("feats", "features") if name in arrays), None)
    kind = "features" if features is not None else "mean and covariance"
    label = f"{kind}, as of {'torch-fidelity' if path.suffix == '.pt' else 'pytorch-fid'}"
    file = ReferenceFile(str(path), "", label if features is None else kind)
    if features is not None:
        values = np.ascontiguousarray(features, np.float32)
        if not np.isfinite(values).all():
            raise ReverieError(f"{path}: some features are not finite.")
        file = replace(file, features=Features([values]), n=len(values))
    if {"mu", "sigma"} <= set(arrays):
        gaussian, rank = _gaussian(path, arrays["mu"], arrays["sigma"])
        return replace(file, gaussian=gaussian, rank=rank)
    return file if features is not None else None


def _check_shape(path: Path, name: str, shape: tuple[int, ...], dimension: int) -> None:
    """Check an array before it is read."""
    axes, square = (1, False) if name == "mu" else (2, name == "sigma")
    if len(shape) != axes or (square and shape[0] != shape[1]):
        forms = {"mu": "(D,)", "sigma": "(D, D)"}
        raise ReverieError(f"{path}: {name} has the shape {shape}; it must be {forms.get(name, '(N, D)')}.")
    if shape[-1] != dimension:
        what = _OTHERS.get(shape[-1], "another network or layer")
        raise UsageError(
            f"{path} is of {shape[-1]} features: {what}. Distances to files are of Inception's {dimension} features"
            f"; those of other networks only to files that reverie wrote ({argument('save_stats')})."
        )
    if axes == 2 and not square and shape[0] < 2:
        raise ReverieError(f"{path}: {name} are of {shape[0]} images.")


def _gaussian(path: Path, mu: np.ndarray, sigma: np.ndarray) -> tuple[Gaussian, int | None]:
    """Mean and covariance, and its rank where float64 shows it.

    Raises:
        ReverieError: they are no mean and covariance.
    """
    mean, covariance = (torch.from_numpy(np.array(array, np.float64)) for array in (mu, sigma))
    for name, values in (("mu", mean), ("sigma", covariance)):
        if bad := int((~(values.abs() < _LARGEST)).sum()):
            finite = bool(values.isfinite().all())
            why = f"of {_LARGEST:g} and more, too large to compare" if finite else "not finite"
            raise ReverieError(f"{path}: {name} has {count(bad, 'value')} {why}.")
    scale = float(covariance.abs().max())
    if not scale:
        raise ReverieError(f"{path}: sigma is 0 everywhere, which is the covariance of no images that differ.")
    if float((covariance - covariance.T).abs().max()) > _ROUNDING * scale:
        raise ReverieError(f"{path}: sigma is not symmetric, so it is no covariance.")
    covariance = (covariance + covariance.T) / 2
    values = torch.linalg.eigvalsh(covariance)
    if float(values[0]) < -_ROUNDING * max(float(values[-1]), 0.0):
        raise ReverieError(
            f"{path}: sigma has negative eigenvalues ({float(values[0]):.3g} to {float(values[-1]):.3g}), so it is no "
            "covariance."
        )
    threshold = float(values[-1]) * len(values) * torch.finfo(torch.float64).eps
    rank = int((values > threshold).sum()) if sigma.dtype == np.float64 else None
    return Gaussian(mean, covariance), rank


def _origin(path: Path, archive: Archive) -> dict[str, Any]:
    """What reverie wrote beside mean and covariance: the passport entries of network and images.

    Raises:
        ReverieError: it is incomplete.
        UsageError: a network of another version.
    """
    text = archive.read("reverie") if not archive.shape("reverie") else ""
    try:
        origin = json.loads(str(text))["statistics"]
        backbone, reference = origin["backbone"], origin["reference"]
        name, resize, dimension = backbone["name"], backbone["resize"], backbone["dimension"]
        texts = [backbone["sha256"], backbone["precision"], reference["data"], reference["medium"]]
        sound = type(reference["n"]) is int and reference["n"] > 1 and type(dimension) is int
        side = reference["size"]
        sides = side if isinstance(side, list) else [side]
        sound = sound and all(isinstance(text, str) for text in [*texts, name, resize])
        sound = sound and all(type(length) is int for length in sides)
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise ReverieError(f"{path}: what reverie wrote beside its statistics is damaged. Write it again.")
    if name not in BACKBONES or BACKBONES[name].dimension != dimension or resize not in RESIZES:
        raise UsageError(f"{path} is of {name}, {dimension} features, resized by {resize}: not known to this version.")
    return {"backbone": backbone, "reference": reference}


def _inception() -> int:
    return BACKBONES["inception"].dimension


def check_savable(evaluation: Evaluation) -> None:
    """Raise a UsageError if the reference has too few images for a covariance of full rank: before the work."""
    n, dimension = len(evaluation.sets.reference), BACKBONES[evaluation.default_backbone].dimension
    if n <= dimension:
        small = BACKBONES["small"].dimension
        other = f", or {argument('backbone', 'small')} ({small} features)" if small < n else ""
        raise UsageError(
            f"{n} images are too few for {argument('save_stats')}: a covariance of {dimension} features needs at least "
            f"{dimension + 1}. Use more images{other}."
        )


def save_statistics(evaluation: Evaluation, path: Path) -> str:
    """Write mean and covariance of the reference images' features, as pytorch-fid reads them: mu, sigma, float64.

    Beside them is the array ``reverie``: JSON with the passport entries of network and images.

    Returns:
        a sentence for the user.
    """
    network = evaluation.backbone(evaluation.default_backbone)
    moments = evaluation.features_of("reference", network.name).moments
    entry = {name: value for name, value in evaluation.sets.of_reference.items() if name != "held_out_trained_on"}
    origin = {"verb": "evaluate", "statistics": {"backbone": network.passport, "reference": entry}}
    mu, sigma = moments.mean.numpy(), moments.covariance.numpy()
    if distributed.rank() == 0:
        with atomic(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, mu=mu, sigma=sigma, reverie=np.asarray(text_of(origin)))
    return (
        f"{path}: mean and covariance of {network.name}'s {network.dimension:,} features of {moments.count:,} images "
        f"of {entry['data']}. {argument('reference', str(path))} compares with them."
    )
