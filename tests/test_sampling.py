"""Sampling as users meet it: options and their errors, the teaching views, guidance by other models, the passport."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.commands.flags import named_run
from reverie.core import registry
from reverie.core.card import Card, Output
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.core.options import sampling_options
from reverie.core.verbs import Frame
from reverie.data.batches import in_order
from reverie.diffusion import grids, guides, samplers
from reverie.diffusion.schedules import RectifiedFlow
from reverie.inference.conditions import label_index
from reverie.inference.rows import spread
from reverie.media.montage import save_film
from reverie.models.diffusion.base import Diffusion
from reverie.probability.conditioning import Conditioner
from reverie.views import denoising
from reverie.views.denoising import states_in
from reverie.workflow.train import train

SYSTEMS = ("ddpm", "edm", "flow-matching")
WORDS = ["a lying bar", "a standing bar"]


def built(name, **options):
    """An untrained model away from the start, where the network's output is zero."""
    torch.manual_seed(0)
    model = registry.build(name, shape=8, channels=1, width=8, **options).eval().requires_grad_(False)
    for p in model.parameters():
        p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model


@pytest.fixture(scope="module")
def runs(draw_bars, home, tmp_path_factory):
    """Runs of a few steps: unconditional, by class, by words, a classifier, a VAE."""
    folder = tmp_path_factory.mktemp("sampling")
    images, labels = draw_bars(160)
    data = str(folder / "bars.npz")
    np.savez(data, images=images, labels=labels, texts=np.array([WORDS[label] for label in labels]))
    systems = {
        "plain": ("ddpm", {"steps": 60, "checkpoint_every": 20}),
        "classes": ("edm", {"conditional": "label"}),
        "words": ("flow-matching", {"conditional": "text"}),
        "classifier": ("noisy-classifier", {}),
        "vae": ("vae", {"latent": 3}),
    }
    shared = {"steps": 4, "batch_size": 16, "width": 8, "lr": 5e-3, "warmup": 5, "ema": 0.9, "keep": 9, "quiet": True}
    for name, (model, options) in systems.items():
        train(model, data, out=folder / name, **shared | options)
    return folder


# From noise to an image


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_stream_starts_at_noise_of_size_one_and_ends_at_the_sample_of_the_seed(name):
    model = built(name)
    for sampler in ("unipc", "heun"):
        frames = list(rv.stream(model, 3, seed=5, sampler=sampler, steps=4))
        assert [frame.progress for frame in frames] == [0, 0.25, 0.5, 0.75, 1]
        rendered = [frame.render() for frame in frames]
        assert all(x.shape == (3, 1, 8, 8) and x.abs().max() <= 1 for images in rendered for x in images.values())
        torch.testing.assert_close(rendered[0]["x"], Noise.of_seeds([5, 6, 7])(1, 8, 8).clamp(-1, 1))
        with torch.no_grad():
            sample = model.sample(Noise.of_seeds([5, 6, 7]), sampler=sampler, steps=4)
        assert torch.equal(rendered[-1]["x"], sample) and torch.equal(*frames[-1].tensors.values())


def test_the_estimate_that_is_shown_is_the_one_made_at_that_x():
    model = built("edm")
    pairs = model.timesteps("ddim", 4)
    frames, denoise = list(rv.stream(model, 2, sampler="ddim", steps=4)), model.denoiser()
    for frame, pair in zip(frames[:-1], pairs, strict=False):
        assert torch.allclose(denoise(frame.tensors["x"], *pair), frame.tensors["x0"], atol=1e-5)


def test_a_stream_leaves_the_mode_of_gradients_and_of_the_model_as_they_were():
    model = built("ddpm").train()
    for frame in rv.stream(model, 2, steps=2):
        assert torch.is_grad_enabled() and not model.training and not frame.render()["x"].requires_grad
    assert model.training
    with pytest.raises(UsageError, match="no option stepz"):  # at once, not with the first frame
        rv.stream(model, 2, stepz=2)


def test_a_film_has_x_above_the_estimate_and_a_strip_has_time_from_left_to_right():
    black, white = -torch.ones(3, 1, 8, 8), torch.ones(3, 1, 8, 8)

    def frame(x, x0):
        return Frame(0.0, {}, lambda: {"x": x, "x0": x0})

    frames = [frame(black, white)] * 29 + [frame(white, black)]
    film = denoising.film(frames)
    middle = film.shape[1] // 2
    assert len(film) == 30 and film[0, 5, 5] == 0 and film[0, middle + 5, 5] == 255 and film[-1, 5, 5] == 255
    strip = denoising.strip(frames, columns=6)
    tile = strip.shape[1] // 6
    assert strip.shape[0] // tile == 6  # for each of 3 samples a row of x and one of estimates
    assert strip[5, 5] == 0 and strip[5, -5] == 255 and strip[tile + 5, 5] == 255 and strip[tile + 5, -5] == 0


def test_a_film_s_last_frame_stays_on(tmp_path):
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.full((1, 160, 160, 1), 50, np.uint8)
    film = Image.open(save_film(tmp_path / "film.gif", frames, seconds=1.0, hold=1.0))
    durations = []
    for index in range(film.n_frames):
        film.seek(index)
        durations.append(film.info["duration"])
    assert durations == [200, 200, 200, 200, 1200]


# From an image to noise


def test_the_forward_process_mixes_image_and_noise_as_the_schedule_says(tiny):
    model, batch = built("flow-matching"), next(in_order(tiny.held_out, 2))
    noise = Noise(batch.rng.keys)(1, 8, 8)
    sheet = denoising.forward(model, batch, columns=3)[..., 0]
    scale = 7  # images of 8 pixels are enlarged to 56, with gaps of 2

    def tile(row, column):
        top, left = 2 + row * (8 * scale + 2), 2 + column * (8 * scale + 2)
        return torch.from_numpy(sheet[top : top + 8 * scale : scale, left : left + 8 * scale : scale].astype(float))

    for row, (image, e) in enumerate(zip(batch["x"][:, 0], noise[:, 0], strict=True)):
        for column, expected in enumerate((image, (image + e) / 2**0.5, e)):
            assert (tile(row, column) - (expected.clamp(-1, 1) + 1) * 127.5).abs().max() < 1


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_schedule_can_be_plotted(name, tmp_path, real_plots):
    model = built(name)
    denoising.schedule_plot(model, tmp_path / "schedule.png")
    assert Image.open(tmp_path / "schedule.png").width > 800


# The command line


def test_a_diffusion_run_samples_by_every_sampler_and_grid(runs, call, tmp_path):
    for sampler in samplers.SAMPLERS:
        assert call("sample", runs / "plain", "-n", 2, "--sampler", sampler, "--steps", 2)[0] == 0
    for grid in grids.GRIDS:
        assert (
            call("sample", runs / "plain", "-n", 2, "--time-grid", grid, "--steps", 3, "--out", f"{grid}.npz")[0] == 0
        )
    images = [np.load(tmp_path / f"{grid}.npz")["images"] for grid in grids.GRIDS]
    assert not np.array_equal(images[0], images[1])
    assert np.array_equal(images[0], rv.sample(runs / "plain", 2, time_grid=next(iter(grids.GRIDS)), steps=3))


def test_the_help_of_a_run_has_what_its_model_can_be_told_and_no_more(runs, call):
    _, out, _ = call("sample", runs / "plain", "--help")
    assert all(
        name in out for name in (*samplers.SAMPLERS, *grids.GRIDS, "--classifier RUN", "--guidance", "default: 10")
    )
    _, out, _ = call("sample", "--help", runs / "vae")
    assert "--time-grid" not in out and "--seed" in out and "--label" in out
    code, out, _ = call("sample", "--help")
    assert code == 0 and "--time-grid" not in out and "sample RUN --help" in out
    _, out, _ = call("evaluate", runs / "plain", "--help")
    assert "--sampler" in out and "--metrics" in out


def test_a_run_is_known_among_flags_wherever_it_stands(runs):
    run, other = str(runs / "plain"), str(runs / "classifier")
    for arguments in ([run, "--classifier", other], ["--classifier", other, run], ["--json", run], ["-n", "4", run]):
        assert named_run(arguments) == run, arguments
    assert named_run(["nowhere", "-n", "4"]) == "nowhere" and named_run(["--help"]) is None


def test_captions_take_turns_and_guidance_counts_them_more():
    model, options = built("flow-matching", conditional="text"), {"steps": 3, "guidance": 20.0}
    both, second = (np.asarray(rv.sample(model, 4, text=text, **options), int) for text in (WORDS, WORDS[1]))
    as_trained = np.asarray(rv.sample(model, 4, text=WORDS[1], steps=3), int)
    assert np.abs(both[1::2] - second[1::2]).max() <= 1 and np.abs(both[::2] - second[::2]).max() > 1
    assert np.abs(as_trained - second).max() > 1


def test_the_command_line_samples_by_words(runs, call, tmp_path):
    flags = ["-n", 4, "--steps", 3, "--text", *WORDS, "--guidance", 5, "--out", "words.npz"]
    assert call("sample", runs / "words", *flags)[0] == 0
    images = rv.sample(runs / "words", 4, steps=3, text=WORDS, guidance=5.0)
    assert np.array_equal(np.load(tmp_path / "words.npz")["images"], images)


def test_a_word_that_no_training_caption_has_is_a_warning(runs):
    with pytest.warns(UserWarning, match="No caption of the training data has unicorn: "):
        rv.sample(runs / "words", 1, steps=1, text="a lying Unicorn")
    assert rv.Run.open(runs / "words").info["caption_words"] == sorted({*WORDS[0].split(), *WORDS[1].split()})


def test_a_strip_says_how_many_of_the_states_it_shows():
    assert states_in(Path("a.png"), 28) == "12 of 28 states" and states_in(Path("a.png"), 12) == "12 states"
    assert states_in(Path("a.webp"), 28) == "28 states"


@pytest.mark.parametrize("ending, frames", [("webp", 4), ("gif", 4), ("png", 1)])
def test_the_stream_is_written_as_its_ending_says(runs, call, tmp_path, ending, frames):
    code, out, _ = call("sample", runs / "plain", "--steps", 3, "--stream", f"way.{ending}", "--json")
    settings = json.loads(out)
    assert settings.pop("weights")["checkpoint"] == 60
    assert code == 0 and settings == {"stream": f"way.{ending}", "frames": 4, "number": 8, "seeds": [0, 7]}
    assert getattr(Image.open(tmp_path / f"way.{ending}"), "n_frames", 1) == frames
    assert not (tmp_path / "samples.png").exists()
    code, out, _ = call("sample", runs / "plain", "--stream", "w.png", "-n", 2, "--out", "two.png", "--json")
    assert code == 0 and {"stream", "out"} <= set(json.loads(out)) and (tmp_path / "two.png").exists()


def test_forward_shows_held_out_or_named_images_and_plots_the_schedule(runs, call, tmp_path):
    code, out, _ = call("forward", runs / "plain", "-n", 2, "--plot", "schedule.png", "--json")
    result = json.loads(out)
    assert code == 0 and result.pop("weights")
    assert result == {"out": "forward.png", "number": 2, "columns": 9, "plot": "schedule.png"}
    assert (tmp_path / "schedule.png").exists()
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(tmp_path / "mine.png")
    assert call("forward", runs / "classes", "mine.png", "--columns", 3, "--out", "f.png")[0] == 0
    assert Image.open(tmp_path / "f.png").width == 3 * 58 + 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["sample", "plain", "--steps", "0"], "--steps of ddpm must be from 1 to 10000"),
        (["sample", "plain", "--sampler", "eulr"], "'euler'"),
        (["sample", "plain", "--time-grid", "karas"], "'karras'"),
        (["sample", "plain", "--label", "0"], "trained without classes"),
        (["sample", "plain", "--text", "a bar"], "trained without captions"),
        (["sample", "plain", "--guidance", "2"], "set --label or --text"),
        (["sample", "plain", "-n", "0", "--stream", "a.webp"], "at least 1"),
        (["sample", "plain", "--stream", "a.xyz"], ".xyz"),
        (["sample", "classes", "--label", "2"], "Classes: 0"),
        (["sample", "classes", "--label", "-1"], "Classes: 0"),
        (["sample", "classes", "--text", "a bar"], "trained without captions"),
        (["sample", "words", "--label", "1"], "trained without classes"),
        (["sample", "vae", "--sampler", "ddim"], "vae has no option --sampler"),
        (["sample", "vae", "--steps", "9"], "edm, flow-matching"),
        (["sample", "vae", "--stream", "a.webp"], "edm, flow-matching"),
        (["sample", "classifier"], "--classifier"),
        (["forward", "vae"], "edm, flow-matching"),
        (["forward", "plain", "--columns", "1"], "--columns must be at least 2"),
        (["forward", "plain", "-n", "0"], "at least 1"),
        (["sample", "plain", "--classifier", "{classifier}"], "needs a class: set --label"),
        (["sample", "plain", "--classifier", "{classifier}", "--label", "7"], "Classes: 0"),
        (["sample", "plain", "--classifier", "{vae}", "--label", "1"], "train noisy-classifier"),
        (["sample", "classes", "--classifier", "{classifier}", "--label", "1"], "class-conditional"),
        (["sample", "plain", "--classifier", "nowhere", "--label", "1"], "nowhere"),
        (["sample", "plain", "--autoguide", "{plain}"], "--guidance above 1"),
        (["sample", "plain", "--autoguide", "{vae}", "--guidance", "2"], "weaker diffusion model"),
        (["sample", "plain", "--autoguide", "{classes}", "--guidance", "2"], "conditions"),
        (["sample", "plain", "--autoguide", "{plain}", "--classifier", "{classifier}", "--label", "1"], "not both"),
        (["evaluate", "vae", "--sampler", "ddim"], "vae has no option --sampler"),
        (
            ["evaluate", "plain", "-n", "20", "--metrics", "kernel", "--steps", "0"],
            "--steps of ddpm must be from 1 to 10000",
        ),
        (["sample", "plain", "--guidance", "nan"], "--guidance: nan is no finite number"),
        (["evaluate", "plain", "--guidance", "inf"], "--guidance: inf is no finite number"),
        (["traverse", "vae", "--reach", "nan"], "--reach: nan is no finite number"),
        (["sample", "vae", "--seed", "99999999999999999999"], "--seed: 99999999999999999999 is beyond 64 bits"),
        (["sample", "vae", "-n", "2", "--seed", str(2**63 - 1)], "A seed is a whole number from"),
        (["interpolate", "vae", f"seed:{2**64}", "held-out:0"], "A seed is a whole number from"),
        (["sample", "vae", "--text", "a bar " * 99], "trained without captions"),
    ],
)
def test_wrong_use_is_an_error_that_exits_with_2(runs, call, arguments, message):
    places = {name: runs / name for name in ("plain", "classes", "classifier", "vae")}
    verb, run, *flags = arguments
    code, _, err = call(verb, runs / run, *(flag.format(**places) for flag in flags))
    assert code == 2 and message in err and "Traceback" not in err, err


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n": 2.5}, "n must be a whole number"),
        ({"n": "3"}, "n must be a whole number"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"seed": 10**20}, "A seed is"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"label": 0.5}, "no class 0.5"),
        ({"label": []}, "label is empty"),
        ({"label": ()}, "label is empty"),
        ({"label": [None]}, "no class None"),
        ({"guidance": float("nan")}, "guidance of edm must be a finite number"),
        ({"guidance": np.float32("inf")}, "guidance of edm must be a finite number"),
        ({"guidance": torch.tensor([1.0, float("nan")])}, "guidance of edm must be a finite number"),
        ({"steps": "3"}, "steps of edm must be a whole number"),
        ({"steps": 2.5}, "steps of edm must be a whole number"),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_name(runs, options, message):
    with pytest.raises(UsageError, match=message):
        rv.sample(runs / "classes", **{"n": 2} | options)


@pytest.mark.parametrize("text", [[], (), 1, [None], ["a lying bar", 2]])
def test_what_is_no_caption_is_refused(runs, text):
    with pytest.raises(UsageError, match="text must be a caption"):
        rv.sample(runs / "words", 2, text=text)
    with pytest.raises(UsageError, match="text must be a caption"):
        rv.restore(runs / "words", torch.zeros(2, 1, 8, 8), text=text, steps=1)


def test_numbers_of_numpy_and_torch_are_numbers(runs):
    model, two = rv.load(runs / "classes"), np.int64(2)
    plain = rv.sample(model, 2, seed=2, label=1, steps=2, guidance=2.0)
    for label in (np.int64(1), torch.tensor([1]), np.array([1, 1])):
        result = rv.sample(model, two, seed=two, label=label, steps=two, guidance=torch.tensor(2.0))
        assert np.array_equal(result, plain)


def test_a_number_is_an_index_and_a_word_is_a_name(runs):
    model = rv.load(runs / "classes")
    model.run["data"]["classes"] = ["1", "0"]
    assert label_index(model, 1) == 1 and label_index(model, "1") == 0
    with pytest.raises(UsageError, match="Classes: 0 1, 1 0"):
        label_index(model, 2)


# The passport


def test_the_passport_says_how_the_run_was_sampled(runs, tmp_path):
    def passport(run, **options):
        result = rv.evaluate(runs / run, metrics=["kernel"], n=130, out=tmp_path / "scores", **options)
        return result["kernel-small"].passport["fake"]

    plain = passport("plain")
    assert plain["sampling"] == {n: p.default for n, p in sampling_options(rv.load(runs / "plain")).items()}
    assert plain["sampling"]["steps"] == 10 and plain["sampling"]["guidance"] == 1.0
    assert plain["labels"] is None and plain["texts"] is None
    fake = passport("classes", sampler="heun", steps=3, time_grid="uniform", guidance=2.0)
    assert [fake["sampling"][key] for key in ("sampler", "steps", "time_grid", "guidance")] == [
        "heun",
        3,
        "uniform",
        2.0,
    ]
    assert fake["labels"] == "as the training data has them"
    weak = passport("plain", autoguide=runs / "plain" / "checkpoints" / "00000020", guidance=1.5, steps=3)
    guide = weak["sampling"]["autoguide"]
    assert guide["checkpoint"] == 20 and guide["weights_sha256"] != weak["weights_sha256"]
    assert passport("plain", classifier=runs / "classifier", steps=3)["labels"] == "as the training data has them"
    assert passport("vae")["sampling"] == {}


def test_the_passport_has_every_argument_of_sampling_given_or_default(bars, call, tmp_path):
    settings = {"steps": 1, "batch_size": 8, "width": 4, "quiet": True}
    run = train("stylegan2", bars, out=tmp_path / "run", **settings)
    for flags, value in (((), 1.0), (("--truncation", 0.5), 0.5)):
        code, out, err = call("evaluate", run.path, "--metrics", "kernel", "-n", 60, *flags, "--json")
        assert code == 0, err
        assert json.loads(out)["scores"][0]["passport"]["fake"]["sampling"] == {"truncation": value}
    code, _, err = call("evaluate", run.path, "--trunctaion", 0.5)
    assert code == 2 and 'Did you mean "--truncation"' in err
    code, _, err = call("evaluate", "--fake", bars, "--real", bars, "--truncation", 0.5)
    assert code == 2 and "truncation" in err


def test_a_run_of_captions_is_scored_with_its_data_s_captions_in_order(runs, monkeypatch, tmp_path):
    from reverie.evaluation import run as evaluation

    used_texts, draw = [], evaluation.sample

    def noted(model, n, seed, **settings):
        used_texts.extend(settings["text"])
        return draw(model, n, seed, **settings)

    monkeypatch.setattr(evaluation, "sample", noted)
    result = rv.evaluate(runs / "words", metrics=["kernel"], n=130, steps=1, out=tmp_path)
    texts = evaluation.data_of(rv.load(runs / "words")).train.get("text")
    assert used_texts == [texts[row] for row in spread(len(texts), 130)] and set(used_texts) == set(WORDS)
    assert result["kernel-small"].passport["fake"]["texts"] == "as the training data has them"


# A classifier that guides


def test_the_classifier_s_answer_depends_on_the_ratio_alone_and_sums_to_one():
    model = built("noisy-classifier", classes=3)
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    both = []
    for scale in (1.0, 50.0):
        log_probs = [model.class_log_prob(scale * x, 0.3 * scale, 0.6 * scale, torch.full((4,), c)) for c in range(3)]
        assert torch.allclose(torch.stack(log_probs).exp().sum(0), torch.ones(4))
        both.append(torch.stack(log_probs))
    assert torch.allclose(*both, atol=1e-5)
    assert not torch.allclose(both[0][0], model.class_log_prob(x, 0.6, 0.3, torch.zeros(4).long()))


def test_images_without_a_class_move_nothing(tiny):
    model = built("noisy-classifier", classes=2).requires_grad_(True)
    batch = next(in_order(tiny.train, 8)) | {"label": torch.full((8,), -1)}
    model.loss(batch)["loss"].backward()
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


def test_a_classifier_needs_two_classes():
    with pytest.raises(UsageError, match="two classes"):
        registry.build("noisy-classifier", shape=8, channels=1, classes=1)


class Remembering(Diffusion):
    """The exact denoiser of its training images: it samples them, whatever the class."""

    def __init__(self, images):
        output = Output("image", (8, 8), 1)
        super().__init__(torch.nn.Linear(1, 1), RectifiedFlow(), "velocity", "velocity", output, Conditioner())
        self.images = images.flatten(1)

    def denoiser(self, label=None, text=None, guidance=1.0, guide=None):
        def exact(x, alpha, sigma):
            gap = x.flatten(1)[:, None] - alpha * self.images
            share = (-gap.square().sum(2) / (2 * sigma**2)).softmax(1)
            return (share @ self.images).view_as(x)

        return exact if guide is None else guide(exact, label, text)


def test_bayes_rule_makes_the_conditional_denoiser_of_an_exact_classifier(tiny):
    train_set = next(in_order(tiny.train, 128))
    model, alone = Remembering(train_set["x"].double()), Remembering(train_set["x"][train_set["label"] == 1].double())

    class Exact:
        card = Card(output=Output("image", (8, 8), 1))

        def class_log_prob(self, x, alpha, sigma, label):
            gap = x.flatten(1)[:, None] - alpha * model.images
            weight = -gap.square().sum(2) / (2 * sigma**2)
            other = train_set["label"] != label[:, None]
            return weight.masked_fill(other, -torch.inf).logsumexp(1) - weight.logsumexp(1)

    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steered = model.denoiser(torch.ones(6).long(), guide=guides.towards_class(model, Exact()))
    for alpha, sigma in ((0.2, 0.8), (0.5, 0.5), (1.0, 3.0)):
        assert torch.allclose(steered(x, alpha, sigma), alone.denoiser()(x, alpha, sigma), atol=1e-10)


def test_a_trained_classifier_steers_a_model_that_knows_no_classes(tiny, runs):
    train_set = next(in_order(tiny.train, 128))
    model = Remembering(train_set["x"])
    flags = {"steps": 250, "batch_size": 64, "width": 16, "quiet": True}
    classifier = rv.load(train("noisy-classifier", str(runs / "bars.npz"), out=runs / "seer", **flags))

    def share(label, scale):
        labels, settings = torch.full((100,), label), {"classifier": classifier, "guidance": scale}
        with torch.no_grad():
            samples = model.sample(Noise.of_seeds(range(100)), label=labels, sampler="ddim", steps=30, **settings)
        nearest = torch.cdist(samples.flatten(1), model.images).argmin(1)
        return float((train_set["label"][nearest] == label).float().mean())

    assert share(0, 4.0) > 0.85 and share(1, 4.0) > 0.85
    assert 0.3 < share(0, 0.0) < 0.7


def test_a_scale_of_zero_is_off_and_the_classifier_keeps_rows_apart(runs):
    run, classifier = runs / "plain", runs / "classifier"
    plain = rv.sample(run, 5, steps=3)
    off = rv.sample(run, 5, steps=3, classifier=classifier, label=1, guidance=0.0)
    assert np.array_equal(plain, off)
    steered = rv.sample(run, 5, steps=3, classifier=classifier, label=[0, 1], guidance=30.0)
    assert not np.array_equal(plain, steered)
    alone = rv.sample(run, 1, seed=3, steps=3, classifier=classifier, label=1, guidance=30.0)
    pieces = rv.sample(run, 5, steps=3, classifier=classifier, label=[0, 1], guidance=30.0, chunk=2)
    assert np.abs(steered[3].astype(int) - alone[0]).max() <= 1 and np.abs(np.asarray(steered, int) - pieces).max() <= 1


# A weaker model that guides


def test_autoguidance_goes_on_along_the_line_from_the_weaker_estimate(runs):
    model, weaker = rv.load(runs / "plain"), rv.load(runs / "plain" / "checkpoints" / "00000020")
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    strong, weak = (net.conditioned()(x, torch.full((3,), 499.0)) for net in (model, weaker))
    alpha, sigma = (float(part) for part in model.schedule.alpha_sigma(torch.tensor(0.5)))
    x0 = [(x - sigma * noise) / alpha for noise in (strong, weak)]
    guided = model.denoiser(guide=guides.away_from(model, weaker, 1.5))(x, alpha, sigma)
    assert torch.allclose(guided, (x0[1] + 1.5 * (x0[0] - x0[1])).clamp(-1, 1), atol=1e-4)
    assert not torch.allclose(*x0, atol=1e-4)


def test_a_run_that_guides_itself_changes_nothing(runs, call, tmp_path):
    flags = ["sample", runs / "plain", "-n", 3, "--steps", 3]
    assert call(*flags, "--out", "plain.npz")[0] == 0
    assert call(*flags, "--autoguide", runs / "plain", "--guidance", 1.5, "--out", "itself.npz")[0] == 0
    earlier = runs / "plain" / "checkpoints" / "00000020"
    assert call(*flags, "--autoguide", earlier, "--guidance", 9, "--out", "away.npz")[0] == 0
    plain, itself, away = (np.load(tmp_path / f"{n}.npz")["images"].astype(int) for n in ("plain", "itself", "away"))
    assert np.abs(plain - itself).max() <= 1 and np.abs(plain - away).max() > 1


def test_latents_of_another_codec_do_not_guide():
    model, weaker = (built("latent-diffusion", latent=3, codec_width=8) for _ in range(2))
    guides.away_from(model, weaker, 1.5)
    with torch.no_grad():
        next(weaker.latent_codec.codec.parameters()).add_(1)
    with pytest.raises(UsageError, match="another codec"):
        guides.away_from(model, weaker, 1.5)
