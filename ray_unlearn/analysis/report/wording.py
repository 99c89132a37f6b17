"""The verdict on one study in sentences, rendered from its numbers.

Plain text: the templates escape it. A method name stands between backticks, which the templates
show as code.
"""

import math

import numpy as np
import pandas as pd

from ray_unlearn.analysis.best_trials import HALF, SCORE
from ray_unlearn.analysis.numerals import change, fixed, number, whole_number
from ray_unlearn.analysis.one_score import feasible_notes, score_unit
from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.analysis.report.verdict import ranked_methods
from ray_unlearn.analysis.tolerance import vanilla_score
from ray_unlearn.store.schema import AS_TRAINED, STATUSES

NO_SCORE = "no trial has a score yet"
STATUS_WORDS = {
    "complete": "complete",
    "pruned": "pruned (stopped early)",
    "diverged": "diverged",
    "out_of_memory": "out of memory",
    "failed": "failed",
    "running": "without an outcome",
}
ENDED = ("complete", "pruned")
NAMED_APART = ("method", "seed", "learning_rate", "steps")
"""Columns of a configuration that have a place of their own in sentences and tables."""


def configuration(study: StudyResults, row: pd.Series) -> str:
    """`learning rate 3.1e-4, 16 updates, w_r 2.5`: the values of all that the search varied."""
    rate, updates = number(row["learning_rate"], 2), whole_number(row["update"])
    others = [f"{name} {value}" for name, value in other_values(study, row).items()]
    if not (pd.isna(row["strength"]) or row["strength"] == AS_TRAINED):
        others.append(f"strength {number(row['strength'], 2)}")
    return ", ".join([f"learning rate {rate}", f"{updates} updates", *others])


def other_values(study: StudyResults, row: pd.Series) -> dict[str, str]:
    """Searched hyperparameters of this row's method beside learning rate and steps, with values."""
    names = [name for name in study.hyperparameters if name not in NAMED_APART]
    if study.spec is not None:
        sampled = study.spec.spaces[row["method"]].sampled()
        names = [name for name in names if name in sampled]
    else:
        rows = study.rows[study.rows["method"] == row["method"]]
        names = [name for name in names if rows[name].nunique() > 1]
    return {
        name: row[name] if isinstance(row[name], str) else number(float(row[name]))
        for name in names
    }


def headline(study: StudyResults, table: pd.DataFrame) -> list[str]:
    """The verdict in a few sentences, for the top of the page.

    Args:
        study: whose verdict it is.
        table: `verdict.verdict` of it.
    """
    order = ranked_methods(table)
    best = order.iloc[0]
    if math.isnan(best["score_selection"]):
        return [f"There is no verdict: {_no_score(study)}. {outcome_sentence(study)}"]
    vanilla = study.baseline("vanilla")
    if vanilla is None:
        return [
            f"`{best['method']}` has the lowest score: {_with_unit(best[SCORE], study)} with "
            f"{configuration(study, best)}.",
            "The baselines are not known, so target, change of utility and feasibility are "
            "withheld.",
            *_runner_up(order),
        ]
    sentences = [
        f"{_leads(study, best)} Its best configuration ({configuration(study, best)}) takes forget "
        f"perplexity from {number(vanilla['forget_ppl'])} to {number(best['forget_ppl'])}, where "
        f"{number(best['target_ppl'])} is the target, and changes perplexity by "
        f"{change(best['retain_change'])} on retain text and {change(best['general_change'])} on "
        "general text.",
        _attack_sentence(best, vanilla),
        _feasibility_sentence(best, study),
        *_share_sentence(study),
        _nothing_sentence(order, study),
        *_runner_up(order),
        _exact_sentence(order),
        _count_sentence(order),
    ]
    return [sentence for sentence in sentences if sentence]


def _with_unit(score: float, study: StudyResults) -> str:
    return f"{number(score)} {score_unit(study)}".rstrip()


def _attack_sentence(best: pd.Series, vanilla: pd.Series) -> str:
    name = f"mia_loss_auc_{HALF}"
    if math.isnan(best[name]) or math.isnan(vanilla[name]):
        return ""
    text = (
        f"The loss attack's AUC goes from {fixed(vanilla[name])} to {fixed(best[name])}; 0.5 is "
        "the target."
    )
    if math.isnan(cost := best["efficiency_ratio"]):
        return text
    return f"{text} Its updates took 1/{number(cost, 2)} of the FLOPs of retraining."


def _leads(study: StudyResults, best: pd.Series) -> str:
    if study.is_weighted:
        return (
            f"`{best['method']}` came closest, by the study's score, to a model that never saw the "
            "forget set."
        )
    return (
        f"`{best['method']}` has the lowest score, {number(best[SCORE])}, by the study's objective "
        f"(`{study.objective.beyond_weights()}`)."
    )


def _no_score(study: StudyResults) -> str:
    """Why no trial has a score: of a study with constraints, how near the nearest evaluation is."""
    rows = study.rows
    if "violation_selection" not in rows:
        return NO_SCORE
    outside = rows[rows["status"].isin(ENDED) & np.isfinite(rows["score_selection"])]
    if outside.empty:
        return NO_SCORE
    nearest = outside.sort_values(["violation_selection", "number"], kind="stable").iloc[0]
    metrics = {str(name): value for name, value in nearest.items()}
    broken = study.rule.broken(metrics)
    return (
        f"no trial is within the constraints; nearest is trial {nearest['number']} "
        f"(`{nearest['method']}`): {'; '.join(broken)}"
    )


def _share_sentence(study: StudyResults) -> list[str]:
    return [f"{note[0].upper()}{note[1:]}." for note in feasible_notes(study)]


def _feasibility_sentence(best: pd.Series, study: StudyResults) -> str:
    if study.objective.subject_to:
        if best["feasible"] == True:  # noqa: E712, as below
            return "It is within the study's constraints on the reporting half too."
        metrics = {str(name): value for name, value in best.items()}
        broken = study.rule.broken(metrics, HALF)
        return (
            "It is within the study's constraints on the selection half, and not on the reporting "
            f"half: {'; '.join(broken)}."
        )
    if best["feasible"] == True:  # noqa: E712, an object column: True, False or NaN
        return "That is feasible by this page's definition."
    return "That is not feasible by this page's definition: closest does not mean close."


def _runner_up(order: pd.DataFrame) -> list[str]:
    scored = order[order["score_selection"].notna()]
    if len(scored) < 2:
        return [] if len(order) < 2 else ["No other method has a score."]
    best, second = scored.iloc[0], scored.iloc[1]
    text = (
        f"Next comes `{second['method']}`: score {number(second[SCORE])} against "
        f"{number(best[SCORE])} (lower is better)."
    )
    lowest = scored.sort_values(SCORE, kind="stable").iloc[0]
    if lowest["method"] != best["method"]:
        text += (
            " The choice was made on the selection half; on the reporting half "
            f"`{lowest['method']}` is lower ({number(lowest[SCORE])}), so which method leads is "
            "not settled."
        )
    return [text]


def _exact_sentence(order: pd.DataFrame) -> str:
    """Where the exactly retrained model, which the score ignores, favours another method."""
    known = order[order["distance"].notna() & (order["distance_to"] == "exact_retrain")]
    if known.empty:
        return ""
    nearest, best = known.sort_values("distance", kind="stable").iloc[0], order.iloc[0]
    if nearest["method"] == best["method"]:
        return ""
    return (
        f"Measured against the exactly retrained model, `{nearest['method']}` is nearest: "
        f"{number(nearest['distance'], 2)} nats/token from it, against "
        f"{number(best['distance'], 2)}."
    )


def _nothing_sentence(order: pd.DataFrame, study: StudyResults) -> str:
    """Doing nothing has a score too; a method that does not beat it has done harm."""
    nothing = math.nan if study.spec is None else vanilla_score(study)
    scores = order[SCORE]
    if math.isnan(nothing) or scores.iloc[0] < nothing:
        return ""
    if (scores < nothing).any():
        return (
            "It does not beat doing nothing, whose score on the reporting half is "
            f"{number(nothing)}."
        )
    return f"No method beats doing nothing, whose score is {number(nothing)}."


def _count_sentence(order: pd.DataFrame) -> str:
    able = int((order["feasible_rows"] > 0).sum())
    lost = int(order["score_selection"].isna().sum())
    text = f"{able} of {len(order)} methods have a feasible configuration"
    return f"{text}, {lost} have no score." if lost else f"{text}."


def outcome_sentence(study: StudyResults) -> str:
    """`84 trials: 69 complete, 3 pruned ...`, with what was planned."""
    counts = study.outcomes
    parts = [f"{counts[status]:,} {STATUS_WORDS[status]}" for status in STATUSES if counts[status]]
    total = sum(counts.values())
    planned = "" if study.planned is None else f" of {study.planned:,} planned"
    noun = "trial" if total == 1 and not planned else "trials"
    return f"{total:,}{planned} {noun}: {', '.join(parts)}."
