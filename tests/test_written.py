"""What is written: every file carries its origin, nothing of the user's is overwritten, long sampling is continued."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image, features

import reverie as rv
from reverie.core.errors import ReverieError, UsageError
from reverie.data.layouts import list_tree
from reverie.data.tree import of_folder
from reverie.inference import sampling
from reverie.inference.sampling import check_memory
from reverie.media import Spec, medium_of, montage, plots
from reverie.media.origin import NOTE, ending_of, of_row, origin_of, seeds_entry
from reverie.media.sheets import labelled_grid
from reverie.training import run as runs_module

GREY = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8, 1)
MADE_BY = {"verb": "sample", "seed": 5, "number": 3, "label": ["a", "b"]}


@pytest.fixture(scope="module")
def runs(bars, tmp_path_factory):
    """Runs of two steps: every command finds one that it can use."""
    folder = tmp_path_factory.mktemp("written")
    shared = {"steps": 2, "batch_size": 8, "quiet": True}
    rv.train("flow-matching", bars, out=folder / "flow", width=8, conditional="label", **shared)
    rv.train("vae", bars, out=folder / "vae", latent=2, net="dense", hidden=(16,), **shared)
    rv.train("stylegan2", bars, out=folder / "style", width=8, latent=8, **shared)
    rv.train("pix2pix", bars, out=folder / "pairs", task="lines", width=8, depth=1, **shared)
    return folder


# command line without its output; the flag of the output, a name for it, and the default name
OUTPUTS = {
    "sample": (["sample", "flow", "-n", "2", "--steps", "1"], "--out", "a.png", "samples.png"),
    "sample-arrays": (["sample", "flow", "-n", "2", "--steps", "1"], "--out", "a.npz", "samples.png"),
    "stream": (["sample", "flow", "-n", "1", "--steps", "1"], "--stream", "a.gif", None),
    "view": (["view", "vae", "samples", "-n", "2"], "--out", "a.png", "samples.png"),
    "forward": (["forward", "flow", "-n", "1", "--columns", "2"], "--out", "a.png", "forward.png"),
    "forward-plot": (["forward", "flow", "-n", "1", "--columns", "2"], "--plot", "a.png", None),
    "reconstruct": (["reconstruct", "vae", "-n", "2"], "--out", "a.jpg", "reconstructions.png"),
    "traverse": (["traverse", "vae", "--columns", "2"], "--out", "a.png", "traverse.png"),
    "mix": (["mix", "style", "--rows", "1", "--columns", "1"], "--out", "a.webp", "mixed.png"),
    "interpolate": (["interpolate", "vae", "seed:1", "seed:2", "--frames", "2"], "--out", "a.webp", "morph.webp"),
    "restore": (["restore", "flow", "inpaint", "-n", "1", "--steps", "2"], "--out", "a.tiff", "restored.png"),
    "restore-stream": (["restore", "flow", "inpaint", "-n", "1", "--steps", "2"], "--stream", "a.webp", None),
    "translate": (["translate", "pairs", "held-out:0"], "--out", "a.png", "translated.png"),
    "anomalies": (["anomalies", "vae", "held-out:0", "--false-alarms", "0.5"], "--out", "a.png", "anomalies.png"),
    "search": (["search", "vae", "held-out:0", "-n", "2"], "--out", "a.npz", "neighbours.png"),
    "rates": (["rates", "vae", "-n", "2"], "--out", "a.png", "rates.png"),
    "runs": (["runs", "."], "--sheet", "a.png", None),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_file_of_the_users_is_refused_and_one_of_ours_is_replaced(runs, call, tmp_path, name):
    command, flag, file, default = OUTPUTS[name]
    words = [str(runs / word) if word in ("flow", "vae", "style", "pairs", ".") else word for word in command]
    verb = words[0]
    (tmp_path / file).write_bytes(b"a photograph")
    code, _, err = call(*words, flag, file)
    assert code == 2 and f"{flag} {file} is there already" in err and "--overwrite" in err
    assert "Weights" not in err and (tmp_path / file).read_bytes() == b"a photograph"  # before any work
    assert call(*words, flag, file, "--overwrite")[0] == 0
    origin, written = origin_of(tmp_path / file), (tmp_path / file).read_bytes()
    assert origin["verb"] == verb and origin["reverie"] == rv.__version__
    if verb != "runs":
        assert origin["weights"]["checkpoint"] == 2 and len(origin["weights"]["sha256"]) == 64
    assert call(*words, flag, file)[0] == 0  # now it is ours
    assert (tmp_path / file).read_bytes() == written  # and depends on the request alone
    if default:
        (tmp_path / default).write_bytes(b"mine")
        code, out, _ = call(*words, "--json")
        second = default.replace(".", "-2.")
        assert code == 0 and json.loads(out)["out"] == second and origin_of(tmp_path / second)["verb"] == verb
        assert (tmp_path / default).read_bytes() == b"mine"
        third = default.replace(".", "-3.")
        assert call(*words)[0] == 0 and (tmp_path / third).read_bytes() == (tmp_path / second).read_bytes()


@pytest.mark.parametrize("name", ["sample", "interpolate", "translate"])
def test_a_folder_of_the_users_is_refused_and_one_of_ours_is_written_again(runs, call, tmp_path, name):
    words = [str(runs / word) if word in ("flow", "vae", "pairs") else word for word in OUTPUTS[name][0]]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "000000.png").write_bytes(b"a photograph")
    for more in ((), ("--overwrite",)):
        code, _, err = call(*words, "--out", "mine", *more)
        assert code == 2 and "--out mine is there already" in err and "Choose an empty or a new folder" in err
    assert (tmp_path / "mine" / "000000.png").read_bytes() == b"a photograph"
    for _ in range(2):
        assert call(*words, "--out", "ours-0.5")[0] == 0  # a dot is no ending where no format ends so
    first = origin_of(tmp_path / "ours-0.5" / "000000.png")
    assert first["verb"] == words[0] == origin_of(tmp_path / "ours-0.5")["verb"]
    if name != "sample":
        rv.sample_into(tmp_path / "samples", runs / "vae", 2)
        code, _, err = call(*words, "--out", "samples")
        assert code == 2 and "reverie wrote it for `sample`" in err and "Weights" not in err
    count = 1 if name == "translate" else 2
    assert len(list((tmp_path / "ours-0.5").iterdir())) == count + 1  # and the note


def test_evaluate_spares_files_of_others_in_its_folder(runs, call, tmp_path):
    words = ["evaluate", runs / "vae", "--metrics", "reconstruction", "--out"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "scores.json").write_text('{"scores": "of a tournament"}')
    code, _, err = call(*words, "mine")
    assert code == 2 and "scores.json is there already" in err and "Weights" not in err
    assert json.loads((tmp_path / "mine" / "scores.json").read_text()) == {"scores": "of a tournament"}
    code, out, err = call(*words, "mine", "--overwrite", "--json")
    assert code == 0 and "Weights of" in err and json.loads(out)["weights"]["checkpoint"] == 2
    assert call(*words, "mine")[0] == 0
    assert origin_of(tmp_path / "mine" / "scores.json")["verb"] == "evaluate"


def test_images_of_a_run_name_its_model_and_step(runs):
    for file in ("samples.png", "reconstructions.png", "loss.png"):
        origin = origin_of(runs / "vae" / file)
        assert origin == {"reverie": rv.__version__, "verb": "train", "run": "vae", "model": "vae", "step": 2}


# Formats


ENDINGS = ["png", "jpg", "webp", "tiff", "gif", "npz", *(["avif"] if features.check("avif") else [])]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_carries_the_origin(tmp_path, ending):
    text = {"text": ['"Größe" \N{SNOWMAN}\n\udc80']}
    images = rv.Images(GREY, seeds=[5, 6, 7], origin=MADE_BY | text)
    images.save(tmp_path / f"a.{ending}")
    assert origin_of(tmp_path / f"a.{ending}") == {"reverie": rv.__version__, **MADE_BY, **text}
    rv.Sheet({"a": images, "b": images}).save(tmp_path / f"b.{ending}")
    assert origin_of(tmp_path / f"b.{ending}")["verb"] == "sample"
    if ending in ("webp", "gif"):
        images.save(tmp_path / f"film.{ending}", seconds=1)
        assert Image.open(tmp_path / f"film.{ending}").n_frames == 3
        assert origin_of(tmp_path / f"film.{ending}")["seed"] == 5
    if ending == "npz":
        with np.load(tmp_path / "a.npz") as archive:  # without pickle
            assert json.loads(str(archive["reverie"]))["number"] == 3


@pytest.mark.parametrize("name", ["a.bmp", "a.ppm", "a.pdf"])
def test_formats_without_metadata_are_never_ours(tmp_path, name):
    rv.Images(GREY, origin=MADE_BY).save(tmp_path / name)
    assert (tmp_path / name).stat().st_size and origin_of(tmp_path / name) is None


def test_an_mp4_carries_its_origin_as_comment(tmp_path, monkeypatch):
    def atom(kind, content):
        return (len(content) + 8).to_bytes(4, "big") + kind + content

    def write_frames(path, size, output_params, **options):
        assert output_params[0] == "-metadata"
        text = output_params[1].removeprefix("comment=").encode()
        data = atom(b"\xa9cmt", atom(b"data", (1).to_bytes(4, "big") + bytes(4) + text))
        metadata = atom(b"udta", atom(b"meta", bytes(4) + atom(b"ilst", data)))
        wide = (1).to_bytes(4, "big") + b"mdat" + (19).to_bytes(8, "big") + b"abc"  # an atom of 64 bits
        Path(path).write_bytes(atom(b"ftyp", b"isom") + wide + atom(b"moov", metadata))
        while (yield) is not None:
            pass

    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", types.SimpleNamespace(write_frames=write_frames))
    rv.Images(GREY, origin=MADE_BY).save(tmp_path / "a.mp4", seconds=1)
    assert origin_of(tmp_path / "a.mp4")["seed"] == 5
    whole = (tmp_path / "a.mp4").read_bytes()
    for length in range(0, len(whole), 7):  # cut files are not ours, and no error
        (tmp_path / "cut.mp4").write_bytes(whole[:length])
        assert origin_of(tmp_path / "cut.mp4") is None


def test_what_cannot_be_read_is_not_ours(tmp_path):
    montage.save(tmp_path / "a.png", GREY[0], MADE_BY)
    for name, content in (("cut.png", (tmp_path / "a.png").read_bytes()[:40]), ("x.npz", b"PK"), ("x.json", b"{")):
        (tmp_path / name).write_bytes(content)
        assert origin_of(tmp_path / name) is None
    assert origin_of(tmp_path / "none.png") is None and origin_of(tmp_path) is None


def test_a_very_long_entry_is_left_out_of_the_file(tmp_path):
    montage.save(tmp_path / "a.jpg", GREY[0], MADE_BY | {"images": ["held-out:7"] * 10_000})
    origin = origin_of(tmp_path / "a.jpg")
    assert origin["images"] == "left out: too long" and origin["seed"] == 5


def test_rows_know_their_own_seed_and_condition():
    assert of_row(MADE_BY, 2) == {"verb": "sample", "seed": 7, "number": 1, "label": "a"}
    assert of_row({"seeds": [9, 4]}, 1) == {"seed": 4, "number": 1}
    assert seeds_entry(range(3, 9)) == {"seed": 3, "number": 6} and seeds_entry([3, 5]) == {"seeds": [3, 5]}
    assert seeds_entry([4, 5]) == {"seed": 4, "number": 2} and seeds_entry([]) == {}


@pytest.mark.parametrize(
    "name, ending",
    [("a.PNG", ".png"), ("a.npz", ".npz"), ("cfg-2.25", ""), ("high-0.7", ""), ("run.v2", ""), ("a.mp4", ".mp4")],
)
def test_an_ending_that_is_no_format_is_none(name, ending):
    assert ending_of(name) == ending


def test_a_part_of_the_images_keeps_its_origin(runs):
    images = rv.sample(runs / "flow", 4, seed=3, label=["0", "1"], steps=1)
    assert images.origin["number"] == 4 and images.origin["options"]["steps"] == 1
    assert images.origin["options"]["sampler"] == "unipc"  # defaults too
    part = images[1:3]
    assert part.origin["seed"] == 4 and part.origin["number"] == 2 and part.origin["label"] == ["1", "0"]
    assert images[[0, 3]].origin["seeds"] == [3, 6] and part.conditions == {"labels": ["1", "0"]}


def test_archives_of_samples_hold_their_labels_which_evaluate_reads(runs, call, tmp_path):
    assert call("sample", runs / "flow", "-n", 8, "--steps", 1, "--label", "1", "0", "--out", "a.npz")[0] == 0
    with np.load(tmp_path / "a.npz") as archive:
        assert archive["labels"].tolist() == ["1", "0"] * 4 and archive["seeds"].tolist() == list(range(8))
    assert rv.open_data(str(tmp_path / "a.npz"), copies=True).classes == ["0", "1"]


# Weights


def copied(run, tmp_path, **entries):
    """A copy of a run with other entries in its run.json."""
    path = shutil.copytree(run, tmp_path / "run")
    info = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(info | entries))
    return path


def test_a_healthy_run_is_named_in_one_line(runs, call):
    code, out, err = call("sample", runs / "vae", "-n", 1, "--json")
    weights = json.loads(out)["weights"]
    assert code == 0 and err == f"Weights of {runs / 'vae'}, step 2 of 2.\n"
    assert (weights["status"], weights["steps"], weights["passed"]) == ("finished", 2, [])
    assert rv.load(runs / "vae").loaded_from == weights  # no warning: an error in the suite


@pytest.mark.parametrize(
    "entries, text",
    [
        ({"status": "stopped"}, "it is unfinished (stopped)"),
        ({"status": "running"}, "its training was interrupted (`reverie resume {run}` goes on)"),
        ({"status": "failed"}, "its training failed"),
    ],
)
@pytest.mark.filterwarnings("ignore:Weights of")
def test_an_unfinished_or_failed_run_says_so(runs, call, tmp_path, entries, text, recwarn):
    run = copied(runs / "vae", tmp_path, **entries)
    status = entries["status"].replace("running", "interrupted")  # no process trains it
    assert rv.load(run).loaded_from["status"] == status
    with pytest.warns(UserWarning, match=re.escape(f"Weights of {run}, step 2 of 2: {text.format(run=run)}.")):
        rv.sample(run, 1)
    code, out, err = call("reconstruct", run, "-n", 1, "--json")
    assert code == 0 and json.loads(out)["weights"]["status"] == status
    assert not [line for line in err.splitlines() if line.startswith("Weights of")]  # the warning names them


def test_a_damaged_checkpoint_that_is_passed_over_is_named(runs, tmp_path):
    run = copied(runs / "vae", tmp_path)
    shutil.copytree(run / "checkpoints" / "00000002", run / "checkpoints" / "00000009")
    (run / "checkpoints" / "00000009" / "model.safetensors").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=r"step 2 of 2: checkpoint 9 is damaged .*passed over"):
        assert len(rv.load(run).loaded_from["passed"]) == 1


def test_untrained_weights_are_used_only_by_their_path(runs, call, tmp_path):
    run = copied(runs / "vae", tmp_path, status="running")
    checkpoint = run / "checkpoints" / "00000000"
    shutil.move(run / "checkpoints" / "00000002", checkpoint)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    (checkpoint / "manifest.json").write_text(json.dumps(manifest | {"step": 0}))
    for verb in ("sample", "reconstruct", "evaluate"):
        code, _, err = call(verb, run)
        assert code == 2 and "is untrained" in err and f"reverie resume {run}" in err and str(checkpoint) in err
    with pytest.warns(UserWarning, match="step 0 of 2: its training was interrupted"):
        assert rv.load(checkpoint).checkpoint == 0
    imported = runs_module.Run.open(run)
    imported.update(imported="folder", status="finished")
    assert rv.load(run).loaded_from["status"] == "imported"


# Long sampling


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_an_interrupted_folder_is_continued_to_the_byte(runs, call, tmp_path):
    model, request = rv.load(runs / "flow"), {"n": 11, "seed": 3, "label": ["0", "1"], "steps": 1, "chunk": 4}
    assert rv.sample_into(tmp_path / "whole", model, **request) == 11

    def killed(done, total, what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rv.sample_into(tmp_path / "part", model, **request, progress=killed)
    assert len(contents(tmp_path / "part")) == 4 + 1
    (tmp_path / "part" / "000002.png").unlink()  # within a chunk, too
    (tmp_path / "part" / ".aside-ab12cd_9.png").write_bytes(b"")
    (mine := tmp_path / "part" / ".aside-mine").write_bytes(b"")
    assert rv.sample_into(tmp_path / "part", model, **request) == 8
    mine.unlink()  # of somebody else, and still there
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")
    assert rv.sample_into(tmp_path / "part", model, **request) == 0
    alone = rv.sample(model, 1, seed=3 + 9, label="1", steps=1)
    image = np.asarray(Image.open(tmp_path / "whole" / "000009.png")).astype(int)
    assert np.abs(image - alone.array[0, ..., 0]).max() <= 1
    origin = origin_of(tmp_path / "whole" / "000009.png")
    assert (origin["seed"], origin["number"], origin["label"]) == (12, 1, "1")


def test_another_request_is_refused_with_the_difference_named(runs, call, tmp_path):
    words = ["sample", runs / "vae", "-n", 3, "--out", "many"]
    code, out, _ = call(*words, "--json")
    assert code == 0 and json.loads(out)["new"] == 3
    code, out, _ = call(*words)
    assert code == 0 and "3 samples in the folder many already; nothing was left to do" in out
    before = contents(tmp_path / "many")
    code, _, err = call("sample", runs / "vae", "-n", 3, "--seed", 7, "--out", "many")
    assert code == 2 and "seed was 0 and is 7 now" in err and "--overwrite" in err
    code, _, err = call("sample", runs / "flow", "-n", 3, "--steps", 1, "--out", "many")
    assert code == 2 and "weights was" in err and contents(tmp_path / "many") == before
    assert call("sample", runs / "vae", "-n", 2, "--seed", 7, "--out", "many", "--overwrite")[0] == 0
    assert sorted(contents(tmp_path / "many")) == ["000000.png", "000001.png", NOTE]
    assert not list_tree(of_folder(tmp_path / "many")).problems  # the note is no stray file


def test_a_request_that_cannot_be_sampled_leaves_no_folder(runs, call, tmp_path):
    for flags in (["--label", "9"], ["--guidance", 3]):
        assert call("sample", runs / "flow", "-n", 2, *flags, "--out", "many")[0] == 2
    assert not (tmp_path / "many").exists()


def test_images_are_not_saved_over_a_folder_of_other_samples(runs, tmp_path):
    model = rv.load(runs / "vae")
    rv.sample_into(tmp_path / "many", model, 3)
    rv.sample(model, 3).save(tmp_path / "many")  # the same request
    for images in (rv.sample(model, 2), rv.Images(GREY)):
        with pytest.raises(UsageError, match=r"many holds other results of reverie: .*Nothing was touched"):
            images.save(tmp_path / "many")
    assert len(contents(tmp_path / "many")) == 4


def test_a_moved_run_continues_its_folder(runs, tmp_path):
    rv.sample_into(tmp_path / "many", runs / "vae", 2)
    assert rv.sample_into(tmp_path / "many", copied(runs / "vae", tmp_path), 2) == 0


def test_a_thousand_million_samples_are_neither_listed_nor_held_in_memory(runs, tmp_path):
    model = rv.load(runs / "vae")
    with pytest.raises(UsageError, match=r"1,000,000,000 samples need [\d,]+ GB of memory.*--out FOLDER"):
        rv.sample(model, 10**9)

    def killed(done, total, what):
        assert (done, total) == (64, 10**9)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rv.sample_into(tmp_path / "many", model, 10**9, progress=killed)
    assert (tmp_path / "many" / "000000063.png").is_file()  # names sort as the seeds do
    check_memory(model, 1000)


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "vae", "-n", "2"],
        ["sample", "vae", "-n", "2", "--out", "folder"],
        ["sample", "flow", "-n", "2", "--stream", "a.gif"],
        ["restore", "flow", "inpaint", "-n", "2", "--steps", "2"],
        ["restore", "flow", "inpaint", "-n", "2", "--steps", "2", "--stream", "a.gif"],
        ["mix", "style"],
        ["evaluate", "vae", "-n", "2"],
    ],
)
def test_seeds_end_at_64_bits_with_a_clear_error(runs, call, tmp_path, words):
    code, _, err = call(words[0], runs / words[1], *words[2:], "--seed", 2**63 - 1)
    assert code == 2 and "A seed is a whole number from -2^63 to 2^63 - 1, not 92233720368547758" in err
    assert not list(tmp_path.iterdir())


def test_the_last_seed_of_64_bits_samples(runs):
    assert rv.sample(runs / "vae", 1, seed=2**63 - 1)[:1].seeds == [2**63 - 1]


# Images of another shape, names with signs


@pytest.mark.parametrize("size, cropped", [((16, 8), True), ((8, 8), False), ((200, 201), False), ((9, 16), True)])
def test_an_image_that_is_cropped_is_named(runs, tmp_path, size, cropped):
    model = rv.load(runs / "vae", "cpu")
    image = Image.new("RGB", size, "red")
    image.save(tmp_path / "a.png")
    for reference in (str(tmp_path / "a.png"), image, np.asarray(image)):
        if cropped:
            text = f"An image of {size[0]} x {size[1]} pixels was cropped at its centre: the model's images have 8 x 8"
            with pytest.warns(UserWarning, match=text):
                rv.encode(model, [reference])
        else:
            rv.encode(model, [reference])


def test_translate_and_masks_say_that_an_image_was_cropped(runs, call, tmp_path):
    Image.new("L", (16, 8), 99).save(tmp_path / "wide.png")
    with pytest.warns(UserWarning, match="16 x 8 pixels was cropped"):
        call("translate", runs / "pairs", "wide.png")
    with pytest.warns(UserWarning, match="16 x 8 pixels was cropped"):
        rv.restore(runs / "flow", task="inpaint", mask=str(tmp_path / "wide.png"), n=1, steps=2)


def test_a_photograph_that_lies_on_its_side_counts_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 8)).save(tmp_path / "a.jpg", exif=exif)
    spec = Spec("image", (16, 8), 3)
    assert medium_of(spec).read(tmp_path / "a.jpg", spec).shape == (16, 8, 3)  # no warning
    with pytest.warns(UserWarning, match="An image of 8 x 16 pixels was padded"):
        medium_of(spec).read(tmp_path / "a.jpg", Spec("image", (8, 16), 3), "pad")


def test_class_names_stand_in_plots_as_they_are(tmp_path, monkeypatch, real_plots):
    names, figures = ["$0_$50", "_hidden", r"\frac", "$x$"], []
    subplots = Figure.subplots
    monkeypatch.setattr(Figure, "subplots", lambda self, *a, **k: figures.append(self) or subplots(self, *a, **k))
    points, labels = torch.randn(40, 2).numpy(), np.arange(40) % 4
    plots.plot_latent_maps(tmp_path / "a.png", [plots.Panel("Latents", points, points[:0])], labels, names)
    entries = figures[0].legends[0].get_texts()
    assert [entry.get_text() for entry in entries] == names and not any(e.get_parse_math() for e in entries)
    plots.plot_curves(tmp_path / "b.png", {"$loss_$2": ([1, 2], [0.5, 0.25])})
    assert labelled_grid(GREY, ["$0_$50"] * 3).std() > 0


# Files of others


def test_an_output_below_a_missing_folder_does_not_go_up(runs, call, tmp_path):
    (tmp_path / "photo.png").write_bytes(b"a photograph")
    code, _, err = call("sample", runs / "vae", "-n", 1, "--out", "new/../photo.png")
    assert code == 2 and "goes up from new" in err and not (tmp_path / "new").exists()
    for out in ("new/../photo.png", "new/../folder"):
        with pytest.raises(UsageError, match="goes up from"):
            rv.Images(GREY).save(tmp_path / out)
    assert (tmp_path / "photo.png").read_bytes() == b"a photograph"


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_during_the_work_is_kept(runs, call, tmp_path, monkeypatch, links):
    def appears(*arguments, **options):
        (tmp_path / "a.png").write_bytes(b"a photograph")
        return sample(*arguments, **options)

    def no_links(*arguments):
        raise PermissionError

    sample = sampling.sample
    monkeypatch.setattr(sampling, "sample", appears)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    code, _, err = call("sample", runs / "vae", "-n", 1, "--out", "a.png")
    assert code == 1 and "It was kept; the result is in" in err and "a-2.png" in err
    assert (tmp_path / "a.png").read_bytes() == b"a photograph" and origin_of(tmp_path / "a-2.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-2.png", "a.png"]


def test_outputs_are_neither_inputs_nor_one_another(runs, call, tmp_path):
    montage.save(tmp_path / "a.png", GREY[0], MADE_BY)
    (tmp_path / "link.png").symlink_to("a.png")
    before = (tmp_path / "a.png").read_bytes()
    for words in (
        ["sample", runs / "flow", "--out", "b.png", "--stream", "./b.png"],
        ["forward", runs / "flow", "--out", "b.png", "--plot", "b.png"],
        ["restore", runs / "flow", "inpaint", "--out", "b.png", "--stream", "b.png"],
        ["reconstruct", runs / "vae", "link.png", "--out", "a.png", "--overwrite"],
        ["translate", runs / "pairs", "a.png", "--out", "a.png"],
        ["interpolate", runs / "vae", "a.png", "seed:1", "--out", "a.png"],
    ):
        code, _, err = call(*words)
        assert code == 2 and "is an input or another output, too" in err and "Weights" not in err
    assert (tmp_path / "a.png").read_bytes() == before


def test_an_ending_alone_is_no_name(runs, call):
    code, _, err = call("sample", runs / "vae", "--out", ".png")
    assert code == 2 and "--out .png has no name before its ending" in err
    with pytest.raises(UsageError, match="has no name before its ending"):
        rv.Images(GREY).save(".png")
    assert not Path(".png").exists()


def test_a_number_of_samples_that_is_none_is_refused_before_the_run_is_loaded(runs, call):
    code, _, err = call("sample", runs / "vae", "-n", 0)
    assert code == 2 and err == "reverie sample: -n must be at least 1, not 0.\n"


@pytest.mark.parametrize("name", ["123456.npy", "photo.png", "000002.png", "0000001.npy"])
def test_only_rows_of_the_note_are_removed_from_a_folder(runs, call, tmp_path, name):
    rv.sample_into(tmp_path / "many", runs / "vae", 2)
    montage.save(tmp_path / "own.png", GREY[0], {"verb": "sample", "seed": 0, "number": 1})
    shutil.copy(tmp_path / "own.png", tmp_path / "many" / name)
    before = contents(tmp_path / "many")
    code, _, err = call("sample", runs / "vae", "-n", 1, "--seed", 7, "--out", "many", "--overwrite")
    assert code == 2 and f"It holds {name}" in err and contents(tmp_path / "many") == before


@pytest.mark.parametrize("kind", ["empty", "link", "other"])
def test_a_name_alone_is_no_sample(runs, tmp_path, kind):
    rv.sample_into(tmp_path / "many", runs / "vae", 2)
    file = tmp_path / "many" / "000001.png"
    content = file.read_bytes()
    file.unlink()
    if kind == "link":
        (tmp_path / "x.png").write_bytes(content)
        file.symlink_to(tmp_path / "x.png")
    else:
        file.write_bytes(b"" if kind == "empty" else (tmp_path / "many" / "000000.png").read_bytes())
    with pytest.raises(UsageError, match=r"000001.png is not the sample that has this name; nothing was touched"):
        rv.sample_into(tmp_path / "many", runs / "vae", 2)


def test_a_folder_that_is_removed_during_sampling_is_an_error(runs, tmp_path):
    def removed(done, total, what):
        shutil.rmtree(tmp_path / "many", ignore_errors=True)

    for chunk in (1, 2):
        with pytest.raises(ReverieError, match="were removed or moved during the work"):
            rv.sample_into(tmp_path / "many", runs / "vae", 2, chunk=chunk, progress=removed)
        assert not (tmp_path / "many").exists()


def test_a_row_that_appears_during_sampling_is_kept(runs, tmp_path):
    def appears(done, total, what):
        (tmp_path / "many" / "000001.png").write_bytes(b"a photograph")

    with pytest.raises(ReverieError, match=r"000001.png appeared during the work. It was kept"):
        rv.sample_into(tmp_path / "many", runs / "vae", 2, chunk=1, progress=appears)
    assert (tmp_path / "many" / "000001.png").read_bytes() == b"a photograph"


def test_two_processes_do_not_sample_into_one_folder(runs, tmp_path):
    def second(done, total, what):
        with pytest.raises(ReverieError, match="Another process writes to"):
            rv.sample_into(tmp_path / "many", runs / "vae", 2)

    assert rv.sample_into(tmp_path / "many", runs / "vae", 2, progress=second) == 2


def test_a_folder_named_as_a_left_over_stays(runs, tmp_path):
    rv.sample_into(tmp_path / "many", runs / "vae", 1)
    (tmp_path / "many" / ".aside-d").mkdir()
    assert rv.sample_into(tmp_path / "many", runs / "vae", 1) == 0 and (tmp_path / "many" / ".aside-d").is_dir()


def test_evaluate_spares_a_foreign_file_in_the_runs_own_folder(runs, call, tmp_path):
    run = copied(runs / "vae", tmp_path)
    (run / "evaluation").mkdir()
    (run / "evaluation" / "scores.json").write_text("mine")
    code, _, err = call("evaluate", run, "--metrics", "reconstruction")
    assert code == 2 and "scores.json is there already" in err
    assert (run / "evaluation" / "scores.json").read_text() == "mine"


@pytest.mark.parametrize("weights", [5, [1], "x"])
def test_a_note_with_odd_entries_is_not_ours(runs, call, tmp_path, weights):
    rv.sample_into(tmp_path / "many", runs / "vae", 1)
    note = json.loads((tmp_path / "many" / NOTE).read_text())
    (tmp_path / "many" / NOTE).write_text(json.dumps(note | {"weights": weights}))
    assert origin_of(tmp_path / "many") is None
    assert call("sample", runs / "vae", "-n", 1, "--out", "many")[0] == 2


def test_a_note_that_never_ends_is_not_read(tmp_path):
    os.mkfifo(tmp_path / NOTE)
    assert origin_of(tmp_path) is None and origin_of(tmp_path / NOTE) is None
    (tmp_path / NOTE).unlink()
    (tmp_path / NOTE).symlink_to("/dev/zero")
    assert origin_of(tmp_path) is None
