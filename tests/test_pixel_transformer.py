"""The pixel transformer: what depends on what, exact probabilities, and sampling with a cache."""

from __future__ import annotations

import itertools

import pytest
import torch

import reverie as rv
from reverie.core.batch import Batch
from reverie.core.noise import Noise
from reverie.diffusion.frames import last_image
from reverie.nets.pixel_transformer import neighbours, tokens_of
from reverie.probability.sequential import log_prob

GROUPS = [(1, "independent"), (4, "autoregressive"), (4, "independent"), (36, "autoregressive"), (36, "independent")]
GROUPS += [("rows", "autoregressive"), ("rows", "independent")]
groups = pytest.mark.parametrize("pixels_per_step, within", GROUPS)


def make(size=6, channels=1, **options):
    torch.manual_seed(0)
    small = {"width": 16, "depth": 1, "local_width": 8, "local_depth": 1, "reach": 2}
    model = rv.build("pixel-transformer", shape=size, channels=channels, **small | options).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


def levels_of(rows, model, seed=0):
    shape = (model.output.channels, *model.output.shape)
    return Noise.of_seeds(range(rows)).integers(model.distribution.levels, *shape)


@groups
def test_a_pixel_depends_on_all_earlier_steps_and_on_nothing_else(pixels_per_step, within):
    net = make(pixels_per_step=pixels_per_step, within=within, likelihood="bernoulli").net
    jacobian = torch.autograd.functional.jacobian(net, torch.zeros(1, 1, 6, 6, dtype=torch.float64))
    depends = jacobian.reshape(2, 36, 36).abs().sum(0) > 0  # (pixel, on pixel)
    order = torch.empty(36, dtype=torch.int64)
    tokens = net.tokens
    order[tokens] = torch.arange(len(tokens))[:, None] * 100
    if within == "autoregressive":
        order[tokens] += torch.arange(tokens.shape[1])
    earlier = order[:, None] > order
    assert not (depends & ~earlier).any()
    if len(tokens) > 1:
        by_token = order[:, None] // 100 > order // 100
        assert depends[by_token].all()  # the transformer's context has no limit
    if within == "autoregressive" and pixels_per_step == 4:
        assert torch.equal(depends, earlier)


def test_tokens_are_squares_and_rows_in_reading_order():
    assert tokens_of((4, 4), (2, 2)).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert tokens_of((2, 3), (1, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_neighbours_are_the_earlier_pixels_of_the_square_around():
    tokens = tokens_of((4, 4), (2, 2))
    seen = [sorted(set(row) - {16}) for row in neighbours((4, 4), tokens, 1, True).tolist()]
    assert seen[10] == [
        5,
        6,
        7,
        9,
        13,
    ]  # of its left neighbours 13 too, which lies lower but was drawn with the token before
    alone = [sorted(set(row) - {16}) for row in neighbours((4, 4), tokens, 1, False).tolist()]
    assert alone[5] == [] and alone[6] == [1, 5] and seen[5] == [0, 1, 4]


@pytest.mark.parametrize("within", ["autoregressive", "independent"])
@pytest.mark.parametrize("pixels_per_step", [1, 9, "rows"])
def test_probabilities_of_all_binary_images_of_3x3_sum_to_one(pixels_per_step, within):
    model = make(3, pixels_per_step=pixels_per_step, within=within, likelihood="bernoulli")
    every = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=9))).view(-1, 1, 3, 3)
    total = model.log_prob(Batch({"x": every}, rng=Noise.of_seeds(range(512)))).double().exp().sum().item()
    assert total == pytest.approx(1, abs=1e-9)


@groups
@pytest.mark.parametrize("channels, likelihood", [(1, "categorical"), (3, "categorical"), (3, "mixture")])
def test_step_by_step_with_a_cache_is_the_whole_image_at_once(pixels_per_step, within, channels, likelihood):
    model = make(channels=channels, pixels_per_step=pixels_per_step, within=within, likelihood=likelihood)
    levels = levels_of(3, model)
    at_once = model._log_prob(levels)
    steps = log_prob(model.conditionals(3), levels.flatten(1))
    torch.testing.assert_close(steps, at_once.double(), rtol=1e-10, atol=1e-8)


@pytest.mark.parametrize("within", ["autoregressive", "independent"])
def test_an_image_drawn_alone_is_the_same_in_a_batch_and_twice(within):
    model = make(pixels_per_step=9, within=within, channels=3).float()
    together = model.sample(Noise.of_seeds(range(5)))
    assert torch.equal(together, model.sample(Noise.of_seeds(range(5))))
    assert torch.equal(together[3:4], model.sample(Noise.of_seeds([3])))


def test_completion_keeps_the_known_pixels_and_depends_on_them():
    model = make(pixels_per_step=4, likelihood="bernoulli").float()
    mask = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    mask[..., :2, :] = True
    black = torch.full((8, 1, 6, 6), -1.0)
    completed = [last_image(model.complete(image, mask, Noise.of_seeds(range(8)))) for image in (black, -black)]
    assert (completed[0][..., :2, :] == -1).all() and (completed[1][..., :2, :] == 1).all()
    assert (completed[0][..., 2:, :] != completed[1][..., 2:, :]).any()


def test_a_label_changes_all_pixels_and_none_is_a_class_of_its_own():
    model = make(pixels_per_step=4, conditional="label", classes=3)
    x = torch.zeros(4, 1, 6, 6, dtype=torch.float64)
    params = model.net(x, torch.tensor([0, 1, 2, -1]))
    assert all((a - b).abs().flatten(1).max(1)[0].gt(0).all() for a, b in itertools.combinations(params, 2))
    torch.testing.assert_close(model.net(x[:1])[0], params[3])


@pytest.mark.parametrize("pixels_per_step", [2, 16, 25])
def test_a_step_that_does_not_tile_the_image_is_refused_with_those_that_do(pixels_per_step):
    with pytest.raises(rv.UsageError, match=f"pixels_per_step={pixels_per_step} .*Here it can be 1, 4, 9, 36 or rows"):
        make(6, pixels_per_step=pixels_per_step)
