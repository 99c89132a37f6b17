"""One study in the report: its own verdict, apart from any guideline. Words and tables, no
arithmetic left."""

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from ray_unlearn.analysis.figures.catalogue import draw_all
from ray_unlearn.analysis.numerals import share
from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.analysis.report import wording
from ray_unlearn.analysis.report.health import boundary_hits, unscored
from ray_unlearn.analysis.report.report_files import Output, Picture
from ray_unlearn.analysis.report.table_view import (
    Shown,
    baseline_table,
    chosen_table,
    outcome_table,
    verdict_table,
)
from ray_unlearn.analysis.report.verdict import verdict

UNKNOWN = (("retraining_flops", "0"), ("retraining_flops", "0.0"))
"""Header entries that stand for "not known"."""


ROWS_WORTH_A_PROCESS = 20_000


@dataclass(frozen=True)
class Section:
    """One study as the templates need it."""

    study: StudyResults
    anchor: str
    headline: list[str]
    verdict: Shown
    chosen: Shown
    outcomes: Shown
    baselines: Shown | None
    baseline_notes: list[str]
    health: list[tuple[str, str]]
    boundaries: list[str]
    pictures: list[Picture]
    provenance: list[tuple[str, str]]
    limits: list[str]


@contextmanager
def study_sections(
    studies: Sequence[StudyResults], out: Output
) -> Iterator[Callable[[], list[Section]]]:
    """The sections of all studies, made beside what happens inside the block; call what is given to
    have them.

    Drawing large studies takes as long as their statistics, so a process of its own does it, where
    processes fork.
    """
    named = [(study, out.unique(study.name)) for study in studies]
    rows = sum(len(study.rows) for study in studies)
    if sys.platform != "linux" or rows < ROWS_WORTH_A_PROCESS:
        yield lambda: [study_section(study, anchor, out) for study, anchor in named]
        return
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        begun = [pool.submit(study_section, study, anchor, out) for study, anchor in named]
        yield lambda: [section.result() for section in begun]


def study_section(study: StudyResults, anchor: str, out: Output) -> Section:
    """Everything the page says of one study; writes its figures and numbers."""
    table = verdict(study)
    out.csv(table, f"{anchor}-verdict")
    out.csv(study.baselines.reset_index(names="baseline"), f"{anchor}-baselines")
    hits = boundary_hits(study)
    return Section(
        study=study,
        anchor=anchor,
        headline=wording.headline(study, table),
        verdict=verdict_table(study, table),
        chosen=chosen_table(study, table),
        outcomes=outcome_table(table),
        baselines=baseline_table(study),
        baseline_notes=[
            text
            for text in (wording.agreement_sentence(study), wording.attack_check_sentence(study))
            if text
        ],
        health=_health(study),
        boundaries=[wording.boundary_sentence(hit) for _, hit in hits.iterrows()],
        pictures=[out.picture(drawing, f"{anchor}-") for drawing in draw_all(study)],
        provenance=_provenance(study),
        limits=wording.limits(study, table),
    )


def _health(study: StudyResults) -> list[tuple[str, str]]:
    rows = study.rows[study.rows["update"].notna()]
    facts = [
        ("Model", study.model or "not recorded"),
        ("Domain", study.domain or "not recorded"),
        ("Trials", wording.outcome_sentence(study)),
        ("Evaluation rows", f"{len(rows):,}, of which {unscored(study):,} have no finite score"),
        ("Seeds", ", ".join(str(seed) for seed in study.seeds) or "not recorded"),
    ]
    if study.spec is None:
        facts.append(("Search", "not recorded in a result table"))
    else:
        search = study.spec.search
        random = "" if search.sampler in ("qmc", "random", "grid") else (
            f", the first {share(search.quasi_random_share)} of each method's trials drawn quasi-randomly"
        )  # fmt: skip
        stop = (
            "no early stopping"
            if search.scheduler.type == "none"
            else f"early stopping by {search.scheduler.type}"
        )
        facts.append(
            ("Search", f"{search.sampler} sampler{random}; {stop}; sampler seed {search.seed}")
        )
    if study.notes:
        facts.append(
            ("Notes in the ledger", f"{len(study.notes):,}: " + "; ".join(study.notes[:3]))
        )
    return facts


def _provenance(study: StudyResults) -> list[tuple[str, str]]:
    facts = [("Source", study.source), ("Source SHA-256 (first 12 digits)", study.source_digest)]
    if study.spec is not None:
        facts.append(("Study digest", study.spec.results_digest()))
    header = {name: value for name, value in study.header.items() if (name, value) not in UNKNOWN}
    return facts + [
        (name.replace("_", " ").replace(".", ": "), value) for name, value in sorted(header.items())
    ]
