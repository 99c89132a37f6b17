"""Confirmation of a study: its best configurations with new seeds, as a study in its directory.

The best of many trials is best partly by luck (the winner's curse), on the half that chose it and,
through its seed, on the other half too. Trials with new seeds, which had no part in the choice,
have no such luck.

    <study>/confirm/        a study directory of its own; `resume`, `status` and `verify` work on it
    <study>/confirm-2/      another confirmation: other configurations or other seeds
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ray_unlearn.execution.drawn_points import active
from ray_unlearn.execution.recorder import Observer
from ray_unlearn.execution.stages import stages
from ray_unlearn.execution.study import Say, StudyResult, resume_study, run_study, to_stderr
from ray_unlearn.spec.bounds import LARGEST_SEED, MOST_TRIALS
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.evaluation_spec import ASKED, StrengthMode
from ray_unlearn.spec.operations import Operations
from ray_unlearn.spec.search_space import Choice, Fixed, SearchSpace
from ray_unlearn.spec.strict import validated
from ray_unlearn.spec.study_file import where_it_is_now
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.location import fetched, study_exists
from ray_unlearn.store.record import Record
from ray_unlearn.store.score import Configuration, ScoreRule
from ray_unlearn.store.status import open_study
from ray_unlearn.store.storage import below
from ray_unlearn.unlearn.model import make_ready
from ray_unlearn.unlearn.prepared_study import prepared_study
from ray_unlearn.unlearn.workspace import context_digest

CONFIRM_FOLDER = "confirm"


def confirm_study(
    location: Path | str,
    top: int,
    seeds: int,
    *,
    per_method: bool = False,
    operations: dict[str, Any] | None = None,
    address: str | None = None,
    observers: Sequence[Observer] = (),
    quiet: bool = False,
    say: Say = to_stderr,
) -> StudyResult:
    """Run the best configurations of a study with seeds it has not used, or go on doing so.

    A confirmation of the same configurations with the same seeds is resumed (if it is finished,
    nothing is run); any other goes into a folder of its own, so that none is lost.

    Args:
        location: the study's location; it may have been stopped before its end.
        top: number of configurations, ranked by the score on the selection half.
        seeds: number of new seeds for each, at least 2.
        per_method: take `top` configurations of each method.
        operations: values that replace those in the study's `operations`.
        address: as in `run_study`, like all below.
        observers: called with each new trial, row and outcome.
        quiet: print nothing on stderr but the lines of `say`.
        say: called with each line of progress.

    Raises:
        UserError: no trial has a score, `top` or `seeds` is out of its bounds, or model or data
            have changed.
        StorageError: as in `run_study`.
    """
    if not 1 <= top <= MOST_TRIALS:
        raise UserError(f"--top: 1 to {MOST_TRIALS:,} configurations can be confirmed, got {top:,}")
    if seeds < 2:
        raise UserError(f"--seeds: an interval needs at least 2 new seeds, got {seeds}")
    if seeds > MOST_TRIALS:
        raise UserError(f"--seeds: at most {MOST_TRIALS:,} new seeds, got {seeds:,}")
    with fetched(location) as folder:
        return _confirmed(
            folder, location, top, seeds, per_method, operations, say, quiet, address, observers
        )


def _confirmed(
    folder: Path,
    location: Path | str,
    top: int,
    seeds: int,
    per_method: bool,
    operations: dict[str, Any] | None,
    say: Say,
    quiet: bool,
    address: str | None,
    observers: Sequence[Observer],
) -> StudyResult:
    spec, record = open_study(folder)
    rule = ScoreRule.of(record, spec)
    chosen = rule.top(record, top, per_method)
    if not chosen:
        raise UserError(
            f"{location}: {rule.why_none(record)}, so there is nothing to confirm; "
            "`ray-unlearn status`"
        )
    for note in _notes(chosen, spec, record, top, per_method):
        say(note)
    spec = where_it_is_now(spec, folder)
    _check_context(spec, record, folder, quiet, say)
    for name in _names():
        wanted, place = confirming_spec(spec, record, chosen, seeds, name), below(location, name)
        if not study_exists(place):
            if operations:
                content = wanted.operations.model_dump() | operations
                changed = validated(Operations, content, "operations")
                wanted = wanted.model_copy(update={"operations": changed})
            return run_study(
                wanted,
                place,
                address=address,
                observers=observers,
                quiet=quiet,
                say=say,
                halves_of=record,
            )
        with fetched(place) as found:
            same = open_study(found)[0].decisive() == wanted.decisive()
        if same:
            return resume_study(
                place,
                operations=operations,
                address=address,
                observers=observers,
                quiet=quiet,
                say=say,
            )
        say(f"{place} holds a confirmation of other configurations or seeds; it is left as it is")
    raise AssertionError("there is always a next folder")


def confirming_spec(
    spec: StudySpec, record: Record, chosen: Sequence[Configuration], seeds: int, name: str
) -> StudySpec:
    """The study that runs `chosen` once with each of `seeds` new seeds.

    Each configuration is run to exactly its number of steps. With free steps it is a row in the
    middle of a trial; on a constant schedule the shorter trial has the same trajectory, so it is
    run to that update and evaluated only there.
    """
    methods = tuple(
        method for method in spec.methods if any(c.trial.method == method for c in chosen)
    )
    spaces = {method: _sampling_steps(_whole_space(spec, method)) for method in methods}
    points = {
        method: [
            active(spaces[method], c.hyperparameters) for c in chosen if c.trial.method == method
        ]
        for method in methods
    }
    used = {int(trial.config["seed"]) for trial in record.trials.values()} | set(
        spec.search.trial_seeds
    )
    content = spec.model_dump(mode="json") | {
        "name": f"{spec.name[:50]}-{name}",
        "description": f"the best configurations of {spec.name} with new seeds",
        "methods": methods,
        "spaces": {method: space.model_dump(mode="json") for method, space in spaces.items()},
        "full_spaces": None,
        "search": {
            "sampler": "listed",
            "points": points,
            "trial_seeds": _new_seeds(used, seeds),
            "seed": spec.search.seed,
        },
        "evaluation": {
            "every": max(
                c.row["update"] for c in chosen
            ),  # no trial has more updates, so each is evaluated at its last one alone
            "batch_size": spec.evaluation.batch_size,
            "strength": _strength(spec, chosen),
            # Its objective may read them, and they are of the last update alone.
            **spec.evaluation.model_dump(mode="json", include=set(ASKED - {"screen"})),
        },
        # Which seed came out best means nothing, so its weights are not worth the disk space.
        "operations": spec.operations.model_dump(mode="json") | {"keep_best": False},
    }
    return validated(StudySpec, content, f"confirmation of {spec.name}")


def _strength(spec: StudySpec, chosen: Sequence[Configuration]) -> StrengthMode:
    """The confirming study's `evaluation.strength`.

    A configuration that was found at the strength that meets the target is confirmed at the one
    that meets it with the new seed.
    """
    if spec.evaluation.strength == "target":
        return "target"
    return "both" if any(c.calibrated for c in chosen) else "trained"


def _new_seeds(used: set[int], count: int) -> list[int]:
    """The seeds after the greatest of `used`, or the lowest free ones if those do not suffice."""
    first = max(used) + 1
    if first + count - 1 <= LARGEST_SEED:
        return list(range(first, first + count))
    return list(itertools.islice((s for s in itertools.count() if s not in used), count))


def _names() -> Iterator[str]:
    return itertools.chain(
        [CONFIRM_FOLDER], (f"{CONFIRM_FOLDER}-{number}" for number in itertools.count(2))
    )


def _notes(
    chosen: list[Configuration], spec: StudySpec, record: Record, top: int, per_method: bool
) -> list[str]:
    notes = []
    groups = (
        {m: sum(c.trial.method == m for c in chosen) for m in spec.methods}
        if per_method
        else {"": len(chosen)}
    )
    for method, count in groups.items():
        if count < top:
            of = f"{method}: " if method else ""
            notes.append(
                f"{of}{count} configuration(s) have a score, {top} were asked for; all of them "
                "are confirmed"
            )
    unfinished = len(record.trials) - len(record.finished)
    if unfinished:
        notes.append(
            f"{unfinished} trial(s) of the study are unfinished; the best of the finished ones "
            "are confirmed"
        )
    return notes


def _check_context(spec: StudySpec, record: Record, folder: Path, quiet: bool, say: Say) -> None:
    """Refuse another model or other data, whose scores would be no confirmation."""
    with stages(quiet) as report:
        make_ready(spec.model, report)
    data = prepared_study(spec, say)
    found, former = context_digest(spec, data), context_digest(spec, data, former=True)
    if record.header.context not in (found, former):
        raise UserError(
            f"{folder}: model or data have changed since the study began (digest "
            f"{record.header.context}, now {found}): "
            "its scores could not be compared; put them back"
        )


def _whole_space(spec: StudySpec, method: str) -> SearchSpace:
    """The space of all of the method's trials: the searched one joined with a full one, if any."""
    space = spec.spaces[method]
    full = (spec.full_spaces or {}).get(method)
    if full is None:
        return space
    parameters: dict[str, Any] = {}
    for name, wide in full.parameters.items():
        narrow = space.parameters.get(name)
        parameters[name] = wide
        if isinstance(wide, Choice) and isinstance(narrow, Choice):
            choices = tuple(dict.fromkeys((*wide.choices, *narrow.choices)))
            parameters[name] = wide.model_copy(update={"choices": choices})
        elif (
            not isinstance(wide, (Choice, Fixed))
            and narrow is not None
            and not isinstance(narrow, (Choice, Fixed))
        ):
            ends = {"low": min(wide.low, narrow.low), "high": max(wide.high, narrow.high)}
            parameters[name] = wide.model_copy(update=ends)
    return SearchSpace(method=method, parameters=parameters)


def _sampling_steps(space: SearchSpace) -> SearchSpace:
    """The space with sampled instead of free steps, so that a point includes them."""
    if not space.free_steps:
        return space
    steps = space.parameters["steps"].model_copy(update={"free": False})
    return SearchSpace(method=space.method, parameters=space.parameters | {"steps": steps})
