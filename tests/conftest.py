"""Tiny images for every test: 8x8, two classes that one can tell apart."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: a second thread costs more than it brings

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from reverie.cli import main
from reverie.data.types import Dataset, Report, Split
from reverie.media import plots
from reverie.pretrained import weights
from run_cases import blank_plot

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def signals_as_in_a_terminal():
    """SIGINT interrupts, SIGTERM ends: a suite that was started in the background inherits an ignored SIGINT."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before:
        signal.signal(number, handler)


DRAWN = {(Figure, "savefig"): Figure.savefig, (plots, "plot_curves"): plots.plot_curves}


@pytest.fixture(scope="session", autouse=True)
def quick_files():
    """Plots are blank: matplotlib takes a second for the curves of a GAN. Nothing waits for the disk: processes are
    killed in tests, but no power fails.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, file, **options: blank_plot(file, **options))
        patch.setattr(plots, "plot_curves", lambda file, curves, origin=None: blank_plot(file, origin))
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def real_plots(monkeypatch):
    """Plots are drawn."""
    for (owner, name), function in DRAWN.items():
        monkeypatch.setattr(owner, name, function)


def tiny_arrays(count: int, channels: int = 1, size: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bars: class 0 lies, class 1 stands, at a random place with a random brightness."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, size, size, channels), np.uint8)
    labels = rng.integers(0, 2, count)
    for image, label in zip(images, labels, strict=True):
        at, shade = rng.integers(1, size - 1), rng.integers(120, 256, channels)
        (image if label else image.swapaxes(0, 1))[:, at] = shade
    return images, labels.astype(np.int64)


@pytest.fixture(scope="session")
def draw_bars():
    """``tiny_arrays``, for tests that want bars of their own."""
    return tiny_arrays


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    """A cache of the tests' own, for this process and its children: which networks a user has must change no test."""
    path = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REVERIE_HOME", str(path))
        yield path


@pytest.fixture(scope="session", autouse=True)
def no_downloads():
    """Tests fetch no weights: a network that one of them fetched would be there for those after it."""

    def refuse(*_, **__) -> bytes:
        raise OSError("tests fetch nothing")

    with pytest.MonkeyPatch.context() as patch:
        for source in ("download", "pip_download", "npm_pack"):
            patch.setattr(weights, source, refuse)
        yield


@pytest.fixture(autouse=True)
def environment(home):
    """A test leaves reverie's part of the environment as it found it."""

    def ours() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name.startswith("REVERIE_")}

    before = ours()
    yield
    assert ours() == before


@pytest.fixture(scope="session")
def bars(tmp_path_factory, home):
    """A .npz of 160 bars that ``reverie.data`` opens: what a user's own small data looks like."""
    images, labels = tiny_arrays(160)
    path = tmp_path_factory.mktemp("bars") / "bars.npz"
    np.savez(path, images=images, labels=labels)
    return str(path)


@pytest.fixture(scope="session")
def noisy_bars(tmp_path_factory, home):
    """A .npz of 240 bars with noise, so that no two look the same and a tenth is held out."""
    images, labels = tiny_arrays(240)
    noise = np.random.default_rng(1).integers(0, 90, images.shape)
    path = tmp_path_factory.mktemp("noisy-bars") / "noisy-bars.npz"
    np.savez(path, images=(images * 0.6 + noise).astype(np.uint8), labels=labels)
    return str(path)


@pytest.fixture(scope="session")
def tiny() -> Dataset:
    """The same bars without a file."""
    images, labels = tiny_arrays(160)
    splits = [Split({"x": images[a:b], "label": labels[a:b]}) for a, b in ((0, 128), (128, 160))]
    return Dataset("tiny", splits[0].spec, ["lying", "standing"], splits[0], splits[1], "0" * 64, Report(160))


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """The command line in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call
