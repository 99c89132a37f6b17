"""Two processes that write one study would ruin both. If these fail, a second `resume` does not
hear of the first."""

import errno
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store import lease
from ray_unlearn.store.event import Header, Note
from ray_unlearn.store.folder_log import FolderLog
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.scan import events_file
from ray_unlearn.store.storage import FolderStorage
from ray_unlearn.store.verify import verify

NOTE = Note(text="mine")


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / lease.LEASE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_second_writer_hears_who_holds_it_and_since_when(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, Header()):
        rewrite(tmp_path, started=time.time() - 7_200)
        with pytest.raises(
            StorageError, match=rf"process {os.getpid()} on host {socket.gethostname()}, for 2 h"
        ):
            Ledger.open(tmp_path)
    Ledger.open(tmp_path).close()


def test_without_locks_the_age_of_the_lease_decides_on_one_machine_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*what: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    folder = tmp_path / "ledger"
    with Ledger.create(folder, Header()):
        with pytest.raises(StorageError, match=r"another process is writing .* is dead, try again"):
            Ledger.open(folder)
        assert verify(tmp_path).running
    assert not verify(tmp_path).running
    Ledger.open(folder).close()
    rewrite(folder, released=False)
    old = time.time() - lease.EXPIRY_S - 5
    os.utime(folder / lease.LEASE_FILE, (old, old))
    Ledger.open(folder).close()


def test_a_killed_writer_on_this_machine_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from ray_unlearn.store.ledger import Ledger; "
        "from ray_unlearn.store.event import Header; "
        "Ledger.create(pathlib.Path(sys.argv[1]), Header()); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    with Ledger.open(tmp_path) as ledger:
        assert ledger.fence == 2
        assert ledger.record.notes == []


def test_a_writer_that_lost_the_study_cannot_append_and_the_new_one_loses_nothing(
    tmp_path: Path,
) -> None:
    """It slept through a partition: the other host could not see its lock, waited, and took
    over."""
    sleeper = Ledger.create(tmp_path, Header())
    sleeper.append(NOTE)
    assert sleeper.held
    rewrite(tmp_path, token=2, host="other")
    assert not sleeper.held, "it must not tidy up what is not its own any more"
    with pytest.raises(StorageError, match="lost the study to process"):
        sleeper.append(NOTE)
    assert len(read_ledger(tmp_path).notes) == 1
    sleeper.close()
    holder = lease.LeasePlace(FolderStorage(tmp_path), lease.LEASE_FILE).holder()
    assert holder is not None
    assert not holder.released, "what the new holder wrote into the lease stays"


def test_a_line_that_was_on_its_way_when_the_lease_was_lost_does_not_count(tmp_path: Path) -> None:
    """Between looking and writing there is always a moment."""
    sleeper = Ledger.create(tmp_path, Header())
    sleeper.append(NOTE)
    log = sleeper._log
    assert isinstance(log, FolderLog)
    log.check = lambda: None  # type: ignore[method-assign]
    unlocked = open(events_file(tmp_path), "ab", buffering=0)  # noqa: SIM115
    log._lines.close()
    log._lines.file = unlocked
    late = sleeper.append
    with Ledger.open(tmp_path) as ledger:
        ledger.append(Note("new holder"))
        late(Note("late"))
        ledger.append(Note("new holder again"))
    assert read_ledger(tmp_path).notes == [
        "mine",
        "new holder",
        "new holder again",
    ]
    with Ledger.open(tmp_path) as ledger:
        assert any("had lost the study" in text for text in ledger.found_at_opening), (
            ledger.found_at_opening
        )


def test_another_host_is_waited_for_until_it_is_silent_for_long(tmp_path: Path) -> None:
    Ledger.create(tmp_path, Header()).close()
    rewrite(tmp_path, host="elsewhere", released=False)
    with pytest.raises(
        StorageError, match=r"another host is writing.*elsewhere.*try again in \d+ s"
    ):
        Ledger.open(tmp_path)
    old = time.time() - lease.EXPIRY_S - 1
    os.utime(tmp_path / lease.LEASE_FILE, (old, old))
    with Ledger.open(tmp_path) as ledger:
        assert ledger.fence == 2


def test_a_released_lease_of_another_host_is_free_at_once(tmp_path: Path) -> None:
    Ledger.create(tmp_path, Header()).close()
    rewrite(tmp_path, host="elsewhere")
    Ledger.open(tmp_path).close()


def test_a_lost_lease_file_does_not_let_an_old_token_come_back(tmp_path: Path) -> None:
    Ledger.create(tmp_path, Header()).close()
    with Ledger.open(tmp_path) as ledger:
        assert ledger.fence == 2
        ledger.append(NOTE)
    (tmp_path / lease.LEASE_FILE).unlink()
    (tmp_path / "header.json").unlink()
    with Ledger.open(tmp_path) as ledger:
        assert ledger.fence == 3
        ledger.append(NOTE)
    assert len(read_ledger(tmp_path).notes) == 2
    assert (tmp_path / "header.json").read_bytes() == events_file(tmp_path).read_bytes().splitlines(
        keepends=True
    )[0]
