"""The report: guidelines with their evidence, and each study; one HTML page, the same in Markdown,
figures, numbers.

Written from the ledgers or result tables alone, without a date and without a path of the machine:
the same results give the same bytes, so a report can be kept under version control and compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ray_unlearn.analysis.guidelines.claims import guidelines_of
from ray_unlearn.analysis.guidelines.findings import Findings, find
from ray_unlearn.analysis.guidelines.guideline_diff import ClaimChange, compare
from ray_unlearn.analysis.read.study_results import Results, load
from ray_unlearn.analysis.report import claims_view, wording
from ray_unlearn.analysis.report.comparison_parts import (
    compared,
    difference_part,
    interactions,
    transfer,
)
from ray_unlearn.analysis.report.health import health
from ray_unlearn.analysis.report.health_part import health_part
from ray_unlearn.analysis.report.method_parts import methods_part
from ray_unlearn.analysis.report.page_part import Part
from ray_unlearn.analysis.report.provenance import (
    command_line,
    options,
    provenance,
    provenance_lines,
)
from ray_unlearn.analysis.report.render import render
from ray_unlearn.analysis.report.report_files import Output, csv_text
from ray_unlearn.analysis.report.study_section import Section, study_sections
from ray_unlearn.analysis.report.table_view import DIRECTIONS
from ray_unlearn.analysis.tolerance import DEFAULT
from ray_unlearn.analysis.trials import TrialTable, trial_table
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.spec.guideline_file import Guideline, Guidelines, ScoreInfo, load_guidelines
from ray_unlearn.store.schema import COLUMNS

GLOSSARY = (
    "forget_ppl", "approximate_ppl_reporting", "retain_ppl_reporting", "general_ppl_reporting", "forget_gap_reporting",
    "utility_loss_reporting", "score_reporting", "exact_distance_reporting", "mia_loss_auc_reporting",
    "mia_min_k_pp_20_auc_reporting", "forget_extraction_strength", "efficiency_ratio",
)  # fmt: skip


@dataclass(frozen=True)
class _Analysis:
    """What the trials of all sources say; without a trial that has an outcome, nothing."""

    table: TrialTable | None
    findings: Findings | None
    guidelines: Guidelines
    differences: tuple[ClaimChange, ...] | None


def write_report(
    sources: list[Path],
    out: Path,
    *,
    mapping: Mapping[str, str] | None = None,
    score: str | None = None,
    maximise: bool = False,
    tolerance: float | None = None,
    sampler: str | None = None,
    since: Path | None = None,
    seed: int = 0,
) -> Path:
    """Write `report.html`, `report.md`, `guidelines.json`, `figures/` and `data/` into `out`; gives
    the HTML page's path.

    Args:
        sources: study directories, result tables or foreign tables (`analysis.read.study_results`).
        out: folder, made where it does not exist; files of an earlier report are replaced.
        mapping: columns of a foreign table, theirs to ours.
        score: column of a foreign table that is the score.
        maximise: higher scores are better.
        tolerance: tau, in units of the score; None: from the data (`analysis.tolerance`).
        sampler: how trials were drawn, where a foreign table does not say: `random` or `adaptive`.
        since: an earlier `guidelines.json` to compare with.
        seed: of every random draw.

    Raises:
        UserError: a source that cannot be reported on.
        StorageError: `out` cannot be written.
    """
    before = load_guidelines(since) if since is not None else None
    results = load(sources, mapping=mapping, score=score, maximise=maximise, sampler=sampler)
    given = options(mapping, score, maximise, tolerance, sampler, since, seed)
    table = trial_table(results, tolerance=tolerance) if _any_outcome(results) else None
    try:
        files = Output(out)
        trials_file = files.unique("trials")
        with study_sections(results.studies, files) as finished:
            written = files.csv(_as_given(table), trials_file) if table is not None else None
            source = provenance(results, written, seed, command_line(results, given))
            analysis = _analyse(table, tolerance, seed, before, source)
            parts = _parts(analysis, results, files)
            sections = finished()
        context = _context(analysis, results, sections, parts)
        methods = dict.fromkeys(
            [
                *(analysis.table.methods if analysis.table is not None else ()),
                *(m for study in results.studies for m in study.methods),
            ]
        )
        for name, text in render(context, list(methods)).items():
            files.text(name, text)
        files.text("guidelines.json", analysis.guidelines.as_json())
    except OSError as error:
        raise StorageError(f"{out}: the report cannot be written: {error}") from None
    return out / "report.html"


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
    table = trial_table(results, tolerance=tolerance) if _any_outcome(results) else None
    written = csv_text(_as_given(table)).encode() if table is not None else None
    source = provenance(results, written, seed, command_line(results, given))
    return _analyse(table, tolerance, seed, None, source).guidelines


def _analyse(
    table: TrialTable | None,
    tolerance: float | None,
    seed: int,
    before: Guidelines | None,
    source: dict[str, Any],
) -> _Analysis:
    findings = (
        find(table, seed) if table is not None and not table.trials["infeasible"].all() else None
    )
    claims: tuple[Guideline, ...] = guidelines_of(findings) if findings is not None else ()
    nothing = ScoreInfo(
        name="score", direction="minimize", tolerance=tolerance or DEFAULT, tolerance_source="not used", checkpoint_rule="no trial has an outcome"
    )  # fmt: skip
    guidelines = Guidelines(
        provenance=source,
        score=table.score if table is not None else nothing,
        guidelines=claims,
    )
    return _Analysis(
        table, findings, guidelines, None if before is None else compare(before, guidelines)
    )


def _as_given(table: TrialTable) -> pd.DataFrame:
    """The trials for people: scores in the direction they were given in."""
    return table.trials.assign(
        **{name: table.as_given(table.trials[name]) for name in ("score", "score_selection")}
    )


def _any_outcome(results: Results) -> bool:
    ended = (
        count
        for study in results.studies
        for status, count in study.outcomes.items()
        if status not in ("running", "failed")
    )
    return bool(results.foreign) or any(ended)


def _parts(analysis: _Analysis, results: Results, out: Output) -> list[Part]:
    if analysis.table is None:
        nothing = Part(
            "health",
            "Data health",
            ("No trial has an outcome yet, so there is nothing to analyse.",),
        )
        return [nothing, difference_part(analysis.differences)]
    parts = [health_part(analysis.table, health(analysis.table, results))]
    if analysis.findings is None:
        parts.append(
            Part(
                "methods", "Each method", ("Everything is withheld: no trial has a finite score.",)
            )
        )
    else:
        claims = analysis.guidelines.guidelines
        parts += [
            methods_part(analysis.findings, claims, out),
            compared(analysis.findings, claims, out),
            interactions(analysis.findings, claims, out),
            transfer(analysis.findings, out),
        ]
    return [*parts, difference_part(analysis.differences)]


def _context(
    analysis: _Analysis, results: Results, sections: list[Section], parts: list[Part]
) -> dict[str, Any]:
    guidelines = analysis.guidelines.guidelines
    methods = analysis.table.methods if analysis.table is not None else ()
    held = claims_view.withheld(guidelines)
    answer, numbers = claims_view.headline_answer(analysis.findings, guidelines)
    names = [section.study.key for section in sections] + [one.name for one in results.foreign]
    return {
        "title": f"Unlearning hyperparameters: {', '.join(names)}",
        "subjects": _subjects(results),
        "ours": bool(sections),
        "grades": claims_view.by_grade(guidelines),
        "grade_meanings": claims_view.GRADES,
        "withheld": held,
        "held_sentence": claims_view.held_sentence(held),
        "advice": claims_view.advice(guidelines, methods),
        "question": claims_view.QUESTION
        if results.studies or (analysis.findings is not None and analysis.findings.headline)
        else "",
        "answer": answer,
        "answer_numbers": numbers,
        "score": analysis.guidelines.score,
        "parts": parts,
        "sections": sections,
        "feasibility": wording.feasibility_definition(),
        "glossary": [COLUMNS[name] for name in GLOSSARY] if sections else [],
        "directions": DIRECTIONS,
        "command": analysis.guidelines.provenance["command"],
        "provenance": provenance_lines(analysis.guidelines.provenance),
        "limits": LIMITS,
    }


LIMITS = (
    "A guideline holds for the methods, models and domains named in it, for hyperparameters inside what was searched, and for this score.",
    "Probabilities of being good come from a smooth model of the score (Gaussian process). Where scores jump, its edges are too soft.",
    "Grades say how often something was seen, not how large the effect is: that is what the estimates and intervals say.",
    "Claims of one kind are corrected for their number; claims of different kinds are not corrected for each other.",
)


def _subjects(results: Results) -> list[str]:
    """`3 methods on the model x and the domain y`, by study or table."""
    several = len(results.studies) + len(results.foreign) > 1
    lines = [
        f"{study.key + ': ' if several else ''}{len(study.methods)} method{'' if len(study.methods) == 1 else 's'}, model "
        f"{study.model or 'not recorded'}, domain {study.domain or 'not recorded'}"
        for study in results.studies
    ]
    return lines + [
        f"{one.name}: a table of {len(one.trials):,} trials, scored by {one.score}"
        for one in results.foreign
    ]
