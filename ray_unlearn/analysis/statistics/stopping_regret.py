"""The stopping rule: stop once the forget set is as surprising as text the model never saw.

The rule needs no utility measurement and no second run: stop at the first evaluation with forget
ppl >= ppl of the original model on the approximate set (Yao et al., arXiv 2402.15159, compare
against the same level), else after the last one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ray_unlearn.analysis.statistics.proportions import Proportion, proportion_of

FloatArray = NDArray[np.float64]
BOOTSTRAPS = 1000


@dataclass(frozen=True)
class StoppingRule:
    """What the rule loses against the best step of each trial, and what it saves.

    Units of the score; lower is better.

    The best step is chosen by `score_selection` and both steps are scored by `score`. Choosing and
    scoring on the same numbers charges the rule with noise: 1.2 / 1.5 / 1.9 noise SDs for 5 / 10 /
    20 evaluations (the expected minimum of as many normal draws). `hindsight` says that the table
    allowed no better, so that the regrets are too high by that. The honest regret is against the
    step that one half would choose, which is itself a little worse than the true best.
    """

    n_trials: int
    """Trials with two evaluations or more for which it is known whether the rule fired."""
    crossed: Proportion
    n_infeasible: int
    """Those without a finite score at the rule's checkpoint; in no regret unless `bounded`."""
    n_infeasible_last: int
    """Those of them without a finite score at the last step, from which the rule may save them."""
    n_regrets: int
    """Trials behind `regret_mean`."""
    regret_mean: float
    regret_interval: tuple[float, float]
    """90 % interval of the mean."""
    regret_last_mean: float | None
    """Mean loss of running to the last evaluation instead; None without any that can be told."""
    updates_saved: float | None
    """Proportion of planned updates saved, mean over crossing trials; None without any."""
    hindsight: bool
    bounded: bool
    """It is known what doing nothing scores. Nobody deploys a worse model, so that a ruined one,
    without a score too, costs as much, and one ruined model in a hundred cannot outweigh the
    others. Without a bound no number of trials says what the rule costs at most."""


def checkpoints(rows: pd.DataFrame) -> pd.DataFrame:
    """The evaluation at which the stopping rule stops each trial.

    `crossed` is about the checkpoint itself: True where its forget NLL reached the target, False
    where it did not, None where it is not known (no target or no forget NLL there). Evaluations
    that cannot be compared never stop a trial. A forget NLL of +inf has passed every target: the
    rule stops there, on an infeasible model.

    Args:
        rows: `trial`, `update` and, where known, `forget_nll`, `target_nll`, `score`; in any order,
            one line per evaluation. The target should be that of the half which may be used for
            choosing.

    Returns:
        One line per trial, by trial: `trial`, `update`, `crossed` (object), `infeasible` (a score
        or forget NLL that is not finite; a missing forget NLL alone is not), `row` (index label of
        the checkpoint in `rows`), `row_last` (of the last evaluation), `evaluations`.
    """
    if rows.empty:
        empty: dict[str, list[object]] = {
            name: []
            for name in (
                "trial",
                "update",
                "crossed",
                "infeasible",
                "row",
                "row_last",
                "evaluations",
            )
        }
        return pd.DataFrame(empty)
    codes, trials = pd.factorize(rows["trial"], sort=True)
    assert (codes >= 0).all(), "an evaluation without a trial"
    order = np.lexsort((_column(rows, "update"), codes))
    first = np.flatnonzero(np.diff(codes[order], prepend=-1))
    counts = np.diff(first, append=len(order))
    last = first + counts - 1
    forget, target = _column(rows, "forget_nll")[order], _column(rows, "target_nll")[order]
    never = len(order)
    crossing = np.where(forget >= target, np.arange(len(order)), never)
    earliest = np.minimum.reduceat(crossing, first)
    chosen = np.where(earliest < never, earliest, last)

    known = ~(np.isnan(forget[chosen]) | np.isnan(target[chosen]))
    crossed = np.where(known, earliest < never, None)  # type: ignore[call-overload]
    infeasible = np.isinf(forget[chosen])
    if "score" in rows:
        infeasible |= ~np.isfinite(_column(rows, "score")[order][chosen])
    labels = rows.index.to_numpy()[order]
    return pd.DataFrame(
        {
            "trial": trials,
            "update": rows["update"].to_numpy()[order][chosen],
            "crossed": crossed,
            "infeasible": infeasible,
            "row": labels[chosen],
            "row_last": labels[last],
            "evaluations": counts,
        }
    )


def stopping_rule(
    rows: pd.DataFrame,
    seed: int,
    bootstraps: int = BOOTSTRAPS,
    nothing: Mapping[str, float] | None = None,
) -> StoppingRule | None:
    """Judge the rule on trajectories.

    Args:
        rows: `trial`, `group`, `update`, `forget_nll`, `target_nll`, `score` and, where known,
            `score_selection` and `steps` (the planned last update; else the last evaluated one).
        seed: of the bootstrap.
        bootstraps: resamples of the trials within their groups.
        nothing: by group, the score of doing nothing, where it is known.

    Returns:
        None where fewer than two trials have two evaluations and a checkpoint that can be compared,
        or no two regrets.
    """
    rows = rows.reset_index(drop=True)
    table = checkpoints(rows)
    table = table[table["crossed"].notna() & (table["evaluations"] >= 2)].reset_index(drop=True)
    if len(table) < 2:
        return None
    kept = rows["trial"].isin(table["trial"]).to_numpy()
    score = _column(rows, "score")
    selection = _column(rows, "score_selection") if "score_selection" in rows else score
    hindsight = bool(np.array_equal(score[kept], selection[kept], equal_nan=True))
    best = _best_rows(rows, score, selection, table["trial"])

    stop, last = table["row"].to_numpy(dtype=int), table["row_last"].to_numpy(dtype=int)
    group = rows["group"].to_numpy()[stop]
    most = np.array([(nothing or {}).get(str(name), np.inf) for name in group])
    bounded = bool(np.isfinite(most).all())
    infeasible = table["infeasible"].to_numpy(dtype=bool)
    at_best, at_stop, at_last = (
        _deployed(values, most)
        for values in (
            np.where(best >= 0, score[best], np.nan),
            np.where(infeasible, np.nan, score[stop]),
            score[last],
        )
    )
    regret = at_stop - at_best
    usable = np.isfinite(regret)
    if usable.sum() < 2:
        return None
    # Sorted, so that trials of other names but the same results give the same resamples.
    strata = [np.sort(regret[usable & (group == name)]) for name in sorted(set(group[usable]))]
    interval = _bootstrap(strata, seed, bootstraps)
    if bounded:
        worst = float((most - at_best).max())
        interval = interval[0], _upper_bound(regret[usable], worst, seed, bootstraps)

    update = _column(rows, "update")
    planned = np.fmax(_column(rows, "steps")[last], update[last])
    crossed = table["crossed"].to_numpy(dtype=bool)
    lost = (at_last - at_best)[usable]
    lost = lost[np.isfinite(lost)]
    saved = 1 - update[stop] / planned
    return StoppingRule(
        n_trials=len(table),
        crossed=proportion_of(int(crossed.sum()), len(table)),
        n_infeasible=int(infeasible.sum()),
        n_infeasible_last=int((~np.isfinite(score[last])).sum()),
        n_regrets=int(usable.sum()),
        regret_mean=float(np.mean(np.sort(regret[usable]))),
        regret_interval=interval,
        regret_last_mean=float(np.mean(np.sort(lost))) if len(lost) else None,
        updates_saved=float(saved[crossed].mean()) if crossed.any() else None,
        hindsight=hindsight,
        bounded=bounded,
    )


def _best_rows(
    rows: pd.DataFrame, score: FloatArray, selection: FloatArray, trials: pd.Series
) -> NDArray[np.int64]:
    """Row of the best step of each trial, the earliest among equals.

    -1 where no step is finite on both halves.
    """
    finite = np.flatnonzero(np.isfinite(score) & np.isfinite(selection))
    ordered = finite[np.lexsort((_column(rows, "update")[finite], selection[finite]))]
    firsts = pd.Series(ordered, index=rows["trial"].to_numpy()[ordered])
    firsts = firsts[~firsts.index.duplicated()]
    return firsts.reindex(trials.to_numpy()).fillna(-1).to_numpy(dtype=np.int64)


def _column(rows: pd.DataFrame, name: str) -> FloatArray:
    """A column as floats [n]; NaN throughout where the table has none."""
    if name not in rows:
        return np.full(len(rows), np.nan)
    return rows[name].to_numpy(dtype=float, na_value=np.nan)


def _deployed(scores: FloatArray, most: FloatArray) -> FloatArray:
    """Scores [n], none worse than doing nothing, `most` [n], where that is known."""
    return np.where(np.isfinite(most), np.fmin(scores, most), scores)


def _upper_bound(regret: FloatArray, worst: float, seed: int, draws: int) -> float:
    """95 % upper bound of the mean regret, given the worst that one trial can cost.

    Of n trials without a ruined one, up to 3 / n of the next may still be ruined. Dirichlet weights
    on the trials and on one more that costs the worst (Ferguson 1973) allow for that; resampled
    trials alone cannot show what none of them has.
    """
    values = np.append(np.sort(regret), worst)
    weights = np.random.default_rng([seed, 1]).dirichlet(np.ones(len(values)), draws)
    return float(np.quantile(weights @ values, 0.95))


def _bootstrap(strata: list[FloatArray], seed: int, bootstraps: int) -> tuple[float, float]:
    """90 % percentile interval of the mean, resampling within each of `strata`.

    n - 1 of n are drawn: n of n would understate the variance of a small stratum (McCarthy and
    Snowden 1985).
    """
    rng = np.random.default_rng(seed)
    means = []
    at_once = max(1, 2_000_000 // sum(len(values) for values in strata))
    for begun in range(0, bootstraps, at_once):
        draws = min(at_once, bootstraps - begun)
        sample = np.hstack(
            [
                values[rng.integers(len(values), size=(draws, max(1, len(values) - 1)))]
                for values in strata
            ]
        )
        means.append(sample.mean(axis=1))
    low, high = np.quantile(np.concatenate(means), (0.05, 0.95))
    return float(low), float(high)
