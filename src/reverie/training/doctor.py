"""Diagnosis of a GAN's training from its log: measures with limits, a verdict for each, and advice.

A GAN's losses reveal little about its samples. Measured instead: how much fakes differ from each other, whether classes
are missing among them, whether D overfits its training images (Karras et al., arXiv:2006.06676, section 3.1), the size
of the generator's gradient (Arjovsky and Bottou, arXiv:1701.04862), and whether a loss or a gradient diverges. Limits
were set on healthy runs and on planted faults: docs/systems/gan.md.
"""

from __future__ import annotations

import html
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reverie.core.errors import UsageError, argument
from reverie.core.files import quoted
from reverie.core.tables import html_table
from reverie.training.run import Run, locate

Lines = Sequence[dict[str, Any]]

_RECENT = 8  # lines of the log that a finding needs, so that one outlier is none
_EARLY = 48  # lines before which nothing is diagnosed: every GAN begins badly
_RENAMED = {  # log keys of runs before checkpoint format 3
    "D/spread": "D/sample_diversity",
    "G/signal": "G/logit_grad",
    "update/strength": "update/augment_p",
    "classes_covered": "class_coverage",
}
_LOSSES = ("D/loss", "G/loss", "D/gradient_norm", "G/gradient_norm")


@dataclass(frozen=True)
class Finding:
    """A problem, the step at which it was detected, and advice.

    Attributes:
        kind: "collapse", "overfitting", "vanishing-gradient" or "divergence".
    """

    kind: str
    step: int
    message: str
    advice: str

    def __str__(self) -> str:
        return f"{self.kind} at step {self.step}: {self.message} {self.advice}"


@dataclass(frozen=True)
class Check:
    """One measure against its limit.

    Attributes:
        measure: what was measured.
        value: as text; "" if it was not measured yet.
        limit: beyond which it is a problem, as text.
        finding: the problem, or None.
        early: the log is too short for a verdict.
    """

    measure: str
    value: str
    limit: str
    finding: Finding | None = None
    early: bool = False

    @property
    def verdict(self) -> str:
        """ "ok", the kind of problem, "too early" or "not measured yet"."""
        if self.finding or not self.value:
            return self.finding.kind if self.finding else "not measured yet"
        return "too early" if self.early else "ok"


@dataclass(frozen=True)
class Diagnosis:
    """Every check of a run, as of a step, and problems that have passed.

    Attributes:
        past: findings of earlier steps, {"kind", "step", "message", "advice"}.
    """

    step: int
    checks: list[Check]
    past: list[dict[str, Any]]

    @property
    def findings(self) -> list[Finding]:
        """The current problems, the gravest first."""
        return [check.finding for check in self.checks if check.finding]

    @property
    def summary(self) -> str:
        """What there is to say without a current problem, in a sentence."""
        if self.checks[0].early:
            return f"Too early for a verdict: the log has fewer than {_EARLY} lines."
        return f"No problem as of step {self.step}." + ("" if self.past else " There was none earlier.")

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Measure, value, limit, verdict."""
        return [(check.measure, check.value or "-", check.limit, check.verdict) for check in self.checks]

    def __repr__(self) -> str:
        return f"Diagnosis(step {self.step}: {', '.join(f.kind for f in self.findings) or 'no problem'})"

    def _repr_html_(self) -> str:
        advice = (html.escape(f"{finding.message} {finding.advice}") for finding in self.findings)
        table = html_table(("measure", "value", "limit", "verdict"), self.rows())
        return table + "".join(f"<p>{sentence}</p>" for sentence in advice)


def doctor(run: Run | Path | str) -> Diagnosis:
    """Diagnose a GAN's training from its log.

    Args:
        run: a run directory, or a ``Run``.
    Raises:
        UsageError: there is no run, or it is no GAN's.
    """
    opened = run if isinstance(run, Run) else Run.open(locate(run)[0])
    lines = [{_RENAMED.get(key, key): value for key, value in line.items()} for line in opened.metrics()]
    if not is_adversarial(lines):
        path = quoted(opened.path)
        raise UsageError(
            f"{opened.path} has no discriminator to diagnose. `reverie evaluate {path}` scores its samples."
        )
    checks = checks_of(lines)
    if (opened.info.get("data") or {}).get("counts", {}).get("held_out") == 0:
        checks.append(Check("overfitting of the discriminator", "", "needs held-out images"))
    current = {check.finding.kind for check in checks if check.finding}
    findings = opened.info.get("findings", [])
    past = [{"message": f.get("said"), **f} for f in findings if f["kind"] not in current]
    return Diagnosis(lines[-1]["step"], checks, past)


def is_adversarial(lines: Lines) -> bool:
    """Whether a log is of a GAN or a translator; a codec with a patch discriminator is neither."""
    return any("D/sample_diversity" in line for line in lines)


def examine(lines: Lines) -> list[Finding]:
    """The problems as of the last line, the gravest first; none of a log that is no GAN's."""
    if len(lines) < _EARLY or not is_adversarial(lines):
        return []
    return [check.finding for check in checks_of(lines) if check.finding]


def checks_of(lines: Lines) -> list[Check]:
    """Every measure as of the last line; a log of fewer than 48 lines is too short for verdicts."""
    step, early = lines[-1]["step"], len(lines) < _EARLY
    translates = not _values(lines, "G/logit_grad")  # a translator has neither penalties nor packs

    def finding(problem: bool, kind: str, message: str, advice: str) -> Finding | None:
        return Finding(kind, step, message, advice) if problem and not early else None

    checks = [_divergence(lines, finding, translates)]
    diversity = _recent(lines, "D/sample_diversity")
    covered = _values(lines, "class_coverage")[-3:]
    r3, packing, lr = argument("loss", "r3"), argument("packing", 2), argument("lr")
    advice = f"Lower {lr}, or use smaller batches." if translates else f"Try {r3}, {packing}, or a lower {lr}."
    message = f"Fakes differ {diversity or 0:.0%} as much from one another as real images do."
    problem = diversity is not None and diversity < 0.3
    checks.append(
        Check("sample diversity", _text(diversity), "at least 0.3", finding(problem, "collapse", message, advice))
    )
    if covered:
        # between a half and three quarters and rising is a young G, which finds class after class
        low = len(covered) == 3 and (max(covered) < 0.5 or (max(covered) < 0.75 and covered[-1] <= covered[0]))
        message = f"{covered[-1]:.0%} of the data's classes are among the samples."
        advice = f"Try {r3}, {packing}, or {argument('conditional', 'label')}."
        problem_found = finding(low, "collapse", message, advice)
        checks.append(Check("class coverage", _text(covered[-1]), "at least 0.5", problem_found))
    gaps = _values(lines, "overfitting")[-2:]
    over = len(gaps) == 2 and min(gaps) > 0.5
    if gaps:
        message = f"D separates held-out from training images {gaps[-1]:.0%} as well as fakes from training images."
        if len(gaps) == 2 and min(gaps) > 1:
            message = "D's logits of held-out images are below those of fakes."
        p = _values(lines, "update/augment_p")  # where ADA is on
        message += f" ADA's probability is {p[-1]:.2g}." if p else ""
        ada = "" if p else f"{argument('d_augment', 'ada')} (or diffaugment), "
        advice = f"Try {ada}more images, or {argument('augment', 'flip')}."
        checks.append(
            Check(
                "overfitting of the discriminator",
                _text(gaps[-1]),
                "at most 0.5",
                finding(over, "overfitting", message, advice),
            )
        )
    gradient = _recent(lines, "G/logit_grad")
    if not translates:
        message = f"Vanishing generator gradient: mean abs(dL_G/dlogit) = {gradient or 0:.2g} because D is saturated."
        advice = f"Try {argument('loss', 'non-saturating')} or r3, or penalise D's gradient: {argument('r1', 1)}."
        problem = gradient is not None and gradient < 0.02
        problem_found = finding(problem, "vanishing-gradient", message, advice)
        checks.append(Check("generator's gradient at the logits", _text(gradient), "at least 0.02", problem_found))
    return [replace(check, early=early) for check in checks]


def _divergence(lines: Lines, finding: Any, translates: bool) -> Check:
    """Whether a loss or a gradient norm is far beyond its largest value in the first half."""
    worst, ratio = "", 0.0
    for name in _LOSSES:
        values = [abs(value) for value in _values(lines, name)]
        if len(values) >= _EARLY:
            usual = max(values[: len(values) // 2])  # the first steps are large
            if (growth := min(values[-_RECENT:]) / (usual + 1e-3)) > ratio:
                worst, ratio = name, growth
    advice = f"Lower {argument('lr')}"
    if translates:
        advice += f" and {argument('d_lr')}."
    else:
        advice += f", or penalise D's gradient: {argument('r1', 1)}, or {argument('loss', 'r3')}."
    message = f"{worst} is {ratio:.3g} times as large as it was in the first half of training."
    value = f"{ratio:.2g} ({worst})" if worst else ""
    return Check(
        "growth of losses and gradients", value, "at most 30", finding(ratio > 30, "divergence", message, advice)
    )


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _values(lines: Lines, name: str) -> list[float]:
    return [line[name] for line in lines if name in line]


def _recent(lines: Lines, name: str) -> float | None:
    """The median of the last values, or None without any."""
    values = _values(lines, name)[-_RECENT:]
    return statistics.median(values) if values else None
