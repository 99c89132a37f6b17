"""Study directories made by hand, through the ledger: real configurations, invented metrics, no
model."""

import hashlib
import json
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.event import (
    BaselineMeasured,
    BestWeightsKept,
    Event,
    Header,
    RowMeasured,
    SessionBegan,
    TrialAsked,
    TrialEnded,
)
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.location import fetched, opened
from ray_unlearn.store.object_events import event_object
from ray_unlearn.store.record import Record
from ray_unlearn.store.scan import events_file
from ray_unlearn.store.schema import Outcome
from ray_unlearn.store.storage import Storage, storage_at

EVALUATE_AT = (1, 2, 4)
LEARNING_RATE = {"type": "float", "low": 1e-5, "high": 1.0, "scale": "log"}


def spec() -> StudySpec:
    """A study of five trials of gradient ascent."""
    parameters = {
        "learning_rate": LEARNING_RATE,
        "steps": {"type": "int", "low": 1, "high": 4, "free": True},
    }
    return StudySpec.model_validate(
        {
            "name": "test",
            "model": {"source": "demo:shakespeare"},
            "data": {"source": "demo:shakespeare"},
            "methods": ["gradient_ascent"],
            "spaces": {"gradient_ascent": {"method": "gradient_ascent", "parameters": parameters}},
            "search": {"trials_per_method": 5},
            "evaluation": {"at": list(EVALUATE_AT)},
        }
    )


def trial_event(number: int) -> TrialAsked:
    config = TrialConfig(
        method="gradient_ascent",
        learning_rate=0.01 + number / 100,
        steps=4,
        evaluate_at=EVALUATE_AT,
        context="c",
    )
    source = "quasi_random" if number % 2 else "tpe"
    content = config.model_dump(mode="json")
    return TrialAsked(number=number, trial_id=config.id, source=source, config=content)


def row_event(number: int, update: int) -> RowMeasured:
    metrics = {
        "update": update,
        "score_selection": 1 / (1 + number + update),
        "forget_nll": 3.0,
        "grad_norm": 0.1 * update,
    }
    return RowMeasured(number=number, attempt=0, update=update, metrics=metrics)


def outcome_event(number: int, status: Outcome = "complete") -> TrialEnded:
    return TrialEnded(number=number, attempt=0, status=status, reason="")


def whole_trial(number: int, status: Outcome = "complete") -> list[Event]:
    """With all its rows when complete, with one row when it was pruned."""
    updates = EVALUATE_AT if status == "complete" else EVALUATE_AT[:1]
    return [
        trial_event(number),
        *(row_event(number, update) for update in updates),
        outcome_event(number, status),
    ]


def start(total: int) -> list[Event]:
    return [
        SessionBegan(host="h", pid=1, total=total),
        BaselineMeasured(name="vanilla", metrics={"forget_nll": 3.0, "grad_norm": 0.0}),
    ]


def interleaved() -> list[Event]:
    """Four trials on two lanes: complete, pruned, complete, and one that still runs."""
    a, b, c, d = whole_trial(0), whole_trial(1, "pruned"), whole_trial(2), whole_trial(3)
    first = [a[0], b[0], a[1], b[1], a[2], b[2], c[0], a[3]]
    return [*start(4), *first, c[1], a[4], c[2], d[0], c[3], d[1], c[4]]


def resealed(line: bytes) -> bytes:
    """A line that was edited, with the checksum of what it is now."""
    body = line[: line.rindex(b', "crc"')]
    return body + b', "crc": "%08x"}\n' % zlib.crc32(body)


def lines_of(study: Path) -> list[bytes]:
    """The lines of a study's file of events."""
    return events_file(study / "ledger").read_bytes().splitlines(keepends=True)


def written(study: Path, events: Iterable[Event]) -> Path:
    """A study directory with these events."""
    header = Header(spec=spec().model_dump(mode="json"), domain="test", context="c")
    with Ledger.create(study / "ledger", header) as ledger:
        for event in events:
            ledger.append(event)
    return study


def finished(study: Path) -> Path:
    """Three trials, all with their outcome, and the weights of the best row."""
    content = safetensors(b"12345678")
    name = "trials/best/0002-4.safetensors"
    sha256 = hashlib.sha256(content).hexdigest()
    kept = BestWeightsKept(number=2, update=4, file=name, sha256=sha256, bytes=len(content))
    events = [*whole_trial(0), *whole_trial(1, "pruned"), *whole_trial(2)]
    written(study, [*start(3), *events[:-1], kept, events[-1]])
    (study / name).parent.mkdir(parents=True)
    (study / name).write_bytes(content)
    return study


def put_events(storage: Storage, events: Path) -> None:
    """The events of a file as the objects of a study."""
    for number, line in enumerate(events.read_bytes().splitlines(keepends=True)):
        storage.write(event_object(number), line)


def begin(location: str, header: Header) -> None:
    """A study without events, as a process leaves it that ended at once."""
    with opened(location) as place:
        place.create_ledger(header).close()


def notes_at(location: str) -> list[str]:
    with fetched(location) as folder:
        return read_ledger(folder / "ledger").notes


def names_at(location: str, beginning: str) -> list[str]:
    """Of its files, those whose names begin so."""
    return [file.name for file in storage_at(location).files() if file.name.startswith(beginning)]


def safetensors(data: bytes, end: int | None = None) -> bytes:
    """One tensor of bytes."""
    span = [0, len(data) if end is None else end]
    header = json.dumps({"x": {"dtype": "U8", "shape": [len(data)], "data_offsets": span}}).encode()
    return len(header).to_bytes(8, "little") + header + data


def copied(study: Path, to: Path, content: bytes | None = None) -> Path:
    """The study once more, with other bytes as its events."""
    if to.exists():
        shutil.rmtree(to)
    shutil.copytree(study, to)
    if content is not None:
        events_file(to / "ledger").write_bytes(content)
    return to


def told(record: Record) -> dict[str, Any]:
    """All a record says but its notes, in plain values."""
    return {
        "header": record.header,
        "baselines": record.baselines,
        "sessions": record.sessions,
        "best_weights": record.best_weights,
        "trials": {
            number: (
                trial.trial_id,
                trial.config,
                trial.status,
                trial.reason,
                rows_of(record, number),
            )
            for number, trial in record.trials.items()
        },
    }


def rows_of(record: Record, number: int) -> list[dict[str, Any]]:
    return [dict(row.items()) for row in record.trials[number].rows]
