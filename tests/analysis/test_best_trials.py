"""One best trial of each method, whoever names it: page, guidelines.json, trials.csv, ledger."""

import json
import math
import random
import re
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
from planted import baselines, demo_spec, quick_ledger, row_of, write_trial

from ray_unlearn.analysis.best_trials import best_of_each
from ray_unlearn.analysis.read.study_results import load
from ray_unlearn.analysis.report.verdict import verdict
from ray_unlearn.analysis.report.write import write_report
from ray_unlearn.analysis.trials import trial_table
from ray_unlearn.spec.objective_spec import ScoreRuleName
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.event import BaselineMeasured
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.schema import HALVES, Row
from ray_unlearn.store.score import ScoreRule

METHODS = ("gradient_ascent", "ascent_kl_general", "random_labels")
RULES = get_args(ScoreRuleName)
STATUSES = ("complete",) * 4 + ("pruned", "diverged", "failed", "out_of_memory", "running")


def random_row(draw: random.Random) -> Row:
    """A row on a coarse grid, so that trials tie; some are not finite."""
    nll = {"forget": 3.6 + draw.choice((0.0, 0.4, 0.8))}
    broken = draw.random() < 0.1
    for name in ("approximate", "retain", "general"):
        for half in HALVES:
            rise = math.inf if broken else draw.choice((0.0, 0.2))
            nll[f"{name}_{half}"] = 3.6 + rise
    return scored(row_of(nll, 0.6), Baselines(baselines()["vanilla"]))


def random_study(folder: Path, seed: int, rule: ScoreRuleName) -> tuple[Path, StudySpec]:
    """Trials of all outcomes with random rows; one method may have no result at all."""
    draw = random.Random(seed)
    spec = demo_spec(trials_per_method=7).model_copy(update={"methods": METHODS})
    objective = spec.objective.model_copy(update={"score_rule": rule})
    spec = spec.model_copy(update={"objective": objective})
    with quick_ledger(folder, spec) as ledger:
        ledger.append(BaselineMeasured(name="vanilla", metrics=baselines()["vanilla"]))
        for index in range(21):
            method = METHODS[index % 3]
            chosen = {"learning_rate": 1e-4 * (1 + draw.random())}
            if method == "ascent_kl_general":
                chosen["w_r"] = 1 + draw.random()
            status = "failed" if index % 3 == 2 and seed % 2 else draw.choice(STATUSES)
            updates = spec.evaluation.updates(40)[: draw.randint(1, 6)]
            rows = {update: random_row(draw) for update in updates}
            write_trial(ledger, spec, method, chosen, rows, status=status)
    return folder, spec


Named = dict[str, tuple[int, int]]
"""Trial number and update, by method."""


def named_by_the_ledger(study: Path, spec: StudySpec) -> Named:
    record = read_ledger(study / "ledger")
    rule = ScoreRule.of(record, spec)
    found = {method: rule.best(record, method) for method in spec.methods}
    return {m: (pair[0].number, pair[1]["update"]) for m, pair in found.items() if pair is not None}


@pytest.mark.parametrize("rule", RULES)
def test_verdict_and_trial_table_name_the_trials_that_the_ledger_names(
    tmp_path: Path, rule: ScoreRuleName
) -> None:
    """A winner on the page that is the worst trial of its method in a table costs all trust."""
    ties = 0
    for seed in range(8):
        study, spec = random_study(tmp_path / f"{seed}", seed, rule)
        expected = named_by_the_ledger(study, spec)
        results = load([study])
        table = verdict(results.studies[0]).dropna(subset="number").set_index("method")
        assert {m: (line["number"], line["update"]) for m, line in table.iterrows()} == expected
        trials = trial_table(results, tolerance=0.1)
        best = best_of_each(trials.trials).set_index("method")
        assert {m: (line["number"], line["update"]) for m, line in best.iterrows()} == expected
        assert best["score"].to_dict() == table["score_reporting"].to_dict()
        assert trials.score.score_rule == results.studies[0].score_rule == rule
        lowest = trials.trials.groupby("method")["score_selection"]
        ties += sum(int((own == own.min()).sum() > 1) for _, own in lowest)
    assert ties >= 3, "the hard cases are among them"


@pytest.mark.parametrize("rule", RULES)
def test_page_and_files_of_a_report_name_one_best_trial_and_its_rule(
    tmp_path: Path, rule: ScoreRuleName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ray_unlearn.analysis.report.report_files.drawn", lambda _: ("<svg></svg>", b"", 100)
    )
    study, spec = random_study(tmp_path / "s", 4, rule)
    write_report([study], tmp_path / "out")
    expected = named_by_the_ledger(study, spec)
    assert len(expected) == 3
    page = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    chosen = page[page.index("*The chosen configurations.*") :].split("\n\n")[1].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in chosen]
    assert {c[0].strip("`"): (int(c[4]), int(c[2])) for c in cells} == expected
    best = json.loads((tmp_path / "out" / "guidelines.json").read_text())["best_trials"]
    assert {b["method"]: (b["number"], int(b["update"])) for b in best} == expected
    trials = pd.read_csv(tmp_path / "out" / "data" / "trials.csv")
    first = trials.sort_values(["score_selection", "trial"]).groupby("method").first()
    assert {
        str(m): (line["number"], int(line["update"])) for m, line in first.iterrows()
    } == expected
    assert [trials["score"][b["trial"]] for b in best] == [b["score"] for b in best]
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"by the score rule <code>{rule}</code>" in html
    assert re.search(rf"<dt>Score rule</dt><dd><code>{rule}</code>: a trial is scored at", html)
