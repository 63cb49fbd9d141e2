"""The training step: what phases, parts, updates, closures and precision promise."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine_cases import (
    BF16,
    FP32,
    Scales,
    apart,
    build,
    doubles,
    engine,
    every_case,
    sgd,
    state_of,
    train,
    walk,
)
from reverie.core.batch import Batch
from reverie.core.errors import UsageError
from reverie.optim.phase import Phase, Stage, adamw

# Parts


@every_case
def test_parts_of_a_batch_give_what_the_whole_gives(case):
    """In float64: weights, buffers, average and moments, with pools, codebooks, chains and drawing layers."""
    with doubles():
        states = []
        for parts in (1, 2, 3):
            trainer = engine(case, build(case).double(), batch_size=12, accumulate=parts)
            walk(trainer, 2)
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


@pytest.mark.parametrize("case, net", [("voxels", "generator"), ("dcgan", "generator"), ("stylegan2", "generator")])
def test_a_discriminator_s_phase_builds_no_graph_of_the_generator_with_parts(case, net):
    trainer = engine(case, batch_size=16, accumulate=2)
    graphs: dict[str, list[bool]] = {}
    model: Any = trainer.model
    for phase in trainer.stages[0].phases:
        phase.loss = _log_after(phase, graphs)
    passes = graphs.setdefault("", [])
    getattr(model, net).register_forward_pre_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    if case == "stylegan2":  # whose generator is called through its parts
        model.generator.synthesis.register_forward_pre_hook(lambda *_: passes.append(torch.is_grad_enabled()))
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
    with pytest.raises(UsageError, match=r"groups of 4 rows.*batch_size=12"):
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
    assert [float(optimizer["state"][0]["step"]) for optimizer in state["optimizers"]] == [6, 4]


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


def test_frozen_parameters_in_an_optimiser_stand_still_and_others_move():
    model = Scales()
    model.b.requires_grad_(False)
    before = model.a.detach().clone(), model.b.detach().clone()
    optimizer = torch.optim.SGD([model.a, model.b], 0.1)
    loss = Phase("A", optimizer, lambda batch, outputs: {"loss": (model.a + model.b).square().sum()})
    train(model, Stage([loss])).step(0, 0.0)
    assert not torch.equal(model.a, before[0]) and torch.equal(model.b, before[1])


def test_state_of_other_optimisers_or_phases_is_refused():
    model = Scales()
    saved = train(model, Stage([Phase("A", sgd(model.a), model.square)])).state()
    for phases in (
        [Phase("A", adamw([model.a], 0.1), model.square)],
        [Phase("B", sgd(model.a), model.square)],
        [Phase("A", sgd(model.a, model.b), model.square)],
    ):
        with pytest.raises(UsageError, match="cannot go on"):
            train(model, Stage(phases)).load_state(saved)


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


@pytest.mark.parametrize("parts", [1, 2])
def test_the_step_of_a_batch_counts_from_the_beginning_of_its_stage_also_after_a_resume(parts):
    seen: list[tuple[str, int]] = []

    def stages(model: Scales) -> list[Stage]:
        def count(name: str) -> Callable[..., dict[str, Tensor]]:
            def call(batch: Batch, *_: Any) -> dict[str, Tensor]:
                seen.append((name, batch.step))
                return {"loss": model.a.square().sum()}

            return call

        phases = [Phase("A", sgd(model.a), count("loss"))]
        return [Stage(phases, forward=count("forward"), update=count("update")) for _ in range(2)]

    model = Scales()
    trainer = train(model, *stages(model), accumulate=parts)
    for number, progress in ((4, 0.0), (5, 0.3), (6, 0.5), (7, 0.7)):
        trainer.step(number, progress)
    again = train(model, *stages(model), accumulate=parts)
    again.load_state(trainer.state())
    again.step(8, 0.9)
    for name in ("forward", "loss"):
        assert [step for which, step in seen if which == name] == [s for s in (0, 1, 0, 1, 2) for _ in range(parts)]
    assert [step for which, step in seen if which == "update"] == [0, 1, 0, 1, 2]


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
