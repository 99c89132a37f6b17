"""The target and how well it is known: if these fail, "feasible" means something else than said."""

import math
from pathlib import Path

import pandas as pd
import pytest
from ledgers import resealed

from ray_unlearn.analysis.read.evaluation_rows import REQUIRED, tidy_rows
from ray_unlearn.store.event import TrialEnded
from ray_unlearn.store.event_line import decoded, encoded
from ray_unlearn.store.target import (
    HalfTarget,
    forgetting_warnings,
    half_sentences,
    half_targets,
    leaves_nothing_to_forget,
    target_warnings,
)


def vanilla(selection: float, reporting: float, **more: float) -> dict[str, float]:
    return {"approximate_nll_selection": selection, "approximate_nll_reporting": reporting} | more


def test_halves_with_different_targets_are_told_with_consequence_and_remedy() -> None:
    # The stdlib world as a coin dealt it.
    found = half_targets(vanilla(4.313, 4.208))
    assert found is not None
    (warning,) = target_warnings(found)
    assert "0.105 nats/token apart (perplexity 74.7 and 67.2)" in warning
    assert "more than the tolerance of 0.095: a model that meets the one" in warning
    assert "give `approximate` more documents" in warning
    assert list(target_warnings(half_targets(vanilla(4.25, 4.26)) or ())) == []


@pytest.mark.parametrize(
    ("forget", "words"),
    [
        (3.5, ()),
        (4.26, ("is not below the target, 70.1", "so there is nothing to forget")),
        (4.2, ("is within the tolerance of the target", "before it unlearns anything")),
        (math.nan, ()),
    ],
)
def test_a_study_with_nothing_to_forget_says_so_before_its_first_trial(
    forget: float, words: tuple[str, ...]
) -> None:
    found = list(forgetting_warnings(vanilla(4.25, 4.25, forget_nll=forget)))
    assert len(found) == bool(words)
    assert all(part in found[0] for part in words)


@pytest.mark.parametrize(
    ("forget", "se", "sampled", "whole"),
    [
        (4.26, 0.05, True, True),  # above the target
        (4.2, 0.05, False, True),  # 5 % below it: a sample may err
        (4.2, 0.1, False, True),
        (4.1, 0.1, False, False),  # 14 % below: within the wider tolerance, which is no proof
        (4.1, 0.05, False, False),
        (math.nan, 0.05, False, False),
    ],
)
def test_nothing_to_forget_is_said_only_where_it_is_sure(
    forget: float, se: float, sampled: bool, whole: bool
) -> None:
    ses = {"approximate_nll_se_selection": se, "approximate_nll_se_reporting": se}
    found = vanilla(4.25, 4.25, forget_nll=forget, **ses)
    assert leaves_nothing_to_forget(found, whole=False) is sampled
    assert leaves_nothing_to_forget(found, whole=True) is whole
    assert not leaves_nothing_to_forget({}, whole=True)


def test_the_tolerance_is_ten_percent_or_what_the_target_is_known_to() -> None:
    ten_percent = math.log(1.1)
    assert HalfTarget("reporting", 4.0).tolerance == ten_percent, "an older study says no more"
    assert HalfTarget("reporting", 4.0, se=0.05).tolerance == ten_percent
    # 1.645 standard errors to one side of a 90 % interval.
    assert HalfTarget("reporting", 4.0, se=0.1).tolerance == pytest.approx(0.16449, abs=1e-5)
    low, high = HalfTarget("reporting", math.log(100), se=0.1).interval
    assert (low, high) == (pytest.approx(84.83, abs=0.01), pytest.approx(117.88, abs=0.01))


def test_a_target_that_is_hardly_known_says_how_many_documents_would_do() -> None:
    counts = {
        f"approximate_{what}_{half}": number
        for half in ("selection", "reporting")
        for what, number in (("documents", 10), ("tokens", 1000), ("nll_se", 0.1))
    }
    found = half_targets(vanilla(4.0, 4.0, **counts))
    assert found is not None
    (warning,) = target_warnings(found)
    # exp(0.1645) - 1 = 18 %; 20 documents x (0.1645 / ln 1.1)^2 = 59.6.
    assert warning.startswith("the target is known to within 18% only")
    assert warning.endswith("about 60 documents in `approximate` instead of 20 would do")
    first, second = half_sentences(found)
    assert first == (
        "selection half: 10 documents, 1,000 tokens, target perplexity 54.6 "
        "(90 % interval 46.3 to 64.4)"
    )
    assert second.startswith("reporting half: 10 documents")


def test_a_study_without_baselines_says_nothing() -> None:
    assert half_targets({}) is None
    assert half_targets(vanilla(math.nan, 4.0)) is None


def test_an_outcome_of_before_is_read_by_its_word_of_now(tmp_path: Path) -> None:
    line = encoded(TrialEnded(number=0, status="diverged", reason="loss is not finite"), 5, 1)
    former = resealed(line.replace(b'"diverged"', b'"infeasible"'))
    assert b'"infeasible"' in former, "the line on disk stays as it is"
    found = decoded(former, tmp_path / "events.jsonl", 0)
    assert found is not None
    assert isinstance(found.event, TrialEnded)
    assert found.event.status == "diverged"


def test_a_table_of_before_is_read_by_its_word_of_now() -> None:
    lines = [
        {name: 1.0 for name in REQUIRED} | {"number": 0, "status": status, "candidate": False}
        for status in ("infeasible", "diverged")
    ]
    frame = pd.DataFrame(lines).assign(method="gradient_ascent")
    assert tidy_rows(frame, "rows.csv")["status"].tolist() == ["diverged", "diverged"]
