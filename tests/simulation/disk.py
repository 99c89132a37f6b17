"""A simulated disk: real files in memory, of which a power cut takes what was not synced.

System calls of the code under test pass here. Each is an occasion for another process to run, for
an error, and for a kill, and a power cut leaves what `fsync` has put on disk: contents of files,
and names in folders, each by itself. What was not synced survives in part: torn, filled with
zeros, or under its old name.
"""

import errno
import os
import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from machines import Machines, Program
from scheduler import EPOCH

Tree = dict[str, "bytes | Tree"]
PREEMPTED = 0.05
"""Share of system calls at which another process may run first."""


class Disk:
    """The files below `root`.

    Args:
        root: an empty folder, best in memory.
        machines: the processes that use it.
        locks: `all` processes see each other's locks, only those of one `host`, or `none`.
    """

    def __init__(self, root: Path, machines: Machines, locks: str = "all") -> None:
        self.root = root
        self._under = f"{root}/"
        self._machines = machines
        self._locks = locks
        self._locked: dict[tuple[int, str], tuple[Program, Any]] = {}
        self._contents: dict[int, bytes] = {}
        """By inode, what of a file is on disk."""
        self._names: dict[int, dict[str, int]] = {}
        """By inode of a folder, the entries on disk."""

    # -- what reaches the disk ---------------------------------------------------------------------

    def fsync(self, handle: int) -> None:
        """`Environment.fsync`."""
        program = self._machines.acting
        fault = self.occasion("killed before", "disk error", "killed after", "slow")
        if fault == "slow":
            self._machines.scheduler.sleep(self._machines.random.uniform(1, 40))
        if fault == "disk error":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        about = os.fstat(handle)
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            self._names[about.st_ino] = {e.name: e.inode() for e in os.scandir(handle)}
        else:
            with open(f"/proc/self/fd/{handle}", "rb", buffering=0) as file:
                self._contents[about.st_ino] = file.read()
        if fault == "killed after" and program is not None:
            program.kill()

    def power_cut(self) -> None:
        """What was not synced is lost, or torn. All processes are dead already."""
        survivors = self._survivors(self.root)
        shutil.rmtree(self.root)
        self._contents.clear()
        self._names.clear()
        self._locked.clear()
        self._write(self.root, survivors)

    def _survivors(self, folder: Path) -> Tree:
        chance = self._machines.faults.random
        inode = folder.stat().st_ino
        now = {entry.name: entry for entry in os.scandir(folder)}
        synced = self._names.get(inode, {})
        found: Tree = {}
        for name in sorted(now.keys() | synced.keys()):
            entry = now.get(name)
            inode = -1 if entry is None else entry.inode()
            before = synced.get(name)
            if before != inode and chance.random() < 0.5:
                if before is not None and before in self._contents:
                    found[name] = self._contents[before]
            elif entry is not None and entry.is_dir():
                found[name] = self._survivors(folder / name)
            elif entry is not None:
                found[name] = self._torn(self._contents.get(inode, b""), folder / name)
        return found

    def _torn(self, synced: bytes, path: Path) -> bytes:
        now = path.read_bytes()
        chance = self._machines.faults.random
        if now == synced:
            return now
        part = chance.randint(min(len(synced), len(now)), len(now))
        match chance.randrange(4):
            case 0:
                return now[:part]
            case 1:
                return now[:part] + bytes(len(now) - part)
            case 2:
                return now
        return synced

    def _write(self, folder: Path, tree: Tree) -> None:
        folder.mkdir()
        for name, content in tree.items():
            if isinstance(content, dict):
                self._write(folder / name, content)
            else:
                (folder / name).write_bytes(content)
                self.stamp(folder / name)
                self._contents[(folder / name).stat().st_ino] = content
        self._names[folder.stat().st_ino] = {e.name: e.inode() for e in os.scandir(folder)}

    def damage(self, path: Path, content: bytes) -> None:
        """Replace the content of a file, on disk too, as a failing disk does."""
        with open(path, "r+b") as file:
            file.write(content)
            file.truncate()
        self._contents[path.stat().st_ino] = content

    # -- system calls ------------------------------------------------------------------------------

    def occasion(self, *kinds: str) -> str:
        """Another process may run first, and something may go wrong."""
        machines = self._machines
        program = machines.acting
        if program is None:
            return ""
        if program.home.cut_until > machines.now:
            # A hard mount: the call waits until the server is back.
            machines.scheduler.sleep(program.home.cut_until - machines.now)
        elif machines.random.random() < PREEMPTED:
            machines.scheduler.sleep(machines.random.expovariate(100))
        fault = machines.faults.strike("stopped inside", *kinds)
        match fault:
            case "stopped inside":
                program.stop(machines.random.choice([5, 70, 130, 200]))
                return ""
            case "killed before":
                program.kill()
            case _:
                program.disturbed |= bool(fault)
        return fault

    @property
    def random(self) -> random.Random:
        """What decides how much of a write is done."""
        return self._machines.faults.random

    @property
    def times(self) -> tuple[float, float]:
        """Times of a file that is changed now, by the clock of the file system."""
        now = EPOCH + self._machines.now
        return now, now

    def kill(self) -> None:
        """Kill the process that makes this call."""
        program = self._machines.acting
        assert program is not None
        program.kill()

    def stamp(self, path: Path) -> None:
        """A file's time of change is by the clock of the file system."""
        os.utime(path, self.times)

    def flock(self, file: Any, flags: int) -> None:
        """In place of `fcntl.flock`."""
        self.occasion("killed before")
        program = self._machines.acting
        if program is None:
            return
        if self._locks == "none":
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        where = program.home.name if self._locks == "host" else ""
        lock = os.fstat(file.fileno()).st_ino, where
        holder, held = self._locked.get(lock, (None, None))
        if holder is not None and holder.alive and not held.closed:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
        self._locked[lock] = program, file

    def holds(self, path: Any) -> bool:
        """Whether a file is on this disk, and a simulated process asks."""
        return self._machines.acting is not None and os.fspath(path).startswith(self._under)


def close_handles_below(root: Path) -> None:
    """Close what killed processes held open; file objects are closed with their last reference."""
    for handle in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            path = os.readlink(f"/proc/self/fd/{handle}")
            if path.startswith(f"{root}/") and path.removesuffix(" (deleted)").endswith(
                "acknowledged"
            ):
                os.close(int(handle))
