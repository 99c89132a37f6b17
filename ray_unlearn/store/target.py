"""The target for the forget set on either half: what it is, how well it is known, what meets it.

The target is log ppl_0(A), the vanilla model's loss on the approximate set A. It is an estimate
from the documents of A, with a standard error over them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from ray_unlearn.store.schema import HALVES

FORGET_TOLERANCE = 1.10
"""A forget perplexity within this factor of the target meets it."""
TARGET_TOLERANCE = 0.005
"""Nats/token that the forget NLL of a model that meets the target may miss it by."""
UTILITY_TOLERANCE = 1.25
"""A retain or general perplexity of at most so many times the vanilla model's is utility kept."""
Z_90 = 1.6448536
"""Half the width of a 90 % interval, in standard errors."""


@dataclass(frozen=True)
class ForgetTarget:
    """Where forgetting starts and where it should lead, in nats/token."""

    vanilla_nll: float
    """Of the vanilla model on the forget set."""
    nll: float
    """log ppl_0(A) on the selection half."""


class Metric(Protocol):
    """A row of metrics: a mapping, or a line of a data frame."""

    def get(self, name: str, default: float, /) -> Any: ...


@dataclass(frozen=True)
class HalfTarget:
    """The target on one half of the approximate set."""

    half: str
    nll: float
    """nats/token; NaN before the vanilla model was measured."""
    se: float = math.nan
    """Standard error over documents, nats/token; NaN where it was not measured."""
    documents: int | None = None
    tokens: int | None = None

    @property
    def ppl(self) -> float:
        """The forget perplexity that is aimed at."""
        return math.exp(self.nll)

    @property
    def interval(self) -> tuple[float, float]:
        """90 % interval of `ppl`; NaN where the standard error is not known."""
        return math.exp(self.nll - Z_90 * self.se), math.exp(self.nll + Z_90 * self.se)

    @property
    def tolerance(self) -> float:
        """How far log ppl(U) may be from the target and still meet it, nats/token.

        ln 1.10, or what the 90 % interval of the target spans to one side where that is more: a
        gap that another draw of unseen documents would make is no miss.
        """
        usual = math.log(FORGET_TOLERANCE)
        return usual if math.isnan(self.se) else max(usual, Z_90 * self.se)


def half_targets(vanilla: Metric) -> tuple[HalfTarget, HalfTarget] | None:
    """Selection and reporting half, of the vanilla baseline; None where it does not say."""
    selection, reporting = (_half_target(vanilla, half) for half in HALVES)
    known = math.isfinite(selection.nll) and math.isfinite(reporting.nll)
    return (selection, reporting) if known else None


def _half_target(vanilla: Metric, half: str) -> HalfTarget:
    def count(name: str) -> int | None:
        value = vanilla.get(f"{name}_{half}", math.nan)
        return None if math.isnan(value) else int(value)

    return HalfTarget(
        half,
        float(vanilla.get(f"approximate_nll_{half}", math.nan)),
        float(vanilla.get(f"approximate_nll_se_{half}", math.nan)),
        count("approximate_documents"),
        count("approximate_tokens"),
    )


def half_sentences(targets: tuple[HalfTarget, HalfTarget]) -> Iterator[str]:
    """`selection half: 50 documents, 4,688 tokens, target perplexity 70.2 (90 % interval ...)`."""
    for one in targets:
        counts = ""
        if one.documents is not None and one.tokens is not None:
            counts = f"{one.documents:,} documents, {one.tokens:,} tokens, "
        known = ""
        if not math.isnan(one.se):
            low, high = one.interval
            known = f" (90 % interval {low:.3g} to {high:.3g})"
        aim = "target measured before the first trial"
        if not math.isnan(one.nll):
            aim = f"target perplexity {one.ppl:.3g}{known}"
        yield f"{one.half} half: {counts}{aim}"


def target_warnings(targets: tuple[HalfTarget, HalfTarget]) -> Iterator[str]:
    """What is wrong with the target, what follows, and what helps."""
    selection, reporting = targets
    apart = abs(selection.nll - reporting.nll)
    if apart > reporting.tolerance:
        yield (
            f"the halves of the approximate set have targets {apart:.3f} nats/token apart "
            f"(perplexity {selection.ppl:.3g} and {reporting.ppl:.3g}), more than the tolerance of "
            f"{reporting.tolerance:.3f}: a model that meets the one it was chosen by misses the "
            "other; give `approximate` more documents, or, where an earlier version dealt the "
            "halves, run the study anew"
        )
    if reporting.tolerance > math.log(FORGET_TOLERANCE):
        widened = math.expm1(reporting.tolerance)
        yield (
            f"the target is known to within {widened:.0%} only (90 % interval, reporting half), so "
            f"forgetting is judged to within {widened:.0%} instead of {FORGET_TOLERANCE - 1:.0%}"
            f"{_more_documents(selection, reporting)}"
        )


def forgetting_warnings(vanilla: Metric) -> Iterator[str]:
    """Whether the vanilla baseline leaves anything to forget; nothing where it does not say."""
    targets, nll = half_targets(vanilla), float(vanilla.get("forget_nll", math.nan))
    if targets is None or not math.isfinite(nll):
        return
    target = targets[1]
    found = (
        f"the vanilla model's perplexity on the forget set, {math.exp(nll):.3g}, "
        f"{{}} the target, {target.ppl:.3g}: "
    )
    if nll >= target.nll:
        yield found.format("is not below") + (
            "it knows the forget set no better than unseen documents, so there is nothing to "
            "forget, or `forget` and `approximate` are swapped, or of different kinds"
        )
    elif target.nll - nll <= target.tolerance:
        yield found.format("is within the tolerance of") + (
            "it meets the target before it unlearns anything; give `forget` documents that the "
            "model was trained on, several times at best"
        )


def leaves_nothing_to_forget(vanilla: Metric, whole: bool) -> bool:
    """Whether the vanilla model shows, without doubt, that there is nothing to forget.

    Args:
        vanilla: its metrics.
        whole: whether every document was measured. Then 10 % below the target is nothing, too; the
            tolerance of a target that is hardly known is wider, and leaves it open.
    """
    targets, nll = half_targets(vanilla), float(vanilla.get("forget_nll", math.nan))
    if targets is None or not math.isfinite(nll):
        return False
    return targets[1].nll - nll <= (math.log(FORGET_TOLERANCE) if whole else 0.0)


def halves_agree(targets: tuple[HalfTarget, HalfTarget]) -> str:
    """How far the targets of the halves are apart, against the tolerance."""
    selection, reporting = targets
    return (
        f"targets {selection.ppl:.3g} (selection) and {reporting.ppl:.3g} (reporting), "
        f"{abs(selection.nll - reporting.nll):.3f} nats/token apart; the tolerance is "
        f"{reporting.tolerance:.3f}"
    )


def _more_documents(selection: HalfTarget, reporting: HalfTarget) -> str:
    """How many documents would make the target as sharp as the usual tolerance."""
    if selection.documents is None or reporting.documents is None:
        return ""
    there = selection.documents + reporting.documents
    factor = (reporting.tolerance / math.log(FORGET_TOLERANCE)) ** 2
    return (
        f"; about {math.ceil(there * factor):,} documents in `approximate` instead of {there:,} "
        "would do"
    )
