"""What a reader must know about one study before using its numbers, in sentences."""

import math

import pandas as pd

from ray_unlearn.analysis.best_trials import HALF
from ray_unlearn.analysis.numerals import MINUS, change, fixed, number, whole_number
from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.analysis.report.verdict import agreement, forget_tolerance
from ray_unlearn.store.target import FORGET_TOLERANCE, UTILITY_TOLERANCE

COMPARABLE_AUC = (0.45, 0.55)
"""Attack AUC on the exactly retrained model at which forget and unseen text count as alike."""


def agreement_sentence(study: StudyResults) -> str:
    """Whether the approximate target says what exact retraining says."""
    vanilla, exact = study.baseline("vanilla"), study.baseline("exact_retrain")
    if vanilla is None:
        return "The baselines are not known here, so there is no target to compare with."
    target = number(vanilla[f"approximate_ppl_{HALF}"])
    difference = agreement(study)
    if exact is None or difference is None:
        return (
            f"The target, forget perplexity {target}, is approximate: it is the vanilla model's "
            "perplexity on unseen text of the same kind. No exactly retrained model was measured, "
            "so this page cannot say how good it is."
        )
    way = "above" if difference > 0 else "below"
    ratio = change(math.exp(difference) - 1).lstrip("+" + MINUS)
    facts = (
        f"The exactly retrained model has forget perplexity {number(exact['forget_ppl'])}, {ratio} "
        f"{way} the approximate target of {target} ({number(abs(difference), 2)} nats/token)"
    )
    tolerance = forget_tolerance(study)
    limit = _percent(math.exp(tolerance))
    if abs(difference) <= tolerance + 1e-9:
        return f"{facts}: within {limit}, they agree."
    return (
        f"{facts}: they differ by more than {limit}, so a forget gap smaller than that difference "
        "says little, and the distance to the exactly retrained model is the number to trust."
    )


def attack_check_sentence(study: StudyResults) -> str:
    """Whether forget and approximate documents differ for reasons other than membership."""
    exact = study.baseline("exact_retrain")
    if exact is None or math.isnan(exact[f"mia_loss_auc_{HALF}"]):
        return ""
    auc = float(exact[f"mia_loss_auc_{HALF}"])
    if COMPARABLE_AUC[0] <= auc <= COMPARABLE_AUC[1]:
        return (
            f"On the exactly retrained model the loss attack has AUC {fixed(auc)}, near 0.5: the "
            "two sets are comparable."
        )
    return (
        "On the exactly retrained model, which never saw the forget set, the loss attack has AUC "
        f"{fixed(auc)}: the sets differ for reasons other than membership, and an AUC of 0.5 is "
        "the wrong target here."
    )


def feasibility_definition(study: StudyResults) -> str:
    """What this page calls feasible in a study."""
    if study.objective.subject_to:
        return (
            "A configuration is feasible when it is within the study's constraints "
            f"(`{study.objective.beyond_weights()}`) on the reporting half. The selection half "
            "decided which evaluations could be chosen."
        )
    return (
        f"A configuration is feasible when its forget perplexity is within "
        f"{_percent(FORGET_TOLERANCE)} of the target (|ln ppl(U) {MINUS} ln target| at most ln "
        f"{FORGET_TOLERANCE:.2f}) and its retain and general perplexity are at most "
        f"{UTILITY_TOLERANCE:.2f} times those of the vanilla model, all on the reporting half. "
        "Where the target itself is known less well than that (its 90 % interval over the unseen "
        "documents is wider), a forget perplexity inside the interval meets it; data health says "
        "where."
    )


def boundary_sentence(hit: pd.Series) -> str:
    """One chosen value at the edge of the search; a line of `health.boundary_hits`."""
    low = hit["side"] == "low"
    if hit["parameter"] == "update":
        extreme = "fewest" if low else "most"
        fact = f"{whole_number(hit['value'])} updates is the {extreme} that was evaluated"
    else:
        name = str(hit["parameter"]).replace("learning_rate", "learning rate")
        fact = (
            f"{name} {number(hit['value'])} is at the {'lower' if low else 'upper'} bound of the "
            f"search, {number(hit['bound'])}"
        )
    return f"`{hit['method']}`: {fact}; the optimum may be outside."


def no_boundary_sentence(study: StudyResults) -> str:
    """No chosen value is at the edge of the search."""
    searched = (
        "what was searched"
        if study.spec is not None
        else "the evaluated updates; the bounds of the search space are not recorded in a table"
    )
    return f"No chosen configuration is at a bound of {searched}."


def _percent(tolerance: float) -> str:
    return f"{100 * (tolerance - 1):.0f} %"


def study_limits(study: StudyResults, table: pd.DataFrame) -> list[str]:
    """What this study cannot say. table: `verdict.verdict` of it."""
    limits = [
        "What is said here describes this study alone: one model, one domain, the trials there "
        "are. What may be used elsewhere is at the top of the page, with its grade and what it "
        "holds for."
    ]
    seeds = len(study.seeds)
    if seeds < 3:
        limits.append(
            f"{'One seed' if seeds == 1 else f'{seeds} seeds'}: how much a score moves when only "
            "the seed changes is not known, so a small lead of one method over another may be "
            "chance."
        )
    limits.append(_trials_sentence(int(table["trials"].min()), int(table["trials"].max())))
    limits.append(
        "The best of many is lucky. Choosing on the selection half and reporting on the other "
        "removes the luck that comes from documents of the retain, general and unseen sets; the "
        "forget set is whole in both halves, and the luck of the training run stays."
    )
    if study.spec is not None and study.spec.model.source.startswith("demo:"):
        limits.append(
            "This is the bundled demonstration: a very small model trained from scratch on "
            "public-domain text. It shows the machinery; it is not the data, nor the scale, of "
            "the published study of these methods."
        )
    return limits


def _trials_sentence(fewest: int, most: int) -> str:
    count = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
    text = f"Each method had {count} {'trial' if fewest == most == 1 else 'trials'}"
    if fewest != most:
        text += ", and a method with more trials has better odds of a good one"
    return f"{text}. Ranks follow the search's budget and bounds as much as the method."
