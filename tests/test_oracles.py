"""Autoencoders against closed forms, in float64."""

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from reverie.core.batch import Batch
from reverie.core.noise import Noise
from reverie.models.autoencoders.autoencoder import Networks, autoencoder
from reverie.models.autoencoders.denoising import corrupt
from reverie.models.autoencoders.vae import Bound, vae
from reverie.probability.likelihoods import LIKELIHOODS, gaussian_nll, kl_to_standard_normal

LINEAR = Networks("dense", hidden=())


def low_rank_images(count=400, size=4, rank=3):
    rng = np.random.default_rng(0)
    scales = np.array([3.0, 2.0, 1.2])[:rank]
    x = rng.normal(size=(count, rank)) * scales @ rng.normal(size=(rank, size * size)) * 0.05
    return x + rng.normal(size=x.shape) * 0.01


def test_a_linear_autoencoder_spans_the_subspace_of_pca():
    x = low_rank_images()
    model = autoencoder(4, 1, latent=3, networks=LINEAR).double()
    image = torch.from_numpy(x).view(-1, 1, 4, 4)
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        lr=1,
        max_iter=3000,
        tolerance_grad=1e-14,
        tolerance_change=1e-18,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        loss = 1e3 * (model.decoder(model.encoder(image)) - image).square().mean()
        loss.backward()
        return loss

    with torch.random.fork_rng():
        torch.manual_seed(0)
        optimizer.step(closure)
    axes = PCA(3).fit(x).components_
    decoder = next(m for m in model.decoder.modules() if isinstance(m, nn.Linear)).weight.detach().numpy()
    basis = np.linalg.qr(decoder)[0]
    cosines = np.linalg.svd(axes @ basis)[1]  # of the principal angles between the two subspaces
    assert np.sqrt(1 - np.minimum(cosines, 1) ** 2).max() < 1e-3
    ours = float((model.decoder(model.encoder(image)) - image).square().mean().detach())
    best = float(np.mean((PCA(3).fit(x).inverse_transform(PCA(3).fit_transform(x)) - x) ** 2))
    assert ours == pytest.approx(best, rel=1e-4)


class PPCA:
    """x = W z + mu + sigma e: the exact log-likelihood and the exact posterior (Tipping and Bishop 1999)."""

    def __init__(self, w, mu, sigma):
        self.w, self.mu, self.sigma = w, mu, sigma
        self.cov = w @ w.T + sigma**2 * torch.eye(len(mu), dtype=w.dtype)
        self.m = w.T @ w + sigma**2 * torch.eye(w.shape[1], dtype=w.dtype)

    def log_likelihood(self, x):
        return torch.distributions.MultivariateNormal(self.mu, self.cov).log_prob(x)

    def posterior(self, x):
        return (x - self.mu) @ self.w @ torch.linalg.inv(self.m).T, self.sigma**2 * torch.linalg.inv(self.m)


def linear_vae(latent=2, sigma=0.3):
    """A VAE whose decoder is linear with orthogonal columns, so that the true posterior is a diagonal Gaussian."""
    model = vae(4, 1, latent=latent, likelihood="gaussian", sigma=sigma, networks=LINEAR).double()
    generator = torch.Generator().manual_seed(0)
    w = torch.linalg.qr(torch.randn(16, latent, dtype=torch.float64, generator=generator))[0] * torch.tensor([0.8, 0.5])
    mu = 0.1 * torch.randn(16, dtype=torch.float64, generator=generator)
    linear = next(m for m in model.decoder.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        linear.weight.copy_(w)
        linear.bias.copy_(mu)
    return model, PPCA(w, mu, sigma)


def elbo_in_expectation(model, x, mean, log_var):
    """E_q over z by the exact Gaussian integral: the decoder is linear and q diagonal, so no sampling is needed."""
    w = next(m for m in model.decoder.modules() if isinstance(m, nn.Linear)).weight
    sigma = model.likelihood.sigma
    centre = gaussian_nll(x, model.decoded(mean).flatten(1), 2 * math.log(sigma)).sum(1)
    spread = (log_var.exp() * w.square().sum(0)).sum(1) / (2 * sigma**2)
    return -(centre + spread + kl_to_standard_normal(mean, log_var).sum(1))


def test_the_bound_of_a_linear_gaussian_vae_touches_the_exact_likelihood_at_the_true_posterior_and_only_there():
    model, truth = linear_vae()
    x = torch.from_numpy(low_rank_images(50))
    exact = truth.log_likelihood(x)
    mean, cov = truth.posterior(x)
    log_var = cov.diagonal().log().expand_as(mean)
    assert torch.allclose(elbo_in_expectation(model, x, mean, log_var), exact, atol=1e-9)
    for shift, scale in ((0.1, 0.0), (0.0, 0.3), (-0.2, -0.5)):
        below = elbo_in_expectation(model, x, mean + shift, log_var + scale)
        assert (below < exact - 1e-4).all()


def test_the_sampled_elbo_of_the_model_is_an_unbiased_estimate_of_the_exact_bound():
    model, truth = linear_vae()
    x = torch.from_numpy(low_rank_images(1))
    image = x.view(1, 1, 4, 4).float().double()
    mean, cov = truth.posterior(x)
    stats = torch.cat([mean[0] + 0.1, cov.diagonal().log() + 0.2])
    encoder = next(m for m in model.encoder.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.bias.copy_(stats)
    count = 40_000
    noise = Noise.of_seeds(range(count))
    many = image.expand(count, -1, -1, -1)
    sampled = model.elbo(Batch({"x": many}, noise)).detach()
    # uniform dequantisation adds its own known second moment, (1/127.5)^2 / 12 a pixel, and the bins' volume
    exact = elbo_in_expectation(model, x, stats[None, :2], stats[None, 2:]) - 16 * ((1 / 127.5) ** 2 / 12) / (
        2 * model.likelihood.sigma**2
    )
    exact = exact - 16 * math.log(127.5)
    assert abs(sampled.mean() - exact) < 4 * sampled.std() / math.sqrt(count)


def test_the_importance_weighted_bound_rises_to_the_exact_likelihood():
    model, truth = linear_vae()
    x = torch.from_numpy(low_rank_images(1))
    mean, cov = truth.posterior(x)
    encoder = next(m for m in model.encoder.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():  # a posterior that is off: its one-sample bound is loose
        encoder.weight.zero_()
        encoder.bias.copy_(torch.cat([mean[0] + 0.3, cov.diagonal().log() + 0.8]))
    many = Batch({"x": x.view(1, 1, 4, 4).expand(4000, -1, -1, -1)})
    exact = float(truth.log_likelihood(x)) - 16 * math.log(127.5)  # of the 8-bit image: density times the bins' volume
    with torch.no_grad():
        first, second, third = (float(model.elbo(many, samples=k).mean()) for k in (1, 8, 64))
    assert first + 0.1 < second < third < exact + 0.01
    assert third == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize("mean, log_var", [(0.0, 0.0), (1.3, -1.0), (-2.0, 0.7), (0.2, 2.0)])
def test_the_kl_term_equals_numerical_quadrature(mean, log_var):
    sigma = math.exp(log_var / 2)
    z = torch.linspace(mean - 14 * sigma, mean + 14 * sigma, 40_001, dtype=torch.float64)
    q = torch.distributions.Normal(torch.tensor(mean, dtype=torch.float64), sigma)
    integrand = q.log_prob(z).exp() * (q.log_prob(z) - torch.distributions.Normal(0.0, 1.0).log_prob(z))
    ours = kl_to_standard_normal(torch.tensor(mean, dtype=torch.float64), torch.tensor(log_var, dtype=torch.float64))
    assert float(ours) == pytest.approx(float(torch.trapezoid(integrand, z)), abs=1e-8)


def test_reparametrisation_has_variance_exp_log_var_not_its_square():
    model = vae(4, 1, latent=1, networks=LINEAR)
    encoder = next(m for m in model.encoder.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.bias.copy_(torch.tensor([0.5, math.log(4.0)]))
    seen = []
    model.decoded = lambda z, label=None: seen.append(z) or torch.zeros(len(z), 1, 4, 4)
    with torch.no_grad():
        model.terms(torch.zeros(50_000, 1, 4, 4), Noise.of_seeds(range(50_000)))
    assert float(seen[0].mean()) == pytest.approx(0.5, abs=0.04)
    assert float(seen[0].var()) == pytest.approx(4.0, rel=0.03)


def test_gaussian_decoders_give_a_probability_over_the_256_grey_levels():
    """The dequantised density, summed over all 8-bit values of a pixel, is nearly 1 and never more."""
    likelihood = LIKELIHOODS["gaussian"](0.2)
    levels = torch.arange(256).div(127.5).sub(1).view(256, 1, 1, 1)
    noise = Noise.of_seeds(range(256))
    mean = torch.full((256, 1, 1, 1), 0.1)
    total = torch.stack([likelihood.nll(levels, mean, noise) for _ in range(50)]).mean(0).neg().exp().sum()
    assert 0.99 < total <= 1.001


def test_the_bernoulli_likelihood_is_a_probability_of_binary_images():
    likelihood = LIKELIHOODS["bernoulli"](0.1)
    logits = torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    total = 0.0
    for code in range(2**9):
        bits = torch.tensor([(code >> i) & 1 for i in range(9)], dtype=torch.float64).view(1, 1, 3, 3)
        total += float(likelihood.nll(bits * 2 - 1, logits, Noise.of_seeds([0])).neg().exp())
    assert total == pytest.approx(1, abs=1e-9)


def test_free_bits_stop_the_pressure_below_their_threshold():
    model = vae(8, 1, latent=2, bound=Bound(free_bits=100.0, kl_warmup=0))
    image = torch.rand(4, 1, 8, 8) * 2 - 1
    batch = Batch({"x": image})
    with torch.no_grad():
        metrics = model.loss(batch)
    assert float(metrics["loss"] * 64 - metrics["nll"]) == pytest.approx(
        200.0, rel=1e-4
    )  # two latents at the threshold


def test_beta_weighs_the_kl_term_and_its_warm_up_starts_at_zero():
    image = torch.rand(4, 1, 8, 8) * 2 - 1
    for beta, progress, weight in ((1.0, 1.0, 1.0), (4.0, 1.0, 4.0), (4.0, 0.0, 0.0), (4.0, 0.1, 2.0)):
        torch.manual_seed(0)
        model = vae(8, 1, latent=2, bound=Bound(beta=beta, kl_warmup=0.2))
        with torch.no_grad():
            metrics = model.loss(Batch({"x": image}, progress=progress))
        assert float(metrics["loss"] * 64) == pytest.approx(float(metrics["nll"] + weight * metrics["kl"]), rel=1e-5)


def test_corruptions_change_what_they_say_and_no_more():
    image = torch.rand(200, 3, 16, 16) * 1.6 - 0.8
    masked = corrupt(image, Noise.of_seeds(range(200)), "masking", 0.3)
    hit = (masked != image).any(1)
    assert hit.float().mean() == pytest.approx(0.3, abs=0.01)
    assert (masked.permute(0, 2, 3, 1)[hit] == -1).all()
    salted = corrupt(image, Noise.of_seeds(range(200)), "salt-and-pepper", 0.2)
    hit = (salted != image).any(1)
    assert hit.float().mean() == pytest.approx(0.2, abs=0.01)
    assert (salted.permute(0, 2, 3, 1)[hit] > 0).float().mean() == pytest.approx(0.5, abs=0.02)
    noisy = corrupt(torch.zeros(200, 1, 16, 16), Noise.of_seeds(range(200)), "gaussian", 0.2)
    assert noisy.std() == pytest.approx(0.2, rel=0.02)
