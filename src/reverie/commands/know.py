"""Verbs that list models and weights, and diagnose runs."""

from __future__ import annotations

from typing import Annotated, Any

from tyro.conf import Positional, arg

from reverie.commands.shared import RunName, bar, dump, note, out, table
from reverie.core.errors import ReverieError


def models(pattern: Positional[Annotated[str, arg(metavar="[PATTERN]")]] = "*", /, json: bool = False) -> None:
    """Every model: its system, how it treats p(x), what it can do, and its paper.

    Args:
        pattern: of names, such as "*gan*".
        json: print a list of {"name", "system", "taxonomy", "verbs", "paper"}.
    """
    from reverie.core.registry import entry, list_models, where
    from reverie.core.verbs import USED

    rows = [
        {"name": name, "system": e.title, "taxonomy": e.taxonomy, "verbs": e.verbs, "paper": e.paper}
        for name, e in ((name, entry(name)) for name in where(lambda e: bool(e.kind())))
        if name in list_models(pattern)
    ]
    if json:
        dump(rows)
        return
    for row in rows:
        able = [verb for verb in row["verbs"] if verb in USED]
        lines = [f"{row['system']}{'; ' * bool(row['taxonomy'])}{row['taxonomy']}"]
        lines += ["can " + ", ".join(able) if able else "is an auxiliary model", str(row["paper"])]
        out(*(f"{name:24} {line}" for name, line in zip((row["name"], "", ""), lines, strict=True) if line))
    out("Next: reverie train NAME --help")


def doctor(run: RunName, /, json: bool = False) -> None:
    """Problems of a GAN's training, and what to do: collapse, overfitting, vanishing gradients, divergence.

    A run in training reports them by itself; this reads the log of any run again.

    Args:
        run: a run directory.
        json: print {"findings": [{"kind", "step", "message", "advice"}], "past", "checks"}.
    """
    from dataclasses import asdict

    from reverie.training.doctor import doctor as diagnose

    diagnosis = diagnose(run)
    if json:
        checks = [dict(zip(("measure", "value", "limit", "verdict"), row, strict=True)) for row in diagnosis.rows()]
        dump(
            {"findings": [asdict(finding) for finding in diagnosis.findings], "past": diagnosis.past, "checks": checks}
        )
        return
    table(("measure", "value", "limit", "verdict"), diagnosis.rows())
    for finding in diagnosis.findings:
        out(f"{finding}")
    for past in diagnosis.past:
        out(f"Passed: {past['kind']} at step {past['step']} ({past['message']})")
    if not diagnosis.findings:
        out(diagnosis.summary)


def weights(
    names: Positional[Annotated[tuple[str, ...], arg(metavar="[NAME ...]")]] = (),
    /,
    fetch: bool = False,
    verify: bool = False,
    json: bool = False,
) -> None:
    """Pretrained networks: which are here, what they serve for, where they come from and under which licence.

    Args:
        names: the networks; by default all.
        fetch: get those that are not here. One that fails does not stop the others; the exit code is then 1.
        verify: exit with 1 where a file that is here is damaged. (Every file is compared with its sha256 in any case.)
        json: print a list of {"name", "state", "file", "bytes", "title", "serves", "licence", "paper", "sources"}.
    """
    from reverie.pretrained.weights import NETWORKS, cache, load, state

    files = {name: cache(name) for name in names or NETWORKS}  # refuses an unknown name before any work
    failed = []
    if fetch:
        for name in files:
            try:
                with bar(True) as progress:
                    load(name, progress)
            except ReverieError as error:
                note(*error.args)
                failed.append(name)
    rows: list[dict[str, Any]] = [
        {"name": name, "state": state(name), "file": str(file), "bytes": NETWORKS[name].size}
        | {what: getattr(NETWORKS[name], what) for what in ("title", "serves", "licence", "paper")}
        | {"sources": [file.label for file in NETWORKS[name].files]}
        for name, file in files.items()
    ]
    if json:
        dump(rows)
    for row in [] if json else rows:
        out(
            f"{row['name']:18} {row['state']}, {row['bytes'] / 1e6:.3g} MB: {row['title']}",
            f"{'':18} for {row['serves']}",
            f"{'':18} from {', then '.join(row['sources']) or 'this package'}",
            f"{'':18} {row['licence']}; {row['paper']}",
        )
    damaged = [row["name"] for row in rows if row["state"] == "damaged"]
    if failed:
        raise ReverieError(f"Not fetched: {', '.join(failed)}. The others are unaffected.")
    if verify and damaged:
        named = " ".join(damaged)
        raise ReverieError(f"Damaged: {named}. Get them again: reverie weights {named} --fetch")
    if not json and any(row["state"] != "here" for row in rows):
        out("Next: reverie weights NAME --fetch")
