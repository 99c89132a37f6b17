"""A study of an earlier version goes on. If this fails, upgrading costs people their studies."""

import shutil
from pathlib import Path

import pytest
import yaml
from tiny import REPOSITORY

import ray_unlearn as ru
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.spec.trial_id import flat_id
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.schema import HALVES, SCHEMA_VERSION

FIXTURES = REPOSITORY / "tests/fixtures"


def moved_here(version: int, folder: Path) -> Path:
    """The stored study, with model and texts where they are now."""
    study = shutil.copytree(FIXTURES / f"study_schema_{version}/study", folder / "study")
    spec = yaml.safe_load((study / "study.yaml").read_text())
    spec["model"]["source"] = str(FIXTURES / "study_schema_2/model")
    for name, split in spec["data"]["splits"].items():
        split["path"] = str(FIXTURES / f"study_schema_2/text/{name}.jsonl")
    (study / "study.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    return study


@pytest.mark.parametrize("version", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_a_stored_study_is_resumed_under_its_own_ids_confirmed_and_exported(
    ray_here: None, tmp_path: Path, version: int
) -> None:
    study = ru.open(moved_here(version, tmp_path))
    study.resume(trials=1, quiet=True)
    assert study.status().outcomes["complete"] == 14
    trials = read_ledger(tmp_path / "study/ledger").finished
    assert len({trial.trial_id for trial in trials}) == 14
    for trial in trials:
        config = TrialConfig.model_validate(trial.config)
        assert trial.trial_id == (flat_id(config) if version == 2 else config.id)
    assert study.verify().problems == []

    study.confirm(top=1, seeds=2, quiet=True)
    confirmed = read_ledger(tmp_path / "study/confirm/ledger")
    assert [trial.status for trial in confirmed.finished] == ["complete"] * 2
    assert confirmed.header.schema_version == SCHEMA_VERSION
    began = read_ledger(tmp_path / "study/ledger")
    for record in (began, confirmed):
        assert (record.header.dealing, record.halves) == ("hash", {})
    for half in HALVES:
        name = f"approximate_nll_{half}"
        targets = [record.baselines["vanilla"][name] for record in (began, confirmed)]
        assert targets[0] == pytest.approx(targets[1]), "a confirmation has the study's halves"
    for trial in confirmed.finished:
        assert trial.trial_id == TrialConfig.model_validate(trial.config).id
    assert ru.open(tmp_path / "study/confirm").verify().problems == []

    study.export(tmp_path / "model", trial="best", anyway=True)
    assert (tmp_path / "model/model.safetensors").is_file()
