"""Attacks on a page: what came back, beside the retrained model, and what was not tried."""

from dataclasses import replace
from pathlib import Path

import pytest

from ray_unlearn.analysis.guidelines.confirmation import attack_intervals
from ray_unlearn.analysis.read.study_results import StudyResults, load
from ray_unlearn.analysis.report.attacks_section import attacks_section
from ray_unlearn.analysis.report.checklist_section import checklist_section
from ray_unlearn.analysis.report.page import Bullets, Table
from ray_unlearn.analysis.report.report_files import ReportFolder
from ray_unlearn.store.attack_file import (
    AttackedModel,
    AttackOutcome,
    read_attacks,
    strongest,
    write_attacks,
)

BEFORE = {"trial": 5.0, "vanilla": 3.0, "exact_retrain": 4.5}


def relearnt(updates: int, nll: float) -> AttackOutcome:
    after = {"trial": nll, "vanilla": 3.0, "exact_retrain": 4.35}
    setting = f"{updates} updates on a quarter of the forget set"
    return AttackOutcome("relearn", setting, "forget", updates, BEFORE, after)


def test_a_share_of_next_to_nothing_has_no_sign(results: StudyResults, tmp_path: Path) -> None:
    model = replace(attacked(), outcomes=(relearnt(5, 5.001),))
    [line] = table_of(replace(results, attacks=(model,)), tmp_path).lines
    assert line[5] == "0 %"


def attacked(number: int = 3, nll: float = 4.0, **about: object) -> AttackedModel:
    rounded = {name: value + 0.1 for name, value in BEFORE.items()}
    outcomes = (
        relearnt(5, nll + 0.5),
        relearnt(20, nll),
        AttackOutcome("quantise", "4 bits, groups of 64", "", 4, BEFORE, rounded),
    )
    model = AttackedModel("gradient_ascent", number, f"id{number}", number, 8, 1.0)
    return replace(model, outcomes=outcomes, **about)


@pytest.fixture
def results(planted_study: Path) -> StudyResults:
    return load([planted_study]).studies[0]


def table_of(study: StudyResults, tmp_path: Path) -> Table:
    [section] = attacks_section([study], ReportFolder(tmp_path))
    [table] = [block for block in section.blocks if isinstance(block, Table)]
    return table


def test_a_study_without_attacks_has_no_section(results: StudyResults, tmp_path: Path) -> None:
    assert attacks_section([results], ReportFolder(tmp_path)) == []


def test_each_attack_is_shown_beside_the_retrained_model(
    results: StudyResults, tmp_path: Path
) -> None:
    table = table_of(replace(results, attacks=(attacked(),)), tmp_path)
    lines = {line[2]: line[3:] for line in table.lines}
    wanted = ("5.000", "4.000", "50 %", "3.000", "4.350", "10 %")
    assert lines["relearn: 20 updates on a quarter of the forget set"] == wanted
    assert lines["quantise: 4 bits, groups of 64"][2] == "-5 %"
    assert (tmp_path / "data/attacks.csv").read_text().count("\n") == 1 + 3


def test_repeats_of_one_configuration_are_one_sentence(
    results: StudyResults, tmp_path: Path
) -> None:
    repeats = tuple(
        attacked(number, nll, confirmation="confirm", confirms="abc")
        for number, nll in enumerate((4.0, 3.8, 4.2))
    )
    found = attack_intervals(repeats)["relearn: 20 updates on a quarter of the forget set"]
    assert (found.n, found.mean) == (3, pytest.approx(0.5))
    assert (found.low, found.high) == (pytest.approx(0.3314, abs=1e-4), pytest.approx(0.6686, 1e-4))
    [section] = attacks_section([replace(results, attacks=repeats)], ReportFolder(tmp_path))
    [bullets] = [block for block in section.blocks if isinstance(block, Bullets)]
    [sentence] = bullets.items
    assert sentence.startswith("`gradient_ascent`, configuration of trial abc, 3 new seeds")
    assert "20 updates on a quarter of the forget set undo 50 % (33 % to 67 %)" in sentence
    assert "5 updates" not in sentence


def test_the_checklist_counts_what_was_attacked_and_no_more(results: StudyResults) -> None:
    def said(*models: AttackedModel) -> tuple[str, str]:
        studies = [replace(results, attacks=models)]
        [table] = [b for b in checklist_section(studies).blocks if isinstance(b, Table)]
        return {line[0]: line[1:] for line in table.lines}[
            "relearning, and rounding of the weights"
        ]

    assert said()[0] == "no"
    whole = attacked()
    part = replace(whole, outcomes=whole.outcomes[:2])
    assert said(part)[0] == "partly"
    assert "--attacks quantise" in said(part)[1]
    expected = "yes" if results.baseline("exact_retrain") is not None else "partly"
    assert said(whole)[0] == expected


def test_what_is_written_is_read_again_and_nan_is_kept(tmp_path: Path) -> None:
    ruined = replace(attacked(), outcomes=(relearnt(5, float("nan")),))
    write_attacks(tmp_path, [attacked(1), ruined])
    first, second = read_attacks(tmp_path)
    assert first == attacked(1)
    assert second.outcomes[0].undone() is None
    assert second.outcomes[0].nll["trial"] != second.outcomes[0].nll["trial"]


def test_the_hardest_setting_is_the_most_updates_and_the_fewest_bits() -> None:
    found = strongest(attacked().of("relearn"))
    assert found is not None
    assert found.amount == 20
    assert strongest(()) is None
