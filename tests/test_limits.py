"""What a file, an option or a size may ask of memory, and what broken weights and lost processes lead to."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import socket
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file, save_file

import reverie as rv
from reverie.core import distributed, memory, registry
from reverie.core.errors import ReverieError, UsageError
from reverie.core.noise import Noise
from reverie.inference.rows import draw
from run_cases import SMALL
from test_bad_input import rewritten


@pytest.fixture(scope="module")
def run(bars, tmp_path_factory):
    return rv.train("vae", bars, out=tmp_path_factory.mktemp("limits") / "run", steps=2, width=8, latent=3, **SMALL)


def peak() -> int:
    """Most bytes that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


# Options


@pytest.mark.parametrize(
    ("model", "option"),
    [
        ("vae", {"depth": 10**7}),
        ("vae", {"width": 10**7}),
        ("stylegan2", {"latent": 10**7}),
        ("progan", {"packing": 10**7}),
    ],
)
def test_a_model_that_no_memory_holds_is_refused_by_the_name_of_its_option_before_it_is_built(model, option):
    before, began = peak(), time.monotonic()
    with pytest.raises(UsageError, match=f"Reduce {next(iter(option))}"):
        rv.build(model, shape=16, channels=1, **option)
    assert time.monotonic() - began < 20 and peak() - before < 500e6


def test_counting_a_model_changes_neither_its_weights_nor_the_generator():
    options = {"shape": 8, "channels": 1, "latent": 600}  # far above its default: counted first
    torch.manual_seed(1)
    counted = rv.build("vae", **options).state_dict()
    after = torch.get_rng_state()
    torch.manual_seed(1)
    plain = registry.call_system(registry.entry("vae").load(), options).state_dict()
    assert all((plain[name] == value).all() for name, value in counted.items())
    assert (after == torch.get_rng_state()).all()


@pytest.mark.parametrize(("shape", "near"), [((100, 100), "96"), ((40, 72), "32x64"), ((44, 44), "48")])
def test_a_dcgan_names_the_nearest_sides_that_it_can_be_built_for(shape, near):
    with pytest.raises(UsageError, match=f"size={near}|size='{near}'|size=\\({near.replace('x', ', ')}\\)"):
        rv.build("dcgan", shape=shape, channels=1)
    rv.build("dcgan", shape=(48, 64), channels=1, width=8)


# Files


def test_a_configuration_decides_no_memory_that_its_weights_do_not_have(run, tmp_path):
    copy = rv.Run.open(shutil.copytree(run.path, tmp_path / "copy"))
    checkpoint = copy.checkpoints / "00000002"
    config = json.loads((checkpoint / "model.json").read_text())
    for option in ({"depth": 10**7}, {"width": 10**6}, {"latent": 10**8}, {"depth": 200}):
        rewritten(checkpoint, "model.json", json.dumps(config | {"kwargs": config["kwargs"] | option}))
        before, began = peak(), time.monotonic()
        with pytest.raises(ReverieError, match="does not belong to its"):
            rv.load(copy)
        assert time.monotonic() - began < 10 and peak() - before < 200e6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(run, tmp_path, value):
    copy = rv.Run.open(shutil.copytree(run.path, tmp_path / "copy"))
    checkpoint = copy.checkpoints / "00000002"
    for file in checkpoint.glob("*.safetensors"):
        weights = load_file(file)
        name = min(weights)
        save_file(weights | {name: weights[name] * value}, file)
        rewritten_file(checkpoint, file.name)
    with pytest.raises(ReverieError, match="NaN or infinite in 1 of"):
        rv.load(copy)


def rewritten_file(checkpoint: Path, name: str) -> None:
    """Put a changed file's hash into the manifest."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def test_samples_that_are_no_numbers_are_counted_in_a_warning(run):
    model = rv.load(run)
    sample = model.sample
    model.sample = lambda noise, **cond: torch.where(noise.keys[:, None, None, None] % 2 == 0, torch.nan, sample(noise))
    noise = Noise.of_seeds(range(8))
    odd = int((noise.keys % 2 == 0).sum())
    with pytest.warns(UserWarning, match=f"{odd} of 8 samples of vae are NaN"):
        draw(model, noise, 4)


# Sizes


def test_as_many_rows_are_computed_at_once_as_their_size_allows():
    assert [memory.rows_at_once((side, side), "cpu") for side in (8, 64, 128, 512, 4096)] == [64, 64, 16, 1, 1]
    assert memory.rows_at_once((16, 16), "cpu", 256) == 256 and memory.rows_at_once((32, 32, 256), "cpu") == 1


def test_a_run_of_large_images_samples_scores_and_maps_them_in_small_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_FEW_PIXELS", 3 * 16 * 16)
    most = []
    forward = torch.nn.Conv2d.forward

    def recorded(layer, x):
        most.append(len(x) if not torch.is_grad_enabled() else 0)
        return forward(layer, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", recorded)
    data = rv.open_data(np.random.default_rng(0).integers(0, 256, (60, 16, 16, 1), np.uint8), held_out=0.4)
    for model, verbs in (("vae", ("reconstructions", "traversal")), ("denoising-autoencoder", ()), ("dcgan", ())):
        run = rv.train(model, data, out=tmp_path / model, steps=2, sample_every=1, width=8, **SMALL | {"batch_size": 2})
        for view in verbs:
            rv.view(run, view)
        if model == "vae":
            rv.sample(rv.load(run), 7)
    assert 0 < max(most) <= 4  # a group of neighbours of D


# Several processes


def share(rank: int, port: int, folder: Path) -> None:
    """What each of two processes does; the second one dies before the end."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    began = 0.0
    try:
        with distributed.group():
            images = rv.sample(folder / "run", 11, chunk=2, shard=True)
            new = rv.sample_into(folder / "files", folder / "run", 5, chunk=2, shard=True)
            np.savez(folder / f"{rank}.npz", images=images.array, new=new)
            if rank == 1:
                os._exit(1)
            began = time.monotonic()
    except ReverieError as error:
        (folder / "message").write_text(f"{error}\n{time.monotonic() - began}")


def test_processes_share_samples_and_end_with_a_message_when_one_of_them_dies(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=share, args=(rank, port, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 1]
    alone = rv.sample(run, 11, chunk=2).array
    rv.sample_into(tmp_path / "alone", run, 5, chunk=2)
    for rank in range(2):
        shared = np.load(tmp_path / f"{rank}.npz")
        assert (shared["images"] == alone).all() and shared["new"] == 5
    names = sorted(file.name for file in (tmp_path / "alone").glob("*.png"))
    assert names and names == sorted(file.name for file in (tmp_path / "files").glob("*.png"))
    pixels = [[np.asarray(PIL.Image.open(tmp_path / part / name)) for name in names] for part in ("alone", "files")]
    assert all((a == b).all() for a, b in zip(*pixels, strict=True))
    message, seconds = (tmp_path / "message").read_text().split("\n")
    assert "another one has ended" in message and float(seconds) < 10


# Neighbours of D


@pytest.mark.parametrize("name", ["stylegan2", "progan"])
@pytest.mark.parametrize("rows", [1, 2, 5, 6, 7, 8])
def test_real_images_and_fakes_are_never_compared_with_one_another_at_any_batch_size(name, rows):
    torch.manual_seed(0)
    model = rv.build(name, shape=8, channels=3, width=8).eval()
    level = (1, 1.0) if name == "progan" else ()
    images = torch.rand(2 * rows, 3, 8, 8) * 2 - 1
    images[rows:] *= 0.1  # fakes that are nearly alike
    with torch.no_grad():
        together, _ = model.discriminator(images, None, 2, *level)
        apart = torch.cat([model.discriminator(part, None, 1, *level)[0] for part in images.chunk(2)])
    assert (together - apart).abs().max() < 1e-5
