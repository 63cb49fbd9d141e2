"""A run whose data has moved: what needs no data works, and what needs it takes the same data from its new place."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import reverie as rv
from reverie.core.errors import ReverieError
from reverie.data import reopen

SMALL = ("--batch-size", 4, "--steps", 1)
NETS = {
    "vae": ("--net", "dense", "--hidden", 8, "--latent", 2, "--conditional", "label"),
    "ddpm": ("--width", 16, "--depth", 1, "--conditional", "text"),
    "pix2pix": ("--width", 4, "--task", "lines"),
    "dcgan": ("--width", 4, "--latent", 4),
}
GONE = {  # verb -> its arguments without and with data
    "vae": {
        "sample": (["-n", 2, "--label", "b", "--out", "OUT"], None),
        "interpolate": (["seed:1", "seed:2", "--frames", 3, "--out", "OUT"], ["held-out:0", "b", "--out", "OUT"]),
        "reconstruct": (["a.png", "--out", "OUT"], ["--out", "OUT"]),
        "traverse": (None, ["--image", "held-out:0", "--out", "OUT"]),
        "view": (["samples", "--out", "OUT"], ["latent-map", "-n", 12, "--out", "OUT"]),
    },
    "ddpm": {
        "sample": (["-n", 1, "--text", "a red cat", "--steps", 2, "--out", "OUT"], None),
        "forward": (["a.png", "--plot", "plot.png", "--out", "OUT"], ["--out", "OUT"]),
        "restore": (["inpaint", "a.png", "--steps", 2, "--out", "OUT"], ["inpaint", "--steps", 2, "--out", "OUT"]),
    },
    "pix2pix": {"translate": (["a.png", "--out", "OUT"], ["train:1", "--out", "OUT"])},
    "dcgan": {
        "traverse": (["--image", "seed:3", "--out", "OUT"], None),
        "interpolate": (["seed:1", "seed:2", "--frames", 3, "--out", "OUT"], None),
    },
}


def picture(seed):
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(small).resize((16, 16), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def moved(home, tmp_path_factory):
    """Runs of each model, made of a folder that has moved since."""
    path = tmp_path_factory.mktemp("moved")
    for index in range(24):
        file = path / "then" / "ab"[index % 2] / f"{index:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(index).save(file)
        file.with_suffix(".txt").write_text("a red cat" if index % 2 else "a blue dog")
    picture(99).save(path / "a.png")
    return path


@pytest.fixture(scope="module", params=NETS)
def run(request, moved):
    from reverie.cli import main

    path = moved / request.param
    if (moved / "now").exists():
        (moved / "now").rename(moved / "then")
    with pytest.raises(SystemExit) as ended:
        main(
            ["train", request.param, "--data", str(moved / "then"), *map(str, (*SMALL, *NETS[request.param]))]
            + ["--out", str(path)]
        )
    assert not ended.value.code
    (moved / "then").rename(moved / "now")
    return path


def test_verbs_ask_for_the_data_only_where_they_need_it_and_take_it_from_its_new_place(run, moved, call, tmp_path):
    for verb, cases in GONE[run.name].items():
        for number, (arguments, needs) in enumerate(zip(cases, (False, True), strict=True)):
            if arguments is None:
                continue
            words = [{"OUT": f"{verb}{number}.png", "a.png": moved / "a.png"}.get(word, word) for word in arguments]
            code, out, err = call(verb, run, *words)
            if not needs:
                assert code == 0, (verb, err)
                continue
            assert code == 1 and str(moved / "then") in err and "--data NEW" in err, (verb, err)
            code, out, err = call(verb, run, *words, "--data", moved / "now", "--json")
            assert code == 0 and json.loads(out)["out"], (verb, err)
            code, out, err = call(verb, run, *words, "--data", "emoji", "--json")
            assert code == 1 and "not what it was trained on" in err and str(moved / "then") in err, (verb, err)


@pytest.mark.parametrize("run", ["vae"], indirect=True)
def test_training_and_scores_take_the_data_from_its_new_place(run, moved, call, tmp_path):
    for verb, more in (("rerun", ["--out", "again"]), ("resume", ["--steps", 2]), ("evaluate", ["--metrics", "nll"])):
        code, _, err = call(verb, run, *more)
        assert code == 1 and str(moved / "then") in err and "--data NEW" in err, (verb, err)
        assert not (tmp_path / "again").exists()
    for verb, more in (("rerun", ["--out", "again"]), ("resume", ["--steps", 2]), ("evaluate", ["--metrics", "nll"])):
        code, _, err = call(verb, run, *more, "--data", moved / "now")
        assert code == 0, (verb, err)


def test_the_views_of_a_run_are_listed_without_its_data(run, moved, call):
    code, out, err = call("view", run)
    views = [line.split()[0] for line in out.splitlines()]
    assert (
        code == 0
        and err.startswith("Weights of")
        and "Warning" not in err
        and views
        and views == rv.list_views(rv.load(run, data=moved / "now"))
    )


def test_a_loaded_model_keeps_the_data_that_came_with_it(run, moved):
    model = rv.load(run, device="cpu", data=moved / "now")
    with pytest.raises(ReverieError, match=r"cannot be opened.*data='NEW'"):
        rv.load(run, device="cpu", data=moved / "nowhere")
    with pytest.raises(ReverieError, match="not what it was trained on"):
        rv.load(run, device="cpu", data="emoji")
    if run.name == "vae":
        assert len(rv.reconstruct(model, n=2)) == 2
        with pytest.raises(ReverieError, match="cannot be opened"):
            rv.reconstruct(run, n=2)


def test_a_folder_that_was_emptied_is_named_with_the_remedy(home, tmp_path):
    for index in range(9):
        (tmp_path / "d").mkdir(exist_ok=True)
        picture(index).save(tmp_path / "d" / f"{index}.png")
    record = rv.open_data(tmp_path / "d").provenance
    shutil.rmtree(tmp_path / "d")
    (tmp_path / "d").mkdir()
    with pytest.raises(ReverieError, match=r"/d, cannot be opened.*0 usable images.*data='NEW'"):
        reopen(record)
