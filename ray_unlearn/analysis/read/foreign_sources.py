"""Results that are no single table, but a storage or a folder of another program.

These are storages of Optuna and MLflow, and folders of Ray Tune, MLflow, DeepCAVE and
OpenUnlearning.
"""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from ray_unlearn.analysis.read.foreign_table import ForeignFile
from ray_unlearn.analysis.read.mlflow_runs import ROLES, mlflow_database, mlflow_folder
from ray_unlearn.analysis.read.open_unlearning import open_unlearning_records
from ray_unlearn.analysis.read.optuna_storage import optuna_records, storage_kind
from ray_unlearn.analysis.read.record_files import json_lines, loaded
from ray_unlearn.analysis.read.table_files import file_digest
from ray_unlearn.analysis.read.table_formats import (
    DEEPCAVE,
    MLFLOW,
    OPEN_UNLEARNING,
    OPTUNA,
    RAY_TUNE,
    TableFormat,
)
from ray_unlearn.analysis.read.text_tables import flattened, records_table
from ray_unlearn.spec.errors import UserError
from ray_unlearn.surfaces.axes import KnownRange

Records = list[dict[str, Any]]
DEEPCAVE_STATES = {
    1: "success", 2: "timeout", 3: "memoryout", 4: "crashed", 5: "aborted", 6: "not_evaluated",
    7: "failed", 8: "pruned", 9: "failed",
}  # fmt: skip
"""`deepcave.runs.status.Status`; 6 was RUNNING in early versions, 9 is UNKNOWN."""


def storage_file(path: Path) -> ForeignFile | None:
    """A storage of Optuna (SQLite, or a journal) or MLflow as a table; None where it is none.

    Raises:
        UserError: a database that Optuna cannot read, or without a trial.
    """
    kind = storage_kind(path)
    if kind is None:
        return None
    if kind == "sqlite" and (runs := mlflow_database(path)) is not None:
        return _mlflow_file(runs, path, file_digest(path))
    records, maximise, ranges = optuna_records(path, kind)
    roles = {"study": "study", "number": "trial", "state": "status"}
    if any("value" in record for record in records):
        roles["value"] = "score"
    form = TableFormat(f"an Optuna storage ({OPTUNA})", roles, maximise)
    if "value" not in roles:
        form = TableFormat(OPTUNA, roles, maximise)
    table = records_table(records)
    return ForeignFile(table, path, file_digest(path), 1, form=form, ranges=ranges)


def results_folder(folder: Path) -> ForeignFile | None:
    """A folder of another program as a table; None where it is none that is known.

    Raises:
        UserError: a file in it is damaged.
    """
    readers = {
        RAY_TUNE: _ray_tune,
        MLFLOW: _mlflow,
        DEEPCAVE: _deepcave,
        OPEN_UNLEARNING: _open_unlearning,
    }
    for name, reader in readers.items():
        try:
            found = reader(folder)
        except UserError:
            raise
        # What another program writes has no schema that could be checked first: a value of
        # another kind than the reader takes for granted fails wherever it is used.
        except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as no:
            raise UserError(
                f"{folder}: looks like {name}, but holds something else than that writes: "
                f"{type(no).__name__}: {no}"
            ) from None
        if found is not None:
            return found
    return None


def _ray_tune(folder: Path) -> ForeignFile | None:
    """Ray Tune's experiment: one folder per trial, with params.json and result.json."""
    trials = sorted(file.parent for file in folder.glob("*/params.json"))
    if not trials:
        return None
    records: Records = []
    for trial in trials:
        config = flattened(loaded(trial / "params.json"), "config/", "/")
        status = "failed" if (trial / "error.txt").is_file() else "complete"
        lines = list(json_lines(trial / "result.json"))
        for line in lines or [{}]:
            line.pop("config", None)
            known = {"trial_id": trial.name, **flattened(line, joint="/"), "status": status}
            records.append(known | config if lines else known | config | {"status": "failed"})
    roles = {"trial_id": "trial", "training_iteration": "step", "status": "status"}
    return _as_file(folder, records, RAY_TUNE, roles, {}, trials, ("params.json", "result.json"))


def _mlflow(folder: Path) -> ForeignFile | None:
    """MLflow's tracking folder: one folder per experiment and run."""
    found = mlflow_folder(folder)
    if found is None:
        return None
    records, files = found
    return _mlflow_file(records, folder, _digest_of(folder, files))


def _mlflow_file(records: Records, path: Path, digest: str) -> ForeignFile:
    return ForeignFile(records_table(records), path, digest, 1, form=TableFormat(MLFLOW, ROLES))


def _deepcave(folder: Path) -> ForeignFile | None:
    """DeepCAVE's run: configs.json, meta.json, history.jsonl."""
    if not (folder / "history.jsonl").is_file() or not (folder / "configs.json").is_file():
        return None
    configs, meta = loaded(folder / "configs.json"), loaded(folder / "meta.json")
    objectives = meta.get("objectives", [])
    records: Records = []
    for line in json_lines(folder / "history.jsonl"):
        config_id, budget, *rest = line
        seed, costs, *_, status, _ = rest if not isinstance(rest[0], list) else [-1, *rest]
        config = flattened(configs.get(str(config_id)) or {}, "config/", "/")
        scores = {
            objective["name"]: cost for objective, cost in zip(objectives, costs, strict=True)
        }
        times = {"budget": budget, "seed": None if seed in (-1, None) else seed}
        word = DEEPCAVE_STATES.get(status, str(status)) if isinstance(status, int) else status
        name = f"{config_id}" if seed in (-1, None) else f"{config_id} seed {seed}"
        records.append({"config_id": name, **config, **scores, **times, "status": word})
    maximise = {one["name"]: str(one.get("optimize", "lower")) == "upper" for one in objectives}
    roles = {"config_id": "trial", "seed": "seed", "status": "status"}
    if len({record["budget"] for record in records}) > 1:
        roles["budget"] = "step"
    if len(maximise) == 1:
        roles[next(iter(maximise))] = "score"
    files = ("configs.json", "meta.json", "history.jsonl")
    file = _as_file(folder, records, DEEPCAVE, roles, maximise, [folder], files)
    return replace(file, ranges=_config_space(folder / "configspace.json"))


def _config_space(path: Path) -> dict[str, KnownRange]:
    """Ranges of a ConfigSpace, by column."""
    if not path.is_file():
        return {}
    return {
        f"config/{one['name']}": KnownRange(
            float(one["lower"]), float(one["upper"]), bool(one.get("log")), "int" in one["type"]
        )
        for one in loaded(path).get("hyperparameters", [])
        if str(one.get("type", "")).startswith("uniform_")
    }


def _open_unlearning(folder: Path) -> ForeignFile | None:
    """OpenUnlearning's `*_SUMMARY.json` (or `*_EVAL.json`) in folders below."""
    records, files = open_unlearning_records(folder)
    if not records:
        return None
    roles = {"task": "trial", "method": "method", "model": "model", "forget_split": "domain"}
    roles |= {"checkpoint": "step"} if any("checkpoint" in record for record in records) else {}
    there = {name: role for name, role in roles.items() if any(name in one for one in records)}
    return _as_file(folder, records, OPEN_UNLEARNING, there, {}, files, ())


def _as_file(
    folder: Path,
    records: Records,
    name: str,
    roles: dict[str, str],
    maximise: dict[str, bool],
    places: list[Path],
    names: tuple[str, ...],
) -> ForeignFile:
    """Records as a table with the digest of all files that were read."""
    files = [place / one for place in places for one in names] if names else places
    table = records_table(records)
    there = {column: role for column, role in roles.items() if column in table.column_names}
    form = TableFormat(name, there, maximise)
    return ForeignFile(table, folder, _digest_of(folder, files), 1, form=form)


def _digest_of(folder: Path, files: list[Path]) -> str:
    digest = sha256()
    for file in files:
        if file.is_file():
            digest.update(f"{file.relative_to(folder)}\0{file_digest(file)}\0".encode())
    return digest.hexdigest()[:12]
