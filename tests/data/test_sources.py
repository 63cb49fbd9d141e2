"""Every kind of source gives images, labels, captions and pairs as its own layout says."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import messy
import numpy as np
import pytest
from PIL import Image
from reports import kinds, rows
from small_pictures import fill, pixels, save

import reverie.data
from reverie.core.errors import ReverieError, UsageError
from reverie.data.intake import TooFew


def test_the_module_is_the_function_and_opening_a_folder_does_not_import_torch(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    code = (
        "import sys, reverie as rv, reverie.data\n"
        "assert rv.data is reverie.data and callable(rv.data)\n"
        "assert len(rv.data(sys.argv[1]).train)\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"source": "fashon"}, 'Did you mean "fashion"'),
        ({"source": "no/such/folder"}, "a folder of images"),
        ({"source": "fashion:tset"}, "no split"),
        ({"source": "fashion", "size": 0}, "1 to 4096"),
        ({"source": "fashion", "channels": 2}, "1 .grey. or 3"),
        ({"source": "fashion", "fit": "crp"}, 'Did you mean "crop"'),
        ({"source": "fashion", "held_out": 1.0}, "between 0 and 1"),
        ({"source": "fashion", "background": (0, 0, 300)}, "0 to 255"),
        ({"source": "fashion", "background": "blak"}, "a colour such as black"),
        ({"source": "fashion", "size": "48by64"}, "HEIGHTxWIDTH"),
        ({"source": "fashion", "size": (8, 8, 8)}, "a height and a width"),
        ({"source": "fashion", "medium": "picture"}, "image, video, volume, sequence"),
        ({"source": "fashion", "low": 0.0}, "both must be"),
        ({"source": "x" * 5000}, "a folder of images"),
        ({"source": "a\0b:test"}, "a folder of images"),
        ({"source": "hf:a/b/c"}, "hf:owner/name"),
        ({"source": ""}, "name of the data is empty"),
        ({"source": "fashion", "low": float("nan"), "high": 1.0}, "finite numbers"),
        ({"source": "fashion", "low": float("-inf"), "high": 1.0}, "finite numbers"),
        ({"source": "fashion", "low": -1.7e308, "high": 1.7e308}, "finite numbers"),
        ({"source": "fashion", "low": 0, "high": 10**400}, "finite numbers"),
        ({"source": "fashion", "low": 1.0, "high": 1.0}, "low below high"),
        ({"source": "fashion", "low": "a", "high": "b"}, "finite numbers"),
        ({"source": "fashion", "held_out": "a"}, "between 0 and 1"),
        ({"source": "fashion", "size": 8.5}, "1 to 4096"),
        ({"source": "fashion", "size": True}, "1 to 4096"),
        ({"source": "fashion", "size": (8, 2.5)}, "1 to 4096"),
        ({"source": "fashion", "channels": True}, "1 .grey. or 3"),
        ({"source": "fashion", "background": None}, "three numbers"),
        ({"source": "fashion", "background": 5}, "three numbers"),
        ({"source": "fashion", "background": (0.5, 0.5, 0.5)}, "three numbers"),
        ({"source": "fashion", "medium": 3}, "image, video, volume, sequence"),
    ],
)
def test_a_wrong_call_says_what_is_possible(wrong: dict, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        reverie.data(**wrong)


def test_numbers_of_numpy_are_options_as_those_of_python() -> None:
    images = np.stack([pixels(seed) for seed in range(12)])
    numbers = {"size": np.int64(8), "channels": np.int64(1), "low": np.float32(0), "high": np.int16(255)}
    dataset = reverie.data(images, **numbers, background=np.array([1, 2, 3]), held_out=np.float32(0.25))
    python = {"size": 8, "channels": 1, "low": 0.0, "high": 255.0, "background": (1, 2, 3), "held_out": 0.25}
    assert json.dumps(dataset.provenance) == json.dumps(reverie.data(images, **python).provenance)


def test_top_folders_are_classes(tmp_path: Path) -> None:
    fill(tmp_path / "cat" / "deep", 8)
    fill(tmp_path / "dog", 8, first=20)
    save(tmp_path / "loose.png", 50)
    dataset = reverie.data(tmp_path)
    assert dataset.classes == ["cat", "dog"]
    result = rows(dataset)
    assert (
        result["cat/deep/0000.png"][1] == "cat"
        and result["dog/0020.png"][1] == "dog"
        and result["loose.png"][1] is None
    )


def test_one_folder_is_no_class(tmp_path: Path) -> None:
    fill(tmp_path / "pictures", 9)
    assert reverie.data(tmp_path).classes == []


def test_train_and_test_folders_are_the_split_with_labels_below(tmp_path: Path) -> None:
    for k, name in enumerate(("a", "b", "10", "9")):
        fill(tmp_path / "train" / name, 4, first=100 * k)
        fill(tmp_path / "val" / name, 2, first=100 * k + 50)
    save(tmp_path / "cover.png", 999)
    dataset = reverie.data(tmp_path)
    assert (len(dataset.train), len(dataset.held_out)) == (16, 8)
    assert dataset.classes == ["9", "10", "a", "b"]
    assert all(name.startswith("train/") for name in dataset.train.names)
    assert ("cover.png", "outside-splits") in kinds(dataset)
    assert set(reverie.data(f"{tmp_path}:test").train.names) < set(dataset.held_out.names)


def test_captions_come_from_texts_and_tables(tmp_path: Path) -> None:
    fill(tmp_path, 12)
    (tmp_path / "0000.txt").write_text("a red\n bird", "utf-8")
    (tmp_path / "0001.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "readme.txt").write_text("not a caption")
    with (tmp_path / "metadata.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerows([["file_name", "text", "label"], ["0002.png", "a, b", "x"], ["gone.png", "?", ""]])
    lines = [json.dumps({"file_name": "0003.png", "caption": "ein Fuß", "label": 3}), "{not json", "[]", ""]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
    dataset = reverie.data(tmp_path)
    result = rows(dataset)
    assert [result[f"000{i}.png"][2] for i in range(5)] == ["a red bird", "café", "a, b", "ein Fuß", ""]
    assert result["0002.png"][1] == "x" and result["0003.png"][1] == "3"
    assert dataset.summary()["captions"] == 4
    assert {("0001.txt", "bad-caption"), ("metadata.csv", "bad-caption"), ("*.txt", "ignored")} <= kinds(dataset)
    assert dataset.report.counts()["bad-caption"] == 3
    assert any("1 more row likewise" in problem.action for problem in dataset.report.problems)


@pytest.mark.parametrize(
    ("name", "table", "action"),
    [
        (
            "metadata.csv",
            "file_name,text,note\n0000.png,b,x\n0000.png,b,y",
            "row 3 repeats 0000.png; the last row",
        ),
        ("metadata.csv", "file_name,text,note\n0000.png,b,x,y,z", "row 2 has 2 more fields than the header"),
        ("metadata.csv", "file_name,text\n0000.png,b, c, d", "1 row with commas in text that are not quoted"),
        ("metadata.csv", "file_name;text\n0000.png;b, c", "its fields are divided by semicolons"),
        ("metadata.csv", 'file_name,text\n0000.png,b\n0001.png,"c\n0002.png,d', "a quotation mark is unclosed"),
        ("metadata.csv", 'file_name,text\n0000.png,"b\n0001.png,"c', "a quotation mark is unclosed"),
        ("metadata.jsonl", "[" * 100_000 + '\n{"file_name": "0000.png", "text": "b"}', "row 1 has no file_name"),
    ],
)
def test_a_faulty_row_of_a_table_is_a_line_in_the_report(tmp_path: Path, name: str, table: str, action: str) -> None:
    fill(tmp_path, 10)
    (tmp_path / name).write_text(table)
    dataset = reverie.data(tmp_path)
    problem = next(problem for problem in dataset.report.problems if problem.kind != "ignored")
    kind = "table" if "divided" in action else "bad-caption"
    assert (problem.file, problem.kind) == (name, kind) and action in problem.action
    assert rows(dataset)["0000.png"][2].startswith("b")


def test_a_number_of_hundreds_of_digits_is_no_attribute_and_a_line_separator_no_line(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    lines = [f'{{"file_name": "{i:04d}.png", "n": 1{"0" * 400}, "m": {i}, "text": "a\u2028b"}}' for i in range(10)]
    (tmp_path / "metadata.jsonl").write_text("\r\n".join(lines), "utf-8")
    dataset = reverie.data(tmp_path)
    assert dataset.attributes == ["m"] and dataset.train["text"][0] == "a b"
    assert [(p.kind, p.action[:19]) for p in dataset.report.problems] == [("ignored", "ignored: columns n;")]


def test_a_run_inside_the_folder_is_not_data(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    fingerprint = reverie.data(tmp_path).fingerprint
    fill(tmp_path / "runs" / "mine" / "samples", 4, first=50)
    fill(tmp_path / "other", 1, first=60)
    (tmp_path / "runs" / "mine" / "run.json").write_text('{"reverie": "0.1.0", "model": {}}')
    (tmp_path / "other" / "run.json").write_text('{"steps": 3}')
    dataset = reverie.data(tmp_path)
    assert ("runs/mine/", "run") in kinds(dataset) and dataset.report.usable == 11
    (tmp_path / "other" / "0060.png").unlink()
    assert reverie.data(tmp_path).fingerprint == fingerprint


def test_columns_of_numbers_are_attributes(tmp_path: Path) -> None:
    fill(tmp_path, 12)
    head, rest = (
        "file_name,smiling,age,label,note,hats",
        "\n".join(f"{i:04d}.png,{i % 2},{20 + i}.5,c{i % 3},hi," for i in range(11)),
    )
    (tmp_path / "metadata.csv").write_text(f"{head}\n{rest}\n", "utf-8")
    dataset = reverie.data(tmp_path)
    assert dataset.attributes == ["smiling", "age"] and dataset.classes == ["c0", "c1", "c2"]
    values = {
        n: row
        for side in (dataset.train, dataset.held_out)
        for n, row in zip(side.names, side["attributes"], strict=True)
    }
    assert values["0003.png"].tolist() == [1, 23.5] and values["0003.png"].dtype == np.float32
    assert values["0011.png"].tolist() == [0, 0] and ("smiling", "missing-attribute") in kinds(dataset)
    assert reverie.data(tmp_path).fingerprint == dataset.fingerprint and dataset.summary()["attributes"] == [
        "smiling",
        "age",
    ]
    part = reverie.data(f"{tmp_path}:train")
    assert all(
        (row == values[name]).all() for name, row in zip(part.train.names, part.train["attributes"], strict=True)
    )
    (tmp_path / "metadata.csv").write_text(f"{head}\n{rest}\n".replace("23.5", "24.5"), "utf-8")
    assert reverie.data(tmp_path).fingerprint != dataset.fingerprint


def test_a_folder_without_attributes_has_no_such_column(tmp_path: Path) -> None:
    dataset = reverie.data(fill(tmp_path, 10))
    assert dataset.attributes == [] and set(dataset.train.columns) == {"x", "label"}


def test_a_and_b_are_pairs_and_the_unmatched_are_reported(tmp_path: Path) -> None:
    for i in range(10):
        save(tmp_path / "A" / "sub" / f"{i}.png", i, channels=1)
        save(tmp_path / "B" / "sub" / f"{i}.bmp", 100 + i)
    save(tmp_path / "A" / "alone.png", 500)
    dataset = reverie.data(tmp_path)
    assert dataset.summary()["pairs"] == 10 and dataset.classes == []
    for name, (image, _, _, source) in rows(dataset).items():
        i = int(Path(name).stem)
        assert (image == pixels(100 + i)).all() and (source == pixels(i, channels=1)).all()
    assert ("A/alone.png", "unpaired") in kinds(dataset)


def test_pairs_that_share_a_source_never_straddle(tmp_path: Path) -> None:
    for i in range(40):
        save(tmp_path / "A" / f"{i}.png", i // 2)
        save(tmp_path / "B" / f"{i}.png", 100 + i)
    dataset = reverie.data(tmp_path, held_out=0.4)
    held = {int(Path(name).stem) // 2 for name in dataset.held_out.names}
    assert held and not held & {int(Path(name).stem) // 2 for name in dataset.train.names}


def test_npz_with_a_split_keeps_it(tmp_path: Path) -> None:
    train, test = (np.stack([pixels(s) for s in range(a, a + n)]) for a, n in ((0, 20), (50, 10)))
    np.savez(tmp_path / "d.npz", x_train=train, y_train=np.arange(20) % 3, x_test=test, y_test=np.arange(10) % 3)
    dataset = reverie.data(tmp_path / "d.npz")
    assert (dataset.train["x"] == train).all() and (dataset.held_out["x"] == test).all()
    assert dataset.classes == ["0", "1", "2"] and dataset.held_out.labels.tolist() == (np.arange(10) % 3).tolist()
    assert len(reverie.data(f"{tmp_path / 'd.npz'}:test").held_out) >= 1


def test_a_split_whose_training_images_are_copies_of_the_test_ones_is_too_few(tmp_path: Path) -> None:
    images = np.stack([pixels(seed) for seed in range(20)])
    np.savez(tmp_path / "d.npz", x_train=images[:16], x_test=images)
    fill(tmp_path / "folder" / "train", 16)
    fill(tmp_path / "folder" / "test", 20)
    for source in (tmp_path / "d.npz", tmp_path / "folder"):
        with pytest.raises(TooFew, match="20 usable images, 0 of them to train on") as caught:
            reverie.data(source)
        assert caught.value.report.counts() == {"duplicate": 16}
        assert len(reverie.data(f"{source}:test").train) > 8


def test_npz_floats_are_scaled_copies_dropped_and_texts_kept(tmp_path: Path) -> None:
    images = np.stack([pixels(s, channels=1)[..., 0] for s in range(20)] + [pixels(0, channels=1)[..., 0]])
    np.savez(tmp_path / "d.npz", images=images.astype(np.float32) / 255, texts=np.array([f"n{i}" for i in range(21)]))
    dataset = reverie.data(tmp_path / "d.npz")
    assert dataset.spec.channels == 1 and dataset.report.usable == 20
    assert {"float", "duplicate"} <= set(dataset.report.counts())
    result = rows(dataset)
    assert all((result[str(i)][0][..., 0] == images[i]).all() and result[str(i)][2] == f"n{i}" for i in range(20))


GREY = np.random.default_rng(0).integers(2, 250, (12, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ({"images": np.zeros((9, 8))}, "shape"),
        ({"images": np.zeros((9, 8, 8, 2), np.uint8)}, "shape"),
        ({"images": np.full((9, 8, 8), np.nan)}, "values that are not finite"),
        ({"pictures": np.zeros((9, 8, 8), np.uint8)}, "no array with a known name.*pictures"),
        ({"images": np.zeros((9, 8, 8), np.uint8), "labels": np.zeros(3, int)}, "labels have shape"),
        ({"images": np.array([{}], object)}, "pickled"),
        ({"images": GREY, "labels": np.zeros((6, 2), int)}, r"labels have shape \(6, 2\)"),
        ({"images": GREY, "texts": np.arange(12)}, "text of row 0 is"),
        ({"images": GREY, "attributes": np.array([[1.0]] * 11 + [[np.nan]])}, "attributes of row 11 are not finite"),
        (
            {"images": GREY, "attributes": np.ones((12, 2)), "attribute_names": np.array(["a"])},
            "1 attribute name for 2",
        ),
        ({"images": GREY, "masks": np.zeros((11, 8, 8))}, r"masks have shape \(11, 8, 8\); \(12, 8, 8\)"),
        ({"images": GREY / np.where(np.arange(12) == 5, 255.0, 1.0)[:, None, None]}, r"images of row 5 are floats in"),
        (
            {"x_train": GREY, "y_train": np.zeros((6, 2), int), "x_test": GREY[:2] + 1, "y_test": np.zeros(2, int)},
            r"train_labels have shape \(6, 2\)",
        ),
        (
            {"x_train": GREY, "y_train": np.zeros(12, int), "x_test": GREY[:2] + 1, "y_test": np.array(["a", "b"])},
            "in one split",
        ),
    ],
)
def test_npz_of_the_wrong_shape_is_refused_with_the_reason(tmp_path: Path, content: dict, hint: str) -> None:
    np.savez(tmp_path / "d.npz", **content)
    with pytest.raises(ReverieError, match=hint):
        reverie.data(tmp_path / "d.npz")


def test_npz_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(b"PK not really")
    with pytest.raises(ReverieError, match="cannot be read"):
        reverie.data(tmp_path / "d.npz")


def shard(path: Path, seeds: range, **words: str) -> None:
    with tarfile.open(path, "w") as tar:
        for seed in seeds:
            files = {
                "jpg" if seed % 2 else "png": messy.encoded(
                    Image.fromarray(pixels(seed)), "JPEG" if seed % 2 else "PNG"
                )
            }
            files |= {ending: text.replace("SEED", str(seed)).encode() for ending, text in words.items()}
            for ending, data in files.items():
                info = tarfile.TarInfo(f"./part/{seed:05d}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def test_webdataset_shards_give_labels_and_captions(tmp_path: Path) -> None:
    shard(tmp_path / "s-000.tar", range(8), cls="2", txt="number SEED")
    shard(tmp_path / "s-001.tar", range(8, 16), json='{"caption": "json SEED", "label": 0}')
    (tmp_path / "s-002.tar").write_bytes((tmp_path / "s-000.tar").read_bytes()[:5000])
    dataset = reverie.data(f"{tmp_path}/s-{{000..003}}.tar")
    result = rows(dataset)
    assert dataset.classes == ["0", "2"] and dataset.report.usable == 16  # no image has the number 1
    assert result["s-000.tar/part/00004.png"][1:3] == ("2", "number 4")
    assert result["s-001.tar/part/00009.jpg"][1:3] == ("0", "json 9")
    assert (result["s-000.tar/part/00004.png"][0] == pixels(4)).all()
    assert ("s-003.tar", "unreadable") in kinds(dataset) and "s-002.tar" in {
        file.split("/")[0] for file, _ in kinds(dataset)
    }
    (tmp_path / "s-002.tar").unlink()
    assert reverie.data(tmp_path).fingerprint == dataset.fingerprint
    assert reverie.data(tmp_path / "s-001.tar").report.usable == 8


def test_minus_one_in_a_shard_is_no_label(tmp_path: Path) -> None:
    for label in (-1, 0, 1):
        shard(tmp_path / f"s-{label + 1}.tar", range(8 * label + 8, 8 * label + 16), cls=str(label))
    dataset = reverie.data(f"{tmp_path}/s-{{0..2}}.tar")
    assert dataset.classes == ["0", "1"] and [label for _, label, *_ in rows(dataset).values()].count(None) == 8
    assert dataset.report.counts()["unlabelled"] == 1


def test_columns_of_a_table_and_of_shards_are_chosen(tmp_path: Path) -> None:
    lines = ["name,breed,alt,text"]
    for seed in range(20):
        save(tmp_path / "d" / f"{seed:02d}.png", seed)
        lines.append(f"{seed:02d}.png,{'ab'[seed % 2]},alt {seed},text {seed}")
    (tmp_path / "d" / "about.csv").write_text("\n".join(lines))
    data = reverie.data(tmp_path / "d", columns={"image": "name", "label": "breed", "text": "alt"})
    assert data.classes == ["a", "b"] and {text for _, _, text, _ in rows(data).values()} >= {"alt 3", "alt 4"}
    with pytest.raises(
        UsageError, match=r"no column 'bred' \(label\). Did you mean .breed.\? Columns: name, breed, alt"
    ):
        reverie.data(tmp_path / "d", columns="image=name,label=bred")
    with pytest.raises(UsageError, match=r"No table names the images of the source. columns='image=COLUMN' is"):
        reverie.data(tmp_path / "d", columns="image=alt")
    (tmp_path / "d" / "about.csv").unlink()
    with pytest.raises(UsageError, match="The source has no table, and has no column 'breed'"):
        reverie.data(tmp_path / "d", columns="label=breed")
    shard(tmp_path / "s.tar", range(12), json=json.dumps({"kind": "x", "alt": "seen", "caption": "unseen"}))
    data = reverie.data(tmp_path / "s.tar", columns="label=kind,text=alt")
    assert data.classes == ["x"] and {*data.train["text"]} == {"seen"}
    with pytest.raises(UsageError, match=r"columns is for tables .* an object has none"):
        reverie.data(np.zeros((8, 4, 4), np.uint8), columns="label=kind")
