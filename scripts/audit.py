"""Ask for known holes in the pinned packages, and say of how many there was an answer.

    python scripts/audit.py [constraints.txt] [--service pypi|osv]

pip-audit ends with exit code 0 and "No known vulnerabilities found" also where its service knows
none of the packages, as behind a mirror that serves files alone. Here the exit code is 0 when every
package was asked for and none has a known hole, 1 when one has, and 2 when not all could be asked.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CLEAN, HOLES, NOT_ASKED = 0, 1, 2
SHOWN = 5


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("requirements", nargs="?", type=Path, default=Path("constraints.txt"))
    parser.add_argument("--service", choices=("pypi", "osv"), default="pypi")
    options = parser.parse_args()
    asked = subprocess.run(
        [
            sys.executable, "-m", "pip_audit", "--requirement", str(options.requirements),
            "--no-deps", "--disable-pip", "--vulnerability-service", options.service,
            "--format", "json", "--progress-spinner", "off",
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    try:
        packages = json.loads(asked.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (asked.stderr.strip().splitlines() or ["no output"])[-1]
        print(f"could not ask: {reason}")
        sys.exit(NOT_ASKED)
    lines, code = verdict(packages, pinned(options.requirements.read_text(encoding="utf-8")))
    print("\n".join(lines))
    sys.exit(code)


def pinned(text: str) -> int:
    """Number of packages in a constraints file."""
    return sum(bool(line.strip()) and not line.startswith("#") for line in text.splitlines())


def verdict(packages: list[dict[str, Any]], total: int) -> tuple[list[str], int]:
    """What to print, and the exit code.

    Args:
        packages: `dependencies` in pip-audit's report; one that could not be asked for has a
            `skip_reason`.
        total: packages that are pinned; one that the report does not name was not asked for.
    """
    asked = [one for one in packages if "skip_reason" not in one]
    holes = [
        f"{one['name']} {one['version']}: {hole['id']}, fixed in "
        f"{', '.join(hole['fix_versions']) or 'no version'}"
        for one in asked
        for hole in one["vulns"]
    ]
    lines = [*holes, f"{len(asked)} of {total} packages asked for, {len(holes)} known holes"]
    if len(asked) < total:
        skipped = [f"{one['name']} ({one['skip_reason']})" for one in packages if one not in asked]
        more = f" and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else ""
        lines.append(f"COULD NOT ASK for {total - len(asked)}: {'; '.join(skipped[:SHOWN])}{more}")
        lines.append("this is no clean bill: ask from where the advisories can be reached")
    return lines, HOLES if holes else NOT_ASKED if len(asked) < total else CLEAN


if __name__ == "__main__":
    main()
