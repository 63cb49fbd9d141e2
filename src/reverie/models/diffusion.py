"""Diffusion models: a network learns to take noise away, and sampling takes it all away, bit by bit.

DDPM: Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020, arXiv:2006.11239.
EDM: Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS 2022, arXiv:2206.00364.
Flow matching: Lipman et al., ICLR 2023, arXiv:2210.02747; Liu et al., "Rectified flow", ICLR 2023, arXiv:2209.03003.
Deviations are listed in docs/systems/diffusion.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from reverie.core.batch import Batch
from reverie.core.card import Card, Likelihood, Output, Space
from reverie.core.errors import UsageError, suggest
from reverie.core.noise import Noise
from reverie.core.options import SubRun
from reverie.core.verbs import Frame, Model
from reverie.diffusion import grids, samplers
from reverie.diffusion.denoiser import clipped, denoiser
from reverie.diffusion.frames import frames, last_image
from reverie.diffusion.guidance import guided
from reverie.diffusion.guides import Guide, guide_of
from reverie.diffusion.likelihood import DEQUANTISED, even, flow_log_prob_8bit, variational_bound
from reverie.diffusion.prediction import PREDICTIONS, weigh
from reverie.diffusion.samplers import Denoise
from reverie.diffusion.schedules import Cosine, Flow, Karras, Linear, Pair, Schedule
from reverie.models.conditioning import Conditioner, Conditioning
from reverie.nets.bert import MiniLM
from reverie.nets.shapes import Shape, Sides, check_sides, divides, halved, sides
from reverie.nets.unet import UNet
from reverie.optim.muon import Muon
from reverie.optim.phase import Phase, Stage

SAMPLER, STEPS, GRID = "unipc", 10, "log-snr"  # how a diffusion model samples by default
CLASSIFIER = SubRun("class_log_prob", "Train a classifier on the same data: reverie train noisy-classifier --data ...")
WEAKER = SubRun("denoiser", "Autoguidance wants a weaker diffusion model of the same data, or an earlier checkpoint.")
_NULL_RATE = 0.1  # how often training hides the condition, so that the null condition means "any" (arXiv:2207.12598)


def unet(shape: Shape, channels: int, width: int, depth: int, **told: int) -> UNet:
    """The fast U-Net for images of a shape: maps of at most 32 down to at most 8 a side.

    Raises:
        UsageError: a side that 4 does not divide.
    """
    check_sides(shape, "The U-Net", 4, 8, 1024)
    fold = 2
    while max(shape) // fold > 32 and divides(4 * fold, shape):
        fold *= 2
    widths = level_widths(halved(shape, fold), width)
    return UNet(channels, tuple(widths), depth, attention=len(widths) - 1, fold=fold, **told)


def level_widths(shape: Shape, width: int) -> list[int]:
    """Channels of a U-Net's levels, fine to coarse, from maps of a shape down to sides of at most 8."""
    widths = [width]
    while divides(2, shape) and min(shape) > 8:
        shape = halved(shape)
        widths.append(min(2 * widths[-1], 4 * width))
    return widths


class Diffusion(nn.Module):
    """A network that takes noise away. Every diffusion model is one of these; its system says of which parts.

    Args:
        net: (x, timesteps (B,), label (B,), tokens, mask) to its prediction, of the shape of x.
        schedule: of the noise.
        prediction: what the network says, a name of ``PREDICTIONS``.
        weighting: of its squared error, see ``weigh``.
        shape: (height, width) of the images in pixels.
        channels: 1 or 3.
        conditioner: classes and captions.
        optimizer: (model, lr, weight_decay) to its optimiser.

    Attributes:
        range: estimates of x0 are clamped to [-range, range]; None where x is not made of pixels.
    """

    range: float | None = 1.0

    def __init__(
        self,
        net: nn.Module,
        schedule: Schedule,
        prediction: str,
        weighting: str,
        shape: Shape,
        channels: int,
        conditioner: Conditioner,
        optimizer: Callable[[nn.Module, float, float], torch.optim.Optimizer] = Muon,
    ):
        super().__init__()
        self.classes, self.text_encoder = conditioner.classes, conditioner.text_encoder
        self.texts = self.text_encoder is not None
        self.net, self.schedule, self.prediction, self.weighting = net, schedule, prediction, weighting
        self.shape, self.channels = (shape[0], shape[1]), channels
        self.code_shape: tuple[int, ...] = (channels, *shape)
        self.optimizer = optimizer

    @property
    def card(self) -> Card:
        conditions = {"label": self.classes} if self.classes else {"text": 0} if self.texts else {}
        return Card(
            output=Output("image", self.shape, self.channels),
            conditions=conditions,
            columns=conditions.keys(),
            latents={"noise": Space(self.code_shape, "normal")},
            likelihoods=(  # of a chain that ends in 8-bit probabilities, and of the probability flow's density
                Likelihood("elbo", "bound", "8-bit", options={"times": 1}, rows=2048),
                Likelihood("elbo", "bound", "8-bit", evaluations=8, options={"times": 8}),
                Likelihood("log_prob", "estimate", "8-bit", True, "ode", 300, {"steps": 50, "probes": 1}, 256),
            ),
            evaluations=STEPS,
            weights=("minilm", "minilm-words") if isinstance(self.text_encoder, MiniLM) else (),
            networks=("net",) if self.text_encoder is None else ("net", "text_encoder"),
        )

    # Learning

    def stages(self, lr: float = 3e-3, weight_decay: float = 0.0) -> list[Stage]:
        return [Stage([Phase("denoise", self.optimizer(self, lr, weight_decay), self.loss)])]

    def codes(self, batch: Batch) -> Tensor:
        """What is diffused: the pictures themselves, here."""
        return batch["x"]

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        """The weighted squared error of the prediction at a random time, a mean over pictures and dimensions."""
        rng, x0 = batch.rng, self.codes(batch)
        t = self.schedule.draw(rng)
        alpha, sigma = (part[:, None, None, None] for part in self.schedule.pair(t))
        noise = rng(*x0.shape[1:]).to(x0)
        prediction = PREDICTIONS[self.prediction]
        p, q = prediction.target(alpha, sigma)
        hidden = rng.bernoulli(_NULL_RATE)
        x = (alpha * x0 + sigma * noise) * prediction.scale(alpha, sigma)
        said = self.bind(*self.hide(batch, hidden))(x, self.schedule.timestep(t)).to(x0.dtype)
        error = (said - p * x0 - q * noise).square().flatten(1).mean(1)
        weight = weigh(prediction, self.weighting, alpha, sigma)[:, 0, 0, 0]
        return {"loss": (weight * error).mean(), "error": error.mean()}

    def hide(self, batch: Batch, hidden: Tensor) -> tuple[Tensor | None, list[str] | None]:
        """Label and text of a batch, the rows named by ``hidden`` (B,) at the null condition."""
        label, text = batch.get("label"), batch.get("text")
        if self.classes and label is not None:
            label = label.masked_fill(hidden, -1)
        if self.texts and text is not None:
            text = ["" if gone else words for gone, words in zip(hidden.tolist(), text, strict=True)]
        return label, text

    def bind(
        self, label: Tensor | None = None, text: Sequence[str] | None = None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The network with its condition bound: (x, timesteps) -> output."""
        condition: dict[str, Any] = {"label": label} if self.classes else {}
        if self.text_encoder is None:
            return lambda x, timestep: self.net(x, timestep, **condition)
        tokens, mask = self.text_encoder([""] if text is None else text)  # no text is the null caption
        return lambda x, timestep: self.net(
            x, timestep, **condition, tokens=tokens.expand(len(x), -1, -1), mask=mask.expand(len(x), -1)
        )

    # Likelihood

    def chain(self) -> Sequence[Pair]:
        """The noise levels of the Markov chain that ``elbo`` is of, noise first.

        A schedule of T steps is itself that chain. Another has 1,000 levels, even in log(sigma / alpha), down to noise
        of half a grey level: what is finer is left to the chain's last step, which rounds to 8 bits.
        """
        if isinstance(self.schedule, Cosine | Linear):
            return grids.uniform(self.schedule, self.schedule.steps)
        return even(self.most_noise, 1 / 255, 999)

    @property
    def most_noise(self) -> float:
        """Sigma / alpha where a likelihood ends: the schedule's, or 200, where nothing is left of a picture."""
        alpha, sigma = self.schedule.pair(torch.ones(1, dtype=torch.float64))
        return min(float(sigma / alpha), 200.0)

    def elbo(self, batch: Batch, times: int = 1) -> Tensor:
        """The variational bound of ``chain``, nats per 8-bit image (B,); given label and text where they are known.

        Args:
            times: steps of the chain that each picture looks at, drawn at random: an unbiased estimate of the bound.
        """
        denoise = self.denoiser(batch.get("label"), batch.get("text"))
        return variational_bound(denoise, batch["x"], self.chain(), batch.rng, times)

    def log_prob(self, batch: Batch, steps: int = 50, probes: int = 1) -> Tensor:
        """Log-likelihood by the probability flow, nats per 8-bit image (B,): see ``flow_log_prob_8bit``.

        Args:
            steps: of Heun's method; the result is off by an amount that falls with their square.
            probes: random directions that estimate the divergence, without bias.
        """
        with torch.inference_mode(False), torch.no_grad():  # what is made here, a gradient may need below
            denoise = self.denoiser(batch.get("label"), batch.get("text"))
            grid = even(self.most_noise, DEQUANTISED, steps)
            return flow_log_prob_8bit(denoise, batch["x"], grid, batch.rng, probes)

    # Sampling

    def denoiser(
        self,
        label: Tensor | None = None,
        text: Sequence[str] | None = None,
        guidance: float = 1.0,
        guide: Guide | None = None,
    ) -> Denoise:
        """E[x0 | x] under a condition, guided by the null condition where ``guidance`` is not 1, or by ``guide``.

        Args:
            guide: makes a denoiser of this one, see ``diffusion.guides``.
        """
        prediction = PREDICTIONS[self.prediction]
        told = denoiser(self.bind(label, text), self.schedule, prediction)
        if guidance != 1:
            null = denoiser(self.bind(), self.schedule, prediction)
            told = guided(told, null, guidance)
        if guide is not None:
            told = guide(told, label, text)
        return told if self.range is None else clipped(told, self.range)

    def plan(self, sampler: str = SAMPLER, steps: int = STEPS, grid: str = GRID) -> tuple[str, list[Pair]]:
        """A sampler's name and the grid for a number of steps.

        Raises:
            UsageError: unknown names, or steps below 1.
        """
        known = {"sampler": (sampler, [*samplers.SAMPLERS]), "grid": (grid, [*grids.GRIDS, "optimised"])}
        for what, (name, names) in known.items():
            if name not in names:
                raise UsageError(f"There is no {what} {name!r}.{suggest(name, names)} Known: {', '.join(names)}.")
        steps = grids.check(steps)
        if grid == "optimised":
            return sampler, self.optimised_grid(sampler, steps)
        return sampler, grids.GRIDS[grid](self.schedule, steps)

    def optimised_grid(self, sampler: str, steps: int) -> list[Pair]:
        """The grid on which this network comes nearest to where many steps lead: see ``grids.optimised``. Kept."""
        if sampler in samplers.STOCHASTIC:
            raise UsageError(f"A grid can be optimised for a sampler that draws no noise, not for {sampler}.")
        kept = self.__dict__.setdefault("_grids", {})
        if (sampler, steps) not in kept:
            x = Noise.of_seeds(range(16), next(self.parameters()).device)(*self.code_shape)
            found = grids.optimised(self.denoiser(), self.schedule, x, steps, samplers.SAMPLERS[sampler])
            kept[sampler, steps] = grids.curved(self.schedule, steps, *found)
        return kept[sampler, steps]

    def stream(
        self,
        noise: Noise,
        label: Tensor | None = None,
        text: Sequence[str] | None = None,
        guidance: float = 1.0,
        sampler: str = SAMPLER,
        steps: int = STEPS,
        grid: str = GRID,
        classifier: Annotated[Model | None, CLASSIFIER] = None,
        autoguide: Annotated[Model | None, WEAKER] = None,
    ) -> Iterator[Frame]:
        """What ``sample`` goes through: x at each stop of the sampler and the estimate of x0 made there.

        Args:
            guidance: how strongly the label or text counts: 1 is as trained, 2 to 5 is clearer and less varied. Of a
                classifier or a weaker run its strength.
            sampler: ddpm, ddim, euler, heun, heun-churn, dpm++2m, dpm++2m-sde or unipc.
            steps: of the sampler, each one evaluation of the network (heun: two).
            grid: at which noise levels it stops: uniform (in time), karras, log-snr, or optimised (fitted to this run
                first, in a minute or less).
            classifier: a run of noisy-classifier, for a model without classes: steers to the label, ``guidance`` times.
            autoguide: a weaker run of the same data, or an earlier checkpoint: ``guidance`` above 1 leads away from it.
        Raises:
            UsageError: a condition that the model does not know, an unknown sampler or grid, steps below 1, a guide
                that does not fit.
        """
        guide = guide_of(self, classifier, autoguide, guidance)
        scale = guidance if guide is None else 1.0
        self.check(label, text, scale)
        name, pairs = self.plan(sampler, steps, grid)
        x = noise(*self.code_shape) * math.hypot(*pairs[0])
        steps_taken = samplers.SAMPLERS[name](self.denoiser(label, text, scale, guide), x, pairs, noise)
        yield from frames(steps_taken, x, pairs, self.picture)

    def check(self, label: Tensor | None, text: Sequence[str] | None, guidance: float) -> None:
        """Raise a UsageError for a condition that this model was not trained with."""
        if label is not None and self.classes and not -1 <= int(label.min()) <= int(label.max()) < self.classes:
            raise UsageError(f"Labels run from 0 to {self.classes - 1}; {label.tolist()} was asked for.")
        if text is not None and not self.texts:
            raise UsageError("This model was trained without captions. Train with --conditional text to ask by words.")
        if guidance != 1 and not (self.classes and label is not None) and not (self.texts and text is not None):
            raise UsageError("Guidance strengthens a condition: name a label or a text for it to strengthen.")

    def sample(self, noise: Noise, **options: Any) -> Tensor:
        """Images (B, C, H, W) from noise: see ``stream`` for conditions and options."""
        return last_image(self.stream(noise, **options))

    # Views

    def picture(self, x: Tensor) -> Tensor:
        """Of what is diffused the images (B, C, H, W)."""
        return x

    def diffuse(self, batch: Batch, t: float) -> Tensor:
        """What training sees of a batch at time t, as images of noise of size one: the same noise at all t."""
        x0 = self.codes(batch)
        noise = Noise(batch.rng.keys, batch.rng.draw)(*x0.shape[1:]).to(x0)
        alpha, sigma = (float(part) for part in self.schedule.pair(torch.tensor([t], dtype=torch.float64)))
        return self.picture((alpha * x0 + sigma * noise) / math.hypot(alpha, sigma))


@dataclass(frozen=True)
class Network:
    """The fast U-Net.

    Attributes:
        width: channels of the U-Net's finest level.
        depth: residual blocks a level, down and up.
    """

    width: int = 64
    depth: int = 1


def ddpm(
    shape: Sides,
    channels: int,
    classes: int = 0,
    schedule: Literal["cosine", "linear"] = "cosine",
    timesteps: int = 1000,
    prediction: Literal["noise", "x0", "v"] = "noise",
    weighting: Literal["simple", "min-snr", "v", "x0"] = "simple",
    network: Network = Network(),
    conditioning: Conditioning = Conditioning(),
) -> Diffusion:
    """A chain of T steps of noise, and a U-Net that predicts the noise that was added.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1 or 3.
        classes: number of classes in the data.
        schedule: "cosine" or "linear" (beta).
        timesteps: T, the length of the chain in training.
        prediction: what the network says: "noise", "x0" or "v".
        weighting: of the squared error: "simple" (of the noise), "min-snr", "v" or "x0".
    """
    if schedule not in ("cosine", "linear") or timesteps < 2:
        raise UsageError(f"schedule is 'cosine' or 'linear' over at least 2 timesteps, not {schedule!r}, {timesteps}.")
    chain = Cosine(timesteps) if schedule == "cosine" else Linear(timesteps)
    return of_images(chain, prediction, weighting, shape, channels, classes, network, conditioning)


def edm(
    shape: Sides,
    channels: int,
    classes: int = 0,
    noise_mean: float = -1.2,
    noise_deviation: float = 1.2,
    network: Network = Network(),
    conditioning: Conditioning = Conditioning(),
) -> Diffusion:
    """Images under noise of standard deviation 0.002 to 80, and a preconditioned network.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1 or 3.
        classes: number of classes in the data.
        noise_mean: mean of log sigma in training.
        noise_deviation: standard deviation of log sigma in training.
    """
    schedule = Karras(mean=noise_mean, deviation=noise_deviation)
    return of_images(schedule, "edm", "edm", shape, channels, classes, network, conditioning)


def flow_matching(
    shape: Sides,
    channels: int,
    classes: int = 0,
    time_mean: float = 0.0,
    time_deviation: float = 1.0,
    network: Network = Network(),
    conditioning: Conditioning = Conditioning(),
) -> Diffusion:
    """Straight lines from images to noise, and a network that predicts their velocity.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1 or 3.
        classes: number of classes in the data.
        time_mean: mean of the logit of t in training; t = 1 is noise.
        time_deviation: its standard deviation; 0 draws t evenly.
    """
    schedule = Flow(time_mean, time_deviation)
    return of_images(schedule, "velocity", "velocity", shape, channels, classes, network, conditioning)


def of_images(
    schedule: Schedule,
    prediction: str,
    weighting: str,
    shape: Sides,
    channels: int,
    classes: int,
    network: Network,
    conditioning: Conditioning,
) -> Diffusion:
    """Diffusion of images by the fast U-Net."""
    conditioner = Conditioner(conditioning, classes)
    net = unet(sides(shape), channels, network.width, network.depth, **conditioner.arguments)
    return Diffusion(net, schedule, prediction, weighting, sides(shape), channels, conditioner)
