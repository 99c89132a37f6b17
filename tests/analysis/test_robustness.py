"""Robustness of a method, and the comparison of two: wrong numbers here recommend the wrong method
to everyone."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, norm
from surfaces import TOLERANCE, valley
from surfaces import planted as surface_trials

from ray_unlearn.analysis.statistics.configurations import with_configurations
from ray_unlearn.analysis.statistics.contests import RobustnessClaim, robustness_claim
from ray_unlearn.analysis.statistics.good_share import share_over_groups
from ray_unlearn.analysis.statistics.paired_difference import (
    Statistic,
    holm,
    paired_difference,
    t_interval,
)
from ray_unlearn.analysis.statistics.proportions import proportion_of
from ray_unlearn.analysis.statistics.resampling import Sample, exchanged, halved
from ray_unlearn.analysis.statistics.robustness import (
    Floats,
    TuningCurve,
    area_weights,
    best_weights,
    curve_ks,
    expected_best,
    in_choice_order,
    own_best_proportion,
    tuning_curve,
)
from ray_unlearn.spec.errors import UserError

NONE = np.zeros(8, dtype=bool)
SCORES = np.array([0.3, 1.7, 0.9, 2.5, 0.4, 1.1, 0.35, 6.0])
SELECTION = np.array([0.5, 1.2, 0.8, 2.0, 0.2, 1.5, 0.6, 5.0])
INFEASIBLE = np.array([False, False, True, False, False, False, False, True])


# One method.


def area(curve: TuningCurve) -> float:
    """The area under a tuning curve, as the comparisons weigh it."""
    return float(area_weights(curve.ks) @ np.array(curve.expected_best))


@pytest.mark.parametrize("k", range(1, 9))
def test_expected_best_is_the_mean_over_all_subsets(k: int) -> None:
    """Two of eight diverged, one is worse than doing nothing (2.0), and the best is chosen on the
    other half."""
    subsets = list(itertools.combinations(range(8), k))
    total = 0.0
    for subset in subsets:
        feasible = [i for i in subset if not INFEASIBLE[i]]
        total += min(SCORES[min(feasible, key=lambda i: SELECTION[i])], 2.0) if feasible else 2.0
    found = expected_best(SCORES, INFEASIBLE, k, fallback=2.0, selection=SELECTION)
    assert found == pytest.approx(total / len(subsets), rel=1e-12)


def test_expected_best_is_unbiased_where_the_plug_in_estimate_is_not() -> None:
    """The best of k exponential scores is 1/k on average; the plug-in estimate of half of 20 trials
    says 15 % more."""
    rng, k, n = np.random.default_rng(0), 10, 20
    samples = np.sort(rng.exponential(size=(4000, n)), axis=1)
    unbiased = samples @ best_weights(n, [k])[0]
    left = (n - np.arange(n + 1)) / n
    plug_in = samples @ (left[:-1] ** k - left[1:] ** k)
    error = unbiased.std() / math.sqrt(len(samples))
    assert abs(unbiased.mean() - 1 / k) < 4 * error
    assert plug_in.mean() - 1 / k > 8 * error


@pytest.mark.parametrize(
    ("k", "rank"), [(1, 99_999), (7, 60_000), (5_000, 300), (50_000, 40), (99_999, 2)]
)
def test_weights_of_a_hundred_thousand_trials_are_exact(k: int, rank: int) -> None:
    """Binomials of 100,000 have 30,000 digits; Python's integers are exact."""
    n = 100_000
    weights = best_weights(n, [k])[0]
    log_exact = (
        math.log2(math.comb(n - rank, k - 1)) - math.log2(math.comb(n, k))
        if k > 1
        else -math.log2(n)
    )
    assert weights[rank - 1] == pytest.approx(2**log_exact, rel=1e-9, abs=1e-300)
    assert weights.sum() == pytest.approx(1, abs=1e-11)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.3085), (5, 10, 0.1871, 0.8129), (10, 10, 0.6915, 1.0), (1, 20, 0.0013, 0.2487)],
)
def test_share_has_the_tabled_clopper_pearson_interval(
    successes: int, n: int, low: float, high: float
) -> None:
    near = proportion_of(successes, n)
    assert (near.successes, near.n, near.fraction) == (successes, n, successes / n)
    assert (near.low, near.high) == pytest.approx((low, high), abs=6e-5)


def test_share_interval_covers_at_least_95_percent() -> None:
    """Exactly: the probability of every outcome of 20 trials, at shares from 1 to 99 %."""
    shares = [proportion_of(x, 20) for x in range(21)]
    for p in np.linspace(0.01, 0.99, 99):
        covered = [x for x, share in enumerate(shares) if share.low <= p <= share.high]
        assert binom.pmf(covered, 20, p).sum() >= 0.95


def test_tuning_curve_and_its_band() -> None:
    """The band is the jackknife's: here by leaving each trial out in turn."""
    rng = np.random.default_rng(3)
    scores, infeasible = rng.lognormal(size=30), rng.random(30) < 0.2
    curve = tuning_curve(scores, infeasible, [1, 4, 15], fallback=3.0)
    assert (curve.n, curve.n_infeasible) == (30, int(infeasible.sum()))
    assert list(curve.expected_best) == sorted(curve.expected_best, reverse=True)
    for k, value, low, high in zip(
        curve.ks, curve.expected_best, curve.low, curve.high, strict=True
    ):
        assert value == pytest.approx(expected_best(scores, infeasible, k, 3.0))
        without = [
            expected_best(np.delete(scores, i), np.delete(infeasible, i), k, 3.0) for i in range(30)
        ]
        error = math.sqrt(29 * np.var(without))
        assert (low, high) == pytest.approx(
            (value - 1.699 * error, value + 1.699 * error), rel=1e-3
        )


def test_a_method_that_always_diverges_is_worth_doing_nothing() -> None:
    curve = tuning_curve(np.full(8, math.nan), ~NONE, [1, 2, 4], fallback=1.5)
    for line in (curve.expected_best, curve.low, curve.high):
        assert line == pytest.approx((1.5, 1.5, 1.5))
    assert area(curve) == pytest.approx(1.5)


def test_budgets_that_hang_on_one_lucky_trial_are_refused() -> None:
    with pytest.raises(UserError, match=r"8 trials has k in 1 \.\.\. 4"):
        tuning_curve(SCORES, NONE, [1, 5], 9.0)
    with pytest.raises(UserError, match=r"k in 1 \.\.\. 8"):
        expected_best(SCORES, NONE, 9, 9.0)
    with pytest.raises(UserError, match="rising budgets from 1"):
        area(tuning_curve(SCORES, NONE, [2, 4], 9.0))


def test_area_by_hand() -> None:
    """Scores 0, 1, 2, 3: the best of 1 is 1.5 on average, of 2 (3*0 + 2*1 + 1*2) / 6 = 2/3; one
    doubling between."""
    curve = tuning_curve([3.0, 1.0, 0.0, 2.0], [False] * 4, [1, 2], fallback=9.0)
    assert curve.expected_best == pytest.approx((1.5, 2 / 3))
    assert area(curve) == pytest.approx((1.5 + 2 / 3) / 2)
    assert curve_ks(18)[:5] == (1, 2, 3, 4, 5)
    assert curve_ks(18)[-1] == 18
    assert curve_ks(1) == (1,)


def test_share_near_the_own_best_is_the_mean_over_all_subsets() -> None:
    rows = in_choice_order(SCORES, INFEASIBLE, SELECTION)
    shares = []
    for subset in itertools.combinations(rows, 4):
        best, others = subset[0], subset[1:]
        shares.append(np.mean([math.isfinite(best) and other <= best + 0.75 for other in others]))
    assert own_best_proportion(rows[None], 4, 0.75)[0] == pytest.approx(np.mean(shares))
    diverged = np.full((1, 8), np.inf)
    assert own_best_proportion(diverged, 4, 0.75)[0] == 0.0


def test_share_near_the_own_best_does_not_fall_with_the_number_of_trials() -> None:
    """Ten times the trials find a better best: counted against that, the same method would look
    less robust."""
    rng = np.random.default_rng(1)
    few = own_best_proportion(np.sort(rng.exponential(size=(400, 40)), axis=1), 20, 0.2)
    many = own_best_proportion(np.sort(rng.exponential(size=(100, 4000)), axis=1), 20, 0.2)
    assert few.mean() == pytest.approx(many.mean(), abs=4 * few.std() / 20)


def test_many_resamples_at_once_give_nearly_the_share_that_one_gives() -> None:
    """Of 3,000 trials the best of 20 may have any of 1,500 ranks; with many rows at once 64 of them
    are looked at."""
    rng = np.random.default_rng(2)
    row = np.sort(rng.exponential(size=3000))
    noisy = in_choice_order(row + rng.normal(size=3000), np.zeros(3000, dtype=bool), row)
    for values, error in ((row, 0.002), (noisy, 0.05)):
        exact = own_best_proportion(values[None], 20, 0.2)[0]
        assert own_best_proportion(np.tile(values, (600, 1)), 20, 0.2)[0] == pytest.approx(
            exact, abs=error
        )


def mean_of(rows: Floats) -> Floats:
    return np.asarray(rows.mean(axis=1))


def sample_of(values: Sequence[float], configurations: Sequence[int] | None = None) -> Sample:
    names = np.arange(len(values)) if configurations is None else np.asarray(configurations)
    scores = np.asarray(values, dtype=float)
    lines = {"score": scores, "score_selection": scores, "configuration": names}
    return Sample.of(pd.DataFrame(lines).assign(infeasible=False))


def test_halves_have_the_spread_of_a_mean() -> None:
    """The standard error of a mean, s / sqrt(n), for an odd and an even number of trials."""
    for n in (15, 16):
        values = np.random.default_rng(n).normal(size=n)
        draws = halved(sample_of(values.tolist()), mean_of, 20_000, np.random.default_rng(0))
        assert draws.std() == pytest.approx(values.std(ddof=1) / math.sqrt(n), rel=0.03)
        assert draws.mean() == pytest.approx(values.mean(), abs=0.01)


def test_halves_keep_configurations_whole() -> None:
    """Eight configurations of four equal trials: the spread is that of eight trials, not of 32."""
    values = np.random.default_rng(0).normal(size=8)
    repeated = sample_of(np.repeat(values, 4).tolist(), np.repeat(np.arange(8), 4).tolist())
    draws = halved(repeated, mean_of, 20_000, np.random.default_rng(0))
    assert draws.std() == pytest.approx(values.std(ddof=1) / math.sqrt(8), rel=0.03)


def test_trials_change_places_in_all_ways_alike() -> None:
    """Of 0, 1 and 2, 3 there are six deals: means of a 0.5, 1, 1.5 (twice), 2 and 2.5."""
    a, b = exchanged(
        sample_of([0, 1]), sample_of([2, 3]), mean_of, 60_000, np.random.default_rng(0)
    )
    assert (a + b).tolist() == [3.0] * 60_000
    counts = {float(value): np.mean(a == value) for value in np.unique(a)}
    assert counts == pytest.approx(
        {0.5: 1 / 6, 1.0: 1 / 6, 1.5: 1 / 3, 2.0: 1 / 6, 2.5: 1 / 6}, abs=0.01
    )


def test_configurations_change_places_whole() -> None:
    """Two of each method, both tried twice: again six deals, and the two methods' first ones are
    not one configuration."""
    a, b = (sample_of(values, [0, 0, 1, 1]) for values in ([0, 0, 1, 1], [2, 2, 3, 3]))
    of_a, _ = exchanged(a, b, mean_of, 60_000, np.random.default_rng(0))
    counts = {float(value): np.mean(of_a == value) for value in np.unique(of_a)}
    assert counts == pytest.approx(
        {0.5: 1 / 6, 1.0: 1 / 6, 1.5: 1 / 3, 2.0: 1 / 6, 2.5: 1 / 6}, abs=0.01
    )


# Two methods.


def planted(
    rng: np.random.Generator,
    shares: dict[str, float],
    counts: dict[str, int],
    *,
    groups: int = 3,
    noise: float = 0.0,
) -> pd.DataFrame:
    """`TrialTable.trials` of methods whose share of configurations within 1 of the best is known;
    some of the rest diverge.

    Good scores lie in 0 ... 0.8, bad ones above 1.2; a fifth of the bad trials are infeasible.
    """
    parts = []
    for group, (method, share) in itertools.product(range(groups), shares.items()):
        n = counts[method]
        good = rng.random(n) < share
        truth = np.where(good, rng.uniform(0, 0.8, n), 1.2 + rng.exponential(2, n))
        truth[~good & (rng.random(n) < 0.2)] = np.nan
        halves = {name: truth + noise * rng.normal(size=n) for name in ("score", "score_selection")}
        names = {"group": f"domain_{group}", "domain": f"domain_{group}", "method": method}
        parts.append(pd.DataFrame(halves | names))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(
        trial=range(len(table)),
        model="m",
        seed=0.0,
        drawn="space",
        infeasible=table["score"].isna(),
        configuration=[str(trial) for trial in range(len(table))],
    )


def claim(table: pd.DataFrame, seed: int = 0, repeats: int = 400) -> RobustnessClaim:
    fallback = dict.fromkeys(table["group"], 6.0)
    return robustness_claim(table, "wide", "narrow", 1.0, seed, fallback=fallback, repeats=repeats)


MEAN = "mean_score"


def mean_statistic(groups: int) -> Statistic:
    return Statistic(MEAN, False, {f"domain_{group}": mean_of for group in range(groups)})


@pytest.fixture
def table() -> pd.DataFrame:
    return planted(
        np.random.default_rng(5), {"wide": 0.6, "narrow": 0.15}, {"wide": 40, "narrow": 36}
    )


def test_a_planted_difference_is_found_and_scoped(table: pd.DataFrame) -> None:
    found = claim(table)
    assert found.outcome == "more robust"
    assert found.outcomes == ("more robust",) * 3
    assert found.budget == 18
    assert found.scope == "these domains only"
    assert found.outcome_beyond is None
    own, known, area = found.differences
    assert known.over_trials.low < 0.45 < known.over_trials.high
    assert (known.better, known.worse) == (3, 0)
    assert area.mean < 0 < own.mean
    assert known.n_seeds == 1


def test_the_claim_is_mirrored_when_the_methods_swap(table: pd.DataFrame) -> None:
    mirrored = robustness_claim(
        table, "narrow", "wide", 1.0, 0, fallback=dict.fromkeys(table["group"], 6.0)
    )
    assert mirrored.outcome == "less robust"
    for one, other in zip(claim(table).differences, mirrored.differences, strict=True):
        assert one.mean == pytest.approx(-other.mean)


def test_methods_that_score_alike_to_the_last_digits_do_not_differ() -> None:
    """All trials at 0.1, in unequal numbers: sums of weights differ by 1e-16, and so would every
    resample."""
    data = planted(
        np.random.default_rng(4), {"wide": 1.0, "narrow": 1.0}, {"wide": 36, "narrow": 101}
    )
    found = claim(data.assign(score=0.1, score_selection=0.1))
    assert found.outcomes == ("not settled",) * 3
    assert [(d.mean, d.better, d.worse) for d in found.differences] == [(0.0, 0, 0)] * 3


def test_order_and_names_change_nothing(table: pd.DataFrame) -> None:
    found = claim(table)
    assert claim(table.sample(frac=1, random_state=1)) == found
    renamed = table.replace({"group": {"domain_0": "z", "domain_1": "y", "domain_2": "x"}})
    for one, other in zip(found.differences, claim(renamed).differences, strict=True):
        assert (one.mean, one.over_trials) == (other.mean, other.over_trials)
    assert claim(table, seed=1).differences[0].over_trials != found.differences[0].over_trials


def test_an_adaptive_sampler_does_not_make_a_method_robust(table: pd.DataFrame) -> None:
    """Its trials sit where the good ones are. They may set the best known, and are not counted."""
    adaptive = planted(np.random.default_rng(6), {"narrow": 1.0}, {"narrow": 200}).assign(
        drawn="adaptive"
    )
    adaptive["trial"] += len(table)
    both = claim(pd.concat([table, adaptive]))
    own, known, area = claim(table).differences
    assert both.differences[0] == own
    assert both.differences[2] == area
    assert [g.n_b for g in both.differences[1].groups] == [36, 36, 36]
    assert both.differences[1].mean <= known.mean + 1 / 36


def test_the_trial_that_sets_the_best_known_is_not_counted(table: pd.DataFrame) -> None:
    known = claim(table).differences[1]
    assert sum(group.n_a + group.n_b for group in known.groups) == len(table) - 3


def test_groups_that_cannot_be_paired_are_left_out(table: pd.DataFrame) -> None:
    short = table[(table["group"] != "domain_1") | (table["method"] == "wide")]
    assert [g.group for g in claim(short).differences[0].groups] == ["domain_0", "domain_2"]
    with pytest.raises(UserError, match=r"'narow'; did you mean 'narrow'"):
        robustness_claim(table, "wide", "narow", 1.0, 0)
    with pytest.raises(UserError, match="with itself"):
        robustness_claim(table, "wide", "wide", 1.0, 0)
    with pytest.raises(UserError, match="share no group with 8 or more"):
        claim(table.assign(drawn="adaptive"))
    hopeless = table.assign(infeasible=True, score=math.nan, score_selection=math.nan)
    with pytest.raises(UserError, match="no trial of any method has a score"):
        claim(hopeless)


def test_difference_of_means_against_the_textbook() -> None:
    """Three groups: the interval is that of the normal approximation, sqrt(sum of s^2/n) / 3
    wide."""
    data = planted(
        np.random.default_rng(2), {"wide": 1.0, "narrow": 1.0}, {"wide": 40, "narrow": 40}
    )
    found = paired_difference(data, "wide", "narrow", mean_statistic(3), 0, repeats=20_000)
    parts = data.groupby(["group", "method"])["score"]
    error = math.sqrt(float((parts.var() / parts.size()).sum())) / 3
    margin = float(norm.ppf(0.95)) * error
    assert found.over_trials.high - found.over_trials.low == pytest.approx(2 * margin, rel=0.03)
    assert found.over_trials.p_value == pytest.approx(
        2 * norm.sf(abs(found.mean) / error), abs=0.02
    )
    by_hand = parts.mean().unstack()
    assert found.mean == pytest.approx(float((by_hand["wide"] - by_hand["narrow"]).mean()))


def test_five_groups_allow_a_claim_beyond_them() -> None:
    data = planted(
        np.random.default_rng(3), {"wide": 0.7, "narrow": 0.1}, {"wide": 24, "narrow": 24}, groups=5
    )
    found = claim(data)
    assert found.scope == "domains like these"
    assert found.outcome_beyond == "more robust"
    assert (found.differences[1].better, found.differences[1].worse) == (5, 0)


def test_t_interval_by_hand() -> None:
    """Mean 3, s = sqrt(2.5), t(0.95, 4) = 2.1318."""
    interval = t_interval([1, 2, 3, 4, 5])
    assert (interval.low, interval.high) == pytest.approx((3 - 1.5075, 3 + 1.5075), abs=1e-4)
    assert interval.p_value == pytest.approx(0.0132, abs=1e-4)
    assert t_interval([0, 0, 0]).p_value == 1.0
    assert t_interval([2, 2, 2]).p_value == 0.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]).tolist() == [1.0, 1.0]


# Rates of right and wrong claims.


def test_equal_methods_of_twenty_trials_are_rarely_told_apart() -> None:
    """5 % are allowed; by random halves alone 12 % of such studies would be claims."""
    scores = dict.fromkeys(("wide", "narrow", "other"), valley(width=0.35))
    told = 0
    for seed in range(150):
        data = surface_trials(scores, trials=20, seed=seed)
        frame = with_configurations(data.trials, data.axes)
        found = robustness_claim(frame, "wide", "narrow", TOLERANCE, seed, repeats=1000)
        told += found.outcome != "not settled"
    assert told <= 0.05 * 150 + 2 * math.sqrt(0.05 * 0.95 * 150)


@pytest.mark.slow
@pytest.mark.parametrize("counts", [{"wide": 36, "narrow": 36}, {"wide": 36, "narrow": 100}])
def test_equal_methods_are_rarely_told_apart(counts: dict[str, int]) -> None:
    """Each interval has 10 %, all three together 5 %; allowed: standard errors of the repeats
    above."""
    rng, repeats = np.random.default_rng(7), 200
    claims = [
        claim(planted(rng, {"wide": 0.3, "narrow": 0.3}, counts, noise=0.3), r)
        for r in range(repeats)
    ]
    limit = 0.10 + 4 * math.sqrt(0.09 / repeats)
    for i in range(3):
        assert np.mean([c.outcomes[i] != "not settled" for c in claims]) <= limit
    assert np.mean([c.outcome != "not settled" for c in claims]) <= 0.05 + 2 * math.sqrt(
        0.05 * 0.95 / repeats
    )


@pytest.mark.slow
def test_a_share_of_a_half_is_told_from_a_fifth() -> None:
    rng, repeats = np.random.default_rng(8), 100
    counts = {"wide": 36, "narrow": 36}
    claims = [claim(planted(rng, {"wide": 0.5, "narrow": 0.2}, counts), r) for r in range(repeats)]
    assert np.mean([c.outcomes[1] == "more robust" for c in claims]) >= 0.95
    assert np.mean([c.outcome == "more robust" for c in claims]) >= 0.95


@pytest.mark.parametrize("groups", [5, 6, 10])
def test_interval_over_groups_covers(groups: int) -> None:
    """Differences normal over groups, true mean 0.2; and an interval of resampled groups does
    not."""
    rng = np.random.default_rng(groups)
    samples = rng.normal(0.2, 0.5, size=(1500, groups))
    covered = [(i := t_interval(sample)).low <= 0.2 <= i.high for sample in samples]
    assert np.mean(covered) == pytest.approx(0.9, abs=0.025)
    means = samples[:, rng.integers(groups, size=(300, groups))].mean(axis=2)
    low, high = np.quantile(means, [0.05, 0.95], axis=1)
    assert np.mean((low <= 0.2) & (high >= 0.2)) < 0.875


def test_a_budget_lies_in_its_interval_where_domains_differ() -> None:
    """In one domain nearly all is good, in the other hardly anything: the mean share says 4 trials,
    and it takes 16."""
    rng = np.random.default_rng(0)
    shares = [np.clip(rng.normal(mean, 0.02, 256), 0.01, 1) for mean in (0.9, 0.1)]
    found = share_over_groups(shares)
    assert found is not None
    assert found.share == pytest.approx(0.5, abs=0.02)
    assert None not in (found.fewest, found.budget, found.most)
    assert found.fewest <= found.budget <= found.most
    assert pytest.approx(0.907, abs=1e-3) == 1 - (0.1**16 + 0.9**16) / 2, "16 by hand"
    assert found.budget in (15, 16, 17)
    assert found.fewest > 1
    never = share_over_groups([np.full(8, 1e-9)])
    assert never is not None
    assert (never.fewest, never.budget, never.most) == (None, None, None)
