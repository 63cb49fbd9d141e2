"""The whole contract for models that the project does not know: named on the command line, or registered."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from processes import Process, reverie
from reverie.cli import main
from reverie.training.checkpoint import load_checkpoint, newest_whole
from reverie.training.run import Run

TOYS = {  # options that keep it tiny; an option of its own ``sample``, where it has one
    "flow:RealNVP": (["--width", 16, "--depth", 2], ["--temperature", 0.7]),
    "rbm:RBMStack": (["--hidden", 12, 8, "--chains", 16], ["--sweeps", 3]),
    "tokens:TokenPrior": (["--codes", 8, "--code-width", 4, "--width", 16, "--depth", 1], ["--temperature", 0.7]),
    "voxels:VoxelGAN": (["--width", 4, "--latent", 4], []),
    "wide:WideVAE": (["--width", 8, "--latent", 3], []),
    "canvas:Fresco": (["--filters", 2], []),
}
every_toy = pytest.mark.parametrize("toy", TOYS)


@pytest.fixture(scope="module")
def sources(tmp_path_factory, bars):
    """What each toy learns from: bars, volumes, wide images, or nothing."""
    folder, rng = tmp_path_factory.mktemp("sources"), np.random.default_rng(0)
    for name, shape in (("volumes", (8, 8, 8, 1)), ("wide", (8, 12, 1))):
        np.savez(folder / f"{name}.npz", images=rng.integers(0, 256, (64, *shape), dtype=np.uint8))
    others = {
        "voxels:VoxelGAN": ["--data", folder / "volumes.npz"],
        "canvas:Fresco": ["--data", "none", "--size", 8, "--channels", 1],
    }
    others |= {"wide:WideVAE": ["--data", folder / "wide.npz", "--size", "8x12"]}
    return {toy: others.get(toy, ["--data", bars]) for toy in TOYS}


def weights(run):
    saved = load_checkpoint(newest_whole(run.checkpoints)[0])
    return saved.weights | {f"ema.{name}": value for name, value in (saved.ema or {}).items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def train_flags(toy, sources):
    flags = [
        "--steps",
        8,
        "--batch-size",
        16,
        "--log-every",
        1,
        "--checkpoint-every",
        3,
        "--keep",
        9,
        "--device",
        "cpu",
    ]
    return ["train", f"toys.{toy}", *sources[toy], *flags, *TOYS[toy][0]]


@every_toy
def test_a_toy_is_trained_resumed_sampled_and_scored_from_the_command_line(toy, sources, call, tmp_path):
    code, out, error = call(*train_flags(toy, sources), "--out", "run", "--json")
    assert code == 0, error
    assert json.loads(out.splitlines()[-1])["steps"] == 8
    run = Run.open(tmp_path / "run")
    assert run.info["status"] == "finished" and (run.path / "samples.png").exists()
    for step in (3, 6):
        shutil.copytree(run.path, tmp_path / f"cut{step}")
        cut = Run.open(tmp_path / f"cut{step}")
        for late in cut.checkpoints.iterdir():
            if int(late.name) > step:
                shutil.rmtree(late)
        cut.update(status="running")
        assert call("resume", cut.path)[0] == 0
        assert same(weights(run), weights(cut))
    code, out, error = call("sample", "run", "-n", 3, "--seed", 5, "--out", "s.npz", *TOYS[toy][1])
    assert code == 0, error
    with np.load("s.npz") as saved:
        assert len(saved["images" if "images" in saved else "x"]) == 3
    code, out, error = call("evaluate", "run", "-n", 64, "--json")
    if toy.startswith("canvas"):  # it learned from no data, so there is nothing to compare with
        assert code != 0 and "data" in error
        return
    assert code == 0, error
    report = json.loads(out)
    assert report["scores"] or all(refusal["reason"] for refusal in report["refused"])


def test_a_toy_killed_at_a_random_moment_goes_on_with_the_same_bits(sources, tmp_path):
    """The token prior: two stages, a codebook, dropout."""
    toy = "tokens:TokenPrior"
    flags = [str(flag) for flag in train_flags(toy, sources)]
    flags[flags.index("--steps") + 1] = "120"
    full, killed = tmp_path / "whole", tmp_path / "killed"
    assert reverie(*flags, "--out", full, REVERIE_IMPORT=f"toys.{toy}").returncode == 0
    child = Process(*flags, "--out", killed, REVERIE_IMPORT=f"toys.{toy}")
    log, until = killed / "metrics.jsonl", time.monotonic() + 60
    while not (log.exists() and len(log.read_text().splitlines()) >= 10) and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(int.from_bytes(os.urandom(1)) / 1000)
    child.kill()
    done = reverie("resume", killed, REVERIE_IMPORT=f"toys.{toy}")
    assert done.returncode == 0 or "is finished" in done.stderr, done.stderr
    assert same(weights(Run.open(full)), weights(Run.open(killed)))


def test_a_toy_s_own_options_are_flags_when_it_samples(sources, call):
    code, _, error = call(*train_flags("rbm:RBMStack", sources), "--out", "run")
    assert code == 0, error
    assert "--sweeps" in call("sample", "run", "--help")[1]
    assert len(rv.sample("run", 2, sweeps=1)) == 2


# Every command, of every medium

MEDIA = {  # extents and channels of a row of ``x``; more flags
    "image": ((12, 16, 1), ["--size", "12x16"]),
    "video": ((4, 12, 16, 3), ["--medium", "video"]),
    "volume": ((8, 12, 16, 1), ["--medium", "volume"]),
    "sequence": ((24, 2), ["--medium", "sequence"]),
}
every_medium = pytest.mark.parametrize("medium", MEDIA)


@pytest.fixture(scope="module")
def linear_runs(tmp_path_factory, home):
    """A run of the linear toy on data of each medium."""
    folder, rng, runs = tmp_path_factory.mktemp("media"), np.random.default_rng(0), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for medium, (shape, flags) in MEDIA.items():
            values = rng.integers(0, 256, (150, *shape), dtype=np.uint8)
            if medium == "sequence":  # given as (N, C, L)
                values = values.swapaxes(1, 2) / np.float32(255)
            np.savez(f"{medium}.npz", images=values)
            more = ["--data", f"{medium}.npz", "--held-out", 0.4, "--steps", 3, "--batch-size", 16, "--out", medium]
            with pytest.raises(SystemExit) as ended:
                main([str(a) for a in ("train", "toys.linear:Linear", *flags, *more)])
            assert ended.value.code == 0
            runs[medium] = folder / medium
    return runs


@every_medium
def test_scores_that_do_not_fit_a_medium_are_refused_one_by_one(medium, linear_runs, call):
    code, out, error = call("evaluate", linear_runs[medium], "-n", 60, "--json", "--out", "scores")
    assert code == 0, error
    every = json.loads(out)
    scores, refused = (
        {score["metric"] for score in every["scores"]},
        {score["metric"]: score for score in every["refused"]},
    )
    assert {"mse", "psnr"} <= scores and ("ssim" in scores) == (medium == "image")
    assert ("kernel-small" in scores) == (medium in ("image", "volume"))  # of volumes by their central slices
    assert medium == "image" or refused["ssim"]["reason"] == f"SSIM is for images, and these are {medium}s."
    code, out, _ = call("evaluate", linear_runs[medium], "--metrics", "reconstruction,lpips,sharpness", "--json")
    metrics = {score["metric"] for score in json.loads(out)["refused"]}
    assert code == 0 and metrics == ({"lpips"} if medium == "image" else {"ssim", "lpips", "sharpness"})


@every_medium
def test_walks_and_reconstructions_are_sheets_or_arrays_of_the_medium(medium, linear_runs, call):
    run, shape = linear_runs[medium], MEDIA[medium][0]
    for command in (
        ["reconstruct", run, "-n", 9],
        ["interpolate", run, "held-out:0", "train:1", "--frames", 5],
        ["traverse", run, "--latents", 2, "--columns", 3, "--image", "held-out:1"],
    ):
        code, _, error = call(*command, "--out", f"{command[0]}.png")
        assert code == 0 and Path(f"{command[0]}.png").is_file(), error
        code, _, error = call(*command, "--out", f"{command[0]}.npz")
        assert code == 0, error
    with np.load("reconstruct.npz") as saved:
        assert saved["image"].shape == saved["reconstruction"].shape == (9, *shape)
    for command, count in (("interpolate", 5), ("traverse", 6)):
        with np.load(f"{command}.npz") as saved:
            assert saved["images" if medium == "image" else "x"].shape == (count, *shape)


@every_medium
def test_a_film_is_made_where_images_stand_for_the_samples_and_else_refused(medium, linear_runs, call):
    code, _, error = call("interpolate", linear_runs[medium], "seed:0", "seed:1", "--frames", 5, "--out", "m.webp")
    if medium == "sequence":
        assert code == 2 and "sequences" in error and ".npz" in error and not Path("m.webp").exists()
    else:
        assert code == 0 and Image.open("m.webp").n_frames == (4 if medium == "video" else 5), error
