"""An image of any kind reaches a canvas at its own size, with its own channels, and leaves it unchanged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from reverie.core.errors import ReverieError, UsageError
from reverie.dreaming.photo import open_photo, to_images

COLOURS = np.arange(24 * 40 * 3, dtype=np.uint32).reshape(24, 40, 3).astype(np.uint8)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".webp"])
def test_a_photo_comes_back_bit_for_bit_at_its_own_shape(tmp_path, ending):
    Image.fromarray(COLOURS).save(tmp_path / f"a{ending}", lossless=True)
    photo = open_photo(tmp_path / f"a{ending}")
    assert photo.shape == (1, 3, 24, 40) and photo.abs().max() <= 1
    images = to_images(photo)
    assert np.array_equal(images.array[0], COLOURS)
    assert np.array_equal(np.asarray(Image.open(images.save(tmp_path / "b.png"))), COLOURS)
    assert torch.equal(open_photo(images), photo)


def test_grey_stays_grey_and_16_bits_become_8():
    grey = (np.arange(16 * 20, dtype=np.uint16) * 200).reshape(16, 20)
    photo = open_photo(Image.fromarray(grey))
    assert photo.shape == (1, 1, 16, 20)
    assert torch.allclose(photo[0, 0], torch.from_numpy(grey / 65535 * 2 - 1).float(), atol=1 / 255)


def test_transparent_pixels_are_white_and_opaque_ones_kept():
    rgba = np.concatenate([COLOURS, np.full((24, 40, 1), 255, np.uint8)], 2)
    rgba[:5, :, 3] = 0
    photo = to_images(open_photo(rgba)).array[0]
    assert (photo[:5] == 255).all() and np.array_equal(photo[5:], COLOURS[5:])


def test_size_is_that_of_the_longer_side():
    assert open_photo(COLOURS, 20).shape == (1, 3, 12, 20)
    assert open_photo(COLOURS, 80).shape == (1, 3, 48, 80)


def test_what_is_no_image_is_named(tmp_path):
    with pytest.raises(UsageError, match="no image file"):
        open_photo(tmp_path / "none.png")
    with pytest.raises(UsageError, match="guide must be an image file"):
        open_photo(np.zeros((3, 3)), name="guide")
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(ReverieError, match="not-an-image"):
        open_photo(tmp_path / "text.png")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    with pytest.raises(ReverieError, match=r"cut.png .*damaged or truncated \(its header cannot be read\)"):
        open_photo(tmp_path / "cut.png")
    with pytest.raises(UsageError, match="size must be"):
        open_photo(COLOURS, 0)
