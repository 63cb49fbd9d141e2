"""Noise belongs to an image: the facts that every sampler and every loss rely on."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reverie.core.noise import Noise, fold, mix


@given(st.integers(0, 2**62), st.integers(1, 9), st.data())
def test_a_row_draws_the_same_alone_and_in_any_batch(seed, rows, data):
    seeds = [seed + i for i in range(rows)]
    together = Noise.of_seeds(seeds)
    first, second = together(3, 2), together.uniform(5)
    row = data.draw(st.integers(0, rows - 1))
    alone = Noise.of_seeds([seeds[row]])
    assert torch.equal(alone(3, 2)[0], first[row])
    assert torch.equal(alone.uniform(5)[0], second[row])


def test_two_ranks_draw_what_one_rank_draws():
    key = fold(7, 3, 1)
    full = Noise.of_step(key, 0, 8)(4)
    halves = [Noise.of_step(key, start, 4)(4) for start in (0, 4)]
    assert torch.equal(full, torch.cat(halves))


def test_draws_of_a_stream_and_streams_of_a_step_differ():
    noise = Noise.of_seeds([0, 1])
    a, b = noise(100), noise(100)
    keys = {fold(seed, step, phase) for seed in range(4) for step in range(50) for phase in range(4)}
    assert not torch.equal(a[0], b[0]) and not torch.equal(a[0], a[1])
    assert len(keys) == 4 * 50 * 4


def test_normal_draws_have_the_moments_and_the_distribution_of_a_normal():
    x = Noise.of_seeds(range(500))(2000).double().flatten()
    n = len(x)
    for power, expected, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(x.pow(power).mean() - expected) < 5 * math.sqrt(spread / n)
    ordered = x.sort().values
    cdf = 0.5 * (1 + torch.erf(ordered / math.sqrt(2)))
    ks = (cdf - torch.arange(n, dtype=torch.float64) / n).abs().max()
    assert ks < 1.95 / math.sqrt(n)  # Kolmogorov-Smirnov at 0.1 %


def test_neighbouring_draws_rows_and_positions_are_uncorrelated():
    noise = Noise.of_seeds(range(1000))
    a, b = noise(1000), noise(1000)
    bound = 5 / 1000  # five standard errors of a correlation over 10^6 pairs
    for left, right in ((a, b), (a[1:], a[:-1]), (a[:, 1:], a[:, :-1]), (a[:, ::2], a[:, 1::2])):
        assert abs((left * right).mean()) < bound * 1.5


def test_uniform_integers_and_coins_fill_their_ranges_evenly():
    noise = Noise.of_seeds(range(200))
    u = noise.uniform(1000, low=-1, high=3)
    assert u.min() >= -1 and u.max() < 3 and abs(u.mean() - 1) < 0.02
    counts = noise.integers(7, 1000).flatten().bincount(minlength=7)
    assert len(counts) == 7 and (counts / 200_000 - 1 / 7).abs().max() < 0.005
    assert abs(noise.bernoulli(0.3, 1000).float().mean() - 0.3) < 0.006


def test_mix_loses_nothing():
    x = torch.arange(-50_000, 50_000)
    assert len(mix(x).unique()) == len(x)


def test_known_values_never_change():
    """A seed must give the same image in every release."""
    assert fold(0) == -2152535657050944081
    assert Noise.of_seeds([0]).bits(2).tolist() == GOLDEN_BITS
    assert Noise.of_seeds([0])(2)[0].tolist() == pytest.approx(GOLDEN_NORMALS, abs=1e-6)


GOLDEN_BITS = [[4336712865889401412, 2674033460618070975]]
GOLDEN_NORMALS = [1.4195690155029297, -0.9382783770561218]
