"""GAN losses of discriminator and generator, per row.

Minimax and non-saturating: Goodfellow et al., "Generative adversarial nets", NeurIPS 2014, arXiv:1406.2661.
Least squares: Mao et al., ICCV 2017, arXiv:1611.04076. Hinge: Lim and Ye, arXiv:1705.02894.
Wasserstein: Arjovsky et al., arXiv:1701.07875, with the penalty of Gulrajani et al., NeurIPS 2017, arXiv:1704.00028.
Relativistic pairs: Jolicoeur-Martineau, ICLR 2019, arXiv:1807.00734; with R1 and R2, Huang et al., NeurIPS 2024,
arXiv:2501.05441.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LossName = Literal["minimax", "non-saturating", "least-squares", "hinge", "wasserstein", "r3"]
RowLoss = Callable[[Tensor, Tensor], Tensor]  # logits of real images and of fakes, (B,) each, to losses (B,)


@dataclass(frozen=True)
class GANLoss:
    """The two losses of a GAN.

    Attributes:
        d_loss: the discriminator's.
        g_loss: the generator's.
        paired: whether the generator's loss depends on the logits of real images.
        probability: whether sigmoid(logit) is the discriminator's probability of "real".
        r1, r2, gp_weight: default weights of its gradient penalties.
    """

    d_loss: RowLoss
    g_loss: RowLoss
    paired: bool = False
    probability: bool = True
    r1: float = 0.0
    r2: float = 0.0
    gp_weight: float = 0.0


GAN_LOSSES: dict[str, GANLoss] = {
    # min_G max_D E log D(x) + E log(1 - D(G(z))): if D is saturated, sigmoid(fake) and G's gradient vanish
    "minimax": GANLoss(lambda r, f: F.softplus(-r) + F.softplus(f), lambda r, f: -F.softplus(f)),
    "non-saturating": GANLoss(lambda r, f: F.softplus(-r) + F.softplus(f), lambda r, f: F.softplus(-f)),
    "least-squares": GANLoss(
        lambda r, f: ((r - 1).square() + f.square()) / 2, lambda r, f: (f - 1).square() / 2, probability=False
    ),
    "hinge": GANLoss(lambda r, f: F.relu(1 - r) + F.relu(1 + f), lambda r, f: -f, probability=False),
    "wasserstein": GANLoss(lambda r, f: f - r, lambda r, f: -f, probability=False, gp_weight=10.0),
    "r3": GANLoss(
        lambda r, f: F.softplus(f - r),
        lambda r, f: F.softplus(r - f),
        paired=True,
        probability=False,
        r1=0.1,
        r2=0.1,
    ),
}


def g_logit_grad(loss: GANLoss, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Mean of |d g_loss / d logit|: for minimax it is D(G(z)), which vanishes if D is saturated."""
    with torch.enable_grad():
        logits = fake_logits.detach().requires_grad_(True)
        (grad,) = torch.autograd.grad(loss.g_loss(real_logits.detach(), logits).sum(), logits)
    return grad.abs().mean()


def sample_diversity(fakes: Tensor, real: Tensor) -> Tensor:
    """Mean squared distance of neighbouring fakes over that of real images: 0 if all fakes are equal.

    1 for a batch of one image.
    """
    if len(fakes) < 2:
        return fakes.new_ones(())
    of_fakes, of_real = ((x - x.roll(1, 0)).square().mean() for x in (fakes.detach(), real))
    return of_fakes / of_real.clamp(min=1e-6)
