"""Folders and object stores behind one interface, against a real S3 server; addresses that are
refused; failures that pass."""

import pickle
import threading
import time
from pathlib import Path

import pytest
from object_store import BUCKET, Store, object_store

from ray_unlearn.environment import Environment
from ray_unlearn.spec.errors import UserError
from ray_unlearn.store import object_storage as objects
from ray_unlearn.store.object_storage import ObjectStorage, remedy
from ray_unlearn.store.storage import (
    FolderStorage,
    Storage,
    below,
    checked_url,
    local_file,
    storage_at,
)


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, url: str, tmp_path: Path) -> Storage:
    return storage_at(tmp_path / "study" if request.param == "folder" else url)


def test_files_by_name(storage: Storage, tmp_path: Path) -> None:
    assert storage.files() == []
    before = time.time()
    storage.write("a/b.txt", b"one")
    storage.write("a/b.txt", b"three")
    (tmp_path / "c").write_bytes(bytes(12 * 2**20))  # several parts of a multipart upload
    storage.put(tmp_path / "c", "a/d/c.bin")
    storage.write("e", b"")
    found = storage.files()
    assert [(file.name, file.bytes) for file in found] == [
        ("a/b.txt", 5),
        ("a/d/c.bin", 12 * 2**20),
        ("e", 0),
    ]
    assert all(abs(file.modified - before) < 60 for file in found)
    assert [file.name for file in storage.files("a/d")] == ["a/d/c.bin"]
    assert storage.files("nothing/there") == []
    assert storage.read("a/b.txt") == b"three"
    storage.fetch("a/d/c.bin", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == bytes(12 * 2**20)
    with local_file(storage, "a/b.txt") as path:
        assert path.read_bytes() == b"three"
    storage.remove("a/b.txt")
    storage.remove("a/b.txt")  # nothing there: nothing happens
    assert [file.name for file in storage.files()] == ["a/d/c.bin", "e"]
    for ask in (lambda: storage.read("a/b.txt"), lambda: storage.fetch("a/b.txt", tmp_path / "x")):
        with pytest.raises(FileNotFoundError):
            ask()
    with pytest.raises(FileNotFoundError), local_file(storage, "a/b.txt"):
        pass
    sent = pickle.loads(pickle.dumps(storage))  # lanes on other machines get it so
    assert sent.read("e") == b""


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://key:secret@bucket/study", "credentials do not belong in an address"),
        ("s3://key@bucket/study", "credentials do not belong in an address"),
        ("s3://bucket/study?access_key=key&secret_key=s", "option 'access_key'"),
        ("s3:///study", "names no bucket"),
        ("s3://bucket", "a folder of its own below the bucket"),
        ("s3://bucket/", "a folder of its own below the bucket"),
        ("s3://bucket/a/../b", "'..' is no name"),
        ("s3://bucket/a//b", "'' is no name"),
        ("s3://bucket/a b", "'a b' is no name"),
        ("s4://bucket/study", "known: abfs, abfss, gs, s3"),
        ("https://bucket/study", "unknown kind of storage 'https'"),
        ("file:///tmp/study", "as a plain path: /tmp/study"),
    ],
)
def test_addresses_that_are_refused(url: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        storage_at(url)
    assert said in str(caught.value)
    assert "secret@" not in str(caught.value)
    assert "key:" not in str(caught.value)


def test_addresses() -> None:
    assert checked_url("s3://bucket/a/b/") == "s3://bucket/a/b"
    assert checked_url("gs://bucket/a") == "gs://bucket/a"
    azure = "abfss://container@account.dfs.core.windows.net/a"
    assert checked_url(azure) == azure
    assert (
        below("s3://bucket/a?region=eu-west-1", "confirm")
        == "s3://bucket/a/confirm?region=eu-west-1"
    )
    assert below("results/a", "confirm") == Path("results/a/confirm")
    assert isinstance(storage_at("results/a"), FolderStorage)


def test_errors_that_pass_are_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of all requests fail; some of them were carried out all the same. Every object is whole,
    once."""
    with object_store(
        "--errors", "0.25", "--slow", "0.1", "--slow-s", "0.3", "--seed", "3"
    ) as faulty:
        for name, value in faulty.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(objects, "FIRST_PAUSE_S", 0.01)
        storage = storage_at(f"s3://{BUCKET}/study")
        for number in range(20):
            storage.write(f"n/{number:02d}", b"%d" % number)
        assert [file.name for file in storage.files("n")] == [
            f"n/{number:02d}" for number in range(20)
        ]
        assert [storage.read(f"n/{number:02d}") for number in range(20)] == [
            b"%d" % number for number in range(20)
        ]
        faults = faulty.faults()
    assert min(faults["500"], faults["503"], faults["500 after it was done"], faults["slow"]) > 0, (
        faults
    )


def test_errors_that_do_not_pass_are_not(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    clock = Clock()
    missing = ObjectStorage("s3://no-such-bucket/study", clock)
    for ask in (missing.write, missing.create):
        with pytest.raises(OSError, match="make the bucket first"):
            ask("a", b"1")
    assert clock.pauses == [], "asked again for what cannot come"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    unreachable = ObjectStorage(f"s3://{BUCKET}/study", clock)
    unreachable.patience_s = 6.0
    for ask in (unreachable.write, unreachable.create):
        clock.pauses.clear()
        with pytest.raises(OSError, match="is the server reachable"):
            ask("a", b"1")
        assert len(clock.pauses) >= 2


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("error performing PUT http://127.0.0.1:403/b/401/a in 403.77ms: refused", "reachable"),
        ("error performing PUT http://h/b-403/a in 401ms, after 3 retries", "reachable"),
        ("Server returned non-2xx status code: 403 Forbidden: ", "credentials"),
        ("AWS Error UNKNOWN (HTTP status 401) during PutObject operation", "credentials"),
        ("google::cloud::Status(x error_info={http_status_code=403})", "credentials"),
        ("AWS Error ACCESS_DENIED during ListObjectsV2", "credentials"),
        ("AWS Error NO_SUCH_BUCKET during PutObject", "make the bucket first"),
    ],
)
def test_advice_follows_what_the_server_said_and_not_how_long_it_took(
    said: str, advice: str
) -> None:
    assert advice in remedy(OSError(said))


class Clock(Environment):
    """Time passes only in pauses, and at once."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return sum(self.pauses)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


def test_of_many_who_create_one_object_exactly_one_does(storage: Storage) -> None:
    """A study is begun by the object that its process creates: two would destroy each other."""
    made: list[int] = []

    def create(number: int) -> None:
        if storage.create("ledger/header.json", b"%d" % number):
            made.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = made
    assert storage.read("ledger/header.json") == b"%d" % winner
    assert storage.create("ledger/header.json", b"%d" % winner), "asked again for a lost answer"
    assert not storage.create("ledger/header.json", b"other")
    assert [file.name for file in storage.files()] == ["ledger/header.json"]


def test_creation_survives_answers_that_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with object_store("--errors", "0.3", "--seed", "5") as faulty:
        for name, value in faulty.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(objects, "FIRST_PAUSE_S", 0.01)
        storage = storage_at(f"s3://{BUCKET}/study")
        for number in range(20):
            assert storage.create(f"n/{number:02d}", b"first %d" % number)
            assert not storage.create(f"n/{number:02d}", b"second %d" % number)
            assert storage.read(f"n/{number:02d}") == b"first %d" % number
        assert min(faulty.faults()[kind] for kind in ("500", "500 after it was done")) > 0
