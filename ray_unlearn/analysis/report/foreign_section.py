"""Foreign tables on the page: the best trial of each, and what each column was taken for."""

from collections.abc import Sequence

import pandas as pd

from ray_unlearn.analysis.numerals import counted, plain
from ray_unlearn.analysis.read.study_results import Results
from ray_unlearn.analysis.report.page import Block, Heading, Paragraph, Section, Table, bullets_of
from ray_unlearn.analysis.report.provenance import columns_of
from ray_unlearn.analysis.report.report_files import ReportFolder
from ray_unlearn.spec.guideline_file import BestTrial, ScoreInfo

COLUMNS = "What each column was taken for"
CORRECT = (
    "If a column was taken for the wrong thing, say so: `--params a,b` names all hyperparameters, "
    "`--outcomes a,b` results, `--map THEIRS=OURS` anything else."
)


def best_of_tables(best: Sequence[BestTrial], score: ScoreInfo) -> list[BestTrial]:
    """The best trial of each foreign table, over its methods."""
    sign = 1.0 if score.direction == "minimize" else -1.0
    found: dict[str, BestTrial] = {}
    for one in sorted(best, key=lambda one: (sign * one.score, one.trial)):
        if one.label is not None:
            found.setdefault(one.study, one)
    return list(found.values())


def best_sentence(best: BestTrial, score: ScoreInfo) -> str:
    """Which trial is the best, its score and its hyperparameters, in one sentence."""
    way = "lower" if score.direction == "minimize" else "higher"
    method = f" ({best.method})" if best.method else ""
    where = "" if best.update is None else f" at step {best.update:g}"
    values = ", ".join(
        f"{name} {value if isinstance(value, str) else f'{value:.6g}'}"
        for name, value in best.hyperparameters.items()
    )
    return (
        f"best trial of {best.study}: {best.label}{method}, {score.name} {best.score:.6g}{where} "
        f"({way} is better); {values or 'no hyperparameter is known'}; trial {best.trial} in "
        "data/trials.csv"
    )


def best_blocks(best: Sequence[BestTrial], score: ScoreInfo) -> tuple[Block, ...]:
    """The best trial of each foreign table, and of each of its methods."""
    blocks: list[Block] = []
    for one in best_of_tables(best, score):
        sentence = best_sentence(one, score)
        blocks.append(Paragraph(f"{sentence[0].upper()}{sentence[1:]}."))
        others = [
            f"{other.method}: {other.label}, {plain(other.score)}"
            for other in best
            if other.study == one.study and other is not one and other.method
        ]
        blocks += bullets_of(others, muted=True)
    return tuple(blocks)


def columns_section(results: Results, out: ReportFolder) -> Section | None:
    """What each column of the foreign tables was taken for, and why; None without such tables."""
    lines = columns_of(results)
    if not lines:
        return None
    frame = pd.DataFrame(lines)
    out.csv(frame, out.unique("columns"))
    several = len(results.foreign) > 1
    headings = (
        *((Heading("table", numeric=False),) if several else ()),
        Heading("column", numeric=False),
        Heading("taken for", numeric=False),
        Heading("named here", numeric=False),
        Heading("why", numeric=False, wide=True),
    )
    cells = tuple(
        (
            *((one["source"],) if several else ()),
            f"`{one['column']}`",
            one["use"],
            one["name"],
            one["why"],
        )
        for one in lines
    )
    searched = int((frame["use"] == "hyperparameter").sum())
    caption = f"{counted(searched, 'hyperparameter')} of {counted(len(lines), 'column')}."
    return Section(COLUMNS, (Paragraph(CORRECT), Table(caption, headings, cells)), "columns")
