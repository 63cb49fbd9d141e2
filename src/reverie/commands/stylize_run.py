"""The verb of style transfer, by a trained network: images, folders and films."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reverie.commands.shared import bar, load, report, target
from reverie.core.errors import UsageError, argument


def by_run(
    content: str,
    styles: tuple[str, ...],
    net: str,
    size: int | None,
    others: Mapping[str, Any],
    blend: tuple[float, ...],
    strength: float,
    keep_color: bool,
    out: str | None,
    overwrite: bool,
    json: bool,
) -> None:
    """Write an image, every image of a folder, or every frame of a film in a style.

    Args:
        others: options of the slow method, which are refused.
        content, styles, net, size, blend, strength, keep_color, out, overwrite, json: as for ``stylize``.
    """
    from reverie.core.files import is_file
    from reverie.dreaming.fast_style import Painter, refuse_slow, stylize_into
    from reverie.media.films import read_film
    from reverie.media.montage import FILMS
    from reverie.media.origin import ending_of

    refuse_slow(others)
    film = read_film(Path(content)) if is_file(content) else None
    kind = "folder" if Path(content).is_dir() else "film" if film else "image"
    default = {"folder": "stylized", "film": "stylized.webp", "image": "stylized.png"}[kind]
    path = target(out, default, overwrite, ("", ".mp4"), verb="stylize", others=(content, *styles))
    ending = ending_of(path)
    if {"folder": ending != "", "film": ending not in FILMS, "image": ending in ("", ".mp4")}[kind]:
        expected = {"folder": "a folder", "film": f"a film ({', '.join(FILMS)})", "image": "an image (.png ...)"}[kind]
        raise UsageError(f"{content} is a {kind}, so {argument('out')} is {expected}, not {path}.")
    options: dict[str, Any] = {"blend": blend or None, "strength": strength, "keep_color": keep_color}
    model = load(net)
    if kind == "image":
        Painter(model, list(styles), **options).paint(content, size).save(path)
        number, what = 1, "1 image"
    else:
        with bar(True) as progress:
            number = stylize_into(path, content, model, list(styles), size, overwrite, progress, **options)
        what = f"{number} frames" if film else f"{number} new images"
    result = {"out": str(path), "number": number, "weights": model.loaded_from}
    report(json, result, f"{what} in the style of {', '.join(styles) or 'the network'}, in {path}")
