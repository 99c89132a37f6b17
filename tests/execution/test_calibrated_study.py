"""Studies with rows at the strength that meets the target, end to end: real model, lanes and Tune.

The tiny model has learnt its forget set by heart, so there is something to forget.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import study_file

import ray_unlearn as ru
from ray_unlearn.execution.study import resume_study, run_study
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.event_line import decoded
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.record import Record
from ray_unlearn.store.schema import COLUMNS, is_as_trained
from ray_unlearn.store.score import ScoreRule
from ray_unlearn.store.status import open_study, status
from ray_unlearn.store.verify import verify

pytestmark = pytest.mark.slow

REPEATABLE = [name for name, column in COLUMNS.items() if column.repeatable]


@pytest.fixture(scope="module")
def learnt_model(
    tiny_model: Path, text_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny model after 30 steps on its forget set."""
    from ray_unlearn.unlearn.data import prepare
    from ray_unlearn.unlearn.model import load_model

    folder = tmp_path_factory.mktemp("learnt")
    spec = load_study(study_file(tmp_path_factory.mktemp("spec"), text_files, tiny_model))
    tokens = prepare(spec.data, spec.model).splits["forget"]
    model = load_model(spec.model).requires_grad_(True)
    ids = torch.from_numpy(tokens.input_ids).long()
    labels = ids.clone()
    labels[:, 1:][~torch.from_numpy(tokens.target_mask)] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    for file in tiny_model.glob("*token*"):
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def spec_of(
    text_files: Path, learnt_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., StudySpec]:
    def make(strength: str, **model: Any) -> StudySpec:
        changes: dict[str, Any] = {
            "evaluation": {"at": [2, 4, 8], "batch_size": 8, "strength": strength},
            "space_overrides": {
                "learning_rate": {"type": "float", "low": 3e-3, "high": 1e-2, "scale": "log"},
                "steps": {"type": "int", "low": 1, "high": 8, "free": True},
                "batch_size": 4,
            },
            "operations": {"lanes": 1, "tensorboard": True},
            "model": {"source": str(learnt_model)} | model,
        }
        path = study_file(tmp_path_factory.mktemp("spec"), text_files, learnt_model, **changes)
        return load_study(path)

    return make


@pytest.fixture(scope="module")
def both(
    ray_here: None, spec_of: Callable[..., StudySpec], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished study; tests do not change it."""
    folder = tmp_path_factory.mktemp("both") / "study"
    assert run_study(spec_of("both"), folder, quiet=True).exit_code == 0
    return folder


def rows(record: Record, trained: bool) -> dict[int, list[dict[str, Any]]]:
    return {
        number: [
            {name: row[name] for name in REPEATABLE if name in row}
            for row in trial.rows
            if is_as_trained(row) == trained
        ]
        for number, trial in sorted(record.trials.items())
    }


def calibrated_best(folder: Path) -> tuple[int, dict[str, Any]]:
    """The trial and the calibrated row with the lowest score."""
    record = read_ledger(folder / "ledger")
    found = [
        (row["score_selection"], number, dict(row.items()))
        for number, trial in record.trials.items()
        for row in trial.rows
        if not is_as_trained(row)
    ]
    _, number, row = min(found, key=lambda line: line[:2])
    return number, row


def exported(folder: Path, output: Path, **which: Any) -> dict[str, torch.Tensor]:
    said: list[str] = []
    ru.open(folder).export(output, say=said.append, anyway=True, **which)
    tensors = load_file(output / "model.safetensors")
    return tensors | {"kept": torch.tensor("that the study kept" in said[-1])}


def test_rows_as_trained_are_those_of_a_study_without_calibration(
    both: Path, spec_of: Callable[..., StudySpec], tmp_path: Path
) -> None:
    run_study(spec_of("trained"), tmp_path / "study", quiet=True)
    plain, looked_at = read_ledger(tmp_path / "study" / "ledger"), read_ledger(both / "ledger")
    assert rows(looked_at, True) == rows(plain, True)
    assert [t.trial_id for t in looked_at.trials.values()] == [
        t.trial_id for t in plain.trials.values()
    ]
    assert not any(rows(plain, False).values())
    calibrated = [row for found in rows(looked_at, False).values() for row in found]
    assert len(calibrated) >= len(looked_at.trials) / 2
    target = looked_at.baselines["vanilla"]["approximate_nll_selection"]
    assert all(row["forget_nll"] == pytest.approx(target, abs=0.0051) for row in calibrated)


def test_everything_that_reads_the_study_takes_two_rows_of_an_update(
    both: Path, tmp_path: Path
) -> None:
    assert verify(both).problems == []
    study = ru.open(both)
    spec, record = open_study(both)
    number = sum(len(trial.rows) for trial in record.trials.values())
    assert len(study.rows) == number == status(both).rows
    assert study.rows["scored"].sum() == len(record.trials)
    trial, row = ScoreRule.of(record, spec).best(record) or (None, None)
    assert trial is not None
    assert row is not None
    assert (study.best.update, study.best.strength) == (row["update"], row["strength"])
    assert (status(both).best[0].update, status(both).best[0].strength) == (
        row["update"],
        row["strength"],
    )
    ru.report(both, out=tmp_path / "report")
    assert (tmp_path / "report" / "guidelines.json").is_file()


def test_the_mixed_model_is_exported_from_its_weights_and_by_running_the_trial_again(
    both: Path, tmp_path: Path
) -> None:
    number, row = calibrated_best(both)
    at = {"trial": number, "update": row["update"]}
    mixed = exported(both, tmp_path / "mixed", **at, strength=row["strength"])
    trained = exported(both, tmp_path / "trained", **at)
    vanilla = load_file(Path(open_study(both)[0].model.source) / "model.safetensors")
    changed = 0
    for name, start in vanilla.items():
        by_hand = start + row["strength"] * (trained[name] - start)
        assert torch.allclose(mixed[name], by_hand, atol=1e-6)
        changed += not torch.equal(mixed[name], trained[name])
    assert changed

    best = ru.open(both).best
    kept = exported(both, tmp_path / "kept", trial="best")
    assert kept.pop("kept"), "the best row's weights were kept"
    copy = tmp_path / "copy"
    shutil.copytree(both, copy)
    shutil.rmtree(copy / "trials")
    again = exported(copy, tmp_path / "again", trial="best")
    assert not again.pop("kept")
    assert all(torch.equal(tensor, again[name]) for name, tensor in kept.items())
    same = exported(
        both, tmp_path / "same", trial=best.number, update=best.update, strength=best.strength
    )
    assert same["kept"]


@pytest.mark.parametrize("kept_rows", [2, 3])
def test_a_study_cut_off_between_rows_ends_with_the_same_rows(
    ray_here: None, both: Path, tmp_path: Path, kept_rows: int
) -> None:
    resumed = cut_off_and_resumed(both, tmp_path / "study", kept_rows)
    now, before = read_ledger(resumed / "ledger"), read_ledger(both / "ledger")
    for trained in (True, False):
        assert rows(now, trained) == rows(before, trained)
    assert verify(resumed).problems == []


def test_with_adapters_a_study_is_resumed_and_its_mixed_model_exported(
    ray_here: None, spec_of: Callable[..., StudySpec], tmp_path: Path
) -> None:
    """What is mixed is B of each product, and the export has the product in its weights."""
    lora = {"rank": 4, "alpha": 8, "targets": "all-linear"}
    folder = tmp_path / "study"
    assert run_study(spec_of("both", lora=lora), folder, quiet=True).exit_code == 0
    resumed = cut_off_and_resumed(folder, tmp_path / "resumed", 2)
    now, before = read_ledger(resumed / "ledger"), read_ledger(folder / "ledger")
    for trained in (True, False):
        assert rows(now, trained) == rows(before, trained)
    number, row = calibrated_best(folder)
    at = {"trial": number, "update": row["update"]}
    mixed = exported(folder, tmp_path / "mixed", **at, strength=row["strength"])
    trained_model = exported(folder, tmp_path / "trained", **at)
    vanilla = load_file(Path(open_study(folder)[0].model.source) / "model.safetensors")
    assert any(not torch.equal(mixed[name], trained_model[name]) for name in vanilla)
    for name, start in vanilla.items():
        by_hand = start + row["strength"] * (trained_model[name] - start)
        assert torch.allclose(mixed[name], by_hand, atol=1e-6)
    best = exported(folder, tmp_path / "best", trial="best")
    again = exported(resumed, tmp_path / "again", trial="best")
    assert all(torch.equal(best[name], again[name]) for name in vanilla)


def cut_off_and_resumed(study: Path, folder: Path, kept_rows: int) -> Path:
    """A copy whose ledger ended after so many rows and whose checkpoints were lost, resumed."""
    shutil.copytree(study, folder)
    events = folder / "ledger" / "events.jsonl"
    seen, kept = 0, []
    for line in events.read_bytes().splitlines(keepends=True):
        entry = decoded(line, events, 0)
        assert entry is not None
        seen += type(entry.event).__name__ == "RowMeasured"
        if seen > kept_rows:
            break
        kept.append(line)
    events.write_bytes(b"".join(kept))
    (folder / "ledger" / "acknowledged").unlink()
    shutil.rmtree(folder / "trials")
    assert resume_study(folder, quiet=True).exit_code == 0
    return folder
