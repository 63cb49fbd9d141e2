"""The diffusion transformer: patches of a picture as a sequence, told the time and the condition in every block.

Peebles and Xie, "Scalable diffusion models with transformers", ICCV 2023, arXiv:2212.09748: adaptive layer
normalisation whose gates start at zero (adaLN-Zero), so that every block is the identity when training starts.
Tokens of a caption are more keys and values of each block's attention, beside the patches' own, and their mean joins
the time and the label.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.unet import attend_with_tokens, embed_label, mean_token, sinusoids

_FREQUENCIES = 256  # of the time's embedding, as in the paper's code


def positions(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """(height * width, channels): for each place of a grid, row after row, sinusoids of its row and of its column."""
    rows, columns = (
        sinusoids(torch.arange(extent, device=device), channels // 2)[:, None].movedim(1, axis)
        for extent, axis in ((height, 1), (width, 0))
    )  # (height, 1, channels / 2), (1, width, channels / 2)
    both = rows.expand(-1, width, -1), columns.expand(height, -1, -1)
    return torch.cat(both, 2).flatten(0, 1)


def patches(x: Tensor, side: int) -> Tensor:
    """(B, C, H, W) to squares of pixels, row after row: (B, H W / side^2, C side^2)."""
    return F.pixel_unshuffle(x, side).flatten(2).transpose(1, 2)


def picture(rows: Tensor, side: int, height: int) -> Tensor:
    """What ``patches`` undid; ``height`` is that of the grid: (B, N, C side^2) to (B, C, H, W)."""
    return F.pixel_shuffle(rows.transpose(1, 2).unflatten(2, (height, -1)), side)


def norm(x: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the channels; gain and shift come from the condition."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class Block(nn.Module):
    """x + gate attention(x), then x + gate perceptron(x), each of a normalised, scaled and shifted x."""

    def __init__(self, width: int, heads: int, context: int):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.context = nn.Linear(context, 2 * width) if context else None
        self.out = nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, told: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        modulation = self.modulation(told)[:, None].chunk(6, 2)  # (B, 1, width) each
        shift, scale, gate, later_shift, later_scale, later_gate = modulation
        x = torch.addcmul(x, gate, self.attention(torch.addcmul(shift, norm(x), 1 + scale), tokens, mask))
        return torch.addcmul(x, later_gate, self.perceptron(torch.addcmul(later_shift, norm(x), 1 + later_scale)))

    def attention(self, x: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        context = None if self.context is None or tokens is None else self.context(tokens.to(x.dtype))
        return self.out(attend_with_tokens(self.queries_keys_values(x), context, mask, self.heads))


class DiffusionTransformer(nn.Module):
    """(B, channels, H, W) and timesteps (B,) to (B, outputs, H, W), for any H and W that the patch divides.

    Args:
        channels: of the pictures.
        patch: side of the squares of pixels that are the places of the sequence.
        width: channels of the sequence, a multiple of 4.
        depth: blocks.
        heads: of attention; they divide the width.
        classes: number of classes (0: no labels).
        context: width of a caption's tokens (0: no captions).
        outputs: channels of the output, as many as of the pictures by default.
    """

    def __init__(
        self,
        channels: int,
        patch: int = 4,
        width: int = 192,
        depth: int = 6,
        heads: int = 3,
        classes: int = 0,
        context: int = 0,
        outputs: int | None = None,
    ):
        super().__init__()
        if width % 4 or width % heads:
            raise ValueError(f"4 and the {heads} heads must divide the width, {width}.")
        self.patch, self.width = patch, width
        self.time = nn.Sequential(nn.Linear(_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width) if classes else None  # the last row: any class
        self.caption = nn.Linear(context, width) if context else None
        self.into = nn.Linear(channels * patch**2, width)
        self.blocks = nn.ModuleList(Block(width, heads, context) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, (outputs or channels) * patch**2)
        for name, parameter in self.named_parameters():
            if name.endswith("bias") or "modulation" in name or name == "out.weight":
                nn.init.zeros_(parameter)
            elif name.startswith(("time", "label")):
                nn.init.normal_(parameter, std=0.02)
            else:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        label: Tensor | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Predict for x (B, C, H, W) at timesteps (B,).

        Args:
            label: classes (B,), -1 or None: any class.
            tokens: a caption's tokens (B, L, context), with mask (B, L) true where there are any.
        """
        told = self.time(sinusoids(timestep, _FREQUENCIES).to(x.dtype))  # (B, width)
        if self.label is not None:
            told = told + embed_label(self.label, label, len(x))
        if self.caption is not None and tokens is not None:
            told = told + self.caption(mean_token(tokens, mask).to(x.dtype))
        told = F.silu(told)
        height, width = (extent // self.patch for extent in x.shape[2:])
        places = positions(height, width, self.width, x.device).to(x.dtype)  # float32 in bf16 training, and so the sum
        rows = self.into(patches(x, self.patch)) + places  # (B, N, width)
        for block in self.blocks:
            rows = block(rows, told, tokens, mask)
        shift, scale = self.modulation(told)[:, None].chunk(2, 2)
        return picture(self.out(norm(rows) * (1 + scale) + shift), self.patch, height)
