"""The tables of one study: headings with unit, direction and meaning from the schema."""

from collections.abc import Callable, Sequence

import pandas as pd

from ray_unlearn.analysis.best_trials import HALF, SCORE
from ray_unlearn.analysis.numerals import change, fixed, number, percentage, whole_number
from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.analysis.report.page import Heading, Table
from ray_unlearn.analysis.report.verdict import ranked_methods
from ray_unlearn.analysis.report.wording import other_values
from ray_unlearn.store.schema import AS_TRAINED, COLUMNS, STATUSES

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
STATUS_HEADINGS = {"out_of_memory": "out of memory", "running": "no outcome yet"}
EXPLAINED = (
    "forget_ppl", "approximate_ppl_reporting", "retain_ppl_reporting", "general_ppl_reporting",
    "forget_gap_reporting", "utility_loss_reporting", "score_reporting", "exact_distance_reporting",
    "mia_loss_auc_reporting", "mia_min_k_pp_20_auc_reporting", "forget_extraction_strength",
    "efficiency_ratio",
)  # fmt: skip
"""Metrics of the page, in the order in which it explains them."""

_Field = tuple[Heading, Callable[[pd.Series], str]]


def heading(label: str, column: str) -> Heading:
    """A heading whose unit, direction and meaning come from the schema."""
    known = COLUMNS[column]
    unit = "" if known.unit == "1" else known.unit
    hint = " ".join(part for part in (unit, ARROWS[known.direction]) if part)
    return Heading(label, hint, known.description)


def _metric(label: str, column: str, digits: int = 3) -> _Field:
    return heading(label, column), lambda row: number(row[column], digits)


def _auc(label: str, column: str) -> _Field:
    return heading(label, column), lambda row: fixed(row[column])


def _count(label: str, column: str, hint: str = "", meaning: str = "") -> _Field:
    return Heading(label, hint, meaning), lambda row: whole_number(row[column])


def _change(label: str, column: str) -> _Field:
    head = Heading(f"{label} ppl", "change \u2193", f"{label} perplexity against vanilla")
    return head, lambda row: change(row[column])


def _ratio(label: str, hint: str, meaning: str, part: str, of: str) -> _Field:
    head = Heading(label, hint, meaning)
    return head, lambda row: f"{whole_number(row[part])} of {whole_number(row[of])}"


def verdict_table(table: pd.DataFrame, rule: str) -> Table:
    """What each method's chosen configuration reached, best first.

    Args:
        table: `verdict.verdict` of a study.
        rule: the study's score rule.
    """
    target = "the vanilla model's perplexity on the approximate set, reporting half"
    feasible = "share of candidate rows within the tolerances stated below the table"
    fields: list[_Field] = [
        _metric("score", SCORE),
        _metric("forget ppl", "forget_ppl"),
        (Heading("target", "forget ppl", target), lambda row: number(row["target_ppl"])),
        _metric("forget gap", f"forget_gap_{HALF}", 2),
        _change("retain", "retain_change"),
        _change("general", "general_change"),
        _auc("MIA loss", AUC_LOSS),
        _auc("MIA MinK++", AUC_MIN_K),
        _metric("extraction", "forget_extraction_strength", 2),
        (_distance_heading(table), lambda row: number(row["distance"], 2)),
        (heading("efficiency", "efficiency_ratio"), _efficiency),
        (Heading("feasible", "of rows", feasible), lambda row: percentage(row["feasible_share"])),
    ]
    caption = (
        f"Best configuration of each method by the score rule `{rule}`, chosen on the selection "
        f"half; metrics on the reporting half. {ARROWS_EXPLAINED}"
    )
    return _by_method(ranked_methods(table), caption, fields)


def _efficiency(row: pd.Series) -> str:
    ratio = row["efficiency_ratio"]
    return number(ratio, 2) + ("" if pd.isna(ratio) else "\u00d7")


def _distance_heading(table: pd.DataFrame) -> Heading:
    if (table["distance_to"] == "exact_retrain").any():
        return heading("distance to retrained", f"exact_distance_{HALF}")
    meaning = (
        "no exactly retrained model was measured, so this is the forget gap to the approximate "
        "target"
    )
    return Heading("distance to target", "nats/token \u2193", meaning)


def chosen_table(study: StudyResults, table: pd.DataFrame) -> Table:
    """Which configuration each method's best is, and which trial."""

    def others(row: pd.Series) -> str:
        if pd.isna(row["learning_rate"]):
            return number(float("nan"))
        values = other_values(study, row).items()
        return ", ".join(f"{name} {value}" for name, value in values) or "none"

    rest = "hyperparameters beside learning rate and updates"
    fields: list[_Field] = [
        (
            Heading("learning rate", "", "peak learning rate"),
            lambda row: number(row["learning_rate"]),
        ),
        _count("updates", "update", meaning="optimizer updates"),
        *_strength(table),
        (Heading("other searched values", "", rest, numeric=False), others),
        _count("trial", "number", meaning="number in the ledger"),
        _count("seed", "seed", meaning="of data order and labels"),
        _metric("score, selection", "score_selection"),
        _metric("score, reporting", SCORE),
    ]
    return _by_method(ranked_methods(table), "The chosen configurations.", fields)


def _strength(table: pd.DataFrame) -> list[_Field]:
    """The strength of each configuration, where one is not as trained."""
    if (table["strength"].dropna() == AS_TRAINED).all():
        return []
    meaning = "a in W\u2080 + a (W\u209c \u2212 W\u2080): 1 as trained, above 1 extrapolated"
    return [(Heading("strength", "", meaning), lambda row: number(row["strength"], 2))]


def outcome_table(table: pd.DataFrame) -> Table:
    """How the trials of each method ended; nothing is left out."""
    diverged = "diverged trials among complete, pruned and diverged ones"
    fields: list[_Field] = [
        _count("trials", "trials"),
        *(_count(STATUS_HEADINGS.get(status, status), status) for status in STATUSES),
        (Heading("diverged", "share", diverged), lambda row: percentage(row["divergence_share"])),
        _ratio(
            "feasible trials", "of those decided",
            "complete, pruned or diverged trials with a feasible row",
            "feasible_trials", "decided",
        ),
        _ratio(
            "feasible rows", "of candidates",
            "evaluation rows that stand for a configuration and are feasible",
            "feasible_rows", "candidates",
        ),
    ]  # fmt: skip
    caption = "How the trials ended. Diverged trials are counted, never dropped."
    return _by_method(table, caption, fields)


def _by_method(table: pd.DataFrame, caption: str, fields: Sequence[_Field]) -> Table:
    lines = [
        (f"`{row['method']}`", *(text(row) for _, text in fields)) for _, row in table.iterrows()
    ]
    headings = (Heading("method", numeric=False), *(head for head, _ in fields))
    return Table(caption, headings, tuple(lines), tuple(table["method"]))


def reference_table(study: StudyResults) -> Table | None:
    """Vanilla, approximate target and exactly retrained model; None where no baseline is known."""
    if study.baselines.empty:
        return None
    fields: list[_Field] = [
        _metric("forget ppl", "forget_ppl"),
        _metric("unseen ppl", f"approximate_ppl_{HALF}"),
        _metric("retain ppl", f"retain_ppl_{HALF}"),
        _metric("general ppl", f"general_ppl_{HALF}"),
        _auc("forget accuracy", "forget_accuracy"),
        _auc("MIA loss", AUC_LOSS),
        _auc("MIA MinK++", AUC_MIN_K),
        _metric("extraction", "forget_extraction_strength", 2),
    ]
    models = [(BASELINE_NAMES.get(str(n), str(n)), row) for n, row in study.baselines.iterrows()]
    vanilla = study.baseline("vanilla")
    if vanilla is not None:
        models.insert(1, ("approximate target", _approximate_target(vanilla)))
    return Table(
        "Models that no trial changed. The approximate target is the vanilla model on unseen text "
        "of the same kind.",
        (Heading("model", numeric=False), *(head for head, _ in fields)),
        tuple((name, *(text(row) for _, text in fields)) for name, row in models),
    )


def _approximate_target(vanilla: pd.Series) -> pd.Series:
    target = pd.Series(float("nan"), index=vanilla.index)
    target["forget_ppl"] = vanilla[f"approximate_ppl_{HALF}"]
    target["forget_accuracy"] = vanilla[f"approximate_accuracy_{HALF}"]
    target[AUC_LOSS] = target[AUC_MIN_K] = 0.5
    return target


def metrics_table() -> Table:
    """What the metrics of the page mean, from the schema."""
    headings = (
        Heading("metric", numeric=False),
        Heading("unit", numeric=False),
        Heading("direction", numeric=False),
        Heading("meaning", numeric=False, wide=True),
    )
    lines = [
        (
            f"`{name}`",
            COLUMNS[name].unit,
            DIRECTIONS[COLUMNS[name].direction] or "none by itself",
            COLUMNS[name].description,
        )
        for name in EXPLAINED
    ]
    return Table("Metrics of this page.", headings, tuple(lines))
