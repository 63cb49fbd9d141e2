"""The diffusion transformer: against torch's own attention, and what it must and must not depend on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reverie.core import registry
from reverie.core.errors import UsageError
from reverie.models.diffusion.dit import transformer
from reverie.nets import dit
from reverie.nets.dit import Block, DiffusionTransformer, from_patches, patches, positions
from reverie.nets.unet import attend, sinusoids


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stirred(net: nn.Module) -> nn.Module:
    """A net away from its start, where gates are closed and the output is zero."""
    for number, parameter in enumerate(net.parameters()):
        parameter.data += 0.1 * noise(*parameter.shape, seed=number).to(parameter)
    return net


@pytest.fixture(scope="module")
def net() -> DiffusionTransformer:
    torch.manual_seed(0)
    return stirred(DiffusionTransformer(3, patch_size=2, width=16, depth=2, heads=2, classes=4, context=6).double())


X, TIMES = noise(5, 3, 8, 8, seed=1), torch.linspace(0, 1000, 5, dtype=torch.float64)


def test_at_the_start_every_block_is_the_identity_and_the_output_is_zero():
    net = DiffusionTransformer(3, patch_size=2, width=16, depth=2, heads=2, classes=4, context=6).double()
    rows, condition = noise(5, 16, 16), noise(5, 16, seed=1)
    for block in net.blocks:
        assert torch.equal(block(rows, condition, noise(5, 3, 6), None), rows)
    assert torch.equal(net(X, TIMES), torch.zeros_like(X))


def test_a_patch_is_a_square_of_pixels_and_patches_make_up_the_image_again():
    x = noise(2, 3, 6, 4)
    rows = patches(x, 2)
    assert rows.shape == (2, 6, 12)
    for row in range(3):
        for column in range(2):
            square = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(rows[:, 2 * row + column], square.flatten(1))
    assert torch.equal(from_patches(rows, 2, 3), x)


def test_positions_are_sinusoids_of_the_row_and_of_the_column():
    embedding = positions(3, 5, 8)
    for row in range(3):
        for column in range(5):
            frequencies = torch.tensor([1.0, 0.01])  # 10000^0, 10000^(-1/2)
            angles = [frequencies * row, frequencies * column]
            expected = torch.cat([part for angle in angles for part in (angle.cos(), angle.sin())])
            torch.testing.assert_close(embedding[5 * row + column], expected)
    assert torch.equal(sinusoids(torch.zeros(1), 4), torch.tensor([[1.0, 1.0, 0.0, 0.0]]))


def test_without_positions_the_order_of_the_patches_would_be_lost(net, monkeypatch):
    def swapped(x):  # its left and its right half
        return x.roll(4, 3)

    assert (net(swapped(X), TIMES) - swapped(net(X, TIMES))).abs().max() > 0.01
    monkeypatch.setattr(dit, "positions", lambda height, width, channels, device: torch.zeros(height * width, channels))
    torch.testing.assert_close(net(swapped(X), TIMES), swapped(net(X, TIMES)))


def test_a_block_is_that_of_the_paper():
    """adaLN-Zero written out, with torch's own attention and the weights of ours."""
    block = stirred(Block(16, 2, 0).double())
    theirs = nn.MultiheadAttention(16, 2, batch_first=True).double()
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = (p.data for p in block.qkv.parameters())
    theirs.out_proj.load_state_dict(block.out.state_dict())
    x, condition = noise(5, 7, 16), noise(5, 16, seed=1)
    shift, scale, gate, later_shift, later_scale, later_gate = (
        part[:, None] for part in (condition @ block.modulation.weight.T + block.modulation.bias).split(16, 1)
    )

    def normalised(x):
        return (x - x.mean(2, keepdim=True)) / (x.var(2, unbiased=False, keepdim=True) + 1e-6).sqrt()

    h = normalised(x) * (1 + scale) + shift
    h = x + gate * theirs(h, h, h)[0]
    first, _, second = block.mlp
    later = second(F.gelu(first(normalised(h) * (1 + later_scale) + later_shift)))
    torch.testing.assert_close(block(x, condition, None, None), h + later_gate * later)


@pytest.mark.parametrize("masked", [False, True])
def test_both_ways_to_attend_agree(masked):
    q, k, v = noise(3, 2, 5, 4), noise(3, 2, 7, 4, seed=1), noise(3, 2, 7, 4, seed=2)
    attn_mask = torch.arange(7) < torch.tensor([7, 2, 5])[:, None, None, None] if masked else None
    with torch.no_grad():
        fused = attend(q, k, v, attn_mask)
    torch.testing.assert_close(attend(q, k, v, attn_mask), fused)


def test_no_label_is_the_label_minus_one_and_classes_differ(net):
    none = net(X, TIMES)
    assert torch.equal(net(X, TIMES, torch.full((5,), -1)), none)
    outputs = [net(X, TIMES, torch.full((5,), label)) for label in range(4)]
    assert all((a - none).abs().max() > 1e-3 for a in outputs) and (outputs[0] - outputs[3]).abs().max() > 1e-3


def test_what_stands_where_a_caption_has_ended_does_not_matter(net):
    tokens, mask = noise(5, 4, 6, seed=2), torch.arange(4) < torch.tensor([4, 2, 1, 3, 4])[:, None]
    there = net(X, TIMES, None, tokens, mask)
    other = torch.where(mask[..., None], tokens, 1e3)
    longer = F.pad(other, (0, 0, 0, 3), value=-50.0), F.pad(mask, (0, 3))
    torch.testing.assert_close(net(X, TIMES, None, *longer), there)
    torch.testing.assert_close(net(X[1:2], TIMES[1:2], None, tokens[1:2, :2], None), there[1:2])
    assert (net(X, TIMES, None, tokens.flip(2), mask) - there).abs().max() > 1e-3


def test_an_image_does_not_depend_on_its_batch(net):
    label, tokens = torch.tensor([0, 1, 2, 3, -1]), noise(5, 4, 6, seed=2)
    together = net(X, TIMES, label, tokens)
    for row in range(5):
        rows = slice(row, row + 1)
        torch.testing.assert_close(net(X[rows], TIMES[rows], label[rows], tokens[rows]), together[rows])


def test_every_weight_learns(net):
    net(X, TIMES, torch.tensor([0, 1, 2, 3, -1]), noise(5, 4, 6)).square().mean().backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    net.zero_grad()
    assert not dead


def test_in_bf16_training_the_sum_of_the_blocks_is_kept_in_full_precision():
    net, seen = stirred(DiffusionTransformer(3, patch_size=2, width=16, depth=2, heads=2)), []
    net.blocks[1].register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0].dtype, output.dtype]))
    x, times = X.float(), TIMES.float()
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(x, times)
    assert seen == [torch.float32, torch.float32] and rough.dtype == torch.bfloat16
    assert (rough - net(x, times)).abs().mean() < 0.02
    halved = net.bfloat16()(x.bfloat16(), times)
    assert halved.dtype == torch.bfloat16 and halved.isfinite().all()


def test_images_of_any_sides_that_the_patch_divides_are_accepted(net):
    assert net(X[:, :, :6, :2], TIMES).shape == (5, 3, 6, 2)
    assert DiffusionTransformer(4, patch_size=4, width=8, depth=1, heads=1, outputs=1)(
        torch.zeros(2, 4, 12, 4), torch.zeros(2)
    ).shape == (2, 1, 12, 4)


@pytest.mark.parametrize("width, heads", [(8, 1), (64, 1), (192, 3), (200, 2), (256, 4)])
def test_heads_divide_the_width(width, heads):
    block = transformer((8, 8), 1, 4, width, 1).blocks[0]
    assert block.heads == heads and width % heads == 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"shape": 30}, "1, 2, 3, 5, 6, 10, 15"),
        ({"width": 10}, "Try width=12"),
        ({"patch_size": 0}, "at least 1"),
        ({"depth": 0}, "1"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(options, message):
    with pytest.raises(UsageError, match=message):
        registry.build("dit", **{"shape": 8, "channels": 1, "width": 8, "depth": 1} | options)
