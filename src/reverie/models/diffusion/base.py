"""Diffusion models: a network learns to remove noise; sampling removes all of it in steps.

Every diffusion model is a ``Diffusion``; its system says of which network, schedule, prediction and weighting, of
images or of the latents of a codec. Deviations are listed in docs/systems/diffusion.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from reverie.core.annotations import Count, Steps, SubRun, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Likelihood, Output, Space, check_space
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.core.verbs import Frame, Model
from reverie.diffusion import grids, samplers
from reverie.diffusion.denoiser import clipped, denoiser
from reverie.diffusion.frames import frames, last_image
from reverie.diffusion.guidance import guided
from reverie.diffusion.guides import Guide, guide_of
from reverie.diffusion.inversion import from_noise, to_noise
from reverie.diffusion.likelihood import even, flow_log_prob_8bit, variational_bound
from reverie.diffusion.prediction import PREDICTIONS, weigh
from reverie.diffusion.samplers import Denoise
from reverie.diffusion.schedules import AlphaSigma, Cosine, Linear, Schedule
from reverie.models.diffusion.codec import LatentCodec
from reverie.optim.muon import Muon
from reverie.optim.phase import Phase, Stage
from reverie.probability.conditioning import Conditioner
from reverie.probability.likelihoods import DEQUANTISED_STD

STEPS = 10  # of sampling, by default
FEATURES_RATIO = 0.1  # sigma / alpha at which the network looks at images that have no noise
INVERSION_STEPS = 30  # of the probability flow between images and noise, two evaluations each
Sampler = Literal["ddpm", "ddim", "euler", "heun", "heun-churn", "dpm++2m", "dpm++2m-sde", "unipc"]
TimeGrid = Literal["uniform", "karras", "log-snr", "optimised"]
CLASSIFIER = SubRun("class_log_prob", "Train a classifier on the same data: reverie train noisy-classifier --data ...")
WEAKER = SubRun("denoiser", "Autoguidance needs a weaker diffusion model of the same data, or an earlier checkpoint.")
_OPTIMISED: WeakKeyDictionary[nn.Module, dict[Any, list[AlphaSigma]]] = WeakKeyDictionary()  # grids, by network


class Diffusion(nn.Module):
    """A network that removes noise.

    Args:
        net: (x, c_noise (B,), label (B,), tokens, mask) to its prediction, of the shape of x.
        schedule: of the noise.
        prediction: what the network predicts, a name of ``PREDICTIONS``.
        weighting: of its squared error, see ``weigh``.
        output: what it makes.
        conditioner: classes and captions.
        codec: of a latent diffusion; None: the images themselves are diffused.
        optimizer: (modules, lr, weight_decay) to the optimiser.

    Attributes:
        latent_shape: of what is diffused, (C, H, W).
        clip: estimates of x0 are clamped to [-clip, clip]; None where x is not made of pixels.
    """

    def __init__(
        self,
        net: nn.Module,
        schedule: Schedule,
        prediction: str,
        weighting: str,
        output: Output,
        conditioner: Conditioner,
        codec: LatentCodec | None = None,
        optimizer: Callable[[nn.Module, float, float], torch.optim.Optimizer] = Muon,
    ):
        super().__init__()
        self.net, self.conditioner, self.latent_codec = net, conditioner, codec
        self.schedule, self.prediction, self.weighting, self.optimizer = schedule, prediction, weighting, optimizer
        self.output, self.classes = output, conditioner.classes
        self.latent_shape = (output.channels, *output.shape) if codec is None else codec.map_shape
        self.clip = 1.0 if codec is None else None
        self.without = () if codec is None else ("elbo", "log_prob")  # a density of latents is none of images

    @property
    def card(self) -> Card:
        conditions, codec = self.conditioner.conditions, self.latent_codec
        noise = Space(self.latent_shape, "normal", "invert", evaluations=2 * INVERSION_STEPS)
        networks = ("net",) if self.conditioner.text_encoder is None else ("net", "conditioner.text_encoder")
        return Card(
            output=self.output,
            conditions=conditions,
            columns=conditions.keys(),
            latents={"noise": noise} if codec is None else {"z": codec.space, "noise": noise},
            likelihoods=()  # a density of latents would be none of images
            if codec
            else (  # of a chain that ends in 8-bit probabilities, and of the probability flow's density
                Likelihood("elbo", "bound", "8-bit", options={"times": 1}, rows=2048),
                Likelihood("elbo", "bound", "8-bit", evaluations=8, options={"times": 8}),
                Likelihood("log_prob", "estimate", "8-bit", True, "ode", 300, {"steps": 50, "probes": 1}, 256),
            ),
            evaluations=STEPS,
            weights=(*self.conditioner.weights, *(codec.weights if codec else ())),
            networks=(*networks, *(f"latent_codec.{name}" for name in (codec.networks if codec else ()))),
            restores=() if codec else ("denoise", "inpaint", "super-resolution", "colorize"),
        )

    # Training

    def stages(self, lr: Weight = 3e-3, weight_decay: Weight = 0.0) -> list[Stage]:
        """The codec first, where it is trained here, then the diffusion."""
        trained = nn.ModuleList([self.net, self.conditioner])
        denoise = Phase("denoise", self.optimizer(trained, lr, weight_decay), self.loss)
        if self.latent_codec is None:
            return [Stage([denoise])]
        diffusion = Stage([denoise], name="diffusion", prepare=self.latent_codec.measure)
        return [*self.latent_codec.stages(weight_decay), diffusion]

    def to_latent(self, image: Tensor) -> Tensor:
        """What is diffused of images: themselves, or their latents (B, *latent_shape)."""
        return image if self.latent_codec is None else self.latent_codec.to_latent(image)

    def from_latent(self, latent: Tensor) -> Tensor:
        """The images (B, C, H, W) of what is diffused."""
        return latent if self.latent_codec is None else self.latent_codec.from_latent(latent)

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        """The weighted squared error of the prediction at a random time, a mean over images and dimensions."""
        rng = batch.rng
        with torch.no_grad():  # the codec has been trained
            x0 = self.to_latent(batch["x"])
        t = self.schedule.sample_t(rng)
        alpha, sigma = (part[:, None, None, None] for part in self.schedule.alpha_sigma(t))
        noise = rng(*x0.shape[1:]).to(x0)
        prediction = PREDICTIONS[self.prediction]
        p, q = prediction.target(alpha, sigma)
        cond = self.conditioner.drop(batch, rng)
        x_t = (alpha * x0 + sigma * noise) * prediction.c_in(alpha, sigma)
        predicted = self.conditioned(**cond)(x_t, self.schedule.c_noise(t)).to(x0.dtype)
        error = (predicted - p * x0 - q * noise).square().flatten(1).mean(1)
        weight = weigh(prediction, self.weighting, alpha, sigma)[:, 0, 0, 0]
        return {"loss": (weight * error).mean(), "mse": error.mean()}

    def conditioned(
        self, label: Tensor | None = None, text: Sequence[str] | None = None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The network under a condition: (x, c_noise) -> prediction."""
        cond = self.conditioner(label, text)
        if "tokens" not in cond:
            return lambda x, c_noise: self.net(x, c_noise, **cond)
        tokens, mask = cond["tokens"], cond["mask"]
        return lambda x, c_noise: self.net(
            x, c_noise, tokens=tokens.expand(len(x), -1, -1), mask=mask.expand(len(x), -1)
        )

    # Likelihood

    def chain(self) -> Sequence[AlphaSigma]:
        """The noise levels of the Markov chain that ``elbo`` is of, noise first.

        A schedule of T steps is itself that chain. Another has 1,000 levels, even in log(sigma / alpha), down to noise
        of half a grey level: what is finer is left to the chain's last step, which rounds to 8 bits.
        """
        if isinstance(self.schedule, Cosine | Linear):
            return grids.uniform(self.schedule, self.schedule.steps)
        return even(self.max_ratio, 1 / 255, 999)

    @property
    def max_ratio(self) -> float:
        """Sigma / alpha where a likelihood or an inversion ends: the schedule's, or 200, where no image is left."""
        alpha, sigma = self.schedule.alpha_sigma(torch.ones(1, dtype=torch.float64))
        return min(float(sigma / alpha), 200.0)

    def elbo(self, batch: Batch, times: Count = 1) -> Tensor:
        """The variational bound of ``chain``, nats per 8-bit image (B,); given label and text where they are known.

        Args:
            times: steps of the chain that are evaluated for each image, drawn at random: an unbiased estimate.
        """
        denoise = self.denoiser(batch.get("label"), batch.get("text"))
        return variational_bound(denoise, batch["x"], self.chain(), batch.rng, times)

    def log_prob(self, batch: Batch, steps: Steps = 50, probes: Count = 1) -> Tensor:
        """Log-likelihood by the probability flow, nats per 8-bit image (B,): see ``flow_log_prob_8bit``.

        Args:
            steps: of Heun's method; the result is off by an amount that falls with their square.
            probes: random directions that estimate the divergence, without bias.
        """
        with torch.inference_mode(False), torch.no_grad():  # a gradient may need what is made here
            denoise = self.denoiser(batch.get("label"), batch.get("text"))
            grid = even(self.max_ratio, DEQUANTISED_STD, steps)
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
        denoise = denoiser(self.conditioned(label, text), self.schedule, prediction)
        if guidance != 1:
            null = denoiser(self.conditioned(), self.schedule, prediction)
            denoise = guided(denoise, null, guidance)
        if guide is not None:
            denoise = guide(denoise, label, text)
        return denoise if self.clip is None else clipped(denoise, self.clip)

    def timesteps(
        self, sampler: Sampler = "unipc", steps: Steps = STEPS, time_grid: TimeGrid = "log-snr"
    ) -> list[AlphaSigma]:
        """The noise levels (alpha, sigma) that a sampler visits, noise first and (1, 0) last.

        Raises:
            UsageError: an optimised grid for a stochastic sampler.
        """
        if time_grid != "optimised":
            return grids.GRIDS[time_grid](self.schedule, grids.check(steps))
        if sampler in samplers.STOCHASTIC:
            raise UsageError(f"A grid can be optimised for a deterministic sampler, not for {sampler}.")
        parameters = list(self.net.parameters())
        key = (sampler, steps, sum(p._version for p in parameters))  # of these very weights
        fitted = _OPTIMISED.setdefault(self.net, {})
        if key not in fitted:
            x = Noise.of_seeds(range(16), parameters[0].device)(*self.latent_shape)
            curve = grids.optimised(self.denoiser(), self.schedule, x, steps, samplers.SAMPLERS[sampler])
            fitted[key] = grids.curved(self.schedule, steps, *curve)
        return fitted[key]

    def stream(
        self,
        noise: Noise,
        label: Tensor | None = None,
        text: Sequence[str] | None = None,
        guidance: float = 1.0,
        sampler: Sampler = "unipc",
        steps: Steps = STEPS,
        time_grid: TimeGrid = "log-snr",
        classifier: Annotated[Model | None, CLASSIFIER] = None,
        autoguide: Annotated[Model | None, WEAKER] = None,
    ) -> Iterator[Frame]:
        """The states of ``sample``: x at each noise level and the estimate of x0 made there.

        Args:
            guidance: scale of the guidance: 1 is as trained, 2 to 5 is clearer and less varied. Of a classifier or a
                weaker run its scale.
            sampler: ddpm, ddim, euler, heun, heun-churn, dpm++2m, dpm++2m-sde or unipc.
            steps: of the sampler, each one evaluation of the network (heun: two).
            time_grid: noise levels that it visits: uniform (in time), karras, log-snr, or optimised (fitted to this run
                first, in a minute or less).
            classifier: a run of noisy-classifier, for a model without classes: steers to the label, ``guidance`` times.
            autoguide: a weaker run of the same data, or an earlier checkpoint: ``guidance`` above 1 leads away from it.
        Raises:
            UsageError: a condition that the model does not know, a guide that does not fit.
        """
        guide = guide_of(self, classifier, autoguide, guidance)
        scale = guidance if guide is None else 1.0
        self.conditioner.check(label, text, scale)
        levels = self.timesteps(sampler, steps, time_grid)
        x = noise(*self.latent_shape) * math.hypot(*levels[0])
        solver = samplers.SAMPLERS[sampler](self.denoiser(label, text, scale, guide), x, levels, noise)
        yield from frames(solver, x, levels, self.from_latent)

    def sample(self, noise: Noise, **options: Any) -> Tensor:
        """Images (B, C, H, W) from noise: see ``stream`` for conditions and options."""
        return last_image(self.stream(noise, **options))

    def features(self, image: Tensor) -> Tensor:
        """The estimate of x0 where there is almost no noise: sigma / alpha of ``FEATURES_RATIO``."""
        return self.denoiser()(self.to_latent(image), 1.0, FEATURES_RATIO)

    # Latent spaces

    def encode(
        self,
        image: Tensor,
        label: Tensor | None = None,
        text: Sequence[str] | None = None,
        space: str | None = None,
    ) -> Tensor:
        """(B, C, H, W) to a latent space: the codec's ("z"), or the noise that sampling would start from ("noise").

        Args:
            space: one of the card's latent spaces; by default the first.
        """
        latent = self.to_latent(image)
        if check_space(space, self.card.latents) == "z":
            return latent.reshape(-1, *self.card.latents["z"].shape)
        return to_noise(self.denoiser(label, text), latent, self._flow())

    def decode(
        self,
        latent: Tensor,
        label: Tensor | None = None,
        text: Sequence[str] | None = None,
        space: str | None = None,
    ) -> Tensor:
        """The images (B, C, H, W) of latents, see ``encode``."""
        latent = latent.reshape(-1, *self.latent_shape)
        if check_space(space, self.card.latents) == "z":
            return self.from_latent(latent)
        return self.from_latent(from_noise(self.denoiser(label, text), latent, self._flow())).clamp(-1, 1)

    def latent(self, noise: Noise, space: str | None = None, **condition: Any) -> Tensor:
        """Latents (B, ...): noise, or latents of the codec that the model samples."""
        if check_space(space, self.card.latents) == "noise":
            return noise(*self.latent_shape)
        for frame in self.stream(noise, **condition):
            latents = frame.tensors["x"]
        return latents.reshape(-1, *self.card.latents["z"].shape)

    def _flow(self) -> list[AlphaSigma]:
        """The noise levels of the probability flow between images and noise, noise first."""
        return list(even(self.max_ratio, 1 / 255, INVERSION_STEPS))

    # Views

    def diffuse(self, batch: Batch, t: float) -> Tensor:
        """Training's x_t of a batch at time t, scaled to noise of size one, as images: the same noise at all t."""
        x0 = self.to_latent(batch["x"])
        noise = Noise(batch.rng.keys, batch.rng.draw)(*x0.shape[1:]).to(x0)
        alpha, sigma = (float(part) for part in self.schedule.alpha_sigma(torch.tensor([t], dtype=torch.float64)))
        return self.from_latent((alpha * x0 + sigma * noise) / math.hypot(alpha, sigma))
