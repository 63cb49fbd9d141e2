"""Films in files and folders of frames: clips, in one split each, and what is said of the rest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reports import by_kind, by_name
from small_pictures import pixels, save

import reverie as rv
from reverie.cli import main
from reverie.core.errors import ReverieError, UsageError
from reverie.data import decoding, open_like, reopen
from reverie.data.batches import Batches
from reverie.media import films, montage


def frames_of(seed: int, number: int, size: int = 12) -> list[Image.Image]:
    """A grey picture whose corner tells the number of the frame."""
    frames = []
    for index in range(number):
        array = pixels(seed, size, size, 1)[..., 0].copy()
        array[:4, :4] = 8 * index
        frames.append(Image.fromarray(array))
    return frames


def film(path: Path, seed: int, number: int = 12, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = frames_of(seed, number)
    options = {"lossless": True} | options if path.suffix == ".webp" else options
    first.save(path, save_all=True, append_images=rest, duration=50, **options)
    return path


def films_of(folder: Path, films: int = 10, ending: str = ".png", first: int = 0, **options) -> Path:
    for seed in range(first, first + films):
        film(folder / f"{seed}{ending}", seed, **options)
    return folder


@pytest.mark.parametrize("ending", [".gif", ".png", ".webp"])
def test_clips_are_the_films_frames_in_windows_that_do_not_overlap(tmp_path: Path, ending: str) -> None:
    data = rv.open_data(films_of(tmp_path / "d", ending=ending), medium="video", frames=3, stride=2)
    clips = by_name(data)
    assert data.spec.medium == "video" and data.spec.shape == (3, 12, 12) and data.spec.channels == 1
    assert len(clips) == 20 and {name.partition(":")[2] for name in clips} == {"0", "6"}
    expected = np.stack([np.asarray(frame) for frame in frames_of(4, 12)])[[6, 8, 10]]
    assert np.array_equal(clips[f"4{ending}:6"][..., 0], expected)
    assert "10 films into 20 clips of 3 frames, stride 2; 0 frames" in by_kind(data)["clips"]


def test_a_folder_of_frames_is_a_film_in_the_natural_order_of_its_files(tmp_path: Path) -> None:
    for seed in range(9):
        folder = tmp_path / "d" / f"film {seed}"
        folder.mkdir(parents=True)
        for index, frame in enumerate(frames_of(seed, 20)):
            frame.save(folder / f"f{index}.png")  # f10 sorts before f2
    (tmp_path / "d" / "film 3.txt").write_text("the third")
    data = rv.open_data(tmp_path / "d", medium="video", frames=6)
    clips = by_name(data)
    assert len(clips) == 27 and clips["film 3:6"][:, 0, 0, 0].tolist() == [48, 56, 64, 72, 80, 88]
    assert sum(text == "the third" for split in (data.train, data.held_out) for text in split["text"]) == 3
    flat = rv.open_data(tmp_path / "d" / "film 0", medium="video", frames=2)  # the folder is one film
    assert len(flat.train) + len(flat.held_out) == 10


def test_class_folders_captions_tables_and_splits_of_films_are_read_as_those_of_images(tmp_path: Path) -> None:
    for index, folder in enumerate(("train/cats", "train/dogs", "test/cats", "test/dogs")):
        films_of(tmp_path / folder, 5, first=5 * index)
    (tmp_path / "train" / "cats" / "3.txt").write_text("a cat")
    (tmp_path / "metadata.csv").write_text("file_name,text,age\ntrain/dogs/7.png,a dog,7\n")
    data = rv.open_data(tmp_path, medium="video", frames=4)
    assert data.classes == ["cats", "dogs"] and data.attributes == ["age"]
    assert {name.partition("/")[0] for name in data.held_out.names} == {"test"}
    texts = dict(zip(data.train.names, data.train["text"], strict=True))
    assert texts["train/cats/3.png:4"] == "a cat" and texts["train/dogs/7.png:8"] == "a dog"
    for name, label in zip(data.train.names, data.train.labels, strict=True):
        assert data.classes[label] in name


def test_clips_of_a_film_and_of_a_film_that_looks_the_same_are_on_one_side(tmp_path: Path) -> None:
    for seed in range(12):
        film(tmp_path / f"{seed}.png", seed)
        film(tmp_path / f"again {seed}.png", seed, number=13)
    data = rv.open_data(tmp_path, medium="video", frames=4, held_out=0.4)
    train, held_out = (
        {name.partition(".")[0].split()[-1] for name in split.names} for split in (data.train, data.held_out)
    )
    assert train and held_out and not train & held_out
    near = [problem for problem in data.report.problems if problem.kind == "near-duplicate"]
    assert near and all(p.file.split(":")[0] != p.action.split("looks like ")[1].split(":")[0] for p in near)


def test_one_film_is_split_in_time_and_that_is_said(tmp_path: Path) -> None:
    data = rv.open_data(film(tmp_path / "one.png", 0, number=31), medium="video", frames=3, held_out=0.3)
    assert [int(name.partition(":")[2]) for name in data.held_out.names] == [21, 24, 27]
    assert "the last 3 clips held out" in by_kind(data)["one-film"]
    assert "1 frame at" in by_kind(data)["clips"]


def test_short_films_copies_damaged_films_and_stills_beside_films_are_skipped_and_said(tmp_path: Path) -> None:
    films_of(tmp_path / "d", 10)
    film(tmp_path / "d" / "short.png", 40, number=3)
    (tmp_path / "d" / "copy.png").write_bytes((tmp_path / "d" / "0.png").read_bytes())
    (tmp_path / "d" / "empty.gif").touch()
    (tmp_path / "d" / "text.gif").write_text("no film")
    whole = film(tmp_path / "d" / "cut.webp", 41).read_bytes()
    (tmp_path / "d" / "cut.webp").write_bytes(whole[: len(whole) // 2])
    save(tmp_path / "d" / "cover.jpg", 42)
    data = rv.open_data(tmp_path / "d", medium="video", frames=4)
    problems = {problem.file: problem for problem in data.report.problems}
    assert len(by_name(data)) == 30
    assert problems["short.png"].action == "skipped: 3 frames, and a clip of 4 with stride 1 needs 4"
    assert problems["copy.png"].kind == "duplicate" or problems["0.png"].kind == "duplicate"
    assert (problems["empty.gif"].kind, problems["text.gif"].kind) == ("zero-byte", "not-an-image")
    assert any(p.file.startswith("cut.webp") and p.kind == "truncated" for p in data.report.problems)
    assert "1 still beside films" in problems["./"].action
    with pytest.raises(ReverieError, match=r"0 usable clips.*12 frames, and a clip of 13 with stride 1 needs 13"):
        rv.open_data(tmp_path / "d", medium="video", frames=13)


def test_a_clip_that_cannot_be_decoded_is_skipped_and_the_others_of_its_film_are_used(tmp_path: Path) -> None:
    for seed in range(6):
        for index, frame in enumerate(frames_of(seed, 8)):
            (tmp_path / str(seed)).mkdir(exist_ok=True)
            frame.save(tmp_path / str(seed) / f"{index}.png")
    broken = tmp_path / "3" / "5.png"
    broken.write_bytes(broken.read_bytes()[:-40])  # its header is whole
    data = rv.open_data(tmp_path, medium="video", frames=4)
    assert {"3:0"} == {name for name in by_name(data) if name.startswith("3:")} and len(by_name(data)) == 11
    assert ("3:4", "truncated") in {(p.file, p.kind) for p in data.report.problems}


def test_an_interrupted_build_goes_on_within_a_film_and_equals_one_in_one_go(tmp_path: Path, monkeypatch) -> None:
    folder = films_of(tmp_path / "d", number=20)
    whole = rv.open_data(folder, medium="video", frames=2)
    monkeypatch.setenv("REVERIE_HOME", str(tmp_path / "other"))
    monkeypatch.setattr(decoding, "CHUNK", 7)  # a film has 6 clips

    def stop(done: int, total: int, what: str) -> None:
        if what == "decoding" and done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rv.open_data(folder, medium="video", frames=2, progress=stop)
    again = rv.open_data(folder, medium="video", frames=2)
    assert again.fingerprint == whole.fingerprint and again.train.names == whole.train.names
    assert np.array_equal(again.train["x"], whole.train["x"])


@pytest.mark.parametrize("change", ["another film", "another frame", "gone", "a frame gone"])
def test_films_that_change_or_vanish_while_they_are_decoded_are_an_error_and_nothing_is_kept(
    tmp_path: Path, reverie_home: Path, change: str
) -> None:
    films_of(tmp_path / "d")
    for index, frame in enumerate(frames_of(50, 12)):
        (tmp_path / "d" / "still").mkdir(exist_ok=True)
        frame.save(tmp_path / "d" / "still" / f"{index}.png")

    def alter(done: int, total: int, what: str) -> None:
        if what == "reading" and done == total:
            path = tmp_path / "d" / ("still/11.png" if "frame" in change else "3.png")
            if "gone" in change:
                path.unlink()
            elif "frame" in change:
                frames_of(60, 1)[0].save(path)
            else:
                film(path, 60)

    with pytest.raises(ReverieError, match=r"changed while the data was read, such as (3\.png|still):0"):
        rv.open_data(tmp_path / "d", medium="video", frames=4, stride=2, progress=alter)  # frame 11 is in no clip
    assert not [path for path in reverie_home.glob("stores/*") if path.is_dir()]
    assert len(by_name(rv.open_data(tmp_path / "d", medium="video", frames=4))) >= 27


def test_a_long_film_is_decoded_clip_by_clip_as_a_short_one(tmp_path: Path, monkeypatch) -> None:
    folder = films_of(tmp_path / "d")
    whole = by_name(rv.open_data(folder, medium="video", frames=4))
    monkeypatch.setenv("REVERIE_HOME", str(tmp_path / "other"))
    monkeypatch.setattr("reverie.data.clips.SMALL_FILM", 0)
    streamed = by_name(rv.open_data(folder, medium="video", frames=4))
    assert all(np.array_equal(whole[name], streamed[name]) for name in whole.keys() | streamed.keys())


@pytest.mark.parametrize("options", [{}, {"frames": 4}, {"frames": 3, "stride": 2, "size": (8, 10)}, {"size": "5x8x8"}])
def test_provenance_reopens_films_with_every_option(tmp_path: Path, options: dict) -> None:
    folder = films_of(tmp_path / "d", 20, number=17)
    data = rv.open_data(folder, medium="video", held_out=0.2, **options)
    record = json.loads(json.dumps(data.provenance))
    again = reopen(record)
    assert again.fingerprint == data.fingerprint and again.provenance == data.provenance
    assert {k: v for k, v in record["requested"].items() if k != "size"} == {
        k: options[k] for k in options if k != "size"
    }
    assert open_like(films_of(tmp_path / "more", 12, first=60, number=17), record).spec == data.spec
    part = rv.open_data(f"{folder}:train", medium="video", held_out=0.2, **options)
    assert sorted(part.train.names + part.held_out.names) == sorted(data.train.names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 4}, "frames is for clips"),
        ({"medium": "video", "frames": 1}, "at least 2"),
        ({"medium": "video", "frames": 4, "size": (5, 8, 8)}, "frames is 4, and size has 5"),
        ({"medium": "video", "low": 0, "high": 1}, "holds films"),
        ({"medium": "video", "stride": 1.5}, "at least 1"),
    ],
)
def test_options_that_do_not_fit_films_are_refused(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rv.open_data(films_of(tmp_path / "d", 1), **options)


def test_arrays_of_clips_keep_their_frames(tmp_path: Path) -> None:
    clips = np.random.default_rng(0).integers(0, 256, (12, 5, 6, 6), np.uint8)
    with pytest.raises(UsageError, match="keeps its 5 frames"):
        rv.open_data(clips, medium="video", frames=4)
    assert "clips already" in by_kind(rv.open_data(clips, medium="video", stride=2))["clips"]


def test_films_opened_as_images_are_their_first_frames_and_the_report_names_the_flag(tmp_path: Path) -> None:
    data = rv.open_data(films_of(tmp_path / "d", ending=".gif"))
    assert (
        data.spec.medium == "image" and by_kind(data)["animated"] == "used: the first frame; --medium video takes all"
    )
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.mp4").write_bytes(b"film")
    with pytest.raises(ReverieError, match=r"0 usable images.*medium='video' reads \.mp4 files"):
        rv.open_data(tmp_path / "v")
    with pytest.raises(UsageError, match="medium='video' reads it"):
        rv.open_data(tmp_path / "v" / "a.mp4")


def test_a_model_trains_on_a_folder_of_films(tmp_path: Path, capsys) -> None:
    folder = str(films_of(tmp_path / "d", 12, ending=".gif"))
    with pytest.raises(SystemExit) as ended:
        main(["data", folder, "--medium", "video", "--frames", "4", "--stride", "2"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0 and "12 usable videos of 4x12x12x1" in printed
    assert "--medium video --frames 4 --stride 2" in printed.splitlines()[-1]
    how = {"medium": "video", "frames": 4, "stride": 2}
    run = rv.train("toys.linear:Linear", folder, **how, out=tmp_path / "run", steps=1, batch_size=8, quiet=True)
    assert run.info["data"]["requested"] == {"frames": 4, "stride": 2}
    assert rv.sample(run, 2).shape == (2, 4, 12, 12, 1)
    data = reopen(run.info["data"])
    assert Batches(data.train, 4, seed=0)(0)["x"].shape == (4, 1, 4, 12, 12)


# Video files


def test_without_the_extra_video_files_are_named_with_the_command_that_installs_it(tmp_path: Path, monkeypatch) -> None:
    def missing() -> None:
        raise ReverieError("mp4 films need an extra: pip install 'reverie[video]'")

    monkeypatch.setattr(montage, "mp4_library", missing)
    (tmp_path / "a.mp4").write_bytes(b"film")
    with pytest.raises(ReverieError, match=r"1 needs-extra.*pip install 'reverie\[video\]'"):
        rv.open_data(tmp_path, medium="video")
    films_of(tmp_path)
    assert by_kind(rv.open_data(tmp_path, medium="video", frames=4))["needs-extra"].startswith(
        "skipped: mp4 films need"
    )


def test_video_files_are_cut_by_the_number_of_the_frame(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    for seed in range(2):
        frames = np.stack([np.full((16, 16, 3), 20 * index, np.uint8) for index in range(11)])
        frames[:, :8] = pixels(seed, 16, 8)
        montage.save_film(tmp_path / "d" / f"{seed}.mp4", frames, 1.0)
    (tmp_path / "d" / "damaged.mp4").write_bytes((tmp_path / "d" / "1.mp4").read_bytes()[:400])
    width, height, number = films.video_size(str(tmp_path / "d" / "0.mp4"))
    assert number == 11 and width == height
    data = rv.open_data(tmp_path / "d", medium="video", frames=2, size=16)
    clips = by_name(data)
    assert len(clips) == 10 and {p.kind for p in data.report.problems if p.file == "damaged.mp4"} == {"truncated"}
    levels = clips["0.mp4:4"][:, 12:, :, 0].mean((1, 2))
    assert np.abs(levels - [80, 100]).max() < 6
