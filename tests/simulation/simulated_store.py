"""A simulated object store, and the network in front of it that is not to be trusted.

It has obstore's methods and raises `obstore.exceptions`. The store itself is what S3, Google Cloud
Storage and Azure promise today: an object is whole, reads see all finished writes, and of many
`create`s of one name one succeeds.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from machines import Machines, Program
from obstore.exceptions import AlreadyExistsError, GenericError, PreconditionError
from scheduler import EPOCH

ANSWER_S = 30.0
"""Seconds after which a client gives a request up."""
LATEST_S = 240.0
"""Seconds after which a request that got stuck may still take effect."""
NETWORK = (
    "stopped before", "stopped after", "error before", "error after", "slow", "stuck",
    "killed before", "killed after",
)  # fmt: skip


class ObjectStore:
    """Objects by name, each with the time of its last change.

    Args:
        machines: the clock, and what goes wrong.
        retries: times that a client makes a failed request again, as obstore does.
    """

    def __init__(self, machines: Machines, retries: int = 0) -> None:
        self.machines = machines
        self.retries = retries
        self.objects: dict[str, tuple[bytes, float, int]] = {}
        """Content, time of the last change, and its number."""
        self.requests = 0
        self._changes = 0

    def create(self, path: str, content: bytes) -> None:
        """Make an object unless there is one."""
        if path in self.objects:
            raise AlreadyExistsError(f"Object at location {path} already exists")
        self.replace(path, content)

    def replace(self, path: str, content: bytes) -> None:
        """Make or replace an object."""
        self._changes += 1
        self.objects[path] = (content, self.machines.now, self._changes)

    def exchange(self, path: str, content: bytes, e_tag: str) -> None:
        """Replace an object that has not changed since."""
        if path not in self.objects or self.about(path)["e_tag"] != e_tag:
            raise PreconditionError(f"{path} has changed")
        self.replace(path, content)

    def about(self, path: str) -> dict[str, Any]:
        """What `head` says."""
        if path not in self.objects:
            raise FileNotFoundError(f"Object at location {path} not found")
        content, changed, number = self.objects[path]
        return {
            "path": path,
            "last_modified": datetime.fromtimestamp(EPOCH + changed, UTC),
            "size": len(content),
            "e_tag": f'"{number}"',
            "version": None,
        }


class Answered:
    """obstore's `GetResult`."""

    def __init__(self, content: bytes, meta: dict[str, Any]) -> None:
        self._content = content
        self.meta = meta

    def bytes(self) -> bytes:
        return self._content

    def stream(self, min_chunk_size: int = 0) -> Iterator[bytes]:
        yield self._content


class Client:
    """One process's way to the store."""

    def __init__(self, store: ObjectStore, program: Program) -> None:
        self._store = store
        self._program = program

    def put(self, path: str, file: Any, *, mode: Any = "overwrite", **_: Any) -> dict[str, Any]:
        """Make an object; `create`: if there is none; with an `e_tag`: if it is that one still."""
        content = file if isinstance(file, bytes) else Path(file).read_bytes()

        def write() -> None:
            match mode:
                case "create":
                    self._store.create(path, content)
                case "overwrite":
                    self._store.replace(path, content)
                case _:
                    self._store.exchange(path, content, mode["e_tag"])

        self._request(write, writes=True)
        return {"e_tag": None, "version": None}

    def get(self, path: str, **_: Any) -> Answered:
        """An object's content."""

        def read() -> Answered:
            meta = self._store.about(path)
            return Answered(self._store.objects[path][0], meta)

        return self._request(read)

    def head(self, path: str) -> dict[str, Any]:
        """An object's size and age."""
        return self._request(lambda: self._store.about(path))

    def list(
        self, prefix: str | None = None, *, offset: str | None = None, **_: Any
    ) -> Iterator[Sequence[dict[str, Any]]]:
        """Objects below a prefix, after `offset`, in pages."""

        def page() -> list[dict[str, Any]]:
            under = f"{prefix.rstrip('/')}/" if prefix else ""
            names = sorted(n for n in self._store.objects if n.startswith(under))
            return [self._store.about(n) for n in names if offset is None or n > offset]

        yield self._request(page)

    def delete(self, paths: str | Sequence[str]) -> None:
        """Delete objects; nothing happens where there is none."""

        def remove() -> None:
            for path in [paths] if isinstance(paths, str) else paths:
                self._store.objects.pop(path, None)

        self._request(remove, writes=True)

    def _request(self, effect: Callable[[], Any], writes: bool = False) -> Any:
        for again in range(self._store.retries, -1, -1):
            try:
                return self._attempt(effect, writes)
            except GenericError:
                if not again:
                    raise
            self._program.sleep(self._store.machines.random.uniform(0.1, 10.0))
        raise AssertionError

    def _stopped(self, effect: Callable[[], Any], seconds: float) -> Any:
        """The process is stopped while its request is answered."""
        try:
            return effect()
        finally:
            self._program.stop(seconds)

    def _attempt(self, effect: Callable[[], Any], writes: bool) -> Any:
        machines, program = self._store.machines, self._program
        faults, chance = machines.faults, machines.random
        self._store.requests += 1
        latency = chance.uniform(0.002, 0.05)
        if program.home.cut_until > machines.now:
            program.sleep(min(ANSWER_S, program.home.cut_until - machines.now + 0.1))
            raise GenericError("Generic S3 error: no answer")
        kinds = NETWORK if writes else ("stopped before", "error before", "slow", "killed before")
        fault = faults.strike(*kinds)
        program.disturbed |= bool(fault)
        match fault:
            case "stopped before":
                program.stop(chance.choice([5, 70, 130, 200]))
            case "stopped after":
                return self._stopped(effect, chance.choice([5, 70, 130, 200]))
            case "error before":
                program.sleep(latency)
                raise GenericError("Generic S3 error: HTTP status 503 before")
            case "error after":
                program.sleep(latency)
                _ignoring_conflict(effect)
                program.sleep(latency)
                raise GenericError("Generic S3 error: HTTP status 500 after")
            case "slow":
                latency = chance.uniform(1.0, ANSWER_S)
            case "stuck":
                late_s = chance.uniform(ANSWER_S, LATEST_S)
                machines.scheduler.loop.call_later(late_s, _ignoring_conflict, effect)
                program.sleep(ANSWER_S)
                raise GenericError("Generic S3 error: operation timed out")
            case "killed before":
                program.kill()
            case "killed after":
                program.sleep(latency)
                _ignoring_conflict(effect)
                program.kill()
        program.sleep(latency)
        answer = effect()
        program.sleep(latency)
        return answer


def _ignoring_conflict(effect: Callable[[], Any]) -> None:
    with suppress(AlreadyExistsError, PreconditionError):
        effect()
