"""What is not claimed: by the sort of reason, with what would settle it."""

from collections.abc import Sequence
from dataclasses import dataclass

from ray_unlearn.analysis.guidelines.sentences import WITHHELD, label
from ray_unlearn.analysis.report.claims_section import OPEN
from ray_unlearn.analysis.report.page import Block, Bullets, Fold, Paragraph, Section
from ray_unlearn.spec.guideline_file import Guideline, Reason

TITLE = "What is open, and what would settle it"
FOLLOWING = (
    "`ray-unlearn report ... --next 8`, with the sources of this page, writes a study file of the "
    "8 trials that would settle most about ranges; `ray-unlearn run` takes it."
)
REASONS = {
    "sampler": "because of how trials were drawn",
    "trials": "because there are too few trials",
    "seeds": "because there are too few seeds",
    "prediction": "because the response surface does not predict trials left out",
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


@dataclass(frozen=True)
class WithheldGroup:
    """Claims that are withheld for one sort of reason."""

    title: str
    count: int
    summary: str
    """One line: about whom, and what is needed."""
    entries: tuple[str, ...]
    """`WHO: WHY.` for those that share all reasons."""


def open_section(guidelines: Sequence[Guideline]) -> tuple[Section, ...]:
    """One line per sort of reason, its claims on request; nothing where nothing is open."""
    held = withheld_groups(guidelines)
    if not held:
        return ()
    claimed = any(guideline.status in ("claimed", "leave_alone") for guideline in guidelines)
    lead = Paragraph(held_sentence(held), strong="" if claimed else "No guideline is claimed.")
    folds: list[Block] = [
        Fold(group.summary, (Bullets(group.entries),), f"{group.count} {group.title}")
        for group in held
    ]
    ranges = any(g.kind == "range" and g.status in OPEN for g in guidelines)
    following = [Paragraph(FOLLOWING)] if ranges else []
    return (Section(TITLE, (lead, *folds, *following), "open", style="inner"),)


def withheld_groups(guidelines: Sequence[Guideline]) -> list[WithheldGroup]:
    """Claims not made, by the kind of their first reason, in the order of the page."""
    groups: dict[str, dict[tuple[Reason, ...], list[Guideline]]] = {kind: {} for kind in REASONS}
    for guideline in guidelines:
        if guideline.status in OPEN:
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
