"""`reverie compress` and `decompress`: where files go, what is refused, what is printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import reverie as rv
from compression_cases import noise, perturbed, smooth
from reverie.commands.compress import _compared
from reverie.compression.compress import compress


@pytest.fixture(scope="module")
def run(noisy_bars, tmp_path_factory):
    out = tmp_path_factory.mktemp("compress") / "codec"
    rv.train("codec", noisy_bars, out=out, steps=30, batch_size=16, quiet=True, width=16, head=8)
    return out


def fresh(threads: int, *arguments, cwd):
    """``reverie ARGUMENTS`` in an interpreter of its own: threads are counted when torch is imported."""
    words = [sys.executable, "-m", "reverie", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=environment)


def test_the_command_line_there_and_back_with_other_threads(run, tmp_path):
    Image.fromarray(smooth(20, 31, 3)).save(tmp_path / "a.png")
    Image.fromarray(noise(6, 5, 4)).save(tmp_path / "b.png")
    done = fresh(1, "compress", run, "a.png", "b.png", "--out", "small", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["portable"] and {"PNG", "WebP"} <= set(result["formats"])
    assert result["bytes"] == [(tmp_path / "small" / f"{name}.rvc").stat().st_size for name in "ab"]
    files = ["small/a.rvc", "small/b.rvc"]
    back = fresh(2, "decompress", *files, "--run", run, "--out", "back", cwd=tmp_path)
    assert back.returncode == 0, back.stderr
    for name in ("a.png", "b.png"):
        assert np.array_equal(*(np.asarray(Image.open(tmp_path / folder / name)) for folder in (".", "back")))


def test_a_split_is_one_file_and_comes_back_as_a_folder(run, noisy_bars, call):
    code, text, _ = call("compress", run, "--data", noisy_bars, "-n", 5, "--out", "bars.rvc")
    assert code == 0 and "under PNG" in text
    code, text, _ = call("decompress", "bars.rvc", "--run", run)
    assert code == 0 and "5 images, bit for bit" in text
    images = [np.asarray(Image.open(f"bars/{index:06d}.png")) for index in range(5)]
    held_out = np.asarray(rv.open_data(noisy_bars).held_out["x"][:5])[..., 0]
    assert np.array_equal(np.stack(images), held_out)
    code, _, error = call("compress", run, "held-out:0", "--out", "bars.rvc")
    assert code == 2 and "is there already" in error
    code, _, error = call("decompress", "bars.rvc")
    assert code == 2 and "--run" in error and "codec" in error
    code, _, _ = call("compress", run, "held-out:0", "--out", "one.rvc", "--map", "map.png", "--no-formats")
    assert code == 0
    with Image.open("map.png") as drawn:
        assert drawn.height == 384  # enlarged, with a colour bar to its right
        assert drawn.width > 384 and drawn.getpixel((drawn.width - 1, 200)) == (255, 255, 255)
    code, _, error = call("compress", run)
    assert code == 2 and "Name images" in error


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """a/x.png and b/x.png, of 20 x 31 RGB and 9 x 7 grey pixels, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name, image in (("a", smooth(20, 31, 3)), ("b", noise(9, 7, 1)[..., 0])):
        Path(name).mkdir()
        Image.fromarray(image).save(f"{name}/x.png")


def test_equal_names_are_numbered_both_ways_and_a_file_named_twice_is_one(run, pictures, call):
    code, text, _ = call("compress", run, "a/x.png", "b/x.png", "a/x.png", "--out", "small", "--no-formats")
    assert code == 0 and "small/x.rvc" in text and "small/x-2.rvc" in text
    Path("other").mkdir()
    Path("small/x-2.rvc").rename("other/x.rvc")
    files = ("small/x.rvc", "other/x.rvc", "./small/x.rvc")
    code, text, _ = call("decompress", *files, "--run", run, "--out", "back")
    assert code == 0 and "2 images, bit for bit, in back" in text
    for back, original in (("back/x.png", "a/x.png"), ("back/x-2.png", "b/x.png")):
        assert np.array_equal(*(np.asarray(Image.open(name)) for name in (back, original)))


def test_a_folder_is_a_folder_for_one_image_too(run, pictures, call):
    Path("there").mkdir()
    for out in ("new/", "there"):
        assert call("compress", run, "a/x.png", "--out", out, "--no-formats")[0] == 0
        assert call("decompress", f"{out.strip('/')}/x.rvc", "--run", run, "--out", f"back-{out}/")[0] == 0
        assert Path(f"back-{out}/x.png").is_file()


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_formats_that_decompress_writes_keep_every_pixel(run, tmp_path, monkeypatch, call, channels, ending):
    monkeypatch.chdir(tmp_path)
    image = noise(6, 5, channels)
    rv.compress(run, image).save("x.rvc")
    assert call("decompress", "x.rvc", "--run", run, "--out", f"x{ending}")[0] == 0
    assert np.array_equal(np.asarray(Image.open(f"x{ending}")), image[..., 0] if channels == 1 else image)


def test_what_would_lose_pixels_or_files_is_refused_before_the_work(run, pictures, call):
    assert call("compress", run, "a/x.png", "--out", "x.rvc", "--no-formats")[0] == 0
    assert call("compress", run, "--data", "fashion", "-n", 2, "--out", "two.rvc", "--no-formats")[0] == 0
    compress(perturbed(1), noise(4, 4, 1)).save("foreign.rvc")
    for words, reason in (
        (("compress", run, "a/x.png", "--out", "b/x.png", "--overwrite"), "compressed files end in .rvc"),
        (("compress", run, "a/x.png", "--out", "x.jpg"), "compressed files end in .rvc"),
        (("compress", run, "b/x.png", "--out", "x.rvc"), "is there already and may be the only copy"),
        (("compress", run, "a/x.png", "b/x.png", "--out", "y.rvc"), "several images are several files"),
        (("compress", run, "a"), "a is a folder. Name its files one by one, or compress a split of them with --data a"),
        (("compress", run, "held-out:-1"), "numbered from 0"),
        (("compress", run, "b/x.png", "none.png"), "There is no image file 'none.png'"),
        (("compress", run, "a/x.png", "-n", "1"), "--number is of --data"),
        (("compress", run, "--data", "fashion", "-n", "-5"), "--number must be at least 1"),
        (("decompress", "x.rvc", "--run", run, "--out", "x.webp"), "only .png, .tif, .tiff keep every pixel"),
        (("decompress", "two.rvc", "--run", run, "--out", "two.png"), "--out is a folder"),
        (("decompress", "x.rvc"), "Name that run's folder"),
        (("decompress", "a"), "is no compressed file"),
        (("decompress", "x.rvc", "foreign.rvc", "--run", run), "foreign.rvc was compressed by codec with weights"),
    ):
        before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
        code, _, error = call(*words)
        assert code == 2 and reason in error, (words, error)
        assert before == {path: path.stat().st_mtime_ns for path in Path().rglob("*")}


def test_a_codec_compresses_data_as_its_source_holds_it(run, pictures, call):
    bits = rv.bits_map(run, "held-out:0")
    assert bits.sum() == pytest.approx(rv.compress(run, "held-out:0").bits)
    names = [Path("many", f"{index}.png") for index in range(12)]
    Path("many").mkdir()
    for index, name in enumerate(names):  # sizes, channels and alpha of all kinds
        Image.fromarray(noise(20 + index, 30, 1 + index % 4).squeeze()).save(name)
    code, _, error = call("compress", run, "--data", "many", "--split", "train", "--out", "many.rvc")
    assert code == 0, error
    assert call("decompress", "many.rvc", "--run", run, "--out", "back")[0] == 0
    backs = {(image := np.asarray(Image.open(name))).shape: image for name in Path("back").glob("*.png")}
    originals = [np.asarray(Image.open(name)) for name in names]
    assert len(backs) > 5
    assert all(any(np.array_equal(back, image) for image in originals) for back in backs.values())


def test_the_image_of_a_pair_side_by_side_is_compressed_at_its_own_size(run, call):
    rights = []
    Path("joined").mkdir()
    for index in range(10):
        tiles = np.random.default_rng(index).integers(0, 256, (6, 6, 3), np.uint8)
        rights.append(tiles.repeat(4 + index % 3, 0).repeat(4 + index % 3, 1))
        Image.fromarray(np.concatenate([255 - rights[-1], rights[-1]], 1)).save(f"joined/{index}.png")
    code, _, error = call("compress", run, "--data", "joined", "--split", "train", "--out", "joined.rvc")
    assert code == 0, error
    assert call("decompress", "joined.rvc", "--run", run, "--out", "back")[0] == 0
    backs = [np.asarray(Image.open(name)) for name in Path("back").glob("*.png")]
    assert len(backs) >= 8 and all(any(np.array_equal(back, right) for right in rights) for back in backs)


def test_the_table_has_the_bytes_of_the_input_and_a_note_of_images_unlike_the_training_data(run, pictures, call):
    code, text, error = call("compress", run, "a/x.png", "b/x.png", "--out", "s/")
    assert code == 0 and f"{Path('a/x.png').stat().st_size:,}" in text and "file bytes" in text
    assert "s/x-2.rvc takes more than the 63 bytes of the pixels" in error
    assert [_compared(ratio) for ratio in (0.9, 1.5, 38.84)] == ["10.0 % under", "50.0 % over", "38.8 times"]


def test_every_folder_of_the_images_is_reported(run, pictures, call):
    assert call("compress", run, "--data", "fashion", "-n", 2, "--out", "two.rvc", "--no-formats")[0] == 0
    assert call("compress", run, "a/x.png", "--no-formats")[0] == 0
    code, text, _ = call("decompress", "two.rvc", "x.rvc", "--run", run, "--out", "mixed")
    assert code == 0 and "3 images, bit for bit, in mixed/two, mixed" in text
