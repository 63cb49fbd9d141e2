"""From Python: train a small VAE for a minute, draw from it, and walk between two held-out pictures.

Run:  python examples/latent_walk.py
"""

import reverie as rv
from reverie.editing.latents import interpolate
from reverie.media.medium import to_float
from reverie.media.montage import grid, save, save_film


def main() -> None:
    data = rv.data("fashion")
    run = rv.train("vae", data, minutes=1, latent=16)
    model = rv.load(run)
    save(run.path / "drawn.png", grid(rv.sample(model, 64, seed=0)))
    start, end = model.encode(to_float(data.held_out["x"][[0, 5]])).split(1)
    save_film(run.path / "walk.webp", interpolate(model, start, end, frames=30))
    print(f"Look at drawn.png and walk.webp in {run.path}.")


if __name__ == "__main__":
    main()
