"""Shrinks a failing history to few faults and little time."""

from collections.abc import Callable
from typing import Protocol

from faults import Faults
from oracle import Oracle

MOST_RUNS = 150


class Judged(Protocol):
    """A world that has been run."""

    faults: Faults
    oracle: Oracle
    duration_s: float
    trace: list[tuple[float, int, str]]

    @property
    def digest(self) -> str:
        """Of its history."""


Run = Callable[[frozenset[int] | None, float | None], Judged]
"""Runs a seed's world with these faults only, for so long."""


def shrunk(run: Run, most_runs: int = MOST_RUNS) -> Judged:
    """The shortest history found that breaks the rule which the whole one breaks first.

    Zeller's delta debugging over the faults, after the time has been cut.
    """
    whole = run(None, None)
    rule = _first_rule(whole)
    assert rule, "this history breaks no rule"
    best, runs = whole, 0

    def fails(allowed: list[int], duration_s: float) -> bool:
        nonlocal best, runs
        runs += 1
        world = run(frozenset(allowed), duration_s)
        if _first_rule(world) != rule:
            return False
        best = world
        return True

    parts = 2
    fails(whole.faults.fired, whole.oracle.broken_at)
    while runs < most_runs and best.faults.fired:
        fired = best.faults.fired
        duration_s = min(best.duration_s, best.oracle.broken_at)
        size = -(-len(fired) // parts)
        chunks = [fired[at : at + size] for at in range(0, len(fired), size)]
        rest = ([n for n in fired if n not in chunk] for chunk in chunks)
        if any(runs < most_runs and fails(kept, duration_s) for kept in rest):
            parts = max(2, parts - 1)
        elif size == 1:
            break
        else:
            parts = min(len(fired), 2 * parts)
    return best


def _first_rule(world: Judged) -> str:
    return world.oracle.violations[0].partition(":")[0] if world.oracle.violations else ""


def history(world: Judged, most: int = 40) -> str:
    """A history for people: its faults, its last steps and what it breaks."""
    lines = [
        f"{at:10.3f} s  {f'process {pid}: ' if pid else ''}{text}"
        for at, pid, text in world.trace
        if at <= world.oracle.broken_at
    ]
    left_out = [f"({len(lines) - most} steps before)"] if len(lines) > most else []
    counted = ", ".join(f"{n} {kind}" for kind, n in sorted(world.faults.counts.items()))
    return "\n".join(
        [
            f"faults: {counted or 'none'}",
            *left_out,
            *lines[-most:],
            *world.oracle.violations[:3],
            f"digest {world.digest}",
        ]
    )
