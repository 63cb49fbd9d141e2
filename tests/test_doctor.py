"""The doctor of GANs: eight Gaussians on a ring, planted faults, and no findings in a healthy training."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from reverie.commands.know import doctor
from reverie.core import registry
from reverie.core.batch import Batch
from reverie.core.card import Output
from reverie.core.errors import UsageError
from reverie.core.noise import Noise, fold
from reverie.core.precision import pick_precision
from reverie.data.types import Dataset, Report, Split
from reverie.media.medium import to_float
from reverie.models.gans.base import GAN, Adversarial
from reverie.models.gans.generators import LatentGenerator
from reverie.optim.phase import stages_of
from reverie.training.doctor import examine
from reverie.training.run import Run
from reverie.training.step import Engine
from reverie.workflow import monitors

RING = torch.tensor([[math.cos(a), math.sin(a)] for a in torch.arange(8) * math.pi / 4]) * 0.8
WIDE = 0.02


class Pixel(nn.Module):
    """A discriminator of images of one pixel."""

    grouped = False

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, label=None, sets=1):
        return self.net(x.flatten(1))[:, 0], None


def on_the_ring(**options):
    """Points of the plane as images of one pixel and two channels; dense networks."""
    torch.manual_seed(1)

    def net(inputs, outputs):
        layers = [nn.Linear(inputs, 96), nn.LeakyReLU(0.2), nn.Linear(96, 96), nn.LeakyReLU(0.2)]
        return nn.Sequential(*layers, nn.Linear(96, outputs))

    generator = LatentGenerator(nn.Sequential(net(4, 2), nn.Unflatten(1, (2, 1, 1))), 4)
    return GAN(generator, Pixel(net(2, 1)), Output("image", (1, 1), 2), adversarial=Adversarial(**options))


class Points:
    """Batches of 128 points near the ring."""

    seed, start, rows, batch_size = 0, 0, 128, 128

    def stream(self, step, name):
        return Noise.of_step(fold(step, name), 0, 128)

    def __call__(self, step):
        rng = Noise.of_step(step + 1, 0, 128)
        real = RING[rng.integers(8)] + WIDE * rng(2)
        return Batch({"x": real[:, :, None, None]}, self.stream(step, "forward"))


def train(model, steps, **rates):
    """The log lines of a training on the ring, and points that G samples at its end."""
    fp32, lines = pick_precision("fp32", torch.device("cpu")), []
    engine = Engine(model, stages_of(model, **rates), Points(), fp32, ema=0, clip=0, warmup=0, decay="constant")
    for step in range(steps):
        metrics = engine.step(step, 0.5)
        if step % 10 == 9:
            lines.append({"step": step + 1} | {name: float(value) for name, value in metrics.items()})
    with torch.no_grad():
        return lines, model.sample(Noise.of_seeds(range(800)))[:, :, 0, 0]


def covered(points):
    """How many of the eight modes have a fortieth of the points, within six of their deviations."""
    near = torch.cdist(points, RING)
    inside = near.min(1).values < 6 * WIDE
    return int((torch.bincount(near.argmin(1)[inside], minlength=8) > len(points) / 40).sum())


def test_relativistic_pairs_with_r1_and_r2_cover_all_eight_modes_and_the_doctor_finds_nothing():
    lines, points = train(on_the_ring(loss="r3", r1=0.1, r2=0.1), 2000, lr=1e-3)
    assert covered(points) == 8
    assert examine(lines) == []


def test_a_vanilla_gan_whose_generator_learns_too_fast_collapses_and_the_doctor_sees_it():
    lines, points = train(on_the_ring(loss="non-saturating"), 500, lr=1e-2, d_lr=1e-3, beta1=0.5)
    assert covered(points) <= 2
    assert "collapse" in {finding.kind for finding in examine(lines)}


def test_where_d_is_far_ahead_minimax_leaves_nothing_to_learn_from_and_the_doctor_sees_it():
    lines, _ = train(on_the_ring(loss="minimax"), 500, lr=1e-6, d_lr=1e-2)
    assert "vanishing-gradient" in {finding.kind for finding in examine(lines)}
    others, _ = train(on_the_ring(loss="non-saturating"), 500, lr=1e-6, d_lr=1e-2)
    assert "vanishing-gradient" not in {finding.kind for finding in examine(others)}


# Planted faults


def healthy(count=60, **changes):
    """A log of a healthy training, ``changes`` planted in its later half: constants, or functions of the step."""
    lines = []
    for i in range(count):
        line = {"step": 10 * (i + 1), "D/loss": 0.9, "G/loss": 1.1, "D/gradient_norm": 0.7, "G/gradient_norm": 0.4}
        line |= {"D/sample_diversity": 0.95, "G/logit_grad": 0.6}
        line = {name: value * (1 + 0.1 * math.sin(i * (3 + len(name)))) for name, value in line.items()} | {
            "step": line["step"]
        }
        if i % 10 == 9:
            line |= {"class_coverage": 1.0, "overfitting": 0.1}
        if i >= count // 2:
            line |= {k: (v(i) if callable(v) else v) for k, v in changes.items() if k in line}
        lines.append(line)
    return lines


def test_a_healthy_log_has_no_findings():
    assert examine(healthy()) == []


@pytest.mark.parametrize(
    "kind, advice, fault",
    [
        ("collapse", "packing=2", {"D/sample_diversity": 0.05}),
        ("collapse", "loss='r3'", {"class_coverage": 0.3}),
        ("overfitting", "ada", {"overfitting": 0.9}),
        ("vanishing-gradient", "non-saturating", {"G/logit_grad": 1e-4}),
        ("divergence", "Lower lr", {"D/loss": lambda i: 10.0 * i}),
        ("divergence", "r1=1", {"G/gradient_norm": 1e3}),
    ],
)
def test_planted_faults_are_named_with_advice(kind, advice, fault):
    (finding,) = examine(healthy(**fault))
    assert finding.kind == kind and advice in finding.advice and finding.step == 600


def test_advice_does_not_name_what_is_used_already():
    (finding,) = examine([line | {"update/augment_p": 0.2} for line in healthy(overfitting=1.9)])
    assert (
        "below those of fakes" in finding.message
        and "probability is 0.2" in finding.message
        and "d_augment" not in finding.advice
        and "flip" in finding.advice
    )


def test_a_translator_that_collapses_gets_advice_of_its_own():
    """It has no penalties, packs or relativistic loss to try."""
    lines = [{k: v for k, v in line.items() if k != "G/logit_grad"} for line in healthy(**{"D/sample_diversity": 0.01})]
    (finding,) = examine(lines)
    assert finding.kind == "collapse" and "loss" not in finding.advice and "batches" in finding.advice


def test_outliers_and_the_start_are_no_problems():
    lines = healthy()
    lines[-1] |= {"D/sample_diversity": 0.0, "G/logit_grad": 0.0, "D/loss": 1e6, "overfitting": 1.0}
    assert examine(lines) == []
    assert examine(healthy(20, **{"D/sample_diversity": 0.0})) == []
    assert examine(healthy(class_coverage=lambda i: (i + 40) / 140)) == []  # few, but more every time
    assert examine([{"step": i, "loss": 1e9 * i} for i in range(100)]) == []  # no GAN


OLDER = {"D/sample_diversity": "D/spread", "G/logit_grad": "G/signal", "class_coverage": "classes_covered"}


@pytest.mark.parametrize("names", [{}, OLDER], ids=["today", "before format 3"])
def test_the_command_reads_any_run_s_log(names, tmp_path, capsys):
    run = Run.create(
        tmp_path / "run",
        {"model": {"name": "gan"}, "findings": [{"kind": "overfitting", "step": 5, "said": "x", "advice": "y"}]},
    )
    for line in healthy(**{"D/sample_diversity": 0.05}):
        run.log({names.get(key, key): value for key, value in line.items()})
    doctor(str(run.path), json=True)
    report = json.loads(capsys.readouterr().out)
    assert [finding["kind"] for finding in report["findings"]] == ["collapse"]
    assert report["past"][0]["kind"] == "overfitting" and report["past"][0]["message"] == "x"
    doctor(str(run.path))
    assert "collapse at step 600" in capsys.readouterr().out
    other = Run.create(tmp_path / "other", {"model": {"name": "gan"}})
    other.log({"step": 1, "loss": 1.0})
    with pytest.raises(UsageError, match="evaluate"):
        doctor(str(other.path))


# Checkups


def test_classes_that_a_generator_never_samples_lower_the_class_coverage(monkeypatch, draw_bars, home):
    """A generator that samples only one of two classes, and a D that recognises its training images."""
    images, labels = draw_bars(1200)
    turns = np.stack([np.flatnonzero(labels == kind)[:300] for kind in (0, 1)], 1).ravel()  # the classes in turn
    images, labels = images[turns], labels[turns]
    images[400:, 0, 0] = 77  # no held-out image equals a training image
    seen, unseen = (Split({"x": images[a:b], "label": labels[a:b]}) for a, b in ((0, 400), (400, 600)))
    data = Dataset("bars", seen.spec, ["lying", "standing"], seen, unseen, "0" * 64, Report(600))
    monkeypatch.setattr(monitors, "_PROBED", 200)
    monkeypatch.setattr(monitors, "_CHECKED", 100)
    model = registry.build("dcgan", shape=8, channels=1, width=8)
    for rows, share in ((labels == 0, 0.5), (labels >= 0, 1.0)):
        samples = to_float(images[rows])
        model.sample = lambda noise, samples=samples, **options: samples[: len(noise)]
        assert monitors.Checkup(data)(model)["class_coverage"] == share
    first = to_float(seen["x"][:100])
    model.discriminator.forward = lambda x, label=None, sets=1: (
        2.0 * (x[:, None] == first).flatten(2).all(2).any(1),
        None,
    )
    assert monitors.Checkup(data)(model)["overfitting"] == 1.0
    growing = registry.build("progan", shape=8, channels=1, width=4)  # its images are still upsampled from fewer pixels
    assert set(monitors.Checkup(data)(growing)) == {"overfitting"}
    assert monitors.Checkup(data)(registry.build("vae", shape=8, channels=1)) == {}
