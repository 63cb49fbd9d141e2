"""The layouts of published data sets: classes, splits, pairs, masks and words are what their users expect."""

from __future__ import annotations

import gzip
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from reports import actions, counts
from small_pictures import fill, pixels, save

import reverie.data
from reverie.core.errors import ReverieError, UsageError


def classes_of(dataset) -> dict[str, str]:
    return {
        name: dataset.classes[label] if label >= 0 else ""
        for side in (dataset.train, dataset.held_out)
        for name, label in zip(side.names, side.labels, strict=True)
    }


# Splits


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("bedroom_train", "bedroom_val"),
        ("cars_train/cars_train", "cars_test/cars_test"),
        ("DIV2K_train_HR", "DIV2K_valid_HR"),
        ("stage1_train", "stage1_test"),
        ("train", "test1"),
        ("training/image_2", "testing/image_2"),
        ("train/images", "val/images"),
    ],
)
def test_folders_whose_names_differ_by_a_word_of_splits_are_splits_and_no_classes(
    tmp_path: Path, train: str, test: str
) -> None:
    fill(tmp_path / train, 10)
    fill(tmp_path / test, 4, first=20)
    dataset = reverie.data(tmp_path)
    assert (counts(dataset), dataset.classes) == ((10, 4), [])
    assert dataset.report.read_as == f"images, 14, {train.split('/')[0]} 10 / {test.split('/')[0]} 4"


def test_the_only_class_of_a_split_is_a_class_if_another_split_has_more(tmp_path: Path) -> None:
    """Only a folder that every split has alone, or that names nothing, as images/, stands above the classes."""
    for k, folder in enumerate(("train/cat/s0", "train/cat/s1", "test/cat/s1", "test/dog/s1")):
        fill(tmp_path / "d" / folder, 8, first=20 * k)
    assert reverie.data(tmp_path / "d").classes == ["cat", "dog"]
    for k, folder in enumerate(("train/animals/cat", "train/animals/dog", "test/animals/cat")):
        fill(tmp_path / "e" / folder, 8, first=20 * k)
    assert reverie.data(tmp_path / "e").classes == ["cat", "dog"]


def test_classes_with_the_words_of_splits_and_others_stay_classes(tmp_path: Path) -> None:
    for k, name in enumerate(("toy_train", "toy_car", "test_tube", "val_d_isere")):
        fill(tmp_path / name, 4, first=10 * k)
    assert len(reverie.data(tmp_path).classes) == 4


def test_tiny_imagenet_has_the_classes_of_its_folders_and_of_its_list(tmp_path: Path) -> None:
    for k, name in enumerate(("n01443537", "n01629819")):
        fill(tmp_path / "train" / name / "images", 6, first=20 * k)
    fill(tmp_path / "val" / "images", 4, first=60)
    lines = [f"{60 + i:04}.png\tn0{(1443537, 1629819)[i % 2]}\t0\t32\t44\t62" for i in range(4)]
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join(lines))
    dataset = reverie.data(tmp_path)
    held_out = {name: label for name, label in classes_of(dataset).items() if name.startswith("val")}
    assert dataset.classes == ["n01443537", "n01629819"] and counts(dataset) == (12, 4)
    assert [*held_out.values()].count("n01443537") == 2 and "layout" not in dataset.report.counts()


def test_imagenets_validation_images_have_the_classes_of_its_table(tmp_path: Path) -> None:
    for k, name in enumerate(("n01440764", "n01443537")):
        fill(tmp_path / "CLS-LOC" / "train" / name, 5, first=10 * k)
    fill(tmp_path / "CLS-LOC" / "val", 4, first=50)
    rows = [f"{50 + i:04},n01440764 1 2 30 30 n01440764 9 9 20 20 " for i in range(4)]
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]))
    dataset = reverie.data(tmp_path)
    assert {label for name, label in classes_of(dataset).items() if "/val/" in name} == {"n01440764"}


# Folders that are no classes


@pytest.mark.parametrize(
    "names",
    [
        ["00000", "01000", "02000"],
        ["part-000001", "part-000002"],
        ["x_part_1", "x_part_2"],
        ["images_001", "images_002"],
    ],
)
def test_numbered_parts_of_one_set_are_no_classes_and_reported(tmp_path: Path, names: list[str]) -> None:
    for k, name in enumerate(names):
        fill(tmp_path / name, 5, first=10 * k)
    dataset = reverie.data(tmp_path)
    assert dataset.classes == [] and "look like numbered parts" in actions(dataset, "layout")[0]
    assert reverie.data(tmp_path, layout="classes").classes == names


def test_folders_of_the_first_digits_of_digests_are_no_classes(tmp_path: Path) -> None:
    for i in range(12):
        digest = f"{i * 0x1234567 + 7:040x}"[::-1]
        save(tmp_path / digest[0] / digest[1] / f"{digest}.png", i)
    dataset = reverie.data(tmp_path)
    assert dataset.classes == [] and "begin with" in actions(dataset, "layout")[0]


def test_a_folder_for_each_image_is_no_class(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / f"scene{i}" / "photo.png", i)
    dataset = reverie.data(tmp_path)
    assert dataset.classes == [] and "has one image" in actions(dataset, "layout")[0]


# Lists


def test_lists_of_images_are_the_split(tmp_path: Path) -> None:
    for k, name in enumerate(("apple_pie", "baklava")):
        fill(tmp_path / "images" / name, 8, first=10 * k)
    names = [f"{name}/{10 * k + i:04}" for k, name in enumerate(("apple_pie", "baklava")) for i in range(8)]
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "train.txt").write_text("\n".join(names[:6] + names[8:14]))
    (tmp_path / "meta" / "test.txt").write_text("\n".join(names[6:8] + names[14:]))
    dataset = reverie.data(tmp_path)
    assert counts(dataset) == (12, 4) and dataset.classes == ["apple_pie", "baklava"]
    assert {name.rpartition("/")[2] for name in dataset.held_out.names} == {f"{i:04}.png" for i in (6, 7, 16, 17)}


def test_of_several_splits_by_lists_the_first_is_taken_and_reported(tmp_path: Path) -> None:
    fill(tmp_path / "images", 12)
    for k in (1, 2, 10):
        (tmp_path / f"train{k}.txt").write_text("\n".join(f"{i:04}.png" for i in range(12) if i % 4 != k % 4))
        (tmp_path / f"test{k}.txt").write_text("\n".join(f"{i:04}.png" for i in range(12) if i % 4 == k % 4))
    dataset = reverie.data(tmp_path)
    assert {int(Path(name).stem) % 4 for name in dataset.held_out.names} == {1}
    assert actions(dataset, "table") == ["used: the split, the first of 3 that lists of images make"]


def test_labels_in_lists_have_the_names_of_a_list_of_names(tmp_path: Path) -> None:
    fill(tmp_path / "data" / "a" / "abbey", 6)
    fill(tmp_path / "data" / "b" / "bar", 6, first=10)
    fill(tmp_path / "val", 4, first=20)
    lines = [
        f"/{folder}/{i:04}.png {k}" for k, folder in enumerate(("a/abbey", "b/bar")) for i in range(10 * k, 10 * k + 6)
    ]
    (tmp_path / "places_train_standard.txt").write_text("\n".join(lines))
    (tmp_path / "places_val.txt").write_text("\n".join(f"{20 + i:04}.png {i % 2}" for i in range(4)))
    (tmp_path / "categories.txt").write_text("/a/abbey 0\n/b/bar 1\n")
    dataset = reverie.data(tmp_path)
    assert dataset.classes == ["a/abbey", "b/bar"] and counts(dataset) == (12, 4)


def test_cub_says_its_split_by_numbers(tmp_path: Path) -> None:
    names = [f"{k:03}.Bird{k}/{i}.png" for k in (1, 2) for i in range(6)]
    for seed, name in enumerate(names):
        save(tmp_path / "CUB" / "images" / name, seed)
    (tmp_path / "CUB" / "images.txt").write_text("\n".join(f"{i + 1} {name}" for i, name in enumerate(names)))
    (tmp_path / "CUB" / "train_test_split.txt").write_text("\n".join(f"{i + 1} {int(i % 3 > 0)}" for i in range(12)))
    dataset = reverie.data(tmp_path)
    assert counts(dataset) == (8, 4) and dataset.classes == ["001.Bird1", "002.Bird2"]


def test_a_list_that_names_few_images_is_ignored_and_reported(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    (tmp_path / "train.txt").write_text("0001.png\n0002.png")
    (tmp_path / "test.txt").write_text("0003.png")
    dataset = reverie.data(tmp_path)
    assert counts(dataset)[0] > 12 and "of 20 images these lists of a split name 3" in actions(dataset, "table")[0]


# Words and tables


def test_flickrs_tokens_are_captions(tmp_path: Path) -> None:
    fill(tmp_path / "Flicker8k_Dataset", 12)
    lines = [f"{i:04}.png#{k}\tA dog {k} , running ." for i in range(12) for k in range(5)]
    (tmp_path / "Flickr8k.token.txt").write_text("\n".join(lines))
    (tmp_path / "Flickr8k.lemma.token.txt").write_text("\n".join(lines).lower())
    dataset = reverie.data(tmp_path)
    assert dataset.train.get("text")[0] == "A dog 0 , running ." and "about 12 images" in dataset.report.read_as


@pytest.mark.parametrize("number", ["-0.003", "0.1", "1", "9.7e-05", "nan"])
def test_boxes_of_yolo_are_no_captions(tmp_path: Path, number: str) -> None:
    fill(tmp_path, 12)
    for i in range(12):
        (tmp_path / f"{i:04}.txt").write_text(
            f"{i % 3} 0.5 0.25 0.1 1\n" + "0 0.1 0.1 0.05 0.1\n" * 30 + f"1 0 0 {number} 1"
        )
    dataset = reverie.data(tmp_path)
    assert dataset.train.get("text") is None and "boxes of YOLO" in actions(dataset, "ignored")[0]


@pytest.mark.parametrize("text", ["0 0.1 0.1 0.1 0.1 " * 30 + "x", "1 2 3 4 5", "2 0 1 1", "7 of 9 0.1 0.1"])
def test_other_texts_than_boxes_are_captions_however_long(tmp_path: Path, text: str) -> None:
    fill(tmp_path, 12)
    for i in range(12):
        (tmp_path / f"{i:04}.txt").write_text(text)
    assert {*reverie.data(tmp_path).train["text"]} == {text}


def test_a_caption_may_have_the_complete_name_of_its_image(tmp_path: Path) -> None:
    fill(tmp_path, 12)
    for i in range(12):
        (tmp_path / f"{i:04}.png.txt").write_text("1girl, solo")
    assert {*reverie.data(tmp_path).train["text"]} == {"1girl, solo"}


@pytest.mark.parametrize("form", ["columns", "captions", "list"])
def test_tables_in_json_are_read(tmp_path: Path, form: str) -> None:
    fill(tmp_path / "part-000001", 12)
    names = [f"{i:04}.png" for i in range(12)]
    content = {
        "columns": {name: {"p": f"a castle {name}", "st": 50} for name in names},
        "captions": {name: f"a castle {name}" for name in names},
        "list": [{"image": name, "caption": f"a castle {name}"} for name in names],
    }[form]
    (tmp_path / "part-000001" / "part-000001.json").write_text(json.dumps(content))
    dataset = reverie.data(tmp_path)
    side = dataset.train
    assert [*side["text"]] == [f"a castle {Path(name).name}" for name in side.names]
    assert dataset.attributes == (["st"] if form == "columns" else [])


def test_a_table_names_images_and_classes_by_their_values(tmp_path: Path) -> None:
    fill(tmp_path / "train", 12)
    fill(tmp_path / "test", 4, first=20)
    rows = [f"{i:04},{('dingo', 'pug')[i % 2]}" for i in range(12)]
    (tmp_path / "labels.csv").write_text("\n".join(["id,breed", *rows]))
    (tmp_path / "sample_submission.csv").write_text("\n".join(["id,breed", *(f"{20 + i:04},dingo" for i in range(4))]))
    dataset = reverie.data(tmp_path)
    assert dataset.classes == ["dingo", "pug"] and {*dataset.held_out.labels.tolist()} == {-1}
    assert "ignored: an example of answers" in actions(dataset, "ignored")


def test_numbers_that_happen_to_be_names_of_images_do_not_make_a_table_of_them(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / f"{i}.png", i)
    (tmp_path / "people.csv").write_text("\n".join(["age,place", *(f"{i % 5},x{i % 2}" for i in range(12))]))
    dataset = reverie.data(tmp_path)
    assert dataset.classes == [] and dataset.report.read_as == "images, 12"


# Arrays


def write_idx(folder: Path, name: str, n: int, labels: np.ndarray | None = None) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(n).integers(0, 256, (n, 28, 20), np.uint8)
    numbers = (np.arange(n) % 3 + 1).astype(np.uint8) if labels is None else labels
    kind = f"{name}-labels-idx{numbers.ndim}-{'ubyte' if numbers.dtype == np.uint8 else 'int'}"
    for file, array in ((f"{name}-images-idx3-ubyte", images), (kind, numbers)):
        code = 8 if array.dtype == np.uint8 else 12
        head = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
        (folder / f"{file}.gz").write_bytes(gzip.compress(head + array.tobytes()))
    return images


def test_emnist_is_turned_upright_and_has_its_letters(tmp_path: Path) -> None:
    images = write_idx(tmp_path, "emnist-letters-train", 12)
    write_idx(tmp_path, "emnist-letters-test", 9)
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 65 97\n2 66 98\n3 67 99\n")
    dataset = reverie.data(tmp_path, size=(20, 28))
    assert dataset.classes == ["A", "B", "C"] and counts(dataset) == (12, 9)
    assert {row.tobytes() for row in dataset.train["x"]} == {image.T.tobytes() for image in images}
    write_idx(tmp_path, "emnist-digits-train", 12)
    with pytest.raises(UsageError, match="several sets: emnist-digits, emnist-letters"):
        reverie.data(tmp_path)


def test_qmnists_labels_are_the_first_of_their_columns_and_torchvisions_folders_are_entered(tmp_path: Path) -> None:
    for part, n in (("train", 12), ("test", 9)):
        table = np.zeros((n, 8), ">i4")
        table[:, 0], table[:, 1] = np.arange(n) % 4, 77
        write_idx(tmp_path / "QMNIST" / "raw", f"qmnist-{part}", n, table)
    assert reverie.data(tmp_path).classes == ["0", "1", "2", "3"]


def test_stl_10_has_its_classes_and_its_split(tmp_path: Path) -> None:
    rows = {
        part: np.stack([pixels(k + i, 96, 96) for i in range(n)]) for part, k, n in (("train", 0, 9), ("test", 50, 8))
    }
    for part, images in rows.items():
        (tmp_path / f"{part}_X.bin").write_bytes(images.transpose(0, 3, 2, 1).tobytes())
        (tmp_path / f"{part}_y.bin").write_bytes(bytes(i % 2 + 1 for i in range(len(images))))
    (tmp_path / "class_names.txt").write_text("airplane\nbird\n")
    dataset = reverie.data(tmp_path)
    assert counts(dataset) == (9, 8) and dataset.classes == ["airplane", "bird"]
    assert {row.tobytes() for row in dataset.train["x"]} == {row.tobytes() for row in rows["train"]}


def test_dsprites_opens_without_its_pickled_notes(tmp_path: Path) -> None:
    images, latents = np.zeros((12, 16, 16), np.uint8), np.arange(24.0).reshape(12, 2)
    for i in range(12):
        images[i, i : i + 4, 3 : 4 + i] = 1
    notes = np.array({"author": "x"}, object)
    np.savez(tmp_path / "dsprites.npz", metadata=notes, imgs=images, latents_values=latents)
    dataset = reverie.data(tmp_path / "dsprites.npz")
    assert dataset.attributes == ["0", "1"] and "metadata" in actions(dataset, "ignored")[0]


@pytest.mark.parametrize("folder", [".", "cifar-10-batches-py"])
def test_pickles_are_refused_with_the_reason_and_the_remedy(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "data_batch_1").write_bytes(pickle.dumps({b"data": [1]}))
    with pytest.raises(ReverieError, match=r"may run code.*binary version of CIFAR.*numpy\.savez"):
        reverie.data(tmp_path)


def test_images_beside_a_lone_folder_of_arrays_are_the_data(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "meta").write_bytes(pickle.dumps({}))
    assert reverie.data(tmp_path).report.usable == 10


@pytest.mark.parametrize(("name", "remedy"), [("train_32x32.mat", "scipy.io.loadmat"), ("images.zip", "pass its path")])
def test_files_of_other_formats_are_refused_with_what_to_do(tmp_path: Path, name: str, remedy: str) -> None:
    (tmp_path / name).write_bytes(b"MATLAB 5.0")
    with pytest.raises(ReverieError, match=remedy):
        reverie.data(tmp_path)


def test_classes_in_the_names_of_files_are_offered(tmp_path: Path) -> None:
    for i in range(8):
        save(tmp_path / "train" / f"cat.{i}.png", i)
        save(tmp_path / "train" / f"dog.{i}.png", 20 + i)
    fill(tmp_path / "test1", 4, first=50)
    dataset = reverie.data(tmp_path)
    assert dataset.classes == [] and "may be classes" in actions(dataset, "layout")[0]
    dataset = reverie.data(tmp_path, layout="prefixes")
    assert dataset.classes == ["cat", "dog"] and counts(dataset) == (16, 4)
    assert all(Path(name).name.startswith(label) for name, label in classes_of(dataset).items() if label)


def test_celebas_tables_of_kaggle_are_attributes_and_the_split(tmp_path: Path) -> None:
    fill(tmp_path / "img_align_celeba", 20)
    (tmp_path / "list_attr_celeba.csv").write_text(
        "\n".join(["image_id,Smiling", *(f"{i:04}.png,{2 * (i % 2) - 1}" for i in range(20))])
    )
    (tmp_path / "list_eval_partition.csv").write_text(
        "\n".join(["image_id,partition", *(f"{i:04}.png,{i // 9}" for i in range(20))])
    )
    dataset = reverie.data(tmp_path)
    assert dataset.attributes == ["Smiling"] and counts(dataset) == (9, 11)


def test_images_in_no_folder_of_a_class_are_counted(tmp_path: Path) -> None:
    for k, name in enumerate(("ant", "bee")):
        fill(tmp_path / "train" / name, 5, first=10 * k)
    fill(tmp_path / "test", 4, first=40)
    assert actions(reverie.data(tmp_path), "unlabelled") == ["used: 4 images in no folder of a class"]
