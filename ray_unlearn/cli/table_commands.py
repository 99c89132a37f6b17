"""Commands that only read and show: report, methods, spaces, schema, doctor."""

import importlib.metadata
import os
import shutil
import sys
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from ray_unlearn.cli.main import app
from ray_unlearn.cli.show import Json, print_json, print_table, say
from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.spec.guideline_file import Guidelines
from ray_unlearn.spec.method_registry import METHODS
from ray_unlearn.spec.search_space import Choice, Fixed, SearchSpace, load_search_space
from ray_unlearn.spec.strict import Strict
from ray_unlearn.spec.study_spec import StudySpec, packaged_spaces


class Drawn(StrEnum):
    """How the trials of a foreign table were drawn."""

    RANDOM = "random"
    ADAPTIVE = "adaptive"


@app.command()
def report(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="study directories or addresses, result tables or any tables of trials (.csv, .parquet)",
            show_default=False,
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", help="folder or address; default: report/ in the first study"
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map", metavar="THEIRS=OURS", help="what a column of a foreign table is; repeatable"
        ),
    ] = None,
    score: Annotated[
        str | None, typer.Option("--score", metavar="COLUMN", help="a foreign table's score")
    ] = None,
    maximise: Annotated[bool, typer.Option("--maximise", help="higher scores are better")] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance", help="how far from the best is still good, in units of the score"
        ),
    ] = None,
    sampler: Annotated[
        Drawn | None,
        typer.Option(
            "--sampler", help="how a foreign table's trials were drawn, where it does not say"
        ),
    ] = None,
    since: Annotated[
        Path | None,
        typer.Option("--since", metavar="OLD.json", help="guidelines.json to compare with"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of every random draw")] = 0,
    json: Json = False,
) -> None:
    """Write the report: guidelines with their evidence, one HTML page, the same in Markdown,
    figures, and every number as CSV."""
    from ray_unlearn.analysis.read.foreign_columns import parse_mapping
    from ray_unlearn.analysis.report.write import write_report
    from ray_unlearn.spec.guideline_file import load_guidelines
    from ray_unlearn.store.location import fetched, send_folder
    from ray_unlearn.store.storage import below, checked_url, is_remote

    if output is None:
        a_study = is_remote(sources[0]) or Path(sources[0]).is_dir()
        output = str(below(sources[0], "report")) if a_study else "report"
    with ExitStack() as stack:
        paths = [stack.enter_context(fetched(source)) for source in sources]
        folder = Path(output)
        if is_remote(output):
            checked_url(output)
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="ray-unlearn-"))) / "report"
        page = write_report(
            paths, folder, mapping=parse_mapping(columns or []), score=score, maximise=maximise, tolerance=tolerance,
            sampler=sampler.value if sampler else None, since=since, seed=seed,
        )  # fmt: skip
        found = load_guidelines(page.parent / "guidelines.json")
        send_folder(output, page.parent)
    shown = str(below(output, page.name)) if is_remote(output) else str(page.resolve())
    for guideline in found.claimed:
        say(guideline.text)
    held = len(found.guidelines) - len(found.claimed)
    say(f"{len(found.claimed)} claimed, {held} withheld; the reasons are in the report:")
    if json:
        print_json({"page": shown, "claimed": [g.id for g in found.claimed], "withheld": held})
    else:
        print(shown)


@app.command()
def methods(json: Json = False) -> None:
    """The unlearning methods and their losses."""
    lines = [(m.name, m.loss, m.retain_set or "") for m in METHODS.values()]
    if json:
        print_json(
            [
                {"name": name, "loss": loss, "retain_set": retain_set or None}
                for name, loss, retain_set in lines
            ]
        )
        return
    print_table(["method", "loss to minimise", "retain data"], lines)
    print(
        "U forget set, R retain set (same domain), G general set, P_0 original model; Yao et al., ACL 2024"
    )


@app.command()
def spaces(
    folder: Annotated[
        Path | None, typer.Argument(help="folder of search spaces; default: those that come along")
    ] = None,
    json: Json = False,
) -> None:
    """The search spaces: each method's hyperparameters with range, scale and role."""
    where = folder or packaged_spaces()
    found = {path.stem: load_search_space(path) for path in sorted(where.glob("*.yaml"))}
    if not found:
        raise UserError(f"{where}: no search space files (*.yaml) there")
    if json:
        print_json({name: space.model_dump(mode="json") for name, space in found.items()})
        return
    for name, space in found.items():
        print_table(["hyperparameter", "values", "scale", "role"], _space_lines(space), title=name)


def _space_lines(space: SearchSpace) -> list[tuple[str, str, str, str]]:
    lines: list[tuple[str, str, str, str]] = []
    for name, parameter in space.parameters.items():
        if isinstance(parameter, Fixed):
            lines.append((name, str(parameter.value), "", parameter.role))
        elif isinstance(parameter, Choice):
            lines.append((name, ", ".join(map(str, parameter.choices)), "", parameter.role))
        else:
            free = ", free" if getattr(parameter, "free", False) else ""
            lines.append(
                (
                    name,
                    f"{parameter.low:g} to {parameter.high:g}{free}",
                    parameter.scale,
                    parameter.role,
                )
            )
    return lines


SCHEMAS: dict[str, type[Strict]] = {
    "study": StudySpec,
    "search-space": SearchSpace,
    "guidelines": Guidelines,
}


@app.command()
def schema(
    name: Annotated[
        str, typer.Argument(help="study, search-space or guidelines", show_default=False)
    ],
) -> None:
    """JSON Schema of the resolved files, for editors and other programs."""
    if name not in SCHEMAS:
        raise UserError(f"no schema {name!r}{nearest(name, SCHEMAS)}")
    print_json(SCHEMAS[name].model_json_schema())


@app.command()
def doctor(json: Json = False) -> None:
    """What this machine has, and what would be in the way."""
    import torch

    from ray_unlearn.demo import cache_folder

    cache = cache_folder()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free_gib = shutil.disk_usage(existing).free / 2**30
    checks = [
        ("Python 3.11 or newer", sys.version_info >= (3, 11), sys.version.split()[0]),
        ("torch", True, f"{torch.__version__}, {torch.cuda.device_count()} CUDA device(s)"),
        *((name, True, importlib.metadata.version(name)) for name in ("ray", "optuna", "transformers")),
        ("CPUs", True, str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())),
        ("one thread per process", os.environ.get("OMP_NUM_THREADS") == "1" or torch.cuda.is_available(),
         f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')} (lanes set their own)"),
        ("cache folder writable", os.access(existing, os.W_OK), str(cache)),
        ("2 GiB of disk free", free_gib > 2, f"{free_gib:.1f} GiB"),
        ("/dev/shm, 1 GiB", _shared_memory_gib() > 1, f"{_shared_memory_gib():.1f} GiB (Ray's object store)"),
    ]  # fmt: skip
    if json:
        print_json([{"check": name, "ok": ok, "found": found} for name, ok, found in checks])
        return
    print_table(
        ["check", "", "found"],
        [(name, "ok" if ok else "LOOK", found) for name, ok, found in checks],
    )


def _shared_memory_gib() -> float:
    path = Path("/dev/shm")
    return shutil.disk_usage(path).total / 2**30 if path.exists() else 0.0
