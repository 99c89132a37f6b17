"""The exported journal is opened with Optuna. If these fail, optuna-dashboard shows nothing, or
something else."""

import os
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from specs import LR, finished, record, row, run, space, study

from ray_unlearn.execution.exports import optuna_journal
from ray_unlearn.execution.exports.optuna_journal import export_journal
from ray_unlearn.execution.search import Search
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.record import Trial
from ray_unlearn.store.schema import Outcome

BATCHES = {"type": "choice", "choices": [4, 8]}


def load(path: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(path))))


def one_of_each(spec: StudySpec) -> list[Trial]:
    """Trials with every outcome, and one that still runs."""
    rows = [row(1, 0.9), row(9, 0.2, forget_ppl=31.0), row(30, 0.5)]
    statuses: list[tuple[Outcome | None, str]] = [
        ("complete", ""), ("pruned", "asha: 0.9 at update 1"), ("diverged", "loss is not finite"),
        ("out_of_memory", "batch size 8"), ("failed", "worker died 3 times"), (None, ""),
    ]  # fmt: skip
    search, trials = Search(spec, "c"), []
    for number, (status, reason) in enumerate(statuses):
        config = search.ask(number)
        assert config is not None
        kept = {"complete": rows, "pruned": rows[:1], None: rows[:2]}.get(status, [])
        trials.append(finished(number, config, kept, status, reason))
    return trials


def test_a_study_per_method_with_everything_in_it(tmp_path: Path) -> None:
    spec = study(space(batch_size=BATCHES))
    trials = one_of_each(spec)
    export_journal(record(spec, *trials), spec, tmp_path / "optuna.journal")
    loaded = load(tmp_path / "optuna.journal", "test/gradient_ascent")
    assert loaded.metric_names == ["score_selection"]
    assert loaded.direction == optuna.study.StudyDirection.MINIMIZE
    states = [t.state.name for t in loaded.trials]
    assert states == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED", "FAIL", "RUNNING"]
    best = loaded.best_trial
    assert best.value == 0.2
    assert best.params == {name: trials[0].config[name] for name in ("learning_rate", "batch_size")}
    assert best.distributions["learning_rate"] == optuna.distributions.FloatDistribution(
        LR["low"], LR["high"], log=True
    )
    assert best.intermediate_values == {1: 0.9, 9: 0.2, 30: 0.2}
    assert best.user_attrs == {
        "number": 0, "trial_id": trials[0].trial_id, "seed": 0, "status": "complete", "reason": "",
        "update": 9, "forget_ppl": 31.0, "forget_gap_selection": 0.2, "utility_loss_selection": 0.0,
    }  # fmt: skip
    assert best.duration is not None
    assert best.duration.total_seconds() == pytest.approx(61.0)
    assert loaded.trials[4].user_attrs["reason"] == "worker died 3 times"


def test_two_methods_and_two_objectives(tmp_path: Path) -> None:
    spec = study(space(), space("random_labels"), pareto=True, trials_per_method=3)
    export_journal(
        record(spec, *run(spec, lambda c: c.learning_rate)),
        spec,
        tmp_path / "deep" / "optuna.journal",
    )
    for method in spec.methods:
        loaded = load(tmp_path / "deep" / "optuna.journal", f"test/{method}")
        assert len(loaded.trials) == 3
        assert len(loaded.directions) == 2
        assert loaded.best_trials


def test_the_export_replaces_the_former_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    spec = study(trials_per_method=4)
    trials = run(spec, lambda c: c.learning_rate)
    path = tmp_path / "optuna.journal"
    for count in (2, 4):
        export_journal(record(spec, *trials[:count]), spec, path)
        assert len(load(path, "test/gradient_ascent").trials) == count
    assert [p.name for p in tmp_path.iterdir()] == ["optuna.journal"]


def test_values_outside_the_space_are_left_out(tmp_path: Path) -> None:
    wide, narrow = study(), study(space(learning_rate=LR | {"high": 1e-4, "grid": []}))
    trials = run(wide, lambda c: c.learning_rate)
    export_journal(record(wide, *trials), narrow, tmp_path / "j")
    loaded = load(tmp_path / "j", "test/gradient_ascent").trials
    assert len(loaded) == len(trials)
    assert [bool(t.params) for t in loaded] == [t.config["learning_rate"] <= 1e-4 for t in trials]


def test_an_export_is_written_once_and_no_entry_is_read_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna's own backend syncs its file after every trial: minutes for ten thousand."""
    spec = study(sampler="random", quasi_random_share=0.0, trials_per_method=100)
    trials = run(spec, lambda c: c.learning_rate)
    syncs: list[int] = []
    entries: list[int] = []
    read = optuna_journal._Buffer.read_logs

    def counted(buffer: optuna_journal._Buffer, start: int) -> list[dict[str, Any]]:
        found = read(buffer, start)
        entries.extend(range(start, start + len(found)))
        return found

    monkeypatch.setattr(optuna_journal._Buffer, "read_logs", counted)
    monkeypatch.setattr(os, "fsync", syncs.append)
    export_journal(record(spec, *trials), spec, tmp_path / "j")
    assert len(syncs) == 2, "the file and its folder"
    assert entries == list(range(len((tmp_path / "j").read_bytes().splitlines())))


def test_a_path_that_cannot_be_written_is_an_error_of_the_storage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        export_journal(record(study()), study(), tmp_path / "file" / "optuna.journal")
