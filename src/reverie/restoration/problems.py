"""What a restoration is asked for: the task makes the operator, the operator the observation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from reverie.core.card import card_of, name_of
from reverie.core.errors import UsageError, argument, suggest
from reverie.core.files import is_file
from reverie.core.noise import Noise, fold
from reverie.core.options import listed
from reverie.core.values import integer, number
from reverie.core.verbs import Model, verbs_of
from reverie.data import load_image
from reverie.inference.conditions import Labels, Texts, conditions_of, seeds_of
from reverie.inference.load import Source, data_of, model_of, spec_of
from reverie.inference.origin import origin
from reverie.inference.references import batch_of, find_row
from reverie.inference.rows import device_of
from reverie.restoration import operators
from reverie.restoration.solvers import ABLE

Task = Literal["denoise", "inpaint", "complete", "super-resolution", "colorize"]

MASKED = ("inpaint", "complete")  # tasks that have a mask


@dataclass(frozen=True)
class Problem:
    """Observations, and what is known of them.

    Attributes:
        x: the images (B, C, H, W): the truth, or ``degraded`` already.
        observation: A x with its noise, of standard deviation ``noise_std``.
        operator: A.
        cond: conditions of each image.
        streams: of noise, ``samples`` for each image, one image after the other.
        origin: of the results.
    """

    model: Model
    x: Tensor
    observation: Tensor
    operator: operators.Operator
    degraded: bool
    noise_std: float
    steps: int
    samples: int
    cond: Mapping[str, Any]
    streams: Noise
    origin: dict[str, Any]

    def arguments(self, low: int, high: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What a solver needs for some of the restorations."""
        rows = torch.arange(len(self.x)).repeat_interleave(self.samples)[low:high]
        arguments = (self.model, self.observation[rows], self.operator.of_rows(rows), self.streams[low:high])
        cond = {name: _rows(value, rows) for name, value in self.cond.items()}
        return arguments, {"noise_std": self.noise_std, "steps": self.steps, **cond}


def prepare(
    source: Source,
    images: Any,
    task: Task | None,
    mask: Any,
    scale: int | None,
    noise: float | None,
    degraded: bool | None,
    samples: int,
    seed: int | Sequence[int],
    label: Labels,
    text: Texts,
    steps: int,
    n: int,
) -> Problem:
    """The problem that ``rv.restore`` is asked to solve; its arguments and errors."""
    model = model_of(source)
    card, spec, device = card_of(model), spec_of(model), device_of(model)
    if not card.restores:
        raise UsageError(f"{name_of(model)} restores nothing; {ABLE} do.")
    name = card.restores[0] if task is None else task
    if isinstance(images, str) and images in get_args(Task) and not isinstance(task, str):
        raise UsageError(f"The images come before the task: rv.restore(run, images, {images!r}).")
    if name not in card.restores:
        close, able = suggest(name, list(card.restores)), listed(card.restores)
        raise UsageError(f"{name_of(model)} does not restore by {name!r}.{close} It can restore: {able}.")
    samples, steps = integer(argument("samples"), samples, 1, 1000), integer(argument("steps"), steps, 1, 10_000)
    for flag, value, owners in (("mask", mask, MASKED), ("scale", scale, ("super-resolution",))):
        if value is not None and name not in owners:
            raise UsageError(f"{argument(flag)} is for the task {' or '.join(owners)}, not for {name}.")
    if noise is not None and "denoiser" not in verbs_of(model):
        does = "takes known pixels as they are" if name == "complete" else "undoes the corruption it learnt"
        raise UsageError(f"{argument('noise')} is for diffusion models: {name_of(model)} {does}.")
    if not isinstance(degraded, bool | None):
        raise UsageError(f"{argument('degraded')} must be True, False or None, not {degraded!r}.")
    noise_std = (0.5 if name == "denoise" else 0.0) if noise is None else number(argument("noise"), noise, least=0)
    x = batch_of(model, images, n)["x"]
    seeds = seeds_of(seed, len(x))
    region = _default_mask(model) if mask is None else mask
    region = _data_masks(model, images, len(x)) if isinstance(mask, str) and mask == "data" else region
    operator = _operator(name, region, scale, spec.shape, spec.channels, seeds, device)
    if name == "complete" and "conditionals" in verbs_of(model) and operator.ignores_known_pixels:
        warnings.warn(
            f"{name_of(model)} draws in the order of rows: known pixels after missing ones do not guide them. "
            f"{argument('mask', 'bottom-half')} leaves none.",
            stacklevel=4,
        )
    files = isinstance(images, str | Path) or (isinstance(images, list | tuple) and bool(images))
    listed_images = [images] if isinstance(images, str | Path) else list(images) if files else []
    all_files = bool(listed_images) and all(isinstance(image, str | Path) and is_file(image) for image in listed_images)
    degraded = (name == "denoise" and all_files) if degraded is None else degraded
    rng = Noise.of_seeds([fold(value, "observation") for value in seeds], device)
    observation = _observation(model, operator, name, x, noise_std, rng, degraded)
    cond = conditions_of(model, (), label, text, len(x))
    keys = [fold(value, "restoration", j) if j else value for value in seeds for j in range(samples)]
    made_by = origin(
        "restore",
        model,
        seeds,
        task=name,
        images=images,
        mask=mask,
        scale=scale,
        noise=noise,
        degraded=degraded,
        samples=samples,
        label=label,
        text=text,
        steps=steps,
    )
    streams = Noise.of_seeds(keys, device)
    return Problem(model, x, observation, operator, degraded, noise_std, steps, samples, cond, streams, made_by)


def _operator(
    task: str,
    mask: Any,
    scale: int | None,
    shape: tuple[int, ...],
    channels: int,
    seeds: Sequence[int],
    device: torch.device,
) -> operators.Operator:
    if task in MASKED:
        return operators.inpainting(_mask(mask, (shape[0], shape[1]), seeds).to(device))
    if task == "super-resolution":
        scale = integer(argument("scale"), 2 if scale is None else scale, least=2)
        if any(side % scale for side in shape):
            sides = "x".join(map(str, shape))
            raise UsageError(f"{argument('scale')} must divide the sides of the images, {sides}; {scale} does not.")
        return operators.super_resolution(scale)
    if task == "colorize":
        if channels == 1:
            raise UsageError("This model makes grey images: there is no colour to restore.")
        return operators.grey()
    return operators.identity()


def _default_mask(model: Model) -> str:
    """What is missing by default: the end, of a model that draws value after value."""
    return "bottom-half" if "conditionals" in verbs_of(model) else "center"


def _data_masks(model: Model, images: Any, n: int) -> Tensor:
    """The masks (B, 1, H, W) of rows of the run's data, true where nothing is marked."""
    if images is None or (isinstance(images, list | tuple) and not images):
        rows = [(data_of(model).held_out, i) for i in range(n)]
    else:
        references = [images] if isinstance(images, str) else list(images)
        if not all(isinstance(reference, str) and not is_file(reference) for reference in references):
            raise UsageError(f"{argument('mask', 'data')} is of images of the run's data, such as held-out:3.")
        rows = [find_row(model, reference) for reference in references]
    if not all("mask" in split for split, _ in rows):
        raise UsageError(f"{argument('mask', 'data')}: the run's data has no masks.")
    return torch.from_numpy(np.stack([split["mask"][i] == 0 for split, i in rows])).movedim(-1, 1)


def _mask(mask: Any, shape: tuple[int, int], seeds: Sequence[int]) -> Tensor:
    """(1 or B, 1, H, W), true where a pixel is known."""
    if isinstance(mask, Tensor) and mask.ndim == 4:
        return mask
    if isinstance(mask, str) and not is_file(mask):
        return operators.named_mask(mask, shape, [fold(value, "mask") for value in seeds])
    if isinstance(mask, str | Path):
        missing = load_image(Path(mask), shape, 1)[..., 0] > 127
    else:
        try:
            missing = np.asarray(mask, dtype=bool)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{argument('mask')} must be a bool array (H, W): {error}") from None
    if missing.shape != shape:
        raise UsageError(f"{argument('mask')} must have the shape of the images, {shape}, not {missing.shape}.")
    return torch.from_numpy(~missing)[None, None]


def _observation(
    model: Model, operator: operators.Operator, task: str, x: Tensor, noise_std: float, rng: Noise, degraded: bool
) -> Tensor:
    if degraded and task == "denoise":
        return x
    if not degraded and task == "denoise" and "corrupt" in verbs_of(model):
        return model.corrupt(x, rng)
    y = operator.forward(x)
    return y if degraded or not noise_std else y + noise_std * rng(*y.shape[1:]).to(y)


def _rows(value: Any, index: Tensor) -> Any:
    return value[index] if isinstance(value, Tensor) else [value[i] for i in index.tolist()]
