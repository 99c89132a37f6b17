"""How long a guideline report takes: 100,000 rows of ours, 1,000,000 rows of a foreign table.

    python benchmarks/analysis.py [--only ours|foreign|components] [--trials 10000]

The tables are planted: seven methods, three domains, three seeds, a valley in the learning rate
whose place and width differ by method, diverged trials beyond it. Each report is a process of its
own; wall-clock seconds and peak memory are of all of it. Limits: 100,000 rows in 60 s and 2 GiB,
1,000,000 rows in 5 minutes, on two cores. Our table alone has no baselines, so its surfaces are of
scores; `components` times the statistics of as many trials whose components are known, without a
page.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "analysis"))

import numpy as np
import pandas as pd
import pyarrow as pa
from planted_curves import planted_with_curves

from ray_unlearn.analysis.guidelines.claims import guidelines_of
from ray_unlearn.analysis.guidelines.findings import find
from ray_unlearn.analysis.guidelines.recommendations import recommendations
from ray_unlearn.spec.method_registry import PUBLISHED
from ray_unlearn.store.schema import COLUMNS
from ray_unlearn.store.table import TABLE_COLUMNS, TEXT_COLUMNS, write_table

DOMAINS = ("books", "code", "papers")
ROWS_PER_TRIAL = 10
TARGET = 4.4


def planted(trials: int, seed: int = 0) -> pd.DataFrame:
    """Evaluation rows of `trials` trials, with the columns that a score needs."""
    rng = np.random.default_rng(seed)
    methods = list(PUBLISHED)
    which = rng.integers(len(methods), size=trials)
    domain = rng.integers(len(DOMAINS), size=trials)
    rate = 10 ** rng.uniform(-6, -3, trials)
    weight = 10 ** rng.uniform(-0.3, 0.9, trials)
    updates = np.unique(np.round(np.geomspace(2, 64, ROWS_PER_TRIAL)).astype(int))
    trial = np.repeat(np.arange(trials), len(updates))
    update = np.tile(updates, trials)
    effort = np.log10(rate[trial] * update) + 3.2 - 0.05 * which[trial]
    forget = 3.7 + 0.8 * np.exp(1.2 * effort) + rng.normal(0, 0.02, len(trial))
    gap = np.abs(forget - TARGET)
    loss = 0.05 + 0.3 * np.exp(effort) / (1 + 0.3 * weight[trial]) + rng.normal(0, 0.01, len(trial))
    score = gap + np.maximum(loss, 0)
    return pd.DataFrame(
        {
            "number": trial,
            "update": update,
            "method": np.array(methods)[which[trial]],
            "domain": np.array(DOMAINS)[domain[trial]],
            "seed": trial % 3,
            "learning_rate": rate[trial],
            "w_r": weight[trial],
            "steps": 64,
            "forget_nll": forget,
            "forget_gap_selection": gap,
            "forget_gap_reporting": gap,
            "utility_loss_selection": loss,
            "utility_loss_reporting": loss,
            "score_selection": score + rng.normal(0, 0.01, len(trial)),
            "score_reporting": score + rng.normal(0, 0.01, len(trial)),
        }
    )


def ours(trials: int, folder: Path) -> list[str]:
    """A result table of full width, as a study writes it."""
    rows = planted(trials)
    rng = np.random.default_rng(1)
    best = rows.groupby("number")["score_selection"].transform("min")
    known = {
        "study": "planted",
        "model": "m",
        "status": "complete",
        "reason": "",
        "sampled_by": "quasi_random",
        "candidate": True,
        "strength": 1.0,
        "scored": rows["score_selection"] == best,
        "score_rule": "best_row",
        "schedule": "constant",
        "trial_id": rows["number"].map("{:012x}".format),
    }
    columns = {}
    for name in TABLE_COLUMNS:
        if name in rows:
            columns[name] = rows[name]
        elif name in known:
            columns[name] = (
                pd.Series(known[name], index=rows.index)
                if np.isscalar(known[name])
                else known[name]
            )
        elif name in TEXT_COLUMNS:
            columns[name] = pd.Series("", index=rows.index)
        else:
            columns[name] = pd.Series(
                rng.lognormal(size=len(rows)) if name in COLUMNS else np.nan, index=rows.index
            )
    path = folder / "rows.parquet"
    write_table(pa.Table.from_pandas(pd.DataFrame(columns), preserve_index=False), path)
    return [str(path)]


def foreign(trials: int, folder: Path) -> list[str]:
    """A narrow CSV with other people's column names."""
    rows = planted(trials)
    names = {"number": "trial", "learning_rate": "lr", "score_reporting": "loss", "update": "step"}
    keep = [*names, "method", "domain", "seed", "w_r"]
    path = folder / "table.csv"
    rows[keep].rename(columns=names).to_csv(path, index=False)
    return [
        str(path),
        "--map",
        "lr=learning_rate",
        "--score",
        "loss",
        "--sampler",
        "random",
        "--tolerance",
        "0.05",
    ]


def measured(name: str, arguments: list[str], folder: Path, limit_s: float) -> None:
    """Make one report in a process of its own."""
    command = [
        sys.executable,
        "-c",
        "from ray_unlearn.cli.main import main; main()",
        "report",
        *arguments,
        "-o",
        str(folder / name),
    ]
    began = time.monotonic()
    process = subprocess.Popen(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    size = sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file()) / 2**20
    page = (folder / name / "report.html").stat().st_size / 2**20
    print(
        f"{name}: {wall:.1f} s (limit {limit_s:.0f} s), CPU {usage.ru_utime + usage.ru_stime:.1f} "
        "s, peak "
        f"{usage.ru_maxrss / 2**20:.2f} GiB, page {page:.1f} MiB, all files {size:.1f} MiB, exit "
        f"{os.waitstatus_to_exitcode(status)}",
        flush=True,
    )


def components(trials: int) -> None:
    """Time the statistics of planted curves: seven methods, three domains."""
    methods, groups = list(PUBLISHED), ("x", "y", "z")
    each = trials // (len(methods) * len(groups))
    parts = [planted_with_curves(each, seed, groups=groups) for seed in range(len(methods))]
    shift = each * len(groups)
    table = replace(
        parts[0],
        trials=pd.concat(
            [p.trials.assign(method=m, trial=p.trials["trial"] + i * shift)
             for i, (m, p) in enumerate(zip(methods, parts, strict=True))], ignore_index=True,
        ),
        rows=pd.concat(
            [p.rows.assign(trial=p.rows["trial"] + i * shift) for i, p in enumerate(parts)],
            ignore_index=True,
        ),
        axes=dict.fromkeys(methods, parts[0].axes["a"]),
    )  # fmt: skip
    began = time.monotonic()
    findings = find(table)
    fitted = time.monotonic() - began
    recommendations(findings, guidelines_of(findings))
    print(
        f"components: {len(table.trials):,} trials, {fitted:.1f} s to claims, "
        f"{time.monotonic() - began:.1f} s with recommendations",
        flush=True,
    )


def main() -> None:
    """Measure what is asked for, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=["ours", "foreign", "components"])
    parser.add_argument(
        "--trials",
        type=int,
        default=10_000,
        help="of our table; the foreign one has ten times as many",
    )
    given = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if given.only in (None, "ours"):
            measured("ours", ours(given.trials, folder), folder, 60)
        if given.only in (None, "foreign"):
            measured("foreign", foreign(10 * given.trials, folder), folder, 300)
    if given.only in (None, "components"):
        components(given.trials)


if __name__ == "__main__":
    main()
