"""An Optuna storage as records, one a trial: SQLite files and journals, read with Optuna."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray_unlearn.spec.errors import UserError

SQLITE = b"SQLite format 3\0"


def optuna_records(path: Path) -> tuple[list[dict[str, Any]], dict[str, bool]] | None:
    """Trials of all studies, named as in `trials_dataframe`, and whether scores are maximised.

    The file is copied first: Optuna would bring an old database up to date in place.

    Returns:
        None where the file is neither a database nor a journal of Optuna.

    Raises:
        UserError: Optuna cannot read it, it holds no trial, or studies of different directions.
    """
    kind = _kind(path)
    if kind is None:
        return None
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
            return _records(loaded, path)
    except UserError:
        raise
    except Exception as error:  # SQLAlchemy, alembic and Optuna have no common error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: Optuna cannot read this storage: {reason}") from None
    finally:
        optuna.logging.set_verbosity(before)


def _kind(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(2**12)
    if start.startswith(SQLITE):
        return "sqlite"
    first, newline, _ = start.partition(b"\n")
    if not newline or not first.startswith(b"{"):
        return None
    try:
        return "journal" if "op_code" in json.loads(first) else None
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
