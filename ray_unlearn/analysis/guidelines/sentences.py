"""A guideline in words, rendered from its data and nothing else."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from ray_unlearn.analysis.guidelines.grades import THRESHOLDS
from ray_unlearn.analysis.numerals import counted, percentage, plain
from ray_unlearn.spec.guideline_file import (
    Evidence,
    GoodIn,
    Guideline,
    Heldout,
    LeftOut,
    ScoreInfo,
)
from ray_unlearn.spec.narrowed_range import RATE_BY_STEPS

LABELS = {
    "learning_rate": "learning rate",
    "w_r": "retain weight w_r",
    "w_f": "forget weight w_f",
    "steps": "updates",
    RATE_BY_STEPS: "learning rate x updates",
}


STATISTICS = {
    "share_within_own_best": "share of trials measured near the method's best one",
    "share_within_best_known": "share of trials measured near the best one of any method",
    "area_under_tuning_curve": "mean measured score while tuning",
}
"""Statistics of `effects.contests` for people; the first two are better larger, the last one
lower."""


def label(param: str | None) -> str:
    """A hyperparameter for people."""
    return LABELS.get(param or "", param or "")


def sentence(guideline: Guideline, score: ScoreInfo) -> str:
    """The claim with its grade and evidence, or what was withheld and why."""
    subject = ", ".join(
        part for part in (guideline.scope.method or "all methods", label(guideline.param)) if part
    )
    if guideline.status == "not_known":
        return f"[not known] {subject}, {WITHHELD[guideline.kind]}: {guideline.why}."
    if guideline.status != "claimed":
        said = _likely if guideline.status == "likely" else _leave_alone
        mark = "likely" if guideline.status == "likely" else "leave it alone"
        return f"[{mark}] {subject}: {said(guideline, score)} {evidence_sentence(guideline)}"
    claim = CLAIMS[guideline.kind](guideline, score)
    grade = "scoped" if guideline.grade == "scoped" else guideline.grade
    parts = [
        f"[{grade}] {subject}: {claim}",
        evidence_sentence(guideline),
        left_out_sentence(guideline.evidence.left_out),
        heldout_sentence(guideline.evidence.heldout),
    ]
    return " ".join(part for part in [*parts, not_tested(guideline)] if part)


WITHHELD = {
    "range": "range",
    "rank": "what matters",
    "interaction": "trade-off",
    "stop_rule": "stopping rule",
    "method_choice": "comparison",
    "budget": "budget",
    "avoid": "what to avoid",
}


def tolerance(score: ScoreInfo) -> str:
    """`0.1 nats/token`."""
    return f"{plain(score.tolerance)} {score.unit}".strip()


def _range(guideline: Guideline, score: ScoreInfo) -> str:
    space, numbers = guideline.search_space, guideline.estimates
    assert space is not None
    if space.choices is not None:
        excluded = [str(choice) for choice in numbers.get("excluded", [])]
        return (
            f"use {' or '.join(map(str, space.choices))}, not {' or '.join(excluded)}. Within "
            f"{tolerance(score)} of the best."
        )
    use = f"use {used_values(guideline)}"
    edges = []
    sides: tuple[tuple[Literal["low", "high"], bool], ...] = (
        ("low", guideline.low_is_boundary),
        ("high", guideline.high_is_boundary),
    )
    for side, censored in sides:
        interval = numbers.get(f"{side}_edge_90")
        if censored and open_end(guideline, side):
            edges.append(
                f"{side} edge censored at the search bound {plain(numbers.get(f'searched_{side}'))}"
            )
        elif censored:
            edges.append(f"{side} end: not known to be bad beyond")
        elif interval:
            edges.append(f"{side} edge 90 % interval {plain(interval[0])} to {plain(interval[1])}")
    text = f"{use} (core; {'; '.join(edges)}). Within {tolerance(score)} of the best"
    return f"{text}{_together(numbers.get('together_with'))}."


def _likely(guideline: Guideline, score: ScoreInfo) -> str:
    space, probability = guideline.search_space, plain(guideline.probability)
    assert space is not None
    if space.choices is not None:
        text = f"{' or '.join(map(str, space.choices))} is"
    else:
        text = f"a value between {plain(space.low)} and {plain(space.high)} is"
    text += f" good with probability {probability}, most likely {plain(guideline.warm_start)}"
    text += f" (within {tolerance(score)} of the best)"
    text += _together(guideline.estimates.get("together_with"))
    if guideline.agreement is not None:
        text += f"; shown so far: {agreement_words(guideline.agreement)}"
    if (experiment := guideline.settled_by) is not None:
        where = " there" if experiment.low is not None else ""
        text += f". About {counted(experiment.trials, 'more trial')}{where} would settle it"
    return text + "."


def _leave_alone(guideline: Guideline, score: ScoreInfo) -> str:
    low, high = (guideline.estimates.get(f"searched_{side}") for side in ("low", "high"))
    values = "any choice" if low is None else f"any value from {plain(low)} to {plain(high)}"
    return (
        f"{values} costs less than {tolerance(score)} with the others at their best (probability "
        f"{plain(guideline.probability)})."
    )


def agreement_words(found: GoodIn) -> str:
    """`1e-5 to 3e-5 is good in 8 of 9, not in latex`."""
    groups = len(found.good_in) + len(found.not_in) + len(found.open_in)
    values = (
        " or ".join(map(str, found.choices))
        if found.choices is not None
        else plain(found.low)
        if found.low == found.high
        else f"{plain(found.low)} to {plain(found.high)}"
    )
    text = f"{values} is good in {len(found.good_in)} of {groups}"
    if found.not_in:
        text += f", not in {', '.join(found.not_in)}"
    return text + (f", not known in {', '.join(found.open_in)}" if found.open_in else "")


def used_values(guideline: Guideline) -> str:
    """`at most 3e-5`, or `1e-5 to 3e-5` for a range both ends of which are known or open."""
    space = guideline.search_space
    assert space is not None
    if open_end(guideline, "low"):
        return f"at most {plain(space.high)}"
    if open_end(guideline, "high"):
        return f"at least {plain(space.low)}"
    return f"{plain(space.low)} to {plain(space.high)}"


def open_end(guideline: Guideline, side: Literal["low", "high"]) -> bool:
    """Whether a claimed range is good up to the bound of the search on that side."""
    space = guideline.search_space
    assert space is not None
    censored = guideline.low_is_boundary if side == "low" else guideline.high_is_boundary
    searched = guideline.estimates.get(f"searched_{side}")
    end = space.low if side == "low" else space.high
    if not censored or searched is None or end is None:
        return censored
    return math.isclose(end, searched, rel_tol=1e-3, abs_tol=1e-12)


def _together(product: dict[str, Any] | None) -> str:
    """Where a factor is good with some values of the other only."""
    if product is None:
        return ""
    low, high = product["low"], product["high"]
    where = (
        f"at most {plain(high)}"
        if low is None
        else f"at least {plain(low)}"
        if high is None
        else f"{plain(low)} to {plain(high)}"
    )
    return f", with {label(product['param'])} {where}"


def _avoid(guideline: Guideline, score: ScoreInfo) -> str:
    numbers = guideline.estimates
    low, high = numbers.get("low"), numbers.get("high")
    where = f"below {plain(high)}" if low is None else f"above {plain(low)}"
    whose = (
        f"in at least one of the {'domains' if len(guideline.scope.domains) > 1 else 'models'} "
        "no setting"
        if numbers.get("groups", 1) > 1
        else "no setting"
    )
    lost = "diverged" if score.objective is None else "diverged or outside the constraints"
    return (
        f"avoid {where}: {whose} of the others comes within {tolerance(score)} of the best there "
        f"({numbers['trials_there']} trials, {numbers['infeasible_there']} of them {lost})."
    )


def _rank(guideline: Guideline, score: ScoreInfo) -> str:
    order = [
        f"{label(line['param'])} (p = {plain(line['p'])})"
        for line in guideline.estimates["matters"]
    ]
    rest = [label(name) for name in guideline.estimates["not_shown"]]
    text = f"what the score depends on: {', then '.join(order)}"
    if rest:
        text += f"; not shown to matter: {', '.join(rest)}"
    return text + "."


def _interaction(guideline: Guideline, score: ScoreInfo) -> str:
    low, high = guideline.estimates["kappa_90"]
    what = "forget perplexity" if guideline.estimates.get("response") == "forget_nll" else "score"
    return (
        f"learning rate times steps is what counts: the {what} follows log(lr) + kappa log(steps) "
        "with kappa "
        f"{plain(guideline.estimates['kappa'])} (90 % interval {plain(low)} to {plain(high)})."
    )


def _stop(guideline: Guideline, score: ScoreInfo) -> str:
    numbers = guideline.estimates
    low, high = numbers["regret_90"]
    return (
        "stop at the first evaluation whose forget perplexity reaches that of unseen text: it "
        f"costs {plain(numbers['regret'])} "
        f"{score.unit} (90 % interval {plain(low)} to {plain(high)}) against the best step known "
        "in hindsight, running to the "
        f"last step {plain(numbers['regret_last'])}; {percentage(numbers['crossed'])} of trials "
        "get "
        "there, and save "
        f"{percentage(numbers['updates_saved'])} of the updates."
    ).replace("  ", " ")


def _method(guideline: Guideline, score: ScoreInfo) -> str:
    numbers = guideline.estimates
    if "better_than" in numbers:
        rest = (
            f"; not settled against {', '.join(numbers['not_settled'])}"
            if numbers["not_settled"]
            else ""
        )
        won = [
            line["difference"]
            for line in numbers["differences"]
            if line["against"] in numbers["better_than"]
        ]
        return (
            (
                f"with 1 to {numbers['budget']} random trials it reaches better scores than "
                f"{', '.join(numbers['better_than'])} (mean paired "
                f"differences {plain(min(won))} to {plain(max(won))} {score.unit}){rest}."
            )
            .replace("  ", " ")
            .replace(" )", ")")
        )
    low, high = numbers["difference_90"]
    text = (
        f"{numbers['finding']} than {numbers['against']}: {numbers['statistic']}, given 1 to "
        f"{numbers.get('budget', 'K')} random trials, difference {plain(numbers['difference'])} "
        f"(90 % interval {plain(low)} to {plain(high)}), the same sign in {numbers['same_sign']} "
        f"of {numbers.get('groups', guideline.evidence.n_groups)}."
    )
    open_ones = [
        STATISTICS[s["statistic"]] for s in numbers.get("all", ()) if s["outcome"] == "not settled"
    ]
    return f"{text} Not settled by themselves: {', '.join(open_ones)}." if open_ones else text


def _budget(guideline: Guideline, score: ScoreInfo) -> str:
    numbers = guideline.estimates
    low, high = numbers["share_95"]
    fewest, most = numbers["trials_95"]
    return (
        f"one of {numbers['trials']} random trials is within {tolerance(score)} of its best with "
        f"probability 0.9 (95 % interval {fewest} to {most} trials): "
        f"{percentage(numbers['share'])} of the space is that good ({percentage(low)} to "
        f"{percentage(high)}), by the response surface."
    )


Render = Callable[[Guideline, ScoreInfo], str]
CLAIMS: dict[str, Render] = {
    "range": _range,
    "avoid": _avoid,
    "rank": _rank,
    "interaction": _interaction,
    "stop_rule": _stop,
    "method_choice": _method,
    "budget": _budget,
}


def evidence_sentence(guideline: Guideline) -> str:
    """The evidence in words: `400 trials, 3 seeds, 6 domains, p = 0.004.`."""
    evidence: Evidence = guideline.evidence
    domains = len(guideline.scope.domains)
    parts = [counted(evidence.n_trials, "trial"), counted(evidence.n_seeds, "seed")]
    if domains:
        parts.append(counted(domains, "domain"))
    if evidence.n_models > 1:
        parts.append(counted(evidence.n_models, "trained model"))
    if (
        evidence.p_value is not None
        and guideline.kind != "rank"
        and guideline.status in ("claimed", "not_known")
    ):
        parts.append(f"p = {plain(evidence.p_value)} in a family of {evidence.family_size}")
    return ", ".join(parts) + "."


def left_out_sentence(left_out: LeftOut | None) -> str:
    """The surface's test in words: `Of 40 trials left out its 90 % intervals held 37, ...`."""
    if left_out is None:
        return ""
    return (
        f"Of {counted(left_out.trials, 'trial')} left out of the fit, the response surface's 90 % "
        f"intervals held {left_out.held} ({percentage(left_out.explained)} of the variance "
        "explained)."
    )


def heldout_sentence(heldout: Heldout | None) -> str:
    """The held-out result in words: `Held out: 4 trials inside match 13 ...; better in 6 of 6.`."""
    if heldout is None:
        return ""
    if heldout.trials_outside is None:
        match = (
            f"{counted(heldout.trials_inside, 'trial')} inside are better than any number "
            "tried outside"
        )
    else:
        match = (
            f"{counted(heldout.trials_inside, 'trial')} inside match "
            f"{plain(heldout.trials_outside)} in the full space"
        )
    return f"Held out: {match}; better in {heldout.better} of {len(heldout.groups)}."


def not_tested(guideline: Guideline) -> str:
    """What the claim says nothing about."""
    models = guideline.scope.models
    domains = guideline.scope.domains
    if guideline.grade == "scoped":
        return (
            f"Stated for {_listed(domains or models or ('this table',))} alone{_model(guideline)}."
        )
    if guideline.grade == "C":
        what = "domains" if len(domains) >= guideline.evidence.n_models else "trained models"
        seen = (
            f"Seen in each of these {what}"
            if guideline.kind in ("range", "avoid")
            else f"Over these {what} together"
        )
        few = guideline.evidence.n_groups < THRESHOLDS.groups_for_b
        return f"{seen}, {'too few to test on others' if few else 'not shown on others'}."
    return f"Not tested: other models than {', '.join(models)}." if models else ""


def _model(guideline: Guideline) -> str:
    """What a scoped claim's domains have in common, where that is why it is scoped."""
    evidence, models = guideline.evidence, guideline.scope.models
    if evidence.n_groups < THRESHOLDS.groups_for_c or evidence.n_models >= THRESHOLDS.models_for_c:
        return ""
    if not models:
        return ": the table does not say which model it was"
    return ", on one trained model" + (" each" if len(models) > 1 else f" ({models[0]})")


def _listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
