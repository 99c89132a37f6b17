"""The command `doctor`, which checks this machine and, where one is named, a study."""

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ray_unlearn.cli.show import Json, end_with_findings, print_findings, print_json, print_verdict
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.unlearn.finding import Finding

DOCTORED = ("ray", "optuna", "transformers")


def doctor_command(
    study: Annotated[
        Path | None,
        typer.Argument(help="a study file, which is checked too", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """What this machine has, and what would be in the way, also of a study. Starts nothing.

    With a study file, its model and data are checked as `plan` and `run` check them; the exit code
    is 2 if the study is refused or has no room here."""
    spec = None if study is None else load_study(study)
    findings = list(_machine_findings())
    of_study: list[Finding] = []
    if spec is not None:
        from ray_unlearn.unlearn.admission import admission
        from ray_unlearn.unlearn.machine import machine_here

        of_study = admission(spec, machine_here(Path.cwd())).findings
    found = [*findings, *of_study]
    if json:
        print_json(
            [
                {"check": f.what, "ok": f.state == "ok", "state": f.state, "found": str(f)}
                for f in found
            ]
        )
    else:
        print_findings(found)
        if of_study:
            print_verdict(of_study, "this machine")
    end_with_findings(of_study)


def _machine_findings() -> Iterator[Finding]:
    import torch

    from ray_unlearn.demo import cache_folder
    from ray_unlearn.unlearn.machine import cpus_here, free_disk_gib

    def check(what: str, fine: bool, found: str, remedy: str) -> Finding:
        return Finding(what, "ok", found) if fine else Finding(what, "warning", found, remedy)

    yield check(
        "Python", sys.version_info >= (3, 11), sys.version.split()[0], "use Python 3.11 or newer"
    )
    yield Finding("torch", "ok", f"{torch.__version__}, {torch.cuda.device_count()} CUDA device(s)")
    for name in DOCTORED:
        yield Finding(name, "ok", importlib.metadata.version(name))
    yield Finding("CPUs here", "ok", str(cpus_here()))
    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    yield check(
        "threads of a process",
        threads == "1" or torch.cuda.is_available(),
        f"OMP_NUM_THREADS={threads}",
        "`unlearn` and `export` are faster with OMP_NUM_THREADS=1 (lanes set their own)",
    )
    cache = cache_folder()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    writable = os.access(existing, os.W_OK)
    yield check("cache folder", writable, str(cache), "make it writable, or set RAY_UNLEARN_CACHE")
    free_gib = free_disk_gib(existing)
    yield check("free disk", free_gib > 2, f"{free_gib:.1f} GiB", "free some: 2 GiB are little")
    shared_gib = _shared_memory_gib()
    yield check(
        "/dev/shm",
        shared_gib > 1,
        f"{shared_gib:.1f} GiB for Ray's object store",
        "give it 1 GiB or more (`docker run --shm-size`)",
    )


def _shared_memory_gib() -> float:
    path = Path("/dev/shm")
    return shutil.disk_usage(path).total / 2**30 if path.exists() else 0.0
