"""Feed every reader hostile files for some minutes, and print each broken promise once.

    python benchmarks/fuzz.py [--minutes 10] [--seed 0] [--only "study file"] [--keep FOLDER]

A promise (docs/security.md): whatever a file holds, its reader gives the right result or one of our
errors; no traceback, no hang, no file touched outside, no program run, nothing printed that a
terminal obeys. Exit code 1 if one was broken. Each example has a number, and
`--seed S --example N` repeats it alone.
"""

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parent.parent / "tests" / name) for name in ("", "hostile")]

from entrances import ENTRANCES, called, made_hostile, world  # noqa: E402
from guarded import BrokenPromise  # noqa: E402

SLOW_SHARE = 0.02
MEMORY = 3 * 2**30
"""Bytes that a call may take beyond what this process has when all is loaded."""


def main() -> None:
    """See the module's docstring."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        os.environ["RAY_UNLEARN_CACHE"] = str(folder / "cache")
        first = world(folder / "first")
        _limit_memory()
        end = time.monotonic() + 60 * options.minutes
        numbers = [options.example] if options.example is not None else iter(range(10**9))
        found: dict[str, str] = {}
        tried: Counter[str] = Counter()
        for number in numbers:
            if time.monotonic() > end:
                break
            which, broken = _example(options, folder, first, number)
            tried[which] += 1
            if broken and (place := _where(broken)) not in found:
                found[place] = broken
                print(f"--- example {number}\n{broken}", flush=True)
    print(f"{sum(tried.values())} examples, {len(found)} broken promises, seed {options.seed}")
    print(", ".join(f"{name} {count}" for name, count in sorted(tried.items())))
    sys.exit(1 if found else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--example", type=int, help="this one alone")
    parser.add_argument("--only", default="", help="entrances whose names begin so")
    parser.add_argument("--keep", type=Path, help="where hostile files are kept")
    return parser.parse_args()


def _example(
    options: argparse.Namespace, folder: Path, first: Path, number: int
) -> tuple[str, str]:
    """One hostile file and one reader of it; what the reader broke."""
    random = Random(f"{options.seed} {number}")
    entrance = random.choice([one for one in ENTRANCES if one.name.startswith(options.only)])
    quick = [name for name in entrance.calls if name not in entrance.slow]
    slow = not quick or random.random() < SLOW_SHARE
    if not quick and not options.only and random.random() > 10 * SLOW_SHARE:
        return entrance.name, ""
    name = random.choice(list(entrance.slow) if slow and entrance.slow else quick)
    copy = folder / "now"
    shutil.copytree(first.parent, copy, symlinks=True)
    place = copy / "world"
    _point_at(place, first)
    path = made_hostile(entrance, place, random)
    broken = ""
    try:
        called(entrance, place, name, f"{entrance.name}, {path.relative_to(place)}: {name}")
    except BrokenPromise as error:
        broken = str(error)
        if options.keep is not None and path.is_file() and not path.is_symlink():
            options.keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, options.keep / f"{number}-{path.name}")
    shutil.rmtree(copy)
    return entrance.name, broken


def _point_at(place: Path, first: Path) -> None:
    """The study files name the model and the texts of this copy."""
    for path in (place / "mine.yaml", place / "study/study.yaml"):
        path.write_text(path.read_text().replace(str(first), str(place)))


def _where(broken: str) -> str:
    """The line of the package where an error arose, which tells one fault from another."""
    lines = [line.strip() for line in broken.splitlines() if "/ray_unlearn/" in line]
    return lines[-1] if lines else broken[:80]


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
