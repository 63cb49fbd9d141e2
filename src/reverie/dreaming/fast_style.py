"""Style transfer in one pass by a trained network (style-net, adain): images, folders and films, at their own size.

Johnson et al., arXiv:1603.08155; Huang and Belongie, arXiv:1703.06868.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reverie.core.cache import Progress
from reverie.core.card import card_of, name_of
from reverie.core.errors import ReverieError, Stopped, UsageError, argument
from reverie.core.files import exists, only_new, path_of, remove_temporary, write_json
from reverie.core.layout import channels_last
from reverie.core.precision import pick_precision
from reverie.core.values import check_bool, integer, number, plain
from reverie.core.verbs import verbs_of
from reverie.data import image_files
from reverie.dreaming.photo import open_alpha, open_photo, to_images
from reverie.inference.folder import alone
from reverie.inference.load import Source, model_of, need
from reverie.inference.origin import origin, plain_option
from reverie.inference.rows import device_of, evaluating
from reverie.media import montage
from reverie.media.colour import grey, with_channels
from reverie.media.films import Film, read_film
from reverie.media.images import Images
from reverie.media.origin import NOTE, complete_origin, difference, ending_of, fresh_folder, origin_of
from reverie.media.target import check_output
from reverie.pretrained import networks
from reverie.training.progress import shows_progress
from reverie.training.run import Run

_OPTIONS = ("blend", "strength", "style_size", "keep_color")  # of Painter


def is_run(net: Any) -> bool:
    """Whether ``net`` is a trained model or a run, rather than the name of a pretrained network.

    Raises:
        UsageError: neither, or a path where there is no run.
    """
    if not isinstance(net, str | Path | Run | nn.Module | None):
        raise UsageError(f"{argument('net')} must be the name of a network, a run, or a model, not {net!r:.80}.")
    if not isinstance(net, str):
        return net is not None
    if net in networks.NETWORKS or not net:
        return False
    if "/" in net and not net.startswith("zoo/") and not exists(net):
        raise UsageError(f"{argument('net')} names a pretrained network, such as vgg16, or a run; there is no {net}.")
    return net.startswith("zoo/") or exists(net)


def refuse_slow(options: Mapping[str, Any]) -> None:
    """Raise a UsageError for the first option of the slow method that has a value."""
    if slow := [
        name for name, value in options.items() if value is not None and not (type(value) is tuple and not value)
    ]:
        raise UsageError(f"{argument(slow[0])} is for the slow method: a run paints as it learned to.")


def shares_of(blend: Any, count: int) -> list[float]:
    """Shares of styles, at least 0; all 1 for None. That of one style may be a number.

    Raises:
        UsageError: other than a number for each style, or all of them 0.
    """
    name, parts = argument("blend"), [1.0] * count if blend is None else plain(blend)
    several = isinstance(parts, Iterable) and not isinstance(parts, str)
    shares = [number(name, share, least=0) for share in (parts if several else [parts])]
    if len(shares) != count or not sum(shares):
        raise UsageError(f"{name} must be a number for each of the {count} styles, one above 0, not {blend!r:.80}.")
    return shares


class Painter:
    """A trained network with a style: images (1, C, H, W) in [-1, 1] to (1, C', H, W).

    Args:
        net: a loaded model that can stylise, or a run.
        styles: image files, Pillow images or arrays, or one; none for a network of one style.
        blend: share of each style; equal by default.
        strength: 0 reconstructs the image, 1 paints it.
        style_size: longer side of the images of styles in pixels: more make larger strokes.
        keep_color: only the brightness is stylised; the colours stay the image's.

    Attributes:
        origin: of what it paints.
    Raises:
        UsageError: a model that cannot stylise, styles that it lacks or does not take, a value out of its range.
    """

    def __init__(
        self,
        net: Source,
        styles: Any = (),
        blend: Sequence[float] | None = None,
        strength: float = 1.0,
        style_size: int = 512,
        keep_color: bool = False,
    ):
        self.model = model_of(net)
        need(self.model, "stylize")
        self.strength = number(argument("strength"), strength, least=0)
        if strength > 1:
            raise UsageError(f"{argument('strength')} must be from 0 to 1, not {strength!r}.")
        check_bool(argument("keep_color"), keep_color)
        self.keep_color, self.device = keep_color, device_of(self.model)
        self.precision = pick_precision("auto", self.device)
        output = card_of(self.model).output
        self.channels = output.channels if output else 3
        listed = list(styles) if isinstance(styles, list | tuple) else [styles]
        any_style = "style" in verbs_of(self.model)
        if any_style and not listed:
            raise UsageError(f"{name_of(self.model)} paints in any style: name at least one image of a style.")
        if not any_style and (listed or blend or strength != 1):
            odd = "an image of a style" if listed else argument("blend" if blend else "strength")
            raise UsageError(f"{name_of(self.model)} paints in the style that it learned; {odd} is for adain.")
        size = integer(argument("style_size"), style_size, 16, 20_000)
        self.style = self._mixed([open_photo(each, size, "styles") for each in listed], blend) if any_style else None
        chosen: dict[str, Any] = (
            {"styles": listed, "blend": blend, "strength": strength, "style_size": size} if any_style else {}
        )
        self.origin = origin("stylize", self.model, **chosen, keep_color=keep_color or None)

    def _mixed(self, images: list[Tensor], blend: Sequence[float] | None) -> Tensor:
        """Styles of images, in their shares."""
        shares = shares_of(blend, len(images))
        with evaluating(self.model), self.precision.autocast():
            styles = torch.cat([self.model.style(self._input(image)) for image in images]).float()
        return torch.tensor(shares, device=styles.device)[None] / sum(shares) @ styles

    def _input(self, image: Tensor) -> Tensor:
        return channels_last(with_channels(image, self.channels).to(self.device))

    def __call__(self, image: Tensor) -> Tensor:
        with evaluating(self.model), self.precision.autocast():
            painted = self.model.stylize(self._input(image), self.style, self.strength).float().to(image.device)
        return (image + grey(painted) - grey(image)).clamp(-1, 1) if self.keep_color else painted

    def paint(self, image: Any, size: int | None = None) -> Images:
        """An image file, a Pillow image or an array, stylised.

        Args:
            size: longer side in pixels; by default the image's own.
        """
        made_by = self.origin | {"images": plain_option(image)} | ({} if size is None else {"size": size})
        painted = self(open_photo(image, size, "content"))
        return to_images(painted, alpha=open_alpha(image, painted.shape[2:]), origin=made_by)


def check_painted(out: Path, content: Path, styles: Any = (), overwrite: bool = False) -> Film | None:
    """Check, before the work, where the results of a file or a folder go; returns the film that the file may be.

    Raises:
        UsageError: an ending for another kind of content, an input, or what reverie did not write.
        ReverieError: a file that is no image.
    """
    check_bool(argument("overwrite"), overwrite)
    film = None if content.is_dir() else read_film(image_files(content)[0])
    listed = styles if isinstance(styles, list | tuple) else [styles]
    inputs = [str(content), *(str(each) for each in listed if isinstance(each, str | Path))]
    if film:
        montage.check_film_ending(out)
    elif (ending_of(out) == "") != content.is_dir() or ending_of(out) == ".mp4":
        kind = "a folder" if content.is_dir() else "an image (.png ...)"
        raise UsageError(f"{argument('out')} of {content} is {kind}, not {out}.")
    check_output(out, overwrite, ("", ".mp4"), verb="stylize", others=inputs)
    return film


@shows_progress
def stylize_into(
    out: Path | str,
    content: Path | str,
    net: Source,
    styles: Any = (),
    size: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> int:
    """Stylise an image, every image of a folder, or every frame of a film; returns how many were new.

    A folder that an earlier call began is continued: images that are there stay.

    Args:
        out: of an image an image (.png ...); of a film a film (.webp, .gif, .mp4); of a folder a folder that is new,
            empty, or of an earlier call.
        content: an image, a folder of images, or a film.
        net, styles: as for ``Painter``.
        size: longer side of the results in pixels; by default each image's own.
        overwrite: replace a file, or a folder of an earlier call with other options.
        progress: called after each image, (done, total, description).
        options: of ``Painter``.
    Raises:
        UsageError: as for ``Painter``; or ``out`` has what reverie did not write, or results of other options.
        ReverieError: a file that is no image; those of a folder are named when the others are painted.
        Stopped: a KeyboardInterrupt in a film, of which the frames so far are written; ``result`` is their number.
    """
    out, content = path_of("out", out), path_of("content", content)
    film = check_painted(out, content, styles, overwrite)
    if size is not None:
        integer(argument("size"), size, 1, 20_000)
    if odd := sorted(set(options) - set(_OPTIONS)):
        raise UsageError(f"A run has no option {argument(odd[0])}; it has {', '.join(map(argument, _OPTIONS))}.")
    painter = Painter(net, styles, **options)
    made_by = painter.origin | ({} if size is None else {"size": size})
    if content.is_dir():
        with alone(out):
            return _folder(out, content, painter, size, made_by, overwrite, progress)
    if film is None:
        painter.paint(content, size).save(out)
        return 1
    return _film(out, film, painter, size, made_by | {"images": str(content)}, progress)


def _film(
    out: Path, film: Film, painter: Painter, size: int | None, made_by: dict[str, Any], progress: Progress | None
) -> int:
    frames = list[np.ndarray]()
    try:
        for index, frame in enumerate(film, 1):
            frames.append(painter.paint(frame, size).array)
            if progress:
                progress(index, film.frames, "painting frames")
    except KeyboardInterrupt:
        if not frames:
            raise
        made_by = made_by | {"stopped": f"frame {len(frames)} of {film.frames}"}
    montage.save_film(
        out,
        np.concatenate(frames),
        film.seconds * len(frames) / film.frames,
        origin=made_by,
        lossless=False,
        durations=film.durations[: len(frames)],
        scale=1,
        plays=film.plays,
    )
    if "stopped" in made_by:
        raise Stopped(len(frames))
    return len(frames)


def _folder(
    out: Path,
    content: Path,
    painter: Painter,
    size: int | None,
    made_by: dict[str, Any],
    overwrite: bool,
    progress: Progress | None,
) -> int:
    files = image_files(content)
    alike = len({file.stem.casefold() for file in files}) < len(files)
    results = {file: out / f"{file.name if alike else file.stem}.png" for file in files}
    missing = _missing(out, results, made_by, overwrite)
    failures = []
    for index, file in enumerate(files, 1):
        if file in missing:
            try:
                image = painter.paint(file, size)
            except UsageError:
                raise
            except ReverieError as error:
                failures.append(str(error))
            else:
                image.save(results[file])
        if progress:
            progress(index, len(files), "painting")
    if failures:
        raise ReverieError(f"{len(files) - len(failures)} of {len(files)} images are in {out}.", *failures)
    return len(missing)


def _missing(out: Path, results: dict[Path, Path], made_by: dict[str, Any], overwrite: bool) -> list[Path]:
    """The images to paint, in a folder that is fresh, or of the same options and maybe other images.

    Raises:
        UsageError: it holds results of other options, or of other images of the same names.
    """
    images = [str(file) for file in results]
    earlier = origin_of(out) if out.is_dir() else None
    before = earlier.get("images") if earlier else None
    if (
        earlier is None
        or not isinstance(before, list)
        or difference(earlier | {"images": images}, _note(made_by, images))
    ):
        fresh_folder(out, _note(made_by, images), overwrite)
        return list(results)
    missing = []
    for file, result in results.items():
        origin = origin_of(result) if result.exists() else None
        if origin is None or difference(origin, _note(made_by, str(file))):
            if result.exists() and not (overwrite and origin and origin.get("images") in before):
                raise UsageError(f"{result} is not of {file}; nothing was touched. Choose another folder.")
            only_new(result, not result.exists())
            missing.append(file)
    remove_temporary(out)
    write_json(out / NOTE, _note(made_by, list(dict.fromkeys([*before, *images]))))
    return missing


def _note(made_by: dict[str, Any], images: Any) -> dict[str, Any]:
    return complete_origin(made_by | {"images": images})
