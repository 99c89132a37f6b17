"""A study of the version before goes on. If this fails, upgrading costs people their studies."""

import shutil
from pathlib import Path

import yaml
from tiny import REPOSITORY

from ray_unlearn.execution.confirm import confirm_study
from ray_unlearn.execution.study import resume_study
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.spec.trial_id import flat_id
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.schema import SCHEMA_VERSION
from ray_unlearn.store.verify import verify

FIXTURE = REPOSITORY / "tests/fixtures/study_schema_2"


def moved_here(folder: Path) -> Path:
    """The stored study, with model and texts where they are now."""
    study = shutil.copytree(FIXTURE / "study", folder / "study")
    spec = yaml.safe_load((study / "study.yaml").read_text())
    spec["model"]["source"] = str(FIXTURE / "model")
    for name, split in spec["data"]["splits"].items():
        split["path"] = str(FIXTURE / f"text/{name}.jsonl")
    (study / "study.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    return study


def test_a_stored_study_is_extended_under_its_own_ids_and_confirmed(
    ray_here: None, tmp_path: Path
) -> None:
    study = moved_here(tmp_path)
    assert resume_study(study, add_trials=1, quiet=True).counts == {"complete": 14}
    trials = read_ledger(study / "ledger").finished
    assert len({trial.trial_id for trial in trials}) == 14
    for trial in trials:
        assert trial.trial_id == flat_id(TrialConfig.model_validate(trial.config))
    assert verify(study).problems == []

    assert confirm_study(study, 1, 2, quiet=True).counts == {"complete": 2}
    confirmed = read_ledger(study / "confirm/ledger")
    assert confirmed.header.schema_version == SCHEMA_VERSION
    for trial in confirmed.finished:
        assert trial.trial_id == TrialConfig.model_validate(trial.config).id
    assert verify(study / "confirm").problems == []
