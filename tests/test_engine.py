"""The training step: what phases, parts, updates, closures, precision, the average and a resume promise."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine_cases import (
    BF16,
    CASES,
    FP32,
    Batches,
    apart,
    build,
    doubles,
    engine,
    every_case,
    images,
    progress_of,
    state_of,
    walk,
)
from reverie.core.batch import Batch
from reverie.core.errors import UsageError
from reverie.core.frozen import frozen
from reverie.optim.phase import Phase, Stage, adamw, stages_of
from reverie.training.ema import EMA
from reverie.training.step import Engine


class Scales(nn.Module):
    """x times a, and times b: two linear maps without networks, for losses that are worked out by hand."""

    def __init__(self, features: int = 3):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.full((features,), value)) for value in (1.0, 2.0))
        self.register_buffer("mean", torch.zeros(features))

    def square(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        return {"loss": (batch["x"] * self.a).square().mean()}


def sgd(*parameters: nn.Parameter, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr)


def train(model: nn.Module, *stages: Stage, rows: int = 12, **options: Any) -> Engine:
    """An engine without clipping, warm-up, decay or average."""
    x = torch.linspace(-1, 1, rows * 3).view(rows, 3).to(next(model.parameters()).dtype)
    plain = {"precision": FP32, "ema": 0, "clip": 0, "warmup": 1, "decay": "constant"}
    return Engine(model, stages, Batches({"x": x}, rows), **plain | options)


# Parts


@every_case
def test_parts_of_a_batch_give_what_the_whole_gives(case):
    """In float64: weights, buffers, average and moments, with pools, codebooks, chains and drawing layers."""
    with doubles():
        states = []
        for parts in (1, 2, 3):
            trainer = engine(case, build(case).double(), batch_size=12, accumulate=parts)
            walk(trainer, 3)
            states.append(state_of(trainer))
    assert apart(states[0], states[1], 1e-9) == {} and apart(states[0], states[2], 1e-9) == {}


def test_what_is_drawn_for_the_whole_step_is_the_same_in_every_part():
    model, draws = Scales(), []

    def forward(batch: Batch) -> dict[str, Tensor]:
        draws.append(batch.shared(1))
        return {}

    def loss(batch: Batch, outputs: Any) -> dict[str, Tensor]:
        draws.append(batch.shared(1))
        return model.square(batch)

    train(model, Stage([Phase("A", sgd(model.a), loss)], forward=forward), accumulate=3).step(0, 0.0)
    assert len(draws) == 6 and [float(draw) for draw in draws] == 3 * [float(draw) for draw in draws[:2]]
    assert draws[0] != draws[1]


@pytest.mark.parametrize("case, net", [("voxels", "generator"), ("dcgan", "G"), ("stylegan2", "G")])
def test_a_discriminator_s_phase_builds_no_graph_of_the_generator_with_parts(case, net):
    trainer = engine(case, batch_size=16, accumulate=2)
    graphs: dict[str, list[bool]] = {}
    model: Any = trainer.model
    for phase in trainer.stages[0].phases:
        phase.loss = _log_after(phase, graphs)
    passes = graphs.setdefault("", [])
    getattr(model, net).register_forward_pre_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    if case == "stylegan2":  # whose generator is called through its parts
        model.G.synthesis.register_forward_pre_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    trainer.step(0, 0.0)
    by_phase = {name: seen for name, seen in graphs.items() if name}
    assert by_phase["D"] == [False, False] and by_phase["G"] == [True, True]
    assert not any(by_phase.get("D-r1", []) + by_phase.get("D-penalty", []))


def _log_after(phase: Phase, graphs: dict[str, list[bool]]) -> Callable[..., Any]:
    """The phase's loss, which moves what was noted until then to the phase's own list."""
    loss = phase.loss

    def noted(batch: Batch, outputs: Any) -> Any:
        graphs.setdefault(phase.name, []).extend(graphs[""])
        graphs[""].clear()
        return loss(batch, outputs)

    return noted


def test_a_batch_that_cannot_be_cut_into_whole_groups_is_refused_with_the_nearest_that_can():
    model = Scales()
    stage = Stage([Phase("square", sgd(model.a), model.square)], group=4)
    with pytest.raises(UsageError, match=r"4 rows together.*--batch-size 12"):
        train(model, stage, rows=13, accumulate=2)
    train(model, stage, rows=13).step(0, 0.0)  # in one piece nothing is cut
    assert list(train(model, stage, rows=12, accumulate=2).step(0, 0.0)) == ["loss"]


# Phases


def test_a_phase_leaves_the_parameters_and_gradients_of_others_alone():
    model = Scales()

    def both(batch: Batch, outputs: Any) -> dict[str, Tensor]:
        return {"loss": (batch["x"] * model.a * model.b).square().mean()}

    trainer = train(model, Stage([Phase("A", sgd(model.a), both), Phase("B", sgd(model.b), both, every=2)]))
    model.b.grad = torch.full((3,), 7.0)
    trainer.step(0, 0.0)
    a, b = model.a.detach().clone(), model.b.detach().clone()
    model.b.grad = torch.full((3,), 7.0)
    trainer.step(1, 0.0)  # B is not due
    assert not torch.equal(model.a, a) and torch.equal(model.b, b)
    assert torch.equal(model.b.grad, torch.full((3,), 7.0)) and model.a.grad is None


def test_a_lazy_phase_is_due_from_its_stage_s_first_step_and_counts_as_often_as_it_is_left_out():
    model = Scales()
    first = Stage([Phase("square", sgd(model.b), lambda batch, _: {"loss": model.b.sum()})])
    second = Stage(
        [
            Phase("A", sgd(model.a), model.square),
            Phase("B", sgd(model.b), lambda *_: {"loss": model.b.square().mean()}, every=3, scale=3.0),
        ]
    )
    trainer = train(model, first, second)
    trainer.step(4, 0.4)
    moves, losses = [], []
    for step in range(5, 12):
        before = model.b.detach().clone()
        metrics = trainer.step(step, 0.9)
        moves.append(not torch.equal(before, model.b))
        if moves[-1]:
            losses.append(metrics["B/loss"])
            torch.testing.assert_close(before - model.b, 0.1 * 3 * 2 * before / 3)
            torch.testing.assert_close(losses[-1], before.square().mean())
        assert ("B/loss" in metrics) == moves[-1]
    assert moves == [True, False, False, True, False, False, True]


def test_phases_that_share_an_optimizer_share_its_state_which_is_saved_once():
    model = Scales()
    shared = adamw([model.a], 0.1)
    phases = [Phase("A", shared, model.square), Phase("A-more", shared, model.square, every=2)]
    trainer = train(model, Stage([*phases, Phase("B", adamw([model.b], 0.1), lambda *_: {"loss": model.b.sum()})]))
    for step in range(4):
        trainer.step(step, 0.0)
    state = trainer.state()
    assert len(state["optimizers"]) == 2
    assert [float(one["state"][0]["step"]) for one in state["optimizers"]] == [6, 4]


def test_a_graph_that_crosses_weights_changed_earlier_in_the_step_is_an_error():
    """The fused optimiser, too, counts as a change of the weights: a wrong gradient cannot come out of it."""
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    hidden = {"forward": lambda batch: {"h": model["b"](model["a"](batch["x"]))}}
    phases = [
        Phase(name, adamw(model[name].parameters(), 0.1), lambda batch, outputs: {"loss": outputs["h"].square().mean()})
        for name in ("b", "a")
    ]
    assert all(group["fused"] for phase in phases for group in phase.optimizer.param_groups)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        train(model, Stage(phases, **hidden)).step(0, 0.0)


def test_forward_s_outputs_come_detached_where_a_phase_asks_for_no_graph_and_are_made_once():
    model, calls, grads = Scales(), [], {}

    def forward(batch: Batch) -> dict[str, Any]:
        calls.append(torch.is_grad_enabled())
        return {"y": batch["x"] * model.a, "more": [batch["x"] * model.b]}

    def loss(name: str) -> Callable[..., Any]:
        def take(batch: Batch, outputs: Any) -> dict[str, Tensor]:
            grads[name] = outputs["y"].requires_grad, outputs["more"][0].requires_grad
            return {"loss": (outputs["y"] + model.b).mean() + model.a.sum()}

        return take

    def phases(*graphs: bool) -> list[Phase]:
        return [Phase(f"{i}", sgd(model.a, model.b), loss(f"{i}"), graph=graph) for i, graph in enumerate(graphs)]

    train(model, Stage(phases(False, True, False), forward=forward)).step(0, 0.0)
    assert calls == [True] and grads == {"0": (False, False), "1": (True, True), "2": (False, False)}
    train(model, Stage(phases(False, False), forward=forward)).step(0, 0.0)
    assert calls == [True, False]


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
    for names in ((), ("A", "A"), ("forward",), ("A", "update")):
        model = Scales()
        model.stages = lambda names=names, model=model: [
            Stage([Phase(name, sgd(model.a), model.square) for name in names])
        ]
        with pytest.raises(UsageError, match="names of their own"):
            stages_of(model)


def test_a_value_that_is_no_number_is_an_error_that_names_it():
    model = Scales()
    for value, said in ((torch.zeros(2), r"shape \(2,\)"), (1.0, "float")):
        broken = Phase("A", sgd(model.a), lambda batch, _, value=value: model.square(batch) | {"odd": value})
        with pytest.raises(UsageError, match=f"'A'.*'odd'.*{said}"):
            train(model, Stage([broken])).step(0, 0.0)
    with pytest.raises(UsageError, match=r"'A'.*'loss'.*gave other"):
        train(model, Stage([Phase("A", sgd(model.a), lambda *_: {"other": model.a.sum()})])).step(0, 0.0)
    good = Stage([Phase("A", sgd(model.a), model.square)], update=lambda *_: {"odd": 1.0})
    with pytest.raises(UsageError, match=r"update.*'odd'.*float"):
        train(model, good).step(0, 0.0)


def test_an_optimizer_that_two_stages_use_starts_each_afresh():
    model = Scales()
    shared = adamw([model.a], 0.1)
    trainer = train(model, *(Stage([Phase("A", shared, model.square)]) for _ in range(2)))
    for step, progress in enumerate((0.0, 0.2, 0.4, 0.6, 0.8)):
        trainer.step(step, progress)
    assert float(trainer.state()["optimizers"][0]["state"][0]["step"]) == 2


# Update


@pytest.mark.parametrize("parts", [1, 2])
def test_update_sees_averaged_scalars_and_the_gathered_columns_alone_as_global_rows(parts):
    model, seen = Scales(), {}

    def update(batch: Batch, outputs: Any, stats: Any) -> dict[str, Tensor]:
        seen.update(batch=batch, outputs=outputs, stats=stats, grad=torch.is_grad_enabled())
        model.mean.copy_(outputs["y"].mean(0))
        return {"mean": model.mean.mean()}

    def forward(batch: Batch) -> dict[str, Tensor]:
        return {"y": batch["x"] * model.a, "draw": batch.rng(2), "other": batch["x"]}

    def loss(batch: Batch, outputs: Any) -> dict[str, Tensor]:
        return {"loss": outputs["y"].square().mean(), "first": batch["x"][:, 0].mean()}

    phases = [Phase("A", sgd(model.a), loss), Phase("B", sgd(model.b), lambda *_: {"loss": model.b.sum()}, every=2)]
    trainer = train(model, Stage(phases, forward=forward, update=update, gather=("x", "draw", "y")), accumulate=parts)
    start = model.a.detach().clone()
    metrics = trainer.step(1, 0.5)
    x = trainer.batches(1)["x"]
    batch, outputs, stats = (seen[name] for name in ("batch", "outputs", "stats"))
    assert list(batch) == ["x"] and torch.equal(batch["x"], x) and outputs.keys() == {"draw", "y"}
    torch.testing.assert_close(outputs["y"], x * start)
    assert torch.equal(outputs["draw"], trainer.batches.stream(1, "forward")(2))
    assert len(batch.rng) == 12 and torch.equal(batch.row, torch.arange(12)) and batch.due == {"A", "B"}
    assert stats.keys() == {"A/loss", "A/first", "B/loss"} and not seen["grad"] and not outputs["y"].requires_grad
    torch.testing.assert_close(stats["A/first"], x[:, 0].mean())
    torch.testing.assert_close(metrics["update/mean"], (x * start).mean())
    streams = [batch.rng, *(trainer.batches.stream(1, name) for name in ("forward", "phase:A"))]
    assert len(torch.cat([stream.bits(1) for stream in streams]).unique()) == 36  # no two uses of a row share a stream


# Closures


def test_l_bfgs_reaches_the_optimum_of_a_quadratic_and_draws_the_same_at_every_evaluation():
    model = Scales(3).double()
    matrix = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 400.0]], dtype=torch.float64)
    draws = []

    def quadratic(batch: Batch, outputs: Any) -> dict[str, Tensor]:
        draws.append((outputs["z"], batch.rng(1), batch.shared(1)))
        return {"loss": 0.5 * model.a @ matrix @ model.a - model.a.sum() + 0 * draws[-1][0].sum()}

    optimizer = torch.optim.LBFGS([model.a], max_iter=20, tolerance_change=0.0, line_search_fn="strong_wolfe")
    stage = Stage(
        [Phase("quadratic", optimizer, quadratic, closure=True)], forward=lambda batch: {"z": batch.rng(1).double()}
    )
    trainer = train(model, stage, clip=None, decay="cosine", warmup=100)
    trainer.step(0, 0.9)
    assert len(draws) > 2 and all(torch.equal(a, b) for draw in draws for a, b in zip(draw, draws[0], strict=True))
    trainer.step(1, 0.95)
    torch.testing.assert_close(model.a.detach(), torch.linalg.solve(matrix, torch.ones(3, dtype=torch.float64)))


# Precision


def test_a_stage_in_fp32_stays_in_fp32_where_the_run_is_in_bf16():
    model, seen = nn.Linear(3, 3), []

    def forward(batch: Batch) -> dict[str, Tensor]:
        seen.append(model(batch["x"]).dtype)
        return {}

    def loss(batch: Batch, outputs: Any) -> dict[str, Tensor]:
        y = model(batch["x"])
        seen.append(y.dtype)
        return {"loss": y.square().mean()}

    stages = [
        Stage([Phase("A", sgd(*model.parameters()), loss)], forward=forward, precision=precision)
        for precision in ("fp32", None)
    ]
    trainer = train(model, *stages, precision=BF16)
    trainer.step(0, 0.0)
    trainer.step(1, 0.9)
    assert seen == [torch.float32] * 2 + [torch.bfloat16] * 2


def test_weights_first_used_without_gradients_in_a_block_of_bf16_get_theirs_all_the_same():
    """As in self-conditioning: autocast must not keep the copy that was made where no graph was wanted."""
    model = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 3))
    grads = []

    def loss(batch: Batch, outputs: Any) -> dict[str, Tensor]:
        with torch.no_grad():
            guess = model(batch["x"])
        return {"loss": (model(batch["x"]) - guess.float()).float().sum(1).exp().mean()}

    for precision in (BF16, FP32):
        optimizer = sgd(*model.parameters(), lr=0.0)
        optimizer.step = lambda: grads.append([p.grad.clone() for p in model.parameters()])  # type: ignore[method-assign]
        train(model, Stage([Phase("A", optimizer, loss)]), precision=precision).step(0, 0.0)
    for bf16, fp32 in zip(*grads, strict=True):
        torch.testing.assert_close(bf16, fp32, rtol=0.05, atol=0.05)


def test_a_bf16_copy_of_a_weight_does_not_outlive_the_step_of_its_optimizer():
    """Not even where the user has a block of autocast around the whole step."""
    states = []
    for around in (contextlib.nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        trainer = engine("voxels", clip=0)
        trainer.precision = BF16
        with around:
            walk(trainer, 3)
        states.append(state_of(trainer))
    assert apart(*states) == {}


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
    for one in (model.train(), trainer.best, trainer.best.train()):
        assert not any(module.training for module in one.served.modules())
        assert not any(p.requires_grad for p in one.served.parameters())
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
            prepare=lambda batches, fresh, place=place: order.append((place, fresh, model.training)),
        )
        for place, share in enumerate((1.0, 1e-6, 1.0))
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


# Resume


@every_case
@pytest.mark.parametrize("stop", ["in a stage", "at its end", "before the first step"])
def test_a_resumed_training_is_the_one_that_was_not_interrupted_to_the_bit(case, stop):
    steps = 3
    stages = len(engine(case).stages)
    total, last = steps * stages, steps * (stages - 1)
    at = {"in a stage": last + 1, "at its end": last or total, "before the first step": 0}[stop]
    whole = engine(case)
    walk(whole, steps)
    start = engine(case)
    for number in range(at):
        start.step(number, progress_of(start, number // steps, (number % steps) / steps))
    file = io.BytesIO()
    ema = start.ema.state_dict() if start.ema else {}
    torch.save({"engine": start.state(), "model": start.model.state_dict(), "ema": ema}, file)
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)

    other = build(case)
    for p in (*other.parameters(), *other.buffers()):
        p.data.fill_(0)  # nothing is left of how it was built
    again = engine(case, other)
    again.model.load_state_dict(saved["model"])
    if again.ema:
        again.ema.load_state_dict(saved["ema"])
    again.load_state(saved["engine"])
    prepared = []
    for stage in again.stages[: again.stage + 1]:
        stage.prepare = lambda *_: prepared.append(True)
    walk(again, steps, at)
    assert apart(state_of(whole), state_of(again)) == {} and not prepared
    assert saved["engine"]["stage"] == ((-1, 0) if at == 0 else ((at - 1) // steps, (at - 1) // steps * steps))


# The house


def test_every_registered_model_is_a_case():
    from reverie import registry

    assert set(registry.MODELS) <= CASES.keys() and images(1, 8, 8)["x"].shape == (48, 1, 8, 8)
