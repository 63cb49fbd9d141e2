"""A model of one's own: a VAE of volumes, trained on a NumPy array, killed, resumed and sampled.

Run:  python examples/own_model.py [--out runs/blobs]
Afterwards the command line knows it, too:
      REVERIE_IMPORT=own_model PYTHONPATH=examples reverie train blob-vae --data blobs.npz --steps 300
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import reverie as rv


@rv.register("blob-vae")
class BlobVAE(nn.Module):
    """A small VAE of volumes.

    Args:
        shape: (depth, height, width).
        channels: of a voxel.
        latent: dimension of z.
    """

    def __init__(self, shape: rv.Shape, channels: rv.Channels, latent: int = 4):
        super().__init__()
        self.shape, self.latent = (channels, *shape), latent
        voxels = int(np.prod(self.shape))
        self.encoder = nn.Sequential(
            nn.Conv3d(channels, 8, 4, 2, 1), nn.SiLU(), nn.Flatten(), nn.LazyLinear(2 * latent)
        )
        self.encoder(torch.zeros(1, *self.shape))  # sizes the last layer
        self.decoder = nn.Sequential(nn.Linear(latent, 64), nn.SiLU(), nn.Linear(64, voxels))

    def stages(self, lr: float = 3e-3) -> list[rv.Stage]:
        return [rv.Stage([rv.Phase("elbo", torch.optim.Adam(self.parameters(), lr), self.loss)])]

    def loss(self, batch: rv.Batch, outputs: None = None) -> dict[str, Tensor]:
        mean, log_var = self.encoder(batch["x"]).float().chunk(2, 1)
        z = mean + (log_var / 2).exp() * batch.rng(self.latent)
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1).mean()
        error = F.mse_loss(self.decode(z), batch["x"])
        return {"loss": error + 1e-3 * kl, "error": error, "kl": kl}

    def decode(self, latent: Tensor) -> Tensor:
        return self.decoder(latent).unflatten(1, self.shape)

    def sample(self, noise: rv.Noise) -> Tensor:
        return self.decode(noise(self.latent)).clamp(-1, 1)


def blobs(count: int = 256, side: int = 8) -> np.ndarray:
    """uint8 (count, side, side, side, 1): one soft ball in each volume."""
    rng, grid = np.random.default_rng(0), np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"))
    centre = rng.uniform(2, side - 2, (count, 3, 1, 1, 1))
    return (255 * np.exp(-((grid - centre) ** 2).sum(1) / 6)).astype(np.uint8)[..., None]


def model() -> BlobVAE:
    torch.manual_seed(0)
    return BlobVAE((8, 8, 8), 1)


def train(out: str) -> None:
    rv.train(model(), blobs(), out=out, steps=2000, batch_size=32, log_every=5, checkpoint_every=100, quiet=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/blobs")
    out = parser.parse_args().out
    child = multiprocessing.get_context("spawn").Process(target=train, args=(out,))
    child.start()
    log = Path(out) / "metrics.jsonl"
    while child.is_alive() and not (log.exists() and len(log.read_text().splitlines()) > 60):
        time.sleep(0.02)
    child.kill()  # SIGKILL: nothing is saved
    child.join()
    print(f"killed after step {5 * len(log.read_text().splitlines())}")
    run = rv.resume(out, model=model(), data=blobs(), quiet=True)
    print(f"{run.info['status']} after step {run.metrics()[-1]['step']}, error {run.metrics()[-1]['error']:.4f}")
    volumes = rv.sample(run, 16, seed=0)
    print(f"sampled {volumes.shape} {volumes.dtype}; the same as sheets of slices in {out}/samples.png")
    np.savez("blobs.npz", images=blobs())


if __name__ == "__main__":
    main()
