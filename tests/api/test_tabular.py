"""The tabular benchmark as users read it."""

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest

from ray_unlearn.spec.errors import UserError
from ray_unlearn.tabular import (
    FACTS,
    MethodTable,
    TabularBlackbox,
    TabularProblem,
    load_facts,
    load_table,
)

REPOSITORY = Path(__file__).parents[2]
SAMPLE = REPOSITORY / "tests/fixtures/tabular"
METHOD = "ascent_kl_in_distribution"
# learning rate, w_r, then by update: forget NLL, score, accuracy. Configuration 2 diverges after 1.
CONFIGURATIONS = [
    (1e-4, 1.0, {1: (3.0, 0.9, 0.2), 2: (3.5, 0.4, 0.3), 4: (4.0, 0.6, 0.1)}),
    (1e-3, 4.0, {1: (3.2, 0.8, 0.4), 2: (3.6, 0.7, 0.5), 4: (3.9, 0.2, 0.6)}),
    (1e-2, 1.0, {1: (9.0, 5.0, 0.0)}),
]


def written(folder: Path, lines: list[dict[str, Any]], **about: Any) -> Path:
    """A table of one domain, `toy`, with one method."""
    pd.DataFrame(lines).to_parquet(folder / "toy.parquet")
    log = {"type": "float", "scale": "log"}
    space = {"learning_rate": log | {"low": 1e-4, "high": 1e-2}, "w_r": log | {"low": 1, "high": 4}}
    sha256 = hashlib.sha256((folder / "toy.parquet").read_bytes()).hexdigest()
    file = {"domain": "toy", "sha256": sha256, "updates": [1, 2, 4], "models": {"0": {}},
            "methods": {METHOD: {"space": space}}}  # fmt: skip
    senses = {"forget_nll": "none", "score_selection": "minimize", "retain_accuracy": "maximize",
              "wall_s": "minimize", "evaluation_wall_s": "minimize"}  # fmt: skip
    columns = {name: {"unit": "1", "direction": sense} for name, sense in senses.items()}
    facts = {"version": 1, "files": {"toy": file}, "columns": columns} | about
    (folder / FACTS).write_text(json.dumps(facts))
    return folder


def lines_of(seed: int = 0) -> list[dict[str, Any]]:
    return [
        {"domain": "toy", "trained_model": 0, "method": METHOD, "configuration": number,
         "seed": seed, "status": "complete" if len(curve) == 3 else "diverged",
         "learning_rate": rate, "w_r": w_r, "update": update, "strength": 1.0, "forget_nll": nll,
         "score_selection": score + seed, "retain_accuracy": accuracy, "wall_s": update * 0.5,
         "evaluation_wall_s": 2.0 * place}
        for number, (rate, w_r, curve) in enumerate(CONFIGURATIONS)
        for place, (update, (nll, score, accuracy)) in enumerate(curve.items(), start=1)
    ]  # fmt: skip


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return written(tmp_path, lines_of())


# -- rows ------------------------------------------------------------------------------------------


def test_perplexities_that_the_file_leaves_out_are_there(toy: Path) -> None:
    rows = load_table(toy)
    assert len(rows) == 7
    np.testing.assert_allclose(rows["forget_ppl"], np.exp(rows["forget_nll"]))


def test_a_damaged_file_is_refused(toy: Path) -> None:
    content = bytearray((toy / "toy.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (toy / "toy.parquet").write_bytes(content)
    with pytest.raises(UserError, match="checksum"):
        load_table(toy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 9}, "version 9"),
        ({"files": []}, "`files` is missing"),
        ({"files": {"toy": 3}}, "`files` is missing"),
        ({"files": {"../toy": {}}}, "no name of a file"),
        ({"files": {}}, "no files yet"),
    ],
)
def test_a_table_that_is_none_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        load_table(written(tmp_path, lines_of(), **change))


def test_a_table_whose_facts_have_other_types_is_refused(tmp_path: Path) -> None:
    facts = json.loads((written(tmp_path, lines_of()) / FACTS).read_text())
    facts["files"]["toy"]["methods"][METHOD]["space"]["w_r"]["low"] = "1"
    (tmp_path / FACTS).write_text(json.dumps(facts))
    with pytest.raises(UserError, match="is damaged"):
        MethodTable(tmp_path, "toy", METHOD)


def test_a_wrong_name_is_answered_by_the_right_one(toy: Path) -> None:
    with pytest.raises(UserError, match=r"table\.json"):
        load_table(toy / "nowhere")
    with pytest.raises(UserError, match="did you mean 'toy'"):
        load_table(toy, "toi")
    with pytest.raises(UserError, match="no domain 'latex'"):
        MethodTable(toy, "latex", METHOD)
    with pytest.raises(UserError, match=f"did you mean '{METHOD}'"):
        MethodTable(toy, "toy", "ascent_kl_in_distributions")
    with pytest.raises(UserError, match=r"trained_model 1: the table has \[0\]"):
        MethodTable(toy, "toy", METHOD, 1)
    with pytest.raises(UserError, match=r"seed 3: the table has \[0\]"):
        MethodTable(toy, "toy", METHOD, seed=3)


def test_reading_loads_neither_torch_nor_ray() -> None:
    """A laptop with pandas is enough to use the benchmark."""
    heavy = ("torch", "ray", "transformers", "pydantic", "optuna", "syne_tune")
    code = f"import sys, ray_unlearn.tabular; print([n for n in {heavy} if n in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


# -- configurations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "number"),
    [
        ({"learning_rate": 1e-4, "w_r": 1.0}, 0),
        ({"learning_rate": 1e-3, "w_r": 4.0}, 1),
        # On log scales (0.25, 0.3) is 0.39 from configuration 0 at (0, 0), 0.74 from 1 at (0.5, 1);
        # on linear ones it would be nearer to 2 than to 1.
        ({"learning_rate": 3.16e-4, "w_r": 1.52}, 0),
        ({"learning_rate": 4e-3, "w_r": 1.3, "batch_size": 4}, 2),
    ],
)
def test_the_nearest_configuration_is_found_on_the_scales_of_the_search(
    toy: Path, point: dict[str, float], number: int
) -> None:
    assert MethodTable(toy, "toy", METHOD).nearest(point) == number


def test_a_point_without_a_value_is_refused(toy: Path) -> None:
    with pytest.raises(UserError, match="needs 'w_r'"):
        MethodTable(toy, "toy", METHOD).nearest({"learning_rate": 1e-3})


def test_another_choice_is_further_than_any_near_value(tmp_path: Path) -> None:
    """Choices have no order: the second is as far from the first as the third."""
    lines = [{"kind": "bac"[line["configuration"]]} | line for line in lines_of()]
    facts = json.loads((written(tmp_path, lines) / FACTS).read_text())
    space = {"kind": {"type": "choice", "choices": ["a", "b", "c"]}}
    facts["files"]["toy"]["methods"][METHOD]["space"] |= space
    (tmp_path / FACTS).write_text(json.dumps(facts))
    table = MethodTable(tmp_path, "toy", METHOD)
    # From a at (1, 0): 1 to configuration 2 (c), 1.12 to 1 (a, at (0.5, 1)), 1.41 to 0 (b).
    assert table.nearest({"learning_rate": 1e-2, "w_r": 1.0, "kind": "a"}) == 2
    assert table.nearest({"learning_rate": 1e-4, "w_r": 1.0, "kind": "c"}) == 0
    assert table.nearest({"learning_rate": 1e-3, "w_r": 1.1, "kind": "c"}) == 2


def test_what_a_diverged_trial_never_had_is_infinitely_bad_and_costs_nothing(toy: Path) -> None:
    curve = MethodTable(toy, "toy", METHOD).curve(2)
    assert curve["score_selection"].tolist() == [5.0, math.inf, math.inf]
    assert curve["retain_accuracy"].tolist() == [0.0, -math.inf, -math.inf]
    assert curve["forget_nll"].isna().tolist() == [False, True, True]
    assert curve["elapsed_s"].tolist() == [2.5, 2.5, 2.5]


def test_what_the_nearest_answer_costs_is_measured_on_left_out_configurations(toy: Path) -> None:
    # Best scores 0.4, 0.2 and 5.0. In the unit square 0 is at (0, 0), 1 at (0.5, 1), 2 at (1, 0):
    # 0 and 2 are 1 apart, 1 is 1.118 from both, and the first of equals is taken.
    errors = MethodTable(toy, "toy", METHOD).left_out_errors()
    np.testing.assert_allclose(errors, [4.6, 0.2, 4.6])


# -- Optuna ----------------------------------------------------------------------------------------


def test_a_problem_answers_with_the_best_row_of_free_steps(toy: Path) -> None:
    problem = TabularProblem(toy, "toy", METHOD)
    assert problem.evaluate({"learning_rate": 1e-4, "w_r": 1.0}) == 0.4
    assert problem.evaluate({"learning_rate": 1e-3, "w_r": 4.0}) == 0.2
    assert problem.directions == [optuna.study.StudyDirection.MINIMIZE]
    real = optuna.distributions.FloatDistribution
    searched = {"learning_rate": real(1e-4, 1e-2, log=True), "w_r": real(1, 4, log=True)}
    assert problem.search_space == searched


def test_a_column_to_be_maximised_is(toy: Path) -> None:
    problem = TabularProblem(toy, "toy", METHOD, objectives=["retain_accuracy"])
    assert problem.directions == [optuna.study.StudyDirection.MAXIMIZE]
    assert problem.evaluate({"learning_rate": 1e-3, "w_r": 4.0}) == 0.6


def test_several_objectives_are_those_of_one_update(toy: Path) -> None:
    several = ("score_selection", "retain_accuracy")
    problem = TabularProblem(toy, "toy", METHOD, objectives=several, update=2)
    assert problem.evaluate({"learning_rate": 1e-3, "w_r": 4.0}) == [0.7, 0.5]
    assert problem.evaluate({"learning_rate": 1e-2, "w_r": 1.0}) == [math.inf, -math.inf]
    study = optuna.create_study(directions=problem.directions)
    study.optimize(problem, n_trials=3)
    assert len(study.trials) == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"objectives": ("forget_nll",)}, "no direction"),
        ({"objectives": ("scores_selection",)}, "did you mean"),
        ({"objectives": ("score_selection", "retain_accuracy")}, "give `update`"),
        ({"update": 3}, r"has \[1, 2, 4\]"),
        ({"update": 2, "prune": True}, "whole curve"),
    ],
)
def test_a_problem_that_is_none_is_refused(toy: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        TabularProblem(toy, "toy", METHOD, **given)


def test_a_study_of_optuna_finds_the_best_configuration(toy: Path) -> None:
    problem = TabularProblem(toy, "toy", METHOD)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(problem, n_trials=20)
    assert study.best_value == 0.2
    assert study.best_trial.user_attrs["configuration"] == 1
    assert {t.state.name for t in study.trials} == {"COMPLETE"}, "also those that diverged"


def test_a_pruner_sees_each_update_and_stops_a_trial(toy: Path) -> None:
    problem = TabularProblem(toy, "toy", METHOD, prune=True)
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=0.95))
    study.enqueue_trial({"learning_rate": 1e-2, "w_r": 1.0})
    study.enqueue_trial({"learning_rate": 1e-4, "w_r": 1.0})
    study.optimize(problem, n_trials=2)
    first, second = study.trials
    assert (first.state.name, first.intermediate_values) == ("PRUNED", {1: 5.0})
    best_so_far = {1: 0.9, 2: 0.4, 4: 0.4}
    assert (second.state.name, second.intermediate_values) == ("COMPLETE", best_so_far)


# -- Syne Tune -------------------------------------------------------------------------------------


def test_a_blackbox_gives_one_update_or_all(toy: Path) -> None:
    box = TabularBlackbox(toy, "toy", METHOD)
    point = {"learning_rate": 1e-3, "w_r": 4.0}
    one = box.objective_function(point, 2)
    assert one["score_selection"] == 0.7
    assert one["elapsed_s"] == 2 * 0.5 + 2 * 2.0
    assert box(point, {"update": 2}) == one
    every = box(point, seed=0)
    assert every.shape == (3, len(box.objectives_names))
    assert every[1].tolist() == list(one.values())
    assert box.fidelity_values.tolist() == [1, 2, 4]
    assert box.fidelity_name() == "update"


def test_a_blackbox_refuses_what_it_does_not_know(toy: Path) -> None:
    box, point = TabularBlackbox(toy, "toy", METHOD), {"learning_rate": 1e-3, "w_r": 4.0}
    with pytest.raises(UserError, match=r"update 3: the table has \[1, 2, 4\]"):
        box(point, 3)
    with pytest.raises(UserError, match="'beta' was not searched"):
        box(point | {"beta": 1.0}, 2)
    with pytest.raises(UserError, match="seed 5"):
        box(point, 2, seed=5)


def test_seeds_are_not_mixed(tmp_path: Path) -> None:
    written(tmp_path, lines_of() + lines_of(seed=1)[:3])
    first, second = (TabularBlackbox(tmp_path, "toy", METHOD, seed=seed) for seed in (0, 1))
    point = {"learning_rate": 1e-4, "w_r": 1.0}
    assert (first(point, 2)["score_selection"], second(point, 2)["score_selection"]) == (0.4, 1.4)
    assert len(second.table.configurations) == 1


# -- the sample ------------------------------------------------------------------------------------


def test_the_sample_is_whole_and_says_what_it_is() -> None:
    facts, rows = load_facts(SAMPLE), load_table(SAMPLE)
    (file,) = facts["files"].values()
    assert len(rows) == file["rows"]
    assert set(rows.columns[rows.columns.get_loc("update") :]) <= set(facts["columns"])
    assert rows["update"].isin(file["updates"]).all()
    vanilla = file["models"]["0"]["baselines"]["vanilla"]
    gaps = rows["forget_nll"] - vanilla["approximate_nll_selection"]
    np.testing.assert_allclose(rows["forget_gap_selection"], gaps.abs(), atol=1e-4)
