"""The files of the tabular benchmark, made from its studies: one Parquet per domain, table.json.

`tabular_benchmark.py` runs the studies; `ray_unlearn.tabular` reads what is written here.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import ray_unlearn as ru
from ray_unlearn.spec.attack_spec import AttackSpec
from ray_unlearn.spec.listed_points import middle_of, sampled_parameters
from ray_unlearn.spec.method_registry import method_named
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.atomic_write import whole_file, write_whole
from ray_unlearn.store.attack_file import ATTACKED, AttackedModel, AttackOutcome, read_attacks
from ray_unlearn.store.schema import Column
from ray_unlearn.store.status import open_study
from ray_unlearn.store.study_columns import study_columns
from ray_unlearn.tabular import FACTS, MethodTable

VERSION = 1
ATTACKS = AttackSpec(
    attacks=("relearn", "quantise"), updates=(5, 20), learnt=("forget",), bits=(4,)
)
KEYS = ("domain", "trained_model", "method", "configuration", "seed", "status")
ENDED = ("complete", "diverged", "out_of_memory")
"""Outcomes that say something of a configuration."""
LEFT_OUT = {
    "accelerator_s": "0 on a CPU",
    "efficiency_ratio": "retraining_flops / flops",
    "peak_memory_gib": "that of a lane, whatever trial it runs",
}
"""Columns that the table lacks, and why; perplexities are exp(nll), made when it is read."""
NARROW = {"trained_model": np.int8, "configuration": np.int16, "seed": np.int16,
          "update": np.int16, "forget_tokens": np.int32, "retain_tokens": np.int32}  # fmt: skip
FEW = 8
"""A column with a value for every eighth row, or fewer, is written with a dictionary."""
LICENCE = "Apache-2.0; the numbers are of models trained on text under the licences of NOTICE.md"


@dataclass(frozen=True)
class Source:
    """The studies of one domain and trained model."""

    domain: str
    trained_model: int
    file: str
    """Stem of the Parquet file that its rows belong to."""
    study: Path
    part: Path | None


def numbered_points(study: ru.Study, method: str) -> dict[int, dict[str, Any]]:
    """The configurations of a method by number: its trials in their order."""
    names = list(sampled_parameters(study.spec.spaces[method]))
    trials = study.trials
    own = trials[trials["method"] == method].sort_values("number")
    return dict(enumerate(own[names].to_dict("records")))


def attack_amounts(outcome: AttackOutcome) -> str:
    """The beginning of an outcome's columns: `relearn_20`, `quantise_4`."""
    return f"{outcome.attack}_{outcome.amount:g}"


def attack_columns() -> dict[str, Column]:
    """The columns that attacks add to the rows that were attacked."""
    found = {}
    for name, what in (
        *((f"relearn_{n}", f"after {n} updates of relearning on a quarter of the forget set, on "
           "the rest of it") for n in ATTACKS.updates),
        *((f"quantise_{n}", f"with weights in {n} bits") for n in ATTACKS.bits),
    ):  # fmt: skip
        found[f"{name}_nll"] = Column(f"{name}_nll", "nats/token", "none", f"forget NLL {what}")
        found[f"{name}_undone"] = Column(
            f"{name}_undone", "1", "minimize", f"share of the forgetting taken back {what}"
        )
    return found


def attack_values(model: AttackedModel) -> dict[str, float]:
    """The attack columns of one row."""
    found: dict[str, float] = {}
    for outcome in model.outcomes:
        undone, name = outcome.undone(), attack_amounts(outcome)
        found[f"{name}_nll"] = outcome.nll["trial"]
        found[f"{name}_undone"] = np.nan if undone is None else undone
    return found


def study_lines(source: Source, place: Path, numbers: ru.Study) -> pd.DataFrame:
    """The rows of one study, with the number of each trial's configuration."""
    study = ru.open(place)
    rows, found = study.rows, []
    for method in study.spec.methods:
        points = numbered_points(numbers, method)
        names = list(sampled_parameters(study.spec.spaces[method]))
        known = {tuple(point[name] for name in names): number for number, point in points.items()}
        own = rows[(rows["method"] == method) & rows["status"].isin(ENDED)]
        of = [known[tuple(line)] for line in own[names].itertuples(index=False)]
        found.append(own.assign(configuration=of))
    lines = pd.concat(found).assign(domain=source.domain, trained_model=source.trained_model)
    lines["update"] = lines["update"].fillna(0)
    lines["strength"] = lines["strength"].fillna(1.0)
    attacks = [
        {"number": m.number, "update": m.update, "strength": m.strength} | attack_values(m)
        for m in read_attacks(place)
    ]
    if attacks:
        lines = lines.merge(pd.DataFrame(attacks), on=["number", "update", "strength"], how="left")
    return lines


def searched_names(specs: Sequence[StudySpec]) -> list[str]:
    """Every hyperparameter that is searched in some study; `steps` is the update of a row."""
    names = [n for spec in specs for space in spec.spaces.values() for n in space.sampled()]
    return list(dict.fromkeys(names))


def domain_table(sources: Sequence[Source]) -> pd.DataFrame:
    """All rows of one file, in order."""
    lines, specs = [], []
    for source in sources:
        study = ru.open(source.study)
        specs.append(study.spec)
        for place in (source.study, source.part):
            if place is not None:
                lines.append(study_lines(source, place, study))
    every = pd.concat(lines, ignore_index=True)
    metrics = [*study_columns(specs[0]), *attack_columns()]
    kept = [n for n in metrics if n in every and n not in LEFT_OUT and "_ppl" not in n]
    settings = searched_names(specs)
    every = every[[*KEYS, *settings, *kept]]
    every = every.sort_values(["method", *KEYS[1:2], *KEYS[3:5], "update", "strength"])
    for name in every:
        if name in NARROW:
            every[name] = every[name].fillna(0).astype(NARROW[name])
        elif name in kept:
            every[name] = every[name].astype(np.float32)
    return every.reset_index(drop=True)


def write_domain(table: pd.DataFrame, path: Path) -> None:
    """Write one Parquet file: a dictionary where values repeat, else bytes of floats apart."""
    few = [name for name in table if table[name].nunique() * FEW <= len(table)]
    few += [name for name in table if table[name].dtype.kind not in "f" and name not in few]
    apart = {name: "BYTE_STREAM_SPLIT" for name in table if name not in few}
    content = pa.Table.from_pandas(table, preserve_index=False)
    content = content.replace_schema_metadata({"table": "ray-unlearn", "version": str(VERSION)})
    with whole_file(path) as draft:
        pq.write_table(
            content, draft, compression="zstd", compression_level=19, use_dictionary=few,
            column_encoding=apart or None, row_group_size=len(table) or 1,
        )  # fmt: skip


def most_steps(spec: StudySpec) -> int:
    """The updates of a trial of full length."""
    (steps,) = {space.parameters["steps"].high for space in spec.spaces.values()}  # type: ignore[union-attr]
    return steps


def method_facts(spec: StudySpec) -> dict[str, Any]:
    """Loss, searched parameters and constants of each method."""
    found = {}
    for method in spec.methods:
        space = spec.spaces[method]
        sampled = sampled_parameters(space)
        point = {name: middle_of(p) for name, p in sampled.items()}
        constants = space.resolve(point).model_dump(mode="json")
        found[method] = {
            "loss": method_named(method).loss,
            "space": {name: p.model_dump(mode="json", exclude={"grid", "role", "when"})
                      for name, p in sampled.items()},
            "fixed": {k: v for k, v in constants.items() if k not in sampled and v is not None},
        }  # fmt: skip
    return found


def model_facts(source: Source) -> dict[str, Any]:
    """A trained model: where it is from, its baselines and what attacks do to those."""
    spec, record = open_study(source.study)
    facts: dict[str, Any] = {
        "source": spec.model.source,
        "context": record.header.context,
        "retraining_flops": record.header.retraining_flops,
        "baselines": {name: dict(row.items()) for name, row in record.baselines.items()},
    }
    attacked = read_attacks(source.part) if source.part is not None else []
    for outcome in attacked[0].outcomes if attacked else ():
        for model in ATTACKED[1:]:
            if model in outcome.nll:
                of = facts.setdefault("attacked_baselines", {}).setdefault(model, {})
                of[f"{attack_amounts(outcome)}_nll"] = outcome.nll[model]
    return facts


def file_facts(sources: Sequence[Source], table: pd.DataFrame, path: Path) -> dict[str, Any]:
    """What table.json says of one Parquet file."""
    spec = ru.open(sources[0].study).spec
    main = table[table["seed"] == table["seed"].min()]
    least = main.groupby(["method", "trained_model"])["configuration"].nunique().min()
    last = table[table["strength"] == 1].groupby([*KEYS[1:5]])
    seconds = last[["wall_s", "evaluation_wall_s"]].max().sum(axis=1)
    return {
        "domain": sources[0].domain,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "rows": len(table),
        "trials": len(seconds),
        "configurations": int(least),
        "mean_trial_s": round(float(seconds.mean()), 3) if seconds.any() else None,
        "updates": list(spec.evaluation.updates(most_steps(spec))),
        "models": {str(source.trained_model): model_facts(source) for source in sources},
        "methods": method_facts(spec),
    }


def write_tables(folder: Path, sources: Sequence[Source], say: Callable[[str], None]) -> None:
    """Write all files of the table from the studies that there are.

    Args:
        folder: of the table.
        sources: the studies.
        say: receives a line for each file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {}
    columns: Mapping[str, Column] = attack_columns()
    for stem in dict.fromkeys(source.file for source in sources):
        own = [source for source in sources if source.file == stem]
        path, table = folder / f"{stem}.parquet", domain_table(own)
        write_domain(table, path)
        files[stem] = file_facts(own, table, path)
        columns = study_columns(ru.open(own[0].study).spec) | columns
        say(f"{path}: {len(table):,} rows, {files[stem]['bytes'] / 2**20:.2f} MiB, "
            f"{files[stem]['mean_trial_s']} s a trial")  # fmt: skip
    facts: dict[str, Any] = {
        "name": "ray-unlearn table",
        "version": VERSION,
        "made_with": {"ray_unlearn": ru.__version__, "torch": torch.__version__,
                      "machine": platform.machine()},
        "licence": LICENCE,
        "files": files,
        "columns": {
            name: {k: v for k, v in asdict(column).items() if k != "name"}
            for name, column in columns.items()
            if name not in LEFT_OUT
        },
        "left_out": LEFT_OUT,
    }  # fmt: skip
    write_facts(folder, facts)
    for file in files.values():
        file["nearest"] = nearest_errors(folder, file)
    write_facts(folder, facts)
    total = sum(file["bytes"] for file in files.values())
    say(f"{folder}: {total / 2**20:.2f} MiB, {sum(f['trials'] for f in files.values()):,} trials")


def nearest_errors(folder: Path, file: Mapping[str, Any]) -> dict[str, Any]:
    """By method, what answering a left-out configuration by its nearest costs, nats/token.

    Median and 90 % quantile over configurations and trained models, of the best score.
    """
    found = {}
    for method in file["methods"]:
        errors = np.concatenate(
            [
                MethodTable(folder, file["domain"], method, int(model)).left_out_errors()
                for model in file["models"]
            ]
        )
        if len(errors):
            low, high = np.quantile(errors, [0.5, 0.9])
            found[method] = {"median": round(float(low), 4), "q90": round(float(high), 4)}
    return found


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write table.json, whole or not at all."""
    text = json.dumps(facts, indent=1, allow_nan=False)
    write_whole(folder / FACTS, f"{text}\n".encode())
