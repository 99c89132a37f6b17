"""Folders and object stores behind one interface, against a real S3 server; addresses that are
refused; failures that pass."""

import pickle
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from object_store import BUCKET, Store, object_store
from obstore.exceptions import (
    GenericError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from ray_unlearn.spec.errors import UserError
from ray_unlearn.store import object_access
from ray_unlearn.store.object_storage import ObjectStorage
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
        monkeypatch.setattr(object_access, "FIRST_PAUSE", timedelta(milliseconds=10))
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


def test_errors_that_do_not_pass_are_said_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    before = store.faults()["requests"]
    missing = ObjectStorage("s3://no-such-bucket/study")
    for ask in (missing.write, missing.create):
        with pytest.raises(OSError, match="make the bucket first"):
            ask("a", b"1")
    assert store.faults()["requests"] == before + 2, "asked again for what cannot come"
    with pytest.raises(OSError, match="is there such a bucket"):
        missing.files()
    with pytest.raises(FileNotFoundError):
        missing.put(Path("/nothing/there"), "a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    unreachable = ObjectStorage(f"s3://{BUCKET}/study")
    unreachable.patience_s = 1.0
    for ask in (unreachable.write, unreachable.create):
        with pytest.raises(OSError, match=r"after [1-9]\d* retries.*is the server reachable"):
            ask("a", b"1")


class Refusing:
    """A store that refuses every request."""

    def __init__(self, error: type[Exception]) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        def refuse(*what: object, **more: object) -> None:
            raise self._error("no")

        return refuse


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (PermissionDeniedError, "are there credentials for it here"),
        (UnauthenticatedError, "are there credentials for it here"),
        (NotSupportedError, "create an object only if it is absent"),
        (GenericError, "is the server reachable"),
    ],
)
def test_advice_follows_the_kind_of_error(error: type[Exception], advice: str) -> None:
    refused = ObjectStorage("s3://bucket/study", store=Refusing(error))
    asks: list[Callable[[], object]] = [
        refused.files,
        lambda: refused.read("a"),
        lambda: refused.about("a"),
        lambda: refused.write("a", b""),
        lambda: refused.create("a", b""),
        lambda: refused.remove("a"),
    ]
    for ask in asks:
        with pytest.raises(OSError, match=advice):
            ask()


def test_a_content_is_exchanged_only_for_the_one_that_was_read(storage: Storage) -> None:
    storage.write("a", b"one")
    assert not storage.exchange("a", b"other", b"two")
    assert storage.read("a") == b"one"
    assert storage.exchange("a", b"one", b"two")
    assert storage.read("a") == b"two"


def test_a_content_that_changes_while_it_is_exchanged_stays(store: Store, url: str) -> None:
    real = ObjectStorage(url)
    real.write("a", b"one")

    class Overtaken:
        """Another process writes between reading and writing."""

        def __getattr__(self, name: str) -> Any:
            def ask(*what: object, **more: object) -> object:
                answer = getattr(real._store(), name)(*what, **more)
                if name == "get":
                    content = answer.bytes()
                    real.write("a", b"good")
                    return SimpleNamespace(bytes=lambda: content, meta=answer.meta)
                return answer

            return ask

    assert not ObjectStorage(url, store=Overtaken()).exchange("a", b"one", b"two")
    assert real.read("a") == b"good"


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
        monkeypatch.setattr(object_access, "FIRST_PAUSE", timedelta(milliseconds=10))
        storage = storage_at(f"s3://{BUCKET}/study")
        for number in range(20):
            assert storage.create(f"n/{number:02d}", b"first %d" % number)
            assert not storage.create(f"n/{number:02d}", b"second %d" % number)
            assert storage.read(f"n/{number:02d}") == b"first %d" % number
        assert min(faulty.faults()[kind] for kind in ("500", "500 after it was done")) > 0
