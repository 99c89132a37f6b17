"""Confirmation: the best configurations again with new seeds. If these fail, a lucky trial passes
for a good one."""

import csv
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from questions import question_files
from specs import FREE_STEPS, finished, record, row, space, study
from tiny import study_file

from ray_unlearn.analysis.guidelines.confirmation import (
    _outcome,
    confirmation,
    interval_of,
    write_confirmation,
)
from ray_unlearn.execution import confirm as confirm_module
from ray_unlearn.execution.confirm import _new_seeds, confirm_study, confirming_spec
from ray_unlearn.execution.search import Search
from ray_unlearn.execution.study import run_study
from ray_unlearn.spec.bounds import LARGEST_SEED
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.event import Header, RowMeasured, TrialAsked, TrialEnded
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.score import ScoreRule
from ray_unlearn.store.verify import verify

ASCENT = "gradient_ascent"


def trial(number: int, spec: StudySpec, lr: float, scores: dict[int, float], **about: Any) -> Trial:
    """A trial with these selection scores by update; the reporting score is 0.5 higher."""
    method, seed, status = (
        about.get("method", ASCENT),
        about.get("seed", 0),
        about.get("status", "complete"),
    )
    full = spec.full_spaces or {}
    space = full.get(method, spec.spaces[method])
    config = spec.trial_config(
        space.resolve({"learning_rate": lr} | about.get("point", {})), method, seed, "c"
    )
    rows = [row(update, score, score_reporting=score + 0.5) for update, score in scores.items()]
    return finished(number, config, rows, status)


# Which configurations


def test_the_top_is_by_the_selection_half_and_names_each_configuration_once() -> None:
    """Trial 1 has a lower reporting score, trial 2 is trial 0 with another seed, trial 3 has none:
    it diverged."""
    spec = study(space(), space("random_labels"))
    trials = [
        trial(0, spec, 1e-4, {1: 0.9, 3: 0.2, 9: 0.4}),
        finished(
            1,
            TrialConfig(method=ASCENT, learning_rate=3e-4, steps=30, evaluate_at=(3,)),
            [row(3, 0.3, score_reporting=0.0)],
        ),
        trial(2, spec, 1e-4, {3: 0.5, 9: 0.1}, seed=1),
        trial(3, spec, 1e-3, {1: 0.01}, status="diverged"),
        trial(4, spec, 1e-4, {9: 0.6}, method="random_labels"),
    ]
    ledger = record(spec, *trials)
    assert [
        (c.trial.number, c.row["update"]) for c in ScoreRule.of(ledger, spec).top(ledger, 9)
    ] == [
        (2, 9),
        (1, 3),
        (4, 9),
    ]
    assert [c.trial.number for c in ScoreRule.of(ledger, spec).top(ledger, 1)] == [2]
    assert [c.trial.number for c in ScoreRule.of(ledger, spec).top(ledger, 1, per_method=True)] == [
        2,
        4,
    ]


def configs(spec: StudySpec) -> list[TrialConfig]:
    search = Search(spec, "c")
    found = [search.ask(number) for number in range(search.total)]
    assert all(found)
    return [config for config in found if config is not None]


def test_a_free_steps_configuration_is_run_to_its_best_update_and_evaluated_there_alone() -> None:
    spec = study(space(), space("random_labels"), trial_seeds=[0, 4])
    trials = [
        trial(0, spec, 1e-4, {1: 0.9, 3: 0.2, 9: 0.4}),
        trial(1, spec, 1e-3, {9: 0.3}, seed=4),
    ]
    ledger = record(spec, *trials)
    again = confirming_spec(spec, ledger, ScoreRule.of(ledger, spec).top(ledger, 2), 3, "confirm")
    assert (again.name, again.methods, again.search.trial_seeds) == (
        "test-confirm",
        (ASCENT,),
        (5, 6, 7),
    )
    asked = configs(again)
    assert [(c.learning_rate, c.steps, c.seed) for c in asked] == [
        (1e-4, 3, 5),
        (1e-4, 3, 6),
        (1e-4, 3, 7),
        (1e-3, 9, 5),
        (1e-3, 9, 6),
        (1e-3, 9, 7),
    ]
    assert [c.evaluate_at for c in asked] == [(3,)] * 3 + [(9,)] * 3
    varied = {"seed", "steps", "evaluate_at"}
    assert asked[0].model_dump(exclude=varied) == TrialConfig.model_validate(
        trials[0].config
    ).model_dump(exclude=varied)


def test_conditional_hyperparameters_and_trials_from_either_space_are_repeated_as_they_were() -> (
    None
):
    """The best is one of the full space with a schedule, and a warm-up, that the narrowed space no
    longer has; the second lies where the narrowed space was widened beyond the full one."""
    linear = {"type": "float", "low": 0.01, "high": 0.2, "when": {"schedule": "linear"}}
    steps = {"type": "int", "low": 5, "high": 30}
    full = space(
        schedule={"type": "choice", "choices": ["constant", "linear"]},
        steps=steps,
        warmup_ratio=linear,
    )
    wider = {"type": "float", "low": 1e-3, "high": 1e-1, "scale": "log"}
    narrow = space(
        schedule={"type": "choice", "choices": ["constant"]}, steps=steps, learning_rate=wider
    )
    spec = study(narrow, full=full, full_space_share=0.2)
    outside = trial(
        0, spec, 1e-5, {9: 0.1}, point={"schedule": "linear", "steps": 9, "warmup_ratio": 0.1}
    )
    config = spec.trial_config(
        narrow.resolve({"learning_rate": 0.05, "schedule": "constant", "steps": 30}), ASCENT, 0, "c"
    )
    ledger = record(spec, outside, finished(1, config, [row(30, 0.2)]))
    again = confirming_spec(spec, ledger, ScoreRule.of(ledger, spec).top(ledger, 2), 2, "confirm")
    found = [(c.learning_rate, c.schedule, c.steps, c.warmup_ratio) for c in configs(again)]
    assert found == [(1e-5, "linear", 9, 0.1)] * 2 + [(0.05, "constant", 30, 0.0)] * 2


def test_early_stopping_and_two_objectives_of_the_study_do_not_stop_its_confirmation() -> None:
    spec = study(space(), pareto=True, sampler="nsga2")
    ledger = record(spec, trial(0, spec, 1e-4, {9: 0.1}))
    again = confirming_spec(spec, ledger, ScoreRule.of(ledger, spec).top(ledger, 1), 2, "confirm")
    assert (again.search.scheduler.type, again.objective) == ("none", spec.objective)


# The statistics


def test_the_interval_is_students() -> None:
    """Scores 1, 2, 3: mean 2, SD 1; t(0.95, 2) = 2.919986 (any table), so 2 +- 2.919986 /
    sqrt(3)."""
    found = interval_of([1.0, 2.0, 3.0])
    assert (found.n, found.mean, found.sd) == (3, 2.0, 1.0)
    assert (found.low, found.high) == pytest.approx(
        (2 - 2.919986 / math.sqrt(3), 2 + 2.919986 / math.sqrt(3)), rel=1e-6
    )
    assert (interval_of([1.0]).mean, interval_of([1.0]).low, interval_of([]).mean) == (
        1.0,
        None,
        None,
    )


@pytest.mark.slow
def test_the_interval_covers_the_mean_of_seeds_as_often_as_it_says() -> None:
    import numpy as np

    draws = np.random.default_rng(0).normal(size=(4000, 5))
    inside = [(i.low or 0) <= 0 <= (i.high or 0) for i in map(interval_of, draws.tolist())]
    assert 0.88 < statistics.fmean(inside) < 0.92


def written(folder: Path, spec: StudySpec, trials: list[Trial]) -> Path:
    """A study directory of these trials."""
    header = Header(spec=spec.model_dump(mode="json"), domain="test", context="c")
    with Ledger.create(folder / "ledger", header) as ledger:
        for t in trials:
            about: dict[str, Any] = {"number": t.number, "trial_id": t.trial_id}
            ledger.append(TrialAsked(config=t.config, **about))
            for metrics in t.rows:
                ledger.append(RowMeasured(update=metrics["update"], metrics=dict(metrics), **about))
            if t.status is not None:
                ledger.append(TrialEnded(status=t.status, reason="", **about))
    return folder


def test_a_seed_without_a_score_is_shown_and_never_dropped(tmp_path: Path) -> None:
    """Of four new seeds one diverges, one is not finite at its end, and two end with 0.6 and 0.8 on
    the reporting half."""
    spec = study()
    best = trial(0, spec, 1e-4, {3: 0.2, 9: 0.1})
    folder = written(tmp_path / "s", spec, [best, trial(1, spec, 1e-3, {9: 0.4})])
    ledger = read_ledger(folder / "ledger")
    again = confirming_spec(spec, ledger, ScoreRule.of(ledger, spec).top(ledger, 2), 4, "confirm")
    outcomes: list[tuple[list[Any], Any]] = [
        ([row(9, 9.0, score_reporting=0.6)], "complete"),
        ([], "diverged"),
        ([row(9, 9.0, score_reporting=math.nan)], "complete"),
        ([row(9, 9.0, score_reporting=0.8)], "complete"),
        *[([], None)] * 4,
    ]
    trials = [
        finished(n, c, *outcome)
        for n, (c, outcome) in enumerate(zip(configs(again), outcomes, strict=True))
    ]
    written(folder / "confirm", again, trials)
    found = confirmation(folder, folder / "confirm")
    first, second = found.configurations
    assert (first.trial, first.claimed_selection, first.claimed_reporting) == (0, 0.1, 0.6)
    assert (first.scores, first.without_score) == (
        {1: 0.6, 4: 0.8},
        {"diverged": 1, "no_finite_score": 1},
    )
    assert (first.interval.n, first.seeds, first.interval.mean) == (2, 4, pytest.approx(0.7))
    # t(0.95, 1) = 6.313752; SD of 0.6 and 0.8 is 0.1 sqrt(2), over sqrt(2) it is 0.1.
    assert (first.interval.low, first.interval.high) == pytest.approx(
        (0.7 - 0.6313752, 0.7 + 0.6313752), rel=1e-6
    )
    assert first.optimism == pytest.approx(0.6)
    assert (second.without_score, second.interval.mean, second.optimism) == (
        {"unfinished": 4},
        None,
        None,
    )
    assert (
        "1 diverged, 1 no_finite_score of 4 new seeds; the interval is for the other 2 alone"
        in found.notes[0]
    )
    write_confirmation(found, folder / "confirm")
    text = json.loads((folder / "confirm" / "confirm.json").read_text())
    assert text["configurations"][0]["interval"]["mean"] == pytest.approx(0.7)
    lines = list(csv.DictReader((folder / "confirm" / "confirm.csv").open()))
    assert [(line["trial"], line["n"], line["without_score"]) for line in lines] == [
        ("0", "2", "2"),
        ("1", "0", "4"),
    ]


def test_a_study_is_not_confirmed_by_another_ones_trials(tmp_path: Path) -> None:
    spec = study()
    mine = written(tmp_path / "mine", spec, [trial(0, spec, 1e-4, {9: 0.1})])
    with pytest.raises(UserError, match="is no confirmation"):
        confirmation(mine, mine)
    ledger = record(spec, trial(0, spec, 2e-4, {9: 0.1}))
    other = confirming_spec(spec, ledger, ScoreRule.of(ledger, spec).top(ledger, 1), 2, "confirm")
    written(mine / "confirm", other, [])
    with pytest.raises(UserError, match="is it of another study"):
        confirmation(mine, mine / "confirm")


def test_what_cannot_be_confirmed_is_refused(tmp_path: Path) -> None:
    spec = study()
    folder = written(tmp_path / "s", spec, [trial(0, spec, 1e-4, {}, status="diverged")])
    with pytest.raises(UserError, match="at least 2 new seeds, got 1"):
        confirm_study(folder, 1, 1)
    with pytest.raises(UserError, match="no finished trial has a score"):
        confirm_study(folder, 1, 2)
    with pytest.raises(UserError, match="no study there"):
        confirm_study(tmp_path, 1, 2)


# End to end


def seen(ledger: Record) -> tuple[Trial, dict[str, Any]]:
    """The best trial and row, worked out apart: free steps, all rows of all trials."""
    pairs = [
        (t, dict(r.items()))
        for t in ledger.trials.values()
        for r in t.rows
        if t.status == "complete"
    ]
    return min(pairs, key=lambda pair: pair[1]["score_selection"])


def assert_same_halves(study: Path, other: Path) -> None:
    """Scores on other halves confirm nothing."""
    began, found = (read_ledger(place / "ledger") for place in (study, other))
    assert (began.header.dealing, found.header.dealing) == ("balanced", "balanced")
    assert found.halves == began.halves != {}


def test_the_best_of_a_real_study_is_run_again_with_new_seeds(
    ray_here: None,
    command: Callable[..., str],
    tmp_path: Path,
    text_files: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One method, two trials; then its best with two new seeds. The second call starts nothing,
    other arguments lose nothing."""
    overrides = {
        "learning_rate": {"type": "float", "low": 1e-3, "high": 1e-2, "scale": "log"},
        "steps": FREE_STEPS | {"high": 4},
        "batch_size": 4,
    }
    operations = {"tensorboard": False, "checkpoint_every_s": None}
    changes = {"methods": [ASCENT], "space_overrides": overrides, "operations": operations}
    spec = load_study(study_file(tmp_path, text_files, tiny_model, **changes))
    folder = tmp_path / "study"
    assert run_study(spec, folder, quiet=True).exit_code == 0
    best, best_row = seen(read_ledger(folder / "ledger"))
    said: list[str] = []
    result = confirm_study(folder, 1, 2, quiet=True, say=said.append)
    assert (result.location, result.counts) == (str(folder / "confirm"), {"complete": 2})
    checked = verify(folder / "confirm")
    assert (checked.problems, checked.complete, checked.rows) == ([], True, 2)
    assert_same_halves(folder, folder / "confirm")
    trials = read_ledger(folder / "confirm" / "ledger").finished
    assert [t.config["seed"] for t in trials] == [1, 2]
    differing = {"seed": None, "steps": None, "evaluate_at": None}
    assert all(t.config | differing == best.config | differing for t in trials)
    assert all(
        [r["update"] for r in t.rows] == [best_row["update"]] == [t.config["steps"]] for t in trials
    )

    claim = confirmation(folder, folder / "confirm").configurations[0]
    assert (claim.claimed_selection, claim.claimed_reporting) == (
        best_row["score_selection"],
        best_row["score_reporting"],
    )
    scores = [t.rows[0]["score_reporting"] for t in trials]
    assert scores[0] != scores[1]
    reach = 6.313751514675 * statistics.stdev(scores) / math.sqrt(2)
    mean = statistics.fmean(scores)
    assert (claim.interval.low, claim.interval.high) == pytest.approx(
        (mean - reach, mean + reach), rel=1e-9
    )

    before = (folder / "confirm" / "ledger" / "events.jsonl").read_bytes()
    assert confirm_study(folder, 1, 2, quiet=True, say=said.append).counts == {"complete": 2}
    shown = command("confirm", folder, "--seeds", 2, "--quiet", "--json")
    assert json.loads(shown)["configurations"][0]["interval"]["mean"] == pytest.approx(mean)
    assert "2 of 2" in command("confirm", folder, "--seeds", 2, "--quiet")
    assert (folder / "confirm" / "ledger" / "events.jsonl").read_bytes() == before
    assert sum("starting" in line for line in said) == 1
    assert {"confirm.json", "confirm.csv"} <= {path.name for path in (folder / "confirm").iterdir()}
    assert verify(folder).problems == verify(folder / "confirm").problems == []

    places: list[Path] = []

    def noted(wanted: StudySpec, place: Path, **_: Any) -> None:
        places.append(place)
        assert wanted.search.trial_seeds == (1, 2, 3)

    monkeypatch.setattr(confirm_module, "run_study", noted)
    confirm_study(folder, 1, 3, quiet=True, say=said.append)
    assert places == [folder / "confirm-2"]
    assert any("it is left as it is" in line for line in said)

    with (text_files / "forget.jsonl").open() as file:
        changed = "".join(file.readlines()[1:])
    (tmp_path / "changed.jsonl").write_text(changed)
    edited = (
        (folder / "study.yaml")
        .read_text()
        .replace(str(text_files / "forget.jsonl"), str(tmp_path / "changed.jsonl"))
    )
    (folder / "study.yaml").write_text(edited)
    with pytest.raises(UserError, match="model or data have changed"):
        confirm_study(folder, 1, 3, quiet=True, say=said.append)


def test_a_study_of_taught_answers_and_watched_sets_is_confirmed_on_what_it_was_searched_on(
    ray_here: None, tmp_path: Path, text_files: Path, tiny_model: Path
) -> None:
    """It was refused, as if its data had changed, and its objective named a set that the
    confirmation did not have."""
    splits: dict[str, dict[str, Any]] = dict(question_files(tmp_path))
    path = Path(splits["forget"]["path"])
    rows = [json.loads(line) | {"other": "I forgot."} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits["forget"] = splits["forget"] | {"alternative": "other"}
    spec = load_study(
        study_file(
            tmp_path,
            text_files,
            tiny_model,
            data={"domain": "people", "sequence_length": 64, "splits": splits},
            methods=["idk"],
            search={"sampler": "random", "trials_per_method": 2, "quasi_random_share": 0.5},
            objective={"minimise": "again_ppl"},
            evaluation={"at": [1, 4], "sets": {"again": dict(splits["retain"])}},
            operations={"lanes": 1, "tensorboard": False, "checkpoint_every_s": None},
        )
    )
    folder = tmp_path / "study"
    assert run_study(spec, folder, quiet=True).exit_code == 0
    result = confirm_study(folder, 1, 2, quiet=True, say=lambda text: None)
    assert result.counts == {"complete": 2}
    trials = read_ledger(folder / "confirm" / "ledger").finished
    assert all(t.rows[0]["score_selection"] == t.rows[0]["again_ppl"] for t in trials)
    assert verify(folder / "confirm").problems == []


def test_new_seeds_end_where_seeds_end() -> None:
    assert _new_seeds({0, 5}, 3) == [6, 7, 8]
    assert _new_seeds({1, LARGEST_SEED - 1}, 1) == [LARGEST_SEED]
    assert _new_seeds({1, LARGEST_SEED - 1}, 2) == [0, 2], "after the largest come the free ones"


# Calibrated rows


def both_strengths(number: int, spec: StudySpec, lr: float, scores: tuple[float, float]) -> Trial:
    """A trial with its last row as trained and at strength 0.5."""
    found = trial(number, spec, lr, {30: scores[0]})
    mixed = row(30, scores[1], score_reporting=scores[1] + 0.25, strength=0.5)
    found.rows.append(mixed)
    return found


def test_what_was_found_at_the_target_is_confirmed_at_the_target() -> None:
    """At the strength that meets it with the new seed, not at the old seed's."""
    spec = study()
    evaluation = spec.evaluation.model_copy(update={"strength": "both"})
    spec = spec.model_copy(update={"evaluation": evaluation})
    tried = record(spec, both_strengths(0, spec, 1e-3, (0.4, 0.2)))
    [chosen] = ScoreRule.of(tried, spec).top(tried, 1)
    assert chosen.calibrated
    assert confirming_spec(spec, tried, [chosen], 2, "confirm").evaluation.strength == "both"
    trained = record(spec, both_strengths(0, spec, 1e-3, (0.1, 0.2)))
    [chosen] = ScoreRule.of(trained, spec).top(trained, 1)
    assert not chosen.calibrated
    assert confirming_spec(spec, trained, [chosen], 2, "confirm").evaluation.strength == "trained"


@pytest.mark.parametrize(("calibrated", "score"), [(True, 0.45), (False, 0.9)])
def test_a_seed_counts_with_the_kind_of_row_that_was_claimed(
    calibrated: bool, score: float
) -> None:
    spec = study()
    evaluation = spec.evaluation.model_copy(update={"strength": "both"})
    spec = spec.model_copy(update={"evaluation": evaluation})
    tried = both_strengths(0, spec, 1e-3, (0.4, 0.2))
    rule = ScoreRule.of(record(spec, tried), spec)
    found = _outcome(tried, rule, calibrated)
    assert not isinstance(found, str)
    assert found["score_reporting"] == pytest.approx(score)
    *_, calibrated_row = tried.rows
    tried.rows.remove(calibrated_row)
    expected = "target_out_of_reach" if calibrated else tried.rows[-1]
    assert _outcome(tried, rule, calibrated) == expected
