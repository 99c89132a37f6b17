"""Publish the reference campaign: its result table, and guidelines by both ways of scoring.

    python scripts/reference_tables.py results/reference/*-[0-9] -o docs/reference

Writes `rows.parquet` (all rows of all worlds) with `baselines.parquet`, `report.html` and
`guidelines.json` (trials scored as trained or at the forget target, whichever is lower), and
`as_trained/guidelines.json`, of the same trials scored by their rows as trained alone.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ray_unlearn.analysis.report.write import write_report
from ray_unlearn.store.schema import AS_TRAINED
from ray_unlearn.store.table import write_table

PAGE, CLAIMS = "report.html", "guidelines.json"


def as_trained(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of trained states, each trial scored by the best of them on the selection half."""
    own = rows[(rows["strength"] == AS_TRAINED) & rows["update"].notna()].copy()
    best = own[own["candidate"]].sort_values(["score_selection", "update"])
    chosen = best.groupby(["study", "number"]).head(1).index
    return own.assign(scored=own.index.isin(chosen), study=own["study"] + "-as-trained")


def baselines_of(study: Path, name: str) -> pa.Table:
    """A study's baselines under a name, for a table of several studies."""
    found = pq.read_table(study / "ledger" / "baselines.parquet")
    return found.append_column("study", pa.array([name] * len(found)))


def publish(sources: list[Path], out: Path, *kept: str) -> None:
    """Make the report of some sources, and keep these files of it."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        write_report(sources, Path(folder))
        for name in kept:
            shutil.copyfile(Path(folder) / name, out / name)


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/reference"))
    given = parser.parse_args()
    studies, out = sorted(given.studies), given.out
    out.mkdir(parents=True, exist_ok=True)
    tables = [pq.read_table(study / "ledger" / "rows.parquet") for study in studies]
    everything = pa.concat_tables(tables)
    write_table(everything, out / "rows.parquet")
    names = [str(table["study"][0]) for table in tables]
    baselines = [baselines_of(study, name) for study, name in zip(studies, names, strict=True)]
    write_table(pa.concat_tables(baselines), out / "baselines.parquet")
    publish(studies, out, PAGE, CLAIMS)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "as_trained.parquet"
        trained = as_trained(everything.to_pandas())
        schema = everything.schema
        write_table(pa.Table.from_pandas(trained, schema=schema, preserve_index=False), table)
        renamed = [baselines_of(study, f"{name}-as-trained") for study, name in
                   zip(studies, names, strict=True)]  # fmt: skip
        write_table(pa.concat_tables(renamed), table.with_name("baselines.parquet"))
        publish([table], out / "as_trained", CLAIMS)


if __name__ == "__main__":
    main()
