"""The trial table of our own studies: one deployable score per trial, and what was searched, as the
study planned it."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from planted import VANILLA_PPL, baselines, demo_spec, plant, planted_row, quick_ledger

from ray_unlearn.analysis.best_trials import best_rows
from ray_unlearn.analysis.read.evaluation_rows import best_candidates
from ray_unlearn.analysis.read.study_results import Results, load
from ray_unlearn.analysis.report.health import health
from ray_unlearn.analysis.searched import combined, seen_axis
from ray_unlearn.analysis.statistics.selection import best_by_selection
from ray_unlearn.analysis.trials import TrialTable, trial_table
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.guideline_file import ScoreInfo
from ray_unlearn.spec.objective_spec import ScoreRuleName
from ray_unlearn.spec.score_weights import ScoreWeights
from ray_unlearn.spec.search_space import Choice, FloatRange, IntRange
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.event import BaselineMeasured, RowMeasured, TrialAsked, TrialEnded
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.record import Trial
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.schema import Row
from ray_unlearn.store.score import ScoreRule, scoring_index
from ray_unlearn.store.table import (
    REPORT_COLUMNS,
    TABLE_COLUMNS,
    baseline_table,
    result_table,
    write_table,
)
from ray_unlearn.surfaces.axes import Axis, Scale

METHOD = "ascent_descent_general"
TARGET = math.log(VANILLA_PPL["approximate"])


def spec_with(name: str = "one", **parameters: Any) -> StudySpec:
    """The demo study with one method and some parameters of its space replaced."""
    spec = demo_spec(trials_per_method=10)
    space = spec.spaces[METHOD]
    space = space.model_copy(update={"parameters": space.parameters | parameters})
    return spec.model_copy(update={"name": name, "methods": (METHOD,), "spaces": {METHOD: space}})


def write(
    ledger: Ledger,
    spec: StudySpec,
    chosen: dict[str, Any],
    updates: list[int],
    *,
    status: str = "complete",
    reason: str = "",
    source: str = "",
) -> None:
    """One trial with planted rows at the updates."""
    number = len(ledger.record.trials)
    config = spec.trial_config(spec.spaces[METHOD].resolve(chosen), METHOD, number % 3, "context")
    known: dict[str, Any] = {"number": number, "trial_id": config.id}
    ledger.append(TrialAsked(**known, config=config.model_dump(mode="json"), source=source))
    for update in updates:
        row = planted_row(
            METHOD, chosen["learning_rate"], update, 1.0, random.Random(number * 100 + update)
        )
        ledger.append(RowMeasured(**known, attempt=0, update=update, metrics=row))
    if status != "running":
        ledger.append(TrialEnded(**known, attempt=0, status=status, reason=reason))


def write_baselines(ledger: Ledger, extra: dict[str, Row] | None = None) -> None:
    for name, metrics in (baselines() | (extra or {})).items():
        ledger.append(BaselineMeasured(name=name, metrics=metrics))


def with_rule(spec: StudySpec, rule: ScoreRuleName) -> StudySpec:
    return spec.model_copy(
        update={"objective": spec.objective.model_copy(update={"score_rule": rule})}
    )


@pytest.fixture(scope="session")
def stopped_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted study, scored by the stopping rule."""
    spec = with_rule(demo_spec(trials_per_method=6), "stop_rule")
    spec = spec.model_copy(update={"name": "stopped"})
    return plant(tmp_path_factory.mktemp("stopped") / "demo-study", trials=6, spec=spec)


def check_scores(study: Path, expected: Callable[[Trial], Row]) -> TrialTable:
    """Every finished trial has the scores of its expected row, and so names the best trials that
    the study itself names."""
    results = load([study])
    table = trial_table(results)
    record = read_ledger(study / "ledger")
    spec = results.studies[0].spec
    assert spec is not None
    assert list(table.trials["trial"]) == list(range(42))
    for number, trial in record.trials.items():  # none is left out here, so numbers agree
        line = table.trials.loc[number]
        assert line["learning_rate"] == trial.config["learning_rate"]
        if trial.status in ("diverged", "out_of_memory"):
            assert line["infeasible"]
            assert math.isnan(line["score"])
            assert line["crossed"] is None
            continue
        row = expected(trial)
        found = (line["update"], line["score"], line["score_selection"], line["crossed"])
        reached = bool(row["forget_nll"] >= TARGET)
        assert found == (row["update"], row["score_reporting"], row["score_selection"], reached)
    rule = ScoreRule.of(record, spec)
    assert table.score.score_rule == rule.name
    on_the_page = best_rows(results.studies[0].rows).set_index("method")["number"]
    for method in table.methods:
        (best,) = best_by_selection(table.of(method))["trial"]
        named = rule.best(record, method)
        assert named is not None
        assert best == on_the_page[method] == named[0].number
    np.testing.assert_array_equal(np.isfinite(table.trials["score"]), ~table.trials["infeasible"])
    return table


def test_a_trial_has_the_score_of_its_best_row(planted_study: Path) -> None:
    """Fault: guidelines scored it at the stopping rule's row, everything else at the best one."""
    table = check_scores(
        planted_study,
        lambda trial: min(trial.rows, key=lambda row: (row["score_selection"], row["update"])),
    )
    assert set(table.trials["crossed"]) == {True, False, None}
    assert "lowest score on the selection half" in table.score.checkpoint_rule
    record = read_ledger(planted_study / "ledger")
    assert len(table.rows) == sum(len(trial.rows) for trial in record.trials.values())
    assert (table.rows["target_nll"] == TARGET).all()


def first_crossing(trial: Trial) -> Row:
    return next((row for row in trial.rows if row["forget_nll"] >= TARGET), trial.rows[-1])


def test_by_the_stopping_rule_it_has_that_of_the_first_crossing_evaluation(
    stopped_study: Path,
) -> None:
    table = check_scores(stopped_study, first_crossing)
    assert "forget NLL reaches that of the vanilla model" in table.score.checkpoint_rule


def test_studies_of_different_score_rules_are_not_mixed(
    planted_study: Path, stopped_study: Path, tmp_path: Path
) -> None:
    """Their scores are no more alike than scores in other units."""
    with pytest.raises(
        UserError,
        match=r"scored by `stop_rule`, those of .* by `best_row` \(objective.score_rule\)",
    ):
        trial_table(load([planted_study, stopped_study]))
    frame = result_table(read_ledger(planted_study / "ledger")).to_pandas()
    mixed = frame.assign(score_rule=np.where(frame["number"] < 3, "stop_rule", "best_row"))
    mixed.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(UserError, match="scored by best_row and by stop_rule"):
        load([tmp_path / "rows.parquet"])


def test_a_table_of_before_the_score_rule_is_scored_by_the_best_row(
    planted_study: Path, stopped_study: Path, tmp_path: Path
) -> None:
    frame = result_table(read_ledger(planted_study / "ledger")).to_pandas()
    old = frame.drop(columns=["score_rule", "scored"])
    pd.concat([old, old.head(3)]).to_csv(
        tmp_path / "rows.csv", index=False
    )  # copies change nothing
    (study,) = load([tmp_path / "rows.csv"]).studies
    assert study.score_rule == "best_row"
    assert list(study.rows["scored"]) == list(frame["scored"])
    assert study.rows["scored"].any()
    stopped = result_table(read_ledger(stopped_study / "ledger")).to_pandas()
    stopped.drop(columns="scored").to_csv(tmp_path / "stopped.csv", index=False)
    with pytest.raises(UserError, match=r"lacks the column scored, which says what row scores"):
        load([tmp_path / "stopped.csv"])
    stopped.assign(score_rule="last").to_csv(tmp_path / "unknown.csv", index=False)
    with pytest.raises(UserError, match="score_rule 'last' is not one of best_row, stop_rule"):
        load([tmp_path / "unknown.csv"])


@pytest.mark.parametrize("change", ["two scored rows", "no candidate"])
def test_a_table_that_contradicts_itself_about_its_scores_is_refused(
    planted_study: Path, tmp_path: Path, change: str
) -> None:
    frame = result_table(read_ledger(planted_study / "ledger")).to_pandas()
    at = frame.index[frame["scored"]][0]
    if change == "no candidate":
        frame.loc[at, "candidate"] = False
    else:
        frame.loc[frame["number"] == frame["number"][at], "scored"] = True
    frame.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=r"rows.parquet: trial \d+ .* cannot be scored at update"):
        load([tmp_path / "rows.parquet"])


def test_whole_tables_and_single_trials_are_scored_alike() -> None:
    """`best_candidates` is `store.score.scoring_index` for a million lines: the same row."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "trial": np.repeat(np.arange(200), 5),
            "update": np.tile([4, 8, 16, 32, 64], 200),
            "candidate": rng.random(1000) < 0.8,
            "score_selection": rng.choice([0.1, 0.2, 0.3, np.nan, np.inf], 1000),
        }
    )
    expected = set()
    for _, part in rows[rows["candidate"]].groupby("trial"):
        place = scoring_index("best_row", part["score_selection"].tolist())
        if place is not None:
            expected.add(part.index[place])
    shuffled = rows.sample(frac=1, random_state=1)
    assert set(best_candidates(shuffled, "trial")) == expected
    assert 100 < len(expected) < 200


def test_axes_are_those_of_the_search_space(planted_study: Path) -> None:
    table = trial_table(load([planted_study]))
    rate = Axis("learning_rate", "log", 1e-4, 1e-3)
    assert table.axes["gradient_ascent"] == (rate,)  # free steps are no axis: the rule decides
    assert table.axes[METHOD] == (rate, Axis("w_r", "log", 0.5, 10.0))


def test_what_a_report_adds_to_tables_no_hyperparameter_may_be_called(planted_study: Path) -> None:
    found = trial_table(load([planted_study]))
    columns = {*found.trials.columns, *found.rows.columns, *found.left_out.columns}
    assert columns - set(TABLE_COLUMNS) <= set(REPORT_COLUMNS)


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_a_table_gives_the_same_scores_as_its_study(
    planted_study: Path, tmp_path: Path, ending: str
) -> None:
    record = read_ledger(planted_study / "ledger")
    write_table(result_table(record), tmp_path / f"rows{ending}")
    write_table(baseline_table(record), tmp_path / f"rows.baselines{ending}")
    study, table = (
        trial_table(load([path])) for path in (planted_study, tmp_path / f"rows{ending}")
    )
    told = ["drawn"]  # only the study knows how its older trials were drawn
    pd.testing.assert_frame_equal(
        table.trials.drop(columns=told),
        study.trials.drop(columns=told),
        check_dtype=False,
        rtol=1e-12,
    )
    assert set(table.trials["drawn"]) == {"unknown"}
    for method in study.methods:
        for seen, known in zip(table.axes[method], study.axes[method], strict=True):
            assert (seen.name, seen.scale, seen.bounds_known) == (known.name, known.scale, False)
            values = study.of(method)[seen.name]
            assert (seen.low, seen.high) == pytest.approx((values.min(), values.max()))


def test_the_order_of_lines_does_not_matter(planted_study: Path, tmp_path: Path) -> None:
    record = read_ledger(planted_study / "ledger")
    frame = result_table(record).to_pandas()
    frame = pd.concat([frame, frame.assign(domain="another")])
    results = []
    for name, part in (("one", frame), ("two", frame.sample(frac=1, random_state=0))):
        (tmp_path / name).mkdir()
        part.to_parquet(tmp_path / name / "rows.parquet", index=False)
        results.append(trial_table(load([tmp_path / name / "rows.parquet"])))
    one, two = results
    pd.testing.assert_frame_equal(one.trials, two.trials)
    pd.testing.assert_frame_equal(one.rows, two.rows)
    assert one.groups == ("Shakespeare scenes", "another")


def test_without_baselines_the_table_still_says_which_row_counts(
    stopped_study: Path, tmp_path: Path
) -> None:
    """The target is not known then, but the study knew it when it chose the row."""
    record = read_ledger(stopped_study / "ledger")
    write_table(result_table(record), tmp_path / "rows.parquet")
    table = trial_table(load([tmp_path / "rows.parquet"]))
    for number, trial in record.trials.items():
        if not table.trials["infeasible"][number]:
            assert table.trials["score"][number] == first_crossing(trial)["score_reporting"]
            assert table.trials["crossed"][number] is None


def test_rows_before_the_fewest_steps_are_no_candidates(tmp_path: Path) -> None:
    spec = spec_with(steps=IntRange(type="int", low=10, high=40, free=True))
    with quick_ledger(tmp_path / "s", spec) as ledger:
        write_baselines(ledger)
        write(
            ledger, spec, {"learning_rate": 1e-3, "w_r": 1.0}, [3, 6, 10, 16]
        )  # crosses at 6 already
        write(
            ledger,
            spec,
            {"learning_rate": 1e-3, "w_r": 2.0},
            [3, 6],
            status="pruned",
            reason="asha: rung 6",
        )
    table = trial_table(load([tmp_path / "s"]))
    crossed_at = [
        r["update"]
        for r in read_ledger(tmp_path / "s" / "ledger").trials[0].rows
        if r["forget_nll"] >= TARGET
    ]
    assert crossed_at[0] < 10
    assert list(table.trials["update"]) == [10]
    assert list(table.rows["update"]) == [10, 16]
    assert list(table.left_out["why"]) == ["no evaluation that could be deployed"]
    assert list(table.left_out["status"]) == ["pruned"]


def test_searched_steps_are_an_axis_and_only_the_last_one_counts(tmp_path: Path) -> None:
    spec = spec_with(
        steps=IntRange(type="int", low=2, high=40, scale="log"),
        schedule=Choice(type="choice", choices=("constant", "cosine")),
        batch_size=Choice(type="choice", choices=(4, 8)),
        warmup_ratio=FloatRange(type="float", low=0.0, high=0.1, when={"schedule": "cosine"}),
    )
    cosine = {"schedule": "cosine", "warmup_ratio": 0.05, "w_r": 1.0}
    with quick_ledger(tmp_path / "s", spec) as ledger:
        write_baselines(ledger)
        write(
            ledger,
            spec,
            {"learning_rate": 9e-4, "steps": 25, "batch_size": 4, **cosine},
            [3, 10, 25],
        )
        write(
            ledger, spec, {"learning_rate": 2e-4, "steps": 40, "batch_size": 8, **cosine}, [3, 40]
        )
        constant = {"schedule": "constant", "w_r": 1.0, "steps": 16, "batch_size": 8}
        write(
            ledger,
            spec,
            {"learning_rate": 2e-4, **constant},
            [3],
            status="pruned",
            reason="asha: rung 3",
        )
        write(ledger, spec, {"learning_rate": 3e-4, **constant}, [3, 16])
        ended = {"learning_rate": 4e-4, **constant}
        write(ledger, spec, ended, [3, 16], status="pruned", reason="asha: rung 16")
    table = trial_table(load([tmp_path / "s"]))
    assert list(table.trials["update"]) == [25, 40, 16]  # the first would have crossed at 10
    # A pruned trial has no score, whatever step it reached: as the study itself says.
    assert table.left_out["why"].tolist() == ["no evaluation that could be deployed"] * 2
    assert table.score.checkpoint_rule == "the last step, where the number of steps was searched"
    assert list(table.rows["candidate"]) == [False, False, True, False, True, False, True]
    axes = {axis.name: axis for axis in table.axes[METHOD]}
    assert axes["steps"] == Axis("steps", "log", 2, 40, whole=True)
    assert list(axes["batch_size"].to_unit(table.trials["batch_size"])) == [
        0,
        1,
        1,
    ]  # labels fit the choices
    assert list(axes["schedule"].to_unit(table.trials["schedule"])) == [1, 1, 0]
    assert "warmup_ratio" not in axes  # conditional: one trial has none
    assert any(note.startswith("warmup_ratio") for note in table.notes)
    # The same from a table, which tells by its candidate rows.
    write_table(result_table(read_ledger(tmp_path / "s" / "ledger")), tmp_path / "rows.parquet")
    assert list(trial_table(load([tmp_path / "rows.parquet"])).trials["update"]) == [25, 40, 16]


def test_a_narrowed_study_has_trials_outside_its_space(tmp_path: Path) -> None:
    wide = spec_with(batch_size=Choice(type="choice", choices=(4, 8, 16)))
    narrow = spec_with(
        batch_size=Choice(type="choice", choices=(8, 16)),
        learning_rate=FloatRange(type="float", low=2e-4, high=4e-4, scale="log"),
    )
    search = narrow.search.model_copy(update={"full_space_share": 0.2})
    spec = narrow.model_copy(update={"full_spaces": wide.spaces, "search": search})
    with quick_ledger(tmp_path / "s", spec) as ledger:
        write_baselines(ledger)
        for rate, size, source in (
            (2e-4, 16, "quasi_random"),
            (1e-3, 4, "full_space"),
            (3e-4, 8, "warm_start"),
        ):
            write(
                ledger,
                spec,
                {"learning_rate": rate, "batch_size": size, "w_r": 1.0},
                [3],
                source=source,
            )
    table = trial_table(load([tmp_path / "s"]))
    axes = {axis.name: axis for axis in table.axes[METHOD]}
    assert (axes["learning_rate"].low, axes["learning_rate"].high) == (2e-4, 4e-4)
    assert axes["learning_rate"].to_unit(table.trials["learning_rate"])[1] > 1
    assert list(axes["batch_size"].to_unit(table.trials["batch_size"])) == [1, 2, 0]
    assert list(table.trials["drawn"]) == ["space", "space", "adaptive"]


def test_outcomes(tmp_path: Path) -> None:
    spec = spec_with()
    with quick_ledger(tmp_path / "s", spec) as ledger:
        write_baselines(ledger)
        known = {"learning_rate": 2e-4}
        write(ledger, spec, known | {"w_r": 1.0}, [3, 6], status="failed", reason="worker died")
        write(ledger, spec, known | {"w_r": 2.0}, [3, 6], status="running")
        write(
            ledger,
            spec,
            known | {"w_r": 3.0},
            [3, 6],
            status="pruned",
            reason="past its best: score 0.5 at update 3",
        )
        write(ledger, spec, known | {"w_r": 4.0}, [3], status="pruned", reason="asha: rung 3")
        write(ledger, spec, known | {"w_r": 5.0}, [3], status="diverged", reason="non-finite loss")
        write(ledger, spec, known | {"w_r": 6.0}, [], status="out_of_memory")
        write(ledger, spec, known | {"w_r": 7.0}, [])
    results = load([tmp_path / "s"])
    table = trial_table(results)
    assert list(table.trials["w_r"]) == [3, 4, 5, 6]
    assert list(table.trials["status"]) == ["complete", "pruned", "diverged", "out_of_memory"]
    assert list(table.trials["infeasible"]) == [False, False, True, True]
    assert list(table.left_out["why"]) == [
        "failed",
        "no outcome yet",
        "no evaluation that could be deployed",
    ]
    facts = health(table, results)
    (line,) = facts.outcomes.to_dict("records")
    assert (line["trials"], line["complete"], line["pruned"], line["without_score"]) == (7, 2, 1, 1)
    assert (facts.trials, facts.analysed, facts.pruned_share) == (7, 4, 1 / 5)


def test_who_chose_a_trial(tmp_path: Path) -> None:
    spec = spec_with()  # 10 trials, the first 60 % quasi-random
    assert (spec.search.sampler, spec.search.quasi_random_share) == ("tpe", 0.6)
    with quick_ledger(tmp_path / "old", spec) as ledger:
        for index in range(10):
            write(ledger, spec, {"learning_rate": 2e-4, "w_r": 1.0 + index / 2}, [3])
    with quick_ledger(tmp_path / "new", spec.model_copy(update={"name": "new"})) as ledger:
        for index, source in enumerate(
            ["quasi_random", "tpe", "random", "full_space", "warm_start", "grid", "listed"]
        ):
            write(ledger, spec, {"learning_rate": 2e-4, "w_r": 1.0 + index / 2}, [3], source=source)
    old = trial_table(load([tmp_path / "old"]))
    assert list(old.trials["drawn"]) == ["space"] * 6 + ["adaptive"] * 4
    results = load([tmp_path / "new"])
    new = trial_table(results)
    assert list(new.trials["drawn"]) == [
        "space",
        "adaptive",
        "space",
        "space",
        "adaptive",
        "space",
        "adaptive",
    ]
    (line,) = health(new, results).samplers.to_dict("records")
    assert (line["space"], line["adaptive"], line["unknown"], line["space_share"]) == (
        4,
        3,
        0,
        4 / 7,
    )


def test_tolerance_is_the_spread_of_retrained_models(tmp_path: Path) -> None:
    """By `results.score.scored` itself, pooled over two studies with their weights."""
    sds = []
    for name, shifts in (("one", (0.0, 0.04, -0.03)), ("two", (0.0, 0.2, 0.1, 0.3))):
        spec = spec_with(name)
        spec = spec.model_copy(
            update={"objective": spec.objective.model_copy(update={"retain": 3.0})}
        )
        found = {}
        for i, shift in enumerate(shifts, start=1):
            model = baselines()["exact_retrain"]
            moved = {
                key: value + shift
                for key, value in model.items()
                if key.startswith(("forget_nll", "retain_nll"))
            }
            found["exact_retrain" if i == 1 else f"exact_retrain_{i}"] = model | moved
        with quick_ledger(tmp_path / name, spec) as ledger:
            write_baselines(ledger, found)
            write(ledger, spec, {"learning_rate": 2e-4, "w_r": 1.0}, [3])
        known = Baselines(vanilla=baselines()["vanilla"])
        scores = [
            scored(model, known, ScoreWeights(retain=3.0))["score_reporting"]
            for model in found.values()
        ]
        sds.append(np.std(scores, ddof=1))
    one = trial_table(load([tmp_path / "one"])).score
    assert one.tolerance == pytest.approx(sds[0])
    assert (
        one.tolerance_source == "one SD of the score across 3 models retrained from different seeds"
    )
    both = trial_table(load([tmp_path / "one", tmp_path / "two"])).score
    assert both.tolerance == pytest.approx(math.sqrt((sds[0] ** 2 + sds[1] ** 2) / 2))
    assert "3 or 4 models" in both.tolerance_source


def test_tolerance_given_or_by_default(planted_study: Path) -> None:
    results = load([planted_study])
    assert trial_table(results, tolerance=0.25).score.tolerance_source == "given by the user"
    default = trial_table(results).score
    assert (default.tolerance, default.unit, default.direction) == (0.1, "nats/token", "minimize")
    assert "the program's default" in default.tolerance_source
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UserError, match="tolerance must be a number above 0"):
            trial_table(results, tolerance=wrong)


def test_ranges_of_several_studies() -> None:
    wide, narrow = Axis("lr", "log", 1e-6, 1e-4), Axis("lr", "log", 1e-5, 1e-3)
    assert combined([wide, narrow]) == Axis("lr", "log", 1e-5, 1e-4)  # what both covered
    assert combined([wide, Axis("lr", "log", 1e-3, 1e-2)]) == Axis("lr", "log", 1e-6, 1e-2)
    one, two = (Axis("kind", "categorical", choices=c) for c in (("a", "b"), ("b", "c")))
    assert combined([one, two]).choices == ("a", "b", "c")
    with pytest.raises(
        UserError, match="`lr` is a range in one study and a list of choices in another"
    ):
        combined([wide, replace(one, name="lr")])


@pytest.mark.parametrize(
    ("name", "values", "scale", "whole"),
    [
        ("x", [1.0, 10.5], "log", False),
        ("x", [1.5, 10.0], "linear", False),
        ("learning_rate", [1e-5, 3e-5], "log", False),
        ("w_r", [1.0, 2.0], "log", True),
        ("lr", [0.0, 1e-3], "linear", False),
        ("x", [-5.0, 500.0], "linear", True),
    ],
)
def test_scale_of_an_axis_that_is_only_seen(
    name: str, values: list[float], scale: str, whole: bool
) -> None:
    axis = seen_axis(name, pd.Series(values))
    low, high = values[:2]
    expected = Axis(name, cast(Scale, scale), low, high, bounds_known=False, whole=whole)
    assert axis == expected
    assert seen_axis(name, pd.Series([2.0, 2.0, math.nan])) is None


def test_groups(planted_study: Path) -> None:
    (study,) = load([planted_study]).studies
    other = replace(study, key="b", name="b", domain="arxiv")
    third = replace(study, key="c", name="c", model="big")
    assert trial_table(Results((study, other))).groups == ("arxiv", "Shakespeare scenes")
    assert set(trial_table(Results((study, third))).groups) == {"demo:shakespeare", "big"}
    three = Results((study, other, third))
    assert set(trial_table(three).groups) == {
        "arxiv (demo:shakespeare)",
        "Shakespeare scenes (demo:shakespeare)",
        "Shakespeare scenes (big)",
    }
    fourth = replace(study, key="d", name="d", model="demo:arxiv", domain="arxiv")
    own = trial_table(Results((study, fourth)))  # a model for each domain: the domain names it
    assert own.groups == ("arxiv", "Shakespeare scenes")


def test_scores_at_other_strengths_are_not_pooled(planted_study: Path) -> None:
    (study,) = load([planted_study]).studies
    assert study.spec is not None
    evaluation = study.spec.evaluation.model_copy(update={"strength": "both"})
    other = replace(
        study, name="b", key="b", spec=study.spec.model_copy(update={"evaluation": evaluation})
    )
    with pytest.raises(UserError, match=r"different strengths .*both, trained"):
        trial_table(Results((study, other)))


def test_a_trajectory_is_made_of_what_was_trained(planted_study: Path) -> None:
    """A calibrated row can score its trial, and is no second evaluation of its update."""
    (study,) = load([planted_study]).studies
    plain = trial_table(Results((study,)))
    line = study.rows[study.rows["scored"]].iloc[[0]]
    mixed = line.assign(strength=0.5, score_reporting=line["score_reporting"] - 0.01)
    rows = study.rows.copy()
    rows.loc[line.index, "scored"] = False
    both = replace(study, rows=pd.concat([rows, mixed], ignore_index=True))
    found = trial_table(Results((both,)))
    assert len(found.rows) == len(plain.rows)
    changed = (found.trials["score"] - plain.trials["score"]).dropna()
    assert sorted(changed.round(6))[0] == -0.01
    assert (changed.round(6) != 0).sum() == 1
    assert "strength" not in plain.trials, "all are as trained"
    own = found.trials.set_index("number").loc[line["number"].iloc[0]]
    assert own["strength"] == 0.5
    assert (found.trials["strength"].dropna() != 1).sum() == 1
    assert list(found.trials)[list(found.trials).index("update") + 1] == "strength"


def test_a_table_without_its_study_tells_by_its_rows_that_strengths_were_compared(
    planted_study: Path,
) -> None:
    """Else claims about mixed models would narrow a study of models as trained."""
    (study,) = load([planted_study]).studies
    table = replace(study, spec=None)
    assert trial_table(Results((table,))).score.strength == "trained"
    mixed = study.rows[study.rows["scored"]].iloc[[0]].assign(strength=0.5, scored=False)
    both = replace(table, rows=pd.concat([study.rows, mixed], ignore_index=True))
    assert trial_table(Results((both,))).score.strength == "both"


def test_scores_with_other_weights_are_not_pooled(planted_study: Path) -> None:
    (study,) = load([planted_study]).studies
    assert study.spec is not None
    objective = study.spec.objective.model_copy(update={"general": 0.5})
    other = replace(
        study, name="b", key="b", spec=study.spec.model_copy(update={"objective": objective})
    )
    with pytest.raises(UserError, match="weigh the score differently"):
        trial_table(Results((study, other)))


def made_table(trials: pd.DataFrame, axes: tuple[Axis, ...]) -> TrialTable:
    score = ScoreInfo(
        name="score",
        direction="minimize",
        tolerance=1,
        tolerance_source="test",
        checkpoint_rule="last",
    )
    size = len(trials)
    known = {
        "study": "s",
        "domain": "d",
        "model": "m",
        "group": "d",
        "method": "x",
        "drawn": "space",
        "seed": 0.0,
    }
    trials = trials.assign(trial=range(size), **{k: v for k, v in known.items() if k not in trials})
    trials["status"] = np.where(trials["infeasible"], "diverged", "complete")
    return TrialTable(
        trials.assign(score_selection=trials["score"]), pd.DataFrame(), {"x": axes}, score
    )


def test_health_finds_the_cliff_and_the_bound() -> None:
    """40 trials along one axis: diverged in the highest third alone, best at the low bound."""
    unit = (np.arange(40) + 0.5) / 40
    infeasible = unit > 0.8
    frame = pd.DataFrame(
        {
            "lr": 10 ** (-6 + 2 * unit),
            "infeasible": infeasible,
            "score": np.where(infeasible, np.nan, unit),
        }
    )
    facts = health(made_table(frame, (Axis("lr", "log", 1e-6, 1e-4),)), Results(()))
    thirds = facts.infeasible.set_index("third")
    assert thirds["trials"].to_dict() == {"lowest": 13, "middle": 14, "highest": 13}
    assert thirds["infeasible"].to_dict() == {"lowest": 0, "middle": 0, "highest": 8}
    assert thirds.loc["highest", "share"] == 8 / 13
    assert thirds.loc["middle", ["low", "high"]].tolist() == pytest.approx(
        [10 ** (-6 + 2 / 3), 10 ** (-6 + 4 / 3)]
    )
    low, high = facts.at_bounds.to_dict("records")
    # 32 finite trials: the best four lie at 0.0125, 0.0375, 0.0625 and 0.0875 of the range.
    assert (low["side"], low["best"], low["hits"], low["share"], low["bound"]) == (
        "low",
        4,
        2,
        0.5,
        1e-6,
    )
    assert (high["side"], high["hits"]) == ("high", 0)
    assert facts.outcomes.to_dict("records")[0]["diverged"] == 8


def test_health_counts_the_best_of_each_group() -> None:
    """A group with lower scores throughout must not be the only one whose best trials are looked
    at."""
    frame = pd.DataFrame(
        {
            "lr": np.tile(np.linspace(0, 1, 20), 2),
            "group": ["easy"] * 20 + ["hard"] * 20,
            "infeasible": False,
            "score": np.concatenate([np.linspace(0, 1, 20), np.linspace(11, 10, 20)]),
        }
    )
    facts = health(made_table(frame, (Axis("lr", "linear", 0, 1),)), Results(()))
    assert facts.at_bounds["hits"].tolist() == [1, 1]
    assert facts.at_bounds["best"].tolist() == [4, 4]


def test_health_of_a_study(planted_study: Path, tmp_path: Path) -> None:
    record = read_ledger(planted_study / "ledger")
    frame = result_table(record).to_pandas()
    pd.concat([frame, frame.head(5)]).to_parquet(tmp_path / "rows.parquet", index=False)
    results = load([tmp_path / "rows.parquet"])
    facts = health(trial_table(results), results)
    assert (facts.duplicates, facts.missing_evaluations, facts.trials) == (5, 0, 42)
    statuses = pd.Series([trial.status for trial in record.trials.values()]).value_counts()
    for status, count in statuses.items():
        assert facts.outcomes[status].sum() == count
    assert facts.analysed == 42


def test_a_study_of_diverged_trials_alone(tmp_path: Path) -> None:
    spec = spec_with()
    with quick_ledger(tmp_path / "s", spec) as ledger:
        write(ledger, spec, {"learning_rate": 1e-3, "w_r": 1.0}, [], status="diverged")
        write(ledger, spec, {"learning_rate": 9e-4, "w_r": 2.0}, [3], status="diverged")
    results = load([tmp_path / "s"])
    table = trial_table(results)
    assert table.trials["infeasible"].all()
    assert health(table, results).outcomes["diverged"].tolist() == [2]


def test_studies_of_one_name_keep_their_trials_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        plant(
            tmp_path / folder,
            trials=2,
            seed=ord(folder),
            spec=spec_with("same").model_copy(
                update={"search": demo_spec(trials_per_method=2).search}
            ),
        )
    table = trial_table(load([tmp_path / "a", tmp_path / "b"]))
    assert table.trials["study"].nunique() == 2
    assert table.trials["trial"].is_unique
    assert len(table.trials) == table.rows["trial"].nunique()
