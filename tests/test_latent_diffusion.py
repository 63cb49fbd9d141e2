"""Codecs, and diffusion over their latents."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import reverie as rv
from reverie.core import registry
from reverie.core.batch import Batch
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.core.precision import pick_precision
from reverie.core.verbs import USED, verbs_of
from reverie.data.batches import Batches, in_order
from reverie.models.autoencoders import perceptual
from reverie.models.autoencoders.kl import AutoencoderKL, CodecLoss, autoencoder_kl
from reverie.nets.vgg import VGG
from reverie.training.checkpoint import load_checkpoint, newest_whole
from reverie.training.step import Engine
from reverie.workflow.train import train

SMALL = {"width": 8, "batch_size": 32, "warmup": 5, "log_every": 5, "quiet": True}


def stirred(model):
    """Away from the start, where residual branches and the U-Net are silent."""
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            draw = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.add_(0.1 * draw.to(parameter))
    return model


def batch_of(tiny, rows=16, progress=1.0):
    return Batches(tiny.train, rows, 0)(0).replace(progress=progress, rng=Noise.of_step(5, 0, rows))


def weights_of(run, step=None):
    path = newest_whole(run.checkpoints)[0] if step is None else run.checkpoints / f"{step:08d}"
    saved = load_checkpoint(path)
    return saved.weights, saved.weights | saved.ema


def codec_part(weights):
    prefix = "latent_codec.codec."
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def kl_run(bars, tmp_path_factory):
    return train("autoencoder-kl", bars, out=tmp_path_factory.mktemp("kl") / "run", steps=40, latent=3, **SMALL)


@pytest.fixture(scope="module")
def vae_run(bars, tmp_path_factory):
    return train("vae", bars, out=tmp_path_factory.mktemp("vae") / "run", steps=40, latent=5, **SMALL)


# The codec


@pytest.mark.parametrize("size, factor", [(8, 2), (8, 4), (28, 4), (32, 8), (64, 16), (256, 8)])
def test_latents_have_one_entry_for_each_block_of_pixels(size, factor):
    model = autoencoder_kl(size, 3, latent=5, factor=factor, width=4).eval()
    latents = model.encode(torch.zeros(2, 3, size, size))
    assert latents.shape == (2, *model.latent_shape) == (2, 5, size // factor, size // factor)
    assert model.decode(latents).shape == (2, 3, size, size)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"shape": 30}, "Try size='?32"),
        ({"factor": 3}, "factor of autoencoder-kl must be 2, 4, 8 or 16"),
        ({"shape": 4}, "Try size='?8"),
        ({"shape": 8, "perceptual_weight": 1.0}, "too few"),
        ({"kl_weight": -1.0}, "kl_weight of autoencoder-kl must be at least 0"),
        ({"reconstruction": "l3"}, "'l1' or 'mse'"),
    ],
)
def test_an_unfit_codec_says_what_to_do(options, message):
    with pytest.raises(UsageError, match=message):
        registry.build("autoencoder-kl", **{"shape": 28, "channels": 1} | options)


def test_the_loss_is_the_reconstruction_and_the_weighted_kl_of_two_gaussians(tiny):
    model = stirred(autoencoder_kl(8, 1, latent=3, width=8, terms=CodecLoss(kl_weight=0.3)).double())
    batch = batch_of(tiny)
    batch["x"] = batch["x"].double()
    metrics = model.loss(batch, model.reconstruct(batch))
    mean, log_var = model.posterior(batch["x"])
    posterior = torch.distributions.Normal(mean, (log_var / 2).exp())
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(metrics["kl"], kl.sum((1, 2, 3)).mean())
    torch.testing.assert_close(metrics["loss"], metrics["reconstruction"] + 0.3 * kl.mean())
    silent = autoencoder_kl(8, 1, latent=3, width=8)  # decodes 0, whatever the latents
    for parameter in silent.parameters():
        nn.init.zeros_(parameter)
    black = Batch({"x": -torch.ones(4, 1, 8, 8)})
    metrics = silent.loss(black, silent.reconstruct(black))
    assert metrics["reconstruction"] == 1 and metrics["kl"] == 0


def test_a_codec_encodes_and_decodes_but_does_not_sample():
    assert set(verbs_of(AutoencoderKL)) & set(USED) == {"encode", "decode"}


class Brightness(nn.Module):
    """A discriminator whose logit is a multiple of the mean pixel."""

    def forward(self, image):
        return 3 * image.mean((1, 2, 3), keepdim=True)


def test_the_discriminator_follows_the_hinge_loss(tiny):
    model = stirred(autoencoder_kl(8, 1, width=8, terms=CodecLoss(adversarial_weight=0.5)))
    model.discriminator = Brightness()
    batch = batch_of(tiny)
    outputs = model.reconstruct(batch)
    real, fake = (3 * x.mean((1, 2, 3)) for x in (batch["x"], outputs["reconstructed"]))
    expected = ((1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()) / 2
    torch.testing.assert_close(model.d_loss(batch, outputs)["loss"], expected)


def test_the_adversarial_loss_counts_only_after_the_start(tiny):
    model = stirred(autoencoder_kl(8, 1, width=8, terms=CodecLoss(adversarial_weight=0.5, adversarial_start=0.6)))
    outputs = model.reconstruct(batch_of(tiny))
    early, late = (model.loss(batch_of(tiny, progress=progress), outputs) for progress in (0.59, 0.61))
    kl_term = model.terms.kl_weight * early["kl"] / 16  # 16 latents
    torch.testing.assert_close(early["loss"], early["reconstruction"] + kl_term)
    torch.testing.assert_close(late["loss"] - early["loss"], 0.5 * late["adversarial"])
    late["adversarial"].backward()
    assert all(p.grad.abs().sum() > 0 for p in model.encoder.parameters())


def test_the_discriminators_phase_changes_only_the_discriminator(tiny):
    model = stirred(autoencoder_kl(8, 1, width=8, terms=CodecLoss(adversarial_weight=0.5)))
    (stage,) = model.stages()
    discriminator, codec = stage.phases
    alone = replace(stage, phases=[discriminator])
    fit = Engine(model, [alone], Batches(tiny.train, 16, 0), pick_precision("fp32", torch.device("cpu")), ema=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(5):
        fit.step(step, step / 5)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"discriminator.0.weight", "discriminator.2.weight"} <= changed
    assert all(name.startswith("discriminator.") for name in changed)
    assert not {id(p) for p in discriminator.parameters} & {id(p) for p in codec.parameters}


def test_lpips_joins_the_loss_and_reaches_the_encoder_but_not_the_checkpoint(monkeypatch):
    heads = {f"lin{i}": torch.rand(c) for i, c in enumerate((64, 128, 256, 512, 512))}
    pretrained = {"vgg16": VGG().state_dict(), "lpips-vgg": heads}
    monkeypatch.setattr(perceptual.weights, "load", lambda name, progress=None: pretrained[name])
    terms = (CodecLoss(perceptual_weight=weight) for weight in (0.0, 2.0))
    plain, model = (stirred(autoencoder_kl(16, 1, width=8, terms=term)) for term in terms)
    model.load_state_dict(plain.state_dict())
    batches = [Batch({"x": torch.rand(2, 1, 16, 16)}) for _ in range(2)]
    batches[1]["x"] = batches[0]["x"]
    for pretrained_network in (perceptual.network, perceptual.lpips):
        pretrained_network.cache_clear()
    pairs = zip((plain, model), batches, strict=True)
    alone, metrics = (codec.loss(batch, codec.reconstruct(batch)) for codec, batch in pairs)
    for pretrained_network in (perceptual.network, perceptual.lpips):
        pretrained_network.cache_clear()
    assert metrics["perceptual"] > 0
    torch.testing.assert_close(metrics["loss"] - alone["loss"], 2 * metrics["perceptual"])
    metrics["perceptual"].backward()
    assert all(p.grad.abs().sum() > 0 for p in model.encoder.parameters())


# Diffusion over latents


def built(**options):
    return registry.build("latent-diffusion", shape=8, channels=1, **options)


@pytest.mark.parametrize("kind", ["autoencoder-kl", "vae"])
def test_normalising_and_back_is_the_codecs_own_reconstruction(kind, tiny):
    kwargs = {"shape": 8, "channels": 1, "latent": 3, "width": 8}
    model = stirred(built(codec={"name": kind, "kwargs": kwargs}, width=8)).eval()
    with torch.no_grad():
        coder = model.latent_codec
        coder.mean.copy_(torch.tensor([1.0, -2.0, 0.5]))
        coder.mean_sq.copy_(coder.mean.square() + torch.tensor([0.01, 4.0, 1.0]))
        image = next(in_order(tiny.held_out, 8))["x"]
        raw = coder.codec.encode(image)
        torch.testing.assert_close(model.encode(image)[:, 1], (raw[:, 1] + 2) / 2)
        torch.testing.assert_close(model.decode(model.encode(image)), coder.codec.decode(raw), atol=1e-5, rtol=0)


def test_latents_are_measured_over_the_training_split_when_their_stage_begins(tiny):
    coder = stirred(built(latent=3, codec_width=8, width=8)).latent_codec
    coder.measure(Batches(tiny.train, 32, 0))
    latents = torch.cat([coder.raw(batch["x"]) for batch in in_order(tiny.train, 50)])
    torch.testing.assert_close(coder.mean, latents.mean((0, 2, 3)))
    torch.testing.assert_close(coder.mean_sq, latents.square().mean((0, 2, 3)))


@pytest.mark.parametrize("kind", ["kl", "vae", "none"])
def test_latents_have_mean_0_and_deviation_1_after_training(kind, request, bars, tmp_path):
    codec = {} if kind == "none" else {"codec": str(request.getfixturevalue(f"{kind}_run").path)}
    options = codec | {"steps": 200 if codec else 400, "depth": 1, "codec_width": 8}
    run = train("latent-diffusion", bars, out=tmp_path / "run", **options, **SMALL)
    model = rv.load(run)
    images = torch.cat([batch["x"] for batch in in_order(rv.data(bars).train, 64)])
    latents = model.to_latent(images)
    assert latents.mean((0, 2, 3)).abs().max() < 0.1
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.1
    raw = model.latent_codec.raw(images)
    assert (raw.std((0, 2, 3)) - 1).abs().max() > 0.2  # which they would not have had by themselves


def test_a_pretrained_codec_is_kept_bit_for_bit(kl_run, bars, tmp_path):
    run = train("latent-diffusion", bars, out=tmp_path / "run", steps=12, codec=str(kl_run.path), depth=1, **SMALL)
    _, average = weights_of(kl_run)
    for weights in weights_of(run):
        assert same(codec_part(weights), average)


def test_a_codec_of_its_own_learns_in_the_first_half_and_is_frozen_in_the_second(bars, tmp_path):
    options = {"steps": 20, "depth": 1, "codec_width": 8, "checkpoint_every": 5, "keep": 9}
    run = train("latent-diffusion", bars, out=tmp_path / "run", **options, **SMALL)
    start, quarter, half, end = (weights_of(run, step)[0] for step in (0, 5, 10, 20))
    assert not same(codec_part(start), codec_part(quarter)) and not same(codec_part(quarter), codec_part(half))
    assert same(codec_part(half), codec_part(end))
    net = [name for name in start if name.startswith("net.")]
    assert all(torch.equal(start[name], half[name]) for name in net)
    assert any(not torch.equal(half[name], end[name]) for name in net)


def test_a_checkpoint_needs_the_codecs_run_no_longer(kl_run, bars, tmp_path):
    shutil.copytree(kl_run.path, tmp_path / "codec")
    run = train(
        "latent-diffusion", bars, out=tmp_path / "run", steps=10, codec=str(tmp_path / "codec"), depth=1, **SMALL
    )
    before = rv.sample(run, 4)
    shutil.rmtree(tmp_path / "codec")
    assert np.array_equal(rv.sample(run, 4), before)


def test_a_codec_of_other_images_is_refused_before_a_run_is_made(kl_run, draw_bars, tmp_path):
    for name, shape in {"larger": (16, 1), "coloured": (8, 3)}.items():
        size, channels = shape
        images, labels = draw_bars(40, channels, size)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=labels)
        with pytest.raises(UsageError, match=rf"8x8x1.*{size}x{size}x{channels}"):
            data = str(tmp_path / f"{name}.npz")
            train("latent-diffusion", data, out=tmp_path / "run", steps=2, codec=str(kl_run.path), **SMALL)
    assert not (tmp_path / "run").exists()


def test_a_codec_must_encode_and_be_a_run():
    with pytest.raises(UsageError, match=r"latents.*autoencoder-kl"):
        registry.build(
            "latent-diffusion",
            shape=8,
            channels=1,
            codec={"name": "ddpm", "kwargs": {"shape": 8, "channels": 1, "width": 8}},
        )
    with pytest.raises(UsageError, match=r"runs/a.*--codec RUN"):
        built(codec="runs/a")


def test_a_density_of_latents_is_not_offered_as_one_of_images():
    model = built(latent=3, codec_width=8, width=8)
    assert model.card.likelihoods == () and verbs_of(model) == registry.entry("latent-diffusion").verbs
    assert not {"log_prob", "elbo"} & set(verbs_of(model))


@pytest.mark.parametrize("schedule", ["flow", "cosine"])
@pytest.mark.parametrize("conditional", ["label", "text"])
def test_a_condition_reaches_the_images_and_guidance_of_1_is_off(schedule, conditional):
    options = {"classes": 2, "schedule": schedule, "conditional": conditional, "latent": 3, "codec_width": 8}
    model = stirred(built(width=8, depth=1, **options)).eval()
    cond = {"label": torch.tensor([0, 1]), "text": ["a red heart", "a blue car"]}[conditional]
    other = {"label": torch.tensor([1, 0]), "text": ["a blue car", "a red heart"]}[conditional]

    def sample(**condition):
        with torch.inference_mode():
            return model.sample(Noise.of_seeds([3, 4]), steps=3, **condition)

    assert sample().shape == (2, 1, 8, 8)
    assert not torch.allclose(sample(**{conditional: cond}), sample(**{conditional: other}), atol=1e-3)
    assert torch.equal(sample(**{conditional: cond}), sample(**{conditional: cond}, guidance=1.0))
    batch = Batch({"x": torch.rand(2, 1, 8, 8), conditional: cond}, Noise.of_seeds([0, 2]))
    model.loss(batch)["loss"].backward()
    assert all(p.grad is None for p in (*model.latent_codec.parameters(), *model.latent_codec.buffers()))
    if conditional == "text":
        assert model.conditioner.text_encoder.embedding.weight.grad.abs().sum() > 0


def test_a_sample_is_the_decoded_end_of_its_stream():
    model = stirred(built(latent=3, codec_width=8, width=8, depth=1)).eval()
    with torch.inference_mode():
        *_, last = model.stream(Noise.of_seeds([1, 2]), steps=4)
        latents = last.tensors["x"]
        assert latents.shape == (2, 3, 2, 2)
        assert torch.equal(model.from_latent(latents), model.sample(Noise.of_seeds([1, 2]), steps=4))


def test_the_configuration_builds_the_same_network_again(tiny):
    model = registry.build("latent-diffusion", tiny, width=8, latent=2, factor=2, codec_width=16)
    again = registry.build(model.config["name"], **model.config["kwargs"])
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in again.state_dict().items()}
    assert model.latent_shape == (2, 4, 4)
