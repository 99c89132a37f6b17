"""A user's own weights after the fact: all trials are scored again from the parts of their scores,
as if they had been searched with them, and the page says that they were not."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from planted import VANILLA_PPL, baselines, demo_spec, quick_ledger, row_of, write_trial

from ray_unlearn.analysis.read.study_results import load
from ray_unlearn.analysis.report.derive import derive_guidelines
from ray_unlearn.analysis.report.write import write_report
from ray_unlearn.analysis.trials import TrialTable, trial_table
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.guideline_file import load_guidelines
from ray_unlearn.spec.narrowing import narrowed
from ray_unlearn.spec.objective_spec import ObjectiveSpec
from ray_unlearn.spec.score_weights import parse_weights, weights_of
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.event import BaselineMeasured
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.schema import Row
from ray_unlearn.store.table import baseline_table, result_table, write_table

METHOD = "ascent_descent_general"
NLLS = {name: math.log(ppl) for name, ppl in VANILLA_PPL.items()}
GAP = NLLS["approximate"] - NLLS["forget"]
PARTS = (
    {6: (0.1, 0.0, 0.3), 10: (0.4, 0.0, 0.0)},
    {6: (0.2, 0.2, -0.1), 10: (0.0, 0.0, 0.8)},
)
"""Of two trials at two updates: forget gap, rise of the retain and of the general NLL (selection
half; on the reporting half all rises are 0.02 more). With equal weights the scores on the selection
half are 0.25 and 0.40, 0.30 and 0.40; with three times the general weight 0.55 and 0.40, 0.30 and
1.20."""


def row(gap: float, retain: float, general: float, objective: ObjectiveSpec) -> Row:
    nll = {"forget": NLLS["approximate"] - gap, "approximate": NLLS["approximate"]}
    for half, more in (("selection", 0.0), ("reporting", 0.02)):
        nll[f"retain_{half}"] = NLLS["retain"] + retain + more
        nll[f"general_{half}"] = NLLS["general"] + general + more
    known = Baselines(baselines()["vanilla"])
    return scored(row_of(nll, auc=0.5), known, objective.weights)


def spec_of(name: str, **objective: Any) -> StudySpec:
    spec = demo_spec(trials_per_method=2, quasi_random_share=0.5)
    space = {METHOD: spec.spaces[METHOD]}
    known = {"name": name, "methods": (METHOD,), "spaces": space}
    return spec.model_copy(update=known | {"objective": ObjectiveSpec(**objective)})


def plant(folder: Path, reason: str = "", **objective: Any) -> Path:
    """The two trials as a study that searched with weights; the second is adaptive."""
    spec = spec_of(folder.name, **objective)
    with quick_ledger(folder, spec) as ledger:
        for i, shift in enumerate((0.0, 0.06, 0.12)):
            model = dict(baselines()["exact_retrain"])
            model |= {key: v + shift for key, v in model.items() if key.startswith("general_nll")}
            name = "exact_retrain" if i == 0 else f"exact_retrain_{i + 1}"
            ledger.append(BaselineMeasured(name=name, metrics=model))
        ledger.append(BaselineMeasured(name="vanilla", metrics=baselines()["vanilla"]))
        for rate, parts in zip((2e-4, 4e-4), PARTS, strict=True):
            rows = {update: row(*values, spec.objective) for update, values in parts.items()}
            status = {"status": "pruned", "reason": reason} if reason and rate == 4e-4 else {}
            write_trial(ledger, spec, METHOD, {"learning_rate": rate, "w_r": 1.0}, rows, **status)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("weights") / "one")


def scores(table: TrialTable) -> list[tuple[float, float, float]]:
    """Update, score on the selection and on the reporting half of each trial."""
    columns = ["update", "score_selection", "score"]
    return [tuple(map(float, line)) for line in table.trials[columns].to_numpy()]


def close(*lines: tuple[float, float, float]) -> list[Any]:
    return [pytest.approx(line) for line in lines]


def test_trials_are_scored_again_at_the_rows_that_are_best_now(study: Path) -> None:
    assert scores(trial_table(load([study]))) == close((6, 0.25, 0.27), (6, 0.3, 0.31))
    results = load([study], objective={"general": 3})
    table = trial_table(results)
    assert scores(table) == close((10, 0.4, 0.44), (6, 0.3, 0.31))
    assert table.score.weights == weights_of({"general": 3})
    assert table.nothing == pytest.approx({"Shakespeare scenes": GAP})
    ((sd, source),) = {(table.score.tolerance, table.score.tolerance_source)}
    assert sd == pytest.approx(3 * 0.06 / 2), "the retrained models' spread, by these weights"
    assert "3 models retrained" in source
    gaps = load([study], objective={"forget_gap": 2, "retain": 0.5, "general": 0})
    assert scores(trial_table(gaps)) == close((6, 0.2, 0.205), (10, 0.0, 0.005))
    assert trial_table(gaps).nothing == pytest.approx({"Shakespeare scenes": 2 * GAP})


def test_the_stopping_rule_takes_the_same_rows_whatever_the_weights(tmp_path: Path) -> None:
    stopped = plant(tmp_path / "stopped", score_rule="stop_rule")
    table = trial_table(load([stopped], objective={"general": 3}))
    assert scores(table) == close((10, 0.4, 0.44), (10, 1.2, 1.24)), "the last, and the crossing"


def test_best_trial_recommendation_page_and_provenance_use_them_and_say_so(
    study: Path, tmp_path: Path
) -> None:
    page = write_report([study], tmp_path / "r", objective={"general": 3}).with_suffix(".md")
    guide = load_guidelines(tmp_path / "r" / "guidelines.json")
    (best,) = guide.best_trials
    assert (best.number, best.update, best.score) == (1, 6, pytest.approx(0.31))
    assert guide.recommendations[0].setting["learning_rate"] == pytest.approx(4e-4)
    assert guide.score.weights == weights_of({"general": 3})
    assert "--objective forget_gap=1,retain=1,general=3" in guide.provenance["command"]
    (again,) = guide.provenance["rescored"]
    assert again["searched_with"] == {"forget_gap": 1, "retain": 1, "general": 1}
    text = page.read_text().replace("\\", "")
    head, _, rest = text.partition("\n## ")
    assert "scores weigh forget_gap 1, retain 1, general 3 (--objective)" in head
    assert "1 were chosen adaptively and 0 ended early" in rest
    numbers = pd.read_csv(tmp_path / "r" / "data" / "one-verdict.csv")
    assert numbers["score_reporting"].iloc[0] == pytest.approx(0.31), "the study's own section too"


def test_the_studys_own_weights_change_nothing_but_the_command(tmp_path: Path) -> None:
    for name, weights in (("one", {}), ("two", {"forget_gap": 0.7, "general": 3.3})):
        folder = plant(tmp_path / name, **weights)
        plain = json.loads(derive_guidelines([folder]).as_json())
        same = json.loads(derive_guidelines([folder], objective=weights or {"retain": 1}).as_json())
        given = [found["provenance"].pop("settings") for found in (plain, same)]
        commands = [found["provenance"].pop("command") for found in (plain, same)]
        assert json.dumps(plain) == json.dumps(same)
        assert ["--objective" in command for command in commands] == [False, True]
        assert given == [{}, {"objective": weights or {"retain": 1}}], "what `why` computes again"


def test_studies_with_different_objectives_are_reported_together_with_one(
    study: Path, tmp_path: Path
) -> None:
    other = plant(tmp_path / "two", general=3)
    with pytest.raises(UserError, match=r"one: forget_gap 1, .*two: .*general 3: .*--objective"):
        trial_table(load([study, other]))
    table = trial_table(load([study, other], objective={"general": 3}))
    assert scores(table) == close((10, 0.4, 0.44), (6, 0.3, 0.31)) * 2
    assert sum("are scored again" in note for note in table.notes) == 1, "two searched for them"


def test_a_trial_past_its_best_by_other_weights_may_not_be_past_it(tmp_path: Path) -> None:
    study = plant(tmp_path / "one", reason="past its best: score 0.3 at update 6")
    assert list(trial_table(load([study])).trials["status"]) == ["complete", "complete"]
    table = trial_table(load([study], objective={"general": 3}))
    assert list(table.trials["status"]) == ["complete", "pruned"]
    assert any("1 ended early" in note for note in table.notes)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_result_table_is_scored_again_where_its_baselines_are_beside(
    study: Path, tmp_path: Path, ending: str
) -> None:
    record = read_ledger(study / "ledger")
    path = tmp_path / f"table.{ending}"
    write_table(result_table(record), path)
    with pytest.raises(UserError, match=r"--objective needs the vanilla model's losses"):
        load([path], objective={"general": 3})
    write_table(baseline_table(record), tmp_path / f"baselines.{ending}")
    table = trial_table(load([path], objective={"general": 3}))
    assert scores(table) == close((10, 0.4, 0.44), (6, 0.3, 0.31))
    assert load([path], objective={"general": 1}).studies[0].rescored is None
    frame = result_table(record).to_pandas()
    frame.drop(columns="general_nll_reporting").to_csv(tmp_path / "lacks.csv", index=False)
    with pytest.raises(UserError, match=r"lacks the column general_nll_reporting, in whole"):
        load([tmp_path / "lacks.csv"], objective={"general": 3})


def foreign(tmp_path: Path, **columns: Any) -> Path:
    path = tmp_path / "theirs.csv"
    pd.DataFrame({"lr": [1e-5, 1e-4, 1e-3]} | columns).to_csv(path, index=False)
    return path


def test_a_foreign_table_is_scored_by_its_parts(tmp_path: Path) -> None:
    gap, retain, general = [0.1, 0.2, 0.3], [0.0, 0.1, 0.2], [0.4, 0.1, 0.0]
    parts = {"gap": gap, "retain_utility_loss": retain, "general_utility_loss": general}
    path = foreign(tmp_path, accuracy=[0.9, 0.8, np.nan], **parts)
    how = {"score": "accuracy", "mapping": {"gap": "forget_gap"}}
    assert derive_guidelines([path], **how).best_trials[0].score == 0.9, "accuracy: the highest"
    guide = derive_guidelines([path], **how, objective={"general": 2})
    assert guide.best_trials[0].score == pytest.approx(0.2 + 0.1 / 2 + 0.1)
    assert (guide.score.name, guide.score.direction) == ("score", "minimize")
    assert guide.score.weights == weights_of({"general": 2})
    losses = {"forget_nll": [3.0, 4.0, 5.0], "target_nll": 4.2, "utility_loss": [0.5, 0.3, 0.4]}
    path = foreign(tmp_path, score=0.0, **losses)
    found = load([path], objective={"retain": 2, "general": 2}).foreign[0]
    np.testing.assert_allclose(found.rows["score"], [1.2 + 1.0, 0.2 + 0.6, 0.8 + 0.8])
    assert any("scored by its parts" in note for note in found.notes)
    with pytest.raises(UserError, match=r"lacks the columns retain_utility_loss, general_utility_"):
        load([path], objective={"general": 2})


def test_a_foreign_table_without_parts_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = foreign(tmp_path, score=[1, 2, 3])
    with pytest.raises(UserError, match=r"lacks the columns forget_gap, .*--map COLUMN=forget_gap"):
        load([path], objective={"general": 2})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("generel=2", r"generel: unknown key; did you mean 'general'\?.* of forget_gap, retain"),
        ("general=-1", r"general: .*greater than or equal to 0, got -1"),
        ("general=nan", r"general: .*finite"),
        ("general=1e40", r"general: .*less than"),
        ("forget_gap=0", r"must be above 0: otherwise doing nothing wins"),
        ("retain=0,general=0", r"must be above 0: otherwise doing nothing wins"),
        ("", r"names no weight; write NAME=NUMBER of forget_gap, retain, general"),
        ("general", r"'general' is no weight; write NAME=NUMBER"),
        ("general=two", r"'general=two' is no weight"),
        ("general=1,general=2", r"`general` is given twice"),
    ],
)
def test_weights_that_are_none_are_refused_with_value_and_remedy(text: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"--objective.*{message}"):
        weights_of(parse_weights(text))


def test_claims_made_with_other_weights_narrow_nothing(study: Path) -> None:
    guide = derive_guidelines([study], objective={"general": 3})
    with pytest.raises(
        UserError,
        match=r"g.json: .*forget_gap 1, retain 1, general 3 \(score.weights\), .*general 1; set "
        r"`objective: \{forget_gap: 1, retain: 1, general: 3\}` in the study, .*--objective "
        r"forget_gap=1,retain=1,general=1",
    ):
        narrowed(spec_of("next"), guide, "g.json")
    with pytest.raises(UserError, match="no good region was claimed"):
        narrowed(spec_of("next", general=3), guide, "g.json")
