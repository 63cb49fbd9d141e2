"""Verbs that draw from a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from reverie.commands.shared import PictureName, RunName, bar, note, target, told
from reverie.core.errors import UsageError

if TYPE_CHECKING:
    from reverie.core.batch import Batch

Number = Annotated[int, arg(aliases=["-n"])]


@dataclass(frozen=True)
class SampleFlags:
    """Which samples, and where they go.

    Attributes:
        run: a run directory, or a checkpoint inside one.
        number: how many; 64, or 8 for --stream.
        seed: the first sample's seed.
        out: X.png is one grid, a folder gets 000000.png ..., X.npz holds uint8 NHWC "images" and int "seeds". By
            default samples.png, and nothing beside a --stream.
        label: for a model of classes: a class by name or number; several take turns. None: any class.
        text: for a model of captions: what to draw, in quotation marks; several take turns. None: anything.
        stream: what generation goes through, of a model that samples step by step (diffusion: x at each step above, the
            estimate of the image behind the noise below): a film (.webp, .gif, .mp4), or a strip (.png ...).
        json: print the result as JSON.
    """

    run: RunName
    number: Annotated[int | None, arg(aliases=["-n"])] = None
    seed: int = 0
    out: str | None = None
    label: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    stream: Annotated[str | None, arg(metavar="FILE")] = None
    json: bool = False


def sample(arguments: list[str]) -> None:
    """Draw new samples. Sample i is that of seed + i: the same alone, in a batch, on any machine (to rounding).

    Examples: reverie sample runs/ddpm-fashion --sampler ddim --steps 50; reverie sample RUN --text "red heart" "a cat"
    --guidance 3; reverie sample RUN -n 8 --stream way.webp.
    """
    from reverie.commands.flags import run_flags

    asked, options = run_flags(SampleFlags, "sample", arguments, sample.__doc__ or "")
    from reverie.core.card import card_of
    from reverie.generation import load, spec_of
    from reverie.generation import sample as draw
    from reverie.media import medium_of

    where = target(asked.out) if asked.out else None if asked.stream else target("samples.png")
    film, model = target(asked.stream) if asked.stream else None, load(asked.run)
    if caution := card_of(model).caution:
        note(caution)
    count = asked.number if asked.number is not None else 8 if film else 64
    condition: dict[str, Any] = {"label": list(asked.label) or None, "text": list(asked.text) or None}
    seeds = list(range(asked.seed, asked.seed + count))
    made: dict[str, Any] = {"number": count, "seeds": [asked.seed, asked.seed + count - 1]}
    said = []
    if film:
        made |= {"stream": str(film), "frames": _film(film, model, count, asked.seed, condition | options)}
        said.append(f"The way to {count} samples, {made['frames'] - 1} steps, in {film}")
    if where:
        with bar(True) as progress:
            drawn = draw(model, count, asked.seed, **condition, progress=progress, **options)
        spec = spec_of(model)
        medium_of(spec).save(where, drawn, spec, {"seeds": seeds})
        made["out"] = str(where)
        said.append(f"{count} samples in {where}")
    told(asked.json, made, "\n".join(said))


def _film(path: Path, model: Any, count: int, seed: int, options: dict[str, Any]) -> int:
    """Write what generation goes through, as the ending says; returns the number of frames."""
    from reverie.editing.diffusion_views import film, strip
    from reverie.generation import stream
    from reverie.media.montage import FILMS, save, save_film

    frames = list(stream(model, count, seed, **options))
    if path.suffix.lower() in FILMS:
        save_film(path, film(frames), seconds=min(6.0, 0.25 * len(frames)), hold=1.0)
    else:
        save(path, strip(frames))
    return len(frames)


def forward(
    run: RunName,
    /,
    *images: PictureName,
    out: str = "forward.png",
    number: Number = 4,
    columns: int = 9,
    plot: Annotated[str | None, arg(metavar="FILE")] = None,
    json: bool = False,
) -> None:
    """What a diffusion model learns to undo: pictures under ever more noise of its own schedule, a row each.

    Args:
        run: a run directory of a diffusion model, or a checkpoint inside one.
        images: picture files; none means the first held-out pictures of the run's data.
        out: the picture to write; time runs evenly from left (0, the picture) to right (1, noise).
        number: how many held-out pictures.
        columns: how many times.
        plot: also draw the schedule: alpha, sigma and the log signal-to-noise ratio over time, where sampling stops,
            and the times that training draws.
        json: print the result as JSON.
    """
    from reverie.editing.diffusion_views import forward as noised
    from reverie.editing.diffusion_views import schedule_plot
    from reverie.generation import load, need
    from reverie.media.montage import save

    path, plotted, model = target(out), target(plot) if plot else None, load(run)
    need(model, "diffuse")
    batch = _batch(model, images, number)
    save(path, noised(model, batch, columns))
    if plotted:
        schedule_plot(model, plotted)
    result = {"out": str(path), "number": len(batch["x"]), "columns": columns, "plot": plot}
    told(json, result, f"{len(batch['x'])} pictures under noise in {path}" + (f", {plot}" if plot else ""))


def _batch(model: Any, images: tuple[str, ...], number: int) -> Batch:
    """The named pictures, or the first held-out ones, on the model's device."""
    import torch

    from reverie.core.batch import Batch
    from reverie.data.batches import in_order
    from reverie.drawing import device_of
    from reverie.generation import data_of, find_picture

    if images:
        shown = torch.stack([find_picture(model, one) for one in images]).to(device_of(model))
        return Batch({"x": shown})
    if number < 1:
        raise UsageError(f"The number of pictures must be at least 1, not {number}.")
    held_out = data_of(model).held_out
    return next(in_order(held_out, min(number, len(held_out)), device_of(model)))


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
        out: the sheet to write (.png ...), or X.npz for arrays: "x", what was made of it ("reconstructions") and, of a
            denoising model, "seen".
        number: how many held-out pictures.
        json: print the result as JSON.
    """
    from reverie.drawing import beside
    from reverie.drawing import reconstruct as both
    from reverie.generation import load, need, spec_of
    from reverie.media import medium_of
    from reverie.media.medium import save_arrays
    from reverie.media.montage import save

    path, model = target(out), load(run)
    need(model, "encode", "decode")
    rows, spec = both(model, _batch(model, images, number)), spec_of(model)
    if path.suffix == ".npz":
        names = ("x", "reconstructions") if len(rows) == 2 else ("x", "seen", "reconstructions")
        save_arrays(path, {n: medium_of(spec).to_storage(row, spec) for n, row in zip(names, rows, strict=True)})
    else:
        save(path, beside(rows, spec=spec))
    mse = float((rows[0] - rows[-1]).square().mean())
    told(
        json,
        {"out": str(path), "number": len(rows[0]), "mse": mse},
        f"{len(rows[0])} reconstructions in {path} (MSE {mse:.4f}, {spec.medium}s span 2)",
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
        a: a picture file, a caption of the run's data ("red heart"), held-out:N, train:N or seed:N; of a model that
            does not encode, such as a GAN, seed:N.
        b: likewise.
        frames: how many pictures, both ends included.
        out: .webp, .gif and .mp4 are films (mp4: the video extra; of volumes their central slices), .npz is the array,
            a folder gets a file for each; any other ending is a strip.
        path: lerp (straight line) or slerp (great circle).
        seconds: length of the film, up to 600.
        json: print the result as JSON.
    """
    from reverie.drawing import check_walk, save_walk
    from reverie.editing.latents import interpolate as morph
    from reverie.generation import find_latent, load, need, spec_of

    if not 0 < seconds <= 600:
        raise UsageError(f"--seconds must be above 0 and at most 600, not {seconds:g}.")
    where, model = target(out), load(run)
    need(model, "decode")
    spec = spec_of(model)
    check_walk(where, spec, film=True)
    made = morph(model, find_latent(model, a), find_latent(model, b), frames, path, spec)
    save_walk(where, made, spec, columns=20, seconds=seconds)
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
        out: the sheet to write (.png ...; of volumes their central slices); .npz is the array, row by row.
        json: print the result as JSON.
    """
    from reverie.drawing import save_walk
    from reverie.editing.latents import latent_spread
    from reverie.editing.latents import traverse as walk
    from reverie.generation import data_of, find_latent, load, need, spec_of

    path, model = target(out), load(run)
    need(model, "decode")
    if latents < 1 or columns < 2:
        raise UsageError("--latents must be at least 1 and --columns at least 2.")
    centre, spread = latent_spread(model, data_of(model).held_out)
    start = centre
    if image is not None:
        start = find_latent(model, image).flatten()
    chosen = spread.argsort(descending=True)[:latents].tolist()
    made = walk(model, start, start if image else centre, spread, chosen, columns, reach, spec_of(model))
    save_walk(path, made, spec_of(model), columns)
    told(json, {"out": str(path), "latents": chosen}, f"Latents {', '.join(map(str, chosen))}, a row each, in {path}")


def mix(
    run: RunName,
    /,
    rows: int = 5,
    columns: int = 8,
    seed: int = 0,
    cut: int | None = None,
    out: str = "mixed.png",
    json: bool = False,
) -> None:
    """Style mixing of a StyleGAN: each row has one picture's coarse styles (layout), each column another's fine ones.

    Args:
        run: a run directory of stylegan2 or stylegan, or a checkpoint inside one.
        rows: how many pictures lend their coarse styles, shown on the left.
        columns: how many lend their fine styles, shown above.
        seed: the first picture's seed; those of the columns come first.
        cut: the first layer that has the fine style; by default the middle one.
        out: the picture to write.
        json: print the result as JSON.
    """
    from reverie.core.noise import Noise
    from reverie.core.values import check_seeds
    from reverie.drawing import device_of
    from reverie.editing.latents import mixed, style_layers
    from reverie.generation import load
    from reverie.media.montage import grid, save

    path, model = target(out), load(run)
    if rows < 1 or columns < 1:
        raise UsageError("--rows and --columns must be at least 1.")
    check_seeds(seed, seed + rows + columns - 1)
    place = cut if cut is not None else style_layers(model) // 2
    noise = Noise.of_seeds(range(seed, seed + rows + columns), device_of(model))
    made = mixed(model, noise[columns:], noise[:columns], place)
    save(path, grid(made, columns=columns + 1))
    told(json, {"out": str(path), "cut": place}, f"{rows} x {columns} mixtures, fine from layer {place} on, in {path}")


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
    from reverie.generation import find_picture, load, need, spec_of
    from reverie.media.montage import save

    path, model = target(out), load(run)
    need(model, "restore")
    if not images:
        raise UsageError("Name at least one picture to restore.")
    given = torch.stack([find_picture(model, one) for one in images]).to(device_of(model))
    with torch.no_grad():
        made = model.restore(given, task)
    save(path, beside([given, made], spec=spec_of(model)))
    told(json, {"out": str(path), "number": len(images)}, f"{len(images)} restored pictures in {path}")
