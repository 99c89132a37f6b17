"""Domains fitted together: each needs fewer trials where they are alike, and none is told what is
not true of it where they differ."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from planted_curves import BEST_RATE, expected_score, planted_with_curves
from surfaces import RATE, TOLERANCE, WEIGHT, planted, reach, valley

from ray_unlearn.analysis.guidelines.claims import guidelines_of
from ray_unlearn.analysis.guidelines.findings import find
from ray_unlearn.analysis.guidelines.group_parts import group_parts
from ray_unlearn.analysis.guidelines.region_claims import NARROWEST
from ray_unlearn.analysis.statistics.fitted_groups import FittedGroup, fit_groups, regrets_of
from ray_unlearn.analysis.statistics.good_regions import Region, good_regions
from ray_unlearn.analysis.statistics.group_surfaces import (
    MOST_TOGETHER,
    MOST_WITH_CURVES,
    fitted_together,
)
from ray_unlearn.surfaces.group_points import LEAST_AMONG, GroupPoints

AXES = (RATE, WEIGHT)
BEST = -4.5
DOMAINS = ("books", "code", "papers")


def alike(group: str) -> float:
    return 0.0


def apart(group: str) -> float:
    return {"books": -0.8, "code": 0.0, "papers": 0.8}[group]


def parts_of(
    trials: int, seed: int, shift: Callable[[str], float] = alike, noise: float = 0.05
) -> tuple[GroupPoints, ...]:
    table = planted(
        {"a": valley(BEST)}, trials=trials, groups=DOMAINS, noise=noise, seed=seed, shift=shift
    )
    return group_parts(table, table.trials, AXES)


def fitted(parts: tuple[GroupPoints, ...]) -> tuple[FittedGroup, ...]:
    return fit_groups(parts, AXES, TOLERANCE, 0)


def each_alone(parts: tuple[GroupPoints, ...]) -> tuple[FittedGroup, ...]:
    return tuple(fit_groups([part], AXES, TOLERANCE, 0)[0] for part in parts)


def rates(fits: tuple[FittedGroup, ...]) -> Region:
    return good_regions(fits, AXES, TOLERANCE)[0]


def edges(region: Region) -> list[tuple[tuple[float, float], float]]:
    """Intervals of the shown edges, and where the edges are."""
    ends = ((region.low_edge, BEST - reach()), (region.high_edge, BEST + reach()))
    return [(edge, 10**end) for edge, end in ends if edge is not None]


def test_a_dozen_trials_of_each_domain_claim_what_they_do_not_claim_apart() -> None:
    claimed = {"together": 0, "apart": 0}
    found = []
    for seed in range(6):
        parts = parts_of(12, 700 + seed, noise=TOLERANCE)
        for name, fits in (("together", fitted(parts)), ("apart", each_alone(parts))):
            region = rates(fits)
            if region.core is not None and region.bounded:
                claimed[name] += 1
                found += edges(region) if name == "together" else []
    assert claimed["together"] >= 5
    assert claimed["apart"] <= 3
    assert sum(low <= end <= high for (low, high), end in found) >= len(found) - 1


def test_domains_that_disagree_keep_their_own_good_values() -> None:
    for seed in range(3):
        parts = parts_of(16, 40 + seed, apart)
        region = rates(fitted(parts))
        assert region.core is None
        for group, p in zip(region.groups, region.p_by_group, strict=True):
            best = np.log10(region.grid[p.argmax()])
            assert best == pytest.approx(BEST + apart(group), abs=0.25), (seed, group)
            wrong = np.abs(np.log10(region.grid) - BEST - apart(group)) > reach() + 0.15
            assert p[wrong].max() < 0.5, (seed, group)


def test_what_is_held_out_tells_nothing_of_itself() -> None:
    """Regions are derived from the others alone, though all were fitted together."""
    parts = parts_of(12, 3)
    others = parts[:2]
    fits = fitted(parts)[:2]
    anew = regrets_of(others, AXES, TOLERANCE, 0)
    without = fit_groups(others, AXES, TOLERANCE, 0)
    for i in range(2):
        np.testing.assert_array_equal(anew[i][0], without[i].regrets[0])
        assert not np.array_equal(anew[i][0], fits[i].regrets[0])


def test_a_report_holds_out_what_it_fits_together() -> None:
    """A domain whose optimum lies elsewhere does not move the box that it is judged by."""

    def judged(seed_of_papers: int) -> tuple[object, np.ndarray]:
        table = planted({"a": valley(BEST)}, trials=14, groups=DOMAINS, seed=11)
        moved = planted({"a": valley(BEST + 0.5)}, trials=14, groups=DOMAINS, seed=seed_of_papers)
        theirs = table.trials["group"] == "papers"
        columns = ["learning_rate", "w_r", "score", "score_selection"]
        trials = table.trials.copy()
        trials.loc[theirs, columns] = moved.trials.loc[theirs, columns]
        found = find(replace(table, trials=trials)).methods["a"]
        (box,) = (one.box for one in found.heldout if one.group == "papers")
        return box, found.regions[0].p_by_group[0]

    one, other = judged(1), judged(2)
    assert one[0] == other[0]
    assert not np.array_equal(one[1], other[1]), "books learn from papers"


def test_five_trials_of_a_domain_say_something_among_others_and_nothing_alone() -> None:
    parts = parts_of(LEAST_AMONG, 0)
    assert [fit.reason for fit in fitted(parts)] == [None] * 3
    assert fit_groups(parts[:1], AXES, TOLERANCE, 0)[0].reason == "5 trials in books, 8 needed"
    fewer = (replace(parts[0], points=parts[0].points[:4], scores=parts[0].scores[:4],
                     infeasible=parts[0].infeasible[:4]), *parts[1:])  # fmt: skip
    assert fitted(fewer)[0].reason == "4 trials in books, 5 needed"


def test_curves_of_domains_are_fitted_together_too() -> None:
    """Edges in five planted studies of three domains, whose best learning rates differ a little."""
    grid = np.linspace(0, 1, 121)
    logs = np.log10(RATE.from_unit(grid))
    space = np.stack(np.meshgrid(grid, np.linspace(0, 1, 9), indexing="ij"), -1).reshape(-1, 2)
    drift = (-0.15, 0.0, 0.15)
    ends = []
    for away in drift:
        score = expected_score(space, 0.11, best_rate=BEST_RATE + away)
        good = (score <= score.min() + TOLERANCE).reshape(121, 9).any(1)
        ends.append((logs[good].min(), logs[good].max()))
    truth = max(low for low, _ in ends), min(high for _, high in ends)
    held = []
    for seed in range(4):
        parts = []
        for i, (name, away) in enumerate(zip(DOMAINS, drift, strict=True)):
            table = planted_with_curves(
                10, 90 + 10 * seed + i, seed_sd=0.11, groups=(name,), best_rate=BEST_RATE + away
            )
            parts += group_parts(table, table.trials, AXES)
        region = rates(fit_groups(parts, AXES, TOLERANCE, 0))
        held += [
            low <= 10**end <= high
            for (low, high), end in (
                (edge, end)
                for edge, end in zip((region.low_edge, region.high_edge), truth, strict=True)
                if edge is not None
            )
        ]
    assert len(held) >= 7
    assert sum(held) >= len(held) - 1


def test_groups_with_enough_trials_of_their_own_stand_alone() -> None:
    part = parts_of(12, 0)[0]
    assert fitted_together([part] * 3) == ((0, 1, 2),)
    many = replace(part, scores=np.zeros(MOST_TOGETHER // 2 + 1))
    assert fitted_together([many] * 2) == ((0,), (1,))
    table = planted_with_curves(12, 0)
    (curves,) = group_parts(table, table.trials, AXES)
    assert fitted_together([part, curves, part, curves]) == ((1, 3), (0, 2))
    many = replace(curves, scores=np.zeros(MOST_WITH_CURVES // 2 + 1))
    assert fitted_together([many] * 2) == ((0,), (1,))


def test_a_point_that_all_domains_share_is_no_range() -> None:
    """Good regions of two domains that hardly meet: once "use 3.12e-5 to 3.2e-5"."""
    drift = {"books": -0.22, "code": 0.22}
    table = planted(
        {"a": valley(BEST)},
        trials=30,
        groups=tuple(drift),
        axes=(RATE,),
        noise=0.02,
        seed=4,
        shift=drift.__getitem__,
    )
    findings = find(table)
    region = findings.methods["a"].regions[0]
    assert 0 < region.span < NARROWEST
    (found,) = (g for g in guidelines_of(findings) if g.kind == "range")
    assert found.status == "likely"
    assert any("a point, not a range" in reason.text for reason in found.withheld_because)
