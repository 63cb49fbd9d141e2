"""A generator of damaged and crafted run directories: mutations of one small run."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import socket
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

Mutation = tuple[str, Callable[[Path], None], tuple[str, ...]]  # name, what to do to a copy of the run, the verbs

DEEP = "[" * 200_000
CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "list": b"[]",
    "object": b"{}",
    "null": b"null",
    "number": b"5",
    "text": b'"x"',
    "nan": b'{"step": NaN, "name": NaN}',
    "deep": DEEP.encode(),
    "binary": bytes(range(256)) * 8,
    "utf-16": '{"step": 1}'.encode("utf-16"),
    "latin-1": '{"name": "é", "step": "é"}'.encode("latin-1"),
    "nulls": bytes(4096),
}
VALUES: tuple[Any, ...] = (None, True, -1, 10**30, float("inf"), "", "x", [], ["x"], {}, {"a": 1}, [[[]]])
JSON_VERBS = ("show", "runs", "sample", "resume")


def newest(run: Path) -> Path:
    return sorted((run / "checkpoints").iterdir())[-1]


def remanifest(checkpoint: Path) -> None:
    """Make the hashes right again: the damage must be noticed by its content."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    for name in manifest["sha256"]:
        if (checkpoint / name).is_file():
            manifest["sha256"][name] = hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def written(name: str, content: bytes | Callable[[bytes], bytes], hashes: bool = False) -> Callable[[Path], None]:
    """Write a file of the run, or of every checkpoint."""

    def mutate(run: Path) -> None:
        for file in files_named(run, name):
            file.write_bytes(content if isinstance(content, bytes) else content(file.read_bytes()))
            if hashes:
                remanifest(file.parent)

    return mutate


def files_named(run: Path, name: str) -> list[Path]:
    return [run / name] if (run / name).exists() else sorted((run / "checkpoints").glob(f"*/{name}"))


def odd_file(name: str, kind: str, outside: Path) -> Callable[[Path], None]:
    """Something in the place of a file: a pipe, a socket, a folder, a link, a hole."""

    def mutate(run: Path) -> None:
        for file in files_named(run, name):
            file.unlink()
            if kind == "pipe":
                os.mkfifo(file)
            elif kind == "socket":
                here = Path.cwd()
                os.chdir(file.parent)  # names of sockets are short
                with socket.socket(socket.AF_UNIX) as end:
                    end.bind(file.name)
                os.chdir(here)
            elif kind == "folder":
                file.mkdir()
            elif kind == "device":
                file.symlink_to("/dev/zero")
            elif kind == "link":
                file.symlink_to(outside / file.name)
            elif kind == "loop":
                file.symlink_to(file.name)
            elif kind == "hole":
                with file.open("wb") as stream:
                    stream.truncate(1 << 40)

    return mutate


def entry(path: tuple[str, ...], value: Any, file: str = "run.json", delete: bool = False) -> Callable[[Path], None]:
    """Set or delete an entry of a JSON file."""

    def changed(content: bytes) -> bytes:
        whole = json.loads(content)
        inner = whole
        for key in path[:-1]:
            inner = inner[key]
        if delete:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        return json.dumps(whole).encode()

    return written(file, changed, hashes=file == "model.json")


def paths_in(value: dict[str, Any], depth: int) -> Iterator[tuple[str, ...]]:
    for key, inner in value.items():
        yield (key,)
        if isinstance(inner, dict) and depth > 1:
            yield from ((key, *rest) for rest in paths_in(inner, depth - 1))


def state(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change the training state, with right hashes."""

    def changed(content: bytes) -> bytes:
        buffer = io.BytesIO()
        torch.save(change(torch.load(io.BytesIO(content), weights_only=True)), buffer)
        return buffer.getvalue()

    return written("training.pt", changed, hashes=True)


def set_in(*path: Any) -> Callable[[Any], Any]:
    """The training state with ``path[-1]`` at the keys before it."""

    def change(content: Any) -> Any:
        inner = content = copy.deepcopy(content)
        for key in path[:-2]:
            inner = inner[key]
        inner[path[-2]] = path[-1]
        return content

    return change


def compressed(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return buffer.getvalue()


class Code:
    def __reduce__(self) -> Any:
        return (os.system, ("touch executed",))


def pickled_code(content: bytes) -> bytes:
    buffer = io.BytesIO()
    torch.save(Code(), buffer)
    return buffer.getvalue()


def folders(make: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda run: make(run / "checkpoints")


def linked(name: str, outside: Path) -> Callable[[Path], None]:
    def mutate(run: Path) -> None:
        if (run / name).exists():
            (run / name).rename(run / f"old-{Path(name).name}")
        (run / name).symlink_to(outside, target_is_directory=True)

    return mutate


def file_of_checkpoints(run: Path) -> None:
    (run / "checkpoints").rename(run / "old")
    (run / "checkpoints").touch()


def mutations(run: Path, outside: Path) -> Iterator[Mutation]:
    """Every mutation.

    Args:
        run: the run, to see what can be mutated; it is not changed.
        outside: a folder beside it that links lead to.
    """
    info = json.loads((run / "run.json").read_text())
    model = json.loads((newest(run) / "model.json").read_text())
    texts, tensors = (
        ("run.json", "metrics.jsonl", "model.json", "manifest.json"),
        ("model.safetensors", "ema.safetensors"),
    )
    files = (*texts, *tensors, "training.pt")
    for name in files:
        verbs = JSON_VERBS if name == "run.json" else ("resume", "sample")
        verbs = ("show", "doctor", "resume") if name == "metrics.jsonl" else verbs
        half = written(name, lambda content: content[: len(content) // 2])
        yield f"{name} cut", half, verbs
        yield f"{name} missing", lambda path, name=name: [file.unlink() for file in files_named(path, name)], verbs
        for kind, content in CONTENTS.items():
            yield f"{name} {kind}", written(name, content), verbs
        for kind in ("pipe", "socket", "folder", "device", "link", "loop", "hole"):
            yield f"{name} {kind}", odd_file(name, kind, outside), verbs
    for name in ("model.json", *tensors, "training.pt"):
        for kind, content in CONTENTS.items():
            yield f"{name} {kind}, hashed", written(name, content, hashes=True), ("resume", "sample")
    number = 0
    for path in paths_in(info, 2):
        yield f"run.json without {'.'.join(path)}", entry(path, None, delete=True), ("resume", "show", "sample", "view")
        for value in VALUES:
            number += 1
            verb = (*JSON_VERBS, "rerun", "evaluate", "doctor", "view")[number % 8]
            yield f"run.json {'.'.join(path)} = {value!r}", entry(path, value), (verb,)
    for path in paths_in(model, 2):
        yield f"model.json without {path}", entry(path, None, "model.json", delete=True), ("sample",)
        for value in (None, -1, "x", [], {}, float("nan"), 1.5):
            yield f"model.json {path} = {value!r}", entry(path, value, "model.json"), ("sample",)
    sums = json.loads((newest(run) / "manifest.json").read_text())["sha256"]
    for name in ("../run.json", "/etc/passwd", "a/b", "..", "", "x\0y", "run.json"):
        yield f"manifest names {name!r}", entry(("sha256",), {**sums, name: "0"}, "manifest.json"), ("sample",)
    for value in VALUES:
        yield f"manifest step {value!r}", entry(("step",), value, "manifest.json"), ("sample", "resume")
        yield f"manifest sha256 {value!r}", entry(("sha256",), value, "manifest.json"), ("sample",)
        yield f"a hash of {value!r}", entry(("sha256", "model.json"), value, "manifest.json"), ("sample",)
    for name in ("5", "²", "٣", "00000009", "0000000000009", "9" * 18, "9" * 200, "00000001.damaged-1", "-0000001"):
        yield f"a folder {name}", folders(lambda path, name=name: (path / name).mkdir()), ("resume", "sample", "show")
        yield f"a file {name}", folders(lambda path, name=name: (path / name).touch()), ("resume", "sample")
    for name in ("checkpoints", "samples", "evaluation", "metrics.jsonl", ".lock", "tensorboard"):
        yield f"{name} is a link", linked(name, outside), ("resume", "sample", "show")
    yield "a linked step", linked("checkpoints/00000009", outside), ("resume", "sample")
    yield "no checkpoints", lambda path: (path / "checkpoints").rename(path / "old"), ("sample", "resume", "show")
    yield (
        "checkpoints is a file",
        lambda path: ((path / "checkpoints").rename(path / "old"), (path / "checkpoints").touch()),
        ("sample", "resume"),
    )
    for value in (None, [], {}, 5, "x", torch.zeros(3)):
        yield f"training state {value!r}", state(lambda _, value=value: value), ("resume",)
        for key in ("stage", "optimizers", "plan", "loop", "callbacks", "outline"):
            yield f"training state's {key} {value!r}", state(set_in(key, value)), ("resume",)
        for key in ("digest", "numbers", "worked"):
            yield f"line's {key} {value!r}", state(set_in("loop", "line", key, value)), ("resume",)
        for key in ("state", "param_groups"):
            yield f"optimiser's {key} {value!r}", state(set_in("optimizers", 0, key, value)), ("resume",)
        yield f"moments {value!r}", state(set_in("optimizers", 0, "state", 0, "exp_avg", value)), ("resume",)
    yield "compressed", written("training.pt", compressed, hashes=True), ("resume",)
    yield "code", written("training.pt", pickled_code, hashes=True), ("resume",)
