"""From findings to guidelines: what is claimed, how it is graded, what is withheld and why. No
arithmetic on scores here."""

import math
from collections.abc import Iterator

from scipy.stats import norm

from ray_unlearn.analysis.guidelines.findings import Findings, MethodFindings
from ray_unlearn.analysis.guidelines.grades import (
    THRESHOLDS,
    Thresholds,
    grade_of,
    missing_evidence,
    worse_than_default,
)
from ray_unlearn.analysis.guidelines.headline import best_method, headline_claim
from ray_unlearn.analysis.guidelines.leave_one_out import heldout_summary
from ray_unlearn.analysis.guidelines.sentences import sentence
from ray_unlearn.analysis.numerals import plain, rounded, rounded_interval
from ray_unlearn.analysis.statistics.good_regions import CORE, Region
from ray_unlearn.analysis.statistics.importance import Importance
from ray_unlearn.analysis.statistics.interaction import EQUIVALENT
from ray_unlearn.spec.guideline_file import Guideline, Kind, Narrowed, Reason, Scope, Value

LEAST_AVOIDED = 5
"""Trials in a part of an axis before it is said to be bad."""
LEAST_GOOD = 5
"""Trials within the tolerance of the best before it is said how many it takes to find one."""


def guidelines_of(findings: Findings, limits: Thresholds = THRESHOLDS) -> tuple[Guideline, ...]:
    """Every claim that the findings allow, and every one that was looked for and is withheld, with
    its sentence."""
    found: list[Guideline] = []
    for method in findings.methods.values():
        found += _Method(method, findings, limits).all()
    found += best_method(findings, limits) + headline_claim(findings, limits)
    score = findings.table.score
    return tuple(
        guideline.model_copy(update={"text": sentence(guideline, score)}) for guideline in found
    )


class _Method:
    """The claims about one method."""

    def __init__(self, found: MethodFindings, findings: Findings, limits: Thresholds) -> None:
        self.found, self.limits, self.family_p = found, limits, findings.family_p
        self.score = findings.table.score
        self.family = len(findings.methods)
        self.scope = Scope(method=found.method or None, models=found.models, domains=found.domains)
        self.evidence = found.evidence.model_copy(
            update={"heldout": heldout_summary(found.heldout)}
        )
        self.missing = missing_evidence(found.evidence, limits)

    def all(self) -> Iterator[Guideline]:
        """In the order of the report."""
        importance = (
            {line.axis.name: line for line in self.found.importance.axes}
            if self.found.importance
            else {}
        )
        for region in self.found.regions:
            yield self._range(region, importance.get(region.axis.name))
            yield from self._avoid(region, importance.get(region.axis.name))
        yield self._rank()
        if self.found.trade_off is not None:
            yield self._interaction()
        if self.found.stopping is not None:
            yield self._stop_rule()
        yield self._budget()

    def _make(
        self,
        kind: Kind,
        reasons: list[Reason],
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
        return Guideline.model_validate(
            {
                "id": name,
                "kind": kind,
                "status": "withheld" if reasons else "claimed",
                "withheld_because": tuple(reasons),
                "grade": None if reasons else grade_of(evidence, self.limits),
                "scope": self.scope,
                "param": param,
                "evidence": evidence,
                **content,
            }
        )

    def _range(self, region: Region, importance: Importance | None) -> Guideline:
        axis, p = region.axis, self.family_p(importance)
        reasons = [*self.missing, *self._unimportant(importance)]
        if not reasons:
            reasons += self._vague(region)
        if not reasons:
            reasons += worse_than_default(self.evidence)
        estimates: dict[str, object] = {
            "p_good_highest": rounded(float(region.p_good.max())) if len(region.p_good) else None,
            "searched_low": rounded(axis.low),
            "searched_high": rounded(axis.high),
            "best": rounded(region.best),
            "low_edge_90": rounded_interval(region.low_edge),
            "high_edge_90": rounded_interval(region.high_edge),
        }
        space = None
        if not reasons and axis.scale == "categorical":
            space = Narrowed(type="choice", choices=region.choices_good)
            estimates = {
                "good": list(region.choices_good),
                "excluded": list(region.choices_excluded),
            }
        elif not reasons and region.core is not None:
            # Where no end is shown, what was searched is the end of what is known.
            low = axis.low if region.low_censored else region.core[0]
            high = axis.high if region.high_censored else region.core[1]
            if axis.whole:
                low, high = float(math.ceil(low)), float(math.floor(high))
            space = Narrowed(
                type="int" if axis.whole else "float",
                low=rounded(low),
                high=rounded(high),
                log=axis.scale == "log",
            )
        return self._make(
            "range",
            reasons,
            param=axis.name,
            p=rounded(p),
            family=self.family * len(self.found.regions),
            heldout=True,
            search_space=space,
            warm_start=self._warm_start(region) if space else None,
            estimates=estimates,
            low_is_boundary=bool(space and region.low_censored),
            high_is_boundary=bool(space and region.high_censored),
        )

    @staticmethod
    def _warm_start(region: Region) -> Value:
        if region.axis.scale == "categorical":
            return region.axis.choices[round(region.best)]
        return round(region.best) if region.axis.whole else rounded(region.best)

    def _unimportant(self, importance: Importance | None) -> list[Reason]:
        if self.missing:
            return []
        if importance is None:
            return [
                Reason(kind="trials", text="too few trials with a score to say whether it matters")
            ]
        p = self.family_p(importance)
        if p <= self.limits.family_error:
            return []
        text = (
            f"not shown to matter (p = {plain(p)} over all hyperparameters and methods; pure "
            "noise gives as much)"
        )
        return [Reason(kind="importance", text=text)]

    def _vague(self, region: Region) -> list[Reason]:
        if region.axis.scale == "categorical":
            if region.choices_good and region.choices_excluded:
                return []
            return [
                Reason(kind="certainty", text="no choice is shown to be good while another is not")
            ]
        if region.core is None and not len(region.p_good):
            return [Reason(kind="trials", text=region.reason or "no region")]
        if region.core is None:
            highest = float(region.p_good.max())
            more = self._needed_for(highest)
            text = (
                f"no value comes within {plain(self.score.tolerance)} of the best with "
                f"probability {CORE} "
                f"(highest: {highest:.2f}){_about(more)}"
            )
            return [Reason(kind="certainty", text=text, trials_needed=more)]
        if region.low_censored and region.high_censored:
            return [
                Reason(
                    kind="nothing_to_narrow",
                    text="every value searched is good: there is nothing to narrow",
                )
            ]
        reasons = []
        for side, edge in (("low", region.low_edge), ("high", region.high_edge)):
            if edge is not None and (width := self._width(region, edge)) > 1:
                more = math.ceil(self.found.evidence.n_trials * (width**2 - 1))
                text = (
                    f"the {side} edge is only known to lie between {plain(edge[0])} and "
                    f"{plain(edge[1])}{_about(more)}"
                )
                reasons.append(Reason(kind="certainty", text=text, trials_needed=more))
        return reasons

    def _width(self, region: Region, edge: tuple[float, float]) -> float:
        """Of an edge's interval, relative to the widest that is allowed."""
        axis = region.axis
        if axis.scale == "log":
            return math.log10(edge[1] / edge[0]) / self.limits.widest_edge_decades
        return (edge[1] - edge[0]) / (axis.high - axis.low) / self.limits.widest_edge_fraction

    def _needed_for(self, highest: float) -> int | None:
        """Trials still needed where uncertainty falls with the root of their number; None where
        that says nothing."""
        if not 0.55 < highest < CORE:
            return None
        more = self.found.evidence.n_trials * ((norm.ppf(CORE) / norm.ppf(highest)) ** 2 - 1)
        return max(1, math.ceil(more))

    def _avoid(self, region: Region, importance: Importance | None) -> Iterator[Guideline]:
        """An end of the axis that is excluded, where a core is known: the absence of a cliff is no
        news, and where domains have no good value in common, none is to be avoided in all of them.
        """
        axis = region.axis
        if (
            axis.scale == "categorical"
            or region.core is None
            or self.missing
            or self._unimportant(importance)
        ):
            return
        for low, high in region.excluded:
            values = self.found.trials[axis.name]
            there = self.found.trials[(values >= low) & (values <= high)]
            at_low, at_high = math.isclose(low, axis.low), math.isclose(high, axis.high)
            # Between two good runs the surface is merely not smooth.
            if at_low == at_high or len(there) < LEAST_AVOIDED:
                continue
            side = "low" if at_low else "high"
            guideline = self._make(
                "avoid",
                [],
                param=axis.name,
                p=rounded(self.family_p(importance)),
                family=self.family * len(self.found.regions),
                estimates={
                    "low": None if at_low else rounded(low),
                    "high": None if at_high else rounded(high),
                    "groups": self.found.evidence.n_groups,
                    "trials_there": len(there),
                    "infeasible_there": int(there["infeasible"].sum()),
                },
            )
            yield guideline.model_copy(update={"id": f"{guideline.id}/{side}"})

    def _rank(self) -> Guideline:
        result = self.found.importance
        lines = sorted(result.axes, key=lambda line: (line.ped_p, -line.ped)) if result else []
        matters = [line for line in lines if self.family_p(line) <= self.limits.family_error]
        reasons = list(self.missing)
        if not reasons and not matters:
            reasons = [
                Reason(
                    kind="importance",
                    text="no hyperparameter is shown to matter: as much comes from pure noise",
                )
            ]
        return self._make(
            "rank",
            reasons,
            p=rounded(min((self.family_p(line) for line in lines), default=1.0)),
            family=max(1, self.family * len(lines)),
            estimates={
                "matters": [
                    {
                        "param": line.axis.name,
                        "p": rounded(self.family_p(line)),
                        "ped": rounded(line.ped),
                    }
                    for line in matters
                ],
                "not_shown": [line.axis.name for line in lines if line not in matters],
            },
        )

    def _interaction(self) -> Guideline:
        found = self.found.trade_off
        assert found is not None
        reasons = list(self.missing)
        low, high = found.kappa_interval
        if not reasons and not found.equivalent:
            least, most = EQUIVALENT
            text = (
                "learning rate times steps predicts trials left out worse than the two apart"
                if least <= low and high <= most
                else f"kappa is {plain(found.kappa)} (90 % interval {plain(low)} to "
                f"{plain(high)}), and only an interval inside "
                f"{least} to {most} says that learning rate times steps is what counts"
            )
            reasons.append(Reason(kind="trade_off", text=text))
        return self._make(
            "interaction",
            reasons,
            param="learning_rate",
            estimates={
                "response": self.found.trade_off_response,
                "kappa": rounded(found.kappa),
                "kappa_90": rounded_interval(found.kappa_interval),
                "rmse_one": rounded(found.rmse_one),
                "rmse_two": rounded(found.rmse_two),
            },
        )

    def _stop_rule(self) -> Guideline:
        found = self.found.stopping
        assert found is not None
        reasons = list(self.missing)
        low, high = found.regret_interval
        if not reasons and found.crossed.successes < self.limits.least_top_trials:
            text = (
                f"only {found.crossed.successes} of {found.n_trials} trials reach the target, "
                f"{self.limits.least_top_trials} are needed"
            )
            reasons.append(Reason(kind="trials", text=text))
        if not reasons and high > self.score.tolerance:
            text = (
                f"stopping at the target costs {plain(found.regret_mean)} against the best step "
                f"(90 % interval {plain(low)} to "
                f"{plain(high)}), which may be more than {plain(self.score.tolerance)}"
            )
            reasons.append(Reason(kind="stop_price", text=text))
        return self._make(
            "stop_rule",
            reasons,
            rule="first evaluation with forget perplexity >= approximate-set perplexity",
            estimates={
                "regret": rounded(found.regret_mean),
                "regret_90": rounded_interval(found.regret_interval),
                "regret_last": rounded(found.regret_last_mean),
                "crossed": rounded(found.crossed.fraction),
                "updates_saved": rounded(found.updates_saved),
                "hindsight": found.hindsight,
            },
        )

    def _budget(self) -> Guideline:
        near = self.found.near_own_best
        reasons = list(self.missing)
        if near is None:
            return self._make(
                "budget", reasons or [Reason(kind="trials", text="no trial has a score")]
            )
        lines = self.found.importance.axes if self.found.importance else ()
        if not reasons and all(self.family_p(line) > self.limits.family_error for line in lines):
            text = "no hyperparameter is shown to matter, so there is no best to come close to"
            reasons.append(Reason(kind="importance", text=text))
        if not reasons and near.successes < LEAST_GOOD:
            text = (
                f"only {near.successes} of {near.n} trials come within "
                f"{plain(self.score.tolerance)} of the best, too few to "
                "say how many it takes"
            )
            reasons.append(Reason(kind="near_best", text=text))
        trials = (
            None
            if near.low <= 0
            else max(1, math.ceil(math.log(0.1) / math.log1p(-min(near.low, 0.999))))
        )
        return self._make(
            "budget",
            reasons,
            estimates={
                "share": rounded(near.fraction),
                "share_95": [rounded(near.low), rounded(near.high)],
                "trials": trials,
            },
        )


def _about(more: int | None) -> str:
    """`: about 139 more trials`."""
    return f": about {more:,} more trials" if more is not None else ""
