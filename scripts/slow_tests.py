"""Run every slow test and write down, in docs/releases.md, that it was done.

    make test-slow

A release needs a line with its own commit in that table.
"""

import argparse
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
RECORD = REPOSITORY / "docs" / "releases.md"
HEADING = """# Releases

Before a release every slow test runs: `make test-slow` (about an hour on two cores). It adds a line
here, also when it fails. Skipped tests need what that machine lacks: a GPU, Slurm, sshd.

| date | commit | result | seconds |
|---|---|---|---|
"""


def main() -> int:
    """Run the tests and add the line; returns pytest's exit code."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    command = [sys.executable, "-m", "pytest", "-m", "slow", "tests"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        print(line, end="", flush=True)
        last = line if line.strip() else last
    code = process.wait()
    result, seconds = outcome(last)
    if not RECORD.exists():
        RECORD.write_text(HEADING)
    with RECORD.open("a") as record:
        record.write(f"| {datetime.now(UTC):%Y-%m-%d} | {commit()} | {result} | {seconds} |\n")
    return code


def outcome(last: str) -> tuple[str, str]:
    """What pytest counted, and the seconds it took, from its last line.

    >>> outcome("==== 1 failed, 3 passed, 2 skipped in 3723.40s (1:02:03) ====")
    ('1 failed, 3 passed, 2 skipped', '3723')
    """
    found = re.fullmatch(r"=+ (.*) in ([0-9]+)[0-9.]*s.* =+", last.strip())
    return (found[1], found[2]) if found else ("did not end", "")


def commit() -> str:
    """The commit that was tested, with `-dirty` if files were changed since."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
