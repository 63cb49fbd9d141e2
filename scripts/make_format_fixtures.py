"""Make ``tests/formats/1/``: tiny runs of checkpoint format 1, and what their models give.

Format 1 is what commit 64ae4f0 writes. The script trains with that commit's engine and refuses any other:

    git worktree add ../format-1 64ae4f0
    PYTHONPATH=../format-1/src python scripts/make_format_fixtures.py
    git worktree remove ../format-1

Every run is trained for a few steps on bundled images of 8 or 16 pixels (CPU, float32, smallest widths) and reduced to
what loading needs: run.json and the newest checkpoint with all its files. ``samples.npz`` beside them holds float32
arrays that the averaged weights give: ``images`` of the seeds 0 to 3 (with ``label``, where the model is conditional)
and, of models that encode, ``latents`` of ``source``; of a model that translates, ``source`` both ways. Training
depends on the machine in the last bits, so new fixtures come with new arrays.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reverie.noise import Noise
from reverie.verbs import Model
from torch import Tensor

import reverie as rv
from reverie.data.batches import in_order
from reverie.generation import data_of
from reverie.training.run import Run

COMMIT = "64ae4f0"
FOLDER = Path(__file__).resolve().parents[1] / "tests" / "formats" / "1"
COMMON = {
    "batch_size": 16,
    "warmup": 1,
    "decay": "constant",
    "ema": 0.9,
    "device": "cpu",
    "precision": "fp32",
    "keep": 1,
    "quiet": True,
}
TEACHER = Path("runs") / "ddpm"  # relative: run.json keeps this path
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {  # fixture -> (model, data, options)
    "vae": ("vae", "fashion", {"size": 8, "steps": 60, "conditional": "label", "latent": 2, "width": 4}),
    "vae-stopped": ("vae", "fashion", {"size": 8, "steps": 60, "latent": 2, "width": 4, "log_every": 5}),
    "dcgan-ada": (
        "dcgan",
        "fashion",
        {"size": 16, "steps": 120, "latent": 4, "width": 4, "d_augment": "ada", "loss": "non-saturating", "r1": 0.1},
    ),
    "stylegan2": ("stylegan2", "emoji", {"size": 16, "steps": 40, "latent": 8, "mapping": 2, "width": 4}),
    "cyclegan": ("cyclegan", "emoji", {"size": 8, "steps": 120, "pool": 4, "width": 8, "lr": 0.01}),
    "latent-diffusion": (
        "latent-diffusion",
        "fashion",
        {"size": 8, "steps": 80, "latent": 2, "factor": 2, "codec_width": 8, "width": 8, "depth": 1},
    ),
    "progan": ("progan", "fashion", {"size": 8, "steps": 70, "latent": 8, "width": 4, "lr": 0.001}),
    "distilled": ("distilled", "fashion", {"size": 8, "steps": 30, "teacher": str(TEACHER), "evaluations": 2}),
}
STOPPED_AT = 30
FACTS = {  # what a fixture is for, seen in the weights of its checkpoint
    "dcgan-ada": lambda weights: 0.01 < weights["strength"] < 1,
    "stylegan2": lambda weights: weights["stride"] > 0.01,
    "cyclegan": lambda weights: weights["filled"] == 4,
    "latent-diffusion": lambda weights: (weights["mean"].abs() > 0.01).all(),
    "progan": lambda weights: weights["reached"] == 1,
}


def train(name: str) -> Run:
    """The run of a fixture, in a folder of its name; vae-stopped is interrupted as if by Ctrl-C."""
    model, data, options = RUNS[name]
    log = Run.log

    def log_and_interrupt(run: Run, line: dict[str, Any]) -> None:
        log(run, line)
        if line["step"] == STOPPED_AT:
            signal.raise_signal(signal.SIGINT)

    if name == "vae-stopped":
        Run.log = log_and_interrupt  # type: ignore[method-assign]
    try:
        return rv.train(model, data, out=name, **COMMON | options)
    finally:
        Run.log = log  # type: ignore[method-assign]


@torch.no_grad()
def outputs(model: Model) -> dict[str, Tensor]:
    """The arrays of samples.npz."""
    batch = next(in_order(data_of(model).held_out, 4))
    if hasattr(model, "translate"):
        source = batch["source"]
        return {"source": source, "to_b": model.translate(source), "to_a": model.translate(source, to="A")}
    cond = {"label": torch.arange(4)} if model.classes else {}
    arrays = cond | {"images": model.sample(Noise.of_seeds(range(4)), **cond)}
    if hasattr(model, "encode"):
        arrays |= {"source": batch["image"], "latents": model.encode(batch["image"], **cond)}
    return arrays


def check(name: str, run: Run, arrays: dict[str, Tensor]) -> None:
    """An AssertionError unless the fixture shows what it is for, and its arrays tell averaged from last weights."""
    last = rv.load(run, "cpu", average=False)
    assert name not in FACTS or FACTS[name](last.state_dict()), name
    assert run.info["status"] == ("stopped" if name == "vae-stopped" else "finished"), name
    for key, value in outputs(last).items():
        if key not in ("label", "source"):
            spread, gap = arrays[key].std(0).mean(), (arrays[key] - value).abs().max()
            clamped = (arrays[key].abs() == 1).float().mean()
            print(f"{name:17} {key:7} std over rows {spread:.3f}, last weights {gap:.3f} away, {clamped:.0%} clamped")
            assert min(spread, gap) > 0.01, name


def keep(name: str, run: Run, arrays: dict[str, Tensor]) -> None:
    """Put what loading needs into the fixture's folder."""
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run.checkpoints, folder / "checkpoints")
    shutil.copy(run.path / "run.json", folder)
    np.savez(folder / "samples.npz", **{key: value.contiguous().numpy() for key, value in arrays.items()})
    assert str(Path.cwd()) not in (folder / "run.json").read_text()


def main() -> None:
    package = Path(rv.__file__).parent
    if subprocess.run(["git", "-C", package, "diff", "--quiet", COMMIT, "--", "."]).returncode:
        raise SystemExit(f"{package} is not that of commit {COMMIT}: see the head of this script.")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        rv.train("ddpm", "fashion", 8, out=TEACHER, steps=400, conditional="label", width=8, **COMMON)
        for name in RUNS:
            run = train(name)
            arrays = outputs(rv.load(run, "cpu"))
            check(name, run, arrays)
            keep(name, run, arrays)
        os.chdir(FOLDER)
    sizes = {name: sum(f.stat().st_size for f in (FOLDER / name).rglob("*") if f.is_file()) for name in RUNS}
    print(*(f"{name:17} {size:8,} bytes" for name, size in sizes.items()), f"{sum(sizes.values()):,}", sep="\n")


if __name__ == "__main__":
    main()
