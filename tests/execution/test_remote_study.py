"""Whole studies in an object store: the same rows as in a folder, through server errors, kills, and
from another machine."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chaos
import pytest
from object_store import BUCKET, Store, object_store
from running import StudyFile, at_work, cli, until

from ray_unlearn.spec.errors import EXIT_INTERRUPTED, EXIT_STORAGE, EXIT_WRONG_INPUT
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.location import fetched
from ray_unlearn.store.storage import storage_at
from ray_unlearn.store.table import result_table
from ray_unlearn.store.verify import Verification, verify

REPOSITORY = Path(__file__).parent.parent.parent

FULL: dict[str, Any] = {"tensorboard": True, "checkpoint_every_s": 0.2}
LASTS_S = 20.0
"""Of a trial that is to be stopped: answers of the store take seconds, also to who watches, and a
lane does not wait for them. Five seconds were over before the first row was seen."""

SHORT = {"RAY_TMPDIR": "/tmp"}  # paths of sockets end at 107 bytes, wherever TMPDIR is


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """A server of which one request in twenty fails, and one in fifty is slow."""
    with object_store(
        "--errors", "0.05", "--slow", "0.02", "--slow-s", "2", "--seed", str(time.time_ns() % 1000)
    ) as running:
        yield running


@pytest.fixture(scope="module")
def steps(undisturbed: Path) -> int:
    """Of a trial whose updates alone take `LASTS_S` on this machine, whatever it is busy with."""
    trials = read_ledger(undisturbed / "ledger").trials.values()
    last = [trial.rows[-1] for trial in trials]
    seconds = sum(row["wall_s"] - row["evaluation_wall_s"] for row in last)
    pace = sum(row["update"] for row in last) / seconds
    return int(LASTS_S * pace)


@pytest.fixture(scope="module")
def long_undisturbed(
    study_of: StudyFile, steps: int, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A study of two such trials, run without any fault."""
    folder = tmp_path_factory.mktemp("long") / "study"
    chaos.undisturbed(study_of(trials=1, steps=steps), folder)
    return folder


@pytest.fixture(autouse=True)
def _reached(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)


def said(*arguments: str, code: int = 0, **environment: str) -> str:
    process = cli(*arguments, **SHORT | environment)
    text: str = process.communicate(timeout=300)[0]
    assert process.returncode == code, text
    return text


def checked(url: str) -> Verification:
    with fetched(url) as folder:
        return verify(folder, storage_at(url))


def same_rows(undisturbed: Path, url: str) -> None:
    with fetched(url) as folder:
        assert chaos.compare(undisturbed, folder) == []


@pytest.mark.slow
def test_a_study_in_an_object_store(
    study_of: StudyFile,
    undisturbed: Path,
    store: Store,
    tmp_path: Path,
    command: Callable[..., str],
) -> None:
    """Run, looked at, extended in vain, reported, exported, confirmed: by its address alone, with
    nothing left here."""
    url = f"s3://{BUCKET}/campaign/{tmp_path.name}"
    study = study_of(**FULL)
    text = said(
        "run", str(study), "--storage", url, "--quiet", TMPDIR=str(_made(tmp_path / "scratch"))
    )
    assert f"report with: ray-unlearn report {url}" in text
    same_rows(undisturbed, url)
    found, rows = checked(url), verify(undisturbed).rows
    assert (found.problems, found.complete, found.trials, found.rows) == ([], True, 4, rows)
    names = {
        name.removeprefix(f"campaign/{tmp_path.name}/")
        for name in store.names(f"campaign/{tmp_path.name}/")
    }
    assert {
        "study.yaml",
        "baselines.json",
        "ledger/rows.parquet",
        "ledger/baselines.parquet",
        "ledger/first_event.json",
        "optuna.journal",
        "live.json",
        "metrics.prom",
    } <= names
    assert any(name.startswith("tensorboard/0000-gradient_ascent/events") for name in names)
    assert not any(name.startswith("trials/0") for name in names), (
        "checkpoints of finished trials are of no use"
    )
    assert not any(name.endswith(".tmp") for name in names)
    everything = b"".join(storage_at(url).read(name) for name in sorted(names))
    assert b"testing-secret" not in everything
    assert str(tmp_path / "scratch").encode() not in everything, (
        "the working copy's place is nobody's business"
    )
    assert list((tmp_path / "scratch").glob("ray-unlearn*")) == []
    assert f"clean: 4 trials, {rows} rows" in command("verify", url)
    status = json.loads(command("status", url, "--json"))
    assert (status["folder"], status["finished"], status["rows"]) == (url, 4, rows)
    assert f"{url} holds a study already" in said(
        "run", str(study), "--storage", url, code=EXIT_WRONG_INPUT
    )
    assert "4 trials" in said("run", str(study), "--storage", url, "--resume", "--quiet")
    assert f"{url}/report/report.html" in command("report", url)
    assert f"campaign/{tmp_path.name}/report/report.html" in store.names()
    command("export", url, "-o", tmp_path / "rows.csv")
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == rows + 1
    assert "the weights that the study kept" in said(
        "export", url, "--trial", "best", "--anyway", "-o", str(tmp_path / "model")
    )
    said("confirm", url, "--seeds", "2", "--quiet")
    assert f"campaign/{tmp_path.name}/confirm/confirm.json" in store.names()
    assert checked(f"{url}/confirm").problems == []
    faults = store.faults()
    assert faults["500"] + faults["503"] + faults["500 after it was done"] > 10, faults


@pytest.mark.slow
def test_stopped_and_killed_it_goes_on_elsewhere(
    study_of: StudyFile, steps: int, long_undisturbed: Path, store: Store, tmp_path: Path
) -> None:
    """SIGTERM leaves a checkpoint in the store; SIGKILL leaves what was there. Both times another
    scratch folder (as on another machine) goes on from it."""
    url = f"s3://{BUCKET}/{tmp_path.name}"
    process = cli(
        "run",
        str(study_of(trials=1, steps=steps, **FULL)),
        "--storage",
        url,
        "--quiet",
        TMPDIR=str(_made(tmp_path / "one")),
        **SHORT,
    )
    until(lambda record: True, url, process)
    second = said("resume", url, code=EXIT_STORAGE)
    assert f"process {process.pid} on host" in second
    until(at_work, url, process)
    process.send_signal(signal.SIGTERM)
    text = process.communicate(timeout=120)[0]
    assert process.returncode == EXIT_INTERRUPTED, text
    found = checked(url)
    # Which trial it was is only known now: the one seen at work may have ended before the signal.
    [stopped] = found.unfinished
    assert (found.problems, found.running) == ([], "")
    assert any(
        name.startswith(f"{tmp_path.name}/trials/{stopped:04d}/last.") for name in store.names()
    )
    process = cli("resume", url, "--quiet", TMPDIR=str(_made(tmp_path / "two")), **SHORT)
    until(lambda record: [n for n in at_work(record) if n > stopped], url, process)
    process.kill()
    process.communicate()
    assert checked(url).problems == []
    said("resume", url, "--quiet", TMPDIR=str(_made(tmp_path / "three")))
    found = checked(url)
    assert (found.problems, found.complete) == ([], True)
    same_rows(long_undisturbed, url)
    with fetched(url) as folder:
        notes = [event for event in read_ledger(folder / "ledger").notes]
    assert any(
        text.startswith(f"trial {stopped} goes on from its checkpoint of update ") for text in notes
    ), notes


@pytest.mark.slow
def test_a_store_that_goes_away_stops_the_study_and_comes_back(
    study_of: StudyFile,
    steps: int,
    long_undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server is stopped (SIGSTOP: it accepts and never answers) in the middle of the study, for
    longer than its patience."""
    with object_store() as own:
        for name, value in own.environment.items():
            monkeypatch.setenv(name, value)
        url = f"s3://{BUCKET}/{tmp_path.name}"
        hasty = "from ray_unlearn.store import object_storage as o; o.PATIENCE_S = o.ANSWER_S = 3.0"
        process = cli(
            "run",
            str(study_of(trials=1, steps=steps, **FULL)),
            "--storage",
            url,
            "--quiet",
            setup=hasty,
        )
        until(at_work, url, process)
        os.kill(own.process.pid, signal.SIGSTOP)
        try:
            text = process.communicate(timeout=240)[0]
        finally:
            os.kill(own.process.pid, signal.SIGCONT)
        assert process.returncode == EXIT_STORAGE, text
        assert f"ray-unlearn resume {url}" in text
        assert "Traceback" not in text
        said("resume", url, "--quiet")
        found = checked(url)
        assert (found.problems, found.complete) == ([], True)
        same_rows(long_undisturbed, url)


@pytest.mark.slow
def test_another_study_is_not_taken_for_this_one(
    study_of: StudyFile, tmp_path: Path, store: Store
) -> None:
    """`run --resume` goes on with the study of the file, extends it when the file asks for more,
    and refuses another."""
    url = f"s3://{BUCKET}/{tmp_path.name}"
    study = study_of(steps=6, **FULL)
    said("run", str(study), "--storage", url, "--resume", "--quiet")
    study.write_text(study.read_text().replace("trials_per_method: 2", "trials_per_method: 3"))
    said("run", str(study), "--storage", url, "--resume", "--quiet")
    found = checked(url)
    assert (found.problems, found.complete, found.trials) == ([], True, 6)
    study.write_text(study.read_text().replace("sequence_length: 48", "sequence_length: 32"))
    text = said("run", str(study), "--storage", url, "--resume", "--quiet", code=EXIT_WRONG_INPUT)
    assert "data.sequence_length: 48 -> 32" in text
    with fetched(url) as folder:
        assert result_table(read_ledger(folder / "ledger")).num_rows == 18


def test_what_cannot_be_reached_is_refused_at_once(study_of: StudyFile, store: Store) -> None:
    text = said(
        "run", str(study_of(**FULL)), "--storage", "s3://no-such-bucket/study", code=EXIT_STORAGE
    )
    assert "make the bucket first" in text
    assert "credentials do not belong" in said("status", "s3://k:s@b/study", code=EXIT_WRONG_INPUT)
    assert "no study there" in said("status", f"s3://{BUCKET}/nothing", code=EXIT_WRONG_INPUT)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.slow
def test_the_whole_demo_through_errors_and_slow_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make demo`, but for its storage: one request in ten fails, one in fifty takes 4 s."""
    with object_store(
        "--errors", "0.1", "--slow", "0.02", "--slow-s", "4", "--seed", str(time.time_ns() % 1000)
    ) as bad:
        for name, value in bad.environment.items():
            monkeypatch.setenv(name, value)
        url = f"s3://{BUCKET}/demo"
        began = time.monotonic()
        process = cli("run", str(REPOSITORY / "studies" / "demo.yaml"), "--storage", url)
        text = process.communicate(timeout=3600)[0]
        assert process.returncode == 0, text[-3000:]
        found, faults = checked(url), bad.faults()
        print(
            f"{found.trials} trials, {found.rows} rows in {time.monotonic() - began:.0f} s; "
            f"{faults}"
        )
        assert (found.problems, found.complete, found.trials) == ([], True, 21)
        assert (
            min(faults["500"], faults["503"], faults["500 after it was done"], faults["slow"]) > 5
        ), faults
        assert not [name for name in bad.names("demo/trials/") if "/best/" not in name]
        said("report", url)
