"""The layers of coupling flows: thin convolutions, gradients of splines, inverses in float32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import reverie as rv
from reverie.nets.layers.thin import ThinConv3x3
from reverie.probability.splines import rational_quadratic
from reverie.probability.transforms import fit_actnorm


@pytest.mark.parametrize("inverse", [False, True])
def test_the_gradient_of_a_spline_is_that_of_differences(inverse):
    generator = torch.Generator().manual_seed(0)
    x, raw = (3 * torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((20,), (20, 11)))
    function = lambda x, raw: rational_quadratic(x, raw, 5.0, inverse)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x.requires_grad_(), raw.requires_grad_()))


# Networks


@pytest.mark.parametrize("inputs, outputs", [(2, 12), (12, 3), (12, 12)])
def test_a_thin_convolution_is_torch_s_and_so_are_its_gradients_in_every_layout(inputs, outputs):
    torch.manual_seed(0)
    thin, plain = ThinConv3x3(inputs, outputs).double(), nn.Conv2d(inputs, outputs, 3, padding=1).double()
    plain.load_state_dict(thin.state_dict())
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(3, inputs, 4, 5, dtype=torch.float64).to(memory_format=layout).requires_grad_()
        ours, theirs = thin.to(memory_format=layout)(x), plain(x)
        torch.testing.assert_close(ours, theirs)
        for mine, other in zip(
            torch.autograd.grad(ours.square().sum(), [x, *thin.parameters()]),
            torch.autograd.grad(theirs.square().sum(), [x, *plain.parameters()]),
            strict=True,
        ):
            torch.testing.assert_close(mine, other)
        assert torch.autograd.gradgradcheck(lambda x: thin(x).sin(), x[:1])


@pytest.mark.parametrize("name, spread", [("glow", 0.04), ("spline-flow", 0.02)])
def test_images_come_back_from_z_in_float32_where_couplings_are_as_strong_as_trained_ones(name, spread):
    torch.manual_seed(0)
    model = rv.build(name, shape=16, channels=1, width=32).eval()
    image = torch.randint(0, 256, (16, 1, 16, 16)) / 127.5 - 1
    for parameter in model.parameters():
        parameter.data.add_(spread * torch.randn_like(parameter))
    fit_actnorm(model.transform, image)
    with torch.no_grad():
        z = model.encode(image)
        assert z.dtype == torch.float32
        torch.testing.assert_close(model.decode(z), image, rtol=0, atol=5e-6)
