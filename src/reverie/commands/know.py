"""Verbs that list models, data and weights, and diagnose runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from reverie.commands.shared import RunName, bar, dump, note, out, table
from reverie.core.errors import ReverieError, UsageError
from reverie.core.files import quoted

if TYPE_CHECKING:
    from reverie.data.types import Dataset

FEW = 2000  # training images, below which a GAN needs augmentation of its discriminator's images: docs/choosing.md
_SMALL = 64  # pixels of a side, above which a step for each pixel takes too long


def models(pattern: Positional[Annotated[str, arg(metavar="[PATTERN]")]] = "*", /, json: bool = False) -> None:
    """Every model: its system, how it treats p(x), what it can do, and its paper.

    Args:
        pattern: of names, such as "*gan*".
        json: print a list of {"name", "system", "taxonomy", "verbs", "paper"}.
    """
    from reverie.core.registry import entry, list_models, where
    from reverie.core.verbs import USED

    rows = [
        {"name": name, "system": e.title, "taxonomy": e.taxonomy, "verbs": e.verbs, "paper": e.paper}
        for name, e in ((name, entry(name)) for name in where(lambda e: bool(e.kind())))
        if name in list_models(pattern)
    ]
    if json:
        dump(rows)
        return
    for row in rows:
        able = [verb for verb in row["verbs"] if verb in USED]
        lines = [f"{row['system']}{'; ' * bool(row['taxonomy'])}{row['taxonomy']}"]
        lines += ["can " + ", ".join(able) if able else "is an auxiliary model", str(row["paper"])]
        out(*(f"{name:24} {line}" for name, line in zip((row["name"], "", ""), lines, strict=True) if line))
    out("Next: reverie train NAME --help")


def doctor(run: RunName, /, json: bool = False) -> None:
    """Problems of a GAN's training, and what to do: collapse, overfitting, vanishing gradients, divergence.

    A run in training reports them by itself; this reads the log of any run again.

    Args:
        run: a run directory.
        json: print {"findings": [{"kind", "step", "message", "advice"}], "past", "checks"}.
    """
    from dataclasses import asdict

    from reverie.training.doctor import doctor as diagnose

    diagnosis = diagnose(run)
    if json:
        checks = [dict(zip(("measure", "value", "limit", "verdict"), row, strict=True)) for row in diagnosis.rows()]
        dump(
            {"findings": [asdict(finding) for finding in diagnosis.findings], "past": diagnosis.past, "checks": checks}
        )
        return
    table(("measure", "value", "limit", "verdict"), diagnosis.rows())
    for finding in diagnosis.findings:
        out(f"{finding}")
    for past in diagnosis.past:
        out(f"Passed: {past['kind']} at step {past['step']} ({past['message']})")
    if not diagnosis.findings:
        out(diagnosis.summary)


def data(
    source: Positional[Annotated[str | None, arg(metavar="[SOURCE]")]] = None,
    /,
    size: str | None = None,
    fit: Literal["crop", "pad"] = "crop",
    background: str = "white",
    held_out: float = 0.1,
    channels: int | None = None,
    medium: Literal["image", "video", "volume", "sequence"] | None = None,
    low: float | None = None,
    high: float | None = None,
    frames: int | None = None,
    stride: int | None = None,
    json: bool = False,
) -> None:
    """What a folder or data set holds, and everything that is wrong with it. Without SOURCE: the sources there are.

    Args:
        source: a folder, fashion, emoji, mnist, binary-mnist, fashion-mnist, cifar10, stacked-mnist, photos,
            FILE.npz, SHARD.tar or hf:owner/name.
        size: side of square images in pixels, or HEIGHTxWIDTH such as 48x64; by default their own where they agree and
            are square, else 64.
        fit: crop fills the size and keeps the centre of an image of another shape, pad keeps all of it.
        background: colour behind transparent pixels and in the padding: a name, "#ff8800" or 10,20,30.
        held_out: share of the data to hold out, where it has no split of its own.
        channels: 1 (grey) or 3 (RGB); by default 1 where every image is grey.
        medium: what the rows of an .npz are, where their shape does not tell it; video reads a folder of films, volume
            one of volumes.
        low: value of an .npz that maps to -1 in a model, where the values are in no usual range.
        high: value that maps to 1.
        frames: of the clips that films are cut into (by default 16), with --medium video.
        stride: of the frames of a clip within the film (by default 1).
        json: print the report as JSON.
    """
    from reverie.data import open_data
    from reverie.data.intake import TooFew

    if source is None:
        from reverie.data.sources import POSSIBLE

        out(f"SOURCE is {POSSIBLE}.", "Next: reverie data emoji")
        return
    try:
        with bar(True) as progress:
            more: dict[str, Any] = {"low": low, "high": high, "frames": frames, "stride": stride}
            dataset = open_data(source, size, channels, fit, background, held_out, medium, progress, **more)
    except TooFew as error:
        if json:  # the report is what was asked for, however little there is to train on
            dump(
                {
                    "source": source,
                    "usable": error.report.usable,
                    "medium": medium or "image",
                    "shape": [],
                    "channels": 0,
                    "classes": [],
                    "attributes": [],
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
        dump(dataset.summary())
        return
    summary = dataset.summary()
    named = (
        f" ({', '.join(dataset.classes[:12])}{' ...' if len(dataset.classes) > 12 else ''})" if dataset.classes else ""
    )
    out(
        f"{dataset.source}: {summary['usable']} usable {dataset.spec.medium}s of {dataset.spec}, "
        f"{summary['train']} to train on, {summary['held_out']} held out"
    )
    out(f"classes {len(dataset.classes)}{named}, captions {summary['captions']}, pairs {summary['pairs']}")
    if dataset.attributes:
        out(f"attributes {', '.join(dataset.attributes)}")
    for kind, count in dataset.report.counts().items():
        first = next(p for p in dataset.report.problems if p.kind == kind)
        out(f"  {count:6} {kind}: {first.action} (first: {first.file})")
    opened = {"size": size, "fit": fit, "background": background, "held_out": held_out, "channels": channels}
    opened |= {"medium": medium, **more}
    if dataset.spec.medium == "image":
        out(_which_model(dataset))
    out(f"fingerprint {dataset.fingerprint[:16]}. {_next(dataset, source, opened)}")


def _which_model(dataset: Dataset) -> str:
    """A first choice by purpose and number of images, from the measurements of docs/choosing.md."""
    best = "flow-matching or r3gan (5 minutes)" if len(dataset.train) >= FEW else "stylegan2 or ddpm (20 minutes)"
    small = max(dataset.spec.shape) <= _SMALL
    exact = f", {'pixelcnn++ for an exact likelihood (15 minutes), ' * small}codec for lossless files (10 minutes)"
    pairs = ", pix2pix for its pairs (15 minutes)" if "source" in dataset.train else ""
    return f"which model: vae for a first look (3 minutes), {best} for good samples{pairs}{exact}; see docs/choosing.md"


def _next(dataset: Dataset, source: str, opened: dict[str, Any]) -> str:
    """The command that trains on a data set, opened with the same options; or what it lacks.

    Args:
        opened: options of ``data`` and ``train``, given or default.
    """
    import torch

    from reverie.commands.flags import Request
    from reverie.core.registry import build

    flags = {name: value for name, value in opened.items() if value != getattr(Request(), name)}
    words = {"data": quoted(source)} | {k: quoted(v) if isinstance(v, str) else v for k, v in flags.items()}
    rest = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in words.items())
    if dataset.spec.medium in ("video", "volume"):
        return (
            f"No built-in model learns from {dataset.spec.medium}s: write one (docs/extending.md). "
            f"Next: reverie train package.module:Model {rest}"
        )
    model = "pix2pix" if "source" in dataset.train else "vae"
    model = "recurrent-autoencoder" if dataset.spec.medium == "sequence" else model
    try:
        with torch.device("meta"):  # asks whether the size fits, and allocates nothing
            build(model, dataset)
    except UsageError as error:
        return f"Next: another size. {error}"
    return f"Next: reverie train {model} {rest}"


def weights(
    names: Positional[Annotated[tuple[str, ...], arg(metavar="[NAME ...]")]] = (),
    /,
    fetch: bool = False,
    verify: bool = False,
    json: bool = False,
) -> None:
    """Pretrained networks: which are here, what they serve for, where they come from and under which licence.

    Args:
        names: the networks; by default all.
        fetch: get those that are not here. One that fails does not stop the others; the exit code is then 1.
        verify: exit with 1 where a file that is here is damaged. (Every file is compared with its sha256 in any case.)
        json: print a list of {"name", "state", "file", "bytes", "title", "serves", "licence", "paper", "sources"}.
    """
    from reverie.pretrained.weights import NETWORKS, cache, load, state

    files = {name: cache(name) for name in names or NETWORKS}  # refuses an unknown name before any work
    failed = []
    if fetch:
        for name in files:
            try:
                with bar(True) as progress:
                    load(name, progress)
            except ReverieError as error:
                note(*error.args)
                failed.append(name)
    rows: list[dict[str, Any]] = [
        {"name": name, "state": state(name), "file": str(file), "bytes": NETWORKS[name].size}
        | {what: getattr(NETWORKS[name], what) for what in ("title", "serves", "licence", "paper")}
        | {"sources": [file.label for file in NETWORKS[name].files]}
        for name, file in files.items()
    ]
    if json:
        dump(rows)
    for row in [] if json else rows:
        out(
            f"{row['name']:18} {row['state']}, {row['bytes'] / 1e6:.3g} MB: {row['title']}",
            f"{'':18} for {row['serves']}",
            f"{'':18} from {', then '.join(row['sources']) or 'this package'}",
            f"{'':18} {row['licence']}; {row['paper']}",
        )
    damaged = [row["name"] for row in rows if row["state"] == "damaged"]
    if failed:
        raise ReverieError(f"Not fetched: {', '.join(failed)}. The others are unaffected.")
    if verify and damaged:
        named = " ".join(damaged)
        raise ReverieError(f"Damaged: {named}. Get them again: reverie weights {named} --fetch")
    if not json and any(row["state"] != "here" for row in rows):
        out("Next: reverie weights NAME --fetch")
