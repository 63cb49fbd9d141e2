"""Few-step distillation: a student goes in one step where a trained diffusion model goes in several.

Salimans and Ho, "Progressive distillation for fast sampling of diffusion models", ICLR 2022, arXiv:2202.00512, in one
go instead of by halves. The student practises where it gets to itself: Ross et al., "A reduction of imitation learning
to no-regret online learning", AISTATS 2011, arXiv:1011.0686. Guidance goes into the student: Meng et al., CVPR 2023,
arXiv:2210.03142. Deviations are listed in docs/systems/distillation.md.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from reverie.core import registry
from reverie.core.annotations import Channels, Classes, Shape, Steps, SubRun, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Output
from reverie.core.errors import UsageError, argument
from reverie.core.noise import Noise
from reverie.core.submodel import frozen, submodel
from reverie.core.verbs import Frame, Model
from reverie.diffusion.denoiser import denoiser
from reverie.diffusion.frames import frames, last_image
from reverie.diffusion.prediction import PREDICTIONS
from reverie.diffusion.samplers import Denoise, ddim, unipc
from reverie.diffusion.schedules import AlphaSigma, Schedule
from reverie.models.diffusion.base import Diffusion
from reverie.nets.shapes import sides
from reverie.optim.muon import Muon
from reverie.optim.phase import Phase, Stage

_SHIFT, _MAX_RATIO = 2.0, 40.0  # sigma / alpha in the middle of the way, and where it may start
_HUBER = 0.03  # root mean squared error of an image below which its loss is quadratic, above linear


def levels(schedule: Schedule, steps: int) -> list[AlphaSigma]:
    """steps + 1 noise levels from noise to (1, 0), at sigma / alpha = 2 u / (1 - u) for u even from most noise to 0.

    Every m-th level of m n steps is a level of n steps.
    """
    alpha, sigma = schedule.alpha_sigma(torch.ones(1, dtype=torch.float64))
    # a network of almost pure noise knows little, and one that predicts the noise errs sigma / alpha times as much
    most = (sigma / alpha).clamp(max=_MAX_RATIO) if alpha else torch.inf
    u = torch.arange(steps, 0, -1, dtype=torch.float64) / steps / (1 + _SHIFT / most)
    alpha, sigma = schedule.alpha_sigma(schedule.t_from_ratio(_SHIFT * u / (1 - u)).clamp(max=1))
    return [*zip(alpha.tolist(), sigma.tolist(), strict=True), (1.0, 0.0)]


def target_x0(x: Tensor, end: Tensor, start: AlphaSigma, stop: AlphaSigma) -> Tensor:
    """The estimate of x0 with which one DDIM step leads from x at ``start`` to ``end`` at ``stop``.

    Of the exact path it is a mean of E[x0 | x] along the way, with weights d(alpha / sigma) that sum to 1: as much an
    image as they are.
    """
    (a, s), (b, r) = start, stop
    return (end - r / s * x) / (b - r / s * a)


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Pseudo-Huber distance of images, a mean over rows (compare Song and Dhariwal, arXiv:2310.14189)."""
    return ((x - y).square().flatten(1).mean(1) + _HUBER**2).sqrt().mean() - _HUBER


def weight(start: AlphaSigma, stop: AlphaSigma) -> float:
    """How far an error of the estimate at ``start`` moves x at ``stop``, in units of x's standard deviation there.

    Of images whose own deviation is 0.5 (Karras et al., arXiv:2206.00364). The last steps count most: what the first
    ones miss is still noise, and is seen by those that follow.
    """
    (a, s), (b, r) = start, stop
    return (b - r / s * a) / math.hypot(r, 0.5 * b)


class Distilled(nn.Module):
    """A copy of a diffusion model that samples in as many evaluations as it was distilled for.

    Args:
        teacher: the model to learn from, frozen.
        steps: in which the student samples, one evaluation of the network each.
        substeps: steps of the teacher for each of the student's.
        guidance: scale of classifier-free guidance of the teacher; 1 is none.
    """

    def __init__(self, teacher: Diffusion, steps: int = 4, substeps: int = 2, guidance: float = 1.0):
        super().__init__()
        self.teacher, self.student = teacher, copy.deepcopy(teacher)
        frozen(self.teacher)
        self.steps, self.substeps, self.guidance = steps, substeps, guidance
        self.schedule, self.latent_shape = teacher.schedule, teacher.latent_shape
        self.levels = levels(self.schedule, steps)

    @property
    def card(self) -> Card:
        spaces = {name: space for name, space in self.student.card.latents.items() if name != "noise"}
        return replace(
            self.student.card,
            latents=spaces,
            likelihoods=(),
            evaluations=self.steps,
            networks=("student.net", "teacher.net"),
            restores=(),
        )

    # Training

    def stages(self, lr: Weight = 1e-3, weight_decay: Weight = 0.0) -> list[Stage]:
        trained = nn.ModuleList([self.student.net, self.student.conditioner])
        return [Stage([Phase("distil", Muon(trained, lr, weight_decay), self.loss)], prepare=self.start_from_teacher)]

    def start_from_teacher(self, batches: Any, fresh: bool = True) -> None:
        """The student starts where its teacher is, unless another run's weights were supplied."""
        if fresh:
            self.student.load_state_dict(self.teacher.state_dict())

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        """How far from the teacher the student is at each step of its own way from pure noise, a mean by ``weight``.

        Of the batch only the conditions are used. ``last`` is the distance at the step that ends at the image.
        """
        rng = batch.rng
        cond = self.teacher.conditioner.drop(batch, rng)
        with torch.no_grad():
            teacher = self.teacher.denoiser(**cond, guidance=self.guidance)
        # not clamped: what is clamped has no gradient
        prediction = PREDICTIONS[self.student.prediction]
        student = denoiser(self.student.conditioned(**cond), self.schedule, prediction)
        x, distances = self.initial(rng), []
        for step, (start, stop) in enumerate(pairwise(self.levels)):
            x0 = student(x, *start)
            distances.append(distance(x0, target_x0(x, self.teacher_step(teacher, x, step), start, stop)))
            *_, (x, _) = ddim(lambda *_, x0=x0: self.clamp(x0.detach()), x, (start, stop))
        weights = [weight(*ends) for ends in pairwise(self.levels)]
        total = torch.stack([w * d for w, d in zip(weights, distances, strict=True)]).sum()
        return {"loss": total / sum(weights), "last": distances[-1]}

    def initial(self, noise: Noise) -> Tensor:
        """Where sampling starts: (B, *latent_shape)."""
        return noise(*self.latent_shape) * math.hypot(*self.levels[0])

    @torch.no_grad()
    def teacher_step(self, denoise: Denoise, x: Tensor, step: int) -> Tensor:
        """Where the teacher gets to from x at the student's level number ``step``, by the student's next one."""
        fine = levels(self.schedule, self.steps * self.substeps)
        *_, (end, _) = unipc(denoise, x, fine[step * self.substeps : (step + 1) * self.substeps + 1])
        return end

    def clamp(self, x0: Tensor) -> Tensor:
        """An estimate of x0 within the range of what is diffused."""
        limit = self.student.clip
        return x0 if limit is None else x0.clamp(-limit, limit)

    # Verbs

    def timesteps(self, steps: int | None = None) -> list[AlphaSigma]:
        """The noise levels that sampling visits, which distillation has fixed.

        Raises:
            UsageError: another number of steps.
        """
        if steps not in (None, self.steps):
            raise UsageError(
                f"This run was distilled to sample in {self.steps} steps, not {steps}. "
                f"For another number, distil its teacher again: reverie distill TEACHER --steps {steps}."
            )
        return self.levels

    def stream(
        self, noise: Noise, label: Tensor | None = None, text: Sequence[str] | None = None, steps: int | None = None
    ) -> Iterator[Frame]:
        """The states of ``sample``: x at each noise level and the student's estimate of x0 there.

        Args:
            steps: as many as it was distilled for, or nothing.
        Raises:
            UsageError: a condition that the model does not know, or another number of steps.
        """
        self.student.conditioner.check(label, text, 1.0)
        grid, x = self.timesteps(steps), self.initial(noise)
        yield from frames(ddim(self.student.denoiser(label, text), x, grid), x, grid, self.student.from_latent)

    def sample(self, noise: Noise, **options: Any) -> Tensor:
        """Images (B, C, H, W) from noise: see ``stream`` for conditions and errors."""
        return last_image(self.stream(noise, **options))

    def features(self, image: Tensor) -> Tensor:
        """The student's estimate of x0: see ``Diffusion.features``."""
        return self.student.features(image)

    def diffuse(self, batch: Batch, t: float) -> Tensor:
        """The teacher's training input: see ``Diffusion.diffuse``."""
        return self.student.diffuse(batch, t)


def _lack(teacher: Model) -> str:
    if isinstance(teacher, Diffusion):
        return ""
    able = registry.where(lambda entry: issubclass(entry.kind(), Diffusion))
    flows = registry.where(lambda entry: "change of variables" in entry.taxonomy)
    return f"no steps to save. Distil a diffusion model ({', '.join(able)}) or a flow ({', '.join(flows)})."


def distilled(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    teacher: Annotated[dict[str, Any] | str, SubRun()] = "",
    student_steps: Steps = 4,
    substeps: Steps = 2,
    guidance: float = 1.0,
) -> Distilled:
    """A copy of a diffusion model that samples in a few steps.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
        teacher: the run to learn from: any diffusion model, of images or of latents.
        student_steps: steps in which the student samples, one evaluation of the network each.
        substeps: steps of the teacher for each of the student's.
        guidance: scale of classifier-free guidance of the teacher, which the student learns; 1 is none.
    """
    output = Output("image", sides(shape), channels)
    model: Any = submodel(teacher, "teacher", output, "reverie distill RUN --steps 4", _lack)
    conditions = model.conditioner.conditions
    if (count := conditions.get("label", 0)) not in (0, classes):
        raise UsageError(f"The teacher knows {count} classes, and these images have {classes}: take its own data.")
    if guidance != 1 and not conditions:
        option = argument("guidance")
        raise UsageError(f"Guidance strengthens a condition, and this teacher has none. Leave {option} out.")
    return Distilled(model, student_steps, substeps, guidance)
