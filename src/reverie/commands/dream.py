"""The verb that dreams."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from reverie.commands.shared import bar, note, report, target


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
    frames: int = 60,
    zoom: float = 1.05,
    seconds: float = 5.0,
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
        film: a zoom into the dream (.webp, .mp4, .gif).
        frames: of the film.
        zoom: enlargement from one frame of the film to the next.
        seconds: length of the film.
        seed: of the shifts.
        memory: of all of it in GB; an image that takes more is computed tile by tile, with equal results.
        device: auto, cpu, cuda, cuda:1, mps ...
        precision: arithmetic of the network.
        out: the image to write; by default the first free of dream.png, dream-2.png ..., and nothing beside a --film.
        overwrite: replace files that reverie did not write.
        json: print the result as JSON.
    """
    import numpy as np

    from reverie.dreaming.deepdream import dream as dreamed
    from reverie.media import montage
    from reverie.media.images import Images

    movie = target(film, "", overwrite, (".mp4",), "film", others=(image, guide)) if film else None
    path = target(out, "dream.png", overwrite, (), others=(image, guide, movie)) if out or not movie else None
    if movie:
        montage.check_seconds(seconds)
    rows: list[Images] = []

    def save() -> dict[str, Any]:
        if path:
            rows[0].save(path)
        if movie:
            images = np.concatenate([row.array for row in rows])
            montage.save_film(movie, images, seconds * len(rows) / frames, origin=rows[0].origin, lossless=False)
        written = {"out": str(path)} if path else {}
        return written | ({"film": str(movie), "frames": len(rows)} if movie else {})

    try:
        with bar(True) as progress:
            dreamed(
                image,
                net,
                layers,
                octaves,
                octave_scale,
                steps,
                loops,
                guide,
                size,
                lr,
                jitter,
                frames if movie else 1,
                zoom,
                seed,
                memory,
                device,
                precision,
                rows.append,
                progress,
            )
    except KeyboardInterrupt:
        if movie and rows:
            save()
            note(f"{len(rows)} of {frames} frames are in {movie}.")
        raise
    result = save()
    height, width = rows[0].shape[1:3]
    lines = [f"A dream of {width} x {height} pixels in {path}"] if path else []
    report(json, result | {"size": [height, width]}, *lines, *([f"{len(rows)} frames in {movie}"] if movie else []))
