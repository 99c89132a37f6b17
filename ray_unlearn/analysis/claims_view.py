"""Guidelines as the first screen shows them: what to use, what is claimed by grade, what is withheld by reason."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ray_unlearn.analysis.effects.comparison import Difference
from ray_unlearn.analysis.effects.contests import RobustnessClaim
from ray_unlearn.analysis.findings import Findings
from ray_unlearn.analysis.sentences import WITHHELD, counted, evidence_sentence, label, number
from ray_unlearn.analysis.view import Heading, Shown
from ray_unlearn.spec.guidelines import Guideline

GRADES = {
    "A": "nine or more domains (or models), and better on every one held out",
    "B": "five to eight, and better on every one held out",
    "C": "seen in all of the domains there are, but not shown on ones held out",
    "scoped": "one or two domains, stated for these alone",
}
KINDS = ("method_choice", "range", "point", "avoid", "leave_default", "stop_rule", "interaction", "rank", "budget")
REASONS = (
    ("because of how trials were drawn", re.compile(r"adaptive sampler|how the trials were chosen")),
    ("for want of trials", re.compile(r"more trials|too few trials|trials reach the target|trials? in .* needed")),
    ("for want of seeds", re.compile(r"seeds?( known)?, \d+ are needed")),
    ("because nothing is shown to matter", re.compile(r"shown to matter")),
    ("because held-out results refuse it", re.compile(r"held-out")),
    ("because the difference is not settled", re.compile(r"not settled|no method is shown")),
    ("because no value is surely good", re.compile(r"no value comes within|no choice is shown")),
    ("because stopping at the target may cost more than the tolerance", re.compile(r"stopping at the target costs")),
    (
        "because learning rate and steps do not trade one for one",
        re.compile(r"^kappa is|learning rate times steps predicts"),
    ),
    ("because too few trials are near the best", re.compile(r"trials come within")),
    ("because there is nothing to narrow", re.compile(r"every value searched is good|nothing to narrow")),
)
OTHER = "for other reasons"


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
    return Claim(guideline.id, guideline.grade or "withheld", before.strip(), (found + after).strip())


def by_grade(guidelines: Sequence[Guideline]) -> list[tuple[str, list[Claim]]]:
    """Claims made, best evidence first, and within a grade what to do first."""
    claimed = [g for g in guidelines if g.status == "claimed"]
    ordered = sorted(claimed, key=lambda g: KINDS.index(g.kind))
    return [(grade, found) for grade in GRADES if (found := [claim_view(g) for g in ordered if g.grade == grade])]


def withheld(guidelines: Sequence[Guideline]) -> list[HeldBecause]:
    """Claims not made, by the sort of their first reason; within it those together that share all reasons."""
    held = [g for g in guidelines if g.status == "withheld"]
    groups: dict[str, dict[tuple[str, ...], list[Guideline]]] = {}
    for guideline in held:
        groups.setdefault(_sort(guideline), {}).setdefault(guideline.withheld_because, []).append(guideline)
    order = [*(title for title, _ in REASONS), OTHER]
    return [
        HeldBecause(
            title,
            sum(len(found) for found in groups[title].values()),
            _summary(groups[title]),
            tuple(Held(_who(found, guidelines), "; ".join(why), len(found)) for why, found in groups[title].items()),
        )
        for title in order
        if title in groups
    ]


def _sort(guideline: Guideline) -> str:
    first = guideline.withheld_because[0]
    return next((title for title, pattern in REASONS if pattern.search(first)), OTHER)


def _summary(groups: dict[tuple[str, ...], list[Guideline]]) -> str:
    """`a`, `b` and 5 more: 64 to 76 more trials."""
    methods = list(dict.fromkeys(g.scope.method for found in groups.values() for g in found))
    named = [f"`{method}`" if method else "all methods" for method in methods[:3]]
    more = f" and {len(methods) - 3} more" if len(methods) > 3 else ""
    needed = [
        int(n.replace(",", "")) for why in groups for text in why for n in re.findall(r"([\d,]+) more trials", text)
    ]
    if needed:
        least, most = min(needed), max(needed)
        need = f"{least:,} more trials" if least == most else f"{least:,} to {most:,} more trials"
        return f"{', '.join(named)}{more}: {need} of each needed"
    reasons = list(dict.fromkeys(text for why in groups for text in why))
    return f"{', '.join(named)}{more}{': ' + reasons[0] if len(reasons) == 1 else ''}"


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
    """What to use, a line per method with a claim; None where no range or value is claimed."""
    ranges = [
        g for g in guidelines if g.status == "claimed" and g.kind in ("range", "point", "leave_default") and g.param
    ]
    if not ranges:
        return None
    params = list(dict.fromkeys(g.param for g in ranges))
    found = {(g.scope.method, g.param): g for g in ranges}
    budgets = {g.scope.method: g for g in guidelines if g.status == "claimed" and g.kind == "budget"}
    shown = [method for method in methods if any((method or None, param) in found for param in params)]
    lines = []
    for method in shown:
        cells = [_cell(found.get((method or None, param))) for param in params]
        budget = budgets.get(method or None)
        lines.append(
            (
                f"`{method}`" if method else "all trials",
                *cells,
                number(budget.estimates["trials"]) if budget else "\u2013",
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
        "What to use, with the grade of the evidence. A dash: nothing is claimed.", headings, tuple(lines), tuple(shown)
    )


def _cell(guideline: Guideline | None) -> str:
    if guideline is None:
        return "\u2013"
    space = guideline.search_space
    if space is None:
        value = f"use {number(guideline.warm_start)}" if guideline.kind == "point" else "default"
    elif space.choices is not None:
        value = ", ".join(number(choice) for choice in space.choices)
    elif guideline.low_is_boundary and not guideline.high_is_boundary:
        value = f"\u2264 {number(space.high)}"
    elif guideline.high_is_boundary and not guideline.low_is_boundary:
        value = f"\u2265 {number(space.low)}"
    else:
        value = f"{number(space.low)} \u2013 {number(space.high)}"
    return f"{value} [{guideline.grade}]"


QUESTION = "Is ascent + descent on in-distribution data more robust to hyperparameters than plain ascent?"
NAMES = {
    "share_within_own_best": "share of configurations near the method's own best",
    "share_within_best_known": "share near the best of any method",
    "area_under_tuning_curve": "mean score while tuning (lower is better)",
}


def headline_answer(findings: Findings | None, guidelines: Sequence[Guideline]) -> tuple[str, list[str]]:
    """The answer in a few words, and the numbers it rests on: whichever way it comes out."""
    claim = findings.headline if findings is not None else None
    if claim is None:
        return "Not answered here", [
            "It takes both methods, with at least 8 trials of each drawn from the search space in one domain or model."
        ]
    words = {"more robust": "Yes", "less robust": "No, less robust", "not settled": "Not settled by these trials"}
    found = next((g for g in guidelines if g.kind == "method_choice" and g.id != "method_choice/best"), None)
    answer = words[claim.outcome]
    numbers = [_answer(claim), *(difference_sentence(d) for d in claim.differences), _beyond(claim)]
    if found is not None and found.status == "claimed":
        answer += f" [{found.grade}]"
    elif claim.outcome != "not settled":
        answer += ", say these trials; it is not claimed"
        numbers += [f"Withheld because: {'; '.join(found.withheld_because)}."] if found is not None else []
    return answer, numbers


def _answer(claim: RobustnessClaim) -> str:
    groups = len(claim.differences[0].groups)
    return (
        f"`{claim.method_a}` against `{claim.method_b}`, paired in {counted(groups, 'group')}. Three statistics, taken "
        f"together at 10 % (Holm), say: {claim.outcome}."
    )


def difference_sentence(found: Difference) -> str:
    """One statistic: mean difference, interval, in how many groups."""
    interval = found.over_trials
    mean = sum(g.a for g in found.groups) / len(found.groups), sum(g.b for g in found.groups) / len(found.groups)
    return (
        f"{NAMES.get(found.statistic, found.statistic).capitalize()}: {number(mean[0])} against {number(mean[1])}, difference "
        f"{number(found.mean)} (90 % interval {number(interval.low)} to {number(interval.high)}), better in {found.better} of {len(found.groups)}."
    )


def _beyond(claim: RobustnessClaim) -> str:
    if claim.outcome_beyond is None:
        return "For other domains or models nothing follows: that takes five groups or more."
    return f"For other groups like these: {claim.outcome_beyond}."
