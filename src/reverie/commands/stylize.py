"""The verb of style transfer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from reverie.commands.shared import bar, report, target
from reverie.commands.stylize_run import by_run


def stylize(
    content: Positional[Annotated[str, arg(metavar="CONTENT")]],
    styles: Positional[Annotated[tuple[str, ...], arg(metavar="[STYLE ...]")]] = (),
    /,
    size: int | None = None,
    recipe: Literal["fast", "plain"] = "fast",
    net: str | None = None,
    blend: tuple[float, ...] = (),
    mask: tuple[str, ...] = (),
    keep_color: bool = False,
    strength: float = 1.0,
    content_weight: float | None = None,
    style_weight: float | None = None,
    tv_weight: float | None = None,
    style_scale: float | None = None,
    content_layer: str | None = None,
    optimizer: Literal["lbfgs", "adam", "sgd"] | None = None,
    lr: float | None = None,
    steps: int | None = None,
    start: Literal["content", "noise"] | None = None,
    pooling: Literal["max", "average", "l2"] | None = None,
    precision: Literal["auto", "fp32", "bf16"] | None = None,
    memory: float = 4.0,
    device: str = "auto",
    seed: int = 0,
    out: str | None = None,
    film: Annotated[str | None, arg(metavar="FILE")] = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Paint a photograph in the style of a painting, or of several.

    Examples: reverie stylize photo.jpg painting.jpg; reverie stylize photo.jpg a.jpg b.jpg --blend 0.7 0.3; reverie
    stylize photo.jpg a.jpg b.jpg --mask sky.png; reverie stylize photo.jpg painting.jpg --keep-color; reverie stylize
    photos/ --net runs/starry --out painted/.

    Args:
        content: an image file; with a run as --net also a folder of them, or a film (.gif, .webp, .mp4).
        styles: image files; none for a run of style-net.
        size: longer side of the result in pixels; by default the photograph's own, at most 512 without a run.
        recipe: fast (coarse to fine, L-BFGS), or plain (one size, SGD with a decaying rate, as in courses).
        net: vgg19 or vgg16; by default vgg19 where its weights are cached. Or a run of style-net or adain, which paints
            in one pass.
        blend: share of each style; equal by default.
        mask: regions of the styles: an image whose white takes the first style and whose black the second, or an image
            for each style, white inside.
        keep_color: only the brightness is stylised; the colours stay the photograph's.
        strength: of a run of adain: 0 reconstructs the photograph, 1 paints it.
        content_weight: more keeps more of the photograph; 0.015 in the fast recipe.
        style_weight: of the style's loss; 1 in the fast recipe.
        tv_weight: of the total variation: more is smoother; 0.5 in the fast recipe.
        style_scale: longer side of the style over that of the result: below 1 for finer strokes.
        content_layer: of the network, such as relu4_2 or block5_conv2.
        optimizer: in the place of the recipe's.
        lr: of the optimiser; 1 for lbfgs, 0.04 for adam, 0.0015 for sgd.
        steps: at the largest size, in the place of the recipe's.
        start: from the photograph, or from noise.
        pooling: of the network.
        precision: arithmetic of the network.
        memory: of all of it in GB; an image that takes more is computed tile by tile, with equal results.
        device: auto, cpu, cuda ...
        seed: of the noise of --start noise.
        out: the image to write (.png ...), of a folder a folder, of a film a film; by default the first free of
            stylized.png, stylized-2.png ...
        film: a film of the steps (.webp, .gif, .mp4).
        overwrite: replace a file that reverie did not write, or a folder of other options.
        json: print the result as JSON.
    """
    from reverie.core.errors import Stopped
    from reverie.dreaming.fast_style import is_run
    from reverie.dreaming.style import Recorder, check_inputs, network_of
    from reverie.dreaming.style import stylize as stylized

    changes: dict[str, Any] = {
        "content_weight": content_weight,
        "style_weight": style_weight,
        "tv_weight": tv_weight,
        "style_scale": style_scale,
        "content_layer": content_layer,
        "optimizer": optimizer,
        "lr": lr,
        "steps": steps,
        "start": start,
        "pooling": pooling,
        "precision": precision,
    }
    if net is not None and is_run(net):
        others = {"mask": mask, "film": film, "recipe": None if recipe == "fast" else recipe, **changes}
        by_run(content, styles, net, size, others, blend, strength, keep_color, device, out, overwrite, json)
        return
    check_inputs(content, styles)
    inputs = (content, *styles, *mask)
    path = target(out, "stylized.png", overwrite, others=inputs)
    film_path = target(film, "", overwrite, (".mp4",), "film", others=(*inputs, path)) if film else None
    recorder, name, stop = Recorder(), network_of(net), None
    try:
        with bar(True) as progress:
            image = stylized(
                content,
                list(styles),
                size=size,
                recipe=recipe,
                net=name,
                blend=blend or None,
                mask=list(mask) or None,
                keep_color=keep_color,
                strength=strength,
                memory=memory,
                seed=seed,
                device=device,
                progress=progress,
                watch=recorder if film else None,
                **changes,
            )
    except Stopped as error:
        stop, image = error, error.result
    image.save(path)
    if film_path and recorder.frames:
        recorder.save(film_path, image.origin)
    height, width = image.shape[1:3]
    result: dict[str, Any] = {"out": str(path), "width": width, "height": height, "net": name, "film": film}
    result |= {"stopped": image.origin["stopped"]} if stop else {}
    lines = [f"Stopped at {result['stopped']}. What there is:"] if stop else []
    lines.append(f"{width} x {height} pixels, in the style of {', '.join(styles)} by {name}, in {path}")
    report(json, result, *lines)
    if stop:
        raise stop
