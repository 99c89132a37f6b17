"""Write the wheels that an installation would take here, with their digests.

    python -m pip install --dry-run --ignore-installed --report report.json ...
    python scripts/lock.py report.json > requirements.lock

`pip install --require-hashes -r requirements.lock` then takes these bytes or none, and
`pip install --no-deps .` the package itself, which has no digest before it is built.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def main() -> None:
    """See the module's docstring."""
    report = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print("# Of this platform and this index: another build of torch has another digest.")
    print("\n".join(sorted(locked(report["install"]), key=str.lower)))


def locked(installed: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each package that comes as an archive.

    Raises:
        SystemExit: an archive without a digest.
    """
    for one in installed:
        about, source = one["metadata"], one["download_info"]
        if "dir_info" in source:  # this repository
            continue
        digest = source.get("archive_info", {}).get("hashes", {}).get("sha256")
        if digest is None:
            sys.exit(f"{about['name']}: the index gives no sha256 of it")
        yield f"{about['name']}=={about['version']} --hash=sha256:{digest}"


if __name__ == "__main__":
    main()
