"""Behind every sentence stand its trials and numbers, and it can be computed again: a source or a
file that was changed since is named, not believed."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
from planted import demo_spec, plant
from surfaces import TOLERANCE, planted, valley
from typer.testing import CliRunner

import ray_unlearn as ru
from ray_unlearn.analysis.why.claim_checks import claim_checks
from ray_unlearn.analysis.why.explanation import BEST_TRIAL, STATISTICS_BEHIND
from ray_unlearn.analysis.why.named_records import RECOMMENDED, records_of
from ray_unlearn.cli.main import app
from ray_unlearn.spec.errors import EXIT_STORAGE
from ray_unlearn.spec.guideline_file import ClaimKind, load_guidelines

RANGE, ABOVE = "range/a/learning_rate", "avoid/a/learning_rate/high"


def written(folder: Path) -> Path:
    """A table with one method, and the guidelines made from it."""
    folder.mkdir(exist_ok=True)
    trials = planted({"a": valley()}, trials=100, noise=TOLERANCE / 2).trials
    names = ["trial", "method", "learning_rate", "w_r", "seed", "score"]
    trials[names].assign(drawn_by="random").rename(columns={"score": "loss"}).to_csv(
        folder / "table.csv", index=False
    )
    guide = ru.guidelines(
        folder / "table.csv",
        mapping={"drawn_by": "sampler"},
        score="loss",
        tolerance=TOLERANCE,
        seed=3,
    )
    (folder / "report").mkdir()
    return guide.save(folder / "report" / "guidelines.json")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("why")).parent


@pytest.fixture
def own(report: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    for name in ("table.csv", "report/guidelines.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((report.parent / name).read_bytes())
    return tmp_path / "report"


@pytest.mark.parametrize("name", [RANGE, ABOVE, "recommended/a", "range/a/w_r"])
def test_a_sentence_comes_out_the_same_from_its_source(report: Path, name: str) -> None:
    found = ru.Guide.read(report).why(name)
    assert found.recomputed.outcome == "identical"
    assert found.sound
    assert found.seed == 3
    text = str(found)
    assert found.record.text in text
    assert "as recorded" in text


def test_the_trials_behind_a_sentence_are_those_of_its_numbers(report: Path) -> None:
    guide = ru.Guide.read(report)
    avoid, good = guide.why(ABOVE), guide.why(RANGE)
    numbers, table = avoid.record.content["estimates"], pd.read_csv(report.parent / "table.csv")
    assert avoid.trials.count == avoid.record.content["evidence"]["n_trials"] == 100
    assert avoid.trials.inside == numbers["trials_there"]
    assert f"({avoid.trials.inside} trials" in avoid.record.text
    assert len(avoid.trials.shown) == 20
    there = table[table["learning_rate"] > numbers["low"]].sort_values("loss")
    assert avoid.trials.shown["trial"].tolist()[:5] == there["trial"].astype(str).tolist()[:5]
    space = good.record.content["search_space"]
    inside = table["learning_rate"].between(space["low"], space["high"])
    assert good.trials.inside == inside.sum()
    first = good.trials.shown.iloc[0]
    assert first["score"] == table[inside]["loss"].min()


def test_a_changed_source_is_named_and_the_sentence_is_not_called_the_same(own: Path) -> None:
    """Somebody made the high learning rates good, and left the claim to avoid them."""
    table = pd.read_csv(own.parent / "table.csv")
    high = table["learning_rate"] > 1e-4
    table.loc[high, "loss"] = table["loss"].min()
    table.to_csv(own.parent / "table.csv", index=False)
    found = ru.Guide.read(own).why(RANGE)
    assert found.recomputed.sources_changed
    assert found.recomputed.outcome == "differs"
    assert not found.sound
    text = str(found)
    assert "source table.csv has CHANGED since: SHA-256" in text
    assert re.search(r"search_space\.high: .* recorded, .* now", text)
    result = CliRunner().invoke(app, ["why", str(own), RANGE])
    assert result.exit_code == EXIT_STORAGE


def test_a_source_that_changed_without_changing_the_sentence_is_named_too(own: Path) -> None:
    with (own.parent / "table.csv").open("a") as file:
        file.write("\n")
    found = ru.Guide.read(own).why(RANGE)
    assert found.recomputed.outcome == "identical"
    assert found.recomputed.sources_changed
    assert not found.sound


def test_an_edited_file_does_not_follow_from_its_source(own: Path) -> None:
    file = own / "guidelines.json"
    content = json.loads(file.read_text())
    claim = next(g for g in content["guidelines"] if g["id"] == RANGE)
    claim["search_space"]["high"] = 9e-4
    file.write_text(json.dumps(content))
    found = ru.Guide.read(own).why(RANGE)
    assert not found.recomputed.sources_changed
    assert found.recomputed.outcome == "differs"
    (line,) = (note for note in found.recomputed.notes if "recorded" in note and "now" in note)
    assert line.startswith("search_space.high: 9e-4 recorded, ")


def test_without_its_source_everything_that_is_recorded_is_still_said(
    own: Path, tmp_path: Path
) -> None:
    (tmp_path / "table.csv").unlink()
    found = ru.Guide.read(own).why(RANGE)
    assert found.recomputed.outcome == "not computed"
    assert found.trials.count == 100
    assert "table.csv" in str(found)
    assert "run this where they are" in str(found)
    assert found.sound, "nothing speaks against it"


def test_an_unknown_id_names_the_nearest_ones_and_how_to_list_all(report: Path) -> None:
    with pytest.raises(ru.UserError) as error:
        ru.Guide.read(report).why("range/a/lr")
    assert "no claim 'range/a/lr'; nearest: range/a/" in str(error.value)
    assert f"`ray-unlearn why {report}` lists all" in str(error.value)


def test_no_report_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ru.UserError, match=r"no guidelines\.json there, nor in report/"):
        ru.Guide.read(tmp_path)


def test_the_command_takes_folder_file_or_study_and_lists_all_sentences(report: Path) -> None:
    listed = [
        CliRunner().invoke(app, ["why", str(place)])
        for place in (report, report / "guidelines.json", report.parent)
    ]
    assert [result.exit_code for result in listed] == [0, 0, 0]
    assert len({result.stdout for result in listed}) == 1
    found = load_guidelines(report / "guidelines.json")
    for guideline in found.guidelines:
        assert f"{guideline.id}\n  {guideline.text}" in listed[0].stdout
    assert listed[0].stdout.startswith("recommended/a\n  Run a with learning rate")


def test_the_command_gives_scripts_all_of_it(report: Path) -> None:
    result = CliRunner().invoke(app, ["why", str(report), RANGE, "--json"])
    assert result.exit_code == 0
    content: dict[str, Any] = json.loads(result.stdout)
    assert content["recomputed"]["outcome"] == "identical"
    assert content["record"]["id"] == RANGE
    assert len(content["trials"]) == 20


def test_a_study_is_found_under_another_name(tmp_path: Path) -> None:
    """Its ledger tells it from others, whatever its folder is called now."""
    spec = demo_spec(trials_per_method=3).model_copy(update={"methods": ("gradient_ascent",)})
    study = plant(tmp_path / "before", trials=3, spec=spec)
    (study / "report").mkdir()
    ru.guidelines(study).save(study / "report" / "guidelines.json")
    study.rename(tmp_path / "after")
    found = ru.Guide.read(tmp_path / "after").why("recommended/gradient_ascent")
    assert found.recomputed.outcome == "identical"
    assert found.trials.count == 3
    assert set(found.trials.shown["study"]) == {"demo"}
    assert found.statistic == BEST_TRIAL, "of three trials there is no Gaussian process"
    assert {"trial", "update", "score"} <= set(found.trials.shown)


def test_a_claim_that_is_made_has_missed_no_threshold(report: Path) -> None:
    found = load_guidelines(report / "guidelines.json")
    for record in records_of(found).values():
        checks = claim_checks(record, found.provenance, found.score.model_dump())
        if record.status == "claimed":
            assert checks, record.id
            assert [check for check in checks if not check.passed] == [], record.id


def test_every_kind_of_sentence_says_what_was_computed() -> None:
    assert set(STATISTICS_BEHIND) == {RECOMMENDED, *get_args(ClaimKind)}
