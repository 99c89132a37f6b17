"""`study.evaluate`: lm-evaluation-harness on the right models, and where its numbers appear."""

import shutil
from pathlib import Path

import pytest
from births import HAS_HARNESS, QUESTIONS, TASK, needs_harness, own_perplexity, task_files
from tiny import study_file

import ray_unlearn as ru
from ray_unlearn.spec.task_results import (
    TASKS_FILE,
    TaskResults,
    TaskScore,
    read_task_results,
    task_results_as_json,
)


@pytest.fixture(scope="module")
def task_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task with its data beside it, in a folder that is not the current one."""
    folder = tmp_path_factory.mktemp("tasks")
    return task_files(folder)


@pytest.fixture(scope="module")
def retrained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model of the same kind."""
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("retrained")
    torch.manual_seed(1)
    LlamaForCausalLM(AutoConfig.from_pretrained(tiny_model)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def study(
    ray_here: None,
    text_files: Path,
    tiny_model: Path,
    retrained: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> ru.Study:
    """A finished study of two trials, with a retrained model."""
    folder = tmp_path_factory.mktemp("evaluate")
    file = study_file(
        folder,
        text_files,
        tiny_model,
        model={"source": str(tiny_model), "exact_retrain": str(retrained)},
        methods=["gradient_ascent"],
        operations={"lanes": 1},
    )
    return ru.run(file, folder / "study", quiet=True)


@needs_harness
def test_each_column_is_the_model_that_its_heading_names(
    study: ru.Study, task_file: Path, tiny_model: Path, retrained: Path, tmp_path: Path
) -> None:
    found = study.evaluate(str(task_file), say=lambda text: None)
    (score,) = found.scores
    assert (score.task, score.metric, score.examples) == ("births", "perplexity", len(QUESTIONS))
    assert score.higher_is_better is False
    best = study.best
    assert (found.trial, found.update, found.method) == (best.number, best.update, best.method)
    exported = study.export(tmp_path / "model", trial="best", say=lambda text: None)
    expected = {
        "this": own_perplexity(exported, tiny_model),
        "vanilla": own_perplexity(tiny_model, tiny_model),
        "exact_retrain": own_perplexity(retrained, tiny_model),
    }
    assert len({round(value, 3) for value in expected.values()}) == 3
    assert score.values == pytest.approx(expected, rel=1e-4)


@needs_harness
def test_the_same_question_again_replaces_its_answer_and_another_is_kept_beside(
    study: ru.Study, task_file: Path
) -> None:
    for limit in (None, None, 2):
        study.evaluate(str(task_file), limit=limit, say=lambda text: None)
    stored = (Path(study.location) / TASKS_FILE).read_bytes()
    assert sorted(one.limit or 0 for one in read_task_results(stored, TASKS_FILE)) == [0, 2]
    assert study.verify().problems == []


@needs_harness
def test_a_task_that_cannot_be_loaded_is_refused_before_the_model_is_made(
    study: ru.Study, task_file: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    (tmp_path / "lost.yaml").write_text(TASK.replace("births.jsonl", "nowhere.jsonl"))
    with pytest.raises(ru.UserError, match=r"lost\.yaml cannot be loaded.*nowhere\.jsonl"):
        study.evaluate(str(tmp_path / "lost.yaml"), say=lines.append)
    with pytest.raises(ru.UserError, match="no such task file"):
        study.evaluate(str(tmp_path / "none.yaml"), say=lines.append)
    with pytest.raises(ru.UserError, match="is named twice"):
        study.evaluate([str(task_file), str(task_file)], say=lines.append)
    with pytest.raises(ru.UserError, match=r"no trial '17'"):
        study.evaluate(str(task_file), trial=17, say=lines.append)
    assert lines == []


@needs_harness
@pytest.mark.slow
def test_a_misspelt_task_gets_the_nearest_name() -> None:
    from ray_unlearn.unlearn.lm_eval_tasks import load_tasks

    with pytest.raises(ru.UserError, match="did you mean 'arc_easy'"):
        load_tasks(["arc_eassy"])


@needs_harness
@pytest.mark.slow
def test_the_file_of_a_group_is_its_tasks_with_data_beside_it(
    task_file: Path, tmp_path: Path
) -> None:
    """lm-eval itself refuses the path of such a file."""
    from ray_unlearn.unlearn.lm_eval_tasks import load_tasks

    shutil.copy(task_file.parent / "births.jsonl", tmp_path)
    inside = TASK.strip().replace("\n", "\n    ")
    (tmp_path / "people.yaml").write_text(f"group: people\ntask:\n  - {inside}\n")
    (group,) = load_tasks([str(tmp_path / "people.yaml")]).loaded
    (task,) = group.get_all_tasks()
    assert [document["answer"] for document in task.test_docs()] == [
        row["answer"] for row in QUESTIONS
    ]


@pytest.mark.skipif(HAS_HARNESS, reason="lm-eval is there")
def test_without_the_harness_the_error_says_what_to_install(finished: str, task_file: Path) -> None:
    with pytest.raises(ru.UserError, match=r"pip install 'ray-unlearn\[lm-eval\]'"):
        ru.open(finished).evaluate(str(task_file))


def planted_results(study: ru.Study) -> TaskResults:
    best = study.best
    score = TaskScore(
        task="births",
        metric="acc",
        higher_is_better=True,
        examples=1234,
        values={"this": 0.25, "vanilla": 0.75, "exact_retrain": None},
        standard_errors={"this": 0.125, "vanilla": None, "exact_retrain": None},
    )
    return TaskResults(
        trial=best.number,
        trial_id=best.trial_id,
        method=best.method,
        update=best.update,
        strength=1.0,
        asked=("births.yaml",),
        limit=7,
        lm_eval="0.4.13",
        scores=(score,),
    )


def test_the_report_shows_what_was_evaluated(finished: str, tmp_path: Path) -> None:
    place = tmp_path / "study"
    shutil.copytree(finished, place)
    planted = planted_results(ru.open(finished))
    (place / TASKS_FILE).write_bytes(task_results_as_json((planted,)))
    ru.report(place, out=tmp_path / "report")
    page = (tmp_path / "report" / "report.md").read_text()
    assert "Tasks of lm-evaluation-harness" in page
    (line,) = [line for line in page.splitlines() if "`births`" in line]
    assert all(cell in line for cell in ("0.25 ± 0.125", "0.75", "none", "1,234"))
    assert "the first 7 examples only" in page
    assert "1 task of lm-evaluation-harness, on 1 chosen model alone" in page


def test_a_damaged_file_of_results_says_what_to_do(finished: str, tmp_path: Path) -> None:
    place = tmp_path / "study"
    shutil.copytree(finished, place)
    (place / TASKS_FILE).write_text('[{"trial": 0}]')
    with pytest.raises(ru.StorageError, match="remove the file and evaluate again"):
        ru.report(place, out=tmp_path / "report")
