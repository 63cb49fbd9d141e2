"""Images as tokens, then a prior of the tokens: VQ-VAE (van den Oord et al., NeurIPS 2017, arXiv:1711.00937) with a
codebook that follows the latents and revives unused codes (Razavi et al., arXiv:1906.00446; Dhariwal et al.,
arXiv:2005.00341), and a causal transformer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie import Card, Noise, Phase, Stage
from reverie.core.annotations import Channels, Classes, Side
from reverie.core.batch import Batch
from reverie.core.card import Likelihood, Output, Space
from reverie.core.verbs import Frame
from reverie.nets.layers.dropout import Dropout
from reverie.optim.phase import adamw


class Codebook(nn.Module):
    """Codes (K, d) as running means of the latents that are nearest to them; no gradient.

    Args:
        decay: share of the old mean that a step keeps.
        rare: a code is revived when a step uses it less often than this, on average.
    """

    code: Tensor
    count: Tensor
    total: Tensor

    def __init__(self, codes: int, width: int, decay: float = 0.9, rare: float = 0.5):
        super().__init__()
        self.decay, self.rare = decay, rare
        self.register_buffer("code", torch.zeros(codes, width))
        self.register_buffer("count", torch.ones(codes))  # uses a step
        self.register_buffer("total", torch.zeros(codes, width))  # sum of the latents of a step

    def start(self, codes: Tensor) -> None:
        self.code.copy_(codes)
        self.total.copy_(codes)
        self.count.fill_(1)

    def nearest(self, z: Tensor) -> Tensor:
        """Index of the nearest code to latents (..., d); in float64, so that no batch size's rounding decides."""
        z, code = z.double(), self.code.double()
        return (code.square().sum(1) - 2 * z @ code.T).argmin(-1)

    def follow(self, index: Tensor, z: Tensor, shared: Noise) -> Tensor:
        """Move the codes to their latents (N, d), unused ones to latents that ``shared`` draws; how many those were."""
        uses = torch.zeros_like(self.count).index_add_(0, index, torch.ones_like(z[:, 0]))
        sums = torch.zeros_like(self.total).index_add_(0, index, z)
        self.count.lerp_(uses, 1 - self.decay)
        self.total.lerp_(sums, 1 - self.decay)
        dead = self.count < self.rare
        order = shared.bits(len(z))[0].argsort()  # every latent once: two codes of one latent would be tied for good
        other = z[order[torch.arange(len(dead), device=z.device) % len(z)]]
        self.count.masked_fill_(dead, 1)
        self.total.copy_(torch.where(dead[:, None], other, self.total))
        self.code.copy_(self.total / self.count[:, None])
        return dead.sum()


class Block(nn.Module):
    """Causal self-attention of one head, and two dense layers."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width), Dropout(dropout))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, 2)
        x = x + self.dropout(self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True)))
        return x + self.mlp(self.norm2(x))


class Prior(nn.Module):
    """p(token | those before it, class): the first n < T tokens (B, n) to logits of each and the next (B, n + 1, K)."""

    def __init__(self, codes: int, length: int, classes: int, width: int, depth: int, dropout: float):
        super().__init__()
        self.token, self.start = nn.Embedding(codes, width), nn.Embedding(classes + 1, width)  # last row: no class
        self.position = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.Sequential(*(Block(width, dropout) for _ in range(depth)))
        self.head = nn.Linear(width, codes)

    def forward(self, token: Tensor, label: Tensor) -> Tensor:
        start = self.start(label.remainder(self.start.num_embeddings))[:, None]
        x = torch.cat([start, self.token(token)], 1)
        return self.head(self.blocks(x + self.position[: x.shape[1]])).float()


class TokenPrior(nn.Module):
    """An autoencoder of tokens, then an autoregressive model of them.

    Args:
        size, channels: of the images; size is a multiple of 4.
        classes: number of classes in the data, which the prior is told.
        codes, code_width: of the codebook.
        width: of the networks.
        depth: blocks of the prior.
        dropout: in the prior.
    """

    def __init__(
        self,
        size: Side,
        channels: Channels,
        classes: Classes = 0,
        codes: int = 64,
        code_width: int = 8,
        width: int = 64,
        depth: int = 2,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.shape, self.channels, self.classes, self.side = (size, size), channels, classes, size // 4
        self.latent_shape = (self.side**2,)
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1), nn.SiLU(), nn.Conv2d(width, code_width, 4, 2, 1)
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(code_width, width, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(width, channels, 4, 2, 1)
        )
        self.codebook = Codebook(codes, code_width)
        self.prior = Prior(codes, self.side**2, classes, width, depth, dropout)

    @property
    def card(self) -> Card:
        return Card(
            output=Output("image", self.shape, self.channels),
            conditions={"label": self.classes} if self.classes else {},
            latents={"tokens": Space(self.latent_shape, "model", "exact", kind="tokens")},
            likelihoods=(Likelihood("log_prob", "exact", "tokens"),),
            evaluations=self.side**2,
        )

    # Learning

    def stages(self, lr: float = 2e-3) -> list[Stage]:
        coder = adamw([*self.encoder.parameters(), *self.decoder.parameters()], lr)
        prior = adamw(self.prior.parameters(), lr)
        return [
            Stage(
                [Phase("autoencoder", coder, self.autoencoder_loss)],
                name="tokens",
                prepare=self.start_codebook,
                forward=self.quantise,
                update=self.move_codebook,
                gather=("index", "z"),
                verbs=("encode", "decode"),
            ),
            Stage([Phase("prior", prior, self.prior_loss)], name="prior"),
        ]

    def start_codebook(self, batches: Any, fresh: bool) -> None:
        """Codes are latents of the first batch, at evenly spaced places."""
        if fresh:
            z = self.latents_of(batches.global_batch(0)["x"]).flatten(0, 1)
            codes = len(self.codebook.code)
            self.codebook.start(z[torch.arange(codes, device=z.device) * len(z) // codes])

    def quantise(self, batch: Batch) -> dict[str, Tensor]:
        """``z`` (B, T, d) latents and ``index`` (B, T) of their codes."""
        z = self.latents_of(batch["x"])
        return {"z": z, "index": self.codebook.nearest(z)}

    def autoencoder_loss(self, batch: Batch, outputs: Any) -> dict[str, Tensor]:
        """Reconstruction error through the codes, its gradient passed on to the latents, which are kept near them."""
        z, code = outputs["z"], self.codebook.code[outputs["index"]]
        rebuilt = self.image_of(z + (code - z).detach())
        error, commitment = F.mse_loss(rebuilt, batch["x"]), F.mse_loss(z, code)
        return {"loss": error + 0.25 * commitment, "error": error, "commitment": commitment}

    def move_codebook(self, batch: Batch, outputs: Any, stats: Any) -> dict[str, Tensor]:
        revived = self.codebook.follow(outputs["index"].flatten(), outputs["z"].flatten(0, 1).float(), batch.shared)
        return {"revived": revived}

    def prior_loss(self, batch: Batch, outputs: Any) -> dict[str, Tensor]:
        """-log p(tokens) per token."""
        nats = -self.token_log_prob(self.encode(batch["x"]), batch.get("label")).mean()
        return {"loss": nats / self.side**2, "nll": nats}

    def latents_of(self, image: Tensor) -> Tensor:
        """(B, C, H, W) to (B, T, d)."""
        return self.encoder(image).to(image).flatten(2).mT

    def image_of(self, z: Tensor) -> Tensor:
        """(B, T, d) to (B, C, H, W)."""
        return self.decoder(z.mT.unflatten(2, (self.side, self.side))).to(z)

    def token_log_prob(self, token: Tensor, label: Tensor | None) -> Tensor:
        """log p(tokens), nats (B,)."""
        log_p = self.prior(token[:, :-1], self.label_of(len(token), label, token.device)).log_softmax(2)
        return log_p.gather(2, token[:, :, None]).sum((1, 2))

    def label_of(self, rows: int, label: Tensor | None, device: torch.device) -> Tensor:
        unknown = torch.full((rows,), -1, device=device)
        return unknown if label is None or not self.classes else label

    # Verbs

    @torch.no_grad()
    def encode(self, image: Tensor, **condition: Any) -> Tensor:
        """(B, C, H, W) to tokens (B, T) int64."""
        return self.codebook.nearest(self.latents_of(image))

    def decode(self, latent: Tensor, **condition: Any) -> Tensor:
        """Tokens (B, T) to images (B, C, H, W)."""
        return self.image_of(self.codebook.code[latent]).clamp(-1, 1)

    def log_prob(self, batch: Batch) -> Tensor:
        """log p of the image's tokens, nats (B,): exact, and of tokens, not of pixels."""
        return self.token_log_prob(self.encode(batch["x"]), batch.get("label"))

    def stream(self, noise: Noise, label: Tensor | None = None, temperature: float = 1.0) -> Iterator[Frame]:
        """The tokens ``t`` (B, n) that are there after each step; in the image, code 0 stands for the others.

        Args:
            temperature: logits are divided by it; below 1 more typical and less varied.
        """
        label, length = self.label_of(len(noise), label, noise.device), self.side**2
        token = torch.zeros(len(noise), 0, dtype=torch.int64, device=noise.device)
        for step in range(length):
            p = (self.prior(token, label)[:, -1].double() / max(temperature, 1e-6)).softmax(1)
            sampled = (p.cumsum(1) <= noise.uniform(1)).sum(1).clamp(max=p.shape[1] - 1)
            token = torch.cat([token, sampled[:, None]], 1)
            padded = F.pad(token, (0, length - step - 1))
            yield Frame((step + 1) / length, {"t": token}, lambda padded=padded: {"image": self.decode(padded)})

    def sample(self, noise: Noise, label: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Images (B, C, H, W): the last frame of ``stream``."""
        *_, last = self.stream(noise, label, temperature)
        return last.render()["image"]
