"""What a contributor and a release rely on: hooks with CI's tools, and a check that says no."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from tiny import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "scripts"))
from release_check import missing_addresses, slow_tests_open, wrong_versions
from timed_demo import timed_demo


def test_a_commit_is_checked_by_the_tools_of_make_lint() -> None:
    config = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())
    (repository,) = config["repos"]
    hooks = {hook["entry"].replace(" --force-exclude", "") for hook in repository["hooks"]}
    recipe = (REPOSITORY / "Makefile").read_text().partition("\nlint: setup\n")[2]
    lines = recipe.partition("\n\n")[0].splitlines()
    tools = {line.strip().removeprefix("@$(BIN)/").removesuffix(" .") for line in lines}
    # `--check` is for CI; a hook writes.
    assert hooks == {
        f".venv/bin/{tool.removesuffix(' --check').removesuffix(' .')}" for tool in tools
    }
    assert repository["repo"] == "local", "another repository would pin other versions"


def test_actions_run_what_a_person_runs() -> None:
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())
    runs = [step["run"] for step in workflow["jobs"]["ci"]["steps"] if "run" in step]
    assert runs == [".ci/run"]


@pytest.mark.parametrize("name", ["fault", "wish"])
def test_an_issue_form_has_what_a_form_needs(name: str) -> None:
    form = yaml.safe_load((REPOSITORY / f".github/ISSUE_TEMPLATE/{name}.yml").read_text())
    assert form["name"]
    assert form["description"]
    for part in form["body"]:
        assert part["type"] in ("markdown", "textarea", "input")
        assert part["type"] == "markdown" or part["attributes"]["label"]


def test_every_fault_that_a_study_survives_names_a_test_that_is_there() -> None:
    text = (REPOSITORY / "docs/survival.md").read_text()
    promised, _, shown = text.partition("## Faults")[2].partition("## Point by point")
    faults, points = (
        [line.split("|")[1] for line in part.partition("\n## ")[0].splitlines() if line[:2] == "| "]
        for part in (promised, shown)
    )
    assert faults == points
    for file, name in re.findall(r"`(\w+/test_\w+\.py)::(\w+)`", shown):
        assert f"\ndef {name}(" in (REPOSITORY / "tests" / file).read_text(), f"{file}: {name}"


def test_this_version_is_written_alike_everywhere() -> None:
    assert wrong_versions(REPOSITORY) == []


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    for name in ("pyproject.toml", "CITATION.cff", "CHANGELOG.md"):
        (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    (tmp_path / "ray_unlearn").mkdir()
    (tmp_path / "ray_unlearn/__init__.py").write_text('__version__ = "9.9.9"\n')
    return tmp_path


def test_a_version_that_was_forgotten_stops_a_release(repository: Path) -> None:
    (open_point,) = wrong_versions(repository)
    assert open_point.startswith("ray_unlearn/__init__.py says 9.9.9, pyproject.toml ")


def test_a_release_without_an_address_of_its_repository_is_stopped(repository: Path) -> None:
    path = repository / "pyproject.toml"
    text = path.read_text()
    path.write_text(text.replace("[project.urls]", '[project.urls]\nIssues = "https://x.org"'))
    assert not any("Issues" in point for point in missing_addresses(repository))
    path.write_text(text.replace("[project.urls]", "[tool.other]"))
    assert "pyproject.toml has no Issues in [project.urls]" in missing_addresses(repository)


@pytest.mark.parametrize(
    ("line", "open_points"),
    [
        ("| 2026-12-01 | abcdef0 | 90 passed, 2 skipped | 3000 |", []),
        ("| 2026-11-24 to 2026-11-29 | abcdef0 | passed, in parts | |", []),
        ("| 2026-12-01 | abcdef0 | 1 failed, 89 passed | 3000 |", ["did not pass: 1 failed"]),
        ("| 2026-12-01 | 1234567 | 90 passed | 3000 |", ["ran on 1234567 (2026-12-01), not on"]),
        ("", ["no line"]),
    ],
)
def test_slow_tests_of_another_commit_stop_a_release(
    repository: Path, line: str, open_points: list[str]
) -> None:
    table = "# Releases\n\n| date | commit | result | seconds |\n|---|---|---|---|\n"
    (repository / "docs/releases.md").write_text(table + line + "\n")
    found = slow_tests_open(repository, "abcdef0123456789")
    for said, expected in zip(found, open_points, strict=True):
        assert expected in said


LEDGER = "results/one/ledger/events.jsonl"
DEMO = f"""\
mkdir -p results/one/ledger
echo '{{"seq": 0, "kind": "baseline", "name": "row"}}' > {LEDGER}
sleep 1
echo '{{"seq": 1, "kind": "row"}}' >> {LEDGER}
"""


def test_a_baseline_is_not_taken_for_a_demos_first_row(tmp_path: Path) -> None:
    found = timed_demo(["sh", "-c", DEMO], tmp_path)
    assert 1 <= found.first_row_s <= found.whole_s


@pytest.mark.parametrize("command", [f"{DEMO} false", "true"])
def test_a_demo_that_fails_or_has_no_row_gives_no_times(tmp_path: Path, command: str) -> None:
    with pytest.raises(RuntimeError, match="exit code"):
        timed_demo(["sh", "-c", command], tmp_path)


def test_a_newcomer_has_empty_caches_and_a_clone_of_the_commit(tmp_path: Path) -> None:
    sys.path.append(str(REPOSITORY / "benchmarks"))
    import first_minutes

    environment = first_minutes.newcomers_environment(tmp_path, empty_pip_cache=True)
    assert environment["RAY_UNLEARN_CACHE"] == str(tmp_path / "cache")
    assert environment["PIP_CACHE_DIR"] == str(tmp_path / "pip")
    assert "PYTHONPATH" not in environment
    if (REPOSITORY / ".git").exists():
        head = first_minutes.resolved("HEAD")
        first_minutes.cloned(head, tmp_path / "clone")
        assert (tmp_path / "clone/Makefile").read_text() == (REPOSITORY / "Makefile").read_text()
        assert not (tmp_path / "clone/.venv").exists()
