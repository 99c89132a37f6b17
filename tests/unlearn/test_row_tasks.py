"""Tasks of lm-evaluation-harness as columns of rows."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from births import HAS_HARNESS, answer_logprobs, needs_harness, task_files
from ranks import run_ranks
from test_loop import config, run, weights
from test_watched_sets import opened, repeatable_rows, watching  # noqa: F401

from ray_unlearn.execution.exports.run_facts import tag
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.objective import Objective
from ray_unlearn.store.study_columns import extra_columns, is_column, set_of
from ray_unlearn.unlearn.admission import admission
from ray_unlearn.unlearn.baselines import measure_baselines
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import StudyData, prepare
from ray_unlearn.unlearn.evaluate import evaluate
from ray_unlearn.unlearn.lm_eval_answers import _answered_together
from ray_unlearn.unlearn.plan import plan
from ray_unlearn.unlearn.workspace import Workspace, context_digest

BIRTHS, TOWNS, TOLD = "task.births.perplexity", "task.towns.acc", "task.told.exact_match"


@pytest.fixture
def asking(watching, tmp_path: Path):  # noqa: F811
    """A function that loads the tiny study with the three tasks; arguments go to the first."""
    task_files(tmp_path)

    def load(**changes: Any) -> StudySpec:
        births = {"task": "births.yaml", "metrics": ["perplexity"]} | changes
        towns = {"task": "towns.yaml", "metrics": {"acc": "none"}}
        told = {"task": "told.yaml", "metrics": "exact_match"}
        return watching(tasks=[births, towns, told])

    return load


def refused(spec: StudySpec) -> str:
    return "\n".join(map(str, admission(spec, measures=False).states("refused")))


def test_columns_have_the_side_that_the_study_says_and_no_other_name_can_be_theirs(asking) -> None:
    columns = extra_columns(asking())
    sides = {name: column.direction for name, column in columns.items() if "task" in name}
    assert sides == {BIRTHS: "minimize", TOWNS: "none", TOLD: "maximize"}
    for name in sides:
        assert is_column(name)
        assert set_of(name) is None  # ..._exact_match is a metric of sets
    assert tag(TOWNS) == "task/towns/acc"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": ["charm"]}, "{charm: maximise}"),
        ({"metrics": []}, "must not be empty"),
        ({"metrics": {"acc": "higher"}}, "'maximise', 'minimise' or 'none'"),
        ({"task": "towns.yaml", "metrics": ["acc"]}, "'task.towns.acc'; name each task"),
        ({"task": "in town.yaml"}, "rename the file"),
        ({"metrics": {"acc, none": "none"}}, "'acc, none' is no metric"),
        ({"shots": 5}, "unknown key"),
    ],
)
def test_what_cannot_be_a_column_is_refused_when_the_file_is_read(asking, changes, said) -> None:
    with pytest.raises(UserError, match="evaluation") as caught:
        asking(**changes)
    assert said in str(caught.value)


def test_a_study_without_tasks_is_what_it_was(watching, asking) -> None:  # noqa: F811
    assert "tasks" not in watching().decisive()["evaluation"]
    (births, *_) = asking().decisive()["evaluation"]["tasks"]
    assert births["task"] == "births.yaml"  # the folder may change


def test_another_file_or_other_data_is_another_context(asking, tmp_path: Path) -> None:
    """Or a trial would go on with other questions than it began with."""
    spec = asking()
    data = prepare(spec.data, spec.model, evaluation=spec.evaluation)
    before = context_digest(spec, data)
    assert context_digest(spec, data) == before
    with (tmp_path / "births.jsonl").open("a") as file:
        file.write(json.dumps({"question": "Where was Eva born?", "answer": " in Oslo"}) + "\n")
    assert context_digest(spec, data) != before


def test_a_task_is_an_objective_or_a_bound_unless_only_last_rows_have_it(asking) -> None:
    spec = asking()
    wanted = {"minimise": BIRTHS, "subject_to": {TOLD: 0.5}}
    content = spec.model_dump(mode="json") | {"objective": wanted}
    objective = Objective.of(StudySpec.model_validate(content))
    assert objective.score({BIRTHS: 7.0, TOLD: 0.4}, "selection") == 7.0
    assert objective.broken({BIRTHS: 7.0, TOLD: 0.4}) == [f"{TOLD} 0.4 is below 0.5 by 0.1"]
    late = asking(at="last").model_dump(mode="json") | {"objective": wanted}
    with pytest.raises(UserError, match=r"`task.births.perplexity` is measured at the last row"):
        Objective.of(StudySpec.model_validate(late))


@pytest.mark.skipif(HAS_HARNESS, reason="lm-eval is there")
def test_without_the_harness_a_plan_says_what_to_install(asking) -> None:
    spec = asking()
    assert "evaluation.tasks: needs lm-evaluation-harness: pip install" in refused(spec)
    content = spec.model_dump(mode="json")
    content["evaluation"]["tasks"] = []
    assert refused(StudySpec.model_validate(content)) == ""


@needs_harness
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "none.yaml"}, "no such task file"),
        ({"metrics": ["acc"]}, "births: has no metric 'acc'; known: perplexity"),
        ({"metrics": {"perplexity,strict": "minimise"}}, "did you mean 'perplexity'"),
        ({"task": "lost.yaml"}, "cannot be loaded"),
    ],
)
def test_a_plan_refuses_tasks_that_rows_could_not_be_measured_on(
    asking, changes, said, tmp_path: Path
) -> None:
    text = (tmp_path / "births.yaml").read_text()
    (tmp_path / "lost.yaml").write_text(text.replace("births.jsonl", "nowhere.jsonl"))
    assert said in refused(asking(**changes))


@needs_harness
def test_a_plan_says_what_tasks_cost_and_where_they_see_another_side(asking) -> None:
    spec = asking(metrics={"perplexity": "maximise"}, limit=2)
    found = [finding for finding in admission(spec, measures=False).findings]
    said = [str(finding) for finding in found if finding.what == "tasks"]
    rows = plan(spec).evaluations
    assert any(f"births: 2 examples at every row, up to {rows}," in text for text in said)
    assert any("told: 4 examples" in text and "token by token" in text for text in said)
    assert any("births: perplexity is to maximise here" in text for text in said)


@needs_harness
def test_a_column_is_what_the_model_of_its_row_answers(asking, tiny_model: Path) -> None:
    """Against a plain forward pass, of the vanilla model and of a trained one."""
    workspace = opened(asking())
    vanilla = measure_baselines(workspace, asking().model)["vanilla"]
    trial = config("gradient_ascent", learning_rate=1e-3)
    rows = list(repeatable_rows(workspace, trial))
    own = answer_logprobs(workspace.policy.model, tiny_model)
    assert rows[-1][BIRTHS] == pytest.approx(math.exp(-sum(own) / len(own)), rel=1e-4)
    assert rows[-1][BIRTHS] != pytest.approx(vanilla[BIRTHS], rel=1e-2)
    assert 0 <= rows[-1][TOWNS] <= 1
    assert vanilla[TOLD] == 0.0
    assert set(extra_columns(asking())) <= set(vanilla)


@needs_harness
def test_tasks_change_neither_the_trajectory_nor_the_model(watching, asking) -> None:  # noqa: F811
    """Nor the process: they seed whatever draws, and change how a model attends."""
    trial = config("ascent_kl_in_distribution", retain_ratio=1.0)
    found = []
    for spec in (watching(), asking()):
        workspace = opened(spec)
        model = workspace.policy.model
        before = (model.training, model.dtype, model.config._attn_implementation)
        settings, keys = model.generation_config, set(vars(model))
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002
        rows, ended = run(workspace, trial)
        drawn = (random.random(), np.random.random(), float(torch.rand(1)))  # noqa: NPY002
        assert (model.training, model.dtype, model.config._attn_implementation) == before
        assert model.generation_config is settings
        assert set(vars(model)) == keys
        found.append((rows, ended, weights(workspace), drawn))
    (bare, _, without, chance), (more, _, asked, same) = found
    assert all(torch.equal(a, b) for a, b in zip(without, asked, strict=True))
    assert [{n: row[n] for n in bare[0]} for row in more] == bare
    assert same == chance


@needs_harness
def test_tasks_at_the_last_row_cost_no_other_row(asking) -> None:
    rows = list(repeatable_rows(opened(asking(at="last")), config("gradient_ascent")))
    assert [BIRTHS in row for row in rows] == [False, True]
    assert all(TOWNS in row for row in rows)


@needs_harness
def test_a_model_that_knows_nothing_any_more_has_diverged_and_stops_no_study(asking) -> None:
    """lm-eval raises an OverflowError for its perplexity."""
    _, ended = run(opened(asking()), config("gradient_ascent", learning_rate=30.0))
    assert ended.status == "diverged"


def measured(spec: StudySpec, data: StudyData, comm: Comm, parallel: str) -> dict[str, float]:
    operations = spec.operations.model_copy(update={"parallel": parallel})
    row = evaluate(Workspace.open(spec.model, data, spec.evaluation, operations, comm))
    return {name: row[name] for name in (BIRTHS, TOWNS, TOLD)}


def worker(rank: int, folder: str, spec: StudySpec, data: StudyData) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=3
    )
    comm = Comm.distributed()
    found = {parallel: measured(spec, data, comm, parallel) for parallel in ("replicate", "shard")}
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def half_broken(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )

    def answer(requests: list[int]) -> list[int]:
        if 3 in requests:
            raise ValueError("3 does not suit this model")
        return [10 * request for request in requests]

    comm = Comm.distributed()
    found = _answered_together(comm, answer, [0, 1, 2])
    with pytest.raises(ValueError, match="3 does not suit") as caught:
        _answered_together(comm, answer, [0, 1, 2, 3])
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps([found, str(caught.value)]))
    dist.destroy_process_group()


def test_a_worker_that_cannot_answer_keeps_no_other_waiting(tmp_path: Path) -> None:
    run_ranks(half_broken, (str(tmp_path),), 2)
    for rank in range(2):
        found, said = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert found == [0, 10, 20]
        assert said == "3 does not suit this model"


@needs_harness
def test_workers_share_the_questions_and_agree(asking, tmp_path: Path) -> None:
    """Two examples for three workers: one has none, and must not wait or be waited for."""
    spec = asking(limit=2)
    data = prepare(spec.data, spec.model, evaluation=spec.evaluation)
    alone = measured(spec, data, Comm.single(), "replicate")
    run_ranks(worker, (str(tmp_path), spec, data), 3)
    for rank in range(3):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        for row in found.values():
            assert row == pytest.approx(alone, rel=1e-4)
