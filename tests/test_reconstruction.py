"""Scores of single images against closed forms, loops and torchmetrics."""

import math

import pytest
import torch

from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.evaluation.reconstruction import mse, psnr, relative_sharpness, ssim


def pairs(count=3, channels=3, height=17, width=14):
    noise = Noise.of_seeds(range(count))
    a = noise.uniform(channels, height, width, low=-1, high=1)
    return a, (a + 0.4 * noise(channels, height, width)).clamp(-1, 1)


def test_mse_and_psnr_of_a_known_gap_are_their_closed_forms_for_each_image():
    a = torch.zeros(3, 1, 4, 4)
    b = torch.stack([torch.full((1, 4, 4), gap) for gap in (0.0, 0.2, 2.0)])
    assert mse(a, b).tolist() == pytest.approx([0, 0.04, 4])
    assert psnr(a, b).tolist() == pytest.approx([math.inf, 20, 0])
    assert mse(a, b).dtype == torch.float32
    for score in (mse, psnr, ssim):
        with pytest.raises(UsageError, match="same shape"):
            score(a, b[:2])


def test_ssim_equals_a_loop_over_windows():
    a, b = pairs(2, 2, 12, 13)
    at = torch.arange(-5, 6).double()
    window = torch.exp(-(at[:, None] ** 2 + at**2) / 4.5)
    window /= window.sum()

    def single(x, y):
        values = []
        for top in range(x.shape[0] - 10):
            for left in range(x.shape[1] - 10):
                p, q = (z[top : top + 11, left : left + 11].double() for z in (x + 1, y + 1))
                m, n = (window * p).sum(), (window * q).sum()
                v, w = (window * (p - m) ** 2).sum(), (window * (q - n) ** 2).sum()
                c = (window * (p - m) * (q - n)).sum()
                single, two = 0.02**2, 0.06**2
                values.append((2 * m * n + single) * (2 * c + two) / ((m * m + n * n + single) * (v + w + two)))
        return torch.stack(values).mean()

    expected = [
        torch.stack([single(*maps) for maps in zip(*both, strict=True)]).mean() for both in zip(a, b, strict=True)
    ]
    assert ssim(a, b).tolist() == pytest.approx([float(e) for e in expected], rel=1e-6)


def test_ssim_of_an_image_and_itself_is_one_and_of_its_negative_is_below_zero():
    a, b = pairs()
    assert ssim(a, a).tolist() == pytest.approx([1, 1, 1])
    assert torch.equal(ssim(a, b), ssim(b, a)) and ssim(a, b).max() < 1
    assert ssim(a, -a).max() < 0
    with pytest.raises(UsageError, match="11 by 11"):
        ssim(a[..., :10], b[..., :10])


def test_ssim_and_psnr_equal_torchmetrics():
    pytest.importorskip("torchmetrics")
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    a, b = pairs(4, 3, 40, 33)
    # torchmetrics averages over windows that reach into a reflected border, too: take those inside
    _, windows = structural_similarity_index_measure(b + 1, a + 1, data_range=2.0, return_full_image=True)
    assert torch.allclose(ssim(a, b), windows[..., 5:-5, 5:-5].mean((1, 2, 3)), atol=2e-5)
    theirs = peak_signal_noise_ratio(b, a, data_range=2.0, reduction="none", dim=(1, 2, 3))
    assert torch.allclose(psnr(a, b), theirs, atol=1e-4)


def test_sharpness_is_the_ratio_of_the_variances_of_the_laplacian():
    a, _ = pairs()
    assert relative_sharpness(a, a).tolist() == pytest.approx([1, 1, 1])
    assert relative_sharpness(a, a / 2).tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 4])
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    stripes, checkers = (((-1.0) ** x).expand(1, 1, 6, 6) for x in (columns, rows + columns))
    assert float(relative_sharpness(stripes, checkers)) == pytest.approx(4)  # Laplacians of +-4 and +-8
    flat = torch.zeros(1, 1, 6, 6)
    assert float(relative_sharpness(flat, flat + 1)) == 1
    with pytest.raises(UsageError, match="3 by 3"):
        relative_sharpness(a[..., :2], a[..., :2])
