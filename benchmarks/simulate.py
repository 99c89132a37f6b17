"""Simulate studies under faults: nothing acknowledged may be lost, doubled or unreadable.

    python benchmarks/simulate.py --faults 1000000 --seed 0
    python benchmarks/simulate.py --world folder --seed 17 --shrink      # one history, explained

The unmodified store and the core of a study run in one process, over simulated machines, disks and
object stores (docs/decisions/0027). Every history follows from its seed. The command prints faults
by kind, changes of holder, and what was broken, and exits with 1 if anything was.
"""

import argparse
import itertools
import multiprocessing
import sys
import time
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS / "simulation"), str(TESTS / "execution"), str(TESTS)]

from campaign import WORLDS, Tally, explained, one, seeds  # noqa: E402

SHOWN = 3
"""Failing histories that are shrunk and printed."""
NAMES = {"lost": "lost", "unreadable": "unreadable", "duplicates": "duplicate"}


def _one(given: tuple[str, int]) -> Tally:
    return one(*given)


def _histories(jobs: int, first: int, worlds: list[str]) -> Iterator[Tally]:
    wanted = (given for given in seeds(first) if given[0] in worlds)
    if jobs == 1:
        yield from map(_one, wanted)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        while True:
            yield from pool.imap_unordered(_one, itertools.islice(wanted, 64 * jobs), 4)


def _printed(tally: Tally, seconds: float) -> None:
    total = sum(tally.faults.values())
    print(f"{total:,} faults in {tally.histories:,} histories, {seconds:,.0f} s:")
    for kind, count in tally.faults.most_common():
        print(f"  {kind:<20} {count:>9,}")
    print(
        f"{tally.outcomes['acknowledged']:,} events acknowledged, {tally.holders:,} changes of "
        f"holder, {tally.outcomes['repaired']:,} repairs"
    )
    others = sum(count for rule, count in tally.broken.items() if rule not in NAMES.values())
    counted = {name: tally.broken[rule] for name, rule in NAMES.items()} | {"other rules": others}
    print(", ".join(f"{name}: {count}" for name, count in counted.items()))


def main() -> int:
    """Run histories until there were enough faults; 1 if a rule was broken."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--faults", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--world", choices=list(WORLDS), action="append")
    parser.add_argument("--shrink", action="store_true", help="explain one failing history")
    given = parser.parse_args()
    worlds = given.world or list(WORLDS)
    if given.shrink:
        print(explained(worlds[0], given.seed))
        return 1
    begun, tally = time.monotonic(), Tally()
    for found in _histories(given.jobs, given.seed, worlds):
        tally.add(found)
        if sum(tally.faults.values()) >= given.faults:
            break
    _printed(tally, time.monotonic() - begun)
    if tally.failing:
        print("failing: " + ", ".join(f"{kind} {seed}" for kind, seed in sorted(tally.failing)))
    for kind, seed in tally.failing[:SHOWN]:
        print(f"\n--world {kind} --seed {seed}\n{explained(kind, seed)}")
    return 1 if tally.failing else 0


if __name__ == "__main__":
    sys.exit(main())
