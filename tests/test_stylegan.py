"""StyleGAN's parts against the papers' definitions written out: kernels, filters, path lengths, growing."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reverie.adversarial.penalties import path_lengths
from reverie.core import registry
from reverie.core.batch import Batch
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.media.medium import to_uint8
from reverie.nets.progressive import GrowingFeatures, GrowingGenerator, downsample2d
from reverie.nets.progressive import upsample2d as repeat2d
from reverie.nets.stylegan import (
    EqualizedConv2d,
    MinibatchStdDev,
    ModulatedConv2d,
    StyledConv,
    pixel_norm,
    smoothing,
    upsample2d,
)
from reverie.views.latents import mix

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
    with pytest.raises(UsageError, match="size=") as caught:
        registry.build(model, shape=shape, channels=1, width=8)
    size = int(re.search(r"size='?(\d+)", str(caught.value))[1])
    registry.build(model, shape=(size, size), channels=1, width=8)


def test_the_smoothing_filter_sums_to_one():
    assert float(smoothing(torch.zeros(1, dtype=FLAT)).sum()) == 1.0


@pytest.mark.parametrize("up", [False, True])
def test_a_modulated_convolution_is_a_kernel_for_each_image(up):
    torch.manual_seed(0)
    layer = ModulatedConv2d(3, 5, 7, up=up).to(FLAT)
    x, w = torch.randn(4, 3, 6, 6, dtype=FLAT), torch.randn(4, 7, dtype=FLAT)
    expected = []
    for image, style in zip(x, layer.style(w), strict=True):
        kernel = layer.weight * layer.scale * style[None, :, None, None]
        kernel = kernel * (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        if up:  # the paper's: a transposed convolution of stride 2, then the filter of sum 4
            apart = F.conv_transpose2d(image[None], kernel.transpose(0, 1), stride=2)
            expected.append(by_filter(apart, pad=(1, 1), gain=4.0)[0])
        else:
            expected.append(F.conv2d(image[None], kernel, padding=1)[0])
    torch.testing.assert_close(layer(x, w), torch.stack(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel, pad", [(3, 2), (1, 1)])
def test_halving_is_the_filter_and_then_a_convolution_of_stride_two(kernel, pad):
    torch.manual_seed(0)
    layer = EqualizedConv2d(3, 5, kernel, down=True).to(FLAT)
    x = torch.randn(2, 3, 8, 8, dtype=FLAT)
    by_hand = F.conv2d(by_filter(x, pad=(pad, pad)), layer.weight * layer.scale, layer.bias, stride=2)
    torch.testing.assert_close(layer(x), by_hand)


def test_upsampling_is_zeros_between_the_pixels_and_the_filter():
    x = torch.randn(2, 3, 5, 5, dtype=FLAT)
    torch.testing.assert_close(upsample2d(x), by_filter(x, up=2, pad=(2, 1), gain=4.0))


def test_path_lengths_are_those_of_the_jacobian():
    """|J' y| with J by autograd, image by image, in float64."""
    torch.manual_seed(0)

    class Curved(torch.nn.Module):
        layers = 2

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(12, 6, dtype=FLAT))

        def forward(self, w, noise=None):
            return torch.tanh(w.flatten(1) @ self.weight.T).unflatten(1, (3, 2, 2))

    net, w = Curved(), torch.randn(3, 2, 3, dtype=FLAT, requires_grad=True)
    lengths = path_lengths(net, w, Noise.of_seeds(range(3)))
    y = Noise.of_seeds(range(3))(3, 2, 2).double() / 2  # the side of the image: sqrt(2 x 2)
    for row in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda styles: net(styles[None]).flatten(), w[row].detach())
        grad = torch.einsum("p,plk->lk", y[row].flatten(), jacobian)
        expected = grad.square().sum(1).mean().sqrt()
        torch.testing.assert_close(lengths[row].double(), expected, rtol=1e-5, atol=1e-5)


def test_the_path_penalty_is_least_where_its_length_is_the_mean_of_lengths():
    model = registry.build("stylegan2", shape=16, channels=1, width=4, latent=8)
    batch = Batch({"x": torch.zeros(8, 1, 16, 16)})
    lengths = model.path_loss(batch.replace(rng=batch.rng[:]), {})["length"].detach()
    losses = []
    for offset in (-0.1, 0.0, 0.1):
        model.path_length_mean.copy_(lengths + offset)
        losses.append(float(model.path_loss(batch.replace(rng=batch.rng[:]), {})["loss"].detach()))
    assert losses[1] < min(losses[0], losses[2])
    model.path_length_mean.zero_()
    for step in range(400):
        model.update_buffers(batch, {}, {"G-path/length": lengths} if step % 4 == 0 else {})
    torch.testing.assert_close(model.path_length_mean, lengths * (1 - 0.99**100))  # the running mean of the paper


def test_rows_are_normalised_and_noise_of_no_strength_changes_nothing():
    x = torch.randn(5, 8, dtype=FLAT)
    torch.testing.assert_close(pixel_norm(x).square().mean(1), torch.ones(5, dtype=FLAT), rtol=1e-6, atol=1e-6)
    layer = StyledConv(3, 3, 4)
    x, w = torch.randn(2, 3, 4, 4), torch.randn(2, 4)
    assert torch.equal(layer(x, w, Noise.of_seeds([0, 1])), layer(x, w, None))


def test_minibatch_deviation_is_zero_for_equal_images_and_known_for_a_pair():
    group = MinibatchStdDev()
    x = torch.randn(1, 2, 3, 3)
    assert float(group(x.expand(4, -1, -1, -1))[:, 2:].max()) < 2e-4
    pair = torch.cat([x, x + 2])  # the deviation of {x, x + 2} is 1
    torch.testing.assert_close(group(pair)[:, 2:], torch.ones(2, 1, 3, 3))


@pytest.mark.parametrize("rows", [3, 6, 8])
def test_minibatch_deviation_never_compares_real_images_with_fakes(rows):
    real, fake, group = torch.randn(rows, 2, 3, 3), 5 + torch.randn(rows, 2, 3, 3), MinibatchStdDev()
    torch.testing.assert_close(group(torch.cat([real, fake]), 2), torch.cat([group(real), group(fake)]))


# Growing


@pytest.mark.parametrize("level", [1, 2])
def test_a_level_is_faded_in_from_the_one_before(level):
    torch.manual_seed(0)
    net, z = GrowingGenerator(16, 1, 5, 4), torch.randn(3, 5)
    before = net(z, level - 1)
    torch.testing.assert_close(net(z, level, 0.0), repeat2d(before))
    assert net(z, level).shape[2] == 2 * before.shape[2]
    torch.testing.assert_close(net(z, level, 1.0), net(z, level))
    half = net(z, level, torch.tensor(0.5))
    torch.testing.assert_close(half, (repeat2d(before) + net(z, level)) / 2)


def test_a_discriminator_at_fade_alpha_0_of_a_level_sees_the_downsampled_image():
    torch.manual_seed(0)
    net, x = GrowingFeatures(16, 1, 4), torch.randn(4, 1, 16, 16)
    torch.testing.assert_close(net(x, 2, 0.0), net(downsample2d(x), 1))


@pytest.mark.parametrize("name", ["stylegan", "stylegan2"])
def test_the_three_latent_spaces_lead_to_the_same_image(name):
    model = registry.build(name, shape=16, channels=1, width=4, latent=8, classes=2).eval()
    z = Noise.of_seeds([5])(8)
    w = model.generator.mapping(z)
    image = model.generator(z).clamp(-1, 1)  # without noise inputs
    torch.testing.assert_close(model.decode(w), image)
    torch.testing.assert_close(model.decode(w[:, None].expand(-1, model.generator.layers, -1)), image)


def test_no_truncation_is_the_plain_image_and_full_truncation_is_the_same_for_all():
    model = registry.build("stylegan2", shape=16, channels=1, width=4, latent=8).eval()
    plain = model.sample(Noise.of_seeds(range(3)))
    assert torch.equal(plain, model.sample(Noise.of_seeds(range(3)), truncation=1.0))
    mean = model.sample(Noise.of_seeds(range(3)), truncation=0.0)
    torch.testing.assert_close(mean[0], mean[2])  # noise inputs start with no strength


def test_mixtures_have_coarse_layers_of_the_row_and_fine_ones_of_the_column():
    torch.manual_seed(0)
    model = registry.build("stylegan2", shape=16, channels=1, width=4, latent=8).eval()
    mixtures = np.asarray(mix(model, rows=2, columns=3, seed=1, cut=2)).reshape(3, 4, 16, 16, 1)
    assert (mixtures[0, 0] == 255).all()
    w = model.latent(Noise.of_seeds(range(1, 6)))  # three columns, then two rows
    alone = to_uint8(model.decode(w))
    assert np.abs(mixtures[0, 1:].astype(int) - alone[:3]).max() <= 1
    assert np.abs(mixtures[1:, 0].astype(int) - alone[3:]).max() <= 1
    styles = torch.cat([w[4:].expand(2, -1), w[2:3].expand(model.generator.layers - 2, -1)])[None]
    assert np.abs(mixtures[2, 3].astype(int) - to_uint8(model.decode(styles, space="w+"))[0]).max() <= 1


def test_only_styles_can_be_mixed_and_only_at_a_layer_that_is_there():
    with pytest.raises(UsageError, match="stylegan2"):
        mix(registry.build("dcgan", shape=16, channels=1, width=8))
    with pytest.raises(UsageError, match="from 1 to"):
        mix(registry.build("stylegan2", shape=16, channels=1, width=4, latent=8), cut=9)
