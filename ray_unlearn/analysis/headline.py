"""The published claim as a guideline: ascent + descent on in-distribution data against plain ascent."""

from ray_unlearn.analysis.findings import Findings
from ray_unlearn.analysis.grades import Thresholds, missing_evidence
from ray_unlearn.analysis.rounding import pair, rounded
from ray_unlearn.analysis.sentences import number
from ray_unlearn.spec.guidelines import Evidence, Guideline, Scope

STATISTICS = {
    "share_within_own_best": "share of configurations within the tolerance of the method's own best",
    "share_within_best_known": "share of configurations within the tolerance of the best known of any method",
    "area_under_tuning_curve": "expected best score over 1 to K random trials (area under the tuning curve)",
}


def headline_claim(findings: Findings, limits: Thresholds) -> list[Guideline]:
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
        p_value=rounded(min(claim.adjusted_p)),
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
                "difference": rounded(first.mean), "difference_90": pair((first.over_trials.low, first.over_trials.high)),
                "same_sign": max(first.better, first.worse), "budget": claim.budget,
                "all": [
                    {"statistic": d.statistic, "difference": rounded(d.mean), "difference_90": pair((d.over_trials.low, d.over_trials.high)),
                     "outcome": outcome, "adjusted_p": rounded(p), "better_in": d.better, "worse_in": d.worse}
                    for d, outcome, p in zip(claim.differences, claim.outcomes, claim.adjusted_p, strict=True)
                ],
            },
        })
    ]  # fmt: skip
