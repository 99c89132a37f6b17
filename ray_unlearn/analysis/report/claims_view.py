"""Guidelines as the first screen shows them: what to use, what is claimed by grade, what is
withheld by reason."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.analysis.guidelines.sentences import STATISTICS, WITHHELD, evidence_sentence, label
from ray_unlearn.analysis.numerals import counted, plain
from ray_unlearn.analysis.report.table_view import DIRECTIONS, Heading, Shown
from ray_unlearn.analysis.statistics.contests import RobustnessClaim
from ray_unlearn.analysis.statistics.paired_difference import PairedDifference
from ray_unlearn.analysis.trials import TrialTable
from ray_unlearn.spec.guideline_file import Guideline, Reason

GRADES = {
    "A": "nine or more domains (or models), and better on every one held out",
    "B": "five to eight, and better on every one held out",
    "C": "seen on the domains there are, but not shown on ones held out",
    "scoped": "one or two domains, stated for these alone",
}
KINDS = (
    "method_choice",
    "range",
    "avoid",
    "stop_rule",
    "interaction",
    "rank",
    "budget",
)
REASONS = {
    "sampler": "because of how trials were drawn",
    "trials": "for want of trials",
    "seeds": "for want of seeds",
    "importance": "because nothing is shown to matter",
    "heldout": "because held-out results refuse it",
    "difference": "because the difference is not settled",
    "certainty": "because no value is surely good",
    "stop_price": "because stopping at the target may cost more than the tolerance",
    "trade_off": "because learning rate and steps do not trade one for one",
    "near_best": "because too few trials are near the best",
    "nothing_to_narrow": "because there is nothing to narrow",
}
"""Titles by `spec.guidelines.Reason.kind`, in the order of the page."""


@dataclass(frozen=True)
class Claim:
    """A claim in parts, which together are its text: what to do, and what that rests on."""

    id: str
    grade: str
    claim: str
    evidence: str


@dataclass(frozen=True)
class Held:
    """Withheld claims that share their reasons."""

    who: str
    why: str
    count: int


@dataclass(frozen=True)
class HeldBecause:
    """Withheld claims of one sort of reason."""

    title: str
    count: int
    summary: str
    """One line: about whom, and what is needed."""
    entries: tuple[Held, ...]


def claim_view(guideline: Guideline) -> Claim:
    """The sentence, cut before its evidence and without its grade in brackets."""
    text = re.sub(r"^\[[^\]]*\] ", "", guideline.text)
    evidence = evidence_sentence(guideline)
    before, found, after = text.partition(evidence)
    return Claim(
        guideline.id, guideline.grade or "withheld", before.strip(), (found + after).strip()
    )


def by_grade(guidelines: Sequence[Guideline]) -> list[tuple[str, list[Claim]]]:
    """Claims made, best evidence first, and within a grade what to do first."""
    claimed = [g for g in guidelines if g.status == "claimed"]
    ordered = sorted(claimed, key=lambda g: KINDS.index(g.kind))
    return [
        (grade, found)
        for grade in GRADES
        if (found := [claim_view(g) for g in ordered if g.grade == grade])
    ]


def withheld(guidelines: Sequence[Guideline]) -> list[HeldBecause]:
    """Claims not made, by the sort of their first reason; within it those together that share all
    reasons."""
    groups: dict[str, dict[tuple[Reason, ...], list[Guideline]]] = {kind: {} for kind in REASONS}
    for guideline in guidelines:
        if guideline.status == "withheld":
            why = guideline.withheld_because
            groups[why[0].kind].setdefault(why, []).append(guideline)
    return [
        HeldBecause(
            title,
            sum(len(found) for found in groups[kind].values()),
            _summary(groups[kind]),
            tuple(
                Held(_who(found, guidelines), found[0].why, len(found))
                for found in groups[kind].values()
            ),
        )
        for kind, title in REASONS.items()
        if groups[kind]
    ]


def _summary(groups: dict[tuple[Reason, ...], list[Guideline]]) -> str:
    """`a`, `b` and 5 more: 64 to 76 more trials."""
    methods = list(dict.fromkeys(g.scope.method for found in groups.values() for g in found))
    named = [f"`{method}`" if method else "all methods" for method in methods[:3]]
    more = f" and {len(methods) - 3} more" if len(methods) > 3 else ""
    reasons = list(dict.fromkeys(reason for why in groups for reason in why))
    needed = [reason.trials_needed for reason in reasons if reason.trials_needed is not None]
    if needed:
        least, most = min(needed), max(needed)
        need = f"{least:,} more trials" if least == most else f"{least:,} to {most:,} more trials"
        return f"{', '.join(named)}{more}: {need} of each needed"
    return f"{', '.join(named)}{more}{': ' + reasons[0].text if len(reasons) == 1 else ''}"


def _who(found: Sequence[Guideline], everything: Sequence[Guideline]) -> str:
    """`a`, `b` (everything looked at); `c`: learning rate (range)."""
    whole, partly = [], []
    for method in dict.fromkeys(g.scope.method for g in found):
        own = [g for g in found if g.scope.method == method]
        name = f"`{method}`" if method else "all methods"
        if len(own) > 1 and len(own) == sum(g.scope.method == method for g in everything):
            whole.append(name)
        else:
            partly.append(f"{name}: {', '.join(what(g) for g in own)}")
    return "; ".join([*([", ".join(whole) + " (all claims)"] if whole else []), *partly])


def what(guideline: Guideline) -> str:
    """`learning rate (range)`, `stopping rule`."""
    kind = WITHHELD[guideline.kind]
    return f"{label(guideline.param)} ({kind})" if guideline.param else kind


def held_sentence(groups: Sequence[HeldBecause]) -> str:
    """`45 claims are withheld: 38 for want of trials, 7 because nothing is shown to matter.`"""
    total = sum(group.count for group in groups)
    if not total:
        return ""
    parts = ", ".join(f"{group.count} {group.title}" for group in groups)
    return f"{total} {'claim is' if total == 1 else 'claims are'} withheld: {parts}."


def advice(guidelines: Sequence[Guideline], methods: Sequence[str]) -> Shown | None:
    """What to use, a line per method with a claim; None where no range is claimed."""
    ranges = [g for g in guidelines if g.status == "claimed" and g.kind == "range" and g.param]
    if not ranges:
        return None
    params = list(dict.fromkeys(g.param for g in ranges))
    found = {(g.scope.method, g.param): g for g in ranges}
    budgets = {
        g.scope.method: g for g in guidelines if g.status == "claimed" and g.kind == "budget"
    }
    shown = [
        method for method in methods if any((method or None, param) in found for param in params)
    ]
    lines = []
    for method in shown:
        cells = [_cell(found.get((method or None, param))) for param in params]
        budget = budgets.get(method or None)
        lines.append(
            (
                f"`{method}`" if method else "all trials",
                *cells,
                plain(budget.estimates["trials"]) if budget else "\u2013",
            )
        )
    headings = (
        Heading("method", numeric=False),
        *(Heading(label(param), "use", numeric=False) for param in params),
        Heading(
            "random trials",
            "to come close",
            "number of random trials that come within the tolerance of the method's best with probability 0.9",
        ),
    )
    return Shown(
        "What to use, with the grade of the evidence. A dash: nothing is claimed.",
        headings,
        tuple(lines),
        tuple(shown),
    )


def _cell(guideline: Guideline | None) -> str:
    if guideline is None:
        return "\u2013"
    space = guideline.search_space
    assert space is not None
    if space.choices is not None:
        value = ", ".join(plain(choice) for choice in space.choices)
    elif guideline.low_is_boundary and not guideline.high_is_boundary:
        value = f"\u2264 {plain(space.high)}"
    elif guideline.high_is_boundary and not guideline.low_is_boundary:
        value = f"\u2265 {plain(space.low)}"
    else:
        value = f"{plain(space.low)} \u2013 {plain(space.high)}"
    return f"{value} [{guideline.grade}]"


QUESTION = (
    "Is ascent + descent on in-distribution data more robust to hyperparameters than plain ascent?"
)


def headline_answer(
    findings: Findings | None, guidelines: Sequence[Guideline]
) -> tuple[str, list[str]]:
    """The answer in a few words, and the numbers it rests on: whichever way it comes out."""
    if findings is None or (claim := findings.headline) is None:
        return "Not answered here", [
            "It takes both methods, with at least 8 trials of each drawn from the search space in one domain or model."
        ]
    words = {
        "more robust": "Yes",
        "less robust": "No, less robust",
        "not settled": "Not settled by these trials",
    }
    found = next(
        (g for g in guidelines if g.kind == "method_choice" and g.id != "method_choice/best"), None
    )
    answer = words[claim.outcome]
    if claim.outcome != "not settled":
        answer += f", by {claim.outcomes.count(claim.outcome)} of {len(claim.outcomes)} statistics"
    numbers = [
        _answer(claim),
        *(difference_sentence(d, findings.table) for d in claim.differences),
        _beyond(claim),
    ]
    if found is not None and found.status == "claimed":
        answer += f" [{found.grade}]"
    elif claim.outcome != "not settled":
        answer += ", say these trials; it is not claimed"
        numbers += [f"Withheld because: {found.why}."] if found is not None else []
    return answer, numbers


def _answer(claim: RobustnessClaim) -> str:
    groups = len(claim.differences[0].groups)
    return (
        f"`{claim.method_a}` against `{claim.method_b}`, paired in {counted(groups, 'group')}. Three statistics, taken "
        f"together at 10 % (Holm), say: {claim.outcome}."
    )


def difference_sentence(found: PairedDifference, table: TrialTable) -> str:
    """One statistic: mean difference, interval, in how many groups."""
    difference, (low, high) = found.as_given(table.score.direction)
    means = [
        sum(getattr(group, name) for group in found.groups) / len(found.groups)
        for name in ("a", "b")
    ]
    better = ""
    if not found.larger_is_better:
        means = [table.as_given(mean) for mean in means]
        better = f" ({DIRECTIONS[table.score.direction]})"
    return (
        f"{STATISTICS[found.statistic].capitalize()}{better}: {plain(means[0])} against {plain(means[1])}, difference {plain(difference)} "
        f"(90 % interval {plain(low)} to {plain(high)}), better in {found.better} of {len(found.groups)}."
    )


def _beyond(claim: RobustnessClaim) -> str:
    if claim.outcome_beyond is None:
        return "For other domains or models nothing follows: that takes five groups or more."
    return f"For other groups like these: {claim.outcome_beyond}."
