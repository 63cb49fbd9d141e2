"""The verbs that compress images without loss, and decompress them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from reverie.commands.shared import ImageNames, RunName, bar, load, note, report, table, target
from reverie.core.errors import UsageError

ENDING = ".rvc"


def compress(
    run: RunName,
    images: ImageNames = (),
    /,
    data: str | None = None,
    split: Literal["held-out", "train"] = "held-out",
    number: Annotated[int | None, arg(aliases=["-n"])] = None,
    out: str | None = None,
    map: Annotated[str | None, arg(metavar="FILE")] = None,
    formats: bool = True,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Compress images without loss, each to a file of its own, or a split of data to one file.

    Bytes are printed beside those of PNG, WebP and, where pyjpegxl is installed, JPEG XL of the same pixels. Files of a
    codec are decoded on every machine; those of other models surely only where they were written.

    Examples: reverie compress runs/codec-photos photo.png; reverie compress runs/codec-fashion --data fashion-mnist.

    Args:
        run: a run directory of a codec, or of a model with exact conditionals of 8-bit values, or a checkpoint inside.
        images: image files, or held-out:N; none with --data.
        data: a data set whose split is compressed to one file.
        split: of the data: held-out or train.
        number: the first so many images of the split; all by default.
        out: the file (.rvc), or a folder where images are several; by default the image's name with .rvc.
        map: of one image: where its bits are, as an image (.png ...).
        formats: measure PNG, WebP and JPEG XL, too.
        overwrite: replace a file that is there.
        json: print {"files", "bytes", "bits_per_dim", "ideal_bits", "formats", "portable", "weights"}.
    """
    import numpy as np

    from reverie.compression import compress as module
    from reverie.compression.heat import bits_map, coloured
    from reverie.inference.load import data_of
    from reverie.inference.origin import origin
    from reverie.media import montage

    if bool(images) == bool(data):
        raise UsageError("Name images to compress, or --data with a data set, and not both.")
    if map and len(images) != 1:
        raise UsageError("--map draws the bits of one image: name one.")
    heat = target(map, "", overwrite, flag="map", others=images) if map else None
    jobs: list[tuple[str, Any, Path]] = []
    if images:
        folder = None if len(images) == 1 and not (out and Path(out).is_dir()) else Path(out or ".")
        if folder and folder.suffix == ENDING:
            raise UsageError(f"--out {out}: several images are several files, so --out is a folder.")
        names = _names(images)
        for image, name in zip(images, names, strict=True):
            where = str(folder / name) if folder else out
            jobs.append((image, image, target(where, name, overwrite, (ENDING,), others=(*images,))))
    else:
        jobs.append(
            (str(data), None, target(out, f"{Path(str(data)).name.split(':')[0]}{ENDING}", overwrite, (ENDING,)))
        )
    model = load(run)
    if data:
        chosen = data_of(model, data)
        rows = chosen.held_out if split == "held-out" else chosen.train
        rows = rows if number is None else rows.take(np.arange(min(number, len(rows))))
        jobs = [(name, rows, path) for name, _, path in jobs]
    results = []
    with bar(True) as progress:
        for name, content, path in jobs:
            compressed = module.compress(model, content, progress)
            compressed.save(path)
            results.append((name, path, compressed, compressed.formats() if formats else {}))
    if heat:
        montage.save(
            heat, coloured(bits_map(model, results[0][2].images[0])), origin("compress", model, image=images[0])
        )
    _print(model, results, json)


def _names(images: tuple[str, ...]) -> list[str]:
    names = [Path(image).name.replace(":", "-") for image in images]
    stems = [name.rsplit(".", 1)[0] for name in names]
    chosen = [stem if stems.count(stem) == 1 else name for stem, name in zip(stems, names, strict=True)]
    if len(set(chosen)) < len(chosen):
        raise UsageError("Several images have the same name: compress them with --out to different files.")
    return [name + ENDING for name in chosen]


def _print(model: Any, results: list[tuple[str, Path, Any, dict[str, int]]], json: bool) -> None:
    columns = list(dict.fromkeys(kind for *_, formats in results for kind in formats))
    rows = []
    for name, path, compressed, formats in results:
        values = sum(image.size for image in compressed.images)
        cells = [f"{8 * formats[kind] / values:.3f}" if kind in formats else "-" for kind in columns]
        rows.append([name, str(path), f"{len(compressed.data):,}", f"{compressed.bits_per_dim:.3f}", *cells])
    total = {kind: sum(formats.get(kind, 0) for *_, formats in results) for kind in columns}
    size = sum(len(compressed.data) for _, _, compressed, _ in results)
    values = sum(image.size for _, _, compressed, _ in results for image in compressed.images)
    portable = all(compressed.portable for _, _, compressed, _ in results)
    content = {
        "files": [str(path) for _, path, _, _ in results],
        "bytes": [len(compressed.data) for _, _, compressed, _ in results],
        "bits_per_dim": 8 * size / values,
        "ideal_bits": sum(compressed.bits for _, _, compressed, _ in results),
        "formats": {kind: {"bytes": total[kind], "bits_per_dim": 8 * total[kind] / values} for kind in columns},
        "portable": portable,
        "weights": model.loaded_from,
    }
    if not portable:
        note(
            "These files depend on the rounding of this environment: they are decoded surely only on this machine, "
            "with this torch and as many threads. A codec's files are decoded everywhere."
        )
    if json:
        report(True, content)
        return
    table(("image", "file", "bytes", "bits/dim", *columns), rows, right=("bytes", "bits/dim", *columns))
    beside = ", ".join(f"{100 * (1 - size / total[kind]):.1f} % under {kind}" for kind in columns if total[kind] > size)
    more = ", ".join(f"{100 * (size / total[kind] - 1):.1f} % over {kind}" for kind in columns if total[kind] <= size)
    lines = "; ".join(filter(None, (beside, more)))
    report(False, {}, f"{size:,} bytes, {8 * size / values:.3f} bits per dimension{': ' if lines else ''}{lines}")


def decompress(
    files: Positional[Annotated[tuple[str, ...], arg(metavar="FILE ...")]],
    /,
    run: str | None = None,
    out: str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """The images of compressed files, bit for bit, as PNG.

    Example: reverie decompress photo.rvc --run runs/codec-photos.

    Args:
        files: written by `reverie compress`.
        run: the run that compressed them.
        out: the image (.png ...), or a folder where images are several; by default the file's name with .png, or a
            folder of its name.
        overwrite: replace a file that reverie did not write.
        json: print {"files", "number", "weights"}.
    """
    from reverie.compression.compress import decompress as decompressed
    from reverie.compression.format import unpack
    from reverie.core.files import is_file
    from reverie.inference.origin import origin
    from reverie.media import montage
    from reverie.media.origin import fresh_folder

    if not files:
        raise UsageError("Name the files to decompress.")
    headers = {}
    for file in files:
        if not is_file(file):
            raise UsageError(f"There is no file {file!r:.200}.")
        headers[file], _ = unpack(Path(file).read_bytes(), file)
    if run is None:
        first = next(iter(headers.values()))
        raise UsageError(
            f"{files[0]} was compressed by a run of {first.model} with weights {first.weights.hex()}: name it with "
            "--run."
        )
    many = {file: len(header.sizes) > 1 for file, header in headers.items()}
    single = len(files) == 1 and not many[files[0]] and not (out and Path(out).is_dir())
    written: list[str] = []
    paths = {}
    for file in files:
        name = Path(file).name.removesuffix(ENDING) + ("" if many[file] else ".png")
        where = out if single or (len(files) == 1 and many[file]) else str(Path(out or ".") / name)
        paths[file] = target(where, name, overwrite, ("", ".png") if many[file] else (), others=files)
    model = load(run)
    with bar(True) as progress:
        for file in files:
            images = decompressed(file, model, progress)
            note_ = origin("decompress", model, file=Path(file).name, number=len(images))
            if many[file]:
                folder = fresh_folder(paths[file], note_, overwrite)
                destinations = [folder / f"{index:06d}.png" for index in range(len(images))]
            else:
                destinations = [paths[file]]
            for path, image in zip(destinations, images, strict=True):
                montage.save(path, image, note_)
            written += map(str, destinations)
    result = {"files": written, "number": len(written), "weights": model.loaded_from}
    where = written[0] if len(written) == 1 else f"{Path(written[0]).parent}"
    report(json, result, f"{len(written)} image{'s' * (len(written) > 1)}, bit for bit, in {where}")
