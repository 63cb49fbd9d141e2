"""Image-to-image translation: what goes in and comes out, the two directions of a cycle, the image pool."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.commands.evaluate import evaluate
from reverie.commands.translate import translate
from reverie.core import registry
from reverie.core.batch import Batch
from reverie.core.errors import UsageError
from reverie.core.noise import Noise, fold
from reverie.data.batches import in_order
from reverie.inference.load import data_of
from reverie.inference.references import find_pair
from reverie.media.colour import grey
from reverie.media.medium import to_float, to_uint8
from reverie.models.translation.sources import lines
from reverie.training.checkpoint import load_checkpoint, newest_whole
from reverie.workflow.again import resume
from reverie.workflow.train import train


def batch_of(rows=6, size=8, channels=3, pairs=True, **more):
    rng = Noise.of_step(11, 0, rows)
    image, source = (rng.uniform(channels, size, size, low=-1, high=1) for _ in range(2))
    return Batch({"x": image} | ({"source": source} if pairs else {}) | more, Noise.of_step(3, 0, rows))


def cycle(**options):
    """A CycleGAN that is past its start, where both ways are the identity."""
    torch.manual_seed(0)
    model = registry.build("cyclegan", **{"shape": 8, "channels": 3, "width": 8, "pool_size": 0} | options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def test_luma_is_that_of_the_standard_and_flat_images_have_no_lines():
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    torch.testing.assert_close(grey(red), torch.full((1, 1, 4, 4), 2 * 0.299 - 1))
    assert bool((lines(red) == 1).all())
    half = torch.cat([red, -red], 3)
    image = lines(half)[0, 0]
    assert bool((image[:, 3:5] == -1).all()) and bool((image[:, :2] == 1).all())


@pytest.mark.parametrize(
    "task, direction, shapes",
    [
        ("pairs", "AtoB", (3, 3)),
        ("pairs", "BtoA", (3, 3)),
        ("colour", "AtoB", (1, 3)),
        ("colour", "BtoA", (3, 1)),
        ("lines", "AtoB", (1, 3)),
    ],
)
def test_each_task_says_what_goes_in_and_what_comes_out(task, direction, shapes):
    model, batch = registry.build("pix2pix", shape=8, channels=3, width=8, task=task, direction=direction), batch_of()
    source, target = model.pair(batch)
    assert (source.shape[1], target.shape[1]) == shapes
    if task == "pairs":
        first, second = (batch["source"], batch["x"])[:: 1 if direction == "AtoB" else -1]
        assert source is first and target is second
    assert model.translate(source, Noise.of_seeds(range(6))).shape == target.shape
    outputs = model.generate(batch)
    for loss in (model.d_loss(batch, outputs), model.g_loss(batch, outputs)):
        assert torch.isfinite(loss["loss"])


def test_a_colouring_network_takes_grey_and_coloured_images():
    model, source = registry.build("pix2pix", shape=8, channels=3, width=8, task="colour"), batch_of()["x"]
    torch.testing.assert_close(model.translate(source), model.translate(grey(source)))


def test_the_two_directions_of_a_cycle_are_exact_swaps():
    """Exchange the domains, the generators and the discriminators: no loss changes."""
    model, other, batch = cycle(), cycle(), batch_of()
    weights = model.state_dict()
    swap = {"to_a": "to_b", "to_b": "to_a", "d_a": "d_b", "d_b": "d_a"}
    named = {key: value for key, value in weights.items() if key.partition(".")[0] in swap}
    other.load_state_dict(
        weights | {f"{swap[key.partition('.')[0]]}.{key.partition('.')[2]}": value for key, value in named.items()}
    )
    turned = batch | {"x": batch["source"], "source": batch["x"]}
    for name in ("d_loss", "g_loss"):
        there, back = (getattr(net, name)(rows, net.generate(rows)) for net, rows in ((model, batch), (other, turned)))
        torch.testing.assert_close(there["loss"], back["loss"])
    torch.testing.assert_close(model.translate(batch["x"], to="A"), other.translate(batch["x"], to="B"))


def test_a_cycle_begins_as_the_identity_both_ways():
    image = batch_of()["x"]
    fresh, later = registry.build("cyclegan", shape=8, channels=3, width=8), cycle()
    for to in ("A", "B"):
        torch.testing.assert_close(fresh.translate(image, to=to), image)
        assert bool((later.translate(image, to=to) - image).abs().mean() > 0.01)


def test_two_classes_are_two_domains_and_a_row_counts_for_its_own():
    model = cycle(classes=2)
    batch = batch_of(pairs=False, label=torch.tensor([0, 0, 1, 1, 1, 0]))
    by_class = model.g_loss(batch, model.generate(batch))
    a, b = batch["x"][batch["label"] == 0], batch["x"][batch["label"] == 1]
    pairs = Batch({"source": a, "x": b}, batch.rng)
    paired = model.g_loss(pairs, model.generate(pairs))
    for name in ("loss", "cycle", "identity"):
        torch.testing.assert_close(by_class[name], paired[name])


def test_before_the_pool_is_full_all_is_fresh_and_then_half_comes_from_the_past():
    model = cycle(pool_size=12)
    seen = []
    for step in range(40):
        for side, net in enumerate((model.to_a, model.to_b)):
            net.forward = lambda x, side=side, step=step: torch.full_like(x, 100.0 * side + step)
        batch = batch_of().replace(rng=Noise.of_step(step, 0, 6), shared=Noise.of_step(step, 0, 1))
        outputs = model.generate(batch)
        seen.append(torch.stack([outputs[name][:, 0, 0, 0] for name in ("d_fake_a", "d_fake_b")]))
        model.keep_pool(batch, outputs, {})
        if step < 2:
            assert bool((seen[-1] == torch.tensor([[0.0], [100.0]]) + step).all())
    later = torch.stack(seen[4:])
    age = torch.arange(4, 40)[:, None, None] + torch.tensor([0.0, 100.0])[:, None] - later
    assert 0.35 < float((age > 0).float().mean()) < 0.65  # about half are old
    assert float(age.min()) == 0 and float(age.max()) > 5  # and none is of the other side
    assert torch.equal(later[:, 0] + 100, later[:, 1])


def test_data_without_pairs_are_refused_with_the_way_out():
    model = registry.build("pix2pix", shape=8, channels=3, width=8)
    with pytest.raises(UsageError, match="cyclegan"):
        model.generate(batch_of(pairs=False))
    with pytest.raises(UsageError, match="A/ and B/"):
        cycle(classes=3).generate(batch_of(pairs=False, label=torch.zeros(6).long()))
    with pytest.raises(UsageError, match="task='lines'"):
        registry.build("pix2pix", shape=8, channels=1, task="colour")


def test_a_resumed_run_has_the_pool_and_the_augment_p_of_one_that_never_stopped(bars, tmp_path, monkeypatch):
    monkeypatch.setattr("reverie.models.gans.base.ADA_TARGET", -2.0)  # so that ADA's probability rises at once
    for name, options in (("cyclegan", {"pool_size": 20}), ("dcgan", {"d_augment": "ada"})):
        shared = {"steps": 8, "batch_size": 8, "log_every": 1, "quiet": True, "width": 8, **options}
        complete = train(name, bars, out=tmp_path / name, **shared)
        cut = train(name, bars, out=tmp_path / f"{name}-cut", checkpoint_every=5, keep=9, **shared)
        shutil.rmtree(cut.checkpoints / "00000008")
        cut.update(status="running")
        ends = [
            load_checkpoint(newest_whole(run.checkpoints)[0]).weights
            for run in (complete, resume(cut.path, quiet=True))
        ]
        assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())
        moved = ends[0]["pool_filled"] if name == "cyclegan" else ends[0]["augment_p"]
        assert float(moved) > 0


def test_the_images_of_a_folder_are_translated_into_a_folder_under_their_names(bars, tmp_path, capsys):
    options = {"steps": 1, "batch_size": 8, "quiet": True, "width": 8}
    run = train("pix2pix", bars, task="lines", out=tmp_path / "run", **options)
    (tmp_path / "in").mkdir()
    for i, name in enumerate(("b.png", "a.jpg", "both.png", "both.jpg", "two.words.png")):
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    translate([str(run.path), str(tmp_path / "in"), "held-out:0", "--out", str(tmp_path / "out"), "--json"])
    assert json.loads(capsys.readouterr().out)["number"] == 6
    names = {"a.png", "b.png", "000002-both.png", "000003-both.png", "two.words.png", "held-out-0.png", "reverie.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    source, _ = find_pair(rv.load(run), str(tmp_path / "in" / "b.png"))
    alone = to_uint8(rv.load(run).translate(source))[0, ..., 0]
    assert np.abs(np.asarray(Image.open(tmp_path / "out" / "b.png")).astype(int) - alone).max() <= 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no images"):
        translate([str(run.path), str(tmp_path / "empty"), "--out", str(tmp_path / "none")])


# Sides of different channels


@pytest.fixture(params=[("L", "RGB"), ("RGB", "L")], ids=["grey-to-colour", "colour-to-grey"])
def mixed_pairs(request, tmp_path, home):
    """A folder of 24 pairs, one side grey and the other in colour, and the channels of A and B."""
    rng = np.random.default_rng(0)
    for side, mode in zip("AB", request.param, strict=True):
        (tmp_path / "pairs" / side).mkdir(parents=True)
        for i in range(24):
            image = Image.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8)).convert(mode)
            image.save(tmp_path / "pairs" / side / f"{i:02}.png")
    return tmp_path / "pairs", [len(mode) for mode in request.param]


@pytest.mark.parametrize(
    "name, kwargs, way",
    [
        ("pix2pix", {}, {}),
        ("pix2pix", {"direction": "BtoA"}, {}),
        ("cyclegan", {"pool_size": 4}, {"to": "B"}),
        ("cyclegan", {"pool_size": 4}, {"to": "A"}),
    ],
)
def test_pairs_of_a_grey_and_a_coloured_side_are_learned_translated_and_scored(
    mixed_pairs, tmp_path, name, kwargs, way
):
    folder, channels = mixed_pairs
    options = {"steps": 3, "batch_size": 8, "quiet": True, "width": 8, "size": (8, 12), "held_out": 0.3, **kwargs}
    run = train(name, str(folder), out=tmp_path / "run", sample_every=1, **options)
    model, back = rv.load(run), "BtoA" in kwargs.values() or way == {"to": "A"}
    source, target = channels[::-1] if back else channels
    image, truth = find_pair(model, "held-out:0", **way)
    assert image.shape[1] == source and truth.shape[1] == target
    assert model.translate(image, **way).shape[1] == target
    files = [str(folder / side / "03.png") for side in "AB"]
    flags = [item for key, value in way.items() for item in (f"--{key}", value)]
    translate([str(run.path), "held-out:0", *files, "--out", str(tmp_path / "t.png"), *flags])
    assert (tmp_path / "t.png").is_file() and (run.path / "translations.png").is_file()
    scores = rv.evaluate(run, metrics=["translation"], out=tmp_path / "scores", **way)
    assert scores["l1"].passport["reference"]["channels"] == target


def test_without_source_channels_both_sides_have_the_same():
    for name in ("pix2pix", "cyclegan"):
        plain, same = (
            registry.build(name, shape=8, channels=3, width=8, **more).state_dict()
            for more in ({}, {"source_channels": 3})
        )
        assert {key: value.shape for key, value in plain.items()} == {key: value.shape for key, value in same.items()}


# The editor


def editor(direction="1", strength=2.0, **teacher):
    torch.manual_seed(0)
    kwargs = {"shape": 8, "channels": 1, "classes": 3, "width": 4, "latent": 6, **teacher}
    config = {"name": "stylegan2", "kwargs": kwargs, "run": "runs/teacher"}
    options = {"teacher": config, "direction": direction, "strength": strength, "width": 8}
    model = registry.build("editor", shape=8, channels=1, classes=3, **options)
    model.compute_direction(None)
    return model


def test_pairs_of_an_editor_differ_by_the_direction_and_by_nothing_else():
    batch = Batch({"x": torch.zeros(4, 1, 8, 8)}, Noise.of_step(1, 0, 4))
    still = editor(strength=0.0).pair(batch.replace(rng=Noise.of_step(1, 0, 4)))
    assert torch.equal(*still)
    model = editor(strength=1.5)
    plain, moved = model.pair(batch)
    assert torch.equal(plain, still[0]) and not torch.equal(plain, moved)
    w = model.teacher.latent(Noise.of_step(1, 0, 4))
    torch.testing.assert_close(
        model.teacher.decode(w + 1.5 * model.direction), moved
    )  # noise inputs start with strength 0


def test_the_first_component_is_where_styles_vary_most_and_one_unit_of_it_is_their_deviation():
    model = editor()
    w = model.teacher.latent(Noise.of_seeds(range(4096)))
    axis = model.direction / model.direction.norm()
    assert float((w @ axis).std()) == pytest.approx(float(model.direction.norm()), rel=1e-3)
    _, spread, _ = torch.linalg.svd(w - w.mean(0))
    assert float(model.direction.norm()) == pytest.approx(float(spread[0]) / 64, rel=1e-4)
    assert float(editor("2").direction @ axis) == pytest.approx(0, abs=1e-4)


def test_two_classes_are_a_direction_from_one_mean_style_to_the_other():
    model = editor("0-2", conditional="label")
    z = Noise.of_seeds(range(4096))(6)
    means = [model.teacher.generator.mapping(z, torch.full((4096,), c)).mean(0) for c in (0, 2)]
    torch.testing.assert_close(model.direction, means[1] - means[0])


@pytest.mark.parametrize("direction, words", [("0", "component"), ("7", "6"), ("a", "component"), ("0-1", "classes")])
def test_directions_that_are_none_are_refused(direction, words):
    with pytest.raises(UsageError, match=words):
        editor(direction)


def test_an_editor_needs_a_teacher_with_styles_and_of_its_image_size():
    with pytest.raises(UsageError, match="--direction"):
        registry.build("editor", shape=8, channels=1)
    vae = {"name": "vae", "kwargs": {"shape": 8, "channels": 1}, "run": "runs/v"}
    with pytest.raises(UsageError, match="no styles"):
        registry.build("editor", shape=8, channels=1, teacher=vae)
    other = {"name": "stylegan2", "kwargs": {"shape": 16, "channels": 1, "width": 4}, "run": "runs/s"}
    with pytest.raises(UsageError, match="16x16"):
        registry.build("editor", shape=8, channels=1, teacher=other)


# The command


def test_held_out_pairs_files_and_captions_are_translated_beside_the_truth(tmp_path, capsys, home):
    run = train("pix2pix", "emoji", size=8, out=tmp_path / "run", steps=2, batch_size=8, quiet=True, width=8)
    assert {"translations.png", "loss.png"} <= {file.name for file in run.path.glob("*.png")}
    where = tmp_path / "t.png"
    translate([str(run.path), "held-out:0", "red heart", "--out", str(where), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result.pop("weights")["run"] == str(run.path) and result == {"out": str(where), "number": 2}
    model = rv.load(run)
    source, truth = find_pair(model, "held-out:0")
    first = next(in_order(data_of(model).held_out, 1))
    assert torch.equal(source, first["source"]) and torch.equal(truth, first["x"])
    back = registry.build("cyclegan", shape=8, channels=3, width=8).translation_pair(first, to="A")
    assert torch.equal(back[0], first["x"]) and torch.equal(back[1], first["source"])
    rows = np.asarray(Image.open(where))
    Image.fromarray(rows[:8, :8]).save(tmp_path / "mine.png")
    source, truth = find_pair(model, str(tmp_path / "mine.png"))
    assert truth is None and source.shape == (1, 3, 8, 8)
    translate([str(run.path), str(tmp_path / "mine.png"), "--out", str(tmp_path / "many")])
    assert (tmp_path / "many" / "000000.png").is_file()
    with pytest.raises(UsageError, match="no option to "):
        translate([str(run.path), "held-out:0", "--to", "A"])


def test_a_cycle_goes_both_ways_and_a_model_that_does_not_translate_says_so(bars, tmp_path):
    options = {"steps": 2, "batch_size": 8, "quiet": True, "width": 8}
    run = train("cyclegan", bars, out=tmp_path / "run", warmup=0, lr=0.05, ema=0.0, **options)
    for to in ("A", "B"):
        translate([str(run.path), "held-out:1", "--to", to, "--out", str(tmp_path / f"{to}.png")])
    assert (tmp_path / "A.png").read_bytes() != (tmp_path / "B.png").read_bytes()
    other = train("autoencoder", bars, out=tmp_path / "other", **options)
    with pytest.raises(UsageError, match="cannot translate"):
        translate([str(other.path), "held-out:1", "--out", str(tmp_path / "x.png")])


# Scores


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, home):
    """Folders A/ and B/ of 700 small pairs: B is A with its colours exchanged."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for name in ("A", "B"):
        (folder / name).mkdir()
    for index in range(700):
        a = np.zeros((12, 12, 3), np.uint8)
        row, column = rng.integers(0, 8, 2)
        a[row : row + 4, column : column + 4] = rng.integers(60, 256, 3)
        Image.fromarray(a).save(folder / "A" / f"{index}.png")
        Image.fromarray(a[..., ::-1].copy()).save(folder / "B" / f"{index}.png")
    return str(folder)


TINY = {"steps": 2, "batch_size": 8, "width": 8, "quiet": True}


def test_translations_of_pairs_are_scored_against_the_truth_and_the_target_domain(pairs, tmp_path):
    run = train("pix2pix", pairs, out=tmp_path / "run", **TINY)
    scores = rv.evaluate(run)
    model, data = rv.load(run), data_of(rv.load(run))
    named = {score.metric: score for score in scores.scores}
    assert set(named) == {"l1", "psnr", "ssim", "kernel-small"}
    assert [refusal.metric for refusal in scores.refused] == ["frechet"]  # 70 held-out images for 128 features
    truth, source = (to_float(part[:]) for part in (data.held_out["x"], data.held_out["source"]))
    with torch.no_grad():
        translated = to_float(to_uint8(model.translate(source, Noise.of_seeds(range(len(source))))))
    assert named["l1"].value == pytest.approx(float((translated - truth).abs().mean()), rel=1e-4)
    passport = named["l1"].passport
    assert passport["of"] == "translations of held-out images" and passport["held_out"] == len(data.held_out)
    assert passport["reference"]["domain"] == "target" and passport["fake"]["n"] == len(data.held_out)
    assert (run.path / "evaluation" / "scores.png").exists()
    again = rv.evaluate(run, metrics=["translation"], n=10)
    assert again["l1"].passport["fake"]["n"] == 10 and again["l1"].value != named["l1"].value


def test_a_cycle_is_scored_both_ways_and_without_pairs_against_the_other_domain_alone(pairs, bars, tmp_path, capsys):
    options = TINY | {"ema": 0.0}
    run = train("cyclegan", pairs, out=tmp_path / "pairs", lr=0.05, warmup=0, **options)
    ways = {to: rv.evaluate(run, metrics=["translation"], to=to, out=tmp_path / to)["l1"] for to in ("A", "B")}
    assert ways["A"].passport["fake"]["sampling"] == {"to": "A"} and ways["A"].value != ways["B"].value
    assert rv.evaluate(run, metrics=["translation"], out=tmp_path / "default")["l1"].value == ways["B"].value
    with pytest.raises(UsageError, match="'A' or 'B', not 'C'"):
        rv.evaluate(run, to="C")
    domains = train("cyclegan", bars, out=tmp_path / "domains", **options)
    scores = rv.evaluate(domains, metrics=["translation", "kernel"])
    assert {refusal.metric: refusal.reason for refusal in scores.refused}["translation"].endswith(
        "the data has no pairs."
    )
    evaluate([str(domains.path), "--metrics", "kernel", "--json"])
    refused = json.loads(capsys.readouterr().out.splitlines()[-1])["refused"]
    kept = data_of(rv.load(domains))
    lying = int((kept.held_out.labels == 0).sum())
    assert f"{lying} generated and {int((kept.train.labels == 1).sum())} real" in refused[0]["reason"]


def test_an_editor_is_scored_on_pairs_that_its_teacher_makes(bars, tmp_path):
    teacher = train("stylegan2", bars, out=tmp_path / "teacher", **TINY)
    run = train("editor", bars, out=tmp_path / "editor", teacher=str(teacher.path), **TINY)
    scores = rv.evaluate(run)
    assert {"l1", "psnr"} <= {score.metric for score in scores.scores}
    model = rv.load(run)
    batch = next(in_order(data_of(model).held_out, 3)).replace(rng=Noise.of_step(fold("held-out"), 0, 3))
    moved = model.domains(batch)[1]
    assert torch.equal(moved, model.domains(batch.replace(rng=Noise.of_step(fold("held-out"), 0, 3)))[1])


def test_what_cannot_be_scored_says_so_and_is_no_success(bars, tmp_path):
    run = train("noisy-classifier", bars, out=tmp_path / "run", **TINY)
    with pytest.raises(UsageError, match=r"nothing to score: noisy-classifier.*--classifier THIS"):
        rv.evaluate(run)
