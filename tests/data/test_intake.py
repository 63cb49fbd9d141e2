"""The forgiving door: every trouble is told, none stops the work."""

from __future__ import annotations

import io
import json
import re
import warnings
from pathlib import Path

import messy
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from small_pictures import fill, pixels, save

import reverie.data
from reverie.media.decode import Form, Unusable, decode, inspect

FORM = Form((16, 16), 3, "crop", (255, 255, 255))


def kinds(dataset_or_report) -> set[tuple[str, str]]:
    report = getattr(dataset_or_report, "report", dataset_or_report)
    return {(problem.file, problem.kind) for problem in report.problems}


def test_a_messy_folder_is_used_and_every_trouble_is_reported(tmp_path: Path) -> None:
    expected = messy.make(tmp_path / "messy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = reverie.data(tmp_path / "messy")
    assert len(set(expected.values())) >= 16
    assert set(expected.items()) <= kinds(dataset)
    assert all(name in {*dataset.train.names, *dataset.held_out.names} for name in ("dot.png", "写真 صورة 🖼️ é.png"))
    json.dumps(dataset.summary()).encode("utf-8")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_no_file_vanishes_without_a_word(tmp_path: Path) -> None:
    messy.make(tmp_path / "messy")
    dataset = reverie.data(tmp_path / "messy")
    spoken = {*dataset.train.names, *dataset.held_out.names} | {problem.file for problem in dataset.report.problems}
    assert {path.name for path in (tmp_path / "messy").iterdir() if path.name.isprintable()} <= spoken | {
        "notes.doc",
        "loop",
    }


def test_remarks_count_files_and_name_what_is_about_the_set(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    save(tmp_path / "c.png", 50, 20, 30)
    (tmp_path / "notes.doc").write_text("?")
    assert reverie.data(tmp_path).report.in_words() == "2 zero-byte; ignored, mixed-sizes"


def test_one_of_each_is_in_the_singular(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("table", "films", "volumes", "few", "labels")]
    table, films, volumes, few, labels = folders
    fill(table, 12)
    rows = [f"{i:04d}.png,a,{i}" for i in range(11)] + ["0011.png,b,c,", "0003.png,d,3,5,6", "none.png,x,1", ",y,2"]
    (table / "metadata.csv").write_text("\n".join(["file_name,text,age", *rows]))
    (table / "0004.txt").write_text("beside")
    (table / "notes.doc").write_text("?")
    for seed in range(9):
        frames = [Image.fromarray(pixels(10 * seed + i)) for i in range({0: 1, 8: 5}.get(seed, 4))]
        films.mkdir(exist_ok=True)
        frames[0].save(films / f"{seed}.gif", save_all=True, append_images=frames[1:])
    volumes.mkdir()
    for seed in range(8):
        np.save(volumes / f"{seed}.npy", np.random.default_rng(seed).normal(0, 1 + 9 * (seed == 0), (4, 6, 6)))
    save(few / "1.png", 1)
    fill(labels, 12)
    labelled = [json.dumps({"file_name": f"{i:04d}.png", "label": 7 if i else -1}) for i in range(12)]
    (labels / "metadata.jsonl").write_text("\n".join(labelled))
    reports = [reverie.data(table).report, reverie.data(labels).report]
    reports += [reverie.data(films, medium="video", frames=4).report, reverie.data(volumes, medium="volume").report]
    with pytest.raises(reverie.core.errors.ReverieError, match="1 usable image;") as caught:
        reverie.data(few)
    lines = [line for report in reports for line in (report.read_as, *(p.action for p in report.problems))]
    lines.append(str(caught.value))
    assert sum(bool(re.search(r"\b1 [a-z]", line)) for line in lines) >= 8, lines
    assert [line for line in lines if re.search(r"\b1 (?!class\b)([a-z]+ )?[a-z]+s\b", line)] == []


def test_fewer_than_eight_images_is_an_error_that_carries_the_report(tmp_path: Path) -> None:
    fill(tmp_path / "few", 7)
    (tmp_path / "few" / "x.png").write_bytes(b"")
    with pytest.raises(reverie.core.errors.ReverieError, match="7 usable") as caught:
        reverie.data(tmp_path / "few")
    assert ("x.png", "zero-byte") in kinds(caught.value.report)


def test_too_few_after_decoding_is_the_same_error(tmp_path: Path) -> None:
    fill(tmp_path / "few", 7)
    content = save(tmp_path / "other.png", 50, 90, 90).read_bytes()
    (tmp_path / "few" / "cut.png").write_bytes(content[:2000])
    with pytest.raises(reverie.core.errors.ReverieError, match="7 usable") as caught:
        reverie.data(tmp_path / "few")
    assert ("cut.png", "truncated") in kinds(caught.value.report)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_extreme_shapes_do_not_crash(size: tuple[int, int], fit: str) -> None:
    array, notes = decode(messy.encoded(Image.new("RGB", size, "red")), Form((16, 16), 3, fit, (255, 255, 255)))
    assert array.shape == (16, 16, 3) and (array == [255, 0, 0]).all(axis=2).any()
    assert {"tiny", "extreme-aspect"} & {kind for kind, _ in notes}


def test_cropping_to_another_aspect_keeps_the_centre_and_padding_keeps_all() -> None:
    wide = np.zeros((30, 100, 3), np.uint8)
    wide[:, 40:60] = [250, 0, 0]  # the centre fifth is red
    data = messy.encoded(Image.fromarray(wide))
    cropped, _ = decode(data, Form((30, 20), 3, "crop", (0, 0, 0)))
    assert cropped.shape == (30, 20, 3) and (cropped == [250, 0, 0]).all()
    padded, _ = decode(data, Form((60, 100), 3, "pad", (1, 2, 3)))
    assert (padded[15:45] == wide).all() and (padded[:15] == [1, 2, 3]).all() and (padded[45:] == [1, 2, 3]).all()


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3), (640, 480)])
def test_every_shape_is_brought_to_every_shape(size: tuple[int, int], fit: str) -> None:
    data = messy.encoded(Image.new("RGB", size, "red"))
    for shape in ((1, 7), (48, 64), (64, 48), (5, 200)):
        array, _ = decode(data, Form(shape, 3, fit, (255, 255, 255)))
        assert array.shape == (*shape, 3) and (array == [255, 0, 0]).all(axis=2).any()


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    array, notes = decode(messy.encoded(Image.fromarray(ramp)), Form((16, 16), 1, "crop", (0, 0, 0)))
    assert np.abs(array[..., 0].astype(int) - np.arange(256).reshape(16, 16)).max() <= 1
    assert notes[0][0] == "16-bit"


def test_transparency_shows_the_stated_background() -> None:
    clear = messy.encoded(Image.new("RGBA", (16, 16), (9, 9, 9, 0)))
    array, _ = decode(clear, Form((16, 16), 3, "crop", (1, 2, 3)))
    assert (array == [1, 2, 3]).all()


def test_the_exif_orientation_is_applied() -> None:
    from PIL import ImageOps

    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = messy.encoded(Image.fromarray(pixels(3, 16, 16)), "PNG", exif=exif)
        with Image.open(io.BytesIO(data)) as image:
            upright = np.asarray(ImageOps.exif_transpose(image))
        assert (decode(data, FORM)[0] == upright).all()


def test_a_float_image_with_nan_is_used_and_told() -> None:
    values = np.linspace(-3, 5, 256, dtype=np.float32).reshape(16, 16)
    values[0, 0] = np.nan
    array, notes = decode(messy.encoded(Image.fromarray(values), "TIFF"), Form((16, 16), 1, "crop", (0, 0, 0)))
    assert array.max() == 255 and "not finite" in notes[0][1]


def test_padding_keeps_the_whole_image() -> None:
    array, _ = decode(messy.encoded(Image.new("RGB", (32, 16), "red")), Form((16, 16), 3, "pad", (0, 0, 255)))
    assert (array[4:12] == [255, 0, 0]).all() and (array[:4] == [0, 0, 255]).all() and (array[12:] == [0, 0, 255]).all()


def test_a_phones_jpeg_with_a_second_image_inside_is_no_film() -> None:
    double = messy.encoded(messy.example(1), "MPO", save_all=True, append_images=[messy.example(2)])
    assert decode(double, FORM, ".jpg")[1] == []


def test_a_bomb_is_refused_from_its_header() -> None:
    with pytest.raises(Unusable) as caught:
        inspect(messy.bomb())
    assert caught.value.kind == "decompression-bomb"


def test_a_forbidden_file_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reverie.data.items import File

    fill(tmp_path / "d", 10)
    read = File.read

    def forbidden(self: File) -> bytes:
        if self.path.endswith("0003.png"):
            raise PermissionError(13, "Permission denied")
        return read(self)

    monkeypatch.setattr(File, "read", forbidden)
    assert ("0003.png", "unreadable") in kinds(reverie.data(tmp_path / "d"))


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=400),
        st.tuples(
            st.sampled_from(
                [
                    b"\x89PNG\r\n\x1a\n",
                    b"\xff\xd8\xff\xe0",
                    b"GIF89a",
                    b"BM",
                    b"II*\0",
                    b"RIFF",
                    b"P5 4 4 255\n",
                    b"P2\n",
                ]
                + [b"\xff\x0a", b"\0\0\0\x14ftypavif\0\0\0\0avif", b"\0\0\0\x14ftypheic\0\0\0\0heic"]
            ),
            st.binary(),
        ).map(b"".join),
    )
)
def test_random_bytes_never_crash(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            inspect(data)
            array, _ = decode(data, FORM)
            assert array.shape == (16, 16, 3)
        except Unusable as error:
            assert error.action.startswith("skipped")


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]),
    st.integers(0, 10_000),
    st.integers(0, 255),
    st.booleans(),
)
def test_a_damaged_image_never_crashes(form: str, index: int, value: int, cut: bool) -> None:
    data = bytearray(messy.encoded(messy.example(7), form))
    data[index % len(data)] = value
    damaged = bytes(data[: index % len(data)] if cut else data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            inspect(damaged)
            assert decode(damaged, FORM)[0].shape == (16, 16, 3)
        except Unusable:
            pass


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=30)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(NAMES, min_size=10, max_size=12))
def test_any_names_work_and_go_into_json(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    folder = tmp_path_factory.mktemp("names")
    written = 0
    for seed, name in enumerate(sorted(names)):
        try:
            save(folder / f"a{name}.png", seed)
            written += 1
        except (OSError, ValueError):
            continue  # the file system does not take this name
    if len(list(folder.iterdir())) >= 8:
        dataset = reverie.data(folder)
        assert dataset.report.usable == len(list(folder.iterdir()))
        json.dumps(dataset.summary()).encode("utf-8")
        assert all(name.isascii() or name.encode("utf-8") for name in dataset.train.names)
