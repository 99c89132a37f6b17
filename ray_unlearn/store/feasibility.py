"""Which rows are feasible: the one rule of the report's tables and of `export`.

A study with constraints of its own decides (`store.objective`). Elsewhere a row is feasible when,
on the reporting half,

    |ln(ppl(U) / ppl_0(A))| <= tolerance  and  ppl(S) <= 1.25 ppl_0(S) for S = retain and general,

that is: forgotten to within the tolerance of the target, with utility within 25 % of the vanilla
model. The tolerance is ln 1.10, or more where the target itself is not known so well
(`store.target.HalfTarget.tolerance`).
"""

import math
from typing import Any

from ray_unlearn.store.objective import Objective
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.schema import HALVES, Row, whole_row
from ray_unlearn.store.score import OBJECTIVE, ScoreRule
from ray_unlearn.store.target import FORGET_TOLERANCE, UTILITY_TOLERANCE, Metric, half_targets

REPORTING = HALVES[1]
KEPT_SETS = ("retain", "general")
SLACK = 1e-9
"""A float's last digit must not decide about a row that is exactly on the limit."""


def tolerance_of_target(vanilla: Metric) -> float:
    """How far log ppl(U) may be from the target and still meet it, nats/token."""
    targets = half_targets(vanilla)
    return math.log(FORGET_TOLERANCE) if targets is None else targets[1].tolerance


def beyond_tolerances(rows: Any, vanilla: Any) -> dict[str, Any]:
    """How far rows are outside each tolerance, in nats/token; at most `SLACK` where they keep it.

    Args:
        rows: a row, or a data frame of rows.
        vanilla: the vanilla baseline.

    Returns:
        By evaluated set (`forget`, `retain`, `general`), a number or a column; NaN where one is
        not known, which is not inside.
    """
    gap = rows["forget_nll"] - vanilla[f"approximate_nll_{REPORTING}"]
    found = {"forget": abs(gap) - tolerance_of_target(vanilla)}
    for name in KEPT_SETS:
        column = f"{name}_nll_{REPORTING}"
        found[name] = rows[column] - vanilla[column] - math.log(UTILITY_TOLERANCE)
    return found


def why_not_feasible(row: Row, vanilla: Row | None, objective: Objective) -> list[str]:
    """What keeps a row from being feasible on the reporting half; empty where it is.

    Args:
        row: its metrics.
        vanilla: the vanilla baseline; None where none was measured.
        objective: of the study.
    """
    row = whole_row(row)
    if objective.constraints:
        return objective.broken(row, REPORTING)
    if vanilla is None:
        return ["no baseline was measured, so nobody knows the target"]
    beyond = beyond_tolerances(row, vanilla)
    return [_in_words(name, row, vanilla) for name, over in beyond.items() if not over <= SLACK]


def best_feasible(rule: ScoreRule, record: Record) -> tuple[Trial, Row] | None:
    """The trial with the lowest score whose scored row is feasible, and that row."""
    vanilla = record.baselines.get("vanilla")
    fitting = (
        (trial, row)
        for trial in record.finished
        if (row := rule.row(trial)) is not None
        and not why_not_feasible(row, vanilla, rule.objective)
    )
    return min(fitting, key=lambda pair: (pair[1][OBJECTIVE], pair[0].number), default=None)


def _in_words(name: str, row: Row, vanilla: Row) -> str:
    """`retain perplexity 20.1 is 2.07 times the vanilla model's 9.7 (at most 1.25)`."""
    if name == "forget":
        nll, target = row["forget_nll"], vanilla[f"approximate_nll_{REPORTING}"]
        most = math.exp(tolerance_of_target(vanilla))
        away, limit = _times(nll - target), f"between {1 / most:.3g} and {most:.3g}"
        of = "the target"
    else:
        nll, target = (one[f"{name}_nll_{REPORTING}"] for one in (row, vanilla))
        away, limit = _times(nll - target), f"at most {UTILITY_TOLERANCE:g}"
        of = "the vanilla model's"
    return f"{name} perplexity {_times(nll)} is {away} times {of} {_times(target)} ({limit})"


def _times(log: float) -> str:
    """exp(log), also where a float cannot hold it."""
    return f"{math.exp(log):.3g}" if log < 700 else "beyond all bounds"
