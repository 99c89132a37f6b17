"""Do learning rate and steps trade off: planted kappas, surfaces of no single variable, trials cut
short."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from planted_efforts import planted_efforts as planted
from scipy.interpolate import make_smoothing_spline
from scipy.stats import norm

from ray_unlearn.analysis.statistics.interaction import (
    Interaction,
    _levels,
    clipped_forget_nll,
    learning_rate_by_steps,
    weight_interaction,
    winsorised,
)

THREE_GROUPS = {"trials": 36, "groups": 3, "updates": (4, 8, 16, 32)}
ONE_GROUP = {"trials": 100, "groups": 1, "updates": (4, 8, 16, 32, 64)}


def judged(rows: pd.DataFrame, seed: int = 0, bootstraps: int = 20) -> Interaction:
    found = learning_rate_by_steps(rows, seed, bootstraps)
    assert found is not None
    return found


@pytest.mark.parametrize("kappa", [1.0, 0.5, 0.0])
def test_a_planted_kappa_is_found_and_only_one_is_called_the_product(kappa: float) -> None:
    rows = planted(kappa, seed=1, trial_noise=0.05)
    found = judged(rows)
    assert found.kappa == pytest.approx(kappa, abs=0.06)
    assert found.kappa_interval[0] <= found.kappa <= found.kappa_interval[1]
    assert not found.interval_at_bound
    assert found.equivalent == (kappa == 1.0)
    assert (found.n_trials, found.n_rows) == (100, 500)


def test_groups_share_kappa_but_not_the_level_nor_the_place_of_the_valley() -> None:
    """Each group's valley lies elsewhere by a third of a decade or more: pooled silently, that
    would be noise."""
    rows = planted(1.0, seed=2, trials=24, groups=3, updates=(4, 8, 16, 32))
    shift = rows["group"].map({"g0": 0.2, "g1": 1.0, "g2": 5.0})
    found = judged(
        rows.assign(learning_rate=rows["learning_rate"] * shift, response=rows["response"] + shift)
    )
    assert found.kappa == pytest.approx(judged(rows).kappa, abs=1e-6)
    assert found.rmse_one == pytest.approx(judged(rows).rmse_one, rel=1e-6)


def test_an_optimum_in_each_of_the_two_is_not_one_variable() -> None:
    found = judged(planted(1.0, seed=3, separate=True))
    assert not found.one_as_good
    assert not found.equivalent
    assert found.rmse_two < 0.7 * found.rmse_one


def test_trials_cut_short_past_their_best_leave_kappa_where_it_is() -> None:
    whole, cut = (planted(1.0, seed=4, trial_noise=0.05, pruned=p) for p in (False, True))
    assert len(cut) < 0.95 * len(whole)
    assert judged(cut).kappa == pytest.approx(1.0, abs=0.08)
    assert judged(cut).equivalent


def test_a_schedule_counts_by_its_cumulative_learning_rate() -> None:
    """A learning rate that decays to zero: the peak misleads, the sum so far is what was
    planted."""
    rows = planted(1.0, seed=5, updates=(4, 8, 16, 32))
    planned = 34
    done = rows["update"]
    total = rows["learning_rate"] * done  # what the score was made of
    peak = rows["learning_rate"] / (1 - done / (2 * planned))  # of a linear decay with that sum
    found = judged(rows.assign(learning_rate=peak, learning_rate_sum=total))
    assert found == judged(rows)
    assert judged(rows.assign(learning_rate=peak)).kappa != pytest.approx(1.0, abs=0.1)
    # Not known for some rows: their learning rate stands in.
    assert judged(rows.assign(learning_rate_sum=total.where(done > 8))).kappa == pytest.approx(
        found.kappa, abs=1e-6
    )


def test_the_forget_nll_is_an_effort_curve_too() -> None:
    rng = np.random.default_rng(6)
    rows = planted(0.5, seed=6)
    effort = np.log10(rows["learning_rate"] / 10**-4.5) + 0.5 * np.log10(rows["update"] / 12)
    nll = np.minimum(2.0 + np.exp(3 * effort) + 0.03 * rng.standard_normal(len(rows)), 30.0)
    clipped = clipped_forget_nll(pd.DataFrame({"forget_nll": nll, "target_nll": 3.0}))
    assert clipped.max() == 3.5
    found = learning_rate_by_steps(
        rows.assign(response=clipped), seed=0, bootstraps=20, winsorise=False
    )
    assert found is not None
    assert found.kappa == pytest.approx(0.5, abs=0.02)
    low, high = found.kappa_interval
    assert high - low < 0.05


def test_ruined_models_are_all_alike() -> None:
    rows = planted(1.0, seed=7)
    ruined = rows["response"] > 2
    assert 0.1 < ruined.mean() < 0.6
    worse = rows.assign(response=rows["response"].where(~ruined, rows["response"] * 1e6))
    infinite = rows.assign(response=rows["response"].where(~ruined, np.inf))
    assert judged(worse) == judged(rows) == judged(infinite)


def test_the_cut_by_hand() -> None:
    """Of 23 values the 2nd least, 1, is q05 and the 9th, 8, is q40 (the lower neighbour): cut at 8
    + 2.5 * 7."""
    values = np.arange(21.0)
    assert winsorised(np.append(values, [100.0, np.inf])).max() == 8.0 + 2.5 * (8.0 - 1.0)
    np.testing.assert_array_equal(winsorised(values), values)


def test_no_effect_is_no_claim() -> None:
    rng = np.random.default_rng(8)
    rows = planted(1.0, seed=8)
    found = judged(rows.assign(response=rng.standard_normal(len(rows))))
    assert not found.equivalent
    assert found.kappa_interval[1] - found.kappa_interval[0] > 0.5


def test_it_is_the_kappa_at_which_another_smoother_fits_best() -> None:
    """Against scipy's smoothing spline on the pooled rows of one group, penalty by its own
    cross-validation."""
    rows = planted(0.7, seed=9, noise=0.08)
    y = winsorised(rows["response"].to_numpy())

    def error(kappa: float) -> float:
        z = np.log(rows["learning_rate"]) + kappa * np.log(rows["update"])
        order = np.argsort(z.to_numpy())
        x = z.to_numpy()[order]
        return float(((make_smoothing_spline(x, y[order], lam=0.01)(x) - y[order]) ** 2).sum())

    grid = np.arange(0.4, 1.01, 0.02)
    assert judged(rows).kappa == pytest.approx(grid[np.argmin([error(k) for k in grid])], abs=0.04)


def test_row_order_changes_nothing_and_the_seed_does() -> None:
    rows = planted(1.0, seed=10, trials=20, groups=2, updates=(4, 8, 16))
    found = judged(rows)
    assert judged(rows.sample(frac=1.0, random_state=3)[list(reversed(rows.columns))]) == found
    assert judged(rows, seed=1).kappa_interval != found.kappa_interval


def test_too_few_trials_steps_or_rates_say_nothing() -> None:
    rows = planted(1.0, seed=11)
    few = rows[rows["trial"].isin([f"0-{i}" for i in range(11)])]
    assert learning_rate_by_steps(few, 0) is None
    assert learning_rate_by_steps(rows[rows["update"] <= 8], 0) is None
    assert learning_rate_by_steps(rows.assign(learning_rate=1e-5), 0) is None
    assert learning_rate_by_steps(rows.assign(response=1.0), 0) is None
    assert learning_rate_by_steps(rows.assign(response=np.nan), 0) is None
    assert learning_rate_by_steps(rows.assign(response=np.inf), 0) is None
    assert learning_rate_by_steps(rows.iloc[:0], 0) is None
    # Twenty groups of five trials: none is large enough for a curve of its own.
    scattered = rows.assign(group=rows["trial"].str.removeprefix("0-").astype(int) % 20)
    assert learning_rate_by_steps(scattered, 0) is None


def test_missing_evaluations_and_rates_of_zero_are_left_out() -> None:
    rows = planted(1.0, seed=12)
    broken = rows.copy()
    broken["response"] = broken["response"].astype("Float64")
    broken.loc[::7, "response"] = pd.NA
    broken.loc[3::7, "learning_rate"] = 0.0
    kept = rows[broken["response"].notna() & (broken["learning_rate"] > 0)]
    assert judged(broken) == judged(kept)


def at_checkpoints(kappa: float, seed: int, trials: int = 120) -> pd.DataFrame:
    """One row per trial: a valley in log lr + kappa log w."""
    rng = np.random.default_rng(seed)
    rate, weight = 10 ** rng.uniform(-5.5, -3.5, trials), 10 ** rng.uniform(-0.5, 1.0, trials)
    z = np.log10(rate / 10**-4.5) + kappa * np.log10(weight / 1.8)
    score = 0.1 + 0.6 * np.tanh(z**2) + 0.05 * rng.standard_normal(trials)
    columns = {
        "trial": np.arange(trials),
        "group": "code",
        "learning_rate": rate,
        "w_r": weight,
        "response": score,
    }
    return pd.DataFrame(columns)


@pytest.mark.parametrize("kappa", [0.0, -1.0])
def test_a_weight_trades_off_with_the_learning_rate_or_does_not(kappa: float) -> None:
    found = weight_interaction(at_checkpoints(kappa, seed=13), seed=0, bootstraps=20)
    assert found is not None
    assert found.kappa == pytest.approx(kappa, abs=0.15)
    assert (found.kappa_interval[0] <= 0 <= found.kappa_interval[1]) == (kappa == 0)
    assert (found.n_trials, found.n_rows) == (120, 120)


def test_a_weight_that_alone_matters_runs_into_the_bound() -> None:
    rows = at_checkpoints(0.0, seed=14)
    rows = rows.assign(learning_rate=rows["w_r"], w_r=rows["learning_rate"])
    found = weight_interaction(rows, seed=0, bootstraps=20)
    assert found is not None
    assert found.interval_at_bound
    assert (
        weight_interaction(rows.rename(columns={"w_r": "w_f"}), seed=0, weight="w_f", bootstraps=20)
        == found
    )


def test_results_are_plain_numbers() -> None:
    for name, value in dataclasses.asdict(judged(planted(1.0, seed=15, trials=15))).items():
        assert all(
            type(v) in (int, float, bool) for v in (value if isinstance(value, tuple) else [value])
        ), name


def rates(kappa: float, repeats: int, **setting: object) -> dict[str, float]:
    """Over repeats: coverage, bias, and how often the product and the single variable were
    claimed."""
    found = [
        judged(planted(kappa, seed=1000 + i, **setting), seed=i, bootstraps=60)
        for i in range(repeats)
    ]  # type: ignore[arg-type]
    return {
        "covered": float(
            np.mean([f.kappa_interval[0] <= kappa <= f.kappa_interval[1] for f in found])
        ),
        "bias": float(np.mean([f.kappa for f in found])) - kappa,
        "equivalent": float(np.mean([f.equivalent for f in found])),
        "one_as_good": float(np.mean([f.one_as_good for f in found])),
    }


def test_few_trials_claim_the_product_only_where_it_is_what_counts() -> None:
    """20 trials in one group and 42 in three; 0.75 lies just outside of what counts as 1."""
    for setting in ({"trials": 20}, {"trials": 14, "groups": 3}):
        at_one, outside = (
            [judged(planted(kappa, 50 + i, trial_noise=0.05, **setting)) for i in range(8)]
            for kappa in (1.0, 0.75)
        )
        assert sum(found.equivalent for found in at_one) >= 6
        assert not any(found.equivalent for found in outside)


def test_an_interval_from_few_trials_is_wider_than_their_percentiles() -> None:
    """By Hesterberg's expanded percentiles: 20 trials leave 16 degrees of freedom."""
    low, high = _levels(20, 1)
    assert low == pytest.approx(norm.cdf(np.sqrt(20 / 16) * -1.7459), abs=1e-4)
    assert (low + high, _levels(10_000, 1)[0]) == (1.0, pytest.approx(0.05, abs=1e-3))


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting", [THREE_GROUPS, ONE_GROUP], ids=["36 trials x 3 groups", "100 trials"]
)
def test_coverage_power_and_false_claims(setting: dict[str, object]) -> None:
    one = rates(1.0, 30, trial_noise=0.05, **setting)
    assert one["covered"] >= 0.8
    assert one["equivalent"] >= 0.75
    half = rates(0.5, 20, trial_noise=0.05, pruned=True, **setting)
    assert half["covered"] >= 0.75
    assert abs(half["bias"]) < 0.05
    assert half["equivalent"] == 0.0
    assert rates(0.0, 10, **setting)["equivalent"] == 0.0
    assert rates(1.0, 10, separate=True, **setting)["one_as_good"] <= 0.1
