"""Images to maps of tokens and back: the codec of models that generate token by token.

Van den Oord, Vinyals and Kavukcuoglu, "Neural discrete representation learning", NeurIPS 2017, arXiv:1711.00937; with
LPIPS and a patch discriminator it is a VQGAN: Esser, Rombach and Ommer, CVPR 2021, arXiv:2012.09841.
Deviations are listed in docs/systems/tokens.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.annotations import Channels, Count, Fraction, Range, Shape, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Output, Space
from reverie.core.errors import UsageError
from reverie.data.batches import Batches
from reverie.models.autoencoders import kl
from reverie.nets import shapes
from reverie.nets.discriminators import patch_discriminator
from reverie.optim.phase import Outputs, Phase, Stage, adamw
from reverie.probability.quantisation import FSQ, Codebook, Quantisation


@dataclass(frozen=True)
class TokenLoss:
    """The terms of the loss beside the reconstruction error.

    Attributes:
        commitment_weight: weight of the squared distance of vectors to their codes, for a codebook.
        perceptual_weight: weight of LPIPS, whose network is fetched when training starts; 0 leaves it out.
        adversarial_weight: weight of the patch discriminator's loss; 0 leaves it out.
        adversarial_start: fraction of training after which it counts.
    """

    commitment_weight: Weight = 0.25
    perceptual_weight: Weight = 0.0
    adversarial_weight: Weight = 0.05
    adversarial_start: Fraction = 0.5


class VQVAE(nn.Module):
    """An autoencoder whose latents are tokens; no generator.

    Args:
        encoder: images to vectors (B, d, h, w).
        quantiser: vectors (..., d) to codes and tokens.
        decoder: codes (B, d, h, w) to images.
        discriminator: images to logits of overlapping patches; None without an adversarial loss.
        output: what it makes.
        token_shape: (h, w).
        reconstruction: "l1" mean |x - x'| or "mse" mean (x - x')^2.
        terms: weights of the loss.
    """

    def __init__(
        self,
        encoder: nn.Module,
        quantiser: FSQ | Codebook,
        decoder: nn.Module,
        discriminator: nn.Module | None,
        output: Output,
        token_shape: tuple[int, ...],
        reconstruction: Literal["l1", "mse"] = "l1",
        terms: TokenLoss = TokenLoss(),
    ):
        super().__init__()
        self.encoder, self.quantiser, self.decoder, self.discriminator = encoder, quantiser, decoder, discriminator
        self.output, self.token_shape, self.terms = output, token_shape, terms
        self.error = F.l1_loss if reconstruction == "l1" else F.mse_loss

    @property
    def card(self) -> Card:
        return Card(
            output=self.output,
            latents={"tokens": Space(self.token_shape, encode="exact", kind="tokens", codes=self.quantiser.codes)},
            weights=("vgg16", "lpips-vgg") if self.terms.perceptual_weight else (),
            networks=("encoder", "decoder"),
        )

    # Training

    def stages(self, lr: Weight = 2e-3, weight_decay: Weight = 0.0) -> list[Stage]:
        parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        phases = [Phase("codec", adamw(parameters, lr, weight_decay), self.loss)]
        if self.discriminator is not None:
            optimizer = adamw(self.discriminator.parameters(), lr / 2, betas=(0.5, 0.99))
            phases.insert(0, Phase("D", optimizer, self.d_loss, graph=False))
        if isinstance(self.quantiser, FSQ):
            return [Stage(phases, forward=self.reconstruct)]
        gather = ("tokens", "vectors")
        return [
            Stage(
                phases, prepare=self.start_codebook, forward=self.reconstruct, update=self.move_codebook, gather=gather
            )
        ]

    def loss(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        """Reconstruction error + commitment + LPIPS + adversarial loss, each with its weight."""
        error = self.error(outputs["reconstructed"], batch["x"])
        loss, metrics = error, {"reconstruction": error}
        if isinstance(self.quantiser, Codebook):
            metrics["commitment"] = F.mse_loss(outputs["vectors"], self.quantiser.lookup(outputs["tokens"]))
            loss = loss + self.terms.commitment_weight * metrics["commitment"]
        weighted, more = kl.realism_loss(self.terms, self.discriminator, batch, outputs["reconstructed"])
        return {"loss": loss + weighted, **metrics, **more}

    def d_loss(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        """See ``patch_d_loss``."""
        return kl.patch_d_loss(self.discriminator, batch, outputs)

    def reconstruct(self, batch: Batch) -> Outputs:
        """``vectors`` (B, h, w, d), their ``tokens`` (B, h, w), and the image ``reconstructed`` from these."""
        vectors = self.vectors(batch["x"])
        code, tokens = self.quantiser(vectors)
        return {"reconstructed": self.image(code), "vectors": vectors, "tokens": tokens}

    def start_codebook(self, batches: Batches, fresh: bool) -> None:
        """Codes are vectors of the first batch."""
        if fresh and isinstance(self.quantiser, Codebook):
            self.quantiser.start(self.vectors(batches.global_batch(0)["x"]).flatten(0, 2))

    def move_codebook(self, batch: Batch, outputs: Any, stats: Any) -> dict[str, Tensor]:
        """Codes follow the vectors; ``revived``: how many started anew."""
        assert isinstance(self.quantiser, Codebook)
        tokens, vectors = outputs["tokens"].flatten(), outputs["vectors"].flatten(0, 2)
        return {"revived": self.quantiser.follow(tokens, vectors.to(self.quantiser.total), batch.shared)}

    def vectors(self, image: Tensor) -> Tensor:
        """(B, C, H, W) to what is quantised, (B, h, w, d)."""
        return self.encoder(image).to(image.dtype).permute(0, 2, 3, 1)

    def image(self, code: Tensor) -> Tensor:
        """Codes (B, h, w, d) to images (B, C, H, W), not clamped."""
        return self.decoder(code.permute(0, 3, 1, 2)).to(code.dtype)

    # Verbs. There is no ``sample``: tokens need a prior

    def encode(self, image: Tensor, **condition: Any) -> Tensor:
        """(B, C, H, W) to tokens (B, h, w) int64."""
        return self.quantiser(self.vectors(image))[1]

    def features(self, image: Tensor) -> Tensor:
        """The encoder's output (B, d, h, w), before it is quantised."""
        return self.encoder(image)

    def decode(self, latent: Tensor, **condition: Any) -> Tensor:
        """Tokens (B, h, w) to images (B, C, H, W); an unknown token, -1, is a code of zeros.

        Raises:
            UsageError: numbers beyond the codes.
        """
        tokens = latent.long()
        if len(tokens) and not -1 <= int(tokens.min()) <= int(tokens.max()) < self.quantiser.codes:
            raise UsageError(f"Tokens run from 0 to {self.quantiser.codes - 1} (-1 is unknown).")
        code = self.quantiser.lookup(tokens.clamp(min=0)) * (tokens >= 0)[..., None]
        return self.image(code.to(next(self.decoder.parameters()))).clamp(-1, 1)


def vq_vae(
    shape: Shape,
    channels: Channels,
    factor: Literal[2, 4, 8, 16] = 4,
    width: Count = 64,
    depth: Annotated[int, Range(0)] = 1,
    reconstruction: Literal["l1", "mse"] = "l1",
    quantisation: Quantisation = Quantisation(),
    terms: TokenLoss = TokenLoss(),
) -> VQVAE:
    """A codec for token-transformer and maskgit: images to maps of tokens and back.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        factor: pixels of a side that become one token: 2, 4, 8 or 16.
        width: channels of the finest level.
        depth: residual blocks a level.
        reconstruction: "l1" mean |x - x'| or "mse" mean (x - x')^2.
    """
    size = shapes.sides(shape)
    if terms.perceptual_weight and min(size) < 16:
        raise UsageError(f"LPIPS' network halves images four times; {shapes.named(size)} pixels are too few.")
    patch_size, widths = kl.levels(size, factor, width)
    quantiser = quantisation.build()
    down = kl.encoder(channels, quantiser.width, patch_size, widths, depth)
    up = kl.decoder(channels, quantiser.width, patch_size, widths, depth)
    discriminator = patch_discriminator(size, channels, width) if terms.adversarial_weight else None
    token_shape = tuple(shapes.halved(size, factor))
    output = Output("image", size, channels)
    return VQVAE(down, quantiser, up, discriminator, output, token_shape, reconstruction, terms)
