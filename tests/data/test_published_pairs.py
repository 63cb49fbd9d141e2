"""Pairs of restoration and masks of published data sets are what their users expect."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageFilter
from reports import actions, counts
from small_masks import by_name as masks_of
from small_masks import draw, grey, region
from small_pictures import fill, pixels, save

import reverie.data

# Pairs


def degrade(path: Path, seed: int, radius: float = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed)).filter(ImageFilter.GaussianBlur(radius)).save(path)


@pytest.mark.parametrize(
    ("clean", "degraded"),
    [
        ("sharp/{}.png", "blur/{}.png"),
        ("s/GOPR{0}/sharp/1.png", "s/GOPR{0}/blur/1.png"),
        ("clear/{}.png", "hazy/{}_1_0.9.png"),
        ("norain/norain-{}.png", "rain/norain-{}x2.png"),
        ("HR/{}.png", "LR_bicubic/X4/{}x4.png"),
        ("GTmod12/{}.png", "LRbicx2/{}.png"),
        ("{}_GT_010.png", "{}_NOISY_010.png"),
        ("high/{}.png", "low/{}.png"),
    ],
)
def test_degraded_and_clean_images_are_pairs_by_words_in_their_names(tmp_path: Path, clean: str, degraded: str) -> None:
    for seed in range(10):
        save(tmp_path / clean.format(seed), seed)
        degrade(tmp_path / degraded.format(seed), seed)
    dataset = reverie.data(tmp_path)
    assert dataset.report.read_as.startswith("pairs of degraded and clean images, 10 of ")
    for side in (dataset.train, dataset.held_out):
        for name, row, source in zip(side.names, side["x"], side["source"], strict=True):
            seed = next(seed for seed in range(10) if clean.format(seed) == name)
            assert (row == pixels(seed)).all() and not (source == row).all()


def test_a_clean_image_has_a_pair_with_each_of_its_degraded_ones_and_a_split(tmp_path: Path) -> None:
    for split, first, n in (("train", 0, 8), ("valid", 20, 3)):
        for seed in range(first, first + n):
            save(tmp_path / f"DIV2K_{split}_HR" / f"{seed:04}.png", seed)
            for scale in (2, 4):
                degrade(
                    tmp_path / f"DIV2K_{split}_LR_bicubic" / f"X{scale}" / f"{seed:04}x{scale}.png", seed + scale // 4
                )
    dataset = reverie.data(tmp_path, layout="restoration")
    assert counts(dataset) == (16, 6) and ", DIV2K_train_HR 16 / DIV2K_valid_HR 6: " in dataset.report.read_as


def test_pairs_outside_of_the_folders_of_a_split_are_left_out_and_said(tmp_path: Path) -> None:
    for split, first, n in (("train", 0, 8), ("test", 20, 4), ("extra", 30, 3)):
        for seed in range(first, first + n):
            save(tmp_path / split / "sharp" / f"{seed}.png", seed)
            degrade(tmp_path / split / "blur" / f"{seed}.png", seed)
    dataset = reverie.data(tmp_path)
    assert counts(dataset) == (8, 4) and ", train 8 / test 4: " in dataset.report.read_as
    assert {*dataset.held_out.names} == {f"test/sharp/{seed}.png" for seed in range(20, 24)}
    assert len(actions(dataset, "outside-splits")) == 3


@pytest.mark.parametrize("clean", [18, 12])
def test_a_degraded_image_has_no_pair_with_a_clean_one_of_a_shorter_name_than_others_have(
    tmp_path: Path, clean: int
) -> None:
    for seed in range(20):
        degrade(tmp_path / "hazy" / f"scene_{seed}.png", seed)
    fill(tmp_path / "clear", 1, first=50)
    (tmp_path / "clear" / "0050.png").rename(tmp_path / "clear" / "scene.png")
    for seed in range(clean):
        save(tmp_path / "clear" / f"scene_{seed}.png", seed)
    dataset = reverie.data(tmp_path)
    if clean == 12:
        assert dataset.classes == ["clear", "hazy"] and "24 of 33 images are degraded" in actions(dataset, "layout")[0]
        dataset = reverie.data(tmp_path, layout="restoration")
    names = {*dataset.train.names, *dataset.held_out.names}
    assert names == {f"clear/scene_{seed}.png" for seed in range(clean)}


def test_classes_called_low_and_high_are_pairs_only_if_the_images_agree(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / "low" / f"{i}.png", i)
        save(tmp_path / "high" / f"{i}.png", 100 + i)
    dataset = reverie.data(tmp_path)
    assert dataset.classes == ["high", "low"] and "shows something else" in actions(dataset, "layout")[0]


# Masks


def test_cityscapes_masks_are_those_by_numbers(tmp_path: Path) -> None:
    for split, city, n in (("train", "aachen", 8), ("val", "ulm", 3)):
        for i in range(n):
            name = f"{city}_{i:06}_000019"
            save(tmp_path / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", 40 * n + i)
            folder = tmp_path / "gtFine" / split / city
            draw(folder / f"{name}_gtFine_labelIds.png", grey(region(i), 0, 26))
            draw(folder / f"{name}_gtFine_instanceIds.png", grey(region(i + 1), 0, 126))
            draw(folder / f"{name}_gtFine_color.png", grey(region(i + 2), 0, 142).convert("RGB"))
    dataset = reverie.data(tmp_path)
    assert counts(dataset) == (8, 3) and "masks of 11 images from gtFine/" in dataset.report.read_as
    for name, mask in masks_of(dataset).items():
        assert (mask == 255 * region(int(name.split("_")[1]))).all()


def test_the_only_image_of_a_folder_has_all_masks_beside_it(tmp_path: Path) -> None:
    for i in range(10):
        save(tmp_path / "stage1_train" / f"id{i}" / "images" / f"{i}.png", i)
        for k in range(2):
            draw(tmp_path / "stage1_train" / f"id{i}" / "masks" / f"digest{i}{k}.png", grey(region(i + k)))
    dataset = reverie.data(tmp_path)
    assert dataset.report.usable == 10 and dataset.classes == []
    for name, mask in masks_of(dataset).items():
        i = int(Path(name).stem)
        assert (mask == 255 * (region(i) | region(i + 1))).all()


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("Task1-2_Input/ISIC_{0:04}.png", "Task1_GroundTruth/ISIC_{0:04}_segmentation.png"),
        ("CelebA-HQ-img/{0}.png", "CelebAMask-HQ-mask-anno/{1}/{0:05}_hair.png"),
        ("train/{0:04}.png", "trainannot/{0:04}.png"),
        ("test/bad/{0:03}.png", "ground_truth/bad/{0:03}_mask.png"),
    ],
)
def test_masks_are_recognised_where_published_sets_keep_them(tmp_path: Path, image: str, mask: str) -> None:
    for i in range(10):
        save(tmp_path / image.format(i), i)
        draw(tmp_path / mask.format(i, i // 5), grey(region(i)))
    dataset = reverie.data(tmp_path)
    assert dataset.report.usable == 10 and "masks of 10 images" in dataset.report.read_as
    for name, marked in masks_of(dataset).items():
        i = next(i for i in range(10) if name == image.format(i))
        assert (marked == 255 * region(i)).all()


def test_maps_of_many_labels_are_no_brightness(tmp_path: Path) -> None:
    for i in range(10):
        save(tmp_path / "images" / "training" / f"{i}.png", i)
        draw(tmp_path / "annotations" / "training" / f"{i}.png", grey(region(i), 0, (3, 120)[i % 2]))
    dataset = reverie.data(tmp_path)
    assert all((mask == 255 * region(int(Path(name).stem))).all() for name, mask in masks_of(dataset).items())
