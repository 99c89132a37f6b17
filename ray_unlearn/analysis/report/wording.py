"""Sentences rendered from numbers, and numbers rendered for reading. No sentence of a report is
written by hand.

Plain text: the templates escape it. A method name stands between backticks, which the templates
show as code.
"""

import math

import pandas as pd

from ray_unlearn.analysis.numerals import MINUS, change, fixed, number, whole
from ray_unlearn.analysis.read.evaluation_rows import STATUSES
from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.analysis.report.verdict import (
    FORGET_TOLERANCE,
    HALF,
    UTILITY_TOLERANCE,
    agreement,
    ranked,
)

NO_SCORE = "no trial has a score yet"
STATUS_WORDS = {
    "complete": "complete",
    "pruned": "pruned (stopped early)",
    "infeasible": "infeasible (diverged)",
    "out_of_memory": "out of memory",
    "failed": "failed",
    "running": "without an outcome",
}


def configuration(study: StudyResults, row: pd.Series) -> str:
    """`learning rate 3.1e-4, 16 updates, w_r 2.5`: the chosen values of all that the search
    varied."""
    parts = [f"learning rate {number(row['learning_rate'], 2)}", f"{whole(row['update'])} updates"]
    return ", ".join([*parts, *(f"{name} {value}" for name, value in others(study, row).items())])


def others(study: StudyResults, row: pd.Series) -> dict[str, str]:
    """Searched hyperparameters of this row's method beside learning rate and steps, with their
    chosen values."""
    rows = study.rows[study.rows["method"] == row["method"]]
    names = [name for name in study.rows.columns if name in _SEARCHABLE]
    if study.spec is not None:
        sampled = study.spec.spaces[row["method"]].sampled()
        names = [name for name in names if name in sampled]
    else:
        names = [name for name in names if rows[name].nunique() > 1]
    return {
        name: row[name] if isinstance(row[name], str) else number(float(row[name]))
        for name in names
    }


_SEARCHABLE = (
    "batch_size", "retain_ratio", "w_f", "w_r", "schedule", "warmup_steps", "warmup_ratio", "weight_decay", "max_grad_norm",
)  # fmt: skip


def headline(study: StudyResults, table: pd.DataFrame) -> list[str]:
    """The verdict on one study in a few sentences, for the top of the page."""
    order = ranked(table)
    best = order.iloc[0]
    if math.isnan(best["score_selection"]):
        return [f"There is no verdict: {NO_SCORE}. {outcome_sentence(study)}"]
    vanilla = study.baseline("vanilla")
    if vanilla is None:
        return [
            f"`{best['method']}` has the lowest score: {number(best[f'score_{HALF}'])} nats/token with "
            f"{configuration(study, best)}.",
            "The baselines are not known, so target, change of utility and feasibility are withheld.",
            *_runner_up(order),
        ]
    sentences = [
        f"`{best['method']}` came closest, by the study's score, to a model that never saw the forget set. Its best configuration "
        f"({configuration(study, best)}) takes forget perplexity from {number(vanilla['forget_ppl'])} to "
        f"{number(best['forget_ppl'])}, where {number(best['target_ppl'])} is the target, and changes perplexity by "
        f"{change(best['retain_change'])} on retain text and {change(best['general_change'])} on general text.",
        _attack_sentence(best, vanilla),
        _feasibility_sentence(best),
        _nothing_sentence(order, vanilla, study),
        *_runner_up(order),
        _exact_sentence(order),
        _count_sentence(order),
    ]
    return [sentence for sentence in sentences if sentence]


def _attack_sentence(best: pd.Series, vanilla: pd.Series) -> str:
    name = f"mia_loss_auc_{HALF}"
    if math.isnan(best[name]) or math.isnan(vanilla[name]):
        return ""
    cost = best["efficiency_ratio"]
    ratio = (
        ""
        if math.isnan(cost)
        else f" Its updates took 1/{number(cost, 2)} of the FLOPs of retraining."
    )
    return f"The loss attack's AUC goes from {fixed(vanilla[name])} to {fixed(best[name])}; 0.5 is the target.{ratio}"


def _feasibility_sentence(best: pd.Series) -> str:
    if best["feasible"] is True or best["feasible"] == 1:
        return "That is feasible by this page's definition."
    return "That is not feasible by this page's definition: closest does not mean close."


def _runner_up(order: pd.DataFrame) -> list[str]:
    scored = order[order["score_selection"].notna()]
    if len(scored) < 2:
        return [] if len(order) < 2 else ["No other method has a score."]
    best, second = scored.iloc[0], scored.iloc[1]
    column = f"score_{HALF}"
    text = f"Next comes `{second['method']}`: score {number(second[column])} against {number(best[column])} (lower is better)."
    lowest = scored.sort_values(column, kind="stable").iloc[0]
    if lowest["method"] != best["method"]:
        text += (
            f" The choice was made on the selection half; on the reporting half `{lowest['method']}` is lower "
            f"({number(lowest[column])}), so which method leads is not settled."
        )
    return [text]


def _exact_sentence(order: pd.DataFrame) -> str:
    """Where the exactly retrained model, which the score does not look at, favours another
    method."""
    known = order[order["distance"].notna() & (order["distance_to"] == "exact_retrain")]
    if (
        known.empty
        or (nearest := known.sort_values("distance", kind="stable").iloc[0])["method"]
        == order.iloc[0]["method"]
    ):
        return ""
    return (
        f"Measured against the exactly retrained model, `{nearest['method']}` is nearest: {number(nearest['distance'], 2)} "
        f"nats/token from it, against {number(order.iloc[0]['distance'], 2)}."
    )


def _nothing_sentence(order: pd.DataFrame, vanilla: pd.Series, study: StudyResults) -> str:
    """Doing nothing has a score too; a method that does not beat it has done harm."""
    if study.spec is None:
        return ""
    nothing = study.spec.objective.forget_gap * abs(
        float(vanilla["forget_nll"] - vanilla[f"approximate_nll_{HALF}"])
    )
    scores = order[f"score_{HALF}"]
    if math.isnan(nothing) or scores.iloc[0] < nothing:
        return ""
    if (scores < nothing).any():
        return f"It does not beat doing nothing, whose score on the reporting half is {number(nothing)}."
    return f"No method beats doing nothing, whose score is {number(nothing)}."


def _count_sentence(order: pd.DataFrame) -> str:
    able = int((order["feasible_rows"] > 0).sum())
    scored = int(order["score_selection"].notna().sum())
    return (
        f"{able} of {len(order)} methods have a feasible configuration."
        if scored == len(order)
        else f"{able} of {len(order)} methods have a feasible configuration, {len(order) - scored} have no score."
    )


def outcome_sentence(study: StudyResults) -> str:
    """`84 trials: 69 complete, 3 pruned ...`, with what was planned."""
    counts = study.outcomes
    parts = [f"{counts[status]:,} {STATUS_WORDS[status]}" for status in STATUSES if counts[status]]
    total = sum(counts.values())
    planned = "" if study.planned is None else f" of {study.planned:,} planned"
    return f"{total:,}{planned} {'trial' if total == 1 and not planned else 'trials'}: {', '.join(parts)}."


def agreement_sentence(study: StudyResults) -> str:
    """Whether the approximate target says what exact retraining says."""
    vanilla, exact = study.baseline("vanilla"), study.baseline("exact_retrain")
    if vanilla is None:
        return "The baselines are not known here, so there is no target to compare with."
    target = vanilla[f"approximate_ppl_{HALF}"]
    difference = agreement(study)
    if exact is None or difference is None:
        return (
            f"The target, forget perplexity {number(target)}, is approximate: it is the vanilla model's perplexity on unseen "
            "text of the same kind. No exactly retrained model was measured, so this page cannot say how good it is."
        )
    way = "above" if difference > 0 else "below"
    ratio = change(math.exp(difference) - 1).lstrip("+" + MINUS)
    facts = (
        f"The exactly retrained model has forget perplexity {number(exact['forget_ppl'])}, {ratio} {way} the approximate "
        f"target of {number(target)} ({number(abs(difference), 2)} nats/token)"
    )
    if abs(difference) <= math.log(FORGET_TOLERANCE) + 1e-9:
        return facts + f": within {_percent(FORGET_TOLERANCE)}, they agree."
    return facts + (
        f": they differ by more than {_percent(FORGET_TOLERANCE)}, so a forget gap smaller than that difference says little, "
        "and the distance to the exactly retrained model is the number to trust."
    )


def attack_check_sentence(study: StudyResults) -> str:
    """Whether forget and approximate documents differ for reasons other than membership."""
    exact = study.baseline("exact_retrain")
    if exact is None or math.isnan(exact[f"mia_loss_auc_{HALF}"]):
        return ""
    auc = float(exact[f"mia_loss_auc_{HALF}"])
    if 0.45 <= auc <= 0.55:
        return f"On the exactly retrained model the loss attack has AUC {fixed(auc)}, near 0.5: the two sets are comparable."
    return (
        f"On the exactly retrained model, which never saw the forget set, the loss attack has AUC {fixed(auc)}: the sets differ "
        "for reasons other than membership, and an AUC of 0.5 is the wrong target here."
    )


def feasibility_definition() -> str:
    """What this page calls feasible."""
    return (
        f"A configuration is feasible when its forget perplexity lies within {_percent(FORGET_TOLERANCE)} of the target "
        f"(|ln ppl(U) {MINUS} ln target| at most ln {FORGET_TOLERANCE:.2f}) and its retain and general perplexity are at most "
        f"{UTILITY_TOLERANCE:.2f} times those of the vanilla model, all on the reporting half."
    )


def boundary_sentence(hit: pd.Series) -> str:
    """One chosen value at the edge of the search."""
    if hit["parameter"] == "update":
        where = "fewest" if hit["side"] == "low" else "most"
        fact = f"{whole(hit['value'])} updates is the {where} that was evaluated"
    else:
        where = "lower" if hit["side"] == "low" else "upper"
        name = str(hit["parameter"]).replace("learning_rate", "learning rate")
        fact = f"{name} {number(hit['value'])} lies at the {where} bound of the search, {number(hit['bound'])}"
    return f"`{hit['method']}`: {fact}; the optimum may lie outside."


def _percent(tolerance: float) -> str:
    return f"{100 * (tolerance - 1):.0f} %"


def limits(study: StudyResults, table: pd.DataFrame) -> list[str]:
    """What this study cannot say."""
    seeds, trials = len(study.seeds), table["trials"]
    limits = [
        "What is said here of this study describes it alone: one model, one domain, the trials there are. What may be taken "
        "elsewhere stands at the top of the page, with its grade and what it holds for.",
    ]
    if seeds < 3:
        limits.append(
            f"{'One seed' if seeds == 1 else f'{seeds} seeds'}: how much a score moves when only the seed changes is not known, "
            "so a small lead of one method over another may be chance."
        )
    fewest, most = int(trials.min()), int(trials.max())
    count = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
    limits.append(
        f"Each method had {count} {'trial' if fewest == most == 1 else 'trials'}"
        + (
            ""
            if fewest == most
            else ", and a method with more trials has better odds of a good one"
        )
        + ". Ranks follow the search's budget and bounds as much as the method."
    )
    limits.append(
        "The best of many is lucky. Choosing on the selection half and reporting on the other removes the luck that comes from "
        "documents of the retain, general and unseen sets; the forget set is whole in both halves, and the luck of the training "
        "run stays."
    )
    if study.spec is not None and study.spec.model.source.startswith("demo:"):
        limits.append(
            "This is the bundled demonstration: a very small model trained from scratch on public-domain text. It shows the "
            "machinery; it is not the data, nor the scale, of the published study of these methods."
        )
    return limits
