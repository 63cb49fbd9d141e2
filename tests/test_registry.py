"""The registry is open to a user's own code, and closed to what a file says."""

from __future__ import annotations

import json
from typing import Annotated

import numpy as np
import pytest
import torch
from torch import nn

import reverie as rv
from processes import reverie
from reverie.commands.flags import run_flags, train_flags
from reverie.commands.sample import SampleFlags
from reverie.core import registry
from reverie.core.annotations import SubRun
from reverie.core.errors import UsageError
from reverie.data.types import Dataset, Report, Split
from reverie.workflow.again import rerun, resume

MODULE = '''
import torch
from torch import nn
import reverie as rv
from reverie.optim.phase import Phase, Stage

class Mean(nn.Module):
    """The mean image, and noise.

    Args:
        start: value of every pixel at the beginning.
    """

    def __init__(self, size: rv.Side, channels: rv.Channels, start: float = 0.0):
        super().__init__()
        self.mean = nn.Parameter(torch.full((channels, size, size), start))

    def stages(self, lr: float = 0.1):
        return [Stage([Phase("mean", torch.optim.SGD(self.parameters(), lr), self.loss)])]

    def loss(self, batch, outputs=None):
        return {"loss": (batch["x"] - self.mean).square().mean()}

    def sample(self, noise, loudness: float = 0.5):
        """Draw.

        Args:
            loudness: standard deviation of the noise.
        """
        return (self.mean + loudness * noise(*self.mean.shape)).clamp(-1, 1)

@rv.register("mean-image", title="The mean image")
def mean_image(size: rv.Side, channels: rv.Channels, start: float = 0.25) -> Mean:
    """The mean image, by a function."""
    return Mean(size, channels, start)
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "their_models.py").write_text(MODULE)
    return tmp_path


FLAGS = ["--steps", 4, "--batch-size", 8, "--device", "cpu"]


def test_a_model_of_the_user_s_own_trains_and_samples_from_the_command_line_under_either_name(folder, bars):
    for name, imports in (("their_models:Mean", "their_models:Mean"), ("mean-image", "their_models")):
        out, environment = (
            folder / name.replace(":", "-"),
            {"REVERIE_IMPORT": "their_models"} if ":" not in name else {},
        )
        done = reverie("train", name, "--data", bars, *FLAGS, "--start", 0.5, "--out", out, cwd=folder, **environment)
        assert done.returncode == 0, done.stderr
        assert json.loads((out / "run.json").read_text())["model"]["name"] == name
        done = reverie("sample", out, "-n", 2, cwd=folder)
        assert done.returncode == 2 and "REVERIE_IMPORT" in done.stderr, done.stderr
        done = reverie("sample", out, "-n", 2, "--loudness", 0.1, "--out", "a.npz", cwd=folder, REVERIE_IMPORT=imports)
        assert done.returncode == 0 and np.load(folder / "a.npz")["images"].shape == (2, 8, 8, 1), done.stderr
        done = reverie("sample", out, "--help", cwd=folder, REVERIE_IMPORT=imports)
        assert "--loudness FLOAT" in done.stdout and "standard deviation of the noise" in done.stdout


def test_help_and_the_list_of_models_know_what_was_registered(folder):
    done = reverie("train", "mean-image", "--help", cwd=folder, REVERIE_IMPORT="their_models")
    assert "value of every pixel" in done.stdout and "default: 0.25" in done.stdout
    done = reverie("models", cwd=folder, REVERIE_IMPORT="their_models")
    assert "mean-image" in done.stdout and "The mean image" in done.stdout and "can sample" in done.stdout


@pytest.mark.parametrize("name", ["os:system", "no.such.module:thing", "subprocess:run"])
def test_a_file_never_chooses_code(bars, tmp_path, name):
    run = rv.train("vae", bars, out=tmp_path / "run", steps=1, batch_size=8, width=8, quiet=True)
    run.info["model"]["name"] = name
    run.update(status="stopped")
    repeat = lambda: rerun(run.path, tmp_path / "again")  # noqa: E731
    for attempt in (lambda: resume(run.path), repeat, lambda: run_flags(SampleFlags, "sample", [str(run.path)], "")):
        with pytest.raises(UsageError, match=r"a file never chooses code.*REVERIE_IMPORT"):
            attempt()
    with pytest.raises(UsageError, match="never chooses code"):
        registry.build(name)
    assert name not in registry.MODELS


@pytest.fixture
def models(monkeypatch):
    """The registry, put back afterwards."""
    before = dict(registry.MODELS)
    yield registry.MODELS
    registry.MODELS.clear()
    registry.MODELS.update(before)


def doubled(size: rv.Side, channels: rv.Channels, inner: Annotated[dict | str, SubRun()] = "") -> nn.Linear:
    """A function is a system."""
    return nn.Linear(size, 2 * channels)


def test_a_run_of_a_registered_model_names_the_module_that_makes_it_known(bars, tmp_path, models):
    @rv.register("passing")
    class Passing(nn.Module):
        def __init__(self, size: rv.Side, channels: rv.Channels):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(channels, size, size))

        def stages(self):
            loss = lambda batch, outputs: {"loss": (batch["x"] - self.w).square().mean()}  # noqa: E731
            return [rv.Stage([rv.Phase("fit", torch.optim.SGD(self.parameters(), 0.1), loss)])]

    run = rv.train("passing", bars, steps=1, out=tmp_path / "run", quiet=True)
    del models["passing"]
    for call in (rv.load, lambda path: rv.resume(path, steps=2)):
        with pytest.raises(UsageError, match=rf"never chooses code.*REVERIE_IMPORT={__name__}"):
            call(run.path)


def test_a_function_is_a_system_and_its_signature_the_configuration(models):
    assert rv.register("doubled")(doubled) is doubled
    assert list(registry.signature("doubled")) == ["size", "channels", "inner"]
    assert list(registry.sub_runs("doubled")) == ["inner"] and registry.entry("doubled").kind() is nn.Linear
    model = rv.build("doubled", size=3, channels=1)
    assert isinstance(model, nn.Linear) and model.config["kwargs"] == {"size": 3, "channels": 1, "inner": ""}
    name = f"{__name__}:doubled"
    assert rv.build(name, size=3, channels=1).config["name"] == name and name in models


class Mean(nn.Module):
    """The mean image."""

    def __init__(this, shape: rv.Shape, channels: rv.Channels, start: float = 0.0, names: tuple = ()):
        super().__init__()
        this.mean = nn.Parameter(torch.full((channels, *shape), start))

    def stages(this, lr: float = 0.1):
        return [rv.Stage([rv.Phase("mean", torch.optim.SGD(this.parameters(), lr), this.loss)])]

    def loss(this, batch, outputs=None):
        return {"loss": (batch["x"] - this.mean).square().mean()}

    def sample(this, noise, loud: float = 0.5, sizes: tuple[int, ...] = (1,), names: tuple = (), show=repr, k=1):
        assert isinstance(names, tuple) and callable(show)
        return (this.mean + loud * noise(*this.mean.shape)).clamp(-1, 1)


class Taken(Mean):
    def sample(self, noise, seed: int = 3, out: str = "", chunk: int = 2):
        return noise(*self.mean.shape)


class Needy(Mean):
    def sample(self, noise, loud):
        return loud * noise(*self.mean.shape)


class Repeats(Mean):
    def __init__(self, shape: rv.Shape, channels: rv.Channels, lr: float = 1.0):
        super().__init__(shape, channels)


class Length(Mean):
    def __init__(self, shape: rv.Shape, channels: rv.Channels, steps: int = 1):
        super().__init__(shape, channels)


@pytest.fixture
def mean(models, bars, tmp_path):
    """A run of ``Mean``, or of another class."""

    def mean(kind=Mean, name="run"):
        rv.register(kind.__name__)(kind)
        return rv.train(kind.__name__, bars, out=tmp_path / name, steps=2, batch_size=8, quiet=True).path

    return mean


def test_what_no_flag_can_give_is_for_python_alone_and_never_in_the_way(mean, call):
    run = mean()
    _, out, _ = call("sample", run, "--help")
    assert all(flag in out for flag in ("--loud FLOAT", "--sizes", "--k INT"))
    assert not any(flag in out for flag in ("--names", "--show", "--this"))
    _, out, _ = call("train", "Mean", "--help")
    assert "--start FLOAT" in out and "--names" not in out
    code, _, err = call("sample", run, "-n", 2, "--sizes", 3, 4)
    assert code == 0, err
    code, out, err = call("evaluate", run, "--metrics", "kernel", "-n", 60, "--sizes", 3, 4, "--json")
    assert code == 0, err
    how = json.loads(out)["scores"][0]["passport"]["fake"]["sampling"]
    assert how == {"loud": 0.5, "sizes": [3, 4], "names": [], "show": "repr", "k": 1}
    assert rv.sample(run, 3, names=("a", "b"), chunk=2).shape[0] == 3


@pytest.mark.parametrize("verb", ["sample", "evaluate"])
def test_an_option_named_as_a_flag_of_the_command_is_an_error_that_says_which(mean, call, verb):
    code, _, err = call(verb, mean(Taken))
    assert code == 2 and f"reverie {verb} already uses: seed, out, chunk" in err, err


def test_an_option_without_a_default_is_asked_for(models):
    rv.register("needy")(Needy)
    model = rv.build("needy", shape=(2, 2), channels=1)
    with pytest.raises(UsageError, match="does not sample without loud"):
        rv.sample(model, 1)
    assert rv.sample(model, 1, loud=0.1).shape == (1, 2, 2, 1)


@pytest.mark.parametrize(
    "kind, message", [(Repeats, r"its stages\(\) already uses: lr"), (Length, "train already uses: steps")]
)
def test_an_argument_of_a_constructor_that_has_another_meaning_in_training_is_refused(models, kind, message):
    rv.register("mine")(kind)
    with pytest.raises(UsageError, match=message):
        train_flags("mine", "none", [], "")


def test_the_data_decides_arguments_by_their_annotation_and_not_by_their_name(models, tiny):
    def named(height: rv.Side, planes: rv.Channels, kinds: rv.Classes = 0, size: int = 5) -> nn.Linear:
        return nn.Linear(height, planes)

    def bare(shape, channels) -> nn.Linear:
        return nn.Linear(*shape)

    rv.register("named")(named)
    rv.register("bare")(bare)
    assert rv.build("named", tiny).config["kwargs"] == {"height": 8, "planes": 1, "kinds": 2, "size": 5}
    assert rv.build("named", tiny, height=3).in_features == 3
    with pytest.raises(UsageError, match=r"without shape, channels.*rv\.Shape"):
        rv.build("bare", tiny)
    x = np.zeros((20, 8, 12, 1), np.uint8)
    splits = Split({"x": x[:12]}), Split({"x": x[12:]})
    wide = Dataset("wide", splits[0].spec, [], *splits, "0" * 64, Report(20))
    with pytest.raises(UsageError, match="square images"):
        rv.build("named", wide)


def test_names_that_are_taken_or_lead_nowhere_are_refused(models):
    with pytest.raises(UsageError, match="taken"):
        rv.register("vae")
    for name, message in (
        ("json:nothing", "no 'nothing'"),
        ("no_such_module:x", "no_such_module"),
        ("json:__name__", "nei"),
    ):
        with pytest.raises(UsageError, match=message):
            rv.build(name)


def test_packages_bring_models_by_entry_points(models, monkeypatch):
    points = [registry.metadata.EntryPoint("theirs", f"{__name__}:doubled", "reverie.models")]
    points.append(registry.metadata.EntryPoint("vae", "json:loads", "reverie.models"))  # a built-in name stays
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: points if group == "reverie.models" else [])
    monkeypatch.setattr(registry, "_WAITING", [True])
    assert registry.entry("theirs").load() is doubled and registry.entry("vae").load().__name__ == "vae"
    points.append(registry.metadata.EntryPoint("broken", "no_such_package:x", "reverie.models"))
    monkeypatch.setattr(registry, "_WAITING", [True])
    assert "theirs" in registry.names() and "broken" in registry.names()
    assert "broken" not in registry.where(lambda entry: bool(entry.kind()))


def test_a_wrong_import_is_told_with_the_variable_s_name(monkeypatch, models):
    monkeypatch.setattr(registry, "_WAITING", [True])
    monkeypatch.setenv("REVERIE_IMPORT", "no_such_module")
    with pytest.raises(UsageError, match=r"REVERIE_IMPORT: .*no_such_module"):
        registry.names()
