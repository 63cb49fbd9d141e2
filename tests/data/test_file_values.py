"""What the values of files mean: bits, masks, floats, colour profiles; and which files are read at all."""

from __future__ import annotations

import io
import json
import struct
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import icc
import messy
import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin, features
from reports import actions
from small_pictures import fill, pixels, save

import reverie as rv
from reverie.core.errors import ReverieError, UsageError
from reverie.data import reopen
from reverie.media import decode, formats
from reverie.media.decode import Form, Unusable

FORM = Form((24, 24), 3, "crop", (255, 255, 255))


def grey(folder: Path, values: list[np.ndarray], suffix: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, array in enumerate(values):
        Image.fromarray(array).save(folder / f"{i:02}.{suffix}")
    return folder


def coarse(seed: int, most: int, dtype=np.uint16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most + 1, (4, 4)).repeat(6, 0).repeat(6, 1).astype(dtype)


def images(data) -> dict[str, np.ndarray]:
    return {n: x for split in (data.train, data.held_out) for n, x in zip(split.names, split["x"], strict=True)}


def test_twelve_bits_in_sixteen_are_one_range_for_the_set_and_reported(tmp_path: Path) -> None:
    values = [coarse(seed, 4095) for seed in range(11)] + [coarse(99, 700)]  # the last image is dark, and stays so
    data = rv.open_data(grey(tmp_path / "d", values))
    for i, array in enumerate(values):
        expected = np.rint(array / 4095 * 255)
        assert np.abs(images(data)[f"{i:02}.png"][..., 0] - expected).max() <= 1
    (action,) = actions(data, "range")
    assert "0..4095 (12 bits; the largest is" in action and "12 16-bit images" in action and "65535" in action
    full = rv.open_data(tmp_path / "d", low=0, high=65535)
    assert max(x.max() for x in images(full).values()) == 16 and not actions(full, "range")
    assert full.fingerprint != data.fingerprint
    assert reopen(json.loads(json.dumps(full.provenance))).fingerprint == full.fingerprint
    assert reopen(json.loads(json.dumps(data.provenance))).fingerprint == data.fingerprint


def test_sixteen_bits_that_are_filled_stay_as_they_were(tmp_path: Path) -> None:
    values = [coarse(seed, 65535) for seed in range(12)]
    data = rv.open_data(grey(tmp_path / "d", values))
    assert not actions(data, "range") and len(actions(data, "16-bit")) == 12
    assert (images(data)["03.png"][..., 0] == np.floor(values[3] * (255 / 65535) + 0.5)).all()


def test_twelve_bits_in_sixteen_bit_colours(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for seed in range(12):
        deep = np.random.default_rng(seed).integers(0, 4096, (5, 5, 3)).repeat(8, 0).repeat(8, 1).astype(">u2")
        (tmp_path / "d" / f"{seed}.png").write_bytes(
            messy.png(40, 40, 16, 2, b"".join(b"\0" + r.tobytes() for r in deep))
        )
    data = rv.open_data(tmp_path / "d")
    assert max(x.max() for x in images(data).values()) > 230
    assert "only the upper 8 bits" in actions(data, "range")[0]


def test_masks_of_zero_and_one_and_maps_of_labels_are_stretched_over_the_set(tmp_path: Path) -> None:
    masks = [coarse(seed, 1, np.uint8) for seed in range(12)]
    maps = [np.minimum(coarse(seed, 20, np.uint8), 5 if seed == 3 else 20) for seed in range(12)]
    for name, values, top in (("masks", masks, 1), ("maps", maps, max(m.max() for m in maps))):
        data = rv.open_data(grey(tmp_path / name, values))
        assert (images(data)["03.png"][..., 0] == np.rint(values[3] * (255 / top))).all()
        assert "8-bit images; low and high of 0 and 255 keep them" in actions(data, "range")[0]
        kept = rv.open_data(tmp_path / name, low=0, high=255)
        assert (images(kept)["03.png"][..., 0] == values[3]).all() and not actions(kept, "range")
        array = rv.open_data(np.stack(values))
        assert max(x.max() for x in images(array).values()) == 255 and "low" in actions(array, "integer")[0]
    for bright in (40, 255):  # a dark set, and one bright image among masks
        data = rv.open_data(grey(tmp_path / "masks", [np.full((24, 24), bright, np.uint8)]))
        assert images(data)["03.png"].max() == 1
        assert actions(data, "range")[0].startswith("used: 11 of 12 images, such as ")


def test_floats_of_files_share_a_range_and_what_is_not_finite_is_counted(tmp_path: Path) -> None:
    floats = [coarse(seed, 1000).astype(np.float32) / 1000 for seed in range(12)]
    floats[2][0, 0], floats[3][:2, 0] = np.float32(1.0000001), np.nan
    data = rv.open_data(grey(tmp_path / "d", floats, "tiff"))
    assert np.abs(images(data)["05.tiff"][..., 0] - floats[5] * 255).max() <= 1
    assert "1 values beyond it" in actions(data, "range")[0]
    assert [p.file for p in data.report.problems if p.kind == "not-finite"] == ["03.tiff"]
    assert actions(data, "not-finite") == ["converted: 2 of 576 values are not finite; set to 0, black"]
    wide = [8 * array - 3 for array in floats[4:]] + [np.zeros((24, 24), np.float32) + i / 9 for i in range(3)]
    data = rv.open_data(grey(tmp_path / "e", wide, "tiff"))
    assert "-2.96..4.904, the range of the set" in actions(data, "range")[0]
    assert abs(images(data)["09.tiff"].max() - (2.96 + 1 / 9) / 7.864 * 255) <= 1  # not stretched by itself


def test_both_splits_of_an_npz_have_one_range(tmp_path: Path) -> None:
    train, test = np.stack([coarse(i, 4095) for i in range(12)]), np.stack([coarse(20 + i, 900) for i in range(8)])
    np.savez(tmp_path / "d.npz", x_train=train, x_test=test)
    data = rv.open_data(tmp_path / "d.npz")
    assert data.held_out["x"].max() <= 900 / 4095 * 255 + 1 and data.train["x"].max() > 250
    assert "0..4095" in actions(data, "16-bit")[0]


def test_arrays_name_the_rows_that_are_not_finite() -> None:
    x = np.random.default_rng(0).random((20, 8, 8))
    x[3, 0, 0], x[7, :2, 1], x[9, 0, 0] = np.nan, np.inf, 1.0000001
    data = rv.open_data(x)
    assert actions(data, "not-finite")[0].endswith("3 values of rows 3, 7 not finite, set to black")
    assert "0..1, 1 values beyond it (" in actions(data, "float")[0]
    assert 100 < np.mean([image.mean() for image in images(data).values()]) < 155
    with pytest.raises(ReverieError, match=r"not finite: 128 values of rows 2, 3"):
        rv.open_data(np.where(np.isin(np.arange(20), (2, 3))[:, None, None], np.nan, x).clip(0, 1), medium="sequence")


def test_deep_pil_images_are_one_set_too() -> None:
    values = [coarse(seed, 4095) for seed in range(12)]
    data = rv.open_data([Image.fromarray(array) for array in values])
    assert max(x.max() for x in images(data).values()) > 250 and "12 bits" in actions(data, "range")[0]


@pytest.mark.parametrize("suffix", ["avif", "jxl", "pbm", "pfm", "pgm", "pnm", "ppm"])
def test_other_formats_are_read(tmp_path: Path, suffix: str) -> None:
    fill(tmp_path / "d", 8)
    image = Image.fromarray(pixels(9))
    file = tmp_path / "d" / f"x.{suffix}"
    if suffix == "jxl":
        pyjpegxl = pytest.importorskip("pyjpegxl")
        file.write_bytes(pyjpegxl.encode_from_numpy(np.asarray(image), lossless=True))
    elif suffix == "avif":
        if not features.check("avif"):
            pytest.skip("Pillow without AVIF")
        image.save(file, quality=95)
    else:
        mode = {"pbm": "1", "pgm": "L", "pfm": "F"}.get(suffix, "RGB")
        image.convert(mode).save(file, "PPM")
    data = rv.open_data(tmp_path / "d")
    assert data.report.usable == 9 and not actions(data, "misnamed")
    near = {"pbm": 130, "avif": 12}.get(suffix, 1)
    expected = np.asarray(image.convert("L" if suffix in ("pbm", "pgm", "pfm") else "RGB").convert("RGB"), int)
    assert np.abs(images(data)[f"x.{suffix}"].astype(int) - expected).mean() < near


@pytest.mark.parametrize(
    ("head", "package"),
    [
        (b"\xff\x0a\xfa\x1f", r"reverie\[jpegxl\]"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", r"reverie\[heif\]"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", "pillow>=11.3"),
    ],
)
def test_a_missing_decoder_is_named_with_what_to_install(head: bytes, package: str, monkeypatch) -> None:
    monkeypatch.setattr(formats, "_reader", lambda name: None)
    with pytest.raises(Unusable, match=package) as caught:
        decode.inspect(head + bytes(100))
    assert caught.value.kind == "no-decoder"


def test_heic_is_read(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.fromarray(pixels(3, 64, 64))).save(tmp_path / "a.heic", quality=95)
    array, notes = decode.decode((tmp_path / "a.heic").read_bytes(), Form((64, 64), 3, "crop", (0, 0, 0)), ".heic")
    assert np.abs(array.astype(int) - pixels(3, 64, 64)).mean() < 6 and notes == []


def test_long_texts_in_a_png_are_no_damage_and_endless_ones_are_said() -> None:
    for megabytes, kind in ((4, None), (40, "long-text")):
        text = PngImagePlugin.PngInfo()
        text.add_text("workflow", "n" * (megabytes << 20), zip=True)
        data = messy.encoded(Image.fromarray(pixels(3)), pnginfo=text)
        if kind is None:
            assert (decode.decode(data, FORM)[0] == pixels(3)).all()
        else:
            with pytest.raises(Unusable, match="16 MiB") as caught:
                decode.decode(data, FORM)
            assert caught.value.kind == kind


def test_a_colour_profile_is_applied_as_littlecms_does_at_full_size() -> None:
    image = Image.fromarray(pixels(3, 96, 96))
    for profile in (icc.rgb(), icc.rgb(icc.SRGB, 2.4)):
        data = messy.encoded(image, icc_profile=profile)
        expected = ImageCms.profileToProfile(image, io.BytesIO(profile), ImageCms.createProfile("sRGB"), 1)
        array, notes = decode.decode(data, Form((96, 96), 3, "crop", (0, 0, 0)))
        assert np.abs(array.astype(int) - np.asarray(expected, int)).max() <= 1
        assert ("colour-profile", "converted: from Wide RGB to sRGB") in notes
        small, _ = decode.decode(data, FORM)  # recoloured after it is resized: the same but for rounding
        resized = np.asarray(expected.resize((24, 24), Image.Resampling.LANCZOS), int)
        assert np.abs(small.astype(int) - resized).mean() < 1


def test_sRGB_by_any_name_changes_nothing_and_damaged_profiles_are_said() -> None:
    image = Image.fromarray(pixels(3))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    array, notes = decode.decode(messy.encoded(image, icc_profile=srgb), FORM)
    assert (array == pixels(3)).all() and notes == []
    for profile in (b"rubbish", icc.rgb()[:200], icc.grey(), icc.cmyk()):
        array, notes = decode.decode(messy.encoded(image, icc_profile=profile), FORM)
        assert (array == pixels(3)).all() and notes[0][0] == "colour-profile" and "used as it is" in notes[0][1]


def test_profiles_of_grey_transparent_and_printed_images() -> None:
    linear = decode.decode(messy.encoded(Image.new("L", (24, 24), 55), icc_profile=icc.grey(1.0)), FORM)[0]
    assert np.abs(linear.astype(int) - 128).max() <= 3  # 21.6 % of the light
    clear = Image.new("RGBA", (24, 24), (0, 250, 0, 0))
    array, _ = decode.decode(messy.encoded(clear, icc_profile=icc.rgb()), Form((24, 24), 3, "pad", (9, 99, 9)))
    assert (array == (9, 99, 9)).all()  # the background is sRGB already
    padded, _ = decode.decode(
        messy.encoded(Image.new("RGB", (48, 24)), icc_profile=icc.rgb()), Form((24, 24), 3, "pad", (9, 99, 9))
    )
    assert (padded[0] == (9, 99, 9)).all()
    inks = messy.encoded(Image.new("CMYK", (24, 24), (255, 0, 0, 0)), "JPEG", icc_profile=icc.cmyk())
    array, notes = decode.decode(inks, FORM)
    assert np.ptp(array.astype(int), axis=2).max() <= 3 and 120 < array.mean() < 200  # its cyan ink is grey
    assert {kind for kind, _ in notes} == {"cmyk", "colour-profile"}


def test_only_data_with_an_applied_profile_has_another_fingerprint(tmp_path: Path) -> None:
    """Profiles were ignored before: a folder of sRGB images is the data that it was."""
    from reverie.data.plan import fingerprint

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, profile, changed in (("srgb", srgb, []), ("wide", icc.rgb(), ["colour-profile"])):
        for seed in range(12):
            save(tmp_path / name / f"{seed}.png", seed, icc_profile=profile)
        data, plan = rv.open_data(tmp_path / name), _plan(tmp_path / name)
        by_name = {row.item.name: row for row in plan.rows}
        rows = [by_name[name] for split in (data.train, data.held_out) for name in split.names]
        assert fingerprint(plan, rows, [], {"images": 3}, len(data.train), changed) == data.fingerprint


def _plan(folder: Path):
    from reverie.data import intake
    from reverie.data.layouts import list_tree
    from reverie.data.plan import make_plan
    from reverie.data.tree import of_folder

    return make_plan(intake.survey(list_tree(of_folder(folder)), str(folder))[0], FORM, True, 0.1, [])


def test_max_pixels_is_an_option_and_the_report_names_it(tmp_path: Path, monkeypatch) -> None:
    fill(tmp_path / "d", 10)
    save(tmp_path / "d" / "wide.png", 77, 300, 100)
    limited = rv.open_data(tmp_path / "d", max_pixels=10_000)
    assert limited.report.usable == 10
    assert actions(limited, "decompression-bomb")[0].endswith(
        "claims 300 x 100 pixels, over 10,000; max_pixels=30000 reads it"
    )
    assert limited.provenance["requested"]["max_pixels"] == 10_000
    assert rv.open_data(tmp_path / "d").report.usable == 11
    assert reopen(json.loads(json.dumps(limited.provenance))).fingerprint == limited.fingerprint
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's own limit does not count
    assert rv.open_data(tmp_path / "d", size=16, max_pixels=40_000).report.usable == 11
    with pytest.raises(UsageError, match="max_pixels"):
        rv.open_data(tmp_path / "d", max_pixels=0)


def test_decoding_threads_wait_for_one_another(tmp_path: Path, monkeypatch) -> None:
    """With a budget of one image, no two are decoded at once."""
    from reverie.media.budget import Budget

    monkeypatch.setattr(decode, "DECODING", Budget(24 * 24 * 8))
    running, most, lock, load = [0], [0], threading.Lock(), decode._to_8_bits

    def watched(*args):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        try:
            return load(*args)
        finally:
            with lock:
                running[0] -= 1

    monkeypatch.setattr(decode, "_to_8_bits", watched)
    assert rv.open_data(fill(tmp_path / "d", 30)).report.usable == 30 and most == [1]


def test_an_installed_decoder_or_a_newer_version_is_used_at_the_next_opening(tmp_path: Path, monkeypatch) -> None:
    fill(tmp_path / "d", 9)
    with monkeypatch.context() as patch:
        patch.setattr("reverie.data.intake.FRESH_NS", -(10**18))
        inspect = decode.inspect

        def old(data: bytes, *more: Any) -> tuple[int, int]:
            if data == (tmp_path / "d" / "0003.png").read_bytes():
                raise Unusable("no-decoder", "skipped: needs an extra")
            return inspect(data, *more)

        patch.setattr(decode, "inspect", old)
        assert rv.open_data(tmp_path / "d").report.usable == 8
    assert rv.open_data(tmp_path / "d").report.usable == 9


# With transparency, and of halves


def test_a_profile_converts_colours_and_not_their_opacity() -> None:
    opacity = np.full((24, 24), 255, np.uint8)
    opacity[:12] = 0
    clear = Image.fromarray(np.dstack([pixels(3), opacity]))
    kept, notes = decode.decode(messy.encoded(clear, icc_profile=icc.rgb()), replace(FORM, channels=4))
    opaque = decode.decode(messy.encoded(Image.fromarray(pixels(3)), icc_profile=icc.rgb()), FORM)[0]
    assert (kept[12:, :, :3] == opaque[12:]).all() and not kept[:12].any() and (kept[..., 3] == opacity).all()
    assert [kind for kind, _ in notes] == ["colour-profile"]


def test_dark_sprites_are_no_maps_of_labels(tmp_path: Path) -> None:
    for seed in range(12):
        colours = np.full((24, 24, 3), 20, np.uint8)
        save_as = tmp_path / f"{seed}.png"
        Image.fromarray(np.dstack([colours, pixels(seed)[..., 0]])).save(save_as)
    data = rv.open_data(tmp_path, channels=4)
    x = data.train["x"]
    assert x[x[..., 3] == 255][:, :3].max() <= 20 and "range" not in data.report.counts()


def test_grey_of_16_bits_is_opaque_beside_sprites() -> None:
    deep = messy.encoded(Image.fromarray(np.full((24, 24), 65535, np.uint16)))
    array, notes = decode.decode(deep, replace(FORM, channels=4))
    assert (array == 255).all() and {kind for kind, _ in notes} == {"16-bit", "opaque"}


def test_each_half_of_joined_pairs_has_its_own_range(tmp_path: Path) -> None:
    for seed in range(12):
        photo = pixels(seed)[..., 0]
        Image.fromarray(np.hstack([(photo > 99).astype(np.uint8), photo])).save(tmp_path / f"{seed}.png")
    data = rv.open_data(tmp_path, layout="side-by-side")
    source, x = data.train["source"], data.train["x"]
    assert set(np.unique(source)) == {0, 255} and ((x > 99) == (source == 255)).all()


def test_a_half_of_a_wide_jpeg_is_not_decoded_below_four_times_its_size() -> None:
    wide = Image.fromarray(pixels(1, 24, 24)).resize((1024, 512))
    for turned in (1, 6):
        exif = Image.Exif()
        exif[0x0112] = turned
        stored = wide if turned == 1 else wide.transpose(Image.Transpose.ROTATE_90)
        data = messy.encoded(stored, "JPEG", exif=exif)
        full = wide.crop((512, 0, 1024, 512)).resize((64, 64), Image.Resampling.LANCZOS)
        array, _ = decode.decode(data, replace(FORM, shape=(64, 64)), half="right")
        assert abs(array.astype(int) - np.asarray(full)).mean() < 2


@pytest.mark.parametrize("dtype", ["f2", "f8"])
def test_a_tiff_of_floats_that_pillow_does_not_read_is_called_that(dtype: str) -> None:
    values = np.zeros((4, 4), dtype)
    entries = [(256, 4), (257, 4), (258, values.itemsize * 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 4)]
    entries += [(279, values.nbytes), (339, 3)]  # SampleFormat: IEEE floats
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    start = 8 + values.nbytes
    data = b"II*\0" + struct.pack("<I", start) + values.tobytes() + struct.pack("<H", len(entries)) + table + bytes(4)
    with pytest.raises(Unusable, match="Pillow reads no TIFF of these values") as error:
        decode.inspect(data)
    assert error.value.kind == "no-decoder"


def test_floats_in_the_lowest_part_of_0_to_255_have_the_range_of_the_set(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(np.clip(rng.uniform(0, 8, (16, 16)), 0.7, 6.8).astype(np.float32)).save(tmp_path / f"{i}.tif")
    data = rv.open_data(tmp_path)
    assert (data.train["x"].min(), data.train["x"].max()) == (0, 255)
    (action,) = actions(data, "range")
    assert action.startswith("converted: 0.7..6.8, the range of the set, to 0..255 in 12 float images")
    assert rv.open_data(tmp_path, low=0, high=255).train["x"].max() == 7
    with pytest.raises(ReverieError, match="are needed"):
        rv.open_data(np.full((12, 8, 8), 6.8, np.float32) * np.linspace(0.1, 1, 12, dtype=np.float32)[:, None, None])
