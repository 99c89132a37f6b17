"""Mistakes on the command line, with places, and with what was made before."""

import json

from mistake import Mistake, Workplace, nothing

RUN = ("run", "study.yaml")


def _others_folder(place: Workplace) -> None:
    (place.folder / "thesis").mkdir()
    (place.folder / "thesis" / "thesis.tex").write_text("\\documentclass{book}")


def _file(place: Workplace) -> None:
    (place.folder / "taken").write_text("")


def _damaged(place: Workplace) -> None:
    ledger = place.folder / "broken" / "ledger"
    ledger.mkdir(parents=True)
    (ledger / "events.jsonl").write_text("{")


def _csv(text: str):
    def change(place: Workplace) -> None:
        (place.folder / "table.csv").write_text(text)

    return change


def _guidelines(place: Workplace) -> None:
    (place.folder / "guidelines.json").write_text(json.dumps([]))


MISTAKES = [
    Mistake("a command misspelt", nothing, ("Did you mean 'report'", "reprot"), ("reprot", "x")),
    Mistake("an option misspelt", nothing, ("--storge", "--storage"), (*RUN, "--storge", "x")),
    Mistake("no study file", nothing, ("Missing argument", "run -h"), ("run",)),
    Mistake(
        "a study file that is not there",
        nothing,
        ("no such file", "did you mean 'study.yaml'"),
        ("run", "studdy.yaml"),
    ),
    Mistake("a study folder for the file", _others_folder, ("thesis", "file"), ("run", "thesis")),
    Mistake(
        "data for the study file", nothing, ("forget.jsonl", "line"), ("run", "data/forget.jsonl")
    ),
    Mistake("no number of lanes", nothing, ("--lanes", "'two'", "auto"), (*RUN, "--lanes", "two")),
    Mistake("lanes of nothing", nothing, ("--lanes", "1"), (*RUN, "--lanes", "0")),
    Mistake("workers of nothing", nothing, ("--workers", "1"), (*RUN, "--workers", "0")),
    Mistake(
        "guidelines that are not there",
        nothing,
        ("no such file",),
        (*RUN, "--space-from", "guide.json"),
    ),
    Mistake(
        "guidelines that are none",
        _guidelines,
        ("guidelines.json", "guidelines"),
        (*RUN, "--space-from", "guidelines.json"),
    ),
    Mistake(
        "a file for the storage", _file, ("taken", "file", "folder"), (*RUN, "--storage", "taken")
    ),
    Mistake("a place below a file", _file, ("taken",), (*RUN, "--storage", "taken/study")),
    Mistake(
        "somebody's folder",
        _others_folder,
        ("thesis", "thesis.tex", "another"),
        (*RUN, "--storage", "thesis"),
    ),
    Mistake(
        "a store that is none",
        nothing,
        ("ftp", "known: abfs, abfss, gs, s3"),
        (*RUN, "--storage", "ftp://host/x"),
    ),
    Mistake("a bucket without a name", nothing, ("s3://",), (*RUN, "--storage", "s3://")),
    Mistake(
        "a place nobody may write", nothing, ("/proc/study",), (*RUN, "--storage", "/proc/study")
    ),
    Mistake(
        "a study that is there already",
        _damaged,
        ("broken", "resume"),
        (*RUN, "--storage", "broken"),
    ),
    Mistake(
        "resuming a study file",
        nothing,
        ("study.yaml", "ray-unlearn run"),
        ("resume", "study.yaml"),
    ),
    Mistake("resuming nothing", nothing, ("nowhere", "no"), ("resume", "nowhere")),
    Mistake("resuming what is damaged", _damaged, ("broken",), ("resume", "broken")),
    Mistake(
        "the status of a study file",
        nothing,
        ("study.yaml", "ray-unlearn run"),
        ("status", "study.yaml"),
    ),
    Mistake("the status of nothing", nothing, ("nowhere", "no"), ("status", "nowhere")),
    Mistake("no trials to add", nothing, ("--trials",), ("resume", "nowhere", "--trials", "0")),
    Mistake("a report of nothing", nothing, ("nowhere", "no such"), ("report", "nowhere")),
    Mistake("a report of a study file", nothing, ("study.yaml",), ("report", "study.yaml")),
    Mistake("a report of an empty table", _csv(""), ("table.csv",), ("report", "table.csv")),
    Mistake(
        "a table without a score",
        _csv("learning_rate,x\n0.1,2\n0.2,3\n"),
        ("table.csv", "--score"),
        ("report", "table.csv"),
    ),
    Mistake(
        "a score that no column is",
        _csv("learning_rate,loss\n0.1,2\n0.2,3\n"),
        ("table.csv", "los"),
        ("report", "table.csv", "--score", "los"),
    ),
    Mistake(
        "an export of nothing",
        nothing,
        ("nowhere", "no"),
        ("export", "nowhere", "--trial", "best", "-o", "out"),
    ),
    Mistake("why of nothing", nothing, ("nowhere", "no"), ("why", "nowhere")),
    Mistake("a verification of nothing", nothing, ("nowhere", "no"), ("verify", "nowhere")),
    Mistake("a confirmation of nothing", nothing, ("nowhere", "no"), ("confirm", "nowhere")),
    Mistake("a schema of nothing", nothing, ("did you mean 'study'",), ("schema", "studdy")),
    Mistake(
        "a setting misspelt",
        nothing,
        ("did you mean 'learning_rate'",),
        ("unlearn", "study.yaml", "--method", "gradient_ascent", "--set", "learning_rte=1"),
    ),
    Mistake(
        "a setting without a value",
        nothing,
        ("hyperparameter=value",),
        ("unlearn", "study.yaml", "--method", "gradient_ascent", "--set", "x"),
    ),
    Mistake(
        "a method misspelt for unlearn",
        nothing,
        ("did you mean 'gradient_ascent'",),
        ("unlearn", "study.yaml", "--method", "gradient_asent"),
    ),
    Mistake(
        "no learning rate",
        nothing,
        ("learning_rate", "required"),
        ("unlearn", "study.yaml", "--method", "gradient_ascent"),
    ),
    Mistake(
        "a model into somebody's folder",
        _others_folder,
        ("thesis", "not empty"),
        (
            "unlearn",
            "study.yaml",
            "--method",
            "gradient_ascent",
            "--set",
            "learning_rate=1e-3",
            "-o",
            "thesis",
        ),
    ),
    Mistake(
        "more lanes than the machine",
        nothing,
        ("lane(s) want", "--lanes"),
        ("plan", "study.yaml", "--lanes", "10000"),
    ),
    Mistake(
        "a cluster that is not there",
        nothing,
        ("127.0.0.1:1", "--address"),
        (*RUN, "--address", "127.0.0.1:1"),
    ),
]
