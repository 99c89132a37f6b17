"""The spec of a resumed study: that of its ledger, with the changes that `study.yaml` may make."""

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

from ray_unlearn.spec.bounds import MOST_TRIALS
from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.spec.strict import differences, validated, yaml_text
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.atomic_write import write_whole
from ray_unlearn.store.event import BestWeightsGone, StudyExtended
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.record import Record
from ray_unlearn.store.schema import row_key
from ray_unlearn.store.score import ScoreRule
from ray_unlearn.store.storage import Storage

SPEC_FILE = "study.yaml"


def resumed_spec(
    folder: Path,
    ledger: Ledger,
    operations: dict[str, Any] | None = None,
    add_trials: int | None = None,
) -> StudySpec:
    """The spec to go on with; a missing `study.yaml` is written again from the ledger.

    A new number of trials is recorded by `record_extension`, once the study has been admitted.

    Args:
        folder: the study directory.
        ledger: open for appending.
        operations: values that replace those of `operations`, for this run only.
        add_trials: trials of each method to add, kept in `study.yaml`.

    Raises:
        UserError: something that decides results was edited (each change is shown), fewer trials
            are asked for than there are, or trials cannot be added.
    """
    record = ledger.record
    path = folder / SPEC_FILE
    began = validated(StudySpec, record.header.spec, "ledger header: spec")
    began = with_trials(began, record.trials_per_method or began.search.trials_per_method)
    if not path.exists():
        write_spec(path, began)
    spec = load_study(path, operations)
    _refuse_changes(path, began, spec)
    if add_trials is not None:
        if spec.search.trials_per_method is None:
            raise UserError("--trials: a grid study runs its whole grid; there is nothing to add")
        wanted = spec.search.trials_per_method + add_trials
        if add_trials < 1 or wanted > MOST_TRIALS:
            raise UserError(
                f"--trials: 1 to {MOST_TRIALS - spec.search.trials_per_method:,} trials of each "
                f"method can be added, got {add_trials:,}"
            )
        spec = with_trials(spec, wanted)
    _refuse_fewer(path, record, spec)
    return spec


def record_extension(folder: Path, ledger: Ledger, spec: StudySpec) -> None:
    """Record the number of trials to go on with, if it is another one than the study had.

    Raises:
        StorageError: `study.yaml` or the ledger cannot be written.
    """
    record, wanted = ledger.record, spec.search.trials_per_method
    began = validated(StudySpec, record.header.spec, "ledger header: spec")
    if wanted != (record.trials_per_method or began.search.trials_per_method):
        path = folder / SPEC_FILE
        # First, so that after a kill in between the next resume still finds the new number.
        write_spec(path, with_trials(load_study(path), wanted))
        ledger.append(StudyExtended(wanted))


def trials_to_reach(expected: StudySpec, ledger: Ledger, where: str) -> int | None:
    """Number of trials to add to each method to reach those of `expected`; None: none.

    Raises:
        UserError: `expected` is another study.
    """
    record = ledger.record
    began = validated(StudySpec, record.header.spec, "ledger header: spec")
    have, wanted = (
        record.trials_per_method or began.search.trials_per_method,
        expected.search.trials_per_method,
    )
    changes = differences(
        began.decisive(), with_trials(expected, began.search.trials_per_method).decisive()
    )
    if changes:
        shown = "\n  ".join(changes)
        raise UserError(
            f"{where}: holds another study than the file describes:\n  {shown}\ngo on with it as "
            "it is: `ray-unlearn resume "
            f"{where}`, or choose another place for the new one"
        )
    return wanted - have if wanted is not None and have is not None and wanted > have else None


def drop_outdated_weights(ledger: Ledger, rule: ScoreRule, storage: Storage) -> None:
    """Delete recorded weights that are not those of the best row.

    Their row no longer counts, the best row's weights could not be saved, or the driver died before
    it received them.

    Raises:
        StorageError: the ledger cannot be written.
    """
    recorded, best = ledger.record.best_weights, rule.row_to_keep(ledger.record)
    if recorded is None:
        return
    kept = (recorded.number, (recorded.update, recorded.strength))
    if best is None or kept != (best[0].number, row_key(best[1])):
        ledger.append(BestWeightsGone(recorded.number, recorded.update, recorded.strength))
        with contextlib.suppress(OSError):  # then it is a leftover
            storage.remove(recorded.file)


def write_spec(path: Path, spec: StudySpec) -> None:
    """Write the resolved spec, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    content = yaml_text(spec.model_dump(mode="json"))
    try:
        write_whole(path, content.encode())
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from None


def with_trials(spec: StudySpec, trials_per_method: int | None) -> StudySpec:
    """The spec with another number of trials."""
    return spec.model_copy(
        update={"search": spec.search.model_copy(update={"trials_per_method": trials_per_method})}
    )


def _refuse_changes(path: Path, began: StudySpec, now: StudySpec) -> None:
    now = with_trials(now, began.search.trials_per_method)
    changes = differences(began.decisive(), now.decisive())
    if changes:
        shown = "\n  ".join(changes)
        raise UserError(
            f"{path}: was changed since the study began:\n  {shown}\nonly `operations`, "
            "`description`, "
            "`search.trials_per_method` and where model and data lie may change: put it back, or "
            "start a new study with "
            "`ray-unlearn run`"
        )


def _refuse_fewer(path: Path, record: Record, spec: StudySpec) -> None:
    most = max(Counter(trial.method for trial in record.trials.values()).values(), default=0)
    wanted = spec.search.trials_per_method
    if wanted is not None and wanted < most:
        raise UserError(
            f"{path}: search.trials_per_method: {wanted} trials are asked for, but a method has "
            f"{most} already"
        )
