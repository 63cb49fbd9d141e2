"""Stacked, sparse and recurrent autoencoders: what is frozen, what is kept, and gradients in closed form."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import reverie as rv
from engine_cases import doubles, engine, images, progress_of
from reverie.core.batch import Batch
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.models.autoencoders.recurrent import recurrent_autoencoder
from reverie.models.autoencoders.sparse import SparseCode, Sparsity, bernoulli_kl, sparse_autoencoder
from reverie.models.autoencoders.stacked import stacked_autoencoder


def linears(module: nn.Module) -> list[nn.Linear]:
    return [m for m in module.modules() if isinstance(m, nn.Linear)]


def codes(rows: int = 7, units: int = 12) -> torch.Tensor:
    return torch.randn(rows, units, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# Stacked


def test_a_greedy_stage_changes_its_layer_and_the_mirror_of_it_alone_and_the_last_stage_all():
    model = stacked_autoencoder(8, 1, latent=3, hidden=(12, 6))
    trainer = engine("stacked-autoencoder", model, ema=0)
    assert [stage.name for stage in trainer.stages] == ["layer-1", "layer-2", "layer-3", "fine-tuning"]
    assert trainer.ends == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 1])
    encoder, decoder = (linears(half) for half in model.halves)
    step = 0
    for stage in range(4):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        for share in (0.2, 0.6):
            trainer.step(step, progress_of(trainer, stage, share))
            step += 1
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        trained = {*encoder, *decoder} if stage == 3 else {encoder[stage], decoder[2 - stage]}
        names = {name for name, module in model.named_modules() if module in trained}
        assert changed == {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}


def test_a_layer_restores_the_activations_below_it_and_the_last_one_is_linear():
    with doubles():
        model = stacked_autoencoder(8, 1, latent=3, hidden=(12,), corruption_level=0.0).double()
        (a, b), (c, d) = (linears(half) for half in model.halves)
        batch = Batch(images(1, 8, 8))
        x = batch["x"] = batch["x"].double()
        flat = x.flatten(1)
        h = F.silu(flat @ a.weight.T + a.bias)
        torch.testing.assert_close(model.layer_loss(0, batch)["loss"], F.mse_loss(d(h), flat))
        z = h @ b.weight.T + b.bias
        torch.testing.assert_close(model.layer_loss(1, batch)["loss"], F.mse_loss(F.silu(c(z)), h))
        torch.testing.assert_close(model.encode(x), z)
        torch.testing.assert_close(model.loss(batch)["loss"], F.mse_loss(d(F.silu(c(z))), flat))


def test_masking_noise_hides_its_share_of_a_layer_s_inputs():
    model = stacked_autoencoder(8, 1, latent=3, hidden=(12,), corruption_level=0.3)
    x = torch.rand(200, 64) * 0.5
    masked = model.masked(x, Noise.of_seeds(range(200)), -1.0)
    hit = masked != x
    assert (masked[hit] == -1).all() and hit.float().mean() == pytest.approx(0.3, abs=0.02)
    clean = stacked_autoencoder(8, 1, latent=3, hidden=(12,), corruption_level=0.0)
    assert clean.masked(x, Noise.of_seeds(range(200)), -1.0) is x


# Sparse


@pytest.mark.parametrize("k", [1, 5, 12])
def test_a_k_sparse_code_keeps_exactly_its_k_largest_units(k):
    x = codes()
    code = SparseCode(12, Sparsity("top-k", k=k))(x).double()
    for row, kept in zip(x.float().double(), code, strict=True):
        order = sorted(range(12), key=lambda unit: -row[unit].item())
        assert [unit for unit in range(12) if kept[unit] != 0] == sorted(order[:k])
        assert torch.equal(kept[order[:k]], row[order[:k]])


def test_a_k_sparse_code_keeps_k_units_also_where_all_are_equal_and_all_units_when_training_begins():
    layer, x = SparseCode(12, Sparsity("top-k", k=4)), torch.ones(3, 12)
    kept = [layer(x, progress).count_nonzero(1).tolist() for progress in (0.0, 0.25, 0.5, 1.0)]
    assert kept == [[12] * 3, [8] * 3, [4] * 3, [4] * 3]


def test_the_gradient_of_the_kl_penalty_is_that_of_the_kl_divergence_of_the_mean_activations():
    rate, x = 0.1, codes().sigmoid()
    layer = SparseCode(12, Sparsity("kl", rate=rate)).double()
    layer.mean.copy_(x.mean(0))
    code = x.clone().requires_grad_()
    penalty = layer.penalty(code, torch.empty(0))
    (gradient,) = torch.autograd.grad(penalty, code)
    mean = x.mean(0)
    torch.testing.assert_close(gradient, ((1 - rate) / (1 - mean) - rate / mean).expand_as(x) / len(x))
    torch.testing.assert_close(penalty.detach(), bernoulli_kl(rate, mean).sum())
    true = x.clone().requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(bernoulli_kl(rate, true.mean(0)).sum(), true)[0])
    at = torch.distributions.Bernoulli(torch.tensor(rate)), torch.distributions.Bernoulli(mean)
    torch.testing.assert_close(bernoulli_kl(rate, mean), torch.distributions.kl_divergence(*at))


def test_the_running_means_follow_the_activations_of_the_global_batch():
    model = sparse_autoencoder(8, 1, latent=5, code=Sparsity("kl", rate=0.2))
    trainer = engine("sparse-autoencoder-kl-0.1", model, ema=0)
    code = model.encode(trainer.batches.global_batch(0)["x"]).detach()
    metrics = trainer.step(0, 0.0)
    torch.testing.assert_close(model.code.mean, 0.9 * torch.full((5,), 0.2) + 0.1 * code.mean(0))
    assert metrics["update/kl"] == pytest.approx(bernoulli_kl(0.2, model.code.mean).sum().item())


def test_the_l1_penalty_weighs_units_by_what_they_add_so_that_scaling_evades_nothing():
    layer, x = SparseCode(12, Sparsity("l1")).double(), codes()
    dictionary = codes(30)
    code = x.relu()
    expected = sum(code[:, j].mean() * dictionary[:, j].square().sum().sqrt() for j in range(12))
    torch.testing.assert_close(layer.penalty(code, dictionary), expected)
    torch.testing.assert_close(layer.penalty(code / 10, dictionary * 10), expected)


def trained(model, steps=4, **columns):
    trainer = engine("sparse-autoencoder-kl-0.1", model, ema=0)
    for step in range(steps):
        trainer.step(step, step / steps)
    return {name: value.clone() for name, value in model.state_dict().items()}


def built(weight: float, classifier: bool):
    torch.manual_seed(0)
    model = sparse_autoencoder(8, 1, 2, latent=5, code=Sparsity("top-k", k=2))
    model.class_weight = weight
    if classifier:
        model.classifier = nn.Linear(5, 2)
    return model


def test_a_class_term_of_weight_0_changes_no_bit():
    plain, silent, loud = trained(built(0.0, False)), trained(built(0.0, True)), trained(built(0.5, True))
    assert all(torch.equal(value, silent[name]) for name, value in plain.items())
    assert any(not torch.equal(value, loud[name]) for name, value in plain.items())
    assert sparse_autoencoder(8, 1, 2, latent=5, code=Sparsity("top-k", k=2)).classifier is None


def test_the_class_term_adds_its_weight_times_the_cross_entropy():
    batch = Batch(images(1, 8, 8))
    batch["label"] = torch.where(torch.arange(len(batch["label"])) < 3, -1, batch["label"])
    plain, both = (built(weight, True).loss(batch) for weight in (0.0, 0.5))
    model = built(0.5, True)
    log_p = model.classifier(model.encode(batch["x"])).log_softmax(1)
    nats = [-log_p[i, c] for i, c in enumerate(batch["label"].tolist()) if c >= 0]
    expected = sum(nats) / len(log_p)
    torch.testing.assert_close(both["loss"] - plain["loss"], 0.5 * expected, rtol=1e-4, atol=1e-6)
    assert built(0.5, True).card.columns.keys() == {"label"}


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("sparse-autoencoder", {"k": 9, "latent": 8}, "k is 9, but the code has 8 units: latent"),
        ("sparse-autoencoder", {"class_weight": 1.0}, "class_weight needs data with at least two classes"),
        ("recurrent-autoencoder", {"shape": (24,), "step": 5}, "step must divide the 24 times of a sample, and 5 does"),
        ("recurrent-autoencoder", {"shape": (4, 8, 8)}, "for sequences and images, not for samples of shape 4x8x8"),
        ("stacked-autoencoder", {"shape": (24,)}, "for images, not for samples of shape 24"),
        ("stacked-autoencoder", {"corruption_level": 1.5}, "corruption_level of stacked-autoencoder must be"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(name, options, message):
    with pytest.raises(UsageError, match=message):
        rv.build(name, **{"shape": 8, "channels": 1} | options)


# Recurrent


def test_an_lstm_autoencoder_overfits_one_sequence_to_a_loss_of_zero():
    torch.manual_seed(0)
    time = torch.linspace(0, 6, 12)
    x = torch.stack([0.8 * time.sin(), 0.3 * (3 * time).cos() - 0.4])[None]  # (1, 2, 12)
    model = recurrent_autoencoder((12,), 2, latent=4, width=24)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=400, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = model.loss(Batch({"x": x}))["loss"]
        loss.backward()
        return loss

    optimizer.step(closure)
    assert model.loss(Batch({"x": x}))["loss"] < 2e-6
    torch.testing.assert_close(model.decode(model.encode(x)), x, atol=1e-2, rtol=0)


def test_the_rows_of_an_image_are_the_steps_of_a_sequence():
    image_model, series_model = recurrent_autoencoder((6, 9), 3, width=8), recurrent_autoencoder((6,), 27, width=8)
    series_model.load_state_dict(image_model.state_dict())
    x = torch.randn(2, 3, 6, 9)
    steps = x.permute(0, 1, 3, 2).reshape(2, 27, 6)  # (B, C W, H)
    torch.testing.assert_close(image_model.encode(x), series_model.encode(steps))
    z = torch.randn(2, 64)
    rows = image_model.decode(z).permute(0, 1, 3, 2).reshape(2, 27, 6)
    torch.testing.assert_close(rows, series_model.decode(z))


def test_several_times_may_be_one_step():
    joint, single = recurrent_autoencoder((6,), 2, width=8, step=3), recurrent_autoencoder((2,), 6, width=8)
    single.load_state_dict(joint.state_dict())
    x = torch.randn(2, 2, 6)
    steps = x.mT.reshape(2, 2, 6).mT  # (B, 3 C, 2)
    torch.testing.assert_close(joint.encode(x), single.encode(steps))
    z = torch.randn(2, 64)
    torch.testing.assert_close(joint.decode(z).mT.reshape(2, 2, 6).mT, single.decode(z))


def test_the_encoder_reads_forwards_and_the_decoder_writes_the_last_step_first():
    model = recurrent_autoencoder((5,), 1, latent=2, width=6)
    model.encoder.lstm.weight_hh_l0.data.zero_()  # no memory but the cell's
    model.encoder.lstm.bias_ih_l0.data[6:12] = -100  # ... and that forgets: the latent is of the last step
    x = torch.randn(1, 1, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.encode(x).sum(), x)
    assert (gradient[0, 0, :4] == 0).all() and gradient[0, 0, 4] != 0
    z = torch.randn(1, 2)
    first = model.decode(z)[0, 0]
    model.decoder.length = 3  # writes three steps: those that five steps end with
    torch.testing.assert_close(model.decode(z)[0, 0], first[2:])


# Series of one's own


def waves(count: int = 60) -> np.ndarray:
    """Two channels in volts (N, L, C): a sine of a random phase and period, and its square."""
    rng = np.random.default_rng(0)
    time, phase, period = np.linspace(0, 1, 24), rng.random((count, 1)), rng.uniform(0.3, 1, (count, 1))
    wave = np.sin(2 * math.pi * (time / period + phase))
    return np.stack([60 * wave - 20, 60 * wave**2 - 80], -1)


def test_series_are_rows_of_any_order_of_axes_and_their_name_is_their_medium(tmp_path):
    x = waves() / 100
    np.savez(tmp_path / "series.npz", series=x)
    np.savez(tmp_path / "swapped.npz", images=x.swapaxes(1, 2))
    series = rv.open_data(tmp_path / "series.npz")
    assert str(series.spec) == "24x2" and not series.report.problems
    swapped = rv.open_data(tmp_path / "swapped.npz", medium="sequence")
    assert swapped.fingerprint == series.fingerprint and "from (N, C, L)" in swapped.report.problems[0].action
    assert rv.open_data(torch.from_numpy(x.swapaxes(1, 2)), medium="sequence").fingerprint == series.fingerprint


def test_series_are_no_images_and_values_that_are_not_finite_are_named(bars, tmp_path, call):
    np.savez("series.npz", series=waves() / 100)
    rv.train("vae", bars, out=tmp_path / "vae", steps=1, batch_size=16, net="dense", hidden=(8,), quiet=True)
    for words in (("codes", "vae", "--data", "series.npz"), ("search", "vae", "held-out:0", "--data", "series.npz")):
        code, _, error = call(*words)
        assert code == 2 and "series.npz holds series, and images are needed" in error, error
    for name, values in (("images", np.full((20, 8, 8), np.nan)), ("series", np.full((20, 8), np.nan))):
        np.savez("nan.npz", **{name: values})
        code, _, error = call("train", "recurrent-autoencoder", "--data", "nan.npz", "--steps", 1)
        assert code == 1 and "contain values that are not finite" in error, error


def test_every_verb_of_a_run_of_series_works_from_the_command_line(call):
    np.savez("series.npz", series=waves())
    code, _, error = call("train", "recurrent-autoencoder", "--data", "series.npz", "--steps", 2)
    assert code == 1 and re.search(r"sequences reach .* such as --low -[\d.]+ --high [\d.]+\.\n", error)
    flags = ["--low", -80, "--high", 40, "--held-out", 0.2, "--steps", 3, "--batch-size", 8, "--width", 8]
    code, out, error = call("train", "recurrent-autoencoder", "--data", "series.npz", *flags, "--out", "run")
    assert code == 0, error
    names = {path.name for path in Path("run").glob("*.png")}
    assert names >= {"samples.png", "reconstructions.png", "latent-map.png", "loss.png"}
    for command in (
        ["reconstruct", "run", "-n", 3, "--out", "r.npz"],
        ["reconstruct", "run", "--out", "r.png"],
        ["interpolate", "run", "held-out:0", "train:1", "--frames", 5, "--out", "i.png"],
        ["sample", "run", "-n", 3, "--out", "s.npz"],
        ["traverse", "run", "--latents", 2, "--out", "t.png"],
        ["show", "run"],
        ["evaluate", "run", "--data", "series.npz", "--metrics", "reconstruction", "--json"],
    ):
        code, out, error = call(*command)
        assert code == 0, error
    scores = {score["metric"]: score["passport"] for score in json.loads(out)["scores"]}
    assert scores.keys() == {"mse", "psnr"} and scores["mse"]["of"] == "reconstructions of held-out series"
    table = call("evaluate", "run", "--metrics", "reconstruction")[1]
    assert re.search(r"^Held-out series of \S+, 24 times;", table, re.MULTILINE)
    with np.load("r.npz") as saved:
        assert saved["image"].shape == saved["reconstruction"].shape == (3, 24, 2)
        assert saved["image"].min() < -30 and saved["image"].max() <= 40  # in volts
    with np.load("s.npz") as saved:
        assert saved["x"].shape == (3, 24, 2)
    code, _, error = call("filters", "run")
    assert code == 2 and "sequences" in error
