"""What the halves of each study hold, and what they aim at: a table, and warnings."""

import math
from collections.abc import Iterator, Sequence

import pandas as pd

from ray_unlearn.analysis.numerals import fixed, number, whole_number
from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.analysis.report.page import Heading, Table
from ray_unlearn.store.target import (
    HalfTarget,
    forgetting_warnings,
    half_targets,
    target_warnings,
)

SETS = (("approximate", "unseen"), ("retain", "retain"), ("general", "general"))
CAPTION = (
    "Documents and tokens of the selection and the reporting half of each set, and the target for "
    "the forget set: the vanilla model's perplexity on the half's unseen documents."
)


def halves_table(studies: Sequence[StudyResults]) -> Table | None:
    """One line per study and half; None where no study knows its baselines."""
    lines = []
    for study in studies:
        vanilla = study.baseline("vanilla")
        targets = None if vanilla is None else half_targets(vanilla)
        if vanilla is None or targets is None:
            continue
        lines += [_line(study, vanilla, target) for target in targets]
    if not lines:
        return None
    headings = (
        Heading("study", numeric=False),
        Heading("half", numeric=False),
        *(Heading(word, "documents / tokens") for _, word in SETS),
        Heading("target", "forget ppl", "with its 90 % interval over documents"),
        Heading("target", "nats/token", "log of the target"),
        Heading("standard error", "nats/token", "of the target, over documents"),
        Heading("tolerance", "nats/token", "distance from the target that still meets it"),
    )
    return Table(CAPTION, headings, tuple(lines))


def halves_warnings(study: StudyResults, named: bool) -> Iterator[str]:
    """What is wrong with a study's target, with its consequence and a remedy.

    Args:
        study: of our own.
        named: whether the sentence begins with the study's name.
    """
    vanilla = study.baseline("vanilla")
    targets = None if vanilla is None else half_targets(vanilla)
    if vanilla is None or targets is None:
        return
    for warning in (*target_warnings(targets), *forgetting_warnings(vanilla)):
        yield f"{study.key}: {warning}." if named else f"{warning[0].upper()}{warning[1:]}."


def _line(study: StudyResults, vanilla: pd.Series, target: HalfTarget) -> tuple[str, ...]:
    goal = number(target.ppl)
    if not math.isnan(target.se):
        low, high = target.interval
        goal = f"{goal} ({number(low)} \u2013 {number(high)})"
    return (
        study.key,
        target.half,
        *(_size(vanilla, name, target.half) for name, _ in SETS),
        goal,
        fixed(target.nll, 3),
        fixed(target.se, 3),
        fixed(target.tolerance, 3),
    )


def _size(vanilla: pd.Series, name: str, half: str) -> str:
    documents = vanilla.get(f"{name}_documents_{half}", math.nan)
    if math.isnan(documents):
        return "not recorded"
    tokens = vanilla[f"{name}_tokens_{half}"]
    return f"{whole_number(documents)} / {whole_number(tokens)}"
