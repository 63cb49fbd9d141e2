"""The perceptual loss of a VAE and of an autoencoder: its value, its gradient, and what it leaves out of a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from reverie.core.batch import Batch
from reverie.core.card import card_of
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.core.verbs import verbs_of
from reverie.data.types import Split
from reverie.evaluation.likelihood import likelihood
from reverie.evaluation.passport import Refused
from reverie.models.autoencoders import perceptual
from reverie.models.autoencoders.autoencoder import Networks, autoencoder
from reverie.models.autoencoders.vae import Bound, vae
from reverie.nets.features import Features

SMALL = Networks(width=8, depth=0)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> nn.Sequential:
    """Three convolutions with the names of VGG's layers, of colour images, in place of VGG-16."""
    torch.manual_seed(0)
    network = nn.Sequential()
    for block, (inputs, outputs) in enumerate(((3, 4), (4, 5), (5, 6)), 1):
        network.add_module(f"conv{block}_1", nn.Conv2d(inputs, outputs, 3, padding=1))
        network.add_module(f"relu{block}_1", nn.ReLU())
        network.add_module(f"pool{block}", nn.MaxPool2d(2))
    monkeypatch.setattr(perceptual, "network", lambda device: Features(network))
    return network


def batch(size: int = 8) -> Batch:
    noise = Noise.of_seeds(range(4))
    return Batch({"x": noise.uniform(3, size, size, low=-1, high=1)}, rng=noise, progress=torch.ones(()))


def test_the_feature_error_of_equal_images_is_zero_and_of_others_the_mean_of_the_layers(tiny: nn.Sequential):
    x, y = batch()["x"], batch()["x"].flip(3)
    assert perceptual.feature_error(x, x).abs().max() == 0
    errors = []
    for layer in range(1, 9, 3):  # after each rectifier
        a, b = (tiny[: layer + 1](images) for images in (x, y))
        errors.append((a - b).square().sum((1, 2, 3)) / b.square().sum((1, 2, 3)))
    torch.testing.assert_close(perceptual.feature_error(x, y), torch.stack(errors).mean(0))


def test_its_gradient_equals_finite_differences_and_reaches_only_the_images(tiny: nn.Sequential):
    tiny.double()
    x, y = batch()["x"][:2].double(), batch()["x"][2:].double()
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda images: perceptual.feature_error(images, y), x)
    perceptual.feature_error(x, y).sum().backward()
    assert all(parameter.grad is None for parameter in tiny.parameters())


def test_the_kl_term_is_that_of_the_plain_vae_and_the_loss_their_weighted_sum():
    plain = vae(8, 3, latent=4, networks=SMALL, bound=Bound(beta=2.0))
    model = vae(8, 3, latent=4, networks=SMALL, bound=Bound(beta=2.0), loss="perceptual", perceptual_weight=50.0)
    model.load_state_dict(plain.state_dict())
    metrics, expected = model.loss(batch()), plain.loss(batch())
    torch.testing.assert_close(metrics["kl"], expected["kl"])
    torch.testing.assert_close(metrics["loss"] * 3 * 8 * 8, 50 * metrics["perceptual"] + 2 * metrics["kl"])
    metrics["perceptual"].backward()
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())


def test_a_perceptual_vae_has_no_likelihood_and_says_so():
    model = vae(8, 3, latent=4, networks=SMALL, loss="perceptual")
    card = card_of(model)
    assert card.likelihoods == () and card.weights == ("vgg16",) and "elbo" not in verbs_of(model)
    assert {"sample", "encode", "decode"} <= set(verbs_of(model))
    with pytest.raises(UsageError, match=r"models no p\(x\|z\)"):
        model.elbo(batch())
    with pytest.raises(Refused, match="has no likelihood"):
        next(likelihood(model, Split({"x": np.zeros((2, 8, 8, 3), np.uint8)})))
    with pytest.raises(UsageError, match="models no likelihood; omit"):
        vae(8, 3, loss="perceptual", likelihood="gaussian")


@pytest.mark.parametrize("build", [vae, autoencoder])
def test_the_pretrained_network_is_in_no_checkpoint(build):
    model, plain = build(8, 3, latent=4, networks=SMALL, loss="perceptual"), build(8, 3, latent=4, networks=SMALL)
    model.loss(batch())["loss"].backward()
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert card_of(model).weights == ("vgg16",) and card_of(plain).weights == ()


def test_a_few_steps_on_one_image_lower_the_perceptual_loss():
    torch.manual_seed(0)
    model, one = autoencoder(8, 3, latent=4, networks=SMALL, loss="perceptual"), batch()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(model.loss(one)["loss"])
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert perceptual.feature_error(model.decode(model.encode(one["x"])), one["x"]).mean() < losses[0]
