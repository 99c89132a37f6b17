"""Why no trial of a study, or of a method, has a result: the first thing a reader must know."""

import re

import pandas as pd

from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.analysis.report.page import Paragraph

WITHOUT_RESULT = ("failed", "out_of_memory", "infeasible")
MOST_REASONS = 3


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
    no = "no" if len(trials) == 1 else "a"
    return Paragraph(
        f"The commonest reasons: {'; '.join(commonest_reasons(trials))}.",
        strong=f"{count} of {whose} has {no} result.",
        style="box",
    )


def commonest_reasons(trials: pd.DataFrame) -> list[str]:
    """`device out of memory (12)`, the commonest first; numbers in a reason do not set it apart.

    Args:
        trials: one line per trial, with `status` and `reason`.
    """
    reasons = trials["reason"].where(trials["reason"] != "", trials["status"])
    kinds = reasons.map(lambda reason: re.sub(r"\d+", "#", reason))
    counts = kinds.value_counts(sort=False).sort_values(ascending=False, kind="stable")
    first = reasons.groupby(kinds, sort=False).first()
    shown = [f"{_quoted(first[str(kind)])} ({count:,})" for kind, count in counts.items()]
    more = len(shown) - MOST_REASONS
    return shown[:MOST_REASONS] + ([f"{more} more"] if more > 0 else [])


def _quoted(reason: str) -> str:
    text = " ".join(str(reason).replace("_", " ").split())
    return text if len(text) <= 160 else text[:159] + "\u2026"
