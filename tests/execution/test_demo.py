"""`ray-unlearn demo`, as somebody meets it who has just installed the package."""

import shlex
import sys
from pathlib import Path

import pytest
import typer
import yaml

from ray_unlearn.api import open as open_study
from ray_unlearn.cli import demo_command
from ray_unlearn.cli.main import app, main
from ray_unlearn.spec.space_file import packaged_folder


@pytest.fixture
def shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's study with two methods, one trial each, two updates each, in no checkout."""
    content = yaml.safe_load((packaged_folder("studies") / "demo.yaml").read_text())
    content["methods"] = ["gradient_ascent", "ascent_kl_general"]
    content["space_overrides"]["steps"] |= {"high": 2}
    content["search"] |= {"trials_per_method": 1, "scheduler": {"type": "none"}}
    content["evaluation"] = {"at": [2]}
    folder = tmp_path / "studies"
    folder.mkdir()
    (folder / "demo.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(demo_command, "packaged_folder", lambda name: tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_UNLEARN_CACHE", str(tmp_path / "cache"))


def test_the_demo_ends_with_what_was_forgotten_what_to_run_and_what_to_do_next(
    shorter: None,
    ray_here: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In an empty folder, with an empty cache, and nothing is trained before the first trial."""
    monkeypatch.setattr(sys, "argv", ["ray-unlearn", "demo", "--quiet"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    (place,) = (tmp_path / "results").iterdir()
    study, lines = open_study(place), capsys.readouterr().out.splitlines()
    assert not (tmp_path / "cache" / "demo_world").exists()
    assert sorted(study.baselines["baseline"]) == ["exact_retrain", "vanilla"]
    assert len(study.trials) == 2

    compared = {line.split("│")[1].strip(): line for line in lines if line.startswith("│")}
    for name, ppl in zip(study.baselines["baseline"], study.baselines["forget_ppl"], strict=True):
        label = {"vanilla": "before (vanilla)"}.get(name, "retrained without the forget set")
        assert f"{ppl:.4g}" in compared[label]
    best = study.best
    assert (
        f"{best.metrics['forget_ppl']:.4g}" in compared[f"after {best.method}, trial {best.number}"]
    )
    assert any(line.startswith("Run ") and " with learning rate " in line for line in lines)

    steps = lines[lines.index("Next:") + 1 :]
    assert Path(steps[0].split()[-1]).is_file()
    for step in steps[1:]:
        understood(step[step.index("ray-unlearn") :])


def understood(command: str) -> None:
    """Fail where the command line would refuse a command that it has proposed itself."""
    _, name, *arguments = shlex.split(command)
    typer.main.get_command(app).commands[name].make_context(name, arguments)  # type: ignore[attr-defined]
