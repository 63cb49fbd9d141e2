"""The verb of style transfer, by a trained network: images, folders and films."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reverie.commands.shared import bar, name_weights, note, report
from reverie.core.terminal import count


def by_run(
    content: str,
    styles: tuple[str, ...],
    net: str,
    size: int | None,
    others: Mapping[str, Any],
    blend: tuple[float, ...],
    strength: float,
    keep_color: bool,
    device: str,
    out: str | None,
    overwrite: bool,
    json: bool,
) -> None:
    """Write an image, every image of a folder, or every frame of a film in a style.

    Args:
        others: options of the slow method, which are refused.
        content, styles, net, size, blend, strength, keep_color, device, out, overwrite, json: as for ``stylize``.
    """
    from reverie.core.errors import Stopped
    from reverie.core.files import first_free
    from reverie.data import image_files
    from reverie.dreaming.fast_style import check_painted, refuse_slow, stylize_into
    from reverie.inference.load import load
    from reverie.media.films import read_film

    refuse_slow(others)
    folder = Path(content).is_dir()
    files = image_files(content)
    film = None if folder else read_film(files[0])
    default = "stylized" if folder else "stylized.webp" if film else "stylized.png"
    path = first_free(Path(default)) if out is None else Path(out)
    check_painted(path, Path(content), styles, overwrite)
    options: dict[str, Any] = {"blend": blend or None, "strength": strength, "keep_color": keep_color}
    model = load(net, device)
    name_weights(model.loaded_from)
    try:
        with bar(True) as progress:
            new = stylize_into(path, content, model, list(styles), size, overwrite, progress, **options)
    except Stopped as stop:
        note(f"The first {stop.result} of {film.frames if film else 0} frames are in {path}.")
        raise
    number = len(files) if folder else new
    result = {"out": str(path), "number": number, "new": new, "weights": model.loaded_from}
    what = f"{count(number, 'frame' if film else 'image')} in the style of {', '.join(styles) or net}"
    earlier = f", {number - new} of them from before" if 0 < new < number else ""
    done = f"{what}, in {path}{earlier}" if new else f"{what} in {path} already; nothing was left to do"
    report(json, result, done)
