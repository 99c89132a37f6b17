"""Forty architectures used as a study uses a model; docs/models.md says what came of each."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from architectures import ARCHITECTURES, HEAD, PAGE, SAME, line, tried

SLOW = ("RWKV", "Falcon H1", "xLSTM")
"""Seconds each: their scans run token by token without their kernels."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in ARCHITECTURES],
)
def test_an_architecture_trains_exactly_or_is_refused(name: str, tmp_path: Path) -> None:
    """Padded, packed and alone are one NLL, and what is saved is what was measured."""
    found = tried(name, tmp_path)
    assert line(found) in PAGE.read_text(encoding="utf-8"), "python scripts/architectures.py"
    if found.refused:
        assert "_implementation" not in found.refused, "a Python argument"
        return
    assert found.outcome == "complete"
    assert found.context > 10 * SAME, "otherwise a leak would not show"
    assert found.padded == pytest.approx(found.alone, abs=SAME)
    assert found.packed == pytest.approx(found.alone, abs=SAME)
    assert abs(found.trained - found.alone) > 10 * SAME, "it was trained"
    assert found.answers == found.answers_alone
    assert found.reloaded == pytest.approx(found.trained, abs=SAME)


def test_the_page_lists_these_architectures_and_no_other() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.startswith(HEAD)
    rows = text.removeprefix(HEAD).splitlines()
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(ARCHITECTURES)
