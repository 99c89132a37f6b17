"""A lane's memory: what `plan` says is what a trial takes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from ray_unlearn.spec.study_spec import ModelSpec, StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.loop import unlearn
from ray_unlearn.unlearn.machine import Machine
from ray_unlearn.unlearn.memory import Memory, memory, remedies
from ray_unlearn.unlearn.plan import plan
from ray_unlearn.unlearn.room import room_findings
from ray_unlearn.unlearn.workspace import Workspace

FEW = 6
"""Documents of each split: what is measured is an update, not an evaluation."""


def measure(rank: int, folder: str, study: str, given: dict[str, dict[str, Any]]) -> None:
    """In a process of its own: how far its peak grows in a trial of a model of 34 M parameters, and
    what the plan estimates."""
    torch.set_num_threads(1)
    base = StudySpec.model_validate_json(study)

    def with_model(**values: object) -> StudySpec:
        model = ModelSpec.model_validate(base.model.model_dump() | given["model"] | values)
        operations = base.operations.model_copy(update=given["operations"])
        return base.model_copy(update={"model": model, "operations": operations})

    spec = with_model()
    data = prepare(spec.data, spec.model, Path(folder))
    trial = TrialConfig(
        learning_rate=1e-4,
        steps=2,
        method="ascent_kl_in_distribution",
        batch_size=16,
        evaluate_at=(2,),
    )

    def opened(spec: StudySpec) -> Workspace:
        return Workspace.open(spec.model, data, spec.evaluation, spec.operations, Comm.single())

    small = opened(spec)
    list(unlearn(small, trial))  # libraries and their buffers are loaded now
    large = LlamaConfig(
        vocab_size=8192, hidden_size=512, intermediate_size=1408, num_hidden_layers=8,
        num_attention_heads=8, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(large).save_pretrained(f"{folder}/large")
    small.restart_peak_memory()
    before = small.peak_memory_gib()
    del small
    spec = with_model(source=f"{folder}/large")
    row = next(iter(unlearn(opened(spec), trial)))
    assert isinstance(row, dict)
    estimate = memory(spec, AutoConfig.from_pretrained(f"{folder}/large"), 16).total
    found = {"grown": row["peak_memory_gib"] - before, "estimate": estimate}
    Path(folder, "found.json").write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("model", "operations"),
    [
        ({}, {}),
        pytest.param(
            {"dtype": "bfloat16"}, {"activation_checkpointing": True}, marks=pytest.mark.slow
        ),
        ({"lora": {"rank": 16}}, {}),
    ],
    ids=["float32", "bfloat16, checkpointed", "lora"],
)
def test_the_plan_estimates_the_measured_peak(
    tiny_study: StudySpec, tmp_path: Path, model: dict, operations: dict
) -> None:
    """Within a third, either way. A lane that held a third copy of its weights would show."""
    splits = {
        name: source.model_copy(update={"limit": FEW})
        for name, source in tiny_study.data.splits.items()
    }
    data = tiny_study.data.model_copy(update={"splits": splits})
    study = tiny_study.model_copy(update={"data": data}).model_dump_json()
    run_ranks(measure, (str(tmp_path), study, {"model": model, "operations": operations}))
    found = json.loads((tmp_path / "found.json").read_text())
    assert 0.75 < found["estimate"] / found["grown"] < 1.33, found


class TestPlan:
    def problems(
        self, spec: StudySpec, memory_gib: float = 1e6, gpu_gib: float | None = None
    ) -> list[str]:
        machine = Machine(1e6, memory_gib, 1e6, gpu_gib=gpu_gib)
        found = room_findings(plan(spec), machine, spec)
        return [str(finding) for finding in found if finding.state == "no room"]

    def test_out_of_memory_is_found_before_anything_starts(self, tiny_study: StudySpec) -> None:
        assert self.problems(tiny_study) == []
        (problem,) = self.problems(tiny_study, memory_gib=0.1)
        assert "use fewer lanes, or `" in problem
        assert "GiB per worker instead of" in problem

    def test_gpu_memory_is_another_limit_than_the_hosts(self, tiny_study: StudySpec) -> None:
        operations = tiny_study.operations.model_copy(update={"gpus_per_worker": 0.5})
        spec = tiny_study.model_copy(update={"operations": operations})
        assert self.problems(spec, gpu_gib=80.0) == []
        (problem,) = self.problems(spec, gpu_gib=1.4)  # of a half, CUDA itself takes 0.6
        assert "GPU memory" in problem
        assert "its share is 0.1" in problem

    def test_the_advice_is_the_mildest_that_fits(self, tiny_study: StudySpec) -> None:
        config = LlamaConfig(
            vocab_size=8192, hidden_size=512, intermediate_size=1408, num_hidden_layers=8
        )
        before = memory(tiny_study, config, 64)
        named = dict(remedies(tiny_study, config, 64))
        assert next(iter(named)) == "operations.micro_batch_size: 1"
        assert all(found.total < before.total for found in named.values())
        assert named["operations.activation_checkpointing: true"].activations < before.activations
        one = dict(remedies(tiny_study, config, 1))
        assert "operations.micro_batch_size: 1" not in one
        assert (
            one["model.lora: {rank: 16} (another way to unlearn)"].optimizer < before.optimizer / 10
        )

    def test_sharding_divides_what_is_divided(
        self, tiny_model: Path, tiny_study: StudySpec
    ) -> None:
        config = AutoConfig.from_pretrained(tiny_model)

        def of(**values: object) -> Memory:
            operations = tiny_study.operations.model_copy(update={"workers_per_lane": 4} | values)
            return memory(tiny_study.model_copy(update={"operations": operations}), config, 4)

        whole, part = of(workers_per_lane=1), of(parallel="shard")
        for name in ("weights", "gradients", "optimizer"):
            assert getattr(part, name) == pytest.approx(getattr(whole, name) / 4)
        assert part.activations == whole.activations


def test_soft_capped_logits_take_more_of_the_head(tiny_study: StudySpec) -> None:
    """Half a GiB on a GPU: capped logits of a chunk, and their slope."""
    shape = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 1, "head_dim": 16}
    capped, plain = (
        memory(tiny_study, AutoConfig.for_model("gemma2", **shape, final_logit_softcapping=cap), 4)
        for cap in (30.0, None)
    )
    assert capped.head > plain.head
    assert capped.total - plain.total == pytest.approx(capped.head - plain.head)


def test_replicated_workers_hold_a_message_and_no_second_copy_of_gradients(
    tiny_study: StudySpec,
) -> None:
    """12.5 GiB at 7 B were not planned."""
    config = LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32
    )

    def gradients(workers: int) -> float:
        operations = tiny_study.operations.model_copy(update={"workers_per_lane": workers})
        model = tiny_study.model.model_copy(update={"dtype": "bfloat16"})
        update = {"operations": operations, "model": model}
        return memory(tiny_study.model_copy(update=update), config, 4).gradients

    assert gradients(2) - gradients(1) == pytest.approx(2 * 4 * 32000 * 4096 / 2**30)
