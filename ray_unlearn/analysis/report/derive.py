"""What the trials of all sources say: statistics and guidelines, before any page is made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ray_unlearn.analysis.best_trials import best_of_each
from ray_unlearn.analysis.guidelines.claims import guidelines_of
from ray_unlearn.analysis.guidelines.findings import Findings, find
from ray_unlearn.analysis.guidelines.recommendations import recommendations
from ray_unlearn.analysis.numerals import rounded
from ray_unlearn.analysis.read.study_results import Results, load
from ray_unlearn.analysis.report.provenance import command_line, options, provenance
from ray_unlearn.analysis.report.published_question import PublishedAnswer, published_answer
from ray_unlearn.analysis.report.report_files import csv_text
from ray_unlearn.analysis.tolerance import DEFAULT
from ray_unlearn.analysis.trials import TrialTable, trial_table
from ray_unlearn.spec.guideline_file import BestTrial, Guidelines, ScoreInfo


@dataclass(frozen=True)
class Derived:
    """What is known; without a trial that has an outcome, nothing."""

    table: TrialTable | None
    findings: Findings | None
    """None where no trial has a finite score."""
    guidelines: Guidelines
    answer: PublishedAnswer


def derive_guidelines(
    sources: list[Path],
    *,
    mapping: Mapping[str, str] | None = None,
    score: str | None = None,
    maximise: bool = False,
    tolerance: float | None = None,
    sampler: str | None = None,
    seed: int = 0,
) -> Guidelines:
    """The `guidelines.json` that `write_report` writes, without pages and figures.

    Args and Raises as `write_report`.
    """
    results = load(sources, mapping=mapping, score=score, maximise=maximise, sampler=sampler)
    given = options(mapping, score, maximise, tolerance, sampler, None, seed)
    command, table = command_line(results, given), table_of(results, tolerance)
    return derive(results, table, tolerance, seed, command).guidelines


def derive(
    results: Results, table: TrialTable | None, tolerance: float | None, seed: int, command: str
) -> Derived:
    """Statistics and guidelines of a table.

    Args:
        results: what the table was made from.
        table: `table_of(results)`.
        tolerance: what the user gave.
        seed: of every random draw.
        command: what makes the same report again.
    """
    any_score = table is not None and not table.trials["infeasible"].all()
    findings = find(table, seed) if table is not None and any_score else None
    written = csv_text(trials_as_given(table)).encode() if table is not None else None
    guidelines = Guidelines(
        provenance=provenance(results, written, seed, command),
        score=table.score if table is not None else _no_score(tolerance),
        best_trials=_best_trials(table) if table is not None else (),
        recommendations=recommendations(table, seed) if table is not None else (),
        guidelines=guidelines_of(findings) if findings is not None else (),
    )
    answer = published_answer(findings, guidelines.guidelines)
    return Derived(table, findings, guidelines, answer)


def table_of(results: Results, tolerance: float | None) -> TrialTable | None:
    """The trials of all sources; None while no trial has an outcome."""
    ended = (
        count
        for study in results.studies
        for status, count in study.outcomes.items()
        if status not in ("running", "failed")
    )
    if not results.foreign and not any(ended):
        return None
    return trial_table(results, tolerance=tolerance)


def trials_as_given(table: TrialTable) -> pd.DataFrame:
    """The trials for people: scores in the direction they were given in."""
    names = ("score", "score_selection")
    return table.trials.assign(**{name: table.as_given(table.trials[name]) for name in names})


def _best_trials(table: TrialTable) -> tuple[BestTrial, ...]:
    return tuple(
        BestTrial(
            study=line["study"],
            method=line["method"] or None,
            trial=line["trial"],
            number=None if math.isnan(line.get("number", math.nan)) else int(line["number"]),
            update=rounded(line["update"]),
            score=table.as_given(line["score"]),
        )
        for line in best_of_each(table.trials).to_dict("records")
    )


def _no_score(tolerance: float | None) -> ScoreInfo:
    return ScoreInfo(
        name="score",
        direction="minimize",
        score_rule="best_row",
        tolerance=tolerance or DEFAULT,
        tolerance_source="not used",
        checkpoint_rule="no trial has an outcome",
    )
