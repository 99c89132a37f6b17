"""`ray-unlearn attack` on a study that an earlier version stored: no Ray, a real tiny model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import REPOSITORY

import ray_unlearn as ru
from ray_unlearn.analysis.read.study_results import load
from ray_unlearn.store.attack_file import ATTACKS_FILE, read_attacks

FIXTURES = REPOSITORY / "tests/fixtures"
Cli = Callable[..., tuple[int, str, str]]
QUICK = ("--updates", "1,2", "--learning-rate", "1e-3")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A stored study with its model and texts, and a model that stands for a retrained one."""
    folder = shutil.copytree(FIXTURES / "study_schema_3/study", tmp_path / "study")
    model = FIXTURES / "study_schema_2/model"
    text = (folder / "study.yaml").read_text()
    text = text.replace("/example/", f"{model.parent}/")
    assert "exact_retrain: null" in text
    text = text.replace("exact_retrain: null", f"exact_retrain: {model}")
    (folder / "study.yaml").write_text(text)
    return folder


def test_the_best_trial_is_attacked_and_the_study_keeps_what_was_found(
    cli: Cli, study: Path
) -> None:
    best = ru.open(study).best
    code, out, err = cli("attack", study, *QUICK, "--bits", "8", "--prefix", "def main(")
    assert code == 0, err
    assert best.trial_id in out
    for name in ("2 updates on a quarter", "approximate set", "8 bits", "def main("):
        assert name in " ".join(out.split()).replace("│ ", "") or name in out
    assert "exactly retrained" in " ".join(out.split())
    assert "the weights that the study kept" in err
    (model,) = read_attacks(study)
    assert (model.number, model.update) == (best.number, best.update)
    assert [o.attack for o in model.outcomes] == ["relearn"] * 4 + ["quantise", "prompts"]
    whole = next(o for o in model.outcomes if o.attack == "quantise")
    assert whole.before["trial"] == pytest.approx(best.metrics["forget_nll"], abs=1e-4)


def test_attacks_made_again_replace_their_own_alone(cli: Cli, study: Path) -> None:
    for bits in ("4", "8,2"):
        assert cli("attack", study, "--attacks", "quantise", "--bits", bits)[0] == 0
    code, out, _ = cli(
        "attack",
        study,
        "--trial",
        5,
        "--attacks",
        "relearn",
        "--learnt",
        "retain",
        *QUICK,
        "--json",
    )
    assert code == 0
    assert [line["amount"] for line in json.loads(out)] == [1, 2]
    first, second = sorted(read_attacks(study), key=lambda model: len(model.of("relearn")))
    assert [one.amount for one in first.outcomes] == [8, 2]
    assert (second.number, [one.text for one in second.outcomes]) == (5, ["retain", "retain"])


def test_the_report_shows_the_attacks_and_the_checklist_knows_of_them(
    cli: Cli, study: Path, tmp_path: Path
) -> None:
    def page() -> str:
        ru.report(study, out=tmp_path / "report")
        return (tmp_path / "report/report.md").read_text()

    before = page()
    assert "## Attacks" not in before
    assert "ray-unlearn attack" in before
    assert cli("attack", study, *QUICK)[0] == 0
    after = page()
    assert "## Attacks" in after
    assert "2 updates on a quarter of the forget set" in after
    assert "under Attacks, on the models named there" in after
    lines = (tmp_path / "report/data/attacks.csv").read_text().splitlines()
    assert len(lines) == 1 + 4 + 2
    assert len(load([study]).studies[0].attacks) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--trial", "99"), "no trial '99'; give `best`, an id, or a number"),
        (("--attacks", "relearn,quantize"), "attacks.1"),
        (("--attacks", "prompts"), "needs a prefix"),
        (("--updates", "some"), "--updates 'some': must be whole numbers"),
        (("--strength", "3"), "strength 3: must be above 0 and at most 2"),
    ],
)
def test_what_cannot_be_attacked_is_said_in_one_line(
    cli: Cli, study: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = cli("attack", study, *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not (study / ATTACKS_FILE).exists()


def test_a_study_whose_model_is_gone_says_so(cli: Cli, study: Path) -> None:
    text = (study / "study.yaml").read_text()
    (study / "study.yaml").write_text(text.replace("study_schema_2/model", "study_schema_2/gone"))
    code, _, err = cli("attack", study)
    assert code == 2
    assert "gone" in err
    assert "Traceback" not in err


def test_a_model_that_is_not_the_ledgers_is_not_attacked(cli: Cli, study: Path) -> None:
    """Attacking another model than the one that was chosen would answer another question."""
    from ray_unlearn.store.ledger import read_ledger
    from ray_unlearn.store.storage import storage_at
    from ray_unlearn.unlearn.same_model import check_same
    from ray_unlearn.unlearn.trial_model import TrialModels

    models = TrialModels(study, storage_at(study), print)
    made = models.make("best")
    workspace = models.single.workspace
    check_same(workspace, made, "float32")
    models.single.mix(1.5)
    with pytest.raises(ru.UserError, match="so it is another model"):
        check_same(workspace, made, "float32")
    assert read_ledger(study / "ledger").trials[made.trial.number].rows


def test_a_damaged_file_of_attacks_is_named(study: Path) -> None:
    (study / ATTACKS_FILE).write_text('{"models": [{"number": 1}]}')
    with pytest.raises(ru.StorageError, match=r"attacks.json: cannot be read.*remove it"):
        read_attacks(study)
