"""The command line from end to end, in processes of its own."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import reverie as rv
from reverie.cli import main
from reverie.core import registry
from reverie.core.verbs import USED


def reverie(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "reverie", *map(str, arguments)], capture_output=True, text=True, cwd=cwd
    )


@pytest.fixture(scope="module")
def run(bars, tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "run"
    flags = ["--steps", 30, "--batch-size", 16, "--width", 8, "--latent", 4, "--conditional", "label"]
    done = reverie("train", "vae", "--data", bars, "--out", path, *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("Next: reverie sample")
    assert all((path / plot).stat().st_size > 10_000 for plot in ("loss.png", "latent-map.png"))
    return path


def test_help_is_quick_because_it_imports_neither_torch_nor_numpy():
    code = "import sys; sys.argv = ['reverie', '--help']\nfrom reverie.cli import main\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    heavy = "print('HEAVY', sorted({'torch', 'numpy', 'PIL', 'tyro', 'rich', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code + heavy], capture_output=True, text=True)
    assert "HEAVY []" in done.stdout and "train" in done.stdout


def test_help_answers_within_250_ms():
    def once():
        began = time.perf_counter()
        reverie("--help")
        return time.perf_counter() - began

    assert min(once() for _ in range(5)) < 0.25  # the best of five: another process's load is not ours


def test_help_with_a_closed_standard_output_ends_without_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as end:
        main(["models", "--help"])
    assert not end.value.code


def test_every_verb_explains_itself(call):
    for verb in (
        "train",
        "resume",
        "rerun",
        "sample",
        "forward",
        "reconstruct",
        "interpolate",
        "traverse",
        "restore",
        "evaluate",
        "models",
        "data",
        "weights",
    ):
        code, out, _ = call(verb, "--help")
        assert code == 0 and len(out) > 200, verb
    code, out, _ = call("train", "denoising-autoencoder", "--help")
    assert code == 0 and "--corruption" in out and "salt-and-pepper" in out


def test_a_sample_of_a_seed_is_the_same_in_every_number_of_samples_and_every_form(run, call, tmp_path):
    assert call("sample", run, "-n", 12, "--seed", 5, "--out", "many.npz")[0] == 0
    assert call("sample", run, "-n", 4, "--seed", 5, "--out", "few.npz")[0] == 0
    assert call("sample", run, "-n", 4, "--seed", 5, "--out", "folder")[0] == 0
    code, out, _ = call("sample", run, "-n", 4, "--seed", 5, "--out", "grid.png", "--json")
    result = json.loads(out)
    assert code == 0 and result.pop("weights")["steps"] == 30
    assert result == {"out": "grid.png", "number": 4, "seeds": [5, 8]}
    many, few = np.load(tmp_path / "many.npz"), np.load(tmp_path / "few.npz")
    assert (
        many["images"].shape == (12, 8, 8, 1)
        and many["images"].dtype == np.uint8
        and many["seeds"].tolist() == list(range(5, 17))
    )
    assert np.abs(many["images"][:4].astype(int) - few["images"]).max() <= 1
    files = sorted((tmp_path / "folder").iterdir())
    assert [f.name for f in files] == [*(f"{i:06d}.png" for i in range(4)), "reverie.json"]
    assert all(
        (np.array(Image.open(f)) == image[..., 0]).all() for f, image in zip(files[:4], few["images"], strict=True)
    )
    assert (rv.sample(run, 4, seed=5) == few["images"]).all()


def test_a_label_is_a_name_or_a_number_and_classes_take_turns(run, bars, call, tmp_path):
    for label in ("0", "1"):
        assert call("sample", run, "-n", 3, "--label", label, "--out", f"{label}.npz")[0] == 0
    assert call("sample", run, "-n", 6, "--label", "0", "1", "--out", "both.npz")[0] == 0
    both, zero, first = (np.load(tmp_path / f"{n}.npz")["images"].astype(int) for n in ("both", "0", "1"))
    assert np.abs(both[0] - zero[0]).max() <= 1 and np.abs(both[1] - first[1]).max() <= 1
    code, _, err = call("sample", run, "--label", "giraffe")
    assert code == 2 and "giraffe" in err and "Classes: 0" in err


@pytest.mark.filterwarnings("ignore:An image of 30 x 20 pixels was cropped")
def test_morphs_traversals_and_reconstructions_are_written(run, call, tmp_path):
    Image.fromarray(np.full((20, 30), 200, np.uint8)).save(tmp_path / "mine.png")
    assert call("interpolate", run, "held-out:0", "mine.png", "--frames", 7, "--out", "morph.webp")[0] == 0
    assert Image.open(tmp_path / "morph.webp").n_frames == 7
    assert call("interpolate", run, "seed:1", "train:2", "--frames", 5, "--out", "strip.png", "--path", "slerp")[0] == 0
    code, out, _ = call("traverse", run, "--latents", 3, "--columns", 5, "--json", "--out", "t.png")
    assert code == 0 and len(json.loads(out)["latents"]) == 3 and (tmp_path / "t.png").exists()
    code, out, _ = call("reconstruct", run, "mine.png", "--out", "r.png", "--json")
    assert code == 0 and json.loads(out)["number"] == 1
    assert call("reconstruct", run, "--out", "r2.png")[0] == 0
    assert call("sample", run / "checkpoints" / "00000030", "-n", 1, "--out", "c.png")[0] == 0


def test_the_denoiser_restores_from_the_command_line(bars, call, tmp_path):
    assert call("train", "denoising-autoencoder", "--data", bars, "--steps", 3, "--width", 8, "--out", "d")[0] == 0
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    assert call("restore", "d", "denoise", "a.png", "a.png", "--out", "clean.png")[0] == 0
    assert (tmp_path / "clean.png").exists()
    code, _, err = call("restore", "d", "colourise", "a.png")
    assert code == 2 and "denoise" in err


def test_models_json_has_the_fixed_shape_and_only_true_verbs(call):
    code, out, _ = call("models", "--json")
    rows = json.loads(out)
    assert code == 0 and {row["name"] for row in rows} == set(registry.MODELS)
    assert all(set(row) == {"name", "system", "taxonomy", "verbs", "paper"} for row in rows)
    assert all(row["verbs"] == registry.entry(row["name"]).verbs for row in rows)
    serving = [row["name"] for row in rows if not set(USED) & set(row["verbs"])]
    assert serving == ["noisy-classifier"]
    code, out, _ = call("models")
    assert code == 0 and out.count("is an auxiliary model") == len(serving)


def test_a_model_without_verbs_says_what_it_is_for_and_how_good_it_is(bars, call, tmp_path):
    flags = ["--steps", 3, "--width", 8, "--batch-size", 8, "--out", "c"]
    code, out, _ = call("train", "noisy-classifier", "--data", bars, *flags)
    assert code == 0 and out.splitlines()[-1].startswith("Next: reverie sample RUN --classifier c --label")
    scores = json.loads((tmp_path / "c" / "metrics.json").read_text())["held_out"]
    assert set(scores) == {"accuracy_clean", "accuracy_noised"} and all(0 <= x <= 1 for x in scores.values())
    code, _, err = call("sample", "c")
    assert code == 2 and "cannot sample" in err and "--classifier" in err


def test_data_json_has_the_fixed_shape(bars, call):
    code, out, _ = call("data", bars, "--json")
    report = json.loads(out)
    assert code == 0
    counts = {"usable", "classes", "attributes", "captions", "pairs", "masks", "train", "held_out"}
    assert set(report) == counts | {"source", "read_as", "medium", "shape", "channels", "fingerprint", "problems"}
    assert report["usable"] == report["train"] + report["held_out"]
    assert call("data")[0] == 0 and call("data", bars)[0] == 0


@pytest.fixture
def some_data(tmp_path):
    """In the working folder: "my images", pairs, volumes and sequences."""
    rng = np.random.default_rng(0)
    for folder in ("my images", "pairs/A", "pairs/B"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(16):
            Image.fromarray(rng.integers(0, 256, (12, 20, 3), np.uint8)).save(tmp_path / folder / f"{i:02}.png")
    np.savez(tmp_path / "volumes.npz", images=rng.integers(0, 256, (20, 8, 8, 8, 1), np.uint8))
    np.savez(tmp_path / "signals.npz", images=rng.random((20, 24), np.float32))
    np.savez(tmp_path / "volts.npz", series=rng.uniform(-90, 40, (20, 24, 2)))


@pytest.mark.parametrize(
    "source, options, model",
    [
        ("my images", ["--size", "8x12", "--held-out", "0.3", "--channels", "1", "--background", "#ff8800"], "vae"),
        ("pairs", ["--size", "16", "--fit", "pad"], "pix2pix"),
        ("volumes.npz", [], "toys.linear:Linear"),
        ("signals.npz", ["--medium", "sequence", "--held-out", "0.2"], "recurrent-autoencoder"),
        ("volts.npz", ["--low", "-90", "--high", "40"], "recurrent-autoencoder"),
    ],
)
def test_the_command_that_data_advises_trains_on_the_same_data(call, some_data, source, options, model):
    code, out, error = call("data", source, *options)
    assert code == 0, error
    advice = shlex.split(out.partition("Next: reverie ")[2])
    if ":" in model:
        assert "docs/extending.md" in out
        advice[1] = model
    assert advice[:2] == ["train", model]
    tiny = ["--steps", 1, "--batch-size", 8, *(["--width", 8] if ":" not in model else [])]
    code, _, error = call(*advice, *tiny, "--out", "run")
    assert code == 0, error
    data = json.loads(Path("run/run.json").read_text())["data"]
    assert data["fingerprint"] == json.loads(call("data", source, *options, "--json")[1])["fingerprint"]


def test_data_of_a_size_that_does_not_fit_says_so_and_names_one_that_does(call, some_data):
    assert "divisible by 4" in (out := call("data", "my images", "--size", "30")[1]) and "--size 32" in out


def test_train_json_ends_with_one_line_and_progress_stays_on_stderr(bars, call):
    code, out, err = call("train", "autoencoder", "--data", bars, "--steps", 3, "--width", 8, "--out", "a", "--json")
    assert code == 0 and set(json.loads(out)) == {"run", "steps", "images_per_second", "seconds"} and "step" in err


def test_a_run_opens_its_data_from_any_folder(bars, call, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(bars).parent)
    flags = ["--steps", 3, "--width", 8, "--batch-size", 8, "--out", tmp_path / "r"]
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in ("train", "vae", "--data", "bars.npz", *flags)])
    assert ended.value.code == 0
    monkeypatch.chdir("/")
    with pytest.raises(SystemExit) as ended:
        main(["reconstruct", str(tmp_path / "r"), "--out", str(tmp_path / "r.png")])
    assert ended.value.code == 0 and (tmp_path / "r.png").exists()


def test_resume_and_rerun_work_from_the_command_line(run, bars, call, tmp_path):
    code, _, err = call("resume", run)
    assert code == 2 and "finished" in err
    code, out, _ = call("rerun", run, "--out", "again", "--json")
    assert code == 0 and json.loads(out)["steps"] == 30
    files = [Path(p) / "checkpoints" / "00000030" / "model.safetensors" for p in (run, tmp_path / "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["trian"], 2, "train"),
        (["train", "vea"], 2, "vae"),
        (["train", "vae", "--latnet", "3"], 2, "latent"),
        (["train", "vae", "--steps", "x"], 2, ""),
        (["train", "vae", "--data", "no/such/folder", "--steps", "1"], 2, "no/such/folder"),
        (["train", "vae", "--data", "fashon", "--steps", "1"], 2, "fashion"),
        (["train", "vae", "--steps", "0"], 2, "at least 1"),
        (["train", "vae", "--steps", "1", "--minutes", "1"], 2, "either --steps or --minutes"),
        (["train", "vae", "--size", "30", "--steps", "1"], 2, "32"),
        (["sample", "nowhere"], 2, "nowhere"),
        (["sample", "{run}", "-n", "0"], 2, "at least 1"),
        (["sample", "{run}", "--out", "a.fli"], 2, ".fli"),
        (["view", "{run}", "samples", "--out", "a.xyz"], 2, ".xyz"),
        (["sample", "{run}", "-n", "1000000000"], 2, "--out FOLDER"),
        (["sample", "{run}", "-n", "1000000000", "--stream", "a.webp"], 2, "cannot stream"),
        (["sample", "{run}/checkpoints/7"], 2, "30"),
        (["interpolate", "{run}", "no.png", "no.png"], 2, "no.png"),
        (["interpolate", "{run}", "held-out:0", "held-out:99999"], 2, "99999"),
        (["interpolate", "{run}", "held-out:0", "held-out:1", "--frames", "1"], 2, "--frames must be at least 2"),
        (["interpolate", "{run}", "held-out:0", "held-out:1", "--seconds", "0"], 2, "above 0 and at most 600"),
        (["interpolate", "{run}", "held-out:0", "held-out:1", "--seconds", "1e30"], 2, "above 0 and at most 600"),
        (["restore", "{run}", "denoise", "x.png"], 2, "vae restores nothing"),
        (["reconstruct", "{run}", "text.png"], 1, "text.png"),
        (["train", "vae", "--lr", "nan"], 2, "--lr: nan is no finite number"),
        (["train", "vae", "--lr", "inf"], 2, "--lr: inf is no finite number"),
        (["train", "vae", "--beta", "nan"], 2, "--beta: nan is no finite number"),
        (["train", "vae", "--clip", "nan"], 2, "nan is no finite number"),
        (["train", "vae", "--seed", "99999999999999999999"], 2, "--seed: 99999999999999999999 is beyond 64 bits"),
        (["train", "os:getcwd", "--steps", "1"], 2, "returns a str"),
        (["train", "builtins:min"], 2, "has no signature"),
        (["train", "vae", "--data", "none", "--steps", "1"], 2, "cannot be built without"),
    ],
)
def test_wrong_use_gets_a_sentence_and_an_exit_code_never_a_traceback(run, call, tmp_path, arguments, code, message):
    (tmp_path / "text.png").write_text("this is no image")
    status, _, err = call(*[a.format(run=run) for a in arguments])
    assert status == code and message in err and "Traceback" not in err, err


@pytest.mark.parametrize(
    "out, code, message",
    [
        ("/dev/null", 2, "neither a file nor a folder"),
        ("text.png/x", 2, "is no folder"),
        ("text.png/x.png", 2, "is no folder"),
        ("lost", 2, "a broken link"),
        ("lost.png", 2, "a broken link"),
        ("lost/x.png", 2, "Cannot write lost/x.png"),
        ("a" * 300 + ".png", 2, "its name is too long"),
        ("a\0b.png", 2, "null character"),
        pytest.param("/proc/x.png", 2, "Cannot write", marks=pytest.mark.skipif(not Path("/proc").is_dir(), reason="")),
    ],
)
def test_a_place_where_nothing_can_be_written_is_refused_with_the_reason(run, call, tmp_path, out, code, message):
    (tmp_path / "text.png").write_text("a file")
    for link in ("lost", "lost.png"):
        (tmp_path / link).symlink_to("nowhere/at/all")
    status, _, err = call("sample", run, "-n", 1, "--out", out)
    assert status == code and message in err and "Traceback" not in err, err
