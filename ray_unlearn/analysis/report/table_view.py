"""Tables as they are shown: headings with unit, direction and meaning from the schema, cells as
text.

One description serves HTML and Markdown, so that the two never disagree.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from ray_unlearn.analysis.numerals import change, fixed, number, share, whole
from ray_unlearn.analysis.read.evaluation_rows import STATUSES
from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.analysis.report.verdict import HALF, ranked
from ray_unlearn.analysis.report.wording import others
from ray_unlearn.store.schema import COLUMNS

DIRECTIONS = {
    "minimize": "lower is better",
    "maximize": "higher is better",
    "target": "target 0.5",
    "none": "",
}
ARROWS = {"minimize": "\u2193", "maximize": "\u2191", "target": "\u2192 0.5", "none": ""}
ARROWS_EXPLAINED = "\u2193 lower is better, \u2191 higher is better, \u2192 0.5 is the target."
BASELINE_NAMES = {"vanilla": "vanilla model", "exact_retrain": "exactly retrained model"}
AUC_LOSS, AUC_MIN_K = f"mia_loss_auc_{HALF}", f"mia_min_k_pp_20_auc_{HALF}"


@dataclass(frozen=True)
class Heading:
    """A column: short label, unit or direction below it, and what it means."""

    label: str
    hint: str = ""
    meaning: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Shown:
    """A table ready for a template. `marks` names the method of each line, for its colour; empty:
    no colours."""

    caption: str
    headings: tuple[Heading, ...]
    lines: tuple[tuple[str, ...], ...]
    marks: tuple[str, ...] = ()


def heading(label: str, column: str, meaning: str = "") -> Heading:
    """A heading whose unit, direction and meaning come from the schema."""
    known = COLUMNS[column]
    unit = "" if known.unit == "1" else known.unit
    return Heading(
        label,
        " ".join(part for part in (unit, ARROWS[known.direction]) if part),
        meaning or known.description,
    )


_Field = tuple[Heading, Callable[[pd.Series], str]]


def verdict_table(study: StudyResults, table: pd.DataFrame) -> Shown:
    """What each method's chosen configuration reached, best first."""
    fields: list[_Field] = [
        (heading("score", f"score_{HALF}"), lambda r: number(r[f"score_{HALF}"])),
        (heading("forget ppl", "forget_ppl"), lambda r: number(r["forget_ppl"])),
        (
            Heading(
                "target",
                "forget ppl",
                "the vanilla model's perplexity on the approximate set, reporting half",
            ),
            lambda r: number(r["target_ppl"]),
        ),
        (heading("forget gap", f"forget_gap_{HALF}"), lambda r: number(r[f"forget_gap_{HALF}"], 2)),
        (
            Heading("retain ppl", "change \u2193", "retain perplexity against the vanilla model"),
            lambda r: change(r["retain_change"]),
        ),
        (
            Heading("general ppl", "change \u2193", "general perplexity against the vanilla model"),
            lambda r: change(r["general_change"]),
        ),
        (heading("MIA loss", AUC_LOSS), lambda r: fixed(r[AUC_LOSS])),
        (heading("MIA MinK++", AUC_MIN_K), lambda r: fixed(r[AUC_MIN_K])),
        (
            heading("extraction", "forget_extraction_strength"),
            lambda r: number(r["forget_extraction_strength"], 2),
        ),
        (_distance_heading(table), lambda r: number(r["distance"], 2)),
        (
            heading("efficiency", "efficiency_ratio"),
            lambda r: number(r["efficiency_ratio"], 2) + _times(r),
        ),
        (
            Heading(
                "feasible",
                "of rows",
                "share of candidate rows within the tolerances stated below the table",
            ),
            lambda r: share(r["feasible_share"]),
        ),
    ]
    caption = (
        "Best configuration of each method, chosen on the selection half; metrics on the reporting half. "
        + ARROWS_EXPLAINED
    )
    return _by_method(ranked(table), caption, fields)


def _times(row: pd.Series) -> str:
    return "" if pd.isna(row["efficiency_ratio"]) else "\u00d7"


def _distance_heading(table: pd.DataFrame) -> Heading:
    if (table["distance_to"] == "exact_retrain").any():
        return heading("distance to retrained", f"exact_distance_{HALF}")
    meaning = "no exactly retrained model was measured, so this is the forget gap to the approximate target"
    return Heading("distance to target", "nats/token \u2193", meaning)


def chosen_table(study: StudyResults, table: pd.DataFrame) -> Shown:
    """Which configuration it is, and which trial."""
    scored = ranked(table)
    fields: list[_Field] = [
        (Heading("learning rate", "", "peak learning rate"), lambda r: number(r["learning_rate"])),
        (Heading("updates", "", "optimizer updates"), lambda r: whole(r["update"])),
        (
            Heading(
                "other searched values",
                "",
                "hyperparameters beside learning rate and updates",
                numeric=False,
            ),
            lambda r: _rest(study, r),
        ),
        (Heading("trial", "", "number in the ledger"), lambda r: whole(r["number"])),
        (Heading("seed", "", "of data order and labels"), lambda r: whole(r["seed"])),
        (heading("score, selection", "score_selection"), lambda r: number(r["score_selection"])),
        (heading("score, reporting", f"score_{HALF}"), lambda r: number(r[f"score_{HALF}"])),
    ]
    return _by_method(scored, "The chosen configurations.", fields)


def _rest(study: StudyResults, row: pd.Series) -> str:
    if pd.isna(row["learning_rate"]):
        return number(float("nan"))
    return ", ".join(f"{name} {value}" for name, value in others(study, row).items()) or "none"


def outcome_table(table: pd.DataFrame) -> Shown:
    """How the trials of each method ended; nothing is left out."""
    labels = {"out_of_memory": "out of memory", "running": "no outcome yet"}
    fields: list[_Field] = [(Heading("trials"), lambda r: whole(r["trials"]))]

    def count_of(status: str) -> Callable[[pd.Series], str]:
        return lambda row: whole(row[status])

    fields += [(Heading(labels.get(status, status)), count_of(status)) for status in STATUSES]
    fields += [
        (
            Heading(
                "diverged", "share", "infeasible trials among complete, pruned and infeasible ones"
            ),
            lambda r: share(r["divergence_share"]),
        ),
        (
            Heading(
                "feasible trials",
                "of those decided",
                "complete, pruned or infeasible trials with a feasible row",
            ),
            lambda r: f"{whole(r['feasible_trials'])} of {whole(r['decided'])}",
        ),
        (
            Heading(
                "feasible rows",
                "of candidates",
                "evaluation rows that stand for a configuration and are feasible",
            ),
            lambda r: f"{whole(r['feasible_rows'])} of {whole(r['candidates'])}",
        ),
    ]
    return _by_method(
        table, "How the trials ended. Diverged trials are counted, never dropped.", fields
    )


def _by_method(table: pd.DataFrame, caption: str, fields: list[_Field]) -> Shown:
    return Shown(
        caption,
        (Heading("method", numeric=False), *(head for head, _ in fields)),
        tuple(
            (f"`{row['method']}`", *(text(row) for _, text in fields))
            for _, row in table.iterrows()
        ),
        tuple(table["method"]),
    )


def baseline_table(study: StudyResults) -> Shown | None:
    """Vanilla, the approximate target and the exactly retrained model; None where no baseline is
    known."""
    if study.baselines.empty:
        return None
    fields: list[_Field] = [
        (heading("forget ppl", "forget_ppl"), lambda r: number(r["forget_ppl"])),
        (
            heading("unseen ppl", f"approximate_ppl_{HALF}"),
            lambda r: number(r[f"approximate_ppl_{HALF}"]),
        ),
        (heading("retain ppl", f"retain_ppl_{HALF}"), lambda r: number(r[f"retain_ppl_{HALF}"])),
        (heading("general ppl", f"general_ppl_{HALF}"), lambda r: number(r[f"general_ppl_{HALF}"])),
        (heading("forget accuracy", "forget_accuracy"), lambda r: fixed(r["forget_accuracy"])),
        (heading("MIA loss", AUC_LOSS), lambda r: fixed(r[AUC_LOSS])),
        (heading("MIA MinK++", AUC_MIN_K), lambda r: fixed(r[AUC_MIN_K])),
        (
            heading("extraction", "forget_extraction_strength"),
            lambda r: number(r["forget_extraction_strength"], 2),
        ),
    ]
    lines = [(name, row) for name, row in study.baselines.iterrows()]
    vanilla = study.baseline("vanilla")
    if vanilla is not None:
        target = pd.Series(float("nan"), index=study.baselines.columns)
        target["forget_ppl"] = vanilla[f"approximate_ppl_{HALF}"]
        target["forget_accuracy"] = vanilla[f"approximate_accuracy_{HALF}"]
        target[AUC_LOSS] = target[AUC_MIN_K] = 0.5
        lines.insert(1, ("approximate target", target))
    return Shown(
        "Models that no trial changed. The approximate target is the vanilla model on unseen text of the same kind.",
        (Heading("model", numeric=False), *(head for head, _ in fields)),
        tuple(
            (BASELINE_NAMES.get(str(name), str(name)), *(text(row) for _, text in fields))
            for name, row in lines
        ),
    )
