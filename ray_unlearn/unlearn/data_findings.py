"""Findings on how a study's settings fit its data: what runs, but hardly as it was meant."""

from collections.abc import Iterator

from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn.data import StudyData
from ray_unlearn.unlearn.finding import Finding
from ray_unlearn.unlearn.methods import terms
from ray_unlearn.unlearn.plan import longest

FEWEST_DOCUMENTS = 10
"""Documents of the forget set below which hardly anything can be said of membership."""


def data_findings(spec: StudySpec, data: StudyData) -> Iterator[Finding]:
    """What the documents themselves say, then batches and evaluations that do not fit them.

    Args:
        spec: the study.
        data: its data.
    """
    yield from data.findings
    for note in data.notes:
        if all(note != str(finding) for finding in data.findings):
            yield Finding("documents", "note", note)
    documents = len(data.splits["forget"].selection)
    if documents < FEWEST_DOCUMENTS:
        yield Finding(
            "documents",
            "warning",
            f"data.splits.forget: {documents} document(s): membership attacks and intervals over "
            "documents say next to nothing",
            f"give at least {FEWEST_DOCUMENTS}",
        )
    yield from _batches(spec, data)
    yield from _evaluations(spec)


def _batches(spec: StudySpec, data: StudyData) -> Iterator[Finding]:
    """Batches that are larger than the split that they are drawn from."""
    said = set()
    for method in spec.methods:
        trial = spec.trial_config(longest(spec, method), method, 0, "")
        for term in terms(trial):
            there = len(data.splits[term.split])
            if term.batch_size <= there or term.split in said:
                continue
            said.add(term.split)
            yield Finding(
                "batches",
                "warning",
                f"batch_size: up to {term.batch_size} sequences per update, but `{term.split}` has "
                f"{there}, so an update reads some of them more than once",
                f"use at most {there}",
            )


def _evaluations(spec: StudySpec) -> Iterator[Finding]:
    """Evaluated updates that no trial reaches; where it reaches none, something else was meant."""
    most = max(longest(spec, method).steps for method in spec.methods)
    at = spec.evaluation.at or ()
    beyond = [update for update in at if update > most]
    if beyond:
        yield Finding(
            "evaluations",
            "refused" if len(beyond) == len(at) else "warning",
            f"evaluation.at: no trial reaches update {beyond[0]} (most steps: {most})",
            "lower it, or raise `steps`",
        )
