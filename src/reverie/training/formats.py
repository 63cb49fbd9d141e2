"""Migrations of older checkpoints, from each format to the next.

The format is a number in ``model.json``; it increases when options or tensors are renamed. Runs of an older format can
be loaded, sampled and evaluated; ``reverie train MODEL --init RUN`` continues their training.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from reverie.core.errors import UsageError

FORMAT = 3

Config = dict[str, Any]  # {"name", "kwargs"}; kwargs may contain configs of sub-runs
Rules = Sequence[tuple[str, str | None]]


@dataclass(frozen=True)
class Migration:
    """From one format to the next; the key "" applies to every model.

    Attributes:
        options: model -> {old option: new option, or None to drop it}.
        tensors: model -> (pattern, replacement) pairs for ``re.sub``, in order, before the pairs of ""; a tensor that
            matches a pattern with None is dropped. Names are relative to the model.
    """

    options: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    tensors: Mapping[str, Rules] = field(default_factory=dict)


def _part(old: str, new: str) -> tuple[str, str]:
    """Rename a component of a dotted name at any position."""
    return rf"(^|\.){old}(?=\.|$)", rf"\g<1>{new}"


def _parts(**names: str) -> Rules:
    return [_part(old, new) for old, new in names.items()]


_GROWING = ((r"^(grower|shrinker)\.", None), (r"^G\.net\.net\.", "G.net."), (r"^D\.body\.net\.", "D.body."))

_GAN_OPTIONS = {"slope": "gp_weight", "condition": "d_condition", "spectral": "spectral_norm", "naming": "aux_weight"}
_STYLE_OPTIONS = _GAN_OPTIONS | {
    "mapping": "mapping_layers",
    "fold": "patch_size",
    "mixing": "style_mixing",
    "path": "path_length_weight",
    "path_every": "path_length_every",
}
_TEXTBOOK_OPTIONS = {
    "attention": "attention_levels",
    "middle_attention": "mid_attention",
    "head": "head_dim",
    "groups": "norm_groups",
    "epsilon": "norm_eps",
    "padding": "downsample_padding",
    "cosines_first": "flip_sin_to_cos",
    "frequency_shift": "freq_shift",
}
_FLOW_OPTIONS = {"time_mean": "logit_mean", "time_deviation": "logit_std"}

_NETS = _parts(
    into="stem",
    first="conv1",
    second="conv2",
    join="shortcut",
    queries_keys_values="qkv",
    perceptron="mlp",
    shrink="downsample",
    grow="upsample",
    label="label_embedding",
    caption="text_proj",
    context="context_kv",
)
_GAN = (
    (r"^G\.", "generator."),
    (r"^D\.", "discriminator."),
    (r"^strength$", "augment_p"),
    (r"^reached$", "current_level"),
    (r"^stride$", "path_length_mean"),
    (r"^discriminator\.plane\.", "discriminator.label_plane."),
    (r"^discriminator\.names\.", "discriminator.aux_head."),
    (r"^(generator\..*)\bpixels\b", r"\1to_image"),
    (r"^(discriminator\..*)\bpixels\b", r"\1from_image"),
    (r"^(discriminator\.body)\.last\.", r"\1.last_conv."),
)
_STYLE = (
    *_GAN,
    (r"\.start$", ".const"),
    (r"\.strength$", ".noise_strength"),
    (r"^(discriminator\.body)\.out\.", r"\1.fc."),
)
_TEXT = (
    (r"\btext_encoder\.pieces\.", "text_encoder.embedding."),
    (r"\btext_encoder\.places$", "text_encoder.positions"),
    (r"\b(text_encoder\.layers\.\d+)\.norm\.", r"\1.norm1."),
    (r"\b(text_encoder\.layers\.\d+)\.later_norm\.", r"\1.norm2."),
    (r"(^|\.)text_encoder\.", r"\1conditioner.text_encoder."),
)
_LATENT = (
    (r"^((student|teacher)\.)?codec\.", r"\1latent_codec.codec."),
    (r"^((student|teacher)\.)?mean$", r"\1latent_codec.mean"),
    (r"^((student|teacher)\.)?square$", r"\1latent_codec.mean_sq"),
)
_PLAIN_GANS, _STYLE_GANS = ("gan", "dcgan", "acgan", "r3gan"), ("stylegan", "stylegan2", "progan")
_DIFFUSION = ("ddpm", "edm", "flow-matching", "dit", "latent-diffusion", "distilled")

MIGRATIONS: dict[int, Migration] = {
    # model.json names its format; sides became shapes; a growing network was wrapped
    1: Migration(options={"": {"size": "shape"}}, tensors={"progan": _GROWING}),
    # options and tensors took the field's names; systems are composed of modules
    2: Migration(
        options={
            "denoising-autoencoder": {"strength": "corruption_level"},
            "vae": {"decoder": "likelihood"},
            "autoencoder-kl": {
                "kl": "kl_weight",
                "perceptual": "perceptual_weight",
                "adversarial": "adversarial_weight",
            },
            "edm": {"noise_mean": "p_mean", "noise_deviation": "p_std"},
            "flow-matching": _FLOW_OPTIONS,
            "dit": _FLOW_OPTIONS | {"patch": "patch_size"},
            "ddpm-textbook": _TEXTBOOK_OPTIONS,
            "distilled": {"evaluations": "student_steps"},
            **dict.fromkeys(_PLAIN_GANS, _GAN_OPTIONS),
            **dict.fromkeys(_STYLE_GANS, _STYLE_OPTIONS),
            "pix2pix": {"l1": "l1_weight"},
            "editor": {"l1": "l1_weight", "task": None, "source_channels": None},
            "cyclegan": {"cycle": "cycle_weight", "identity": "identity_weight", "pool": "pool_size"},
        },
        tensors={
            "": _NETS,
            "denoising-autoencoder": ((r"^(encoder|decoder)\.", r"autoencoder.\1."),),
            **dict.fromkeys(_DIFFUSION, (*_TEXT, *_LATENT)),
            **dict.fromkeys(_PLAIN_GANS, _GAN),
            **dict.fromkeys(_STYLE_GANS, _STYLE),
            "pix2pix": ((r"^G\.", "generator."), (r"^D\.", "discriminator.")),
            "editor": (
                (r"^G\.", "translator.generator."),
                (r"^D\.", "translator.discriminator."),
                (r"^move$", "direction"),
            ),
            "cyclegan": ((r"^past_([ab])$", r"pool_\1"), (r"^filled$", "pool_filled")),
        },
    ),
}


def fault_of_config(config: Any) -> str | None:
    """Why the content of a model.json names no model, or None."""
    if not isinstance(config, dict) or not isinstance(config.get("name"), str):
        return "it names no model"
    if not isinstance(config.get("kwargs", 0), dict | None):
        return "it has no arguments (kwargs) of the model"
    version = config.get("format", 1)
    return None if type(version) is int and version >= 1 else f"{version!r} is no format"


def upgrade_config(config: Config, version: int) -> Config:
    """The configuration of a model and its sub-runs in the current format.

    Raises:
        UsageError: a later version wrote it.
    """
    if version > FORMAT:
        raise UsageError(f"This run was written by a later version (format {version}; this one reads up to {FORMAT}).")
    for number in range(version, FORMAT):
        config = _renamed(config, MIGRATIONS[number])
    return config


def upgrade_tensors(tensors: dict[str, Tensor], config: Config, version: int) -> dict[str, Tensor]:
    """A state dict with current names.

    Args:
        config: of the model, in its original format.
    """
    for number in range(version, FORMAT):
        tensors = _moved(tensors, config, MIGRATIONS[number])
        config = _renamed(config, MIGRATIONS[number])
    return tensors


def _sub_runs(config: Config) -> dict[str, Config]:
    return {
        key: value
        for key, value in (config.get("kwargs") or {}).items()
        if isinstance(value, dict) and {"name", "kwargs"} <= value.keys()
    }


def _renamed(config: Config, step: Migration) -> Config:
    if config.get("kwargs") is None:  # a class of the user
        return config
    names = {**step.options.get("", {}), **step.options.get(config["name"], {})}
    inner = {key: _renamed(value, step) for key, value in _sub_runs(config).items()}
    moved = {names.get(old, old): inner.get(old, value) for old, value in config["kwargs"].items()}
    kwargs = {new: value for new, value in moved.items() if new is not None}
    return config | {"kwargs": kwargs}


def _moved(tensors: dict[str, Tensor], config: Config, step: Migration) -> dict[str, Tensor]:
    inner = _sub_runs(config)
    rules = [*step.tensors.get(config["name"], ()), *step.tensors.get("", ())]
    moved: dict[str, Tensor] = {}
    for key, sub in inner.items():
        prefix = _prefix(tensors, key)
        part = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        tensors = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
        new = _renamed_tensor(prefix, rules) or prefix
        moved |= {new + name: value for name, value in _moved(part, sub, step).items()}
    for name, value in tensors.items():
        if (new_name := _renamed_tensor(name, rules)) is not None:
            moved[new_name] = value
    return moved


def _prefix(tensors: Mapping[str, Tensor], key: str) -> str:
    """The prefix of a sub-run's tensors: the sub-module with the argument's name, at any depth."""
    matches = (re.match(rf"(?:.*?\.)?{key}\.", name) for name in tensors)
    return next((match[0] for match in matches if match), f"{key}.")


def _renamed_tensor(name: str, rules: Rules) -> str | None:
    new: str | None = name
    for pattern, replacement in rules:
        if new is not None and re.search(pattern, new):
            new = None if replacement is None else re.sub(pattern, replacement, new)
    return new
