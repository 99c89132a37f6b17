"""The report: guidelines with their evidence, and each study.

One HTML page, the same in Markdown, figures and numbers. It is written from the ledgers or result
tables alone, without a date and without a path of the machine: the same results give the same
bytes, so a report can be kept under version control and compared.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from ray_unlearn.analysis.guidelines.guideline_diff import compare, score_differences
from ray_unlearn.analysis.guidelines.next_trials import next_trials
from ray_unlearn.analysis.read.column_roles import HowToRead
from ray_unlearn.analysis.read.study_results import Results, StudyResults, load
from ray_unlearn.analysis.report.attacks_section import attacks_section
from ray_unlearn.analysis.report.checklist_section import checklist_section
from ray_unlearn.analysis.report.comparison_sections import (
    compared_section,
    difference_section,
    interactions_section,
    transfer_section,
)
from ray_unlearn.analysis.report.derive import (
    Derived,
    derive,
    no_outcome,
    table_of,
    trials_as_given,
)
from ray_unlearn.analysis.report.failures import failure_alerts
from ray_unlearn.analysis.report.first_screen import first_screen
from ray_unlearn.analysis.report.foreign_section import best_blocks, columns_section
from ray_unlearn.analysis.report.health import health
from ray_unlearn.analysis.report.health_section import health_section
from ray_unlearn.analysis.report.methods_section import methods_section
from ray_unlearn.analysis.report.next_files import write_next
from ray_unlearn.analysis.report.page import (
    Bullets,
    Command,
    Facts,
    Page,
    Paragraph,
    Section,
)
from ray_unlearn.analysis.report.provenance import origin_of, provenance_lines
from ray_unlearn.analysis.report.render import render
from ray_unlearn.analysis.report.report_files import ReportFolder
from ray_unlearn.analysis.report.study_sections import (
    StudyBlocks,
    studies_section,
    study_blocks_beside,
)
from ray_unlearn.analysis.report.study_tables import metrics_table
from ray_unlearn.analysis.report.task_section import task_section
from ray_unlearn.analysis.report.variance_section import variance_section
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.spec.guideline_file import Guidelines, load_guidelines
from ray_unlearn.spec.score_weights import OPTION, ScoreWeights
from ray_unlearn.surfaces.processors import one_blas_thread

UNLEARNING = (
    "Unlearning makes a trained language model behave as if the forget set had never been in its "
    "training: perplexity on it rises to that of unseen text, and stays where it was elsewhere."
)
ANY_SCORE = "Which hyperparameters gave good scores, and how sure one may be."
MOST_NAMED = 3
REPRODUCE = (
    "This page is derived from the ledgers or tables named below and from nothing else. The same "
    "files give the same page. Every claim with its numbers is in `guidelines.json`; `ray-unlearn "
    "run --space-from guidelines.json` searches on from there."
)
HALVES = (
    "Documents of the unseen (approximate), retain and general sets are dealt to two halves: "
    "selection chooses, reporting is what this page shows. They are balanced by length and by the "
    "vanilla model's loss, where data health does not say otherwise. The forget set is whole in "
    "both."
)
LIMITS = (
    "A guideline holds for the methods, models and domains named in it, for hyperparameters inside "
    "what was searched, and for this score.",
    "Probabilities of being good come from a smooth model of the score (Gaussian process). Where "
    "scores jump, its edges are too soft.",
    "Grades say how often something was seen, not how large the effect is: that is what the "
    "estimates and intervals say.",
    "Claims of one kind are corrected for their number; claims of different kinds are not "
    "corrected for each other.",
)


@one_blas_thread
def write_report(
    sources: list[Path],
    out: Path,
    *,
    tolerance: float | None = None,
    since: Path | None = None,
    seed: int = 0,
    next_count: int = 0,
    **how: Unpack[HowToRead],
) -> Path:
    """Write `report.html`, `report.md`, `guidelines.json`, `figures/` and `data/` into a folder.

    Args:
        sources: study directories, result tables or foreign tables (`analysis.read.study_results`).
        out: folder, made where it does not exist; files of an earlier report are replaced.
        tolerance: tau, in units of the score; None: from the data (`analysis.tolerance`).
        since: an earlier `guidelines.json` to compare with.
        seed: of every random draw.
        next_count: trials to name that would settle most of what is open (`next.csv`, and a study
            file `next.yaml` for each study).
        how: foreign tables are to be read, and with which weights trials are scored again
            (`analysis.read.column_roles.Reading`).

    Returns:
        The path of the HTML page.

    Raises:
        UserError: a source that cannot be reported on.
        StorageError: `out` cannot be written.
    """
    before = load_guidelines(since) if since is not None else None
    results = load(sources, **how)
    table = table_of(results, tolerance)
    try:
        files = ReportFolder(out)
        trials_file = files.unique("trials")
        with study_blocks_beside(results.studies, files) as finished:
            if table is not None:
                files.csv(trials_as_given(table), trials_file)
            origin = origin_of(results, tolerance, seed, how, since)
            derived = derive(results, table, tolerance, seed, origin)
            difference = _difference(before, derived.guidelines)
            first = _first(derived, results, files)
            columns = columns_section(results, files)
            sections = _sections(derived, results, difference, files)
            sections += [columns] if columns is not None else []
            sections += attacks_section(results.studies, files)
            studies = finished()
        page = _page(derived, results, studies, [first, *sections])
        for name, text in render(page, _all_methods(derived, results)).items():
            files.text(name, text)
        files.text("guidelines.json", derived.guidelines.as_json())
        if next_count and derived.findings is not None:
            following = next_trials(derived.findings, derived.guidelines.guidelines, next_count)
            write_next(following, derived.findings.table, results.studies, files)
    except OSError as error:
        raise StorageError(f"{out}: the report cannot be written: {error}") from None
    return out / "report.html"


def _difference(before: Guidelines | None, after: Guidelines) -> Section:
    if before is None:
        return difference_section(None)
    of_scores = tuple(score_differences(before.score, after.score))
    return difference_section(compare(before, after), of_scores)


def _all_methods(derived: Derived, results: Results) -> list[str]:
    analysed = derived.table.methods if derived.table is not None else ()
    planned = (method for study in results.studies for method in study.methods)
    return list(dict.fromkeys([*analysed, *planned]))


def _sections(
    derived: Derived, results: Results, difference: Section, out: ReportFolder
) -> list[Section]:
    """Everything between the first screen and the single studies."""
    if derived.table is None:
        nothing = Paragraph(f"{no_outcome(results)} There is nothing to analyse.")
        return [Section("Data health", (nothing,), "health"), difference]
    found = health_section(derived.table, health(derived.table, results), results.studies)
    if derived.findings is None:
        withheld = Paragraph("Everything is withheld: no trial has a finite score.")
        return [found, Section("Each method", (withheld,), "methods"), difference]
    claims = derived.guidelines.guidelines
    return [
        found,
        methods_section(derived.findings, derived.guidelines, out),
        compared_section(derived.findings, derived.answer, out),
        interactions_section(derived.findings, claims, out),
        transfer_section(derived.findings, out),
        variance_section(derived.table, out, derived.findings.seed),
        difference,
    ]


def _first(derived: Derived, results: Results, out: ReportFolder) -> Section:
    guidelines = derived.guidelines
    best = best_blocks(guidelines.best_trials, guidelines.score)
    if derived.table is None and results.foreign:
        best = (Paragraph(no_outcome(results)),)
    alerts = [alert for study in results.studies for alert in failure_alerts(study)]
    return first_screen(derived.findings, guidelines, out, alerts, best)


def _page(
    derived: Derived,
    results: Results,
    studies: Sequence[StudyBlocks],
    sections: Sequence[Section],
) -> Page:
    guidelines = derived.guidelines
    names = [study.key for study in studies] + [one.name for one in results.foreign]
    origin = Facts(tuple(provenance_lines(guidelines.provenance)))
    command = Command(guidelines.provenance["command"])
    metrics = Section("Metrics", (Paragraph(HALVES), metrics_table()), "metrics")
    return Page(
        f"Unlearning hyperparameters: {_together(names, results)}",
        UNLEARNING if studies else ANY_SCORE,
        tuple(_subjects(results)),
        (
            *sections,
            *studies_section(studies),
            *task_section(results.studies),
            *((checklist_section(results.studies),) if studies else ()),
            Section("How to reproduce", (Paragraph(REPRODUCE), command, origin), "reproduce"),
            Section("Limits", (Bullets(LIMITS),), "limits"),
            *((metrics,) if studies else ()),
        ),
    )


def _together(names: Sequence[str], results: Results) -> str:
    """All names; of more than a few, how many, since they are listed below."""
    if len(names) <= MOST_NAMED:
        return ", ".join(names)
    return f"{len(names)} {'tables' if not results.studies else 'studies'}"


def _subjects(results: Results) -> list[str]:
    """`3 methods, model x, domain y` for each study or table."""
    several = len(results.studies) + len(results.foreign) > 1
    lines = []
    for study in results.studies:
        count = len(study.methods)
        lines.append(
            f"{study.key + ': ' if several else ''}{count} method{'' if count == 1 else 's'}, "
            f"model {study.model or 'not recorded'}, domain {study.domain or 'not recorded'}"
        )
    lines += [
        f"{one.name}: a table of {len(one.trials):,} trials, scored by {one.score}"
        for one in results.foreign
    ]
    again = [study for study in results.studies if study.rescored is not None]
    if results.weights is not None and (again or results.foreign):
        lines.append(_other_weights(results.weights, again))
    return lines


def _other_weights(weights: ScoreWeights, again: Sequence[StudyResults]) -> str:
    """That trials are scored with weights that they were not searched for."""
    text = f"scores weigh {weights.in_words()}"
    if not again:
        return text
    of = "trials" if len(again) == 1 else f"trials of {', '.join(one.key for one in again)}"
    return f"{text} ({OPTION}); the {of} were searched for others, see data health"
