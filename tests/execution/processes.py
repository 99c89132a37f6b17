"""Which processes a test has started, told by number and start time: Linux reuses numbers."""

from pathlib import Path


def descendants(pid: int) -> dict[int, str]:
    """Process ids below `pid`, with the start time that tells a reused number apart."""
    found: dict[int, str] = {}
    parents: dict[int, list[tuple[int, str]]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents.setdefault(int(fields[1]), []).append((int(path.parent.name), fields[19]))
    waiting = [pid]
    while waiting:
        for child, began in parents.get(waiting.pop(), []):
            found[child] = began
            waiting.append(child)
    return found


def alive(processes: dict[int, str]) -> list[int]:
    def began(pid: int) -> str:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] == "Z" else fields[19]

    return [pid for pid, start in processes.items() if began(pid) == start]
