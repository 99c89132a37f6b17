"""Why no trial of a study, or of a method, has a result: the first thing a reader must know."""

import pandas as pd

from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.analysis.report.page import Paragraph
from ray_unlearn.store.failure_reasons import (
    WITHOUT_RESULT,
    FailureReasons,
    reasons_in_words,
)


def failure_alerts(study: StudyResults) -> tuple[Paragraph, ...]:
    """One paragraph for a study without any result, else one for each method without one."""
    trials = study.trials
    if _none_succeeded(trials):
        return (_alert("this study", trials),)
    parts = ((method, trials[trials["method"] == method]) for method in study.methods)
    return tuple(_alert(f"`{method}`", own) for method, own in parts if _none_succeeded(own))


def _none_succeeded(trials: pd.DataFrame) -> bool:
    return len(trials) > 0 and bool(trials["status"].isin(WITHOUT_RESULT).all())


def _alert(whose: str, trials: pd.DataFrame) -> Paragraph:
    count = "The only trial" if len(trials) == 1 else f"None of the {len(trials):,} trials"
    reasons = FailureReasons(zip(trials["status"], trials["reason"], strict=True))
    no = "no" if len(trials) == 1 else "a"
    return Paragraph(
        f"The commonest reasons: {reasons_in_words(reasons.counts)}.",
        strong=f"{count} of {whose} has {no} result.",
        style="box",
    )
