"""An image that is trained, at one size or at several, coarse to fine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.batch import Batch
from reverie.core.card import Card, Output
from reverie.core.errors import ReverieError, argument
from reverie.core.noise import Noise
from reverie.core.verbs import Frame
from reverie.optim.phase import Phase, Stage
from reverie.training.digest import Diverged
from reverie.training.loop import fit

Loss = Callable[[Tensor, Batch], dict[str, Tensor]]  # image (1, C, H, W) to {"loss": scalar, ...}; draws from batch.rng
Optimizer = Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]


class Pixels(nn.Module):
    """The pixels themselves, (N, C, H, W) in [-1, 1]."""

    def __init__(self, shape: tuple[int, int], channels: int = 3, rows: int = 1):
        super().__init__()
        self.pixels = nn.Parameter(torch.zeros(rows, channels, *shape))

    def forward(self) -> Tensor:
        """The images (N, C, H, W)."""
        return self.pixels

    @torch.no_grad()
    def set(self, image: Tensor) -> None:
        """Become ``image`` (1 or N, C, H, W)."""
        self.pixels.copy_(image)


@dataclass
class Level:
    """One size of a canvas.

    Attributes:
        image: a parametrisation: a module without inputs that returns (N, C, H, W), with ``set(image)``; N is 1 for all
            but filters.
        loss: what it is trained for.
        steps: of training.
        begin: the image of the level before, (1, C, h, w), to the start of this one; by default it is enlarged.
    """

    image: Any
    loss: Loss
    steps: int
    begin: Callable[[Tensor], Tensor] | None = None


def resized(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """(B, C, h, w) to (B, C, H, W), antialiased bicubic."""
    return F.interpolate(image, shape, mode="bicubic", antialias=True, align_corners=False)


def resampled(image: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, C, h, w) to (B, C, H, W) by antialiased linear interpolation, which leaves no value outside the image's."""
    return F.interpolate(image, tuple(shape), mode="bilinear", antialias=True, align_corners=False)


def zoomed(image: Tensor, zoom: float) -> Tensor:
    """The middle of an image, enlarged to its size: (B, C, H, W)."""
    matrix = torch.tensor([[1 / zoom, 0.0, 0.0], [0.0, 1 / zoom, 0.0]], device=image.device).expand(len(image), 2, 3)
    grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, "bicubic", "reflection", align_corners=False).clamp(-1, 1)


class Canvas(nn.Module):
    """An image as the only parameter: a stage of training for each level.

    Args:
        levels: coarse to fine.
        optimizer: makes that of a level from its parameters.
        schedule: (step of the level, progress in it) -> factor on the learning rate; constant by default.
        carry: copies state to a level's optimiser from that of the level before: (before, now).
    """

    current: Tensor

    def __init__(
        self,
        levels: Sequence[Level],
        optimizer: Optimizer,
        schedule: Callable[[int, float], float] | None = None,
        carry: Callable[[torch.optim.Optimizer, torch.optim.Optimizer], None] | None = None,
    ):
        super().__init__()
        self.images: Any = nn.ModuleList(level.image for level in levels)
        self.levels, self.optimizer = list(levels), optimizer
        self.schedule, self.carry = schedule or (lambda step, progress: 1.0), carry
        self.register_buffer("current", torch.zeros((), dtype=torch.long))

    @property
    def steps(self) -> int:
        """Of all levels."""
        return sum(level.steps for level in self.levels)

    @property
    def card(self) -> Card:
        image = self.images[-1]()
        return Card(output=Output("image", tuple(image.shape[2:]), image.shape[1]))

    def stages(self) -> list[Stage]:
        optimizers = [self.optimizer([*level.image.parameters()]) for level in self.levels]
        return [self._stage(index, optimizers) for index in range(len(self.levels))]

    def _stage(self, index: int, optimizers: list[torch.optim.Optimizer]) -> Stage:
        level, optimizer = self.levels[index], optimizers[index]

        def prepare(batches: Any, fresh: bool) -> None:
            if index:
                self.images[index].set(self._begin(index, self.images[index - 1]()))
                if self.carry:
                    self.carry(optimizers[index - 1], optimizer)
            self.current.fill_(index)  # last: an interrupted work shows the image that is whole

        def loss(batch: Batch, outputs: Any) -> dict[str, Tensor]:
            return level.loss(self.images[index](), batch)

        phase = Phase("image", optimizer, loss, clip=0.0, schedule=self.schedule)
        return Stage([phase], f"level{index}", level.steps, prepare, precision="fp32")

    def _begin(self, index: int, before: Tensor) -> Tensor:
        begin = self.levels[index].begin
        return begin(before) if begin else resized(before, self.images[index]().shape[2:])

    @torch.no_grad()
    def finished(self) -> Tensor:
        """The image in the size of the last level, (1, C, H, W) in [-1, 1]: levels to come begin, and train nothing."""
        image = self.images[int(self.current)]()
        for index in range(int(self.current) + 1, len(self.levels)):
            image = self._begin(index, image)
        return image.clamp(-1, 1)

    def image(self) -> Tensor:
        """The image of the current level, (1, C, H, W) in [-1, 1]."""
        return self.images[int(self.current)]().detach().clamp(-1, 1)

    def sample(self, noise: Noise, **condition: Any) -> Tensor:
        """The image (B, C, H, W), the same in every row."""
        return self.image().expand(len(noise), -1, -1, -1)


def paint(
    canvas: Canvas, seed: int = 0, ema: float = 0.0, device: str = "auto", remedy: str = "", **options: Any
) -> Iterator[Frame]:
    """Train a canvas; a frame after each step, with its metrics as 0-dim tensors.

    Args:
        ema: decay of the average of iterates, whose image the frames show; 0: the image itself.
        remedy: what to do about an image that diverges; by default a lower lr or fp32.
        options: of ``fit``.
    Raises:
        ReverieError: the image diverged.
    """
    try:
        for step in fit(canvas, steps=canvas.steps, seed=seed, ema=ema, device=device, **options):
            yield Frame(step.progress, {**step.metrics.tensors}, functools.partial(_render, step.best))
    except Diverged as error:
        remedy = remedy or f"Try a lower {argument('lr')}, smaller weights, or {argument('precision', 'fp32')}."
        raise ReverieError(
            f"The image diverged at step {error.step + 1}: its loss is {error.loss:g}. {remedy}"
        ) from error


def _render(canvas: Any) -> dict[str, Tensor]:
    return {"image": canvas.image()}
