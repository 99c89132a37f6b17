"""The score that all sources of a report share: name, direction, rule, strength, weights."""

from collections.abc import Iterator
from typing import Literal

import pandas as pd

from ray_unlearn.analysis.read.study_results import Results, StudyResults
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.evaluation_spec import StrengthMode
from ray_unlearn.spec.objective_spec import ScoreRuleName
from ray_unlearn.store.objective import metric_column
from ray_unlearn.store.schema import AS_TRAINED
from ray_unlearn.store.study_columns import MEASURED_SHARE

OWN_SCORE = "score"
DECIDED = ("complete", "pruned", "diverged")
"""Outcomes that say something about the configuration, not about the machines."""
NATS = "nats/token"


def one_score(results: Results) -> tuple[str, Literal["minimize", "maximize"]]:
    """Name and direction of the score that all sources share.

    Raises:
        UserError: they weigh their scores differently, or have scores of other names or directions.
    """
    weighted = [study for study in results.studies if study.spec is not None and study.is_weighted]
    if len({study.weights for study in weighted}) > 1:
        each = "; ".join(f"{one.name}: {one.weights.in_words()}" for one in results.studies)
        raise UserError(
            f"{each}: their objectives weigh the score differently; report on them separately, or "
            "score all with the same weights, such as --objective general=2"
        )
    one_objective(results)
    found = [(OWN_SCORE, False, study.source) for study in results.studies[:1]]
    found += [
        (
            OWN_SCORE if table.score.startswith("score") and results.studies else table.score,
            table.maximise,
            table.source,
        )
        for table in results.foreign
    ]
    assert found, "`load` gives at least one source"
    name, maximise, source = found[0]
    for other, turned, where in found[1:]:
        if (other, turned) != (name, maximise):
            raise UserError(
                f"{where}: its score is `{other}`, that of {source} is `{name}`; report on them "
                "separately"
            )
    return name, "maximize" if maximise else "minimize"


def one_objective(results: Results) -> str:
    """What all studies minimise beyond a weighted sum, and keep to; empty: nothing.

    Raises:
        UserError: they have different objectives.
    """
    each = {study.key: study.objective.beyond_weights() for study in results.studies}
    if len(set(each.values())) > 1:
        named = "; ".join(f"{key}: {text or 'the weighted sum'}" for key, text in each.items())
        raise UserError(f"{named}: their objectives differ; report on them separately")
    return next(iter(each.values()), "")


def score_unit(study: StudyResults) -> str:
    """The unit of a study's scores: nats/token, or that of the metric it minimises."""
    aim = study.objective.aim
    if aim is None:
        return NATS
    unit = metric_column(aim[1], study.columns).unit
    return "" if unit == "1" else unit


def unit_label(study: StudyResults) -> str:
    """` [nats/token]`, after `score` on an axis; nothing where it has no unit."""
    unit = score_unit(study)
    return f" [{unit}]" if unit else ""


def one_strength(results: Results) -> StrengthMode:
    """Which models score a trial, in all studies; of a table alone its rows tell.

    Raises:
        UserError: studies have different ones.
    """
    found = {strength_mode(study) for study in results.studies}
    if len(found) > 1:
        names = ", ".join(study.name for study in results.studies)
        raise UserError(
            f"{names}: they score models at different strengths (evaluation.strength: "
            f"{', '.join(sorted(found))}); report on them separately"
        )
    return found.pop() if found else "trained"


def strength_mode(study: StudyResults) -> StrengthMode:
    """Which models score a study's trials; of a table its rows tell."""
    if study.spec is not None:
        return study.spec.evaluation.strength
    return "trained" if (study.rows["strength"].dropna() == AS_TRAINED).all() else "both"


def one_score_rule(results: Results) -> ScoreRuleName:
    """The score rule of all sources: scores by different rules are no more alike than units.

    Raises:
        UserError: they have different ones.
    """
    sources = [(study.score_rule, study.source) for study in results.studies]
    sources += [(table.score_rule, table.source) for table in results.foreign]
    rule, source = sources[0]
    for other, where in sources[1:]:
        if other != rule:
            raise UserError(
                f"{where}: its trials are scored by `{other}`, those of {source} by `{rule}` "
                "(objective.score_rule); report on them separately"
            )
    return rule


def feasible_notes(study: StudyResults) -> Iterator[str]:
    """How many of a study's trials are within its constraints; nothing where it has none."""
    if not study.objective.subject_to or "feasible" not in study.rows:
        return
    decided = study.rows[study.rows["status"].isin(DECIDED)]
    able = decided[decided["candidate"]]["number"].nunique()
    count = decided["number"].nunique()
    share = f" ({able / count:.0%})" if count else ""
    yield (
        f"{able:,} of {count:,} decided trials of {study.key}{share} have an evaluation within its "
        f"constraints (`{study.objective.beyond_weights()}`, selection half); their scores are "
        "those of such evaluations alone, and the other trials count as worse than all of them"
    )


def screened_notes(study: StudyResults) -> Iterator[str]:
    """That some of a study's rows were measured on a part of the documents."""
    if MEASURED_SHARE not in study.rows:
        return
    shares = study.rows[MEASURED_SHARE]
    part = shares < 1
    if part.any():
        yield (
            f"{part.sum():,} of {len(shares):,} evaluations of {study.key} were measured on "
            f"{shares[part].min():.0%} of the approximate, retain and general documents, as they "
            "could not be the best of their method: their scores are estimates, and their "
            "accuracies, KL and attacks those of the part (`evaluation.screen`)"
        )


def rescored_notes(study: StudyResults, trials: pd.DataFrame) -> Iterator[str]:
    """That a study searched for other weights than its trials are scored with here."""
    if study.rescored is None:
        return
    own = trials[trials["study"] == study.key]
    adaptive, pruned = (own["drawn"] == "adaptive").sum(), (own["status"] == "pruned").sum()
    searched = ""
    if study.spec is not None:
        searched = f" instead of {study.spec.objective.weights.in_words()}"
    yield (
        f"the trials of {study.key} are scored again, with {study.rescored.in_words()}{searched}; "
        f"{adaptive:,} were chosen adaptively and {pruned:,} ended early by the scores they had: "
        "they lie where those were good, so the best for these weights may have been missed"
    )
