"""Results of one or several studies as data frames, from study directories or from result tables.

A study directory is a folder with `ledger/events.jsonl`. A result table is what
`results.table.write_table` writes (`.parquet`, `.csv`); it may hold several studies. A table
carries no baselines, so they are looked for beside it, in `TABLE.baselines.parquet`,
`TABLE.baselines.csv`, `baselines.parquet`, `baselines.csv`, in this order (what
`results.table.baseline_table` gives, with a `study` column where the table holds several studies).
Without them every comparison against the vanilla model or the target is withheld.

Any other table is a foreign one (`foreign`): its trials can be analysed, but it is no study, and
has no section of its own in a report.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

import pandas as pd
import pyarrow as pa

from ray_unlearn.analysis.read.column_roles import HowToRead, Reading, reading_of
from ray_unlearn.analysis.read.evaluation_rows import REQUIRED, in_order, tidy_baselines, tidy_rows
from ray_unlearn.analysis.read.foreign_sources import results_folder, storage_file
from ray_unlearn.analysis.read.foreign_table import ForeignFile, ForeignResults, read_foreign
from ray_unlearn.analysis.read.rescored_rows import rescored_rows
from ray_unlearn.analysis.read.table_files import (
    baselines_beside,
    baselines_of,
    check_baselines,
    file_digest,
    read_cells,
)
from ray_unlearn.analysis.read.text_tables import REPAIRED, SUFFIXES
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.given_file import given_bytes
from ray_unlearn.spec.method_registry import METHODS
from ray_unlearn.spec.objective_spec import ObjectiveSpec, ScoreRuleName
from ray_unlearn.spec.score_weights import OPTION, ScoreWeights
from ray_unlearn.spec.strict import validated, yaml_value
from ray_unlearn.spec.study_spec import StudySpec, public_name
from ray_unlearn.spec.task_results import TASKS_FILE, TaskResults, read_task_results
from ray_unlearn.store.attack_file import AttackedModel, read_attacks
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.objective import Objective, objective_of
from ray_unlearn.store.scan import events_file
from ray_unlearn.store.schema import COLUMNS, STATUSES, Column
from ray_unlearn.store.study_columns import extra_names, study_columns
from ray_unlearn.store.table import baseline_table, result_table, settings_of


@dataclass(frozen=True)
class StudyResults:
    """One study: what was planned, every evaluation row, the baselines."""

    key: str
    """Unique among the studies of a report: the study's name, with its source where two share the
    name."""
    name: str
    domain: str
    model: str
    source: str
    """Where it was read from: the last names of the path only, so that a published report shows no
    private folder."""
    source_digest: str
    rows: pd.DataFrame
    """One line per evaluation row, by trial and update; a trial without rows has one line without
    `update`."""
    baselines: pd.DataFrame
    """Indexed by baseline name (`vanilla`, `exact_retrain`), columns as in `COLUMNS`; may be
    empty."""
    spec: StudySpec | None = None
    """As the study began."""
    extended_to: int | None = None
    """Trials of each method as of the last extension; None when the study was never extended."""
    header: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    duplicates: int = 0
    """Exact copies of a row that were left out."""
    rescored: ScoreWeights | None = None
    """Weights that its rows were scored with again; None: its scores are those it was searched
    with."""
    attacks: tuple[AttackedModel, ...] = ()
    """Models that were attacked after the study (`ray-unlearn attack`)."""
    task_results: tuple[TaskResults, ...] = ()
    """What `ray-unlearn evaluate` measured of its models."""

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """Hyperparameters in the columns of `rows`."""
        return settings_of([str(name) for name in self.rows])

    @property
    def weights(self) -> ScoreWeights:
        """Weights of the parts of its scores; all 1 where a table does not say."""
        known = self.spec.objective.weights if self.spec is not None else ScoreWeights()
        return self.rescored or known

    @property
    def objective(self) -> ObjectiveSpec:
        """What made its scores and its rows feasible, as far as a table says."""
        if self.spec is not None:
            return self.spec.objective
        written = str(self.rows["objective"].iloc[0]) if "objective" in self.rows else ""
        where = f"{self.source}: column `objective`"
        return validated(ObjectiveSpec, _mapping(written, where), where)

    @property
    def columns(self) -> dict[str, Column]:
        """The columns that its rows have; without a spec the side of some is not known."""
        if self.spec is not None:
            return study_columns(self.spec)
        own = extra_names(map(str, self.rows.columns))
        return COLUMNS | {name: Column(name, "1", "none", "") for name in own}

    @property
    def rule(self) -> Objective:
        """Its objective as a rule for rows."""
        return objective_of(self.objective, self.columns, self.source)

    @property
    def is_weighted(self) -> bool:
        """Whether its scores are weighted sums, and not one metric."""
        return self.objective.aim is None

    @property
    def score_rule(self) -> ScoreRuleName:
        """The rule that chose the row that scores each trial (`store.score`)."""
        rule: ScoreRuleName = self.rows["score_rule"].iloc[0]
        return rule

    @property
    def place(self) -> str:
        """Name of the study directory or table file."""
        return self.source.split("/ledger/")[0]

    @property
    def trials(self) -> pd.DataFrame:
        """One line per trial, by number."""
        return self.rows.drop_duplicates("number").reset_index(drop=True)

    @property
    def methods(self) -> tuple[str, ...]:
        """Planned methods in the order of the study; from a table, those found.

        Methods that are found come in the order of `METHODS`.
        """
        if self.spec is not None:
            return self.spec.methods
        found = set(self.rows["method"])
        return (*(name for name in METHODS if name in found), *sorted(found - set(METHODS)))

    @property
    def planned(self) -> int | None:
        """Trials the study is to have; None where it is not known (a table, a grid)."""
        if self.spec is None or self.spec.search.trials_per_method is None:
            return None
        each = self.extended_to or self.spec.search.trials_per_method
        return each * len(self.spec.methods)

    @property
    def outcomes(self) -> dict[str, int]:
        """Number of trials by status, all statuses named; `running` has no outcome yet."""
        counts = self.trials["status"].value_counts()
        return {status: int(counts.get(status, 0)) for status in STATUSES}

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the trials, rising."""
        return tuple(sorted({int(seed) for seed in self.rows["seed"].dropna()}))

    def baseline(self, name: str) -> pd.Series | None:
        """Metrics of one baseline, or None where it was not measured."""
        return self.baselines.loc[[name]].iloc[0] if name in self.baselines.index else None


@dataclass(frozen=True)
class Results:
    """All studies of a report, in the order given, and foreign tables beside them."""

    studies: tuple[StudyResults, ...]
    foreign: tuple[ForeignResults, ...] = ()
    weights: ScoreWeights | None = None
    """Weights of the scores' parts, those asked for or of all studies; None where a study does not
    say, or theirs differ."""

    @property
    def rows(self) -> pd.DataFrame:
        """The rows of all studies; `study` holds the studies' keys."""
        parts = [study.rows.assign(study=study.key) for study in self.studies]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def load(sources: list[Path], **how: Unpack[HowToRead]) -> Results:
    """Read study directories, result tables and foreign results.

    Args:
        sources: folders and files.
        how: foreign tables are to be read, and with which weights rows are scored again
            (`column_roles.Reading`).

    Raises:
        UserError: no source; a source that is missing, empty, damaged or given twice; a foreign
            table that lacks what it needs or contradicts itself; baselines that contradict the
            rows; a mapping but no foreign table; weights, but a source without the score's parts.
    """
    if not sources:
        raise UserError(
            "nothing to report on: name one study directory or result table, or several"
        )
    reading = reading_of(**how)
    studies: list[StudyResults] = []
    foreign: list[ForeignResults] = []
    for source in sources:
        for found in _read(source, reading):
            if isinstance(found, ForeignResults):
                other = next(
                    (one for one in foreign if one.source_digest == found.source_digest), None
                )
                if other is not None:
                    raise UserError(f"{source}: the same table as {other.source}; name it once")
                foreign.append(found)
                continue
            twin = next((other for other in studies if _same(found, other)), None)
            if twin is not None:
                raise UserError(
                    f"{source}: study {found.name!r} is already in {twin.source}; name it once"
                )
            studies.append(found if reading.weights is None else _again(found, reading.weights))
    if not foreign and reading.given:
        raise UserError(
            f"{' '.join(reading.given)}: only for foreign tables, and {sources[0]} is a study of "
            "our own; remove it"
        )
    names = [study.name for study in studies]
    keys = [
        f"{study.name} ({study.place})" if names.count(study.name) > 1 else study.name
        for study in studies
    ]
    numbered = [f"{key} {i}" if keys.count(key) > 1 else key for i, key in enumerate(keys, start=1)]
    known = {
        study.weights if study.spec is not None and study.is_weighted else None for study in studies
    }
    return Results(
        tuple(replace(study, key=key) for study, key in zip(studies, numbered, strict=True)),
        tuple(foreign),
        reading.weights or (known.pop() if len(known) == 1 else None),
    )


def _again(study: StudyResults, weights: ScoreWeights) -> StudyResults:
    """The study with its rows scored with other weights; as it is where that changes no score.

    Raises:
        UserError: its scores are not weighted sums, or their parts are not known.
    """
    if not study.is_weighted:
        raise UserError(
            f"{study.place}: its score is no weighted sum but `{study.objective.beyond_weights()}`,"
            f" so it has no weights to change; leave out {OPTION}"
        )
    rows = rescored_rows(study.rows, study.baselines, study.score_rule, weights, study.place)
    same = study.weights == weights if study.spec is not None else rows.equals(study.rows)
    return study if same else replace(study, rows=rows, rescored=weights)


def _same(one: StudyResults, other: StudyResults) -> bool:
    if (one.name, one.domain, one.model) != (other.name, other.domain, other.model):
        return False
    ids = [set(study.rows["trial_id"].dropna()) - {""} for study in (one, other)]
    return one.source_digest == other.source_digest or (bool(ids[0]) and ids[0] == ids[1])


def _read(source: Path, reading: Reading) -> Iterator[StudyResults | ForeignResults]:
    if source.is_dir():
        yield _from_directory(source, reading)
    elif not source.is_file():
        what = "neither a file nor a folder" if source.exists() else "no such file or folder"
        raise UserError(
            f"{source}: {what}; name a study directory or a result table "
            f"(.parquet, {', '.join(SUFFIXES)})"
        )
    elif (storage := storage_file(source)) is not None:
        yield read_foreign(storage, reading)
    elif source.suffix.lower() in (".parquet", *SUFFIXES):
        table, separator = read_cells(source)
        if _ours(table.column_names, reading):
            if repaired := (table.schema.metadata or {}).get(REPAIRED):
                raise UserError(f"{source}: {repaired.decode()}; write the table again")
            yield from _from_table(source, table)
        else:
            first = 1 if source.suffix.lower() not in (".csv", ".tsv", ".txt") else 2
            file = ForeignFile(table, source, file_digest(source), first, separator)
            yield read_foreign(file, reading)
    else:
        raise UserError(
            f"{source}: neither a study directory nor a result table; use a folder, .parquet, "
            f"{', '.join(SUFFIXES)}, or an Optuna storage"
        )


def _from_directory(folder: Path, reading: Reading) -> StudyResults | ForeignResults:
    ledger = next(
        (place for place in (folder / "ledger", folder) if events_file(place).is_file()), None
    )
    if ledger is None:
        if (foreign := results_folder(folder)) is not None:
            return read_foreign(foreign, reading)
        raise UserError(
            f"{folder}: no `ledger/events.jsonl` in it; name the directory that `ray-unlearn run` "
            "made, or results of Ray Tune (params.json), MLflow (mlruns), DeepCAVE "
            "(history.jsonl) or OpenUnlearning (*_SUMMARY.json)"
        )
    record = read_ledger(ledger)
    missing = [key for key in ("spec", "domain") if not getattr(record.header, key)]
    if missing:
        raise UserError(
            f"{events_file(ledger)}: the header lacks `{missing[0]}`; was it written by another "
            "program?"
        )
    spec = validated(StudySpec, record.header.spec, f"{events_file(ledger)}: header: spec")
    place = ledger.resolve()
    found = tidy_rows(result_table(record).to_pandas(), str(events_file(ledger)))
    rows = in_order(found, str(events_file(ledger)))
    return StudyResults(
        key=spec.name,
        name=spec.name,
        domain=record.header.domain,
        model=public_name(spec.model.source),
        source="/".join([*place.parts[-2:], events_file(place).name]),
        source_digest=file_digest(events_file(ledger)),
        rows=rows,
        baselines=tidy_baselines(baseline_table(record).to_pandas(), str(events_file(ledger))),
        spec=spec,
        extended_to=record.trials_per_method,
        header=_facts(vars(record.header) | record.header.other),
        notes=tuple(record.notes),
        duplicates=len(found) - len(rows),
        task_results=_task_results(folder),
        attacks=tuple(read_attacks(ledger.parent)),
    )


def _task_results(folder: Path) -> tuple[TaskResults, ...]:
    file = folder / TASKS_FILE
    return read_task_results(given_bytes(file), str(file)) if file.is_file() else ()


def _mapping(text: str, where: str) -> dict[str, Any]:
    """What `ObjectiveSpec.beyond_weights` wrote."""
    try:
        found = yaml_value(f"{{{text}}}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{where}: {text!r} is no objective; write the table again")
    return found


def _ours(columns: list[str], reading: Reading) -> bool:
    """Whether a table is one of ours: it has most of the required columns.

    What it lacks is then an error, not a sign of another origin.
    """
    missing = sum(name not in columns for name in REQUIRED)
    return missing == 0 or (missing < len(REQUIRED) / 2 and not reading.given)


def _from_table(path: Path, table: pa.Table) -> Iterator[StudyResults]:
    rows = tidy_rows(table.to_pandas(), str(path))
    groups = list(rows.groupby(["study", "domain", "model"]))
    beside = baselines_beside(path)
    for key, found in groups:
        study, domain, model = (str(part) for part in key)
        group = in_order(found, str(path))
        name = study or path.stem
        if group["score_rule"].nunique() > 1:
            raise UserError(
                f"{path}: study {name!r} has rows scored by best_row and by stop_rule "
                "(`score_rule`); "
                "a study has one rule: name its directory instead, or write its table again"
            )
        if "objective" in group and group["objective"].nunique() > 1:
            raise UserError(
                f"{path}: study {name!r} has rows scored by different objectives (`objective`); "
                "name its directory instead, or write its table again"
            )
        baselines = baselines_of(name, beside, len(groups))
        if beside is not None:
            check_baselines(group, baselines, path, beside[0])
        yield StudyResults(
            key=name,
            name=name,
            domain=domain,
            model=public_name(model),
            source=path.name,
            source_digest=file_digest(path),
            rows=group,
            baselines=baselines,
            duplicates=len(found) - len(group),
        )


def _facts(header: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """The header's versions and digests, flat (`versions.torch`).

    Without the spec and without local paths.
    """
    facts: dict[str, str] = {}
    for key, value in header.items():
        if prefix == "" and key in ("spec", "domain", "other"):
            continue
        if isinstance(value, dict):
            facts |= _facts(value, f"{prefix}{key}.")
        elif isinstance(value, (str, int, float, bool)):
            facts[f"{prefix}{key}"] = public_name(str(value))
    return facts
