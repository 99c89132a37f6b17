"""What must hold before a release: the wheel works for somebody who has nothing but it.

    make release-check

Builds the source distribution, from that the wheel, and installs the wheel in a new virtual
environment without our constraints, as `pip install` does for a user. Only torch keeps its pin: any
other request may bring gigabytes of another build. The rest runs in an empty folder.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
STUDY = """\
name: release-check
model: {source: demo:shakespeare}
data: {source: demo:shakespeare}
methods: [gradient_ascent]
space_overrides:
  learning_rate: 5e-4
  steps: {type: int, low: 1, high: 4, free: true}
search: {sampler: random, trials_per_method: 1}
evaluation: {at: [2, 4]}
"""
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
        wheel = built(Path(folder), given.dist)
        use_as_a_stranger(wheel, Path(folder))
    for point in open_points:
        print(f"not ready: {point}")
    print(f"{wheel}: installs, and runs a study" + ("" if open_points else "; ready"))
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


def use_as_a_stranger(wheel: Path, folder: Path) -> None:
    """Install the wheel, and run what somebody would try first, where no checkout is in sight."""
    python = new_environment(folder / "user")
    pins = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    torch = folder / "torch.txt"
    torch.write_text("\n".join(pin for pin in pins if pin.startswith("torch==")) + "\n")
    _run([python, "-m", "pip", "install", "--quiet", "--constraint", torch, wheel], folder)
    empty = folder / "empty"
    empty.mkdir()
    (empty / "study.yaml").write_text(STUDY, encoding="utf-8")
    command = python.with_name("ray-unlearn")
    for arguments in (
        ["--version"],
        ["methods"],
        ["plan", "study.yaml"],
        ["run", "study.yaml", "--storage", "results/one", "--quiet"],
        ["ls", "results"],
        ["verify", "results/one"],
        ["report", "results/one"],
    ):
        print(f"$ ray-unlearn {' '.join(arguments)}", flush=True)
        _run([command, *arguments], empty)


def new_environment(folder: Path) -> Path:
    """The Python of a new virtual environment."""
    venv.create(folder, with_pip=True)
    return folder / "bin/python"


def _found(path: Path, pattern: str) -> str:
    match = re.search(pattern, path.read_text(encoding="utf-8"))
    return match[1] if match else "nothing"


def _run(command: list[str | Path], folder: Path, capture: bool = False) -> str:
    """Run a command, which must succeed, without our checkout on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, check=True,
        stdout=subprocess.PIPE if capture else None,
    )  # fmt: skip
    return done.stdout or ""


if __name__ == "__main__":
    sys.exit(main())
