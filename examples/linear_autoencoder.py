"""A linear autoencoder finds PCA: its subspace, its error, but not its axes; a deep one bends the plane.

A linear autoencoder with squared error has one minimum up to an invertible matrix: the subspace of the first principal
components (Baldi and Hornik, "Neural networks and principal component analysis", Neural Networks 1989). Its own units
are any basis of that subspace; turned by the orthogonal matrix that fits best, they are the components. With nonlinear
layers the same two numbers an image keep more of it.

Run:  python examples/linear_autoencoder.py [--minutes 1] [--data fashion] [--latent 8] [--out linear-autoencoder.png]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

import reverie as rv
from reverie.media import plots


def principal_components(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean (D,) of rows (N, D), and their first principal axes (count, D), of length 1."""
    mean = x.mean(0)
    _, axes = np.linalg.eigh(np.cov(x - mean, rowvar=False))
    return mean, axes[:, ::-1][:, :count].T


def subspace(model: torch.nn.Module) -> np.ndarray:
    """An orthonormal basis (D, latent) of what the decoder of a linear autoencoder can add to its mean image."""
    weight = next(m for m in model.decoder.modules() if isinstance(m, torch.nn.Linear)).weight
    return np.linalg.qr(weight.detach().double().numpy())[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="of training, for each of three autoencoders")
    parser.add_argument("--data", default="fashion")
    parser.add_argument("--latent", type=int, default=8, help="numbers in the latent of the linear autoencoder")
    parser.add_argument("--out", type=Path, default=Path("linear-autoencoder.png"))
    flags = parser.parse_args()
    data = rv.open_data(flags.data, channels=1)
    train, held_out = (split["x"].reshape(len(split["x"]), -1) / 127.5 - 1 for split in (data.train, data.held_out))
    mean, axes = principal_components(train, flags.latent)

    with tempfile.TemporaryDirectory() as scratch:

        def trained(name: str, **options: object) -> torch.nn.Module:
            options |= {"batch_size": 256, "quiet": True, "precision": "fp32"}
            run = rv.train("autoencoder", data, out=Path(scratch) / name, minutes=flags.minutes, **options)
            return rv.load(run, "cpu")

        linear = trained("linear", net="dense", hidden=(), latent=flags.latent)
        deep = trained("deep", net="dense", latent=2)
        basis = subspace(linear)
        left, cosines, right = np.linalg.svd(axes @ basis)  # the cosines of the principal angles
        angles = np.degrees(np.arccos(cosines.clip(-1, 1)))
        print("Principal angles between the two subspaces, degrees: " + ", ".join(f"{a:.2f}" for a in angles))

        def error(restored: np.ndarray) -> float:
            return float(np.square(restored - held_out).mean())

        x = torch.tensor(data.held_out["x"]).movedim(-1, 1) / 127.5 - 1

        def restored(model: torch.nn.Module) -> np.ndarray:
            with torch.no_grad():
                return model.decoder(model.encoder(x)).flatten(1).numpy()  # without the clamp of ``decode``

        def projected(count: int) -> np.ndarray:
            return mean + (held_out - mean) @ axes[:count].T @ axes[:count]

        print(f"MSE of {len(x):,} held-out images, {flags.latent} numbers each: ", end="")
        print(f"PCA {error(projected(flags.latent)):.5f}, linear autoencoder {error(restored(linear)):.5f}")
        print(f"Two numbers each: PCA {error(projected(2)):.5f}, deep autoencoder {error(restored(deep)):.5f}")
        codes = {"PCA": (held_out - mean) @ axes[:2].T, "deep autoencoder": rv.encode(deep, data.held_out["x"]).numpy()}

    turned = (basis @ right.T @ left.T).T  # the basis, turned to the axes of PCA as far as an orthogonal matrix can
    weights = next(m for m in linear.decoder.modules() if isinstance(m, torch.nn.Linear)).weight.detach().numpy().T
    rows = {"PCA": axes, "its own units": weights, "turned to PCA's": turned}
    with plots.figure(flags.out, 1.1 * flags.latent + 1.2, 9.4) as figure:
        upper, lower = figure.subfigures(2, 1, height_ratios=[3.4, 5.2])
        for index, (name, images) in enumerate(rows.items()):
            for column, image in enumerate(images):
                axis = upper.add_subplot(len(rows), flags.latent, index * flags.latent + column + 1)
                image = image.reshape(data.spec.shape[0], -1) / np.abs(image).max()
                axis.imshow(image, cmap="RdBu_r", vmin=-1, vmax=1)
                axis.set_xticks([]), axis.set_yticks([])
                if column == 0:
                    axis.set_ylabel(name, fontsize=8)
        for axis, (name, points) in zip(lower.subplots(1, 2), codes.items(), strict=True):
            for label, title in enumerate(data.classes):
                members = points[data.held_out.labels == label]
                axis.scatter(*members.T, color=f"C{label % 10}", s=6, alpha=0.7, lw=0, label=title)
            axis.set_title(f"two numbers an image: {name}", fontsize=10)
            axis.tick_params(labelsize=7)
        lower.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8, markerscale=3)
    print(f"The plot is in {flags.out}.")


if __name__ == "__main__":
    main()
