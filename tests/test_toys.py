"""The toys' verbs, and what of them is known in closed form."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

import reverie as rv
from engine_cases import CASES, TOYS, build, doubles, engine, every_toy, images, walk
from reverie.core.batch import Batch
from reverie.core.card import card_of
from reverie.core.noise import Noise
from reverie.core.verbs import verbs_of
from toys.canvas import Fresco
from toys.flow import GREY, RealNVP
from toys.rbm import RBM, RBMStack
from toys.tokens import Codebook, TokenPrior


def sampled(model, seeds, **condition):
    with torch.no_grad():
        return model.sample(Noise.of_seeds(seeds), **condition)


@every_toy
def test_a_toy_s_verbs_give_what_its_card_says(case):
    model = build(case).eval()
    card, verbs, batch = card_of(model), verbs_of(model), Batch({k: v[:5] for k, v in CASES[case].columns.items()})
    shape = (5, card.output.channels, *card.output.shape)
    x = sampled(model, range(5))
    assert x.shape == shape and x.dtype == torch.float32 and x.abs().max() <= 1
    if "encode" in verbs:
        z = model.encode(batch["x"])
        assert z.shape == (5, *card.space.shape) and model.decode(z).shape == shape
    for likelihood in card.likelihoods:
        assert getattr(model, likelihood.verb)(batch).shape == (5,)
    if "stream" in verbs:
        frames = list(model.stream(Noise.of_seeds(range(5))))
        assert frames[-1].progress == 1 and torch.equal(frames[-1].render()["image"], x)


@every_toy
def test_a_sample_of_a_toy_does_not_depend_on_its_batch(case):
    model = build(case).eval()
    label = {"label": torch.arange(7) % 2} if card_of(model).classes else {}
    together = sampled(model, range(10, 17), **label)
    for row in (0, 3, 6):
        alone = sampled(model, [10 + row], **{k: v[row : row + 1] for k, v in label.items()})
        assert torch.allclose(alone[0], together[row], atol=1e-5)


@pytest.mark.parametrize("case", sorted(TOYS.keys() - {"canvas"}))
def test_training_changes_what_a_toy_samples(case):
    trainer = engine(case, ema=0)
    before = sampled(build(case).eval(), range(4))
    walk(trainer, 3)
    assert not torch.equal(before, sampled(trainer.best.eval(), range(4)))


# What is known exactly


def test_the_flow_is_inverted_exactly_and_its_density_is_that_of_autograd_s_jacobian():
    with doubles():
        model = RealNVP(4, 1, width=8, depth=3).double()
        for p in model.parameters():
            p.data.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
        x = 0.9 * images(1, 4, 4, rows=3)["x"].double()
        z, log_det = model.to_latent(x)
        torch.testing.assert_close(model.decode(z), x)
        for row in range(3):
            jacobian = torch.autograd.functional.jacobian(lambda x: model.to_latent(x[None])[0][0], x[row])
            torch.testing.assert_close(jacobian.view(16, 16).slogdet().logabsdet, log_det[row])
        normal = torch.distributions.Normal(0, 1)
        torch.testing.assert_close(model.log_density(x), normal.log_prob(z).sum(1) + log_det)


def test_actnorm_s_start_normalises_the_first_batch():
    trainer = engine("flow", ema=0)
    stage = trainer.stages[0]
    model = trainer.model
    batch = trainer.batches.global_batch(0)
    with torch.no_grad():
        stage.prepare(trainer.batches, True)
        x = batch["x"] + GREY * batch.rng.uniform(1, 8, 8, low=-0.5, high=0.5)
        y, _ = model.layers[0](x.flatten(1))
    torch.testing.assert_close(y.mean(0), torch.zeros(64), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.std(0), torch.ones(64), atol=1e-4, rtol=0)
    kept = model.layers[0].shift.detach().clone()
    model.layers[0].shift.data.add_(1)
    stage.prepare(trainer.batches, False)  # another run's weights are kept
    assert torch.equal(model.layers[0].shift, kept + 1)


def test_an_rbm_s_gradient_with_chains_of_the_model_s_own_distribution_is_that_of_the_exact_likelihood():
    """By enumeration of all 2^6 visible states, in float64."""
    torch.manual_seed(0)
    rbm = RBM(6, 3, chains=1).double()
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=torch.float64)
    data = states[[3, 17, 17, 42, 60]]
    log_z = torch.logsumexp(-rbm.free_energy(states), 0)
    exact = torch.autograd.grad((rbm.free_energy(data) + log_z).mean(), list(rbm.parameters()))
    p = (-rbm.free_energy(states) - log_z).exp().detach()
    contrast = rbm.free_energy(data).mean() - (p * rbm.free_energy(states)).sum()
    for a, b in zip(exact, torch.autograd.grad(contrast, list(rbm.parameters())), strict=True):
        torch.testing.assert_close(a, b)
    # and the chains reach that distribution: the share of each visible unit's ones, against the exact one
    rng, v = Noise.of_seeds(range(4000)), torch.zeros(4000, 6)
    for _ in range(20):
        v = rbm.sweep(v, rng)
    torch.testing.assert_close(v.double().mean(0), (p[:, None] * states).sum(0), atol=0.03, rtol=0)


def test_an_rbm_s_chains_belong_to_rows_and_all_take_their_turn():
    trainer = engine("rbm-stack", batch_size=12)
    layer = trainer.model.layers[0]
    trainer.step(0, 0.0)
    start = layer.chain.clone()
    trainer.step(1, 0.1)
    moved = (layer.chain != start).any(1)
    assert moved[12:24].all() and not moved[:12].any() and not moved[24:].any() and int(layer.cursor) == 24


def test_the_canvas_becomes_its_target():
    model = Fresco(8, 1)
    trainer = engine("canvas", model, ema=0)
    walk(trainer, 8)
    torch.testing.assert_close(model.sample(Noise.of_seeds([0]))[0], model.target[0], atol=1e-3, rtol=0)


def test_the_probabilities_of_all_token_strings_sum_to_one_and_a_token_depends_on_those_before_it_alone():
    with doubles():
        model = TokenPrior(8, 1, 2, codes=3, code_width=2, width=8, depth=2).double().eval()
        strings = torch.tensor(list(itertools.product(range(3), repeat=4)))
        total = torch.logsumexp(model.token_log_prob(strings, torch.ones(len(strings), dtype=torch.int64)), 0)
        assert total.item() == pytest.approx(0, abs=1e-12)
        token = strings[[40], :3]
        embedded = torch.nn.functional.one_hot(token, 3).double().requires_grad_(True)
        model.prior.token.forward = lambda _: embedded @ model.prior.token.weight  # type: ignore[method-assign]
        logits = model.prior(token, torch.tensor([0]))[0]  # (4, 3): the first of no token, the last of all three
        for index in range(4):
            (grad,) = torch.autograd.grad(logits[index].sum(), embedded, retain_graph=True, allow_unused=True)
            seen = torch.zeros(3) if grad is None else grad[0].abs().sum(1)
            assert (seen[index:] == 0).all() and (seen[:index] > 0).all()


def test_samples_of_tokens_have_the_frequencies_of_the_model():
    model = TokenPrior(8, 1, codes=3, code_width=2, width=8, depth=1).eval()
    model.prior.head.weight.data.mul_(5)
    with torch.no_grad():
        *_, last = model.stream(Noise.of_seeds(range(6000)))
        strings = torch.tensor(list(itertools.product(range(3), repeat=4)))
        exact = model.token_log_prob(strings, None).exp()
    index = (last.tensors["t"] * torch.tensor([27, 9, 3, 1])).sum(1)
    frequencies = torch.bincount(index, minlength=81) / 6000
    assert (frequencies - exact).abs().max() < 5 * (exact * (1 - exact) / 6000).sqrt().max()


def test_a_code_follows_the_mean_of_its_latents_and_an_unused_one_is_revived_at_a_latent():
    book = Codebook(3, 2, decay=0.5, rare=0.6)
    book.start(torch.tensor([[0.0, 0.0], [4.0, 0.0], [100.0, 100.0]]))
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [4.0, 2.0]])
    revived = book.follow(book.nearest(z), z, Noise.of_seeds([0]))
    assert book.nearest(z).shape == (3,) and int(revived) == 1
    torch.testing.assert_close(book.code[0], torch.tensor([1 / 3, 1 / 3]))  # sums 0.5 over uses 1.5
    torch.testing.assert_close(book.code[1], torch.tensor([4.0, 1.0]))
    assert any(torch.equal(book.code[2], latent) for latent in z) and book.count.tolist() == [1.5, 1.0, 1.0]


def test_a_stack_s_second_layer_leaves_the_first_as_it_is():
    trainer = engine("rbm-stack", RBMStack(8, 1, hidden=(16, 8), chains=32))
    trainer.step(0, 0.0)
    first = {name: t.clone() for name, t in trainer.model.layers[0].state_dict().items()}
    trainer.step(1, 0.9)
    assert all(torch.equal(t, first[name]) for name, t in trainer.model.layers[0].state_dict().items())
    assert math.isclose(trainer.ends[1], 0.5) and trainer.stage == 1


def test_a_finished_run_of_tokens_has_no_map_of_its_latents(bars, tmp_path):
    model = TokenPrior(8, 1, 2, codes=8, code_width=4, width=8, depth=1)
    run = rv.train(model, bars, out=tmp_path / "run", steps=2, batch_size=16, quiet=True, device="cpu")
    files = {path.name for path in run.path.glob("*.png")}
    assert "reconstructions.png" in files and "latent-map.png" not in files


def test_no_file_of_the_package_names_a_toy():
    names = [f"toys.{path.stem}" for path in (Path(__file__).parent / "toys").glob("*.py")]
    classes = {type(build(case)).__name__ for case in TOYS}
    text = "\n".join(path.read_text() for path in (Path(__file__).parents[1] / "src").rglob("*.py"))
    assert len(names) > len(classes) >= 6 and [name for name in {*names, *classes} if name in text] == []
