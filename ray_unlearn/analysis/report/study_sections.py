"""What the page says about each study by itself, apart from any guideline."""

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pandas as pd

from ray_unlearn.analysis.figures.drawing import Drawing
from ray_unlearn.analysis.figures.heatmap import heatmap_figure
from ray_unlearn.analysis.figures.learning_rates import learning_rate_figure
from ray_unlearn.analysis.figures.membership_inference import membership_figure
from ray_unlearn.analysis.figures.search_history import search_history_figure
from ray_unlearn.analysis.figures.tradeoff import tradeoff_figure
from ray_unlearn.analysis.numerals import percentage
from ray_unlearn.analysis.one_score import feasible_notes
from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.analysis.report.health import boundary_hits, unscored
from ray_unlearn.analysis.report.own_columns_section import own_columns_section
from ray_unlearn.analysis.report.page import (
    Block,
    Bullets,
    Facts,
    Fold,
    Paragraph,
    Picture,
    Section,
    bullets_of,
    paragraphs,
)
from ray_unlearn.analysis.report.report_files import Makers, ReportFolder
from ray_unlearn.analysis.report.study_notes import (
    agreement_sentence,
    attack_check_sentence,
    boundary_sentence,
    feasibility_definition,
    no_boundary_sentence,
    study_limits,
)
from ray_unlearn.analysis.report.study_tables import (
    chosen_table,
    outcome_table,
    reference_table,
    verdict_table,
)
from ray_unlearn.analysis.report.verdict import verdict
from ray_unlearn.analysis.report.wording import headline, outcome_sentence
from ray_unlearn.spec.score_weights import OPTION

UNKNOWN = (("retraining_flops", "0"), ("retraining_flops", "0.0"))
"""Header entries that stand for "not known"."""
SCORE_RULES = {
    "best_row": "a trial is scored at its deployable evaluation with the lowest score on the "
    "selection half",
    "stop_rule": "a trial is scored at its first deployable evaluation whose forget NLL reaches "
    "that of the vanilla model on unseen text (selection half), else at the last one",
}
"""`store.score.ScoreRule` in words."""
ROWS_WORTH_A_PROCESS = 20_000


@dataclass(frozen=True)
class StudyBlocks:
    """One study on the page: its verdict and the rest."""

    key: str
    anchor: str
    verdict: tuple[Block, ...]
    details: tuple[Block, ...]


@contextmanager
def study_blocks_beside(
    studies: Sequence[StudyResults], out: ReportFolder
) -> Iterator[Callable[[], list[StudyBlocks]]]:
    """What there is to say about all studies, made beside what happens inside the block.

    Drawing large studies takes as long as their statistics, so a process of its own does it,
    where processes fork.

    Yields:
        A function to call for it, inside the block.
    """
    named = [(study, out.unique(study.name)) for study in studies]
    rows = sum(len(study.rows) for study in studies)
    if sys.platform != "linux" or rows < ROWS_WORTH_A_PROCESS:
        yield lambda: [study_blocks(study, anchor, out) for study, anchor in named]
        return
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        begun = [pool.submit(study_blocks, study, anchor, out) for study, anchor in named]
        yield lambda: [blocks.result() for blocks in begun]


def study_blocks(study: StudyResults, anchor: str, out: ReportFolder) -> StudyBlocks:
    """Everything the page says about one study; writes its figures and numbers."""
    table = verdict(study)
    out.csv(table, f"{anchor}-verdict")
    out.csv(study.baselines.reset_index(names="baseline"), f"{anchor}-baselines")
    own, details = _verdict(study, table), _details(study, table, anchor, out)
    note = Paragraph(feasibility_definition(study), style="note")
    return StudyBlocks(study.key, anchor, own, (note, *details))


def studies_section(studies: Sequence[StudyBlocks]) -> tuple[Section, ...]:
    """All studies one by one; none where there is none."""
    if not studies:
        return ()
    sections = [
        Section(study.key, (*study.verdict, *study.details), f"study-{study.anchor}")
        for study in studies
    ]
    intro = Paragraph(
        "What each study found by itself. A method has the same colour, marker and dash "
        "everywhere. The numbers behind each figure are in `data/`, the figures themselves in "
        "`figures/`."
    )
    return (Section("The studies one by one", (intro, *sections), "studies"),)


def _verdict(study: StudyResults, table: pd.DataFrame) -> tuple[Block, ...]:
    first, *others = headline(study, table)
    more = paragraphs([" ".join(others)]) if others else ()
    return (Paragraph(first, style="verdict"), *more, verdict_table(table, study.score_rule))


def _details(
    study: StudyResults, table: pd.DataFrame, anchor: str, out: ReportFolder
) -> tuple[Block, ...]:
    return (
        chosen_table(study, table),
        _baselines(study, anchor),
        *own_columns_section(study, anchor),
        Section("How the trials went", (Facts(_facts(study)), outcome_table(table))),
        Section("At the bounds of the search", _bounds(study)),
        *_pictures(study, anchor, out),
        Fold(
            "Limits and origin of this study",
            (Bullets(tuple(study_limits(study, table))), Facts(_origin(study))),
        ),
    )


def _baselines(study: StudyResults, anchor: str) -> Section:
    intro = "Every number of this study is measured against models that no trial changed."
    references = reference_table(study)
    notes = [agreement_sentence(study), attack_check_sentence(study)]
    blocks: list[Block] = [Paragraph(intro)]
    blocks += [references] if references is not None else []
    blocks += paragraphs([note for note in notes if note])
    return Section("Baselines", tuple(blocks), f"{anchor}-baselines")


def _bounds(study: StudyResults) -> tuple[Block, ...]:
    hits = boundary_hits(study)
    if hits.empty:
        return (Paragraph(no_boundary_sentence(study)),)
    return bullets_of([boundary_sentence(hit) for _, hit in hits.iterrows()])


def _pictures(study: StudyResults, anchor: str, out: ReportFolder) -> tuple[Block, ...]:
    found: tuple[Picture | Paragraph, ...] = out.pictures(study_figures(study), f"{anchor}-")
    nothing = "There is nothing to draw: no trial has an evaluation with a finite score yet."
    return found or (Paragraph(nothing),)


def study_figures(study: StudyResults) -> Makers:
    """What makes each figure of a study, in the order of the page."""
    return {
        "Heatmap": lambda: _on_log_axis(study, heatmap_figure),
        "Forgetting against utility": lambda: tradeoff_figure(study),
        "Score against learning rate": lambda: _on_log_axis(study, learning_rate_figure),
        "Membership inference": lambda: membership_figure(study),
        "Search history": lambda: _on_log_axis(study, search_history_figure),
    }


def _on_log_axis(
    study: StudyResults, make: Callable[[StudyResults], Drawing | None]
) -> Drawing | None:
    """A figure of scores; what is maximised has scores below 0, which a log axis has no place for.

    Raises:
        ValueError: the study's scores are such.
    """
    if (study.rows[["score_selection", "score_reporting"]] < 0).any(axis=None):
        raise ValueError("its axis of scores is logarithmic, and these scores are below 0")
    return make(study)


def _facts(study: StudyResults) -> tuple[tuple[str, str], ...]:
    rows = study.rows[study.rows["update"].notna()]
    facts = [
        ("Model", study.model or "not recorded"),
        ("Domain", study.domain or "not recorded"),
        ("Trials", outcome_sentence(study)),
        ("Evaluation rows", f"{len(rows):,}, of which {unscored(study):,} have no finite score"),
        ("Seeds", ", ".join(str(seed) for seed in study.seeds) or "not recorded"),
        ("Score rule", f"`{study.score_rule}`: {SCORE_RULES[study.score_rule]}"),
        *_scored_by(study),
        ("Search", _search(study)),
    ]
    if study.notes:
        first = "; ".join(study.notes[:3])
        facts.append(("Notes in the ledger", f"{len(study.notes):,}: {first}"))
    return tuple(facts)


def _scored_by(study: StudyResults) -> Iterator[tuple[str, str]]:
    if study.is_weighted:
        yield "Score weights", _weights(study)
    if written := study.objective.beyond_weights():
        yield "Objective", f"`{written}`"
        yield from (("Constraints", note) for note in feasible_notes(study))


def _weights(study: StudyResults) -> str:
    if study.rescored is None:
        return study.weights.in_words() if study.spec is not None else "not recorded in a table"
    searched = "others" if study.spec is None else study.spec.objective.weights.in_words()
    return f"{study.rescored.in_words()}, asked for with `{OPTION}`; it was searched for {searched}"


def _search(study: StudyResults) -> str:
    if study.spec is None:
        return "not recorded in a result table"
    search = study.spec.search
    random = ""
    if search.sampler not in ("qmc", "random", "grid"):
        part = percentage(search.quasi_random_share)
        random = f", the first {part} of each method's trials drawn quasi-randomly"
    scheduler = search.scheduler.type
    stop = "no early stopping" if scheduler == "none" else f"early stopping by {scheduler}"
    return f"{search.sampler} sampler{random}; {stop}; sampler seed {search.seed}"


def _origin(study: StudyResults) -> tuple[tuple[str, str], ...]:
    facts = [("Source", study.source), ("Source SHA-256 (first 12 digits)", study.source_digest)]
    if study.spec is not None:
        facts.append(("Study digest", study.spec.results_digest()))
    header = sorted(pair for pair in study.header.items() if pair not in UNKNOWN)
    facts += [(name.replace("_", " ").replace(".", ": "), value) for name, value in header]
    return tuple(facts)
