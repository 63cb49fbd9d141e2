"""``reverie data``: what a source holds, what is wrong with it, and how to train on it."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from reverie.commands.flags import Opening
from reverie.commands.shared import bar, dump, table, target
from reverie.commands.shared import out as say
from reverie.core.errors import UsageError, argument
from reverie.core.files import quoted
from reverie.data.options import as_flags

if TYPE_CHECKING:
    from reverie.data.types import Dataset, Problem

FEW = 2000  # training images, below which a GAN needs augmentation of its discriminator's images: docs/choosing.md
FEWEST = 500  # below which its samples are copies and blots
_SMALL = 64  # pixels of a side, above which a step for each pixel takes too long
_BARS = 24  # classes that are shown with a bar


def data(
    source: Positional[Annotated[str | None, arg(metavar="[SOURCE]")]] = None,
    /,
    opening: OmitArgPrefixes[Opening] = Opening(),
    explain: bool = False,
    problems: bool = False,
    out: str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """What a folder or data set holds, and everything that is wrong with it. Without SOURCE: the sources there are.

    Args:
        source: a folder or zip, fashion, emoji, mnist, binary-mnist, fashion-mnist, cifar10, stacked-mnist, photos,
            FILE.npz, SHARD.tar or hf:owner/name.
        explain: say of every layout why it fits or not, and read nothing.
        problems: list every problem with its file, not only the first of each kind.
        out: a contact sheet with the sizes and classes of the images, such as sheet.png.
        overwrite: replace a file that reverie did not write.
        json: print the report as JSON.
    """
    from reverie.data import explain as explain_layouts
    from reverie.data import open_data
    from reverie.data.intake import TooFew

    sheet = out and target(out, overwrite=overwrite)
    if source is None:
        from reverie.data.listing import POSSIBLE

        say(f"SOURCE is {POSSIBLE}.", "Next: reverie data emoji")
        return
    if explain:
        answers = explain_layouts(source)
        if json:
            dump([dict(zip(("layout", "fits", "why"), row, strict=True)) for row in answers])
        else:
            table(("layout", "fits", "why"), answers)
            say(f"Next: reverie data {quoted(source)} --layout NAME")
        return
    try:
        with bar(True) as progress:
            dataset = open_data(source, progress=progress, **vars(opening))
    except TooFew as error:
        if json:  # the report is what was asked for, however little there is to train on
            dump(
                {
                    "source": source,
                    "read_as": error.report.read_as,
                    "usable": error.report.usable,
                    "medium": opening.medium or "image",
                    "shape": [],
                    "channels": 0,
                    "classes": [],
                    "attributes": [],
                    "captions": 0,
                    "pairs": 0,
                    "masks": 0,
                    "train": 0,
                    "held_out": 0,
                    "fingerprint": "",
                    "problems": [vars(p) for p in error.report.problems],
                }
            )
        raise
    if "text" in dataset.train:
        from reverie.data.remarks import with_long_captions
        from reverie.nets.text import LONGEST, words_of

        dataset = with_long_captions(dataset, words_of, LONGEST)
    if json:
        dump(dataset.summary())
        return
    if sheet:
        from reverie.data.contact import contact_sheet

        contact_sheet(dataset, sheet)
    _say(dataset, problems)
    if sheet:
        say(f"Look at {sheet}.")
    if dataset.spec.medium == "image":
        say(_which_model(dataset))
    say(f"fingerprint {dataset.fingerprint[:16]}. {_next(dataset, source, opening)}")


def _say(dataset: Dataset, every_problem: bool) -> None:
    """The report for a person."""
    summary, report = dataset.summary(), dataset.report
    if report.read_as:
        say(f"read as: {report.read_as}")
    say(
        f"{dataset.source}: {summary['usable']} usable {dataset.spec.medium}s of {dataset.spec}, "
        f"{summary['train']} to train on, {summary['held_out']} held out"
    )
    if report.sizes:
        say(_sizes(report.sizes))
    several = sum(len(texts) for texts in dataset.train.get("captions") or [])
    more = f" ({several / len(dataset.train):.1f} an image)" if several else ""
    masks = f", masks that mark something {summary['masks']}" * ("mask" in dataset.train)
    say(f"classes {len(dataset.classes)}, captions {summary['captions']}{more}, pairs {summary['pairs']}{masks}")
    say(*_bars(dataset))
    if dataset.attributes:
        say(f"attributes {', '.join(dataset.attributes)}")
    hidden = 0
    for kind in report.counts():
        ours = [problem for problem in report.problems if problem.kind == kind]
        of_set = [problem for problem in ours if problem.file == "*"]
        of_files = [problem for problem in ours if problem.file != "*"]
        say(*(f"  {'':6} {kind}: {_action(problem)}" for problem in of_set))
        if every_problem:
            say(*(f"  {kind}: {problem.file}: {_action(problem)}" for problem in of_files))
        elif of_files:
            first = next((p for p in of_files if "composited" in p.action or "--columns" in p.action), of_files[0])
            keep = f"; {argument('channels', 4)} keeps the transparency" if "composited" in first.action else ""
            say(f"  {len(of_files):6} {kind}: {_action(first)}{keep} (first: {first.file})")
            hidden += len(of_files) - 1
    if hidden:
        say("  --problems lists every line")


def _action(problem: Problem) -> str:
    """Of a problem in flags, without its kind: "1 file" of the kind "ignored", not "ignored: 1 file"."""
    words = [word for word in problem.action.split(": ") if word != problem.kind]
    text = re.sub(r"\blow and high of (\S+) and (\S+)", r"--low \1 --high \2", ": ".join(words))
    return re.sub(r"\blow and high\b", "--low and --high", text)


def _sizes(sizes: dict[tuple[int, int], int]) -> str:
    """Extent and proportions of files' images in a line."""
    (width, height), most = Counter(sizes).most_common(1)[0]
    if len(sizes) == 1:
        return f"files of {width} x {height} pixels"
    short, long = min(min(size) for size in sizes), max(max(size) for size in sizes)
    square = sum(n for (w, h), n in sizes.items() if w == h)
    wide = sum(n for (w, h), n in sizes.items() if w > h)
    high = sum(sizes.values()) - square - wide
    return (
        f"files of {len(sizes)} sizes, sides of {short} to {long} pixels, most often {width} x {height} ({most:,}); "
        f"{square:,} square, {wide:,} wide, {high:,} high"
    )


def _bars(dataset: Dataset) -> list[str]:
    """A bar for each class."""
    counts = dataset.counts_of_classes()
    if not counts:
        return []
    most = max(sum(both) for both in counts.values())
    width = min(24, max(map(len, counts)))
    lines = [
        f"  {name[:24]:{width}} {train:7,} + {held_out:<6,} {'#' * max(1, round(30 * (train + held_out) / most))}"
        for name, (train, held_out) in list(counts.items())[:_BARS]
    ]
    lines += [f"  ... and {len(counts) - _BARS:,} more"] * (len(counts) > _BARS)
    return lines


def _which_model(dataset: Dataset) -> str:
    """A first choice by purpose and number of images, from the measurements of docs/choosing.md."""
    n = len(dataset.train)
    best = "flow-matching or r3gan (5 minutes)" if n >= FEW else "stylegan2 or ddpm (20 minutes)"
    few = f" ({n:,} images are few for a GAN or a diffusion model: expect copies and blots)" * (n < FEWEST)
    small = max(dataset.spec.shape) <= _SMALL
    exact = f", {'pixelcnn++ for an exact likelihood (15 minutes), ' * small}codec for lossless files (10 minutes)"
    pairs = ", pix2pix for its pairs (15 minutes)" if "source" in dataset.train else ""
    pairs += ", cyclegan for its two domains (10 minutes)" if _is_unpaired(dataset) else ""
    words = ", ddpm --conditional text for samples by caption (20 minutes)" if _has_captions(dataset) else ""
    classes = "; --conditional label makes them by class" if dataset.classes and not _is_unpaired(dataset) else ""
    first = "which model: vae for a first look (3 minutes)"
    return f"{first}, {best} for good samples{few}{pairs}{words}{exact}{classes}; see docs/choosing.md"


def _is_unpaired(dataset: Dataset) -> bool:
    return dataset.classes == ["A", "B"] and "source" not in dataset.train


def _has_captions(dataset: Dataset) -> bool:
    return any(dataset.train.get("text") or [])


def _next(dataset: Dataset, source: str, opening: Opening) -> str:
    """The command that trains on a data set, opened with the same options; or what it lacks."""
    import torch

    from reverie.core.registry import build

    rest = " ".join(as_flags({"data": source} | opening.changed()))
    if dataset.spec.medium in ("video", "volume"):
        return (
            f"No built-in model learns from {dataset.spec.medium}s: write one (docs/extending.md). "
            f"Next: reverie train package.module:Model {rest}"
        )
    refusal = ""
    for model, options in _models(dataset):
        try:
            with torch.device("meta"):  # asks whether the size fits, and allocates nothing
                build(model, dataset, **options)
        except UsageError as error:
            refusal = refusal or str(error)
        else:
            return f"Next: reverie train {' '.join([model, rest, *as_flags(options)])}"
    return f"Next: another size. {refusal}"


def _models(dataset: Dataset) -> list[tuple[str, dict[str, str]]]:
    """Models that a first training may be of, and their options, the best first."""
    if "source" in dataset.train or _is_unpaired(dataset):
        return [("pix2pix" if "source" in dataset.train else "cyclegan", {})]
    if dataset.spec.medium == "sequence":
        return [("recurrent-autoencoder", {})]
    by_caption = [("ddpm", {"conditional": "text"})] if _has_captions(dataset) else []
    return [*by_caption, ("vae", {"conditional": "label"} if dataset.classes else {})]
