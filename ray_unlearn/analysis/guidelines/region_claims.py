"""Claims about one hyperparameter: the range to use, and the ends of the search to avoid."""

import math
from collections.abc import Iterator

from scipy.stats import norm

from ray_unlearn.analysis.guidelines.claim_maker import ClaimMaker
from ray_unlearn.analysis.guidelines.grades import worse_than_default
from ray_unlearn.analysis.guidelines.weaker_statements import start_of, weaker_statement
from ray_unlearn.analysis.numerals import counted, plain, rounded, rounded_interval
from ray_unlearn.analysis.statistics.good_regions import CORE, Region
from ray_unlearn.spec.guideline_file import ClaimedRegion, Guideline, Reason

NARROWEST = 0.005
"""Part of an axis that is a point to whoever sets it: over three decades a factor of 1.035. Much
more would silence narrow valleys, whose cores are thin while trials are few."""
LEAST_AVOIDED = 5
"""Trials in a part of an axis before it is called bad."""


def range_claim(maker: ClaimMaker, region: Region) -> Guideline:
    """The range of a hyperparameter to use, or the strongest that can be said short of it."""
    axis, p = region.axis, maker.effect_p(region.axis.name)
    reasons = [*maker.unpredicted, *maker.unimportant(region.axis.name)]
    if not reasons:
        reasons += _vague(maker, region)
    if not reasons:
        reasons += worse_than_default(maker.surface_evidence)
    estimates: dict[str, object] = {
        "p_good_highest": rounded(float(region.p_good.max())) if len(region.p_good) else None,
        "searched_low": rounded(axis.low),
        "searched_high": rounded(axis.high),
        "best": rounded(region.best),
        "low_edge_90": rounded_interval(region.low_edge),
        "high_edge_90": rounded_interval(region.high_edge),
    }
    if (product := _product_of(maker, axis.name)) is not None:
        assert product.core is not None
        estimates["together_with"] = {
            "param": product.axis.name,
            "low": None if product.low_censored else rounded(product.core[0]),
            "high": None if product.high_censored else rounded(product.core[1]),
        }
    if reasons:
        return weaker_statement(maker, region, reasons, rounded(p), estimates)
    space = None
    if axis.scale == "categorical":
        space = ClaimedRegion(type="choice", choices=region.choices_good)
        estimates = {
            "good": list(region.choices_good),
            "excluded": list(region.choices_excluded),
        }
    elif region.core is not None:
        low, high = region.core
        if axis.whole:
            low, high = float(math.ceil(low)), float(math.floor(high))
        space = ClaimedRegion(
            type="int" if axis.whole else "float",
            low=rounded(low),
            high=rounded(high),
            log=axis.scale == "log",
        )
    return maker.make(
        "range",
        [],
        param=axis.name,
        p=rounded(p),
        family=maker.family * len(maker.found.regions),
        heldout=True,
        search_space=space,
        warm_start=start_of(region) if space else None,
        estimates=estimates,
        low_is_boundary=bool(space and region.low_censored),
        high_is_boundary=bool(space and region.high_censored),
    )


def _product_of(maker: ClaimMaker, name: str) -> Region | None:
    """The product that a hyperparameter's good values depend on; None where none is bounded."""
    for region in maker.found.regions:
        if name in region.axis.factors and region.core is not None and region.bounded:
            return region
    return None


def avoid_claims(maker: ClaimMaker, region: Region) -> Iterator[Guideline]:
    """The ends of an axis that are bad at every setting of the others, where a core is known.

    Without a core the absence of a cliff is no news, and where domains have no good value in
    common, no value is to be avoided in all of them. What is avoided begins where the 90 % interval
    of the edge ends, so that no value is called both possibly good and bad. On a ridge, where the
    product with another hyperparameter decides, it is what no value of the other brings near the
    product's good values.
    """
    axis = region.axis
    if (
        axis.scale == "categorical"
        or region.core is None
        or maker.unpredicted
        or maker.unimportant(axis.name)
    ):
        return
    for low, high in _beyond_edges(region, *_reached(maker, region)):
        values = maker.found.trials[axis.name]
        there = maker.found.trials[(values >= low) & (values <= high)]
        at_low, at_high = math.isclose(low, axis.low), math.isclose(high, axis.high)
        # Between two good runs the surface is merely not smooth.
        if low >= high or at_low == at_high or len(there) < LEAST_AVOIDED:
            continue
        side = "low" if at_low else "high"
        guideline = maker.make(
            "avoid",
            [],
            param=axis.name,
            p=rounded(maker.effect_p(axis.name)),
            family=maker.family * len(maker.found.regions),
            estimates={
                "low": None if at_low else rounded(low),
                "high": None if at_high else rounded(high),
                "groups": maker.surface_evidence.n_groups,
                "trials_there": len(there),
                "infeasible_there": int(there["infeasible"].sum()),
            },
        )
        yield guideline.model_copy(update={"id": f"{guideline.id}/{side}"})


def _beyond_edges(region: Region, least: float, most: float) -> Iterator[tuple[float, float]]:
    """What is excluded, less the 90 % interval of an edge and less `least` to `most`."""
    nearest = -math.inf if region.low_edge is None else region.low_edge[0]
    farthest = math.inf if region.high_edge is None else region.high_edge[1]
    assert region.core is not None
    for low, high in region.excluded:
        if high < region.core[0]:
            yield low, min(high, nearest, least)
        else:
            yield max(low, farthest, most), high


def _reached(maker: ClaimMaker, region: Region) -> tuple[float, float]:
    """Values of a factor from which some value of the other reaches a possibly good product.

    Least and most; (inf, -inf) where the factor decides by itself: its good values are then at
    most as many decades as the product's.
    """
    product = _product_of(maker, region.axis.name)
    if product is None or _decades(product) >= _decades(region):
        return math.inf, -math.inf
    (name,) = set(product.axis.factors) - {region.axis.name}
    (other,) = (axis for axis in maker.found.axes if axis.name == name)
    least = -math.inf if product.low_edge is None else product.low_edge[0] / other.high
    most = math.inf if product.high_edge is None else product.high_edge[1] / other.low
    return least, most


def _decades(region: Region) -> float:
    assert region.core is not None
    return math.log10(region.core[1] / region.core[0])


def _vague(maker: ClaimMaker, region: Region) -> list[Reason]:
    if region.axis.scale == "categorical":
        if region.choices_good and region.choices_excluded:
            return []
        return [Reason(kind="certainty", text="no choice is shown to be good while another is not")]
    if region.core is None and not len(region.p_good):
        return [Reason(kind="trials", text=region.reason or "no region")]
    if region.core is None:
        highest = float(region.p_good.max())
        more = _needed_for(maker, highest)
        text = (
            f"no value comes within {plain(maker.score.tolerance)} of the best with "
            f"probability {CORE} "
            f"(highest: {highest:.2f}){_about(more)}"
        )
        return [Reason(kind="certainty", text=text, trials_needed=more)]
    if region.low_censored and region.high_censored:
        return [_unbounded(region)]
    reasons = []
    if not region.axis.whole and region.span < NARROWEST:
        text = (
            f"what is shown to be good, {plain(region.core[0])} to {plain(region.core[1])}, is "
            f"less than {100 * NARROWEST:g} % of what was searched: a point, not a range"
        )
        reasons.append(Reason(kind="certainty", text=text))
    for side, edge in (("low", region.low_edge), ("high", region.high_edge)):
        if edge is not None and (width := _width(maker, region, edge)) > 1:
            more = math.ceil(maker.surface_evidence.n_trials * (width**2 - 1))
            text = (
                f"the {side} edge is only known to lie between {plain(edge[0])} and "
                f"{plain(edge[1])}{_about(more)}"
            )
            reasons.append(Reason(kind="certainty", text=text, trials_needed=more))
    return reasons


def _unbounded(region: Region) -> Reason:
    """Why a core without a shown end is no range: all is good, or what is beyond is not known."""
    core = region.core
    assert core is not None
    if region.low_at_bound and region.high_at_bound:
        text = "every value searched is good: there is nothing to narrow"
        return Reason(kind="nothing_to_narrow", text=text)
    text = (
        f"{plain(core[0])} to {plain(core[1])} is good, and of no value beyond is it known that "
        "it is not"
    )
    return Reason(kind="certainty", text=text)


def _width(maker: ClaimMaker, region: Region, edge: tuple[float, float]) -> float:
    """Width of an edge's interval relative to the widest that is allowed."""
    axis = region.axis
    if axis.scale == "log":
        return math.log10(edge[1] / edge[0]) / maker.limits.widest_edge_decades
    return (edge[1] - edge[0]) / (axis.high - axis.low) / maker.limits.widest_edge_fraction


def _needed_for(maker: ClaimMaker, highest: float) -> int | None:
    """Trials still needed if uncertainty falls with the root of their number.

    None where that says nothing.
    """
    if not 0.55 < highest < CORE:
        return None
    more = maker.surface_evidence.n_trials * ((norm.ppf(CORE) / norm.ppf(highest)) ** 2 - 1)
    return max(1, math.ceil(more))


def _about(more: int | None) -> str:
    """`: about 139 more trials`."""
    return f": about {counted(more, 'more trial')}" if more is not None else ""
