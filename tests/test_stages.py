"""Stages: how they begin, what is averaged, what stays frozen, and that a resume changes no bit."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine_cases import (
    CASES,
    Scales,
    apart,
    build,
    engine,
    every_case,
    images,
    sgd,
    state_of,
    train,
    walk,
)
from reverie.core.errors import UsageError
from reverie.core.submodel import frozen
from reverie.optim.phase import Phase, Stage, adamw
from reverie.training.ema import EMA

# The average, and what is frozen


class Served(nn.Module):
    """A linear map of features that a frozen network, with batch statistics, makes."""

    def __init__(self) -> None:
        super().__init__()
        self.served = frozen(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)))
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.register_buffer("mean", torch.zeros(3))

    def stages(self) -> list[Stage]:
        def loss(net: nn.Module) -> Callable[..., Any]:
            return lambda batch, _: {"loss": net(self.served(batch["x"])).square().mean()}

        nets = self.first, self.second
        return [
            Stage([Phase("A", sgd(*net.parameters()), loss(net))], prepare=lambda *_: self.mean.add_(1)) for net in nets
        ]


def test_the_average_is_of_trained_parameters_alone_and_shares_the_rest_with_the_model():
    model = Served()
    trainer = train(model, *model.stages()[:1], ema=0.9)
    assert trainer.ema and trainer.ema.state_dict().keys() == {"first.weight", "first.bias"}
    trainer.step(0, 0.0)
    average: Any = trainer.best
    mine, theirs = dict(average.named_parameters()), dict(model.named_parameters())
    assert [name for name in mine if mine[name] is not theirs[name]] == ["first.weight", "first.bias"]
    assert all(a is b for a, b in zip(average.buffers(), model.buffers(), strict=True)) and float(average.mean[0]) == 1
    assert not any(module.training for module in average.modules())


def test_the_average_follows_the_weights_and_starts_again_with_a_stage():
    model = Served()
    trainer = train(model, *model.stages(), ema=0.9)
    expected = model.first.weight.detach().clone()
    for step in range(3):
        trainer.step(step, 0.0)
        expected.lerp_(model.first.weight.detach(), 1 - min(0.9, (1 + step) / (10 + step)))
    average: Any = trainer.best
    torch.testing.assert_close(average.first.weight, expected)
    before = model.second.weight.detach().clone()
    trainer.step(3, 0.9)
    assert torch.equal(average.first.weight, model.first.weight)  # it stands still now, and others build on it
    torch.testing.assert_close(average.second.weight, torch.lerp(before, model.second.weight.detach(), 0.9))


def test_a_frozen_network_stays_in_eval_mode_without_gradients_through_train():
    model = Served()
    trainer = train(model, *model.stages(), ema=0.9)
    running = model.served[1].running_mean.clone()
    trainer.step(0, 0.0)
    trainer.step(1, 0.9)
    for net in (model.train(), trainer.best, trainer.best.train()):
        assert not any(module.training for module in net.served.modules())
        assert not any(p.requires_grad for p in net.served.parameters())
    assert model.first.training and torch.equal(model.served[1].running_mean, running)


def test_an_average_of_tied_weights_keeps_them_tied():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    average = EMA(model, 0.5, model.parameters())
    assert average.model["b"].weight is average.model["a"].weight


# Stages


def test_every_stage_is_prepared_once_in_order_even_one_that_gets_no_step():
    model, order = Scales(), []
    stages = [
        Stage(
            [Phase("A", sgd(model.a), model.square)],
            share=share,
            prepare=lambda batches, fresh, index=index: order.append((index, fresh, model.training)),
        )
        for index, share in enumerate((1.0, 1e-6, 1.0))
    ]
    trainer = train(model, *stages, fresh=False)
    assert trainer.stage == -1 and trainer.state()["stage"] == (-1, 0)
    trainer.step(0, 0.0)
    trainer.step(1, 0.2)
    assert order == [(0, False, False)] and (trainer.stage, trainer.began) == (0, 0)
    trainer.step(2, 0.8)
    assert order == [(0, False, False), (1, False, False), (2, False, False)] and trainer.began == 2
    assert model.training
    trainer.step(3, trainer.ends[2] - 1e-12)  # a progress that was rounded down brings no stage back
    assert (trainer.stage, trainer.began) == (2, 2) and len(order) == 3


def test_a_buffer_or_parameter_that_is_replaced_instead_of_changed_in_place_is_an_error_that_names_it():
    """The average shares buffers with the model: a new tensor would be the model's alone, and no longer be averaged."""
    model = Scales()

    def replace(*_: Any) -> None:
        model.mean = model.mean + 1

    phases = [Phase("A", sgd(model.a), model.square)]
    for hook in ("prepare", "update"):
        with pytest.raises(UsageError, match=f"{hook}.*'mean'.*in place"):
            train(model, Stage(phases, **{hook: replace})).step(0, 0.0)


def test_an_optimizer_that_two_stages_use_starts_each_afresh():
    model = Scales()
    shared = adamw([model.a], 0.1)
    trainer = train(model, *(Stage([Phase("A", shared, model.square)]) for _ in range(2)))
    for step, progress in enumerate((0.0, 0.2, 0.4, 0.6, 0.8)):
        trainer.step(step, progress)
    assert float(trainer.state()["optimizers"][0]["state"][0]["step"]) == 2


# Resume

STEPS = 3  # of each stage


@functools.cache
def uninterrupted(case: str) -> tuple[dict[str, Tensor], list[bytes]]:
    """The state that a training ends with, and what was saved before each of its steps and at the end."""
    trainer, saved = engine(case), []
    for step in range(STEPS * len(trainer.stages) + 1):
        ema = trainer.ema.state_dict() if trainer.ema else {}
        file = io.BytesIO()
        torch.save({"engine": trainer.state(), "model": trainer.model.state_dict(), "ema": ema}, file)
        saved.append(file.getvalue())
        walk(trainer, STEPS, step, step + 1)
    return state_of(trainer), saved


@every_case
@pytest.mark.parametrize("stop", ["in the last stage", "at the end of the first stage", "before the first step"])
def test_a_resumed_training_is_the_one_that_was_not_interrupted_to_the_bit(case, stop):
    step = {"in the last stage": -3, "at the end of the first stage": STEPS, "before the first step": 0}[stop]
    state, prepared = resumed(case, step)
    assert not prepared
    stages = len(engine(case).stages)
    last = (stages - 1, STEPS * (stages - 1))
    assert state["engine"]["stage"] == {0: (-1, 0), STEPS: (0, 0), -3: last}[step]


@pytest.mark.parametrize("case", ["dbn", "rbm", "stacked-autoencoder"])
def test_a_resume_in_the_middle_of_any_stage_changes_no_bit(case):
    """Layers whose chains are at work, and fine-tuning on top of them."""
    stages = len(engine(case).stages)
    assert stages == {"dbn": 3, "rbm": 1, "stacked-autoencoder": 3}[case]
    for stage in range(stages):
        state, prepared = resumed(case, STEPS * stage + 1)
        assert state["engine"]["stage"] == (stage, STEPS * stage) and not prepared


def resumed(case: str, step: int) -> tuple[dict[str, Any], list[bool]]:
    """Train on from what was saved before a step, to the same end: what was saved, and which stages began again."""
    full, saved = uninterrupted(case)
    state = torch.load(io.BytesIO(saved[step]), weights_only=True)
    model = build(case)
    for tensor in model.state_dict(keep_vars=True).values():
        tensor.data.fill_(0)  # nothing is left of how it was built
    again = engine(case, model)
    again.model.load_state_dict(state["model"])
    if again.ema:
        again.ema.load_state_dict(state["ema"])
    again.load_state(state["engine"])
    prepared = []
    for stage in again.stages[: again.stage + 1]:
        stage.prepare = lambda *_: prepared.append(True)
    walk(again, STEPS, range(len(saved))[step])
    assert apart(full, state_of(again)) == {}
    return state, prepared


# The house


def test_every_registered_model_is_a_case():
    from reverie.core import registry

    assert set(registry.MODELS) <= CASES.keys() and images(1, 8, 8)["x"].shape == (48, 1, 8, 8)
