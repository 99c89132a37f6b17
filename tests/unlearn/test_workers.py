"""One worker, two or four (gloo): the same trajectory, because a trial is defined by global
quantities."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from questions import question_files
from ranks import run_ranks
from tiny import study_file

from ray_unlearn.spec.method_registry import method_named
from ray_unlearn.spec.model_spec import LoraSpec
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.schema import COLUMNS
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.loop import Ended, unlearn
from ray_unlearn.unlearn.methods import other_answers
from ray_unlearn.unlearn.workspace import Workspace

METHODS = [
    "gradient_ascent",
    "random_labels",
    "ascent_descent_general",
    "ascent_kl_in_distribution",
    "npo_kl_in_distribution",
    "simnpo_descent_in_distribution",
    "satimp_descent_in_distribution",
    "rmu",
]
ANSWERED = ["dpo", "idk_descent_in_distribution", "llmu"]
"""Short answers have near neighbours, whose ranks may change: their losses are compared."""
Studies = list[tuple[StudySpec, list[str]]]
"""Studies, and the methods that each can run."""


def trajectories(studies: Studies, comm: Comm, cache: Path) -> dict[str, list[dict]]:
    found = {}
    for spec, methods in studies:
        found |= trajectories_of(spec, methods, comm, cache)
    return found


def trajectories_of(
    spec: StudySpec, methods: list[str], comm: Comm, cache: Path
) -> dict[str, list[dict]]:
    data = prepare(spec.data, spec.model, cache, answers=other_answers(methods))
    workspace = Workspace.open(spec.model, data, spec.evaluation, spec.operations, comm)
    found = {}
    for method in methods:
        config = TrialConfig(
            learning_rate=1e-3,
            steps=4,
            method=method,
            batch_size=5,
            evaluate_at=(1, 4),
            seed=3,
            **({"retain_ratio": 0.8} if method_named(method).mixed else {}),
        )
        found[method] = [row for row in unlearn(workspace, config) if not isinstance(row, Ended)]
    return found


def worker(rank: int, world: int, folder: str, studies: Studies) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    found = trajectories(studies, Comm.distributed(), Path(folder))
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_workers_do_not_change_the_trajectory(
    tiny_study: StudySpec, tmp_path: Path, text_files: Path, tiny_model: Path, world: int
) -> None:
    """Batches of 5 and 4 do not divide evenly: means of means would show."""
    adapted = tiny_study.model.model_copy(update={"lora": LoraSpec(rank=4)})
    content = {"domain": "people", "sequence_length": 64, "splits": question_files(tmp_path)}
    studies = [
        (tiny_study, METHODS),
        (tiny_study.model_copy(update={"model": adapted}), ["residual_alignment"]),
        (
            load_study(study_file(tmp_path, text_files, tiny_model, data=content)),
            ANSWERED,
        ),
    ]
    expected = trajectories(studies, Comm.single(), tmp_path)
    run_ranks(worker, (world, str(tmp_path), studies), world)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(world)]
    for method in expected:
        for number, row in enumerate(expected[method]):
            for name, value in row.items():
                repeats = name not in COLUMNS or COLUMNS[name].repeatable
                if repeats and not (method in ANSWERED and "_auc" in name):
                    assert ranks[0][method][number][name] == pytest.approx(
                        value, rel=1e-3, abs=1e-4
                    ), (method, name)
                    assert all(
                        r[method][number][name] == ranks[0][method][number][name] for r in ranks
                    )
