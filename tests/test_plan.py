"""Plans, budgets and schedules, with a clock of our own."""

from __future__ import annotations

import itertools
import json
import math
import random

import pytest

from reverie.core.errors import UsageError
from reverie.training.plan import Budget, Plan, rate


def spend(seconds, step_seconds, pause=lambda step, now: 0.0, alone=True, plan=None):
    """Train against a simulated clock; returns the plan, and (seconds, progress, seconds of the step) after each."""
    plan = plan or Plan(clock=(seconds, 0.0, 0.0))
    budget, step, now, worked, trace = Budget(plan, 0, 0.0, alone=alone), 0, 0.0, 0.0, []
    while not plan.finished(step):
        took = step_seconds(step, now)
        now, worked, step = now + took, worked + took, step + 1
        if budget.due(step, now):
            budget.look(step, now, worked)
        trace.append((now, plan.progress(step), took))
        now += pause(step, now)
    return plan, trace


def once(at, long):
    """A pause of ``long`` seconds, once, from ``at`` on."""
    past = []
    return lambda now: 0.0 if now < at or past else (past.append(now) or long)


PACES = {
    "constant": lambda T, base: lambda step, now: base,
    "slow start": lambda T, base: lambda step, now: base * (8 if step < 1 else 3 if step < 2 else 1),
    "halved": lambda T, base: lambda step, now: base * (2 if now > T / 2 else 1),
    "doubled": lambda T, base: lambda step, now: base / (2 if now > T / 2 else 1),
    "x4 and back": lambda T, base: lambda step, now: base * (4 if T / 3 < now < 2 * T / 3 else 1),
    "drifting": lambda T, base: lambda step, now: base * (1 + 2 * now / T),
    "noisy": lambda T, base: lambda step, now: base * math.exp(random.Random(step).gauss(0, 0.5)),
    "lazy": lambda T, base: lambda step, now: base * (3 if step % 16 == 0 else 1),
    "very lazy": lambda T, base: lambda step, now: base * (10 if step % 4 == 0 else 1),
}


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize("T, base", [(20, 0.01), (170, 0.02), (170, 0.4), (600, 0.1)])
def test_progress_follows_the_clock_within_three_percent_at_any_pace(T, base, pace, alone):
    plan, trace = spend(T, PACES[pace](T, base), alone=alone)
    for index, (now, progress, _) in enumerate(trace):
        slowest = max(took for *_, took in trace[max(0, index - 3) : index + 1])
        if now > 0.05 * T:
            assert abs(progress - min(1, now / T)) <= max(0.03, 3 * slowest / T), (now, progress)
    assert 5 <= len(plan.knots) <= 200
    assert abs(trace[-1][0] / T - 1) < 0.03 and trace[-1][1] > 0.97


@pytest.mark.parametrize("T, base", [(20, 0.01), (170, 0.02), (170, 0.4)])
def test_after_a_stall_progress_is_back_within_five_percent_of_the_time(T, base):
    stall = once(0.4 * T, 0.1 * T)
    _, trace = spend(T, lambda step, now: base + stall(now))
    for now, progress, _ in trace:
        if 0.05 * T < now < 0.4 * T or now > 0.55 * T + 3 * base:
            assert abs(progress - now / T) < 0.03, (now, progress)
    assert abs(trace[-1][0] / T - 1) < 0.02


def test_callbacks_count_in_the_time_but_not_in_the_pace():
    preview = [once(share * 60, 0.6) for share in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)]
    _, trace = spend(60, lambda step, now: 0.05, lambda step, now: sum(p(now) for p in preview))
    assert all(abs(progress - now / 60) < 0.03 for now, progress, _ in trace if now > 3)
    assert abs(trace[-1][0] / 60 - 1) < 0.02 and len(trace) == pytest.approx((60 - 5 * 0.6) / 0.05, rel=0.02)


def test_a_budget_that_begins_amid_progress_leads_from_there_to_one():
    plan = Plan([(0, 0.75, 500.0)], clock=(100.0, 0.75, 0.0))
    _, trace = spend(100, lambda step, now: 0.05, plan=plan)
    assert all(abs(progress - 0.75 - 0.25 * now / 100) < 0.01 for now, progress, _ in trace if now > 5)


def test_knots_replayed_give_the_same_progress_to_the_last_bit():
    """Also through JSON; and what was seen during training is what the final plan says of each step."""
    for pace in ("noisy", "x4 and back"):
        plan, trace = spend(30, PACES[pace](30, 0.01))
        again = Plan.from_state(json.loads(json.dumps(plan.fixed().state())))
        assert [progress for _, progress, _ in trace] == [again.progress(step + 1) for step in range(len(trace))]
        assert again.end == len(trace) and again.clock is None and again.finished(len(trace))


def test_progress_never_falls_and_a_plan_of_steps_is_a_straight_line():
    _, trace = spend(60, PACES["very lazy"](60, 0.02))
    assert all(b >= a for (_, a, _), (_, b, _) in itertools.pairwise(trace))
    plan = Plan.of(90, None)
    assert [plan.progress(step) for step in range(91)] == [step / 90 for step in range(91)]
    assert plan.finished(90) and not plan.finished(89) and plan.expected == 90


def test_a_single_step_longer_than_the_budget_ends_it():
    plan, trace = spend(3, lambda step, now: 10.0)
    assert plan.end == len(trace) == 1


def test_a_plan_that_was_cut_short_is_repeated_to_where_its_last_knot_leads():
    plan = Plan([(10, 0.0, 90.0), (50, 0.4, 70.5)], clock=(60.0, 0.0, 0.0))
    assert plan.expected == 121 and plan.fixed().end == 121 and plan.fixed().knots == plan.knots
    unmeasured = Plan(clock=(60.0, 0.0, 0.0))
    assert unmeasured.fixed() == unmeasured and unmeasured.progress(7) == 0.0


def test_a_knot_changes_no_progress_before_it_and_warm_up_begins_anew_where_a_finished_run_was_extended():
    plan = Plan.of(100, None)
    before = [plan.progress(step) for step in range(101)]
    plan.add(100, 300, progress=0.25)
    plan.end, plan.extended = 400, [100]
    assert [plan.progress(step) for step in range(100)] == before[:100]
    assert plan.progress(100) == 0.25 and plan.progress(250) == 0.625 and plan.progress(400) == 1
    assert plan.warm(99, 100) is None and plan.warm(100, 100) == (0, 30) and plan.warm(120, 7) == (20, 7)


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
