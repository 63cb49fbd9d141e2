"""Atomic checkpoints: ``checkpoints/STEP/`` is written to a temporary folder, flushed and renamed.

model.json         {"format", "name", "kwargs"}: builds the model; kwargs is null for a class of the user
model.safetensors  the weights          ema.safetensors  the moving average of the trained weights, if any
training.pt        stage, optimisers, plan and callbacks' state, loaded with ``weights_only=True``
manifest.json      step, and the sha256 of every other file, which detects damage
"""

from __future__ import annotations

import copy
import io
import itertools
import os
import re
import shutil
import stat
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from reverie.core import registry
from reverie.core.card import config_of, name_of
from reverie.core.errors import ReverieError, UsageError, argument
from reverie.core.files import check_regular, disk_errors, flush, quoted, read_json, sha256_of, write_json
from reverie.core.memory import TooLarge, limited
from reverie.core.state import check_weights
from reverie.core.verbs import Model
from reverie.training.formats import FORMAT, fault_of_config, upgrade_config, upgrade_tensors
from reverie.training.run import Run, locate
from reverie.training.weights import check_trained, record, sentence


@dataclass
class Checkpoint:
    """The content of a checkpoint. ``training`` is None if only the weights were loaded.

    Attributes:
        format: of the version that wrote it; names are already upgraded.
        sha256: of the file of the averaged weights, or of the weights where there is no average.
        source: which weights these are, see ``weights.record``; set by ``trained``.
    """

    step: int
    config: dict[str, Any]
    weights: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    training: dict[str, Any] | None
    format: int = FORMAT
    sha256: str = ""
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def averaged(self) -> dict[str, Tensor]:
        """The state dict for sampling: the weights, replaced by their moving average where one exists."""
        return self.weights | (self.ema or {})


def _safe(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU copies, as safetensors requires."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}


def save_checkpoint(folder: Path, content: Checkpoint, keep: int) -> Path:
    """Write ``folder/STEP`` and remove all but the newest ``keep``. At every moment there is a complete checkpoint.

    Something else under this name (a damaged checkpoint) is set aside. Removed are real folders with a manifest only.

    Raises:
        ReverieError: disk error; earlier checkpoints are unchanged.
    """
    final = folder / f"{content.step:08d}"
    if os.path.lexists(final) and torn(final) is None:
        return final

    def kept() -> str:
        earlier = [step for step in steps_in(folder) if step != content.step]
        return f"checkpoint {earlier[-1]}" if earlier else "no checkpoint exists"

    with disk_errors(final, kept):
        folder.mkdir(exist_ok=True)
        temporary = folder / f".aside-{content.step}-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            write_json(temporary / "model.json", {"format": FORMAT} | content.config)
            # to bytes first: safetensors and torch report a full disk by custom errors, a plain file by OSError
            (temporary / "model.safetensors").write_bytes(to_bytes(_safe(content.weights)))
            if content.ema is not None:
                (temporary / "ema.safetensors").write_bytes(to_bytes(_safe(content.ema)))
            buffer = io.BytesIO()
            torch.save(content.training, buffer)
            (temporary / "training.pt").write_bytes(buffer.getbuffer())
            files = sorted(path.name for path in temporary.iterdir())
            for name in files:
                flush(temporary / name)
            write_json(
                temporary / "manifest.json",
                {"step": content.step, "sha256": {name: sha256_of(temporary / name) for name in files}},
            )
            if os.path.lexists(final):
                set_aside(final)
            temporary.rename(final)
            flush(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        prune(folder, content.step, keep)
    return final


def prune(folder: Path, newest: int, keep: int) -> None:
    """Remove all but the newest checkpoints, and damaged ones that were set aside at or before step ``newest``.

    Raises:
        OSError: disk error.
    """
    old = [path for step in steps_in(folder) if _is_ours(path := folder / f"{step:08d}")][:-keep]
    for path in folder.glob("*.damaged-*"):
        if (step := _step_of(path.name.partition(".")[0])) is not None and step <= newest and _is_ours(path):
            old.append(path)
    for number, path in enumerate(old):
        gone = folder / f".aside-old-{os.getpid()}-{number}"
        path.rename(gone)  # at once: a process that samples meanwhile finds either all of it or nothing
        shutil.rmtree(gone)


def _is_ours(path: Path) -> bool:
    """Whether a path is a folder, not a link to one, that holds a manifest."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode) and stat.S_ISREG(os.lstat(path / "manifest.json").st_mode)
    except OSError:
        return False


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint to STEP.damaged-NUMBER, where nothing reads it; returns the new path."""
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in itertools.count(1))
    return path.rename(next(name for name in names if not os.path.lexists(name)))


def _step_of(name: str) -> int | None:
    """The step of a checkpoint's folder name, as we write it, or None."""
    return int(name) if re.fullmatch(r"\d{8}|[1-9]\d{8,17}", name, re.ASCII) else None


def steps_in(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, oldest first, including damaged ones."""
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(step for name in names if (step := _step_of(name)) is not None)


_FILES = {"model.json", "model.safetensors", "ema.safetensors", "training.pt"}


def torn(path: Path) -> str | None:
    """Why a checkpoint is damaged, or None if every file matches its hash and says what it must.

    Nothing is read through a link, or from anything but the files of a checkpoint.
    """
    name = "manifest.json"
    try:
        if path.is_symlink() or not path.is_dir():
            return "it is a link" if path.is_symlink() else "it is no folder"
        manifest = read_json(path / name, links=False)
        files = manifest["sha256"]
        if type(manifest["step"]) is not int or not {"model.json", "model.safetensors"} <= files.keys():
            return f"{name} lacks a step or a file"
        if _step_of(path.name) not in (None, manifest["step"]):
            return f"{name} is of step {manifest['step']}"
        if odd := files.keys() - _FILES:
            return f"{name} names {min(odd)!r:.80}, which is no file of a checkpoint"
        for name, digest in files.items():
            check_regular(path / name)
            if sha256_of(path / name) != digest:
                return f"{name} does not match its hash"
        name = "model.json"
        reason = fault_of_config(read_json(path / name, links=False))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{name}: {getattr(error, 'strerror', None) or error}"
    return reason and f"{name}: {reason}"


def load_checkpoint(path: Path, training: bool = False, device: torch.device | str = "cpu") -> Checkpoint:
    """Read one checkpoint.

    Args:
        training: also load the training state.
    Raises:
        ReverieError: damaged checkpoint.
        UsageError: a later version wrote it.
    """
    reason = torn(path)
    if reason:
        raise _damaged(path, reason)
    manifest, config = (read_json(path / name) for name in ("manifest.json", "model.json"))
    version = config.pop("format", 1)
    upgraded = upgrade_config(config, version)
    files = [path / name for name in ("model.safetensors", "ema.safetensors") if name in manifest["sha256"]]
    try:
        weights, *ema = (upgrade_tensors(_tensors(file, device), config, version) for file in files)
    except SafetensorError as error:
        raise _damaged(path, f"its weights: {error}") from error
    return Checkpoint(
        step=manifest["step"],
        config=upgraded,
        weights=weights,
        ema=ema[0] if ema else None,
        training=_training(path, manifest, device) if training else None,
        format=version,
        sha256=manifest["sha256"][files[-1].name],
    )


def _tensors(file: Path, device: torch.device | str) -> dict[str, Tensor]:
    try:
        os.fspath(file).encode()
    except UnicodeEncodeError:  # safetensors opens no name that is not UTF-8
        return {name: value.to(device) for name, value in load(file.read_bytes()).items()}
    return load_file(file, str(device))


def _damaged(path: Path, reason: str) -> ReverieError:
    return ReverieError(f"The checkpoint {path} is damaged ({reason}). Use an earlier checkpoint of the run.")


def _training(path: Path, manifest: dict[str, Any], device: torch.device | str) -> dict[str, Any]:
    """The training state of a checkpoint.

    Raises:
        ReverieError: it cannot be read.
    """
    file = path / "training.pt"
    if file.name not in manifest["sha256"]:
        raise _damaged(path, "it has no training state")
    try:
        if any(entry.compress_type for entry in zipfile.ZipFile(file).infolist()):
            raise ValueError("compressed")  # we do not compress, and a small file could unpack to any size
        state = torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # torch and pickle raise one of many types
        raise _damaged(path, f"training.pt: {str(error).partition(chr(10))[0]:.160}") from error
    if not isinstance(state, dict | None):
        raise _damaged(path, "training.pt holds no training state")
    return state or {}


def newest_whole(folder: Path) -> tuple[Path | None, list[tuple[Path, str]]]:
    """The newest undamaged checkpoint of a folder, and each newer damaged one with the reason.

    Another process may train here: a checkpoint that vanishes was replaced by a newer one, so the search begins anew.
    """
    passed: list[tuple[Path, str]] = []
    for step in reversed(steps_in(folder)):
        path = folder / f"{step:08d}"
        reason = torn(path)
        if reason is None:
            return path, passed
        if not os.path.lexists(path):
            return newest_whole(folder)
        passed.append((path, reason))
    return None, passed


def passed_over(path: Path, reason: str) -> str:
    """What to say of a damaged checkpoint."""
    return f"checkpoint {int(path.name)} is damaged ({reason})"


def trained(run: Run | Path | str) -> tuple[Run, Checkpoint]:
    """A run and its newest undamaged checkpoint, or the checkpoint at the path.

    Warns of weights of an unfinished or failed run, and of a newer checkpoint that is damaged.

    Args:
        run: a run directory, a checkpoint inside a run, or a ``Run``.
    Raises:
        UsageError: no run, no such checkpoint, or untrained weights (step 0) that were not named by their path.
        ReverieError: all checkpoints are damaged.
    """
    path, step = locate(run.path if isinstance(run, Run) else run)
    opened = Run.open(path)
    opened.model = run.model if isinstance(run, Run) else None
    if step is not None:
        chosen = opened.checkpoints / f"{step:08d}"
        if not os.path.lexists(chosen):
            raise UsageError(
                f"{path} has no checkpoint {step}. It has: {', '.join(map(str, steps_in(opened.checkpoints)))}."
            )
        return opened, _named(opened, load_checkpoint(chosen), [])
    while True:
        newest, passed = newest_whole(opened.checkpoints)
        if newest is None:
            why = f" ({passed_over(*passed[0])})" if passed else ""
            raise ReverieError(
                f"{path} has no usable checkpoint{why}. `reverie resume {quoted(path)}` restarts it from its seed."
            )
        try:
            checkpoint = load_checkpoint(newest)
        except (ReverieError, OSError):
            if os.path.lexists(newest):
                raise
            continue  # a training at the same time has replaced it by a newer one
        over = [f"{passed_over(*item)} and was passed over" for item in passed]
        check_trained(opened, checkpoint.step, over)
        return opened, _named(opened, checkpoint, over)


def _named(run: Run, checkpoint: Checkpoint, passed: list[str]) -> Checkpoint:
    """The checkpoint with its source; a warning where that is odd."""
    checkpoint.source = record(run, checkpoint.step, checkpoint.sha256, passed)
    if odd := sentence(checkpoint.source, healthy=False):
        warnings.warn(odd, stacklevel=3)
    return checkpoint


def rebuilt(saved: Checkpoint, run: Run, model: nn.Module | None = None) -> Model:
    """The model of a checkpoint's configuration, without its weights; ``model`` itself for a class of the user.

    Raises:
        UsageError: ``model`` is missing or of another class.
        ReverieError: the configuration is of a model far larger than the weights.
    """
    config = saved.config
    if model is None and config["kwargs"] is not None:
        registry.check_known(config["name"], run.info)
        return build_for(saved.weights, config, run.path)
    if model is None and run.model is not None:
        return copy.deepcopy(run.model)
    if model is None:
        raise UsageError(
            f"{run.path} is a run of {config['name']}, a class of your own, and a file never chooses code. "
            "In Python: rv.load(path, model=NEW_INSTANCE)."
        )
    same_class(model, config, run.path)
    return model


def build_for(weights: Mapping[str, Tensor], config: dict[str, Any], where: Path) -> Model:
    """The model of a configuration from a file, which the weights beside it bound: no file decides how much memory
    is taken.

    Raises:
        ReverieError: it would be far larger than the weights.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    try:
        # a parametrised weight registers twice, and those of the file may be of half the precision
        with limited(2 * len(weights) + 64, 4 * size + (1 << 20)):
            return registry.build(config["name"], **config["kwargs"])
    except TooLarge as error:
        raise ReverieError(
            f"The configuration in {where} does not belong to its {len(weights)} tensors of weights ({size / 1e6:.3g} "
            f"MB). {error} Nothing was loaded."
        ) from error


def put_weights(model: nn.Module, weights: dict[str, Tensor], where: Path) -> None:
    """Load a complete state dict.

    Raises:
        UsageError: names or shapes differ.
        ReverieError: they are NaN or infinite.
    """
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    saved = {name: tuple(value.shape) for name, value in weights.items()}
    if expected != saved:
        differ = sorted(name for name in expected.keys() | saved.keys() if expected.get(name) != saved.get(name))
        first = differ[0]
        raise UsageError(
            f"The weights in {where} do not fit this {name_of(model)}: {len(differ)} tensors differ, first "
            f"{first!r} ({saved.get(first, 'missing')} in the run, {expected.get(first, 'missing')} in the model). "
            "Build the model with the arguments of the run, or copy the weights that fit by name and shape: "
            f"{argument('init')}."
        )
    check_weights(weights, where)
    model.load_state_dict(weights)


def same_class(model: nn.Module, config: dict[str, Any], path: Path) -> None:
    """Raise a UsageError unless a model is of the run's class."""
    if (name := config_of(model)["name"]) != config["name"]:
        raise UsageError(f"{path} is a run of {config['name']}, but the model passed is a {name}.")
