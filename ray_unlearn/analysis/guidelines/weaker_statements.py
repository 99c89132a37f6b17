"""What is said of a hyperparameter whose range is not claimed: leave it alone, likely, not known.

leave alone  no value that was searched costs more than the tolerance, one-sided 95 %
             (non-inferiority, as in Weerts et al. 2020, arXiv 2007.07588). It is a finding about
             all values, and never the mere absence of an effect.
likely       a range in which a value is good with a probability that is said.
not known    with what is missing.
"""

from typing import Any

import numpy as np

from ray_unlearn.analysis.guidelines.claim_maker import ClaimMaker
from ray_unlearn.analysis.guidelines.sentences import agreement_words
from ray_unlearn.analysis.numerals import rounded
from ray_unlearn.analysis.statistics.good_regions import CORE, EXCLUDED, Region
from ray_unlearn.analysis.statistics.isolation_profile import GRID
from ray_unlearn.analysis.statistics.likely_values import (
    LikelyValues,
    likely_values,
    most_agree,
    trials_to_settle,
)
from ray_unlearn.spec.guideline_file import (
    ClaimedRegion,
    Experiment,
    GoodIn,
    Guideline,
    Reason,
    Value,
)

HARMLESS = 0.95
HALF_STEP = 0.5 / (GRID - 1)
SILENCING = ("heldout", "prediction")
"""Reasons against a claim that refute the surface itself, so that nothing weaker is said either."""


def weaker_statement(
    maker: ClaimMaker,
    region: Region,
    reasons: list[Reason],
    p: float | None,
    estimates: dict[str, object],
) -> Guideline:
    """The strongest statement about one hyperparameter short of a claim.

    Args:
        maker: of the method.
        region: what is known of the hyperparameter's good values.
        reasons: why no range is claimed; at least one.
        p: p-value of the hyperparameter over the family.
        estimates: numbers of the statement.
    """
    family = maker.family * len(maker.found.regions)
    shared: dict[str, Any] = {
        "param": region.axis.name,
        "p": p,
        "family": family,
        "estimates": estimates,
    }
    needed = _needed(reasons)
    if len(region.p_good) and not any(reason.kind in SILENCING for reason in reasons):
        if region.p_harmless >= HARMLESS:
            return maker.make(
                "range", [], status="leave_alone", probability=rounded(region.p_harmless), **shared
            )
        if (found := _likely(maker, region)) is not None:
            space, probability, experiment = found
            return maker.make(
                "range",
                reasons,
                status="likely",
                probability=rounded(probability),
                search_space=space,
                warm_start=start_of(region),
                settled_by=_larger(experiment, needed),
                agreement=_agreement(maker, region),
                **shared,
            )
    differ = _agreement(maker, region)
    if differ is not None and differ.not_in:
        reasons = [_disagreement(differ, len(region.groups)), *reasons]
    return maker.make("range", reasons, settled_by=needed, agreement=differ, **shared)


def _needed(reasons: list[Reason]) -> Experiment | None:
    """The trials in the whole space that a claim still needs, where that is known."""
    counts = [reason.trials_needed for reason in reasons if reason.trials_needed is not None]
    return Experiment(trials=max(counts)) if counts else None


def _larger(one: Experiment | None, other: Experiment | None) -> Experiment | None:
    known = [experiment for experiment in (one, other) if experiment is not None]
    return max(known, key=lambda experiment: experiment.trials, default=None)


def start_of(region: Region) -> Value:
    """The value that is most likely good."""
    if region.axis.scale == "categorical":
        return region.axis.choices[round(region.best)]
    return round(region.best) if region.axis.whole else rounded(region.best)


def _likely(
    maker: ClaimMaker, region: Region
) -> tuple[ClaimedRegion, float, Experiment | None] | None:
    p_good, axis = region.p_good, region.axis
    values = maker.found.trials[axis.name]
    if axis.scale == "categorical":
        order = np.argsort(-p_good, kind="stable")
        found = likely_values(p_good[order], 0)
        if found is None:
            return None
        chosen = sorted(order[: found.last + 1])
        choices = tuple(axis.choices[code] for code in chosen)
        more = trials_to_settle(p_good[chosen], int(values.isin(choices).sum()))
        experiment = None if more is None else Experiment(trials=more)
        return ClaimedRegion(type="choice", choices=choices), found.probability, experiment
    found = likely_values(p_good, int(np.argmin(np.abs(region.grid - region.best))))
    if found is None:
        return None
    low, high = _ends(region, found)
    there = int(((values >= low) & (values <= high)).sum())
    more = trials_to_settle(p_good[found.first : found.last + 1], there)
    ends = {"low": rounded(low), "high": rounded(high)}
    kind = "int" if axis.whole else "float"
    space = ClaimedRegion.model_validate({"type": kind, "log": axis.scale == "log"} | ends)
    experiment = None if more is None else Experiment.model_validate({"trials": more} | ends)
    return space, found.probability, experiment


def _ends(region: Region, found: LikelyValues) -> tuple[float, float]:
    """The run's least and greatest value; a single one stands for half a step on either side."""
    axis = region.axis
    low, high = (float(region.grid[i]) for i in (found.first, found.last))
    if found.first < found.last or axis.whole:
        return low, high
    at = float(axis.to_unit([low])[0])
    ends = axis.from_unit(np.clip([at - HALF_STEP, at + HALF_STEP], 0, 1))
    return float(ends[0]), float(ends[1])


def _agreement(maker: ClaimMaker, region: Region) -> GoodIn | None:
    """In how many groups a value is good, where they do not agree."""
    groups = region.groups
    found = most_agree(region.p_by_group, CORE, EXCLUDED / max(1, len(groups)))
    if found is None:
        return None
    axis = region.axis
    where: dict[str, object]
    if axis.scale == "categorical":
        where = {"choices": (axis.choices[round(region.grid[found.first])],)}
    else:
        where = {"low": rounded(region.grid[found.first]), "high": rounded(region.grid[found.last])}
    open_in = set(range(len(groups))) - {*found.good, *found.bad}
    return GoodIn.model_validate(
        where
        | {
            "good_in": sorted(groups[i] for i in found.good),
            "not_in": sorted(groups[i] for i in found.bad),
            "open_in": sorted(groups[i] for i in open_in),
        }
    )


def _disagreement(found: GoodIn, groups: int) -> Reason:
    return Reason(
        kind="disagreement",
        text=f"no value is good in all {groups} groups: {agreement_words(found)}",
    )
