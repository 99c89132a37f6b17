"""MLflow's runs as records, from a tracking folder (`mlruns`) or a tracking database.

Metrics are a run's last values, as in `mlflow.search_runs()`. Deleted runs are left out.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from ray_unlearn.analysis.read.record_files import loaded
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.given_file import given_bytes, given_text
from ray_unlearn.spec.strict import yaml_value

STATES = {1: "running", 2: "scheduled", 3: "finished", 4: "failed", 5: "killed"}
"""`mlflow.entities.RunStatus`; a database has the words."""
ROLES = {"run_id": "trial", "experiment": "study", "status": "status"}


def mlflow_folder(folder: Path) -> tuple[list[dict[str, Any]], list[Path]] | None:
    """Runs of a folder `mlruns`, of one above it or of an experiment in it, and their files.

    Returns:
        None where the folder holds no run.

    Raises:
        UserError: a file of a run is damaged.
    """
    found = sorted(
        file
        for pattern in ("*/meta.yaml", "*/*/meta.yaml", "mlruns/*/*/meta.yaml")
        for file in folder.glob(pattern)
        if (file.parent / "params").is_dir() or (file.parent / "metrics").is_dir()
    )
    files, records = [], []
    for file in found:
        meta = loaded(file, yaml_value)
        if "run_id" not in meta or meta.get("lifecycle_stage") == "deleted":
            continue
        above = file.parent.parent / "meta.yaml"
        named = loaded(above, yaml_value).get("name") if above.is_file() else None
        params, metrics = (_in_folder(file.parent / kind) for kind in ("params", "metrics"))
        known = {"run_id": meta["run_id"], "experiment": named or file.parent.parent.name}
        status = meta.get("status")
        known["status"] = STATES[status] if status in STATES else str(status).lower()
        known |= {
            f"params.{name}": given_bytes(part).decode(errors="replace")
            for name, part in params.items()
        }
        known |= {f"metrics.{name}": _last(part) for name, part in metrics.items()}
        records.append(known)
        files += [file, *params.values(), *metrics.values()]
    return (records, files) if records else None


def mlflow_database(path: Path) -> list[dict[str, Any]] | None:
    """Runs of a SQLite tracking database; None where it is another program's.

    Raises:
        UserError: it holds no run.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            if not {"experiments", "runs", "params", "latest_metrics"} <= tables:
                return None
            records = list(_rows(database.execute))
    except sqlite3.Error:  # no database after all, or one that Optuna has words for
        return None
    if not records:
        raise UserError(f"{path}: this MLflow database holds no run")
    return records


def _rows(execute: Callable[[str], Any]) -> Iterator[dict[str, Any]]:
    values: dict[str, dict[str, Any]] = {}
    for run, key, value in execute("SELECT run_uuid, key, value FROM params ORDER BY key"):
        values.setdefault(run, {})[f"params.{key}"] = value
    metrics = "SELECT run_uuid, key, value, is_nan FROM latest_metrics ORDER BY key"
    for run, key, value, is_nan in execute(metrics):
        values.setdefault(run, {})[f"metrics.{key}"] = float("nan") if is_nan else value
    runs = (
        "SELECT run_uuid, name_of.name, status FROM runs JOIN experiments AS name_of USING "
        "(experiment_id) WHERE runs.lifecycle_stage = 'active' ORDER BY start_time, run_uuid"
    )
    for run, experiment, status in execute(runs):
        known = {"run_id": run, "experiment": experiment, "status": status.lower()}
        yield known | values.get(run, {})


def _in_folder(folder: Path) -> dict[str, Path]:
    """Files by name; a name with `/` is a file in a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file for file in files}


def _last(file: Path) -> float | None:
    """The value at the greatest step: lines are `time value step ...`, once `time value`."""
    try:
        lines = [line.split() for line in given_text(file).splitlines() if line.strip()]
        points = [(int(line[2]) if len(line) > 2 else 0, int(line[0]), line[1]) for line in lines]
        return float(max(points, key=lambda point: point[:2])[2]) if points else None
    except (OSError, ValueError, IndexError):
        raise UserError(f"{file}: is no metric of MLflow (`time value step` in a line)") from None
