"""An audit that could not ask is no clean bill."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from audit import CLEAN, HOLES, NOT_ASKED, pinned, verdict
from lock import locked

FINE: dict[str, Any] = {"name": "a", "version": "1", "vulns": []}
HOLE: dict[str, Any] = FINE | {
    "name": "b",
    "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}],
}
SKIPPED: dict[str, Any] = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "total", "code", "said"),
    [
        ([FINE], 1, CLEAN, "1 of 1 packages asked for, 0 known holes"),
        ([FINE, HOLE], 2, HOLES, "b 1: CVE-1, fixed in 2"),
        ([FINE, SKIPPED], 2, NOT_ASKED, "COULD NOT ASK for 1: c (not found)"),
        ([FINE], 2, NOT_ASKED, "COULD NOT ASK for 1"),
        ([HOLE, SKIPPED], 2, HOLES, "COULD NOT ASK for 1"),
    ],
)
def test_what_was_not_asked_for_is_counted(
    packages: list[dict[str, Any]], total: int, code: int, said: str
) -> None:
    lines, found = verdict(packages, total)
    assert found == code
    assert any(said in line for line in lines), lines


def test_every_pin_counts() -> None:
    assert pinned("# of the tests\na==1\n\nb==2\n") == 2


def test_a_lock_names_each_wheel_by_its_digest() -> None:
    def one(name: str, **source: Any) -> dict[str, Any]:
        return {"metadata": {"name": name, "version": "1"}, "download_info": source}

    wheel = one("a", archive_info={"hashes": {"sha256": "9f"}})
    assert list(locked([wheel, one("ray-unlearn", dir_info={})])) == ["a==1 --hash=sha256:9f"]
    with pytest.raises(SystemExit, match="no sha256"):
        list(locked([one("b", archive_info={})]))
