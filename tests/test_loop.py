"""The loop: a generator of steps that anybody may own, and callbacks beside it."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from torch import nn

import reverie as rv
from reverie.core.errors import ReverieError, UsageError
from reverie.data.batches import Batches
from reverie.training.checkpoint import load_checkpoint, newest_whole
from reverie.training.loop import Loop
from reverie.training.options import Options
from reverie.training.plan import Plan
from reverie.training.run import Run


class Canvas(nn.Module):
    """An image that becomes grey: a model that learns from no data."""

    def __init__(self, size=8):
        super().__init__()
        self.image = nn.Parameter(torch.zeros(1, 3, size, size))

    def stages(self, lr=0.05):
        return [rv.Stage([rv.Phase("canvas", torch.optim.Adam([self.image], lr), self.loss)])]

    def loss(self, batch, outputs):
        target = 0.5 + 0.01 * batch.rng(3, 8, 8)
        return {"loss": (self.image - target).square().mean(), "mean": self.image.mean()}


class Linear(nn.Module):
    """Images from their halves."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(32, 32)

    def stages(self, lr=1e-2):
        return [rv.Stage([rv.Phase("net", torch.optim.SGD(self.parameters(), lr), self.loss)])]

    def loss(self, batch, outputs):
        x = batch["x"].flatten(1)
        return {"loss": (self.net(x[:, :32]) - x[:, 32:]).square().mean()}


class Told(rv.callbacks.Callback):
    """Writes down what it is called for."""

    def __init__(self, name, calls, order=None):
        self.name, self.calls = name, calls
        self.order = self.order if order is None else order

    def start(self, loop):
        self.calls.append((self.name, "start", loop.step))

    def before(self, step):
        self.calls.append((self.name, "before", step.number, len(step.metrics)))

    def after(self, step):
        self.calls.append((self.name, "after", step.number, step.line is not None))

    def close(self, outcome):
        self.calls.append((self.name, "close", outcome))


def test_a_canvas_without_data_trains_by_fit():
    canvas, losses = Canvas(), []
    for step in rv.fit(canvas, steps=60, ema=0, warmup=0, lr=0.1):
        losses.append(step.metrics["loss"])
    assert step.number == 60 and step.progress == 1 and step.best is canvas
    assert losses[-1] < 0.01 * losses[0] and abs(canvas.image.mean().item() - 0.5) < 0.05


def test_a_canvas_in_colour_is_moved_by_a_line_search():
    class Searched(Canvas):
        def stages(self):
            optimizer = torch.optim.LBFGS([self.image], line_search_fn="strong_wolfe")
            return [rv.Stage([rv.Phase("canvas", optimizer, self.loss, closure=True)], precision="fp32")]

    *_, step = rv.fit(canvas := Searched(), steps=3, ema=0)
    assert (canvas.image - 0.5).abs().max() < 0.05 and step.metrics["loss"] < 1e-3


def test_fit_is_a_generator_that_one_may_break_off_and_then_callbacks_are_closed():
    calls = []
    for step in rv.fit(Canvas(), steps=50, callbacks=[Told("a", calls)]):
        if step.number == 3:
            break
    assert calls[0] == ("a", "start", 0) and calls[-1] == ("a", "close", "stopped") and len(calls) == 8
    steps = rv.fit(Canvas(), steps=50, callbacks=[Told("b", calls := [])])
    assert calls == []  # nothing happens before the first step is asked for
    next(steps)
    steps.close()
    assert calls[-1] == ("b", "close", "stopped")


def test_callbacks_come_in_their_order_and_close_in_reverse():
    calls = []
    callbacks = [Told("late", calls, order=4), Told("a", calls), Told("b", calls), Told("log", calls, order=2)]
    for _ in rv.fit(Canvas(), steps=2, callbacks=callbacks, log_every=2):
        calls.append("yield")
    names = ("a", "b", "log", "late")
    first = [(n, "start", 0) for n in names] + [(n, "before", 1, 0) for n in names]
    first += [(n, "after", 1, False) for n in names] + ["yield"]
    assert calls[: len(first)] == first
    second = [("a", "after", 2, False), ("b", "after", 2, False), ("log", "after", 2, True), ("late", "after", 2, True)]
    assert calls[-9:-5] == second and calls[-5] == "yield"
    assert calls[-4:] == [(n, "close", "finished") for n in reversed(names)]


def test_callbacks_are_closed_when_a_step_fails_also_if_closing_one_fails():
    class Bad(Canvas):
        def loss(self, batch, outputs):
            return {"loss": super().loss(batch, outputs)["loss"] * (math.nan if batch.progress > 0.4 else 1)}

    class Unclosable(Told):
        def close(self, outcome):
            super().close(outcome)
            raise OSError("cannot close")

    calls = []
    with pytest.raises(ReverieError, match=r"diverged at step 5.*phase 'canvas' is nan"):
        for _ in rv.fit(Bad(), steps=10, callbacks=[Told("a", calls)], log_every=1):
            pass
    assert calls[-1] == ("a", "close", "failed")
    with pytest.raises(OSError, match="cannot close"):
        list(rv.fit(Canvas(), steps=1, callbacks=[Told("a", calls := []), Unclosable("b", calls)]))
    assert [call for call in calls if call[1] == "close"] == [("b", "close", "finished"), ("a", "close", "finished")]


def test_a_callbacks_numbers_join_the_next_line_of_the_log(tmp_path):
    class Counts(rv.callbacks.Callback):
        def after(self, step):
            if step.number == 4:
                step.log(four=4.0)

    for _ in rv.fit(Canvas(), steps=12, callbacks=[rv.callbacks.Log(tmp_path), Counts()], log_every=5):
        pass
    lines = Run(tmp_path, {}).metrics()
    assert [line["step"] for line in lines] == [5, 10, 12]
    assert lines[0]["four"] == 4 and not any("four" in line for line in lines[1:])
    assert lines[0].keys() >= {"seconds", "images_per_second", "lr", "loss", "mean", "gradient_norm"}


def test_checkpoints_hold_the_callbacks_state_and_the_loop_goes_on_from_them(tmp_path, tiny):
    class Counter(rv.callbacks.Callback):
        count = 0

        def after(self, step):
            self.count += 1

        def state(self):
            return {"count": self.count}

        def load_state(self, state):
            self.count = state["count"]

    def trained(steps, folder, saved=None):
        torch.manual_seed(0)
        counter = Counter()
        keeps = rv.callbacks.Checkpoints(tmp_path / folder, every=4)
        options = Options(batch_size=16, log_every=2, precision="fp32")
        loop = Loop(model := Linear(), tiny, Plan.of(8, None), options, {}, [counter, keeps])
        if saved:
            model.load_state_dict(saved.weights)
            loop.engine.ema.load_state_dict(saved.ema)
            loop.load_state(saved.step, saved.training)
        for step in loop.run():
            if step.number == steps:
                break
        return model.state_dict(), counter.count

    full, counted = trained(8, "whole")
    trained(5, "cut")
    saved = load_checkpoint(newest_whole(tmp_path / "cut")[0], training=True)
    assert saved.step == 5 and saved.config == {"name": f"{__name__}:Linear", "kwargs": None}
    assert saved.training.keys() == {"stage", "outline", "optimizers", "plan", "callbacks", "loop"}
    again, recounted = trained(8, "again", saved)
    assert counted == recounted == 8 and all(torch.equal(full[name], again[name]) for name in full)


class Ramp(nn.Module):
    """Two stages whose losses are of very different sizes, the second of them 0 at first."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def stages(self):
        def loss(size):
            return lambda batch, outputs: {"loss": size(batch.progress) * self.w.square().sum()}

        small = rv.Phase("small", torch.optim.SGD([self.w], 1e-6), loss(lambda progress: 1e-6))
        large = rv.Phase("large", torch.optim.SGD([self.w], 1e-12), loss(lambda progress: 1e7 * (progress > 0.4)))
        return [rv.Stage([small]), rv.Stage([large])]


def test_a_loss_is_judged_by_its_own_size_and_a_start_of_0_says_nothing():
    *_, step = rv.fit(Ramp(), steps=20, ema=0, log_every=1)
    assert step.metrics["loss"] > 9e6 and step.loop.digest.typical["loss"] > 9e6


@pytest.mark.parametrize("name", ["step", "seconds", "lr", "images_per_second"])
def test_a_number_of_the_log_itself_is_no_ones_to_overwrite(name):
    class Says(rv.callbacks.Callback):
        def after(self, step):
            step.log(**{name: 1.0})

    with pytest.raises(UsageError, match=f"The log already has '{name}'"):
        list(rv.fit(Canvas(), steps=1, callbacks=[Says()]))


@pytest.mark.parametrize("value", [None, "much", [1.0]])
def test_what_is_no_number_is_not_logged(value):
    class Says(rv.callbacks.Callback):
        def after(self, step):
            step.log(a=value)

    with pytest.raises(UsageError, match="takes a number"):
        list(rv.fit(Canvas(), steps=1, callbacks=[Says()]))


def test_what_no_checkpoint_would_give_back_is_refused_when_it_is_saved(tmp_path):
    class Remembers(rv.callbacks.Callback):
        def state(self):
            return {"best": np.float64(1)}

    with pytest.raises(UsageError, match=r"callback Remembers-0 holds a numpy\.float64"):
        list(rv.fit(Canvas(), steps=1, callbacks=[Remembers(), rv.callbacks.Checkpoints(tmp_path)]))


def test_callbacks_are_callbacks():
    for wrong in (lambda step: None, rv.callbacks.Callback):
        with pytest.raises(UsageError, match="list of"):
            list(rv.fit(Canvas(), steps=1, callbacks=[wrong]))


def test_a_callback_that_stops_a_lone_process_stops_it_at_this_step():
    class Stops(rv.callbacks.Callback):
        def after(self, step):
            if step.number == 3:
                step.loop.stop()

    *_, last = rv.fit(Canvas(), steps=50, callbacks=[Stops()], log_every=10)
    assert last.number == 3 and last.line is None  # the log has the lines of an uninterrupted run


def test_what_open_data_opens_is_fitted_as_it_is():
    images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1), dtype=np.uint8)
    *_, step = rv.fit(rv.build("autoencoder", rv.data(images), width=8), images, steps=2, batch_size=8)
    assert step.number == 2 and step.loop.data.spec.shape == (8, 8)


def test_layers_that_mix_rows_are_named_where_a_batch_is_cut():
    class Said(rv.callbacks.Callback):
        def say(self, text):
            messages.append(text)

    class Mixed(Canvas):
        def __init__(self):
            super().__init__()
            self.norm, self.frozen = nn.BatchNorm2d(3), nn.Dropout().eval()

        def train(self, mode=True):
            super().train(mode)
            self.frozen.eval()
            return self

    for accumulate, count in ((1, 0), (2, 1)):
        messages = []
        next(rv.fit(Mixed(), steps=1, ema=0, batch_size=2, accumulate=accumulate, callbacks=[Said()]))
        assert len(messages) == count and all("BatchNorm2d in this model" in text for text in messages)


def test_minutes_end_a_fit_on_time_and_its_plan_repeats_it():
    def trained(**length):
        torch.manual_seed(0)
        *_, last = rv.fit(canvas := Canvas(), **length, ema=0)
        return canvas.image.detach(), last

    image, last = trained(minutes=0.02)
    assert last.loop.elapsed == pytest.approx(1.2, rel=0.3) and last.progress > 0.9
    again, _ = trained(plan=last.loop.plan.fixed())
    assert torch.equal(image, again)


def test_batches_of_ones_own_are_taken_as_they_are(tiny):
    batches = Batches(tiny.train, 24, seed=3)
    *_, step = rv.fit(Linear(), batches, steps=2)
    assert step.loop.options.batch_size == 24 and step.loop.engine.batches is batches


def test_training_mode_and_random_state_are_left_alone(tiny, tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    model = rv.build("vae", tiny, width=8, latent=3)
    torch.manual_seed(7)
    previews = rv.callbacks.Previews(tmp_path, tiny, every=2)
    for _ in rv.fit(model, tiny, steps=4, batch_size=16, ema=0, log_every=1, callbacks=[previews]):
        assert model.training and all(module.training for module in model.modules())
    assert torch.equal(torch.rand(3), expected)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["00000002.png", "00000004.png"]


def test_previews_show_what_the_stage_shows_and_cost_one_percent(tiny, tmp_path):
    class Slow(Linear):
        delay = 0.0

        def sample(self, noise, **condition):
            self.drawn = [*getattr(self, "drawn", []), len(noise)]
            time.sleep(self.delay * len(noise))
            return noise(1, 8, 8).clamp(-1, 1)

    class Staged(Slow):
        def stages(self, lr=1e-2):
            return [*super().stages(lr), *super().stages(lr)]

    def previewed(model, **length):
        previews = rv.callbacks.Previews(tmp_path, tiny)
        for _ in rv.fit(model, tiny, batch_size=16, ema=0, log_every=1, callbacks=[previews], **length):
            pass
        return getattr(model, "drawn", [])

    assert previewed(Slow(), steps=32) == [64] * 5
    assert previewed(Staged(), steps=32) == [64]  # at three quarters: in the last stage
    slow = Slow()
    slow.delay = 0.004  # 64 images take a quarter of a second, and 1 % of 2.4 s is a tenth of that
    assert sum(previewed(slow, minutes=0.04)) <= 64


def test_a_wrong_option_is_refused_before_anything_starts(tiny):
    for options, message in [
        ({"steps": 5, "minutes": 1.0}, "either steps or minutes"),
        ({}, "either steps or minutes"),
        ({"steps": 5, "lrr": 1.0}, "no option 'lrr'.*\"lr\""),
        ({"steps": 5, "ema": 2.0}, "ema"),
    ]:
        with pytest.raises(UsageError, match=message):
            rv.fit(Linear(), tiny, **options)


def test_extension_follows_the_rule_for_runs_that_are_finished_and_that_are_not():
    plan = Plan.of(100, None)
    plan.extend(100, 10.0, 400, None, low=0.5, trained=(80, 8.0))
    assert plan.progress(100) == 0.5 + 0.5 * 80 / 380 and plan.progress(400) == 1 and plan.extended == [100]
    plan = Plan.of(100, None)
    plan.extend(100, 10.0, None, 24.0, low=0.0, trained=(100, 8.0))
    assert plan.progress(100) == 0.25 and plan.expected == 400 and plan.clock == (24.0, 0.25, 10.0)
    plan = Plan.of(100, None)
    before = plan.progress(40)
    plan.extend(40, 4.0, 200, None, low=0.0, trained=(40, 4.0))
    assert plan.progress(40) == before and plan.progress(200) == 1 and plan.extended == [] and plan.end == 200
    plan.extend(50, 5.0, None, 6.0, low=0.0, trained=(50, 5.0))
    assert plan.end is None and plan.expected == 110 and plan.clock == (6.0, plan.progress(50), 5.0)
