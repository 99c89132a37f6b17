"""A study whose rows are screened (`evaluation.screen`) beside the same study without.

    python benchmarks/screening.py [--shares 0.25] [--trials 12] [--domains shakespeare]

Both have the same quasi-random configurations and seeds, on the demo's models with ten updates that
are evaluated, in one lane, so that trials follow each other. Rows are compared one by one:

    seconds      of a study's trials, and of evaluation alone (one after the other, in one process
                 each time, on the same machine)
    in full      rows that were measured in full
    error        of the selection score of those that were not: its root mean square and the most
    winner       whether each method's best trial is the same, and what it scores in full

It exits with 1 where a winner differs.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import yaml

import ray_unlearn as ru
from ray_unlearn.store.study_columns import MEASURED_SHARE

STUDY = Path(__file__).parent.parent / "studies" / "demo.yaml"
METHODS = ("gradient_ascent", "ascent_descent_in_distribution", "ascent_kl_in_distribution")
UPDATES = [4, 8, 12, 16, 20, 24, 32, 40, 48, 64]
KEY = ["number", "update", "strength"]
SCORE = "score_selection"


def content(domain: str, trials: int, strength: str, share: float | None) -> dict[str, Any]:
    """The study file, screened or not."""
    found: dict[str, Any] = yaml.safe_load(STUDY.read_text())
    found["name"] = "screened" if share else "full"
    found["model"]["source"] = found["data"]["source"] = f"demo:{domain}"
    found["methods"] = list(METHODS)
    found["space_overrides"]["steps"] = {
        "type": "int",
        "low": 1,
        "high": UPDATES[-1],
        "free": True,
        "role": "scientific",
    }
    found["search"] = {"sampler": "qmc", "trials_per_method": trials}
    found["evaluation"] = {"at": UPDATES, "strength": strength}
    found["operations"] = {"lanes": 1}
    if share:
        found["evaluation"]["screen"] = share
    return found


def rows_of(folder: Path, what: dict[str, Any]) -> pd.DataFrame:
    """The study's rows, with each trial's method."""
    file = folder / f"{what['name']}.yaml"
    file.write_text(yaml.safe_dump(what))
    study = ru.run(file, folder / what["name"])
    trials = study.trials[["number", "method"]]
    return study.rows.merge(trials, on="number") if "method" not in study.rows else study.rows


def seconds(rows: pd.DataFrame) -> tuple[float, float]:
    """Of all trials together: updates and evaluation, and evaluation alone."""
    last = rows.groupby("number")[["wall_s", "evaluation_wall_s"]].max().sum()
    return float(last.sum()), float(last["evaluation_wall_s"])


def compared(full: pd.DataFrame, part: pd.DataFrame) -> int:
    """Print a line of the comparison and one of each method; returns how many winners differ."""
    assert full[KEY].shape == part[KEY].shape or "strength" in full, "other rows"
    both = part.merge(full, on=KEY, suffixes=("", "_full"))
    screened = both[MEASURED_SHARE] < 1
    error = (both[SCORE] - both[f"{SCORE}_full"])[screened]
    (total, evaluation), (of_full, evaluation_full) = seconds(part), seconds(full)
    print(
        f"  seconds x {total / of_full:.2f} ({total:.0f} of {of_full:.0f}), evaluation x "
        f"{evaluation / evaluation_full:.2f}; {(~screened).mean():.0%} of {len(both)} rows in "
        f"full; error of the others {np.sqrt((error**2).mean()):.4f}, at most "
        f"{error.abs().max():.4f}",
        flush=True,
    )
    differ = 0
    for method, own in both.groupby("method"):
        won = own.loc[own[SCORE].idxmin()]
        best = own.loc[own[f"{SCORE}_full"].idxmin()]
        same = tuple(won[KEY]) == tuple(best[KEY])
        differ += not same
        share = f", measured on {won[MEASURED_SHARE]:.0%}"
        print(
            f"    {method}: {'the same winner' if same else 'ANOTHER WINNER'}, "
            f"{won[f'{SCORE}_full']:.4f} and {best[f'{SCORE}_full']:.4f}{share}",
            flush=True,
        )
    return differ


def main() -> int:
    """Run and compare the studies of each domain."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shares", default="0.25")
    parser.add_argument("--trials", type=int, default=12, help="of each method")
    parser.add_argument("--domains", default="shakespeare")
    parser.add_argument("--strength", default="trained", choices=["trained", "both"])
    given = parser.parse_args()
    differ = 0
    for domain in given.domains.split(","):
        with tempfile.TemporaryDirectory(prefix="screening-") as folder:
            full = rows_of(Path(folder), content(domain, given.trials, given.strength, None))
        for share in map(float, given.shares.split(",")):
            with tempfile.TemporaryDirectory(prefix="screening-") as folder:
                what = content(domain, given.trials, given.strength, share)
                part = rows_of(Path(folder), what)
            print(f"{domain}, {share:.0%} of the documents, strength {given.strength}:")
            differ += compared(full, part)
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main())
