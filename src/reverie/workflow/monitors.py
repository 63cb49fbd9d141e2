"""Callbacks that monitor training: previews, GAN diagnostics, and the doctor's findings from the log."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reverie.core.card import card_of, name_of
from reverie.core.noise import Noise
from reverie.core.verbs import Model, verbs_of
from reverie.data.batches import in_order
from reverie.data.types import Dataset
from reverie.evaluation.features import backbone, features
from reverie.evaluation.modes import Probe
from reverie.inference.rows import device_of, draw, training_mode_kept
from reverie.media import montage
from reverie.training.callbacks import LOG, MONITOR, Callback
from reverie.training.doctor import examine
from reverie.training.loop import Loop, Step
from reverie.training.run import Run
from reverie.views import SHEET
from reverie.workflow.artifacts import preview_of

_CHECKED = 256  # images per diagnosis
_PROBED = 2000  # labelled images to fit the probe


class Moments:
    """The log points at which a monitor runs: every ``every`` steps, or as progress passes certain shares."""

    SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)

    def __init__(self, every: int | None = None):
        self.every = every
        self.progress: float | None = None  # of the last log point

    def start(self, loop: Loop) -> None:
        if self.progress is None:
            self.progress = loop.plan.progress(loop.step)

    def due(self, step: Step) -> bool:
        if not step.logs:
            return False
        if self.every:
            return step.number % self.every < step.loop.options.log_every
        before, self.progress = self.progress, step.progress
        return any((before or 0.0) < share <= step.progress for share in self.SHARES)


class Previews(Callback):
    """Write ``folder/STEP.png``: samples or translations, if the current stage supports them.

    Up to 64 images: as many rows of eight as fit into 1 % of the training's time, none if a row takes longer.

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

    def state(self) -> float | None:
        return self.moments.progress

    def load_state(self, state: float) -> None:
        self.moments.progress = state

    def after(self, step: Step) -> None:
        loop = step.loop
        if not self.moments.due(step) or not loop.leader:
            return
        count = SHEET if self.moments.every else self.count(loop, self.SHARE * _expected_seconds(loop))
        view = preview_of(step.best, self.data, set(_shown(loop)))
        if view is None or count < self.ROW:
            return
        began = time.monotonic()
        with training_mode_kept(step.best):
            image = view.render(step.best, self.data, min(count, view.count))
            origin = {"verb": "train", "run": self.folder.parent.name, "model": name_of(step.best), "step": step.number}
            montage.save(self.folder / f"{step.number:08d}.png", image, origin)
        self.image_seconds = (time.monotonic() - began) / count

    def count(self, loop: Loop, seconds: float) -> int:
        """Number of images (full rows, at most 64) that fit into these seconds, by measured or estimated speed."""
        each = self.image_seconds
        if each is None:  # a forward pass takes about a third of a training step
            each = card_of(loop.model).evaluations * loop.step_seconds / loop.options.batch_size / 3
        return min(SHEET, int(seconds / max(each, 1e-9)) // self.ROW * self.ROW)


def _expected_seconds(loop: Loop) -> float:
    """Expected seconds of training; at least 100 for a fixed number of steps."""
    if loop.plan.clock is not None:
        return loop.plan.clock[0]
    return max(100.0, loop.step_seconds * (loop.plan.expected or 0))


def _shown(loop: Loop) -> list[str]:
    """The verbs that previews can use in the current stage: those that it lists; by default all in the last stage."""
    verbs, stage = verbs_of(loop.model), loop.engine.stages[loop.engine.stage]
    if stage.verbs is not None:
        return [verb for verb in verbs if verb in stage.verbs]
    return verbs if stage is loop.engine.stages[-1] else []


class Monitor(Callback):
    """Log the diagnostics of ``Checkup``."""

    order = MONITOR

    def __init__(self, data: Dataset, every: int | None = None):
        self.checkup, self.moments = Checkup(data), Moments(every)

    def start(self, loop: Loop) -> None:
        self.moments.start(loop)

    def state(self) -> float | None:
        return self.moments.progress

    def load_state(self, state: float) -> None:
        self.moments.progress = state

    def after(self, step: Step) -> None:
        if self.moments.due(step) and step.loop.leader:
            with training_mode_kept(step.model):
                step.log(**self.checkup(step.model))


class Doctor(Callback):
    """Print problems of a GAN's training and record them in run.json, once per kind."""

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
    """Diagnostics of models with the verb ``diagnostics``, such as GANs, in training.

    These are the verb's numbers on training and held-out images and, if the card's monitors list "classes",
    ``class_coverage``: the share of the data's classes that a linear probe detects among samples
    (``evaluation.modes``).
    """

    def __init__(self, data: Dataset):
        self.data = data
        self.probe: Any = None
        self.encoder: Any = None

    @torch.no_grad()
    def __call__(self, model: Model) -> dict[str, float]:
        if "diagnostics" not in verbs_of(model):
            return {}
        model.eval()
        parts = [part for part in (self.data.train, self.data.held_out) if len(part)]
        batches = [next(in_order(part, min(_CHECKED, len(part)), device_of(model))) for part in parts]
        measured = model.diagnostics(*batches) if len(batches) == 2 else {}
        return measured | (self._classes(model) if "classes" in card_of(model).monitors else {})

    def _classes(self, model: Model) -> dict[str, float]:
        labels, kinds = torch.from_numpy(np.array(self.data.train.labels)), len(self.data.classes)
        labelled = (labels >= 0).nonzero()[:, 0]
        if kinds < 2 or len(labelled) < _PROBED or self.data.spec.medium != "image":
            return {}
        if self.probe is None:
            mixed = torch.randperm(len(labelled), generator=torch.Generator().manual_seed(0))
            rows = labelled[mixed[:_PROBED]].sort().values  # random, because the data may be ordered by class
            self.encoder = backbone("small", device=str(device_of(model)))
            seen = features(np.ascontiguousarray(self.data.train["x"][rows.numpy()]), self.encoder)[:]
            self.probe = Probe.fit(seen, labels[rows], kinds)
        samples = draw(model, Noise.of_seeds(range(_CHECKED), device_of(model)), spec=self.data.spec)
        counts = torch.bincount(self.probe.predict(self.encoder(samples).float()), minlength=kinds)
        expected = torch.bincount(labels[labelled], minlength=kinds).double() / len(labelled) * _CHECKED
        return {"class_coverage": float((counts >= 0.2 * expected).double().mean())}
