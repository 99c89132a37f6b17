"""What a claim had to pass: the thresholds of its file beside its own numbers."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ray_unlearn.analysis.numerals import counted, percentage, plain
from ray_unlearn.analysis.statistics.interaction import EQUIVALENT
from ray_unlearn.analysis.why.named_records import NamedRecord


@dataclass(frozen=True)
class ClaimCheck:
    """One threshold: what was measured, what is asked for, and whether that was met."""

    measured: str
    asked: str
    passed: bool

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'missed'}: {self.measured} ({self.asked})"


Numbers = dict[str, Any]
Checker = Callable[[NamedRecord, Numbers, Numbers], Iterator[ClaimCheck]]


def claim_checks(record: NamedRecord, provenance: Numbers, score: Numbers) -> list[ClaimCheck]:
    """The thresholds that apply to a record.

    Those of the file count, not this program's. What the file does not name is not checked.

    Args:
        record: a guideline; a recommendation has to pass nothing.
        provenance: of the guidelines.json.
        score: of the guidelines.json.
    """
    limits = provenance.get("thresholds", {})
    if "evidence" not in record.content:
        return []
    return [check for checker in CHECKERS for check in checker(record, limits, score)]


def _trials(record: NamedRecord, limits: Numbers, score: Numbers) -> Iterator[ClaimCheck]:
    evidence = record.content["evidence"]
    if evidence.get("left_out") is not None:
        yield from _left_out(evidence["left_out"], limits)
        return
    if record.kind == "rank":  # its test is exact at any number of trials and seeds
        return
    if "least_traced" in limits and record.kind in ("interaction", "stop_rule"):
        needed, count = limits["least_traced"], evidence["n_trials"]
        yield ClaimCheck(counted(count, "trial"), f"at least {needed:,}", count >= needed)
    if "least_seeds" in limits:
        needed, count = limits["least_seeds"], evidence["n_seeds"]
        yield ClaimCheck(counted(count, "seed"), f"at least {needed}", count >= needed)


def _left_out(left_out: Numbers, limits: Numbers) -> Iterator[ClaimCheck]:
    """A claim from the response surface: what that predicts of trials left out of its fit."""
    if "least_coverage" in limits:
        share, least = left_out["held"] / left_out["trials"], limits["least_coverage"]
        said = f"90 % intervals held {left_out['held']} of {left_out['trials']} trials left out"
        yield ClaimCheck(said, f"at least {percentage(least)}", share >= least)
    if "least_explained" in limits:
        explained, least = left_out["explained"], limits["least_explained"]
        said = f"{percentage(explained)} of their variance explained"
        yield ClaimCheck(said, f"at least {percentage(least)}", explained >= least)


def _p_value(record: NamedRecord, limits: Numbers, score: Numbers) -> Iterator[ClaimCheck]:
    p = record.content["evidence"]["p_value"]
    if p is not None and "family_error" in limits:
        limit = limits["family_error"]
        yield ClaimCheck(f"p = {plain(p)}", f"at most {plain(limit)}", p <= limit)


def _edges(record: NamedRecord, limits: Numbers, score: Numbers) -> Iterator[ClaimCheck]:
    space = record.content["search_space"]
    if record.kind != "range" or not (space and space["log"] and "widest_edge_decades" in limits):
        return
    widest = limits["widest_edge_decades"]
    for side in ("low", "high"):
        edge = record.content["estimates"].get(f"{side}_edge_90")
        if edge and edge[0] and edge[1]:
            wide = math.log10(edge[1] / edge[0])
            said = f"{side} edge known to {plain(wide)} decades"
            yield ClaimCheck(said, f"at most {plain(widest)}", wide <= widest)


def _heldout(record: NamedRecord, limits: Numbers, score: Numbers) -> Iterator[ClaimCheck]:
    held = record.content["evidence"]["heldout"] or {}
    for name, other in (("regret_default", "the default"), ("regret_full_space", "full space")):
        if held.get("regret") is not None and held.get(name) is not None:
            said = f"held-out regret {plain(held['regret'])}"
            asked = f"at most that of {other}, {plain(held[name])}"
            yield ClaimCheck(said, asked, held["regret"] <= held[name])


def _price(record: NamedRecord, limits: Numbers, score: Numbers) -> Iterator[ClaimCheck]:
    interval = record.content["estimates"].get("regret_90")
    if record.kind == "stop_rule" and interval and interval[1] is not None:
        most = score["tolerance"]
        said = f"price of the rule at most {plain(interval[1])} (90 %)"
        yield ClaimCheck(said, f"at most the tolerance, {plain(most)}", interval[1] <= most)


def _trade_off(record: NamedRecord, limits: Numbers, score: Numbers) -> Iterator[ClaimCheck]:
    interval = record.content["estimates"].get("kappa_90")
    if record.kind == "interaction" and interval and None not in interval:
        least, most = EQUIVALENT
        low, high = interval
        said = f"kappa {plain(low)} to {plain(high)} (90 %)"
        yield ClaimCheck(said, f"inside {least} to {most}", least <= low and high <= most)


CHECKERS: tuple[Checker, ...] = (_trials, _p_value, _edges, _heldout, _price, _trade_off)
