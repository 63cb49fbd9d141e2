"""Atomic checkpoints: ``checkpoints/STEP/`` is written to a temporary folder, flushed and renamed.

model.json         {"format", "name", "kwargs"}: builds the model; kwargs is null for a class of the user
model.safetensors  the weights          ema.safetensors  the moving average of the trained weights, if any
training.pt        stage, optimisers, plan and callbacks' state, loaded with ``weights_only=True``
manifest.json      step, and the sha256 of every other file, which detects damage
"""

from __future__ import annotations

import copy
import hashlib
import io
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from reverie.core import registry
from reverie.core.card import config_of
from reverie.core.errors import ReverieError, UsageError, argument
from reverie.core.files import disk_errors, flush, quoted, read_json, write_json
from reverie.core.verbs import Model
from reverie.training.formats import FORMAT, fault_of, upgrade_config, upgrade_tensors
from reverie.training.run import Run, locate


@dataclass
class Checkpoint:
    """The content of a checkpoint. ``training`` is None if only the weights were loaded.

    Attributes:
        format: of the version that wrote it; names are already upgraded.
    """

    step: int
    config: dict[str, Any]
    weights: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    training: dict[str, Any] | None
    format: int = FORMAT

    @property
    def averaged(self) -> dict[str, Tensor]:
        """The state dict for sampling: the weights, replaced by their moving average where one exists."""
        return self.weights | (self.ema or {})


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _safe(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU copies, as safetensors requires."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}


def save_checkpoint(folder: Path, content: Checkpoint, keep: int) -> Path:
    """Write ``folder/STEP`` and remove all but the newest ``keep``.

    Raises:
        ReverieError: disk error; earlier checkpoints are unchanged.
    """
    final = folder / f"{content.step:08d}"
    earlier = [step for step in steps_in(folder) if step != content.step]
    with disk_errors(final, kept=f"checkpoint {earlier[-1]}" if earlier else "no checkpoint existed yet"):
        folder.mkdir(parents=True, exist_ok=True)
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
                {"step": content.step, "sha256": {name: _digest(temporary / name) for name in files}},
            )
            if final.exists():
                shutil.rmtree(final)
            temporary.rename(final)
            flush(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for step in steps_in(folder)[:-keep]:
            shutil.rmtree(folder / f"{step:08d}")
    return final


def steps_in(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, oldest first, including damaged ones."""
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def torn(path: Path) -> str | None:
    """Why a checkpoint is damaged, or None if every file matches its hash and says what it must."""
    name = "manifest.json"
    try:
        manifest = read_json(path / name)
        if type(manifest["step"]) is not int or not {"model.json", "model.safetensors"} <= manifest["sha256"].keys():
            return f"{name} lacks a step or a file"
        for name, digest in manifest["sha256"].items():
            if _digest(path / name) != digest:
                return f"{name} does not match its hash"
        name = "model.json"
        reason = fault_of(read_json(path / name))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{name}: {type(error).__name__}: {error}"
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
        raise ReverieError(f"The checkpoint {path} is damaged ({reason}). Use an earlier checkpoint of the run.")
    config = read_json(path / "model.json")
    version = config.pop("format", 1)
    upgraded = upgrade_config(config, version)
    files = [file for file in (path / "model.safetensors", path / "ema.safetensors") if file.exists()]
    weights, *ema = (upgrade_tensors(_tensors(file, device), config, version) for file in files)
    return Checkpoint(
        step=read_json(path / "manifest.json")["step"],
        config=upgraded,
        weights=weights,
        ema=ema[0] if ema else None,
        training=torch.load(path / "training.pt", map_location=device, weights_only=True) if training else None,
        format=version,
    )


def _tensors(file: Path, device: torch.device | str) -> dict[str, Tensor]:
    try:
        os.fspath(file).encode()
    except UnicodeEncodeError:  # safetensors opens no name that is not UTF-8
        return {name: value.to(device) for name, value in load(file.read_bytes()).items()}
    return load_file(file, str(device))


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest undamaged checkpoint of a folder, and a message for each newer damaged one."""
    passed: list[str] = []
    for step in reversed(steps_in(folder)):
        path = folder / f"{step:08d}"
        reason = torn(path)
        if reason is None:
            return path, passed
        passed.append(f"checkpoint {step} is damaged ({reason}); using the one before it")
    return None, passed


def trained(run: Run | Path | str) -> tuple[Run, Checkpoint]:
    """A run and its newest undamaged checkpoint, or the checkpoint at the path.

    Args:
        run: a run directory, a checkpoint inside a run, or a ``Run``.
    Raises:
        UsageError: no run, or no such checkpoint.
        ReverieError: all checkpoints are damaged.
    """
    path, step = locate(run.path if isinstance(run, Run) else run)
    opened = Run.open(path)
    opened.model = run.model if isinstance(run, Run) else None
    if step is None:
        newest, passed = newest_whole(opened.checkpoints)
        for line in passed:
            warnings.warn(f"{path}: {line}.", stacklevel=2)
        if newest is None:
            raise ReverieError(
                f"{path} has no usable checkpoint. `reverie resume {quoted(path)}` restarts it from its seed."
            )
    else:
        newest = opened.checkpoints / f"{step:08d}"
        if not newest.is_dir():
            raise UsageError(
                f"{path} has no checkpoint {step}. It has: {', '.join(map(str, steps_in(opened.checkpoints)))}."
            )
    return opened, load_checkpoint(newest)


def rebuilt(config: dict[str, Any], run: Run, model: nn.Module | None = None) -> Model:
    """The model of a checkpoint's configuration, without its weights; ``model`` itself for a class of the user.

    Raises:
        UsageError: ``model`` is missing or of another class.
    """
    if model is None and config["kwargs"] is not None:
        registry.check_known(config["name"], run.info)
        return registry.build(config["name"], **config["kwargs"])
    if model is None and run.model is not None:
        return copy.deepcopy(run.model)
    if model is None:
        raise UsageError(
            f"{run.path} is a run of {config['name']}, a class of your own, and a file never chooses code. "
            "In Python: rv.load(path, model=NEW_INSTANCE)."
        )
    same_class(model, config, run.path)
    return model


def put_weights(model: nn.Module, weights: dict[str, Tensor], where: Path) -> None:
    """Load a complete state dict.

    Raises:
        UsageError: names or shapes differ.
    """
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    saved = {name: tuple(value.shape) for name, value in weights.items()}
    if expected != saved:
        differ = sorted(name for name in expected.keys() | saved.keys() if expected.get(name) != saved.get(name))
        first = differ[0]
        raise UsageError(
            f"The weights in {where} do not fit this {type(model).__name__}: {len(differ)} tensors differ, first "
            f"{first!r} ({saved.get(first, 'missing')} in the run, {expected.get(first, 'missing')} in the model). "
            "Build the model with the arguments of the run, or copy the weights that fit by name and shape: "
            f"{argument('init')}."
        )
    model.load_state_dict(weights)


def same_class(model: nn.Module, config: dict[str, Any], path: Path) -> None:
    """Raise a UsageError unless a model is of the run's class."""
    if (name := config_of(model)["name"]) != config["name"]:
        raise UsageError(f"{path} is a run of {config['name']}, but the model passed is a {name}.")
