"""A newcomer's first minutes, side by side with another commit's: set-up, first row, whole demo.

    python benchmarks/first_minutes.py 5970d1d HEAD          both in turn, 15 minutes on two cores
    python benchmarks/first_minutes.py 5970d1d HEAD --repeats 3 --empty-pip-cache

Each commit is cloned anew, with an empty cache of models, and gets `make setup` and `make demo`.
The second round goes the other way round. Prints a line per step, a table of medians with the
ratios of the last commit to the first, and the load of the machine before each step: ratios of one
run count, seconds of a shared machine do not. Exit code 1 where a step fails.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parents[1]
sys.path.append(str(HERE / "scripts"))

from timed_demo import timed_demo  # noqa: E402


class FirstMinutes(NamedTuple):
    """Seconds of one commit; the last two since `make demo`, with `.venv` set up."""

    setup: float
    first_row: float
    whole_demo: float


def main() -> int:
    """Measure all commits in turn; returns 1 where a step fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("commits", nargs=2, metavar="COMMIT", help="the older one first")
    parser.add_argument("--repeats", type=int, default=1, help="rounds; default: 1")
    parser.add_argument(
        "--empty-pip-cache", action="store_true", help="download or build every package again"
    )
    given = parser.parse_args()
    commits = [resolved(name) for name in given.commits]
    found: dict[str, list[FirstMinutes]] = {commit: [] for commit in commits}
    for round_number in range(given.repeats):
        for commit in commits if round_number % 2 == 0 else commits[::-1]:
            try:
                found[commit].append(measured(commit, given.empty_pip_cache))
            except (RuntimeError, subprocess.CalledProcessError) as error:
                print(f"{commit[:7]}: {error}", file=sys.stderr)
                return 1
    print(table(given.commits, [found[commit] for commit in commits]))
    return 0


def resolved(name: str) -> str:
    """The whole id of a commit; HEAD must not move while the first one is measured."""
    command = ["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: no such commit here")
    return done.stdout.strip()


def measured(commit: str, empty_pip_cache: bool) -> FirstMinutes:
    """Clone a commit, set it up and run its demo, all of it below a folder that is removed."""
    with tempfile.TemporaryDirectory(prefix="first-minutes-") as name:
        clone = Path(name) / "clone"
        cloned(commit, clone)
        environment = newcomers_environment(Path(name), empty_pip_cache)
        say(commit, "make setup")
        started = time.monotonic()
        subprocess.run(["make", "setup"], cwd=clone, env=environment, check=True)
        setup = time.monotonic() - started
        say(commit, f"set up in {setup:.0f} s; make demo")
        demo = timed_demo(["make", "demo"], clone, environment)
        say(commit, str(demo))
    return FirstMinutes(setup, demo.first_row_s, demo.whole_s)


def cloned(commit: str, target: Path) -> None:
    """A clone of this repository at a commit, which shares no file that is built."""
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(HERE), target], check=True)
    subprocess.run(["git", "checkout", "--quiet", "--detach", commit], cwd=target, check=True)
    if (target / ".venv").is_symlink():  # some commits hold one, to a folder of one machine
        (target / ".venv").unlink()


def newcomers_environment(folder: Path, empty_pip_cache: bool) -> dict[str, str]:
    """The variables of this process without our code, and with caches in which nothing is."""
    left_out = ("PYTHONPATH", "VIRTUAL_ENV", "RAY_ADDRESS", "MAKEFLAGS", "MAKELEVEL")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    caches = {"RAY_UNLEARN_CACHE": str(folder / "cache")}
    if empty_pip_cache:
        caches["PIP_CACHE_DIR"] = str(folder / "pip")
    return kept | caches


def say(commit: str, text: str) -> None:
    """Print a line at once, with the load of the machine."""
    print(f"{commit[:7]}: {text} (load {os.getloadavg()[0]:.1f})", flush=True)


def table(names: Sequence[str], found: Sequence[Sequence[FirstMinutes]]) -> str:
    """Medians of each commit, and the ratio of the last to the first, as Markdown.

    >>> print(table(["old", "new"], [[FirstMinutes(100, 50, 200)], [FirstMinutes(90, 25, 150)]]))
    | seconds | old | new | ratio |
    |---|---:|---:|---:|
    | setup | 100 | 90 | 0.90 |
    | first row | 50 | 25 | 0.50 |
    | whole demo | 200 | 150 | 0.75 |
    """
    lines = [f"| seconds | {' | '.join(names)} | ratio |", "|---|---:|---:|---:|"]
    for step in FirstMinutes._fields:
        medians = [statistics.median(getattr(one, step) for one in runs) for runs in found]
        cells = " | ".join(f"{median:.0f}" for median in medians)
        ratio = medians[-1] / medians[0]
        lines.append(f"| {step.replace('_', ' ')} | {cells} | {ratio:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
