"""How fast is a density model trained and sampled: reverie against other libraries, same architecture, same weights?

- glow: a training step of 14x14x4 maps (28x28 grey images, squeezed) through couplings with networks of 3x3, 1x1 and
  3x3 convolutions and invertible 1x1 convolutions: against `normflows` (GlowBlock).
- splines: a training step of 784 features through coupling splines with dense networks: against `zuko` (NICE with
  MonotonicRQSTransform). Parity: both must give the log-likelihood of held-out rows of equal weights (float64, within
  1e-6); a step is forward, backward and Adam's update. reverie steps in the precision that it picks, the peers as their
  examples do (fp32).
- sampling: cached against naive sampling of PixelCNN++ (`density_sampling.py`; of the naive loop a few whole passes are
  timed, and count as often as there are pixels).

Rounds take turns; ratios are those of the medians. The last line is the smallest ratio over its aim, named.

Run:  python benchmarks/density.py [--rounds 3] [--threads 2] [--steps 8] [--only glow splines sampling]
      (pip install --no-deps zuko normflows)
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import density_sampling
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.layout import to_device_layout
from reverie.core.precision import keep_memory, pick_precision
from reverie.nets.layers.thin import ThinConv3x3
from reverie.optim.phase import adamw
from reverie.probability.dequantisation import normal_log_prob
from reverie.probability.multiscale import Steps
from reverie.probability.transforms import Coupling, NormalisedConv1x1, Permutation, Spline

AIMS = {"glow": 2.0, "splines": 2.0, "sampling": 100.0}
ROWS = 128
BLOCKS, WIDTH, MAP = 8, 128, (14, 14, 4)  # of glow
TRANSFORMS, HIDDEN, FEATURES, BINS = 3, (256, 256), 784, 8  # of splines
LogProb = Callable[[Tensor], Tensor]


# glow


class SigmoidAffine:
    """(x - shift) sigmoid(raw + 2), the peer's function of a value."""

    parameters = 2

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        logit, shift = raw.chunk(2, -1)
        log_scale = F.logsigmoid(logit + 2)
        return (x - shift) * log_scale.exp(), log_scale

    def inverse(self, y: Tensor, raw: Tensor) -> Tensor:
        logit, shift = raw.chunk(2, -1)
        return y / torch.sigmoid(logit + 2) + shift


class ConvNet(nn.Module):
    """3x3, 1x1 and 3x3 convolutions."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.layers = nn.Sequential(
            ThinConv3x3(inputs, WIDTH),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 1),
            nn.ReLU(),
            ThinConv3x3(WIDTH, outputs),
        )

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        return self.layers(x)


def glow() -> tuple[nn.Module, LogProb, nn.Module, LogProb, Tensor]:
    """Our model and its log-density, the peer and its log-density with the same weights, and rows for both."""
    import normflows as nf

    channels = MAP[-1]
    blocks = [nf.flows.GlowBlock(channels, WIDTH) for _ in range(BLOCKS)]
    base = nf.distributions.DiagGaussian((channels, *MAP[:2]), trainable=False)
    peer = nf.NormalizingFlow(base, blocks).double()
    layers: list[nn.Module] = []
    for block in reversed(blocks):
        affine, mix, norm = block.flows
        norm.data_dep_init_done.fill_(1.0)
        nets = [m for m in affine.modules() if isinstance(m, nn.Conv2d)]
        nn.init.normal_(nets[-1].weight, std=0.01)
        ours_mix, net = NormalisedConv1x1(channels).double(), ConvNet(channels // 2, channels).double()
        with torch.no_grad():
            ours_mix.permutation.copy_(mix.P)
            ours_mix.sign.copy_(mix.sign_S)
            ours_mix.lower.copy_(mix.L)
            ours_mix.upper.copy_(mix.U)
            ours_mix.log_s.copy_(mix.log_S)
            for mine, theirs in zip((m for m in net.modules() if isinstance(m, nn.Conv2d)), nets, strict=True):
                order = torch.arange(len(theirs.weight))
                order = torch.cat([order[1::2], order[::2]]) if theirs is nets[-1] else order  # scales, then shifts
                mine.weight.copy_(theirs.weight[order])
                mine.bias.copy_(theirs.bias[order])
        layers += [ours_mix, Coupling(net, SigmoidAffine(), channels // 2)]
    ours = Steps(layers)
    return ours, density(ours), peer, lambda x: peer.log_prob(x.permute(0, 3, 1, 2)), torch.randn(ROWS, *MAP)


def density(steps: nn.Module) -> LogProb:
    """log p(x) in nats (B,) of layers whose latents are of N(0, I)."""

    def log_prob(x: Tensor) -> Tensor:
        z, log_det = steps(x)
        return normal_log_prob(z) + log_det

    return log_prob


# splines


class Dense(nn.Module):
    """A dense network of features, on maps of one pixel (B, C, 1, 1)."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        return self.net(x.flatten(1))[:, :, None, None]


def splines() -> tuple[nn.Module, LogProb, nn.Module, LogProb, Tensor]:
    """As ``glow``."""
    import copy

    import zuko

    shapes = [(BINS,), (BINS,), (BINS - 1,)]
    options = {"univariate": zuko.transforms.MonotonicRQSTransform, "shapes": shapes, "hidden_features": HIDDEN}
    peer = zuko.flows.NICE(FEATURES, transforms=TRANSFORMS, **options).double()
    layers: list[nn.Module] = []
    order = list(range(FEATURES))
    for transform in peer.transform.transforms:
        mask = transform.mask.tolist()
        kept = [i for i in range(FEATURES) if mask[i]] + [i for i in range(FEATURES) if not mask[i]]
        coupling = Coupling(Dense(copy.deepcopy(transform.hyper)), Spline(BINS), sum(mask))
        layers += [Permutation([order.index(i) for i in kept]), coupling]
        order = kept
    ours = Steps(layers)
    return ours, density(ours), peer, lambda x: peer().log_prob(x.flatten(1)), torch.randn(ROWS, 1, 1, FEATURES)


# Rounds


def seconds_of_a_step(model: nn.Module, log_prob: LogProb, x: Tensor, ours: bool, steps: int) -> float:
    """Median seconds of a training step."""
    if ours:
        optimizer, precision = adamw(model.parameters(), 1e-4), pick_precision("auto", torch.device("cpu"))
    else:
        optimizer, precision = torch.optim.Adam(model.parameters(), 1e-4), pick_precision("fp32", torch.device("cpu"))
    times = []
    for _ in range(steps + 2):
        began = time.perf_counter()
        with precision.autocast():
            loss = -log_prob(x).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


def training_ratio(name: str, rounds: int, steps: int) -> float:
    """The peer's seconds of a step over ours, after a check of parity."""
    torch.manual_seed(0)
    ours, our_density, peer, their_density, x = {"glow": glow, "splines": splines}[name]()
    with torch.no_grad():
        difference = (our_density(x[:16].double()) - their_density(x[:16].double())).abs().max().item()
    parameters = [sum(p.numel() for p in model.parameters()) for model in (ours, peer)]
    print(f"{name}: {parameters[0]:,} and {parameters[1]:,} parameters, log-densities equal to {difference:.1e} nats")
    assert difference < 1e-6 * math.prod(x.shape[1:])
    ours, peer = to_device_layout(ours.float(), "cpu"), peer.float()
    pairs = []
    for _ in range(rounds):
        theirs = seconds_of_a_step(peer, their_density, x, False, steps)
        mine = seconds_of_a_step(ours, our_density, x, True, steps)
        pairs.append((mine, theirs))
        print(f"{name}: reverie {1e3 * mine:.1f} ms, peer {1e3 * theirs:.1f} ms a step of {ROWS}", flush=True)
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{name}: {theirs / mine:.2f} times as fast a training step (aim {AIMS[name]:g})")
    return theirs / mine


def sampling_ratio(rounds: int) -> float:
    """Naive over cached seconds of a batch of samples, see ``density_sampling``."""
    with torch.no_grad():
        assert density_sampling.equal_levels(), "cached and naive sampling drew different images"
        ratios = [density_sampling.speedup() for _ in range(rounds)]
    print(f"sampling: {', '.join(f'{ratio:.1f}' for ratio in ratios)} times as fast with the cache (aim 100)")
    return statistics.median(ratios)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=AIMS, default=list(AIMS))
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    keep_memory()  # as a training of reverie does; the peers' steps gain as well
    ratios = {name: training_ratio(name, flags.rounds, flags.steps) for name in flags.only if name != "sampling"}
    if "sampling" in flags.only:
        ratios["sampling"] = sampling_ratio(flags.rounds)
    name = min(ratios, key=lambda name: ratios[name] / AIMS[name])
    print(f"ratio: {ratios[name] / AIMS[name]:.2f} of the aim, {name}")


if __name__ == "__main__":
    main()
