"""Verbs that draw from a run."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import Positional, arg

from reverie.commands.shared import PictureName, RunName, bar, note, target, told
from reverie.errors import UsageError

Number = Annotated[int, arg(aliases=["-n"])]


def sample(
    run: RunName,
    /,
    number: Number = 64,
    seed: int = 0,
    out: str = "samples.png",
    label: tuple[str, ...] = (),
    json: bool = False,
) -> None:
    """Draw new pictures. Picture i is that of seed + i: the same alone, in a batch, on any machine (to rounding).

    Args:
        run: a run directory, or a checkpoint inside one.
        number: how many.
        seed: the first picture's seed.
        out: X.png is one grid, a folder gets 000000.png ..., X.npz holds uint8 NHWC "images" and int "seeds".
        label: for a model of classes: a class by name or number; several take turns. None: any class.
        json: print the result as JSON.
    """
    from reverie.generation import load
    from reverie.generation import sample as draw
    from reverie.pictures import save_many

    path, model = target(out), load(run)
    if caution := getattr(model, "caution", ""):
        note(caution)
    with bar(True) as progress:
        drawn = draw(model, number, seed, list(label) or None, progress=progress)
    seeds = list(range(seed, seed + number))
    save_many(path, drawn, seeds)
    told(json, {"out": str(path), "number": number, "seeds": [seeds[0], seeds[-1]]}, f"{number} pictures in {path}")


def reconstruct(
    run: RunName,
    /,
    *images: PictureName,
    out: str = "reconstructions.png",
    number: Number = 32,
    json: bool = False,
) -> None:
    """Pictures, and below each what the model makes of it (a denoising model: also the corrupted picture between).

    Args:
        run: a run directory, or a checkpoint inside one.
        images: picture files; none means the first held-out pictures of the run's data.
        out: the picture to write.
        number: how many held-out pictures.
        json: print the result as JSON.
    """
    import torch

    from reverie.data.batches import in_order
    from reverie.drawing import beside, device_of
    from reverie.drawing import reconstruct as both
    from reverie.generation import data_of, find_picture, load, need
    from reverie.noise import Noise
    from reverie.pictures import save

    path, model = target(out), load(run)
    need(model, "encode", "decode")
    if images:
        shown = torch.stack([find_picture(model, one) for one in images]).to(device_of(model))
        batch = {"image": shown, "rng": Noise.of_seeds(range(len(shown)), shown.device)}
    else:
        held_out = data_of(model).held_out
        batch = next(in_order(held_out, min(number, len(held_out)), device_of(model)))
    rows = both(model, batch)
    save(path, beside(rows))
    mse = float((rows[0] - rows[-1]).square().mean())
    told(
        json,
        {"out": str(path), "number": len(rows[0]), "mse": mse},
        f"{len(rows[0])} reconstructions in {path} (MSE {mse:.4f}, pictures span 2)",
    )


def interpolate(
    run: RunName,
    a: Positional[Annotated[str, arg(metavar="A")]],
    b: Positional[Annotated[str, arg(metavar="B")]],
    /,
    frames: int = 60,
    out: str = "morph.webp",
    path: str = "lerp",
    seconds: float = 3.0,
    json: bool = False,
) -> None:
    """A morph from picture A to picture B through the latent space.

    Args:
        run: a run directory, or a checkpoint inside one.
        a: a picture file, a caption of the run's data ("red heart"), held-out:N, train:N or seed:N.
        b: likewise.
        frames: how many pictures, both ends included.
        out: .webp, .gif and .mp4 are films (mp4: the video extra); any other ending is a strip.
        path: lerp (straight line) or slerp (great circle).
        seconds: length of the film.
        json: print the result as JSON.
    """
    from reverie.editing.latents import interpolate as morph
    from reverie.generation import find_picture, load, need
    from reverie.pictures import save_film

    where, model = target(out), load(run)
    need(model, "encode", "decode")
    made = morph(model, find_picture(model, a), find_picture(model, b), frames, path)
    save_film(where, made, seconds)
    told(json, {"out": str(where), "frames": frames}, f"A morph of {frames} frames in {where}")


def traverse(
    run: RunName,
    /,
    image: str | None = None,
    latents: int = 10,
    columns: int = 11,
    reach: float = 3.0,
    out: str = "traverse.png",
    json: bool = False,
) -> None:
    """Move one latent at a time, a row each, the most telling first (those that differ most from picture to picture).

    Args:
        run: a run directory, or a checkpoint inside one.
        image: the picture to start from, as in interpolate; by default the middle of the latent space.
        latents: how many rows.
        columns: pictures in a row.
        reach: how far to each side, in standard deviations of that latent over held-out pictures.
        out: the picture to write.
        json: print the result as JSON.
    """
    from reverie.drawing import device_of
    from reverie.editing.latents import latent_spread
    from reverie.editing.latents import traverse as walk
    from reverie.generation import data_of, find_picture, load, need
    from reverie.pictures import grid, save

    path, model = target(out), load(run)
    need(model, "encode", "decode")
    if latents < 1 or columns < 2:
        raise UsageError("--latents must be at least 1 and --columns at least 2.")
    centre, spread = latent_spread(model, data_of(model).held_out)
    start = centre
    if image is not None:
        start = model.encode(find_picture(model, image)[None].to(device_of(model))).flatten(1)[0]
    chosen = spread.argsort(descending=True)[:latents].tolist()
    made = walk(model, start, start if image else centre, spread, chosen, columns, reach)
    save(path, grid(made, columns=columns))
    told(json, {"out": str(path), "latents": chosen}, f"Latents {', '.join(map(str, chosen))}, a row each, in {path}")


def restore(
    run: RunName,
    task: Positional[Annotated[str, arg(metavar="TASK")]],
    /,
    *images: PictureName,
    out: str = "restored.png",
    json: bool = False,
) -> None:
    """Clean degraded pictures: above what was given, below what the model believes was there.

    Args:
        run: a run directory, or a checkpoint inside one.
        task: what to undo, for example denoise.
        images: picture files.
        out: the picture to write.
        json: print the result as JSON.
    """
    import torch

    from reverie.drawing import beside, device_of
    from reverie.generation import find_picture, load, need
    from reverie.pictures import save

    path, model = target(out), load(run)
    need(model, "restore")
    if not images:
        raise UsageError("Name at least one picture to restore.")
    given = torch.stack([find_picture(model, one) for one in images]).to(device_of(model))
    with torch.inference_mode():
        made = model.restore(given, task)
    save(path, beside([given, made]))
    told(json, {"out": str(path), "number": len(images)}, f"{len(images)} restored pictures in {path}")
