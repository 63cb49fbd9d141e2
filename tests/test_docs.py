"""The documentation: its links resolve, its commands and its Python run in tiny form, its names exist.

A command is made tiny by ``tiny``: few steps, narrow networks, small data of the same classes and captions under the
names of the real sets. A run that a command needs is trained by the documented command that names it.
"""

from __future__ import annotations

import doctest
import functools
import importlib
import inspect
import re
import shlex
import shutil
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import reverie as rv
from random_networks import random_weights
from reverie.cli import main
from reverie.commands import COMMANDS
from reverie.core import registry
from reverie.core.options import has_flag
from reverie.data import bundled, public
from reverie.data.arrays import of_images
from reverie.pretrained import weights

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(DOCS.rglob("*.md"))
HISTORY = [DOCS / "decisions.md", DOCS / "log.md"]  # they may name options of earlier versions

SKIPPED = {  # commands that are parsed but not run, by a part of them
    "--medium video": "needs films, see tests/data/test_clips.py",
    "--medium volume": "needs volumes, see tests/data/test_volumes.py",
    "stylize photo.jpg": "takes minutes; test_style runs the command on a network of random weights",
    "--metrics fid,kid": "needs Inception's weights from the network",
    "--reference ": "needs Inception's weights; test_reference_file runs it",
    "--real photos/ --save-stats": "needs Inception's weights; test_reference_file runs it",
    "--net resnet50": "needs its weights from the network",
    "--film zoom.webp --frames 100": "a hundred frames; test_dream makes three",
    "filters vgg16 --page": "thousands of filters; test_filters makes a page of few",
}
SKIPPED_BLOCKS = {  # Python that is not run, by its first line
    "from diffusers import DiffusionPipeline": "loads code from the exported folder; test_interop runs the same",
    "from reverie import Noise": "goes on from the pipeline of the block before; test_interop runs the same",
}


# Reading the pages


@dataclass(frozen=True)
class Block:
    """A fenced code block."""

    page: Path
    line: int  # of its first line of code, from 1
    language: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A documented command: the words after ``reverie``, and the variables set before it."""

    id: str
    words: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()


FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[Block]:
    result = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in FENCE.finditer(text):
            line = text[: match.start()].count("\n") + 2
            result.append(Block(page, line, match[2], match[3]))
    return result


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text("utf-8"))


def commands() -> list[Command]:
    result = []
    for block in blocks():
        if block.language not in ("", "sh"):
            continue
        for offset, line in enumerate(block.text.splitlines()):
            if not re.match(r"(\$ )?([A-Z_]+=\S+ )*reverie ", line + " "):
                continue
            words = shlex.split(line.removeprefix("$ "), comments=True)
            environment = []
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                name, _, value = words.pop(0).partition("=")
                environment.append((name, value))
            id = f"{block.page.relative_to(ROOT)}:{block.line + offset} {' '.join(words[1:4])}"
            result.append(Command(id, tuple(words[1:]), tuple(environment)))
    return result


BLOCKS, ALL = blocks(), commands()
PYTHON = sorted({block.page for block in BLOCKS if block.language == "python"})


# Links


def slug(heading: str) -> str:
    """The anchor of a heading, on GitHub and on the site."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(text) for text in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_anchors_resolve(page):
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page if not name else (page.parent / name).resolve()
        inside = page.parent != ROOT and name and DOCS not in file.parents  # the site has docs/ only
        if not file.exists() or inside or (anchor and slug(anchor) not in anchors(file)):
            broken.append(target)
    assert not broken


def test_every_image_of_the_documentation_is_used():
    used = {Path(target).name for page in PAGES for target in re.findall(r"\]\(([^)\s]+\.png)\)", prose(page))}
    assert {file.name for file in (DOCS / "pictures").glob("*.png")} <= used


def test_the_readme_is_short_and_begins_with_its_two_commands():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) < 200
    first = next(FENCE.finditer(text))[3].splitlines()
    assert [line.split()[0] for line in first] == ["pip", "pip"]


# Names


def known_flags() -> set[str]:
    from reverie.commands.evaluate import EvaluateFlags
    from reverie.commands.flags import Request
    from reverie.commands.sample import SampleFlags
    from reverie.commands.translate import TranslateFlags
    from reverie.training.options import Options

    names = {"help", "nproc_per_node", "standalone", "strict", "model", "only"}  # torchrun, mkdocs, benchmarks
    for kind in (EvaluateFlags, Request, SampleFlags, TranslateFlags, Options):
        names |= set(kind.__dataclass_fields__)
    for model in registry.BUILT_IN:
        entry = registry.entry(model)
        parameters = registry.signature(model) | registry.stage_options(model) | entry.sampling
        names |= {name for name, parameter in parameters.items() if has_flag(parameter)}
    for verb in COMMANDS:
        names |= {name.rstrip("_") for name in inspect.signature(command_of(verb)).parameters}
    return {"--" + name.replace("_", "-") for name in names} | {"--nproc_per_node"}


def command_of(verb: str):
    import reverie.commands

    return getattr(reverie.commands, "import_" if verb == "import" else verb)


def test_every_flag_that_is_named_exists():
    flags = known_flags()
    for page in PAGES:
        if page not in HISTORY:
            named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", page.read_text("utf-8")))
            named = {flag.replace("--no-", "--") if flag.replace("--no-", "--") in flags else flag for flag in named}
            named -= {"--start", "--loudness", "--samples", "--minutes"}  # of the models of extending.md; benchmarks
            assert named <= flags, f"{page.name}: {sorted(named - flags)}"


def test_every_verb_that_is_named_exists():
    for page in PAGES:
        named = set(re.findall(r"`reverie ([a-z]+)", page.read_text("utf-8")))
        assert named <= set(COMMANDS), page.name


def test_the_api_reference_has_every_public_name_and_model():
    text = "\n".join(page.read_text("utf-8") for page in (DOCS / "api").glob("*.md"))
    missing = [name for name in rv.__all__ if not re.search(rf"\b{name}\b", text)]
    assert not missing
    headings = set(re.findall(r'heading: "rv\.models\.(\w+)"', text))
    assert headings == {name.replace("-", "_").replace("++", "_pp") for name in registry.BUILT_IN}
    for path in re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE):
        module, _, name = path.rpartition(".")
        try:
            exists = hasattr(importlib.import_module(module), name)
        except ModuleNotFoundError:
            exists = False
        assert exists or importlib.import_module(path), path


def test_guides_name_every_metric_view_and_callback():
    from reverie.evaluation.metrics import METRICS
    from reverie.views import VIEWS

    metrics, using, training = ((DOCS / f"{name}.md").read_text("utf-8") for name in ("metrics", "using", "training"))
    assert all(f"`{name}`" in metrics for name in METRICS)
    assert all(f"`{name}`" in using for name in VIEWS)
    assert all(f"`{name}`" in training for name in rv.callbacks.__all__ if name != "Callback")


def test_every_problem_in_the_table_of_difficult_files_is_one_that_the_intake_reports():
    table = (DOCS / "data.md").read_text("utf-8").partition("## Difficult files")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    source = "\n".join(
        file.read_text("utf-8") for part in ("data", "media") for file in (ROOT / "src/reverie" / part).rglob("*.py")
    )
    unknown = [kind for row in rows for kind in re.findall(r"`([\w-]+)`", row) if f'"{kind}"' not in source]
    assert rows and not unknown


# A small world: data under the real names, files, runs


def images_of(count: int, channels: int, seed: int) -> np.ndarray:
    """uint8 (count, 16, 16, channels): a rectangle of a random place and shade in each."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 16, 16, channels), np.uint8)
    for image in images:
        top, left = rng.integers(0, 8, 2)
        image[top : top + 8, left : left + 8] = rng.integers(60, 256, channels)
    return images + rng.integers(0, 20, images.shape, np.uint8).astype(np.uint8) // 2


def of_classes(names: list[str], channels: int):
    images = images_of(200, channels, len(names))
    return of_images(images, np.arange(200) % len(names), names, 140)


def small_emoji():
    images = images_of(120, 3, 1)
    texts = ["red heart", "grinning face", "green apple", "a cat"] * 30
    return of_images(images, np.arange(120) % 4, list("abcd"), 60, text=texts, source=255 - images)


def small_public(name, progress=None):
    if name == "cifar10":
        return of_classes(public.CIFAR, 3)
    return of_classes(bundled.FASHION_CLASSES, 1)


class World:
    """A folder with files and runs, and the command line in it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.trained: dict[tuple[str, ...], Path] = {}  # tiny training commands that ran, and their runs
        self.done: set[tuple[str, ...]] = set()  # other tiny commands that ran
        self.sources = {}  # name of a run -> the first documented command that makes it
        for command in ALL:
            if (name := run_of(command.words)) is not None:
                self.sources.setdefault(name, command)

    def files(self) -> None:
        for folder, count, channels in (
            ("photos", 60, 3),
            ("samples", 60, 3),
            ("pictures", 60, 3),
            ("sprites", 60, 4),
            ("paintings", 4, 3),
            ("two-folders/A", 12, 3),
        ):
            path = self.folder / folder
            path.mkdir(parents=True)
            for i, image in enumerate(images_of(count, channels, len(folder))):
                Image.fromarray(image).save(path / f"{i}.png")
        (self.folder / "two-folders/B").mkdir()
        for i, image in enumerate(images_of(12, 3, 99)):
            Image.fromarray(image).save(self.folder / f"two-folders/B/other-{i}.png")
        for i, name in enumerate(("photo", "a", "b", "painting", "cat")):
            Image.fromarray(images_of(1, 3, i)[0]).save(self.folder / f"{name}.png")
        Image.fromarray(images_of(1, 3, 5)[0]).save(self.folder / "flower.jpg")
        np.savez(self.folder / "series.npz", series=np.random.default_rng(0).uniform(-1, 1, (60, 12, 1)))
        film = [Image.fromarray(image) for image in images_of(3, 3, 5)]
        film[0].save(self.folder / "film.gif", save_all=True, append_images=film[1:])
        for block in BLOCKS:
            if match := re.match(r"# (\w+\.py)\n", block.text):
                (self.folder / match[1]).write_text(block.text)

    def call(self, words: tuple[str, ...], environment: tuple[tuple[str, str], ...] = ()) -> None:
        registry._WAITING[:] = [True] * bool(environment)  # REVERIE_IMPORT is otherwise read once in a process
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
            for name, value in environment:
                patch.setenv(name, value)
            main(list(words))
        assert ended.value.code == 0, " ".join(("reverie", *words))

    def run(self, command: Command) -> None:
        """Run a command in tiny form, after the runs that it needs."""
        output = run_of(command.words)
        self.ensure(" ".join(command.words), except_for=output)
        words = tiny(command.words)
        if output is None:
            if words not in self.done:
                self.call(words, command.environment)
            self.done.add(words)
            if "--out" in words and (folder := Path(words[words.index("--out") + 1])).is_dir():
                shutil.rmtree(folder)  # another command writes a folder of this name
        elif words not in self.trained:
            target = Path(output)
            target = target if not target.exists() else Path(f"others/{len(self.trained)}")
            self.call((*words, "--out", str(target)), command.environment)
            self.trained[words] = target
        elif not Path(output).exists():
            shutil.copytree(self.trained[words], output)

    def ensure(self, text: str, except_for: str | None = None) -> None:
        """Make the runs and folders that a text names."""
        if "ddpm-cifar10-32" in text and not Path("ddpm-cifar10-32").exists():
            textbook = ["train", "ddpm-textbook", "--data", "cifar10", "--out", "runs/textbook"]
            self.call(tiny(tuple(textbook)) + ("--out", "runs/textbook"))
            self.call(("export", "runs/textbook", "ddpm-cifar10-32"))
        for name in dict.fromkeys(re.findall(r"\bruns/[\w+-]+", text)):
            if name not in (except_for, "runs/imported") and not Path(name).exists():
                assert name in self.sources, f"no documented command makes {name}"
                self.run(self.sources[name])


TRAINING = ("train", "distill", "rerun", "import")


def run_of(words: tuple[str, ...]) -> str | None:
    """The run that a training command makes; None of other commands."""
    if not words or words[0] not in TRAINING or "--help" in words:
        return None
    if "--out" in words:
        return words[words.index("--out") + 1]
    data = words[words.index("--data") + 1] if "--data" in words else "fashion"
    if words[0] == "distill":
        flow = words[1].startswith("runs/tarflow")
        model = "editor" if "--direction" in words else "learned-inverse" if flow else "distilled"
        return f"runs/{model}-{words[1].rpartition('-')[2]}"
    model = words[1] if len(words) > 1 and not words[1].startswith("-") else "vae"
    return f"runs/{model.rpartition(':')[2]}-{Path(data).name}"


NARROW = {
    "rbm": ("--hidden", "8"),
    "dbn": ("--hidden", "8", "6"),
    "pixelcnn": ("--width", "8", "--depth", "1"),
    "pixelcnn++": ("--widths", "4", "6", "--depth", "1"),
    "dit": ("--width", "64", "--depth", "1"),
    "ddpm-textbook": ("--widths", "8", "8", "8", "--norm-groups", "4"),
    "latent-diffusion": ("--width", "8", "--codec-width", "8"),
    "distilled": (),
    "tarflow": ("--width", "16", "--depths", "1", "1"),
    "stacked-autoencoder": (),
    "style-net": ("--width", "8", "--encoder", "small"),
    "adain": ("--width", "8", "--encoder", "small", "--views", "8"),
    "mine": (),
    "mine:Mean": (),
}


def tiny(words: tuple[str, ...]) -> tuple[str, ...]:
    """The same command on small data, of few steps, samples and channels; without the run that it makes."""
    verb, rest = words[0], list(words[1:])
    if "--help" in rest:
        return words
    replaced: dict[str, str] = {}
    added: tuple[str, ...] = ()
    if verb in TRAINING:
        drop(rest, "--out")
    if verb == "train":
        named = bool(rest) and not rest[0].startswith("-")
        model = rest[0] if named else "vae"
        for flag in ("--minutes", "--steps", "--batch-size", "--width", "--depth"):
            drop(rest, flag)
        narrow = NARROW.get(model, ("--width", "8"))
        added = ("--steps", "2", "--batch-size", "8", "--precision", "fp32", *narrow)
        replaced = {"--size": "16"}
        if any(mark in rest for mark in ("pictures", "~/pictures", "two-folders")) and "--size" not in rest:
            added += ("--size", "16")
    elif verb == "distill":
        replaced, added = {"--minutes": "0.005"}, () if "--minutes" in rest else ("--minutes", "0.005")
    elif verb == "resume":
        replaced = {"--minutes": "0.005", "--steps": "4"}
    elif verb in ("sample", "evaluate", "restore"):
        replaced = {"-n": "60" if verb == "evaluate" else "2", "--steps": "3", "--samples": "2"}
        if "-n" not in rest and verb != "restore" and "--stream" not in rest:
            added = ("-n", replaced["-n"])
        if verb == "restore" and "--steps" not in rest:
            added = ("--steps", "3", "-n", "2")
    elif verb == "filters":
        trains = "--weights" not in rest and len(rest) > 1 and not rest[1].startswith("--")  # images for a layer
        replaced, added = {"--steps": "1"}, ("--steps", "1") if trains and "--steps" not in rest else ()
    elif verb == "pretrain":
        replaced = {"--labels": "10,20"}
        added = ("--seeds", "2", "--steps", "2")
    elif verb == "interpolate":
        replaced = {"--frames": "3"}
        added = () if "--frames" in rest else ("--frames", "3")
    for flag, value in replaced.items():
        if flag in rest:
            rest[rest.index(flag) + 1] = value
    return (verb, *rest, *added)


def drop(words: list[str], flag: str) -> None:
    if flag in words:
        index = words.index(flag)
        del words[index : index + 2]


@pytest.fixture(scope="module")
def world(tmp_path_factory, home):
    folder = tmp_path_factory.mktemp("docs")
    models, modules, path = dict(registry.MODELS), set(sys.modules), list(sys.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOME", str(folder))
        fashion, emoji = of_classes(bundled.FASHION_CLASSES, 1), small_emoji()
        patch.setattr(bundled, "BUNDLED", {"fashion": lambda: fashion, "emoji": lambda: emoji})
        patch.setattr(public, "load_public", small_public)
        patch.setattr(weights, "load", random_weights)
        world = World(folder)
        world.files()
        yield world
        registry.MODELS.clear()
        registry.MODELS.update(models)
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if name == "mine" or name.startswith("docs_"):
                del sys.modules[name]


# Commands


def reason_to_skip(command: Command) -> str | None:
    return next((reason for part, reason in SKIPPED.items() if part in " ".join(command.words)), None)


def parse_only(command: Command) -> None:
    """Check a command's verb, flags and values without running it."""
    verb, rest = command.words[0], list(command.words[1:])
    from reverie.commands import flags
    from reverie.commands.evaluate import EvaluateFlags
    from reverie.commands.sample import SampleFlags
    from reverie.commands.shared import parse
    from reverie.commands.translate import TranslateFlags

    of_run = {"sample": SampleFlags, "translate": TranslateFlags, "evaluate": EvaluateFlags}
    if verb == "train":
        flags.train_flags(rest[0], "fashion", rest[1:], "")
    elif verb in of_run:
        flags.run_flags(of_run[verb], verb, rest, "")
    else:
        function = command_of(verb)
        parse(functools.wraps(function)(lambda *arguments, **options: None), rest, verb)


@pytest.mark.filterwarnings("ignore:photos is the data set of that name")
@pytest.mark.parametrize("command", ALL, ids=lambda command: command.id)
def test_documented_commands_run(command, world, capsys):
    if reason_to_skip(command):
        world.ensure(" ".join(command.words))
        parse_only(command)
        return
    world.run(command)


def test_every_skipped_command_and_block_is_still_documented():
    text = "\n".join(" ".join(command.words) for command in ALL)
    assert all(part in text for part in SKIPPED)
    first = {block.text.splitlines()[0] for block in BLOCKS if block.language == "python"}
    assert set(SKIPPED_BLOCKS) <= first


# Python


@pytest.fixture
def small(world, monkeypatch):
    """``rv.train`` and others with few steps, narrow networks and no output."""
    from reverie.evaluation.run import evaluate
    from reverie.training.loop import fit
    from reverie.workflow.again import resume
    from reverie.workflow.train import train

    def small_train(model="vae", data="fashion", **options):
        options.pop("minutes", None)
        width = {"width": 8} if model == "vae" else {}
        return train(model, data, **options | width | {"steps": 2, "batch_size": 8, "quiet": True})

    def small_fit(model, data=None, **options):
        return fit(model, data, **options | {"steps": 2, "batch_size": 8})

    def small_resume(run, **options):
        return resume(run, steps=4, quiet=True)

    monkeypatch.setattr(rv, "train", small_train, raising=False)
    monkeypatch.setattr(rv, "fit", small_fit, raising=False)
    monkeypatch.setattr(rv, "resume", small_resume, raising=False)
    monkeypatch.setattr(rv, "evaluate", functools.partial(evaluate, n=130), raising=False)
    monkeypatch.setattr(rv, "interpolate", functools.partial(rv.interpolate, frames=3), raising=False)
    sample_into = rv.sample_into
    monkeypatch.setattr(rv, "sample_into", lambda *a, **k: sample_into(*a[:2], min(a[2], 50), **k), raising=False)


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: str(page.relative_to(ROOT)))
def test_documented_python_runs(page, world, small, capsys):
    """The blocks of a page, one after the other, in one namespace; outputs after ``>>>`` are compared."""
    name = f"docs_{page.stem}"
    module = sys.modules[name] = types.ModuleType(name)  # dataclasses look their module up
    namespace = vars(module)
    for block in (block for block in BLOCKS if block.page == page and block.language == "python"):
        if block.text.splitlines()[0] in SKIPPED_BLOCKS:
            continue
        world.ensure(block.text)
        if ">>>" in block.text:
            test = doctest.DocTestParser().get_doctest(block.text, namespace, block.id, str(page), block.line)
            report: list[str] = []
            result = doctest.DocTestRunner().run(test, out=report.append, clear_globs=False)
            namespace.update(test.globs)
            assert not result.failed, "".join(report)
        else:
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)


# The site


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings_handlers.python")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True)
        config.plugins.on_startup(command="build", dirty=False)
        build(config)
    pages = [page.relative_to(DOCS).with_suffix(".html") for page in DOCS.rglob("*.md")]
    assert all((tmp_path / "site" / page).is_file() for page in pages)
