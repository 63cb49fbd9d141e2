"""From Python: train a small VAE for a minute, sample it, and walk between two held-out images.

Run:  python examples/latent_walk.py
"""

import reverie as rv


def main() -> None:
    run = rv.train("vae", "fashion", minutes=1, latent=16)
    model = rv.load(run)
    rv.sample(model, 64, seed=0).save(run.path / "generated.png")
    rv.interpolate(model, "held-out:0", "held-out:5", frames=30).save(run.path / "walk.webp", seconds=3)
    print(f"Look at generated.png and walk.webp in {run.path}.")


if __name__ == "__main__":
    main()
