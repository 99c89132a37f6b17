"""The figures of the guidelines: which there are, and the words that say how to read them."""

from ray_unlearn.analysis.figures import guideline_data
from ray_unlearn.analysis.figures.catalogue import Drawing
from ray_unlearn.analysis.figures.heldout_plot import heldout
from ray_unlearn.analysis.figures.importance_plot import importances
from ray_unlearn.analysis.figures.kappa_plot import kappas
from ray_unlearn.analysis.figures.look import MOST_DOTS, look, thinned
from ray_unlearn.analysis.figures.paired_plot import paired
from ray_unlearn.analysis.figures.pareto_plot import fronts
from ray_unlearn.analysis.figures.region_plot import regions
from ray_unlearn.analysis.figures.tuning_plot import tuning
from ray_unlearn.analysis.guidelines.findings import Findings, MethodFindings
from ray_unlearn.analysis.guidelines.sentences import tolerance
from ray_unlearn.analysis.statistics.interaction import EQUIVALENT

MOST_EVALUATIONS = 6000


def region_figure(findings: Findings, method: MethodFindings) -> Drawing | None:
    """Good regions of one method; None where no hyperparameter has a profile."""
    data = guideline_data.regions(method)
    if data.empty:
        return None
    axes = tuple(region.axis for region in method.regions if len(region.grid))
    score = findings.table.score
    left_out = int(
        (
            ~data.loc[(data["kind"] == "trial") & (data["param"] == axes[0].name), "drawn"].astype(
                bool
            )
        ).sum()
    )
    caption = f"Above: best score that a value allows. Below: probability that the value is good. {len(method.trials):,} trials."
    used = min(region.n_used for region in method.regions if len(region.grid))
    if used < len(method.trials):
        caption += (
            f" The curve rests on {used:,} of them, chosen where scores are good and at random."
        )
    if left_out:
        caption += f" {MOST_DOTS:,} of them, chosen at random, are drawn; all are in the numbers."
    figure = regions(
        data, axes, score.tolerance, look(method.method, findings.table.methods).colour
    )
    return Drawing(
        f"regions-{method.method or 'all'}",
        f"Which values are good: {method.method or 'all trials'}",
        caption,
        data,
        figure,
    )


def reading_regions(findings: Findings) -> str:
    """How to read every figure of good values, once."""
    score, groups = findings.table.score, len(findings.table.groups)
    worst = (
        f" A value must be good in all of the {groups} groups: the worst one counts."
        if groups > 1
        else ""
    )
    return (
        "How to read the figures of good values. Above: the best score that a value allows, whatever the other hyperparameters are set to, "
        f"measured from the best there is (0). Good is what stays below the dashed line, the tolerance of {tolerance(score)}. The band is where the "
        "curve lies with 90 % probability given the trials. Dots are trials, by what their score loses to that of the best trial of their group; most "
        "lie above the curve because their other values are not the best ones. Below: the probability that a value is good."
        f"{worst} Green is the core, to be used; red is excluded; between them it is not known. An arrow marks an end of the core that "
        "is no edge of what is good: the search, or the trials, end there."
    )


def importance_figure(findings: Findings) -> Drawing | None:
    """What matters, all methods; None where nothing was computed."""
    data = guideline_data.importances(findings)
    if data.empty:
        return None
    return Drawing(
        "importance",
        "What matters, and what noise would look like",
        "How differently a hyperparameter's values are spread among the best quarter (tenth, from 500 trials) of the trials than "
        "among all. Noise alone gives more than zero, so the grey bar shows what shuffled trials reach; only a dot beyond it, and "
        "beyond a correction for the number of methods, is evidence (filled).",
        data,
        importances(data, findings.table.methods),
    )


def tuning_figure(findings: Findings) -> Drawing | None:
    """Robustness of all methods; None where nothing was computed."""
    data = guideline_data.tuning(findings)
    if data.empty:
        return None
    return Drawing(
        "tuning",
        "How much tuning does a method need?",
        "Left: what one may expect of the best of k random trials, relative to the best that any method reached in the same group "
        "(mean over all subsets of k trials, so it is unbiased; no curve goes beyond half of the trials). A line that starts low and "
        "is flat needs no tuning; the dashed line is the tolerance. Right: how large a share of configurations is within the tolerance of the method's own best: "
        "the larger, the more forgiving. Only trials drawn from the space count.",
        data,
        tuning(data, findings.table.methods, findings.table.score.tolerance),
    )


def paired_figure(findings: Findings) -> Drawing | None:
    """The headline comparison; None without it."""
    claim = findings.headline
    if claim is None:
        return None
    data = guideline_data.paired(findings)
    return Drawing(
        "paired-differences",
        f"{claim.method_a} against {claim.method_b}",
        "One dot per group, coloured by the method that does better there; diamonds are means over groups with their 90 % intervals. "
        "Each axis is turned so that the right favours the first method. The first statistic allows for the method with more trials "
        f"finding a better best (both are given {claim.budget} trials); the last is the mean of the tuning curve up to there.",
        data,
        paired(data, findings.table.methods, claim.method_a, claim.method_b),
    )


def kappa_figure(findings: Findings) -> Drawing | None:
    """Interactions of all methods; None where nothing was computed."""
    data = guideline_data.kappas(findings)
    if data.empty:
        return None
    return Drawing(
        "interactions",
        "Can one hyperparameter make up for another?",
        "The response is fitted as a function of log(learning rate) + kappa log(other). With steps, kappa = 1 says that learning rate "
        "times steps is all that counts, and the green band is how near an interval must be to say so (filled: it is, and the one-variable fit "
        "predicts as well). With a weight, kappa = 0 says that the best learning rate does not depend on it, below 0 that it grows with it.",
        data,
        kappas(data, findings.table.methods, EQUIVALENT),
    )


def heldout_figure(findings: Findings) -> Drawing | None:
    """Transfer of all methods; None where nothing was held out."""
    data = guideline_data.heldout(findings)
    if data.empty:
        return None
    return Drawing(
        "transfer",
        "On a group that the guideline has not seen",
        "Each row is one group, left out when the good region was derived from the others. Filled: expected score of the best of k trials "
        "inside that region; hollow: of k trials anywhere in the searched space; cross: the centre of the space, untuned. All are measured "
        "from the best known there. A guideline is worth having where the filled dot lies left of the hollow one.",
        data,
        heldout(data, findings.table.methods),
    )


def pareto_figure(findings: Findings) -> Drawing | None:
    """Forgetting against utility; None where a table has no such columns."""
    data = guideline_data.pareto(findings.table)
    if data.empty or not data["front"].any():
        return None
    data = data.assign(drawn=thinned(len(data), MOST_EVALUATIONS))
    dots = (
        f" Of {len(data):,} evaluations {MOST_EVALUATIONS:,} chosen at random are drawn as dots."
        if len(data) > MOST_EVALUATIONS
        else ""
    )
    return Drawing(
        "pareto",
        "Forgetting against utility",
        "The trades that each method offers: no evaluation of the method in this group is better in both. Lower left is better; both axes are "
        "logarithmic and values below 0.001 are drawn there. A front is the best of many noisy evaluations, so it is optimistic, "
        "more so for a method with more trials." + dots,
        data,
        fronts(data, findings.table.methods),
    )
