"""Why nobody uses the minimax loss: one GAN trained twice, and how strong its generator's gradient is.

G's minimax loss log(1 - D(G(z))) has the gradient D(G(z)) with respect to D's logit: where D is saturated, G learns
nothing. The non-saturating loss -log D(G(z)) has 1 - D(G(z)). Both are trained here with a discriminator that learns
faster than its generator, as early in any training; the gradient (``G/logit_grad`` of the log) is plotted, with D(x)
and D(G(z)) over time.

Run:  python examples/vanishing_gradient.py [--minutes 1] [--data fashion] [--out vanishing-gradient.png]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import reverie as rv
from reverie.media import plots

LOSSES = ("minimax", "non-saturating")
PANELS = {"G/logit_grad": "|d loss of G / d logit|", "D/p_real": "D(x), real images", "D/p_fake": "D(G(z)), fakes"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="of training, for each loss")
    parser.add_argument("--data", default="fashion")
    parser.add_argument("--out", type=Path, default=Path("vanishing-gradient.png"))
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, plots.figure(flags.out, 9.5, 3.6) as figure:
        axes = dict(zip(PANELS, figure.subplots(1, 3), strict=True))
        for loss in LOSSES:
            options = {"lr": 1e-4, "d_lr": 1e-3, "beta1": 0.5, "clip": 100.0}
            run = rv.train("gan", flags.data, out=Path(scratch) / loss, minutes=flags.minutes, loss=loss, **options)
            lines = run.metrics()
            for name, axis in axes.items():
                axis.plot([line["step"] for line in lines], [line[name] for line in lines], label=loss)
            print(f"{loss}: the gradient of G's loss by D's logit is {lines[-1]['G/logit_grad']:.3g} at the end")
        for name, axis in axes.items():
            if name != "D/p_real":
                axis.set_yscale("log")
            axis.set_title(PANELS[name], fontsize=10)
            axis.set_xlabel("step", fontsize=8)
            axis.grid(alpha=0.3)
        axes["G/logit_grad"].legend(fontsize=8)
    print(f"The plot is in {flags.out}.")


if __name__ == "__main__":
    main()
