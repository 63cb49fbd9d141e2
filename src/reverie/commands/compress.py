"""The verbs that compress images without loss, and decompress them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from reverie.commands.shared import ImageNames, RunName, bar, load, note, report, table, target
from reverie.core.errors import UsageError, argument
from reverie.core.files import is_file
from reverie.core.values import integer

_LOSSLESS = (".png", ".tif", ".tiff")


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
        out: the file (.rvc), or a folder; by default the image's name with .rvc, in the working folder.
        map: of one image and a codec: where its bits are, as an image (.png ...).
        formats: measure PNG, WebP and JPEG XL, too.
        overwrite: replace a file that is there.
        json: print {"files", "bytes", "input_bytes", "bits_per_dim", "ideal_bits", "formats", "portable", "weights"}.
    """
    from reverie.compression import compress as module
    from reverie.compression.format import ENDING, is_compressed
    from reverie.compression.heat import bits_map, check_portable, picture
    from reverie.compression.inputs import check_reference, open_data_images
    from reverie.inference.origin import origin
    from reverie.media import montage

    if bool(images) == bool(data):
        raise UsageError("Name images to compress, or --data with a data set, and not both.")
    if map and len(images) != 1:
        raise UsageError("--map draws the bits of one image: name one.")
    if number is not None and integer(argument("number"), number, 1) and not data:
        raise UsageError("--number is of --data: name the images themselves.")
    images = tuple(dict.fromkeys(images))
    for image in images:
        check_reference(image)
    names = [(Path(image).stem if is_file(image) else image.replace(":", "-"), ENDING) for image in images]
    paths = list[Path]()
    for path in _paths(names or [(Path(str(data)).name.split(":")[0], ENDING)], out):
        if path.suffix.lower() != ENDING:
            raise UsageError(f"--out {path}: compressed files end in {ENDING}, and a folder that is not there in /.")
        if not overwrite and is_compressed(path):
            raise UsageError(
                f"--out {path} is there already and may be the only copy of its images. Replace it: --overwrite."
            )
        paths.append(target(str(path), "", overwrite, (ENDING,), others=(*images, *paths)))
    heat = target(map, "", overwrite, (), "map", others=(*images, *paths)) if map else None
    model = load(run)
    if heat:
        check_portable(model)
    results = []
    with bar(True) as progress:
        for name, path in zip(images or (str(data),), paths, strict=True):
            content = name if images else open_data_images(model, name, split, number)
            compressed = module.compress(model, content, progress)
            compressed.save(path)
            results.append((name, path, compressed, compressed.formats() if formats else {}))
    if heat:
        heat_map = picture(bits_map(model, results[0][2].images[0]))
        montage.save(heat, heat_map, origin("compress", model, image=images[0]))
    _print(model, results, json)


def _paths(names: Sequence[tuple[str, str]], out: str | None) -> list[Path]:
    """Where results of these names and endings go: to ``out``, below it, or, without it, in the working folder.

    Equal names are numbered, as x.rvc, x-2.rvc; without ``out``, names of what is there already are left out, too.
    """
    from reverie.media.origin import ending_of

    if out is not None and not (out.endswith(("/", os.sep)) or Path(out).is_dir()):
        if len(names) == 1:
            return [Path(out)]
        if ending_of(out):
            raise UsageError(f"--out {out}: several images are several files, so --out is a folder.")
    paths = list[Path]()
    for stem, ending in names:
        path, number = Path(out or "", stem + ending), 1
        while path in paths or (out is None and os.path.lexists(path)):
            number += 1
            path = Path(out or "", f"{stem}-{number}{ending}")
        paths.append(path)
    return paths


def _print(model: Any, results: list[tuple[str, Path, Any, dict[str, int]]], json: bool) -> None:
    columns = list(dict.fromkeys(kind for *_, formats in results for kind in formats))
    rows, inputs = list[list[str]](), list[int | None]()
    for name, path, compressed, formats in results:
        values = sum(image.size for image in compressed.images)
        inputs.append(Path(name).stat().st_size if is_file(name) else None)
        cells = [f"{8 * formats[kind] / values:.3f}" if kind in formats else "-" for kind in columns]
        original = "-" if inputs[-1] is None else f"{inputs[-1]:,}"
        rows.append([name, original, str(path), f"{len(compressed.data):,}", f"{compressed.bits_per_dim:.3f}", *cells])
        if compressed.bits > 8 * values:
            note(f"{path} takes more than the {values:,} bytes of the pixels: {name} is unlike the training data.")
    total = {kind: sum(formats.get(kind, 0) for *_, formats in results) for kind in columns}
    size = sum(len(compressed.data) for _, _, compressed, _ in results)
    values = sum(image.size for _, _, compressed, _ in results for image in compressed.images)
    portable = all(compressed.portable for _, _, compressed, _ in results)
    content = {
        "files": [str(path) for _, path, _, _ in results],
        "bytes": [len(compressed.data) for _, _, compressed, _ in results],
        "input_bytes": inputs,
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
    right = ("file bytes", "bytes", "bits/dim", *columns)
    table(("image", "file bytes", "written", "bytes", "bits/dim", *columns), rows, right)
    beside = "; ".join(f"{_compared(size / total[kind])} {kind}" for kind in columns)
    report(False, {}, f"{size:,} bytes, {8 * size / values:.3f} bits per dimension{': ' * bool(beside)}{beside}")


def _compared(ratio: float) -> str:
    if ratio > 2:
        return f"{ratio:.1f} times"
    return f"{100 * abs(ratio - 1):.1f} % {'under' if ratio < 1 else 'over'}"


def decompress(
    files: Positional[Annotated[tuple[str, ...], arg(metavar="FILE ...")]],
    /,
    run: str | None = None,
    out: str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """The images of compressed files, bit for bit, as PNG or TIFF.

    Example: reverie decompress photo.rvc --run runs/codec-photos.

    Args:
        files: written by `reverie compress`.
        run: the run that compressed them.
        out: the image (.png, .tif), or a folder; by default the file's name with .png, or a folder of its name where it
            holds several images, in the working folder.
        overwrite: replace a file that reverie did not write.
        json: print {"files", "number", "weights"}.
    """
    from reverie.compression.compress import check_weights, opened
    from reverie.compression.compress import decompress as decompressed
    from reverie.compression.format import ENDING
    from reverie.inference.origin import origin
    from reverie.media import montage
    from reverie.media.origin import ending_of, fresh_folder

    if not files:
        raise UsageError("Name the files to decompress.")
    unique = dict[str, str]()
    for file in files:
        unique.setdefault(os.path.realpath(file), file)
    files = (*unique.values(),)
    headers = {file: opened(file)[0] for file in files}
    if run is None:
        first = headers[files[0]]
        raise UsageError(
            f"{files[0]} was compressed by a run of {first.model} with weights {first.weights.hex()}. Name that run's "
            f"folder, such as --run runs/{first.model}-fashion; `reverie runs` lists those in runs."
        )
    many = {file: len(headers[file].shapes) > 1 for file in files}
    names = [(Path(file).name.removesuffix(ENDING), "" if many[file] else ".png") for file in files]
    into = [Path(out)] if out and len(files) == 1 and many[files[0]] else _paths(names, out)
    paths = dict[str, Path]()
    for file, path in zip(files, into, strict=True):
        if many[file] and ending_of(path):
            raise UsageError(f"{file} holds {len(headers[file].shapes)} images: --out is a folder, not {path}.")
        if not many[file] and path.suffix.lower() not in _LOSSLESS:
            raise UsageError(f"--out {path}: only {', '.join(_LOSSLESS)} keep every pixel; a new folder ends in /.")
        paths[file] = target(str(path), "", overwrite, ("",) if many[file] else (), others=(*files, *paths.values()))
    model, written = load(run), list[str]()
    for file, header in headers.items():
        check_weights(model, header, file)
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
    folders = ", ".join(dict.fromkeys(str(Path(path).parent) for path in written))
    where = f"1 image, bit for bit, in {written[0]}" if len(written) == 1 else None
    report(json, result, where or f"{len(written)} images, bit for bit, in {folders}")
