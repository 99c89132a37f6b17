"""Findings on what a study costs beside its updates."""

from collections.abc import Iterator

from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn.calibration import COST_SHARE, USUAL_PASSES
from ray_unlearn.unlearn.finding import Finding
from ray_unlearn.unlearn.plan import StudyPlan


def cost_findings(spec: StudySpec, planned: StudyPlan) -> Iterator[Finding]:
    """Whether FLOPs are counted, and what more than updates and rows a study asks for.

    Args:
        spec: the study.
        planned: its plan.
    """
    if planned.estimated:
        said = f"FLOPs of updates are estimated: {planned.estimated}"
        yield Finding("FLOPs of updates", "note", said)
    else:
        yield Finding("FLOPs of updates", "ok", "counted")
    if spec.evaluation.strength != "trained":
        said = (
            f"evaluation.strength: {spec.evaluation.strength} adds at least one evaluation and "
            f"about {USUAL_PASSES} passes over the forget set to each trial that reaches its end, "
            f"and more of them only while they take less than {100 * COST_SHARE:.0f} % of its time"
        )
        yield Finding("calibrated rows", "note", said)
    for asked in spec.evaluation.generate:
        when = "the last row of each trial" if asked.at == "last" else "every row"
        number = "all" if asked.documents is None else f"{asked.documents:,}"
        said = (
            f"evaluation.generate: up to {asked.max_new_tokens} tokens are decoded for {number} "
            f"documents of {', '.join(asked.sets)} at {when}, one pass per token"
        )
        less = "`documents`, `max_new_tokens` and `at: last` make it less"
        yield Finding("answers", "note", said, less)
    seeds = spec.search.trial_seeds
    yield Finding("seeds", "ok", f"{len(seeds)} for trials, up to {max(seeds)}")
