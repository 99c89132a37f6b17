"""Claims on the page: each once, with its grade, evidence and id."""

import re
from collections.abc import Sequence

from ray_unlearn.analysis.guidelines.sentences import evidence_sentence, label, open_end
from ray_unlearn.analysis.numerals import plain
from ray_unlearn.analysis.report.page import Claims, GradedClaim, GradeKey
from ray_unlearn.spec.guideline_file import Guideline

GRADES = {
    "A": "nine or more domains (or models), and better on every one held out",
    "B": "five to eight, and better on every one held out",
    "C": "seen on the domains there are, but not shown on ones held out",
    "scoped": "one or two domains, or one trained model: stated for these alone",
}
WEAKER = {
    "leave alone": "no value that was searched costs more than the tolerance",
    "likely": "good with the probability that is said, and not yet a claim",
}
"""Statements without a grade, by their status."""
KIND_ORDER = ("method_choice", "range", "avoid", "stop_rule", "interaction", "rank", "budget")
"""Kinds of claims, what to do first; other kinds come last."""
WITH_ALL_METHODS = ("method_choice",)
"""Kinds that the first screen shows; `INTERACTIONS` have their own section, all others that of
their method."""
INTERACTIONS = ("interaction",)

OPEN = ("not_known",)
"""Statuses of what is not stated."""


def said(guidelines: Sequence[Guideline]) -> list[Guideline]:
    """Those that state something, what to do first."""
    found = [g for g in guidelines if g.status not in OPEN]
    order = {kind: place for place, kind in enumerate(KIND_ORDER)}
    return sorted(found, key=lambda g: order.get(g.kind, len(order)))


def said_of(guidelines: Sequence[Guideline], method: str) -> list[Guideline]:
    """What is said of one method alone, in its section."""
    elsewhere = (*WITH_ALL_METHODS, *INTERACTIONS)
    own = [g for g in said(guidelines) if g.scope.method == (method or None)]
    return [g for g in own if g.kind not in elsewhere]


def said_of_all(guidelines: Sequence[Guideline], methods: Sequence[str]) -> list[Guideline]:
    """What is said of methods together: neither in a method's section nor an interaction."""
    apart = {g.id for method in methods for g in said_of(guidelines, method)}
    return [g for g in said(guidelines) if g.id not in apart and g.kind not in INTERACTIONS]


def claim_parts(guideline: Guideline) -> GradedClaim:
    """The sentence, cut before its evidence and without its grade in brackets."""
    text = re.sub(r"^\[[^\]]*\] ", "", guideline.text)
    before, found, after = text.partition(evidence_sentence(guideline))
    evidence = (found + after).strip()
    if guideline.why:  # it is stated, but not as a claim
        evidence = f"{evidence} Not claimed: {guideline.why}.".strip()
    return GradedClaim(_mark(guideline), before.strip(), evidence, guideline.id)


def _mark(guideline: Guideline) -> str:
    """The grade, or what kind of weaker statement it is."""
    return guideline.grade or guideline.status.replace("_", " ")


def claims_of(guidelines: Sequence[Guideline]) -> tuple[Claims, ...]:
    """Those that state something, as a block; none where none does."""
    made = tuple(claim_parts(g) for g in said(guidelines))
    return (Claims(made),) if made else ()


def grade_key(guidelines: Sequence[Guideline]) -> tuple[GradeKey, ...]:
    """What the grades mean that occur; nothing where none does."""
    used = {_mark(g) for g in said(guidelines)}
    known = GRADES | WEAKER
    meanings = tuple((mark, meaning) for mark, meaning in known.items() if mark in used)
    return (GradeKey(meanings),) if meanings else ()


def ranges_in_short(guidelines: Sequence[Guideline], method: str | None) -> str:
    """`learning rate 2e-5 - 5e-5 [C], w_r >= 2 [C]`: what is stated of a method's values."""
    own = [g for g in said(guidelines) if g.kind == "range" and g.scope.method == method]
    return ", ".join(f"{label(g.param)} {_range(g)}" for g in own)


def _range(guideline: Guideline) -> str:
    space, mark = guideline.search_space, _mark(guideline)
    if guideline.status == "likely":
        mark = f"{mark}, {plain(guideline.probability)}"
    if space is None:
        return f"[{mark}]"
    if space.choices is not None:
        value = ", ".join(plain(choice) for choice in space.choices)
    elif open_end(guideline, "low"):
        value = f"\u2264 {plain(space.high)}"
    elif open_end(guideline, "high"):
        value = f"\u2265 {plain(space.low)}"
    else:
        value = f"{plain(space.low)} \u2013 {plain(space.high)}"
    return f"{value} [{mark}]"
