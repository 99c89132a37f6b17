"""Guidelines from findings: what is claimed, how it is graded, what is withheld and why.

No arithmetic on scores here.
"""

from collections.abc import Iterator

from ray_unlearn.analysis.guidelines.claim_maker import ClaimMaker
from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.analysis.guidelines.grades import THRESHOLDS, Thresholds
from ray_unlearn.analysis.guidelines.headline import best_method, headline_claim
from ray_unlearn.analysis.guidelines.region_claims import avoid_claims, range_claim
from ray_unlearn.analysis.guidelines.sentences import sentence
from ray_unlearn.analysis.numerals import percentage, plain, rounded, rounded_interval
from ray_unlearn.analysis.statistics.interaction import EQUIVALENT
from ray_unlearn.spec.guideline_file import Guideline, Reason

WIDEST_SHARE = 5.0
"""Ratio of the ends of the good share's interval, beyond which it says too little for a budget."""


def guidelines_of(findings: Findings, limits: Thresholds = THRESHOLDS) -> tuple[Guideline, ...]:
    """All claims that the findings allow, and all that are withheld, each with its sentence."""
    found: list[Guideline] = []
    for method in findings.methods.values():
        found += _method_claims(ClaimMaker(method, findings, limits))
    found += best_method(findings, limits) + headline_claim(findings, limits)
    score = findings.table.score
    return tuple(
        guideline.model_copy(update={"text": sentence(guideline, score)}) for guideline in found
    )


def _method_claims(maker: ClaimMaker) -> Iterator[Guideline]:
    """In the order of the report."""
    for region in maker.found.regions:
        yield range_claim(maker, region)
        yield from avoid_claims(maker, region)
    yield _rank(maker)
    if maker.found.trade_off is not None:
        yield _interaction(maker)
    if maker.found.stopping is not None:
        yield _stop_rule(maker)
    yield _budget(maker)


def _rank(maker: ClaimMaker) -> Guideline:
    effects, limit = maker.found.effects, maker.limits.family_error
    p = {name: maker.effect_p(name) for name in effects}
    ordered = sorted(effects, key=lambda name: (p[name], -effects[name].statistic))
    matters = [name for name in ordered if p[name] <= limit]
    reasons = []
    if maker.found.axes and not effects:
        reasons = [Reason(kind="trials", text=_no_surface(maker))]
    elif not matters:
        text = "no hyperparameter is shown to matter: as much comes from pure noise"
        reasons = [Reason(kind="importance", text=text)]
    return maker.make(
        "rank",
        reasons,
        p=rounded(min(p.values(), default=1.0)),
        family=max(1, maker.family * len(effects)),
        estimates={
            "matters": [
                {
                    "param": name,
                    "p": rounded(p[name]),
                    "statistic": rounded(effects[name].statistic),
                }
                for name in matters
            ],
            "not_shown": [name for name in ordered if name not in matters],
        },
    )


def _no_surface(maker: ClaimMaker) -> str:
    """Why there is no response surface."""
    return next((r.reason for r in maker.found.regions if r.reason), "no response surface")


def _interaction(maker: ClaimMaker) -> Guideline:
    found = maker.found.trade_off
    assert found is not None
    reasons = list(maker.untraced)
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
    return maker.make(
        "interaction",
        reasons,
        param="learning_rate",
        estimates={
            "response": maker.found.trade_off_response,
            "kappa": rounded(found.kappa),
            "kappa_90": rounded_interval(found.kappa_interval),
            "rmse_one": rounded(found.rmse_one),
            "rmse_two": rounded(found.rmse_two),
        },
    )


def _stop_rule(maker: ClaimMaker) -> Guideline:
    found = maker.found.stopping
    assert found is not None
    reasons = list(maker.untraced)
    low, high = found.regret_interval
    if not reasons and found.crossed.successes < maker.limits.least_crossed:
        text = (
            f"only {found.crossed.successes} of {found.n_trials} trials reach the target, "
            f"{maker.limits.least_crossed} are needed"
        )
        reasons.append(Reason(kind="trials", text=text))
    if not reasons and not found.bounded:
        text = (
            "what doing nothing scores is not known, and so neither is what stopping at a ruined "
            "model costs"
        )
        reasons.append(Reason(kind="stop_price", text=text))
    if not reasons and high > maker.score.tolerance:
        text = (
            f"stopping at the target costs {plain(found.regret_mean)} against the best step "
            f"(90 % interval {plain(low)} to "
            f"{plain(high)}), which may be more than {plain(maker.score.tolerance)}"
        )
        reasons.append(Reason(kind="stop_price", text=text))
    return maker.make(
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


def _budget(maker: ClaimMaker) -> Guideline:
    """How much of the space is good, and how many random trials find some of it."""
    good = maker.found.good_share
    reasons = list(maker.unpredicted)
    if good is None:
        return maker.make("budget", reasons or [Reason(kind="trials", text=_no_surface(maker))])
    if not reasons and all(maker.unimportant(axis.name) for axis in maker.found.axes):
        text = "no hyperparameter is shown to matter, so there is no best to come close to"
        reasons.append(Reason(kind="importance", text=text))
    if not reasons and (good.budget is None or good.high > WIDEST_SHARE * good.low):
        text = (
            f"between {percentage(good.low)} and {percentage(good.high)} of the space comes within "
            f"{plain(maker.score.tolerance)} of the best, too little known to say how many trials "
            "it takes"
        )
        reasons.append(Reason(kind="near_best", text=text))
    return maker.make(
        "budget",
        reasons,
        estimates={
            "share": rounded(good.share),
            "share_95": [rounded(good.low), rounded(good.high)],
            "trials": good.budget,
            "trials_95": [good.fewest, good.most],
        },
    )
