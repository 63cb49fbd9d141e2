"""The two-player game: what each player is paid, what keeps D smooth, and what all such systems share.

Minimax and non-saturating: Goodfellow et al., "Generative adversarial nets", NeurIPS 2014, arXiv:1406.2661.
Least squares: Mao et al., ICCV 2017, arXiv:1611.04076. Hinge: Lim and Ye, arXiv:1705.02894.
Wasserstein: Arjovsky et al., arXiv:1701.07875, with the penalty of Gulrajani et al., NeurIPS 2017, arXiv:1704.00028.
Relativistic pairs: Jolicoeur-Martineau, ICLR 2019, arXiv:1807.00734; with R1 and R2, Huang et al., NeurIPS 2024,
arXiv:2501.05441. R1: Mescheder et al., ICML 2018, arXiv:1801.04406. Packing: Lin et al., arXiv:1712.04086.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.batch import Batch
from reverie.core.card import Card, Output, Space
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.core.values import label_classes
from reverie.data.differentiable_augment import adaptive, diffaugment
from reverie.nets.adversarial import within
from reverie.nets.shapes import Sides, sides
from reverie.optim.phase import Metrics, Outputs, Phase, Stage, adamw

ADA_TARGET = 0.6  # mean sign of D's logits of real images that ADA steers to
ADA_RATE = 1e-3  # by how much its probability moves in a step

Loss = Literal["minimax", "non-saturating", "least-squares", "hinge", "wasserstein", "r3"]
Level = tuple[Any, ...]  # what growing networks are told: their level, and how far it is faded in
Pay = Callable[[Tensor, Tensor], Tensor]  # logits of real and of made pictures, (B,) each, to losses (B,)


@dataclass(frozen=True)
class Game:
    """What each player minimises, row by row.

    Attributes:
        judge: D's loss.
        make: G's loss.
        paired: whether G's loss looks at the real pictures' logits.
        probability: whether sigmoid(logit) is D's probability of "real".
        r1, r2, slope: the weights of the penalties that belong to it, see ``Penalties``.
    """

    judge: Pay
    make: Pay
    paired: bool = False
    probability: bool = True
    r1: float = 0.0
    r2: float = 0.0
    slope: float = 0.0


GAMES: dict[str, Game] = {
    # min_G max_D E log D(x) + E log(1 - D(G(z))): where D is sure, sigmoid(fake) and with it G's gradient vanish
    "minimax": Game(lambda r, f: F.softplus(-r) + F.softplus(f), lambda r, f: -F.softplus(f)),
    "non-saturating": Game(lambda r, f: F.softplus(-r) + F.softplus(f), lambda r, f: F.softplus(-f)),
    "least-squares": Game(
        lambda r, f: ((r - 1).square() + f.square()) / 2, lambda r, f: (f - 1).square() / 2, probability=False
    ),
    "hinge": Game(lambda r, f: F.relu(1 - r) + F.relu(1 + f), lambda r, f: -f, probability=False),
    "wasserstein": Game(lambda r, f: f - r, lambda r, f: -f, probability=False, slope=10.0),
    "r3": Game(
        lambda r, f: F.softplus(f - r),
        lambda r, f: F.softplus(r - f),
        paired=True,
        probability=False,
        r1=0.1,
        r2=0.1,
    ),
}


def squared_slope(score: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """|d score / d x|^2 of each row (B,), itself differentiable; ``score`` gives a number a row.

    Where rows share a score (packing), each row's part of its gradient counts for itself.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(score(x).sum(), x, create_graph=torch.is_grad_enabled())
    return slope.square().flatten(1).sum(1)


def between(real: Tensor, fake: Tensor, rng: Noise) -> Tensor:
    """A point on the line from each real picture to a made one, evenly drawn."""
    return torch.lerp(real, fake, rng.uniform(1, 1, 1).to(real))


def spread(made: Tensor, real: Tensor) -> Tensor:
    """Mean squared distance of neighbours among made pictures, over that of real ones: 0 when all have become one.

    A batch of one picture says nothing, and is given 1.
    """
    if len(made) < 2:
        return made.new_ones(())
    apart, wanted = ((x - x.roll(1, 0)).square().mean() for x in (made.detach(), real))
    return apart / wanted.clamp(min=1e-6)


def game_of(name: str) -> Game:
    """By name, or a UsageError."""
    if name not in GAMES:
        raise UsageError(f"loss is one of {', '.join(GAMES)}, not {name!r}.")
    return GAMES[name]


class Adversarial(nn.Module):
    """What the GANs share: two moves, penalties, conditions, what D's spectacles do. Not a system itself.

    A system builds ``G`` ((z, label) -> pictures) and ``D`` ((pictures, label) -> logits), and calls ``ready``.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1 or 3.
        classes: number of classes in the data.
        conditional: "none" or "label".
        loss: "minimax" (saturating), "non-saturating", "least-squares", "hinge", "wasserstein" or "r3" (relativistic
            pairs).
        r1: weight of half the squared slope of D at real pictures; by default the loss's own (r3: 0.1, others 0).
        r2: the same at made pictures.
        slope: weight of (slope - 1)^2 between real and made pictures; by default the loss's own (wasserstein: 10).
        penalty_every: steps between the penalties, which then count as many times.
        d_augment: what D is shown: "none", "diffaugment" (views of every picture) or "ada" (as many as it takes).
        packing: how many pictures D judges together.

    Attributes:
        latent: numbers in z, which is N(0, I).
    """

    G: nn.Module
    D: Any
    latent: int
    strength: Tensor
    naming = 1.0  # weight of D's opinion on the class, where it has one
    transient = ("strength",)

    def __init__(
        self,
        shape: Sides,
        channels: int,
        classes: int = 0,
        conditional: Literal["none", "label"] = "none",
        loss: Loss = "non-saturating",
        r1: float | None = None,
        r2: float | None = None,
        slope: float | None = None,
        penalty_every: int = 1,
        d_augment: Literal["none", "diffaugment", "ada"] = "none",
        packing: int = 1,
    ):
        super().__init__()
        if d_augment not in ("none", "diffaugment", "ada"):
            raise UsageError(f"d_augment is 'none', 'diffaugment' or 'ada', not {d_augment!r}.")
        if packing < 1 or penalty_every < 1:
            raise UsageError(f"packing and penalty_every are at least 1, not {packing} and {penalty_every}.")
        self.shape, self.channels = sides(shape), channels
        self.classes = label_classes(conditional, classes)
        self.game = game_of(loss)
        own = {"r1": r1, "r2": r2, "slope": slope}
        weights = {name: getattr(self.game, name) if value is None else value for name, value in own.items()}
        if min(weights.values()) < 0:
            raise UsageError(f"r1, r2 and slope are weights of penalties, at least 0: {weights}.")
        self.r1, self.r2, self.slope = weights["r1"], weights["r2"], weights["slope"]
        self.penalty_every, self.d_augment, self.packing = penalty_every, d_augment, packing
        self.register_buffer("strength", torch.zeros(()))  # ADA's probability p

    @property
    def card(self) -> Card:
        conditions = {"label": self.classes} if self.classes else {}
        return Card(
            output=Output("image", self.shape, self.channels),
            conditions=conditions,
            columns=conditions.keys(),
            latents={"z": Space((self.latent,), "normal")},
            monitors=("gan", "classes"),
            networks=("G", "D"),
        )

    # Learning

    def stages(self, lr: float = 2e-4, d_lr: float = 0.0, beta: float = 0.0) -> list[Stage]:
        """D, then G, of the same fakes; lazy penalties (``penalty_every`` above 1) are a phase between.

        Args:
            lr: peak learning rate of G.
            d_lr: that of D; 0 is the same.
            beta: Adam's first moment; GANs like it low.
        """
        d = self.optimizer(self.D, d_lr or lr, beta)
        lazy = self.penalised and self.penalty_every > 1
        phases = [Phase("D", d, self.d_loss, graph=False, eager=self.penalised and not lazy)]
        if lazy:
            every = self.penalty_every
            phases.append(Phase("D-penalty", d, self.penalty_loss, every, every, graph=False, eager=True))
        phases.append(Phase("G", self.optimizer(self.G, lr, beta), self.g_loss))
        update = self.adapt_augmentation if self.d_augment == "ada" else None
        return [Stage(phases, forward=self.generate, update=update, group=self.packing)]

    def optimizer(self, net: nn.Module, lr: float, beta: float) -> torch.optim.Optimizer:
        return adamw(net.parameters(), lr, betas=(beta, 0.99))

    @property
    def penalised(self) -> bool:
        return max(self.r1, self.r2, self.slope) > 0

    def label_of(self, batch: Batch) -> Tensor | None:
        """Classes (B,); a picture without one gets one at random."""
        if not self.classes:
            return None
        return self.some_label(batch.rng, batch.get("label"))

    def some_label(self, noise: Noise, label: Tensor | None) -> Tensor:
        drawn = noise.integers(self.classes)
        return drawn if label is None else torch.where(label < 0, drawn, label)

    def make(self, rng: Noise, label: Tensor | None, level: Level = ()) -> Tensor:
        """Images (B, C, H, W) of new z, for training, kept within [-1, 1]."""
        return within(self.G(rng(self.latent), label, *level).float())

    def generate(self, batch: Batch, level: Level = ()) -> Outputs:
        """What D and G look at in a step: ``fakes`` (B, C, H, W), and each row's ``label`` where there are classes.

        Raises:
            UsageError: a batch that is no whole number of packs.
        """
        if batch.rows % self.packing:
            raise UsageError(f"D judges {self.packing} images together, and {batch.rows} are no whole number of packs.")
        label = self.label_of(batch)
        fakes = self.make(batch.rng, label, level)
        return {"fakes": fakes} if label is None else {"fakes": fakes, "label": label}

    def view(self, image: Tensor, rng: Noise) -> Tensor:
        """What D is shown of an image."""
        if self.d_augment == "diffaugment":
            return diffaugment(image, rng)
        return adaptive(image, rng, self.strength) if self.d_augment == "ada" else image

    def d_loss(self, batch: Batch, outputs: Outputs, level: Level = ()) -> Metrics:
        """D's loss and, where they are not a phase of their own, the penalties.

        ``real`` and ``fake`` are mean logits, ``p_real`` and ``p_fake``, where the game knows probabilities, D(x) and
        D(G(z)); ``spread`` is how much fakes differ from one another, in units of real images' differences.
        """
        real, fakes, label = batch["x"], outputs["fakes"], outputs.get("label")
        views = self.view(real, batch.rng), self.view(fakes, batch.rng)
        penalised = self.penalised and self.penalty_every == 1
        real_logit, fake_logit, class_logits, squares = self.logits(*views, label, level, gradients=penalised)
        loss = self.game.judge(real_logit, fake_logit).mean()
        metrics = {"real": real_logit.mean(), "fake": fake_logit.mean(), "spread": spread(fakes, real)}
        if self.game.probability:
            metrics |= {"p_real": real_logit.detach().sigmoid().mean(), "p_fake": fake_logit.detach().sigmoid().mean()}
        if class_logits is not None and label is not None:  # of real images only
            metrics["naming"] = F.cross_entropy(class_logits[: len(label)], label)
            loss = loss + self.naming * metrics["naming"]
        if self.d_augment == "ada":
            metrics["sign"] = (real_logit - fake_logit if self.game.paired else real_logit).detach().sign().mean()
        if penalised:
            extra, more = self.penalty(*squares, *views, label, batch.rng, level)
            loss, metrics = loss + extra, metrics | more
        return {"loss": loss, **metrics}

    def adapt_augmentation(self, batch: Batch, outputs: Outputs, stats: Metrics) -> Metrics:
        """ADA: p rises where D is sure of real images, and falls where it is not."""
        self.strength.add_(ADA_RATE * (stats["D/sign"] - ADA_TARGET).sign()).clamp_(0, 1)
        return {"strength": self.strength}

    def logits(
        self, real: Tensor, fake: Tensor, label: Tensor | None, level: Level, gradients: bool
    ) -> tuple[Tensor, Tensor, Tensor | None, tuple[Tensor, Tensor]]:
        """D's logits of real images and of fakes, their classes' logits, and |dD/dx|^2 (B,) of both where asked."""
        both = torch.cat([real, fake]).detach().requires_grad_(gradients)
        twice = None if label is None else torch.cat([label, label])
        logits, class_logits = self.D.opinion(both, twice, 2, *level)
        squares = both.new_zeros(2 * len(real))
        if gradients:
            (gradient,) = torch.autograd.grad(logits.sum(), both, create_graph=True)
            squares = gradient.square().flatten(1).sum(1)
        (real_logit, fake_logit), (of_real, of_fake) = logits.chunk(2), squares.chunk(2)
        return real_logit, fake_logit, class_logits, (of_real, of_fake)

    def penalty(
        self,
        of_real: Tensor,
        of_fake: Tensor,
        real: Tensor,
        fake: Tensor,
        label: Tensor | None,
        rng: Noise,
        level: Level = (),
    ) -> tuple[Tensor, Metrics]:
        """r1/2 |dD/dx|^2 of real images + r2/2 of fakes + slope (|dD/dx| - 1)^2 between them."""
        loss = (self.r1 * of_real.mean() + self.r2 * of_fake.mean()) / 2
        metrics = {"r1": of_real.mean(), "r2": of_fake.mean()}
        if self.slope:
            square = squared_slope(lambda x: self.D(x, label, 1, *level), between(real, fake, rng))
            slope = (square + 1e-12).sqrt()
            loss, metrics = loss + self.slope * (slope - 1).square().mean(), metrics | {"slope": slope.mean()}
        return loss, metrics

    def penalty_loss(self, batch: Batch, outputs: Outputs, level: Level = ()) -> Metrics:
        """The penalties alone."""
        label = outputs.get("label")
        views = self.view(batch["x"], batch.rng), self.view(outputs["fakes"], batch.rng)
        *_, squares = self.logits(*views, label, level, gradients=True)
        loss, metrics = self.penalty(*squares, *views, label, batch.rng, level)
        return {"loss": loss, **metrics}

    def g_loss(self, batch: Batch, outputs: Outputs, level: Level = ()) -> Metrics:
        """G's loss; ``signal`` is how strongly it pulls, see ``pull``."""
        rng, label = batch.rng, outputs.get("label")
        fake_logit, class_logits = self.D.opinion(self.view(outputs["fakes"], rng), label, 1, *level)
        real_logit = torch.zeros_like(fake_logit)
        if self.game.paired:
            with torch.no_grad():
                real_logit = self.D(self.view(batch["x"], rng), label, 1, *level)
        metrics = {"loss": self.game.make(real_logit, fake_logit).mean()}
        if class_logits is not None and label is not None:
            metrics["naming"] = F.cross_entropy(class_logits, label)
            metrics["loss"] = metrics["loss"] + self.naming * metrics["naming"]
        metrics["signal"] = self.pull(real_logit, fake_logit)
        return metrics

    def pull(self, real_logit: Tensor, fake_logit: Tensor) -> Tensor:
        """|d loss / d logit| of G, a mean: with minimax it is D(G(z)), and gone where D is sure."""
        with torch.enable_grad():
            logit = fake_logit.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.game.make(real_logit.detach(), logit).sum(), logit)
        return slope.abs().mean()

    @torch.no_grad()
    def checkup(self, seen: Batch, unseen: Batch) -> dict[str, float]:
        """Where D puts unseen pictures on its way from made ones (1) to its training pictures (0).

        The r_v of Karras et al., arXiv:2006.06676: (D(seen) - D(unseen)) / (D(seen) - D(made)), of means.
        """
        return self.generalisation(seen, unseen)

    def generalisation(self, seen: Batch, unseen: Batch, level: Level = ()) -> dict[str, float]:
        """The number of ``checkup``, of networks at a level."""
        label = self.label_of(seen)
        known, new = (self.mean_logit(part["x"], self.label_of(part), level) for part in (seen, unseen))
        fakes = self.mean_logit(self.make(seen.rng, label, level), label, level)
        return {"overfitting": (known - new) / max(abs(known - fakes), 1e-6)}

    def mean_logit(self, image: Tensor, label: Tensor | None, level: Level = ()) -> float:
        """D's mean logit; images that fill no pack are left out."""
        rows = len(image) // self.packing * self.packing
        return float(self.D(image[:rows], None if label is None else label[:rows], 1, *level).mean())

    # Verbs

    def sample(self, noise: Noise, label: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """Pictures (B, C, H, W) from noise; no label is a random one.

        Args:
            truncation: z times this; below 1 more typical and less varied.
        """
        z = self.latents(noise) * truncation
        return self.decode(z, self.some_label(noise, label) if self.classes else None)

    def decode(self, latent: Tensor, label: Tensor | None = None, **condition: Any) -> Tensor:
        """z (B, latent) to pictures (B, C, H, W); without a label, of a conditional G, those of class 0."""
        if self.classes and label is None:
            label = torch.zeros(len(latent), dtype=torch.int64, device=latent.device)
        return self.G(latent, label).clamp(-1, 1)

    def latents(self, noise: Noise, label: Tensor | None = None) -> Tensor:
        """z (B, latent) of the pictures that ``sample`` draws."""
        return noise(self.latent)
