"""When to stop: the checkpoint, and what it costs against the best step, on trajectories whose
answers are known."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from planted_efforts import DOING_NOTHING, TAU, planted_stops
from scipy.stats import binomtest

from ray_unlearn.analysis.statistics.stopping_regret import StoppingRule, checkpoints, stopping_rule

TARGET = 2.0
# trial, group, update, forget_nll, score, score_selection; 16 updates planned.
TRAJECTORIES = [
    # Crosses at 8, where it is best: regret 0, half of the updates saved.
    ("a", "code", 4, 1.5, 0.5, 0.5),
    ("a", "code", 8, 2.0, 0.1, 0.2),
    ("a", "code", 16, 3.0, 1.0, 0.9),
    # Crosses at 4; the selection half prefers 8, which scores 0.3: regret 0.1. Running on to 16
    # loses 0.4.
    ("b", "code", 4, 2.5, 0.4, 0.5),
    ("b", "code", 8, 2.6, 0.3, 0.2),
    ("b", "code", 16, 2.7, 0.7, 0.8),
    # Never crosses: the last step, which the reporting half likes better than the chosen best:
    # regret -0.1.
    ("c", "text", 4, 1.0, 0.6, 0.3),
    ("c", "text", 8, 1.2, 0.5, 0.4),
    ("c", "text", 16, 1.4, 0.5, 0.4),
    # Crosses at 8, diverges afterwards: that does not matter. Regret 0.2 against update 4. Cut
    # short at 12.
    ("d", "text", 4, 1.9, 0.2, 0.2),
    ("d", "text", 8, 2.1, 0.4, 0.4),
    ("d", "text", 12, np.inf, np.nan, np.nan),
]
COLUMNS = ["trial", "group", "update", "forget_nll", "score", "score_selection"]


def by_hand() -> pd.DataFrame:
    return pd.DataFrame(TRAJECTORIES, columns=COLUMNS).assign(target_nll=TARGET, steps=16)


def judged(rows: pd.DataFrame, seed: int = 0, bootstraps: int = 1000) -> StoppingRule:
    rule = stopping_rule(rows, seed, bootstraps)
    assert rule is not None
    return rule


def test_the_checkpoint_is_the_first_crossing_else_the_last_evaluation() -> None:
    table = checkpoints(by_hand())
    assert table["trial"].tolist() == ["a", "b", "c", "d"]
    assert table["update"].tolist() == [8, 4, 16, 8]
    assert table["crossed"].tolist() == [True, True, False, True]
    assert table["row"].tolist() == [1, 3, 8, 10]
    assert table["row_last"].tolist() == [2, 5, 8, 11]
    assert not table["infeasible"].any()


def test_regrets_and_savings_by_hand() -> None:
    rule = judged(by_hand())
    assert (
        rule.n_trials,
        rule.n_regrets,
        rule.n_infeasible,
        rule.n_infeasible_last,
    ) == (4, 4, 0, 1)
    assert rule.regret_mean == pytest.approx((0.0 + 0.1 - 0.1 + 0.2) / 4)
    # Last step against best step: a 0.9, b 0.4, c -0.1; d has no score there.
    assert rule.regret_last_mean == pytest.approx(0.4)
    assert rule.updates_saved == pytest.approx((8 / 16 + 12 / 16 + 8 / 16) / 3)
    assert not rule.hindsight
    exact = binomtest(3, 4).proportion_ci(0.95, method="exact")
    assert (rule.crossed.successes, rule.crossed.n, rule.crossed.fraction) == (3, 4, 0.75)
    assert (rule.crossed.low, rule.crossed.high) == pytest.approx((exact.low, exact.high))


def test_a_table_with_one_score_says_hindsight() -> None:
    rows = by_hand().drop(columns="score_selection")
    rule = judged(rows)
    assert rule.hindsight
    # The best step is now the best by the same score: c's last step is among its best.
    assert rule.regret_mean == pytest.approx((0.0 + 0.1 + 0.0 + 0.2) / 4)
    assert judged(rows.assign(score_selection=rows["score"])) == rule


def test_each_group_and_row_has_its_own_target() -> None:
    rows = by_hand()
    rows.loc[rows["group"] == "text", "target_nll"] = 1.2
    assert checkpoints(rows)["update"].tolist() == [8, 4, 8, 4]


@pytest.mark.parametrize("absent", ["forget_nll", "target_nll"])
@pytest.mark.parametrize("how", ["no column", "empty column", "nullable column"])
def test_without_target_or_forget_nll_the_last_step_counts_and_no_rule_is_judged(
    absent: str, how: str
) -> None:
    rows = by_hand()
    if how == "no column":
        rows = rows.drop(columns=absent)
    else:
        rows[absent] = (
            pd.array([pd.NA] * len(rows), dtype="Float64") if how == "nullable column" else np.nan
        )
    table = checkpoints(rows)
    assert table["update"].tolist() == [16, 16, 16, 12]
    assert table["crossed"].tolist() == [None] * 4
    assert table["infeasible"].tolist() == [False, False, False, True]
    assert stopping_rule(rows, seed=0) is None


def test_an_evaluation_that_cannot_be_compared_stops_no_trial() -> None:
    rows = by_hand()
    rows.loc[1, "forget_nll"] = np.nan
    assert checkpoints(rows)["update"].tolist()[0] == 16
    rows.loc[2, "forget_nll"] = np.nan
    assert checkpoints(rows)["crossed"].tolist() == [None, True, False, True]
    assert judged(rows).n_trials == 3


def test_a_trial_that_diverges_at_its_checkpoint_is_counted_and_in_no_mean() -> None:
    rows = by_hand()
    rows.loc[rows["trial"].eq("d") & rows["update"].eq(8), ["score", "score_selection"]] = np.nan
    assert checkpoints(rows)["infeasible"].tolist() == [False, False, False, True]
    rule = judged(rows)
    assert (rule.n_trials, rule.n_infeasible, rule.n_regrets, rule.crossed.successes) == (
        4,
        1,
        3,
        3,
    )
    assert rule.regret_mean == pytest.approx(0.0)


def test_one_evaluation_says_nothing_about_when_to_stop() -> None:
    rows = by_hand()
    assert stopping_rule(rows[rows["update"] == 4], seed=0) is None
    alone = pd.concat(
        [rows, pd.DataFrame([("e", "text", 4, 3.0, 9.0, 9.0, TARGET, 16)], columns=rows.columns)]
    )
    assert judged(alone) == judged(rows)
    assert checkpoints(alone)["trial"].tolist() == ["a", "b", "c", "d", "e"]


def test_no_rows_no_checkpoints() -> None:
    empty = by_hand().iloc[:0]
    assert checkpoints(empty).empty
    assert list(checkpoints(empty).columns) == list(checkpoints(by_hand()).columns)
    assert stopping_rule(empty, seed=0) is None


def test_a_row_order_changes_nothing() -> None:
    rows = noise(trials=40, evaluations=6, seed=3)
    shuffled = rows.sample(frac=1.0, random_state=1)
    assert judged(rows) == judged(shuffled)
    pd.testing.assert_frame_equal(checkpoints(rows), checkpoints(shuffled))  # index labels and all
    assert judged(rows, seed=0).regret_interval != judged(rows, seed=1).regret_interval


def test_checkpoints_as_one_trial_at_a_time_would_find_them() -> None:
    rng = np.random.default_rng(7)
    rows = pd.DataFrame(
        {
            "trial": rng.integers(0, 300, 3000),
            "forget_nll": rng.choice(
                [1.0, 2.0, 3.0, np.nan, np.inf], 3000, p=[0.7, 0.1, 0.1, 0.05, 0.05]
            ),
            "target_nll": rng.choice([2.0, 2.5, np.nan], 3000, p=[0.45, 0.45, 0.1]),
            "score": rng.choice([0.1, np.nan], 3000),
        }
    )
    rows["update"] = rng.permutation(len(rows))
    table = checkpoints(rows).set_index("trial")
    assert len(table) == rows["trial"].nunique()
    for trial, part in rows.sort_values("update").groupby("trial"):
        stop = next(
            (i for i, row in part.iterrows() if row["forget_nll"] >= row["target_nll"]),
            part.index[-1],
        )
        at = part.loc[stop]
        known = not (np.isnan(at["forget_nll"]) or np.isnan(at["target_nll"]))
        found = table.loc[trial]
        assert found["row"] == stop
        assert found["crossed"] == (bool(at["forget_nll"] >= at["target_nll"]) if known else None)
        assert found["infeasible"] == (np.isnan(at["score"]) or np.isinf(at["forget_nll"]))


def noise(trials: int, evaluations: int, seed: int) -> pd.DataFrame:
    """Every step equally good; scores of both halves with independent unit noise; the rule fires at
    the middle step."""
    rng = np.random.default_rng(seed)
    update = np.tile(np.arange(1, evaluations + 1), trials)
    return pd.DataFrame(
        {
            "trial": np.repeat(np.arange(trials), evaluations),
            "group": np.repeat(np.arange(trials) % 3, evaluations),
            "update": update,
            "forget_nll": update / evaluations,
            "target_nll": 0.5,
            "score": rng.standard_normal(trials * evaluations),
            "score_selection": rng.standard_normal(trials * evaluations),
        }
    )


@pytest.mark.parametrize(("evaluations", "optimism"), [(5, 1.163), (10, 1.539), (20, 1.867)])
def test_hindsight_charges_the_rule_with_noise_and_a_second_half_does_not(
    evaluations: int, optimism: float
) -> None:
    """The expected minimum of n normal draws: the true regret is 0 here, since every step is
    equally good."""
    rows = noise(trials=2000, evaluations=evaluations, seed=evaluations)
    honest = judged(rows, bootstraps=50)
    naive = judged(rows.drop(columns="score_selection"), bootstraps=50)
    # Four standard errors of a mean of 2,000: sd sqrt(2) at most, and about 1.2 for the naive one.
    assert honest.regret_mean == pytest.approx(0.0, abs=4 * 1.42 / 2000**0.5)
    assert naive.regret_mean == pytest.approx(optimism, abs=4 * 1.2 / 2000**0.5)
    assert naive.hindsight
    assert not honest.hindsight


def test_a_rule_that_stops_too_late_is_charged_what_that_costs() -> None:
    """Truth: the best step is the first, the rule fires at 3 of 5, each step costs 1. Noise 0.05
    cannot hide that."""
    rows = noise(trials=300, evaluations=5, seed=0)
    for name in ("score", "score_selection"):
        rows[name] = 0.05 * rows[name] + rows["update"]
    rule = judged(rows)
    assert rule.regret_mean == pytest.approx(2.0, abs=0.02)
    assert rule.regret_last_mean == pytest.approx(4.0, abs=0.03)
    assert rule.updates_saved == pytest.approx(2 / 5)
    assert rule.crossed.fraction == 1.0
    assert rule.crossed.high == 1.0


def test_the_interval_is_that_of_a_mean_within_groups() -> None:
    """Regrets of 0 and 1 by group, constant within: resampled within groups, the mean cannot
    vary."""
    rows = by_hand()
    rows.loc[rows["trial"].isin(["a", "b"]), ["score", "score_selection"]] = [
        [0.5] * 2,
        [0.0] * 2,
        [0.5] * 2,
    ] * 2
    rows.loc[rows["trial"].eq("a"), "forget_nll"] = 2.5
    rows.loc[rows["trial"].isin(["c", "d"]), ["score", "score_selection"]] = 0.3
    rule = judged(rows)
    assert rule.regret_mean == pytest.approx(0.25)
    assert rule.regret_interval == pytest.approx((0.25, 0.25))


def bounded(price: np.ndarray, seed: int = 0, groups: int = 1) -> StoppingRule:
    nothing = {str(g): DOING_NOTHING for g in range(groups)}
    rule = stopping_rule(planted_stops(price, seed, groups=groups), seed, 400, nothing)
    assert rule is not None
    return rule


def test_a_ruined_model_costs_what_doing_nothing_does_whether_it_has_a_score_or_not() -> None:
    """One of four trials stops at a ruined model: that it has no score does not make it cheap."""
    quiet = {"noise": 0.0}
    for ruin in (30.0, np.inf):
        rows = planted_stops(np.array([0.0, 0.0, 0.0, ruin] * 10), 0, **quiet)
        rule = stopping_rule(rows, 0, 100, {"0": DOING_NOTHING})
        assert rule is not None
        assert rule.regret_mean == pytest.approx(DOING_NOTHING / 4)
        assert rule.regret_last_mean == pytest.approx(DOING_NOTHING)
        assert (rule.n_regrets, rule.bounded) == (40, True)
    rows = planted_stops(np.array([0.0, 0.0, 0.0, np.inf] * 10), 0, **quiet)
    unknown = judged(rows)
    assert (unknown.n_regrets, unknown.n_infeasible, unknown.bounded) == (30, 10, False)


def test_twenty_trials_without_a_ruined_one_do_not_show_that_there_is_none() -> None:
    """Of the next, 14 % may still be ruined (1 - 0.05 ** (1 / 20))."""
    rows = planted_stops(np.zeros(20), 0, noise=0.0)
    assert judged(rows).regret_interval[1] == 0.0
    rule = stopping_rule(rows, 0, 4000, {"0": DOING_NOTHING})
    assert rule is not None
    assert rule.regret_interval[1] == pytest.approx((1 - 0.05 ** (1 / 20)) * DOING_NOTHING, rel=0.1)


@pytest.mark.parametrize(("n", "groups"), [(20, 1), (42, 3)])
def test_a_price_above_the_tolerance_is_not_passed_for_less_by_few_trials(
    n: int, groups: int
) -> None:
    """A quarter of the trials stop at a ruined model: 1.5 tolerances in the mean."""
    rng = np.random.default_rng(n)
    prices = [np.where(rng.random(n) < 0.25, 30.0, 0.0) for _ in range(60)]
    said = [bounded(price, i, groups).regret_interval for i, price in enumerate(prices)]
    assert sum(high <= TAU for _, high in said) <= 3
    assert sum(low <= 1.5 * TAU <= high for low, high in said) >= 48


@pytest.mark.slow
def test_the_interval_covers_the_true_regret() -> None:
    """Nominal 90 %, 60 trials of 5 evaluations, noise in both halves; 400 repeats."""
    covered = []
    for seed in range(400):
        rows = noise(trials=60, evaluations=5, seed=seed)
        low, high = judged(rows, bootstraps=300).regret_interval
        covered.append(low <= 0 <= high)
    assert 0.85 <= np.mean(covered) <= 0.95


def test_results_are_plain_numbers() -> None:
    rule = judged(by_hand())
    for name, value in dataclasses.asdict(rule).items():
        values = (
            value.values()
            if isinstance(value, dict)
            else value
            if isinstance(value, tuple)
            else [value]
        )
        assert all(type(v) in (int, float, bool) for v in values), name
