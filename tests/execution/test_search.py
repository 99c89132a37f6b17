"""What is asked, and in what order. If these fail, studies repeat themselves, waste trials, or
differ after a resume."""

import math
import os
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from specs import FREE_STEPS, LR, finished, record, row, run, space, study

from ray_unlearn.execution import samplers
from ray_unlearn.execution.drawn_points import all_points
from ray_unlearn.execution.optuna_trials import as_optuna_trial
from ray_unlearn.execution.search import START_UP, Search
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.schema import Outcome
from ray_unlearn.store.score import ScoreRule

W_R = {"type": "float", "low": 0.1, "high": 10.0, "scale": "log"}
BATCHES = {"type": "choice", "choices": [4, 8, 16]}
SCHEDULE = {"type": "choice", "choices": ["constant", "linear", "cosine"]}
STEPS = {"type": "int", "low": 5, "high": 30, "free": False}
CONDITIONAL: dict[str, Any] = {"schedule": SCHEDULE, "steps": STEPS} | {
    "warmup_ratio": {"type": "float", "low": 0.01, "high": 0.2, "when": {"schedule": "linear"}}
}
"""`warmup_ratio` exists on the linear schedule only."""
MIXED = "ascent_descent_general"


def valley(config: TrialConfig) -> float:
    """Lowest at learning rate 1e-4."""
    return abs(math.log10(config.learning_rate) + 4)


# Numbers, methods and seeds


def test_numbers_go_round_the_methods_and_each_method_goes_round_the_seeds() -> None:
    spec = study(
        space(),
        space("random_labels"),
        sampler="random",
        trials_per_method=4,
        trial_seeds=[7, 8, 9],
    )
    trials = run(spec, valley)
    assert [(t.method, t.config["seed"]) for t in trials] == [
        ("gradient_ascent", 7), ("random_labels", 7), ("gradient_ascent", 8), ("random_labels", 8),
        ("gradient_ascent", 9), ("random_labels", 9), ("gradient_ascent", 7), ("random_labels", 7),
    ]  # fmt: skip
    assert Search(spec, "context").ask(8) is None


def test_a_configuration_is_complete_before_the_trial_starts() -> None:
    config = Search(study(space(batch_size=4)), "digest of model and data").ask(0)
    assert config is not None
    assert (config.batch_size, config.steps, config.evaluate_at) == (4, 30, (1, 3, 9, 30))
    assert config.context == "digest of model and data"


# Quasi-random share


@pytest.mark.parametrize("name", ["learning_rate", "w_r"])
def test_the_quasi_random_share_is_evenly_spread(name: str) -> None:
    """16 points of a Sobol sequence: one in each of 16 equal parts of every axis; random ones leave
    a third empty."""
    search = Search(
        study(space(MIXED, w_r=W_R), trials_per_method=64, quasi_random_share=0.25), "c"
    )
    ranges = {"learning_rate": LR, "w_r": W_R}[name]
    parts = []
    for number in range(16):
        config = search.ask(number)
        assert config is not None
        assert search.source(number) == "quasi_random"
        share = math.log(getattr(config, name) / ranges["low"]) / math.log(
            ranges["high"] / ranges["low"]
        )
        parts.append(math.floor(16 * share))
    assert sorted(parts) == list(range(16))
    search.ask(16)
    assert search.source(16) == "random"


def test_the_quasi_random_share_does_not_depend_on_results() -> None:
    spec = study(trials_per_method=8, quasi_random_share=1.0)
    good, bad = run(spec, valley), run(spec, lambda _: None)
    assert [t.trial_id for t in good] == [t.trial_id for t in bad]


def test_choices_get_equal_shares() -> None:
    spec = study(
        space(batch_size=BATCHES), sampler="qmc", trials_per_method=48, quasi_random_share=0.0
    )
    assert Counter(t.config["batch_size"] for t in run(spec, valley)) == {4: 16, 8: 16, 16: 16}


# Conditions


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_a_conditional_parameter_is_sampled_only_where_its_condition_holds(sampler: str) -> None:
    trials = run(study(space(**CONDITIONAL), sampler=sampler, trials_per_method=40), valley)
    by_schedule = {
        schedule: [t for t in trials if t.config["schedule"] == schedule]
        for schedule in SCHEDULE["choices"]
    }
    assert all(0.01 <= t.config["warmup_ratio"] <= 0.2 for t in by_schedule["linear"])
    assert all(
        t.config["warmup_ratio"] == 0 for s in ("constant", "cosine") for t in by_schedule[s]
    )
    assert (
        len({t.config["warmup_ratio"] for t in by_schedule["linear"]})
        == len(by_schedule["linear"])
        > 0
    )


def test_the_order_of_parameters_in_the_file_does_not_matter_to_conditions() -> None:
    turned = dict(reversed(CONDITIONAL.items()))
    assert run(study(space(**turned), trials_per_method=12), valley)


# Finite spaces and grids


def test_the_grid_is_run_whole_once_per_trial_seed() -> None:
    spec = study(
        space(batch_size=BATCHES), space("random_labels"), sampler="grid", trial_seeds=[1, 2]
    )
    trials = run(spec, valley)
    assert len(trials) == Search(spec, "c").total == 3 * 3 * 2 + 3 * 2
    cells = Counter(
        (t.method, t.config["learning_rate"], t.config["batch_size"], t.config["seed"])
        for t in trials
    )
    assert len(cells) == len(trials)
    ascent = {(lr, batch, seed) for method, lr, batch, seed in cells if method == "gradient_ascent"}
    assert ascent == {
        (lr, batch, seed) for lr in LR["grid"] for batch in (4, 8, 16) for seed in (1, 2)
    }
    assert [t.method for t in trials[12:]] == ["gradient_ascent"] * 12, (
        "the smaller grid drops out of the rounds"
    )


def test_a_conditional_grid_has_no_cell_twice() -> None:
    warmup = CONDITIONAL["warmup_ratio"] | {"grid": [0.05, 0.1]}
    points = all_points(space(**CONDITIONAL | {"steps": 10, "warmup_ratio": warmup}), grid=True)
    assert points is not None
    assert len(points) == 3 * (1 + 1 + 2)


def test_a_grid_too_large_to_list_is_refused() -> None:
    fine = LR | {"grid": [1e-5 + i * 1e-8 for i in range(4000)]}
    with pytest.raises(UserError, match="the grid has more than 10000 points"):
        Search(study(space(learning_rate=fine, batch_size=BATCHES), sampler="grid"), "c")


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_a_finite_space_is_tried_whole_without_repeats_and_then_is_exhausted(sampler: str) -> None:
    finite = space(learning_rate={"type": "choice", "choices": [1e-5, 1e-4]}, batch_size=BATCHES)
    spec = study(finite, sampler=sampler, trials_per_method=50, trial_seeds=[0, 1])
    trials = run(spec, valley)
    assert len(trials) == Search(spec, "c").total == 2 * 3 * 2
    assert len({t.trial_id for t in trials}) == len(trials)
    assert len(
        {(t.config["learning_rate"], t.config["batch_size"], t.config["seed"]) for t in trials}
    ) == len(trials)


def test_a_space_with_nothing_to_choose_is_one_trial_per_seed() -> None:
    spec = study(space(learning_rate=1e-4), trials_per_method=5, trial_seeds=[0, 1])
    assert len(run(spec, valley)) == 2


def test_one_method_exhausted_leaves_the_others_their_trials() -> None:
    spec = study(
        space(learning_rate=1e-4), space("random_labels"), trials_per_method=4, sampler="random"
    )
    assert Counter(t.method for t in run(spec, valley)) == {
        "gradient_ascent": 1,
        "random_labels": 4,
    }


# ClaimedRegion spaces, warm starts, listed points


NARROW = LR | {"low": 1e-4, "high": 1e-3, "grid": []}
POINTS = [{"learning_rate": 3e-4}, {"learning_rate": 1e-5}]


def narrowed_study(share: float = 0.25, warm: tuple[float, ...] = (), **search: Any) -> StudySpec:
    """Learning rate searched in one decade of three; `share` of the trials in all three. Another
    method is not narrowed."""
    points = [{"learning_rate": value} for value in warm]
    search = {
        "full_space_share": share,
        "warm_start": {"gradient_ascent": points} if points else {},
    } | search
    spaces = space(learning_rate=NARROW), space("random_labels")
    return study(*spaces, full=space(), **{"sampler": "qmc", "trials_per_method": 48} | search)


def asked(spec: StudySpec, method: str = "gradient_ascent") -> list[tuple[str, float]]:
    """Source and learning rate of each trial of the method."""
    search = Search(spec, "c")
    found = []
    for number in range(search.total):
        config = search.ask(number)
        assert config is not None
        search.tell(finished(number, config, [row(config.steps, valley(config))]))
        if config.method == method:
            found.append((search.source(number), config.learning_rate))
    return found


def test_every_fourth_trial_is_drawn_from_the_full_space_and_both_sequences_are_even() -> None:
    """After the warm start: 12 of 48, at places 4, 8, ...; no index of either Sobol sequence is
    left out."""
    trials = asked(narrowed_study(warm=(3e-4, 5e-4)))
    assert trials[:2] == [("warm_start", 3e-4), ("warm_start", 5e-4)]
    sources = [source for source, _ in trials[2:]]
    assert sources == (["quasi_random"] * 3 + ["full_space"]) * 11 + ["quasi_random"] * 2
    inside = [lr for source, lr in trials if source == "quasi_random"][:32]
    assert sorted(math.floor(32 * (math.log10(lr) + 4)) for lr in inside) == list(range(32))
    outside = [lr for source, lr in trials if source == "full_space"][:8]
    assert sorted(math.floor(8 * (math.log10(lr) + 5) / 3) for lr in outside) == list(range(8))


def test_a_method_that_was_not_narrowed_searches_as_it_always_did() -> None:
    other = study(space(), space("random_labels"), trials_per_method=48, sampler="qmc")
    assert asked(narrowed_study(warm=(3e-4,)), "random_labels") == asked(other, "random_labels")


def test_the_places_of_full_space_trials_stay_when_trials_are_added() -> None:
    short = asked(narrowed_study(share=0.2, warm=(3e-4,), trials_per_method=11))
    assert asked(narrowed_study(share=0.2, warm=(3e-4,)))[:11] == short


def test_the_sampler_is_not_fed_what_lies_outside_and_does_not_ask_for_it_again() -> None:
    """The full space's optimum, 1e-5, is outside; TPE must stay inside, and every trial is new."""
    spec = narrowed_study(sampler="tpe", quasi_random_share=0.3)
    search = Search(spec, "c")
    ids = []
    for number in range(search.total):
        config = search.ask(number)
        assert config is not None
        ids.append(config.id)
        search.tell(
            finished(number, config, [row(config.steps, math.log10(config.learning_rate) + 5)])
        )
        if config.method == "gradient_ascent" and search.source(number) != "full_space":
            assert 1e-4 <= config.learning_rate <= 1e-3
    assert len(set(ids)) == len(ids) == 96
    assert Counter(map(search.source, range(0, 96, 2))) == {
        "quasi_random": 11,
        "full_space": 12,
        "tpe": 25,
    }


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_a_narrowed_study_that_is_interrupted_anywhere_asks_the_same(sampler: str) -> None:
    """With conditions: a full-space trial may have hyperparameters that the narrowed space no
    longer has."""
    full = space(**CONDITIONAL)
    narrow = space(
        schedule={"type": "choice", "choices": ["constant", "cosine"]},
        steps=STEPS,
        learning_rate=NARROW,
    )
    spec = study(narrow, trials_per_method=24, sampler=sampler, full_space_share=0.5, full=full)
    whole = run(spec, valley)
    assert {t.config["schedule"] for t in whole} == {"constant", "linear", "cosine"}
    assert any(t.config["warmup_ratio"] > 0 for t in whole)
    for cut in range(1, 24):
        search = Search(spec, "context")
        search.replay(record(spec, *whole[:cut]))
        config = search.ask(cut)
        assert config is not None
        assert config.id == whole[cut].trial_id


def test_a_trial_of_the_full_space_has_all_its_steps() -> None:
    """Free steps narrowed to 9 of 30: resolved in the wrong space, no trial could refute that."""
    narrow = space(steps=FREE_STEPS | {"high": 9})
    spec = study(narrow, full=space(), full_space_share=0.5, trials_per_method=4, sampler="qmc")
    assert [(t.config["steps"], t.config["evaluate_at"]) for t in run(spec, valley)] == [
        (9, [1, 3, 9]), (30, [1, 3, 9, 30]), (9, [1, 3, 9]), (30, [1, 3, 9, 30]),
    ]  # fmt: skip


def test_when_a_finite_narrowed_space_is_used_up_its_trials_come_from_the_full_one() -> None:
    """Two choices of four, two seeds: 8 trials in all, none twice, whichever space a place belongs
    to."""
    choices = {"type": "choice", "choices": [1e-5, 1e-4, 1e-3, 1e-2]}
    full, narrow = (
        space(learning_rate=choices),
        space(learning_rate=choices | {"choices": [1e-4, 1e-3]}),
    )
    spec = study(narrow, full=full, trial_seeds=[0, 1], full_space_share=0.2)
    assert Search(spec, "c").total == 8
    cells = {(t.config["learning_rate"], t.config["seed"]) for t in run(spec, valley)}
    assert cells == {(lr, seed) for lr in choices["choices"] for seed in (0, 1)}


def test_listed_points_run_whole_in_order_once_per_seed() -> None:
    spec = study(
        sampler="listed",
        trials_per_method=None,
        points={"gradient_ascent": POINTS},
        trial_seeds=[5, 6],
    )
    trials = run(spec, valley)
    assert [(t.config["learning_rate"], t.config["seed"]) for t in trials] == [
        (3e-4, 5),
        (3e-4, 6),
        (1e-5, 5),
        (1e-5, 6),
    ]
    search = Search(spec, "c")
    search.replay(record(spec, *trials[:2]))
    assert search.ask(2) == TrialConfig.model_validate(trials[2].config | {"context": "c"})
    assert (search.source(2), search.total) == ("listed", 4)


def test_a_plan_counts_listed_points_and_the_trials_of_both_spaces() -> None:
    from ray_unlearn.unlearn.plan import plan

    listed = study(
        sampler="listed",
        trials_per_method=None,
        points={"gradient_ascent": POINTS},
        trial_seeds=[5, 6],
    )
    assert plan(listed).trials == 4
    spec = study(space(steps=FREE_STEPS | {"high": 9}), full=space(), full_space_share=0.2)
    found = plan(spec)
    assert (found.trials, found.updates) == (20, 16 * 9 + 4 * 30)
    assert found.evaluations == 16 * 3 + 4 * 4


# Resume


STATUSES: list[Outcome] = ["complete", "pruned", "diverged", "out_of_memory", "failed"]


def outcome(spec: StudySpec, number: int, config: TrialConfig, status: Outcome) -> Trial:
    rows = [
        row(1, valley(config) + 1),
        row(3, valley(config)),
        row(config.steps, valley(config) + 0.5),
    ]
    if status == "pruned":
        rows = rows[: 1 + number % 3]
    if status not in ("complete", "pruned"):
        rows = rows[: number % 2]
    return finished(number, config, rows, status)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_an_interrupted_study_asks_what_an_uninterrupted_one_asks(data: st.DataObject) -> None:
    """One lane, any outcomes, killed between or within any trials: a new Search replays the ledger
    and goes on."""
    pareto = data.draw(st.booleans())
    sampler = data.draw(st.sampled_from(["tpe", "random", "qmc", *(["nsga2"] if pareto else [])]))
    parameters: dict[str, Any] = data.draw(
        st.sampled_from([CONDITIONAL, {"w_r": W_R, "batch_size": BATCHES}])
    )
    spec = study(
        space(MIXED, **parameters), space(), sampler=sampler, pareto=pareto, trials_per_method=10
    )
    statuses = data.draw(
        st.lists(st.sampled_from([*STATUSES, "complete", "complete"]), min_size=20, max_size=20)
    )
    kills = data.draw(
        st.sets(st.tuples(st.integers(1, 19), st.sampled_from(["between", "within"])))
    )

    def search_through(kills: set[tuple[int, str]]) -> Record:
        ledger, search = record(spec), Search(spec, "c")
        for number, status in enumerate(statuses):
            if (number, "between") in kills:
                search = Search(spec, "c")
                search.replay(ledger)
            config = search.ask(number)
            assert config is not None
            if (number, "within") in kills:
                ledger.trials[number] = finished(number, config, [row(1, 0.001)], None)
                search = Search(spec, "c")
                search.replay(ledger)
            ledger.trials[number] = outcome(spec, number, config, status)
            search.tell(ledger.trials[number])
        return ledger

    whole, interrupted = search_through(set()), search_through(kills)
    assert [t.trial_id for t in whole.trials.values()] == [
        t.trial_id for t in interrupted.trials.values()
    ]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_with_parallel_lanes_the_order_of_outcomes_does_not_matter_and_none_is_asked_twice(
    sampler: str,
) -> None:
    """Twelve trials told in any order, two still pending: the next suggestion is the same, live or
    replayed."""
    pareto = sampler == "nsga2"
    spec = study(
        space(**CONDITIONAL),
        sampler=sampler,
        pareto=pareto,
        trials_per_method=50,
        quasi_random_share=0.2,
    )
    asked = []
    for order in (range(12), reversed(range(12))):
        search = Search(spec, "c")
        configs = [search.ask(number) for number in range(14)]
        for number in order:
            config = configs[number]
            assert config is not None
            search.tell(outcome(spec, number, config, "complete"))
        asked.append(search.ask(14))
    ledger = record(spec)
    for number, config in enumerate(configs):
        assert config is not None
        pending = finished(number, config, [row(1, 0.001)] if number == 13 else [], None)
        ledger.trials[number] = (
            outcome(spec, number, config, "complete") if number < 12 else pending
        )
    resumed = Search(spec, "c")
    resumed.replay(ledger)
    asked.append(resumed.ask(14))
    backwards = Search(spec, "c")
    for _, trial in sorted(ledger.trials.items(), reverse=True):
        backwards.tell(trial)
    asked.append(backwards.ask(14))
    assert asked[0] is not None
    assert asked == [asked[0]] * 4
    assert asked[0].id not in {config.id for config in configs if config}


def test_pending_trials_push_the_next_suggestion_elsewhere() -> None:
    """Constant liar: twenty lanes asking at once do not all get the neighbourhood of the best
    trial."""
    spec = study(sampler="tpe", trials_per_method=60)
    done = run(spec, valley, trials=30)

    def spread(pending: bool) -> float:
        lrs = []
        search = Search(spec, "c")
        search.replay(record(spec, *done))
        for number in range(30, 50):
            config = search.ask(number)
            assert config is not None
            lrs.append(math.log10(config.learning_rate))
            if not pending:
                search = Search(spec, "c")
                search.replay(record(spec, *done))
        return statistics.pstdev(lrs)

    assert spread(pending=True) > 1.5 * spread(pending=False)


def test_a_ledger_of_another_version_of_the_spec_is_replayed() -> None:
    """Range, method or choice dropped: remembered as tried, not fed to the sampler,
    no crash."""
    wide = study(space(MIXED, w_r=W_R, batch_size=BATCHES), space(), trials_per_method=12)
    done = run(wide, valley)
    lower = LR | {"high": 1e-4, "grid": []}
    narrow = space(
        MIXED, learning_rate=lower, w_r=W_R, batch_size={"type": "choice", "choices": [4, 32]}
    )
    resumed = Search(study(narrow, trials_per_method=40), "c")
    resumed.replay(record(wide, *done))
    config = resumed.ask(30)
    assert config is not None
    assert config.learning_rate <= 1e-4


def test_more_trials_than_planned_continue_the_sequence() -> None:
    """`trials_per_method` raised on resume: numbers keep their methods and seeds, and the old
    trials stay as they were."""
    small, large = (
        study(space(), space("random_labels"), trials_per_method=n, sampler="qmc") for n in (3, 6)
    )
    assert [t.trial_id for t in run(large, valley)][:6] == [t.trial_id for t in run(small, valley)]


# Outcomes as Optuna knows them


def told(trial: Trial, spec: StudySpec) -> tuple[str, list[float] | None, dict[int, float]]:
    frozen = as_optuna_trial(trial, ScoreRule(spec, {}), {})
    return frozen.state.name, frozen.values, frozen.intermediate_values


def test_outcomes_with_free_steps() -> None:
    spec = study(space(steps={"type": "int", "low": 3, "high": 30, "free": True}))
    config = Search(spec, "c").ask(0)
    assert config is not None
    u_shape = [row(1, 0.1), row(3, 0.9), row(9, 0.4), row(30, 0.6)]
    so_far = {1: 0.1, 3: 0.9, 9: 0.4, 30: 0.4}
    assert told(finished(0, config, u_shape), spec) == ("COMPLETE", [0.4], so_far)
    past_its_best = finished(0, config, u_shape, "pruned")
    assert told(past_its_best, spec) == ("COMPLETE", [0.4], so_far)
    still_falling = finished(0, config, u_shape[:3], "pruned")
    assert told(still_falling, spec) == ("PRUNED", None, {1: 0.1, 3: 0.9, 9: 0.4})
    no_configuration_yet = finished(0, config, u_shape[:1], "pruned")
    assert told(no_configuration_yet, spec) == ("PRUNED", None, {1: 0.1})
    assert told(finished(0, config, u_shape, "diverged"), spec) == ("PRUNED", None, {})
    assert told(finished(0, config, u_shape, "out_of_memory"), spec) == ("PRUNED", None, {})
    assert told(finished(0, config, u_shape, "failed"), spec) == ("FAIL", None, {})
    assert told(finished(0, config, [row(30, math.nan)], "complete"), spec) == ("PRUNED", None, {})
    assert told(finished(0, config, u_shape[:1], None), spec)[0] == "RUNNING"


def test_outcomes_with_sampled_steps() -> None:
    spec = study(space(steps=STEPS, schedule="linear"))
    config = TrialConfig(
        method="gradient_ascent", learning_rate=1e-4, steps=9, evaluate_at=(1, 3, 9)
    )
    rows = [row(1, 0.1), row(3, 0.9), row(9, 0.4)]
    assert told(finished(0, config, rows), spec) == ("COMPLETE", [0.4], {1: 0.1, 3: 0.9, 9: 0.4})
    diverged_at_the_end = [*rows[:2], row(9, math.nan)]
    assert told(finished(0, config, diverged_at_the_end), spec) == ("PRUNED", None, {})
    assert told(finished(0, config, rows[:2], "pruned"), spec) == ("PRUNED", None, {1: 0.1, 3: 0.9})


def test_outcomes_with_two_objectives_are_the_pair_at_the_row_of_the_lowest_score() -> None:
    spec = study(pareto=True)
    config = Search(spec, "c").ask(0)
    assert config is not None
    rows = [
        row(9, 0.5, forget_gap_selection=0.1, utility_loss_selection=0.4),
        row(30, 0.6, forget_gap_selection=0.0, utility_loss_selection=0.6),
    ]
    assert told(finished(0, config, rows), spec) == ("COMPLETE", [0.1, 0.4], {})
    assert told(finished(0, config, rows, "diverged"), spec) == ("PRUNED", None, {})


def test_tpe_takes_an_infeasible_trial_for_a_good_one_only_when_there_is_nothing_else() -> None:
    """Optuna's ranking, which the translation relies on: complete, then pruned, then pruned without
    values."""
    from optuna.samplers._tpe.sampler import _split_trials

    spec = study()
    config = Search(spec, "c").ask(0)
    assert config is not None
    trials = [
        as_optuna_trial(finished(0, config, [], "diverged"), ScoreRule(spec, {}), {}),
        as_optuna_trial(finished(1, config, [row(1, 0.1)], "pruned"), ScoreRule(spec, {}), {}),
        as_optuna_trial(finished(2, config, [row(30, 9.0)], "complete"), ScoreRule(spec, {}), {}),
    ]
    ranked = [
        [t.number for t in _split_trials(optuna.create_study(), trials, good)[0]]
        for good in (1, 2, 3)
    ]
    assert ranked == [[2], [1, 2], [0, 1, 2]]


# Samplers


def medians(score: Any, samplers: tuple[str, ...], repeats: int, **search: Any) -> dict[str, float]:
    """The best score found, median over repeats."""
    best: dict[str, float] = {}
    for sampler in samplers:
        found = []
        for seed in range(repeats):
            spec = study(
                space(MIXED, w_r=W_R, batch_size=BATCHES), sampler=sampler, seed=seed, **search
            )
            found.append(min(t.rows[0]["score_selection"] for t in run(spec, score) if t.rows))
        best[sampler] = statistics.median(found)
    return best


def test_tpe_finds_a_planted_optimum_sooner_than_random_search() -> None:
    best = medians(
        lambda c: valley(c) + 0.2 * abs(math.log10(c.w_r)),
        ("tpe", "random"),
        11,
        trials_per_method=40,
    )
    assert best["tpe"] < 0.7 * best["random"]


def test_the_gaussian_process_finds_it_too_and_is_not_drawn_to_where_models_diverge() -> None:
    """The optimum lies at the edge of a region where every model diverges."""
    spec = study(sampler="gp", trials_per_method=16)
    trials = run(spec, lambda c: None if c.learning_rate > 1.2e-4 else valley(c))
    assert sum(t.status == "diverged" for t in trials[8:]) <= 4
    assert min(t.rows[0]["score_selection"] for t in trials if t.rows) < 0.05


def test_the_gaussian_process_is_given_the_worst_score_for_an_infeasible_trial() -> None:
    spec = study(space(steps=STEPS, schedule="linear"), sampler="gp")
    config = TrialConfig(method="gradient_ascent", learning_rate=1e-4, steps=9, evaluate_at=(1, 9))
    trials = [
        finished(0, config, [row(1, 0.2), row(9, 0.4)]),
        finished(1, config, [row(1, 0.7)], "pruned"),
        finished(2, config, [row(1, 0.1)], "diverged"),
        finished(3, config, [], None),
    ]
    past = samplers.with_values_for_gp(
        [as_optuna_trial(t, ScoreRule(spec, {}), {}) for t in trials], ["minimize"]
    )
    assert [(t.state.name, t.values) for t in past] == [
        ("COMPLETE", [0.4]), ("COMPLETE", [0.7]), ("COMPLETE", [0.7]), ("RUNNING", None),
    ]  # fmt: skip


def test_tpe_learns_to_avoid_where_models_diverge() -> None:
    """Above learning rate 3e-4, half of the space, all diverge; the optimum lies half a decade
    below that."""
    early, late = 0, 0
    for seed in range(3):
        spec = study(sampler="tpe", trials_per_method=60, seed=seed)
        diverged = [
            t.status == "diverged"
            for t in run(spec, lambda c: None if c.learning_rate > 3e-4 else valley(c))
        ]
        early += sum(diverged[:15])
        late += sum(diverged[30:])
    assert early / 45 > 0.4
    assert late / 90 < 0.2


def test_random_points_until_enough_trials_have_a_score() -> None:
    """An adaptive sampler would take the least bad of infeasible trials for the good ones."""
    search = Search(study(sampler="tpe", quasi_random_share=0.0), "c")
    for number in range(START_UP + 3):
        config = search.ask(number)
        assert config is not None
        assert search.source(number) == "random"
        search.tell(
            finished(number, config, [row(30, 1.0)], "diverged" if number < 3 else "complete")
        )
    search.ask(START_UP + 3)
    assert search.source(START_UP + 3) == "tpe"


@pytest.mark.parametrize(("sampler", "at_most"), [("nsga2", 0.85), ("tpe", 0.45)])
def test_two_objectives_approach_the_planted_front(sampler: str, at_most: float) -> None:
    """gap = |x + 4| + waste, loss = |x + 3| + waste in log lr: on the front, x in [-4, -3], their
    sum is 1."""
    ratios = []
    for seed in range(5):
        spec = study(
            space(MIXED, w_r=W_R), sampler=sampler, pareto=True, trials_per_method=80, seed=seed
        )
        search = Search(spec, "c")
        distances = []
        for number in range(search.total):
            config = search.ask(number)
            assert config is not None
            x, waste = math.log10(config.learning_rate), abs(math.log10(config.w_r))
            gap, loss = abs(x + 4) + waste, abs(x + 3) + waste
            rows = [row(30, gap + loss, forget_gap_selection=gap, utility_loss_selection=loss)]
            search.tell(finished(number, config, rows))
            distances.append(gap + loss - 1.0)
        ratios.append(statistics.median(distances[-30:]) / statistics.median(distances[:30]))
    assert statistics.median(ratios) < at_most


def test_suggestions_do_not_slow_down_without_bound() -> None:
    spec = study(trials_per_method=3000)
    config = Search(spec, "c").ask(0)
    assert config is not None
    scores = [float(1 + (37 * number) % 2500) for number in range(2500)]
    past = [
        as_optuna_trial(
            finished(n, config, [row(30, score)]),
            ScoreRule(spec, {}),
            {"learning_rate": config.learning_rate},
        )
        for n, score in enumerate(scores)
    ]
    seen = samplers.in_view(past, ["minimize"])
    assert len(seen) == samplers.LAST + samplers.BEST
    assert [t.number for t in seen] == sorted(t.number for t in seen)
    assert {t.values[0] for t in seen[: samplers.BEST]} == set(
        sorted(scores[:500])[: samplers.BEST]
    )


def test_the_search_asks_the_same_whatever_the_hash_seed() -> None:
    """Optuna keeps groups of parameters in sets of strings, whose order changes from process to
    process."""
    code = (
        "from test_search import *\n"
        "print([t.trial_id for t in run(study(space(**CONDITIONAL), trials_per_method=20), "
        "valley)])"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    said = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert said.strip() == str(
        [t.trial_id for t in run(study(space(**CONDITIONAL), trials_per_method=20), valley)]
    )


@pytest.mark.parametrize("sampler", ["tpe", "qmc", "random", "gp", "nsga2"])
def test_any_seed_of_a_study_file_can_be_searched_with(tiny_study: StudySpec, sampler: str) -> None:
    for seed in (20240611, 2**32, 2**63 - 1):
        search = {"sampler": sampler, "seed": seed, "trial_seeds": (seed,)}
        objective = tiny_study.objective.model_copy(update={"pareto": sampler == "nsga2"})
        spec = tiny_study.model_copy(
            update={"search": tiny_study.search.model_copy(update=search), "objective": objective}
        )
        asked = [Search(spec, "").ask(number) for number in (0, 1)]
        assert [config.seed for config in asked if config is not None] == [seed, seed]
