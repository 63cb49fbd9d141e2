"""Every phase of every model follows the slope of its own loss, in float64, as the engine computes it."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from engine_cases import CASES, build, doubles, engine, every_case, progress_of
from reverie.nets import dcgan
from reverie.optim.phase import Metrics, Phase

# Losses whose gradient is, on purpose, that of another function: what they detach is held while they are differenced.
STRAIGHT = "the gradient of the codes goes straight through to the latents"
OF_TOKENS = ("vq-vae", "token-transformer", "maskgit", "tokens")
HELD = {
    "codec": "weights and activations are rounded, and their gradient goes straight through",
    "distilled": "the student's own steps, from which it learns, pass no gradient on",
    **{case: STRAIGHT for case in CASES if case.startswith(OF_TOKENS)},
}
# Parameters that a loss does not see, by case and name.
BALANCED = "adding a constant to all logits changes nothing"
WITHIN = "hinge, all logits within the margins: as with wasserstein"
UNMOVED = {
    "ddpm-textbook": {"*.to_k.bias": "a constant added to every key's score leaves the softmax as it is"},
    **{case: {"discriminator.2.bias": WITHIN} for case in ("vq-vae", "vq-vae-0.1-0.0", "vq-vae-codebook-12-0.5")},
    "token-transformer-text": {"token_codec.codec.discriminator.2.bias": WITHIN},
    "learned-inverse": {"gan.discriminator.head.bias": BALANCED},
    "dcgan-wasserstein-2": {"discriminator.head.bias": BALANCED},
    "r3gan": {"discriminator.head.bias": BALANCED},
    "r3gan-diffaugment-2": {"discriminator.head.bias": BALANCED},
    "stylegan2-label-r3": {"discriminator.head.bias": BALANCED},
    "progan": {"discriminator.head.bias": BALANCED},
    "dcgan-ada-hinge": {"discriminator.head.bias": WITHIN},
    "autoencoder-kl-0.1-0.0-2": {"discriminator.2.bias": WITHIN},
}


class Still:
    """Stands in for an optimiser: it notes the gradients, by phase, and moves nothing."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.param_groups, self.state, self.zero_grad = optimizer.param_groups, optimizer.state, optimizer.zero_grad
        self.gradients: list[Tensor | None] = []

    def step(self, closure: Any = None) -> None:
        if closure:
            closure()
        of = [p.grad for group in self.param_groups for p in group["params"]]
        self.gradients = [None if grad is None else grad.clone() for grad in of]


@contextlib.contextmanager
def held_detachments(before: list[Tensor] | None = None) -> Iterator[list[Tensor]]:
    """Within the block ``detach`` gives what it gave ``before``, call by call; else it takes note."""
    detach, calls = Tensor.detach, []

    def noted(self: Tensor) -> Tensor:
        calls.append(detach(self).clone())
        return detach(self) if before is None else detach(before[len(calls) - 1])

    Tensor.detach = noted  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        Tensor.detach = detach  # type: ignore[method-assign]


@dataclass
class Examined:
    """What was seen of a model.

    Attributes:
        slopes: of each stage's phase the slope of its loss along the gradient, and what it should be.
        unmoved: parameters of phases that got a gradient in none.
        repeated: whether each loss was the same when computed twice.
        draws: whether the process's own generator moved.
    """

    slopes: dict[str, tuple[float, float]] = field(default_factory=dict)
    unmoved: set[str] = field(default_factory=set)
    repeated: bool = True
    draws: bool = False


@functools.cache
def examined(case: str) -> Examined:
    """Difference each phase's loss along the gradient that the engine hands to its optimiser."""
    with doubles(), pytest.MonkeyPatch.context() as patch:
        # pixels beyond [-1, 1] get another gradient than a clamp's, by design: here nothing is clamped
        patch.setattr(dcgan, "_ClampPixels", type("Unclamped", (), {"apply": staticmethod(lambda x: x)}))
        generator = torch.random.get_rng_state()
        model = build(case).double()
        trainer = engine(case, model, clip=0, ema=0)
        names = {id(p): name for name, p in model.named_parameters()}
        seen, moved, result = set(), set(), Examined()
        for index, stage in enumerate(trainer.stages):
            stage.update = None
            losses: dict[str, float] = {}
            for phase in stage.phases:
                phase.optimizer = Still(phase.optimizer)  # type: ignore[assignment]
                phase.loss = functools.partial(_noted, phase.loss, losses, phase.name)

            def evaluate(index: int = index, losses: dict[str, float] = losses) -> dict[str, float]:
                trainer.step(0, progress_of(trainer, index))
                return dict(losses)

            first = evaluate()
            with held_detachments() as detached:
                result.repeated &= evaluate() == first
            gradients = {phase.name: phase.optimizer.gradients for phase in stage.phases}
            for phase in stage.phases:
                pairs = list(zip(phase.parameters, gradients[phase.name], strict=True))
                seen |= {names[id(p)] for p, _ in pairs}
                moved |= {names[id(p)] for p, grad in pairs if grad is not None and grad.abs().max() > 1e-12}
                held = functools.partial(held_detachments, detached) if case in HELD else contextlib.nullcontext
                result.slopes[f"{stage.name}/{phase.name}"] = slope(phase, pairs, evaluate, held)
        result.unmoved = seen - moved
        result.draws = not torch.equal(generator, torch.random.get_rng_state())
    return result


def _noted(loss: Any, losses: dict[str, float], name: str, batch: Any, outputs: Any) -> Metrics:
    metrics = loss(batch, outputs)
    losses[name] = metrics["loss"].item()
    return metrics


def slope(phase: Phase, pairs: list[tuple[Tensor, Tensor | None]], evaluate: Any, held: Any) -> tuple[float, float]:
    """(L(theta + h g) - L(theta - h g)) / 2h, for h |g| = 1e-6, and what it should be: |g|^2 over the phase's scale."""
    along = [(p, grad, p.detach().clone()) for p, grad in pairs if grad is not None]
    square = float(sum(grad.square().sum() for _, grad, _ in along))
    h = 1e-6 / square**0.5
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, grad, start in along:
                p.copy_(start + sign * h * grad)
        with held():
            ends.append(evaluate()[phase.name])
    with torch.no_grad():
        for p, _, start in along:
            p.copy_(start)
    return (ends[0] - ends[1]) / (2 * h), square / phase.scale


@every_case
def test_the_derivative_of_a_phase_s_loss_along_its_gradient_is_the_gradient_s_square(case):
    for phase, (actual, square) in examined(case).slopes.items():
        assert square > 1e-12, phase
        assert actual == pytest.approx(square, rel=1e-4), phase


@every_case
def test_every_parameter_of_a_phase_gets_a_gradient(case):
    unmoved, supported = examined(case).unmoved, UNMOVED.get(case, {})
    assert [name for name in unmoved if not any(fnmatch.fnmatch(name, pattern) for pattern in supported)] == []
    assert all(fnmatch.filter(unmoved, pattern) for pattern in supported), "an exception is out of date"


@every_case
def test_losses_draw_from_the_streams_of_the_batch_alone(case):
    assert examined(case).repeated and not examined(case).draws


def test_the_lists_of_exceptions_name_cases():
    assert HELD.keys() | UNMOVED.keys() <= CASES.keys()
