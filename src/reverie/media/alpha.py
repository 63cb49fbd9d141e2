"""Transparency: images of four channels, RGBA.

Stored rows and files have straight alpha: the colour of a pixel is its own, whatever its opacity. Models see
premultiplied alpha: each colour times its opacity, so that a transparent pixel has one value, edges have no colour of
their own, and an error weighs what can be seen of it. (Porter and Duff, SIGGRAPH 1984)

A stored colour is what its eight premultiplied bits give back, so both directions are exact, and a transparent pixel
is (0, 0, 0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

WHITE = (255, 255, 255)


def is_rgba(rows: Any, axis: int = -1) -> bool:
    """Whether an array or tensor holds RGBA images: (N, H, W, 4), or (N, 4, H, W) where the channels' axis is 1."""
    return rows.ndim == 4 and rows.shape[axis] == 4


def premultiplied(rows: np.ndarray) -> np.ndarray:
    """Straight to premultiplied alpha, both uint8 (..., 4)."""
    result = np.rint(rows * (rows[..., 3:] / np.float32(255)))
    result[..., 3] = rows[..., 3]
    return result.astype(np.uint8)


def straight(rows: np.ndarray) -> np.ndarray:
    """Premultiplied to straight alpha, both uint8 (..., 4); a colour beyond its opacity is clipped."""
    opacity = rows[..., 3:].astype(np.float32)
    result = np.rint(np.minimum(rows, opacity) * np.float32(255) / np.maximum(opacity, 1))
    result[..., 3] = rows[..., 3]
    return result.astype(np.uint8)


def canonical(rows: np.ndarray) -> np.ndarray:
    """Straight alpha, uint8 (..., 4), with the colours that survive premultiplication."""
    return straight(premultiplied(rows))


def composited(rows: np.ndarray, background: Sequence[int] = WHITE) -> np.ndarray:
    """Straight alpha, uint8 (..., 4), on a background: uint8 (..., 3). Rows of other channels stay."""
    if rows.shape[-1] != 4:
        return rows
    opacity = rows[..., 3:] / np.float32(255)
    behind = np.asarray(background, np.float32)
    return np.rint(rows[..., :3] * opacity + behind * (1 - opacity)).astype(np.uint8)


def with_channels(rows: np.ndarray, channels: int) -> np.ndarray:
    """uint8 (..., C) with at least as many channels: grey to equal colours, opaque where it had no alpha."""
    rows = rows.repeat(3, -1) if rows.shape[-1] == 1 < channels else rows
    if rows.shape[-1] < channels:
        rows = np.concatenate([rows, np.full_like(rows[..., :1], 255)], -1)
    return rows
