"""Small examples of every layout that data comes in: ``python scripts/make_layouts.py FOLDER``, then ``reverie data``.

Each is a few dozen images of 32 pixels; ``LAYOUTS`` says what the report's first line is to be.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 32
COLOURS = ("tomato", "royalblue", "gold", "seagreen")
SHAPES = ("disc", "square", "cross")


def picture(seed: int, shape: str | None = None) -> Image.Image:
    """A shape in a colour on grey noise, another one for every seed."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(150, 250, (8, 8), np.uint8)).resize((SIDE, SIDE)).convert("RGB")
    draw, colour = ImageDraw.Draw(image), COLOURS[seed % len(COLOURS)]
    x, y = rng.integers(4, 14, 2).tolist()
    box = (x, y, x + 14, y + 14)
    match shape or SHAPES[seed % len(SHAPES)]:
        case "disc":
            draw.ellipse(box, colour)
        case "square":
            draw.rectangle(box, colour)
        case _:
            draw.line((x, y, x + 14, y + 14), colour, 4)
            draw.line((x, y + 14, x + 14, y), colour, 4)
    return image


def save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def encoded(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


def images(folder: Path) -> None:
    for i in range(24):
        save(folder / f"{i:02}.png", picture(i))


def classes(folder: Path, below: str = "") -> None:
    for k, shape in enumerate(SHAPES):
        for i in range(12):
            save(folder / below / shape / f"{i:02}.png", picture(20 * k + i, shape))


def splits(folder: Path) -> None:
    for k, (split, n) in enumerate((("train", 10), ("val", 3))):
        for j, shape in enumerate(SHAPES):
            for i in range(n):
                save(folder / split / shape / f"{i:02}.png", picture(100 * k + 20 * j + i, shape))


def pairs(folder: Path) -> None:
    for i in range(24):
        save(folder / "A" / f"{i:02}.png", picture(i).filter(ImageFilter.FIND_EDGES))
        save(folder / "B" / f"{i:02}.jpg", picture(i))


def cyclegan(folder: Path) -> None:
    for k, (name, n) in enumerate((("trainA", 12), ("trainB", 14), ("testA", 3), ("testB", 4))):
        for i in range(n):
            image = picture(100 * k + i)
            save(folder / name / f"{name}_{i:02}.png", image if name[-1] == "A" else image.convert("L").convert("RGB"))


def names(folder: Path) -> None:
    for i in range(24):
        save(folder / f"{i:02}_source.png", picture(i).convert("L"))
        save(folder / f"{i:02}_target.png", picture(i))


def side_by_side(folder: Path) -> None:
    for split, first, n in (("train", 0, 20), ("test", 100, 5)):
        for i in range(n):
            both = Image.new("RGB", (2 * SIDE, SIDE))
            both.paste(picture(first + i).filter(ImageFilter.FIND_EDGES), (0, 0))
            both.paste(picture(first + i), (SIDE, 0))
            save(folder / split / f"{i:02}.png", both)


def restoration(folder: Path) -> None:
    for split, first, n in (("train", 0, 16), ("test", 100, 6)):
        for i in range(n):
            image = picture(first + i)
            save(folder / split / f"GOPR{i % 2}" / "sharp" / f"{i:06}.png", image)
            save(folder / split / f"GOPR{i % 2}" / "blur" / f"{i:06}.png", image.filter(ImageFilter.GaussianBlur(2)))


def stylegan(folder: Path) -> None:
    rows = []
    for i in range(30):
        name = f"{i // 10:05}/img{i:08}.png"
        save(folder / name, picture(i))
        rows.append([name, i % len(SHAPES)])
    (folder / "dataset.json").write_text(json.dumps({"labels": rows}))


def zipped(file: Path) -> None:
    folder = file.with_suffix("")
    stylegan(folder)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder))


def imagefolder(folder: Path) -> None:
    images(folder)
    rows = [
        {"file_name": f"{i:02}.png", "text": f"a {SHAPES[i % 3]}", "size": i, "label": SHAPES[i % 3]} for i in range(24)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def captions(folder: Path) -> None:
    images(folder)
    for i in range(24):
        (folder / f"{i:02}.txt").write_text(f"a {COLOURS[i % 4]} {SHAPES[i % 3]}", "utf-16" if i % 2 else "utf-8")


def coco(folder: Path) -> None:
    images(folder / "train2017")
    listed = [{"id": i, "file_name": f"{i:02}.png"} for i in range(24)]
    words = [{"image_id": i, "caption": f"{word} {SHAPES[i % 3]}"} for i in range(24) for word in ("a", "one", "this")]
    (folder / "annotations").mkdir()
    (folder / "annotations" / "captions_train2017.json").write_text(
        json.dumps({"images": listed, "annotations": words})
    )


def celeba(folder: Path) -> None:
    images(folder / "img_align_celeba")
    lines = [f"{i:02}.png {1 if i % 2 else -1:2} {1 if i % 3 else -1:2}" for i in range(24)]
    (folder / "list_attr_celeba.txt").write_text("\n".join(["24", "Smiling Young ", *lines]))
    (folder / "list_eval_partition.txt").write_text("\n".join(f"{i:02}.png {i // 9}" for i in range(24)))


def pets(folder: Path) -> None:
    (folder / "annotations").mkdir(parents=True)
    for part, numbers in (("trainval", range(9)), ("test", range(9, 12))):
        lines = ["#Image CLASS-ID SPECIES BREED ID"]
        for k, shape in enumerate(SHAPES):
            for i in numbers:
                save(folder / "images" / f"{shape}_{i}.jpg", picture(20 * k + i, shape))
                lines.append(f"{shape}_{i} {k + 1} 1 {k + 1}")
        (folder / "annotations" / f"{part}.txt").write_text("\n".join(lines))


def lists(folder: Path) -> None:
    """As Food-101: lists of images, without their endings, are the split."""
    classes(folder, "images")
    (folder / "meta").mkdir()
    for part, numbers in (("train", range(9)), ("test", range(9, 12))):
        lines = [f"{shape}/{i:02}" for shape in SHAPES for i in numbers]
        (folder / "meta" / f"{part}.txt").write_text("\n".join(lines))


def kaggle(folder: Path) -> None:
    """A table names images without their endings, and classes, in columns of any name; test images have none."""
    for part, first, n in (("train", 0, 20), ("test", 100, 6)):
        for i in range(n):
            save(folder / f"{part}_images" / f"{first + i:04}.png", picture(first + i))
    (folder / "train.csv").write_text("\n".join(["id,shape", *(f"{i:04},{SHAPES[i % 3]}" for i in range(20))]))
    rows = [f"{100 + i:04},disc" for i in range(6)]
    (folder / "sample_submission.csv").write_text("\n".join(["id,shape", *rows]))


def shape_of(seed: int) -> Image.Image:
    """The mask of a picture, its colour: black and white."""
    plain = np.asarray(picture(seed), np.int16)
    return Image.fromarray(np.where(np.ptp(plain, axis=2) > 40, 255, 0).astype(np.uint8))


def masks(folder: Path) -> None:
    for i in range(24):
        save(folder / "images" / f"{i:02}.jpg", picture(i))
        save(folder / "masks" / f"{i:02}_mask.png", shape_of(i))


def voc(folder: Path) -> None:
    for i in range(24):
        save(folder / "JPEGImages" / f"{i:02}.jpg", picture(i))
        if i % 2:
            index = shape_of(i).point(lambda value, k=i % 3: k + 1 if value else 0).convert("P")
            index.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
            save(folder / "SegmentationClass" / f"{i:02}.png", index)


def cityscapes(folder: Path) -> None:
    for split, city, first, n in (("train", "aachen", 0, 16), ("val", "ulm", 100, 6)):
        for i in range(n):
            name = f"{split}/{city}/{city}_{i:06}_000019"
            save(folder / "leftImg8bit" / f"{name}_leftImg8bit.png", picture(first + i))
            labels = shape_of(first + i).point(lambda value, k=i % 3: 24 + k if value else 0)
            save(folder / "gtFine" / f"{name}_gtFine_labelIds.png", labels)


def shards(file: Path) -> None:
    with tarfile.open(file, "w:gz") as tar:
        for i in range(24):
            about = json.dumps({"caption": f"a {SHAPES[i % 3]}", "label": i % 3}).encode()
            for name, data in ((f"{i:05}.v1.png", encoded(i)), (f"{i:05}.v1.json", about)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def idx(folder: Path) -> None:
    folder.mkdir(parents=True)
    for part, first, n in (("train", 0, 20), ("t10k", 100, 5)):
        grey = np.stack([np.asarray(picture(first + i).convert("L")) for i in range(n)])
        labels = (np.arange(n) % 3).astype(np.uint8)
        for kind, array in (("images-idx3", grey), ("labels-idx1", labels)):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(head + array.tobytes())


def cifar(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, first, n in (("data_batch_1.bin", 0, 20), ("test_batch.bin", 100, 5)):
        records = [bytes([i % 3]) + np.asarray(picture(first + i)).transpose(2, 0, 1).tobytes() for i in range(n)]
        (folder / name).write_bytes(b"".join(records))
    (folder / "batches.meta.txt").write_text("\n".join(SHAPES))


def stl(folder: Path) -> None:
    folder.mkdir(parents=True)
    for part, first, n in (("train", 0, 20), ("test", 100, 8)):
        rows = np.stack([np.asarray(picture(first + i).resize((96, 96))) for i in range(n)])
        (folder / f"{part}_X.bin").write_bytes(rows.transpose(0, 3, 2, 1).tobytes())
        (folder / f"{part}_y.bin").write_bytes(bytes(1 + i % 3 for i in range(n)))
    (folder / "class_names.txt").write_text("\n".join(SHAPES))


def parquet(file: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    columns = {"img": [encoded(i) for i in range(24)], "label": [SHAPES[i % 3] for i in range(24)]}
    write_table(pyarrow.table(columns), file)


def hdf5(file: Path) -> None:
    import h5py

    with h5py.File(file, "w") as group:
        group["images"] = np.stack([np.asarray(picture(i)) for i in range(24)])
        group["labels"] = np.arange(24) % 3


def lmdb(folder: Path) -> None:
    import lmdb as library

    folder.mkdir(parents=True)
    environment = library.open(str(folder), map_size=1 << 24)
    with environment.begin(write=True) as writing:
        for i in range(24):
            writing.put(f"{i:05}".encode(), encoded(i))
    environment.close()


def films(folder: Path) -> None:
    for k in range(4):
        for i in range(32):
            save(folder / f"film{k}" / f"{i:03}.png", picture(k).rotate(6 * i))


def volumes(folder: Path) -> None:
    folder.mkdir(parents=True)
    z, y, x = np.mgrid[:16, :16, :16]
    for i in range(12):
        np.save(folder / f"{i:02}.npy", np.hypot(np.hypot(z - 8, y - 8 + i % 3), x - 8) < 4 + i % 4)


def archive(file: Path) -> None:
    """As guided diffusion's tools write samples: images and labels by position."""
    np.savez(file, np.stack([np.asarray(picture(i)) for i in range(24)]), np.arange(24) % 3)


LAYOUTS: dict[str, tuple[Callable[[Path], None], str]] = {  # name -> maker, how the report begins
    "images": (images, "images, 24"),
    "classes": (classes, "class folders, 3 classes, 36 images"),
    "below": (lambda folder: classes(folder, "download/train"), "class folders, 3 classes, 36 images"),
    "splits": (splits, "class folders, 3 classes, 39 images, train 30 / val 9"),
    "pairs": (pairs, "pairs of two folders, 24 of A 24 / B 24"),
    "cyclegan": (cyclegan, "CycleGAN folders, trainA 12 / trainB 14 / testA 3 / testB 4, unpaired"),
    "names": (names, "pairs by names, 24"),
    "side-by-side": (side_by_side, "pairs side by side, 25, train 20 / test 5"),
    "restoration": (restoration, "pairs of degraded and clean images, 22 of blur 22 / sharp 22, train 16 / test 6"),
    "stylegan": (stylegan, "StyleGAN's dataset.json with labels, 30 images"),
    "stylegan.zip": (zipped, "StyleGAN's dataset.json with labels, 30 images"),
    "imagefolder": (imagefolder, "images, 24; metadata.jsonl about 24 images"),
    "captions": (captions, "images, 24"),
    "coco": (coco, "images, 24; annotations/captions_train2017.json about 24 images"),
    "celeba": (celeba, "images, 24; list_attr_celeba.txt about 24 images"),
    "pets": (pets, "images, 36"),
    "lists": (lists, "class folders, 3 classes, 36 images; meta/test.txt about 9 images"),
    "kaggle": (kaggle, "images, 26, train_images 20 / test_images 6; train.csv about 20 images"),
    "masks": (masks, "images, 24; masks of 24 images from masks/"),
    "voc": (voc, "images, 24; masks of 12 images from SegmentationClass/"),
    "cityscapes": (
        cityscapes,
        "class folders, 2 classes, 22 images, train 16 / val 6; masks of 22 images from gtFine/",
    ),
    "shards.tar.gz": (shards, "WebDataset, 1 shard"),
    "idx": (idx, "MNIST's idx files, train 20 / test 5"),
    "cifar": (cifar, "CIFAR's binary files, train 20 / test 5"),
    "stl": (stl, "STL-10's binary files, train 20 / test 8"),
    "archive.npz": (archive, "arrays of an .npz, 24 rows"),
    "table.parquet": (parquet, "1 Parquet file"),
    "arrays.h5": (hdf5, "arrays of an HDF5 file, 24 rows"),
    "lmdb": (lmdb, "an LMDB of images"),
    "films": (films, "films, 4"),
    "volumes": (volumes, "volumes, 12"),
}
LIBRARIES = {"table.parquet": "pyarrow", "arrays.h5": "h5py", "lmdb": "lmdb"}  # extras of reverie
MEDIA = {"films": "video", "volumes": "volume"}  # with --medium


def main() -> None:
    """Make all below a folder that is named."""
    root = Path(sys.argv[1])
    root.mkdir(parents=True, exist_ok=True)
    for name, (make, _) in LAYOUTS.items():
        if name in LIBRARIES and find_spec(LIBRARIES[name]) is None:
            print(f"{name} needs {LIBRARIES[name]}, which is not installed")
            continue
        make(root / name)
        print(f"reverie data {root / name}" + f" --medium {MEDIA.get(name)}" * (name in MEDIA))


if __name__ == "__main__":
    main()
