"""Autoregressive flow of the patches of an image: each patch shifted and scaled by what a transformer reads before it.

Papamakarios et al., "Masked autoregressive flow", NeurIPS 2017, arXiv:1705.07057; by causal transformers over patches:
Zhai et al., "Normalizing flows are capable generative models", ICML 2025, arXiv:2412.06329.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.dit import from_patches, patches
from reverie.nets.transformer import Cache, Transformer

_BOUND = 4.0  # of |log-scale|: at most a factor of 55 in one step


class PatchAutoregression(nn.Module):
    """z_i = (L x_i - shift(x_<i)) exp(-log_scale(x_<i)) of the patches x_i of an image, in one order of them.

    L is a learned unit triangular matrix: what a value has in common with those before it in its patch is taken away.

    Args:
        shape: (C, H, W) of the images.
        patch_size: side in pixels of a patch, which divides H and W.
        width, depth, heads: of the transformer.
        classes: number of classes (0: no labels).
        backwards: from the last patch to the first.
        offset: pixels by which the grid of patches is moved, with wrap-around.
    """

    def __init__(
        self,
        shape: Sequence[int],
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        classes: int = 0,
        backwards: bool = False,
        offset: int = 0,
    ):
        super().__init__()
        channels, self.rows = shape[0], shape[1] // patch_size
        self.patch_size, self.backwards, self.offset = patch_size, backwards, offset
        self.count, features = self.rows * (shape[2] // patch_size), channels * patch_size**2
        self.stem = nn.Linear(features, width)
        self.positions = nn.Parameter(0.02 * torch.randn(self.count, width))
        self.label_embedding = nn.Embedding(classes + 1, width) if classes else None  # the last row: any class
        self.transformer = Transformer(width, depth, heads)
        self.out = nn.Linear(width, 2 * features)
        self.mixing = nn.Parameter(torch.zeros(features, features))  # below its diagonal that of L
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z (B, C, H, W) of x (B, C, H, W), and log |dz / dx| (B,)."""
        rows = self.to_rows(x)
        inputs = F.pad(self.stem(rows[:, :-1]), (0, 0, 1, 0)) + self.context(label, len(x))
        shift, log_scale = self.terms(self.transformer(inputs), rows.dtype)
        return self.from_rows((self.mixed(rows) - shift) * (-log_scale).exp()), -log_scale.flatten(1).sum(1)

    def inverse(self, z: Tensor, label: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """x (B, C, H, W) of z (B, C, H, W), patch after patch.

        Args:
            guidance: shift and log-scale are extrapolated from those of any class to those of the label, as far
                as this by the last patch; 1: not.
        """
        rows, cache = self.to_rows(z), Cache(self.count)
        guided = guidance != 1 and label is not None
        context = self.context(label, len(z))
        if guided:
            context = torch.cat([context, self.context(None, len(z)).expand_as(context)])
        done: list[Tensor] = []
        for i in range(self.count):
            inputs = context[:, i : i + 1]
            if done:
                previous = self.stem(done[-1])
                inputs = inputs + (torch.cat([previous, previous]) if guided else previous)
            shift, log_scale = self.terms(self.transformer(inputs, cache=cache), rows.dtype)
            if guided:
                scale = 1 + (guidance - 1) * i / max(self.count - 1, 1)
                shift, log_scale = (torch.lerp(term[len(z) :], term[: len(z)], scale) for term in (shift, log_scale))
            done.append(self.unmixed(rows[:, i : i + 1] * log_scale.exp() + shift))
        return self.from_rows(torch.cat(done, 1))

    def mixed(self, rows: Tensor) -> Tensor:
        """L x of patches (B, n, features), in their precision."""
        with torch.autocast(rows.device.type, enabled=False):
            return rows + rows @ self.mixing.tril(-1).T

    def unmixed(self, rows: Tensor) -> Tensor:
        """The inverse of ``mixed``."""
        solved = torch.linalg.solve_triangular(self.mixing, rows.flatten(0, 1).T, upper=False, unitriangular=True)
        return solved.T.reshape(rows.shape)

    def terms(self, hidden: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Shift and log-scale (B, n, features), in the precision of what they apply to."""
        shift, raw = self.out(hidden).to(dtype).chunk(2, 2)
        return shift, _BOUND * torch.tanh(raw / _BOUND)

    def context(self, label: Tensor | None, rows: int) -> Tensor:
        """What the transformer reads besides the patches: positions, and the class (B or 1, N, width)."""
        positions = self.positions[None].expand(rows, -1, -1)
        if self.label_embedding is None:
            return positions
        last = self.label_embedding.num_embeddings - 1
        any_class = torch.full((rows,), last, device=positions.device)
        label = any_class if label is None else torch.where(label < 0, last, label)
        return positions + self.label_embedding(label)[:, None]

    def to_rows(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to patches (B, N, features) in the order of this step."""
        if self.offset:
            x = x.roll((-self.offset, -self.offset), (2, 3))
        rows = patches(x, self.patch_size)
        return rows.flip(1) if self.backwards else rows

    def from_rows(self, rows: Tensor) -> Tensor:
        """The inverse of ``to_rows``."""
        x = from_patches(rows.flip(1) if self.backwards else rows, self.patch_size, self.rows)
        return x.roll((self.offset, self.offset), (2, 3)) if self.offset else x


class PatchFlow(nn.Module):
    """Steps of ``PatchAutoregression`` on images, whose directions alternate; z is a vector.

    Args:
        steps: from the image to z.
        shape: (C, H, W) of the images.
    """

    def __init__(self, steps: Sequence[PatchAutoregression], shape: Sequence[int]):
        super().__init__()
        self.steps, self.shape = nn.ModuleList(steps), tuple(shape)

    def forward(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z (B, C H W) of images (B, C, H, W), and log |dz / dx| in nats (B,)."""
        total = x.new_zeros(len(x))
        for step in self.steps:
            x, log_det = step(x, label)
            total = total + log_det
        return x.flatten(1), total

    def inverse(self, z: Tensor, label: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """Images (B, C, H, W) of z (B, C H W); guidance: see ``PatchAutoregression.inverse``."""
        x = z.unflatten(1, self.shape)
        for step in reversed(self.steps):
            x = step.inverse(x, label, guidance)  # type: ignore[operator]
        return x
