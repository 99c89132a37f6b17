"""The first screen: what to use, what is claimed by grade, what is withheld and why."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.analysis.guidelines.sentences import WITHHELD, evidence_sentence, label, open_end
from ray_unlearn.analysis.numerals import plain
from ray_unlearn.analysis.report.page import (
    Block,
    Bullets,
    Claims,
    Fold,
    GradedClaim,
    GradeKey,
    Heading,
    Paragraph,
    Section,
    Table,
    bullets_of,
)
from ray_unlearn.analysis.report.published_question import QUESTION, PublishedAnswer
from ray_unlearn.analysis.report.recommended_section import recommended_section
from ray_unlearn.analysis.report.study_notes import feasibility_definition
from ray_unlearn.analysis.report.study_sections import StudyBlocks
from ray_unlearn.spec.guideline_file import Guideline, Guidelines, Reason

GRADES = {
    "A": "nine or more domains (or models), and better on every one held out",
    "B": "five to eight, and better on every one held out",
    "C": "seen on the domains there are, but not shown on ones held out",
    "scoped": "one or two domains, stated for these alone",
}
KIND_ORDER = ("method_choice", "range", "avoid", "stop_rule", "interaction", "rank", "budget")
"""Kinds of claims, what to do first."""
REASONS = {
    "sampler": "because of how trials were drawn",
    "trials": "because there are too few trials",
    "seeds": "because there are too few seeds",
    "importance": "because nothing is shown to matter",
    "heldout": "because held-out results contradict it",
    "difference": "because the difference is not settled",
    "certainty": "because no value is surely good",
    "stop_price": "because stopping at the target may cost more than the tolerance",
    "trade_off": "because learning rate and steps do not trade one for one",
    "near_best": "because it is not known how much of the space is good",
    "nothing_to_narrow": "because there is nothing to narrow",
    "disagreement": "because domains disagree",
}
"""Titles by `spec.guideline_file.Reason.kind`, in the order of the page."""
MOST_SHOWN = 6
"""Claims of a grade that are shown without being asked for."""


@dataclass(frozen=True)
class WithheldGroup:
    """Claims that are withheld for one sort of reason."""

    title: str
    count: int
    summary: str
    """One line: about whom, and what is needed."""
    entries: tuple[str, ...]
    """`WHO: WHY.` for those that share all reasons."""


def verdict_section(
    findings: Findings | None,
    found: Guidelines,
    studies: Sequence[StudyBlocks],
    answer: PublishedAnswer | None,
    best: Sequence[Block] = (),
) -> Section:
    """The first screen: what to run, what is claimed, what is withheld.

    Where nothing is claimed, the studies' own verdicts follow what to run.

    Args:
        findings: None without a trial that has a finite score.
        found: recommendations, and all claims, made or withheld.
        studies: studies of our own; empty for foreign tables.
        answer: to the published question; None where it is not asked.
        best: the best trials of foreign tables, which are named whatever is claimed.
    """
    alerts = tuple(alert for study in studies for alert in study.alerts)
    guidelines = found.guidelines
    methods = findings.table.methods if findings is not None else ()
    advice = recommended_section(found)
    held = withheld_groups(guidelines)
    claimed = graded_claims(guidelines)
    lead = _claimed(guidelines, methods) if claimed else _nothing_claimed(held, studies)
    question = (_question(answer),) if answer is not None else ()
    return Section(
        "Verdict",
        (
            *alerts,
            *advice,
            *best,
            *lead,
            *_weaker(guidelines),
            *question,
            *_withheld(held, claimed),
        ),
        "verdict",
    )


def _claimed(guidelines: Sequence[Guideline], methods: Sequence[str]) -> tuple[Block, ...]:
    table = advice_table(guidelines, methods)
    blocks: list[Block] = [GradeKey(tuple(GRADES.items()))]
    for grade, found in graded_claims(guidelines).items():
        blocks.append(Claims(found[:MOST_SHOWN]))
        if rest := found[MOST_SHOWN:]:
            blocks.append(Fold(f"{len(rest)} more of grade {grade}", (Claims(rest),)))
    claims = Section("What is claimed", tuple(blocks), style="inner")
    return (claims,) if table is None else (table, claims)


def _nothing_claimed(
    held: Sequence[WithheldGroup], studies: Sequence[StudyBlocks]
) -> tuple[Block, ...]:
    text = held_sentence(held)
    if studies:
        which = "this study" if len(studies) == 1 else "these studies"
        text = f"{text} What follows describes {which} only.".strip()
    blocks: list[Block] = [Paragraph(text, strong="No guideline is claimed.", style="box")]
    for study in studies:
        several = len(studies) > 1
        blocks += [Section(study.key, study.verdict, style="study")] if several else study.verdict
    if studies:
        blocks.append(Paragraph(feasibility_definition(), style="note"))
    return tuple(blocks)


def _question(answer: PublishedAnswer) -> Section:
    first, *numbers = answer.numbers
    lead = Paragraph(first, strong=f"{answer.words}.")
    return Section(QUESTION, (lead, *bullets_of(numbers)), style="question")


def _weaker(guidelines: Sequence[Guideline]) -> tuple[Section, ...]:
    """What is likely and what can be left alone; nothing where neither is said."""
    sections = (
        ("What is likely", "likely", "likely"),
        ("What can be left alone", "leave_alone", "leave-alone"),
    )
    said = [
        (title, [_weakly(g) for g in guidelines if g.status == status], anchor)
        for title, status, anchor in sections
    ]
    return tuple(
        Section(title, (Bullets(tuple(texts)),), anchor, style="inner")
        for title, texts, anchor in said
        if texts
    )


def _weakly(guideline: Guideline) -> str:
    text = _without_mark(guideline.text)
    return f"{text} Not claimed: {guideline.why}." if guideline.why else text


def _without_mark(text: str) -> str:
    return re.sub(r"^\[[^\]]*\] ", "", text)


def _withheld(
    held: Sequence[WithheldGroup], claimed: dict[str, tuple[GradedClaim, ...]]
) -> tuple[Section, ...]:
    if not held:
        return ()
    folds = [
        Fold(group.summary, (Bullets(group.entries),), f"{group.count} {group.title}")
        for group in held
    ]
    # Where nothing is claimed, the sentence leads the page.
    intro = (Paragraph(held_sentence(held)),) if claimed else ()
    blocks = (*intro, *folds)
    return (Section("What is withheld, and why", blocks, "withheld", style="inner"),)


def claim_parts(guideline: Guideline) -> GradedClaim:
    """The sentence, cut before its evidence and without its grade in brackets."""
    before, found, after = _without_mark(guideline.text).partition(evidence_sentence(guideline))
    return GradedClaim(guideline.grade or "withheld", before.strip(), (found + after).strip())


def claims_of(guidelines: Sequence[Guideline]) -> tuple[Claims, ...]:
    """Those that are made, as a block; none where none is."""
    made = tuple(claim_parts(g) for g in guidelines if g.status == "claimed")
    return (Claims(made),) if made else ()


def graded_claims(guidelines: Sequence[Guideline]) -> dict[str, tuple[GradedClaim, ...]]:
    """Claims made by grade: best evidence first, and within a grade what to do first."""
    claimed = [g for g in guidelines if g.status == "claimed"]
    ordered = sorted(claimed, key=lambda g: KIND_ORDER.index(g.kind))
    graded = {grade: tuple(claim_parts(g) for g in ordered if g.grade == grade) for grade in GRADES}
    return {grade: found for grade, found in graded.items() if found}


def withheld_groups(guidelines: Sequence[Guideline]) -> list[WithheldGroup]:
    """Claims not made, by the kind of their first reason, in the order of the page."""
    groups: dict[str, dict[tuple[Reason, ...], list[Guideline]]] = {kind: {} for kind in REASONS}
    for guideline in guidelines:
        if guideline.status == "not_known":
            why = guideline.withheld_because
            groups[why[0].kind].setdefault(why, []).append(guideline)
    return [
        WithheldGroup(
            title,
            sum(map(len, groups[kind].values())),
            _summary(groups[kind]),
            tuple(f"{_who(g, guidelines)}: {g[0].why}." for g in groups[kind].values()),
        )
        for kind, title in REASONS.items()
        if groups[kind]
    ]


def _summary(groups: dict[tuple[Reason, ...], list[Guideline]]) -> str:
    """`a`, `b` and 5 more: 64 to 76 more trials."""
    methods = list(dict.fromkeys(g.scope.method for found in groups.values() for g in found))
    named = ", ".join(method_or_all(method) for method in methods[:3])
    named += f" and {len(methods) - 3} more" if len(methods) > 3 else ""
    reasons = list(dict.fromkeys(reason for why in groups for reason in why))
    needed = [reason.trials_needed for reason in reasons if reason.trials_needed is not None]
    if needed:
        least, most = min(needed), max(needed)
        need = f"{least:,} more trials" if least == most else f"{least:,} to {most:,} more trials"
        return f"{named}: {need} of each needed"
    return f"{named}{': ' + reasons[0].text if len(reasons) == 1 else ''}"


def method_or_all(method: str | None) -> str:
    """A method's name as code; a table without methods has one nameless one."""
    return f"`{method}`" if method else "all methods"


def _who(found: Sequence[Guideline], everything: Sequence[Guideline]) -> str:
    """`a`, `b` (all claims); `c`: learning rate (range)."""
    whole, partly = [], []
    for method in dict.fromkeys(g.scope.method for g in found):
        own = [g for g in found if g.scope.method == method]
        name = method_or_all(method)
        if len(own) > 1 and len(own) == sum(g.scope.method == method for g in everything):
            whole.append(name)
        else:
            partly.append(f"{name}: {', '.join(map(_what, own))}")
    return "; ".join([*([", ".join(whole) + " (all claims)"] if whole else []), *partly])


def _what(guideline: Guideline) -> str:
    """`learning rate (range)`, `stopping rule`."""
    kind = WITHHELD[guideline.kind]
    return f"{label(guideline.param)} ({kind})" if guideline.param else kind


def held_sentence(groups: Sequence[WithheldGroup]) -> str:
    """How many claims are withheld, and for which sorts of reasons."""
    total = sum(group.count for group in groups)
    if not total:
        return ""
    parts = ", ".join(f"{group.count} {group.title}" for group in groups)
    return f"{total} {'claim is' if total == 1 else 'claims are'} withheld: {parts}."


def advice_table(guidelines: Sequence[Guideline], methods: Sequence[str]) -> Table | None:
    """What to use, a line per method with a claim; None where no range is claimed."""
    claimed = [g for g in guidelines if g.status == "claimed"]
    ranges = [g for g in claimed if g.kind == "range" and g.param]
    if not ranges:
        return None
    params = list(dict.fromkeys(g.param for g in ranges))
    found = {(g.scope.method, g.param): g for g in ranges}
    budgets = {g.scope.method: g for g in claimed if g.kind == "budget"}
    shown = [name for name in methods if any((name or None, param) in found for param in params)]
    lines = [
        (
            f"`{name}`" if name else "all trials",
            *(_cell(found.get((name or None, param))) for param in params),
            _trials(budgets.get(name or None)),
        )
        for name in shown
    ]
    enough = (
        "number of random trials of which one is within the tolerance of the method's best with "
        "probability 0.9"
    )
    headings = (
        Heading("method", numeric=False),
        *(Heading(label(param), "use", numeric=False) for param in params),
        Heading("random trials", "to come close", enough),
    )
    caption = "What to use, with the grade of the evidence. A dash: nothing is claimed."
    return Table(caption, headings, tuple(lines), tuple(shown))


def _trials(budget: Guideline | None) -> str:
    return "\u2013" if budget is None else plain(budget.estimates["trials"])


def _cell(guideline: Guideline | None) -> str:
    if guideline is None:
        return "\u2013"
    space = guideline.search_space
    assert space is not None
    if space.choices is not None:
        value = ", ".join(plain(choice) for choice in space.choices)
    elif open_end(guideline, "low"):
        value = f"\u2264 {plain(space.high)}"
    elif open_end(guideline, "high"):
        value = f"\u2265 {plain(space.low)}"
    else:
        value = f"{plain(space.low)} \u2013 {plain(space.high)}"
    return f"{value} [{guideline.grade}]"
