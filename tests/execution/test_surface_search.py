"""The search and the early stopping that know what a score is made of. If these fail, studies spend
updates where nothing can be found, or a resumed study asks for other trials than it would have."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from specs import FREE_STEPS, finished, record, space, study

from ray_unlearn.analysis.searched import how_drawn
from ray_unlearn.execution.early_stopping import Pruner
from ray_unlearn.execution.search import Search
from ray_unlearn.execution.trial_curves import UnitSpace
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.schema import Outcome, Row

MIXED = "ascent_descent_general"
W_R = {"type": "float", "low": 0.1, "high": 10.0, "scale": "log"}
VANILLA = {"forget_nll": 1.0} | {
    f"{name}_nll_{half}": nll
    for name, nll in (("approximate", 1.8), ("retain", 1.5), ("general", 2.0))
    for half in ("selection", "reporting")
}
BEST_W_R = 2.0


def planted_row(config: TrialConfig, update: int) -> Row:
    """A row of a world in which forgetting meets its target where learning rate x updates is 5.9e-4
    and keeping text costs least at w_r = 2; a trial's luck is some 2 % of each change."""
    effort = config.learning_rate * update
    luck = np.random.default_rng(int(config.id, 16) % 2**32).standard_normal(3)
    away = math.log10(config.w_r / BEST_W_R) if config.method == MIXED else 0.0
    changes = (
        np.array(
            [
                1.5 * (effort / 1e-3) ** 1.2,
                0.5 * (effort / 1e-3) ** 1.5 * (1 + 4 * away**2),
                0.1 * (effort / 1e-3) ** 1.5,
            ]
        )
        * (1 + 0.02 * luck)
    ).tolist()
    row: Row = {
        "update": update,
        "learning_rate_sum": effort,
        "wall_s": 1.0 * update,
        "evaluation_wall_s": 1.0,
        "forget_nll": VANILLA["forget_nll"] + changes[0],
    }
    for half in ("selection", "reporting"):
        row[f"retain_nll_{half}"] = VANILLA[f"retain_nll_{half}"] + changes[1]
        row[f"general_nll_{half}"] = VANILLA[f"general_nll_{half}"] + changes[2]
    return scored(row, Baselines(VANILLA))


BEST = (0.5 + 0.1) / 2 * (0.8 / 1.5) ** (1.5 / 1.2)
"""Score where the target is met at the best w_r."""
NEAR = 0.05


def planted_study(**search: Any) -> StudySpec:
    given = {"sampler": "surface", "quasi_random_share": 0.0} | search
    return study(space(MIXED, w_r=W_R), evaluate_at=(1, 3, 9, 30), **given)


def ended(number: int, config: TrialConfig, status: Outcome | None = "complete") -> Trial:
    return finished(number, config, [planted_row(config, u) for u in config.evaluate_at], status)


def lowest(trial: Trial) -> float:
    return min(float(row["score_selection"]) for row in trial.rows)


def searched(spec: StudySpec, trials: int) -> tuple[Search, list[Trial]]:
    """A search of one lane."""
    search, done = Search(spec, "c", {"vanilla": VANILLA}), []
    for number in range(trials):
        config = search.ask(number)
        assert config is not None
        done.append(ended(number, config))
        search.tell(done[-1])
    return search, done


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_planted_best_place_is_found_within_ten_trials(seed: int) -> None:
    """Four narrow bands of the learning rate, one for each evaluated update, at one w_r: of 200
    random trials 3 are so good."""
    search, trials = searched(planted_study(seed=seed), 10)
    assert min(map(lowest, trials)) < BEST + NEAR
    sources = [search.source(n) for n in range(10)]
    assert sources[:3] == ["quasi_random"] * 3
    assert sources[5:] == ["surface"] * 5


def test_a_resumed_search_asks_for_what_the_undisturbed_one_would_have() -> None:
    """Rows of a trial that was running are in the ledger by then, and make no difference."""
    spec = planted_study()
    search, trials = searched(spec, 4)
    pending = search.ask(4)
    assert pending is not None
    expected = search.ask(5)
    half_way = ended(4, pending, None)
    half_way.rows = half_way.rows[:2]
    again = Search(spec, "c", {"vanilla": VANILLA})
    again.replay(Record(baselines={"vanilla": VANILLA}, header=record(spec).header, trials={
        trial.number: trial for trial in (*trials, half_way)
    }))  # fmt: skip
    assert again.ask(5) == expected


def test_lanes_that_ask_at_once_get_configurations_that_lie_apart() -> None:
    spec = planted_study()
    search, _ = searched(spec, 5)
    unit = UnitSpace(spec.spaces[MIXED])
    batch = [search.ask(number) for number in range(5, 9)]
    points = [unit.unit({"learning_rate": c.learning_rate, "w_r": c.w_r}) for c in batch if c]
    assert len(points) == 4
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(points, 2)) > 0.01


def test_choices_whole_numbers_and_conditions_are_searched_too() -> None:
    schedule = {"type": "choice", "choices": ["constant", "linear"]}
    warmup = {"type": "float", "low": 0.01, "high": 0.2, "when": {"schedule": "linear"}}
    batch = {"type": "int", "low": 2, "high": 16, "scale": "log"}
    steps = {"type": "int", "low": 5, "high": 30, "free": False}
    parts = {"schedule": schedule, "warmup_ratio": warmup, "batch_size": batch, "steps": steps}
    spec = study(space(**parts), sampler="surface", quasi_random_share=0.0)
    search, trials = searched(spec, 7)
    assert search.source(6) == "surface"
    assert all(
        (trial.config["warmup_ratio"] > 0) == (trial.config["schedule"] == "linear")
        for trial in trials
    )
    unit = UnitSpace(spec.spaces["gradient_ascent"])
    point = {"schedule": "constant", "batch_size": 5, "steps": 30, "learning_rate": 1e-4}
    assert unit.point(unit.unit(point)) == pytest.approx(point)


def test_trials_that_fall_apart_are_no_place_to_search() -> None:
    """A diverged trial without a row, at the greatest learning rates, drives the search away."""
    spec = planted_study()
    search = Search(spec, "c", {"vanilla": VANILLA})
    for number in range(8):
        config = search.ask(number)
        assert config is not None
        if config.learning_rate > 1e-3:
            search.tell(finished(number, config, [], "diverged"))
        else:
            search.tell(ended(number, config))
        if search.source(number) == "surface":
            assert config.learning_rate < 5e-3


def narrowed(low: float, high: float) -> StudySpec:
    """w_r narrowed to a range; a tenth of the trials would be drawn outside it anyway."""
    near = W_R | {"low": low, "high": high}
    search = {"sampler": "surface", "quasi_random_share": 0.0, "full_space_share": 0.1}
    return study(
        space(MIXED, w_r=near), full=space(MIXED, w_r=W_R), evaluate_at=(1, 3, 9, 30), **search
    )


def test_guidelines_are_believed_at_first_and_left_where_they_mislead() -> None:
    """The best w_r is 2. Narrowed to 1 to 5, the first trials are all inside; narrowed to 0.1 to
    0.2, the search leaves within 12 trials."""
    spec = narrowed(1.0, 5.0)
    search, trials = searched(spec, 8)
    chosen = [t.config["w_r"] for t in trials if search.source(t.number) == "surface"]
    assert len(chosen) > 3
    assert all(1.0 <= w_r <= 5.0 for w_r in chosen)
    search, trials = searched(narrowed(0.1, 0.2), 12)
    left = [t for t in trials if search.source(t.number) == "surface" and t.config["w_r"] > 0.2]
    assert left
    assert min(map(lowest, left)) < min(map(lowest, [t for t in trials if t not in left]))


def test_what_it_chose_counts_as_adaptive_evidence() -> None:
    assert how_drawn(["surface"]) == {"surface": "adaptive"}


# Early stopping by a forecast


def by_forecast(**search: Any) -> tuple[StudySpec, Record]:
    """A study with five trials that have ended."""
    spec = planted_study(sampler="random", scheduler={"type": "forecast"}, seed=3, **search)
    _, trials = searched(spec, 5)
    known = record(spec, *trials)
    known.baselines["vanilla"] = VANILLA
    return spec, known


def verdicts(spec: StudySpec, known: Record, **point: float) -> list[str | None]:
    """What the rule says of each row of a further trial, until it stops it."""
    hyperparameters = spec.spaces[MIXED].resolve(point)
    config = spec.trial_config(hyperparameters, MIXED, 0, "c")
    trial = known.trials[99] = finished(99, config, [], None)
    found: list[str | None] = []
    pruner = Pruner(spec)
    for update in config.evaluate_at:
        trial.rows.append(planted_row(config, update))
        found.append(pruner.verdict(known, 99, trial.rows[-1]))
        if found[-1] is not None:
            break
    return found


def test_a_trial_is_stopped_once_what_is_to_come_cannot_be_better() -> None:
    """Its first row is near the target and its second far beyond: one evaluation tells."""
    spec, known = by_forecast()
    found = verdicts(spec, known, learning_rate=5.9e-4, w_r=BEST_W_R)
    assert len(found) <= 2
    assert found[-1] is not None
    assert found[-1].startswith("forecast: a row better than")


def test_a_trial_whose_best_row_is_its_last_goes_on() -> None:
    spec, known = by_forecast()
    assert verdicts(spec, known, learning_rate=5.9e-4 / 30, w_r=BEST_W_R) == [None] * 4


def test_a_trial_that_keeps_too_little_is_stopped_before_it_has_forgotten() -> None:
    """At w_r 0.1 it cannot come near what the others have reached, and two rows show it."""
    spec, known = by_forecast()
    config = spec.trial_config(
        spec.spaces[MIXED].resolve({"learning_rate": 5.9e-4 / 9, "w_r": BEST_W_R}), MIXED, 0, "c"
    )
    known.trials[50] = ended(50, config)
    found = verdicts(spec, known, learning_rate=5.9e-4 / 30, w_r=0.1)
    assert found[-1] is not None


def test_before_there_are_three_trials_nothing_is_forecast() -> None:
    spec, known = by_forecast()
    del known.trials[2], known.trials[3], known.trials[4]
    assert verdicts(spec, known, learning_rate=5.9e-4 / 9, w_r=0.1) == [None] * 4


# What it cannot do is refused


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        ({"minimise": "forget_gap"}, "`objective.minimise` scores one metric instead"),
        ({"subject_to": {"general_kl": 0.1}}, "`objective.subject_to` rules rows out"),
        ({"score_rule": "stop_rule"}, "`objective.score_rule: stop_rule` takes another row"),
    ],
)
@pytest.mark.parametrize(
    ("search", "remedy"),
    [
        ({"sampler": "surface"}, "use `tpe` or `gp`"),
        ({"scheduler": {"type": "forecast"}}, "use `median` or `none`"),
    ],
)
def test_a_score_of_other_parts_is_refused_with_what_to_use(
    objective: dict[str, Any], reason: str, search: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        study(objective=objective, **search)
    assert reason in str(caught.value)
    assert remedy in str(caught.value)


def test_two_objectives_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"`objective.pareto` has two objectives; use `tpe`"):
        study(pareto=True, sampler="surface")


def test_a_forecast_of_rows_that_are_no_configurations_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"set `steps: {..., free: true}`, or use `asha`"):
        study(space(steps=FREE_STEPS | {"free": False}), scheduler={"type": "forecast"})
