"""Pictures into pictures: pix2pix learns from pairs, CycleGAN from two piles.

pix2pix: Isola et al., "Image-to-image translation with conditional adversarial networks", CVPR 2017, arXiv:1611.07004.
CycleGAN: Zhu et al., ICCV 2017, arXiv:1703.10593, with the image pool of Shrivastava et al., arXiv:1612.07828.
Deviations are listed in docs/systems/translation.md.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.adversarial.losses import gan_loss, sample_diversity
from reverie.core.batch import Batch
from reverie.core.card import Card, Output
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.models.diffusion import unet
from reverie.nets.adversarial import patch_judge, within
from reverie.nets.shapes import Sides, sides
from reverie.optim.phase import Metrics, Outputs, Phase, Stage, adamw

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def grey(image: Tensor) -> Tensor:
    """(B, 1 or 3, H, W) to luma (B, 1, H, W)."""
    if image.shape[1] == 1:
        return image
    return (image * image.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def with_channels(image: Tensor, channels: int) -> Tensor:
    """(B, 1 or 3, H, W) to (B, channels, H, W): colour to luma, grey to equal channels; as it is where they agree."""
    return image if image.shape[1] == channels else grey(image).expand(-1, channels, -1, -1)


def lines(image: Tensor) -> Tensor:
    """Dark lines on white where brightness or colour changes, (B, 1, H, W) in [-1, 1]: Sobel's slope, softly cut."""
    kernel = image.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    flat = F.pad(image, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    slopes = F.conv2d(flat, torch.stack([kernel, kernel.T])[:, None]).unflatten(0, image.shape[:2])
    steep = slopes.square().sum((1, 2)).sqrt()[:, None]
    return 1 - 2 * (4 * steep - 0.2).clamp(0, 1)


TASKS = {"colour": grey, "lines": lines}  # what is made of a picture, for the network to undo


class Translator(nn.Module):
    """The fast U-Net without a time: (B, inputs, H, W) to (B, outputs, H, W) in [-1, 1].

    Of as many channels as it is given it learns what to add to the picture, and is the identity at first.
    """

    def __init__(self, shape: Sides, inputs: int, outputs: int, width: int, depth: int):
        super().__init__()
        self.net = unet(sides(shape), inputs, width, depth, outputs=outputs)
        self.change = inputs == outputs

    def forward(self, source: Tensor) -> Tensor:
        made = self.net(source, source.new_zeros(len(source))).to(source.dtype)
        return within(source + made if self.change else made)


class Pix2Pix(nn.Module):
    """G makes B of A; D sees both and says whether B is real, patch by patch; an L1 term keeps B near the truth.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1 or 3, of the images (B).
        source_channels: 1 or 3, of the sources (A) of the task "pairs"; None: the same as ``channels``.
        task: "pairs" (the data's own, A is the source and B the image), or, of any pictures, "colour" (from their
            luma) or "lines" (from their outlines).
        direction: "AtoB", or "BtoA" for the way back.
        loss: D's and G's game: "non-saturating", "least-squares", "hinge" ...
        l1: weight of |B - G(A)|.
        width: channels of the U-Net's finest level.
        depth: residual blocks a level.
    """

    def __init__(
        self,
        shape: Sides,
        channels: int,
        task: Literal["pairs", "colour", "lines"] = "pairs",
        direction: Literal["AtoB", "BtoA"] = "AtoB",
        loss: Literal["minimax", "non-saturating", "least-squares", "hinge"] = "non-saturating",
        l1: float = 100.0,
        width: int = 64,
        depth: int = 2,
        source_channels: int | None = None,
    ):
        super().__init__()
        if task not in ("pairs", *TASKS) or direction not in ("AtoB", "BtoA") or l1 < 0:
            raise UsageError(
                "task is 'pairs', 'colour' or 'lines', direction 'AtoB' or 'BtoA' and l1 at least 0, not "
                f"{task!r}, {direction!r}, {l1}."
            )
        if task == "colour" and channels == 1:
            raise UsageError("These pictures are grey: there is no colour to learn. Take --task lines, or others.")
        self.shape, self.channels, self.task, self.direction, self.l1 = sides(shape), channels, task, direction, l1
        self.losses = gan_loss(loss)
        of_a = 1 if task != "pairs" else source_channels or channels
        self.inputs, self.outputs = (of_a, channels) if direction == "AtoB" else (channels, of_a)
        self.G = Translator(shape, self.inputs, self.outputs, width, depth)
        self.D = patch_judge(self.shape, self.inputs + self.outputs, width)

    @property
    def card(self) -> Card:
        remedy = (
            "A/x.png and B/x.png are a pair. Two folders without pairs are for `reverie train cyclegan`; --task colour "
            "or lines make pairs of any images."
        )
        return Card(
            output=Output("image", self.shape, self.outputs),
            conditions={"source": self.inputs},
            columns={"source": remedy} if self.task == "pairs" else {},
            monitors=("gan",),
            networks=("G", "D"),
        )

    # Learning

    def stages(self, lr: float = 3e-4, d_lr: float = 2e-4, beta: float = 0.5) -> list[Stage]:
        """D, then G.

        Args:
            lr: peak learning rate of G.
            d_lr: that of D.
            beta: Adam's first moment.
        """
        d = Phase("D", adamw(self.D.parameters(), d_lr, betas=(beta, 0.99)), self.d_loss, graph=False)
        g = Phase("G", adamw(self.G.parameters(), lr, betas=(beta, 0.99)), self.g_loss)
        return [Stage([d, g], forward=self.generate)]

    def pair(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What goes in and what should come out.

        Raises:
            UsageError: the data has no pairs, and the task needs some.
        """
        image = batch["x"]
        if self.task == "pairs":
            if "source" not in batch:
                raise UsageError(
                    "pix2pix learns from pairs, and these pictures have none: A/x.png and B/x.png are one. Two folders "
                    "without pairs are for `reverie train cyclegan`; --task colour or lines make pairs of any pictures."
                )
            a = batch["source"]
        else:
            a = TASKS[self.task](image)
        return (a, image) if self.direction == "AtoB" else (image, a)

    def generate(self, batch: Batch) -> Outputs:
        """A, B and G(A)."""
        source, target = self.pair(batch)
        return {"source": source, "target": target, "fakes": self.G(source)}

    def d_loss(self, batch: Batch, outputs: Outputs) -> Metrics:
        """The game's loss over patches, real pairs against fakes."""
        source, target, fakes = outputs["source"], outputs["target"], outputs["fakes"]
        logits = self.D(torch.cat([torch.cat([source, target], 1), torch.cat([source, fakes], 1)])).float()
        real, fake = logits.chunk(2)
        metrics = {"real": real.mean(), "fake": fake.mean(), "spread": sample_diversity(fakes, target)}
        return {"loss": self.losses.d_loss(real, fake).mean() / 2, **metrics}

    def g_loss(self, batch: Batch, outputs: Outputs) -> Metrics:
        """The game's loss + l1 E|B - G(A)|."""
        source, target, fakes = outputs["source"], outputs["target"], outputs["fakes"]
        fake = self.D(torch.cat([source, fakes], 1)).float()
        metrics = {"l1": F.l1_loss(fakes, target), "game": self.losses.g_loss(torch.zeros_like(fake), fake).mean()}
        return {"loss": metrics["game"] + self.l1 * metrics["l1"], **metrics}

    # Verbs

    def given(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Of a batch what goes in, and the truth where the data has it."""
        return self.pair(batch)

    def domains(self, batch: Batch) -> tuple[Tensor, Tensor, bool]:
        """Of a batch A, B (B and A where that way was learned), and that they are pairs."""
        return *self.pair(batch), True

    def translate(self, source: Tensor, noise: Noise | None = None, **condition: Any) -> Tensor:
        """A to B, or B to A where that was learned: (B, C, H, W) to (B, C', H, W). A grey picture may be given grey."""
        return self.G(with_channels(source, self.inputs))


class CycleGAN(nn.Module):
    """Two generators, A to B and B to A, each with a discriminator; there and back must be where one started.

    Of pairs (image and source) the partners are not told: only which pile a picture is from. Of two folders without
    pairs the first class is A and the second B.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1 or 3, of the images (B).
        source_channels: 1 or 3, of the sources (A) of pairs; None: the same as ``channels``.
        classes: number of classes in the data.
        loss: the game of each side: "least-squares", "non-saturating", "hinge" ...
        cycle: weight of |A - F(G(A))| + |B - G(F(B))|.
        identity: weight of |B - G(B)| + |A - F(A)|, times ``cycle``; left out where A and B differ in their channels.
        pool: how many made pictures of the past each discriminator also sees; 0 for none.
        width: channels of the U-Nets' finest level.
        depth: residual blocks a level.
    """

    past_a: Tensor
    past_b: Tensor
    filled: Tensor
    transient = ("past_a", "past_b", "filled")

    def __init__(
        self,
        shape: Sides,
        channels: int,
        classes: int = 0,
        loss: Literal["minimax", "non-saturating", "least-squares", "hinge"] = "least-squares",
        cycle: float = 10.0,
        identity: float = 0.5,
        pool: int = 50,
        width: int = 48,
        depth: int = 1,
        source_channels: int | None = None,
    ):
        super().__init__()
        if min(cycle, identity, pool) < 0:
            raise UsageError(f"cycle, identity and pool are at least 0, not {cycle}, {identity} and {pool}.")
        self.shape, self.channels, self.domain_count = sides(shape), channels, classes
        self.losses, self.cycle, self.identity = gan_loss(loss), cycle, identity
        self.source_channels = of_a = source_channels or channels
        self.to_b, self.to_a = (Translator(shape, *way, width, depth) for way in ((of_a, channels), (channels, of_a)))
        self.d_b, self.d_a = (patch_judge(self.shape, side, width) for side in (channels, of_a))
        self.register_buffer("past_a", torch.zeros(pool, of_a, *self.shape))
        self.register_buffer("past_b", torch.zeros(pool, channels, *self.shape))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    @property
    def card(self) -> Card:
        remedy = "A/x.png and B/x.png are a pair. Without pairs, two folders A/ and B/ are the two domains."
        return Card(
            output=Output("image", self.shape, self.channels),
            conditions={"source": self.source_channels},
            columns={"label": remedy} if self.domain_count == 2 else {"source": remedy},
            monitors=("gan",),
            networks=("to_a", "to_b", "d_a", "d_b"),
        )

    # Learning

    def stages(self, lr: float = 3e-4, d_lr: float = 2e-4, beta: float = 0.5) -> list[Stage]:
        """Both discriminators, then both generators.

        Args:
            lr: peak learning rate of the generators.
            d_lr: that of the discriminators.
            beta: Adam's first moment.
        """
        discriminators = [*self.d_a.parameters(), *self.d_b.parameters()]
        generators = [*self.to_a.parameters(), *self.to_b.parameters()]
        d = Phase("D", adamw(discriminators, d_lr, betas=(beta, 0.99)), self.d_loss, graph=False)
        g = Phase("G", adamw(generators, lr, betas=(beta, 0.99)), self.g_loss)
        stage = Stage([d, g], forward=self.generate)
        if len(self.past_a):
            stage.update, stage.gather = self.keep_pool, ("fake_a", "fake_b", "slot", "swap")
        return [stage]

    def piles(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pictures of A and of B, and a weight for each: 0 where a row has none. Weights have mean 1 over the data.

        Raises:
            UsageError: the data has neither pairs nor two classes.
        """
        image = batch["x"]
        if "source" in batch:
            one = torch.ones(len(image), device=image.device)
            return batch["source"], image, one, one
        if self.domain_count != 2:
            raise UsageError(
                "CycleGAN learns from two piles: folders A/ and B/. These pictures are no pairs, and their classes are "
                f"not two but {self.domain_count}."
            )
        label = batch["label"]
        return image, image, 2.0 * (label == 0), 2.0 * (label == 1)

    def generate(self, batch: Batch) -> Outputs:
        """``a``, ``b`` and their weights; ``fake_a`` = F(B), ``fake_b`` = G(A); and what the discriminators see.

        Where there is a pool, that is ``shown_a`` and ``shown_b``: fakes, some of them exchanged (``swap``, B) for
        earlier ones at places (``slot``, B) of the pool."""
        a, b, of_a, of_b = self.piles(batch)
        outputs = {"a": a, "b": b, "of_a": of_a, "of_b": of_b, "fake_a": self.to_a(b), "fake_b": self.to_b(a)}
        if places := len(self.past_a):
            full = self.filled >= places
            start = torch.where(full, batch.shared.integers(places)[0], self.filled)
            slot = (start + batch.row) % places
            swap = batch.rng.bernoulli(0.5) & (batch.row < places) & full  # rows below the pool's size share no place
            for side, past in (("a", self.past_a), ("b", self.past_b)):
                shown = torch.where(swap[:, None, None, None], past[slot], outputs[f"fake_{side}"].detach())
                outputs[f"shown_{side}"] = shown
            outputs |= {"slot": slot, "swap": swap}
        return outputs

    def keep_pool(self, batch: Batch, outputs: Outputs, stats: Metrics) -> None:
        """Fakes take the place of those that they were exchanged for, and fill what is free."""
        places = len(self.past_a)
        rows = min(places, batch.rows)
        slot, kept = outputs["slot"][:rows], (outputs["swap"][:rows] | (self.filled < places))[:, None, None, None]
        for past, fake in ((self.past_a, outputs["fake_a"]), (self.past_b, outputs["fake_b"])):
            past[slot] = torch.where(kept, fake[:rows].to(past), past[slot])
        self.filled.add_(rows).clamp_(max=places)

    def d_loss(self, batch: Batch, outputs: Outputs) -> Metrics:
        """Each side's game against fakes, half of them from the past where there is a pool."""
        metrics: Metrics = {}
        loss: Any = 0.0
        for name, judge, other in (("a", self.d_a, "b"), ("b", self.d_b, "a")):
            real, fake = outputs[name], outputs.get(f"shown_{name}", outputs[f"fake_{name}"])
            real_logit, fake_logit = (x.flatten(1) for x in judge(torch.cat([real, fake])).float().chunk(2))
            zero = torch.zeros_like(real_logit)
            # the two halves of the game's loss, by rows of different piles
            on_real = self.losses.d_loss(real_logit, zero) - self.losses.d_loss(zero, zero) / 2
            on_fake = self.losses.d_loss(zero, fake_logit) - self.losses.d_loss(zero, zero) / 2
            weight, fake_weight = outputs[f"of_{name}"][:, None], outputs[f"of_{other}"][:, None]
            loss = loss + ((weight * on_real + fake_weight * on_fake) / 2).mean()
            metrics |= {f"real_{name}": real_logit.mean(), f"fake_{name}": fake_logit.mean()}
        metrics["spread"] = torch.minimum(*(sample_diversity(outputs[f"fake_{x}"], outputs[x]) for x in "ab"))
        return {"loss": loss, **metrics}

    def g_loss(self, batch: Batch, outputs: Outputs) -> Metrics:
        """Both sides' game, the way there and back, and the identity."""
        a, b, of_a, of_b, fake_a, fake_b = (outputs[x] for x in ("a", "b", "of_a", "of_b", "fake_a", "fake_b"))

        def mean(rows: Tensor, weight: Tensor) -> Tensor:
            return (weight * rows.flatten(1).mean(1)).mean()

        def game(judge: nn.Module, fake: Tensor) -> Tensor:
            logit = judge(fake).float()
            return self.losses.g_loss(torch.zeros_like(logit), logit)

        # one pass of each network: the way back, and, where asked for, pictures that are there already
        there = bool(self.identity) and self.source_channels == self.channels
        back_a, same_a = self.to_a(torch.cat([fake_b, a]) if there else fake_b).tensor_split([len(a)])
        back_b, same_b = self.to_b(torch.cat([fake_a, b]) if there else fake_a).tensor_split([len(b)])
        told = {
            "game": mean(game(self.d_b, fake_b), of_a) + mean(game(self.d_a, fake_a), of_b),
            "cycle": mean((back_a - a).abs(), of_a) + mean((back_b - b).abs(), of_b),
        }
        loss = told["game"] + self.cycle * told["cycle"]
        if there:
            told["identity"] = mean((same_b - b).abs(), of_b) + mean((same_a - a).abs(), of_a)
            loss = loss + self.cycle * self.identity * told["identity"]
        return {"loss": loss, **told}

    # Verbs

    def given(self, batch: Batch, to: Literal["A", "B"] = "B") -> tuple[Tensor, Tensor | None]:
        """Pictures of the other pile; of pairs also their partners, which training was not told."""
        if "source" not in batch:
            return batch["x"], None
        pair = batch["source"], batch["x"]
        return pair if to == "B" else pair[::-1]

    def domains(self, batch: Batch, to: Literal["A", "B"] = "B") -> tuple[Tensor, Tensor, bool]:
        """A's rows of a batch and B's (B's and A's on the way to A), and whether they are pairs."""
        paired = "source" in batch
        a = batch["source"] if paired else batch["x"][batch["label"] == 0]
        b = batch["x"] if paired else batch["x"][batch["label"] == 1]
        return (a, b, paired) if to == "B" else (b, a, paired)

    def translate(
        self, source: Tensor, noise: Noise | None = None, to: Literal["A", "B"] = "B", **condition: Any
    ) -> Tensor:
        """An image (B, C, H, W) of the one domain as one of the other, (B, C', H, W). Any may be grey or in colour."""
        if to not in ("A", "B"):
            raise UsageError(f"to is 'A' or 'B', not {to!r}.")
        if to == "B":
            return self.to_b(with_channels(source, self.source_channels))
        return self.to_a(with_channels(source, self.channels))
