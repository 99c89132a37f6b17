"""Strength on a campaign: what is left to tune at equal forgetting, and what the best gains.

    python benchmarks/strength_evidence.py results/reference/*-* --probe
        [--out results/reference/evidence]

Reads studies that ran with `evaluation.strength: both` (stopped or running ones too), prints three
tables and writes evidence.json. Two scores of each trial are compared, both on the reporting half,
at the row with the lowest score on the selection half:

    as trained         among the rows at strength 1
    equal forgetting   among the rows that meet the target

The spread over the learning rate is the greatest minus the least of three medians, one for each
third of the decade from 2e-4 to 2e-3, of scores less the median of their world. Noise alone makes
it greater than zero; what counts is how the two compare. Trials whose target is out of reach have
no second score: their fraction is printed beside it, and `both` takes the row that the selection
half finds better. Intervals (90 %) are from 1,000 draws of worlds and, within them, of trials.

With `--probe` chosen rows are trained again, learnt again and rounded (`strength_probes`).
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from strength_probes import chosen_rows, probe

import ray_unlearn as ru
from ray_unlearn.spec.method_registry import METHODS
from ray_unlearn.store.score import ScoreRule
from ray_unlearn.store.status import open_study
from ray_unlearn.store.target import TARGET_TOLERANCE

BINS = np.geomspace(2e-4, 2e-3, 4)
"""Ends of the thirds of the decade."""
DRAWS = 1000
KINDS = ("trained", "target", "both")
Arrays = dict[str, NDArray[Any]]


def two_scores(rows: pd.DataFrame, target_nll: float) -> pd.DataFrame:
    """One line per finished trial: its score as trained, at equal forgetting, and the better one.

    Args:
        rows: the result table of one study.
        target_nll: log ppl_0(A) on the selection half.

    Returns:
        number, method, learning_rate; `trained`, `target`, `both` (a diverged trial has infinity,
        one out of reach NaN as `target`); `strength`, `update` of the second.
    """
    lines = []
    for number, own in rows.groupby("number"):
        if own["status"].iloc[0] not in ("complete", "pruned", "diverged"):
            continue
        diverged = own["status"].iloc[0] == "diverged"
        seen = own[own["update"].notna() & np.isfinite(own["score_selection"].astype(float))]
        trained = seen[seen["strength"] == 1]
        met = seen[
            (seen["strength"] != 1) | ((seen["forget_nll"] - target_nll).abs() <= TARGET_TOLERANCE)
        ]
        line = {"number": number, "method": own["method"].iloc[0]}
        line |= {"learning_rate": own["learning_rate"].iloc[0]}
        for kind, pool in zip(KINDS, (trained, met, seen), strict=True):
            line[kind] = math.inf if diverged else _chosen(pool, "score_reporting")
        line |= {name: _chosen(met, name) for name in ("strength", "update")}
        lines.append(line)
    return pd.DataFrame(lines)


def _chosen(pool: pd.DataFrame, column: str) -> float:
    if pool.empty:
        return math.nan
    return float(pool.loc[pool["score_selection"].idxmin(), column])


def spread(trials: Arrays, kind: str) -> float:
    """Greatest minus least median score over the thirds of the decade; NaN if one has none."""
    scores, third = trials[kind], trials["third"]
    pools = [scores[(third == i) & ~np.isnan(scores)] for i in range(1, len(BINS))]
    if not all(len(pool) for pool in pools):
        return math.nan
    medians = [float(np.median(pool)) for pool in pools]
    return math.inf if max(medians) == math.inf else max(medians) - min(medians)


def saved(trials: Arrays) -> float:
    """By how much the spread as trained exceeds the one where each trial may use either row."""
    return spread(trials, "trained") - spread(trials, "both")


def interval(
    trials: pd.DataFrame, statistic: Callable[[Arrays], float], seed: int = 0
) -> tuple[float, float, float]:
    """A statistic and its 90 % interval over draws of worlds and of trials within them.

    Args:
        trials: with `world`, `learning_rate` and the scores.
        statistic: of those columns as arrays; `third` numbers the thirds of the decade from 1.
        seed: of the draws.
    """
    draws = np.random.default_rng(seed)
    arrays = {kind: trials[kind].to_numpy(dtype=float) for kind in KINDS}
    arrays["third"] = np.digitize(trials["learning_rate"], BINS)
    worlds = [np.flatnonzero(trials["world"] == world) for world in trials["world"].unique()]
    found = []
    for _ in range(DRAWS):
        chosen = [worlds[i] for i in draws.integers(len(worlds), size=len(worlds))]
        drawn = np.concatenate([draws.choice(world, len(world)) for world in chosen])
        found.append(statistic({name: column[drawn] for name, column in arrays.items()}))
    ends = np.nan, np.nan
    if not np.isnan(found).all():
        ends = np.nanquantile(found, (0.05, 0.95), method="inverted_cdf")
    return statistic(arrays), float(ends[0]), float(ends[1])


def spreads(trials: pd.DataFrame) -> list[dict[str, Any]]:
    """Per method: the spread of each kind of score, how they compare, and what is out of reach."""
    lines = []
    for method, whole in trials.groupby("method", sort=False):
        line: dict[str, Any] = {"method": method, "trials": len(whole)}
        own = whole.assign(**{kind: whole[kind] - _levels(whole, kind) for kind in KINDS})
        line |= {kind: interval(own, partial(spread, kind=kind)) for kind in KINDS}
        line["saved"] = interval(own, saved)
        line["out_of_reach"] = float(own["target"].isna().mean())
        line["extrapolated"] = float((own["strength"] > 1).mean())
        lines.append(line)
    return lines


def _levels(trials: pd.DataFrame, kind: str) -> pd.Series:
    """The median score of each trial's world: worlds that are harder are no spread."""
    levels: pd.Series = trials.groupby("world")[kind].transform("median")
    return levels.where(np.isfinite(levels), 0.0)


def bests(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Per method and world: the best row as trained and at equal forgetting.

    Chosen on the selection half, quoted on the reporting half; rows beyond strength 1 stand apart.
    """
    lines = []
    for (world, method), own in rows.groupby(["world", "method"], sort=False):
        pools = {
            "trained": own[own["strength"] == 1],
            "equal": own[own["strength"] != 1],
            "equal_interpolated": own[own["strength"] < 1],
            "equal_extrapolated": own[own["strength"] > 1],
        }
        line: dict[str, Any] = {"world": world, "method": method}
        for name, pool in pools.items():
            for column in ("score_reporting", "mia_loss_auc_reporting", "utility_loss_reporting"):
                line[f"{name}_{column.removesuffix('_reporting')}"] = _chosen(pool, column)
        line["strength"] = _chosen(pools["equal"], "strength")
        lines.append(line)
    return lines


def read_worlds(places: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All trials with their two scores, and all rows that have one; column `world` names the study.

    Rows of trials that are still running count among the rows, not among the trials.
    """
    trials, rows = [], []
    for place in places:
        study = ru.open(place)
        frame = study.rows
        vanilla = read_target(place)
        trials.append(two_scores(frame, vanilla).assign(world=place.name))
        seen = frame[frame["status"].isin(("complete", "pruned")) & frame["update"].notna()]
        rows.append(
            seen[np.isfinite(seen["score_selection"].astype(float))].assign(world=place.name)
        )
    order = list(METHODS)
    both = [pd.concat(frames, ignore_index=True) for frames in (trials, rows)]
    trials, rows = (f.sort_values("method", key=lambda m: m.map(order.index), kind="stable")
                    for f in both)  # fmt: skip
    return trials, rows


def read_target(place: Path) -> float:
    """log ppl_0(A) on the selection half."""
    spec, record = open_study(place)
    return ScoreRule.of(record, spec).target_nll


def main() -> None:
    """Print the tables, probe if asked to, write evidence.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("studies", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("results/reference/evidence"))
    parser.add_argument("--probe", action="store_true", help="train chosen rows again")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    trials, rows = read_worlds(given.studies)
    content = {"worlds": sorted(set(trials["world"])), "spread": spreads(trials)}
    content["best"] = bests(rows)
    print_spreads(content["spread"])
    print_bests(content["best"])
    if given.probe:
        for place in given.studies:
            chosen = chosen_rows(rows[rows["world"] == place.name])
            probe(place, chosen, given.out / "probes.jsonl")
    known = given.out / "probes.jsonl"
    if known.exists():
        content["probes"] = recovered([json.loads(line) for line in known.open()])
        print_probes(content["probes"])
    text = json.dumps(_plain(content), indent=1, allow_nan=False)
    (given.out / "evidence.json").write_text(text + "\n")
    print(f"wrote {given.out / 'evidence.json'}")


def print_spreads(lines: Sequence[dict[str, Any]]) -> None:
    """Spread over the learning rate, with intervals."""
    print("spread over 2e-4 to 2e-3 (90 %): trials, as trained, equal forgetting, both, saved; "
          "fraction out of reach, beyond strength 1")  # fmt: skip
    for line in lines:
        cells = [_three(line[name]) for name in (*KINDS, "saved")]
        print(f"{line['method']:32} {line['trials']:4} {' '.join(cells)} "
              f"{line['out_of_reach']:4.0%} {line['extrapolated']:4.0%}")  # fmt: skip


def print_bests(lines: Sequence[dict[str, Any]]) -> None:
    """Best score both ways, by method and world, and the mean over the worlds."""
    frame = pd.DataFrame(lines)
    print(
        "best score: as trained, equal forgetting, there below 1, above 1; AUC both ways; strength"
    )
    means = frame.drop(columns="world").groupby("method", sort=False, as_index=False).mean()
    for line in pd.concat([frame, means.assign(world="mean")]).to_dict("records"):
        cells = [line[f"{name}_score"] for name in (
            "trained", "equal", "equal_interpolated", "equal_extrapolated")]  # fmt: skip
        cells += [line["trained_mia_loss_auc"], line["equal_mia_loss_auc"], line["strength"]]
        print(f"{line['method']:32} {line['world']:14} {' '.join(f'{c:7.3f}' for c in cells)}")


def recovered(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds which fraction of the rise above vanilla relearning takes back, by world.

    The vanilla model's NLL is that of the same sequences before any update.
    """
    start = {one["world"]: one["relearning"]["0"] for one in lines if one["method"] == "vanilla"}
    found = []
    for line in lines:
        first, *_, last = line["relearning"].values()
        rise = first - start[line["world"]]
        found.append(line | {"recovered": (first - last) / rise if rise else math.nan})
    return found


def print_probes(lines: Sequence[dict[str, Any]]) -> None:
    """Relearning curves, and what rounding changes."""
    print("relearning: forget NLL of the rest after 0, 5, 20 updates, recovered | changes by 8 and "
          "by 4 bits: forget, retain, general")  # fmt: skip
    for line in lines:
        curve = " ".join(f"{value:6.3f}" for value in line["relearning"].values())
        changes = []
        for bits in ("8", "4"):
            own, plain = line["rounded"][bits], line["plain"]
            changes += [f"{own[name] - plain[name]:+6.3f}" for name in plain]
        print(f"{line['world']:14} {line['method']:32} {line['kind']:8} "
              f"{line['strength']:5.2f} {curve} {line['recovered']:4.0%} | "
              f"{' '.join(changes)}")  # fmt: skip


def _three(values: tuple[float, float, float]) -> str:
    return "{:6.3f} ({:.3f}-{:.3f})".format(*values)


def _plain(content: Any) -> Any:
    """JSON without NaN and infinity: both are null."""
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    if isinstance(content, (float, np.floating)):
        return float(content) if math.isfinite(content) else None
    return content.item() if isinstance(content, np.generic) else content


if __name__ == "__main__":
    main()
