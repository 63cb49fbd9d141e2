"""Tokens: quantisers, vq-vae, token-transformer and maskgit."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import reverie as rv
from reverie.codes.tokens import histogram_bits
from reverie.commands.make import end_of
from reverie.core.batch import Batch
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.diffusion.frames import last_image
from reverie.evaluation.tokens import usage
from reverie.models.tokens.maskgit import masked_count, random_mask
from reverie.models.tokens.prior import probabilities
from reverie.probability.quantisation import FSQ, Codebook
from reverie.probability.sequential import log_prob, sampled

# Quantisers


@pytest.mark.parametrize("levels", [(2,), (3, 4), (8, 5, 5, 5)])
def test_fsq_codes_and_tokens_are_a_bijection(levels):
    fsq = FSQ(levels)
    tokens = torch.arange(fsq.codes)
    codes = fsq.lookup(tokens)
    assert len(codes.unique(dim=0)) == math.prod(levels) and codes.abs().max() <= 1
    digits = codes * fsq.middle  # a vector that is squashed to a code, where tanh reaches it, is that code's token
    reach, offset = (fsq.levels - 1) * 1.001 / 2, (fsq.levels % 2 == 0) * 0.5
    vectors = ((digits + offset) / reach).atanh() - (offset / reach).atanh()
    assert torch.equal(fsq(vectors)[1], tokens) and torch.allclose(fsq(vectors)[0], codes, atol=1e-6)


def test_fsq_rounds_to_the_levels_of_the_paper():
    code, _ = FSQ((5,))(torch.tensor([[-9.0], [-0.6], [0.1], [0.6], [9.0]]))
    assert torch.allclose(code[:, 0], torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]), atol=1e-6)
    assert FSQ((4,)).lookup(torch.arange(4))[:, 0].tolist() == [-1.0, -0.5, 0.0, 0.5]
    assert FSQ((4,))(torch.zeros(1, 1))[0].item() == 0  # an even number of levels has zero among them


def test_the_gradient_passes_fsq_as_if_it_did_not_round():
    fsq, z = FSQ((3, 4)), torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 2, dtype=torch.float64)
    (rounded,) = torch.autograd.grad((fsq(z)[0] * weight).sum(), z)
    (smooth,) = torch.autograd.grad((fsq.bound(z) / fsq.middle * weight).sum(), z)
    assert torch.equal(rounded, smooth) and (rounded != 0).all()


def test_the_gradient_passes_a_codebook_unchanged():
    book, z = Codebook(4, 3), torch.randn(6, 3, requires_grad=True)
    code, index = book(z)
    (gradient,) = torch.autograd.grad((code * 2).sum(), z)
    assert torch.equal(gradient, torch.full((6, 3), 2.0))
    assert torch.equal(index, torch.cdist(z, book.code).argmin(1)) and torch.allclose(code, book.code[index])


def test_codes_are_running_means_of_their_vectors():
    book = Codebook(2, 1, decay=0.75)
    book.start(torch.tensor([[-1.0], [1.0]]))
    vectors = torch.tensor([[-3.0], [2.0], [4.0]])
    dead = book.follow(book(vectors)[1], vectors, Noise.of_seeds([0]))
    assert dead == 0 and book.code[:, 0].tolist() == pytest.approx([-1.5, (0.75 + 0.25 * 6) / (0.75 + 0.25 * 2)])
    for _ in range(200):
        book.follow(book(vectors)[1], vectors, Noise.of_seeds([0]))
    assert torch.allclose(book.code[:, 0], torch.tensor([-3.0, 3.0]))


def test_an_unused_code_starts_anew_at_a_vector():
    book = Codebook(3, 2, decay=0.5)
    book.start(torch.tensor([[0.0, 0.0], [1.0, 1.0], [50.0, 50.0]]))
    vectors = torch.rand(20, 2)
    revived = [int(book.follow(book(vectors)[1], vectors, Noise.of_seeds([step]))) for step in range(6)]
    assert sum(revived) >= 1 and (book.code <= 1).all() and len(book.code.unique(dim=0)) == 3


# Models


def small(name, **options):
    torch.manual_seed(0)
    own = {} if name == "vq-vae" else {"codec_width": 8, "heads": 2, "classes": 3}
    model = rv.build(name, shape=8, channels=1, width=8, depth=1, **own, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


IMAGES = Noise.of_seeds(range(4))(1, 8, 8).clamp(-1, 1)


@pytest.mark.parametrize("quantiser", ["codebook", "fsq"])
def test_tokens_are_the_image_to_the_decoder(quantiser):
    model = small("vq-vae", quantiser=quantiser)
    outputs, tokens = model.reconstruct(Batch({"x": IMAGES})), model.encode(IMAGES)
    assert tokens.dtype == torch.int64 and torch.equal(tokens, outputs["tokens"])
    assert torch.allclose(model.decode(tokens), outputs["reconstructed"].clamp(-1, 1), atol=1e-5)
    with pytest.raises(UsageError, match="Tokens run from 0 to"):
        model.decode(tokens + 10_000)


def test_wrong_options_are_refused_with_the_fix():
    with pytest.raises(UsageError, match=r"factor=4 needs a size that it divides; 30 is not\. Try size='32'"):
        rv.build("vq-vae", shape=30, channels=1)
    with pytest.raises(UsageError, match="at most 1048576"):
        rv.build("vq-vae", shape=8, channels=1, levels=(4096, 4096))
    with pytest.raises(UsageError, match="must divide the width"):
        rv.build("maskgit", shape=8, channels=1, width=10, heads=4)
    with pytest.raises(UsageError, match=r"captions\. Train with conditional"):
        small("token-transformer").sample(Noise.of_seeds([0]), text=["a red heart"])
    codec = {"name": "autoencoder-kl", "kwargs": {"shape": 8, "channels": 1}, "run": "runs/kl"}
    with pytest.raises(UsageError, match=r"runs/kl is a run of autoencoder-kl, which has no tokens.*train vq-vae"):
        rv.build("maskgit", shape=8, channels=1, codec=codec)


@pytest.mark.parametrize("options", [{}, {"conditional": "label"}, {"conditional": "text"}], ids=str)
def test_probabilities_of_all_sequences_of_tokens_sum_to_one(options):
    model = small("token-transformer", levels=(3,), **options).double()
    every = torch.tensor(list(itertools.product(range(3), repeat=4)))
    cond = {"label": torch.full((81,), 2), "text": ["a heart, red"] * 81}
    cond = {name: cond[name] for name in model.card.conditions}
    with torch.no_grad():
        log_p = model.token_log_prob(every, **cond)
        stepwise = log_prob(model.conditionals(81, **cond), every)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-6)
    assert torch.allclose(log_p.double(), stepwise, atol=1e-5)  # the cache changes nothing
    if options:
        assert not torch.allclose(log_p, model.token_log_prob(every), atol=1e-3)


def test_a_caption_is_the_same_beside_longer_ones():
    model = small("token-transformer", conditional="text").double()
    tokens = model.encode(IMAGES.double()).flatten(1)[:1]
    longer = model.token_log_prob(tokens.expand(2, -1), text=["heart", "a very long caption of many words"])[:1]
    assert torch.allclose(model.token_log_prob(tokens, text=["heart"]), longer, atol=1e-9)


def test_samples_have_the_frequencies_of_the_likelihood():
    model = small("token-transformer", levels=(2,))
    with torch.no_grad():
        *_, tokens = sampled(model.conditionals(4000), Noise.of_seeds(range(4000)).uniform(4))
        every = torch.tensor(list(itertools.product(range(2), repeat=4)))
        p = model.token_log_prob(every).double().exp()
    counts = torch.bincount((tokens * torch.tensor([8, 4, 2, 1])).sum(1), minlength=16) / 4000
    assert ((counts - p).abs() < 4.5 * (p * (1 - p) / 4000).sqrt()).all()


def test_a_sample_does_not_depend_on_the_number_that_is_computed_at_once():
    model = small("token-transformer", conditional="label", levels=(8, 5, 5))
    together, alone = (rv.sample(model, 40, label=[0, 1, 2], chunk=chunk).array.astype(int) for chunk in (None, 7))
    assert model.card.at_once == 256 and abs(together - alone).max() <= 1


def test_guidance_follows_the_condition():
    model = small("token-transformer", conditional="label", levels=(3,))
    label = torch.tensor([1])
    with torch.no_grad():
        plain, null, guided = (
            next(model.conditionals(1, **kwargs)).probs.log()
            for kwargs in ({"label": label}, {}, {"label": label, "guidance": 3.0})
        )
    expected = (null + 3 * (plain - null)).log_softmax(-1)
    assert torch.allclose(guided.log_softmax(-1), expected, atol=1e-5)


def test_temperature_top_k_and_top_p():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert torch.allclose(probabilities(logits), logits.exp())
    assert torch.allclose(probabilities(logits, top_k=2), torch.tensor([0.5, 0.3, 0, 0]))
    assert torch.allclose(probabilities(logits, top_p=0.6), torch.tensor([0.5, 0.3, 0, 0]))
    assert torch.allclose(probabilities(logits, top_p=0.49), torch.tensor([0.5, 0, 0, 0]))
    assert torch.allclose(probabilities(logits, 0.5)[0], torch.tensor(0.25 / (0.25 + 0.09 + 0.0225 + 0.0025)))


# MaskGIT


@pytest.mark.parametrize("steps", [1, 3, 8, 50])
def test_the_schedule_unmasks_every_token(steps):
    start = torch.tensor([0, 1, 7, 49])
    masked, history = start, []
    for step in range(1, steps + 1):
        masked = masked_count(masked, step / steps, start)
        history.append(masked)
    assert (masked == 0).all()
    counts = torch.stack([start, *history])
    assert ((counts[:-1] > counts[1:]) | (counts[1:] == 0)).all()  # at least one a step
    if steps == 8:
        assert counts[4, 3] == int(49 * math.cos(math.pi / 4))


def test_known_tokens_stay_and_unknown_ones_are_shown_as_such():
    model = small("maskgit", levels=(3, 3))
    with torch.no_grad():
        frames = [frame.tensors["tokens"] for frame in model.stream(Noise.of_seeds(range(3)), steps=3)]
    assert (frames[0] < 0).any() and (frames[-1] >= 0).all()
    for earlier, later in itertools.pairwise(frames):
        assert torch.equal(later[earlier >= 0], earlier[earlier >= 0])


def test_known_pixels_are_kept_in_a_completed_image():
    model = small("maskgit", levels=(3, 3))
    mask = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    mask[..., :2] = False
    with torch.no_grad():
        images = (IMAGES, IMAGES.masked_fill(~mask, 1.0))
        completed, other = (last_image(model.complete(x, mask, Noise.of_seeds(range(4)))) for x in images)
    assert torch.equal(completed.masked_select(mask), IMAGES.masked_select(mask)) and torch.equal(completed, other)


def test_a_prior_in_the_order_of_rows_completes_by_its_own_conditionals():
    model = small("token-transformer", levels=(3, 3))
    mask = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    mask[..., 4:, :] = False
    noise = Noise.of_seeds(range(4))
    with torch.no_grad():
        images = (IMAGES, IMAGES.masked_fill(~mask, 1.0))
        completed, other = (last_image(model.complete(x, mask, Noise.of_seeds(range(4)))) for x in images)
        from_nothing = last_image(model.complete(IMAGES, torch.zeros_like(mask), Noise.of_seeds(range(4))))
        sample = model.sample(noise)
    assert torch.equal(completed.masked_select(mask), IMAGES.masked_select(mask)) and torch.equal(completed, other)
    assert not torch.equal(completed, IMAGES) and torch.equal(from_nothing, sample)


def test_the_smallest_temperature_is_the_most_probable_token():
    assert probabilities(torch.tensor([1.0, 3.0, 2.0]), 1e-320).tolist() == [0, 1, 0]


def test_the_bound_of_any_order_is_that_of_the_mean_over_orders():
    model = small("maskgit", levels=(3,)).double()
    images = IMAGES[:1].double()
    tokens = model.encode(images).flatten(1)
    with torch.no_grad():
        total = 0.0
        for order in itertools.permutations(range(4)):
            known = torch.full((1, 4), -1)
            for place in order:
                logits = model.net(known, model.net.prefix(1)).double()
                total += float(logits[0, place].log_softmax(0)[tokens[0, place]]) / 24
                known[0, place] = tokens[0, place]
        rows = Batch({"x": images.expand(4000, -1, -1, -1)})
        estimates = model.elbo(rows)
    assert abs(float(estimates.mean()) - total) < 4.5 * float(estimates.std()) / 4000**0.5


def test_masks_have_the_number_of_places_that_is_asked_for():
    count = torch.arange(1, 8)
    assert torch.equal(random_mask(Noise.of_seeds(range(7)), count, 7).sum(1), count)


# What else reads tokens


def test_usage_and_perplexity():
    share, perplexity = usage(torch.tensor([[0, 0], [2, 2]]), 4)
    assert share == 0.5 and perplexity == pytest.approx(2)


def test_the_length_of_evenly_distributed_tokens_is_their_number_of_bits():
    training = np.arange(64_000).reshape(-1, 2) % 16
    bits = histogram_bits(np.stack([training[:, 0], training[::-1, 0]], 1), np.array([[2, 4]]), 16)
    assert bits == pytest.approx(6, abs=0.01)  # each place has eight of the sixteen codes


def test_tokens_have_no_path_and_their_rates_are_exact(noisy_bars, tmp_path, capsys):
    common = {"steps": 2, "batch_size": 16, "quiet": True, "width": 8}
    run = rv.train("token-transformer", noisy_bars, out=tmp_path / "t", levels=(3, 3), codec_width=8, depth=1, **common)
    for refused in (lambda: rv.interpolate(run, "held-out:0", "held-out:1"), lambda: rv.traverse(run)):
        with pytest.raises(UsageError, match="tokens: names"):
            refused()
    result = rv.rates(run)
    by_histogram, by_prior = (result.curves["t", counted][0] for counted in ("codes", "codes by prior"))
    assert by_histogram.psnr == by_prior.psnr and 0 < by_histogram.bits_per_pixel <= 4 * math.log2(9) / 64 + 0.1
    result.save(tmp_path / "r.png")
    end_of(run, False)
    assert "traverse" not in capsys.readouterr().out
    few = rv.evaluate(run, metrics=["nll-tokens"], n=3)
    assert few["nll-tokens"].passport["held_out"] == 3 and not few.refused
    assert not (run.path / "evaluation" / "scores.png").exists()  # without a sample there is nothing to look at
    scores = rv.evaluate(run, metrics=["nll", "token-usage"])
    assert {"nll-tokens", "token-usage", "token-perplexity"} <= {score.metric for score in scores.scores}
    codec = rv.train("vq-vae", noisy_bars, out=tmp_path / "codec", levels=(3, 3), **common)
    with pytest.raises(UsageError, match=r"vq-vae cannot sample.*reverie train maskgit --codec"):
        rv.sample(codec)
    prior = rv.train("maskgit", noisy_bars, out=tmp_path / "m", codec=str(codec.path), depth=1, **common)
    before, after = rv.load(codec).state_dict(), rv.load(prior).token_codec.codec.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert rv.sample(prior, 2).array.shape == (2, *rv.load(codec).output.shape, 1)
