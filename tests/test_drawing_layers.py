"""Layers that draw in training: a row's mask is its own, whatever the batch, the parts and the recomputation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine_cases import FP32, Batches, apart, doubles, state_of
from reverie.core.batch import Batch
from reverie.core.noise import Noise
from reverie.nets.layers.dropout import Dropout, checkpointed, drawing
from reverie.optim.phase import Phase, Stage
from reverie.training.step import Engine


def masks(noise: Noise, rows: int, calls: int = 1, p: float = 0.5, shape: tuple[int, ...] = (40,)) -> list[Tensor]:
    """What the layer makes of ones, call by call."""
    layer = Dropout(p)
    with drawing([layer], noise):
        return [layer(torch.ones(rows, *shape)) for _ in range(calls)]


def test_the_mask_of_a_row_does_not_depend_on_its_batch():
    noise = Noise.of_seeds(range(8))
    (together,) = masks(noise, 8)
    assert len({tuple(row.tolist()) for row in together}) == 8
    for low, high in ((0, 1), (3, 5), (5, 8)):
        assert torch.equal(masks(noise[low:high], high - low)[0], together[low:high])


def test_stacked_copies_of_a_batch_and_further_calls_get_masks_of_their_own():
    noise = Noise.of_seeds(range(4))
    (twice,) = masks(noise, 8)
    real, fake = twice.chunk(2)
    first, second = masks(noise, 4, calls=2)
    assert torch.equal(real, first)
    assert all((a != b).any(1).all() for a, b in ((real, fake), (first, second), (fake, second)))
    for rows in (3, 6):
        with pytest.raises(RuntimeError, match=f"saw {rows} rows in a batch of 4"):
            masks(noise, rows)


def test_layers_of_one_model_have_masks_of_their_own_and_keep_no_stream():
    layers = [Dropout(0.5), Dropout(0.5)]
    with drawing(layers, Noise.of_seeds(range(4))):
        a, b = (layer(torch.ones(4, 40)) for layer in layers)
    assert (a != b).any(1).all() and all(layer.noise is None for layer in layers)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_that_is_kept_is_exact_and_so_is_the_mean(p):
    (x,) = masks(Noise.of_seeds(range(64)), 64, p=p, shape=(3, 37, 5))  # no multiple of the eight masks of a word
    kept = 1 - round(256 * p) / 256
    share = (x > 0).double().mean().item()
    assert x.shape == (64, 3, 37, 5) and x.unique().tolist() == [0.0, pytest.approx(1 / kept)]
    assert share == pytest.approx(kept, abs=5 * (p * (1 - p) / x.numel()) ** 0.5)


def test_a_mask_falls_on_the_same_elements_in_any_layout():
    layer, x = Dropout(0.5), torch.ones(4, 3, 5, 7)
    outputs = []
    for inputs in (x, x.contiguous(memory_format=torch.channels_last)):
        with drawing([layer], Noise.of_seeds(range(4))):
            outputs.append(layer(inputs))
    assert torch.equal(*outputs)


def test_it_is_the_identity_in_eval_and_at_p_0_and_refuses_to_draw_outside_a_step():
    x = torch.randn(2, 5)
    assert Dropout(0.5).eval()(x) is x and Dropout(0.0)(x) is x
    with pytest.raises(RuntimeError, match=r"no training step is running: call eval\(\)"):
        Dropout(0.5)(x)
    for p in (-0.1, 1.0):
        with pytest.raises(ValueError, match="from 0 to below 1"):
            Dropout(p)


class Dropped(nn.Module):
    """Three blocks with dropout, the second called twice, in ``forward`` or in the loss, checkpointed or not."""

    def __init__(self, in_forward: bool, checkpoint: bool):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(3, 3), Dropout(0.3), nn.SiLU()) for _ in range(3))
        self.in_forward, self.checkpoint = in_forward, checkpoint

    def stages(self) -> list[Stage]:
        phase = Phase("A", torch.optim.SGD(self.parameters(), 0.1), self.loss)
        return [Stage([phase], forward=self.make if self.in_forward else None)]

    def net(self, x: Tensor) -> Tensor:
        for index in (0, 1, 1, 2):
            block = self.blocks[index]
            x = x + (checkpointed(block, x) if self.checkpoint else block(x))
        return x

    def make(self, batch: Batch) -> dict[str, Tensor]:
        return {"y": self.net(batch["x"])}

    def loss(self, batch: Batch, outputs: Any) -> dict[str, Tensor]:
        y = outputs["y"] if self.in_forward else self.net(batch["x"])
        return {"loss": (y + self.net(batch["x"])).square().mean()}


@pytest.mark.parametrize("in_forward", [True, False])
def test_parts_and_checkpointing_change_neither_masks_nor_gradients(in_forward):
    states = []
    with doubles():
        x = torch.linspace(-1, 1, 36).view(12, 3)
        for checkpoint in (False, True):
            for parts in (1, 2, 3):
                model = Dropped(in_forward, checkpoint)
                trainer = Engine(model, model.stages(), Batches({"x": x}, 12), FP32, accumulate=parts)
                for step in range(3):
                    trainer.step(step, 0.0)
                states.append(state_of(trainer))
    assert [apart(states[0], other, 1e-12) for other in states[1:]] == [{}] * 5


def test_a_step_s_masks_are_new_in_the_next_and_the_same_again_after_a_resume():
    seen = []
    layer = Dropout(0.5)
    model = nn.ModuleDict({"layer": layer, "net": nn.Linear(3, 3)})

    def loss(batch: Batch, outputs: Any) -> dict[str, Tensor]:
        seen.append(layer(torch.ones(12, 40)))
        return {"loss": model["net"](batch["x"]).square().mean()}

    def trainer() -> Engine:
        phases = [Phase(name, torch.optim.SGD(model.parameters(), 0.1), loss) for name in ("A", "B")]
        return Engine(model, [Stage(phases)], Batches({"x": torch.ones(12, 3)}, 12), FP32)

    first = trainer()
    first.step(0, 0.0)
    first.step(1, 0.0)
    trainer().step(1, 0.0)
    assert len({tuple(mask.flatten().tolist()) for mask in seen[:4]}) == 4  # two phases of two steps
    assert torch.equal(seen[2], seen[4]) and torch.equal(seen[3], seen[5])
