"""The commands that one tries first: version, help, completion, -v, and the list of studies."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import REPOSITORY

from ray_unlearn.cli import COMMANDS, HEADINGS, command_named
from ray_unlearn.environment import REAL
from ray_unlearn.store.follow import LedgerFollower
from ray_unlearn.store.listing import listed
from ray_unlearn.store.live import Live
from ray_unlearn.store.scan import events_file, read_acknowledged

STUDY = REPOSITORY / "tests/fixtures/study_schema_3/study"


def run_module(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ray_unlearn", *arguments]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_the_version_names_what_a_report_of_a_fault_needs(cli) -> None:
    code, out, _ = cli("--version")
    assert code == 0
    assert re.fullmatch(r"ray-unlearn 0\.\S+, Python 3\.\S+, torch \S+, ray \S+\n", out)


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_there_by_both_names(cli, command: str, flag: str) -> None:
    code, out, _ = cli(*filter(None, [command]), flag)
    assert code == 0
    assert out.startswith("Usage: ")
    assert "--verbose" in out


def test_help_says_all_of_each_command_under_a_heading(cli) -> None:
    _, out, _ = cli("--help")
    words = " ".join(out.split())
    for heading, commands in HEADINGS.items():
        assert f"{heading}:" in out
        for name, entry in commands.items():
            assert f"{name} {entry.summary}" in words
    assert "..." not in out.partition("Options:")[2]


def test_what_help_says_of_a_command_is_what_the_command_says() -> None:
    for name, entry in COMMANDS.items():
        first, _, _ = (command_named(name).__doc__ or "").partition("\n")
        assert first == entry.summary


def test_help_and_version_import_nothing_heavy() -> None:
    """A shell asks for completions at each tab: pydantic alone takes longer than all the rest.

    (typer brings it in by itself where it completes.)
    """
    code = (
        "import sys\nfrom ray_unlearn.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = ('ray', 'torch', 'pandas', 'optuna', 'pydantic', 'yaml', 'numpy')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    for flag in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-c", code, flag], capture_output=True, text=True, check=True
        )
        assert done.stderr.strip() == "[]"
    completing = os.environ | {"_RAY_UNLEARN_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code.replace("main()", "sys.argv[0] = 'ray-unlearn'; main()")],
        env=completing | {"COMP_WORDS": "ray-unlearn re"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["resume", "report"]
    assert done.stderr.strip() in ("[]", "['pydantic']")


def test_options_of_a_command_are_completed() -> None:
    code = "import sys; sys.argv[0] = 'ray-unlearn'; from ray_unlearn.cli.main import main; main()"
    completing = {"_RAY_UNLEARN_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | completing | {"COMP_WORDS": "ray-unlearn resume --tr"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["--trials"]


def test_the_package_runs_as_a_module() -> None:
    done = run_module("methods", "--json")
    assert done.returncode == 0, done.stderr
    assert "gradient_ascent" in done.stdout


def test_a_misspelt_command_is_answered_with_the_right_one(cli) -> None:
    code, _, err = cli("reprot")
    assert code == 2
    assert "Did you mean 'report'" in err


@pytest.mark.parametrize("arguments", [("-v", "spaces"), ("spaces", "-v")])
def test_verbose_says_what_is_read_on_stderr_alone(arguments: tuple[str, ...]) -> None:
    done = run_module(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d s  ray_unlearn\.spec\.strict: read .*shared/optimizer\.yaml", done.stderr)
    json.loads(done.stdout)
    assert run_module("spaces", "--json").stderr == ""


# The list of studies.


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two studies, one of them below the other's confirm folder, and what is none."""
    shutil.copytree(STUDY, tmp_path / "results/deep/one")
    shutil.copytree(STUDY, tmp_path / "results/deep/one/confirm")
    (tmp_path / "results/notes").mkdir()
    (tmp_path / "results/notes/study.yaml").write_text("name: x\n")
    shutil.copytree(STUDY, tmp_path / "results/.trash/two")
    return tmp_path / "results"


def live_of(folder: Path, **changes: object) -> Live:
    """What a driver says that has just ended, or has been running since."""
    nothing = {"trials_running": 0, "rows": 0, "updates": 0, "tokens": {}, "updates_per_s": None}
    report = Live(
        study="x", running=False, time=REAL.now().isoformat(), started=REAL.now().isoformat(),
        host="h", pid=1, asked_for=20, outcomes={"complete": 7, "failed": 2},
        best={"npo": 0.25, "rmu": 0.5}, lanes=[], queued=0, utilisation=None, eta_s=None,
        tokens_per_s=None, events=read_acknowledged(folder / "ledger") + 1, **nothing,
    )  # fmt: skip
    return replace(report, **changes)


def test_each_study_is_listed_with_what_its_ledger_says(cli, results: Path) -> None:
    code, out, _ = cli("ls", results, "--json")
    assert code == 0
    one, confirm = json.loads(out)
    assert [one["name"], confirm["name"]] == ["deep/one", "deep/one/confirm"]
    status = json.loads(cli("status", results / "deep/one", "--json")[1])
    assert (one["state"], one["finished"], one["asked_for"]) == ("finished", 12, 12)
    assert status["finished"] == 12
    assert one["best"] == min(best["score"] for best in status["best"])
    files = [path for path in (results / "deep/one").rglob("*") if path.is_file()]
    assert one["size_bytes"] == sum(path.stat().st_size for path in files)
    _, table, _ = cli("ls", results)
    assert "12 of 12" in table


def test_a_ledger_is_not_read_where_the_drivers_report_is_as_new(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger of 10,000 trials takes seconds to read; a list of fifty would take minutes."""
    for folder in (results / "deep/one", results / "deep/one/confirm"):
        live_of(folder).write(folder)
    monkeypatch.setattr(LedgerFollower, "poll", None)
    one, _ = listed(str(results))
    assert (one.state, one.finished, one.asked_for) == ("stopped", 9, 20)
    assert (one.best, one.method) == (0.25, "npo")
    live_of(results / "deep/one", running=True).write(results / "deep/one")
    assert listed(str(results))[0].state == "running"
    live_of(results / "deep/one", running=True, time="2026-01-01T00:00:00+00:00").write(
        results / "deep/one"
    )
    assert listed(str(results))[0].state == "silent"


def test_a_report_that_is_older_than_the_ledger_is_not_believed(results: Path) -> None:
    folder = results / "deep/one"
    live_of(folder, events=3).write(folder)
    one, _ = listed(str(results))
    assert (one.state, one.finished, one.asked_for) == ("finished", 12, 12)


def _cut(path: Path) -> None:
    path.write_bytes(b"x" + path.read_bytes()[1:])


BROKEN = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "gone": (lambda path: path.unlink(), "No such file"),
    "first line": (_cut, "first line is damaged"),
    "newer": (
        lambda path: path.write_text('{"kind": "header", "schema_version": 999}\n'),
        "first line is damaged",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_study_is_listed_with_the_reason_beside_the_others(
    cli, results: Path, how: str
) -> None:
    change, reason = BROKEN[how]
    change(events_file(results / "deep/one/confirm/ledger"))
    code, out, err = cli("ls", results)
    assert code == 4
    assert "12 of 12" in out
    assert re.search(rf"deep/one/confirm: .*{reason}", out)
    assert "Traceback" not in out + err


def test_what_is_no_folder_is_said(cli, tmp_path: Path) -> None:
    code, _, err = cli("ls", tmp_path / "none")
    assert (code, "no such folder" in err) == (2, True)
    code, out, _ = cli("ls", tmp_path)
    assert (code, out) == (0, f"no studies below {tmp_path}\n")
