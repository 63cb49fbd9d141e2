"""Neural style transfer: an image with the content of a photograph and the style of a painting.

Several styles, regions and kept colours: Gatys et al., "Controlling perceptual factors in neural style transfer",
arXiv:1611.07865.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.cache import Progress
from reverie.core.errors import Stopped, UsageError, argument, suggest
from reverie.core.options import checked, system_parameters
from reverie.core.precision import pick_device
from reverie.core.values import check_bool, check_seeds, integer, number
from reverie.core.verbs import Frame
from reverie.dreaming.canvas import Canvas, paint, resized
from reverie.dreaming.fast_style import Painter, is_run, refuse_slow, shares_of
from reverie.dreaming.photo import open_alpha, open_photo, to_images
from reverie.dreaming.style_canvas import RECIPES, Recipe, canvas_of, fitted, vgg_features
from reverie.inference.load import Source, load
from reverie.inference.origin import plain_option
from reverie.media.colour import grey
from reverie.media.images import Images
from reverie.media.montage import save_film
from reverie.media.origin import ending_of
from reverie.pretrained import networks, weights
from reverie.training.progress import shows_progress


def recipe_of(recipe: str | Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A recipe by name with some of its fields changed; None changes nothing.

    Raises:
        UsageError: an unknown recipe or field, or a value out of its range.
    """
    base = RECIPES.get(recipe) if isinstance(recipe, str) else recipe
    if not isinstance(base, Recipe):
        close = suggest(recipe, list(RECIPES))
        raise UsageError(f"{argument('recipe')} must be {' or '.join(RECIPES)}, not {recipe!r:.80}.{close}")
    parameters = system_parameters(Recipe)
    for name in changes:
        if name not in parameters:
            close = suggest(name, list(parameters))
            raise UsageError(f"stylize has no option {name!r}.{close} A recipe has {', '.join(parameters)}.")
    values = vars(base) | {name: value for name, value in changes.items() if value is not None}
    chosen = Recipe(**{name: checked("stylize", name, parameters[name], value) for name, value in values.items()})
    if not sum(chosen.layer_weights):
        raise UsageError(f"{argument('layer_weights')} must be above 0 for at least one layer.")
    return chosen


def network_of(net: str | None) -> str:
    """The name of a network with style layers; None: vgg19 where its weights are cached, else vgg16.

    Raises:
        UsageError: another network.
    """
    if net is None:
        return "vgg19" if weights.cache("vgg19").exists() else "vgg16"
    names = [name for name, network in networks.NETWORKS.items() if network.style]
    if net not in names:
        raise UsageError(f"{argument('net')} must be {' or '.join(names)}, not {net!r}.{suggest(net, names)}")
    return net


def _matched(image: Tensor, other: Tensor) -> Tensor:
    """The image with the mean and the deviation of another (Gatys et al., arXiv:1606.05897, eq. 10)."""
    scale = other.std() / image.std().clamp(min=1e-3)
    return ((image - image.mean()) * scale + other.mean()).clamp(-1, 1)


def _listed(styles: Any) -> list[Any]:
    return list(styles) if isinstance(styles, list | tuple) else [styles]


def _shape(photo: Tensor, size: int) -> tuple[int, int]:
    height, width = photo.shape[2:]
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _regions(mask: Any, count: int, shape: tuple[int, int], device: torch.device) -> list[Tensor]:
    """A mask (1, 1, H, W) in [0, 1] for each style."""
    name, files = argument("mask"), _listed(mask)
    masks = [resized(grey(open_photo(file, name="mask")), shape).clamp(-1, 1).to(device) / 2 + 0.5 for file in files]
    if len(masks) == 1 and count == 2:
        masks.append(1 - masks[0])
    if len(masks) != count:
        raise UsageError(f"{name} must be one image for two styles, or one for each of the {count}, not {len(masks)}.")
    if empty := [index + 1 for index, region in enumerate(masks) if region.max() < 0.5]:
        raise UsageError(f"{name} leaves no region to style {empty[0]}: white is inside.")
    return masks


def check_inputs(content: Any, styles: Any) -> None:
    """Raise a UsageError for a folder or a film, which only trained networks paint, and where there is no style."""
    film = isinstance(content, str | Path) and ending_of(content) == ".mp4"
    if film or (isinstance(content, str | Path) and Path(content).is_dir()):
        raise UsageError(
            f"{content} is a {'film' if film else 'folder'}; only a trained network paints one. Name its run as "
            f"{argument('net')}: `reverie train style-net` and `reverie train adain` make such runs."
        )
    if not _listed(styles):
        raise UsageError(
            f"There is no style: name images of one or several after the content (STYLE ...), or as {argument('net')} "
            "a run that has learned one (`reverie train style-net`)."
        )


def _status(frame: Frame, canvas: Canvas) -> str:
    height, width = canvas.images[int(canvas.current)].pixels.shape[2:]
    loss = next(value for name, value in frame.tensors.items() if name.rpartition("/")[2] == "loss")
    return f"{width} x {height}, loss {float(loss):.4f}"


def stream(
    content: Any,
    styles: Any,
    size: int | None = None,
    recipe: str | Recipe = "fast",
    net: str | None = None,
    blend: Sequence[float] | None = None,
    mask: Any = None,
    keep_color: bool = False,
    memory: float = 4.0,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
    **options: Any,
) -> Iterator[Frame]:
    """The steps of ``stylize``: ``frame.render()["image"]`` is the image (1, 3, H, W) in its final shape.

    Arguments and errors are those of ``stylize``.
    """
    check_inputs(content, styles)
    chosen, where = recipe_of(recipe, options), pick_device(device)
    check_bool(argument("keep_color"), keep_color)
    check_seeds(seed)
    memory = number(argument("memory"), memory, 0)
    photo = open_photo(content, name="content")
    limit = min(512, max(photo.shape[2:])) if size is None else integer(argument("size"), size, 1, 20_000)
    photo = resized(photo, _shape(photo, limit)).clamp(-1, 1).to(where)
    paintings = [open_photo(style, name="styles").to(where) for style in _listed(styles)]
    shares = shares_of(blend, len(paintings))
    if mask is None:
        shares = [share / sum(shares) for share in shares]
    work = fitted(photo, limit)
    regions = [] if mask is None else _regions(mask, len(paintings), (work.shape[2], work.shape[3]), where)
    if keep_color:
        work = grey(work)
        paintings = [_matched(grey(painting), work) for painting in paintings]
    else:
        work = work.expand(-1, 3, -1, -1)
    features = vgg_features(network_of(net), chosen, where, progress)
    features.resolve(chosen.content_layer)
    canvas = canvas_of(features, work.contiguous(), paintings, chosen, shares, regions, seed, memory * 1e9)

    def finished(frame: Frame) -> dict[str, Tensor]:
        image = resized(frame.render()["image"], (photo.shape[2], photo.shape[3])).clamp(-1, 1)
        return {"image": (photo + image - grey(photo)).clamp(-1, 1).expand(-1, 3, -1, -1) if keep_color else image}

    for index, frame in enumerate(paint(canvas, seed, chosen.ema, str(where)), 1):
        if progress:
            progress(index, canvas.steps, _status(frame, canvas))
        yield replace(frame, render=functools.partial(finished, frame))


@shows_progress
def stylize(
    content: Any,
    styles: Any = (),
    size: int | None = None,
    recipe: str | Recipe = "fast",
    net: Source | None = None,
    blend: Sequence[float] | None = None,
    mask: Any = None,
    keep_color: bool = False,
    strength: float = 1.0,
    memory: float = 4.0,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[int, int, str], None] | None = None,
    watch: Callable[[Frame], None] | None = None,
    **options: Any,
) -> Images:
    """An image with the content of a photograph and the style of one or several paintings.

    Args:
        content: an image file, a Pillow image, or uint8 (H, W, C).
        styles: one such image, or a list; none for a run of style-net.
        size: longer side of the result in pixels; by default the photograph's own, at most 512 without a run.
        recipe: "fast" (coarse to fine, L-BFGS), "plain" (one size, SGD with a decaying rate), or a ``Recipe``.
        net: vgg19 or vgg16; by default vgg19 where its weights are cached. Or a run of style-net or adain, or such a
            model, which paints in one pass.
        blend: share of each style; equal by default.
        mask: regions of the styles: an image whose white takes the first style and whose black the second, or a list
            of images, one for each style, white inside.
        keep_color: only the brightness is stylised; the colours stay the photograph's.
        strength: of a run of adain: 0 reconstructs the photograph, 1 paints it.
        memory: of all of it in GB; an image that takes more is computed tile by tile, with equal results.
        seed: of the noise, where the recipe starts from it.
        progress: called after each step, (done, total, description).
        watch: called with each step's frame.
        options: changes to the recipe: content_weight, style_weight, tv_weight, optimizer, steps ..., see ``Recipe``.
    Raises:
        UsageError: no image, an unknown recipe, network, layer or option, shares or masks of another number, options
            that a run does not have.
        ReverieError: a file that is no image, weights that cannot be fetched, or an image that diverged.
        Stopped: a KeyboardInterrupt after the first step; its ``result`` is the image so far.
    """
    if net is not None and is_run(net):
        refuse_slow({"mask": mask, "recipe": None if recipe == "fast" else recipe, "watch": watch, **options})
        net = net if isinstance(net, nn.Module) else load(net, device)
        return Painter(net, styles, blend, strength, keep_color=keep_color).paint(content, size)
    if strength != 1:
        raise UsageError(f"{argument('strength')} is for a run of adain: more {argument('content_weight')} is weaker.")
    if not callable(watch or print):
        raise UsageError(f"{argument('watch')} must be a function of a frame, not {watch!r:.80}.")
    chosen, name = recipe_of(recipe, options), network_of(None if net is None else str(net))
    arguments: dict[str, Any] = {"size": size, "blend": blend, "mask": mask, "keep_color": keep_color, "seed": seed}
    arguments["memory"] = memory
    requested = {"content": content, "styles": _listed(styles), **arguments, "recipe": recipe, "net": name, **options}
    plain = {key: plain_option(value) for key, value in requested.items() if value is not None}
    made_by, done, last = {"verb": "stylize", **plain}, 0, None
    frames = stream(content, styles, recipe=chosen, net=name, device=device, progress=progress, **arguments)
    try:
        for last in frames:
            done += 1
            if watch:
                watch(last)
    except KeyboardInterrupt:
        if last is None:
            raise
        made_by["stopped"] = f"step {done} of {round(done / last.progress)}"
        raise Stopped(_result(last, content, made_by)) from None
    assert last is not None  # a recipe has at least one step
    return _result(last, content, made_by)


def _result(frame: Frame, content: Any, made_by: dict[str, Any]) -> Images:
    image = frame.render()["image"]
    return to_images(image, alpha=open_alpha(content, image.shape[2:]), origin=made_by)


class Recorder:
    """Evenly spaced frames of a stream, for a film: ``stylize(..., watch=recorder)``.

    Args:
        count: frames at most.
        longest: side in pixels; larger frames are reduced.
    """

    def __init__(self, count: int = 48, longest: int = 360):
        self.count, self.longest, self.frames = count, longest, list[Tensor]()

    def __call__(self, frame: Frame) -> None:
        if frame.progress * self.count > len(self.frames):
            image = frame.render()["image"].cpu()
            self.frames.append(resized(image, _shape(image, min(self.longest, max(image.shape[2:])))))

    def save(self, path: Path, origin: Mapping[str, Any]) -> None:
        """Write the film (.webp, .gif, .mp4); the last frame stays for a second."""
        rows = to_images(torch.cat(self.frames)).array
        save_film(path, rows, seconds=4.0, hold=1.0, origin=dict(origin), lossless=False)
