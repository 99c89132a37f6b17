"""Data health as the page shows it: how many trials of what kind, and what is odd about them."""

import math
from collections.abc import Hashable
from typing import Any

import pandas as pd

from ray_unlearn.analysis.guidelines.sentences import label, tolerance
from ray_unlearn.analysis.numerals import counted, plain, share
from ray_unlearn.analysis.report.health import Health
from ray_unlearn.analysis.report.page_part import Part
from ray_unlearn.analysis.report.table_view import Heading, Shown
from ray_unlearn.analysis.trials import TrialTable
from ray_unlearn.spec.guideline_file import ScoreInfo

OFTEN = 0.3
"""Share of the best trials at a bound, or of infeasible ones in a third, from which it is said."""


def health_part(table: TrialTable, found: Health) -> Part:
    """Counts by method, and in words whatever limits what they can say."""
    odd = [
        *_left_out(found),
        *_bounds(found.at_bounds),
        *_cliffs(found.infeasible),
        *(f"{note}." for note in found.notes),
    ]
    texts = (
        f"{counted(found.analysed, 'trial')} of {found.trials:,} are analysed, in {counted(len(table.groups), 'group')}: "
        f"{', '.join(name or 'unnamed' for name in table.groups)}.",
        score_sentence(table.score),
    )
    return Part("health", "Data health", texts, bullets=tuple(odd), tables=(_table(table, found),))


def score_sentence(score: ScoreInfo) -> str:
    """What was measured, where, and what counts as equally good."""
    direction = "lower" if score.direction == "minimize" else "higher"
    return (
        f"Score: {score.name}{f' [{score.unit}]' if score.unit else ''}, {direction} is better, taken at {score.checkpoint_rule}. Tolerance: "
        f"{tolerance(score)}, {score.tolerance_source}. What is within the tolerance of the best counts as good."
    )


def _table(table: TrialTable, found: Health) -> Shown:
    outcomes = found.outcomes.set_index("method")
    samplers = found.samplers.set_index("method")
    lines = []
    for method in table.methods:
        own = table.of(method)
        infeasible = int(own["infeasible"].sum())
        per_group = own["group"].value_counts()
        spread = (
            f"{per_group.min():,}"
            if per_group.min() == per_group.max()
            else f"{per_group.min():,} \u2013 {per_group.max():,}"
        )
        lines.append((
            f"`{method}`" if method else "all trials", f"{outcomes['trials'].get(method, len(own)):,}", f"{len(own):,}",
            f"{int(samplers['space'].get(method, 0)):,}", f"{len(per_group)}", spread, f"{own['seed'].nunique()}",
            f"{infeasible:,} ({share(infeasible / len(own))})" if len(own) else "0",
        ))  # fmt: skip
    headings = (
        Heading("method", numeric=False), Heading("trials"), Heading("analysed", "", "with an outcome and a deployable evaluation"),
        Heading("drawn", "from the space", "at random or quasi-randomly: only these support claims"), Heading("groups"),
        Heading("trials", "per group"), Heading("seeds"), Heading("infeasible", "of analysed", "diverged, out of memory or no finite score"),
    )  # fmt: skip
    return Shown(
        "Trials by method. Diverged trials are counted, never dropped.",
        headings,
        tuple(lines),
        table.methods,
    )


def _left_out(found: Health) -> list[str]:
    facts = []
    if found.trials > found.analysed:
        facts.append(
            f"{counted(found.trials - found.analysed, 'trial')} not analysed: failed, still running, or without an evaluation that could be deployed."
        )
    if found.unseeded:
        facts.append(f"The seed of {counted(found.unseeded, 'trial')} is not known.")
    if found.duplicates:
        facts.append(
            f"{counted(found.duplicates, 'line')} {'is an exact copy' if found.duplicates == 1 else 'are exact copies'} of another, and left out."
        )
    if found.missing_evaluations:
        facts.append(
            f"{counted(found.missing_evaluations, 'evaluation')} without a score that no status explains."
        )
    if found.pruned_share > 0:
        facts.append(
            f"Early stopping by comparison ended {share(found.pruned_share)} of the trials: what is left is a selection."
        )
    return facts


def _bounds(at_bounds: pd.DataFrame) -> list[str]:
    facts = []
    for line in at_bounds.to_dict("records"):
        if line["best"] >= 3 and line["share"] >= OFTEN:
            end = "lower" if line["side"] == "low" else "upper"
            what = "of the search" if line["bounds_known"] else "of the values seen"
            facts.append(
                f"{_name(line)}{line['hits']} of the {line['best']} best trials lie at the {end} bound {what} in {label(line['parameter'])} "
                f"({plain(line['bound'])}): the optimum may lie outside."
            )
    return facts


def _cliffs(infeasible: pd.DataFrame) -> list[str]:
    facts = []
    for line in infeasible.to_dict("records"):
        if not math.isnan(line["share"]) and line["share"] >= OFTEN and line["trials"] >= 3:
            facts.append(
                f"{_name(line)}{line['infeasible']} of {line['trials']} trials with {label(line['parameter'])} from {plain(line['low'])} to "
                f"{plain(line['high'])} (the {line['third']} third) are infeasible."
            )
    return facts


def _name(line: dict[Hashable, Any]) -> str:
    return f"`{line['method']}`: " if line["method"] else ""
