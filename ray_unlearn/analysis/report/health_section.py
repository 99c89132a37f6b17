"""Data health as the page shows it: how many trials of what kind, and what is odd about them."""

import math
from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd

from ray_unlearn.analysis.guidelines.sentences import label, tolerance
from ray_unlearn.analysis.numerals import counted, percentage, plain
from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.analysis.report.halves_table import halves_table, halves_warnings
from ray_unlearn.analysis.report.health import Health
from ray_unlearn.analysis.report.page import Block, Heading, Section, Table, bullets_of, paragraphs
from ray_unlearn.analysis.trials import TrialTable
from ray_unlearn.spec.guideline_file import ScoreInfo

OFTEN = 0.3
"""Share of the best trials at a bound, or of those without a score in a third, that is worth a
remark."""
LEAST = 3
"""Trials below which no share is remarked upon."""


def health_section(
    table: TrialTable, found: Health, studies: Sequence[StudyResults] = ()
) -> Section:
    """Counts by method, the halves of each study, and whatever limits what they can say."""
    groups = ", ".join(name or "unnamed" for name in table.groups)
    texts = [
        f"{counted(found.analysed, 'trial')} of {found.trials:,} are analysed, in "
        f"{counted(len(table.groups), 'group')}: {groups}.",
        score_sentence(table.score),
    ]
    odd = [
        *(warning for study in studies for warning in halves_warnings(study, len(studies) > 1)),
        *_left_out(found),
        *_bounds(found.at_bounds),
        *_cliffs(found.infeasible, table.score.objective is not None),
        *(f"{note}." for note in found.notes),
    ]
    blocks: list[Block] = [*paragraphs(texts), *bullets_of(odd), _table(table, found)]
    halves = halves_table(studies)
    blocks += [halves] if halves is not None else []
    return Section("Data health", tuple(blocks), "health")


def score_sentence(score: ScoreInfo) -> str:
    """What was measured, where, and what counts as equally good."""
    direction = "lower" if score.direction == "minimize" else "higher"
    unit = f" [{score.unit}]" if score.unit else ""
    weights = f" with {score.weights.in_words()}" if score.weights is not None else ""
    weights += f" (`{score.objective}`)" if score.objective is not None else ""
    return (
        f"Score: {score.name}{weights}{unit}, {direction} is better, taken at "
        f"{score.checkpoint_rule}. "
        f"Tolerance: {tolerance(score)}, {score.tolerance_source}. What is within the tolerance of "
        "the best counts as good."
    )


def _table(table: TrialTable, found: Health) -> Table:
    headings = (
        Heading("method", numeric=False),
        Heading("trials"),
        Heading("analysed", "", "with an outcome and a deployable evaluation"),
        Heading(
            "drawn",
            "from the space",
            "at random or quasi-randomly: only these support claims",
        ),
        Heading("groups"),
        Heading("trials", "per group"),
        Heading("seeds"),
        Heading("without a score", "of analysed", _why(table.score.objective is not None)),
    )
    return Table(
        "Trials by method. Diverged trials are counted, never dropped.",
        headings,
        tuple(_line(method, table.of(method), found) for method in table.methods),
        table.methods,
    )


def _line(method: str, own: pd.DataFrame, found: Health) -> tuple[str, ...]:
    asked_for = found.outcomes.set_index("method")["trials"].get(method, len(own))
    from_space = found.samplers.set_index("method")["space"].get(method, 0)
    per_group = own["group"].value_counts()
    least, most = per_group.min(), per_group.max()
    infeasible = int(own["infeasible"].sum())
    return (
        f"`{method}`" if method else "all trials",
        f"{asked_for:,}",
        f"{len(own):,}",
        f"{int(from_space):,}",
        f"{len(per_group)}",
        f"{least:,}" if least == most else f"{least:,} \u2013 {most:,}",
        f"{own['seed'].nunique()}",
        f"{infeasible:,} ({percentage(infeasible / len(own))})" if len(own) else "0",
    )


def _left_out(found: Health) -> list[str]:
    facts = []
    if (count := found.trials - found.analysed) > 0:
        facts.append(
            f"{counted(count, 'trial')} not analysed: failed, still running, or without an "
            "evaluation that could be deployed."
        )
    if found.unseeded:
        facts.append(f"The seed of {counted(found.unseeded, 'trial')} is not known.")
    if found.duplicates:
        copies = "is an exact copy" if found.duplicates == 1 else "are exact copies"
        facts.append(f"{counted(found.duplicates, 'line')} {copies} of another, and left out.")
    if found.missing_evaluations:
        count = found.missing_evaluations
        facts.append(f"{counted(count, 'evaluation')} without a score that no status explains.")
    if found.pruned_share > 0:
        facts.append(
            f"Early stopping ended {percentage(found.pruned_share)} of the trials, perhaps before "
            "their best: what is left is a selection."
        )
    return facts


def _bounds(at_bounds: pd.DataFrame) -> list[str]:
    facts = []
    for line in at_bounds.to_dict("records"):
        if line["best"] >= LEAST and line["share"] >= OFTEN:
            end = "lower" if line["side"] == "low" else "upper"
            what = "of the search" if line["bounds_known"] else "of the values seen"
            facts.append(
                f"{_method(line)}{line['hits']} of the {line['best']} best trials are at the {end} "
                f"bound {what} in {label(line['parameter'])} ({plain(line['bound'])}): the optimum "
                "may be outside."
            )
    return facts


def _why(constrained: bool) -> str:
    usual = "diverged or out of memory"
    return "diverged, out of memory or outside the constraints" if constrained else usual


def _cliffs(infeasible: pd.DataFrame, constrained: bool) -> list[str]:
    why = "diverged or ran out of memory"
    if constrained:
        why = "diverged, ran out of memory or are outside the constraints"
    facts = []
    for line in infeasible.to_dict("records"):
        often = not math.isnan(line["share"]) and line["share"] >= OFTEN
        if often and line["trials"] >= LEAST:
            facts.append(
                f"{_method(line)}{line['infeasible']} of {line['trials']} trials with "
                f"{label(line['parameter'])} from {plain(line['low'])} to {plain(line['high'])} "
                f"(the {line['third']} third) {why}."
            )
    return facts


def _method(line: dict[Hashable, Any]) -> str:
    return f"`{line['method']}`: " if line["method"] else ""
