"""What modelling a constraint saves a search: planted truths, no models.

Forgetting is perfect at learning rate 1e-3 (gap = (log10 lr + 3)^2) and KL on general text rises
with the learning rate and away from w_r = 1, so the best feasible gap is known: 0.25, on the bound
of 0.05 at 10^-3.5. Searches of the same budget, half of it quasi-random:

    constrained   minimise forget_gap, subject to general_kl 0.05
    weighted      the weighted sum of gap and utility loss, which sees the harm and not the bound
    filtered      minimise forget_gap alone; the bound is applied afterwards, to its trials

Of each: how far the best feasible trial is from the truth, and the share of the sampler's own
trials that are feasible. `cliff` lets KL jump past the bound where utility shows no loss yet.

    python benchmarks/constrained_search.py [--seeds 20] [--trials 30]
"""

import argparse
import math
import statistics
from typing import Any

from ray_unlearn.execution.search import Search
from ray_unlearn.spec.data_spec import DataSpec
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.objective import Objective
from ray_unlearn.store.record import Trial
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.schema import HALVED_SETS, HALVES, Row

METHOD = "ascent_descent_general"
BOUND, TARGET, BEST_GAP = 0.05, 3.0, 0.25
VANILLA = {f"{name}_nll_{half}": 1.0 for name in HALVED_SETS for half in HALVES}
VANILLA |= {f"approximate_nll_{half}": TARGET for half in HALVES} | {"forget_nll": 1.0}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "constrained": {"minimise": "forget_gap", "subject_to": {"general_kl": BOUND}},
    "weighted": {},
    "filtered": {"minimise": "forget_gap"},
}


def kl(rate: float, w_r: float, truth: str) -> float:
    """KL on general text at log10 learning rate and log10 w_r."""
    away: float = 2.0 ** (w_r**2)
    if truth == "cliff":
        return (0.2 if rate <= -3.5 else 20) * BOUND * away
    return float(BOUND * 10 ** (2 * (rate + 3.5)) * away)


def measured(config: TrialConfig, spec: StudySpec, truth: str) -> Row:
    """The row of a trial."""
    rate, w_r = math.log10(config.learning_rate), math.log10(config.w_r)
    moved = kl(rate, w_r, truth)
    row = VANILLA | {"update": config.steps, "forget_nll": TARGET - (rate + 3) ** 2}
    row |= {f"general_kl_{half}": moved for half in HALVES}
    row |= {f"general_nll_{half}": 1.0 + 0.5 * moved for half in HALVES}
    return scored(row, Baselines(VANILLA), spec.objective.weights, Objective.of(spec))


def study(sampler: str, objective: dict[str, Any], trials: int, seed: int) -> StudySpec:
    """A study of one method over learning rate and w_r."""
    parameters = {
        "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-2, "scale": "log"},
        "w_r": {"type": "float", "low": 0.1, "high": 10.0, "scale": "log"},
        "steps": {"type": "fixed", "value": 30},
    }
    return StudySpec.model_validate(
        {
            "name": "planted",
            "model": ModelSpec(source="demo:shakespeare"),
            "data": DataSpec(source="demo:shakespeare"),
            "methods": [METHOD],
            "spaces": {METHOD: {"method": METHOD, "parameters": parameters}},
            "search": {
                "sampler": sampler,
                "trials_per_method": trials,
                "quasi_random_share": 0.5,
                "seed": seed,
            },
            "objective": objective,
            "evaluation": {"every": 30},
        }
    )


def searched(spec: StudySpec, truth: str) -> list[Row]:
    """The rows of a whole search, in order."""
    search, rows = Search(spec, ""), []
    for number in range(search.total):
        config = search.ask(number)
        assert config is not None
        row = measured(config, spec, truth)
        content = config.model_dump(mode="json")
        search.tell(Trial(number, config.id, content, [row], "complete"))
        rows.append(row)
    return rows


def is_feasible(row: Row) -> bool:
    """Whether a row keeps to the bound."""
    return bool(row["general_kl_selection"] <= BOUND)


def main() -> None:
    """Print a line per truth, sampler and objective."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--samplers", nargs="+", default=["tpe", "gp"])
    given = parser.parse_args()
    print("truth   sampler objective    gap above the best: median, worst   own trials feasible")
    for truth in ("slope", "cliff"):
        for sampler in given.samplers:
            for name, objective in OBJECTIVES.items():
                lost, shares = [], []
                for seed in range(given.seeds):
                    rows = searched(study(sampler, objective, given.trials, seed), truth)
                    gaps = [row["forget_gap_selection"] for row in rows if is_feasible(row)]
                    lost.append(min(gaps, default=math.inf) - BEST_GAP)
                    own = rows[given.trials // 2 :]
                    shares.append(sum(map(is_feasible, own)) / len(own))
                print(
                    f"{truth:7} {sampler:7} {name:12} {statistics.median(lost):8.3f} "
                    f"{max(lost):8.3f} {'':18} {statistics.mean(shares):.0%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
