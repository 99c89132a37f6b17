"""What is checked before a study starts or goes on: that it can run, and is what it was."""

import os
from collections.abc import Sequence

import ray

from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.row_tasks import RowTask, task_digests
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.user_methods import source_digests
from ray_unlearn.store.event import Header
from ray_unlearn.store.location import StudyFiles
from ray_unlearn.unlearn.admission import Admission, admission, readmission
from ray_unlearn.unlearn.data import StudyData
from ray_unlearn.unlearn.machine import Machine, free_disk_gib, machine_here
from ray_unlearn.unlearn.model import model_digest
from ray_unlearn.unlearn.plan import disk_bytes

SMALLEST_FREE_BYTES = 200 * 2**20


def admitted(spec: StudySpec, data: StudyData, address: str | None, place: StudyFiles) -> Admission:
    """The checks of a study that begins.

    Its room is looked at where it is to run on this machine alone. The target is measured by the
    first lane.

    Raises:
        UserError: the study cannot run, or it wants GPUs that are not there.
    """
    found = admission(spec, _machine(address, place), data=data, measures=False)
    found.refuse()
    _refuse_without_gpus(found)
    return found


def readmitted(
    spec: StudySpec, address: str | None, place: StudyFiles, has_trials_left: bool
) -> Admission:
    """The checks of a study that goes on, perhaps elsewhere, before its data are read.

    Args:
        spec: the study.
        address: of the Ray cluster that it runs on; None: this machine.
        place: where the study is.
        has_trials_left: whether lanes will start; a study without any needs no room.

    Raises:
        UserError: as in `admitted`.
    """
    machine = _machine(address, place) if has_trials_left else None
    found = readmission(spec, machine, has_trials_left)
    found.refuse()
    _refuse_without_gpus(found)
    return found


def _machine(address: str | None, place: StudyFiles) -> Machine | None:
    """This machine, where a study is to run on it alone."""
    alone = address is None and not ray.is_initialized() and "RAY_ADDRESS" not in os.environ
    return machine_here(place.folder.absolute()) if alone else None


def _refuse_without_gpus(found: Admission) -> None:
    for finding in found.states("no room"):
        if finding.what == "GPUs":
            raise UserError(str(finding))


def check_disk(place: StudyFiles, spec: StudySpec) -> None:
    """Refuse a disk that the study would fill; a torn study is worse than none."""
    folder = place.folder
    there = (
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if folder.exists()
        else 0
    )
    needed = max(SMALLEST_FREE_BYTES, 0 if place.storage.remote else disk_bytes(spec) - there)
    free = free_disk_gib(folder.absolute()) * 2**30
    if free < needed:
        raise StorageError(
            f"{folder}: {free / 2**20:.0f} MiB free, the study may need {needed / 2**20:.0f} "
            "MiB; free some space"
        )


def check_unchanged(header: Header, spec: StudySpec, data: StudyData) -> None:
    """Refuse other data, another model, or other sources than a study began with.

    Raises:
        UserError: what has changed; its trials could not be compared.
    """
    _check_same_data(header, data)
    _check_same_model(header, spec.model)
    _check_same_methods(header, spec.methods)
    _check_same_tasks(header, spec.evaluation.tasks)


def _check_same_data(header: Header, data: StudyData) -> None:
    """Refuse other data than the study began with, by its digest or, begun long ago, the former."""
    if header.data_digest in (data.digest, data.former_digest):
        return
    began = header.split_digests
    changed = [name for name, now in data.split_digests.items() if began.get(name, now) != now]
    where = f"the documents or tokens of {', '.join(changed)}" if changed else "the data"
    _refuse_other(where, "data", header.data_digest, data.digest)


def _check_same_model(header: Header, model: ModelSpec) -> None:
    began, now = header.model_digest, model_digest(model)
    if began not in (now, model_digest(model, former=True)):
        _refuse_other("the model", "model", began, now)


def _check_same_methods(header: Header, methods: Sequence[str]) -> None:
    now = source_digests(methods)
    for name, began in header.methods.items():
        if now.get(name) != began:
            _refuse_other(f"the source of method {name!r}", "source", began, now.get(name, "none"))


def _check_same_tasks(header: Header, tasks: Sequence[RowTask]) -> None:
    now = task_digests(tasks)
    for name, began in header.tasks.items():
        if now.get(name) != began:
            _refuse_other(f"the task file {name!r}", "file", began, now.get(name, "none"))


def _refuse_other(where: str, what: str, began: str, now: str) -> None:
    verb = "have" if where.startswith("the documents") else "has"
    raise UserError(
        f"{where} {verb} changed since the study began (digest {began}, now {now}): its trials "
        f"could not be compared; put the {what} back, or start a new study with `ray-unlearn run`"
    )
