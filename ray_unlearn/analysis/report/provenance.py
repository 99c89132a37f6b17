"""Where a report comes from, and the command that makes it again."""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
import pandas as pd
import scipy
import sklearn

from ray_unlearn.analysis.guidelines.grades import THRESHOLDS
from ray_unlearn.analysis.read.column_roles import HowToRead, Reading, reading_of
from ray_unlearn.analysis.read.study_results import Results, StudyResults
from ray_unlearn.spec.score_weights import OPTION, ScoreWeights

UNSET: tuple[Any, ...] = (None, (), [], {})
PACKAGES = (pd, np, scipy, sklearn, optuna, matplotlib)


def provenance(
    results: Results, trials_csv: bytes | None, seed: int, origin: Mapping[str, Any]
) -> dict[str, Any]:
    """Sources with digests, versions, seed and thresholds, without a date or a path.

    Args:
        results: what the report is about.
        trials_csv: content of `data/trials.csv`; None where there is none.
        seed: of every random draw.
        origin: what makes the report again (`origin_of`).
    """
    digests = [(one.source, one.source_digest) for one in results.studies]
    digests += [(one.source, one.source_digest) for one in results.foreign]
    return {
        **origin,
        "seed": seed,
        "sources": [{"name": name, "sha256_first_12": digest} for name, digest in digests],
        "thresholds": THRESHOLDS.as_json(),
        "trials_sha256": None if trials_csv is None else hashlib.sha256(trials_csv).hexdigest(),
        "versions": _versions(),
        "columns": columns_of(results),
        "rescored": [_searched_with(one) for one in results.studies if one.rescored is not None],
    }


def _searched_with(study: StudyResults) -> dict[str, Any]:
    """A study whose trials are scored with other weights, and those it was searched with."""
    known = None if study.spec is None else study.spec.objective.weights.model_dump(mode="json")
    return {"name": study.source, "searched_with": known}


def columns_of(results: Results) -> list[dict[str, str]]:
    """What each column of the foreign tables was taken for, and why."""
    return [{"source": one.source, **vars(use)} for one in results.foreign for use in one.columns]


def provenance_lines(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The same for people."""
    again = found.get("rescored", ())
    thresholds = ", ".join(
        f"{name.replace('_', ' ')} {value:.3g}" for name, value in found["thresholds"].items()
    )
    return [
        *(
            (f"Source {one['name']}", f"SHA-256 {one['sha256_first_12']} (first 12 digits)")
            for one in found["sources"]
        ),
        (
            "Trial table",
            f"data/trials.csv, SHA-256 {found['trials_sha256'][:12]} (first 12 digits)"
            if found["trials_sha256"]
            else "none",
        ),
        *((f"Scored again: {one['name']}", _searched(one["searched_with"])) for one in again),
        ("Seed of every random draw", str(found["seed"])),
        ("Thresholds", thresholds),
        ("Versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items())),
    ]


def _searched(weights: Mapping[str, float] | None) -> str:
    known = "weights that are not known" if weights is None else ScoreWeights(**weights).in_words()
    return f"searched with {known}"


def options(reading: Reading, tolerance: float | None, since: Path | None, seed: int) -> list[str]:
    """What was asked for, as on the command line; only the last name of a path."""
    given = list(reading.given)
    given += [OPTION, reading.weights.as_option()] if reading.weights is not None else []
    given += ["--tolerance", f"{tolerance:g}"] if tolerance is not None else []
    given += ["--since", since.name] if since is not None else []
    return given + (["--seed", str(seed)] if seed else [])


def origin_of(
    results: Results,
    tolerance: float | None,
    seed: int,
    how: HowToRead,
    since: Path | None = None,
) -> dict[str, Any]:
    """What makes a report again: for people the command, for `why` the settings.

    Args as `write.write_report`.
    """
    reading = reading_of(**how)
    settings: dict[str, Any] = {name: value for name, value in how.items() if value not in UNSET}
    settings |= {} if tolerance is None else {"tolerance": tolerance}
    given = options(reading, tolerance, since, seed)
    return {"command": command_line(results, given), "settings": settings}


def command_line(results: Results, options: Sequence[str]) -> str:
    """The command that makes this report from the same files."""
    places = dict.fromkeys(
        [*(study.place for study in results.studies), *(one.source for one in results.foreign)]
    )
    return " ".join(
        ["ray-unlearn report", *(shlex.quote(part) for part in (*places, *options)), "-o report"]
    )


def _versions() -> dict[str, str]:
    try:
        own = metadata.version("ray-unlearn")
    except metadata.PackageNotFoundError:
        own = "from a checkout"
    return {
        "ray_unlearn": own,
        **{package.__name__: str(package.__version__) for package in PACKAGES},
    }
