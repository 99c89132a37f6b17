"""All statistics of a trial table: what guidelines are made from and the report draws."""

from dataclasses import dataclass

import pandas as pd

from ray_unlearn.analysis.guidelines.evidence_at_hand import from_space
from ray_unlearn.analysis.guidelines.grades import THRESHOLDS, Thresholds
from ray_unlearn.analysis.guidelines.method_findings import MethodFindings, find_method
from ray_unlearn.analysis.statistics.configurations import with_configurations
from ray_unlearn.analysis.statistics.contests import (
    AllPairs,
    RobustnessClaim,
    all_pairs,
    robustness_claim,
)
from ray_unlearn.analysis.statistics.selection import best_by_selection
from ray_unlearn.analysis.trials import TrialTable
from ray_unlearn.spec.errors import UserError
from ray_unlearn.surfaces.processors import each, one_blas_thread

HEADLINE = ("ascent_descent_in_distribution", "gradient_ascent")
"""Published: the first is more robust to hyperparameters than the second (Yao et al., ACL 2024)."""


@dataclass(frozen=True)
class Findings:
    """What is known of all methods."""

    table: TrialTable
    methods: dict[str, MethodFindings]
    headline: RobustnessClaim | None
    """The published claim: ascent + descent on in-distribution data against plain ascent; None
    without both."""
    pairs: AllPairs | None
    """Every two methods by what little tuning reaches."""
    seed: int

    def effect_p(self, found: MethodFindings, param: str) -> float:
        """The p-value that the score depends on a hyperparameter, over all of them and all methods.

        Max-T allows for those of the method; times the number of methods it allows for these too
        (Bonferroni). 1 where it is not known.
        """
        effect = found.effects.get(param)
        return 1.0 if effect is None else min(1.0, effect.p * len(self.methods))


@one_blas_thread
def find(table: TrialTable, seed: int = 0, limits: Thresholds = THRESHOLDS) -> Findings:
    """All statistics of a table, the same for equal tables and seeds.

    A method needs no minimum of trials here: what cannot be computed is None, and `claims` says
    what is missing.
    """
    chosen = best_by_selection(table.trials)
    best = {str(group): float(score) for group, score in chosen["score"].items()}
    budget = _common_budget(table)

    tasks = [(table, name, seed, best, budget, limits) for name in table.methods]
    found = each(find_method, tasks, len(table.trials))
    methods = dict(zip(table.methods, found, strict=True))
    # Adaptive trials set the best known, and are not counted.
    known = table.trials[table.trials["drawn"] != "unknown"]
    known = with_configurations(known, table.axes)
    pairs = all_pairs(known, table.methods, seed, fallback=table.nothing) if len(known) else None
    return Findings(table, methods, _headline(table, known, seed, limits), pairs, seed)


def _headline(
    table: TrialTable, known: pd.DataFrame, seed: int, limits: Thresholds
) -> RobustnessClaim | None:
    if not set(HEADLINE) <= set(known["method"]):
        return None
    try:
        return robustness_claim(
            known,
            *HEADLINE,
            table.score.tolerance,
            seed,
            family_error=limits.family_error,
            fallback=table.nothing,
        )
    except UserError:  # too few trials of one of the two: `claims` says so
        return None


def _common_budget(table: TrialTable) -> int:
    """The largest number of trials that every tuning curve can have.

    Half of the fewest trials of any method in any group.
    """
    counts = from_space(table.trials).groupby(["method", "group"]).size()
    return (
        int(counts.min()) // 2
        if len(counts) and set(counts.index.get_level_values("method")) == set(table.methods)
        else 0
    )
