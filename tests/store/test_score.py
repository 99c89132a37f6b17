"""Gap, utility loss and score by hand; which row scores a trial."""

import math

import pytest

from ray_unlearn.spec.hyperparameters import HYPERPARAMETERS
from ray_unlearn.spec.score_weights import ScoreWeights
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.event import Header
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.schema import COLUMNS, HALVES
from ray_unlearn.store.score import ScoreRule, scoring_index


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
    over = scored(
        metrics(3.5, 3.0, 2.0, 2.4), Baselines(VANILLA), ScoreWeights(forget_gap=2.0, general=0.5)
    )
    assert over["forget_gap_selection"] == pytest.approx(0.5)
    assert over["score_selection"] == pytest.approx(2 * 0.5 + 0.5 * 0.4 / 2)
    assert "exact_distance_selection" not in over
    assert "efficiency_ratio" not in over


def test_non_finite_metrics_give_no_score() -> None:
    assert math.isnan(
        scored(metrics(2.0, 3.0, math.nan, 2.0), Baselines(VANILLA))["score_selection"]
    )


def trial(
    number: int,
    status: str | None,
    scores: dict[int, float],
    steps: int = 4,
    forget: dict[int, float] | None = None,
) -> Trial:
    rows = [
        {"update": update, "score_selection": score, "forget_nll": (forget or {}).get(update, 1.0)}
        for update, score in scores.items()
    ]
    config = {name: 0 for name in HYPERPARAMETERS} | {"method": "gradient_ascent", "steps": steps}
    return Trial(number, str(number), config, rows, status)  # type: ignore[arg-type]


def with_rule(spec: StudySpec, rule: str) -> StudySpec:
    return spec.model_copy(
        update={"objective": spec.objective.model_copy(update={"score_rule": rule})}
    )


def with_sampled_steps(spec: StudySpec) -> StudySpec:
    space = spec.spaces["gradient_ascent"]
    steps = space.parameters["steps"].model_copy(update={"free": False})
    sampled = space.model_copy(update={"parameters": space.parameters | {"steps": steps}})
    return spec.model_copy(update={"spaces": spec.spaces | {"gradient_ascent": sampled}})


def updates(rows: list) -> list[int]:
    return [row["update"] for row in rows]


BASELINES = {"vanilla": {"approximate_nll_selection": 3.0}}


def test_with_free_steps_each_row_is_a_configuration(tiny_study: StudySpec) -> None:
    rule = ScoreRule(tiny_study, {})
    found = trial(0, "complete", {1: 0.5, 2: 0.3, 4: 0.3})
    assert updates(rule.candidates(found)) == [1, 2, 4]
    best = rule.row(found)
    assert best is not None
    assert best["update"] == 2  # a tie goes to the fewest updates
    assert updates(rule.candidates(trial(0, "pruned", {1: 0.5}))) == [1]


def test_without_free_steps_only_the_last_row_counts(tiny_study: StudySpec) -> None:
    for name in ("best_row", "stop_rule"):
        rule = ScoreRule(with_rule(with_sampled_steps(tiny_study), name), BASELINES)
        assert rule.row(trial(0, "complete", {1: 0.1, 4: 0.3}))["update"] == 4  # type: ignore[index]
        assert rule.row(trial(0, "pruned", {1: 0.1})) is None


@pytest.mark.parametrize("status", ["diverged", "out_of_memory", "failed"])
def test_unfinished_business_has_no_score(tiny_study: StudySpec, status: str) -> None:
    assert ScoreRule(tiny_study, {}).candidates(trial(0, status, {1: 0.1})) == []


def test_best_trial_goes_to_the_lowest_score_then_number(tiny_study: StudySpec) -> None:
    trials = {n: trial(n, "complete", {4: score}) for n, score in enumerate([0.4, 0.2, 0.2])}
    record = Record(Header(), trials=trials | {3: trial(3, "failed", {4: 0.0})})
    rule = ScoreRule.of(record, tiny_study)
    found = rule.best(record)
    assert found is not None
    assert found[0].number == 1
    assert rule.best(Record(Header())) is None


def test_the_rules_by_hand() -> None:
    scores, nlls = [0.5, 0.2, 0.4, 0.9], [1.0, 2.0, 3.0, 5.0]
    assert scoring_index("best_row", scores) == 1
    assert scoring_index("stop_rule", scores, nlls, 3.0) == 2
    assert scoring_index("stop_rule", scores, nlls, 9.0) == 3  # never reached: the last one
    assert scoring_index("stop_rule", scores, nlls, math.nan) == 3  # no target is known
    assert scoring_index("best_row", [math.nan, math.inf, 0.7]) == 2
    assert scoring_index("best_row", [math.nan]) is None
    assert scoring_index("best_row", []) is scoring_index("stop_rule", [], [], 1.0) is None


def test_the_stopping_rule_scores_a_trial_at_the_row_that_reached_the_target(
    tiny_study: StudySpec,
) -> None:
    """A study that says `stop_rule` must not be ranked by rows that it would not deploy."""
    early = trial(0, "complete", {1: 0.1, 2: 0.4, 4: 0.9}, forget={1: 2.0, 2: 3.0, 4: 4.0})
    late = trial(1, "complete", {1: 0.3, 2: 0.3, 4: 0.2}, forget={1: 1.0, 2: 1.0, 4: 1.0})
    record = Record(Header(), dict(BASELINES), trials={0: early, 1: late})
    found = {}
    for name in ("best_row", "stop_rule"):
        trial_, row = ScoreRule.of(record, with_rule(tiny_study, name)).best(record)  # type: ignore[misc]
        found[name] = (trial_.number, row["update"], row["score_selection"])
    assert found == {"best_row": (0, 1, 0.1), "stop_rule": (1, 4, 0.2)}


def test_weights_are_kept_only_of_rows_that_no_later_row_replaces(tiny_study: StudySpec) -> None:
    running = trial(0, None, {1: 0.1, 2: 0.4, 4: 0.9}, forget={1: 2.0, 2: 3.0, 4: 4.0})
    never = trial(1, None, {1: 0.1, 4: 0.5}, forget={1: 1.0, 4: 1.0})

    def settled(name: str, trial_: Trial) -> list[int]:
        rule = ScoreRule(with_rule(tiny_study, name), BASELINES)
        return updates([row for row in trial_.rows if rule.is_settled(row, trial_)])

    assert settled("best_row", running) == [1, 2, 4]
    assert settled("stop_rule", running) == [2]
    assert settled("stop_rule", never) == [4]


def test_trials_that_differ_in_their_seed_are_one_configuration(tiny_study: StudySpec) -> None:
    trials = {n: trial(n, "complete", {4: score}) for n, score in enumerate([0.4, 0.2, 0.3])}
    for number, seed, rate in ((0, 0, 1.0), (1, 1, 1.0), (2, 0, 2.0)):
        trials[number].config |= {"seed": seed, "learning_rate": rate}
    record = Record(Header(), trials=trials)
    rule = ScoreRule.of(record, tiny_study)
    assert [c.trial.number for c in rule.top(record, 9)] == [1, 2]
    assert [c.trial.number for c in rule.top(record, 1, per_method=True)] == [1]
    assert rule.top(record, 9)[0].hyperparameters["steps"] == 4
