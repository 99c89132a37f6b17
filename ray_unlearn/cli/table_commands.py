"""Commands that only read and show: report, methods, spaces, schema."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ray_unlearn.cli.show import Json, print_json, print_line, print_table, say
from ray_unlearn.spec.bounds import LARGEST_SEED, MOST_TRIALS
from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.spec.guideline_file import Guidelines
from ray_unlearn.spec.method_modules import load_user_methods
from ray_unlearn.spec.method_registry import METHODS
from ray_unlearn.spec.score_weights import parse_weights
from ray_unlearn.spec.search_space import Choice, Fixed, SearchSpace
from ray_unlearn.spec.space_file import load_search_space, packaged_spaces
from ray_unlearn.spec.written_schema import search_space_schema, study_schema


class SamplerOption(StrEnum):
    """How the trials of a foreign table were drawn."""

    RANDOM = "random"
    ADAPTIVE = "adaptive"


def report_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="study directories or addresses, result tables, any tables of trials (.csv, .tsv, "
            ".jsonl, .parquet), results of Optuna, Ray Tune, DeepCAVE, OpenUnlearning",
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
    maximise: Annotated[
        bool | None,
        typer.Option(
            "--maximise/--minimise",
            help="which scores are better; default: as the program or the score's name tells",
        ),
    ] = None,
    params: Annotated[
        str | None,
        typer.Option("--params", metavar="A,B", help="a foreign table's hyperparameters, all"),
    ] = None,
    outcomes: Annotated[
        str | None, typer.Option("--outcomes", metavar="A,B", help="columns that are results")
    ] = None,
    failed: Annotated[
        str | None,
        typer.Option("--failed", metavar="WORD,nan", help="what the score of a failed trial reads"),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance", help="how far from the best is still good, in units of the score"
        ),
    ] = None,
    sampler: Annotated[
        SamplerOption | None,
        typer.Option(
            "--sampler", help="how a foreign table's trials were drawn, where it does not say"
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective",
            metavar="general=2,...",
            help="weights of forget_gap, retain and general to score all trials with again; 1 "
            "where not named",
        ),
    ] = None,
    since: Annotated[
        Path | None,
        typer.Option("--since", metavar="OLD.json", help="guidelines.json to compare with"),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="of every random draw")
    ] = 0,
    next_trials: Annotated[
        int,
        typer.Option(
            "--next",
            metavar="K",
            min=0,
            max=MOST_TRIALS,
            help="write a study file of the K trials that would settle most of what is open",
            show_default=False,
        ),
    ] = 0,
    json: Json = False,
) -> None:
    """Write the report: guidelines with their evidence, one HTML page, the same in Markdown.

    Figures, and every number as CSV, are beside it."""
    say(f"reading {', '.join(map(str, sources))}, and fitting what can be said of it")
    from ray_unlearn.analysis.read.column_roles import parse_mapping
    from ray_unlearn.analysis.report.foreign_section import best_of_tables, best_sentence
    from ray_unlearn.analysis.report.recommended_section import recommendation_text
    from ray_unlearn.api import report

    written = report(
        *sources,
        out=output,
        mapping=parse_mapping(columns or []),
        score=score,
        maximise=maximise,
        tolerance=tolerance,
        sampler=sampler.value if sampler else None,
        params=_names(params),
        outcomes=_names(outcomes),
        failed=_names(failed),
        objective=parse_weights(objective) if objective is not None else None,
        since=since,
        seed=seed,
        next_trials=next_trials,
    )
    weights = written.guide.file.score.weights
    if objective is not None and weights is not None:
        say(f"Scores weigh {weights.in_words()}.")
    guide = written.guide
    claimed, likely, alone = guide.claimed, len(guide.likely), len(guide.leave_alone)
    withheld = len(guide.withheld)
    for recommended in written.guide.recommendations[:1]:
        say(recommendation_text(recommended, written.guide.file.score))
    for guideline in claimed:
        say(guideline.text)
    best = best_of_tables(written.guide.best, written.guide.file.score)
    named = [best_sentence(trial, written.guide.file.score) for trial in best]
    last = [
        f"{len(claimed)} claimed, {likely} likely, {alone} to leave alone, {withheld} not known",
        *named,
        "the reasons are in the report",
    ]
    if next_trials:
        place = str(written.page).rpartition("/")[0]
        run = [f"ray-unlearn run {file}" for file in sorted(Path(place).glob("next*.yaml"))]
        say("; ".join([f"The next trials: {place}/next.csv", *run]))
    say(f"{'; '.join(last)}:")
    if json:
        claims = [guideline.id for guideline in claimed]
        found = {"page": written.page, "claimed": claims, "withheld": withheld}
        found |= {"likely": likely, "leave_alone": alone}
        print_json(found | {"best": [trial.model_dump(mode="json") for trial in best]})
    else:
        print_line(str(written.page))


def _names(listed: str | None) -> tuple[str, ...]:
    """`a, b` as names."""
    return tuple(name.strip() for name in (listed or "").split(",") if name.strip())


def methods_command(json: Json = False) -> None:
    """The unlearning methods and their losses."""
    load_user_methods()
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
    print_line(
        "U forget set, R retain set (same domain), G general set, P_0 vanilla model; the first "
        "seven: Yao et al., ACL 2024; the sources of the others are in docs/methods.md"
    )


def spaces_command(
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


SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    "study": study_schema,
    "search-space": search_space_schema,
    "guidelines": Guidelines.model_json_schema,
}


def schema_command(
    name: Annotated[
        str, typer.Argument(help="study, search-space or guidelines", show_default=False)
    ],
) -> None:
    """JSON Schema of the files that people write, for editors, and of `guidelines.json`.

    It names your own methods and their hyperparameters where they are installed."""
    if name not in SCHEMAS:
        raise UserError(f"no schema {name!r}{nearest(name, SCHEMAS)}")
    print_json(SCHEMAS[name]())
