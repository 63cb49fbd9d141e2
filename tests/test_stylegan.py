"""StyleGAN's parts against the papers' definitions written out: kernels, filters, path lengths, growing."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reverie import registry
from reverie.adversarial.penalties import path_lengths
from reverie.core.batch import Batch
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.editing.latents import mixed
from reverie.media.medium import to_uint8
from reverie.nets.progressive import GrowingFeatures, GrowingGenerator, larger, smaller
from reverie.nets.stylegan import Conv, GroupDeviation, Modulated, Styled, doubled, normalised, smoothing

FLAT = torch.float64


def by_filter(x, up=1, pad=(0, 0), gain=1.0):
    """Zeros between the pixels, a border of zeros, and the smoothing filter, channel by channel."""
    b, c, h, w = x.shape
    wide = x.new_zeros(b, c, h * up, w * up)
    wide[:, :, ::up, ::up] = x
    wide = F.pad(wide, (pad[0], pad[1], pad[0], pad[1]))
    kernel = smoothing(x)[None, None].expand(c, 1, 4, 4) * gain
    return F.conv2d(wide, kernel, groups=c)


@pytest.mark.parametrize("model", ["stylegan2", "progan"])
@pytest.mark.parametrize("shape", [(8, 12), (20, 20), (3, 5)])
def test_the_size_that_an_error_proposes_is_one_that_builds(model, shape):
    with pytest.raises(UsageError, match="--size") as caught:
        registry.build(model, shape=shape, channels=1, width=8)
    size = int(re.search(r"--size (\d+)", str(caught.value))[1])
    registry.build(model, shape=(size, size), channels=1, width=8)


def test_the_smoothing_filter_sums_to_one():
    assert float(smoothing(torch.zeros(1, dtype=FLAT)).sum()) == 1.0


@pytest.mark.parametrize("up", [False, True])
def test_a_modulated_convolution_is_a_kernel_for_each_picture(up):
    torch.manual_seed(0)
    layer = Modulated(3, 5, 7, up=up).to(FLAT)
    x, w = torch.randn(4, 3, 6, 6, dtype=FLAT), torch.randn(4, 7, dtype=FLAT)
    made = []
    for one, style in zip(x, layer.style(w), strict=True):
        kernel = layer.weight * layer.scale * style[None, :, None, None]
        kernel = kernel * (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        if up:  # the paper's: a transposed convolution of stride 2, then the filter of sum 4
            apart = F.conv_transpose2d(one[None], kernel.transpose(0, 1), stride=2)
            made.append(by_filter(apart, pad=(1, 1), gain=4.0)[0])
        else:
            made.append(F.conv2d(one[None], kernel, padding=1)[0])
    torch.testing.assert_close(layer(x, w), torch.stack(made), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel, pad", [(3, 2), (1, 1)])
def test_halving_is_the_filter_and_then_a_convolution_of_stride_two(kernel, pad):
    torch.manual_seed(0)
    layer = Conv(3, 5, kernel, down=True).to(FLAT)
    x = torch.randn(2, 3, 8, 8, dtype=FLAT)
    by_hand = F.conv2d(by_filter(x, pad=(pad, pad)), layer.weight * layer.scale, layer.bias, stride=2)
    torch.testing.assert_close(layer(x), by_hand)


def test_doubling_a_picture_is_zeros_between_its_pixels_and_the_filter():
    x = torch.randn(2, 3, 5, 5, dtype=FLAT)
    torch.testing.assert_close(doubled(x), by_filter(x, up=2, pad=(2, 1), gain=4.0))


def test_path_lengths_are_those_of_the_jacobian():
    """|J' y| with J by autograd, picture by picture, in float64."""
    torch.manual_seed(0)

    class Curved(torch.nn.Module):
        layers = 2

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(12, 6, dtype=FLAT))

        def forward(self, w, noise=None):
            return torch.tanh(w.flatten(1) @ self.weight.T).unflatten(1, (3, 2, 2))

    net, w = Curved(), torch.randn(3, 2, 3, dtype=FLAT, requires_grad=True)
    found = path_lengths(net, w, Noise.of_seeds(range(3)))
    y = Noise.of_seeds(range(3))(3, 2, 2).double() / 2  # the side of the picture: sqrt(2 x 2)
    for row in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda one: net(one[None]).flatten(), w[row].detach())
        slope = torch.einsum("p,plk->lk", y[row].flatten(), jacobian)
        wanted = slope.square().sum(1).mean().sqrt()
        torch.testing.assert_close(found[row].double(), wanted, rtol=1e-5, atol=1e-5)


def test_the_path_penalty_is_least_where_its_length_is_the_mean_of_lengths():
    model = registry.build("stylegan2", shape=16, channels=1, width=4, latent=8)
    batch = Batch({"x": torch.zeros(8, 1, 16, 16)})
    lengths = model.path_loss(batch.replace(rng=batch.rng[:]), {})["length"].detach()
    losses = []
    for offset in (-0.1, 0.0, 0.1):
        model.stride.copy_(lengths + offset)
        losses.append(float(model.path_loss(batch.replace(rng=batch.rng[:]), {})["loss"].detach()))
    assert losses[1] < min(losses[0], losses[2])
    model.stride.zero_()
    for step in range(400):
        model.adapt(batch, {}, {"G-path/length": lengths} if step % 4 == 0 else {})
    torch.testing.assert_close(model.stride, lengths * (1 - 0.99**100))  # the running mean of the paper


def test_rows_are_normalised_and_noise_of_no_strength_changes_nothing():
    x = torch.randn(5, 8, dtype=FLAT)
    torch.testing.assert_close(normalised(x).square().mean(1), torch.ones(5, dtype=FLAT), rtol=1e-6, atol=1e-6)
    layer = Styled(3, 3, 4)
    x, w = torch.randn(2, 3, 4, 4), torch.randn(2, 4)
    assert torch.equal(layer(x, w, Noise.of_seeds([0, 1])), layer(x, w, None))


def test_group_deviation_is_zero_for_equal_pictures_and_known_for_a_pair():
    group = GroupDeviation()
    x = torch.randn(1, 2, 3, 3)
    assert float(group(x.expand(4, -1, -1, -1))[:, 2:].max()) < 2e-4
    pair = torch.cat([x, x + 2])  # the deviation of {x, x + 2} is 1
    torch.testing.assert_close(group(pair)[:, 2:], torch.ones(2, 1, 3, 3))


@pytest.mark.parametrize("rows", [3, 6, 8])
def test_group_deviation_never_compares_real_images_with_fakes(rows):
    real, fake, group = torch.randn(rows, 2, 3, 3), 5 + torch.randn(rows, 2, 3, 3), GroupDeviation()
    torch.testing.assert_close(group(torch.cat([real, fake]), 2), torch.cat([group(real), group(fake)]))


# Growing


@pytest.mark.parametrize("level", [1, 2])
def test_a_level_is_faded_in_from_the_one_before(level):
    torch.manual_seed(0)
    net, z = GrowingGenerator(16, 1, 5, 4), torch.randn(3, 5)
    before = net(z, level - 1)
    torch.testing.assert_close(net(z, level, 0.0), larger(before))
    assert net(z, level).shape[2] == 2 * before.shape[2]
    torch.testing.assert_close(net(z, level, 1.0), net(z, level))
    half = net(z, level, torch.tensor(0.5))
    torch.testing.assert_close(half, (larger(before) + net(z, level)) / 2)


def test_a_judge_at_no_share_of_a_level_sees_the_picture_made_smaller():
    torch.manual_seed(0)
    net, x = GrowingFeatures(16, 1, 4), torch.randn(4, 1, 16, 16)
    torch.testing.assert_close(net(x, 2, 0.0), net(smaller(x), 1))


@pytest.mark.parametrize("name", ["stylegan", "stylegan2"])
def test_the_three_latent_spaces_lead_to_the_same_picture(name):
    model = registry.build(name, shape=16, channels=1, width=4, latent=8, classes=2).eval()
    z = Noise.of_seeds([5])(8)
    w = model.G.mapping(z)
    picture = model.G(z).clamp(-1, 1)  # without noise inputs
    torch.testing.assert_close(model.decode(w), picture)
    torch.testing.assert_close(model.decode(w[:, None].expand(-1, model.G.layers, -1)), picture)


def test_no_truncation_is_the_plain_picture_and_full_truncation_is_one_for_all():
    model = registry.build("stylegan2", shape=16, channels=1, width=4, latent=8).eval()
    plain = model.sample(Noise.of_seeds(range(3)))
    assert torch.equal(plain, model.sample(Noise.of_seeds(range(3)), truncation=1.0))
    mean = model.sample(Noise.of_seeds(range(3)), truncation=0.0)
    torch.testing.assert_close(mean[0], mean[2])  # noise inputs start with no strength


def test_mixtures_have_coarse_layers_of_the_row_and_fine_ones_of_the_column():
    torch.manual_seed(0)
    model = registry.build("stylegan2", shape=16, channels=1, width=4, latent=8).eval()
    rows, columns, cut = Noise.of_seeds([1, 2]), Noise.of_seeds([3, 4, 1]), 2
    made = mixed(model, rows, columns, cut).reshape(3, 4, 16, 16, 1)
    assert (made[0, 0] == 255).all()
    alone = to_uint8(model.decode(model.latents(Noise.of_seeds([1, 2, 3, 4]))))
    assert np.abs(made[1:, 0].astype(int) - alone[:2]).max() <= 1
    assert np.abs(made[0, 1:].astype(int) - alone[[2, 3, 0]]).max() <= 1
    assert np.abs(made[1, 3].astype(int) - alone[0]).max() <= 1  # with itself: itself
    w = model.latents(Noise.of_seeds([2, 3]))
    styles = torch.cat([w[:1].expand(cut, -1), w[1:].expand(model.G.layers - cut, -1)])[None]
    assert np.abs(made[2, 1].astype(int) - to_uint8(model.decode(styles))[0]).max() <= 1


def test_only_styles_can_be_mixed_and_only_at_a_layer_that_is_there():
    rows = Noise.of_seeds([0])
    with pytest.raises(UsageError, match="stylegan2"):
        mixed(registry.build("dcgan", shape=16, channels=1, width=8), rows, rows, 1)
    with pytest.raises(UsageError, match="from 1 to"):
        mixed(registry.build("stylegan2", shape=16, channels=1, width=4, latent=8), rows, rows, 9)
