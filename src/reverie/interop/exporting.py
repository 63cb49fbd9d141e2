"""Export a run as a diffusers folder: JSON, safetensors and, for networks that diffusers lacks, their source.

The textbook U-Net is diffusers' UNet2DModel and needs no code. The fast U-Net is exported with its source file, and
every folder with code also contains a pipeline that uses our noise.
"""

from __future__ import annotations

import json
import os
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_bytes

from reverie.core.card import card_of
from reverie.core.errors import UsageError, argument
from reverie.core.files import check_target, disk_errors, flush, path_of
from reverie.core.verbs import Model
from reverie.diffusion.schedules import Karras, Linear, RectifiedFlow
from reverie.inference.load import load
from reverie.interop.names import VERSION, chain_config, sample_size, unet_config
from reverie.nets.textbook_unet import TextbookUNet
from reverie.nets.unet import UNet
from reverie.training.formats import FORMAT
from reverie.training.run import Run

EXPORTED = ("ddpm", "ddpm-textbook", "edm", "flow-matching")
NOTE = "reverie.json"  # what diffusers' files lack, for a later import
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
FILES = {"model_index.json", "scheduler/scheduler_config.json", "unet/config.json", WEIGHTS, NOTE, "README.md"}
CODE = {"pipeline.py", "unet/reverie_unet.py"}


def export(run: Run | Path | str, out: Path | str, to: str = "diffusers", overwrite: bool = False) -> Path:
    """Write a run's averaged weights, network and schedule as a folder of another library.

    Args:
        run: a run directory, a checkpoint inside one, or a ``Run``.
        out: the new folder, written atomically.
        to: "diffusers".
        overwrite: replace an earlier export.
    Raises:
        UsageError: another library, a folder with other files, a model without a counterpart.
        ReverieError: disk error.
    """
    if to != "diffusers":
        raise UsageError(f"{argument('to')} must be diffusers, not {to!r}.")
    out = path_of("out", out)
    check_target(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not (overwrite and _is_export(out)):
        remedy = f"Choose another folder, or {argument('overwrite')}" if _is_export(out) else "Choose another folder"
        raise UsageError(f"{out} already holds files; nothing was touched. {remedy}.")
    model = load(run, device="cpu")
    _check(model)
    _write(out, _files(model))
    return out


def _is_export(folder: Path) -> bool:
    """Whether a folder holds the files of an export, and no others."""
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return FILES <= files <= FILES | CODE


def how_to_load(folder: Path | str) -> str:
    """Python code that loads an exported folder and samples from it."""
    folder = Path(folder)
    native = not (folder / "pipeline.py").exists()
    trust = "" if native else ", trust_remote_code=True"
    call = "batch_size=8, use_clipped_model_output=True" if native else "seeds=range(8)"
    return (
        "from diffusers import DiffusionPipeline\n"
        f"pipe = DiffusionPipeline.from_pretrained({folder.as_posix()!r}{trust})\n"
        f'pipe({call}, num_inference_steps=50).images[0].save("first.png")'
    )


def _check(model: Model) -> None:
    name = model.config["name"]
    if name not in EXPORTED:
        raise UsageError(f"{name} has no counterpart in diffusers. These can be exported: {', '.join(EXPORTED)}.")
    if (output := card_of(model).output) and output.channels == 4:
        raise UsageError("Models of RGBA images cannot be exported: diffusers knows no premultiplied alpha.")
    if "text" in card_of(model).conditions:
        raise UsageError("Models of captions cannot be exported; unconditional and class-conditional models can.")
    if type(model.net) not in (UNet, TextbookUNet):
        raise UsageError(f"The network {type(model.net).__name__} cannot be exported; U-Nets can.")


def _files(model: Model) -> dict[str, bytes]:
    """The files of the folder: path -> content."""
    names = list((model.run.get("data") or {}).get("classes", ())) if card_of(model).classes else []
    kwargs = model.config["kwargs"]
    native = isinstance(model.net, TextbookUNet)
    unet, scheduler = unet_config(kwargs) if native else _unet_config(model), _scheduler(model)
    weights = {(key if native else f"net.{key}"): value.contiguous() for key, value in model.net.state_dict().items()}
    code = not native or card_of(model).classes
    index = {
        "_class_name": ["pipeline", "ReveriePipeline"] if code else "DDIMPipeline",
        "_diffusers_version": VERSION,
        "unet": ["diffusers", "UNet2DModel"] if native else ["reverie_unet", "ReverieUNet"],
        "scheduler": ["diffusers", scheduler["_class_name"]],
    }
    note = {
        "format": FORMAT,
        "model": model.config,
        "classes": names,
        "checkpoint": model.checkpoint,
        "reverie": model.run.get("reverie", ""),
    }
    files = {
        "model_index.json": _json(index),
        "scheduler/scheduler_config.json": _json(scheduler),
        "unet/config.json": _json(unet),
        WEIGHTS: to_bytes(weights, metadata={"format": "pt"}),
        NOTE: _json(note),
        "README.md": _readme(model, names, bool(code)).encode(),
    }
    if code:
        files["pipeline.py"] = _bundled("travelling_pipeline.py", "core/noise.py").encode()
    if not native:
        files["unet/reverie_unet.py"] = _bundled("travelling_unet.py", "nets/unet.py").encode()
    return files


def arguments(net: Any) -> dict[str, Any]:
    """The constructor's arguments of a fast U-Net (``nets.unet.UNet``), inferred from its layers."""
    patch_size = net.stem[0].downscale_factor
    with_attention = [index for index, level in enumerate(net.down) if level.attention is not None]
    return {
        "channels": net.stem[1].in_channels // patch_size**2,
        "widths": [level.blocks[0].conv2.out_channels for level in net.down],
        "depth": net.depth,
        "attention": min(with_attention, default=len(net.down)),
        "patch_size": patch_size,
        "classes": net.classes,
        "context": 0 if net.text_proj is None else net.text_proj.in_features,
        "outputs": net.out[1].out_channels // patch_size**2,
    }


def _unet_config(model: Model) -> dict[str, Any]:
    classes, shape, channels = card_of(model).classes, *(model.config["kwargs"][name] for name in ("shape", "channels"))
    return {
        "_class_name": "ReverieUNet",
        "_diffusers_version": VERSION,
        "sample_size": sample_size(shape),
        "in_channels": channels,
        "out_channels": channels,
        "arguments": arguments(model.net),
        "num_class_embeds": classes + 1 if classes else None,
        "time_scale": 1000.0 if isinstance(model.schedule, Karras) else 1.0,
    }


def _scheduler(model: Model) -> dict[str, Any]:
    """scheduler_config.json with the noise levels of one of our time grids."""
    schedule = model.schedule
    if isinstance(schedule, RectifiedFlow):
        return {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "_diffusers_version": VERSION,
            "num_train_timesteps": 1000,
            "shift": 1.0,
        }
    if isinstance(schedule, Karras):
        return {
            "_class_name": "EDMDPMSolverMultistepScheduler",
            "_diffusers_version": VERSION,
            "sigma_min": schedule.low,
            "sigma_max": schedule.high,
            "sigma_data": 0.5,
            "rho": schedule.rho,
            "solver_order": 2,
            "thresholding": True,  # with sample_max_value 1 this clamps to [-1, 1]
            "sample_max_value": 1.0,
            "final_sigmas_type": "zero",
        }
    ends = (float(schedule.betas[0]), float(schedule.betas[-1])) if isinstance(schedule, Linear) else (1e-4, 0.02)
    return chain_config(model.config["kwargs"], ends)


def same_as(model: Model) -> str:
    """The flags of ``reverie sample`` that reproduce the exported pipeline from the same noise."""
    if isinstance(model.schedule, Karras):
        return "--sampler dpm++2m --time-grid karras"
    return "--sampler ddim --time-grid uniform"


def _readme(model: Model, names: list[str], code: bool) -> str:
    kind, output = model.config["name"], card_of(model).output
    lines = [f"# {kind}, {output}", ""]
    lines += [f"Trained with reverie {model.run.get('reverie', '')}, checkpoint {model.checkpoint}.", ""]
    if code:
        lines += [
            "Load: `DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)`; the code is in this folder.",
            "`pipe(seeds=[0, 1], num_inference_steps=50)` generates the samples of "
            f"`reverie sample RUN {same_as(model)} --steps 50`.",
        ]
    else:
        lines += [
            "Load: `DiffusionPipeline.from_pretrained(FOLDER)`.",
            "`pipe(num_inference_steps=50, use_clipped_model_output=True)` samples like "
            f"`reverie sample RUN {same_as(model)} --steps 50`, from torch's noise.",
        ]
    if names:
        lines += ["", "`class_labels`: " + ", ".join(f"{index} {name}" for index, name in enumerate(names)) + "."]
    return "\n".join(lines) + "\n"


def _bundled(file: str, module: str) -> str:
    """The source of an exported file, with the module that it imports inserted in place of the import."""
    text = (resources.files("reverie.interop") / file).read_text(encoding="utf-8")
    source = (resources.files("reverie") / module).read_text(encoding="utf-8")
    dotted = f"reverie.{module.removesuffix('.py').replace('/', '.')}"
    (line,) = [line for line in text.splitlines() if line.startswith(f"from {dotted} import ")]
    return text.replace(line, source.replace("from __future__ import annotations\n", ""))


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _write(out: Path, files: dict[str, bytes]) -> None:
    temporary = out.with_name(f".aside-{out.name}-{os.getpid()}")
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            for name, content in files.items():
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                flush(path)
            if out.exists():
                shutil.rmtree(out)  # checked to be empty, or an export
            temporary.rename(out)
            flush(out.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
