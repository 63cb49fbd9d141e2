"""The optimiser of the diffusion models, against a singular value decomposition and against torch's AdamW."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reverie.optim.muon import Muon, hidden_matrices, orthogonal


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(2, 24, 60), (2, 60, 24)], ids=["wide", "tall"])
def test_a_step_keeps_the_directions_of_the_momentum_and_levels_its_singular_values(shape):
    x = normal(*shape)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    inside = u.mT @ orthogonal(x) @ v.mT  # diagonal where the singular vectors are kept
    levels = inside.diagonal(dim1=1, dim2=2)
    assert (inside - torch.diag_embed(levels)).abs().max() < 1e-4
    assert levels.min() > 0.6 and levels.max() < 1.3


def test_the_matrices_of_the_hidden_layers_are_its_own_and_the_rest_is_left_to_adam():
    net = nn.Sequential(nn.Conv2d(2, 32, 3), nn.Conv2d(32, 32, 3), nn.Linear(32, 4), nn.Embedding(40, 32))
    assert [w.shape for w in hidden_matrices(net)] == [(32, 2, 3, 3), (32, 32, 3, 3)]


def test_a_first_step_is_the_scaled_orthogonal_matrix_of_the_gradient():
    layer = nn.Linear(40, 20, bias=False)
    before, layer.weight.grad = layer.weight.detach().clone(), normal(20, 40)
    Muon(layer, lr=0.01, weight_decay=0.1).step()
    move = orthogonal(layer.weight.grad[None])[0] * 0.01 * 0.2 * 40**0.5
    assert torch.allclose(layer.weight, before * (1 - 0.001) - move, atol=1e-6)
    assert float(move.square().mean().sqrt()) == pytest.approx(0.01 * 0.2 * 0.5**0.5 * 40**0.5 / 20**0.5, rel=0.2)


def test_what_is_no_matrix_moves_as_under_adamw():
    ours, theirs = nn.Embedding(30, 5), nn.Embedding(30, 5)
    theirs.load_state_dict(ours.state_dict())
    a = Muon(ours, lr=0.01, weight_decay=0.1)
    b = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1, betas=(0.9, 0.99))
    for seed in range(3):
        for net, optimizer in ((ours, a), (theirs, b)):
            net.weight.grad = normal(30, 5, seed=seed)
            optimizer.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-6)


def test_its_state_survives_saving_and_loading_to_the_bit():
    def train(steps, state=None):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 3))
        optimizer = Muon(net, lr=0.01)
        if state:
            net.load_state_dict(state[0])
            optimizer.load_state_dict(state[1])
        for seed in steps:
            optimizer.zero_grad()
            net(normal(8, 20, seed=seed)).square().sum().backward()
            optimizer.step()
        return net.state_dict(), optimizer.state_dict()

    full = train(range(6))
    again = train(range(3, 6), train(range(3)))
    assert all(torch.equal(full[0][key], again[0][key]) for key in full[0])
