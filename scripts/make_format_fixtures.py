"""Make ``tests/formats/N/``: tiny runs of the checkpoint format N that this version writes, and what their models give.

    python scripts/make_format_fixtures.py [NAME ...]

Run it once, before the format changes: stored fixtures are what proves that later versions read older runs. Those of
format 1 were made at commit 64ae4f0, those of format 2 at commit f059170, each by the script as it was there; those
of format 3 are of the version that introduced it.

Every run is trained for a few steps on bundled images of 8 or 16 pixels (CPU, float32, smallest widths) and reduced to
what loading needs: run.json and the newest checkpoint with all its files. ``samples.npz`` beside them holds float32
arrays that the averaged weights give: ``images`` of the seeds 0 to 3 (with ``label``, where the model is
conditional) and, of models that encode cheaply, ``latents`` of ``source``; of a model that translates, ``made`` of
``source``. Training depends on the machine in the last bits, so new fixtures come with new arrays. ``names.json`` holds
the configuration and the tensors' names and shapes of models that are too large to store.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import reverie as rv
from reverie.training.formats import FORMAT

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "formats" / str(FORMAT)
COMMON = {"batch_size": 16, "warmup": 1, "decay": "constant", "ema": 0.9, "device": "cpu", "precision": "fp32"}
COMMON |= {"keep": 1, "quiet": True}
# fixture -> (model, data, size, options); those that others build on come first
RUNS: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "autoencoder": ("autoencoder", "fashion", 8, {"steps": 40, "latent": 2, "width": 4}),
    "denoising-autoencoder": ("denoising-autoencoder", "fashion", 8, {"steps": 40, "latent": 2, "width": 4}),
    "vae": ("vae", "fashion", 8, {"steps": 60, "conditional": "label", "latent": 2, "width": 4}),
    "autoencoder-kl": ("autoencoder-kl", "fashion", 8, {"steps": 40, "latent": 2, "factor": 2, "width": 4}),
    "ddpm": ("ddpm", "fashion", 8, {"steps": 60, "width": 8, "schedule": "linear"}),
    "edm": ("edm", "fashion", 8, {"steps": 60, "conditional": "label", "width": 8}),
    "ddpm-textbook": ("ddpm-textbook", "fashion", 8, {"steps": 30, "widths": (8, 8), "norm_groups": 4, "depth": 1}),
    "dit": ("dit", "fashion", 8, {"steps": 60, "conditional": "label", "width": 16, "depth": 2}),
    "latent-diffusion": (
        "latent-diffusion",
        "fashion",
        8,
        {"steps": 80, "latent": 2, "factor": 2, "codec_width": 8, "width": 8, "depth": 1},
    ),
    "distilled": ("distilled", "fashion", 8, {"steps": 30, "teacher": "runs/edm", "student_steps": 2}),
    "gan": ("gan", "fashion", 8, {"steps": 30, "latent": 4, "width": 8, "conditional": "label"}),
    "dcgan-ada": ("dcgan", "fashion", 16, {"steps": 120, "latent": 4, "width": 4, "d_augment": "ada", "r1": 0.1}),
    "acgan": ("acgan", "fashion", 8, {"steps": 40, "latent": 4, "width": 4}),
    "r3gan": ("r3gan", "fashion", 8, {"steps": 30, "latent": 4, "width": 4, "conditional": "label"}),
    "progan": ("progan", "fashion", 8, {"steps": 70, "latent": 8, "width": 4, "lr": 0.001}),
    "stylegan": ("stylegan", "emoji", 16, {"steps": 30, "latent": 8, "mapping_layers": 2, "width": 4}),
    "stylegan2": ("stylegan2", "emoji", 16, {"steps": 40, "latent": 8, "mapping_layers": 2, "width": 4}),
    "editor": ("editor", "emoji", 16, {"steps": 20, "teacher": "runs/stylegan2", "width": 4, "depth": 1}),
    "pix2pix": ("pix2pix", "emoji", 8, {"steps": 30, "width": 4, "depth": 1, "task": "colour"}),
    "cyclegan": ("cyclegan", "emoji", 8, {"steps": 60, "pool_size": 4, "width": 4, "lr": 0.01}),
    "noisy-classifier": ("noisy-classifier", "fashion", 8, {"steps": 30, "width": 4}),
}
NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm-text": ("ddpm", {"shape": (16, 16), "channels": 3, "conditional": "text"}),
    "dit-text": ("dit", {"shape": (16, 16), "channels": 3, "conditional": "text"}),
    "dcgan-spectral": ("dcgan", {"shape": (16, 16), "channels": 3, "spectral_norm": True}),
    "dcgan-plane": (
        "dcgan",
        {"shape": (16, 16), "channels": 3, "classes": 4, "conditional": "label", "d_condition": "concatenation"},
    ),
    "autoencoder-kl-adversarial": ("autoencoder-kl", {"shape": (16, 16), "channels": 3, "adversarial_weight": 0.1}),
    "vae-dense": ("vae", {"shape": (8, 8), "channels": 1, "net": "dense", "likelihood": "learned"}),
    "stylegan2-label": ("stylegan2", {"shape": (16, 16), "channels": 3, "classes": 4, "conditional": "label"}),
    "progan-label": ("progan", {"shape": (16, 16), "channels": 3, "classes": 4, "conditional": "label"}),
}


@torch.no_grad()
def outputs(model: Any) -> dict[str, Any]:
    """The arrays of samples.npz."""
    from reverie.core.card import card_of
    from reverie.core.noise import Noise
    from reverie.core.verbs import verbs_of
    from reverie.data.batches import in_order
    from reverie.inference.load import data_of

    card, verbs = card_of(model), verbs_of(model)
    batch = next(in_order(data_of(model).held_out, 4))
    if "class_log_prob" in verbs:
        return {
            "source": batch["x"],
            "log_prob": model.class_log_prob(batch["x"], 0.8, 0.6, batch["label"]),
            **_label(),
        }
    if "translate" in verbs:
        source, _ = model.translation_pair(batch)
        options = inspect.signature(model.translate).parameters
        directions = {"to_b": {"to": "B"}, "to_a": {"to": "A"}} if "to" in options else {"made": {}}
        return {"source": source} | {key: model.translate(source, **to) for key, to in directions.items()}
    cond: dict[str, Any] = _label() if card.classes else {}
    arrays = dict(cond)
    if "sample" in verbs:
        arrays["images"] = model.sample(Noise.of_seeds(range(4)), **cond)
    if "encode" in verbs and card.space and card.space.encode in ("exact", "mean"):
        arrays |= {"source": batch["x"], "latents": model.encode(batch["x"], **cond)}
    return arrays


def _label() -> dict[str, torch.Tensor]:
    return {"label": torch.arange(4)}


def keep(name: str, run: Any, arrays: dict[str, Any]) -> None:
    """Put what loading needs into the fixture's folder."""
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run.checkpoints, folder / "checkpoints")
    shutil.copy(run.path / "run.json", folder)
    as_arrays: dict[str, Any] = {
        key: value.contiguous().numpy() if isinstance(value, torch.Tensor) else np.array(value)
        for key, value in arrays.items()
    }
    np.savez_compressed(folder / "samples.npz", **as_arrays)
    assert str(Path.cwd()) not in (folder / "run.json").read_text()


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, (model, data, size, options) in RUNS.items():
            if sys.argv[1:] and name not in sys.argv[1:]:
                continue
            run = rv.train(model, data, size, out=Path("runs") / name, **COMMON | options)
            keep(name, run, outputs(rv.load(run, "cpu")))
            total = sum(file.stat().st_size for file in (FOLDER / name).rglob("*") if file.is_file())
            print(f"{name:22} {total:9,} bytes", flush=True)
        os.chdir(FOLDER)
    names = {}
    for name, (model, options) in NAMED.items():
        built = rv.build(model, **options)
        shapes = {key: list(value.shape) for key, value in built.state_dict().items()}
        names[name] = {"config": built.config, "tensors": shapes}
    (FOLDER / "names.json").write_text(json.dumps(names, indent=1) + "\n")


if __name__ == "__main__":
    main()
