"""The target's standard error on the page: if this fails, a small set is judged as if it were
large, and halves with different targets pass in silence."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from test_verdict import VANILLA, logs, row, study_of

from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.analysis.report.halves_table import halves_table, halves_warnings
from ray_unlearn.analysis.report.verdict import feasible, forget_tolerance
from ray_unlearn.analysis.tolerance import DEFAULT, tolerance_of


@pytest.fixture
def study(tmp_path: Path) -> StudyResults:
    """Rows whose forget perplexities are 1.0, 1.05, 1.15 and 1.25 times the target of 80."""
    factors = (1.0, 1.05, 1.15, 1.25)
    trials = [("gradient_ascent", {6: row(forget=80 * factor)}, "complete") for factor in factors]
    return study_of(tmp_path / "s", trials)


def with_baseline(study: StudyResults, **values: float) -> StudyResults:
    return replace(study, baselines=study.baselines.assign(**values))


def test_feasible_is_not_finer_than_the_target_is_known(study: StudyResults) -> None:
    assert list(feasible(study)) == [True, True, False, False], "the error was not measured"
    sharp = with_baseline(study, approximate_nll_se_reporting=0.03)
    assert list(feasible(sharp)) == [True, True, False, False]
    # 1.645 x 0.1 = 0.1645: up to 17.9 % from the target.
    vague = with_baseline(study, approximate_nll_se_reporting=0.1)
    assert forget_tolerance(vague) == pytest.approx(0.16449, abs=1e-5)
    assert list(feasible(vague)) == [True, True, True, False]
    (warning,) = halves_warnings(vague, named=False)
    assert warning.startswith("The target is known to within 18% only")


def test_guidelines_do_not_tell_apart_what_the_target_cannot(study: StudyResults) -> None:
    nothing = pd.DataFrame()
    assert tolerance_of([study], nothing, (), None)[0] == DEFAULT
    vague = with_baseline(study, approximate_nll_se_reporting=0.2)
    tau, source = tolerance_of([vague], nothing, (), None)
    assert tau == 0.2
    assert source.startswith("the standard error of the target over the unseen documents")
    assert tolerance_of([vague], nothing, (), 0.05) == (0.05, "given by the user")
    # Root mean square of 0.2 and 0.4.
    vaguer = with_baseline(study, approximate_nll_se_reporting=0.4)
    pooled, source = tolerance_of([vague, vaguer], nothing, (), None)
    assert pooled == pytest.approx(math.sqrt(0.1))
    assert "root mean square over 2 studies" in source


def test_halves_with_different_targets_are_in_data_health(study: StudyResults) -> None:
    assert list(halves_warnings(study, named=False)) == []
    apart = with_baseline(
        study,
        approximate_nll_selection=logs(VANILLA)["approximate"] + 0.2,
        approximate_documents_reporting=12,
        approximate_tokens_reporting=1234,
    )
    (warning,) = halves_warnings(apart, named=True)
    assert warning.startswith(f"{apart.key}: the halves of the approximate set have targets 0.200")
    table = halves_table([study, apart])
    assert table is not None
    assert [line[1] for line in table.lines] == ["selection", "reporting"] * 2
    assert table.lines[3][2] == "12 / 1,234"
    assert table.lines[0][2] == "not recorded"
    assert table.lines[3][5] == "80.0"
