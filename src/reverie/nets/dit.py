"""The diffusion transformer: patches of an image as a sequence, conditioned in every block.

Peebles and Xie, "Scalable diffusion models with transformers", ICCV 2023, arXiv:2212.09748: adaptive layer
normalisation whose gates start at zero (adaLN-Zero), so that every block is the identity when training starts.
Tokens of a caption are additional keys and values of each block's attention, and their mean is added to the embeddings
of time and label.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.unet import attend_with_tokens, embed_label, mean_token, sinusoids

_FREQUENCIES = 256  # of the time's embedding, as in the paper's code


def positions(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """(height * width, channels): sinusoids of the row and the column of each grid position, row by row."""
    rows, columns = (
        sinusoids(torch.arange(extent, device=device), channels // 2)[:, None].movedim(1, axis)
        for extent, axis in ((height, 1), (width, 0))
    )  # (height, 1, channels / 2), (1, width, channels / 2)
    both = rows.expand(-1, width, -1), columns.expand(height, -1, -1)
    return torch.cat(both, 2).flatten(0, 1)


def patches(x: Tensor, side: int) -> Tensor:
    """(B, C, H, W) to square patches, row by row: (B, H W / side^2, C side^2)."""
    return F.pixel_unshuffle(x, side).flatten(2).transpose(1, 2)


def from_patches(rows: Tensor, side: int, height: int) -> Tensor:
    """The inverse of ``patches``, with the height of the grid: (B, N, C side^2) to (B, C, H, W)."""
    return F.pixel_shuffle(rows.transpose(1, 2).unflatten(2, (height, -1)), side)


def norm(x: Tensor) -> Tensor:
    """Layer normalisation over the channels, without gain and shift: these come from the condition."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class Block(nn.Module):
    """x + gate attention(x), then x + gate mlp(x), each on a normalised, scaled and shifted x."""

    def __init__(self, width: int, heads: int, context: int):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.context_kv = nn.Linear(context, 2 * width) if context else None
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, condition: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        modulation = self.modulation(condition)[:, None].chunk(6, 2)  # (B, 1, width) each
        shift, scale, gate, later_shift, later_scale, later_gate = modulation
        x = torch.addcmul(x, gate, self.attention(torch.addcmul(shift, norm(x), 1 + scale), tokens, mask))
        return torch.addcmul(x, later_gate, self.mlp(torch.addcmul(later_shift, norm(x), 1 + later_scale)))

    def attention(self, x: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        context = None if self.context_kv is None or tokens is None else self.context_kv(tokens.to(x.dtype))
        return self.out(attend_with_tokens(self.qkv(x), context, mask, self.heads))


class DiffusionTransformer(nn.Module):
    """(B, channels, H, W) and timesteps (B,) to (B, outputs, H, W), for any H and W that the patch divides.

    Args:
        channels: of the images.
        patch_size: side of the patches in pixels; each is a token.
        width: channels of the sequence, a multiple of 4.
        depth: blocks.
        heads: of attention; they divide the width.
        classes: number of classes (0: no labels).
        context: width of a caption's tokens (0: no captions).
        outputs: channels of the output, by default those of the images.
    """

    def __init__(
        self,
        channels: int,
        patch_size: int = 4,
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
        self.patch_size, self.width = patch_size, width
        self.time = nn.Sequential(nn.Linear(_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.label_embedding = nn.Embedding(classes + 1, width) if classes else None  # the last row: any class
        self.text_proj = nn.Linear(context, width) if context else None
        self.stem = nn.Linear(channels * patch_size**2, width)
        self.blocks = nn.ModuleList(Block(width, heads, context) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, (outputs or channels) * patch_size**2)
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
            tokens, mask: a caption's tokens (B, L, context), and (B, L) true for valid tokens.
        """
        condition = self.time(sinusoids(timestep, _FREQUENCIES).to(x.dtype))  # (B, width)
        if self.label_embedding is not None:
            condition = condition + embed_label(self.label_embedding, label, len(x))
        if self.text_proj is not None and tokens is not None:
            condition = condition + self.text_proj(mean_token(tokens, mask).to(x.dtype))
        condition = F.silu(condition)
        height, width = (extent // self.patch_size for extent in x.shape[2:])
        embedding = positions(height, width, self.width, x.device).to(x.dtype)  # float32 under autocast, so is the sum
        rows = self.stem(patches(x, self.patch_size)) + embedding  # (B, N, width)
        for block in self.blocks:
            rows = block(rows, condition, tokens, mask)
        shift, scale = self.modulation(condition)[:, None].chunk(2, 2)
        return from_patches(self.out(norm(rows) * (1 + scale) + shift), self.patch_size, height)
