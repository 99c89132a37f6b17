"""A surface of the score's components against one of the scores alone, on planted curves.

    python benchmarks/component_surfaces.py [--repeats 8] [--trials 3,8,16,40]

For each number of trials, both fitted to the same studies: the regret of the point that each
surface holds for best (the truth is known), the share of new trials whose score lies in the 90 %
predictive interval and the width of that, the Brier score of "within the tolerance of the best",
and the seconds of a fit, measured side by side. Then what is recommended: how often the cost lies
below its 95 % bound, and how often the point is good when that is said with a probability.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "analysis"))

import numpy as np
from planted_curves import AXES, expected_score, planted_with_curves
from surfaces import TOLERANCE

from ray_unlearn.analysis.guidelines.group_parts import group_parts
from ray_unlearn.analysis.statistics.fitted_groups import fit_groups
from ray_unlearn.analysis.statistics.recommended_point import recommended_point
from ray_unlearn.analysis.statistics.response_surface import fit_response_surfaces
from ray_unlearn.analysis.statistics.score_surface import ScoreSurface
from ray_unlearn.surfaces.component_surface import fit_component_surfaces
from ray_unlearn.surfaces.group_points import GroupPoints

SEED_SD = 0.1
SPACE = np.random.default_rng(5).random((600, 2))
RUINED = 3.0
SAID = ((0.0, 0.6), (0.6, 0.8), (0.8, 0.95), (0.95, 1.01))


def study(trials: int, seed: int) -> GroupPoints:
    """One planted study of one method in one domain."""
    table = planted_with_curves(trials, seed, seed_sd=SEED_SD)
    (part,) = group_parts(table, table.trials, AXES)
    return part


def fits(part: GroupPoints, seed: int) -> dict[str, tuple[ScoreSurface, float]]:
    """Both surfaces, with the seconds that each took."""
    found: dict[str, tuple[ScoreSurface, float]] = {}
    start = time.perf_counter()
    assert part.trajectories is not None
    components = fit_component_surfaces([part], AXES, seed)[0]
    found["components"] = components, time.perf_counter() - start
    start = time.perf_counter()
    scores = fit_response_surfaces([part], seed, (), TOLERANCE)[0]
    found["scores"] = scores, time.perf_counter() - start
    return found


def compared(trials: int, repeats: int) -> None:
    """Print one line for each kind of surface."""
    truth = expected_score(SPACE, SEED_SD)
    lines: dict[str, list[tuple[float, ...]]] = {"components": [], "scores": []}
    for seed in range(repeats):
        new = study(40, 1000 + seed)
        alive = new.scores < RUINED
        for name, (surface, seconds) in fits(study(trials, seed), seed).items():
            low, high = np.quantile(surface.predicted(new.points, 1, 256), [0.05, 0.95], axis=0)
            held = ((low <= new.scores) & (new.scores <= high))[alive].mean()
            best = int(surface.mean(SPACE).argmin())
            draws = surface.draws(SPACE, 2, 256)
            said = (draws <= draws[:, [best]] + TOLERANCE).mean(0)
            good = truth <= truth[best] + TOLERANCE
            brier = ((said - good) ** 2).mean()
            regret = truth[best] - truth.min()
            lines[name].append((regret, held, (high - low)[alive].mean(), brier, seconds))
    for name, found in lines.items():
        regret, held, width, brier, seconds = np.mean(found, axis=0)
        print(
            f"{trials} trials, {name}: regret {regret:.3f}, intervals hold {100 * held:.0f} % "
            f"(width {width:.2f}), Brier {brier:.3f}, fit {seconds:.2f} s",
            flush=True,
        )


def recommended(trials: int, repeats: int) -> None:
    """Print how honest a recommendation is."""
    truth = expected_score(SPACE, SEED_SD).min()
    below, said, good = [], [], []
    for seed in range(repeats):
        part = study(trials, seed)
        fit = fit_groups([part], AXES, TOLERANCE, 0)[0]
        best = part.points[part.scores.argmin()]
        found = recommended_point([fit], [best], AXES, TOLERANCE, 0)
        assert found is not None
        regret = expected_score(found.point[None], SEED_SD)[0] - truth
        below.append(regret <= found.regret.high)
        said.append(found.regret.p_good)
        good.append(regret <= TOLERANCE)
    p, true = np.array(said), np.array(good)
    words = [
        f"said {low:g} to {min(high, 1):g}: {true[here].mean():.2f} of {here.sum()}"
        for low, high in SAID
        if (here := (p >= low) & (p < high)).any()
    ]
    print(
        f"{trials} trials, recommended: cost below its bound {sum(below)} of {len(below)}; good "
        f"when {'; '.join(words)}",
        flush=True,
    )


def main() -> None:
    """Measure each number of trials."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--trials", default="3,8,16,40")
    arguments = parser.parse_args()
    for trials in map(int, arguments.trials.split(",")):
        compared(trials, arguments.repeats)
        recommended(trials, arguments.repeats)


if __name__ == "__main__":
    main()
