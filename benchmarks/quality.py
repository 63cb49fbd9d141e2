"""What do the same minutes of training buy: reverie against others on full Fashion-MNIST, one after the other.

- reverie: `reverie train MODEL --data fashion-mnist --minutes M` as it stands (``--model flow-matching``, ``r3gan``
  ...), sampled as `reverie sample` does.
- diffusers, for diffusion: its UNet2DModel by the recipe of its example train_unconditional.py, with as many parameters
  (to 5 %, see diffusion_step.py) and the example's batch of 16, which gives it the most steps. The M minutes are all
  for steps (drawing is not counted), the cosine schedule ends with them, and its warm-up takes at most a tenth of
  them: as printed, 500 steps, it would outlast the shorter budgets. Its EMA is sampled by its DDIMScheduler in 50
  steps, because the 1000 of its DDPMPipeline would take longer than the training.
- textbook, for GANs: the tutorials' DCGAN of 64 pixels (peers/gans.py) in batches of 64, its images enlarged to 64
  and what it draws made smaller again.

Each trains and draws in a process of its own with the machine to itself. The same number of images of each is
compared with the first 10,000 training images: the plain Frechet distance of Inception's features (2,000 against
10,000: fit for comparing at equal numbers only, not for publishing), the kernel distance KID with its 95 % interval,
which has no bias, and from --samples 5000 on FID-infinity. Beside them the floor: as many other training images.

Run:  python benchmarks/quality.py [--minutes 5] [--model r3gan] [--seed 0] [--only reverie] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusion_step import equal_widths, fetch_diffusers, parameters, peer_average, peer_network, peer_steps
from peers.gans import plain_dcgan, plain_discriminator, plain_generator

import reverie as rv
from reverie.core import registry
from reverie.core.card import card_of
from reverie.core.files import read_json, write_json
from reverie.core.options import sampling_options
from reverie.core.precision import pick_device
from reverie.evaluation.distances import frechet_distance, frechet_infinity, kernel_distance
from reverie.evaluation.features import backbone, features
from reverie.evaluation.statistics import Moments
from reverie.media import montage
from reverie.media.medium import to_float, to_uint8
from reverie.models.gans.base import GAN
from reverie.recipes import recipe_for
from reverie.training.progress import clock
from reverie.training.run import fresh_path, machine

PEER_EVALUATIONS = 50


class Meter:
    """A line on stderr every ten seconds: what is done, what is left."""

    def __init__(self) -> None:
        self.began = self.reported = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def __call__(self, share: float, what: str) -> None:
        if time.monotonic() - self.reported > 10:
            self.reported = time.monotonic()
            left = self.seconds * (1 / max(share, 1e-9) - 1)
            print(f"{what}, {share:.0%}, {clock(left)} left", file=sys.stderr, flush=True)


def keep(folder: Path, name: str, samples: np.ndarray, record: dict[str, Any]) -> None:
    """NAME.npz for the scores, NAME.png to look at, NAME.json for the table."""
    np.savez_compressed(folder / f"{name}.npz", images=samples)
    montage.save(folder / f"{name}.png", montage.grid(samples[:100], columns=10))
    write_json(folder / f"{name}.json", record)


def ours(flags: argparse.Namespace, folder: Path) -> None:
    """In a process of its own: train, draw, keep."""
    run = rv.train(
        flags.model, flags.data, minutes=flags.minutes, seed=flags.seed, out=folder / "run", device=flags.device
    )
    model = rv.load(run, flags.device)
    labels = list(range(card_of(model).classes)) or None
    meter = Meter()
    samples = rv.sample(model, flags.samples, label=labels, progress=lambda done, n, what: meter(done / n, what)).array
    sampling, details = meter.seconds, run.info
    defaults = {name: p.default for name, p in sampling_options(model).items()}
    record = {
        "told": f"reverie {flags.model}"
        + (f", {defaults['sampler']} in {defaults['steps']} steps" if "sampler" in defaults else ""),
        "parameters": parameters(model),
        "minutes": details["seconds"] / 60,
        "seen": details["result"]["steps"] * details["training"]["batch_size"],
        "drawn_per_second": flags.samples / sampling,
    }
    keep(folder, "reverie", samples, record)


def diffusers(flags: argparse.Namespace, folder: Path) -> None:
    """In a process of its own: train, draw, keep."""
    sys.path.append(fetch_diffusers())
    from diffusers import DDIMScheduler

    data, device = rv.data(flags.data), pick_device(flags.device)
    same = registry.build(flags.model, data, **recipe_for(flags.model, flags.data).get("model", {}))
    widths = equal_widths(data.spec.shape[0], data.spec.channels, parameters(same))
    torch.manual_seed(0)
    net = peer_network(data.spec.shape[0], data.spec.channels, widths).to(device)
    average, meter, seen = peer_average(net), Meter(), 0

    def done() -> float:
        return min(1.0, meter.seconds / (60 * flags.minutes))

    for count in peer_steps(net, data.train["x"], flags.peer_batch, device, average, done):
        seen += count
        meter(done(), f"diffusers: {seen:,} pictures seen")
        if done() == 1:
            break
    minutes = meter.seconds / 60
    average.copy_to(net.parameters())
    net.eval()
    meter, samples, generator = Meter(), [], torch.Generator(device).manual_seed(0)
    chain = DDIMScheduler(num_train_timesteps=1000)
    chain.set_timesteps(PEER_EVALUATIONS)
    for low in range(0, flags.samples, 100):
        shape = (min(100, flags.samples - low), data.spec.channels, data.spec.shape[0], data.spec.shape[0])
        x = torch.randn(shape, generator=generator, device=device)
        with torch.inference_mode():
            for index, timestep in enumerate(chain.timesteps):
                x = chain.step(net(x, timestep).sample, timestep, x).prev_sample
                meter((low + len(x) * index / PEER_EVALUATIONS) / flags.samples, "diffusers: drawing")
        samples.append(to_uint8(x))
    record = {
        "told": f"diffusers {widths}, DDIM in {PEER_EVALUATIONS} steps",
        "parameters": parameters(net),
        "minutes": minutes,
        "seen": seen,
        "drawn_per_second": flags.samples / meter.seconds,
    }
    keep(folder, "diffusers", np.concatenate(samples), record)


def textbook(flags: argparse.Namespace, folder: Path) -> None:
    """In a process of its own: train, draw, keep."""
    data, device, side = rv.data(flags.data), pick_device(flags.device), 64
    torch.manual_seed(0)
    g, d = (
        plain_generator(side, data.spec.channels, 64).to(device),
        plain_discriminator(side, data.spec.channels, 64).to(device),
    )
    rows, meter, seen = torch.from_numpy(np.array(data.train["x"])), Meter(), 0

    def draw() -> torch.Tensor:
        return resized(to_float(rows[torch.randint(0, len(rows), (64,))]), side).to(device)

    for count in plain_dcgan(g, d, draw):
        seen += count
        share = meter.seconds / (60 * flags.minutes)
        meter(min(share, 1.0), f"textbook: {seen:,} pictures seen")
        if share >= 1:
            break
    minutes, samples = meter.seconds / 60, []
    g.eval()
    meter = Meter()
    with torch.inference_mode():
        for low in range(0, flags.samples, 100):
            fakes = g(torch.randn(min(100, flags.samples - low), 100, 1, 1, device=device))
            samples.append(to_uint8(resized(fakes, data.spec.shape[0])))
    record = {
        "told": "textbook DCGAN of 64 pixels",
        "parameters": parameters(g) + parameters(d),
        "minutes": minutes,
        "seen": seen,
        "drawn_per_second": flags.samples / meter.seconds,
    }
    keep(folder, "textbook", np.concatenate(samples), record)


def resized(images: torch.Tensor, side: int) -> torch.Tensor:
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True).contiguous()


CONTESTANTS = {"reverie": ours, "diffusers": diffusers, "textbook": textbook}


def row(name: str, *cells: str) -> str:
    return f"{name:44} " + " ".join(f"{cell:>15}" for cell in cells)


def short(count: int) -> str:
    return str(count) if count % 1000 else f"{count // 1000}k"


def score(flags: argparse.Namespace, folder: Path, names: list[str]) -> dict[str, float]:
    """Prints the table; returns each contestant's Frechet distance."""
    data = rv.data(flags.data)
    real = data.train["x"][: flags.reference]
    floor = data.train["x"][flags.reference : flags.reference + flags.samples]
    eye, meter = backbone(flags.backbone, device=flags.device), Meter()

    def seen(images: np.ndarray, kept: bool, what: str) -> torch.Tensor:
        meter.began = time.monotonic()
        return features(images, eye, kept, lambda done, n, _: meter(done / n, f"{eye.name}: {what}"))[:]

    reference = seen(real, True, "reference")
    moments = Moments.of(reference)
    measured = "FID" if flags.backbone == "inception" else f"frechet-{flags.backbone}"
    title = f"frechet-{short(flags.samples)}-{short(flags.reference)}"
    print(f"features: {eye.name} (sha256 {eye.sha256[:12]}), {eye.resize}, {eye.precision}")
    print(row("", "parameters", "minutes", "pictures seen", "drawn/s", title, "kernel x 1000", f"{measured}-infinity"))
    distances: dict[str, float] = {}
    for name in [*names, "real"]:
        if name == "real":
            details, images = ["as many other training pictures"] + [""] * 4, floor
        else:
            record, images = read_json(folder / f"{name}.json"), np.load(folder / f"{name}.npz")["images"]
            details = [record["told"], f"{record['parameters']:,}", f"{record['minutes']:.1f}", f"{record['seen']:,}"]
            details.append(f"{record['drawn_per_second']:.1f}")
        these = seen(images, name == "real", name)
        distances[name] = frechet_distance(Moments.of(these), moments)
        kernel = kernel_distance(these, reference)
        limit = "n < 5000"
        if len(these) >= 5000:
            estimate = frechet_infinity(these, moments)
            limit = f"{estimate.value:.2f} +- {estimate.half_width:.2f}"
        of_kernel = f"{1000 * kernel.value:.2f} +- {1000 * kernel.half_width:.2f}"
        print(row(*details, f"{distances[name]:.2f}", of_kernel, limit), flush=True)
    return distances


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, for each")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--reference", type=int, default=10_000, help="training pictures to compare with")
    parser.add_argument("--model", default="flow-matching")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--backbone", default="inception", help="or small, which is quick")
    parser.add_argument("--seed", type=int, default=0, help="of reverie's training")
    parser.add_argument("--peer-batch", type=int, default=16)
    parser.add_argument("--only", choices=list(CONTESTANTS), help="for development: one contestant, no ratio")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="folder for the run, the samples and their grids")
    flags = parser.parse_args()
    folder = flags.out or fresh_path("quality", flags.data)
    if folder.exists():
        parser.error(f"{folder} is there already: name another --out.")
    folder.mkdir(parents=True)
    other = "textbook" if issubclass(registry.entry(flags.model).kind(), GAN) else "diffusers"
    if other == "diffusers":
        fetch_diffusers()
    names = [flags.only] if flags.only else ["reverie", other]
    for name in names:
        process = multiprocessing.get_context("spawn").Process(target=CONTESTANTS[name], args=(flags, folder))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{name} failed (exit {process.exitcode}): see above.")
    where = f"{machine()['cores']} cores, {machine()['gpus'] or 'no GPU'}"
    print(f"{flags.data}, {flags.minutes:g} minutes each, torch {torch.__version__}, {where}")
    distances = score(flags, folder, names)
    print(f"samples to look at: {', '.join(str(folder / f'{name}.png') for name in names)}")
    if not flags.only:
        print(f"ratio: {distances[other] / distances['reverie']:.2f}")


if __name__ == "__main__":
    main()
