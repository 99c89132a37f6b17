"""What one study measures beside the columns of every study, of the best trials and baselines."""

from typing import Any

import pandas as pd

from ray_unlearn.analysis.best_trials import best_rows
from ray_unlearn.analysis.numerals import number
from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.analysis.report.page import Heading, Paragraph, Section, Table
from ray_unlearn.analysis.report.study_tables import ARROWS, ARROWS_EXPLAINED, BASELINE_NAMES
from ray_unlearn.store.schema import Column
from ray_unlearn.store.study_columns import extra_columns, extra_names

TITLE = "Watched sets, answers and tasks"
READING = (
    "Sets, metrics and tasks that this study asked for (`evaluation`), beside those of every "
    "study. They are no part of the weighted score, and of whole sets where no half is named."
)


def own_columns_section(study: StudyResults, anchor: str) -> tuple[Section, ...]:
    """A table with a line per column; none where the study has none."""
    best = best_rows(study.rows).set_index("method")
    names = [
        name
        for name in extra_names(map(str, study.rows.columns))
        if not name.endswith("_nll") and _known(study, best, name)
    ]
    if not names:
        return ()
    models: list[tuple[str, Any]] = [
        (BASELINE_NAMES.get(str(name), str(name)), row) for name, row in study.baselines.iterrows()
    ]
    models += [(f"`{name}`", best.loc[name]) for name in study.methods if name in best.index]
    columns = {} if study.spec is None else extra_columns(study.spec)
    headings = (
        Heading("metric", numeric=False),
        Heading("unit", numeric=False),
        *(Heading(label) for label, _ in models),
    )
    lines = tuple(
        (
            f"`{name}`",
            _hint(columns.get(name)),
            *(number(float(row.get(name, float("nan"))), 3) for _, row in models),
        )
        for name in names
    )
    caption = f"Models that no trial changed, and the best trial of each method. {ARROWS_EXPLAINED}"
    table = Table(caption, headings, lines)
    return (Section(TITLE, (Paragraph(READING), table), f"{anchor}-own-columns"),)


def _known(study: StudyResults, best: pd.DataFrame, name: str) -> bool:
    return any(name in part and bool(part[name].notna().any()) for part in (best, study.baselines))


def _hint(column: Column | None) -> str:
    if column is None:
        return ""
    unit = "" if column.unit == "1" else column.unit
    return " ".join(part for part in (unit, ARROWS[column.direction]) if part)
