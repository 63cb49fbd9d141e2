"""Every registered model, every verb it has: covered the day it is registered, with no line of its own here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import reverie as rv
from processes import Process, reverie
from reverie import recipes
from reverie.core import registry
from reverie.core.card import Card, card_of
from reverie.core.noise import Noise
from reverie.core.verbs import VERBS, verbs_of
from reverie.data.batches import in_order
from reverie.evaluation.likelihood import nats_of
from reverie.inference.features import features_of
from reverie.inference.rows import conditioning
from reverie.media.plots import plot_curves  # that which draws
from reverie.pretrained.weights import NETWORKS
from reverie.training.checkpoint import load_checkpoint, newest_whole
from reverie.training.options import sort_options
from reverie.training.run import Run
from reverie.workflow.again import rerun, resume
from reverie.workflow.train import train

SMALL = {
    "width": 8,
    "depth": 1,
    "hidden": (16,),
    "latent": 3,
    "widths": (8, 16),
    "norm_groups": 4,
    "pool_size": 12,
    "couplings": 2,
    "depths": (1, 1),
}
# models that cannot do without another's run: of what model
TEACHERS = {"distilled": "ddpm", "editor": "stylegan2", "learned-inverse": "tarflow"}
RUNS: dict[str, str] = {}  # ... and where it is
STYLES = Path(__file__).parent / "styles"
NEEDED = {  # what else a model cannot do without here
    "sparse-autoencoder": {"k": 2},
    "pix2pix": {"task": "lines"},  # the bars have no pairs
    "style-net": {"encoder": "small", "style": str(STYLES / "checks.png"), "style_size": 16},
    "adain": {"encoder": "small", "styles": str(STYLES), "views": 16},
    "rbm": {"hidden": 16, "chains": 32},
    "dbn": {"hidden": (16, 12), "chains": 32, "wake_sleep": 1.0},
}
# what is worth a row of its own beside each model's defaults
VARIANTS = {
    "autoencoder": [{"net": "dense"}, {"loss": "bce"}, {"loss": "l1"}],
    "denoising-autoencoder": [
        {"corruption": "masking", "corruption_level": 0.3},
        {"corruption": "salt-and-pepper", "corruption_level": 0.3},
    ],
    "vae": [
        {"likelihood": "gaussian"},
        {"likelihood": "learned"},
        {"conditional": "label"},
        {"free_bits": 0.5, "net": "dense"},
    ],
    "stacked-autoencoder": [{"corruption_level": 0.0, "loss": "bce"}],
    "sparse-autoencoder": [{"sparsity": "l1", "net": "conv"}, {"sparsity": "kl", "class_weight": 0.1}],
    "recurrent-autoencoder": [{"depth": 2, "step": 4}],
    "autoencoder-kl": [{"adversarial_weight": 0.1}, {"factor": 2}],
    "vq-vae": [
        {"quantiser": "codebook", "codes": 12, "code_decay": 0.5},
        {"adversarial_weight": 0.1, "levels": (3, 3)},
    ],
    "token-transformer": [{"conditional": "label"}],
    "maskgit": [{"conditional": "label", "quantiser": "codebook", "codes": 12}],
    "latent-diffusion": [{"schedule": "cosine", "conditional": "label"}],
    "dit": [{"conditional": "label"}],
    "tarflow": [{"conditional": "label"}, {"sigma": 0.0, "depths": (1, 2, 1)}],
    "learned-inverse": [{"adversarial_weight": 0.0, "decoded": 0.5}],
    "rbm": [{"visible": "gaussian", "conditional": "label"}, {"negative": "cd", "k": 2}],
    "dbn": [{"conditional": "label", "hidden": (9, 8, 7), "wake_sleep": 0.0}],
    "pixelcnn": [{"likelihood": "bernoulli", "conditional": "label"}],
    "pixelcnn++": [{"conditional": "label", "dropout": 0.1}],
    "pixel-transformer": [{"conditional": "label", "pixels_per_step": "rows", "within": "independent"}],
    "realnvp": [{"levels": 2, "logit": 0.05}],
    "glow": [{"conditional": "label", "levels": 2, "dequantisation": "variational"}],
    "gan": [{"conditional": "label", "packing": 2}],
    "dcgan": [
        {"loss": "wasserstein"},
        {"d_augment": "ada", "loss": "hinge"},
        {"conditional": "label", "spectral_norm": True},
    ],
    "r3gan": [{"d_augment": "diffaugment", "penalty_every": 2}],
    "stylegan2": [{"conditional": "label", "loss": "r3"}],
}
CASES = [(name, {}) for name in registry.MODELS] + [(name, v) for name, many in VARIANTS.items() for v in many]
case = pytest.mark.parametrize(
    "name, options", CASES, ids=[f"{n}-{'-'.join(map(str, o.values())) or 'default'}" for n, o in CASES]
)


@pytest.fixture(scope="module", autouse=True)
def teachers(bars, tmp_path_factory):
    for kind in TEACHERS.values():
        RUNS[kind] = str(tmp_path_factory.mktemp("teacher") / kind)
        train(kind, bars, out=RUNS[kind], steps=1, batch_size=16, quiet=True, width=8)


def small(name, options):
    settings = SMALL | ({"teacher": RUNS[TEACHERS[name]]} if name in TEACHERS else {})
    settings |= NEEDED.get(name, {})
    return {k: v for k, v in settings.items() if k in registry.signature(name)} | options


def make(name, options, data):
    torch.manual_seed(0)
    kwargs = small(name, options)
    if "teacher" in kwargs:
        kwargs["teacher"] = Run.open(kwargs["teacher"]).info["model"]
    model = registry.build(name, data, **kwargs).eval()
    with torch.no_grad():  # away from the start, where residual branches are silent
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model


def weights(run: Run) -> dict[str, torch.Tensor]:
    newest, _ = newest_whole(run.checkpoints)
    saved = load_checkpoint(newest)
    return saved.weights | {f"ema.{k}": v for k, v in (saved.ema or {}).items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@case
def test_verbs_give_the_shapes_and_ranges_that_they_promise(name, options, tiny):
    model = make(name, options, tiny)
    verbs = verbs_of(model)
    batch = next(in_order(tiny.held_out, 5))
    condition = conditioning(model, batch)
    assert verbs == registry.entry(name).verbs and set(verbs) <= set(VERBS)
    with torch.inference_mode():
        if "sample" in verbs:
            samples = model.sample(Noise.of_seeds(range(5)), **condition)
            assert samples.shape == batch["x"].shape and samples.dtype == torch.float32 and samples.abs().max() <= 1
            assert model.sample(Noise.of_seeds(range(5))).isfinite().all()  # the null condition
        if "encode" in verbs:
            code = model.encode(batch["x"], **condition)
            assert code.shape == (5, *card_of(model).space.shape) and torch.equal(
                code, model.encode(batch["x"], **condition)
            )
            if "decode" in verbs:
                assert model.decode(code, **condition).shape == batch["x"].shape
        for verb in {"elbo", "log_prob"} & set(verbs):
            assert getattr(model, verb)(batch).shape == (5,)
        if "translate" in verbs:
            source, truth = model.translation_pair(batch)
            translated = model.translate(source, batch.rng)
            assert translated.abs().max() <= 1 and (truth is None or translated.shape == truth.shape)
            torch.testing.assert_close(model.translate(source[2:3], batch.rng[2:3]), translated[2:3])
        if "stream" in verbs:
            *_, last = model.stream(Noise.of_seeds(range(5)), **condition)
            assert torch.equal(next(iter(last.render().values())), samples)


@case
def test_layers_of_networks_that_look_at_images_see_each_image_alone(name, options, tiny):
    model = make(name, options, tiny)
    if "features" not in verbs_of(model):
        pytest.skip("has no layers of images")
    features = features_of(model, "cpu")
    layer = next(layer for layer in reversed(features.layers) if features.layers[layer].channels > 1)
    images = Noise.of_seeds(range(4))(features.channels, *features.size).clamp(-1, 1).requires_grad_()
    activations = features(images, [layer])[layer]
    assert len(activations) == 4 and activations.shape[1] == features.layers[layer].channels
    torch.testing.assert_close(features(images[2:3], [layer])[layer], activations[2:3], rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(activations[1].square().sum(), images)
    assert [bool(row.any()) for row in gradient] == [False, True, False, False]


@case
def test_a_card_is_plain_data_that_its_model_keeps(name, options, tiny):
    model = make(name, options, tiny)
    card, verbs = card_of(model), verbs_of(model)
    assert Card.from_json(json.loads(json.dumps(card.to_json()))) == card
    assert all(model.get_submodule(network) is not None for network in card.networks)
    assert all(likelihood.verb in verbs for likelihood in card.likelihoods) and set(card.weights) <= set(NETWORKS)
    batch = next(in_order(tiny.held_out, 5))
    for likelihood in card.likelihoods[:1]:
        assert nats_of(model, likelihood, batch).shape == (5,)
    if "decode" in verbs:
        for space, info in card.latents.items():
            named = {"space": space} if len(card.latents) > 1 else {}
            samples = model.decode(torch.zeros(2, *info.shape), **named)
            assert samples.shape == (2, card.output.channels, *card.output.shape)
            if "latent" in verbs:
                assert model.latent(Noise.of_seeds([0, 1]), **named).shape == (2, *info.shape)


@case
def test_an_image_does_not_depend_on_its_batch(name, options, tiny):
    model = make(name, options, tiny)
    if "sample" not in verbs_of(model):
        pytest.skip("does not sample")
    label = {"label": torch.arange(7) % 2} if card_of(model).classes else {}
    with torch.inference_mode():
        together = model.sample(Noise.of_seeds(range(10, 17)), **label)
        for row in (0, 3, 6):
            alone = model.sample(Noise.of_seeds([10 + row]), **{k: v[row : row + 1] for k, v in label.items()})
            assert torch.allclose(alone[0], together[row], atol=1e-5)


@case
def test_a_run_is_loaded_resumed_and_repeated_without_a_changed_bit(name, options, bars, tmp_path):
    shared = {"batch_size": 16, "augment": "flip,translate,color", "log_every": 1, "quiet": True}
    shared |= {"steps": 8, "checkpoint_every": 5, "keep": 9}
    full = train(name, bars, out=tmp_path / "whole", **shared, **small(name, options))
    model, saved = rv.load(full), load_checkpoint(newest_whole(full.checkpoints)[0])
    assert same(model.state_dict(), saved.weights | saved.ema)
    assert model.config == {"name": name, "kwargs": registry.build(name, **saved.config["kwargs"]).config["kwargs"]}
    assert full.info["status"] == "finished" and (full.path / "loss.png").is_file()
    plot_curves(tmp_path / "curves.png", full.curves)
    files = {p.name for p in full.path.glob("*.png")}
    assert files >= {"loss.png"} | ({"samples.png"} if "sample" in verbs_of(model) else set())
    shutil.copytree(full.path, tmp_path / "cut")
    cut = Run.open(tmp_path / "cut")
    shutil.rmtree(cut.checkpoints / "00000008")  # as if killed between the checkpoint and the end
    cut.update(status="running")
    again = resume(cut.path, quiet=True)
    assert same(weights(full), weights(again))
    assert [line["step"] for line in again.metrics()] == list(range(1, 9))
    assert same(weights(full), weights(rerun(full.path, tmp_path / "repeated", quiet=True)))


@pytest.mark.parametrize("name", registry.MODELS)
def test_a_run_needs_no_held_out_image(name, bars, tmp_path):
    """Its previews and final images are of training images, with a warning; there are no scores."""
    options = {"steps": 2, "log_every": 1, "batch_size": 16, "quiet": True} | small(name, {})
    run = train(name, bars, held_out=0, out=tmp_path / "run", **options)
    assert run.info["status"] == "finished" and run.info["data"]["counts"]["held_out"] == 0
    assert run.info["held_out"] == {}


def test_the_kinds_of_a_data_set_share_its_recipe():
    chosen = recipes.recipe_for("rbm", "binary-mnist:seeded")
    assert chosen == recipes.read("rbm-binary-mnist") == recipes.recipe_for("rbm", "binary-mnist:static:train")
    assert recipes.recipe_for("rbm", "fashion:train") == recipes.read("rbm-fashion")


@pytest.mark.parametrize("recipe", recipes.names())
def test_every_recipe_runs_two_steps(recipe, bars, tmp_path):
    content = recipes.read(recipe)
    model = next(n for n in sorted(registry.MODELS, key=len, reverse=True) if recipe.startswith(n))
    training = {k: v for k, v in content.get("training", {}).items() if k not in ("minutes", "steps")}
    needed = {k: v for k, v in small(model, {}).items() if k == "teacher" or k in NEEDED.get(model, {})}
    options = needed | content.get("model", {}) | content.get("phases", {}) | training | {"batch_size": 8}
    data = "emoji" if recipe.endswith("-emoji") else bars  # which has captions and pairs
    run = train(model, data, size=8, out=tmp_path / "run", steps=2, quiet=True, **options)
    assert run.info["result"]["steps"] == 2
    for table in (there := content.get("gpu", {})):
        sorted_ = dict(zip(("model", "phases", "training"), sort_options(model, there[table]), strict=True))
        assert sorted_.pop(table) == there[table] and not any(sorted_.values())


def test_two_ranks_keep_a_budget_of_minutes_together(bars, tmp_path):
    flags = ["--data", bars, "--minutes", 0.1, "--batch-size", 16, "--width", 8, "--device", "cpu", "--log-every", 1]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "reverie"]
    command += map(str, ["train", "vae", *flags, "--out", tmp_path / "r", "--json"])
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    plan = Run.open(tmp_path / "r").info["plan"]
    assert len(plan["knots"]) >= 4  # measured, then corrected more than once: nobody waited for a word that never came
    assert json.loads(done.stdout.splitlines()[-1])["steps"] == plan["end"]


def test_kill_9_at_a_random_moment_then_resume_gives_the_same_bits(bars, tmp_path):
    flags = ["train", "vae", "--data", bars, "--steps", "400", "--batch-size", "16", "--width", "8", "--latent", "3"]
    flags += ["--checkpoint-every", "20", "--device", "cpu"]
    assert reverie(*flags, "--out", tmp_path / "whole").returncode == 0
    killed = tmp_path / "killed"
    child = Process(*flags, "--out", killed)
    log = killed / "metrics.jsonl"
    until = time.monotonic() + 60
    while not (log.exists() and len(log.read_text().splitlines()) >= 5) and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(int.from_bytes(os.urandom(1)) / 1000)  # at a random moment of the next quarter second
    child.kill()
    done = reverie("resume", killed, "--json")
    if done.returncode == 2:  # it was quicker than the kill: nothing left to resume, and it says so
        assert "is finished" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
    full, again = (
        load_checkpoint(Path(p) / "checkpoints" / "00000400", training=True) for p in (tmp_path / "whole", killed)
    )
    assert same(full.weights, again.weights) and same(full.ema, again.ema)
    for a, b in zip(*(s.training["optimizers"][0]["state"].values() for s in (full, again)), strict=True):
        assert all(torch.equal(a[k], b[k]) for k in a)
