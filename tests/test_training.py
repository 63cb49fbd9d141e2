"""The engine's promises, on toy players whose right answer is known."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time

import pytest
import torch
from PIL import Image
from torch import nn

from reverie.core import registry
from reverie.core.annotations import Channels, Side
from reverie.core.errors import ReverieError, UsageError
from reverie.core.precision import pick_device, pick_precision
from reverie.data.batches import Batches
from reverie.optim.phase import Phase, Stage
from reverie.training.callbacks import Callback
from reverie.training.checkpoint import Checkpoint, load_checkpoint, newest_whole, save_checkpoint, steps_in
from reverie.training.ema import EMA
from reverie.training.plan import Plan
from reverie.training.run import Run
from reverie.training.step import Engine
from reverie.workflow.again import rerun, resume
from reverie.workflow.train import train

FP32 = pick_precision("fp32", torch.device("cpu"))


class Two(nn.Module):
    """Two players who pull at each other's output."""

    def __init__(self, every=1):
        super().__init__()
        self.D, self.G, self.every = nn.Linear(64, 1), nn.Linear(64, 64), every

    def stages(self, lr=0.1):
        d, g = (torch.optim.SGD(net.parameters(), lr) for net in (self.D, self.G))
        lazy = {"every": self.every, "scale": self.every}
        return [
            Stage([Phase("D", d, lambda b, _: self.loss(b, 1)), Phase("G", g, lambda b, _: self.loss(b, -1), **lazy)])
        ]

    def loss(self, batch, sign):
        return {"loss": sign * self.D(self.G(batch["x"].flatten(1))).mean()}


def fit_of(model, tiny, stages=None, **options):
    return Engine(
        model,
        stages or model.stages(),
        Batches(tiny.train, 16, 0),
        FP32,
        **({"warmup": 0, "decay": "constant"} | options),
    )


def test_one_players_move_leaves_the_others_weights_and_gradients_untouched(tiny):
    torch.manual_seed(0)
    model = Two()
    seen = {}
    fit = fit_of(model, tiny, clip=0)
    d, g = fit.stages[0].phases
    for phase, others in ((d, model.G), (g, model.D)):
        inner = phase.optimizer.step

        def step(inner=inner, phase=phase, others=others):
            seen[phase.name] = all(p.grad is None for p in others.parameters())
            before = [p.clone() for p in others.parameters()]
            inner()
            assert all(torch.equal(a, b) for a, b in zip(before, others.parameters(), strict=True))

        phase.optimizer.step = step
    metrics = fit.step(0, 0.0)
    assert seen == {"D": True, "G": True} and set(metrics) == {"D/loss", "G/loss"}


def test_a_lazy_phase_moves_every_k_steps_with_its_loss_times_k(tiny):
    torch.manual_seed(0)
    lazy, eager = Two(every=4), Two(every=1)
    eager.load_state_dict(lazy.state_dict())
    fit = fit_of(lazy, tiny, clip=0)
    for engine in (fit, fit_of(eager, tiny, clip=0)):
        engine.step(0, 0.0)
    torch.manual_seed(0)
    start = Two().G.weight
    assert torch.allclose(lazy.G.weight - start, 4 * (eager.G.weight - start), atol=1e-6)
    moved = lazy.G.weight.clone()
    for step in (1, 2, 3):
        assert "G/loss" not in fit.step(step, 0.0)
    assert torch.equal(moved, lazy.G.weight)


def test_stages_play_in_order_and_freeze_each_other_bitwise(tiny):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 64))

    def loss(batch, outputs):
        return {"loss": model(batch["x"].flatten(1)).square().mean()}

    stages = [Stage([Phase(str(i), torch.optim.SGD(net.parameters(), 0.1), loss)]) for i, net in enumerate(model)]
    fit = fit_of(model, tiny, stages)
    start = [p.clone() for p in model.parameters()]
    fit.step(0, 0.49)
    middle = [p.clone() for p in model.parameters()]
    assert torch.equal(start[2], middle[2]) and not torch.equal(start[0], middle[0])
    fit.step(1, 0.5)
    end = list(model.parameters())
    assert torch.equal(middle[0], end[0]) and not torch.equal(middle[2], end[2])


def test_a_stage_has_its_share_of_training_and_its_own_progress(tiny):
    seen = []

    def stage(share):
        sgd = torch.optim.SGD(net.parameters(), 0.1)
        loss = lambda b, _: seen.append(b.progress.item()) or {"loss": net.weight.sum()}  # noqa: E731
        return Stage([Phase("", sgd, loss)], share=share)

    net = nn.Linear(1, 1, bias=False)
    fit = fit_of(net, tiny, [stage(1), stage(2), stage(5)])
    for step, progress in enumerate((0.0, 0.0625, 0.125, 0.25, 0.375, 1.0)):
        fit.step(step, progress)
        assert fit.stage == (0, 0, 1, 1, 2, 2)[step]
    assert seen == [0.0, 0.5, 0.0, 0.5, 0.0, 1.0]


class Staged(nn.Module):
    """Two linear layers trained one after the other; its loss draws, so that resuming must repeat the draws."""

    def __init__(self, size: Side, channels: Channels):
        super().__init__()
        self.a, self.b = nn.Linear(size * size, 4), nn.Linear(4, size * size)

    def loss(self, batch, outputs):
        x = batch["x"].flatten(1)
        return {"loss": (self.b(self.a(x + 0.1 * batch.rng(64))) - x).square().mean()}

    def stages(self, lr=0.01):
        nets = {"a": self.a, "b": self.b}
        return [Stage([Phase(n, torch.optim.Adam(m.parameters(), lr), self.loss)], name=n) for n, m in nets.items()]

    def encode(self, image):
        return self.a(image.flatten(1))


@pytest.fixture
def staged(monkeypatch):
    monkeypatch.setitem(registry.MODELS, "staged", registry.Entry(f"{__name__}:Staged", "", "", ""))


@pytest.mark.parametrize("cut", [3, 6])
def test_resuming_inside_any_stage_changes_no_bit(staged, bars, tmp_path, cut):
    shared = {"steps": 8, "batch_size": 16, "log_every": 1, "quiet": True}
    complete = train("staged", bars, out=tmp_path / "a", **shared)
    part = train("staged", bars, out=tmp_path / "b", checkpoint_every=cut, keep=99, **shared)
    for step in steps_in(part.checkpoints):
        if step > cut:
            (part.checkpoints / f"{step:08d}" / "manifest.json").unlink()
    part.update(status="running")
    resume(part.path, quiet=True)
    a, b = (load_checkpoint(newest_whole(run.checkpoints)[0]).weights for run in (complete, part))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_accumulated_parts_give_the_whole_batchs_step(tiny):
    def trained(parts):
        torch.manual_seed(0)
        model = registry.build("vae", tiny, width=8, latent=3)
        fit = Engine(model, model.stages(), Batches(tiny.train, 16, 0), FP32, accumulate=parts)
        for step in range(3):
            fit.step(step, step / 3)
        return model.state_dict()

    single, three = trained(1), trained(3)
    assert all(torch.allclose(single[k], three[k], atol=1e-5) for k in single)


def test_the_average_follows_its_formula_warm_up_included():
    model = nn.Linear(1, 1, bias=False)
    ema, expected = EMA(model, 0.5, model.parameters()), float(model.weight.detach())
    for step in range(20):
        with torch.no_grad():
            model.weight.fill_(step)
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(ema.model.weight) == pytest.approx(expected, rel=1e-5)


# Disasters


def checkpoint(step):
    return Checkpoint(step, {"name": "x", "kwargs": {}}, {"w": torch.full((4,), float(step))}, None, {"n": step})


def test_a_torn_checkpoint_is_detected_whatever_was_torn_and_the_one_before_is_used(tmp_path):
    for step in (10, 20):
        save_checkpoint(tmp_path, checkpoint(step), keep=9)
    newest = tmp_path / "00000020"
    for file in sorted(newest.iterdir()):
        content = file.read_bytes()
        for damage in (content[: len(content) // 2], content[:-1] + bytes([content[-1] ^ 1]), b""):
            file.write_bytes(damage)
            if file.name != "manifest.json" or damage != content[:-1] + bytes([content[-1] ^ 1]):
                intact, passed = newest_whole(tmp_path)
                assert intact == tmp_path / "00000010" and passed[0][0] == newest
        file.write_bytes(content)
    assert newest_whole(tmp_path) == (newest, [])
    (newest / "model.safetensors").unlink()
    with pytest.raises(ReverieError, match="damaged"):
        load_checkpoint(newest)


def test_only_the_newest_checkpoints_are_kept_and_a_failed_write_costs_none(tmp_path, monkeypatch):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert steps_in(tmp_path) == [2, 3]

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reverie.training.checkpoint.to_bytes", full)
    with pytest.raises(ReverieError, match=r"disk is full.*checkpoint 3"):
        save_checkpoint(tmp_path, checkpoint(4), keep=2)
    assert steps_in(tmp_path) == [2, 3] and len(list(tmp_path.iterdir())) == 2
    assert newest_whole(tmp_path)[1] == []


def test_a_disk_that_refuses_ends_training_with_a_sentence_and_costs_no_checkpoint(bars, tmp_path):
    resource = pytest.importorskip("resource", reason="POSIX limits stand in for a full disk")
    shared = {"batch_size": 8, "width": 8, "log_every": 1, "checkpoint_every": 2, "quiet": True}
    train("vae", bars, out=tmp_path / "fits", steps=4, **shared)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "fits" / "checkpoints" / "00000004" / "model.safetensors").stat().st_size

    class Fills(Callback):
        def after(self, step):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))

    refusal = pytest.raises(ReverieError, match=r"Cannot write .*larger than .*Kept: ")
    try:
        with refusal:
            train("vae", bars, out=tmp_path / "full", steps=4, callbacks=[Fills()], **shared)
        with refusal:
            train("vae", bars, out=tmp_path / "new", steps=4, **shared)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "full" / "checkpoints").iterdir()] == ["00000000"]
    assert not (tmp_path / "new").exists()


def test_training_state_holds_no_pickled_code(bars, tmp_path):
    run = train("vae", bars, out=tmp_path / "r", steps=2, batch_size=8, width=8, quiet=True)
    state = torch.load(newest_whole(run.checkpoints)[0] / "training.pt", weights_only=True)
    assert set(state) >= {"optimizers"}


class Exploding(Staged):
    def stages(self, lr=0.01):
        return [Stage([Phase("boom", torch.optim.SGD(self.parameters(), lr), self.bad)])]

    def bad(self, batch, outputs):
        return {"loss": self.loss(batch, outputs)["loss"] * (float("nan") if batch.progress >= 0.7 else 1.0)}


def test_a_loss_that_is_not_a_number_stops_with_step_phase_checkpoint_and_advice(bars, tmp_path, monkeypatch):
    monkeypatch.setitem(registry.MODELS, "exploding", registry.Entry(f"{__name__}:Exploding", "", "", ""))
    with pytest.raises(ReverieError, match=r"step 7: the loss of phase 'boom' is nan\. Kept: .*00000006.*lr") as caught:
        train(
            "exploding", bars, out=tmp_path / "r", steps=10, batch_size=8, log_every=1, checkpoint_every=3, quiet=True
        )
    assert "Traceback" not in str(caught.value)
    run = Run.open(tmp_path / "r")
    assert run.info["status"] == "failed" and run.metrics()[-1]["step"] == 7
    assert all(math.isfinite(v) for line in run.metrics() for v in line.values())
    saved = load_checkpoint(newest_whole(run.checkpoints)[0])
    assert saved.step == 6 and all(w.isfinite().all() for w in saved.weights.values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops_and_resume_finishes_with_the_same_bits(bars, call, tmp_path, number):
    shared = {"steps": 300, "batch_size": 8, "width": 8, "log_every": 1, "quiet": True}
    complete = train("vae", bars, out=tmp_path / "whole", **shared)
    log = tmp_path / "cut" / "metrics.jsonl"

    def once_it_runs():
        while not log.is_file() or not log.stat().st_size:
            time.sleep(0.001)
        os.kill(os.getpid(), number)

    threading.Thread(target=once_it_runs, daemon=True).start()
    flags = ("--steps", 300, "--batch-size", 8, "--width", 8, "--log-every", 1, "--out", "cut")
    code, out, err = call("train", "vae", "--data", bars, *flags)
    cut = Run.open(tmp_path / "cut")
    assert code == 130 and out.endswith("Next: reverie resume cut\n") and err.endswith("train: interrupted.\n")
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert handlers == (signal.default_int_handler, signal.SIG_DFL)
    if cut.info["status"] == "finished":
        pytest.fail("all 300 steps were done before the signal came: lengthen this test")
    assert cut.info["status"] == "stopped" and 0 < steps_in(cut.checkpoints)[-1] < 300
    resume(cut.path, quiet=True)
    a, b = (load_checkpoint(newest_whole(run.checkpoints)[0]).weights for run in (complete, cut))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_what_the_user_has_is_never_overwritten(bars, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="nothing was touched"):
        train("vae", bars, out=tmp_path / "mine", steps=2, quiet=True)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_run_inside_its_data_is_refused_and_its_repetition_there_too(draw_bars, tmp_path):
    for number, image in enumerate(draw_bars(24)[0]):
        (part := tmp_path / "data" / ("test" if number < 4 else "train")).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(part / f"{number}.png")
    how = {"steps": 1, "batch_size": 8, "net": "dense", "hidden": (8,), "quiet": True}
    for inside in ("data/runs/a", "data"):
        with pytest.raises(UsageError, match=r"already holds files|inside the data .* data of the next training"):
            train("vae", f"{tmp_path / 'data'}:train", out=tmp_path / inside, **how)
    run = train("vae", tmp_path / "data", out=tmp_path / "database", **how)
    with pytest.raises(UsageError, match="inside the data"):
        rerun(run.path, out=tmp_path / "data" / "again")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["test", "train"]


def test_resume_refuses_other_images_and_finished_runs(bars, tmp_path):
    run = train("vae", bars, out=tmp_path / "r", steps=2, batch_size=8, width=8, quiet=True)
    with pytest.raises(UsageError, match="finished"):
        resume(run.path)
    info = json.loads((run.path / "run.json").read_text())
    info["status"], info["data"]["fingerprint"] = "running", "f" * 64
    (run.path / "run.json").write_text(json.dumps(info))
    with pytest.raises(ReverieError, match="not what it was trained on"):
        resume(run.path, quiet=True)


def test_minutes_are_recorded_as_steps_and_kept(bars, tmp_path):
    run = train("vae", bars, out=tmp_path / "r", minutes=0.12, batch_size=8, width=8, quiet=True)
    plan = Plan.from_state(Run.open(run.path).info["plan"])
    assert plan.end == run.info["result"]["steps"] and run.info["training"]["minutes"] == 0.12
    assert len(plan.knots) > 3 and plan.progress(plan.end) > 0.95
    assert (
        2 < run.info["result"]["seconds"] < 30
    )  # how well a budget is kept is measured elsewhere, on a clock of our own


@pytest.mark.parametrize(
    "options, message",
    [
        ({"latnt": 3}, "latent"),
        ({"batch_size": 0}, "batch_size"),
        ({"ema": 1.0}, "ema"),
        ({"likelihood": "cauchy"}, "bernoulli"),
        ({"precision": "fp8"}, "precision"),
        ({"device": "quantum"}, "device"),
        ({"augment": "flop"}, "flip"),
        ({"accumulate": 99, "batch_size": 8}, "accumulate"),
        ({"latent": 0}, "latent"),
        ({"latent": "4"}, "latent of vae must be a whole number"),
        ({"latent": 4.5}, "latent of vae must be a whole number"),
        ({"hidden": ("a",)}, "hidden of vae must be a tuple of a whole number"),
        ({"beta": float("nan")}, "beta of vae must be a finite number"),
        ({"steps": 3, "minutes": 1.0}, "either steps or minutes"),
    ],
)
def test_bad_options_are_refused_with_the_fix_before_anything_is_written(bars, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        train(
            "vae",
            bars,
            out=tmp_path / "r",
            quiet=True,
            **({"steps": 2} | options if "minutes" not in options else options),
        )
    assert not (tmp_path / "r").exists()


def test_precision_says_what_it_chose_and_why():
    chosen = pick_precision("auto", pick_device("cpu"))
    assert str(chosen).startswith(("bf16 on cpu (auto: this CPU", "fp32 on cpu (auto: this CPU"))
    with pytest.raises(UsageError):
        pick_device("cuda:99")
