"""Early stopping. If these fail, good configurations are stopped, or a resumed study stops others
than it would have."""

import math
import random
from itertools import pairwise

import pytest
from specs import finished, record, row, space, study

from ray_unlearn.execution.early_stopping import Pruner
from ray_unlearn.spec.search_space import SearchSpace
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.schema import Outcome
from ray_unlearn.store.score import ScoreRule

SAMPLED_STEPS = {"type": "int", "low": 10, "high": 30, "free": False}
NAN = math.nan


def decaying(scheduler: str, **rule: int) -> StudySpec:
    """Sampled steps on a decaying schedule: the score at the update itself counts."""
    spaces = space(steps=SAMPLED_STEPS, schedule="linear")
    return study(spaces, scheduler={"type": scheduler, **rule})


def free(scheduler: str, **rule: int) -> StudySpec:
    return study(space(), scheduler={"type": scheduler, **rule})


def trial(
    number: int,
    scores: dict[int, float],
    status: Outcome | None = None,
    steps: int = 30,
    method: str = "gradient_ascent",
) -> Trial:
    """A trial with these scores by update."""
    config = TrialConfig(
        learning_rate=1e-4 * (1 + number), steps=steps, method=method, evaluate_at=(1, 3, 9, 30)
    )
    return finished(
        number, config, [row(update, score) for update, score in scores.items()], status
    )


def verdict(spec: StudySpec, ledger: Record, number: int) -> str | None:
    """The verdict on a trial's last row."""
    return Pruner(spec).verdict(ledger, number, ledger.trials[number].rows[-1])


def test_asha_follows_a_table_made_by_hand() -> None:
    """Seven trials reach rung 3 one after another, eta 3: kept are the best max(1, n // 3) of the n
    so far.

    n       1    2    3    4    5    6    7
    score  .5   .6   .4   .7  .45  .42   .9
    best    1    1    1    1    1    2    2
    rank    0    1    0    3    1    1    6     (scores strictly better)
    goes on y    n    y    n    n    y    n
    """
    spec = decaying("asha", reduction_factor=3, grace_updates=3)
    ledger = record(spec)
    goes_on = []
    for number, score in enumerate([0.5, 0.6, 0.4, 0.7, 0.45, 0.42, 0.9]):
        ledger.trials[number] = trial(number, {1: 2.0, 3: score})
        goes_on.append(verdict(spec, ledger, number) is None)
    assert goes_on == [True, False, True, False, False, True, False]


def test_equal_scores_go_on_together() -> None:
    """A floor that many trials reach (zero loss of utility, say) is no reason to stop all but the
    first of them."""
    spec = decaying("asha", reduction_factor=3, grace_updates=3)
    assert verdict(spec, record(spec, trial(0, {3: 0.5}), trial(1, {3: 0.5})), 1) is None


def test_asha_compares_at_rungs_only_and_the_next_rung_only_among_those_that_reached_it() -> None:
    spec = decaying("asha", reduction_factor=3, grace_updates=1)  # rungs 1, 3, 9, 27
    others = [trial(n, {1: 0.1, 3: 0.1}, "pruned") for n in range(5)]
    ledger = record(spec, *others, trial(5, {1: 0.05, 2: 9.0}))
    assert verdict(spec, ledger, 5) is None, "2 is no rung"
    ledger.trials[5] = trial(5, {1: 0.05, 2: 9.0, 3: 0.05, 9: 9.0})
    assert verdict(spec, ledger, 5) is None, "no other trial has reached rung 9"
    ledger.trials[6] = trial(6, {9: 1.0})
    assert verdict(spec, ledger, 5) == "asha: score 9 at update 9 is not among the best 1 of 2"


def test_a_trial_evaluated_elsewhere_is_at_a_rung_with_its_first_evaluation_from_there_on() -> None:
    spec = decaying("asha", reduction_factor=2, grace_updates=3)  # rungs 3, 6, 12, 24
    ledger = record(spec, trial(0, {2: 0.9, 7: 0.2}), trial(1, {3: 0.5}))
    assert verdict(spec, ledger, 1) is not None, (
        "0.5 at 3 against 0.2 at 7, the other's first evaluation from 3 on"
    )
    ledger = record(spec, trial(0, {2: 0.9, 7: 0.6}), trial(1, {3: 0.5, 5: 9.0}))
    assert verdict(spec, ledger, 1) is None, "5 lies between the rungs 3 and 6"


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_never_at_the_last_evaluation_nor_in_the_grace_nor_across_methods(scheduler: str) -> None:
    spec = study(
        space(steps=SAMPLED_STEPS, schedule="linear"),
        space("random_labels", steps=SAMPLED_STEPS, schedule="linear"),
        scheduler={"type": scheduler, "grace_updates": 3},
    )
    good = [trial(n, {1: 0.1, 3: 0.1, 9: 0.1, 30: 0.1}, "complete") for n in range(4)]
    assert verdict(spec, record(spec, *good, trial(9, {1: 5.0})), 9) is None
    assert verdict(spec, record(spec, *good, trial(9, {1: 5.0, 3: 5.0})), 9) is not None
    assert verdict(spec, record(spec, *good, trial(9, {3: 5.0, 30: 5.0})), 9) is None
    assert verdict(spec, record(spec, *good, trial(9, {3: 5.0, 9: 5.0}, steps=9)), 9) is None
    assert verdict(spec, record(spec, *good, trial(9, {3: 5.0}, method="random_labels")), 9) is None


def test_no_scheduler_never_stops() -> None:
    spec = decaying("none")
    assert (
        verdict(
            spec,
            record(spec, *[trial(n, {1: 0.0}, "complete") for n in range(9)], trial(9, {1: 99.0})),
            9,
        )
        is None
    )


def test_infeasible_rows_are_worst() -> None:
    spec = decaying("asha", reduction_factor=3, grace_updates=3)
    two_nan = [trial(0, {3: NAN}, "diverged"), trial(1, {3: math.inf}, "diverged")]
    assert verdict(spec, record(spec, *two_nan, trial(2, {3: 7.0})), 2) is None, "the best of three"
    assert verdict(spec, record(spec, trial(0, {3: 7.0}), trial(1, {3: NAN})), 1) is not None


def test_the_verdict_is_the_same_before_and_after_the_row_is_recorded() -> None:
    spec = decaying("asha", reduction_factor=3, grace_updates=3)
    for score in (0.4, 0.6):
        recorded = record(spec, trial(0, {3: 0.5}), trial(1, {1: 1.0, 3: score}))
        not_yet = record(spec, trial(0, {3: 0.5}), trial(1, {1: 1.0}))
        assert verdict(spec, recorded, 1) == Pruner(spec).verdict(not_yet, 1, row(3, score))


def test_a_rung_passed_before_a_worker_died_is_not_judged_again_by_the_retry() -> None:
    spec = decaying("asha", reduction_factor=3, grace_updates=3)
    better_since = [trial(n, {3: 0.1}) for n in range(1, 4)]
    ledger = record(spec, trial(0, {3: 0.5, 5: 0.5}), *better_since)
    assert Pruner(spec).verdict(ledger, 0, row(3, 0.5)) is None
    ledger.trials[0] = trial(0, {3: 0.5})
    assert Pruner(spec).verdict(ledger, 0, row(3, 0.5)) is not None


def test_with_free_steps_a_trial_stands_by_its_best_configuration_so_far() -> None:
    ran = trial(0, {1: 0.1, 3: 0.6, 9: 0.4, 30: 0.8})

    def standings(whole: SearchSpace) -> list[float]:
        rule = ScoreRule(study(whole), {})
        return [rule.standing(ran.rows, ran, update)[1] for update in (1, 3, 9, 30)]

    assert standings(space()) == [0.1, 0.1, 0.1, 0.1]
    from_three = space(steps={"type": "int", "low": 3, "high": 30, "free": True})
    assert standings(from_three) == [0.1, 0.6, 0.4, 0.4]
    sampled = space(steps=SAMPLED_STEPS, schedule="linear")
    assert standings(sampled) == [0.1, 0.6, 0.4, 0.8]


@pytest.mark.parametrize("scheduler", ["asha", "past_best"])
def test_with_free_steps_a_trial_past_its_best_is_stopped_and_one_that_forgets_too_little_is_not(
    scheduler: str,
) -> None:
    """U-shape: the gap closes, crosses, and opens again while the score rises at two evaluations
    running."""
    spec = free(scheduler, grace_updates=1)
    ledger = record(spec, trial(0, {}))

    def rows_with(*points: tuple[int, float, float]) -> str | None:
        ledger.trials[0].rows = [
            row(update, score, forget_nll=nll) for update, score, nll in points
        ]
        return verdict(spec, ledger, 0)

    assert rows_with((1, 1.0, 2.0), (3, 0.2, 2.8), (5, 0.5, 3.4)) is None, (
        "rising once may be noise"
    )
    reason = rows_with((1, 1.0, 2.0), (3, 0.2, 2.8), (5, 0.5, 3.4), (9, 2.0, 5.0))
    assert reason == "past its best: score 0.2 at update 3, 2 and rising now"
    assert rows_with((1, 1.0, 2.0), (3, 1.1, 2.1), (5, 1.2, 2.2)) is None, (
        "rising, but not over-unlearned yet"
    )
    assert rows_with((1, 1.0, 2.0), (3, 2.0, 5.0), (5, 1.8, 4.8)) is None, (
        "over-unlearned, but coming back"
    )
    ledger.baselines.clear()
    assert rows_with((1, 1.0, 2.0), (3, 0.2, 2.8), (5, 0.5, 3.4), (9, 2.0, 5.0)) is None, (
        "no target known"
    )


def test_a_trial_is_not_stopped_as_past_its_best_before_it_has_a_configuration() -> None:
    spec = study(
        space(steps={"type": "int", "low": 9, "high": 30, "free": True}),
        scheduler={"type": "median"},
    )
    ledger = record(spec, trial(0, {1: 0.1, 3: 0.2, 5: 0.5, 9: 2.0}))
    for known in ledger.trials[0].rows:
        known["forget_nll"] = 4.0
    assert verdict(spec, ledger, 0) is None


def test_median_rule_by_hand() -> None:
    """Means up to update 3: (4 + 2)/2 = 3, (6 + 4)/2 = 5, (1 + 1)/2 = 1: their median is 3."""
    spec = decaying("median", grace_updates=1)
    peers = [
        trial(0, {1: 4.0, 3: 2.0, 9: 0.0}, "complete"),
        trial(1, {1: 6.0, 3: 4.0}, "pruned"),
        trial(2, {1: 1.0, 3: 1.0}, "complete"),
        trial(3, {1: 0.0, 3: 0.0}, None),  # still running: does not count
        trial(4, {1: 0.0}, "pruned"),  # did not get so far: does not count
        trial(5, {1: 0.0, 3: 0.0}, "failed"),
    ]
    assert verdict(spec, record(spec, *peers, trial(9, {1: 3.5, 3: 3.1})), 9) is not None
    assert verdict(spec, record(spec, *peers, trial(9, {1: 3.0, 3: 9.0})), 9) is None, (
        "its best, 3.0, is not worse"
    )
    assert verdict(spec, record(spec, *peers[:2], trial(9, {1: 9.0, 3: 9.0})), 9) is None, (
        "two are too few for a median"
    )


def test_asha_saves_updates_and_keeps_the_planted_best() -> None:
    """27 trials whose ranks are stable: the best survives, and well over half of the updates are
    saved."""
    spec = decaying("asha", reduction_factor=3, grace_updates=1)
    ledger = record(spec)
    updates = 0
    order = [(7 * i + 3) % 27 for i in range(27)]
    for number, rank in enumerate(order):
        scores: dict[int, float] = {}
        for before, update in pairwise((0, 1, 3, 9, 30)):
            scores[update] = rank + 1 / update
            ledger.trials[number] = trial(number, scores)
            updates += update - before
            if verdict(spec, ledger, number):
                ledger.trials[number].status = "pruned"
                break
        else:
            ledger.trials[number].status = "complete"
    complete = [order[number] for number, t in ledger.trials.items() if t.status == "complete"]
    assert 0 in complete
    assert updates < 0.4 * 27 * 30


@pytest.mark.parametrize("scheduler", ["asha", "median"])
@pytest.mark.parametrize("seed", range(4))
def test_a_pruner_that_saw_the_study_grow_judges_as_one_that_sees_it_for_the_first_time(
    scheduler: str, seed: int
) -> None:
    """Else a resumed study stops other trials than the uninterrupted one: up to three run at once,
    and end as they may."""
    draw = random.Random(seed)
    methods = ("gradient_ascent", "random_labels")
    spaces = [space(method, steps=SAMPLED_STEPS, schedule="linear") for method in methods]
    spec = study(*spaces, scheduler={"type": scheduler, "grace_updates": 1, "reduction_factor": 2})
    ledger, old, running, stopped = record(spec), Pruner(spec), [], 0
    while len(ledger.trials) < 60:
        if len(running) < 3:
            running.append(trial(len(ledger.trials), {}, method=draw.choice(methods)))
            ledger.trials[running[-1].number] = running[-1]
        one = draw.choice(running)
        latest = row((1, 3, 9, 30)[len(one.rows)], draw.choice([NAN, *range(9)]))
        judged = old.verdict(ledger, one.number, latest)
        assert judged == Pruner(spec).verdict(ledger, one.number, latest)
        one.rows.append(latest)
        stopped += judged is not None
        if judged is not None or len(one.rows) == 4 or draw.random() < 0.05:
            one.status = "pruned" if judged else draw.choice(["complete", "diverged", "failed"])
            running.remove(one)
    assert 5 < stopped < 55


def test_past_best_alone_judges_no_trial_by_another() -> None:
    """A trial far worse than all others goes on, so that the trials stay a random sample of the
    space."""
    others = [trial(n, {1: 0.1, 3: 0.05, 9: 0.05}, "complete") for n in range(6)]
    verdicts = []
    for scheduler in ("past_best", "median", "asha"):
        spec = free(scheduler)
        ledger = record(spec, *others, trial(6, {1: 5.0, 3: 4.0, 9: 3.0}))
        verdicts.append(verdict(spec, ledger, 6))
    assert verdicts[0] is None
    assert None not in verdicts[1:]


# Calibrated rows


def both(spec: StudySpec) -> StudySpec:
    evaluation = spec.evaluation.model_copy(update={"strength": "both"})
    return spec.model_copy(update={"evaluation": evaluation})


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_trials_are_compared_by_their_rows_as_trained(scheduler: str) -> None:
    """A calibrated row comes after the verdict: who has one already would stand better."""
    spec = both(free(scheduler, grace_updates=3, reduction_factor=4))
    ledger = record(spec)
    for number in range(4):
        ledger.trials[number] = trial(number, {3: 0.5}, "complete")
        ledger.trials[number].rows.append(row(3, 0.01, strength=0.5))
    ledger.trials[4] = trial(4, {3: 0.3})
    assert verdict(spec, ledger, 4) is None
    ledger.trials[4] = trial(4, {3: 0.6})
    assert verdict(spec, ledger, 4) is not None


def test_a_trial_whose_calibrated_row_is_there_has_passed_the_verdict() -> None:
    """The lane went on; a resumed study must not stop it there after all."""
    spec = both(free("asha", grace_updates=3, reduction_factor=4))
    ledger = record(spec, *(trial(number, {3: 0.1}, "complete") for number in range(4)))
    ledger.trials[4] = trial(4, {3: 0.6})
    trained = ledger.trials[4].rows[0]
    assert Pruner(spec).verdict(ledger, 4, trained) is not None
    mixed = row(3, 0.7, strength=0.5)
    ledger.trials[4].rows.append(mixed)
    assert Pruner(spec).verdict(ledger, 4, trained) is None
    assert Pruner(spec).verdict(ledger, 4, mixed) is None


def test_a_trial_past_its_best_as_trained_goes_on_where_calibrated_rows_count() -> None:
    """At the strength that meets the target a later state may be the better one."""
    spec = free("asha", grace_updates=1, reduction_factor=2)
    ledger = record(spec, trial(0, {1: 0.1, 3: 0.2, 9: 0.3}))
    for known in ledger.trials[0].rows:
        known["forget_nll"] = 4.0  # type: ignore[index]
    assert "past its best" in str(verdict(spec, ledger, 0))
    assert "past its best" not in str(verdict(both(spec), ledger, 0))
