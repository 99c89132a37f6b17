"""A report of a study with an objective of its own. If these fail, a page recommends
models that its user ruled out, or reads surfaces of a score that was not minimised."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import VANILLA_PPL, baselines, demo_spec, quick_ledger, row_of, write_trial

from ray_unlearn.analysis.guidelines.group_parts import group_parts
from ray_unlearn.analysis.read.study_results import load
from ray_unlearn.analysis.report.derive import derive_guidelines
from ray_unlearn.analysis.report.verdict import verdict
from ray_unlearn.analysis.report.write import write_report
from ray_unlearn.analysis.trials import trial_table
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.narrowing import narrowed
from ray_unlearn.spec.objective_spec import ObjectiveSpec
from ray_unlearn.spec.row_tasks import RowTask
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.event import BaselineMeasured
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.objective import Objective, objective_of
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.schema import Row
from ray_unlearn.store.table import baseline_table, result_table, write_table

METHOD = "ascent_descent_general"
NLLS = {name: math.log(ppl) for name, ppl in VANILLA_PPL.items()}
OBJECTIVE: dict[str, Any] = {"minimise": "forget_gap", "subject_to": {"general_kl": 0.1}}
RATES = tuple(float(rate) for rate in np.geomspace(2e-4, 1e-3, 10))
WRITTEN = "minimise: forget_gap, subject_to: {general_kl: 0.1}"


def row(rate: float, update: int, objective: ObjectiveSpec) -> Row:
    """The gap closes with learning rate times updates, and KL grows with its square."""
    dose = rate / 1e-3 * update / 10
    nll = dict(NLLS)
    nll["forget"] = NLLS["approximate"] - 0.6 * max(0.0, 1 - dose)
    metrics = row_of(nll, auc=0.6, learning_rate_sum=rate * update)
    for half, more in (("selection", 1.0), ("reporting", 1.1)):
        metrics[f"general_kl_{half}"] = 0.4 * dose**2 * more
    known = Baselines(baselines()["vanilla"])
    return scored(metrics, known, objective.weights, objective_of(objective))


def spec_of(name: str, **objective: Any) -> StudySpec:
    spec = demo_spec(trials_per_method=len(RATES), quasi_random_share=1.0)
    known = {"name": name, "methods": (METHOD,), "spaces": {METHOD: spec.spaces[METHOD]}}
    return spec.model_copy(update=known | {"objective": ObjectiveSpec(**objective)})


def plant(folder: Path, **objective: Any) -> Path:
    spec = spec_of(folder.name, **objective)
    with quick_ledger(folder, spec) as ledger:
        ledger.append(BaselineMeasured(name="vanilla", metrics=baselines()["vanilla"]))
        for rate in RATES:
            rows = {update: row(rate, update, spec.objective) for update in (6, 10)}
            write_trial(ledger, spec, METHOD, {"learning_rate": rate, "w_r": 2.0}, rows)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("objective") / "bounded", **OBJECTIVE)


@pytest.fixture(scope="module")
def page(study: Path) -> str:
    write_report([study], study.parent / "report", seed=0)
    return (study.parent / "report" / "report.md").read_text()


def kl_of(update: int) -> list[float]:
    return [0.4 * (rate / 1e-3 * update / 10) ** 2 for rate in RATES]


def test_trials_are_scored_at_their_feasible_rows_and_the_others_are_worst(study: Path) -> None:
    table = trial_table(load([study]))
    trials = table.trials.sort_values("learning_rate")
    updates = [
        10 if late <= 0.1 else 6 if early <= 0.1 else math.nan
        for early, late in zip(kl_of(6), kl_of(10), strict=True)
    ]
    assert trials["update"].tolist() == pytest.approx(updates, nan_ok=True)
    assert {*updates} >= {6, 10}
    assert trials["infeasible"].tolist() == [math.isnan(update) for update in updates]
    assert 0 < trials["infeasible"].sum() < len(trials)
    assert set(trials["status"]) == {"complete"}, "outside the constraints is not diverged"
    assert table.left_out.empty
    (note,) = [note for note in table.notes if "within its constraints" in note]
    able = int((~trials["infeasible"]).sum())
    assert note.startswith(f"{able} of 10 decided trials of bounded ({able / 10:.0%})")
    assert table.score.objective == WRITTEN
    assert table.score.weights is None


def test_surfaces_of_components_are_not_used_for_a_score_they_do_not_make(study: Path) -> None:
    table = trial_table(load([study]))
    (part,) = group_parts(table, table.trials, table.axes[METHOD])
    assert part.trajectories is None
    weighted = trial_table(load([plant(study.parent / "plain")]))
    (part,) = group_parts(weighted, weighted.trials, weighted.axes[METHOD])
    assert part.trajectories is not None


def test_the_page_says_what_was_minimised_and_what_is_feasible(study: Path, page: str) -> None:
    plain = page.replace("\\", "")
    assert f"by the study's objective ({WRITTEN})" in plain
    assert "decided trials of bounded" in page
    assert f"The score is by the objective {WRITTEN}, at evaluations within" in plain.replace(
        "`", ""
    )
    assert "A configuration is feasible when it is within the study's constraints" in page
    assert "came closest, by the study's score" not in page
    best = verdict(load([study]).studies[0]).iloc[0]
    early = [kl for kl in (*kl_of(6), *kl_of(10)) if kl <= 0.1]
    assert best["general_kl_selection"] == pytest.approx(max(early))
    assert best["feasible_trials"] == sum(1.1 * kl <= 0.1 for kl in kl_of(6))


def test_weights_cannot_be_given_to_a_score_that_has_none(study: Path) -> None:
    with pytest.raises(UserError, match="its score is no weighted sum but `minimise: forget_gap"):
        load([study], objective={"general": 2})


def test_a_weighted_sum_within_constraints_can_be_weighed_again(tmp_path: Path) -> None:
    bounded = plant(tmp_path / "bounded", subject_to={"general_kl": 0.1})
    table = trial_table(load([bounded], objective={"forget_gap": 2}))
    assert table.score.weights is not None
    assert table.score.objective == "subject_to: {general_kl: 0.1}"
    scored_rows = table.trials[~table.trials["infeasible"]]
    assert 0 < len(scored_rows) < 10


def test_studies_of_different_objectives_are_not_reported_together(
    study: Path, tmp_path: Path
) -> None:
    other = plant(tmp_path / "other")
    with pytest.raises(UserError, match="their objectives differ; report on them separately"):
        trial_table(load([study, other]))


def test_a_table_says_as_much_as_its_study(study: Path, tmp_path: Path) -> None:
    record = read_ledger(study / "ledger")
    for name in ("rows.parquet", "rows.csv"):
        write_table(result_table(record), tmp_path / name)
        write_table(baseline_table(record), tmp_path / name.replace("rows", "baselines"))
        (found,) = load([tmp_path / name]).studies
        assert found.objective.beyond_weights() == WRITTEN
        of_table, of_study = trial_table(load([tmp_path / name])), trial_table(load([study]))
        for column in ("update", "score", "infeasible"):
            assert of_table.trials[column].equals(of_study.trials[column])
        assert of_table.score.objective == WRITTEN


def test_guidelines_narrow_only_a_study_of_the_same_objective(study: Path) -> None:
    file = derive_guidelines([study], seed=0)
    with pytest.raises(UserError, match="give both the same `objective`"):
        narrowed(spec_of("next"), file, "guidelines.json")
    same = spec_of("next", **OBJECTIVE)
    found, _ = narrowed(same, file, "guidelines.json", likely=True)
    assert found.objective == same.objective
    assert found.spaces != same.spaces


def test_a_study_without_a_feasible_trial_says_how_near_it_came(tmp_path: Path) -> None:
    strict = plant(tmp_path / "strict", minimise="forget_gap", subject_to={"general_kl": 1e-5})
    write_report([strict], tmp_path / "report", seed=0)
    page = (tmp_path / "report" / "report.md").read_text()
    assert "There is no verdict: no trial is within the constraints; nearest is trial 0" in page
    assert "is above 1e-05 by" in page


def test_what_is_maximised_is_reported_and_not_drawn_on_a_log_axis(tmp_path: Path) -> None:
    high = plant(tmp_path / "high", maximise="forget_nll")
    write_report([high], tmp_path / "report", seed=0)
    page = (tmp_path / "report" / "report.md").read_text()
    assert "its axis of scores is logarithmic, and these scores are below 0" in page


def test_a_bound_on_a_column_of_this_study_alone_is_reported_and_read_from_a_table(
    tmp_path: Path,
) -> None:
    """The column of a task: what every study has does not say which side of it is better."""
    column = "task.births.acc"
    spec = spec_of("births", minimise="forget_gap", subject_to={column: 0.3})
    task = RowTask.model_validate({"task": "births", "metrics": ["acc"]})
    evaluation = spec.evaluation.model_copy(update={"tasks": (task,)})
    spec = spec.model_copy(update={"evaluation": evaluation})
    objective = Objective.of(spec)
    with quick_ledger(tmp_path / "births", spec) as ledger:
        vanilla = baselines()["vanilla"] | {column: 0.9}
        ledger.append(BaselineMeasured(name="vanilla", metrics=vanilla))
        known = Baselines(vanilla)
        for rate in RATES:
            metrics = dict(row(rate, 10, ObjectiveSpec())) | {column: 0.9 - 800 * rate}
            rows = {10: scored(metrics, known, spec.objective.weights, objective)}
            write_trial(ledger, spec, METHOD, {"learning_rate": rate, "w_r": 2.0}, rows)
    record = read_ledger(tmp_path / "births" / "ledger")
    write_table(result_table(record), tmp_path / "rows.parquet")
    write_table(baseline_table(record), tmp_path / "baselines.parquet")
    for source in (tmp_path / "births", tmp_path / "rows.parquet"):
        write_report([source], tmp_path / "report", seed=0)
        page = (tmp_path / "report" / "report.md").read_text()
        assert f"| `{column}` |" in page
        results = load([source])
        trials = trial_table(results).trials
        assert trials["infeasible"].sum() == sum(0.9 - 800 * rate < 0.3 for rate in RATES) > 0
        assert results.studies[0].rule.broken({column: 0.2}) == [
            f"{column} 0.2 is below 0.3 by 0.1"
        ]
    write_report([tmp_path / "births"], tmp_path / "report", seed=0)
    page = (tmp_path / "report" / "report.md").read_text()
    assert "births of lm-evaluation-harness, in rows" in page
