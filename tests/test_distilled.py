"""Distillation against Gaussians, whose denoiser and whose paths from noise are known in closed form."""

from __future__ import annotations

import json
import math
import shutil
from itertools import pairwise

import pytest
import torch
import tyro
from torch import nn

import reverie as rv
from reverie.commands.distill import distill
from reverie.core import registry
from reverie.core.batch import Batch
from reverie.core.errors import ReverieError, UsageError
from reverie.core.noise import Noise
from reverie.diffusion.samplers import ddim
from reverie.diffusion.schedules import Cosine, Karras, Linear, RectifiedFlow
from reverie.models.diffusion.distilled import levels, target_x0, weight
from reverie.training.checkpoint import load_checkpoint, newest_whole
from reverie.workflow.train import train

MEANS = torch.tensor([0.3, -0.2, 0.1])  # of class 0, of class 1, of any class
VARIANCE = 0.04
TEACHERS = {  # every scaling: rectified flow, variance-preserving, variance-exploding
    "flow-matching": {},
    "ddpm": {"prediction": "v"},
    "edm": {},
}


def config(name="flow-matching", **options):
    """A teacher as a run would name it."""
    kwargs = {"shape": 8, "channels": 1, "classes": 2, "width": 8} | TEACHERS.get(name, {}) | options
    return {"name": name, "kwargs": kwargs, "run": "runs/teacher"}


def exact_denoiser(label=None, text=None, guidance=1.0):
    """Stands in for a diffusion model's ``denoiser``: that of N(mean, VARIANCE), with a mean for each class."""
    mean = torch.lerp(MEANS[2:], MEANS[2:] if label is None else MEANS[label], guidance)[:, None, None, None]

    def denoise(x, alpha, sigma):
        return mean + alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * (x - alpha * mean)

    return denoise


def exact_end(x, start, end, mean):
    """Where the probability-flow ODE of N(mean, VARIANCE) leads from x."""
    (a, s), (b, r) = start, end
    return b * mean + ((b**2 * VARIANCE + r**2) / (a**2 * VARIANCE + s**2)) ** 0.5 * (x - a * mean)


def student_of(teacher, **options):
    return registry.build("distilled", shape=8, channels=1, classes=2, teacher=teacher, **options)


def with_exact_teacher(name="flow-matching", **options):
    model = student_of(config(name, conditional="label"), **options)
    model.teacher.denoiser = exact_denoiser
    return model


def batch_of(rows=6, **more):
    return Batch({"x": torch.zeros(rows, 1, 8, 8)} | more, Noise.of_step(3, 0, rows))


# The loss


@pytest.mark.parametrize("start, stop", [((0.6, 0.8), (0.8, 0.6)), ((1.0, 5.0), (1.0, 0.5)), ((0.7, 0.3), (1.0, 0.0))])
def test_an_estimate_counts_by_how_far_its_error_moves_the_next_x(start, stop):
    x, x0 = torch.randn(2, 1, 2, 2).double(), torch.randn(2, 1, 2, 2).double()
    ends = [list(ddim(lambda *_, x0=x0 + error: x0, x, (start, stop)))[-1][0] for error in (0.0, 1.0)]
    deviation = math.hypot(stop[1], 0.5 * stop[0])
    torch.testing.assert_close(ends[1] - ends[0], torch.full_like(x, weight(start, stop) * deviation))


@pytest.mark.parametrize(
    "start, stop", [((0.0, 1.0), (0.25, 0.75)), ((0.6, 0.8), (0.8, 0.6)), ((1.0, 5.0), (1.0, 0.5))]
)
def test_the_target_is_the_mean_of_the_exact_estimates_along_the_way(start, stop):
    """By quadrature in alpha / sigma, in a rectified-flow, a variance-preserving and a variance-exploding pair."""
    mean, x = MEANS[:1].double(), torch.tensor([0.7], dtype=torch.float64)
    levels = torch.linspace(start[0] / start[1], stop[0] / stop[1], 20001, dtype=torch.float64)
    x = x * math.hypot(*start)
    unit = 1 / (1 + levels**2).sqrt()  # sigma of the variance-preserving pair of each level
    along = exact_end(x / math.hypot(*start), [v / math.hypot(*start) for v in start], (levels * unit, unit), mean)
    alpha = levels * unit
    estimates = mean + alpha * VARIANCE / (alpha**2 * VARIANCE + unit**2) * (along - alpha * mean)
    expected = torch.trapezoid(estimates, levels) / (levels[-1] - levels[0])
    assert torch.allclose(target_x0(x, exact_end(x, start, stop, mean), start, stop), expected, atol=1e-8)


@pytest.mark.parametrize("start, stop", [((0.0, 1.0), (0.3, 0.7)), ((0.6, 0.8), (0.8, 0.6)), ((1.0, 0.5), (1.0, 0.0))])
def test_a_ddim_step_with_the_target_ends_where_the_teacher_is(start, stop):
    x, end = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ((landed, _),) = ddim(lambda *_: target_x0(x, end, start, stop), x, [start, stop])
    assert torch.allclose(landed, end, atol=1e-12)


def teacher_path(model, rows, label):
    """Where the teacher gets to from noise, segment by segment."""
    states = [model.initial(Noise.of_seeds(range(rows)))]
    denoise = model.teacher.denoiser(label, guidance=model.guidance)
    for step in range(model.steps):
        states.append(model.teacher_step(denoise, states[-1], step))
    return states


@pytest.mark.parametrize("name", TEACHERS)
def test_the_teacher_goes_to_where_the_exact_flow_leads(name):
    model = with_exact_teacher(name, student_steps=3, substeps=80)
    label = torch.tensor([0, 1, -1, 0])
    path = teacher_path(model, 4, label)
    assert len(path) == len(model.levels) == 4 and model.levels[-1] == (1.0, 0.0)
    for x, stop in zip(path, model.levels, strict=True):
        expected = exact_end(path[0], model.levels[0], stop, MEANS[label][:, None, None, None])
        assert torch.allclose(x, expected, atol=2e-3 * math.hypot(*stop)), (stop, (x - expected).abs().max())


def test_the_teacher_is_guided():
    """Between Gaussians of one variance the guided denoiser is that of a Gaussian with the extrapolated mean."""
    model = with_exact_teacher(guidance=3.0, substeps=80)
    label = torch.tensor([0, 1])
    start, *_, end = teacher_path(model, 2, label)
    guided = (MEANS[2] + 3 * (MEANS[label] - MEANS[2]))[:, None, None, None]
    assert torch.allclose(end, exact_end(start, model.levels[0], (1.0, 0.0), guided), atol=2e-3)


@pytest.mark.parametrize(
    "schedule", [RectifiedFlow(), Cosine(1000), Linear(1000), Karras()], ids=lambda s: type(s).__name__
)
def test_noise_levels_are_nested_and_have_the_ratios_that_they_promise(schedule):
    few, many = levels(schedule, 4), levels(schedule, 12)
    assert [tuple(pair) for pair in many[::3]] == [pytest.approx(pair) for pair in few]
    if isinstance(schedule, RectifiedFlow):
        assert few[0] == (0, 1) and [s / a for a, s in few[1:]] == [pytest.approx(k) for k in (6, 2, 2 / 3, 0)]
    else:
        assert 39 < few[0][1] / few[0][0] < 41 and few[2][1] / few[2][0] == pytest.approx(2, rel=0.1)
    assert all(s / a > r / b for (a, s), (b, r) in pairwise(many[1:]))


class Solved(nn.Module):
    """Stands in for the student's network and predicts x0: at each level what leads along the exact flow."""

    def __init__(self, levels):
        super().__init__()
        self.levels = levels

    def forward(self, x, timestep, label):
        start, stop = min(pairwise(self.levels), key=lambda step: abs(step[0][1] - float(timestep[0]) / 1000))
        return target_x0(x, exact_end(x, start, stop, MEANS[label][:, None, None, None]), start, stop)


def test_the_loss_is_zero_at_the_exact_solution_and_not_at_the_teacher():
    model = with_exact_teacher(substeps=80)
    batch = batch_of(label=torch.tensor([0, 1, -1, 0, 1, 0]))
    model.student.net, model.student.prediction = Solved(model.levels), "x0"
    solved = float(model.loss(batch)["loss"])

    class Estimates(nn.Module):
        def forward(self, x, timestep, label):
            t = float(timestep[0]) / 1000
            return exact_denoiser(label)(x, 1 - t, t)

    model.student.net = Estimates()
    unmoved = float(model.loss(batch.replace(rng=Noise.of_step(3, 0, 6)))["loss"])
    assert solved < 1e-5 and unmoved > 0.02


@pytest.mark.parametrize("name", TEACHERS)
def test_a_student_starts_as_its_teacher(name):
    """With a single substep there is nothing to learn; with several there is."""
    losses = []
    for substeps in (1, 4):
        torch.manual_seed(0)
        model = student_of(config(name), student_steps=3, substeps=substeps)
        model.teacher.clip = model.student.clip = None
        with torch.no_grad():
            for p in [*model.teacher.parameters(), *model.student.parameters()]:
                p.add_(0.05 * torch.randn(p.shape))
        assert not all(map(torch.equal, model.teacher.parameters(), model.student.parameters()))
        model.start_from_teacher(None)
        losses.append(model.loss(batch_of())["loss"].item())
    assert losses[0] < 1e-9 and losses[1] > 1e3 * losses[0] + 1e-7


class Affine(nn.Module):
    """Stands in for the student's network and predicts x0: a gain and an offset for each level."""

    def __init__(self, levels):
        super().__init__()
        self.sigmas = [sigma for _, sigma in levels[:-1]]
        self.gain, self.offset = (nn.Parameter(torch.zeros(len(self.sigmas))) for _ in range(2))

    def forward(self, x, timestep):
        index = min(range(len(self.sigmas)), key=lambda i: abs(self.sigmas[i] - float(timestep[0]) / 1000))
        return self.gain[index] * x + self.offset[index]


def test_training_finds_the_solution_in_closed_form():
    model = student_of(config(), student_steps=3, substeps=40)
    model.teacher.denoiser = exact_denoiser
    model.start_from_teacher(None)
    model.student.net, model.student.prediction = Affine(model.levels), "x0"
    optimizer = torch.optim.Adam(model.student.net.parameters(), lr=0.02)
    for step in range(150):
        optimizer.zero_grad()
        model.loss(batch_of().replace(rng=Noise.of_step(step, 0, 6)))["loss"].backward()
        optimizer.step()
    for step, (start, stop) in enumerate(pairwise(model.levels)):
        at_0, at_1 = (target_x0(x, exact_end(x, start, stop, MEANS[2]), start, stop) for x in torch.tensor([0.0, 1.0]))
        assert model.student.net.offset[step].item() == pytest.approx(at_0.item(), abs=0.02)
        assert model.student.net.gain[step].item() == pytest.approx((at_1 - at_0).item(), abs=0.02)


# As a run


@pytest.fixture(scope="module")
def teacher(bars, tmp_path_factory):
    options = {"conditional": "label", "width": 8, "steps": 60, "batch_size": 32, "warmup": 5, "quiet": True}
    return train("flow-matching", bars, out=tmp_path_factory.mktemp("teacher") / "run", **options)


@pytest.fixture(scope="module")
def student(teacher, bars, tmp_path_factory):
    options = {"student_steps": 2, "steps": 30, "batch_size": 16, "warmup": 5, "quiet": True}
    out = tmp_path_factory.mktemp("student") / "run"
    return train("distilled", bars, out=out, teacher=str(teacher.path), **options)


def saved(run):
    return load_checkpoint(newest_whole(run.checkpoints)[0])


def part(weights, name):
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


def test_the_teacher_stays_as_it_was_and_the_student_does_not(teacher, student):
    average = saved(teacher).ema
    for weights in (saved(student).weights, saved(student).weights | saved(student).ema):
        kept, moved = part(weights, "teacher"), part(weights, "student")
        assert kept.keys() == average.keys() and all(torch.equal(kept[name], average[name]) for name in average)
        assert any(not torch.equal(moved[name], average[name]) for name in average)


def test_a_rerun_takes_the_teacher_as_it_was_from_any_folder_and_refuses_another(teacher, bars, tmp_path, monkeypatch):
    shutil.copytree(teacher.path, tmp_path / "slow")
    monkeypatch.chdir(tmp_path)
    run = train("distilled", bars, out=tmp_path / "quick", teacher="slow", steps=1, batch_size=8, quiet=True)
    assert run.info["sub_runs"]["teacher"]["step"] == 60
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    rv.resume(tmp_path / "slow", steps=61, quiet=True)
    again = rv.rerun(run.path, tmp_path / "again", quiet=True)
    expected, weights = saved(run).weights, saved(again).weights
    assert all(torch.equal(expected[name], weights[name]) for name in expected)
    shutil.rmtree(tmp_path / "slow" / "checkpoints" / "00000060")
    with pytest.raises(ReverieError, match="no longer has the weights"):
        rv.rerun(run.path, tmp_path / "third", quiet=True)


def test_sampling_needs_no_teacher(student):
    model = rv.load(student)
    before = rv.sample(model, 4, label=[0, 1])
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.fill_(math.nan)
    assert (rv.sample(model, 4, label=[0, 1]) == before).all()


def test_the_label_reaches_the_student():
    model = with_exact_teacher(student_steps=3)
    model.student.net, model.student.prediction = Solved(model.levels), "x0"
    label = torch.tensor([0, 1] * 8)
    means = model.sample(Noise.of_seeds(range(16)), label=label).mean((1, 2, 3))
    assert means[label == 0].mean() - means[label == 1].mean() == pytest.approx(0.5, abs=0.05)


def test_sampling_takes_as_many_steps_as_the_student_was_distilled_for(student):
    model = rv.load(student)
    pairs = model.timesteps()
    *_, last = frames = list(model.stream(Noise.of_seeds(range(3))))
    assert len(frames) == 3 == len(pairs) and frames[0].tensors["x0"] is not last.tensors["x"]
    assert torch.equal(last.tensors["x"].clamp(-1, 1), model.sample(Noise.of_seeds(range(3))))
    assert torch.equal(model.sample(Noise.of_seeds([1]), steps=2), model.sample(Noise.of_seeds([1])))


def test_latent_diffusion_is_distilled_too(bars, tmp_path):
    options = {"steps": 4, "batch_size": 16, "quiet": True}
    slow = train("latent-diffusion", bars, out=tmp_path / "slow", width=8, latent=3, codec_width=8, **options)
    run = train("distilled", bars, out=tmp_path / "quick", teacher=str(slow.path), student_steps=1, **options)
    model, codec = rv.load(run), part(saved(slow).ema, "latent_codec.codec")
    assert model.latent_shape == (3, 2, 2) and rv.sample(model, 3).shape == (3, 8, 8, 1)
    copied = part(saved(run).weights, "student.latent_codec.codec")
    assert codec and all(torch.equal(copied[name], codec[name]) for name in codec)


def test_the_verb_takes_data_and_size_from_the_teacher(teacher, tmp_path, capsys):
    arguments = [str(teacher.path), "--steps", "3", "--guidance", "2", "--minutes", "0.02", "--json"]
    arguments += ["--out", str(tmp_path / "run")]
    tyro.cli(distill, args=arguments)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["run"] == str(tmp_path / "run")
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["data"]["fingerprint"] == teacher.info["data"]["fingerprint"]
    assert (info["model"]["kwargs"]["student_steps"], info["model"]["kwargs"]["guidance"]) == (3, 2.0)


# Wrong use


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "no teacher.*reverie distill RUN"),
        ({"teacher": {"name": "vae", "kwargs": {"shape": 8, "channels": 1}}}, "no steps to save.*flow-matching"),
        ({"teacher": config(shape=16)}, "16x16x1.*8x8x1"),
        ({"teacher": config(classes=5, conditional="label")}, "knows 5 classes"),
        ({"teacher": config(), "student_steps": 0}, "student_steps of distilled must be from 1 to 10000"),
        ({"teacher": config(), "substeps": 0}, "substeps of distilled must be from 1 to 10000"),
        ({"teacher": config(), "guidance": 2.0}, "this teacher has none"),
    ],
)
def test_what_cannot_be_distilled_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        registry.build("distilled", shape=8, channels=1, classes=2, **options)


def test_what_a_student_does_not_know_is_refused(student):
    model = rv.load(student)
    for steps in (1, 4, 0):
        with pytest.raises(UsageError, match=f"distilled to sample in 2 steps, not {steps}"):
            rv.sample(model, 1, steps=steps)
    with pytest.raises(UsageError, match="no option guidance"):
        rv.sample(model, 1, label=0, guidance=3.0)
    with pytest.raises(UsageError, match="Labels run from 0 to 1"):
        model.sample(Noise.of_seeds([0]), label=torch.tensor([2]))
