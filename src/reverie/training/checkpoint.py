"""Checkpoints that are whole or not there: ``checkpoints/STEP/`` is written aside, flushed and renamed.

model.json         {"name", "kwargs"}: what builds the model
model.safetensors  the weights          ema.safetensors  their moving average, where one is kept
training.pt        optimiser state, loaded with ``weights_only=True``
manifest.json      step, and the sha256 of every other file: how a torn checkpoint is known
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from reverie.core.errors import ReverieError, UsageError
from reverie.core.files import disk_errors, flush, read_json, write_json
from reverie.training.run import Run, locate


@dataclass
class Checkpoint:
    """What one checkpoint holds. ``training`` is None when only the weights were asked for."""

    step: int
    config: dict[str, Any]
    weights: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    training: dict[str, Any] | None


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
            write_json(aside / "model.json", content.config)
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
        training: also load the optimiser state.
    Raises:
        ReverieError: it is torn.
    """
    reason = torn(path)
    if reason:
        raise ReverieError(f"The checkpoint {path} is damaged ({reason}). Use an earlier one beside it.")
    ema = path / "ema.safetensors"
    return Checkpoint(
        step=read_json(path / "manifest.json")["step"],
        config=read_json(path / "model.json"),
        weights=load_file(path / "model.safetensors", str(device)),
        ema=load_file(ema, str(device)) if ema.exists() else None,
        training=torch.load(path / "training.pt", map_location=device, weights_only=True) if training else None,
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
    if step is None:
        newest, _ = newest_whole(found.checkpoints)
        if newest is None:
            raise ReverieError(
                f"{path} has no whole checkpoint. `reverie resume {path}` starts it again from its seed."
            )
    else:
        newest = found.checkpoints / f"{step:08d}"
        if not newest.is_dir():
            raise UsageError(
                f"{path} has no checkpoint {step}. It has: {', '.join(map(str, steps_in(found.checkpoints)))}."
            )
    return found, load_checkpoint(newest)
