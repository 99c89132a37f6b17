"""The evidence that a claim needs, the grade that it then has, and all thresholds.

A       9 or more domains (or models), better on every one held out.
B       5 to 8, better on every one held out.
C       3 or 4, where no sign test can reach 0.05; or more, but not better on every one held out.
scoped  one or two domains, one trained model, or fewer than three seeds: stated for these alone.

Unlearning seeds of one trained model do not stand for other trained models (arXiv 2510.26714), so
no claim from one has a better grade (`trained_models` says what counts as one).
"""

from dataclasses import asdict, dataclass
from typing import Any

from ray_unlearn.analysis.numerals import counted, percentage
from ray_unlearn.analysis.statistics.paired_difference import FEWEST_TRIALS
from ray_unlearn.analysis.statistics.surface_check import SurfaceCheck
from ray_unlearn.spec.guideline_file import Evidence, Grade, Reason


@dataclass(frozen=True)
class Thresholds:
    """Every number that decides whether something is claimed."""

    least_traced: int = 20
    """Of trials drawn from the space whose trajectories say how learning rate and steps trade off,
    or what the stopping rule costs: below it, neither was measured (`benchmarks/gate_rates.py`)."""
    least_crossed: int = 20
    """Of trials that the stopping rule stopped."""
    least_compared: int = FEWEST_TRIALS
    """Trials of each method, drawn from the space, for comparisons: from there on equal methods are
    rarely told apart (`benchmarks/equal_methods.py`)."""
    least_coverage: float = 0.75
    """Share of trials left out that the surface's 90 % intervals have to hold."""
    least_explained: float = 0.1
    """Share of the variance of trials left out that the surface has to explain."""
    least_seeds: int = 3
    widest_edge_decades: float = 1.0
    """An edge whose 90 % interval is wider says too little."""
    widest_edge_fraction: float = 1 / 3
    """The same on a linear axis, as a fraction of the range searched."""
    family_error: float = 0.05
    """Family-wise error of all claims of a kind; p-values are corrected before they are compared
    with it."""
    inside_trials: int = 4
    """Trials inside a claimed region that are compared with as many in the full space on a held-out
    domain."""
    groups_for_b: int = 5
    groups_for_a: int = 9
    groups_for_c: int = 3
    models_for_c: int = 2
    """Trained models."""

    def as_json(self) -> dict[str, Any]:
        """For the provenance."""
        return asdict(self)


THRESHOLDS = Thresholds()


def not_traced(evidence: Evidence, limits: Thresholds = THRESHOLDS) -> list[Reason]:
    """Why a claim about drawn trials' trajectories must wait, and what it still needs."""
    return _too_few(evidence, limits.least_traced, limits)


def not_comparable(evidence: Evidence, limits: Thresholds = THRESHOLDS) -> list[Reason]:
    """Why a comparison with the method must wait, and what it still needs; empty if nothing."""
    return _too_few(evidence, limits.least_compared, limits)


def _too_few(evidence: Evidence, needed: int, limits: Thresholds) -> list[Reason]:
    """Reasons why there are too few drawn trials or seeds."""
    reasons = []
    if not evidence.n_trials:
        how = (
            "all trials were chosen by an adaptive sampler"
            if evidence.sampler == "adaptive"
            else "how the trials were chosen is not known (say `--sampler random` if it was at "
            "random, or map a column)"
        )
        reasons.append(Reason(kind="sampler", text=how))
    if evidence.n_trials < needed:
        more = needed - evidence.n_trials
        text = f"{counted(evidence.n_trials, 'trial')} drawn from the space, {needed} are needed: "
        text += counted(more, "more trial")
        reasons.append(Reason(kind="trials", text=text, trials_needed=more))
    if evidence.n_seeds < limits.least_seeds:
        known = counted(evidence.n_seeds, "seed") if evidence.n_seeds else "no seed known"
        reasons.append(Reason(kind="seeds", text=f"{known}, {limits.least_seeds} are needed"))
    return reasons


def unpredicted(check: SurfaceCheck | None, limits: Thresholds = THRESHOLDS) -> list[Reason]:
    """Why no claim rests on a surface: it does not predict trials left out; empty if it does."""
    if check is None:  # no surface: the regions say why
        return []
    if check.explained < limits.least_explained:
        text = (
            f"the response surface explains {percentage(max(0.0, check.explained))} of the "
            f"variance of trials left out, {percentage(limits.least_explained)} is needed"
        )
        return [Reason(kind="prediction", text=text)]
    if check.coverage < limits.least_coverage:
        text = (
            f"the response surface's 90 % intervals hold {check.held} of {check.n} trials left "
            f"out, {percentage(limits.least_coverage)} is needed"
        )
        return [Reason(kind="prediction", text=text)]
    return []


def grade_of(evidence: Evidence, limits: Thresholds = THRESHOLDS) -> Grade:
    """The grade of a claim that is made."""
    groups, heldout = evidence.n_groups, evidence.heldout
    if is_scoped(evidence, limits):
        return "scoped"
    better_on_all = heldout is not None and heldout.better == len(heldout.groups) >= groups
    if groups < limits.groups_for_b or not better_on_all:
        return "C"
    return "A" if groups >= limits.groups_for_a else "B"


def is_scoped(evidence: Evidence, limits: Thresholds = THRESHOLDS) -> bool:
    """Whether a claim can only be stated for the domains and the model that it was seen on."""
    return (
        evidence.n_groups < limits.groups_for_c
        or evidence.n_models < limits.models_for_c
        or evidence.n_seeds < limits.least_seeds
    )


def worse_than_default(evidence: Evidence) -> list[Reason]:
    """Why a claim is refused by its own held-out result; empty when it is not."""
    heldout = evidence.heldout
    if heldout is None or heldout.regret is None:
        return []
    others = (
        ("the default", heldout.regret_default),
        ("as many in the full space", heldout.regret_full_space),
    )
    for other, regret in others:
        if regret is not None and heldout.regret > regret:
            text = (
                f"on held-out groups {heldout.trials_inside} trials inside do worse (regret "
                f"{heldout.regret:.3g}) than {other} "
                f"({regret:.3g})"
            )
            return [Reason(kind="heldout", text=text)]
    return []
