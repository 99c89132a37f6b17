"""The verdict table: hand-computed numbers, and no choice that its own reporting half could
flatter."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planted import demo_spec, plant, quick_ledger, row_of, write_trial

from ray_unlearn.analysis.numerals import change, number
from ray_unlearn.analysis.read.study_results import StudyResults, load
from ray_unlearn.analysis.report.health import boundary_hits
from ray_unlearn.analysis.report.study_notes import agreement_sentence
from ray_unlearn.analysis.report.study_tables import chosen_table
from ray_unlearn.analysis.report.verdict import agreement, feasible, ranked_methods, verdict
from ray_unlearn.analysis.report.wording import headline, outcome_sentence
from ray_unlearn.spec.search_space import Choice, FloatRange
from ray_unlearn.store.event import BaselineMeasured
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.schema import Row
from ray_unlearn.store.score import ScoreRule

VANILLA = {"forget": 40.0, "approximate": 80.0, "retain": 40.0, "general": 50.0}
EXACT = {"forget": 84.0, "approximate": 80.0, "retain": 42.0, "general": 50.0}
METHODS = ("gradient_ascent", "ascent_descent_in_distribution")


def logs(ppl: dict[str, float]) -> dict[str, float]:
    return {name: math.log(value) for name, value in ppl.items()}


def row(exact: bool = False, auc: float = 0.5, **ppl: float) -> Row:
    """A scored row whose perplexities are vanilla's but for those given (`retain`,
    `retain_selection`, ...)."""
    reference = Baselines(
        row_of(logs(VANILLA), 0.9),
        row_of(logs(EXACT), 0.5) if exact else None,
        retraining_flops=6e15,
    )
    return scored(row_of(logs(VANILLA | ppl), auc, flops=5e13), reference)


def study_of(
    folder: Path, trials: list[tuple[str, dict[int, Row], str]], exact: bool = False
) -> StudyResults:
    """A study of two methods; each trial is method, rows by update, status."""
    spec = demo_spec(trials_per_method=2).model_copy(update={"methods": METHODS})
    with quick_ledger(folder, spec) as ledger:
        ledger.append(BaselineMeasured(name="vanilla", metrics=row_of(logs(VANILLA), 0.9)))
        if exact:
            ledger.append(BaselineMeasured(name="exact_retrain", metrics=row_of(logs(EXACT), 0.5)))
        for position, (method, rows, status) in enumerate(trials):
            chosen: dict[str, Any] = {"learning_rate": 2e-4 + 1e-5 * position}
            if method != "gradient_ascent":
                chosen["w_r"] = 2.0
            write_trial(ledger, spec, method, chosen, rows, status=status)
    return load([folder]).studies[0]


def test_every_number_of_a_line_by_hand(tmp_path: Path) -> None:
    best = row(forget=84, retain=44, general=45, auc=0.55)
    study = study_of(
        tmp_path / "s", [("gradient_ascent", {3: row(forget=60), 6: best}, "complete")]
    )
    line = verdict(study).iloc[0]
    assert (line["method"], line["number"], line["update"], line["learning_rate"]) == (
        "gradient_ascent",
        0,
        6,
        2e-4,
    )
    assert line["forget_ppl"] == pytest.approx(84)
    assert line["target_ppl"] == pytest.approx(80)
    assert line["forget_gap_reporting"] == pytest.approx(0.048790164)  # ln(84/80)
    assert line["retain_change"] == pytest.approx(0.10)
    assert line["general_change"] == pytest.approx(-0.10)  # better than vanilla, and no loss below
    assert line["score_reporting"] == pytest.approx(
        0.048790164 + 0.5 * 0.095310180
    )  # gap + (ln 1.1 + 0)/2
    assert line["mia_loss_auc_reporting"] == 0.55
    assert line["efficiency_ratio"] == pytest.approx(120)
    assert line["distance"] == line["forget_gap_reporting"]
    assert line["distance_to"] == "approximate"
    assert (line["candidates"], line["feasible_rows"], line["feasible_share"]) == (2, 1, 0.5)


def test_distance_is_to_the_exactly_retrained_model_where_there_is_one(tmp_path: Path) -> None:
    best = row(exact=True, forget=84, retain=44)
    study = study_of(tmp_path / "s", [("gradient_ascent", {6: best}, "complete")], exact=True)
    line = verdict(study).iloc[0]
    assert line["distance_to"] == "exact_retrain"
    assert line["distance"] == pytest.approx(math.log(44 / 42) / 4)  # the other three sets agree
    assert agreement(study) == pytest.approx(math.log(84 / 80))
    assert "5.0 % above the approximate target of 80.0" in agreement_sentence(study)
    assert "they agree" in agreement_sentence(study)


def test_chosen_on_selection_shown_on_reporting(tmp_path: Path) -> None:
    """A report that chose on the half it reports would show luck as skill."""
    lucky = row(
        forget=80, retain_selection=60, retain_reporting=40
    )  # best on reporting, poor on selection
    sound = row(forget=80, retain_selection=41, retain_reporting=50)
    study = study_of(
        tmp_path / "s",
        [("gradient_ascent", {6: lucky}, "complete"), ("gradient_ascent", {6: sound}, "complete")],
    )
    line = verdict(study).iloc[0]
    assert line["number"] == 1
    assert line["retain_change"] == pytest.approx(0.25)
    assert line["score_selection"] == pytest.approx(math.log(41 / 40) / 2)
    assert line["score_reporting"] == pytest.approx(math.log(50 / 40) / 2)


def test_a_lead_that_the_reporting_half_does_not_confirm_is_said(tmp_path: Path) -> None:
    first = row(forget=80, retain_selection=41, retain_reporting=50)
    second = row(forget=80, retain_selection=42, retain_reporting=41)
    study = study_of(
        tmp_path / "s",
        [(METHODS[0], {6: first}, "complete"), (METHODS[1], {6: second}, "complete")],
    )
    text = " ".join(headline(study, verdict(study)))
    assert text.startswith("`gradient_ascent` came closest")
    assert "on the reporting half `ascent_descent_in_distribution` is lower" in text


def test_feasible_limits_belong_to_the_feasible(tmp_path: Path) -> None:
    cases = [
        (row(forget=88), True),  # 10 % above the target
        (row(forget=80 / 1.1), True),
        (row(forget=88.2), False),
        (row(forget=72.5), False),
        (row(forget=80, retain=50, general=62.5), True),  # both 25 % up
        (row(forget=80, retain=50.1), False),
        (row(forget=80, general=62.6), False),
        (
            row(forget=80, retain_selection=60, retain_reporting=40),
            True,
        ),  # the reporting half decides
        (row(forget=math.inf), False),
    ]
    study = study_of(
        tmp_path / "s", [("gradient_ascent", {6: metrics}, "complete") for metrics, _ in cases]
    )
    assert list(feasible(study)) == [expected for _, expected in cases]


def test_diverged_trials_are_counted(tmp_path: Path) -> None:
    good, bad = row(forget=80), row(forget=60)
    trials = [
        ("gradient_ascent", {6: good}, "complete"),
        (
            "gradient_ascent",
            {3: good},
            "diverged",
        ),  # was feasible once, then diverged: no configuration
        ("gradient_ascent", {}, "diverged"),
        ("gradient_ascent", {3: bad}, "pruned"),
        ("gradient_ascent", {}, "failed"),
        ("gradient_ascent", {3: bad}, "running"),
    ]
    line = verdict(study_of(tmp_path / "s", trials)).iloc[0]
    assert line["trials"] == 6
    assert [line[name] for name in ("complete", "pruned", "diverged", "failed", "running")] == [
        1,
        1,
        2,
        1,
        1,
    ]
    assert (line["decided"], line["divergence_share"]) == (4, 0.5)
    assert (line["candidates"], line["feasible_rows"], line["feasible_trials"]) == (2, 1, 1)


def test_a_method_without_a_score_stays_in_the_table_and_comes_last(tmp_path: Path) -> None:
    trials = [
        ("gradient_ascent", {}, "diverged"),
        ("ascent_descent_in_distribution", {6: row(forget=80)}, "complete"),
    ]
    table = ranked_methods(verdict(study_of(tmp_path / "s", trials)))
    assert list(table["method"]) == ["ascent_descent_in_distribution", "gradient_ascent"]
    assert math.isnan(table["score_reporting"].iloc[1])
    assert table["diverged"].iloc[1] == 1


def test_best_is_the_one_that_status_and_export_name(tmp_path: Path) -> None:
    """One rule everywhere: ties go to the lowest trial and the fewest updates, as in
    `store.score`."""
    folder = plant(tmp_path / "s", trials=3)
    record, table = read_ledger(folder / "ledger"), verdict(load([folder]).studies[0])
    spec = demo_spec(trials_per_method=3)
    for _, line in table.iterrows():
        found = ScoreRule.of(record, spec).best(record, line["method"])
        assert found is not None
        assert (found[0].number, found[1]["update"]) == (line["number"], line["update"])


def test_ties_go_to_the_lowest_trial_and_the_fewest_updates(tmp_path: Path) -> None:
    same = row(forget=80)
    line = verdict(
        study_of(tmp_path / "s", [("gradient_ascent", {3: same, 6: same}, "complete")] * 2)
    ).iloc[0]
    assert (line["number"], line["update"]) == (0, 3)


def test_planted_best_method_is_found(tmp_path: Path) -> None:
    table = ranked_methods(verdict(load([plant(tmp_path / "s", trials=8, seed=3)]).studies[0]))
    assert table["method"].iloc[0] == "ascent_descent_in_distribution"
    assert table["forget_ppl"].iloc[0] == pytest.approx(77, rel=0.1)


def test_doing_nothing_can_win(tmp_path: Path) -> None:
    study = study_of(
        tmp_path / "s", [("gradient_ascent", {6: row(forget=400, retain=90)}, "complete")]
    )
    text = " ".join(headline(study, verdict(study)))
    assert "No method beats doing nothing, whose score is 0.693" in text
    assert "closest does not mean close" in text


def test_the_first_can_lose_to_doing_nothing_while_another_does_not(tmp_path: Path) -> None:
    first = row(forget=80, retain_selection=40, retain_reporting=400)
    second = row(forget=80, retain_selection=44, retain_reporting=44)
    study = study_of(
        tmp_path / "s",
        [(METHODS[0], {6: first}, "complete"), (METHODS[1], {6: second}, "complete")],
    )
    text = " ".join(headline(study, verdict(study)))
    assert "It does not beat doing nothing, whose score on the reporting half is 0.693" in text
    assert "No method beats" not in text


def test_a_choice_at_the_edge_of_the_search_is_named(tmp_path: Path) -> None:
    spec = demo_spec(trials_per_method=2).model_copy(update={"methods": ("gradient_ascent",)})
    with quick_ledger(tmp_path / "s", spec) as ledger:
        ledger.append(BaselineMeasured(name="vanilla", metrics=row_of(logs(VANILLA), 0.9)))
        rows = {3: row(forget=50), 6: row(forget=60), 10: row(forget=70)}
        low = spec.spaces["gradient_ascent"].parameters["learning_rate"].low
        write_trial(ledger, spec, "gradient_ascent", {"learning_rate": 1.02 * low}, rows)
    hits = boundary_hits(load([tmp_path / "s"]).studies[0])
    assert [(hit.parameter, hit.side, hit.bound) for hit in hits.itertuples()] == [
        ("learning_rate", "low", low),
        ("update", "high", 10),
    ]


def test_a_hyperparameter_whose_condition_does_not_hold_is_at_no_bound(tmp_path: Path) -> None:
    """It has its default, 0, which is not in the range that other trials search."""
    spec = demo_spec(trials_per_method=2).model_copy(update={"methods": ("gradient_ascent",)})
    space = spec.spaces["gradient_ascent"]
    more = {
        "max_grad_norm": Choice(type="choice", choices=(1.0, 5.0)),
        "weight_decay": FloatRange(type="float", low=0.01, high=0.1, when={"max_grad_norm": 5.0}),
    }
    parameters = space.parameters | more
    space = space.model_copy(update={"parameters": parameters})
    spec = spec.model_copy(update={"spaces": spec.spaces | {"gradient_ascent": space}})
    with quick_ledger(tmp_path / "s", spec) as ledger:
        ledger.append(BaselineMeasured(name="vanilla", metrics=row_of(logs(VANILLA), 0.9)))
        chosen = {"learning_rate": 3e-4, "max_grad_norm": 1.0}
        write_trial(ledger, spec, "gradient_ascent", chosen, {6: row(forget=60)})
    assert boundary_hits(load([tmp_path / "s"]).studies[0]).empty


def test_outcomes_in_words(tmp_path: Path) -> None:
    study = study_of(
        tmp_path / "s",
        [("gradient_ascent", {6: row()}, "complete"), (METHODS[1], {}, "diverged")],
    )
    assert outcome_sentence(study) == "2 of 4 planned trials: 1 complete, 1 diverged."


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0412, "0.0412"),
        (76.53, "76.5"),
        (1240.0, "1,240"),
        (3.14e-4, "3.14e-4"),
        (1.2e7, "1.20e7"),
        (0.0, "0"),
        (math.nan, "\u2013"),
        (math.inf, "\u221e"),
        (-0.5, "\u22120.500"),
    ],
)
def test_numbers_read_like_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_changes_carry_a_sign_but_never_a_negative_zero() -> None:
    assert [change(v) for v in (0.031, -0.1, -0.0001, 39.0)] == [
        "+3.1 %",
        "\u221210.0 %",
        "+0.0 %",
        "+3,900 %",
    ]


def test_the_chosen_configuration_says_its_strength_where_it_is_not_as_trained(
    tmp_path: Path,
) -> None:
    """Run again as trained, it would be another model."""
    study = study_of(tmp_path, [(METHODS[0], {4: row(forget=75.0)}, "complete")])
    plain = verdict(study)
    assert "strength" not in [head.label for head in chosen_table(study, plain).headings]
    assert "strength" not in " ".join(headline(study, plain))
    mixed = replace(study, rows=study.rows.assign(strength=0.75))
    table = verdict(mixed)
    shown = chosen_table(mixed, table)
    place = [head.label for head in shown.headings].index("strength")
    assert shown.lines[0][place] == "0.75"
    assert "strength 0.75" in " ".join(headline(mixed, table))
