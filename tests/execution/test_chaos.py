"""`benchmarks/chaos.py`, which kills a study a thousand times when it is run by hand.

It goes on where it was, and what it would report is seen."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import chaos
import obstore
import pyarrow as pa
import pytest
from chaos_kinds import StoreServer, store_environment
from chaos_log import ChaosLog
from chaos_processes import began, free_port, marked
from chaos_watch import Watch
from object_store import BUCKET
from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store
from running import StudyFile

from ray_unlearn.store.schema import COLUMNS
from ray_unlearn.store.table import UNREPEATABLE

PROGRAM = Path(chaos.__file__)


def started(study: Path, out: Path, kills: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [
            sys.executable, str(PROGRAM), "--study", str(study), "--out", str(out),
            "--kills", str(kills), "--pieces", "own-ray",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def lines(out: Path, kind: str) -> list[dict[str, Any]]:
    path = out / "kills.jsonl"
    return ChaosLog(path).of(kind) if path.exists() else []


@pytest.mark.slow
def test_random_kills_lose_nothing_and_count_nothing_twice(
    study_of: StudyFile, tmp_path: Path
) -> None:
    """Three kills in two runs of the program: stopped after the first kill, it goes on with the
    same study, and leaves no process either time."""
    study, out = study_of(trials=1, steps=60), tmp_path / "out"
    process = started(study, out, kills=3)
    deadline = time.monotonic() + 300
    while not lines(out, "kill"):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert "the same command goes on" in said
    [first] = lines(out, "run")
    assert not marked(f"{first['mark']}-study")
    process = started(study, out, kills=3)
    said = process.communicate(timeout=900)[0]
    assert process.returncode == 0, said
    assert "3 kills" in said
    assert "0 violations" in said
    assert [line["piece"] for line in lines(out, "piece")] == [0], "the study that had been begun"
    [end] = lines(out, "end")
    assert end["rows"] >= 6, "two methods, three rows each, verified and compared"
    for line in lines(out, "run"):
        assert not marked(f"{line['mark']}-study")


def test_a_violation_is_an_exit_code(study_of: StudyFile, tmp_path: Path) -> None:
    ChaosLog(tmp_path / "kills.jsonl").add("violation", piece=0, what="a row is gone")
    process = started(study_of(), tmp_path, kills=0)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 1, said
    assert "a row is gone" in said


def test_another_value_is_seen_and_another_time_is_not() -> None:
    clock = sorted(UNREPEATABLE)[0]
    row = {name: 1.0 for name in COLUMNS} | {"study": "a", "number": 0, "update": 4, clock: 1.0}
    same, other = row | {clock: 2.0, "study": "b"}, row | {"forget_nll": 1.0 + 2**-50}
    table, *others = (pa.Table.from_pylist([one]) for one in (row, same, other))
    assert chaos.differing_cells(table, others[0]) == []
    [found] = chaos.differing_cells(table, others[1])
    assert found.startswith("trial 0 update 4 forget_nll")
    assert chaos.differing_cells(table, table.slice(0, 0)) == ["1 rows and 0 rows"]


def test_a_line_that_is_gone_is_seen(tmp_path: Path) -> None:
    """The ledger only grows: but for a torn tail, what was there once stays as it is."""
    path = tmp_path / "events.jsonl"
    watch = Watch(lambda: path if path.exists() else None, tmp_path / "trials")
    for content, lost in (
        ("one\n", False),
        ("one\ntwo\nto", False),
        ("one\ntwo\n", False),
        ("one\ntwo\nthree\n", False),
        ("one\nthree\nfour\nfive\n", True),
    ):
        path.write_text(content)
        watch.look()
        assert bool(watch.lost) is lost, content
    assert "line 2 of 3" in watch.lost


def test_what_the_store_has_answered_outlives_its_server(tmp_path: Path) -> None:
    """Else a kill of the server would lose what a study was right to count on."""
    mark, port = f"store-{tmp_path.name}", free_port()
    server, address = StoreServer(tmp_path, port, mark), store_environment(port)
    store = S3Store(
        BUCKET, endpoint=address["AWS_ENDPOINT_URL"], region="us-east-1",
        access_key_id="x", secret_access_key="y", client_options={"allow_http": True},
    )  # fmt: skip
    names = ["trials/best/0007-48-at-0.87.safetensors", "ledger/log/0000000001.jsonl"]
    try:
        server.start()
        for name in names:
            obstore.put(store, name, name.encode())
        chaos.end(marked(mark))
        server.start()
        assert bytes(obstore.get(store, names[0]).bytes()) == names[0].encode()
        with pytest.raises(AlreadyExistsError):
            obstore.put(store, names[0], b"other", mode="create")
        obstore.delete(store, names[1])
        chaos.end(marked(mark))
        server.start()
        assert [found["path"] for part in obstore.list(store) for found in part] == names[:1]
    finally:
        chaos.end(marked(mark))


def test_a_process_is_known_by_its_mark_and_its_start(tmp_path: Path) -> None:
    """Others run the same programs on this machine, and Linux reuses numbers."""
    environment = os.environ | {chaos.MARK: f"test-{tmp_path.name}"}
    child = [sys.executable, "-c", "import time; time.sleep(60)"]
    ours = subprocess.Popen(child, env=environment)
    others = subprocess.Popen(child)
    try:
        found = marked(f"test-{tmp_path.name}")
        assert found == {ours.pid: began(ours.pid)}
        chaos.end({others.pid: "another start", **found})
        assert ours.wait(timeout=60) == -signal.SIGKILL
        assert others.poll() is None
        assert not marked(f"test-{tmp_path.name}")
    finally:
        for process in (ours, others):
            process.kill()
            process.wait()


def test_a_torn_last_line_of_its_own_state_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "kills.jsonl"
    log = ChaosLog(path)
    log.add("piece", piece=0, name="warm")
    with open(path, "a") as file:
        file.write('{"kind": "ki')
    again = ChaosLog(path)
    again.add("end", piece=0, rows=3, seconds=1.0)
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == ["piece", "end"]
    assert again.next_piece == 1
