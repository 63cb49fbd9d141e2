"""Callbacks that look at a model while it trains: previews, the checkup of a GAN, and the doctor who reads the log."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reverie.core.card import card_of
from reverie.core.noise import Noise
from reverie.core.verbs import Model, verbs_of
from reverie.data.batches import in_order
from reverie.data.types import Dataset
from reverie.drawing import device_of, draw, training_mode_kept
from reverie.metrics.features import backbone, features
from reverie.metrics.modes import Probe
from reverie.training.callbacks import LOG, MONITOR, Callback
from reverie.training.doctor import examine
from reverie.training.loop import Loop, Step
from reverie.training.run import Run
from reverie.workflow import report

_CHECKED = 256  # images that a checkup looks at
_PROBED = 2000  # labelled images that a probe is fitted to


class Moments:
    """When to look at a training, at log points only: every so many steps, or as progress passes certain shares."""

    SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)

    def __init__(self, every: int | None = None):
        self.every, self.progress = every, 0.0

    def start(self, loop: Loop) -> None:
        self.progress = loop.plan.progress(loop.step)

    def due(self, step: Step) -> bool:
        if not step.logs:
            return False
        if self.every:
            return step.number % self.every < step.loop.options.log_every
        before, self.progress = self.progress, step.progress
        return any(before < share <= step.progress for share in self.SHARES)


class Previews(Callback):
    """``folder/STEP.png`` now and then: samples, or translations, of what the current stage can show.

    Of 64 images as many rows of eight as take 1 % of the training's time; none where one row would take more.

    Args:
        every: steps between two, whatever they cost; by default six over the run.
    """

    order = MONITOR
    SHARE, ROW = 0.01, 8

    def __init__(self, folder: Path | str, data: Dataset | None = None, every: int | None = None):
        self.folder, self.data, self.moments = Path(folder), data, Moments(every)
        self.image_seconds: float | None = None  # measured

    def start(self, loop: Loop) -> None:
        self.moments.start(loop)

    def after(self, step: Step) -> None:
        loop = step.loop
        if not self.moments.due(step) or not loop.leader:
            return
        count = report.SHEET if self.moments.every else self.count(loop, self.SHARE * _expected_seconds(loop))
        verbs = {"sample", "translate"} & set(_shown(loop))
        if not verbs or count < self.ROW:
            return
        began = time.monotonic()
        with training_mode_kept(step.best):
            report.preview(step.best, self.data, self.folder / f"{step.number:08d}.png", verbs, count)
        self.image_seconds = (time.monotonic() - began) / count

    def count(self, loop: Loop, seconds: float) -> int:
        """How many images these seconds suffice for, whole rows of at most 64: as measured, else by an estimate."""
        each = self.image_seconds
        if each is None:  # an evaluation is a third of a training step, which also goes backwards
            each = card_of(loop.model).evaluations * loop.step_seconds / loop.options.batch_size / 3
        return min(report.SHEET, int(seconds / max(each, 1e-9)) // self.ROW * self.ROW)


def _expected_seconds(loop: Loop) -> float:
    """Seconds that the training takes in all; a short one of a fixed number of steps counts as 100 s."""
    if loop.plan.clock is not None:
        return loop.plan.clock[0]
    return max(100.0, loop.step_seconds * (loop.plan.expected or 0))


def _shown(loop: Loop) -> list[str]:
    """The verbs that may be shown in the current stage: those that it names, else all in the last stage."""
    verbs, stage = verbs_of(loop.model), loop.engine.stages[loop.engine.stage]
    if stage.verbs is not None:
        return [verb for verb in verbs if verb in stage.verbs]
    return verbs if stage is loop.engine.stages[-1] else []


class Monitor(Callback):
    """The numbers of a ``Checkup``, in the log now and then."""

    order = MONITOR

    def __init__(self, data: Dataset, every: int | None = None):
        self.checkup, self.moments = Checkup(data), Moments(every)

    def start(self, loop: Loop) -> None:
        self.moments.start(loop)

    def after(self, step: Step) -> None:
        if self.moments.due(step) and step.loop.leader:
            with training_mode_kept(step.model):
                step.log(**self.checkup(step.model))


class Doctor(Callback):
    """Says and records in run.json what is wrong with a GAN's training, once for each kind of trouble."""

    order = LOG

    def __init__(self, run: Run):
        self.run = run

    def start(self, loop: Loop) -> None:
        self.lines: list[dict[str, Any]] = self.run.metrics() if loop.leader else []
        self.findings = {finding["kind"]: finding for finding in self.run.info.get("findings", [])}

    def after(self, step: Step) -> None:
        if step.line is None or not step.loop.leader:
            return
        self.lines.append(step.line)
        for finding in examine(self.lines):
            if finding.kind not in self.findings:
                self.findings[finding.kind] = asdict(finding)
                self.run.update(findings=list(self.findings.values()))
                step.loop.say(f"The doctor: {finding}")


class Checkup:
    """Numbers that a game of two players is judged by while it is played, beside its losses.

    ``overfitting`` is what the model's own ``checkup`` says of seen and unseen pictures; ``classes_covered`` the share
    of the data's classes that a linear probe finds among new samples (as ``metrics.modes``), where the card's monitors
    ask for it. Only of models that have a ``checkup``.
    """

    def __init__(self, data: Dataset):
        self.data = data
        self.probe: Any = None
        self.eye: Any = None

    @torch.no_grad()
    def __call__(self, model: Model) -> dict[str, float]:
        if "checkup" not in verbs_of(model):
            return {}
        model.eval()
        seen, unseen = (
            next(in_order(part, min(_CHECKED, len(part)), device_of(model)))
            for part in (self.data.train, self.data.held_out)
        )
        return model.checkup(seen, unseen) | (self._classes(model) if "classes" in card_of(model).monitors else {})

    def _classes(self, model: Model) -> dict[str, float]:
        labels, kinds = torch.from_numpy(np.array(self.data.train.labels)), len(self.data.classes)
        known = (labels >= 0).nonzero()[:, 0]
        if kinds < 2 or len(known) < _PROBED or self.data.spec.medium != "image":
            return {}
        if self.probe is None:
            mixed = torch.randperm(len(known), generator=torch.Generator().manual_seed(0))
            rows = known[mixed[:_PROBED]].sort().values  # not every sixth: classes may come in turn
            self.eye = backbone("small", device=str(device_of(model)))
            seen = features(np.ascontiguousarray(self.data.train["x"][rows.numpy()]), self.eye)[:]
            self.probe = Probe.fit(seen, labels[rows], kinds)
        drawn = draw(model, Noise.of_seeds(range(_CHECKED), device_of(model)))
        found = torch.bincount(self.probe.predict(self.eye(drawn).float()), minlength=kinds)
        due = torch.bincount(labels[known], minlength=kinds).double() / len(known) * _CHECKED
        return {"classes_covered": float((found >= 0.2 * due).double().mean())}
