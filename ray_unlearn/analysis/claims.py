"""From findings to guidelines: what is claimed, how it is graded, what is withheld and why. No arithmetic on scores here."""

import math
from collections.abc import Iterator

from scipy.stats import norm

from ray_unlearn.analysis.effects.importance import Importance
from ray_unlearn.analysis.effects.regions import Region
from ray_unlearn.analysis.findings import Findings, MethodFindings
from ray_unlearn.analysis.grades import THRESHOLDS, Thresholds, grade_of, missing_evidence, worse_than_default
from ray_unlearn.analysis.sentences import number, sentence
from ray_unlearn.analysis.transfer import summary
from ray_unlearn.spec.guidelines import Evidence, Guideline, Kind, Narrowed, Scope, Value

CORE_PROBABILITY = 0.9
LEAST_AVOIDED = 5
"""Trials in a part of an axis before it is said to be bad."""
LEAST_GOOD = 5
"""Trials within the tolerance of the best before it is said how many it takes to find one."""


def guidelines_of(findings: Findings, limits: Thresholds = THRESHOLDS) -> tuple[Guideline, ...]:
    """Every claim that the findings allow, and every one that was looked for and is withheld, with its sentence."""
    found: list[Guideline] = []
    for method in findings.methods.values():
        found += _Method(method, findings, limits).all()
    found += _headline(findings, limits)
    score = findings.table.score
    return tuple(guideline.model_copy(update={"text": sentence(guideline, score)}) for guideline in found)


class _Method:
    """The claims about one method."""

    def __init__(self, found: MethodFindings, findings: Findings, limits: Thresholds) -> None:
        self.found, self.limits = found, limits
        self.score = findings.table.score
        self.family = len(findings.methods)
        self.scope = Scope(method=found.method or None, models=found.models, domains=found.domains)
        self.evidence = found.evidence.model_copy(update={"heldout": summary(found.heldout)})
        self.missing = missing_evidence(found.evidence, found.from_space, limits)

    def all(self) -> Iterator[Guideline]:
        """In the order of the report."""
        importance = {line.axis.name: line for line in self.found.importance.axes} if self.found.importance else {}
        for region in self.found.regions:
            yield self._range(region, importance.get(region.axis.name))
            yield from self._avoid(region, importance.get(region.axis.name))
        yield self._rank()
        if self.found.trade_off is not None:
            yield self._interaction()
        if self.found.stopping is not None:
            yield self._stop_rule()
        yield self._budget()

    def family_p(self, importance: Importance | None) -> float:
        """The max-T p-value, which allows for the axes of the method, times the number of methods (Bonferroni)."""
        return min(1.0, importance.ped_p * self.family) if importance is not None else 1.0

    def _make(
        self,
        kind: Kind,
        reasons: list[str],
        *,
        param: str | None = None,
        p: float | None = None,
        family: int | None = None,
        heldout: bool = False,
        **content: object,
    ) -> Guideline:
        evidence = self.evidence.model_copy(
            update={"p_value": p, "family_size": family} | ({} if heldout else {"heldout": None})
        )
        name = "/".join(part for part in (kind, self.found.method, param) if part)
        return Guideline.model_validate({
            "id": name, "kind": kind, "status": "withheld" if reasons else "claimed", "withheld_because": tuple(reasons),
            "grade": None if reasons else grade_of(self.evidence, self.limits),
            "scope": self.scope, "param": param, "evidence": evidence, **content,
        })  # fmt: skip

    def _range(self, region: Region, importance: Importance | None) -> Guideline:
        axis, p = region.axis, self.family_p(importance)
        reasons = [*self.missing, *self._unimportant(importance)]
        if not reasons:
            reasons += self._vague(region)
        if not reasons and (refused := worse_than_default(self.evidence)):
            reasons.append(refused)
        estimates: dict[str, object] = {
            "p_good_highest": _rounded(float(region.p_good.max())) if len(region.p_good) else None,
            "searched_low": _rounded(axis.low), "searched_high": _rounded(axis.high), "best": _rounded(region.best),
            "low_edge_90": _pair(region.low_edge), "high_edge_90": _pair(region.high_edge),
        }  # fmt: skip
        space = None
        if not reasons and axis.scale == "categorical":
            space = Narrowed(type="choice", choices=region.choices_good)
            estimates = {"good": list(region.choices_good), "excluded": list(region.choices_excluded)}
        elif not reasons and region.core is not None:
            # Where no end is shown, what was searched is the end of what is known.
            low = axis.low if region.low_censored else region.core[0]
            high = axis.high if region.high_censored else region.core[1]
            if axis.whole:
                low, high = float(math.ceil(low)), float(math.floor(high))
            space = Narrowed(
                type="int" if axis.whole else "float", low=_rounded(low), high=_rounded(high), log=axis.scale == "log"
            )
        return self._make(
            "range", reasons, param=axis.name, p=_rounded(p), family=self.family * len(self.found.regions), heldout=True,
            search_space=space, warm_start=self._warm_start(region) if space else None, estimates=estimates,
            low_is_boundary=bool(space and region.low_censored), high_is_boundary=bool(space and region.high_censored),
        )  # fmt: skip

    @staticmethod
    def _warm_start(region: Region) -> Value:
        if region.axis.scale == "categorical":
            return region.axis.choices[round(region.best)]
        return round(region.best) if region.axis.whole else _rounded(region.best)

    def _unimportant(self, importance: Importance | None) -> list[str]:
        if self.missing:
            return []
        if importance is None:
            return ["too few trials with a score to say whether it matters"]
        p = self.family_p(importance)
        if p <= self.limits.family_error:
            return []
        return [f"not shown to matter (p = {number(p)} over all hyperparameters and methods; pure noise gives as much)"]

    def _vague(self, region: Region) -> list[str]:
        if region.axis.scale == "categorical":
            if region.choices_good and region.choices_excluded:
                return []
            return ["no choice is shown to be good while another is not"]
        if region.core is None and not len(region.p_good):
            return [region.reason or "no region"]
        if region.core is None:
            highest = float(region.p_good.max())
            return [
                f"no value comes within {number(self.score.tolerance)} of the best with probability {CORE_PROBABILITY} "
                f"(highest: {highest:.2f}){self._needed_for(highest)}"
            ]
        if region.low_censored and region.high_censored:
            return ["every value searched is good: there is nothing to narrow"]
        reasons = []
        for side, edge in (("low", region.low_edge), ("high", region.high_edge)):
            if edge is not None and (width := self._width(region, edge)) > 1:
                more = math.ceil(self.found.evidence.n_trials * (width**2 - 1))
                reasons.append(
                    f"the {side} edge is only known to lie between {number(edge[0])} and {number(edge[1])}: about {more:,} more trials"
                )
        return reasons

    def _width(self, region: Region, edge: tuple[float, float]) -> float:
        """Of an edge's interval, relative to the widest that is allowed."""
        axis = region.axis
        if axis.scale == "log":
            return math.log10(edge[1] / edge[0]) / self.limits.widest_edge_decades
        return (edge[1] - edge[0]) / (axis.high - axis.low) / self.limits.widest_edge_share

    def _needed_for(self, highest: float) -> str:
        """Trials still needed where uncertainty falls with the root of their number."""
        if not 0.55 < highest < CORE_PROBABILITY:
            return ""
        more = self.found.evidence.n_trials * ((norm.ppf(CORE_PROBABILITY) / norm.ppf(highest)) ** 2 - 1)
        return f"; about {math.ceil(more):,} more trials"

    def _avoid(self, region: Region, importance: Importance | None) -> Iterator[Guideline]:
        """An end of the axis that is excluded, where a core is known: the absence of a cliff is no news, and where domains
        have no good value in common, none is to be avoided in all of them."""
        axis = region.axis
        if axis.scale == "categorical" or region.core is None or self.missing or self._unimportant(importance):
            return
        for low, high in region.excluded:
            values = self.found.trials[axis.name]
            there = self.found.trials[(values >= low) & (values <= high)]
            at_low, at_high = math.isclose(low, axis.low), math.isclose(high, axis.high)
            if (
                at_low == at_high or len(there) < LEAST_AVOIDED
            ):  # between two good runs, the surface is not smooth there
                continue
            side = "low" if at_low else "high"
            guideline = self._make(
                "avoid", [], param=axis.name, p=_rounded(self.family_p(importance)), family=self.family * len(self.found.regions),
                estimates={
                    "low": None if at_low else _rounded(low), "high": None if at_high else _rounded(high),
                    "groups": self.found.evidence.n_groups, "trials_there": len(there), "infeasible_there": int(there["infeasible"].sum()),
                },
            )  # fmt: skip
            yield guideline.model_copy(update={"id": f"{guideline.id}/{side}"})

    def _rank(self) -> Guideline:
        result = self.found.importance
        lines = sorted(result.axes, key=lambda line: (line.ped_p, -line.ped)) if result else []
        matters = [line for line in lines if self.family_p(line) <= self.limits.family_error]
        reasons = list(self.missing)
        if not reasons and not matters:
            reasons = ["no hyperparameter is shown to matter: as much importance comes from pure noise"]
        return self._make(
            "rank", reasons, p=_rounded(min((self.family_p(line) for line in lines), default=1.0)),
            family=max(1, self.family * len(lines)),
            estimates={
                "matters": [
                    {"param": line.axis.name, "p": _rounded(self.family_p(line)), "ped": _rounded(line.ped), "fanova": _rounded(line.fanova)}
                    for line in matters
                ],
                "not_shown": [line.axis.name for line in lines if line not in matters],
            },
        )  # fmt: skip

    def _interaction(self) -> Guideline:
        found = self.found.trade_off
        assert found is not None
        reasons = list(self.missing)
        low, high = found.kappa_interval
        if not reasons and not found.equivalent:
            reasons.append(
                f"kappa is {number(found.kappa)} (90 % interval {number(low)} to {number(high)}), and only an interval inside 0.8 to "
                "1.25 says that learning rate times steps is what counts"
                if not (low >= 0.8 and high <= 1.25)
                else "learning rate times steps predicts trials left out worse than the two apart"
            )
        return self._make("interaction", reasons, param="learning_rate", estimates={
            "response": self.found.trade_off_response, "kappa": _rounded(found.kappa), "kappa_90": _pair(found.kappa_interval),
            "rmse_one": _rounded(found.rmse_one), "rmse_two": _rounded(found.rmse_two),
        })  # fmt: skip

    def _stop_rule(self) -> Guideline:
        found = self.found.stopping
        assert found is not None
        reasons = list(self.missing)
        low, high = found.regret_interval
        if not reasons and found.crossed.successes < self.limits.least_top_trials:
            reasons.append(
                f"only {found.crossed.successes} of {found.n_trials} trials reach the target, {self.limits.least_top_trials} are needed"
            )
        if not reasons and high > self.score.tolerance:
            reasons.append(
                f"stopping at the target costs {number(found.regret_mean)} against the best step (90 % interval {number(low)} to "
                f"{number(high)}), which may be more than {number(self.score.tolerance)}"
            )
        return self._make("stop_rule", reasons, rule="first evaluation with forget perplexity >= approximate-set perplexity", estimates={
            "regret": _rounded(found.regret_mean), "regret_90": _pair(found.regret_interval), "regret_last": _rounded(found.regret_last),
            "crossed": _rounded(found.crossed.share), "updates_saved": _rounded(found.updates_saved), "hindsight": found.hindsight,
        })  # fmt: skip

    def _budget(self) -> Guideline:
        share = self.found.share_own
        reasons = list(self.missing)
        if share is None:
            return self._make("budget", reasons or ["no trial has a score"])
        lines = self.found.importance.axes if self.found.importance else ()
        if not reasons and all(self.family_p(line) > self.limits.family_error for line in lines):
            reasons.append("no hyperparameter is shown to matter, so there is no best to come close to")
        if not reasons and share.low <= 0:
            reasons.append(
                f"{share.successes} of {share.n} trials come within {number(self.score.tolerance)} of the best"
            )
        trials = None if share.low <= 0 else max(1, math.ceil(math.log(0.1) / math.log1p(-min(share.low, 0.999))))
        return self._make("budget", reasons, estimates={
            "share": _rounded(share.share), "share_95": [_rounded(share.low), _rounded(share.high)], "trials": trials,
        })  # fmt: skip


STATISTICS = {
    "share_within_own_best": "share of configurations within the tolerance of the method's own best",
    "share_within_best_known": "share of configurations within the tolerance of the best known of any method",
    "area_under_tuning_curve": "expected best score over 1 to K random trials (area under the tuning curve)",
}


def _headline(findings: Findings, limits: Thresholds) -> list[Guideline]:
    """The published claim, whichever way it comes out: one comparison, three statistics, settled together by Holm."""
    claim = findings.headline
    if claim is None:
        return []
    a, b = (findings.methods[name] for name in (claim.method_a, claim.method_b))
    groups = [row.group for row in claim.differences[0].groups]
    seeds = min(a.evidence.n_seeds, b.evidence.n_seeds)
    evidence = Evidence(
        n_trials=a.from_space + b.from_space,
        n_groups=len(groups),
        n_seeds=seeds,
        sampler="drawn from the space",
        p_value=_rounded(min(claim.adjusted_p)),
        family_size=len(claim.differences),
    )
    reasons = [
        f"{found.method}: {reason}"
        for found in (a, b)
        for reason in missing_evidence(found.evidence, found.from_space, limits)
    ]
    if not reasons and claim.outcome == "not settled":
        told = "; ".join(
            f"{STATISTICS[d.statistic]}: {number(d.mean)} ({number(d.over_trials.low)} to {number(d.over_trials.high)})"
            for d in claim.differences
        )
        reasons.append(
            f"the difference is not settled by these trials, 90 % intervals of the paired differences: {told}"
        )
    grade = "scoped" if len(groups) < limits.groups_for_c else "C" if claim.outcome_beyond != claim.outcome else (
        "A" if len(groups) >= limits.groups_for_a else "B"
    )  # fmt: skip
    first = min(zip(claim.adjusted_p, claim.differences, strict=True), key=lambda pair: pair[0])[1]
    return [
        Guideline.model_validate({
            "id": f"method_choice/{claim.method_a}/{claim.method_b}", "kind": "method_choice",
            "status": "withheld" if reasons else "claimed", "withheld_because": tuple(reasons),
            "grade": None if reasons else grade, "evidence": evidence,
            "scope": Scope(method=claim.method_a, models=tuple(sorted({*a.models, *b.models})), domains=tuple(sorted({*a.domains, *b.domains}))),
            "estimates": {
                "finding": claim.outcome, "against": claim.method_b, "statistic": STATISTICS[first.statistic],
                "difference": _rounded(first.mean), "difference_90": _pair((first.over_trials.low, first.over_trials.high)),
                "same_sign": max(first.better, first.worse), "budget": claim.budget,
                "all": [
                    {"statistic": d.statistic, "difference": _rounded(d.mean), "difference_90": _pair((d.over_trials.low, d.over_trials.high)),
                     "outcome": outcome, "adjusted_p": _rounded(p), "better_in": d.better, "worse_in": d.worse}
                    for d, outcome, p in zip(claim.differences, claim.outcomes, claim.adjusted_p, strict=True)
                ],
            },
        })
    ]  # fmt: skip


def _pair(interval: tuple[float, float] | None) -> list[float | None] | None:
    return None if interval is None else [_rounded(interval[0]), _rounded(interval[1])]


def _rounded(value: float | None) -> float | None:
    """Six significant digits, so that the last bits of another machine's arithmetic do not show; null if not finite."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None
