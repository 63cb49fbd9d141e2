"""Masks from files: recognised by names and values, of every source, and opened again."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_masks import by_name, draw, folder_of_masks, grey, kinds, region
from small_pictures import fill, pixels, save

import reverie as rv
from reverie.cli import main
from reverie.core.errors import UsageError
from reverie.data import explain, reopen
from reverie.data.augment import Augment
from reverie.data.batches import Batches
from reverie.data.contact import _outlined
from reverie.data.marking import coverage
from reverie.data.masks import find_masks
from reverie.data.tree import of_folder


def test_a_folder_of_masks_is_the_mask_column_and_neither_class_nor_pair(tmp_path: Path) -> None:
    dataset = rv.open_data(folder_of_masks(tmp_path / "d"))
    assert dataset.report.read_as == "images, 12; masks of 12 images from masks/"
    assert dataset.classes == [] and "source" not in dataset.train and dataset.summary()["masks"] == 12
    for name, mask in by_name(dataset).items():
        assert (mask == 255 * region(int(Path(name).stem))).all()
    last = [p.action for p in dataset.report.problems][-1]
    assert last == "used: masks of 12 of 12 images, 12.5% marked"


def test_masks_that_mark_everything_are_counted() -> None:
    line = coverage([1.0, 0.5, 0.0, None]).action
    assert line.endswith("50.0% marked, nothing in 1 of them, everything in 1: mask values choose what marks")


def test_masks_are_0_and_1_in_batches_and_move_with_their_images(tmp_path: Path) -> None:
    for i in range(12):
        draw(tmp_path / "images" / f"{i}.png", grey(region(i)).convert("RGB"))
        draw(tmp_path / "masks" / f"{i}.png", grey(region(i)))
    dataset = rv.open_data(tmp_path)
    batch = Batches(dataset.train, 8, 0, augment=Augment(flip=True, translate=0.1))(0)
    assert batch["mask"].shape == (8, 1, 24, 24) and {*batch["mask"].unique().tolist()} == {0.0, 1.0}
    assert ((batch["x"][:, :1] > 0) == (batch["mask"] > 0.5)).all()


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{}.jpg", "{}_mask.png"),
        ("{}.jpg", "{}.mask.png"),
        ("{}_image.png", "{}_mask.png"),
        ("scan ({}).png", "scan ({})_mask.gif"),
        ("train/images/{}.jpg", "train/masks/{}_mask.png"),
        ("images/train/{}.jpg", "masks/train/{}.bmp"),
        ("pictures/{}.jpg", "Mask/{}.png"),
        ("{}.jpg", "masks/{}.png"),
        ("train/{}.jpg", "train_masks/{}_mask.gif"),
        ("images/training/{}.jpg", "annotations/training/{}.png"),
        ("VOC2012/JPEGImages/{}.jpg", "VOC2012/SegmentationClass/{}.png"),
    ],
)
def test_masks_are_recognised_by_folders_and_names(tmp_path: Path, image: str, mask: str) -> None:
    for i in range(10):
        save(tmp_path / image.format(i), i)
        draw(tmp_path / mask.format(i), grey(region(i)))
    masks = find_masks(of_folder(tmp_path))
    assert masks.answer == "yes" and masks.of == {image.format(i): (mask.format(i),) for i in range(10)}
    dataset = rv.open_data(tmp_path)
    assert dataset.report.usable == 10 and dataset.classes == [] and "source" not in dataset.train
    assert all(mask.any() for mask in by_name(dataset).values())


def test_masks_inside_of_class_folders_keep_the_classes_and_several_are_joined(tmp_path: Path) -> None:
    for k, name in enumerate(("benign", "malignant")):
        for i in range(6):
            save(tmp_path / name / f"{name} ({i}).png", 10 * k + i)
            draw(tmp_path / name / f"{name} ({i})_mask.png", grey(region(i)))
            draw(tmp_path / name / f"{name} ({i})_mask_1.png", grey(region(i)[::-1]))
    dataset = rv.open_data(tmp_path)
    assert dataset.classes == ["benign", "malignant"] and dataset.report.usable == 12
    for name, mask in by_name(dataset).items():
        box = region(int(name.partition("(")[2][0]))
        assert (mask == 255 * (box | box[::-1])).all()


def test_pairs_have_masks_too(tmp_path: Path) -> None:
    for i in range(10):
        save(tmp_path / "A" / f"{i}.png", i)
        save(tmp_path / "B" / f"{i}.png", 50 + i)
        draw(tmp_path / "masks" / f"{i}.png", grey(region(i)))
    dataset = rv.open_data(tmp_path)
    assert {"source", "mask"} <= {*dataset.train.columns} and dataset.report.read_as.startswith("pairs of two folders")
    assert dataset.train["mask"].any() and dataset.train["source"].shape[-1] == 3


@pytest.mark.parametrize("names", [("cats", "masks"), ("no_mask", "mask"), ("with_mask", "without_mask")])
def test_classes_with_such_names_stay_classes(tmp_path: Path, names: tuple[str, str]) -> None:
    for k, name in enumerate(names):
        fill(tmp_path / "same" / name, 8, first=0)
        fill(tmp_path / "other" / name, 8, first=100 * k)
        for i in range(8):
            save(tmp_path / "same" / name / f"{i:04}.png", 100 * k + i, 32, 32)
    for folder in ("same", "other"):
        dataset = rv.open_data(tmp_path / folder)
        assert dataset.classes == sorted(names) and "mask" not in dataset.train
    if names[0] == "cats":  # names agree, values do not: what was decided is in the report
        hint = next(p.action for p in rv.open_data(tmp_path / "same").report.problems if p.kind == "layout")
        assert "100% of them the values of photographs; masks='yes'" in hint


def test_sprites_of_few_colours_in_a_class_called_masks_stay_a_class(tmp_path: Path) -> None:
    for i in range(8):
        save(tmp_path / "swords" / f"{i}.png", i)
        sprite = Image.merge("RGB", [grey(region(i + k), 0, 60 * k) for k in (1, 2, 3)])
        draw(tmp_path / "masks" / f"{i}.png", sprite)
    assert rv.open_data(tmp_path).classes == ["masks", "swords"]
    (tmp_path / "swords").rename(tmp_path / "images")
    assert rv.open_data(tmp_path).summary()["masks"] == 8  # beside images/ there is no doubt


def test_masks_of_which_many_have_no_image_are_asked_about(tmp_path: Path) -> None:
    folder_of_masks(tmp_path / "d", 14)
    for i in range(2):
        draw(tmp_path / "d" / "masks" / f"spare{i}.png", grey(region(i)))
    with pytest.raises(UsageError, match=r"14 of 16 files of masks/ have .*masks='yes'.*masks='no'"):
        rv.open_data(tmp_path / "d")
    assert explain(tmp_path / "d")[0][:2] == ("masks", "ask")
    taken = rv.open_data(tmp_path / "d", masks="yes")
    assert taken.summary()["masks"] == 14 and kinds(taken)["unpaired"] == ["masks/spare0.png", "masks/spare1.png"]
    assert reopen(json.loads(json.dumps(taken.provenance))).fingerprint == taken.fingerprint
    assert rv.open_data(tmp_path / "d", masks="no").classes == ["images", "masks"]


def test_images_without_a_usable_mask_are_used_and_named(tmp_path: Path) -> None:
    folder_of_masks(tmp_path, 14)
    (tmp_path / "masks" / "2.png").unlink()
    whole = (tmp_path / "masks" / "3.png").read_bytes()
    (tmp_path / "masks" / "3.png").write_bytes(whole[:-30])
    (tmp_path / "masks" / "4.png").write_bytes(b"")
    draw(tmp_path / "masks" / "5.png", grey(region(5, 30, 20)))
    dataset = rv.open_data(tmp_path)
    assert dataset.report.usable == 14 and dataset.summary()["masks"] == 10
    assert sorted(kinds(dataset)["no-mask"]) == [f"images/{i}.jpg" for i in (2, 3, 4, 5)]
    action = next(p.action for p in dataset.report.problems if p.file == "images/5.jpg")
    assert action == "used, without its mask: it has other proportions, 30 x 20 pixels, the image 24 x 24"


# Sources


def test_masks_in_zips_and_shards(tmp_path: Path) -> None:
    folder_of_masks(tmp_path / "d")
    with zipfile.ZipFile(tmp_path / "d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((tmp_path / "d").rglob("*.*")):
            archive.write(path, path.relative_to(tmp_path / "d"))
    folder = rv.open_data(tmp_path / "d")
    assert rv.open_data(tmp_path / "d.zip").fingerprint == folder.fingerprint
    for part in range(2):
        with tarfile.open(tmp_path / f"s-{part}.tar", "w") as tar:
            for i in range(6 * part, 6 * part + 6):
                tar.add(tmp_path / "d" / "images" / f"{i}.jpg", f"k{i}.jpg")
                tar.add(tmp_path / "d" / "masks" / f"{i}.png", f"k{i}.mask.png")
                words = tarfile.TarInfo(f"k{i}.cls")
                words.size = 1
                tar.addfile(words, io.BytesIO(str(i % 2).encode()))
    shards = rv.open_data(str(tmp_path / "s-{0..1}.tar"))
    assert shards.report.usable == 12 and shards.classes == ["0", "1"]
    for name, mask in by_name(shards).items():
        assert (mask == 255 * region(int(Path(name).stem[1:]))).all()
    assert reopen(json.loads(json.dumps(shards.provenance))).fingerprint == shards.fingerprint


@pytest.mark.parametrize("column", ["mask_file_name", "trace"])
def test_a_column_of_a_table_names_masks(tmp_path: Path, column: str) -> None:
    rows = []
    for i in range(10):
        save(tmp_path / "x" / f"{i}.jpg", i)
        draw(tmp_path / "y" / f"region-{i}.png", grey(region(i)))
        rows.append({"file_name": f"x/{i}.jpg", column: f"y/region-{i}.png", "text": f"box {i}"})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = rv.open_data(tmp_path, columns="mask=trace" if column == "trace" else None)
    assert reopen(json.loads(json.dumps(dataset.provenance))).fingerprint == dataset.fingerprint
    assert "masks of 10 images from a table" in dataset.report.read_as and dataset.classes == []
    assert all((mask == 255 * region(int(Path(name).stem))).all() for name, mask in by_name(dataset).items())


@pytest.mark.parametrize(
    ("mask", "line"),
    [
        ("{}", "used as no mask: its values, such as '0', are no files' names"),
        (
            "{}.png",
            "used, without their masks: 10 that a table names are images of the table themselves, the first: 0.png",
        ),
    ],
)
def test_images_of_a_table_are_no_masks_whatever_its_column_of_masks_says(tmp_path: Path, mask: str, line: str) -> None:
    rows = "".join(f"{save(tmp_path / f'{i}.png', i).name},{mask.format(i % 2)}\n" for i in range(10))
    (tmp_path / "faces.csv").write_text(f"file_name,mask\n{rows}")
    dataset = rv.open_data(tmp_path)
    assert dataset.report.usable == 10 and dataset.train.get("mask") is None
    assert sum(problem.action.startswith(line) for problem in dataset.report.problems) == 1
    assert dataset.attributes == (["mask"] if mask == "{}" else [])


@pytest.mark.parametrize("column", ["mask", "annotation"])
def test_a_column_of_parquet_holds_masks(tmp_path: Path, column: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def encoded(image: Image.Image) -> dict[str, bytes]:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return {"bytes": buffer.getvalue()}

    images = [encoded(Image.fromarray(pixels(i))) for i in range(10)]
    masks = [encoded(grey(region(i))) if i != 3 else None for i in range(10)]
    parquet.write_table(arrow.table({"image": images, column: masks}), tmp_path / "d.parquet", row_group_size=4)
    if column != "mask":
        plain = rv.open_data(tmp_path / "d.parquet")
        lines = [problem.action for problem in plain.report.problems if problem.kind == "columns"]
        assert (
            lines
            == [
                "used: image as the image; so might be annotation: columns='image=annotation', as its mask: "
                "columns='mask=annotation'"
            ]
            and "mask" not in plain.train
        )
    dataset = rv.open_data(tmp_path / "d.parquet", columns=f"mask={column}")
    assert dataset.spec.channels == 3 and kinds(dataset)["no-mask"] == ["d.parquet/3"]
    for name, mask in by_name(dataset).items():
        i = int(Path(name).name)
        assert (mask == 255 * region(i) * (i != 3)).all()


# Reports


def test_the_command_line_reports_masks_reads_them_or_not_and_names_the_flags(tmp_path: Path, capsys) -> None:
    def call(*arguments: object) -> str:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        assert ended.value.code == 0
        return capsys.readouterr().out

    folder = folder_of_masks(tmp_path / "d")
    out = call("data", folder, "--mask-values", "255", "--size", "16")
    assert (
        "masks of 12 images from masks/" in out
        and "pairs 0, masks that mark something 12" in out
        and "255 mark as asked" in out
    )
    assert "--mask-values 255" in out.splitlines()[-1]
    assert "class folders, 2 classes" in call("data", folder, "--masks", "no")
    assert json.loads(call("data", folder, "--json"))["masks"] == 12
    assert call("data", folder, "--explain").splitlines()[1].split()[:2] == ["masks", "yes"]


def test_a_contact_sheet_outlines_masks() -> None:
    mask = np.zeros((1, 6, 6), bool)
    mask[0, :4, 1:5] = True  # at the border of the image there is no outline
    for channels in (1, 3, 4):
        sheet = _outlined(np.full((1, 6, 6, channels), 9, np.uint8), mask)[0]
        red = (sheet[..., :3] == (255, 0, 0)).all(-1)
        assert red.sum() == 10 and red[3, 1:5].all() and red[:4, [1, 4]].all() and (sheet[~red] == 9).all()


# The same data again


def test_data_without_masks_and_their_split_are_as_before(tmp_path: Path) -> None:
    folder_of_masks(tmp_path / "d")
    alone, masked = rv.open_data(tmp_path / "d" / "images"), rv.open_data(tmp_path / "d")
    assert "masks" not in alone.provenance and masked.provenance["masks"] is True
    assert {Path(name).name for name in masked.held_out.names} == {Path(name).name for name in alone.held_out.names}
    draw(tmp_path / "d" / "masks" / "0.png", grey(~region(0)))
    assert rv.open_data(tmp_path / "d").fingerprint != masked.fingerprint


def test_a_run_from_before_masks_were_read_opens_its_classes_again(tmp_path: Path) -> None:
    folder_of_masks(tmp_path)
    record = json.loads(json.dumps(rv.open_data(tmp_path, masks="no").provenance))
    assert "masks" not in record and "masks" not in record["requested"]  # what older versions wrote
    again = reopen(record)
    assert again.fingerprint == record["fingerprint"] and again.classes == ["images", "masks"]
    assert again.provenance == record


def test_an_interrupted_build_goes_on_with_the_masks(tmp_path: Path, monkeypatch, reverie_home: Path) -> None:
    from reverie.data import decoding

    folder_of_masks(tmp_path)
    monkeypatch.setattr(decoding, "CHUNK", 4)
    expected = rv.open_data(tmp_path, size=16, channels=3)
    (store,) = (path for path in (reverie_home / "stores").iterdir() if path.is_dir())
    store.rename(reverie_home / "other")

    def stop(done: int, total: int, what: str) -> None:
        if what == "decoding" and done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rv.open_data(tmp_path, size=16, channels=3, progress=stop)
    calls: list[int] = []
    again = rv.open_data(tmp_path, size=16, channels=3, progress=lambda n, _, what: calls.append(n * (what[0] == "d")))
    assert 4 not in calls and 12 in calls and again.fingerprint == expected.fingerprint
    assert (store / "masks.u8").read_bytes() == (reverie_home / "other" / "masks.u8").read_bytes()
