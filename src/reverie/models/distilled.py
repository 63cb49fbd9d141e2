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

from reverie import registry
from reverie.core.batch import Batch
from reverie.core.card import Card
from reverie.core.errors import UsageError
from reverie.core.frozen import frozen
from reverie.core.noise import Noise
from reverie.core.options import SubRun
from reverie.core.verbs import Frame, Model
from reverie.diffusion.denoiser import denoiser
from reverie.diffusion.frames import frames, last_image
from reverie.diffusion.prediction import PREDICTIONS
from reverie.diffusion.samplers import Denoise, ddim, unipc
from reverie.diffusion.schedules import Pair, Schedule
from reverie.models.diffusion import Diffusion
from reverie.models.teacher import borrowed
from reverie.nets.shapes import Sides, sides
from reverie.optim.muon import Muon
from reverie.optim.phase import Phase, Stage

_NULL_RATE = 0.1  # how often the condition is hidden, so that the student too knows the null condition
_SHIFT, _MOST = 2.0, 40.0  # sigma / alpha in the middle of the way, and where it may start
_SOFT = 0.03  # root mean squared error of a picture below which its loss is quadratic, above linear


def stops(schedule: Schedule, steps: int) -> list[Pair]:
    """steps + 1 pairs from noise to (1, 0), at sigma / alpha = 2 u / (1 - u) for u even from most noise to 0.

    Every m-th stop of m n steps is a stop of n steps.
    """
    alpha, sigma = schedule.pair(torch.ones(1, dtype=torch.float64))
    # a network of almost pure noise says little, and one that names the noise errs sigma / alpha times as much
    most = (sigma / alpha).clamp(max=_MOST) if alpha else torch.inf
    u = torch.arange(steps, 0, -1, dtype=torch.float64) / steps / (1 + _SHIFT / most)
    alpha, sigma = schedule.pair(schedule.time(_SHIFT * u / (1 - u)).clamp(max=1))
    return [*zip(alpha.tolist(), sigma.tolist(), strict=True), (1.0, 0.0)]


def aim(x: Tensor, end: Tensor, start: Pair, stop: Pair) -> Tensor:
    """The estimate of x0 with which one DDIM step leads from x at ``start`` to ``end`` at ``stop``.

    Of the exact path it is a mean of E[x0 | x] along the way, with weights d(alpha / sigma) that sum to 1: as much a
    picture as they are.
    """
    (a, s), (b, r) = start, stop
    return (end - r / s * x) / (b - r / s * a)


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Pseudo-Huber distance of pictures, a mean over rows (compare Song and Dhariwal, arXiv:2310.14189)."""
    return ((x - y).square().flatten(1).mean(1) + _SOFT**2).sqrt().mean() - _SOFT


def weight(start: Pair, stop: Pair) -> float:
    """How far an error of the estimate at ``start`` moves x at ``stop``, in units of x's standard deviation there.

    Of pictures whose own deviation is 0.5 (Karras et al., arXiv:2206.00364). The last steps count most: what the first
    ones miss is still noise, and is seen by those that follow.
    """
    (a, s), (b, r) = start, stop
    return (b - r / s * a) / math.hypot(r, 0.5 * b)


def _lack(teacher: Model) -> str:
    if isinstance(teacher, Diffusion):
        return ""
    known = registry.where(lambda entry: issubclass(entry.kind(), Diffusion))
    return f"no steps to save. Distil one of: {', '.join(known)}."


class Distilled(nn.Module):
    """A copy of a diffusion model that draws in as many evaluations as it was distilled for, no more and no fewer.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1 or 3.
        classes: number of classes in the data.
        teacher: the run to learn from: any diffusion model, of pictures or of codes.
        evaluations: steps in which the student draws, one evaluation of the network each.
        substeps: steps of the teacher for each of the student's.
        guidance: scale of classifier-free guidance that the student learns to draw with; 1 is none.
    """

    def __init__(
        self,
        shape: Sides,
        channels: int,
        classes: int = 0,
        teacher: Annotated[dict[str, Any] | str, SubRun()] = "",
        evaluations: int = 4,
        substeps: int = 2,
        guidance: float = 1.0,
    ):
        super().__init__()
        if evaluations < 1 or substeps < 1:
            raise UsageError(f"At least 1 step and 1 substep are needed, not {evaluations} and {substeps}.")
        self.teacher = borrowed(teacher, sides(shape), channels, "reverie distill RUN --steps 4", _lack)
        if (known := self.teacher.classes) not in (0, classes):
            raise UsageError(f"The teacher knows {known} classes, and these pictures have {classes}. Leave --data out.")
        self.classes, self.texts = self.teacher.classes, self.teacher.texts
        if guidance != 1 and not (self.classes or self.texts):
            raise UsageError("Guidance strengthens a condition, and this teacher knows none. Leave --guidance out.")
        self.student = copy.deepcopy(self.teacher)
        frozen(self.teacher)
        self.shape, self.channels, self.code_shape = sides(shape), channels, self.teacher.code_shape
        self.evaluations, self.substeps, self.guidance = evaluations, substeps, guidance
        self.schedule = self.teacher.schedule
        self.pairs = stops(self.schedule, evaluations)

    @property
    def card(self) -> Card:
        networks = ("student.net", "teacher.net")
        return replace(self.student.card, likelihoods=(), evaluations=self.evaluations, networks=networks)

    # Learning

    def stages(self, lr: float = 1e-3, weight_decay: float = 0.0) -> list[Stage]:
        own = nn.ModuleList(part for part in (self.student.net, self.student.text_encoder) if part is not None)
        return [Stage([Phase("distil", Muon(own, lr, weight_decay), self.loss)], prepare=self.start_from_teacher)]

    def start_from_teacher(self, batches: Any, fresh: bool = True) -> None:
        """The student starts where its teacher is, unless another run's weights were supplied."""
        if fresh:
            self.student.load_state_dict(self.teacher.state_dict())

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        """How far from the teacher the student is at each step of its own way from pure noise, a mean by ``weight``.

        Of the batch only the conditions are used. ``last`` is the distance at the step that ends at the picture.
        """
        rng = batch.rng
        label, text = self.teacher.hide(batch, rng.bernoulli(_NULL_RATE))
        with torch.no_grad():
            shows = self.teacher.denoiser(label, text, self.guidance)
        # as it comes, not clamped: what is clamped has no gradient
        says = denoiser(self.student.bind(label, text), self.schedule, PREDICTIONS[self.student.prediction])
        x, distances = self.noised(rng), []
        for place, (start, stop) in enumerate(pairwise(self.pairs)):
            said = says(x, *start)
            distances.append(distance(said, aim(x, self.shown(shows, x, place), start, stop)))
            *_, (x, _) = ddim(lambda *_, said=said: self.clamp(said.detach()), x, (start, stop))
        weights = [weight(*ends) for ends in pairwise(self.pairs)]
        total = torch.stack([w * d for w, d in zip(weights, distances, strict=True)]).sum()
        return {"loss": total / sum(weights), "last": distances[-1]}

    def noised(self, noise: Noise) -> Tensor:
        """Where drawing starts: (B, *code_shape)."""
        alpha, sigma = self.pairs[0]
        return noise(*self.code_shape) * (alpha**2 + sigma**2) ** 0.5

    @torch.no_grad()
    def shown(self, denoise: Denoise, x: Tensor, place: int) -> Tensor:
        """Where the teacher gets to from x at the student's stop number ``place``, by the student's next one."""
        fine = stops(self.schedule, self.evaluations * self.substeps)
        *_, (end, _) = unipc(denoise, x, fine[place * self.substeps : (place + 1) * self.substeps + 1])
        return end

    def clamp(self, x0: Tensor) -> Tensor:
        """An estimate of x0 within the range of what is diffused."""
        limit = self.student.range
        return x0 if limit is None else x0.clamp(-limit, limit)

    # Verbs

    def plan(self, steps: int | None = None) -> tuple[str, list[Pair]]:
        """The sampler's name and its stops, which distillation has fixed.

        Raises:
            UsageError: another number of steps.
        """
        if steps not in (None, self.evaluations):
            raise UsageError(
                f"This run was distilled to draw in {self.evaluations} steps, not {steps}. "
                f"For another number, distil its teacher again: reverie distill TEACHER --steps {steps}."
            )
        return "ddim", self.pairs

    def stream(
        self, noise: Noise, label: Tensor | None = None, text: Sequence[str] | None = None, steps: int | None = None
    ) -> Iterator[Frame]:
        """What ``sample`` goes through: x at each stop and the student's estimate of x0 there.

        Args:
            steps: as many as it was distilled for, or nothing.
        Raises:
            UsageError: a condition that the model does not know, or another number of steps.
        """
        self.student.check(label, text, 1.0)
        _, pairs = self.plan(steps)
        x = self.noised(noise)
        yield from frames(ddim(self.student.denoiser(label, text), x, pairs), x, pairs, self.student.picture)

    def sample(self, noise: Noise, **options: Any) -> Tensor:
        """Images (B, C, H, W) from noise: see ``stream`` for conditions and errors."""
        return last_image(self.stream(noise, **options))

    def codes(self, batch: Batch) -> Tensor:
        """What is diffused: the pictures themselves, or a codec's codes of them."""
        return self.student.codes(batch)

    def diffuse(self, batch: Batch, t: float) -> Tensor:
        """What the teacher saw in training: see ``Diffusion.diffuse``."""
        return self.student.diffuse(batch, t)
