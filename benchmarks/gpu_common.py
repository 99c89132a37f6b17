"""What the steps of `gpu_first_run.sh` share: workspaces, clocks, lines of JSON.

OUT   folder of results.jsonl
DEV   cuda:0; cpu for a dry run
"""

import argparse
import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers
from contestants import Task, trial
from update_loop import random_weights

from ray_unlearn.unlearn.loop import unlearn
from ray_unlearn.unlearn.workspace import Workspace

DEVICE = os.environ.get("DEV", "cuda:0")
ON_GPU = DEVICE.startswith("cuda")
RESULTS = Path(os.environ.get("OUT", ".")) / "results.jsonl"


def opened(
    size: str = "tiny",
    device: str = DEVICE,
    dtype: str = "bfloat16",
    length: int = 64,
    batch: int = 4,
    retain: int = 32,
    lora: int | None = None,
) -> Workspace:
    """A Llama of random weights with random sequences."""
    given = argparse.Namespace(
        config=size, sequence_length=length, dtype=dtype, device=device, retain_sequences=retain,
        batch_size=batch, lora=lora,
    )  # fmt: skip
    return random_weights(given)


def finished() -> None:
    """Wait for the device."""
    if ON_GPU:
        torch.cuda.synchronize()


def milliseconds(run: Callable[[], Any], repeats: int = 3, warm_up: int = 1) -> float:
    """Of one call, the best of some after a warm-up."""
    for _ in range(warm_up):
        run()
    found = []
    for _ in range(repeats):
        finished()
        began = time.perf_counter()
        run()
        finished()
        found.append(time.perf_counter() - began)
    return 1000 * min(found)


def update_ms(workspace: Workspace, method: str, batch: int, updates: int = 5) -> float:
    """Milliseconds of an update of ours, after a warm-up of two."""
    task = Task(workspace, method, batch)

    def run(steps: int) -> None:
        list(unlearn(workspace, trial(task, steps, (steps + 1,))))

    run(2)
    return milliseconds(lambda: run(updates), 2, 0) / updates


def peak_gib() -> float | None:
    """GiB at the peak, on a GPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if ON_GPU else None


def tried(step: str, run: Callable[[], dict[str, Any]]) -> bool:
    """Run one step; print and record what it found, or why it failed. The next one runs anyway."""
    began, failed = time.perf_counter(), ""
    found: dict[str, Any] = {}
    try:
        found = run()
    except Exception as error:  # a device may fail in any way; the step is recorded
        traceback.print_exc(limit=-4)
        failed = f"{type(error).__name__}: {str(error)[:300]}"
    line = {"step": step, "passed": not failed, "s": round(time.perf_counter() - began, 2)} | found
    if failed:
        line["error"] = failed
    line |= {"device": device_name(), "torch": torch.__version__}
    line["transformers"] = transformers.__version__
    print(f"{'FAIL' if failed else 'PASS'} {step}: {failed or found} [{line['s']} s]", flush=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")
    return not failed


def device_name() -> str:
    """What the numbers were measured on."""
    return torch.cuda.get_device_name() if ON_GPU else "CPU (dry run)"
