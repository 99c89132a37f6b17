"""Results of one or several studies as data frames, from study directories or from result tables.

A study directory is a folder with `ledger/events.jsonl`. A result table is what `results.table.write_table` writes
(`.parquet`, `.csv`); it may hold several studies. A table carries no baselines, so they are looked for beside it, in
`TABLE.baselines.parquet`, `TABLE.baselines.csv`, `baselines.parquet`, `baselines.csv`, in this order (what
`results.table.baseline_table` gives, with a `study` column where the table holds several studies). Without them every
comparison against the vanilla model or the target is withheld.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ray_unlearn.analysis.tidy import STATUSES, tidy_baselines, tidy_rows
from ray_unlearn.results.ledger import read_ledger
from ray_unlearn.results.scan import events_file
from ray_unlearn.results.schema import COLUMNS, SCHEMA_VERSION
from ray_unlearn.results.table import TEXT_COLUMNS, baseline_table, result_table
from ray_unlearn.spec.base import validated
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.methods import METHODS
from ray_unlearn.spec.study import StudySpec


@dataclass(frozen=True)
class StudyResults:
    """One study: what was planned, every evaluation row, the baselines."""

    key: str
    """Unique among the studies of a report: the study's name, with its source where two share the name."""
    name: str
    domain: str
    model: str
    source: str
    """Where it was read from: the last names of the path only, so that a published report shows no private folder."""
    source_digest: str
    rows: pd.DataFrame
    """One line per evaluation row, by trial and update; a trial without rows has one line without `update`."""
    baselines: pd.DataFrame
    """Indexed by baseline name (`vanilla`, `exact_retrain`), columns as in `COLUMNS`; may be empty."""
    spec: StudySpec | None = None
    header: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

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
        """Planned methods in the study's order; from a table, those found, in the order of `METHODS`."""
        if self.spec is not None:
            return self.spec.methods
        found = set(self.rows["method"])
        return (*(name for name in METHODS if name in found), *sorted(found - set(METHODS)))

    @property
    def planned(self) -> int | None:
        """Trials the study file asks for; None where it cannot be told (a table, a grid)."""
        if self.spec is None or self.spec.search.trials_per_method is None:
            return None
        return self.spec.search.trials_per_method * len(self.spec.methods)

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
    """All studies of a report, in the order given."""

    studies: tuple[StudyResults, ...]

    @property
    def rows(self) -> pd.DataFrame:
        """The rows of all studies; `study` holds the studies' keys."""
        return pd.concat([study.rows.assign(study=study.key) for study in self.studies], ignore_index=True)


def load(sources: list[Path]) -> Results:
    """Read study directories and result tables.

    Raises:
        UserError: no source; a source that is missing, empty, damaged, foreign or given twice; baselines that
            contradict the rows.
    """
    if not sources:
        raise UserError("nothing to report on: name one study directory or result table, or several")
    studies: list[StudyResults] = []
    for source in sources:
        for study in _read(source):
            twin = next((other for other in studies if _same(study, other)), None)
            if twin is not None:
                raise UserError(f"{source}: study {study.name!r} is already in {twin.source}; name it once")
            studies.append(study)
    names = [study.name for study in studies]
    keys = [f"{study.name} ({study.place})" if names.count(study.name) > 1 else study.name for study in studies]
    numbered = [f"{key} {i}" if keys.count(key) > 1 else key for i, key in enumerate(keys, start=1)]
    return Results(tuple(replace(study, key=key) for study, key in zip(studies, numbered, strict=True)))


def _same(one: StudyResults, other: StudyResults) -> bool:
    if one.source_digest == other.source_digest and one.name == other.name:
        return True
    ids = [set(study.rows["trial_id"].dropna()) - {""} for study in (one, other)]
    return one.name == other.name and bool(ids[0]) and ids[0] == ids[1]


def _read(source: Path) -> Iterator[StudyResults]:
    if source.is_dir():
        yield _from_directory(source)
    elif source.suffix in (".parquet", ".csv") and source.is_file():
        yield from _from_table(source)
    elif not source.exists():
        raise UserError(f"{source}: no such file or folder; name a study directory or a result table (.parquet, .csv)")
    else:
        raise UserError(f"{source}: neither a study directory nor a result table; use a folder, .parquet or .csv")


def _from_directory(folder: Path) -> StudyResults:
    ledger = next((place for place in (folder / "ledger", folder) if events_file(place).is_file()), None)
    if ledger is None:
        raise UserError(f"{folder}: no `ledger/events.jsonl` in it; name the directory that `ray-unlearn run` made")
    record = read_ledger(ledger)
    missing = [key for key in ("spec", "domain") if key not in record.header]
    if missing:
        raise UserError(f"{events_file(ledger)}: the header lacks `{missing[0]}`; was it written by another program?")
    spec = validated(StudySpec, record.header["spec"], f"{events_file(ledger)}: header: spec")
    place = ledger.resolve()
    return StudyResults(
        key=spec.name,
        name=spec.name,
        domain=str(record.header["domain"]),
        model=public_name(spec.model.source),
        source="/".join([*place.parts[-2:], events_file(place).name]),
        source_digest=_file_digest(events_file(ledger)),
        rows=tidy_rows(result_table(record).to_pandas(), str(events_file(ledger))),
        baselines=tidy_baselines(baseline_table(record).to_pandas(), str(events_file(ledger))),
        spec=spec,
        header=_facts(record.header),
        notes=tuple(str(note.get("text", note)) for note in record.notes),
    )


def _from_table(path: Path) -> Iterator[StudyResults]:
    rows = tidy_rows(_frame(path), str(path))
    known = [name for name in ("study", "domain", "model") if name in rows]
    groups = list(rows.groupby(known, sort=False, dropna=False))
    beside = _baselines_beside(path)
    for group in (part.reset_index(drop=True) for _, part in groups):
        first = group.iloc[0]
        name = str(first["study"] or path.stem)
        baselines = _baselines_of(name, beside, len(groups))
        if beside is not None:
            _check_baselines(group, baselines, path, beside[0])
        yield StudyResults(
            key=name,
            name=name,
            domain=str(first["domain"]),
            model=public_name(str(first["model"])),
            source=path.name,
            source_digest=_file_digest(path),
            rows=group,
            baselines=baselines,
        )


def _frame(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".csv":
            return pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str), low_memory=False)
        table = pq.read_table(path)
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: cannot be read as a table: {str(error).splitlines()[0]}") from None
    version = int((table.schema.metadata or {}).get(b"schema_version", b"0"))
    if version > SCHEMA_VERSION:
        raise UserError(f"{path}: schema version {version} is newer than {SCHEMA_VERSION}; update ray_unlearn")
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _baselines_beside(path: Path) -> tuple[Path, pd.DataFrame] | None:
    stems = (f"{path.stem}.baselines", "baselines")
    for candidate in (path.parent / f"{stem}{ending}" for stem in stems for ending in (".parquet", ".csv")):
        if candidate.is_file() and candidate != path:
            return candidate, _frame(candidate)
    return None


def _baselines_of(study: str, beside: tuple[Path, pd.DataFrame] | None, studies: int) -> pd.DataFrame:
    if beside is None:
        return pd.DataFrame(columns=list(COLUMNS), dtype=float)
    path, frame = beside
    if "study" in frame:
        frame = frame[frame["study"].astype(str) == study]
    elif studies > 1:
        raise UserError(
            f"{path}: the table holds {studies} studies; add a `study` column that says whose baselines these are"
        )
    return tidy_baselines(frame.reset_index(drop=True), str(path))


def _check_baselines(rows: pd.DataFrame, baselines: pd.DataFrame, table: Path, path: Path) -> None:
    """Baselines of another study would give wrong targets without a sign; the rows' forget gap tells."""
    if "vanilla" not in baselines.index:
        return
    target = float(baselines["approximate_nll_selection"]["vanilla"])
    expected = (rows["forget_nll"] - target).abs()
    difference = (expected - rows["forget_gap_selection"]).abs()
    if (difference > 1e-4).any():
        raise UserError(
            f"{path}: does not belong to {table}: its target contradicts `forget_gap_selection`; remove or rename it"
        )


def public_name(text: str) -> str:
    """A hub id or `demo:` source as it is; of a local path only the last name."""
    return Path(text).name if text.startswith(("/", ".", "~")) else text


def _facts(header: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """The header's versions and digests, flat (`versions.torch`), without the spec and without local paths."""
    facts: dict[str, str] = {}
    for key, value in header.items():
        if prefix == "" and key in ("kind", "spec", "domain"):
            continue
        if isinstance(value, dict):
            facts |= _facts(value, f"{prefix}{key}.")
        elif isinstance(value, (str, int, float, bool)):
            facts[f"{prefix}{key}"] = public_name(str(value))
    return facts


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
