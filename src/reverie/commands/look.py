"""Verbs that look inside a run: its views."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from reverie.commands.shared import ImageNames, RunName, load, report, target
from reverie.core.errors import UsageError
from reverie.core.terminal import count

Number = Annotated[int, arg(aliases=["-n"])]


def view(
    run: RunName,
    name: Positional[Annotated[str | None, arg(metavar="[VIEW]")]] = None,
    /,
    out_: Annotated[str | None, arg(name="out")] = None,
    number: Annotated[int | None, arg(aliases=["-n"])] = None,
    data: str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """One view of a run as an image: samples, reconstructions, latent-map, traversal, mixing, trajectory, forward.

    Without VIEW: the views that the run has.

    Args:
        run: a run directory, or a checkpoint inside one.
        name: of the view.
        out_: the image to write; by default the first free of VIEW.png, VIEW-2.png ...
        number: how many images it shows.
        data: where the run's data is now, if it has moved.
        overwrite: replace a file that reverie did not write.
        json: print the result as JSON.
    """
    from reverie.views import VIEWS
    from reverie.views.show import list_views
    from reverie.views.show import view as show

    path = target(out_, f"{name}.png", overwrite) if name else None
    model = load(run, data)
    if name is None or path is None:
        rows = {each: (VIEWS[each].renderer().__doc__ or "").splitlines()[0] for each in list_views(model)}
        report(json, {"views": list(rows)}, *(f"{each:16} {line}" for each, line in rows.items()))
        return
    show(model, name, number).save(path, scale=1)
    report(json, {"out": str(path), "view": name, "weights": model.loaded_from}, f"{name} in {path}")


def forward(
    run: RunName,
    images: ImageNames = (),
    /,
    out: str | None = None,
    number: Number = 4,
    columns: int = 9,
    plot: Annotated[str | None, arg(metavar="FILE")] = None,
    data: str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """The forward process of a diffusion model: images under ever more noise of its own schedule, a row each.

    Args:
        run: a run directory of a diffusion model, or a checkpoint inside one.
        images: image files or other references; none means the first held-out images of the run's data.
        out: the image to write, by default the first free of forward.png, forward-2.png ...; time runs evenly from
            left (0, the image) to right (1, noise).
        number: how many held-out images.
        columns: how many times.
        plot: also plot the schedule: alpha, sigma and the log signal-to-noise ratio over time, the noise levels of
            sampling, and the distribution of training's times.
        data: where the run's data is now, if it has moved.
        overwrite: replace files that reverie did not write.
        json: print the result as JSON.
    """
    from reverie.media import montage, plots
    from reverie.views.denoising import schedule_plot
    from reverie.views.show import forward as noised

    path, plot_path = target(out, "forward.png", overwrite, (), others=images), None
    if plot:
        plots.check_plot(Path(plot))
        plot_path = target(plot, "", overwrite, (Path(plot).suffix.lower(),), "plot", others=(path, *images))
    model, references = load(run, data), list(images) or None
    sheet = noised(model, references, number, columns)
    montage.save(path, sheet.array[0], sheet.origin)
    if plot_path:
        schedule_plot(model, plot_path)
    number = sheet.origin["number"]
    result = {"out": str(path), "number": number, "columns": columns, "plot": plot, "weights": model.loaded_from}
    report(json, result, f"{count(number, 'image')} under noise in {path}" + (f", {plot}" if plot else ""))


def reconstruct(
    run: RunName,
    images: ImageNames = (),
    /,
    out: str | None = None,
    number: Number = 32,
    data: str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Images, and below each its reconstruction (of a denoising model also the corrupted input between).

    Args:
        run: a run directory, or a checkpoint inside one.
        images: image files or other references; none means the first held-out images of the run's data.
        out: the sheet to write (.png ...), or X.npz for arrays: "image", "reconstruction" and, of a denoising model,
            "corrupted"; by default the first free of reconstructions.png, reconstructions-2.png ...
        number: how many held-out images.
        data: where the run's data is now, if it has moved.
        overwrite: replace a file that reverie did not write.
        json: print the result as JSON.
    """
    from reverie.inference.verbs import reconstruct as reconstructed

    path, model = target(out, "reconstructions.png", overwrite, others=images), load(run, data)
    sheet = reconstructed(model, list(images), number)
    sheet.save(path)
    spec = sheet["image"].spec
    difference = (sheet["image"].array.astype(float) - sheet["reconstruction"].array) / ((spec.high - spec.low) / 2)
    mse = float((difference**2).mean())
    result = {"out": str(path), "number": len(sheet), "mse": mse, "weights": model.loaded_from}
    report(json, result, f"{count(len(sheet), 'reconstruction')} in {path} (MSE {mse:.4f}, {spec.medium}s span 2)")


def traverse(
    run: RunName,
    /,
    image: str | None = None,
    latents: int = 10,
    columns: int = 11,
    reach: float = 3.0,
    out: str | None = None,
    data: str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Move one latent at a time, a row each, those first that vary most from image to image.

    Args:
        run: a run directory, or a checkpoint inside one.
        image: the image to start from, as in interpolate; by default the mean of the latent space.
        latents: how many rows.
        columns: images in a row.
        reach: how far to each side, in standard deviations of that latent over held-out images.
        out: the sheet to write (.png ...; of volumes their central slices); .npz is the array, row by row; by default
            the first free of traverse.png, traverse-2.png ...
        data: where the run's data is now, if it has moved.
        overwrite: replace a file that reverie did not write.
        json: print the result as JSON.
    """
    from reverie.views.show import traverse as walk

    path, model = target(out, "traverse.png", overwrite, others=(image,)), load(run, data)
    images = walk(model, image, latents, columns, reach)
    images.save(path)
    chosen = images.origin["latents"]
    result = {"out": str(path), "latents": chosen, "weights": model.loaded_from}
    report(json, result, f"Latents {', '.join(map(str, chosen))}, a row each, in {path}")


def mix(
    run: RunName,
    /,
    rows: int = 5,
    columns: int = 8,
    seed: int = 0,
    cut: int | None = None,
    out: str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Style mixing of a StyleGAN: each row has one image's coarse styles (layout), each column another's fine ones.

    Args:
        run: a run directory of stylegan2 or stylegan, or a checkpoint inside one.
        rows: images that lend their coarse styles, shown on the left.
        columns: images that lend their fine styles, shown above.
        seed: the first image's seed; those of the columns come first.
        cut: the first layer that has the fine style; by default the middle one.
        out: the image to write; by default the first free of mixed.png, mixed-2.png ...
        overwrite: replace a file that reverie did not write.
        json: print the result as JSON.
    """
    from reverie.views.show import mix as mixed

    path, model = target(out, "mixed.png", overwrite), load(run)
    mixed(model, rows, columns, seed, cut).save(path)
    report(json, {"out": str(path), "weights": model.loaded_from}, f"{rows} x {columns} mixtures in {path}")


def interpolate(
    run: RunName,
    a: Positional[Annotated[str, arg(metavar="A")]],
    b: Positional[Annotated[str, arg(metavar="B")]],
    /,
    frames: int = 60,
    out: str | None = None,
    path: str = "auto",
    space: str | None = None,
    seconds: float = 3.0,
    data: str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """A morph from image A to image B through a latent space.

    Args:
        run: a run directory, or a checkpoint inside one.
        a: an image file, held-out:N, train:N, seed:N, a class ("Sneaker") or a caption of the run's data ("red heart");
            of a model that does not encode, such as a GAN, seed:N or a class.
        b: likewise.
        frames: how many images, both ends included.
        out: .webp, .gif and .mp4 are films (mp4: the video extra; of volumes their central slices), .npz is the array,
            a folder gets a file for each; endings of images are a strip; by default the first free of morph.webp,
            morph-2.webp ...
        path: lerp (straight line), slerp (great circle), or auto: a great circle between noises, else a line.
        space: latent space of the model, such as noise (of diffusion, found by inversion), z, w.
        seconds: length of the film, up to 600.
        data: where the run's data is now, if it has moved.
        overwrite: replace a file that reverie did not write.
        json: print the result as JSON.
    """
    from reverie.editing.walks import interpolate as morph
    from reverie.inference.load import spec_of
    from reverie.media.sheets import check_film

    if not 0 < seconds <= 600:
        raise UsageError(f"--seconds must be above 0 and at most 600, not {seconds:g}.")
    file = target(out, "morph.webp", overwrite, ("", ".npz", ".mp4"), verb="interpolate", others=(a, b))
    model = load(run, data)
    check_film(file, spec_of(model))
    morph(model, a, b, frames, path, space).save(file, seconds=seconds)  # type: ignore[arg-type]
    result = {"out": str(file), "frames": frames, "weights": model.loaded_from}
    report(json, result, f"A morph of {count(frames, 'frame')} in {file}")
