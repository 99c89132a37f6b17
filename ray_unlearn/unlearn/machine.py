"""What this machine has: CPUs, memory, GPUs, free disk."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from ray_unlearn.unlearn.memory import gpu_memory_gib


@dataclass(frozen=True)
class Machine:
    """What a machine has."""

    cpus: float
    memory_gib: float
    disk_gib: float
    """Free space where the study would be."""
    gpus: int | None = None
    """None: not known."""
    gpu_gib: float | None = None
    """Memory of one GPU; None: not known."""


def machine_here(folder: Path) -> Machine:
    """This machine, with the free space where `folder` is or would be."""
    return Machine(
        cpus_here(), memory_here_gib(), free_disk_gib(folder), gpus_here(), gpu_memory_gib()
    )


def cpus_here() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus_here() -> int:
    """GPUs of this machine that CUDA sees."""
    return torch.cuda.device_count()


def memory_here_gib() -> float:
    """GiB of this machine, used or not."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def free_disk_gib(folder: Path) -> float:
    """GiB of free space where `folder` is or would be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 2**30
