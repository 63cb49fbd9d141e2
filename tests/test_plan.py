"""Budgets and schedules, with a clock of our own."""

import itertools

import pytest

from reverie.core.errors import UsageError
from reverie.training.plan import Budget, Plan, rate


def spend(minutes, seconds_per_step, reserve=0.0):
    """Train against a simulated clock; returns the plan, the seconds spent and the progress of every step."""
    plan = Plan.of(None, minutes)
    budget, step, now, seen = Budget(plan, reserve), 0, 0.0, []
    while not plan.measured or step < plan.steps:
        budget.update(step, now)
        seen.append(plan.progress(step))
        now += seconds_per_step(step, now)
        step += 1
    return plan, now, seen


@pytest.mark.parametrize("pace", [0.003, 0.05, 0.4, 1.5])
def test_a_budget_of_minutes_is_kept_within_five_percent_at_any_pace(pace):
    slow_start = lambda step, now: 5 * pace if step < 2 else pace  # noqa: E731
    _, spent, _ = spend(2, slow_start)
    assert abs(spent / 120 - 1) < 0.05


def test_a_budget_is_kept_when_the_machine_slows_down_and_recovers():
    _, spent, _ = spend(3, lambda step, now: 0.05 if 40 < now < 120 else 0.02)
    assert abs(spent / 180 - 1) < 0.05


def test_progress_never_falls_never_jumps_and_ends_at_one():
    plan, _, seen = spend(1, lambda step, now: 0.02 if now < 30 else 0.03)
    assert seen[0] == 0 and plan.progress(plan.steps) == 1
    steps = [b - a for a, b in itertools.pairwise([*seen, 1.0])]
    assert min(steps) >= 0 and max(steps) < 0.01


def test_a_single_step_longer_than_the_budget_still_ends():
    plan, _, _ = spend(0.05, lambda step, now: 10.0)
    assert 1 <= plan.steps <= 5


def test_a_recorded_plan_is_not_measured_again():
    plan = Plan([(0, 0.0), (50, 0.3), (90, 1.0)], minutes=1)
    assert Budget(plan, 0).corrections == []
    assert plan.steps == 90 and plan.progress(25) == pytest.approx(0.15) and plan.progress(70) == pytest.approx(0.65)


@pytest.mark.parametrize(
    "steps, minutes", [(None, None), (5, 1.0), (0, None), (None, 0.0), (None, -1.0), (None, float("inf"))]
)
def test_a_length_that_makes_no_sense_is_refused(steps, minutes):
    with pytest.raises(UsageError):
        Plan.of(steps, minutes)


def test_the_learning_rate_rises_linearly_then_follows_a_cosine_to_zero():
    assert rate(0, 0.0, 10, "constant") == pytest.approx(0.1)
    assert rate(9, 0.0, 10, "constant") == rate(500, 0.9, 10, "constant") == 1
    assert rate(500, 0.5, 10, "cosine") == pytest.approx(0.5)
    assert rate(999, 1.0, 10, "cosine") == pytest.approx(0, abs=1e-12)
