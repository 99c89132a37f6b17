"""A search under constraints, by planted truth. If these fail, a study spends its trials where its
user ruled models out, or prunes and keeps the wrong ones."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from in_process import InProcess, small_study
from specs import finished, record, space, study

from ray_unlearn.execution.early_stopping import Pruner
from ray_unlearn.execution.exports.optuna_journal import export_journal
from ray_unlearn.execution.optuna_trials import FAR_OUTSIDE, as_optuna_trial
from ray_unlearn.execution.resume import write_spec
from ray_unlearn.execution.samplers import LEAST_OUTSIDE, in_view, with_values_for_gp
from ray_unlearn.execution.search import Search
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.promises import SPEC_FILE, score_problems
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.schema import HALVED_SETS, HALVES, Outcome, Row
from ray_unlearn.store.score import ScoreRule
from ray_unlearn.store.snapshot import taken
from ray_unlearn.store.status import open_study, status
from ray_unlearn.store.table import OBJECTIVE_COLUMNS, result_table
from ray_unlearn.store.verify import verify

TARGET = 3.0
VANILLA = {f"{name}_nll_{half}": 1.0 for name in HALVED_SETS for half in HALVES}
VANILLA |= {f"approximate_nll_{half}": TARGET for half in HALVES} | {"forget_nll": 1.0}
MIXED = "ascent_descent_general"
W_R = {"type": "float", "low": 0.1, "high": 10.0, "scale": "log"}
SAMPLED_STEPS = {"type": "int", "low": 9, "high": 30, "free": False}
BOUND = 0.05
CONSTRAINED: dict[str, Any] = {"minimise": "forget_gap", "subject_to": {"general_kl": BOUND}}
BEST_FEASIBLE = 0.25
"""Gap of the planted truth on its bound."""


def planted(config: TrialConfig, spec: StudySpec, update: int = 30) -> Row:
    """Forgetting is perfect at learning rate 1e-3, and KL rises with the rate: 0.05 at 10^-3.5
    where w_r is 1, twice that a factor of ten from there. The weighted sum does not see KL."""
    rate, w_r = math.log10(config.learning_rate), math.log10(config.w_r)
    gap = (rate + 3) ** 2
    kl = BOUND * 10 ** (2 * (rate + 3.5)) * 2 ** (w_r**2)
    row = VANILLA | {"update": update, "forget_nll": TARGET - gap}
    row |= {f"general_kl_{half}": kl for half in HALVES}
    weights = spec.objective.weights
    return scored(row, Baselines(VANILLA), weights, ScoreRule(spec, {}).objective)


def searched(spec: StudySpec) -> list[Trial]:
    search, trials = Search(spec, "c"), []
    for number in range(search.total):
        config = search.ask(number)
        assert config is not None
        trial = finished(number, config, [planted(config, spec)])
        search.tell(trial)
        trials.append(trial)
    return trials


def best_feasible(trials: Sequence[Trial]) -> float:
    rows = [trial.rows[0] for trial in trials]
    gaps = [r["forget_gap_selection"] for r in rows if r["general_kl_selection"] <= BOUND]
    return min(gaps, default=math.inf)


def feasible_share(trials: Sequence[Trial]) -> float:
    return sum(trial.rows[0]["general_kl_selection"] <= BOUND for trial in trials) / len(trials)


@pytest.mark.parametrize(("sampler", "count", "seeds"), [("tpe", 30, 3), ("gp", 14, 1)])
def test_the_search_goes_to_the_bound_where_the_weighted_sum_goes_past_it(
    sampler: str, count: int, seeds: int
) -> None:
    """Half of the trials are quasi-random, the others the sampler's own."""
    lost: dict[str, list[float]] = {"constrained": [], "weighted": []}
    shares: dict[str, list[float]] = {"constrained": [], "weighted": []}
    for seed in range(seeds):
        for name, objective in (("constrained", CONSTRAINED), ("weighted", {})):
            spec = study(
                space(MIXED, w_r=W_R), sampler=sampler, trials_per_method=count,
                quasi_random_share=0.5, seed=seed, objective=objective,
            )  # fmt: skip
            trials = searched(spec)
            lost[name].append(best_feasible(trials) - BEST_FEASIBLE)
            shares[name].append(feasible_share(trials[count // 2 :]))
    assert max(lost["constrained"]) < 0.15
    assert sum(lost["constrained"]) < sum(lost["weighted"])
    assert min(shares["constrained"]) > 2 * max(shares["weighted"])


def trial_of(
    spec: StudySpec, number: int, rows: dict[int, tuple[float, float]], status: Outcome | None
) -> Trial:
    """A trial with these gaps and KLs by update."""
    config = TrialConfig(
        learning_rate=1e-4 * (1 + number), steps=30, method=spec.methods[0],
        evaluate_at=(1, 3, 9, 30),
    )  # fmt: skip
    known = [
        {
            "update": update,
            "forget_nll": TARGET - gap,
            "score_selection": gap,
            "forget_gap_selection": gap,
            "utility_loss_selection": kl,
            "general_kl_selection": kl,
        }
        for update, (gap, kl) in rows.items()
    ]
    return finished(number, config, known, status)


def bounded(scheduler: str = "none", free: bool = True, **more: Any) -> StudySpec:
    spaces = space() if free else space(steps=SAMPLED_STEPS, schedule="linear")
    return study(spaces, scheduler={"type": scheduler, **more}, objective=CONSTRAINED)


def test_samplers_are_told_how_far_each_constraint_is_from_its_bound() -> None:
    spec = bounded()
    rule = ScoreRule(spec, {})
    inside = as_optuna_trial(trial_of(spec, 0, {9: (0.5, 0.01)}, "complete"), rule, {})
    outside = as_optuna_trial(trial_of(spec, 1, {9: (0.1, 0.1)}, "complete"), rule, {})
    diverged = as_optuna_trial(trial_of(spec, 2, {}, "diverged"), rule, {})
    failed = as_optuna_trial(trial_of(spec, 3, {}, "failed"), rule, {})
    key = "general_kl <= 0.05"
    assert inside.constraints[key] == pytest.approx(math.asinh(-0.8))
    assert outside.constraints[key] == pytest.approx(math.asinh(1.0))
    assert (inside.values, outside.values) == ([0.5], [0.1])
    assert diverged.constraints == {key: FAR_OUTSIDE}
    assert failed.constraints == {}
    past = with_values_for_gp([inside, outside, diverged], ["minimize"])
    assert [trial.constraints[key] for trial in past][1:] == [
        pytest.approx(math.asinh(1.0)),
        LEAST_OUTSIDE,
    ]
    assert past[2].values == [0.5], "the worst score of all"


def test_of_older_trials_only_feasible_ones_count_as_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_unlearn.execution.samplers.LAST", 1)
    monkeypatch.setattr("ray_unlearn.execution.samplers.BEST", 1)
    spec = bounded()
    rule = ScoreRule(spec, {})
    gaps = [(0.1, 1.0), (0.9, 0.01), (0.5, 0.01), (0.3, 0.02)]
    past = [
        as_optuna_trial(trial_of(spec, n, {9: pair}, "complete"), rule, {})
        for n, pair in enumerate(gaps)
    ]
    assert [trial.number for trial in in_view(past, ["minimize"])] == [2, 3]


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_early_stopping_keeps_a_feasible_trial_before_a_better_one_outside(scheduler: str) -> None:
    spec = bounded(scheduler, free=False, grace_updates=3)
    others = [trial_of(spec, n, {3: (0.1, 0.1 * (n + 1))}, "complete") for n in range(4)]
    ledger = record(spec, *others)
    for number, row, stops in (
        (8, (2.0, 0.01), False),  # the only feasible one, with the worst score
        (9, (0.0, 0.9), True),  # the best score, and the furthest outside
    ):
        ledger.trials[number] = trial_of(spec, number, {1: (3.0, 3.0), 3: row}, None)
        verdict = Pruner(spec).verdict(ledger, number, ledger.trials[number].rows[-1])
        assert (verdict is not None) == stops
        if verdict is not None:
            assert "violation" in verdict
        del ledger.trials[number]


def test_a_trial_is_past_its_best_only_with_a_feasible_row() -> None:
    spec = bounded("past_best")

    def verdict(*rows: tuple[float, float]) -> str | None:
        ledger = record(spec, trial_of(spec, 0, dict(zip((1, 3, 9), rows, strict=True)), None))
        for row in ledger.trials[0].rows[1:]:
            row["forget_nll"] = TARGET + 1  # type: ignore[index]
        return Pruner(spec).verdict(ledger, 0, ledger.trials[0].rows[-1])

    assert verdict((0.5, 0.2), (0.6, 0.3), (0.7, 0.4)) is None
    said = verdict((0.5, 0.01), (0.1, 0.3), (0.0, 0.4))
    assert said == "past its best: score 0.5 at update 1, violation 7 and rising now"


@pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
def test_two_objectives_take_constraints_too(sampler: str) -> None:
    objective = {"subject_to": {"general_kl": BOUND}}
    spec = study(
        space(MIXED, w_r=W_R), sampler=sampler, trials_per_method=40, quasi_random_share=0.25,
        pareto=True, objective=objective, trial_seeds=[0],
    )  # fmt: skip
    assert feasible_share(searched(spec)[20:]) > 0.3


# A whole study


def constrained_study(**changes: Any) -> StudySpec:
    """The in-process study, whose harm to retain text must stay below 0.01 nats."""
    return small_study(
        objective={"minimise": "forget_gap", "subject_to": {"retain_nll": 1.01}}, **changes
    )


def test_a_whole_study_keeps_to_its_constraints_from_search_to_table(tmp_path: Path) -> None:
    simulated = InProcess(tmp_path, constrained_study())
    simulated.session()
    spec, ledger = open_study(tmp_path)
    rule = ScoreRule.of(ledger, spec)
    best = rule.best(ledger)
    assert best is not None
    rows = [row for trial in ledger.finished for row in rule.configuration_rows(trial)]
    feasible = [row for row in rows if row["retain_nll_selection"] <= 1.01]
    assert 0 < len(feasible) < len(rows)
    assert best[1]["forget_gap_selection"] == min(r["forget_gap_selection"] for r in feasible)
    assert min(row["forget_gap_selection"] for row in rows) < best[1]["forget_gap_selection"], (
        "else the constraint decided nothing"
    )
    kept = ledger.best_weights
    assert kept is not None
    assert (kept.number, kept.update) == (best[0].number, best[1]["update"])
    stand_in = "no whole safetensors file"  # weights are a few words here
    assert [one for one in verify(tmp_path).problems if stand_in not in one] == []
    table = result_table(ledger)
    assert table.column_names[-len(OBJECTIVE_COLUMNS) :] == list(OBJECTIVE_COLUMNS)
    lines = table.to_pylist()
    assert all(line["feasible"] for line in lines if line["candidate"])
    assert {line["objective"] for line in lines} == {
        "minimise: forget_gap, subject_to: {retain_nll: 1.01}"
    }
    said = status(tmp_path).feasible
    able = sum(rule.row(trial) is not None for trial in ledger.finished)
    assert said == f"{able} of 12 trials within the constraints"


def test_a_resumed_study_asks_for_what_the_uninterrupted_one_asked_for(tmp_path: Path) -> None:
    spec = constrained_study(sampler="tpe", trials_per_method=9, quasi_random_share=0.4)
    whole = InProcess(tmp_path / "whole", spec)
    whole.session()
    assert whole.record is not None
    for known in (3, 11):
        part = Record(whole.record.header, dict(whole.record.baselines))
        part.trials = {n: t for n, t in whole.record.trials.items() if n < known}
        search = Search(spec, "c", part.baselines)
        search.replay(part)
        again = search.ask(known)
        assert again is not None
        assert again.id == whole.record.trials[known].trial_id


def test_the_journal_shows_optuna_what_is_feasible(tmp_path: Path) -> None:
    spec = bounded()
    ledger = record(
        spec,
        trial_of(spec, 0, {9: (0.1, 0.2)}, "complete"),
        trial_of(spec, 1, {9: (0.5, 0.01)}, "complete"),
    )
    export_journal(ledger, spec, tmp_path / "journal")
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal"))
    )
    shown = optuna.load_study(study_name="test/gradient_ascent", storage=storage)
    assert shown.best_trial.number == 1, "the only feasible one"
    attributes = [trial.user_attrs for trial in shown.trials]
    assert [a["feasible"] for a in attributes] == [False, True]
    assert attributes[0]["outside"] == "general_kl 0.2 is above 0.05 by 0.15"


def test_a_study_without_feasible_trials_says_which_is_nearest(tmp_path: Path) -> None:
    impossible = {"minimise": "forget_gap", "subject_to": {"retain_nll": 0.9}}
    simulated = InProcess(tmp_path, small_study(objective=impossible))
    simulated.session()
    found = status(tmp_path)
    assert found.best == []
    assert found.feasible.startswith("none of 12 trials is within the constraints; nearest is")
    assert "is above 0.9 by 0.1" in found.feasible
    assert verify(tmp_path).problems == []


def test_a_metric_that_a_method_never_measures_is_said_so_once(tmp_path: Path) -> None:
    simulated = InProcess(tmp_path, small_study(objective={"minimise": "retain_loss"}))
    simulated.session()
    _, ledger = open_study(tmp_path)
    said = [note for note in ledger.notes if "retain_loss" in note]
    assert len(said) == 2, "one of each method"
    assert said[0].startswith("rows of gradient_ascent have no `retain_loss`")
    assert status(tmp_path).best == []


def test_the_trials_of_a_study_say_which_are_feasible(tmp_path: Path) -> None:
    simulated = InProcess(tmp_path, constrained_study())
    simulated.session()
    write_spec(tmp_path / SPEC_FILE, simulated.spec)
    spec, ledger = open_study(tmp_path)
    rule = ScoreRule.of(ledger, spec)
    for line, trial in zip(taken(tmp_path).trials.to_pylist(), ledger.finished, strict=True):
        assert line["feasible"] == (rule.row(trial) is not None)
        assert line["outside"] == rule.outside(trial)


def test_verify_finds_a_score_that_is_not_its_rows_own(tmp_path: Path) -> None:
    simulated = InProcess(tmp_path, small_study())
    simulated.session()
    _, ledger = open_study(tmp_path)
    header = tmp_path / "ledger" / "events.jsonl"
    first, _, rest = header.read_bytes().partition(b"\n")
    changed = json.loads(first)
    assert "subject_to" not in changed["spec"]["objective"], "written as before"
    assert rest
    ledger.header.spec["objective"]["minimise"] = "retain_nll"
    problems = list(score_problems(ledger))
    assert len(problems) == sum(len(trial.rows) for trial in ledger.trials.values())
    assert problems[0].startswith("I7: trial 0, update 1: score_selection is")
