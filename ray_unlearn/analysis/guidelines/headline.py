"""Comparisons of methods as guidelines: the published claim, and the best method."""

from collections.abc import Sequence

from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.analysis.guidelines.grades import Thresholds, is_scoped, not_comparable
from ray_unlearn.analysis.guidelines.method_findings import MethodFindings
from ray_unlearn.analysis.guidelines.sentences import STATISTICS
from ray_unlearn.analysis.numerals import plain, rounded, rounded_interval
from ray_unlearn.analysis.statistics.paired_difference import PairedDifference
from ray_unlearn.analysis.trials import TrialTable
from ray_unlearn.spec.guideline_file import Evidence, Guideline, Reason, Scope


def headline_claim(findings: Findings, limits: Thresholds) -> list[Guideline]:
    """The published claim, whichever way it comes out.

    One comparison by three statistics, settled together by Holm.
    """
    claim, table = findings.headline, findings.table
    if claim is None:
        return []
    a, b = (findings.methods[name] for name in (claim.method_a, claim.method_b))
    groups = _independent((a, b), claim.differences[0])
    seeds = min(a.evidence.n_seeds, b.evidence.n_seeds)
    evidence = Evidence(
        n_trials=a.evidence.n_trials + b.evidence.n_trials,
        n_groups=groups,
        n_models=_models((a, b)),
        n_seeds=seeds,
        sampler="drawn from the space",
        p_value=rounded(min(claim.adjusted_p)),
        family_size=len(claim.differences),
    )
    reasons = _missing((a, b), limits)
    if not reasons and claim.outcome == "not settled":
        shown = "; ".join(
            f"{STATISTICS[d.statistic]}: {plain(mean)} ({plain(low)} to {plain(high)})"
            for d in claim.differences
            for mean, (low, high) in [d.as_given(table.score.direction)]
        )
        text = (
            "the difference is not settled by these trials, 90 % intervals of the paired "
            f"differences: {shown}"
        )
        reasons.append(Reason(kind="difference", text=text))
    grade = (
        "scoped"
        if is_scoped(evidence, limits)
        else "C"
        if claim.outcome_beyond != claim.outcome
        else (
            "A" if groups >= limits.groups_for_a else "B" if groups >= limits.groups_for_b else "C"
        )
    )
    first = min(zip(claim.adjusted_p, claim.differences, strict=True), key=lambda pair: pair[0])[1]
    return [
        Guideline.model_validate(
            {
                "id": f"method_choice/{claim.method_a}/{claim.method_b}",
                "kind": "method_choice",
                "status": "not_known" if reasons else "claimed",
                "withheld_because": tuple(reasons),
                "grade": None if reasons else grade,
                "evidence": evidence,
                "scope": Scope(
                    method=claim.method_a,
                    models=tuple(sorted({*a.models, *b.models})),
                    domains=tuple(sorted({*a.domains, *b.domains})),
                ),
                "estimates": {
                    "finding": claim.outcome,
                    "against": claim.method_b,
                    "statistic": STATISTICS[first.statistic],
                    **_numbers(table, first),
                    "same_sign": max(first.better, first.worse),
                    "groups": len(first.groups),
                    "budget": claim.budget,
                    "all": [
                        {
                            "statistic": d.statistic,
                            **_numbers(table, d),
                            "outcome": outcome,
                            "adjusted_p": rounded(p),
                            "better_in": d.better,
                            "worse_in": d.worse,
                        }
                        for d, outcome, p in zip(
                            claim.differences, claim.outcomes, claim.adjusted_p, strict=True
                        )
                    ],
                },
            }
        )
    ]


def best_method(findings: Findings, limits: Thresholds) -> list[Guideline]:
    """The method with the best scores for 1 to K random trials, and which others it beats.

    Which one is best was seen in the data, so the p-values allow for every two methods (Holm over
    all pairs).
    """
    pairs = findings.pairs
    if pairs is None:
        return []
    sums = dict.fromkeys(findings.methods, 0.0)
    for difference in pairs.differences:
        sums[difference.method_a] += difference.mean
        sums[difference.method_b] -= difference.mean
    best = min(sums, key=lambda method: (sums[method], method))
    against = [
        (d.method_b if d.method_a == best else d.method_a, d, p)
        for d, p in zip(pairs.differences, pairs.adjusted_p, strict=True)
        if best in (d.method_a, d.method_b)
    ]
    settled = {
        other: p
        for other, d, p in against
        if p <= limits.family_error and (d.mean < 0) == (d.method_a == best)
    }
    everyone = list(findings.methods.values())
    reasons = _missing(everyone, limits)
    if not reasons and not settled:
        reasons = [
            Reason(kind="difference", text="no method is shown to reach better scores than another")
        ]
    evidence = Evidence(
        n_trials=sum(found.evidence.n_trials for found in everyone),
        n_groups=_independent(everyone, pairs.differences[0]),
        n_models=_models(everyone),
        n_seeds=min(found.evidence.n_seeds for found in everyone),
        sampler="drawn from the space",
        p_value=rounded(max(settled.values(), default=1.0)),
        family_size=len(pairs.differences),
    )
    grade = "scoped" if is_scoped(evidence, limits) else "C"
    return [
        Guideline.model_validate(
            {
                "id": "method_choice/best",
                "kind": "method_choice",
                "status": "not_known" if reasons else "claimed",
                "withheld_because": tuple(reasons),
                "grade": None if reasons else grade,
                "scope": Scope(
                    method=None if reasons else best,
                    models=tuple(sorted({m for found in everyone for m in found.models})),
                    domains=tuple(sorted({d for found in everyone for d in found.domains})),
                ),
                "estimates": {
                    "better_than": list(settled),
                    "not_settled": [other for other, _, _ in against if other not in settled],
                    "budget": pairs.budget,
                    "differences": [
                        {
                            "against": other,
                            **_numbers(findings.table, d, turned=d.method_a != best),
                            "adjusted_p": rounded(p),
                        }
                        for other, d, p in against
                    ],
                },
                "evidence": evidence,
            }
        )
    ]


def _missing(methods: Sequence[MethodFindings], limits: Thresholds) -> list[Reason]:
    """What the methods compared lack, each reason once, with the names of those that lack it."""
    lacking: dict[Reason, list[str]] = {}
    for found in methods:
        for reason in not_comparable(found.evidence, limits):
            lacking.setdefault(reason, []).append(found.method)
    return [
        reason.model_copy(update={"text": f"{_named(names, len(methods))}: {reason.text}"})
        for reason, names in lacking.items()
    ]


def _named(names: Sequence[str], of: int) -> str:
    return f"each of {of} methods" if len(names) == of > 2 else ", ".join(names)


def _independent(methods: Sequence[MethodFindings], difference: PairedDifference) -> int:
    """Domains (or models) compared: pairs of both are not independent of each other."""
    return min(len(difference.groups), *(found.evidence.n_groups for found in methods))


def _models(methods: Sequence[MethodFindings]) -> int:
    """Trained models that all of the methods were tried on, at most."""
    return min(found.evidence.n_models for found in methods)


def _numbers(table: TrialTable, found: PairedDifference, turned: bool = False) -> dict[str, object]:
    """Mean difference a - b with its interval, in the direction of the scores given.

    With `turned`, b - a.
    """
    mean, (low, high) = found.as_given(table.score.direction)
    if turned:
        mean, low, high = -mean, -high, -low
    return {"difference": rounded(mean), "difference_90": rounded_interval((low, high))}
