"""Examples, notebook and pages run as they are printed: a reader copies them."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from printed import blocks, run_blocks, run_example
from tiny import REPOSITORY

import ray_unlearn as ru
from ray_unlearn.spec.guideline_file import load_guidelines
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.store.attack_file import read_attacks


@pytest.fixture
def desk(my_study: Path, finished: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `my_study.yaml` and a copy of the finished study."""
    shutil.copy(my_study, tmp_path / "my_study.yaml")
    shutil.copytree(finished, tmp_path / "results" / "my-study")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_first_example_names_the_best_configuration(
    finished: str, my_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example("run_a_study.py", my_study, finished)  # is there: nothing is run again
    best = ru.open(finished).best
    said = capsys.readouterr().out
    assert f"best: {best.method}, trial {best.number} ({best.trial_id})" in said
    assert f"to be quoted: {best.score_reporting:.4f}" in said


def test_report_example_writes_the_page(
    finished: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example("read_and_report.py", finished, tmp_path / "report")
    said = capsys.readouterr().out
    assert "tiny: 4 of 4 trials" in said
    assert said.splitlines()[-1] == str(tmp_path / "report" / "report.html")
    guide = ru.guidelines(finished)
    assert (
        guide.save(tmp_path / "g.json").read_bytes()
        == (tmp_path / "report" / "guidelines.json").read_bytes()
    ), "guidelines without a report are those of the report"


def test_go_on_example_extends_confirms_and_exports(extended: Path) -> None:
    study = ru.open(extended / "results" / "my-study")
    assert list(study.trials["status"]) == ["complete"] * 6
    assert (extended / "exported" / "config.json").is_file()
    assert len(pd.read_parquet(extended / "rows.parquet")) == len(study.rows) == 18
    confirmed = ru.open(extended / "results" / "my-study" / "confirm")
    assert len(confirmed.trials) == 2
    assert study.verify().problems == []


def valley(trials: int = 150) -> pd.DataFrame:
    """Trials drawn at random in three domains; the loss is lowest at a learning rate of 1e-3."""
    draw = np.random.default_rng(0)
    lr = 10 ** draw.uniform(-4, -2, trials)
    return pd.DataFrame(
        {
            "trial": range(trials),
            "method": "gradient_ascent",
            "domain": np.resize(["books", "code", "papers"], trials),
            "seed": np.arange(trials) // 3 % 3,
            "lr": lr,
            "loss": 0.2 + np.log10(lr / 1e-3) ** 2 + draw.normal(0, 0.03, trials),
        }
    )


def test_foreign_table_example_narrows_the_next_study(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    valley().to_csv("trials.csv", index=False)
    run_example("guidelines_from_a_table.py", "trials.csv", "my_study.yaml", "next.yaml")
    assert "claimed, grade" in capsys.readouterr().out
    [claim] = [g for g in load_guidelines(desk / "guidelines.json").claimed if g.kind == "range"]
    narrowed = load_study(desk / "next.yaml").spaces["gradient_ascent"].parameters["learning_rate"]
    assert claim.param == "learning_rate"
    assert 1e-4 < narrowed.low < 1e-3 < narrowed.high < 1e-2  # type: ignore[union-attr]
    again = ru.narrow("my_study.yaml", desk / "guidelines.json", say=print)
    assert again == load_study(desk / "next.yaml")


def test_guidelines_of_tables_alone_ask_for_the_study_to_narrow(tmp_path: Path) -> None:
    valley(30).to_csv(tmp_path / "t.csv", index=False)
    guide = ru.guidelines(
        tmp_path / "t.csv", mapping={"lr": "learning_rate"}, score="loss", sampler="random"
    )
    assert len(guide.to_frame()) == len(guide.file.guidelines) > 0
    parts = (guide.claimed, guide.likely, guide.leave_alone, guide.withheld)
    assert len(guide.to_frame()) == sum(map(len, parts))
    with pytest.raises(ru.UserError, match="give the study to narrow"):
        guide.narrow(tmp_path / "next.yaml")


def test_the_reference_page_runs_as_it_is_printed(
    extended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example before it has confirmed the same configuration, so nothing is run again."""
    shutil.copytree(extended / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    names = run_blocks(["import ray_unlearn as ru"])
    for section in ("Read it", "Go on", "Guidelines", "Errors"):
        run_blocks(blocks("docs/api.md", section), names)
    one = names["confirmed"].configurations[0]
    assert one.interval.n == 2
    assert list(one.attacks) == ["quantise: 8 bits, groups of 64", "quantise: 4 bits, groups of 64"]
    repeats = [model for model in read_attacks(tmp_path / "results/my-study") if model.confirms]
    assert {(model.confirmation, model.confirms) for model in repeats} == {
        ("confirm", one.trial_id)
    }
    assert sorted(model.seed for model in repeats) == sorted(one.scores)
    page = (tmp_path / "report" / "report.md").read_text()
    assert f"configuration of trial {one.trial_id}, 2 new seeds (`confirm`)" in page
    assert (tmp_path / "model" / "config.json").is_file()
    assert (tmp_path / "report" / "report.html").is_file()


def test_the_quick_start_runs_as_it_is_printed(desk: Path) -> None:
    [block] = blocks("docs/quick_start.md", "From Python")
    lines = [line for line in block.splitlines() if not line.startswith("study = ru.run(")]
    assert len(lines) == len(block.splitlines()) - 1
    run_blocks(["\n".join(lines)])


def notebook_cells(name: str) -> list[str]:
    """Code of a notebook of examples/, which keeps no output."""
    cells = json.loads((REPOSITORY / "examples" / name).read_text())["cells"]
    assert all(not cell.get("outputs") for cell in cells), "no output is kept in the repository"
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_runs_where_an_event_loop_is_running(desk: Path) -> None:
    """As in a kernel: cells are called from within the loop."""
    pieces = notebook_cells("study.ipynb")

    async def kernel() -> dict[str, Any]:
        return run_blocks(pieces)

    names = asyncio.run(kernel())
    assert names["best"] == ru.open(desk / "results" / "my-study").best


def test_the_notebook_of_results_finds_what_its_table_hides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(REPOSITORY / "examples")
    names = run_blocks(notebook_cells("results.ipynb"))
    assert len(names["guide"].recommendations) == names["near"]["method"].nunique() == 7
    [claim] = [claim for claim in names["own"].claimed if claim.kind == "range"]
    assert 5e-4 < claim.search_space.low < 1e-3 < claim.search_space.high < 2e-3


@pytest.mark.parametrize(
    "name",
    sorted(path.name for path in (REPOSITORY / "examples").iterdir() if path.is_file()),
)
def test_every_example_is_run_by_a_test(name: str) -> None:
    """By its name in a test file; a reader copies what is there."""
    tests = (REPOSITORY / "tests").rglob("*.py")
    assert any(f'"{name}"' in path.read_text() for path in tests)
