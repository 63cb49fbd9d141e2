"""The verb that restores degraded images."""

from __future__ import annotations

from typing import Annotated, Any

from tyro.conf import Positional, arg

from reverie.commands.shared import ImageNames, RunName, bar, load, report, target
from reverie.core.terminal import count


def restore(
    run: RunName,
    task: Positional[Annotated[str, arg(metavar="TASK")]],
    images: ImageNames = (),
    /,
    mask: str | None = None,
    scale: int | None = None,
    noise: float | None = None,
    degraded: bool | None = None,
    samples: int = 1,
    seed: int = 0,
    label: tuple[str, ...] = (),
    text: tuple[str, ...] = (),
    steps: int = 50,
    number: Annotated[int, arg(aliases=["-n"])] = 8,
    out: str | None = None,
    stream: Annotated[str | None, arg(metavar="FILE")] = None,
    data: str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Restore degraded images: the observation, below it each restoration, below that the truth where it is known.

    Args:
        run: a run directory of a diffusion, energy or autoregressive model of images or of a denoising-autoencoder, or
            a checkpoint inside one.
        task: denoise, inpaint, super-resolution or colorize; complete of an energy or autoregressive model or
            one of tokens.
        images: image files, held-out:N or other references; none means the first held-out images.
        mask: of inpaint and complete, what is missing: left-half, right-half, top-half, bottom-half, center,
            random:0.5, data (what the mask of each image of the run's data marks), or an image file (white is
            missing); by default center, or bottom-half of a model that draws row by row, which ignores known pixels
            after missing ones.
        scale: of super-resolution: pixels of a side that one pixel of the observation stands for; 2 by default.
        noise: standard deviation of the observation's noise, on images that span 2; 0.5 for denoise, else 0. Only of a
            diffusion model.
        degraded: the images are degraded already; by default files of denoise are, all others are degraded first.
        samples: restorations of each image.
        seed: of the first image: image i is restored as it is alone with seed + i.
        label: a class for a model of classes; several take turns.
        text: a caption for a model of captions; several take turns.
        steps: of a diffusion model's sampler, or sweeps of an rbm's or dbn's Markov chain.
        number: how many held-out images.
        out: the sheet to write (.png ...), or X.npz for arrays; by default the first free of restored.png,
            restored-2.png ..., and nothing beside a --stream.
        stream: the restorations while they appear: a film (.webp, .gif, .mp4), or a strip (.png ...). An autoregressive
            model draws row by row; of a diffusion model it is the estimate of each step.
        data: where the run's data is now, if it has moved.
        overwrite: replace a file that reverie did not write.
        json: print the result as JSON.
    """
    from reverie.restoration.tasks import restore as restored
    from reverie.restoration.tasks import save_restoration
    from reverie.views.denoising import states_in

    film = target(stream, "", overwrite, (".mp4",), "stream", others=(*images, mask)) if stream else None
    path = None
    if out or not film:
        path = target(out, "restored.png", overwrite, others=(*images, mask, film))
    model = load(run, data)
    options: dict[str, Any] = {
        "images": list(images),
        "task": task,
        "mask": mask,
        "scale": scale,
        "noise": noise,
        "degraded": degraded,
        "samples": samples,
        "seed": seed,
        "label": list(label) or None,
        "text": list(text) or None,
        "steps": steps,
        "n": number,
    }
    result: dict[str, Any] = {"samples": samples, "weights": model.loaded_from}
    lines = []
    if film:
        result |= {"stream": str(film), "frames": save_restoration(film, model, **options)}
        lines.append(f"{states_in(film, result['frames'])} of restoration in {film}")
    if path:
        with bar(True) as progress:
            sheet = restored(model, **options, progress=progress)
        sheet.save(path)
        result |= {"out": str(path), "number": len(sheet), "rows": list(sheet.rows)}
        many = f"{count(len(sheet), 'image')}, {count(samples, 'restoration')} of each"
        lines.append(f"{many}, in {path} (rows: {', '.join(sheet.rows)})")
    report(json, result, *lines)
