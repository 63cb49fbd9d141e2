"""Verbs that judge."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from reverie.commands.shared import bar, dump, note, out

Number = Annotated[int | None, arg(aliases=["-n"])]


def evaluate(
    run: Positional[Annotated[str | None, arg(metavar="RUN")]] = None,
    /,
    metrics: str | None = None,
    number: Number = None,
    data: str | None = None,
    fake: str | None = None,
    real: str | None = None,
    backbone: Literal["small", "inception", "mobilenetv2", "dinov2"] | None = None,
    resize: Literal["tf1-bilinear", "bilinear", "bilinear-antialias", "bicubic-antialias"] | None = None,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    device: str = "auto",
    seed: int = 0,
    per_class: bool = False,
    size: str | None = None,
    sampler: str | None = None,
    steps: int | None = None,
    grid: str | None = None,
    guidance: float | None = None,
    classifier: Annotated[str | None, arg(metavar="RUN")] = None,
    autoguide: Annotated[str | None, arg(metavar="RUN")] = None,
    out_: Annotated[str | None, arg(name="out")] = None,
    json: bool = False,
) -> None:
    """Scores of a run's samples, or of two sets of pictures; each with its interval, its floor and its passport.

    Metrics: fid, fid-infinity, kid (Inception features, fetched once: see reverie weights); frechet, frechet-infinity,
    kernel, prdc (by --backbone); is, is-inception, is-probe; modes, stacked-modes; memorisation; nll, reconstruction,
    lpips. A number whose protocol is not met is refused, with the reason and what to ask for instead.

    The floor is the same number for real pictures in the place of the generated ones: no generator should beat it by
    much, and one that does may be copying.

    Examples: reverie evaluate runs/vae-fashion; reverie evaluate runs/vae-fashion --metrics fid,kid -n 10000;
    reverie evaluate --fake samples/ --real photos/ --metrics kid,prdc.

    Args:
        run: a run directory, or a checkpoint inside one.
        metrics: names with commas between; by default all that apply and need no download.
        number: how many pictures to draw; 2000, or 5000 where fid is asked for. Of --fake: at most so many.
        data: real pictures other than the run's own.
        fake: pictures that anything drew (a folder, FILE.npz, ...), instead of a run.
        real: what to compare them with.
        backbone: the network that looks; small, or inception where fid, fid-infinity or kid is asked for.
        resize: how pictures are brought to its size; by default its own way (for fid that of the original).
        precision: auto is bf16 where the hardware multiplies it and the network's distances bear it.
        device: auto, cpu, cuda, mps.
        seed: the first picture's seed.
        per_class: distances also class by class.
        size: side in pixels at which --fake and --real are compared; by default that of --fake.
        sampler: how a diffusion run samples, as in reverie sample; stands in the passport.
        steps: likewise.
        grid: likewise.
        guidance: likewise.
        classifier: likewise.
        autoguide: likewise.
        out_: folder for scores.json, scores.png and closest.png; RUN/evaluation by default, or evaluation/ without RUN.
        json: print {"scores": [...], "refused": [...]}.
    """
    from reverie.core import distributed
    from reverie.evaluation import evaluate as judge

    out_ = out_ or ("evaluation" if run is None else None)
    options: dict[str, Any] = {"sampler": sampler, "steps": steps, "grid": grid, "guidance": guidance}
    options |= {"classifier": classifier, "autoguide": autoguide}
    asked = [name.strip() for name in metrics.split(",") if name.strip()] if metrics else None
    with distributed.group(), bar(distributed.rank() == 0) as progress:
        found = judge(
            *(run, asked, number, data, fake, real, backbone, resize, precision, device, seed, per_class, size, out_),
            progress=progress,
            **options,
        )
        if distributed.rank():
            return
    if json:
        dump(found.summary())
        return
    _table(found)
    for remark in found.remarks:
        out(remark)
    for refusal in found.refused:
        out(f"Refused: {refusal.metric}. {refusal.reason} {refusal.instead}")
    if found.folder and found.scores:
        note(f"Next: look at {found.folder}/scores.png; every number's passport is in {found.folder}/scores.json.")


def _table(found) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("metric", "value", "95 % interval", "real pictures", ""):
        table.add_column(name, justify="left" if name in ("metric", "") else "right", no_wrap=True)
    for score in found.scores:
        interval = "" if score.low is None or score.high is None else f"{score.low:.4g} ... {score.high:.4g}"
        floor = "" if score.floor is None else f"{score.floor:.4g}"
        table.add_row(score.metric, f"{score.value:.4g}", interval, floor, f"{score.passport['better']} is better")
    if found.scores:
        Console(width=max(100, Console().width)).print(table)
        first = found.scores[0].passport
        fake, real = first["fake"], first["reference"]
        size = real["size"] if isinstance(real["size"], int) else "x".join(map(str, real["size"]))
        against = f"{real['n']:,} of {real['data']} ({real['split']}), {size} px"
        out(f"{fake['n']:,} generated pictures against {against}.")
