"""What the trials of all sources say: statistics and guidelines, before any page is made."""

import math
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import pandas as pd

from ray_unlearn.analysis.best_trials import best_of_each
from ray_unlearn.analysis.guidelines.claims import guidelines_of
from ray_unlearn.analysis.guidelines.findings import Findings, find
from ray_unlearn.analysis.guidelines.recommendations import recommendations
from ray_unlearn.analysis.numerals import rounded
from ray_unlearn.analysis.read.column_roles import HowToRead
from ray_unlearn.analysis.read.study_results import Results, load
from ray_unlearn.analysis.report.provenance import origin_of, provenance
from ray_unlearn.analysis.report.published_question import PublishedAnswer, published_answer
from ray_unlearn.analysis.report.report_files import csv_text
from ray_unlearn.analysis.tolerance import DEFAULT
from ray_unlearn.analysis.trials import TrialTable, trial_table
from ray_unlearn.spec.guideline_file import BestTrial, Guidelines, ScoreInfo

WITHOUT_OUTCOME = ("running", "failed")


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
    tolerance: float | None = None,
    seed: int = 0,
    **how: Unpack[HowToRead],
) -> Guidelines:
    """The `guidelines.json` that `write_report` writes, without pages and figures.

    Args and Raises as `write_report`.
    """
    return _derive_from(sources, tolerance, seed, how).guidelines


def derive_again(sources: list[Path], recorded: Mapping[str, Any]) -> Derived:
    """What the sources say, read as they were for an earlier file.

    Args:
        sources: the same studies and tables, wherever they are now.
        recorded: the file's provenance.
    """
    settings: Any = dict(recorded["settings"])
    return _derive_from(sources, settings.pop("tolerance", None), recorded["seed"], settings)


def _derive_from(
    sources: list[Path], tolerance: float | None, seed: int, how: HowToRead
) -> Derived:
    results = load(sources, **how)
    origin = origin_of(results, tolerance, seed, how)
    return derive(results, table_of(results, tolerance), tolerance, seed, origin)


def derive(
    results: Results,
    table: TrialTable | None,
    tolerance: float | None,
    seed: int,
    origin: Mapping[str, Any],
) -> Derived:
    """Statistics and guidelines of a table.

    Args:
        results: what the table was made from.
        table: `table_of(results)`.
        tolerance: what the user gave.
        seed: of every random draw.
        origin: what makes the same report again (`provenance.origin_of`).
    """
    any_score = table is not None and not table.trials["infeasible"].all()
    findings = find(table, seed) if table is not None and any_score else None
    written = csv_text(trials_as_given(table)).encode() if table is not None else None
    said = guidelines_of(findings) if findings is not None else ()
    guidelines = Guidelines(
        provenance=provenance(results, written, seed, origin),
        score=table.score if table is not None else _no_score(tolerance),
        best_trials=_best_trials(table) if table is not None else (),
        recommendations=recommendations(findings, said) if findings is not None else (),
        guidelines=said,
    )
    answer = published_answer(findings, guidelines.guidelines)
    return Derived(table, findings, guidelines, answer)


def table_of(results: Results, tolerance: float | None) -> TrialTable | None:
    """The trials of all sources; None while no trial has an outcome."""
    if not any(status not in WITHOUT_OUTCOME for status in _statuses(results)):
        return None
    return trial_table(results, tolerance=tolerance)


def no_outcome(results: Results) -> str:
    """That no trial has an outcome, with their number by status."""
    counts = ", ".join(f"{count:,} {status}" for status, count in _statuses(results).items())
    return f"No trial has an outcome: {counts or 'there is none'}."


def _statuses(results: Results) -> dict[str, int]:
    """Number of trials of all sources by status, those that occur."""
    counts: Counter[str] = Counter()
    for study in results.studies:
        counts.update(study.outcomes)
    for table in results.foreign:
        counts.update(table.trials["status"])
    return {status: count for status, count in counts.items() if count}


def trials_as_given(table: TrialTable) -> pd.DataFrame:
    """The trials for people.

    Scores have the direction they were given in; `without_score` marks a trial that diverged or ran
    out of memory.
    """
    names = ("score", "score_selection")
    given = {name: table.as_given(table.trials[name]) for name in names}
    return table.trials.assign(**given).rename(columns={"infeasible": "without_score"})


def _best_trials(table: TrialTable) -> tuple[BestTrial, ...]:
    return tuple(
        BestTrial(
            study=line["study"],
            method=line["method"] or None,
            trial=line["trial"],
            number=None if math.isnan(line.get("number", math.nan)) else int(line["number"]),
            update=rounded(line["update"]),
            strength=1.0 if math.isnan(line.get("strength", math.nan)) else line["strength"],
            score=table.as_given(line["score"]),
            label=line.get("label") or None,
            hyperparameters=_configuration(line, table),
        )
        for line in best_of_each(table.trials).to_dict("records")
    )


def _configuration(line: dict[Hashable, Any], table: TrialTable) -> dict[str, float | str]:
    """The hyperparameters of a trial: all of a foreign table's, what a study searched."""
    names = [axis.name for axis in table.axes[line["method"]]]
    if line.get("label"):
        names += [name for name in table.foreign_hyperparameters if name not in names]
    values = {name: line[name] for name in names if name in line}
    return {
        name: value if isinstance(value, str) else float(value)
        for name, value in values.items()
        if not (pd.isna(value) or value == "")
    }


def _no_score(tolerance: float | None) -> ScoreInfo:
    return ScoreInfo(
        name="score",
        direction="minimize",
        score_rule="best_row",
        tolerance=tolerance or DEFAULT,
        tolerance_source="not used",
        checkpoint_rule="no trial has an outcome",
    )
