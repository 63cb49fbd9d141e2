"""A diffusers folder as a run: UNet2DModel and its chain of noise, or what we exported ourselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from reverie import registry
from reverie.core.card import card_of
from reverie.core.errors import ReverieError, UsageError
from reverie.core.files import read_json
from reverie.core.verbs import Model, verbs_of
from reverie.data import open_data
from reverie.data.provenance import unknown
from reverie.interop.exporting import EXPORTED, NOTE
from reverie.interop.names import chain_arguments, unet_arguments
from reverie.media import Spec
from reverie.training.checkpoint import Checkpoint, save_checkpoint
from reverie.training.run import Run, fresh_path, machine, versions

_LEGACY = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_FILE, _SCHEDULER = "diffusion_pytorch_model.safetensors", "scheduler_config.json"


def import_(folder: Path | str, out: Path | str | None = None, data: str | None = None) -> Run:
    """A run with one checkpoint, to sample, evaluate and export, from a local diffusers folder.

    Args:
        folder: a pipeline's folder (model_index.json, unet/, scheduler/) or a UNet2DModel's own (config.json). Without
            a scheduler the chain is taken to be diffusers' default: linear, 1000 timesteps, the noise predicted.
        out: the run directory; by default the first free of runs/ddpm-textbook-FOLDER ...
        data: the pictures that it was trained on, as for ``reverie.data``: what its scores are measured against, and
            the names of its classes.
    Raises:
        UsageError: no such folder, a network or schedule that we do not have (it names the key), weights that are not
            safetensors or do not fit, data with another number of classes, something at ``out``.
        ReverieError: a file is damaged, the disk refuses.
    """
    folder = Path(folder)
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    if not (unet / "config.json").is_file():
        raise UsageError(
            f"{folder} is no diffusers folder: there is neither unet/config.json nor config.json in it. A model on the "
            "Hub is fetched first: huggingface-cli download OWNER/NAME --local-dir FOLDER."
        )
    weights = _weights(unet)
    if (folder / NOTE).is_file():
        model, names = _own(folder)
        weights = {key.removeprefix("net."): value for key, value in weights.items()}
    else:
        model, names = _theirs(folder, unet)
        weights = _named(weights, model)
    _fill(model.net, weights, unet)
    config = model.config
    info = {
        "reverie": versions()["reverie"],
        "model": config,
        "verbs": verbs_of(model),
        "card": card_of(model).to_json(),
        "phases": {},
        "data": _facts(model, names, data),
        "imported": folder.name,
        "versions": versions(),
        "machine": machine(),
        "status": "finished",
        "seconds": 0.0,
    }
    run = Run.create(Path(out) if out is not None else fresh_path(config["name"], folder.resolve().name), info)
    save_checkpoint(run.checkpoints, Checkpoint(0, config, model.state_dict(), None, None), keep=1)
    return run


def _facts(model: Model, names: list[str], source: str | None) -> dict[str, Any]:
    """What run.json says of the data, which may be unknown."""
    card = card_of(model)
    output = card.output
    assert output is not None
    if source is None:
        return unknown(Spec(output.medium, output.shape, output.channels), names)
    data = open_data(source, size=output.shape, channels=output.channels)
    if card.classes and len(data.classes) != card.classes:
        raise UsageError(
            f"The network knows {card.classes} classes and {source} has {len(data.classes)}: other --data?"
        )
    return data.provenance


def _weights(unet: Path) -> dict[str, Tensor]:
    path = unet / _FILE
    if not path.is_file():
        others = ", ".join(
            sorted(p.name for p in unet.iterdir() if p.suffix in (".bin", ".pt", ".ckpt", ".safetensors"))
        )
        raise UsageError(
            f"{path} is not there (there is: {others or 'nothing'}). A pickle (.bin) runs any code when it is "
            "opened, so only that safetensors file is read. Whoever trusts the others converts them: "
            f'UNet2DModel.from_pretrained("{unet.as_posix()}").save_pretrained("{unet.as_posix()}").'
        )
    try:
        return {name: value.float() for name, value in load_file(path).items()}
    except SafetensorError as error:
        raise ReverieError(f"{path} is damaged ({error}). Fetch or export it again.") from error


def _config(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except ValueError as error:
        raise ReverieError(f"{path} is damaged: {error}. Fetch or export it again.") from error


def _own(folder: Path) -> tuple[Model, list[str]]:
    """The model that was exported from here, and its classes' names."""
    note = _config(folder / NOTE)
    config = note["model"]
    if config["name"] not in EXPORTED:
        raise UsageError(f"{folder / NOTE} names {config['name']!r}; these can be imported: {', '.join(EXPORTED)}.")
    return registry.build(config["name"], **config["kwargs"]), list(note["classes"])


def _theirs(folder: Path, unet: Path) -> tuple[Model, list[str]]:
    config = _config(unet / "config.json")
    if config.get("_class_name") != "UNet2DModel":
        raise UsageError(
            f"{unet / 'config.json'} is of a {config.get('_class_name')}; the one network of diffusers that we have is "
            "UNet2DModel, of unconditional and class-conditional pictures."
        )
    places = (folder / "scheduler" / _SCHEDULER, folder / _SCHEDULER)  # the oldest folders are flat
    found = [path for path in places if path.is_file()]
    chain = chain_arguments(_config(found[0]) if found else {})
    model = registry.build("ddpm-textbook", **unet_arguments(config), **chain)
    return model, [str(index) for index in range(card_of(model).classes)]


def _named(weights: dict[str, Tensor], model: Model) -> dict[str, Tensor]:
    """Weights under today's names; the row for "any class", which theirs have not, is the mean of the classes'."""
    named = {}
    for name, value in weights.items():
        for old, new in _LEGACY.items():
            name = name.replace(old, new) if ".attentions." in name else name
        named[name] = value
    if card_of(model).classes and (rows := named.get("class_embedding.weight")) is not None:
        named["class_embedding.weight"] = torch.cat([rows, rows.mean(0, keepdim=True)])
    return named


def _fill(net: torch.nn.Module, weights: dict[str, Tensor], unet: Path) -> None:
    own = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    if odd := sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name)):
        told = "; ".join(
            f"{name}: {own.get(name, 'none')} expected, {given.get(name, 'none')} found" for name in odd[:3]
        )
        raise UsageError(f"The weights in {unet} do not fit its configuration, {len(odd)} tensors in all: {told}.")
    net.load_state_dict(weights)
