"""The verbs of the command line, each thin over the Python of the same name. Results to stdout, the rest to stderr."""

from __future__ import annotations

import json as json_
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional, arg

from reverie.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from reverie.verbs import Model

Number = Annotated[int, arg(aliases=["-n"])]


def out(text: str) -> None:
    """A result, on stdout."""
    print(text, flush=True)


def note(text: str) -> None:
    """Something beside the result, on stderr."""
    print(text, file=sys.stderr, flush=True)


def dump(value: Any) -> None:
    """A result for machines, on one line."""
    out(json_.dumps(value))


# Make


def train(arguments: list[str]) -> None:
    """Train a model on pictures and leave a run directory: weights, sample grids, loss curve, latent map, scores."""
    named = bool(arguments) and not arguments[0].startswith("-")
    model, rest = (arguments[0], arguments[1:]) if named else ("vae", arguments)
    from reverie.cli_options import train_flags

    pairs = zip(rest, [*rest[1:], ""], strict=False)  # the recipe, and so what --help shows, depends on the data
    data = next((a.partition("=")[2] or b for a, b in pairs if a.partition("=")[0] == "--data"), "fashion")
    options, own = train_flags(model, data, rest, train.__doc__ or "")
    from reverie.training.distributed import rank
    from reverie.training.loop import train as fit

    leader = rank() == 0
    with reading(leader) as progress:
        run = fit(model, own["data"], size=own["size"], out=own["out"], progress=progress, **options)
    if leader:
        _end(run, own["json"])


def resume(run: Positional[str], /, json: bool = False) -> None:
    """Continue a stopped, killed or failed run from its newest whole checkpoint, bit for bit (on the same device).

    Args:
        run: the run directory.
        json: end with one line of JSON.
    """
    from reverie.training.distributed import rank
    from reverie.training.loop import resume as again

    found = again(run)
    if rank() == 0:
        _end(found, json)


def rerun(run: Positional[str], /, out: str | None = None, json: bool = False) -> None:
    """Repeat a run from its run.json: same data, options, seed and number of steps, in a new directory.

    Args:
        run: the run directory.
        out: where to; by default the first free of runs/MODEL-DATA-2, -3 ...
        json: end with one line of JSON.
    """
    from reverie.training.distributed import rank
    from reverie.training.loop import rerun as repeat

    found = repeat(run, out)
    if rank() == 0:
        _end(found, json)


def _end(run: Any, json: bool) -> None:
    """The last lines of a training command."""
    result = run.info.get("result")
    if json:
        dump(result or {"run": str(run.path), "steps": None, "images_per_second": None, "seconds": run.info["seconds"]})
    elif result:
        pictures = [p.name for p in sorted(run.path.glob("*.png"))]
        out(
            f"{run.path}: {result['steps']} steps, {result['images_per_second']:,.0f} images/s, "
            f"{result['seconds']:.0f} s"
        )
        out(f"Look at {', '.join(pictures)} in {run.path}.")
        verbs = run.info.get("verbs", [])
        then = (
            f"reverie sample {run.path} -n 64 --out grid.png"
            if "sample" in verbs
            else f"reverie reconstruct {run.path}"
        )
        more = f", or reverie traverse {run.path}" if "decode" in verbs else ""
        out(f"Next: {then}{more}")


# Draw


def sample(
    run: Positional[str],
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

    path = target(out)
    drawn = draw(load(run), number, seed, list(label) or None)
    seeds = list(range(seed, seed + number))
    write_pictures(path, drawn, seeds)
    told(json, {"out": str(path), "number": number, "seeds": [seeds[0], seeds[-1]]}, f"{number} pictures in {path}")


def reconstruct(
    run: Positional[str],
    /,
    *images: Positional[str],
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
    from reverie.generation import data_of, load, need
    from reverie.noise import Noise
    from reverie.pictures import save

    path, model = target(out), load(run)
    need(model, "encode", "decode")
    if images:
        shown = torch.stack([picture(model, one) for one in images]).to(device_of(model))
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
    run: Positional[str],
    a: Positional[str],
    b: Positional[str],
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
    from reverie.generation import load, need
    from reverie.pictures import save_film

    where, model = target(out), load(run)
    need(model, "encode", "decode")
    made = morph(model, picture(model, a), picture(model, b), frames, path)
    save_film(where, made, seconds)
    told(json, {"out": str(where), "frames": frames}, f"A morph of {frames} frames in {where}")


def traverse(
    run: Positional[str],
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
    from reverie.generation import data_of, load, need
    from reverie.pictures import grid, save

    path, model = target(out), load(run)
    need(model, "encode", "decode")
    if latents < 1 or columns < 2:
        raise UsageError("--latents must be at least 1 and --columns at least 2.")
    centre, spread = latent_spread(model, data_of(model).held_out)
    start = centre
    if image is not None:
        start = model.encode(picture(model, image)[None].to(device_of(model))).flatten(1)[0]
    chosen = spread.argsort(descending=True)[:latents].tolist()
    made = walk(model, start, start if image else centre, spread, chosen, columns, reach)
    save(path, grid(made, columns=columns))
    told(json, {"out": str(path), "latents": chosen}, f"Latents {', '.join(map(str, chosen))}, a row each, in {path}")


def restore(
    run: Positional[str],
    task: Positional[str],
    /,
    *images: Positional[str],
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
    from reverie.generation import load, need
    from reverie.pictures import save

    path, model = target(out), load(run)
    need(model, "restore")
    if not images:
        raise UsageError("Name at least one picture to restore.")
    given = torch.stack([picture(model, one) for one in images]).to(device_of(model))
    with torch.inference_mode():
        made = model.restore(given, task)
    save(path, beside([given, made]))
    told(json, {"out": str(path), "number": len(images)}, f"{len(images)} restored pictures in {path}")


# Know


def models(json: bool = False) -> None:
    """Every model: its system, how it treats p(x), what it can do, and its paper.

    Args:
        json: print a list of {"name", "system", "taxonomy", "verbs", "paper"}.
    """
    from reverie.registry import MODELS
    from reverie.verbs import verbs_of

    rows = [
        {"name": name, "system": e.system, "taxonomy": e.taxonomy, "verbs": verbs_of(e.load()), "paper": e.paper}
        for name, e in MODELS.items()
    ]
    if json:
        dump(rows)
        return
    for row in rows:
        out(
            f"{row['name']:24} {row['system']}; {row['taxonomy']}\n{'':24} can {', '.join(row['verbs'])}\n"
            f"{'':24} {row['paper']}"
        )
    out("Next: reverie train NAME --help")


def data(source: Positional[str | None] = None, /, size: int | None = None, json: bool = False) -> None:
    """What a folder or data set holds, and everything that is wrong with it. Without SOURCE: the sources there are.

    Args:
        source: a folder, fashion, emoji, mnist, fashion-mnist, cifar10, FILE.npz, SHARD.tar or hf:owner/name.
        size: side of the pictures in pixels; by default their own, up to 64.
        json: print the report as JSON.
    """
    from reverie.data import data as open_data
    from reverie.data.intake import TooFew

    if source is None:
        from reverie.data.sources import POSSIBLE

        out(f"SOURCE is {POSSIBLE}.\nNext: reverie data emoji")
        return
    try:
        with reading(True) as progress:
            found = open_data(source, size=size, progress=progress)
    except TooFew as error:
        if json:  # the report is what was asked for, however little there is to train on
            dump(
                {
                    "usable": error.report.usable,
                    "classes": [],
                    "captions": 0,
                    "pairs": 0,
                    "train": 0,
                    "held_out": 0,
                    "fingerprint": "",
                    "problems": [vars(p) for p in error.report.problems],
                }
            )
        raise
    if json:
        dump(found.summary())
        return
    summary = found.summary()
    named = f" ({', '.join(found.classes[:12])}{' ...' if len(found.classes) > 12 else ''})" if found.classes else ""
    out(
        f"{source}: {summary['usable']} usable pictures of {found.size}x{found.size}x{found.channels}, "
        f"{summary['train']} to train on, {summary['held_out']} held out"
    )
    out(f"classes {len(found.classes)}{named}, captions {summary['captions']}, pairs {summary['pairs']}")
    for kind, count in found.report.counts().items():
        first = next(p for p in found.report.problems if p.kind == kind)
        out(f"  {count:6} {kind}: {first.action} (first: {first.file})")
    out(f"fingerprint {found.fingerprint[:16]}. Next: reverie train vae --data {source}")


# What the verbs share


def picture(model: Model, reference: str) -> Tensor:
    """(C, H, W) in [-1, 1] from a picture file, held-out:N, train:N, seed:N, or a caption of the run's data.

    Raises:
        UsageError: nothing of that name.
        ReverieError: a file that is no picture.
    """
    from reverie.data import load_picture
    from reverie.generation import data_of, sample
    from reverie.pictures import to_float

    facts = model.run["data"]
    if Path(reference).is_file():
        pixels = load_picture(Path(reference), facts["size"], facts["channels"])
        return to_float(pixels[None])[0]
    kind, _, number = reference.partition(":")
    if kind == "seed" and number.isdigit():
        return to_float(sample(model, 1, int(number)))[0]
    dataset = data_of(model)
    splits = {"held-out": dataset.held_out, "train": dataset.train}
    if kind in splits and number.isdigit():
        if int(number) >= len(splits[kind]):
            raise UsageError(f"{kind} has pictures 0 to {len(splits[kind]) - 1}, not {number}.")
        return to_float(splits[kind].images[[int(number)]])[0]
    for split in splits.values():
        for names in (split.texts or [], split.names):
            if reference in names:
                return to_float(split.images[[names.index(reference)]])[0]
    raise UsageError(
        f"There is no file {reference!r}, and the run's data has no picture of that name or caption. "
        "Also understood: held-out:3, train:3, seed:3."
    )


def target(where: str) -> Path:
    """An output path, refused early when nothing can be written there: before the work, not after it."""
    path = Path(where)
    if path.suffix and path.is_dir():
        raise UsageError(f"{path} is a folder.")
    return path


def write_pictures(path: Path, drawn: np.ndarray, seeds: list[int]) -> None:
    """A grid (.png ...), an archive (.npz) or a folder of numbered pictures."""
    import numpy as np

    from reverie.files import atomic, disk_errors
    from reverie.pictures import grid, save

    if path.suffix == ".npz":
        with atomic(path) as aside, aside.open("wb") as stream:
            np.savez_compressed(stream, images=drawn, seeds=np.array(seeds, np.int64))
    elif path.suffix:
        save(path, grid(drawn))
    else:
        if path.is_dir() and any(path.iterdir()):
            raise UsageError(f"{path} holds files already; nothing was touched. Choose an empty or a new folder.")
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        for index, one in enumerate(drawn):
            save(path / f"{index:06d}.png", one)


def told(json: bool, result: dict[str, Any], text: str) -> None:
    """The result, for a machine or a person."""
    if json:
        dump(result)
    else:
        out(text)


class reading:
    """A bar on stderr while pictures are being read, shown only when that takes more than a moment."""

    def __init__(self, show: bool):
        self.show = show

    def __enter__(self) -> Callable[[int, int, str], None] | None:
        import time

        from rich.progress import Progress, TextColumn, TimeRemainingColumn

        from reverie.training.progress import console

        self.bar = Progress(
            "{task.description}",
            *Progress.get_default_columns()[1:3],
            TimeRemainingColumn(),
            TextColumn("{task.completed}/{task.total}"),
            console=console,
            transient=True,
        )
        self.task = self.bar.add_task("reading")
        began = time.monotonic()

        def update(done: int, total: int, what: str) -> None:
            if done >= total:
                self.bar.stop()
            elif console.is_terminal and time.monotonic() - began > 1:
                self.bar.start()
            self.bar.update(self.task, completed=done, total=total, description=what)

        return update if self.show else None

    def __exit__(self, *error: Any) -> None:
        self.bar.stop()


def _parsed(verb: Callable[..., None]) -> Callable[[list[str]], None]:
    return lambda arguments: tyro.cli(verb, args=arguments, prog=f"reverie {verb.__name__}")


COMMANDS: dict[str, Callable[[list[str]], None]] = {"train": train} | {
    verb.__name__: _parsed(verb)
    for verb in (resume, rerun, sample, reconstruct, interpolate, traverse, restore, models, data)
}
