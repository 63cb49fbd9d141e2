"""Wrong arguments and damaged files are errors that name them, at the first call that sees them."""

from __future__ import annotations

import hashlib
import json
import shutil
from types import SimpleNamespace
from typing import Annotated

import numpy as np
import pytest
from torch import nn

import reverie as rv
from reverie.core import registry
from reverie.core.annotations import FromData, Range, SubRun, Weight, marks_of
from reverie.core.errors import ReverieError, UsageError, speak_of_flags
from reverie.data.provenance import upgraded
from reverie.training.run import Run
from run_cases import SMALL

# Arguments of models


@pytest.mark.parametrize("annotation", [Weight, Weight | None, Annotated[Weight | None, "note"]])
def test_marks_inside_unions_count(annotation):
    assert Range(0) in marks_of(annotation)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FromData("nonsense"), "has no 'nonsense'"),
        (lambda: FromData("chanels"), 'Did you mean "channels"'),
        (lambda: Range(5, 1), "no interval"),
        (lambda: Range("a", "b"), "no interval"),
        (lambda: Range(float("nan")), "no interval"),
        (lambda: rv.register(5), "a name is text"),
        (lambda: rv.register("-x"), "a name is text"),
        (lambda: rv.register("vae"), "taken"),
    ],
)
def test_marks_and_names_without_a_meaning_are_refused_at_once(build, message):
    with pytest.raises(UsageError, match=message):
        build()


@pytest.mark.parametrize("name", [None, 5, b"vae", ["vae"]])
def test_a_model_has_a_name(name):
    with pytest.raises(UsageError, match="A model has a name"):
        rv.build(name)
    with pytest.raises(UsageError, match="A model has a name"):
        registry.entry(name)


SHAPED = {"shape": 8, "channels": 1}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        *(("dcgan", SHAPED | {key: -1}, f"{key} of dcgan must be at least 0") for key in ("r1", "r2", "gp_weight")),
        ("ddpm-textbook", SHAPED | {"betas": ()}, "betas of ddpm-textbook must be a tuple of a number, a number"),
        ("ddpm-textbook", SHAPED | {"betas": (0.1,)}, "betas of ddpm-textbook must be a tuple"),
        *(("vae", SHAPED | {"channels": channels}, "channels of vae must be at least 1") for channels in (0, -1)),
        ("pix2pix", SHAPED | {"source_channels": 0}, "source_channels of pix2pix must be at least 1"),
        ("ddpm", SHAPED | {"classes": -1}, "classes of ddpm must be at least 0"),
        *(("vae", SHAPED | {"shape": shape}, "shape of vae must be") for shape in (-1, (0, 0), (8, -8), (2**31, 8))),
        *(("vae", SHAPED | {"shape": shape}, "1 to 4096 pixels") for shape in (4097, (8, 5000))),
        ("dit", SHAPED | {"shape": -1}, "shape of dit must be at least 1"),
        ("vae", SHAPED | {"shape": ()}, "for images"),
        ("vae", SHAPED | {"latent": 10**30}, "latent of vae must be at most 2147483647"),
        ("ddpm", SHAPED | {"depth": 10**30}, "depth of ddpm must be at most"),
        *(("latent-diffusion", SHAPED | {"codec": codec}, "codec of latent-diffusion") for codec in ({"a": 1}, [], 5)),
        *(("distilled", SHAPED | {"teacher": run}, "teacher of dist") for run in ({"a": 1}, {"name": 1, "kwargs": {}})),
        ("distilled", SHAPED | {"teacher": {"name": "mine", "kwargs": None}}, "a registered model"),
    ],
)
def test_arguments_without_a_meaning_are_refused(name, arguments, message):
    with pytest.raises(UsageError, match=message):
        rv.build(name, **arguments)


def test_a_size_is_proposed_in_the_words_of_the_caller():
    with pytest.raises(UsageError, match=r"Try shape=16, of data size=16"):
        rv.build("stylegan2", shape=20, channels=1)
    before = speak_of_flags(True)
    try:
        with pytest.raises(UsageError, match="Try --size 16"):
            rv.build("stylegan2", shape=20, channels=1)
    finally:
        speak_of_flags(before)


def puzzle(size: rv.Side, channels: rv.Channels, inner: Annotated[Nowhere, SubRun()] = "") -> nn.Linear:  # noqa: F821
    """One of its annotations means nothing."""
    return nn.Linear(size, channels)


class Verb(nn.Module):
    """A verb of its has an annotation that only a type checker can resolve."""

    def __init__(self, size: rv.Side):
        super().__init__()
        self.head = nn.Linear(size, 1)

    def sample(self, noise: Nowhere, loud: Weight = 0.5) -> Nowhere:  # noqa: F821
        return noise(1, 8, 8)


def test_an_annotation_without_a_meaning_is_named_and_costs_no_other_mark(monkeypatch):
    for name, system in (("puzzle", puzzle), ("verb", Verb)):
        entry = registry.Entry("", name, registered=system)
        monkeypatch.setitem(registry.MODELS, name, entry)
    with pytest.raises(UsageError, match=r"puzzle has inner: Annotated\[Nowhere.*'Nowhere' is not defined"):
        rv.build("puzzle", size=2, channels=1)
    model = rv.build("verb", size=8)
    with pytest.raises(UsageError, match="loud of verb must be at least 0"):
        rv.sample(model, 1, loud=-1)


# Images


def images(count=3, **options):
    return rv.Images(np.zeros((count, 8, 8, 1), np.uint8), **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *((lambda columns=columns: images().grid(columns=columns), "columns") for columns in (-1, 0, 1.5, "x")),
        *((lambda scale=scale: images().grid(scale=scale), "scale") for scale in (-1, 0, 1.5)),
        *((lambda labels=labels: images().grid(labels=labels), "labels") for labels in (["a"], "abc", [1, 2, 3], 5)),
        (lambda: images(labels=["a"]).grid(scale=-1), "labels"),
        (lambda: rv.Images(np.zeros((8, 8, 1), np.uint8)), r"array must be \(N, H, W, C\)"),
        (lambda: rv.Images(np.zeros((1, 0, 8, 1), np.uint8)), "array must be"),
        (lambda: rv.Sheet({}), "rows must be"),
        (lambda: rv.Sheet({"a": images(2), "b": images(3)}), "rows must be"),
        (lambda: rv.Sheet({"a": images()}, columns=0), "columns must be at least 1"),
    ],
)
def test_grids_and_sheets_refuse_what_they_cannot_draw(call, message):
    with pytest.raises(UsageError, match=message):
        call()


@pytest.mark.parametrize(
    "array",
    [np.ones((2, 8, 8, 3)), np.full((2, 8, 8, 1), 300), np.ones((2, 8, 8, 1), bool), np.zeros((2, 8, 8, 5), np.uint8)]
    + [np.full((2, 8, 8, 1), "a")],
)
def test_images_are_bytes_in_grey_or_colour_with_or_without_alpha_and_never_converted_in_silence(array):
    for spec in (None, rv.media.Spec("image", (8, 8), array.shape[-1])):
        with pytest.raises(UsageError, match="array must be uint8 with 1, 3 or 4 channels") as error:
            rv.Images(array, spec)
        assert ("(x * 255).round().astype(np.uint8)" in str(error.value)) == (array.dtype != np.uint8)
    with pytest.raises(UsageError, match="array must be float32 with 2 channels"):
        rv.Images(np.zeros((1, 8, 2)), rv.media.Spec("sequence", (8,), 2))


@pytest.mark.parametrize("ending", [".fli", ".mpg", ".xbm", ".h5", ".msp", ".qoi"])
def test_an_ending_that_pillow_cannot_write_is_refused(ending, tmp_path):
    with pytest.raises(UsageError, match="Cannot write"):
        images().save(tmp_path / f"a{ending}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1, 0, 1e9, "x"])
@pytest.mark.parametrize("ending", [".webp", ".png"])
def test_a_film_has_a_length(seconds, ending, tmp_path):
    with pytest.raises(UsageError, match="seconds must be above 0 and at most 600"):
        images().save(tmp_path / f"a{ending}", seconds=seconds)


def test_archives_are_known_by_their_ending_in_any_case(tmp_path):
    images().save(tmp_path / "a.NPZ")
    rv.Sheet({"a": images()}).save(tmp_path / "b.NPZ")
    assert np.load(tmp_path / "a.NPZ")["images"].shape == np.load(tmp_path / "b.NPZ")["a"].shape == (3, 8, 8, 1)


@pytest.mark.parametrize("shape", [(8, 8, 1), (3, 8, 8, 1), (9, 1)])
def test_no_images_are_a_blank_image(shape, tmp_path):
    medium = {3: "image", 4: "video", 2: "sequence"}[len(shape)]
    spec = rv.media.Spec(medium, shape[:-1], 1, dtype="uint8") if medium != "image" else None
    empty = rv.Images(np.zeros((0, *shape), np.uint8), spec)
    assert "Images(0 " in repr(empty) and empty._repr_png_().startswith(b"\x89PNG")
    assert rv.Sheet({"a": empty, "b": empty})._repr_png_().startswith(b"\x89PNG")
    if medium == "image":
        assert np.unique(np.asarray(empty.grid())).tolist() == [255]
        with pytest.raises(UsageError, match="no images"):
            empty.save(tmp_path / "a.webp", seconds=1)


def test_images_are_written_in_place_and_copied_on_request():
    rows = images()
    array = rows.array
    assert np.add(rows, 1, out=rows) is rows and (array == 1).all()
    rows += 1
    assert isinstance(rows, rv.Images) and rows.array is array and (array == 2).all()
    np.array(rows, copy=True)[:] = 9
    assert (array == 2).all() and np.shares_memory(np.asarray(rows), array)
    assert np.asarray(rows, np.float32).dtype == np.float32


# Views and callbacks


@pytest.fixture(scope="module")
def run(bars, tmp_path_factory):
    return rv.train("vae", bars, out=tmp_path_factory.mktemp("runs") / "run", steps=2, width=8, latent=3, **SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"count": count}, "number of images must be") for count in (-1, 0, 1.5, "x")),
        ({"foo": 1}, "view samples has no option 'foo'"),
        ({"name": "traversal", "colums": 3}, 'Did you mean "columns"'),
        ({"name": "traversal", "columns": 1}, "columns must be at least 2"),
    ],
)
def test_views_refuse_numbers_and_options_without_a_meaning(run, options, message):
    with pytest.raises(UsageError, match=message):
        rv.view(run, **options)


def test_a_view_of_fewer_than_one_image_is_a_clean_error_of_the_command(run, call):
    code, _, err = call("view", run.path, "samples", "-n", -1)
    assert code == 2 and "must be at least 1, not -1" in err and "Traceback" not in err


NOTHING = {"show": lambda image: None}


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        *(("EarlyStop", {"steps": steps}, "steps must be") for steps in ("x", 0, -1, float("nan"), 1.5)),
        *(("EarlyStop", {"delta": delta}, "delta must be") for delta in ("x", float("nan"), -1)),
        ("EarlyStop", {"metric": 5}, "metric must be"),
        *(("LivePlot", NOTHING | {"every": every}, "every must be") for every in ("x", float("nan"), -1)),
        *(("LivePlot", NOTHING | {"samples": samples}, "samples must be") for samples in (-1, 1.5)),
        *(("LivePlot", NOTHING | {"metrics": metrics}, "metrics must be") for metrics in (5, [5])),
        ("LivePlot", {"show": 5}, "show must be"),
        ("LivePlot", {}, "LivePlot draws in a notebook"),
    ],
)
def test_callbacks_check_their_arguments_when_they_are_built(kind, options, message):
    with pytest.raises(UsageError, match=message):
        getattr(rv.callbacks, kind)(**options)


def test_one_name_is_one_metric_and_a_missing_metric_is_reported_once():
    assert rv.callbacks.LivePlot(metrics="loss", **NOTHING).metrics == ("loss",)
    stop, lines = rv.callbacks.EarlyStop("los"), []
    for number in (1, 2):
        line, loop = {"step": number, "loss": 1.0}, SimpleNamespace(say=lines.append)
        stop.after(SimpleNamespace(line=line, number=number, loop=loop))
    assert len(lines) == 1 and "no 'los' yet" in lines[0] and 'Did you mean "loss"' in lines[0]


PATHLESS = [5, b"a", ["a"]]
ARRAY = np.zeros((2, 8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *((lambda run, path=path: rv.load(path), "run must be a path") for path in (None, *PATHLESS)),
        *((lambda run, path=path: Run.open(path), "path must be a path") for path in (None, *PATHLESS)),
        *((lambda run, path=path: rv.sample(path), "model must be a path") for path in (None, *PATHLESS)),
        *((lambda run, path=path: rv.sample_into(path, run), "folder must be a path") for path in (None, *PATHLESS)),
        *((lambda run, path=path: images().save(path), "path must be a path") for path in (None, *PATHLESS)),
        *((lambda run, path=path: rv.train("vae", ARRAY, out=path), "out must be a path") for path in PATHLESS),
        *((lambda run, path=path: rv.evaluate(run, out=path), "out must be a path") for path in PATHLESS),
        *((lambda run, path=path: rv.train("vae", ARRAY, init=path), "init must be a path") for path in PATHLESS),
        *((lambda run, path=path: rv.export(run, path), "out must be a path") for path in PATHLESS),
        (lambda run: rv.import_(5), "folder must be a path"),
        (lambda run: rv.runs(5), "folder must be a path"),
        (lambda run: rv.distill(5), "run must be a path"),
        (lambda run: rv.evaluate(rv.build("vae", shape=8, channels=1)), "run must be a path"),
        (lambda run: rv.evaluate(run, 5), "no metric 5"),
        (lambda run: rv.view(run, {}), "no view {}"),
        (lambda run: rv.resume(run.path, minutes="a"), "minutes must be"),
        (lambda run: rv.resume(run.path, steps=9, callbacks=5), "callbacks must be"),
        (lambda run: rv.rerun(run.path, callbacks=[5]), "callbacks must be"),
        (lambda run: rv.train("vae", ARRAY, minutes="a"), "minutes must be"),
        (lambda run: rv.load(run, device=None), "device None"),
        (lambda run: rv.train(["vae"], ARRAY), "A model has a name"),
        (lambda run: rv.train(None, ARRAY), "A model has a name"),
        *((lambda r, n=n: rv.train("vae", ARRAY, **{n: None}), n) for n in ("batch_size", "augment", "device", "ema")),
        *((lambda run, verb=verb: verb(progress=5), "progress must be") for verb in (rv.train, rv.evaluate)),
        (lambda run: rv.open_data(ARRAY, progress=5), "progress must be"),
        (lambda run: rv.sample(run, 1, progress=5), "progress must be"),
        (lambda run: rv.sample_into("a", run, 1, progress=5), "progress must be"),
        (lambda run: rv.sample_into("a", run, 1, overwrite="no"), "overwrite must be True or False"),
        *((lambda run, seeds=seeds: images(seeds=seeds), "seeds must be") for seeds in (None, 5, "abc", [1, 2])),
        (lambda run: rv.Images(ARRAY, "x"), "spec must be a Spec"),
        (lambda run: images(origin="ab"), "origin must be a Mapping"),
        (lambda run: images(conditions=[1]), "conditions must be a Mapping"),
        *((lambda run, n=n: images(conditions={n: [1] * 3}), f"named {n}") for n in ("images", "reverie", "seeds")),
        *((lambda run, name=name: images().save(name, foo=1), "no option 'foo'") for name in ("a.png", "a.npz")),
        (lambda run: images().save("x." + "a" * 300), "name is too long"),
        (lambda run: rv.sample_into("a" * 300, run, 1), "name is too long"),
    ],
)
def test_an_argument_of_another_type_is_named_and_nothing_is_written(run, call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        call(run)
    assert not list(tmp_path.iterdir())


def test_a_loaded_model_is_evaluated_as_its_run(run, tmp_path):
    loaded = rv.evaluate(rv.load(run), "reconstruction", out=tmp_path)
    assert loaded.scores == rv.evaluate(run, "reconstruction", out=tmp_path).scores


def test_one_callback_is_a_list_of_one(bars, tmp_path):
    stop = rv.callbacks.EarlyStop("loss", steps=100)
    assert rv.train("vae", bars, out=tmp_path / "a", steps=1, callbacks=stop, width=8, **SMALL).status == "finished"


def test_labels_that_name_no_class_are_a_problem_of_the_data(draw_bars, tmp_path):
    arrays, labels = draw_bars(16)
    np.savez(tmp_path / "a.npz", images=arrays, labels=labels * 0 - 1)
    np.savez(tmp_path / "b.npz", images=arrays, labels=labels)
    actions = [[p.action for p in rv.data(str(tmp_path / f"{name}.npz")).report.problems] for name in "ab"]
    assert any("labels that are all negative" in action for action in actions[0])
    assert not any("labels" in action for action in actions[1])


# Damaged files


def rewritten(checkpoint, name, text):
    """A checkpoint whose file has this text, under a valid hash."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    (checkpoint / name).write_text(text)
    manifest["sha256"][name] = hashlib.sha256(text.encode()).hexdigest()
    if name != "manifest.json":
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))


INTACT = {"format": 3, "name": "vae", "kwargs": {}}


@pytest.fixture
def copy(run, tmp_path):
    return Run.open(shutil.copytree(run.path, tmp_path / "copy"))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{}", "5"]
    + [json.dumps(INTACT | {"format": number}) for number in ("3", 0, -5, None, True)]
    + [json.dumps(INTACT | {"name": 5}), '{"name": "vae"}', '{"kwargs": {}}', json.dumps(INTACT | {"kwargs": 5})],
)
def test_a_model_json_that_names_no_model_is_damaged(copy, text):
    checkpoint = copy.checkpoints / "00000002"
    rewritten(checkpoint, "model.json", text)
    with pytest.raises(ReverieError, match=r"is damaged \(model\.json"):
        rv.load(checkpoint)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"sha256": {}, "step": 2}', '{"step": "2", "sha256": {}}'])
def test_a_manifest_without_a_step_or_files_is_damaged(copy, text):
    (copy.checkpoints / "00000002" / "manifest.json").write_text(text)
    with pytest.raises(ReverieError, match=r"is damaged \(manifest\.json"):
        rv.load(copy.checkpoints / "00000002")


@pytest.mark.parametrize(
    "entry",
    [{"data": 5}, {"model": {}}, {"model": {"name": 5}}, {"seconds": "x"}, {"result": []}, {"held_out": 3}],
)
def test_a_run_json_with_entries_of_another_type_is_damaged(copy, entry):
    (copy.path / "run.json").write_text(json.dumps(copy.info | entry))
    with pytest.raises(ReverieError, match=r"run\.json is damaged"):
        Run.open(copy.path)


@pytest.mark.parametrize("data", [{"shape": "x"}, {"medium": "image", "shape": "x", "channels": 1}])
def test_a_record_of_data_without_its_entries_is_damaged(copy, data):
    with pytest.raises(ReverieError, match=r"run\.json is damaged: (its )?data"):
        upgraded(data)
    copy.update(data=data)
    with pytest.raises(ReverieError, match=r"run\.json is damaged: (its )?data"):
        rv.view(copy.path, "reconstructions")
