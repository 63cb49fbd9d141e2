"""Few-step distillation: a student goes in one step where a trained diffusion model goes in several.

Salimans and Ho, "Progressive distillation for fast sampling of diffusion models", ICLR 2022, arXiv:2202.00512, in one
go instead of by halves, and along the teacher's own paths from noise, as Luhman and Luhman, "Knowledge distillation in
iterative generative models", arXiv:2101.02388. Guidance goes into the student: Meng et al., CVPR 2023,
arXiv:2210.03142. Deviations are listed in docs/systems/distillation.md.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reverie import registry
from reverie.diffusion import grids, samplers
from reverie.diffusion.denoiser import denoiser
from reverie.diffusion.prediction import PREDICTIONS
from reverie.diffusion.samplers import Denoise
from reverie.diffusion.schedules import Pair
from reverie.errors import UsageError
from reverie.models.diffusion import Diffusion
from reverie.noise import Noise
from reverie.training.phase import Phase, adamw
from reverie.verbs import Batch

_NULL_RATE = 0.1  # how often the condition is hidden, so that the student too knows the null condition


def aim(x: Tensor, end: Tensor, start: Pair, stop: Pair) -> Tensor:
    """The estimate of x0 with which one DDIM step leads from x at ``start`` to ``end`` at ``stop``.

    Of the exact path it is a mean of E[x0 | x] along the way, with weights d(alpha / sigma) that sum to 1: as much a
    picture as they are.
    """
    (a, s), (b, r) = start, stop
    return (end - r / s * x) / (b - r / s * a)


def borrowed(teacher: Any, size: int, channels: int, classes: int) -> Diffusion:
    """The diffusion model of another run, its weights still to be filled in.

    Args:
        teacher: {"name", "kwargs", "run"} of that run.
    Raises:
        UsageError: no run, one that does not diffuse, or one of other pictures.
    """
    if not isinstance(teacher, dict):
        raise UsageError("A student needs a teacher, a trained diffusion run: reverie distill RUN --steps 4.")
    who = f"The teacher {teacher.get('run') or teacher['name']}"
    made = registry.build(teacher["name"], **teacher["kwargs"])
    if not isinstance(made, Diffusion):
        known = [name for name, one in registry.MODELS.items() if issubclass(one.load(), Diffusion)]
        raise UsageError(
            f"{who} is a run of {teacher['name']}, which has no steps to save. Distil one of: {', '.join(known)}."
        )
    if (made.size, made.channels) != (size, channels):
        raise UsageError(
            f"{who} draws pictures of {made.size}x{made.size}x{made.channels}, and these are {size}x{size}x{channels}. "
            "Leave --data and --size out to use its own."
        )
    if made.classes not in (0, classes):
        raise UsageError(f"{who} knows {made.classes} classes, and these pictures have {classes}. Leave --data out.")
    return made


class Distilled(nn.Module):
    """A copy of a diffusion model that draws in as many evaluations as it was distilled for, no more and no fewer.

    Args:
        size: side of the pictures in pixels.
        channels: 1 or 3.
        classes: number of classes in the data.
        teacher: the run to learn from: any diffusion model, of pictures or of codes.
        evaluations: steps in which the student draws, one evaluation of the network each.
        substeps: steps of the teacher for each of the student's.
        solver: with which the teacher takes them.
        guidance: scale of classifier-free guidance that the student learns to draw with; 1 is none.

    Attributes:
        student: a model of the teacher's kind, whose own plan is now the short one.
    """

    sampler, grid = "ddim", "uniform"

    def __init__(
        self,
        size: int,
        channels: int,
        classes: int = 0,
        teacher: dict[str, Any] | str = "",
        evaluations: int = 4,
        substeps: int = 4,
        solver: Literal["unipc", "dpm++2m", "ddim", "heun"] = "unipc",
        guidance: float = 1.0,
    ):
        super().__init__()
        if evaluations < 1 or substeps < 1:
            raise UsageError(f"At least 1 step and 1 substep are needed, not {evaluations} and {substeps}.")
        self.teacher = borrowed(teacher, size, channels, classes)
        self.classes, self.texts = self.teacher.classes, self.teacher.texts
        if guidance != 1 and not (self.classes or self.texts):
            raise UsageError("Guidance strengthens a condition, and this teacher knows none. Leave --guidance out.")
        if solver not in samplers.SAMPLERS:
            raise UsageError(f"solver is 'unipc', 'dpm++2m', 'ddim' or 'heun', not {solver!r}.")
        self.size, self.channels, self.code_shape = size, channels, self.teacher.code_shape
        self.evaluations, self.substeps, self.solver, self.guidance = evaluations, substeps, solver, guidance
        self.schedule = self.teacher.schedule
        self.student = copy.deepcopy(self.teacher)
        self.teacher.requires_grad_(False)
        self.student.sampler, self.student.grid, self.student.evaluations = self.sampler, self.grid, evaluations

    # Learning

    def phases(self, lr: float = 1e-3, weight_decay: float = 0.0) -> list[Phase]:
        """The student starts where its teacher is; a checkpoint that is put back later overrides that."""
        self.student.load_state_dict(self.teacher.state_dict())
        own = nn.ModuleList(part for part in (self.student.net, self.student.text_encoder) if part is not None)
        return [Phase("distil", adamw(own.parameters(), lr, weight_decay), self.loss)]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Squared error of what the student says at each of its steps, along the teacher's paths from pure noise.

        Of the batch only the conditions are used. ``last`` is the error of the step that ends at the picture.
        """
        rng = batch["rng"]
        label, text = self.teacher.hide(batch, rng.bernoulli(_NULL_RATE))
        with torch.no_grad():
            stops = self.path(rng, self.teacher.denoiser(label, text, self.guidance))
        # as it comes, not clamped: what is clamped has no gradient
        says = denoiser(self.student.bind(label, text), self.schedule, PREDICTIONS[self.student.prediction])
        errors = []
        for (x, start), (end, stop) in pairwise(zip(stops, self.pairs, strict=True)):
            errors.append((says(x, *start) - aim(x, end, start, stop)).square().mean())
        return {"loss": torch.stack(errors).mean(), "last": errors[-1]}

    @property
    def pairs(self) -> list[Pair]:
        """Where the student stops, noise first."""
        return self.student.plan()[1]

    def path(self, noise: Noise, denoise: Denoise) -> list[Tensor]:
        """Where the teacher is at each of the student's stops, evaluations + 1 of them, each (B, *code_shape)."""
        fine = grids.GRIDS[self.grid](self.schedule, self.evaluations * self.substeps)
        x = noise(*self.code_shape) * (fine[0][0] ** 2 + fine[0][1] ** 2) ** 0.5
        steps = [y for y, _ in samplers.SAMPLERS[self.solver](denoise, x, fine, None)]
        return [x, *steps[self.substeps - 1 :: self.substeps]]

    # Verbs

    def plan(
        self, sampler: str | None = None, steps: int | None = None, grid: str | None = None
    ) -> tuple[str, list[Pair]]:
        """The sampler's name and its stops, which distillation has fixed.

        Raises:
            UsageError: another number of steps.
        """
        if steps not in (None, self.evaluations):
            raise UsageError(
                f"This run was distilled to draw in {self.evaluations} steps, not {steps}. "
                f"For another number, distil its teacher again: reverie distill TEACHER --steps {steps}."
            )
        return self.student.plan()

    def trajectory(
        self, noise: Noise, label: Tensor | None = None, text: Sequence[str] | None = None, steps: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """What ``sample`` goes through: after each step x_t and what the student said, both (B, *code_shape).

        Raises:
            UsageError: a condition that the model does not know, or another number of steps.
        """
        self.plan(steps=steps)
        return self.student.trajectory(noise, label, text)

    def sample(
        self, noise: Noise, label: Tensor | None = None, text: Sequence[str] | None = None, steps: int | None = None
    ) -> Tensor:
        """Pictures (B, C, H, W) from noise: see ``trajectory`` for conditions and errors."""
        self.plan(steps=steps)
        return self.student.sample(noise, label=label, text=text)

    def codes(self, batch: Batch) -> Tensor:
        """What is diffused: the pictures themselves, or a codec's codes of them."""
        return self.student.codes(batch)

    def picture(self, x: Tensor) -> Tensor:
        """Of what is diffused the picture (B, C, H, W)."""
        student: Any = self.student
        return student.picture(x) if hasattr(student, "picture") else x
