"""Gap, utility loss and score by hand; which rows count."""

import math

import pytest

from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.row_score import Baselines, Weights, scored
from ray_unlearn.store.schema import COLUMNS, HALVES
from ray_unlearn.store.score import best_row, best_trial, candidate_rows


def metrics(forget: float, approximate: float, retain: float, general: float) -> dict:
    row = {"forget_nll": forget, "update": 1, "flops": 4.0}
    for half in HALVES:
        shift = 0.0 if half == "selection" else 0.5
        row |= {
            f"approximate_nll_{half}": approximate + shift,
            f"retain_nll_{half}": retain,
            f"general_nll_{half}": general,
        }
    return row


VANILLA = metrics(1.0, 3.0, 2.0, 2.0)
EXACT = metrics(3.5, 3.5, 2.5, 2.0)


def test_score_by_hand() -> None:
    row = scored(metrics(2.5, 3.25, 2.4, 1.5), Baselines(VANILLA, EXACT, 100.0))
    assert row["forget_gap_selection"] == pytest.approx(0.5)
    assert row["forget_gap_reporting"] == pytest.approx(1.0)  # the other half has another target
    assert row["utility_loss_selection"] == pytest.approx(
        0.2
    )  # 0.4 on retain, better on general counts 0
    assert row["score_selection"] == pytest.approx(0.7)
    assert row["exact_distance_selection"] == pytest.approx((1.0 + 0.25 + 0.1 + 0.5) / 4)
    assert row["efficiency_ratio"] == 25.0
    assert set(row) <= set(COLUMNS)


def test_gap_is_two_sided_and_weights_apply_once() -> None:
    over = scored(metrics(3.5, 3.0, 2.0, 2.4), Baselines(VANILLA), Weights(2.0, 1.0, 0.5))
    assert over["forget_gap_selection"] == pytest.approx(0.5)
    assert over["score_selection"] == pytest.approx(2 * 0.5 + 0.5 * 0.4 / 2)
    assert "exact_distance_selection" not in over
    assert "efficiency_ratio" not in over


def test_non_finite_metrics_give_no_score() -> None:
    assert math.isnan(
        scored(metrics(2.0, 3.0, math.nan, 2.0), Baselines(VANILLA))["score_selection"]
    )


def trial(number: int, status: str, scores: dict[int, float], steps: int = 4) -> Trial:
    rows = [{"update": update, "score_selection": score} for update, score in scores.items()]
    config = {"method": "gradient_ascent", "steps": steps}
    return Trial(number, str(number), config, rows, status)  # type: ignore[arg-type]


def test_with_free_steps_each_row_is_a_configuration(tiny_study: StudySpec) -> None:
    found = trial(0, "complete", {1: 0.5, 2: 0.3, 4: 0.3})
    assert [row["update"] for row in candidate_rows(found, tiny_study)] == [1, 2, 4]
    best = best_row(found, tiny_study)
    assert best is not None
    assert best["update"] == 2  # a tie goes to the fewest updates
    assert [row["update"] for row in candidate_rows(trial(0, "pruned", {1: 0.5}), tiny_study)] == [
        1
    ]


def test_without_free_steps_only_the_last_row_counts(tiny_study: StudySpec) -> None:
    space = tiny_study.spaces["gradient_ascent"]
    steps = space.parameters["steps"].model_copy(update={"free": False})
    sampled = space.model_copy(update={"parameters": space.parameters | {"steps": steps}})
    spec = tiny_study.model_copy(
        update={"spaces": tiny_study.spaces | {"gradient_ascent": sampled}}
    )
    assert best_row(trial(0, "complete", {1: 0.1, 4: 0.3}), spec)["update"] == 4  # type: ignore[index]
    assert best_row(trial(0, "pruned", {1: 0.1}), spec) is None


@pytest.mark.parametrize("status", ["infeasible", "out_of_memory", "failed"])
def test_unfinished_business_has_no_score(tiny_study: StudySpec, status: str) -> None:
    assert candidate_rows(trial(0, status, {1: 0.1}), tiny_study) == []


def test_best_trial_goes_to_the_lowest_score_then_number(tiny_study: StudySpec) -> None:
    trials = {n: trial(n, "complete", {4: score}) for n, score in enumerate([0.4, 0.2, 0.2])}
    record = Record({}, trials=trials | {3: trial(3, "failed", {4: 0.0})})
    found = best_trial(record, tiny_study)
    assert found is not None
    assert found[0].number == 1
    assert best_trial(Record({}), tiny_study) is None
