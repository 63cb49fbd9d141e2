"""Every layout is recognised by what it is, named in the report, and read into the columns that it means."""

from __future__ import annotations

import io
import json
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps
from small_pictures import fill, pixels, save

import reverie.data
from reverie.core.errors import ReverieError, UsageError
from reverie.data.batches import Batches
from reverie.data.items import File
from reverie.data.layouts import LAYOUTS, check_layout
from reverie.data.tree import of_folder, of_zip
from reverie.data.words import decode_text


def classes_of(dataset) -> dict[str, str | None]:
    return {
        name: dataset.classes[label] if label >= 0 else None
        for side in (dataset.train, dataset.held_out)
        for name, label in zip(side.names, side.labels, strict=True)
    }


def answer(folder: Path, layout: str) -> str:
    return {name: fits for name, fits, _ in reverie.data.explain(folder)}[layout]


def test_letters_are_classes_unless_they_are_a_and_b_alone(tmp_path: Path) -> None:
    for k, letter in enumerate("ABCD"):
        fill(tmp_path / letter, 4, first=10 * k)
    dataset = reverie.data(tmp_path)
    assert dataset.classes == [*"ABCD"] and dataset.report.read_as == "class folders, 4 classes, 16 images"


def test_the_published_cyclegan_folders_are_two_unpaired_piles_with_a_split(tmp_path: Path) -> None:
    sizes = {"trainA": 10, "trainB": 12, "testA": 3, "testB": 4}
    for k, (name, n) in enumerate(sizes.items()):
        fill(tmp_path / "horse2zebra" / name, n, first=100 * k)
    dataset = reverie.data(tmp_path)
    assert dataset.report.read_as == "CycleGAN folders, trainA 10 / trainB 12 / testA 3 / testB 4, unpaired"
    assert (dataset.classes, len(dataset.train), len(dataset.held_out)) == (["A", "B"], 22, 7)
    assert all(("A/" in name) == (label == "A") for name, label in classes_of(dataset).items())


@pytest.mark.parametrize(
    ("shared", "expected"), [(0, "two piles, A 20 / B 20, unpaired"), (20, "pairs of two folders, 20 of A 20 / B 20")]
)
def test_a_and_b_are_piles_without_common_names_and_pairs_with_all(tmp_path: Path, shared: int, expected: str) -> None:
    for i in range(20):
        save(tmp_path / "A" / f"{i}.png", i)
        save(tmp_path / "B" / f"{i if i < shared else i + 100}.png", 50 + i)
    assert reverie.data(tmp_path).report.read_as == expected


def test_folders_that_share_some_names_are_asked_about_and_never_guessed(tmp_path: Path) -> None:
    for i in range(20):
        save(tmp_path / "A" / f"{i}.png", i)
        save(tmp_path / "B" / f"{i if i < 10 else i + 100}.png", 50 + i)
    with pytest.raises(UsageError, match=r"10 of 20 images have a partner.*layout='pairs'.*layout='unpaired'"):
        reverie.data(tmp_path)
    assert reverie.data(tmp_path, layout="pairs").report.usable == 10
    assert reverie.data(tmp_path, layout="unpaired").report.usable == 40


@pytest.mark.parametrize("pair", [("source", "target"), ("input", "output"), ("A", "B")])
def test_ends_of_names_make_pairs(tmp_path: Path, pair: tuple[str, str]) -> None:
    for i in range(10):
        save(tmp_path / f"{i}_{pair[0]}.png", i)
        save(tmp_path / f"{i}_{pair[1]}.bmp", 50 + i)
    dataset = reverie.data(tmp_path)
    assert dataset.report.read_as == "pairs by names, 10"
    for side in (dataset.train, dataset.held_out):
        for name, image, source in zip(side.names, side["x"], side["source"], strict=True):
            i = int(name.partition("_")[0])
            assert (image == pixels(50 + i)).all() and (source == pixels(i)).all()


def test_split_folders_inside_of_the_sides_are_the_split_of_pairs(tmp_path: Path) -> None:
    for split, n, first in (("train", 10, 0), ("test", 3, 100)):
        for i in range(n):
            save(tmp_path / "A" / split / f"{i}.png", first + i)
            save(tmp_path / "B" / split / f"{i}.png", first + 50 + i)
    dataset = reverie.data(tmp_path)
    assert (len(dataset.train), len(dataset.held_out), "source" in dataset.train) == (10, 3, True)


def halves(folder: Path, alike: bool) -> None:
    for i in range(16):
        right = Image.fromarray(np.random.default_rng(i).integers(0, 256, (9, 9, 3), np.uint8)).resize((48, 48), 0)
        other = Image.fromarray(np.random.default_rng(99 + i).integers(0, 256, (9, 9, 3), np.uint8)).resize((48, 48), 0)
        both = Image.new("RGB", (96, 48))
        both.paste((right if alike else other).filter(ImageFilter.FIND_EDGES), (0, 0))
        both.paste(right, (48, 0))
        (folder / "train").mkdir(parents=True, exist_ok=True)
        both.save(folder / "train" / f"{i}.png")


def test_joined_halves_are_pairs_where_they_agree_and_on_request(tmp_path: Path) -> None:
    halves(tmp_path / "same", alike=True)
    halves(tmp_path / "other", alike=False)
    dataset = reverie.data(tmp_path / "same", size=48)
    assert dataset.report.read_as.startswith("pairs side by side, 16") and dataset.train["x"].shape[1:] == (48, 48, 3)
    whole = np.asarray(Image.open(tmp_path / "same" / dataset.train.names[0]))
    assert (dataset.train["source"][0] == whole[:, :48]).all() and (dataset.train["x"][0] == whole[:, 48:]).all()
    panoramas = reverie.data(tmp_path / "other")
    assert "source" not in panoramas.train and panoramas.report.counts()["layout"] == 1
    asked = reverie.data(tmp_path / "other", layout="side-by-side")
    assert "source" in asked.train and asked.provenance["requested"]["layout"] == "side-by-side"
    assert reverie.data.reopen(asked.provenance).fingerprint == asked.fingerprint


def test_the_original_of_a_half_is_that_half_alone_at_its_own_size(tmp_path: Path) -> None:
    halves(tmp_path, alike=True)
    turned = Image.Exif()
    turned[0x0112] = 3
    Image.open(tmp_path / "train" / "0.png").transpose(Image.Transpose.ROTATE_180).save(
        tmp_path / "train" / "0.png", exif=turned
    )
    dataset = reverie.data(tmp_path, size=16, layout="side-by-side")
    for side in (dataset.train, dataset.held_out):
        for name, original in zip(side.names, reverie.data.originals(dataset, side), strict=True):
            upright = ImageOps.exif_transpose(Image.open(tmp_path / name))
            assert (np.asarray(Image.open(io.BytesIO(original))) == np.asarray(upright)[:, 48:]).all()
    broken = (tmp_path / "train" / "3.png").read_bytes()[:-200]
    (tmp_path / "train" / "3.png").write_bytes(broken)
    with pytest.raises(ReverieError, match="damaged or truncated"):
        [reverie.data.originals(dataset, side) for side in (dataset.train, dataset.held_out)]


def stylegan(folder: Path, label) -> None:
    rows = []
    for i in range(30):
        name = f"{i // 10:05d}/img{i:08d}.png"
        save(folder / name, i)
        rows.append([name, label(i)])
    (folder / "dataset.json").write_text(json.dumps({"labels": rows}))


def test_a_stylegan_set_has_the_labels_of_its_table_as_folder_and_as_zip(tmp_path: Path) -> None:
    stylegan(tmp_path / "set", lambda i: i % 2)
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((tmp_path / "set").rglob("*.*")):
            archive.write(path, path.relative_to(tmp_path / "set"))
    folder, packed = reverie.data(tmp_path / "set"), reverie.data(tmp_path / "set.zip")
    assert folder.classes == packed.classes == ["0", "1"] and folder.fingerprint == packed.fingerprint
    assert folder.report.read_as == "StyleGAN's dataset.json with labels, 30 images; folders are parts, not classes"
    assert all(label == str(int(Path(name).stem[3:]) % 2) for name, label in classes_of(folder).items())
    assert (tmp_path / "set.zip").exists() and [*tmp_path.iterdir()] != []


def test_vectors_of_a_stylegan_table_are_classes_if_one_is_hot_else_attributes(tmp_path: Path) -> None:
    stylegan(tmp_path / "hot", lambda i: [float(i % 3 == k) for k in range(3)])
    assert reverie.data(tmp_path / "hot").classes == ["0", "1", "2"]
    stylegan(tmp_path / "warm", lambda i: [i / 30, 1.0])
    warm = reverie.data(tmp_path / "warm")
    assert warm.attributes == ["0", "1"] and warm.classes == []


def test_numbered_parts_are_no_classes_unless_asked_for(tmp_path: Path) -> None:
    for part in range(3):
        fill(tmp_path / f"{part:05d}", 6, first=10 * part)
    dataset = reverie.data(tmp_path)
    assert dataset.classes == [] and "numbered parts" in dataset.report.problems[0].action
    assert len(reverie.data(tmp_path, layout="classes").classes) == 3


def test_classes_are_found_below_lone_folders(tmp_path: Path) -> None:
    for k, name in enumerate(("cat", "dog")):
        fill(tmp_path / "download" / "train" / name, 6, first=10 * k)
    assert reverie.data(tmp_path).classes == ["cat", "dog"]


def test_split_names_with_a_year_are_splits(tmp_path: Path) -> None:
    fill(tmp_path / "train2017", 12)
    fill(tmp_path / "val2017", 3, first=50)
    dataset = reverie.data(tmp_path)
    assert (len(dataset.train), len(dataset.held_out)) == (12, 3)
    assert dataset.report.read_as == "images, 15, train2017 12 / val2017 3"


def test_every_layout_has_an_answer_and_a_wrong_one_is_refused_with_the_reason(tmp_path: Path) -> None:
    fill(tmp_path / "d", 10)
    assert [name for name, _, _ in reverie.data.explain(tmp_path / "d")] == list(LAYOUTS)
    assert answer(tmp_path / "d", "images") == "yes" and answer(tmp_path / "d", "stylegan") == "no"
    with pytest.raises(UsageError, match=r"cannot be read with layout='stylegan': no dataset\.json"):
        reverie.data(tmp_path / "d", layout="stylegan")
    with pytest.raises(UsageError, match='Did you mean "classes"'):
        check_layout("clases")
    with pytest.raises(UsageError, match="for folders, zips and tars"):
        reverie.data("fashion", layout="classes")


# Zips


def test_a_damaged_member_of_a_zip_is_reported_and_the_others_used(tmp_path: Path) -> None:
    fill(tmp_path / "d", 12)
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for path in sorted((tmp_path / "d").iterdir()):
            archive.write(path, f"../{path.name}" if path.stem == "0003" else path.name)
    data = bytearray((tmp_path / "d.zip").read_bytes())
    tree = of_zip(tmp_path / "d.zip")
    data[tree.files["0005.png"].offset + 60] ^= 255
    (tmp_path / "d.zip").write_bytes(data)
    dataset = reverie.data(tmp_path / "d.zip")
    kinds = {(problem.file, problem.kind) for problem in dataset.report.problems}
    assert ("0005.png", "unreadable") in kinds and dataset.report.usable >= 10
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(ReverieError, match="cannot be read as a zip"):
        reverie.data(tmp_path / "cut.zip")


def test_a_member_that_claims_too_much_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(1 << 16))
    file = of_zip(tmp_path / "d.zip").files["bomb.png"]
    smaller = File(file.path, 100, file.mtime_ns, file.offset, packing=file.packing)
    with pytest.raises(OSError, match="checksum differs"):  # stops after the claimed size
        smaller.read()
    data = (tmp_path / "d.zip").read_bytes()
    (tmp_path / "d.zip").write_bytes(data.replace((1 << 16).to_bytes(4, "little"), (1 << 29).to_bytes(4, "little")))
    tree = of_zip(tmp_path / "d.zip")
    assert not tree.files and [problem.kind for problem in tree.problems] == ["decompression-bomb"]


# Words


def test_names_match_composed_or_decomposed(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / unicodedata.normalize("NFD", f"café_{i:02d}.png"), i)
        name = unicodedata.normalize("NFC", f"café_{i:02d}")
        (tmp_path / f"{name}.txt").write_text(f"cup {i}", "utf-8")
    assert reverie.data(tmp_path).summary()["captions"] == 12


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-8", "utf-8-sig"])
def test_texts_of_any_unicode_encoding_are_read(encoding: str) -> None:
    text, assumed = decode_text("a red apple, größer".encode(encoding))
    assert text == "a red apple, größer" and bool(assumed) == (not encoding.startswith("utf-8"))


def test_several_captions_are_kept_and_drawn_by_seed_and_step(tmp_path: Path) -> None:
    fill(tmp_path, 12)
    lines = [f"{i:04d}.png,image {i} caption {j}" for i in range(12) for j in range(4)]
    (tmp_path / "captions.csv").write_text("image,caption\n" + "\n".join(lines))
    dataset = reverie.data(tmp_path)
    assert all(len(texts) == 4 for texts in dataset.train["captions"]) and len(dataset.train.every_text) == 4 * len(
        dataset.train
    )
    batches, again = Batches(dataset.train, 8, seed=3), Batches(dataset.train, 8, seed=3)
    drawn = [batches(step)["text"] for step in range(40)]
    assert drawn[7] == again(7)["text"] and "captions" not in batches(0)
    seen = {text for texts in drawn for text in texts}
    assert seen == set(dataset.train.every_text)
    parts = [Batches(dataset.train, 8, 3, start, 4)(7)["text"] for start in (0, 4)]
    assert parts[0] + parts[1] == drawn[7]


def test_coco_captions_and_categories_are_read_by_bare_names(tmp_path: Path) -> None:
    fill(tmp_path / "images", 12)
    images = [{"id": 7 * i, "file_name": f"{i:04d}.png"} for i in range(13)]
    words = [{"image_id": 7 * i, "caption": f"{i} {j}"} for i in range(12) for j in range(5)]
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": words}))
    boxes = [{"image_id": 7 * i, "category_id": i % 3} for i in range(12) for _ in range(2)]
    names = [{"id": k, "name": "xyz"[k]} for k in range(3)]
    (tmp_path / "boxes.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": names}))
    dataset = reverie.data(tmp_path)
    assert dataset.classes == [*"xyz"] and len(dataset.train["captions"][0]) == 5
    assert ("captions.json", "bad-caption") in {(p.file, p.kind) for p in dataset.report.problems}  # one is missing


def test_images_with_several_labels_have_attributes_instead_of_classes(tmp_path: Path) -> None:
    fill(tmp_path, 12)
    rows = [{"file_name": f"{i:04d}.png", "label": [["hat"], ["hat", "smile"], []][i % 3]} for i in range(12)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = reverie.data(tmp_path)
    assert dataset.attributes == ["hat", "smile"] and dataset.classes == []
    values = dict(zip(dataset.train.names, dataset.train["attributes"].tolist(), strict=True))
    assert all(row == [[1, 0], [1, 1], [0, 0]][int(name[:4]) % 3] for name, row in values.items())


def test_a_table_about_other_things_is_ignored(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    (tmp_path / "prices.csv").write_text("name,price\napple,3\n")
    dataset = reverie.data(tmp_path)
    assert dataset.report.counts() == {"ignored": 1} and of_folder(tmp_path).images == sorted(
        f"{i:04d}.png" for i in range(10)
    )


def test_celeba_has_attributes_identities_and_its_split(tmp_path: Path) -> None:
    fill(tmp_path / "img_align_celeba", 20)
    name = "{:04d}.png".format
    lines = [f"{name(i)} {1 if i % 2 else -1:2d} {1 if i % 3 else -1:2d}" for i in range(20)]
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join(["20", "Smiling Young ", *lines]))
    (tmp_path / "identity_CelebA.txt").write_text("\n".join(f"{name(i)} {100 + i // 5}" for i in range(21)))
    (tmp_path / "list_eval_partition.txt").write_text("\n".join(f"{name(i)} {i // 8}" for i in range(20)))
    dataset = reverie.data(tmp_path)
    assert dataset.attributes == ["Smiling", "Young"] and (len(dataset.train), len(dataset.held_out)) == (8, 12)
    assert dataset.classes == ["100", "101", "102", "103"]
    values = dict(zip(dataset.train.names, dataset.train["attributes"].tolist(), strict=True))
    assert all(row == [int(k[-8:-4]) % 2, int(int(k[-8:-4]) % 3 > 0)] for k, row in values.items())
    assert "identity_CelebA.txt" in {p.file for p in dataset.report.problems}  # one image is missing


def test_pets_have_the_breeds_of_their_names_and_their_split(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for k, breed in enumerate(("Abyssinian", "english_setter")):
        for i in range(10):
            save(tmp_path / "images" / f"{breed}_{i}.jpg", 20 * k + i)
    head = "#Image CLASS-ID SPECIES BREED ID\n"
    for part, rows in (("trainval", range(7)), ("test", range(7, 10))):
        lines = [f"{b}_{i} {k + 1} {k + 1} 1" for k, b in enumerate(("Abyssinian", "english_setter")) for i in rows]
        (tmp_path / "annotations" / f"{part}.txt").write_text(head + "\n".join(lines))
    dataset = reverie.data(tmp_path)
    assert dataset.classes == ["Abyssinian", "english_setter"]
    assert (len(dataset.train), len(dataset.held_out)) == (14, 6)


# Tars


def packed(path: Path, files: dict[str, bytes], how: str = "w") -> Path:
    with tarfile.open(path, how) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed)).save(buffer, "PNG")
    return buffer.getvalue()


def test_names_with_dots_have_their_words(tmp_path: Path) -> None:
    files = {}
    for i in range(12):
        files |= {f"shot_2.5mm_{i:02d}.png": picture(i), f"shot_2.5mm_{i:02d}.txt": f"a screw, number {i}".encode()}
        files |= {f"k{i:02d}.image.png": picture(50 + i), f"k{i:02d}.json": b'{"caption": ["one", "two"], "label": 0}'}
    dataset = reverie.data(packed(tmp_path / "shots.tar", files))
    assert dataset.summary()["captions"] == 24 and dataset.report.read_as == "WebDataset, 1 shard"
    assert ["one", "two"] in dataset.train["captions"] and not dataset.report.problems


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz", "tgz"])
def test_a_tar_of_a_folder_has_the_layout_of_the_folder(tmp_path: Path, ending: str) -> None:
    files = {f"./zoo/{name}/{i}.png": picture(20 * k + i) for k, name in enumerate(("cat", "dog")) for i in range(6)}
    how = {"tar": "w", "tgz": "w:gz"}.get(ending, f"w:{ending[4:]}")
    dataset = reverie.data(packed(tmp_path / f"zoo.{ending}", files, how))
    assert dataset.classes == ["cat", "dog"] and dataset.report.read_as == "class folders, 2 classes, 12 images"


def test_a_tar_with_a_negative_size_ends_and_is_reported(tmp_path: Path) -> None:
    evil = bytearray(tarfile.TarInfo("n.bin").tobuf(tarfile.GNU_FORMAT))
    evil[124:136] = b"\xff" * 10 + b"\xfe\x00"  # -512
    evil[148:156] = b"        "
    evil[148:156] = b"%06o\0 " % sum(evil[:512])
    good = packed(tmp_path / "good.tar", {f"{i}.png": picture(i) for i in range(10)}).read_bytes()
    end = len(good.rstrip(b"\0")) // 512 * 512 + 512
    (tmp_path / "evil.tar").write_bytes(good[:end] + evil + bytes(1024))
    dataset = reverie.data(tmp_path / "evil.tar")
    assert dataset.report.usable == 10 and ("evil.tar", "truncated") in {
        (problem.file, problem.kind) for problem in dataset.report.problems
    }
