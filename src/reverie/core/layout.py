"""Where a model's weights lie: on which device, and with channels last in memory."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(tensor: Tensor) -> Tensor:
    """The same values with channels last in memory: (B, C, H, W) and (B, C, D, H, W); others as they are."""
    layout = _FORMATS.get(tensor.ndim)
    return tensor if layout is None else tensor.contiguous(memory_format=layout)


@torch.no_grad()
def place(model: Net, device: torch.device | str) -> Net:
    """The model on a device, each weight in the layout of its number of dimensions."""
    model = model.to(device)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = channels_last(tensor.data)
    return model
