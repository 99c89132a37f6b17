"""What must hold before a release: the wheel works for somebody who has nothing but it.

    make release-check

Builds the source distribution, from that the wheel, and installs the wheel in a new virtual
environment without our constraints, as `pip install` does for a user. Only torch keeps its pin: any
other request may bring gigabytes of another build. The rest runs in an empty folder, the demo to
its end, with an empty cache. The files that GitHub reads are checked by the tools for them.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from pathlib import Path

from timed_demo import DemoTimes, timed_demo

REPOSITORY = Path(__file__).parent.parent
STUDY = """\
name: release-check
model: {source: demo:shakespeare}
data: {source: demo:shakespeare}
methods: [gradient_ascent]
search: {sampler: random, trials_per_method: 1}
"""
CHECKED_BY = {
    "check-jsonschema>=0.30": (
        "check-jsonschema", "--builtin-schema", "vendor.github-workflows", ".github/workflows/*.yml"
    ),
    "cffconvert>=2": ("cffconvert", "--validate", "--infile", "CITATION.cff"),
}  # fmt: skip
"""A package, and its command for files that others read; the two packages exclude each other."""
ADDRESSES = ("Repository", "Documentation", "Changelog", "Issues")
TABLE_ROW = re.compile(r"\| (?:[0-9-]+ to )?([0-9]{4}-[0-9]{2}-[0-9]{2}) \| (\w+) \| ([^|]*) \|")


def main() -> int:
    """Run all checks; returns 1 if something is not ready."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dist", type=Path, default=REPOSITORY / "dist", help="where wheels go")
    given = parser.parse_args()
    open_points = [
        *wrong_versions(REPOSITORY),
        *missing_addresses(REPOSITORY),
        *slow_tests_open(REPOSITORY, head()),
    ]
    with tempfile.TemporaryDirectory(prefix="release-check-") as folder:
        for number, (package, command) in enumerate(CHECKED_BY.items()):
            check_files(Path(folder) / f"tool-{number}", package, *command)
        wheel = built(Path(folder), given.dist)
        installed_s, demo = use_as_a_stranger(wheel, Path(folder))
    print(f"installed in {installed_s:.0f} s; {demo} (load {os.getloadavg()[0]:.1f})")
    for point in open_points:
        print(f"not ready: {point}")
    print(f"{wheel}: installs, and runs the demo" + ("" if open_points else "; ready"))
    return bool(open_points)


def wrong_versions(repository: Path) -> list[str]:
    """Where another version is written than in pyproject.toml, in words."""
    version = _found(repository / "pyproject.toml", r'(?m)^version = "([^"]+)"')
    others = {
        "ray_unlearn/__init__.py": r'(?m)^__version__ = "([^"]+)"',
        "CITATION.cff": r"(?m)^version: (\S+)",
        "CHANGELOG.md": r"(?m)^## (\S+)",
    }
    found = {name: _found(repository / name, pattern) for name, pattern in others.items()}
    return [
        f"{name} says {other}, pyproject.toml {version}"
        for name, other in found.items()
        if other != version
    ]


def missing_addresses(repository: Path) -> list[str]:
    """Addresses that a page of the package index should link to and does not, in words."""
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [f"pyproject.toml has no {name} in [project.urls]"
            for name in ADDRESSES if name not in project.get("urls", {})]  # fmt: skip


def slow_tests_open(repository: Path, commit: str) -> list[str]:
    """What the last line of docs/releases.md lacks for a release of this commit, in words."""
    rows = TABLE_ROW.findall((repository / "docs/releases.md").read_text(encoding="utf-8"))
    if not rows:
        return ["docs/releases.md has no line: run make test-slow"]
    date, tested, result = rows[-1]
    print(f"slow tests: {date}, commit {tested}: {result}")
    found = []
    if not re.search(r"\bpassed\b", result) or re.search(r"\b(failed|errors?)\b", result):
        found.append(f"the slow tests of {date} did not pass: {result}")
    if not commit.startswith(tested):
        found.append(f"the slow tests ran on {tested} ({date}), not on {commit[:7]}")
    return found


def head() -> str:
    """The commit that is checked out."""
    return _run(["git", "rev-parse", "HEAD"], REPOSITORY, capture=True).strip()


def built(folder: Path, dist: Path) -> Path:
    """The wheel, built from the source distribution so that nothing is missing in that."""
    python = new_environment(folder / "build")
    _run([python, "-m", "pip", "install", "--quiet", "build"], folder)
    shutil.rmtree(dist, ignore_errors=True)
    _run([python, "-m", "build", "--outdir", dist, REPOSITORY], folder)
    (wheel,) = dist.glob("*.whl")
    return wheel


def check_files(folder: Path, package: str, command: str, *arguments: str) -> None:
    """Run a tool on files of this repository, in an environment of its own."""
    python = new_environment(folder)
    _run([python, "-m", "pip", "install", "--quiet", package], REPOSITORY)
    *options, pattern = arguments
    files = sorted(map(str, REPOSITORY.glob(pattern)))
    _run([python.with_name(command), *options, *files], REPOSITORY)


def use_as_a_stranger(wheel: Path, folder: Path) -> tuple[float, DemoTimes]:
    """Install the wheel, and run what somebody would try first, where no checkout is in sight.

    Returns:
        The seconds that `pip install` took, and the demo's.
    """
    python = new_environment(folder / "user")
    pins = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    torch = folder / "torch.txt"
    torch.write_text("\n".join(pin for pin in pins if pin.startswith("torch==")) + "\n")
    started = time.monotonic()
    _run([python, "-m", "pip", "install", "--quiet", "--constraint", torch, wheel], folder)
    installed_s = time.monotonic() - started
    empty = folder / "empty"
    empty.mkdir()
    (empty / "study.yaml").write_text(STUDY, encoding="utf-8")
    command = python.with_name("ray-unlearn")
    for arguments in (["--version"], ["methods"], ["plan", "study.yaml"]):
        typed(command, arguments, empty)
    print("$ ray-unlearn demo", flush=True)
    cache = {"RAY_UNLEARN_CACHE": str(folder / "cache")}
    demo = timed_demo([command, "demo", "--storage", "results/demo"], empty, _elsewhere() | cache)
    for arguments in (["ls", "results"], ["verify", "results/demo"], ["report", "results/demo"]):
        typed(command, arguments, empty)
    return installed_s, demo


def typed(command: Path, arguments: list[str], folder: Path) -> None:
    """Show a command as a user types it, and run it."""
    print(f"$ ray-unlearn {' '.join(arguments)}", flush=True)
    _run([command, *arguments], folder)


def new_environment(folder: Path) -> Path:
    """The Python of a new virtual environment."""
    venv.create(folder, with_pip=True)
    return folder / "bin/python"


def _found(path: Path, pattern: str) -> str:
    match = re.search(pattern, path.read_text(encoding="utf-8"))
    return match[1] if match else "nothing"


def _elsewhere() -> dict[str, str]:
    """The variables of this process, without our checkout on Python's path."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _run(command: list[str | Path], folder: Path, capture: bool = False) -> str:
    """Run a command, which must succeed, without our checkout on its path."""
    done = subprocess.run(
        command, cwd=folder, env=_elsewhere(), text=True, check=True,
        stdout=subprocess.PIPE if capture else None,
    )  # fmt: skip
    return done.stdout or ""


if __name__ == "__main__":
    sys.exit(main())
