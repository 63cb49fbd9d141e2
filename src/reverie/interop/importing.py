"""Import a diffusers folder as a run: a UNet2DModel and its noise schedule, or a folder from ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from reverie.core.card import card_of
from reverie.core.errors import ReverieError, UsageError, argument
from reverie.core.files import exists, is_file, path_of, read_json
from reverie.core.state import check_weights
from reverie.core.verbs import Model, verbs_of
from reverie.data import open_data
from reverie.data.provenance import unknown
from reverie.interop.exporting import EXPORTED, NOTE
from reverie.interop.names import chain_arguments, unet_arguments
from reverie.media import Spec
from reverie.training.checkpoint import Checkpoint, build_for, save_checkpoint
from reverie.training.formats import fault_of_config, upgrade_config, upgrade_tensors
from reverie.training.run import Run, check_free, fresh_path, machine, versions

_LEGACY = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_FILE, _SCHEDULER = "diffusion_pytorch_model.safetensors", "scheduler_config.json"


def import_(folder: Path | str, out: Path | str | None = None, data: str | None = None) -> Run:
    """Convert a local diffusers folder to a run with one checkpoint, to sample, evaluate and export.

    Args:
        folder: of a pipeline (model_index.json, unet/, scheduler/) or of a UNet2DModel (config.json). Without a
            scheduler, diffusers' default applies: linear schedule, 1000 timesteps, noise prediction.
        out: the run directory; by default the first free of runs/ddpm-textbook-FOLDER ...
        data: its training images, as for ``reverie.data``: the reference of its scores, and the names of its classes.
    Raises:
        UsageError: no such folder, an unsupported network or schedule (the message names the key), weights that are not
            safetensors or do not fit, data with another number of classes, ``out`` not empty.
        ReverieError: a damaged file, or a disk error.
    """
    folder = path_of("folder", folder)
    if out is not None:
        check_free(out)
    unet = folder / "unet" if exists(folder / "unet") else folder
    if not is_file(unet / "config.json"):
        raise UsageError(
            f"{folder} is no diffusers folder: it contains neither unet/config.json nor config.json. Download a model "
            "of the Hub first: huggingface-cli download OWNER/NAME --local-dir FOLDER."
        )
    weights = _weights(unet)
    if (folder / NOTE).is_file():
        model, names, weights = _from_reverie(folder, weights)
    else:
        model, names = _from_diffusers(folder, unet, weights)
        weights = _named(weights, model)
    _fill(model.net, weights, unet)
    config = model.config
    info = {
        "reverie": versions()["reverie"],
        "model": config,
        "verbs": verbs_of(model),
        "card": card_of(model).to_json(),
        "phases": {},
        "data": _provenance(model, names, data),
        "imported": folder.name,
        "versions": versions(),
        "machine": machine(),
        "status": "finished",
        "seconds": 0.0,
    }
    run = Run.create(Path(out) if out is not None else fresh_path(config["name"], folder.resolve().name), info)
    save_checkpoint(run.checkpoints, Checkpoint(0, config, model.state_dict(), None, None), keep=1)
    return run


def _provenance(model: Model, names: list[str], source: str | None) -> dict[str, Any]:
    """The data's entry of run.json; the data may be unknown."""
    card = card_of(model)
    output = card.output
    assert output is not None
    if source is None:
        return unknown(Spec(output.medium, output.shape, output.channels), names)
    data = open_data(source, size=output.shape, channels=output.channels)
    if card.classes and len(data.classes) != card.classes:
        raise UsageError(
            f"The network has {card.classes} classes, but {source} has {len(data.classes)}. Choose other "
            f"{argument('data')}."
        )
    return data.provenance


def _weights(unet: Path) -> dict[str, Tensor]:
    path = unet / _FILE
    if not path.is_file():
        others = ", ".join(
            sorted(p.name for p in unet.iterdir() if p.suffix in (".bin", ".pt", ".ckpt", ".safetensors"))
        )
        raise UsageError(
            f"{path} is missing (there is: {others or 'nothing'}). Only safetensors are read, because a pickle (.bin) "
            "can run any code. If you trust it, convert it: "
            f'UNet2DModel.from_pretrained("{unet.as_posix()}").save_pretrained("{unet.as_posix()}").'
        )
    try:
        return {name: value.float() for name, value in load_file(path).items()}
    except SafetensorError as error:
        raise ReverieError(f"{path} is damaged ({error}). Download or export it again.") from error


def _config(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except ValueError as error:
        raise ReverieError(f"{path} is damaged: {error}. Download or export it again.") from error


def _from_reverie(folder: Path, weights: dict[str, Tensor]) -> tuple[Model, list[str], dict[str, Tensor]]:
    """The exported model, its class names, and its network's weights under current names."""
    note = _config(folder / NOTE)
    config, version = (note["model"], note.get("format", 1)) if isinstance(note, dict) and "model" in note else ({}, 1)
    fault = fault_of_config(config | {"format": version} if isinstance(config, dict) else config)
    if fault is not None or not isinstance(note.get("classes"), list):
        raise ReverieError(f"{folder / NOTE} is damaged: {fault or 'it lists no classes'}. Export the run again.")
    if config["name"] not in EXPORTED:
        raise UsageError(f"{folder / NOTE} names {config['name']!r}; these can be imported: {', '.join(EXPORTED)}.")
    tensors = upgrade_tensors({f"net.{key.removeprefix('net.')}": x for key, x in weights.items()}, config, version)
    model = build_for(tensors, upgrade_config(config, version), folder)
    return model, list(note["classes"]), {key.removeprefix("net."): value for key, value in tensors.items()}


def _from_diffusers(folder: Path, unet: Path, weights: dict[str, Tensor]) -> tuple[Model, list[str]]:
    config = _config(unet / "config.json")
    if config.get("_class_name") != "UNet2DModel":
        raise UsageError(
            f"{unet / 'config.json'} is of a {config.get('_class_name')}; only UNet2DModel can be imported, "
            "unconditional or class-conditional."
        )
    paths = (folder / "scheduler" / _SCHEDULER, folder / _SCHEDULER)  # the oldest folders are flat
    files = [path for path in paths if path.is_file()]
    chain = chain_arguments(_config(files[0]) if files else {})
    kwargs = unet_arguments(config) | chain
    model = build_for(weights, {"name": "ddpm-textbook", "kwargs": kwargs}, unet)
    return model, [str(index) for index in range(card_of(model).classes)]


def _named(weights: dict[str, Tensor], model: Model) -> dict[str, Tensor]:
    """Weights under current names; the embedding of "any class", which diffusers lacks, is the mean over classes."""
    named = {}
    for name, value in weights.items():
        for old, new in _LEGACY.items():
            name = name.replace(old, new) if ".attentions." in name else name
        named[name] = value
    if card_of(model).classes and (rows := named.get("class_embedding.weight")) is not None:
        named["class_embedding.weight"] = torch.cat([rows, rows.mean(0, keepdim=True)])
    return named


def _fill(net: torch.nn.Module, weights: dict[str, Tensor], unet: Path) -> None:
    expected = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    loaded = {name: tuple(value.shape) for name, value in weights.items()}
    if odd := sorted(name for name in expected.keys() | loaded.keys() if expected.get(name) != loaded.get(name)):
        details = "; ".join(
            f"{name}: {expected.get(name, 'none')} expected, {loaded.get(name, 'none')} in the file" for name in odd[:3]
        )
        raise UsageError(f"The weights in {unet} do not fit its configuration, {len(odd)} tensors in all: {details}.")
    check_weights(weights, unet)
    net.load_state_dict(weights)
