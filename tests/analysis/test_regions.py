"""Good regions of hyperparameters: planted optima, cliffs and nothing at all."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from ray_unlearn.analysis.statistics import good_regions as regions_module
from ray_unlearn.analysis.statistics import response_surface as surface_module
from ray_unlearn.analysis.statistics.fitted_groups import fit_groups
from ray_unlearn.analysis.statistics.good_regions import Region, good_regions
from ray_unlearn.analysis.statistics.response_surface import (
    MOST_POINTS,
    fit_response_surfaces,
    winsorising_limit,
)
from ray_unlearn.surfaces import posterior_paths as paths_module
from ray_unlearn.surfaces.axes import Axis
from ray_unlearn.surfaces.group_points import GroupPoints
from ray_unlearn.surfaces.kernel_posterior import KernelPosterior, kink_of

RATE = Axis("learning_rate", "log", 1e-7, 1e-4)
AXES = (RATE, Axis("steps", "log", 10, 1000), Axis("w_r", "linear", 0, 8))
TAU = 0.3
LEFT, RIGHT = 12.0, 60.0


def cliff(
    n: int,
    d: int,
    seed: int,
    best: float = 0.45,
    nuisance: float = 0.0,
    noise: float = TAU / 2,
    group: str = "books",
) -> GroupPoints:
    """A slow fall to the optimum, a steep rise after it, divergence 0.3 beyond. Only the first axis
    matters if nuisance is 0."""
    rng = np.random.default_rng(seed)
    points = rng.random((n, d))
    away = points[:, 0] - best
    scores = np.where(away < 0, LEFT, RIGHT) * away**2 + noise * rng.normal(size=n)
    if d > 1:
        scores += nuisance * (points[:, 1] - 0.3) ** 2
    infeasible = away > 0.3
    return GroupPoints(group, points, np.where(infeasible, np.nan, scores), infeasible)


def flat(n: int, d: int, seed: int, group: str = "books") -> GroupPoints:
    rng = np.random.default_rng(seed)
    return GroupPoints(group, rng.random((n, d)), rng.normal(size=n), np.zeros(n, dtype=bool))


def edges(best: float = 0.45) -> tuple[float, float]:
    """Where the planted profile is TAU above its minimum, in unit coordinates."""
    return best - np.sqrt(TAU / LEFT), best + np.sqrt(TAU / RIGHT)


def covered(interval: tuple[float, float] | None, truth: float) -> bool:
    assert interval is not None
    low, high = RATE.to_unit(interval)
    return bool(low <= truth <= high)


def same(left: Sequence[Region], right: Sequence[Region]) -> None:
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one.p_good, other.p_good)
        np.testing.assert_array_equal(one.profile, other.profile)
        assert (one.core, one.low_edge, one.high_edge) == (
            other.core,
            other.low_edge,
            other.high_edge,
        )


# The surface


def test_mean_and_spread_of_draws_are_those_of_another_implementation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(surface_module, "SETTINGS", 1)
    monkeypatch.setattr(paths_module, "FREQUENCIES", 512)
    part = cliff(30, 2, 0)
    fitted = fit_response_surfaces([part], 0)[0]
    (setting,) = fitted.settings
    kernel = ConstantKernel(setting.signal) * Matern(1 / setting.inverse_lengths, nu=2.5)
    reference = GaussianProcessRegressor(kernel, alpha=setting.noises, optimizer=None)
    reference.fit(fitted.inputs, fitted.targets)
    at = np.random.default_rng(1).random((50, 2))
    mean, covariance = reference.predict(at, return_cov=True)
    expected = fitted.scale**2 * covariance
    np.testing.assert_allclose(fitted.mean(at), fitted.centre + fitted.scale * mean, atol=1e-8)

    drawn = np.concatenate([fitted.draws(at, seed, 500) for seed in range(40)])
    np.testing.assert_allclose(
        drawn.mean(0), fitted.mean(at), atol=0.1 * np.sqrt(expected.diagonal().max())
    )
    np.testing.assert_allclose(drawn.std(0), np.sqrt(expected.diagonal()), rtol=0.1)
    spread = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
    assert np.corrcoef((np.cov(drawn.T) / spread).ravel(), (expected / spread).ravel())[0, 1] > 0.98


def test_gradient_and_density_of_the_kernel_posterior() -> None:
    part = flat(20, 2, 3)
    posterior = KernelPosterior(part.points, part.scores, part.scores > 1, np.array([0, 1]))
    theta = np.array([-0.5, 0.7, -0.3, -1.2, -0.6])
    loss, gradient = posterior.loss_and_gradient(theta)
    assert loss == pytest.approx(-posterior.log_density(theta))
    numeric = approx_fprime(theta, lambda t: posterior.loss_and_gradient(t)[0], 1e-6)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=1e-4)
    kernel = ConstantKernel(np.exp(theta[2])) * Matern(np.exp(theta[:2]), nu=2.5)
    noise = np.exp(theta[3] + np.where(part.scores > 1, theta[4], 0))
    reference = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(
        part.points, part.scores
    )
    prior = 0.5 * (((theta - posterior.prior[:, 0]) / posterior.prior[:, 1]) ** 2).sum()
    expected = reference.log_marginal_likelihood_value_ + 10 * np.log(2 * np.pi)
    assert posterior.log_density(theta) == pytest.approx(expected - prior)


def test_a_draw_is_one_function_wherever_it_is_asked() -> None:
    part = cliff(40, 2, 0)
    fitted = fit_response_surfaces([part], 0)[0]
    at = np.random.default_rng(0).random((20, 2))
    np.testing.assert_allclose(
        fitted.draws(at, 7, 16)[:, 5:9], fitted.draws(at[5:9], 7, 16), atol=1e-4
    )


def test_noise_is_found_beside_trials_that_look_noise_free() -> None:
    found = []
    for seed in range(4):
        part = cliff(150, 2, seed, noise=0.2)
        fitted = fit_response_surfaces([part], 0)[0]
        found.append(fitted.scale * np.sqrt(np.mean([s.noise for s in fitted.settings])))
    assert np.mean(found) == pytest.approx(0.2, rel=0.2)


def test_winsorising_limit_by_hand() -> None:
    scores = np.append(np.arange(0.0, 20.0), 1e9)
    # Median 10, tenth percentile 2, fifth 1.
    assert winsorising_limit(scores, 0.1) == 10 + 3 * 8
    assert winsorising_limit(scores, 10.0) == 1 + 6 * 10


def test_how_bad_a_bad_score_was_changes_nothing() -> None:
    part = cliff(60, 2, 5)
    worst = np.nanargmax(part.scores)
    fits = []
    for value in (50.0, 1e12, np.inf):
        scores = part.scores.copy()
        scores[worst] = value
        fits.append(fit_response_surfaces([replace(part, scores=scores)], 0)[0].mean(part.points))
    np.testing.assert_array_equal(fits[0], fits[1])
    np.testing.assert_allclose(fits[0], fits[2], atol=TAU)


def test_many_trials_are_thinned_without_keeping_the_lucky() -> None:
    part = flat(3000, 2, 0)
    fitted = fit_response_surfaces([part], 0)[0]
    assert fitted.n_used == MOST_POINTS
    # The best 300 of 3000 normal scores have mean -1.75.
    assert abs(fitted.mean(np.array([[0.5, 0.5]]))[0]) < 0.3
    region = good_regions([part, cliff(40, 2, 0, group="wiki")], AXES[:2], TAU, 0)[0]
    assert (region.n_used, region.n_trials) == (MOST_POINTS + 40, 3040)


# The region


@pytest.mark.parametrize(("n", "d"), [(40, 1), (80, 2), (100, 3)])
def test_edges_of_an_asymmetric_optimum_before_a_cliff(n: int, d: int) -> None:
    low, high = edges()
    found = [good_regions([cliff(n, d, seed)], AXES[:d], TAU, 0)[0] for seed in range(6)]
    assert all(region.core is not None and region.low_edge and region.high_edge for region in found)
    hits = [covered(r.low_edge, low) for r in found] + [covered(r.high_edge, high) for r in found]
    assert sum(hits) >= 8
    for region in found:
        assert region.profile.min() < TAU / 2
        assert any(stop == pytest.approx(1e-4) for _, stop in region.excluded), (
            "divergence is not excluded"
        )
        assert (region.low <= region.profile).all()
        assert (region.profile <= region.high).all()
        assert low < RATE.to_unit(region.best) < high


def test_flat_noise_has_no_edge() -> None:
    found = [
        region
        for seed in range(8)
        for region in good_regions([flat(40, 2, seed)], AXES[:2], 1.0, 0)
    ]
    assert not any(region.bounded for region in found)
    known = [region for region in found if region.core is not None]
    assert len(known) >= 12
    assert all(region.low_censored and region.high_censored for region in known)
    whole = [
        region
        for region in known
        if region.core == pytest.approx((region.axis.low, region.axis.high))
    ]
    assert len(whole) >= 8


@pytest.mark.parametrize("best", [0.0, -0.3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_an_optimum_on_or_beyond_the_bound_is_censored_there(best: float, mirrored: bool) -> None:
    rng = np.random.default_rng(4)
    points = rng.random((60, 2))
    scores = 3 * (points[:, 0] - best) ** 2 + 0.1 * rng.normal(size=60)
    if mirrored:
        points[:, 0] = 1 - points[:, 0]
    region = good_regions(
        [GroupPoints("books", points, scores, np.zeros(60, bool))], AXES[:2], TAU, 0
    )[0]
    assert region.core is not None
    ends = [
        (region.low_censored, region.low_edge, region.core[0]),
        (region.high_censored, region.high_edge, region.core[1]),
    ]
    (censored, edge, end), (other_censored, other_edge, _) = reversed(ends) if mirrored else ends
    assert (censored, edge) == (True, None)
    assert end == pytest.approx(RATE.high if mirrored else RATE.low)
    assert not other_censored
    truth = best + np.sqrt((3 * min(best, 0.0) ** 2 + TAU) / 3)
    assert covered(other_edge, 1 - truth if mirrored else truth)


def test_a_value_is_good_only_if_it_is_good_in_every_group() -> None:
    held = 0
    for seed in (40, 50, 60):
        one, other = cliff(80, 1, seed, 0.4, group="a"), cliff(80, 1, seed + 1, 0.5, group="b")
        near = good_regions([one, other], AXES[:1], TAU, 0)[0]
        alone = good_regions([one], AXES[:1], TAU, 0)[0]
        assert near.core is not None
        assert alone.core is not None
        assert near.core[0] > alone.core[0]
        held += covered(near.low_edge, edges(0.5)[0]) + covered(near.high_edge, edges(0.4)[1])
    assert held >= 5
    far = good_regions(
        [cliff(80, 1, 0, 0.2, group="a"), cliff(80, 1, 1, 0.7, group="b")], AXES[:1], TAU, 0
    )[0]
    assert far.core is None
    assert far.reason == "no value is good with probability 0.9"
    assert far.n_trials == 160


def test_groups_that_agree_do_not_narrow_the_region() -> None:
    """The largest of three errors is no difference between groups."""
    low, high = edges()
    found = [
        good_regions([cliff(36, 2, 10 * i + j, group=str(j)) for j in range(3)], AXES[:2], TAU, 0)[
            0
        ]
        for i in range(5)
    ]
    hits = [
        covered(r.low_edge, low) + covered(r.high_edge, high)
        for r in found
        if r.low_edge and r.high_edge
    ]
    assert len(hits) >= 4
    assert sum(hits) >= 1.5 * len(hits)
    null = good_regions([flat(36, 1, j, group=str(j)) for j in range(10)], AXES[:1], 0.5, 0)[0]
    assert not null.excluded
    assert not null.bounded


def test_nearest_end_by_hand() -> None:
    draws = np.linspace(0, 1, 101)
    # High ends: the near limit is the lowest 2.5 % quantile, the far one the nearer group's 98.75 %
    # quantile (two groups); of one group 97.5 %, since draws do not know that a kernel rounds off.
    np.testing.assert_allclose(regions_module._nearest([draws, draws + 0.2], 1), [0.025, 0.9875])
    np.testing.assert_allclose(regions_module._nearest([draws, draws + 0.2], -1), [0.2125, 1.175])
    np.testing.assert_allclose(regions_module._nearest([draws], 1), [0.025, 0.975])


def test_order_and_names_of_trials_axes_and_groups_do_not_matter() -> None:
    parts = [cliff(30, 3, 0, group="a"), cliff(30, 3, 1, group="b")]
    expected = good_regions(parts, AXES, TAU, 5)
    shuffle = np.random.default_rng(0).permutation(30)
    turned = [
        GroupPoints(
            "z" + p.group, p.points[shuffle][:, [2, 0, 1]], p.scores[shuffle], p.infeasible[shuffle]
        )
        for p in reversed(parts)
    ]
    renamed = [
        replace(AXES[j], name=name) for j, name in zip((2, 0, 1), ("m", "n", "k"), strict=True)
    ]
    found = good_regions(turned, renamed, TAU, 5)
    same(expected, [found[1], found[2], found[0]])
    assert not np.array_equal(good_regions(parts, AXES, TAU, 6)[0].profile, expected[0].profile)


def test_groups_fitted_already_are_not_fitted_again() -> None:
    parts = [cliff(30, 2, seed, group=name) for seed, name in enumerate("abc")]
    fits = fit_groups(parts, AXES[:2], TAU, 0)
    same(good_regions(fits, AXES[:2], TAU), good_regions(parts, AXES[:2], TAU, 0))
    assert fits[0].default == pytest.approx(RIGHT * 0.05**2, abs=TAU)


def test_too_little_to_tell_says_so() -> None:
    few = cliff(4, 2, 0)
    constant = replace(flat(20, 2, 0), scores=np.ones(20))
    hopeless = replace(flat(20, 2, 0), infeasible=np.ones(20, bool))
    for part, reason in (
        (few, "4 trials in books, {} needed"),
        (constant, "every trial in books has the same score"),
        (hopeless, "no trial in books has a score"),
    ):
        for parts in ([part], [cliff(40, 2, 0, group="wiki"), part]):
            regions = good_regions(parts, AXES[:2], TAU, 0)
            why = reason.format(8 if len(parts) == 1 else 5)
            assert [(r.core, r.bounded, r.reason) for r in regions] == [(None, False, why)] * 2


def test_equal_scores_beside_divergence_still_show_the_cliff() -> None:
    points = np.linspace(0, 1, 40)[:, None]
    part = GroupPoints(
        "books", points, np.where(points[:, 0] > 0.6, np.nan, 1.0), points[:, 0] > 0.6
    )
    region = good_regions([part], AXES[:1], TAU, 0)[0]
    assert region.low_censored
    assert region.high_edge is not None
    assert RATE.to_unit(region.high_edge)[1] <= 0.65


def test_whole_numbers_and_choices() -> None:
    rng = np.random.default_rng(0)
    batch = Axis("batch", "log", 1, 16, whole=True)
    loss = Axis("loss", "categorical", choices=("kl", "ascent", "labels"))
    sizes, codes = rng.integers(1, 17, 90), rng.integers(0, 3, 90)
    scores = np.array([0.0, 1.0, 0.05])[codes] + 0.02 * (sizes > 8) + 0.05 * rng.normal(size=90)
    points = np.column_stack([batch.to_unit(sizes), codes])
    size, choice = good_regions(
        [GroupPoints("a", points, scores, np.zeros(90, bool))], (batch, loss), 0.2, 0
    )
    np.testing.assert_allclose(size.grid, np.arange(1, 17))
    assert size.low_censored
    assert size.high_censored
    assert choice.choices_good == ("kl", "labels")
    assert choice.choices_excluded == ("ascent",)
    assert choice.core is None
    assert choice.best == 0


def test_a_kink_at_the_best_value_is_not_rounded_off() -> None:
    """A score that is an absolute difference: a smooth surface puts both edges too far out."""
    hits = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        points = rng.random((100, 2))
        scores = 3 * np.abs(points[:, 0] - 0.45) + TAU / 4 * rng.normal(size=100)
        part = GroupPoints("books", points, scores, np.zeros(100, bool))
        region = good_regions([part], AXES[:2], TAU, 0)[0]
        hits += [covered(region.low_edge, 0.35), covered(region.high_edge, 0.55)]
    assert sum(hits) >= 5


def test_gradient_of_a_kernel_with_a_kink() -> None:
    part = flat(20, 2, 3)
    kink = kink_of(part.points, 0, 0.4)
    posterior = KernelPosterior(
        part.points, part.scores, part.scores > 1, np.array([0, 1]), kink=kink
    )
    theta = np.array([-0.5, 0.7, -0.3, -1.2, -0.6, 0.9])
    loss, gradient = posterior.loss_and_gradient(theta)
    assert loss == pytest.approx(-posterior.log_density(theta))
    numeric = approx_fprime(theta, lambda t: posterior.loss_and_gradient(t)[0], 1e-6)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=1e-4)


# Rates (minutes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "d", "tau", "repeats"), [(40, 3, 0.5, 150), (40, 2, 1.0, 150), (100, 3, 0.5, 60)]
)
def test_rate_of_edges_on_flat_noise(n: int, d: int, tau: float, repeats: int) -> None:
    found = [good_regions([flat(n, d, seed)], AXES[:d], tau, seed) for seed in range(repeats)]
    assert np.mean([any(region.bounded for region in regions) for regions in found]) <= 0.075


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "d", "nuisance", "groups"), [(60, 2, 0.0, 1), (100, 3, 1.0, 1), (36, 2, 0.0, 3)]
)
def test_coverage_of_edges(n: int, d: int, nuisance: float, groups: int) -> None:
    low, high = edges()
    found = []
    for seed in range(80):
        parts = [
            cliff(n, d, 1000 + 100 * j + seed, nuisance=nuisance, group=str(j))
            for j in range(groups)
        ]
        found.append(good_regions(parts, AXES[:d], TAU, seed)[0])
    assert np.mean([r.low_edge is not None and r.high_edge is not None for r in found]) >= 0.9
    assert np.mean([covered(r.low_edge, low) for r in found if r.low_edge]) >= 0.8
    assert np.mean([covered(r.high_edge, high) for r in found if r.high_edge]) >= 0.8
