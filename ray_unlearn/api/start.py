"""Ways to a `Study`: `run` one, or `open` one that exists."""

from ray_unlearn.api.given import Lanes, PathLike, Say, operations_given, voice
from ray_unlearn.api.guide import Guide, as_spec, narrow
from ray_unlearn.api.study_handle import Study
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.method_definition import Method
from ray_unlearn.spec.method_modules import load_user_methods
from ray_unlearn.spec.method_registry import METHODS
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.free_place import check_free
from ray_unlearn.store.location import opened, study_exists
from ray_unlearn.store.objective import Objective
from ray_unlearn.store.storage import checked_url, is_remote
from ray_unlearn.unlearn.named_files import check_named_files


def run(
    study: PathLike | StudySpec,
    location: PathLike | None = None,
    *,
    resume: bool = False,
    space_from: PathLike | Guide | None = None,
    likely: bool = False,
    lanes: Lanes = None,
    workers: int | None = None,
    address: str | None = None,
    quiet: bool = False,
    say: Say | None = None,
) -> Study:
    """Run a study from its file to its result table; Ctrl-C stops it cleanly.

    Args:
        study: a study file, or what `narrow` returns.
        location: where to keep the study: a folder, made if missing, or an address (`s3://`,
            `gs://`, `abfss://`); None: `results/<name of the study>`.
        resume: go on with the study if it exists already.
        space_from: guidelines of earlier studies (what `guidelines` returns, or a guidelines.json):
            search where they claim good regions, with a fifth of the trials in the full space.
        likely: with `space_from`, search likely ranges too.
        lanes: warm worker groups, or `auto` for as many as fit; None: the study file's.
        workers: workers per lane; None: the study file's.
        address: address of a Ray cluster; None: Ray on this machine, or the one that this process
            is connected to.
        quiet: show no progress and print no messages.
        say: called with each line of progress; None: the lines go to stderr.

    Returns:
        The study; `last_run` says how the run ended.

    Raises:
        UserError: wrong input, a study that exists already, lanes that cannot run. All checks that
            need no Ray are made before Ray starts.
        StorageError: the storage cannot be written, or its disk is nearly full.

    Examples:
        >>> study = ru.run("my_study.yaml", "results/my-study", lanes=2)
        >>> study.last_run.counts
        {'complete': 4}
    """
    # What can be refused without torch and ray is refused before they are imported.
    spec = as_spec(study, operations_given(lanes, workers))
    said = voice(say, quiet)
    if space_from is not None:
        spec = narrow(spec, space_from, likely=likely, say=said)
    handle = Study(f"results/{spec.name}" if location is None else location)
    if not (resume and study_exists(handle.location)):
        if is_remote(handle.location):
            checked_url(handle.location)
        else:
            with opened(handle.location) as place:
                check_free(place)
        Objective.of(spec)  # refuses a metric that rows do not have
        check_named_files(spec)
    from ray_unlearn.execution.study import resume_study, run_study

    if resume and study_exists(handle.location):
        result = resume_study(
            handle.location,
            expected=spec,
            operations=spec.operations.model_dump(),
            address=address,
            quiet=quiet,
            say=said,
        )
    else:
        result = run_study(spec, handle.location, address=address, quiet=quiet, say=said)
    return handle.after(result)


def open(location: PathLike) -> Study:
    """Open a study that exists: finished, stopped, or running elsewhere.

    Args:
        location: its folder, or its address (`s3://`, `gs://`, `abfss://`).

    Returns:
        The study. Nothing is written before `resume`, `confirm` or `repair` is called.

    Raises:
        UserError: no study there.
        StorageError: the object store cannot be read.

    Examples:
        >>> ru.open("results/my-study").best.score_reporting
        0.124
    """
    study = Study(location)
    if not study_exists(study.location):
        raise UserError(
            f"{study.location}: no study there (no ledger/events.jsonl); give the location of "
            "`ru.run`, or the folder of `ray-unlearn run --storage`"
        )
    return study


def methods() -> dict[str, Method]:
    """The unlearning methods that a study can search, the user's own among them.

    Returns:
        By name: the method's loss, its terms and its retain set.

    Raises:
        UserError: a module that `RAY_UNLEARN_METHODS` names cannot be imported.

    Examples:
        >>> ru.methods()["gradient_ascent"].loss
        '-NLL(U)'
    """
    load_user_methods()
    return dict(METHODS)
