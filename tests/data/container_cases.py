"""Random small data sets of published sets' files, shards, arrays, films and volumes; ``cases`` has all layouts."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from layout_cases import (
    CLASSES,
    SIDE,
    Case,
    Maker,
    Sample,
    beside,
    classes,
    coco,
    images,
    names,
    pairs,
    side_by_side,
    stylegan,
    table,
    unpaired,
)
from PIL import Image


def celeba(make: Maker) -> Case:
    files, samples = make.images("img_align_celeba/", 14)
    case = Case("celeba", files, {}, "images, 14", ["Smiling", "Young"])
    bare = [Path(name).name.replace(" ", "_") for name in files]  # the lists divide by blanks
    case.files = {f"img_align_celeba/{name}": data for name, data in zip(bare, files.values(), strict=True)}
    for i, (name, sample) in enumerate(zip(bare, samples.values(), strict=True)):
        split, numbers = "train" if i < 9 else "held_out", (float(i % 2), float(i % 3 > 0))
        case.samples[f"img_align_celeba/{name}"] = Sample(sample.x, str(100 + i // 7), (), None, numbers, split)
    signs = [f"{name} {1 if i % 2 else -1:2} {1 if i % 3 else -1:2}" for i, name in enumerate(bare)]
    case.files["list_attr_celeba.txt"] = "\n".join(["14", "Smiling Young ", *signs]).encode()
    case.files["identity_CelebA.txt"] = "\n".join(f"{name} {100 + i // 7}" for i, name in enumerate(bare)).encode()
    parts = (f"{name} {0 if i < 9 else 1 + i % 2}" for i, name in enumerate(bare))
    case.files["list_eval_partition.txt"] = "\n".join(parts).encode()
    return case


def pets(make: Maker) -> Case:
    case = Case("pets", {}, {}, "images, 24")
    for part, numbers in (("trainval", range(9)), ("test", range(9, 12))):
        lines = ["#Image CLASS-ID SPECIES BREED ID"]
        for k, breed in enumerate(("Abyssinian", "english_setter")):
            for i in numbers:
                _, data, x = make.image(".jpg")
                path = f"images/{breed}_{i}.jpg"
                case.files[path] = data
                case.samples[path] = Sample(x, breed, split="held_out" if part == "test" else "train")
                lines.append(f"{breed}_{i} {k + 1} {k + 1} {k + 1}")
        case.files[f"annotations/{part}.txt"] = "\n".join(lines).encode()
    return case


def shards(make: Maker) -> Case:
    """One .tar, packed or not, or a folder of two."""
    kind, ending = make.some("cls", "txt", "json", "jsons"), make.some(".tar", ".tar.gz", "")
    case = Case("shards", {}, {}, f"WebDataset, {2 if not ending else 1} shard", suffix=ending)
    parts: list[dict[str, bytes]] = [{}, {}]
    for i in range(16):
        name, data, x = make.image()
        shard = 0 if ending else i % 2
        number, text = i % 3, make.text()
        texts = {"cls": (), "txt": (text,), "json": (text,), "jsons": (text, f"or {i}")}[kind]
        about = {"caption": list(texts) if kind == "jsons" else text, "label": number, "width": 9}
        words = {"cls": str(number), "txt": text}.get(kind) or json.dumps(about)
        parts[shard] |= {name: data, f"{Path(name).stem}.{kind.rstrip('s') if kind != 'cls' else kind}": words.encode()}
        row = f"data{ending}/{name}" if ending else f"part{shard}.tar/{name}"
        case.samples[row] = Sample(x, None if kind == "txt" else str(number), texts)
    case.files = parts[0] if ending else {f"part{k}.tar": tar(part) for k, part in enumerate(parts)}
    return case


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _arrays(make: Maker, n: int) -> list[np.ndarray]:
    return [make.image(".png")[2] for _ in range(n)]


def npz(make: Maker) -> Case:
    """As ADM's and torch-fidelity's samples, with our names, or with a split."""
    kind, rows = make.some("arr_0", "images", "train"), _arrays(make, 16)
    x, labels = np.stack(rows), np.arange(16) % 3
    x = make.some(x, x.transpose(0, 3, 1, 2), (x / np.float32(255)).astype(np.float32))
    case = Case("npz", {}, {}, "", suffix=".npz")
    arrays: dict[str, np.ndarray] = {"arr_0": x, "arr_1": labels}
    if kind == "images":
        arrays = {"images": x, "labels": np.array(CLASSES)[labels], "texts": np.array([f"über {i}" for i in range(16)])}
        arrays |= {"attributes": np.arange(32).reshape(16, 2), "attribute_names": np.array(["age", "size"])}
        case.attributes = ["age", "size"]
    elif kind == "train":
        arrays = {"x_train": x[:12], "y_train": labels[:12], "x_test": x[12:], "y_test": labels[12:]}
    for i, row in enumerate(rows):
        label = CLASSES[i % 3] if kind == "images" else str(i % 3)
        texts, numbers = ((f"über {i}",), (2.0 * i, 2.0 * i + 1)) if kind == "images" else ((), ())
        split = None if kind != "train" else "train" if i < 12 else "held_out"
        case.samples[str(i)] = Sample(row, label, texts, None, numbers, split)
    buffer = io.BytesIO()
    make.some(np.savez, np.savez_compressed)(buffer, **arrays)
    case.files[""] = buffer.getvalue()
    return case


def hdf5(make: Maker) -> Case:
    import h5py

    rows, buffer = _arrays(make, 12), io.BytesIO()
    with h5py.File(buffer, "w") as file:
        group = file.create_group("data") if make.some(True, False) else file
        group["images"], group["labels"] = np.stack(rows), np.arange(12) % 2
    samples = {str(i): Sample(row, str(i % 2)) for i, row in enumerate(rows)}
    return Case("hdf5", {"": buffer.getvalue()}, samples, suffix=".h5")


def idx(make: Maker) -> Case:
    case, packed, n = Case("idx", {}, {}), make.some(True, False), 0
    for part, split, count in (("train", "train", 12), ("t10k", "held_out", 4)):
        rows = [row[..., :1] for row in _arrays(make, count)]
        labels = (np.arange(count) % 3).astype(np.uint8)
        case.samples |= {str(n + i): Sample(row, str(i % 3), split=split) for i, row in enumerate(rows)}
        n += count
        for kind, array in (("images-idx3", np.stack(rows)[..., 0]), ("labels-idx1", labels)):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            data = head + array.tobytes()
            name = f"{part}-{kind}-ubyte{'.gz' * packed}"
            case.files[name] = gzip.compress(data, 1) if packed else data
    return case


def cifar(make: Maker) -> Case:
    """CIFAR's files have 32 x 32 pixels."""
    case, n, coarse = Case("cifar", {}, {}, options={"size": 32}), 0, make.some(True, False)
    parts = (("data_batch_1.bin", 10), ("data_batch_2.bin", 2), ("test_batch.bin", 4))
    parts = (("train.bin", 12), ("test.bin", 4)) if coarse else parts
    for name, count in parts:
        records = []
        for i, row in enumerate(_arrays(make, count)):
            x, label = row.repeat(4, 0).repeat(4, 1), i % 3
            records.append(bytes([9, label] if coarse else [label]) + x.transpose(2, 0, 1).tobytes())
            split = "held_out" if name.startswith("test") else "train"
            case.samples[str(n)] = Sample(x, CLASSES[label].partition(" ")[0], split=split)
            n += 1
        case.files[name] = b"".join(records)
    words = "\n".join(word.partition(" ")[0] for word in CLASSES[:3]).encode()
    case.files["fine_label_names.txt" if coarse else "batches.meta.txt"] = words
    return case


def parquet(make: Maker) -> Case:
    import pyarrow
    import pyarrow.parquet

    case, lists = Case("parquet", {}, {}, "2 Parquet files"), make.some(True, False)
    for part, split, n in (("train", "train", 10), ("test", "held_out", 3)):
        rows = []
        for i in range(n):
            name, data, x = make.image()
            texts = (f"{make.text()} {i}", "another")[: 1 + lists]
            text = list(texts) if lists else texts[0]
            rows.append({"image": {"bytes": data, "path": name}, "label": i % 2, "text": text})
            case.samples[f"{part}-00000-of-00001.parquet/{i}"] = Sample(x, str(i % 2), texts, split=split)
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer, row_group_size=4)
        case.files[f"data/{part}-00000-of-00001.parquet"] = buffer.getvalue()
    return case


def films(make: Maker) -> Case:
    """Folders of frames, or GIFs, in class folders; clips of two frames."""
    case = Case("films", {}, {}, "films", options={"medium": "video", "frames": 2, "stride": make.some(1, 2)})
    step = case.options["stride"]
    for name in ("ant", "bee"):
        for film in range(2):
            frames = _arrays(make, 9)
            for i in range(9):
                case.files[f"{name}/{film}/{i}.png"] = _png(frames[i])
            for start in range(0, 9 - step, 2 * step):
                x = np.stack(frames[start : start + step + 1 : step])
                case.samples[f"{name}/{film}:{start}"] = Sample(x, None)
    for key, sample in case.samples.items():
        case.samples[key] = Sample(sample.x, key.partition("/")[0])
    return case


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def volumes(make: Maker) -> Case:
    case = Case("volumes", {}, {}, "volumes, 12", options={"medium": "volume"})
    for split, n in (("train", 10), ("test", 2)):
        for i in range(n):
            x = np.stack([row[..., 0] for row in _arrays(make, 3)])[..., None]
            buffer = io.BytesIO()
            np.save(buffer, x[..., 0])
            label = CLASSES[i % 2]
            path = f"{split}/{label}/{i}.npy"
            case.files[path], case.samples[path] = buffer.getvalue(), Sample(x, label, split=split)
            case.samples[path] = Sample(x, label, split="train" if split == "train" else "held_out")
    return case


FOLDERS = (images, classes, pairs, unpaired, names, side_by_side, stylegan, table, beside, coco, celeba, pets)
HAS = {library: find_spec(library) is not None for library in ("h5py", "pyarrow")}  # extras of reverie
FILES = (shards, npz, idx, cifar, *([hdf5] if HAS["h5py"] else []), *([parquet] if HAS["pyarrow"] else []))
MEDIA = (films, volumes)
IN_TAR = (images, classes, pairs, unpaired, names, side_by_side)  # the words of others make a tar a shard


@st.composite
def cases(draw: st.DrawFn, kinds: tuple[Any, ...] = (*FOLDERS, *FILES, *MEDIA)) -> Case:
    """A layout with everything about it drawn."""
    kind = draw(st.sampled_from(kinds))
    case: Case = kind(Maker(draw))
    if kind is not volumes:
        case.options = {"size": SIDE} | case.options
    if kind in FOLDERS:
        case.suffix = draw(st.sampled_from(["", "", ".zip", *([".tar", ".tgz"] if kind in IN_TAR else [])]))
    return case
