"""An Optuna storage as records, one a trial: SQLite files and journals, read with Optuna."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.given_file import json_value
from ray_unlearn.surfaces.axes import KnownRange

SQLITE = b"SQLite format 3\0"


def optuna_records(
    path: Path, kind: str
) -> tuple[list[dict[str, Any]], dict[str, bool], dict[str, KnownRange]]:
    """Trials of all studies, named as in `trials_dataframe`; directions and ranges of columns.

    The file is copied first: Optuna would bring an old database up to date in place.

    Args:
        path: the file.
        kind: as `storage_kind` says.

    Returns:
        Records; whether a score is maximised, by column; what was searched, by column.

    Raises:
        UserError: Optuna cannot read it, it holds no trial, or studies of different directions.
    """
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with TemporaryDirectory(prefix="ray-unlearn-") as folder:
            copy = Path(folder) / "copy"
            shutil.copyfile(path, copy)
            storage = _opened(copy, kind)
            studies = optuna.get_all_study_names(storage)
            loaded = [optuna.load_study(study_name=name, storage=storage) for name in studies]
            return *_records(loaded, path), _ranges(loaded)
    except UserError:
        raise
    except Exception as error:  # SQLAlchemy, alembic and Optuna have no common error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: Optuna cannot read this storage: {reason}") from None
    finally:
        optuna.logging.set_verbosity(before)


def storage_kind(path: Path) -> str | None:
    """`sqlite` for any SQLite database, `journal` for Optuna's; None for another file."""
    with path.open("rb") as file:
        start = file.read(2**12)
    if start.startswith(SQLITE):
        return "sqlite"
    first, newline, _ = start.partition(b"\n")
    if not newline or not first.startswith(b"{"):
        return None
    try:
        return "journal" if "op_code" in json_value(first) else None
    except ValueError:
        return None


def _opened(copy: Path, kind: str) -> Any:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if kind == "journal":
        return JournalStorage(JournalFileBackend(str(copy)))
    storage = RDBStorage(f"sqlite:///{copy}", skip_compatibility_check=True)
    if storage.get_current_version() != storage.get_head_version():
        storage.upgrade()
    return storage


def _records(studies: list[Any], path: Path) -> tuple[list[dict[str, Any]], dict[str, bool]]:
    records: list[dict[str, Any]] = []
    maximise: dict[str, bool] = {}
    for study in studies:
        single = len(study.directions) == 1
        for at, direction in enumerate(study.directions):
            name = "value" if single else f"values_{at}"
            higher = direction.name == "MAXIMIZE"
            if maximise.setdefault(name, higher) != higher:
                raise UserError(
                    f"{path}: its studies minimise and maximise; write one of them with "
                    "`study.trials_dataframe().to_csv(...)` and report on that"
                )
        for trial in study.trials:
            values = trial.values or [None] * len(study.directions)
            scores = {"value": values[0]} if single else {
                f"values_{at}": value for at, value in enumerate(values)
            }  # fmt: skip
            params = {f"params_{name}": value for name, value in trial.params.items()}
            known = {"study": study.study_name, "number": trial.number, **scores, **params}
            attributes = {f"user_attrs_{name}": str(v) for name, v in trial.user_attrs.items()}
            records.append({**known, **attributes, "state": trial.state.name})
    if not records:
        raise UserError(f"{path}: this Optuna storage holds no trial")
    return records, maximise


def _ranges(studies: list[Any]) -> dict[str, KnownRange]:
    """Of each parameter that is a range, what all trials together could have drawn from."""
    from optuna.distributions import FloatDistribution, IntDistribution

    found: dict[str, list[Any]] = {}
    for study in studies:
        for trial in study.trials:
            for name, distribution in trial.distributions.items():
                known = found.setdefault(f"params_{name}", [])
                if distribution not in known:
                    known.append(distribution)
    return {
        name: KnownRange(
            min(float(one.low) for one in known),
            max(float(one.high) for one in known),
            all(one.log for one in known),
            all(isinstance(one, IntDistribution) for one in known),
        )
        for name, known in found.items()
        if all(isinstance(one, (FloatDistribution, IntDistribution)) for one in known)
    }
