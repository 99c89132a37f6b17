"""Importance against planted truth, against Optuna's own evaluators, and under every change that
must not matter."""

from typing import Any

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import create_trial

from ray_unlearn.analysis.axes import Axis
from ray_unlearn.analysis.statistics import importance as module
from ray_unlearn.analysis.statistics.exchangeable import Trials, share_configurations
from ray_unlearn.analysis.statistics.importance import ImportanceResult, importance
from ray_unlearn.analysis.statistics.ped_anova import n_cells

Floats = NDArray[np.float64]

LR = Axis("lr", "log", 1e-6, 1e-2)
WEIGHT = Axis("weight", "linear", 0.0, 2.0)
STEPS = Axis("steps", "linear", 10, 109, whole=True)
RANK = Axis("rank", "log", 1, 64, whole=True)
LAYERS = Axis("layers", "linear", 1, 8, whole=True)
LOSS = Axis("loss", "categorical", choices=("dpo", "npo", "simnpo"))
MIXED = (LR, WEIGHT, STEPS, RANK, LAYERS, LOSS)
SIX = tuple(Axis(f"x{j}", "log", 1e-6, 1e-2) for j in range(6))
FOUR = SIX[:4]


def assess(
    points: Floats,
    scores: Floats,
    axes: tuple[Axis, ...],
    groups: Any = None,
    infeasible: Any = None,
    **options: Any,
) -> ImportanceResult:
    n = len(scores)
    groups = np.full(n, "") if groups is None else groups
    infeasible = np.zeros(n, dtype=bool) if infeasible is None else infeasible
    result = importance(points, scores, infeasible, groups, axes, **{"seed": 0, **options})
    assert result is not None
    return result


def claimed(result: ImportanceResult) -> list[str]:
    return [each.axis.name for each in result.axes if each.ped_p <= 0.05]


def p_values(result: ImportanceResult) -> list[float]:
    return [each.ped_p for each in result.axes]


def valley(unit: Floats, rng: np.random.Generator) -> Floats:
    """A U over a log axis that explains 36 % of the variance of the score."""
    return 4 * (unit - 0.4) ** 2 + rng.normal(0, 0.5, len(unit))


# --- the same statistic as Optuna's ---------------------------------------------------------------


def distribution(axis: Axis) -> BaseDistribution:
    log = axis.scale == "log"
    if axis.scale == "categorical":
        return CategoricalDistribution(axis.choices)
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=log)
    return FloatDistribution(axis.low, axis.high, log=log)


def drawn(axis: Axis, n: int, rng: np.random.Generator) -> list[Any]:
    if axis.scale == "categorical":
        return [str(choice) for choice in rng.choice(axis.choices, n)]
    values = axis.from_unit(rng.beta(0.7, 1.1, n))
    return (
        [int(v) for v in np.clip(np.round(values), axis.low, axis.high)]
        if axis.whole
        else values.tolist()
    )


def optuna_study(
    values: dict[str, list[Any]], axes: tuple[Axis, ...], scores: Floats
) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    space = {axis.name: distribution(axis) for axis in axes}
    for i, score in enumerate(scores):
        params = {name: column[i] for name, column in values.items() if column[i] is not None}
        study.add_trial(
            create_trial(
                params=params,
                distributions={name: space[name] for name in params},
                value=float(score),
            )
        )
    return study


@pytest.mark.parametrize(("n", "quantile"), [(40, 0.25), (203, 0.25), (612, 0.1)])
def test_ped_equals_optunas(n: int, quantile: float) -> None:
    rng = np.random.default_rng(n)
    values = {axis.name: drawn(axis, n, rng) for axis in MIXED}
    points = np.stack([axis.to_unit(values[axis.name]) for axis in MIXED], axis=1)
    scores = np.round(
        (points[:, 0] - 0.3) ** 2 + 0.1 * points[:, 5] + rng.normal(0, 0.1, n), 2
    )  # rounded: ties
    expected = PedAnovaImportanceEvaluator(target_quantile=quantile).evaluate(
        optuna_study(values, MIXED, scores)
    )
    result = assess(points, scores, MIXED, permutations=19)
    assert result.top_fraction == quantile
    for each in result.axes:
        assert each.ped == pytest.approx(expected[each.axis.name], rel=1e-7)


def test_ped_equals_optunas_where_trials_lack_a_hyperparameter() -> None:
    rng = np.random.default_rng(1)
    values = {axis.name: drawn(axis, 150, rng) for axis in (LR, RANK, LOSS)}
    absent = rng.random(150) < 0.3
    values["rank"] = [None if gone else v for gone, v in zip(absent, values["rank"], strict=True)]
    points = np.stack(
        [
            axis.to_unit([np.nan if v is None else v for v in values[axis.name]])
            for axis in (LR, RANK)
        ]
        + [LOSS.to_unit(values["loss"])],
        axis=1,
    )
    scores = rng.random(150) + 0.3 * absent
    study = optuna_study(values, (LR, RANK, LOSS), scores)
    expected = {}
    for axis in (LR, LOSS):
        expected[axis.name] = PedAnovaImportanceEvaluator(target_quantile=0.25).evaluate(study)[
            axis.name
        ]
    result = assess(points, scores, (LR, RANK, LOSS), permutations=19)
    assert [r.ped for r in result.axes if r.axis != RANK] == pytest.approx(
        [expected["lr"], expected["loss"]]
    )
    conditional = result.axes[1]
    # Optuna adds the trials without it as a regime of their own that has no density: the same
    # product of shares.
    assert conditional.ped == pytest.approx(
        PedAnovaImportanceEvaluator(target_quantile=0.25).evaluate(study)["rank"]
    )


def test_infeasible_trials_count_as_searched_where_optuna_drops_them() -> None:
    rng = np.random.default_rng(2)
    values = {"lr": drawn(LR, 120, rng)}
    points = LR.to_unit(values["lr"])[:, None]
    infeasible = points[:, 0] > 0.7
    scores = np.where(infeasible, np.nan, rng.random(120))
    worst = np.where(infeasible, 1e9, scores)
    evaluator = PedAnovaImportanceEvaluator(target_quantile=0.25)
    ours = assess(points, scores, (LR,), infeasible=infeasible, permutations=19).axes[0].ped
    assert ours == pytest.approx(evaluator.evaluate(optuna_study(values, (LR,), worst))["lr"])
    dropped = evaluator.evaluate(optuna_study(values, (LR,), np.where(infeasible, np.inf, scores)))[
        "lr"
    ]
    assert ours > 2 * dropped


def test_cells_of_whole_numbers_are_optunas() -> None:
    assert [n_cells(axis) for axis in MIXED] == [50, 50, 50, 7, 8, 3]
    assert n_cells(Axis("constant", "log", 3.0, 3.0)) == 1


# --- planted truth --------------------------------------------------------------------------------


def false_claims(n: int, repeats: int) -> tuple[float, float]:
    """Shares of studies of noise in which an axis is claimed: by p <= 0.05, and by twice its fair
    share of the sum."""
    by_p = by_share = 0
    for repeat in range(repeats):
        rng = np.random.default_rng([n, repeat])
        result = assess(rng.random((n, 6)), rng.random(n), SIX, seed=repeat, permutations=199)
        peds = [each.ped for each in result.axes]
        by_p += bool(claimed(result))
        by_share += max(peds) > 2 * sum(peds) / 6
    return by_p / repeats, by_share / repeats


def test_noise_is_not_claimed() -> None:
    rate, naive = false_claims(50, repeats=80)
    assert rate <= 0.125  # 5 % and three standard errors
    assert naive >= 0.5


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 200])
def test_noise_is_not_claimed_in_many_repeats(n: int) -> None:
    rate, naive = false_claims(n, repeats=1000)
    print(f"{n} trials: claimed {rate:.3f}, more than twice its fair share {naive:.3f}")
    assert 0.03 <= rate <= 0.075


def claims_beside_a_real_axis(n: int, repeats: int) -> tuple[float, float]:
    """Power for a valley in the first axis, and the share of studies that claim any of three null
    ones."""
    real = null = 0
    for repeat in range(repeats):
        rng = np.random.default_rng([n, 1, repeat])
        points = rng.random((n, 4))
        names = claimed(
            assess(points, valley(points[:, 0], rng), FOUR, seed=repeat, permutations=199)
        )
        real += "x0" in names
        null += bool(set(names) - {"x0"})
    return real / repeats, null / repeats


def test_a_real_axis_is_found_and_null_ones_are_not() -> None:
    power, false = claims_beside_a_real_axis(200, repeats=60)
    assert power >= 0.9
    assert false <= 0.12


@pytest.mark.slow
def test_a_real_axis_is_found_and_null_ones_are_not_in_many_repeats() -> None:
    power, false = claims_beside_a_real_axis(200, repeats=1000)
    print(
        f"power {power:.3f} (50 trials: {claims_beside_a_real_axis(50, 500)[0]:.3f}), null "
        f"claimed {false:.3f}"
    )
    assert power >= 0.9
    assert false <= 0.05


def strata_claims(repeats: int) -> float:
    """Domains of 30, 60 and 150 trials, of very different levels, searched in different ranges of
    the first axis."""
    found = 0
    for repeat in range(repeats):
        rng = np.random.default_rng([2, repeat])
        groups = np.repeat(["easy", "middling", "hard"], [30, 60, 150])
        points = rng.random((240, 2))
        points[:, 0] = np.repeat([0.0, 0.3, 0.6], [30, 60, 150]) + 0.4 * points[:, 0]
        scores = np.repeat([1.0, 10.0, 1000.0], [30, 60, 150]) * rng.lognormal(0, 0.3, 240)
        scores[:30] = np.round(scores[:30])  # many ties in one: a larger share of it is top
        found += bool(
            claimed(assess(points, scores, FOUR[:2], groups, seed=repeat, permutations=199))
        )
    return found / repeats


def test_what_differs_between_domains_is_not_importance() -> None:
    assert strata_claims(60) <= 0.12


@pytest.mark.slow
def test_what_differs_between_domains_is_not_importance_in_many_repeats() -> None:
    rate = strata_claims(1000)
    print(f"strata: claimed {rate:.3f}")
    assert 0.03 <= rate <= 0.075


def repeated_configurations_claims(repeats: int, by: str) -> tuple[float, float]:
    """The same 50 configurations in 6 domains, or with 6 seeds; only the first axis matters. Power
    and false claims."""
    real = null = 0
    for repeat in range(repeats):
        rng = np.random.default_rng([3, repeat])
        points = np.repeat(rng.random((50, 4)), 6, axis=0)
        groups = np.tile(list("abcdef"), 50) if by == "domain" else np.full(300, "")
        scores = 4 * (points[:, 0] - 0.4) ** 2 + rng.normal(0, 0.05, 300)
        names = claimed(assess(points, scores, FOUR, groups, seed=repeat, permutations=199))
        real += "x0" in names
        null += bool(set(names) - {"x0"})
    return real / repeats, null / repeats


@pytest.mark.parametrize("by", ["domain", "seed"])
def test_repeated_configurations_are_not_independent_evidence(by: str) -> None:
    """Shuffled trial by trial, eight of ten such tables claim a null axis."""
    power, false = repeated_configurations_claims(25, by)
    assert power >= 0.9
    assert false <= 0.2


@pytest.mark.slow
@pytest.mark.parametrize("by", ["domain", "seed"])
def test_repeated_configurations_are_not_independent_evidence_in_many_repeats(
    by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    power, false = repeated_configurations_claims(500, by)
    monkeypatch.setattr(module, "share_configurations", lambda *_: False)
    naive = repeated_configurations_claims(100, by)[1]
    print(
        f"repeated by {by}: power {power:.3f}, null claimed {false:.3f}, shuffled trial by trial "
        f"{naive:.3f}"
    )
    assert false <= 0.075
    assert naive > 0.3


def test_coincidences_and_grids_are_no_repeated_configurations() -> None:
    rng = np.random.default_rng(4)
    few = rng.integers(0, 3, (200, 2)).astype(float)
    grid = np.repeat(
        np.stack(np.meshgrid(*[np.arange(4.0)] * 3), axis=-1).reshape(-1, 3), 3, axis=0
    )
    seeds = np.repeat(rng.random((60, 2)), 3, axis=0)
    one = np.zeros(200, dtype=np.int64)
    for points, expected in (
        (few, False),
        (grid, False),
        (seeds, True),
        (rng.random((100, 2)), False),
    ):
        trials = Trials(points, rng.random(len(points)), one[: len(points)])
        assert share_configurations(trials, np.random.default_rng(0)) is expected


def test_seeds_of_a_configuration_count_once() -> None:
    rng = np.random.default_rng(5)
    points = np.repeat(rng.random((60, 3)), 3, axis=0)
    result = assess(points, rng.random(180), FOUR[:3], permutations=19)
    assert (result.n_trials, result.n_top) == (180, 15)


@pytest.mark.parametrize("scale", ["log", "categorical"])
def test_a_cliff_makes_its_axis_important(scale: str) -> None:
    """In the upper half of the axis, or with two of three choices, every trial diverges; the others
    are noise."""
    rng = np.random.default_rng(6)
    axis = LR if scale == "log" else Axis("loss", "categorical", choices=("a", "b", "c"))
    points = rng.random((120, 3))
    if scale == "categorical":
        points[:, 0] = rng.integers(0, 3, 120)
    infeasible = points[:, 0] > (0.5 if scale == "log" else 0)
    result = assess(points, rng.random(120), (axis, *FOUR[1:3]), infeasible=infeasible)
    assert claimed(result) == [axis.name]


def test_an_axis_of_two_choices_competes_with_continuous_ones() -> None:
    """Its statistic is far smaller under the null; against an unscaled maximum 4 of 10 pass."""
    found = 0
    for repeat in range(20):
        rng = np.random.default_rng([7, repeat])
        points = rng.random((200, 4))
        points[:, 3] = rng.integers(0, 2, 200)
        scores = 0.8 * points[:, 3] + rng.normal(0, 1, 200)
        axes = (*FOUR[:3], Axis("flag", "categorical", choices=("off", "on")))
        found += "flag" in claimed(assess(points, scores, axes, permutations=199))
    assert found >= 14


# --- what must not matter -------------------------------------------------------------------------


def table(
    n: int = 120,
) -> tuple[Floats, Floats, NDArray[np.bool_], NDArray[np.str_], tuple[Axis, ...]]:
    rng = np.random.default_rng(8)
    points = rng.random((n, 4))
    points[:, 2] = rng.integers(0, 3, n)
    points[:, 3] = rng.integers(0, 5, n) / 4
    scores = valley(points[:, 0], rng)
    axes = (LR, WEIGHT, LOSS, Axis("depth", "linear", 1, 5, whole=True))
    return points, scores, points[:, 1] > 0.85, rng.choice(["news", "books"], n), axes


def test_neither_row_order_nor_axis_order_nor_names_matter() -> None:
    points, scores, infeasible, groups, axes = table()
    first = importance(points, scores, infeasible, groups, axes, seed=3, permutations=99)
    assert first is not None
    rows, columns = np.random.default_rng(9).permutation(len(scores)), [3, 1, 0, 2]
    renamed = [
        Axis(
            f"z{j}", axes[j].scale, axes[j].low, axes[j].high, True, axes[j].whole, axes[j].choices
        )
        for j in columns
    ]
    second = importance(
        points[rows][:, columns],
        scores[rows],
        infeasible[rows],
        groups[rows],
        renamed,
        seed=3,
        permutations=99,
    )
    assert second is not None
    for there, here in zip(columns, second.axes, strict=True):
        each = first.axes[there]
        assert (each.ped_p, each.ped_null_95, each.ped) == (here.ped_p, here.ped_null_95, here.ped)
    assert second.n_top == first.n_top
    assert importance(points, scores, infeasible, groups, axes, seed=3, permutations=99) == first


def test_ped_sees_ranks_alone() -> None:
    points, scores, infeasible, groups, axes = table()
    kept, exponential = (
        assess(points, values, axes, groups, infeasible, permutations=99)
        for values in (scores, np.exp(9 * scores))
    )
    assert [(each.ped, each.ped_p, each.ped_null_95) for each in kept.axes] == [
        (each.ped, each.ped_p, each.ped_null_95) for each in exponential.axes
    ]


def test_levels_of_groups_do_not_matter() -> None:
    points, scores, infeasible, groups, axes = table()
    shifted = np.where(groups == "news", scores, 1e3 + 50 * scores)
    kept, other = (
        assess(points, s, axes, groups, infeasible, permutations=99) for s in (scores, shifted)
    )
    for each, moved in zip(kept.axes, other.axes, strict=True):
        assert (each.ped, each.ped_p) == (moved.ped, moved.ped_p)


# --- edges ----------------------------------------------------------------------------------------


def test_equal_scores_claim_nothing() -> None:
    points = table()[0]
    for groups in (np.full(120, ""), np.repeat(["a", "b"], 60)):
        result = assess(points, np.full(120, 2.0), table()[4], groups, permutations=99)
        assert p_values(result) == [1.0] * 4
        assert [each.ped for each in result.axes] == pytest.approx([0.0] * 4, abs=1e-12)


def test_a_group_of_equal_scores_tells_nothing() -> None:
    rng = np.random.default_rng(10)
    points, groups = rng.random((120, 2)), np.repeat(["tells", "constant"], 60)
    scores = np.where(groups == "tells", points[:, 0], 5.0)
    result = assess(points, scores, FOUR[:2], groups, permutations=99)
    assert result.n_top == 15
    alone = assess(points[:60], scores[:60], FOUR[:2], permutations=99)
    assert [each.ped for each in result.axes] == [each.ped for each in alone.axes]


def test_few_top_trials_give_none() -> None:
    points = np.random.default_rng(11).random((40, 2))
    scores, everything = np.arange(40.0), np.ones(40, dtype=bool)
    groups = np.full(40, "")
    assert (
        importance(points[:28], scores[:28], ~everything[:28], groups[:28], FOUR[:2], 0, 19) is None
    )
    assert (
        importance(points[:29], scores[:29], ~everything[:29], groups[:29], FOUR[:2], 0, 19)
        is not None
    )
    assert importance(points, scores, everything, groups, FOUR[:2], 0, 19) is None
    assert (
        importance(
            points, np.where(scores < 7, scores, np.inf), ~everything, groups, FOUR[:2], 0, 19
        )
        is None
    )
    assert importance(points[:0], scores[:0], everything[:0], groups[:0], FOUR[:2], 0, 19) is None
    assert importance(points[:, :0], scores, ~everything, groups, (), 0, 19) is None


def test_a_constant_axis_is_not_important() -> None:
    rng = np.random.default_rng(12)
    points = np.column_stack([rng.random(80), np.full(80, 0.5), np.zeros(80)])
    axes = (LR, Axis("fixed", "log", 1e-3, 1e-3), Axis("only", "categorical", choices=("one",)))
    result = assess(points, points[:, 0], axes, permutations=99)
    assert p_values(result) == [0.01, 1.0, 1.0]
    assert [each.ped for each in result.axes[1:]] == [0.0, 0.0]
