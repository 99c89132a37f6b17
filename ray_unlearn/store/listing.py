"""The studies below a folder or an address, one line each.

A study's driver leaves its counts in `live.json`. Where that is as new as the ledger, the ledger is
not read; where it is not (no such file, a driver that was killed), it is.
"""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.store.event_line import decoded
from ray_unlearn.store.live import LIVE_FILE, Live, age_s, parsed_live, read_live, sign_of_life
from ray_unlearn.store.location import HASTY_S, fetched
from ray_unlearn.store.object_events import EVENTS
from ray_unlearn.store.object_storage import ObjectStorage
from ray_unlearn.store.scan import events_file, lines_of, read_acknowledged
from ray_unlearn.store.status import Follower
from ray_unlearn.store.storage import below, checked_url, is_remote
from ray_unlearn.store.stored_file import Stored

_log = logging.getLogger(__name__)
StudyState = Literal["running", "silent", "finished", "stopped", "broken"]
"""`silent`: its driver has neither ended nor been heard of for a minute."""
_IN_A_STUDY = re.compile(rf"(.*?)/?({EVENTS}/\d+\.jsonl|ledger/segments/.+)")
_NUMBER = re.compile(r"(\d+)\.jsonl")
_ITS_OWN = frozenset(("ledger", "trials", "tensorboard", "report", "__pycache__"))
"""Folders that hold no studies, and may hold thousands of files."""


@dataclass(frozen=True)
class ListedStudy:
    """What one line of the list says of a study."""

    name: str
    """Its place below the one that is listed; `.` for that place itself."""
    location: str
    state: StudyState
    finished: int = 0
    """Trials with an outcome."""
    asked_for: int | None = None
    """Trials of the whole study; None for ledgers that do not record it."""
    best: float | None = None
    """Lowest score of all methods, on the selection half."""
    method: str = ""
    """The method of that score."""
    age_s: float | None = None
    """Seconds since the last sign of life."""
    size_bytes: int = 0
    problem: str = ""
    """Why a broken study cannot be read."""


def listed(place: str, environment: Environment = REAL) -> list[ListedStudy]:
    """The studies below a place, by name.

    Raises:
        UserError: no such folder, or not an address.
        StorageError: the object store cannot be listed.
    """
    if is_remote(place):
        return list(_remote(place, environment))
    top = Path(place).expanduser()
    if not top.is_dir():
        raise UserError(f"{top}: no such folder")
    _log.info("look for studies below %s", top)
    found = (_local(top, folder, environment) for folder in _folders(top))
    return sorted(found, key=lambda study: study.name)


def _folders(top: Path) -> Iterator[Path]:
    """Study directories: each has a ledger. Links are not followed, hidden folders left out."""
    for folder, names, _ in os.walk(top):
        if "ledger" in names and (Path(folder) / "ledger").is_dir():
            yield Path(folder)
            names[:] = [name for name in names if name not in _ITS_OWN]
        names[:] = [name for name in names if not name.startswith(".")]


def _local(top: Path, folder: Path, environment: Environment) -> ListedStudy:
    _log.info("look at the study in %s", folder)
    name = folder.relative_to(top).as_posix()
    bare = ListedStudy(name, str(folder), "broken", size_bytes=_size(folder))
    if problem := _damage(folder):
        return replace(bare, problem=problem)
    return _described(bare, folder, read_acknowledged(folder / "ledger") + 1, environment)


def _size(folder: Path) -> int:
    """Bytes of all files below, without what is deleted meanwhile."""
    total = 0
    for above, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(above, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _damage(folder: Path) -> str:
    """What the two ends of the ledger show without the rest of it; empty for nothing."""
    path = events_file(folder / "ledger")
    try:
        first = next(lines_of(path), None)
    except OSError as error:
        return f"{path.relative_to(folder)}: {error.strerror}"
    if first is None:
        return "ledger/events.jsonl is empty"
    if decoded(first[1], path, 0) is None:
        return f"the ledger's first line is damaged; ray-unlearn verify {folder}"
    return ""


def _remote(place: str, environment: Environment) -> Iterator[ListedStudy]:
    path = urlsplit(place).path.strip("/")
    address = checked_url(place) if path else checked_url(str(below(place, "any")))
    top = str(below(address, "")) if path else address.replace("/any", "", 1)
    storage = ObjectStorage(top.rstrip("/"), environment)
    storage.patience_s = HASTY_S
    try:
        files = storage.files()
    except OSError as error:
        raise StorageError(str(error)) from None
    studies = _by_study(files)
    for name, (events, own) in sorted(studies.items()):
        location = str(below(address if path else top, *filter(None, name.split("/"))))
        size = sum(file.bytes for file in own)
        bare = ListedStudy(name or ".", location, "broken", size_bytes=size)
        yield _fetched(bare, storage, name, events, environment)


def _by_study(files: list[Stored]) -> dict[str, tuple[int, list[Stored]]]:
    """By the name of each study: the number of its events, and its files."""
    events: dict[str, int] = {}
    for file in files:
        if match := _IN_A_STUDY.fullmatch(file.name):
            number = _NUMBER.search(match[2])
            last = int(number[1]) + 1 if number and match[2].startswith(EVENTS) else 0
            events[match[1]] = max(events.get(match[1], 0), last)
    own: dict[str, list[Stored]] = defaultdict(list)
    for file in files:
        for name in events:
            if not name or file.name.startswith(f"{name}/"):
                own[name].append(file)
    return {name: (count, own[name]) for name, count in events.items()}


def _fetched(
    bare: ListedStudy, storage: ObjectStorage, name: str, events: int, environment: Environment
) -> ListedStudy:
    """A remote study: its `live.json` alone, or where that is behind, a copy of its ledger."""
    try:
        live = parsed_live(storage.read(f"{name}/{LIVE_FILE}".lstrip("/")))
    except FileNotFoundError:
        live = None
    except OSError as error:
        return replace(bare, problem=str(error))
    if live is not None and _as_new(live, events, environment):
        return _of_live(bare, live, environment)
    try:
        with fetched(bare.location) as folder:
            return _of_ledger(bare, folder, environment)
    except (UserError, OSError) as error:
        return replace(bare, problem=str(error))


def _described(
    bare: ListedStudy, folder: Path, events: int, environment: Environment
) -> ListedStudy:
    try:
        live = read_live(folder)
        if live is not None and _as_new(live, events, environment):
            return _of_live(bare, live, environment)
        return _of_ledger(bare, folder, environment)
    except (UserError, OSError) as error:
        return replace(bare, problem=str(error))


def _as_new(live: Live, events: int, environment: Environment) -> bool:
    """Whether the driver's report is as new as the ledger; a running one is seconds behind."""
    running = sign_of_life(live, age_s(live, environment.now())) == "running"
    return running or live.events == events


def _of_live(bare: ListedStudy, live: Live, environment: Environment) -> ListedStudy:
    age = age_s(live, environment.now())
    sign, finished = sign_of_life(live, age), sum(live.outcomes.values())
    method = min(live.best, key=live.best.__getitem__, default="")
    ended: StudyState = "finished" if finished >= live.asked_for else "stopped"
    return replace(
        bare,
        state=sign if sign in ("running", "silent") else ended,
        finished=finished,
        asked_for=live.asked_for,
        best=live.best.get(method),
        method=method,
        age_s=age,
    )


def _of_ledger(bare: ListedStudy, folder: Path, environment: Environment) -> ListedStudy:
    found = Follower(folder, environment=environment).poll()
    best = min(found.best, key=lambda one: one.score, default=None)
    done = found.asked_for is not None and found.finished >= found.asked_for
    ended: StudyState = "finished" if done else "stopped"
    age = found.age_s
    if age is None:
        try:
            age = max(0.0, environment.time() - events_file(folder / "ledger").stat().st_mtime)
        except OSError:
            age = None
    return replace(
        bare,
        state=found.driver if found.driver in ("running", "silent") else ended,
        finished=found.finished,
        asked_for=found.asked_for,
        best=best.score if best else None,
        method=best.method if best else "",
        age_s=age,
    )
