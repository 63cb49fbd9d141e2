"""How many pictures a second does a GAN's training step take in: reverie against the reference architectures, plainly.

Each loop runs in a process of its own, timed in turn over several rounds; ratios are those of the medians. A step is
D's move and G's; the penalties of a lazy schedule come as often as they are due.

- dcgan: the DCGAN of `reverie train dcgan`, once as its reference implementations write it (float32 in NCHW, batch
  normalisation, D called on real and on made pictures one after the other, G called anew for its own move, Adam), and
  once in reverie's step (bf16 in channels_last where the machine has it, one pass of D, fused AdamW, EMA). Equal
  parameter counts, equal pictures.
- stylegan2: the same, the reference with a kernel for each picture (grouped convolutions) and its smoothing filters
  as passes of their own, R1 every 16 steps and path lengths every 4 on both sides.
- preset: what `reverie train r3gan` trains at the pictures' own resolution, against the textbook DCGAN of 64 pixels,
  which enlarges them.

Beside them the share of the machine's measured peak of a 3x3 convolution, and pictures drawn a second. The last line is
the smaller of the two same-architecture ratios.

Run:  python benchmarks/gan_step.py [--rounds 5] [--seconds 6] [--batch 64] [--only dcgan] [--device cpu]
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F
from diffusion_step import convolution_peak, fit_steps, gigaflops, parameters, speed, wait
from torch import Tensor, nn

from reverie import registry
from reverie.nets.stylegan import widths_of
from reverie.noise import Noise
from reverie.recipes import recipe_for
from reverie.training.options import Options
from reverie.training.precision import keep_memory, pick_device, pick_precision
from reverie.verbs import Model

SIZE, CHANNELS, WIDTH, LATENT = 32, 3, 64, 128


# The references, written plainly


def plain_generator(size: int, channels: int, width: int, latent: int = 100) -> nn.Sequential:
    """The DCGAN's generator with batch normalisation, down from 4x4."""
    count = int(math.log2(size / 4))
    widths = [min(2**i, 8) * width for i in range(count)][::-1]
    layers: list[nn.Module] = [nn.ConvTranspose2d(latent, widths[0], 4, 1, 0, bias=False)]
    for level, wide in enumerate(widths):
        layers += [nn.BatchNorm2d(wide), nn.ReLU(True)]
        outputs = widths[level + 1] if level + 1 < count else channels
        layers.append(nn.ConvTranspose2d(wide, outputs, 4, 2, 1, bias=False))
    return nn.Sequential(*layers, nn.Tanh()).apply(plain_weights)


def plain_discriminator(size: int, channels: int, width: int) -> nn.Sequential:
    count = int(math.log2(size / 4))
    layers: list[nn.Module] = []
    wide = channels
    for level in range(count):
        outputs = min(2**level, 8) * width
        layers.append(nn.Conv2d(wide, outputs, 4, 2, 1, bias=False))
        layers += [nn.BatchNorm2d(outputs)] if level else []
        layers.append(nn.LeakyReLU(0.2, True))
        wide = outputs
    return nn.Sequential(*layers, nn.Conv2d(wide, 1, 4, 1, 0, bias=False), nn.Flatten(0)).apply(plain_weights)


def plain_weights(layer: nn.Module) -> None:
    """The textbook's first weights."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)


def plain_dcgan(g: nn.Module, d: nn.Module, draw: Callable[[], Tensor]) -> Iterator[int]:
    """The tutorials' loop over batches of real pictures, yielding the pictures of each step."""
    of_d, of_g = (torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for net in (d, g))
    while True:
        real = draw()
        batch, device = len(real), real.device
        one, zero = torch.ones(batch, device=device), torch.zeros(batch, device=device)
        d.zero_grad()
        F.binary_cross_entropy_with_logits(d(real), one).backward()
        with torch.no_grad():
            fake = g(torch.randn(batch, 100, 1, 1, device=device))
        F.binary_cross_entropy_with_logits(d(fake), zero).backward()
        of_d.step()
        g.zero_grad()
        F.binary_cross_entropy_with_logits(d(g(torch.randn(batch, 100, 1, 1, device=device))), one).backward()
        of_g.step()
        yield batch


def smooth(x: Tensor, pad: tuple[int, int], gain: float = 1.0) -> Tensor:
    """The filter [1, 3, 3, 1] as a pass of its own."""
    line = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device) / 8
    kernel = (line[:, None] * line * gain)[None, None].repeat(x.shape[1], 1, 1, 1)
    return F.conv2d(F.pad(x, (*pad, *pad)), kernel, groups=x.shape[1])


class PlainModulated(nn.Module):
    """The kernel of each picture, and one grouped convolution."""

    def __init__(self, inputs: int, outputs: int, style: int, kernel: int = 3, up: bool = False, norm: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, kernel, kernel) / math.sqrt(inputs * kernel**2))
        self.style, self.up, self.norm = nn.Linear(style, inputs), up, norm
        nn.init.ones_(self.style.bias)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        b, c, h, side = x.shape
        weight = self.weight * self.style(w)[:, None, :, None, None]
        if self.norm:
            weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        x = x.reshape(1, b * c, h, side)
        if self.up:
            weight = weight.transpose(1, 2).flatten(0, 1)
            x = F.conv_transpose2d(x, weight, stride=2, groups=b)
            return smooth(x.view(b, -1, *x.shape[2:]), (1, 1), 4.0)
        x = F.conv2d(x, weight.flatten(0, 1), padding=weight.shape[-1] // 2, groups=b)
        return x.view(b, -1, h, side)


class PlainStyle(nn.Module):
    """The skip generator as the reference has it."""

    def __init__(self) -> None:
        super().__init__()
        widths = widths_of(SIZE, WIDTH, 1)
        self.mapping = nn.ModuleList(nn.Linear(LATENT, LATENT) for _ in range(4))
        self.start = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.convs, self.pixels = nn.ModuleList(), nn.ModuleList()
        self.bias, self.strength = nn.ParameterList(), nn.ParameterList()
        for level, wide in enumerate(widths):
            for inputs, up in ([(widths[level - 1], True)] if level else []) + [(wide, False)]:
                self.convs.append(PlainModulated(inputs, wide, LATENT, up=up))
                self.bias.append(nn.Parameter(torch.zeros(wide, 1, 1)))
                self.strength.append(nn.Parameter(torch.zeros(())))
            self.pixels.append(PlainModulated(wide, CHANNELS, LATENT, 1, norm=False))
        self.last = nn.Parameter(torch.zeros(CHANNELS, 1, 1))

    def styles(self, z: Tensor) -> Tensor:
        z = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.mapping:
            z = F.leaky_relu(layer(z), 0.2) * math.sqrt(2)
        return z

    def forward(self, w: Tensor) -> Tensor:
        x, picture, place = self.start.expand(len(w), -1, -1, -1), None, 0
        for level, pixels in enumerate(self.pixels):
            for _ in range(2 if level else 1):
                x = self.convs[place](x, w)
                x = x + self.strength[place] * torch.randn(len(x), 1, *x.shape[2:], device=x.device) + self.bias[place]
                x = F.leaky_relu(x, 0.2) * math.sqrt(2)
                place += 1
            made = pixels(x, w)
            if picture is not None:
                wide = picture.new_zeros(len(x), CHANNELS, 2 * picture.shape[2], 2 * picture.shape[3])
                wide[:, :, ::2, ::2] = picture
                made = made + smooth(wide, (2, 1), 4.0)
            picture = made
        assert picture is not None
        return picture + self.last


class PlainDown(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.first, self.second = nn.Conv2d(inputs, inputs, 3, padding=1), nn.Conv2d(inputs, outputs, 3, stride=2)
        self.join = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.first(x), 0.2) * math.sqrt(2)
        h = F.leaky_relu(self.second(smooth(h, (2, 2))), 0.2) * math.sqrt(2)
        return (h + self.join(smooth(x, (1, 1)))) / math.sqrt(2)


class PlainJudge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = widths_of(SIZE, WIDTH, 1)[::-1]
        self.into = nn.Conv2d(CHANNELS, widths[0], 1)
        self.blocks = nn.Sequential(*(PlainDown(i, o) for i, o in itertools.pairwise(widths)))
        self.last = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.out = nn.Sequential(
            nn.Flatten(), nn.Linear(16 * widths[-1], widths[-1]), nn.LeakyReLU(0.2), nn.Linear(widths[-1], 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.leaky_relu(self.into(x), 0.2) * math.sqrt(2))
        group = x.view(4, -1, *x.shape[1:])
        plane = (group.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
        x = torch.cat([x, plane.repeat(4)[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1)
        return self.out(F.leaky_relu(self.last(x), 0.2))[:, 0]


def plain_stylegan2(batch: int, device: torch.device) -> Iterator[int]:
    """The reference's training loop, yielding the pictures of each step."""
    torch.manual_seed(0)
    g, d = PlainStyle().to(device), PlainJudge().to(device)
    of_d, of_g = (torch.optim.Adam(net.parameters(), lr=2e-3, betas=(0.0, 0.99)) for net in (d, g))
    pictures, mean = torch.rand(1024, CHANNELS, SIZE, SIZE) * 2 - 1, torch.zeros((), device=device)

    def z(rows: int = batch) -> Tensor:
        return torch.randn(rows, LATENT, device=device)

    for step in itertools.count():
        real = pictures[torch.randint(0, len(pictures), (batch,))].to(device)
        d.zero_grad()
        with torch.no_grad():
            fake = g(g.styles(z()))
        (F.softplus(d(fake)).mean() + F.softplus(-d(real)).mean()).backward()
        of_d.step()
        if step % 16 == 0:
            d.zero_grad()
            real.requires_grad_(True)
            (slope,) = torch.autograd.grad(d(real).sum(), real, create_graph=True)
            (slope.square().sum((1, 2, 3)).mean() * 8).backward()
            of_d.step()
        g.zero_grad()
        F.softplus(-d(g(g.styles(z())))).mean().backward()
        of_g.step()
        if step % 4 == 0:
            g.zero_grad()
            w = g.styles(z(batch // 2))
            made = g(w)
            (slope,) = torch.autograd.grad((made * torch.randn_like(made) / SIZE).sum(), w, create_graph=True)
            length = slope.square().sum(1).sqrt()
            mean = mean.lerp(length.mean().detach(), 0.01)
            ((length - mean).square().mean() * 8).backward()
            of_g.step()
        yield batch


# Ours


def ours(name: str, size: int, channels: int, options: dict[str, Any], recipe: bool) -> tuple[Model, Any, Options]:
    told = recipe_for(name, "any") if recipe else {}
    torch.manual_seed(0)
    model = registry.build(name, size=size, channels=channels, **told.get("model", {}) | options)
    training = {k: v for k, v in told.get("training", {}).items() if k not in ("steps", "minutes")}
    return model, told.get("phases", {}), Options(steps=1, **{"clip": 0.0} | training)


SAME = {"stylegan2": {"fold": 1, "width": WIDTH, "latent": LATENT, "mixing": 0.0}, "dcgan": {"width": WIDTH}}


def contestant(name: str, batch: int, device: torch.device) -> Iterator[int]:
    """One of the loops by its name."""
    if name == "stylegan2, plain":
        return plain_stylegan2(batch, device)
    if name in ("dcgan, plain", TEXTBOOK):
        torch.manual_seed(0)
        size = 64 if name == TEXTBOOK else SIZE
        g, d = plain_generator(size, CHANNELS, WIDTH).to(device), plain_discriminator(size, CHANNELS, WIDTH).to(device)
        pictures = torch.rand(1024, CHANNELS, size, size) * 2 - 1
        return plain_dcgan(g, d, lambda: pictures[torch.randint(0, len(pictures), (batch,))].to(device))
    if name == "preset":
        return fit_steps(ours("r3gan", SIZE, CHANNELS, {}, True), batch, device)
    system = name.partition(",")[0]
    return fit_steps(ours(system, SIZE, CHANNELS, SAME[system], False), batch, device)


TEXTBOOK = "textbook, 64 pixels"
PAIRS = {
    "dcgan": ("dcgan, plain", "dcgan, ours"),
    "stylegan2": ("stylegan2, plain", "stylegan2, ours"),
    "preset": (TEXTBOOK, "preset"),
}


def drawer(name: str, device: torch.device) -> Callable[[], int]:
    """Draws 64 pictures a call."""
    torch.manual_seed(0)
    if name.endswith("plain") or name.startswith("textbook"):
        if name.startswith("stylegan2"):
            g = PlainStyle().to(device)
            return lambda: len(g(g.styles(torch.randn(64, LATENT, device=device))))
        net = plain_generator(64 if name.startswith("textbook") else SIZE, CHANNELS, WIDTH).to(device).eval()
        return lambda: len(net(torch.randn(64, 100, 1, 1, device=device)))
    system = name.partition(",")[0]
    made = (
        ours("r3gan", SIZE, CHANNELS, {}, True)
        if name == "preset"
        else ours(system, SIZE, CHANNELS, SAME[system], False)
    )
    model, precision = made[0].to(device, memory_format=torch.channels_last).eval(), pick_precision("auto", device)

    def draw() -> int:
        with precision.autocast():
            return len(model.sample(Noise.of_seeds(range(64), device)))

    return draw


def serve(name: str, batch: int, device: str, calls: Connection) -> None:
    """In a process of its own: answers (what, seconds) with pictures a second."""
    where = pick_device(device)
    keep_memory()
    loop, draw = contestant(name, batch, where), drawer(name, where)
    while order := calls.recv():
        what, seconds = order
        if what == "train":
            calls.send(speed(loop, seconds, where))
            continue
        count, began = 0, time.perf_counter()
        with torch.inference_mode():
            while time.perf_counter() - began < seconds:
                count += draw()
                wait(where)
        calls.send(count / (time.perf_counter() - began))


def measure(names: list[str], asked: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Pictures a second of every loop in every round, trained and drawn."""
    spawn, calls = multiprocessing.get_context("spawn"), dict[str, Connection]()
    for name in names:
        calls[name], theirs = spawn.Pipe()
        spawn.Process(target=serve, args=(name, asked.batch, asked.device, theirs), daemon=True).start()
        theirs.close()
    found: dict[str, dict[str, list[float]]] = {name: {"train": [], "draw": []} for name in names}
    for turn in range(asked.rounds + 1):
        for name, line in calls.items():
            for what, share in (("train", 1.0), ("draw", 0.2)):
                line.send((what, share * asked.seconds if turn else min(2.0, asked.seconds)))
                value = line.recv()
                if turn:  # the first steps allocate and choose kernels
                    found[name][what].append(value)
    for line in calls.values():
        line.send(None)
    return found


def counts(name: str) -> tuple[int, float]:
    """Parameters of both players, and GFLOP of a picture through both, forward and backward."""
    if name.startswith("stylegan2, plain"):
        g, d = PlainStyle(), PlainJudge()
        return parameters(g) + parameters(d), 0.0
    if name.endswith("plain") or name.startswith("textbook"):
        size = 64 if name.startswith("textbook") else SIZE
        g, d = plain_generator(size, CHANNELS, WIDTH), plain_discriminator(size, CHANNELS, WIDTH)
        through = gigaflops(lambda: g(torch.zeros(2, 100, 1, 1))) / 2 * 4 / 3
        return parameters(g) + parameters(d), through + gigaflops(
            lambda: d(torch.zeros(2, CHANNELS, size, size))
        ) / 2 * 8 / 3
    system = name.partition(",")[0]
    model = (
        ours("r3gan", SIZE, CHANNELS, {}, True)
        if name == "preset"
        else ours(system, SIZE, CHANNELS, SAME[system], False)
    )[0]
    z = Noise.of_seeds(range(4))
    # a step: G forward, then forward and backward; D forward and backward twice, then forward and back to the picture
    through = gigaflops(lambda: model.make(z, None)) / 4 * 4 / 3
    judged = gigaflops(lambda: model.D(torch.zeros(4, CHANNELS, SIZE, SIZE))) / 4 * 8 / 3
    return parameters(model), through + judged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="a loop's share of a round")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--only", choices=list(PAIRS), help="for development: one pair")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    asked = parser.parse_args()
    device = pick_device(asked.device)
    pairs = {asked.only: PAIRS[asked.only]} if asked.only else PAIRS
    names = [name for pair in pairs.values() for name in pair]
    bf16 = pick_precision("auto", device).bf16
    peaks = {dtype: convolution_peak(dtype, device) for dtype in (torch.float32, torch.bfloat16)[: 1 + bf16]}
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, batch {asked.batch}")
    for dtype, top in peaks.items():
        print(f"peak of a 3x3 convolution in {str(dtype)[6:]}: {top:.0f} GFLOP/s")
    found = measure(names, asked)
    ratios = {}
    for system, (theirs, mine) in pairs.items():
        for name in (theirs, mine):
            count, work = counts(name)
            trained, drawn = (statistics.median(found[name][what]) for what in ("train", "draw"))
            dtype = torch.bfloat16 if name == mine and bf16 else torch.float32
            share = f"; {trained * work:.0f} GFLOP/s = {trained * work / peaks[dtype]:.0%} of the peak" if work else ""
            print(
                f"{name:20}: {count:>9,} parameters, trains {trained:7.1f} images/s (rounds "
                f"{', '.join(f'{value:.0f}' for value in found[name]['train'])}){share}; draws {drawn:,.0f}/s"
            )
        ratios[system] = statistics.median(found[mine]["train"]) / statistics.median(found[theirs]["train"])
        print(f"{system}: {ratios[system]:.2f} times (aim {5 if system == 'preset' else 2})")
    print(f"ratio: {min(value for system, value in ratios.items() if system != 'preset' or asked.only):.2f}")


if __name__ == "__main__":
    main()
