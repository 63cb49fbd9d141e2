"""Errors of samples against their ground truth: two tensors (B, C, *shape) to values (B,)."""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.core.errors import UsageError

WINDOW = 11  # pixels, of SSIM
PEAK = 2.0  # the span of samples, which are in [-1, 1]
GREY_LEVEL = PEAK / 255


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim < 3:
        raise UsageError(f"Both must have the same shape (B, C, ...), not {[*a.shape]} and {[*b.shape]}.")


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error (B,) over channels and positions, of samples of any dimensions."""
    _same_shape(a, b)
    return (a.double() - b.double()).square().flatten(1).mean(1).float()


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute error (B,) over channels and positions, of samples of any dimensions."""
    _same_shape(a, b)
    return (a.double() - b.double()).abs().flatten(1).mean(1).float()


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB, 10 log10(2^2 / mse); infinite for equal samples."""
    return 10 * (PEAK**2 / mse(a, b)).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (B,) in [-1, 1] (Wang, Bovik, Sheikh and Simoncelli 2004).

    Gaussian window of 11 pixels with a deviation of 1.5, K1 = 0.01, K2 = 0.03; the mean over all windows inside the
    image and over channels. Luminance 0 is black, as in the paper.

    Raises:
        UsageError: samples that are no images, or images smaller than the window.
    """
    _same_shape(a, b)
    if a.ndim != 4:
        raise UsageError(f"SSIM needs images (B, C, H, W), not {[*a.shape]}.")
    if min(a.shape[2:]) < WINDOW:
        raise UsageError(f"SSIM needs images of at least {WINDOW} by {WINDOW} pixels.")
    at = torch.arange(WINDOW, dtype=torch.float64, device=a.device) - WINDOW // 2
    window = torch.exp(-at.square() / (2 * 1.5**2))
    window /= window.sum()

    def local(x: Tensor) -> Tensor:
        """The mean under the window, (B, C, H - 10, W - 10)."""
        return (x.unfold(2, WINDOW, 1) @ window).unfold(3, WINDOW, 1) @ window

    x, y = a.double() + 1, b.double() + 1  # black is 0
    mean_x, mean_y = local(x), local(y)
    variance_x, variance_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean((1, 2, 3)).float()


def relative_sharpness(a: Tensor, b: Tensor) -> Tensor:
    """Variance of the Laplacian of ``b`` over that of ``a`` (B,), images (B, C, H, W) of at least 3 by 3 pixels.

    1 is as sharp as ``a``, less is blurred, more is noisier. A variance below one grey level, squared, counts as that,
    so flat images are as sharp as flat ones.

    Raises:
        UsageError: samples that are no images, or smaller ones.
    """
    _same_shape(a, b)
    if a.ndim != 4 or min(a.shape[2:]) < 3:
        raise UsageError(f"Sharpness needs images (B, C, H, W) of at least 3 by 3 pixels, not {[*a.shape]}.")

    def variance(x: Tensor) -> Tensor:
        x = x.double()
        inner = x[..., 1:-1, 1:-1]
        neighbours = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
        return (neighbours - 4 * inner).flatten(2).var(2, correction=0).mean(1).clamp(min=GREY_LEVEL**2)

    return (variance(b) / variance(a)).float()
