"""Restoration of named images: the task makes the operator, the operator the observation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

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
from reverie.inference.load import Source, model_of, spec_of
from reverie.inference.origin import origin
from reverie.inference.references import batch_of
from reverie.inference.rows import device_of, in_chunks
from reverie.media import medium_of
from reverie.media.images import Images, Sheet
from reverie.restoration import operators
from reverie.restoration.solvers import ABLE
from reverie.restoration.solvers import restore as solve
from reverie.training.progress import shows_progress

Task = Literal["denoise", "inpaint", "complete", "super-resolution", "colorize"]

MASKED = ("inpaint", "complete")  # tasks that have a mask


@shows_progress
def restore(
    model: Source,
    images: Any = None,
    task: Task = "denoise",
    mask: str | np.ndarray | Path | None = None,
    scale: int | None = None,
    noise: float | None = None,
    degraded: bool | None = None,
    samples: int = 1,
    seed: int | Sequence[int] = 0,
    label: Labels = None,
    text: Texts = None,
    steps: int = 50,
    n: int = 8,
    progress: Callable[[int, int, str], None] | None = None,
) -> Sheet:
    """Restore images: ``sheet["restored 1"]`` and so on, below ``sheet["observation"]``.

    Args:
        model: a loaded model, or a run, whose card has the task.
        images: references, see ``rv.reconstruct``; by default the first held-out images.
        task: "denoise", "inpaint", "complete" (by an energy or autoregressive model, or maskgit), "super-resolution" or
            "colorize".
        mask: of inpainting and completion, what is missing: "left-half", "right-half", "top-half", "bottom-half",
            "center", "random:0.5", an image file (white is missing) or a bool array (H, W); "center" by default.
        scale: of super-resolution: pixels of a side that one pixel of the observation stands for; 2 by default.
        noise: standard deviation of the observation's noise, on images that span 2; 0.5 for denoising, else 0. Only of
            a diffusion model: another has been trained to undo one corruption.
        degraded: whether the images are degraded already, and so are the observations; by default files of a denoising
            task are, images of the run's data never. Others are degraded first, and are the truth.
        samples: restorations of each image.
        seed: of the first image, or one for each: image i is restored as it is alone with seed + i.
        label, text: conditions of the model, one for all images or one for each.
        steps: of the sampler, or sweeps of an energy model's Markov chain.
        n: how many held-out images.
        progress: called after each chunk, (done, total, description).
    Raises:
        UsageError: a task that the model does not have, an unknown mask, a scale that does not fit, an argument that
            the task or the model does not use.
    """
    model = model_of(model)
    card, spec, device = card_of(model), spec_of(model), device_of(model)
    if task not in card.restores:
        able = listed(card.restores) or f"nothing; {ABLE} do"
        close = suggest(task, list(card.restores))
        raise UsageError(f"{name_of(model)} does not restore by {task!r}.{close} It can restore: {able}.")
    samples, steps = integer(argument("samples"), samples, 1, 1000), integer(argument("steps"), steps, 1, 10_000)
    for name, value, owners in (("mask", mask, MASKED), ("scale", scale, ("super-resolution",))):
        if value is not None and task not in owners:
            raise UsageError(f"{argument(name)} is for the task {' or '.join(owners)}, not for {task}.")
    if noise is not None and "denoiser" not in verbs_of(model):
        does = "takes known pixels as they are" if task == "complete" else "undoes the corruption it learnt"
        raise UsageError(f"{argument('noise')} is for diffusion models: {name_of(model)} {does}.")
    if not isinstance(degraded, bool | None):
        raise UsageError(f"{argument('degraded')} must be True, False or None, not {degraded!r}.")
    noise_std = (0.5 if task == "denoise" else 0.0) if noise is None else number(argument("noise"), noise, least=0)
    x = batch_of(model, images, n)["x"]
    seeds = seeds_of(seed, len(x))
    operator = _operator(task, mask, scale, (spec.shape[0], spec.shape[1]), spec.channels, seeds, device)
    files = isinstance(images, str | Path) or (isinstance(images, list | tuple) and bool(images))
    names = [images] if isinstance(images, str | Path) else list(images) if files else []
    all_files = bool(names) and all(isinstance(name, str | Path) and is_file(name) for name in names)
    degraded = (task == "denoise" and all_files) if degraded is None else degraded
    rng = Noise.of_seeds([fold(value, "observation") for value in seeds], device)
    observation = _observation(model, operator, task, x, noise_std, rng, degraded)
    cond = conditions_of(model, (), label, text, len(x))
    keys = [fold(value, "restoration", j) if j else value for value in seeds for j in range(samples)]
    streams, images_of, parts = Noise.of_seeds(keys, device), torch.arange(len(x)).repeat_interleave(samples), []
    for low, high in in_chunks(spec.shape, device, len(streams)):
        index = images_of[low:high]
        of_rows = {name: _rows(value, index) for name, value in cond.items()}
        y, noises = observation[index], streams[low:high]
        parts.append(solve(model, y, operator.of_rows(index), noises, noise_std, steps, **of_rows))
        if progress:
            progress(high, len(streams), "restoring")
    restored = torch.cat(parts).unflatten(0, (len(x), samples))
    rows = {"observation": operator.image_of(observation).clamp(-1, 1)}
    rows |= {f"restored {i + 1}": restored[:, i] for i in range(samples)}
    if not degraded:
        rows["truth"] = x
    medium = medium_of(spec)
    made_by = origin(
        "restore",
        model,
        seeds,
        task=task,
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
    return Sheet({name: Images(medium.to_storage(value, spec), spec) for name, value in rows.items()}, origin=made_by)


def _operator(
    task: Task,
    mask: Any,
    scale: int | None,
    shape: tuple[int, int],
    channels: int,
    seeds: Sequence[int],
    device: torch.device,
) -> operators.Operator:
    if task in MASKED:
        return operators.inpainting(_mask("center" if mask is None else mask, shape, seeds).to(device))
    if task == "super-resolution":
        scale = integer(argument("scale"), 2 if scale is None else scale, least=2)
        if any(side % scale for side in shape):
            sides = "x".join(map(str, shape))
            raise UsageError(f"{argument('scale')} must divide the sides of the images, {sides}; {scale} does not.")
        return operators.super_resolution(scale)
    if task == "colorize":
        if channels != 3:
            raise UsageError("This model makes grey images: there is no colour to restore.")
        return operators.grey()
    return operators.identity()


def _mask(mask: Any, shape: tuple[int, int], seeds: Sequence[int]) -> Tensor:
    """(1 or B, 1, H, W), true where a pixel is known."""
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
