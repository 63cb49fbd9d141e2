"""Which values of masks mark, and that the marked region has the geometry of its image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_masks import by_name, draw, grey, kinds, palette, region, rule
from small_pictures import fill, save

import reverie as rv
from reverie.core.errors import UsageError
from reverie.data import reopen
from reverie.data.marking import decide

# Values


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda m: grey(m, 0, 1), "grey values 0, 1: marked where not 0"),
        (lambda m: grey(m).convert("1"), "grey values 0, 255: marked where not 0"),
        (lambda m: grey(m, 3, 252), "grey values 3, 252: marked from half, 128, on"),
        (lambda m: Image.fromarray(np.where(m, 65535, 0).astype(np.uint16)), "grey values 0, 255: marked where"),
        (lambda m: Image.fromarray(np.where(m, 1, 0).astype(np.int32)), "grey values 0, 1: marked where not 0"),
        (lambda m: grey(m).convert("RGB"), "grey values 0, 255: marked where not 0"),
        (lambda m: palette(np.where(m, 0, 1), [255, 255, 255, 0, 0, 0]), "grey values 0, 255: marked where not 0"),
        (lambda m: palette(np.where(m, 15, 0)), "indices of palettes 0, 15: all but 0 (background) and 255 (void)"),
        (lambda m: Image.merge("RGB", (grey(m), *[grey(m, 0, 9)] * 2)), "colours 0, 255, by their brightest channel"),
        (lambda m: Image.merge("RGBA", (*[grey(~m, 0, 200)] * 3, grey(m))), "opacity 0, 255: marked where not 0"),
    ],
    ids=["0-1", "1-bit", "soft", "16-bit", "int", "rgb", "white-first", "palette", "red", "rgba"],
)
def test_values_of_every_kind_mark_the_same_region(
    tmp_path: Path, make: Callable[[np.ndarray], Image.Image], words: str
) -> None:
    for i in range(8):
        save(tmp_path / "images" / f"{i}.jpg", i)
        draw(tmp_path / "masks" / f"{i}.{'tif' if make(region(i)).mode == 'I' else 'png'}", make(region(i)))
    dataset = rv.open_data(tmp_path)
    assert words in rule(dataset)
    assert all((mask == 255 * region(int(Path(name).stem))).all() for name, mask in by_name(dataset).items())


def test_indices_of_a_palette_mark_unless_background_or_void_and_some_can_be_chosen(tmp_path: Path) -> None:
    index = np.zeros((24, 24), np.uint8)
    index[:6], index[6:12], index[12:14] = 7, 15, 255  # 7 may be grey in a palette of colours
    for i in range(10):
        save(tmp_path / "JPEGImages" / f"{i}.jpg", i)
        draw(tmp_path / "SegmentationClass" / f"{i}.png", palette(index))
        draw(tmp_path / "SegmentationObject" / f"{i}.png", palette(index > 0))
    dataset = rv.open_data(tmp_path)
    assert "indices of palettes 0, 7, 15, 255" in rule(dataset) and len(kinds(dataset)["unpaired"]) == 10
    assert (dataset.train["mask"][0, :, :, 0] == 255 * ((index > 0) & (index < 255))).all()
    chosen = rv.open_data(tmp_path, mask_values="15")
    assert (chosen.train["mask"][0, :, :, 0] == 255 * (index == 15)).all() and chosen.fingerprint != dataset.fingerprint
    assert chosen.provenance["requested"]["mask_values"] == [15]
    assert reopen(json.loads(json.dumps(chosen.provenance))).provenance == chosen.provenance


def test_a_trimap_marks_the_object_alone(tmp_path: Path) -> None:
    trimap = np.full((24, 24), 2, np.uint8)
    trimap[8:16, 8:16], trimap[10:14, 10:14] = 3, 1
    for i in range(10):
        save(tmp_path / "images" / f"Abyssinian_{i}.jpg", i)
        draw(tmp_path / "annotations" / "trimaps" / f"Abyssinian_{i}.png", Image.fromarray(trimap))
    lines = [f"Abyssinian_{i} 1 1 1" for i in range(10)]
    (tmp_path / "annotations" / "list.txt").write_text("#Image CLASS-ID SPECIES BREED ID\n" + "\n".join(lines))
    dataset = rv.open_data(tmp_path)
    assert "a trimap: 1 is the object, 2 is background, 3 is border, and 1 marks" in rule(dataset)
    assert (dataset.train["mask"][0, :, :, 0] == 255 * (trimap == 1)).all()
    assert dataset.classes == ["Abyssinian"]  # the annotations find the images, not the trimaps of their names


@pytest.mark.parametrize("values", ["", "x", "1,256", -1, [1.5]])
def test_values_that_no_mask_has_are_refused(tmp_path: Path, values) -> None:
    with pytest.raises(UsageError, match=r"mask_values.*whole numbers from 0 to 255"):
        rv.open_data(tmp_path, mask_values=values)


def test_masks_that_are_asked_for_and_missing_are_an_error(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    with pytest.raises(UsageError, match="has no masks; they are recognised"):
        rv.open_data(tmp_path, masks="yes")
    with pytest.raises(UsageError, match="for image files, not fashion"):
        rv.open_data("fashion", mask_values=1)
    with pytest.raises(UsageError, match='"yes" or "no", not \'maybe\''):
        rv.open_data(tmp_path, masks="maybe")


# Geometry


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("scale", [1, 2])
def test_a_mask_has_the_geometry_of_its_image(tmp_path: Path, fit: str, scale: int) -> None:
    for i in range(10):
        box = region(i, 24, 40).repeat(8, 0).repeat(8, 1)  # 192 x 320 pixels
        draw(tmp_path / "images" / f"{i}.png", grey(box).convert("RGB"))
        draw(tmp_path / "masks" / f"{i}.png", grey(box[::scale, ::scale]))
    dataset = rv.open_data(tmp_path, size=(32, 48), fit=fit, background="black", channels=1)
    x, mask = dataset.train["x"].astype(int), dataset.train["mask"].astype(int)
    edges = (x > 20) & (x < 235)
    assert (abs(x - mask)[~edges] <= 20).all() and mask.any() and edges.mean() < 0.15
    assert ("mask-size" in kinds(dataset)) == (scale == 2)


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("drawn_on", ["upright", "stored", "marked"])
def test_masks_of_turned_photos_are_turned_as_their_sizes_say(tmp_path: Path, orientation: int, drawn_on: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    for i in range(8):
        upright = grey(region(i, 24, 36))
        stored = upright.transpose(back)
        draw(tmp_path / "images" / f"{i}.png", stored.convert("RGB"), exif=exif)
        options = {"exif": exif} if drawn_on == "marked" else {}
        draw(tmp_path / "masks" / f"{i}.png", upright if drawn_on == "upright" else stored, **options)
    dataset = rv.open_data(tmp_path, size=(36, 24))
    same = dataset.train["x"][..., :1] == dataset.train["mask"]
    assert same.all() or (drawn_on == "stored" and orientation == 3)  # sizes cannot tell: read as upright, and said
    assert len(kinds(dataset).get("mask-turn", [])) == (0 if drawn_on == "marked" else 8)


def test_a_value_that_no_mask_has_is_refused_with_those_that_occur() -> None:
    with pytest.raises(UsageError, match="no mask has that; there are grey values 0, 255"):
        decide({"grey": {0, 255}}, (9,))
