"""What makes the score of a row and which rows are feasible. If these fail, a study finds models
that its user ruled out, or calls one best that is not."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.objective_spec import ObjectiveSpec
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.event import Header
from ray_unlearn.store.objective import Objective, objective_of
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.schema import HALVED_SETS, HALVES, Row
from ray_unlearn.store.score import ScoreRule

FREE = "gradient_ascent"
NLL = {f"{name}_nll_{half}": 2.0 for name in HALVED_SETS for half in HALVES} | {"forget_nll": 1.0}


def made(**written: Any) -> Objective:
    return objective_of(ObjectiveSpec(**written))


def with_objective(spec: StudySpec, **written: Any) -> StudySpec:
    return spec.model_copy(update={"objective": ObjectiveSpec(**written)})


def measured(update: int, kl: float, gap: float, reporting: float | None = None) -> Row:
    """A row with this KL on general text and this forget gap."""
    row = NLL | {
        "update": update,
        "forget_nll": 2.0 - gap,
        "general_kl_selection": kl,
        "general_kl_reporting": kl if reporting is None else reporting,
    }
    return scored(row, Baselines(NLL), objective=made(minimise="forget_gap"))


def trial_of(spec: StudySpec, number: int, *rows: Row, status: Any = "complete") -> Trial:
    config = TrialConfig(
        learning_rate=1e-4 * (1 + number), steps=9, method=FREE, evaluate_at=(1, 3, 9)
    )
    return Trial(number, config.id, config.model_dump(mode="json"), list(rows), status)


# The score


def test_one_metric_is_the_score_on_either_half() -> None:
    row = NLL | {"retain_ppl_selection": 7.0, "retain_ppl_reporting": 8.0, "forget_accuracy": 0.25}
    baselines = Baselines(NLL)
    low = scored(row, baselines, objective=made(minimise="retain_ppl"))
    assert (low["score_selection"], low["score_reporting"]) == (7.0, 8.0)
    high = scored(row, baselines, objective=made(maximise="forget_accuracy"))
    assert (high["score_selection"], high["score_reporting"]) == (-0.25, -0.25)
    near = scored(row, baselines, objective=made(approach={"forget_accuracy": 0.5}))
    assert near["score_selection"] == 0.25


def test_parts_that_are_made_of_metrics_can_be_the_score() -> None:
    row = scored(NLL | {"flops": 4.0}, Baselines(NLL, retraining_flops=8.0),
                 objective=made(maximise="efficiency_ratio"))  # fmt: skip
    assert row["score_selection"] == -2.0
    assert scored(NLL, Baselines(NLL), objective=made(minimise="forget_gap"))[
        "score_selection"
    ] == pytest.approx(1.0)


def test_a_metric_that_was_not_measured_gives_no_score_and_keeps_no_bound() -> None:
    row = scored(NLL, Baselines(NLL), objective=made(minimise="forget_accuracy"))
    assert math.isnan(row["score_selection"])
    bounded = made(subject_to={"general_kl": 0.1})
    assert bounded.violation(NLL) == math.inf
    assert bounded.broken(NLL) == ["general_kl was not measured"]


# What may be written


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"minimise": "kl_general"}, "unknown metric 'kl_general'; did you mean 'general_kl'?"),
        ({"maximise": "retain_acuracy"}, "did you mean 'retain_accuracy'?"),
        ({"minimise": "score"}, "`score` is what the objective makes"),
        ({"minimise": "mia_loss_auc"}, "neither low nor high; write `approach: {mia_loss_auc: 0.5"),
        ({"subject_to": {"mia_loss_auc": 0.6}}, "`mia_loss_auc: {at_most: 0.6}`"),
        ({"subject_to": {"general_KL": 0.01}}, "did you mean 'general_kl'?"),
    ],
)
def test_a_metric_that_cannot_be_meant_is_refused_with_what_could_be(
    written: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=r"objective\.(minimise|maximise|subject_to)") as error:
        made(**written)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"minimise": "forget_gap", "maximise": "retain_accuracy"}, "give one of"),
        ({"minimise": "forget_gap", "general": 2}, "leave out the weights"),
        ({"minimise": "forget_gap", "pareto": True}, "two objectives"),
        ({"minimise": "retain_ppl_selection"}, "leave out '_selection'"),
        ({"subject_to": {"retain_ppl_reporting": 9}}, "leave out '_reporting'"),
        ({"subject_to": {"retain_ppl": {}}}, "give `at_least`, `at_most` or both"),
        ({"subject_to": {"retain_ppl": {"at_least": 2, "at_most": 1}}}, "must not be above"),
    ],
)
def test_contradictions_are_refused(written: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ObjectiveSpec(**written)


def test_a_study_that_does_not_measure_a_metric_is_refused(tiny_study: StudySpec) -> None:
    model = tiny_study.model.model_copy(update={"exact_retrain": None})
    spec = tiny_study.model_copy(update={"model": model})
    with pytest.raises(UserError, match=r"name one in `model\.exact_retrain`"):
        ScoreRule(with_objective(spec, minimise="exact_distance"), {})


def test_a_bare_number_bounds_the_worse_side_and_both_bounds_are_two_constraints() -> None:
    found = made(subject_to={"general_kl": 0.01, "retain_accuracy": 0.3}).constraints
    assert [one.key for one in found] == ["general_kl <= 0.01", "retain_accuracy >= 0.3"]
    both = made(subject_to={"mia_loss_auc": {"at_least": 0.4, "at_most": 0.6}}).constraints
    assert [one.key for one in both] == ["mia_loss_auc >= 0.4", "mia_loss_auc <= 0.6"]


def test_studies_without_one_are_written_as_before() -> None:
    plain = ObjectiveSpec().model_dump(mode="json")
    assert set(plain) == {"forget_gap", "retain", "general", "pareto", "score_rule"}
    written = ObjectiveSpec(minimise="forget_gap", subject_to={"general_kl": {"at_most": 0.01}})
    again = ObjectiveSpec.model_validate(written.model_dump(mode="json"))
    assert again == written
    assert again.beyond_weights() == (
        "minimise: forget_gap, subject_to: {general_kl: {at_most: 0.01}}"
    )
    assert ObjectiveSpec(subject_to={"retain_ppl": 12}).beyond_weights() == (
        "subject_to: {retain_ppl: 12}"
    )


# Feasible rows


def test_violations_are_parts_of_their_bounds_so_that_units_do_not_decide() -> None:
    row = {"general_kl_selection": 0.03, "retain_ppl_selection": 18.0}
    found = made(subject_to={"general_kl": 0.01, "retain_ppl": 12})
    assert found.violation(row) == pytest.approx(2.0 + 0.5)
    assert found.broken(row) == [
        "general_kl 0.03 is above 0.01 by 0.02", "retain_ppl 18 is above 12 by 6",
    ]  # fmt: skip
    assert made(subject_to={"general_kl": 0.0}).violation(row) == pytest.approx(0.03)
    assert found.violation({"general_kl_selection": 0.01, "retain_ppl_selection": 12.0}) == 0.0


def test_the_best_row_is_the_best_feasible_one(tiny_study: StudySpec) -> None:
    spec = with_objective(tiny_study, minimise="forget_gap", subject_to={"general_kl": 0.1})
    rule = ScoreRule(spec, {})
    rows = measured(1, 0.01, 0.9), measured(3, 0.1, 0.5), measured(9, 0.2, 0.0)
    trial = trial_of(spec, 0, *rows)
    assert rule.row(trial) == rows[1], "0.1 is within the bound, 0.2 is not"
    assert rule.nearest_row(trial) is None
    assert rule.outside(trial) == ""
    assert [rule.is_settled(row, trial) for row in rows] == [True, True, False]


def test_an_infeasible_trial_has_no_score_and_says_by_how_much_it_is_outside(
    tiny_study: StudySpec,
) -> None:
    spec = with_objective(tiny_study, minimise="forget_gap", subject_to={"general_kl": 0.1})
    rule = ScoreRule(spec, {})
    far = trial_of(spec, 0, measured(1, 0.9, 0.0), measured(9, 2.0, 0.0))
    near = trial_of(spec, 1, measured(1, 0.3, 0.4), measured(9, 0.2, 0.5))
    record = Record(Header(), trials={0: far, 1: near})
    assert rule.row(far) is rule.row(near) is None
    assert rule.outside(near) == "general_kl 0.2 is above 0.1 by 0.1"
    assert rule.best(record) is None
    assert rule.top(record, 3) == []
    assert rule.why_none(record) == (
        "no trial is within the constraints; nearest is trial 1: general_kl 0.2 is above 0.1 by 0.1"
    )
    record.trials[2] = trial_of(spec, 2, measured(9, 0.05, 3.0))
    best = rule.best(record)
    assert best is not None
    assert best[0].number == 2, "a bad score within the bound beats any outside"


def test_the_reporting_half_has_no_part_in_the_choice(tiny_study: StudySpec) -> None:
    spec = with_objective(tiny_study, minimise="forget_gap", subject_to={"general_kl": 0.1})
    row = measured(9, 0.05, 0.5, reporting=0.2)
    rule = ScoreRule(spec, {})
    assert rule.row(trial_of(spec, 0, row)) == row
    assert (rule.violation(row), rule.violation(row, "reporting")) == (0.0, pytest.approx(1.0))


def test_the_stopping_rule_takes_the_first_feasible_row_that_reached_the_target(
    tiny_study: StudySpec,
) -> None:
    spec = with_objective(tiny_study, score_rule="stop_rule", subject_to={"general_kl": 0.1})
    rule = ScoreRule(spec, {"vanilla": NLL | {"approximate_nll_selection": 1.5}})
    rows = [measured(1, 0.2, 0.4), measured(3, 0.05, 0.3), measured(9, 0.01, 0.2)]
    assert rule.row(trial_of(spec, 0, *rows)) == rows[1]


def test_trials_stand_by_how_far_they_are_outside_before_they_stand_by_their_scores(
    tiny_study: StudySpec,
) -> None:
    spec = with_objective(tiny_study, minimise="forget_gap", subject_to={"general_kl": 0.1})
    rule = ScoreRule(spec, {})
    trial = trial_of(spec, 0, status=None)
    rows = [measured(1, 0.3, 0.0), measured(3, 0.2, 0.9), measured(9, 0.1, 3.0)]
    standings = [rule.standing(rows, trial, update) for update in (1, 3, 9)]
    assert standings == [
        (pytest.approx(2.0), 0.0), (pytest.approx(1.0), pytest.approx(0.9)),
        (0.0, pytest.approx(3.0)),
    ]  # fmt: skip
    assert standings == sorted(standings, reverse=True)
