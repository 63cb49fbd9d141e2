"""Which weights of a run these are: run, step, and whether the run is whole, in one record and one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reverie.core.errors import UsageError
from reverie.core.files import quoted
from reverie.core.schema import fault_of
from reverie.training.plan import Plan
from reverie.training.record import PlanRecord
from reverie.training.run import Run


def record(run: Run, step: int, sha256: str, passed: Sequence[str]) -> dict[str, Any]:
    """The weights of a checkpoint as plain JSON.

    Args:
        sha256: of the file of the (averaged) weights.
        passed: why newer checkpoints were not taken.
    Returns:
        {"run", "model", "checkpoint", "steps", "status", "passed", "sha256"}; "steps" is the planned number, None where
        the clock decides or an older version did not record it.
    """
    plan = run.info.get("plan")
    return {
        "run": str(run.path),
        "model": run.info["model"]["name"],
        "checkpoint": step,
        "steps": Plan.from_state(plan).expected if plan and not fault_of(plan, PlanRecord) else None,
        "status": "imported" if "imported" in run.info else run.status,
        "passed": list(passed),
        "sha256": sha256,
    }


def sentence(weights: Mapping[str, Any], healthy: bool = True) -> str:
    """The name of weights, and what is odd about them; with ``healthy`` False "" where nothing is."""
    odd = list(weights["passed"])
    if weights["status"] == "failed":
        odd.append("its training failed")
    elif weights["status"] == "interrupted":
        odd.append(f"its training was interrupted (`reverie resume {quoted(weights['run'])}` goes on)")
    elif weights["status"] not in ("finished", "imported"):
        odd.append(f"it is unfinished ({weights['status'] or 'no status'})")
    if not odd and not healthy:
        return ""
    of = "" if weights["status"] == "imported" else f", step {weights['checkpoint']}"
    of += f" of {weights['steps']}" if of and weights["steps"] else ""
    return f"Weights of {weights['run']}{of}{': ' * bool(odd)}{', and '.join(odd)}."


def check_trained(run: Run, step: int, passed: Sequence[str] = ()) -> None:
    """Raise a UsageError for the newest weights of a run if they are those that its training began with.

    Args:
        passed: what to say of newer checkpoints that are damaged.
    """
    if not step and "imported" not in run.info:
        why = f"{', and '.join(passed)}, and the weights before it are" if passed else "its only weights are"
        more = f"`reverie resume {quoted(run.path)}` trains it"
        if run.status == "failed" and not passed:
            more = (
                f"Its training failed: {more.replace('trains it', 'tries again')}, where other options are not needed"
            )
        raise UsageError(
            f"{run.path} is untrained: {why} those of step 0. {more}; {quoted(run.checkpoints / '00000000')} names the "
            "untrained weights."
        )
