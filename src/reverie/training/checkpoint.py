"""Checkpoints that are whole or not there: ``checkpoints/STEP/`` is written aside, flushed and renamed.

model.json         {"format", "name", "kwargs"}: what builds the model; kwargs is null for a class of the user's own
model.safetensors  the weights          ema.safetensors  the moving average of what is averaged, where one is kept
training.pt        stage, optimisers, plan and callbacks' state, loaded with ``weights_only=True``
manifest.json      step, and the sha256 of every other file: how a torn checkpoint is known
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
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from reverie import registry
from reverie.core.card import config_of
from reverie.core.errors import ReverieError, UsageError
from reverie.core.files import disk_errors, flush, quoted, read_json, write_json
from reverie.core.verbs import Model
from reverie.training.formats import FORMAT, upgrade_config, upgrade_tensors
from reverie.training.run import Run, locate


@dataclass
class Checkpoint:
    """What one checkpoint holds. ``training`` is None when only the weights were asked for.

    Attributes:
        format: of the version that wrote it; names are today's.
    """

    step: int
    config: dict[str, Any]
    weights: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    training: dict[str, Any] | None
    format: int = FORMAT

    @property
    def averaged(self) -> dict[str, Tensor]:
        """The whole state dict to sample with: the weights, and over them what is averaged."""
        return self.weights | (self.ema or {})


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _safe(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Plain contiguous tensors of their own, as safetensors wants them."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}


def save_checkpoint(folder: Path, content: Checkpoint, keep: int) -> Path:
    """Write ``folder/STEP`` and remove all but the newest ``keep``.

    Raises:
        ReverieError: the disk refuses; earlier checkpoints are untouched.
    """
    final = folder / f"{content.step:08d}"
    earlier = [step for step in steps_in(folder) if step != content.step]
    with disk_errors(final, kept=f"checkpoint {earlier[-1]}" if earlier else "no checkpoint existed yet"):
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f".aside-{content.step}-{os.getpid()}"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir()
            write_json(aside / "model.json", {"format": FORMAT} | content.config)
            # bytes first: safetensors and torch report a full disk in error types of their own, a plain file does not
            (aside / "model.safetensors").write_bytes(to_bytes(_safe(content.weights)))
            if content.ema is not None:
                (aside / "ema.safetensors").write_bytes(to_bytes(_safe(content.ema)))
            buffer = io.BytesIO()
            torch.save(content.training, buffer)
            (aside / "training.pt").write_bytes(buffer.getbuffer())
            files = sorted(path.name for path in aside.iterdir())
            for name in files:
                flush(aside / name)
            write_json(
                aside / "manifest.json",
                {"step": content.step, "sha256": {name: _digest(aside / name) for name in files}},
            )
            if final.exists():
                shutil.rmtree(final)
            aside.rename(final)
            flush(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        for step in steps_in(folder)[:-keep]:
            shutil.rmtree(folder / f"{step:08d}")
    return final


def steps_in(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, oldest first, torn ones included."""
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def torn(path: Path) -> str | None:
    """Why a checkpoint cannot be used, or None when every file matches its hash."""
    try:
        manifest = read_json(path / "manifest.json")
        for name, digest in manifest["sha256"].items():
            if _digest(path / name) != digest:
                return f"{name} does not match its hash"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def load_checkpoint(path: Path, training: bool = False, device: torch.device | str = "cpu") -> Checkpoint:
    """Read one checkpoint.

    Args:
        training: also load the training state.
    Raises:
        ReverieError: it is torn.
        UsageError: a later version wrote it.
    """
    reason = torn(path)
    if reason:
        raise ReverieError(f"The checkpoint {path} is damaged ({reason}). Use an earlier one beside it.")
    config = read_json(path / "model.json")
    made = config.pop("format", 1)
    upgraded = upgrade_config(config, made)
    files = [file for file in (path / "model.safetensors", path / "ema.safetensors") if file.exists()]
    weights, *ema = (upgrade_tensors(load_file(file, str(device)), config, made) for file in files)
    return Checkpoint(
        step=read_json(path / "manifest.json")["step"],
        config=upgraded,
        weights=weights,
        ema=ema[0] if ema else None,
        training=torch.load(path / "training.pt", map_location=device, weights_only=True) if training else None,
        format=made,
    )


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest undamaged checkpoint of a folder, and a line for each damaged one passed over."""
    passed: list[str] = []
    for step in reversed(steps_in(folder)):
        path = folder / f"{step:08d}"
        reason = torn(path)
        if reason is None:
            return path, passed
        passed.append(f"checkpoint {step} is damaged ({reason}); using the one before it")
    return None, passed


def trained(run: Run | Path | str) -> tuple[Run, Checkpoint]:
    """A run and its newest whole checkpoint, or the one that the path names.

    Args:
        run: a run directory, a checkpoint inside one, or a ``Run``.
    Raises:
        UsageError: there is no run or no such checkpoint.
        ReverieError: every checkpoint is damaged.
    """
    path, step = locate(run.path if isinstance(run, Run) else run)
    found = Run.open(path)
    found.model = run.model if isinstance(run, Run) else None
    if step is None:
        newest, passed = newest_whole(found.checkpoints)
        for line in passed:
            warnings.warn(f"{path}: {line}.", stacklevel=2)
        if newest is None:
            raise ReverieError(
                f"{path} has no whole checkpoint. `reverie resume {quoted(path)}` starts it again from its seed."
            )
    else:
        newest = found.checkpoints / f"{step:08d}"
        if not newest.is_dir():
            raise UsageError(
                f"{path} has no checkpoint {step}. It has: {', '.join(map(str, steps_in(found.checkpoints)))}."
            )
    return found, load_checkpoint(newest)


def rebuilt(config: dict[str, Any], run: Run, model: nn.Module | None = None) -> Model:
    """A model of a checkpoint's configuration, without its weights; of a class of the user's own the one that is given.

    Raises:
        UsageError: such a model is not given.
    """
    if model is None and config["kwargs"] is not None:
        registry.check_known(config["name"], run.info)
        return registry.build(config["name"], **config["kwargs"])
    if model is None and run.model is not None:
        return copy.deepcopy(run.model)
    if model is None:
        raise UsageError(
            f"{run.path} is a run of {config['name']}, a class of your own, and a file never chooses code. "
            "In Python: rv.load(path, model=a fresh instance)."
        )
    same_class(model, config, run.path)
    return model


def put_weights(model: nn.Module, weights: dict[str, Tensor], where: Path) -> None:
    """Load a whole state dict.

    Raises:
        UsageError: names or shapes differ.
    """
    own = {name: tuple(value.shape) for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    saved = {name: tuple(value.shape) for name, value in weights.items()}
    if own != saved:
        differ = sorted(name for name in own.keys() | saved.keys() if own.get(name) != saved.get(name))
        first = differ[0]
        raise UsageError(
            f"The weights in {where} do not fit this {type(model).__name__}: {len(differ)} tensors differ, first "
            f"{first!r} ({saved.get(first, 'not there')} in the run, {own.get(first, 'not there')} in the model). "
            "Build the model with the arguments that it was trained with; --init takes what fits by name and shape."
        )
    model.load_state_dict(weights)


def same_class(model: nn.Module, config: dict[str, Any], path: Path) -> None:
    """Raise a UsageError unless the model given is of a run's class."""
    if (name := config_of(model)["name"]) != config["name"]:
        raise UsageError(f"{path} is a run of {config['name']}, and the model given is a {name}.")
