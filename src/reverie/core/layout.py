"""The memory of a model's weights: device and channels-last layout."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(tensor: Tensor) -> Tensor:
    """Channels last in memory for (B, C, H, W) and (B, C, D, H, W); other tensors unchanged."""
    layout = _FORMATS.get(tensor.ndim)
    return tensor if layout is None else tensor.contiguous(memory_format=layout)


@torch.no_grad()
def to_device_layout(model: Net, device: torch.device | str) -> Net:
    """Move a model to a device, with channels-last weights."""
    model = model.to(device)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = channels_last(tensor.data)
    return model
