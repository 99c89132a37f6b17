"""What an update would do on a GPU, counted without one (`benchmarks/fake_gpu.py`)."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COMMAND = Path(__file__).parents[2] / "benchmarks" / "fake_gpu.py"
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="needs g++ to build the fake device"
)


def counted(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """In a process of its own: the fake device must be there before torch is."""
    file = folder / "counts.jsonl"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", COMMAND, "--json", file, *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
    if "does not build against this torch" in done.stderr:
        pytest.skip(done.stderr.splitlines()[0])
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in file.read_text().splitlines()]


@needs_compiler
def test_the_host_waits_for_a_gpu_at_most_four_times_an_update(tmp_path: Path) -> None:
    """It waited 298 times at 7 B: for the number of each weight's step, each loss, each batch."""
    for found in counted(tmp_path, "--sizes", "tiny", "--methods", "descent", "kl"):
        assert sum(found["waits"].values()) <= 4, found["waits"]
        assert found["copies"] <= 4, "a copy per batch, and one per term that asks for more"


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("size", ["135m", "1b", "7b"])
def test_the_plan_is_within_a_tenth_of_the_counted_peak(tmp_path: Path, size: str) -> None:
    """Too low, and a lane runs out of memory; too high, and a GPU is left half empty."""
    for found in counted(tmp_path, "--sizes", size, "--methods", "descent", "kl"):
        assert sum(found["waits"].values()) <= 4, found["waits"]
        assert found["plan_gib"] == pytest.approx(found["peak_gib"], rel=0.1), found
