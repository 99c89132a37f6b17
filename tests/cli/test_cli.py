"""The command line: wrong input ends in one plain message and exit code 2 before Ray starts;
results go to stdout."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import yaml
from tiny import REPOSITORY, study_file

from ray_unlearn.cli.show import print_findings
from ray_unlearn.spec.method_registry import METHODS
from ray_unlearn.unlearn.finding import Finding


@pytest.fixture(autouse=True)
def ray_is_not_started() -> Iterator[None]:
    """Nothing here may start Ray; another test of this process may have."""
    before = ray.is_initialized()
    yield
    assert ray.is_initialized() == before


def refused(cli, message: str, *arguments: object) -> None:
    code, out, err = cli(*arguments)
    assert code == 2, err
    assert message in err
    assert "Traceback" not in err + out
    assert out == ""


@pytest.fixture
def study(tmp_path: Path, text_files: Path, tiny_model: Path):
    def write(**changes: object) -> Path:
        return study_file(tmp_path, text_files, tiny_model, **changes)

    return write


def data_with(text_files: Path, tmp_path: Path, name: str, content: str) -> dict:
    """The tiny study's data with other text in one split."""
    path = tmp_path / "changed.jsonl"
    path.write_text(content)
    content_of = yaml.safe_load((tmp_path / "study.yaml").read_text())["data"]
    content_of["splits"][name] = {"path": str(path)}
    return content_of


def test_unknown_key(cli, study, tmp_path: Path) -> None:
    refused(cli, "did you mean 'search'", "run", study(serch={}), "--storage", tmp_path / "s")


def test_unknown_method(cli, study, tmp_path: Path) -> None:
    refused(
        cli,
        "did you mean 'gradient_ascent'",
        "run",
        study(methods=["gradient_asent"]),
        "--storage",
        tmp_path / "s",
    )


def test_low_above_high(cli, study, tmp_path: Path) -> None:
    overrides = {"learning_rate": {"type": "float", "low": 1e-4, "high": 1e-5}}
    refused(
        cli,
        "needs low < high",
        "run",
        study(space_overrides=overrides),
        "--storage",
        tmp_path / "s",
    )


def test_missing_study_and_data_file(cli, study, tmp_path: Path, text_files: Path) -> None:
    refused(cli, "no such file", "run", tmp_path / "none.yaml")
    study()
    data = data_with(text_files, tmp_path, "forget", "")
    data["splits"]["forget"]["path"] = str(text_files / "froget.jsonl")
    refused(
        cli, "did you mean 'forget.jsonl'", "run", study(data=data), "--storage", tmp_path / "s"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "no documents"), ('{"text": "a"}\n', "1 token(s)"), ("{", "not valid JSON")],
)
def test_bad_text(cli, study, tmp_path: Path, text_files: Path, content: str, message: str) -> None:
    study()
    data = data_with(text_files, tmp_path, "forget", content)
    refused(cli, message, "run", study(data=data), "--storage", tmp_path / "s")


def test_overlapping_splits(cli, study, tmp_path: Path, text_files: Path) -> None:
    study()
    data = data_with(text_files, tmp_path, "retain", (text_files / "forget.jsonl").read_text())
    refused(
        cli, "splits must not share documents", "run", study(data=data), "--storage", tmp_path / "s"
    )


def test_model_without_weights(cli, study, tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    refused(
        cli,
        "has no weights",
        "run",
        study(model={"source": str(folder)}),
        "--storage",
        tmp_path / "s",
    )


def test_existing_study_directory(cli, study, tmp_path: Path) -> None:
    (tmp_path / "s" / "ledger").mkdir(parents=True)
    (tmp_path / "s" / "ledger" / "events.jsonl").write_text("")
    refused(cli, "ray-unlearn resume", "run", study(), "--storage", tmp_path / "s")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount here: " + mounted.stderr.decode())
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_no_free_disk(cli, study, small_disk: Path) -> None:
    code, _, err = cli("run", study(), "--storage", small_disk / "s")
    assert code in (2, 4)
    assert "free" in err
    assert "Traceback" not in err


def test_no_study_there(cli, tmp_path: Path) -> None:
    for command in ("status", "resume"):
        code, out, err = cli(command, tmp_path)
        assert code in (2, 4)
        assert "no study there" in err or "no ledger there" in err
        assert out == ""


def test_unlearn_refuses_bad_settings(cli, study) -> None:
    path = study()
    refused(
        cli,
        "did you mean 'learning_rate'",
        "unlearn",
        path,
        "--method",
        "gradient_ascent",
        "--set",
        "learning_rte=1",
    )
    refused(
        cli,
        "must be hyperparameter=value",
        "unlearn",
        path,
        "--method",
        "gradient_ascent",
        "--set",
        "x",
    )
    refused(cli, "did you mean 'gradient_ascent'", "unlearn", path, "--method", "gradient_asscent")
    settings = ("unlearn", path, "--method", "gradient_ascent", "--set")
    refused(cli, "the value cannot be read", *settings, "learning_rate=[1")
    refused(cli, "is not empty", *settings, "learning_rate=0.1", "-o", path)
    refused(
        cli, "learning_rate: this key is required", "unlearn", path, "--method", "gradient_ascent"
    )


def test_unlearn_runs_one_trial_and_saves_a_model_that_loads(cli, study, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    arguments = [
        "--method",
        "ascent_kl_in_distribution",
        "--set",
        "learning_rate=1e-3",
        "--set",
        "w_r=2",
        "-o",
        tmp_path / "m",
    ]
    code, out, err = cli("unlearn", study(), *arguments, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["status"] == "complete"
    assert [row["update"] for row in found["rows"]] == [1, 2, 4]
    assert found["trial"]["w_r"] == 2
    AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert AutoTokenizer.from_pretrained(tmp_path / "m")("abc")["input_ids"]
    refused(cli, "exists and is not empty", "unlearn", study(), *arguments)


def test_plan_starts_nothing_and_says_what_does_not_fit(cli, study) -> None:
    code, out, _ = cli("plan", study(), "--json")
    found = json.loads(out)
    assert (code, found["verdict"]["yes"]) == (2, False), "it was never taught its forget set"
    assert "before it unlearns anything" in found["verdict"]["first_change"]
    assert found["trials"] == 4
    selection, reporting = found["halves"]
    assert abs(selection["documents"] - reporting["documents"]) <= 1
    assert abs(selection["nll"] - reporting["nll"]) < 0.095, "one target for both halves"
    code, out, _ = cli("plan", study(), "--lanes", 10_000)
    assert "reporting half: " in out
    assert "10000 lane(s) want" in out
    assert "no: it has no room on this machine\nfirst change (CPUs): 10000 lane(s) want" in out
    assert "│   reporting half" in out, "documents, tokens and targets of each half"
    assert code == 2, "`plan STUDY && run STUDY` is what people write"


def test_shipped_studies_can_be_planned(cli) -> None:
    code, out, err = cli("plan", REPOSITORY / "studies/demo.yaml", "--json")
    assert code == 0, err
    assert json.loads(out)["trials"] >= 7


def test_brackets_in_a_remedy_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """They were taken for markup: `pip install 'ray-unlearn'` does not bring lm-eval."""
    print_findings([Finding("tasks", "refused", "pip install 'ray-unlearn[lm-eval]'")])
    assert "'ray-unlearn[lm-eval]'" in capsys.readouterr().out


def test_tables(cli) -> None:
    code, out, _ = cli("methods", "--json")
    assert (code, [entry["name"] for entry in json.loads(out)]) == (0, list(METHODS))
    code, out, _ = cli("spaces", "--json")
    assert (code, set(json.loads(out))) == (0, set(METHODS))
    code, out, _ = cli("schema", "study")
    assert (code, json.loads(out)["title"]) == (0, "StudySpec")
    code, out, _ = cli("doctor", "--json")
    assert code == 0
    assert all({"check", "ok", "found"} <= set(entry) for entry in json.loads(out))
    refused(cli, "did you mean 'study'", "schema", "studdy")


def test_diff_says_what_became_of_each_claim_and_that_scores_differ(cli, tmp_path: Path) -> None:
    def file(name: str, low: float, tolerance: float) -> Path:
        guideline = {
            "id": "range/m/learning_rate",
            "kind": "range",
            "status": "claimed",
            "grade": "C",
            "param": "learning_rate",
            "scope": {"method": "m"},
            "search_space": {"type": "float", "low": low, "high": 1e-3, "log": True},
            "estimates": {
                "low_edge_90": [low / 1.1, low * 1.1],
                "high_edge_90": [9e-4, 1.1e-3],
            },
            "evidence": {"n_trials": 100, "n_groups": 3, "n_seeds": 3},
        }
        score = {
            "name": "score",
            "direction": "minimize",
            "tolerance": tolerance,
            "tolerance_source": "given",
            "checkpoint_rule": "last",
        }
        path = tmp_path / name
        path.write_text(
            json.dumps(
                {"schema_version": 1, "provenance": {}, "score": score, "guidelines": [guideline]}
            )
        )
        return path

    old, new = file("old.json", 1e-5, 0.1), file("new.json", 1e-4, 0.05)
    code, out, err = cli("diff", old, new, "--json")
    assert code == 0
    assert [(line["id"], line["change"]) for line in json.loads(out)] == [
        ("range/m/learning_rate", "tightened")
    ]
    assert "tolerance differs: 0.1 -> 0.05" in err
    refused(cli, "no such file", "diff", old, tmp_path / "none.json")
    old.write_text("[]")
    refused(cli, "no guidelines in it", "diff", old, new)
