"""The system calls that the package makes, so that a simulated disk has a say in each."""

import errno
import fcntl
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from disk import Disk

WRITES = ("killed before", "disk full", "disk error", "killed inside")


class SimulatedFile(io.FileIO):
    """A file without a buffer, in which a write can fail anywhere."""

    def __init__(self, disk: Disk, path: Any, mode: str) -> None:
        super().__init__(path, mode.replace("b", ""))
        self._disk = disk

    def write(self, data: Any, /) -> int:
        fault = self._disk.occasion(*WRITES)
        return _torn_write(self._disk, fault, data, super().write)

    def truncate(self, size: int | None = None, /) -> int:
        self._fail(self._disk.occasion("killed before", "disk error"))
        return super().truncate(size)

    def _fail(self, fault: str) -> None:
        if fault:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def _torn_write(disk: Disk, fault: str, data: Any, write: Callable[[Any], int]) -> int:
    """Write all, or a part and then fail."""
    if not fault:
        return write(data)
    write(bytes(data)[: disk.random.randint(0, max(0, len(data) - 1))])
    if fault == "killed inside":
        disk.kill()
    code = errno.ENOSPC if fault == "disk full" else errno.EIO
    raise OSError(code, os.strerror(code))


class _Locks:
    """In place of the module `fcntl`."""

    LOCK_EX, LOCK_NB, LOCK_UN, LOCK_SH = fcntl.LOCK_EX, fcntl.LOCK_NB, fcntl.LOCK_UN, fcntl.LOCK_SH

    def __init__(self, disk: Disk) -> None:
        self.flock = disk.flock


@contextmanager
def mounted(disk: Disk) -> Iterator[None]:
    """A context in which the package's system calls below the disk's folder pass through it."""
    modules = [
        vars(module)
        for name, module in list(sys.modules.items())
        if name.startswith("ray_unlearn.store.") and module is not None
    ]
    opened = _opened(disk)
    with mock.patch.multiple(Path, **_of_paths(disk)), mock.patch.multiple(os, **_of_os(disk)):
        for names in modules:
            names["open"] = opened
            if "fcntl" in names:
                names["fcntl"] = _Locks(disk)
        try:
            yield
        finally:
            for names in modules:
                del names["open"]
                if "fcntl" in names:
                    names["fcntl"] = fcntl


def _opened(disk: Disk) -> Callable[..., Any]:
    def opened(file: Any, mode: str = "r", buffering: int = -1, **more: Any) -> Any:
        if not disk.holds(file):
            return open(file, mode, buffering, **more)
        disk.occasion("killed before")
        if buffering != 0 or mode == "rb":
            return open(file, mode, buffering, **more)
        return SimulatedFile(disk, file, mode)

    return opened


def _of_paths(disk: Disk) -> dict[str, Any]:
    """Methods of `Path`."""

    def before(name: str, *kinds: str, stamps: bool = False) -> Any:
        real = getattr(Path, name)

        def call(path: Path, *args: Any, **more: Any) -> Any:
            if not disk.holds(path):
                return real(path, *args, **more)
            if disk.occasion("killed before", *kinds):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            answer = real(path, *args, **more)
            if stamps:
                disk.stamp(path)
            return answer

        return call

    write_bytes = Path.write_bytes

    def write(path: Path, data: bytes) -> int:
        if not disk.holds(path):
            return write_bytes(path, data)
        fault = disk.occasion(*WRITES)
        done = _torn_write(disk, fault, data, lambda part: write_bytes(path, part))
        disk.stamp(path)
        return done

    return {
        "write_bytes": write,
        "read_bytes": before("read_bytes"),
        "replace": before("replace", "disk error"),
        "rename": before("rename", "disk error"),
        "unlink": before("unlink"),
        "touch": before("touch", "disk error", stamps=True),
        "mkdir": before("mkdir", "disk error"),
    }


def _of_os(disk: Disk) -> dict[str, Any]:
    """Functions of `os`."""
    link, utime, pwrite = os.link, os.utime, os.pwrite

    def simulated_link(source: Any, target: Any, **more: Any) -> None:
        if disk.holds(source) and disk.occasion("killed before", "disk error"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        link(source, target, **more)

    def simulated_utime(path: Any, times: Any = None, **more: Any) -> None:
        if times is None and not more and disk.holds(path):
            disk.occasion("killed before")
            times = disk.times
        utime(path, times, **more)

    def simulated_pwrite(handle: int, data: bytes, offset: int) -> int:
        disk.occasion("killed before")
        return pwrite(handle, data, offset)

    return {"link": simulated_link, "utime": simulated_utime, "pwrite": simulated_pwrite}
