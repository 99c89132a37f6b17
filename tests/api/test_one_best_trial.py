"""Whoever asks for the best trial of a method gets the same one, wherever they ask.

A page that praises one trial while `export` writes another costs a user the model they wanted.
"""

import csv
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import ray_unlearn as ru
from ray_unlearn.execution.confirm import confirming_spec
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.score import ScoreRule
from ray_unlearn.store.status import open_study, status
from ray_unlearn.unlearn.trial_model import chosen_for_export

sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))
from planted import VANILLA_PPL, demo_spec, plant

Best = dict[str, tuple[int, int]]
"""By method: number of the best trial, and the update that scores it."""

FEWEST_STEPS = 1  # of the planted study, whose steps are free


def with_rule(spec: StudySpec, rule: str) -> StudySpec:
    return spec.model_copy(
        update={"objective": spec.objective.model_copy(update={"score_rule": rule})}
    )


def expected(folder: Path, rule: str) -> Best:
    """The definition of docs/glossary.md over the lines of the ledger, without any code of ours."""
    trials: dict[int, dict[str, Any]] = {}
    for line in (folder / "ledger" / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        match event["kind"]:
            case "trial":
                trials[event["number"]] = {"method": event["config"]["method"], "rows": []}
            case "row":
                metrics = event["metrics"] | event["more"] | {"update": event["update"]}
                trials[event["number"]]["rows"].append(metrics)
            case "outcome":
                trials[event["number"]]["status"] = event["status"]
    target = math.log(VANILLA_PPL["approximate"])
    found: dict[str, tuple[float, int, int]] = {}
    for number, trial in trials.items():
        rows = [row for row in trial["rows"] if row["update"] >= FEWEST_STEPS]
        if trial["status"] not in ("complete", "pruned") or not rows:
            continue
        if rule == "best_row":
            row = min(rows, key=lambda row: (row["score_selection"], row["update"]))
        else:
            row = next((row for row in rows if row["forget_nll"] >= target), rows[-1])
        candidate = (row["score_selection"], number, row["update"])
        found[trial["method"]] = min(candidate, found.get(trial["method"], candidate))
    return {method: (number, update) for method, (_, number, update) in found.items()}


def as_search_and_confirm_see_it(folder: Path) -> Best:
    spec, record = open_study(folder)
    top = ScoreRule.of(record, spec).top(record, 1, per_method=True)
    again = confirming_spec(spec, record, top, 2, "confirm")
    for configuration in top:
        (point,) = again.search.points[configuration.trial.method]
        assert point["steps"] == configuration.row["update"]
        assert point["learning_rate"] == configuration.trial.config["learning_rate"]
    return {c.trial.method: (c.trial.number, c.row["update"]) for c in top}


def as_status_shows_it(folder: Path) -> Best:
    return {best.method: (best.number, best.update) for best in status(folder).best}


def as_the_api_gives_it(folder: Path) -> Best:
    study = ru.open(folder)
    methods = {method: study.best_of(method) for method in study.spec.methods}
    scored = study.rows[study.rows["scored"]].sort_values(["score_selection", "number"])
    for method, line in scored.drop_duplicates("method").set_index("method").iterrows():
        assert (line["number"], line["update"]) == (methods[method].number, methods[method].update)
    return {method: (best.number, best.update) for method, best in methods.items()}


def as_guidelines_tell_it(folder: Path) -> Best:
    return {
        best.method: (best.number, int(best.update))
        for best in ru.guidelines(folder).file.best_trials
    }


@pytest.mark.parametrize("rule", ["best_row", "stop_rule"])
@pytest.mark.parametrize("seed", range(3))
def test_every_surface_names_the_same_best_trial_of_each_method(
    tmp_path: Path, rule: str, seed: int
) -> None:
    spec = with_rule(demo_spec(trials_per_method=4), rule)
    folder = plant(tmp_path / "study", trials=4, seed=seed, spec=spec)
    wanted = expected(folder, rule)
    assert set(wanted) == set(spec.methods)
    assert as_search_and_confirm_see_it(folder) == wanted
    assert as_status_shows_it(folder) == wanted
    assert as_the_api_gives_it(folder) == wanted
    assert as_guidelines_tell_it(folder) == wanted
    assert ru.open(folder).best.score_rule == status(folder).score_rule == rule
    assert ru.guidelines(folder).file.score.score_rule == rule

    _, record = open_study(folder)
    trial, (update, strength) = chosen_for_export(spec, record, "best")
    assert strength == 1.0
    best = ru.open(folder).best
    assert (trial.number, update) == (best.number, best.update) == wanted[best.method]


def test_the_rules_differ_on_these_tables(tmp_path: Path) -> None:
    """Otherwise the test above could not tell them apart."""
    folder = plant(tmp_path / "study", trials=4)
    assert expected(folder, "best_row") != expected(folder, "stop_rule")


def test_the_page_and_its_tables_name_that_trial(tmp_path: Path) -> None:
    folder = plant(tmp_path / "study", trials=4)
    wanted = expected(folder, "best_row")
    ru.report(folder, out=tmp_path / "report")
    lines = list(csv.DictReader((tmp_path / "report" / "data" / "trials.csv").open()))
    scored = sorted(
        (line for line in lines if line["score_selection"]),
        key=lambda line: (float(line["score_selection"]), float(line["number"])),
    )
    told: Best = {}
    for line in scored:
        told.setdefault(line["method"], (int(float(line["number"])), int(float(line["update"]))))
    assert told == wanted

    page = (tmp_path / "report" / "report.md").read_text()
    for method, (number, update) in wanted.items():
        cells = rf"\|[^\n]*\| *{update} *\|[^\n]*\| *{number} *\|"
        assert re.search(rf"\n\| *`?{method}`? *{cells}", page), (method, number, update)
