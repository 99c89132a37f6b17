"""The real log in an object store, led along the steps of the small model.

Each process is a greenlet that runs the package's own code up to its next request for a number, and
waits there. A step of the model then says what becomes of the request: it takes effect, its answer
arrives, it is refused, its sender gives up and it takes effect later. Everything else that the code
asks of the store is answered at once, by obstore's own store in memory.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from all_states import Model
from greenlet import getcurrent, greenlet
from log_state import State
from obstore.exceptions import AlreadyExistsError, GenericError
from obstore.store import MemoryStore

from ray_unlearn.environment import Environment
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.event import Header, LedgerOpened, Note
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.object_events import EVENTS, event_object, read_events
from ray_unlearn.store.object_log import ObjectLog
from ray_unlearn.store.object_storage import ObjectStorage
from ray_unlearn.store.scan import events_file, scanned

URL = "s3://bucket/study"
LONGEST = 20
"""Events after which a process stops that nothing has stopped."""


class Still(Environment):
    """A machine whose clock stands, and on which every other process seems to be dead.

    So the lease lets everybody in, and lines differ by nothing but what makes them unique.
    """

    names = 0
    host = "host"
    pid = 1

    def time(self) -> float:
        return 1e9

    def sleep(self, seconds: float) -> None:
        """Nothing: nobody writes a lease meanwhile."""

    def is_alive(self, pid: int) -> bool:
        return False

    def unique_name(self, digits: int = 12) -> str:
        Still.names += 1
        return f"{Still.names:0{digits}x}"

    def fsync(self, handle: int) -> None:
        """Nothing: no power cut here."""

    def map(self, call: Callable[[Any], Any], items: Any, threads: int) -> list[Any]:
        return [call(item) for item in items]

    def start_thread(self, target: Callable[[], None], name: str) -> Any:
        return Never()


class Never:
    """A thread that does nothing: the lease is not renewed."""

    def join(self) -> None:
        """At once."""


class Asked:
    """A request for a number, on its way."""

    def __init__(self, path: str, content: bytes) -> None:
        self.path = path
        self.content = content

    @property
    def number(self) -> int:
        return int(Path(self.path).stem)


class Stepped:
    """obstore's methods; a request for an event's object waits for the model."""

    def __init__(self, inner: MemoryStore) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def put(self, path: str, content: bytes, **how: Any) -> Any:
        if not path.startswith(EVENTS) or how.get("mode") != "create":
            return self._inner.put(path, content, **how)
        answer = getcurrent().parent.switch(Asked(path, content))
        if answer is not None:
            raise answer
        return None


@dataclass
class Driven:
    """A process: its greenlet and the request that it waits for."""

    run: greenlet
    asked: Asked | None
    """None: it has stopped."""


class World:
    """A store and its processes, which follow the model step by step."""

    def __init__(self, folder: Path, processes: int, *, answers_lost: bool) -> None:
        self.store = MemoryStore()
        self.processes: list[Driven | None] = [None] * processes
        self.late: dict[tuple[int, int], bytes] = {}
        self._answers_lost = answers_lost
        """Each answer is lost once: the request is made again, and finds its own object."""
        self._folder = folder
        self._storage = ObjectStorage(URL, Still(), Stepped(self.store))

    def _life(self) -> None:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            if not self.numbers():
                log = ObjectLog.begun(self._storage, folder, Still())
                ledger = Ledger.begun(log, Header(), Still())
            else:
                log = ObjectLog.opened(self._storage, folder, Still())
                ledger = Ledger.continued(log, Still())
        except StorageError:
            return
        try:
            for _ in range(LONGEST):
                ledger.append(Note("an event"))
        except StorageError:
            # Stopped for good: a second try asks the store for nothing.
            try:
                ledger.append(Note("one more"))
            except StorageError:
                return

    def opens(self, who: int, number: int) -> None:
        run = greenlet(self._life)
        self.processes[who] = Driven(run, run.switch())
        self._expects(who, number)

    def lands(self, who: int) -> None:
        """The request takes effect; no answer yet."""
        asked = self._of(who).asked
        self.store.put(asked.path, asked.content, mode="create")

    def answers(self, who: int, next_number: int) -> None:
        """The request's answer arrives: it has taken effect."""
        self._resumed(who, AlreadyExistsError("there already") if self._answers_lost else None)
        self._expects(who, next_number)

    def refuses(self, who: int) -> None:
        """The request arrives, and its number is taken: the process must stop."""
        asked = self._of(who).asked
        try:
            self.store.put(asked.path, asked.content, mode="create")
        except AlreadyExistsError as refusal:
            self._resumed(who, refusal)
        self._stopped(who)

    def header_refused(self, who: int) -> None:
        """The header is there: the same bytes, so the process goes on to its session event."""
        self._resumed(who, AlreadyExistsError("there already"))
        self._expects(who, 1)

    def gives_up(self, who: int, writer: int) -> None:
        """No answer for two minutes: the process must stop. Its request is on its way."""
        asked = self._of(who).asked
        self.late[asked.number, writer] = asked.content
        self._resumed(who, GenericError("no answer"))
        self._stopped(who)

    def lands_late(self, number: int, writer: int) -> None:
        self.store.put(event_object(number), self.late[number, writer], mode="create")

    def _of(self, who: int) -> Driven:
        driven = self.processes[who]
        assert driven is not None
        return driven

    def _resumed(self, who: int, answer: Exception | None) -> None:
        driven = self._of(who)
        driven.asked = driven.run.switch(answer)

    def _expects(self, who: int, number: int) -> None:
        asked = self._of(who).asked
        assert asked is not None, "the process has stopped, and the model's goes on"
        assert asked.number == number

    def _stopped(self, who: int) -> None:
        assert self._of(who).asked is None, "the process asks for more, and the model's has stopped"
        self.processes[who] = None

    def numbers(self) -> list[int]:
        return sorted(int(Path(one["path"]).stem) for one in _listed(self.store))

    def writers(self) -> tuple[int, ...]:
        """The writer at each number as a reader finds it, named as in the model."""
        if not self.numbers():
            return ()
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        lines = [line for _, line in read_events(self._storage, environment=Still())]
        events_file(folder).write_bytes(b"".join(lines))
        scan = scanned(folder)
        left_out = [*scan.stale, *scan.damaged, *scan.missing]
        assert not left_out, "a reader leaves an event out"
        names, found = {}, []
        for entry in scan.entries:
            if isinstance(entry.event, LedgerOpened):
                assert entry.fence not in names, "two sessions have one fence"
                names[entry.fence] = 2 * entry.seq
            found.append(names.get(entry.fence, 0) if entry.seq else 0)
        assert [entry.seq for entry in scan.entries] == self.numbers()
        return tuple(found)


def _listed(store: MemoryStore) -> Iterator[Any]:
    for page in store.list(EVENTS):
        yield from page


def follow(world: World, model: Model[State], path: list[tuple[tuple[object, ...], State]]) -> None:
    """Lead the real code along a path of the model; after each step the two must agree.

    Raises:
        AssertionError: they do not.
    """
    state, order = model.start, tuple(range(len(model.start.processes)))
    for step, end in path:
        who, raw = next(
            (who, raw)
            for what, who, raw in model.steps(state)
            if what == step and model.same(raw)[0] == end
        )
        _one(world, order[who] if who >= 0 else -1, step, state, raw, who)
        state, moved = model.same(raw)
        order = tuple(order[at] for at in moved)
        assert world.writers() == state.log, step


def _one(
    world: World, real: int, step: tuple[object, ...], before: State, after: State, who: int
) -> None:
    words = " ".join(str(word) for word in step if isinstance(word, str))
    process = before.processes[who] if who >= 0 else ()
    number = next((word for word in step if isinstance(word, int)), 0)
    if words in ("begins", "opens: reads events"):
        world.opens(real, number)
    elif words == "header takes number":
        world.lands(real)
        world.answers(real, 1)
    elif words == "header is there, same bytes":
        world.header_refused(real)
    elif words.endswith(" takes number") and who >= 0:
        world.lands(real)
    elif words.endswith("is acknowledged"):
        world.answers(real, number + 1)
    elif words.startswith("is refused number"):
        world.refuses(real)
    elif words.startswith("dies"):
        world.gives_up(real, _writer(process))
    else:
        assert words == "a late request takes number", step
        world.lands_late(number, after.log[number])


def _writer(process: tuple[object, ...]) -> int:
    if process[0] == "session":
        return 2 * process[1]
    return process[1] if process[0] == "append" else 0
