"""Random small data sets in every layout, with the columns that they must be read into: strategies of hypothesis."""

from __future__ import annotations

import csv
import functools
import io
import json
import tarfile
import unicodedata
import zipfile
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image
from small_pictures import pixels

SIDE = 8
ENDINGS = {".png": "PNG", ".bmp": "BMP", ".ppm": "PPM", ".webp": "WEBP", ".jpg": "JPEG", ".PNG": "PNG"}
CLASSES = ("ant", "bee", "cat", "Ünder score", "10", "9", "A", "B", "写真")
WORDS = ("a red, round apple", "größer", 'she said "no"', "写真 🖼", "two;three", "tab|bar")
FIRST = st.sampled_from(["", "img", "a photo ", "é", "x.y-"])  # of the names of images
BELOW = st.sampled_from(["", "", "set/", "download/train/"])  # lone folders above


@dataclass(frozen=True)
class Sample:
    """What a row must be: its pixels, uint8 (*shape, C), and columns."""

    x: np.ndarray
    label: str | None = None
    texts: tuple[str, ...] = ()
    source: np.ndarray | None = None
    attributes: tuple[float, ...] = ()
    split: str | None = None


@dataclass(repr=False)
class Case:
    """A data set to be written, and what must be read.

    Attributes:
        name: of the layout.
        files: path -> content; all of them are images, or about images.
        samples: name of a row -> what it must be.
        title: how the report's first line begins.
        options: of ``open_data``.
        suffix: "" for a folder, else of the file that all are packed into.
    """

    name: str
    files: dict[str, bytes]
    samples: dict[str, Sample]
    title: str = ""
    attributes: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    suffix: str = ""

    def __repr__(self) -> str:
        return f"<{self.name}{self.suffix} of {len(self.files)} files, {self.options}: {[*self.files][:3]} ...>"

    def write(self, root: Path) -> Path:
        """The source, below ``root``."""
        source = root / f"data{self.suffix}"
        if self.suffix == ".zip":
            with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, data in self.files.items():
                    archive.writestr(name, data)
        elif self.suffix.startswith(".t"):
            with tarfile.open(source, "w:gz" if self.suffix.endswith("gz") else "w") as tar:
                for name, data in self.files.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        elif self.suffix:
            source.write_bytes(self.files[""])
        else:
            for name, data in self.files.items():
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                (source / name).write_bytes(data)
        return source


def check(dataset: Any, case: Case, junk: dict[str, bytes] | None = None) -> None:
    """Assert that a data set is what the case says, beside what ``junk`` adds: rows, and words about images."""
    rows = read(dataset)
    if junk is None:
        assert rows.keys() == case.samples.keys()
        assert dataset.report.read_as.startswith(case.title)
        assert dataset.attributes == case.attributes
    else:
        copies = {problem.file for problem in dataset.report.problems if problem.kind in ("duplicate", "moved")}
        assert case.samples.keys() - rows.keys() <= copies
    for name in rows.keys() & case.samples.keys():
        row, sample = rows[name], case.samples[name]
        assert np.array_equal(row.x, sample.x), name
        assert (row.source is None) == (sample.source is None), name
        assert sample.source is None or np.array_equal(row.source, sample.source), name
        assert sample.split in (None, row.split), name
        if any(name.encode() in words for words in (junk or {}).values()):
            continue
        words = (name, row.label, row.texts)
        assert words == (name, sample.label, sample.texts), words
        assert junk is not None or row.attributes == sample.attributes, name


def read(dataset: Any) -> dict[str, Sample]:
    """Name of a row -> what it was read into."""
    rows = {}
    for side, split in (("train", dataset.train), ("held_out", dataset.held_out)):
        single = [(text,) if text else () for text in split.get("text") or [""] * len(split)]
        texts = [tuple(filter(None, several)) for several in split.get("captions") or single]
        numbers = split["attributes"].tolist() if "attributes" in split else [()] * len(split)
        for i, name in enumerate(split.names):
            label = dataset.classes[split.labels[i]] if split.labels[i] >= 0 else None
            source = split["source"][i] if "source" in split else None
            rows[name] = Sample(split["x"][i], label, texts[i], source, tuple(numbers[i]), side)
    return rows


@functools.cache
def encoded(seed: int, ending: str = ".png") -> bytes:
    buffer = io.BytesIO()
    options = {"lossless": True} if ending == ".webp" else {}
    Image.fromarray(pixels(seed, SIDE, SIDE)).save(buffer, ENDINGS[ending], **options)
    return buffer.getvalue()


@functools.cache
def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


class Maker:
    """Draws names, images and words."""

    def __init__(self, draw: st.DrawFn):
        self.draw, self.seed = draw, draw(st.integers(0, 50)) * 1000
        self.first, self.below = draw(FIRST), draw(BELOW)

    def some(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def image(self, ending: str | None = None) -> tuple[str, bytes, np.ndarray]:
        """(name, content, pixels) of a new image."""
        self.seed += 1
        ending = ending or self.some(*ENDINGS)
        data = encoded(self.seed, ending)
        return f"{self.first}{self.seed % 1000:03d}{ending}", data, decoded(data)

    def text(self) -> str:
        return self.some(*WORDS)

    def images(self, folder: str, n: int, **columns: Any) -> tuple[dict[str, bytes], dict[str, Sample]]:
        files, samples = {}, {}
        for _ in range(n):
            name, data, x = self.image()
            files[folder + name], samples[folder + name] = data, Sample(x, **columns)
        return files, samples


def images(make: Maker) -> Case:
    files, samples = make.images(make.below, 12)
    return Case("images", files, samples, "images, 12")


def classes(make: Maker) -> Case:
    names = make.draw(st.lists(st.sampled_from(CLASSES), min_size=2, max_size=4, unique=True))
    names = [*names, "cat2"] if {*names} == {"A", "B"} else names
    splits = make.some(
        (("", None, 6),), (("train/", "train", 6), (make.some("val/", "Test/", "valid/"), "held_out", 2))
    )
    case = Case("classes", {}, {}, f"class folders, {len(names)} classes")
    for part, split, n in splits:
        for name in names:
            folder = f"{make.below.partition('/')[0]}{'/' * bool(make.below)}{part}{name}/" + make.some("", "", "more/")
            files, samples = make.images(folder, n, label=name, split=split)
            case.files |= files
            case.samples |= samples
    return case


def _partners(make: Maker) -> tuple[str, bytes, np.ndarray, str, bytes, np.ndarray]:
    name, data, x = make.image()
    ending, other, source = make.image()
    return name, data, x, str(Path(name).with_suffix(Path(ending).suffix)), other, source


def pairs(make: Maker) -> Case:
    sides = make.some(("A", "B"), ("source", "target"), ("input", "target"), ("Input", "Output"))
    where = make.some(("{side}/", "{side}/"), ("train/{side}/", "val/{side}/"), ("{side}/train/", "{side}/test/"))
    case = Case("pairs", {}, {}, "pairs of two folders, 14 of ")
    for part, n in zip(where, (10, 4), strict=True):
        split = None if where[0] == where[1] else "train" if n == 10 else "held_out"
        for _ in range(n):
            name, data, x, partner, other, source = _partners(make)
            to, of = (make.below + part.format(side=side) for side in (sides[1], sides[0]))
            case.files |= {to + name: data, of + partner: other}
            case.samples[to + name] = Sample(x, source=source, split=split)
    return case


def unpaired(make: Maker) -> Case:
    kinds = (("trainA", "trainB", "testA", "testB"), ("train_A", "train_B", "val_A", "val_B"), ("A", "B"))
    case = Case("unpaired", {}, {}, "")
    folders = make.some(*kinds)
    case.title = (
        "two piles, A 9 / B 9" if len(folders) == 2 else "CycleGAN folders, trainA 9 / trainB 9 / testA 4 / testB 4"
    )
    for folder in folders:
        split = None if len(folders) == 2 else "train" if folder.startswith("train") else "held_out"
        files, samples = make.images(
            f"{make.below}{folder}/", 4 if split == "held_out" else 9, label=folder[-1], split=split
        )
        case.files |= files
        case.samples |= samples
    return case


def names(make: Maker) -> Case:
    ends = make.some(("_A", "_B"), ("_source", "_target"), ("-input", "-output"), (".input", ".target"))
    case = Case("names", {}, {}, "pairs by names, 12")
    for _ in range(12):
        name, data, x, partner, other, source = _partners(make)
        to, of = (f"{make.below}{Path(n).stem}{e}{Path(n).suffix}" for n, e in ((name, ends[1]), (partner, ends[0])))
        case.files |= {to: data, of: other}
        case.samples[to] = Sample(x, source=source)
    return case


def side_by_side(make: Maker) -> Case:
    case = Case("side-by-side", {}, {}, "pairs side by side, 12", options={"layout": "side-by-side"})
    for _ in range(12):
        (name, _, left), (_, _, right) = make.image(".png"), make.image(".png")
        buffer = io.BytesIO()
        Image.fromarray(np.concatenate([left, right], 1)).save(buffer, "PNG")
        case.files[make.below + name] = buffer.getvalue()
        case.samples[make.below + name] = Sample(right, source=left)
    return case


def stylegan(make: Maker) -> Case:
    kind, rows = make.some("numbers", "one-hot", "vectors", "none"), []
    case = Case("stylegan", {}, {}, f"StyleGAN's dataset.json with {'no ' * (kind == 'none')}labels, 15 images")
    for i in range(15):
        name, data, x = make.image()
        path, k = f"{i // 5:05d}/{name}", i % 3
        value = {"numbers": k, "one-hot": [int(j == k) for j in range(3)], "vectors": [k / 4, -1.5]}.get(kind)
        label = str(k) if kind in ("numbers", "one-hot") else None
        rows.append([path, value])
        case.files[path] = data
        case.samples[path] = Sample(x, label, attributes=(k / 4, -1.5) if kind == "vectors" else ())
    case.attributes = ["0", "1"] if kind == "vectors" else []
    case.files["dataset.json"] = json.dumps({"labels": None if kind == "none" else rows}).encode()
    return case


def table(make: Maker) -> Case:
    """metadata.csv, .jsonl or .parquet, or a table of another name, with numbers, labels and one or more captions."""
    ending = make.some(".csv", ".csv", ".tsv", ".jsonl", ".parquet" if find_spec("pyarrow") else ".csv")
    several, labelled = ending in (".jsonl", ".parquet") and make.some(True, False), make.some(True, False)
    file = make.some("metadata", "captions") if ending != ".tsv" else "captions"
    case = Case("table", {}, {}, "images, 12")
    rows: list[dict[str, Any]] = []
    for i in range(12):
        name, data, x = make.image()
        texts = [f"{make.text()} {i}", *([make.text()] if several and i % 2 else [])]
        label = CLASSES[i % 3] if labelled else None
        named = make.some(name, f"./{name}") if file == "metadata" else make.some(name, name, Path(name).name)
        named = unicodedata.normalize(make.some("NFC", "NFD"), named)
        row = {"file_name": named, "age": i / 2, "kind": "ink", **({"label": label} if labelled else {})}
        rows.append(row | {"text": texts if several else texts[0]})
        case.files[make.below + name], case.attributes = data, ["age"]
        case.samples[make.below + name] = Sample(x, label, tuple(texts), attributes=(i / 2,))
    case.files[f"{make.below}{file}{ending}"] = _table(rows, ending, make.some(",", ";", "|"), make.some(*ENCODINGS))
    return case


ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le")


def _table(rows: list[dict[str, Any]], ending: str, delimiter: str, encoding: str) -> bytes:
    if ending == ".jsonl":
        return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode(encoding)
    if ending == ".parquet":
        import pyarrow
        import pyarrow.parquet

        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
        return buffer.getvalue()
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if ending == ".tsv" else delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(encoding)


def beside(make: Maker) -> Case:
    files, samples = make.images(make.below, 12)
    case = Case("texts", files, samples, "images, 12")
    ending = make.some(".txt", ".caption")
    for name, sample in samples.items():
        text = make.text()
        case.samples[name] = replace(sample, texts=(text,))
        stem = unicodedata.normalize(make.some("NFC", "NFD"), str(Path(name).with_suffix("")))
        encoding = "latin-1" if text == "größer" else make.some(*ENCODINGS, "utf-32")
        case.files[stem + ending] = f"{text}\r\n".encode(encoding)
    return case


def coco(make: Maker) -> Case:
    kind = make.some("captions", "categories")
    folder = "images/" if kind == "categories" else "val2017/"
    files, samples = make.images(folder, 12)
    case = Case("coco", files, samples, "images, 12")
    numbers = {name: 7 * i for i, name in enumerate(files)}
    listed = [{"id": number, "file_name": name.removeprefix(folder)} for name, number in numbers.items()]
    notes: list[dict[str, Any]] = []
    for i, (name, number) in enumerate(numbers.items()):
        if kind == "captions":
            texts = tuple(f"{make.text()} {j}" for j in range(1 + i % 3))
            notes += [{"image_id": number, "caption": text} for text in texts]
            case.samples[name] = replace(samples[name], texts=texts)
        else:
            notes += [{"image_id": number, "category_id": 10 + i % 3}] * 2
            case.samples[name] = replace(samples[name], label=CLASSES[i % 3])
    categories = [{"id": 10 + k, "name": CLASSES[k]} for k in range(3)]
    content = {"images": listed, "annotations": notes, "categories": categories}
    case.files[f"annotations/{kind}.json"] = json.dumps(content).encode()
    return case
