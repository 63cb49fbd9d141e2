"""A causal transformer with its cache, and distributions by the chain rule."""

from __future__ import annotations

import itertools

import pytest
import torch

from reverie.core.noise import Noise
from reverie.nets.transformer import Cache, Transformer, attend
from reverie.probability.sequential import Step, driven, log_prob, quantile, sampled


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    net = Transformer(16, 3, 4).double().eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


@pytest.mark.parametrize("few", [0, 2 * 16 * 4, 1 << 20])  # fused attention always, from the fifth position, never
@pytest.mark.parametrize("pieces", [(1,) * 7, (3, 1, 3), (7,)])
def test_a_cached_transformer_is_the_uncached_one(transformer, pieces, few, monkeypatch):
    monkeypatch.setattr("reverie.nets.transformer._FEW", few)
    x, cache = torch.randn(2, 7, 16, dtype=torch.float64), Cache(7)
    parts = [transformer(part, cache=cache) for part in x.split(pieces, 1)]
    assert torch.allclose(torch.cat(parts, 1), transformer(x), atol=1e-12)


@pytest.mark.parametrize("few", [0, 1 << 20])
def test_a_cached_transformer_does_not_see_masked_positions(transformer, few, monkeypatch):
    monkeypatch.setattr("reverie.nets.transformer._FEW", few)
    x, cache = torch.randn(2, 5, 16, dtype=torch.float64), Cache(5)
    mask = torch.tensor([[1, 1, 0, 1, 1], [1, 0, 1, 1, 1]], dtype=torch.bool)[:, None, None]
    parts = [transformer(x[:, i : i + 1], mask[..., : i + 1], cache) for i in range(5)]
    full = transformer(x, mask)
    for row, seen in enumerate(mask[:, 0, 0]):
        assert torch.allclose(torch.cat(parts, 1)[row, seen], full[row, seen], atol=1e-12)


def test_a_causal_transformer_sees_no_later_position(transformer):
    x = torch.randn(1, 5, 16, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(transformer, x)[0, :, :, 0].abs().sum((1, 3))  # (out, in)
    assert (jacobian.triu(1) == 0).all() and (jacobian.tril() > 0).sum() == 15


def test_attention_over_few_positions_is_in_fp32_on_a_cpu_whatever_the_precision_of_the_run():
    q, k, v = torch.randn(3, 1, 2, 5, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        attended = attend(q, k, v, None, True)
    exact = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=True)
    assert attended.dtype == torch.float32 and torch.allclose(attended.double(), exact, atol=1e-6)


def test_masked_positions_change_nothing(transformer):
    x = torch.randn(1, 5, 16, dtype=torch.float64)
    changed = x.clone()
    changed[:, 1] += 1
    mask = torch.tensor([True, False, True, True, True])[None, None, None]
    a, b = (transformer(rows, mask)[:, 2:] for rows in (x, changed))
    assert torch.equal(a, b)


def markov(rows: int, length: int = 3):
    """A chain of three levels that tends to go up by one."""
    levels = torch.zeros(rows, dtype=torch.int64)
    for place in range(length):
        weights = torch.ones(rows, 1, 3).scatter_(2, ((levels + 1) % 3)[:, None, None], 4.0)
        levels = (yield Step(torch.tensor([place]), weights))[:, 0]


def test_probabilities_of_all_sequences_sum_to_one():
    every = torch.tensor(list(itertools.product(range(3), repeat=3)))
    assert log_prob(markov(27), every).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_sampled_frequencies_are_the_probabilities():
    every = torch.tensor(list(itertools.product(range(3), repeat=3)))
    u = Noise.of_seeds(range(20_000)).uniform(3)
    *_, levels = sampled(markov(20_000), u)
    counts = torch.bincount((levels * torch.tensor([9, 3, 1])).sum(1), minlength=27) / 20_000
    p = log_prob(markov(27), every).exp()
    assert ((counts - p).abs() < 4.5 * (p * (1 - p) / 20_000).sqrt()).all()


def test_fixed_values_are_kept_and_condition_what_follows():
    u = Noise.of_seeds(range(64)).uniform(3)
    levels, fixed = torch.full((64, 3), 2), torch.tensor([[True, False, False]]).expand(64, 3)
    *_, completed = sampled(markov(64), u, levels, fixed)
    assert (completed[:, 0] == 2).all() and (completed[:, 1] == 0).float().mean() > 0.5


def test_a_step_is_driven_with_what_was_chosen():
    steps = list(driven(markov(1), lambda step: torch.tensor([[1]])))
    assert len(steps) == 3 and steps[2][0].probs[0, 0].tolist() == [1, 1, 4]


def test_quantile_is_the_inverse_of_the_cumulative_distribution():
    probs = torch.tensor([[0.0, 0.25, 0.5, 0.25, 0.0]])
    u = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 0.999999])
    assert quantile(probs.expand(6, 5), u).tolist() == [1, 1, 2, 2, 3, 3]
