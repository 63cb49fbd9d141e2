"""Restoration of named images: all at once, or as it appears."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.core.card import name_of
from reverie.core.errors import UsageError
from reverie.core.verbs import Frame
from reverie.inference.conditions import Labels, Texts
from reverie.inference.load import Source, spec_of
from reverie.inference.rows import in_chunks, training_mode_kept
from reverie.inference.sampling import check_memory
from reverie.media import medium_of
from reverie.media.images import Images, Sheet
from reverie.restoration.operators import Operator
from reverie.restoration.problems import Problem, Task, prepare
from reverie.restoration.solvers import in_steps, restoring
from reverie.restoration.solvers import restore as solve
from reverie.training.progress import shows_progress
from reverie.views.denoising import save_frames


@shows_progress
def restore(
    model: Source,
    images: Any = None,
    task: Task | None = None,
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
        task: "denoise", "inpaint", "complete" (by an energy or autoregressive model or one of tokens),
            "super-resolution" or "colorize"; by default the first that the model has.
        mask: of inpainting and completion, what is missing: "left-half", "right-half", "top-half", "bottom-half",
            "center", "random:0.5", "data" (what the mask of each image of the run's data marks), an image file (white
            is missing) or a bool array (H, W); by default "center", or "bottom-half" of a model that draws row by row,
            which ignores known pixels after missing ones.
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
    problem = prepare(model, images, task, mask, scale, noise, degraded, samples, seed, label, text, steps, n)
    spec, parts, total = spec_of(problem.model), [], len(problem.streams)
    for low, high in in_chunks(spec.shape, problem.streams.device, total):
        arguments, options = problem.arguments(low, high)
        parts.append(solve(*arguments, **options))
        if progress:
            progress(high, total, "restoring")
    return _sheet(problem, torch.cat(parts))


def restore_stream(
    model: Source,
    images: Any = None,
    task: Task | None = None,
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
) -> Iterator[Frame]:
    """The states of ``restore``, from the observations to the restorations; ``frame.render()["image"]`` are images.

    An autoregressive model draws row after row, an energy model shows each sweep, one of tokens each step. Of a
    diffusion model it is the estimate of each step.

    Args:
        others: as for ``restore``; ``samples`` restorations of the first image come first.
    Raises:
        UsageError: as for ``restore``, or a model that restores in one pass.
    """
    return _states(prepare(model, images, task, mask, scale, noise, degraded, samples, seed, label, text, steps, n))


def save_restoration(path: Path, model: Source, **arguments: Any) -> int:
    """Write the states of ``restore`` as a film or a strip, as the ending says; returns the number of frames.

    Args:
        arguments: of ``restore``, all but ``progress``.
    """
    problem = prepare(model, **arguments)
    columns = problem.samples if problem.samples > 1 else min(8, len(problem.streams))
    return save_frames(path, _states(problem), problem.origin | {"stream": True}, columns)


def _states(problem: Problem) -> Iterator[Frame]:
    if not in_steps(problem.model):
        raise UsageError(f"{name_of(problem.model)} restores in one pass: there are no states to show.")
    check_memory(problem.model, len(problem.streams), copies=8)  # float32, and some of them
    return _frames(problem)


@torch.no_grad()  # which is off while the generator waits
def _frames(problem: Problem) -> Iterator[Frame]:
    arguments, options = problem.arguments(0, len(problem.streams))
    _, observation, operator, _ = arguments
    yield Frame(0.0, {"observation": observation}, partial(_shown, operator, observation))
    with training_mode_kept(problem.model):
        problem.model.eval()
        for frame in restoring(*arguments, **options):
            yield replace(frame, render=torch.no_grad()(frame.render))


def _shown(operator: Operator, observation: Tensor) -> dict[str, Tensor]:
    return {"image": operator.image_of(observation).clamp(-1, 1)}


def _sheet(problem: Problem, restored: Tensor) -> Sheet:
    restored = restored.unflatten(0, (len(problem.x), problem.samples))
    rows = {"observation": _shown(problem.operator, problem.observation)["image"]}
    rows |= {f"restored {i + 1}": restored[:, i] for i in range(problem.samples)}
    if not problem.degraded:
        rows["truth"] = problem.x
    spec = spec_of(problem.model)
    to_storage = medium_of(spec).to_storage
    return Sheet({name: Images(to_storage(value, spec), spec) for name, value in rows.items()}, origin=problem.origin)
