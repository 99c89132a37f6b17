"""Results that are no single table, but a storage or a folder of another program.

These are Optuna's storages, and folders of Ray Tune, DeepCAVE and OpenUnlearning.
"""

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from ray_unlearn.analysis.read.foreign_table import ForeignFile
from ray_unlearn.analysis.read.open_unlearning import open_unlearning_records
from ray_unlearn.analysis.read.optuna_storage import optuna_records
from ray_unlearn.analysis.read.table_files import file_digest
from ray_unlearn.analysis.read.table_formats import (
    DEEPCAVE,
    OPEN_UNLEARNING,
    OPTUNA,
    RAY_TUNE,
    TableFormat,
)
from ray_unlearn.analysis.read.text_tables import flattened, records_table
from ray_unlearn.spec.errors import UserError

Records = list[dict[str, Any]]
DEEPCAVE_STATES = {
    1: "success", 2: "timeout", 3: "memoryout", 4: "crashed", 5: "aborted", 6: "running",
    7: "running",
}  # fmt: skip


def storage_file(path: Path) -> ForeignFile | None:
    """An Optuna storage (SQLite, or a journal) as a table; None where the file is none.

    Raises:
        UserError: a database that Optuna cannot read, or without a trial.
    """
    found = optuna_records(path)
    if found is None:
        return None
    records, maximise = found
    roles = {"study": "study", "number": "trial", "state": "status"}
    if any("value" in record for record in records):
        roles["value"] = "score"
    form = TableFormat(f"an Optuna storage ({OPTUNA})", roles, maximise)
    if "value" not in roles:
        form = TableFormat(OPTUNA, roles, maximise)
    return ForeignFile(records_table(records), path, file_digest(path), 1, form=form)


def results_folder(folder: Path) -> ForeignFile | None:
    """A folder of another program as a table; None where it is none that is known.

    Raises:
        UserError: a file in it is damaged.
    """
    for reader in (_ray_tune, _deepcave, _open_unlearning):
        found = reader(folder)
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
        config = flattened(_loaded(trial / "params.json"), "config/", "/")
        status = "failed" if (trial / "error.txt").is_file() else "complete"
        lines = list(_json_lines(trial / "result.json"))
        for line in lines or [{}]:
            line.pop("config", None)
            known = {"trial_id": trial.name, **flattened(line, joint="/"), "status": status}
            records.append(known | config if lines else known | config | {"status": "failed"})
    roles = {"trial_id": "trial", "training_iteration": "step", "status": "status"}
    return _as_file(folder, records, RAY_TUNE, roles, {}, trials, ("params.json", "result.json"))


def _deepcave(folder: Path) -> ForeignFile | None:
    """DeepCAVE's run: configs.json, meta.json, history.jsonl."""
    if not (folder / "history.jsonl").is_file() or not (folder / "configs.json").is_file():
        return None
    configs, meta = _loaded(folder / "configs.json"), _loaded(folder / "meta.json")
    objectives = meta.get("objectives", [])
    records: Records = []
    for line in _json_lines(folder / "history.jsonl"):
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
    return _as_file(folder, records, DEEPCAVE, roles, maximise, [folder], files)


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
    digest = sha256()
    files = [place / one for place in places for one in names] if names else places
    for file in files:
        if file.is_file():
            digest.update(f"{file.relative_to(folder)}\0{file_digest(file)}\0".encode())
    table = records_table(records)
    there = {column: role for column, role in roles.items() if column in table.column_names}
    form = TableFormat(name, there, maximise)
    return ForeignFile(table, folder, digest.hexdigest()[:12], 1, form=form)


def _json_lines(path: Path) -> Iterator[Any]:
    """One value a line; a torn last line is left out."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            if number < len(lines):
                raise UserError(f"{path}: line {number} is no JSON: {error}") from None


def _loaded(path: Path, read: Callable[[str], Any] = json.loads) -> dict[str, Any]:
    try:
        found = read(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds no record `{{...}}`")
    return found
