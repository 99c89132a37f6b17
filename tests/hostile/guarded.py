"""A call under guard: what a reader of hostile files may do, and a report of what it did else."""

import contextlib
import io
import os
import re
import signal
import sys
import tempfile
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray_unlearn.cli.main import main
from ray_unlearn.spec.errors import EXIT_STORAGE, EXIT_WRONG_INPUT, UserError

HANG_S = 300.0
"""Far beyond any of the calls, on a machine that is busy with others."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {
    "os.remove": 1, "os.rename": 2, "os.rmdir": 1, "os.mkdir": 1, "os.symlink": 2, "os.link": 2,
    "os.truncate": 1, "os.chmod": 1, "os.chown": 1, "os.utime": 1,
}  # fmt: skip
"""Events of Python's audit that change files, and how many of their arguments are paths."""
RUNS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class"}
CONNECTS = {"socket.connect", "socket.getaddrinfo"}


class BrokenPromise(AssertionError):
    """A reader did what docs/security.md says that none does."""


class Hang(BaseException):
    """Raised in a call that does not end; nothing catches it by mistake."""


class _Watch:
    """Python's audit of this process, while `on`."""

    def __init__(self) -> None:
        self.on = False
        self.allowed: tuple[str, ...] = ()
        self.seen: list[str] = []
        sys.addaudithook(self._look)

    def _look(self, event: str, given: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in RUNS or event in CONNECTS:
            self.seen.append(f"{event}{given!r:.200}")
        elif event == "open" and isinstance(given[2], int) and given[2] & WRITES:
            self._changes(event, given[0])
        elif event in CHANGES:
            for path in given[: CHANGES[event]]:
                self._changes(event, path, given[-1])

    def _changes(self, event: str, path: Any, folder: Any = -1) -> None:
        if isinstance(path, int) or path is None:
            return
        if isinstance(folder, int) and folder >= 0:  # `rmtree` names files by an open folder
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fsdecode(path))
        name = os.path.abspath(os.fsdecode(path))
        if not name.startswith(self.allowed):
            self.seen.append(f"{event} {name}")


_watch: list[_Watch] = []


def guarded(call: Callable[[], Any], world: Path, what: str) -> tuple[Any, str]:
    """What a call gives or, for one of our errors, None; and all that it printed.

    Args:
        call: reads files of `world`.
        world: folder that it may write to; beside it is `outside`, which it may not.
        what: names the call, for the report.

    Raises:
        BrokenPromise: another error, a hang, a file written or deleted elsewhere, a program
            started, a connection, characters that control a terminal.
    """
    if not _watch:
        _watch.append(_Watch())
    watch = _watch[0]
    caches = [str(Path.home() / name) for name in (".cache", ".config/matplotlib")]
    caches += [os.environ.get("RAY_UNLEARN_CACHE", "/dev/"), "/dev/"]
    own = tempfile.gettempdir()
    watch.allowed = (
        f"{world}/",
        f"{own}/ray-unlearn",
        f"{own}/tmp",
        f"{own}/torchinductor",
        *caches,
    )
    before, found, printed = _outside(world), None, io.StringIO()
    watch.seen = []
    try:
        with _limit(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            watch.on = True
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = call()
    except UserError as error:
        printed.write(str(error))
    except SystemExit as ended:
        found = ended.code
        if found not in (None, 0, EXIT_WRONG_INPUT, EXIT_STORAGE):
            raise BrokenPromise(f"{what}: exit code {found}: {printed.getvalue()}") from None
    except (Hang, Exception) as error:
        trace = "".join(traceback.format_exception(error)[-6:])
        raise BrokenPromise(f"{what}: {type(error).__name__}: {error}\n{trace}"[:6000]) from error
    finally:
        watch.on = False
    said = printed.getvalue()
    _check(what, said, watch.seen, before == _outside(world))
    return found, said


def command(*arguments: object) -> Callable[[], Any]:
    """The command line in this process; ends with SystemExit as it does."""

    def call() -> None:
        before = sys.argv
        sys.argv = ["ray-unlearn", *map(str, arguments)]
        try:
            main()
        finally:
            sys.argv = before

    return call


def _check(what: str, said: str, seen: list[str], outside_is_as_it_was: bool) -> None:
    if seen:
        raise BrokenPromise(f"{what}: did {seen[0]}")
    if not outside_is_as_it_was:
        raise BrokenPromise(f"{what}: changed a file outside")
    if "Traceback (most recent" in said:
        raise BrokenPromise(f"{what}: printed a traceback: {said[-2000:]}")
    if bad := controls(said):
        at = said.index(bad[0])
        raise BrokenPromise(f"{what}: printed {bad[0]!r}: {said[max(0, at - 80) : at + 40]!r}")
    if re.search(r"\d{20000}|x{50000}", said):
        raise BrokenPromise(f"{what}: printed a value of {len(said)} characters whole")


def controls(text: str) -> list[str]:
    """Characters that a terminal obeys, or that show a text in another order than it has."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return [one for one in text if one not in "\n\t" and unicodedata.category(one) in kinds]


def _outside(world: Path) -> dict[str, bytes | None]:
    folder = world.parent / "outside"
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@contextlib.contextmanager
def _limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang(f"no answer after {HANG_S:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
