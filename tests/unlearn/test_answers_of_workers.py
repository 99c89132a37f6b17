"""Answers and watched sets of several workers, replicated and sharded, are those of one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from test_watched_sets import watching  # noqa: F401

from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import StudyData, prepare
from ray_unlearn.unlearn.evaluate import evaluate
from ray_unlearn.unlearn.generated import answers
from ray_unlearn.unlearn.questions import questions_of
from ray_unlearn.unlearn.workspace import Workspace

PARALLEL = ("replicate", "shard")


def measured(spec: StudySpec, data: StudyData, comm: Comm, parallel: str) -> list[Any]:
    """The row, the answers to all questions, and whether keys and values were cached."""
    operations = spec.operations.model_copy(update={"parallel": parallel})
    workspace = Workspace.open(spec.model, data, spec.evaluation, operations, comm)
    row, asked = evaluate(workspace), spec.evaluation.generate[0]
    questions = questions_of(data.evaluated("forget"), asked)
    texts = answers(workspace, workspace.policy.scored, questions, asked)
    return [dict(row), texts, workspace.can_cache]


def worker(rank: int, world: int, folder: str, spec: StudySpec, data: StudyData) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    comm = Comm.distributed()
    found = {parallel: measured(spec, data, comm, parallel) for parallel in PARALLEL}
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def test_workers_do_not_change_answers(tmp_path: Path, watching) -> None:  # noqa: F811
    """Five questions in batches of two: the second rank has fewer batches and must not wait."""
    spec = watching(
        data={"splits": watching.splits | {"forget": watching.wrong}},
        sets={"hard": watching.wrong | {"role": "near", "limit": 5}},
        generate={"sets": ["hard", "forget"], "max_new_tokens": 5, "documents": 5},
        model_utility=["hard"],
        batch_size=2,
    )
    data = prepare(spec.data, spec.model, evaluation=spec.evaluation)
    row, texts, _ = measured(spec, data, Comm.single(), "replicate")
    run_ranks(worker, (2, str(tmp_path), spec, data), 2)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    for parallel in PARALLEL:
        first, second = (found[parallel] for found in ranks)
        assert first[0] == second[0] == pytest.approx(row, rel=1e-3, abs=1e-4)
        assert first[1] == texts
        assert second[1] is None
        assert first[2] is second[2] is True
