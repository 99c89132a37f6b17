"""How the claims of two guideline files differ.

An edge has moved only where its intervals do not meet.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ray_unlearn.analysis.guidelines.sentences import label
from ray_unlearn.analysis.numerals import plain
from ray_unlearn.spec.guideline_file import Guideline, Guidelines, ScoreInfo

Change = Literal[
    "new", "tightened", "widened", "moved", "contradicted", "withdrawn", "regraded", "unchanged"
]

SETTLED = ("claimed", "leave_alone")
"""Statements that are compared; what is likely or not known was never promised."""


@dataclass(frozen=True)
class ClaimChange:
    """One claim in two files."""

    id: str
    change: Change
    text: str


def compare(before: Guidelines, after: Guidelines) -> tuple[ClaimChange, ...]:
    """Every claim made in either file, `leave it alone` among them.

    They are in the order of the newer one, then the rest. A range where there was `leave it alone`
    is a contradiction, and the other way round.

    A claimed range is `contradicted` when the newer one does not meet it, `moved` when an edge lies
    outside the interval it had, `tightened` or `widened` when it lies inside the older one or
    around it, beyond both intervals. A comparison is contradicted when it comes out the other way.
    """
    old = {g.id: g for g in before.guidelines}
    new = {g.id: g for g in after.guidelines}
    ids = [*new, *(name for name in old if name not in new)]
    found = (_compared(name, old.get(name), new.get(name)) for name in ids)
    return tuple(difference for difference in found if difference is not None)


def score_differences(before: ScoreInfo, after: ScoreInfo) -> Iterator[str]:
    """What differs in the scores of two files, so that claims may differ for that alone."""
    for name in ("name", "direction", "tolerance", "score_rule", "weights", "checkpoint_rule"):
        was, now = getattr(before, name), getattr(after, name)
        if was == now or (name == "weights" and None in (was, now)):
            continue
        if name == "weights":
            was, now = was.in_words(), now.in_words()
        what = f"{name.replace('_', ' ')} {'differ' if name == 'weights' else 'differs'}"
        yield f"the score's {what}: {was} -> {now}; claims may differ for that alone"


def _compared(name: str, old: Guideline | None, new: Guideline | None) -> ClaimChange | None:
    was, now = (one is not None and one.status in SETTLED for one in (old, new))
    if not was and not now:
        return None
    title = _title(new if new is not None else old)
    if not was:
        return ClaimChange(name, "new", f"{title}: new")
    if not now:
        why = ": no longer looked at" if new is None else f", now {_status(new)}: {new.why}"
        return ClaimChange(name, "withdrawn", f"{title}: withdrawn{why}")
    assert old is not None
    assert new is not None
    if old.status != new.status:
        words = f", {_status(old)} -> {_status(new)}"
        return ClaimChange(name, "contradicted", f"{title}: contradicted{words}")
    change, words = _changed(old, new)
    if change == "unchanged" and old.grade != new.grade:
        return ClaimChange(name, "regraded", f"{title}: grade {old.grade} -> {new.grade}")
    return ClaimChange(name, change, f"{title}: {change}{words}")


def _status(guideline: Guideline) -> str:
    """`leave it alone`, `not known`."""
    return "leave it alone" if guideline.status == "leave_alone" else _words(guideline.status)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _changed(old: Guideline, new: Guideline) -> tuple[Change, str]:
    if old.status == "leave_alone":
        return "unchanged", ""
    if old.kind == "range":
        return _range(old, new)
    if old.kind == "method_choice":
        if old.scope.method != new.scope.method:
            return "contradicted", f", {old.scope.method} -> {new.scope.method}"
        before, after = old.estimates.get("difference"), new.estimates.get("difference")
        if before is not None and after is not None and before * after < 0:
            return "contradicted", f", difference {plain(before)} -> {plain(after)}"
    if old.kind == "rank":
        was = [line["param"] for line in old.estimates["matters"]]
        now = [line["param"] for line in new.estimates["matters"]]
        if was != now:
            return "moved", f", {', '.join(was)} -> {', '.join(now)}"
    return "unchanged", ""


def _range(old: Guideline, new: Guideline) -> tuple[Change, str]:
    if old.search_space is None or new.search_space is None:
        # A claim of an older file may name a start and no range.
        return ("unchanged", "") if old.search_space == new.search_space else ("moved", "")
    if old.search_space.choices is not None or new.search_space.choices is not None:
        same = set(old.search_space.choices or ()) == set(new.search_space.choices or ())
        return (
            ("unchanged", "")
            if same
            else ("moved", f", {old.search_space.choices} -> {new.search_space.choices}")
        )
    before, after = _edges(old), _edges(new)
    words = f", {_shown(old)} -> {_shown(new)}"
    if after[0] > before[1] or before[0] > after[1]:
        return "contradicted", words
    low = _moved(
        old.estimates.get("low_edge_90"), new.estimates.get("low_edge_90"), before[0], after[0]
    )
    high = _moved(
        old.estimates.get("high_edge_90"), new.estimates.get("high_edge_90"), before[1], after[1]
    )
    if not low and not high:
        return "unchanged", ""
    if low >= 0 and high <= 0:
        return "tightened", words
    if low <= 0 and high >= 0:
        return "widened", words
    return "moved", words


def _edges(guideline: Guideline) -> tuple[float, float]:
    """Low and high edge; a censored edge has no end."""
    space = guideline.search_space
    assert space is not None
    low = -math.inf if guideline.low_is_boundary or space.low is None else space.low
    high = math.inf if guideline.high_is_boundary or space.high is None else space.high
    return low, high


def _moved(
    old: Sequence[float] | None, new: Sequence[float] | None, before: float, after: float
) -> int:
    """-1, 0, 1: the edge went down, stayed within what is known of it, went up."""
    if before == after:
        return 0
    old, new = old or (before, before), new or (after, after)
    if new[0] <= old[1] and old[0] <= new[1]:
        return 0
    return 1 if after > before else -1


def _shown(guideline: Guideline) -> str:
    low, high = _edges(guideline)
    return (
        f"{'..' if math.isinf(low) else plain(low)} to {'..' if math.isinf(high) else plain(high)}"
    )


def _title(guideline: Guideline | None) -> str:
    assert guideline is not None
    parts = (
        guideline.scope.method or "all methods",
        label(guideline.param),
        _words(guideline.kind),
    )
    return ", ".join(part for part in parts if part)
