"""Code of the user's own that gives what it must not, or less than it could: refused by name, or done without."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import reverie as rv
from engine_cases import Scales, sgd, train
from reverie.core import registry
from reverie.core.batch import Batch
from reverie.core.errors import ReverieError, UsageError
from reverie.optim.phase import Phase, Stage, stages_of
from reverie.training.checkpoint import steps_in
from reverie.training.run import Run
from run_cases import SMALL, Staged

# Stages, losses and what a step calls


def test_a_loss_that_depends_on_none_of_its_phase_s_parameters_is_an_error():
    """Nothing would be trained, in silence: a generator's phase of graph=False gets images without their graph."""
    model = Scales()
    stage = {"forward": lambda batch: {"y": batch["x"] * model.a}}
    losses = (
        lambda _, outputs: {"loss": (outputs["y"] * model.b).sum()},
        lambda _, outputs: {"loss": outputs["y"].sum()},
    )
    for loss in losses:
        with pytest.raises(UsageError, match=r"'A'.*none of its parameters.*graph=False"):
            train(model, Stage([Phase("A", sgd(model.a), loss, graph=False)], **stage)).step(0, 0.0)
        train(model, Stage([Phase("A", sgd(model.a), loss)], **stage)).step(0, 0.0)


def test_phases_have_names_of_their_own():
    for names in (("A", "A"), ("forward",), ("A", "update")):
        model = Scales()
        model.stages = lambda names=names, model=model: [
            Stage([Phase(name, sgd(model.a), model.square) for name in names])
        ]
        with pytest.raises(UsageError, match="unique names"):
            stages_of(model)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda stage: None,
        lambda stage: stage,
        lambda stage: [],
        lambda stage: stage.phases,
        lambda stage: [replace(stage, phases=[])],
        lambda stage: [replace(stage, phases=stage.phases[0])],
        lambda stage: [replace(stage, share=0.0)],
        lambda stage: [replace(stage, share=float("nan"))],
        lambda stage: [replace(stage, group=0)],
        lambda stage: [replace(stage, precision="fp16")],
        lambda stage: [replace(stage, verbs=("draw",))],
        lambda stage: [replace(stage, phases=[replace(stage.phases[0], every=0)])],
        lambda stage: [replace(stage, phases=[replace(stage.phases[0], scale=float("inf"))])],
        lambda stage: [replace(stage, phases=[replace(stage.phases[0], optimizer=None)])],
        lambda stage: [replace(stage, phases=[replace(stage.phases[0], optimizer=torch.optim.LBFGS([stage.w]))])],
    ],
)
def test_what_is_no_list_of_stages_with_fields_in_their_ranges_is_refused(wrong):
    model = Scales()
    stage = Stage([Phase("A", sgd(model.a), model.square)])
    stage.w = model.a
    model.stages = lambda: wrong(stage)
    with pytest.raises(UsageError, match=r"must be|needs a list|return a list"):
        stages_of(model)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda model: model.a.square().sum(), "must return a dict"),
        (lambda model: None, "must return a dict"),
        (lambda model: {"loss": model.a.square()}, "0-dim tensor, not a torch.float32 of shape"),
        (lambda model: {"loss": model.a.sum() * 1j}, "0-dim tensor, not a torch.complex64"),
        (lambda model: {"loss": 1.0}, "0-dim tensor, not float"),
        (lambda model: {"error": model.a.sum()}, "must return a value named 'loss'"),
    ],
)
def test_a_loss_that_is_not_0_dim_tensors_by_name_is_refused(loss, message):
    model = Scales()
    with pytest.raises(UsageError, match=message):
        train(model, Stage([Phase("A", sgd(model.a), lambda batch, outputs: loss(model))])).step(0, 0.0)


def test_forward_and_update_return_dicts_and_gather_names_what_is_there():
    model = Scales()
    phases = [Phase("A", sgd(model.a), model.square)]
    for stage, message in [
        (Stage(phases, forward=lambda batch: batch["x"]), "forward must return a dict"),
        (Stage(phases, update=lambda batch, outputs, stats: True), "update must return a dict"),
        (Stage(phases, update=lambda batch, outputs, stats: None, gather=("fakes",)), "gather names 'fakes'"),
    ]:
        with pytest.raises(UsageError, match=message):
            train(model, stage).step(0, 0.0)


def test_a_loss_that_asks_for_a_column_the_data_has_not_is_told_which_there_are():
    batch = Batch({"x": torch.zeros(2, 1)})
    assert batch.get("mask") is None
    with pytest.raises(UsageError, match=r"no column 'mask'; its columns: x\."):
        batch["mask"]


def test_a_value_that_is_no_number_is_an_error_that_names_it():
    model = Scales()
    for value, text in ((torch.zeros(2), r"shape \(2,\)"), (1.0, "float")):
        broken = Phase("A", sgd(model.a), lambda batch, _, value=value: model.square(batch) | {"odd": value})
        with pytest.raises(UsageError, match=f"'A'.*'odd'.*{text}"):
            train(model, Stage([broken])).step(0, 0.0)
    with pytest.raises(UsageError, match=r"'A'.*'loss', not other"):
        train(model, Stage([Phase("A", sgd(model.a), lambda *_: {"other": model.a.sum()})])).step(0, 0.0)
    good = Stage([Phase("A", sgd(model.a), model.square)], update=lambda *_: {"odd": 1.0})
    with pytest.raises(UsageError, match=r"update.*'odd'.*float"):
        train(model, good).step(0, 0.0)


# Models and callbacks in a run


def test_a_training_whose_last_images_fail_is_finished_and_can_be_used(tiny, tmp_path):
    class Shy(Staged):
        def held_out_scores(self, batch):
            raise IndexError("no score today")

    with pytest.raises(ReverieError, match=r"finished and kept, 4 steps.*IndexError: no score today"):
        rv.train(Shy(), tiny, out=tmp_path / "run", steps=4, **SMALL)
    run = Run.open(tmp_path / "run")
    assert run.info["status"] == "finished" and steps_in(run.checkpoints)[-1] == 4
    assert rv.load(run, model=Shy()).checkpoint == 4


def test_samples_of_another_form_are_named(tiny, tmp_path):
    class Flat(Staged):
        def sample(self, noise, **condition):
            return self.b(noise(self.b.in_features))

    with pytest.raises(UsageError, match=r"sample\(\) of .*Flat returned a tensor of shape \(\d+, 64\)"):
        rv.train(Flat(), tiny, out=tmp_path / "run", steps=4, **SMALL)


def test_a_model_that_samples_only_when_told_an_option_trains_without_previews(tiny, tmp_path):
    class Asking(Staged):
        def sample(self, noise, scale: float):
            return super().sample(noise) * scale

    run = rv.train(Asking(), tiny, out=tmp_path / "run", steps=4, **SMALL)
    assert not (run.path / "samples.png").exists()
    assert len(np.unique(rv.sample(run, 2, scale=0.0))) == 1
    with pytest.raises(UsageError, match="does not sample without scale"):
        rv.sample(run, 2)


def test_a_model_that_only_decodes_has_no_space_to_walk_in(tiny):
    from reverie.views.latents import latent_statistics

    class Decodes(Staged):
        def decode(self, latent):
            return latent

    with pytest.raises(UsageError, match="no space to walk"):
        latent_statistics(Decodes(), tiny)


def test_options_that_no_json_holds_leave_no_folder(bars, tmp_path, monkeypatch):
    class Dressed(Staged):
        def __init__(self, size: rv.Side, channels: rv.Channels, dress: object = None):
            super().__init__(size, channels)

    monkeypatch.setitem(registry.MODELS, "dressed", registry.Entry(f"{__name__}:Dressed", "", registered=Dressed))
    with pytest.raises(UsageError, match="plain, finite values"):
        rv.train("dressed", bars, dress=nn.Linear(1, 1), out=tmp_path / "run", steps=2)
    assert not (tmp_path / "run").exists()


def test_a_score_that_is_no_number_is_left_out_and_said(tiny, tmp_path, capsys):
    class Lost(Staged):
        def held_out_scores(self, batch):
            return {"mood": torch.full((len(batch["x"]),), math.nan), "size": torch.ones(len(batch["x"]))}

    run = rv.train(Lost(), tiny, out=tmp_path / "run", steps=2, **SMALL | {"quiet": False})
    assert run.info["held_out"] == {"size": 1.0} and run.info["status"] == "finished"
    assert "not recorded: mood" in capsys.readouterr().err


def test_a_run_that_any_error_ends_says_that_it_failed(tiny, tmp_path):
    class Breaks(rv.callbacks.Callback):
        def after(self, step):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rv.train(Staged(), tiny, out=tmp_path / "run", steps=4, callbacks=[Breaks()], **SMALL)
    assert Run.open(tmp_path / "run").info["status"] == "failed"
    assert rv.resume(tmp_path / "run", model=Staged(), data=tiny, quiet=True).info["status"] == "finished"


def test_an_error_in_the_first_step_leaves_no_folder_and_no_file_of_others_is_removed(tiny, tmp_path, capsys):
    class Breaks(rv.callbacks.Callback):
        def before(self, step):
            raise ZeroDivisionError

    class Writes(rv.callbacks.Callback):
        def start(self, loop):
            (tmp_path / "run" / "notes.txt").write_text("mine")

    options = {"out": tmp_path / "run", "steps": 4, **SMALL | {"quiet": False}}
    with pytest.raises(ZeroDivisionError):
        rv.train(Staged(), tiny, callbacks=[Breaks()], **options)
    assert not list(tmp_path.iterdir()) and "No step was made" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        rv.train(Staged(), tiny, callbacks=[Writes(), Breaks()], **options)
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "notes.txt"]


def test_a_model_of_other_shapes_than_the_runs_is_refused(tiny, tmp_path):
    run = rv.train(Staged(), tiny, out=tmp_path / "run", steps=2, **SMALL)
    for call in (lambda m: rv.load(run, model=m), lambda m: rv.resume(run.path, steps=4, model=m, data=tiny)):
        with pytest.raises(UsageError, match=r"4 tensors differ|3 tensors differ"):
            call(Staged(width=5))


def test_a_run_of_a_class_of_ones_own_is_scored_with_a_fresh_instance(tiny, tmp_path):
    run = rv.train(Staged(), tiny, out=tmp_path / "run", steps=2, **SMALL)
    with pytest.raises(UsageError, match="class of your own"):
        rv.evaluate(run.path, ["kernel"], n=50, data=tiny)
    assert rv.evaluate(run.path, ["kernel"], n=50, data=tiny, model=Staged())["kernel-small"].value > 0
