"""Why nobody uses the minimax loss: the same game twice, and how strongly its generator is pulled.

G's minimax loss log(1 - D(G(z))) has the gradient D(G(z)) with respect to D's logit: where D is sure that a picture is
made, G learns nothing. The non-saturating loss -log D(G(z)) has 1 - D(G(z)). Both are trained here with a discriminator
that learns faster than its generator, as early in any training; the pull (``G/signal`` of the log) is plotted, with
D(x) and D(G(z)) over time.

Run:  python examples/vanishing_gradient.py [--minutes 1] [--data fashion] [--out vanishing-gradient.png]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import reverie as rv
from reverie.media import plots

LOSSES = ("minimax", "non-saturating")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="of training, for each loss")
    parser.add_argument("--data", default="fashion")
    parser.add_argument("--out", type=Path, default=Path("vanishing-gradient.png"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, plots.figure(asked.out, 9.5, 3.6) as drawing:
        pull, real, made = drawing.subplots(1, 3)
        for loss in LOSSES:
            told = {"lr": 1e-4, "d_lr": 1e-3, "beta": 0.5, "clip": 100.0}
            run = rv.train("gan", asked.data, out=Path(scratch) / loss, minutes=asked.minutes, loss=loss, **told)
            lines = run.metrics()
            steps = [line["step"] for line in lines]
            for axis, name in ((pull, "G/signal"), (real, "D/p_real"), (made, "D/p_fake")):
                axis.plot(steps, [line[name] for line in lines], label=loss)
            print(f"{loss}: G is pulled by {lines[-1]['G/signal']:.3g} a picture at the end")
        for axis in (pull, made):
            axis.set_yscale("log")
        for axis, title in (
            (pull, "|d loss of G / d logit|"),
            (real, "D(x), real pictures"),
            (made, "D(G(z)), made ones"),
        ):
            axis.set_title(title, fontsize=10)
            axis.set_xlabel("step", fontsize=8)
            axis.grid(alpha=0.3)
        pull.legend(fontsize=8)
    print(f"The plot is in {asked.out}.")


if __name__ == "__main__":
    main()
