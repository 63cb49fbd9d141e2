"""The verb that shows what the filters of a network respond to."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from reverie.commands.shared import bar, dump, name_weights, note, report, table, target
from reverie.core.errors import Stopped, UsageError, argument

if TYPE_CHECKING:
    from reverie.media.images import Images
    from reverie.nets.features import Features


def filters(
    network: Positional[Annotated[str, arg(metavar="NET|RUN")]],
    layer: Positional[Annotated[str | None, arg(metavar="[LAYER]")]] = None,
    /,
    channel: tuple[int, ...] = (),
    all: bool = False,
    page: Annotated[str | None, arg(metavar="FILE")] = None,
    weights: bool = False,
    steps: int | None = None,
    size: int | None = None,
    image: Literal["fourier", "pixels", "phase"] | None = None,
    objective: Literal["channel", "unit"] | None = None,
    seed: int | None = None,
    out: str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """What the filters of a network respond to: images that raise their activation, from noise. Without LAYER, the
    layers that there are.

    Examples: reverie filters vgg16; reverie filters vgg16 relu4_1 --out f.png; reverie filters RUN body.2 --all;
    reverie filters RUN --page page.png; reverie filters runs/rbm-fashion --weights.

    Args:
        network: a pretrained network (vgg16 ...), a run, or a checkpoint inside one. Of a run it is the network that
            looks at images: discriminator, encoder, denoiser, or the generator of a translator.
        layer: one of its layers.
        channel: filters of the layer, from 0; by default 16 of them, evenly spaced.
        all: every filter of the layer.
        page: instead, the sheet to write with 8 filters of each of several layers.
        weights: instead, the weights of 100 units of a layer that is linear in the image (the hidden units of an rbm,
            the first layer of a dense autoencoder; by default the first such layer), grey being 0.
        steps: of gradient ascent; by default 96.
        size: side of the images in pixels; by default the run's own, or enough for the layer.
        image: what is trained: fourier (coefficients, smooth, with natural colours; the default), pixels, or phase
            (amplitudes as in photographs).
        objective: channel (the mean activation over the image; the default) or unit (at its centre).
        seed: of the noise and the transformations; by default 0.
        out: the sheet to write (.png ...), or X.npz for arrays; by default the first free of filters.png,
            filters-2.png ...
        overwrite: replace a file that reverie did not write.
        json: print the result as JSON.
    """
    from reverie.core.card import weights_of
    from reverie.dreaming import filters as dreaming
    from reverie.dreaming.receptive import receptive_fields
    from reverie.inference.features import features_of

    if sum((bool(channel), all, bool(page))) > 1 or (page and (layer or out)):
        raise UsageError(
            f"Take LAYER, LAYER with {argument('channel')} or {argument('all')}, or {argument('page')} alone."
        )
    if weights and page:
        raise UsageError(f"Take {argument('weights')} or {argument('page')}.")
    ascent = {"steps": steps, "size": size, "image": image, "objective": objective, "seed": seed}
    options: dict[str, Any] = {name: value for name, value in ascent.items() if value is not None}
    if weights and options:
        raise UsageError(f"{argument(next(iter(options)))} is of gradient ascent: {argument('weights')} takes none.")
    if layer is None and not weights and not page and (channel or all or out or options):
        raise UsageError(f"Name the layer: `reverie filters {network}` lists them.")
    path = target(page or out, "filters.png", overwrite) if layer or page or weights else None
    with bar(True) as progress:
        features = features_of(network, progress=progress)
    if loaded := weights_of(features.network):
        name_weights(loaded)
    result: dict[str, Any] = {"network": features.name, "weights": loaded}
    if path is None:
        layers = {name: entry._asdict() for name, entry in (features.layers if json else features.main_layers).items()}
        if json:
            dump(result | {"layers": layers, "aliases": features.aliases})
        else:
            _list(features, layers)
        return
    if weights:
        fields = receptive_fields(features, layer, "all" if all else channel or None)
        fields.save(path)
        layer = str(fields.origin["layer"])
        report(
            json, result | {"out": str(path), "layer": layer}, f"weights of {len(fields)} units of {layer}, in {path}"
        )
        return
    if image:
        options["parametrisation"] = options.pop("image")
    stop = None
    try:
        with bar(True) as progress:
            options["progress"] = progress
            if layer is None:
                images: Any = dreaming.filter_page(features, **options)
            else:
                images = dreaming.filters(features, layer, "all" if all else channel or None, **options)
    except Stopped as error:
        images, stop = error.result, error
    images.save(path)
    rows = {layer: images} if layer else images.rows
    measured = {name: dict(row.conditions) for name, row in rows.items()}
    where = f"as of {images.origin['stopped']} in {path}" if stop else f"in {path}"
    result |= {"stopped": images.origin["stopped"]} if stop else {}
    report(json, result | {"out": str(path), "layers": measured}, *map(_summary, measured, rows.values()), where)
    if stop:
        raise stop


def _list(features: Features, layers: Mapping[str, Mapping[str, int]]) -> None:
    """A table of layers with their other names, and what to do next."""
    numbers = ("channels", "stride")
    rows = [(name, *map(str, entry.values()), ", ".join(features.other_names(name))) for name, entry in layers.items()]
    columns = ("layer", *numbers, "also") if any(row[-1] for row in rows) else ("layer", *numbers)
    table(columns, [row[: len(columns)] for row in rows], right=numbers)
    note("Name a layer for 16 of its filters, or --page FILE for some of each stride. --json has the layers within.")


def _summary(layer: str, images: Images) -> str:
    from reverie.dreaming.filters import is_dead

    numbers, noise, activations = (images.conditions[name] for name in ("channels", "noise", "activations"))
    before, after = statistics.median(noise), statistics.median(activations)
    dead = [str(n) for n, a, b in zip(numbers, noise, activations, strict=True) if is_dead(a, b)]
    times = f" ({after / before:.3g} times)" if before > 0 else ""
    text = (
        f"{layer}: median activation of {len(numbers)} filters {before:.3g} in noise, {after:.3g} in the images{times}"
    )
    return f"{text}; dead: {', '.join(dead)}" if dead else text
