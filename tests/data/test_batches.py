"""Batches: every column of the right rows, on any rank, and changes that move a sample's columns together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.data.augment import Augment
from reverie.data.batches import Batches, NoData, in_order
from reverie.data.types import Split
from reverie.media import Spec

EVERYTHING = Augment.parse("flip,translate,color")


def streams(rows: int = 64) -> Noise:
    return Noise.of_seeds(range(rows))


@pytest.fixture(scope="module")
def columns() -> Split:
    """40 images of 12 x 8 with a column of every kind; the mask marks the bright pixels of the first channel."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 12, 8, 3), np.uint8)
    return Split(
        {
            "x": x,
            "source": 255 - x,
            "mask": np.where(x[..., :1] > 127, 255, 0).astype(np.uint8),
            "label": rng.integers(0, 3, 40),
            "text": [f"number {i}" for i in range(40)],
            "attributes": rng.random((40, 5)).astype(np.float32),
            "tokens": rng.integers(0, 9, (40, 7)),
        }
    )


def test_every_column_is_of_the_rows_that_the_index_names(columns: Split) -> None:
    batches = Batches(columns, 16, seed=3)
    batch, index = batches(4), batches.index(4)
    assert set(batch) == set(columns.columns) and len(batch.rng) == 16
    assert torch.equal(batch["x"], torch.from_numpy(columns["x"][index]).permute(0, 3, 1, 2) / 127.5 - 1)
    assert (batch["x"] + batch["source"]).abs().max() < 1e-6
    assert batch["mask"].shape == (16, 1, 12, 8) and batch["mask"].unique().tolist() == [0, 1]
    assert batch["text"] == [f"number {i}" for i in index]
    for name in ("label", "attributes", "tokens"):
        assert (batch[name].numpy() == columns[name][index]).all()


def test_every_epoch_shows_every_sample_once_in_a_new_order(tiny) -> None:
    batches = Batches(tiny.train, 48, seed=3)  # 128 samples: epochs end inside batches
    seen = np.concatenate([batches.index(step) for step in range(8)])
    epochs = seen.reshape(3, 128)
    assert all(sorted(epoch) == list(range(128)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert (Batches(tiny.train, 48, seed=3).index(5) == batches.index(5)).all()


def test_ranks_share_the_global_batch_without_overlap(columns: Split) -> None:
    full = Batches(columns, 16, 1, augment=EVERYTHING)(2)
    parts = [Batches(columns, 16, 1, start, 8, EVERYTHING)(2) for start in (0, 8)]
    for name in ("x", "source", "mask", "attributes"):
        assert torch.equal(full[name], torch.cat([part[name] for part in parts]))
    assert torch.equal(full.row, torch.cat([part.row for part in parts]))


def test_whole_and_in_order_are_global_on_every_rank(columns: Split) -> None:
    ranks = [Batches(columns, 16, 1, start, 8, EVERYTHING) for start in (0, 8)]
    undivided = Batches(columns, 16, 1, augment=EVERYTHING)
    for batches in ranks:
        full = batches.global_batch(2)
        assert torch.equal(full["x"], undivided(2)["x"]) and len(full.rng) == 16
        assert torch.equal(full.rng.keys, undivided.global_batch(2).rng.keys)
        assert not torch.equal(full.rng.keys, undivided(2).rng.keys)  # preparing draws other numbers than the step
        result = list(batches.in_order(15))
        assert [len(batch.rng) for batch in result] == [15, 15, 10]
        assert torch.equal(torch.cat([batch["x"] for batch in result]), next(in_order(columns, 40))["x"])


def test_batches_without_data_have_rows_and_the_same_streams(tiny) -> None:
    some, none = Batches(tiny.train, 16, 5, 4, 8), NoData(16, 5, 4, 8)
    batch = none(3)
    assert not batch and len(batch.rng) == 8 and batch.row.tolist() == list(range(4, 12))
    assert torch.equal(batch.rng.keys, some(3).rng.keys)
    assert torch.equal(none.stream(3, "phase:D").keys, some.stream(3, "phase:D").keys)
    assert len(none.global_batch(3).rng) == 16 and not list(none.in_order(4))


def test_flipping_mirrors_half_of_the_samples_and_a_pair_together() -> None:
    x = torch.rand(64, 3, 8, 8) * 2 - 1
    changed = Augment(flip=True)({"x": x, "source": x.flip(1)}, streams())
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(changed["x"], x, strict=True)]
    assert 16 < sum(mirrored) < 48 and torch.equal(changed["source"], changed["x"].flip(1))
    assert torch.equal(Augment()({"x": x}, streams())["x"], x)


def test_shifting_is_by_whole_pixels_along_both_axes() -> None:
    x = torch.rand(64, 3, 8, 8) * 2 - 1
    moved = Augment(translate=0.25)({"x": x}, streams())["x"]
    assert all(
        any(torch.equal(m[:, 2:6, 2:6], p[:, 2 + i : 6 + i, 2 + j : 6 + j]) for i in range(-2, 3) for j in range(-2, 3))
        for m, p in zip(moved, x, strict=True)
    )


def test_grey_stays_grey_under_colour_changes() -> None:
    grey = (torch.rand(64, 1, 8, 8) * 2 - 1).expand(-1, 3, -1, -1)
    coloured = Augment(color=0.3)({"x": grey}, streams())["x"]
    assert (coloured - coloured[:, :1]).abs().max() < 1e-5 < (coloured - grey).abs().max()


@pytest.mark.parametrize("shape", [(12, 8), (4, 6, 5), (9,)])
def test_a_mask_moves_with_its_sample_and_keeps_its_values(shape: tuple[int, ...]) -> None:
    x = torch.rand(32, 3, *shape) * 2 - 1
    mask = (x[:, :1] > 0).float()
    changed = Augment(flip=True, translate=0.3)({"x": x, "mask": mask}, streams(32))
    assert torch.equal(changed["mask"], (changed["x"][:, :1] > 0).float()) and not torch.equal(changed["mask"], mask)
    assert Augment(color=0.5)({"x": x, "mask": mask}, streams(32))["mask"] is mask


def test_five_dimensional_batches_are_channels_last_3d_and_augmented_along_three_axes() -> None:
    x = np.random.default_rng(0).integers(0, 256, (20, 4, 6, 8, 2), np.uint8)
    volumes = Split({"x": x}, spec=Spec("volume", (4, 6, 8), 2))
    for augment in (Augment(), Augment(flip=True, translate=0.5)):
        batch = Batches(volumes, 8, 0, augment=augment)(0)
        assert batch["x"].shape == (8, 2, 4, 6, 8)
        assert batch["x"].is_contiguous(memory_format=torch.channels_last_3d)
    plain, moved = Batches(volumes, 8, 0)(0)["x"], Augment(translate=0.5)({"x": batch["x"]}, streams(8))["x"]
    assert plain.shape == moved.shape


def test_an_augmentation_that_spoils_a_medium_is_refused() -> None:
    rows = Split({"x": np.zeros((9, 16, 1), np.float32)}, spec=Spec("sequence", (16,), 1, -1, 1))
    with pytest.raises(UsageError, match=r"sequence cannot be augmented by flip.*translate"):
        Batches(rows, 4, 0, augment=Augment(flip=True))
    with pytest.raises(UsageError, match="translate"):
        Augment.parse("tranlate=0.1")
