"""The verb that dreams."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from reverie.commands.shared import bar, name_weights, report, target
from reverie.core.errors import Stopped, UsageError, argument


def dream(
    image: Positional[Annotated[str, arg(metavar="IMAGE")]],
    /,
    net: str = "inception",
    layers: str | None = None,
    octaves: int = 4,
    octave_scale: float = 1.4,
    steps: int = 15,
    loops: int = 1,
    guide: str | None = None,
    size: int | None = None,
    lr: float = 0.012,
    jitter: int = 32,
    film: Annotated[str | None, arg(metavar="FILE")] = None,
    frames: int | None = None,
    zoom: float | None = None,
    seconds: float | None = None,
    seed: int = 0,
    memory: float = 4.0,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    out: str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """DeepDream: an image in which a network sees more of what it sees in it, at its own size.

    Examples: reverie dream cat.jpg; reverie dream cat.jpg --net vgg16 --layers relu3_3; reverie dream cat.jpg --guide
    flowers.jpg; reverie dream cat.jpg --film zoom.webp --frames 100.

    Args:
        image: an image file.
        net: a pretrained network (inception, vgg16, resnet50 ...), or a run with a network that looks at images.
        layers: what rises, with weights: mixed3=1,mixed4=0.5. Early layers give strokes, later ones textures, the
            last ones parts of animals and buildings. By default those that suit the network.
        octaves: sizes of the image, of which the last is its own.
        octave_scale: ratio of one size to the one before.
        steps: of each octave.
        loops: how often; the dream is the photograph of the next loop.
        guide: an image file whose features the dream is drawn to.
        size: of the longer side in pixels; by default the image's own.
        lr: mean change of a pixel in a step, on images that span 2.
        jitter: pixels by which a step shifts the image at most, at random.
        film: a zoom into the dream (.webp, .mp4, .gif); images of less than 110 pixels are enlarged for it.
        frames: of the film; 60 by default.
        zoom: enlargement from one frame of the film to the next; 1.05 by default.
        seconds: length of the film; 5 by default.
        seed: of the shifts.
        memory: of all of it in GB; an image that takes more is computed tile by tile, with equal results.
        device: auto, cpu, cuda, cuda:1, mps ...
        precision: arithmetic of the network.
        out: the image to write; by default the first free of dream.png, dream-2.png ..., and nothing beside a --film.
        overwrite: replace files that reverie did not write.
        json: print the result as JSON.
    """
    from reverie.core.card import weights_of
    from reverie.dreaming.deepdream import dream as dreamed
    from reverie.inference.features import features_of
    from reverie.media import montage
    from reverie.media.images import Images
    from reverie.pretrained.networks import NETWORKS

    movie = target(film, "", overwrite, (".mp4",), "film", others=(image, guide)) if film else None
    path = target(out, "dream.png", overwrite, (), others=(image, guide, movie)) if out or not movie else None
    of_film = {"frames": frames, "zoom": zoom, "seconds": seconds}
    if not movie and (odd := [name for name, value in of_film.items() if value is not None]):
        raise UsageError(f"{argument(odd[0])} is for a film: name its file, {argument('film', 'zoom.webp')}.")
    number, length = 60 if frames is None else frames, 5.0 if seconds is None else seconds
    montage.check_seconds(length)

    network: Any = net
    if net not in NETWORKS:  # weights of a run are named before the work
        network = features_of(net, device, precision=precision)
        if weights := weights_of(network.network):
            name_weights(weights)
    stop = None
    try:
        with bar(True) as progress:
            images = dreamed(
                image,
                network,
                layers,
                octaves,
                octave_scale,
                steps,
                loops,
                guide,
                size,
                lr,
                jitter,
                number if movie else 1,
                1.05 if zoom is None else zoom,
                seed,
                memory,
                device,
                precision,
                progress,
            )
    except Stopped as error:
        images, stop = error.result, error
    result: dict[str, Any] = {"size": [*images.shape[1:3]], "weights": images.origin.get("weights")}
    result |= {"stopped": images.origin["stopped"]} if stop else {}
    lines = [f"Stopped at {result['stopped']}. What there is:"] if stop else []
    if path:
        Images(images.array[:1], origin=images.origin, bare=True).save(path)
        result["out"] = str(path)
        lines.append(f"A dream of {images.shape[2]} x {images.shape[1]} pixels in {path}")
    if movie:
        share, scale = len(images) / number, montage.film_scale(*images.shape[1:3])
        montage.save_film(movie, images.array, length * share, origin=images.origin, lossless=False)
        result |= {"film": str(movie), "frames": len(images), "scale": scale}
        count = f"{len(images)} of {number}" if stop else str(number)
        lines.append(f"{count} frames in {movie}" + f", enlarged {scale} times" * (scale > 1))
    report(json, result, *lines)
    if stop:
        raise stop
