"""How few drawn trials importance, trade-offs and the stopping rule are honest with, planted truth.

    python benchmarks/gate_rates.py [--repeats 100] [--only PART]

matters    does the score depend on an axis: a claim on noise (5 % wanted), on a null axis beside a
           real one, and power, 20 to 84 trials in 1 to 9 groups
repeated   25 configurations tried with 4 seeds, or in 4 domains: the same
adaptive   60 trials chosen by Optuna's TPE: the same
trade_off  kappa: coverage of the 90 % interval, and "learning rate x steps is what counts" claimed
           at a planted 1, at 0.75 (just outside of what counts as 1), 0.5 and 0
stopping   price of the stopping rule: coverage of the 90 % interval, and a price of at most the
           tolerance claimed, by the true one in tolerances
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "analysis"))

import numpy as np
import optuna
import pandas as pd
from planted_efforts import DOING_NOTHING, TAU, planted_efforts, planted_stops
from run_parts import run_parts
from surfaces import RATE, WEIGHT, Score, flat, valley

from ray_unlearn.analysis.statistics.axis_effect import axis_effects, effects_over_groups
from ray_unlearn.analysis.statistics.interaction import learning_rate_by_steps
from ray_unlearn.analysis.statistics.stopping_regret import stopping_rule
from ray_unlearn.surfaces.axes import Axis

DESIGNS = ((20, 1), (40, 1), (42, 3), (60, 3), (84, 1), (84, 9))
"""Trials, and groups that they are dealt to."""
NOTHING = tuple(Axis(f"x{j}", "log", 1e-6, 1e-2) for j in range(2))
AXES = (RATE, WEIGHT, *NOTHING)
Array = np.ndarray
Sample = tuple[Array, Array]


def percent(count: int, of: int) -> str:
    """`3 of 60 (5 %)`."""
    return f"{count} of {of} ({100 * count / of:.0f} %)"


def shown(groups: list[Sample], axes: tuple[Axis, ...], seed: int) -> set[str]:
    """Axes that are shown to matter in points [n, d] and scores [n] of each group."""
    effects = effects_over_groups(
        [
            axis_effects(points, scores, np.zeros(len(scores), dtype=bool), axes, TAU, seed + i)
            for i, (points, scores) in enumerate(groups)
        ]
    )
    return {axis.name for axis, effect in zip(axes, effects, strict=True) if effect.p <= 0.05}


def scored(score: Score, points: Array, axes: tuple[Axis, ...], rng: np.random.Generator) -> Array:
    """Scores [n] at points [n, d], with noise of one tolerance."""
    logs = {axis.name: np.log10(axis.from_unit(points[:, j])) for j, axis in enumerate(axes)}
    return np.asarray(score(pd.DataFrame(logs), rng)) + TAU * rng.standard_normal(len(points))


def report_claims(
    name: str, sample: Callable[[Score, int], list[Sample]], axes: tuple[Axis, ...], repeats: int
) -> None:
    """Print how often axes are shown to matter on noise, and beside a valley in the first."""
    noise = [shown(sample(flat, seed), axes, 1000 * seed) for seed in range(repeats)]
    beside = [shown(sample(valley(), seed), axes, 1000 * seed) for seed in range(repeats)]
    print(
        f"{name}: claimed on noise {percent(sum(map(bool, noise)), repeats)}; beside a valley a "
        f"null axis {percent(sum(bool(found - {RATE.name}) for found in beside), repeats)}, the "
        f"real one {percent(sum(RATE.name in found for found in beside), repeats)}",
        flush=True,
    )


def matters(repeats: int) -> None:
    """Measure importance of drawn trials."""
    for axes in (AXES[:2], AXES):
        for trials, groups in DESIGNS:

            def sample(
                score: Score,
                seed: int,
                *,
                axes: tuple[Axis, ...] = axes,
                trials: int = trials,
                groups: int = groups,
            ) -> list[Sample]:
                rng = np.random.default_rng([seed, trials, groups])
                points = [rng.random((trials // groups, len(axes))) for _ in range(groups)]
                return [(part, scored(score, part, axes, rng)) for part in points]

            name = f"matters, {len(axes)} axes, {trials} trials in {groups} groups"
            report_claims(name, sample, axes, repeats)


def repeated(repeats: int) -> None:
    """Measure importance where configurations are tried again."""
    for by in ("seed", "domain"):

        def sample(score: Score, seed: int, *, by: str = by) -> list[Sample]:
            rng = np.random.default_rng([seed, 25])
            points = rng.random((25, len(AXES)))
            parts = [(points, scored(score, points, AXES, rng)) for _ in range(4)]
            if by == "domain":
                return parts
            every_point, every_score = zip(*parts, strict=True)
            return [(np.concatenate(every_point), np.concatenate(every_score))]

        report_claims(f"repeated, by {by}", sample, AXES, repeats)


def adaptive(repeats: int) -> None:
    """Measure importance of trials that TPE chose."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    axes = AXES[:2]
    space: dict[str, optuna.distributions.BaseDistribution] = {
        axis.name: optuna.distributions.FloatDistribution(0.0, 1.0) for axis in axes
    }

    def sample(score: Score, seed: int) -> list[Sample]:
        rng = np.random.default_rng(seed)
        sampler = optuna.samplers.TPESampler(n_startup_trials=15, seed=seed)
        study = optuna.create_study(sampler=sampler)
        points, scores = np.empty((60, 2)), np.empty(60)
        for i in range(60):
            trial = study.ask(space)
            points[i] = [trial.params[axis.name] for axis in axes]
            scores[i] = scored(score, points[[i]], axes, rng)[0]
            study.tell(trial, scores[i])
        return [(points, scores)]

    report_claims("adaptive, 60 trials", sample, axes, repeats)


def trade_off(repeats: int) -> None:
    """Measure kappa and its claim."""
    for kappa in (1.0, 0.75, 0.5, 0.0):
        for trials, groups in DESIGNS:
            covered = claimed = 0
            for seed in range(repeats):
                rows = planted_efforts(
                    kappa,
                    seed,
                    trials=trials // groups,
                    groups=groups,
                    updates=(4, 8, 16, 32),
                    trial_noise=0.05,
                )
                found = learning_rate_by_steps(rows, seed)
                assert found is not None
                low, high = found.kappa_interval
                covered += low <= kappa <= high
                claimed += found.equivalent
            print(
                f"trade-off, kappa {kappa:g}, {trials} trials in {groups} groups: covered "
                f"{percent(covered, repeats)}, claimed {percent(claimed, repeats)}",
                flush=True,
            )


PRICES: dict[str, Callable[[float, int, np.random.Generator], Array]] = {
    "normal": lambda mean, n, rng: mean + TAU * rng.standard_normal(n),
    "exponential": lambda mean, n, rng: rng.exponential(mean, n),
    "log-normal": lambda mean, n, rng: mean * np.exp(1.5 * rng.standard_normal(n) - 1.125),
    "a ruined model or nothing": lambda mean, n, rng: np.where(
        rng.random(n) < mean / DOING_NOTHING, 30.0, 0.0
    ),
}


def stopping(repeats: int) -> None:
    """Measure the price of the stopping rule and its claim."""
    for name, draw in PRICES.items():
        for mean in (1.5 * TAU, 1.1 * TAU, 0.5 * TAU, 0.2 * TAU):
            rng = np.random.default_rng(0)
            many = stopping_rule(
                planted_stops(draw(mean, 40_000, rng), 0), 0, 10, {"0": DOING_NOTHING}
            )
            assert many is not None
            for trials, groups in DESIGNS:
                nothing = {str(group): DOING_NOTHING for group in range(groups)}
                covered = claimed = 0
                for seed in range(repeats):
                    price = draw(mean, trials, np.random.default_rng([seed, trials]))
                    rows = planted_stops(price, seed, groups=groups)
                    found = stopping_rule(rows, seed, nothing=nothing)
                    assert found is not None
                    low, high = found.regret_interval
                    covered += low <= many.regret_mean <= high
                    claimed += high <= TAU
                print(
                    f"stopping, {name}, true price {many.regret_mean / TAU:.2f} tau, {trials} "
                    f"trials in {groups} groups: covered {percent(covered, repeats)}, claimed "
                    f"{percent(claimed, repeats)}",
                    flush=True,
                )


if __name__ == "__main__":
    run_parts(
        __doc__,
        {
            "matters": matters,
            "repeated": repeated,
            "adaptive": adaptive,
            "trade_off": trade_off,
            "stopping": stopping,
        },
        100,
    )
